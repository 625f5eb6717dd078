//! How a TIFF picture's samples lie in the file.

use super::directory::{Directory, number};
use crate::error::Cause;

/// Everything about a picture's samples but their colours, checked.
pub(super) struct Layout {
    pub(super) height: u32,
    pub(super) width: u32,
    /// Bits of a sample, 1 to 64.
    pub(super) bits: usize,
    pub(super) format: SampleFormat,
    /// Samples of a pixel.
    pub(super) samples: usize,
    pub(super) photometric: u64,
    pub(super) compression: u64,
    pub(super) predictor: u64,
    /// Whether the samples of a pixel lie apart, plane by plane.
    is_planar: bool,
    pub(super) is_tiled: bool,
    pub(super) chunk_height: u32,
    pub(super) chunk_width: u32,
    /// Where chunks begin, plane by plane.
    pub(super) offsets: Vec<u64>,
    pub(super) lengths: Option<Vec<u64>>,
    /// Whether the bits of a byte stand in reverse order.
    pub(super) is_reversed: bool,
    /// How many pixels share one chroma, across and down.
    pub(super) subsampling: (usize, usize),
    pub(super) big_endian: bool,
}

/// Where a chunk lies.
pub(super) struct Chunk {
    /// Its number in its plane.
    pub(super) index: usize,
    /// How many there are in a plane.
    pub(super) of: usize,
    pub(super) top: usize,
    pub(super) left: usize,
    /// The rows and columns that are within the picture.
    pub(super) shown_height: usize,
    pub(super) shown_width: usize,
    /// The rows that are stored.
    pub(super) rows: usize,
}

/// Samples of one row, as they are stored: one row with all of them, or one for each plane.
pub(super) struct Row<'a> {
    pub(super) planes: &'a [&'a [u8]],
    pub(super) bits: usize,
    /// Samples of a pixel.
    pub(super) samples: usize,
    pub(super) width: usize,
    pub(super) big_endian: bool,
}

