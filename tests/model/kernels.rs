//! The switch between kernels: whatever it says, features and gradients are the same to rounding.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

use candle_core::{Device, Tensor, safetensors};
use headstart::model::{Arch, Vgg};
use headstart::{Block, ConvBase, Weights};

const SWITCH: &str = "HEADSTART_KERNELS";
/// Where the child leaves its numbers.
const FILE: &str = "HEADSTART_TEST_FILE";

/// The switch is read once: each setting has a process of its own, this test binary asked for this one test.
#[test]
#[ignore = "is run by the others"]
fn child() {
    let Ok(file) = std::env::var(FILE) else {
        return;
    };
    let slim = Vgg::Vgg11.width(0.25).unwrap();
    let base = ConvBase::new(slim, Weights::Random { seed: 7 }, &Device::Cpu).unwrap();
    let mut found = HashMap::new();
    // One picture and several, odd sides and even: other methods, tiles that stick out, rows that pooling drops.
    for (pictures, height, width) in [(1, 37, 70), (5, 64, 32)] {
        let count = pictures * 3 * height * width;
        let images: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7311).sin()).collect();
        let shape = (pictures, 3, height, width);
        let images = Tensor::from_vec(images, shape, &Device::Cpu).unwrap();
        let name = |what: &str| format!("{what} {pictures}×{height}×{width}");
        for block in Block::ALL {
            let features = base.clone().frozen().forward_to(&images, block).unwrap();
            found.insert(name(block.name()), features);
        }
        for first in [Block::Conv5, Block::Conv1] {
            let base = base.clone().frozen().unfreeze_from(first).unwrap();
            let features = base.forward(&images).unwrap();
            let gradients = features.sqr().unwrap().sum_all().unwrap().backward();
            let gradients = gradients.unwrap();
            for (parameter, var) in headstart::model::Backbone::variables(&base) {
                let what = name(&format!("gradient of {parameter} from {}", first.name()));
                found.insert(what, gradients.get(&var).unwrap().clone());
            }
            found.insert(
                name(&format!("open from {}", first.name())),
                features.detach(),
            );
        }
    }
    safetensors::save(&found, file).unwrap();
}

/// Runs the child with a setting of the switch.
fn run(setting: Option<&str>, file: &Path) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["kernels::child", "--exact", "--ignored", "--nocapture"])
        .env(FILE, file)
        .env_remove(SWITCH);
    if let Some(setting) = setting {
        command.env(SWITCH, setting);
    }
    command.output().unwrap()
}

fn numbers_of(setting: Option<&str>, folder: &Path) -> HashMap<String, Tensor> {
    let file = folder.join(setting.unwrap_or("default"));
    let output = run(setting, &file);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{setting:?}: {said}");
    safetensors::load(file, &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// How many tensors are the same to the last bit.
fn count_same(a: &HashMap<String, Tensor>, b: &HashMap<String, Tensor>) -> usize {
    let same = a.iter().filter(|(name, a)| flat(a) == flat(&b[*name]));
    same.count()
}

#[test]
fn every_setting_gives_the_same_features_and_gradients() {
    let folder = tempfile::tempdir().unwrap();
    // candle's operations are not ours: they are the truth here, if a rounded one.
    let candle = numbers_of(Some("candle"), folder.path());
    let settings = [None, Some("portable")].into_iter();
    #[cfg(target_arch = "x86_64")]
    let settings = {
        let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let has_avx512 = is_x86_feature_detected!("avx512f");
        let others = [(has_avx2, "avx2"), (has_avx512, "avx512")];
        settings.chain(
            others
                .into_iter()
                .filter_map(|(has, name)| has.then_some(Some(name))),
        )
    };
    #[cfg(target_arch = "aarch64")]
    let settings = settings.chain([Some("neon")]);
    let all: HashMap<_, _> = settings
        .map(|setting| (setting, numbers_of(setting, folder.path())))
        .collect();
    for (setting, found) in &all {
        assert_eq!(found.len(), candle.len());
        for (name, expected) in &candle {
            let (found, expected) = (flat(&found[name]), flat(expected));
            assert_eq!(found.len(), expected.len(), "{setting:?}: {name}");
            let (mut error, mut size) = (0.0, 0.0);
            for (found, expected) in found.iter().zip(&expected) {
                error += f64::from(found - expected).powi(2);
                size += f64::from(*expected).powi(2);
            }
            let error = (error / size).sqrt();
            // A sum next to zero, or two next to each other in a window, may round to the other side, and its gradient
            // is another then. Few sums are in the way of the last block's gradients, but a hundred thousand are in the
            // way of the first's: one or two of those must not matter.
            let bound = if name.starts_with("gradient") && name.contains("from block1") {
                2e-2
            } else {
                1e-5
            };
            assert!(
                size > 0.0 && error < bound,
                "{setting:?}: {name}: error {error:e}"
            );
        }
        // The same bits would mean that nobody looked at the switch.
        let same = count_same(found, &candle);
        assert!(same < candle.len() / 2, "{setting:?} runs candle's");
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // Fused multiply-adds round once, plain Rust twice.
        let same = count_same(&all[&Some("portable")], &all[&None]);
        assert!(same < candle.len() / 2, "portable runs the processor's");
    }
}

#[test]
fn kernels_that_do_not_exist_are_an_error_that_names_the_variable() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("none");
    // A misspelling, and instructions of another processor.
    let other = if cfg!(target_arch = "aarch64") {
        "avx512"
    } else {
        "neon"
    };
    for setting in ["avx-512", other] {
        let output = run(Some(setting), &file);
        assert!(!output.status.success() && !file.exists(), "{setting}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        for part in [SWITCH, setting, "portable", "candle"] {
            assert!(said.contains(part), "{said}");
        }
    }
}

/// Threads that meet at the first use of a base: its weights are packed by all threads together, and whoever waits for
/// that may take up another's forward pass meanwhile.
#[test]
fn threads_that_share_a_new_base_neither_wait_for_ever_nor_differ() {
    let images = Tensor::randn(0f32, 1., (2, 3, 64, 64), &Device::Cpu).unwrap();
    for name in ["vgg19-0.25", "mobilenetv3_small_100"] {
        let arch: Arch = name.parse().unwrap();
        let mut first: Option<Vec<f32>> = None;
        for _ in 0..5 {
            let weights = Weights::Random { seed: 3 };
            let base = ConvBase::new(arch.clone(), weights, &Device::Cpu)
                .unwrap()
                .frozen();
            let features = || {
                let features = base.forward(&images).unwrap();
                features.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            let all: Vec<Vec<f32>> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(features)).collect();
                let threads = threads.into_iter();
                threads.map(|thread| thread.join().unwrap()).collect()
            });
            let expected = first.get_or_insert_with(|| all[0].clone());
            assert!(all.iter().all(|features| features == expected), "{name}");
        }
    }
}
