//! JPEG: which kind a file is, and the decoder that gets it right.
//!
//! zune-jpeg, which the `image` crate brings, is the faster one and right for the kinds that nearly all files are
//! ([`Header::is_plain`]). It makes wrong pixels of others without an error (scans of single components, luma that
//! is coarser than chroma), so those go to jpeg-decoder, which also decodes at a half or a quarter of the size.
//! What neither can do is refused by name.

use std::io::Cursor;

use image::codecs::jpeg::JpegDecoder;
use image::{DynamicImage, RgbImage};
use jpeg_decoder::{ColorTransform, Decoder, PixelFormat};

use super::budget::{Budget, Held, pixels};
use super::to_rgb;
use crate::error::Cause;

/// More scans than any encoder writes: each costs a pass over the whole picture.
const MAX_SCANS: usize = 100;

const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;
const HEIGHT_AT_THE_END: u8 = 0xdc;

/// The segments of a JPEG file before its first scan: markers and what they hold.
pub(super) struct Segments<'a>(&'a [u8]);

impl<'a> Segments<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.get(2..).unwrap_or_default())
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let start = self.0.iter().position(|byte| *byte == 0xff)?;
            let rest = self.0.get(start + 1..)?;
            let marker = *rest.first()?;
            match marker {
                0xff => self.0 = rest,
                0x00 | 0x01 | 0xd0..=0xd8 => self.0 = &rest[1..],
                START_OF_SCAN | END_OF_IMAGE => return None,
                _ => {
                    let length = usize::from(u16::from_be_bytes([*rest.get(1)?, *rest.get(2)?]));
                    let segment = rest.get(3..1 + length.max(2)).unwrap_or_default();
                    self.0 = rest.get(1 + length.max(2)..).unwrap_or_default();
                    return Some((marker, segment));
                }
            }
        }
    }
}

/// A component's horizontal and vertical sampling.
type Sampling = (u8, u8);

/// What decides which decoder takes a file.
struct Header {
    /// The frame's marker: what kind of coding it is.
    frame: u8,
    bits: u8,
    height: u32,
    width: u32,
    ids: Vec<u8>,
    sampling: Vec<Sampling>,
    /// Adobe's colour transform.
    adobe: Option<u8>,
    /// Whether it is a JFIF file, whose colours are YCbCr.
    is_jfif: bool,
    /// How many components each scan has.
    scans: Vec<u8>,
    /// Whether the end-of-image marker is reached.
    is_whole: bool,
}

/// How much smaller a picture may be decoded: 1, 2, 4 or 8 times.
pub(super) type Reduction = u32;

/// A decoded file.
pub(super) struct Decoded {
    pub(super) image: RgbImage,
    pub(super) held: Held,
    /// Of a file that was decoded at a part of its size: the height and width of the picture in the image's pixels.
    pub(super) extent: Option<(f64, f64)>,
}

/// Decodes a file, at the part of its size that `reduction` chooses for the height and width of its coarsest component.
pub(super) fn decode(
    bytes: &[u8],
    budget: &Budget,
    reduction: impl FnOnce(u32, u32) -> Reduction,
    turned: bool,
) -> Result<Decoded, Cause> {
    let header = Header::read(bytes)?;
    header.check(bytes)?;
    let (down, across) = header.coarsest();
    // Coarser factors leave parts of pixels at the edges that grow when a picture is reduced.
    let reduction = match down.max(across) {
        0..=2 => reduction(header.height / down, header.width / across),
        _ => 1,
    };
    let held = header.hold(budget, reduction, turned)?;
    if reduction == 1 && header.is_plain() {
        let decoder = JpegDecoder::new(Cursor::new(bytes))?;
        return Ok(Decoded {
            image: to_rgb(DynamicImage::from_decoder(decoder)?),
            held,
            extent: None,
        });
    }
    let part = |side: u32| f64::from(side) / f64::from(reduction);
    Ok(Decoded {
        image: any_kind(bytes, header.transform(), reduction)?,
        held,
        extent: (reduction > 1).then(|| (part(header.height), part(header.width))),
    })
}

/// Decodes a JPEG stream within another file whose size was checked; `transform` is what the other file says of the
/// colours.
pub(super) fn decode_part(
    bytes: &[u8],
    expected: (u32, u32),
    transform: Option<ColorTransform>,
) -> Result<RgbImage, Cause> {
    let header = Header::read(bytes)?;
    header.check(bytes)?;
    // A part at the edge may be larger than what is shown of it.
    let (height, width) = (header.height, header.width);
    if height < expected.0
        || width < expected.1
        || pixels(height, width, 1) > 4 * pixels(expected.0, expected.1, 1) + 65_536
    {
        return Err(
            format!("a part of {height} × {width} pixels where {expected:?} are expected").into(),
        );
    }
    any_kind(bytes, transform, 1)
}

