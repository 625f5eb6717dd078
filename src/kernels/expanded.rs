//! A pointwise convolution and the depthwise one that alone reads it, as an inverted residual begins: some rows of a
//! panel of channels at a time. The maps between the two, the widest of such a network, stay in the second-level cache.
//!
//! The rows that a strip reads lie in a buffer with the window's zeros around them, so that no pixel is a special case.
//! Rows that two strips read are made twice.

use super::blocking::{DIRECT_PIXELS, STRIP_BYTES};
use super::epilogue::Epilogue;
use super::gemm::{Microkernel, Output};
use super::parallel::{Shared, for_each};
use super::scratch::with_own;
use super::shape::Shape;
use super::simd::{LANES, Simd};
use super::squeeze;
use super::strip::{Strip, Sums};
use super::window::Window;

/// One of the two convolutions.
#[derive(Clone, Copy)]
pub(super) struct Half<'a> {
    /// From [`direct::pack`](super::direct::pack) or [`depthwise::pack`](super::depthwise::pack).
    pub(super) packed: &'a [f32],
    pub(super) epilogue: &'a Epilogue<'a>,
}

/// Both convolutions.
pub(super) struct Expanded<'a> {
    /// Of the maps that are read.
    pub(super) shape: Shape,
    pub(super) expansion: Half<'a>,
    /// Of the maps between.
    pub(super) channels: usize,
    pub(super) depthwise: Half<'a>,
    /// The depthwise one's.
    pub(super) window: Window,
}

impl Expanded<'_> {
    /// Convolves blocked `x` to more channels and each of these by itself, into blocked `y`. Returns the means of the
    /// channels of `y`, (N, C), if they are wanted.
    pub(super) fn convolve<S: Simd>(
        &self,
        simd: S,
        x: &[f32],
        wants_means: bool,
        y: &mut [f32],
    ) -> Option<Vec<f32>> {
        let (shape, wide) = (self.shape, self.shape.with_channels(self.channels));
        let output = self.window.output(wide);
        let panels = wide.blocks().div_ceil(S::NR_VECTORS);
        self.check::<S>(x, y);
        let strip = Strip::new(wide, self.window, output, S::NR_VECTORS, STRIP_BYTES);
        let blocks = 0..shape.blocks();
        let parts = if wants_means { strip.count() } else { 0 };
        let mut sums = vec![0.0; parts * output.batch * output.blocks() * LANES];
        let pair = Pair {
            simd,
            x,
            shape,
            segments: blocks.map(|block| block * shape.plane_len()).collect(),
            expansion: self.expansion,
            places: strip.places(DIRECT_PIXELS.div_ceil(shape.width.max(1))),
            depthwise: self.depthwise,
            output,
            strip,
            y: Shared::new(y),
            sums: wants_means.then(|| Shared::new(&mut sums)),
        };
        // Several small images one after the other, so that the weights that an item reads are used again.
        let pixels = shape.height * shape.width;
        let images = (DIRECT_PIXELS / pixels.max(1)).max(1);
        let runs = shape.batch.div_ceil(images);
        for_each(runs * strip.count() * panels, |item| {
            let (place, panel) = (item / panels, item % panels);
            let (first, index) = (place / strip.count() * images, place % strip.count());
            for image in first..shape.batch.min(first + images) {
                pair.item(image, index, panel);
            }
        });
        wants_means.then(|| squeeze::means_of_parts(&sums, output))
    }

    fn check<S: Simd>(&self, x: &[f32], y: &[f32]) {
        let (shape, wide) = (self.shape, self.shape.with_channels(self.channels));
        let blocks = wide.blocks();
        let panels = blocks.div_ceil(S::NR_VECTORS);
        assert_eq!(x.len(), shape.blocked_len());
        let weights = panels * shape.blocks() * LANES * S::NR;
        assert_eq!(self.expansion.packed.len(), weights);
        let weights = blocks * self.window.taps() * LANES;
        assert_eq!(self.depthwise.packed.len(), weights);
        assert_eq!(y.len(), self.window.output(wide).blocked_len());
        for epilogue in [self.expansion.epilogue, self.depthwise.epilogue] {
            assert!(!epilogue.pool && epilogue.residual.is_none() && epilogue.gate.is_none());
            epilogue.check(self.channels, y.len());
        }
    }
}

/// Both convolutions' operands and sizes.
struct Pair<'a, S> {
    simd: S,
    x: &'a [f32],
    /// Of `x`.
    shape: Shape,
    /// Where each of an image's channel blocks begins.
    segments: Vec<usize>,
    expansion: Half<'a>,
    depthwise: Half<'a>,
    output: Shape,
    strip: Strip,
    /// Where the pixels of some rows go in a strip's buffer.
    places: Vec<usize>,
    y: Shared<'a>,
    /// Of every channel's pixels: (strip, image, channel with padding), if they are wanted.
    sums: Option<Shared<'a>>,
}

