//! Teaching a classifier which pictures are unlike those it was trained on.

use std::fmt;

use candle_core::{DType, Device, Tensor};

use super::design::Scaling;
use super::estimate::CrossValidation;
use super::features::Features;
use super::linear_head::LinearHead;
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier, Familiarity, Mode};

/// What a classifier was taught to call familiar; its file keeps it, and training forgets it.
///
/// A picture is familiar if its energy, over the squared length of its standardised features, reaches a threshold that a
/// stated share of held-out pictures reaches. Of ten known classes of Tiny ImageNet against ten others, with Lite0 at 160
/// pixels and 60 pictures a class, the area under the ROC curve was 0.892 (mean of ten draws of classes); that of the
/// energy alone was 0.877, and those of the largest probability, of nearest neighbours, of Mahalanobis distances and of
/// relative ones were lower still.
///
/// ```no_run
/// # use headstart::{Classifier, Dataset};
/// use headstart::study::{Doubt, Features};
/// # fn taught(mut model: Classifier, train: &Dataset, validation: &Dataset) -> headstart::Result<()> {
///
/// let [train, held_out] = [train, validation].map(|part| Features::of(&model, part));
/// Doubt::teach(&mut model, &train?, &held_out?, 0.95)?;
/// let prediction = model.predict("wall.jpg")?;
/// println!("{prediction}"); // unlike anything it was trained on: …
/// println!("{}", model.predict_or("wall.jpg", "something else")?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Doubt {
    /// The share of held-out pictures that is familiar.
    pub share: f64,
    /// How many pictures were held out.
    pub pictures: usize,
}

impl Doubt {
    /// Teaches a classifier by features of the pictures it was trained on, and of others of the same kind, `share` of which,
    /// such as 0.95, are to be familiar. Calibrate first: the logits count.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a share that is not above 0 and below 1; [`Error::Shape`] for features that are not of
    /// this classifier; [`Error::Mismatch`] for held-out pictures none of which says anything.
    pub fn teach<B: Backbone>(
        model: &mut Classifier<B>,
        train: &Features,
        held_out: &Features,
        share: f64,
    ) -> Result<Self> {
        check(model, train)?;
        check(model, held_out)?;
        let familiarity = familiarity(train, 1.0)?;
        let shape = (held_out.len(), held_out.width());
        let vectors = Tensor::from_slice(held_out.rows(), shape, &model.base().device())?;
        let logits = model.head().forward_vectors(vectors, Mode::Infer, None)?;
        let logits: Vec<Vec<f32>> = logits
            .to_dtype(DType::F32)?
            .to_device(&Device::Cpu)?
            .to_vec2()?;
        let rows = logits.iter().enumerate();
        let scores = rows.map(|(i, logits)| familiarity.score(held_out.row(i), logits));
        Self::set(model, train, scores.collect(), share)
    }

    /// Teaches a classifier whose linear head was fitted to all of these pictures, by what heads that were fitted to parts
    /// of them say of the others; `temperature` is what its logits were divided by.
    pub(super) fn teach_by_folds<B: Backbone>(
        model: &mut Classifier<B>,
        features: &Features,
        (head, validation, temperature): (&LinearHead, &CrossValidation, f64),
        share: f64,
    ) -> Result<Self> {
        let mut scores = Vec::with_capacity(features.len());
        validation.each_part(features.paths(), features.labels(), |train, held_out| {
            let (train, held_out) = (features.select(train), features.select(held_out));
            let familiarity = familiarity(&train, 1.0)?;
            let logits = head.solve(&train)?.scores(&held_out)?;
            for (i, logits) in logits.into_iter().enumerate() {
                let logits: Vec<f32> = logits.iter().map(|z| (z / temperature) as f32).collect();
                scores.push(familiarity.score(held_out.row(i), &logits));
            }
            Ok(())
        })?;
        Self::set(model, features, scores, share)
    }

    fn set<B: Backbone>(
        model: &mut Classifier<B>,
        train: &Features,
        mut scores: Vec<f32>,
        share: f64,
    ) -> Result<Self> {
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::option("share", share, "above 0 and below 1"));
        }
        scores.sort_by(f32::total_cmp);
        let refused = ((1.0 - share) * scores.len() as f64).floor() as usize;
        let threshold = scores.get(refused).copied().unwrap_or(0.0);
        if threshold <= 0.0 {
            let found = "a classifier whose logits are equal";
            return Err(Error::mismatch(
                "what is familiar",
                found,
                "one that tells pictures apart",
            ));
        }
        model.set_familiarity(Some(familiarity(train, threshold)?));
        let pictures = scores.len();
        Ok(Self { share, pictures })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (share, pictures) = (100.0 * self.share, self.pictures);
        write!(
            f,
            "familiar are pictures like {share:.0} % of {pictures} that were held out"
        )
    }
}

fn check<B: Backbone>(model: &Classifier<B>, features: &Features) -> Result<()> {
    if features.width() == model.head().width() {
        return Ok(());
    }
    Err(Error::Shape {
        what: "features".into(),
        expected: format!("(N, {})", model.head().width()),
        found: vec![features.len(), features.width()],
    })
}

fn familiarity(train: &Features, threshold: f32) -> Result<Familiarity> {
    let scaling = Scaling::of(train);
    let narrow = |numbers: &[f64]| numbers.iter().map(|x| *x as f32).collect();
    let scales = scaling.inverse_deviations();
    Familiarity::new(narrow(&scaling.means), narrow(&scales), threshold)
}
