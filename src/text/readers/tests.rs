use std::io::Write;

use proptest::prelude::*;

use super::*;

/// What a file of this name and content gives: lines, `#` for a heading, `|` for the end of a section, `||` for that of a song.
fn read(name: &str, bytes: &[u8]) -> Result<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let source = check(&path, "text")?;
    let mut pieces: Vec<String> = Vec::new();
    source.read("text", &Rc::default(), &mut |piece| {
        let text = match piece {
            Piece::Line(line) => line,
            Piece::Heading => "#".into(),
            Piece::SectionEnd => "|".into(),
            Piece::SongEnd => "||".into(),
        };
        // Ends may come several times; the stronger one counts.
        match (pieces.last().map(String::as_str), text.as_str()) {
            (Some("|" | "||") | None, "|") | (Some("||") | None, "||") => {}
            (Some("|"), "||") => *pieces.last_mut().unwrap() = text,
            _ => pieces.push(text),
        }
        Ok(())
    })?;
    Ok(pieces)
}

fn refusal(name: &str, bytes: &[u8]) -> String {
    read(name, bytes).unwrap_err().to_string()
}

#[test]
fn plain_text_has_lines_sections_and_songs() {
    let text = "\u{feff}one\r\n two \r\n\r\nthree\n\n\n \nfour\rfive";
    assert_eq!(read("a.txt", text.as_bytes()).unwrap(), ["one", "two", "|", "three", "||", "four", "five", "||"]);
    assert!(read("a.txt", b"").unwrap().is_empty());
    // Headings are not sung; blank lines around them are still the ends of sections, and of songs where there are two.
    let text = "[Intro]\none\n\n[Verse 2: Anna & Bo]\n\ntwo [softly]\n[Chorus] [x2]\n\n\n[Verse 1]\nthree\n[oh\n";
    let expected = ["#", "one", "|", "#", "|", "two [softly]", "#", "||", "#", "three", "[oh", "||"];
    assert_eq!(read("a.txt", text.as_bytes()).unwrap(), expected);
    // Made for Windows twice; parted by what takes no room; by Unicode's own ends of lines.
    assert_eq!(read("a.txt", b"one\r\r\ntwo\r\r\n\r\r\nthree").unwrap(), ["one", "two", "|", "three", "||"]);
    let text = "\u{200b}one\u{feff}\n\u{200b}\u{2060}\ntwo\u{2028}three\u{2029}four";
    assert_eq!(read("a.txt", text.as_bytes()).unwrap(), ["one", "|", "two", "three", "four", "||"]);
    assert!(refusal("a.txt", &vec![b'a'; LONGEST_LINE + 1]).contains("longer than"));
    assert_eq!(read("a.txt", &vec![b'a'; LONGEST_LINE]).unwrap().len(), 2);
    assert_eq!(read("a.txt", &[&vec![b'a'; LONGEST_LINE][..], b"\r\nb"].concat()).unwrap().len(), 3);
    // Found out before any of it is used, so that such a file is left out whole.
    let folder = tempfile::tempdir().unwrap();
    let of_length = |name: &str, length: usize, end: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("the rain\r\n{}{end}you", "a".repeat(length))).unwrap();
        check(&path, "text").map(|_| ()).map_err(|error| error.to_string())
    };
    for name in ["a.txt", "a.lrc", "a.cho"] {
        assert_eq!(of_length(name, LONGEST_LINE, "\r\n"), Ok(()));
        assert!(of_length(name, LONGEST_LINE + 1, "\n").unwrap_err().contains("longer than"));
        assert!(of_length(name, LONGEST_LINE - 3, "\r").unwrap_err().contains("longer than"));
    }
}

#[test]
fn names_of_sections_are_headings_without_square_brackets_too() {
    for heading in [
        "Chorus",
        "CHORUS.",
        "Chorus.\u{2014}",
        "(Chorus)",
        "(chorus x2)",
        "Verse 2:",
        "verse 1",
        "VERSE IV",
        "Verse I",
        "Verse ii",
        "Verse I & II",
        "Couplet II",
        "(Hook II)",
        "Solo I:",
        "Pre-Chorus",
        "Repeat Chorus",
        "Final Chorus (x2)",
        "chorus:",
        "(Guitar Solo)",
        "Solo 2",
        "Hook:",
        "Bridge",
        "Outro",
        "Refr\u{e3}o",
        "Coro:",
    ] {
        assert_eq!(read("a.txt", heading.as_bytes()).unwrap(), ["#", "||"], "{heading}");
    }
    for sung in [
        "chorus",
        "Solo",
        "(solo)",
        "(ooh)",
        "Break!",
        "Chorus, chorus,",
        "Chorus of the birds",
        "I'll cross that bridge",
        "Refrain from singing",
        "Verse after verse after verse after verse",
        "Bridge: I walk alone",
        "Break",
        "Tag 2",
        "I",
        "2",
        "(x2)",
        "I break",
        "First I break",
        "Break, break, I",
        "I refrain",
        "Vi solo",
        "i break again",
        "",
    ] {
        let lines = read("a.txt", sung.as_bytes()).unwrap();
        assert_eq!(lines.first().map_or("", String::as_str), sung);
    }
    assert_eq!(read("a.cho", b"[Am]Chorus:\n[C]the rain").unwrap(), ["#", "the rain", "||"]);
    assert_eq!(read("a.cho", "<".repeat(LONGEST_LINE / 16).as_bytes()).unwrap().len(), 2);
}

