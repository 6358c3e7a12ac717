//! What makes a difference among the CPUs under a software adapter.

use std::sync::LazyLock;

/// Whether instructions of 512 bits, which a load of eight times 64 bits is, make multiplying slower as long as they are under way. Measured on
/// one of Intel's, where GEMMs took a fifth to a third longer; AMD's with AVX-512, where they did not, have SSE4a as well.
pub(super) fn slows_down_in_512_bits() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f") && !std::arch::is_x86_feature_detected!("sse4a");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Bytes of the first-level cache for instructions, where that is known.
pub(super) fn instruction_cache() -> Option<usize> {
    // Asking is slow under a hypervisor.
    static BYTES: LazyLock<Option<usize>> = LazyLock::new(|| {
        #[cfg(target_arch = "x86_64")]
        {
            use raw_cpuid::{CacheParameter, CacheType, CpuId};

            let is_it = |cache: &CacheParameter| cache.cache_type() == CacheType::Instruction && cache.level() == 1;
            let cache = CpuId::new().get_cache_parameters()?.find(is_it)?;
            Some(cache.associativity() * cache.physical_line_partitions() * cache.coherency_line_size() * cache.sets())
        }
        #[cfg(not(target_arch = "x86_64"))]
        None
    });
    *BYTES
}

/// Whether it has sixteen vector registers and no more, as far as is known: x86 without AVX-512.
pub(super) fn has_sixteen_registers() -> bool {
    #[cfg(target_arch = "x86_64")]
    return !std::arch::is_x86_feature_detected!("avx512vl");
    #[cfg(not(target_arch = "x86_64"))]
    false
}
