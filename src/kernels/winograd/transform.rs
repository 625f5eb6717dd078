//! Tiles and weights of a convolution with stride 1 to points and back, in two dimensions.

use std::mem::MaybeUninit;

use super::super::shape::Shape;
use super::super::simd::{LANES, Simd};
use super::filtering::{Filtering, FilteringBack, Maps, Transformed, Units, Written};
use super::outputs::{LINE, Outputs};
use super::patch::{Aligned, Patch};
use super::points::{self, Line, MAX_SIZE, TileFamily};
use super::tiling::{Tile, Tiling};

/// A tile's values between the pass along its columns and that along its rows.
type HalfTransformed = MaybeUninit<Aligned<{ MAX_SIZE * LINE }>>;

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

impl<P: TileFamily> Filtering for P {
    const POINTS: usize = P::LARGEST + 2;

    fn tiling(output: Shape, _: (usize, usize)) -> Tiling {
        Tiling::of_largest(output, P::LARGEST)
    }

    #[inline(always)]
    unsafe fn input_tile<S: Simd>(
        simd: S,
        maps: &Maps<'_>,
        (tile, block): (Tile, usize),
        to: Transformed,
    ) {
        let mut half = HalfTransformed::uninit();
        let half = half.as_mut_ptr().cast::<f32>();
        let (top, left) = maps.corner;
        let corner = (top + tile.top as isize, left + tile.left as isize);
        let patch = Patch::<MAX_SIZE>::new(maps, (tile.image, block), corner, tile.columns + 2);
        // SAFETY: the caller says that tile and block are within the maps; `half` has the lines and columns of the
        // largest tile, of which the second pass reads what the first one wrote; the caller says that points are valid.
        unsafe {
            with_pairs!(P, tile.rows, PAIRS => patch.pass::<S, { 2 * PAIRS + 2 }, { 2 * PAIRS + 2 }>(
                simd, (half, LINE), #[inline(always)] |d| points::input::<S, P, PAIRS>(simd, d)));
            with_pairs!(P, tile.columns, PAIRS => pass::<S, { 2 * PAIRS + 2 }, { 2 * PAIRS + 2 }>(
                simd,
                tile.rows + 2,
                (half.cast_const(), LINE, LANES),
                (to.v, to.across * to.point, to.point),
                #[inline(always)] |d| points::input::<S, P, PAIRS>(simd, d),
            ));
        }
    }

    #[inline(always)]
    unsafe fn output_tile<S: Simd>(
        simd: S,
        (m, point): (*const f32, usize),
        to: &Written<'_>,
        place: (Tile, usize),
    ) {
        let (_, across) = to.tiling.point_grid();
        let tile = place.0;
        let mut half = HalfTransformed::uninit();
        let half = half.as_mut_ptr().cast::<f32>();
        // SAFETY: the caller says that points are valid; `half` has the lines and columns of the largest tile, of which
        // the second pass reads what the first one wrote; outputs are written only where the maps have them.
        unsafe {
            let outputs = Outputs::new(simd, to, place);
            with_pairs!(P, tile.rows, PAIRS => pass::<S, { 2 * PAIRS + 2 }, { 2 * PAIRS }>(
                simd,
                tile.columns + 2,
                (m, point, across * point),
                (half, LANES, LINE),
                #[inline(always)] |d| points::output::<S, P, PAIRS>(simd, d),
            ));
            with_pairs!(P, tile.columns, PAIRS => outputs.write::<{ 2 * PAIRS + 2 }, { 2 * PAIRS }>(
                half, #[inline(always)] |line| points::output::<S, P, PAIRS>(simd, line)));
        }
    }

    #[inline(always)]
    unsafe fn weights<S: Simd>(
        simd: S,
        (taps, tap): (*const f32, usize),
        (u, units): (*mut f32, Units),
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
                        unsafe { simd.store(u.add((i * across + j) * units.len), row[j]) };
                    }
                }
            });
        });
    }
}

impl<P: TileFamily> FilteringBack for P {
    #[inline(always)]
    unsafe fn output_tile_back<S: Simd>(
        simd: S,
        maps: &Maps<'_>,
        (tile, block): (Tile, usize),
        to: Transformed,
    ) -> S::V {
        let mut half = HalfTransformed::uninit();
        let half = half.as_mut_ptr().cast::<f32>();
        let corner = (tile.top as isize, tile.left as isize);
        let patch = Patch::<MAX_SIZE>::new(maps, (tile.image, block), corner, tile.columns);
        // SAFETY: as for inputs.
        unsafe {
            let sum = with_pairs!(P, tile.rows, PAIRS => patch.pass::<S, { 2 * PAIRS }, { 2 * PAIRS + 2 }>(
                simd, (half, LINE), #[inline(always)] |d| points::output_back::<S, P, PAIRS>(simd, d)));
            with_pairs!(P, tile.columns, PAIRS => pass::<S, { 2 * PAIRS }, { 2 * PAIRS + 2 }>(
                simd,
                tile.rows + 2,
                (half.cast_const(), LINE, LANES),
                (to.v, to.across * to.point, to.point),
                #[inline(always)] |d| points::output_back::<S, P, PAIRS>(simd, d),
            ));
            sum
        }
    }

    #[inline(always)]
    unsafe fn weights_back<S: Simd>(
        simd: S,
        (u, point, _): (*const f32, usize, usize),
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
}
