//! How large a number from an option or a file may be: checked here, before anything is allocated.

use std::ops::RangeInclusive;

use crate::error::{Error, Result};

/// The longest side, in pixels, that pictures are resized to.
pub(crate) const SIDE: usize = 8192;
/// The most pixels that they are resized to: 4096 × 4096.
pub(crate) const PIXELS: usize = 1 << 24;
/// The most classes of a head.
pub(crate) const CLASSES: usize = 50_000;
/// The most units of a hidden layer.
pub(crate) const UNITS: usize = 1 << 16;
/// The most layers of a head.
pub(crate) const LAYERS: usize = 64;
/// The most numbers of a head's dense layer: 2 GiB in f32.
pub(crate) const DENSE: usize = 1 << 29;
/// The most rows, or columns, of a layer's window, from one window to the next, and around a map.
pub(crate) const WINDOW: usize = 256;
/// The most pictures of a batch.
pub(crate) const BATCH: usize = 1 << 16;
/// The most numbers of a batch: 16 GiB in f32.
pub(crate) const BATCH_NUMBERS: usize = 1 << 32;
/// The most fixed variations of each picture.
pub(crate) const VIEWS: usize = 1000;
/// The most epochs, steps and files that an option counts.
pub(crate) const COUNT: usize = 1_000_000;
/// The most steps of a warmup.
pub(crate) const STEPS: usize = u32::MAX as usize;
/// The most phases of a run.
pub(crate) const PHASES: usize = 1000;
/// The most pictures of a contact sheet, and its most pixels.
pub(crate) const SHEET: usize = 10_000;
pub(crate) const SHEET_PIXELS: usize = 1 << 27;
/// The longest header of a safetensors file, in bytes; ours have a few kB.
pub(crate) const HEADER: u64 = 16 << 20;
/// The longest file of tensors, in bytes.
pub(crate) const FILE: u64 = 16 << 30;

/// Refuses a value outside its range.
pub(crate) fn within(
    option: &'static str,
    value: usize,
    range: RangeInclusive<usize>,
) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    let allowed = format!("{} to {}", range.start(), range.end());
    Err(Error::option(option, value, allowed))
}

/// The product of some factors, if it is at most so much; `what` is counted.
pub(crate) fn product(
    option: &'static str,
    factors: &[usize],
    most: usize,
    what: &str,
) -> Result<usize> {
    let product = factors
        .iter()
        .try_fold(1usize, |product, factor| product.checked_mul(*factor));
    product.filter(|product| *product <= most).ok_or_else(|| {
        let factors: Vec<_> = factors.iter().map(usize::to_string).collect();
        let found = format!("{} {what}", factors.join(" × "));
        Error::option(option, found, format!("at most {most} {what}"))
    })
}

/// Refuses a size of pictures that is too large for any base.
pub(crate) fn input_size(height: usize, width: usize) -> Result<()> {
    if height.max(width) <= SIDE && height.checked_mul(width).is_some_and(|all| all <= PIXELS) {
        return Ok(());
    }
    let allowed = format!("sides of up to {SIDE} pixels, and {PIXELS} pixels in all");
    Err(Error::option(
        "input_size",
        format!("{height}×{width}"),
        allowed,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_that_do_not_fit_are_refused_not_wrapped() {
        assert_eq!(product("a", &[3, 5], 15, "numbers").unwrap(), 15);
        for factors in [&[usize::MAX, 2][..], &[1 << 33, 1 << 33, 1 << 33], &[4, 4]] {
            let error = product("hidden", factors, 15, "numbers").unwrap_err();
            assert!(error.to_string().contains("`hidden`"), "{error}");
        }
        assert!(input_size(4096, 4096).is_ok() && input_size(8192, 2048).is_ok());
        for (height, width) in [(20_000, 20_000), (8193, 1), (8192, 8192), (usize::MAX, 2)] {
            assert!(input_size(height, width).is_err(), "{height}×{width}");
        }
    }
}
