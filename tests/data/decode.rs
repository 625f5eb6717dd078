//! Decoding against Pillow: `fixtures/pictures.py` makes the pictures and the pixels expected.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use headstart::Error;
use headstart::data::{decode_bytes, decode_file};
use image::RgbImage;

use crate::files;
use crate::numbers::crc32;

pub static EXPECTED: LazyLock<HashMap<String, Tensor>> = LazyLock::new(|| {
    candle_core::safetensors::load(fixture("expected.safetensors"), &Device::Cpu).unwrap()
});

/// One of the pictures.
pub fn fixture(name: &str) -> PathBuf {
    files::fixture("pictures").join(name)
}

/// The largest difference from the expected pixels, in grey levels; fails on a different size.
pub fn difference(found: &RgbImage, name: &str) -> u8 {
    let expected = &EXPECTED[name];
    let size = [found.height() as usize, found.width() as usize, 3];
    assert_eq!(expected.dims(), size, "{name}");
    let expected: Vec<u8> = expected.flatten_all().unwrap().to_vec1().unwrap();
    let pairs = found.as_raw().iter().zip(expected);
    pairs.map(|(a, b)| a.abs_diff(b)).max().unwrap()
}

fn assert_decodes(names: &[&str], tolerance: u8) {
    for name in names {
        let found = difference(&decode_file(fixture(name)).unwrap(), name);
        assert!(found <= tolerance, "{name}: off by {found}");
    }
}

