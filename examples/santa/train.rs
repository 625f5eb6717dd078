//! `santa`: a training run from class folders to a saved classifier.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use clap::ValueEnum;
use headstart::model::Pooling;
use headstart::model::{Arch, Backbone};
use headstart::train::RunFolder;
use headstart::train::metrics::{Evaluation, History};
use headstart::train::optimizer::Schedule;
use headstart::{
    AdamW, Augmenter, Checkpoints, Classifier, ConvBase, DirectoryDataset, Error, FeatureCache,
    Head, Preprocess, Resize, RmsProp, Trainer, Weights,
};

use crate::End;
use crate::say::say;

/// What the model is called in the folder `--out`: a run that has it is finished.
const MODEL: &str = "model.safetensors";

/// What a training run takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Folder with `train`, `validation` and `test`, each holding one folder per class; without it, the drawings
    /// of people that come with this repository.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The base: vgg19, resnet50, tf_efficientnet_lite0, … (README lists them); a VGG with a width if it is not 1, as
    /// in vgg19-0.25.
    #[arg(long, alias = "arch", default_value = "vgg19", value_name = "NAME")]
    base: Arch,
    /// Weights of the base: `compact` (a quarter of VGG19's width; it comes with the crate), `imagenet` (the full
    /// base; fetched once, then cached), `random`, or a safetensors file.
    #[arg(
        long,
        default_value = "compact",
        value_name = "compact|imagenet|random|FILE"
    )]
    weights: String,
    /// What pixels are turned into.
    #[arg(long, default_value = "weights")]
    preprocess: PreprocessChoice,
    /// How it is trained: `fine-tune` as `Trainer::fine_tuning` says; `linear` with one layer on the frozen base's pooled
    /// features, which are computed once; `notebook` as the options marked † say, by default as in the notebook; `cached`
    /// the same on five fixed variations of each picture, whose way through the frozen blocks is computed once
    /// [default: notebook if an option marked † is given, else fine-tune]
    #[arg(long)]
    recipe: Option<Recipe>,
    /// † The first block that is trained along with the head, by its name (`block5`, `layer4`, `blocks.6`), or `none`.
    /// That block and those after it are trained, those before it stay frozen [default: the last one]
    #[arg(long)]
    unfreeze: Option<String>,
    /// One sigmoid unit, which tells two classes apart, or one softmax unit per class.
    #[arg(long, default_value = "sigmoid")]
    head: HeadChoice,
    /// † How many times the training pictures are seen [default: 10]
    #[arg(long, value_parser = count)]
    epochs: Option<usize>,
    /// † How many pictures make one update [default: 20]
    #[arg(long, value_parser = count)]
    batch_size: Option<usize>,
    /// † Learning rate of RMSprop [default: 2e-5, the notebook's; 5e-4 for the compact base]
    #[arg(long, value_parser = rate, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Side, in pixels, that pictures are resized to [default: what the base's weights were trained on; for VGG 64, the
    /// notebook's, and 96 to fine-tune]
    #[arg(long, value_parser = count)]
    size: Option<usize>,
    /// How pictures are resized: `nearest` as the notebook's Keras does, `bilinear` or `bicubic` (both antialiased)
    /// [default: what the base's weights were trained with; nearest for the notebook's recipes]
    #[arg(long)]
    resize: Option<Resize>,
    /// Fixes every random choice: two runs with one seed give the same figures.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// † Trains on the pictures as they are, without random rotations, shifts, shears, zooms and flips.
    #[arg(long)]
    no_augment: bool,
    /// Goes on with the run that was left, or killed, in the folder `--out`, with the same options.
    #[arg(long)]
    resume: bool,
    /// Writes over what a finished run left in the folder `--out`, and begins again where one was left.
    #[arg(long)]
    force: bool,
    /// Where history.csv, metrics.json, model.safetensors and the run's checkpoints go.
    #[arg(long, default_value = "runs/santa", value_name = "DIR")]
    out: PathBuf,
}

/// What `--recipe` takes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Recipe {
    Notebook,
    Cached,
    Linear,
    FineTune,
}

