//! The same on a GPU as on the CPU: features, gradients, training, caches, checkpoints and files.
//!
//! It runs on the device that [`best_device`] finds, where the tests are built for one (`--features cuda` or `metal`),
//! and says that it was not tried elsewhere. `HEADSTART_TEST_DEVICE=cpu` tries the tests themselves, on the CPU.

mod common;

use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::{Device, Tensor, Var};
use headstart::model::{Arch, Backbone, Mode, Pooling};
use headstart::train::metrics::History;
use headstart::train::optimizer::{AnyOptimizer, Clip};
use headstart::{
    AdamW, Augmenter, Checkpoints, Classifier, ConvBase, Dataset, FeatureCache, Head, RmsProp, Sgd,
    Trainer, Weights, best_device,
};

/// Runs a test on the device, or says that it was not tried.
///
/// There is one device for the process, since tensors of two `Device`s of a GPU do not mix; and one test at a time,
/// since every thread has a stream of its own there, and none waits for another's.
fn on_device(test: &str, run: impl FnOnce(&Device)) {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let trial = std::env::var("HEADSTART_TEST_DEVICE").is_ok_and(|name| name == "cpu");
    let device = DEVICE.get_or_init(|| match trial {
        true => Device::Cpu,
        false => best_device(),
    });
    if device.is_cpu() && !trial {
        // Not by println, which is kept back where a test passes.
        let line = format!("untried, since no GPU answers: {test}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
        return;
    }
    run(device);
    device.synchronize().unwrap();
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Panics unless the norm of the difference is below `bound` times the norm of what is expected.
fn assert_near(what: &str, found: &Tensor, expected: &Tensor, bound: f32) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (numbers(found), numbers(expected));
    let norm = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>().sqrt();
    let error = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
    let relative = error / norm(&mut expected.iter().copied()).max(1e-10);
    println!("{what}: {relative:e}");
    assert!(relative < bound, "{what}: relative error {relative:e}");
}

fn random_base(name: &str, device: &Device) -> ConvBase {
    let arch: Arch = name.parse().unwrap();
    let base = ConvBase::new(arch, Weights::Random { seed: 3 }, device);
    base.unwrap().frozen()
}

/// Pictures of a few sizes, and which block is the first that trains.
const CASES: [(&str, [usize; 3], Option<&str>); 10] = [
    ("vgg11", [2, 64, 64], None),
    ("vgg11", [2, 64, 64], Some("block5")),
    ("vgg11", [3, 33, 63], Some("block1")),
    ("resnet18", [2, 64, 64], Some("layer4")),
    ("resnet18", [2, 47, 64], Some("stem")),
    ("repvgg_a0", [2, 64, 64], Some("stages.3")),
    ("tf_efficientnet_lite0", [2, 64, 64], Some("blocks.6")),
    ("tf_efficientnet_lite0", [2, 63, 40], Some("stem")),
    ("mobilenetv3_small_100", [2, 64, 64], None),
    ("mobilenetv3_small_100", [2, 64, 64], Some("blocks.4")),
];

#[test]
fn features_and_gradients_are_the_cpus() {
    on_device("features and gradients", |device| {
        for (name, [pictures, height, width], first) in CASES {
            let what = format!("{name}, {pictures}×{height}×{width}, trainable from {first:?}");
            let shape = (pictures, 3, height, width);
            let images = Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
            let (features, gradients) = features_and_gradients(name, first, &images, device);
            let (expected, wanted) = features_and_gradients(name, first, &images, &Device::Cpu);
            assert_near(&what, &features, &expected, 1e-4);
            assert_eq!(gradients.len(), wanted.len());
            for ((name, found), (_, expected)) in gradients.iter().zip(&wanted) {
                assert_near(&format!("{what}, {name}"), found, expected, 5e-3);
            }
        }
    });
}

/// What a base makes of images on a device, and the gradients of a loss by name.
fn features_and_gradients(
    name: &str,
    first: Option<&str>,
    images: &Tensor,
    device: &Device,
) -> (Tensor, Vec<(String, Tensor)>) {
    let mut base = random_base(name, device);
    let mode = match first {
        Some(first) => {
            base = base.unfreeze_from(first).unwrap();
            Mode::Train
        }
        None => Mode::Infer,
    };
    let images = images.to_device(device).unwrap();
    let features = base.features(&images, mode).unwrap();
    if first.is_none() {
        return (features, Vec::new());
    }
    let loss = features.sqr().unwrap().mean_all().unwrap();
    let gradients = base.backward(&loss, &mut Vec::new()).unwrap();
    let of = |(name, var): (String, Var)| {
        let gradient = gradients.get(&var);
        let gradient = gradient.unwrap_or_else(|| panic!("{name} has no gradient"));
        (name, gradient.clone())
    };
    (features, base.variables().into_iter().map(of).collect())
}

/// What is trained: one sigmoid unit on VGG, two softmax units on a base with batch norm and windows that overlap.
fn model(name: &str, device: &Device) -> Classifier {
    let (head, last) = match name {
        "vgg11" => (Head::sigmoid(), "block5"),
        _ => (Head::softmax(2).pooling(Pooling::GlobalAverage), "layer4"),
    };
    let base = random_base(name, device).unfreeze(last).unwrap();
    Classifier::new(base, head.hidden(16).dropout(0.2), &["blue", "red"])
        .unwrap()
        .input_size(32, 32)
        .unwrap()
}

fn optimizers() -> [AnyOptimizer; 3] {
    [
        RmsProp::new(1e-4).centered(true).momentum(0.5).into(),
        AdamW::new(1e-4).into(),
        Sgd::new(1e-3).momentum(0.9).nesterov(true).into(),
    ]
}

/// Everything that a step may have in it.
fn trainer(optimizer: &AnyOptimizer) -> Trainer {
    Trainer::new(optimizer.clone())
        .epochs(2)
        .batch_size(7)
        .seed(7)
        .clip(Clip::Norm(1.0))
        .label_smoothing(0.1)
        .class_weights([1.0, 1.5])
        .augment(Augmenter::notebook())
}

fn fit(base: &str, device: &Device, trainer: &Trainer, data: &Dataset) -> (Classifier, History) {
    let mut model = model(base, device);
    let history = trainer.fit(&mut model, data, data).unwrap();
    (model, history)
}

/// Panics unless two runs have about the same losses.
fn assert_alike(what: &str, found: &History, expected: &History) {
    assert_eq!(found.epochs.len(), expected.epochs.len(), "{what}");
    for (a, b) in found.epochs.iter().zip(&expected.epochs) {
        let (a, b) = ([Some(a.loss), a.val_loss], [Some(b.loss), b.val_loss]);
        println!("{what}: {a:?} {b:?}");
        for (a, b) in a.into_iter().zip(b) {
            let (a, b) = (a.unwrap(), b.unwrap());
            assert!((a - b).abs() < 2e-2 * b.max(0.1), "{what}: {a} is not {b}");
        }
    }
}

#[test]
fn training_with_every_optimizer_is_the_cpus() {
    on_device("training", |device| {
        let (_folder, data) = common::colours(12);
        for (optimizer, base) in optimizers().iter().zip(["vgg11", "resnet18", "vgg11"]) {
            let trainer = trainer(optimizer);
            let (_, expected) = fit(base, &Device::Cpu, &trainer, &data);
            let (_, found) = fit(base, device, &trainer, &data);
            assert_alike(&format!("{base}, {optimizer:?}"), &found, &expected);
        }
    });
}

#[test]
fn cached_features_train_as_pictures_do() {
    on_device("the feature cache", |device| {
        let (folder, data) = common::colours(12);
        let disk = folder.path().join("cache");
        let trainer = trainer(&optimizers()[1]);
        let (_, expected) = fit("vgg11", device, &trainer, &data);
        // The second time the files are there.
        let on_disk = || FeatureCache::on_disk(&disk);
        for cache in [FeatureCache::in_memory(), on_disk(), on_disk()] {
            let cached = trainer.clone().feature_cache(cache.views(3));
            let (_, found) = fit("vgg11", device, &cached, &data);
            assert_alike("cached", &found, &expected);
        }
    });
}

#[test]
fn a_run_resumes_from_a_checkpoint_of_either_device() {
    on_device("checkpoints", |device| {
        let (folder, data) = common::colours(12);
        for (index, optimizer) in optimizers().iter().enumerate() {
            let trainer = trainer(optimizer);
            let (_, expected) = fit("vgg11", device, &trainer, &data);
            let cpu = &Device::Cpu;
            let ways = [(device, device), (device, cpu), (cpu, device)];
            // What a checkpoint holds is named alike for all optimizers.
            let ways = if index == 1 { &ways[..] } else { &ways[..1] };
            for (way, (from, to)) in ways.iter().enumerate() {
                let name = format!(
                    "{index}, {way}: {:?} to {:?}",
                    from.location(),
                    to.location()
                );
                let kept = folder.path().join(&name);
                let every_step = Checkpoints::new(&kept).every_steps(1).keep(100);
                let whole = trainer.clone().checkpoint(every_step.clone());
                fit("vgg11", from, &whole, &data);
                leave_first(&kept, 5);
                let again = trainer.clone().checkpoint(every_step).resume(&kept);
                let (_, resumed) = fit("vgg11", to, &again, &data);
                assert_alike(&name, &resumed, &expected);
            }
        }
    });
}

/// Removes all checkpoints but the first, as if the run had ended there.
fn leave_first(folder: &Path, count: usize) {
    let files = std::fs::read_dir(folder).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let is_checkpoint = |path: &std::path::PathBuf| {
        path.extension()
            .is_some_and(|extension| extension == "safetensors")
    };
    let mut files: Vec<_> = files.filter(is_checkpoint).collect();
    files.sort();
    assert!(files.len() > count);
    for file in files.drain(..).skip(count) {
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn what_one_device_saves_the_other_loads() {
    on_device("saving and loading", |device| {
        let (folder, data) = common::colours(4);
        for base in ["vgg11", "resnet18"] {
            for saving in [device, &Device::Cpu] {
                let file = folder.path().join("model.safetensors");
                let (trained, _) = fit(base, saving, &trainer(&optimizers()[1]), &data);
                trained.save(&file).unwrap();
                for loading in [device, &Device::Cpu] {
                    let loaded = Classifier::load(&file, loading).unwrap();
                    let own = trained.evaluate(&data).unwrap().loss.unwrap();
                    let found = loaded.evaluate(&data).unwrap().loss.unwrap();
                    assert!((found - own).abs() < 1e-4, "{base}: {found} is not {own}");
                    let picture = &data.items()[0].path;
                    let red =
                        |model: &Classifier| model.predict(picture).unwrap().probability("red");
                    let (own, found) = (red(&trained).unwrap(), red(&loaded).unwrap());
                    assert!((found - own).abs() < 1e-4, "{base}: {found} is not {own}");
                }
            }
        }
    });
}

/// One rank adds nothing to what it has: sums are the tensors as f32. Each is made just before and read just after, so
/// that a sum that did not wait, or was not waited for, would show.
#[test]
#[cfg(feature = "nccl")]
fn nccl_on_one_device_leaves_tensors_as_they_are() {
    use std::sync::Arc;

    use candle_core::DType;
    use headstart::train::communicator::{Alone, Communicator, Nccl};

    on_device("NCCL on one device", |device| {
        let ranks = Nccl::new(Arc::new(Alone), device);
        if device.is_cpu() {
            let error = ranks.unwrap_err().to_string();
            assert!(error.starts_with("rank 0: GPU: found none"), "{error}");
            return;
        }
        let ranks = ranks.unwrap();
        assert!(ranks.sums_tensors(device) && !ranks.sums_tensors(&Device::Cpu));
        for round in 0..20 {
            let large = Tensor::randn(0f32, 1.0, (1024, 1024), device).unwrap();
            let made = large.matmul(&large).unwrap();
            let tensors = [
                made.t().unwrap(),
                made.narrow(1, 7, 100).unwrap(),
                made.to_dtype(DType::BF16).unwrap(),
                made.to_dtype(DType::F16).unwrap(),
                made.clone(),
            ];
            let sums = ranks.sum_tensors(&tensors).unwrap();
            for (sum, tensor) in sums.iter().zip(&tensors) {
                let twice = (sum * 2.0).unwrap();
                assert_eq!(sum.dims(), tensor.dims());
                let expected = numbers(&tensor.to_dtype(DType::F32).unwrap());
                let doubled: Vec<f32> = expected.iter().map(|x| 2.0 * x).collect();
                assert!(numbers(sum) == expected, "round {round}");
                assert!(numbers(&twice) == doubled, "round {round}");
            }
        }
        let error = ranks.sum_tensors(&[Tensor::new(1f32, &Device::Cpu).unwrap()]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("expected one on NCCL's GPU"), "{error}");
    });
}

#[test]
fn pictures_on_another_device_than_the_base_are_an_error_that_names_both() {
    on_device("the error of two devices", |device| {
        let base = random_base("vgg11", device);
        let images = Tensor::zeros((1, 3, 32, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
        if device.is_cpu() {
            assert!(base.forward(&images).is_ok());
            return;
        }
        let error = base.forward(&images).unwrap_err().to_string();
        assert!(
            error.contains("images: found a tensor on the CPU"),
            "{error}"
        );
        assert!(error.contains("device 0, where the base is"), "{error}");
    });
}

/// What the windows of 149 pictures of 224² cover in 64 channels are more than 2³² numbers, 17 GB: candle's kernels
/// count no further. `cargo test --features cuda --test cuda -- --ignored`
#[test]
#[ignore = "takes 30 GB of a device"]
fn large_batches_are_no_others_than_small_ones() {
    on_device("large batches", |device| {
        let base = random_base("vgg13", device);
        let images = Tensor::randn(0f32, 1.0, (300, 3, 224, 224), device).unwrap();
        let all = base.forward_to(&images, "block1").unwrap();
        for picture in [0, 148, 149, 299] {
            let one = images.narrow(0, picture, 1).unwrap();
            let alone = base.forward_to(&one, "block1").unwrap();
            let found = all.narrow(0, picture, 1).unwrap();
            assert_near(&format!("picture {picture}"), &found, &alone, 1e-5);
        }
    });
}
