//! A picture file → RGB pixels.

mod budget;
mod format;
mod gif;
mod jpeg;
mod orientation;
mod other;
mod tiff;

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

pub(super) use self::format::{Format, HEAD};

use self::budget::Budget;
use super::resize::{Resize, resize, resize_part};
use crate::error::{Cause, Error, Result};

/// Decodes a JPEG, PNG, WebP, BMP, GIF or TIFF file, told apart by content, not by name.
///
/// The picture stands as its file says (EXIF, or XMP's `tiff:Orientation`). Grey, palette, CMYK, YCbCr, L\*a\*b\* and
/// deeper pictures become 8-bit RGB ([`to_rgb`]); of an animation, or of several pages, the first counts.
/// `docs/PICTURES.md` lists which variants are read, and where the pixels differ from Pillow's on purpose.
///
/// [`Decoder`] sets how much memory it may take.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read; [`Error::Picture`] when it is no picture, is damaged or cut
/// short, is of a kind that is not read, has a side over 65,535 pixels or needs over 512 MiB.
///
/// ```no_run
/// let picture = headstart::data::decode_file("photo.jpg")?;
/// println!("{} × {}", picture.width(), picture.height());
/// # Ok::<(), headstart::Error>(())
/// ```
pub fn decode_file(path: impl AsRef<Path>) -> Result<RgbImage> {
    Decoder::new().decode_file(path)
}

/// Decodes a picture in memory, as [`decode_file`] does; errors name it `<bytes>`.
///
/// # Errors
/// [`Error::Picture`], as for [`decode_file`].
///
/// ```
/// let error = headstart::data::decode_bytes(b"not a picture").unwrap_err();
/// assert_eq!(error.to_string(), "picture <bytes>: text, which is not read");
/// ```
pub fn decode_bytes(bytes: &[u8]) -> Result<RgbImage> {
    Decoder::new().decode_bytes(bytes)
}

/// Decodes pictures within a budget of memory.
///
/// The budget of one picture counts everything that is held at the same time for it: its file, what its decoder keeps,
/// its pixels while they are converted and turned, and what resizing adds. It is known from the file's header, so that
/// a picture which needs more is refused before anything is allocated. Pictures that several threads decode at the same
/// time take at most twice the budget together: a large one waits until there is room.
///
/// ```
/// use headstart::data::Decoder;
/// use image::{ImageFormat, RgbImage};
///
/// let mut file = std::io::Cursor::new(Vec::new());
/// RgbImage::new(2000, 2000).write_to(&mut file, ImageFormat::Png).unwrap();
/// let decoder = Decoder::new().budget(8 << 20);
/// let refused = decoder.decode_bytes(file.get_ref()).unwrap_err();
/// assert!(refused.to_string().contains("the budget of one picture is 8 MiB"));
/// assert!(decoder.budget(64 << 20).decode_bytes(file.get_ref()).is_ok());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    budget: u64,
    /// What the picture is brought to, if it is.
    target: Option<Target>,
}

/// A size, and how a picture is brought to it.
#[derive(Clone, Copy, Debug)]
struct Target {
    height: u32,
    width: u32,
    how: Resize,
}

