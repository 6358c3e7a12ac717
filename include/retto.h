/* Retto: BERT masked-language-model queries and adaptation on any GPU.
 *
 * Generated from src/capi by cbindgen (`make header`); do not edit.
 *
 * Every call that can fail returns a retto_status and, where its last argument is not NULL, leaves a retto_error there, to be
 * freed with retto_error_free. Give it the address of a `retto_error *` that is NULL: one that is there is overwritten.
 * Results are written on success only; the exceptions say so.
 *
 * Handles (retto_gpu, retto_model, ...) are opaque. One that was freed, or is of another kind, is answered with
 * RETTO_INVALID_HANDLE. Freeing NULL does nothing.
 *
 * Text is UTF-8, given as bytes and their number, or RETTO_NUL_TERMINATED for text that ends in NUL. Texts and arrays that are
 * given belong to the caller, and have to live until the call returns; texts that are received belong to the library, and live
 * as long as the handle they came from. Paths are UTF-8 on every system.
 *
 * Structs begin with struct_size, so that programs and libraries of different versions understand each other: fields are only
 * ever appended. Options are set up with their _init function; for results, set struct_size to sizeof of the struct.
 *
 * No call aborts the process, writes to stdout or stderr, or touches signals or the environment. The one exception: where the host's
 * memory runs out, the process ends. Nothing is sent anywhere. After fork a child may neither use nor free its parent's handles, and is to end with _exit:
 * drivers wait at exit for threads that it does not have.
 *
 * Before the process exits, or the library is unloaded, every call has to have returned, as the driver is taken down then: cancel what
 * runs, join its thread, and end the log's callback if that is unloaded. Handles need not be freed for it.
 *
 * Weights are read from a mapping of their file: while a model or a checkpoint is being opened, no program may cut that file short
 * or write into it (put another one in its place instead, as retto does), and no medium may go away under it. The system answers
 * reading such a mapping with a signal, which ends the process. Once the call has returned the file is not used any more.
 */

#ifndef RETTO_H
#define RETTO_H

#include <stddef.h>
#include <stdint.h>

/* Instead of a length: the text ends in NUL. */
#define RETTO_NUL_TERMINATED ((size_t)-1)

/* The header's version as one number, for retto_check_version. */
#define RETTO_VERSION \
    (RETTO_VERSION_MAJOR * 1000000u + RETTO_VERSION_MINOR * 1000u + RETTO_VERSION_PATCH)

/**
 * The header's version: a program is compiled against it, and may run with a library of another.
 */
#define RETTO_VERSION_MAJOR 0

#define RETTO_VERSION_MINOR 1

#define RETTO_VERSION_PATCH 0

/**
 * Log levels: each includes those before it.
 */
#define RETTO_LOG_OFF 0

#define RETTO_LOG_ERROR 1

#define RETTO_LOG_WARN 2

#define RETTO_LOG_INFO 3

#define RETTO_LOG_DEBUG 4

#define RETTO_LOG_TRACE 5

/**
 * An adapter's type.
 */
#define RETTO_ADAPTER_OTHER 0

#define RETTO_ADAPTER_DISCRETE 1

#define RETTO_ADAPTER_INTEGRATED 2

#define RETTO_ADAPTER_VIRTUAL 3

/**
 * Software on the CPU.
 */
#define RETTO_ADAPTER_CPU 4

/**
 * What kind of adapter is wanted where there are several.
 */
#define RETTO_POWER_HIGH_PERFORMANCE 0

#define RETTO_POWER_LOW 1

/**
 * What weights are made of: four bytes each, two, or one.
 */
#define RETTO_DTYPE_FLOAT32 0

#define RETTO_DTYPE_FLOAT16 1

#define RETTO_DTYPE_INT8 2

/**
 * How the vectors of a text's tokens become one: their mean, that of the first token, or the largest value of each column.
 */
#define RETTO_POOLING_MEAN 0

#define RETTO_POOLING_CLS 1

#define RETTO_POOLING_MAX 2

/**
 * How the learning rate goes on after the warm-up: linearly to 0, as half a cosine to 0, the same in every step without a
 * warm-up, or the same after it.
 */
#define RETTO_SCHEDULER_LINEAR 0

#define RETTO_SCHEDULER_COSINE 1

#define RETTO_SCHEDULER_CONSTANT 2

#define RETTO_SCHEDULER_CONSTANT_WITH_WARMUP 3

/**
 * What is being told: a step is done; logging_steps are done, and `loss` is the mean since the last log; the validation lines
 * were evaluated; a checkpoint was written, or with load_best_model_at_end the best model so far.
 */
#define RETTO_PROGRESS_STEP 0

#define RETTO_PROGRESS_LOG 1

#define RETTO_PROGRESS_EVALUATED 2

#define RETTO_PROGRESS_SAVED 3

/**
 * Told by retto_trainer_run alone, so that a bar can move and the callback can cancel: the validation lines are being evaluated, `done` of
 * `total` batches; nothing has begun yet, and lines are made tokens of or steps counted. Later versions may tell of other kinds: pass over those
 * you do not know.
 */
#define RETTO_PROGRESS_EVALUATING 4

#define RETTO_PROGRESS_PREPARING 5

/**
 * What lines are for.
 */
#define RETTO_SPLIT_TRAIN 0

#define RETTO_SPLIT_VALIDATION 1

/**
 * What a call came to. A number keeps its meaning for ever; new ones are added at the end, so treat one you do not know as a
 * failure.
 */
