//! Files that are damaged, links, pipes, or something else: noticed, named, and never waited for.

use crate::common::files::unsealed;
use crate::common::numbers::bits;

use std::path::Path;

use candle_core::{DType, Device};
use headstart::model::{Arch, Backbone, Pooling, Vgg};
use headstart::{Classifier, ConvBase, Error, Head, Weights};
use image::DynamicImage;

/// Few numbers, so that each can be damaged.
fn vgg() -> Vgg {
    Vgg::Vgg11.width(1.0 / 64.0).unwrap()
}

fn model() -> Classifier {
    let base = ConvBase::new(vgg(), Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
    let head = Head::softmax(3).hidden(2).pooling(Pooling::GlobalAverage);
    let model = Classifier::new(base.frozen(), head, &["ant", "bee", "cat"]).unwrap();
    model.input_size(32, 32).unwrap()
}

fn load(path: &Path) -> headstart::Result<Classifier> {
    Classifier::load(path, &Device::Cpu)
}

fn weights(path: &Path) -> headstart::Result<ConvBase> {
    ConvBase::new(vgg(), Weights::file(path), &Device::Cpu)
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (saved, base) = (folder.path().join("model"), folder.path().join("base"));
    model().save(&saved).unwrap();
    model()
        .base()
        .save(&base, DType::F16, &[("licence", "ours")])
        .unwrap();
    let damaged = folder.path().join("damaged");
    for (whole, reads) in [
        (
            &saved,
            Box::new(|p: &Path| load(p).map(|_| ())) as Box<dyn Fn(&Path) -> headstart::Result<()>>,
        ),
        (&base, Box::new(|p: &Path| weights(p).map(|_| ()))),
    ] {
        reads(whole).unwrap();
        let whole = std::fs::read(whole).unwrap();
        let data = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        // Every bit of the header's start, one of each byte of the rest, and of every eleventh of the tensors.
        let one = |byte: usize| 8 * byte + byte % 8;
        let start = (8 * 200).min(8 * data);
        let header = (0..start).chain((start / 8..data).map(one));
        let places = header.chain((data..whole.len()).step_by(11).map(one));
        for place in places {
            let mut bytes = whole.clone();
            bytes[place / 8] ^= 1 << (place % 8);
            std::fs::write(&damaged, bytes).unwrap();
            let error = reads(&damaged).expect_err(&format!("bit {place} of {}", 8 * whole.len()));
            assert!(error.to_string().contains("damaged"), "{error}");
        }
    }
}

#[test]
fn files_without_a_checksum_load_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let (saved, old) = (folder.path().join("model"), folder.path().join("old"));
    let model = model();
    model.save(&saved).unwrap();
    std::fs::write(&old, unsealed(&saved, |_| ())).unwrap();
    let picture = DynamicImage::new_rgb8(40, 40);
    let (now, then) = (load(&saved).unwrap(), load(&old).unwrap());
    assert_eq!(
        now.predict(&picture).unwrap(),
        model.predict(&picture).unwrap()
    );
    assert_eq!(
        then.predict(&picture).unwrap(),
        model.predict(&picture).unwrap()
    );
    // The format that has one must have it.
    std::fs::write(&old, unsealed(&saved, |d| d["format"] = 3.into())).unwrap();
    assert!(
        load(&old)
            .unwrap_err()
            .to_string()
            .contains("checksum is missing")
    );
}

