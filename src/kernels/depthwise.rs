//! Convolutions in which every channel has its own kernel, and their gradients: a vector is sixteen channels.
//!
//! Some pixels side by side are summed in registers while the taps are walked. Pixels whose window sticks out leave out
//! the taps outside. The gradient of the input is the same for each residue of row and column modulo the stride: such
//! pixels meet every stride-th tap, and the gradients they read lie side by side.
//!
//! Padded lanes have weights of 0: they become what the epilogue makes of 0, which may be another finite number.

use std::ops::Range;

use super::blocking::{DEPTHWISE_GRADIENT_ITEMS, DEPTHWISE_PIXELS, DEPTHWISE_STRIP_BYTES};
use super::epilogue::Epilogue;
use super::isa::{Isa, Token, with_simd};
use super::parallel::{Shared, for_each, part};
use super::scratch::{Scratch, with_own};
use super::shape::Shape;
use super::simd::{LANES, Simd};
use super::strip::{self, Strip};
use super::window::{Line, Window};

/// Weights (C, 1, k, k), times a scale (C) if there is one, packed for [`convolve`] and [`input_gradient`]: (block,
/// tap, channel), padded with zeros.
pub(super) fn pack(
    weights: &[f32],
    scale: Option<&[f32]>,
    channels: usize,
    kernel: usize,
) -> Scratch {
    let taps = kernel * kernel;
    assert_eq!(weights.len(), channels * taps);
    let mut packed = Scratch::new(channels.next_multiple_of(LANES) * taps);
    packed.fill(0.0);
    for (channel, weights) in weights.chunks_exact(taps.max(1)).enumerate() {
        let packed = &mut packed[channel / LANES * taps * LANES + channel % LANES..];
        for (packed, weight) in packed.iter_mut().step_by(LANES).zip(weights) {
            *packed = weight * scale.map_or(1.0, |scale| scale[channel]);
        }
    }
    packed
}

/// y = w ∗ x: blocked `x` of `shape`, weights from [`pack`], `y` of `window.output(shape)`. Does not pool.
pub(super) fn convolve(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    packed: &[f32],
    window: Window,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let output = window.output(shape);
    let taps = window.taps() * LANES;
    assert!(!epilogue.pool, "pooling is a pass of its own here");
    assert_eq!(x.len(), shape.blocked_len());
    assert_eq!(packed.len(), shape.blocks() * taps);
    assert_eq!(y.len(), output.blocked_len());
    epilogue.check(shape.channels, y.len());
    if y.is_empty() {
        return;
    }
    let strip = Strip::new(shape, window, output, 1, DEPTHWISE_STRIP_BYTES);
    let y = Shared::new(y);
    for_each(shape.batch * shape.blocks() * strip.count(), |item| {
        let (plane, index) = (item / strip.count(), item % strip.count());
        let block = plane % shape.blocks();
        with_own(strip.len(), |buffer| {
            with_simd!(isa, simd => simd.vectorize(
                #[inline(always)]
                || {
                    let source = &x[plane * shape.plane_len()..][..shape.plane_len()];
                    strip.fill(index, source, buffer);
                    let sums = strip::Sums {
                        simd,
                        strip: &strip,
                        index,
                        buffer,
                        packed: &packed[block * taps..][..taps],
                        epilogue,
                        block,
                        y,
                        plane: plane * output.plane_len(),
                    };
                    // SAFETY: the strip's rows of this plane are this item's alone; the epilogue was checked.
                    unsafe { sums.write() };
                },
            ));
        });
    });
}

/// dx = wᵀ ∗ dy, for a [`convolve`] of maps of `shape`, through an epilogue of its own, which may have a gate.
pub(super) fn input_gradient(
    isa: Isa,
    dy: &[f32],
    shape: Shape,
    packed: &[f32],
    window: Window,
    epilogue: &Epilogue<'_>,
    dx: &mut [f32],
) {
    let output = window.output(shape);
    Sums {
        source: dy,
        from: output,
        to: shape,
        packed,
        window,
        epilogue,
    }
    .run(isa, dx, |item, isa| {
        with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || match (window.kernel, window.stride) {
                (3, 1) => item.backward(simd, 3, 1),
                (3, 2) => item.backward(simd, 3, 2),
                (5, 1) => item.backward(simd, 5, 1),
                (5, 2) => item.backward(simd, 5, 2),
                (kernel, stride) => item.backward(simd, kernel, stride),
            },
        ));
    });
}

/// The operands of sums over taps.
#[derive(Clone, Copy)]
struct Sums<'a> {
    source: &'a [f32],
    from: Shape,
    to: Shape,
    packed: &'a [f32],
    window: Window,
    epilogue: &'a Epilogue<'a>,
}

