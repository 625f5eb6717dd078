//! Scores of a classifier on a dataset.

use std::sync::Arc;

use super::evaluation::{ConfusionMatrix, Evaluation};
use super::loss::{Loss, LossOptions};
use super::scores::{Bits, PictureScore, Scores};
use crate::data::{Batch, Dataset, lookalike};
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};
use crate::train::batches::BatchSource;
use crate::train::communicator::{Alone, Communicator};
use crate::train::ranks::{Intention, Ranks, in_turn};
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
        self.score_together(dataset, Alone)
    }

    /// Scores the classifier as [`score`](Self::score), together with other processes: each takes batches in turn, and
    /// every one returns the scores of all pictures, which are those of one process to the bit.
    ///
    /// # Errors
    /// Those of [`evaluate`](Self::evaluate); [`Error::Mismatch`] for a rank that has other weights or pictures;
    /// [`Error::Rank`] when another rank failed.
    pub fn score_together(
        &self,
        dataset: &Dataset,
        communicator: impl Communicator + 'static,
    ) -> Result<Scores> {
        let ranks = Ranks::new(Arc::new(communicator));
        ranks.gather(check_classes("the dataset to evaluate on", self, dataset))?;
        ranks.agree(|| {
            let mut own = Intention::of_pixels(self);
            own.add_pictures("pictures", dataset);
            own
        })?;
        progress::line(&format!("evaluating {}", count(dataset.len(), "picture")));
        let all = ranks.gather(self.score_own(&ranks.own_batches(dataset, BATCH)))?;
        ranks.hear_of_skipped(dataset, 0)?;
        let warning = dataset.skipped_summary("evaluation");
        if let Some(warning) = warning.filter(|_| ranks.is_first()) {
            progress::warn(&warning);
        }
        dataset.check_usable()?;
        let (evaluators, pictures): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        Ok(Scores {
            evaluation: Evaluator::of_turns(evaluators).evaluation(self),
            pictures: in_turn(pictures)
                .into_iter()
                .flatten()
                .map(PictureScore::from_bits)
                .collect(),
        })
    }

    /// The figures of some pictures, and what was said of them, batch by batch.
    fn score_own(&self, dataset: &Dataset) -> Result<(Evaluator, Vec<Vec<Bits>>)> {
        let mut evaluator = Evaluator::new(self);
        let mut pictures = Vec::new();
        for batch in BatchSource::plain(self, dataset, BATCH).shares(self, 0) {
            let batch = batch?;
            let rows = evaluator.add(self, batch.as_ref(), &LossOptions::default())?;
            let batch = batch
                .iter()
                .flat_map(|batch| batch.ids.iter().zip(&batch.labels));
            let judged = batch.zip(&rows);
            let judged = judged.map(|((id, label), row)| PictureScore::new(*id, *label, row));
            pictures.push(judged.map(PictureScore::to_bits).collect());
        }
        Ok((evaluator, pictures))
    }
}

/// Figures of the pictures seen so far.
#[derive(serde::Serialize, serde::Deserialize)]
pub(in crate::train) struct Evaluator {
    matrix: ConfusionMatrix,
    /// Of each batch, the sum over its pictures.
    losses: Vec<f64>,
}

impl Evaluator {
    pub(in crate::train) fn new<B: Backbone>(model: &Classifier<B>) -> Self {
        Self {
            matrix: ConfusionMatrix::new(model.class_names().len()),
            losses: Vec::new(),
        }
    }

    /// Takes a batch in, and returns its probabilities; one without a usable picture counts among the batches alone.
    pub(in crate::train) fn add<B: Backbone>(
        &mut self,
        model: &Classifier<B>,
        batch: Option<&Batch>,
        options: &LossOptions,
    ) -> Result<Vec<Vec<f32>>> {
        let Some(batch) = batch else {
            self.losses.push(0.0);
            return Ok(Vec::new());
        };
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
        let loss = f64::from(numbers[1][0]) * batch.labels.len() as f64;
        self.losses.push(loss);
        let probabilities = transfer::rows(&numbers[2], probabilities.dim(1)?);
        for (label, row) in batch.labels.iter().zip(&probabilities) {
            self.matrix.add(*label, row)?;
        }
        Ok(probabilities)
    }

    /// The figures of all batches, where each of these took them in turn: those of one that took all, to the bit.
    pub(in crate::train) fn of_turns(parts: Vec<Self>) -> Self {
        let (matrices, losses): (Vec<_>, Vec<_>) = parts
            .into_iter()
            .map(|part| (part.matrix, part.losses))
            .unzip();
        let mut matrices = matrices.into_iter();
        let mut matrix = matrices.next().unwrap_or_else(|| ConfusionMatrix::new(0));
        matrices.for_each(|other| matrix.add_all(other));
        let losses = in_turn(losses);
        Self { matrix, losses }
    }

    pub(in crate::train) fn evaluation<B: Backbone>(self, model: &Classifier<B>) -> Evaluation {
        let loss: f64 = self.losses.iter().sum();
        let mean_loss = loss / self.matrix.pictures().max(1) as f64;
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
