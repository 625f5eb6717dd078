//! The 3×3 convolution without a transform: nine shifted products on zero-padded maps.
//!
//! For the first layer, whose three channels fill no vector, and for maps so small that reading the weights is
//! all the work: a Winograd tile has four times as many of them.

use super::gemm::Product;
use super::layout::Maps;
use super::parallel::{Shared, for_each};
use super::scratch::{Scratch, with_own};
use super::simd::{LANES, Simd};
use super::winograd::{Epilogue, Filters};

/// Rows of padded pixels that an item takes, about: a few register blocks, so that weights read are used again.
const ITEM_PIXELS: usize = 112;

/// How the input lies: blocks of sixteen channels, or one plane per channel as tensors have it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Blocked,
    Planar,
}

impl Input {
    /// Channels side by side.
    fn width(self) -> usize {
        match self {
            Self::Blocked => LANES,
            Self::Planar => 1,
        }
    }

    /// Channels with padding.
    fn channels(self, channels: usize) -> usize {
        channels.next_multiple_of(self.width())
    }
}

/// Weights for [`convolve`]: (panel, tap, input, output within the panel), padded with zeros.
pub(super) fn weights<S: Simd>(filters: &Filters<'_>, input: Input, w: &mut [f32]) {
    let (_, inputs) = filters.sizes();
    let panel = S::PANEL_VECTORS * LANES;
    let padded = input.channels(inputs);
    assert_eq!(w.len(), weights_len::<S>(filters, input));
    let chunks = w.len() / (9 * padded * panel);
    let w = Shared::new(w);
    for_each(chunks * padded, 8, |item| {
        let (index, channel) = (item / padded, item % padded);
        for vector in 0..S::PANEL_VECTORS {
            let taps = if channel < inputs {
                filters.gather(channel, index * panel + vector * LANES)
            } else {
                [[0.0; LANES]; 9]
            };
            for (tap, values) in taps.iter().enumerate() {
                let row = (index * 9 + tap) * padded + channel;
                // SAFETY: an item writes its own panel's and channel's rows, and w was checked to have them.
                unsafe {
                    let to = w.at(row * panel + vector * LANES);
                    values.as_ptr().copy_to_nonoverlapping(to, LANES);
                }
            }
        }
    });
}

/// How many floats [`weights`] writes.
pub(super) fn weights_len<S: Simd>(filters: &Filters<'_>, input: Input) -> usize {
    let (outputs, inputs) = filters.sizes();
    outputs.next_multiple_of(S::PANEL_VECTORS * LANES) * 9 * input.channels(inputs)
}

/// Convolves `x`, of `maps`' shape in the layout `input`, with weights from [`weights`] into blocked `y`. Does not
/// pool.
pub(super) fn convolve<S: Simd>(
    x: &[f32],
    maps: Maps,
    input: Input,
    w: &[f32],
    out_channels: usize,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let lanes = input.width();
    let Maps { height, width, .. } = maps;
    let planes = input.channels(maps.channels) / lanes;
    let (padded_height, padded_width) = (height + 2, width + 2);
    let plane = padded_height * padded_width * lanes;
    let panel = S::PANEL_VECTORS * LANES;
    let panels = out_channels.div_ceil(panel);
    let output = maps.with_channels(out_channels);
    assert!(!epilogue.pool, "pooling is a pass of its own here");
    assert_eq!(x.len(), maps.pictures * planes * height * width * lanes);
    assert_eq!(w.len(), panels * 9 * planes * lanes * panel);
    assert_eq!(y.len(), output.len());
    assert!(
        epilogue
            .bias
            .is_none_or(|bias| bias.len() >= panels * panel)
    );
    assert!(epilogue.gate.is_none_or(|gate| gate.len() == y.len()));
    if y.is_empty() {
        return;
    }

    let mut padded = Scratch::new(maps.pictures * planes * plane);
    pad(x, &mut padded, height, width, lanes);

    let segments: Vec<usize> = (0..9)
        .flat_map(|tap| {
            let shift = (tap / 3 * padded_width + tap % 3) * lanes;
            (0..planes).map(move |index| index * plane + shift)
        })
        .collect();
    // Output rows of an item, taken as one run of padded pixels; what falls between rows is not written.
    let group = ITEM_PIXELS.div_ceil(padded_width).min(height);
    let groups = height.div_ceil(group);
    let y = Shared::new(y);
    for_each(maps.pictures * groups * panels, 1, |item| {
        let (place, index) = (item / panels, item % panels);
        let (picture, top) = (place / groups, place % groups * group);
        let rows = group.min(height - top);
        let product = Product {
            rows: rows * padded_width - 2,
            segments: &segments,
            terms: lanes,
            a_row: lanes,
            a_k: 1,
            b_k: panel,
            c_row: panel,
            accumulate: false,
        };
        with_own(product.rows * panel, |sums| {
            let a = padded[picture * planes * plane + top * padded_width * lanes..].as_ptr();
            let b = w[index * segments.len() * lanes * panel..].as_ptr();
            let c = sums.as_mut_ptr();
            // SAFETY: the kernels were chosen for this processor. The last row and tap read the last padded pixel
            // of the last plane, no further; the weights' length was checked; an item writes its own rows and
            // panel of y.
            unsafe {
                S::vectorize(
                    #[inline(always)]
                    || {
                        product.run::<S>(a, b, c);
                        for vector in 0..S::PANEL_VECTORS {
                            let block = index * S::PANEL_VECTORS + vector;
                            if block == output.blocks() {
                                break;
                            }
                            let bias = match epilogue.bias {
                                Some(bias) => S::load(bias.as_ptr().add(block * LANES)),
                                None => S::splat(0.0),
                            };
                            let to = (picture * output.blocks() + block) * output.plane();
                            for row in 0..rows {
                                for column in 0..width {
                                    let pixel = row * padded_width + column;
                                    let sum = S::load(c.add(pixel * panel + vector * LANES));
                                    let mut value = S::add(sum, bias);
                                    if epilogue.relu {
                                        value = S::relu(value);
                                    }
                                    let offset = to + ((top + row) * width + column) * LANES;
                                    if let Some(gate) = epilogue.gate {
                                        let gate = S::load(gate.as_ptr().add(offset));
                                        value = S::gate(gate, value);
                                    }
                                    S::store(y.at(offset), value);
                                }
                            }
                        }
                    },
                );
            }
        });
    });
}

/// Copies planes of `lanes` channels into planes with a rim of one zero pixel.
fn pad(x: &[f32], padded: &mut [f32], height: usize, width: usize, lanes: usize) {
    let (row, padded_row) = (width * lanes, (width + 2) * lanes);
    let plane = (height + 2) * padded_row;
    let planes = padded.len() / plane;
    let padded = Shared::new(padded);
    for_each(planes, 1, |index| {
        // SAFETY: an item's slice is its own plane.
        let target = unsafe { std::slice::from_raw_parts_mut(padded.at(index * plane), plane) };
        let source = &x[index * height * row..][..height * row];
        target.fill(0.0);
        for (y, source) in source.chunks_exact(row).enumerate() {
            target[(y + 1) * padded_row + lanes..][..row].copy_from_slice(source);
        }
    });
}
