//! What a classifier said of each picture, and what can be read from it: curves, calibration, mistakes.

use super::evaluation::{Evaluation, predicted_class};

/// How many bins of equal width the confidences are put into, as in Guo et al. 2017, "On Calibration of Modern Neural
/// Networks".
const BINS: usize = 15;

/// What a classifier said of one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PictureScore {
    /// The picture's [id](crate::data::Item::id).
    pub id: u64,
    /// Its class.
    pub label: u32,
    /// What it was called.
    pub called: u32,
    /// The probability of the class it was called.
    pub confidence: f32,
    /// The probability of the second class: with two, what decides.
    pub second: f32,
}

/// The same as one rank tells another: probabilities by their bits, which text may lose.
pub(super) type Bits = (u64, [u32; 4]);

impl PictureScore {
    pub(super) fn new(id: u64, label: u32, probabilities: &[f32]) -> Self {
        let called = predicted_class(probabilities);
        Self {
            id,
            label,
            called: called as u32,
            confidence: probabilities[called],
            second: probabilities.get(1).copied().unwrap_or(0.0),
        }
    }

    pub(super) fn to_bits(self) -> Bits {
        let [confidence, second] = [self.confidence, self.second].map(f32::to_bits);
        (self.id, [self.label, self.called, confidence, second])
    }

    pub(super) fn from_bits((id, [label, called, confidence, second]): Bits) -> Self {
        let [confidence, second] = [confidence, second].map(f32::from_bits);
        Self {
            id,
            label,
            called,
            confidence,
            second,
        }
    }

    /// Whether it was called what it is.
    pub fn is_right(&self) -> bool {
        self.label == self.called
    }
}

/// The scores of a classifier on a dataset, picture by picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// The figures of all pictures together.
    pub evaluation: Evaluation,
    /// Each picture that could be used, in the dataset's order.
    pub pictures: Vec<PictureScore>,
}

/// Pictures of about the same confidence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    /// How many there are.
    pub pictures: usize,
    /// The mean probability of the class each was called.
    pub confidence: f64,
    /// The share that was called right.
    pub accuracy: f64,
}

impl Scores {
    /// The pictures in fifteen bins by confidence, from 0 to 1; bins without pictures are left out.
    pub fn reliability(&self) -> Vec<Bin> {
        let mut bins = [Bin::default(); BINS];
        for picture in &self.pictures {
            // The upper end belongs to a bin, as in Guo et al.: (0, 1/15], (1/15, 2/15], …
            let place = (f64::from(picture.confidence) * BINS as f64).ceil() as usize;
            let bin = &mut bins[place.clamp(1, BINS) - 1];
            bin.pictures += 1;
            bin.confidence += f64::from(picture.confidence);
            bin.accuracy += f64::from(u8::from(picture.is_right()));
        }
        let mean = |bin: Bin| Bin {
            confidence: bin.confidence / bin.pictures as f64,
            accuracy: bin.accuracy / bin.pictures as f64,
            ..bin
        };
        bins.into_iter()
            .filter(|bin| bin.pictures > 0)
            .map(mean)
            .collect()
    }

    /// The expected calibration error: over the bins of [`reliability`](Self::reliability), the mean distance between
    /// confidence and accuracy, weighted by pictures (Guo et al. 2017, equation 3). None of no pictures.
    pub fn calibration_error(&self) -> Option<f64> {
        let all = self.pictures.len();
        let distance =
            |bin: Bin| bin.pictures as f64 / all as f64 * (bin.accuracy - bin.confidence).abs();
        (all > 0).then(|| self.reliability().into_iter().map(distance).sum())
    }

    /// Of two classes that both occur, the ROC curve of the second: (false positive rate, true positive rate) from
    /// (0, 0) to (1, 1), a point for each distinct probability.
    pub fn roc(&self) -> Option<Vec<(f64, f64)>> {
        let (counts, positives, negatives) = self.thresholds()?;
        let rate =
            |(t, f): (usize, usize)| (f as f64 / negatives as f64, t as f64 / positives as f64);
        Some(std::iter::once((0, 0)).chain(counts).map(rate).collect())
    }

    /// Of two classes that both occur, the precision-recall curve of the second: (recall, precision), from the highest
    /// probability down, a point for each distinct one.
    pub fn precision_recall(&self) -> Option<Vec<(f64, f64)>> {
        let (counts, positives, _) = self.thresholds()?;
        let point =
            |(t, f): (usize, usize)| (t as f64 / positives as f64, t as f64 / (t + f) as f64);
        Some(counts.into_iter().map(point).collect())
    }

    /// True and false positives as the threshold goes down, and how many pictures are of the second class and of the
    /// first.
    #[expect(clippy::type_complexity, reason = "three lists of numbers, used twice")]
    fn thresholds(&self) -> Option<(Vec<(usize, usize)>, usize, usize)> {
        if self.evaluation.per_class.len() != 2 {
            return None;
        }
        let second = |score: &PictureScore| (score.second, score.label == 1);
        let mut scored: Vec<(f32, bool)> = self.pictures.iter().map(second).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        let positives = scored.iter().filter(|(_, positive)| *positive).count();
        let negatives = scored.len() - positives;
        if positives == 0 || negatives == 0 {
            return None;
        }
        let (mut t, mut f) = (0, 0);
        let mut counts = Vec::new();
        for equals in scored.chunk_by(|a, b| a.0 == b.0) {
            let here = equals.iter().filter(|(_, positive)| *positive).count();
            t += here;
            f += equals.len() - here;
            counts.push((t, f));
        }
        Some((counts, positives, negatives))
    }

    /// The pictures that were called wrong, the most confident first.
    pub fn mistakes(&self) -> Vec<PictureScore> {
        let mut wrong: Vec<_> = self
            .pictures
            .iter()
            .filter(|p| !p.is_right())
            .copied()
            .collect();
        wrong.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
        wrong
    }

    /// All pictures, the least confident first.
    pub fn least_sure(&self) -> Vec<PictureScore> {
        let mut pictures = self.pictures.clone();
        pictures.sort_by(|a, b| a.confidence.total_cmp(&b.confidence));
        pictures
    }
}
