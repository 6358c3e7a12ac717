// 64 bits of a buffer, in two loads: for CPUs whose vectors of 64 bits a lane slow down what runs beside them.

alias Long = vec2<u32>;

fn low(bits: Long) -> u32 {
    return bits.x;
}

fn high(bits: Long) -> u32 {
    return bits.y;
}
