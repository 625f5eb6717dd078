//! Every base against timm's: tensors, each block's output, each weight's gradient, and that an open block trains.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use candle_nn::Optimizer;
use headstart::model::{Arch, Backbone};
use headstart::{ConvBase, RmsProp, Weights};
use serde::Deserialize;

use super::common::numbers::values;
use super::streams::{Tensors, fixture, numbers, sampled_error, weight};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bases");
const COTANGENT: u64 = 2000;
/// How many numbers of a tensor are compared, about: as in `make.py`.
const FEATURE_SAMPLES: usize = 67;
const GRADIENT_SAMPLES: usize = 17;
const FEATURE_TOLERANCE: f64 = 1e-4;
const GRADIENT_TOLERANCE: f64 = 1e-3;

/// What `make.py` wrote beside its samples.
#[derive(Deserialize)]
struct Fixture {
    variant: String,
    gain: f64,
    /// The weight file's tensors, in order.
    tensors: Tensors,
    /// What a base makes of them, where that is something else: RepVGG's branches become one convolution.
    fused: Option<Tensors>,
    /// How many numbers can be trained.
    parameters: usize,
    blocks: Vec<String>,
    sizes: Vec<Size>,
    gradient: Gradient,
    #[serde(skip)]
    samples: HashMap<String, Tensor>,
}

#[derive(Deserialize)]
struct Size {
    shape: Vec<usize>,
    stream: u64,
    /// The shape of each block's output.
    outputs: Vec<Vec<usize>>,
}

#[derive(Deserialize)]
struct Gradient {
    shape: Vec<usize>,
    stream: u64,
    /// Every trainable tensor and its block.
    blocks: Vec<(String, String)>,
}

/// What was compared, and how far it was from timm's.
#[derive(Default)]
struct Report {
    blocks: usize,
    tensors: usize,
    features: f64,
    gradients: f64,
}

impl Fixture {
    fn load(variant: &str) -> Self {
        let (fixture, samples) = fixture::<Self>(&format!("bases/{variant}"));
        Self { samples, ..fixture }
    }

    /// A base with the fixture's weights, through a file with timm's names; every block is trainable.
    fn base(&self, folder: &Path) -> ConvBase {
        let tensors: HashMap<_, _> = self
            .tensors
            .iter()
            .map(|(name, shape)| (name.clone(), weight(name, shape, self.gain)))
            .collect();
        let file = folder.join("weights.safetensors");
        candle_core::safetensors::save(&tensors, &file).unwrap();
        let arch: Arch = self.variant.parse().unwrap();
        ConvBase::new(arch, Weights::file(file), &Device::Cpu).unwrap()
    }

    /// The name a base has for a tensor of timm's: the same, but VGG's are Keras's.
    fn names(&self) -> HashMap<&str, String> {
        let blocks = &self.gradient.blocks;
        let mut names: HashMap<&str, String> = self
            .held()
            .iter()
            .map(|(name, _)| (name.as_str(), name.clone()))
            .collect();
        if self.variant.starts_with("vgg") {
            let mut counts = HashMap::new();
            for (name, block) in blocks {
                let (_, kind) = name.rsplit_once('.').unwrap();
                let count: &mut usize = counts.entry(block).or_default();
                *count += usize::from(kind == "weight");
                names.insert(name, format!("{block}_conv{count}.{kind}"));
            }
        }
        names
    }

    /// The tensors a base holds, by timm's names.
    fn held(&self) -> &[(String, Vec<usize>)] {
        self.fused.as_ref().unwrap_or(&self.tensors)
    }

    /// The block of every trainable tensor, by the base's names.
    fn owners(&self) -> BTreeMap<String, &str> {
        let names = self.names();
        let blocks = self.gradient.blocks.iter();
        blocks
            .map(|(name, block)| (names[name.as_str()].clone(), block.as_str()))
            .collect()
    }
}

