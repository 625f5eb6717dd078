//! A run from its first epoch, or from a checkpoint, to its last.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use candle_core::{Tensor, Var};
use serde_json::{Value, json};

use super::callback::{Callbacks, EpochBegin, EpochEnd, StepEnd, Stop, TrainBegin};
use super::checkpoint::{Checkpoint, checksum_without};
use super::evaluate::Scores;
use super::features::FeatureCache;
use super::history::{EpochRecord, History};
use super::learner::{Learner, Outcome};
use super::loss::Targets;
use super::metrics::Evaluation;
use super::phase::Phase;
use super::source::Source;
use super::trainer::Trainer;
use crate::model::{Backbone, Classifier};
use crate::{DirectoryDataset, Error, Result};

/// Where a run is, between two steps.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Position {
    /// The phase, from 0.
    phase: usize,
    /// Epochs of it that are finished.
    phase_epochs: usize,
    /// Steps of it that are made.
    phase_steps: usize,
    /// Whether it ended before its last epoch.
    phase_over: bool,
    /// What the phase's schedule starts from.
    learning_rate: f64,
    /// Batches of the unfinished epoch that are behind.
    step: usize,
    /// Their figures.
    mean: Mean,
    /// The seconds they took.
    seconds: f64,
    /// Whether no phase comes after this one, because a callback said so.
    ended: bool,
    /// Whether there is nothing left to do.
    finished: bool,
    history: History,
}

impl Position {
    fn start(learning_rate: f64) -> Self {
        Self {
            phase: 0,
            phase_epochs: 0,
            phase_steps: 0,
            phase_over: false,
            learning_rate,
            step: 0,
            mean: Mean::default(),
            seconds: 0.0,
            ended: false,
            finished: false,
            history: History::default(),
        }
    }

    /// Finished epochs, and steps behind in the unfinished one.
    pub(super) fn place(&self) -> (usize, usize) {
        (self.history.epochs.len(), self.step)
    }

    /// The epoch that is running or next, from 1.
    fn epoch(&self) -> usize {
        self.history.epochs.len() + 1
    }

    fn at_phase_start(&self) -> bool {
        self.phase_epochs == 0 && self.step == 0 && !self.phase_over
    }
}

/// Mean loss and accuracy over the pictures seen so far, not over batches: the last batch may be short.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Mean {
    loss: f64,
    right: usize,
    pictures: usize,
}

impl Mean {
    fn add(&mut self, outcome: &Outcome, pictures: usize) {
        self.loss += f64::from(outcome.loss) * pictures as f64;
        self.right += outcome.right;
        self.pictures += pictures;
    }

    fn loss(&self) -> f64 {
        self.loss / self.pictures.max(1) as f64
    }

    fn accuracy(&self) -> f64 {
        self.right as f64 / self.pictures.max(1) as f64
    }
}

/// A run going on.
pub(super) struct Run<'a, B> {
    trainer: &'a Trainer,
    model: &'a mut Classifier<B>,
    train: &'a DirectoryDataset,
    validation: &'a DirectoryDataset,
    phases: Vec<Phase>,
    callbacks: Callbacks,
    settings: Value,
    position: Position,
    /// The optimizer's state when the run, or a phase, takes over from another.
    optimizer: Vec<(String, Tensor)>,
    /// The variables of every phase so far.
    opened: BTreeSet<String>,
    /// The checksum of all other weights.
    frozen: u32,
}

/// How a part of a run ended: by itself, or because it was told to leave.
type Left = ControlFlow<()>;

impl<'a, B: Backbone> Run<'a, B> {
    pub(super) fn new(
        trainer: &'a Trainer,
        model: &'a mut Classifier<B>,
        train: &'a DirectoryDataset,
        validation: &'a DirectoryDataset,
        phases: Vec<Phase>,
        callbacks: Callbacks,
    ) -> Self {
        let settings = settings(trainer, model, train, validation, &phases, &callbacks);
        Self {
            position: Position::start(trainer.phase_learning_rate(&phases[0])),
            trainer,
            model,
            train,
            validation,
            phases,
            callbacks,
            settings,
            optimizer: Vec::new(),
            opened: BTreeSet::new(),
            frozen: 0,
        }
    }

