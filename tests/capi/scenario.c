/* What an app does: open, fill, adapt 20 steps with cancel and resume, fill again, compare. scenario MODEL LINES FOLDER */
#include "check.h"

static retto_trainer *new_trainer(const retto_model *model, const char *lines, const char *folder) {
    retto_trainer *trainer = NULL;
    retto_training_options options;
    CHECK(retto_training_options_init(&options, sizeof options) == RETTO_OK);
    options.max_steps = 20;
    options.learning_rate = 5e-4;
    options.output_dir = folder;
    /* Without its length, which is that of text that ends in NUL. */
    OK(retto_trainer_new(model, &options, &trainer, &error));
    OK(retto_trainer_add_file(trainer, RETTO_SPLIT_TRAIN, lines, NUL, NULL, &error));
    return trainer;
}

static int32_t cancel_at(const retto_progress *progress, void *user_data) {
    if (progress->kind == RETTO_PROGRESS_PREPARING) return 0;
    CHECK(progress->max_steps == 20 && progress->done <= progress->total);
    CHECK((progress->total > 0) == (progress->kind == RETTO_PROGRESS_EVALUATING));
    return progress->kind == RETTO_PROGRESS_STEP && progress->step == *(uint64_t *)user_data;
}

/* How often it was told, and when it breaks off: after that many times. */
struct told {
    uint64_t times, until, done, total;
};

static int32_t count(uint64_t done, uint64_t total, void *user_data) {
    struct told *told = user_data;
    /* None is done while texts are made tokens of. */
    CHECK((done > told->done || (!done && !told->done)) && done < total && (!told->times || total == told->total));
    told->done = done;
    told->total = total;
    return ++told->times == told->until;
}

/* What is long can be watched, and broken off. */
static void observes(const retto_model *model, const retto_string *held_out, const retto_evaluation *before) {
    enum { MANY = 1500 };
    static retto_string texts[MANY];
    retto_evaluation_options options;
    retto_evaluation found = {0};
    retto_embed_options embed;
    retto_embeddings *all = NULL;
    struct told told = {0}, ended = {0, 1, 0, 0};
    size_t i;
    found.struct_size = sizeof found;
    CHECK(retto_evaluation_options_init(&options, sizeof options) == RETTO_OK);
    CHECK(options.on_progress == NULL && options.user_data == NULL);
    options.per_device_eval_batch_size = 1;
    options.on_progress = count;
    options.user_data = &told;
    OK(retto_model_evaluate(model, held_out, 3, &options, &found, &error));
    CHECK(told.times == 2 && told.total == 3 && found.masked_tokens == before->masked_tokens);
    options.user_data = &ended;
    found.masked_tokens = 77;
    ANSWERS(RETTO_CANCELLED, retto_model_evaluate(model, held_out, 3, &options, &found, &error));
    CHECK(ended.times == 1 && found.masked_tokens == 77);

    for (i = 0; i < MANY; i++) texts[i] = held_out[i % 3];
    CHECK(retto_embed_options_init(&embed, sizeof embed) == RETTO_OK);
    embed.on_progress = count;
    memset(&told, 0, sizeof told);
    embed.user_data = &told;
    OK(retto_model_embed(model, texts, MANY, &embed, &all, &error));
    CHECK(told.times >= 2 && told.total == MANY && retto_embeddings_count(all) == MANY);
    CHECK(retto_embeddings_free(all) == RETTO_OK);
    memset(&ended, 0, sizeof ended);
    ended.until = 2;
    embed.user_data = &ended;
    all = NULL;
    ANSWERS(RETTO_CANCELLED, retto_model_embed(model, texts, MANY, &embed, &all, &error));
    CHECK(ended.times == 2 && all == NULL);
}