/// What `--preprocess` takes.
#[derive(Clone, Copy, ValueEnum)]
enum PreprocessChoice {
    /// Divide by 255, as the notebook does.
    Unit,
    /// What the source of the weights says.
    Weights,
    /// torchvision's mean and deviation.
    Torch,
    /// Keras's: blue first, minus the ImageNet mean.
    Caffe,
    /// TensorFlow's: from −1 to 1.
    Half,
}

/// What `--head` takes.
#[derive(Clone, Copy, ValueEnum)]
enum HeadChoice {
    Sigmoid,
    Softmax,
}

/// A number of things, one at least.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=1_000_000).contains(&number) => Ok(number),
        _ => Err("a whole number from 1 to 1000000 is needed".into()),
    }
}

/// A learning rate.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("a number above 0 is needed".into()),
    }
}

impl Options {
    /// Refuses what cannot work, before pictures are read and weights fetched.
    fn check(&self) -> Result<(), String> {
        if !self.is_notebook()
            && let Some(option) = self.notebook_options().next()
        {
            return Err(format!("{option}: the recipe sets it itself"));
        }
        let base = &self.base;
        if let Some(name) = self.unfreeze()
            && !base.block_names().contains(&name)
        {
            let names = base.block_names().join(", ");
            return Err(format!("--unfreeze {name}: {base} has {names}"));
        }
        let size = self.size();
        if base.output([3, size, size]).is_none() {
            return Err(format!("--size {size}: too small for {base}"));
        }
        match self.weights.as_str() {
            "compact" if !["vgg19", "vgg19-0.25"].contains(&base.name()) => Err(format!(
                "--weights compact is for vgg19, not for {base}: give --weights imagenet, random or a file"
            )),
            "imagenet" if base.weights().is_none() => {
                Err(format!("--weights imagenet: the hub has none for {base}"))
            }
            "compact" | "imagenet" | "random" => Ok(()),
            file if !Path::new(file).is_file() => {
                Err(format!("--weights {file}: there is no such file"))
            }
            _ => Ok(()),
        }
    }

    /// Makes the folder `--out` ready: it is this run's, and nothing finished in it is written over unless asked.
    fn prepare(&self) -> Result<RunFolder, Box<dyn std::error::Error>> {
        let taken = RunFolder::take(&self.out)?;
        let (out, checkpoints) = (self.out.display(), self.checkpoints());
        if self.out.join(MODEL).exists() && !self.force {
            return Err(format!(
                "{out} holds a finished run: --force writes over it, --out DIR goes elsewhere"
            )
            .into());
        }
        let was_left =
            std::fs::read_dir(&checkpoints).is_ok_and(|mut files| files.next().is_some());
        if was_left && !self.resume {
            if !self.force {
                return Err(format!(
                    "{out} holds a run that was left: --resume goes on with it, --force begins again, --out DIR goes \
                     elsewhere"
                )
                .into());
            }
            std::fs::remove_dir_all(&checkpoints)
                .map_err(|error| format!("{}: {error}", checkpoints.display()))?;
        }
        Ok(taken)
    }

    fn checkpoints(&self) -> PathBuf {
        self.out.join("checkpoints")
    }

