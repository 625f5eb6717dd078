//! headstart's side of the comparison with PyTorch, Keras, ONNX Runtime, OpenVINO, ncnn and rten, and candle's, which
//! is this with `HEADSTART_KERNELS=candle`: answers the lines that `compare.py` writes to its standard input. `peer.py`
//! says what they are.

mod cost;

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Device, Tensor};
use cost::Cost;
use headstart::data::Loader;
use headstart::model::{Arch, Backbone, Mode, Pooling};
use headstart::train::metrics::Loss;
use headstart::{
    Augmenter, Classifier, ConvBase, DirectoryDataset, FeatureCache, Head, Resize, RmsProp,
    Trainer, Weights,
};
use image::RgbImage;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const BATCH: usize = 20;
/// Height and width of VGG's training pictures, the notebook's.
const SIDE: usize = 64;
const VGG: &str = "vgg19";
/// The bases beside VGG, and the first block of what is trainable where the last stage is.
const LAST_STAGE: [(&str, &str); 6] = [
    ("resnet18", "layer4"),
    ("resnet50", "layer4"),
    ("repvgg_a0", "stages.3"),
    ("tf_efficientnet_lite0", "blocks.6"),
    ("efficientnet_b0", "blocks.6"),
    ("mobilenetv3_large_100", "blocks.5"),
];
/// Height and width of their training pictures.
const TIMM_SIDE: usize = 128;
/// How many of the features are shown beside their sum and their squares' sum.
const SAMPLES: usize = 61;
/// Steps in an epoch of the training-step figures.
const STEPS: usize = 10;
/// Epochs of the notebook's run, over which the first one's decoding is spread.
const EPOCHS: usize = 10;

/// Work that is ready to run: repetitions → figure.
type Work = Box<dyn FnMut(usize) -> Result<f64>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let mut folder = || arguments.next().ok_or("benches/peers/run.sh starts this");
    let ours = Ours {
        models: folder()?,
        data: folder()?,
        photographs: folder()?,
    };
    let mut work: Option<Work> = None;
    say(&format!("ready {}", env!("CARGO_PKG_VERSION")))?;
    for line in std::io::stdin().lock().lines() {
        match ours.answer(&line?, &mut work) {
            Ok(answer) => say(&format!("ok {answer}"))?,
            Err(error) => say(&format!("error {error}"))?,
        }
    }
    Ok(())
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

struct Ours {
    /// Where `make_models.py` has put the weights.
    models: PathBuf,
    /// The folder with `train` and `validation`.
    data: PathBuf,
    /// Another one, of photographs.
    photographs: PathBuf,
}

