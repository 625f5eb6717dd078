//! What a run is made of.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::callback::{Callback, Callbacks};
use super::checkpoint::Checkpoints;
use super::clip::Clip;
use super::evaluate::same_classes;
use super::features::FeatureCache;
use super::history::History;
use super::learner::Learner;
use super::loss::Targets;
use super::optimizer::AnyOptimizer;
use super::phase::{Phase, block_names, check_block};
use super::progress_bar::ProgressBar;
use super::run::Run;
use super::schedule::Schedule;
use super::source::Source;
use crate::model::{Backbone, Classifier};
use crate::{Augmenter, DirectoryDataset, Error, Result};

/// Trains a [`Classifier`] on a dataset.
///
/// Every epoch sees the training pictures in a fresh order, augmented afresh, the last short batch included,
/// and ends with the validation pictures as they are. Only what is trainable changes.
///
/// Defaults are Keras's: 1 epoch, batches of 32, a constant learning rate, no augmentation; the seed is 0.
///
/// ```no_run
/// use candle_core::Device;
/// use headstart::{Augmenter, Classifier, ConvBase, DirectoryDataset, Head, RmsProp, Trainer, Weights};
///
/// let train = DirectoryDataset::open("pictures/train")?;
/// let validation = DirectoryDataset::open("pictures/validation")?;
/// let base = ConvBase::vgg19(Weights::ImageNet, &Device::Cpu)?.frozen();
/// let mut model = Classifier::new(base, Head::sigmoid().hidden(132), train.class_names())?;
/// let history = Trainer::new(RmsProp::new(2e-5))
///     .epochs(10)
///     .batch_size(20)
///     .augment(Augmenter::new().rotation(40.0).horizontal_flip(true))
///     .fit(&mut model, &train, &validation)?;
/// history.save_csv("history.csv")?;
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Trainer {
    pub(super) optimizer: AnyOptimizer,
    epochs: usize,
    schedule: Schedule,
    phases: Vec<Phase>,
    pub(super) batch_size: usize,
    pub(super) seed: u64,
    pub(super) augmenter: Option<Augmenter>,
    pub(super) feature_cache: Option<FeatureCache>,
    pub(super) block_rates: Vec<(String, f64)>,
    pub(super) clip: Option<Clip>,
    pub(super) targets: Targets,
    callbacks: Callbacks,
    progress_bar: bool,
    pub(super) checkpoints: Option<Checkpoints>,
    pub(super) resume: Option<PathBuf>,
    pub(super) stop: Option<Arc<AtomicBool>>,
}

impl Trainer {
    /// A trainer that updates with this optimizer: [`RmsProp`](crate::RmsProp), [`AdamW`](crate::AdamW) or
    /// [`Sgd`](crate::Sgd).
    pub fn new(optimizer: impl Into<AnyOptimizer>) -> Self {
        Self {
            optimizer: optimizer.into(),
            epochs: 1,
            schedule: Schedule::constant(),
            phases: Vec::new(),
            batch_size: 32,
            seed: 0,
            augmenter: None,
            feature_cache: None,
            block_rates: Vec::new(),
            clip: None,
            targets: Targets::default(),
            callbacks: Callbacks::default(),
            progress_bar: true,
            checkpoints: None,
            resume: None,
            stop: None,
        }
    }

    /// Sets how many times the training pictures are seen; the default is 1.
    pub fn epochs(mut self, epochs: usize) -> Self {
        self.epochs = epochs;
        self
    }

    /// Sets how the learning rate moves over the run's steps; the default is not to.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Trains in phases, one after the other, which take the place of [`epochs`](Self::epochs) and
    /// [`schedule`](Self::schedule). Each starts from the weights the one before left. The optimizer's state
    /// of variables that stay open goes on; a variable that is opened, or opened again, starts without. The
    /// model's blocks are left as the last phase set them.
    pub fn phases(mut self, phases: impl IntoIterator<Item = Phase>) -> Self {
        self.phases = phases.into_iter().collect();
        self
    }

    /// Sets how many pictures make one update; the default is 32.
    pub fn batch_size(mut self, pictures: usize) -> Self {
        self.batch_size = pictures;
        self
    }

    /// Sets the seed of order, augmentation and dropout; the default is 0. Two runs with one seed give the
    /// same losses, bit for bit, on one machine, whatever the number of threads.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Augments the training pictures, each epoch afresh; the default is not to.
    pub fn augment(mut self, augmenter: Augmenter) -> Self {
        self.augmenter = Some(augmenter);
        self
    }

    /// Computes what the leading frozen blocks make of the training pictures once, not every epoch; the default is
    /// not to. [`fit`](Self::fit) then refuses a base whose first block is trainable.
    ///
    /// Validation features are kept without being asked for where leading blocks are frozen, in up to 256 MiB of
    /// memory; if they need more, they are computed every epoch. A cache on disk takes them too.
    pub fn feature_cache(mut self, cache: FeatureCache) -> Self {
        self.feature_cache = Some(cache);
        self
    }

    /// Multiplies the learning rate of a block of the base (a [`Block`](crate::Block) or its name), or of the
    /// `head`, by a number above 0; the default is 1 for all. To keep a block as it is, freeze it.
    pub fn block_learning_rate(mut self, block: impl ToString, multiplier: f64) -> Self {
        self.block_rates.push((block.to_string(), multiplier));
        self
    }

    /// Bounds the gradients of every step; the default is not to.
    pub fn clip(mut self, clip: Clip) -> Self {
        self.clip = Some(clip);
        self
    }

