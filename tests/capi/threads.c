/* One model, many threads. threads MODEL LINES THREADS QUERIES */
#define _POSIX_C_SOURCE 199309L /* nanosleep */
#include <pthread.h>
#include <time.h>

#include "check.h"

#define TEXTS 8
static const char *const TEXTS_OF_ALL[TEXTS] = {
    "lipstick stains on the [MASK]",
    "[MASK]",
    "the [MASK] is on fire tonight",
    "and I miss you in the [MASK] of the night when the radio plays",
    "dance with me till the [MASK] comes up",
    "oh [MASK] oh",
    "another lonely [MASK]",
    "take me [MASK], take me home",
};
static char expected[TEXTS][1024];
static retto_model *model;
static int queries;
static retto_trainer *trainer;

static void *ask(void *which) {
    char got[1024];
    int query;
    for (query = 0; query < queries; query++) {
        int text = (query * 7 + (int)(size_t)which) % TEXTS;
        answers(model, TEXTS_OF_ALL[text], 5, got, sizeof got);
        CHECK(!strcmp(got, expected[text]));
    }
    return NULL;
}

static void *train(void *unused) {
    (void)unused;
    ANSWERS(RETTO_CANCELLED, retto_trainer_run(trainer, NULL, NULL, NULL, &error));
    return NULL;
}

static void *train_until_cancelled(void *out) {
    ANSWERS(RETTO_CANCELLED, retto_trainer_run(trainer, NULL, NULL, out, &error));
    return NULL;
}

/* Cancelled while lines are made tokens of, which of so many would take seconds: before the first step. */
#define MANY 200000
static void cancelled_before_it_has_begun(const retto_training_options *options) {
    static retto_string lines[MANY];
    struct timespec moment = {0, 50 * 1000 * 1000};
    retto_train_output output = {0};
    pthread_t worker;
    size_t i;
    output.struct_size = sizeof output;
    for (i = 0; i < MANY; i++) lines[i].data = TEXTS_OF_ALL[i % TEXTS], lines[i].length = NUL;
    OK(retto_trainer_new(model, options, &trainer, &error));
    OK(retto_trainer_add_lines(trainer, RETTO_SPLIT_TRAIN, lines, MANY, &error));
    CHECK(!pthread_create(&worker, NULL, train_until_cancelled, &output));
    nanosleep(&moment, NULL);
    OK(retto_trainer_cancel(trainer, &error));
    CHECK(!pthread_join(worker, NULL));
    CHECK(output.cancelled == 1 && output.steps == 0);
    CHECK(retto_trainer_free(trainer) == RETTO_OK);
}

/* Frees the model while others ask it: they get an answer or RETTO_INVALID_HANDLE. */
static void *ask_until_freed(void *unused) {
    retto_fills *fills = NULL;
    retto_status status;
    (void)unused;
    do {
        status = retto_model_fill_mask(model, TEXT, NUL, 2, &fills, NULL);
        CHECK(status == RETTO_OK || status == RETTO_INVALID_HANDLE);
        if (status == RETTO_OK) CHECK(retto_fills_free(fills) == RETTO_OK);
    } while (status == RETTO_OK);
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[64], worker;
    size_t count, i;
    retto_training_options options;
    retto_gpu *gpu = open_gpu();
    CHECK(argc == 5);
    count = (size_t)atoi(argv[3]);
    queries = atoi(argv[4]);
    CHECK(count <= 64);
    OK(retto_model_open(gpu, argv[1], NUL, &model, &error));
    for (i = 0; i < TEXTS; i++) answers(model, TEXTS_OF_ALL[i], 5, expected[i], sizeof expected[i]);

    for (i = 0; i < count; i++) CHECK(!pthread_create(&threads[i], NULL, ask, (void *)i));
    for (i = 0; i < count; i++) CHECK(!pthread_join(threads[i], NULL));

    /* Training in one thread, the base model asked in others, cancelled by this one. */
    CHECK(retto_training_options_init(&options, sizeof options) == RETTO_OK);
    options.num_train_epochs = 1000;
    OK(retto_trainer_new(model, &options, &trainer, &error));
    OK(retto_trainer_add_file(trainer, RETTO_SPLIT_TRAIN, argv[2], NUL, NULL, &error));
    CHECK(!pthread_create(&worker, NULL, train, NULL));
    queries = queries / 20 + 1;
    for (i = 0; i < 2; i++) CHECK(!pthread_create(&threads[i], NULL, ask, (void *)i));
    for (i = 0; i < 2; i++) CHECK(!pthread_join(threads[i], NULL));
    {
        retto_status status = retto_trainer_free(trainer);
        CHECK(status == RETTO_BUSY);
        OK(retto_trainer_cancel(trainer, &error));
    }
    CHECK(!pthread_join(worker, NULL));
    CHECK(retto_trainer_free(trainer) == RETTO_OK);
    cancelled_before_it_has_begun(&options);

    for (i = 0; i < count; i++) CHECK(!pthread_create(&threads[i], NULL, ask_until_freed, NULL));
    CHECK(retto_model_free(model) == RETTO_OK);
    for (i = 0; i < count; i++) CHECK(!pthread_join(threads[i], NULL));
    CHECK(retto_gpu_free(gpu) == RETTO_OK);
    puts("ok");
    return 0;
}
