//! A chunk of a TIFF picture, a strip or a tile, without its compression.

use std::io::{Cursor, Read};
use std::iter;

use flate2::read::ZlibDecoder;
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, RgbImage};
use jpeg_decoder::ColorTransform;
use ruzstd::decoding::StreamingDecoder;
use weezl::{BitOrder, decode};

use super::directory::{Directory, number};
use super::fax;
use super::layout::{Chunk, Layout, OLD_JPEG, SampleFormat, YCBCR, ZSTD};
use crate::data::decode::jpeg;
use crate::error::Cause;

/// A chunk's bytes as the file has them.
fn stored<'a>(
    directory: &Directory<'a>,
    layout: &Layout,
    at: &Chunk,
    plane: usize,
) -> Result<&'a [u8], Cause> {
    let number = plane * at.of + at.index;
    let offset = layout.offsets.get(number).copied().unwrap_or(0);
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|start| directory.bytes.get(start..));
    let rest = rest
        .filter(|_| offset > 0)
        .ok_or("the TIFF data is cut short")?;
    let length = match layout
        .lengths
        .as_ref()
        .and_then(|lengths| lengths.get(number))
    {
        Some(length) if *length > 0 => *length,
        // Without a length: as much as is needed, or all there is.
        _ if layout.compression == 1 => layout.bytes_of_rows(at.rows as u32),
        _ => u64::MAX,
    };
    Ok(&rest[..usize::try_from(length)
        .unwrap_or(usize::MAX)
        .min(rest.len())])
}

/// A chunk's samples of one plane.
pub(super) fn decompress(
    directory: &Directory<'_>,
    layout: &Layout,
    at: &Chunk,
    plane: usize,
) -> Result<Vec<u8>, Cause> {
    let stored = stored(directory, layout, at, plane)?;
    let reversed: Vec<u8>;
    let stored = if layout.is_reversed {
        reversed = stored.iter().map(|byte| byte.reverse_bits()).collect();
        &reversed
    } else {
        stored
    };
    let length = layout.bytes_of_rows(at.rows as u32) as usize;
    let shown = layout.bytes_of_rows(at.shown_height as u32) as usize;
    let mut samples = match layout.compression {
        1 => stored[..length.min(stored.len())].to_vec(),
        2 => fax::modified_huffman(stored, layout, at),
        3 if directory.number_or(292, 0) & 1 == 1 => fax::group_3_by_rows_above(stored, layout, at),
        3 => fax::group_3(stored, layout, at),
        4 => fax::group_4(stored, layout, at),
        5 => lzw(stored, length)?,
        8 | 32946 => {
            let mut samples = Vec::new();
            ZlibDecoder::new(stored)
                .take(length as u64)
                .read_to_end(&mut samples)?;
            samples
        }
        32773 => pack_bits(stored, length),
        ZSTD => {
            let mut samples = Vec::new();
            StreamingDecoder::new(stored)?
                .take(length as u64)
                .read_to_end(&mut samples)?;
            samples
        }
        50001 => webp(stored, layout)?,
        other => return Err(format!("{} in a TIFF is not read", name(other)).into()),
    };
    if samples.len() < shown {
        return Err("the TIFF data is cut short".into());
    }
    samples.resize(length, 0);
    undo_predictor(&mut samples, layout);
    Ok(samples)
}

fn name(compression: u64) -> String {
    let known = match compression {
        32809 => "ThunderScan compression",
        34661 => "JBIG compression",
        34676 | 34677 => "SGI Log compression",
        34712 => "JPEG 2000 compression",
        34887 => "LERC compression",
        34925 => "LZMA compression",
        50002 | 52546 => "JPEG XL compression",
        _ => return format!("compression {compression}"),
    };
    known.into()
}

/// A chunk that is a JPEG stream.
pub(super) fn decompress_picture(
    directory: &Directory<'_>,
    layout: &Layout,
    at: &Chunk,
    plane: usize,
) -> Result<RgbImage, Cause> {
    if layout.bits != 8
        || layout.format != SampleFormat::Unsigned
        || !matches!(layout.samples, 1 | 3 | 4)
    {
        return Err("JPEG compression of such samples in a TIFF is not read".into());
    }
    let expected = (at.shown_height as u32, at.shown_width as u32);
    let transform = match (layout.photometric, layout.samples_together()) {
        (YCBCR, 3) => Some(ColorTransform::YCbCr),
        (2, 3) => Some(ColorTransform::RGB),
        (0 | 1 | 2 | YCBCR, 1) => None,
        (5, 4) => Some(ColorTransform::CMYK),
        _ => return Err("JPEG compression of such colours in a TIFF is not read".into()),
    };
    if layout.compression == OLD_JPEG {
        // Only whole JPEG files within the file.
        let start = directory.number_or(513, 0) as usize;
        let stream = directory
            .bytes
            .get(start..)
            .filter(|stream| stream.starts_with(b"\xff\xd8") && at.of == 1);
        let stream = stream.ok_or("old-style JPEG compression in a TIFF is not read")?;
        let length = directory.number_or(514, stream.len() as u64) as usize;
        return jpeg::decode_part(&stream[..length.min(stream.len())], expected, transform);
    }
    let stored = stored(directory, layout, at, plane)?;
    // Tables that the chunks share: a stream without a picture.
    let mut part = match directory.raw(347) {
        Some([tables @ .., 0xff, 0xd9]) if tables.len() >= 2 && stored.len() >= 2 => {
            [tables, &stored[2..]].concat()
        }
        _ => stored.to_vec(),
    };
    let mut image = jpeg::decode_part(&part, expected, transform)?;
    part.clear();
    if layout.photometric == 0 {
        image.iter_mut().for_each(|level| *level = 255 - *level);
    }
    Ok(image)
}

