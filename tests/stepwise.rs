//! A run that a program advances itself, and data that are not the model's.

mod common;

use std::ops::ControlFlow;
use std::path::Path;

use common::{copy_fixture, fixtures, gpu};
use retto::{
    CompareOptions, Dataset, EmbedOptions, EmbeddingLoss, EmbeddingObjective, Error, EvaluationOptions, Model,
    Objective, Tokenizer, TrainEvent, Trainer, TrainingArguments, TripletEvaluationOptions, Triplets, compare,
};

fn model() -> Model {
    Model::open(gpu(), fixtures().join("fillmask")).unwrap()
}

fn data(tokenizer: &Tokenizer) -> Dataset {
    let lines: Vec<_> = (0..11).map(|i| format!("{} the rain and you", ["you", "and", "the"][i % 3])).collect();
    Dataset::from_lines(tokenizer, &lines, 16).unwrap()
}

/// Eight steps, with an evaluation and a checkpoint by itself after every third.
fn arguments(output_dir: Option<&Path>) -> TrainingArguments {
    TrainingArguments {
        max_steps: Some(8),
        learning_rate: 1e-2,
        mlm_probability: 0.3,
        per_device_train_batch_size: 4,
        eval_steps: Some(3),
        save_steps: output_dir.map(|_| 3),
        output_dir: output_dir.map(Path::to_owned),
        ..Default::default()
    }
}

fn go_on(_: &TrainEvent) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn bits(model: &Model) -> Vec<Vec<u32>> {
    let of = |(key, _): (String, _)| model.parameter(&key).unwrap().into_iter().map(f32::to_bits).collect();
    model.parameter_shapes().into_iter().map(of).collect()
}