    /// The notebook's options that were given.
    fn notebook_options(&self) -> impl Iterator<Item = &'static str> {
        let options = [
            ("--unfreeze", self.unfreeze.is_some()),
            ("--epochs", self.epochs.is_some()),
            ("--batch-size", self.batch_size.is_some()),
            ("--lr", self.lr.is_some()),
            ("--no-augment", self.no_augment),
        ];
        let given = options.into_iter().filter(|(_, given)| *given);
        given.map(|(option, _)| option)
    }

    fn recipe(&self) -> Recipe {
        let default = || match self.notebook_options().next() {
            Some(_) => Recipe::Notebook,
            None => Recipe::FineTune,
        };
        self.recipe.unwrap_or_else(default)
    }

    /// Whether the options marked † say how it is trained.
    fn is_notebook(&self) -> bool {
        matches!(self.recipe(), Recipe::Notebook | Recipe::Cached)
    }

    fn is_vgg(&self) -> bool {
        self.base.name().starts_with("vgg")
    }

    fn size(&self) -> usize {
        self.size.unwrap_or(match self.recipe() {
            Recipe::FineTune if self.is_vgg() => 96,
            _ => self.base.input_size().0,
        })
    }

    /// The name of the first block that is trained; none where all stay frozen.
    fn unfreeze(&self) -> Option<&str> {
        match self.unfreeze.as_deref() {
            Some("none") => None,
            Some(name) => Some(name),
            None if self.recipe() == Recipe::Linear => None,
            None => self.base.block_names().pop(),
        }
    }

    fn resize(&self) -> Resize {
        self.resize.unwrap_or(if self.is_notebook() {
            Resize::Nearest
        } else {
            self.base.resize()
        })
    }

    /// The head of the recipe.
    fn new_head(&self, classes: usize) -> Head {
        let head = match self.head {
            HeadChoice::Sigmoid => Head::sigmoid(),
            HeadChoice::Softmax => Head::softmax(classes),
        };
        let head = match self.recipe() {
            Recipe::FineTune => head.hidden(256).dropout(0.5),
            Recipe::Notebook | Recipe::Cached => head.hidden(132),
            Recipe::Linear => head,
        };
        // The notebook flattens VGG's small maps; the others' are made to be averaged.
        let pooled = !self.is_vgg() || self.recipe() == Recipe::Linear;
        let pooling = if pooled {
            Pooling::GlobalAverage
        } else {
            Pooling::Flatten
        };
        head.pooling(pooling).seed(self.seed)
    }

    fn epochs(&self) -> usize {
        self.epochs.unwrap_or(10)
    }

    fn batch_size(&self) -> usize {
        self.batch_size.unwrap_or(20)
    }

    fn learning_rate(&self) -> f64 {
        let default = if self.weights == "compact" {
            5e-4
        } else {
            2e-5
        };
        self.lr.unwrap_or(default)
    }

    /// The trainer of the recipe.
    fn trainer(&self, model: &Classifier) -> Trainer {
        match self.recipe() {
            Recipe::FineTune => return Trainer::fine_tuning(model),
            Recipe::Linear => return linear(),
            Recipe::Notebook | Recipe::Cached => {}
        }
        let mut trainer = Trainer::new(RmsProp::new(self.learning_rate()))
            .epochs(self.epochs())
            .batch_size(self.batch_size());
        if !self.no_augment {
            trainer = trainer.augment(Augmenter::notebook());
        }
        if self.recipe() == Recipe::Cached {
            trainer = trainer.feature_cache(FeatureCache::in_memory().views(5));
        }
        trainer
    }
}

/// One layer on features that are computed once: as many epochs as it takes, since they cost next to nothing.
fn linear() -> Trainer {
    Trainer::new(AdamW::new(3e-3).weight_decay(0.01))
        .epochs(40)
        .batch_size(32)
        .schedule(Schedule::one_cycle())
        .feature_cache(FeatureCache::in_memory())
}

/// Trains, saves, evaluates and shows.
pub(crate) fn run(options: &Options) -> Result<End, Box<dyn std::error::Error>> {
    options.check()?;
    let _taken = options.prepare()?;
    let device = Device::cuda_if_available(0)?;
    let [train, validation, test] = open(options)?;
    let mut model = build(options, train.class_names(), &device)?;
    say!("{}", model.summary())?;
    explain(options, &model)?;

    // The first Ctrl-C leaves the run after the step, with a checkpoint; the second at once.
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    let checkpoints = options.checkpoints();
    let mut trainer = options
        .trainer(&model)
        .seed(options.seed)
        .checkpoint(Checkpoints::new(&checkpoints).every(5))
        .stop_flag(stop.clone());
    if options.resume {
        trainer = trainer.resume(&checkpoints);
    }
    let history = trainer.fit(&mut model, &train, &validation);
    if let Some(history) = history.as_ref().err().and_then(Error::history) {
        // What the run reached before it failed.
        print_history(history)?;
        history.save_csv(options.out.join("history.csv"))?;
    }
    let history = history?;
    print_history(&history)?;
    if stop.load(Ordering::Relaxed) {
        say!("\nLeft as asked. The same command with --resume goes on.")?;
        return Ok(End::Left);
    }
    finish(options, &model, &history, &test)?;
    // The saved model is what they were kept for.
    std::fs::remove_dir_all(&checkpoints)
        .map_err(|error| format!("{}: {error}", checkpoints.display()))?;
    Ok(End::Done)
}

