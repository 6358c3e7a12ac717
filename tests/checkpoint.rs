//! Every checkpoint quirk opens, every fault is refused with an error that names it, and nothing panics.

mod common;

use std::path::Path;

use common::{Tensors, Values, copy_fixture, copy_model, fixtures, gpu};
use retto::{Error, Model, PackedBatch};
use serde_json::{Value, json};

fn batch() -> PackedBatch {
    let mut batch = PackedBatch::default();
    batch.push(&[2, 7, 8, 9, 4, 3]);
    batch.push(&[2, 4, 3]);
    batch.masked_rows = vec![4, 7];
    batch
}

fn logits(folder: &Path) -> Vec<f32> {
    Model::open(gpu(), folder).unwrap().logits(&batch()).unwrap()
}

/// A copy of the base fixture with its tensors changed.
fn with_tensors(change: impl FnOnce(&mut Tensors)) -> tempfile::TempDir {
    let folder = copy_fixture("base");
    let path = folder.path().join("model.safetensors");
    let mut tensors = Tensors::read(&path);
    change(&mut tensors);
    tensors.write(&path);
    folder
}

fn edit_config(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

fn refused(folder: &Path, words: &[&str]) -> Error {
    match Model::open(gpu(), folder) {
        Ok(_) => panic!("opened, but should say {words:?}"),
        Err(error) => {
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "'{text}' should say {words:?}");
            error
        }
    }
}

#[test]
fn gamma_and_beta() {
    let folder = with_tensors(|tensors| {
        for name in tensors.names("") {
            if let Some(base) = name.strip_suffix("LayerNorm.weight") {
                tensors.rename(&name, &format!("{base}LayerNorm.gamma"));
            } else if let Some(base) = name.strip_suffix("LayerNorm.bias") {
                tensors.rename(&name, &format!("{base}LayerNorm.beta"));
            }
        }
    });
    assert_eq!(logits(folder.path()), logits(copy_fixture("base").path()));
}

#[test]
fn without_the_bert_prefix() {
    let folder = with_tensors(|tensors| {
        for name in tensors.names("bert.") {
            tensors.rename(&format!("bert.{name}"), &name);
        }
    });
    assert_eq!(logits(folder.path()), logits(copy_fixture("base").path()));
}

#[test]
fn a_tied_decoder_that_is_stored() {
    let folder = with_tensors(|tensors| {
        let word = tensors.tensors["bert.embeddings.word_embeddings.weight"].clone();
        tensors.tensors.insert("cls.predictions.decoder.weight".into(), word);
    });
    let model = Model::open(gpu(), folder.path()).unwrap();
    assert_eq!(model.logits(&batch()).unwrap(), logits(copy_fixture("base").path()));
    assert!(model.config().tie_word_embeddings);
}

/// transformers takes the decoder's own values then, with a warning.
#[test]
fn a_decoder_that_differs_is_not_tied() {
    let folder = with_tensors(|tensors| {
        let (shape, values) = tensors.tensors["bert.embeddings.word_embeddings.weight"].clone();
        let Values::F32(values) = values else { unreachable!() };
        let doubled = Values::F32(values.iter().map(|value| value * 2.0).collect());
        tensors.tensors.insert("cls.predictions.decoder.weight".into(), (shape, doubled));
    });
    let model = Model::open(gpu(), folder.path()).unwrap();
    assert!(!model.config().tie_word_embeddings);
    assert_ne!(model.logits(&batch()).unwrap(), logits(copy_fixture("base").path()));
}

#[test]
fn the_bias_under_the_decoders_name() {
    let folder = with_tensors(|tensors| tensors.rename("cls.predictions.bias", "cls.predictions.decoder.bias"));
    assert_eq!(logits(folder.path()), logits(copy_fixture("base").path()));
}

#[test]
fn pooler_next_sentence_head_and_position_ids_are_ignored() {
    let folder = with_tensors(|tensors| {
        let mut add = |name: &str, shape: &[usize]| {
            let values = vec![0.5; shape.iter().product()];
            tensors.tensors.insert(name.into(), (shape.to_vec(), Values::F32(values)));
        };
        add("bert.pooler.dense.weight", &[24, 24]);
        add("bert.pooler.dense.bias", &[24]);
        add("cls.seq_relationship.weight", &[2, 24]);
        add("cls.seq_relationship.bias", &[2]);
        add("bert.embeddings.position_ids", &[1, 32]);
    });
    assert_eq!(logits(folder.path()), logits(copy_fixture("base").path()));
}

