//! Large buffers that are used again, so that a layer does not wait for fresh pages.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Buffers nobody uses at the moment.
static SPARE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// How many spare buffers are kept.
const MOST_SPARE: usize = 6;

/// A buffer with whatever its last user left in it, given back when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    /// As long as it ever was: what was written once need not be cleared to be used again.
    buffer: Vec<f32>,
    length: usize,
}

impl Scratch {
    /// A buffer of this many floats: the smallest spare one that holds them, else a new one.
    pub(super) fn new(length: usize) -> Self {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = (0..spare.len())
            .filter(|index| spare[*index].len() >= length)
            .min_by_key(|index| spare[*index].len());
        let largest = || (0..spare.len()).max_by_key(|index| spare[*index].len());
        let mut buffer = match fits.or_else(largest) {
            Some(index) => spare.swap_remove(index),
            None => Vec::new(),
        };
        drop(spare);
        if buffer.len() < length {
            // Zeroed by the system, page by page as it is touched.
            buffer = vec![0.0; length];
        }
        Self { buffer, length }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE {
            spare.push(std::mem::take(&mut self.buffer));
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[..self.length]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.length]
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
