//! `santa`: a training run from class folders to a saved classifier.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use clap::ValueEnum;
use headstart::model::Pooling;
use headstart::model::{Arch, Backbone};
use headstart::train::metrics::{Evaluation, History};
use headstart::train::optimizer::Schedule;
use headstart::{
    AdamW, Augmenter, Checkpoints, Classifier, ConvBase, DirectoryDataset, FeatureCache, Head,
    Preprocess, Resize, RmsProp, Trainer, Weights,
};

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
    /// One sigmoid unit (two classes) or one softmax unit per class.
    #[arg(long, default_value = "sigmoid")]
    head: HeadChoice,
    /// † How many times the training pictures are seen [default: 10]
    #[arg(long)]
    epochs: Option<usize>,
    /// † How many pictures make one update [default: 20]
    #[arg(long)]
    batch_size: Option<usize>,
    /// † Learning rate of RMSprop [default: 2e-5, the notebook's; 5e-4 for the compact base]
    #[arg(long)]
    lr: Option<f64>,
    /// Side, in pixels, that pictures are resized to [default: what the base's weights were trained on; for VGG 64, the
    /// notebook's, and 96 to fine-tune]
    #[arg(long)]
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

impl Options {
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
    fn trainer(&self, model: &Classifier) -> Result<Trainer, String> {
        if !self.is_notebook()
            && let Some(option) = self.notebook_options().next()
        {
            return Err(format!("{option}: the recipe sets it itself"));
        }
        match self.recipe() {
            Recipe::FineTune => return Ok(Trainer::fine_tuning(model)),
            Recipe::Linear => return Ok(linear()),
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
        Ok(trainer)
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

/// Trains, evaluates, shows and saves.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::cuda_if_available(0)?;
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/santa/pictures");
    let data = options.data.as_ref().unwrap_or(&bundled);
    let train = DirectoryDataset::open(data.join("train"))?;
    let open =
        |part: &str| DirectoryDataset::open_with_classes(data.join(part), train.class_names());
    let (validation, test) = (open("validation")?, open("test")?);
    println!(
        "{} training, {} validation and {} test pictures of {}",
        train.len(),
        validation.len(),
        test.len(),
        train.class_names().join(", ")
    );

    let mut model = build(options, train.class_names(), &device)?;
    println!("{}", model.summary());
    explain(options, &model);

    // The first Ctrl-C leaves the run after the step, with a checkpoint; the second at once.
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    let checkpoints = options.out.join("checkpoints");
    let mut trainer = options
        .trainer(&model)?
        .seed(options.seed)
        .checkpoint(Checkpoints::new(&checkpoints).every(5))
        .stop_flag(stop.clone());
    if options.resume {
        trainer = trainer.resume(&checkpoints);
    }
    let history = trainer.fit(&mut model, &train, &validation)?;
    print_history(&history);
    if stop.load(Ordering::Relaxed) {
        println!("\nLeft as asked. The same command with --resume goes on.");
        return Ok(());
    }

    let evaluation = model.evaluate(&test)?;
    println!("\nOn the test pictures, none of which was trained on:\n{evaluation}");
    for dataset in [&train, &validation, &test] {
        if let Some(line) = dataset.problem_summary() {
            println!("{line}");
        }
    }
    print_verdicts(&model, &test)?;
    save(options, &model, &history, &evaluation)?;
    // The saved model is what they were kept for.
    std::fs::remove_dir_all(&checkpoints)
        .map_err(|error| format!("{}: {error}", checkpoints.display()))?;
    if options.data.is_none() {
        println!(
            "\nWith pictures of your own, in DIR/train/CLASS, DIR/validation/CLASS and DIR/test/CLASS, and the full \
             ImageNet base:\n  cargo run --release --example santa -- --data DIR --weights imagenet"
        );
    }
    Ok(())
}

/// What is about to happen, in plain words.
fn explain(options: &Options, model: &Classifier) {
    println!("What is learnt:");
    match options.recipe() {
        Recipe::FineTune => println!(
            "  the new head first, on a frozen base, for 5 epochs; then head and last blocks together, gently, for 15, on\n  \
             ten variations of each picture that are drawn once.\n"
        ),
        Recipe::Linear => println!("  one layer on what the frozen base makes of each picture.\n"),
        Recipe::Notebook | Recipe::Cached => explain_notebook(options, model),
    }
}

fn explain_notebook(options: &Options, model: &Classifier) {
    let (frozen, open) = (block_names(model, false), block_names(model, true));
    if !frozen.is_empty() {
        println!(
            "  frozen      {}: keep what they learnt from other pictures",
            frozen.join(", ")
        );
    }
    if !open.is_empty() {
        println!("  fine-tuned  {}: adapt to these pictures", open.join(", "));
    }
    println!("  new         the head: learns from nothing to tell the classes apart");
    println!(
        "{} epochs of batches of {}, RMSprop at {:e}, each picture {}.\n",
        options.epochs(),
        options.batch_size(),
        options.learning_rate(),
        if options.no_augment {
            "as it is"
        } else {
            "turned, shifted, zoomed and mirrored at random"
        }
    );
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

fn print_history(history: &History) {
    println!("epoch    loss  accuracy  val loss  val accuracy  seconds");
    for e in &history.epochs {
        println!(
            "{:>5}  {:.4}    {:.4}    {:.4}        {:.4}  {:>7.1}",
            e.epoch, e.loss, e.accuracy, e.val_loss, e.val_accuracy, e.seconds
        );
    }
}

/// The verdict on the first three test pictures of each class.
fn print_verdicts(model: &Classifier, test: &DirectoryDataset) -> headstart::Result<()> {
    println!("\nSome verdicts:");
    for label in 0..test.class_names().len() {
        let pictures = test.items().iter().filter(|item| item.label == label);
        for item in pictures.take(3) {
            match model.predict(&item.path) {
                Ok(prediction) => println!("  {}: {prediction}", shown(&item.path, test.root())),
                Err(error) => println!("  {error}"),
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

fn save(
    options: &Options,
    model: &Classifier,
    history: &History,
    evaluation: &Evaluation,
) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(&options.out)
        .map_err(|error| format!("{}: {error}", options.out.display()))?;
    history.save_csv(options.out.join("history.csv"))?;
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
    std::fs::write(
        options.out.join("metrics.json"),
        serde_json::to_string_pretty(&metrics)? + "\n",
    )?;
    let file = options.out.join("model.safetensors");
    model.save(&file)?;
    println!(
        "\nSaved to {}. Try it on a picture of yours:\n  cargo run --release --example santa -- predict {} PICTURE",
        options.out.display(),
        file.display()
    );
    Ok(())
}
