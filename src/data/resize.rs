//! A picture → one of the wanted size, with Pillow's numbers.

use std::fmt;
use std::iter;
use std::str::FromStr;

use image::RgbImage;

use super::resample::{CUBIC, TRIANGLE, resample_columns, resample_rows};
use crate::error::{Error, Result};

/// How a picture is brought to the wanted size. All give what Pillow 13 gives: nearest and bicubic exactly, bilinear
/// to one grey level, since it keeps the order of passes that Pillow had before.
///
/// ```
/// use headstart::Resize;
///
/// assert_eq!(Resize::default(), Resize::Bilinear);
/// assert_eq!("nearest".parse::<Resize>()?, Resize::Nearest);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// The source pixel at floor((i + ½) · n_in / n_out): the default of Keras's `flow_from_directory`.
    Nearest,
    /// Bilinear, and antialiased when shrinking: every source pixel counts. The default.
    #[default]
    Bilinear,
    /// Bicubic (a = −½), and antialiased when shrinking: what most of timm's weights were trained with.
    Bicubic,
}

impl Resize {
    const ALL: [Self; 3] = [Self::Nearest, Self::Bilinear, Self::Bicubic];

    fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
        }
    }
}

impl fmt::Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Resize {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|how| how.name() == name);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            Error::option("resize", name, names.join(", "))
        })
    }
}

/// Brings a picture to `height` × `width` pixels, stretching it if the proportions differ, as Keras does.
///
/// ```
/// use headstart::{Resize, data::resize};
/// use image::{Rgb, RgbImage};
///
/// let grey = RgbImage::from_pixel(640, 480, Rgb([127, 127, 127]));
/// let small = resize(&grey, 150, 100, Resize::Bilinear);
/// assert_eq!((small.height(), small.width()), (150, 100));
/// assert!(small.pixels().all(|pixel| pixel.0 == [127; 3]));
/// ```
pub fn resize(picture: &RgbImage, height: u32, width: u32, how: Resize) -> RgbImage {
    if (picture.height(), picture.width()) == (height, width) {
        return picture.clone();
    }
    if picture.is_empty() || height == 0 || width == 0 {
        return RgbImage::new(width, height);
    }
    match how {
        Resize::Nearest => nearest(picture, height, width),
        Resize::Bilinear => resize_part(picture, whole(picture), height, width, how),
        Resize::Bicubic => bicubic(picture, height, width),
    }
}

/// The same for a picture that was decoded at a part of its size and covers only so much of its pixels' height and
/// width: its last row and column may be half a pixel, say.
pub(super) fn resize_part(
    picture: &RgbImage,
    extent: (f64, f64),
    height: u32,
    width: u32,
    how: Resize,
) -> RgbImage {
    // Pillow's `resize(…, BILINEAR)` (libImaging/Resample.c) up to version 12: rows first, in fixed point and rounded
    // to bytes after each pass.
    let filter = match how {
        Resize::Bicubic => &CUBIC,
        Resize::Nearest | Resize::Bilinear => &TRIANGLE,
    };
    let rows = resample_rows(picture, extent.1, width, filter);
    resample_columns(&rows, extent.0, height, filter)
}

fn nearest(picture: &RgbImage, height: u32, width: u32) -> RgbImage {
    // Pillow adds the step up instead of multiplying it, and the rounding of that sum decides ties, which one pair
    // of sizes in five has. So do we.
    let sources = |n_in: u32, n_out: u32| -> Vec<u32> {
        let step = f64::from(n_in) / f64::from(n_out);
        iter::successors(Some(step * 0.5), |at| Some(at + step))
            .map(|at| (at as u32).min(n_in - 1))
            .take(n_out as usize)
            .collect()
    };
    let (rows, columns) = (
        sources(picture.height(), height),
        sources(picture.width(), width),
    );
    RgbImage::from_fn(width, height, |x, y| {
        *picture.get_pixel(columns[x as usize], rows[y as usize])
    })
}

/// Pillow's `resize(…, BICUBIC)`, version 13. Overshoots are cut off after each pass, so that the order of the passes
/// shows: columns come first where the height loses over twice as many pixels as the width.
fn bicubic(picture: &RgbImage, height: u32, width: u32) -> RgbImage {
    let (whole_height, whole_width) = whole(picture);
    let lost = |n_in: u32, n_out: u32| i64::from(n_in) - i64::from(n_out);
    let lost_height = lost(picture.height(), height);
    if lost_height > 0 && lost_height > 2 * lost(picture.width(), width) {
        let columns = resample_columns(picture, whole_height, height, &CUBIC);
        resample_rows(&columns, whole_width, width, &CUBIC)
    } else {
        let rows = resample_rows(picture, whole_width, width, &CUBIC);
        resample_columns(&rows, whole_height, height, &CUBIC)
    }
}

/// A whole picture's height and width.
fn whole(picture: &RgbImage) -> (f64, f64) {
    (f64::from(picture.height()), f64::from(picture.width()))
}