impl Sums<'_> {
    /// Cuts what is written into items, some rows of a plane each.
    fn run(self, isa: Isa, written: &mut [f32], work: impl Fn(Item<'_>, Isa) + Send + Sync) {
        let Self { from, to, .. } = self;
        let taps = self.window.taps() * LANES;
        assert!(!self.epilogue.pool, "pooling is a pass of its own here");
        assert_eq!(self.source.len(), from.blocked_len());
        assert_eq!(self.packed.len(), to.blocks() * taps);
        assert_eq!(written.len(), to.blocked_len());
        self.epilogue.check(to.channels, written.len());
        if written.is_empty() {
            return;
        }
        let rows = DEPTHWISE_PIXELS.div_ceil(to.width).min(to.height);
        let groups = to.height.div_ceil(rows);
        let written = Shared::new(written);
        for_each(to.batch * to.blocks() * groups, |item| {
            let (plane, group) = (item / groups, item % groups);
            let (block, top) = (plane % to.blocks(), group * rows);
            let item = Item {
                sums: &self,
                source: &self.source[plane * from.plane_len()..][..from.plane_len()],
                packed: &self.packed[block * taps..][..taps],
                block,
                rows: top..to.height.min(top + rows),
                plane: plane * to.plane_len(),
                written,
            };
            work(item, isa);
        });
    }
}

/// Some rows of a plane.
struct Item<'a> {
    sums: &'a Sums<'a>,
    source: &'a [f32],
    packed: &'a [f32],
    block: usize,
    rows: Range<usize>,
    /// Where the plane begins.
    plane: usize,
    written: Shared<'a>,
}

/// Taps of one row of the window that meet a row of the map.
#[derive(Clone, Copy)]
struct Walk {
    /// The first tap of the first row.
    tap: usize,
    /// Taps to the next, in rows and columns alike.
    tap_step: usize,
    /// The row of the source that the first row of taps reads, and how many rows of taps there are.
    row: isize,
    row_step: isize,
    rows: usize,
}

impl Item<'_> {
    #[inline(always)]
    fn backward<S: Simd>(&self, simd: S, kernel: usize, stride: usize) {
        let (window, from, to) = (self.sums.window, self.sums.from, self.sums.to);
        for row in self.rows.clone() {
            let residue = (row + window.padding.top) % stride;
            // One output of a line: its taps are every stride-th, the next reads the row before.
            let down = Line {
                start: ((row + window.padding.top) / stride) as isize,
                step: 1,
                tap_step: -1,
                taps: kernel.saturating_sub(residue).div_ceil(stride),
                size: from.height,
                outputs: 1,
            };
            let taps = down.inside(0);
            for first in 0..stride.min(to.width) {
                let column = (first + window.padding.left) % stride;
                let across = Line {
                    start: ((first + window.padding.left) / stride) as isize,
                    step: 1,
                    tap_step: -1,
                    taps: kernel.saturating_sub(column).div_ceil(stride),
                    size: from.width,
                    outputs: (to.width - first).div_ceil(stride),
                };
                let walk = Walk {
                    tap: (residue + taps.start * stride) * kernel + column,
                    tap_step: stride,
                    row: down.place(0, taps.start),
                    row_step: -1,
                    rows: taps.len(),
                };
                self.line(simd, kernel, &walk, &across, row * to.width + first, stride);
            }
        }
    }

    /// Writes the outputs of a line, the first to pixel `to`, each `to_step` pixels from the last.
    #[inline(always)]
    fn line<S: Simd>(
        &self,
        simd: S,
        kernel: usize,
        walk: &Walk,
        line: &Line,
        to: usize,
        to_step: usize,
    ) {
        let whole = if line.taps == 0 {
            0..line.outputs
        } else {
            line.whole(0, line.taps)
        };
        let block = |output, taps| Block {
            item: self,
            walk,
            kernel,
            line,
            taps,
            output,
            to: to + output * to_step,
            to_step,
        };
        for output in 0..whole.start {
            block(output, line.inside(output)).write::<S, 1>(simd);
        }
        let mut output = whole.start;
        while output < whole.end {
            let taps = 0..line.taps;
            // Eight vectors where there is room for as many and more beside them.
            if S::MR * S::NR_VECTORS >= 16 && whole.end - output >= 8 {
                block(output, taps).write::<S, 8>(simd);
                output += 8;
            } else if whole.end - output >= 4 {
                block(output, taps).write::<S, 4>(simd);
                output += 4;
            } else if whole.end - output >= 2 {
                block(output, taps).write::<S, 2>(simd);
                output += 2;
            } else {
                block(output, taps).write::<S, 1>(simd);
                output += 1;
            }
        }
        for output in whole.end..line.outputs {
            block(output, line.inside(output)).write::<S, 1>(simd);
        }
    }
}

