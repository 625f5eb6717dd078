//! headstart's side of the comparison with PyTorch, Keras, ONNX Runtime, OpenVINO and ncnn: answers the lines
//! that `compare.py` writes to its standard input. `peer.py` says what they are.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Device, Tensor};
use headstart::data::Loader;
use headstart::{
    Augmenter, Block, Classifier, ConvBase, DirectoryDataset, FeatureCache, Head, Resize, RmsProp,
    Trainer, Weights,
};
use image::RgbImage;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const BATCH: usize = 20;
const SIDE: usize = 64;
/// Steps in an epoch of the training-step figures.
const STEPS: usize = 10;
/// Epochs of the notebook's run, over which the first one's decoding is spread.
const EPOCHS: usize = 10;

/// Work that is ready to run: repetitions → figure.
type Work = Box<dyn FnMut(usize) -> Result<f64>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(models), Some(data)) = (arguments.next(), arguments.next()) else {
        return Err("benches/peers/run.sh starts this".into());
    };
    let ours = Ours { models, data };
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
            _ => Err(format!("no command {line}").into()),
        }
    }

    /// The work, and what there is to say of its result.
    fn prepare(&self, name: &str) -> Result<(Work, String)> {
        match name.split_once('_') {
            Some(("forward", shape)) => self.forward(shape),
            Some(("step", open)) => Ok((self.step(open)?, String::new())),
            Some(("epoch", open)) => Ok((self.epoch(open)?, String::new())),
            Some(("ten", "epochs_cached")) => Ok((self.ten_epochs_cached()?, String::new())),
            None if name == "loader" => Ok((self.loader()?, String::new())),
            _ => Err(format!("no work {name}").into()),
        }
    }

    /// A base with the named blocks open: `frozen`, `block5` or `all`.
    fn base(&self, open: &str) -> Result<ConvBase> {
        let weights = Weights::file(self.models.join("vgg19.safetensors"));
        let base = ConvBase::vgg19(weights, &Device::Cpu)?.frozen();
        Ok(match open {
            "frozen" => base,
            "block5" => base.unfreeze(Block::Conv5)?,
            "all" => base.unfreeze_from(Block::Conv1)?,
            _ => return Err(format!("no block {open}").into()),
        })
    }

    fn classifier(&self, open: &str, class_names: &[String]) -> Result<Classifier> {
        let head = Head::sigmoid().hidden(132);
        let model = Classifier::new(self.base(open)?, head, class_names)?;
        Ok(model.resize(Resize::Nearest).input_size(SIDE, SIDE)?)
    }

    fn forward(&self, shape: &str) -> Result<(Work, String)> {
        let (pictures, side) = shape.split_once('x').ok_or("a shape is like 20x64")?;
        let (pictures, side): (usize, usize) = (pictures.parse()?, side.parse()?);
        let base = self.base("frozen")?;
        let images = pixels(pictures * 3 * side * side);
        let images = Tensor::from_vec(images, (pictures, 3, side, side), &Device::Cpu)?;

        let features = base.forward(&images)?.flatten_all()?.to_vec1::<f32>()?;
        let features = features.into_iter().map(f64::from);
        let squares: f64 = features.clone().map(|value| value * value).sum();
        let answer = format!("{:e} {squares:e}", features.sum::<f64>());

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
    fn step(&self, open: &str) -> Result<Work> {
        let folder = tempfile::tempdir()?;
        let train = noise(&folder.path().join("train"), STEPS * BATCH)?;
        let validation = noise(&folder.path().join("validation"), 2)?;
        let mut model = self.classifier(open, train.class_names())?;
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

    /// Milliseconds of an epoch of the notebook's ten: one that decodes the pictures, and nine that remember them.
    fn epoch(&self, open: &str) -> Result<Work> {
        let train = DirectoryDataset::open(self.data.join("train"))?;
        let validation =
            DirectoryDataset::open_with_classes(self.data.join("validation"), train.class_names())?;
        let mut model = self.classifier(open, train.class_names())?;
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

    /// Milliseconds of the notebook's ten epochs on a frozen base, with five fixed variations of each picture whose
    /// features are computed once: everything from the files on is counted.
    fn ten_epochs_cached(&self) -> Result<Work> {
        let train = DirectoryDataset::open(self.data.join("train"))?;
        let validation =
            DirectoryDataset::open_with_classes(self.data.join("validation"), train.class_names())?;
        let mut model = self.classifier("frozen", train.class_names())?;
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
        let train = DirectoryDataset::open(self.data.join("train"))?;
        let loader = Loader::new(&train, SIDE, SIDE)
            .batch_size(BATCH)
            .resize(Resize::Nearest)
            .shuffle(1)
            .augment(Augmenter::notebook(), 1)
            .cache(0);
        let mut work: Work = Box::new(move |times| {
            let (start, mut pictures) = (Instant::now(), 0);
            for epoch in 0..times {
                for batch in loader.epoch(epoch as u64) {
                    pictures += batch?.labels.len();
                }
            }
            Ok(pictures as f64 / start.elapsed().as_secs_f64())
        });
        // Puts the files into the system's cache.
        work(1)?;
        Ok(work)
    }
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
