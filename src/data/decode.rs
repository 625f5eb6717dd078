//! Encoded pictures → RGB pixels of one size.

use std::io::Cursor;
use std::path::Path;

use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};

use crate::{Error, Preprocess, Result};

/// The longest side a picture may claim. A header that claims more is damaged or hostile.
const MAX_SIDE: u32 = 32_768;

/// How pictures are brought to the input size; the aspect ratio is not kept.
///
/// ```
/// use headstart::Resize;
///
/// assert_eq!("nearest".parse::<Resize>()?, Resize::Nearest);
/// assert_eq!(Resize::default().to_string(), "bilinear");
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// The nearest pixel, as Keras's `flow_from_directory` does: source index ⌊(i + ½) · from / to⌋.
    Nearest,
    /// Linear interpolation over all the pixels a target pixel covers (antialiased), as Pillow does.
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

/// Decodes a picture file: jpeg, png, webp, bmp, gif or tiff, told by its content. See [`to_rgb`].
///
/// # Errors
/// [`Error::Io`] for a file that cannot be read, [`Error::Picture`] for one that is no picture, is damaged, or
/// claims sides above 32,768 pixels or more than 512 MiB.
pub fn decode_file(path: &Path) -> Result<RgbImage> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    decode(&bytes).map_err(|error| Error::Picture {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Decodes an encoded picture in memory, as [`decode_file`] does; errors name it `<bytes>`.
///
/// # Errors
/// [`Error::Picture`] as for [`decode_file`].
pub fn decode_bytes(bytes: &[u8]) -> Result<RgbImage> {
    decode(bytes).map_err(|error| Error::Picture {
        path: "<bytes>".into(),
        reason: error.to_string(),
    })
}

/// Decodes the first frame and turns it upright as its EXIF orientation says.
fn decode(bytes: &[u8]) -> image::ImageResult<RgbImage> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    limits.reserve(decoder.total_bytes())?;
    decoder.set_limits(limits)?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(to_rgb(picture))
}

/// 8-bit RGB of any picture: grey is repeated, 16 bits are rounded to 8, alpha is laid over white.
pub fn to_rgb(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let rgba = picture.into_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, alpha] = rgba.get_pixel(x, y).0.map(u32::from);
        image::Rgb([r, g, b].map(|level| ((level * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}

/// Brings a picture to (height, width) pixels.
pub fn resize(picture: &RgbImage, height: usize, width: usize, filter: Resize) -> RgbImage {
    let (height, width) = (height as u32, width as u32);
    if picture.dimensions() == (width, height) {
        return picture.clone();
    }
    let filter = match filter {
        Resize::Nearest => FilterType::Nearest,
        Resize::Bilinear => FilterType::Triangle,
    };
    imageops::resize(picture, width, height, filter)
}

/// Interleaved RGB in [0, 255] → preprocessed planes, (3, H, W).
pub(crate) fn planes<T: Copy + Into<f32>>(pixels: &[T], preprocess: Preprocess) -> Vec<f32> {
    let size = pixels.len() / 3;
    let mut planes = vec![0.0; 3 * size];
    for (index, pixel) in pixels.chunks_exact(3).enumerate() {
        let mut rgb = [pixel[0].into(), pixel[1].into(), pixel[2].into()];
        preprocess.apply_pixel(&mut rgb);
        for (channel, level) in rgb.into_iter().enumerate() {
            planes[channel * size + index] = level;
        }
    }
    planes
}
