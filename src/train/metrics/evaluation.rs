//! Figures from a classifier's probabilities on labelled pictures.

use std::fmt;

use unicode_width::UnicodeWidthStr;

use crate::error::{Error, Result};
use crate::finite;
use crate::words::figure;

/// Figures of one class.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ClassMetrics {
    /// The class's name.
    pub class: String,
    /// Of the pictures called this class, the share that is; 0 when none was called so.
    pub precision: f64,
    /// Of the pictures of this class, the share that was called so; 0 when there is none.
    pub recall: f64,
    /// Harmonic mean of precision and recall; 0 when both are 0.
    pub f1: f64,
    /// How many pictures are of this class (scikit-learn's word).
    pub support: usize,
}

/// A classifier's score on a dataset.
///
/// ```
/// use headstart::train::metrics::Evaluation;
///
/// let names = ["cat", "dog"].map(String::from);
/// let probabilities = [vec![0.9, 0.1], vec![0.4, 0.6], vec![0.8, 0.2]];
/// let score = Evaluation::from_predictions(&[0, 1, 1], &probabilities, &names, 0.7)?;
/// assert_eq!(score.confusion, [[1, 0], [1, 1]]);
/// assert_eq!(score.per_class[1].recall, 0.5);
/// assert_eq!(score.auc, Some(1.0));
/// assert_eq!(score.accuracy, Some(2.0 / 3.0));
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Evaluation {
    /// Mean loss over the pictures; none over no pictures.
    pub loss: Option<f64>,
    /// Share of pictures classified correctly; none of no pictures. With two classes, the second is called at a
    /// probability strictly above one half, as Keras does.
    pub accuracy: Option<f64>,
    /// Precision, recall and F1 of each class, in label order.
    pub per_class: Vec<ClassMetrics>,
    /// Area under the ROC curve, for two classes that both occur: the probability that a picture of the second
    /// class gets a higher score than one of the first, ties counted half (Mann–Whitney).
    pub auc: Option<f64>,
    /// How often each class (row) was called each class (column). Empty with more than 1,000 classes: it would have a
    /// number for each pair of them.
    pub confusion: Vec<Vec<usize>>,
}

/// The most classes of which each pair is counted.
const MAX_CONFUSION: usize = 1_000;

/// The most classes that are printed one by one, and of which the confusion is printed.
const MAX_PRINTED: usize = 40;

impl Evaluation {
    /// Scores probabilities, one row of K per picture, against labels.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is one row of K probabilities per label, [`Error::InvalidOption`] for a label
    /// that is not below K, [`Error::NotFinite`] for a loss or a probability that is NaN or infinite.
    pub fn from_predictions(
        labels: &[u32],
        probabilities: &[Vec<f32>],
        class_names: &[String],
        loss: f64,
    ) -> Result<Self> {
        let classes = class_names.len();
        if labels.len() != probabilities.len()
            || probabilities.iter().any(|row| row.len() != classes)
        {
            return Err(Error::Shape {
                what: "probabilities".into(),
                expected: format!("({}, {classes})", labels.len()),
                found: vec![
                    probabilities.len(),
                    probabilities.first().map_or(0, Vec::len),
                ],
            });
        }
        if !loss.is_finite() {
            return Err(Error::NotFinite {
                what: "the loss".into(),
                value: loss as f32,
            });
        }
        let mut matrix = ConfusionMatrix::new(classes);
        for (label, row) in labels.iter().zip(probabilities) {
            matrix.add(*label, row)?;
        }
        Ok(matrix.evaluation(class_names, loss))
    }
}

/// How often each class was called each class, counted as pictures come: with two classes eight bytes for each picture,
/// with more nothing that grows with their number, and with many nothing that grows with their pairs.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct ConfusionMatrix {
    /// Of each class, how often it was called itself, how often anything was called so, and how many pictures there
    /// are.
    correct: Vec<usize>,
    called: Vec<usize>,
    support: Vec<usize>,
    /// Row: what it is; column: what it was called. Without rows where there are too many.
    counts: Vec<Vec<usize>>,
    /// Of two classes, the second one's probability for each picture, and whether the picture is of it.
    scored: Vec<(f32, bool)>,
}

impl ConfusionMatrix {
    pub(super) fn new(classes: usize) -> Self {
        let rows = if classes > MAX_CONFUSION { 0 } else { classes };
        Self {
            correct: vec![0; classes],
            called: vec![0; classes],
            support: vec![0; classes],
            counts: vec![vec![0; rows]; rows],
            scored: Vec::new(),
        }
    }

    /// Adds a picture of this class and its probabilities, one for each class.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a label that is not below the number of classes, [`Error::NotFinite`] for a
    /// probability that is none.
    pub(super) fn add(&mut self, label: u32, probabilities: &[f32]) -> Result<()> {
        let classes = self.support.len();
        let (truth, called) = (label as usize, predicted_class(probabilities));
        if truth >= classes {
            return Err(Error::option("label", label, format!("below {classes}")));
        }
        if let Some(value) = finite::first_not(probabilities) {
            let what = "a probability".into();
            return Err(Error::NotFinite { what, value });
        }
        self.support[truth] += 1;
        self.called[called] += 1;
        self.correct[truth] += usize::from(truth == called);
        if let Some(row) = self.counts.get_mut(truth) {
            row[called] += 1;
        }
        if let [_, second] = probabilities {
            self.scored.push((*second, label == 1));
        }
        Ok(())
    }

