//! Pictures as the world has them, against Pillow: `fixtures/odd.py` makes them, and `docs/PICTURES.md` has the tables
//! that are made here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;

use headstart::data::{Decoder, decode_bytes};
use image::RgbImage;
use serde_json::Value;

use crate::files;

/// Cells of the grid whose means are compared, across and down.
const GRID: usize = 4;

/// The mean difference that is allowed, in grey levels.
const TOLERANCE: f64 = 3.0;

/// Where the pixels differ from Pillow's on purpose: pictures, and why.
const ON_PURPOSE: [(&str, &str); 14] = [
    (
        "BMP/alpha_zero_everywhere",
        "transparent everywhere: the alpha was never meant, so the picture is opaque (in every format)",
    ),
    (
        "PNG: depth and transparency/clear_everywhere",
        "the same in a PNG",
    ),
    (
        "PNG: depth and transparency/rgb_16_transparent",
        "the transparent colour has 16 bits; Pillow compares it with 8",
    ),
    (
        "PNG: depth and transparency/grey_4_transparent",
        "the transparent level has 4 bits; Pillow compares it with 8",
    ),
    (
        "BMP/runs_that_skip",
        "pixels that are skipped are black; Pillow gives them the first colour",
    ),
    (
        "TIFF: depth/12_bits_little",
        "12 bits are scaled to white; Pillow takes them for 16",
    ),
    (
        "TIFF: packbits/strips_8_predicted",
        "differences are added up as the file says; Pillow shows them as they are",
    ),
    (
        "JPEG: small and narrow/2x2",
        "libjpeg does not smooth the chroma of pictures up to four pixels wide",
    ),
    (
        "TIFF: colours/white_is_zero_16_little",
        "Pillow takes 16 bits of which zero is white for their negative",
    ),
    (
        "TIFF: planes/strips_16_little_None",
        "Pillow takes the bytes of uncompressed 16-bit planes for samples",
    ),
    ("TIFF: planes/strips_16_big_None", "the same, big-endian"),
    ("TIFF: planes/tiles_16_little_None", "the same, in tiles"),
    (
        "TIFF: planes/tiles_16_big_None",
        "the same, in tiles, big-endian",
    ),
    (
        "TIFF: floating point/grey_fractions_float32",
        "values up to 1 are fractions of white; Pillow takes them for grey levels, all black",
    ),
];

/// What came of a picture.
enum Outcome {
    AsPillow,
    OnPurpose,
    /// Pillow does not read it.
    OnlyHere,
    Refused {
        reason: String,
        by_pillow: bool,
    },
}

/// The pictures, by kind and name, with what Pillow says of each.
pub fn pictures() -> Vec<(String, Vec<u8>, Value)> {
    let folder = files::fixture("odd");
    let expected = fs::read(folder.join("expected.json")).unwrap();
    let mut expected: BTreeMap<String, Value> = serde_json::from_slice(&expected).unwrap();
    let mut archive = tar::Archive::new(File::open(folder.join("pictures.tar")).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let expected = expected.remove(&name).unwrap();
        (name, bytes, expected)
    });
    entries.collect()
}

/// The mean levels of the cells of a grid; the same bounds as in the script.
fn cells(image: &RgbImage) -> Vec<[f64; 3]> {
    let bounds = |side: u32, index: usize| {
        let side = side as usize;
        let start = index * side / GRID;
        (start, ((index + 1) * side / GRID).max(start + 1))
    };
    let mut cells = Vec::new();
    for row in 0..GRID {
        for column in 0..GRID {
            let ((top, bottom), (left, right)) =
                (bounds(image.height(), row), bounds(image.width(), column));
            let mut sum = [0.0; 3];
            for y in top..bottom {
                for x in left..right {
                    let pixel = image.get_pixel(x as u32, y as u32).0;
                    (0..3).for_each(|c| sum[c] += f64::from(pixel[c]));
                }
            }
            cells.push(sum.map(|sum| sum / ((bottom - top) * (right - left)) as f64));
        }
    }
    cells
}

