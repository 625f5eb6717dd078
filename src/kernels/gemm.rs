//! The register-blocked product every path ends in: a few rows times one panel of output channels.

use super::simd::{LANES, Simd};

/// C (+)= A · B for `rows` rows and one panel of columns.
///
/// A is read one number at a time: `a_row` floats from row to row, and along k in segments of `terms` numbers that
/// are `a_k` floats apart, each segment at its own offset. B is read one panel row at a time (`b_k` floats apart,
/// straight on from segment to segment), C is written one panel row at a time (`c_row` apart). Each number of C is
/// one chain of multiply-adds in the order of k, whatever the blocking: results do not depend on it.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) rows: usize,
    pub(super) segments: &'a [usize],
    pub(super) terms: usize,
    pub(super) a_row: usize,
    pub(super) a_k: usize,
    pub(super) b_k: usize,
    pub(super) c_row: usize,
    /// Whether the chain begins with what C holds, not with 0.
    pub(super) accumulate: bool,
}

impl Product<'_> {
    /// Runs the product.
    ///
    /// # Safety
    /// Inside [`Simd::vectorize`]. `a` is valid for every (row, k), `b` for a panel row per k and `c` for `rows`
    /// panel rows of `S::PANEL_VECTORS · 16` floats at the strides given; C overlaps neither.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(&self, a: *const f32, b: *const f32, c: *mut f32) {
        let mut row = 0;
        while row < self.rows {
            let left = self.rows - row;
            // Even blocks: 20 rows are 10 + 10, not 14 + 6.
            let blocks = left.div_ceil(S::ROWS);
            let take = left.div_ceil(blocks);
            // SAFETY: rows row..row + take are among those the caller vouches for.
            unsafe {
                let (a, c) = (a.add(row * self.a_row), c.add(row * self.c_row));
                if S::PANEL_VECTORS == 2 {
                    self.block_of::<S, 2>(take, a, b, c);
                } else {
                    self.block_of::<S, 1>(take, a, b, c);
                }
            }
            row += take;
        }
    }

    /// Picks the block with as many rows: the count must be known when compiling for the accumulators to be
    /// registers.
    #[inline(always)]
    unsafe fn block_of<S: Simd, const V: usize>(
        &self,
        rows: usize,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
    ) {
        // SAFETY: as for `run`.
        unsafe {
            match rows {
                1 => self.block::<S, 1, V>(a, b, c),
                2 => self.block::<S, 2, V>(a, b, c),
                3 => self.block::<S, 3, V>(a, b, c),
                4 => self.block::<S, 4, V>(a, b, c),
                5 => self.block::<S, 5, V>(a, b, c),
                6 => self.block::<S, 6, V>(a, b, c),
                7 => self.block::<S, 7, V>(a, b, c),
                8 => self.block::<S, 8, V>(a, b, c),
                9 => self.block::<S, 9, V>(a, b, c),
                10 => self.block::<S, 10, V>(a, b, c),
                11 => self.block::<S, 11, V>(a, b, c),
                12 => self.block::<S, 12, V>(a, b, c),
                13 => self.block::<S, 13, V>(a, b, c),
                _ => self.block::<S, 14, V>(a, b, c),
            }
        }
    }

    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const V: usize>(
        &self,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
    ) {
        // A block larger than the registers hold is never asked for; this keeps it from being compiled.
        if R > S::ROWS {
            return;
        }
        // SAFETY: every address is row < R, k < terms, vector < V of the operands the caller vouches for.
        unsafe {
            let mut sum = [[S::splat(0.0); V]; R];
            if self.accumulate {
                for (r, sum) in sum.iter_mut().enumerate() {
                    for (v, sum) in sum.iter_mut().enumerate() {
                        *sum = S::load(c.add(r * self.c_row + v * LANES));
                    }
                }
            }
            let mut b = b;
            for segment in self.segments {
                let mut a = a.add(*segment);
                for _ in 0..self.terms {
                    let mut weights = [S::splat(0.0); V];
                    for (v, weight) in weights.iter_mut().enumerate() {
                        *weight = S::load(b.add(v * LANES));
                    }
                    for (r, sum) in sum.iter_mut().enumerate() {
                        let value = S::broadcast(a.add(r * self.a_row));
                        for (v, sum) in sum.iter_mut().enumerate() {
                            *sum = S::mul_add(value, weights[v], *sum);
                        }
                    }
                    a = a.add(self.a_k);
                    b = b.add(self.b_k);
                }
            }
            for (r, sum) in sum.iter().enumerate() {
                for (v, sum) in sum.iter().enumerate() {
                    S::store(c.add(r * self.c_row + v * LANES), *sum);
                }
            }
        }
    }
}
