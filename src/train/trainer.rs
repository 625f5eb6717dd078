//! The training loop.

use std::time::Instant;

use candle_core::DType;
use candle_nn::Optimizer;
use indicatif::{ProgressBar, ProgressStyle};

use super::features::FeatureCache;
use super::history::{EpochRecord, History};
use super::loss::Loss;
use super::metrics::Evaluation;
use super::rmsprop::RmsProp;
use super::source::Source;
use crate::data::Batch;
use crate::model::{Backbone, Classifier, Dropout};
use crate::{Augmenter, DirectoryDataset, Error, Result};

/// Trains a [`Classifier`] on a dataset.
///
/// Every epoch sees the training pictures in a fresh order, augmented afresh, the last short batch included,
/// and ends with the validation pictures as they are. Only what is trainable changes.
///
/// Defaults are Keras's: 1 epoch, batches of 32, no augmentation; the seed is 0.
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
    optimizer: RmsProp,
    epochs: usize,
    batch_size: usize,
    seed: u64,
    augmenter: Option<Augmenter>,
    feature_cache: Option<FeatureCache>,
}

impl Trainer {
    /// A trainer that updates with this optimizer.
    pub fn new(optimizer: RmsProp) -> Self {
        Self {
            optimizer,
            epochs: 1,
            batch_size: 32,
            seed: 0,
            augmenter: None,
            feature_cache: None,
        }
    }

