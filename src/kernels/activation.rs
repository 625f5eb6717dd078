//! What follows a convolution's sums, number by number, and its slope.

use candle_core::cpu::erf::erf_f32;

/// What follows a convolution's sums, number by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x
    #[default]
    Identity,
    /// max(x, 0)
    Relu,
    /// min(max(x, 0), 6)
    Relu6,
    /// x · σ(x), also known as swish
    Silu,
    /// x · min(max(x + 3, 0), 6) / 6
    HardSwish,
    /// min(max(x + 3, 0), 6) / 6
    HardSigmoid,
    /// σ(x) = 1 / (1 + e⁻ˣ)
    Sigmoid,
    /// x · Φ(x), with Φ the normal distribution itself, not its approximation by tanh
    Gelu,
}

/// Runs `$body` with `$kind` a constant, so that each activation has a loop of its own.
macro_rules! with_constant {
    ($activation:expr, $kind:ident => $body:expr) => {
        with_constant!($activation, $kind => $body,
            Identity Relu Relu6 Silu HardSwish HardSigmoid Sigmoid Gelu)
    };
    ($activation:expr, $kind:ident => $body:expr, $($variant:ident)*) => {
        match $activation {
            $(Activation::$variant => {
                const $kind: Activation = Activation::$variant;
                $body
            })*
        }
    };
}
pub(super) use with_constant;

impl Activation {
    /// The name that timm gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Relu => "relu",
            Self::Relu6 => "relu6",
            Self::Silu => "silu",
            Self::HardSwish => "hard_swish",
            Self::HardSigmoid => "hard_sigmoid",
            Self::Sigmoid => "sigmoid",
            Self::Gelu => "gelu",
        }
    }

    /// Its value; NaN of NaN.
    #[inline(always)]
    pub(crate) fn value(self, x: f32) -> f32 {
        match self {
            Self::Identity => x,
            // Not `max`, which makes 0 of NaN.
            Self::Relu => {
                if x <= 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Silu => x * sigmoid(x),
            Self::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Self::HardSigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Self::Sigmoid => sigmoid(x),
            Self::Gelu => x * normal(x),
        }
    }

    /// Its derivative, PyTorch's where there is none: 0 for kinks with one level side. Of NaN as if there were no kink.
    #[inline(always)]
    pub(crate) fn slope(self, x: f32) -> f32 {
        match self {
            Self::Identity => 1.0,
            Self::Relu => {
                if x <= 0.0 {
                    0.0
                } else {
                    1.0
                }
            }
            Self::Relu6 => {
                if x <= 0.0 || x >= 6.0 {
                    0.0
                } else {
                    1.0
                }
            }
            Self::Silu => {
                let sigmoid = sigmoid(x);
                sigmoid * (1.0 + x * (1.0 - sigmoid))
            }
            Self::HardSwish if x <= -3.0 => 0.0,
            Self::HardSwish if x >= 3.0 => 1.0,
            Self::HardSwish => x / 3.0 + 0.5,
            Self::HardSigmoid => {
                if x <= -3.0 || x >= 3.0 {
                    0.0
                } else {
                    1.0 / 6.0
                }
            }
            Self::Sigmoid => {
                let sigmoid = sigmoid(x);
                sigmoid * (1.0 - sigmoid)
            }
            Self::Gelu => normal(x) + x * FRAC_1_SQRT_TAU * exp(-0.5 * x * x),
        }
    }
}

/// 1/√(2π)
const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;

/// 1 / (1 + e⁻ˣ). The exponential is of a negative number, lest it be infinite.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let numerator = if x < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// The normal distribution function.
#[inline(always)]
fn normal(x: f32) -> f32 {
    0.5 * (1.0 + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// eˣ of x at most 0, without branches or calls, so that loops of it become vector instructions. To one unit in the
/// last place or two; the method and the polynomial are those of `expf` in S. Moshier's Cephes library.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Added and taken away, it rounds to a whole number, which meanwhile is in the last bits.
    const ROUND: f32 = 12_582_912.0;
    // e⁻¹⁰⁴ rounds to 0.
    let x = x.clamp(-104.0, 0.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded.to_bits() as i32 - ROUND.to_bits() as i32;
    let whole = rounded - ROUND;
    // ln 2 in two parts, of which the first has few digits: the product is exact.
    let r = x - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = p * r + coefficient;
    }
    let e = p * r * r + r + 1.0;
    // 2ⁿ in two factors: n reaches below the least exponent.
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    let half = n >> 1;
    e * power(half) * power(n.wrapping_sub(half))
}
