//! Random variations of a picture: what they are drawn from, and how they are applied.

mod levels;
mod params;
mod preview;
mod warp;

use std::ops::RangeInclusive;

use image::{Rgb32FImage, RgbImage, imageops};
use rand::{Rng, RngExt};

pub use self::params::AugmentParams;
pub use self::warp::FillMode;

use self::warp::Affine;
use crate::error::{Error, Result};

/// Draws random variations of pictures, with the abilities of Keras's `ImageDataGenerator`.
///
/// A fresh augmenter changes nothing; each setter enables one variation. Rotation, shift, shear and zoom are one
/// affine warp with one bilinear resampling; then come channel shift, flips and brightness. Sampling parameters
/// and applying them are two steps, so that the second is a pure function.
///
/// Keras 3 swaps height and width in the shifts and in the centre of the warp, and its `wrap` has a period of one
/// pixel less. Here both are right, and [`keras_compat`](Self::keras_compat) reproduces Keras. With square pictures
/// and equal shifts the two draw from the same distribution.
///
/// ```
/// use headstart::Augmenter;
/// use headstart::data::AugmentParams;
/// use image::RgbImage;
///
/// let augmenter = Augmenter::new().rotation(40.0).shift(0.2, 0.2).zoom(0.2).horizontal_flip(true);
/// let picture = RgbImage::new(64, 48);
/// let sheet = augmenter.preview(&picture, 6, 1)?;
/// assert_eq!(sheet.dimensions(), (3 * 64 + 2 * 2, 2 * 48 + 2));
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Augmenter {
    rotation: f64,
    width_shift: f64,
    height_shift: f64,
    shear: f64,
    zoom: (f64, f64),
    horizontal_flip: bool,
    vertical_flip: bool,
    channel_shift: f64,
    brightness: Option<(f64, f64)>,
    fill_mode: FillMode,
    keras_compat: bool,
}

impl Default for Augmenter {
    fn default() -> Self {
        Self {
            rotation: 0.0,
            width_shift: 0.0,
            height_shift: 0.0,
            shear: 0.0,
            zoom: (1.0, 1.0),
            horizontal_flip: false,
            vertical_flip: false,
            channel_shift: 0.0,
            brightness: None,
            fill_mode: FillMode::default(),
            keras_compat: false,
        }
    }
}

impl Augmenter {
    /// An augmenter that changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Heavy augmentation, that of the Keras notebook which this crate began as ("Coming from Keras" in the README):
    /// rotation ±40°, shifts of a fifth, shear ±0.2°, zoom 0.8 to 1.2, mirrored half of the time, the nearest pixel
    /// outside. (The shear was meant in radians, as older Keras had it; Keras 3 and this crate take degrees.)
    pub fn notebook() -> Self {
        Self::new()
            .rotation(40.0)
            .shift(0.2, 0.2)
            .shear(0.2)
            .zoom(0.2)
            .horizontal_flip(true)
    }

    /// Rotates by up to this many degrees either way, at most 180.
    pub fn rotation(mut self, degrees: f64) -> Self {
        self.rotation = degrees;
        self
    }

    /// Shifts by up to these fractions, at most 1, of the height (up and down) and of the width (sideways).
    pub fn shift(mut self, height: f64, width: f64) -> Self {
        self.height_shift = height;
        self.width_shift = width;
        self
    }

    /// Shears by up to this many degrees either way, below 90.
    pub fn shear(mut self, degrees: f64) -> Self {
        self.shear = degrees;
        self
    }

    /// Zooms each axis by a factor of its own from 1 − `amount` to 1 + `amount`; `amount` is below 1. A factor
    /// is source pixels per output pixel: below 1 magnifies.
    pub fn zoom(self, amount: f64) -> Self {
        self.zoom_range(1.0 - amount..=1.0 + amount)
    }

    /// Zooms each axis by a factor of its own from a range within 0.01 to 100.
    pub fn zoom_range(mut self, factors: RangeInclusive<f64>) -> Self {
        self.zoom = (*factors.start(), *factors.end());
        self
    }

    /// Mirrors half of the pictures.
    pub fn horizontal_flip(mut self, enabled: bool) -> Self {
        self.horizontal_flip = enabled;
        self
    }

    /// Turns half of the pictures upside down, mirrored.
    pub fn vertical_flip(mut self, enabled: bool) -> Self {
        self.vertical_flip = enabled;
        self
    }

    /// Adds up to this many grey levels, at most 255, either way to all channels alike, clipped to the
    /// picture's own range.
    pub fn channel_shift(mut self, levels: f64) -> Self {
        self.channel_shift = levels;
        self
    }

    /// Multiplies the grey levels by a factor from a range within 0 to 255; levels become whole numbers, as in
    /// Keras.
    pub fn brightness(mut self, factors: RangeInclusive<f64>) -> Self {
        self.brightness = Some((*factors.start(), *factors.end()));
        self
    }

    /// What is read outside the picture. Default: [`FillMode::Nearest`].
    pub fn fill_mode(mut self, mode: FillMode) -> Self {
        self.fill_mode = mode;
        self
    }

