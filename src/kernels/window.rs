//! Windows that slide over maps, and what of each lies on the map.

use std::ops::Range;

use super::shape::Shape;

/// Rows and columns of zeros around a map. Opposite sides may differ, as TensorFlow's "same" has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Padding {
    pub(crate) top: usize,
    pub(crate) bottom: usize,
    pub(crate) left: usize,
    pub(crate) right: usize,
}

impl Padding {
    /// The same on all four sides.
    pub(crate) const fn even(size: usize) -> Self {
        Self {
            top: size,
            bottom: size,
            left: size,
            right: size,
        }
    }
}

/// A square window, how far it goes each step, and the rows and columns around the map that it also visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Window {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: Padding,
}

impl Window {
    /// The 3×3 convolution that keeps a map's size: what Winograd's methods do.
    pub(super) const SAME_3X3: Self = Self {
        kernel: 3,
        stride: 1,
        padding: Padding::even(1),
    };

    /// The pool that leaves half of the rows and columns.
    pub(super) const HALVING: Self = Self {
        kernel: 2,
        stride: 2,
        padding: Padding::even(0),
    };

    /// One pixel, at every place.
    pub(super) const POINTWISE: Self = Self {
        kernel: 1,
        stride: 1,
        padding: Padding::even(0),
    };

    /// The maps with a pixel for each place of the window.
    ///
    /// # Panics
    /// If the window has no size or step, or is larger than the padded map.
    pub(super) fn output(self, shape: Shape) -> Shape {
        let Self {
            kernel,
            stride,
            padding,
        } = self;
        let height = shape.height + padding.top + padding.bottom;
        let width = shape.width + padding.left + padding.right;
        assert!(
            kernel > 0 && stride > 0 && height >= kernel && width >= kernel,
            "{self:?} over {shape:?}"
        );
        Shape {
            height: (height - kernel) / stride + 1,
            width: (width - kernel) / stride + 1,
            ..shape
        }
    }

    /// Whether it is 3×3 and goes two steps at a time: what [`Strided`](super::winograd::Strided) tiles are for.
    pub(super) fn is_strided_3x3(self) -> bool {
        (self.kernel, self.stride) == (3, 2)
    }

    pub(super) fn taps(self) -> usize {
        self.kernel * self.kernel
    }

    /// How the rows of `output` read those of a map `height` high.
    #[inline(always)]
    pub(super) fn rows(self, height: usize, output: Shape) -> Line {
        self.line(self.padding.top, height, output.height)
    }

    /// How the columns of `output` read those of a map `width` wide.
    #[inline(always)]
    pub(super) fn columns(self, width: usize, output: Shape) -> Line {
        self.line(self.padding.left, width, output.width)
    }

    #[inline(always)]
    fn line(self, before: usize, size: usize, outputs: usize) -> Line {
        Line {
            start: -(before as isize),
            step: self.stride as isize,
            tap_step: 1,
            taps: self.kernel,
            size,
            outputs,
        }
    }
}

/// Outputs side by side, each a sum over taps: tap t of output i reads the number at `start + i · step + t · tap_step`
/// of a line, or nothing if that is outside of its `size`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) start: isize,
    /// More than 0.
    pub(super) step: isize,
    /// 1 or −1.
    pub(super) tap_step: isize,
    pub(super) taps: usize,
    pub(super) size: usize,
    pub(super) outputs: usize,
}

impl Line {
    /// What a tap of an output reads, if that is inside.
    #[inline(always)]
    pub(super) fn place(&self, output: usize, tap: usize) -> isize {
        self.start + output as isize * self.step + tap as isize * self.tap_step
    }

    /// The taps of an output that are inside.
    #[inline(always)]
    pub(super) fn inside(&self, output: usize) -> Range<usize> {
        let (place, size, taps) = (
            self.place(output, 0),
            self.size as isize,
            self.taps as isize,
        );
        let (start, end) = if self.tap_step > 0 {
            (-place, size - place)
        } else {
            (place - size + 1, place + 1)
        };
        let end = end.clamp(0, taps);
        start.clamp(0, end) as usize..end as usize
    }

    /// The outputs of which so many taps from `tap` on are all inside.
    #[inline(always)]
    pub(super) fn whole(&self, tap: usize, taps: usize) -> Range<usize> {
        let (first, last) = (self.place(0, tap), self.place(0, tap + taps - 1));
        let (low, high) = (first.min(last), first.max(last));
        // 0 ≤ low + i · step and high + i · step < size.
        let start = ceil(-low, self.step);
        let end = ceil(self.size as isize - high, self.step).min(self.outputs);
        start.min(end)..end
    }
}

/// ⌈a / b⌉, 0 if it is less.
#[inline(always)]
fn ceil(a: isize, b: isize) -> usize {
    (a.max(0) as usize).div_ceil(b as usize)
}
