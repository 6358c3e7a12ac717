/* Everything an app can get wrong has an answer. misuse MODEL LINES FOLDER */
#include "check.h"

#define MANY 64

static void errors_and_versions(void) {
    retto_error *error = NULL;
    CHECK(retto_version() == RETTO_VERSION);
    CHECK(strlen(retto_version_string()) >= 5);
    OK(retto_check_version(RETTO_VERSION, &error));
    ANSWERS(RETTO_ABI_MISMATCH, retto_check_version(RETTO_VERSION + 1, &error));
    ANSWERS(RETTO_ABI_MISMATCH, retto_check_version(RETTO_VERSION + 1000000, &error));
    CHECK(retto_check_version(RETTO_VERSION + 1, NULL) == RETTO_ABI_MISMATCH);
    CHECK(retto_check_version(RETTO_VERSION + 1, &error) == RETTO_ABI_MISMATCH);
    CHECK(strstr(retto_error_message(error), retto_version_string()));
    CHECK(retto_error_free(error) == RETTO_OK);
    /* Freed: still an answer. */
    CHECK(retto_error_free(error) == RETTO_INVALID_HANDLE);
    CHECK(retto_error_status(error) == RETTO_INVALID_HANDLE && retto_error_message(error)[0] == 0);
    CHECK(retto_error_message(NULL)[0] == 0 && retto_error_free(NULL) == RETTO_OK);
    CHECK(!strcmp(retto_status_name(RETTO_NO_MASK), "RETTO_NO_MASK"));
    CHECK(!strcmp(retto_status_name(-1), "unknown") && !strcmp(retto_status_name(4711), "unknown"));
}

