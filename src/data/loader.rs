//! Picture files → batches.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};
use image::RgbImage;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::augment::{Augmenter, grey_levels};
use super::decode::{self, Resize};
use super::directory::{DirectoryDataset, Item};
use crate::random::{self, Purpose};
use crate::{Error, Preprocess, Result};

/// How many bytes of decoded pictures a loader keeps, unless told: 40,000 pictures of 64×64.
const DEFAULT_CACHE: usize = 512 << 20;

/// Pictures ready for a model, with their labels.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Preprocessed images (N, 3, H, W), f32.
    pub images: Tensor,
    /// The label of each image.
    pub labels: Vec<u32>,
    /// The id of each image's [`Item`].
    pub ids: Vec<u64>,
}

/// Turns a dataset into batches, epoch after epoch.
///
/// Pictures are decoded, resized, augmented and preprocessed on rayon's threads; what comes out does not
/// depend on how many there are. The last batch may be short. A picture that cannot be used is dealt with as
/// the dataset's policy says: a batch is shorter for it.
///
/// ```
/// use headstart::{DirectoryDataset, Loader};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let pictures = folder.path();
/// # for class in ["cat", "dog"] {
/// #     std::fs::create_dir(pictures.join(class)).unwrap();
/// #     for index in 0..5 {
/// #         image::RgbImage::new(8, 8).save(pictures.join(format!("{class}/{index}.png"))).unwrap();
/// #     }
/// # }
/// let dataset = DirectoryDataset::open(pictures)?;
/// let loader = Loader::new(&dataset, 64, 64).batch_size(4).shuffle(1);
/// let sizes: Vec<usize> = loader.epoch(1).map(|batch| Ok(batch?.labels.len())).collect::<Result<_, headstart::Error>>()?;
/// assert_eq!(sizes, [4, 4, 2]);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loader {
    dataset: DirectoryDataset,
    height: usize,
    width: usize,
    batch_size: usize,
    resize: Resize,
    preprocess: Preprocess,
    device: Device,
    shuffle: Option<u64>,
    augment: Option<(Augmenter, u64)>,
    cache: Arc<Cache>,
}

impl Loader {
    /// A loader of a dataset's pictures at (height, width) pixels, in the dataset's order.
    pub fn new(dataset: &DirectoryDataset, height: usize, width: usize) -> Self {
        Self {
            dataset: dataset.clone(),
            height,
            width,
            batch_size: 32,
            resize: Resize::default(),
            preprocess: Preprocess::default(),
            device: Device::Cpu,
            shuffle: None,
            augment: None,
            cache: Arc::new(Cache::new(dataset.len(), DEFAULT_CACHE)),
        }
    }

    /// Sets how many pictures make a batch, 1 or more; the default is 32.
    pub fn batch_size(mut self, pictures: usize) -> Self {
        self.batch_size = pictures.max(1);
        self
    }

    /// Sets the resize filter; the default is [`Resize::Bilinear`].
    pub fn resize(mut self, filter: Resize) -> Self {
        self.resize = filter;
        self
    }

    /// Sets what pixels are turned into; the default is [`Preprocess::Unit`].
    pub fn preprocess(mut self, preprocess: Preprocess) -> Self {
        self.preprocess = preprocess;
        self
    }

    /// Sets where the images go; the default is the CPU.
    pub fn device(mut self, device: &Device) -> Self {
        self.device = device.clone();
        self
    }

