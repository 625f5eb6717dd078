//! Sixteen f32 lanes on every processor, so that the kernels are written once.
//!
//! One AVX-512 register, two of AVX2, four of NEON, or an array. Every method must be inlined into a function
//! that was compiled for the instruction set; [`Simd::vectorize`] is that function.
#![allow(unsafe_op_in_unsafe_fn)] // one-line wrappers: the contract is the trait's, stated once below

/// Lanes of a vector, and channels of a block in the kernels' layout.
pub(crate) const LANES: usize = 16;

/// Sixteen f32 lanes.
///
/// # Safety
/// All methods: the running processor has the instruction set of the implementation. `load` and `store`: the
/// pointer is valid for sixteen f32; `broadcast`: for one.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// The sixteen lanes.
    type V: Copy;
    /// Vectors side by side in a panel of output channels.
    const PANEL_VECTORS: usize;
    /// Rows of the register block that fits beside such a panel.
    const ROWS: usize;

    unsafe fn vectorize<R>(work: impl FnOnce() -> R) -> R;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn broadcast(from: *const f32) -> Self::V;
    /// Transposes sixteen rows of sixteen numbers; rows are so many floats apart.
    ///
    /// # Safety
    /// Besides: every row is valid, and what is read and what is written do not overlap.
    #[inline(always)]
    unsafe fn transpose((from, from_row): (*const f32, usize), (to, to_row): (*mut f32, isize)) {
        for row in 0..LANES {
            for column in 0..LANES {
                *to.offset(column as isize * to_row).add(row) = *from.add(row * from_row + column);
            }
        }
    }
    /// Asks for a cache line to be brought into the second-level cache, if there is a way to; any address will do.
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once where the processor can.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// max(v, 0); NaN stays NaN.
    unsafe fn relu(v: Self::V) -> Self::V;
    /// The larger; NaN if either is.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `value` where `gate` is above 0, else 0. NaN in `value` stays.
    unsafe fn gate(gate: Self::V, value: Self::V) -> Self::V;
    /// `then` where not a < b (a NaN is not less), else `otherwise`.
    unsafe fn not_less(a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V;
}

