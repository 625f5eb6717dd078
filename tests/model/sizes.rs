//! What sizes of pictures bases take, and what shapes come out.

use candle_core::{DType, Device, Tensor};
use headstart::model::{Arch, Backbone};
use headstart::{ConvBase, Error, Weights};
use serde::Deserialize;

use super::streams::fixture;

/// The smallest of each family: running all of them would take minutes.
const RUN: [&str; 6] = [
    "vgg11",
    "resnet18",
    "repvgg_a0",
    "tf_efficientnet_lite0",
    "efficientnet_b0",
    "mobilenetv3_small_100",
];

/// VGG's pools have no padding and halve 32 pixels five times; padded windows fit any map.
fn smallest(arch: &Arch) -> usize {
    if arch.name().starts_with("vgg") {
        32
    } else {
        1
    }
}

/// Five halvings, which VGG rounds down and the others up.
fn expected(arch: &Arch, sides: [usize; 2]) -> [usize; 3] {
    let [h, w] = sides.map(|side| match smallest(arch) {
        1 => side.div_ceil(32),
        _ => side / 32,
    });
    let features = arch.blocks().last().unwrap().layers.iter();
    let convs: Vec<_> = features.flat_map(|layer| layer.convs()).collect();
    [convs.last().unwrap().outputs, h, w]
}

fn random(arch: &Arch) -> ConvBase {
    let weights = Weights::Random { seed: 1 };
    ConvBase::new(arch.clone(), weights, &Device::Cpu).unwrap()
}

#[test]
fn every_table_takes_pictures_down_to_its_smallest_side_and_of_odd_sizes() {
    for arch in Arch::all() {
        let side = smallest(&arch);
        for [h, w] in [[side, side], [side, 97], [97, 61], [64, 64], [61, 225]] {
            let output = arch.output([3, h, w]);
            assert_eq!(output, Some(expected(&arch, [h, w])), "{arch} {h}×{w}");
        }
        for [h, w] in [[side - 1, side], [side, side - 1], [side - 1, 97]] {
            assert_eq!(arch.output([3, h, w]), None, "{arch} {h}×{w}");
        }
    }
}

#[test]
fn every_table_gives_timms_shapes() {
    #[derive(Deserialize)]
    struct Fixture {
        sizes: Vec<Size>,
    }
    #[derive(Deserialize)]
    struct Size {
        shape: [usize; 4],
        outputs: Vec<[usize; 4]>,
    }
    for arch in Arch::all() {
        let (fixture, _) = fixture::<Fixture>(&format!("bases/{arch}"));
        assert!(!fixture.sizes.is_empty());
        for Size { shape, outputs } in fixture.sizes {
            let [_, image @ ..] = shape;
            let [_, output @ ..] = *outputs.last().unwrap();
            assert_eq!(arch.output(image), Some(output), "{arch} {image:?}");
        }
    }
}

#[test]
fn features_have_the_shape_that_was_announced() {
    for name in RUN {
        let arch: Arch = name.parse().unwrap();
        let base = random(&arch).frozen();
        let side = smallest(&arch);
        for [h, w] in [[side, side], [97, 61], [side, 75]] {
            let announced = base.output_shape(h, w).unwrap();
            assert_eq!(announced, expected(&arch, [h, w]), "{name} {h}×{w}");
            let images = Tensor::ones((2, 3, h, w), DType::F32, &Device::Cpu).unwrap();
            let features = base.forward(&images).unwrap();
            assert_eq!(features.dims()[1..], announced, "{name} {h}×{w}");
        }
    }
}

#[test]
fn a_pixel_less_is_refused_with_both_sizes() {
    for name in RUN {
        let arch: Arch = name.parse().unwrap();
        let base = random(&arch).frozen();
        let side = smallest(&arch);
        for (h, w) in [(side - 1, side - 1), (side, side - 1), (side - 1, 97)] {
            let error = base.output_shape(h, w).unwrap_err().to_string();
            for part in [
                format!("{h}×{w}"),
                format!("{side}×{side}"),
                name.to_owned(),
            ] {
                assert!(error.contains(&part), "{error}");
            }
            assert!(base.summary(h, w).is_err(), "{name} {h}×{w}");

            let images = Tensor::zeros((1, 3, h, w), DType::F32, &Device::Cpu).unwrap();
            let error = base.forward(&images).unwrap_err();
            assert!(matches!(error, Error::Shape { .. }), "{error}");
            let error = error.to_string();
            for part in [format!("[1, 3, {h}, {w}]"), format!("at least {side}")] {
                assert!(error.contains(&part), "{error}");
            }
        }
    }
}
