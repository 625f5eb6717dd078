//! AVX-512F: one register.

use std::arch::x86_64::*;

use super::Simd;

/// Runs instructions that a token stands for.
macro_rules! detected {
    ($instructions:expr) => {
        // SAFETY: `self` exists, so `detect` found AVX-512F, and these need no more.
        unsafe { $instructions }
    };
}

/// Stands for AVX-512F.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The token, if this processor has the instructions.
    pub(crate) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }
}

impl Simd for Avx512 {
    type V = __m512;
    // 14 × 2 accumulators, two weights and a broadcast: 31 of 32 registers.
    const NR_VECTORS: usize = 2;
    const MR: usize = 14;

    #[inline(always)]
    fn vectorize<R>(self, work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f")]
        fn inner<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        detected!(inner(work))
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the pointers are valid, as the caller says; the token stands for the instructions.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m512) {
        // SAFETY: the pointers are valid, as the caller says; the token stands for the instructions.
        unsafe {
            _mm512_storeu_ps(to, v);
        }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        detected!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    unsafe fn broadcast(self, from: *const f32) -> __m512 {
        // SAFETY: the pointers are valid, as the caller says; the token stands for the instructions.
        unsafe { _mm512_set1_ps(*from) }
    }
    #[inline(always)]
    unsafe fn transpose(
        self,
        (from, from_row): (*const f32, usize),
        (to, to_row): (*mut f32, isize),
    ) {
        // SAFETY: the pointers are valid, as the caller says; the token stands for the instructions.
        unsafe {
            let mut a = [_mm512_setzero_ps(); 16];
            for row in 0..16 {
                a[row] = _mm512_loadu_ps(from.add(row * from_row));
            }
            // Within each quarter of a register: pairs of rows, then fours of them.
            let mut b = a;
            for row in (0..16).step_by(2) {
                b[row] = _mm512_unpacklo_ps(a[row], a[row + 1]);
                b[row + 1] = _mm512_unpackhi_ps(a[row], a[row + 1]);
            }
            for row in (0..16).step_by(4) {
                let pd = |row: usize| _mm512_castps_pd(b[row]);
                a[row] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(row), pd(row + 2)));
                a[row + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(row), pd(row + 2)));
                a[row + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(row + 1), pd(row + 3)));
                a[row + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(row + 1), pd(row + 3)));
            }
            // a[4r + c] has column 4q + c of rows 4r to 4r + 3 in its quarter q.
            for column in 0..4 {
                let [r0, r1, r2, r3] = [0, 4, 8, 12].map(|row| a[row + column]);
                let even = _mm512_shuffle_f32x4::<0x88>(r0, r1);
                let odd = _mm512_shuffle_f32x4::<0xDD>(r0, r1);
                let later_even = _mm512_shuffle_f32x4::<0x88>(r2, r3);
                let later_odd = _mm512_shuffle_f32x4::<0xDD>(r2, r3);
                let columns = [
                    _mm512_shuffle_f32x4::<0x88>(even, later_even),
                    _mm512_shuffle_f32x4::<0x88>(odd, later_odd),
                    _mm512_shuffle_f32x4::<0xDD>(even, later_even),
                    _mm512_shuffle_f32x4::<0xDD>(odd, later_odd),
                ];
                for (quarter, value) in columns.into_iter().enumerate() {
                    let to = to.offset((4 * quarter + column) as isize * to_row);
                    _mm512_storeu_ps(to, value);
                }
            }
        }
    }
    #[inline(always)]
    fn prefetch(self, from: *const f32) {
        detected!(_mm_prefetch::<_MM_HINT_T1>(from.cast()));
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        detected!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        detected!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        detected!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn reciprocal(self, v: __m512) -> __m512 {
        detected!({
            // Fourteen bits, and twice as many by a step of Newton's method: half of what a division takes.
            let rough = _mm512_rcp14_ps(v);
            let error = _mm512_fnmadd_ps(v, rough, _mm512_set1_ps(1.0));
            _mm512_fmadd_ps(rough, error, rough)
        })
    }
    #[inline(always)]
    fn power_of_two(self, n: __m512) -> __m512 {
        detected!(_mm512_scalef_ps(_mm512_set1_ps(1.0), n))
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        detected!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn clamp(self, v: __m512, low: __m512, high: __m512) -> __m512 {
        // Both instructions give their second operand when either is NaN.
        detected!(_mm512_min_ps(high, _mm512_max_ps(low, v)))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        detected!({
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            _mm512_mask_mov_ps(_mm512_max_ps(a, b), nan, a)
        })
    }
    #[inline(always)]
    fn gate(self, gate: __m512, end: __m512, value: __m512) -> __m512 {
        detected!({
            let open = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(gate, _mm512_setzero_ps());
            let open = _mm512_mask_cmp_ps_mask::<_CMP_NGE_UQ>(open, gate, end);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
            _mm512_maskz_mov_ps(open | nan, value)
        })
    }
    #[inline(always)]
    fn not_less(self, a: __m512, b: __m512, then: __m512, otherwise: __m512) -> __m512 {
        detected!(_mm512_mask_blend_ps(
            _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(a, b),
            otherwise,
            then
        ))
    }
}
