//! A linear head on frozen features: logistic regression whose penalty cross-validation chooses.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::design::Design;
use super::features::Features;
use super::folds;
use super::logistic::{self, Problem, Solution};
use crate::bounds;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};

/// How far the weights on standardised features may be from the optimum: those that are kept, and those that a penalty
/// is judged by.
const TOLERANCE: f64 = 1e-4;
const ROUGH: f64 = 1e-3;

/// Weaker penalties are not tried once so many in a row were worse than the best.
const PATIENCE: usize = 3;

/// Fits a classifier's head to frozen features in seconds, in place of training it: logistic regression, binary for two
/// classes and multinomial for more, with an L2 penalty that cross-validation chooses.
///
/// Features are standardised, and that is folded into the weights, so that the head is one like any other. The problem is
/// convex and solved by L-BFGS (Liu & Nocedal 1989) until the weights are within 1e-4 of its only optimum: there is no
/// learning rate, no epoch, and no chance in the result. It is scikit-learn's
/// `make_pipeline(StandardScaler(), LogisticRegression(C=…))` to the digits that either computes.
///
/// ```
/// use headstart::study::LinearHead;
/// use headstart::{Classifier, ConvBase, Dataset, Device, Head};
/// use headstart::model::Pooling;
///
/// let pictures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/santa/pictures");
/// let train = Dataset::open(pictures.join("train"))?;
/// let test = Dataset::open_with_classes(pictures.join("test"), train.class_names())?;
/// let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
/// let mut model = Classifier::new(ConvBase::compact(&Device::Cpu)?, head, train.class_names())?;
/// let fit = LinearHead::new().fit(&mut model, &train)?;
/// println!("C = {}: {}", fit.c, model.evaluate(&test)?);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LinearHead {
    strengths: Vec<f64>,
    folds: usize,
    class_weights: Vec<f64>,
    is_balanced: bool,
    seed: u64,
}

impl Default for LinearHead {
    fn default() -> Self {
        Self::new()
    }
}

impl LinearHead {
    /// Five folds, and thirteen penalties: C = 10⁻⁵, 10⁻⁴·⁵, …, 10.
    pub fn new() -> Self {
        Self {
            strengths: (-10..=2)
                .map(|half| 10f64.powf(f64::from(half) / 2.0))
                .collect(),
            folds: 5,
            class_weights: Vec::new(),
            is_balanced: false,
            seed: 0,
        }
    }

    /// Sets the penalties to choose from, each as scikit-learn's C, the inverse of its strength: minimised is
    /// C·Σ ℓᵢ + ½·‖W‖² on standardised features. Taken is the strongest whose mean loss on pictures that were held out is
    /// within one standard error of the least (Breiman et al. 1984, "Classification and Regression Trees"): a weaker one
    /// could not be told to be better. They are tried from the strongest on until three in a row were worse than the best.
    /// With a single one nothing is held out.
    pub fn c(mut self, inverse_strengths: impl IntoIterator<Item = f64>) -> Self {
        self.strengths = inverse_strengths.into_iter().collect();
        self
    }

    /// Sets into how many parts the pictures are put, 2 to 1000, each of which is held out once to choose the penalty;
    /// the default is 5. A class with fewer pictures brings it down to their number; where a class has a single picture
    /// nothing can be held out, and C is 0.01, or the nearest to it of those allowed.
    pub fn folds(mut self, folds: usize) -> Self {
        self.folds = folds;
        self
    }

    /// Multiplies the loss of each picture by its class's weight, in label order; the default is 1 for all.
    pub fn class_weights(mut self, weights: impl IntoIterator<Item = f64>) -> Self {
        self.class_weights = weights.into_iter().collect();
        self
    }

    /// Weighs classes by the inverse of their number of pictures, N / (K·Nₖ), as scikit-learn's `balanced` does.
    pub fn balanced(mut self) -> Self {
        self.is_balanced = true;
        self
    }

