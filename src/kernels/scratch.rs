//! Large buffers that are used again, so that a layer does not wait for fresh pages.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Buffers nobody uses at the moment, the one longest unused first.
static SPARE: Mutex<Vec<Buffer>> = Mutex::new(Vec::new());

/// How many floats the spare buffers hold together at most: what a training step of a base with all blocks trainable
/// keeps of some twenty pictures.
const MOST_SPARE: usize = 256 << 20;

/// A buffer more than this many times as long as needed is left for those who need it.
const MOST_SLACK: usize = 2;

/// Floats from which a buffer is worth large pages.
#[cfg(target_os = "linux")]
const LARGE: usize = 1 << 19;

/// Floats of a cache line: a vector that lies across two takes twice as long.
const LINE: usize = 16;

/// Floats that begin with a cache line.
#[derive(Debug, Default)]
struct Buffer {
    floats: Vec<f32>,
    /// How many floats come before the first whole line.
    skipped: usize,
}

impl Buffer {
    /// Zeroes, which the system provides page by page as they are touched.
    fn new(length: usize) -> Self {
        let floats = vec![0.0f32; length + LINE - 1];
        let skipped = (floats.as_ptr() as usize / size_of::<f32>()).wrapping_neg() % LINE;
        // Fresh pages cost more than a layer's arithmetic, and addresses on small ones are looked up again and again:
        // large pages are some hundred times fewer.
        #[cfg(target_os = "linux")]
        if length >= LARGE {
            const PAGE: usize = 4096;
            let start = (floats.as_ptr() as usize).next_multiple_of(PAGE);
            let end = (floats.as_ptr() as usize + size_of_val(&floats[..])) / PAGE * PAGE;
            // SAFETY: the range is whole pages within the buffer, and the advice changes nothing in what they hold. If
            // it is not taken, nothing is lost.
            unsafe {
                libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE);
            }
        }
        Self { floats, skipped }
    }

    /// How many floats it has room for.
    fn room(&self) -> usize {
        self.floats.len() - self.skipped
    }
}

/// A buffer with whatever its last user left in it, given back when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    /// As long as it ever was: what was written once need not be cleared to be used again.
    buffer: Buffer,
    length: usize,
}

impl Scratch {
    /// A buffer of this many floats: the smallest spare one that holds them, else a new one.
    pub(super) fn new(length: usize) -> Self {
        // A sanitizer sees who leaves a buffer only if it is as long as was asked for.
        if cfg!(test) {
            let buffer = Buffer::new(length);
            return Self { buffer, length };
        }
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = (0..spare.len())
            .filter(|index| (length..=MOST_SLACK * length + LINE).contains(&spare[*index].room()))
            .min_by_key(|index| spare[*index].room());
        let found = fits.map(|index| spare.remove(index));
        drop(spare);
        let buffer = found.unwrap_or_else(|| Buffer::new(length));
        Self { buffer, length }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push(std::mem::take(&mut self.buffer));
        let mut held: usize = spare.iter().map(Buffer::room).sum();
        while held > MOST_SPARE {
            held -= spare.remove(0).room();
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer.floats[self.buffer.skipped..][..self.length]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer.floats[self.buffer.skipped..][..self.length]
    }
}

thread_local! {
    static OWN: RefCell<Buffer> = RefCell::default();
}

/// Lends this thread's own small buffer, this long, with whatever was left in it.
#[inline(always)]
pub(super) fn with_own<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    OWN.with_borrow_mut(|buffer| {
        if buffer.room() < length || cfg!(test) {
            *buffer = Buffer::new(length);
        }
        work(&mut buffer.floats[buffer.skipped..][..length])
    })
}
