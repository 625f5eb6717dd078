//! NEON: four registers.

use std::arch::aarch64::*;

use super::Simd;

/// Runs instructions that a token stands for.
macro_rules! detected {
    ($instructions:expr) => {
        // SAFETY: `self` exists, so this is an aarch64 processor, which has NEON, and these need no more.
        unsafe { $instructions }
    };
}

/// Stands for NEON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neon(());

impl Neon {
    /// The token: NEON is part of every aarch64 target.
    pub(crate) fn detect() -> Option<Self> {
        Some(Self(()))
    }
}

/// Applies an instruction to each of the four registers.
macro_rules! each {
    ($instruction:ident, $($v:expr),+) => {
        [$instruction($($v[0]),+), $instruction($($v[1]),+), $instruction($($v[2]),+), $instruction($($v[3]),+)]
    };
}

impl Simd for Neon {
    type V = [float32x4_t; 4];
    // 6 × 4 accumulators, four weights and a broadcast: 29 of 32 registers.
    const NR_VECTORS: usize = 1;
    const MR: usize = 6;

    #[inline(always)]
    fn vectorize<R>(self, work: impl FnOnce() -> R) -> R {
        // NEON is part of every aarch64 target: nothing to enable.
        work()
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: the caller says that the pointers are valid.
        unsafe {
            [
                vld1q_f32(from),
                vld1q_f32(from.add(4)),
                vld1q_f32(from.add(8)),
                vld1q_f32(from.add(12)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: the caller says that the pointers are valid.
        unsafe {
            vst1q_f32(to, v[0]);
            vst1q_f32(to.add(4), v[1]);
            vst1q_f32(to.add(8), v[2]);
            vst1q_f32(to.add(12), v[3]);
        }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        detected!([vdupq_n_f32(value); 4])
    }
    #[inline(always)]
    unsafe fn broadcast(self, from: *const f32) -> Self::V {
        // SAFETY: the caller says that the pointers are valid.
        unsafe { [vld1q_dup_f32(from); 4] }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        detected!(each!(vaddq_f32, a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        detected!(each!(vsubq_f32, a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        detected!(each!(vmulq_f32, a, b))
    }
    #[inline(always)]
    fn reciprocal(self, v: Self::V) -> Self::V {
        detected!(v.map(|v| vdivq_f32(vdupq_n_f32(1.0), v)))
    }
    #[inline(always)]
    fn power_of_two(self, n: Self::V) -> Self::V {
        detected!({
            // The exponent's bits, which are 127 more.
            n.map(|n| {
                let n = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(n))
            })
        })
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        detected!(each!(vfmaq_f32, c, a, b))
    }
    #[inline(always)]
    fn clamp(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V {
        // FMAX and FMIN give NaN when either operand is.
        detected!({
            let v = each!(vmaxq_f32, low, v);
            each!(vminq_f32, high, v)
        })
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        detected!(each!(vmaxq_f32, a, b))
    }
    #[inline(always)]
    fn gate(self, gate: Self::V, end: Self::V, value: Self::V) -> Self::V {
        detected!({
            let mut out = value;
            for i in 0..4 {
                let open = vcgtq_f32(gate[i], vdupq_n_f32(0.0));
                let open = vbicq_u32(open, vcgeq_f32(gate[i], end[i]));
                let number = vceqq_f32(value[i], value[i]);
                let keep = vorrq_u32(open, vmvnq_u32(number));
                out[i] = vreinterpretq_f32_u32(vandq_u32(keep, vreinterpretq_u32_f32(value[i])));
            }
            out
        })
    }
    #[inline(always)]
    fn not_less(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V {
        detected!({
            let less = each!(vcltq_f32, a, b);
            each!(vbslq_f32, less, otherwise, then)
        })
    }
}
