// What `unpack2x16float` gives, in integers: for software adapters on CPUs without f16, where naga takes the word for unknown. Nothing here is
// below 2^-126, which such adapters take for 0.
fn half_in_integers(bits: u32) -> f32 {
    let magnitude = bits & 0x7fffu;
    // Below 2^-14 f16 has steps of 2^-24.
    let small = bitcast<u32>(f32(magnitude) * 0x1p-24);
    let usual = (magnitude << 13u) + 0x38000000u;
    let not_finite = (magnitude << 13u) | 0x7f800000u;
    let value = select(select(usual, not_finite, magnitude >= 0x7c00u), small, magnitude < 0x400u);
    return bitcast<f32>(value | ((bits & 0x8000u) << 16u));
}

fn halves_in_integers(word: u32) -> vec2<f32> {
    return vec2<f32>(half_in_integers(word & 0xffffu), half_in_integers(word >> 16u));
}
