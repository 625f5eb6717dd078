//! Work items over rayon's current pool, each writing to its own part of a shared buffer.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::simd::Simd;
use super::team;

/// A buffer that several threads write to, each to its own floats: whoever dereferences an address answers for that.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    buffer: PhantomData<&'a mut [f32]>,
}

// SAFETY: an address by itself does nothing. Every dereference is in an `unsafe` block that says why no two items of
// one parallel loop touch the same float.
unsafe impl Send for Shared<'_> {}
// SAFETY: as for `Send`: whatever threads do with copies, they do it through such blocks.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(super) fn new(buffer: &'a mut [f32]) -> Self {
        Self {
            start: buffer.as_mut_ptr(),
            len: buffer.len(),
            buffer: PhantomData,
        }
    }

    /// The address `offset` floats on. Debug builds check that it is within the buffer.
    ///
    /// # Safety
    /// `offset` is less than the buffer's length.
    #[inline(always)]
    pub(super) unsafe fn at(self, offset: usize) -> *mut f32 {
        debug_assert!(offset < self.len, "{offset} of {}", self.len);
        // SAFETY: the offset is within the buffer, as the caller says, and the buffer is borrowed for 'a.
        unsafe { self.start.add(offset) }
    }

    /// Asks for what is `offset` floats on.
    #[inline(always)]
    pub(super) fn prefetch<S: Simd>(self, simd: S, offset: usize) {
        simd.prefetch(self.start.wrapping_add(offset));
    }

    /// `len` floats from `offset` on, for several threads as well.
    pub(super) fn part(self, offset: usize, len: usize) -> Self {
        assert!(offset <= self.len && len <= self.len - offset);
        Self {
            start: self.start.wrapping_add(offset),
            len,
            buffer: PhantomData,
        }
    }

    /// `len` floats from `offset` on, for the caller alone.
    ///
    /// # Safety
    /// Nobody else reads or writes these floats while the slice is there.
    #[inline(always)]
    pub(super) unsafe fn slice(self, offset: usize, len: usize) -> &'a mut [f32] {
        let part = self.part(offset, len);
        // SAFETY: the floats are within the buffer, and the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(part.start, part.len) }
    }
}

/// Runs `work` for every item. Which thread runs an item changes nothing in what it computes.
pub(super) fn for_each(items: usize, work: impl Fn(usize) + Send + Sync) {
    if items <= 1 {
        (0..items).for_each(work);
    } else if !team::for_each(items, &work) {
        (0..items).into_par_iter().for_each(work);
    }
}

/// Runs `work` for every piece of `len` floats of a buffer, the last of which may be shorter, and where it begins.
pub(super) fn for_each_chunk(
    buffer: &mut [f32],
    len: usize,
    work: impl Fn(usize, &mut [f32]) + Send + Sync,
) {
    let (all, len) = (buffer.len(), len.max(1));
    let buffer = Shared::new(buffer);
    for_each(all.div_ceil(len), |chunk| {
        let start = chunk * len;
        // SAFETY: each item's piece is its own.
        work(start, unsafe { buffer.slice(start, len.min(all - start)) });
    });
}

/// One of several even parts of a range.
#[inline(always)]
pub(super) fn part(range: &Range<usize>, index: usize, parts: usize) -> Range<usize> {
    let bound = |index: usize| range.start + index * range.len() / parts;
    bound(index)..bound(index + 1)
}
