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

    /// Writes the nine weights from each of sixteen inputs to one panel of outputs: (input, tap, output within the
    /// panel), 0 past the last.
    ///
    /// # Safety
    /// Inside `vectorize`.
    #[inline(always)]
    pub(super) unsafe fn gather<S: Simd>(&self, panel: usize, block: usize, taps: &mut Taps) {
        assert_eq!(self.weights.len(), self.out_channels * self.in_channels * 9);
        let (outputs, inputs) = self.sizes();
        let width = S::PANEL_VECTORS * LANES;
        let first_input = block * LANES;
        for vector in 0..S::PANEL_VECTORS {
            let first_output = panel * width + vector * LANES;
            let taps = &mut taps.0[vector * LANES..];
            // A row that is read for its nine weights is read on to sixteen.
            let last = (self.out_channels * self.in_channels * 9).saturating_sub(LANES);
            let whole = first_output + LANES <= outputs && first_input + LANES <= inputs;
            let place = |output: usize, input: usize| {
                let (o, i) = if self.transposed {
                    (input, output)
                } else {
                    (output, input)
                };
                (o * self.in_channels + i) * 9
            };
            if whole && !self.transposed {
                let from = self.weights[place(first_output, first_input)..].as_ptr();
                for run in 0..9 {
                    // SAFETY: sixteen rows of 144 weights, the nine of sixteen inputs, are there, and are written to as
                    // many panel rows.
                    unsafe {
                        let to = taps[run * LANES * width..].as_mut_ptr();
                        S::transpose(
                            (from.add(run * LANES), self.in_channels * 9),
                            (to, width as isize),
                        );
                    }
                }
            } else if whole && place(first_output + LANES - 1, first_input + LANES - 1) <= last {
                for input in 0..LANES {
                    let mut columns = [0.0; LANES * LANES];
                    let from = self.weights[place(first_output, first_input + input)..].as_ptr();
                    // SAFETY: rows begin with the nine weights of an output, and the last of them are not the last
                    // sixteen weights there are.
                    unsafe {
                        S::transpose((from, 9), (columns.as_mut_ptr(), LANES as isize));
                    }
                    for tap in 0..9 {
                        taps[(input * 9 + 8 - tap) * width..][..LANES]
                            .copy_from_slice(&columns[tap * LANES..][..LANES]);
                    }
                }
            } else {
                for input in 0..LANES {
                    for lane in 0..LANES {
                        let (output, input_channel) = (first_output + lane, first_input + input);
                        let is_there = output < outputs && input_channel < inputs;
                        for tap in 0..9 {
                            let to = if self.transposed { 8 - tap } else { tap };
                            taps[(input * 9 + to) * width + lane] = if is_there {
                                self.weights[place(output, input_channel) + tap]
                            } else {
                                0.0
                            };
                        }
                    }
                }
            }
        }
    }

    /// Runs `work` on all threads, inside [`Simd::vectorize`], for the weights from each block of sixteen inputs to each
    /// panel of outputs.
    pub(super) fn for_each<S: Simd>(&self, work: impl Fn(usize, usize, &Taps) + Send + Sync) {
        let (panels, inputs) = self.padded::<S>();
        let blocks = inputs / LANES;
        for_each(panels * blocks, 1, |item| {
            let (panel, block) = (item / blocks, item % blocks);
            let mut taps = Taps::ZERO;
            // SAFETY: the kernels were chosen for this processor.
            unsafe {
                S::vectorize(
                    #[inline(always)]
                    || {
                        self.gather::<S>(panel, block, &mut taps);
                        work(panel, block, &taps);
                    },
                );
            }
        });
    }
}

/// The weights from sixteen inputs to a panel of outputs.
#[repr(align(64))]
pub(super) struct Taps([f32; LANES * 9 * MOST_PANEL]);

impl Taps {
    pub(super) const ZERO: Self = Self([0.0; LANES * 9 * MOST_PANEL]);

    /// The nine panel rows of an input.
    pub(super) fn of<S: Simd>(&self, input: usize) -> &[f32] {
        let row = 9 * S::PANEL_VECTORS * LANES;
        &self.0[input * row..][..row]
    }
}

/// Floats of [`points`].
pub(super) fn points_len<S: Simd, P: Points>(filters: &Filters<'_>) -> usize {
    let (panels, inputs) = filters.padded::<S>();
    panels * (P::LARGEST + 2).pow(2) * inputs * S::PANEL_VECTORS * LANES
}

/// Weights transformed for a family's largest tile, (panel, point, input, output within the panel), padded with zeros.
pub(super) fn points<S: Simd, P: Points>(filters: &Filters<'_>) -> Scratch {
    let (_, inputs) = filters.padded::<S>();
    let panel = S::PANEL_VECTORS * LANES;
    let size = P::LARGEST + 2;
    let mut points = Scratch::new(points_len::<S, P>(filters));
    let u = Shared::new(&mut points);
    filters.for_each::<S>(
        #[inline(always)]
        |index, block, taps| {
            for input in 0..LANES {
                let row = index * size * size * inputs + block * LANES + input;
                // SAFETY: this is inside `vectorize`; an item writes its panel's and inputs' vectors alone, and u has
                // them.
                unsafe {
                    let u = (u.at(row * panel), inputs * panel);
                    input_points::<S, P>(taps.of::<S>(input), u, (size, size));
                }
            }
        },
    );
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
