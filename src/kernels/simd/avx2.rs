//! AVX2 with FMA: two registers.

use std::arch::x86_64::*;

use super::Simd;

/// Runs instructions that a token stands for.
macro_rules! detected {
    ($instructions:expr) => {
        // SAFETY: `self` exists, so `detect` found AVX2 and FMA, and these need no more.
        unsafe { $instructions }
    };
}

/// Stands for AVX2 and FMA.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The token, if this processor has the instructions.
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        found.then_some(Self(()))
    }

    /// [`Simd::max`] of one register.
    #[inline(always)]
    fn max_of_half(self, a: __m256, b: __m256) -> __m256 {
        detected!({
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a);
            _mm256_blendv_ps(_mm256_max_ps(a, b), a, nan)
        })
    }

    /// [`Simd::gate`] of one register.
    #[inline(always)]
    fn gate_half(self, gate: __m256, end: __m256, value: __m256) -> __m256 {
        detected!({
            let open = _mm256_cmp_ps::<_CMP_GT_OQ>(gate, _mm256_setzero_ps());
            let open = _mm256_and_ps(open, _mm256_cmp_ps::<_CMP_NGE_UQ>(gate, end));
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(value, value);
            _mm256_and_ps(_mm256_or_ps(open, nan), value)
        })
    }
}

impl Simd for Avx2 {
    type V = [__m256; 2];
    // 6 × 2 accumulators, two weights and a broadcast: 15 of 16 registers.
    const NR_VECTORS: usize = 1;
    const MR: usize = 6;

    #[inline(always)]
    fn vectorize<R>(self, work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma")]
        fn inner<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        detected!(inner(work))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: the pointers are valid, as the caller says; the token stands for the instructions.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: the pointers are valid, as the caller says; the token stands for the instructions.
        unsafe {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        detected!([_mm256_set1_ps(value); 2])
    }
    #[inline(always)]
    unsafe fn broadcast(self, from: *const f32) -> Self::V {
        // SAFETY: the pointers are valid, as the caller says; the token stands for the instructions.
        unsafe { [_mm256_broadcast_ss(&*from); 2] }
    }
    #[inline(always)]
    unsafe fn transpose(
        self,
        (from, from_row): (*const f32, usize),
        (to, to_row): (*mut f32, isize),
    ) {
        // SAFETY: the pointers are valid, as the caller says; the token stands for the instructions.
        unsafe {
            for (row, column) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
                let from = from.add(row * from_row + column);
                let mut a = [_mm256_setzero_ps(); 8];
                for row in 0..8 {
                    a[row] = _mm256_loadu_ps(from.add(row * from_row));
                }
                // Within each half of a register: pairs of rows, then fours of them.
                let mut b = a;
                for row in (0..8).step_by(2) {
                    b[row] = _mm256_unpacklo_ps(a[row], a[row + 1]);
                    b[row + 1] = _mm256_unpackhi_ps(a[row], a[row + 1]);
                }
                for row in [0, 4] {
                    a[row] = _mm256_shuffle_ps::<0x44>(b[row], b[row + 2]);
                    a[row + 1] = _mm256_shuffle_ps::<0xEE>(b[row], b[row + 2]);
                    a[row + 2] = _mm256_shuffle_ps::<0x44>(b[row + 1], b[row + 3]);
                    a[row + 3] = _mm256_shuffle_ps::<0xEE>(b[row + 1], b[row + 3]);
                }
                let to = to.offset(column as isize * to_row).add(row);
                for column in 0..4 {
                    let low = _mm256_permute2f128_ps::<0x20>(a[column], a[column + 4]);
                    let high = _mm256_permute2f128_ps::<0x31>(a[column], a[column + 4]);
                    _mm256_storeu_ps(to.offset(column as isize * to_row), low);
                    _mm256_storeu_ps(to.offset((column + 4) as isize * to_row), high);
                }
            }
        }
    }
    #[inline(always)]
    fn prefetch(self, from: *const f32) {
        detected!(_mm_prefetch::<_MM_HINT_T1>(from.cast()));
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        detected!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        detected!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        detected!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }
    #[inline(always)]
    fn reciprocal(self, v: Self::V) -> Self::V {
        detected!(v.map(|v| _mm256_div_ps(_mm256_set1_ps(1.0), v)))
    }
    #[inline(always)]
    fn power_of_two(self, n: Self::V) -> Self::V {
        detected!({
            // The exponent's bits, which are 127 more.
            n.map(|n| {
                let n = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
            })
        })
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        detected!({
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        })
    }
    #[inline(always)]
    fn clamp(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V {
        // Both instructions give their second operand when either is NaN.
        detected!({
            [
                _mm256_min_ps(high[0], _mm256_max_ps(low[0], v[0])),
                _mm256_min_ps(high[1], _mm256_max_ps(low[1], v[1])),
            ]
        })
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        [self.max_of_half(a[0], b[0]), self.max_of_half(a[1], b[1])]
    }
    #[inline(always)]
    fn gate(self, gate: Self::V, end: Self::V, value: Self::V) -> Self::V {
        [
            self.gate_half(gate[0], end[0], value[0]),
            self.gate_half(gate[1], end[1], value[1]),
        ]
    }
    #[inline(always)]
    fn not_less(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V {
        detected!({
            [
                _mm256_blendv_ps(
                    otherwise[0],
                    then[0],
                    _mm256_cmp_ps::<_CMP_NLT_UQ>(a[0], b[0]),
                ),
                _mm256_blendv_ps(
                    otherwise[1],
                    then[1],
                    _mm256_cmp_ps::<_CMP_NLT_UQ>(a[1], b[1]),
                ),
            ]
        })
    }
}
