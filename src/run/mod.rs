//! A whole run: from a folder of pictures and a few settings to a folder with a model and its figures.
//!
//! What the command `headstart train` and the example `santa` share: [`Parts`] finds the pictures to train, validate
//! and test on, [`Settings`] say what is trained on what and how, and a [`Run`] keeps the results.

#[cfg(feature = "cli")]
mod config;
mod folder;
mod parts;
mod record;
mod settings;
mod words;

#[cfg(feature = "cli")]
pub use config::Config;
pub use folder::{Metrics, Run, Start};
pub use parts::Parts;
pub use record::Record;
pub use settings::{HeadKind, LearningRate, Recipe, Settings};
