//! The register-blocked product every path ends in: a few rows times one panel of output channels.

use std::ops::Range;

use super::parallel::part;
use super::simd::{LANES, Simd};

/// C (+)= A · B for `rows` rows and one panel of columns.
///
/// A is read one number at a time: `ROW` floats from row to row, and along k in segments of `terms` numbers that are
/// `K` floats apart, each segment at its own offset. B is read one panel row at a time, straight on from segment to
/// segment, C is written one panel row at a time, row after row. Each number of C is one chain of multiply-adds in the
/// order of k, whatever the blocking: results do not depend on it.
///
/// Meanwhile as many floats as B has are brought into the cache from behind it: the next product's, most likely.
#[derive(Clone, Copy)]
pub(super) struct Product<'a, const ROW: usize, const K: usize> {
    pub(super) rows: usize,
    pub(super) segments: &'a [usize],
    pub(super) terms: usize,
    /// Whether the chain begins with what C holds, not with 0.
    pub(super) accumulate: bool,
}

/// One of several blocks of rows, between which work is shared out.
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

impl<const ROW: usize, const K: usize> Product<'_, ROW, K> {
    /// Runs the product.
    ///
    /// # Safety
    /// Inside [`Simd::vectorize`]. `a` is valid for every (row, k), `b` for a panel row of `S::PANEL_VECTORS · 16`
    /// floats per k and `c` for `rows` of them; C overlaps neither.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(&self, a: *const f32, b: *const f32, c: *mut f32) {
        // Even blocks: 20 rows are 10 + 10, not 14 + 6.
        let blocks = self.rows.div_ceil(S::ROWS);
        for block in 0..blocks {
            let share = Share { block, blocks };
            let Range { start: row, end } = share.of(self.rows);
            let take = end - row;
            // SAFETY: rows row..row + take are among those the caller vouches for.
            unsafe {
                let (a, c) = (a.add(row * ROW), c.add(row * S::PANEL_VECTORS * LANES));
                if S::PANEL_VECTORS == 2 {
                    self.block_of::<S, 2>(take, share, a, b, c);
                } else {
                    self.block_of::<S, 1>(take, share, a, b, c);
                }
            }
        }
    }

    /// Picks the block with as many rows: the count must be known when compiling for the accumulators to be
    /// registers.
    #[inline(always)]
    unsafe fn block_of<S: Simd, const V: usize>(
        &self,
        rows: usize,
        share: Share,
        a: *const f32,
        b: *const f32,
        c: *mut f32,
    ) {
        // SAFETY: as for `run`.
        unsafe {
            match rows {
                1 => self.block::<S, 1, V>(share, a, b, c),
                2 => self.block::<S, 2, V>(share, a, b, c),
                3 => self.block::<S, 3, V>(share, a, b, c),
                4 => self.block::<S, 4, V>(share, a, b, c),
                5 => self.block::<S, 5, V>(share, a, b, c),
                6 => self.block::<S, 6, V>(share, a, b, c),
                7 => self.block::<S, 7, V>(share, a, b, c),
                8 => self.block::<S, 8, V>(share, a, b, c),
                9 => self.block::<S, 9, V>(share, a, b, c),
                10 => self.block::<S, 10, V>(share, a, b, c),
                11 => self.block::<S, 11, V>(share, a, b, c),
                12 => self.block::<S, 12, V>(share, a, b, c),
                13 => self.block::<S, 13, V>(share, a, b, c),
                _ => self.block::<S, 14, V>(share, a, b, c),
            }
        }
    }

    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const V: usize>(
        &self,
        share: Share,
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
                        *sum = S::load(c.add((r * V + v) * LANES));
                    }
                }
            }
            let mut b = b;
            for segment in self.segments {
                let mut a = a.add(*segment);
                let behind = b.wrapping_add(self.segments.len() * self.terms * V * LANES);
                let next_rows = a.wrapping_add(R * LANES);
                let fetched = share.of(self.terms);
                for k in 0..self.terms {
                    if ROW == LANES {
                        S::prefetch(next_rows.wrapping_add(k * LANES));
                        if fetched.contains(&k) {
                            for v in 0..V {
                                S::prefetch(behind.wrapping_add((k * V + v) * LANES));
                            }
                        }
                    }
                    let mut weights = [S::splat(0.0); V];
                    for (v, weight) in weights.iter_mut().enumerate() {
                        *weight = S::load(b.add(v * LANES));
                    }
                    for (r, sum) in sum.iter_mut().enumerate() {
                        let value = S::broadcast(a.add(r * ROW));
                        for (v, sum) in sum.iter_mut().enumerate() {
                            *sum = S::mul_add(value, weights[v], *sum);
                        }
                    }
                    a = a.add(K);
                    b = b.add(V * LANES);
                }
            }
            for (r, sum) in sum.iter().enumerate() {
                for (v, sum) in sum.iter().enumerate() {
                    S::store(c.add((r * V + v) * LANES), *sum);
                }
            }
        }
    }
}
