//! Weights transformed to points, as the microkernel reads them.

use super::super::parallel::Shared;
use super::super::scratch::Scratch;
use super::super::simd::{LANES, Simd};
use super::super::weights::Weights;
use super::filtering::{Filtering, Units};

/// Where the weights of one panel lie, as [`pack`] leaves them.
pub(super) fn units<S: Simd, F: Filtering>(weights: &Weights<'_>) -> Units {
    let (_, inputs) = weights.padded::<S>();
    Units {
        across: F::POINTS,
        len: inputs * S::NR,
        blocks: inputs / LANES,
    }
}

/// Floats of a panel.
pub(super) fn panel_len<S: Simd, F: Filtering>(weights: &Weights<'_>) -> usize {
    F::units(F::POINTS, F::POINTS) * units::<S, F>(weights).len
}

/// Floats of [`pack`].
pub(crate) fn packed_len<S: Simd, F: Filtering>(_: S, weights: &Weights<'_>) -> usize {
    weights.padded::<S>().0 * panel_len::<S, F>(weights)
}

/// Weights transformed for the largest tile, (panel, unit, input, output within the panel), padded with zeros.
pub(crate) fn pack<S: Simd, F: Filtering>(simd: S, weights: &Weights<'_>) -> Scratch {
    let (units, panel_len) = (units::<S, F>(weights), panel_len::<S, F>(weights));
    let mut packed = Scratch::new(packed_len::<S, F>(simd, weights));
    let u = Shared::new(&mut packed);
    weights.for_each(
        simd,
        #[inline(always)]
        |panel, block, taps| {
            for input in 0..LANES {
                let row = panel * panel_len + (block * LANES + input) * S::NR;
                // SAFETY: an item writes the rows of its own panel and inputs, which the buffer has at every unit.
                unsafe {
                    let u = (u.at(row), units);
                    let points = (F::POINTS, F::POINTS);
                    transform_taps::<S, F>(simd, taps.of::<S>(input), u, points);
                }
            }
        },
    );
    packed
}

/// Transforms the weights from one input to one panel of outputs, from a panel row for each tap to as many as there are
/// units.
///
/// # Safety
/// `u` is valid for writing a panel row at each unit.
#[inline(always)]
pub(super) unsafe fn transform_taps<S: Simd, F: Filtering>(
    simd: S,
    taps: &[f32],
    (u, units): (*mut f32, Units),
    points: (usize, usize),
) {
    assert!(taps.len() >= F::TAPS * S::NR);
    for vector in 0..S::NR_VECTORS {
        let lanes = vector * LANES;
        // SAFETY: the panel rows of the taps were checked just now; both have `NR_VECTORS` vectors a row.
        unsafe {
            let taps = (taps[lanes..].as_ptr(), S::NR);
            F::weights(simd, taps, (u.add(lanes), units), points);
        }
    }
}
