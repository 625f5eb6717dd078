//! The weights of a convolution, and the forms in which products read them.

use super::parallel::{Shared, for_each};
use super::scratch::Scratch;
use super::simd::{LANES, Simd};
use super::tile::Points;
use super::transform;

/// Weights (out, in, 3, 3), or for the gradient of the input their transpose turned by 180°.
#[derive(Clone, Copy)]
pub(super) struct Filters<'a> {
    pub(super) weights: &'a [f32],
    /// As the tensor says.
    pub(super) out_channels: usize,
    /// As the tensor says.
    pub(super) in_channels: usize,
    pub(super) transposed: bool,
}

impl Filters<'_> {
    /// (outputs, inputs) of the convolution.
    pub(super) fn sizes(&self) -> (usize, usize) {
        if self.transposed {
            (self.in_channels, self.out_channels)
        } else {
            (self.out_channels, self.in_channels)
        }
    }

    /// (panels, inputs padded to whole blocks).
    fn padded<S: Simd>(&self) -> (usize, usize) {
        let (outputs, inputs) = self.sizes();
        let panel = S::PANEL_VECTORS * LANES;
        (outputs.div_ceil(panel), inputs.next_multiple_of(LANES))
    }

    /// Writes the nine weights from one input to one panel of outputs, `tap` floats apart; 0 past the last.
    #[inline(always)]
    pub(super) fn gather<S: Simd>(&self, panel: usize, input: usize, taps: &mut [f32], tap: usize) {
        let width = S::PANEL_VECTORS * LANES;
        let (outputs, inputs) = self.sizes();
        let count = if input < inputs {
            width.min(outputs - panel * width)
        } else {
            0
        };
        for lane in 0..count {
            let output = panel * width + lane;
            let (o, i) = if self.transposed {
                (input, output)
            } else {
                (output, input)
            };
            let filter = &self.weights[(o * self.in_channels + i) * 9..][..9];
            for (at, weight) in filter.iter().enumerate() {
                let at = if self.transposed { 8 - at } else { at };
                taps[at * tap + lane] = *weight;
            }
        }
        for at in 0..9 {
            taps[at * tap + count..][..width - count].fill(0.0);
        }
    }
}

/// Floats of [`points`].
pub(super) fn points_len<S: Simd, P: Points>(filters: &Filters<'_>) -> usize {
    let (panels, inputs) = filters.padded::<S>();
    panels * (P::LARGEST + 2).pow(2) * inputs * S::PANEL_VECTORS * LANES
}

/// Weights transformed for a family's largest tile, (panel, point, input, output within the panel), padded with zeros.
pub(super) fn points<S: Simd, P: Points>(filters: &Filters<'_>) -> Scratch {
    let (panels, inputs) = filters.padded::<S>();
    let panel = S::PANEL_VECTORS * LANES;
    let size = P::LARGEST + 2;
    let mut points = Scratch::new(points_len::<S, P>(filters));
    let u = Shared::new(&mut points);
    for_each(panels * inputs, 4, |item| {
        let (index, input) = (item / inputs, item % inputs);
        let mut taps = [0.0; 9 * MOST_PANEL];
        filters.gather::<S>(index, input, &mut taps, panel);
        // SAFETY: the kernels were chosen for this processor; an item writes its panel's and input's vectors alone, and
        // u has them.
        unsafe {
            let u = u.at((index * size * size * inputs + input) * panel);
            S::vectorize(
                #[inline(always)]
                || input_points::<S, P>(&taps, (u, inputs * panel), (size, size)),
            );
        }
    });
    points
}

/// The widest panel there is.
pub(super) const MOST_PANEL: usize = 2 * LANES;

/// Transforms the weights from one input to one panel of outputs, from nine panel rows to as many as there are points,
/// `point` floats apart.
///
/// # Safety
/// Inside `vectorize`; `u` is valid for a panel row at each point.
#[inline(always)]
pub(super) unsafe fn input_points<S: Simd, P: Points>(
    taps: &[f32],
    (u, point): (*mut f32, usize),
    points: (usize, usize),
) {
    assert!(taps.len() >= 9 * S::PANEL_VECTORS * LANES);
    for vector in 0..S::PANEL_VECTORS {
        let lanes = vector * LANES;
        // SAFETY: the caller's.
        unsafe {
            let taps = (taps[lanes..].as_ptr(), S::PANEL_VECTORS * LANES);
            transform::weights::<S, P>(taps, (u.add(lanes), point), points);
        }
    }
}
