//! Training options as C gives them.

use std::ffi::c_char;

use super::failure::{Result, call};
use super::gpu::retto_gpu;
use super::handle;
use super::input::{self, NUL_TERMINATED, Versioned, invalid, retto_string, versioned};
use super::status::retto_status;
use crate::gpu::Gpu;
use crate::model::LoraConfig;
use crate::train::{CommHook, Objective, SchedulerType, TrainingArguments};

/// How the learning rate goes on after the warm-up: linearly to 0, as half a cosine to 0, the same in every step without a
/// warm-up, or the same after it.
pub const RETTO_SCHEDULER_LINEAR: u32 = 0;
pub const RETTO_SCHEDULER_COSINE: u32 = 1;
pub const RETTO_SCHEDULER_CONSTANT: u32 = 2;
pub const RETTO_SCHEDULER_CONSTANT_WITH_WARMUP: u32 = 3;

/// Options of a training run, with the names and defaults of transformers' TrainingArguments and run_mlm.py. Set it up with
/// retto_training_options_init. What it points to has to live until retto_trainer_new returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct retto_training_options {
    pub struct_size: u32,
    /// RETTO_SCHEDULER_LINEAR, the default, and so on.
    pub lr_scheduler_type: u32,
    /// Passes over the training lines; may be a fraction. Default 3.
    pub num_train_epochs: f64,
    /// Optimizer steps, instead of epochs. 0, the default: by epochs.
    pub max_steps: u64,
    /// The highest learning rate of the schedule. Default 5e-5.
    pub learning_rate: f64,
    /// The share of all steps in which the learning rate rises from 0. Default 0.
    pub warmup_ratio: f64,
    /// AdamW's weight decay, for all parameters but biases and LayerNorms. Default 0.
    pub weight_decay: f64,
    /// Default 0.9.
    pub adam_beta1: f64,
    /// Default 0.999.
    pub adam_beta2: f64,
    /// Default 1e-8.
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this 2-norm, all together; 0 turns that off. Default 1.
    pub max_grad_norm: f64,
    /// The share of tokens that are masked. Default 0.15.
    pub mlm_probability: f64,
    /// Of the masked tokens, how many become the mask token. Default 0.8.
    pub mask_replace_prob: f64,
    /// Of the masked tokens, how many become a random one; the rest stay. Default 0.1.
    pub random_replace_prob: f64,
    /// Whether words are masked whole. Default 0.
    pub whole_word_mask: u32,
    /// Lines in a batch. Default 8.
    pub per_device_train_batch_size: u32,
    /// Instead: as many lines in a batch as have this many tokens together. 0, the default: by lines.
    pub batch_tokens: u32,
    /// Whether batches are made of lines of about the same length; the largest is an epoch's first. Default 0.
    pub group_by_length: u32,
    /// Batches in an optimizer step. Default 1.
    pub gradient_accumulation_steps: u32,
    /// Lines in a batch of an evaluation. Default 8.
    pub per_device_eval_batch_size: u32,
    /// Longer lines are cut to this many tokens. 0, the default: the model's longest.
    pub max_seq_length: u32,
    /// Whether the embeddings are left as they are. Default 0.
    pub freeze_embeddings: u32,
    /// Layers that are left as they are, counted from 0. Default none.
    pub freeze_layers: *const u32,
    pub freeze_layers_count: usize,
    /// The rank of a low-rank adaptation, which trains nothing else. 0, the default: the weights are trained.
    pub lora_r: u32,
    /// Whether activations are computed twice instead of kept: less memory for about a third more time, and the same results.
    /// Default 0.
    pub gradient_checkpointing: u32,
    /// A low-rank adaptation's update is scaled by lora_alpha / lora_r. Default 8.
    pub lora_alpha: f64,
    /// The layers a low-rank adaptation is for, by the last part of their name. Default query and value.
    pub lora_target_modules: *const retto_string,
    pub lora_target_modules_count: usize,
    /// Whether the dropout of the model's config is applied. Default 1.
    pub dropout: u32,
    /// Whether linear layers multiply in f16; RETTO_UNSUPPORTED where the adapter has none. Default 0.
    pub fp16: u32,
    /// Steps between two evaluations of the validation lines. 0, the default: after every epoch.
    pub eval_steps: u64,
    /// Evaluations that may go by without a better loss before the run ends early. 0, the default: it does not.
    pub early_stopping_patience: u64,
    /// How much lower a loss has to be to count as better for that. Default 0.
    pub early_stopping_threshold: f64,
    /// Steps between two RETTO_PROGRESS_LOG. Default 500.
    pub logging_steps: u64,
    /// Seed of masks, order and dropout. Default 42.
    pub seed: u64,
    /// Where checkpoints are written and looked for. NULL, the default: nowhere.
    pub output_dir: *const c_char,
    /// Default RETTO_NUL_TERMINATED. 0: as if it were NULL.
    pub output_dir_length: usize,
    /// Steps between two checkpoints; a run that is cancelled writes one, too. 0, the default: none but those of
    /// retto_trainer_checkpoint.
    pub save_steps: u64,
    /// Only so many of the latest checkpoints are kept. 0, the default: all.
    pub save_total_limit: u32,
    /// Whether the run ends with the weights of the evaluation with the lowest loss, which are kept in output_dir. Default 0.
    pub load_best_model_at_end: u32,
    /// Other adapters, opened, that train together with the model's own: each takes its share of every step, which is as large as on
    /// one. The trainer keeps what it needs of them. Default none.
    pub devices: *const *const retto_gpu,
    pub devices_count: usize,
    /// Seconds after which a device that another one does not answer gives up, with RETTO_RANK_FAILED; RETTO_DEVICE_LOST where it is its
    /// driver that does not answer. Default 1800, as with 0.
    pub ddp_timeout: u64,
}
versioned!(retto_training_options, |zero| {
    let defaults = TrainingArguments::default();
    retto_training_options {
        num_train_epochs: defaults.num_train_epochs,
        learning_rate: defaults.learning_rate,
        warmup_ratio: defaults.warmup_ratio,
        weight_decay: defaults.weight_decay,
        adam_beta1: defaults.adam_beta1,
        adam_beta2: defaults.adam_beta2,
        adam_epsilon: defaults.adam_epsilon,
        max_grad_norm: defaults.max_grad_norm,
        mlm_probability: defaults.mlm_probability,
        mask_replace_prob: defaults.mask_replace_prob,
        random_replace_prob: defaults.random_replace_prob,
        per_device_train_batch_size: defaults.per_device_train_batch_size as u32,
        gradient_accumulation_steps: defaults.gradient_accumulation_steps as u32,
        per_device_eval_batch_size: defaults.per_device_eval_batch_size as u32,
        lora_alpha: LoraConfig::default().lora_alpha,
        dropout: defaults.dropout.into(),
        early_stopping_threshold: defaults.early_stopping_threshold,
        logging_steps: defaults.logging_steps,
        seed: defaults.seed,
        ddp_timeout: defaults.ddp_timeout,
        output_dir_length: NUL_TERMINATED,
        ..zero
    }
});

