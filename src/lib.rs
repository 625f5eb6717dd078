//! Transfer learning for pictures, on candle: a few hundred pictures in class folders become a classifier.
//!
//! A pretrained convolutional base ([`ConvBase`]: VGG, ResNet, RepVGG, EfficientNet, MobileNet; [`bases`] lists them)
//! gives the head start. Each of its blocks is frozen (bit for bit unchanged) or trainable; a new [`Head`] goes on top;
//! a [`Trainer`] fits what is trainable to a [`Dataset`], varied by an [`Augmenter`]. The [`Classifier`] that comes out
//! names pictures, scores itself, and is saved to one file.
//!
//! # Quick start
//!
//! ```
//! use headstart::{
//!     Augmenter, Device, Block, Classifier, ConvBase, DirectoryDataset, Head, RmsProp, Trainer, Weights,
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
//! let base = ConvBase::compact(&Device::Cpu)?
//!     .frozen()                                                // every block…
//!     .unfreeze(Block::Conv5)?;                                // …but the last: fine-tuning
//! let head = Head::sigmoid().hidden(132);                      // or Head::softmax(2)
//! let mut model = Classifier::new(base, head, train.class_names())?;
//! println!("{}", model.summary());
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
//! [`data`] turns files into batches, [`model`] batches into logits, [`train`] both into a trained model; on the CPU
//! the crate's own kernels do the convolving. Errors name the file, the tensor or the option at fault ([`Error`]).
//! [`prelude`] has what most programs need.
//!
//! # Features
//!
//! `compact` (on by default) carries a base of 2.5 MB; `hub` (on by default) fetches ImageNet weights; `tensorboard`
//! writes event files; `mpi` trains on several machines, and `nccl` adds up on their GPUs; `report` writes pages
//! about trained models, and `cli` is the command `headstart`; `cuda`, `cudnn`, `metal`, `mkl` and `accelerate` are
//! candle's.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs, unreachable_pub)]
#![deny(unsafe_code)]

mod atomic_file;
mod bounds;
pub mod data;
mod device;
pub mod error;
pub mod export;
mod files;
mod finite;
mod history;
mod kernels;
pub mod model;
pub mod prelude;
pub mod progress;
mod random;
#[cfg(feature = "report")]
#[cfg_attr(docsrs, doc(cfg(feature = "report")))]
pub mod report;
pub mod run;
pub mod study;
mod tensor_file;
pub mod train;
mod transfer;
mod words;

/// Where tensors live, and what they are: candle's.
pub use candle_core::{Device, Tensor};

pub use device::best_device;

pub use data::{Augmenter, Dataset, DirectoryDataset, Preprocess, Resize};
pub use error::{Error, Result};
pub use model::{Block, Classifier, ConvBase, Head, Weights, bases};
pub use train::callback::{Callback, EarlyStopping, EpochEnd, StepEnd, Stop};
pub use train::optimizer::{AdamW, RmsProp, Sgd};
pub use train::{Checkpoints, FeatureCache, Trainer};

/// The snippets of the pages compile.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/HOWTO.md")]
    mod how_to {}
}
