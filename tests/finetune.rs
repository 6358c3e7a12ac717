//! Training of embeddings behaves: it learns, repeats to the bit, goes on where it was interrupted, and says what it cannot do. That its
//! losses are sentence-transformers' own is compared live (`make reference`), and by the ops' twins.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use common::command::{fails, json, run, stdout, text};
use common::songs::{lines_of, write_songs};
use common::{copy_fixture, fresh_model, gpu};
use retto::{
    Dataset, DistanceMetric, DownstreamOptions, EmbedOptions, EmbeddingLoss, EmbeddingObjective, Error, LoraConfig,
    Model, Objective, Pooling, PrepareOptions, TrainEvent, TrainOutput, Trainer, TrainingArguments,
    TripletEvaluationOptions, Triplets, Unit, downstream, prepare,
};
use serde_json::Value;

const RANKING: EmbeddingLoss = EmbeddingLoss::MultipleNegativesRanking { scale: 20.0 };

fn triplet_loss(semi_hard: bool) -> EmbeddingLoss {
    EmbeddingLoss::Triplet { distance_metric: DistanceMetric::Euclidean, triplet_margin: 2.0, semi_hard }
}

fn objective(loss: EmbeddingLoss) -> EmbeddingObjective {
    EmbeddingObjective { loss, ..Default::default() }
}

fn arguments(loss: EmbeddingLoss) -> TrainingArguments {
    TrainingArguments {
        objective: Objective::Embedding(objective(loss)),
        learning_rate: 2e-3,
        num_train_epochs: 2.0,
        per_device_train_batch_size: 4,
        ..Default::default()
    }
}

