//! Grad-CAM against PyTorch's autograd: every block of some bases, frozen and open, and real weights on real pictures.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use headstart::data::{decode_file, resize};
use headstart::model::{Arch, Backbone, Pooling};
use headstart::{Classifier, ConvBase, Head, Preprocess, Resize, Weights};
use image::{Rgb, RgbImage};
use serde::Deserialize;

use super::common::numbers::values;
use super::streams::{Tensors, fixture, numbers, weight};

const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared");
/// As in `make.py`.
const SHAPE: [usize; 4] = [2, 3, 64, 80];
const PICTURES: u64 = 1000;
const HEAD: u64 = 4000;
const CLASSES: usize = 3;
const REAL: [&str; 3] = [
    "santa/00000410.jpg",
    "not_santa/00000371.jpg",
    "santa/00000412.jpg",
];
const SIDE: u32 = 224;
/// Lite0's stem has maps of 112×112 whose gradients, through fifty layers, all but cancel in their mean: there PyTorch
/// in f32 is 7e-4 from itself in f64, and we are 4e-3.
const STEM: f64 = 5e-3;
/// Where `make.py` wants the pixels.
const PIXELS: &str = "HEADSTART_FIXTURE_PIXELS";

#[derive(Deserialize)]
struct Case {
    variant: String,
    blocks: Vec<String>,
    label: usize,
    #[serde(default)]
    gain: f64,
    #[serde(default)]
    tensors: Tensors,
}

/// A classifier whose head is one layer on pooled features, with these weights.
fn linear(base: ConvBase, weight: &Tensor, bias: &Tensor, size: (usize, usize)) -> Classifier {
    let classes = bias.dims()[0];
    let names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    let head = Head::softmax(classes).pooling(Pooling::GlobalAverage);
    let model = Classifier::new(base, head, &names).unwrap();
    let model = model.input_size(size.0, size.1).unwrap();
    for (name, var) in model.head().variables() {
        var.set(if name.ends_with("weight") {
            weight
        } else {
            bias
        })
        .unwrap();
    }
    model
}

/// The head of `make.py`.
fn streamed(base: ConvBase, size: (usize, usize)) -> Classifier {
    let features = base.output_shape(224, 224).unwrap()[0];
    let weight = numbers(HEAD, &[CLASSES, features], 0.0, 1.0);
    linear(
        base,
        &weight,
        &numbers(HEAD + 1, &[CLASSES], 0.0, 1.0),
        size,
    )
}

/// The root mean square of the difference over that of what is expected.
fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let pairs = values(found).into_iter().zip(values(expected));
    let (distance, square) = pairs.fold((0.0, 0.0), |(distance, square), (a, b)| {
        let (a, b) = (f64::from(a), f64::from(b));
        (distance + (a - b).powi(2), square + b * b)
    });
    assert!(square > 0.0);
    (distance / square).sqrt()
}

#[test]
fn maps_of_every_block_are_pytorchs() {
    let (cases, maps) = fixture::<Vec<Case>>("grad_cam/small");
    for case in cases {
        let tensors = case.tensors.iter();
        let tensors: HashMap<_, _> = tensors
            .map(|(name, shape)| (name.clone(), weight(name, shape, case.gain)))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights.safetensors");
        candle_core::safetensors::save(&tensors, &file).unwrap();
        let arch: Arch = case.variant.parse().unwrap();
        let open = ConvBase::new(arch, Weights::file(file), &Device::Cpu).unwrap();
        let images = numbers(PICTURES, &SHAPE, 0.0, 1.0);
        for (state, base) in [("frozen", open.clone().frozen()), ("open", open)] {
            let model = streamed(base, (SHAPE[2], SHAPE[3]));
            for block in &case.blocks {
                let found = model.grad_cam_tensor(&images, &case.label.to_string(), block);
                let error =
                    relative_error(&found.unwrap(), &maps[&format!("{}/{block}", case.variant)]);
                assert!(error < 1e-3, "{} {state} {block}: {error:e}", case.variant);
            }
        }
    }
}

#[test]
fn two_classes_of_a_sigmoid_are_seen_where_two_softmax_units_see_them() {
    let base = ConvBase::vgg11(Weights::Random { seed: 5 }, &Device::Cpu).unwrap();
    let head = Head::sigmoid().hidden(16);
    let model = Classifier::new(base.frozen(), head, &["a", "b"]).unwrap();
    let images = numbers(PICTURES, &[2, 3, 64, 64], 0.5, 0.5);
    let softmax = model.clone().to_softmax().unwrap();
    for block in ["block1", "block4", "block5"] {
        // The units' weights are the sigmoid's but for a factor, which a map does not show.
        let shown = |model: &Classifier, class| {
            let map = model.grad_cam_tensor(&images, class, block).unwrap();
            let highest = map.max_all().unwrap();
            map.broadcast_div(&highest).unwrap()
        };
        for class in ["a", "b"] {
            let error = relative_error(&shown(&model, class), &shown(&softmax, class));
            assert!(error < 1e-5, "{block} {class}: {error:e}");
        }
    }
}

