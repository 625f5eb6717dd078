//! The 3×3 convolution without a transform: nine products on shifted, zero-padded maps.
//!
//! For the first layer, whose three channels fill no vector, and for maps so small that reading the weights is
//! all the work: a Winograd tile has four times as many of them.

use super::epilogue::Epilogue;
use super::filters::Filters;
use super::gemm::Product;
use super::layout::Maps;
use super::parallel::{Shared, for_each};
use super::scratch::{Scratch, with_own};
use super::simd::{LANES, Simd};

/// Pixels that an item takes, about: a few register blocks, so that weights read are used again.
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
pub(super) fn prepare<S: Simd>(filters: &Filters<'_>, input: Input) -> Scratch {
    let (outputs, inputs) = filters.sizes();
    let panel = S::PANEL_VECTORS * LANES;
    let (panels, padded) = (outputs.div_ceil(panel), input.channels(inputs));
    let mut w = Scratch::new(panels * 9 * padded * panel);
    let shared = Shared::new(&mut w);
    filters.for_each::<S>(
        #[inline(always)]
        |index, block, taps| {
            for channel in block * LANES..padded.min((block + 1) * LANES) {
                let taps = taps.of::<S>(channel % LANES).chunks_exact(panel);
                for (tap, values) in taps.enumerate() {
                    let row = (index * 9 + tap) * padded + channel;
                    // SAFETY: an item writes its own panel's and channels' rows, and w has them.
                    unsafe {
                        let to = shared.at(row * panel);
                        values.as_ptr().copy_to_nonoverlapping(to, panel);
                    }
                }
            }
        },
    );
    w
}

/// Convolves `x`, of `maps`' shape in the layout `input`, with weights from [`prepare`] into blocked `y`. Does not
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
    let row = width * lanes;
    let shifted = (height + 2) * row;
    let picture_len = planes * 3 * shifted;
    let panel = S::PANEL_VECTORS * LANES;
    let panels = out_channels.div_ceil(panel);
    let output = maps.with_channels(out_channels);
    assert!(!epilogue.pool, "pooling is a pass of its own here");
    assert_eq!(x.len(), maps.pictures * planes * height * row);
    assert_eq!(w.len(), panels * 9 * planes * lanes * panel);
    assert_eq!(y.len(), output.len());
    epilogue.check(out_channels, y.len());
    if y.is_empty() {
        return;
    }

    let mut padded = Scratch::new(maps.pictures * picture_len);
    pad(x, &mut padded, height, width, lanes);

    let segments: Vec<usize> = (0..9)
        .flat_map(|tap| {
            let shift = tap % 3 * shifted + tap / 3 * row;
            (0..planes).map(move |index| index * 3 * shifted + shift)
        })
        .collect();
    // Output rows of an item, taken as one run of pixels.
    let group = ITEM_PIXELS.div_ceil(width).min(height);
    let groups = height.div_ceil(group);
    let y = Shared::new(y);
    for_each(maps.pictures * groups * panels, 1, |item| {
        let (place, index) = (item / panels, item % panels);
        let (picture, top) = (place / groups, place % groups * group);
        let rows = group.min(height - top);
        let pixels = rows * width;
        with_own(pixels * panel, |sums| {
            let a = padded[picture * picture_len + top * row..].as_ptr();
            let b = w[index * segments.len() * lanes * panel..].as_ptr();
            let c = sums.as_mut_ptr();
            // SAFETY: the kernels were chosen for this processor. The last row and tap read the last padded row of the
            // last plane, no further; the weights' length was checked; an item writes its own rows and panel of y.
            unsafe {
                S::vectorize(
                    #[inline(always)]
                    || {
                        match input {
                            Input::Blocked => Product::<LANES, 1> {
                                rows: pixels,
                                segments: &segments,
                                terms: lanes,
                                accumulate: false,
                            }
                            .run::<S>(a, b, c),
                            Input::Planar => Product::<1, 1> {
                                rows: pixels,
                                segments: &segments,
                                terms: lanes,
                                accumulate: false,
                            }
                            .run::<S>(a, b, c),
                        }
                        for vector in 0..S::PANEL_VECTORS {
                            let block = index * S::PANEL_VECTORS + vector;
                            if block == output.blocks() {
                                break;
                            }
                            let bias = epilogue.bias::<S>(block);
                            let to = (picture * output.blocks() + block) * output.plane();
                            let to = to + top * width * LANES;
                            for pixel in 0..pixels {
                                let sum = S::load(c.add(pixel * panel + vector * LANES));
                                let offset = to + pixel * LANES;
                                S::store(y.at(offset), epilogue.finish::<S>(sum, bias, offset));
                            }
                        }
                    },
                );
            }
        });
    });
}

/// Copies planes of `lanes` channels three times: for the taps on the left, in the middle and on the right, with the
/// pixels they read in the place of those they are for. There is a row of zeros above and below.
fn pad(x: &[f32], padded: &mut [f32], height: usize, width: usize, lanes: usize) {
    let row = width * lanes;
    let shifted = (height + 2) * row;
    let planes = padded.len() / (3 * shifted);
    let padded = Shared::new(padded);
    for_each(planes, 1, |index| {
        // SAFETY: an item's slice is its own plane.
        let target =
            unsafe { std::slice::from_raw_parts_mut(padded.at(index * 3 * shifted), 3 * shifted) };
        let source = &x[index * height * row..][..height * row];
        for (tap, target) in target.chunks_exact_mut(shifted).enumerate() {
            let (before, after) = (tap == 0, tap == 2);
            target[..row].fill(0.0);
            target[shifted - row..].fill(0.0);
            let rows = target[row..shifted - row].chunks_exact_mut(row);
            for (target, source) in rows.zip(source.chunks_exact(row)) {
                let from = &source[if after { lanes } else { 0 }..];
                let from = &from[..row - if before || after { lanes } else { 0 }];
                target[if before { lanes } else { 0 }..][..from.len()].copy_from_slice(from);
                if before {
                    target[..lanes].fill(0.0);
                } else if after {
                    target[row - lanes..].fill(0.0);
                }
            }
        }
    });
}
