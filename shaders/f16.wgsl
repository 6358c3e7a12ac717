// The bits of the nearest f16, of two equally near ones the even one, and an infinity from 65520 on: in integers. WGSL's own conversion may
// give anything beyond 65504, and drivers round it to the nearest or towards zero, and numbers below 2^-14 to zero or not.
fn f16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7e00u;
    }
    if magnitude < 0x38800000u {
        // Below 2^-14 f16 has steps of 2^-24.
        let fraction = (magnitude & 0x7fffffu) | 0x800000u;
        let shift = min(126u - (magnitude >> 23u), 25u);
        return sign | ((fraction + (1u << (shift - 1u)) - 1u + ((fraction >> shift) & 1u)) >> shift);
    }
    let rounded = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u;
    return sign | min(rounded, 0x7c00u);
}
