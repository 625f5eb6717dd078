//! A look at what an augmenter does.

use image::{Rgb, RgbImage};

use super::{Augmenter, grey_levels};
use crate::bounds;
use crate::error::Result;
use crate::random::{self, Purpose};

/// The gap between the pictures of a contact sheet, in pixels.
const GAP: u32 = 2;

impl Augmenter {
    /// A contact sheet of `count` variations of a picture, up to 10,000 and 2²⁷ pixels in all, in a grid of about as
    /// many columns as rows with white gaps of two pixels.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for an option, or a count, out of its range.
    pub fn preview(&self, picture: &RgbImage, count: usize, seed: u64) -> Result<RgbImage> {
        self.check()?;
        bounds::within("count", count, 1..=bounds::SHEET)?;
        let (width, height) = picture.dimensions();
        let factors = [
            count,
            width as usize + GAP as usize,
            height as usize + GAP as usize,
        ];
        bounds::product("count", &factors, bounds::SHEET_PIXELS, "pixels")?;
        let columns = (count as f64).sqrt().ceil() as u32;
        let rows = (count as u32).div_ceil(columns);
        let white = Rgb([255; 3]);
        let mut sheet = RgbImage::from_pixel(
            columns * (width + GAP) - GAP,
            rows * (height + GAP) - GAP,
            white,
        );
        let levels = grey_levels(picture);
        for index in 0..count as u32 {
            let mut rng = random::stream(seed, Purpose::Augment, 0, index.into());
            let params = self.sample(height as usize, width as usize, &mut rng);
            let varied = self.apply(&levels, &params);
            let (left, top) = (
                index % columns * (width + GAP),
                index / columns * (height + GAP),
            );
            for (x, y, pixel) in varied.enumerate_pixels() {
                let rounded = pixel.0.map(|level| level.round() as u8);
                sheet.put_pixel(left + x, top + y, Rgb(rounded));
            }
        }
        Ok(sheet)
    }
}