impl<S: Simd> Pair<'_, S> {
    /// A strip of an image in one panel.
    fn item(&self, image: usize, index: usize, panel: usize) {
        with_own(self.strip.len(), |buffer| {
            self.simd.vectorize(
                #[inline(always)]
                || {
                    self.expand(image, index, panel, buffer);
                    self.convolve(image, index, panel, buffer);
                },
            );
        });
    }

    /// The channel blocks of a panel.
    #[inline(always)]
    fn blocks(&self, panel: usize) -> std::ops::Range<usize> {
        let first = panel * S::NR_VECTORS;
        first..self.output.blocks().min(first + S::NR_VECTORS)
    }

    /// Fills the buffer with a panel of the rows that the strip reads.
    #[inline(always)]
    fn expand(&self, image: usize, index: usize, panel: usize, buffer: &mut [f32]) {
        let (strip, shape) = (self.strip, self.shape);
        let (rows, above) = strip.reads(index);
        let blocks = self.blocks(panel);
        let k = self.segments.len() * LANES;
        let b = self.expansion.packed[panel * k * S::NR..][..k * S::NR].as_ptr();
        let chunk = self.places.len() / shape.width;
        let buffer = Shared::new(buffer);
        for first in rows.clone().step_by(chunk) {
            let count = chunk.min(rows.end - first);
            let pixel = first * shape.width * LANES;
            let a = self.x[image * shape.blocks() * shape.plane_len() + pixel..].as_ptr();
            let to = (above + first - rows.start) * strip.row_len();
            let widened = Widened {
                epilogue: self.expansion.epilogue,
                block: blocks.start,
                buffer: buffer.part(to, strip.len() - to),
                places: &self.places,
                plane_len: strip.plane_len(),
            };
            let kernel = Microkernel::<LANES, 1> {
                m: count * shape.width,
                vectors: blocks.len(),
                segments: &self.segments,
                segment_k: LANES,
                last_k: shape.last_lanes(),
            };
            // SAFETY: pixel and channel of A are within the image; B was checked just now; the places are those of
            // `count` rows at most, which the buffer has from `to` on; the epilogue was checked for the channels.
            unsafe { kernel.run(self.simd, a, b, widened) };
            for vector in 0..blocks.len() {
                let first = vector * strip.plane_len() + to;
                // SAFETY: the buffer is this item's alone.
                let written = unsafe { buffer.slice(first, count * strip.row_len()) };
                self.expansion.epilogue.settle(self.simd, written);
            }
        }
        for vector in 0..blocks.len() {
            // SAFETY: the buffer is this item's alone.
            let plane = unsafe { buffer.slice(vector * strip.plane_len(), strip.plane_len()) };
            strip.clear_around(plane, above, rows.len());
        }
    }

    /// Convolves the buffer's channels into `y`.
    #[inline(always)]
    fn convolve(&self, image: usize, index: usize, panel: usize, buffer: &[f32]) {
        let (strip, output) = (&self.strip, self.output);
        let taps = strip.window.taps() * LANES;
        for (vector, block) in self.blocks(panel).enumerate() {
            let sums = Sums {
                simd: self.simd,
                strip,
                index,
                buffer: &buffer[vector * strip.plane_len()..][..strip.plane_len()],
                packed: &self.depthwise.packed[block * taps..][..taps],
                epilogue: self.depthwise.epilogue,
                block,
                y: self.y,
                plane: (image * output.blocks() + block) * output.plane_len(),
            };
            // SAFETY: the strip's rows of this plane are this item's alone; the epilogue was checked.
            let written = unsafe { sums.write() };
            if let Some(all) = self.sums {
                let place = (index * output.batch + image) * output.blocks() + block;
                // SAFETY: an item writes the sums of its own strip and blocks.
                let sums = unsafe { all.slice(place * LANES, LANES) };
                sums.copy_from_slice(&squeeze::plane_sum::<_, false>(self.simd, written, written));
            }
        }
    }
}

/// A strip's buffer, which sums go to by way of the epilogue.
#[derive(Clone, Copy)]
struct Widened<'a> {
    epilogue: &'a Epilogue<'a>,
    /// The panel's first channel block.
    block: usize,
    /// From the first row on.
    buffer: Shared<'a>,
    /// Of every pixel.
    places: &'a [usize],
    plane_len: usize,
}

impl<S: Simd> Output<S> for Widened<'_> {
    #[inline(always)]
    unsafe fn begin(self, simd: S, _row: usize, _vector: usize) -> S::V {
        simd.splat(0.0)
    }

    #[inline(always)]
    unsafe fn end(self, simd: S, row: usize, vector: usize, sum: S::V) {
        debug_assert!(row < self.places.len());
        // SAFETY: the row is a pixel that has a place, and the vector one of the panel's, which the epilogue was
        // checked for. There is no residual and no gate that an offset were needed for.
        unsafe {
            let place = *self.places.get_unchecked(row) + vector * self.plane_len;
            let bias = self.epilogue.bias(simd, self.block + vector);
            let value = self.epilogue.finish(simd, sum, bias, 0);
            simd.store(self.buffer.at(place), value);
        }
    }
}
