//! What is trained on what, and how: a few settings, each with a default that the others decide.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::data::{Augmenter, Dataset, Preprocess, Resize};
use crate::error::{Error, Result};
use crate::model::{Arch, Backbone, Classifier, ConvBase, Head, Pooling, Weights};
use crate::train::optimizer::{AdamW, RmsProp, Schedule};
use crate::train::{FeatureCache, FineTuning, Trainer, fine_tuning_augmenter};

/// How a model is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// [`Trainer::fine_tuning`]: the head first, then head and last blocks.
    #[default]
    FineTune,
    /// One layer on the frozen base's pooled features, which are computed once.
    Linear,
    /// The Keras notebook's: RMSprop, heavy augmentation, the head and the last block.
    Notebook,
    /// The notebook's on five fixed variations of each picture, whose way through the frozen blocks is computed once.
    Cached,
}

impl Recipe {
    /// Every recipe.
    pub const ALL: [Self; 4] = [Self::FineTune, Self::Linear, Self::Notebook, Self::Cached];

    /// Its name, which [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Self::FineTune => "fine-tune",
            Self::Linear => "linear",
            Self::Notebook => "notebook",
            Self::Cached => "cached",
        }
    }

    fn is_notebook(self) -> bool {
        matches!(self, Self::Notebook | Self::Cached)
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Recipe {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|recipe| recipe.name() == name);
        known.ok_or_else(|| Error::option("recipe", name, Self::ALL.map(Self::name).join(", ")))
    }
}

/// The output layer of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// One unit, which tells two classes apart.
    Sigmoid,
    /// One unit for each class.
    Softmax,
}

impl FromStr for HeadKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "sigmoid" => Ok(Self::Sigmoid),
            "softmax" => Ok(Self::Softmax),
            _ => Err(Error::option("head", name, "sigmoid, softmax")),
        }
    }
}

/// A learning rate, or the wish that one be found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "serde_json::Value")]
pub enum LearningRate {
    /// What [`Trainer::find_learning_rate`] suggests, or the recipe's own where the loss falls nowhere.
    Auto,
    /// This one, above 0.
    Rate(f64),
}

impl FromStr for LearningRate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Self::Rate(rate)),
            _ if text == "auto" => Ok(Self::Auto),
            _ => Err(Error::option("lr", text, "a number above 0, or auto")),
        }
    }
}

impl TryFrom<serde_json::Value> for LearningRate {
    type Error = Error;

    fn try_from(value: serde_json::Value) -> Result<Self> {
        value
            .as_str()
            .map_or_else(|| value.to_string(), ToOwned::to_owned)
            .parse()
    }
}

impl From<LearningRate> for serde_json::Value {
    fn from(rate: LearningRate) -> Self {
        match rate {
            LearningRate::Auto => "auto".into(),
            LearningRate::Rate(rate) => rate.into(),
        }
    }
}

/// The settings of a run. What is not set has a default, which may depend on the others; [`resolved`](Self::resolved)
/// says all of them.
///
/// ```
/// use headstart::run::{Recipe, Settings};
///
/// let settings = Settings { base: Some("resnet50".into()), epochs: Some(8), ..Settings::default() };
/// let all = settings.resolved();
/// assert_eq!((all.recipe, all.weights.as_deref(), all.size), (Some(Recipe::FineTune), Some("imagenet"), Some(224)));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The base's name. Default: `vgg19` at the compact weights' width.
    pub base: Option<String>,
    /// `compact`, `imagenet`, `random` or a safetensors file. Default: `compact` without a base, else `imagenet`.
    pub weights: Option<String>,
    /// What pixels are turned into. Default: what the weights want.
    pub preprocess: Option<Preprocess>,
    /// Default: [`Recipe::FineTune`].
    pub recipe: Option<Recipe>,
    /// The first block that is trained along with the head, or `none`. Default: the recipe's.
    pub unfreeze: Option<String>,
    /// Default: one sigmoid unit for two classes, softmax units for more.
    pub head: Option<HeadKind>,
    /// The side in pixels that pictures are resized to. Default: that of the pictures the base's weights were trained
    /// on; 96 for VGG, and 64 in the notebook's recipes.
    pub size: Option<usize>,
    /// Default: what the base's weights were trained with; nearest in the notebook's recipes.
    pub resize: Option<Resize>,
    /// Default: the recipe's: 20, 40 (linear) or 10 (the notebook's).
    pub epochs: Option<usize>,
    /// Of those, how many [`Recipe::FineTune`] trains the head alone first. Default: a quarter, and five at most.
    pub head_epochs: Option<usize>,
    /// Default: the recipe's: 32, or 20 (the notebook's).
    pub batch_size: Option<usize>,
    /// The head's; what is trained of the base has a tenth of it in [`Recipe::FineTune`]. Default: the recipe's.
    pub lr: Option<LearningRate>,
    /// Whether the training pictures are varied at random. Default: as the recipe does.
    pub augment: Option<bool>,
    /// Fixes every random choice. Default: 1.
    pub seed: Option<u64>,
}

