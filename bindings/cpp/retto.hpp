// Retto in C++17: handles that free themselves, exceptions with a status. Nothing but this file and retto.h is needed.
//
// What a function does, on which thread and for how long stands in retto.h; this file adds ownership and errors. Every function
// throws retto::Error where the C function returns a failure.
#ifndef RETTO_HPP
#define RETTO_HPP

#include <retto.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace retto {

/// A call that failed: `status()` for programs, `what()` for people.
class Error : public std::runtime_error {
public:
    Error(retto_status status, const std::string &message) : std::runtime_error(message), status_(status) {}
    retto_status status() const noexcept { return status_; }

private:
    retto_status status_;
};

/// A step that was cancelled, with where the trainer stands.
class StepCancelled : public Error {
public:
    StepCancelled(const Error &error, const retto_progress &progress) : Error(error), progress_(progress) {}
    const retto_progress &progress() const noexcept { return progress_; }

private:
    retto_progress progress_;
};

namespace detail {

/// A place for a call's error: `call(retto_x(..., error))` throws what it holds.
class Place {
public:
    Place() = default;
    Place(const Place &) = delete;
    Place &operator=(const Place &) = delete;
    ~Place() { retto_error_free(error_); }
    operator retto_error **() noexcept { return &error_; }

    void check(retto_status status) const {
        if (status == RETTO_OK) return;
        const char *message = retto_error_message(error_);
        throw Error(status, *message ? message : retto_status_name(status));
    }

private:
    retto_error *error_ = nullptr;
};

/// A handle, freed with `Free`. Moved, never copied.
template <typename T, retto_status (*Free)(T *)>
class Handle {
public:
    Handle() = default;
    explicit Handle(T *handle) noexcept : handle_(handle) {}
    Handle(const Handle &) = delete;
    Handle &operator=(const Handle &) = delete;
    Handle(Handle &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Handle &operator=(Handle &&other) noexcept {
        if (this != &other) {
            Free(handle_);
            handle_ = std::exchange(other.handle_, nullptr);
        }
        return *this;
    }
    ~Handle() { Free(handle_); }
    T *get() const noexcept { return handle_; }
    T **out() noexcept { return &handle_; }

private:
    T *handle_ = nullptr;
};

/// A trainer that is in use cannot be freed; but nobody could cancel it any more.
inline retto_status free_or_cancel(retto_trainer *trainer) noexcept {
    const auto status = retto_trainer_free(trainer);
    if (status == RETTO_BUSY) retto_trainer_cancel(trainer, nullptr);
    return status;
}

inline retto_string string(std::string_view text) { return {text.data() ? text.data() : "", text.size()}; }

template <typename Texts>
std::vector<retto_string> strings(const Texts &texts) {
    std::vector<retto_string> result;
    for (const auto &text : texts) result.push_back(string(text));
    return result;
}

template <typename Options>
Options defaults(retto_status (*init)(Options *, std::size_t)) {
    Place error;
    Options options;
    error.check(init(&options, sizeof options));
    return options;
}

/// What a callback answers C: whether to end. No exception may cross C, so it is kept.
template <typename Tell>
std::int32_t told(const Tell &tell, std::exception_ptr &thrown) noexcept {
    try {
        return tell() ? 0 : 1;
    } catch (...) {
        thrown = std::current_exception();
        return 1;
    }
}

template <typename T>
T sized() {
    T value{};
    value.struct_size = sizeof value;
    return value;
}

}  // namespace detail

/// Throws where the library that was loaded does not fit this header.
inline void check_version() {
    detail::Place error;
    error.check(retto_check_version(RETTO_VERSION, error));
}

/// An adapter, as the driver describes it.
struct Adapter {
    std::uint32_t index = 0;
    std::uint32_t type = RETTO_ADAPTER_OTHER;
    bool shader_f16 = false;
    std::string name, backend, driver;
    std::uint64_t memory_bytes = 0, max_storage_buffer_binding_size = 0, max_buffer_size = 0;

