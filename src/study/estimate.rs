//! Cross-validation: how good a classifier gets on pictures that it has not seen, and how sure that is.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use super::features::Features;
use super::folds::{assign, parts};
use super::groups::Groups;
use super::interval::Interval;
use super::linear_head::LinearHead;
use super::{logistic, predictions};
use crate::data::{Dataset, Item};
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};
use crate::train::metrics::predicted_class;
use crate::words::count;
use crate::{bounds, progress};

/// Estimates by k-fold cross-validation how good a classifier gets: the pictures are put into k parts with about as
/// many of each class in every one, and each part is held out once from training.
///
/// ```
/// use headstart::study::{CrossValidation, Features, LinearHead};
///
/// # let rows = (0..40).map(|n| (n % 2) as f32 + (n * 7 % 5) as f32).collect();
/// # let labels: Vec<usize> = (0..40).map(|n| n % 2).collect();
/// let features = Features::from_rows(rows, 1, &labels, &["cat", "dog"])?; // or Features::of(&model, &dataset)
/// let estimate = CrossValidation::new(5, 2).linear_head(&features, &LinearHead::new())?;
/// println!("{estimate}");
/// assert_eq!(estimate.pictures.len(), 40);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CrossValidation {
    k: usize,
    repeats: usize,
    groups: Groups,
    seed: u64,
}

impl CrossValidation {
    /// In `k` parts, 2 to 1000 and no more than the smallest class has pictures, and so all over again with other
    /// parts,
    /// `repeats` times in all, 1 to 1000.
    pub fn new(k: usize, repeats: usize) -> Self {
        Self {
            k,
            repeats,
            groups: Groups::none(),
            seed: 0,
        }
    }

    /// Sets which pictures stay together; by default none need to.
    pub fn groups(mut self, groups: Groups) -> Self {
        self.groups = groups;
        self
    }

    /// Sets the seed of the parts; the default is 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Of a linear head on these features. All of it is fitted afresh each time, scaling and penalty too.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for numbers out of their range; those of [`LinearHead::solve`].
    pub fn linear_head(&self, features: &Features, head: &LinearHead) -> Result<Estimate> {
        self.linear_head_on(features, head, &vec![true; features.len()])
    }

    /// The same where only some of the pictures are fitted to; a class that would be left without any keeps all.
    pub(super) fn linear_head_on(
        &self,
        features: &Features,
        head: &LinearHead,
        is_kept: &[bool],
    ) -> Result<Estimate> {
        let mut judged = Judged::new(features.paths(), features.labels(), features.class_names());
        self.each_part(features.paths(), features.labels(), |train, held_out| {
            let labels = features.labels();
            let is_left = |label: usize| train.iter().any(|i| labels[*i] == label && is_kept[*i]);
            let left: Vec<bool> = (0..features.class_names().len()).map(is_left).collect();
            let train = train
                .iter()
                .copied()
                .filter(|i| is_kept[*i] || !left[labels[*i]]);
            let fit = head.solve(&features.select(&train.collect::<Vec<_>>()))?;
            let rows = fit.probabilities(&features.select(held_out))?;
            judged.part(held_out.iter().copied().zip(rows));
            Ok(())
        })?;
        judged.estimate(self.k)
    }

    /// Of whatever training gives: `train` is called with the pictures to train on, k times `repeats` times, and has to
    /// make a new classifier each time.
    ///
    /// ```no_run
    /// use headstart::prelude::*;
    /// use headstart::study::CrossValidation;
    ///
    /// let dataset = Dataset::open("pictures")?;
    /// let base = ConvBase::efficientnet_lite0(Weights::ImageNet, &Device::Cpu)?;
    /// let head = Head::softmax(dataset.class_names().len()).pooling(Pooling::GlobalAverage).dropout(0.2);
    /// let estimate = CrossValidation::new(5, 1).train(&dataset, |train| {
    ///     let mut model = Classifier::new(base.clone(), head.clone(), train.class_names())?;
    ///     Trainer::fine_tune(&mut model, train)?;
    ///     Ok(model)
    /// })?;
    /// # Ok::<(), headstart::Error>(())
    /// ```
    ///
    /// Pictures that cannot be used are left out, or refused, as the dataset's policy says.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for numbers out of their range; [`Error::Mismatch`] for a classifier of other classes;
    /// those of `train`.
    pub fn train<B: Backbone>(
        &self,
        dataset: &Dataset,
        mut train: impl FnMut(&Dataset) -> Result<Classifier<B>>,
    ) -> Result<Estimate> {
        let items = dataset.items();
        let paths: Vec<PathBuf> = items.iter().map(|item| item.path.clone()).collect();
        let labels: Vec<usize> = items.iter().map(|item| item.label).collect();
        let places: HashMap<u64, usize> = items
            .iter()
            .zip(0..)
            .map(|(item, i)| (item.id, i))
            .collect();
        let some = |pictures: &[usize]| -> Dataset {
            let items: Vec<Item> = pictures.iter().map(|i| items[*i].clone()).collect();
            dataset.with_items(items)
        };
        let mut judged = Judged::new(&paths, &labels, dataset.class_names());
        self.each_part(&paths, &labels, |fitted, held_out| {
            let model = train(&some(fitted))?;
            if model.class_names() != dataset.class_names() {
                return Err(Error::mismatch(
                    "the classifier to judge",
                    format!("classes {}", model.class_names().join(", ")),
                    format!("the dataset's classes {}", dataset.class_names().join(", ")),
                ));
            }
            let rows = predictions::logits(&model, &some(held_out))?.into_iter();
            judged.part(rows.map(|(id, row)| {
                let scores: Vec<f64> = row.into_iter().map(f64::from).collect();
                (places[&id], logistic::probabilities(&scores))
            }));
            Ok(())
        })?;
        judged.estimate(self.k)
    }

