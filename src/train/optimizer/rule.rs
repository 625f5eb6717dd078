//! The formula of an optimizer: what to implement for one of your own.

use std::fmt;

use candle_core::{Result as CandleResult, Tensor};

use super::fused::{Fused, SLOTS};
use crate::error::{Error, Result};

/// How a gradient moves one variable: the formula of an [`Optimizer`](super::Optimizer).
///
/// Each variable has up to [`SLOTS`] state tensors of its own shape, which start at zero with its first gradient. The
/// optimizer keeps them, writes them to checkpoints and reads them back; a frozen tensor has none.
///
/// ```
/// use candle_core::{Device, Result, Tensor, Var};
/// use candle_nn::Optimizer as _;
/// use headstart::train::optimizer::{Optimizer, SLOTS, Step, UpdateRule};
/// use headstart::Trainer;
///
/// /// Lion (Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023), without weight decay.
/// #[derive(Debug)]
/// struct Lion {
///     beta1: f64,
///     beta2: f64,
/// }
///
/// impl UpdateRule for Lion {
///     fn name(&self) -> &'static str {
///         "lion"
///     }
///     fn settings(&self) -> serde_json::Value {
///         serde_json::json!({ "beta1": self.beta1, "beta2": self.beta2 })
///     }
///     fn slots(&self) -> [Option<&'static str>; SLOTS] {
///         [Some("momentum"), None, None]
///     }
///     fn update(
///         &self,
///         step: Step,
///         weight: &Tensor,
///         gradient: &Tensor,
///         slots: &mut [Option<Tensor>; SLOTS],
///     ) -> Result<Tensor> {
///         let mix = |m: &Tensor, beta: f64| (m * beta)? + (gradient * (1.0 - beta))?;
///         let [Some(momentum), ..] = slots else { unreachable!("a slot that was asked for") };
///         let direction = mix(momentum, self.beta1)?.sign()?;
///         *momentum = mix(momentum, self.beta2)?;
///         weight - (direction * step.learning_rate)?
///     }
/// }
///
/// // In a loop of one's own, where it is candle's trait …
/// let lion = || Optimizer::from_rule(Lion { beta1: 0.9, beta2: 0.99 }, 0.1);
/// let w = Var::new(&[3f32, -2.0], &Device::Cpu)?;
/// let mut optimizer = lion().with_variables(vec![w.clone()])?;
/// optimizer.backward_step(&w.sqr()?.sum_all()?)?;
/// assert_eq!(w.to_vec1::<f32>()?, [2.9, -1.9]);
/// // … or in a trainer, which resumes it from checkpoints like any other.
/// let trainer = Trainer::new(lion()).epochs(10);
/// # Ok::<(), headstart::Error>(())
/// ```
pub trait UpdateRule: fmt::Debug + Send + Sync + 'static {
    /// The optimizer's name, in errors and checkpoints.
    fn name(&self) -> &'static str;

    /// The options: a run is only resumed with those it was begun with. The learning rate is not among them.
    fn settings(&self) -> serde_json::Value;

    /// Refuses options out of range; by default there are none.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] naming the option.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The names of the state tensors that these options need, each in its place; `None` for a place without.
    fn slots(&self) -> [Option<&'static str>; SLOTS];

    /// Whether the formula uses [`Step::number`]: the count is then part of the state. `false` by default.
    fn counts_steps(&self) -> bool {
        false
    }

    /// The step in candle's operations: moves the state, and returns the new weight. `gradient` and `weight` have no
    /// graph.
    ///
    /// # Errors
    /// candle's.
    fn update(
        &self,
        step: Step,
        weight: &Tensor,
        gradient: &Tensor,
        slots: &mut [Option<Tensor>; SLOTS],
    ) -> CandleResult<Tensor>;

    /// The same step as plain loops, for variables of f32 on the CPU: one pass over memory, in place, on all threads.
    /// By default there is none, and [`update`](Self::update) serves there too. Whether there is one must not depend
    /// on `step`.
    fn fused(&self, _step: Step) -> Option<Fused> {
        None
    }
}

/// A variable's step.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Step {
    /// Its learning rate, the variable's multiplier included.
    pub learning_rate: f64,
    /// How many steps the variable has taken, this one included.
    pub number: u64,
}

impl Step {
    pub(super) fn new(learning_rate: f64, number: u64) -> Self {
        Self {
            learning_rate,
            number,
        }
    }
}

/// Checks options by (name, value, whether it is in range, the range in words).
pub(super) fn check_options(options: &[(&'static str, f64, bool, &str)]) -> Result<()> {
    for (option, value, in_range, allowed) in options {
        if !in_range {
            return Err(Error::option(option, value, *allowed));
        }
    }
    Ok(())
}
