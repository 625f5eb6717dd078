//! The microkernel every method ends in: a few rows times one panel of output channels.

use std::ops::Range;

use super::parallel::part;
use super::simd::{LANES, MAX_MR, MAX_NR_VECTORS, Simd};

/// A · B for `m` rows and one panel of [`Simd::NR`] columns, by register blocks of at most [`Simd::MR`] rows, to an
/// [`Output`]. Of the panel's vectors, those from `vectors` on are left out.
///
/// A is read one number at a time: `ROW` floats from row to row, and along k in segments of `segment_k` numbers that
/// are `K` floats apart, each segment at its own offset. B is read one panel row at a time. Each number of the product
/// is one chain of multiply-adds in the order of k, whatever the blocking: results do not depend on it.
///
/// Where A's rows are whole vectors apart, as many floats as B has are brought into the cache meanwhile from behind it:
/// most likely the next call's.
#[derive(Clone, Copy)]
pub(super) struct Microkernel<'a, const ROW: usize, const K: usize> {
    pub(super) m: usize,
    pub(super) vectors: usize,
    pub(super) segments: &'a [usize],
    pub(super) segment_k: usize,
    /// Numbers of the last segment that count; as many panel rows of B are read of it.
    pub(super) last_k: usize,
}

/// B, as its panel rows lie in memory. A pointer is one: packed, [`Simd::NR`] floats a row, straight on from segment to
/// segment.
pub(super) trait PanelRows<S: Simd>: Copy {
    /// Where the first row of a segment begins, of segments of `segment_k` rows.
    fn segment(self, index: usize, segment_k: usize) -> *const f32;
    /// Floats from a row to the next.
    #[inline(always)]
    fn row(self) -> usize {
        S::NR
    }
    /// Floats from a vector of a row to the next.
    #[inline(always)]
    fn vector(self) -> usize {
        LANES
    }
}

impl<S: Simd> PanelRows<S> for *const f32 {
    #[inline(always)]
    fn segment(self, index: usize, segment_k: usize) -> *const f32 {
        self.wrapping_add(index * segment_k * S::NR)
    }
}

/// Panel rows of blocked maps: pixels for rows, blocks for vectors, images for segments.
#[derive(Clone, Copy)]
pub(super) struct Pixels {
    pub(super) first: *const f32,
    /// Floats from a block to the next.
    pub(super) plane_len: usize,
    /// Floats from an image to the next.
    pub(super) image_len: usize,
}

impl<S: Simd> PanelRows<S> for Pixels {
    #[inline(always)]
    fn segment(self, index: usize, _: usize) -> *const f32 {
        self.first.wrapping_add(index * self.image_len)
    }

    #[inline(always)]
    fn row(self) -> usize {
        LANES
    }

    #[inline(always)]
    fn vector(self) -> usize {
        self.plane_len
    }
}

/// Where a product goes, a vector at a time.
pub(super) trait Output<S: Simd>: Copy {
    /// Asks for what [`end`](Self::end) will read and write of a row's vector, if it may not be in the cache.
    #[inline(always)]
    fn prefetch(self, _simd: S, _row: usize, _vector: usize) {}
    /// What the chain of a row's vector begins with.
    ///
    /// # Safety
    /// The row is below the product's `m`, and the vector below its `vectors`.
    unsafe fn begin(self, simd: S, row: usize, vector: usize) -> S::V;
    /// Takes the end of the chain.
    ///
    /// # Safety
    /// As for [`begin`](Self::begin).
    unsafe fn end(self, simd: S, row: usize, vector: usize, sum: S::V);
}

/// C, one panel row of [`Simd::NR`] floats after another.
#[derive(Clone, Copy)]
pub(super) struct InMemory {
    /// Valid for reading and writing `m` panel rows.
    pub(super) c: *mut f32,
    /// Whether chains begin with what C holds, not with 0.
    pub(super) accumulate: bool,
}

impl<S: Simd> Output<S> for InMemory {
    #[inline(always)]
    unsafe fn begin(self, simd: S, row: usize, vector: usize) -> S::V {
        if !self.accumulate {
            return simd.splat(0.0);
        }
        // SAFETY: C has this vector of this row.
        unsafe { simd.load(self.c.add(row * S::NR + vector * LANES)) }
    }

    #[inline(always)]
    unsafe fn end(self, simd: S, row: usize, vector: usize, sum: S::V) {
        // SAFETY: C has this vector of this row.
        unsafe { simd.store(self.c.add(row * S::NR + vector * LANES), sum) };
    }
}

/// How many k before it is read A is brought into the cache, where each is a line of its own: in pages, at whose ends
/// the processor stops looking ahead.
const AHEAD: usize = 16;

/// One of several register blocks, between which the prefetching is shared out.
#[derive(Clone, Copy)]
struct Share {
    block: usize,
    blocks: usize,
}

impl Share {
    #[inline(always)]
    fn of(self, items: usize) -> Range<usize> {
        part(&(0..items), self.block, self.blocks)
    }
}

