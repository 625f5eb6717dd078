//! The convolution without a transform: for each tap a product on shifted, zero-padded maps.
//!
//! For all windows but those that tiles are for; for a first layer of 3×3, whose three channels fill no vector; and for
//! maps so small that reading the weights is all the work: a Winograd tile has four times as many of them.

use std::ops::Range;

use super::blocking::DIRECT_PIXELS;
use super::epilogue::Epilogue;
use super::gemm::{Microkernel, Output};
use super::padded::{Layout, Padded};
use super::parallel::{Shared, for_each, part};
use super::scratch::{Scratch, with_own};
use super::shape::Shape;
use super::simd::{LANES, Simd};
use super::weights::Weights;
use super::window::Window;

/// Weights packed for [`convolve`]: (panel, tap, input, output within the panel), padded with zeros.
pub(super) fn pack<S: Simd>(simd: S, weights: &Weights<'_>, layout: Layout) -> Scratch {
    let (outputs, inputs) = weights.sizes();
    let (panels, padded) = (outputs.div_ceil(S::NR), layout.padded(inputs));
    let taps = weights.size * weights.size;
    let mut packed = Scratch::new(panels * taps * padded * S::NR);
    let shared = Shared::new(&mut packed);
    match weights.size {
        1 if layout == Layout::Blocked => {
            pack_1x1(simd, weights, padded, shared);
            return packed;
        }
        3 => {
            pack_3x3(simd, weights, padded, shared);
            return packed;
        }
        _ => {}
    }
    for_each(panels * taps, |item| {
        let (panel, tap) = (item / taps, item % taps);
        for input in 0..padded {
            let row = item * padded + input;
            // SAFETY: an item writes the rows of its own panel and tap.
            let to = unsafe { shared.slice(row * S::NR, S::NR) };
            for (column, to) in to.iter_mut().enumerate() {
                let output = panel * S::NR + column;
                let is_there = output < outputs && input < inputs;
                *to = if is_there {
                    weights.value(output, input, tap)
                } else {
                    0.0
                };
            }
        }
    });
    packed
}

fn pack_1x1<S: Simd>(simd: S, weights: &Weights<'_>, padded: usize, packed: Shared<'_>) {
    let (outputs, blocks) = (weights.sizes().0, padded / LANES);
    for_each(outputs.div_ceil(S::NR) * blocks, |item| {
        let (panel, block) = (item / blocks, item % blocks);
        let first = (panel * padded + block * LANES) * S::NR;
        // SAFETY: an item writes the sixteen rows of its own panel and block.
        let rows = unsafe { packed.slice(first, LANES * S::NR) };
        simd.vectorize(
            #[inline(always)]
            || {
                for vector in 0..S::NR_VECTORS {
                    let output = panel * S::NR + vector * LANES;
                    weights.read_square::<S>(
                        simd,
                        output,
                        block * LANES,
                        &mut rows[vector * LANES..],
                    );
                }
            },
        );
    });
}

fn pack_3x3<S: Simd>(simd: S, weights: &Weights<'_>, padded: usize, packed: Shared<'_>) {
    weights.for_each(
        simd,
        #[inline(always)]
        |panel, block, taps| {
            for channel in block * LANES..padded.min((block + 1) * LANES) {
                let taps = taps.of::<S>(channel % LANES).chunks_exact(S::NR);
                for (tap, values) in taps.enumerate() {
                    let row = (panel * 9 + tap) * padded + channel;
                    // SAFETY: an item writes the rows of its own panel and channels.
                    let to = unsafe { packed.slice(row * S::NR, S::NR) };
                    to.copy_from_slice(values);
                }
            }
        },
    );
}

/// Convolves `x`, of `shape` in the layout `layout`, with weights from [`pack`] into blocked `y`. Does not pool.
#[expect(clippy::too_many_arguments, reason = "a layer's operands")]
pub(super) fn convolve<S: Simd>(
    simd: S,
    x: &[f32],
    shape: Shape,
    layout: Layout,
    window: Window,
    packed: &[f32],
    out_channels: usize,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let padded = Padded::new(shape, layout, window);
    assert_eq!(x.len(), padded.unpadded_len());
    let mut made;
    let maps = if window == Window::POINTWISE {
        x
    } else {
        made = Scratch::new(padded.len());
        padded.fill(simd, x, &mut made);
        &made
    };
    let convolution = Convolution::new(
        simd,
        maps,
        shape,
        layout,
        window,
        packed,
        out_channels,
        epilogue,
        y,
    );
    convolution.run(convolution.panels, |places, panels| {
        for place in places {
            convolution.item(place, panels.start);
        }
    });
}