    explicit Adapter(const retto_adapter_info &info)
        : index(info.index), type(info.adapter_type), shader_f16(info.shader_f16 != 0), name(info.name),
          backend(info.backend), driver(info.driver), memory_bytes(info.memory_bytes),
          max_storage_buffer_binding_size(info.max_storage_buffer_binding_size), max_buffer_size(info.max_buffer_size) {}
};

/// The adapters of this machine.
inline std::vector<Adapter> adapters() {
    check_version();
    detail::Place error;
    detail::Handle<retto_adapters, retto_adapters_free> list;
    error.check(retto_adapters_list(list.out(), error));
    std::vector<Adapter> result;
    for (std::size_t i = 0; i < retto_adapters_count(list.get()); ++i) {
        auto info = detail::sized<retto_adapter_info>();
        error.check(retto_adapters_get(list.get(), i, &info, error));
        result.emplace_back(info);
    }
    return result;
}

struct GpuOptions {
    /// By index; without, by the preferences below.
    std::optional<std::uint32_t> adapter;
    bool low_power = false;
    bool allow_software = true;
    /// A folder for compiled shaders.
    std::string cache_dir;
};

class Gpu {
public:
    explicit Gpu(const GpuOptions &wanted = {}) {
        check_version();
        detail::Place error;
        auto options = detail::defaults(retto_gpu_options_init);
        if (wanted.adapter) options.adapter_index = index(*wanted.adapter);
        options.power_preference = wanted.low_power ? RETTO_POWER_LOW : RETTO_POWER_HIGH_PERFORMANCE;
        options.allow_software = wanted.allow_software;
        options.cache_dir = wanted.cache_dir.data();
        options.cache_dir_length = wanted.cache_dir.size();
        error.check(retto_gpu_open(&options, handle_.out(), error));
    }

    Adapter adapter() const {
        detail::Place error;
        auto info = detail::sized<retto_adapter_info>();
        error.check(retto_gpu_adapter(handle_.get(), &info, error));
        return Adapter(info);
    }

    std::uint64_t memory_in_use() const {
        detail::Place error;
        std::uint64_t bytes = 0;
        error.check(retto_gpu_memory_in_use(handle_.get(), &bytes, error));
        return bytes;
    }

    void trim() const {
        detail::Place error;
        error.check(retto_gpu_trim(handle_.get(), error));
    }

    retto_gpu *get() const noexcept { return handle_.get(); }

private:
    /// The largest numbers would become negative ones, and -1 stands for no index.
    static std::int32_t index(std::uint32_t adapter) {
        if (adapter <= INT32_MAX) return static_cast<std::int32_t>(adapter);
        throw Error(RETTO_INVALID_ARGUMENT, "adapter is " + std::to_string(adapter) + ", which is no adapter's index");
    }

    detail::Handle<retto_gpu, retto_gpu_free> handle_;
};

/// One answer for one mask.
struct Fill {
    float score;
    std::uint32_t token;
    std::string token_str, sequence;
};

/// For each mask its answers. Of a temporary, an element is moved out rather than referred to, so that
/// `for (auto &fill : model.fill_mask(text)[0])` is safe.
class Masks : public std::vector<std::vector<Fill>> {
    using Base = std::vector<std::vector<Fill>>;

public:
    using Base::Base;
    std::vector<Fill> &operator[](std::size_t mask) & { return Base::operator[](mask); }
    const std::vector<Fill> &operator[](std::size_t mask) const & { return Base::operator[](mask); }
    std::vector<Fill> operator[](std::size_t mask) && { return std::move(Base::operator[](mask)); }
    std::vector<Fill> &at(std::size_t mask) & { return Base::at(mask); }
    const std::vector<Fill> &at(std::size_t mask) const & { return Base::at(mask); }
    std::vector<Fill> at(std::size_t mask) && { return std::move(Base::at(mask)); }
};

/// Where a word stands among the answers; 1 is the likeliest.
struct GoldRank {
    std::uint64_t rank;
    float score;
    std::uint32_t token;
};

struct Evaluation {
    double loss, perplexity, top1_accuracy, top10_accuracy;
    std::uint64_t masked_tokens;
};

inline retto_evaluation_options evaluation_options() {
    return detail::defaults(retto_evaluation_options_init);
}

/// The defaults.
inline retto_embed_options embed_options() {
    return detail::defaults(retto_embed_options_init);
}

/// Those of the folder of a sentence-transformers model; of another model's, the defaults, but that max_seq_length is what its tokenizer
/// says, where that says so.
inline retto_embed_options embed_options(std::string_view folder) {
    detail::Place error;
    auto options = embed_options();
    auto path = detail::string(folder);
    error.check(retto_embed_options_open(path.data, path.length, &options, error));
    return options;
}

/// Is told what is done, of how many; returns whether to go on. If not, retto::Error with RETTO_CANCELLED is thrown; what it throws comes
/// out of the call.
using Count = std::function<bool(std::uint64_t done, std::uint64_t total)>;

namespace detail {

class Counting {
public:
    explicit Counting(const Count &progress) : progress_(progress) {}
    Counting(const Counting &) = delete;
    Counting &operator=(const Counting &) = delete;

