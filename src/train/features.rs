//! What frozen blocks make of pictures, computed once and kept.

mod file;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use safetensors::View as _;

use self::file::FeatureFile;
use crate::data::{Batch, Loader};
use crate::kernels::Isa;
use crate::model::{Backbone, Classifier, Mode};
use crate::{Error, Result};

/// How many pictures go through the frozen blocks together while training features are computed.
const BATCH: usize = 32;

/// Keeps what the leading frozen blocks make of the training pictures, so that each epoch computes only what comes
/// after them: see [`Trainer::feature_cache`](crate::Trainer::feature_cache).
///
/// The frozen blocks see each picture once, or, under augmentation, once per view: [`views(k)`](Self::views) draws k
/// fixed variations of each picture, and the epochs take turns with them. View v is what epoch v would see without a
/// cache, so that k views serve the first k epochs exactly; epoch k + 1 takes view 1 again. Fewer views than epochs
/// trade variety for time.
///
/// Order, batches and dropout are those of training without a cache, and pictures that cannot be used are left out
/// or refused by the dataset's policy in the same way. Without an augmenter, or with a view for every epoch, the
/// trained weights are then the same: on the CPU's kernels to the last bit, elsewhere to rounding, since a device may
/// add in another order in batches of another size.
///
/// Features are f32: one view takes 4·C·h·w bytes per picture, 8 KB for a wholly frozen VGG at 64×64 and 32 KB
/// with block 5 open. A view is computed when its first epoch begins, and kept until the run, or its phase, ends:
/// [in memory](Self::in_memory), see that all views have room.
///
/// ```no_run
/// use headstart::{Augmenter, Classifier, DirectoryDataset, FeatureCache, RmsProp, Trainer};
/// # fn train(model: &mut Classifier, train: &DirectoryDataset, validation: &DirectoryDataset) -> headstart::Result<()> {
///
/// let history = Trainer::new(RmsProp::new(2e-5))
///     .epochs(20)
///     .augment(Augmenter::notebook())
///     .feature_cache(FeatureCache::in_memory().views(5))
///     .fit(model, train, validation)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureCache {
    storage: Storage,
    views: usize,
}

/// Where features are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    Memory,
    /// One file per view in this folder.
    Folder(PathBuf),
}

impl FeatureCache {
    fn new(storage: Storage) -> Self {
        Self { storage, views: 1 }
    }

    /// A cache in memory, for the time of one training run.
    pub fn in_memory() -> Self {
        Self::new(Storage::Memory)
    }

    /// A cache in files, which later runs find again and which may be larger than the memory. The folder is made if
    /// it is not there; the validation pictures' features are kept in it too.
    ///
    /// Each view is a safetensors file, whole or not there, named by a BLAKE3 hash of everything its numbers come
    /// from: the frozen blocks' weights, the architecture, size, resize filter, preprocess, augmentation with its
    /// seed and the view, every picture's bytes, and this crate's version and kernels. A change of any of these
    /// means another file. A file that was damaged is computed afresh. Files that no run asks for any more stay, and so
    /// does what a killed run had half written (`.headstart-…`): delete the folder to have the room.
    pub fn on_disk(folder: impl Into<PathBuf>) -> Self {
        Self::new(Storage::Folder(folder.into()))
    }

    /// Sets how many fixed variations of each picture the augmenter draws; the default is 1. Without an augmenter
    /// all views are the same, and one is computed.
    pub fn views(mut self, views: usize) -> Self {
        self.views = views;
        self
    }

    /// How many views there are.
    pub(super) fn count(&self) -> usize {
        self.views
    }

    pub(super) fn storage(&self) -> &Storage {
        &self.storage
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.views == 0 {
            return Err(Error::option("views", 0, "1 or more"));
        }
        Ok(())
    }
}

/// A dataset's features, view by view.
pub(super) struct Features {
    /// Gives the pictures, in the dataset's order.
    pictures: Loader,
    /// How many blocks they go through, and how.
    blocks: usize,
    mode: Mode,
    /// (C, h, w)
    shape: [usize; 3],
    device: Device,
    storage: Storage,
    /// A hash of what all views of the dataset come from.
    origin: OnceCell<blake3::Hasher>,
    views: Vec<OnceCell<View>>,
}

/// One view's features.
#[derive(Debug)]
struct View {
    /// Whether the picture at each place of the dataset could be used.
    usable: Vec<bool>,
    rows: Rows,
}

/// One row of C·h·w numbers for each place of the dataset, zeros for a picture that cannot be used.
#[derive(Debug)]
enum Rows {
    Memory(Vec<f32>),
    File(FeatureFile),
}

impl Features {
    /// Features of `loader`'s pictures, for its batches, whatever they are.
    pub(super) fn training<B: Backbone>(
        model: &Classifier<B>,
        loader: &Loader,
        cache: &FeatureCache,
    ) -> Result<Self> {
        let views = if loader.augments() { cache.views } else { 1 };
        let pictures = loader.clone().in_order().batch_size(BATCH);
        // Frozen blocks in training make the same of a picture in every batch.
        Self::new(model, pictures, Mode::Train, &cache.storage, views)
    }

