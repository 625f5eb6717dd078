//! One side of `tests/parity/run.sh`: random networks are made and trained for five steps, random pictures are varied,
//! random folders are opened, and all is written where `HEADSTART_PARITY` says. `tests/parity/check.py` does the same
//! in PyTorch, in NumPy and by Keras's rule, and compares.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use headstart::data::{FillMode, Loader};
use headstart::model::arch::BlockTable;
use headstart::model::arch::layer::{Activation, Conv, Layer, Padding, Residual, SqueezeExcite};
use headstart::model::{Arch, Backbone, Pooling};
use headstart::train::optimizer::{Clip, Schedule};
use headstart::{
    AdamW, Augmenter, Classifier, ConvBase, Dataset, Head, RmsProp, Sgd, Trainer, Weights,
};
use image::{DynamicImage, Rgb, Rgb32FImage, RgbImage};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

type Random = ChaCha8Rng;

const ACTIVATIONS: [Activation; 8] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Relu6,
    Activation::Silu,
    Activation::HardSwish,
    Activation::HardSigmoid,
    Activation::Sigmoid,
    Activation::Gelu,
];

fn pick<T: Copy>(choices: &[T], rng: &mut Random) -> T {
    *choices.choose(rng).unwrap()
}

/// Where to write, if this was asked for.
fn folder(part: &str) -> Option<PathBuf> {
    let Ok(folder) = std::env::var("HEADSTART_PARITY") else {
        eprintln!("skipped: tests/parity/run.sh runs this");
        return None;
    };
    let folder = Path::new(&folder).join(part);
    std::fs::create_dir_all(&folder).unwrap();
    Some(folder)
}

/// A table while it grows.
struct Table {
    rng: Random,
    channels: usize,
    convs: usize,
}

impl Table {
    fn conv(&mut self, outputs: usize, kernel: usize, stride: usize) -> Conv {
        self.convs += 1;
        let name = format!("c{}", self.convs);
        let mut conv = Conv::new(&name, self.channels, outputs, kernel).stride(stride);
        if outputs == self.channels && self.rng.random_bool(0.4) {
            conv = conv.depthwise();
        }
        if self.rng.random_bool(0.5) {
            conv = conv.norm(format!("{name}n"), pick(&[1e-5, 1e-3], &mut self.rng));
        }
        if self.rng.random_bool(0.2) {
            conv = conv.padding(Padding::Same);
        }
        conv.activation(pick(&ACTIVATIONS, &mut self.rng))
    }

    fn squeeze(&mut self) -> Layer {
        let all = self.channels;
        let fewer = 1 + all / 3;
        let mut dense = |inputs, outputs, activation| {
            self.convs += 1;
            Conv::new(format!("c{}", self.convs), inputs, outputs, 1).activation(activation)
        };
        Layer::SqueezeExcite(SqueezeExcite {
            reduce: dense(all, fewer, Activation::Silu),
            expand: dense(fewer, all, Activation::Sigmoid),
        })
    }

    fn residual(&mut self) -> Layer {
        let (inputs, stride) = (self.channels, self.rng.random_range(1..=2));
        let outputs = pick(&[inputs, 4, 6], &mut self.rng);
        let first = self.conv(outputs, 3, stride).padding(Padding::Zeros(1));
        self.channels = outputs;
        let second = self.conv(outputs, 3, 1).padding(Padding::Zeros(1));
        let shortcut = (stride > 1 || inputs != outputs).then(|| {
            self.convs += 1;
            Conv::new(format!("c{}", self.convs), inputs, outputs, 1)
                .stride(stride)
                .padding(Padding::Zeros(0))
        });
        Layer::Residual(Residual {
            name: format!("sum{}", self.convs),
            body: vec![Layer::Conv(first), Layer::Conv(second)],
            shortcut,
            activation: pick(&ACTIVATIONS, &mut self.rng),
        })
    }

    fn layer(&mut self) -> Layer {
        let name = format!("pool{}", self.convs);
        match self.rng.random_range(0..8) {
            0 => Layer::MaxPool {
                name,
                kernel: 3,
                stride: 2,
                padding: 1,
            },
            1 => Layer::AveragePool {
                name,
                kernel: 2,
                stride: 1,
            },
            2 => self.squeeze(),
            3 | 4 => self.residual(),
            _ => {
                let outputs = pick(&[self.channels, 3, 5, 8], &mut self.rng);
                let (kernel, stride) = (
                    pick(&[1, 3, 3, 5], &mut self.rng),
                    self.rng.random_range(1..=2),
                );
                let conv = self.conv(outputs, kernel, stride);
                self.channels = outputs;
                Layer::Conv(conv)
            }
        }
    }
}

