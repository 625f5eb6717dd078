//! Some rows of a map with a window's zeros around them, and a depthwise convolution of them: every output has all of
//! its taps.

use std::ops::Range;

use super::epilogue::Epilogue;
use super::parallel::Shared;
use super::shape::Shape;
use super::simd::{LANES, Simd};
use super::window::Window;

/// How output rows are cut into strips, and the buffer that holds what one reads: planes of padded rows.
#[derive(Clone, Copy)]
pub(super) struct Strip {
    pub(super) window: Window,
    /// Of the maps that are read.
    from: Shape,
    output: Shape,
    planes: usize,
    /// Output rows of a strip.
    height: usize,
}

impl Strip {
    /// Strips of as many rows as a buffer of about so many bytes holds, evenly cut.
    pub(super) fn new(
        from: Shape,
        window: Window,
        output: Shape,
        planes: usize,
        bytes: usize,
    ) -> Self {
        let mut strip = Self {
            window,
            from,
            output,
            planes,
            height: 1,
        };
        let row_bytes = planes * strip.row_len() * size_of::<f32>();
        let rows = (bytes / row_bytes).saturating_sub(window.kernel) / window.stride + 1;
        let count = output.height.div_ceil(rows);
        strip.height = output.height.div_ceil(count.max(1)).max(1);
        strip
    }

    /// How many strips an image is cut into.
    pub(super) fn count(&self) -> usize {
        self.output.height.div_ceil(self.height)
    }

    /// The output rows of a strip.
    #[inline(always)]
    pub(super) fn rows(&self, index: usize) -> Range<usize> {
        let first = index * self.height;
        first..self.output.height.min(first + self.height)
    }

    /// The rows of the map that a strip reads, and how many rows of zeros come before them.
    #[inline(always)]
    pub(super) fn reads(&self, index: usize) -> (Range<usize>, usize) {
        let (rows, top) = (self.rows(index), self.window.padding.top);
        let (first, end) = (
            rows.start * self.window.stride,
            (rows.end - 1) * self.window.stride + self.window.kernel,
        );
        let within = |row: usize| row.saturating_sub(top).min(self.from.height);
        let start = within(first);
        (
            start..within(end).max(start),
            (start + top).saturating_sub(first),
        )
    }

    /// Padded pixels of a row: those that windows read, and all of the map's.
    fn width(&self) -> usize {
        let read = (self.output.width - 1) * self.window.stride + self.window.kernel;
        read.max(self.window.padding.left + self.from.width)
    }

    /// Floats of a row of the buffer.
    #[inline(always)]
    pub(super) fn row_len(&self) -> usize {
        self.width() * LANES
    }

    /// Rows of the buffer.
    fn buffer_rows(&self) -> usize {
        (self.height - 1) * self.window.stride + self.window.kernel
    }

    /// Floats of a plane of the buffer.
    #[inline(always)]
    pub(super) fn plane_len(&self) -> usize {
        self.buffer_rows() * self.row_len()
    }

    /// Floats of the buffer.
    pub(super) fn len(&self) -> usize {
        self.planes * self.plane_len()
    }

    /// Where the pixels of so many rows stand in a plane, from the first row's beginning on.
    pub(super) fn places(&self, rows: usize) -> Vec<usize> {
        let left = self.window.padding.left;
        let row = |row| {
            (0..self.from.width).map(move |column| (row * self.width() + left + column) * LANES)
        };
        (0..rows).flat_map(row).collect()
    }

    /// Fills a plane of the buffer from a plane of the map.
    #[inline(always)]
    pub(super) fn fill(&self, index: usize, source: &[f32], plane: &mut [f32]) {
        let (rows, above) = self.reads(index);
        let (from, left) = (self.from.width * LANES, self.window.padding.left * LANES);
        for (to, row) in rows.clone().enumerate() {
            let to = &mut plane[(above + to) * self.row_len() + left..][..from];
            to.copy_from_slice(&source[row * from..][..from]);
        }
        self.clear_around(plane, above, rows.len());
    }

