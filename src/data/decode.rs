//! A picture file → RGB pixels of the wanted size.

use std::{
    io::{self, Cursor},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use image::{
    DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage,
    metadata::Orientation,
};

use crate::{Error, Result};

/// The longest side decoded, in pixels.
const MAX_SIDE: u32 = 32_768;

/// The most memory a decoded picture, or its file, may take: 512 MiB, or 179 million RGB pixels, where
/// Pillow draws the line too.
const MAX_BYTES: u64 = 512 << 20;

/// How a picture is brought to the wanted size. Both give what Pillow gives: nearest exactly, bilinear to one
/// grey level, since Pillow 13 takes the columns before the rows in some cases.
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
}

impl std::fmt::Display for Resize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nearest => "nearest",
            Self::Bilinear => "bilinear",
        })
    }
}

impl std::str::FromStr for Resize {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "nearest" => Ok(Self::Nearest),
            "bilinear" => Ok(Self::Bilinear),
            other => Err(Error::option("resize", other, "nearest or bilinear")),
        }
    }
}

/// Decodes a JPEG, PNG, WebP, BMP, GIF or TIFF file, told apart by content, not by name.
///
/// The picture stands as its EXIF orientation says. Grey, palette, CMYK and 16-bit pictures become 8-bit
/// RGB ([`to_rgb`]); of an animation, the first frame counts.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read; [`Error::Picture`] when it is no picture, is damaged or cut
/// short, has a side over 32,768 pixels or needs over 512 MiB.
///
/// ```no_run
/// let picture = headstart::data::decode_file("photo.jpg")?;
/// println!("{} × {}", picture.width(), picture.height());
/// # Ok::<(), headstart::Error>(())
/// ```
pub fn decode_file(path: impl AsRef<Path>) -> Result<RgbImage> {
    let path = path.as_ref();
    // Reading a pipe could wait forever.
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(unusable(path, "not a file"));
    }
    decode_named(path, metadata.len(), || std::fs::read(path))
}

/// Decodes a file of `len` bytes that errors call `path`.
pub(super) fn decode_named(
    path: &Path,
    len: u64,
    read: impl FnOnce() -> io::Result<Vec<u8>>,
) -> Result<RgbImage> {
    // A huge file could fill the memory.
    if len > MAX_BYTES {
        return Err(unusable(path, "the file is larger than 512 MiB"));
    }
    let bytes = read().map_err(Error::io(path))?;
    decode(&bytes).map_err(|reason| unusable(path, reason))
}

fn unusable(path: &Path, reason: impl Into<String>) -> Error {
    Error::Picture {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// Decodes a picture in memory, as [`decode_file`] does; errors call it `<bytes>`.
///
/// # Errors
/// [`Error::Picture`], as for [`decode_file`].
///
/// ```
/// let error = headstart::data::decode_bytes(b"not a picture").unwrap_err();
/// assert!(error.to_string().starts_with("picture <bytes>: "));
/// ```
pub fn decode_bytes(bytes: &[u8]) -> Result<RgbImage> {
    decode(bytes).map_err(|reason| unusable(Path::new("<bytes>"), reason))
}

fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    // A decoder's bug on one odd file must not end a night of training.
    catch_unwind(AssertUnwindSafe(|| decode_any_format(bytes)))
        .unwrap_or_else(|_| Err("the decoder panicked".into()))
}

fn decode_any_format(bytes: &[u8]) -> Result<RgbImage, String> {
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| error.to_string())?;
    // The JPEG decoder fills what is missing with grey.
    if reader.format() == Some(ImageFormat::Jpeg) && !jpeg_is_whole(bytes) {
        return Err("the JPEG data is cut short".into());
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);

    let mut decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions();
    // Said here as well: not every decoder heeds the limits.
    if width.max(height) > MAX_SIDE || decoder.total_bytes() > MAX_BYTES {
        return Err(format!(
            "{width} × {height} pixels are too many: a side may have {MAX_SIDE}, a picture 512 MiB"
        ));
    }
    if width == 0 || height == 0 {
        return Err(format!("{width} × {height} pixels: nothing to see"));
    }
    // Damaged metadata does not spoil the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    picture.apply_orientation(orientation);
    Ok(to_rgb(picture))
}

