//! Large buffers that are used again, so that a layer does not wait for fresh pages.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Buffers nobody uses at the moment.
static SPARE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// How many spare buffers are kept.
const MOST_SPARE: usize = 6;

/// A buffer with whatever its last user left in it, given back when dropped.
pub(super) struct Scratch(Vec<f32>);

impl Scratch {
    /// A buffer of this many floats: the smallest spare one that holds them, else a new one.
    pub(super) fn new(length: usize) -> Self {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = (0..spare.len())
            .filter(|index| spare[*index].capacity() >= length)
            .min_by_key(|index| spare[*index].capacity());
        let index = fits.or_else(|| (0..spare.len()).max_by_key(|index| spare[*index].capacity()));
        let mut buffer = index.map_or_else(Vec::new, |index| spare.swap_remove(index));
        drop(spare);
        if buffer.capacity() < length {
            buffer = Vec::new();
        }
        if buffer.len() < length {
            buffer.resize(length, 0.0);
        }
        buffer.truncate(length);
        Self(buffer)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE {
            spare.push(std::mem::take(&mut self.0));
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

thread_local! {
    static OWN: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's own small buffer, at least this long, with whatever was left in it.
#[inline(always)]
pub(super) fn with_own<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    OWN.with_borrow_mut(|buffer| {
        if buffer.len() < length {
            buffer.resize(length, 0.0);
        }
        work(&mut buffer[..length])
    })
}
