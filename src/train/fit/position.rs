//! Where a run is.

use super::phase::Phase;
use crate::train::metrics::{EpochRecord, History};
use crate::train::range::not_negative;

/// Where a run is, between two steps.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Position {
    /// The phase, from 0.
    pub(super) phase: usize,
    /// Epochs of it that are finished.
    pub(super) phase_epochs: usize,
    /// Steps of it that are made.
    pub(super) phase_steps: usize,
    /// What the phase's schedule starts from.
    pub(super) learning_rate: f64,
    /// Steps of the unfinished epoch that are made.
    pub(super) step: usize,
    /// Their figures.
    pub(super) mean: Mean,
    /// The seconds they took.
    pub(super) seconds: f64,
    pub(super) next: Next,
    pub(super) history: History,
}

/// What comes next in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Next {
    /// The phase goes on with an epoch, or the rest of one.
    Epoch,
    /// The phase ends, and the next one begins, if there is any.
    PhaseEnd,
    /// The phase ends, and the run with it, because a callback said so.
    RunEnd,
    /// There is nothing left to do.
    Nothing,
}

impl Position {
    /// The start of a run whose first phase has this learning rate.
    pub(super) fn start(learning_rate: f64) -> Self {
        Self {
            phase: 0,
            phase_epochs: 0,
            phase_steps: 0,
            learning_rate,
            step: 0,
            mean: Mean::default(),
            seconds: 0.0,
            next: Next::Epoch,
            history: History::default(),
        }
    }

    /// Whether a run of these phases, with so many steps an epoch over so many pictures, can be here; otherwise what is
    /// wrong. What stands in a file is not believed.
    pub(super) fn check(
        &self,
        phases: &[Phase],
        steps: usize,
        pictures: usize,
    ) -> Result<(), String> {
        let Some(phase) = phases.get(self.phase) else {
            let count = phases.len();
            return Err(format!("it is in phase {} of {count}", self.phase + 1));
        };
        if self.phase_epochs > phase.epochs {
            let (made, all) = (self.phase_epochs, phase.epochs);
            return Err(format!("{made} epochs of its phase are made, of {all}"));
        }
        let before: usize = phases[..self.phase].iter().map(|phase| phase.epochs).sum();
        let made = self.history.epochs.len();
        if !(self.phase_epochs..=before + self.phase_epochs).contains(&made) {
            let found = self.phase_epochs;
            return Err(format!(
                "{made} epochs are made, {found} of them in its phase"
            ));
        }
        if self.step > steps || self.phase_steps > (self.phase_epochs + 1) * steps {
            let (step, made) = (self.step, self.phase_steps);
            return Err(format!(
                "step {step} and {made} steps of its phase, with {steps} an epoch"
            ));
        }
        if !not_negative(self.learning_rate) {
            return Err(format!("its learning rate is {}", self.learning_rate));
        }
        if !not_negative(self.seconds) || !self.mean.is_possible(pictures) {
            return Err("its unfinished epoch has impossible figures".to_owned());
        }
        for (index, record) in self.history.epochs.iter().enumerate() {
            if record.epoch != index + 1 || !is_possible(record) {
                return Err(format!("the figures of epoch {} are impossible", index + 1));
            }
        }
        Ok(())
    }

    /// Finished epochs, and steps made in the unfinished one.
    pub(super) fn place(&self) -> (usize, usize) {
        (self.history.epochs.len(), self.step)
    }

    /// The epoch that is running or next, from 1.
    pub(super) fn epoch(&self) -> usize {
        self.history.epochs.len() + 1
    }

    pub(super) fn at_phase_start(&self) -> bool {
        self.phase_epochs == 0 && self.step == 0
    }

    /// Goes to the start of the next phase, of this learning rate.
    pub(super) fn enter_next_phase(&mut self, learning_rate: f64) {
        self.phase += 1;
        (self.phase_epochs, self.phase_steps) = (0, 0);
        self.learning_rate = learning_rate;
        self.next = Next::Epoch;
    }
}

fn is_possible(record: &EpochRecord) -> bool {
    let share = |value: f64| (0.0..=1.0).contains(&value);
    not_negative(record.seconds)
        && record.loss.is_finite()
        && share(record.accuracy)
        && record.val_loss.is_none_or(f64::is_finite)
        && record.val_accuracy.is_none_or(share)
}

/// What a step reports.
#[derive(Clone, Copy, Default)]
pub(super) struct StepOutput {
    /// Mean loss of the batch, before the update.
    pub(super) loss: f64,
    /// How many of the batch's pictures were classified correctly, before the update.
    pub(super) correct: usize,
}

/// Mean loss and accuracy over the pictures seen so far, not over batches: the last batch may be short.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Mean {
    /// The sum over the pictures.
    loss: f64,
    correct: usize,
    pictures: usize,
}

impl Mean {
    pub(super) fn add(&mut self, output: &StepOutput, pictures: usize) {
        self.loss += output.loss * pictures as f64;
        self.correct += output.correct;
        self.pictures += pictures;
    }

    /// Whether no picture was seen.
    pub(super) fn is_empty(&self) -> bool {
        self.pictures == 0
    }

    /// Whether it can be one over some of so many pictures.
    fn is_possible(&self, pictures: usize) -> bool {
        self.loss.is_finite() && self.correct <= self.pictures && self.pictures <= pictures
    }

    pub(super) fn loss(&self) -> f64 {
        self.loss / self.pictures.max(1) as f64
    }

    pub(super) fn accuracy(&self) -> f64 {
        self.correct as f64 / self.pictures.max(1) as f64
    }
}
