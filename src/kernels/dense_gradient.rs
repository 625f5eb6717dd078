//! The gradient of the weights of a convolution of all channels with all, whatever its window: for each tap the product
//! of what it reads with the gradient of the sums, whose inner dimension is pixels.
//!
//! A are a block's channels, B the gradient of a panel of outputs. Sums over some [`DENSE_GRADIENT_PIXELS`] pixels are
//! added in their order. Where there are few weights, they are shared out to parts with sums of their own.

use std::ops::Range;

use super::blocking::{
    DENSE_GRADIENT_BLOCKS, DENSE_GRADIENT_BYTES, DENSE_GRADIENT_ITEMS, DENSE_GRADIENT_PIXELS,
    GATHERED_BYTES,
};
use super::gathered::Gathered;
use super::gemm::{Microkernel, Output, Pixels};
use super::isa::{Isa, Token, with_simd};
use super::padded::{Layout, Padded};
use super::parallel::{Shared, for_each, part};
use super::scratch::{Scratch, with_own};
use super::shape::{FeatureMaps, Shape};
use super::simd::{LANES, Simd};
use super::window::Window;

/// Writes the gradient of the weights (out, in, k, k), Σ dy · x, from `x` of `shape` and the blocked gradient `dy` of
/// the sums of so many `outputs`. Planar maps are for few channels.
pub(super) fn weight_gradient(
    isa: Isa,
    x: FeatureMaps<'_>,
    shape: Shape,
    dy: &[f32],
    outputs: usize,
    window: Window,
    dw: &mut [f32],
) {
    let output = window.output(shape).with_channels(outputs);
    assert_eq!(dy.len(), output.blocked_len());
    assert_eq!(dw.len(), outputs * shape.channels * window.taps());
    let read = match x {
        FeatureMaps::Planar(planar) => Read::Gathered(Gathered::new(planar, shape, window)),
        FeatureMaps::Blocked(x) => {
            assert_eq!(x.len(), shape.blocked_len());
            Read::Blocked(x, Padded::new(shape, Layout::Blocked, window))
        }
    };
    if shape.planar_len() == 0 || dy.is_empty() {
        dw.fill(0.0);
        return;
    }
    let (shape, window) = match &read {
        Read::Gathered(gathered) => (gathered.output, Window::POINTWISE),
        Read::Blocked(..) => (shape, window),
    };
    with_simd!(isa, simd => of_simd(simd, &read, shape, dy, output, window, dw));
}

/// What the products read.
enum Read<'a> {
    Blocked(&'a [f32], Padded),
    Gathered(Gathered<'a>),
}

impl Read<'_> {
    /// Floats of an image.
    fn image_len(&self) -> usize {
        match self {
            Self::Blocked(_, padded) => padded.image_len(),
            Self::Gathered(gathered) => gathered.output.with_batch(1).blocked_len(),
        }
    }

    /// Where the channels of each tap begin: all blocks for each.
    fn segments(&self) -> Vec<usize> {
        match self {
            Self::Blocked(_, padded) => padded.segments(),
            Self::Gathered(gathered) => {
                let blocks = 0..gathered.output.blocks();
                blocks
                    .map(|block| block * gathered.output.plane_len())
                    .collect()
            }
        }
    }
}

/// [`weight_gradient`], some images at a time.
fn of_simd<S: Simd>(
    simd: S,
    read: &Read<'_>,
    shape: Shape,
    dy: &[f32],
    output: Shape,
    window: Window,
    dw: &mut [f32],
) {
    let plan = Plan::new::<S>(shape, output, window, read);
    let mut sums = Scratch::new(plan.parts * plan.panels * plan.panel_len::<S>());
    let starts = (0..plan.images_of_piece()).map(|image| image * read.image_len());
    let (starts, segments): (Vec<usize>, _) = (starts.collect(), read.segments());
    for first in (0..shape.batch).step_by(plan.images) {
        let images = plan.images.min(shape.batch - first);
        let mut made;
        let maps = match read {
            Read::Blocked(x, padded) => {
                let some = shape.with_batch(images);
                let x = &x[first * shape.with_batch(1).blocked_len()..][..some.blocked_len()];
                if window == Window::POINTWISE {
                    x
                } else {
                    made = Scratch::new(images * padded.image_len());
                    Padded::new(some, Layout::Blocked, window).fill(simd, x, &mut made);
                    &made
                }
            }
            Read::Gathered(gathered) => {
                made = Scratch::new(images * read.image_len());
                gathered.fill(simd, first, images, &mut made);
                &made
            }
        };
        let gradient = output.with_batch(images);
        let products = Products {
            simd,
            plan: &plan,
            maps,
            image_len: read.image_len(),
            segments: &segments,
            starts: &starts,
            dy: &dy[first * output.with_batch(1).blocked_len()..][..gradient.blocked_len()],
            images,
            is_first: first == 0,
            sums: Shared::new(&mut sums),
        };
        for_each(plan.items(), |item| products.item(item));
    }
    plan.write(simd, &sums, dw);
}

