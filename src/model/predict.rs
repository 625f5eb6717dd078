//! Pictures in, class names out: one, some, or as many as come.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use image::{DynamicImage, RgbImage};
use rayon::prelude::*;

use super::backbone::Backbone;
use super::classifier::Classifier;
use crate::data::{self, Decoder, Item};
use crate::error::Result;

/// How many pictures are classified together.
const TOGETHER: usize = 32;

impl<B: Backbone> Classifier<B> {
    /// Classifies one picture: a path, encoded bytes, or a decoded image.
    ///
    /// A decoded image is taken as it lies. `image::open` drops what a file says of its orientation, so that a photograph
    /// taken upright may lie on its side: give the path or the bytes, or [`decode_file`](crate::data::decode_file)'s image.
    ///
    /// # Errors
    /// [`Error::Picture`](crate::Error::Picture) or [`Error::Io`](crate::Error::Io) for a picture that cannot be read, [`Error::NotFinite`](crate::Error::NotFinite) for a classifier that
    /// makes NaN or infinity of it.
    pub fn predict<'a>(&self, picture: impl Into<Picture<'a>>) -> Result<Prediction> {
        let mut predictions = self.predict_batch([picture])?;
        Ok(predictions.remove(0))
    }

    /// Classifies pictures: one prediction each, in order. 32 are decoded and classified together, so that the memory does
    /// not grow with their number.
    ///
    /// # Errors
    /// [`Error::Picture`](crate::Error::Picture) or [`Error::Io`](crate::Error::Io) for the first picture that cannot be read, [`Error::NotFinite`](crate::Error::NotFinite) for a
    /// classifier that makes NaN or infinity of one.
    pub fn predict_batch<'a, P: Into<Picture<'a>>>(
        &self,
        pictures: impl IntoIterator<Item = P>,
    ) -> Result<Vec<Prediction>> {
        self.predict_each(pictures).collect()
    }

    /// Classifies pictures as they come: one prediction, or one error, for each, in order. 32 are classified together
    /// while the next 32 are decoded, so that the memory does not grow with their number.
    ///
    /// # Errors
    /// Errors come as items, and those after them go on: [`Error::Picture`](crate::Error::Picture) or [`Error::Io`](crate::Error::Io) for a picture that cannot be
    /// read, [`Error::NotFinite`](crate::Error::NotFinite) for one of which the classifier makes NaN or infinity.
    ///
    /// ```no_run
    /// # let model = headstart::Classifier::load("model.safetensors", &headstart::Device::Cpu)?;
    /// let paths = std::fs::read_dir("pictures").unwrap().map(|entry| entry.unwrap().path());
    /// for (path, prediction) in paths.clone().zip(model.predict_each(paths)) {
    ///     match prediction {
    ///         Ok(prediction) => println!("{}: {prediction}", path.display()),
    ///         Err(error) => eprintln!("{error}"),
    ///     }
    /// }
    /// # Ok::<(), headstart::Error>(())
    /// ```
    pub fn predict_each<'a, P: Into<Picture<'a>>>(
        &self,
        pictures: impl IntoIterator<Item = P>,
    ) -> impl Iterator<Item = Result<Prediction>> {
        let (height, width) = self.size();
        let decoder = Decoder::new().resized(height as u32, width as u32, self.resize_filter());
        let mut sources = pictures.into_iter().map(Into::into);
        let mut next: Option<Vec<Result<RgbImage>>> = None;
        let mut ready = VecDeque::new();
        std::iter::from_fn(move || {
            if ready.is_empty() {
                let decoded = next
                    .take()
                    .unwrap_or_else(|| decode(sources.by_ref().take(TOGETHER).collect(), &decoder));
                let ahead: Vec<Picture<'a>> = sources.by_ref().take(TOGETHER).collect();
                rayon::in_place_scope(|scope| {
                    let (next, decoder) = (&mut next, &decoder);
                    if !ahead.is_empty() {
                        scope.spawn(move |_| *next = Some(decode(ahead, decoder)));
                    }
                    ready.extend(self.predict_decoded(decoded));
                });
            }
            ready.pop_front()
        })
    }

    /// Classifies what was decoded: one prediction, or one error, for each.
    fn predict_decoded(&self, decoded: Vec<Result<RgbImage>>) -> Vec<Result<Prediction>> {
        let images: Vec<&RgbImage> = decoded.iter().flatten().collect();
        let mut predictions = match self.predict_images(&images) {
            Ok(predictions) => predictions.into_iter().map(Ok).collect(),
            // Which of them it is shows one by one.
            Err(_) => images
                .iter()
                .map(|image| Ok(self.predict_images(&[image])?.remove(0)))
                .collect::<VecDeque<_>>(),
        };
        let one = |image: Result<RgbImage>| match image {
            Ok(_) => predictions.pop_front().expect("one for each image"),
            Err(error) => Err(error),
        };
        decoded.into_iter().map(one).collect()
    }

    fn predict_images(&self, images: &[&RgbImage]) -> Result<Vec<Prediction>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let device = self.base().device();
        self.predict_tensor(&data::to_batch(images, self.preprocess(), &device)?)
    }

    /// Classifies preprocessed images (N, 3, H, W) of this classifier's size: one prediction each.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for images of another shape, [`Error::NotFinite`](crate::Error::NotFinite) where an image, or what the classifier makes
    /// of it, has NaN or infinity.
    pub fn predict_tensor(&self, images: &Tensor) -> Result<Vec<Prediction>> {
        let probabilities = self.probabilities(images)?;
        Ok(probabilities
            .into_iter()
            .map(|row| Prediction::new(self.class_names(), &row))
            .collect())
    }
}

