//! Pictures whose label is likely wrong: confident learning.

use std::path::{Path, PathBuf};

use super::csv;
use super::estimate::{CrossValidation, Estimate, OutOfFold};
use super::features::Features;
use super::linear_head::LinearHead;
use crate::error::Result;

/// How often the pictures are judged again without those whose labels are likely wrong.
const ROUNDS: usize = 2;

/// A picture, its label, and what it looks like.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Suspect {
    /// The picture's path.
    #[serde(serialize_with = "crate::words::path")]
    pub path: PathBuf,
    /// The class it is labelled as.
    pub class: String,
    /// The most probable of the other classes.
    pub looks_like: String,
    /// The probability of its label while it was held out.
    pub confidence: f32,
    /// That of the class it looks like.
    pub probability: f32,
    /// Whether the label is likely wrong.
    pub is_likely: bool,
}

/// All pictures by how little their labels are believed, the least first, from probabilities that were given while they
/// were held out.
///
/// A label is likely wrong by confident learning (Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in
/// Dataset Labels"): a picture counts as a class if that class's probability is at least the mean over the pictures
/// labelled so, and as the most probable of these if there are several; it is suspect where that class is not its own.
/// The order is that of the probability of the label.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Suspects {
    all: Vec<Suspect>,
}

impl Suspects {
    /// From an estimate of any classifier.
    pub fn of(estimate: &Estimate) -> Self {
        let likely = likely(estimate);
        let pictures = estimate.pictures.iter().zip(likely);
        let mut all: Vec<Suspect> = pictures
            .map(|(picture, is_likely)| suspect(picture, &estimate.class_names, is_likely))
            .collect();
        all.sort_by(|a, b| {
            a.confidence
                .total_cmp(&b.confidence)
                .then(b.probability.total_cmp(&a.probability))
        });
        Self { all }
    }

    /// By a linear head: the pictures are judged in cross-validation, and then twice more without those that were
    /// suspect, which spoil the judge.
    ///
    /// # Errors
    /// Those of [`CrossValidation::linear_head`].
    pub fn find(
        features: &Features,
        head: &LinearHead,
        validation: &CrossValidation,
    ) -> Result<Self> {
        // One penalty for all rounds: choosing it again would change little.
        let head = head.clone().c([head.solve(features)?.c]);
        let mut estimate = validation.linear_head(features, &head)?;
        for _ in 0..ROUNDS {
            let is_kept: Vec<bool> = likely(&estimate)
                .into_iter()
                .map(|likely| !likely)
                .collect();
            estimate = validation.linear_head_on(features, &head, &is_kept)?;
        }
        Ok(Self::of(&estimate))
    }

    /// All pictures, the least believed first.
    pub fn all(&self) -> &[Suspect] {
        &self.all
    }

    /// Those whose labels are likely wrong, the least believed first.
    pub fn likely(&self) -> impl Iterator<Item = &Suspect> {
        self.all.iter().filter(|suspect| suspect.is_likely)
    }

    /// Writes all pictures, the least believed first: path, class, what it looks like, both probabilities, and whether
    /// the label is likely wrong.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) naming the file.
    pub fn write_csv(&self, path: impl AsRef<Path>) -> Result<()> {
        let header = [
            "path",
            "class",
            "looks_like",
            "confidence",
            "probability",
            "is_likely",
        ];
        let rows = self.all.iter().map(|suspect| {
            vec![
                suspect.path.display().to_string(),
                suspect.class.clone(),
                suspect.looks_like.clone(),
                format!("{:.6}", suspect.confidence),
                format!("{:.6}", suspect.probability),
                suspect.is_likely.to_string(),
            ]
        });
        csv::write(path.as_ref(), &header, rows)
    }
}

fn suspect(picture: &OutOfFold, class_names: &[String], is_likely: bool) -> Suspect {
    let row = &picture.probabilities;
    let others = (0..row.len()).filter(|class| *class != picture.label);
    let other = others.max_by(|a, b| row[*a].total_cmp(&row[*b]).then(b.cmp(a)));
    let other = other.unwrap_or(picture.label);
    Suspect {
        path: picture.path.clone(),
        class: class_names[picture.label].clone(),
        looks_like: class_names[other].clone(),
        confidence: row[picture.label],
        probability: row[other],
        is_likely,
    }
}

/// Whether each picture counts as another class than its own.
fn likely(estimate: &Estimate) -> Vec<bool> {
    let classes = estimate.class_names.len();
    let (mut sums, mut numbers) = (vec![0f64; classes], vec![0f64; classes]);
    for OutOfFold {
        label,
        probabilities,
        ..
    } in &estimate.pictures
    {
        sums[*label] += f64::from(probabilities[*label]);
        numbers[*label] += 1.0;
    }
    let threshold = |class: usize| match numbers[class] {
        0.0 => f64::INFINITY,
        number => sums[class] / number,
    };
    let thresholds: Vec<f64> = (0..classes).map(threshold).collect();
    let counts_as = |picture: &OutOfFold| {
        let row = &picture.probabilities;
        let confident = (0..classes).filter(|class| f64::from(row[*class]) >= thresholds[*class]);
        confident.max_by(|a, b| row[*a].total_cmp(&row[*b]).then(b.cmp(a)))
    };
    let pictures = estimate.pictures.iter();
    pictures
        .map(|picture| counts_as(picture).is_some_and(|class| class != picture.label))
        .collect()
}