/// The pictures to train on, to validate on and to test on.
fn open(options: &Options) -> Result<[DirectoryDataset; 3], Box<dyn std::error::Error>> {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/santa/pictures");
    let data = options.data.as_ref().unwrap_or(&bundled);
    let train = DirectoryDataset::open(data.join("train"))?;
    let open =
        |part: &str| DirectoryDataset::open_with_classes(data.join(part), train.class_names());
    let (validation, test) = (open("validation")?, open("test")?);
    let (classes, names) = (train.class_names().len(), train.class_names().join(", "));
    say!(
        "{} training, {} validation and {} test pictures of {names}",
        train.len(),
        validation.len(),
        test.len(),
    )?;
    if let (HeadChoice::Sigmoid, 3..) = (options.head, classes) {
        return Err(format!(
            "{classes} classes ({names}), and a sigmoid unit tells two apart: --head softmax takes any number"
        )
        .into());
    }
    Ok([train, validation, test])
}

/// Saves what was learnt, and then shows how good it is.
fn finish(
    options: &Options,
    model: &Classifier,
    history: &History,
    test: &DirectoryDataset,
) -> Result<(), Box<dyn std::error::Error>> {
    history.save_csv(options.out.join("history.csv"))?;
    let file = options.out.join(MODEL);
    model.save(&file)?;
    let saved = format!("the model is saved to {}", file.display());
    let evaluation = model.evaluate(test);
    let evaluation = evaluation.map_err(|error| format!("{error}; {saved}"))?;
    if evaluation.accuracy.is_none() {
        return Err(format!("{}: no pictures to test on; {saved}", test.root().display()).into());
    }
    say!("\nOn the test pictures, none of which was trained on:\n{evaluation}")?;
    print_verdicts(model, test)?;
    save_metrics(options, model, history, &evaluation)?;
    say!(
        "\nSaved to {}. Try it on a picture of yours:\n  cargo run --release --example santa -- predict {} PICTURE",
        options.out.display(),
        file.display()
    )?;
    if options.data.is_none() {
        say!(
            "\nWith pictures of your own, in DIR/train/CLASS, DIR/validation/CLASS and DIR/test/CLASS, and the full \
             ImageNet base:\n  cargo run --release --example santa -- --data DIR --weights imagenet"
        )?;
    }
    Ok(())
}

/// What is about to happen, in plain words.
fn explain(options: &Options, model: &Classifier) -> std::io::Result<()> {
    say!("What is learnt:")?;
    match options.recipe() {
        Recipe::FineTune => say!(
            "  the new head first, on a frozen base, for 5 epochs; then head and last blocks together, gently, for 15, on\n  \
             ten variations of each picture that are drawn once.\n"
        ),
        Recipe::Linear => say!("  one layer on what the frozen base makes of each picture.\n"),
        Recipe::Notebook | Recipe::Cached => explain_notebook(options, model),
    }
}

fn explain_notebook(options: &Options, model: &Classifier) -> std::io::Result<()> {
    let (frozen, open) = (block_names(model, false), block_names(model, true));
    if !frozen.is_empty() {
        say!(
            "  frozen      {}: keep what they learnt from other pictures",
            frozen.join(", ")
        )?;
    }
    if !open.is_empty() {
        say!("  fine-tuned  {}: adapt to these pictures", open.join(", "))?;
    }
    say!("  new         the head: learns from nothing to tell the classes apart")?;
    let epochs = match options.epochs() {
        1 => "1 epoch".to_owned(),
        epochs => format!("{epochs} epochs"),
    };
    say!(
        "{epochs} of batches of {}, RMSprop at {:e}, each picture {}.\n",
        options.batch_size(),
        options.learning_rate(),
        if options.no_augment {
            "as it is"
        } else {
            "turned, shifted, zoomed and mirrored at random"
        }
    )
}