enum retto_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Done.
     */
    RETTO_OK = 0,
    /**
     * An argument or option is NULL that must not be, or out of range.
     */
    RETTO_INVALID_ARGUMENT = 1,
    /**
     * A file or folder could not be read or written.
     */
    RETTO_IO = 2,
    /**
     * A checkpoint that is malformed, incomplete, or disagrees with its config.
     */
    RETTO_BAD_CHECKPOINT = 3,
    /**
     * Valid, but of a kind this build or this adapter does not run.
     */
    RETTO_UNSUPPORTED = 4,
    /**
     * No adapter was found, or none that matches.
     */
    RETTO_NO_ADAPTER = 5,
    /**
     * Something needs more than this adapter allows.
     */
    RETTO_DEVICE_LIMIT = 6,
    /**
     * The adapter's memory is exhausted, or would be.
     */
    RETTO_GPU_OUT_OF_MEMORY = 7,
    /**
     * The device was lost (driver reset, unplugged). Every later call on the same retto_gpu, and on what was made with it,
     * answers the same: free them and open a new one.
     */
    RETTO_DEVICE_LOST = 8,
    /**
     * A callback ended what was going on, or retto_trainer_cancel. Of a run, what was trained so far is there, and
     * retto_trainer_resume goes on with it.
     */
    RETTO_CANCELLED = 9,
    /**
     * The handle is in use by another thread, or by the call whose callback this is.
     */
    RETTO_BUSY = 10,
    /**
     * A defect of this library. The process is unharmed; do not use the handle again but to free it.
     */
    RETTO_PANIC = 11,
    /**
     * The header and the library, or a struct_size, do not fit.
     */
    RETTO_ABI_MISMATCH = 12,
    /**
     * The handle was freed, or is not one of this kind.
     */
    RETTO_INVALID_HANDLE = 13,
    /**
     * Text that is not UTF-8.
     */
    RETTO_INVALID_UTF8 = 14,
    /**
     * An index beyond the end.
     */
    RETTO_OUT_OF_RANGE = 15,
    /**
     * Not now: a run that is over, lines for a run that has begun.
     */
    RETTO_WRONG_STATE = 16,
    /**
     * A tokenizer that is missing, malformed, or does not fit the model.
     */
    RETTO_BAD_TOKENIZER = 17,
    /**
     * The checkpoint is an encoder without a masked-language-model head: adapt it first.
     */
    RETTO_NO_MLM_HEAD = 18,
    /**
     * A text to be filled holds no mask.
     */
    RETTO_NO_MASK = 19,
    /**
     * A text has more tokens than the model has positions.
     */
    RETTO_TOO_LONG = 20,
    /**
     * Not a single usable line of text.
     */
    RETTO_EMPTY_CORPUS = 21,
    /**
     * A file of text that cannot be used.
     */
    RETTO_BAD_DATA = 22,
    /**
     * A loss or gradient was not finite. The step changed nothing: lower the learning rate.
     */
    RETTO_DIVERGED = 23,
    /**
     * The driver refused an operation. Every later call on the same retto_gpu answers the same.
     */
    RETTO_GPU_ERROR = 24,
    /**
     * Of several devices that train together one could not go on, or they no longer had the same weights. They and their models can be used;
     * resume the run from a checkpoint with a new trainer.
     */
    RETTO_RANK_FAILED = 25,
    /**
     * A score, loss or vector is not finite: the model's weights are too large, or damaged.
     */
    RETTO_NOT_FINITE = 26,
    /**
     * The checkpoint is of a run with other options, lines or models. Begin anew, in another folder, or give what that run began with.
     */
    RETTO_OTHER_RUN = 27,
    /**
     * Another run, of this process or of another, writes its checkpoints into the folder.
     */
    RETTO_FOLDER_IN_USE = 28,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum retto_status retto_status;
#else
typedef int32_t retto_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A list of adapters.
 */
typedef struct retto_adapters retto_adapters;

/**
 * One vector for each text.
 */
typedef struct retto_embeddings retto_embeddings;

/**
 * Why a call failed, in words. Made by the library where a call is given the address of a `retto_error *`, freed by the
 * caller with retto_error_free.
 */
typedef struct retto_error retto_error;

/**
 * The answers for one or more texts: for each text, for each of its masks, the likeliest tokens, best first.
 */
typedef struct retto_fills retto_fills;

/**
 * An adapter, opened. Any number of threads may use it. Models and trainers made with it keep what they need of it, so that
 * it may be freed before they are.
 */
typedef struct retto_gpu retto_gpu;

/**
 * A model. It never changes: any number of threads may query one at once, and it may be freed while they do, whose calls then
 * end as they would have.
 */
typedef struct retto_model retto_model;

/**
 * A copy of a model in training. One thread at a time may use it, whichever that is: others get RETTO_BUSY, but from
 * retto_trainer_cancel. The model it was made of stays as it is, can be queried meanwhile, and may be freed.
 */
typedef struct retto_trainer retto_trainer;

/**
 * Takes a line of the log: its level (RETTO_LOG_ERROR and on), where it is from and what it says, both UTF-8 that ends in
 * NUL and lives until the callback returns. It is called on any thread, on several at once, in the middle of the library's work; it must
 * not throw or longjmp, and must not call the library, but for retto_version, retto_version_string and retto_status_name.
 */
typedef void (*retto_log_callback)(uint32_t level,
                                   const char *target,
                                   const char *message,
                                   void *user_data);

/**
 * What is known of an adapter. Set struct_size to sizeof(retto_adapter_info) before it is filled. Texts are UTF-8 that ends
 * in NUL.
 */
typedef struct retto_adapter_info {
    uint32_t struct_size;
    /**
     * Its place in the list, which retto_gpu_options.adapter_index takes.
     */
    uint32_t index;
    /**
     * RETTO_ADAPTER_DISCRETE and so on.
     */
    uint32_t adapter_type;
    /**
     * Whether shaders may use f16, which fp16 training needs.
     */
    uint32_t shader_f16;
    /**
     * The name the driver gives.
     */
    const char *name;
    /**
     * "vulkan", "metal" or "dx12".
     */
    const char *backend;
    /**
     * Driver name and version.
     */
    const char *driver;
    /**
     * Bytes of memory; 0 where the driver does not tell.
     */
    uint64_t memory_bytes;
    /**
     * Bytes of the largest buffer binding: the largest parameter a model may have here.
     */
    uint64_t max_storage_buffer_binding_size;
    /**
     * Bytes of the largest buffer.
     */
    uint64_t max_buffer_size;
} retto_adapter_info;

