//! What makes a difference among the CPUs under a software adapter.

/// Whether instructions of 512 bits, which a load of eight times 64 bits is, make multiplying slower as long as they are under way. Measured on
/// one of Intel's, where GEMMs took a fifth to a third longer; AMD's with AVX-512, where they did not, have SSE4a as well.
pub(super) fn slows_down_in_512_bits() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f") && !std::arch::is_x86_feature_detected!("sse4a");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether it has sixteen vector registers and no more, as far as is known: x86 without AVX-512.
pub(super) fn has_sixteen_registers() -> bool {
    #[cfg(target_arch = "x86_64")]
    return !std::arch::is_x86_feature_detected!("avx512vl");
    #[cfg(not(target_arch = "x86_64"))]
    false
}