    /// Gives every epoch an order of its own, fixed by the seed and the epoch; the default is the dataset's
    /// order.
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.shuffle = Some(seed);
        self
    }

    /// Augments each picture, fixed by the seed, the epoch and the picture; the default is not to.
    pub fn augment(mut self, augmenter: Augmenter, seed: u64) -> Self {
        self.augment = Some((augmenter, seed));
        self
    }

    /// Sets how many bytes of decoded pictures, at their input size, are kept in memory to spare the next
    /// epoch decoding; the default is 512 MiB. Pictures beyond it are decoded each time.
    pub fn cache(mut self, bytes: usize) -> Self {
        self.cache = Arc::new(Cache::new(self.dataset.len(), bytes));
        self
    }

    /// How many batches an epoch has, when every picture can be used.
    pub fn batches(&self) -> usize {
        self.dataset.len().div_ceil(self.batch_size)
    }

    /// The batches of one epoch.
    ///
    /// Items are errors where the dataset's policy is to fail, or an augmentation option is out of range.
    pub fn epoch(&self, epoch: u64) -> impl Iterator<Item = Result<Batch>> + '_ {
        let mut order: Vec<usize> = (0..self.dataset.len()).collect();
        if let Some(seed) = self.shuffle {
            order.shuffle(&mut random::stream(seed, Purpose::Shuffle, epoch, 0));
        }
        let refusal = self.refusal().map(Err);
        let starts = (0..order.len()).step_by(self.batch_size);
        let batches = starts.filter_map(move |start| {
            let end = order.len().min(start + self.batch_size);
            self.batch(&order[start..end], epoch).transpose()
        });
        let stop = refusal.is_some();
        refusal.into_iter().chain(batches.take_while(move |_| !stop))
    }

    /// What makes loading pointless.
    fn refusal(&self) -> Option<Error> {
        let augmenter = self.augment.as_ref();
        augmenter
            .and_then(|(augmenter, _)| augmenter.check().err())
            .or_else(|| self.dataset.first_failure())
    }

    /// The pictures at these positions; none if none of them can be used.
    fn batch(&self, positions: &[usize], epoch: u64) -> Result<Option<Batch>> {
        let loaded: Vec<Option<Vec<f32>>> = positions
            .par_iter()
            .map(|position| self.picture(*position, epoch))
            .collect::<Result<_>>()?;
        let mut pixels = Vec::with_capacity(positions.len() * 3 * self.height * self.width);
        let (mut labels, mut ids) = (Vec::new(), Vec::new());
        for (position, planes) in positions.iter().zip(loaded) {
            if let Some(planes) = planes {
                let item = &self.dataset.items()[*position];
                pixels.extend(planes);
                labels.push(item.label as u32);
                ids.push(item.id);
            }
        }
        if labels.is_empty() {
            return Ok(None);
        }
        let shape = (labels.len(), 3, self.height, self.width);
        Ok(Some(Batch {
            images: Tensor::from_vec(pixels, shape, &self.device)?,
            labels,
            ids,
        }))
    }

    /// One picture's preprocessed planes; none if it cannot be used.
    fn picture(&self, position: usize, epoch: u64) -> Result<Option<Vec<f32>>> {
        let item = &self.dataset.items()[position];
        let decoded = match self.cache.get(position) {
            Some(picture) => std::borrow::Cow::Borrowed(picture),
            None => match self.decode(item)? {
                Some(picture) => self.cache.keep(position, picture),
                None => return Ok(None),
            },
        };
        let Some((augmenter, seed)) = &self.augment else {
            return Ok(Some(decode::planes(decoded.as_raw(), self.preprocess)));
        };
        let mut rng = random::stream(*seed, Purpose::Augment, epoch, item.id);
        let parameters = augmenter.sample(self.height, self.width, &mut rng);
        let augmented = augmenter.apply(&grey_levels(&decoded), &parameters);
        Ok(Some(decode::planes(augmented.as_raw(), self.preprocess)))
    }

    fn decode(&self, item: &Item) -> Result<Option<RgbImage>> {
        if self.dataset.known_problem(&item.path).is_some() {
            return Ok(None);
        }
        match decode::decode_file(&item.path) {
            Ok(picture) => {
                let picture = decode::resize(&picture, self.height, self.width, self.resize);
                Ok(Some(picture))
            }
            Err(error) => self.dataset.report(&item.path, error).map(|()| None),
        }
    }
}

/// Pictures of one size → preprocessed images (N, 3, H, W).
pub(crate) fn to_batch(pictures: &[RgbImage], preprocess: Preprocess, device: &Device) -> Result<Tensor> {
    let (width, height) = pictures[0].dimensions();
    let pixels: Vec<f32> = pictures
        .iter()
        .flat_map(|picture| decode::planes(picture.as_raw(), preprocess))
        .collect();
    let shape = (pictures.len(), 3, height as usize, width as usize);
    Ok(Tensor::from_vec(pixels, shape, device)?)
}

/// Decoded pictures by position, up to a number of bytes.
#[derive(Debug)]
struct Cache {
    slots: Vec<OnceLock<RgbImage>>,
    left: AtomicUsize,
}

impl Cache {
    fn new(pictures: usize, bytes: usize) -> Self {
        Self {
            slots: (0..pictures).map(|_| OnceLock::new()).collect(),
            left: AtomicUsize::new(bytes),
        }
    }

    fn get(&self, position: usize) -> Option<&RgbImage> {
        self.slots[position].get()
    }

    /// Keeps a picture if there is room, and hands it back either way.
    fn keep(&self, position: usize, picture: RgbImage) -> std::borrow::Cow<'_, RgbImage> {
        let bytes = picture.as_raw().len();
        let room = self
            .left
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        match room {
            Ok(_) => std::borrow::Cow::Borrowed(self.slots[position].get_or_init(|| picture)),
            Err(_) => std::borrow::Cow::Owned(picture),
        }
    }
}