/**
 * Which adapter is opened, and how. Set it up with retto_gpu_options_init.
 */
typedef struct retto_gpu_options {
    uint32_t struct_size;
    /**
     * The adapter with this index in the list; -1, the default: the preferences below choose.
     */
    int32_t adapter_index;
    /**
     * RETTO_POWER_HIGH_PERFORMANCE, the default: discrete before integrated. RETTO_POWER_LOW: the other way round.
     */
    uint32_t power_preference;
    /**
     * Whether an adapter that is software on the CPU may be taken where there is no other. Default 1.
     */
    uint32_t allow_software;
    /**
     * A folder for compiled shaders, which make the next start faster where the driver can keep them. Created if need be. NULL,
     * the default: nothing is kept.
     */
    const char *cache_dir;
    /**
     * Default RETTO_NUL_TERMINATED. 0: as if it were NULL.
     */
    size_t cache_dir_length;
} retto_gpu_options;

/**
 * What is known of a model. Set struct_size to sizeof(retto_model_info) before it is filled. Texts are UTF-8 that ends in
 * NUL.
 */
typedef struct retto_model_info {
    uint32_t struct_size;
    /**
     * Whether it can fill and score blanks: 0 for an encoder without a masked-language-model head, until it is adapted.
     */
    uint32_t has_mlm_head;
    /**
     * The name of its folder; "retto-tiny" for the bundled one.
     */
    const char *name;
    /**
     * What stands for a blank in a text, for example "[MASK]".
     */
    const char *mask_token;
    /**
     * Weights, counted once where they are shared.
     */
    uint64_t num_parameters;
    uint32_t vocab_size;
    uint32_t hidden_size;
    uint32_t num_hidden_layers;
    uint32_t num_attention_heads;
    uint32_t intermediate_size;
    /**
     * The longest text in tokens, special tokens included.
     */
    uint32_t max_position_embeddings;
    /**
     * RETTO_DTYPE_FLOAT32 and so on: what its matrices are kept in.
     */
    uint32_t dtype;
    uint32_t reserved;
} retto_model_info;

/**
 * Text: `length` bytes of UTF-8, or RETTO_NUL_TERMINATED for text that ends in NUL.
 */
typedef struct retto_string {
    const char *data;
    size_t length;
} retto_string;

/**
 * Where one particular word stands among a model's answers. Set struct_size to sizeof(retto_gold_rank) before it is filled.
 */
typedef struct retto_gold_rank {
    uint32_t struct_size;
    /**
     * The word's token.
     */
    uint32_t token;
    /**
     * 1 for the likeliest token of the vocabulary.
     */
    uint64_t rank;
    /**
     * Its probability among the whole vocabulary.
     */
    float score;
    uint32_t reserved;
} retto_gold_rank;

/**
 * Is told between passes how many lines, batches or texts are done, of how many, on the thread that called; none is while they are made
 * tokens of. Anything but 0 ends the call with RETTO_CANCELLED, and without a result. Must not throw or longjmp; it may call
 * anything.
 */
typedef int32_t (*retto_count_callback)(uint64_t done, uint64_t total, void *user_data);

/**
 * How held-out lines are masked and scored. Set it up with retto_evaluation_options_init.
 */
typedef struct retto_evaluation_options {
    uint32_t struct_size;
    /**
     * Whether words are masked whole. Default 0.
     */
    uint32_t whole_word_mask;
    /**
     * The share of tokens that are masked. Default 0.15.
     */
    double mlm_probability;
    /**
     * Of the masked tokens, how many become the mask token. Default 0.8.
     */
    double mask_replace_prob;
    /**
     * Of the masked tokens, how many become a random one; the rest stay. Default 0.1.
     */
    double random_replace_prob;
    /**
     * Lines in a batch. Default 32.
     */
    uint32_t per_device_eval_batch_size;
    /**
     * Longer lines are cut to this many tokens. 0, the default: the model's longest.
     */
    uint32_t max_seq_length;
    /**
     * The same seed gives every model with the same tokenizer the same blanks. Default 42.
     */
    uint64_t seed;
    /**
     * Is told of batches that are done. Default NULL.
     */
    retto_count_callback on_progress;
    void *user_data;
} retto_evaluation_options;

/**
 * What an evaluation found. Set struct_size to sizeof(retto_evaluation) before it is filled.
 */
typedef struct retto_evaluation {
    uint32_t struct_size;
    uint32_t reserved;
    /**
     * Mean cross entropy of the masked tokens, in nats.
     */
    double loss;
    /**
     * exp(loss)
     */
    double perplexity;
    /**
     * The share of masked tokens that the model thought likeliest.
     */
    double top1_accuracy;
    /**
     * The share of masked tokens among the ten the model thought likeliest.
     */
    double top10_accuracy;
    /**
     * How many tokens were masked.
     */
    uint64_t masked_tokens;
} retto_evaluation;

/**
 * One answer for one mask. Set struct_size to sizeof(retto_fill) before it is filled. Texts are UTF-8 that ends in NUL, and
 * their lengths leave it out.
 */
typedef struct retto_fill {
    uint32_t struct_size;
    /**
     * The token's id.
     */
    uint32_t token;
    /**
     * Its probability among the whole vocabulary.
     */
    float score;
    uint32_t reserved;
    /**
     * Its text, as transformers shows it: a piece that goes on from the one before begins with "##".
     */
    const char *token_str;
    size_t token_str_length;
    /**
     * The text with this token in the mask's place, as transformers shows it: put together again from tokens, not the text that was
     * given. An uncased model's is in lower case; spaces, line breaks and punctuation are set anew; what the vocabulary does not
     * have is left out; with several masks the others, [CLS] and [SEP] are in it. To put an answer into a text of your own,
     * replace the mask there by token_str.
     */
    const char *sequence;
    size_t sequence_length;
} retto_fill;