/// The pointwise convolution of blocked maps that are scaled by gates (N, C) as they are read.
#[expect(clippy::too_many_arguments, reason = "a layer's operands")]
pub(super) fn convolve_gated<S: Simd>(
    simd: S,
    x: &[f32],
    shape: Shape,
    gates: &[f32],
    packed: &[f32],
    out_channels: usize,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    assert_eq!(x.len(), shape.blocked_len());
    assert_eq!(gates.len(), shape.batch * shape.channels);
    let (layout, window) = (Layout::Blocked, Window::POINTWISE);
    let convolution = Convolution::new(
        simd,
        x,
        shape,
        layout,
        window,
        packed,
        out_channels,
        epilogue,
        y,
    );
    // As few panels as leave work for all threads: each item scales what it reads.
    let parts = (4 * rayon::current_num_threads()).div_ceil(convolution.runs().max(1));
    convolution.run(parts.min(convolution.panels), |places, panels| {
        convolution.gated(places, panels, gates, shape.channels);
    });
}

/// A convolution's operands and sizes.
struct Convolution<'a, S> {
    simd: S,
    padded: Padded,
    maps: &'a [f32],
    segments: Vec<usize>,
    /// Channels of the last block that are no padding, if it is the last of all taps; else all.
    last_k: usize,
    packed: &'a [f32],
    output: Shape,
    panels: usize,
    /// Output rows of an item.
    rows_of_item: usize,
    /// Items that an image is cut into for each panel.
    groups: usize,
    epilogue: &'a Epilogue<'a>,
    y: Shared<'a>,
}

impl<'a, S: Simd> Convolution<'a, S> {
    /// Of maps that are padded if the window needs them to be.
    #[expect(clippy::too_many_arguments, reason = "a layer's operands")]
    fn new(
        simd: S,
        maps: &'a [f32],
        shape: Shape,
        layout: Layout,
        window: Window,
        packed: &'a [f32],
        out_channels: usize,
        epilogue: &'a Epilogue<'a>,
        y: &'a mut [f32],
    ) -> Self {
        let padded = Padded::new(shape, layout, window);
        let output = window.output(shape).with_channels(out_channels);
        let panels = out_channels.div_ceil(S::NR);
        assert!(!epilogue.pool, "pooling is a pass of its own here");
        assert_eq!(
            packed.len(),
            panels * window.taps() * padded.channels() * S::NR
        );
        assert_eq!(y.len(), output.blocked_len());
        epilogue.check(out_channels, y.len());
        // Output rows of an item, taken as one run of pixels.
        let rows = DIRECT_PIXELS
            .div_ceil(output.width.max(1))
            .min(output.height);
        Self {
            simd,
            segments: padded.segments(),
            maps,
            last_k: if window.kernel == 1 {
                shape.last_lanes()
            } else {
                LANES
            },
            padded,
            packed,
            output,
            panels,
            rows_of_item: rows,
            groups: output.height.div_ceil(rows.max(1)),
            epilogue,
            y: Shared::new(y),
        }
    }

    /// Places, each some rows of an image, that an item takes one after the other: more where images are small, so that
    /// the weights that it reads are used again.
    fn places_of_item(&self) -> usize {
        let pixels = self.rows_of_item * self.output.width;
        (DIRECT_PIXELS / pixels.max(1)).max(1)
    }

    /// How many items there are for each part of the panels.
    fn runs(&self) -> usize {
        (self.output.batch * self.groups).div_ceil(self.places_of_item())
    }

    /// Runs items: some places, and one of so many parts of the panels.
    fn run(&self, parts: usize, work: impl Fn(Range<usize>, Range<usize>) + Send + Sync) {
        let (all, some) = (self.output.batch * self.groups, self.places_of_item());
        for_each(self.runs() * parts, |item| {
            let first = item / parts * some;
            let panels = part(&(0..self.panels), item % parts, parts);
            work(first..all.min(first + some), panels);
        });
    }

    /// A place's image, its first row, and its number of pixels.
    #[inline(always)]
    fn place(&self, place: usize) -> (usize, usize, usize) {
        let (image, top) = (place / self.groups, place % self.groups * self.rows_of_item);
        let rows = self.rows_of_item.min(self.output.height - top);
        (image, top, rows * self.output.width)
    }

    /// A place's outputs in one panel.
    fn item(&self, place: usize, panel: usize) {
        let (image, top, pixels) = self.place(place);
        let from = image * self.padded.image_len() + top * self.padded.row();
        let maps = &self.maps[from..];
        self.simd.vectorize(
            #[inline(always)]
            || self.rows(image, top, pixels, panel, maps, &self.segments),
        );
    }