/// The largest difference of a cell's mean from Pillow's; infinite for another size.
fn difference(image: &RgbImage, expected: &Value) -> f64 {
    let size: [u32; 2] = serde_json::from_value(expected["size"].clone()).unwrap();
    if size != [image.height(), image.width()] {
        return f64::INFINITY;
    }
    let expected: Vec<[f64; 3]> = serde_json::from_value(expected["cells"].clone()).unwrap();
    let pairs = cells(image)
        .into_iter()
        .flatten()
        .zip(expected.into_iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn is_on_purpose(name: &str) -> bool {
    ON_PURPOSE.iter().any(|(start, _)| name.starts_with(start))
}

/// Decodes all of them.
fn outcomes() -> Vec<(String, Outcome)> {
    let mut wrong = Vec::new();
    let outcomes = pictures().into_iter().map(|(name, bytes, expected)| {
        let by_pillow = expected.get("cells").is_some();
        let outcome = match decode_bytes(&bytes) {
            Err(error) => {
                let reason = std::error::Error::source(&error).unwrap().to_string();
                Outcome::Refused { reason, by_pillow }
            }
            Ok(_) if !by_pillow => Outcome::OnlyHere,
            Ok(image) => {
                let difference = difference(&image, &expected);
                // On purpose or not: a difference that is none has no place in the list.
                if (difference > TOLERANCE) != is_on_purpose(&name) {
                    wrong.push((name.clone(), difference));
                }
                if is_on_purpose(&name) {
                    Outcome::OnPurpose
                } else {
                    Outcome::AsPillow
                }
            }
        };
        (name, outcome)
    });
    let outcomes = outcomes.collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    outcomes
}

#[test]
fn each_picture_is_read_as_pillow_reads_it_or_refused_by_name() {
    for (name, outcome) in outcomes() {
        if let Outcome::Refused { reason, .. } = outcome {
            assert!(!reason.contains("panicked"), "{name}: {reason}");
            let says_what = [
                "is not read",
                "are not read",
                "which is not read",
                "cut short",
                "damaged",
                "is not said",
                "is not known",
                "the file is empty",
                "without",
                "CRC error",
                "critical chunk",
                "Corrupt bitstream",
            ];
            assert!(
                says_what.iter().any(|part| reason.contains(part)),
                "{name}: {reason}"
            );
        }
    }
}

#[test]
fn all_orientations_are_found() {
    for (name, bytes, _) in pictures() {
        if name.starts_with("orientation/") {
            let image = decode_bytes(&bytes).unwrap();
            let is_turned = image.height() > image.width();
            assert_eq!(is_turned, !name.contains("0, whatever"), "{name}");
        }
    }
}

/// The tables of docs/PICTURES.md.
fn tables() -> String {
    let mut kinds: BTreeMap<String, ([usize; 4], BTreeSet<String>)> = BTreeMap::new();
    let mut orientations = Vec::new();
    for (name, outcome) in outcomes() {
        let (kind, file) = name.split_once('/').unwrap();
        if kind == "orientation" {
            orientations.push(format!("- {}", file.rsplit_once('.').unwrap().0));
        }
        let (counts, reasons) = kinds.entry(kind.to_owned()).or_default();
        match outcome {
            Outcome::AsPillow => counts[0] += 1,
            Outcome::OnPurpose => counts[1] += 1,
            Outcome::OnlyHere => counts[2] += 1,
            Outcome::Refused { reason, by_pillow } => {
                counts[3] += 1;
                let reason: String = reason.chars().take(90).collect();
                reasons.insert(if by_pillow {
                    reason
                } else {
                    format!("{reason} †")
                });
            }
        }
    }
    let mut table = String::from(
        "| kind | as Pillow | differs on purpose | read here only | refused | because |\n|---|---|---|---|---|---|\n",
    );
    let mut sums = [0; 4];
    for (kind, (counts, reasons)) in &kinds {
        (0..4).for_each(|n| sums[n] += counts[n]);
        let counts: Vec<String> = counts
            .iter()
            .map(|n| if *n == 0 { "–".into() } else { n.to_string() })
            .collect();
        let reasons: Vec<&str> = reasons.iter().map(String::as_str).collect();
        table += &format!(
            "| {kind} | {} | {} |\n",
            counts.join(" | "),
            reasons.join("; ")
        );
    }
    table += &format!(
        "| **all** | {} | {} | {} | {} | |\n",
        sums[0], sums[1], sums[2], sums[3]
    );
    let purposes: Vec<String> = ON_PURPOSE
        .iter()
        .map(|(name, why)| format!("| {name} | {why} |"))
        .collect();
    format!(
        "{table}\n† Pillow refuses it too.\n\n## Differences on purpose\n\n| picture | why |\n|---|---|\n{}\n\n## Orientation\n\n\
         Turned upright, wherever the file says so:\n\n{}\n",
        purposes.join("\n"),
        orientations.join("\n")
    )
}

#[test]
fn the_tables_of_the_docs_are_those_made_here() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PICTURES.md");
    let tables = tables();
    let found = fs::read_to_string(page).unwrap();
    assert!(
        found.contains(&tables),
        "docs/PICTURES.md should have\n\n{tables}"
    );
}

/// Whatever is done to a file, there is an answer.
#[test]
fn damage_is_answered() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % below
    };
    for (name, bytes, _) in pictures() {
        for _ in 0..12 {
            let mut damaged = bytes.clone();
            for _ in 0..=random(3) {
                // Headers are where sizes stand.
                let within = if random(2) == 0 {
                    damaged.len()
                } else {
                    damaged.len().min(200)
                };
                let at = random(within.max(1));
                match random(4) {
                    0 => damaged.truncate(at),
                    1 if at < damaged.len() => damaged[at] ^= 1 << random(8),
                    2 if at < damaged.len() => damaged[at] = [0, 1, 127, 255][random(4)],
                    _ => damaged.insert(at.min(damaged.len()), random(256) as u8),
                }
            }
            let found = Decoder::new().budget(16 << 20).decode_bytes(&damaged);
            if let Err(error) = found {
                assert!(!error.to_string().contains("panicked"), "{name}: {error}");
            }
        }
    }
}

