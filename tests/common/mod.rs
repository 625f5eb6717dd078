//! Pictures that a classifier can tell apart.

pub mod files;
pub mod numbers;
pub mod pictures;
pub mod python;

use std::path::Path;
use std::sync::OnceLock;

use candle_core::Device;
use headstart::{ConvBase, Dataset, Weights};
use image::{Rgb, RgbImage};
use tempfile::TempDir;

/// A folder of reddish and bluish pictures with noise, `count` of each.
pub fn colours(count: u32) -> (TempDir, Dataset) {
    let folder = tempfile::tempdir().unwrap();
    for (class, tint) in [("blue", [40, 40, 200]), ("red", [200, 40, 40])] {
        std::fs::create_dir(folder.path().join(class)).unwrap();
        for index in 0..count {
            save_picture(
                &folder.path().join(format!("{class}/{index}.png")),
                tint,
                index,
            );
        }
    }
    let dataset = Dataset::open(folder.path()).unwrap();
    (folder, dataset)
}

fn save_picture(path: &Path, tint: [u8; 3], seed: u32) {
    let mut state = seed.wrapping_mul(747_796_405) | 1;
    let picture = RgbImage::from_fn(40, 36, |_, _| {
        Rgb(tint.map(|level| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            level.saturating_add((state % 50) as u8)
        }))
    });
    picture.save(path).unwrap();
}

/// A frozen VGG11 with random weights, made once.
#[allow(dead_code, reason = "not every test file asks for one")]
pub fn frozen_base() -> ConvBase {
    static BASE: OnceLock<ConvBase> = OnceLock::new();
    let made = || ConvBase::vgg11(Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
    BASE.get_or_init(|| made().frozen()).clone()
}