    template <typename Options> void observe(Options &options) {
        if (!progress_) return;
        options.on_progress = [](std::uint64_t done, std::uint64_t total, void *data) -> std::int32_t {
            auto &self = *static_cast<Counting *>(data);
            return told([&] { return self.progress_(done, total); }, self.thrown_);
        };
        options.user_data = this;
    }

    void check() const {
        if (thrown_) std::rethrow_exception(thrown_);
    }

private:
    const Count &progress_;
    std::exception_ptr thrown_;
};

} // namespace detail

/// Many threads may use one model at once.
class Model {
public:
    Model(const Gpu &gpu, std::string_view folder) {
        detail::Place error;
        auto path = detail::string(folder);
        error.check(retto_model_open(gpu.get(), path.data, path.length, handle_.out(), error));
    }

    /// With a low-rank adapter of PEFT's format.
    Model(const Gpu &gpu, std::string_view folder, std::string_view adapter) {
        detail::Place error;
        auto path = detail::string(folder), with = detail::string(adapter);
        error.check(retto_model_open_with_adapter(gpu.get(), path.data, path.length, with.data, with.length,
                                                  handle_.out(), error));
    }

    /// For queries alone, of RETTO_DTYPE_FLOAT16 or RETTO_DTYPE_INT8: see to_dtype.
    static Model open_with_dtype(const Gpu &gpu, std::string_view folder, std::uint32_t dtype) {
        detail::Place error;
        Model model;
        auto path = detail::string(folder);
        error.check(retto_model_open_with_dtype(gpu.get(), path.data, path.length, dtype, model.handle_.out(), error));
        return model;
    }

    /// The model that is part of the library, where it was built with one.
    static Model open_default(const Gpu &gpu) {
        detail::Place error;
        Model model;
        error.check(retto_model_open_default(gpu.get(), model.handle_.out(), error));
        return model;
    }

    /// A copy for queries, of RETTO_DTYPE_FLOAT16 or RETTO_DTYPE_INT8: half or a quarter of the memory, nearly the same answers.
    Model to_dtype(std::uint32_t dtype) const {
        detail::Place error;
        Model copy;
        error.check(retto_model_to_dtype(handle_.get(), dtype, copy.handle_.out(), error));
        return copy;
    }

    /// Its texts are valid as long as the model.
    retto_model_info info() const {
        detail::Place error;
        auto info = detail::sized<retto_model_info>();
        error.check(retto_model_get_info(handle_.get(), &info, error));
        return info;
    }

    void warm_up() const {
        detail::Place error;
        error.check(retto_model_warm_up(handle_.get(), error));
    }

    /// For each mask of the text its `top_k` answers, best first.
    Masks fill_mask(std::string_view text, std::size_t top_k = 5) const {
        return std::move(fill_mask(std::vector<std::string_view>{text}, top_k).front());
    }