/// One to four blocks that begin with a convolution, or a single 1×1 convolution, which is as good as no base.
fn table(rng: &mut Random) -> Arch {
    if rng.random_bool(0.1) {
        let conv = Layer::Conv(Conv::new("c0", 3, 3, 1));
        return Arch::new("none", vec![BlockTable::new("b0", vec![conv])]);
    }
    let mut table = Table {
        rng: Random::seed_from_u64(rng.random()),
        channels: 3,
        convs: 0,
    };
    let blocks = (0..rng.random_range(1..=4)).map(|number| {
        let stem = table.conv(pick(&[4, 6, 8], &mut table.rng.clone()), 3, 1);
        table.channels = stem.outputs;
        let rest = (0..rng.random_range(0..3)).map(|_| table.layer());
        let layers = std::iter::once(Layer::Conv(stem)).chain(rest).collect();
        BlockTable::new(format!("b{number}"), layers)
    });
    Arch::new("random", blocks.collect())
}

fn described(layer: &Layer) -> Value {
    let conv = |conv: &Conv| {
        json!({
            "kind": "conv", "name": conv.name, "stride": conv.stride, "groups": conv.groups,
            "padding": match conv.padding { Padding::Zeros(zeros) => json!(zeros), Padding::Same => json!("same") },
            "bias": conv.bias, "activation": conv.activation.name(),
            "norm": conv.norm.as_ref().map(|norm| json!({"name": norm.name, "epsilon": norm.epsilon})),
        })
    };
    match layer {
        Layer::Conv(own) => conv(own),
        Layer::MaxPool {
            kernel,
            stride,
            padding,
            ..
        } => {
            json!({"kind": "max", "kernel": kernel, "stride": stride, "padding": padding})
        }
        Layer::AveragePool { kernel, stride, .. } => {
            json!({"kind": "average", "kernel": kernel, "stride": stride})
        }
        Layer::SqueezeExcite(squeeze) => {
            json!({"kind": "squeeze", "reduce": conv(&squeeze.reduce), "expand": conv(&squeeze.expand)})
        }
        Layer::Residual(residual) => json!({
            "kind": "residual", "activation": residual.activation.name(),
            "body": residual.body.iter().map(described).collect::<Vec<_>>(),
            "shortcut": residual.shortcut.as_ref().map(conv),
        }),
    }
}

/// A base whose every tensor, statistics too, is random; its weights pass through a file.
fn base(arch: &Arch, folder: &Path, rng: &mut Random) -> ConvBase {
    let seed = Weights::Random { seed: rng.random() };
    let fresh = ConvBase::new(arch.clone(), seed, &Device::Cpu).unwrap();
    let mut tensors = HashMap::new();
    for (name, tensor) in fresh.tensors() {
        let spread = if name.ends_with("running_var") {
            0.5
        } else {
            0.2
        };
        let noise: Vec<f32> = (0..tensor.elem_count())
            .map(|_| rng.random_range(-spread..spread))
            .collect();
        let noise = Tensor::from_vec(noise, tensor.shape(), &Device::Cpu).unwrap();
        tensors.insert(name, (tensor + noise).unwrap());
    }
    let path = folder.join("base.safetensors");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    ConvBase::new(arch.clone(), Weights::file(path), &Device::Cpu).unwrap()
}

fn optimizer(rng: &mut Random) -> (Trainer, Value) {
    let rate = 10f64.powf(rng.random_range(-4.0..-2.0));
    let momentum = pick(&[0.0, 0.9], rng);
    match rng.random_range(0..5) {
        0 => {
            let nesterov = momentum > 0.0 && rng.random();
            let sgd = Sgd::new(rate).momentum(momentum).nesterov(nesterov);
            (
                Trainer::new(sgd),
                json!({"kind": "sgd", "rate": rate, "momentum": momentum, "nesterov": nesterov}),
            )
        }
        1 => {
            let decay = pick(&[0.0, 0.01, 0.3], rng);
            let adamw = AdamW::new(rate).weight_decay(decay).epsilon(1e-4);
            (
                Trainer::new(adamw),
                json!({"kind": "adamw", "rate": rate, "decay": decay}),
            )
        }
        2 => (
            Trainer::new(AdamW::adam(rate).epsilon(1e-4)),
            json!({"kind": "adam", "rate": rate}),
        ),
        3 => {
            let centered = rng.random();
            let rmsprop = RmsProp::pytorch(rate)
                .epsilon(1e-4)
                .momentum(momentum)
                .centered(centered);
            let config = json!({"kind": "rmsprop", "rate": rate, "momentum": momentum, "centered": centered});
            (Trainer::new(rmsprop), config)
        }
        _ => (
            Trainer::new(RmsProp::new(rate)),
            json!({"kind": "keras_rmsprop", "rate": rate}),
        ),
    }
}

