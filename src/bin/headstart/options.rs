//! The settings of a run as options of the command line, and what else several commands take: a model, a run's
//! pictures.

use std::path::{Path, PathBuf};

use headstart::run::{Config, HeadKind, LearningRate, Parts, Recipe, Settings};
use headstart::{Classifier, Preprocess, Resize, best_device};

use crate::Failure;

/// Options that are settings of a run; each has a default, and one given here holds against the one in --config.
#[derive(clap::Args, Default)]
pub(crate) struct SettingOptions {
    /// The base, by its name: `headstart bases` lists them; a VGG with a width if it is not 1, as in vgg19-0.25
    /// [default: the compact base, which comes with the program]
    #[arg(long, value_name = "NAME")]
    base: Option<String>,
    /// Weights of the base: `compact` (they come with the program), `imagenet` (fetched once, then cached), `random`,
    /// or a safetensors file [default: imagenet with --base, else compact]
    #[arg(long, value_name = "compact|imagenet|random|FILE")]
    weights: Option<String>,
    /// What pixels are turned into: unit, torch, caffe or half [default: what the weights want]
    #[arg(long)]
    preprocess: Option<Preprocess>,
    /// How it is trained: `fine-tune`, the head first and then head and last blocks; `linear`, one layer on the frozen
    /// base's pooled features; `notebook`, RMSprop and heavy augmentation; `cached`, the same on five fixed variations
    /// of each picture [default: fine-tune]
    #[arg(long, value_name = "fine-tune|linear|notebook|cached")]
    recipe: Option<Recipe>,
    /// The first block of the base that is trained along with the head (`block5`, `layer4`, `blocks.6`), or `none`.
    /// Those before it stay as they are, bit for bit [default: the recipe's]
    #[arg(long, value_name = "BLOCK|none")]
    unfreeze: Option<String>,
    /// One sigmoid unit, which tells two classes apart, or one softmax unit for each class: sigmoid or softmax
    /// [default: sigmoid for two classes, softmax for more]
    #[arg(long)]
    head: Option<HeadKind>,
    /// Side, in pixels, that pictures are resized to [default: what the base's weights were trained on; for VGG 96]
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,
    /// How pictures are resized: nearest, bilinear or bicubic [default: what the weights were trained with]
    #[arg(long)]
    resize: Option<Resize>,
    /// How many times the training pictures are seen [default: the recipe's: 20, 40 (linear), 10 (notebook)]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Of those, how many fine-tune trains the head alone first [default: a quarter, and 5 at most]
    #[arg(long, value_name = "N")]
    head_epochs: Option<usize>,
    /// How many pictures make one update [default: the recipe's: 32, 20 (notebook)]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Learning rate of the head, or `auto` to look for one; fine-tuned blocks get a tenth [default: the recipe's]
    #[arg(long, value_name = "RATE|auto", allow_negative_numbers = true)]
    lr: Option<LearningRate>,
    /// Trains on the pictures as they are, without turning, shifting, zooming and mirroring them at random
    #[arg(long)]
    no_augment: bool,
    /// Fixes every random choice: two runs with one seed give the same figures [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl SettingOptions {
    /// The settings that were given.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            base: self.base.clone(),
            weights: self.weights.clone(),
            preprocess: self.preprocess,
            recipe: self.recipe,
            unfreeze: self.unfreeze.clone(),
            head: self.head,
            size: self.size,
            resize: self.resize,
            epochs: self.epochs,
            head_epochs: self.head_epochs,
            batch_size: self.batch_size,
            lr: self.lr,
            augment: self.no_augment.then_some(false),
            seed: self.seed,
        }
    }
}

/// Loads a model: a file, or the folder of a run with one in it.
pub(crate) fn load(model: &Path) -> Result<Classifier, Failure> {
    Ok(Classifier::load(model_file(model), &best_device())?)
}

/// The file of a model that is given by its run's folder.
pub(crate) fn model_file(model: &Path) -> PathBuf {
    match model.is_dir() {
        true => model.join("model.safetensors"),
        false => model.to_owned(),
    }
}

/// The pictures of a run.
pub(crate) fn parts(config: &Config) -> Result<Parts, Failure> {
    let Some(pictures) = &config.pictures else {
        return Err(Failure::Usage(
            "no PICTURES are given, nor by --config".into(),
        ));
    };
    Ok(Parts::open(
        pictures,
        config.validation.as_deref(),
        config.test.as_deref(),
    )?)
}