/// How the work is cut; it depends on the layer's shape alone, so the order of every sum does too.
struct Plan {
    shape: Shape,
    output: Shape,
    blocks: usize,
    panels: usize,
    taps: usize,
    /// Images at a time.
    images: usize,
    /// Blocks of an item.
    span: usize,
    /// Parts that the pieces are shared out to.
    parts: usize,
}

impl Plan {
    fn new<S: Simd>(shape: Shape, output: Shape, window: Window, read: &Read<'_>) -> Self {
        let (blocks, panels) = (shape.blocks(), output.channels.div_ceil(S::NR));
        let bytes = 4 * (read.image_len() + output.with_batch(1).blocked_len());
        let room = match read {
            Read::Blocked(..) => DENSE_GRADIENT_BYTES,
            Read::Gathered(_) => GATHERED_BYTES,
        };
        let images = (room / bytes).clamp(1, shape.batch);
        let is_enough = |span: &usize| panels * blocks.div_ceil(*span) >= DENSE_GRADIENT_ITEMS;
        let span = (1..=DENSE_GRADIENT_BLOCKS).rev().find(is_enough);
        let mut plan = Self {
            shape,
            output,
            blocks,
            panels,
            taps: window.taps(),
            images,
            span: span.unwrap_or(1),
            parts: 1,
        };
        plan.parts = DENSE_GRADIENT_ITEMS
            .div_ceil(panels * blocks)
            .min(plan.pieces(images));
        plan
    }

    /// Pixels of an output.
    fn pixels(&self) -> usize {
        self.output.height * self.output.width
    }

    /// Images of a piece.
    fn images_of_piece(&self) -> usize {
        (DENSE_GRADIENT_PIXELS / self.pixels()).max(1)
    }

    /// Pieces of an image, or of as many as make one.
    fn pieces_of_image(&self) -> usize {
        self.pixels().div_ceil(DENSE_GRADIENT_PIXELS)
    }

    /// Pieces of so many images.
    fn pieces(&self, images: usize) -> usize {
        images.div_ceil(self.images_of_piece()) * self.pieces_of_image()
    }

    /// Which pixels of which of so many images a piece is: of several all, or some of one.
    fn piece(&self, piece: usize, images: usize) -> (Range<usize>, Range<usize>) {
        let (of_images, of_pixels) = (
            piece / self.pieces_of_image(),
            piece % self.pieces_of_image(),
        );
        let cut = |index: usize, some: usize, all: usize| index * some..all.min((index + 1) * some);
        (
            cut(of_images, self.images_of_piece(), images),
            cut(of_pixels, DENSE_GRADIENT_PIXELS, self.pixels()),
        )
    }

    fn spans(&self) -> usize {
        self.blocks.div_ceil(self.span)
    }

    fn items(&self) -> usize {
        self.parts * self.panels * self.spans()
    }

    /// Floats of the sums of a panel.
    fn panel_len<S: Simd>(&self) -> usize {
        self.blocks * self.taps * LANES * S::NR
    }

    /// Where a panel's sums of a block and tap begin: sixteen panel rows.
    fn place<S: Simd>(&self, block: usize, tap: usize) -> usize {
        (block * self.taps + tap) * LANES * S::NR
    }

    /// Adds up the parts, and writes what there is of the weights.
    fn write<S: Simd>(&self, simd: S, sums: &[f32], dw: &mut [f32]) {
        const SQUARE: usize = LANES * LANES;
        let (channels, outputs) = (self.shape.channels, self.output.channels);
        let dw = Shared::new(dw);
        for_each(self.panels * self.blocks, |item| {
            let (panel, block) = (item / self.blocks, item % self.blocks);
            let count = LANES.min(channels - block * LANES);
            with_own(self.taps * SQUARE, |squares| {
                for vector in 0..S::NR_VECTORS {
                    let first = panel * S::NR + vector * LANES;
                    for (tap, square) in squares.chunks_exact_mut(SQUARE).enumerate() {
                        for part in 0..self.parts {
                            let place = (part * self.panels + panel) * self.panel_len::<S>();
                            let place = place + self.place::<S>(block, tap) + vector * LANES;
                            let rows = &sums[place..][..(LANES - 1) * S::NR + LANES];
                            simd.vectorize(
                                #[inline(always)]
                                || add_transposed(simd, rows, part == 0, square),
                            );
                        }
                    }
                    for (output, lane) in (first..outputs).zip(0..LANES) {
                        let place = (output * channels + block * LANES) * self.taps;
                        // SAFETY: an item writes the weights of its own outputs and inputs.
                        let dw = unsafe { dw.slice(place, count * self.taps) };
                        for (tap, square) in squares.chunks_exact(SQUARE).enumerate() {
                            let row = &square[lane * LANES..][..count];
                            let weights = dw[tap..].iter_mut().step_by(self.taps);
                            weights.zip(row).for_each(|(dw, sum)| *dw = *sum);
                        }
                    }
                }
            });
        });
    }
}

