/* What an app does: open, fill, adapt 20 steps with cancel and resume, fill again, compare. scenario MODEL LINES FOLDER */
#include "check.h"

static retto_trainer *new_trainer(const retto_model *model, const char *lines, const char *folder) {
    retto_trainer *trainer = NULL;
    retto_training_options options;
    CHECK(retto_training_options_init(&options, sizeof options) == RETTO_OK);
    options.max_steps = 20;
    options.learning_rate = 5e-4;
    options.output_dir = folder;
    options.output_dir_length = NUL;
    OK(retto_trainer_new(model, &options, &trainer, &error));
    OK(retto_trainer_add_file(trainer, RETTO_SPLIT_TRAIN, lines, NUL, NULL, &error));
    return trainer;
}

static int32_t cancel_at(const retto_progress *progress, void *user_data) {
    CHECK(progress->max_steps == 20);
    return progress->kind == RETTO_PROGRESS_STEP && progress->step == *(uint64_t *)user_data;
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

    printf("%s--\n%s", of_base, of_whole);
    CHECK(retto_trainer_free(trainer) == RETTO_OK && retto_model_free(saved) == RETTO_OK);
    CHECK(retto_model_free(resumed) == RETTO_OK && retto_model_free(whole) == RETTO_OK);
    CHECK(retto_model_free(base) == RETTO_OK && retto_gpu_free(gpu) == RETTO_OK);
    return 0;
}
