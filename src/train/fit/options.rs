//! Every option of a run, and what is allowed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::checkpoints::Checkpoints;
use super::phase::{Phase, block_names, check_block};
use crate::bounds;
use crate::data::{Augmenter, Dataset};
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};
use crate::train::batches::BatchSource;
use crate::train::callback::Callbacks;
use crate::train::communicator::{Alone, Communicator};
use crate::train::features::FeatureCache;
use crate::train::metrics::LossOptions;
use crate::train::optimizer::{AnyOptimizer, Clip, Schedule};
use crate::train::ranks::Ranks;

/// What a [`Trainer`](super::trainer::Trainer) sets and a run reads.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) optimizer: AnyOptimizer,
    /// Together with `schedule` one phase, where no `phases` are set.
    pub(super) epochs: Option<usize>,
    pub(super) schedule: Option<Schedule>,
    pub(super) phases: Vec<Phase>,
    pub(super) batch_size: usize,
    pub(super) seed: u64,
    pub(super) augmenter: Option<Augmenter>,
    pub(super) feature_cache: Option<FeatureCache>,
    /// Multipliers by block; of several for one block the last holds.
    pub(super) block_learning_rates: Vec<(String, f64)>,
    pub(super) clip: Option<Clip>,
    pub(super) loss: LossOptions,
    pub(super) callbacks: Callbacks,
    pub(super) checkpoints: Option<Checkpoints>,
    pub(super) resume: Option<PathBuf>,
    pub(super) stop: Option<Arc<AtomicBool>>,
    pub(super) communicator: Arc<dyn Communicator>,
}

/// The name under which the head has a learning rate.
const HEAD: &str = "head";

impl Options {
    /// The defaults, with this optimizer.
    pub(super) fn new(optimizer: AnyOptimizer) -> Self {
        Self {
            optimizer,
            epochs: None,
            schedule: None,
            phases: Vec::new(),
            batch_size: 32,
            seed: 0,
            augmenter: None,
            feature_cache: None,
            block_learning_rates: Vec::new(),
            clip: None,
            loss: LossOptions::default(),
            callbacks: Callbacks::default(),
            checkpoints: None,
            resume: None,
            stop: None,
            communicator: Arc::new(Alone),
        }
    }

    /// The phases of a run: its own, or one of all epochs.
    pub(super) fn plan(&self) -> Vec<Phase> {
        if self.phases.is_empty() {
            let phase = Phase::new(self.epochs.unwrap_or(1));
            return vec![phase.schedule(self.schedule.unwrap_or_default())];
        }
        self.phases.clone()
    }

    /// What a phase's schedule starts from.
    pub(super) fn phase_learning_rate(&self, phase: &Phase) -> f64 {
        let own = phase.learning_rate;
        own.unwrap_or_else(|| self.optimizer.learning_rate())
    }

    /// What the learning rate of a block is multiplied by.
    pub(super) fn learning_rate_multiplier(&self, block: &str) -> f64 {
        let mut rates = self.block_learning_rates.iter().rev();
        let own = rates.find(|(name, _)| name == block);
        own.map_or(1.0, |(_, multiplier)| *multiplier)
    }

    /// Where checkpoints go: where the run is resumed from, unless it is said otherwise.
    pub(super) fn checkpoints(&self) -> Option<Checkpoints> {
        let resumed = self.resume.as_ref();
        let own = self.checkpoints.clone();
        own.or_else(|| resumed.map(Checkpoints::new))
    }

    pub(super) fn stop_requested(&self) -> bool {
        let flag = self.stop.as_ref();
        flag.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// This rank's share of the batches of the training pictures for so many epochs: shuffled, augmented, cached.
    pub(super) fn training_batches<B: Backbone>(
        &self,
        model: &Classifier<B>,
        train: &Dataset,
        epochs: usize,
        ranks: &Ranks,
    ) -> Result<BatchSource> {
        let source = BatchSource::plain(model, train, self.batch_size);
        let source = source.share(ranks.rank(), ranks.size());
        let source = source.varied(self.seed, self.augmenter.as_ref());
        match &self.feature_cache {
            Some(cache) => source.cached(model, cache, epochs),
            None => Ok(source),
        }
    }

    /// The batches of the validation pictures: as they are, cached where that costs little. Of several ranks each has
    /// whole ones in turn.
    pub(super) fn validation_batches<B: Backbone>(
        &self,
        model: &Classifier<B>,
        validation: &Dataset,
        ranks: &Ranks,
    ) -> Result<BatchSource> {
        let own = ranks.own_batches(validation, self.batch_size);
        BatchSource::plain(model, &own, self.batch_size)
            .cached_for_validation(model, self.feature_cache.as_ref())
    }

    /// Checks everything, before anything is touched.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an option out of range, [`Error::Mismatch`] for two that exclude each other.
    pub(super) fn check<B: Backbone>(&self, model: &Classifier<B>) -> Result<()> {
        self.check_alone()?;
        let phases = self.plan();
        phases
            .iter()
            .try_for_each(|phase| phase.check_blocks(model))?;
        self.check_block_learning_rates(model)?;
        self.loss.check(model.class_names().len())?;
        let (height, width) = model.size();
        let factors = [self.batch_size, 3, height, width];
        bounds::product(
            "batch_size",
            &factors,
            bounds::BATCH_NUMBERS,
            "numbers in a batch",
        )?;
        self.check_resume()
    }

    /// Checks what can be without a model.
    pub(super) fn check_alone(&self) -> Result<()> {
        bounds::within("batch_size", self.batch_size, 1..=bounds::BATCH)?;
        self.optimizer.check()?;
        self.check_phases()?;
        self.clip.map_or(Ok(()), Clip::check)?;
        let checkpoints = self.checkpoints.as_ref();
        checkpoints.map_or(Ok(()), Checkpoints::check)?;
        let cache = self.feature_cache.as_ref();
        cache.map_or(Ok(()), FeatureCache::check)?;
        self.augmenter.as_ref().map_or(Ok(()), Augmenter::check)?;
        self.callbacks.check()
    }

    /// A folder to resume from without one for checkpoints must be there; else it is made.
    fn check_resume(&self) -> Result<()> {
        match &self.resume {
            Some(folder) if self.checkpoints.is_none() => {
                std::fs::read_dir(folder).map_err(Error::io(folder))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn check_phases(&self) -> Result<()> {
        if !self.phases.is_empty() {
            let set = match (self.epochs, self.schedule) {
                (Some(_), _) => Some("`epochs`"),
                (None, Some(_)) => Some("`schedule`"),
                (None, None) => None,
            };
            if let Some(option) = set {
                let found = "set on a trainer with phases";
                return Err(Error::mismatch(option, found, "set on each phase"));
            }
        }
        bounds::within("phases", self.phases.len(), 0..=bounds::PHASES)?;
        self.plan().iter().try_for_each(Phase::check)
    }

    fn check_block_learning_rates<B: Backbone>(&self, model: &Classifier<B>) -> Result<()> {
        let option = "block_learning_rate";
        let mut known = block_names(model);
        known.push(HEAD.to_owned());
        for (block, multiplier) in &self.block_learning_rates {
            check_block(option, block, &known)?;
            if !(multiplier.is_finite() && *multiplier > 0.0) {
                return Err(Error::option(option, multiplier, "above 0"));
            }
        }
        Ok(())
    }
}