    /// Some places' outputs in some panels, from maps scaled by gates of so many channels an image.
    fn gated(&self, places: Range<usize>, panels: Range<usize>, gates: &[f32], channels: usize) {
        let blocks = self.segments.len();
        // A place's maps, one block after the other.
        let most = blocks * self.rows_of_item * self.output.width * LANES;
        with_own(places.len() * most, |scaled| {
            for (place, scaled) in places.clone().zip(scaled.chunks_exact_mut(most)) {
                let (image, top, pixels) = self.place(place);
                let from = image * self.padded.image_len() + top * self.padded.row();
                let gates = &gates[image * channels..][..channels];
                self.simd.vectorize(
                    #[inline(always)]
                    || {
                        for (block, scaled) in scaled
                            .chunks_exact_mut(pixels * LANES)
                            .take(blocks)
                            .enumerate()
                        {
                            let maps = &self.maps[from + self.segments[block]..][..scaled.len()];
                            scale(self.simd, maps, &gates[block * LANES..], scaled);
                        }
                    },
                );
            }
            for panel in panels {
                for (place, scaled) in places.clone().zip(scaled.chunks_exact(most)) {
                    let (image, top, pixels) = self.place(place);
                    let segments = (0..blocks).map(|block| block * pixels * LANES);
                    let segments: Vec<usize> = segments.collect();
                    self.simd.vectorize(
                        #[inline(always)]
                        || self.rows(image, top, pixels, panel, scaled, &segments),
                    );
                }
            }
        });
    }

    /// So many pixels from row `top` on, which `maps` begin with: each segment's at its own offset.
    #[inline(always)]
    fn rows(
        &self,
        image: usize,
        top: usize,
        pixels: usize,
        panel: usize,
        maps: &[f32],
        segments: &[usize],
    ) {
        let k = self.segments.len() * self.padded.layout.lanes();
        let a = maps.as_ptr();
        let b = self.packed[panel * k * S::NR..][..k * S::NR].as_ptr();
        let output = self.output;
        let block = panel * S::NR_VECTORS;
        let vectors = S::NR_VECTORS.min(output.blocks() - block);
        let plane = (image * output.blocks() + block) * output.plane_len();
        let first = plane + top * output.width * LANES;
        let finished = Finished {
            epilogue: self.epilogue,
            block,
            y: self.y,
            first,
            plane_len: output.plane_len(),
        };
        // SAFETY: pixel, tap and channel of A end with the last row of the image's last padded plane, read by the last
        // row and tap; B was checked just now; these pixels' outputs are this item's alone, and the epilogue was
        // checked for them.
        unsafe {
            match self.padded.layout {
                Layout::Blocked => Microkernel::<LANES, 1> {
                    m: pixels,
                    vectors,
                    segments,
                    segment_k: LANES,
                    last_k: self.last_k,
                }
                .run(self.simd, a, b, finished),
                Layout::Planar => Microkernel::<1, 1> {
                    m: pixels,
                    vectors,
                    segments,
                    segment_k: 1,
                    last_k: 1,
                }
                .run(self.simd, a, b, finished),
            }
        }
        for vector in 0..vectors {
            let first = first + vector * output.plane_len();
            // SAFETY: the same pixels.
            let written = unsafe { self.y.slice(first, pixels * LANES) };
            self.epilogue.settle(self.simd, written);
        }
    }
}

/// Scales the sixteen channels of some pixels by as many gates, or as many as there are.
#[inline(always)]
fn scale<S: Simd>(simd: S, maps: &[f32], gates: &[f32], scaled: &mut [f32]) {
    let mut lanes = [0.0; LANES];
    let count = LANES.min(gates.len());
    lanes[..count].copy_from_slice(&gates[..count]);
    let (maps, _) = maps.as_chunks::<LANES>();
    let (scaled, _) = scaled.as_chunks_mut::<LANES>();
    // SAFETY: sixteen floats each.
    unsafe {
        let gates = simd.load(lanes.as_ptr());
        for (scaled, map) in scaled.iter_mut().zip(maps) {
            let value = simd.mul(simd.load(map.as_ptr()), gates);
            simd.store(scaled.as_mut_ptr(), value);
        }
    }
}

/// Blocked maps that sums go to by way of the epilogue.
#[derive(Clone, Copy)]
struct Finished<'a> {
    epilogue: &'a Epilogue<'a>,
    /// The panel's first channel block.
    block: usize,
    y: Shared<'a>,
    /// Where the first row goes.
    first: usize,
    plane_len: usize,
}

impl<S: Simd> Output<S> for Finished<'_> {
    #[inline(always)]
    fn prefetch(self, simd: S, row: usize, vector: usize) {
        let offset = self.first + vector * self.plane_len + row * LANES;
        self.epilogue.prefetch(simd, offset);
        self.y.prefetch(simd, offset);
    }

    #[inline(always)]
    unsafe fn begin(self, simd: S, _row: usize, _vector: usize) -> S::V {
        simd.splat(0.0)
    }

    #[inline(always)]
    unsafe fn end(self, simd: S, row: usize, vector: usize, sum: S::V) {
        let offset = self.first + vector * self.plane_len + row * LANES;
        // SAFETY: the row is a pixel and the vector a channel block of an image, which are the maker's alone and which
        // the epilogue was checked for.
        unsafe {
            let bias = self.epilogue.bias(simd, self.block + vector);
            let value = self.epilogue.finish(simd, sum, bias, offset);
            simd.store(self.y.at(offset), value);
        }
    }
}
