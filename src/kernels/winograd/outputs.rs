//! Where a tile's outputs go, and what becomes of them.

use super::super::epilogue::Epilogue;
use super::super::parallel::Shared;
use super::super::simd::{LANES, Simd};
use super::filtering::Written;
use super::points::{Line, MAX_SIZE};
use super::tiling::Tile;

/// Floats of a line of half transformed points, each of which becomes a row of outputs.
pub(super) const LINE: usize = MAX_SIZE * LANES;

pub(super) struct Outputs<'a, S: Simd> {
    simd: S,
    epilogue: &'a Epilogue<'a>,
    bias: S::V,
    y: Shared<'a>,
    /// Where the first output is written.
    first: usize,
    /// Floats from one row of the map to the next.
    row: usize,
    /// Rows and columns that the map has room for.
    height: usize,
    width: usize,
}

impl<'a, S: Simd> Outputs<'a, S> {
    /// Those of a tile in a channel block.
    ///
    /// # Safety
    /// The block is one of the output's, which the epilogue was checked for.
    #[inline(always)]
    pub(super) unsafe fn new(simd: S, to: &Written<'a>, (tile, block): (Tile, usize)) -> Self {
        let (epilogue, y) = (to.epilogue, to.y);
        let (shape, step) = if epilogue.pool {
            (to.shape.pooled(), 2)
        } else {
            (to.shape, 1)
        };
        let (top, left) = (tile.top / step, tile.left / step);
        let plane = (tile.image * shape.blocks() + block) * shape.plane_len();
        Self {
            simd,
            epilogue,
            // SAFETY: the block is one of the output's.
            bias: unsafe { epilogue.bias(simd, block) },
            y,
            first: plane + (top * shape.width + left) * LANES,
            row: shape.width * LANES,
            height: (tile.rows / step).min(shape.height.saturating_sub(top)),
            width: (tile.columns / step).min(shape.width.saturating_sub(left)),
        }
    }

    /// Writes rows of COLUMNS outputs, each transformed from a line of POINTS half transformed points.
    ///
    /// # Safety
    /// `half` begins the tile's lines; the epilogue was checked for `y`, which has the rows and columns there is room
    /// for, and nobody else writes them.
    #[inline(always)]
    pub(super) unsafe fn write<const POINTS: usize, const COLUMNS: usize>(
        &self,
        half: *const f32,
        transform: impl Fn(Line<S>) -> Line<S>,
    ) {
        if self.epilogue.pool {
            // SAFETY: the caller says what it asks for.
            unsafe { self.write_pooled::<POINTS, COLUMNS>(half, transform) };
            return;
        }
        for line in 0..self.height {
            let at = self.first + line * self.row;
            // SAFETY: one of the tile's lines.
            let values = transform(unsafe { self.line::<POINTS>(half.add(line * LINE)) });
            for column in 0..COLUMNS {
                if column < self.width {
                    // SAFETY: a row and column that the map has.
                    unsafe { self.put(values[column], at + column * LANES) };
                }
            }
        }
    }

    /// The same of each 2×2 outputs' maximum.
    ///
    /// # Safety
    /// As for [`write`](Self::write).
    #[inline(always)]
    unsafe fn write_pooled<const POINTS: usize, const COLUMNS: usize>(
        &self,
        half: *const f32,
        transform: impl Fn(Line<S>) -> Line<S>,
    ) {
        let simd = self.simd;
        for line in 0..self.height {
            let at = self.first + line * self.row;
            // SAFETY: two of the tile's lines, of which it has twice as many as rows of the pooled map.
            let (upper, lower) = unsafe {
                (
                    self.line::<POINTS>(half.add(2 * line * LINE)),
                    self.line::<POINTS>(half.add((2 * line + 1) * LINE)),
                )
            };
            let (upper, lower) = (transform(upper), transform(lower));
            for column in 0..COLUMNS / 2 {
                let above = simd.max(upper[2 * column], upper[2 * column + 1]);
                let below = simd.max(lower[2 * column], lower[2 * column + 1]);
                // The larger of sums is the larger with the bias, and ReLU keeps their order.
                if column < self.width {
                    // SAFETY: a row and column that the map has.
                    unsafe { self.put(simd.max(above, below), at + column * LANES) };
                }
            }
        }
    }

    /// A line of half transformed points.
    ///
    /// # Safety
    /// So many vectors are valid for reading.
    #[inline(always)]
    unsafe fn line<const POINTS: usize>(&self, line: *const f32) -> Line<S> {
        let mut values = [self.simd.splat(0.0); MAX_SIZE];
        for (column, value) in values.iter_mut().enumerate().take(POINTS) {
            // SAFETY: one of those vectors.
            *value = unsafe { self.simd.load(line.add(column * LANES)) };
        }
        values
    }

    /// Writes what becomes of sixteen sums.
    ///
    /// # Safety
    /// `offset` is where a pixel of `y` begins, which the epilogue was checked for, and nobody else writes it.
    #[inline(always)]
    unsafe fn put(&self, sums: S::V, offset: usize) {
        // SAFETY: these sixteen floats are within `y` and the caller's alone.
        unsafe {
            let value = self.epilogue.finish(self.simd, sums, self.bias, offset);
            self.simd.store(self.y.at(offset), value);
        }
    }
}
