//! Zero-padded maps in which whatever a tap reads lies side by side.

use super::parallel::{Shared, for_each};
use super::shape::Shape;
use super::simd::{LANES, Simd};
use super::window::Window;

/// How the input lies: blocks of sixteen channels, or one plane per channel as tensors have it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Blocked,
    Planar,
}

impl Layout {
    /// Channels side by side.
    pub(super) fn lanes(self) -> usize {
        match self {
            Self::Blocked => LANES,
            Self::Planar => 1,
        }
    }

    /// Channels with padding.
    pub(super) fn padded(self, channels: usize) -> usize {
        channels.next_multiple_of(self.lanes())
    }
}

/// Maps as the products read them: every plane once for each of a window's columns, with the pixels that tap reads in
/// the place of those they are for. Rows that one tap reads one after the other, `stride` apart, lie one after the
/// other.
#[derive(Clone, Copy)]
pub(super) struct Padded {
    pub(super) layout: Layout,
    shape: Shape,
    window: Window,
    output: Shape,
    /// Planes of an image: channels, or blocks of them.
    planes: usize,
}

impl Padded {
    pub(super) fn new(shape: Shape, layout: Layout, window: Window) -> Self {
        let planes = layout.padded(shape.channels) / layout.lanes();
        Self {
            layout,
            shape,
            window,
            output: window.output(shape),
            planes,
        }
    }

    pub(super) fn channels(&self) -> usize {
        self.planes * self.layout.lanes()
    }

    /// Floats of a row of one of a plane's copies.
    pub(super) fn row(&self) -> usize {
        self.output.width * self.layout.lanes()
    }

    /// Rows that the window reads: all but those that a stride leaves over.
    fn rows(&self) -> usize {
        (self.output.height - 1) * self.window.stride + self.window.kernel
    }

    /// Where a padded row stands in a copy: rows of equal remainder by the stride are together.
    fn place(&self, row: usize) -> usize {
        let (stride, rows) = (self.window.stride, self.rows());
        let before = (0..row % stride).map(|first| (rows - first).div_ceil(stride));
        before.sum::<usize>() + row / stride
    }

    /// Floats of a copy of a plane.
    fn copy_len(&self) -> usize {
        self.rows() * self.row()
    }

    fn plane_len(&self) -> usize {
        self.window.kernel * self.copy_len()
    }

    pub(super) fn image_len(&self) -> usize {
        self.planes * self.plane_len()
    }

    pub(super) fn len(&self) -> usize {
        self.shape.batch * self.image_len()
    }

    /// Floats of the maps as they are given.
    pub(super) fn unpadded_len(&self) -> usize {
        let pixels = self.shape.height * self.shape.width;
        self.shape.batch * self.planes * pixels * self.layout.lanes()
    }

    /// Where the channels of each tap begin: all planes for each.
    pub(super) fn segments(&self) -> Vec<usize> {
        let size = self.window.kernel;
        let taps = (0..size * size).flat_map(|tap| {
            let shift = tap % size * self.copy_len() + self.place(tap / size) * self.row();
            (0..self.planes).map(move |plane| plane * self.plane_len() + shift)
        });
        taps.collect()
    }

    pub(super) fn fill<S: Simd>(&self, simd: S, x: &[f32], padded: &mut [f32]) {
        let (copy, size) = (self.copy_len(), self.window.kernel);
        let from_plane = self.shape.height * self.shape.width * self.layout.lanes();
        let padded = Shared::new(padded);
        for_each(self.shape.batch * self.planes, |plane| {
            // SAFETY: an item's slice is its own plane.
            let copies = unsafe { padded.slice(plane * size * copy, size * copy) };
            let source = &x[plane * from_plane..][..from_plane];
            simd.vectorize(
                #[inline(always)]
                || {
                    for (column, target) in copies.chunks_exact_mut(copy).enumerate() {
                        self.fill_copy(source, column, target);
                    }
                },
            );
        });
    }

    /// What one of a window's columns reads of a plane.
    #[inline(always)]
    fn fill_copy(&self, source: &[f32], column: usize, copy: &mut [f32]) {
        let Window {
            stride, padding, ..
        } = self.window;
        let lanes = self.layout.lanes();
        let (from_row, width) = (self.shape.width * lanes, self.output.width);
        // Places whose pixel is within the map.
        let first = padding.left.saturating_sub(column).div_ceil(stride);
        let end = (self.shape.width + padding.left).saturating_sub(column);
        let end = end.div_ceil(stride).min(width).max(first.min(width));
        let first = first.min(end);
        // As `place` has them.
        let rows = (0..stride).flat_map(|first| (first..self.rows()).step_by(stride));
        for (row, target) in rows.zip(copy.chunks_exact_mut(self.row())) {
            let row = row.wrapping_sub(padding.top);
            if row >= self.shape.height || first == end {
                target.fill(0.0);
                continue;
            }
            target[..first * lanes].fill(0.0);
            target[end * lanes..].fill(0.0);
            let source = &source[row * from_row..][..from_row];
            let source = &source[(first * stride + column - padding.left) * lanes..];
            self.fill_row(source, &mut target[first * lanes..end * lanes]);
        }
    }

    /// Every `stride`-th pixel, from the first on.
    #[inline(always)]
    fn fill_row(&self, source: &[f32], target: &mut [f32]) {
        let stride = self.window.stride;
        if stride == 1 {
            target.copy_from_slice(&source[..target.len()]);
            return;
        }
        // A number of floats that the compiler knows is a move, any other a call.
        match self.layout {
            Layout::Blocked => every::<LANES>(source, stride, target),
            Layout::Planar if stride == 2 => every_second(source, target),
            Layout::Planar => every::<1>(source, stride, target),
        }
    }
}

/// Copies every second float: by pairs, which the compiler makes vectors of.
#[inline(always)]
fn every_second(source: &[f32], target: &mut [f32]) {
    let (pairs, rest) = source.as_chunks::<2>();
    for (target, [value, _]) in target.iter_mut().zip(pairs) {
        *target = *value;
    }
    if let (Some(target), Some(value)) = (target.get_mut(pairs.len()), rest.first()) {
        *target = *value;
    }
}

/// Copies every `stride`-th group of so many floats.
#[inline(always)]
fn every<const FLOATS: usize>(source: &[f32], stride: usize, target: &mut [f32]) {
    let (source, _) = source.as_chunks::<FLOATS>();
    let (target, _) = target.as_chunks_mut::<FLOATS>();
    for (target, source) in target.iter_mut().zip(source.iter().step_by(stride)) {
        *target = *source;
    }
}
