//! Whether probabilities mean what they say, and the temperature that makes them.

use std::f64::consts::FRAC_2_PI;
use std::fmt;

use super::estimate::Estimate;
use super::{logistic, predictions};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};
use crate::words::count;

/// Equal ranges of confidence.
const BINS: usize = 15;

/// The range of temperatures, and how often it is halved.
const COLDEST: f64 = 0.02;
const HOTTEST: f64 = 50.0;
const HALVINGS: usize = 60;

/// A temperature that makes a classifier's probabilities mean what they say, fitted to predictions on pictures that
/// were held out (Guo et al. 2017, "On Calibration of Modern Neural Networks"): logits are divided by it.
///
/// The loss is minimal, with targets as Platt (1999) has them, (N + 1)/(N + K) for the label and 1/(N + K) for the
/// others, so that a classifier without a mistake on few pictures does not become certain. Classes keep their order,
/// and accuracy stays.
///
/// ```no_run
/// # use headstart::{Classifier, Dataset};
/// use headstart::study::Calibration;
/// # fn calibrated(mut model: Classifier, validation: &Dataset) -> headstart::Result<()> {
///
/// let calibration = Calibration::of(&model, validation)?;
/// println!("{calibration}");
/// calibration.apply(&mut model)?;
/// model.save("model.safetensors")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Calibration {
    /// What logits are divided by: above 1 for a classifier that was too sure.
    pub temperature: f64,
    /// The expected calibration error before, over 15 equal ranges of confidence: how far apart confidence and accuracy
    /// are, on average over the pictures it was fitted to.
    pub error_before: f64,
    /// The same after.
    pub error_after: f64,
    /// What the error after would be on average if every probability meant just what it says: of few pictures, some are
    /// right by luck.
    pub error_by_chance: f64,
    /// How many pictures it was fitted to.
    pub pictures: usize,
}

impl Calibration {
    /// Of a classifier on pictures that it was not trained on.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a dataset of other classes, [`Error::Dataset`] for one without a usable picture.
    pub fn of<B: Backbone>(model: &Classifier<B>, held_out: &Dataset) -> Result<Self> {
        if held_out.class_names() != model.class_names() {
            return Err(Error::mismatch(
                "the dataset to calibrate on",
                format!("classes {}", held_out.class_names().join(", ")),
                format!("the model's classes {}", model.class_names().join(", ")),
            ));
        }
        let mut items = held_out.items().iter();
        let mut pictures = Vec::new();
        for (id, row) in predictions::logits(model, held_out)? {
            if let Some(item) = items.by_ref().find(|item| item.id == id) {
                let scores: Vec<f64> = row.into_iter().map(f64::from).collect();
                pictures.push((item.label, both(scores)));
            }
        }
        Self::fitted(&pictures).ok_or_else(|| Error::Dataset {
            path: held_out.root().to_owned(),
            source: "no picture can be used".into(),
        })
    }

    /// Of the classifiers of a cross-validation, on what they said of pictures that were held out; for the one that is
    /// fitted to all of them in the same way.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for an estimate without a picture.
    pub fn of_estimate(estimate: &Estimate) -> Result<Self> {
        let pictures = estimate.pictures.iter().map(|picture| {
            let logs = picture
                .probabilities
                .iter()
                .map(|p| f64::from(p.max(f32::MIN_POSITIVE)).ln());
            (picture.label, logs.collect())
        });
        let pictures: Vec<(usize, Vec<f64>)> = pictures.collect();
        Self::fitted(&pictures).ok_or_else(|| {
            Error::mismatch("the estimate to calibrate by", "no picture", "one or more")
        })
    }

    /// Divides a classifier's logits by the temperature: its output layer's numbers. A saved classifier keeps them.
    ///
    /// # Errors
    /// candle's, on a device without memory.
    pub fn apply<B: Backbone>(&self, model: &mut Classifier<B>) -> Result<()> {
        let head = model.head().scaled(1.0 / self.temperature)?;
        model.set_head(head);
        Ok(())
    }