fn songs(model: &Model, count: usize) -> Triplets {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let options = PrepareOptions { unit: Unit::Section, dedup: true, ..PrepareOptions::new(32) };
    prepare(model.tokenizer(), &[write_songs(folder.path(), count)], &cache, None, &options, |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    Triplets::from_sections(Dataset::open(&cache, model.tokenizer()).unwrap()).unwrap()
}

fn given(model: &Model) -> Triplets {
    let texts = [
        ("the rain", "you and the rain", Some("town")),
        ("the town", "in the town", Some("rain and rain")),
        ("you and you", "again you", Some("rain in the town")),
        ("the river", "river river", Some("you")),
    ];
    Triplets::from_texts(model.tokenizer(), texts, 16).unwrap()
}

/// Names of the encoder's parameters: the head is not trained, and not saved.
fn keys(model: &Model) -> impl Iterator<Item = String> {
    model.parameter_shapes().into_iter().map(|(key, _)| key).filter(|key| key.starts_with("bert."))
}

/// A hash of all their bits: what differs is of no use to a reader.
fn bits(model: &Model) -> Vec<(String, u64)> {
    let hash = |key: String| {
        let bits = model
            .parameter(&key)
            .unwrap()
            .iter()
            .fold(0u64, |hash, value| (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0100_0000_01b3));
        (key, bits)
    };
    keys(model).map(hash).collect()
}

fn train(trainer: &mut Trainer, data: &Triplets, stop_at: u64) -> (TrainOutput, Vec<f32>) {
    let mut losses = Vec::new();
    let output = trainer.train_triplets(data, None, |event| match event {
        TrainEvent::Step(report) => {
            losses.push(report.loss);
            if report.step == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
        _ => ControlFlow::Continue(()),
    });
    (output.unwrap(), losses)
}

#[test]
fn given_triplets_are_learnt_by_heart() {
    let base = fresh_model();
    let data = given(&base);
    for loss in [triplet_loss(false), triplet_loss(true), RANKING] {
        let evaluate = |model: &Model| {
            let options = TripletEvaluationOptions { objective: objective(loss), ..Default::default() };
            model.evaluate_triplets(&data, &options).unwrap()
        };
        let before = evaluate(&base);
        let arguments =
            TrainingArguments { max_steps: Some(80), dropout: false, learning_rate: 5e-3, ..arguments(loss) };
        let mut trainer = Trainer::new(&base, arguments).unwrap();
        let (output, losses) = train(&mut trainer, &data, u64::MAX);
        let after = evaluate(trainer.model());
        assert_eq!((output.steps, output.samples, before.triplets, before.retrieval), (80, 320, 4, None));
        assert!(losses[79] < 0.2 * losses[0], "{loss:?}: {} -> {}", losses[0], losses[79]);
        assert!(after.loss < 0.2 * before.loss && after.accuracy == 1.0, "{loss:?}: {before:?} {after:?}");
        // All in one batch: the first step's loss is what the evaluation found, in f64 on the host.
        if loss != triplet_loss(true) {
            assert!((f64::from(losses[0]) - before.loss).abs() < 1e-5 * before.loss, "{} {before:?}", losses[0]);
        }
    }
}

#[test]
fn the_encoder_is_trained_and_its_head_left_behind() {
    let base = fresh_model();
    let arguments = TrainingArguments { weight_decay: 0.1, ..arguments(RANKING) };
    let mut trainer = Trainer::new(&base, arguments).unwrap();
    train(&mut trainer, &songs(&base, 8), 3);
    let model = trainer.into_model();
    assert!(base.has_mlm_head() && !model.has_mlm_head());
    assert!(matches!(model.fill_mask("the [MASK]", 1), Err(Error::NoMlmHead)));
    for (key, _) in base.parameter_shapes() {
        let same = base.parameter(&key).unwrap() == model.parameter(&key).unwrap();
        assert_eq!(same, key.starts_with("cls."), "{key}");
    }
}

#[test]
fn a_run_repeats_to_the_bit_and_goes_on_where_it_was_interrupted() {
    let base = fresh_model();
    let data = songs(&base, 18);
    for (loss, pooling) in
        [(triplet_loss(false), Pooling::Mean), (triplet_loss(true), Pooling::Max), (RANKING, Pooling::Cls)]
    {
        let folder = tempfile::tempdir().unwrap();
        let of = |save_steps| TrainingArguments {
            objective: Objective::Embedding(EmbeddingObjective { loss, pooling, normalize: false }),
            gradient_accumulation_steps: 2,
            output_dir: Some(folder.path().into()),
            save_steps,
            ..arguments(loss)
        };
        // Five batches an epoch, the last of two songs: three steps.
        let mut whole = Trainer::new(&base, of(None)).unwrap();
        let (want, losses) = train(&mut whole, &data, u64::MAX);
        assert_eq!(want.steps, 6);
        let mut cut = Trainer::new(&base, of(Some(100))).unwrap();
        assert!(train(&mut cut, &data, 4).0.cancelled);
        let mut resumed = Trainer::new(&base, of(Some(100))).unwrap();
        assert_eq!(resumed.resume_from_checkpoint().unwrap(), Some(4));
        assert_eq!(train(&mut resumed, &data, u64::MAX).1, losses[4..], "{loss:?}");
        assert_eq!(bits(resumed.model()), bits(whole.model()), "{loss:?}");
        // With another loss, or other songs, it is another run.
        let mut other = of(Some(100));
        other.objective = Objective::Embedding(EmbeddingObjective { loss, pooling, normalize: true });
        let mut other = Trainer::new(&base, other).unwrap();
        other.resume_from_checkpoint().unwrap();
        let error = other.train_triplets(&data, None, |_| ControlFlow::Continue(())).unwrap_err().to_string();
        assert!(error.contains("cannot resume: objective"), "{error}");
        let mut other = Trainer::new(&base, of(Some(100))).unwrap();
        other.resume_from_checkpoint().unwrap();
        let error =
            other.train_triplets(&songs(&base, 17), None, |_| ControlFlow::Continue(())).unwrap_err().to_string();
        assert!(error.contains("the training data was 18 triplets"), "{error}");
    }
}

/// A triplet has its own negative, so batches may be cut anyhow; recomputed activations are the same.
#[test]
fn accumulated_batches_are_as_one_and_checkpointing_changes_nothing() {
    let base = fresh_model();
    let data = songs(&base, 8);
    let distance_metric = DistanceMetric::Cosine;
    let cosine = EmbeddingLoss::Triplet { distance_metric, triplet_margin: 0.5, semi_hard: false };
    let with = |per_device_train_batch_size, gradient_accumulation_steps, gradient_checkpointing| {
        let arguments = TrainingArguments {
            per_device_train_batch_size,
            gradient_accumulation_steps,
            gradient_checkpointing,
            // Between differences of vectors a bias of all of them would have no gradient.
            ..arguments(cosine)
        };
        let mut trainer = Trainer::new(&base, arguments).unwrap();
        let (_, losses) = train(&mut trainer, &data, u64::MAX);
        (losses, trainer.into_model())
    };
    let ((whole, model), (parts, in_parts)) = (with(8, 1, false), with(2, 4, false));
    assert!(whole.iter().zip(&parts).all(|(a, b)| (a - b).abs() < 1e-5 * a), "{whole:?} {parts:?}");
    // The gradient of a key's bias is zero but for rounding, which AdamW's first steps amplify.
    for key in keys(&model).filter(|key| !key.ends_with("key.bias")) {
        let pairs = model.parameter(&key).unwrap().into_iter().zip(in_parts.parameter(&key).unwrap());
        let far = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, common::worse);
        assert!(far < 1e-4, "{key}: {far}");
    }
    let (again, recomputed) = with(8, 1, true);
    assert_eq!((again, bits(&recomputed)), (whole, bits(&model)));
}

#[test]
fn a_held_out_section_longer_than_the_longest_example_is_judged_by_its_beginning() {
    let model = fresh_model();
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str, songs: &str| {
        let (path, cache) = (folder.path().join(name), folder.path().join(format!("{name}.cache")));
        fs::write(&path, songs).unwrap();
        let options = PrepareOptions { unit: Unit::Section, ..PrepareOptions::new(12) };
        prepare(model.tokenizer(), &[path], &cache, None, &options, |_| ControlFlow::Continue(())).unwrap();
        Triplets::from_sections(Dataset::open(&cache, model.tokenizer()).unwrap()).unwrap()
    };
    // A first verse that takes three examples, and one that ends the last song.
    let long = "the rain in the town and you\nyou and the river again and again\nriver and rain in the town you\n";
    let rest = "you and rain\n\n\nthe town again\n\nagain you\n\n\nin the river\n\n";
    let whole = of("whole.txt", &format!("{long}\n{rest}{long}again"));
    let first = long.lines().next().unwrap();
    let cut = of("cut.txt", &format!("{first}\n\n{rest}{first} again"));
    // The last verse begins as the first does, so it came before.
    assert_eq!((whole.truncated(), whole.songs(), cut.songs()), (1, Some((3, 1)), Some((3, 0))));
    let cut = of("alone.txt", &format!("{first}\n\n{rest}{first}"));
    assert_eq!((cut.truncated(), cut.songs(), whole.len()), (0, Some((3, 1)), 2));
    for loss in [triplet_loss(false), RANKING] {
        let options = TripletEvaluationOptions { objective: objective(loss), ..Default::default() };
        let (whole, cut) =
            (model.evaluate_triplets(&whole, &options).unwrap(), model.evaluate_triplets(&cut, &options).unwrap());
        assert_eq!(whole, cut);
        assert_eq!((whole.triplets, whole.retrieval.unwrap().queries), (8, 4));
    }
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    let base = fresh_model();
    let (songs, given) = (songs(&base, 6), given(&base));
    let pairs = Triplets::from_texts(base.tokenizer(), [("the rain", "the town", None); 4], 16).unwrap();
    let lines = Dataset::from_lines(base.tokenizer(), &["the rain and you"], 16).unwrap();
    let fails = |arguments: &TrainingArguments, data: &Triplets, words: &str| {
        let mut trainer = Trainer::new(&base, arguments.clone()).unwrap();
        let error = trainer.train_triplets(data, None, |_| ControlFlow::Continue(())).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        let error = trainer.forecast_triplets(data).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let of = |loss, per_device_train_batch_size| TrainingArguments { per_device_train_batch_size, ..arguments(loss) };
    fails(&TrainingArguments::default(), &songs, "set Objective::Embedding");
    fails(&of(triplet_loss(false), 4), &pairs, "takes a negative with each pair");
    fails(&of(RANKING, 7), &songs, "takes as many songs of two sections, and there are 6");
    fails(&of(triplet_loss(true), 5), &given, "takes as many triplets, and there are 4");
    fails(&TrainingArguments { max_seq_length: Some(3), ..arguments(RANKING) }, &given, "3 are allowed");
    let mut trainer = Trainer::new(&base, arguments(RANKING)).unwrap();
    let error = trainer.train_dataset(&lines, None, |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("embeddings are trained on triplets"), "{error}");
    assert!(trainer.train_step(&retto::PackedBatch::default(), 1e-3).is_err());
    train(&mut Trainer::new(&base, of(RANKING, 4)).unwrap(), &pairs, u64::MAX);
    let refused = |arguments: TrainingArguments, words: &str| {
        let error = Trainer::new(&base, arguments).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(TrainingArguments { lora: Some(LoraConfig::default()), ..arguments(RANKING) }, "low-rank");
    refused(TrainingArguments { batch_tokens: Some(64), ..arguments(RANKING) }, "batch_tokens");
    refused(arguments(EmbeddingLoss::MultipleNegativesRanking { scale: f64::NAN }), "scale");
    let endless = EmbeddingLoss::Triplet {
        distance_metric: DistanceMetric::Cosine,
        triplet_margin: f64::INFINITY,
        semi_hard: false,
    };
    refused(arguments(endless), "triplet_margin");
    refused(
        TrainingArguments { freeze_embeddings: true, freeze_layers: vec![0, 1], ..arguments(RANKING) },
        "nothing left to train",
    );
    // What could not be measured is refused before it is trained for.
    let measured = |data: &Triplets, loss| {
        let mut trainer = Trainer::new(&base, of(loss, 4)).unwrap();
        trainer.train_triplets(data, Some(&pairs), |_| ControlFlow::Continue(())).unwrap_err().to_string()
    };
    assert!(measured(&pairs, triplet_loss(true)).contains("is measured by a negative"));
    fails(&of(RANKING, 1), &pairs, "take at least two triplets");
    train(&mut Trainer::new(&base, of(RANKING, 1)).unwrap(), &given, u64::MAX);
    let compared = |options: DownstreamOptions, held_out: &Triplets| {
        let found = downstream(&base, &base, &songs, held_out, &options, |_| ControlFlow::Continue(()));
        found.unwrap_err().to_string()
    };
    let masked = DownstreamOptions { arguments: TrainingArguments::default(), seeds: 1 };
    assert!(compared(masked, &songs).contains("set Objective::Embedding"));
    assert!(compared(DownstreamOptions { seeds: 0, ..Default::default() }, &songs).contains("seeds is 0"));
    assert!(compared(DownstreamOptions::default(), &pairs).contains("negative with each pair"));
    let options = DownstreamOptions { seeds: 2, ..Default::default() };
    let broken_off = downstream(&base, &base, &songs, &songs, &options, |_| ControlFlow::Break(()));
    assert!(matches!(broken_off, Err(Error::Cancelled)));
}

/// A last batch of one triplet would teach nothing where texts are each other's negatives: it is a part of the one before.
#[test]
fn no_batch_has_a_single_triplet_without_a_negative() {
    let base = fresh_model();
    let data = songs(&base, 9);
    for (loss, want) in [(RANKING, vec![4, 5]), (triplet_loss(true), vec![4, 5]), (triplet_loss(false), vec![4, 4, 1])]
    {
        let mut sizes = Vec::new();
        let mut trainer = Trainer::new(&base, TrainingArguments { num_train_epochs: 1.0, ..arguments(loss) }).unwrap();
        let observe = |event: &TrainEvent| {
            if let TrainEvent::Step(report) = event {
                sizes.push(report.masked_tokens);
            }
            ControlFlow::Continue(())
        };
        let output = trainer.train_triplets(&data, None, observe).unwrap();
        assert_eq!((sizes, output.steps), (want.clone(), want.len() as u64), "{loss:?}");
    }
}

/// A decoder of its own goes with the head, and is not missed when the run goes on.
#[test]
fn a_run_from_a_model_with_a_decoder_of_its_own_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = fresh_model().config().clone();
    config.tie_word_embeddings = false;
    let base = Model::init(gpu(), config, fresh_model().tokenizer().clone(), 7).unwrap();
    let data = given(&base);
    let of = |save_steps| TrainingArguments {
        output_dir: Some(folder.path().into()),
        save_steps,
        load_best_model_at_end: true,
        eval_steps: Some(1),
        learning_rate: 0.5,
        lr_scheduler_type: retto::SchedulerType::Constant,
        num_train_epochs: 6.0,
        freeze_layers: vec![0],
        ..arguments(RANKING)
    };
    let run = |trainer: &mut Trainer, stop_at: u64| {
        let output = trainer.train_triplets(&data, Some(&data), |event| match event {
            TrainEvent::Step(report) if report.step == stop_at => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        output.unwrap()
    };
    let mut whole = Trainer::new(&base, of(None)).unwrap();
    let want = run(&mut whole, u64::MAX);
    // So fast that the last is not the best: its weights are read again.
    assert!(want.best.unwrap().1 < want.steps, "{want:?}");
    let begin = || Trainer::new(&base, of(Some(100))).unwrap();
    run(&mut begin(), 3);
    let mut resumed = begin();
    assert_eq!(resumed.resume_from_checkpoint().unwrap(), Some(3));
    assert_eq!(run(&mut resumed, u64::MAX).best, want.best);
    assert_eq!(bits(resumed.model()), bits(whole.model()));
}

#[test]
fn the_command_trains_evaluates_and_writes_what_embed_opens() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&folder.path().join(name)).to_owned();
    let (base, tuned, songs) = (path("base"), path("tuned"), text(&write_songs(folder.path(), 30)).to_owned());
    fresh_model().save(&base).unwrap();
    let args = ["finetune", "--model", &base, "--train", &songs, "--validation-split", "0.2", "--output", &tuned];
    let more =
        ["--objective", "multiple-negatives-ranking", "--pooling", "cls", "--normalize", "--learning-rate", "2e-3"];
    let steps = ["--num-train-epochs", "3", "--max-seq-length", "24", "--logging-steps", "1"];
    let output = run(&[&args[..], &more, &steps].concat());
    assert!(stdout(&output).contains("9 steps"), "{}", stdout(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("held-out loss"));
    let options = EmbedOptions::open(&tuned).unwrap();
    assert_eq!((options.pooling, options.normalize, options.max_seq_length), (Pooling::Cls, true, Some(24)));
    let config: Value = serde_json::from_slice(&fs::read(format!("{tuned}/config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], serde_json::json!(["BertModel"]));
    let log = fs::read_to_string(format!("{tuned}/metrics.jsonl")).unwrap();
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found = |name: &str| entries.iter().filter_map(|entry| entry[name].as_f64()).collect::<Vec<_>>();
    assert_eq!((found("loss").len(), found("eval_loss").len(), found("eval_accuracy").len()), (9, 3, 3));
    assert!(found("eval_loss")[2] < found("eval_loss")[0], "{log}");
    let vectors = json(&["embed", "--model", &tuned, "--json", "the rain", "you"]);
    let first: f64 = vectors[0].as_array().unwrap().iter().map(|x| x.as_f64().unwrap().powi(2)).sum();
    assert!((first - 1.0).abs() < 1e-5);
    let settings: Value = serde_json::from_slice(&fs::read(format!("{tuned}/training_args.json")).unwrap()).unwrap();
    assert_eq!(settings["objective"]["embedding"]["pooling"], "cls");
    // Its checkpoints embed as it does, the best one as well.
    let checked = path("checked");
    let saved = args.map(|arg| if arg == tuned { checked.as_str() } else { arg });
    stdout(&run(&[&saved[..], &more, &steps, &["--save-steps", "9", "--load-best-model-at-end"]].concat()));
    for folder in ["checkpoint-9", "checkpoint-best"].map(|name| format!("{checked}/{name}")) {
        assert_eq!(EmbedOptions::open(&folder).unwrap(), options, "{folder}");
        assert!(Path::new(&folder).join("training_args.json").exists(), "{folder}");
    }
    // Taken up again at its end, it is complete.
    let saved = [&args[..], &more, &steps, &["--save-steps", "4"]].concat();
    stdout(&run(&saved));
    assert!(stdout(&run(&[&saved[..], &["--resume"]].concat())).contains("9 steps"));
    // A model in this layout is gone on with as it says.
    let (again, triplets) = (path("again"), path("triplets.jsonl"));
    let lines = r#"{"anchor": "the rain", "positive": ["you", "and"], "negative": "town"}"#.to_owned() + "\n\n";
    fs::write(&triplets, lines.repeat(3)).unwrap();
    stdout(&run(&["finetune", "--model", &tuned, "--train", &triplets, "--max-steps", "1", "--output", &again]));
    assert_eq!(EmbedOptions::open(&again).unwrap(), options);

    let bad = |name: &str, content: &str, more: &[&str], words: &[&str]| {
        let data = path(name);
        fs::write(&data, content).unwrap();
        fails(&[&["finetune", "--model", &base, "--train", &data, "--output", &path("bad")], more].concat(), words);
    };
    bad("one.txt", "the rain\n\nthe town\n", &[], &["a triplet takes two songs"]);
    bad("alone.txt", "the rain\n\n\nthe town\n", &[], &["none of 2 songs has two different sections"]);
    let two = "the rain\n\nthe town\n\n\nyou\n\nagain\n";
    bad("half.txt", two, &["--validation-split", "0.5"], &["songs: a triplet takes two songs, and there is 1"]);
    bad("odd.txt", two, &["--scale", "3"], &["--scale is an option of --objective multiple-negatives-ranking"]);
    let ranked = ["--objective", "mnr", "--triplet-margin", "3"];
    bad("odd.txt", two, &ranked, &["--triplet-margin is an option of --objective triplet"]);
    bad("few.txt", two, &["--semi-hard"], &["a batch of 8 triplets", "there are 2"]);
    bad("long.txt", &two.replace("rain", &"rain ".repeat(80)), &["--strict"], &["1 texts are longer than 64 tokens"]);
    let blank = r#"{"anchor": "the rain", "positive": ["", " "]}"#;
    bad("a.jsonl", blank, &[], &["a.jsonl", "line 1", "its positive has no words"]);
    let pair = "{\"anchor\": \"you\", \"positive\": \"you\", \"negative\": null}\n";
    bad("b.jsonl", &(pair.to_owned() + "\n{\"anchor\": \"you\"}\n"), &[], &["line 3", "'positive'"]);
    bad("f.jsonl", &(lines_of(2) + pair), &[], &["line 3", "some have a negative and some have none"]);
    let several = r#"{"anchor": "you", "positive": "town", "negative_1": "rain", "negative_2": "river"}"#;
    bad("g.jsonl", several, &[], &["line 1", "has 'negative_1'", "one negative"]);
    bad("c.jsonl", r#"{"anchor": "you", "positive": "town"}"#, &[], &["takes a negative with each pair"]);
    bad("d.jsonl", r#"{"text": "you"}"#, &["--train", &triplets], &["triplets.jsonl gives triplets"]);
    bad("e.jsonl", &lines_of(3), &["--validation-split", "0.5"], &["know no songs to hold out"]);
    assert!(!Path::new(&path("bad")).join("config.json").exists());
}

/// What sentence-transformers has beside a model is there beside one made of it, too.
#[test]
fn what_embedding_takes_is_carried_over() {
    let base = copy_fixture("fillmask");
    let write = |name: &str, contents: &str| {
        std::fs::create_dir_all(base.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(base.path().join(name), contents).unwrap();
    };
    let module = |index: usize, path: &str, name: &str| {
        format!(
            r#"{{"idx": {index}, "name": "{index}", "path": "{path}", "type": "sentence_transformers.models.{name}"}}"#
        )
    };
    let prompts = r#"{"prompts": {"query": "Search: "}, "default_prompt_name": null, "similarity_fn_name": "dot"}"#;
    write("modules.json", &format!("[{}, {}]", module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling")));
    write("1_Pooling/config.json", r#"{"pooling_mode": "cls"}"#);
    write("sentence_bert_config.json", r#"{"max_seq_length": 24, "do_lower_case": false}"#);
    write("config_sentence_transformers.json", prompts);
    write("songs.txt", "the rain and you\n\nyou and the rain\n\n\nand the rain\n\nthe you and\n");
    let (folder, songs) = (tempfile::tempdir().unwrap(), base.path().join("songs.txt"));
    for (command, more) in [("adapt", &[][..]), ("finetune", &["--per-device-train-batch-size", "1"])] {
        let output = folder.path().join(command);
        let mut args = vec![command, "--model", text(base.path()), "--train", text(&songs), "--output", text(&output)];
        args.extend(["--max-steps", "1"]);
        args.extend(more);
        stdout(&run(&args));
        assert_eq!(std::fs::read_to_string(output.join("config_sentence_transformers.json")).unwrap(), prompts);
        let options = EmbedOptions::open(&output).unwrap();
        assert_eq!((options.pooling, options.max_seq_length), (Pooling::Cls, Some(24)), "{command}");
        write("sentence_bert_config.json", r#"{"max_seq_length": 24, "do_lower_case": true}"#);
        fails(&args, &["lower case"]);
        write("sentence_bert_config.json", r#"{"max_seq_length": 24, "do_lower_case": false}"#);
    }
    // In the model's own place, too.
    let args = ["finetune", "--model", text(base.path()), "--train", text(&songs), "--output", text(base.path())];
    stdout(&run(&[&args[..], &["--max-steps", "1", "--per-device-train-batch-size", "1"]].concat()));
    assert_eq!(std::fs::read_to_string(base.path().join("config_sentence_transformers.json")).unwrap(), prompts);
    assert_eq!(EmbedOptions::open(base.path()).unwrap().max_seq_length, Some(24));
    // But not from the model that was there before: a plain one, written over it, embeds by its mean.
    let (plain, output) = (folder.path().join("plain"), folder.path().join("finetune"));
    fresh_model().save(&plain).unwrap();
    for command in ["finetune", "adapt"] {
        let args = [command, "--model", text(&plain), "--train", text(&songs), "--output", text(&output)];
        stdout(&run(&[&args[..], &["--max-steps", "1", "--per-device-train-batch-size", "1"]].concat()));
        assert!(!output.join("config_sentence_transformers.json").exists(), "{command}");
        let options = EmbedOptions::open(&output).unwrap();
        assert_eq!((options.pooling, output.join("modules.json").exists()), (Pooling::Mean, command == "finetune"));
    }
    let output = folder.path().join("judged");
    let no_text = ["adapt", "--train", text(&songs), "--output", text(&output), "--eval-steps", "1"];
    fails(&[&no_text[..], &["--model", text(base.path())]].concat(), &["--eval-steps", "--validation"]);
}

/// A song that is there twice is not learnt and held out.
#[test]
fn what_is_learnt_does_not_judge() {
    let model = fresh_model();
    let folder = tempfile::tempdir().unwrap();
    let sections = |name: &str, text: &str| {
        let (file, cache) = (folder.path().join(name), folder.path().join(format!("{name}.cache")));
        std::fs::write(&file, text).unwrap();
        let options = PrepareOptions { unit: Unit::Section, ..PrepareOptions::new(32) };
        prepare(model.tokenizer(), &[file], &cache, None, &options, |_| ControlFlow::Continue(())).unwrap();
        Dataset::open(&cache, model.tokenizer()).unwrap()
    };
    let learnt = "the rain\n\nand you\n\n\nthe town\n\nthe river\n";
    let other = "rain and rain\n\nyou and you\n\n\nin the town\n\nriver and town\n";
    let train = Triplets::from_sections(sections("train.txt", learnt)).unwrap();
    let both = sections("both.txt", &format!("{learnt}\n\n{other}"));
    let held_out = Triplets::from_held_out_sections(both, &train).unwrap();
    assert_eq!((held_out.songs().unwrap().0, held_out.learnt()), (2, 4));
    let alone = Triplets::from_sections(sections("other.txt", other)).unwrap();
    assert_eq!((alone.songs(), alone.learnt()), (held_out.songs(), 0));
    let error = Triplets::from_held_out_sections(sections("again.txt", learnt), &train).unwrap_err().to_string();
    assert!(error.contains("4 sections are left out"), "{error}");
}
