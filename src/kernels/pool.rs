//! Pools of blocked maps and their gradients: the 2×2 max-pool with stride 2, which leaves out an odd last row or
//! column, and the maximum and the average of any window.

use super::blocking::DEPTHWISE_PIXELS;
use super::isa::{Isa, Token, with_simd};
use super::parallel::{Shared, for_each};
use super::shape::Shape;
use super::simd::{LANES, Simd};
use super::window::Padding;
use super::window::{Line, Window};

/// The maximum of each 2×2 pixels of `x`; NaN if one of them is.
pub(super) fn max_pool(isa: Isa, x: &[f32], shape: Shape, y: &mut [f32]) {
    let pooled = shape.pooled();
    assert_eq!(
        (x.len(), y.len()),
        (shape.blocked_len(), pooled.blocked_len())
    );
    if y.is_empty() {
        return;
    }
    let y = Shared::new(y);
    for_each(shape.batch * shape.blocks(), |plane| {
        let x = &x[plane * shape.plane_len()..][..shape.plane_len()];
        // SAFETY: an item writes its own plane.
        let y = unsafe { y.slice(plane * pooled.plane_len(), pooled.plane_len()) };
        with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || max_pool_plane(simd, x, shape, y),
        ));
    });
}

/// [`max_pool`] of one plane.
#[inline(always)]
fn max_pool_plane<S: Simd>(simd: S, x: &[f32], shape: Shape, y: &mut [f32]) {
    let pooled = shape.pooled();
    assert_eq!((x.len(), y.len()), (shape.plane_len(), pooled.plane_len()));
    for row in 0..pooled.height {
        for column in 0..pooled.width {
            let corners = corners(shape, row, column);
            // SAFETY: a window of a pooled pixel is within its plane, and the pixel is within its own.
            unsafe {
                let values = corners.map(
                    #[inline(always)]
                    |corner| simd.load(x.as_ptr().add(corner)),
                );
                let to = y.as_mut_ptr().add((row * pooled.width + column) * LANES);
                simd.store(to, largest(simd, values));
            }
        }
    }
}

/// Where a window's pixels begin in their plane, in reading order.
#[inline(always)]
fn corners(shape: Shape, row: usize, column: usize) -> [usize; 4] {
    let first = (2 * row * shape.width + 2 * column) * LANES;
    let below = first + shape.width * LANES;
    [first, first + LANES, below, below + LANES]
}

#[inline(always)]
fn largest<S: Simd>(simd: S, [a, b, c, d]: [S::V; 4]) -> S::V {
    simd.max(simd.max(a, b), simd.max(c, d))
}

/// The gradient of a [`max_pool`] from its input `x`: each window's gradient goes to its first maximum in reading
/// order, as in PyTorch. With `relu`, `x` is the output of a ReLU whose gradient is taken as well: where the maximum is
/// 0, nothing goes on.
pub(super) fn max_pool_gradient(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    relu: bool,
    gradient: &[f32],
    dx: &mut [f32],
) {
    let pooled = shape.pooled();
    assert_eq!(
        (x.len(), dx.len(), gradient.len()),
        (
            shape.blocked_len(),
            shape.blocked_len(),
            pooled.blocked_len()
        )
    );
    let dx = Shared::new(dx);
    for_each(shape.batch * shape.blocks(), |plane| {
        let x = &x[plane * shape.plane_len()..][..shape.plane_len()];
        let gradient = &gradient[plane * pooled.plane_len()..][..pooled.plane_len()];
        // SAFETY: an item writes its own plane.
        let dx = unsafe { dx.slice(plane * shape.plane_len(), shape.plane_len()) };
        if shape.height % 2 + shape.width % 2 > 0 {
            dx.fill(0.0);
        }
        with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || if relu {
                max_pool_gradient_plane::<_, true>(simd, x, shape, gradient, dx);
            } else {
                max_pool_gradient_plane::<_, false>(simd, x, shape, gradient, dx);
            },
        ));
    });
}

/// [`max_pool_gradient`] of one plane.
#[inline(always)]
fn max_pool_gradient_plane<S: Simd, const RELU: bool>(
    simd: S,
    x: &[f32],
    shape: Shape,
    gradient: &[f32],
    dx: &mut [f32],
) {
    let pooled = shape.pooled();
    assert_eq!(
        (x.len(), dx.len(), gradient.len()),
        (shape.plane_len(), shape.plane_len(), pooled.plane_len())
    );
    let zero = simd.splat(0.0);
    for row in 0..pooled.height {
        for column in 0..pooled.width {
            let corners = corners(shape, row, column);
            // SAFETY: a window of a pooled pixel is within its plane, and the pixel is within its own.
            unsafe {
                let values = corners.map(
                    #[inline(always)]
                    |corner| simd.load(x.as_ptr().add(corner)),
                );
                let largest = largest(simd, values);
                let from = gradient.as_ptr().add((row * pooled.width + column) * LANES);
                let mut left = simd.load(from);
                for (corner, value) in corners.into_iter().zip(values) {
                    let taken = simd.not_less(value, largest, left, zero);
                    left = simd.not_less(value, largest, zero, left);
                    let taken = if RELU {
                        simd.gate(value, simd.splat(f32::NAN), taken)
                    } else {
                        taken
                    };
                    simd.store(dx.as_mut_ptr().add(corner), taken);
                }
            }
        }
    }
}