impl Ours {
    fn answer(&self, line: &str, work: &mut Option<Work>) -> Result<String> {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["prepare", name] => {
                *work = None;
                let (ready, answer) = self.prepare(name)?;
                *work = Some(ready);
                Ok(answer)
            }
            ["run", _, times] => {
                let run = work.as_mut().ok_or("nothing is prepared")?;
                Ok(run(times.parse()?)?.to_string())
            }
            ["memory"] => Ok(peak_mb()?.to_string()),
            ["cost", name] => cost(name),
            _ => Err(format!("no command {line}").into()),
        }
    }

    /// The work, and what there is to say of its result.
    fn prepare(&self, name: &str) -> Result<(Work, String)> {
        let (base, rest) = parts_of(name);
        match rest.split_once('_') {
            // VGG's key is as old as the trainer.
            Some(("step", open)) if base == VGG => Ok((self.fitted_step(open)?, String::new())),
            Some(("step", open)) => Ok((self.step(base, open)?, String::new())),
            Some(("epoch", "photographs")) => {
                Ok((self.epoch_of_photographs(base)?, self.epoch_features(base)?))
            }
            Some(("epoch", open)) => Ok((self.epoch(base, open)?, self.epoch_features(base)?)),
            Some(("ten", "epochs_cached")) => Ok((self.ten_epochs_cached()?, String::new())),
            Some(("loader", "photographs")) => self.loader_of_photographs(),
            None if rest == "loader" => Ok((self.loader()?, String::new())),
            None => self.forward(base, rest),
            _ => Err(format!("no work {name}").into()),
        }
    }

    /// A base with blocks open: see [`first_open`].
    fn base(&self, name: &str, open: &str) -> Result<ConvBase> {
        let arch: Arch = name.parse()?;
        let first = first_open(&arch, open)?;
        let weights = Weights::file(self.models.join(format!("{name}.safetensors")));
        let base = ConvBase::new(arch, weights, &Device::Cpu)?.frozen();
        Ok(match first {
            Some(first) => base.unfreeze_from(first)?,
            None => base,
        })
    }

    /// The notebook's head on a base.
    fn classifier(&self, base: &str, open: &str, class_names: &[String]) -> Result<Classifier> {
        let head = Head::sigmoid().hidden(132);
        let model = Classifier::new(self.base(base, open)?, head, class_names)?;
        let side = side_of(base);
        Ok(model.resize(Resize::Nearest).input_size(side, side)?)
    }

    fn forward(&self, base: &str, shape: &str) -> Result<(Work, String)> {
        let (pictures, side) = shape_of(shape)?;
        let base = self.base(base, "frozen")?;
        let images = images(pictures, side)?;
        let answer = fingerprint(&base.forward(&images)?)?;

        let work = move |times: usize| {
            // One untimed turn, which fetches what the other frameworks have pushed out of the caches.
            base.forward(&images)?;
            let mut taken = Vec::with_capacity(times);
            for _ in 0..times {
                let start = Instant::now();
                base.forward(&images)?;
                taken.push(1000.0 * start.elapsed().as_secs_f64());
            }
            taken.sort_by(f64::total_cmp);
            Ok((taken[(times - 1) / 2] + taken[times / 2]) / 2.0)
        };
        Ok((Box::new(work), answer))
    }

    /// Milliseconds of a training step, as [`Trainer::fit`] takes it: an epoch over pictures that an epoch before
    /// has decoded, divided by its steps. The epoch's validation, of one picture per class, is not subtracted.
    fn fitted_step(&self, open: &str) -> Result<Work> {
        let folder = tempfile::tempdir()?;
        let train = noise(&folder.path().join("train"), STEPS * BATCH)?;
        let validation = noise(&folder.path().join("validation"), 2)?;
        let mut model = self.classifier(VGG, open, train.class_names())?;
        Ok(Box::new(move |times| {
            // The pictures outlive the loaders that read them.
            let _folder = &folder;
            if times != STEPS {
                return Err(format!("an epoch has {STEPS} steps").into());
            }
            let trainer = Trainer::new(RmsProp::new(2e-5)).batch_size(BATCH).epochs(2);
            let history = trainer.fit(&mut model, &train, &validation)?;
            Ok(1000.0 * history.epochs[1].seconds / STEPS as f64)
        }))
    }

    /// Milliseconds of a training step as the peers take it: a bare loop over one batch in memory. The head is the mean
    /// of each map and a unit.
    fn step(&self, base: &str, open: &str) -> Result<Work> {
        let base = self.base(base, open)?;
        let images = images(BATCH, TIMM_SIDE)?;
        let labels: Vec<u32> = (0..BATCH as u32).map(|picture| picture % 2).collect();
        let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
        let loss = Loss::for_head(&head);
        let features = base.output_shape(TIMM_SIDE, TIMM_SIDE)?;
        let head = head.build(features, &Device::Cpu)?;
        let named = base.variables().into_iter().chain(head.variables());
        let variables = named.map(|(_, variable)| variable).collect();
        let mut optimizer = RmsProp::new(2e-5).with_variables(variables)?;
        let mut recycled = Vec::new();
        let mut step = move || -> Result<()> {
            let features = base.features(&images, Mode::Train)?;
            let logits = head.forward(&features, Mode::Train, None)?;
            let loss = loss.forward(&logits, &labels)?;
            let gradients = base.backward(&loss, &mut recycled)?;
            recycled = optimizer.step_spending(gradients)?;
            Ok(())
        };
        Ok(Box::new(move |times| {
            // One untimed turn, which fetches what the other frameworks have pushed out of the caches.
            step()?;
            let start = Instant::now();
            for _ in 0..times {
                step()?;
            }
            Ok(1000.0 * start.elapsed().as_secs_f64() / times as f64)
        }))
    }

    /// What there is to say of the features of a base whose epochs are measured; VGG's are compared elsewhere.
    fn epoch_features(&self, base: &str) -> Result<String> {
        if base == VGG {
            return Ok(String::new());
        }
        let images = images(2, side_of(base))?;
        fingerprint(&self.base(base, "frozen")?.forward(&images)?)
    }

    /// Milliseconds of an epoch of the notebook's ten: one that decodes the pictures, and nine that remember them.
    fn epoch(&self, base: &str, open: &str) -> Result<Work> {
        let (train, validation) = parts(&self.data)?;
        let mut model = self.classifier(base, open, train.class_names())?;
        Ok(Box::new(move |times| {
            let trainer = Trainer::new(RmsProp::new(2e-5))
                .batch_size(BATCH)
                .epochs(2)
                .augment(Augmenter::notebook());
            let mut milliseconds = 0.0;
            for _ in 0..times {
                let history = trainer.fit(&mut model, &train, &validation)?;
                let (first, later) = (history.epochs[0].seconds, history.epochs[1].seconds);
                milliseconds += 1000.0 * (first + (EPOCHS - 1) as f64 * later) / EPOCHS as f64;
            }
            Ok(milliseconds / times as f64)
        }))
    }

    /// Milliseconds of an epoch over photographs on a frozen base, from the files to the last validation.
    fn epoch_of_photographs(&self, base: &str) -> Result<Work> {
        let (train, validation) = parts(&self.photographs)?;
        let model = self.classifier(base, "frozen", train.class_names())?;
        let mut model = model.resize(Resize::Bilinear);
        Ok(Box::new(move |times| {
            let trainer = Trainer::new(RmsProp::new(2e-5)).batch_size(BATCH).epochs(1);
            let start = Instant::now();
            for _ in 0..times {
                trainer.fit(&mut model, &train, &validation)?;
            }
            Ok(1000.0 * start.elapsed().as_secs_f64() / times as f64)
        }))
    }

    /// Milliseconds of the notebook's ten epochs on a frozen base, with five fixed variations of each picture whose
    /// features are computed once: everything from the files on is counted.
    fn ten_epochs_cached(&self) -> Result<Work> {
        let (train, validation) = parts(&self.data)?;
        let mut model = self.classifier(VGG, "frozen", train.class_names())?;
        Ok(Box::new(move |times| {
            let trainer = Trainer::new(RmsProp::new(2e-5))
                .batch_size(BATCH)
                .epochs(EPOCHS)
                .augment(Augmenter::notebook())
                .feature_cache(FeatureCache::in_memory().views(5));
            let start = Instant::now();
            for _ in 0..times {
                trainer.fit(&mut model, &train, &validation)?;
            }
            Ok(1000.0 * start.elapsed().as_secs_f64() / times as f64)
        }))
    }

    /// Pictures a second from disk to batches, decoded anew, resized and augmented.
    fn loader(&self) -> Result<Work> {
        let (train, _) = parts(&self.data)?;
        let loader = Loader::new(&train, SIDE, SIDE)
            .batch_size(BATCH)
            .resize(Resize::Nearest)
            .shuffle(1)
            .augment(Augmenter::notebook(), 1);
        pictures_a_second(loader)
    }

    /// Photographs a second from disk to batches, and what there is to say of those for validation.
    fn loader_of_photographs(&self) -> Result<(Work, String)> {
        let (train, validation) = parts(&self.photographs)?;
        let loader = |set| Loader::new(set, TIMM_SIDE, TIMM_SIDE).batch_size(BATCH);
        let batch = loader(&validation).epoch(0).next();
        let answer = fingerprint(&batch.ok_or("no photographs")??.inputs)?;
        Ok((pictures_a_second(loader(&train).shuffle(1))?, answer))
    }
}

