/* Fills a blank:
 *
 *     cc fill.c $(pkg-config --cflags --libs retto) -o fill
 *     ./fill models/retto-tiny "lipstick stains on the [MASK]"
 */
#include <retto.h>
#include <stdio.h>

/* Says what went wrong, and ends the program. */
static int fail(retto_error *error) {
    fprintf(stderr, "error: %s\n", retto_error_message(error));
    retto_error_free(error);
    return 1;
}

int main(int argc, char **argv) {
    retto_error *error = NULL;
    retto_gpu *gpu = NULL;
    retto_model *model = NULL;
    retto_fills *fills = NULL;
    retto_fill fill = {sizeof fill, 0, 0, 0, NULL, 0, NULL, 0};
    size_t rank;

    if (argc != 3) {
        fprintf(stderr, "usage: fill MODEL TEXT\n");
        return 2;
    }
    if (retto_check_version(RETTO_VERSION, &error) || retto_gpu_open(NULL, &gpu, &error) ||
        retto_model_open(gpu, argv[1], RETTO_NUL_TERMINATED, &model, &error) ||
        retto_model_fill_mask(model, argv[2], RETTO_NUL_TERMINATED, 5, &fills, &error))
        return fail(error);

    /* The first mask of the first text. */
    for (rank = 0; retto_fills_get(fills, 0, 0, rank, &fill, NULL) == RETTO_OK; rank++)
        printf("%.4f  %-12s  %s\n", fill.score, fill.token_str, fill.sequence);

    retto_fills_free(fills);
    retto_model_free(model);
    retto_gpu_free(gpu);
    return 0;
}
