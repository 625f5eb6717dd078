//! How the learning rate moves over the steps of a phase.

use std::f64::consts::PI;

use crate::{Error, Result};

/// A learning-rate schedule: which share of its learning rate each step of a phase is made with.
///
/// A phase of T steps asks for the steps 0 to T − 1. The default is [`constant`](Self::constant).
///
/// ```
/// use headstart::Schedule;
///
/// // Ten steps: two up to the learning rate, eight down to a tenth of it.
/// let schedule = Schedule::cosine(0.1).warm_up(2);
/// let rates: Vec<f64> = (0..10).map(|step| schedule.learning_rate(1e-3, step, 10)).collect();
/// assert_eq!(rates[..3], [0.5e-3, 1e-3, 1e-3]);
/// assert!(rates[9] < rates[8] && rates[9] > 0.1e-3);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Schedule {
    warm_up: usize,
    course: Course,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Course {
    #[default]
    Constant,
    Cosine {
        floor: f64,
    },
    OneCycle {
        rise: f64,
        start_divisor: f64,
        end_divisor: f64,
    },
}

impl Schedule {
    /// The learning rate at every step.
    pub fn constant() -> Self {
        Self::default()
    }

    /// From the learning rate down half a cosine to the share `floor` of it, in [0, 1] (Loshchilov & Hutter,
    /// "SGDR", 2017, eq. 5, without restarts; Keras's `CosineDecay(alpha=floor)`).
    pub fn cosine(floor: f64) -> Self {
        Self {
            warm_up: 0,
            course: Course::Cosine { floor },
        }
    }

    /// Up half a cosine to the learning rate, then down half a cosine to almost nothing (Smith & Topin,
    /// "Super-Convergence", 2018): PyTorch's `OneCycleLR` with its defaults (from 1/25 of the rate, up over
    /// 30 % of the steps, down to 1/250,000), and fastai's `fit_one_cycle`. The momentum is not cycled.
    pub fn one_cycle() -> Self {
        Self {
            warm_up: 0,
            course: Course::OneCycle {
                rise: 0.3,
                start_divisor: 25.0,
                end_divisor: 1e4,
            },
        }
    }

    /// Sets the share of a one-cycle's steps that go up, in (0, 1) ("pct_start": PyTorch 0.3, fastai 0.25).
    /// Other schedules have none.
    pub fn rise(mut self, share: f64) -> Self {
        if let Course::OneCycle { rise, .. } = &mut self.course {
            *rise = share;
        }
        self
    }

    /// Goes up in a straight line over the first `steps` steps, of which the last has the learning rate
    /// itself; the schedule then runs over the steps that remain.
    pub fn warm_up(mut self, steps: usize) -> Self {
        self.warm_up = steps;
        self
    }

    /// The learning rate of step `step`, counted from 0, of `steps`, where `peak` is the learning rate the
    /// schedule was given.
    pub fn learning_rate(&self, peak: f64, step: usize, steps: usize) -> f64 {
        if step < self.warm_up {
            return peak * (step + 1) as f64 / self.warm_up as f64;
        }
        let step = (step - self.warm_up) as f64;
        let steps = steps.saturating_sub(self.warm_up) as f64;
        match self.course {
            Course::Constant => peak,
            Course::Cosine { floor } => cosine(peak, peak * floor, step / steps),
            Course::OneCycle {
                rise,
                start_divisor,
                end_divisor,
            } => {
                let start = peak / start_divisor;
                let (top, last) = (rise * steps - 1.0, steps - 1.0);
                if step < top {
                    cosine(start, peak, step / top)
                } else {
                    // Of very few steps none goes up.
                    let top = top.max(0.0);
                    cosine(
                        peak,
                        start / end_divisor,
                        (step - top) / (last - top).max(1.0),
                    )
                }
            }
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.course {
            Course::Cosine { floor } if !(0.0..=1.0).contains(&floor) => {
                Err(Error::option("floor", floor, "0 to 1"))
            }
            Course::OneCycle { rise, .. } if !(rise > 0.0 && rise < 1.0) => {
                Err(Error::option("rise", rise, "above 0 and below 1"))
            }
            _ => Ok(()),
        }
    }
}

/// From `from` (share 0) to `to` (share 1) along half a cosine.
fn cosine(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) / 2.0 * (1.0 + (PI * share).cos())
}
