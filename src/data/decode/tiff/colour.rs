//! A TIFF picture's samples → levels of red, green and blue.

use super::directory::Directory;
use super::layout::{Chunk, Layout, Row, SampleFormat, YCBCR};
use crate::error::Cause;

/// How samples become colours.
pub(super) struct Colours {
    kind: Kind,
    bits: usize,
    format: SampleFormat,
    /// The sample that is alpha, and whether the colours are multiplied by it.
    alpha: Option<(usize, bool)>,
    /// Smallest and largest value, where they decide what is white.
    range: (f64, f64),
    /// What is white, for samples whose bits do not say so.
    white: f64,
}

enum Kind {
    Grey {
        white_is_zero: bool,
    },
    Rgb,
    Palette(Vec<[u8; 3]>),
    Cmyk,
    YCbCr(YCbCr),
    /// CIE L*a*b*; whether a and b are signed.
    Lab {
        is_signed: bool,
    },
}

/// Weights of red, green and blue in the luma, and black and white of the three samples.
struct YCbCr {
    weights: [f64; 3],
    reference: [f64; 6],
}

impl Colours {
    pub(super) fn new(directory: &Directory<'_>, layout: &Layout) -> Result<Self, Cause> {
        let (kind, own) = match layout.photometric {
            0 => (
                Kind::Grey {
                    white_is_zero: true,
                },
                1,
            ),
            1 => (
                Kind::Grey {
                    white_is_zero: false,
                },
                1,
            ),
            2 => (Kind::Rgb, 3),
            3 => (Kind::Palette(palette(directory, layout)?), 1),
            5 => (Kind::Cmyk, 4),
            YCBCR if layout.samples == 1 => (
                Kind::Grey {
                    white_is_zero: false,
                },
                1,
            ),
            YCBCR => (Kind::YCbCr(YCbCr::new(directory)), 3),
            8 | 9 => (
                Kind::Lab {
                    is_signed: layout.photometric == 8,
                },
                3,
            ),
            other => return Err(format!("{} in a TIFF are not read", name(other)).into()),
        };
        if layout.samples < own {
            return Err(format!(
                "the TIFF file has {} samples a pixel, and {own} are needed",
                layout.samples
            )
            .into());
        }
        let is_8_or_16 = matches!(layout.bits, 8 | 16) && layout.format != SampleFormat::Float;
        if matches!(kind, Kind::Cmyk | Kind::YCbCr(_) | Kind::Lab { .. }) && !is_8_or_16 {
            return Err(format!(
                "such colours of {} bits in a TIFF are not read",
                layout.bits
            )
            .into());
        }
        let mut extra = directory.numbers(338).unwrap_or_default();
        if extra.is_empty() && matches!(kind, Kind::Rgb) && layout.samples == 4 {
            // As Pillow takes it: many writers forget to say so.
            extra = vec![2];
        }
        // 1 is multiplied, 2 is not; Corel Draw writes 999. Without a meaning, a sample is left out.
        let alpha = extra
            .iter()
            .take(layout.samples - own)
            .position(|kind| matches!(kind, 1 | 2 | 999));
        Ok(Self {
            kind,
            bits: layout.bits,
            format: layout.format,
            alpha: alpha.map(|index| (own + index, extra[index] == 1)),
            range: (f64::INFINITY, f64::NEG_INFINITY),
            white: 1.0,
        })
    }

    pub(super) fn has_alpha(&self) -> bool {
        self.alpha.is_some()
    }

    pub(super) fn is_premultiplied(&self) -> bool {
        matches!(self.alpha, Some((_, true)))
    }

    /// Whether only all the samples together say what is white.
    pub(super) fn needs_range(&self) -> bool {
        self.format == SampleFormat::Float || self.bits > 16
    }

    /// Takes in a row's samples.
    pub(super) fn widen_range(&mut self, row: &Row<'_>) {
        let own = self.alpha.map_or(row.samples, |(index, _)| index);
        for x in 0..row.width {
            for sample in 0..own {
                let value = self.value(row.get(x, sample));
                self.range = (self.range.0.min(value), self.range.1.max(value));
            }
        }
    }

