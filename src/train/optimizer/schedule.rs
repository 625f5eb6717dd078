//! How the learning rate moves over the steps of a phase.

use std::f64::consts::PI;

use crate::bounds;
use crate::error::{Error, Result};

/// A one-cycle starts from this part of the learning rate, and ends at this part of where it started.
const START_DIVISOR: f64 = 25.0;
const END_DIVISOR: f64 = 1e4;
/// The share of a one-cycle's steps that go up by default.
const PCT_START: f64 = 0.3;

/// A learning-rate schedule: which share of its learning rate each step of a phase is made with.
///
/// A phase of T steps asks for the steps 0 to T − 1. The default is [`constant`](Self::constant).
///
/// ```
/// use headstart::train::optimizer::Schedule;
///
/// // Ten steps: two up to the learning rate, eight down to a tenth of it.
/// let schedule = Schedule::cosine(0.1).warmup(2);
/// let rates: Vec<f64> = (0..10).map(|step| schedule.learning_rate(1e-3, step, 10)).collect();
/// assert_eq!(rates[..3], [0.5e-3, 1e-3, 1e-3]);
/// assert!(rates[9] < rates[8] && rates[9] > 0.1e-3);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Schedule {
    warmup: usize,
    pct_start: Option<f64>,
    course: Course,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Course {
    #[default]
    Constant,
    Cosine {
        alpha: f64,
    },
    OneCycle,
}

impl Schedule {
    fn new(course: Course) -> Self {
        Self {
            warmup: 0,
            pct_start: None,
            course,
        }
    }

    /// The learning rate at every step.
    pub fn constant() -> Self {
        Self::new(Course::Constant)
    }

    /// From the learning rate down half a cosine to the share `alpha` of it, in [0, 1] (Loshchilov & Hutter, "SGDR",
    /// 2017, eq. 5, without restarts; Keras's `CosineDecay(alpha=…)`, PyTorch's `eta_min` over the learning rate).
    pub fn cosine(alpha: f64) -> Self {
        Self::new(Course::Cosine { alpha })
    }

    /// Up half a cosine to the learning rate, then down half a cosine to almost nothing (Smith & Topin,
    /// "Super-Convergence", 2018): PyTorch's `OneCycleLR` with its defaults (from 1/25 of the rate, up over
    /// 30 % of the steps, down to 1/250,000), and fastai's `fit_one_cycle`. The momentum is not cycled.
    pub fn one_cycle() -> Self {
        Self::new(Course::OneCycle)
    }

    /// Sets the share of a [one-cycle](Self::one_cycle)'s steps that go up, in (0, 1), as PyTorch and fastai call it;
    /// the default is 0.3, fastai's is 0.25. A trainer refuses it on any other schedule.
    pub fn pct_start(mut self, share: f64) -> Self {
        self.pct_start = Some(share);
        self
    }

    /// Goes up in a straight line over the first `steps` steps, of which the last has the learning rate
    /// itself; the schedule then runs over the steps that remain. The default is 0.
    pub fn warmup(mut self, steps: usize) -> Self {
        self.warmup = steps;
        self
    }

    /// The learning rate of step `step`, counted from 0, of `steps`, where `peak` is the learning rate the
    /// schedule was given.
    pub fn learning_rate(&self, peak: f64, step: usize, steps: usize) -> f64 {
        if step < self.warmup {
            return peak * (step + 1) as f64 / self.warmup as f64;
        }
        let step = (step - self.warmup) as f64;
        let steps = steps.saturating_sub(self.warmup) as f64;
        match self.course {
            Course::Constant => peak,
            Course::Cosine { alpha } => cosine(peak, peak * alpha, step / steps),
            Course::OneCycle => one_cycle(peak, self.pct_start.unwrap_or(PCT_START), step, steps),
        }
    }

    /// Checks every option.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an option out of range.
    pub fn check(&self) -> Result<()> {
        bounds::within("warmup", self.warmup, 0..=bounds::STEPS)?;
        if let Course::Cosine { alpha } = self.course
            && !(0.0..=1.0).contains(&alpha)
        {
            return Err(Error::option("alpha", alpha, "0 to 1"));
        }
        match self.pct_start {
            Some(_) if self.course != Course::OneCycle => Err(Error::mismatch(
                "`pct_start`",
                "set on a schedule that does not go up",
                "Schedule::one_cycle()",
            )),
            Some(share) if !(share > 0.0 && share < 1.0) => {
                Err(Error::option("pct_start", share, "above 0 and below 1"))
            }
            _ => Ok(()),
        }
    }
}

/// The rate of a step of a one-cycle, of which the share `pct_start` goes up.
fn one_cycle(peak: f64, pct_start: f64, step: f64, steps: f64) -> f64 {
    let start = peak / START_DIVISOR;
    let (top, last) = (pct_start * steps - 1.0, steps - 1.0);
    if step < top {
        return cosine(start, peak, step / top);
    }
    // Of very few steps none goes up.
    let top = top.max(0.0);
    let share = (step - top) / (last - top).max(1.0);
    cosine(peak, start / END_DIVISOR, share)
}

/// From `from` (share 0) to `to` (share 1) along half a cosine.
fn cosine(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) / 2.0 * (1.0 + (PI * share).cos())
}
