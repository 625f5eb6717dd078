//! Labelled pictures, in class folders or a tar of them, read a batch at a time.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

use candle_core::{Device, Tensor};
use headstart::data::resize;
use headstart::{Augmenter, DirectoryDataset, Preprocess, Resize};
use image::{Rgb32FImage, RgbImage};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::Result;

/// Batches that are ready before they are asked for.
const AHEAD: usize = 4;

/// A dataset whose batches say which pictures were mirrored, as the loader's do not.
#[derive(Clone)]
pub(crate) struct Pictures(DirectoryDataset);

/// Some pictures, preprocessed.
pub(crate) struct Batch {
    values: Vec<f32>,
    size: usize,
    pub(crate) labels: Vec<u32>,
    /// Their places in the dataset.
    pub(crate) places: Vec<u32>,
    /// Which are mirrored.
    pub(crate) mirrored: Vec<bool>,
}

impl Batch {
    /// (N, 3, H, W)
    pub(crate) fn tensor(&self, device: &Device) -> Result<Tensor> {
        let shape = (self.labels.len(), 3, self.size, self.size);
        Ok(Tensor::from_slice(&self.values, shape, device)?)
    }
}

impl Pictures {
    /// Opens a folder of class folders, or a tar of them.
    pub(crate) fn open(path: &Path, classes: Option<&[String]>) -> Result<Self> {
        let dataset = match (path.is_dir(), classes) {
            (true, None) => DirectoryDataset::open(path)?,
            (true, Some(classes)) => DirectoryDataset::open_with_classes(path, classes)?,
            (false, None) => DirectoryDataset::open_tar(&[path])?,
            (false, Some(classes)) => DirectoryDataset::open_tar_with_classes(&[path], classes)?,
        };
        Ok(Self(dataset))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Sorted names.
    pub(crate) fn classes(&self) -> &[String] {
        self.0.class_names()
    }

    /// Batches in a fresh order, each picture augmented afresh: both fixed by seed and epoch.
    pub(crate) fn augmented(
        &self,
        size: usize,
        batch_size: usize,
        seed: u64,
        epoch: u64,
    ) -> Batches {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ (epoch << 32));
        order.shuffle(&mut rng);
        let augmenter = Augmenter::new()
            .rotation(12.0)
            .shift(0.1, 0.1)
            .zoom_range(0.75..=1.1)
            .horizontal_flip(true)
            .brightness(0.7..=1.3)
            .channel_shift(20.0);
        let reader = Reader {
            pictures: self.clone(),
            size,
            preprocess: Preprocess::Torch,
            augment: Some((augmenter, rng)),
        };
        reader.batches(order, batch_size)
    }

    /// Batches in the dataset's order, as they are.
    pub(crate) fn plain(&self, size: usize, batch_size: usize) -> Batches {
        self.range(0..self.len() as u32, size, Preprocess::Torch, batch_size)
    }

    /// Some of them.
    pub(crate) fn range(
        &self,
        places: std::ops::Range<u32>,
        size: usize,
        preprocess: Preprocess,
        batch_size: usize,
    ) -> Batches {
        let reader = Reader {
            pictures: self.clone(),
            size,
            preprocess,
            augment: None,
        };
        reader.batches(places.collect(), batch_size)
    }
}

/// Reads on a thread of its own, some batches ahead.
struct Reader {
    pictures: Pictures,
    size: usize,
    preprocess: Preprocess,
    augment: Option<(Augmenter, ChaCha8Rng)>,
}

/// What a reader has ready.
pub(crate) struct Batches(Receiver<std::result::Result<Batch, String>>);

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.recv().ok().map(|batch| batch.map_err(Into::into))
    }
}

impl Reader {
    fn batches(mut self, order: Vec<u32>, batch_size: usize) -> Batches {
        let (sender, receiver) = sync_channel(AHEAD);
        std::thread::spawn(move || {
            for places in order.chunks(batch_size) {
                let batch = self.batch(places).map_err(|error| error.to_string());
                // An error to send means that nobody listens any more.
                if sender.send(batch).is_err() {
                    return;
                }
            }
        });
        Batches(receiver)
    }

    fn batch(&mut self, places: &[u32]) -> Result<Batch> {
        let plane = self.size * self.size;
        let mut batch = Batch {
            values: vec![0.0; places.len() * 3 * plane],
            size: self.size,
            labels: Vec::new(),
            places: places.to_vec(),
            mirrored: Vec::new(),
        };
        for (place, planes) in places.iter().zip(batch.values.chunks_exact_mut(3 * plane)) {
            let item = &self.pictures.0.items()[*place as usize];
            let side = self.size as u32;
            let mut levels = levels(&resize(&item.decode()?, side, side, Resize::Bilinear));
            let mut mirrored = false;
            if let Some((augmenter, rng)) = &mut self.augment {
                let params = augmenter.sample(self.size, self.size, rng);
                mirrored = params.flip_horizontal;
                levels = augmenter.apply(&levels, &params);
            }
            for (index, pixel) in levels.pixels().enumerate() {
                let mut rgb = pixel.0;
                self.preprocess.apply_pixel(&mut rgb);
                for (c, value) in rgb.into_iter().enumerate() {
                    planes[c * plane + index] = value;
                }
            }
            batch.labels.push(item.label as u32);
            batch.mirrored.push(mirrored);
        }
        Ok(batch)
    }
}

fn levels(picture: &RgbImage) -> Rgb32FImage {
    Rgb32FImage::from_fn(picture.width(), picture.height(), |x, y| {
        image::Rgb(picture.get_pixel(x, y).0.map(f32::from))
    })
}