    /// Swaps height and width in shifts and centre, and takes one pixel from the period of `wrap`, as Keras 3 does.
    /// Off by default.
    pub fn keras_compat(mut self, enabled: bool) -> Self {
        self.keras_compat = enabled;
        self
    }

    /// Checks every option.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an option out of its range.
    pub fn check(&self) -> Result<()> {
        let within = |option, value: f64, most: f64, allowed: &str| {
            if (0.0..=most).contains(&value) {
                Ok(())
            } else {
                Err(Error::option(option, value, allowed))
            }
        };
        let share_of_height = "0 to 1, a fraction of the height";
        let share_of_width = "0 to 1, a fraction of the width";
        within("rotation", self.rotation, 180.0, "0 to 180 degrees")?;
        within("shift height", self.height_shift, 1.0, share_of_height)?;
        within("shift width", self.width_shift, 1.0, share_of_width)?;
        within("shear", self.shear, 89.0, "0 to 89 degrees")?;
        let levels = "0 to 255 grey levels";
        within("channel_shift", self.channel_shift, 255.0, levels)?;
        let range = |option, (low, high): (f64, f64), least: f64, most: f64, allowed: &str| {
            if least <= low && low <= high && high <= most {
                Ok(())
            } else {
                Err(Error::option(option, format!("{low}..={high}"), allowed))
            }
        };
        let factors = "a range of factors within 0.01 to 100";
        range("zoom", self.zoom, 0.01, 100.0, factors)?;
        if let Some(brightness) = self.brightness {
            let factors = "a range of factors within 0 to 255";
            range("brightness", brightness, 0.0, 255.0, factors)?;
        }
        if let FillMode::Constant(level) = self.fill_mode {
            within("fill_mode", level.into(), 255.0, "a grey level, 0 to 255")?;
        }
        Ok(())
    }

    /// Draws one variation for a picture of `height` × `width` pixels, in Keras's order: rotation, height shift,
    /// width shift, shear, zoom x and y, horizontal and vertical flip, channel shift, brightness. What is not
    /// enabled is not drawn, except the flips, which always are.
    pub fn sample(&self, height: usize, width: usize, rng: &mut impl Rng) -> AugmentParams {
        let mut params = AugmentParams::default();
        if self.rotation > 0.0 {
            params.rotation = uniform(-self.rotation, self.rotation, rng);
        }
        if self.height_shift > 0.0 {
            params.height_shift =
                uniform(-self.height_shift, self.height_shift, rng) * height as f64;
        }
        if self.width_shift > 0.0 {
            params.width_shift = uniform(-self.width_shift, self.width_shift, rng) * width as f64;
        }
        if self.shear > 0.0 {
            params.shear = uniform(-self.shear, self.shear, rng);
        }
        let (low, high) = self.zoom;
        if (low, high) != (1.0, 1.0) {
            params.zoom_x = uniform(low, high, rng);
            params.zoom_y = uniform(low, high, rng);
        }
        params.flip_horizontal = (rng.random::<f64>() < 0.5) & self.horizontal_flip;
        params.flip_vertical = (rng.random::<f64>() < 0.5) & self.vertical_flip;
        if self.channel_shift > 0.0 {
            params.channel_shift = Some(uniform(-self.channel_shift, self.channel_shift, rng));
        }
        if let Some((low, high)) = self.brightness {
            params.brightness = Some(uniform(low, high, rng));
        }
        params
    }

    /// Applies one variation to a picture of grey levels in [0, 255]: affine warp, channel shift, horizontal
    /// flip, vertical flip, brightness. Only the fill mode and `keras_compat` of the augmenter matter.
    ///
    /// Any numbers will do, in range or not: a warp by what is not finite leaves the picture where it is, and grey
    /// levels that were finite stay finite.
    pub fn apply(&self, picture: &Rgb32FImage, params: &AugmentParams) -> Rgb32FImage {
        let (width, height) = picture.dimensions();
        let warp = Affine::new(params, height as usize, width as usize, self.keras_compat);
        let mut varied = match warp {
            Some(warp) => warp.apply(picture, self.fill_mode, self.keras_compat),
            None => picture.clone(),
        };
        if let Some(shift) = params.channel_shift {
            levels::shift_channels(&mut varied, shift as f32);
        }
        if params.flip_horizontal {
            imageops::flip_horizontal_in_place(&mut varied);
        }
        if params.flip_vertical {
            imageops::flip_vertical_in_place(&mut varied);
        }
        if let Some(factor) = params.brightness {
            levels::brighten(&mut varied, factor as f32);
        }
        varied
    }
}

/// 8-bit pixels as f32 grey levels in [0, 255].
pub(super) fn grey_levels(picture: &RgbImage) -> Rgb32FImage {
    let (width, height) = picture.dimensions();
    let levels = picture.iter().map(|level| f32::from(*level)).collect();
    Rgb32FImage::from_raw(width, height, levels).expect("as many levels as the picture has")
}

fn uniform(low: f64, high: f64, rng: &mut impl Rng) -> f64 {
    low + (high - low) * rng.random::<f64>()
}
