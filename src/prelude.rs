//! What most programs need, in one line: `use headstart::prelude::*`.
//!
//! Everything at the crate's root, and what goes with it: callbacks with their events, schedules and phases, the parts
//! of a base of one's own.

pub use crate::data::{
    Augmenter, Batch, Dataset, DirectoryDataset, FillMode, Loader, Policy, Preprocess, Problem,
    Resize,
};
pub use crate::model::{
    Arch, Backbone, Block, Classifier, ConvBase, Head, Mode, Pooling, Prediction, SavedBackbone,
    Vgg, Weights, bases,
};
pub use crate::progress::{Verbosity, set_verbosity};
pub use crate::study::{LinearHead, Study};
pub use crate::train::callback::{
    Callback, CallbackState, CsvLogger, EarlyStopping, EpochBegin, EpochEnd, JsonLinesLogger,
    Monitor, ReduceLrOnPlateau, StepEnd, Stop, TrainBegin,
};
pub use crate::train::metrics::{EpochRecord, Evaluation, History};
pub use crate::train::optimizer::{AdamW, Clip, RmsProp, Schedule, Sgd};
pub use crate::train::{Checkpoints, FeatureCache, Phase, Trainer};
pub use crate::{Device, Error, Result, Tensor, best_device};
