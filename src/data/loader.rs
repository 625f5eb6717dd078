//! A dataset → batches, epoch by epoch.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};
use image::RgbImage;
use rand::seq::SliceRandom;

use super::augment::{Augmenter, grey_levels};
use super::batch::{Batch, write_planes};
use super::dataset::Dataset;
use super::prefetch::Prefetch;
use super::preprocess::Preprocess;
use super::resize::Resize;
use crate::error::Result;
use crate::random::{Purpose, stream};
use crate::words::count;
use crate::{bounds, progress};

/// The memory in bytes for pictures that are kept, unless it is told otherwise.
const CACHE: usize = 128 << 20;

/// One picture of a batch: three planes.
struct Example {
    pixels: Vec<f32>,
    label: u32,
    id: u64,
}

/// Turns a dataset into batches: decodes, resizes, augments and preprocesses ahead of the consumer.
///
/// Threads of the loader's own, one fewer than rayon has but at least one, work up to two batches ahead; a
/// consumer that has to wait for a batch helps to make it. A batch depends on the options and the epoch, never on
/// the number of threads. Each usable picture comes exactly once an epoch; one that cannot be used makes its batch
/// shorter.
///
/// ```
/// use headstart::Dataset;
/// use headstart::data::Loader;
///
/// # let root = tempfile::tempdir().unwrap();
/// # for class in ["not_santa", "santa"] {
/// #     std::fs::create_dir(root.path().join(class)).unwrap();
/// #     for name in ["1.png", "2.png"] {
/// #         image::RgbImage::new(40, 30).save(root.path().join(class).join(name)).unwrap();
/// #     }
/// # }
/// let dataset = Dataset::open(root.path())?; // 2 classes of 2 pictures
/// let loader = Loader::new(&dataset, 150, 150).batch_size(3).shuffle(1);
/// for epoch in 0..2 {
///     for batch in loader.epoch(epoch) {
///         let batch = batch?;
///         assert_eq!(batch.inputs.dims(), [batch.labels.len(), 3, 150, 150]);
///     }
/// }
/// assert_eq!(loader.batches(), 2);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Loader {
    dataset: Dataset,
    height: usize,
    width: usize,
    batch_size: usize,
    resize: Resize,
    preprocess: Preprocess,
    device: Device,
    shuffle: Option<u64>,
    augment: Option<(Augmenter, u64)>,
    /// Which part of every batch is made here, and of how many.
    share: (usize, usize),
    /// Decoded and resized pictures, by index into the dataset's items: as many slots as the budget allows.
    cache: Arc<[OnceLock<Arc<RgbImage>>]>,
}

