//! GIF: the first frame on its screen, as Pillow shows it.

use std::num::NonZeroU64;

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use image::{Rgb, RgbImage};

use super::budget::{Budget, Held, pixels};
use crate::error::Cause;

/// Decodes the first frame. Where a frame is smaller than the screen, the rest has the transparent colour, or else the
/// first of the palette; a frame beyond the screen makes it larger. What is transparent is white.
pub(super) fn decode(bytes: &[u8], budget: &Budget) -> Result<(RgbImage, Held), Cause> {
    first_frame(bytes, budget).map_err(|error| match error.downcast_ref::<DecodingError>() {
        Some(DecodingError::UnexpectedEof) => "the GIF data is cut short".into(),
        _ => error,
    })
}

fn first_frame(bytes: &[u8], budget: &Budget) -> Result<(RgbImage, Held), Cause> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    let limit = NonZeroU64::new(budget.bytes).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes);
    options.set_memory_limit(limit);
    let mut decoder = options.read_info(bytes)?;
    let (screen_width, screen_height) = (decoder.width(), decoder.height());
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.next_frame_info()?.ok_or("a GIF without a frame")?;
    let (left, top) = (u32::from(frame.left), u32::from(frame.top));
    let (frame_width, frame_height) = (u32::from(frame.width), u32::from(frame.height));
    let width = u32::from(screen_width).max(left + frame_width);
    let height = u32::from(screen_height).max(top + frame_height);
    let indices = pixels(frame_height, frame_width, 1);
    let held = budget.hold(
        height,
        width,
        pixels(height, width, 3) + indices + (1 << 16),
    )?;
    if indices == 0 {
        return Err("a GIF without pixels".into());
    }
    let transparent = frame.transparent;
    let palette = frame
        .palette
        .clone()
        .or(global)
        .ok_or("a GIF without colours")?;
    let colour = |index: u8| {
        let at = 3 * usize::from(index);
        match palette.get(at..at + 3) {
            _ if Some(index) == transparent => Rgb([255; 3]),
            Some(rgb) => Rgb([rgb[0], rgb[1], rgb[2]]),
            None => Rgb([0; 3]),
        }
    };
    let mut levels = vec![0; indices as usize];
    decoder.read_into_buffer(&mut levels)?;
    let mut image = RgbImage::from_pixel(width, height, colour(transparent.unwrap_or(0)));
    for (y, row) in (top..).zip(levels.chunks_exact(frame_width as usize)) {
        for (x, index) in (left..).zip(row) {
            image.put_pixel(x, y, colour(*index));
        }
    }
    Ok((image, held))
}