    /// Writes zeros around so many rows of the map, which have `above` rows of zeros before them.
    #[inline(always)]
    pub(super) fn clear_around(&self, plane: &mut [f32], above: usize, rows: usize) {
        let row_len = self.row_len();
        let (before, rest) = plane.split_at_mut(above * row_len);
        let (rows, after) = rest.split_at_mut(rows * row_len);
        before.fill(0.0);
        after.fill(0.0);
        let left = self.window.padding.left * LANES;
        let right = left + self.from.width * LANES;
        for row in rows.chunks_exact_mut(row_len) {
            row[..left].fill(0.0);
            row[right..].fill(0.0);
        }
    }
}

/// Convolves a plane of a strip's buffer: where the results go, and by what way.
pub(super) struct Sums<'a, S> {
    pub(super) simd: S,
    pub(super) strip: &'a Strip,
    /// The strip's number.
    pub(super) index: usize,
    pub(super) buffer: &'a [f32],
    /// (tap, channel)
    pub(super) packed: &'a [f32],
    pub(super) epilogue: &'a Epilogue<'a>,
    /// The plane's channel block.
    pub(super) block: usize,
    pub(super) y: Shared<'a>,
    /// Where the output's plane begins.
    pub(super) plane: usize,
}

impl<S: Simd> Sums<'_, S> {
    /// Writes the strip's rows, and returns them.
    ///
    /// # Safety
    /// The rows of `y`'s plane are the caller's alone, and the epilogue was checked for `y` and its channels.
    #[inline(always)]
    pub(super) unsafe fn write(&self) -> &[f32] {
        let (window, output) = (self.strip.window, self.strip.output);
        assert!(self.buffer.len() >= self.strip.plane_len());
        assert_eq!(self.packed.len(), window.taps() * LANES);
        let rows = self.strip.rows(self.index);
        let first = self.plane + rows.start * output.width * LANES;
        // SAFETY: the caller says so.
        let written = unsafe { self.y.slice(first, rows.len() * output.width * LANES) };
        // Numbers known to the compiler spell out the loops over taps.
        // SAFETY: as for this.
        unsafe {
            match (window.kernel, window.stride) {
                (3, 1) => self.rows::<3, 1>(rows.len(), first),
                (3, 2) => self.rows::<3, 2>(rows.len(), first),
                (5, 1) => self.rows::<5, 1>(rows.len(), first),
                (5, 2) => self.rows::<5, 2>(rows.len(), first),
                _ => self.rows::<0, 0>(rows.len(), first),
            }
        }
        self.epilogue.settle(self.simd, written);
        written
    }

    /// So many rows, for a kernel and stride, or any if they are 0, to `first` and on.
    ///
    /// # Safety
    /// As for [`write`](Self::write).
    #[inline(always)]
    unsafe fn rows<const KERNEL: usize, const STRIDE: usize>(&self, rows: usize, first: usize) {
        let width = self.strip.output.width;
        // Seven where they go up evenly, as in the maps of 224 pixels, eight where there are registers for as many.
        let side_by_side = match width {
            _ if S::MR * S::NR_VECTORS < 16 => 4,
            width if !width.is_multiple_of(8) && width.is_multiple_of(7) => 7,
            _ => 8,
        };
        for row in 0..rows {
            let mut column = 0;
            // SAFETY: the pixels of this row.
            unsafe {
                while column < width {
                    let count = side_by_side.min(width - column);
                    let to = first + (row * width + column) * LANES;
                    column += match count {
                        8 => self.pixels::<KERNEL, STRIDE, 8>(row, column, to),
                        7 => self.pixels::<KERNEL, STRIDE, 7>(row, column, to),
                        4..7 => self.pixels::<KERNEL, STRIDE, 4>(row, column, to),
                        2..4 => self.pixels::<KERNEL, STRIDE, 2>(row, column, to),
                        _ => self.pixels::<KERNEL, STRIDE, 1>(row, column, to),
                    };
                }
            }
        }
    }

    /// `P` outputs side by side, which is returned.
    ///
    /// # Safety
    /// As for [`write`](Self::write); the strip has these outputs.
    #[inline(always)]
    unsafe fn pixels<const KERNEL: usize, const STRIDE: usize, const P: usize>(
        &self,
        row: usize,
        column: usize,
        to: usize,
    ) -> usize {
        let (simd, window) = (self.simd, self.strip.window);
        let mut sums = [simd.splat(0.0); P];
        for down in 0..window.kernel {
            let start = (row * window.stride + down) * self.strip.row_len();
            let start = start + column * window.stride * LANES;
            let read = (P - 1) * window.stride + window.kernel;
            debug_assert!(start + read * LANES <= self.buffer.len());
            // SAFETY: the pixels that the windows of a row's outputs read are all in the buffer, and the weights have
            // a row of taps for each of the kernel's.
            unsafe {
                let source = self.buffer.as_ptr().add(start);
                let weights = self.packed.as_ptr().add(down * window.kernel * LANES);
                if KERNEL == 0 {
                    add_row(simd, source, weights, window, &mut sums);
                } else {
                    add_known_row::<S, KERNEL, STRIDE, P>(simd, source, weights, &mut sums);
                }
            }
        }
        for (index, sum) in sums.into_iter().enumerate() {
            let offset = to + index * LANES;
            // SAFETY: the caller says so.
            unsafe {
                let bias = self.epilogue.bias(simd, self.block);
                let value = self.epilogue.finish(simd, sum, bias, offset);
                simd.store(self.y.at(offset), value);
            }
        }
        P
    }
}

