//! One HTML file about a trained model, to show and to send: no network, no script, light and dark.
//!
//! [`Report`] is the page of one model, [`Comparison`] that of several runs, and
//! [`History::plot`](crate::train::metrics::History::plot) a run's curves alone.

mod compare;
mod contents;
mod oddities;
mod page;
mod pictures;
mod plot;

pub use compare::Comparison;
pub use contents::Report;
