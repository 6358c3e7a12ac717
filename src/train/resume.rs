//! Checkpoints of a run: all that a continued run needs to end with the same bits as one that was never interrupted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::arguments::{CommHook, Objective, TrainingArguments};
use super::data::Data;
use crate::error::{Error, Result};
use crate::files::{rename, sync_folder, usual_permissions};
use crate::gpu::Tensor;
use crate::model::{BertConfig, Checkpoint, FolderLock, Model, names, staging_in, write_tensors, zeros_like};

const STATE_FILE: &str = "trainer_state.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// torch's names of AdamW's moments.
const MOMENTS: [&str; 2] = ["exp_avg.", "exp_avg_sq."];

/// First and second moment of each parameter's gradient.
pub(crate) type Moments = Vec<(Tensor, Tensor)>;

/// Zeros, which is where they begin.
pub(crate) fn fresh_moments(model: &Model) -> Result<Moments> {
    let trained = model.bert.trained_parameters();
    let of = |what: &str| zeros_like(&model.gpu, &trained, what);
    Ok(of("the first moment of ")?.into_iter().zip(of("the second moment of ")?).collect())
}

/// Where a run stands. Orders and masks are functions of seed, epoch and example, so steps alone say where.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct State {
    /// Optimizer steps of the run.
    pub(crate) global_step: u64,
    /// The epoch of the next step, and its place there.
    pub(crate) epoch: u64,
    pub(crate) step_of_epoch: u64,
    /// Passes over the data, the bits of an f64.
    pub(crate) passes: u64,
    /// Steps that changed something: what Adam's bias correction counts.
    pub(crate) optimizer_step: u64,
    pub(crate) loss_scale: LossScale,
    pub(crate) samples: usize,
    pub(crate) tokens: usize,
    pub(crate) all: MeanLoss,
    pub(crate) since_log: MeanLoss,
    pub(crate) best: Option<Best>,
    pub(crate) evaluations_without_improvement: u64,
    /// Whether the run was cancelled at a step that was to be evaluated, and was not.
    pub(crate) owes_evaluation: bool,
    /// What the run depends on, by name, as text: floats in JSON would not all come back as they were.
    pub(crate) run: BTreeMap<String, String>,
}

/// What the loss is multiplied with so that its gradients fit into f16; torch's GradScaler, with its defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct LossScale {
    /// The scale is two to this.
    exponent: i32,
    /// Steps since it changed.
    steps: u32,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { exponent: 16, steps: 0 }
    }
}

impl LossScale {
    #[cfg(test)]
    pub(crate) fn of(exponent: i32) -> Self {
        Self { exponent, steps: 0 }
    }

    pub(crate) fn value(self) -> f32 {
        2f32.powi(self.exponent)
    }

    /// After a step whose gradients fitted.
    pub(crate) fn fitted(&mut self) {
        self.steps += 1;
        if self.steps == 2000 {
            // Beyond that the scaled loss itself nears the end of f32.
            *self = Self { exponent: (self.exponent + 1).min(32), steps: 0 };
        }
    }

    /// Halved, after gradients that did not fit; false where that cannot help any more.
    pub(crate) fn halve(&mut self) -> bool {
        *self = Self { exponent: self.exponent - 1, steps: 0 };
        self.exponent >= -16
    }
}

/// The best evaluation so far.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Best {
    /// The bits of an f64.
    loss: u64,
    pub(crate) step: u64,
}

impl Best {
    pub(crate) fn new(loss: f64, step: u64) -> Self {
        Self { loss: loss.to_bits(), step }
    }

    pub(crate) fn loss(&self) -> f64 {
        f64::from_bits(self.loss)
    }
}

/// Mean loss weighted by masked tokens.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct MeanLoss {
    /// The bits of an f64.
    sum: u64,
    tokens: usize,
}

impl MeanLoss {
    pub(crate) fn add(&mut self, loss: f32, tokens: usize) {
        self.sum = (f64::from_bits(self.sum) + f64::from(loss) * tokens as f64).to_bits();
        self.tokens += tokens;
    }

    pub(crate) fn mean(&self) -> f64 {
        f64::from_bits(self.sum) / self.tokens.max(1) as f64
    }
}

/// Of the config what decides how a model computes, and its weights do not show.
const CONFIG: &str = "the model's config";

fn of_config(config: &BertConfig, dropout: bool) -> String {
    let mut text = format!(
        "{} heads, {:?}, layer_norm_eps {}, pad_token_id {:?}",
        config.num_attention_heads, config.hidden_act, config.layer_norm_eps, config.pad_token_id
    );
    if dropout {
        let (hidden, attention) = (config.hidden_dropout_prob, config.attention_probs_dropout_prob);
        text += &format!(", dropout {hidden} and {attention}");
    }
    text
}

