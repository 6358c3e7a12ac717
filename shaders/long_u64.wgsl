// 64 bits of a buffer, in one load.

alias Long = u64;

fn low(bits: Long) -> u32 {
    return u32(bits);
}

fn high(bits: Long) -> u32 {
    return u32(bits >> 32u);
}
