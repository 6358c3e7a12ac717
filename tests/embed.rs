//! Embeddings are what sentence-transformers makes of the encoder's output, whatever they are batched with.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

#[cfg(feature = "cli")]
use common::command::{fails, fixture, json, retto, run, stdout, text};
use common::{copy_fixture, fixtures, gpu};
use retto::{Dataset, EmbedOptions, Error, Model, PackedBatch, Pooling};

fn model() -> Model {
    Model::open(gpu(), fixtures().join("fillmask")).unwrap()
}

/// In f64, from the hidden states of one sequence.
fn pooled(hidden_states: &[f32], dimension: usize, options: &EmbedOptions) -> Vec<f64> {
    let rows: Vec<&[f32]> = hidden_states.chunks_exact(dimension).collect();
    let column = |i: usize| rows.iter().map(move |row| f64::from(row[i]));
    let mut vector: Vec<f64> = (0..dimension)
        .map(|i| match options.pooling {
            Pooling::Cls => f64::from(rows[0][i]),
            Pooling::Max => column(i).fold(f64::MIN, f64::max),
            _ => column(i).sum::<f64>() / rows.len() as f64,
        })
        .collect();
    if options.normalize {
        let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    vector
}

#[test]
fn each_pooling_is_that_of_the_hidden_states_and_a_batch_is_its_texts_alone() {
    let model = model();
    let texts = ["the rain and you", "", "you", "and the rain and the rain and you and the rain"];
    for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Max] {
        for normalize in [false, true] {
            let options = EmbedOptions { pooling, normalize, ..Default::default() };
            let together = model.embed(&texts, &options).unwrap();
            assert_eq!((together.len(), together.dimension()), (texts.len(), model.config().hidden_size));
            assert_eq!(together.truncated(), 0);
            for (text, vector) in texts.iter().zip(together.iter()) {
                let mut batch = PackedBatch::default();
                batch.push(&model.tokenizer().encode(text).unwrap());
                let want = pooled(&model.hidden_states(&batch).unwrap(), vector.len(), &options);
                for (got, want) in vector.iter().zip(&want) {
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{pooling:?} {text}: {got} {want}");
                }
                assert_eq!(model.embed(&[text], &options).unwrap().values(), vector);
            }
        }
    }
    assert!(model.embed::<&str>(&[], &EmbedOptions::default()).unwrap().is_empty());
}