/**
 * How texts are embedded. Set it up with retto_embed_options_init, and have it read from a model's folder with
 * retto_embed_options_open.
 */
typedef struct retto_embed_options {
    uint32_t struct_size;
    /**
     * RETTO_POOLING_MEAN, the default, and so on.
     */
    uint32_t pooling;
    /**
     * Whether vectors are scaled to a 2-norm of 1. Default 0.
     */
    uint32_t normalize;
    /**
     * Longest text in tokens; longer ones are cut. 0, the default: the model's longest.
     */
    uint32_t max_seq_length;
    /**
     * Whether a text that would be cut is refused (RETTO_TOO_LONG) instead. Default 0.
     */
    uint32_t strict;
    /**
     * Whether texts are put into lower case before they are tokenized. Default 0.
     */
    uint32_t do_lower_case;
    /**
     * Is told of texts that are done. Default NULL.
     */
    retto_count_callback on_progress;
    void *user_data;
} retto_embed_options;

/**
 * Options of a training run, with the names and defaults of transformers' TrainingArguments and run_mlm.py. Set it up with
 * retto_training_options_init. What it points to has to live until retto_trainer_new returns.
 */
typedef struct retto_training_options {
    uint32_t struct_size;
    /**
     * RETTO_SCHEDULER_LINEAR, the default, and so on.
     */
    uint32_t lr_scheduler_type;
    /**
     * Passes over the training lines; may be a fraction. Default 3.
     */
    double num_train_epochs;
    /**
     * Optimizer steps, instead of epochs. 0, the default: by epochs.
     */
    uint64_t max_steps;
    /**
     * The highest learning rate of the schedule. Default 5e-5.
     */
    double learning_rate;
    /**
     * The share of all steps in which the learning rate rises from 0. Default 0.
     */
    double warmup_ratio;
    /**
     * AdamW's weight decay, for all parameters but biases and LayerNorms. Default 0.
     */
    double weight_decay;
    /**
     * Default 0.9.
     */
    double adam_beta1;
    /**
     * Default 0.999.
     */
    double adam_beta2;
    /**
     * Default 1e-8.
     */
    double adam_epsilon;
    /**
     * Gradients are scaled down to this 2-norm, all together; 0 turns that off. Default 1.
     */
    double max_grad_norm;
    /**
     * The share of tokens that are masked. Default 0.15.
     */
    double mlm_probability;
    /**
     * Of the masked tokens, how many become the mask token. Default 0.8.
     */
    double mask_replace_prob;
    /**
     * Of the masked tokens, how many become a random one; the rest stay. Default 0.1.
     */
    double random_replace_prob;
    /**
     * Whether words are masked whole. Default 0.
     */
    uint32_t whole_word_mask;
    /**
     * Lines in a batch. Default 8.
     */
    uint32_t per_device_train_batch_size;
    /**
     * Instead: as many lines in a batch as have this many tokens together. 0, the default: by lines.
     */
    uint32_t batch_tokens;
    /**
     * Whether batches are made of lines of about the same length; the largest is an epoch's first. Default 0.
     */
    uint32_t group_by_length;
    /**
     * Batches in an optimizer step. Default 1.
     */
    uint32_t gradient_accumulation_steps;
    /**
     * Lines in a batch of an evaluation. Default 8.
     */
    uint32_t per_device_eval_batch_size;
    /**
     * Longer lines are cut to this many tokens. 0, the default: the model's longest.
     */
    uint32_t max_seq_length;
    /**
     * Whether the embeddings are left as they are. Default 0.
     */
    uint32_t freeze_embeddings;
    /**
     * Layers that are left as they are, counted from 0. Default none.
     */
    const uint32_t *freeze_layers;
    size_t freeze_layers_count;
    /**
     * The rank of a low-rank adaptation, which trains nothing else. 0, the default: the weights are trained.
     */
    uint32_t lora_r;
    /**
     * Whether activations are computed twice instead of kept: less memory for about a third more time, and the same results.
     * Default 0.
     */
    uint32_t gradient_checkpointing;
    /**
     * A low-rank adaptation's update is scaled by lora_alpha / lora_r. Default 8.
     */
    double lora_alpha;
    /**
     * The layers a low-rank adaptation is for, by the last part of their name. Default query and value.
     */
    const struct retto_string *lora_target_modules;
    size_t lora_target_modules_count;
    /**
     * Whether the dropout of the model's config is applied. Default 1.
     */
    uint32_t dropout;
    /**
     * Whether linear layers multiply in f16; RETTO_UNSUPPORTED where the adapter has none. Default 0.
     */
    uint32_t fp16;
    /**
     * Steps between two evaluations of the validation lines. 0, the default: after every epoch.
     */
    uint64_t eval_steps;
    /**
     * Evaluations that may go by without a better loss before the run ends early. 0, the default: it does not.
     */
    uint64_t early_stopping_patience;
    /**
     * How much lower a loss has to be to count as better for that. Default 0.
     */
    double early_stopping_threshold;
    /**
     * Steps between two RETTO_PROGRESS_LOG. Default 500.
     */
    uint64_t logging_steps;
    /**
     * Seed of masks, order and dropout. Default 42.
     */
    uint64_t seed;
    /**
     * Where checkpoints are written and looked for. NULL, the default: nowhere.
     */
    const char *output_dir;
    /**
     * Default RETTO_NUL_TERMINATED. 0: as if it were NULL.
     */
    size_t output_dir_length;
    /**
     * Steps between two checkpoints; a run that is cancelled writes one, too. 0, the default: none but those of
     * retto_trainer_checkpoint.
     */
    uint64_t save_steps;
    /**
     * Only so many of the latest checkpoints are kept. 0, the default: all.
     */
    uint32_t save_total_limit;
    /**
     * Whether the run ends with the weights of the evaluation with the lowest loss, which are kept in output_dir. Default 0.
     */
    uint32_t load_best_model_at_end;
    /**
     * Other adapters, opened, that train together with the model's own: each takes its share of every step, which is as large as on
     * one. The trainer keeps what it needs of them. Default none.
     */
    const struct retto_gpu *const *devices;
    size_t devices_count;
    /**
     * Seconds after which a device that another one does not answer gives up, with RETTO_RANK_FAILED; RETTO_DEVICE_LOST where it is its
     * driver that does not answer. Default 1800, as with 0.
     */
    uint64_t ddp_timeout;
} retto_training_options;

