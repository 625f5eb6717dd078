//! Which way up a picture stands, wherever its file says so.
//!
//! The first of these that is there counts, as in Pillow: EXIF (JPEG's APP1, WebP's `EXIF`, PNG's `eXIf` before or
//! after the pixels and ImageMagick's raw profile, TIFF's own tag), then `tiff:Orientation` in XMP.

use std::io::Read;

use flate2::read::ZlibDecoder;
use image::metadata::Orientation;

use super::format::Format;

/// EXIF's and TIFF's tag.
const ORIENTATION: u16 = 274;

/// The most bytes that compressed metadata is unpacked to: far more than a sensible profile takes.
const MAX_UNPACKED: u64 = 1 << 20;

/// What turns the decoded picture upright.
pub(super) fn of(bytes: &[u8], format: Format) -> Orientation {
    let found = match format {
        Format::Jpeg => jpeg(bytes),
        Format::Png => png(bytes),
        Format::WebP => webp(bytes),
        Format::Tiff => Metadata {
            exif: Some(bytes),
            xmp: super::tiff::xmp(bytes).map(<[u8]>::to_vec),
            ..Metadata::default()
        },
        Format::Gif | Format::Bmp => Metadata::default(),
    };
    let said = found.exif.and_then(exif);
    let said = said.or_else(|| exif(&found.raw_profile?));
    let said = said.or_else(|| xmp(&found.xmp?));
    let known = said.and_then(|value| Orientation::from_exif(u8::try_from(value).ok()?));
    known.unwrap_or(Orientation::NoTransforms)
}

/// Whether a picture turned so has its sides exchanged.
pub(super) fn exchanges_sides(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    )
}

#[derive(Default)]
struct Metadata<'a> {
    exif: Option<&'a [u8]>,
    /// EXIF as ImageMagick keeps it in a PNG.
    raw_profile: Option<Vec<u8>>,
    xmp: Option<Vec<u8>>,
}

/// The value of the orientation tag in the first directory of a TIFF structure.
fn exif(bytes: &[u8]) -> Option<u32> {
    let bytes = bytes.strip_prefix(b"Exif\0\0").unwrap_or(bytes);
    super::tiff::small_number(bytes, ORIENTATION)
}

/// `tiff:Orientation`, as an attribute or an element.
fn xmp(packet: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    let at = packet.windows(NAME.len()).position(|part| part == NAME)? + NAME.len();
    let digits = match packet.get(at..)? {
        [b'=', b'"' | b'\'', digits @ ..] | [b'>', digits @ ..] => digits,
        _ => return None,
    };
    let digit = char::from(*digits.first()?);
    digit.to_digit(10)
}

fn jpeg(bytes: &[u8]) -> Metadata<'_> {
    const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
    let mut found = Metadata::default();
    for (marker, segment) in super::jpeg::Segments::new(bytes) {
        if marker == 0xe1 {
            if segment.starts_with(b"Exif\0\0") {
                found.exif = found.exif.or(Some(segment));
            } else if let Some(packet) = segment.strip_prefix(XMP) {
                found.xmp.get_or_insert_with(|| packet.to_vec());
            }
        }
    }
    found
}

fn webp(bytes: &[u8]) -> Metadata<'_> {
    let mut found = Metadata::default();
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let Some((head, body)) = rest.split_first_chunk::<8>() {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let chunk = &body[..length.min(body.len())];
        match &head[..4] {
            b"EXIF" => found.exif = found.exif.or(Some(chunk)),
            b"XMP " => {
                found.xmp.get_or_insert_with(|| chunk.to_vec());
            }
            _ => {}
        }
        rest = body
            .get(length.saturating_add(length % 2)..)
            .unwrap_or_default();
    }
    found
}

fn png(bytes: &[u8]) -> Metadata<'_> {
    let mut found = Metadata::default();
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((head, body)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let chunk = &body[..length.min(body.len())];
        match &head[4..] {
            b"eXIf" => found.exif = found.exif.or(Some(chunk)),
            b"tEXt" | b"zTXt" | b"iTXt" => png_text(&head[4..], chunk, &mut found),
            b"IEND" => break,
            _ => {}
        }
        // The checksum follows.
        rest = body.get(length.saturating_add(4)..).unwrap_or_default();
    }
    found
}

/// Takes in a PNG's text if it is metadata.
fn png_text<'a>(kind: &[u8], chunk: &'a [u8], found: &mut Metadata<'a>) {
    let Some(end) = chunk.iter().take(80).position(|byte| *byte == 0) else {
        return;
    };
    let (keyword, text) = (&chunk[..end], &chunk[end + 1..]);
    let text = || match (kind, text) {
        (b"tEXt", text) => Some(text.to_vec()),
        (b"zTXt", [0, packed @ ..]) => unpack(packed),
        (b"iTXt", [compressed, _, rest @ ..]) => {
            // The language and the translated keyword, each up to a zero.
            let mut parts = rest.splitn(3, |byte| *byte == 0);
            let text = parts.nth(2)?;
            match compressed {
                0 => Some(text.to_vec()),
                _ => unpack(text),
            }
        }
        _ => None,
    };
    match keyword {
        b"Raw profile type exif" | b"Raw profile type APP1" if found.raw_profile.is_none() => {
            found.raw_profile = text().and_then(|text| raw_profile(&text));
        }
        b"XML:com.adobe.xmp" if found.xmp.is_none() => found.xmp = text(),
        _ => {}
    }
}

fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = ZlibDecoder::new(packed)
        .take(MAX_UNPACKED)
        .read_to_end(&mut bytes);
    // What was unpacked before an error may do.
    (read.is_ok() || !bytes.is_empty()).then_some(bytes)
}

/// ImageMagick's form: an empty line, a name, a length, then hexadecimal digits in lines.
fn raw_profile(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let digits: Vec<u32> = text
        .trim_start()
        .lines()
        .skip(2)
        .flat_map(str::chars)
        .filter_map(|c| c.to_digit(16))
        .collect();
    Some(
        digits
            .chunks_exact(2)
            .map(|pair| (16 * pair[0] + pair[1]) as u8)
            .collect(),
    )
}