/// Some outputs side by side that have the same taps.
struct Block<'a> {
    item: &'a Item<'a>,
    walk: &'a Walk,
    kernel: usize,
    line: &'a Line,
    taps: Range<usize>,
    output: usize,
    to: usize,
    to_step: usize,
}

impl Block<'_> {
    /// Sums and writes `P` outputs. All their taps are inside.
    #[inline(always)]
    fn write<S: Simd, const P: usize>(&self, simd: S) {
        let (item, walk, line) = (self.item, self.walk, self.line);
        let mut sums = [simd.splat(0.0); P];
        let column = line.place(self.output, self.taps.start);
        for tap_row in 0..walk.rows {
            let row = walk.row + tap_row as isize * walk.row_step;
            let tap = walk.tap + walk.tap_step * (tap_row * self.kernel + self.taps.start);
            let source = (row * item.sums.from.width as isize + column) * LANES as isize;
            for index in 0..self.taps.len() {
                // SAFETY: rows and columns of these outputs' taps are inside the plane, as `Line` says, and the tap is
                // one of the kernel's.
                unsafe {
                    let tap = tap + index * walk.tap_step;
                    debug_assert!((tap + 1) * LANES <= item.packed.len());
                    let weight = simd.load(item.packed.as_ptr().add(tap * LANES));
                    let offset = source + (index as isize * line.tap_step) * LANES as isize;
                    for pixel in 0..P {
                        let offset = offset + pixel as isize * line.step * LANES as isize;
                        debug_assert!(offset >= 0 && offset as usize + LANES <= item.source.len());
                        let value = simd.load(item.source.as_ptr().offset(offset));
                        sums[pixel] = simd.mul_add(value, weight, sums[pixel]);
                    }
                }
            }
        }
        // SAFETY: the epilogue was checked for these channels.
        let bias = unsafe { item.sums.epilogue.bias(simd, item.block) };
        for pixel in 0..P {
            let offset = item.plane + (self.to + pixel * self.to_step) * LANES;
            // SAFETY: a pixel of the item's rows, which are its alone, and which the epilogue was checked for.
            unsafe {
                let value = item.sums.epilogue.finish(simd, sums[pixel], bias, offset);
                simd.store(item.written.at(offset), value);
            }
        }
    }
}

/// The gradients of the weights (C, 1, k, k), Σ dy · x, and of the bias (C), Σ dy, written over `dw` and `db`.
pub(super) fn parameter_gradients(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    dy: &[f32],
    window: Window,
    dw: &mut [f32],
    db: &mut [f32],
) {
    let output = window.output(shape);
    let (taps, blocks) = (window.taps(), shape.blocks());
    assert_eq!(x.len(), shape.blocked_len());
    assert_eq!(dy.len(), output.blocked_len());
    assert_eq!(dw.len(), shape.channels * taps);
    assert_eq!(db.len(), shape.channels);
    // Output rows of all images are cut into groups whose sums are added in order.
    let rows = 0..output.batch * output.height;
    let groups = DEPTHWISE_GRADIENT_ITEMS
        .div_ceil(blocks.max(1))
        .min(rows.len());
    let len = (taps + 1) * LANES;
    let mut sums = Scratch::new(groups * blocks * len);
    let shared = Shared::new(&mut sums);
    for_each(groups * blocks, |item| {
        let (group, block) = (item / blocks, item % blocks);
        // SAFETY: an item writes its own sums.
        let sums = unsafe { shared.slice(item * len, len) };
        sums.fill(0.0);
        for row in part(&rows, group, groups) {
            let (image, row) = (row / output.height, row % output.height);
            let plane = image * blocks + block;
            let row = GradientRow {
                x: &x[plane * shape.plane_len()..][..shape.plane_len()],
                dy: &dy[plane * output.plane_len()..][..output.plane_len()]
                    [row * output.width * LANES..][..output.width * LANES],
                down: window.rows(shape.height, output),
                across: window.columns(shape.width, output),
                row,
            };
            with_simd!(isa, simd => simd.vectorize(
                #[inline(always)]
                || match (window.kernel, window.stride) {
                    (3, 1) => row.add::<_, 3, 2>(simd, 3, 1, sums),
                    (3, 2) => row.add::<_, 3, 2>(simd, 3, 2, sums),
                    (5, 1) => row.add::<_, 5, 1>(simd, 5, 1, sums),
                    (5, 2) => row.add::<_, 5, 1>(simd, 5, 2, sums),
                    (kernel, stride) => row.add::<_, 1, 4>(simd, kernel, stride, sums),
                },
            ));
        }
    });
    for channel in 0..shape.channels {
        let (block, lane) = (channel / LANES, channel % LANES);
        let total = |tap: usize| -> f32 {
            (0..groups)
                .map(|group| sums[(group * blocks + block) * len + tap * LANES + lane])
                .sum()
        };
        for tap in 0..taps {
            dw[channel * taps + tap] = total(tap);
        }
        db[channel] = total(taps);
    }
}

