use proptest::prelude::*;

use super::*;
use crate::text::Dataset;
use crate::text::tokenizer::tests::tokenizer;

struct Made {
    _folder: tempfile::TempDir,
    prepared: Prepared,
    train: Dataset,
    validation: Option<Dataset>,
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

fn make(files: &[(&str, &str)], options: &PrepareOptions) -> Result<Made> {
    let folder = tempfile::tempdir().unwrap();
    let songs = folder.path().join("songs");
    std::fs::create_dir(&songs).unwrap();
    write(&songs, files);
    let caches = ["train.safetensors", "validation.safetensors"].map(|name| folder.path().join(name));
    let split = (options.validation_split > 0.0).then_some(caches[1].as_path());
    let tokenizer = tokenizer();
    let prepared = prepare(&tokenizer, &[songs], &caches[0], split, options, |_| ControlFlow::Continue(()))?;
    let train = Dataset::open(&caches[0], &tokenizer)?;
    let validation = split.map(|path| Dataset::open(path, &tokenizer)).transpose()?;
    Ok(Made { _folder: folder, prepared, train, validation })
}

fn examples(data: &Dataset) -> Vec<Vec<u32>> {
    (0..data.len()).map(|i| data.get(i).to_vec()).collect()
}

const SONG: &str = "the rain\nin the river\n\nthe town\n\n\nrain again\n";

#[test]
fn units_are_lines_sections_and_windows() {
    let tokenizer = tokenizer();
    let body = |line: &str| tokenizer.encode_body(line).unwrap();
    let [cls, sep] = ["[CLS]", "[SEP]"].map(|token| tokenizer.token_to_id(token).unwrap());
    let joined = |lines: &[&str]| {
        let lines: Vec<Vec<u32>> = lines.iter().map(|line| [body(line), vec![sep]].concat()).collect();
        [vec![cls], lines.concat()].concat()
    };
    let unit = |unit, max_seq_length| {
        make(&[("a.txt", SONG), ("b.txt", "the")], &PrepareOptions { unit, ..PrepareOptions::new(max_seq_length) })
            .unwrap()
    };
    let lines = unit(Unit::Line, 64);
    let expected: Vec<_> =
        ["the rain", "in the river", "the town", "rain again", "the"].map(|line| joined(&[line])).into();
    assert_eq!(examples(&lines.train), expected);
    assert_eq!(lines.train.section_boundaries().unwrap(), [0, 2, 3, 4, 5]);
    assert_eq!(lines.train.song_boundaries().unwrap(), [0, 3, 4, 5]);
    assert_eq!(
        lines.prepared.train,
        Counts { songs: 3, sections: 4, examples: 5, tokens: lines.train.tokens() as u64, truncated: 0 }
    );
    assert_eq!(lines.train.metadata()["unit"], "line");
    assert_eq!(
        expected,
        examples(
            &Dataset::from_lines(&tokenizer, &["the rain", "in the river", "the town", "rain again", "the"], 64)
                .unwrap()
        )
    );

    let sections = unit(Unit::Section, 64);
    let expected: Vec<_> =
        [&["the rain", "in the river"][..], &["the town"], &["rain again"], &["the"]].map(joined).into();
    assert_eq!(examples(&sections.train), expected);
    // A section that is too long goes on with a line in a further example.
    let longest = joined(&["in the river"]).len();
    let short = unit(Unit::Section, longest);
    assert_eq!(examples(&short.train)[..2], [joined(&["the rain"]), joined(&["in the river"])]);
    assert_eq!(short.train.section_boundaries().unwrap(), [0, 2, 3, 4, 5]);
    // A line that is too long alone is cut.
    let cut = unit(Unit::Section, 4);
    assert!(cut.prepared.train.truncated > 0 && cut.train.longest() == 4);

    let windows = unit(Unit::Window, 8);
    let all = joined(&["the rain", "in the river", "the town", "rain again", "the"]);
    let got = examples(&windows.train);
    assert!(got[..got.len() - 1].iter().all(|window| window.len() == 8 && window[0] == cls && window[7] == sep));
    let mut together: Vec<u32> = got.iter().flat_map(|window| window[1..window.len() - 1].to_vec()).collect();
    together.retain(|&id| id != sep);
    let mut expected = all[1..].to_vec();
    expected.retain(|&id| id != sep);
    assert_eq!(together, expected, "no word is lost at a window's edge");
}

#[test]
fn what_begins_where_a_window_is_full_is_in_the_next() {
    // Room for three tokens: the first song fills the window, or leaves a place that only a separator would take.
    for first in ["the the the", "the the"] {
        let text = format!("{first}\n\n\nthe");
        let made = make(&[("a.txt", &text)], &PrepareOptions { unit: Unit::Window, ..PrepareOptions::new(5) }).unwrap();
        assert_eq!(made.train.song_boundaries().unwrap(), [0, 1, 2], "{first}");
        assert_eq!(made.train.section_boundaries().unwrap(), [0, 1, 2], "{first}");
    }
}

#[test]
fn duplicates_are_counted_and_left_out_on_request() {
    let files = [("a.txt", "the rain\nthe rain\n\nthe town"), ("b.txt", "the town")];
    let dedup = |unit, dedup| make(&files, &PrepareOptions { unit, dedup, ..PrepareOptions::new(64) }).unwrap();
    assert_eq!(dedup(Unit::Line, false).train.len(), 4);
    let lines = dedup(Unit::Line, true);
    assert_eq!((lines.train.len(), lines.prepared.duplicates), (2, 2));
    let sections = dedup(Unit::Section, true);
    assert_eq!((sections.train.len(), sections.prepared.duplicates), (2, 1));
}

/// A line that there is once.
fn different(i: usize) -> String {
    (0..5).map(|digit| ["the ", "in ", "town ", "river "][i >> (2 * digit) & 3]).collect()
}

#[test]
fn a_song_that_comes_twice_is_not_held_out_of_what_is_trained_on() {
    // The second file has the songs of the first, with other blanks, and headings; some are longer than what they are known by.
    let verses = |end: &str| -> String {
        (0..60)
            .map(|i| {
                let more = if i % 3 == 0 { 80 } else { 1 };
                let lines = (0..more)
                    .map(|line| format!("{}{end}", different(if line == 0 { i } else { 60 + line })))
                    .collect::<String>();
                format!("{lines}the rain\n\n\n")
            })
            .collect()
    };
    let options = PrepareOptions { validation_split: 0.3, ..PrepareOptions::new(64) };
    let made = make(&[("a.txt", &verses("\n")), ("b.txt", &verses(" \n[Chorus]\n"))], &options).unwrap();
    let [train, held_out] = [made.prepared.train.songs, made.prepared.validation.songs];
    assert_eq!(train + held_out, 120);
    assert!(held_out.abs_diff(36) <= 2 && held_out % 2 == 0, "{held_out}");
    let own = |data: &Dataset| -> std::collections::HashSet<Vec<u32>> {
        let songs = data.song_boundaries().unwrap();
        (0..songs.len() - 1).map(|song| data.get(songs[song] as usize).to_vec()).collect()
    };
    let [train, held_out] = [&made.train, made.validation.as_ref().unwrap()].map(own);
    assert!(train.is_disjoint(&held_out));
    assert_eq!(train.len() + held_out.len(), 60);
    let error = make(&[("a.txt", "the rain\n\n\nthe rain\n\n\n the Rain")], &options).err().unwrap().to_string();
    assert!(error.contains("of 1 different songs none"), "{error}");
}

#[test]
fn songs_are_held_out_whole_in_the_share_asked_for() {
    let text: String = (0..400).map(|i| format!("{0}\n{0} rain\n\n\n", different(i))).collect();
    for (share, expected) in [(0.05, 20), (0.25, 100), (0.5, 200), (0.3, 120)] {
        let options = PrepareOptions { validation_split: share, ..PrepareOptions::new(64) };
        let made = make(&[("a.txt", &text)], &options).unwrap();
        let held_out = made.prepared.validation.songs;
        assert!(held_out.abs_diff(expected) <= 1, "{held_out} of 400 at {share}");
        assert_eq!(made.prepared.train.songs + held_out, 400);
        let validation = made.validation.unwrap();
        assert_eq!(validation.song_boundaries().unwrap().len() as u64 - 1, held_out);
        assert!(
            validation.song_boundaries().unwrap().windows(2).all(|pair| pair[1] - pair[0] == 2),
            "songs stay whole"
        );
        let other = make(&[("a.txt", &text)], &PrepareOptions { seed: 7, ..options }).unwrap();
        assert_ne!(examples(&other.train), examples(&made.train), "the seed decides which");
    }
    let few = PrepareOptions { validation_split: 1e-6, ..PrepareOptions::new(64) };
    let error = make(&[("a.txt", "one\n\n\ntwo")], &few).err().unwrap().to_string();
    assert!(error.contains("of 2 different songs none would be held out"), "{error}");
}

#[test]
fn static_masks_are_stored_and_reproducible() {
    let options = PrepareOptions {
        static_mask: Some(StaticMask { mlm_probability: 0.5, ..Default::default() }),
        ..PrepareOptions::new(64)
    };
    let made = make(&[("a.txt", SONG)], &options).unwrap();
    let again = make(&[("a.txt", SONG)], &options).unwrap();
    let mut labels_seen = 0;
    for i in 0..made.train.len() {
        let (masked, labels) = made.train.static_mask(i).unwrap();
        assert_eq!(Some((masked.clone(), labels.clone())), again.train.static_mask(i));
        let ids = made.train.get(i);
        assert_eq!(masked.len(), ids.len());
        for at in 0..ids.len() {
            match labels.iter().find(|(row, _)| *row as usize == at) {
                Some((_, label)) => assert_eq!(*label, ids[at]),
                None => assert_eq!(masked[at], ids[at]),
            }
        }
        labels_seen += labels.len();
    }
    assert!(labels_seen > 0);
    assert!(make(&[("a.txt", SONG)], &PrepareOptions::new(64)).unwrap().train.static_mask(0).is_none());
}

#[test]
fn bad_files_are_left_out_and_told_or_fatal() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("good.txt"), "the rain\n").unwrap();
    std::fs::write(folder.path().join("binary.txt"), b"\0\0\0").unwrap();
    std::fs::write(folder.path().join("latin.txt"), b"caf\xe9\n").unwrap();
    let cache = folder.path().join("cache.safetensors");
    let paths = [folder.path().to_owned()];
    let (mut skipped, mut latin) = (Vec::new(), 0);
    let run = |options: &PrepareOptions, observe: &mut dyn FnMut(PrepareEvent) -> ControlFlow<()>| {
        prepare(&tokenizer(), &paths, &cache, None, options, observe)
    };
    let options = PrepareOptions::new(64);
    let prepared = run(&options, &mut |event| {
        match event {
            PrepareEvent::Skipped { path, error } => skipped.push(format!("{} {error}", path.display())),
            PrepareEvent::Latin1 { .. } => latin += 1,
            _ => {}
        }
        ControlFlow::Continue(())
    });
    let prepared = prepared.unwrap();
    assert_eq!((prepared.files, prepared.skipped_files, prepared.latin1_files, latin), (2, 1, 1, 1));
    assert!(skipped.len() == 1 && skipped[0].contains("binary.txt"), "{skipped:?}");
    let before = std::fs::read(&cache).unwrap();
    let strict = run(&PrepareOptions { strict: true, ..options }, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(strict.unwrap_err(), Error::BadData { .. }));
    let broken_off = run(&PrepareOptions::new(32), &mut |event| match event {
        PrepareEvent::Latin1 { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(broken_off.unwrap_err(), Error::Cancelled));
    assert_eq!(std::fs::read(&cache).unwrap(), before, "a failure leaves the cache as it was");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4, "and nothing beside it");
    let missing = prepare(&tokenizer(), &["/nowhere".into()], &cache, None, &PrepareOptions::new(64), |_| {
        ControlFlow::Continue(())
    });
    assert!(matches!(missing.unwrap_err(), Error::Io { .. }));
}

