/* What only a debug build can be made to do: a panic, and a lost device. hooks MODEL */
#include "check.h"

retto_status retto_test_panic(retto_error **error);
retto_status retto_test_lose_device(const retto_gpu *gpu, retto_error **error);

static int logged;

static void log_line(uint32_t level, const char *target, const char *message, void *user_data) {
    CHECK(user_data == &logged && level <= RETTO_LOG_WARN && target[0] && message);
    CHECK(retto_log_set(NULL, NULL, RETTO_LOG_OFF, NULL) == RETTO_BUSY);
    if (strstr(message, "forced by a test")) logged++;
}

int main(int argc, char **argv) {
    retto_gpu *gpu = open_gpu(), *other;
    retto_model *model = NULL, *second = NULL;
    retto_fills *fills = NULL;
    retto_trainer *trainer = NULL;
    char text[1024];
    int again;
    CHECK(argc == 2);

    /* The process lives, and says nothing of it: the test looks at stdout and stderr. */
    ANSWERS(RETTO_PANIC, retto_test_panic(&error));
    OK(retto_log_set(log_line, &logged, RETTO_LOG_WARN, &error));
    ANSWERS(RETTO_PANIC, retto_test_panic(&error));
    CHECK(logged == 1);
    OK(retto_log_set(NULL, NULL, RETTO_LOG_OFF, &error));
    ANSWERS(RETTO_PANIC, retto_test_panic(&error));
    CHECK(logged == 1);
    ANSWERS(RETTO_INVALID_ARGUMENT, retto_log_set(log_line, NULL, 6, &error));

    OK(retto_model_open(gpu, argv[1], NUL, &model, &error));
    answers(model, TEXT, 3, text, sizeof text);
    OK(retto_test_lose_device(gpu, &error));
    for (again = 0; again < 3; again++) {
        ANSWERS(RETTO_DEVICE_LOST, retto_model_fill_mask(model, TEXT, NUL, 3, &fills, &error));
        ANSWERS(RETTO_DEVICE_LOST, retto_model_open(gpu, argv[1], NUL, &second, &error));
        ANSWERS(RETTO_DEVICE_LOST, retto_trainer_new(model, NULL, &trainer, &error));
        ANSWERS(RETTO_DEVICE_LOST, retto_model_warm_up(model, &error));
    }
    /* A new one works, while the lost one still is. */
    other = open_gpu();
    OK(retto_model_open(other, argv[1], NUL, &second, &error));
    {
        char same[1024];
        answers(second, TEXT, 3, same, sizeof same);
        CHECK(!strcmp(same, text));
    }
    /* Of two that train together one is lost: the run ends at once, and says so. */
    {
        const retto_string lines[] = {{"the cat sat on the mat", NUL}, {"the dog ran to the house", NUL}};
        retto_gpu *third = open_gpu();
        const retto_gpu *devices[1];
        retto_training_options options;
        double losses[2];
        int together;
        devices[0] = third;
        CHECK(retto_training_options_init(&options, sizeof options) == RETTO_OK && options.ddp_timeout == 1800);
        options.max_steps = 2;
        options.mlm_probability = 0.5;
        for (together = 0; together < 2; together++) {
            retto_train_output output;
            output.struct_size = sizeof output;
            options.devices = together ? devices : NULL;
            options.devices_count = (size_t)together;
            OK(retto_trainer_new(second, &options, &trainer, &error));
            OK(retto_trainer_add_lines(trainer, RETTO_SPLIT_TRAIN, lines, 2, &error));
            OK(retto_trainer_run(trainer, NULL, NULL, &output, &error));
            losses[together] = output.train_loss;
            CHECK(retto_trainer_free(trainer) == RETTO_OK);
        }
        CHECK(losses[1] > 0.99999 * losses[0] && losses[1] < 1.00001 * losses[0]);
        options.max_steps = 1000000;
        OK(retto_trainer_new(second, &options, &trainer, &error));
        OK(retto_trainer_add_lines(trainer, RETTO_SPLIT_TRAIN, lines, 2, &error));
        {
            retto_progress progress;
            progress.struct_size = sizeof progress;
            OK(retto_trainer_step(trainer, &progress, &error));
        }
        OK(retto_test_lose_device(third, &error));
        ANSWERS(RETTO_DEVICE_LOST, retto_trainer_run(trainer, NULL, NULL, NULL, &error));
        CHECK(retto_trainer_free(trainer) == RETTO_OK && retto_gpu_free(third) == RETTO_OK);
        ANSWERS(RETTO_INVALID_HANDLE, retto_trainer_new(second, &options, &trainer, &error));
    }
    CHECK(retto_model_free(model) == RETTO_OK && retto_gpu_free(gpu) == RETTO_OK);
    CHECK(retto_model_free(second) == RETTO_OK && retto_gpu_free(other) == RETTO_OK);
    puts("ok");
    return 0;
}