/**
 * Where a run stands. What does not belong to its kind is 0.
 */
typedef struct retto_progress {
    /**
     * For retto_trainer_step, set it to sizeof(retto_progress). In a callback: the library's own size; read no field beyond.
     */
    uint32_t struct_size;
    /**
     * RETTO_PROGRESS_STEP and so on.
     */
    uint32_t kind;
    /**
     * Steps done, and of the whole run.
     */
    uint64_t step;
    uint64_t max_steps;
    /**
     * Passes over the training lines so far, with the fraction of the present one.
     */
    double epoch;
    /**
     * Mean cross entropy of the step's masked tokens before the step, in nats.
     */
    double loss;
    /**
     * 2-norm of all gradients before clipping.
     */
    double grad_norm;
    double learning_rate;
    /**
     * Tokens of the step, and how many of them were masked.
     */
    uint64_t tokens;
    uint64_t masked_tokens;
    /**
     * Tokens a second since the run began or was taken up, evaluation and callbacks left out.
     */
    double tokens_per_second;
    /**
     * Seconds the remaining steps will take at the pace of the latest ones.
     */
    double seconds_left;
    /**
     * What an evaluation found, as in retto_evaluation. eval_masked_tokens is 0 where there was none.
     */
    double eval_loss;
    double eval_top1_accuracy;
    double eval_top10_accuracy;
    uint64_t eval_masked_tokens;
    /**
     * The checkpoint's folder, UTF-8 that ends in NUL, valid until the callback returns; else NULL.
     */
    const char *path;
    /**
     * Whether no step is left. That evaluations end a run early is known only when it has ended.
     */
    uint32_t is_over;
    uint32_t reserved;
    /**
     * Of RETTO_PROGRESS_EVALUATING: batches so far, and in all; of several devices, the first one's.
     */
    uint64_t done;
    uint64_t total;
} retto_progress;

/**
 * Is told where a run stands, on the thread that called retto_trainer_run. Anything but 0 cancels the run when the present step, or batch of an
 * evaluation, is done. Must not throw or longjmp. Of this trainer it may call retto_trainer_cancel only; of others, and of models, anything.
 */
typedef int32_t (*retto_progress_callback)(const struct retto_progress *progress, void *user_data);

/**
 * What a run came to, parts before it was resumed included. Set struct_size to sizeof(retto_train_output) before it is filled.
 */
typedef struct retto_train_output {
    uint32_t struct_size;
    /**
     * Whether it was cancelled before it was over.
     */
    uint32_t cancelled;
    /**
     * Whether it ended because evaluations stopped improving.
     */
    uint32_t stopped_early;
    uint32_t reserved;
    /**
     * Optimizer steps.
     */
    uint64_t steps;
    /**
     * Passes over the lines.
     */
    double epoch;
    /**
     * Mean loss over the masked tokens of all steps.
     */
    double train_loss;
    /**
     * Lines and tokens trained on, counted as often as they came.
     */
    uint64_t samples;
    uint64_t tokens;
    /**
     * Lines that were cut to max_seq_length.
     */
    uint64_t truncated;
    /**
     * Seconds in this trainer's calls, evaluation included.
     */
    double runtime;
    /**
     * The lowest loss of all evaluations, and the step it was found at; best_step is 0 where there was none.
     */
    double best_loss;
    uint64_t best_step;
} retto_train_output;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The library's version, as RETTO_VERSION writes it: major * 1000000 + minor * 1000 + patch. Any thread; does not block.
 */
uint32_t retto_version(void);

/**
 * The library's version as text, for example "0.1.0". Static; never NULL. Any thread; does not block.
 */
const char *retto_version_string(void);

/**
 * Whether this library serves a program compiled with the header of `header_version`: call it once, with RETTO_VERSION,
 * before anything else. RETTO_ABI_MISMATCH where the major versions differ or the library is the older one: an old library
 * found in a system folder, for example. Any thread; does not block.
 */
retto_status retto_check_version(uint32_t header_version,
                                 struct retto_error **error);

/**
 * The name of a status, for example "RETTO_NO_MASK", or "unknown" for a number that is none. Static; never NULL. Any thread; does not block.
 */
const char *retto_status_name(int32_t status);

/**
 * The status the call returned; RETTO_INVALID_ARGUMENT for NULL, RETTO_INVALID_HANDLE for a freed error. Any thread; does not block.
 */
retto_status retto_error_status(const struct retto_error *error);

/**
 * What happened, in English, as UTF-8 that ends in NUL; it names the file, value or limit at fault. Valid until the error is
 * freed. Never NULL: for NULL or a freed error it is an empty string. Any thread; does not block.
 */
const char *retto_error_message(const struct retto_error *error);

/**
 * Frees an error. NULL is allowed, and a second time does no harm. Any thread; does not block.
 */
retto_status retto_error_free(struct retto_error *error);

/**
 * Sends the library's log, and that of the GPU layer below it, to a callback: lines of `level` (RETTO_LOG_WARN, say) and
 * above. A NULL callback or RETTO_LOG_OFF ends it; when this returns, the former callback is not called any more. For the
 * whole process; silent by default. `user_data` is handed to the callback and may be NULL.
 *
 * Any thread; blocks while a callback is running; from inside it: RETTO_BUSY.
 */
retto_status retto_log_set(retto_log_callback callback,
                           void *user_data,
                           uint32_t level,
                           struct retto_error **error);

/**
 * Lists the adapters of this machine; an empty list where there is none. Free it with retto_adapters_free. Any thread; blocks
 * while drivers are asked.
 */