    /// Decides what is white by the largest value.
    pub(super) fn check_range(&mut self) -> Result<(), Cause> {
        let (least, most) = self.range;
        let ranges: &[(f64, f64, f64)] = match self.format {
            // Fractions; grey levels, as Pillow takes them.
            SampleFormat::Float => &[(f64::NEG_INFINITY, 1.0, 1.0), (16.0, 255.0, 255.0)],
            // 16-bit values in wider samples, as Pillow takes them.
            _ => &[(256.0, 65_535.0, 65_535.0)],
        };
        let known = ranges
            .iter()
            .find(|(low, high, _)| (*low..=*high).contains(&most));
        match known {
            Some((_, _, white)) => self.white = *white,
            // Black is black.
            None if most <= 0.0 => {}
            None => {
                let kind = if self.format == SampleFormat::Float {
                    "floating-point"
                } else {
                    "32-bit"
                };
                return Err(format!(
                    "{kind} samples from {least} to {most} in a TIFF: what is white is not said"
                )
                .into());
            }
        }
        Ok(())
    }

    /// A sample as a number.
    fn value(&self, bits: u64) -> f64 {
        match (self.format, self.bits) {
            (SampleFormat::Float, 64) => f64::from_bits(bits),
            (SampleFormat::Float, 32) => f32::from_bits(bits as u32).into(),
            (SampleFormat::Float, _) => half(bits as u16),
            (SampleFormat::Signed, 64) => (bits as i64) as f64,
            (SampleFormat::Signed, 32) => (bits as i32).into(),
            (SampleFormat::Signed, 16) => (bits as i16).into(),
            _ => bits as f64,
        }
    }

    /// A sample as a grey level.
    fn level(&self, bits: u64) -> u8 {
        let white = match self.bits {
            _ if self.needs_range() => self.white,
            8 => return bits as u8,
            16 => 65_535.0,
            bits => ((1u64 << bits) - 1) as f64,
        };
        // `as` makes nothing of NaN.
        (self.value(bits) * 255.0 / white).round() as u8
    }

    /// Whether rows are the levels wanted, as most are.
    fn is_rgb_of_bytes(&self, samples: usize) -> bool {
        let colours = if self.has_alpha() { 4 } else { 3 };
        let is_next = self.alpha.is_none_or(|(index, _)| index == 3);
        matches!(self.kind, Kind::Rgb) && self.bits == 8 && samples == colours && is_next
    }

    /// Writes a row as levels: three a pixel, or four with alpha.
    pub(super) fn write(&self, row: &Row<'_>, to: &mut [u8]) {
        if let [levels] = row.planes
            && self.is_rgb_of_bytes(row.samples)
            && to.len() <= levels.len()
        {
            to.copy_from_slice(&levels[..to.len()]);
            return;
        }
        let channels = if self.has_alpha() { 4 } else { 3 };
        for (x, to) in to.chunks_exact_mut(channels).enumerate() {
            let level = |sample| self.level(row.get(x, sample));
            let rgb = match &self.kind {
                Kind::Rgb => [level(0), level(1), level(2)],
                Kind::Grey {
                    white_is_zero: false,
                } => [level(0); 3],
                Kind::Grey {
                    white_is_zero: true,
                } => [255 - level(0); 3],
                Kind::Palette(colours) => {
                    let index = usize::try_from(row.get(x, 0)).unwrap_or(usize::MAX);
                    colours.get(index).copied().unwrap_or_default()
                }
                Kind::Cmyk => {
                    let paper =
                        [level(0), level(1), level(2), level(3)].map(|ink| 255 - u32::from(ink));
                    [0, 1, 2].map(|c| ((paper[c] * paper[3] + 127) / 255) as u8)
                }
                Kind::YCbCr(colours) => colours.rgb([level(0), level(1), level(2)]),
                Kind::Lab { is_signed } => {
                    self.lab([row.get(x, 0), row.get(x, 1), row.get(x, 2)], *is_signed)
                }
            };
            to[..3].copy_from_slice(&rgb);
            if let Some((index, _)) = self.alpha {
                to[3] = level(index);
            }
        }
    }

    /// Writes a chunk whose chroma is coarser than its luma: units of lumas and then the two chromas they share.
    pub(super) fn write_subsampled(
        &self,
        chunk: &[u8],
        at: &Chunk,
        layout: &Layout,
        to: &mut [u8],
    ) {
        let Kind::YCbCr(colours) = &self.kind else {
            return;
        };
        let (across, down) = layout.subsampling;
        let unit = across * down + 2;
        let units_across = (layout.chunk_width as usize).div_ceil(across);
        for y in 0..at.shown_height {
            for x in 0..at.shown_width {
                let start = (y / down * units_across + x / across) * unit;
                let Some(unit) = chunk.get(start..start + unit) else {
                    return;
                };
                let luma = unit[y % down * across + x % across];
                let rgb = colours.rgb([luma, unit[across * down], unit[across * down + 1]]);
                let pixel = (at.top + y) * layout.width as usize + at.left + x;
                to[3 * pixel..3 * pixel + 3].copy_from_slice(&rgb);
            }
        }
    }

