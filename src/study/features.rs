//! What a base makes of the pictures of a dataset: one vector each, computed once.

use std::path::PathBuf;

use candle_core::DType;

use super::predictions::{BATCH, loader};
use crate::data::{Batch, Dataset};
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};
use crate::train::{Ranks, in_turn};
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
        Self::of_together(model, dataset, &Ranks::alone())
    }

    /// The same on every rank, where each takes batches in turn.
    pub(super) fn of_together<B: Backbone>(
        model: &Classifier<B>,
        dataset: &Dataset,
        ranks: &Ranks,
    ) -> Result<Self> {
        let own = own(model, &ranks.own_batches(dataset, BATCH));
        let turns = share(own, model.head().width(), ranks)?;
        ranks.hear_of_skipped(dataset, 0)?;
        let mut features = Self {
            rows: Vec::new(),
            width: model.head().width(),
            labels: Vec::new(),
            paths: Vec::new(),
            class_names: model.class_names().to_vec(),
        };
        let mut items = dataset.items().iter();
        for Turn { ids, rows } in turns {
            for id in ids {
                let item = items.by_ref().find(|item| item.id == id);
                let (label, path) = item
                    .map(|item| (item.label, item.path.clone()))
                    .ok_or_else(|| {
                        let found = format!("the id {id}");
                        Error::mismatch("a picture", found, "one of the dataset, in its order")
                    })?;
                features.labels.push(label);
                features.paths.push(path);
            }
            features.rows.extend(rows);
        }
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

/// The usable pictures of a batch, and their rows.
struct Turn {
    ids: Vec<u64>,
    rows: Vec<f32>,
}

/// What the base makes of pictures, batch by batch.
fn own<B: Backbone>(model: &Classifier<B>, dataset: &Dataset) -> Result<Vec<Turn>> {
    if dataset.class_names() != model.class_names() {
        return Err(Error::mismatch(
            "the dataset to study",
            format!("classes {}", dataset.class_names().join(", ")),
            format!("the model's classes {}", model.class_names().join(", ")),
        ));
    }
    let bar = progress::bar(
        dataset.len() as u64,
        "{prefix} {bar:24} {pos}/{len} {eta} left",
    );
    bar.set_prefix("features");
    progress::line(&format!("features: {}", count(dataset.len(), "picture")));
    let (width, mut turns) = (model.head().width(), Vec::new());
    for batch in loader(model, dataset).shares(0) {
        let Some(Batch { inputs, ids, .. }) = batch? else {
            turns.push(Turn {
                ids: Vec::new(),
                rows: Vec::new(),
            });
            continue;
        };
        let vectors = model.vectors(&inputs)?.to_dtype(DType::F32)?;
        let rows: Vec<f32> = vectors.flatten_all()?.to_vec1()?;
        let wrong = |(id, row): (&u64, &[f32])| Some((*id, finite::first_not(row)?));
        if let Some((id, value)) = ids.iter().zip(rows.chunks_exact(width)).find_map(wrong) {
            let item = dataset.items().iter().find(|item| item.id == id);
            let path = item.map(|item| item.path.display().to_string());
            let what = format!("the features of {}", path.unwrap_or_default());
            return Err(model.not_finite(what, value));
        }
        bar.inc(ids.len() as u64);
        turns.push(Turn { ids, rows });
    }
    bar.finish_and_clear();
    Ok(turns)
}

/// What every rank made, in the order of the pictures.
fn share(own: Result<Vec<Turn>>, width: usize, ranks: &Ranks) -> Result<Vec<Turn>> {
    if ranks.is_alone() {
        return own;
    }
    let (ids, rows) = match own {
        Ok(turns) => {
            let (ids, rows): (Vec<_>, Vec<_>) =
                turns.into_iter().map(|turn| (turn.ids, turn.rows)).unzip();
            (Ok(ids), rows.concat())
        }
        Err(error) => (Err(error), Vec::new()),
    };
    let ids: Vec<Vec<Vec<u64>>> = ranks.gather(ids)?;
    // As text they would be three times as long.
    let bytes: Vec<u8> = rows
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let rows = ranks.gather_bytes(&bytes)?;
    for (rank, (ids, rows)) in ids.iter().zip(&rows).enumerate() {
        let pictures: usize = ids.iter().map(Vec::len).sum();
        if rows.len() != pictures * width * size_of::<f32>() {
            let reason = "its features are not as many as its pictures".into();
            let rank = Some(rank);
            return Err(Error::Rank { rank, reason });
        }
    }
    let parts = ids.into_iter().zip(rows).map(|(ids, rows)| {
        let (numbers, _) = rows.as_chunks();
        let mut numbers = numbers.iter().map(|number| f32::from_le_bytes(*number));
        let turn = |ids: Vec<u64>| {
            let rows = numbers.by_ref().take(ids.len() * width).collect();
            Turn { ids, rows }
        };
        ids.into_iter().map(turn).collect()
    });
    Ok(in_turn(parts))
}