retto_status retto_adapters_list(struct retto_adapters **adapters,
                                 struct retto_error **error);

/**
 * How many adapters are in the list; 0 for NULL or a freed list. Any thread; does not block.
 */
size_t retto_adapters_count(const struct retto_adapters *adapters);

/**
 * Fills `info` with the adapter at `index`; RETTO_OUT_OF_RANGE beyond the end. Its texts are valid until the list is freed.
 * Any thread; does not block.
 */
retto_status retto_adapters_get(const struct retto_adapters *adapters,
                                size_t index,
                                struct retto_adapter_info *info,
                                struct retto_error **error);

/**
 * Frees a list. NULL is allowed. Any thread; does not block.
 */
retto_status retto_adapters_free(struct retto_adapters *adapters);

/**
 * Sets options to their defaults: retto_gpu_options_init(&options, sizeof options). Any thread; does not block.
 */
retto_status retto_gpu_options_init(struct retto_gpu_options *options,
                                    size_t struct_size);

/**
 * Opens an adapter; NULL options are the defaults. RETTO_NO_ADAPTER where there is none, or none that is allowed. Free it with
 * retto_gpu_free. Any thread; blocks for the driver, some 0.1 to 1 s.
 */
retto_status retto_gpu_open(const struct retto_gpu_options *options,
                            struct retto_gpu **gpu,
                            struct retto_error **error);

/**
 * Fills `info` with the adapter that was opened. Its texts are valid until the gpu is freed. Any thread; does not block.
 */
retto_status retto_gpu_adapter(const struct retto_gpu *gpu,
                               struct retto_adapter_info *info,
                               struct retto_error **error);

/**
 * Bytes of GPU memory held by everything that was made with this gpu: weights, activations, and the workspaces kept for the
 * next call. Any thread; does not block.
 */
retto_status retto_gpu_memory_in_use(const struct retto_gpu *gpu,
                                     uint64_t *bytes,
                                     struct retto_error **error);

/**
 * Gives back the workspaces kept for the next call; they are made again when needed. Any thread; does not block.
 */
retto_status retto_gpu_trim(const struct retto_gpu *gpu,
                            struct retto_error **error);

/**
 * Frees a gpu. NULL is allowed. Models and trainers made with it live on. Any thread; what is freed last of a gpu and all that was
 * made with it blocks until the GPU has done what it was given and the driver's cache is written, where there is a cache_dir.
 */
retto_status retto_gpu_free(struct retto_gpu *gpu);

/**
 * Opens a model's folder in Hugging Face's layout: config.json, model.safetensors or shards of it, tokenizer.json or
 * vocab.txt. Free it with retto_model_free. Any thread; blocks while the weights are read and uploaded.
 */
retto_status retto_model_open(const struct retto_gpu *gpu,
                              const char *path,
                              size_t path_length,
                              struct retto_model **model,
                              struct retto_error **error);

/**
 * Opens a model's folder with matrices of this RETTO_DTYPE: as retto_model_to_dtype makes them, without the memory for more than a few
 * of them in float32; otherwise as retto_model_open.
 */
retto_status retto_model_open_with_dtype(const struct retto_gpu *gpu,
                                         const char *path,
                                         size_t path_length,
                                         uint32_t dtype,
                                         struct retto_model **model,
                                         struct retto_error **error);

/**
 * Opens a model's folder with a low-rank adapter in PEFT's format added to its weights; otherwise as retto_model_open.
 */
retto_status retto_model_open_with_adapter(const struct retto_gpu *gpu,
                                           const char *path,
                                           size_t path_length,
                                           const char *adapter_path,
                                           size_t adapter_path_length,
                                           struct retto_model **model,
                                           struct retto_error **error);

/**
 * Opens the model that is part of the library, where it was built with one; otherwise RETTO_UNSUPPORTED. Free it with
 * retto_model_free. Any thread; blocks while the weights are uploaded.
 */
retto_status retto_model_open_default(const struct retto_gpu *gpu,
                                      struct retto_model **model,
                                      struct retto_error **error);

/**
 * A copy of a model whose matrices are of this RETTO_DTYPE: in float16 and int8 they take half or a quarter of the GPU's memory, for
 * nearly the same answers. The model itself may be freed, and its memory then is. A copy in float16 or int8 is for queries: to train
 * or save it, or to make another type of it, is RETTO_UNSUPPORTED. Free it with retto_model_free. Any thread; blocks while it is made.
 */
retto_status retto_model_to_dtype(const struct retto_model *model,
                                  uint32_t dtype,
                                  struct retto_model **copy,
                                  struct retto_error **error);

/**
 * Fills `info`. Its texts are valid until the model is freed. Any thread; does not block.
 */
retto_status retto_model_get_info(const struct retto_model *model,
                                  struct retto_model_info *info,
                                  struct retto_error **error);

/**
 * Compiles what queries need, so that the first one takes no longer than those after it; and keeps it, where the gpu was given
 * a cache_dir. Any thread; blocks, for seconds on a first start.
 */
retto_status retto_model_warm_up(const struct retto_model *model,
                                 struct retto_error **error);

/**
 * The `top_k` likeliest tokens for each mask of one text, best first. Masks are answered independently, each with the others
 * still masked. Free the answers with retto_fills_free. Any thread, several at once; blocks until the GPU has answered, which
 * comes after a training step that is on it.
 */
retto_status retto_model_fill_mask(const struct retto_model *model,
                                   const char *text,
                                   size_t text_length,
                                   size_t top_k,
                                   struct retto_fills **fills,
                                   struct retto_error **error);

/**
 * As retto_model_fill_mask does for one, for several texts at once, which is faster than one by one; blocks until all are answered. If one
 * text is at fault, none is.
 */
retto_status retto_model_fill_mask_batch(const struct retto_model *model,
                                         const struct retto_string *texts,
                                         size_t text_count,
                                         size_t top_k,
                                         struct retto_fills **fills,
                                         struct retto_error **error);

