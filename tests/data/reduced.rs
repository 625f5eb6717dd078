//! JPEGs that are much larger than wanted, decoded at a part of their size: against the whole picture, resized.

use std::fs;
use std::path::Path;

use headstart::data::{Loader, decode_file, resize};
use headstart::{DirectoryDataset, Resize};
use image::{Rgb, RgbImage};

use crate::numbers::values;
use crate::odd;

/// The mean and the largest difference, in grey levels, of what a loader gives and the whole pictures resized; one pair
/// for each picture, by name.
fn differences(root: &Path, height: u32, width: u32, how: Resize) -> Vec<(String, f32, f32)> {
    let dataset = DirectoryDataset::open(root).unwrap();
    let loader = Loader::new(&dataset, height as usize, width as usize)
        .batch_size(1)
        .resize(how);
    let batches = loader.epoch(0).map(|batch| values(&batch.unwrap().inputs));
    let found: Vec<Vec<f32>> = batches.collect();
    assert_eq!(found.len(), dataset.len());
    let pairs = dataset.items().iter().zip(found).map(|(item, found)| {
        let whole = resize(&decode_file(&item.path).unwrap(), height, width, how);
        let planes = (0..3).flat_map(|c| whole.pixels().map(move |pixel| f32::from(pixel.0[c])));
        let differences: Vec<f32> = found
            .iter()
            .zip(planes)
            .map(|(a, b)| (255.0 * a - b).abs())
            .collect();
        let mean = differences.iter().sum::<f32>() / differences.len() as f32;
        let most = differences
            .iter()
            .fold(0.0, |most: f32, next| most.max(*next));
        (item.path.display().to_string(), mean, most)
    });
    pairs.collect()
}

/// A picture with edges and noise, as a photograph has them, also on its side.
fn photographs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut state = 1u32;
    let picture = RgbImage::from_fn(700, 500, |x, y| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (state >> 28) as f32;
        let edge = if (x / 60 + y / 45) % 2 == 0 {
            60.0
        } else {
            0.0
        };
        let wave = |phase: f32| {
            ((x as f32 / 50.0 + phase).sin() * (y as f32 / 70.0).cos() * 70.0 + 90.0 + edge + noise)
                as u8
        };
        Rgb([wave(0.0), wave(1.0), wave(2.0)])
    });
    for class in ["a", "b"] {
        fs::create_dir(folder.path().join(class)).unwrap();
    }
    picture.save(folder.path().join("a/plain.jpg")).unwrap();
    let mut turned = fs::read(folder.path().join("a/plain.jpg")).unwrap();
    let exif =
        b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    turned.splice(2..2, exif.iter().copied());
    fs::write(folder.path().join("b/turned.jpg"), turned).unwrap();
    folder
}

#[test]
fn a_reduced_photograph_differs_little_from_the_whole() {
    let folder = photographs();
    for (height, width) in [(32, 32), (64, 64), (100, 150)] {
        for how in [Resize::Bilinear, Resize::Bicubic] {
            for (name, mean, most) in differences(folder.path(), height, width, how) {
                assert!(
                    mean < 1.0 && most < 16.0,
                    "{name} at {height}×{width}: {mean}, {most}"
                );
            }
        }
    }
}

#[test]
fn single_pixels_are_those_of_the_whole_picture() {
    let folder = photographs();
    for (name, _, most) in differences(folder.path(), 32, 32, Resize::Nearest) {
        assert!(most < 0.01, "{name}: {most}");
    }
    // Too near to the wanted size to be reduced.
    for (name, _, most) in differences(folder.path(), 200, 200, Resize::Bilinear) {
        assert!(most < 0.01, "{name}: {most}");
    }
}

#[test]
fn every_kind_of_jpeg_is_reduced_right() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, expected) in odd::pictures() {
        if name.starts_with("JPEG: ")
            && !name.contains("small")
            && expected.get("cells").is_some()
            && headstart::data::decode_bytes(&bytes).is_ok()
        {
            let path = folder
                .path()
                .join(if name.contains("sampling") { "a" } else { "b" });
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(name.replace(['/', ' ', ':'], "_")), bytes).unwrap();
        }
    }
    // A quarter of 46 × 33 pixels.
    let found = differences(folder.path(), 4, 5, Resize::Bilinear);
    assert!(found.len() > 70);
    let wrong: Vec<_> = found
        .into_iter()
        .filter(|(_, mean, _)| *mean > 3.0)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
