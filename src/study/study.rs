//! All of it in one call.

use std::path::Path;
use std::sync::Arc;

use super::advice::{self, Findings};
use super::calibration::Calibration;
use super::doubt::Doubt;
use super::duplicates::{Duplicates, Split};
use super::estimate::{CrossValidation, Estimate};
use super::features::Features;
use super::fingerprints::{Fingerprints, Unfit};
use super::folds;
use super::groups::Groups;
use super::interval::Interval;
use super::linear_head::{LinearFit, LinearHead};
use super::outliers::{Outlier, outliers};
use super::suspects::Suspects;
use crate::atomic_file;
use crate::data::Dataset;
use crate::error::Result;
use crate::model::{Backbone, Classifier, Head, Pooling};
use crate::train::communicator::{Alone, Communicator};
use crate::train::metrics::predicted_class;
use crate::train::{Intention, Ranks};

/// The name of the part that a head is fitted to.
const TRAIN: &str = "train";

/// The share of held-out pictures that is familiar.
const FAMILIAR: f64 = 0.95;

/// What is done beside the pictures to fit to.
#[derive(Clone, Debug)]
pub struct StudyOptions {
    parts: Vec<(String, Dataset)>,
    input_size: Option<(usize, usize)>,
    folds: usize,
    groups: Option<Groups>,
    communicator: Arc<dyn Communicator>,
}

impl Default for StudyOptions {
    fn default() -> Self {
        Self {
            parts: Vec::new(),
            input_size: None,
            folds: 5,
            groups: None,
            communicator: Arc::new(Alone),
        }
    }
}

impl StudyOptions {
    /// Adds a part of the data that nothing is fitted to, such as `test`, with the same classes: it is scored, and
    /// pictures that are in two parts are named.
    pub fn part(mut self, name: impl Into<String>, dataset: &Dataset) -> Self {
        self.parts.push((name.into(), dataset.clone()));
        self
    }

    /// Sets height and width that pictures are resized to; the default is the base's.
    pub fn input_size(mut self, height: usize, width: usize) -> Self {
        self.input_size = Some((height, width));
        self
    }

    /// Sets the number of folds; the default is 5, or as many as the smallest class allows.
    pub fn folds(mut self, folds: usize) -> Self {
        self.folds = folds;
        self
    }

    /// Sets which pictures stay together in a fold; by default those that are one picture.
    pub fn groups(mut self, groups: Groups) -> Self {
        self.groups = Some(groups);
        self
    }

    /// Shares the reading of pictures, and what the base makes of them, with other processes. Each has the study in the
    /// end; what follows from the features is seconds, and every rank's own work. The default is [`Alone`].
    pub fn communicator(mut self, communicator: impl Communicator + 'static) -> Self {
        self.communicator = Arc::new(communicator);
        self
    }

    /// Studies the pictures of a dataset, with progress bars.
    ///
    /// # Errors
    /// Those of [`Features::of`] and [`LinearHead::solve`]; [`Error::Mismatch`](crate::Error::Mismatch) for a part of
    /// other classes, and for a rank with other weights or pictures; [`Error::Rank`](crate::Error::Rank) when another
    /// rank failed.
    pub fn run<B: Backbone + Clone>(self, base: &B, train: &Dataset) -> Result<Study<B>> {
        let classes = train.class_names();
        let head = match classes.len() {
            2 => Head::sigmoid(),
            more => Head::softmax(more),
        };
        let head = head.pooling(Pooling::GlobalAverage);
        let mut model = Classifier::new(base.clone(), head, classes)?;
        if let Some((height, width)) = self.input_size {
            model = model.input_size(height, width)?;
        }
        let ranks = Ranks::new(self.communicator.clone());
        let named = self.parts.iter().map(|(name, part)| (name.as_str(), part));
        let named: Vec<_> = [(TRAIN, train)].into_iter().chain(named).collect();
        ranks.agree(|| {
            let mut own = Intention::of_pixels(&model);
            named
                .iter()
                .for_each(|(name, part)| own.add_pictures(name, part));
            own
        })?;
        let parts = named
            .into_iter()
            .map(|(name, part)| Part::of(name, &model, part, &ranks));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let splits: Vec<Split<'_>> = parts.iter().map(Part::split).collect();
        let duplicates = Duplicates::of(&splits)?;
        let groups = self.groups.unwrap_or_else(|| duplicates.groups());
        let features = &parts[0].features;
        let fit = LinearHead::new().fit_features(&mut model, features)?;
        let judged = Judged::of(features, &fit, self.folds, &groups)?;
        let mut doubt = None;
        if let (Some(calibration), Some(validation)) = (&judged.calibration, &judged.validation) {
            calibration.apply(&mut model)?;
            let head = LinearHead::new().c([fit.c]);
            let by = (&head, validation, calibration.temperature);
            doubt = Some(Doubt::teach_by_folds(&mut model, features, by, FAMILIAR)?);
        }
        let outliers = outliers(features);
        let reports = parts
            .iter()
            .map(|part| part.report(&fit))
            .collect::<Result<Vec<_>>>()?;
        let advice = advice::of(&Findings {
            duplicates: &duplicates,
            likely: judged.suspects.likely().count(),
            unfit: reports.iter().map(|part| part.unfit.len()).sum(),
            counts: &reports[0].counts,
            estimate: judged.estimate.as_ref(),
            rise: rise(&judged.curve),
        });
        Ok(Study {
            parts: reports,
            estimate: judged.estimate,
            fit,
            calibration: judged.calibration,
            doubt,
            suspects: judged.suspects,
            outliers,
            duplicates,
            curve: judged.curve,
            advice,
            model,
        })
    }
}