/**
 * Where the word `gold` stands among the answers for the one mask of a text. RETTO_INVALID_ARGUMENT where the text has several
 * masks, or the word is not one token of the vocabulary. Any thread; blocks as retto_model_fill_mask.
 */
retto_status retto_model_rank_gold(const struct retto_model *model,
                                   const char *text,
                                   size_t text_length,
                                   const char *gold,
                                   size_t gold_length,
                                   struct retto_gold_rank *rank,
                                   struct retto_error **error);

/**
 * Sets options to their defaults: retto_evaluation_options_init(&options, sizeof options). Any thread; does not block.
 */
retto_status retto_evaluation_options_init(struct retto_evaluation_options *options,
                                           size_t struct_size);

/**
 * Masks held-out lines, always in the same way, and measures how they are filled. NULL options are the defaults. Any thread;
 * blocks until all lines are done, or the options' callback ends it: RETTO_CANCELLED.
 */
retto_status retto_model_evaluate(const struct retto_model *model,
                                  const struct retto_string *lines,
                                  size_t line_count,
                                  const struct retto_evaluation_options *options,
                                  struct retto_evaluation *evaluation,
                                  struct retto_error **error);

/**
 * Writes a folder that retto and transformers open: all of it or nothing, over a model that was there. The names of a model's files are
 * its own: config.json, model*.safetensors, tokenizer*.json, vocab.txt, special_tokens_map.json and added_tokens.json of before are
 * replaced or, if this model has none, removed; other files stay. Any thread; blocks while the weights are read back and
 * written.
 */
retto_status retto_model_save(const struct retto_model *model,
                              const char *path,
                              size_t path_length,
                              struct retto_error **error);

/**
 * Frees a model. NULL is allowed. Queries of other threads that are under way end as they would have; a trainer made of it lives
 * on. Any thread; it may block as retto_gpu_free may.
 */
retto_status retto_model_free(struct retto_model *model);

/**
 * How many texts were asked about; 0 for NULL or freed answers. Any thread; does not block, as all of these.
 */
size_t retto_fills_text_count(const struct retto_fills *fills);

/**
 * How many masks text number `text` has. Any thread; does not block.
 */
retto_status retto_fills_mask_count(const struct retto_fills *fills,
                                    size_t text,
                                    size_t *count,
                                    struct retto_error **error);

/**
 * How many answers there are for mask number `mask` of text number `text`: top_k, or the whole vocabulary if that is less.
 * Any thread; does not block.
 */
retto_status retto_fills_count(const struct retto_fills *fills,
                               size_t text,
                               size_t mask,
                               size_t *count,
                               struct retto_error **error);

/**
 * Fills `fill` with the answer at `rank` (0 is the best); RETTO_OUT_OF_RANGE names the index that is beyond the end. Its texts
 * are valid until the answers are freed. Any thread; does not block.
 */
retto_status retto_fills_get(const struct retto_fills *fills,
                             size_t text,
                             size_t mask,
                             size_t rank,
                             struct retto_fill *fill,
                             struct retto_error **error);

/**
 * Frees answers. NULL is allowed. Any thread; does not block.
 */
retto_status retto_fills_free(struct retto_fills *fills);

/**
 * Sets options to their defaults: retto_embed_options_init(&options, sizeof options). Any thread; does not block.
 */
retto_status retto_embed_options_init(struct retto_embed_options *options,
                                      size_t struct_size);

/**
 * Fills options with what the folder of a sentence-transformers model says, and no callback; of any other model's, with the
 * defaults, but that max_seq_length is what its tokenizer says, where that says so. Set struct_size before. RETTO_UNSUPPORTED for
 * parts this library does not have. Any thread; blocks while small files are read.
 */
retto_status retto_embed_options_open(const char *folder,
                                      size_t folder_length,
                                      struct retto_embed_options *options,
                                      struct retto_error **error);

/**
 * One vector for each text. Lines of a text are joined by the separator token. NULL options are the defaults. Free the vectors
 * with retto_embeddings_free. Any thread, several at once; blocks until all are done or the options' callback ends it: RETTO_CANCELLED.
 * Each pass comes after a training step that is on the GPU.
 */
retto_status retto_model_embed(const struct retto_model *model,
                               const struct retto_string *texts,
                               size_t text_count,
                               const struct retto_embed_options *options,
                               struct retto_embeddings **embeddings,
                               struct retto_error **error);

/**
 * How many vectors there are; 0 for NULL or freed ones. Any thread; does not block, as all of these.
 */
size_t retto_embeddings_count(const struct retto_embeddings *embeddings);

/**
 * Numbers in a vector; 0 for NULL or freed ones. Any thread; does not block.
 */
size_t retto_embeddings_dimension(const struct retto_embeddings *embeddings);

/**
 * How many texts were longer than the longest sequence, and cut; 0 for NULL or freed ones. Any thread; does not block.
 */
size_t retto_embeddings_truncated(const struct retto_embeddings *embeddings);

/**
 * All numbers, a vector after another, in the order of the texts: count times dimension of them, valid until the embeddings
 * are freed. NULL for NULL or freed ones, and where there is no vector. Any thread; does not block.
 */
const float *retto_embeddings_values(const struct retto_embeddings *embeddings);

/**
 * Frees embeddings. NULL is allowed. Any thread; does not block.
 */
retto_status retto_embeddings_free(struct retto_embeddings *embeddings);

/**
 * Sets options to their defaults: retto_training_options_init(&options, sizeof options). Any thread; does not block.
 */
retto_status retto_training_options_init(struct retto_training_options *options,
                                         size_t struct_size);

/**
 * Makes a trainer: a copy of what will be trained of a model, with room for gradients and optimizer; about four times its
 * memory, and much less for a low-rank adaptation. NULL options are the defaults. Free it with retto_trainer_free. Any thread;
 * blocks while weights are copied on the GPU and, the first time with a cache_dir, while kernels are measured: some seconds.
 */
retto_status retto_trainer_new(const struct retto_model *model,
                               const struct retto_training_options *options,
                               struct retto_trainer **trainer,
                               struct retto_error **error);

