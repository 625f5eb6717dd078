//! A picture → one of the wanted size, with Pillow's numbers.

use std::fmt;
use std::iter;
use std::str::FromStr;

use image::RgbImage;

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

/// The same for a picture that was decoded at a part of its size and covers only so much of its pixels' height and width:
/// its last row and column may be half a pixel, say.
pub(super) fn resize_part(
    picture: &RgbImage,
    extent: (f64, f64),
    height: u32,
    width: u32,
    how: Resize,
) -> RgbImage {
    // Pillow's `resize(…, BILINEAR)` (libImaging/Resample.c) up to version 12: rows first, in fixed point and rounded to
    // bytes after each pass.
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

/// What one output pixel takes from the pixels around it.
struct Filter {
    /// How far it reaches, in pixels of the output when shrinking and of the input when enlarging.
    support: f64,
    /// The weight of a pixel at a distance, before the weights are scaled to a sum of 1.
    weight: fn(f64) -> f64,
}

/// Bilinear.
const TRIANGLE: Filter = Filter {
    support: 1.0,
    weight: |distance| (1.0 - distance.abs()).max(0.0),
};

/// Bicubic: Keys's cubic convolution with a = −½ (Keys, "Cubic Convolution Interpolation for Digital Image
/// Processing", 1981).
const CUBIC: Filter = Filter {
    support: 2.0,
    weight: |distance| {
        const A: f64 = -0.5;
        let x = distance.abs();
        if x < 1.0 {
            ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
        } else if x < 2.0 {
            (((x - 5.0) * x + 8.0) * x - 4.0) * A
        } else {
            0.0
        }
    },
};

/// The source pixels that one output pixel is made of: the first one, and the weight of each.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

/// The windows of `n_out` pixels over `extent` of `n_in`.
fn windows(n_in: u32, extent: f64, n_out: u32, filter: &Filter) -> Vec<Window> {
    let scale = extent / f64::from(n_out);
    // Shrinking widens the filter: that is the antialiasing.
    let stretch = scale.max(1.0);
    let (reach, shrink) = (filter.support * stretch, 1.0 / stretch);
    (0..n_out)
        .map(|out| {
            let centre = (f64::from(out) + 0.5) * scale;
            // `as` rounds towards zero, and negative values up to zero.
            let start = (centre - reach + 0.5) as u32;
            let end = ((centre + reach + 0.5) as u32).min(n_in);
            let weights: Vec<f64> = (start..end)
                .map(|at| (filter.weight)((f64::from(at) - centre + 0.5) * shrink))
                .collect();
            let sum: f64 = weights.iter().sum();
            Window {
                start: start as usize,
                weights: weights
                    .iter()
                    .map(|weight| to_fixed(weight / sum))
                    .collect(),
            }
        })
        .collect()
}

/// The binary places of a fixed-point weight. Sums stay within i32: the absolute weights of a window add up to less
/// than 2, and 2 · 255 · 2²² < 2³¹.
const PRECISION: u32 = 22;

/// Rounds half away from zero.
fn to_fixed(weight: f64) -> i32 {
    (weight * f64::from(1 << PRECISION)).round() as i32
}

/// Half of the last place, so that cutting off rounds.
const HALF: i32 = 1 << (PRECISION - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn resample_rows(picture: &RgbImage, extent: f64, width: u32, filter: &Filter) -> RgbImage {
    if extent == f64::from(width) && picture.width() == width {
        return picture.clone();
    }
    let windows = windows(picture.width(), extent, width, filter);
    let mut out = RgbImage::new(width, picture.height());
    let in_rows = picture.as_raw().chunks_exact(3 * picture.width() as usize);
    let out_rows = out.chunks_exact_mut(3 * width as usize);
    for (from, to) in in_rows.zip(out_rows) {
        for (window, pixel) in windows.iter().zip(to.chunks_exact_mut(3)) {
            let mut sum = [HALF; 3];
            let source = from[3 * window.start..].chunks_exact(3);
            for (weight, rgb) in window.weights.iter().zip(source) {
                for c in 0..3 {
                    sum[c] += weight * i32::from(rgb[c]);
                }
            }
            pixel.copy_from_slice(&sum.map(to_byte));
        }
    }
    out
}

fn resample_columns(picture: &RgbImage, extent: f64, height: u32, filter: &Filter) -> RgbImage {
    if extent == f64::from(height) && picture.height() == height {
        return picture.clone();
    }
    let row_len = 3 * picture.width() as usize;
    let mut out = RgbImage::new(picture.width(), height);
    let mut sum = vec![HALF; row_len];
    let windows = windows(picture.height(), extent, height, filter);
    for (window, to) in windows.iter().zip(out.chunks_exact_mut(row_len)) {
        sum.fill(HALF);
        let rows = picture.as_raw()[window.start * row_len..].chunks_exact(row_len);
        for (weight, row) in window.weights.iter().zip(rows) {
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += weight * i32::from(*value);
            }
        }
        for (to, sum) in to.iter_mut().zip(&sum) {
            *to = to_byte(*sum);
        }
    }
    out
}
