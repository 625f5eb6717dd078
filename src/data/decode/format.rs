//! What a file is, by its first bytes: a picture that is read, or something else by its name.

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::data) enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

/// How many of a file's bytes decide what it is.
pub(in crate::data) const HEAD: usize = 512;

impl Format {
    /// The format of a file with this beginning.
    ///
    /// # Errors
    /// What it is instead, as a whole sentence.
    pub(in crate::data) fn of(head: &[u8]) -> Result<Self, String> {
        let head = &head[..head.len().min(HEAD)];
        if head.is_empty() {
            return Err("the file is empty".into());
        }
        if let Some(format) = Self::read(head) {
            return Ok(format);
        }
        let what = match other(head) {
            Some(what) => what,
            None if head.iter().all(|byte| *byte == 0) => "nothing but zero bytes",
            None if is_text(head) => "text",
            None => return Err("the picture's format is not known".into()),
        };
        Err(format!("{what}, which is not read"))
    }

    fn read(head: &[u8]) -> Option<Self> {
        match head {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Some(Self::WebP),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Self::Tiff),
            // The length of the header follows the 14 bytes: text may begin with "BM" as well.
            [b'B', b'M', rest @ ..] => {
                let header = rest.get(12..16)?;
                let known = [12, 16, 40, 52, 56, 64, 108, 124];
                let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
                known.contains(&length).then_some(Self::Bmp)
            }
            _ => None,
        }
    }
}

/// Formats that are recognised and not read.
fn other(head: &[u8]) -> Option<&'static str> {
    if let Some(brand) = head.get(8..12)
        && head.get(4..8) == Some(b"ftyp")
    {
        return Some(match brand {
            b"avif" | b"avis" => "an AVIF picture",
            b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"mif1" | b"msf1" => {
                "a HEIC picture"
            }
            b"crx " => "a camera's raw picture",
            _ => "a video",
        });
    }
    // Its beginning may be that of a cursor.
    if is_tga(head) {
        return Some("a TGA picture");
    }
    const SIGNATURES: [(&[u8], &str); 45] = [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
        (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
        (b"\xff\x0a", "a JPEG XL picture"),
        (b"II\xbc\x01", "a JPEG XR picture"),
        (b"8BPS", "a Photoshop document (PSD)"),
        (b"gimp xcf", "a GIMP document (XCF)"),
        (b"\0\0\x01\0", "an icon (ICO)"),
        (b"\0\0\x02\0", "a cursor (CUR)"),
        (b"icns", "an icon (ICNS)"),
        (b"qoif", "a QOI picture"),
        (b"DDS ", "a DDS texture"),
        (b"\x76\x2f\x31\x01", "an OpenEXR picture"),
        (b"#?RADIANCE", "a Radiance HDR picture"),
        (b"#?RGBE", "a Radiance HDR picture"),
        (b"farbfeld", "a farbfeld picture"),
        (b"SIMPLE  =", "a FITS file"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"IIRO", "a camera's raw picture"),
        (b"IIRS", "a camera's raw picture"),
        (b"IIU\0", "a camera's raw picture"),
        (b"FUJIFILMCCD-RAW", "a camera's raw picture"),
        (b"\0MRM", "a camera's raw picture"),
        (b"FOVb", "a camera's raw picture"),
        (b"\x8aMNG", "an MNG animation"),
        (b"\x0a\x05\x01\x08", "a PCX picture"),
        (b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
        (b"%PDF", "a PDF document"),
        (b"%!PS", "a PostScript document"),
        (b"\xc5\xd0\xd3\xc6", "a PostScript document"),
        (b"PK\x03\x04", "a zip archive, or a document that is one"),
        (b"PK\x05\x06", "an empty zip archive"),
        (b"Rar!", "a RAR archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"\x1f\x8b", "a gzip file"),
        (b"BZh", "a bzip2 file"),
        (b"\xfd7zXZ", "an xz file"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"\x1aE\xdf\xa3", "a video"),
        (b"OggS", "an Ogg recording"),
        (b"ID3", "an MP3 recording"),
        (b"FLV\x01", "a video"),
        (b"\0\x05\x16\x07", "a Mac's resource fork (AppleDouble)"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
            "an Office document or Windows' thumbnails",
        ),
    ];
    let known = SIGNATURES.iter().find(|(start, _)| head.starts_with(start));
    if let Some((_, what)) = known {
        return Some(what);
    }
    match head {
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'A',
            b'V',
            b'I',
            b' ',
            ..,
        ] => Some("a video"),
        [b'R', b'I', b'F', b'F', ..] => Some("a RIFF file that is no WebP picture"),
        [0, 0, 1, 0xb3 | 0xba, ..] => Some("a video"),
        [_, _, _, _, b'm', b'o', b'o', b'v' | b'd', ..] => Some("a video"),
        [b'P', b'1'..=b'7', b'\n' | b' ' | b'\r' | b'\t' | b'#', ..] => {
            Some("a PNM picture (PPM, PGM, PBM)")
        }
        [b'P', b'F' | b'f', b'\n', ..] => Some("a PFM picture"),
        [1, 0, 0, 0, ..] if head.get(40..44) == Some(b" EMF") => Some("a Windows metafile (EMF)"),
        _ if head.get(257..262) == Some(b"ustar") => Some("a tar archive"),
        _ => markup(head),
    }
}

/// A TGA file has no signature, only a header with few sensible values.
fn is_tga(head: &[u8]) -> bool {
    let has_palette = matches!(head, [_, 1, 1 | 9, ..]);
    let has_none = matches!(head, [_, 0, 2 | 3 | 10 | 11, 0, 0, 0, 0, 0, ..]);
    head.len() >= 18
        && (has_palette || has_none)
        && matches!(head[16], 8 | 15 | 16 | 24 | 32)
        && head[17] & 0xc0 == 0
        && head[12..16] != [0; 4]
}

fn markup(head: &[u8]) -> Option<&'static str> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let text = text.trim_start();
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        return Some("an HTML page");
    }
    if text.contains("<svg") {
        return Some("an SVG drawing");
    }
    text.starts_with("<?xml").then_some("an XML document")
}

fn is_text(head: &[u8]) -> bool {
    let controls = |byte: &u8| matches!(byte, 0..=8 | 14..=26 | 28..=31 | 127);
    let text = head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff");
    text || !head.iter().any(controls)
}