    /// CIE L*a*b* (D50) → sRGB, by Bradford's adaptation.
    fn lab(&self, samples: [u64; 3], is_signed: bool) -> [u8; 3] {
        let (white, centre) = if self.bits == 8 {
            (255.0, 128)
        } else {
            (65_280.0, 32_768)
        };
        let chroma = |bits: u64| {
            let scale = if self.bits == 8 { 1.0 } else { 256.0 };
            let value = match (is_signed, self.bits) {
                (true, 8) => i64::from(bits as i8),
                (true, _) => i64::from(bits as i16),
                (false, _) => bits as i64 - centre,
            };
            value as f64 / scale
        };
        let fy = (samples[0] as f64 * 100.0 / white + 16.0) / 116.0;
        let (fx, fz) = (
            fy + chroma(samples[1]) / 500.0,
            fy - chroma(samples[2]) / 200.0,
        );
        let inverse = |f: f64| {
            if f > 6.0 / 29.0 {
                f.powi(3)
            } else {
                (f - 4.0 / 29.0) * 108.0 / 841.0
            }
        };
        let [x, y, z] = [0.9642 * inverse(fx), inverse(fy), 0.8249 * inverse(fz)];
        let linear = [
            3.1338561 * x - 1.6168667 * y - 0.4906146 * z,
            -0.9787684 * x + 1.9161415 * y + 0.0334540 * z,
            0.0719453 * x - 0.2289914 * y + 1.4052427 * z,
        ];
        linear.map(|v| {
            let encoded = if v <= 0.003_130_8 {
                12.92 * v
            } else {
                1.055 * v.powf(1.0 / 2.4) - 0.055
            };
            (255.0 * encoded).round() as u8
        })
    }
}

impl YCbCr {
    fn new(directory: &Directory<'_>) -> Self {
        let values = |tag, default: &[f64]| {
            let found = directory.fractions(tag);
            let found = found.filter(|found| {
                found.len() >= default.len() && found.iter().all(|v| v.is_finite())
            });
            found.unwrap_or_else(|| default.to_vec())
        };
        let weights = values(529, &[0.299, 0.587, 0.114]);
        let reference = values(532, &[0.0, 255.0, 128.0, 255.0, 128.0, 255.0]);
        Self {
            weights: [weights[0], weights[1], weights[2]],
            reference: [0, 1, 2, 3, 4, 5].map(|index| reference[index]),
        }
    }

    fn rgb(&self, levels: [u8; 3]) -> [u8; 3] {
        let [y0, y1, b0, b1, r0, r1] = self.reference;
        let scale = |level: u8, black: f64, white: f64, range: f64| {
            (f64::from(level) - black) * range / if white == black { 1.0 } else { white - black }
        };
        let luma = scale(levels[0], y0, y1, 255.0);
        let (cb, cr) = (
            scale(levels[1], b0, b1, 127.0),
            scale(levels[2], r0, r1, 127.0),
        );
        let [wr, wg, wb] = self.weights;
        let red = luma + cr * (2.0 - 2.0 * wr);
        let blue = luma + cb * (2.0 - 2.0 * wb);
        let green = (luma - wr * red - wb * blue) / if wg == 0.0 { 1.0 } else { wg };
        [red, green, blue].map(|level| level.round() as u8)
    }
}

/// A palette's colours: reds, greens and blues of 16 bits.
fn palette(directory: &Directory<'_>, layout: &Layout) -> Result<Vec<[u8; 3]>, Cause> {
    if layout.bits > 16 || layout.format == SampleFormat::Float {
        return Err(format!("a palette of {} bits in a TIFF is not read", layout.bits).into());
    }
    let map = directory
        .numbers(320)
        .ok_or("the TIFF file has no palette")?;
    let count = map.len() / 3;
    // Some writers fill in 8 bits only, as libtiff knows.
    let scale = if map.iter().all(|value| *value < 256) {
        1
    } else {
        256
    };
    let colour = |index| [0, 1, 2].map(|c| (map[c * count + index] / scale) as u8);
    Ok((0..count).map(colour).collect())
}

/// A 16-bit floating-point number.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023) / 1024.0);
    sign * match exponent {
        0 => fraction * 2f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction) * 2f64.powi(exponent - 15),
    }
}

fn name(photometric: u64) -> &'static str {
    match photometric {
        4 => "transparency masks",
        10 => "ITU L*a*b* colours",
        32803 | 34892 => "a camera's raw values",
        32844 | 32845 => "LogLuv colours",
        _ => "colours of an unknown kind",
    }
}