/// Decodes pictures, on all threads.
fn decode(pictures: Vec<Picture<'_>>, decoder: &Decoder) -> Vec<Result<RgbImage>> {
    let pictures = pictures.into_par_iter();
    pictures.map(|picture| picture.decode(decoder)).collect()
}

/// A picture to classify; made by `From` from a path, encoded bytes or a decoded image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Picture<'a> {
    /// A file.
    Path(PathBuf),
    /// An encoded file in memory.
    Bytes(&'a [u8]),
    /// A decoded picture.
    Image(Cow<'a, DynamicImage>),
    /// A picture of a dataset or an archive.
    Item(Item),
}

impl Picture<'_> {
    pub(crate) fn decode(self, decoder: &Decoder) -> Result<RgbImage> {
        match self {
            Self::Path(path) => decoder.decode_file(path),
            Self::Bytes(bytes) => decoder.decode_bytes(bytes),
            Self::Item(item) => item.decode_by(decoder),
            Self::Image(image) => {
                decoder.image(Path::new("<image>"), &data::to_rgb(image.into_owned()))
            }
        }
    }
}

impl From<&Path> for Picture<'_> {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<&PathBuf> for Picture<'_> {
    fn from(path: &PathBuf) -> Self {
        Self::Path(path.clone())
    }
}

impl From<PathBuf> for Picture<'_> {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&str> for Picture<'_> {
    /// A path.
    fn from(path: &str) -> Self {
        Self::Path(path.into())
    }
}

impl From<Item> for Picture<'_> {
    fn from(item: Item) -> Self {
        Self::Item(item)
    }
}

impl From<&Item> for Picture<'_> {
    fn from(item: &Item) -> Self {
        Self::Item(item.clone())
    }
}

impl<'a> From<&'a [u8]> for Picture<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Picture<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<DynamicImage> for Picture<'_> {
    fn from(image: DynamicImage) -> Self {
        Self::Image(Cow::Owned(image))
    }
}

impl<'a> From<&'a DynamicImage> for Picture<'a> {
    fn from(image: &'a DynamicImage) -> Self {
        Self::Image(Cow::Borrowed(image))
    }
}

/// The classes of a picture, the most probable first.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Prediction {
    /// Class names with their probabilities, in descending order; they sum to 1.
    pub ranked: Vec<(String, f32)>,
}

impl Prediction {
    fn new(class_names: &[String], probabilities: &[f32]) -> Self {
        let mut ranked: Vec<_> = class_names
            .iter()
            .cloned()
            .zip(probabilities.iter().copied())
            .collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        Self { ranked }
    }

    /// The most probable class.
    pub fn class(&self) -> &str {
        &self.ranked[0].0
    }

    /// The probability of a class; none for a name the classifier does not know.
    pub fn probability(&self, class: &str) -> Option<f32> {
        self.ranked
            .iter()
            .find(|(name, _)| name == class)
            .map(|(_, probability)| *probability)
    }
}

impl fmt::Display for Prediction {
    /// Such as `santa 97.3 %, not_santa 2.7 %`: the first ten classes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PRINTED: usize = 10;
        for (index, (name, probability)) in self.ranked.iter().take(PRINTED).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name} {:.1} %", 100.0 * probability)?;
        }
        match self.ranked.len().saturating_sub(PRINTED) {
            0 => Ok(()),
            more => write!(f, ", … and {more} classes more"),
        }
    }
}
