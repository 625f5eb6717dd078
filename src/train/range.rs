//! Ranges that several options share.

use crate::error::{Error, Result};

/// Whether a value is a number from 0 on.
pub(super) fn not_negative(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

/// Refuses a value that is not a number from 0 on.
pub(super) fn check_not_negative(option: &'static str, value: f64) -> Result<()> {
    if not_negative(value) {
        return Ok(());
    }
    Err(Error::option(option, value, "0 or more"))
}

/// Whether a value is a share that is less than the whole.
pub(super) fn below_one(value: f64) -> bool {
    (0.0..1.0).contains(&value)
}
