//! The trainer: setters over the options of a run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::checkpoints::Checkpoints;
use super::enough;
use super::options::Options;
use super::phase::Phase;
use super::run::Run;
use crate::data::{Augmenter, Dataset};
use crate::error::Result;
use crate::model::{Backbone, Classifier};
use crate::train::callback::Callback;
use crate::train::communicator::Communicator;
use crate::train::features::FeatureCache;
use crate::train::metrics::{History, check_classes};
use crate::train::optimizer::{AnyOptimizer, Clip, Schedule};
use crate::train::ranks::Ranks;

/// Trains a [`Classifier`] on a dataset.
///
/// Every epoch sees the training pictures in a fresh order, augmented afresh, the last short batch included,
/// and ends with the validation pictures as they are. Only what is trainable changes.
///
/// Defaults are Keras's: 1 epoch, batches of 32, a constant learning rate, no augmentation; the seed is 0. Setters
/// never fail: [`fit`](Self::fit) checks every option, before it touches anything.
///
/// ```no_run
/// use candle_core::Device;
/// use headstart::{Augmenter, Classifier, ConvBase, Dataset, Head, RmsProp, Trainer, Weights};
///
/// let train = Dataset::open("pictures/train")?;
/// let validation = Dataset::open("pictures/validation")?;
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
    pub(super) options: Options,
}

impl Trainer {
    /// A trainer that updates with this optimizer: [`RmsProp`](crate::RmsProp), [`AdamW`](crate::AdamW),
    /// [`Sgd`](crate::Sgd), or [one of your own](crate::train::optimizer::UpdateRule).
    pub fn new(optimizer: impl Into<AnyOptimizer>) -> Self {
        Self {
            options: Options::new(optimizer.into()),
        }
    }

    /// Sets how many times the training pictures are seen; the default is 1. With [`phases`](Self::phases), each phase
    /// has its own.
    pub fn epochs(mut self, epochs: usize) -> Self {
        self.options.epochs = Some(epochs);
        self
    }