#[test]
fn lrc_loses_tags_and_times() {
    let text = "[ti:A Song]\n[ar: Someone]\n[offset:+200]\n[00:12.00]First <00:13.10>line\n[00:17]Second\n[00:20.5]\n\
                [Chorus] with < brackets\n\n[01:00.000] end";
    let expected = ["First line", "Second", "|", "[Chorus] with < brackets", "|", "end", "||"];
    assert_eq!(read("a.lrc", text.as_bytes()).unwrap(), expected);
    // A line of several times is sung as often, each in its place.
    let text = "[00:10.00][00:30.00]chorus\n[00:20.00]verse\n[00:25.00]\n";
    assert_eq!(read("a.LRC", text.as_bytes()).unwrap(), ["chorus", "verse", "|", "chorus", "||"]);
    // What has no time goes with the line before it, wherever that is sung: a translation, and the end of the chorus.
    let text = "[00:10.00][00:50.00]chorus\nrefrain\n\n[00:20.00]verse\n";
    let expected = ["chorus", "refrain", "|", "verse", "chorus", "refrain", "||"];
    assert_eq!(read("a.lrc", text.as_bytes()).unwrap(), expected);
}

#[test]
fn lrc_is_written_in_many_ways() {
    for (text, expected) in [
        // A time before each syllable, the first twice; one at a line's end.
        (
            "[00:12.34][00:12.34]Hel[00:12.60]lo [00:12.90]World\n[00:14.00]my love[00:15.00]",
            &["Hello World", "my love"][..],
        ),
        (
            "[00:04,50]the rain\n[01:02:03.45]over an hour\n[00:01.0000000]day\n[-00:01.00]early",
            &["the rain", "over an hour", "day", "early"],
        ),
        (
            "[ti:Hurt [Remix]]\n[t_time:(03:20)]\n[ar:A][al:B]\n[re:x]\n[00:01.00]words [not a time]",
            &["words [not a time]"],
        ),
        ("[00:01.00]one\n[bg: <00:01.50>ooh <00:01.90>yeah]\n[00:02]two", &["one", "ooh yeah", "two"]),
        (
            "[bg: ooh] and more\n[00:10.00][bg: ooh][00:11.00] kept\n[00:12]two [bg: aah]\n[00:13]open [bg: end",
            &["ooh and more", "ooh kept", "two aah", "open end"],
        ),
        (
            "[00:05.00][00:05.20]hel[00:05.50]lo [00:06.00]world\n[00:07.00][00:09.00]twice[00:10.00]\n",
            &["hello world", "twice", "twice"],
        ),
        ("[00:01.00][Verse 1]\n[00:02.00]one\n[Chorus x2]\n[00:03.00]two", &["#", "one", "#", "two"]),
        ("[00:61:03]a\n[1:2:3:4]b\n[00:xx]c", &["a", "[1:2:3:4]b", "[00:xx]c"]),
    ] {
        assert_eq!(read("a.lrc", text.as_bytes()).unwrap(), [expected, &["||"]].concat(), "{text}");
    }
    // However many brackets are open, or tags with brackets are closed.
    for (open, count) in [("[a:[]", 0), ("[bg:", 0), ("[", 2), ("<", 2), ("[a:", 2), ("[00:01]", 0), ("<00:01>", 0)] {
        let line = open.repeat(LONGEST_LINE / 8 / open.len());
        assert_eq!(read("a.lrc", line.as_bytes()).unwrap().len(), count, "{open}");
    }
    // Of a song in a different order, hours count.
    let text = "[00:59.00][01:00:01.50]last and first\n[01:00:00.00]between";
    let expected = ["last and first", "between", "last and first", "||"];
    assert_eq!(read("a.lrc", text.as_bytes()).unwrap(), expected);
}

