//! Bases of other widths, with other parameters, and the one that comes with the crate.

use candle_core::{DType, Device, Tensor, Var};
use headstart::model::Backbone;
use headstart::model::Vgg;
use headstart::{ConvBase, Error, Preprocess, Weights};

fn parameters(base: &ConvBase) -> usize {
    let tensors = base.tensors();
    tensors.iter().map(|(_, tensor)| tensor.elem_count()).sum()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_width_scales_the_channels() {
    let slim = Vgg::Vgg19.width(0.25).unwrap();
    let base = ConvBase::new(slim, Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
    // Σ (9·in + 1)·out over 16 layers of (3) 16 16 32 32 64×4 128×8.
    let mut expected = 0;
    let mut inputs = 3;
    for (count, outputs) in [(2, 16), (2, 32), (4, 64), (8, 128)] {
        for _ in 0..count {
            expected += (9 * inputs + 1) * outputs;
            inputs = outputs;
        }
    }
    assert_eq!(parameters(&base), expected);
    let images = Tensor::zeros((2, 3, 32, 64), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(base.forward(&images).unwrap().dims(), [2, 128, 1, 2]);
    assert_eq!(Vgg::Vgg19.width(1.0).unwrap(), Vgg::Vgg19);
}

#[test]
fn nonsense_widths_are_named() {
    for width in [0.0, -1.0, f64::NAN, 17.0] {
        let found = Vgg::Vgg11.width(width);
        assert!(matches!(found, Err(Error::InvalidOption { .. })), "{width}");
    }
    for name in [
        "vgg19-0",
        "vgg19-",
        "vgg19-x",
        "vgg12-0.5",
        "vgg19-0.25-0.25",
    ] {
        assert!(name.parse::<Vgg>().is_err(), "{name}");
    }
}

#[test]
fn gradients_pass_through_a_function_of_the_weights() {
    let slim = Vgg::Vgg11.width(0.125).unwrap();
    let base = ConvBase::new(slim, Weights::Random { seed: 2 }, &Device::Cpu).unwrap();
    let images = Tensor::randn(0f32, 1.0, (2, 3, 32, 32), &Device::Cpu).unwrap();
    // With weights 2·v, d/dv is twice d/dw.
    let weights = base.tensors().into_iter().step_by(2);
    let halves: Vec<(String, Var)> = weights
        .map(|(name, weight)| (name, Var::from_tensor(&(weight / 2.0).unwrap()).unwrap()))
        .collect();
    let doubled: Vec<(String, Tensor)> = halves
        .iter()
        .map(|(name, half)| (name.clone(), (half.as_tensor() * 2.0).unwrap()))
        .collect();
    let direct = base.forward(&images).unwrap();
    let through = base.clone().with_parameters(doubled).unwrap();
    let through = through.forward(&images).unwrap();
    assert_eq!(numbers(&direct), numbers(&through));

    let direct = direct.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let through = through
        .sqr()
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    let weights = base.variables().into_iter().step_by(2);
    for ((name, weight), (_, half)) in weights.zip(&halves) {
        let (dw, dv) = (
            numbers(direct.get(&weight).unwrap()),
            numbers(through.get(half).unwrap()),
        );
        for (dw, dv) in dw.iter().zip(&dv) {
            assert!(
                (2.0 * dw - dv).abs() <= 1e-5 * dv.abs(),
                "{name}: {dw} and {dv}"
            );
        }
    }
}

#[test]
fn parameters_of_another_shape_are_named() {
    let base = ConvBase::vgg11(Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
    let zeros = Tensor::zeros(7, DType::F32, &Device::Cpu).unwrap();
    let unknown = base
        .clone()
        .with_parameters([("block9_conv1.bias", zeros.clone())]);
    let error = unknown.unwrap_err().to_string();
    assert!(error.contains("block9_conv1.bias"), "{error}");
    let error = base
        .with_parameters([("block3_conv2.bias", zeros)])
        .unwrap_err();
    assert!(error.to_string().contains("block3_conv2.bias"), "{error}");
}

#[test]
fn a_saved_base_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.safetensors");
    let slim = Vgg::Vgg13.width(0.125).unwrap();
    let base = ConvBase::new(slim, Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
    let base = base.with_preprocess(Preprocess::Torch);
    base.save(&path, DType::F16, &[("licence", "none")])
        .unwrap();
    let read = ConvBase::new(slim, Weights::file(&path), &Device::Cpu).unwrap();
    assert_eq!(read.preprocess(), Preprocess::Torch);
    for ((name, saved), (_, read)) in base.tensors().iter().zip(read.tensors()) {
        for (saved, read) in numbers(saved).iter().zip(numbers(&read)) {
            // Half of f16's last place.
            assert!(
                (saved - read).abs() <= saved.abs() / 2048.0 + 3e-8,
                "{name}: {saved}, {read}"
            );
        }
    }
    let error = ConvBase::new(Vgg::Vgg13, Weights::file(&path), &Device::Cpu).unwrap_err();
    assert!(matches!(error, Error::TensorShape { .. }), "{error}");
}

#[cfg(feature = "compact")]
#[test]
fn the_compact_base_comes_with_the_crate() {
    let slim = Vgg::Vgg19.width(0.25).unwrap();
    for asked in [Vgg::Vgg19, slim] {
        let base = ConvBase::new(asked, Weights::Compact, &Device::Cpu).unwrap();
        assert_eq!(base.arch().name(), slim.name());
        assert_eq!(base.preprocess(), Preprocess::Torch);
    }
    let error = ConvBase::vgg16(Weights::Compact, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("vgg19"), "{error}");
}

/// What the compact base's features are worth: a linear classifier on them, of pictures whose classes it was trained to
/// name.
#[cfg(feature = "compact")]
#[test]
#[ignore = "reads ../shared/data/tiny-imagenet"]
fn a_linear_probe_reads_the_compact_base() {
    use headstart::train::optimizer::Schedule;
    use headstart::{AdamW, Classifier, DirectoryDataset, FeatureCache, Head, Trainer};

    let root =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/tiny-imagenet");
    let train = DirectoryDataset::open_tar(&[root.join("train.tar")]).unwrap();
    let names = train.class_names();
    let validation = [root.join("validation.tar")];
    let validation = DirectoryDataset::open_tar_with_classes(&validation, names).unwrap();
    let base = ConvBase::vgg19(Weights::Compact, &Device::Cpu)
        .unwrap()
        .frozen();
    let mut model = Classifier::new(base, Head::softmax(200), names).unwrap();
    let history = Trainer::new(AdamW::new(3e-3))
        .epochs(10)
        .batch_size(250)
        .schedule(Schedule::one_cycle())
        .feature_cache(FeatureCache::in_memory())
        .fit(&mut model, &train, &validation)
        .unwrap();
    let accuracy = history.last().unwrap().val_accuracy.unwrap();
    println!("linear probe on Tiny ImageNet: {accuracy:.4} of the validation pictures");
    // Chance is 0.005; raw pixels reach about 0.03.
    assert!(accuracy > 0.15, "{accuracy}");
}