/// A row of a plane's output gradient, and the plane of the input.
struct GradientRow<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    down: Line,
    across: Line,
    row: usize,
}

impl GradientRow<'_> {
    /// Adds the row's sums: those of `T` taps at a time, each in `U` registers.
    #[inline(always)]
    fn add<S: Simd, const T: usize, const U: usize>(
        &self,
        simd: S,
        kernel: usize,
        stride: usize,
        sums: &mut [f32],
    ) {
        assert_eq!(sums.len(), (kernel * kernel + 1) * LANES);
        let across = Line {
            step: stride as isize,
            ..self.across
        };
        for tap_row in self.down.inside(self.row) {
            let y = self.down.place(self.row, tap_row) as usize;
            let x = &self.x[y * across.size * LANES..][..across.size * LANES];
            for tap in (0..kernel).step_by(T) {
                let found = self.taps::<S, T, U>(simd, &across, tap, x);
                for (index, found) in found.into_iter().enumerate() {
                    let sum = &mut sums[(tap_row * kernel + tap + index) * LANES..][..LANES];
                    add_to(simd, found, sum);
                }
            }
        }
        let mut bias = simd.splat(0.0);
        for dy in self.dy.chunks_exact(LANES) {
            // SAFETY: a chunk is sixteen floats.
            bias = simd.add(bias, unsafe { simd.load(dy.as_ptr()) });
        }
        add_to(simd, bias, &mut sums[kernel * kernel * LANES..]);
    }

    /// The sums of `T` taps of a row from `tap` on, with a row of the input.
    #[inline(always)]
    fn taps<S: Simd, const T: usize, const U: usize>(
        &self,
        simd: S,
        across: &Line,
        tap: usize,
        x: &[f32],
    ) -> [S::V; T] {
        let mut sums = [[simd.splat(0.0); T]; U];
        let whole = across.whole(tap, T);
        for index in 0..T {
            let own = across.whole(tap + index, 1);
            let before = own.start..own.end.min(whole.start);
            for output in before.chain(own.start.max(whole.end)..own.end) {
                // SAFETY: the tap is inside for this output.
                let (dy, x) = unsafe { self.pair(simd, across, output, tap + index, x) };
                sums[0][index] = simd.mul_add(dy, x, sums[0][index]);
            }
        }
        let mut output = whole.start;
        while output + U <= whole.end {
            for unit in 0..U {
                for index in 0..T {
                    // SAFETY: all these taps are inside for these outputs.
                    let (dy, x) = unsafe { self.pair(simd, across, output + unit, tap + index, x) };
                    sums[unit][index] = simd.mul_add(dy, x, sums[unit][index]);
                }
            }
            output += U;
        }
        for output in output..whole.end {
            for index in 0..T {
                // SAFETY: all these taps are inside for these outputs.
                let (dy, x) = unsafe { self.pair(simd, across, output, tap + index, x) };
                sums[0][index] = simd.mul_add(dy, x, sums[0][index]);
            }
        }
        let mut total = sums[0];
        for unit in 1..U {
            for index in 0..T {
                total[index] = simd.add(total[index], sums[unit][index]);
            }
        }
        total
    }

    /// An output's gradient, and what its tap reads.
    ///
    /// # Safety
    /// The tap is inside.
    #[inline(always)]
    unsafe fn pair<S: Simd>(
        &self,
        simd: S,
        across: &Line,
        output: usize,
        tap: usize,
        x: &[f32],
    ) -> (S::V, S::V) {
        let place = across.place(output, tap);
        debug_assert!((0..across.size as isize).contains(&place));
        debug_assert!((output + 1) * LANES <= self.dy.len());
        // SAFETY: the output is one of the row's, and the tap is inside, as the caller says.
        unsafe {
            (
                simd.load(self.dy.as_ptr().add(output * LANES)),
                simd.load(x.as_ptr().offset(place * LANES as isize)),
            )
        }
    }
}

/// Adds a vector to sixteen floats.
#[inline(always)]
fn add_to<S: Simd>(simd: S, value: S::V, sum: &mut [f32]) {
    assert_eq!(sum.len(), LANES);
    // SAFETY: they are sixteen, as was checked.
    unsafe {
        let total = simd.add(simd.load(sum.as_ptr()), value);
        simd.store(sum.as_mut_ptr(), total);
    }
}
