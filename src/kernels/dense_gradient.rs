//! The gradient of the weights of a convolution of all channels with all, whatever its window: for each tap the product
//! of what it reads with the gradient of the sums, whose inner dimension is pixels.
//!
//! A are a block's channels, B the gradient of a panel of outputs. Sums over [`DENSE_GRADIENT_PIXELS`] pixels are added
//! in their order. Where there are few weights, they are shared out to parts with sums of their own.

use super::blocking::{
    DENSE_GRADIENT_BLOCKS, DENSE_GRADIENT_BYTES, DENSE_GRADIENT_ITEMS, DENSE_GRADIENT_PIXELS,
};
use super::gemm::{Microkernel, Output};
use super::isa::{Isa, Token, with_simd};
use super::padded::{Layout, Padded};
use super::parallel::{Shared, for_each, part};
use super::scratch::Scratch;
use super::shape::Shape;
use super::simd::{LANES, Simd};
use super::window::Window;

/// Writes the gradient of the weights (out, in, k, k), Σ dy · x, from blocked `x` of `shape` and the blocked gradient
/// `dy` of the sums of so many `outputs`.
pub(super) fn weight_gradient(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    dy: &[f32],
    outputs: usize,
    window: Window,
    dw: &mut [f32],
) {
    let output = window.output(shape).with_channels(outputs);
    assert_eq!(
        (x.len(), dy.len()),
        (shape.blocked_len(), output.blocked_len())
    );
    assert_eq!(dw.len(), outputs * shape.channels * window.taps());
    if x.is_empty() || dy.is_empty() {
        dw.fill(0.0);
        return;
    }
    with_simd!(isa, simd => of_simd(simd, x, shape, dy, output, window, dw));
}