/// Whether a JPEG file reaches its end-of-image marker: walks the segments (so that an embedded thumbnail's
/// marker does not count) and the entropy-coded data between them (ITU-T T.81, annex B).
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const END_OF_IMAGE: u8 = 0xd9;
    let mut at = 0;
    while let Some(&[first, marker]) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        at += match (first, marker) {
            (0xff, END_OF_IMAGE) => return true,
            (0xff, 0xff) => 1,
            // A stuffed zero, TEM, restart and start-of-image markers stand alone.
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => 2,
            (0xff, _) => match bytes.get(at + 2..at + 4) {
                Some(length) => 2 + usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
            _ => 1,
        };
    }
    false
}

/// Turns any decoded picture into 8-bit RGB: transparency shows white, 16-bit values are scaled to
/// round(v / 257).
pub fn to_rgb(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let rgba = picture.into_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let [r, g, b, alpha] = from.0.map(u32::from);
        *to = Rgb([r, g, b].map(|value| {
            let over_white = value * alpha + 255 * (255 - alpha);
            ((over_white + 127) / 255) as u8
        }));
    }
    rgb
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
        Resize::Bilinear => bilinear(picture, height, width),
    }
}

fn nearest(picture: &RgbImage, height: u32, width: u32) -> RgbImage {
    // Pillow adds up the step rather than multiply it, and the rounding of that sum decides ties (one size
    // pair in five has some): so do we.
    let sources = |n_in: u32, n_out: u32| -> Vec<u32> {
        let step = f64::from(n_in) / f64::from(n_out);
        std::iter::successors(Some(step * 0.5), |at| Some(at + step))
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

/// Pillow's `resize(…, BILINEAR)` (libImaging/Resample.c): a triangle filter as wide as the larger of the two
/// pixels, first along the rows, then along the columns, in fixed point and rounded to bytes after each.
fn bilinear(picture: &RgbImage, height: u32, width: u32) -> RgbImage {
    let rows = resample_rows(picture, width);
    resample_columns(&rows, height)
}

/// The binary places of a fixed-point weight.
const PRECISION: u32 = 22;

/// The source pixels that one output pixel is made of: the first one, and the weight of each.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

fn windows(n_in: u32, n_out: u32) -> Vec<Window> {
    let scale = f64::from(n_in) / f64::from(n_out);
    let support = scale.max(1.0);
    (0..n_out)
        .map(|out| {
            let centre = (f64::from(out) + 0.5) * scale;
            // `as` cuts towards zero, and negative values to zero.
            let start = (centre - support + 0.5) as u32;
            let end = ((centre + support + 0.5) as u32).min(n_in);
            let triangle: Vec<f64> = (start..end)
                .map(|at| (f64::from(at) - centre + 0.5) / support)
                .map(|distance| (1.0 - distance.abs()).max(0.0))
                .collect();
            let sum: f64 = triangle.iter().sum();
            let fixed = |weight: f64| (weight / sum * f64::from(1 << PRECISION) + 0.5) as i32;
            Window {
                start: start as usize,
                weights: triangle.into_iter().map(fixed).collect(),
            }
        })
        .collect()
}

/// Half of the last place, so that cutting off rounds.
const HALF: i32 = 1 << (PRECISION - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn resample_rows(picture: &RgbImage, width: u32) -> RgbImage {
    if picture.width() == width {
        return picture.clone();
    }
    let windows = windows(picture.width(), width);
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

fn resample_columns(picture: &RgbImage, height: u32) -> RgbImage {
    if picture.height() == height {
        return picture.clone();
    }
    let row_len = 3 * picture.width() as usize;
    let mut out = RgbImage::new(picture.width(), height);
    let mut sum = vec![HALF; row_len];
    let windows = windows(picture.height(), height);
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
