/* Adapts a model to lines of text, and compares its answers before and after:
 *
 *     cc adapt.c $(pkg-config --cflags --libs retto) -o adapt
 *     ./adapt models/retto-tiny lyrics.txt adapted "lipstick stains on the [MASK]"
 *
 * An app runs retto_trainer_run in a thread of its own; retto_trainer_cancel stops it from any other.
 */
#include <retto.h>
#include <stdio.h>

static int fail(retto_error *error) {
    fprintf(stderr, "error: %s\n", retto_error_message(error));
    retto_error_free(error);
    return 1;
}

/* Called after every step; anything but 0 would cancel. */
static int32_t show(const retto_progress *progress, void *user_data) {
    (void)user_data;
    if (progress->kind == RETTO_PROGRESS_STEP)
        fprintf(stderr, "\rstep %llu of %llu, loss %.3f, %.0f tokens/s ", (unsigned long long)progress->step,
                (unsigned long long)progress->max_steps, progress->loss, progress->tokens_per_second);
    return 0;
}

static retto_status print_answers(const char *who, retto_model *model, const char *text, retto_error **error) {
    retto_fills *fills = NULL;
    retto_fill fill = {sizeof fill, 0, 0, 0, NULL, 0, NULL, 0};
    size_t rank;
    retto_status status = retto_model_fill_mask(model, text, RETTO_NUL_TERMINATED, 5, &fills, error);
    if (status != RETTO_OK) return status;
    printf("%s:", who);
    for (rank = 0; retto_fills_get(fills, 0, 0, rank, &fill, NULL) == RETTO_OK; rank++)
        printf("  %s %.3f", fill.token_str, fill.score);
    printf("\n");
    retto_fills_free(fills);
    return RETTO_OK;
}

int main(int argc, char **argv) {
    retto_error *error = NULL;
    retto_gpu *gpu = NULL;
    retto_model *base = NULL, *adapted = NULL;
    retto_trainer *trainer = NULL;
    retto_training_options options;

    if (argc != 5) {
        fprintf(stderr, "usage: adapt MODEL LINES OUTPUT TEXT\n");
        return 2;
    }
    retto_training_options_init(&options, sizeof options);
    options.learning_rate = 3e-4;

    if (retto_check_version(RETTO_VERSION, &error) || retto_gpu_open(NULL, &gpu, &error) ||
        retto_model_open(gpu, argv[1], RETTO_NUL_TERMINATED, &base, &error) ||
        retto_trainer_new(base, &options, &trainer, &error) ||
        retto_trainer_add_file(trainer, RETTO_SPLIT_TRAIN, argv[2], RETTO_NUL_TERMINATED, NULL, &error) ||
        retto_trainer_run(trainer, show, NULL, NULL, &error))
        return fail(error);
    fprintf(stderr, "\n");

    /* The base model is as it was; the adapted one can be asked at once. */
    if (retto_trainer_model(trainer, &adapted, &error) || print_answers("before", base, argv[4], &error) ||
        print_answers("after", adapted, argv[4], &error) ||
        retto_model_save(adapted, argv[3], RETTO_NUL_TERMINATED, &error))
        return fail(error);

    retto_model_free(adapted);
    retto_trainer_free(trainer);
    retto_model_free(base);
    retto_gpu_free(gpu);
    return 0;
}