/// Plain Rust, for any processor.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    type V = [f32; LANES];
    const PANEL_VECTORS: usize = 1;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn vectorize<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        from.cast::<Self::V>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        to.cast::<Self::V>().write_unaligned(v);
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn broadcast(from: *const f32) -> Self::V {
        [*from; LANES]
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not f32::mul_add, which is a library call where the processor has none.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn relu(v: Self::V) -> Self::V {
        std::array::from_fn(|i| if v[i] < 0.0 { 0.0 } else { v[i] })
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| {
            if a[i] > b[i] || a[i].is_nan() {
                a[i]
            } else {
                b[i]
            }
        })
    }
    #[inline(always)]
    unsafe fn gate(gate: Self::V, value: Self::V) -> Self::V {
        std::array::from_fn(|i| {
            if gate[i] > 0.0 || value[i].is_nan() {
                value[i]
            } else {
                0.0
            }
        })
    }
    #[inline(always)]
    unsafe fn not_less(a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { otherwise[i] } else { then[i] })
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Simd;

    /// AVX-512F: one register.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    impl Simd for Avx512 {
        type V = __m512;
        // 14 × 2 accumulators, two weights and a broadcast: 31 of 32 registers.
        const PANEL_VECTORS: usize = 2;
        const ROWS: usize = 14;

        #[inline(always)]
        unsafe fn vectorize<R>(work: impl FnOnce() -> R) -> R {
            #[target_feature(enable = "avx512f")]
            unsafe fn inner<R>(work: impl FnOnce() -> R) -> R {
                work()
            }
            inner(work)
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            _mm512_loadu_ps(from)
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            _mm512_storeu_ps(to, v);
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> __m512 {
            _mm512_set1_ps(value)
        }
        #[inline(always)]
        unsafe fn broadcast(from: *const f32) -> __m512 {
            _mm512_set1_ps(*from)
        }
        #[inline(always)]
        unsafe fn transpose(
            (from, from_row): (*const f32, usize),
            (to, to_row): (*mut f32, isize),
        ) {
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
        #[inline(always)]
        unsafe fn prefetch(from: *const f32) {
            _mm_prefetch::<_MM_HINT_T1>(from.cast());
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            _mm512_add_ps(a, b)
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            _mm512_sub_ps(a, b)
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            _mm512_mul_ps(a, b)
        }
        #[inline(always)]
        unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fmadd_ps(a, b, c)
        }
        #[inline(always)]
        unsafe fn relu(v: __m512) -> __m512 {
            // The instruction gives its second operand when either is NaN.
            _mm512_max_ps(_mm512_setzero_ps(), v)
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            _mm512_mask_mov_ps(_mm512_max_ps(a, b), nan, a)
        }
        #[inline(always)]
        unsafe fn gate(gate: __m512, value: __m512) -> __m512 {
            let open = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(gate, _mm512_setzero_ps());
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
            _mm512_maskz_mov_ps(open | nan, value)
        }
        #[inline(always)]
        unsafe fn not_less(a: __m512, b: __m512, then: __m512, otherwise: __m512) -> __m512 {
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(a, b), otherwise, then)
        }
    }

    /// AVX2 with FMA: two registers.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    impl Simd for Avx2 {
        type V = [__m256; 2];
        // 6 × 2 accumulators, two weights and a broadcast: 15 of 16 registers.
        const PANEL_VECTORS: usize = 1;
        const ROWS: usize = 6;

        #[inline(always)]
        unsafe fn vectorize<R>(work: impl FnOnce() -> R) -> R {
            #[target_feature(enable = "avx2,fma")]
            unsafe fn inner<R>(work: impl FnOnce() -> R) -> R {
                work()
            }
            inner(work)
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self::V {
            [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: Self::V) {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self::V {
            [_mm256_set1_ps(value); 2]
        }
        #[inline(always)]
        unsafe fn broadcast(from: *const f32) -> Self::V {
            [_mm256_broadcast_ss(&*from); 2]
        }
        #[inline(always)]
        unsafe fn transpose(
            (from, from_row): (*const f32, usize),
            (to, to_row): (*mut f32, isize),
        ) {
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
        #[inline(always)]
        unsafe fn prefetch(from: *const f32) {
            _mm_prefetch::<_MM_HINT_T1>(from.cast());
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
        }
        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
        }
        #[inline(always)]
        unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
        #[inline(always)]
        unsafe fn relu(v: Self::V) -> Self::V {
            // The instruction gives its second operand when either is NaN.
            let zero = _mm256_setzero_ps();
            [_mm256_max_ps(zero, v[0]), _mm256_max_ps(zero, v[1])]
        }
        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            [max(a[0], b[0]), max(a[1], b[1])]
        }
        #[inline(always)]
        unsafe fn gate(gate: Self::V, value: Self::V) -> Self::V {
            [open(gate[0], value[0]), open(gate[1], value[1])]
        }
        #[inline(always)]
        unsafe fn not_less(a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V {
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
        }
    }

    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a);
        _mm256_blendv_ps(_mm256_max_ps(a, b), a, nan)
    }

    #[inline(always)]
    unsafe fn open(gate: __m256, value: __m256) -> __m256 {
        let open = _mm256_cmp_ps::<_CMP_GT_OQ>(gate, _mm256_setzero_ps());
        let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(value, value);
        _mm256_and_ps(_mm256_or_ps(open, nan), value)
    }
}

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::Neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::Simd;

    /// NEON: four registers.
    #[derive(Clone, Copy)]
    pub(crate) struct Neon;

    /// Applies an instruction to each of the four registers.
    macro_rules! each {
        ($instruction:ident, $($v:expr),+) => {
            [$instruction($($v[0]),+), $instruction($($v[1]),+), $instruction($($v[2]),+), $instruction($($v[3]),+)]
        };
    }

    impl Simd for Neon {
        type V = [float32x4_t; 4];
        // 6 × 4 accumulators, four weights and a broadcast: 29 of 32 registers.
        const PANEL_VECTORS: usize = 1;
        const ROWS: usize = 6;

        #[inline(always)]
        unsafe fn vectorize<R>(work: impl FnOnce() -> R) -> R {
            // NEON is part of every aarch64 target: nothing to enable.
            work()
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self::V {
            [
                vld1q_f32(from),
                vld1q_f32(from.add(4)),
                vld1q_f32(from.add(8)),
                vld1q_f32(from.add(12)),
            ]
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: Self::V) {
            vst1q_f32(to, v[0]);
            vst1q_f32(to.add(4), v[1]);
            vst1q_f32(to.add(8), v[2]);
            vst1q_f32(to.add(12), v[3]);
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self::V {
            [vdupq_n_f32(value); 4]
        }
        #[inline(always)]
        unsafe fn broadcast(from: *const f32) -> Self::V {
            [vld1q_dup_f32(from); 4]
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            each!(vaddq_f32, a, b)
        }
        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            each!(vsubq_f32, a, b)
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            each!(vmulq_f32, a, b)
        }
        #[inline(always)]
        unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            each!(vfmaq_f32, c, a, b)
        }
        #[inline(always)]
        unsafe fn relu(v: Self::V) -> Self::V {
            // FMAX gives NaN when either operand is.
            let zero = Self::splat(0.0);
            each!(vmaxq_f32, zero, v)
        }
        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            each!(vmaxq_f32, a, b)
        }
        #[inline(always)]
        unsafe fn gate(gate: Self::V, value: Self::V) -> Self::V {
            let mut out = value;
            for i in 0..4 {
                let open = vcgtq_f32(gate[i], vdupq_n_f32(0.0));
                let number = vceqq_f32(value[i], value[i]);
                let keep = vorrq_u32(open, vmvnq_u32(number));
                out[i] = vreinterpretq_f32_u32(vandq_u32(keep, vreinterpretq_u32_f32(value[i])));
            }
            out
        }
        #[inline(always)]
        unsafe fn not_less(a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V {
            let less = each!(vcltq_f32, a, b);
            each!(vbslq_f32, less, otherwise, then)
        }
    }
}