    /// Features of `loader`'s pictures, which come in the same batches each time: these batches go through the frozen
    /// blocks.
    pub(super) fn validation<B: Backbone>(
        model: &Classifier<B>,
        loader: &Loader,
        storage: &Storage,
    ) -> Result<Self> {
        Self::new(model, loader.clone(), Mode::Infer, storage, 1)
    }

    fn new<B: Backbone>(
        model: &Classifier<B>,
        pictures: Loader,
        mode: Mode,
        storage: &Storage,
        views: usize,
    ) -> Result<Self> {
        let base = model.base();
        let blocks = base.frozen_prefix();
        let (height, width) = model.size();
        let device = base.device();
        let blank = Tensor::zeros((1, 3, height, width), DType::F32, &device)?;
        let (_, c, h, w) = base.forward_blocks(&blank, 0..blocks, mode)?.dims4()?;
        Ok(Self {
            // Pictures that are decoded once need not be kept.
            pictures: if views == 1 {
                pictures.cache(0)
            } else {
                pictures
            },
            blocks,
            mode,
            shape: [c, h, w],
            device,
            storage: storage.clone(),
            origin: OnceCell::new(),
            views: (0..views).map(|_| OnceCell::new()).collect(),
        })
    }

    /// How many blocks the features have behind them.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// The bytes of one view.
    pub(super) fn bytes(&self) -> usize {
        let row = self.row().saturating_mul(size_of::<f32>());
        row.saturating_mul(self.pictures.dataset().len())
    }

    fn row(&self) -> usize {
        self.shape.iter().product()
    }

    /// Epochs count from 1, views from 0; validation is epoch 0.
    fn view_of(&self, epoch: u64) -> usize {
        (epoch.saturating_sub(1) % self.views.len() as u64) as usize
    }

    /// Computes the features an epoch needs, if they are not there.
    pub(super) fn prepare<B: Backbone>(&self, model: &Classifier<B>, epoch: u64) -> Result<()> {
        let index = self.view_of(epoch);
        if self.views[index].get().is_some() {
            return Ok(());
        }
        let view = match &self.storage {
            Storage::Memory => self.in_memory(model, index)?,
            Storage::Folder(folder) => self.on_disk(model, index, folder)?,
        };
        self.views[index].get_or_init(|| view);
        Ok(())
    }

    /// The batches that `loader` would give in an epoch that was [prepared](Self::prepare), with features for images.
    pub(super) fn epoch(&self, loader: &Loader, epoch: u64) -> impl Iterator<Item = Result<Batch>> {
        let view = self.views[self.view_of(epoch)].get();
        let batches = view.map(|view| (view, loader.places(epoch))).into_iter();
        batches.flat_map(|(view, batches)| {
            let batches = batches.into_iter();
            batches.filter_map(|places| self.batch(view, &places).transpose())
        })
    }

    /// The batch of the pictures at these places; `None` when none of them can be used.
    fn batch(&self, view: &View, places: &[usize]) -> Result<Option<Batch>> {
        let usable: Vec<usize> = places
            .iter()
            .copied()
            .filter(|place| view.usable[*place])
            .collect();
        if usable.is_empty() {
            return Ok(None);
        }
        let row = self.row();
        let mut numbers = vec![0.0; usable.len() * row];
        for (place, numbers) in usable.iter().zip(numbers.chunks_exact_mut(row)) {
            match &view.rows {
                Rows::Memory(rows) => numbers.copy_from_slice(&rows[place * row..][..row]),
                Rows::File(file) => file.read(*place, numbers)?,
            }
        }
        let [c, h, w] = self.shape;
        let items = self.pictures.dataset().items();
        Ok(Some(Batch {
            images: Tensor::from_vec(numbers, (usable.len(), c, h, w), &self.device)?,
            labels: usable.iter().map(|p| items[*p].label as u32).collect(),
            ids: usable.iter().map(|p| items[*p].id).collect(),
        }))
    }

    fn in_memory<B: Backbone>(&self, model: &Classifier<B>, view: usize) -> Result<View> {
        let mut rows = Vec::with_capacity(self.bytes() / size_of::<f32>());
        let usable = self.compute(model, view, |new| {
            rows.extend_from_slice(new);
            Ok(())
        })?;
        Ok(View {
            usable,
            rows: Rows::Memory(rows),
        })
    }

