//! Pictures in, class names out: one, some, or as many as come.

use std::collections::VecDeque;

use candle_core::{DType, Tensor};
use image::RgbImage;
use rayon::prelude::*;

use super::backbone::{Backbone, Mode};
use super::classifier::Classifier;
use super::picture::Picture;
use super::prediction::Prediction;
use crate::data::{self, Decoder};
use crate::error::Result;
use crate::{finite, transfer};

/// How many pictures are classified together.
const TOGETHER: usize = 32;

impl<B: Backbone> Classifier<B> {
    /// Classifies one picture: a path, encoded bytes, or a decoded image.
    ///
    /// A decoded image is taken as it lies. `image::open` drops what a file says of its orientation, so that a
    /// photograph taken upright may lie on its side: give the path or the bytes, or
    /// [`decode_file`](crate::data::decode_file)'s image.
    ///
    /// # Errors
    /// [`Error::Picture`](crate::Error::Picture) or [`Error::Io`](crate::Error::Io) for a picture that cannot be read,
    /// [`Error::NotFinite`](crate::Error::NotFinite) for a classifier that makes NaN or infinity of it.
    pub fn predict<'a>(&self, picture: impl Into<Picture<'a>>) -> Result<Prediction> {
        let mut predictions = self.predict_batch([picture])?;
        Ok(predictions.remove(0))
    }

    /// Classifies pictures: one prediction each, in order. 32 are decoded and classified together, so that the memory
    /// does not grow with their number.
    ///
    /// # Errors
    /// [`Error::Picture`](crate::Error::Picture) or [`Error::Io`](crate::Error::Io) for the first picture that cannot
    /// be read, [`Error::NotFinite`](crate::Error::NotFinite) for a classifier that makes NaN or infinity of one.
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
    /// Errors come as items, and those after them go on: [`Error::Picture`](crate::Error::Picture) or
    /// [`Error::Io`](crate::Error::Io) for a picture that cannot be read, [`Error::NotFinite`](crate::Error::NotFinite)
    /// for one of which the classifier makes NaN or infinity.
    ///
    /// ```no_run
    /// # let model = headstart::Classifier::load("model.safetensors", &headstart::Device::Cpu)?;
    /// let paths = ["one.jpg", "two.jpg"];
    /// for (path, prediction) in paths.iter().zip(model.predict_each(paths)) {
    ///     match prediction {
    ///         Ok(prediction) => println!("{path}: {prediction}"),
    ///         Err(error) => eprintln!("{error}"),
    ///     }
    /// }
    /// # Ok::<(), headstart::Error>(())
    /// ```
    pub fn predict_each<'a, P: Into<Picture<'a>>>(
        &self,
        pictures: impl IntoIterator<Item = P>,
    ) -> impl Iterator<Item = Result<Prediction>> {
        let decoder = self.decoder();
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
        self.predict_tensor(&self.batch(images)?)
    }

    /// Classifies preprocessed images (N, 3, H, W) of this classifier's size: one prediction each.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for images of another shape, [`Error::NotFinite`](crate::Error::NotFinite)
    /// where an image, or what the classifier makes of it, has NaN or infinity.
    pub fn predict_tensor(&self, images: &Tensor) -> Result<Vec<Prediction>> {
        let features = self.features_from(0, images, Mode::Infer)?;
        let logits = self.head.forward(&features, Mode::Infer, None)?;
        let probabilities = self.head.probabilities(&logits)?;
        let numbers = transfer::read(&[&logits, &probabilities])?;
        if let Some(value) = finite::first_not(&numbers[0]) {
            return Err(self.not_finite("the logits".to_owned(), value));
        }
        let familiarities = match &self.familiarity {
            None => vec![None; logits.dims()[0]],
            Some(familiarity) => {
                let vectors: Vec<Vec<f32>> = to_rows(&self.head.vectors(&features)?)?;
                let logits = transfer::rows(&numbers[0], logits.dim(1)?);
                let both = vectors.iter().zip(&logits);
                both.map(|(vector, logits)| Some(familiarity.score(vector, logits)))
                    .collect()
            }
        };
        let probabilities = transfer::rows(&numbers[1], probabilities.dim(1)?);
        let both = probabilities.iter().zip(familiarities);
        Ok(both
            .map(|(row, score)| Prediction::new(&self.class_names, row, score))
            .collect())
    }

    /// The class of a picture, or `otherwise` for one unlike those the classifier was trained on, as far as it was
    /// [taught](crate::study::Doubt) to doubt.
    ///
    /// # Errors
    /// As [`predict`](Self::predict).
    pub fn predict_or<'a>(
        &self,
        picture: impl Into<Picture<'a>>,
        otherwise: &str,
    ) -> Result<String> {
        Ok(self.predict(picture)?.class_or(otherwise).to_owned())
    }

    /// The vector that the head reads of a picture: its features, or their means, as the head's pooling says. Alike
    /// pictures have vectors of alike directions: see [`Gallery`](crate::study::Gallery).
    ///
    /// # Errors
    /// As [`predict`](Self::predict).
    pub fn embed<'a>(&self, picture: impl Into<Picture<'a>>) -> Result<Vec<f32>> {
        let mut vectors = self.embed_batch([picture])?;
        Ok(vectors.remove(0))
    }

    /// The vectors of pictures, in order, with the memory of 32 pictures at a time: see [`embed`](Self::embed).
    ///
    /// # Errors
    /// As [`predict_batch`](Self::predict_batch).
    pub fn embed_batch<'a, P: Into<Picture<'a>>>(
        &self,
        pictures: impl IntoIterator<Item = P>,
    ) -> Result<Vec<Vec<f32>>> {
        let decoder = self.decoder();
        let mut sources = pictures.into_iter().map(Into::into);
        let mut all = Vec::new();
        loop {
            let some: Vec<Picture<'a>> = sources.by_ref().take(TOGETHER).collect();
            if some.is_empty() {
                return Ok(all);
            }
            let images = decode(some, &decoder).into_iter();
            let images = images.collect::<Result<Vec<RgbImage>>>()?;
            let images: Vec<&RgbImage> = images.iter().collect();
            let vectors = self.vectors(&self.batch(&images)?)?.to_dtype(DType::F32)?;
            if let Some(value) = finite::first_not_in(&vectors)? {
                return Err(self.not_finite("the features".to_owned(), value));
            }
            all.extend(vectors.to_vec2::<f32>()?);
        }
    }

    fn decoder(&self) -> Decoder {
        let (height, width) = self.size();
        Decoder::new().resized(height as u32, width as u32, self.resize_filter())
    }

    fn batch(&self, images: &[&RgbImage]) -> Result<Tensor> {
        data::to_batch(images, self.preprocess(), &self.base().device())
    }
}

/// Each row as f32.
fn to_rows(tensor: &Tensor) -> Result<Vec<Vec<f32>>> {
    Ok(tensor.to_dtype(DType::F32)?.to_vec2()?)
}

/// Decodes pictures, on all threads.
fn decode(pictures: Vec<Picture<'_>>, decoder: &Decoder) -> Vec<Result<RgbImage>> {
    let pictures = pictures.into_par_iter();
    pictures.map(|picture| picture.decode(decoder)).collect()
}
