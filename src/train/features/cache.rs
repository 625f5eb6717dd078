//! Options: where features are kept, and how many variations of each picture.

use std::path::PathBuf;

use crate::bounds;
use crate::error::Result;

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
/// with block 5 trainable. A view is computed when its first epoch begins, and kept until the run, or its phase, ends:
/// [in memory](Self::in_memory), see that all views have room.
///
/// ```no_run
/// use headstart::{Augmenter, Classifier, Dataset, FeatureCache, RmsProp, Trainer};
/// # fn train(model: &mut Classifier, train: &Dataset, validation: &Dataset) -> headstart::Result<()> {
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
pub(in crate::train) enum Storage {
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

    /// Sets how many fixed variations of each picture the augmenter draws, up to 1,000; the default is 1. Without an
    /// augmenter all views are the same, and one is computed.
    pub fn views(mut self, views: usize) -> Self {
        self.views = views;
        self
    }

    /// How many views there are.
    pub(in crate::train) fn count(&self) -> usize {
        self.views
    }

    pub(in crate::train) fn storage(&self) -> &Storage {
        &self.storage
    }

    pub(in crate::train) fn check(&self) -> Result<()> {
        bounds::within("views", self.views, 1..=bounds::VIEWS)
    }
}