    /// Runs every picture through the frozen blocks, hands out rows in the dataset's order, and says which pictures
    /// could be used.
    fn compute<B: Backbone>(
        &self,
        model: &Classifier<B>,
        view: usize,
        mut put: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<Vec<bool>> {
        let items = self.pictures.dataset().items();
        let progress = self.progress(view);
        let blank = vec![0.0; self.row()];
        let mut usable = Vec::with_capacity(items.len());
        for batch in self.pictures.epoch(view as u64 + 1) {
            let batch = batch?;
            let base = model.base();
            let features = base.forward_blocks(&batch.images, 0..self.blocks, self.mode)?;
            let features = features.detach().to_dtype(DType::F32)?;
            let numbers: Vec<f32> = features.flatten_all()?.to_vec1()?;
            for (id, row) in batch.ids.iter().zip(numbers.chunks_exact(blank.len())) {
                while items.get(usable.len()).is_some_and(|item| item.id != *id) {
                    put(&blank)?;
                    usable.push(false);
                }
                put(row)?;
                usable.push(true);
            }
            progress.set_position(usable.len() as u64);
        }
        for _ in usable.len()..items.len() {
            put(&blank)?;
            usable.push(false);
        }
        progress.finish_and_clear();
        Ok(usable)
    }

    /// A bar on the standard error, which indicatif hides where that is no terminal.
    fn progress(&self, view: usize) -> ProgressBar {
        let bar = ProgressBar::new(self.pictures.dataset().len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len} {eta} left")
        {
            bar.set_style(style);
        }
        bar.set_prefix(match self.views.len() {
            1 => "features".to_owned(),
            views => format!("features, view {}/{views}", view + 1),
        });
        bar
    }
}

/// Features in files.
impl Features {
    /// A view from its file, which is written first if it is not there, damaged, or another's.
    fn on_disk<B: Backbone>(
        &self,
        model: &Classifier<B>,
        view: usize,
        folder: &Path,
    ) -> Result<View> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let key = self.key(model, view)?;
        let path = folder.join(format!("{key}.safetensors"));
        let pictures = self.pictures.dataset().len();
        let open = || FeatureFile::open(&path, &key, pictures, self.shape);
        if let Some((file, usable)) = open()
            && self.still_unusable(&usable)?
        {
            return Ok(View {
                usable,
                rows: Rows::File(file),
            });
        }
        FeatureFile::write(&path, &key, pictures, self.shape, |put| {
            self.compute(model, view, put)
        })?;
        let Some((file, usable)) = open() else {
            let lost = std::io::Error::other("what was written does not read back");
            return Err(Error::io(path)(lost));
        };
        Ok(View {
            usable,
            rows: Rows::File(file),
        })
    }

    /// Whether none of the pictures that could not be used when the file was written can be used now. The dataset
    /// hears of them as it would without the file, and its policy decides.
    fn still_unusable(&self, usable: &[bool]) -> Result<bool> {
        let dataset = self.pictures.dataset();
        let items = dataset.items().iter().zip(usable);
        let unusable: Vec<_> = items
            .filter(|(_, usable)| !**usable)
            .map(|(item, _)| item.clone())
            .collect();
        let retried = self.pictures.with_dataset(dataset.with_items(unusable));
        match retried.epoch(0).next() {
            None => Ok(true),
            Some(Ok(_)) => Ok(false),
            Some(Err(error)) => Err(error),
        }
    }

    /// A hash of everything a view's numbers come from, in hexadecimal.
    fn key<B: Backbone>(&self, model: &Classifier<B>, view: usize) -> Result<String> {
        let origin = match self.origin.get() {
            Some(origin) => origin,
            None => {
                let origin = origin(model, &self.pictures, self.blocks, self.mode)?;
                self.origin.get_or_init(|| origin)
            }
        };
        let mut hasher = origin.clone();
        hasher.update(&(view as u64).to_le_bytes());
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// Hashes what all views come from. Each part comes with its length, so that no two different lists of parts give
/// the same bytes.
fn origin<B: Backbone>(
    model: &Classifier<B>,
    pictures: &Loader,
    blocks: usize,
    mode: Mode,
) -> Result<blake3::Hasher> {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let base = model.base();
    let device = base.device().location();
    // Batches of another size may mean other sums when they are not for training.
    let batch = (mode == Mode::Infer).then(|| pictures.places(0).first().map(Vec::len));
    for text in [
        env!("CARGO_PKG_VERSION").to_owned(),
        format!("{device:?}, {:?}, {batch:?}", Isa::chosen()),
        format!("{}, {blocks} blocks", base.architecture()),
        pictures.appearance(),
    ] {
        part(text.as_bytes());
    }
    // Tensors and variables come from the input on: before the first trainable one, all is frozen.
    let first_open = base.variables().into_iter().next().map(|(name, _)| name);
    for (name, tensor) in base.tensors() {
        if first_open.as_ref() == Some(&name) {
            break;
        }
        part(name.as_bytes());
        part(format!("{:?}", tensor.shape()).as_bytes());
        part(&tensor.data());
    }
    // Whole files, since neither size nor time of change tells every change.
    let contents: Vec<_> = pictures
        .dataset()
        .items()
        .par_iter()
        .map(|item| match item.read() {
            Ok(bytes) => blake3::hash(&bytes).to_hex().to_string(),
            Err(error) => error.kind().to_string(),
        })
        .collect();
    for (item, content) in pictures.dataset().items().iter().zip(contents) {
        part(&item.id.to_le_bytes());
        part(content.as_bytes());
    }
    Ok(hasher)
}
