//! What a base makes of the pictures of a dataset: one vector each, computed once.

use std::path::PathBuf;

use candle_core::DType;

use super::predictions::loader;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};
use crate::words::count;
use crate::{finite, progress};

/// The features of a dataset's usable pictures, one vector of D numbers each, with labels and paths.
///
/// They are what a classifier's head reads: the means of the base's maps with
/// [`Pooling::GlobalAverage`](crate::model::Pooling::GlobalAverage), all of them with `Flatten`. Everything in
/// [`study`](crate::study) works on them, and none of it reads a picture again.
///
/// ```
/// use headstart::study::Features;
///
/// let rows = vec![0.0, 1.0, 2.0, 3.0];
/// let features = Features::from_rows(rows, 2, &[0, 1], &["cat", "dog"])?;
/// assert_eq!((features.len(), features.width()), (2, 2));
/// assert_eq!(features.row(1), [2.0, 3.0]);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Features {
    /// N rows of `width` numbers.
    rows: Vec<f32>,
    width: usize,
    labels: Vec<usize>,
    paths: Vec<PathBuf>,
    class_names: Vec<String>,
}

impl Features {
    /// Runs a dataset's pictures through a classifier's base, as the classifier would see them, with a progress bar.
    /// Pictures that cannot be used are left out or refused as the dataset's policy says.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a dataset whose classes are not the classifier's; [`Error::Dataset`] for one without a
    /// usable picture; [`Error::NotFinite`] for a base that makes NaN or infinity of a picture.
    pub fn of<B: Backbone>(model: &Classifier<B>, dataset: &Dataset) -> Result<Self> {
        if dataset.class_names() != model.class_names() {
            return Err(Error::mismatch(
                "the dataset to study",
                format!("classes {}", dataset.class_names().join(", ")),
                format!("the model's classes {}", model.class_names().join(", ")),
            ));
        }
        let width = model.head().width();
        let mut features = Self {
            rows: Vec::new(),
            width,
            labels: Vec::new(),
            paths: Vec::new(),
            class_names: model.class_names().to_vec(),
        };
        let bar = progress::bar(
            dataset.len() as u64,
            "{prefix} {bar:24} {pos}/{len} {eta} left",
        );
        bar.set_prefix("features");
        progress::line(&format!("features: {}", count(dataset.len(), "picture")));
        let mut items = dataset.items().iter();
        for batch in loader(model, dataset).epoch(0) {
            let batch = batch?;
            let vectors = model.vectors(&batch.inputs)?.to_dtype(DType::F32)?;
            let numbers: Vec<f32> = vectors.flatten_all()?.to_vec1()?;
            for (id, row) in batch.ids.iter().zip(numbers.chunks_exact(width)) {
                let Some(item) = items.by_ref().find(|item| item.id == *id) else {
                    break;
                };
                if let Some(value) = finite::first_not(row) {
                    let what = format!("the features of {}", item.path.display());
                    return Err(model.not_finite(what, value));
                }
                features.labels.push(item.label);
                features.paths.push(item.path.clone());
            }
            features.rows.extend(numbers);
            bar.inc(batch.ids.len() as u64);
        }
        bar.finish_and_clear();
        if features.is_empty() {
            return Err(Error::Dataset {
                path: dataset.root().to_owned(),
                source: "no picture can be used".into(),
            });
        }
        Ok(features)
    }

    /// Features from elsewhere: N rows of `width` numbers, one label each, which are called `row 0`, `row 1`, ….
    ///
    /// # Errors
    /// [`Error::Shape`] unless there are as many numbers as labels times `width`, and one label or more;
    /// [`Error::InvalidOption`] for a label without a class name; [`Error::NotFinite`] for NaN and infinity.
    pub fn from_rows<S: AsRef<str>>(
        rows: Vec<f32>,
        width: usize,
        labels: &[usize],
        class_names: &[S],
    ) -> Result<Self> {
        if labels.is_empty() || width == 0 || labels.len().checked_mul(width) != Some(rows.len()) {
            return Err(Error::Shape {
                what: "features".into(),
                expected: format!("({}, {width})", labels.len()),
                found: vec![rows.len()],
            });
        }
        if let Some(value) = finite::first_not(&rows) {
            let what = "the features".into();
            return Err(Error::NotFinite { what, value });
        }
        let classes = class_names.len();
        if let Some(label) = labels.iter().find(|label| **label >= classes) {
            return Err(Error::option("label", label, format!("below {classes}")));
        }
        let names = class_names.iter().map(|name| name.as_ref().to_owned());
        Ok(Self {
            rows,
            width,
            labels: labels.to_vec(),
            paths: (0..labels.len())
                .map(|n| PathBuf::from(format!("row {n}")))
                .collect(),
            class_names: names.collect(),
        })
    }

    /// The number N of pictures.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The length D of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The vector of a picture.
    ///
    /// # Panics
    /// For an index that is not below [`len`](Self::len).
    pub fn row(&self, index: usize) -> &[f32] {
        &self.rows[index * self.width..][..self.width]
    }

    /// All vectors, one after the other.
    pub(super) fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// The pictures' labels.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// The pictures' [paths](crate::data::Item::path).
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The class names: a label is an index into them.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The number of pictures of each class.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        for label in &self.labels {
            counts[*label] += 1;
        }
        counts
    }

    /// Some of the pictures, in the order of the indices.
    ///
    /// # Panics
    /// For an index that is not below [`len`](Self::len).
    pub fn select(&self, indices: &[usize]) -> Self {
        Self {
            rows: indices.iter().flat_map(|i| self.row(*i)).copied().collect(),
            width: self.width,
            labels: indices.iter().map(|i| self.labels[*i]).collect(),
            paths: indices.iter().map(|i| self.paths[*i].clone()).collect(),
            class_names: self.class_names.clone(),
        }
    }

    /// The same pictures with other labels.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a label without a class name, [`Error::Shape`] for another number of labels.
    pub fn with_labels(mut self, labels: &[usize]) -> Result<Self> {
        if labels.len() != self.len() {
            return Err(Error::Shape {
                what: "labels".into(),
                expected: format!("({})", self.len()),
                found: vec![labels.len()],
            });
        }
        let classes = self.class_names.len();
        if let Some(label) = labels.iter().find(|label| **label >= classes) {
            return Err(Error::option("label", label, format!("below {classes}")));
        }
        self.labels = labels.to_vec();
        Ok(self)
    }
}