    /// To labels and rows of K scores; none of no picture.
    fn fitted(pictures: &[(usize, Vec<f64>)]) -> Option<Self> {
        let (_, first) = pictures.first()?;
        let total = pictures.len() as f64 + first.len() as f64;
        // The loss is convex in 1/temperature: where its slope is 0, it is least.
        let (mut cold, mut hot) = (COLDEST.ln(), HOTTEST.ln());
        for _ in 0..HALVINGS {
            let middle = (cold + hot) / 2.0;
            match slope(pictures, (-middle).exp(), 1.0 / total) > 0.0 {
                true => cold = middle,
                false => hot = middle,
            }
        }
        let temperature = ((cold + hot) / 2.0).exp();
        let error = |temperature: f64| {
            let rows = pictures
                .iter()
                .map(|(label, row)| (*label, probabilities(row, 1.0 / temperature)));
            expected_error(rows)
        };
        let (error_before, _) = error(1.0);
        let (error_after, error_by_chance) = error(temperature);
        Some(Self {
            temperature,
            error_before,
            error_after,
            error_by_chance,
            pictures: pictures.len(),
        })
    }
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = [self.error_before, self.error_after, self.error_by_chance];
        let [before, after, chance] = errors.map(|error| 100.0 * error);
        let temperature = self.temperature;
        let pictures = count(self.pictures, "picture");
        write!(
            f,
            "temperature {temperature:.2}: confidence was {before:.1} % off, is {after:.1} % (of {pictures}, \
             luck alone makes {chance:.1} %)"
        )
    }
}

/// The expected calibration error of labels and rows of K probabilities: the distance of mean confidence and accuracy
/// in 15 equal ranges of confidence, weighed by the pictures in them (Naeini et al. 2015). Then what that would be on
/// average if each were right as often as it says: in a range, right ones less their number expected have the variance
/// Σ p(1 − p), and of a normal distribution the mean distance is √(2/π) of the deviation.
fn expected_error(rows: impl Iterator<Item = (usize, Vec<f64>)>) -> (f64, f64) {
    let mut bins = [(0.0, 0.0); BINS];
    let mut pictures = 0.0;
    for (label, row) in rows {
        let called = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]).then(b.cmp(a)));
        let confidence = called.map_or(0.0, |class| row[class]);
        let bin = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        bins[bin].0 += confidence - f64::from(called == Some(label));
        bins[bin].1 += confidence * (1.0 - confidence);
        pictures += 1.0;
    }
    let pictures = f64::max(pictures, 1.0);
    let error: f64 = bins.iter().map(|(distance, _)| distance.abs()).sum();
    let chance: f64 = bins.iter().map(|(_, variance)| variance.sqrt()).sum();
    (error / pictures, FRAC_2_PI.sqrt() * chance / pictures)
}

/// The slope of the loss in 1/temperature, where each class but the label is the target by `other`.
fn slope(pictures: &[(usize, Vec<f64>)], inverse: f64, other: f64) -> f64 {
    let mut slope = 0.0;
    for (label, row) in pictures {
        let expected = probabilities(row, inverse)
            .iter()
            .zip(row)
            .map(|(p, z)| p * z)
            .sum::<f64>();
        let sum: f64 = row.iter().sum();
        let wanted =
            other * (sum - row[*label]) + (1.0 - other * (row.len() - 1) as f64) * row[*label];
        slope += expected - wanted;
    }
    slope
}

fn probabilities(row: &[f64], inverse: f64) -> Vec<f64> {
    let scores: Vec<f64> = row.iter().map(|z| z * inverse).collect();
    let rows = logistic::probabilities(&scores);
    rows.into_iter().map(f64::from).collect()
}

/// One score as two.
fn both(scores: Vec<f64>) -> Vec<f64> {
    match scores[..] {
        [score] => vec![0.0, score],
        _ => scores,
    }
}
