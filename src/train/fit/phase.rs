//! A stretch of a run under one set of trainable blocks and one schedule.

use crate::bounds;
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};
use crate::train::optimizer::Schedule;
use crate::train::range::check_not_negative;

/// A stretch of a run: so many epochs with these blocks trainable, at this learning rate. Several make gradual
/// unfreezing: the head first, then block 5 at a tenth of the rate (Howard & Ruder, "Universal Language Model
/// Fine-tuning", 2018, section 3.2).
///
/// ```
/// use headstart::{Block, RmsProp, Trainer};
/// use headstart::train::Phase;
/// use headstart::train::optimizer::Schedule;
///
/// let trainer = Trainer::new(RmsProp::new(1e-3)).phases([
///     Phase::new(3).frozen(),
///     Phase::new(7).unfreeze([Block::Conv5]).learning_rate(1e-4).schedule(Schedule::cosine(0.0)),
/// ]);
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Phase {
    pub(super) epochs: usize,
    /// Names of the trainable blocks; none leaves the model's flags as they are.
    trainable: Option<Vec<String>>,
    pub(super) learning_rate: Option<f64>,
    pub(super) schedule: Schedule,
}

impl Phase {
    /// A phase of so many epochs that leaves the blocks as they are, at the optimizer's learning rate.
    pub fn new(epochs: usize) -> Self {
        Self {
            epochs,
            trainable: None,
            learning_rate: None,
            schedule: Schedule::constant(),
        }
    }

    /// Makes these blocks of the base trainable, [`Block`](crate::Block)s or their names, and freezes the others. The
    /// head is always trainable.
    pub fn unfreeze<T: ToString>(mut self, blocks: impl IntoIterator<Item = T>) -> Self {
        let names = blocks.into_iter().map(|block| block.to_string());
        self.trainable = Some(names.collect());
        self
    }

    /// Freezes every block of the base: only the head learns.
    pub fn frozen(mut self) -> Self {
        self.trainable = Some(Vec::new());
        self
    }

    /// Sets the learning rate the schedule starts from; the default is the optimizer's.
    pub fn learning_rate(mut self, learning_rate: f64) -> Self {
        self.learning_rate = Some(learning_rate);
        self
    }

    /// Sets the schedule, which runs over the phase's steps; the default is constant.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        bounds::within("epochs", self.epochs, 1..=bounds::COUNT)?;
        if let Some(rate) = self.learning_rate {
            check_not_negative("learning_rate", rate)?;
        }
        self.schedule.check()
    }

    pub(super) fn check_blocks<B: Backbone>(&self, model: &Classifier<B>) -> Result<()> {
        for name in self.trainable.iter().flatten() {
            check_block("unfreeze", name, &block_names(model))?;
        }
        Ok(())
    }

    /// Sets the flags of the model's blocks.
    pub(super) fn set_trainable<B: Backbone>(&self, model: &mut Classifier<B>) -> Result<()> {
        let Some(names) = &self.trainable else {
            return Ok(());
        };
        for (index, block) in model.base().blocks().into_iter().enumerate() {
            let trainable = names.contains(&block.name);
            // Setting a flag throws away what was made of the frozen weights.
            if trainable != block.trainable {
                model.base_mut().set_trainable(index, trainable)?;
            }
        }
        Ok(())
    }
}

pub(super) fn block_names<B: Backbone>(model: &Classifier<B>) -> Vec<String> {
    let blocks = model.base().blocks().into_iter();
    blocks.map(|block| block.name).collect()
}

pub(super) fn check_block(option: &'static str, name: &str, known: &[String]) -> Result<()> {
    if known.iter().any(|block| block == name) {
        return Ok(());
    }
    Err(Error::option(option, format!("`{name}`"), known.join(", ")))
}