    /// Trains to the end, or until told to leave.
    pub(super) fn go(mut self) -> Result<History> {
        if let Some(checkpoints) = &self.trainer.checkpoints {
            let resume = self.trainer.resume.as_deref();
            checkpoints
                .prepare(resume.is_some_and(|folder| same_folder(folder, &checkpoints.folder)))?;
        }
        let (resumed, warnings) = match &self.trainer.resume {
            Some(folder) => Checkpoint::newest(folder)?,
            None => (None, Vec::new()),
        };
        let states = match (resumed, &self.trainer.resume) {
            (Some(checkpoint), Some(folder)) => Some(self.take_over(checkpoint, folder)?),
            _ => None,
        };
        let epochs = self.phases.iter().map(|phase| phase.epochs).sum();
        let begin = TrainBegin {
            epochs,
            history: &self.position.history,
            warnings: &warnings,
        };
        self.callbacks
            .each(|callback| callback.on_train_begin(&begin))?;
        if let Some(states) = states {
            self.callbacks.restore(states)?;
        }
        if self.position.finished {
            return self.leave();
        }
        while !self.position.finished {
            let phase = self.phases[self.position.phase].clone();
            if self.phase(&phase, epochs)?.is_break() {
                return self.leave();
            }
            let position = &mut self.position;
            match self.phases.get(position.phase + 1) {
                Some(next) if !position.ended => {
                    position.phase += 1;
                    (position.phase_epochs, position.phase_steps) = (0, 0);
                    position.phase_over = false;
                    position.learning_rate = self.trainer.phase_learning_rate(next);
                }
                _ => position.finished = true,
            }
        }
        self.save(&[])?;
        self.leave()
    }

    fn leave(self) -> Result<History> {
        let history = self.position.history;
        self.callbacks
            .each(|callback| callback.on_train_end(&history))?;
        Ok(history)
    }

    /// Goes where a checkpoint was: opens what its phases opened, and gives back weights and state. Returns the
    /// callbacks' state, for after they are told of the run.
    fn take_over(
        &mut self,
        checkpoint: Checkpoint,
        folder: &Path,
    ) -> Result<Vec<super::callback::CallbackState>> {
        checkpoint.check_settings(folder, &self.settings)?;
        let unfit = |reason: String| Error::Checkpoint {
            folder: folder.to_owned(),
            reason,
        };
        let names: BTreeSet<String> = checkpoint
            .weights
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        if checksum_without(&tensors(self.model), &names) != checkpoint.frozen {
            return Err(unfit(
                "the frozen weights are not those the run was begun with".into(),
            ));
        }
        // A block that an earlier phase trained and a later one froze takes its weights while it is open.
        for phase in self.phases.iter().take(checkpoint.position.phase + 1) {
            phase.open_blocks(self.model)?;
            for (name, var) in self.model.variables() {
                let saved = checkpoint.weights.iter().find(|(own, _)| *own == name);
                let (_, tensor) = saved.ok_or_else(|| unfit(format!("no weights of {name}")))?;
                if tensor.shape() != var.shape() {
                    return Err(unfit(format!("{name} has shape {:?}", tensor.dims())));
                }
                var.set(&tensor.to_device(var.device())?.to_dtype(var.dtype())?)?;
            }
        }
        self.opened = names;
        self.frozen = checkpoint.frozen;
        self.position = checkpoint.position;
        self.optimizer = checkpoint.optimizer;
        Ok(checkpoint.callbacks)
    }

    fn phase(&mut self, phase: &Phase, epochs: usize) -> Result<Left> {
        phase.open_blocks(self.model)?;
        let mut learner = self.trainer.learner(self.model);
        // State of variables that stay open goes on; newly opened ones start without.
        learner.restore(std::mem::take(&mut self.optimizer))?;
        self.opened
            .extend(learner.variables.iter().map(|(name, _)| name.clone()));
        if self.trainer.checkpoints.is_some() {
            self.frozen = checksum_without(&tensors(self.model), &self.opened);
        }
        if self.position.at_phase_start() {
            self.callbacks.each(|callback| callback.on_phase_begin())?;
        }
        let source = self.trainer.train_source(self.model, self.train)?;
        let validation = Source::plain(self.model, self.validation, self.trainer.batch_size)
            .cached_for_validation(self.model, self.trainer.feature_cache.as_ref())?;
        while self.position.phase_epochs < phase.epochs && !self.position.phase_over {
            if self
                .epoch(phase, epochs, &mut learner, &source, &validation)?
                .is_break()
            {
                self.save(&learner.state()?)?;
                return Ok(Left::Break(()));
            }
            let finished = self.position.history.epochs.len();
            let checkpoints = self.trainer.checkpoints.as_ref();
            if checkpoints.is_some_and(|checkpoints| checkpoints.due_after_epoch(finished)) {
                self.save(&learner.state()?)?;
            }
        }
        self.callbacks
            .each(|callback| callback.on_phase_end(&learner.variables))?;
        self.optimizer = learner.state()?;
        Ok(Left::Continue(()))
    }