    /// The same for several texts at once.
    std::vector<Masks> fill_mask(const std::vector<std::string_view> &texts, std::size_t top_k = 5) const {
        detail::Place error;
        detail::Handle<retto_fills, retto_fills_free> fills;
        auto given = detail::strings(texts);
        error.check(retto_model_fill_mask_batch(handle_.get(), given.data(), given.size(), top_k, fills.out(), error));
        std::vector<Masks> result(texts.size());
        for (std::size_t text = 0; text < texts.size(); ++text) {
            std::size_t masks = 0;
            error.check(retto_fills_mask_count(fills.get(), text, &masks, error));
            result[text].resize(masks);
            for (std::size_t mask = 0; mask < masks; ++mask) {
                std::size_t count = 0;
                error.check(retto_fills_count(fills.get(), text, mask, &count, error));
                for (std::size_t rank = 0; rank < count; ++rank) {
                    auto fill = detail::sized<retto_fill>();
                    error.check(retto_fills_get(fills.get(), text, mask, rank, &fill, error));
                    result[text][mask].push_back({fill.score, fill.token, {fill.token_str, fill.token_str_length},
                                                  {fill.sequence, fill.sequence_length}});
                }
            }
        }
        return result;
    }

    /// For texts in braces: two of them could be the two ends of one string_view, too.
    std::vector<Masks> fill_mask(std::initializer_list<std::string_view> texts, std::size_t top_k = 5) const {
        return fill_mask(std::vector<std::string_view>(texts), top_k);
    }

    /// Where one word stands among the answers for a text's one mask.
    GoldRank rank_gold(std::string_view text, std::string_view gold) const {
        detail::Place error;
        auto given = detail::string(text), word = detail::string(gold);
        auto found = detail::sized<retto_gold_rank>();
        error.check(retto_model_rank_gold(handle_.get(), given.data, given.length, word.data, word.length, &found, error));
        return {found.rank, found.score, found.token};
    }

    /// A vector for each text; lines of one are joined by the separator token. Options from embed_options(), or the defaults.
    /// A text that is too long is cut, and `truncated` gets how many were; with options.strict it is an error.
    std::vector<std::vector<float>> embed(const std::vector<std::string_view> &texts,
                                          const retto_embed_options *options = nullptr,
                                          const Count &progress = nullptr, std::size_t *truncated = nullptr) const {
        detail::Place error;
        auto wanted = options ? *options : embed_options();
        detail::Counting counting(progress);
        counting.observe(wanted);
        detail::Handle<retto_embeddings, retto_embeddings_free> embeddings;
        auto given = detail::strings(texts);
        const auto status =
            retto_model_embed(handle_.get(), given.data(), given.size(), &wanted, embeddings.out(), error);
        counting.check();
        error.check(status);
        if (truncated) *truncated = retto_embeddings_truncated(embeddings.get());
        const std::size_t dimension = retto_embeddings_dimension(embeddings.get());
        const float *values = retto_embeddings_values(embeddings.get());
        std::vector<std::vector<float>> result;
        for (std::size_t row = 0; row < retto_embeddings_count(embeddings.get()); ++row) {
            result.emplace_back(values + row * dimension, values + (row + 1) * dimension);
        }
        return result;
    }

    /// Options from evaluation_options(), or the defaults.
    Evaluation evaluate(const std::vector<std::string> &lines, const retto_evaluation_options *options = nullptr,
                        const Count &progress = nullptr) const {
        detail::Place error;
        auto wanted = options ? *options : evaluation_options();
        detail::Counting counting(progress);
        counting.observe(wanted);
        auto given = detail::strings(lines);
        auto found = detail::sized<retto_evaluation>();
        const auto status = retto_model_evaluate(handle_.get(), given.data(), given.size(), &wanted, &found, error);
        counting.check();
        error.check(status);
        return {found.loss, found.perplexity, found.top1_accuracy, found.top10_accuracy, found.masked_tokens};
    }

    void save(std::string_view folder) const {
        detail::Place error;
        auto path = detail::string(folder);
        error.check(retto_model_save(handle_.get(), path.data, path.length, error));
    }