impl<const ROW: usize, const K: usize> Microkernel<'_, ROW, K> {
    /// Computes the product.
    ///
    /// # Safety
    /// `a` is valid for reading every (row, k), `b` the `vectors` of a panel row for every k, and `output` for `m`
    /// rows; it overlaps neither A nor B.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(
        &self,
        simd: S,
        a: *const f32,
        b: impl PanelRows<S>,
        output: impl Output<S>,
    ) {
        const { assert!(S::MR <= MAX_MR && S::NR_VECTORS <= MAX_NR_VECTORS) };
        debug_assert!((1..=S::NR_VECTORS).contains(&self.vectors) && self.last_k <= self.segment_k);
        // Even blocks: 20 rows are 10 + 10, not 14 + 6.
        let blocks = self.m.div_ceil(S::MR);
        for block in 0..blocks {
            let share = Share { block, blocks };
            let rows = share.of(self.m);
            // SAFETY: these rows are among the m that the caller says are valid, and so are the blocks' operands.
            unsafe {
                if S::NR_VECTORS == 2 && self.vectors == 2 {
                    self.block_of::<S, 2>(simd, rows, share, a, b, output);
                } else {
                    self.block_of::<S, 1>(simd, rows, share, a, b, output);
                }
            }
        }
    }

    /// Picks the register block of so many rows: the number must be known when compiling for the accumulators to be
    /// registers.
    ///
    /// # Safety
    /// As for [`run`](Self::run), for these rows; V is `vectors`.
    #[inline(always)]
    unsafe fn block_of<S: Simd, const V: usize>(
        &self,
        simd: S,
        rows: Range<usize>,
        share: Share,
        a: *const f32,
        b: impl PanelRows<S>,
        output: impl Output<S>,
    ) {
        let row = rows.start;
        // SAFETY: the first of the rows is among those that are valid.
        let a = unsafe { a.add(row * ROW) };
        // Each block is a function of its own: unoptimised, all of them together would want 3 MB of stack.
        macro_rules! block {
            ($r:literal) => {
                simd.vectorize(
                    #[inline(always)]
                    // SAFETY: what `block` asks for is what the caller says, of as many rows as its arm is for.
                    || unsafe { self.block::<S, $r, V>(simd, row, share, a, b, output) },
                )
            };
        }
        match rows.len() {
            1 => block!(1),
            2 => block!(2),
            3 => block!(3),
            4 => block!(4),
            5 => block!(5),
            6 => block!(6),
            7 => block!(7),
            8 => block!(8),
            9 => block!(9),
            10 => block!(10),
            11 => block!(11),
            12 => block!(12),
            13 => block!(13),
            _ => block!(14),
        }
    }

    /// One register block of V vectors and R rows from `first` on, where `a` begins.
    ///
    /// # Safety
    /// As for [`run`](Self::run), for these rows; V is `vectors`.
    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        first: usize,
        share: Share,
        a: *const f32,
        b: impl PanelRows<S>,
        output: impl Output<S>,
    ) {
        // A block larger than the registers hold is never asked for; this keeps it from being compiled.
        if R > S::MR {
            return;
        }
        let mut sums = [[simd.splat(0.0); V]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a row and a vector of the product.
                *sum = unsafe { output.begin(simd, first + r, v) };
            }
        }
        for (index, segment) in self.segments.iter().enumerate() {
            let is_last = index + 1 == self.segments.len();
            let count = if is_last { self.last_k } else { self.segment_k };
            // SAFETY: the segment begins within A; it has K floats for each k, at the last of which `a` is not read
            // again.
            let mut a = unsafe { a.add(*segment) };
            let mut row = b.segment(index, self.segment_k);
            let behind = b.segment(self.segments.len() + index, self.segment_k);
            let next_rows = a.wrapping_add(R * LANES);
            let fetched = share.of(count);
            for k in 0..count {
                if K == LANES {
                    simd.prefetch(a.wrapping_add(AHEAD * LANES));
                }
                if index == 0 && k < R {
                    for v in 0..V {
                        output.prefetch(simd, first + k, v);
                    }
                }
                if ROW == LANES {
                    simd.prefetch(next_rows.wrapping_add(k * LANES));
                    if fetched.contains(&k) {
                        prefetch_row::<S, V>(simd, behind.wrapping_add(k * S::NR));
                    }
                }
                let mut weights = [simd.splat(0.0); V];
                for (v, weight) in weights.iter_mut().enumerate() {
                    // SAFETY: vector v < V of B's panel row for this k.
                    *weight = unsafe { simd.load(row.add(v * b.vector())) };
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: row r < R of A at this k.
                    let value = unsafe { simd.broadcast(a.add(r * ROW)) };
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = simd.mul_add(value, weights[v], *sum);
                    }
                }
                a = a.wrapping_add(K);
                row = row.wrapping_add(b.row());
            }
        }
        // Spelt out: in a loop that the compiler finds too long to spell out, the sums are not registers.
        macro_rules! end {
            ($($r:literal)*) => {$(
                if $r < R {
                    // SAFETY: a row and a vector of the product.
                    unsafe {
                        output.end(simd, first + $r, 0, sums[$r][0]);
                        if V > 1 {
                            output.end(simd, first + $r, 1, sums[$r][1]);
                        }
                    }
                }
            )*};
        }
        end!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
    }
}

/// Asks for a panel row.
#[inline(always)]
fn prefetch_row<S: Simd, const V: usize>(simd: S, row: *const f32) {
    for v in 0..V {
        simd.prefetch(row.wrapping_add(v * LANES));
    }
}
