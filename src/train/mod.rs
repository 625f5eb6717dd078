//! Batches + model → trained model.

mod features;
mod history;
mod loss;
mod metrics;
mod rmsprop;
mod source;
mod trainer;

pub use features::FeatureCache;
pub use history::{EpochRecord, History};
pub use loss::Loss;
pub use metrics::{ClassMetrics, Evaluation};
pub use rmsprop::{Epsilon, RmsProp};
pub use trainer::Trainer;