    retto_model *get() const noexcept { return handle_.get(); }

private:
    friend class Trainer;
    Model() = default;
    detail::Handle<retto_model, retto_model_free> handle_;
};

/// The defaults; what it is made to point to has to live until the Trainer is made.
inline retto_training_options training_options() {
    return detail::defaults(retto_training_options_init);
}

/// One thread at a time, but for cancel(). It must not be destroyed while another thread, or the run whose callback does it, uses it: that
/// is cancelled then, and its handle leaked rather than freed under it.
class Trainer {
public:
    /// Returns whether to go on. What it throws cancels the run, and comes out of run().
    using Progress = std::function<bool(const retto_progress &)>;

    explicit Trainer(const Model &model, const retto_training_options &options = training_options()) {
        detail::Place error;
        error.check(retto_trainer_new(model.get(), &options, handle_.out(), error));
    }

    void add_lines(const std::vector<std::string> &lines, std::uint32_t split = RETTO_SPLIT_TRAIN) {
        detail::Place error;
        auto given = detail::strings(lines);
        error.check(retto_trainer_add_lines(handle_.get(), split, given.data(), given.size(), error));
    }

    /// Returns how many lines the file or folder has.
    std::size_t add_file(std::string_view file, std::uint32_t split = RETTO_SPLIT_TRAIN) {
        detail::Place error;
        auto path = detail::string(file);
        std::size_t count = 0;
        error.check(retto_trainer_add_file(handle_.get(), split, path.data, path.length, &count, error));
        return count;
    }

    /// Trains to the end, or until cancelled: `cancelled` of what it returns tells, and resume() lets it go on.
    retto_train_output run(const Progress &progress = nullptr) {
        struct Told {
            const Progress &progress;
            std::exception_ptr thrown;
        } hears{progress, nullptr};
        retto_progress_callback callback = [](const retto_progress *at, void *data) -> std::int32_t {
            auto &heard = *static_cast<Told *>(data);
            return detail::told([&] { return heard.progress(*at); }, heard.thrown);
        };
        detail::Place error;
        auto output = detail::sized<retto_train_output>();
        auto status = retto_trainer_run(handle_.get(), progress ? callback : nullptr, &hears, &output, error);
        if (hears.thrown) std::rethrow_exception(hears.thrown);
        if (status != RETTO_CANCELLED || !output.cancelled) error.check(status);
        return output;
    }

    /// One optimizer step, and what is due after it; StepCancelled where it was cancelled.
    retto_progress step() {
        detail::Place error;
        auto progress = detail::sized<retto_progress>();
        const auto status = retto_trainer_step(handle_.get(), &progress, error);
        try {
            error.check(status);
        } catch (const Error &failure) {
            if (status == RETTO_CANCELLED) throw StepCancelled(failure, progress);
            throw;
        }
        return progress;
    }

    /// From any thread.
    void cancel() const {
        detail::Place error;
        error.check(retto_trainer_cancel(handle_.get(), error));
    }

    /// Returns the step it goes on from.
    std::uint64_t resume() {
        detail::Place error;
        std::uint64_t step = 0;
        error.check(retto_trainer_resume(handle_.get(), &step, error));
        return step;
    }

    void checkpoint() const {
        detail::Place error;
        error.check(retto_trainer_checkpoint(handle_.get(), error));
    }

    /// The model as trained so far.
    Model model() const {
        detail::Place error;
        Model model;
        error.check(retto_trainer_model(handle_.get(), model.handle_.out(), error));
        return model;
    }

    void save(std::string_view folder) const {
        detail::Place error;
        auto path = detail::string(folder);
        error.check(retto_trainer_save(handle_.get(), path.data, path.length, error));
    }

    /// A low-rank adaptation alone, in PEFT's format.
    void save_adapter(std::string_view folder, std::string_view base_model = "") const {
        detail::Place error;
        auto path = detail::string(folder), base = detail::string(base_model);
        error.check(retto_trainer_save_adapter(handle_.get(), path.data, path.length, base.data, base.length, error));
    }

    retto_trainer *get() const noexcept { return handle_.get(); }

private:
    detail::Handle<retto_trainer, detail::free_or_cancel> handle_;
};

}  // namespace retto

#endif