/// Decodes by jpeg-decoder.
fn any_kind(
    bytes: &[u8],
    transform: Option<ColorTransform>,
    reduction: Reduction,
) -> Result<RgbImage, Cause> {
    let mut decoder = Decoder::new(bytes);
    if let Some(transform) = transform {
        decoder.set_color_transform(transform);
    }
    decoder.read_info()?;
    let info = decoder.info().ok_or("the JPEG header is damaged")?;
    let reduced = |side: u16| side.div_ceil(reduction as u16);
    decoder.scale(reduced(info.width), reduced(info.height))?;
    let mut levels = decoder.decode()?;
    let info = decoder.info().ok_or("the JPEG header is damaged")?;
    let rgb = match info.pixel_format {
        PixelFormat::RGB24 => levels,
        PixelFormat::L8 => levels.iter().flat_map(|level| [*level; 3]).collect(),
        PixelFormat::L16 => return Err("a JPEG of 16 bits is not read".into()),
        PixelFormat::CMYK32 => {
            // jpeg-decoder turns inks over, as Adobe's files have them. Another file that says they are inks has them
            // as they are.
            if transform == Some(ColorTransform::CMYK) {
                levels.iter_mut().for_each(|level| *level = 255 - *level);
            }
            cmyk_to_rgb(&mut levels);
            levels
        }
    };
    RgbImage::from_raw(info.width.into(), info.height.into(), rgb)
        .ok_or_else(|| "the JPEG decoder gave too few pixels".into())
}

/// Turns CMYK into RGB in place, as Pillow does: (255 − c)(255 − k)/255.
pub(super) fn cmyk_to_rgb(levels: &mut Vec<u8>) {
    let pixels = levels.len() / 4;
    for pixel in 0..pixels {
        let black = 255 - u32::from(levels[4 * pixel + 3]);
        for c in 0..3 {
            let colour = 255 - u32::from(levels[4 * pixel + c]);
            levels[3 * pixel + c] = ((colour * black + 127) / 255) as u8;
        }
    }
    levels.truncate(3 * pixels);
}

impl Header {
    /// Walks a file's segments (so that the markers of an embedded thumbnail do not count) and the entropy-coded data
    /// between them (ITU-T T.81, annex B).
    fn read(bytes: &[u8]) -> Result<Self, Cause> {
        let mut header = Self {
            frame: 0,
            bits: 0,
            height: 0,
            width: 0,
            ids: Vec::new(),
            sampling: Vec::new(),
            adobe: None,
            is_jfif: false,
            scans: Vec::new(),
            is_whole: false,
        };
        let mut at = 2;
        while let Some(&[first, marker]) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
            at += match (first, marker) {
                (0xff, END_OF_IMAGE) => {
                    header.is_whole = true;
                    break;
                }
                (0xff, 0xff) => 1,
                // A stuffed zero, TEM, restart and start-of-image markers stand alone.
                (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => 2,
                (0xff, _) => match bytes.get(at + 2..at + 4) {
                    Some(length) => {
                        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                        let segment = bytes.get(at + 4..at + 2 + length).unwrap_or_default();
                        header.take(marker, segment)?;
                        2 + length
                    }
                    None => break,
                },
                // The next marker: entropy-coded data are most of a file.
                _ => memchr::memchr(0xff, &bytes[at..]).unwrap_or(bytes.len()),
            };
        }
        Ok(header)
    }

