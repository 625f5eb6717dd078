//! Pretrains a base from nothing on labelled pictures: `cargo run --release --example pretrain -- --help`.
//!
//! A plain stack of 16 convolutions hardly trains from scratch. Two things help here. Its weights are standardised
//! while it learns and folded into plain convolutions at the end (`student.rs`). And beside the labels it learns to
//! say what a wiser base sees in a larger copy of the same picture (`teacher.rs`). README.md tells the recipe behind
//! the compact base that comes with the crate.

mod pictures;
mod student;
mod teacher;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use clap::Parser;
use headstart::model::Vgg;
use headstart::{Preprocess, best_device};

use pictures::{Batch, Pictures};
use student::Student;
use teacher::Teacher;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Trains a VGG base from nothing and saves its convolutions.
#[derive(Parser)]
struct Options {
    /// Labelled pictures to train on: a folder of class folders, or a tar of them, which is read in place.
    #[arg(long, value_name = "DIR|TAR")]
    train: PathBuf,
    /// Labelled pictures of the same classes to validate on.
    #[arg(long, value_name = "DIR|TAR")]
    validation: PathBuf,
    /// Weights of a VGG16 base that teaches: a safetensors file with Keras's (caffe) weights.
    #[arg(long, value_name = "FILE")]
    teacher: PathBuf,
    /// Side, in pixels, at which the teacher sees the pictures; a multiple of 32 times 2.
    #[arg(long, default_value_t = 128)]
    teacher_size: usize,
    /// Architecture of the base.
    #[arg(long, default_value = "vgg19-0.25")]
    arch: Vgg,
    /// Side, in pixels, at which the base sees the pictures.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// How many times the pictures are seen.
    #[arg(long, default_value_t = 22)]
    epochs: usize,
    /// Pictures per update.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Highest learning rate: it rises over the first two hundredths of the run and falls as a cosine.
    #[arg(long, default_value_t = 3e-3)]
    lr: f64,
    /// AdamW's weight decay.
    #[arg(long, default_value_t = 0.02)]
    weight_decay: f64,
    /// Weight of the teacher's loss beside the labels'.
    #[arg(long, default_value_t = 20.0)]
    distill: f64,
    /// Share of the labels' probability that goes to the other classes.
    #[arg(long, default_value_t = 0.1)]
    label_smoothing: f64,
    /// Fixes order, augmentation and first weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stops after this many epochs of the run; the same command goes on.
    #[arg(long)]
    stop_after: Option<usize>,
    /// What the base's metadata is to say beside its preprocess, such as `training_data=…` or `licence=…`.
    #[arg(long, value_name = "KEY=TEXT", value_parser = note)]
    note: Vec<(String, String)>,
    /// Where targets, checkpoint, log and the base go.
    #[arg(long, default_value = "runs/pretrain", value_name = "DIR")]
    out: PathBuf,
}

fn note(text: &str) -> std::result::Result<(String, String), String> {
    let (key, text) = text.split_once('=').ok_or("KEY=TEXT is wanted")?;
    Ok((key.to_owned(), text.to_owned()))
}

fn main() -> Result<()> {
    let options = Options::parse();
    let device = best_device();
    std::fs::create_dir_all(&options.out)?;
    let train = Pictures::open(&options.train, None)?;
    let validation = Pictures::open(&options.validation, Some(train.classes()))?;
    println!(
        "{} training and {} validation pictures of {} classes",
        train.len(),
        validation.len(),
        train.classes().len()
    );
    let teacher = Teacher::teach(&options, &train, &device)?;
    let checkpoint = options.out.join("checkpoint.safetensors");
    let classes = train.classes().len();
    let student = Student::new(options.arch, options.size, classes, options.seed, &device)?;
    let first = if checkpoint.exists() {
        student.restore(&checkpoint, &device)?
    } else {
        let mut batches = train.augmented(options.size, 128, options.seed, 0);
        let batch = batches.next().ok_or("no pictures")??;
        student.settle(&batch.tensor(&device)?)?;
        0
    };
    let mut optimizer = AdamW::new(
        student.variables(),
        ParamsAdamW {
            weight_decay: options.weight_decay,
            ..ParamsAdamW::default()
        },
    )?;
    let mut log = Log::open(&options, first)?;
    let last = options
        .stop_after
        .map_or(options.epochs, |count| options.epochs.min(first + count));
    for epoch in first..last {
        let start = Instant::now();
        let trained = train_epoch(
            &options,
            epoch,
            &student,
            &mut optimizer,
            &train,
            &teacher,
            &device,
        )?;
        let validated = validate(&options, &student, &validation, &device)?;
        log.add(
            epoch + 1,
            &trained,
            &validated,
            start.elapsed().as_secs_f64(),
        )?;
        student.save(&checkpoint, epoch + 1)?;
    }
    if last == options.epochs {
        let file = options.out.join("base.safetensors");
        let base = student.base()?.with_preprocess(Preprocess::Torch);
        let notes: Vec<_> = options
            .note
            .iter()
            .map(|(key, text)| (key.as_str(), text.as_str()))
            .collect();
        base.save(&file, DType::F16, &notes)?;
        println!("saved {}", file.display());
    }
    Ok(())
}

