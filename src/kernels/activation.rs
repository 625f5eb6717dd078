//! What follows a convolution's sums, number by number, and its slope.

use candle_core::cpu::erf::erf_f32;

use super::simd::{LANES, Simd};

/// What follows a convolution's sums, number by number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
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

    /// Its values of sixteen numbers; NaN of NaN.
    #[inline(always)]
    pub(super) fn of_vector<S: Simd>(self, simd: S, x: S::V) -> S::V {
        let [zero, six] = [0.0, 6.0].map(|number| simd.splat(number));
        let ramp = || simd.clamp(simd.add(x, simd.splat(3.0)), zero, six);
        let sixth = simd.splat(1.0 / 6.0);
        match self {
            Self::Identity => x,
            Self::Relu => simd.clamp(x, zero, simd.splat(f32::INFINITY)),
            Self::Relu6 => simd.clamp(x, zero, six),
            Self::Silu => {
                // −88 · σ(−88) is 0 but for 10⁻³⁷, and so is what follows.
                let least = simd.clamp(x, simd.splat(-MOST), simd.splat(f32::INFINITY));
                simd.mul(least, sigmoid_of_vector(simd, x))
            }
            Self::HardSwish => simd.mul(simd.mul(x, ramp()), sixth),
            Self::HardSigmoid => simd.mul(ramp(), sixth),
            Self::Sigmoid => sigmoid_of_vector(simd, x),
            Self::Gelu => each_lane(
                simd,
                x,
                #[inline(always)]
                |x| self.value(x),
            ),
        }
    }

    /// Its slopes at sixteen numbers.
    #[inline(always)]
    pub(super) fn slope_of_vector<S: Simd>(self, simd: S, x: S::V) -> S::V {
        let one = simd.splat(1.0);
        // Between the kinks of the two hard ones, at which `choose` puts what is 0 there, or 1: NaN stays NaN.
        let (low, high) = (simd.splat(-3.0), simd.splat(3.0));
        let between = simd.clamp(x, low, high);
        let choose = |above, middle| {
            let upper = simd.not_less(between, high, above, middle);
            simd.not_less(low, between, simd.sub(between, low), upper)
        };
        match self {
            Self::Silu => {
                let sigmoid = sigmoid_of_vector(simd, x);
                // Not of infinity, which the logistic function makes 0 of.
                let most = simd.clamp(x, simd.splat(-MOST), simd.splat(MOST));
                let rest = simd.mul(most, simd.sub(one, sigmoid));
                simd.mul(sigmoid, simd.add(one, rest))
            }
            Self::Sigmoid => {
                let sigmoid = sigmoid_of_vector(simd, x);
                simd.mul(sigmoid, simd.sub(one, sigmoid))
            }
            Self::HardSwish => {
                let third = simd.mul(between, simd.splat(1.0 / 3.0));
                choose(third, simd.add(third, simd.splat(0.5)))
            }
            Self::HardSigmoid => choose(simd.sub(between, high), simd.splat(1.0 / 6.0)),
            _ => each_lane(
                simd,
                x,
                #[inline(always)]
                |x| self.slope(x),
            ),
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

/// What a function makes of sixteen numbers.
#[inline(always)]
fn each_lane<S: Simd>(simd: S, x: S::V, function: impl Fn(f32) -> f32) -> S::V {
    let mut lanes = [0.0; LANES];
    // SAFETY: sixteen floats.
    unsafe { simd.store(lanes.as_mut_ptr(), x) };
    for lane in &mut lanes {
        *lane = function(*lane);
    }
    // SAFETY: sixteen floats.
    unsafe { simd.load(lanes.as_ptr()) }
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

/// Added and taken away, it rounds to a whole number, which meanwhile is in the last bits.
const ROUND: f32 = 12_582_912.0;

/// ln 2 in two parts, of which the first has few digits: its product with a whole number is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// (eʳ − 1 − r) / r² for |r| up to half of ln 2, the highest power first.
const POLYNOMIAL: [f32; 6] = [
    1.987_569_1e-4,
    1.398_199_9e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    0.5,
];

/// eˣ of x at most 0, without branches or calls, so that loops of it become vector instructions. To one unit in the
/// last place or two; the method and the polynomial are those of `expf` in S. Moshier's Cephes library.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // e⁻¹⁰⁴ rounds to 0.
    let x = x.clamp(-104.0, 0.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded.to_bits() as i32 - ROUND.to_bits() as i32;
    let whole = rounded - ROUND;
    let r = x - whole * LN_2_HIGH - whole * LN_2_LOW;
    let mut p = POLYNOMIAL[0];
    for coefficient in &POLYNOMIAL[1..] {
        p = p * r + coefficient;
    }
    let e = p * r * r + r + 1.0;
    // 2ⁿ in two factors: n reaches below the least exponent.
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    let half = n >> 1;
    e * power(half) * power(n.wrapping_sub(half))
}

/// Above this, eˣ is out of range, and 1 + e⁻ˣ is 1.
const MOST: f32 = 88.0;

/// 1 / (1 + e⁻ˣ)
#[inline(always)]
fn sigmoid_of_vector<S: Simd>(simd: S, x: S::V) -> S::V {
    let x = simd.clamp(x, simd.splat(-MOST), simd.splat(MOST));
    let round = simd.splat(ROUND);
    // −x = whole · ln 2 − r. One part of ln 2 is enough: the error is that of x.
    let rounded = simd.mul_add(x, simd.splat(-std::f32::consts::LOG2_E), round);
    let whole = simd.sub(rounded, round);
    let r = simd.mul_add(whole, simd.splat(std::f32::consts::LN_2), x);
    // (e⁻ʳ − 1 + r) / r², so that e⁻ʳ is right to 2 · 10⁻⁷: fitted to that by least squares, weighted anew until all
    // errors were alike.
    let mut p = simd.splat(-0.008_312_502);
    for coefficient in [0.041_890_334, -0.166_671_16, 0.499_992_3] {
        p = simd.mul_add(p, r, simd.splat(coefficient));
    }
    let one = simd.splat(1.0);
    let e = simd.mul_add(simd.mul(p, r), r, simd.sub(one, r));
    simd.reciprocal(simd.mul_add(e, simd.power_of_two(whole), one))
}
