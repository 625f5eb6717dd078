//! The score on the validation pictures, each rank on its own.

use super::Run;
use crate::error::{Error, Result};
use crate::model::Backbone;
use crate::train::batches::BatchSource;
use crate::train::metrics::{Evaluation, Evaluator, LossOptions};

impl<B: Backbone> Run<'_, B> {
    /// The score on the validation pictures; none when asked to stop.
    pub(super) fn validate(&self, batches: &BatchSource) -> Result<Option<Evaluation>> {
        // As in Keras, the reported loss is the one that is trained, but classes weigh the same.
        let loss = LossOptions {
            class_weights: Vec::new(),
            ..self.options.loss.clone()
        };
        let own = self.validate_own(batches, &loss);
        let all = self.ranks.gather(own)?;
        // Rank 0 decides.
        let all: Option<Vec<Evaluator>> = all.into_iter().collect();
        Ok(all.map(|all| Evaluator::of_turns(all).evaluation(self.model)))
    }

    /// The figures of this rank's validation pictures; none when asked to stop.
    fn validate_own(&self, batches: &BatchSource, loss: &LossOptions) -> Result<Option<Evaluator>> {
        let mut evaluator = Evaluator::new(self.model);
        for batch in batches.shares(self.model, 0) {
            if self.stop_requested() {
                return Ok(None);
            }
            let added = evaluator.add(self.model, batch?.as_ref(), loss);
            added.map_err(|error| self.diverged(error))?;
        }
        Ok(Some(evaluator))
    }

    /// An error of the epoch's last step, where a number is none that may be.
    pub(super) fn diverged(&self, error: Error) -> Error {
        match error {
            Error::NotFinite { what, value } => Error::Diverged {
                epoch: self.position.epoch(),
                step: self.position.step,
                tensor: what,
                value,
            },
            other => other,
        }
    }
}