#[test]
fn chordpro_loses_chords_and_directives() {
    let text = "{title: Swing Low}\n{artist: trad}\n# a comment\n[D]Swing low, sweet [G]chari[D]ot,\n[Am] [G]\nComing [*softly]home\n\n\
                {start_of_chorus: Refrain}\nla la\n{eoc}\n{sot}\ne|--0--|\n{eot}\nafter [unclosed\n{title: Next}\nnew\n{ns}\nthird";
    let expected = [
        "Swing low, sweet chariot,",
        "Coming home",
        "|",
        "la la",
        "|",
        "after [unclosed",
        "||",
        "new",
        "||",
        "third",
        "||",
    ];
    assert_eq!(read("a.cho", text.as_bytes()).unwrap(), expected);
    assert_eq!(read("a.pro.gz", &gzip(text.as_bytes())).unwrap(), expected);
    let spaced = "{ title: One }\n{ start_of_tab }\ne|---0---|\n{ end_of_tab }\nmy love\n{: title: Two }\nthe sea\n";
    assert_eq!(read("a.cho", spaced.as_bytes()).unwrap(), ["my love", "||", "the sea", "||"]);
    let marked =
        "<b>my</b> [C]<span color=\"red\">lo</span>ve <strut/>\n<3 <because> you < me > <b3> <i love you>\n<i>\n<b\n";
    assert_eq!(
        read("a.cho", marked.as_bytes()).unwrap(),
        ["my love", "<3 <because> you < me > <b3> <i love you>", "<b", "||"]
    );
}