static void adapters(void) {
    retto_adapters *list = NULL;
    retto_adapter_info info = {0};
    retto_gpu_options options;
    retto_gpu *gpu = NULL;
    retto_gpu *const untouched = (retto_gpu *)&options;
    size_t count;
    OK(retto_adapters_list(&list, &error));
    count = retto_adapters_count(list);
    CHECK(count > 0);
    info.struct_size = sizeof info;
    OK(retto_adapters_get(list, count - 1, &info, &error));
    CHECK(info.index == count - 1 && info.name[0] && info.backend[0] && info.max_buffer_size > 0);
    ANSWERS(RETTO_OUT_OF_RANGE, retto_adapters_get(list, count, &info, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_adapters_get(list, 0, NULL, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_adapters_get(NULL, 0, &info, &error));
    info.struct_size = 0;
    ANSWERS(RETTO_ABI_MISMATCH, retto_adapters_get(list, 0, &info, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_adapters_list(NULL, &error));
    CHECK(retto_adapters_free(list) == RETTO_OK && retto_adapters_free(list) == RETTO_INVALID_HANDLE);
    CHECK(retto_adapters_count(list) == 0 && retto_adapters_count(NULL) == 0);

    CHECK(retto_gpu_options_init(NULL, sizeof options) == RETTO_INVALID_ARGUMENT);
    CHECK(retto_gpu_options_init(&options, 0) == RETTO_ABI_MISMATCH);
    CHECK(retto_gpu_options_init(&options, sizeof options) == RETTO_OK);
    CHECK(options.struct_size == sizeof options && options.adapter_index == -1 && options.allow_software == 1);
    gpu = untouched;
    options.adapter_index = 4711;
    ANSWERS(RETTO_NO_ADAPTER, retto_gpu_open(&options, &gpu, &error));
    options.adapter_index = -2;
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_gpu_open(&options, &gpu, &error));
    options.adapter_index = -1;
    options.power_preference = 7;
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_gpu_open(&options, &gpu, &error));
    options.power_preference = RETTO_POWER_LOW;
    options.cache_dir = "\xff/cache";
    options.cache_dir_length = NUL;
    ANSWERS(RETTO_INVALID_UTF8, retto_gpu_open(&options, &gpu, &error));
    options.cache_dir = "/dev/null/cache";
    ANSWERS(RETTO_IO, retto_gpu_open(&options, &gpu, &error));
    options.struct_size = 0xdeadbeef;
    ANSWERS(RETTO_ABI_MISMATCH, retto_gpu_open(&options, &gpu, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_gpu_open(NULL, NULL, &error));
    CHECK(gpu == untouched);
    /* Never a handle. */
    CHECK(retto_gpu_free(untouched) == RETTO_INVALID_HANDLE && retto_gpu_free(NULL) == RETTO_OK);
}

static void models(const char *path) {
    retto_gpu *gpu = open_gpu();
    retto_model *model = NULL;
    retto_model_info info = {0};
    retto_adapter_info adapter = {0};
    retto_fills *fills = NULL;
    retto_fill fill = {0};
    retto_evaluation evaluation = {0};
    retto_evaluation_options options;
    retto_gold_rank rank = {0};
    uint64_t bytes = 0;
    size_t count = 0;
    const retto_string bad[] = {{"fine [MASK]", NUL}, {"\xc3\x28 [MASK]", NUL}};
    const retto_string texts[] = {{"one [MASK]", NUL}, {"two [MASK] and [MASK] cut off here", 21}};

    ANSWERS(RETTO_IO, retto_model_open(gpu, "no/such/folder", NUL, &model, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_open(gpu, NULL, 0, &model, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_open(gpu, "", NUL, &model, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_open(gpu, path, NUL, NULL, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_open(NULL, path, NUL, &model, &error));
    ANSWERS(RETTO_INVALID_HANDLE, retto_model_open((retto_gpu *)&count, path, NUL, &model, &error));
    CHECK(model == NULL);
    OK(retto_model_open(gpu, path, strlen(path), &model, &error));
    ANSWERS(RETTO_INVALID_HANDLE, retto_model_open((retto_gpu *)model, path, NUL, &model, &error));

    adapter.struct_size = sizeof adapter;
    OK(retto_gpu_adapter(gpu, &adapter, &error));
    CHECK(adapter.driver[0]);
    OK(retto_gpu_memory_in_use(gpu, &bytes, &error));
    CHECK(bytes > 1000000);
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_gpu_memory_in_use(gpu, NULL, &error));
    OK(retto_gpu_trim(gpu, &error));

    info.struct_size = sizeof info;
    OK(retto_model_get_info(model, &info, &error));
    CHECK(!strcmp(info.name, "retto-tiny") && !strcmp(info.mask_token, "[MASK]") && info.has_mlm_head == 1);
    CHECK(info.vocab_size > 1000 && info.num_hidden_layers > 0 && info.num_parameters > 100000);
    OK(retto_model_warm_up(model, &error));

    {
        retto_model *copy = NULL, *other = NULL;
        retto_trainer *trainer = NULL;
        uint64_t whole = bytes, with_copy = 0;
        ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_to_dtype(model, 3, &copy, &error));
        ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_to_dtype(model, RETTO_DTYPE_INT8, NULL, &error));
        ANSWERS(RETTO_INVALID_HANDLE, retto_model_to_dtype((retto_model *)gpu, RETTO_DTYPE_INT8, &copy, &error));
        OK(retto_gpu_memory_in_use(gpu, &whole, &error));
        OK(retto_model_to_dtype(model, RETTO_DTYPE_INT8, &copy, &error));
        OK(retto_gpu_memory_in_use(gpu, &with_copy, &error));
        CHECK(with_copy > whole && with_copy - whole < whole / 2);
        OK(retto_model_get_info(copy, &info, &error));
        CHECK(!strcmp(info.name, "retto-tiny") && info.has_mlm_head == 1 && info.dtype == RETTO_DTYPE_INT8);
        OK(retto_model_fill_mask(copy, TEXT, NUL, 5, &fills, &error));
        OK(retto_fills_free(fills));
        fills = NULL;
        ANSWERS(RETTO_UNSUPPORTED, retto_model_to_dtype(copy, RETTO_DTYPE_FLOAT16, &other, &error));
        ANSWERS(RETTO_UNSUPPORTED, retto_model_save(copy, "no/such", NUL, &error));
        ANSWERS(RETTO_UNSUPPORTED, retto_trainer_new(copy, NULL, &trainer, &error));
        OK(retto_model_free(copy));
        copy = NULL;
        ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_open_with_dtype(gpu, path, NUL, 3, &copy, &error));
        ANSWERS(RETTO_IO, retto_model_open_with_dtype(gpu, "no/such", NUL, RETTO_DTYPE_INT8, &copy, &error));
        OK(retto_model_open_with_dtype(gpu, path, NUL, RETTO_DTYPE_INT8, &copy, &error));
        OK(retto_model_fill_mask(copy, TEXT, NUL, 5, &fills, &error));
        OK(retto_fills_free(fills));
        fills = NULL;
        OK(retto_model_free(copy));
    }

    ANSWERS(RETTO_NO_MASK, retto_model_fill_mask(model, "no blank", NUL, 5, &fills, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_fill_mask(model, TEXT, NUL, 0, &fills, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_fill_mask(model, NULL, 5, 5, &fills, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_fill_mask(model, NULL, NUL, 5, &fills, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_fill_mask(model, TEXT, NUL, 5, NULL, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_fill_mask(model, TEXT, (size_t)-2, 5, &fills, &error));
    ANSWERS(RETTO_INVALID_UTF8, retto_model_fill_mask_batch(model, bad, 2, 5, &fills, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_fill_mask_batch(model, NULL, 2, 5, &fills, &error));
    {
        char long_text[4096] = "[MASK]";
        size_t at;
        for (at = strlen(long_text); at + 3 < sizeof long_text; at += 2) memcpy(long_text + at, " a", 3);
        ANSWERS(RETTO_TOO_LONG, retto_model_fill_mask(model, long_text, NUL, 5, &fills, &error));
    }
    CHECK(fills == NULL);
    OK(retto_model_fill_mask_batch(model, texts, 0, 5, &fills, &error));
    CHECK(retto_fills_text_count(fills) == 0 && retto_fills_free(fills) == RETTO_OK);

    OK(retto_model_fill_mask_batch(model, texts, 2, (size_t)-1, &fills, &error));
    CHECK(retto_fills_text_count(fills) == 2);
    OK(retto_fills_mask_count(fills, 1, &count, &error));
    CHECK(count == 2);
    OK(retto_fills_count(fills, 1, 1, &count, &error));
    CHECK(count == info.vocab_size);
    fill.struct_size = sizeof fill;
    OK(retto_fills_get(fills, 1, 1, 0, &fill, &error));
    CHECK(strlen(fill.token_str) == fill.token_str_length && strlen(fill.sequence) == fill.sequence_length);
    ANSWERS(RETTO_OUT_OF_RANGE, retto_fills_get(fills, 2, 0, 0, &fill, &error));
    ANSWERS(RETTO_OUT_OF_RANGE, retto_fills_get(fills, 0, 1, 0, &fill, &error));
    ANSWERS(RETTO_OUT_OF_RANGE, retto_fills_get(fills, 0, 0, info.vocab_size, &fill, &error));
    ANSWERS(RETTO_OUT_OF_RANGE, retto_fills_mask_count(fills, 2, &count, &error));
    ANSWERS(RETTO_OUT_OF_RANGE, retto_fills_count(fills, 0, 7, &count, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_fills_count(fills, 0, 0, NULL, &error));
    CHECK(retto_fills_free(fills) == RETTO_OK);
    ANSWERS(RETTO_INVALID_HANDLE, retto_fills_get(fills, 0, 0, 0, &fill, &error));

    rank.struct_size = sizeof rank;
    OK(retto_model_rank_gold(model, TEXT, NUL, "floor", NUL, &rank, &error));
    CHECK(rank.rank >= 1 && rank.score > 0);
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_rank_gold(model, TEXT, NUL, "\xe2\x99\xa5 floor", NUL, &rank, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_rank_gold(model, TEXT, NUL, "[SEP] floor", NUL, &rank, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_rank_gold(model, TEXT, NUL, "", NUL, &rank, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_rank_gold(model, "[MASK] [MASK]", NUL, "floor", NUL, &rank, &error));

    evaluation.struct_size = sizeof evaluation;
    CHECK(retto_evaluation_options_init(&options, sizeof options) == RETTO_OK);
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_evaluate(model, NULL, 0, NULL, &evaluation, &error));
    options.mlm_probability = 2;
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_model_evaluate(model, texts, 2, &options, &evaluation, &error));
    ANSWERS(RETTO_IO, retto_model_save(model, "/dev/null/model", NUL, &error));

    /* The gpu may be freed before what was made with it; a model that was freed is known as such. */
    CHECK(retto_gpu_free(gpu) == RETTO_OK);
    OK(retto_model_fill_mask(model, TEXT, NUL, 1, &fills, &error));
    CHECK(retto_model_free(model) == RETTO_OK);
    OK(retto_fills_get(fills, 0, 0, 0, &fill, &error));
    CHECK(retto_fills_free(fills) == RETTO_OK);
    ANSWERS(RETTO_INVALID_HANDLE, retto_model_fill_mask(model, TEXT, NUL, 1, &fills, &error));
    CHECK(retto_model_free(model) == RETTO_INVALID_HANDLE);
}

/* Ends a run when it is first told of it: before it has begun. */
static int32_t refuse(const retto_progress *progress, void *user_data) {
    CHECK(user_data == NULL && progress->kind == RETTO_PROGRESS_PREPARING && progress->step == 0);
    return 1;
}

static int32_t meddle(const retto_progress *progress, void *user_data) {
    retto_trainer *trainer = *(retto_trainer **)user_data;
    retto_progress mine = {0};
    if (progress->kind == RETTO_PROGRESS_PREPARING) return 0;
    mine.struct_size = sizeof mine;
    CHECK(progress->struct_size == sizeof *progress);
    CHECK(retto_trainer_free(trainer) == RETTO_BUSY);
    ANSWERS(RETTO_BUSY, retto_trainer_step(trainer, &mine, &error));
    ANSWERS(RETTO_BUSY, retto_trainer_run(trainer, NULL, NULL, NULL, &error));
    ANSWERS(RETTO_BUSY, retto_trainer_save(trainer, "x", NUL, &error));
    return 1;
}

static void trainers(const char *path, const char *lines, const char *folder) {
    retto_gpu *gpu = open_gpu();
    retto_model *model = NULL, *snapshot = NULL;
    retto_trainer *trainer = NULL;
    retto_training_options options;
    retto_progress progress = {0};
    retto_train_output output = {0};
    retto_string words[MANY];
    size_t count = 0, i;
    uint64_t step = 99;

    OK(retto_model_open(gpu, path, NUL, &model, &error));
    CHECK(retto_training_options_init(&options, sizeof options) == RETTO_OK);
    CHECK(options.num_train_epochs == 3 && options.dropout == 1 && options.seed == 42);
    options.learning_rate = -1;
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_trainer_new(model, &options, &trainer, &error));
    CHECK(retto_training_options_init(&options, sizeof options) == RETTO_OK);
    options.freeze_layers_count = 2;
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_trainer_new(model, &options, &trainer, &error));
    options.freeze_layers_count = 0;
    options.lr_scheduler_type = 99;
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_trainer_new(model, &options, &trainer, &error));
    options.lr_scheduler_type = RETTO_SCHEDULER_CONSTANT;
    options.save_steps = 5;
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_trainer_new(model, &options, &trainer, &error));
    options.save_steps = 0;
    options.max_steps = 3;
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_trainer_new(NULL, &options, &trainer, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_trainer_new(model, &options, NULL, &error));
    CHECK(trainer == NULL);
    OK(retto_trainer_new(model, &options, &trainer, &error));
    /* A model may be freed while its trainer lives. */
    CHECK(retto_model_free(model) == RETTO_OK);

    progress.struct_size = sizeof progress;
    output.struct_size = sizeof output;
    ANSWERS(RETTO_EMPTY_CORPUS, retto_trainer_step(trainer, &progress, &error));
    ANSWERS(RETTO_WRONG_STATE, retto_trainer_checkpoint(trainer, &error));
    ANSWERS(RETTO_IO, retto_trainer_add_file(trainer, RETTO_SPLIT_TRAIN, "no/such", NUL, &count, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_trainer_add_lines(trainer, 2, words, 0, &error));
    for (i = 0; i < MANY; i++) words[i].data = "we sang along to the radio", words[i].length = NUL;
    OK(retto_trainer_add_lines(trainer, RETTO_SPLIT_TRAIN, words, MANY, &error));
    OK(retto_trainer_add_file(trainer, RETTO_SPLIT_TRAIN, lines, NUL, &count, &error));
    CHECK(count > 100);
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_trainer_save_adapter(trainer, folder, NUL, NULL, 0, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_trainer_resume(trainer, &step, &error));

    /* Cancelled before the first step, in its callback, and in between. That what is to come goes on from a checkpoint, if there is one, does not
       take it back. */
    OK(retto_trainer_cancel(trainer, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_trainer_resume(trainer, &step, &error));
    output.cancelled = 7, output.steps = 7;
    ANSWERS(RETTO_CANCELLED, retto_trainer_run(trainer, NULL, NULL, &output, &error));
    CHECK(output.cancelled == 1 && output.steps == 0);
    OK(retto_trainer_resume(trainer, &step, &error));
    CHECK(step == 0);
    ANSWERS(RETTO_CANCELLED, retto_trainer_run(trainer, refuse, NULL, &output, &error));
    CHECK(output.cancelled == 1 && output.steps == 0);
    OK(retto_trainer_resume(trainer, &step, &error));
    ANSWERS(RETTO_CANCELLED, retto_trainer_run(trainer, meddle, &trainer, &output, &error));
    CHECK(output.cancelled == 1 && output.steps == 1);
    output.cancelled = 7, output.steps = 7;
    ANSWERS(RETTO_CANCELLED, retto_trainer_run(trainer, NULL, NULL, &output, &error));
    CHECK(output.cancelled == 1 && output.steps == 1);
    ANSWERS(RETTO_CANCELLED, retto_trainer_step(trainer, &progress, &error));
    ANSWERS(RETTO_WRONG_STATE, retto_trainer_add_lines(trainer, RETTO_SPLIT_TRAIN, words, 1, &error));
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_trainer_checkpoint(trainer, &error));
    OK(retto_trainer_resume(trainer, &step, &error));
    CHECK(step == 1);
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_trainer_step(trainer, NULL, &error));
    OK(retto_trainer_step(trainer, &progress, &error));
    CHECK(progress.step == 2 && progress.max_steps == 3 && !progress.is_over && progress.loss > 0);
    OK(retto_trainer_run(trainer, NULL, NULL, &output, &error));
    CHECK(output.steps == 3 && !output.cancelled);
    ANSWERS(RETTO_WRONG_STATE, retto_trainer_step(trainer, &progress, &error));
    ANSWERS(RETTO_WRONG_STATE, retto_trainer_run(trainer, NULL, NULL, NULL, &error));
    ANSWERS(RETTO_WRONG_STATE, retto_trainer_resume(trainer, NULL, &error));

    OK(retto_trainer_model(trainer, &snapshot, &error));
    CHECK(retto_trainer_free(trainer) == RETTO_OK && retto_trainer_free(trainer) == RETTO_INVALID_HANDLE);
    CHECK(retto_trainer_free(NULL) == RETTO_OK);
    ANSWERS(RETTO_INVALID_HANDLE, retto_trainer_cancel(trainer, &error));
    {
        char text[256];
        answers(snapshot, TEXT, 1, text, sizeof text);
    }
    CHECK(retto_model_free(snapshot) == RETTO_OK && retto_gpu_free(gpu) == RETTO_OK);
}

static retto_trainer *of_line(const retto_model *model, const char *line, const char *folder, uint64_t save_steps) {
    retto_trainer *trainer = NULL;
    retto_training_options options;
    retto_string text = {0};
    CHECK(retto_training_options_init(&options, sizeof options) == RETTO_OK);
    options.output_dir = folder, options.max_steps = 3, options.save_steps = save_steps, options.save_total_limit = 1;
    options.mlm_probability = 0.5;
    OK(retto_trainer_new(model, &options, &trainer, &error));
    text.data = line, text.length = NUL;
    OK(retto_trainer_add_lines(trainer, RETTO_SPLIT_TRAIN, &text, 1, &error));
    return trainer;
}

/* Two runs whose checkpoints go to one folder, which began when there were none. */
static void one_folder(const char *path, const char *folder) {
    const char *const ours = "we sang along to the radio", *const theirs = "the rain on the window";
    retto_gpu *gpu = open_gpu();
    retto_model *model = NULL;
    retto_trainer *first, *second, *third;
    retto_progress progress = {0};
    char place[4096];
    uint64_t step = 99;
    progress.struct_size = sizeof progress;
    OK(retto_model_open(gpu, path, NUL, &model, &error));

    CHECK(snprintf(place, sizeof place, "%s/by hand", folder) < (int)sizeof place);
    first = of_line(model, ours, place, 0), second = of_line(model, theirs, place, 0);
    OK(retto_trainer_step(first, &progress, &error));
    OK(retto_trainer_step(second, &progress, &error));
    OK(retto_trainer_checkpoint(first, &error));
    ANSWERS(RETTO_OTHER_RUN, retto_trainer_checkpoint(second, &error));
    OK(retto_trainer_step(second, &progress, &error));
    ANSWERS(RETTO_OTHER_RUN, retto_trainer_checkpoint(second, &error));
    OK(retto_trainer_step(first, &progress, &error));
    CHECK(progress.tokens > 0 && progress.loss > 0);
    OK(retto_trainer_step(first, &progress, &error));
    CHECK(progress.is_over && progress.step == 3);
    OK(retto_trainer_checkpoint(first, &error));
    /* Taken up where it is over, it is ended: no step is done. */
    third = of_line(model, ours, place, 0);
    OK(retto_trainer_resume(third, &step, &error));
    CHECK(step == 3);
    OK(retto_trainer_step(third, &progress, &error));
    CHECK(progress.is_over && progress.step == 3 && progress.epoch == 3 && progress.tokens == 0 && progress.loss == 0);
    CHECK(retto_trainer_free(first) == RETTO_OK && retto_trainer_free(second) == RETTO_OK);
    CHECK(retto_trainer_free(third) == RETTO_OK);

    CHECK(snprintf(place, sizeof place, "%s/by itself", folder) < (int)sizeof place);
    first = of_line(model, ours, place, 1), second = of_line(model, theirs, place, 0);
    OK(retto_trainer_step(second, &progress, &error));
    OK(retto_trainer_step(first, &progress, &error));
    ANSWERS(RETTO_FOLDER_IN_USE, retto_trainer_checkpoint(second, &error));
    CHECK(retto_trainer_free(first) == RETTO_OK && retto_trainer_free(second) == RETTO_OK);
    CHECK(retto_model_free(model) == RETTO_OK && retto_gpu_free(gpu) == RETTO_OK);
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    errors_and_versions();
    adapters();
    models(argv[1]);
    trainers(argv[1], argv[2], argv[3]);
    one_folder(argv[1], argv[3]);
    CHECK(retto_test_handles() == 0);
    puts("ok");
    return 0;
}