impl Row<'_> {
    /// The bits of a sample.
    pub(super) fn get(&self, x: usize, sample: usize) -> u64 {
        let (row, index) = match self.planes {
            [row] => (row, x * self.samples + sample),
            planes => (&planes[sample], x),
        };
        if self.bits.is_multiple_of(8) {
            let width = self.bits / 8;
            let value = row.get(index * width..(index + 1) * width);
            return value.map_or(0, |value| number(value, self.big_endian));
        }
        let bit = |at: usize| row.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
        let bits = index * self.bits..(index + 1) * self.bits;
        bits.fold(0, |value, at| value << 1 | u64::from(bit(at)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SampleFormat {
    Unsigned,
    Signed,
    Float,
}

pub(super) const OLD_JPEG: u64 = 6;
pub(super) const JPEG: u64 = 7;
pub(super) const ZSTD: u64 = 50_000;
pub(super) const YCBCR: u64 = 6;

impl Layout {
    pub(super) fn new(directory: &Directory<'_>) -> Result<Self, Cause> {
        let required = |tag: u16, what: &str| {
            let value = directory
                .numbers(tag)
                .and_then(|values| values.first().copied());
            let value = value.and_then(|value| u32::try_from(value).ok());
            value.ok_or_else(|| format!("the TIFF file does not say its {what}"))
        };
        let (width, height) = (required(256, "width")?, required(257, "height")?);
        let samples = directory.number_or(277, 1);
        if !(1..=64).contains(&samples) {
            return Err(format!("{samples} samples a pixel in a TIFF are not read").into());
        }
        let photometric = match directory.numbers(262).as_deref() {
            Some([photometric, ..]) => *photometric,
            // Fax: white is zero.
            _ if matches!(directory.number_or(259, 1), 2..=4) => 0,
            _ if samples >= 3 => 2,
            _ => 1,
        };
        let is_tiled = directory.raw(322).is_some();
        let (chunk_width, chunk_height) = if is_tiled {
            (
                required(322, "tiles' width")?,
                required(323, "tiles' height")?,
            )
        } else {
            let rows = directory.number_or(278, height.into());
            (
                width,
                u32::try_from(rows)
                    .unwrap_or(height)
                    .clamp(1, height.max(1)),
            )
        };
        let subsampling = match directory.numbers(530).as_deref() {
            _ if photometric != YCBCR => (1, 1),
            Some([across, down, ..]) => (*across as usize, *down as usize),
            _ => (2, 2),
        };
        let layout = Self {
            height,
            width,
            bits: bits(directory)?,
            format: format(directory)?,
            samples: samples as usize,
            photometric,
            compression: directory.number_or(259, 1),
            predictor: directory.number_or(317, 1),
            is_planar: samples > 1 && directory.number_or(284, 1) == 2,
            is_tiled,
            chunk_height,
            chunk_width,
            offsets: directory
                .numbers(if is_tiled { 324 } else { 273 })
                .unwrap_or_default(),
            lengths: directory.numbers(if is_tiled { 325 } else { 279 }),
            is_reversed: directory.number_or(266, 1) == 2,
            subsampling,
            big_endian: directory.big_endian,
        };
        layout.check(directory)?;
        Ok(layout)
    }

    fn check(&self, directory: &Directory<'_>) -> Result<(), Cause> {
        if self.chunk_width == 0 || self.chunk_height == 0 {
            return Err("tiles without pixels in a TIFF".into());
        }
        if !matches!(self.subsampling, (1 | 2 | 4, 1 | 2 | 4)) {
            return Err("the chroma of this TIFF is sampled in a way that is not read".into());
        }
        let (across, down) = self.grid();
        let expected = (across as u64 * down as u64).saturating_mul(self.planes() as u64);
        if self.compression != OLD_JPEG && (self.offsets.len() as u64) < expected {
            let found = self.offsets.len();
            return Err(
                format!("the TIFF file has {found} parts where {expected} are needed").into(),
            );
        }
        // Small pictures have tiles that reach far beyond them, but not many of those.
        let bits = u64::from(self.width) * u64::from(self.height);
        let shown = bits.saturating_mul((self.samples * self.bits) as u64) / 8;
        if self.chunk_bytes().saturating_mul(expected)
            > shown.saturating_mul(8).saturating_add(64 << 20)
        {
            return Err("a TIFF whose tiles lie mostly outside of the picture is not read".into());
        }
        if self.is_subsampled() && (self.is_planar || self.samples != 3 || self.bits != 8) {
            return Err("a TIFF whose subsampled chroma lies in planes is not read".into());
        }
        if self.format == SampleFormat::Float && !matches!(self.bits, 16 | 32 | 64) {
            return Err(
                format!("floating-point samples of {} bits are not read", self.bits).into(),
            );
        }
        let predictor = match self.predictor {
            1 => true,
            2 => matches!(self.bits, 8 | 16 | 32 | 64),
            3 => self.format == SampleFormat::Float,
            _ => false,
        };
        if !predictor {
            return Err(format!("predictor {} of a TIFF is not read", self.predictor).into());
        }
        if self.photometric == 5 && directory.number_or(332, 1) != 1 {
            return Err("a TIFF with inks other than CMYK is not read".into());
        }
        Ok(())
    }

    /// How many chunks there are across and down.
    fn grid(&self) -> (usize, usize) {
        let across = self.width.div_ceil(self.chunk_width);
        (
            across as usize,
            self.height.div_ceil(self.chunk_height) as usize,
        )
    }

    pub(super) fn planes(&self) -> usize {
        if self.is_planar { self.samples } else { 1 }
    }

    /// Whether chunks are pictures of their own.
    pub(super) fn is_pictures(&self) -> bool {
        matches!(self.compression, JPEG | OLD_JPEG)
    }

    pub(super) fn is_subsampled(&self) -> bool {
        self.subsampling != (1, 1) && !self.is_pictures()
    }

    /// Samples of a pixel that lie together.
    pub(super) fn samples_together(&self) -> usize {
        if self.is_planar { 1 } else { self.samples }
    }

    /// The bytes of a chunk's row.
    pub(super) fn row_bytes(&self) -> u64 {
        let bits = u64::from(self.chunk_width) * (self.samples_together() * self.bits) as u64;
        bits.div_ceil(8)
    }

    /// The bytes of a decompressed chunk, of one plane.
    pub(super) fn chunk_bytes(&self) -> u64 {
        self.bytes_of_rows(self.chunk_height)
    }

    /// The bytes of so many rows of a chunk, of one plane.
    pub(super) fn bytes_of_rows(&self, rows: u32) -> u64 {
        if self.is_subsampled() {
            let (across, down) = self.subsampling;
            let units = |side: u32, by: usize| u64::from(side).div_ceil(by as u64);
            let units = units(self.chunk_width, across) * units(rows, down);
            return units * (across * down + 2) as u64;
        }
        self.row_bytes().saturating_mul(rows.into())
    }

    /// The chunks of a plane.
    pub(super) fn chunks(&self) -> impl Iterator<Item = Chunk> + use<> {
        let (across, down) = self.grid();
        let (height, width) = (self.height as usize, self.width as usize);
        let (chunk_height, chunk_width) = (self.chunk_height as usize, self.chunk_width as usize);
        let is_tiled = self.is_tiled;
        (0..across * down).map(move |index| {
            let (top, left) = (index / across * chunk_height, index % across * chunk_width);
            let shown_height = chunk_height.min(height - top);
            Chunk {
                index,
                of: across * down,
                top,
                left,
                shown_height,
                shown_width: chunk_width.min(width - left),
                // The last strip may be lower, a tile never is.
                rows: if is_tiled { chunk_height } else { shown_height },
            }
        })
    }

    /// Calls with each row of a chunk that is shown: its place from the top, and its samples.
    pub(super) fn rows(
        &self,
        at: &Chunk,
        planes: &[Vec<u8>],
        mut each: impl FnMut(usize, Row<'_>),
    ) {
        let row_bytes = self.row_bytes() as usize;
        for y in 0..at.shown_height {
            let of_plane =
                |plane: &'_ Vec<u8>| y * row_bytes..((y + 1) * row_bytes).min(plane.len());
            let rows: Vec<&[u8]> = planes.iter().map(|plane| &plane[of_plane(plane)]).collect();
            let row = Row {
                planes: &rows,
                bits: self.bits,
                samples: self.samples,
                width: at.shown_width,
                big_endian: self.big_endian,
            };
            each(at.top + y, row);
        }
    }
}

fn bits(directory: &Directory<'_>) -> Result<usize, Cause> {
    let bits = directory.numbers(258).unwrap_or_else(|| vec![1]);
    match bits.as_slice() {
        [first, rest @ ..] if (1..=64).contains(first) && rest.iter().all(|bits| bits == first) => {
            Ok(*first as usize)
        }
        _ => Err(format!("samples of {bits:?} bits in a TIFF are not read").into()),
    }
}

fn format(directory: &Directory<'_>) -> Result<SampleFormat, Cause> {
    let formats = directory.numbers(339).unwrap_or_else(|| vec![1]);
    match formats.as_slice() {
        [first, rest @ ..] if rest.iter().all(|format| format == first) => match first {
            // 4 is undefined.
            1 | 4 => Ok(SampleFormat::Unsigned),
            2 => Ok(SampleFormat::Signed),
            3 => Ok(SampleFormat::Float),
            _ => Err("complex samples in a TIFF are not read".into()),
        },
        _ => Err("samples of different formats in a TIFF are not read".into()),
    }
}