fn schedule(rng: &mut Random) -> (Schedule, Value) {
    match rng.random_range(0..4) {
        0 => (Schedule::constant(), json!({"kind": "constant"})),
        1 => (
            Schedule::cosine(0.1),
            json!({"kind": "cosine", "alpha": 0.1}),
        ),
        2 => (
            Schedule::constant().warmup(3),
            json!({"kind": "warmup", "steps": 3}),
        ),
        _ => (Schedule::one_cycle(), json!({"kind": "one_cycle"})),
    }
}

fn tensors(model: &Classifier) -> HashMap<String, Tensor> {
    let base = model
        .base()
        .tensors()
        .into_iter()
        .map(|(name, tensor)| (format!("base.{name}"), tensor));
    let head = model
        .head()
        .tensors()
        .into_iter()
        .map(|(name, tensor)| (format!("head.{name}"), tensor));
    // Copies: the model's own go on changing.
    base.chain(head)
        .map(|(name, tensor)| (name, tensor.copy().unwrap()))
        .collect()
}

fn pictures(count: usize, classes: usize, side: u32, rng: &mut Random) -> Dataset {
    let images: Vec<_> = (0..count)
        .map(|number| {
            let image = RgbImage::from_fn(side, side, |_, _| Rgb(rng.random()));
            (DynamicImage::from(image), number % classes)
        })
        .collect();
    let names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    Dataset::from_images(images, &names).unwrap()
}

fn network(number: u64, folder: &Path) {
    let mut rng = Random::seed_from_u64(number);
    std::fs::create_dir_all(folder).unwrap();
    let arch = table(&mut rng);
    let mut base = base(&arch, folder, &mut rng);
    let blocks = arch.blocks().iter().enumerate();
    let blocks: Vec<Value> = blocks
        .map(|(index, block)| {
            let trainable = arch.name() != "none" && rng.random_bool(0.5);
            base.set_trainable(index, trainable).unwrap();
            let layers: Vec<Value> = block.layers.iter().map(described).collect();
            json!({"name": block.name, "trainable": trainable, "layers": layers})
        })
        .collect();
    let classes = rng.random_range(2..=4);
    let is_sigmoid = classes == 2 && rng.random_bool(0.6);
    let mut head = if is_sigmoid {
        Head::sigmoid()
    } else {
        Head::softmax(classes)
    };
    let hidden: Vec<usize> = (0..rng.random_range(0..3))
        .map(|_| rng.random_range(2..9))
        .collect();
    head = hidden
        .iter()
        .fold(head, |head, units| head.hidden(*units))
        .seed(rng.random());
    let pooled = rng.random();
    head = head.pooling(if pooled {
        Pooling::GlobalAverage
    } else {
        Pooling::Flatten
    });
    // Pictures, how many together, and epochs: five steps in all, the last batch short in some.
    let (count, batch, epochs) = pick(
        &[(10, 2, 1), (13, 3, 1), (6, 6, 5), (9, 2, 1), (4, 4, 5)],
        &mut rng,
    );
    let takes = |side: &usize| arch.output([3, *side, *side]).is_some();
    let side = (16..).find(takes).unwrap() + rng.random_range(0..12);
    let names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    let mut model = Classifier::new(base, head, &names).unwrap();
    model = model.input_size(side, side).unwrap();
    let dataset = pictures(count, classes, side as u32, &mut rng);
    let (trainer, optimizer) = optimizer(&mut rng);
    let (schedule, scheduled) = schedule(&mut rng);
    let smoothing = pick(&[0.0, 0.0, 0.1], &mut rng);
    let weights: Vec<f64> = match rng.random_bool(0.3) {
        true => (0..classes).map(|class| 0.5 + class as f64).collect(),
        false => Vec::new(),
    };
    let mut trainer = trainer
        .epochs(epochs)
        .batch_size(batch)
        .seed(number)
        .schedule(schedule);
    trainer = trainer
        .label_smoothing(smoothing)
        .class_weights(weights.clone());
    let clip = match rng.random_range(0..4) {
        0 => Some((Clip::Norm(0.5), json!({"norm": 0.5}))),
        1 => Some((Clip::Value(0.05), json!({"value": 0.05}))),
        _ => None,
    };
    if let Some((clip, _)) = &clip {
        trainer = trainer.clip(*clip);
    }
    let multiplier = pick(&[1.0, 0.1], &mut rng);
    trainer = trainer.block_learning_rate(&arch.blocks()[0].name, multiplier);

    let loader = Loader::new(&dataset, side, side)
        .batch_size(batch)
        .preprocess(model.preprocess());
    let all = loader
        .clone()
        .batch_size(count)
        .epoch(0)
        .next()
        .unwrap()
        .unwrap();
    let images = HashMap::from([("images".to_owned(), all.inputs)]);
    let order: Vec<Vec<u64>> = (1..=epochs as u64)
        .flat_map(|epoch| loader.clone().shuffle(number).epoch(epoch))
        .map(|batch| batch.unwrap().ids)
        .collect();
    let start = tensors(&model);
    let history = trainer.fit(&mut model, &dataset, &dataset).unwrap();
    let losses = history
        .epochs
        .iter()
        .map(|epoch| (epoch.loss, epoch.val_loss.unwrap()));
    let case = json!({
        "blocks": blocks, "hidden": hidden, "sigmoid": is_sigmoid, "pooled": pooled, "optimizer": optimizer,
        "schedule": scheduled, "smoothing": smoothing, "class_weights": weights, "order": order, "labels": all.labels,
        "clip": clip.map(|(_, clip)| clip), "first_block_rate": multiplier, "steps_per_epoch": order.len() / epochs,
        "losses": losses.collect::<Vec<_>>(),
    });
    std::fs::write(folder.join("case.json"), case.to_string()).unwrap();
    for (name, tensors) in [
        ("start", start),
        ("end", tensors(&model)),
        ("images", images),
    ] {
        let path = folder.join(format!("{name}.safetensors"));
        candle_core::safetensors::save(&tensors, path).unwrap();
    }
}

