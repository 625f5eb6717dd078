//! A picture file → RGB pixels.

use std::fs;
use std::io::{self, Cursor};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage};

use crate::error::{Cause, Error, Result};

/// The longest side decoded, in pixels.
const MAX_SIDE: u32 = 32_768;

/// The most bytes a decoded picture, or its file, may take: 512 MiB, or 179 million RGB pixels. Pillow refuses
/// more pixels than that too.
const MAX_BYTES: u64 = 512 << 20;

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
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(unusable(path, "not a file"));
    }
    decode_named(path, metadata.len(), || fs::read(path))
}

/// Decodes a file of `len` bytes; errors name it `path`.
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

fn unusable(path: &Path, reason: impl Into<Cause>) -> Error {
    Error::Picture {
        path: path.to_owned(),
        source: reason.into(),
    }
}

/// Decodes a picture in memory, as [`decode_file`] does; errors name it `<bytes>`.
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

/// Refuses an image in memory of a size that no file may have.
pub(super) fn check_size(path: &Path, image: &RgbImage) -> Result<()> {
    let (width, height) = image.dimensions();
    require_size(height, width, image.as_raw().len() as u64)
        .map_err(|reason| unusable(path, reason))
}

fn decode(bytes: &[u8]) -> Result<RgbImage, Cause> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    // A decoder's bug on one odd file must not end a night of training.
    catch_unwind(AssertUnwindSafe(|| decode_any_format(bytes)))
        .unwrap_or_else(|_| Err("the decoder panicked".into()))
}

fn decode_any_format(bytes: &[u8]) -> Result<RgbImage, Cause> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    // The JPEG decoder fills what is missing with grey.
    if reader.format() == Some(ImageFormat::Jpeg) && !jpeg_is_whole(bytes) {
        return Err("the JPEG data is cut short".into());
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);

    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    // Checked here as well: not every decoder heeds the limits.
    require_size(height, width, decoder.total_bytes())?;
    // Damaged metadata does not spoil the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(to_rgb(picture))
}

fn require_size(height: u32, width: u32, bytes: u64) -> Result<(), String> {
    if width.max(height) > MAX_SIDE || bytes > MAX_BYTES {
        return Err(format!(
            "{height} × {width} pixels are too many: a side may have {MAX_SIDE}, a picture 512 MiB"
        ));
    }
    if width == 0 || height == 0 {
        return Err(format!(
            "{height} × {width} pixels: there is nothing to see"
        ));
    }
    Ok(())
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
