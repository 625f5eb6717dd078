//! Scores of a classifier on a dataset.

use super::evaluation::{ConfusionMatrix, Evaluation};
use super::loss::{Loss, LossOptions};
use super::scores::{PictureScore, Scores};
use crate::data::{Batch, Dataset, lookalike};
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};
use crate::train::batches::BatchSource;
use crate::words::count;
use crate::{finite, progress, transfer};

/// The most classes that an error names.
const NAMED: usize = 20;

/// Pictures that are scored together.
const BATCH: usize = 32;

impl<B: Backbone> Classifier<B> {
    /// Scores the classifier on every picture of a dataset, exactly once.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a dataset whose classes are not the model's; what the dataset's policy says of a bad
    /// picture; [`Error::Dataset`] when fewer pictures can be used than [`least_usable`](Dataset::least_usable) says,
    /// or none of a class; [`Error::NotFinite`] for a model that makes NaN or infinity of one.
    ///
    /// Pictures that were skipped are named in a warning: see [`Verbosity`](crate::progress::Verbosity).
    pub fn evaluate(&self, dataset: &Dataset) -> Result<Evaluation> {
        Ok(self.score(dataset)?.evaluation)
    }

    /// Scores the classifier as [`evaluate`](Self::evaluate), and keeps what it said of each picture: 24 bytes for
    /// each.
    ///
    /// # Errors
    /// Those of [`evaluate`](Self::evaluate).
    pub fn score(&self, dataset: &Dataset) -> Result<Scores> {
        check_classes("the dataset to evaluate on", self, dataset)?;
        let mut evaluator = Evaluator::new(self);
        let mut pictures = Vec::with_capacity(dataset.len());
        progress::line(&format!("evaluating {}", count(dataset.len(), "picture")));
        for batch in BatchSource::plain(self, dataset, BATCH).epoch(self, 0) {
            let batch = batch?;
            let rows = evaluator.add(self, &batch, &LossOptions::default())?;
            let judged = batch.ids.iter().zip(&batch.labels).zip(&rows);
            pictures.extend(judged.map(|((id, label), row)| PictureScore::new(*id, *label, row)));
        }
        if let Some(warning) = dataset.skipped_summary("evaluation") {
            progress::warn(&warning);
        }
        dataset.check_usable()?;
        Ok(Scores {
            evaluation: evaluator.evaluation(self),
            pictures,
        })
    }
}

/// Figures of the pictures seen so far.
#[derive(serde::Serialize, serde::Deserialize)]
pub(in crate::train) struct Evaluator {
    matrix: ConfusionMatrix,
    /// The sum over the pictures.
    loss: f64,
}

impl Evaluator {
    pub(in crate::train) fn new<B: Backbone>(model: &Classifier<B>) -> Self {
        Self {
            matrix: ConfusionMatrix::new(model.class_names().len()),
            loss: 0.0,
        }
    }

    /// Takes a batch in, and returns its probabilities.
    pub(in crate::train) fn add<B: Backbone>(
        &mut self,
        model: &Classifier<B>,
        batch: &Batch,
        options: &LossOptions,
    ) -> Result<Vec<Vec<f32>>> {
        let loss = Loss::for_head(model.head().config());
        let logits = model.forward_from(batch.first_block, &batch.inputs)?;
        let mean = loss.forward_with(&logits, &batch.labels, options)?;
        let probabilities = model.head().probabilities(&logits)?;
        let numbers = transfer::read(&[&logits, &mean, &probabilities])?;
        for (what, numbers) in ["the logits", "the loss"].into_iter().zip(&numbers) {
            if let Some(value) = finite::first_not(numbers) {
                return Err(model.not_finite(format!("{what} of validation"), value));
            }
        }
        self.loss += f64::from(numbers[1][0]) * batch.labels.len() as f64;
        let probabilities = transfer::rows(&numbers[2], probabilities.dim(1)?);
        for (label, row) in batch.labels.iter().zip(&probabilities) {
            self.matrix.add(*label, row)?;
        }
        Ok(probabilities)
    }

    /// Takes in what another one has seen.
    pub(in crate::train) fn add_all(&mut self, other: Self) {
        self.loss += other.loss;
        self.matrix.add_all(other.matrix);
    }

    pub(in crate::train) fn evaluation<B: Backbone>(self, model: &Classifier<B>) -> Evaluation {
        let mean_loss = self.loss / self.matrix.pictures().max(1) as f64;
        self.matrix.evaluation(model.class_names(), mean_loss)
    }
}

/// Labels are positions: they mean the same only under the same names.
pub(in crate::train) fn check_classes<B: Backbone>(
    what: &str,
    model: &Classifier<B>,
    dataset: &Dataset,
) -> Result<()> {
    if dataset.class_names() == model.class_names() {
        return Ok(());
    }
    let (found, expected) = (dataset.class_names(), model.class_names());
    let other = found.iter().zip(expected).position(|(a, b)| a != b);
    let hint = other.map(|at| lookalike(&expected[at], [&found[at]]));
    // Of many, those from the first that differs on.
    let names = |names: &[String]| match names.len() {
        0..=NAMED => names.join(", "),
        all => {
            let from = other.unwrap_or(all).min(all - NAMED);
            let some = names[from..from + NAMED].join(", ");
            format!("{all} in all, from number {from} on {some}, …")
        }
    };
    Err(Error::mismatch(
        what,
        format!("classes {}{}", names(found), hint.unwrap_or_default()),
        format!("the model's classes {}", names(expected)),
    ))
}
