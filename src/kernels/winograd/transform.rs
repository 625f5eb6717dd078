//! Tiles and weights to points and back, in two dimensions.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::epilogue::Epilogue;
use super::super::parallel::Shared;
use super::super::simd::{LANES, Simd};
use super::points::{self, Line, MAX_SIZE, TileFamily};
use super::tiling::{Tile, Tiling};

/// Floats of a line of [`HalfTransformed`].
const LINE: usize = MAX_SIZE * LANES;

/// A tile's values between the pass along its columns and that along its rows.
type HalfTransformed = MaybeUninit<Aligned<{ MAX_SIZE * LINE }>>;

/// Vectors that do not lie across two cache lines.
#[repr(align(64))]
struct Aligned<const FLOATS: usize>([f32; FLOATS]);

/// Runs a function that is generic over how many pairs of points a side of the family's tile has.
macro_rules! with_pairs {
    ($family:ty, $outputs:expr, $pairs:ident => $body:expr) => {
        match $outputs {
            6 if <$family>::LARGEST >= 6 => {
                const $pairs: usize = 3;
                $body
            }
            4 if <$family>::LARGEST >= 4 => {
                const $pairs: usize = 2;
                $body
            }
            _ => {
                const $pairs: usize = 1;
                $body
            }
        }
    };
}

/// One dimension: `lines` times, from COUNT vectors `from_step` apart to WRITTEN vectors `to_step` apart.
///
/// # Safety
/// At every step of every line `from` is valid for reading sixteen floats and `to` for writing them.
#[inline(always)]
unsafe fn pass<S: Simd, const COUNT: usize, const WRITTEN: usize>(
    simd: S,
    lines: usize,
    (from, from_line, from_step): (*const f32, usize, usize),
    (to, to_line, to_step): (*mut f32, usize, usize),
    transform: impl Fn(Line<S>) -> Line<S>,
) {
    for line in 0..lines {
        // SAFETY: these are the steps of a line.
        unsafe {
            let (from, to) = (from.add(line * from_line), to.add(line * to_line));
            let mut values = [simd.splat(0.0); MAX_SIZE];
            for (step, value) in values.iter_mut().enumerate().take(COUNT) {
                *value = simd.load(from.add(step * from_step));
            }
            for (step, value) in transform(values).iter().enumerate().take(WRITTEN) {
                simd.store(to.add(step * to_step), *value);
            }
        }
    }
}

/// The pixels that a tile is made of; outside of the map they are 0.
struct Window {
    /// Where its rows begin.
    rows: [*const f32; MAX_SIZE],
    columns: usize,
    /// The columns that the map has.
    there: Range<usize>,
}

/// A row outside of a map.
static ZEROS: Aligned<LINE> = Aligned([0.0; LINE]);

impl Window {
    /// The window of a tile with so wide a rim, on a plane of the tiling's maps.
    #[inline(always)]
    fn new(plane: *const f32, tiling: &Tiling, tile: Tile, rim: usize) -> Self {
        let shape = tiling.shape;
        Self {
            rows: std::array::from_fn(
                #[inline(always)]
                |row| {
                    // Rows above the map wrap to huge numbers and fail the comparison.
                    let y = (tile.top + row).wrapping_sub(rim);
                    let first = (y.wrapping_mul(shape.width) + tile.left).wrapping_sub(rim);
                    if y < shape.height {
                        plane.wrapping_add(first.wrapping_mul(LANES))
                    } else {
                        ZEROS.0.as_ptr()
                    }
                },
            ),
            columns: tile.columns + 2 * rim,
            there: rim.saturating_sub(tile.left)..shape.width + rim - tile.left,
        }
    }

    /// The pass along its columns, to lines of [`HalfTransformed`]. Returns the sum of the pixels.
    ///
    /// # Safety
    /// The rows are those of a plane that is valid for reading, and `to` is valid for writing lines.
    #[inline(always)]
    unsafe fn pass<S: Simd, const COUNT: usize, const WRITTEN: usize>(
        &self,
        simd: S,
        to: *mut f32,
        transform: impl Fn(Line<S>) -> Line<S>,
    ) -> S::V {
        let mut sum = simd.splat(0.0);
        for column in 0..self.columns {
            let mut values = [simd.splat(0.0); MAX_SIZE];
            if self.there.contains(&column) {
                for (row, value) in values.iter_mut().enumerate().take(COUNT) {
                    let from = self.rows[row].wrapping_add(column * LANES);
                    // SAFETY: a column that the map has, of one of its rows or of the zeros.
                    *value = unsafe { simd.load(from) };
                    sum = simd.add(sum, *value);
                    // The next tile's.
                    simd.prefetch(from.wrapping_add(self.columns * LANES));
                }
                values = transform(values);
            }
            for (row, value) in values.iter().enumerate().take(WRITTEN) {
                // SAFETY: a line has room for MAX_SIZE columns, and there are as many lines.
                unsafe { simd.store(to.add(row * LINE + column * LANES), *value) };
            }
        }
        sum
    }
}