fn lzw(stored: &[u8], length: usize) -> Result<Vec<u8>, Cause> {
    // libtiff tells files of its first versions, with the bits the other way round, by their first code.
    let is_old = matches!(stored, [0, second, ..] if second & 1 == 1);
    let mut decoder = if is_old {
        decode::Decoder::new(BitOrder::Lsb, 8)
    } else {
        decode::Decoder::with_tiff_size_switch(BitOrder::Msb, 8)
    };
    let mut samples = vec![0; length];
    let mut written = 0;
    let mut rest = stored;
    while written < length {
        let done = decoder.decode_bytes(rest, &mut samples[written..]);
        rest = &rest[done.consumed_in..];
        written += done.consumed_out;
        match done.status {
            Ok(weezl::LzwStatus::Ok) if done.consumed_in + done.consumed_out > 0 => {}
            Ok(_) => break,
            Err(error) => return Err(error.into()),
        }
    }
    samples.truncate(written);
    Ok(samples)
}

fn pack_bits(stored: &[u8], length: usize) -> Vec<u8> {
    let mut samples = Vec::with_capacity(length);
    let mut rest = stored;
    while let [count, after @ ..] = rest
        && samples.len() < length
    {
        let count = *count as i8;
        rest = match (count, after) {
            (0.., _) => {
                let (literal, after) = after.split_at(after.len().min(count as usize + 1));
                samples.extend_from_slice(literal);
                after
            }
            (-127..=-1, [byte, after @ ..]) => {
                samples.extend(iter::repeat_n(*byte, 1 + usize::from(count.unsigned_abs())));
                after
            }
            (-128, _) => after,
            (_, []) => after,
        };
    }
    samples.truncate(length);
    samples
}

fn webp(stored: &[u8], layout: &Layout) -> Result<Vec<u8>, Cause> {
    let decoder = WebPDecoder::new(Cursor::new(stored))?;
    let image = {
        use image::ImageDecoder;
        if u64::from(decoder.dimensions().0) * u64::from(decoder.dimensions().1)
            > layout.chunk_bytes()
        {
            return Err("a part of a TIFF is larger than it should be".into());
        }
        DynamicImage::from_decoder(decoder)?
    };
    match layout.samples {
        3 if layout.bits == 8 => Ok(image.into_rgb8().into_raw()),
        4 if layout.bits == 8 => Ok(image.into_rgba8().into_raw()),
        _ => Err("WebP compression of such samples in a TIFF is not read".into()),
    }
}

/// Adds up what was stored as differences.
fn undo_predictor(samples: &mut [u8], layout: &Layout) {
    let row_bytes = layout.row_bytes() as usize;
    let (step, width) = (layout.samples_together(), layout.bits / 8);
    if layout.predictor == 1 || row_bytes == 0 {
        return;
    }
    for row in samples.chunks_exact_mut(row_bytes) {
        if layout.predictor == 2 {
            for at in (step * width..row.len()).step_by(width) {
                let before = number(&row[at - step * width..][..width], layout.big_endian);
                let sum = number(&row[at..][..width], layout.big_endian).wrapping_add(before);
                let bytes = sum.to_le_bytes();
                for (place, byte) in bytes[..width].iter().enumerate() {
                    let to = if layout.big_endian {
                        width - 1 - place
                    } else {
                        place
                    };
                    row[at + to] = *byte;
                }
            }
        } else {
            // Floating point: the bytes lie apart, the most significant ones first.
            for at in step..row.len() {
                row[at] = row[at].wrapping_add(row[at - step]);
            }
            let apart = row.to_vec();
            let count = row.len() / width;
            for (index, value) in row.chunks_exact_mut(width).enumerate() {
                for (place, byte) in value.iter_mut().enumerate() {
                    let from = if layout.big_endian {
                        place
                    } else {
                        width - 1 - place
                    };
                    *byte = apart[from * count + index];
                }
            }
        }
    }
}