impl Loader {
    /// A loader of `height` × `width` pictures: batches of 32 on the CPU, in the dataset's order, resized by
    /// [`Resize::Bilinear`] and preprocessed by [`Preprocess::Unit`].
    pub fn new(dataset: &Dataset, height: usize, width: usize) -> Self {
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
            share: (0, 1),
            cache: Arc::default(),
        }
        .cache(CACHE)
    }

    /// The pictures per batch, 1 or more; the last batch of an epoch may be shorter. Default: 32.
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// How pictures are brought to size. Default: [`Resize::Bilinear`].
    pub fn resize(mut self, resize: Resize) -> Self {
        self.resize = resize;
        self.cache = slots(self.cache.len());
        self
    }

    /// What pixels must look like for the model. Default: [`Preprocess::Unit`].
    pub fn preprocess(mut self, preprocess: Preprocess) -> Self {
        self.preprocess = preprocess;
        self
    }

    /// Where batches go. Default: the CPU.
    pub fn device(mut self, device: &Device) -> Self {
        self.device = device.clone();
        self
    }

    /// Puts the pictures in a fresh order each epoch, fixed by (`seed`, epoch). Default: the dataset's order.
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.shuffle = Some(seed);
        self
    }

    /// Changes each picture at random, fixed by (`seed`, epoch, [id](super::Item::id)). Default: pictures stay as
    /// they are.
    pub fn augment(mut self, augmenter: Augmenter, seed: u64) -> Self {
        self.augment = Some((augmenter, seed));
        self
    }

    /// The memory in bytes for pictures kept from one epoch to the next, decoded and resized; 0 keeps none.
    /// Default: 128 MiB, or 1,988 pictures of 150 × 150 and 10,922 of 64 × 64.
    ///
    /// The dataset's first pictures are kept, as many as fit; the others are read and decoded anew each epoch, so
    /// that a dataset of any length takes no more memory than its index and this. Clones of a loader share what is
    /// kept.
    pub fn cache(mut self, bytes: usize) -> Self {
        let picture = self.height.saturating_mul(self.width).saturating_mul(3);
        let kept = bytes / picture.max(1);
        self.cache = slots(kept.min(self.dataset.len()));
        self
    }

    /// The number of batches in an epoch. An epoch has fewer when all pictures of a batch cannot be used.
    pub fn batches(&self) -> usize {
        self.dataset.len().div_ceil(self.batch_size.max(1))
    }

    /// The batches of one epoch. Work on them begins at once, and ends when the iterator is dropped.
    ///
    /// # Errors
    /// Errors come as items. [`Error::InvalidOption`](crate::Error::InvalidOption) for a batch size over 65,536, a side
    /// over 8,192, any of them 0, more than 4096 × 4096 pixels or 2³² numbers in a batch, or an augmenter's option out
    /// of its range; under [`Policy::Fail`](super::Policy::Fail), [`Error::Picture`](crate::Error::Picture) or
    /// [`Error::Io`](crate::Error::Io) for a picture that cannot be used.
    pub fn epoch(&self, epoch: u64) -> impl Iterator<Item = Result<Batch>> + use<> {
        self.shares(epoch).filter_map(Result::transpose)
    }

    fn check(&self) -> Result<()> {
        bounds::within("batch_size", self.batch_size, 1..=bounds::BATCH)?;
        if let Some((augmenter, _)) = &self.augment {
            augmenter.check()?;
        }
        for (option, side) in [("height", self.height), ("width", self.width)] {
            bounds::within(option, side, 1..=bounds::SIDE)?;
        }
        bounds::input_size(self.height, self.width)?;
        let factors = [self.batch_size, 3, self.height, self.width];
        bounds::product(
            "batch_size",
            &factors,
            bounds::BATCH_NUMBERS,
            "numbers in a batch",
        )?;
        Ok(())
    }

    /// Indices into the dataset's items, in the order of this epoch.
    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.dataset.len()).collect();
        if let Some(seed) = self.shuffle {
            order.shuffle(&mut stream(seed, Purpose::Shuffle, epoch, 0));
        }
        order
    }

    /// The batch of these pictures; `None` when none of them can be used.
    fn batch(
        &self,
        examples: impl Iterator<Item = Result<Option<Example>>>,
    ) -> Result<Option<Batch>> {
        // All are taken before an error is returned, so that the next batch begins where it should.
        let examples: Vec<_> = examples.collect();
        let mut pixels = Vec::with_capacity(examples.len() * 3 * self.height * self.width);
        let (mut labels, mut ids) = (Vec::new(), Vec::new());
        for example in examples {
            if let Some(example) = example? {
                pixels.extend(example.pixels);
                labels.push(example.label);
                ids.push(example.id);
            }
        }
        if ids.is_empty() {
            return Ok(None);
        }
        let shape = (ids.len(), 3, self.height, self.width);
        Ok(Some(Batch {
            inputs: Tensor::from_vec(pixels, shape, &self.device)?,
            first_block: 0,
            labels,
            ids,
        }))
    }

    /// A picture as a model takes it; `None` when it is skipped.
    fn example(&self, index: usize, epoch: u64) -> Result<Option<Example>> {
        let Some(picture) = self.picture(index)? else {
            return Ok(None);
        };
        let item = &self.dataset.items()[index];
        let mut pixels = vec![0.0; 3 * self.height * self.width];
        match &self.augment {
            None => write_planes(&picture, self.preprocess, &mut pixels),
            Some((augmenter, seed)) => {
                let mut rng = stream(*seed, Purpose::Augment, epoch, item.id);
                let params = augmenter.sample(self.height, self.width, &mut rng);
                let augmented = augmenter.apply(&grey_levels(&picture), &params);
                write_planes(&augmented, self.preprocess, &mut pixels);
            }
        }
        Ok(Some(Example {
            pixels,
            label: item.label as u32,
            id: item.id,
        }))
    }

    /// A picture decoded and resized; `None` when it is skipped.
    fn picture(&self, index: usize) -> Result<Option<Arc<RgbImage>>> {
        let slot = self.cache.get(index);
        if let Some(picture) = slot.and_then(OnceLock::get) {
            return Ok(Some(picture.clone()));
        }
        let item = &self.dataset.items()[index];
        let path = &item.path;
        let decoded = match self.dataset.known_problem(path) {
            Some(error) => Err(error),
            None => {
                let decoder = self.dataset.decoder();
                let (height, width) = (self.height as u32, self.width as u32);
                item.decode_by(&decoder.resized(height, width, self.resize))
            }
        };
        let picture = match decoded {
            Ok(picture) => picture,
            Err(error) => {
                self.dataset.handle(path, error)?;
                return Ok(None);
            }
        };
        let picture = Arc::new(picture);
        Ok(Some(match slot {
            Some(slot) => slot.get_or_init(|| picture).clone(),
            None => picture,
        }))
    }
}

