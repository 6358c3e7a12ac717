//! What the repository's own benchmark reaches for; not part of the crate's interface.

pub use crate::gpu::profile;
