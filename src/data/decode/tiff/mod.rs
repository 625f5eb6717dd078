//! TIFF: the first picture of a file, in whatever way its samples are stored.
//!
//! The file's structure and the meaning of its samples are read here (TIFF 6.0 and BigTIFF; names of tags as there), so
//! that every size is checked before anything is allocated; what compresses is other crates' work.

mod colour;
mod compression;
mod directory;
mod fax;
mod layout;

use image::RgbImage;

pub(super) use self::directory::{small_number, xmp};

use self::colour::Colours;
use self::compression::{decompress, decompress_picture};
use self::directory::Directory;
use self::layout::{Chunk, Layout, Row, ZSTD};
use super::budget::{Budget, Held, pixels};
use super::over_white;
use crate::error::Cause;

/// Decodes the first picture.
pub(super) fn decode(
    bytes: &[u8],
    budget: &Budget,
    turned: bool,
) -> Result<(RgbImage, Held), Cause> {
    let directory = Directory::first(bytes).ok_or("the TIFF directory is damaged")?;
    let layout = Layout::new(&directory)?;
    let held = layout.hold(budget, turned)?;
    if layout.is_pictures() {
        return Ok((paste_pictures(&directory, &layout)?, held));
    }
    let mut colours = Colours::new(&directory, &layout)?;
    if colours.needs_range() {
        for at in layout.chunks() {
            let planes = planes(&directory, &layout, &at)?;
            layout.rows(&at, &planes, |_, row| colours.widen_range(&row));
        }
        colours.check_range()?;
    }
    let channels = if colours.has_alpha() { 4 } else { 3 };
    let (height, width) = (layout.height as usize, layout.width as usize);
    let mut levels = vec![0; height * width * channels];
    for at in layout.chunks() {
        let planes = planes(&directory, &layout, &at)?;
        if layout.is_subsampled() {
            colours.write_subsampled(&planes[0], &at, &layout, &mut levels);
            continue;
        }
        layout.rows(&at, &planes, |y, row: Row<'_>| {
            let start = (y * width + at.left) * channels;
            let to = &mut levels[start..start + at.shown_width * channels];
            colours.write(&row, to);
        });
    }
    if channels == 4 {
        over_white(&mut levels, colours.is_premultiplied());
    }
    let image = RgbImage::from_raw(layout.width, layout.height, levels);
    Ok((image.ok_or("too few pixels")?, held))
}

/// The decompressed planes of a chunk: one, or with samples stored apart one for each.
fn planes(directory: &Directory<'_>, layout: &Layout, at: &Chunk) -> Result<Vec<Vec<u8>>, Cause> {
    let planes = 0..layout.planes();
    planes
        .map(|plane| decompress(directory, layout, at, plane))
        .collect()
}

/// Chunks that are pictures of their own, such as JPEG streams.
fn paste_pictures(directory: &Directory<'_>, layout: &Layout) -> Result<RgbImage, Cause> {
    let mut image = RgbImage::new(layout.width, layout.height);
    for at in layout.chunks() {
        for plane in 0..layout.planes() {
            let part = decompress_picture(directory, layout, &at, plane)?;
            for y in 0..at.shown_height as u32 {
                for x in 0..at.shown_width as u32 {
                    let from = part.get_pixel(x, y);
                    let to = image.get_pixel_mut(at.left as u32 + x, at.top as u32 + y);
                    match layout.planes() {
                        1 => *to = *from,
                        _ => to.0[plane] = from.0[0],
                    }
                }
            }
        }
    }
    Ok(image)
}

/// The most that the zstd decoder looks back.
const ZSTD_WINDOW: u64 = 100 << 20;

impl Layout {
    /// Sets aside what decoding takes: a chunk, and the result with its alpha.
    fn hold(&self, budget: &Budget, turned: bool) -> Result<Held, Cause> {
        let (height, width) = (self.height, self.width);
        let chunk = self.chunk_bytes().saturating_mul(self.planes() as u64);
        let part = if self.is_pictures() {
            // Planes, result and pixels of a JPEG.
            pixels(self.chunk_height, self.chunk_width, 12)
        } else {
            chunk
        };
        let window = if self.compression == ZSTD {
            ZSTD_WINDOW
        } else {
            0
        };
        let decoding = part
            .saturating_add(pixels(height, width, 4))
            .saturating_add(window + (1 << 16));
        let turning = pixels(height, width, if turned { 6 } else { 3 });
        Ok(budget.hold(height, width, decoding.max(turning))?)
    }
}
