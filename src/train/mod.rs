//! Batches + model → trained model.

mod adamw;
mod history;
mod loss;
mod metrics;
mod optimizer;
mod rmsprop;
mod sgd;
mod trainer;

pub use adamw::AdamW;
pub use history::{EpochRecord, History};
pub use loss::Loss;
pub use metrics::{ClassMetrics, Evaluation};
pub use optimizer::AnyOptimizer;
pub use rmsprop::{Epsilon, RmsProp};
pub use sgd::Sgd;
pub use trainer::Trainer;