impl Target {
    /// The height and width before a picture is turned.
    fn lying(&self, turned: bool) -> (u32, u32) {
        if turned {
            (self.width, self.height)
        } else {
            (self.height, self.width)
        }
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder with a budget of 512 MiB for one picture.
    pub fn new() -> Self {
        Self {
            budget: budget::DEFAULT,
            target: None,
        }
    }

    /// The memory in bytes that one picture may take. Default: 512 MiB, or 178 million pixels of a JPEG or PNG in RGB.
    pub fn budget(mut self, bytes: u64) -> Self {
        self.budget = bytes;
        self
    }

    /// The same, but pictures are brought to a size as by [`resize`]. A JPEG that is much larger is decoded at a half
    /// or a quarter of its size first, unless that leaves its chroma less than twice the wanted size or single pixels
    /// are asked for ([`Resize::Nearest`]).
    pub(crate) fn resized(mut self, height: u32, width: u32, how: Resize) -> Self {
        self.target = Some(Target { height, width, how });
        self
    }

    /// Decodes a file, as [`decode_file`] does.
    ///
    /// # Errors
    /// As for [`decode_file`], with this budget.
    pub fn decode_file(&self, path: impl AsRef<Path>) -> Result<RgbImage> {
        let path = path.as_ref();
        self.decode_named(path, regular_file_len(path)?, || fs::read(path))
    }

    /// Decodes a picture in memory, as [`decode_bytes`] does.
    ///
    /// # Errors
    /// As for [`decode_bytes`], with this budget.
    pub fn decode_bytes(&self, bytes: &[u8]) -> Result<RgbImage> {
        self.decode(bytes)
            .map_err(|reason| unusable(Path::new("<bytes>"), reason))
    }

    /// Decodes a file of `len` bytes; errors name it `path`.
    pub(super) fn decode_named(
        &self,
        path: &Path,
        len: u64,
        read: impl FnOnce() -> io::Result<Vec<u8>>,
    ) -> Result<RgbImage> {
        if len > self.budget {
            let budget = self.budget >> 20;
            let reason = format!("the file is larger than the budget of one picture, {budget} MiB");
            return Err(unusable(path, reason));
        }
        let bytes = read().map_err(Error::io(path))?;
        self.decode(&bytes).map_err(|reason| unusable(path, reason))
    }

    /// Brings an image in memory to size; of one without a target, a copy.
    pub(crate) fn image(&self, path: &Path, image: &RgbImage) -> Result<RgbImage> {
        let (width, height) = image.dimensions();
        let held = self
            .budget_of(0)
            .hold(height, width, image.as_raw().len() as u64);
        let _held = held.map_err(|reason| unusable(path, reason))?;
        Ok(match self.target {
            Some(Target { height, width, how }) => resize(image, height, width, how),
            None => image.clone(),
        })
    }

    fn decode(&self, bytes: &[u8]) -> Result<RgbImage, Cause> {
        let format = Format::of(bytes)?;
        // A decoder's bug on one odd file must not end a night of training.
        catch_unwind(AssertUnwindSafe(|| self.decode_format(bytes, format)))
            .unwrap_or_else(|_| Err("the decoder panicked".into()))
    }

    fn decode_format(&self, bytes: &[u8], format: Format) -> Result<RgbImage, Cause> {
        // Damaged metadata does not spoil the pixels.
        let orientation = orientation::of(bytes, format);
        let turned = orientation::exchanges_sides(orientation);
        let budget = self.budget_of(bytes.len());
        let (image, _held) = match format {
            Format::Jpeg => {
                let reduction = |h, w| self.reduction(h, w, turned);
                let decoded = jpeg::decode(bytes, &budget, reduction, turned)?;
                if let (Some(extent), Some(target)) = (decoded.extent, self.target) {
                    // Before it is turned: the part of a pixel that is none is on the right and below.
                    let (h, w) = target.lying(turned);
                    let image = resize_part(&decoded.image, extent, h, w, target.how);
                    return Ok(upright(image, orientation));
                }
                (decoded.image, decoded.held)
            }
            Format::Tiff => tiff::decode(bytes, &budget, turned)?,
            Format::Gif => gif::decode(bytes, &budget)?,
            Format::Png | Format::WebP | Format::Bmp => {
                other::decode(bytes, format, &budget, turned)?
            }
        };
        let image = upright(image, orientation);
        Ok(match self.target {
            Some(Target { height, width, how }) if image.dimensions() != (width, height) => {
                resize(&image, height, width, how)
            }
            _ => image,
        })
    }

    fn budget_of(&self, file: usize) -> Budget {
        Budget {
            bytes: self.budget,
            taken: file as u64,
            target: self.target.map(|target| (target.height, target.width)),
        }
    }

    /// How many times smaller than its file a JPEG is decoded.
    fn reduction(&self, height: u32, width: u32, turned: bool) -> jpeg::Reduction {
        let Some(target) = self.target.filter(|target| target.how != Resize::Nearest) else {
            return 1;
        };
        let (to_height, to_width) = target.lying(turned);
        let suffices = |times: &u32| {
            height / times >= MARGIN * to_height && width / times >= MARGIN * to_width
        };
        // An eighth is hardly faster than a quarter, and jpeg-decoder rounds it down.
        [4, 2].into_iter().find(suffices).unwrap_or(1)
    }
}

/// How many times the wanted size a JPEG that is decoded at reduced size still has: Pillow's default for thumbnails.
const MARGIN: u32 = 2;

/// The length of a regular file. Others are not opened: reading a pipe could wait forever.
///
/// # Errors
/// [`Error::Io`] when there is none, [`Error::Picture`] when it is something else.
pub(super) fn regular_file_len(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(unusable(path, "not a file"));
    }
    Ok(metadata.len())
}

fn unusable(path: &Path, reason: impl Into<Cause>) -> Error {
    Error::Picture {
        path: path.to_owned(),
        source: reason.into(),
    }
}

fn upright(image: RgbImage, orientation: Orientation) -> RgbImage {
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    image.into_rgb8()
}

/// Turns any decoded picture into 8-bit RGB: transparency shows white, 16-bit values are scaled to
/// round(v / 257). A picture that is transparent everywhere is taken as opaque: its alpha was never meant.
///
/// A picture from `image::open` lies as its pixels are stored: that function drops what the file says of its
/// orientation. [`decode_file`] turns it upright.
pub fn to_rgb(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let (width, height) = (picture.width(), picture.height());
    let mut levels = picture.into_rgba8().into_raw();
    over_white(&mut levels, false);
    RgbImage::from_raw(width, height, levels).expect("three levels are left of four")
}

/// Levels of red, green, blue and alpha → those of the picture on white, in place; opaque where alpha is zero
/// everywhere.
fn over_white(levels: &mut Vec<u8>, is_premultiplied: bool) {
    let pixels = levels.len() / 4;
    let is_opaque = levels.chunks_exact(4).all(|pixel| pixel[3] == 0);
    for pixel in 0..pixels {
        let alpha = match levels[4 * pixel + 3] {
            _ if is_opaque => 255,
            alpha => u32::from(alpha),
        };
        for c in 0..3 {
            let value = u32::from(levels[4 * pixel + c]);
            let colour = if is_premultiplied {
                255 * value
            } else {
                value * alpha
            };
            let level = (colour + 255 * (255 - alpha) + 127) / 255;
            levels[3 * pixel + c] = level.min(255) as u8;
        }
    }
    levels.truncate(3 * pixels);
}
