// What tests/capi/scenario.c does, in C++. scenario MODEL LINES FOLDER
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <retto.hpp>
#include <thread>
#include <type_traits>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1); \
        } \
    } while (0)

static_assert(!std::is_copy_constructible_v<retto::Model> && std::is_nothrow_move_constructible_v<retto::Model>);
static_assert(!std::is_copy_assignable_v<retto::Trainer> && std::is_nothrow_move_assignable_v<retto::Trainer>);

static const char *const TEXT = "lipstick stains on the [MASK]";

template <typename Call>
static void raises(retto_status status, Call call) {
    try {
        call();
    } catch (const retto::Error &error) {
        CHECK(error.status() == status && error.what()[0]);
        return;
    }
    CHECK(!"an error was expected");
}

static std::string answers(const retto::Model &model) {
    std::string text;
    char line[256];
    for (const auto &fill : model.fill_mask(TEXT).at(0)) {
        std::snprintf(line, sizeof line, "%u %.9g %s\n", fill.token, double(fill.score), fill.token_str.c_str());
        text += line;
    }
    return text;
}

static retto::Trainer new_trainer(const retto::Model &model, const char *lines, const char *folder) {
    auto options = retto::training_options();
    options.max_steps = 20;
    options.learning_rate = 5e-4;
    options.output_dir = folder;
    options.output_dir_length = folder ? RETTO_NUL_TERMINATED : 0;
    retto::Trainer trainer(model, options);
    CHECK(trainer.add_file(lines) > 100);
    return trainer;
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    const std::string folder = argv[3];
    const std::vector<std::string> held_out = {
        "the lights went down along the empty street and nobody called my name",
        "and you were gone before the morning came to take the night away",
        "I keep your letters in a drawer beside the bed and never read them",
    };
    retto::check_version();
    retto::GpuOptions wanted;
    const char *device = std::getenv("RETTO_DEVICE");
    if (device && *device >= '0' && *device <= '9') wanted.adapter = std::atoi(device);
    retto::Gpu gpu(wanted);
    CHECK(!gpu.adapter().name.empty() && !retto::adapters().empty());
    retto::Model base(gpu, argv[1]);
    CHECK(std::string(base.info().name) == "retto-tiny" && gpu.memory_in_use() > 0);
    const auto of_base = answers(base);
    // Texts in braces are texts, however many: two are not the ends of one.
    CHECK(base.fill_mask({"a [MASK]", "b [MASK]"}).size() == 2 && base.fill_mask({TEXT}, 1).front()[0].size() == 1);
    CHECK(base.fill_mask({std::string("a [MASK]"), std::string("b [MASK]"), TEXT}).size() == 3);
    CHECK(base.fill_mask(std::vector<std::string_view>{TEXT, TEXT}).size() == 2);
    CHECK(base.rank_gold(TEXT, base.fill_mask(TEXT, 3)[0][2].token_str).rank == 3);
    // Its file is in f16: nothing is rounded, and sums are in the same order.
    CHECK(answers(base.to_dtype(RETTO_DTYPE_FLOAT16)) == of_base);
    CHECK(answers(base.to_dtype(RETTO_DTYPE_INT8)) != of_base);
    CHECK(answers(retto::Model::open_with_dtype(gpu, argv[1], RETTO_DTYPE_INT8)) == answers(base.to_dtype(RETTO_DTYPE_INT8)));
    const auto before = base.evaluate(held_out);
    auto one_by_one = retto::evaluation_options();
    one_by_one.per_device_eval_batch_size = 1;
    std::size_t told = 0;
    const auto count = [&](std::uint64_t done, std::uint64_t total) { return ++told == done && total == held_out.size(); };
    CHECK(base.evaluate(held_out, &one_by_one, count).masked_tokens == before.masked_tokens && told == 2);
    raises(RETTO_CANCELLED, [&] { base.evaluate(held_out, &one_by_one, [](auto, auto) { return false; }); });
    try {
        base.embed(std::vector<std::string_view>(1500, held_out[0]), nullptr, [](auto, auto) -> bool { throw 7; });
        CHECK(!"it was to throw");
    } catch (int thrown) {
        CHECK(thrown == 7);
    }

    auto trainer = new_trainer(base, argv[2], nullptr);
    CHECK(trainer.run().steps == 20);
    auto whole = trainer.model();
    CHECK(answers(whole) != of_base);

    trainer = new_trainer(base, argv[2], argv[3]);
    auto output = trainer.run([](const retto_progress &progress) { return progress.step != 7; });
    CHECK(output.cancelled && output.steps == 7);
    raises(RETTO_CANCELLED, [&] { trainer.step(); });
    try {
        trainer.step();
    } catch (const retto::StepCancelled &cancelled) {
        CHECK(cancelled.status() == RETTO_CANCELLED && cancelled.progress().step == 7 && cancelled.progress().max_steps == 20);
    }
    CHECK(trainer.resume() == 7);
    while (trainer.step().step < 12) {
    }
    trainer.checkpoint();
    trainer = new_trainer(base, argv[2], argv[3]);
    CHECK(trainer.resume() == 12);
    std::thread worker([&] { output = trainer.run(); });
    CHECK(answers(base) == of_base);
    worker.join();
    CHECK(output.steps == 20 && !output.cancelled);
    CHECK(answers(trainer.model()) == answers(whole));
    trainer.save(folder + "/adapted");
    const retto::Model saved(gpu, folder + "/adapted");
    CHECK(answers(saved) == answers(whole) && answers(base) == of_base);
    const auto after = saved.evaluate(held_out);
    CHECK(after.masked_tokens == before.masked_tokens && after.loss != before.loss);

    /* What a callback throws comes out of run, and the trainer can go on. */
    auto thrower = new_trainer(base, argv[2], nullptr);
    try {
        thrower.run([](const retto_progress &at) -> bool {
            if (at.kind == RETTO_PROGRESS_STEP) throw std::string("mine");
            return true;
        });
        CHECK(!"it was to throw");
    } catch (const std::string &thrown) {
        CHECK(thrown == "mine");
    }
    CHECK(thrower.resume() == 1);
    auto embed_options = retto::embed_options(argv[1]);
    const auto vectors = base.embed({"the rain\nand you", "the rain"}, &embed_options);
    CHECK(vectors.size() == 2 && vectors[0] != vectors[1] && base.embed({"the rain"})[0] == vectors[1]);
    CHECK(base.embed({}).empty());
    auto short_options = retto::embed_options();
    short_options.max_seq_length = 3;
    std::size_t truncated = 0;
    CHECK(base.embed({"the rain and you", "you"}, &short_options, nullptr, &truncated).size() == 2 && truncated == 1);
    // Destroyed by the callback of its own run, which ends with that.
    auto endless = retto::training_options();
    endless.max_steps = 1000000;
    auto destroyed = std::make_unique<retto::Trainer>(base, endless);
    destroyed->add_lines(held_out);
    const auto of_destroyed = destroyed.get()->run([&](const auto &) {
        destroyed.reset();
        return true;
    });
    CHECK(of_destroyed.cancelled && of_destroyed.steps == 1);
    embed_options.max_seq_length = 3;
    embed_options.strict = 1;
    raises(RETTO_TOO_LONG, [&] { base.embed({"the rain and you"}, &embed_options); });
    raises(RETTO_IO, [&] { retto::Model(gpu, "no/such/folder"); });
    raises(RETTO_NO_MASK, [&] { base.fill_mask("no blank"); });
    // Numbers that are none of an adapter, and not -1 either.
    for (const std::uint32_t none : {0xFFFFFFFFu, 0x80000000u}) {
        wanted.adapter = none;
        raises(RETTO_INVALID_ARGUMENT, [&] { retto::Gpu{wanted}; });
    }

    auto moved = std::move(base);
    CHECK(answers(moved) == of_base);
    raises(RETTO_INVALID_ARGUMENT, [&] { base.fill_mask(TEXT); });
    std::printf("%s--\n%s", of_base.c_str(), answers(whole).c_str());
}
