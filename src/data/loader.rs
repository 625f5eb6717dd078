//! A dataset → batches, epoch by epoch.

use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};
use image::{ImageBuffer, Rgb, RgbImage};
use rand::seq::SliceRandom;
use rayon::prelude::*;

use crate::{
    Error, Preprocess, Result,
    data::{Augmenter, DirectoryDataset, Resize, ahead::Ahead, augment::grey_levels, resize},
    random::{Purpose, stream},
};

/// Some pictures of a dataset, ready for a model.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The pictures, preprocessed: (N, 3, H, W), f32.
    pub images: Tensor,
    /// Their N classes.
    pub labels: Vec<u32>,
    /// Their N [ids](super::Item::id).
    pub ids: Vec<u64>,
}

/// One picture of a batch: three planes.
struct Example {
    pixels: Vec<f32>,
    label: u32,
    id: u64,
}

/// Turns a dataset into batches: decodes, resizes, augments and preprocesses ahead of whoever takes them.
///
/// Threads of the loader's own, one fewer than rayon has but one at least, work up to two batches ahead;
/// whoever has to wait for a batch works along. A batch depends on the options and the epoch, never on the number of threads. Each usable picture comes
/// exactly once an epoch; one that cannot be used makes its batch shorter.
///
/// ```
/// use headstart::{DirectoryDataset, Loader};
///
/// # let root = tempfile::tempdir().unwrap();
/// # for class in ["not_santa", "santa"] {
/// #     std::fs::create_dir(root.path().join(class)).unwrap();
/// #     for name in ["1.png", "2.png"] {
/// #         image::RgbImage::new(40, 30).save(root.path().join(class).join(name)).unwrap();
/// #     }
/// # }
/// let dataset = DirectoryDataset::open(root.path())?; // 2 classes of 2 pictures
/// let loader = Loader::new(&dataset, 150, 150).batch_size(3).shuffle(1);
/// for epoch in 0..2 {
///     for batch in loader.epoch(epoch) {
///         let batch = batch?;
///         assert_eq!(batch.images.dims(), [batch.labels.len(), 3, 150, 150]);
///     }
/// }
/// assert_eq!(loader.batches(), 2);
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
    /// Decoded and resized pictures, by their place in the dataset: as many slots as the budget allows.
    cache: Arc<[OnceLock<Arc<RgbImage>>]>,
}

