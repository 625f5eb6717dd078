//! What may watch a run, change it, and stop it: one trait, [`Callback`], the events it is called with, and the
//! callbacks that come with the crate.
//!
//! Each event can be made by hand, with `new` and its public fields, to test a callback without training anything:
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use headstart::train::callback::{Callback, EpochEnd, Stop};
//! use headstart::train::metrics::{EpochRecord, Evaluation, History};
//! use headstart::Result;
//!
//! struct GoodEnough(f64);
//!
//! impl Callback for GoodEnough {
//!     fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
//!         if epoch.record.val_accuracy >= Some(self.0) {
//!             return Ok(ControlFlow::Break(Stop::Run));
//!         }
//!         Ok(ControlFlow::Continue(()))
//!     }
//! }
//!
//! let (validation, history) = (Evaluation::default(), History::default());
//! let mut after = |val_accuracy| {
//!     let record = EpochRecord { val_accuracy: Some(val_accuracy), ..EpochRecord::default() };
//!     let mut learning_rate = 1e-3;
//!     let mut event = EpochEnd::new(&record, &validation, &history, &mut learning_rate);
//!     GoodEnough(0.95).on_epoch_end(&mut event)
//! };
//! assert_eq!(after(0.90)?, ControlFlow::Continue(()));
//! assert_eq!(after(0.97)?, ControlFlow::Break(Stop::Run));
//! # Ok::<(), headstart::Error>(())
//! ```

mod append;
mod csv;
mod early_stopping;
mod events;
mod hooks;
mod jsonl;
mod list;
mod monitor;
mod progress;
mod reduce_lr_on_plateau;
#[cfg(feature = "tensorboard")]
mod tensorboard;

pub use csv::CsvLogger;
pub use early_stopping::EarlyStopping;
pub use events::{EpochBegin, EpochEnd, StepEnd, Stop, TrainBegin};
pub use hooks::{Callback, CallbackState};
pub use jsonl::JsonLinesLogger;
pub(super) use list::Callbacks;
pub use monitor::Monitor;
pub(super) use progress::ProgressBar;
pub use reduce_lr_on_plateau::ReduceLrOnPlateau;
#[cfg(feature = "tensorboard")]
#[cfg_attr(docsrs, doc(cfg(feature = "tensorboard")))]
pub use tensorboard::TensorBoard;
