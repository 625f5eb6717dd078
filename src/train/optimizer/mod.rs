//! How gradients become an update: rules, the optimizers that apply them, schedules and clipping.
//!
//! [`RmsProp`], [`AdamW`] and [`Sgd`] are one [`Optimizer`] with different rules. To bring an optimizer of your own,
//! implement [`UpdateRule`]: the formula for one variable is all it takes. State, checkpoints, learning rates by block
//! and resuming come with it.

mod adamw;
mod any;
mod clip;
mod fused;
mod generic;
mod rmsprop;
mod rule;
mod schedule;
mod sgd;
mod states;

pub use adamw::{AdamW, AdamWRule};
pub use any::AnyOptimizer;
pub use clip::Clip;
pub use fused::SLOTS;
pub use fused::{Chunk, Fused};
pub(in crate::train) use fused::{put_back, take_out};
pub use generic::Optimizer;
pub use rmsprop::{EpsilonPlacement, RmsProp, RmsPropRule};
pub use rule::{Step, UpdateRule};
pub use schedule::Schedule;
pub use sgd::{Sgd, SgdRule};
pub(in crate::train) use states::{Planned, Variable, VariableStates};
