//! What frozen blocks make of pictures, computed once and kept.

mod cache;
mod file;
mod key;
mod memory;
mod rows;

pub use cache::FeatureCache;
pub(super) use cache::Storage;

use std::cell::OnceCell;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use indicatif::ProgressBar;

use self::file::FeatureFile;
use self::rows::Rows;
use crate::data::{Batch, Loader};
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier, Mode};
use crate::words::count;
use crate::{finite, progress};

/// Whether to stop, asked again and again while features are computed.
type Stop<'a> = dyn Fn() -> bool + Sync + 'a;

/// How many pictures go through the frozen blocks together while training features are computed.
const BATCH: usize = 32;

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
    /// How many of them will be asked for.
    asked: usize,
}

/// One view's features.
#[derive(Debug)]
struct View {
    /// Whether the picture at each index of the dataset could be used.
    usable: Vec<bool>,
    rows: Rows,
}

impl Features {
    /// Features of `loader`'s pictures, for its batches, whatever they are, in so many epochs.
    pub(super) fn training<B: Backbone>(
        model: &Classifier<B>,
        loader: &Loader,
        cache: &FeatureCache,
        epochs: usize,
    ) -> Result<Self> {
        let views = if loader.is_augmented() {
            cache.count()
        } else {
            1
        };
        let pictures = loader.clone().own_pictures();
        let pictures = pictures.unshuffled().batch_size(BATCH);
        // Frozen blocks in training make the same of a picture in every batch.
        let features = Self::new(model, pictures, Mode::Train, cache.storage(), views)?;
        Ok(Self {
            asked: views.min(epochs),
            ..features
        })
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
            asked: views,
        })
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

    /// Computes the features an epoch needs, if they are not there. It breaks off when `stop` says so.
    pub(super) fn prepare<B: Backbone>(
        &self,
        model: &Classifier<B>,
        epoch: u64,
        stop: &Stop<'_>,
    ) -> Result<ControlFlow<()>> {
        let index = self.view_of(epoch);
        if self.views[index].get().is_some() {
            return Ok(ControlFlow::Continue(()));
        }
        let view = match &self.storage {
            Storage::Memory => self.in_memory(model, index, stop)?,
            Storage::Folder(folder) => self.on_disk(model, index, folder, stop)?,
        };
        let Some(view) = view else {
            return Ok(ControlFlow::Break(()));
        };
        self.views[index].get_or_init(|| view);
        Ok(ControlFlow::Continue(()))
    }

    /// The batches that `loader` would give in an epoch that was [prepared](Self::prepare), with features for inputs.
    /// Of several ranks each has those of its own pictures.
    pub(super) fn shares(
        &self,
        loader: &Loader,
        epoch: u64,
    ) -> impl Iterator<Item = Result<Option<Batch>>> {
        let view = self.views[self.view_of(epoch)].get();
        let (rank, ranks) = loader.rank();
        let own = move |indices: Vec<usize>| {
            let own = indices.into_iter().filter(|index| index % ranks == rank);
            own.map(|index| index / ranks).collect::<Vec<_>>()
        };
        let batches = view.map(|view| (view, loader.indices(epoch))).into_iter();
        batches.flat_map(move |(view, batches)| {
            let batches = batches.into_iter();
            batches.map(move |indices| self.batch(view, &own(indices)))
        })
    }

    /// The batch of the pictures in these rows; `None` when none of them can be used.
    fn batch(&self, view: &View, indices: &[usize]) -> Result<Option<Batch>> {
        let usable: Vec<usize> = indices
            .iter()
            .copied()
            .filter(|index| view.usable[*index])
            .collect();
        if usable.is_empty() {
            return Ok(None);
        }
        let items = self.pictures.dataset().items();
        Ok(Some(Batch {
            inputs: view.rows.batch(&usable, self.shape, &self.device)?,
            first_block: self.blocks,
            labels: usable.iter().map(|p| items[*p].label as u32).collect(),
            ids: usable.iter().map(|p| items[*p].id).collect(),
        }))
    }

    fn in_memory<B: Backbone>(
        &self,
        model: &Classifier<B>,
        view: usize,
        stop: &Stop<'_>,
    ) -> Result<Option<View>> {
        self.check_room()?;
        let mut rows = Vec::with_capacity(self.bytes() / size_of::<f32>());
        let usable = self.compute(model, view, stop, |new| {
            rows.extend_from_slice(new);
            Ok(())
        })?;
        Ok(usable.map(|usable| View {
            usable,
            rows: Rows::kept(rows, self.row(), self.asked, &self.device),
        }))
    }

    /// Refuses features that will not fit into the memory, with all views that are still to come, before hours are
    /// spent on them.
    fn check_room(&self) -> Result<()> {
        let done = self.views.iter().filter(|view| view.get().is_some());
        let views = self.asked.saturating_sub(done.count()).max(1);
        let needed = (self.bytes() as u64).saturating_mul(views as u64);
        let Some(available) = memory::available().filter(|available| needed > *available) else {
            return Ok(());
        };
        let pictures = count(self.pictures.dataset().len(), "picture");
        let of = match views {
            1 => pictures,
            _ => format!("{pictures} in {views} views"),
        };
        Err(Error::option(
            "feature_cache",
            format!(
                "in memory, where the features of {of} take {} MB",
                needed / 1_000_000
            ),
            format!(
                "{} MB, which are free: `FeatureCache::on_disk`, fewer views, smaller pictures, or more frozen blocks",
                available / 1_000_000
            ),
        ))
    }

    /// Runs every picture through the frozen blocks, hands out rows in the dataset's order, and says which pictures
    /// could be used; none when it was to stop.
    fn compute<B: Backbone>(
        &self,
        model: &Classifier<B>,
        view: usize,
        stop: &Stop<'_>,
        mut put: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<Option<Vec<bool>>> {
        let items = self.pictures.dataset().items();
        let progress = self.progress(view);
        let blank = vec![0.0; self.row()];
        let mut usable = Vec::with_capacity(items.len());
        for batch in self.pictures.epoch(view as u64 + 1) {
            if stop() {
                progress.finish_and_clear();
                return Ok(None);
            }
            let batch = batch?;
            let base = model.base();
            let features = base.forward_blocks(&batch.inputs, 0..self.blocks, self.mode)?;
            let features = features.detach().to_dtype(DType::F32)?;
            let numbers: Vec<f32> = features.flatten_all()?.to_vec1()?;
            for (id, row) in batch.ids.iter().zip(numbers.chunks_exact(blank.len())) {
                while items.get(usable.len()).is_some_and(|item| item.id != *id) {
                    put(&blank)?;
                    usable.push(false);
                }
                if let Some(value) = finite::first_not(row) {
                    let of = items[usable.len()].path.display();
                    return Err(model.not_finite(format!("the features of {of}"), value));
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
        Ok(Some(usable))
    }

    fn progress(&self, view: usize) -> ProgressBar {
        let pictures = self.pictures.dataset().len() as u64;
        let bar = progress::bar(pictures, "{prefix} {bar:24} {pos}/{len} {eta} left");
        let what = match self.views.len() {
            1 => "features".to_owned(),
            views => format!("features, view {}/{views}", view + 1),
        };
        progress::line(&format!(
            "{what}: {}",
            count(self.pictures.dataset().len(), "picture")
        ));
        bar.set_prefix(what);
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
        stop: &Stop<'_>,
    ) -> Result<Option<View>> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let Some(key) = self.key(model, view, stop)? else {
            return Ok(None);
        };
        let path = folder.join(format!("{key}.safetensors"));
        let pictures = self.pictures.dataset().len();
        let open = || FeatureFile::open(&path, &key, pictures, self.shape);
        if let Some((file, usable)) = open()
            && self.still_unusable(&usable)?
        {
            return Ok(Some(View {
                usable,
                rows: Rows::File(file),
            }));
        }
        let written = FeatureFile::write(&path, &key, pictures, self.shape, |put| {
            self.compute(model, view, stop, put)
        })?;
        if !written {
            return Ok(None);
        }
        let Some((file, usable)) = open() else {
            let lost = std::io::Error::other("what was written does not read back");
            return Err(Error::io(path)(lost));
        };
        Ok(Some(View {
            usable,
            rows: Rows::File(file),
        }))
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

    /// What a view's file is called; none when it was to stop.
    fn key<B: Backbone>(
        &self,
        model: &Classifier<B>,
        view: usize,
        stop: &Stop<'_>,
    ) -> Result<Option<String>> {
        let origin = match self.origin.get() {
            Some(origin) => origin,
            None => {
                let origin = key::origin(model, &self.pictures, self.blocks, self.mode, stop)?;
                let Some(origin) = origin else {
                    return Ok(None);
                };
                self.origin.get_or_init(|| origin)
            }
        };
        Ok(Some(key::of_view(origin, view)))
    }
}