#[test]
fn what_cannot_be_listed_is_left_out_or_fatal() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("a.txt", "the rain\n")]);
    let closed = folder.path().join("closed");
    let denied = || Error::io(&closed)(std::io::ErrorKind::PermissionDenied.into());
    let found =
        Found { files: vec![folder.path().join("a.txt")], unlisted: vec![(closed.clone(), denied())], passed_over: 0 };
    let (mut told, mut prepared, mut lines) = (Vec::new(), Prepared::default(), 0);
    let mut observe = |event: PrepareEvent| {
        if let PrepareEvent::Skipped { path, .. } = event {
            told.push(path.to_owned());
        }
        ControlFlow::Continue(())
    };
    let mut sink = |piece: Piece| {
        lines += u64::from(matches!(piece, Piece::Line(_)));
        Ok(())
    };
    read_files(&found, "text", false, &mut observe, &mut prepared, &mut sink).unwrap();
    let strict = read_files(&found, "text", true, &mut observe, &mut Prepared::default(), &mut sink);
    assert!(strict.unwrap_err().to_string().contains("cannot be listed"));
    assert_eq!((prepared.skipped_files, told, lines), (1, vec![closed], 1));
}

/// What was held out is trained on by nobody, though the second cache cannot take its place.
#[test]
fn both_caches_are_replaced_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let songs = (0..10).map(|i| format!("the rain in {i}\n")).collect::<Vec<_>>().join("\n\n\n");
    write(folder.path(), &[("a.txt", &songs)]);
    let [train, validation] = ["train", "validation"].map(|name| folder.path().join(name));
    let run = |seed| {
        let options = PrepareOptions { validation_split: 0.3, seed, ..PrepareOptions::new(64) };
        prepare(&tokenizer(), &[folder.path().join("a.txt")], &train, Some(&validation), &options, |_| {
            ControlFlow::Continue(())
        })
    };
    run(1).unwrap();
    let before = std::fs::read(&train).unwrap();
    std::fs::remove_file(&validation).unwrap();
    std::fs::create_dir(&validation).unwrap();
    assert!(matches!(run(2), Err(Error::Io { .. })));
    assert_eq!(std::fs::read(&train).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "and nothing beside it");
    // And the other way round, with a cache that was there and without.
    std::fs::remove_dir(&validation).unwrap();
    run(1).unwrap();
    let held_out = std::fs::read(&validation).unwrap();
    std::fs::remove_file(&train).unwrap();
    std::fs::create_dir(&train).unwrap();
    assert!(matches!(run(2), Err(Error::Io { .. })));
    assert_eq!(std::fs::read(&validation).unwrap(), held_out);
    std::fs::remove_file(&validation).unwrap();
    assert!(matches!(run(2), Err(Error::Io { .. })));
    assert!(!validation.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "and nothing beside it");
}

