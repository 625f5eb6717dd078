//! A stretch of a run with blocks, learning rate and schedule of its own.

use super::schedule::Schedule;
use crate::model::{Backbone, Classifier};
use crate::{Error, Result};

/// A stretch of a run: so many epochs with these blocks open, at this learning rate. Several make gradual
/// unfreezing: the head first, then block 5 at a tenth of the rate (Howard & Ruder, "Universal Language Model
/// Fine-tuning", 2018, section 3.2).
///
/// ```
/// use headstart::{Block, Phase, RmsProp, Schedule, Trainer};
///
/// let trainer = Trainer::new(RmsProp::new(1e-3)).phases([
///     Phase::new(3).open_none(),
///     Phase::new(7).open([Block::Conv5]).learning_rate(1e-4).schedule(Schedule::cosine(0.0)),
/// ]);
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Phase {
    pub(super) epochs: usize,
    /// Names of the open blocks; none leaves the model's flags as they are.
    open: Option<Vec<String>>,
    pub(super) learning_rate: Option<f64>,
    pub(super) schedule: Schedule,
}

impl Phase {
    /// A phase of so many epochs that leaves the blocks as they are, at the optimizer's learning rate.
    pub fn new(epochs: usize) -> Self {
        Self {
            epochs,
            open: None,
            learning_rate: None,
            schedule: Schedule::constant(),
        }
    }

    /// Opens these blocks of the base, [`Block`](crate::Block)s or their names, and freezes the others. The
    /// head is always open.
    pub fn open<T: ToString>(mut self, blocks: impl IntoIterator<Item = T>) -> Self {
        self.open = Some(blocks.into_iter().map(|block| block.to_string()).collect());
        self
    }

    /// Freezes every block of the base: only the head learns.
    pub fn open_none(self) -> Self {
        self.open([""; 0])
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

    pub(super) fn check<B: Backbone>(&self, model: &Classifier<B>) -> Result<()> {
        if self.epochs == 0 {
            return Err(Error::option("epochs", 0, "1 or more"));
        }
        if let Some(rate) = self.learning_rate
            && !(rate.is_finite() && rate >= 0.0)
        {
            return Err(Error::option("learning_rate", rate, "0 or more"));
        }
        for name in self.open.iter().flatten() {
            check_block("open", name, &block_names(model))?;
        }
        self.schedule.check()
    }

    /// Sets the model's flags.
    pub(super) fn open_blocks<B: Backbone>(&self, model: &mut Classifier<B>) -> Result<()> {
        let Some(open) = &self.open else {
            return Ok(());
        };
        for (index, block) in model.base().blocks().into_iter().enumerate() {
            let trainable = open.contains(&block.name);
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