    /// One pass over the training pictures, and its validation.
    fn epoch(
        &mut self,
        phase: &Phase,
        epochs: usize,
        learner: &mut Learner,
        source: &Source,
        validation: &Source,
    ) -> Result<Left> {
        let begun = Instant::now();
        source.prepare(self.model, self.position.epoch())?;
        validation.prepare(self.model, 0)?;
        let before = self.position.seconds;
        let begin = EpochBegin {
            epoch: self.position.epoch(),
            epochs,
            steps: source.batches(),
            done: self.position.step,
        };
        self.callbacks
            .each(|callback| callback.on_epoch_begin(&begin))?;
        let trained = self.train_epoch(phase, learner, source)?;
        self.position.seconds = before + begun.elapsed().as_secs_f64();
        if trained.is_break() {
            return Ok(trained);
        }
        let Some(evaluation) = self.validate(validation)? else {
            return Ok(Left::Break(()));
        };
        let record = EpochRecord {
            epoch: begin.epoch,
            loss: self.position.mean.loss(),
            accuracy: self.position.mean.accuracy(),
            val_loss: evaluation.loss,
            val_accuracy: evaluation.accuracy,
            seconds: before + begun.elapsed().as_secs_f64(),
        };
        self.finish_epoch(phase, &record, &evaluation, &learner.variables, source)?;
        Ok(Left::Continue(()))
    }

    fn train_epoch(
        &mut self,
        phase: &Phase,
        learner: &mut Learner,
        source: &Source,
    ) -> Result<Left> {
        let epoch = self.position.epoch();
        if self.told_to_stop() {
            return Ok(Left::Break(()));
        }
        let begun = Instant::now();
        for (index, batch) in source
            .epoch(&*self.model, epoch)
            .enumerate()
            .skip(self.position.step)
        {
            let batch = batch?;
            let learning_rate = self.learning_rate(phase, source, self.position.phase_steps);
            let place = (epoch, index + 1);
            let outcome = learner.step(self.model, source, &batch, place, learning_rate)?;
            let position = &mut self.position;
            position.mean.add(&outcome, batch.labels.len());
            position.step = index + 1;
            position.phase_steps += 1;
            let step = StepEnd {
                epoch,
                step: index + 1,
                steps: source.batches(),
                loss: position.mean.loss(),
                accuracy: position.mean.accuracy(),
                learning_rate,
            };
            let mut flow = ControlFlow::Continue(());
            self.callbacks.each(|callback| {
                if callback.on_step_end(&step)?.is_break() {
                    flow = ControlFlow::Break(());
                }
                Ok(())
            })?;
            if flow.is_break() || self.told_to_stop() {
                return Ok(Left::Break(()));
            }
            let checkpoints = self.trainer.checkpoints.as_ref();
            if checkpoints.is_some_and(|checkpoints| checkpoints.due_after_step(index + 1)) {
                let before = self.position.seconds;
                self.position.seconds += begun.elapsed().as_secs_f64();
                self.save(&learner.state()?)?;
                self.position.seconds = before;
            }
        }
        Ok(Left::Continue(()))
    }

    /// The score on the validation pictures; none when told to leave.
    fn validate(&self, source: &Source) -> Result<Option<Evaluation>> {
        // As in Keras, the reported loss is the one that is trained, but classes weigh the same.
        let targets = Targets {
            class_weights: Vec::new(),
            ..self.trainer.targets.clone()
        };
        let mut scores = Scores::new(self.model);
        for batch in source.epoch(self.model, 0) {
            if self.told_to_stop() {
                return Ok(None);
            }
            scores.add(self.model, source, &batch?, &targets)?;
        }
        Ok(Some(scores.evaluation(self.model)))
    }

