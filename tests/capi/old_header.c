/* A program of an older header, whose structs were one field shorter. old_header MODEL */
#include "check.h"

/* retto_gpu_options before it had a cache_dir_length; retto_fill before it had a sequence_length. */
struct old_gpu_options {
    uint32_t struct_size;
    int32_t adapter_index;
    uint32_t power_preference;
    uint32_t allow_software;
    const char *cache_dir;
};
struct old_fill {
    uint32_t struct_size, token;
    float score;
    uint32_t reserved;
    const char *token_str;
    size_t token_str_length;
    const char *sequence;
};
/* retto_embed_options before it had a callback. */
struct old_embed_options {
    uint32_t struct_size, pooling, normalize, max_seq_length, strict, do_lower_case;
};
/* A newer one: a field this library does not know. */
struct new_gpu_options {
    retto_gpu_options known;
    uint64_t later;
};

int main(int argc, char **argv) {
    struct { struct old_gpu_options options; uint64_t guard; } o = {{0}, 0x5eed};
    struct { struct old_fill fill; uint64_t guard; } f = {{0}, 0x5eed};
    struct { struct old_embed_options options; uint64_t guard[2]; } e = {{0}, {0x5eed, 0x5eed}};
    struct new_gpu_options newer;
    retto_embeddings *embeddings = NULL;
    const retto_string text = {TEXT, NUL};
    retto_gpu *gpu = NULL, *second = NULL;
    retto_model *model = NULL;
    retto_fills *fills = NULL;
    const char *device = getenv("RETTO_DEVICE");
    CHECK(argc == 2);

    CHECK(retto_gpu_options_init((retto_gpu_options *)&o.options, sizeof o.options) == RETTO_OK);
    CHECK(o.options.struct_size == sizeof o.options && o.options.adapter_index == -1 && o.guard == 0x5eed);
    if (device && device[0] >= '0' && device[0] <= '9') o.options.adapter_index = atoi(device);
    OK(retto_gpu_open((retto_gpu_options *)&o.options, &gpu, &error));
    OK(retto_model_open(gpu, argv[1], NUL, &model, &error));
    OK(retto_model_fill_mask(model, TEXT, NUL, 1, &fills, &error));
    f.fill.struct_size = sizeof f.fill;
    OK(retto_fills_get(fills, 0, 0, 0, (retto_fill *)&f.fill, &error));
    CHECK(f.guard == 0x5eed && f.fill.score > 0 && strlen(f.fill.token_str) == f.fill.token_str_length);
    CHECK(strstr(f.fill.sequence, "lipstick stains on the "));

    /* What lies behind it is no callback. */
    CHECK(retto_embed_options_init((retto_embed_options *)&e.options, sizeof e.options) == RETTO_OK);
    OK(retto_model_embed(model, &text, 1, (retto_embed_options *)&e.options, &embeddings, &error));
    CHECK(retto_embeddings_count(embeddings) == 1 && retto_embeddings_free(embeddings) == RETTO_OK);
    OK(retto_embed_options_open(argv[1], NUL, (retto_embed_options *)&e.options, &error));
    CHECK(e.guard[0] == 0x5eed && e.guard[1] == 0x5eed);

    CHECK(retto_gpu_options_init((retto_gpu_options *)&newer, sizeof newer) == RETTO_OK);
    CHECK(newer.later == 0 && newer.known.struct_size == sizeof newer);
    newer.known.adapter_index = o.options.adapter_index;
    OK(retto_gpu_open(&newer.known, &second, &error));
    CHECK(retto_gpu_free(second) == RETTO_OK);
    newer.later = 1;
    ANSWERS(RETTO_ABI_MISMATCH, retto_gpu_open(&newer.known, &second, &error));

    CHECK(retto_fills_free(fills) == RETTO_OK && retto_model_free(model) == RETTO_OK && retto_gpu_free(gpu) == RETTO_OK);
    puts("ok");
    return 0;
}