impl Loader {
    /// A loader of `height` × `width` pictures: batches of 32 on the CPU, in the dataset's order, resized by
    /// [`Resize::Bilinear`] and preprocessed by [`Preprocess::Unit`].
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
            cache: Arc::default(),
        }
        .cache(128 << 20)
    }

    /// The pictures per batch, 1 or more; the last batch of an epoch may be shorter. Default: 32.
    pub fn batch_size(self, batch_size: usize) -> Self {
        Self { batch_size, ..self }
    }

    /// How pictures are brought to size. Default: [`Resize::Bilinear`].
    pub fn resize(self, resize: Resize) -> Self {
        let slots = self.cache.len();
        Self { resize, ..self }.emptied(slots)
    }

    /// What pixels must look like for the model. Default: [`Preprocess::Unit`].
    pub fn preprocess(self, preprocess: Preprocess) -> Self {
        Self { preprocess, ..self }
    }

    /// Where batches go. Default: the CPU.
    pub fn device(self, device: &Device) -> Self {
        Self {
            device: device.clone(),
            ..self
        }
    }

    /// Puts the pictures in a fresh order each epoch, fixed by (`seed`, epoch). Default: the dataset's order.
    pub fn shuffle(self, seed: u64) -> Self {
        Self {
            shuffle: Some(seed),
            ..self
        }
    }

    /// Changes each picture at random, fixed by (`seed`, epoch, [id](super::Item::id)). Default: pictures stay as they are.
    pub fn augment(self, augmenter: Augmenter, seed: u64) -> Self {
        Self {
            augment: Some((augmenter, seed)),
            ..self
        }
    }

    /// The memory in bytes for pictures kept from one epoch to the next, decoded and resized; 0 keeps none.
    /// Default: 128 MiB, or 1,988 pictures of 150 × 150 and 10,922 of 64 × 64.
    ///
    /// The dataset's first pictures are kept, as many as there is room for; the others are read and decoded
    /// anew each epoch, so that a dataset of any length takes no more memory than its index. Clones of a
    /// loader share what is kept.
    pub fn cache(self, bytes: usize) -> Self {
        let picture = self.height.saturating_mul(self.width).saturating_mul(3);
        let slots = bytes / picture.max(1);
        let slots = slots.min(self.dataset.len());
        self.emptied(slots)
    }

    fn emptied(self, slots: usize) -> Self {
        Self {
            cache: (0..slots).map(|_| OnceLock::new()).collect(),
            ..self
        }
    }

    /// The number of batches in an epoch. An epoch has fewer when all pictures of a batch cannot be used.
    pub fn batches(&self) -> usize {
        self.dataset.len().div_ceil(self.batch_size.max(1))
    }

    /// The batches of one epoch. Work on them begins at once, and ends when the iterator is dropped.
    ///
    /// # Errors
    /// The items are errors: [`Error::Option`] for a batch size, height or width of 0 or a side over 32,768;
    /// under [`Policy::Fail`](crate::Policy::Fail), [`Error::Picture`] or [`Error::Io`] for a picture that
    /// cannot be used.
    pub fn epoch(&self, epoch: u64) -> impl Iterator<Item = Result<Batch>> + use<> {
        let invalid = self.check().err();
        let order = match invalid {
            Some(_) => Vec::new(),
            None => self.order(epoch),
        };
        let batch_size = self.batch_size.max(1);
        let mut left = order.len().div_ceil(batch_size);
        let loader = self.clone();
        let mut examples = Ahead::new(
            order.len(),
            batch_size.saturating_mul(2),
            (rayon::current_num_threads() - 1).max(1),
            move |at| loader.example(order[at], epoch),
        );
        let loader = self.clone();
        let batches = std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            Some(loader.batch(examples.by_ref().take(batch_size)))
        });
        let batches = batches.filter_map(Result::transpose);
        invalid.into_iter().map(Err).chain(batches)
    }

    fn check(&self) -> Result<()> {
        if self.batch_size == 0 {
            return Err(Error::option("batch_size", 0, "1 or more"));
        }
        if let Some((augmenter, _)) = &self.augment {
            augmenter.check()?;
        }
        for (option, side) in [("height", self.height), ("width", self.width)] {
            if !(1..=32_768).contains(&side) {
                return Err(Error::option(option, side, "1 to 32768"));
            }
        }
        Ok(())
    }

    /// Places in the dataset, in the order of this epoch.
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
        // All are taken before an error is given back, so that the next batch begins where it should.
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
            images: Tensor::from_vec(pixels, shape, &self.device)?,
            labels,
            ids,
        }))
    }

    /// The picture at a place in the dataset, as a model takes it; `None` when it is skipped.
    fn example(&self, place: usize, epoch: u64) -> Result<Option<Example>> {
        let Some(picture) = self.picture(place)? else {
            return Ok(None);
        };
        let item = &self.dataset.items()[place];
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

    /// The picture at a place in the dataset, to size; `None` when it is skipped.
    fn picture(&self, place: usize) -> Result<Option<Arc<RgbImage>>> {
        let slot = self.cache.get(place);
        if let Some(picture) = slot.and_then(OnceLock::get) {
            return Ok(Some(picture.clone()));
        }
        let item = &self.dataset.items()[place];
        let path = &item.path;
        let decoded = match self.dataset.problem_with(path) {
            Some(reason) => Err(Error::Picture {
                path: path.clone(),
                reason,
            }),
            None => item.decode(),
        };
        let picture = match decoded {
            Ok(picture) => resize(&picture, self.height as u32, self.width as u32, self.resize),
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

/// What the cache of features asks of a loader.
impl Loader {
    /// The same pictures in the dataset's order.
    pub(crate) fn in_order(self) -> Self {
        Self {
            shuffle: None,
            ..self
        }
    }

    /// The places in the dataset of each batch of an epoch, pictures that cannot be used included.
    pub(crate) fn places(&self, epoch: u64) -> Vec<Vec<usize>> {
        let order = self.order(epoch);
        let batches = order.chunks(self.batch_size.max(1));
        batches.map(<[usize]>::to_vec).collect()
    }

    pub(crate) fn dataset(&self) -> &DirectoryDataset {
        &self.dataset
    }

    /// The same options for other pictures, of which none are kept.
    pub(crate) fn with_dataset(&self, dataset: DirectoryDataset) -> Self {
        Self {
            dataset,
            ..self.clone()
        }
        .cache(0)
    }

    /// Whether pictures differ from epoch to epoch.
    pub(crate) fn augments(&self) -> bool {
        self.augment.is_some()
    }

    /// Every option that decides what pictures look like.
    pub(crate) fn appearance(&self) -> String {
        let Self {
            height,
            width,
            resize,
            preprocess,
            augment,
            ..
        } = self;
        format!("{height}×{width}, {resize:?}, {preprocess:?}, {augment:?}")
    }
}

/// Pictures of one size, in grey levels 0 to 255 (bytes or floats) → (N, 3, H, W), f32, preprocessed.
///
/// # Errors
/// [`Error::Shape`] when a picture has another size than the first, or there is none.
pub(crate) fn to_batch<S>(
    pictures: &[&ImageBuffer<Rgb<S>, Vec<S>>],
    preprocess: Preprocess,
    device: &Device,
) -> Result<Tensor>
where
    Rgb<S>: image::Pixel<Subpixel = S>,
    S: Copy + Into<f32> + Send + Sync,
{
    let shape_error = |expected: String, found: Vec<usize>| Error::Shape {
        what: "pictures of a batch (H, W)".into(),
        expected,
        found,
    };
    let Some(first) = pictures.first() else {
        return Err(shape_error("one picture or more".into(), vec![0]));
    };
    let (width, height) = first.dimensions();
    for picture in pictures {
        if picture.dimensions() != (width, height) {
            let (w, h) = picture.dimensions();
            return Err(shape_error(
                format!("({height}, {width})"),
                vec![h as usize, w as usize],
            ));
        }
    }
    let (height, width) = (height as usize, width as usize);
    let mut data = vec![0f32; pictures.len() * 3 * height * width];
    if !data.is_empty() {
        data.par_chunks_mut(3 * height * width)
            .zip(pictures)
            .for_each(|(planes, picture)| write_planes(picture, preprocess, planes));
    }
    Ok(Tensor::from_vec(
        data,
        (pictures.len(), 3, height, width),
        device,
    )?)
}

/// Writes an interleaved picture as three preprocessed planes.
fn write_planes<S>(
    picture: &ImageBuffer<Rgb<S>, Vec<S>>,
    preprocess: Preprocess,
    planes: &mut [f32],
) where
    Rgb<S>: image::Pixel<Subpixel = S>,
    S: Copy + Into<f32>,
{
    let (mean, std) = preprocess.mean_std();
    let plane_len = planes.len() / 3;
    for (c, plane) in planes.chunks_exact_mut(plane_len).enumerate() {
        let from = if preprocess.is_bgr() { 2 - c } else { c };
        for (to, rgb) in plane.iter_mut().zip(picture.as_raw().chunks_exact(3)) {
            *to = (rgb[from].into() - mean[c]) / std[c];
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb32FImage;

    use super::*;

    #[test]
    fn bytes_and_floats_give_the_same_planes() {
        let bytes = RgbImage::from_fn(3, 2, |x, y| Rgb([x as u8, y as u8, 200]));
        let floats = Rgb32FImage::from_fn(3, 2, |x, y| Rgb([x as f32, y as f32, 200.0]));
        let by = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for preprocess in [Preprocess::Unit, Preprocess::Torch, Preprocess::Caffe] {
            let a = to_batch(&[&bytes], preprocess, &Device::Cpu).unwrap();
            let b = to_batch(&[&floats], preprocess, &Device::Cpu).unwrap();
            assert_eq!(a.dims(), [1, 3, 2, 3]);
            assert_eq!(by(a), by(b));
        }
    }

    #[test]
    fn pictures_of_different_sizes_are_an_error() {
        let (a, b) = (RgbImage::new(3, 2), RgbImage::new(2, 3));
        let error = to_batch(&[&a, &b], Preprocess::Unit, &Device::Cpu).unwrap_err();
        assert!(matches!(error, Error::Shape { found, .. } if found == [3, 2]));
        let none: [&RgbImage; 0] = [];
        assert!(to_batch(&none, Preprocess::Unit, &Device::Cpu).is_err());
    }
}