#[test]
fn numbers_that_are_none_are_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let (saved, old) = (folder.path().join("model"), folder.path().join("old"));
    model().save(&saved).unwrap();
    let bytes = unsealed(&saved, |_| ());
    for value in [f32::NAN, f32::NEG_INFINITY] {
        let mut bytes = bytes.clone();
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&old, bytes).unwrap();
        let error = load(&old).unwrap_err();
        assert!(matches!(error, Error::ModelFile { .. }), "{error}");
        assert!(error.to_string().contains("tensor `"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    crate::common::files::pipe(&pipe);
    let random = Path::new("/dev/zero");
    for path in [pipe.as_path(), random, folder.path()] {
        for error in [
            load(path).map(|_| ()).unwrap_err(),
            weights(path).map(|_| ()).unwrap_err(),
            model().predict(path).map(|_| ()).unwrap_err(),
        ] {
            let error = error.to_string();
            assert!(
                error.contains("not a") && error.contains(path.to_str().unwrap()),
                "{error}"
            );
        }
    }
}

#[test]
fn something_else_is_said_to_be_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 574673361\n";
    for (bytes, words) in [
        (lfs.as_bytes(), "git lfs pull"),
        (b"PK\x03\x04 archive/data.pkl and more", "PyTorch"),
        (b"\x89HDF\r\n\x1a\n and more of it here", "Keras"),
        (b"<!DOCTYPE html><html>Not found</html>", "HTML"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        for error in [load(&path).map(|_| ()), weights(&path).map(|_| ())] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}

/// The length of a header comes first, and may spell what another kind of file begins with.
#[test]
fn a_header_of_any_length_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (saved, path) = (folder.path().join("saved"), folder.path().join("padded"));
    model().save(&saved).unwrap();
    let file = unsealed(&saved, |_| ());
    let (length, rest) = file.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let (header, tensors) = rest.split_at(length);
    // A pickle, a page of HTML and a gzip archive; a zip archive's would be 67 MB.
    for magic in [0x1_0280, 0x1_213c, 0x1_8b1f_usize] {
        let blanks = vec![b' '; magic - length];
        let length = (magic as u64).to_le_bytes();
        std::fs::write(&path, [&length[..], header, &blanks, tensors].concat()).unwrap();
        load(&path).unwrap();
        weights(&path).unwrap();
    }
}

/// Weights under torchvision's names of shapes that are another network's.
fn named(path: &Path, tensors: &[(&str, &[usize])]) {
    let tensors = tensors.iter().map(|(name, shape)| {
        let zeros = candle_core::Tensor::zeros(*shape, DType::F32, &Device::Cpu).unwrap();
        ((*name).to_owned(), zeros)
    });
    candle_core::safetensors::save(&tensors.collect(), path).unwrap();
}

#[test]
fn weights_of_another_network_are_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    named(
        &path,
        &[
            ("features.0.weight", &[64, 3, 3, 3]),
            ("features.0.bias", &[64]),
            ("features.1.running_mean", &[64]),
            ("features.3.weight", &[64, 64, 3, 3]),
        ],
    );
    let error = ConvBase::vgg16(Weights::file(&path), &Device::Cpu).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("vgg16_bn") && error.contains("features.2.weight"),
        "{error}"
    );

    let resnet: Arch = "resnet18".parse().unwrap();
    let base = ConvBase::new(resnet, Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
    base.save(&path, DType::F16, &[]).unwrap();
    let error = ConvBase::vgg16(Weights::file(&path), &Device::Cpu).unwrap_err();
    assert!(
        error.to_string().contains("weights of `resnet18`"),
        "{error}"
    );

    // All of them but one.
    let tensors = base.tensors().into_iter();
    let tensors = tensors.map(|(name, tensor)| (name, tensor.dims().to_vec()));
    let rest: Vec<_> = tensors
        .filter(|(name, _)| name != "layer4.1.conv2.weight")
        .collect();
    let rest = rest
        .iter()
        .map(|(name, dims)| (name.as_str(), dims.as_slice()));
    named(&path, &rest.collect::<Vec<_>>());
    let error = ConvBase::vgg16(Weights::file(&path), &Device::Cpu).unwrap_err();
    let nearest = "nearest base is `resnet18`, but `layer4.1.conv2.weight` is missing";
    assert!(error.to_string().contains(nearest), "{error}");
}

/// Keeping the best by cloning keeps it.
#[test]
fn a_clone_is_another_model() {
    let mut trained = model();
    trained.base_mut().set_trainable(4, true).unwrap();
    let kept = trained.clone();
    let frozen = trained.base().clone().frozen();
    let all = |model: &Classifier| -> Vec<Vec<u32>> {
        let base = model.base().tensors().into_iter();
        base.chain(model.head().tensors())
            .map(|(_, tensor)| bits(&tensor))
            .collect()
    };
    let (before, frozen_before) = (all(&kept), frozen.tensors());
    for (_, var) in trained.variables() {
        var.set(&(var.as_detached_tensor() + 1.0).unwrap()).unwrap();
    }
    assert_ne!(all(&trained), before);
    assert_eq!(all(&kept), before);
    for ((name, then), (_, now)) in frozen_before.iter().zip(frozen.tensors()) {
        assert_eq!(bits(then), bits(&now), "{name}");
    }
}
