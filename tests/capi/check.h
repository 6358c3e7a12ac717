/* What the C tests share: a check that says where it failed, and a call that must answer with a certain status. */
#ifndef CHECK_H
#define CHECK_H

#include <retto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NUL RETTO_NUL_TERMINATED

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* A call whose last argument is &error. */
#define ANSWERS(expected, call) \
    do { \
        retto_error *error = NULL; \
        retto_status status_ = (call); \
        if (status_ != (expected)) { \
            fprintf(stderr, "%s:%d: %s gave %s: %s\n", __FILE__, __LINE__, #call, retto_status_name(status_), \
                    retto_error_message(error)); \
            exit(1); \
        } \
        if (status_ == RETTO_OK) CHECK(error == NULL); \
        else { \
            CHECK(retto_error_status(error) == (expected) && retto_error_message(error)[0] != 0); \
            CHECK(retto_error_free(error) == RETTO_OK); \
        } \
    } while (0)

#define OK(call) ANSWERS(RETTO_OK, call)

/* Of the library's debug builds: handles that are in use. What stands behind them is reachable, and no leak to a sanitizer. */
size_t retto_test_handles(void);

static const char *const TEXT = "lipstick stains on the [MASK]";

/* RETTO_DEVICE names the adapter, by its index here, as for every test. */
static inline retto_gpu *open_gpu(void) {
    retto_gpu_options options;
    retto_gpu *gpu = NULL;
    const char *device = getenv("RETTO_DEVICE");
    CHECK(retto_gpu_options_init(&options, sizeof options) == RETTO_OK);
    if (device && device[0] >= '0' && device[0] <= '9') options.adapter_index = atoi(device);
    OK(retto_gpu_open(&options, &gpu, &error));
    return gpu;
}

/* The answers' tokens and scores, as text. */
static inline void answers(const retto_model *model, const char *text, size_t top_k, char *into, size_t size) {
    retto_fills *fills = NULL;
    retto_fill fill = {0};
    size_t rank, used = 0;
    fill.struct_size = sizeof fill;
    OK(retto_model_fill_mask(model, text, NUL, top_k, &fills, &error));
    for (rank = 0; rank < top_k; rank++) {
        OK(retto_fills_get(fills, 0, 0, rank, &fill, &error));
        used += (size_t)snprintf(into + used, size - used, "%u %.9g %s\n", fill.token, (double)fill.score, fill.token_str);
        CHECK(used < size);
    }
    CHECK(retto_fills_free(fills) == RETTO_OK);
}

#endif
