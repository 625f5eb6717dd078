//! Tiles to points and back, in two dimensions.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::epilogue::Epilogue;
use super::simd::{LANES, Simd};
use super::tile::{self, MAX_SIZE, Points};
use super::tiling::{Tile, Tiling};

/// Floats of a line of [`Values`].
const LINE: usize = MAX_SIZE * LANES;

/// A tile's values between the pass along its columns and that along its rows.
type Values = MaybeUninit<Aligned<{ MAX_SIZE * LINE }>>;

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

/// One dimension: `lines` times, from vectors `from_step` apart to vectors `to_step` apart.
///
/// # Safety
/// Inside `vectorize`; both are valid for sixteen floats at every step of every line.
#[inline(always)]
unsafe fn pass<S: Simd, const COUNT: usize, const WRITTEN: usize>(
    lines: usize,
    (from, from_line, from_step): (*const f32, usize, usize),
    (to, to_line, to_step): (*mut f32, usize, usize),
    transform: impl Fn([S::V; MAX_SIZE]) -> [S::V; MAX_SIZE],
) {
    for line in 0..lines {
        // SAFETY: the caller's.
        unsafe {
            let (from, to) = (from.add(line * from_line), to.add(line * to_line));
            let mut values = [S::splat(0.0); MAX_SIZE];
            for (step, value) in values.iter_mut().enumerate().take(COUNT) {
                *value = S::load(from.add(step * from_step));
            }
            for (step, value) in transform(values).iter().enumerate().take(WRITTEN) {
                S::store(to.add(step * to_step), *value);
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
    /// The pass along its columns, to rows of [`Values`]. Returns the sum of the pixels.
    ///
    /// # Safety
    /// Inside `vectorize`; rows are valid where there are columns, and `to` holds values.
    #[inline(always)]
    unsafe fn pass<S: Simd, const COUNT: usize, const WRITTEN: usize>(
        &self,
        to: *mut f32,
        transform: impl Fn([S::V; MAX_SIZE]) -> [S::V; MAX_SIZE],
    ) -> S::V {
        // SAFETY: the caller's.
        unsafe {
            let mut sum = S::splat(0.0);
            for column in 0..self.columns {
                let mut values = [S::splat(0.0); MAX_SIZE];
                if self.there.contains(&column) {
                    for (row, value) in values.iter_mut().enumerate().take(COUNT) {
                        let from = self.rows[row].wrapping_add(column * LANES);
                        *value = S::load(from);
                        sum = S::add(sum, *value);
                        // The next tile's.
                        S::prefetch(from.wrapping_add(self.columns * LANES));
                    }
                    values = transform(values);
                }
                for (row, value) in values.iter().enumerate().take(WRITTEN) {
                    S::store(to.add(row * LINE + column * LANES), *value);
                }
            }
            sum
        }
    }
}

/// Transforms one tile of one channel block to its points: inputs with their rim, or with `GRADIENT` gradients of
/// outputs. Points are `point` floats apart, and those of the whole tiling's largest tile count. Returns the sum of
/// what was transformed.
///
/// # Safety
/// Inside `vectorize`; `x` holds the tiling's maps, `tile` and `block` are within it, and `v` is valid for sixteen
/// floats at each point.
#[inline(always)]
pub(super) unsafe fn input_tile<S: Simd, P: Points, const GRADIENT: bool>(
    x: *const f32,
    tiling: &Tiling,
    tile: Tile,
    block: usize,
    v: *mut f32,
    point: usize,
) -> S::V {
    let maps = tiling.maps;
    let rim = if GRADIENT { 0 } else { 1 };
    let (_, across) = tiling.points();
    // SAFETY: the plane is within x, and so are the window's rows and columns that are there.
    unsafe {
        let plane = x.add((tile.picture * maps.blocks() + block) * maps.plane());
        // Before the first row, or column, is behind the last.
        let window = Window {
            rows: std::array::from_fn(
                #[inline(always)]
                |row| {
                    let y = (tile.top + row).wrapping_sub(rim);
                    let first = (y.wrapping_mul(maps.width) + tile.left).wrapping_sub(rim);
                    if y < maps.height {
                        plane.wrapping_add(first.wrapping_mul(LANES))
                    } else {
                        ZEROS.0.as_ptr()
                    }
                },
            ),
            columns: tile.columns + 2 * rim,
            there: rim.saturating_sub(tile.left)..maps.width + rim - tile.left,
        };
        let mut half = Values::uninit();
        let half = half.as_mut_ptr().cast::<f32>();
        let sum = if GRADIENT {
            with_pairs!(P, tile.rows, PAIRS => window.pass::<S, { 2 * PAIRS }, { 2 * PAIRS + 2 }>(
                half, #[inline(always)] |d| tile::output_back::<S, P, PAIRS>(d)))
        } else {
            with_pairs!(P, tile.rows, PAIRS => window.pass::<S, { 2 * PAIRS + 2 }, { 2 * PAIRS + 2 }>(
                half, #[inline(always)] |d| tile::input::<S, P, PAIRS>(d)))
        };
        let (rows, columns) = (tile.rows, tile.columns);
        let from_half = (half.cast_const(), LINE, LANES);
        let to = (v, across * point, point);
        if GRADIENT {
            with_pairs!(P, columns, PAIRS => pass::<S, { 2 * PAIRS }, { 2 * PAIRS + 2 }>(
                rows + 2, from_half, to, #[inline(always)] |d| tile::output_back::<S, P, PAIRS>(d)));
        } else {
            with_pairs!(P, columns, PAIRS => pass::<S, { 2 * PAIRS + 2 }, { 2 * PAIRS + 2 }>(
                rows + 2, from_half, to, #[inline(always)] |d| tile::input::<S, P, PAIRS>(d)));
        }
        sum
    }
}

/// Transforms one tile's products of sixteen output channels back, and writes what the maps have room for.
///
/// # Safety
/// Inside `vectorize`; `m` is valid for sixteen floats at each point, `y` holds the output maps (pooled if the
/// epilogue pools), which the epilogue was checked for, and `tile` and `block` are within them.
#[inline(always)]
pub(super) unsafe fn output_tile<S: Simd, P: Points>(
    m: *const f32,
    point: usize,
    tiling: &Tiling,
    tile: Tile,
    block: usize,
    epilogue: &Epilogue<'_>,
    y: *mut f32,
) {
    let (_, across) = tiling.points();
    let maps = if epilogue.pool {
        tiling.maps.pooled()
    } else {
        tiling.maps
    };
    let step = if epilogue.pool { 2 } else { 1 };
    let (top, left) = (tile.top / step, tile.left / step);
    let height = (tile.rows / step).min(maps.height.saturating_sub(top));
    let width = (tile.columns / step).min(maps.width.saturating_sub(left));
    // SAFETY: points are the caller's; pixels are written only where the maps have them.
    unsafe {
        let mut half = Values::uninit();
        let half = half.as_mut_ptr().cast::<f32>();
        with_pairs!(P, tile.rows, PAIRS => pass::<S, { 2 * PAIRS + 2 }, { 2 * PAIRS }>(
            tile.columns + 2,
            (m, point, across * point),
            (half, LANES, LINE),
            #[inline(always)] |d| tile::output::<S, P, PAIRS>(d),
        ));
        let bias = epilogue.bias::<S>(block);
        let map = (tile.picture * maps.blocks() + block) * maps.plane();
        with_pairs!(P, tile.columns, PAIRS => {
            for line in 0..height {
                let at = map + ((top + line) * maps.width + left) * LANES;
                if epilogue.pool {
                    let upper = outputs::<S, P, PAIRS>(half.add(2 * line * LINE));
                    let lower = outputs::<S, P, PAIRS>(half.add((2 * line + 1) * LINE));
                    for column in 0..PAIRS {
                        let above = S::max(upper[2 * column], upper[2 * column + 1]);
                        let below = S::max(lower[2 * column], lower[2 * column + 1]);
                        // The larger of sums is the larger with the bias, and ReLU keeps their order.
                        if column < width {
                            let offset = at + column * LANES;
                            let value = epilogue.finish::<S>(S::max(above, below), bias, offset);
                            S::store(y.add(offset), value);
                        }
                    }
                } else {
                    let values = outputs::<S, P, PAIRS>(half.add(line * LINE));
                    for column in 0..2 * PAIRS {
                        if column < width {
                            let offset = at + column * LANES;
                            let value = epilogue.finish::<S>(values[column], bias, offset);
                            S::store(y.add(offset), value);
                        }
                    }
                }
            }
        });
    }
}

/// A row of outputs from a row of half transformed points.
///
/// # Safety
/// Inside `vectorize`; the row is valid.
#[inline(always)]
unsafe fn outputs<S: Simd, P: Points, const PAIRS: usize>(row: *const f32) -> [S::V; MAX_SIZE] {
    // SAFETY: the caller's.
    unsafe {
        let mut values = [S::splat(0.0); MAX_SIZE];
        for (column, value) in values.iter_mut().enumerate().take(2 * PAIRS + 2) {
            *value = S::load(row.add(column * LANES));
        }
        tile::output::<S, P, PAIRS>(values)
    }
}

/// Transforms the weights from one input to sixteen outputs to points that are `point` floats apart, `across` of them
/// to a row. The taps are `tap` floats apart.
///
/// # Safety
/// Inside `vectorize`; `taps` and `u` are valid for sixteen floats at each tap and point.
#[inline(always)]
pub(super) unsafe fn weights<S: Simd, P: Points>(
    (taps, tap): (*const f32, usize),
    (u, point): (*mut f32, usize),
    (down, across): (usize, usize),
) {
    // SAFETY: the caller's.
    unsafe {
        let taps: [S::V; 9] = std::array::from_fn(
            #[inline(always)]
            |at| S::load(taps.add(at * tap)),
        );
        with_pairs!(P, down - 2, DOWN => {
            let mut half = [[S::splat(0.0); 3]; MAX_SIZE];
            for j in 0..3 {
                let column = tile::weights::<S, P, DOWN>([taps[j], taps[3 + j], taps[6 + j]]);
                for i in 0..2 * DOWN + 2 {
                    half[i][j] = column[i];
                }
            }
            with_pairs!(P, across - 2, ACROSS => {
                for i in 0..2 * DOWN + 2 {
                    let row = tile::weights::<S, P, ACROSS>(half[i]);
                    for j in 0..2 * ACROSS + 2 {
                        S::store(u.add((i * across + j) * point), row[j]);
                    }
                }
            });
        });
    }
}

/// Gᵀ u G for sixteen outputs: nine taps, one after the other, from points that are `point` floats apart.
///
/// # Safety
/// Inside `vectorize`; `u` and `taps` are valid for sixteen floats at each point and tap.
#[inline(always)]
pub(super) unsafe fn weights_back<S: Simd, P: Points>(
    u: *const f32,
    point: usize,
    (down, across): (usize, usize),
    taps: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        with_pairs!(P, across - 2, ACROSS => {
            let mut half = [[S::splat(0.0); MAX_SIZE]; 3];
            with_pairs!(P, down - 2, DOWN => {
                for j in 0..2 * ACROSS + 2 {
                    let mut column = [S::splat(0.0); MAX_SIZE];
                    for (i, value) in column.iter_mut().enumerate().take(2 * DOWN + 2) {
                        *value = S::load(u.add((i * across + j) * point));
                    }
                    let column = tile::weights_back::<S, P, DOWN>(column);
                    for i in 0..3 {
                        half[i][j] = column[i];
                    }
                }
            });
            for (i, row) in half.iter().enumerate() {
                let row = tile::weights_back::<S, P, ACROSS>(*row);
                for (j, value) in row.iter().enumerate() {
                    S::store(taps.add((3 * i + j) * LANES), *value);
                }
            }
        });
    }
}
