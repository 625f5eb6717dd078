//! Santa or not Santa: transfer learning from class folders to a saved classifier. The command `headstart train` does
//! the same, and more, without a line of code.
//!
//! ```text
//! cargo run --release --example santa -- --help
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use headstart::run::{HeadKind, LearningRate, Metrics, Parts, Recipe, Run, Settings, Start};
use headstart::train::communicator::{self, Communicator};
use headstart::train::metrics::History;
use headstart::{Classifier, Dataset, Error, best_device};

/// Trains a picture classifier on class folders, on top of a pretrained base.
///
/// Without options: the compact base that comes with the crate, fine-tuned on drawings of people that come with the
/// repository. It takes less than a minute. The run writes history.csv, history.json, metrics.json and
/// model.safetensors.
#[derive(Parser)]
#[command(
    name = "santa",
    version,
    after_help = "Examples:\n  \
        santa\n  \
        santa --data pictures --base tf_efficientnet_lite0 --weights imagenet --size 160\n  \
        santa --data pictures --base vgg16 --weights vgg16.safetensors --recipe notebook --unfreeze none\n\n\
        `headstart train` resumes runs, takes settings from a file, and writes a report."
)]
struct Options {
    /// Folder of pictures: one folder per class, or `train`, `validation` and `test` with those in each; without it,
    /// the drawings that come with this repository
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The base: vgg19, resnet50, tf_efficientnet_lite0, … (README lists them) [default: the compact base]
    #[arg(long, alias = "arch", value_name = "NAME")]
    base: Option<String>,
    /// Weights of the base: compact, imagenet (fetched once, then cached), random, or a safetensors file
    /// [default: imagenet with --base, else compact]
    #[arg(long, value_name = "compact|imagenet|random|FILE")]
    weights: Option<String>,
    /// How it is trained: fine-tune, linear, notebook or cached [default: fine-tune]
    #[arg(long)]
    recipe: Option<Recipe>,
    /// The first block that is trained along with the head, by its name, or `none` [default: the recipe's]
    #[arg(long)]
    unfreeze: Option<String>,
    /// One sigmoid unit, or one softmax unit per class [default: sigmoid for two classes, softmax for more]
    #[arg(long)]
    head: Option<HeadKind>,
    /// Side, in pixels, that pictures are resized to [default: the recipe's]
    #[arg(long)]
    size: Option<usize>,
    /// Fixes every random choice: two runs with one seed give the same figures [default: 1]
    #[arg(long)]
    seed: Option<u64>,
    /// How many times the training pictures are seen [default: the recipe's]
    #[arg(long)]
    epochs: Option<usize>,
    /// Learning rate of the head, or auto [default: the recipe's]
    #[arg(long, allow_negative_numbers = true)]
    lr: Option<LearningRate>,
    /// Where the results go; a run that was there is written over if it is this example's own folder
    #[arg(long, default_value = OUT, value_name = "DIR")]
    out: PathBuf,
}

const OUT: &str = "runs/santa";

impl Options {
    fn settings(&self) -> Settings {
        Settings {
            base: self.base.clone(),
            weights: self.weights.clone(),
            recipe: self.recipe,
            unfreeze: self.unfreeze.clone(),
            head: self.head,
            size: self.size,
            seed: self.seed,
            epochs: self.epochs,
            lr: self.lr,
            ..Settings::default()
        }
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Trains, saves, evaluates and shows.
fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let settings = options.settings();
    settings.check()?;
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/santa/pictures");
    let parts = Parts::open(options.data.as_ref().unwrap_or(&bundled), None, None)?;
    let start = match options.out == Path::new(OUT) {
        true => Start::Force,
        false => Start::New,
    };
    // One process, unless `mpirun` started several: then the first one writes and prints.
    let ranks = communicator::world()?;
    let is_first = ranks.rank() == 0;
    let run = match is_first {
        true => Run::begin(&options.out, start)?,
        false => Run::of_rank_0(&options.out),
    };
    let say = |text: String| {
        if is_first {
            println!("{text}");
        }
    };
    say(parts.to_string());
    let device = best_device();
    let mut model = settings.build(parts.train.class_names(), &device)?;
    let (trainer, rate) = settings.trainer(&model, &parts.train)?;
    let explained = settings.explain(&model, rate);
    say(format!("{}\n{explained}\n", model.summary()));

    let trainer = trainer.communicator(communicator::on_device(ranks.clone(), &device)?);
    let history = trainer.fit(&mut model, &parts.train, &parts.validation);
    let reached = history.as_ref().err().and_then(Error::history);
    if let Some(history) = reached.filter(|_| is_first) {
        // What the run reached before it failed.
        run.save_history(history)?;
    }
    let history = history?;
    if is_first {
        print_history(&history);
        run.save_history(&history)?;
        run.save_model(&model)?;
    }
    let (part, judged) = parts.judged();
    let scores = model.score_together(judged, ranks)?;
    if !is_first {
        return Ok(());
    }
    let all = Settings {
        lr: Some(LearningRate::Rate(rate)),
        ..settings.resolved()
    };
    run.save_metrics(&Metrics::new(part, &scores, &history, &all))?;
    println!(
        "\nOn the {part} pictures, none of which was trained on:\n{}",
        scores.evaluation
    );
    print_verdicts(&model, judged);
    println!(
        "\nSaved to {}. Try it on a picture of yours:\n  \
         cargo run --release --features cli -- predict {} PICTURE",
        options.out.display(),
        run.model().display()
    );
    Ok(())
}

fn print_history(history: &History) {
    println!("epoch    loss  accuracy  val loss  val accuracy  seconds");
    // There is none without validation pictures.
    let figure = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.4}"));
    for e in &history.epochs {
        let (val_loss, val_accuracy) = (figure(e.val_loss), figure(e.val_accuracy));
        println!(
            "{:>5}  {:.4}    {:.4}    {val_loss:>6}        {val_accuracy:>6}  {:>7.1}",
            e.epoch, e.loss, e.accuracy, e.seconds
        );
    }
}

/// The verdict on the first three test pictures of each class.
fn print_verdicts(model: &Classifier, test: &Dataset) {
    println!("\nSome verdicts:");
    for label in 0..test.class_names().len() {
        let pictures = test.items().iter().filter(|item| item.label == label);
        for item in pictures.take(3) {
            let name = item.path.strip_prefix(test.root()).unwrap_or(&item.path);
            match model.predict(item) {
                Ok(prediction) => println!("  {}: {prediction}", name.display()),
                Err(error) => println!("  {error}"),
            }
        }
    }
}
