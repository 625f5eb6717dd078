//! Batches + model → trained model.

mod adamw;
mod callback;
mod checkpoint;
mod clip;
mod early_stopping;
mod evaluate;
mod features;
mod fine_tune;
mod history;
#[cfg(test)]
mod keras_tests;
mod learner;
mod loggers;
mod loss;
mod lr_finder;
mod metrics;
mod monitor;
mod optimizer;
mod phase;
mod plateau;
mod progress_bar;
mod rmsprop;
mod run;
mod schedule;
mod sgd;
mod source;
#[cfg(feature = "tensorboard")]
mod tensorboard;
mod trainer;

pub use adamw::AdamW;
pub use callback::{Callback, CallbackState, EpochBegin, EpochEnd, StepEnd, Stop, TrainBegin};
pub use checkpoint::Checkpoints;
pub use clip::Clip;
pub use early_stopping::EarlyStopping;
pub use features::FeatureCache;
pub use history::{EpochRecord, History};
pub use loggers::{CsvLog, JsonLines};
pub use loss::{Loss, Targets};
pub use lr_finder::LearningRates;
pub use metrics::{ClassMetrics, Evaluation};
pub use monitor::Monitor;
pub use optimizer::AnyOptimizer;
pub use phase::Phase;
pub use plateau::ReduceOnPlateau;
pub use rmsprop::{Epsilon, RmsProp};
pub use schedule::Schedule;
pub use sgd::Sgd;
#[cfg(feature = "tensorboard")]
pub use tensorboard::TensorBoard;
pub use trainer::Trainer;