/// The pictures for training and those for validation.
fn parts(data: &Path) -> Result<(DirectoryDataset, DirectoryDataset)> {
    let train = DirectoryDataset::open(data.join("train"))?;
    let validation =
        DirectoryDataset::open_with_classes(data.join("validation"), train.class_names())?;
    Ok((train, validation))
}

/// Of a loader that remembers nothing, with the files in the system's cache.
fn pictures_a_second(loader: Loader) -> Result<Work> {
    let loader = loader.cache(0);
    let mut work: Work = Box::new(move |times| {
        let (start, mut pictures) = (Instant::now(), 0);
        for epoch in 0..times {
            for batch in loader.epoch(epoch as u64) {
                pictures += batch?.labels.len();
            }
        }
        Ok(pictures as f64 / start.elapsed().as_secs_f64())
    });
    work(1)?;
    Ok(work)
}

/// The base and the rest of a key: `resnet18_8x224`, `resnet18_step_all`; without a base it is VGG19's.
fn parts_of(work: &str) -> (&str, &str) {
    let bases = LAST_STAGE.into_iter();
    let mut named = bases.filter_map(|(base, _)| {
        let rest = work.strip_prefix(base)?.strip_prefix('_')?;
        Some((base, rest))
    });
    let vgg = (VGG, work.strip_prefix("forward_").unwrap_or(work));
    named.next().unwrap_or(vgg)
}

