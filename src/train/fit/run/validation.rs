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
        let mut all = self.ranks.gather(own)?.into_iter();
        let Some(Some(mut first)) = all.next() else {
            return Ok(None);
        };
        all.flatten().for_each(|other| first.add_all(other));
        Ok(Some(first.evaluation(self.model)))
    }

    /// The figures of this rank's validation pictures; none when asked to stop.
    fn validate_own(&self, batches: &BatchSource, loss: &LossOptions) -> Result<Option<Evaluator>> {
        let mut evaluator = Evaluator::new(self.model);
        for batch in batches.epoch(self.model, 0) {
            if self.stop_requested() {
                return Ok(None);
            }
            let added = evaluator.add(self.model, &batch?, loss);
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
