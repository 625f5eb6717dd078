//! Scores of a classifier on a dataset.

use candle_core::DType;

use super::loss::{Loss, Targets};
use super::metrics::{Evaluation, Tally};
use super::source::Source;
use crate::model::{Backbone, Classifier};
use crate::{DirectoryDataset, Error, Result};

impl<B: Backbone> Classifier<B> {
    /// Scores the classifier on every picture of a dataset, exactly once.
    ///
    /// # Errors
    /// [`Error::Option`] for a dataset whose classes are not the model's; what the dataset's policy says of a
    /// bad picture.
    pub fn evaluate(&self, dataset: &DirectoryDataset) -> Result<Evaluation> {
        same_classes("dataset", self, dataset)?;
        let mut scores = Scores::new(self);
        let source = Source::plain(self, dataset, 32);
        for batch in source.epoch(self, 0) {
            scores.add(self, &source, &batch?, &Targets::default())?;
        }
        Ok(scores.evaluation(self))
    }
}

/// Figures of the pictures seen so far.
pub(super) struct Scores {
    tally: Tally,
    /// The sum over the pictures.
    loss: f64,
}

impl Scores {
    pub(super) fn new<B: Backbone>(model: &Classifier<B>) -> Self {
        Self {
            tally: Tally::new(model.class_names().len()),
            loss: 0.0,
        }
    }

    pub(super) fn add<B: Backbone>(
        &mut self,
        model: &Classifier<B>,
        source: &Source,
        batch: &crate::Batch,
        targets: &Targets,
    ) -> Result<()> {
        let loss = Loss::for_head(model.head().config());
        let logits = source.forward(model, batch)?;
        let mean = loss.forward_to(&logits, &batch.labels, targets)?;
        let mean = mean.to_dtype(DType::F32)?.to_scalar::<f32>()?;
        self.loss += f64::from(mean) * batch.labels.len() as f64;
        let probabilities = model.head().probabilities(&logits)?.to_vec2::<f32>()?;
        for (label, row) in batch.labels.iter().zip(&probabilities) {
            self.tally.add(*label, row)?;
        }
        Ok(())
    }

    pub(super) fn evaluation<B: Backbone>(self, model: &Classifier<B>) -> Evaluation {
        let mean_loss = self.loss / self.tally.pictures().max(1) as f64;
        self.tally.evaluation(model.class_names(), mean_loss)
    }
}

/// Labels are positions: they mean the same only under the same names.
pub(super) fn same_classes<B: Backbone>(
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
