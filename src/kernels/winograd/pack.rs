//! Weights transformed to points, as the microkernel reads them.

use super::super::parallel::Shared;
use super::super::scratch::Scratch;
use super::super::simd::{LANES, Simd};
use super::super::weights::Weights;
use super::points::TileFamily;
use super::transform;

/// Floats of [`pack`].
pub(super) fn packed_len<S: Simd, P: TileFamily>(weights: &Weights<'_>) -> usize {
    let (panels, inputs) = weights.padded::<S>();
    panels * (P::LARGEST + 2).pow(2) * inputs * S::NR
}

/// Weights transformed for a family's largest tile, (panel, point, input, output within the panel), padded with zeros.
pub(crate) fn pack<S: Simd, P: TileFamily>(simd: S, weights: &Weights<'_>) -> Scratch {
    let (_, inputs) = weights.padded::<S>();
    let size = P::LARGEST + 2;
    let mut packed = Scratch::new(packed_len::<S, P>(weights));
    let u = Shared::new(&mut packed);
    weights.for_each(
        simd,
        #[inline(always)]
        |panel, block, taps| {
            for input in 0..LANES {
                let row = panel * size * size * inputs + block * LANES + input;
                // SAFETY: an item writes the rows of its own panel and inputs, which the buffer has at every point.
                unsafe {
                    let u = (u.at(row * S::NR), inputs * S::NR);
                    transform_taps::<S, P>(simd, taps.of::<S>(input), u, (size, size));
                }
            }
        },
    );
    packed
}

/// Transforms the weights from one input to one panel of outputs, from nine panel rows to as many as there are points,
/// `point` floats apart.
///
/// # Safety
/// `u` is valid for writing a panel row at each point.
#[inline(always)]
pub(super) unsafe fn transform_taps<S: Simd, P: TileFamily>(
    simd: S,
    taps: &[f32],
    (u, point): (*mut f32, usize),
    points: (usize, usize),
) {
    assert!(taps.len() >= 9 * S::NR);
    for vector in 0..S::NR_VECTORS {
        let lanes = vector * LANES;
        // SAFETY: nine panel rows of taps were checked just now; both have `NR_VECTORS` vectors a row.
        unsafe {
            let taps = (taps[lanes..].as_ptr(), S::NR);
            transform::weights::<S, P>(simd, taps, (u.add(lanes), point), points);
        }
    }
}