/// Adds a row of taps' products.
///
/// # Safety
/// `source` is valid for the pixels that windows of `P` outputs read, `weights` for a row of taps.
#[inline(always)]
unsafe fn add_row<S: Simd, const P: usize>(
    simd: S,
    source: *const f32,
    weights: *const f32,
    window: Window,
    sums: &mut [S::V; P],
) {
    for tap in 0..window.kernel {
        // SAFETY: one of the taps, and what it reads for each output.
        unsafe {
            let weight = simd.load(weights.add(tap * LANES));
            for (pixel, sum) in sums.iter_mut().enumerate() {
                let value = simd.load(source.add((pixel * window.stride + tap) * LANES));
                *sum = simd.mul_add(value, weight, *sum);
            }
        }
    }
}

/// The same, reading each pixel once for all outputs that it is a tap of.
///
/// # Safety
/// As for [`add_row`], for these numbers.
#[inline(always)]
unsafe fn add_known_row<S: Simd, const KERNEL: usize, const STRIDE: usize, const P: usize>(
    simd: S,
    source: *const f32,
    weights: *const f32,
    sums: &mut [S::V; P],
) {
    const { assert!(KERNEL <= 5 && STRIDE <= 2 && P <= 8) };
    let mut taps = [simd.splat(0.0); KERNEL];
    for (tap, weight) in taps.iter_mut().enumerate() {
        // SAFETY: one of the taps.
        *weight = unsafe { simd.load(weights.add(tap * LANES)) };
    }
    // Spelt out, lest sums and taps be indexed in memory.
    macro_rules! pixels {
        ($($pixel:literal)*) => {$(
            if $pixel < (P - 1) * STRIDE + KERNEL {
                // SAFETY: a pixel that the outputs' windows read.
                let value = unsafe { simd.load(source.add($pixel * LANES)) };
                pixels!(of $pixel, value; 0 1 2 3 4);
            }
        )*};
        (of $pixel:literal, $value:ident; $($tap:literal)*) => {$(
            if $tap < KERNEL && $tap <= $pixel && ($pixel - $tap) % STRIDE == 0 && ($pixel - $tap) / STRIDE < P {
                let sum = &mut sums[($pixel - $tap) / STRIDE];
                *sum = simd.mul_add($value, taps[$tap], *sum);
            }
        )*};
    }
    pixels!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18);
}
