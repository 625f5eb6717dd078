//! Training, from outside: runs, recipes, callbacks, checkpoints, caches, losses, metrics and optimizers.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/many.rs"]
#[cfg(target_os = "linux")]
mod many;
#[path = "../../fuzz/targets.rs"]
mod targets;

mod auto_traits;
mod callbacks;
mod checkpoints;
mod crash_resume;
mod damaged;
mod features;
mod fine_tune;
mod finite;
#[cfg(target_os = "linux")]
mod full_disk;
mod fuzz;
mod keras_callbacks;
mod loss;
#[cfg(target_os = "linux")]
mod many_classes;
#[cfg(target_os = "linux")]
mod memory;
mod metrics;
mod nothing;
mod optimizers;
mod own_optimizer;
mod parity;
mod ranks;
mod recipes;
mod resume;
mod rmsprop;
mod run_folder;
mod santa;
mod schedule;
mod scores;
#[cfg(target_os = "linux")]
mod soak;
mod study;
mod training;
mod verbosity;
