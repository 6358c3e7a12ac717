// What the kernels of AdamW share.
//
// adamw, as torch.optim.AdamW:
//   g' = g * state.coefficient
//   value *= 1 - lr * weight_decay
//   m = beta1 m + (1 - beta1) g';  v = beta2 v + (1 - beta2) g'^2
//   value -= (lr / correction1) * m / (sqrt(v) / sqrt(correction2) + eps),   correction = 1 - beta^step
// Where the norm is not finite, nothing is changed. Differences from 1 come from the host in f64: in f32, 1 - 0.999 is off by
// 5e-5 of itself.

struct Params {
    len: u32,
    first: u32,
    decay: f32, // 1 - lr * weight_decay
    step_size: f32, // lr / correction1
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    eps: f32,
    sqrt_correction2: f32,
    max_norm: f32,
    unscale: f32,
}
var<immediate> params: Params;

override THREADS: u32 = 256u; // of a workgroup; 8 on software adapters
const BLOCK = 1024u; // elements of a workgroup that steps