/**
 * Adds lines, each an example, for training (RETTO_SPLIT_TRAIN) or to be held out (RETTO_SPLIT_VALIDATION). They are copied.
 * RETTO_WRONG_STATE once the run has begun. One thread at a time; blocks while they are copied.
 */
retto_status retto_trainer_add_lines(const struct retto_trainer *trainer,
                                     uint32_t split,
                                     const struct retto_string *lines,
                                     size_t line_count,
                                     struct retto_error **error);

/**
 * Adds the lines of a file, or of all files of a folder: .txt, .lrc, ChordPro, .jsonl, .csv and .tsv (their field `text`), also
 * compressed as .gz or .zst. Headings, as [Chorus] or Verse 2:, are left out. One that cannot be used is an error, and
 * nothing is added. `line_count`, which may be NULL, gets how many lines that are. Otherwise as retto_trainer_add_lines.
 * One thread at a time; blocks while files are read, which retto_trainer_cancel ends, with RETTO_CANCELLED.
 */
retto_status retto_trainer_add_file(const struct retto_trainer *trainer,
                                    uint32_t split,
                                    const char *path,
                                    size_t path_length,
                                    size_t *line_count,
                                    struct retto_error **error);

/**
 * Trains until the run is over, or goes on with one that was begun. `progress`, which may be NULL, is told of every step, and of what
 * else takes its time, on this thread, with `user_data`. `output` may be NULL.
 *
 * RETTO_CANCELLED where the callback or retto_trainer_cancel ended it; `output` is then filled as well, and what was trained is
 * kept. RETTO_WRONG_STATE for a run that is over. After any other failure the trainer stands where it was before the step
 * that failed; if it was the evaluation or the checkpoint after a step, the next call begins with that. But after RETTO_DEVICE_LOST,
 * RETTO_GPU_ERROR and RETTO_PANIC nothing can be read from it any more, and after RETTO_RANK_FAILED it may not go on where the next call says
 * so: resume from a checkpoint with a new trainer. One thread at a time; blocks for the whole run, so call it from a thread of its own.
 */
retto_status retto_trainer_run(const struct retto_trainer *trainer,
                               retto_progress_callback progress,
                               void *user_data,
                               struct retto_train_output *output,
                               struct retto_error **error);

/**
 * One step of the run, and what is due after it: evaluation, checkpoints. `progress` is filled, with the evaluation if there
 * was one; its `is_over` says whether a step is left. A call that only ends a run, or is cancelled within an evaluation that it
 * makes up for, does no step: then `tokens` is 0, and so is what else is said of a step. Returns as retto_trainer_run does: with
 * RETTO_CANCELLED `progress` is filled too, with the last step that was done, or where the trainer stands if there was none. One thread at
 * a time; blocks for the step.
 */
retto_status retto_trainer_step(const struct retto_trainer *trainer,
                                struct retto_progress *progress,
                                struct retto_error **error);

/**
 * Makes the call that runs return RETTO_CANCELLED when its present step is done, and every later one until
 * retto_trainer_resume is called; before the first step, while lines are made tokens of and steps are counted, or files read; within
 * an evaluation when its present batch is done, on several devices when all are. A cancel during retto_trainer_resume is for the run
 * that follows, and so is one before a run has begun that no call has answered yet. Any thread, from a callback as well; does not block. Not from a signal handler: set a flag there, and return something
 * else than 0 from the progress callback.
 */
retto_status retto_trainer_cancel(const struct retto_trainer *trainer,
                                  struct retto_error **error);

/**
 * Lets a trainer go on: one that was cancelled from where it stands; a new one from the latest checkpoint in its output_dir,
 * of a run with the same model, options and lines, with the same results as if it had never been interrupted. `step`, which
 * may be NULL, gets the steps done; 0 where there was no checkpoint and the run begins at its beginning. One thread at a time;
 * blocks while a checkpoint is read.
 */
retto_status retto_trainer_resume(const struct retto_trainer *trainer,
                                  uint64_t *step,
                                  struct retto_error **error);

/**
 * Writes a checkpoint of the run to output_dir/checkpoint-N, whole or not at all. RETTO_WRONG_STATE before the first step;
 * RETTO_OTHER_RUN where the latest checkpoint there is of another run, RETTO_FOLDER_IN_USE while another writes its own. One
 * thread at a time; blocks while weights and optimizer are written.
 */
retto_status retto_trainer_checkpoint(const struct retto_trainer *trainer,
                                      struct retto_error **error);

/**
 * The model as trained so far, to be queried at once: a copy that later steps leave alone, named as the one the trainer was
 * made of. Free it with retto_model_free. One thread at a time; blocks while weights are copied on the GPU.
 */
retto_status retto_trainer_model(const struct retto_trainer *trainer,
                                 struct retto_model **model,
                                 struct retto_error **error);

/**
 * Writes the model as trained so far, as retto_model_save does; a low-rank adaptation is added to the weights. One thread at a
 * time; blocks while it is written.
 */
retto_status retto_trainer_save(const struct retto_trainer *trainer,
                                const char *path,
                                size_t path_length,
                                struct retto_error **error);

/**
 * Writes a low-rank adaptation alone, in PEFT's format, with the base model's name or path for PEFT to note.
 * RETTO_INVALID_ARGUMENT where the weights themselves are trained. One thread at a time; blocks while it is written.
 */
retto_status retto_trainer_save_adapter(const struct retto_trainer *trainer,
                                        const char *path,
                                        size_t path_length,
                                        const char *base_model,
                                        size_t base_model_length,
                                        struct retto_error **error);

/**
 * Frees a trainer, with what was trained and not saved. NULL is allowed. RETTO_BUSY while another thread uses it, and in its
 * own callback: nothing is freed then; cancel, wait for the call that runs to return, and free it after that. Any thread; it may
 * block as retto_gpu_free may.
 */
retto_status retto_trainer_free(struct retto_trainer *trainer);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RETTO_H */
