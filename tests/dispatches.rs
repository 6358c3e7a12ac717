//! How many dispatches a query takes, and a step of training: each has a price of its own, which in short queries is most of all. One test, as
//! what counts them counts the whole process's.

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use common::{fresh_model, gpu};
use retto::bench::profile;
use retto::{Model, Trainer, TrainingArguments};

fn of_layers(layers: usize) -> Model {
    let mut config = fresh_model().config().clone();
    config.num_hidden_layers = layers;
    Model::init(gpu(), config, fresh_model().tokenizer().clone(), 1).unwrap()
}

fn counted(run: impl FnOnce()) -> BTreeMap<String, u64> {
    profile::start();
    run();
    profile::finish().into_iter().map(|(kernel, (dispatches, _))| (kernel, dispatches)).collect()
}

#[test]
fn a_layer_takes_eight_dispatches_forward_and_a_query_few_beside_them() {
    let [few, more] = [2, 5].map(of_layers);
    let line = "the rain and the [MASK] again".to_owned();
    let all = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();

    // QKV, attention, projection, LayerNorm, and widening, activation, narrowing, LayerNorm; on GPUs the activation comes with the widening.
    let [two, five] = [&few, &more].map(|model| counted(|| drop(model.fill_mask(&line, 3).unwrap())));
    let a_layer = (all(&five) - all(&two)) / 3;
    assert!((7..=8).contains(&a_layer), "{five:?}");
    // The embeddings; what is wanted of the last layer; the head's two GEMMs, activation, LayerNorm and top k.
    assert!(all(&two) - 2 * a_layer <= 7, "{two:?}");

    // A step in which everything is trained, with dropout.
    let [two, five] = [&few, &more].map(|model| {
        let arguments = TrainingArguments { max_steps: Some(1), ..Default::default() };
        let mut trainer = Trainer::new(model, arguments).unwrap();
        counted(|| {
            trainer.train(&vec![line.clone(); 4], &[], |_| ControlFlow::Continue(())).unwrap();
        })
    });
    let of_a_layer = |kernel: &str| {
        let of = |counts: &BTreeMap<String, u64>| {
            counts.iter().filter(|(name, _)| name.ends_with(kernel)).map(|(_, count)| count).sum::<u64>()
        };
        (of(&five) - of(&two)) / 3
    };
    // Dropout is in the attention and the LayerNorms: forward 4 of the 12 GEMMs, attention, activation, and the two LayerNorms.
    assert_eq!(of_a_layer("dropout::apply"), 0, "{five:?}");
    assert_eq!(of_a_layer("::gemm"), 12, "{five:?}");
    assert_eq!(of_a_layer("layer_norm::forward"), 2, "{five:?}");
    assert_eq!(of_a_layer("::forward"), 4, "{five:?}");
    // With these attention and activation back, 4 for what the LayerNorms do back, and 8 column sums of gradients of vectors.
    assert!(all(&five) - all(&two) <= 3 * 31, "{five:?}");
}
