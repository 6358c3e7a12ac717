//! Queries answer as transformers' fill-mask pipeline does, from many threads, and say what is wrong with a text.

mod common;

use common::{copy_fixture, copy_model, fixtures, gpu};
use retto::{Error, Fill, Model};
use serde_json::Value;

fn model() -> Model {
    Model::open(gpu(), fixtures().join("fillmask")).unwrap()
}

/// Compares one list of answers with the pipeline's.
fn assert_same(got: &[Fill], want: &Value) {
    let want = want.as_array().unwrap();
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert_eq!(u64::from(got.token), want["token"].as_u64().unwrap(), "{want}");
        assert_eq!(got.token_str, want["token_str"].as_str().unwrap());
        assert_eq!(got.sequence, want["sequence"].as_str().unwrap());
        assert!((f64::from(got.score) - want["score"].as_f64().unwrap()).abs() < 1e-5, "{got:?} {want}");
    }
}

#[test]
fn answers_are_those_of_the_pipeline() {
    let cases = std::fs::read(fixtures().join("fillmask/fillmask.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
    assert!(cases.len() >= 3);
    for case in cases {
        // The pipeline drops levels that hold one thing; so does the test, in reverse.
        let (inputs, outputs) = (&case["inputs"], &case["outputs"]);
        let texts: Vec<&str> = match inputs.as_array() {
            Some(texts) => texts.iter().map(|text| text.as_str().unwrap()).collect(),
            None => vec![inputs.as_str().unwrap()],
        };
        let answers = model().fill_mask_batch(&texts, 5).unwrap();
        assert_eq!(answers.len(), texts.len());
        for (i, masks) in answers.iter().enumerate() {
            let of_text = if texts.len() > 1 { &outputs[i] } else { outputs };
            for (j, fills) in masks.iter().enumerate() {
                assert_same(fills, if masks.len() > 1 { &of_text[j] } else { of_text });
            }
        }
    }
}

#[test]
fn a_batch_answers_as_its_texts_alone() {
    let model = model();
    let texts: Vec<String> =
        (0..40).map(|i| format!("the {} [MASK] and{} [MASK]", "rain ".repeat(i % 7), " you".repeat(i % 5))).collect();
    let together = model.fill_mask_batch(&texts, 4).unwrap();
    for (text, answers) in texts.iter().zip(&together) {
        for (alone, batched) in model.fill_mask(text, 4).unwrap().iter().flatten().zip(answers.iter().flatten()) {
            assert_eq!((alone.token, &alone.sequence), (batched.token, &batched.sequence));
            assert!((alone.score - batched.score).abs() < 1e-6);
        }
    }
}

#[test]
fn one_model_answers_sixteen_threads() {
    let model = model();
    let texts: Vec<String> = (0..16).map(|i| format!("{}the [MASK] in the rain", "you and ".repeat(i % 6))).collect();
    let alone: Vec<_> = texts.iter().map(|text| model.fill_mask(text, 5).unwrap()).collect();
    std::thread::scope(|scope| {
        for (text, want) in texts.iter().zip(&alone) {
            let model = &model;
            scope.spawn(move || {
                for _ in 0..8 {
                    assert_eq!(&model.fill_mask(text, 5).unwrap(), want);
                }
            });
        }
    });
}

#[test]
fn top_k_is_cut_to_the_vocabulary_and_never_empty() {
    let model = model();
    let all = model.fill_mask("[MASK]", 1_000_000).unwrap().remove(0);
    assert_eq!(all.len(), model.config().vocab_size);
    let sum: f64 = all.iter().map(|fill| f64::from(fill.score)).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    assert!(all.windows(2).all(|pair| pair[0].score >= pair[1].score));
    assert!(matches!(model.fill_mask("[MASK]", 0), Err(Error::InvalidArgument(_))));
    assert!(model.fill_mask_batch::<&str>(&[], 5).unwrap().is_empty());
}

#[test]
fn texts_at_fault_are_named() {
    let model = model();
    match model.fill_mask("no blank here", 5) {
        Err(Error::NoMask { mask_token, text, .. }) => {
            assert_eq!((mask_token.as_str(), text.as_str()), ("[MASK]", "no blank here"))
        }
        other => panic!("{other:?}"),
    }
    let max = model.config().max_position_embeddings;
    let long = "the ".repeat(max) + "[MASK]";
    match model.fill_mask(&long, 5) {
        Err(Error::TooLong { tokens, max: limit, .. }) => assert!(limit == max && tokens == max + 3),
        other => panic!("{other:?}"),
    }
    // The longest that fits is answered.
    let fits = "the ".repeat(max - 3) + "[MASK]";
    assert_eq!(model.fill_mask(&fits, 5).unwrap()[0].len(), 5);
    // One bad text among good ones: nothing is answered, the error names it.
    assert!(matches!(model.fill_mask_batch(&["[MASK]", "none"], 5), Err(Error::NoMask { text, .. }) if text == "none"));
}

#[test]
fn odd_texts_are_answered() {
    let model = model();
    for text in
        ["[MASK]", "  [MASK]\t", "[MASK][MASK][MASK]", "\u{0}[MASK]\u{fffd}", "日本[MASK]🎸", "[CLS] [MASK] [SEP]"]
    {
        assert!(!model.fill_mask(text, 3).unwrap().is_empty(), "{text:?}");
    }
}

#[test]
fn a_vocabulary_without_a_mask_token_is_said() {
    let folder = copy_model(&fixtures().join("base"));
    let vocabulary = std::fs::read_to_string(folder.path().join("vocab.txt")).unwrap();
    std::fs::write(folder.path().join("vocab.txt"), vocabulary.replace("[MASK]", "hole")).unwrap();
    let model = Model::open(gpu(), folder.path()).unwrap();
    let error = model.fill_mask("[MASK]", 5).unwrap_err();
    assert!(matches!(error, Error::BadTokenizer { .. }) && error.to_string().contains("[MASK]"), "{error}");
    drop(copy_fixture("base"));
}
