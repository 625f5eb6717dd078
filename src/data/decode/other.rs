//! PNG, WebP and BMP, by the `image` crate.

use std::borrow::Cow;
use std::io::{Cursor, ErrorKind};

use image::codecs::bmp::BmpDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, Limits, RgbImage};

use super::budget::{Budget, Held, pixels};
use super::format::Format;
use super::to_rgb;
use crate::error::Cause;

/// The most that a WebP file's data may claim to be long: allocated before it is seen to be there.
const WEBP_PARTITION: u64 = 16 << 20;

/// Decodes a file; of an animation, the first frame.
pub(super) fn decode(
    bytes: &[u8],
    format: Format,
    budget: &Budget,
    turned: bool,
) -> Result<(RgbImage, Held), Cause> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(budget.bytes);
    let file = Cursor::new(bytes);
    if format == Format::Png && bytes.get(12..16) == Some(b"CgBI") {
        return Err("a PNG for iPhones only (CgBI) is not read".into());
    }
    let decoded = match format {
        Format::Png => PngDecoder::with_limits(file, limits)
            .map_err(Cause::from)
            .and_then(|decoder| finish(decoder, 0, budget, turned)),
        Format::WebP if !has_frames_of_its_size(bytes) => {
            Err("the WebP data is damaged: frames of another size than the picture".into())
        }
        Format::WebP => WebPDecoder::new(file)
            .map_err(Cause::from)
            .and_then(|decoder| {
                // Pixels with alpha or planes beside the result; of an animation the screen as well.
                let own = if decoder.has_animation() { 16 } else { 9 };
                let budget = Budget {
                    taken: budget.taken + WEBP_PARTITION,
                    ..*budget
                };
                finish(decoder, own, &budget, turned)
            }),
        _ => BmpDecoder::new(Cursor::new(with_offset(bytes)))
            .map_err(Cause::from)
            .and_then(|decoder| finish(decoder, 0, budget, turned)),
    };
    decoded.map_err(|error| match error.downcast_ref::<ImageError>() {
        Some(ImageError::IoError(io)) if io.kind() == ErrorKind::UnexpectedEof => {
            format!("the {} data is cut short", name(format)).into()
        }
        _ => error,
    })
}

/// A BMP file that says where its pixels begin. The decoder takes the header for pixels where it says 0.
fn with_offset(bytes: &[u8]) -> Cow<'_, [u8]> {
    let number = |at: usize, length: usize| {
        let bytes = bytes.get(at..at + length)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        )
    };
    let begin = || {
        let (offset, header) = (number(10, 4)?, number(14, 4)?);
        if offset >= 14 + header {
            return None;
        }
        let is_old = header == 12;
        let bits = number(if is_old { 24 } else { 28 }, 2)?;
        let (compression, used) = match is_old {
            true => (0, 0),
            false => (number(30, 4)?, number(46, 4)?),
        };
        let colours = match (bits, used) {
            (0..=8, 0) => 1 << bits,
            (0..=8, used) => used,
            _ => 0,
        };
        let masks = if header == 40 && compression == 3 {
            12
        } else {
            0
        };
        let begin = 14 + header + masks + colours * if is_old { 3 } else { 4 };
        u32::try_from(begin).ok()
    };
    match begin() {
        None => Cow::Borrowed(bytes),
        Some(begin) => {
            let mut bytes = bytes.to_vec();
            bytes[10..14].copy_from_slice(&begin.to_le_bytes());
            Cow::Owned(bytes)
        }
    }
}

fn name(format: Format) -> &'static str {
    match format {
        Format::Png => "PNG",
        Format::WebP => "WebP",
        _ => "BMP",
    }
}

/// Decodes with a decoder that keeps `own` bytes a pixel for itself.
fn finish(
    decoder: impl ImageDecoder,
    own: u64,
    budget: &Budget,
    turned: bool,
) -> Result<(RgbImage, Held), Cause> {
    let (width, height) = decoder.dimensions();
    let decoded = decoder.total_bytes();
    let converted = match decoder.color_type() {
        ColorType::Rgb8 | ColorType::Rgba8 => 0,
        ColorType::L8 | ColorType::L16 | ColorType::Rgb16 => 3,
        _ => 4,
    };
    let decoding = decoded.saturating_add(pixels(height, width, own.max(converted)));
    let turning = pixels(height, width, if turned { 6 } else { 3 });
    let held = budget.hold(height, width, decoding.max(turning).saturating_add(1 << 16))?;
    let image = to_rgb(DynamicImage::from_decoder(decoder)?);
    Ok((image, held))
}

/// Whether a WebP file's frames have the size that its header tells: the decoder allocates by the frames.
fn has_frames_of_its_size(bytes: &[u8]) -> bool {
    let mut canvas = None;
    Chunks(bytes.get(12..).unwrap_or_default()).all(|(name, chunk)| match name {
        b"VP8X" => {
            let size = number(chunk, 4).zip(number(chunk, 7));
            canvas = canvas.or(size.map(|(w, h)| (w + 1, h + 1)));
            canvas.is_some()
        }
        b"ANMF" => {
            let size = number(chunk, 6)
                .zip(number(chunk, 9))
                .map(|(w, h)| (w + 1, h + 1));
            let place = number(chunk, 0).zip(number(chunk, 3));
            let is_within = match (size, place, canvas) {
                (Some((w, h)), Some((x, y)), Some(canvas)) => {
                    2 * x + w <= canvas.0 && 2 * y + h <= canvas.1
                }
                _ => false,
            };
            let mut parts = Chunks(chunk.get(16..).unwrap_or_default());
            is_within
                && parts.all(|(name, part)| {
                    frame_size(name, part).is_none_or(|found| Some(found) == size)
                })
        }
        _ => {
            frame_size(name, chunk).is_none_or(|found| canvas.is_none_or(|canvas| canvas == found))
        }
    })
}

/// The width and height of a chunk of pixels.
fn frame_size(name: &[u8; 4], chunk: &[u8]) -> Option<(u32, u32)> {
    let side = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    match (name, chunk) {
        (b"VP8 ", [_, _, _, _, _, _, w0, w1, h0, h1, ..]) => Some((side(*w0, *w1), side(*h0, *h1))),
        (b"VP8L", [_, a, b, c, d, ..]) => {
            let bits = u32::from_le_bytes([*a, *b, *c, *d]);
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        _ => None,
    }
}

/// A number of 24 bits.
fn number(chunk: &[u8], at: usize) -> Option<u32> {
    let bytes = chunk.get(at..at + 3)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]))
}

/// The chunks of a WebP file.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a [u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.0.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        self.0 = rest
            .get(length.saturating_add(length % 2)..)
            .unwrap_or_default();
        Some((name, &rest[..length.min(rest.len())]))
    }
}
