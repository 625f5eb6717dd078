//! Real weights on real pictures: EfficientNet-Lite0's blocks, and the classes it sees, are timm's.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use headstart::data::{decode_file, resize};
use headstart::model::Backbone;
use headstart::{ConvBase, Preprocess, Resize, Weights};
use serde::Deserialize;

use super::streams::{fixture, sampled_error};

const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared");
const WEIGHTS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../shared/weights/tf_efficientnet_lite0.safetensors"
);
const PICTURES: [&str; 5] = [
    "santa/00000410.jpg",
    "not_santa/00000371.jpg",
    "santa/00000412.jpg",
    "not_santa/00000375.jpg",
    "not_santa/00000379.jpg",
];
const SIDES: [u32; 2] = [224, 160];
/// About how many numbers of a block's output are compared, as in `make.py`.
const SAMPLES: usize = 211;
/// Where `make.py` wants the pixels.
const PIXELS: &str = "HEADSTART_FIXTURE_PIXELS";

/// What `make.py` wrote beside its samples.
#[derive(Deserialize)]
struct Fixture {
    blocks: Vec<String>,
    /// By side: the five likeliest of ImageNet's classes for each picture, the likeliest first.
    top: HashMap<u32, Vec<Vec<usize>>>,
}

/// Levels (N, 3, side, side).
fn pixels(side: u32) -> Tensor {
    let pictures = PICTURES.iter().map(|name| {
        let picture = decode_file(format!("{SHARED}/data/santa/test/{name}")).unwrap();
        let picture = resize(&picture, side, side, Resize::Bicubic);
        let levels: Vec<u8> = picture.iter().copied().collect();
        let shape = (side as usize, side as usize, 3);
        Tensor::from_vec(levels, shape, &Device::Cpu).unwrap()
    });
    let pictures: Vec<_> = pictures.collect();
    let batch = Tensor::stack(&pictures, 0).unwrap();
    batch.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
}

/// The places of a row's five largest numbers, the largest first.
fn top_five(row: &[f32]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..row.len()).collect();
    places.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
    places.truncate(5);
    places
}

#[test]
#[ignore = "needs ../shared"]
fn real_weights_on_real_pictures_are_timms() {
    let (fixture, samples) = fixture::<Fixture>("lite0/real");
    let base = ConvBase::efficientnet_lite0(Weights::file(WEIGHTS), &Device::Cpu).unwrap();
    let base = base.frozen();
    assert_eq!(base.preprocess(), Preprocess::Half);
    assert_eq!(base.arch().block_names(), fixture.blocks);
    let file = candle_core::safetensors::load(WEIGHTS, &Device::Cpu).unwrap();
    let classifier = file["classifier.weight"].t().unwrap();
    for side in SIDES {
        let levels = pixels(side).to_dtype(DType::F32).unwrap();
        let images = Preprocess::Half.apply(&levels).unwrap();
        for block in &fixture.blocks {
            let found = base.forward_to(&images, block).unwrap();
            let what = format!("{side} {block}");
            let expected = &samples[&format!("{side}/{block}")];
            let error = sampled_error(&what, &found, expected, SAMPLES);
            assert!(error < 1e-4, "{what}: relative error {error:e}");
        }
        let pooled = base.forward(&images).unwrap().mean((2, 3)).unwrap();
        let logits = pooled.matmul(&classifier).unwrap();
        let logits = logits.broadcast_add(&file["classifier.bias"]).unwrap();
        let logits = logits.to_vec2::<f32>().unwrap();
        let found: Vec<_> = logits.iter().map(|row| top_five(row)).collect();
        assert_eq!(found, fixture.top[&side], "{side}");
    }
}

/// For `make.py`: pictures as this crate decodes and resizes them, so that timm sees the very same pixels.
#[test]
#[ignore = "needs ../shared; only tests/fixtures/lite0/make.py has a use for it"]
fn the_pixels_that_make_py_asks_for() {
    if let Some(file) = std::env::var_os(PIXELS) {
        let tensors = SIDES.map(|side| (side.to_string(), pixels(side)));
        candle_core::safetensors::save(&HashMap::from(tensors), file).unwrap();
    }
}