/// What a run's bits depend on besides the weights it began with.
pub(crate) fn run_of(
    arguments: &TrainingArguments,
    config: &BertConfig,
    base: &str,
    f16_kernels: &str,
    train: Data,
    validation: Option<Data>,
) -> BTreeMap<String, String> {
    let a = arguments;
    let optional = |n: Option<u64>| n.map_or("none".to_owned(), |n| n.to_string());
    let mut entries = vec![
        ("num_train_epochs", a.num_train_epochs.to_string()),
        ("max_steps", optional(a.max_steps)),
        ("learning_rate", a.learning_rate.to_string()),
        ("lr_scheduler_type", format!("{:?}", a.lr_scheduler_type)),
        ("warmup_ratio", a.warmup_ratio.to_string()),
        ("weight_decay", a.weight_decay.to_string()),
        ("adam_beta1", a.adam_beta1.to_string()),
        ("adam_beta2", a.adam_beta2.to_string()),
        ("adam_epsilon", a.adam_epsilon.to_string()),
        ("max_grad_norm", a.max_grad_norm.to_string()),
        ("mlm_probability", a.mlm_probability.to_string()),
        ("mask_replace_prob", a.mask_replace_prob.to_string()),
        ("random_replace_prob", a.random_replace_prob.to_string()),
        ("whole_word_mask", a.whole_word_mask.to_string()),
        ("static_mask", a.static_mask.to_string()),
        ("batch_tokens", optional(a.batch_tokens.map(|n| n as u64))),
        // By the order of batches, which in earlier builds had the largest anywhere.
        ("group_by_length", if a.group_by_length { "true, the largest first".into() } else { "false".to_owned() }),
        ("per_device_train_batch_size", a.per_device_train_batch_size.to_string()),
        ("gradient_accumulation_steps", a.gradient_accumulation_steps.to_string()),
        ("seed", a.seed.to_string()),
        ("freeze_layers", format!("{:?}", a.freeze_layers)),
        ("freeze_embeddings", a.freeze_embeddings.to_string()),
        ("lora", a.lora.as_ref().map_or("none".into(), |lora| format!("{lora:?}"))),
        ("dropout", a.dropout.to_string()),
        ("fp16", a.fp16.to_string()),
        ("the model to start from", base.to_owned()),
        (CONFIG, of_config(config, a.dropout)),
        // Of the tokens: the tokenizer and max_seq_length count only where they change them.
        ("the training data", train.fingerprint()),
    ];
    // Without, what was recorded before there was another stays valid.
    if a.objective != Objective::MaskedLm {
        entries.push(("objective", format!("{:?}", a.objective)));
        if a.is_judged() {
            // A ranking loss depends on it.
            entries.push(("per_device_eval_batch_size", a.per_device_eval_batch_size.to_string()));
        }
    }
    if a.ddp_comm_hook != CommHook::No {
        entries.push(("ddp_comm_hook", format!("{:?}", a.ddp_comm_hook)));
    }
    if a.fp16 {
        entries.push(("the kernels for f16", f16_kernels.to_owned()));
    }
    // Evaluation decides about the end of such a run.
    if a.is_judged() {
        entries.extend([
            ("early_stopping_patience", optional(a.early_stopping_patience)),
            ("early_stopping_threshold", a.early_stopping_threshold.to_string()),
            ("load_best_model_at_end", a.load_best_model_at_end.to_string()),
            ("eval_steps", optional(a.eval_steps)),
            ("the validation data", validation.map_or("none".into(), Data::fingerprint)),
        ]);
    }
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Refuses to continue a run as another one.
pub(crate) fn check_same_run(was: &BTreeMap<String, String>, is: &BTreeMap<String, String>) -> Result<()> {
    // Recorded only where they are used: what decides about the run's end and its model does not fall away either.
    let judged = ["early_stopping_patience", "load_best_model_at_end"];
    for name in ["objective", "ddp_comm_hook"].into_iter().chain(judged) {
        if let (Some(before), None) = (was.get(name).filter(|it| *it != "none" && *it != "false"), is.get(name)) {
            return Err(Error::OtherRun(format!("{name} was {before}; give what the run began with")));
        }
    }
    for (name, value) in is {
        let before = was.get(name).map(String::as_str);
        // Checkpoints of before it was recorded have none.
        let before = before.or_else(|| (name == CONFIG).then_some(value)).unwrap_or("not recorded");
        if name == "group_by_length" && before == "true" && value != "false" {
            let reason = "it put batches that are grouped by length in another order: end it with the version that it began with";
            return Err(Error::OtherRun(reason.into()));
        }
        if before != value {
            // The rate of every step depends on where the run ends.
            let longer = match name.as_str() {
                "max_steps" | "num_train_epochs" => ", or begin another run with the model that it made",
                _ => "",
            };
            let reason = format!("{name} was {before}, and is {value} now; give what the run began with{longer}");
            return Err(Error::OtherRun(reason));
        }
    }
    Ok(())
}

/// The checkpoints in a folder with their steps, oldest first.
pub(crate) fn checkpoints(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = named_as_checkpoints(folder)?;
    found.retain(|(_, path)| path.join(STATE_FILE).is_file());
    found.sort();
    Ok(found)
}

/// What is called `checkpoint-N` in a folder, with that number, whatever it is.
fn named_as_checkpoints(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let step = |name: &String| name.strip_prefix("checkpoint-").and_then(|step| step.parse::<u64>().ok());
    Ok(names(folder)?.into_iter().filter_map(|name| Some((step(&name)?, folder.join(name)))).collect())
}

/// Refuses a folder called `checkpoint-N` that is none, in whose place a run of so many steps would find out that it cannot write its own.
pub(crate) fn refuse_others(folder: &Path, total: u64) -> Result<()> {
    let named = if folder.is_dir() { named_as_checkpoints(folder)? } else { Vec::new() };
    let is_in_the_way = |(step, path): &(u64, PathBuf)| *step <= total && !path.join(STATE_FILE).is_file();
    match named.into_iter().find(is_in_the_way) {
        Some((_, path)) => {
            let path = path.display();
            let reason =
                format!("{path} has the name of a checkpoint, and no {STATE_FILE}: move it elsewhere, or remove it");
            Err(Error::InvalidArgument(reason))
        }
        None => Ok(()),
    }
}

/// Where the checkpoint of a step is, in a run's output.
pub(super) fn folder_of(output: &Path, step: u64) -> PathBuf {
    output.join(format!("checkpoint-{step}"))
}

/// Writes `checkpoint-N` whole or not at all, then removes the oldest ones beyond `limit`.
pub(crate) fn save(
    folder: &Path,
    model: &Model,
    moments: &Moments,
    state: &State,
    limit: Option<usize>,
) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let staging = staging_in(folder)?;
    let inside = staging.path().join("checkpoint");
    save_model(model, &inside)?;
    let state_path = inside.join(STATE_FILE);
    let json = serde_json::to_string_pretty(state).map_err(std::io::Error::from).map_err(Error::io(&state_path))?;
    fs::write(&state_path, json + "\n").map_err(Error::io(&state_path))?;
    let optimizer = inside.join(OPTIMIZER_FILE);
    let entries = model.bert.trained_parameters().into_iter().zip(moments);
    let entries = entries
        .flat_map(|(parameter, (m, v))| [(parameter, m, MOMENTS[0].to_owned()), (parameter, v, MOMENTS[1].to_owned())]);
    write_tensors(&model.gpu, entries, &optimizer)?;
    usual_permissions(&optimizer, &state_path)?;
    for path in [&state_path, &optimizer] {
        let file = fs::OpenOptions::new().write(true).open(path).map_err(Error::io(path))?;
        file.sync_all().map_err(Error::io(path))?;
    }
    sync_folder(&inside);
    let target = folder_of(folder, state.global_step);
    rename(&inside, &target).map_err(Error::io(&target))?;
    sync_folder(folder);
    let kept = checkpoints(folder)?;
    let surplus = kept.len().saturating_sub(limit.unwrap_or(usize::MAX).max(1));
    for (_, old) in &kept[..surplus] {
        // Under another name first: cut off, it leaves no half of a checkpoint, but what the next run clears away.
        let aside = staging_in(folder).and_then(|aside| {
            rename(old, &aside.path().join("checkpoint")).map_err(Error::io(old))?;
            aside.close().map_err(Error::io(old))
        });
        // A virus scanner or a backup may hold it open: no reason to end a run whose checkpoint is safe. The next one tries again.
        if let Err(error) = aside {
            log::warn!("a checkpoint that is not needed any more could not be removed: {error}");
        }
    }
    Ok(target)
}