    /// Takes in a segment.
    fn take(&mut self, marker: u8, segment: &[u8]) -> Result<(), Cause> {
        match marker {
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                if self.frame != 0 {
                    return Err("hierarchical JPEG is not read".into());
                }
                let [bits, h1, h0, w1, w0, _, components @ ..] = segment else {
                    return Err("the JPEG header is damaged".into());
                };
                self.frame = marker;
                self.bits = *bits;
                self.height = u16::from_be_bytes([*h1, *h0]).into();
                self.width = u16::from_be_bytes([*w1, *w0]).into();
                for component in components.chunks_exact(3) {
                    self.ids.push(component[0]);
                    self.sampling.push((component[1] >> 4, component[1] & 15));
                }
            }
            START_OF_SCAN => self.scans.push(segment.first().copied().unwrap_or(0)),
            0xee if segment.starts_with(b"Adobe") && self.adobe.is_none() => {
                self.adobe = segment.get(11).copied();
            }
            0xe0 if segment.starts_with(b"JFIF\0") => self.is_jfif = true,
            HEIGHT_AT_THE_END if self.height == 0 => {
                return Err("a JPEG whose height is told at the end (DNL) is not read".into());
            }
            _ => {}
        }
        Ok(())
    }

    /// Refuses what no decoder here gets right.
    fn check(&self, bytes: &[u8]) -> Result<(), Cause> {
        let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
        if self.frame == 0 && self.is_whole {
            return Err("a JPEG file without a picture".into());
        }
        if !self.is_whole && zeros >= 16 {
            return Err(format!(
                "the JPEG data is cut short, and filled up with {zeros} zero bytes"
            )
            .into());
        }
        // Decoders fill what is missing with grey.
        if !self.is_whole || self.scans.is_empty() {
            return Err("the JPEG data is cut short".into());
        }
        let kind = match self.frame {
            0xc0..=0xc2 => None,
            0xc3 => Some("lossless JPEG"),
            0xc9 | 0xca => Some("JPEG with arithmetic coding"),
            0xcb => Some("lossless JPEG with arithmetic coding"),
            _ => Some("hierarchical JPEG"),
        };
        if let Some(kind) = kind {
            return Err(format!("{kind} is not read").into());
        }
        if self.bits != 8 {
            return Err(format!("a JPEG of {} bits is not read", self.bits).into());
        }
        if !matches!(self.sampling.len(), 1 | 3 | 4) {
            return Err(format!("a JPEG of {} components is not read", self.sampling.len()).into());
        }
        if self
            .sampling
            .iter()
            .any(|(h, v)| !(1..=4).contains(h) || !(1..=4).contains(v))
        {
            return Err("the JPEG header is damaged".into());
        }
        if self.scans.len() > MAX_SCANS {
            return Err(format!(
                "{} scans in a JPEG: no encoder writes so many",
                self.scans.len()
            )
            .into());
        }
        Ok(())
    }

    /// Whether zune-jpeg is right about files of this kind: it agrees with Pillow on every such file that was tried, of
    /// all sizes.
    fn is_plain(&self) -> bool {
        let interleaved = self.scans.first().copied() == Some(self.sampling.len() as u8);
        let scans = interleaved && (self.frame == 0xc2 || self.scans.len() == 1);
        let colours = match self.sampling.as_slice() {
            [(1, 1)] => true,
            [(1 | 2, 1 | 2), (1, 1), (1, 1)] => {
                self.ids == [1, 2, 3] && matches!(self.adobe, None | Some(1))
            }
            _ => false,
        };
        // zune-jpeg has a limit of its own.
        scans && colours && self.height.max(self.width) <= 16_384
    }

    /// What three components are, by libjpeg's rule: JFIF's are YCbCr, then Adobe's marker counts, then their names.
    fn transform(&self) -> Option<ColorTransform> {
        if self.sampling.len() != 3 {
            return None;
        }
        let is_rgb = match self.adobe {
            _ if self.is_jfif => false,
            Some(transform) => transform == 0,
            None => self.ids == b"RGB",
        };
        Some(if is_rgb {
            ColorTransform::RGB
        } else {
            ColorTransform::YCbCr
        })
    }

    /// How many times coarser than the picture its coarsest component may be, down and across.
    fn coarsest(&self) -> (u32, u32) {
        let most =
            |of: fn(&Sampling) -> u8| u32::from(self.sampling.iter().map(of).max().unwrap_or(1));
        (most(|s| s.1), most(|s| s.0))
    }

    /// Sets aside what decoding takes: the components' planes, all coefficients of a progressive file, and the result.
    fn hold(&self, budget: &Budget, reduction: Reduction, turned: bool) -> Result<Held, Cause> {
        let (v_most, h_most) = self.coarsest();
        let mcus = |side: u32, most: u32| u64::from(side.div_ceil(8 * most));
        let blocks: u64 = self.sampling.iter().map(|(h, v)| u64::from(h * v)).sum();
        let row = 64 * blocks * mcus(self.width, h_most);
        let samples = row * mcus(self.height, v_most);
        let reduced = samples.div_ceil(u64::from(reduction * reduction));
        let (height, width) = (
            self.height.div_ceil(reduction),
            self.width.div_ceil(reduction),
        );
        let per_pixel = self.sampling.len().max(3) as u64;
        let coefficients = if self.frame == 0xc2 { 2 * samples } else { 0 };
        // What decoders keep of some rows of blocks, measured.
        let rows = 12 * row + 24 * u64::from(self.width);
        let decoding = coefficients + rows + reduced + pixels(height, width, per_pixel) + (1 << 16);
        let grey = if self.sampling.len() == 1 {
            pixels(height, width, 4)
        } else {
            0
        };
        let turning = pixels(height, width, if turned { 6 } else { 3 });
        Ok(budget.hold(self.height, self.width, decoding.max(grey).max(turning))?)
    }
}
