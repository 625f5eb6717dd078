//! The convolution without a transform: for each tap a product on shifted, zero-padded maps.
//!
//! For all windows but 3×3 with stride 1; for the first layer, whose three channels fill no vector; and for maps so small
//! that reading the weights is all the work: a Winograd tile has four times as many of them.

use super::blocking::DIRECT_PIXELS;
use super::epilogue::Epilogue;
use super::gemm::{InMemory, Microkernel};
use super::padded::{Layout, Padded};
use super::parallel::{Shared, for_each};
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
    if weights.size == 3 {
        pack_3x3(simd, weights, padded, shared);
        return packed;
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
    let output = window.output(shape).with_channels(out_channels);
    let panels = out_channels.div_ceil(S::NR);
    assert!(!epilogue.pool, "pooling is a pass of its own here");
    assert_eq!(x.len(), padded.unpadded_len());
    assert_eq!(
        packed.len(),
        panels * window.taps() * padded.channels() * S::NR
    );
    assert_eq!(y.len(), output.blocked_len());
    epilogue.check(out_channels, y.len());
    if y.is_empty() {
        return;
    }
    let mut made;
    let maps = if window == Window::POINTWISE {
        x
    } else {
        made = Scratch::new(padded.len());
        padded.fill(x, &mut made);
        &made
    };
    // Output rows of an item, taken as one run of pixels.
    let rows = DIRECT_PIXELS.div_ceil(output.width).min(output.height);
    let convolution = Convolution {
        simd,
        segments: padded.segments(),
        maps,
        padded,
        packed,
        output,
        panels,
        rows,
        groups: output.height.div_ceil(rows),
        epilogue,
        y: Shared::new(y),
    };
    let items = shape.batch * convolution.groups * panels;
    for_each(items, |item| convolution.item(item));
}

/// A convolution's operands and sizes.
struct Convolution<'a, S> {
    simd: S,
    padded: Padded,
    maps: &'a [f32],
    segments: Vec<usize>,
    packed: &'a [f32],
    output: Shape,
    panels: usize,
    /// Output rows of an item.
    rows: usize,
    /// Items that an image is cut into for each panel.
    groups: usize,
    epilogue: &'a Epilogue<'a>,
    y: Shared<'a>,
}

impl<S: Simd> Convolution<'_, S> {
    /// Some rows of an image's outputs in one panel.
    fn item(&self, item: usize) {
        let (place, panel) = (item / self.panels, item % self.panels);
        let (image, top) = (place / self.groups, place % self.groups * self.rows);
        let pixels = self.rows.min(self.output.height - top) * self.output.width;
        with_own(pixels * S::NR, |sums| {
            self.simd.vectorize(
                #[inline(always)]
                || {
                    self.products(image, top, panel, pixels, sums);
                    // SAFETY: these outputs are this item's alone.
                    unsafe { self.finish(image, top, panel, pixels, sums) };
                },
            );
        });
    }

    /// Sums of so many pixels from row `top` on: (pixel, output within the panel).
    #[inline(always)]
    fn products(&self, image: usize, top: usize, panel: usize, pixels: usize, sums: &mut [f32]) {
        assert!(sums.len() >= pixels * S::NR);
        let row = self.padded.row();
        let k = self.segments.len() * self.padded.layout.lanes();
        let a = self.maps[image * self.padded.image_len() + top * row..].as_ptr();
        let b = self.packed[panel * k * S::NR..][..k * S::NR].as_ptr();
        let output = InMemory {
            c: sums.as_mut_ptr(),
            accumulate: false,
        };
        let segments = &self.segments;
        // SAFETY: pixel, tap and channel of A end with the last row of the image's last padded plane, read by the last
        // row and tap; B and C were checked just now.
        unsafe {
            match self.padded.layout {
                Layout::Blocked => Microkernel::<LANES, 1> {
                    m: pixels,
                    segments,
                    segment_k: LANES,
                }
                .run(self.simd, a, b, output),
                Layout::Planar => Microkernel::<1, 1> {
                    m: pixels,
                    segments,
                    segment_k: 1,
                }
                .run(self.simd, a, b, output),
            }
        }
    }

    /// Writes what becomes of the sums.
    ///
    /// # Safety
    /// Nobody else writes these pixels' outputs in this panel.
    #[inline(always)]
    unsafe fn finish(&self, image: usize, top: usize, panel: usize, pixels: usize, sums: &[f32]) {
        assert!(sums.len() >= pixels * S::NR);
        let (simd, output) = (self.simd, self.output);
        for vector in 0..S::NR_VECTORS {
            let block = panel * S::NR_VECTORS + vector;
            if block == output.blocks() {
                break;
            }
            // SAFETY: the epilogue was checked for the output's channels.
            let bias = unsafe { self.epilogue.bias(simd, block) };
            let plane = (image * output.blocks() + block) * output.plane_len();
            let first = plane + top * output.width * LANES;
            for pixel in 0..pixels {
                let offset = first + pixel * LANES;
                // SAFETY: `sums` is as long as was checked; the pixel is one of the image's, and the caller's alone.
                unsafe {
                    let sums = sums.as_ptr().add(pixel * S::NR + vector * LANES);
                    let value = self.epilogue.finish(simd, simd.load(sums), bias, offset);
                    simd.store(self.y.at(offset), value);
                }
            }
            // SAFETY: the same pixels.
            let written = unsafe { self.y.slice(first, pixels * LANES) };
            self.epilogue.settle(written);
        }
    }
}
