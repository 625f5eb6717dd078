//! PNG, WebP and BMP, by the `image` crate.

use std::io::{Cursor, ErrorKind};

use image::codecs::bmp::BmpDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, Limits, RgbImage};

use super::budget::{Budget, Held, pixels};
use super::format::Format;
use super::to_rgb;
use crate::error::Cause;

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
        Format::WebP => WebPDecoder::new(file)
            .map_err(Cause::from)
            .and_then(|decoder| {
                // Pixels with alpha beside the result, or planes; of an animation the screen as well.
                let own = if decoder.has_animation() { 12 } else { 6 };
                finish(decoder, own, budget, turned)
            }),
        _ => BmpDecoder::new(file)
            .map_err(Cause::from)
            .and_then(|decoder| finish(decoder, 0, budget, turned)),
    };
    decoded.map_err(|error| match error.downcast_ref::<ImageError>() {
        Some(ImageError::IoError(io)) if io.kind() == ErrorKind::UnexpectedEof => {
            format!("the {format:?} data is cut short").into()
        }
        _ => error,
    })
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