    /// Sets the seed of the folds; the default is 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Fits the head of a classifier, as [`Head::sigmoid`](crate::Head::sigmoid) or
    /// [`Head::softmax`](crate::Head::softmax) made it without hidden layers, to the pictures of a dataset as its base
    /// sees them. Pictures go through the base once, as they are: there is no augmentation.
    ///
    /// # Errors
    /// Those of [`Features::of`] and [`fit_features`](Self::fit_features).
    pub fn fit<B: Backbone>(
        &self,
        model: &mut Classifier<B>,
        dataset: &Dataset,
    ) -> Result<LinearFit> {
        self.check()?;
        model.head().check_linear()?;
        self.fit_features(model, &Features::of(model, dataset)?)
    }

    /// Fits the head of a classifier to features of its base.
    ///
    /// # Errors
    /// Those of [`solve`](Self::solve); [`Error::InvalidOption`] for a head with hidden layers, [`Error::Mismatch`] for
    /// features of other classes, [`Error::Shape`] for some of another length than the head reads.
    pub fn fit_features<B: Backbone>(
        &self,
        model: &mut Classifier<B>,
        features: &Features,
    ) -> Result<LinearFit> {
        model.head().check_linear()?;
        if features.class_names() != model.class_names() {
            return Err(Error::mismatch(
                "the features to fit to",
                format!("classes {}", features.class_names().join(", ")),
                format!("the model's classes {}", model.class_names().join(", ")),
            ));
        }
        let fit = self.solve(features)?;
        let outputs = fit.bias.len();
        let weight: Vec<f64> = fit.weight.iter().flatten().copied().collect();
        let weight = Tensor::from_vec(weight, (outputs, features.width()), &Device::Cpu)?;
        let bias = Tensor::from_slice(&fit.bias, outputs, &Device::Cpu)?;
        let head = model.head().with_linear(&weight, &bias)?;
        model.set_head(head);
        Ok(fit)
    }

    /// Fits weights and biases alone.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an option out of range; [`Error::Mismatch`] for a class without a picture, which
    /// would never be predicted, for fewer than two classes, and for features that are the same for all pictures.
    pub fn solve(&self, features: &Features) -> Result<LinearFit> {
        self.check()?;
        let weights = self.picture_weights(features)?;
        let design = Design::of(features)?;
        if design.scaling.is_constant() {
            let found = "the same features for every picture";
            return Err(Error::mismatch(
                "the pictures to fit to",
                found,
                "pictures that differ",
            ));
        }
        let data = Data {
            design: &design,
            labels: features.labels(),
            weights: &weights,
            classes: features.class_names().len(),
        };
        let (c, curve) = self.choose(&data, &features.counts())?;
        let all: Vec<usize> = (0..features.len()).collect();
        let solution = data.problem(&all, c)?.solve(None, TOLERANCE)?;
        data.unfold(features, c, curve, &solution)
    }

    fn check(&self) -> Result<()> {
        bounds::within("folds", self.folds, 2..=1000)?;
        let is_bad = |value: &&f64| !(value.is_finite() && **value > 0.0);
        if self.strengths.is_empty() {
            return Err(Error::option("c", "no number", "one number or more"));
        }
        if let Some(bad) = self.strengths.iter().find(is_bad) {
            return Err(Error::option("c", bad, "finite and above 0"));
        }
        if let Some(bad) = self.class_weights.iter().find(is_bad) {
            return Err(Error::option("class_weights", bad, "finite and above 0"));
        }
        Ok(())
    }

    /// What each picture counts.
    fn picture_weights(&self, features: &Features) -> Result<Vec<f64>> {
        let counts = features.counts();
        let classes = counts.len();
        if let Some(empty) = counts.iter().position(|count| *count == 0) {
            let found = format!("no picture of class `{}`", features.class_names()[empty]);
            return Err(Error::mismatch(
                "the pictures to fit to",
                found,
                "one of each class",
            ));
        }
        if classes < 2 {
            let found = format!("{classes} class");
            return Err(Error::mismatch(
                "the pictures to fit to",
                found,
                "two classes or more",
            ));
        }
        if !self.class_weights.is_empty() && self.class_weights.len() != classes {
            let found = format!("{} numbers", self.class_weights.len());
            return Err(Error::option(
                "class_weights",
                found,
                format!("{classes}, one a class"),
            ));
        }
        let weight = |label: &usize| {
            let own = self.class_weights.get(*label).copied().unwrap_or(1.0);
            match self.is_balanced {
                true => own * features.len() as f64 / (classes * counts[*label]) as f64,
                false => own,
            }
        };
        Ok(features.labels().iter().map(weight).collect())
    }