    /// Calls `judge` with the pictures outside and inside of each part in turn.
    pub(super) fn each_part(
        &self,
        paths: &[PathBuf],
        labels: &[usize],
        mut judge: impl FnMut(&[usize], &[usize]) -> Result<()>,
    ) -> Result<()> {
        bounds::within("folds", self.k, 2..=1000)?;
        bounds::within("repeats", self.repeats, 1..=1000)?;
        let groups = self.groups.numbers(paths);
        let all = self.k * self.repeats;
        let bar = progress::bar(all as u64, "{prefix} {bar:24} {pos}/{len} {eta} left");
        bar.set_prefix("cross-validation");
        progress::line(&format!("cross-validation: {}", count(all, "fit")));
        for repeat in 0..self.repeats as u64 {
            let folds = assign(labels, &groups, self.k, self.seed.wrapping_add(repeat))?;
            for fold in 0..self.k {
                let (train, held_out) = parts(&folds, fold);
                judge(&train, &held_out)?;
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(())
    }
}

/// What was said of pictures that were held out.
struct Judged<'a> {
    paths: &'a [PathBuf],
    labels: &'a [usize],
    class_names: &'a [String],
    /// The share of correct ones of each part, in order.
    parts: Vec<f64>,
    /// Each picture's probabilities, added up, how often it was judged, and how often rightly.
    sums: Vec<(Vec<f64>, usize, usize)>,
}

impl<'a> Judged<'a> {
    fn new(paths: &'a [PathBuf], labels: &'a [usize], class_names: &'a [String]) -> Self {
        Self {
            paths,
            labels,
            class_names,
            parts: Vec::new(),
            sums: vec![(vec![0.0; class_names.len()], 0, 0); paths.len()],
        }
    }

    fn part(&mut self, rows: impl Iterator<Item = (usize, Vec<f32>)>) {
        let (mut judged, mut correct) = (0, 0);
        for (picture, row) in rows {
            let (sums, times, right) = &mut self.sums[picture];
            sums.iter_mut()
                .zip(&row)
                .for_each(|(sum, p)| *sum += f64::from(*p));
            let is_right = usize::from(predicted_class(&row) == self.labels[picture]);
            *times += 1;
            *right += is_right;
            judged += 1;
            correct += is_right;
        }
        if judged > 0 {
            self.parts.push(correct as f64 / judged as f64);
        }
    }

    fn estimate(self, k: usize) -> Result<Estimate> {
        let mut pictures = Vec::with_capacity(self.paths.len());
        let mut of_class = vec![(0.0, 0.0); self.class_names.len()];
        for (picture, (sums, times, right)) in self.sums.into_iter().enumerate() {
            if times == 0 {
                continue;
            }
            let label = self.labels[picture];
            of_class[label].0 += right as f64 / times as f64;
            of_class[label].1 += 1.0;
            pictures.push(OutOfFold {
                path: self.paths[picture].clone(),
                label,
                probabilities: sums
                    .into_iter()
                    .map(|sum| (sum / times as f64) as f32)
                    .collect(),
            });
        }
        if pictures.is_empty() || self.parts.len() < 2 {
            let found = "no two parts with a usable picture";
            return Err(Error::mismatch("cross-validation", found, "two or more"));
        }
        let right: f64 = of_class.iter().map(|(right, _)| right).sum();
        let share = Interval::wilson(right, pictures.len() as f64);
        let per_class = self.class_names.iter().zip(of_class);
        Ok(Estimate {
            accuracy: share.or(Interval::of_folds(&self.parts, k)),
            per_class: per_class
                .map(|(class, (right, number))| ClassEstimate {
                    class: class.clone(),
                    recall: Interval::wilson(right, number),
                    pictures: number as usize,
                })
                .collect(),
            folds: self.parts,
            pictures,
            class_names: self.class_names.to_vec(),
        })
    }
}

/// How good a classifier gets on pictures that it has not seen.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// The share of pictures that were classified correctly while they were held out. Its range is the wider of two:
    /// Wilson's for so many pictures, and Nadeau and Bengio's for folds that share training pictures.
    pub accuracy: Interval,
    /// The same of each class, in label order.
    pub per_class: Vec<ClassEstimate>,
    /// The accuracy in each part, in order.
    pub folds: Vec<f64>,
    /// What was said of each picture, in the dataset's order.
    pub pictures: Vec<OutOfFold>,
    /// The class names.
    pub class_names: Vec<String>,
}

/// How well pictures of one class are recognised.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ClassEstimate {
    /// The class's name.
    pub class: String,
    /// The share of its pictures that was called so, with Wilson's range.
    pub recall: Interval,
    /// How many pictures it has.
    pub pictures: usize,
}

/// What was said of a picture while it was held out.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct OutOfFold {
    /// The picture's [path](Item::path).
    #[serde(serialize_with = "crate::words::path")]
    pub path: PathBuf,
    /// Its label.
    pub label: usize,
    /// The probability of each class; of several repeats the mean.
    pub probabilities: Vec<f32>,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accuracy {}", self.accuracy)?;
        for ClassEstimate {
            class,
            recall,
            pictures,
        } in &self.per_class
        {
            write!(
                f,
                "\n  {class}: {recall} of {}",
                count(*pictures, "picture")
            )?;
        }
        Ok(())
    }
}