#[test]
fn an_encoder_without_a_head() {
    let folder = with_tensors(|tensors| {
        for name in tensors.names("cls.") {
            tensors.tensors.remove(&format!("cls.{name}"));
        }
        for name in tensors.names("bert.") {
            tensors.rename(&format!("bert.{name}"), &name);
        }
    });
    let model = Model::open(gpu(), folder.path()).unwrap();
    assert!(!model.has_mlm_head());
    let whole = Model::open(gpu(), copy_fixture("base").path()).unwrap();
    assert_eq!(model.hidden_states(&batch()).unwrap(), whole.hidden_states(&batch()).unwrap());
    // Never silently random: every question to the head is refused, until it is trained.
    assert!(matches!(model.fill_mask("w5 [MASK]", 3), Err(Error::NoMlmHead)));
    assert!(matches!(model.logits(&batch()), Err(Error::NoMlmHead)));
    assert!(matches!(model.evaluate(&["w5 w6 w7"], &Default::default()), Err(Error::NoMlmHead)));
    // Saved untrained, it stays an encoder: no random head is passed on as if it were one.
    let saved = tempfile::tempdir().unwrap();
    model.save(saved.path()).unwrap();
    let config = std::fs::read_to_string(saved.path().join("config.json")).unwrap();
    assert!(config.contains(r#""BertModel""#), "{config}");
    let again = Model::open(gpu(), saved.path()).unwrap();
    assert!(!again.has_mlm_head());
    assert_eq!(again.hidden_states(&batch()).unwrap(), whole.hidden_states(&batch()).unwrap());

    let mut trainer = retto::Trainer::new(&model, Default::default()).unwrap();
    let mut labelled = batch();
    labelled.labels = vec![5, 6];
    trainer.train_step(&labelled, 1e-3).unwrap();
    let trained = trainer.into_model();
    assert!(trained.has_mlm_head());
    assert_eq!(trained.fill_mask("w5 [MASK]", 3).unwrap()[0].len(), 3);
}

#[test]
fn half_precision_on_disk() {
    let full = Tensors::read(&fixtures().join("base/model.safetensors"));
    for (dtype, bytes, value) in [
        (
            safetensors::Dtype::F16,
            (|x| half::f16::from_f32(x).to_le_bytes()) as fn(f32) -> [u8; 2],
            (|bytes| half::f16::from_le_bytes(bytes).to_f32()) as fn([u8; 2]) -> f32,
        ),
        (
            safetensors::Dtype::BF16,
            |x| half::bf16::from_f32(x).to_le_bytes(),
            |bytes| half::bf16::from_le_bytes(bytes).to_f32(),
        ),
    ] {
        let folder = copy_fixture("base");
        let data: Vec<(String, Vec<usize>, Vec<u8>)> = full
            .names("")
            .into_iter()
            .map(|name| {
                let values = full.f32(&name).iter().flat_map(|&value| bytes(value)).collect();
                (name.clone(), full.tensors[&name].0.clone(), values)
            })
            .collect();
        let views = data.iter().map(|(name, shape, bytes)| {
            (name, safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
        // The same values in f32 are the same model.
        let rounded = with_tensors(|tensors| {
            for (_, values) in tensors.tensors.values_mut() {
                let Values::F32(values) = values else { panic!("the fixture is in f32") };
                values.iter_mut().for_each(|x| *x = value(bytes(*x)));
            }
        });
        assert_eq!(logits(folder.path()), logits(rounded.path()), "{dtype:?}");
        assert_ne!(logits(folder.path()), logits(copy_fixture("base").path()), "{dtype:?}");
    }
}

/// Splits the base fixture into two shards with an index.
fn sharded() -> tempfile::TempDir {
    let folder = copy_fixture("base");
    let whole = folder.path().join("model.safetensors");
    let mut first = Tensors::read(&whole);
    let mut second = Tensors { tensors: Default::default(), metadata: Default::default() };
    let mut weight_map = serde_json::Map::new();
    for (i, name) in first.names("").into_iter().enumerate() {
        let shard = if i % 2 == 0 { "model-00001-of-00002.safetensors" } else { "model-00002-of-00002.safetensors" };
        weight_map.insert(name.clone(), shard.into());
        if i % 2 == 1 {
            let tensor = first.tensors.remove(&name).unwrap();
            second.tensors.insert(name, tensor);
        }
    }
    first.write(&folder.path().join("model-00001-of-00002.safetensors"));
    second.write(&folder.path().join("model-00002-of-00002.safetensors"));
    let index = json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::remove_file(whole).unwrap();
    folder
}

#[test]
fn shards_with_an_index() {
    assert_eq!(logits(sharded().path()), logits(copy_fixture("base").path()));

    let missing = sharded();
    std::fs::remove_file(missing.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert!(matches!(refused(missing.path(), &["model-00002"]), Error::Io { .. }));

    let index = |folder: &Path, text: &str| std::fs::write(folder.join("model.safetensors.index.json"), text).unwrap();
    let broken = sharded();
    index(broken.path(), "{");
    refused(broken.path(), &["index.json"]);
    index(broken.path(), r#"{"weight_map":{"x":"../../etc/passwd"}}"#);
    refused(broken.path(), &["not the name of a file"]);
    index(broken.path(), r#"{"weight_map":{"x":"model-00001-of-00002.safetensors"}}"#);
    refused(broken.path(), &["x is not in model-00001"]);
}

#[test]
fn malformed_safetensors() {
    let good = std::fs::read(fixtures().join("base/model.safetensors")).unwrap();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let folder = copy_fixture("base");
    let put = |bytes: &[u8]| std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let with_header = |text: &str, data: usize| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let cases: Vec<Vec<u8>> = vec![
        vec![],
        good[..4].to_vec(),
        good[..8].to_vec(),
        good[..header / 2].to_vec(),
        good[..good.len() - 1].to_vec(),
        [good.as_slice(), &[0]].concat(),
        [&u64::MAX.to_le_bytes(), &good[8..]].concat(),
        [&(1u64 << 40).to_le_bytes(), &good[8..]].concat(),
        with_header("not json", 8),
        with_header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, 4),
        with_header(
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
            12,
        ),
        with_header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8),
        with_header(r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#, 0),
        with_header(r#"{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}"#, 4),
        with_header("{}", 0),
    ];
    for bytes in cases {
        put(&bytes);
        assert!(matches!(refused(folder.path(), &[]), Error::BadCheckpoint { .. }));
    }
    // Any byte of the header changed: opened or refused, never a panic.
    for at in (8..8 + header).step_by(61) {
        let mut bytes = good.clone();
        bytes[at] = bytes[at].wrapping_add(1);
        put(&bytes);
        let _ = Model::open(gpu(), folder.path());
    }
}

#[test]
fn weights_and_config_that_disagree() {
    let folder = copy_fixture("base");
    edit_config(folder.path(), |config| config["intermediate_size"] = 41.into());
    refused(folder.path(), &["intermediate.dense.weight", "[40, 24]", "[41, 24]"]);

    let folder = copy_fixture("base");
    edit_config(folder.path(), |config| config["num_hidden_layers"] = 1.into());
    refused(folder.path(), &["encoder.layer.1", "num_hidden_layers 1"]);

    let folder = copy_fixture("base");
    edit_config(folder.path(), |config| config["num_hidden_layers"] = 3.into());
    refused(folder.path(), &["encoder.layer.2", "missing"]);
    edit_config(folder.path(), |config| config["num_hidden_layers"] = 4_000_000_000u32.into());
    refused(folder.path(), &["encoder.layer.2", "missing"]);

    let folder = copy_fixture("base");
    edit_config(folder.path(), |config| config["tie_word_embeddings"] = false.into());
    refused(folder.path(), &["decoder.weight is missing"]);

    let folder = with_tensors(|tensors| drop(tensors.tensors.remove("cls.predictions.transform.dense.bias")));
    refused(folder.path(), &["cls.predictions.transform.dense.bias", "missing"]);

    // A shape whose product is right, but not the shape.
    let folder = with_tensors(|tensors| {
        tensors.tensors.get_mut("bert.embeddings.position_embeddings.weight").unwrap().0.reverse()
    });
    refused(folder.path(), &["position_embeddings", "[24, 32]", "[32, 24]"]);
}

#[test]
fn other_dtypes_are_refused() {
    let folder = copy_fixture("base");
    let full = Tensors::read(&folder.path().join("model.safetensors"));
    let zeros: Vec<(String, Vec<usize>, Vec<u8>)> = full
        .tensors
        .iter()
        .map(|(name, (shape, _))| (name.clone(), shape.clone(), vec![0; shape.iter().product::<usize>() * 4]))
        .collect();
    let views = zeros.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::I32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    refused(folder.path(), &["I32", "F32, F16 and BF16"]);
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    for bad in [f32::NAN, f32::INFINITY] {
        let folder = with_tensors(|tensors| {
            let (_, values) = tensors.tensors.get_mut("bert.encoder.layer.1.output.dense.weight").unwrap();
            let Values::F32(values) = values else { unreachable!() };
            let last = values.len() - 1;
            values[last] = bad;
        });
        refused(folder.path(), &["bert.encoder.layer.1.output.dense.weight", "damaged"]);
    }
}

/// Weights that are numbers, and give none.
#[test]
fn answers_that_are_not_finite_are_errors() {
    let folder = copy_fixture("fillmask");
    let file = folder.path().join("model.safetensors");
    let mut tensors = Tensors::read(&file);
    let Values::F32(values) = &mut tensors.tensors.get_mut("cls.predictions.transform.dense.weight").unwrap().1 else {
        unreachable!()
    };
    (0..).zip(values).for_each(|(i, value)| *value = [3e38, -3e38][i % 2]);
    tensors.write(&file);
    let model = Model::open(gpu(), folder.path()).unwrap();
    let says = |answer: Result<(), Error>| matches!(answer, Err(Error::NotFinite { .. }));
    assert!(says(model.fill_mask("the [MASK]", 3).map(|_| ())));
    assert!(says(model.fill_mask("the [MASK]", 1000).map(|_| ())));
    assert!(says(model.rank_gold("the [MASK]", "rain").map(|_| ())));
    assert!(says(model.evaluate(&["the rain and you and the rain"; 9], &Default::default()).map(|_| ())));
    // The encoder is as it was.
    let mut tensors = Tensors::read(&file);
    assert_eq!(model.embed(&["the rain"], &Default::default()).unwrap().len(), 1);
    let Values::F32(values) = &mut tensors.tensors.get_mut("bert.encoder.layer.0.output.LayerNorm.weight").unwrap().1
    else {
        unreachable!()
    };
    values.fill(3e38);
    tensors.write(&file);
    let model = Model::open(gpu(), folder.path()).unwrap();
    assert!(says(model.embed(&["the rain"], &Default::default()).map(|_| ())));
}

#[test]
fn other_architectures_are_refused() {
    let folder = copy_fixture("base");
    edit_config(folder.path(), |config| config["model_type"] = "distilbert".into());
    assert!(matches!(refused(folder.path(), &["distilbert"]), Error::Unsupported(_)));
}

#[test]
fn a_vocabulary_that_does_not_match_is_refused() {
    let folder = copy_fixture("base");
    common::write_vocabulary(folder.path(), 62);
    assert!(matches!(refused(folder.path(), &["61", "vocab_size"]), Error::BadTokenizer { .. }));
}

#[test]
fn missing_files_are_named() {
    for name in ["config.json", "model.safetensors", "vocab.txt"] {
        let folder = copy_fixture("base");
        std::fs::remove_file(folder.path().join(name)).unwrap();
        refused(folder.path(), &[name]);
    }
    assert!(matches!(refused(Path::new("/no/such/folder"), &["/no/such/folder"]), Error::Io { .. }));
    let folder = copy_fixture("base");
    let weights = folder.path().join("model.safetensors");
    std::fs::rename(&weights, folder.path().join("pytorch_model.bin")).unwrap();
    refused(folder.path(), &["pytorch_model.bin", "save_pretrained"]);
}

/// The largest parameter decides; this adapter's limit is met by a vocabulary just beyond it.
#[test]
fn a_tensor_over_the_binding_limit_is_refused_by_name() {
    let limit = gpu().adapter().max_storage_buffer_binding_size;
    let rows = limit as usize / 4 / 8 + 1;
    let mut config = retto::BertConfig::new(rows);
    config.hidden_size = 8;
    config.num_hidden_layers = 1;
    config.num_attention_heads = 1;
    config.intermediate_size = 8;
    if rows > u32::MAX as usize {
        return; // no vocabulary is that large
    }
    let folder = copy_model(&fixtures().join("base"));
    let tokenizer = retto::Tokenizer::open(folder.path()).unwrap();
    // Told before gigabytes of random values are drawn for it.
    match Model::init(gpu(), config, tokenizer, 1) {
        Err(Error::DeviceLimit { what, limit_name, limit: named, .. }) => {
            assert!(what.contains("word_embeddings") && named == limit, "{what}");
            assert_eq!(limit_name, "maxStorageBufferBindingSize");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn batches_that_do_not_fit_the_model_are_refused() {
    let model = Model::open(gpu(), copy_fixture("base").path()).unwrap();
    type Spoil = fn(&mut PackedBatch);
    let spoiled: [(&str, Spoil); 6] = [
        ("input_ids", |batch| batch.input_ids[0] = 61),
        ("position_ids", |batch| batch.position_ids[0] = 32),
        ("token_type_ids", |batch| batch.token_type_ids[0] = 2),
        ("masked_rows", |batch| batch.masked_rows[1] = 9),
        ("cu_seqlens", |batch| batch.cu_seqlens[2] = 10),
        ("labels", |batch| batch.labels = vec![61, 0]),
    ];
    for (what, spoil) in spoiled {
        let mut batch = batch();
        spoil(&mut batch);
        match model.logits(&batch) {
            Err(Error::InvalidArgument(text)) => assert!(text.contains(what), "{text}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    let mut long = PackedBatch::default();
    long.push(&[5; 33]);
    assert!(matches!(model.hidden_states(&long), Err(Error::TooLong { tokens: 33, max: 32, .. })));
    assert!(model.hidden_states(&PackedBatch::default()).unwrap().is_empty());
}