#[test]
fn a_run_with_pauses_is_the_run_in_one_call() {
    let model = model();
    let data = data(model.tokenizer());
    let [whole, own] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut trainer = Trainer::new(&model, arguments(Some(whole.path()))).unwrap();
    let mut want = Vec::new();
    let output = trainer.train_dataset(&data, Some(&data), |event| {
        want.extend(described(event));
        ControlFlow::Continue(())
    });
    let output = output.unwrap();
    let trained = bits(trainer.model());

    // Stopped within by the observer, looked at, written where nobody asked for it, and gone on with.
    let mut trainer = Trainer::new(&model, arguments(Some(own.path()))).unwrap();
    let mut run = trainer.begin(&data, Some(&data), go_on).unwrap();
    let mut told = Vec::new();
    let mut in_between = None;
    loop {
        let flow = run.advance(|event| {
            told.extend(described(event));
            match event {
                TrainEvent::Step(report) if [5, 8].contains(&report.step) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        let flow = flow.unwrap();
        if run.output().steps == 4 {
            let path = run.checkpoint().unwrap();
            assert_eq!(path, own.path().join("checkpoint-4"));
            in_between = Some((bits(&run.trainer().snapshot().unwrap()), bits(&Model::open(gpu(), path).unwrap())));
        }
        match flow {
            ControlFlow::Break(()) if run.is_over() => break,
            // That it was ended there is told by a log and a checkpoint of its own.
            ControlFlow::Break(()) => {
                assert!(run.output().cancelled && [5, 8].contains(&run.output().steps));
                told.retain(|line| !["log 5", "saved 5", "saved 8"].iter().any(|own| line.starts_with(own)));
            }
            ControlFlow::Continue(()) => {}
        }
    }
    assert!(run.advance(|event| panic!("nothing is left: {event:?}")).unwrap().is_break());
    let finished = run.finish().unwrap();
    assert_eq!((finished.steps, finished.train_loss, finished.cancelled), (8, output.train_loss, false));
    assert_eq!(told, want);
    assert!(bits(trainer.model()) == trained);
    let (snapshot, saved) = in_between.unwrap();
    assert!(snapshot == saved && snapshot != trained);

    // Another run would not know its own checkpoints from these.
    let refused = trainer.begin(&data, Some(&data), go_on).err().unwrap();
    assert!(refused.to_string().contains("of an earlier run"), "{refused}");

    // A run that is not finished is taken up by another trainer, as one that was killed before that was written.
    std::fs::remove_dir_all(own.path().join("checkpoint-8")).unwrap();
    let mut trainer = Trainer::new(&model, arguments(Some(own.path()))).unwrap();
    assert_eq!(trainer.resume_from_checkpoint().unwrap(), Some(6));
    let mut run = trainer.begin(&data, Some(&data), go_on).unwrap();
    assert!(run.advance(go_on).unwrap().is_continue());
    let output = run.finish().unwrap();
    assert!(output.cancelled && output.steps == 7);
}

fn described(event: &TrainEvent) -> Option<String> {
    match event {
        TrainEvent::Step(report) => Some(format!("step {} {}", report.step, report.loss)),
        TrainEvent::Log { report, loss, .. } => Some(format!("log {} {loss}", report.step)),
        TrainEvent::Evaluated { evaluation, step, .. } => Some(format!("evaluated {step} {}", evaluation.loss)),
        TrainEvent::Saved { step, .. } => Some(format!("saved {step}")),
        _ => None,
    }
}

#[test]
fn triplets_are_advanced_likewise() {
    let model = model();
    let texts = (0..8).map(|i| (format!("the rain {}", "and you ".repeat(i + 1)), "you and the rain".to_owned(), None));
    let triplets = Triplets::from_texts(model.tokenizer(), texts, 24).unwrap();
    let loss = EmbeddingLoss::multiple_negatives_ranking();
    let objective = Objective::Embedding(EmbeddingObjective { loss, ..Default::default() });
    let arguments = TrainingArguments { objective, per_device_train_batch_size: 4, ..Default::default() };
    let mut whole = Trainer::new(&model, arguments.clone()).unwrap();
    let want = whole.train_triplets(&triplets, None, go_on).unwrap();
    let mut trainer = Trainer::new(&model, arguments).unwrap();
    let mut run = trainer.begin_triplets(&triplets, None, go_on).unwrap();
    while run.advance(go_on).unwrap().is_continue() {}
    let got = run.finish().unwrap();
    assert_eq!((got.steps, got.train_loss), (want.steps, want.train_loss));
    assert!(bits(trainer.model()) == bits(whole.model()));
}

#[test]
fn a_run_is_ended_before_it_begins() {
    let model = model();
    let lines = vec!["the rain and you"; 2000];
    let mut trainer = Trainer::new(&model, arguments(None)).unwrap();
    let mut told = 0;
    let ended = trainer.train(&lines, &[], |event| {
        assert!(matches!(event, TrainEvent::Preparing), "{event:?}");
        told += 1;
        if told == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(ended, Err(Error::Cancelled)) && told == 3);
    // Nothing has begun: it may be trained on.
    assert_eq!(trainer.train(&lines[..20], &[], go_on).unwrap().steps, 8);
}

/// Ids of another vocabulary are other words: plausible figures, all of them wrong.
#[test]
fn data_of_another_tokenizer_are_refused() {
    let model = model();
    let folder = copy_fixture("fillmask");
    let path = folder.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    // Two words change places.
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let vocab = &mut json["model"]["vocab"];
    let [rain, you] = ["rain", "you"].map(|word| vocab[word].clone());
    (vocab["rain"], vocab["you"]) = (you, rain);
    std::fs::write(&path, json.to_string()).unwrap();
    let other = Tokenizer::open(folder.path()).unwrap();
    assert_ne!(other.encode("rain").unwrap(), model.tokenizer().encode("rain").unwrap());

    let (own, foreign) = (data(model.tokenizer()), data(&other));
    let texts = || [("the rain", "you and", Some("the the")), ("and you", "rain", Some("the and"))];
    let triplets = Triplets::from_texts(&other, texts(), 16).unwrap();
    let embedding = TrainingArguments { objective: Objective::Embedding(Default::default()), ..arguments(None) };
    let trainer = |arguments: TrainingArguments| Trainer::new(&model, arguments).unwrap();
    let refused: [(&str, retto::Result<()>); 7] = [
        ("train", trainer(arguments(None)).train_dataset(&foreign, None, go_on).map(drop)),
        ("validation", trainer(arguments(None)).train_dataset(&own, Some(&foreign), go_on).map(drop)),
        ("train_triplets", trainer(embedding).train_triplets(&triplets, None, go_on).map(drop)),
        ("evaluate", model.evaluate_dataset(&foreign, &EvaluationOptions::default()).map(drop)),
        ("evaluate_triplets", model.evaluate_triplets(&triplets, &TripletEvaluationOptions::default()).map(drop)),
        ("embed", model.embed_dataset(&foreign, &EmbedOptions::default()).map(drop)),
        ("compare", compare(&model, &model, &foreign, &CompareOptions::default()).map(drop)),
    ];
    for (what, result) in refused {
        let error = result.expect_err(what);
        let is_told = matches!(error, Error::InvalidArgument(_)) && error.to_string().contains("another tokenizer");
        assert!(is_told, "{what}: {error}");
    }
    // The same vocabulary from another folder is the same.
    let same = Tokenizer::open(copy_fixture("fillmask").path()).unwrap();
    assert!(model.evaluate_dataset(&data(&same), &EvaluationOptions::default()).is_ok());
}