/// Writes a run's model: the adapter alone where only that is trained.
pub(crate) fn save_model(model: &Model, folder: &Path) -> Result<()> {
    match model.lora {
        Some(_) => model.save_adapter(folder, ""),
        None => model.save(folder),
    }
}

/// What [`save_model`] wrote, found to fit a run's model.
pub(crate) enum Saved {
    /// An adapter's: the weights beside it are shared.
    Factors(Box<Model>),
    Weights(Checkpoint, FolderLock),
}

/// Looks into what [`save_model`] wrote.
pub(crate) fn open_model(folder: &Path, model: &Model, arguments: &TrainingArguments) -> Result<Saved> {
    if arguments.lora.is_some() != Model::is_adapter(folder) {
        let kinds = ["a whole model", "a low-rank adapter"];
        let [was, is] = if arguments.lora.is_some() { kinds } else { [kinds[1], kinds[0]] };
        let folder = folder.display();
        return Err(Error::OtherRun(format!("{folder}: the run trained {was}, and this one would train {is}")));
    }
    let other = || {
        let folder = folder.display();
        let reason = format!("{folder}: the run began with a model or an adapter of another shape: give that one");
        Error::OtherRun(reason)
    };
    if arguments.lora.is_some() {
        // Its weights are shared, and the factors small.
        let read = model.without_lora()?.with_unmerged_adapter(folder)?;
        if read.parameter_shapes() != model.parameter_shapes() || read.lora != model.lora {
            return Err(other());
        }
        return Ok(Saved::Factors(Box::new(read)));
    }
    let unchanged = FolderLock::shared(folder)?;
    let checkpoint = Checkpoint::open(folder)?;
    // A run of embeddings leaves the head behind, and with it a decoder of its own.
    let has_head = arguments.objective == Objective::MaskedLm;
    let shapes = model.parameter_shapes();
    let mut wanted = shapes.iter().filter(|(key, _)| has_head || key.starts_with("bert."));
    let decoders_differ = has_head && checkpoint.is_untied(model.config()) == model.config().tie_word_embeddings;
    if decoders_differ
        || checkpoint.check_layers(model.config()).is_err()
        || !wanted.all(|(key, shape)| checkpoint.has(key, shape))
    {
        return Err(other());
    }
    Ok(Saved::Weights(checkpoint, unchanged))
}