    /// The penalty, and how each of those that were tried did.
    fn choose(&self, data: &Data<'_>, counts: &[usize]) -> Result<(f64, Vec<PenaltyScore>)> {
        let mut strengths = self.strengths.clone();
        strengths.sort_by(f64::total_cmp);
        strengths.dedup();
        let folds = counts.iter().copied().min().unwrap_or(0).min(self.folds);
        if strengths.len() == 1 || folds < 2 {
            let distance = |c: &f64| (c.ln() - FALLBACK.ln()).abs();
            let nearest = strengths
                .iter()
                .copied()
                .min_by(|a, b| distance(a).total_cmp(&distance(b)));
            return Ok((nearest.unwrap_or(FALLBACK), Vec::new()));
        }
        let each: Vec<usize> = (0..data.labels.len()).collect();
        let folds_of = folds::assign(data.labels, &each, folds, self.seed)?;
        let mut starts: Vec<Option<Vec<f64>>> = vec![None; folds];
        let mut curve: Vec<PenaltyScore> = Vec::new();
        let mut best = 0;
        for c in strengths {
            let parts: Result<Vec<(f64, f64, usize)>> = starts
                .par_iter_mut()
                .enumerate()
                .map(|(fold, start)| data.held_out(&folds::parts(&folds_of, fold), c, start))
                .collect();
            curve.push(PenaltyScore::of(c, &parts?, data.labels.len()));
            if curve[curve.len() - 1].loss < curve[best].loss {
                best = curve.len() - 1;
            }
            if curve.len() > best + PATIENCE {
                break;
            }
        }
        let bar = curve[best].loss + curve[best].error;
        let strongest = curve.iter().find(|score| score.loss <= bar);
        let c = strongest.unwrap_or(&curve[best]).c;
        Ok((c, curve))
    }
}

/// The penalty where nothing can be held out.
const FALLBACK: f64 = 0.01;

/// How a penalty did on pictures that were held out.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct PenaltyScore {
    /// The inverse of its strength.
    pub c: f64,
    /// Mean loss.
    pub loss: f64,
    /// Its standard error, by how much it differs from fold to fold.
    pub error: f64,
    /// Share of pictures that were classified correctly.
    pub accuracy: f64,
}

impl PenaltyScore {
    /// Of each fold the loss, added up, what its pictures count, and how many were correct.
    fn of(c: f64, folds: &[(f64, f64, usize)], pictures: usize) -> Self {
        let loss: f64 = folds.iter().map(|fold| fold.0).sum();
        let counted: f64 = folds.iter().map(|fold| fold.1).sum();
        let correct: usize = folds.iter().map(|fold| fold.2).sum();
        let mean = loss / counted;
        let squares = folds.iter().map(|fold| (fold.0 / fold.1 - mean).powi(2));
        let k = folds.len() as f64;
        Self {
            c,
            loss: mean,
            error: (squares.sum::<f64>() / (k * (k - 1.0))).sqrt(),
            accuracy: correct as f64 / pictures as f64,
        }
    }
}

/// A fitted linear head.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearFit {
    /// Weights on the features as they are, (1, D) for two classes and (K, D) for K: a score above 0 means the second of
    /// two classes, the largest score the class of K.
    pub weight: Vec<Vec<f64>>,
    /// (1) or (K).
    pub bias: Vec<f64>,
    /// The penalty that was chosen, as scikit-learn's C.
    pub c: f64,
    /// The penalties that were tried, from the strongest on; empty where nothing was held out.
    pub curve: Vec<PenaltyScore>,
    /// How many steps L-BFGS took at last.
    pub steps: u64,
    /// The norm of the gradient where it ended, of the mean loss and penalty on standardised features.
    pub gradient: f64,
}

impl LinearFit {
    /// One row of K probabilities for each picture.
    ///
    /// # Errors
    /// [`Error::Shape`] for features of another length.
    pub fn probabilities(&self, features: &Features) -> Result<Vec<Vec<f32>>> {
        let scores = self.scores(features)?;
        Ok(scores
            .iter()
            .map(|row| logistic::probabilities(row))
            .collect())
    }

