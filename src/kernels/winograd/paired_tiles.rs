//! Tiles of 4×4 outputs to the points of [`paired_points`](super::paired_points) and back, in two dimensions.

use std::mem::MaybeUninit;

use super::super::simd::{LANES, Simd};
use super::filtering::{Maps, Transformed, Written};
use super::outputs::{LINE, Outputs};
use super::paired_points::{OUTPUTS, Pairs};
use super::patch::{Aligned, Patch};
use super::points::{Line, MAX_SIZE};
use super::tiling::Tile;

/// A tile's values between the pass along its columns and that along its rows.
type HalfTransformed = MaybeUninit<Aligned<{ MAX_SIZE * LINE }>>;

/// COUNT vectors, `step` floats apart.
///
/// # Safety
/// All are valid for reading.
#[inline(always)]
pub(super) unsafe fn load<S: Simd, const COUNT: usize>(
    simd: S,
    from: *const f32,
    step: usize,
) -> Line<S> {
    let mut values = [simd.splat(0.0); MAX_SIZE];
    for (index, value) in values.iter_mut().enumerate().take(COUNT) {
        // SAFETY: one of those vectors.
        *value = unsafe { simd.load(from.add(index * step)) };
    }
    values
}

/// Writes COUNT vectors, `step` floats apart.
///
/// # Safety
/// All are valid for writing.
#[inline(always)]
pub(super) unsafe fn store<S: Simd, const COUNT: usize>(
    simd: S,
    values: Line<S>,
    to: *mut f32,
    step: usize,
) {
    for (index, value) in values.iter().enumerate().take(COUNT) {
        // SAFETY: one of those vectors.
        unsafe { simd.store(to.add(index * step), *value) };
    }
}

/// [`Filtering::output_tile`](super::filtering::Filtering::output_tile), with POINTS points to a side.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn output_tile<S: Simd, const N: usize, const POINTS: usize>(
    simd: S,
    pairs: &Pairs<N>,
    (m, point): (*const f32, usize),
    to: &Written<'_>,
    place: (Tile, usize),
) {
    let mut half = HalfTransformed::uninit();
    let half = half.as_mut_ptr().cast::<f32>();
    // SAFETY: the caller says that points are valid; `half` has the lines and columns that the second pass reads and
    // the first one wrote; outputs are written only where the maps have them.
    unsafe {
        for column in 0..POINTS {
            let points = load::<S, POINTS>(simd, m.add(column * point), POINTS * point);
            let values = pairs.output(simd, points);
            store::<S, OUTPUTS>(simd, values, half.add(column * LANES), LINE);
        }
        let outputs = Outputs::new(simd, to, place);
        outputs.write::<POINTS, OUTPUTS>(
            half,
            #[inline(always)]
            |line| pairs.output(simd, line),
        );
    }
}

/// [`FilteringBack`](super::filtering::FilteringBack)'s transform of gradients of outputs, with POINTS points to a side.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn output_tile_back<S: Simd, const N: usize, const POINTS: usize>(
    simd: S,
    pairs: &Pairs<N>,
    maps: &Maps<'_>,
    (tile, block): (Tile, usize),
    to: Transformed,
) -> S::V {
    let mut half = HalfTransformed::uninit();
    let half = half.as_mut_ptr().cast::<f32>();
    let corner = (tile.top as isize, tile.left as isize);
    let patch = Patch::<MAX_SIZE>::new(maps, (tile.image, block), corner, OUTPUTS);
    // SAFETY: the caller says that tile and block are within the maps; `half` has the lines and columns that the second
    // pass reads and the first one wrote; the caller says that points are valid.
    unsafe {
        let sum = patch.pass::<S, OUTPUTS, POINTS>(
            simd,
            (half, LINE),
            #[inline(always)]
            |d| pairs.output_back(simd, d),
        );
        for row in 0..POINTS {
            let values = load::<S, OUTPUTS>(simd, half.add(row * LINE), LANES);
            let points = pairs.output_back(simd, values);
            let to_row = to.v.add(row * POINTS * to.point);
            store::<S, POINTS>(simd, points, to_row, to.point);
        }
        sum
    }
}

/// [`Filtering::input_tile`](super::filtering::Filtering::input_tile) with stride 1, with POINTS points to a side.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn input_tile<S: Simd, const N: usize, const POINTS: usize>(
    simd: S,
    pairs: &Pairs<N>,
    maps: &Maps<'_>,
    (tile, block): (Tile, usize),
    to: Transformed,
) {
    let mut half = HalfTransformed::uninit();
    let half = half.as_mut_ptr().cast::<f32>();
    let (top, left) = maps.corner;
    let corner = (top + tile.top as isize, left + tile.left as isize);
    let patch = Patch::<MAX_SIZE>::new(maps, (tile.image, block), corner, POINTS);
    // SAFETY: the caller says that tile and block are within the maps; `half` has the lines and columns that the second
    // pass reads and the first one wrote; the caller says that points are valid.
    unsafe {
        patch.pass::<S, POINTS, POINTS>(
            simd,
            (half, LINE),
            #[inline(always)]
            |d| pairs.input(simd, d),
        );
        for row in 0..POINTS {
            let values = load::<S, POINTS>(simd, half.add(row * LINE), LANES);
            let to_row = to.v.add(row * POINTS * to.point);
            store::<S, POINTS>(simd, pairs.input(simd, values), to_row, to.point);
        }
    }
}
