//! The pixels that a tile is made of.

use std::ops::Range;

use super::super::simd::{LANES, Simd};
use super::filtering::Maps;

/// Vectors that do not lie across two cache lines.
#[repr(align(64))]
pub(super) struct Aligned<const FLOATS: usize>(pub(super) [f32; FLOATS]);

/// The most rows or columns of a [`Patch`].
pub(super) const MAX_PIXELS: usize = 9;

/// A row outside of a map.
static ZEROS: Aligned<{ MAX_PIXELS * LANES }> = Aligned([0.0; MAX_PIXELS * LANES]);

/// Some pixels of a plane of maps, of at most so many rows; outside of the map they are 0.
pub(super) struct Patch<const ROWS: usize> {
    /// Where its rows begin.
    rows: [*const f32; ROWS],
    columns: usize,
    /// The columns that the map has.
    there: Range<usize>,
}

impl<const ROWS: usize> Patch<ROWS> {
    /// The pixels from a row and column on, which may be before the first.
    #[inline(always)]
    pub(super) fn new(
        maps: &Maps<'_>,
        (image, block): (usize, usize),
        (top, left): (isize, isize),
        columns: usize,
    ) -> Self {
        const { assert!(ROWS <= MAX_PIXELS) };
        assert!(columns <= MAX_PIXELS);
        let (height, width) = (maps.shape.height as isize, maps.shape.width as isize);
        let plane = maps.plane(image, block);
        Self {
            rows: std::array::from_fn(
                #[inline(always)]
                |row| {
                    let row = top + row as isize;
                    if (0..height).contains(&row) {
                        plane.wrapping_offset((row * width + left) * LANES as isize)
                    } else {
                        ZEROS.0.as_ptr()
                    }
                },
            ),
            columns,
            there: (-left).max(0) as usize..(width - left).max(0) as usize,
        }
    }

    /// Transforms columns of COUNT pixels to WRITTEN values, each of which begins a line of columns in `to`. Returns
    /// the sum of the pixels.
    ///
    /// # Safety
    /// The patch is of a plane that is valid for reading, and `to` is valid for writing the columns of as many lines,
    /// `line` floats apart.
    #[inline(always)]
    pub(super) unsafe fn pass<S: Simd, const COUNT: usize, const WRITTEN: usize>(
        &self,
        simd: S,
        (to, line): (*mut f32, usize),
        transform: impl Fn([S::V; ROWS]) -> [S::V; ROWS],
    ) -> S::V {
        let mut sum = simd.splat(0.0);
        for column in 0..self.columns {
            let mut values = [simd.splat(0.0); ROWS];
            if self.there.contains(&column) {
                for (row, value) in values.iter_mut().enumerate().take(COUNT) {
                    let from = self.rows[row].wrapping_add(column * LANES);
                    // SAFETY: a column that the map has, of one of its rows or of the zeros.
                    *value = unsafe { simd.load(from) };
                    sum = simd.add(sum, *value);
                    // The next tile's.
                    simd.prefetch(from.wrapping_add(self.columns * LANES));
                }
                values = transform(values);
            }
            for (row, value) in values.iter().enumerate().take(WRITTEN) {
                // SAFETY: a line has room for the columns, and there are as many lines.
                unsafe { simd.store(to.add(row * line + column * LANES), *value) };
            }
        }
        sum
    }
}