/// Names, shapes, blocks and their number are timm's.
fn check_tensors(fixture: &Fixture, base: &ConvBase) {
    let names = fixture.names();
    let held = fixture.held().iter();
    let expected: BTreeMap<String, Vec<usize>> = held
        .map(|(name, shape)| (names[name.as_str()].clone(), shape.clone()))
        .collect();
    let tensors = base.tensors().into_iter();
    let found: BTreeMap<_, _> = tensors
        .map(|(name, tensor)| (name, tensor.dims().to_vec()))
        .collect();
    assert_eq!(found, expected);

    let blocks: Vec<String> = base.blocks().into_iter().map(|block| block.name).collect();
    assert_eq!(blocks, fixture.blocks);
    let owners = fixture.owners();
    for parameter in base.parameters() {
        if let Some(owner) = owners.get(&parameter.name) {
            assert_eq!(blocks[parameter.block], *owner, "{}", parameter.name);
        }
    }
    let variables = base.variables();
    let count: usize = variables.iter().map(|(_, var)| var.elem_count()).sum();
    assert_eq!(count, fixture.parameters);
    let mut found: Vec<String> = variables.into_iter().map(|(name, _)| name).collect();
    found.sort();
    assert_eq!(found, owners.into_keys().collect::<Vec<_>>());
}

/// The output of every block at every size; returns the largest error.
fn check_features(fixture: &Fixture, base: &ConvBase, what: &str) -> f64 {
    let mut largest = 0f64;
    for size in &fixture.sizes {
        let images = numbers(size.stream, &size.shape, 0.0, 1.0);
        let mut last = None;
        for (block, shape) in fixture.blocks.iter().zip(&size.outputs) {
            let block = block.as_str();
            let what = format!("{} {what} {:?} {block}", fixture.variant, size.shape);
            let found = base.forward_to(&images, block).unwrap();
            assert_eq!(found.dims(), shape, "{what}");
            let [n, _, h, w] = size.shape[..] else {
                unreachable!()
            };
            let expected = &fixture.samples[&format!("features/{n}x3x{h}x{w}/{block}")];
            let error = sampled_error(&what, &found, expected, FEATURE_SAMPLES);
            assert!(
                error < FEATURE_TOLERANCE,
                "{what}: relative error {error:e}"
            );
            largest = largest.max(error);
            last = Some(found);
        }
        let features = base.forward(&images).unwrap();
        assert_eq!(
            values(&features),
            values(&last.unwrap()),
            "{} {what}",
            fixture.variant
        );
    }
    largest
}

/// The base's Σ features · cotangent, of the pictures whose gradients the fixture holds.
fn loss(fixture: &Fixture, base: &ConvBase) -> Tensor {
    let images = numbers(fixture.gradient.stream, &fixture.gradient.shape, 0.0, 1.0);
    let features = base.forward(&images).unwrap();
    let cotangent = numbers(COTANGENT, features.dims(), 0.0, 1.0);
    (features * cotangent).unwrap().sum_all().unwrap()
}

/// The gradient of every open tensor; returns how many there are and the largest error.
fn check_gradients(fixture: &Fixture, base: &ConvBase, what: &str) -> (usize, f64) {
    let names = fixture.names();
    let timms: HashMap<&str, &str> = names
        .iter()
        .map(|(timm, ours)| (ours.as_str(), *timm))
        .collect();
    let gradients = base
        .backward(&loss(fixture, base), &mut Vec::new())
        .unwrap();
    let mut largest = 0f64;
    let variables = base.variables();
    for (name, var) in &variables {
        let what = format!("{} {what}: {name}", fixture.variant);
        let found = gradients
            .get(var)
            .unwrap_or_else(|| panic!("{what} has no gradient"));
        assert_eq!(found.dims(), var.dims(), "{what}");
        let expected = &fixture.samples[&format!("gradients/{}", timms[name.as_str()])];
        let error = sampled_error(&what, found, expected, GRADIENT_SAMPLES);
        assert!(
            error < GRADIENT_TOLERANCE,
            "{what}: relative error {error:e}"
        );
        largest = largest.max(error);
    }
    (variables.len(), largest)
}

