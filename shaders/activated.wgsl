// The activations that checkpoints name:
//
// gelu:     x Phi(x) = x (1 + erf(x / sqrt 2)) / 2
// gelu_new: x (1 + tanh u) / 2,  u = sqrt(2 / pi) (x + 0.044715 x^3)
// relu:     max(x, 0)

override KIND: u32; // 0 gelu, 1 gelu_new, 2 relu, 3 none

const SQRT_HALF = 0.7071067811865476;
const SQRT_2_OVER_PI = 0.7978845608028654;

// Abramowitz and Stegun 7.1.26: absolute error at most 1.5e-7. exp(-x^2) underflows to 0 for large x and never overflows.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(x) * (1.0 - p * exp(-x * x));
}

// Some drivers compute tanh from exp(2 x), which overflows to inf / inf; at 10 it is 1 in f32.
fn safe_tanh(x: f32) -> f32 {
    return tanh(clamp(x, -10.0, 10.0));
}

fn activated(x: f32) -> f32 {
    if KIND == 0u {
        return 0.5 * x * (1.0 + erf(x * SQRT_HALF));
    }
    if KIND == 1u {
        return 0.5 * x * (1.0 + safe_tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)));
    }
    if KIND == 2u {
        return max(x, 0.0);
    }
    return x;
}