static void embeds(const retto_model *model, const char *folder) {
    const retto_string texts[2] = {{"the rain\nand you", NUL}, {"the rain", NUL}};
    retto_embed_options options;
    retto_embeddings *both = NULL, *one = NULL;
    const float *values;
    size_t dimension, i;
    float sum = 0;
    CHECK(retto_embed_options_init(&options, sizeof options) == RETTO_OK);
    OK(retto_embed_options_open(folder, NUL, &options, &error));
    CHECK(options.pooling == RETTO_POOLING_MEAN && !options.normalize && !options.strict);
    OK(retto_model_embed(model, texts, 2, &options, &both, &error));
    OK(retto_model_embed(model, texts + 1, 1, NULL, &one, &error));
    dimension = retto_embeddings_dimension(both);
    CHECK(retto_embeddings_count(both) == 2 && retto_embeddings_count(one) == 1 && retto_embeddings_truncated(both) == 0);
    values = retto_embeddings_values(both);
    CHECK(!memcmp(values + dimension, retto_embeddings_values(one), dimension * sizeof *values));
    CHECK(memcmp(values, values + dimension, dimension * sizeof *values));
    CHECK(retto_embeddings_free(one) == RETTO_OK && retto_embeddings_free(both) == RETTO_OK);
    CHECK(retto_embeddings_count(both) == 0 && retto_embeddings_values(both) == NULL);
    options.pooling = RETTO_POOLING_MAX;
    options.normalize = 1;
    OK(retto_model_embed(model, texts, 1, &options, &one, &error));
    for (i = 0; i < dimension; i++) sum += retto_embeddings_values(one)[i] * retto_embeddings_values(one)[i];
    CHECK(sum > 0.999f && sum < 1.001f && retto_embeddings_free(one) == RETTO_OK);
    options.pooling = 9;
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_embed(model, texts, 2, &options, &both, &error));
    options.pooling = RETTO_POOLING_CLS;
    options.max_seq_length = 4;
    OK(retto_model_embed(model, texts, 2, &options, &both, &error));
    CHECK(retto_embeddings_truncated(both) == 1 && retto_embeddings_free(both) == RETTO_OK);
    options.strict = 1;
    ANSWERS(RETTO_TOO_LONG, retto_model_embed(model, texts, 2, &options, &both, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_embed(NULL, texts, 2, NULL, &both, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_embed(model, NULL, 2, NULL, &both, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_embed(model, texts, 2, NULL, NULL, &error));
    CHECK(retto_embeddings_free(NULL) == RETTO_OK);
}

int main(int argc, char **argv) {
    retto_gpu *gpu = open_gpu();
    retto_model *base = NULL, *whole = NULL, *resumed = NULL, *saved = NULL;
    retto_trainer *trainer;
    retto_train_output output = {0};
    retto_progress progress = {0};
    const retto_string held_out[] = {
        {"the lights went down along the empty street and nobody called my name", NUL},
        {"and you were gone before the morning came to take the night away", NUL},
        {"I keep your letters in a drawer beside the bed and never read them", NUL},
    };
    retto_evaluation before = {0}, after = {0};
    char of_base[1024], again[1024], of_whole[1024], of_resumed[1024], of_saved[1024], path[4096];
    uint64_t at = 7, step = 0;
    CHECK(argc == 4);
    output.struct_size = sizeof output;
    progress.struct_size = sizeof progress;
    before.struct_size = after.struct_size = sizeof before;

    OK(retto_model_open(gpu, argv[1], NUL, &base, &error));
    answers(base, TEXT, 5, of_base, sizeof of_base);
    OK(retto_model_evaluate(base, held_out, 3, NULL, &before, &error));

    /* In one go. */
    trainer = new_trainer(base, argv[2], NULL);
    OK(retto_trainer_run(trainer, NULL, NULL, &output, &error));
    CHECK(output.steps == 20 && output.train_loss > 0);
    OK(retto_trainer_model(trainer, &whole, &error));
    CHECK(retto_trainer_free(trainer) == RETTO_OK);
    answers(whole, TEXT, 5, of_whole, sizeof of_whole);
    CHECK(strcmp(of_base, of_whole));

    /* Cancelled at step 7, taken up; a checkpoint at 12; the rest by another trainer, as after a restart. */
    trainer = new_trainer(base, argv[2], argv[3]);
    ANSWERS(RETTO_CANCELLED, retto_trainer_run(trainer, cancel_at, &at, &output, &error));
    CHECK(output.cancelled && output.steps == 7);
    OK(retto_trainer_resume(trainer, &step, &error));
    CHECK(step == 7);
    while (progress.step < 12) OK(retto_trainer_step(trainer, &progress, &error));
    OK(retto_trainer_checkpoint(trainer, &error));
    OK(retto_trainer_checkpoint(trainer, &error));
    CHECK(retto_trainer_free(trainer) == RETTO_OK);
    trainer = new_trainer(base, argv[2], argv[3]);
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_trainer_run(trainer, NULL, NULL, NULL, &error));
    OK(retto_trainer_resume(trainer, &step, &error));
    CHECK(step == 12);
    /* Cancelled before it goes on, it stands where it was taken up. */
    OK(retto_trainer_cancel(trainer, &error));
    ANSWERS(RETTO_CANCELLED, retto_trainer_run(trainer, NULL, NULL, &output, &error));
    CHECK(output.cancelled && output.steps == 12 && output.epoch > 0);
    OK(retto_trainer_resume(trainer, &step, &error));
    CHECK(step == 12);
    do OK(retto_trainer_step(trainer, &progress, &error));
    while (!progress.is_over);
    CHECK(progress.step == 20);
    OK(retto_trainer_model(trainer, &resumed, &error));
    answers(resumed, TEXT, 5, of_resumed, sizeof of_resumed);
    CHECK(!strcmp(of_whole, of_resumed));

    /* Saved and opened; the base as it was. */
    snprintf(path, sizeof path, "%s/adapted", argv[3]);
    OK(retto_trainer_save(trainer, path, NUL, &error));
    OK(retto_model_open(gpu, path, NUL, &saved, &error));
    answers(saved, TEXT, 5, of_saved, sizeof of_saved);
    CHECK(!strcmp(of_whole, of_saved));
    answers(base, TEXT, 5, again, sizeof again);
    CHECK(!strcmp(of_base, again));
    OK(retto_model_evaluate(saved, held_out, 3, NULL, &after, &error));
    CHECK(before.masked_tokens == after.masked_tokens && before.loss != after.loss);

    embeds(saved, argv[1]);
    observes(base, held_out, &before);

    printf("%s--\n%s", of_base, of_whole);
    CHECK(retto_trainer_free(trainer) == RETTO_OK && retto_model_free(saved) == RETTO_OK);
    CHECK(retto_model_free(resumed) == RETTO_OK && retto_model_free(whole) == RETTO_OK);
    CHECK(retto_model_free(base) == RETTO_OK && retto_gpu_free(gpu) == RETTO_OK);
    return 0;
}
