//! Batches + model → trained model.
//!
//! A [`Trainer`] holds options and fits a classifier. What it is made of lies in folders: [`optimizer`] moves the
//! weights, [`callback`] watches and may stop the run, [`metrics`] says how well it went, and a [`communicator`] joins
//! several processes.

mod batches;
pub mod callback;
mod checksum;
pub mod communicator;
mod features;
mod fit;
pub mod metrics;
pub mod optimizer;
mod range;
mod ranks;

pub use features::FeatureCache;
pub use fit::{Checkpoints, LrRangeTest, Phase, RunFolder, Trainer};
pub(crate) use fit::{FineTuning, fine_tuning_augmenter};
pub(crate) use ranks::{Intention, Ranks, in_turn};