fn bits(base: &ConvBase) -> BTreeMap<String, Vec<u32>> {
    let tensors = base.tensors().into_iter();
    tensors
        .map(|(name, tensor)| {
            (
                name,
                values(&tensor).into_iter().map(f32::to_bits).collect(),
            )
        })
        .collect()
}

/// One step moves every weight of the open block, and nothing else by a bit.
fn check_training(fixture: &Fixture, base: &ConvBase, block: &str) {
    let owners = fixture.owners();
    let before = bits(base);
    let loss_before = loss(fixture, base);
    let variables = base.variables().into_iter().map(|(_, var)| var).collect();
    let mut optimizer = RmsProp::new(1e-3).with_variables(variables).unwrap();
    let gradients = base.backward(&loss_before, &mut Vec::new()).unwrap();
    optimizer.step(&gradients).unwrap();
    for (name, after) in bits(base) {
        let open = owners.get(&name).is_some_and(|owner| *owner == block);
        assert_eq!(
            before[&name] != after,
            open,
            "{} with {block} open: {name}",
            fixture.variant
        );
    }
    // Nothing made of the weights before the step outlives it.
    assert_ne!(
        values(&loss_before),
        values(&loss(fixture, base)),
        "{} {block}",
        fixture.variant
    );
}

fn check(variant: &str) -> Report {
    let fixture = Fixture::load(variant);
    let folder = tempfile::tempdir().unwrap();
    let open = fixture.base(folder.path());
    let frozen = open.clone().frozen();
    assert!(frozen.variables().is_empty(), "{variant}");
    check_tensors(&fixture, &open);

    let mut report = Report {
        blocks: fixture.blocks.len(),
        ..Report::default()
    };
    report.features =
        check_features(&fixture, &frozen, "frozen").max(check_features(&fixture, &open, "open"));
    let loaded = bits(&frozen);
    let (count, error) = check_gradients(&fixture, &open, "all open");
    assert_eq!(count, fixture.gradient.blocks.len(), "{variant}");
    report.gradients = error;
    for block in &fixture.blocks {
        let base = frozen.clone().unfreeze(block.as_str()).unwrap();
        let (count, error) = check_gradients(&fixture, &base, &format!("{block} open"));
        report.tensors += count;
        report.gradients = report.gradients.max(error);
        check_training(&fixture, &base, block);
    }
    assert_eq!(report.tensors, fixture.gradient.blocks.len(), "{variant}");
    assert_eq!(
        bits(&frozen),
        loaded,
        "{variant}: training a copy changed the base it was copied from"
    );
    report
}

#[test]
fn vgg11_is_timms() {
    check("vgg11");
}

#[test]
fn resnet18_is_timms() {
    check("resnet18");
}

#[test]
fn repvgg_a0_is_timms() {
    check("repvgg_a0");
}

#[test]
fn efficientnet_lite0_is_timms() {
    check("tf_efficientnet_lite0");
}

#[test]
fn efficientnet_b0_is_timms() {
    check("efficientnet_b0");
}

#[test]
fn mobilenetv3_small_is_timms() {
    check("mobilenetv3_small_100");
}

#[test]
#[ignore = "takes minutes: every variant of every base"]
fn every_variant_is_timms() {
    let files = std::fs::read_dir(FIXTURES)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut variants: Vec<String> = files
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "safetensors")
        })
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    variants.sort();
    assert_eq!(variants.len(), 24);
    let mut all = Report::default();
    for variant in &variants {
        let report = check(variant);
        println!(
            "{variant}: {} blocks, {} tensors, features {:.1e}, gradients {:.1e}",
            report.blocks, report.tensors, report.features, report.gradients
        );
        all.blocks += report.blocks;
        all.tensors += report.tensors;
        all.features = all.features.max(report.features);
        all.gradients = all.gradients.max(report.gradients);
    }
    println!(
        "{} variants, {} blocks, {} tensors: largest feature error {:.1e}, largest gradient error {:.1e}",
        variants.len(),
        all.blocks,
        all.tensors,
        all.features,
        all.gradients
    );
}