/// A tokenizer may add no special tokens, or more than BERT's.
#[test]
fn other_templates_are_answered() {
    let folder = copy_fixture("fillmask");
    let path = folder.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["post_processor"] = serde_json::Value::Null;
    fs::write(&path, json.to_string()).unwrap();
    // As BERT's it would get [CLS] and [SEP].
    write(folder.path(), "tokenizer_config.json", r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#);
    let model = Model::open(gpu(), folder.path()).unwrap();
    let options = EmbedOptions { pooling: Pooling::Cls, ..Default::default() };
    assert_eq!(model.embed(&["the rain"], &options).unwrap().len(), 1);
    for empty in ["", "\n"] {
        let error = model.embed(&["the rain", empty, "you"], &options).unwrap_err();
        assert!(error.to_string().contains("text 1"), "{error}");
    }
}

/// More tokens than one pass takes.
#[test]
fn many_texts_are_embedded_in_their_order() {
    let model = model();
    let texts: Vec<String> = (0..1500).map(|i| "rain ".repeat(1 + i % 13)).collect();
    let mut told = Vec::new();
    let all = model.embed_with(&texts, &EmbedOptions::default(), |done, total| {
        told.push((done, total));
        ControlFlow::Continue(())
    });
    let all = all.unwrap();
    assert!(!told.is_empty() && told.is_sorted() && told.iter().all(|at| at.0 < 1500 && at.1 == 1500), "{told:?}");
    let broken_off = model.embed_with(&texts, &EmbedOptions::default(), |_, _| ControlFlow::Break(()));
    assert!(matches!(broken_off, Err(Error::Cancelled)));
    assert_eq!(all.len(), texts.len());
    for index in [0, 7, 640, 1201, 1499] {
        let alone = model.embed(&texts[index..=index], &EmbedOptions::default()).unwrap();
        assert_eq!(alone.values(), all.iter().nth(index).unwrap());
    }
}

/// Lines of a section are joined as `prepare --unit section` joins them.
#[cfg(feature = "prepare")]
#[test]
fn sections_are_joined_by_the_separator() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let (text, cache) = (folder.path().join("songs.txt"), folder.path().join("cache.safetensors"));
    fs::write(&text, "the rain\nand you\n\nyou\nand the rain\n").unwrap();
    let options = retto::PrepareOptions { unit: retto::Unit::Section, ..retto::PrepareOptions::new(32) };
    retto::prepare(model.tokenizer(), &[text], &cache, None, &options, |_| ControlFlow::Continue(())).unwrap();
    let data = Dataset::open(&cache, model.tokenizer()).unwrap();
    let from_file = model.embed_dataset(&data, &EmbedOptions::default()).unwrap();
    let from_text = model.embed(&["the rain\nand you", "you\r\n\nand the rain\n"], &EmbedOptions::default()).unwrap();
    assert_eq!(from_file, from_text);
    // One vector a section, though one of them is two examples.
    let short = retto::PrepareOptions { max_seq_length: 6, ..options };
    let text = folder.path().join("songs.txt");
    // Windows replaces no file that is mapped.
    drop(data);
    fs::write(&text, "the rain\nand you\nthe rain\n\nyou\n").unwrap();
    retto::prepare(model.tokenizer(), &[text], &cache, None, &short, |_| ControlFlow::Continue(())).unwrap();
    let data = Dataset::open(&cache, model.tokenizer()).unwrap();
    let sections = model.embed_dataset(&data, &EmbedOptions::default()).unwrap();
    assert_eq!((data.len() > 2, data.truncated(), sections.len(), sections.truncated()), (true, 0, 2, 1));
    let beginning = model.embed(&["you"], &EmbedOptions::default()).unwrap();
    assert_eq!(sections.iter().nth(1).unwrap(), beginning.values());
    let strict = EmbedOptions { strict: true, ..Default::default() };
    assert!(model.embed_dataset(&data, &strict).unwrap_err().to_string().contains("1 sections"));
}

#[test]
fn long_texts_are_cut_and_counted_or_refused() {
    let model = model();
    let long = "rain ".repeat(model.config().max_position_embeddings + 5);
    let options = EmbedOptions { max_seq_length: Some(8), ..Default::default() };
    let cut = model.embed(&[long.as_str(), "rain"], &options).unwrap();
    assert_eq!(cut.truncated(), 1);
    // [CLS], six words, [SEP].
    let six = model.embed(&["rain ".repeat(6)], &options).unwrap();
    assert_eq!(cut.iter().next().unwrap(), six.values());
    let strict = EmbedOptions { strict: true, ..options };
    let error = model.embed(&[long.as_str()], &strict).unwrap_err();
    assert!(matches!(error, Error::TooLong { max: 8, .. }), "{error}");
    for length in [0, 2, model.config().max_position_embeddings + 1] {
        let options = EmbedOptions { max_seq_length: Some(length), ..Default::default() };
        let error = model.embed(&["rain"], &options).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)) && error.to_string().contains("max_seq_length"), "{error}");
    }
    assert!(matches!(Dataset::from_lines(model.tokenizer(), &["rain"], 0), Err(Error::InvalidArgument(_))));
    let data = Dataset::from_lines(model.tokenizer(), &["rain ".repeat(20)], 16).unwrap();
    assert_eq!(model.embed_dataset(&data, &EmbedOptions::default()).unwrap().truncated(), 1);
    assert!(model.embed_dataset(&data, &EmbedOptions { strict: true, ..Default::default() }).is_err());
    let too_short = EmbedOptions { max_seq_length: Some(8), ..Default::default() };
    let error = model.embed_dataset(&data, &too_short).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)) && error.to_string().contains("16 tokens, and 8"), "{error}");
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