    /// Sets how many times the training pictures are seen; the default is 1.
    pub fn epochs(mut self, epochs: usize) -> Self {
        self.epochs = epochs;
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

    /// Trains the model's head and open blocks, and returns what each epoch reached. On a terminal, shows a
    /// progress bar per epoch on the standard error.
    ///
    /// # Errors
    /// [`Error::Option`] for an option out of range or a dataset whose classes are not the model's;
    /// [`Error::Diverged`] when the loss becomes NaN or infinite, with the model as it was before that step;
    /// what the dataset's policy says of a bad picture.
    pub fn fit<B: Backbone>(
        &self,
        model: &mut Classifier<B>,
        train: &DirectoryDataset,
        validation: &DirectoryDataset,
    ) -> Result<History> {
        self.check()?;
        same_classes("train", model, train)?;
        same_classes("validation", model, validation)?;
        let train = self.train_source(model, train)?;
        let validation = Source::plain(model, validation, self.batch_size)
            .cached_for_validation(model, self.feature_cache.as_ref())?;
        let variables = model.variables().into_iter().map(|(_, var)| var).collect();
        let mut optimizer = self.optimizer.clone().with_variables(variables)?;

        let mut history = History::default();
        for epoch in 1..=self.epochs {
            let start = Instant::now();
            train.prepare(model, epoch)?;
            validation.prepare(model, 0)?;
            let progress = Progress::new(epoch, self.epochs, train.batches());
            let trained = self.train_epoch(epoch, model, &train, &mut optimizer, &progress)?;
            let validated = evaluate(model, &validation)?;
            let record = EpochRecord {
                epoch,
                loss: trained.loss(),
                accuracy: trained.accuracy(),
                val_loss: validated.loss,
                val_accuracy: validated.accuracy,
                seconds: start.elapsed().as_secs_f64(),
            };
            progress.finish(&record);
            history.epochs.push(record);
        }
        Ok(history)
    }

    fn train_source<B: Backbone>(
        &self,
        model: &Classifier<B>,
        train: &DirectoryDataset,
    ) -> Result<Source> {
        let source =
            Source::plain(model, train, self.batch_size).varied(self.seed, self.augmenter.as_ref());
        match &self.feature_cache {
            Some(cache) => source.cached(model, cache),
            None => Ok(source),
        }
    }

    /// One pass over the training pictures.
    fn train_epoch<B: Backbone>(
        &self,
        epoch: usize,
        model: &Classifier<B>,
        source: &Source,
        optimizer: &mut RmsProp,
        progress: &Progress,
    ) -> Result<Mean> {
        let loss = Loss::for_head(model.head().config());
        let mut mean = Mean::default();
        for (index, batch) in source.epoch(model, epoch).enumerate() {
            let batch = batch?;
            let dropout = Dropout {
                seed: self.seed,
                epoch: epoch as u64,
                pictures: &batch.ids,
            };
            let logits = source.forward_train(model, &batch, &dropout)?;
            let batch_loss = loss.forward(&logits, &batch.labels)?;
            let value = batch_loss.to_dtype(DType::F32)?.to_scalar::<f32>()?;
            if !value.is_finite() {
                return Err(Error::Diverged {
                    epoch,
                    step: index + 1,
                    loss: value,
                });
            }
            // The one place where gradients become an update.
            optimizer.step(&batch_loss.backward()?)?;
            let probabilities = model.head().probabilities(&logits.detach())?;
            mean.add(value, &probabilities.to_vec2()?, &batch);
            progress.step(&mean);
        }
        Ok(mean)
    }

    fn check(&self) -> Result<()> {
        for (option, value) in [("epochs", self.epochs), ("batch_size", self.batch_size)] {
            if value == 0 {
                return Err(Error::option(option, value, "1 or more"));
            }
        }
        self.optimizer.check()?;
        self.feature_cache
            .as_ref()
            .map_or(Ok(()), FeatureCache::check)?;
        self.augmenter.as_ref().map_or(Ok(()), Augmenter::check)
    }
}

impl<B: Backbone> Classifier<B> {
    /// Scores the classifier on every picture of a dataset, exactly once.
    ///
    /// # Errors
    /// [`Error::Option`] for a dataset whose classes are not the model's; what the dataset's policy says of a
    /// bad picture.
    pub fn evaluate(&self, dataset: &DirectoryDataset) -> Result<Evaluation> {
        same_classes("dataset", self, dataset)?;
        evaluate(self, &Source::plain(self, dataset, 32))
    }
}

fn evaluate<B: Backbone>(model: &Classifier<B>, source: &Source) -> Result<Evaluation> {
    let loss = Loss::for_head(model.head().config());
    let (mut labels, mut probabilities, mut total) = (Vec::new(), Vec::new(), 0.0);
    for batch in source.epoch(model, 0) {
        let batch = batch?;
        let logits = source.forward(model, &batch)?;
        let batch_loss = loss.forward(&logits, &batch.labels)?.to_dtype(DType::F32)?;
        total += f64::from(batch_loss.to_scalar::<f32>()?) * batch.labels.len() as f64;
        probabilities.extend(model.head().probabilities(&logits)?.to_vec2::<f32>()?);
        labels.extend(batch.labels);
    }
    let mean_loss = total / labels.len().max(1) as f64;
    Evaluation::from_predictions(&labels, &probabilities, model.class_names(), mean_loss)
}

/// Labels are positions: they mean the same only under the same names.
fn same_classes<B: Backbone>(
    what: &'static str,
    model: &Classifier<B>,
    dataset: &DirectoryDataset,
) -> Result<()> {
    if dataset.class_names() != model.class_names() {
        return Err(Error::option(
            what,
            format!("a dataset of {}", dataset.class_names().join(", ")),
            format!(
                "one of the model's classes: {}",
                model.class_names().join(", ")
            ),
        ));
    }
    Ok(())
}

/// Mean loss and accuracy over the pictures seen so far, not over batches: the last batch may be short.
#[derive(Default)]
struct Mean {
    loss: f64,
    right: usize,
    pictures: usize,
}

impl Mean {
    fn add(&mut self, loss: f32, probabilities: &[Vec<f32>], batch: &Batch) {
        self.loss += f64::from(loss) * batch.labels.len() as f64;
        self.pictures += batch.labels.len();
        self.right += probabilities
            .iter()
            .zip(&batch.labels)
            .filter(|(row, label)| super::metrics::predicted_class(row) == **label as usize)
            .count();
    }

    fn loss(&self) -> f64 {
        self.loss / self.pictures.max(1) as f64
    }

    fn accuracy(&self) -> f64 {
        self.right as f64 / self.pictures.max(1) as f64
    }
}

/// One epoch's progress bar: loss, accuracy and time left. indicatif hides it where the standard error is no
/// terminal.
struct Progress(ProgressBar);

impl Progress {
    fn new(epoch: usize, epochs: usize, batches: usize) -> Self {
        let bar = ProgressBar::new(batches as u64);
        if let Ok(style) =
            ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} {msg} {eta} left")
        {
            bar.set_style(style);
        }
        bar.set_prefix(format!("epoch {epoch}/{epochs}"));
        Self(bar)
    }

    fn step(&self, mean: &Mean) {
        self.0.set_message(format!(
            "loss {:.4} accuracy {:.3}",
            mean.loss(),
            mean.accuracy()
        ));
        self.0.inc(1);
    }

    fn finish(&self, record: &EpochRecord) {
        if let Ok(style) = ProgressStyle::with_template("{prefix} {msg}") {
            self.0.set_style(style);
        }
        self.0.finish_with_message(format!(
            "loss {:.4} accuracy {:.3} val_loss {:.4} val_accuracy {:.3} in {:.1} s",
            record.loss, record.accuracy, record.val_loss, record.val_accuracy, record.seconds
        ));
    }
}
