//! Plain Rust, for any processor.

use super::{LANES, Simd};

/// Needs no instructions but those that every processor has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Portable;

impl Simd for Portable {
    type V = [f32; LANES];
    const NR_VECTORS: usize = 1;
    const MR: usize = 4;

    #[inline(always)]
    fn vectorize<R>(self, work: impl FnOnce() -> R) -> R {
        work()
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: the caller says that the pointers are valid.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: the caller says that the pointers are valid.
        unsafe {
            to.cast::<Self::V>().write_unaligned(v);
        }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn broadcast(self, from: *const f32) -> Self::V {
        // SAFETY: the caller says that the pointers are valid.
        unsafe { [*from; LANES] }
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn reciprocal(self, v: Self::V) -> Self::V {
        v.map(|v| 1.0 / v)
    }
    #[inline(always)]
    fn power_of_two(self, n: Self::V) -> Self::V {
        // The exponent's bits, which are 127 more.
        n.map(|n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not f32::mul_add, which is a library call where the processor has none.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn clamp(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V {
        // Comparisons with NaN are false.
        std::array::from_fn(|i| {
            let v = if v[i] < low[i] { low[i] } else { v[i] };
            if v > high[i] { high[i] } else { v }
        })
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| {
            if a[i] > b[i] || a[i].is_nan() {
                a[i]
            } else {
                b[i]
            }
        })
    }
    #[inline(always)]
    fn gate(self, gate: Self::V, end: Self::V, value: Self::V) -> Self::V {
        std::array::from_fn(|i| {
            let is_open = gate[i] > 0.0 && !(gate[i] >= end[i]);
            if is_open || value[i].is_nan() {
                value[i]
            } else {
                0.0
            }
        })
    }
    #[inline(always)]
    fn not_less(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { otherwise[i] } else { then[i] })
    }
}
