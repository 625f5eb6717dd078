//! Transfer learning for pictures, on candle: a few hundred pictures in class folders become a classifier.
//!
//! A pretrained convolutional base ([`ConvBase`]: VGG11 to VGG19) gives the head start. Its blocks are frozen,
//! really frozen, or opened one by one; a new [`Head`] goes on top; a [`Trainer`] fits what is open to a
//! [`DirectoryDataset`], varied by an [`Augmenter`]. The [`Classifier`] that comes out names pictures, scores
//! itself, and is saved to one file.
//!
//! # Quick start
//!
//! ```
//! use candle_core::Device;
//! use headstart::{
//!     Augmenter, Block, Classifier, ConvBase, DirectoryDataset, Head, RmsProp, Trainer, Weights,
//! };
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let out = folder.path().join("santa.safetensors");
//! # let pictures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/santa/pictures");
//! let train = DirectoryDataset::open(pictures.join("train"))?;
//! let validation = DirectoryDataset::open_with_classes(pictures.join("validation"), train.class_names())?;
//! let test = DirectoryDataset::open_with_classes(pictures.join("test"), train.class_names())?;
//!
//! // The base that comes with the crate; Weights::ImageNet fetches the full one.
//! let base = ConvBase::vgg19(Weights::Compact, &Device::Cpu)?
//!     .frozen()                                                // every block…
//!     .unfreeze(Block::Conv5)?;                                // …but the last: fine-tuning
//! let head = Head::sigmoid().hidden(132);                      // or Head::softmax(2)
//! let mut model = Classifier::new(base, head, train.class_names())?;
//! println!("{}", model.summary()?);
//!
//! let history = Trainer::new(RmsProp::new(2e-4))
//!     .epochs(2)
//!     .batch_size(20)
//!     .augment(Augmenter::new().rotation(40.0).shift(0.2, 0.2).shear(0.2).zoom(0.2).horizontal_flip(true))
//!     .fit(&mut model, &train, &validation)?;
//! println!("{}", model.evaluate(&test)?);
//!
//! model.save(&out)?;
//! let model = Classifier::load(&out, &Device::Cpu)?;
//! println!("{}", model.predict(&test.items()[0].path)?);
//! # assert_eq!(history.epochs.len(), 2);
//! # Ok::<(), headstart::Error>(())
//! ```
//!
//! # One picture's way
//!
//! [`data`] turns files into batches, [`model`] batches into logits, [`train`] both into a trained model; on the
//! CPU [`kernels`] does the convolving. Errors name the file, the tensor or the option at fault ([`Error`]).
//!
//! # Features
//!
//! `hub` (on by default) fetches ImageNet weights; `tensorboard` writes event files; `cuda`, `cudnn`, `metal`, `mkl` and `accelerate` are candle's.
#![warn(missing_docs, unreachable_pub)]
#![deny(unsafe_code)]

mod atomic_file;
pub mod data;
mod error;
pub mod kernels;
pub mod model;
mod random;
pub mod train;

pub use data::{
    AugmentParams, Augmenter, Batch, DirectoryDataset, FillMode, Loader, Policy, Preprocess,
    Problem, Resize,
};
pub use error::{Error, Result};
pub use model::{
    Block, Classifier, ConvBase, Head, Mode, Pooling, Prediction, Summary, Vgg, Weights,
};
#[cfg(feature = "tensorboard")]
pub use train::TensorBoard;
pub use train::{
    AdamW, AnyOptimizer, Callback, Checkpoints, Clip, CsvLog, EarlyStopping, EpochRecord, Epsilon,
    Evaluation, FeatureCache, History, JsonLines, LearningRates, Loss, Phase, ReduceOnPlateau,
    RmsProp, Schedule, Sgd, Trainer,
};