#[test]
fn records_are_songs() {
    let text = "{\"id\": 1, \"text\": \"a b\\n\\nc\"}\n\n{\"text\": [\"d\", \"\", \"e\"]}\n{\"text\": null}\n{\"text\": \"f\\n\\n\\ng\"}";
    let expected = ["a b", "|", "c", "||", "d", "|", "e", "||", "f", "|", "g", "||"];
    for name in ["a.jsonl", "a.ndjson", "a.json", "a.json.gz"] {
        let bytes = if name.ends_with("gz") { gzip(text.as_bytes()) } else { text.into() };
        assert_eq!(read(name, &bytes).unwrap(), expected, "{name}");
    }
    let text = "{\"text\": \"a\\rb\\r\\rc\"}\n{\"text\": [\"d\\ne\", \"[Chorus]\", \"f\"]}";
    assert_eq!(read("a.jsonl", text.as_bytes()).unwrap(), ["a", "b", "|", "c", "||", "d", "e", "#", "f", "||"]);
    let text = "{\"text\": [\"a\\n\", \"b\\r\\n\", \"\\n\", \"c\\n\"]}";
    assert_eq!(read("a.jsonl", text.as_bytes()).unwrap(), ["a", "b", "|", "c", "||"]);
    assert_eq!(read("a.csv", b"text\n\"a\rb\r\rc\"\n").unwrap(), ["a", "b", "|", "c", "||"]);
    let csv = "id,text\n1,\"a \"\"b\"\"\n\nc\"\n2,d\n";
    assert_eq!(read("a.csv", csv.as_bytes()).unwrap(), ["a \"b\"", "|", "c", "||", "d", "||"]);
    assert_eq!(read("a.tsv", b"\xef\xbb\xbftext\tid\na,b\t1\n").unwrap(), ["a,b", "||"]);
    assert_eq!(read("a.csv", b"text\ncaf\xe9\n").unwrap(), ["café", "||"]);
    // As spreadsheets write it where numbers have commas.
    for csv in ["\u{feff}id;text\n1;a, b\n", "id\ttext\n1\ta, b\n", "\"id\";\"text\"\r\n1;\"a, b\"\r\n"] {
        assert_eq!(read("a.csv", csv.as_bytes()).unwrap(), ["a, b", "||"], "{csv}");
    }
    assert_eq!(read("a.csv", b"text\na;b\n").unwrap(), ["a;b", "||"]);
    for (name, bytes, words) in [
        (
            "a.jsonl",
            &b"{\"text\": \"a\"}\n{\"lyrics\": \"b\", \"id\": 1}\n"[..],
            "line 2 has no field 'text' (but lyrics, id): text_field names another",
        ),
        ("a.jsonl", b"{\"text\": 3}\n", "line 1 has no text"),
        ("a.json", b"[{\"text\": \"a\"}]", "line 1 is JSON, but no object"),
        ("a.json", b"[\n{\"text\": \"a\"}]", "each line is one object"),
        ("a.jsonl", b"{\"text\": \n", "line 1 is not JSON"),
        ("a.jsonl", b"{\"text\": \"caf\xe9\"}\n", "UTF-8"),
        ("a.csv", b"words,id\na,1\n", "no column 'text' (but words, id)"),
        ("a.csv", b"text,id\na,1\nb\n", "line 3 has 1 fields"),
        ("a.csv", b"", "no column 'text' (but )"),
        ("a.csv", b"id,\"text\n1,a\n", "a quote in the header is never closed"),
        ("a.csv", b"id,text\n1,a\n2,\"b\n3,c\n", "a quote in the record at line 3 is never closed"),
        ("a.csv", b"text\n\"a", "a quote in the record at line 2 is never closed"),
    ] {
        let error = refusal(name, bytes);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn latin1_is_told_from_damaged_utf8_and_from_what_is_not_text() {
    assert_eq!(read("a.txt", b"caf\xe9 \x93na\xefve\x94\n").unwrap(), ["café “naïve”", "||"]);
    // Many umlauts and one broken byte: UTF-8 that was damaged.
    let damaged = ["schöne Grüße\nfür alle\n".as_bytes(), b"\xff\n"].concat();
    assert!(matches!(read("a.txt", &damaged), Err(Error::NotUtf8 { line: 3, .. })));
    // Cut off within a character: of UTF-8, where more of it is there than its first byte; that alone is a letter of Latin-1's.
    assert!(matches!(read("a.txt", b"no accents\nI don\xe2\x80"), Err(Error::NotUtf8 { line: 2, .. })));
    assert_eq!(read("a.txt", b"no accents\nun caf\xe9").unwrap(), ["no accents", "un café", "||"]);
    // Words of such bytes alone: Cyrillic in Windows-1251 and KOI8-R, Greek in ISO 8859-7, Chinese in GBK.
    for bytes in [
        &b"\xef\xf0\xe8\xe2\xe5\xf2 \xec\xe8\xf0\n"[..],
        b"\xd0\xd2\xc9\xd7\xc5\xd4 \xcd\xc9\xd2\n",
        b"\xea\xe1\xeb\xe7\xec\xdd\xf1\xe1\n",
        b"love \xb0\xae\xc4\xe3\n",
        // Russian in the DOS encoding, whose letters are also Latin-1's quotes.
        b"\xac\xa0\xac\xa0 \xa8 \xaf\xa0\xaf\xa0 \xaa\xa0\xaa \xe2\xa0\xaa\n",
        // Japanese in Shift-JIS, Korean in EUC-KR.
        b"\x82\xb1\x82\xf1\x82\xc9\x82\xbf\x82\xcd\n",
        b"\xbb\xe7\xb6\xfb\xc7\xd8\n",
    ] {
        assert!(matches!(read("a.txt", bytes), Err(Error::NotUtf8 { line: 1, .. })), "{bytes:?}");
    }
    assert_eq!(read("a.txt", b"\xabEl ni\xf1o\xbb \x97 \xc9l\n").unwrap(), ["«El niño» — Él", "||"]);
    assert_eq!(read("a.txt", b"\xab\xa0Je t'aime\x85\xbb\n").unwrap(), ["«\u{a0}Je t'aime…»", "||"]);
    assert_eq!(read("a.txt", b"no \x97\x97 no\x85\x94\n").unwrap(), ["no —— no…”", "||"]);
    assert_eq!(read("a.txt", b"Cora\xe7\xe3o, emo\xe7\xe3o\n").unwrap(), ["Coração, emoção", "||"]);
    assert_eq!(read("a.txt", b"\x84\xdcber den Wolken\x93\n").unwrap(), ["„Über den Wolken“", "||"]);
    assert_eq!(read("a.txt", b"tu es cr\xe9\xe9e\x85\xa0\xbb\n").unwrap(), ["tu es créée…\u{a0}»", "||"]);
    assert!(refusal("a.txt", b"\xff\xfea\0b\0").contains("UTF-16"));
    assert!(refusal("a.txt", b"text\n\0\x01binary").contains("line 2 holds the byte 0x00"));
    // A character cut by the end of a chunk of the reader is no error.
    let long = format!("{}é\n", "a".repeat((1 << 16) - 1));
    assert_eq!(read("a.txt", long.as_bytes()).unwrap()[0].chars().last(), Some('é'));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn compressed_files_are_read_whole_and_damaged_ones_refused() {
    let text: String = (0..40_000).map(|i| format!("line {i} of a song\n")).collect();
    let plain = read("a.txt", text.as_bytes()).unwrap();
    assert_eq!(plain.len(), 40_001);
    let (gz, zst) = (gzip(text.as_bytes()), zstd(text.as_bytes()));
    assert!(gz.len() < text.len() / 2 && zst.len() < text.len() / 2);
    assert_eq!(read("a.txt.gz", &gz).unwrap(), plain);
    assert_eq!(read("a.txt.zst", &zst).unwrap(), plain);
    // Several members, or frames with one to skip between them, are one file.
    let twice = [text.as_str(), text.as_str()].concat();
    let twice = read("a.txt", twice.as_bytes()).unwrap();
    assert_eq!(read("a.txt.gz", &[gz.clone(), gz.clone()].concat()).unwrap(), twice);
    let skipped = [&zst[..], b"\x50\x2a\x4d\x18\x03\0\0\0abc", &zst].concat();
    assert_eq!(read("a.txt.zst", &skipped).unwrap(), twice);
    for (name, bytes) in [("a.txt.gz", &gz), ("a.txt.zst", &zst)] {
        assert!(refusal(name, &bytes[..bytes.len() / 2]).contains("cannot be decompressed"), "{name} cut off");
        assert!(refusal(name, b"not compressed at all").contains("cannot be decompressed"), "{name}");
    }
    let mut flipped = gz;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    assert!(read("a.txt.gz", &flipped).is_err());
}

#[test]
fn folders_are_walked_by_name_and_only_for_known_formats() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["b/z.lrc", "b/a.txt.gz", "a.csv", "c.pdf", "README", ".hidden.txt", "b/.git/x.txt", "b/c/d.cho"];
    for name in names.into_iter().chain(["b/data.json", "b/...and more.lrc"]) {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.path(), folder.path().join("b/c/loop")).unwrap();
    let found = corpus_files(&[folder.path().to_owned()]).unwrap();
    assert_eq!(found.passed_over, 3);
    let names: Vec<String> = found
        .files
        .iter()
        .map(|file| file.strip_prefix(folder.path()).unwrap().to_str().unwrap().replace('\\', "/"))
        .collect();
    assert_eq!(names, ["a.csv", "b/...and more.lrc", "b/a.txt.gz", "b/c/d.cho", "b/z.lrc"]);
    // Each once, however it is named; of any kind where it is.
    let named = ["README", "b/data.json", "b/z.lrc", "b", "b/c/d.cho", "README"].map(|name| folder.path().join(name));
    let files = corpus_files(&named).unwrap().files;
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    // The last by way of the link.
    let want = ["README", "data.json", "z.lrc", "...and more.lrc", "a.txt.gz", "d.cho", "a.csv"];
    assert_eq!(names, want[..if cfg!(unix) { 7 } else { 6 }]);
    assert!(matches!(corpus_files(&[folder.path().join("none")]), Err(Error::Io { .. })));
    #[cfg(unix)]
    assert!(corpus_files(&["/dev/null".into()]).unwrap_err().to_string().contains("read twice"));
}

proptest! {
    /// Whatever bytes a file of any format holds: an error, or pieces; no panic, no endless loop.
    #[test]
    fn byte_soup_gives_pieces_or_an_error(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..400),
            "[\\[\\]<>{}:\\.\\-#0-9a-z\"', \n\r\t\u{e9}\u{1f3b5}]{0,300}".prop_map(String::into_bytes),
        ],
        name in prop_oneof![
            Just("a.txt"), Just("a.lrc"), Just("a.cho"), Just("a.jsonl"), Just("a.csv"), Just("a.tsv"), Just("a"),
            Just("a.txt.gz"), Just("a.lrc.zst"),
        ],
    ) {
        if let Ok(pieces) = read(name, &bytes) {
            prop_assert!(pieces.iter().all(|piece| !piece.trim().is_empty() && piece.trim() == piece));
        }
        // The same, compressed.
        if !name.ends_with(".gz") && !name.ends_with(".zst") {
            let plain = read(name, &bytes).map_err(|_| ());
            prop_assert_eq!(read(&format!("{name}.gz"), &gzip(&bytes)).map_err(|_| ()), plain.clone());
            prop_assert_eq!(read(&format!("{name}.zst"), &zstd(&bytes)).map_err(|_| ()), plain);
        }
    }

    /// Damage to a compressed file is an error or, where it does not matter, nothing.
    #[test]
    fn damaged_compression_never_panics(at in 0usize..200, value in any::<u8>(), cut in 0usize..200) {
        let text = "a line of words\nanother line\n".repeat(20);
        for (name, good) in [("a.txt.gz", gzip(text.as_bytes())), ("a.txt.zst", zstd(text.as_bytes()))] {
            let mut bytes = good.clone();
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = read(name, &bytes);
            let _ = read(name, &good[..cut % good.len()]);
        }
    }
}