/// Sets options to their defaults: retto_training_options_init(&options, sizeof options). Any thread; does not block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn retto_training_options_init(
    options: *mut retto_training_options,
    struct_size: usize,
) -> retto_status {
    // SAFETY: the caller gives the size.
    call(std::ptr::null_mut(), || unsafe { input::init(options, struct_size) })
}

/// The other devices.
///
/// # Safety
/// As [`arguments`].
pub(super) unsafe fn devices(options: *const retto_training_options) -> Result<Vec<Gpu>> {
    // SAFETY: as the caller promises.
    let o = unsafe { input::read(options)? };
    // SAFETY: likewise.
    let devices = unsafe { input::slice("devices", o.devices, o.devices_count)? };
    devices.iter().map(|&gpu| Ok(handle::get(gpu)?.gpu.clone())).collect()
}

/// The same options in Rust; their ranges are checked there.
///
/// # Safety
/// As the header says: `options` is NULL or holds as many bytes as its `struct_size` says, and points to what it counts.
pub(super) unsafe fn arguments(options: *const retto_training_options) -> Result<TrainingArguments> {
    // SAFETY: as the caller promises.
    let o = unsafe { input::read(options)? };
    let some = |number: u64| (number != 0).then_some(number);
    let some_size = |number: u32| (number != 0).then_some(number as usize);
    // SAFETY: as the caller promises.
    let (freeze_layers, output_dir) = unsafe {
        (
            input::slice("freeze_layers", o.freeze_layers, o.freeze_layers_count)?,
            input::optional_text("output_dir", o.output_dir, o.output_dir_length)?,
        )
    };
    let lora = match o.lora_r {
        0 => None,
        r => {
            let mut lora = LoraConfig { r: r as usize, lora_alpha: o.lora_alpha, ..LoraConfig::default() };
            if o.lora_target_modules_count > 0 {
                let (names, count) = (o.lora_target_modules, o.lora_target_modules_count);
                // SAFETY: as the caller promises.
                let names = unsafe { input::texts("lora_target_modules", names, count)? };
                lora.target_modules = names.into_iter().map(str::to_owned).collect();
            }
            Some(lora)
        }
    };
    Ok(TrainingArguments {
        objective: Objective::MaskedLm,
        ddp_timeout: some(o.ddp_timeout).unwrap_or(TrainingArguments::default().ddp_timeout),
        ddp_comm_hook: CommHook::No,
        balance_devices: false,
        num_train_epochs: o.num_train_epochs,
        max_steps: some(o.max_steps),
        learning_rate: o.learning_rate,
        lr_scheduler_type: match o.lr_scheduler_type {
            RETTO_SCHEDULER_LINEAR => SchedulerType::Linear,
            RETTO_SCHEDULER_COSINE => SchedulerType::Cosine,
            RETTO_SCHEDULER_CONSTANT => SchedulerType::Constant,
            RETTO_SCHEDULER_CONSTANT_WITH_WARMUP => SchedulerType::ConstantWithWarmup,
            other => return Err(invalid(format!("lr_scheduler_type is {other}"))),
        },
        warmup_ratio: o.warmup_ratio,
        weight_decay: o.weight_decay,
        adam_beta1: o.adam_beta1,
        adam_beta2: o.adam_beta2,
        adam_epsilon: o.adam_epsilon,
        max_grad_norm: o.max_grad_norm,
        mlm_probability: o.mlm_probability,
        mask_replace_prob: o.mask_replace_prob,
        random_replace_prob: o.random_replace_prob,
        whole_word_mask: o.whole_word_mask != 0,
        // Needs data that were prepared with masks, which this interface does not read.
        static_mask: false,
        per_device_train_batch_size: o.per_device_train_batch_size as usize,
        batch_tokens: some_size(o.batch_tokens),
        group_by_length: o.group_by_length != 0,
        gradient_accumulation_steps: o.gradient_accumulation_steps as usize,
        per_device_eval_batch_size: o.per_device_eval_batch_size as usize,
        max_seq_length: some_size(o.max_seq_length),
        freeze_layers: freeze_layers.iter().map(|&layer| layer as usize).collect(),
        freeze_embeddings: o.freeze_embeddings != 0,
        lora,
        gradient_checkpointing: o.gradient_checkpointing != 0,
        dropout: o.dropout != 0,
        fp16: o.fp16 != 0,
        eval_steps: some(o.eval_steps),
        early_stopping_patience: some(o.early_stopping_patience),
        early_stopping_threshold: o.early_stopping_threshold,
        load_best_model_at_end: o.load_best_model_at_end != 0,
        logging_steps: o.logging_steps,
        seed: o.seed,
        output_dir: output_dir.filter(|folder| !folder.is_empty()).map(Into::into),
        save_steps: some(o.save_steps),
        save_total_limit: some_size(o.save_total_limit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each option becomes the one of its name: no value here is another's, or a default.
    #[test]
    fn options_become_what_they_are_called() {
        let (layers, folder) = ([1u32, 3], "out");
        let names = ["key", "dense"].map(|name| retto_string { data: name.as_ptr().cast(), length: name.len() });
        let struct_size = size_of::<retto_training_options>() as u32;
        let given = retto_training_options {
            struct_size,
            lr_scheduler_type: RETTO_SCHEDULER_COSINE,
            num_train_epochs: 2.5,
            max_steps: 11,
            learning_rate: 3e-4,
            warmup_ratio: 0.21,
            weight_decay: 0.07,
            adam_beta1: 0.8,
            adam_beta2: 0.98,
            adam_epsilon: 1e-7,
            max_grad_norm: 0.9,
            mlm_probability: 0.3,
            mask_replace_prob: 0.6,
            random_replace_prob: 0.25,
            whole_word_mask: 1,
            per_device_train_batch_size: 5,
            batch_tokens: 99,
            group_by_length: 1,
            gradient_accumulation_steps: 2,
            per_device_eval_batch_size: 6,
            max_seq_length: 40,
            freeze_embeddings: 1,
            freeze_layers: layers.as_ptr(),
            freeze_layers_count: layers.len(),
            lora_r: 4,
            gradient_checkpointing: 1,
            lora_alpha: 12.5,
            lora_target_modules: names.as_ptr(),
            lora_target_modules_count: names.len(),
            dropout: 0,
            fp16: 1,
            eval_steps: 13,
            early_stopping_patience: 14,
            early_stopping_threshold: 0.015,
            logging_steps: 16,
            seed: 17,
            output_dir: folder.as_ptr().cast(),
            output_dir_length: folder.len(),
            save_steps: 18,
            save_total_limit: 19,
            load_best_model_at_end: 1,
            ddp_timeout: 20,
            ..Versioned::defaults()
        };
        // SAFETY: all that it points to is above.
        let got = unsafe { arguments(&given) }.ok();
        let wanted = TrainingArguments {
            lr_scheduler_type: SchedulerType::Cosine,
            num_train_epochs: 2.5,
            max_steps: Some(11),
            learning_rate: 3e-4,
            warmup_ratio: 0.21,
            weight_decay: 0.07,
            adam_beta1: 0.8,
            adam_beta2: 0.98,
            adam_epsilon: 1e-7,
            max_grad_norm: 0.9,
            mlm_probability: 0.3,
            mask_replace_prob: 0.6,
            random_replace_prob: 0.25,
            whole_word_mask: true,
            per_device_train_batch_size: 5,
            batch_tokens: Some(99),
            group_by_length: true,
            gradient_accumulation_steps: 2,
            per_device_eval_batch_size: 6,
            max_seq_length: Some(40),
            freeze_embeddings: true,
            freeze_layers: vec![1, 3],
            lora: Some(LoraConfig { r: 4, lora_alpha: 12.5, target_modules: vec!["key".into(), "dense".into()] }),
            gradient_checkpointing: true,
            dropout: false,
            fp16: true,
            eval_steps: Some(13),
            early_stopping_patience: Some(14),
            early_stopping_threshold: 0.015,
            logging_steps: 16,
            seed: 17,
            output_dir: Some(folder.into()),
            save_steps: Some(18),
            save_total_limit: Some(19),
            load_best_model_at_end: true,
            ddp_timeout: 20,
            ..TrainingArguments::default()
        };
        assert_eq!(got, Some(wanted));
        let defaults = retto_training_options { struct_size, ..Versioned::defaults() };
        // What is on or off, one at a time.
        type Switch = (fn(&mut retto_training_options) -> &mut u32, fn(&mut TrainingArguments) -> &mut bool);
        let switches: [Switch; 7] = [
            (|given| &mut given.whole_word_mask, |wanted| &mut wanted.whole_word_mask),
            (|given| &mut given.group_by_length, |wanted| &mut wanted.group_by_length),
            (|given| &mut given.freeze_embeddings, |wanted| &mut wanted.freeze_embeddings),
            (|given| &mut given.gradient_checkpointing, |wanted| &mut wanted.gradient_checkpointing),
            (|given| &mut given.dropout, |wanted| &mut wanted.dropout),
            (|given| &mut given.fp16, |wanted| &mut wanted.fp16),
            (|given| &mut given.load_best_model_at_end, |wanted| &mut wanted.load_best_model_at_end),
        ];
        for (of_given, of_wanted) in switches {
            let (mut given, mut wanted) = (defaults, TrainingArguments::default());
            *of_given(&mut given) = u32::from(!*of_wanted(&mut wanted));
            *of_wanted(&mut wanted) ^= true;
            // SAFETY: it points to nothing.
            assert_eq!(unsafe { arguments(&given) }.ok(), Some(wanted));
        }
        // SAFETY: it points to nothing.
        assert_eq!(unsafe { arguments(&defaults) }.ok(), Some(TrainingArguments::default()));
    }
}