/// For training.
impl Loader {
    /// Decodes every picture, or the every so many-th that is a rank's, into the cache, if all have room there, and
    /// notes those that cannot be used. It breaks off when `stop` says so.
    pub(crate) fn look(&self, stop: &dyn Fn() -> bool) -> Result<ControlFlow<()>> {
        let pictures = self.dataset.len();
        if self.cache.len() < pictures {
            return Ok(ControlFlow::Continue(()));
        }
        progress::line(&format!("reading {}", count(pictures, "picture")));
        let threads = rayon::current_num_threads();
        let loader = self.clone();
        let (rank, ranks) = self.share;
        let own = (rank..pictures).step_by(ranks).len();
        let read = move |turn: usize| loader.picture(rank + turn * ranks).map(|_| ());
        // This thread is one of them.
        for picture in Prefetch::new(own, 2 * threads, threads - 1, read) {
            picture?;
            if stop() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// This rank's share of each batch of an epoch: a part of it, as large as the others' to one picture; `None` where
    /// none of its pictures can be used, and where there are fewer pictures than ranks.
    pub(crate) fn shares(&self, epoch: u64) -> impl Iterator<Item = Result<Option<Batch>>> + use<> {
        let invalid = self.check().err();
        let shares = match invalid {
            Some(_) => Vec::new(),
            None => self.indices(epoch),
        };
        let (rank, ranks) = self.share;
        let own = |batch: Vec<usize>| {
            let (start, end) = (batch.len() * rank / ranks, batch.len() * (rank + 1) / ranks);
            batch[start..end].to_vec()
        };
        let shares: Vec<Vec<usize>> = shares.into_iter().map(own).collect();
        let order = shares.concat();
        let loader = self.clone();
        let mut examples = Prefetch::new(
            order.len(),
            self.batch_size.max(1).saturating_mul(2).div_ceil(ranks),
            (rayon::current_num_threads() - 1).max(1),
            move |turn| loader.example(order[turn], epoch),
        );
        let loader = self.clone();
        let shares = shares.into_iter();
        let batches = shares.map(move |share| loader.batch(examples.by_ref().take(share.len())));
        invalid.into_iter().map(Err).chain(batches)
    }

    /// Makes a part of each batch alone: that of a rank among so many.
    pub(crate) fn share(mut self, rank: usize, ranks: usize) -> Self {
        self.share = (rank, ranks);
        self
    }

    /// Every so many-th picture alone, in the dataset's order: those whose features a rank keeps.
    pub(crate) fn own_pictures(self) -> Self {
        let (rank, ranks) = self.share;
        if ranks == 1 {
            return self;
        }
        let own = self.dataset.items().iter().skip(rank).step_by(ranks);
        let dataset = self.dataset.with_items(own.cloned().collect());
        Self {
            dataset,
            share: (0, 1),
            ..self
        }
        .cache(CACHE)
    }

    /// Which rank this makes shares for, and of how many.
    pub(crate) fn rank(&self) -> (usize, usize) {
        self.share
    }

    /// The same pictures in the dataset's order.
    pub(crate) fn unshuffled(mut self) -> Self {
        self.shuffle = None;
        self
    }

    /// Of each batch of an epoch the indices into the dataset's items, those of pictures that cannot be used
    /// included.
    pub(crate) fn indices(&self, epoch: u64) -> Vec<Vec<usize>> {
        let order = self.order(epoch);
        let batches = order.chunks(self.batch_size.max(1));
        batches.map(<[usize]>::to_vec).collect()
    }

    pub(crate) fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The same options for other pictures, none of which are cached.
    pub(crate) fn with_dataset(&self, dataset: Dataset) -> Self {
        Self {
            dataset,
            ..self.clone()
        }
        .cache(0)
    }

    /// Whether pictures differ from epoch to epoch.
    pub(crate) fn is_augmented(&self) -> bool {
        self.augment.is_some()
    }

    /// Every option that pixels depend on, as text to be hashed.
    pub(crate) fn pixel_config(&self) -> String {
        let Self {
            height,
            width,
            resize,
            preprocess,
            augment,
            ..
        } = self;
        // The number changes when other pixels are made of a file.
        format!("decoding 2, {height}×{width}, {resize:?}, {preprocess:?}, {augment:?}")
    }
}

/// An empty cache.
fn slots(count: usize) -> Arc<[OnceLock<Arc<RgbImage>>]> {
    (0..count).map(|_| OnceLock::new()).collect()
}