/// Means over an epoch's pictures.
#[derive(Default)]
struct Means {
    pictures: f64,
    labels: f64,
    teacher: f64,
    right: f64,
}

impl Means {
    fn add(&mut self, pictures: usize, labels: f64, teacher: f64, right: f64) {
        self.pictures += pictures as f64;
        self.labels += labels * pictures as f64;
        self.teacher += teacher * pictures as f64;
        self.right += right;
    }
}

fn train_epoch(
    options: &Options,
    epoch: usize,
    student: &Student,
    optimizer: &mut AdamW,
    train: &Pictures,
    teacher: &Teacher,
    device: &Device,
) -> Result<Means> {
    let steps = train.len().div_ceil(options.batch_size);
    let mut means = Means::default();
    let batches = train.augmented(options.size, options.batch_size, options.seed, epoch as u64);
    for (step, batch) in batches.enumerate() {
        let batch = batch?;
        let progress = (epoch as f64 + step as f64 / steps as f64) / options.epochs as f64;
        optimizer.set_learning_rate(options.lr * schedule(progress));
        let (logits, features) = student.forward(&batch.tensor(device)?)?;
        let labels = label_loss(&logits, &batch, options.label_smoothing, device)?;
        let taught = (features - teacher.targets(&batch, device)?)?
            .sqr()?
            .mean_all()?;
        let loss = (&labels + (&taught * options.distill)?)?;
        let value = loss.to_scalar::<f32>()?;
        if !value.is_finite() {
            return Err(format!(
                "epoch {}, step {}: the loss is {value}",
                epoch + 1,
                step + 1
            )
            .into());
        }
        optimizer.step(&loss.backward()?)?;
        let right = right(&logits, &batch, device)?;
        means.add(
            batch.labels.len(),
            f64::from(labels.to_scalar::<f32>()?),
            f64::from(taught.to_scalar::<f32>()?),
            right,
        );
        if (step + 1) % 100 == 0 {
            println!(
                "epoch {} step {}/{steps}: label loss {:.3}, teacher loss {:.3}, accuracy {:.3}",
                epoch + 1,
                step + 1,
                means.labels / means.pictures,
                means.teacher / means.pictures,
                means.right / means.pictures
            );
        }
    }
    Ok(means)
}

fn validate(
    options: &Options,
    student: &Student,
    validation: &Pictures,
    device: &Device,
) -> Result<Means> {
    let folded = student.folded()?;
    let mut means = Means::default();
    for batch in validation.plain(options.size, 100) {
        let batch = batch?;
        let logits = folded.logits(&batch.tensor(device)?)?;
        let labels = label_loss(&logits, &batch, 0.0, device)?.to_scalar::<f32>()?;
        means.add(
            batch.labels.len(),
            f64::from(labels),
            0.0,
            right(&logits, &batch, device)?,
        );
    }
    Ok(means)
}

/// Share of the highest learning rate after this share of the run: a linear rise, then half a cosine (Loshchilov &
/// Hutter 2017, "SGDR", eq. 5).
fn schedule(progress: f64) -> f64 {
    const RISE: f64 = 0.02;
    if progress < RISE {
        return progress / RISE;
    }
    let share = (progress - RISE) / (1.0 - RISE);
    0.5 * (1.0 + (std::f64::consts::PI * share).cos())
}

/// Cross-entropy with label smoothing (Szegedy et al. 2016, section 7).
fn label_loss(logits: &Tensor, batch: &Batch, smoothing: f64, device: &Device) -> Result<Tensor> {
    let log = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let labels = Tensor::new(batch.labels.as_slice(), device)?.unsqueeze(1)?;
    let own = log.gather(&labels, 1)?.mean_all()?.neg()?;
    let all = log.mean_all()?.neg()?;
    Ok(((own * (1.0 - smoothing))? + (all * smoothing)?)?)
}

/// How many pictures of the batch got their own class.
fn right(logits: &Tensor, batch: &Batch, device: &Device) -> Result<f64> {
    let labels = Tensor::new(batch.labels.as_slice(), device)?;
    let right = logits
        .argmax(D::Minus1)?
        .eq(&labels)?
        .to_dtype(DType::F32)?;
    Ok(f64::from(right.sum_all()?.to_scalar::<f32>()?))
}

/// The log of a run: a line an epoch.
struct Log(std::fs::File);

impl Log {
    fn open(options: &Options, first: usize) -> Result<Self> {
        let path = options.out.join("log.csv");
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(first > 0)
            .write(true)
            .truncate(first == 0)
            .open(&path)?;
        if first == 0 {
            writeln!(
                file,
                "epoch,label_loss,teacher_loss,accuracy,val_loss,val_accuracy,seconds"
            )?;
        }
        Ok(Self(file))
    }

    fn add(
        &mut self,
        epoch: usize,
        trained: &Means,
        validated: &Means,
        seconds: f64,
    ) -> Result<()> {
        let line = format!(
            "{epoch},{:.4},{:.4},{:.4},{:.4},{:.4},{seconds:.1}",
            trained.labels / trained.pictures,
            trained.teacher / trained.pictures,
            trained.right / trained.pictures,
            validated.labels / validated.pictures,
            validated.right / validated.pictures,
        );
        println!("{line}");
        writeln!(self.0, "{line}")?;
        Ok(())
    }
}