    /// Multiplies the loss of each training picture by its class's weight, in label order; the default is 1
    /// for all. As in Keras, the sum is still divided by the number of pictures, the reported training loss is
    /// the weighted one, and validation does not know the weights.
    pub fn class_weights(mut self, weights: impl IntoIterator<Item = f64>) -> Self {
        self.targets.class_weights = weights.into_iter().collect();
        self
    }

    /// Spreads this share of each label, in [0, 1), evenly over the classes; the default is 0. As in Keras,
    /// the reported losses, that of validation too, are those on the smoothed labels;
    /// [`evaluate`](Classifier::evaluate) is on the plain ones.
    pub fn label_smoothing(mut self, share: f64) -> Self {
        self.targets.label_smoothing = share;
        self
    }

    /// Adds a callback. They are told in the order they were added; a trainer's clones share them.
    pub fn callback(mut self, callback: impl Callback + 'static) -> Self {
        self.callbacks.push(callback);
        self
    }

    /// Whether a progress bar per epoch is shown on the standard error, if that is a terminal; the default is
    /// to. Without it, warnings are not shown either: a callback can take them from
    /// [`TrainBegin`](super::TrainBegin).
    pub fn progress_bar(mut self, shown: bool) -> Self {
        self.progress_bar = shown;
        self
    }

    /// Writes checkpoints; the default is not to.
    pub fn checkpoint(mut self, checkpoints: Checkpoints) -> Self {
        self.checkpoints = Some(checkpoints);
        self
    }

    /// Goes on from the newest whole checkpoint of a folder: the final weights are those of a run that was
    /// never interrupted, bit for bit, on one machine. The model, the datasets and every option that decides
    /// what is computed must be as the run was begun with. A folder without checkpoints begins at the
    /// beginning; damaged files are passed over with a warning.
    pub fn resume(mut self, folder: impl Into<PathBuf>) -> Self {
        self.resume = Some(folder.into());
        self
    }

    /// Leaves the run, with a checkpoint if any are kept, after the step during which the flag becomes true.
    /// `fit` then returns the history so far, and the model is as that step left it.
    pub fn stop_flag(mut self, flag: Arc<AtomicBool>) -> Self {
        self.stop = Some(flag);
        self
    }

    /// Trains the model's head and open blocks, and returns what each epoch reached.
    ///
    /// # Errors
    /// [`Error::Option`] for an option out of range or a dataset whose classes are not the model's;
    /// [`Error::Diverged`] when the loss becomes NaN or infinite, with the model as it was before that step;
    /// [`Error::Checkpoint`] for a run that cannot be resumed with these options; [`Error::Io`] for a
    /// checkpoint that cannot be written; what the dataset's policy says of a bad picture, and a callback of
    /// its own work.
    pub fn fit<B: Backbone>(
        &self,
        model: &mut Classifier<B>,
        train: &DirectoryDataset,
        validation: &DirectoryDataset,
    ) -> Result<History> {
        let phases = self.plan();
        self.check(model, &phases)?;
        same_classes("train", model, train)?;
        same_classes("validation", model, validation)?;
        let mut callbacks = self.callbacks.clone();
        if self.progress_bar {
            callbacks.push(ProgressBar::default());
        }
        Run::new(self, model, train, validation, phases, callbacks).go()
    }

    /// The phases of a run: its own, or one of all epochs.
    fn plan(&self) -> Vec<Phase> {
        if self.phases.is_empty() {
            return vec![Phase::new(self.epochs).schedule(self.schedule)];
        }
        self.phases.clone()
    }

    /// What a phase's schedule starts from.
    pub(super) fn phase_learning_rate(&self, phase: &Phase) -> f64 {
        phase
            .learning_rate
            .unwrap_or_else(|| self.optimizer.learning_rate())
    }

    /// A learner of what is open now.
    pub(super) fn learner<B: Backbone>(&self, model: &Classifier<B>) -> Learner {
        let (rates, targets) = (&self.block_rates, &self.targets);
        Learner::new(model, &self.optimizer, rates, targets, self.clip, self.seed)
    }

    pub(super) fn train_source<B: Backbone>(
        &self,
        model: &Classifier<B>,
        train: &DirectoryDataset,
    ) -> Result<Source> {
        let source = Source::plain(model, train, self.batch_size);
        let source = source.varied(self.seed, self.augmenter.as_ref());
        match &self.feature_cache {
            Some(cache) => source.cached(model, cache),
            None => Ok(source),
        }
    }

    pub(super) fn check<B: Backbone>(&self, model: &Classifier<B>, phases: &[Phase]) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::option("batch_size", 0, "1 or more"));
        }
        self.optimizer.check()?;
        for phase in phases {
            phase.check(model)?;
        }
        let mut known = block_names(model);
        known.push("head".to_owned());
        for (block, multiplier) in &self.block_rates {
            check_block("block_learning_rate", block, &known)?;
            if !(multiplier.is_finite() && *multiplier > 0.0) {
                return Err(Error::option("block_learning_rate", multiplier, "above 0"));
            }
        }
        self.clip.map_or(Ok(()), Clip::check)?;
        self.targets.check(model.class_names().len())?;
        self.checkpoints
            .as_ref()
            .map_or(Ok(()), Checkpoints::check)?;
        self.feature_cache
            .as_ref()
            .map_or(Ok(()), FeatureCache::check)?;
        self.augmenter.as_ref().map_or(Ok(()), Augmenter::check)
    }
}