/// What accuracy gained from half of the pictures to all.
fn rise(curve: &[CurvePoint]) -> Option<f64> {
    match curve {
        [.., half, all] => Some(all.accuracy.mean - half.accuracy.mean),
        _ => None,
    }
}

/// What can be said of a dataset by frozen features alone, in one call: see the [fields](#fields), print it, or write
/// it as JSON. No picture is changed or deleted.
///
/// ```
/// use headstart::study::Study;
/// use headstart::{ConvBase, Dataset, Device};
///
/// let pictures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/santa/pictures");
/// let train = Dataset::open(pictures.join("train"))?;
/// let test = Dataset::open_with_classes(pictures.join("test"), train.class_names())?;
/// let base = ConvBase::compact(&Device::Cpu)?; // or ConvBase::efficientnet_lite0(Weights::ImageNet, …)
/// let study = Study::options().part("test", &test).run(&base, &train)?;
/// println!("{study}");
/// assert_eq!(study.to_json()["parts"][1]["name"], "test");
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Study<B> {
    /// The parts of the data, the one that was fitted to first.
    pub parts: Vec<PartReport>,
    /// How good a linear head gets on pictures it has not seen; none where a class has a single picture.
    pub estimate: Option<Estimate>,
    /// The head that was fitted to all training pictures.
    pub fit: LinearFit,
    /// The temperature that the classifier's logits were divided by.
    pub calibration: Option<Calibration>,
    /// What the classifier was taught to call familiar: pictures like 95 % of those held out.
    pub doubt: Option<Doubt>,
    /// Training pictures whose labels are likely wrong.
    pub suspects: Suspects,
    /// Training pictures that are like no other of their class.
    pub outliers: Vec<Outlier>,
    /// Pictures that are there twice.
    pub duplicates: Duplicates,
    /// How good a head gets with a quarter, half and all of the training pictures.
    pub curve: Vec<CurvePoint>,
    /// What to do next, in sentences.
    pub advice: Vec<String>,
    /// The classifier: the base with the fitted head, calibrated, and taught to doubt.
    pub model: Classifier<B>,
}

/// A part of the data.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PartReport {
    /// Its name.
    pub name: String,
    /// How many pictures can be used.
    pub pictures: usize,
    /// How many of each class.
    pub counts: Vec<(String, usize)>,
    /// The pictures that are broken, tiny or blank.
    pub unfit: Vec<Unfit>,
    /// The share of its pictures that the fitted head gets right; none for the part that it was fitted to.
    pub accuracy: Option<Interval>,
}

/// How good a head gets with some of the pictures.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct CurvePoint {
    /// How many pictures are fitted to.
    pub pictures: usize,
    /// The accuracy on those that were held out.
    pub accuracy: Interval,
}

impl<B: Backbone + Clone> Study<B> {
    /// Studies a dataset by what a base makes of its pictures. [`StudyOptions`] compares with other parts of the data.
    ///
    /// # Errors
    /// As [`StudyOptions::run`].
    pub fn of(base: &B, dataset: &Dataset) -> Result<Self> {
        StudyOptions::default().run(base, dataset)
    }
}

