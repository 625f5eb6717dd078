//! Sixteen f32 lanes on every processor, so that the kernels are written once.
//!
//! One AVX-512 register, two of AVX2, four of NEON, or an array. An implementation is a token: a value of it is made
//! only where its instructions were detected, so whoever holds one may use them.
//!
//! For the instructions to become instructions and not calls, every method must be inlined into a function that was
//! compiled for them. [`Simd::vectorize`] is that function; what runs inside it, closures included, is
//! `inline(always)`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;

/// Lanes of a vector, and channels of a block in the kernels' layout.
pub(crate) const LANES: usize = 16;

/// The most vectors a panel may have. The microkernel spells them out.
pub(crate) const MAX_NR_VECTORS: usize = 2;

/// The most rows a register block may have. The microkernel spells them out.
pub(crate) const MAX_MR: usize = 14;

/// Sixteen f32 lanes, and the proof that the processor has the instructions for them.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// The sixteen lanes.
    type V: Copy;
    /// Vectors side by side in a panel of output channels, at most [`MAX_NR_VECTORS`].
    const NR_VECTORS: usize;
    /// Output channels of a panel: the microkernel's columns.
    const NR: usize = Self::NR_VECTORS * LANES;
    /// Rows of the microkernel's register block, at most [`MAX_MR`].
    const MR: usize;

    /// Runs `work`, compiled for the instructions.
    fn vectorize<R>(self, work: impl FnOnce() -> R) -> R;

    /// Reads sixteen lanes.
    ///
    /// # Safety
    /// `from` is valid for reading sixteen f32; it need not be aligned to more than one.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Writes sixteen lanes.
    ///
    /// # Safety
    /// `to` is valid for writing sixteen f32; it need not be aligned to more than one.
    unsafe fn store(self, to: *mut f32, v: Self::V);
    /// Reads one f32 into all lanes.
    ///
    /// # Safety
    /// `from` is valid for reading one f32.
    unsafe fn broadcast(self, from: *const f32) -> Self::V;
    /// Transposes sixteen rows of sixteen numbers; rows are so many floats apart.
    ///
    /// # Safety
    /// `from` is valid for reading sixteen f32 at each of its rows, `to` for writing as many at each of its own, and
    /// what is read and what is written do not overlap.
    #[inline(always)]
    unsafe fn transpose(
        self,
        (from, from_row): (*const f32, usize),
        (to, to_row): (*mut f32, isize),
    ) {
        for row in 0..LANES {
            for column in 0..LANES {
                // SAFETY: one of sixteen numbers of a row on either side, which the caller says are valid.
                unsafe {
                    *to.offset(column as isize * to_row).add(row) =
                        *from.add(row * from_row + column);
                }
            }
        }
    }
    /// Asks for a cache line to be brought into the second-level cache, if there is a way to; any address will do.
    #[inline(always)]
    fn prefetch(self, _from: *const f32) {}

    /// The same number in all lanes.
    fn splat(self, value: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// 1 / v to a few units in the last place, for v that are neither tiny nor huge.
    fn reciprocal(self, v: Self::V) -> Self::V;
    /// 2ⁿ for whole numbers n from −127 to 127, of which the first may give 0.
    fn power_of_two(self, n: Self::V) -> Self::V;
    /// a · b + c, rounded once where the processor can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `v`, but not less than `low` and not more than `high`; NaN stays NaN.
    fn clamp(self, v: Self::V, low: Self::V, high: Self::V) -> Self::V;
    /// The larger; NaN if either is.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `value` where `gate` is above 0 and not at or above `end`, else 0. NaN in `value` stays; an `end` of NaN is
    /// none.
    fn gate(self, gate: Self::V, end: Self::V, value: Self::V) -> Self::V;
    /// `then` where not a < b (a NaN is not less), else `otherwise`.
    fn not_less(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V;
}