/// Adds sixteen panel rows to a square as its columns, or writes them.
#[inline(always)]
fn add_transposed<S: Simd>(simd: S, rows: &[f32], is_first: bool, square: &mut [f32]) {
    assert!(rows.len() >= (LANES - 1) * S::NR + LANES && square.len() == LANES * LANES);
    let mut turned = [0.0; LANES * LANES];
    let to = if is_first { &mut *square } else { &mut turned };
    // SAFETY: sixteen rows on either side, as was checked just now.
    unsafe { simd.transpose((rows.as_ptr(), S::NR), (to.as_mut_ptr(), LANES as isize)) };
    if !is_first {
        for (sum, value) in square.iter_mut().zip(&turned) {
            *sum += value;
        }
    }
}

/// The operands of the products of some images.
struct Products<'a, S> {
    simd: S,
    plan: &'a Plan,
    /// What is read, `image_len` floats an image.
    maps: &'a [f32],
    image_len: usize,
    /// Where each tap's blocks begin.
    segments: &'a [usize],
    dy: &'a [f32],
    /// Where each image of a piece begins in the maps, from the first.
    starts: &'a [usize],
    images: usize,
    /// Whether nothing has been added up yet.
    is_first: bool,
    sums: Shared<'a>,
}

impl<S: Simd> Products<'_, S> {
    /// The sums of a part, of a panel and some blocks.
    fn item(&self, item: usize) {
        let plan = self.plan;
        let (of_part, span) = (item / plan.spans(), item % plan.spans());
        let (index, panel) = (of_part / plan.panels, of_part % plan.panels);
        let blocks = span * plan.span..plan.blocks.min((span + 1) * plan.span);
        let len = plan.panel_len::<S>();
        let (first, end) = (
            plan.place::<S>(blocks.start, 0),
            plan.place::<S>(blocks.end, 0),
        );
        // SAFETY: an item writes the sums of its own part, panel and blocks.
        let sums = unsafe { self.sums.slice(of_part * len + first, end - first) };
        self.simd.vectorize(
            #[inline(always)]
            || {
                let pieces = part(&(0..plan.pieces(self.images)), index, plan.parts);
                for piece in pieces.clone() {
                    let (images, pixels) = plan.piece(piece, self.images);
                    let accumulate = !self.is_first || piece > pieces.start;
                    let mut sums = sums.chunks_exact_mut(LANES * S::NR);
                    for block in blocks.clone() {
                        for (tap, sums) in sums.by_ref().take(plan.taps).enumerate() {
                            let segment = self.segments[tap * plan.blocks + block];
                            let m = LANES.min(plan.shape.channels - block * LANES);
                            let added = Added {
                                c: sums.as_mut_ptr(),
                                accumulate,
                            };
                            assert_eq!(sums.len(), LANES * S::NR);
                            // SAFETY: the sums are sixteen panel rows, which nobody else has.
                            unsafe { self.product(&images, &pixels, segment, m, panel, added) };
                        }
                    }
                }
            },
        );
    }

    /// Adds the product of some images' pixels, of `m` channels that begin at `segment`, with a panel of outputs.
    ///
    /// # Safety
    /// The sums are sixteen panel rows, the caller's alone.
    #[inline(always)]
    unsafe fn product(
        &self,
        images: &Range<usize>,
        pixels: &Range<usize>,
        segment: usize,
        m: usize,
        panel: usize,
        added: Added,
    ) {
        let (count, last) = (pixels.len(), images.len() - 1);
        let output = self.plan.output;
        let block = panel * S::NR_VECTORS;
        let vectors = S::NR_VECTORS.min(output.blocks() - block);
        let of_images = output.blocks() * output.plane_len();
        let a = images.start * self.image_len + segment + pixels.start * LANES;
        let a = &self.maps[a..][..last * self.image_len + count * LANES];
        let b = images.start * of_images + block * output.plane_len() + pixels.start * LANES;
        let b =
            &self.dy[b..][..last * of_images + (vectors - 1) * output.plane_len() + count * LANES];
        let kernel = Microkernel::<1, LANES> {
            vectors,
            m,
            segments: &self.starts[..images.len()],
            segment_k: count,
            last_k: count,
        };
        let b = Pixels {
            first: b.as_ptr(),
            plane_len: output.plane_len(),
            image_len: of_images,
        };
        // SAFETY: A has sixteen channels and B so many vectors for each of the images' pixels, as was checked just now;
        // of the sums the caller says so.
        unsafe { kernel.run(self.simd, a.as_ptr(), b, added) };
    }
}

/// C, to which a product is added at its end.
#[derive(Clone, Copy)]
struct Added {
    /// Valid for reading and writing a panel row for each of the product's.
    c: *mut f32,
    /// Whether C holds something to add to.
    accumulate: bool,
}

impl<S: Simd> Output<S> for Added {
    #[inline(always)]
    unsafe fn begin(self, simd: S, _: usize, _: usize) -> S::V {
        simd.splat(0.0)
    }

    #[inline(always)]
    unsafe fn end(self, simd: S, row: usize, vector: usize, sum: S::V) {
        // SAFETY: C has this vector of this row.
        unsafe {
            let c = self.c.add(row * S::NR + vector * LANES);
            let sum = if self.accumulate {
                simd.add(simd.load(c), sum)
            } else {
                sum
            };
            simd.store(c, sum);
        }
    }
}
