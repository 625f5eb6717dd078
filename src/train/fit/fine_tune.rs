//! One call that does what an expert would.

use super::phase::Phase;
use super::trainer::Trainer;
use crate::data::{Augmenter, Dataset};
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};
use crate::train::features::FeatureCache;
use crate::train::metrics::History;
use crate::train::optimizer::{AdamW, Clip, Schedule};

/// Variations of each picture that are drawn once.
const VIEWS: usize = 10;
/// What [`Trainer::fine_tune`] holds out of each class for validation, and by which seed it is drawn.
const HELD_OUT: f64 = 0.2;
const SPLIT_SEED: u64 = 0;

/// The share of a base's parameters that is trained at least: some bases end with a block of one small convolution.
const TRAINED_SHARE: f64 = 0.2;

/// What of [`Trainer::fine_tuning`] may be asked for otherwise.
pub(crate) struct FineTuning {
    /// Of both phases together.
    pub(crate) epochs: usize,
    /// Of the first one; without blocks for a second, all.
    pub(crate) head_epochs: usize,
    /// The head's, at its highest; head and last blocks together have a tenth of it.
    pub(crate) learning_rate: f64,
    /// What is trained with the head in the second phase; without any there is the first alone.
    pub(crate) blocks: Vec<String>,
    /// Whether pictures are varied.
    pub(crate) augment: bool,
}

impl FineTuning {
    /// The defaults for a model.
    pub(crate) fn new<B: Backbone>(model: &Classifier<B>) -> Self {
        Self {
            epochs: 20,
            head_epochs: 5,
            learning_rate: 1e-3,
            blocks: last_blocks(model.base()),
            augment: true,
        }
    }

    /// The trainer.
    pub(crate) fn trainer(self) -> Trainer {
        let one_cycle = Schedule::one_cycle();
        let head_epochs = match self.blocks.is_empty() {
            true => self.epochs,
            false => self.head_epochs,
        };
        let head = Phase::new(head_epochs).frozen().schedule(one_cycle);
        let mut phases = vec![head];
        let rest = self.epochs.saturating_sub(head_epochs);
        if rest > 0 {
            phases.push(
                Phase::new(rest)
                    .unfreeze(&self.blocks)
                    .learning_rate(self.learning_rate / 10.0)
                    .schedule(one_cycle),
            );
        }
        let trainer = Trainer::new(AdamW::new(self.learning_rate).weight_decay(0.01))
            .phases(phases)
            .batch_size(32)
            .label_smoothing(0.1)
            .clip(Clip::Norm(1.0));
        match self.augment {
            true => trainer
                .augment(augmenter())
                .feature_cache(FeatureCache::in_memory().views(VIEWS)),
            false => trainer.feature_cache(FeatureCache::in_memory()),
        }
    }
}

/// How [`Trainer::fine_tuning`] varies pictures.
pub(crate) fn augmenter() -> Augmenter {
    Augmenter::new()
        .rotation(15.0)
        .shift(0.1, 0.1)
        .zoom(0.15)
        .horizontal_flip(true)
}

impl Trainer {
    /// A trainer for a few hundred to a few thousand pictures on a pretrained base, set up as for
    /// [`fine_tune`](Self::fine_tune); anything it sets can be set again before [`fit`](Self::fit).
    ///
    /// 1. The head alone for 5 epochs, all blocks frozen: one-cycle AdamW up to 1e-3. The gradients of a fresh
    ///    head would only spoil the base.
    /// 2. Head and last blocks for 15 epochs: one-cycle AdamW up to 1e-4. As many of the last blocks as hold a fifth of
    ///    the base's parameters: VGG's block5, ResNet's layer4, EfficientNet's blocks.6 and conv_head.
    ///
    /// In both, weight decay 0.01, labels smoothed by 0.1, gradients clipped to norm 1, batches of 32, and ten fixed
    /// variations of each picture (rotation ±15°, shifts of a tenth, zoom 0.85 to 1.15, mirrored half of the time)
    /// whose way through the frozen blocks is computed once. Give the head dropout: `.hidden(256).dropout(0.5)`.
    ///
    /// What the frozen blocks made of the variations is in memory, 10·4·C·h·w bytes for each training picture when the
    /// last blocks are trainable: with VGG19, a third of a megabyte at 64×64 and four at 224×224. Where that is too
    /// much, set [`FeatureCache::on_disk`] with `views(10)`.
    ///
    /// One-cycle: Smith 2018, "A disciplined approach to neural network hyper-parameters"; head first: Howard & Ruder
    /// 2018, "ULMFiT".
    pub fn fine_tuning<B: Backbone>(model: &Classifier<B>) -> Self {
        FineTuning::new(model).trainer()
    }