/// What a window makes of its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    /// The largest; NaN if one of them is. Padding is −∞.
    Max,
    /// Of windows without padding.
    Average,
}

impl Pooling {
    /// # Panics
    /// If a window might lie on padding alone, or an average has any.
    fn check(self, window: Window) {
        let Padding {
            top,
            bottom,
            left,
            right,
        } = window.padding;
        let widest = top.max(bottom).max(left).max(right);
        match self {
            Self::Max => assert!(2 * widest <= window.kernel, "{window:?}"),
            Self::Average => assert!(widest == 0, "{window:?}"),
        }
    }
}

/// Pools `x` of `shape` into `y` of `window.output(shape)`.
pub(super) fn pool(
    isa: Isa,
    pooling: Pooling,
    x: &[f32],
    shape: Shape,
    window: Window,
    y: &mut [f32],
) {
    pooling.check(window);
    let output = window.output(shape);
    assert_eq!(
        (x.len(), y.len()),
        (shape.blocked_len(), output.blocked_len())
    );
    if y.is_empty() {
        return;
    }
    let rows = DEPTHWISE_PIXELS.div_ceil(output.width).min(output.height);
    let groups = output.height.div_ceil(rows);
    let y = Shared::new(y);
    for_each(shape.batch * shape.blocks() * groups, |item| {
        let (plane, top) = (item / groups, item % groups * rows);
        let x = &x[plane * shape.plane_len()..][..shape.plane_len()];
        let row = output.width * LANES;
        let count = rows.min(output.height - top);
        // SAFETY: an item writes its own rows.
        let y = unsafe { y.slice(plane * output.plane_len() + top * row, count * row) };
        with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || for (index, y) in y.chunks_exact_mut(row).enumerate() {
                let row = Row::new(window, shape, output, top + index);
                match (pooling, window.kernel, window.stride) {
                    (Pooling::Max, 3, 2) => row.pool::<_, true>(simd, x, 3, 2, y),
                    (Pooling::Max, kernel, stride) => row.pool::<_, true>(simd, x, kernel, stride, y),
                    (Pooling::Average, kernel, stride) => {
                        row.pool::<_, false>(simd, x, kernel, stride, y);
                    }
                }
            },
        ));
    });
}

/// The gradient of a [`pool`] from its input `x` and that of its output, written over `dx`. That of a maximum goes to
/// the first in reading order; that of a window with NaN to its first pixel.
pub(super) fn pool_gradient(
    isa: Isa,
    pooling: Pooling,
    x: &[f32],
    shape: Shape,
    window: Window,
    dy: &[f32],
    dx: &mut [f32],
) {
    pooling.check(window);
    let output = window.output(shape);
    assert_eq!(
        (x.len(), dx.len(), dy.len()),
        (
            shape.blocked_len(),
            shape.blocked_len(),
            output.blocked_len()
        )
    );
    let dx = Shared::new(dx);
    for_each(shape.batch * shape.blocks(), |plane| {
        let x = &x[plane * shape.plane_len()..][..shape.plane_len()];
        let dy = &dy[plane * output.plane_len()..][..output.plane_len()];
        // SAFETY: an item writes its own plane; windows overlap, so planes are not cut.
        let dx = unsafe { dx.slice(plane * shape.plane_len(), shape.plane_len()) };
        dx.fill(0.0);
        with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || for (index, dy) in dy.chunks_exact(output.width * LANES).enumerate() {
                let row = Row::new(window, shape, output, index);
                match pooling {
                    Pooling::Max => row.credit_maxima(simd, x, dy, dx),
                    Pooling::Average => row.credit_all(simd, dy, dx),
                }
            },
        ));
    });
}

/// A row of windows.
struct Row {
    /// Where the first row of the map begins that it meets, in floats, and how many rows those are.
    first: usize,
    rows: usize,
    across: Line,
}

impl Row {
    #[inline(always)]
    fn new(window: Window, shape: Shape, output: Shape, row: usize) -> Self {
        let down = window.rows(shape.height, output);
        let taps = down.inside(row);
        Self {
            first: down.place(row, taps.start) as usize * shape.width * LANES,
            rows: taps.len(),
            across: window.columns(shape.width, output),
        }
    }