    /// Adds the counts of another one, of the same classes.
    pub(super) fn add_all(&mut self, other: Self) {
        let add = |own: &mut Vec<usize>, other: Vec<usize>| {
            for (own, other) in own.iter_mut().zip(other) {
                *own += other;
            }
        };
        add(&mut self.correct, other.correct);
        add(&mut self.called, other.called);
        add(&mut self.support, other.support);
        for (own, other) in self.counts.iter_mut().zip(other.counts) {
            add(own, other);
        }
        self.scored.extend(other.scored);
    }

    pub(super) fn pictures(&self) -> usize {
        self.support.iter().sum()
    }

    /// The figures; `loss` is the mean.
    pub(super) fn evaluation(self, class_names: &[String], loss: f64) -> Evaluation {
        let (pictures, per_class) = (self.pictures(), self.per_class(class_names));
        Evaluation {
            loss: (pictures > 0).then_some(loss),
            accuracy: (pictures > 0).then(|| share(self.correct.iter().sum(), pictures)),
            per_class,
            auc: auc(self.scored),
            confusion: self.counts,
        }
    }

    fn per_class(&self, class_names: &[String]) -> Vec<ClassMetrics> {
        let counts = self.correct.iter().zip(&self.called).zip(&self.support);
        let classes = class_names.iter().zip(counts);
        classes
            .map(|(name, ((correct, called), support))| ClassMetrics {
                class: name.clone(),
                precision: share(*correct, *called),
                recall: share(*correct, *support),
                f1: share(2 * correct, called + support),
                support: *support,
            })
            .collect()
    }
}

/// Of two classes the second, strictly above one half; of more, the one with the highest probability, the first
/// of equals.
pub(crate) fn predicted_class(probabilities: &[f32]) -> usize {
    if let [_, second] = probabilities {
        return usize::from(*second > 0.5);
    }
    let mut best = 0;
    for (class, probability) in probabilities.iter().enumerate() {
        if *probability > probabilities[best] {
            best = class;
        }
    }
    best
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// By ranks: U = Σ ranks of the positives − P(P + 1)/2, over P·N; equal scores share their mean rank.
fn auc(mut scored: Vec<(f32, bool)>) -> Option<f64> {
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positives = scored.iter().filter(|(_, positive)| *positive).count();
    let negatives = scored.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let mut rank_sum = 0.0;
    let mut below = 0;
    for equals in scored.chunk_by(|a, b| a.0 == b.0) {
        let mean_rank = below as f64 + (equals.len() as f64 + 1.0) / 2.0;
        rank_sum += mean_rank * equals.iter().filter(|(_, positive)| *positive).count() as f64;
        below += equals.len();
    }
    let (p, n) = (positives as f64, negatives as f64);
    Some((rank_sum - p * (p + 1.0) / 2.0) / (p * n))
}

impl Evaluation {
    /// Refuses what a file may say and no scores are: counts that are not of these classes, or of more pictures than
    /// there can be.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let classes = self.per_class.len();
        let rows = self.confusion.iter();
        let is_square = self.confusion.is_empty() || self.confusion.len() == classes;
        if !is_square || rows.clone().any(|row| row.len() != classes) {
            return Err(format!("the confusion is not one of {classes} classes"));
        }
        let support = self.per_class.iter().map(|class| &class.support);
        match rows
            .flatten()
            .chain(support)
            .find(|count| u32::try_from(**count).is_err())
        {
            Some(count) => Err(format!("{count} are too many pictures")),
            None => Ok(()),
        }
    }

    /// Loss, accuracy and the table of classes as text, without the confusion.
    pub fn table(&self) -> String {
        let (loss, accuracy) = (figure(self.loss, 4), figure(self.accuracy, 4));
        let mut text = format!("loss {loss}, accuracy {accuracy}");
        if let Some(auc) = self.auc {
            text += &format!(", ROC AUC {auc:.4}");
        }
        let head = self.padded("class");
        text += &format!("\n{head}  precision  recall      F1   support\n");
        for (label, c) in self.per_class.iter().take(MAX_PRINTED).enumerate() {
            // Without the counts of many classes, what nothing was called has a precision of 0.
            let called: Option<usize> = match self.confusion.is_empty() {
                true => None,
                false => Some(self.confusion.iter().map(|row| row[label]).sum()),
            };
            let precision = figure((called != Some(0)).then_some(c.precision), 4);
            let recall = figure((c.support > 0).then_some(c.recall), 4);
            let counted = called.is_none_or(|called| called + c.support > 0);
            let f1 = figure(counted.then_some(c.f1), 4);
            let (name, support) = (self.padded(&c.class), c.support);
            text += &format!("{name}  {precision:>9}  {recall:>6}  {f1:>6}  {support:>8}\n");
        }
        if let Some(more) = self.per_class.len().checked_sub(MAX_PRINTED + 1) {
            text += &format!("… and {} classes more\n", more + 1);
        }
        text
    }

    /// A name as wide as the widest class.
    fn padded(&self, name: &str) -> String {
        let width = self.per_class.iter().map(|c| c.class.width()).max();
        let width = width.unwrap_or(0).max(5);
        // Letters may be two columns wide, or none, which `{:width$}` does not know.
        format!("{name}{}", " ".repeat(width.saturating_sub(name.width())))
    }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table())?;
        if self.per_class.len() > MAX_PRINTED {
            return Ok(());
        }
        writeln!(f, "confusion (row: what it is, column: what it was called)")?;
        for (c, row) in self.per_class.iter().zip(&self.confusion) {
            let counts: Vec<_> = row.iter().map(|count| format!("{count:>6}")).collect();
            writeln!(f, "{}{}", self.padded(&c.class), counts.concat())?;
        }
        Ok(())
    }
}