    /// [`fine_tuning`](Self::fine_tuning) of a model whose head is fitted already, as
    /// [`LinearHead`](crate::study::LinearHead) does: head and last blocks alone, 15 epochs.
    pub fn fine_tuning_from_fitted<B: Backbone>(model: &Classifier<B>) -> Self {
        let mut trainer = Self::fine_tuning(model);
        trainer.options.phases.remove(0);
        trainer
    }

    /// Fine-tunes a model whose base is pretrained, in one call: see [`fine_tuning`](Self::fine_tuning) for what it
    /// does. The last blocks are left trainable.
    ///
    /// A fifth of each class is held out for validation, drawn by `dataset.split(0.2, 0)`: the same pictures each time.
    /// With validation pictures of your own, call [`fine_tune_with`](Self::fine_tune_with).
    ///
    /// ```no_run
    /// use candle_core::Device;
    /// use headstart::{Classifier, ConvBase, Dataset, Head, Trainer, Weights};
    ///
    /// let dataset = Dataset::open("pictures")?;
    /// let head = Head::softmax(dataset.class_names().len()).hidden(256).dropout(0.5);
    /// let base = ConvBase::vgg19(Weights::ImageNet, &Device::Cpu)?;
    /// let mut model = Classifier::new(base, head, dataset.class_names())?.input_size(128, 128)?;
    /// Trainer::fine_tune(&mut model, &dataset)?;
    /// # Ok::<(), headstart::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`fit`](Self::fit), and [`Error::Dataset`] where no class has two pictures, of which one could be held
    /// out.
    pub fn fine_tune<B: Backbone>(model: &mut Classifier<B>, dataset: &Dataset) -> Result<History> {
        let (train, validation) = dataset.split(HELD_OUT, SPLIT_SEED)?;
        if validation.is_empty() {
            return Err(Error::Dataset {
                path: dataset.root().to_owned(),
                source: "no class has two pictures, of which one could be held out".into(),
            });
        }
        Self::fine_tune_with(model, &train, &validation)
    }

    /// Fine-tunes as [`fine_tune`](Self::fine_tune), with validation pictures of your own.
    ///
    /// # Errors
    /// Those of [`fit`](Self::fit).
    pub fn fine_tune_with<B: Backbone>(
        model: &mut Classifier<B>,
        train: &Dataset,
        validation: &Dataset,
    ) -> Result<History> {
        Self::fine_tuning(model).fit(model, train, validation)
    }
}

/// The last blocks of a base, as many as hold [`TRAINED_SHARE`] of its parameters.
fn last_blocks(base: &impl Backbone) -> Vec<String> {
    let blocks = base.blocks();
    let mut sizes = vec![0; blocks.len()];
    for parameter in base.parameters() {
        sizes[parameter.block] += parameter.tensor.elem_count();
    }
    let wanted = TRAINED_SHARE * sizes.iter().sum::<usize>() as f64;
    let mut held = 0;
    let last = sizes.iter().rev().take_while(|size| {
        let more = (held as f64) < wanted;
        held += **size;
        more
    });
    let first = blocks.len() - last.count();
    blocks
        .into_iter()
        .skip(first)
        .map(|block| block.name)
        .collect()
}