/// [`weight_gradient`], some images at a time.
fn of_simd<S: Simd>(
    simd: S,
    x: &[f32],
    shape: Shape,
    dy: &[f32],
    output: Shape,
    window: Window,
    dw: &mut [f32],
) {
    let plan = Plan::new::<S>(shape, output, window);
    let mut sums = Scratch::new(plan.parts * plan.panels * plan.panel_len::<S>());
    sums.fill(0.0);
    for first in (0..shape.batch).step_by(plan.images) {
        let images = plan.images.min(shape.batch - first);
        let some = shape.with_batch(images);
        let x = &x[first * shape.with_batch(1).blocked_len()..][..some.blocked_len()];
        let gradient = output.with_batch(images);
        let dy = &dy[first * output.with_batch(1).blocked_len()..][..gradient.blocked_len()];
        let padded = Padded::new(some, Layout::Blocked, window);
        let mut made;
        let maps = if window == Window::POINTWISE {
            x
        } else {
            made = Scratch::new(padded.len());
            padded.fill(x, &mut made);
            &made
        };
        let panels = panels::<S>(dy, gradient, plan.panels);
        let products = Products {
            simd,
            plan: &plan,
            maps,
            image_len: padded.image_len(),
            segments: &padded.segments(),
            panels: &panels,
            images,
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
    /// Parts that their pieces, of [`DENSE_GRADIENT_PIXELS`] pixels at most, are shared out to.
    parts: usize,
}

impl Plan {
    fn new<S: Simd>(shape: Shape, output: Shape, window: Window) -> Self {
        let (blocks, panels) = (shape.blocks(), output.channels.div_ceil(S::NR));
        let maps = Padded::new(shape.with_batch(1), Layout::Blocked, window).len();
        let pixels = output.height * output.width;
        let bytes = 4 * (maps + panels * pixels * S::NR);
        let images = (DENSE_GRADIENT_BYTES / bytes).clamp(1, shape.batch);
        let pieces = images * pixels.div_ceil(DENSE_GRADIENT_PIXELS);
        let is_enough = |span: &usize| panels * blocks.div_ceil(*span) >= DENSE_GRADIENT_ITEMS;
        let span = (1..=DENSE_GRADIENT_BLOCKS).rev().find(is_enough);
        let parts = DENSE_GRADIENT_ITEMS.div_ceil(panels * blocks).min(pieces);
        Self {
            shape,
            output,
            blocks,
            panels,
            taps: window.taps(),
            images,
            span: span.unwrap_or(1),
            parts,
        }
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

    /// Adds up the parts, and writes what there is of the weights of a 1×1 window.
    fn write_1x1<S: Simd>(&self, simd: S, sums: &[f32], dw: &mut [f32]) {
        let (channels, outputs) = (self.shape.channels, self.output.channels);
        let dw = Shared::new(dw);
        for_each(self.panels * self.blocks, |item| {
            let (panel, block) = (item / self.blocks, item % self.blocks);
            let mut square = [0.0; LANES * LANES];
            for vector in 0..S::NR_VECTORS {
                let first = panel * S::NR + vector * LANES;
                for part in 0..self.parts {
                    let place = (part * self.panels + panel) * self.panel_len::<S>();
                    let place = place + self.place::<S>(block, 0) + vector * LANES;
                    let rows = &sums[place..][..(LANES - 1) * S::NR + LANES];
                    simd.vectorize(
                        #[inline(always)]
                        || add_transposed(simd, rows, part == 0, &mut square),
                    );
                }
                let count = LANES.min(channels - block * LANES);
                for (output, row) in (first..outputs).zip(square.chunks_exact(LANES)) {
                    // SAFETY: an item writes the weights of its own outputs and inputs.
                    let dw = unsafe { dw.slice(output * channels + block * LANES, count) };
                    dw.copy_from_slice(&row[..count]);
                }
            }
        });
    }

    /// Adds up the parts, and writes what there is of the weights.
    fn write<S: Simd>(&self, simd: S, sums: &[f32], dw: &mut [f32]) {
        if self.taps == 1 {
            self.write_1x1(simd, sums, dw);
            return;
        }
        let row = self.shape.channels * self.taps;
        let dw = Shared::new(dw);
        for_each(self.output.channels, |output| {
            // SAFETY: an item writes the weights of its own output.
            let dw = unsafe { dw.slice(output * row, row) };
            let (panel, column) = (output / S::NR, output % S::NR);
            for (weight, dw) in dw.iter_mut().enumerate() {
                let (input, tap) = (weight / self.taps, weight % self.taps);
                let place = self.place::<S>(input / LANES, tap) + input % LANES * S::NR + column;
                let part =
                    |part| sums[(part * self.panels + panel) * self.panel_len::<S>() + place];
                *dw = (0..self.parts).map(part).sum();
            }
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

/// Blocked maps as panels: (panel, image, pixel, output within the panel), padded with zeros.
fn panels<S: Simd>(dy: &[f32], shape: Shape, panels: usize) -> Scratch {
    let pixels = shape.height * shape.width;
    let mut packed = Scratch::new(panels * shape.batch * pixels * S::NR);
    let shared = Shared::new(&mut packed);
    for_each(panels * shape.batch, |item| {
        let (panel, image) = (item / shape.batch, item % shape.batch);
        // SAFETY: an item writes its own panel and image.
        let to = unsafe { shared.slice(item * pixels * S::NR, pixels * S::NR) };
        for vector in 0..S::NR_VECTORS {
            let block = panel * S::NR_VECTORS + vector;
            let rows = to.chunks_exact_mut(S::NR);
            let rows = rows.map(|row| &mut row[vector * LANES..][..LANES]);
            if block >= shape.blocks() {
                rows.for_each(|row| row.fill(0.0));
                continue;
            }
            let plane = (image * shape.blocks() + block) * shape.plane_len();
            let from = dy[plane..][..shape.plane_len()].chunks_exact(LANES);
            rows.zip(from)
                .for_each(|(to, from)| to.copy_from_slice(from));
        }
    });
    packed
}

/// The operands of the products of some images.
struct Products<'a, S> {
    simd: S,
    plan: &'a Plan,
    /// As [`Padded`] has them.
    maps: &'a [f32],
    image_len: usize,
    segments: &'a [usize],
    /// From [`panels`].
    panels: &'a [f32],
    images: usize,
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
        let pixels = plan.output.height * plan.output.width;
        let pieces = pixels.div_ceil(DENSE_GRADIENT_PIXELS);
        self.simd.vectorize(
            #[inline(always)]
            || {
                for piece in part(&(0..self.images * pieces), index, plan.parts) {
                    let (image, first) = (piece / pieces, piece % pieces * DENSE_GRADIENT_PIXELS);
                    let count = DENSE_GRADIENT_PIXELS.min(pixels - first);
                    let b = ((panel * self.images + image) * pixels + first) * S::NR;
                    let b = &self.panels[b..][..count * S::NR];
                    let mut sums = sums.chunks_exact_mut(LANES * S::NR);
                    for block in blocks.clone() {
                        for (tap, sums) in sums.by_ref().take(plan.taps).enumerate() {
                            self.product(image, block, tap, first, b, sums);
                        }
                    }
                }
            },
        );
    }

    /// Adds the product of some pixels from `first` on, whose panel is `b`.
    #[inline(always)]
    fn product(
        &self,
        image: usize,
        block: usize,
        tap: usize,
        first: usize,
        b: &[f32],
        sums: &mut [f32],
    ) {
        let segment = self.segments[tap * self.plan.blocks + block];
        let pixels = b.len() / S::NR;
        let a = &self.maps[image * self.image_len + segment + first * LANES..][..pixels * LANES];
        assert_eq!(sums.len(), LANES * S::NR);
        let kernel = Microkernel::<1, LANES> {
            vectors: S::NR_VECTORS,
            m: LANES.min(self.plan.shape.channels - block * LANES),
            segments: &[0],
            segment_k: pixels,
            last_k: pixels,
        };
        let added = Added(sums.as_mut_ptr());
        // SAFETY: A has sixteen channels and B a panel row for each pixel, as was checked just now; the sums are
        // sixteen panel rows, which nobody else has.
        unsafe { kernel.run(self.simd, a.as_ptr(), b.as_ptr(), added) };
    }
}

/// C, to which a product is added at its end. Valid for reading and writing a panel row for each of the product's.
#[derive(Clone, Copy)]
struct Added(*mut f32);

impl<S: Simd> Output<S> for Added {
    #[inline(always)]
    unsafe fn begin(self, simd: S, _: usize, _: usize) -> S::V {
        simd.splat(0.0)
    }

    #[inline(always)]
    unsafe fn end(self, simd: S, row: usize, vector: usize, sum: S::V) {
        // SAFETY: C has this vector of this row.
        unsafe {
            let c = self.0.add(row * S::NR + vector * LANES);
            simd.store(c, simd.add(simd.load(c), sum));
        }
    }
}
