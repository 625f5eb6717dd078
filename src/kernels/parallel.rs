//! Work items over rayon's current pool, each writing to its own part of a shared buffer.

use std::ops::Range;

use rayon::prelude::*;

/// A pointer that may cross threads: whoever dereferences it answers for who writes where.
#[derive(Clone, Copy)]
pub(super) struct Shared(*mut f32);

// SAFETY: a pointer by itself does nothing. Every dereference is in an `unsafe` block that says why no two items
// of one parallel loop touch the same float.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn new(buffer: &mut [f32]) -> Self {
        Self(buffer.as_mut_ptr())
    }

    /// The address `offset` floats on.
    ///
    /// # Safety
    /// `offset` is within the buffer.
    #[inline(always)]
    pub(super) unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's.
        unsafe { self.0.add(offset) }
    }
}

/// Runs `work` for every item; no fewer than `together` consecutive ones go to one thread. Which thread runs an
/// item changes nothing in what it computes.
pub(super) fn for_each(items: usize, together: usize, work: impl Fn(usize) + Send + Sync) {
    if items <= together {
        (0..items).for_each(work);
    } else {
        (0..items)
            .into_par_iter()
            .with_min_len(together)
            .for_each(work);
    }
}

/// One of several even parts of a range.
#[inline(always)]
pub(super) fn part(range: &Range<usize>, index: usize, parts: usize) -> Range<usize> {
    let bound = |index: usize| range.start + index * range.len() / parts;
    bound(index)..bound(index + 1)
}