impl Study<()> {
    /// What may be set.
    pub fn options() -> StudyOptions {
        StudyOptions::default()
    }
}

impl<B> Study<B> {
    /// Training pictures, those whose labels are least believed first.
    pub fn suspects(&self) -> &Suspects {
        &self.suspects
    }

    /// All of it but the classifier, as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "parts": self.parts,
            "estimate": self.estimate,
            "c": self.fit.c,
            "penalties": self.fit.curve,
            "calibration": self.calibration,
            "doubt": self.doubt,
            "suspects": self.suspects.all(),
            "outliers": self.outliers,
            "duplicates": self.duplicates.pairs(),
            "learning_curve": self.curve,
            "advice": self.advice,
        })
    }

    /// Writes [`to_json`](Self::to_json) to a file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) naming the file.
    pub fn write_json(&self, path: impl AsRef<Path>) -> Result<()> {
        let text = format!("{:#}\n", self.to_json());
        atomic_file::write(path.as_ref(), |file| file.write_all(text.as_bytes()))
    }
}

/// A part of the data while it is studied.
struct Part {
    name: String,
    features: Features,
    fingerprints: Fingerprints,
}

impl Part {
    fn of<B: Backbone>(
        name: &str,
        model: &Classifier<B>,
        dataset: &Dataset,
        ranks: &Ranks,
    ) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            features: Features::of_together(model, dataset, ranks)?,
            fingerprints: Fingerprints::of_together(dataset, ranks)?,
        })
    }

    fn split(&self) -> Split<'_> {
        Split {
            name: &self.name,
            features: &self.features,
            fingerprints: &self.fingerprints,
        }
    }

    fn report(&self, fit: &LinearFit) -> Result<PartReport> {
        let features = &self.features;
        let accuracy = match self.name == TRAIN {
            true => None,
            false => {
                let rows = fit.probabilities(features)?;
                let both = rows.iter().zip(features.labels());
                let right = both
                    .filter(|(row, label)| predicted_class(row) == **label)
                    .count();
                Some(Interval::wilson(right as f64, features.len() as f64))
            }
        };
        Ok(PartReport {
            name: self.name.clone(),
            pictures: features.len(),
            counts: features
                .class_names()
                .iter()
                .cloned()
                .zip(features.counts())
                .collect(),
            unfit: self.fingerprints.unfit().to_vec(),
            accuracy,
        })
    }
}

/// What cross-validation says of the pictures to fit to.
#[derive(Default)]
struct Judged {
    validation: Option<CrossValidation>,
    estimate: Option<Estimate>,
    calibration: Option<Calibration>,
    suspects: Suspects,
    curve: Vec<CurvePoint>,
}

impl Judged {
    fn of(features: &Features, fit: &LinearFit, folds: usize, groups: &Groups) -> Result<Self> {
        let numbers = groups.numbers(features.paths());
        let is_possible = |k: &usize| folds::assign(features.labels(), &numbers, *k, 0).is_ok();
        let Some(k) = (2..=folds.max(2)).rev().find(is_possible) else {
            return Ok(Self::default());
        };
        let validation = CrossValidation::new(k, 1).groups(groups.clone());
        let estimate = validation.linear_head(features, &LinearHead::new())?;
        // The penalty of the whole serves what follows: choosing it again and again would change little.
        let head = LinearHead::new().c([fit.c]);
        let mut curve = Vec::new();
        for share in [0.25, 0.5, 1.0] {
            let is_kept = some_of_each(features, share);
            let point = validation.linear_head_on(features, &head, &is_kept)?;
            let kept = is_kept.iter().filter(|kept| **kept).count();
            curve.push(CurvePoint {
                pictures: kept * (k - 1) / k,
                accuracy: point.accuracy,
            });
        }
        Ok(Self {
            calibration: Some(Calibration::of_estimate(&estimate)?),
            suspects: Suspects::find(features, &head, &validation)?,
            estimate: Some(estimate),
            validation: Some(validation),
            curve,
        })
    }
}

/// Every so many-th picture of each class, in the order of the pictures.
fn some_of_each(features: &Features, share: f64) -> Vec<bool> {
    let mut seen = vec![0.0; features.class_names().len()];
    let keep = |label: &usize| {
        let before = f64::floor(seen[*label] * share);
        seen[*label] += 1.0;
        f64::floor(seen[*label] * share) > before
    };
    features.labels().iter().map(keep).collect()
}