impl Settings {
    /// These settings, and where one is not set, that of `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            base: self.base.or(other.base),
            weights: self.weights.or(other.weights),
            preprocess: self.preprocess.or(other.preprocess),
            recipe: self.recipe.or(other.recipe),
            unfreeze: self.unfreeze.or(other.unfreeze),
            head: self.head.or(other.head),
            size: self.size.or(other.size),
            resize: self.resize.or(other.resize),
            epochs: self.epochs.or(other.epochs),
            head_epochs: self.head_epochs.or(other.head_epochs),
            batch_size: self.batch_size.or(other.batch_size),
            lr: self.lr.or(other.lr),
            augment: self.augment.or(other.augment),
            seed: self.seed.or(other.seed),
        }
    }

    /// With every default that can be told without the pictures and the weights written out. What the number of classes
    /// and the weights decide stays open: the head, the preprocess, and the blocks that fine-tuning opens.
    pub fn resolved(&self) -> Self {
        let arch = self.arch().ok();
        Self {
            base: Some(self.base_name().to_owned()),
            weights: Some(self.weights().to_owned()),
            preprocess: self.preprocess,
            recipe: Some(self.recipe()),
            unfreeze: self.unfreeze.clone(),
            head: self.head,
            size: self
                .size
                .or_else(|| arch.as_ref().map(|arch| self.size(arch))),
            resize: self
                .resize
                .or_else(|| arch.as_ref().map(|arch| self.resize(arch))),
            epochs: Some(self.epochs()),
            head_epochs: match self.recipe() {
                Recipe::FineTune => Some(self.head_epochs()),
                _ => self.head_epochs,
            },
            batch_size: Some(self.batch_size()),
            lr: Some(self.lr.unwrap_or(LearningRate::Rate(self.default_rate()))),
            augment: Some(self.augments()),
            seed: Some(self.seed()),
        }
    }

    /// Refuses what cannot work, before pictures are read and weights fetched.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] naming the setting.
    pub fn check(&self) -> Result<()> {
        let arch = self.arch()?;
        let recipe = self.recipe();
        if let Some(name) = self.unfreeze.as_deref().filter(|name| *name != "none") {
            if !arch.block_names().contains(&name) {
                let names = arch.block_names().join(", ");
                return Err(Error::option("unfreeze", name, format!("none, {names}")));
            }
            if recipe == Recipe::Linear {
                let allowed = "none with the recipe linear, which trains the head alone";
                return Err(Error::option("unfreeze", name, allowed));
            }
        }
        if recipe == Recipe::Linear && self.augment == Some(true) {
            let allowed = "false with the recipe linear, which computes features once";
            return Err(Error::option("augment", true, allowed));
        }
        for (option, number) in [("epochs", self.epochs()), ("batch_size", self.batch_size())] {
            crate::bounds::within(option, number, 1..=1_000_000)?;
        }
        crate::bounds::within("head_epochs", self.head_epochs(), 1..=self.epochs())?;
        let size = self.size(&arch);
        if arch.output([3, size, size]).is_none() {
            return Err(Error::option("size", size, format!("larger for {arch}")));
        }
        match self.weights() {
            "compact" if !["vgg19", "vgg19-0.25"].contains(&arch.name()) => Err(Error::option(
                "weights",
                format!("compact, which is for vgg19, not for {arch}"),
                "imagenet, random or a file",
            )),
            "imagenet" if arch.weights().is_none() => Err(Error::option(
                "weights",
                format!("imagenet, and the hub has none for {arch}"),
                "random or a file",
            )),
            "compact" | "imagenet" | "random" => Ok(()),
            file if !Path::new(file).is_file() => Err(Error::option(
                "weights",
                format!("{file}: there is no such file"),
                "compact, imagenet, random or a safetensors file",
            )),
            _ => Ok(()),
        }
    }

    /// The model to train: the base with its frozen and open blocks, and a fresh head for these classes.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), of loading weights and of [`Classifier::new`].
    pub fn build(&self, class_names: &[String], device: &Device) -> Result<Classifier> {
        self.check()?;
        let arch = self.arch()?;
        let mut base = self.open_base(device)?.frozen();
        if let Some(first) = self.first_open(&arch) {
            base = base.unfreeze_from(first)?;
        }
        if let Some(preprocess) = self.preprocess {
            base = base.with_preprocess(preprocess);
        }
        let head = self.new_head(&arch, class_names.len());
        let model = Classifier::new(base, head, class_names)?.resize(self.resize(&arch));
        let size = self.size(&arch);
        model.input_size(size, size)
    }

    /// The trainer for a model that these settings built, with the learning rate that was found where one was asked
    /// for.
    ///
    /// # Errors
    /// Those of [`Trainer::find_learning_rate`].
    pub fn trainer(&self, model: &Classifier, train: &Dataset) -> Result<(Trainer, f64)> {
        let default = self.trainer_at(model, self.default_rate());
        let rate = match self.lr {
            Some(LearningRate::Rate(rate)) => rate,
            None => self.default_rate(),
            Some(LearningRate::Auto) => {
                let found = default.find_learning_rate(model, train)?;
                found.suggestion().unwrap_or(self.default_rate())
            }
        };
        Ok((self.trainer_at(model, rate), rate))
    }

    fn trainer_at(&self, model: &Classifier, rate: f64) -> Trainer {
        let trainer = match self.recipe() {
            Recipe::FineTune => FineTuning {
                epochs: self.epochs(),
                head_epochs: self.head_epochs(),
                learning_rate: rate,
                augment: self.augments(),
                blocks: match self.unfreeze {
                    None => FineTuning::new(model).blocks,
                    Some(_) => open_blocks(model),
                },
            }
            .trainer(),
            Recipe::Linear => Trainer::new(AdamW::new(rate).weight_decay(0.01))
                .epochs(self.epochs())
                .schedule(Schedule::one_cycle())
                .feature_cache(FeatureCache::in_memory()),
            Recipe::Notebook | Recipe::Cached => {
                let trainer = Trainer::new(RmsProp::new(rate)).epochs(self.epochs());
                let trainer = match self.augmenter() {
                    Some(augmenter) => trainer.augment(augmenter),
                    None => trainer,
                };
                match self.recipe() {
                    Recipe::Cached => trainer.feature_cache(FeatureCache::in_memory().views(5)),
                    _ => trainer,
                }
            }
        };
        trainer.batch_size(self.batch_size()).seed(self.seed())
    }

    /// The base with its weights, every block trainable.
    ///
    /// # Errors
    /// Those of loading weights; [`Error::InvalidOption`] for a base there is none of that name.
    pub fn open_base(&self, device: &Device) -> Result<ConvBase> {
        let weights = match self.weights() {
            "compact" => Weights::Compact,
            "imagenet" => Weights::ImageNet,
            "random" => Weights::Random { seed: self.seed() },
            file => Weights::file(file),
        };
        ConvBase::new(self.arch()?, weights, device)
    }

    /// How training pictures are varied, if they are.
    pub fn augmenter(&self) -> Option<Augmenter> {
        let augmenter = match self.recipe() {
            Recipe::FineTune => fine_tuning_augmenter(),
            _ => Augmenter::notebook(),
        };
        self.augments().then_some(augmenter)
    }

    fn new_head(&self, arch: &Arch, classes: usize) -> Head {
        let kind = match (self.head, classes) {
            (Some(kind), _) => kind,
            (None, 2) => HeadKind::Sigmoid,
            (None, _) => HeadKind::Softmax,
        };
        let head = match kind {
            HeadKind::Sigmoid => Head::sigmoid(),
            HeadKind::Softmax => Head::softmax(classes),
        };
        let head = match self.recipe() {
            Recipe::FineTune => head.hidden(256).dropout(0.5),
            Recipe::Notebook | Recipe::Cached => head.hidden(132),
            Recipe::Linear => head,
        };
        // The notebook flattens VGG's small maps; the others' are made to be averaged.
        let pooling = match is_vgg(arch) && self.recipe() != Recipe::Linear {
            true => Pooling::Flatten,
            false => Pooling::GlobalAverage,
        };
        head.pooling(pooling).seed(self.seed())
    }

    /// The first block that is open from the start; fine-tuning opens its own later.
    fn first_open<'a>(&'a self, arch: &'a Arch) -> Option<&'a str> {
        match (self.unfreeze.as_deref(), self.recipe()) {
            (Some("none"), _) | (None, Recipe::Linear) => None,
            (Some(name), _) => Some(name),
            (None, _) => arch.block_names().pop(),
        }
    }

    pub(super) fn arch(&self) -> Result<Arch> {
        self.base_name().parse()
    }

    fn base_name(&self) -> &str {
        self.base.as_deref().unwrap_or("vgg19")
    }

    fn weights(&self) -> &str {
        let default = match self.base {
            None => "compact",
            Some(_) => "imagenet",
        };
        self.weights.as_deref().unwrap_or(default)
    }

    /// The recipe.
    pub fn recipe(&self) -> Recipe {
        self.recipe.unwrap_or_default()
    }

    fn size(&self, arch: &Arch) -> usize {
        self.size.unwrap_or(match self.recipe() {
            Recipe::FineTune if is_vgg(arch) => 96,
            _ => arch.input_size().0,
        })
    }

    fn resize(&self, arch: &Arch) -> Resize {
        self.resize.unwrap_or(match self.recipe().is_notebook() {
            true => Resize::Nearest,
            false => arch.resize(),
        })
    }

    pub(super) fn epochs(&self) -> usize {
        self.epochs.unwrap_or(match self.recipe() {
            Recipe::FineTune => 20,
            Recipe::Linear => 40,
            Recipe::Notebook | Recipe::Cached => 10,
        })
    }

    fn head_epochs(&self) -> usize {
        let default = self.epochs().div_ceil(4).min(5);
        self.head_epochs.unwrap_or(default)
    }

    pub(super) fn batch_size(&self) -> usize {
        let is_notebook = self.recipe().is_notebook();
        self.batch_size.unwrap_or(if is_notebook { 20 } else { 32 })
    }

    fn default_rate(&self) -> f64 {
        match self.recipe() {
            Recipe::FineTune => 1e-3,
            Recipe::Linear => 3e-3,
            _ if self.weights() == "compact" => 5e-4,
            _ => 2e-5,
        }
    }

    fn augments(&self) -> bool {
        self.augment.unwrap_or(self.recipe() != Recipe::Linear)
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(1)
    }
}

fn is_vgg(arch: &Arch) -> bool {
    arch.name().starts_with("vgg")
}

/// The names of the blocks that training may change.
pub(super) fn open_blocks(model: &Classifier) -> Vec<String> {
    let blocks = model.base().blocks().into_iter();
    let open = blocks.filter(|block| block.trainable);
    open.map(|block| block.name).collect()
}