fn reason(bytes: &[u8]) -> String {
    match decode_bytes(bytes) {
        Err(Error::Picture { path, source }) => {
            assert_eq!(path, Path::new("<bytes>"));
            source.to_string()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn lossless_formats_are_exact() {
    assert_decodes(
        &[
            "rgb.png",
            "rgb.bmp",
            "rgb.tif",
            "lossless.webp",
            "png_named.jpg",
            "grey.png",
            "palette.png",
            "black_and_white.png",
            "animated.gif",
            "animated.webp",
        ],
        0,
    );
}

#[test]
fn lossy_formats_agree_to_a_few_levels() {
    assert_decodes(&["rgb.jpg", "progressive.jpg", "grey.jpg"], 2);
    // Decoders differ in how they bring subsampled chroma back to size.
    assert_decodes(&["subsampled.jpg", "lossy.webp"], 8);
}

#[test]
fn cmyk_becomes_rgb() {
    assert_decodes(&["cmyk.jpg", "ycck.jpg"], 3);
}

#[test]
fn transparency_shows_white() {
    assert_decodes(
        &[
            "alpha.png",
            "alpha.webp",
            "grey_alpha.png",
            "transparent_palette.png",
        ],
        0,
    );
}

#[test]
fn sixteen_bits_are_scaled() {
    assert_decodes(&["deep.png", "deep.tif"], 0);
}

#[test]
fn exif_orientation_is_applied() {
    for orientation in 1..=8 {
        assert_decodes(&[&format!("orientation_{orientation}.png")], 0);
        assert_decodes(&[&format!("orientation_{orientation}.jpg")], 2);
    }
    assert_decodes(&["orientation_6.webp", "orientation_6.tif"], 0);
}

#[test]
fn unusable_bytes_say_why() {
    assert_eq!(reason(b""), "the file is empty");
    assert_eq!(reason(b"hello, I am a text"), "text, which is not read");
    let jpeg = fs::read(fixture("rgb.jpg")).unwrap();
    assert_eq!(
        reason(&jpeg[..jpeg.len() / 2]),
        "the JPEG data is cut short"
    );
}

#[test]
fn cut_short_is_an_error_in_every_format() {
    for name in [
        "rgb.jpg",
        "progressive.jpg",
        "rgb.png",
        "rgb.bmp",
        "rgb.tif",
        "lossless.webp",
        "lossy.webp",
        "animated.gif",
    ] {
        let bytes = fs::read(fixture(name)).unwrap();
        for tenths in [1, 3, 5, 7] {
            // An animation may well be cut after its first frame.
            if name == "animated.gif" && tenths > 5 {
                continue;
            }
            let cut = &bytes[..bytes.len() * tenths / 10];
            assert!(decode_bytes(cut).is_err(), "{name} cut at {tenths}/10");
        }
    }
}

#[test]
fn an_embedded_thumbnail_does_not_hide_a_cut() {
    let jpeg = fs::read(fixture("rgb.jpg")).unwrap();
    // An application segment holding a whole JPEG picture, right after the start marker.
    let mut with_thumbnail = jpeg[..2].to_vec();
    with_thumbnail.extend([0xff, 0xed]);
    with_thumbnail.extend((jpeg.len() as u16 + 2).to_be_bytes());
    with_thumbnail.extend(&jpeg);
    with_thumbnail.extend(&jpeg[2..]);
    assert_eq!(
        decode_bytes(&with_thumbnail).unwrap(),
        decode_bytes(&jpeg).unwrap()
    );
    with_thumbnail.truncate(with_thumbnail.len() - jpeg.len() / 4);
    assert_eq!(reason(&with_thumbnail), "the JPEG data is cut short");
}

#[test]
fn trailing_bytes_do_no_harm() {
    for name in ["rgb.jpg", "rgb.png"] {
        let mut bytes = fs::read(fixture(name)).unwrap();
        let whole = decode_bytes(&bytes).unwrap();
        bytes.extend([0; 100]);
        assert_eq!(decode_bytes(&bytes).unwrap(), whole, "{name}");
    }
}

#[test]
fn absurd_sizes_are_refused() {
    // Written into the headers: PNG (width, height; the checksum is mended), JPEG (height, width), BMP.
    let mut png = fs::read(fixture("rgb.png")).unwrap();
    png[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    png[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let checksum = crc32(&png[12..29]).to_be_bytes();
    png[29..33].copy_from_slice(&checksum);

    let mut jpeg = fs::read(fixture("rgb.jpg")).unwrap();
    let frame = jpeg
        .windows(3)
        .position(|w| w == [0xff, 0xc0, 0x00])
        .unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&60_000u16.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&60_000u16.to_be_bytes());

    let mut bmp = fs::read(fixture("rgb.bmp")).unwrap();
    bmp[18..22].copy_from_slice(&60_000u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&60_000u32.to_le_bytes());

    let mut gif = fs::read(fixture("animated.gif")).unwrap();
    gif[6..10].copy_from_slice(&[0x60, 0xea, 0x60, 0xea]);

    for bytes in [&png, &jpeg, &bmp, &gif] {
        let reason = reason(bytes);
        assert!(
            reason.contains("limit") || reason.contains("too many"),
            "{reason}"
        );
    }
    // Within the longest side, but over the memory.
    bmp[18..22].copy_from_slice(&30_000u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&30_000u32.to_le_bytes());
    assert!(reason(&bmp).contains("too many"));
}

#[test]
fn damaged_files_never_panic() {
    // Every format with single bytes changed: an error or a picture, but an answer.
    for name in EXPECTED.keys().filter(|name| !name.contains(' ')) {
        let whole = fs::read(fixture(name)).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            if let Err(Error::Picture { source, .. }) = decode_bytes(&damaged) {
                let reason = source.to_string();
                assert_ne!(reason, "the decoder panicked", "{name}, byte {at}");
            }
        }
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.jpg");
    assert!(matches!(decode_file(&missing), Err(Error::Io { path, .. }) if path == missing));
    assert!(matches!(
        decode_file(folder.path()),
        Err(Error::Picture { path, .. }) if path == folder.path()
    ));
}

#[test]
fn the_decoder_s_own_error_is_the_cause() {
    let mut png = fs::read(fixture("rgb.png")).unwrap();
    let middle = png.len() / 2;
    png[middle] ^= 1;
    let error = decode_bytes(&png).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap();
    assert!(cause.is::<image::ImageError>(), "{cause:?}");
    assert_eq!(error.to_string(), format!("picture <bytes>: {cause}"));
}