/// Whatever is added that is no song; not so a word, or where one ends.
#[test]
fn a_corpus_is_known_by_its_songs() {
    let of = |text: &str, unit| {
        let made = make(&[("a.txt", text)], &PrepareOptions { unit, ..PrepareOptions::new(16) }).unwrap();
        made.train.metadata()["corpus"].clone()
    };
    let line = |text: &str| of(text, Unit::Line);
    let songs = line("the rain\nin town\n\nthe rain\n\n\nin\n");
    assert_eq!(songs, of("\n\n the rain\r\nin town\n\nthe rain\n\n\n\n\nin\n\n\n", Unit::Section));
    for other in [
        "the rain\nin town\nthe rain\n\n\nin\n",
        "the rain\nin town\n\nthe rain\n\nin\n",
        "the rain in town\n\nthe rain\n\n\nin\n",
        "the rain\nin town\n\nthe rain\n\n\nin\n\n\nin\n",
    ] {
        assert_ne!(line(other), songs, "{other}");
    }
}

#[test]
fn nothing_usable_is_said_with_its_reason() {
    let error = |files: &[(&str, &str)]| make(files, &PrepareOptions::new(16)).err().unwrap().to_string();
    assert!(error(&[("a.txt", "\u{266a}\n\u{266a}\u{266a}\n")]).contains("2 lines were read"));
    assert!(error(&[("songs.json", "{}"), ("README", "words")]).contains("(2 files there are of other kinds"));
    assert!(error(&[("a.txt", "[Chorus]\n")]).contains("no usable line"));
    let made = make(&[("a.txt", "[Chorus]\nthe rain\n"), ("b", "x")], &PrepareOptions::new(16)).unwrap();
    assert_eq!((made.prepared.headings, made.prepared.passed_over), (1, 1));
}

