//! The memory that pictures may take while they are decoded: one by one, and all threads together.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The longest side that is decoded, in pixels: what JPEG can hold.
const MAX_SIDE: u32 = 65_535;

/// The default of [`Decoder::budget`](super::Decoder::budget): 512 MiB.
pub(super) const DEFAULT: u64 = 512 << 20;

/// What the pictures of all threads may take together: so many times the budget of one.
const TOGETHER: u64 = 2;

/// Bytes that the pictures being decoded in this process may take at their worst.
static IN_USE: Mutex<u64> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// What one picture may take, its file included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// In bytes.
    pub(super) bytes: u64,
    /// What is taken already.
    pub(super) taken: u64,
    /// The height and width that it is brought to.
    pub(super) target: Option<(u32, u32)>,
}

/// Memory set aside for a picture until this is dropped.
pub(super) struct Held(u64);

impl Budget {
    /// Sets memory aside for a picture of this size whose decoding takes `working` bytes at its worst; waits while
    /// other threads hold too much.
    ///
    /// # Errors
    /// A sentence, when the picture has too long a side, no pixels, or needs more than the budget.
    pub(super) fn hold(&self, height: u32, width: u32, working: u64) -> Result<Held, String> {
        if width == 0 || height == 0 {
            return Err(format!(
                "{height} × {width} pixels: there is nothing to see"
            ));
        }
        if width.max(height) > MAX_SIDE {
            return Err(format!(
                "{height} × {width} pixels are too many: a side may have {MAX_SIDE}"
            ));
        }
        let resizing = match self.target {
            // The result of one pass over the rows or the columns, and that of both.
            Some((to_height, to_width)) => {
                let between = pixels(height, to_width, 3).max(pixels(to_height, width, 3));
                let ends = pixels(height, width, 3).saturating_add(pixels(to_height, to_width, 3));
                ends.saturating_add(between)
            }
            None => 0,
        };
        let need = working.max(resizing).saturating_add(self.taken);
        if need > self.bytes {
            return Err(format!(
                "{height} × {width} pixels are too many: reading them takes {} MiB of memory, and the budget of one \
                 picture is {} MiB",
                need.div_ceil(1 << 20),
                self.bytes >> 20,
            ));
        }
        let mut in_use = lock();
        while *in_use > 0 && *in_use + need > TOGETHER.saturating_mul(self.bytes) {
            in_use = FREED.wait(in_use).unwrap_or_else(PoisonError::into_inner);
        }
        *in_use += need;
        Ok(Held(need))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *lock() -= self.0;
        FREED.notify_all();
    }
}

fn lock() -> MutexGuard<'static, u64> {
    // A number cannot be left half changed.
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes of so many pixels, of so many bytes each.
pub(super) fn pixels(height: u32, width: u32, bytes: u64) -> u64 {
    (u64::from(height) * u64::from(width)).saturating_mul(bytes)
}