    /// Sets how the learning rate moves over the run's steps; constant by default. With [`phases`](Self::phases), each
    /// phase has its own.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.options.schedule = Some(schedule);
        self
    }

    /// Trains in phases, one after the other, in place of [`epochs`](Self::epochs) and [`schedule`](Self::schedule).
    /// Each starts from the weights the one before left. The optimizer's state of variables that stay trainable goes
    /// on; a variable that is unfrozen, or unfrozen again, starts without. The model's blocks are left as the last
    /// phase set them.
    pub fn phases(mut self, phases: impl IntoIterator<Item = Phase>) -> Self {
        self.options.phases = phases.into_iter().collect();
        self
    }

    /// Sets how many pictures make one update; the default is 32.
    pub fn batch_size(mut self, pictures: usize) -> Self {
        self.options.batch_size = pictures;
        self
    }

    /// Sets the seed of order, augmentation and dropout; the default is 0. Two runs with one seed give the
    /// same losses, bit for bit, on one machine, whatever the number of threads.
    pub fn seed(mut self, seed: u64) -> Self {
        self.options.seed = seed;
        self
    }

    /// Augments the training pictures, each epoch afresh; off by default.
    pub fn augment(mut self, augmenter: Augmenter) -> Self {
        self.options.augmenter = Some(augmenter);
        self
    }

    /// Computes what the leading frozen blocks make of the training pictures once, not every epoch; off by default.
    /// [`fit`](Self::fit) then refuses a base whose first block is trainable.
    ///
    /// Validation features are kept without being asked for where leading blocks are frozen, in up to 256 MiB of
    /// memory; if they need more, they are computed every epoch. A cache on disk takes them too.
    pub fn feature_cache(mut self, cache: FeatureCache) -> Self {
        self.options.feature_cache = Some(cache);
        self
    }

    /// Multiplies the learning rate of a block of the base (a [`Block`](crate::Block) or its name), or of the
    /// `head`, by a number above 0; the default is 1 for all. To keep a block as it is, freeze it.
    pub fn block_learning_rate(mut self, block: impl ToString, multiplier: f64) -> Self {
        let rates = &mut self.options.block_learning_rates;
        rates.push((block.to_string(), multiplier));
        self
    }

    /// Bounds the gradients of every step; off by default.
    pub fn clip(mut self, clip: Clip) -> Self {
        self.options.clip = Some(clip);
        self
    }

    /// Multiplies the loss of each training picture by its class's weight, in label order; the default is 1
    /// for all. As in Keras, the sum is still divided by the number of pictures, the reported training loss is
    /// the weighted one, and validation does not know the weights.
    pub fn class_weights(mut self, weights: impl IntoIterator<Item = f64>) -> Self {
        self.options.loss.class_weights = weights.into_iter().collect();
        self
    }

    /// Spreads this share of each label, in [0, 1), evenly over the classes; the default is 0. As in Keras,
    /// the reported losses, that of validation too, are those on the smoothed labels;
    /// [`evaluate`](Classifier::evaluate) is on the plain ones.
    pub fn label_smoothing(mut self, share: f64) -> Self {
        self.options.loss.label_smoothing = share;
        self
    }

    /// Adds a callback. They are called in the order they were added; a trainer's clones share them.
    pub fn callback(mut self, callback: impl Callback + 'static) -> Self {
        self.options.callbacks.push(callback);
        self
    }

    /// Writes checkpoints; off by default.
    pub fn checkpoint(mut self, checkpoints: Checkpoints) -> Self {
        self.options.checkpoints = Some(checkpoints);
        self
    }

    /// Resumes from the newest whole checkpoint of a folder: the final weights are those of a run that was
    /// never interrupted, bit for bit, on one machine. The model, every option that decides what is computed, and the
    /// pictures, by name, class and contents, must be as the run was begun with. With a folder without checkpoints the
    /// run begins at the beginning; damaged files are skipped with a warning. Checkpoints go on in the same folder
    /// unless [`checkpoint`](Self::checkpoint) names another.
    ///
    /// The epochs of the phase that the run is in, and of later ones, may be others, so that a finished run can be made
    /// longer: it goes on from the weights it ended with, and with its optimizer's state. A schedule then runs over the
    /// new number of steps: those that are left get the rates that they have in a run of the new length. With a
    /// constant rate the end is that of the longer run to the bit; a phase that [early stopping](crate::EarlyStopping)
    /// ended stays ended.
    pub fn resume(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.resume = Some(folder.into());
        self
    }

    /// Stops the run, with a checkpoint if any are kept, after the step during which the flag becomes true. `fit` then
    /// returns the history so far, and the model is as that step left it. While features are computed it stops after a
    /// batch of pictures.
    pub fn stop_flag(mut self, flag: Arc<AtomicBool>) -> Self {
        self.options.stop = Some(flag);
        self
    }

    /// Trains together with other processes, each on its share of every batch: with the feature `mpi` those that
    /// `mpirun` started. The default is [`Alone`](crate::train::communicator::Alone).
    ///
    /// A batch is the same whatever the number of ranks, and so, but for rounding, are losses and weights; with the
    /// same number of ranks they are the same to the bit. Every rank needs the same pictures, by name and class, and
    /// the same options; each decodes, caches and computes what is its own. Rank 0 alone has callbacks, and writes
    /// checkpoints; what a callback or the stop flag decides there holds for all. A run can be resumed by another
    /// number of ranks. Where each has a GPU, [`on_device`](crate::train::communicator::on_device) has gradients added
    /// up there.
    pub fn communicator(mut self, communicator: impl Communicator + 'static) -> Self {
        self.options.communicator = Arc::new(communicator);
        self
    }

    /// Checks every option that can be without a model, such as ranges: [`fit`](Self::fit) does so too, but a program
    /// may want to know before it reads pictures and fetches weights.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for an option out of range;
    /// [`Error::Mismatch`](crate::Error::Mismatch) for options that exclude each other.
    pub fn check(&self) -> Result<()> {
        self.options.check_alone()
    }

    /// Trains the model's head and trainable blocks, and returns what each epoch reached.
    ///
    /// Progress bars and warnings go to the standard error: see [`Verbosity`](crate::progress::Verbosity). Pictures
    /// that cannot be used, and classes with too few, are warned of; where all pictures have room in the loader's
    /// memory, before the first step.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for an option out of range;
    /// [`Error::Mismatch`](crate::Error::Mismatch) for a dataset whose classes are not the model's, or options that
    /// exclude each other; [`Error::Dataset`](crate::Error::Dataset) for training pictures of fewer than two classes,
    /// and when [too many](Dataset::least_usable) pictures, or all of a class, cannot be used;
    /// [`Error::Diverged`](crate::Error::Diverged) when the loss or a weight becomes NaN or infinite, with the
    /// model as it was before that step; [`Error::Checkpoint`](crate::Error::Checkpoint) for a run that cannot be
    /// resumed with these options, or a folder that holds another run's or belongs to one that goes on;
    /// [`Error::Io`](crate::Error::Io) for a checkpoint that cannot be written; what the dataset's policy says of a bad
    /// picture, and a callback of its own work; [`Error::Rank`](crate::Error::Rank) when another rank failed.
    ///
    /// When epochs were finished before, the error is [`Error::Interrupted`](crate::Error::Interrupted): it has their
    /// history, and one of these for its cause.
    pub fn fit<B: Backbone>(
        &self,
        model: &mut Classifier<B>,
        train: &Dataset,
        validation: &Dataset,
    ) -> Result<History> {
        let checked = self.check_run(model, train, validation);
        Ranks::new(self.options.communicator.clone()).gather(checked)?;
        // What it is taught now makes other features and logits.
        model.set_familiarity(None);
        Run::new(&self.options, model, train, validation).run()
    }

    fn check_run<B: Backbone>(
        &self,
        model: &Classifier<B>,
        train: &Dataset,
        validation: &Dataset,
    ) -> Result<()> {
        self.options.check(model)?;
        check_classes("the training dataset", model, train)?;
        check_classes("the validation dataset", model, validation)?;
        enough::check(train)
    }
}