    fn finish_epoch(
        &mut self,
        phase: &Phase,
        record: &EpochRecord,
        validation: &Evaluation,
        variables: &[(String, Var)],
        source: &Source,
    ) -> Result<()> {
        let last_step = self.position.phase_steps.saturating_sub(1);
        let learning_rate = self.learning_rate(phase, source, last_step);
        let position = &mut self.position;
        position.history.epochs.push(record.clone());
        position.phase_epochs += 1;
        (position.step, position.mean, position.seconds) = (0, Mean::default(), 0.0);
        let model = &*self.model;
        let mut end = EpochEnd {
            record,
            validation,
            history: &position.history,
            phase_epoch: position.phase_epochs,
            learning_rate,
            phase_learning_rate: &mut position.learning_rate,
            variables,
            tensors: &|| tensors(model),
        };
        let (mut phase_over, mut ended) = (false, false);
        self.callbacks.each(|callback| {
            if let ControlFlow::Break(stop) = callback.on_epoch_end(&mut end)? {
                phase_over = true;
                ended |= stop == Stop::Run;
            }
            Ok(())
        })?;
        (position.phase_over, position.ended) = (phase_over, ended);
        Ok(())
    }

    /// The learning rate of a phase's step, counted from 0.
    fn learning_rate(&self, phase: &Phase, source: &Source, step: usize) -> f64 {
        let steps = phase.epochs * source.batches();
        phase
            .schedule
            .learning_rate(self.position.learning_rate, step, steps)
    }

    fn told_to_stop(&self) -> bool {
        let flag = self.trainer.stop.as_ref();
        flag.is_some_and(|flag| flag.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// Writes a checkpoint of the run as it is, if the trainer keeps any.
    fn save(&self, optimizer: &[(String, Tensor)]) -> Result<()> {
        let Some(checkpoints) = &self.trainer.checkpoints else {
            return Ok(());
        };
        let mut weights = tensors(self.model);
        weights.retain(|(name, _)| self.opened.contains(name));
        checkpoints.save(&Checkpoint {
            settings: self.settings.clone(),
            position: self.position.clone(),
            weights,
            frozen: self.frozen,
            optimizer: optimizer.to_vec(),
            callbacks: self.callbacks.states()?,
        })
    }
}

/// Every weight of a model, by the name it has in a saved classifier.
fn tensors<B: Backbone>(model: &Classifier<B>) -> Vec<(String, Tensor)> {
    let base = model.base().tensors().into_iter();
    let head = model.head().tensors().into_iter();
    base.map(|(name, tensor)| (format!("base.{name}"), tensor))
        .chain(head.map(|(name, tensor)| (format!("head.{name}"), tensor)))
        .collect()
}

/// Everything that decides what a run computes, for a resumed one to compare.
fn settings<B: Backbone>(
    trainer: &Trainer,
    model: &Classifier<B>,
    train: &DirectoryDataset,
    validation: &DirectoryDataset,
    phases: &[Phase],
    callbacks: &Callbacks,
) -> Value {
    let (height, width) = model.size();
    let blocks = model.base().blocks();
    let open: Vec<String> = blocks
        .into_iter()
        .filter(|b| b.trainable)
        .map(|b| b.name)
        .collect();
    json!({
        "model": {
            "base": model.base().architecture(),
            "open": open,
            "head": model.head().config(),
            "classes": model.class_names(),
            "input_size": [height, width],
            "resize": model.resize_filter(),
            "preprocess": model.preprocess(),
        },
        "train": pictures(train),
        "validation": pictures(validation),
        "optimizer": trainer.optimizer,
        "batch_size": trainer.batch_size,
        "seed": trainer.seed,
        "augment": trainer.augmenter,
        "feature_views": trainer.feature_cache.as_ref().map(FeatureCache::count),
        "phases": phases,
        "block_learning_rates": trainer.block_rates,
        "clip": trainer.clip,
        "label_smoothing": trainer.targets.label_smoothing,
        "class_weights": trainer.targets.class_weights,
        "callbacks": callbacks.settings(),
    })
}

/// What tells one dataset from another without reading its pictures.
fn pictures(dataset: &DirectoryDataset) -> Value {
    let mut sum = crc32fast::Hasher::new();
    for item in dataset.items() {
        sum.update(&item.id.to_le_bytes());
        sum.update(&(item.label as u64).to_le_bytes());
    }
    json!({ "pictures": dataset.len(), "labels": sum.finalize() })
}

fn same_folder(a: &Path, b: &Path) -> bool {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    whole(a) == whole(b)
}
