//! A run: its options, its loop, and its checkpoints.
//!
//! A [`Trainer`] sets [`Options`](options::Options); [`Run`](run::Run) reads them, goes from phase to phase, epoch to
//! epoch and step to step ([`TrainStep`](step::TrainStep)), and keeps its [`Position`](position::Position), which a
//! [`Checkpoint`](checkpoint::Checkpoint) writes down. Where several processes train,
//! [`Ranks`](super::ranks::Ranks) keeps them together.

mod checkpoint;
mod checkpoints;
mod difference;
mod enough;
mod fine_tune;
mod gradient_sums;
mod intention;
mod lr_finder;
mod options;
mod phase;
mod pictures;
mod position;
mod run;
mod run_folder;
mod settings;
mod step;
mod trainer;

pub use checkpoints::Checkpoints;
pub(crate) use fine_tune::{FineTuning, augmenter as fine_tuning_augmenter};
pub use lr_finder::LrRangeTest;
pub use phase::Phase;
pub use run_folder::RunFolder;
pub use trainer::Trainer;