/// The base's blocks that training may change, or those it may not.
fn block_names(model: &Classifier, trainable: bool) -> Vec<String> {
    let blocks = model.base().blocks().into_iter();
    blocks
        .filter(|block| block.trainable == trainable)
        .map(|block| block.name)
        .collect()
}

fn build(
    options: &Options,
    class_names: &[String],
    device: &Device,
) -> Result<Classifier, Box<dyn std::error::Error>> {
    let weights = match options.weights.as_str() {
        "compact" => Weights::Compact,
        "imagenet" => Weights::ImageNet,
        "random" => Weights::Random { seed: options.seed },
        file => Weights::file(file),
    };
    let mut base = ConvBase::new(options.base.clone(), weights, device)?.frozen();
    if let Some(first) = options.unfreeze() {
        base = base.unfreeze_from(first)?;
    }
    base = match options.preprocess {
        PreprocessChoice::Weights => base,
        PreprocessChoice::Unit => base.with_preprocess(Preprocess::Unit),
        PreprocessChoice::Torch => base.with_preprocess(Preprocess::Torch),
        PreprocessChoice::Caffe => base.with_preprocess(Preprocess::Caffe),
        PreprocessChoice::Half => base.with_preprocess(Preprocess::Half),
    };
    let head = options.new_head(class_names.len());
    let model = Classifier::new(base, head, class_names)?.resize(options.resize());
    Ok(model.input_size(options.size(), options.size())?)
}

fn print_history(history: &History) -> std::io::Result<()> {
    say!("epoch    loss  accuracy  val loss  val accuracy  seconds")?;
    // There is none without validation pictures.
    let figure = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.4}"));
    for e in &history.epochs {
        let (val_loss, val_accuracy) = (figure(e.val_loss), figure(e.val_accuracy));
        say!(
            "{:>5}  {:.4}    {:.4}    {val_loss:>6}        {val_accuracy:>6}  {:>7.1}",
            e.epoch,
            e.loss,
            e.accuracy,
            e.seconds
        )?;
    }
    Ok(())
}

/// The verdict on the first three test pictures of each class.
fn print_verdicts(model: &Classifier, test: &DirectoryDataset) -> std::io::Result<()> {
    say!("\nSome verdicts:")?;
    for label in 0..test.class_names().len() {
        let pictures = test.items().iter().filter(|item| item.label == label);
        for item in pictures.take(3) {
            match model.predict(&item.path) {
                Ok(prediction) => say!("  {}: {prediction}", shown(&item.path, test.root()))?,
                Err(error) => say!("  {error}")?,
            }
        }
    }
    Ok(())
}

fn shown(path: &Path, root: &Path) -> String {
    path.strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string()
}

fn save_metrics(
    options: &Options,
    model: &Classifier,
    history: &History,
    evaluation: &Evaluation,
) -> Result<(), Box<dyn std::error::Error>> {
    let by_options = options.is_notebook();
    let metrics = serde_json::json!({
        "test": evaluation,
        "seconds_per_epoch": history.seconds_per_epoch(),
        "seed": options.seed,
        "settings": {
            "base": model.base().arch().name(),
            "weights": options.weights,
            "preprocess": model.preprocess(),
            "recipe": options.recipe().to_possible_value().map(|value| value.get_name().to_owned()),
            "head": model.head().config(),
            "trainable_blocks": block_names(model, true),
            "epochs": history.epochs.len(),
            // The other recipes have their own.
            "batch_size": by_options.then(|| options.batch_size()),
            "lr": by_options.then(|| options.learning_rate()),
            "augment": by_options.then_some(!options.no_augment),
            "size": options.size(),
            "resize": options.resize(),
        },
    });
    // Whole or not there, as the other files.
    let mut file = tempfile::NamedTempFile::new_in(&options.out)?;
    writeln!(file, "{}", serde_json::to_string_pretty(&metrics)?)?;
    file.persist(options.out.join("metrics.json"))?;
    Ok(())
}