impl Saved {
    /// Reads it into the model that it was found to fit: with a second one beside it, a run might not come back to the GPU that it was
    /// made on. What training leaves as it is is not read. A failure leaves the model changed in part.
    pub(crate) fn load_into(self, model: &mut Model) -> Result<()> {
        match self {
            Self::Factors(read) => *model = Model { live: model.live, ..*read },
            Self::Weights(checkpoint, _unchanged) => {
                for parameter in model.bert.trained_parameters() {
                    checkpoint.load_into(&model.gpu, &parameter.value, parameter, "")?;
                }
                // Trained, or left behind.
                model.has_mlm_head = checkpoint.has_mlm_head();
            }
        }
        model.gpu.flush()
    }
}

pub(crate) fn read_state(checkpoint: &Path) -> Result<State> {
    let path = checkpoint.join(STATE_FILE);
    let json = fs::read(&path).map_err(Error::io(&path))?;
    serde_json::from_slice(&json).map_err(|error| Error::checkpoint(&path, format!("not the state of a run: {error}")))
}

/// Reads what [`save`] wrote into a run's model and optimizer. Where it does not fit, both are as they were; `begun` is set where a failure
/// may have left them changed in part.
pub(crate) fn load(
    checkpoint: &Path,
    model: &mut Model,
    moments: &mut Moments,
    arguments: &TrainingArguments,
    begun: &AtomicBool,
) -> Result<State> {
    let state = read_state(checkpoint)?;
    let saved = open_model(checkpoint, model, arguments)?;
    let path = checkpoint.join(OPTIMIZER_FILE);
    let optimizer = Checkpoint::open_file(path.clone())?;
    for parameter in model.bert.trained_parameters() {
        for ((key, shape), moment) in
            parameter.parts().into_iter().flat_map(|part| MOMENTS.map(|it| (part.clone(), it)))
        {
            if !optimizer.has(&format!("{moment}{key}"), &shape) {
                let reason = format!("{moment}{key} is missing, or has another shape than {shape:?}");
                return Err(Error::checkpoint(&path, reason));
            }
        }
    }
    begun.store(true, Ordering::Relaxed);
    saved.load_into(model)?;
    if arguments.lora.is_some() {
        *moments = fresh_moments(model)?;
    }
    for (parameter, (m, v)) in model.bert.trained_parameters().into_iter().zip(&*moments) {
        optimizer.load_into(&model.gpu, m, parameter, MOMENTS[0])?;
        optimizer.load_into(&model.gpu, v, parameter, MOMENTS[1])?;
    }
    model.gpu.flush()?;
    begun.store(false, Ordering::Relaxed);
    Ok(state)
}