#[test]
fn an_overlay_has_the_pictures_size_and_is_warm_where_the_map_is_high() {
    let base = ConvBase::vgg11(Weights::Random { seed: 5 }, &Device::Cpu).unwrap();
    let model = Classifier::new(base.frozen(), Head::softmax(3), &["a", "b", "c"]).unwrap();
    let picture = RgbImage::from_fn(60, 45, |x, y| Rgb([(4 * x) as u8, (5 * y) as u8, 90]));
    let cam = model
        .grad_cam(image::DynamicImage::from(picture.clone()), Some("c"), None)
        .unwrap();
    assert_eq!((cam.class.as_str(), cam.block.as_str()), ("c", "block4"));
    assert_eq!((cam.map.len(), cam.map[0].len()), (4, 4));
    let shown = headstart::model::GradCam {
        map: vec![vec![0.0, 0.0, 0.0, 2.0]],
        ..cam
    };
    let overlay = shown.overlay(&picture);
    assert_eq!(overlay.dimensions(), (60, 45));
    let (cold, warm) = (overlay.get_pixel(2, 20).0, overlay.get_pixel(58, 20).0);
    assert!(warm[0] > warm[2] && cold[2] > cold[0], "{cold:?} {warm:?}");
    let named = model.grad_cam_tensor(&numbers(1, &[1, 3, 64, 64], 0.0, 1.0), "d", "block5");
    assert!(named.unwrap_err().to_string().contains("`d`"));
    let picture = image::DynamicImage::from(picture);
    let named = model.grad_cam(picture, None, Some("block9"));
    assert!(named.unwrap_err().to_string().contains("`block9`"));
}

/// Levels (N, 3, SIDE, SIDE).
fn levels() -> Tensor {
    let pictures = REAL.iter().map(|name| {
        let picture = decode_file(format!("{SHARED}/data/santa/test/{name}")).unwrap();
        let picture = resize(&picture, SIDE, SIDE, Resize::Bicubic);
        let levels: Vec<u8> = picture.iter().copied().collect();
        Tensor::from_vec(levels, (SIDE as usize, SIDE as usize, 3), &Device::Cpu).unwrap()
    });
    let batch = Tensor::stack(&pictures.collect::<Vec<_>>(), 0).unwrap();
    batch.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
}

#[test]
#[ignore = "needs ../shared"]
fn maps_of_real_weights_on_real_pictures_are_pytorchs() {
    let (cases, maps) = fixture::<Vec<Case>>("grad_cam/real");
    let levels = levels().to_dtype(DType::F32).unwrap();
    for case in cases {
        let is_vgg = case.variant == "vgg16";
        let name = if is_vgg {
            "vgg16-imagenet-caffe"
        } else {
            case.variant.as_str()
        };
        let file = format!("{SHARED}/weights/{name}.safetensors");
        let arch: Arch = case.variant.parse().unwrap();
        let base = ConvBase::new(arch, Weights::file(&file), &Device::Cpu)
            .unwrap()
            .frozen();
        // Keras's weights under torchvision's names say nothing of pixels.
        let base = match is_vgg {
            true => base.with_preprocess(Preprocess::Caffe),
            false => base,
        };
        let images = base.preprocess().apply(&levels).unwrap();
        let size = (SIDE as usize, SIDE as usize);
        let model = match is_vgg {
            true => streamed(base, size),
            false => {
                let file = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
                linear(
                    base,
                    &file["classifier.weight"],
                    &file["classifier.bias"],
                    size,
                )
            }
        };
        for block in &case.blocks {
            let found = model
                .grad_cam_tensor(&images, &case.label.to_string(), block)
                .unwrap();
            // Of large maps, every fifth row and column are kept.
            let side = found.dims()[1];
            let places: Vec<u32> = (0..side as u32)
                .step_by(if side > 28 { 5 } else { 1 })
                .collect();
            let places = Tensor::new(places, &Device::Cpu).unwrap();
            let found = found
                .index_select(&places, 1)
                .unwrap()
                .index_select(&places, 2)
                .unwrap();
            let error = relative_error(&found, &maps[&format!("{}/{block}", case.variant)]);
            println!("{} {block}: relative error {error:.1e}", case.variant);
            let tolerance = if block == "stem" { STEM } else { 1e-3 };
            assert!(error < tolerance, "{} {block}: {error:e}", case.variant);
        }
    }
}

/// For `make.py`: pictures as this crate decodes and resizes them, so that PyTorch sees the very same pixels.
#[test]
#[ignore = "needs ../shared; only tests/fixtures/grad_cam/make.py has a use for it"]
fn the_pixels_that_make_py_asks_for() {
    if let Some(file) = std::env::var_os(PIXELS) {
        candle_core::safetensors::save(&HashMap::from([("levels", levels())]), file).unwrap();
    }
}
