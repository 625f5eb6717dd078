//! How well a classifier does: losses, scores, and what each epoch reached.

mod chart;
mod evaluate;
mod evaluation;
mod history;
mod loss;
mod scores;

pub(super) use evaluate::{Evaluator, check_classes};
pub(crate) use evaluation::predicted_class;
pub use evaluation::{ClassMetrics, Evaluation};
pub(super) use history::CSV_HEADER;
pub use loss::{Loss, LossOptions};
pub use scores::{Bin, PictureScore, Scores};

pub use crate::history::{EpochRecord, History};