#[test]
fn sizes_that_a_header_claims_are_checked_first() {
    // A TIFF of 2³² − 1 pixels each way, and one whose chroma is shared by none.
    let tiff = |tags: &[(u16, u16, u32)]| {
        let mut bytes = b"II*\0\x08\0\0\0".to_vec();
        bytes.extend((tags.len() as u16).to_le_bytes());
        for (tag, kind, value) in tags {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            let count = if *tag == 530 { 2u32 } else { 1 };
            bytes.extend(count.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend([0; 64]);
        bytes
    };
    let reason = |bytes: &[u8]| decode_bytes(bytes).unwrap_err().to_string();
    let huge = tiff(&[
        (256, 4, u32::MAX),
        (257, 4, u32::MAX),
        (258, 3, 8),
        (262, 3, 1),
        (273, 4, 8),
        (278, 4, u32::MAX),
    ]);
    assert!(reason(&huge).contains("too many"), "{}", reason(&huge));
    let chroma = tiff(&[
        (256, 4, 8),
        (257, 4, 8),
        (258, 3, 8),
        (262, 3, 6),
        (277, 3, 3),
        (322, 4, 8),
        (323, 4, 8),
        (324, 4, 8),
        (530, 3, 0),
    ]);
    assert!(!reason(&chroma).contains("panicked"), "{}", reason(&chroma));

    // A WebP picture of 48 × 40 pixels whose frame claims 16,383 × 16,383.
    let mut webp =
        b"RIFF\x2a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x2f\0\0\x27\0\0VP8 \x0c\0\0\0".to_vec();
    webp.extend(b"\x70\x09\0\x9d\x01\x2a\xff\x3f\xff\x3f\0\0");
    assert!(reason(&webp).contains("another size"), "{}", reason(&webp));
}