const TRANSFORMER: &str = r#"{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}"#;
const POOLING: &str = r#"{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}"#;
const NORMALIZE: &str =
    r#"{"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}"#;

/// The layout that sentence-transformers saves, old and new.
#[test]
fn options_are_read_from_the_layout_of_sentence_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let open = || EmbedOptions::open(folder.path());
    assert_eq!(open().unwrap(), EmbedOptions::default());

    write(folder.path(), "modules.json", &format!("[{TRANSFORMER}, {POOLING}, {NORMALIZE}]"));
    assert!(open().unwrap_err().to_string().contains("1_Pooling"));
    write(folder.path(), "sentence_bert_config.json", r#"{"max_seq_length": 128, "do_lower_case": true}"#);
    let old = r#"{"word_embedding_dimension": 32, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
    write(folder.path(), "1_Pooling/config.json", old);
    let want = EmbedOptions {
        pooling: Pooling::Cls,
        normalize: true,
        max_seq_length: Some(128),
        do_lower_case: true,
        ..Default::default()
    };
    assert_eq!(open().unwrap(), want);
    write(folder.path(), "1_Pooling/config.json", r#"{"embedding_dimension": 32, "pooling_mode": "max"}"#);
    write(folder.path(), "modules.json", &format!("[{TRANSFORMER}, {POOLING}]"));
    let EmbedOptions { pooling, normalize, .. } = open().unwrap();
    assert_eq!((pooling, normalize), (Pooling::Max, false));
    // The newest write the longest text in the tokenizer's config alone, and so do plain folders; not beyond what the model reads.
    write(folder.path(), "config.json", r#"{"max_position_embeddings": 512}"#);
    for modules in [true, false] {
        for (length, want) in [("256", Some(256)), ("512", None), ("1000000000000000019884624838656", None)] {
            write(folder.path(), "sentence_bert_config.json", r#"{"transformer_task": "feature-extraction"}"#);
            write(folder.path(), "tokenizer_config.json", &format!(r#"{{"model_max_length": {length}}}"#));
            assert_eq!(open().unwrap().max_seq_length, want, "{length}");
        }
        let listed = format!("[{TRANSFORMER}, {POOLING}]");
        match modules {
            true => fs::remove_file(folder.path().join("modules.json")).unwrap(),
            false => write(folder.path(), "modules.json", &listed),
        }
    }

    for (name, text, words) in [
        ("1_Pooling/config.json", r#"{"pooling_mode": "lasttoken"}"#, "lasttoken"),
        (
            "1_Pooling/config.json",
            r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}"#,
            "side by side",
        ),
        ("1_Pooling/config.json", "{}", "no pooling_mode"),
        ("1_Pooling/config.json", "{", "not JSON"),
        ("1_Pooling/config.json", r#"{"pooling_mode": "mean"}"#, "query: "),
        ("modules.json", "{}", "not a list"),
        ("modules.json", r#"[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]"#, "Dense"),
    ] {
        // Only where nothing else is the matter: it is read last.
        write(folder.path(), "config_sentence_transformers.json", r#"{"default_prompt_name": "query: "}"#);
        write(folder.path(), name, text);
        let error = open().unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn options_that_are_saved_are_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let model = model();
    for (pooling, normalize) in [(Pooling::Mean, true), (Pooling::Cls, false), (Pooling::Max, true)] {
        let options = EmbedOptions { pooling, normalize, max_seq_length: Some(12), do_lower_case: true, strict: false };
        options.save(folder.path(), model.config()).unwrap();
        assert_eq!(EmbedOptions::open(folder.path()).unwrap(), options);
    }
    EmbedOptions::default().save(folder.path(), model.config()).unwrap();
    let longest = Some(model.config().max_position_embeddings);
    assert_eq!(
        EmbedOptions::open(folder.path()).unwrap(),
        EmbedOptions { max_seq_length: longest, ..Default::default() }
    );
}

/// What would make other vectors is refused by its name.
#[test]
fn what_sentence_transformers_does_otherwise_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let says = |what: &str| {
        let error = EmbedOptions::open(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)) && error.to_string().contains(what), "{what}: {error}");
    };
    let modules = |list: &str| write(folder.path(), "modules.json", &format!("[{list}]"));
    write(folder.path(), "1_Pooling/config.json", r#"{"pooling_mode": "mean"}"#);
    modules(TRANSFORMER);
    says("parts Transformer");
    modules(&format!("{TRANSFORMER}, {NORMALIZE}, {POOLING}"));
    says("Transformer, Normalize, Pooling");
    modules(&format!("{TRANSFORMER}, {POOLING}"));
    let prompts = "config_sentence_transformers.json";
    write(folder.path(), prompts, r#"{"truncate_dim": 64}"#);
    says("truncate_dim 64");
    write(folder.path(), prompts, r#"{"truncate_dim": null}"#);
    for (options, what) in [
        (r#"{"tokenizer_args": {"model_max_length": 10}}"#, "tokenizer_args"),
        (r#"{"processing_kwargs": {"text": {"max_length": 10}}}"#, "processing_kwargs"),
        (r#"{"module_output_name": "sentence_embedding"}"#, "module_output_name"),
    ] {
        write(folder.path(), "sentence_bert_config.json", options);
        says(what);
    }
    // Under an older name, as the longest text is in the tokenizer's config.
    fs::remove_file(folder.path().join("sentence_bert_config.json")).unwrap();
    write(folder.path(), "sentence_distilbert_config.json", r#"{"max_seq_length": 7}"#);
    assert_eq!(EmbedOptions::open(folder.path()).unwrap().max_seq_length, Some(7));
    fs::remove_file(folder.path().join("sentence_distilbert_config.json")).unwrap();
    write(folder.path(), "tokenizer_config.json", r#"{"max_len": 16}"#);
    assert_eq!(EmbedOptions::open(folder.path()).unwrap().max_seq_length, Some(16));
    assert!(matches!(EmbedOptions::open(folder.path().join("mistyped")), Err(Error::Io { .. })));
}

/// Of a text that is too long the end is kept where the tokenizer says so.
#[test]
fn texts_are_cut_at_the_side_that_the_tokenizer_names() {
    let folder = copy_fixture("fillmask");
    let options = EmbedOptions { max_seq_length: Some(4), ..Default::default() };
    let vector = |text: &str, options: &EmbedOptions| {
        Model::open(gpu(), folder.path()).unwrap().embed(&[text], options).unwrap().values().to_vec()
    };
    let whole = EmbedOptions::default();
    assert_eq!(vector("the rain and you", &options), vector("the rain", &whole));
    let path = folder.path().join("tokenizer_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap_or("{}".into())).unwrap();
    config["truncation_side"] = "left".into();
    fs::write(&path, config.to_string()).unwrap();
    assert_eq!(vector("the rain and you", &options), vector("and you", &whole));
    let model = Model::open(gpu(), folder.path()).unwrap();
    let data = Dataset::from_lines(model.tokenizer(), &["the rain and you"], 4).unwrap();
    assert_eq!(data.get(0), model.tokenizer().encode("and you").unwrap());
    #[cfg(feature = "prepare")]
    {
        let song = folder.path().join("song.txt");
        fs::write(&song, "the rain and you\n").unwrap();
        let cache = folder.path().join("cache");
        retto::prepare(model.tokenizer(), &[song], &cache, None, &retto::PrepareOptions::new(4), |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(Dataset::open(&cache, model.tokenizer()).unwrap().get(0), data.get(0));
    }
}

/// Older models have their encoder in a folder of its own.
#[test]
fn an_encoder_in_a_folder_of_its_own_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("0_Transformer");
    fs::rename(copy_fixture("fillmask").keep(), &inner).unwrap();
    let transformer = TRANSFORMER.replace(r#""path": """#, r#""path": "0_Transformer""#);
    write(folder.path(), "modules.json", &format!("[{transformer}, {POOLING}]"));
    write(folder.path(), "1_Pooling/config.json", r#"{"pooling_mode": "mean"}"#);
    // One that is no model's beside it says nothing.
    write(folder.path(), "config.json", r#"{"__version__": "1.0.0"}"#);
    let options = EmbedOptions::open(folder.path()).unwrap();
    assert_eq!(Model::encoder_folder(folder.path()).unwrap(), inner);
    let found = Model::open(gpu(), folder.path()).unwrap();
    assert_eq!(found.embed(&["the rain"], &options).unwrap(), model().embed(&["the rain"], &options).unwrap());
}

#[test]
fn what_is_saved_is_what_was_computed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vectors.safetensors");
    let embeddings = model().embed(&["the rain", "and you"], &EmbedOptions::default()).unwrap();
    embeddings.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor("embeddings").unwrap();
    assert_eq!(tensor.shape(), [2, embeddings.dimension()]);
    let values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(values, embeddings.values());
    let nowhere = folder.path().join("no/such/folder/vectors.safetensors");
    assert!(matches!(embeddings.save(&nowhere), Err(Error::Io { .. })));
}

/// What the layers of many texts would take together is more than a binding may be here.
#[test]
fn of_wide_models_fewer_tokens_go_together() {
    let tokenizer = retto::Tokenizer::open(fixtures().join("fillmask")).unwrap();
    let mut config = retto::BertConfig::new(tokenizer.vocab_size());
    (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) = (8, 1, 2);
    (config.intermediate_size, config.max_position_embeddings) = (16_384, 64);
    let model = Model::init(gpu(), config, tokenizer, 1).unwrap();
    let lines = vec!["the rain and ".repeat(20) + "[MASK]"; 64];
    assert_eq!(model.embed(&lines, &EmbedOptions::default()).unwrap().len(), 64);
    assert_eq!(model.fill_mask_batch(&lines, 1).unwrap().len(), 64);
    let data = retto::Dataset::from_lines(model.tokenizer(), &lines, 64).unwrap();
    let options = retto::CompareOptions { max_blanks: 64, ..Default::default() };
    assert_eq!(retto::compare(&model, &model, &data, &options).unwrap().blanks, 64);
}

#[cfg(feature = "cli")]
#[test]
fn the_command_prints_and_writes_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let (base, file) = (fixture("fillmask"), folder.path().join("vectors.safetensors"));
    let vectors = |args: &[&str]| json(&[&["embed", "--json", "--model", &base], args].concat());
    let [both, alone] = [&["the rain", "you\nand the rain"][..], &["you\nand the rain"]].map(vectors);
    assert_eq!(both.as_array().unwrap().len(), 2);
    assert_eq!(both[1], alone[0]);
    let norm = |vector: &serde_json::Value| {
        vector.as_array().unwrap().iter().map(|x| x.as_f64().unwrap().powi(2)).sum::<f64>()
    };
    let unit = vectors(&["--normalize", "--pooling", "max", "the rain"]);
    assert!((norm(&unit[0]) - 1.0).abs() < 1e-5 && (norm(&both[0]) - 1.0).abs() > 1e-3);
    let songs = folder.path().join("songs.txt");
    fs::write(&songs, "the rain\n\nyou\nand the rain\n").unwrap();
    assert_eq!(vectors(&["--data", text(&songs), "--unit", "section"]), both);
    let said = stdout(&run(&["embed", "--model", &base, "the rain", "you", "--output", text(&file)]));
    assert!(said.starts_with(text(&file)) && said.trim_end().ends_with(" x 16"), "{said}");
    assert!(stdout(&run(&["embed", "--model", &base, "the rain"])).trim_end().ends_with("...  the rain"));
    let shown = stdout(&run(&["embed", "--model", &base, "--data", text(&songs)]));
    let shown: Vec<_> = shown.lines().map(|line| line.rsplit("...  ").next().unwrap()).collect();
    assert_eq!(shown, ["the rain", "you", "and the rain"]);
    // Of sections, of which one takes two examples and another is left out.
    let sections = folder.path().join("sections.txt");
    fs::write(&sections, "the rain\n\nthe rain\n\nyou and you\nthe river and you\n\ntown\n").unwrap();
    let of = ["--data", text(&sections), "--unit", "section", "--dedup", "--max-seq-length", "7"];
    let shown = stdout(&run(&[&["embed", "--model", &base], &of[..]].concat()));
    let shown: Vec<_> = shown.lines().map(|line| line.rsplit("...  ").next().unwrap()).collect();
    assert_eq!(shown, ["the rain", "you and you", "town"]);
    // A link that leads nowhere yet stays one.
    #[cfg(unix)]
    {
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        stdout(&run(&["embed", "--model", &base, "the rain", "--output", text(&link)]));
        assert!(link.is_symlink() && fs::metadata(&target).unwrap().len() > 64);
    }
    // What goes to stdout is alone there, into a pipe or behind what a file holds already.
    #[cfg(unix)]
    {
        let output = run(&["embed", "--model", &base, "the rain", "you", "--output", "/dev/stdout"]);
        assert!(output.status.success() && output.stdout == fs::read(&file).unwrap());
        assert!(String::from_utf8_lossy(&output.stderr).contains(" x 16"));
        let log = folder.path().join("log");
        fs::write(&log, "before ").unwrap();
        let behind = fs::File::options().append(true).open(&log).unwrap();
        let mut command = retto(&["embed", "--model", &base, "the rain", "you", "--output", "/dev/stdout"]);
        assert!(command.stdout(behind).status().unwrap().success());
        assert_eq!(fs::read(&log).unwrap(), [b"before ", &fs::read(&file).unwrap()[..]].concat());
    }
    fails(&["embed", "--model", &base, "the rain", "--output", "no/such/folder/v"], &["no/such/folder"]);
    // Lines that the vocabulary knows nothing of have no vector, and that is said.
    let odd = folder.path().join("odd.txt");
    fs::write(&odd, "the rain\n\u{2667}\u{2667}\nyou\n").unwrap();
    let output = run(&["embed", "--json", "--model", &base, "--data", text(&odd)]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&stdout(&output)).unwrap().as_array().unwrap().len(), 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 line holds nothing that the vocabulary knows"));
    fails(&["embed", "--model", &base, "--data", text(&odd), "--strict"], &["1 lines hold nothing"]);
    // What an adapted model was made of says how it embeds.
    let (encoder, adapted) = (copy_fixture("fillmask"), folder.path().join("adapted"));
    let options = retto::EmbedOptions { pooling: retto::Pooling::Cls, normalize: true, ..Default::default() };
    options.save(encoder.path(), &retto::BertConfig::open(encoder.path()).unwrap()).unwrap();
    let args = ["adapt", "--model", text(encoder.path()), "--train", text(&songs), "--output", text(&adapted)];
    stdout(&run(&[&args[..], &["--max-steps", "1"]].concat()));
    let (of_base, of_adapted) =
        (retto::EmbedOptions::open(encoder.path()).unwrap(), retto::EmbedOptions::open(&adapted).unwrap());
    assert!(of_base == of_adapted && of_base.pooling == retto::Pooling::Cls);

    fails(&["embed", "--model", &base, "--max-seq-length", "3", "--strict", "the rain"], &["at most 3"]);
    fails(&["embed", "--model", &base, "--data", "no/such/file"], &["no/such/file"]);
    assert_eq!(run(&["embed", "--model", &base]).status.code(), Some(2));
}