/// (pictures, side) of `20x64`.
fn shape_of(shape: &str) -> Result<(usize, usize)> {
    let (pictures, side) = shape.split_once('x').ok_or("a shape is like 20x64")?;
    Ok((pictures.parse()?, side.parse()?))
}

fn side_of(base: &str) -> usize {
    if base == VGG { SIDE } else { TIMM_SIDE }
}

/// The first trainable block of a base that is `frozen`, whose last stage is trainable (`last`; VGG's is `block5`), or
/// which is trainable as a whole (`all`).
fn first_open(arch: &Arch, open: &str) -> Result<Option<String>> {
    let last = LAST_STAGE
        .into_iter()
        .find(|(base, _)| *base == arch.name());
    match (open, last) {
        ("frozen", _) => Ok(None),
        ("all", _) => Ok(Some(arch.block_names()[0].to_owned())),
        ("last", Some((_, first))) => Ok(Some(first.to_owned())),
        ("block5", None) => Ok(Some(open.to_owned())),
        _ => Err(format!("no {open} of {arch} to open").into()),
    }
}

/// Multiplications and bytes of a forward pass or a training step.
fn cost(work: &str) -> Result<String> {
    let (base, rest) = parts_of(work);
    let arch: Arch = base.parse()?;
    let cost = match rest.split_once('_') {
        Some(("step", open)) => {
            let first = first_open(&arch, open)?;
            Cost::new(&arch, first.as_deref(), BATCH, side_of(base))
        }
        _ => {
            let (pictures, side) = shape_of(rest)?;
            Cost::new(&arch, None, pictures, side)
        }
    };
    let cost = cost.ok_or("the pictures are too small")?;
    Ok(format!("{:e} {:e}", cost.multiplications, cost.bytes))
}

/// Images (N, 3, side, side) of [`pixels`].
fn images(pictures: usize, side: usize) -> Result<Tensor> {
    let shape = (pictures, 3, side, side);
    Ok(Tensor::from_vec(
        pixels(pictures * 3 * side * side),
        shape,
        &Device::Cpu,
    )?)
}

/// What `compare.py` compares of features: the sum, the squares' sum, and some of them.
fn fingerprint(features: &Tensor) -> Result<String> {
    let features = features.flatten_all()?.to_vec1::<f32>()?;
    let values = features.iter().map(|value| f64::from(*value));
    let squares: f64 = values.clone().map(|value| value * value).sum();
    let samples = (0..SAMPLES).map(|sample| f64::from(features[sample * features.len() / SAMPLES]));
    let all = [values.sum(), squares].into_iter().chain(samples);
    let words: Vec<_> = all.map(|value| format!("{value:e}")).collect();
    Ok(words.join(" "))
}

/// The same values in 0 to 1 as `pixels` in `peer.py`: a multiplicative hash of the position.
fn pixels(count: usize) -> Vec<f32> {
    let hash = |position: usize| (position as u32).wrapping_mul(2_654_435_761) >> 8;
    (0..count)
        .map(|position| hash(position) as f32 / (1 << 24) as f32)
        .collect()
}

/// Two classes of noise, half of the pictures each, as files.
fn noise(root: &Path, pictures: usize) -> Result<DirectoryDataset> {
    let values = pixels(pictures * 3 * SIDE * SIDE);
    for (picture, values) in values.chunks_exact(3 * SIDE * SIDE).enumerate() {
        let class = root.join(["even", "odd"][picture % 2]);
        std::fs::create_dir_all(&class)?;
        let bytes = values.iter().map(|value| (value * 255.0) as u8).collect();
        RgbImage::from_raw(SIDE as u32, SIDE as u32, bytes)
            .ok_or("too few pixels")?
            .save(class.join(format!("{picture}.png")))?;
    }
    Ok(DirectoryDataset::open(root)?)
}

/// The most memory this process ever held, in MB.
fn peak_mb() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes.ok_or("no VmHWM")?.parse::<f64>()? / 1024.0)
}