#[test]
#[ignore = "tests/parity/run.sh runs it"]
fn networks() {
    let Some(folder) = folder("networks") else {
        return;
    };
    for number in 0..200 {
        network(number, &folder.join(format!("{number:03}")));
    }
}

#[test]
#[ignore = "tests/parity/run.sh runs it"]
fn augmentations() {
    let Some(folder) = folder("augmentations") else {
        return;
    };
    let mut rng = Random::seed_from_u64(1);
    let mut cases = Vec::new();
    for _ in 0..500 {
        let (fill, name) = pick(
            &[
                (FillMode::Nearest, "nearest"),
                (FillMode::Constant(37.0), "constant"),
                (FillMode::Reflect, "reflect"),
                (FillMode::Wrap, "wrap"),
            ],
            &mut rng,
        );
        let mut augmenter = Augmenter::notebook()
            .rotation(180.0)
            .shear(30.0)
            .vertical_flip(true)
            .fill_mode(fill);
        if rng.random_bool(0.3) {
            augmenter = augmenter.channel_shift(80.0);
        }
        if rng.random_bool(0.3) {
            augmenter = augmenter.brightness(0.3..=1.8);
        }
        let (height, width) = (rng.random_range(2..24), rng.random_range(2..24));
        let picture = Rgb32FImage::from_fn(width, height, |_, _| {
            Rgb([0; 3].map(|_: i32| rng.random_range(0..=255) as f32))
        });
        let params = augmenter.sample(height as usize, width as usize, &mut rng);
        let varied = augmenter.apply(&picture, &params);
        cases.push(json!({
            "fill": name, "height": height, "width": width, "rotation": params.rotation, "shear": params.shear,
            "height_shift": params.height_shift, "width_shift": params.width_shift, "zoom_x": params.zoom_x,
            "zoom_y": params.zoom_y, "flip_horizontal": params.flip_horizontal, "flip_vertical": params.flip_vertical,
            "channel_shift": params.channel_shift, "brightness": params.brightness,
            "picture": picture.as_raw(), "varied": varied.as_raw(),
        }));
    }
    std::fs::write(folder.join("cases.json"), json!(cases).to_string()).unwrap();
}

/// Names that sort differently by code point, by case and by locale.
const NAMES: [&str; 16] = [
    "a", "B", "b", "10", "9", "é", "z", "Z", "a b", "a-b", "a_b", "ä", "ß", "ID", "id", "猫",
];

#[test]
#[ignore = "tests/parity/run.sh runs it"]
fn folders() {
    let Some(folder) = folder("folders") else {
        return;
    };
    let mut rng = Random::seed_from_u64(2);
    for number in 0..100 {
        let root = folder.join(format!("{number:03}"));
        let classes: Vec<&str> = NAMES.sample(&mut rng, number % 6 + 2).copied().collect();
        for class in &classes {
            for picture in 0..rng.random_range(1..4) {
                let below = pick(&["", "", "more/", "more/again/"], &mut rng);
                let name = pick(&NAMES, &mut rng);
                let extension = pick(&["png", "PNG", "jpg", "Jpeg", "bmp", "gif"], &mut rng);
                let path = root.join(format!("{class}/{below}{name}{picture}.{extension}"));
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "").unwrap();
            }
        }
        let dataset = Dataset::open(&root).unwrap();
        let items = dataset.items().iter();
        let items: Vec<Value> = items
            .map(|item| json!([item.path.strip_prefix(&root).unwrap(), item.label]))
            .collect();
        let opened = json!({"classes": dataset.class_names(), "items": items});
        std::fs::write(folder.join(format!("{number:03}.json")), opened.to_string()).unwrap();
    }
}
