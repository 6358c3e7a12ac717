/* Everything once, for memcheck. memory MODEL */
#include "check.h"

static int32_t go_on(const retto_progress *progress, void *user_data) {
    (void)user_data;
    CHECK(progress->step <= 2);
    return 0;
}

int main(int argc, char **argv) {
    const retto_string lines[] = {{"the cat sat on the mat", NUL}, {"the dog ran to the house", NUL}};
    retto_gpu *gpu = open_gpu();
    retto_model *base = NULL, *adapted = NULL;
    retto_trainer *trainer = NULL;
    retto_training_options options;
    retto_fills *fills = NULL;
    retto_error *error = NULL;
    CHECK(argc == 2);
    OK(retto_model_open(gpu, argv[1], NUL, &base, &error));
    OK(retto_model_fill_mask(base, "the [MASK]", NUL, 3, &fills, &error));
    CHECK(retto_training_options_init(&options, sizeof options) == RETTO_OK);
    options.max_steps = 2;
    options.mlm_probability = 0.5;
    OK(retto_trainer_new(base, &options, &trainer, &error));
    OK(retto_trainer_add_lines(trainer, RETTO_SPLIT_TRAIN, lines, 2, &error));
    OK(retto_trainer_run(trainer, go_on, NULL, NULL, &error));
    OK(retto_trainer_model(trainer, &adapted, &error));
    CHECK(retto_model_fill_mask(adapted, "no blank", NUL, 3, &fills, &error) == RETTO_NO_MASK);
    CHECK(retto_error_free(error) == RETTO_OK && retto_fills_free(fills) == RETTO_OK);
    CHECK(retto_trainer_free(trainer) == RETTO_OK && retto_model_free(adapted) == RETTO_OK);
    CHECK(retto_model_free(base) == RETTO_OK && retto_gpu_free(gpu) == RETTO_OK);
    CHECK(retto_test_handles() == 0);
    puts("ok");
    return 0;
}