    /// The maxima, or else the averages, of a row of windows.
    #[inline(always)]
    fn pool<S: Simd, const MAX: bool>(
        &self,
        simd: S,
        x: &[f32],
        kernel: usize,
        stride: usize,
        y: &mut [f32],
    ) {
        let across = Line {
            taps: kernel,
            step: stride as isize,
            ..self.across
        };
        let whole = across.whole(0, kernel);
        let mut output = 0;
        while output < across.outputs {
            if whole.contains(&output) && output + 4 <= whole.end {
                self.block::<S, MAX, 4>(simd, x, &across, output, y);
                output += 4;
            } else {
                self.block::<S, MAX, 1>(simd, x, &across, output, y);
                output += 1;
            }
        }
    }

    /// `P` windows that have the same taps inside.
    #[inline(always)]
    fn block<S: Simd, const MAX: bool, const P: usize>(
        &self,
        simd: S,
        x: &[f32],
        across: &Line,
        output: usize,
        y: &mut [f32],
    ) {
        let start = if MAX { f32::NEG_INFINITY } else { 0.0 };
        let mut values = [simd.splat(start); P];
        let step = across.step as usize;
        let y = &mut y[output * LANES..][..P * LANES];
        let (taps, first) = self.taps(across, output);
        for row in 0..self.rows {
            for tap in 0..taps {
                let place = first + (row * across.size + tap) * LANES;
                debug_assert!(place + ((P - 1) * step + 1) * LANES <= x.len());
                for pixel in 0..P {
                    // SAFETY: rows and taps are inside the plane for all these windows.
                    let x = unsafe { simd.load(x.as_ptr().add(place + pixel * step * LANES)) };
                    values[pixel] = if MAX {
                        simd.max(values[pixel], x)
                    } else {
                        simd.add(values[pixel], x)
                    };
                }
            }
        }
        let share = simd.splat(self.share());
        for pixel in 0..P {
            let value = if MAX {
                values[pixel]
            } else {
                simd.mul(values[pixel], share)
            };
            // SAFETY: one of the `P` vectors taken from the row.
            unsafe { simd.store(y.as_mut_ptr().add(pixel * LANES), value) };
        }
    }

    /// How many taps of a window's row are inside, and where the first lies in its plane.
    #[inline(always)]
    fn taps(&self, across: &Line, output: usize) -> (usize, usize) {
        let taps = across.inside(output);
        let column = across.place(output, taps.start) as usize;
        (taps.len(), self.first + column * LANES)
    }

    /// One over the pixels of a window without padding.
    #[inline(always)]
    fn share(&self) -> f32 {
        1.0 / (self.across.taps * self.across.taps) as f32
    }

    #[inline(always)]
    fn credit_maxima<S: Simd>(&self, simd: S, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        assert_eq!(x.len(), dx.len());
        let zero = simd.splat(0.0);
        for (output, dy) in dy.chunks_exact(LANES).enumerate() {
            let (taps, first) = self.taps(&self.across, output);
            let mut largest = simd.splat(f32::NEG_INFINITY);
            for row in 0..self.rows {
                for tap in 0..taps {
                    let place = first + (row * self.across.size + tap) * LANES;
                    debug_assert!(place + LANES <= x.len());
                    // SAFETY: rows and taps are inside the plane.
                    largest = simd.max(largest, unsafe { simd.load(x.as_ptr().add(place)) });
                }
            }
            // SAFETY: a chunk is sixteen floats.
            let mut left = unsafe { simd.load(dy.as_ptr()) };
            for row in 0..self.rows {
                for tap in 0..taps {
                    let place = first + (row * self.across.size + tap) * LANES;
                    // SAFETY: as above; both planes are equally long.
                    unsafe {
                        let value = simd.load(x.as_ptr().add(place));
                        let to = dx.as_mut_ptr().add(place);
                        let taken = simd.not_less(value, largest, left, zero);
                        left = simd.not_less(value, largest, zero, left);
                        simd.store(to, simd.add(simd.load(to), taken));
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn credit_all<S: Simd>(&self, simd: S, dy: &[f32], dx: &mut [f32]) {
        let share = simd.splat(self.share());
        for (output, dy) in dy.chunks_exact(LANES).enumerate() {
            let (taps, first) = self.taps(&self.across, output);
            // SAFETY: a chunk is sixteen floats.
            let part = simd.mul(unsafe { simd.load(dy.as_ptr()) }, share);
            for row in 0..self.rows {
                for tap in 0..taps {
                    let place = first + (row * self.across.size + tap) * LANES;
                    debug_assert!(place + LANES <= dx.len());
                    // SAFETY: rows and taps are inside the plane.
                    unsafe {
                        let to = dx.as_mut_ptr().add(place);
                        simd.store(to, simd.add(simd.load(to), part));
                    }
                }
            }
        }
    }
}