    /// One row of one score, or K, for each picture.
    pub(super) fn scores(&self, features: &Features) -> Result<Vec<Vec<f64>>> {
        let width = self.weight.first().map_or(0, Vec::len);
        if features.width() != width {
            return Err(Error::Shape {
                what: "features".into(),
                expected: format!("(N, {width})"),
                found: vec![features.len(), features.width()],
            });
        }
        let scores = |row: &[f32]| -> Vec<f64> {
            let outputs = self.weight.iter().zip(&self.bias);
            let score = |(weight, bias): (&Vec<f64>, &f64)| {
                let products = weight.iter().zip(row).map(|(w, x)| w * f64::from(*x));
                products.sum::<f64>() + bias
            };
            outputs.map(score).collect()
        };
        Ok(features
            .rows()
            .par_chunks_exact(width)
            .map(scores)
            .collect())
    }
}

/// What a fit is made of.
struct Data<'a> {
    design: &'a Design,
    labels: &'a [usize],
    weights: &'a [f64],
    classes: usize,
}

impl Data<'_> {
    fn outputs(&self) -> usize {
        if self.classes == 2 { 1 } else { self.classes }
    }

    fn rows(&self, pictures: &[usize]) -> Result<Tensor> {
        let indices: Vec<u32> = pictures.iter().map(|i| *i as u32).collect();
        let indices = Tensor::from_vec(indices, pictures.len(), &Device::Cpu)?;
        Ok(self.design.z.index_select(&indices, 0)?)
    }

    fn problem(&self, pictures: &[usize], c: f64) -> Result<Problem> {
        let labels = pictures.iter().map(|i| self.labels[*i]).collect();
        let weights = pictures.iter().map(|i| self.weights[*i]).collect();
        Ok(Problem::new(
            self.rows(pictures)?,
            labels,
            weights,
            self.classes,
            c,
        ))
    }

    /// The loss, added up, what the pictures count, and the number of correct ones on the second part of a fit to the first.
    fn held_out(
        &self,
        (fitted, held_out): &(Vec<usize>, Vec<usize>),
        c: f64,
        start: &mut Option<Vec<f64>>,
    ) -> Result<(f64, f64, usize)> {
        let solution = self.problem(fitted, c)?.solve(start.take(), ROUGH)?;
        let scores = logistic::scores(&self.rows(held_out)?, &solution.point, self.outputs())?;
        let (mut loss, mut counted, mut correct) = (0.0, 0.0, 0);
        for (row, picture) in scores.chunks_exact(self.outputs()).zip(held_out) {
            let label = self.labels[*picture];
            correct += usize::from(is_called(row, label));
            counted += self.weights[*picture];
            loss += self.weights[*picture] * logistic::loss(&mut row.to_vec(), label);
        }
        *start = Some(solution.point);
        Ok((loss, counted, correct))
    }

    /// Weights on the features as they are.
    fn unfold(
        &self,
        features: &Features,
        c: f64,
        curve: Vec<PenaltyScore>,
        solution: &Solution,
    ) -> Result<LinearFit> {
        let (outputs, rank) = (self.outputs(), self.design.z.dims()[1]);
        let (weights, biases) = solution.point.split_at(outputs * rank);
        let mean_bias = match outputs {
            1 => 0.0,
            _ => biases.iter().sum::<f64>() / outputs as f64,
        };
        let scaling = &self.design.scaling;
        let (mut weight, mut bias) = (Vec::with_capacity(outputs), Vec::with_capacity(outputs));
        for (own, own_bias) in weights.chunks_exact(rank).zip(biases) {
            let row = scaling.scaled(&self.design.on_features(features, own)?);
            let shift: f64 = row
                .iter()
                .zip(&scaling.means)
                .map(|(w, mean)| w * mean)
                .sum();
            bias.push(own_bias - mean_bias - shift);
            weight.push(row);
        }
        Ok(LinearFit {
            weight,
            bias,
            c,
            curve,
            steps: solution.steps,
            gradient: solution.gradient,
        })
    }
}

/// Whether these scores call a picture so.
fn is_called(scores: &[f64], label: usize) -> bool {
    match scores {
        [score] => (*score > 0.0) == (label == 1),
        scores => scores
            .iter()
            .enumerate()
            .all(|(class, score)| class == label || *score < scores[label]),
    }
}