/// Transforms one tile of one channel block to its points: inputs with their rim, or with `GRADIENT` gradients of
/// outputs. Points are `point` floats apart, and those of the whole tiling's largest tile count. Returns the sum of
/// what was transformed.
///
/// # Safety
/// `x` is valid for reading the tiling's maps, `tile` and `block` are within them, and `v` is valid for writing sixteen
/// floats at each point.
#[inline(always)]
pub(super) unsafe fn input_tile<S: Simd, P: TileFamily, const GRADIENT: bool>(
    simd: S,
    x: *const f32,
    tiling: &Tiling,
    (tile, block): (Tile, usize),
    (v, point): (*mut f32, usize),
) -> S::V {
    let shape = tiling.shape;
    let (_, across) = tiling.point_grid();
    let mut half = HalfTransformed::uninit();
    let half = half.as_mut_ptr().cast::<f32>();
    let from_half = (half.cast_const(), LINE, LANES);
    let to = (v, across * point, point);
    let (rows, columns) = (tile.rows, tile.columns);
    // SAFETY: the plane is within x, so the window is of a valid plane; `half` has the lines and columns of the largest
    // tile, of which the second pass reads what the first one wrote; the caller says that points are valid.
    unsafe {
        let plane = x.add((tile.image * shape.blocks() + block) * shape.plane_len());
        if GRADIENT {
            let window = Window::new(plane, tiling, tile, 0);
            let sum = with_pairs!(P, rows, PAIRS => window.pass::<S, { 2 * PAIRS }, { 2 * PAIRS + 2 }>(
                simd, half, #[inline(always)] |d| points::output_back::<S, P, PAIRS>(simd, d)));
            with_pairs!(P, columns, PAIRS => pass::<S, { 2 * PAIRS }, { 2 * PAIRS + 2 }>(
                simd, rows + 2, from_half, to,
                #[inline(always)] |d| points::output_back::<S, P, PAIRS>(simd, d)));
            sum
        } else {
            let window = Window::new(plane, tiling, tile, 1);
            let sum = with_pairs!(P, rows, PAIRS => window.pass::<S, { 2 * PAIRS + 2 }, { 2 * PAIRS + 2 }>(
                simd, half, #[inline(always)] |d| points::input::<S, P, PAIRS>(simd, d)));
            with_pairs!(P, columns, PAIRS => pass::<S, { 2 * PAIRS + 2 }, { 2 * PAIRS + 2 }>(
                simd, rows + 2, from_half, to,
                #[inline(always)] |d| points::input::<S, P, PAIRS>(simd, d)));
            sum
        }
    }
}

/// Where a tile's outputs go, and what becomes of them.
struct Outputs<'a, S: Simd> {
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

/// Transforms one tile's products of sixteen output channels back, and writes what the maps have room for.
///
/// # Safety
/// `m` is valid for reading sixteen floats at each point. `y` holds the output maps (pooled if the epilogue pools),
/// which the epilogue was checked for, `tile` and `block` are within them, and nobody else writes these outputs.
#[inline(always)]
pub(super) unsafe fn output_tile<S: Simd, P: TileFamily>(
    simd: S,
    (m, point): (*const f32, usize),
    tiling: &Tiling,
    (tile, block): (Tile, usize),
    epilogue: &Epilogue<'_>,
    y: Shared<'_>,
) {
    let (_, across) = tiling.point_grid();
    let (shape, step) = if epilogue.pool {
        (tiling.shape.pooled(), 2)
    } else {
        (tiling.shape, 1)
    };
    let (top, left) = (tile.top / step, tile.left / step);
    let plane = (tile.image * shape.blocks() + block) * shape.plane_len();
    let outputs = Outputs {
        simd,
        epilogue,
        // SAFETY: the block is one of the output's.
        bias: unsafe { epilogue.bias(simd, block) },
        y,
        first: plane + (top * shape.width + left) * LANES,
        row: shape.width * LANES,
        height: (tile.rows / step).min(shape.height.saturating_sub(top)),
        width: (tile.columns / step).min(shape.width.saturating_sub(left)),
    };
    let mut half = HalfTransformed::uninit();
    let half = half.as_mut_ptr().cast::<f32>();
    // SAFETY: the caller says that points are valid; `half` has the lines and columns of the largest tile, of which the
    // second pass reads what the first one wrote; outputs are written only where the maps have them.
    unsafe {
        with_pairs!(P, tile.rows, PAIRS => pass::<S, { 2 * PAIRS + 2 }, { 2 * PAIRS }>(
            simd,
            tile.columns + 2,
            (m, point, across * point),
            (half, LANES, LINE),
            #[inline(always)] |d| points::output::<S, P, PAIRS>(simd, d),
        ));
        with_pairs!(P, tile.columns, PAIRS => if epilogue.pool {
            outputs.write_pooled::<P, PAIRS>(half);
        } else {
            outputs.write::<P, PAIRS>(half);
        });
    }
}

impl<S: Simd> Outputs<'_, S> {
    /// Writes a tile's outputs from lines of half transformed points.
    ///
    /// # Safety
    /// The tile's lines are valid; the epilogue was checked for `y`, which has the rows and columns there is room for,
    /// and nobody else writes them.
    #[inline(always)]
    unsafe fn write<P: TileFamily, const PAIRS: usize>(&self, half: *const f32) {
        for line in 0..self.height {
            let at = self.first + line * self.row;
            // SAFETY: one of the tile's lines.
            let values = unsafe { self.line::<P, PAIRS>(half.add(line * LINE)) };
            for column in 0..2 * PAIRS {
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
    unsafe fn write_pooled<P: TileFamily, const PAIRS: usize>(&self, half: *const f32) {
        let simd = self.simd;
        for line in 0..self.height {
            let at = self.first + line * self.row;
            // SAFETY: two of the tile's lines, of which it has twice as many as rows of the pooled map.
            let (upper, lower) = unsafe {
                (
                    self.line::<P, PAIRS>(half.add(2 * line * LINE)),
                    self.line::<P, PAIRS>(half.add((2 * line + 1) * LINE)),
                )
            };
            for column in 0..PAIRS {
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

    /// A row of outputs from a line of half transformed points.
    ///
    /// # Safety
    /// The line is valid for reading.
    #[inline(always)]
    unsafe fn line<P: TileFamily, const PAIRS: usize>(&self, line: *const f32) -> Line<S> {
        let mut values = [self.simd.splat(0.0); MAX_SIZE];
        for (column, value) in values.iter_mut().enumerate().take(2 * PAIRS + 2) {
            // SAFETY: a line has MAX_SIZE columns.
            *value = unsafe { self.simd.load(line.add(column * LANES)) };
        }
        points::output::<S, P, PAIRS>(self.simd, values)
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

/// Transforms the weights from one input to sixteen outputs to points that are `point` floats apart, `across` of them
/// to a row. The taps are `tap` floats apart.
///
/// # Safety
/// `taps` is valid for reading sixteen floats at each tap, `u` for writing them at each point.
#[inline(always)]
pub(super) unsafe fn weights<S: Simd, P: TileFamily>(
    simd: S,
    (taps, tap): (*const f32, usize),
    (u, point): (*mut f32, usize),
    (down, across): (usize, usize),
) {
    let taps: [S::V; 9] = std::array::from_fn(
        #[inline(always)]
        // SAFETY: one of the nine taps.
        |at| unsafe { simd.load(taps.add(at * tap)) },
    );
    with_pairs!(P, down - 2, DOWN => {
        let mut half = [[simd.splat(0.0); 3]; MAX_SIZE];
        for j in 0..3 {
            let column = points::weights::<S, P, DOWN>(simd, [taps[j], taps[3 + j], taps[6 + j]]);
            for i in 0..2 * DOWN + 2 {
                half[i][j] = column[i];
            }
        }
        with_pairs!(P, across - 2, ACROSS => {
            for i in 0..2 * DOWN + 2 {
                let row = points::weights::<S, P, ACROSS>(simd, half[i]);
                for j in 0..2 * ACROSS + 2 {
                    // SAFETY: one of the `down` · `across` points.
                    unsafe { simd.store(u.add((i * across + j) * point), row[j]) };
                }
            }
        });
    });
}

/// Gᵀ u G for sixteen outputs: nine taps, one after the other, from points that are `point` floats apart.
///
/// # Safety
/// `u` is valid for reading sixteen floats at each point, `taps` for writing them at each tap.
#[inline(always)]
pub(super) unsafe fn weights_back<S: Simd, P: TileFamily>(
    simd: S,
    (u, point): (*const f32, usize),
    (down, across): (usize, usize),
    taps: *mut f32,
) {
    with_pairs!(P, across - 2, ACROSS => {
        let mut half = [[simd.splat(0.0); MAX_SIZE]; 3];
        with_pairs!(P, down - 2, DOWN => {
            for j in 0..2 * ACROSS + 2 {
                let mut column = [simd.splat(0.0); MAX_SIZE];
                for (i, value) in column.iter_mut().enumerate().take(2 * DOWN + 2) {
                    // SAFETY: one of the `down` · `across` points.
                    *value = unsafe { simd.load(u.add((i * across + j) * point)) };
                }
                let column = points::weights_back::<S, P, DOWN>(simd, column);
                for i in 0..3 {
                    half[i][j] = column[i];
                }
            }
        });
        for (i, row) in half.iter().enumerate() {
            let row = points::weights_back::<S, P, ACROSS>(simd, *row);
            for (j, value) in row.iter().enumerate() {
                // SAFETY: one of the nine taps.
                unsafe { simd.store(taps.add((3 * i + j) * LANES), *value) };
            }
        }
    });
}