#[test]
fn damaged_caches_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), SONG).unwrap();
    let cache = folder.path().join("c.safetensors");
    prepare(&tokenizer(), &[folder.path().join("a.txt")], &cache, None, &PrepareOptions::new(64), |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let good = std::fs::read(&cache).unwrap();
    let open = |bytes: &[u8]| {
        std::fs::write(&cache, bytes).unwrap();
        Dataset::open(&cache, &tokenizer())
    };
    open(&good).unwrap();
    for cut in [0, 7, 100, good.len() - 1] {
        assert!(matches!(open(&good[..cut]).unwrap_err(), Error::BadData { .. } | Error::Io { .. }), "cut at {cut}");
    }
    let replaced = |from: &str, to: &str| {
        let at = good.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        open(&bytes).unwrap_err().to_string()
    };
    assert!(replaced("retto_token_cache\":\"1", "retto_token_cache\":\"2").contains("version 2"));
    assert!(replaced("retto_token_cache", "retto_token_cachy").contains("not a token cache"));
    assert!(replaced(tokenizer().hash(), "0000000000000000").contains("another tokenizer"));
    assert!(replaced("section_boundaries", "section_boundariez").contains("section_boundaries"));
    // Every byte of the offsets matters.
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize + 8;
    for at in 0..6 * 8 {
        let mut bytes = good.clone();
        bytes[header + at] ^= 0x41;
        let _ = open(&bytes);
    }
    let mut bytes = good.clone();
    bytes[header + 8] = 0;
    assert!(open(&bytes).unwrap_err().to_string().contains("cu_seqlens"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the songs are, caches hold every word once, and boundaries that fit.
    #[test]
    fn caches_round_trip(
        songs in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec("(the|rain|in|town|zebra)( the| river){0,9}", 1..5), 1..4),
            1..12,
        ),
        max_seq_length in 4usize..40,
        unit in prop_oneof![Just(Unit::Line), Just(Unit::Section), Just(Unit::Window)],
        share in prop_oneof![Just(0.0), Just(0.3), Just(0.5)],
        seed in any::<u64>(),
    ) {
        let tokenizer = tokenizer();
        let text = songs.iter().map(|song| song.iter().map(|section| section.join("\n")).collect::<Vec<_>>().join("\n\n"));
        let text = text.collect::<Vec<_>>().join("\n\n\n");
        let options = PrepareOptions { unit, validation_split: share, seed, ..PrepareOptions::new(max_seq_length) };
        let made = match make(&[("a.txt", &text)], &options) {
            Ok(made) => made,
            Err(Error::InvalidArgument(reason)) => {
                prop_assert!(share > 0.0 && reason.contains("none would be"), "{}", reason);
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let parts: Vec<&Dataset> = std::iter::once(&made.train).chain(&made.validation).collect();
        let counts = [&made.prepared.train, &made.prepared.validation];
        prop_assert_eq!(counts.iter().map(|c| c.songs).sum::<u64>(), songs.len() as u64);
        prop_assert_eq!(counts.iter().map(|c| c.sections).sum::<u64>(), songs.iter().map(|s| s.len() as u64).sum::<u64>());
        let mut words: Vec<u32> = Vec::new();
        for data in &parts {
            prop_assert!(data.longest() <= max_seq_length);
            for i in 0..data.len() {
                words.extend(data.get(i).iter().filter(|&&id| !tokenizer.is_special(id)));
                prop_assert!(data.get(i).iter().any(|&id| !tokenizer.is_special(id)));
            }
        }
        let mut expected: Vec<u32> = Vec::new();
        for line in songs.iter().flatten().flatten() {
            let ids = tokenizer.encode_body(line).unwrap();
            let kept = if unit == Unit::Window { ids.len() } else { ids.len().min(max_seq_length - 2) };
            expected.extend(ids[..kept].iter().filter(|&&id| !tokenizer.is_special(id)));
        }
        words.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(words, expected);
    }

    /// Masks cover the share asked for, specials are never masked, and only what is chosen is changed.
    #[test]
    fn masks_cover_their_share(
        probability in 0.05f64..1.0,
        mask_replace_prob in 0.0f64..1.0,
        whole_word_mask in any::<bool>(),
        seed in any::<u64>(),
        words in proptest::collection::vec("[a-z]{1,9}", 1..40),
    ) {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(&words.join(" ")).unwrap();
        let masking = Masking {
            probability, mask_replace_prob, random_replace_prob: (1.0 - mask_replace_prob) / 2.0, whole_word_mask, seed,
            purpose: Purpose::Train,
        };
        masking.check(&tokenizer).unwrap();
        let maskable = ids.iter().filter(|&&id| !tokenizer.is_special(id)).count();
        let (mut chosen, rounds) = (0, 400);
        for example in 0..rounds {
            let (masked, labels) = masking.apply(&tokenizer, &ids, 1, example);
            prop_assert!(labels.windows(2).all(|pair| pair[0].0 < pair[1].0));
            for at in 0..ids.len() {
                match labels.iter().find(|(row, _)| *row as usize == at) {
                    Some((_, label)) => prop_assert!(*label == ids[at] && !tokenizer.is_special(*label)),
                    None => prop_assert_eq!(masked[at], ids[at]),
                }
            }
            chosen += labels.len();
        }
        // Five deviations, with words of up to nine pieces that go together.
        let trials = (maskable * rounds) as f64;
        let deviation = (probability * (1.0 - probability) * 9.0 / trials.max(1.0)).sqrt();
        prop_assert!((chosen as f64 / trials.max(1.0) - probability).abs() < 5.0 * deviation + 1e-9 || maskable == 0);
    }
}
