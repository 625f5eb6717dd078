//! RMSprop, as Keras 3 or as PyTorch computes it.

mod fused;

use std::cell::RefCell;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_nn::Optimizer;

use self::fused::FusedStep;
use crate::{Error, Result};

/// Where epsilon stands, and with it the order of momentum and learning rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Epsilon {
    /// g / √(v + ε): Keras 2.11 and later.
    #[default]
    InsideRoot,
    /// g / (√v + ε): PyTorch, and Keras up to 2.10.
    OutsideRoot,
}

/// RMSprop (Hinton, "Neural Networks for Machine Learning", lecture 6e), with Keras 3's formula and defaults.
///
/// With learning rate `lr`, for each variable w with gradient g:
///
/// ```text
/// w ← w − lr · weight_decay · w                                  (decoupled)
/// v ← rho · v + (1 − rho) · g²
/// a ← rho · a + (1 − rho) · g                                    (only if centered; else 0)
/// d = √(v − a² + epsilon)    or    √(v − a²) + epsilon           (see Epsilon)
/// w ← w − lr · g / d         or, with momentum, m ← momentum · m + lr · g / d;  w ← w − m
/// ```
///
/// Rounding can bring v − a² below 0, where it has no root: it then counts as 0.
///
/// Variables are updated in the order they are given. State is kept for them alone, from their first gradient
/// on: a frozen tensor has none. On the CPU in f32 a step is one pass over memory, in place.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use headstart::RmsProp;
///
/// // keras.optimizers.RMSprop's docstring: lr 0.1, w 10, loss w²/2 → 9.683772.
/// let w = Var::new(10f32, &Device::Cpu)?;
/// let mut optimizer = RmsProp::new(0.1).with_variables(vec![w.clone()])?;
/// let loss = (w.sqr()? * 0.5)?;
/// optimizer.backward_step(&loss)?;
/// assert!((w.to_scalar::<f32>()? - 9.683_772).abs() < 1e-6);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RmsProp {
    learning_rate: f64,
    rho: f64,
    momentum: f64,
    epsilon: f64,
    epsilon_placement: Epsilon,
    centered: bool,
    weight_decay: f64,
    slots: Vec<Slot>,
}

/// A variable and its state, which the first gradient brings about.
#[derive(Clone, Debug)]
struct Slot {
    variable: Var,
    state: Option<State>,
}

#[derive(Clone, Debug)]
enum State {
    /// f32 on the CPU: see [`fused`].
    Cpu(Averages<Vec<f32>>),
    /// Anything else: candle's operations.
    Tensors(Averages<Tensor>),
}

/// The running averages of one variable; those the options leave unused are not there.
#[derive(Clone, Debug)]
struct Averages<T> {
    mean_square: T,
    mean: Option<T>,
    momentum: Option<T>,
}

impl<T> Averages<T> {
    fn as_mut(&mut self) -> Averages<&mut T> {
        Averages {
            mean_square: &mut self.mean_square,
            mean: self.mean.as_mut(),
            momentum: self.momentum.as_mut(),
        }
    }

    fn map<U>(self, convert: impl Fn(T) -> U) -> Averages<U> {
        Averages {
            mean_square: convert(self.mean_square),
            mean: self.mean.map(&convert),
            momentum: self.momentum.map(&convert),
        }
    }
}

impl RmsProp {
    /// An optimizer without variables yet: a trainer gives it the model's.
    ///
    /// Defaults: rho 0.9, momentum 0, epsilon 1e-7 inside the root, not centered, no weight decay.
    pub fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            rho: 0.9,
            momentum: 0.0,
            epsilon: 1e-7,
            epsilon_placement: Epsilon::InsideRoot,
            centered: false,
            weight_decay: 0.0,
            slots: Vec::new(),
        }
    }

    /// `torch.optim.RMSprop`'s formula and defaults: rho ("alpha") 0.99, epsilon 1e-8 outside the root. Its
    /// weight decay is another thing, a penalty added to the gradient; ours is decoupled in both forms.
    pub fn pytorch(learning_rate: f64) -> Self {
        Self::new(learning_rate)
            .rho(0.99)
            .epsilon(1e-8)
            .epsilon_placement(Epsilon::OutsideRoot)
    }

    /// Sets how slowly the averages forget, in [0, 1); the default is 0.9.
    pub fn rho(mut self, rho: f64) -> Self {
        self.rho = rho;
        self
    }

    /// Sets the momentum, in [0, 1); the default is 0.
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// Sets epsilon, above 0; the default is 1e-7.
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Sets where epsilon stands; the default is inside the root.
    pub fn epsilon_placement(mut self, placement: Epsilon) -> Self {
        self.epsilon_placement = placement;
        self
    }

    /// Divides by the standard deviation of the gradient instead of its root mean square; the default is not
    /// to.
    pub fn centered(mut self, centered: bool) -> Self {
        self.centered = centered;
        self
    }

    /// Sets the share of each weight, times the learning rate, that a step takes away; the default is 0.
    pub fn weight_decay(mut self, decay: f64) -> Self {
        self.weight_decay = decay;
        self
    }

    /// Gives the optimizer its variables, in the order they will be updated, with fresh state.
    ///
    /// # Errors
    /// [`Error::Option`] for an option out of range.
    pub fn with_variables(mut self, variables: Vec<Var>) -> Result<Self> {
        self.check()?;
        self.slots = variables
            .into_iter()
            .map(|variable| Slot {
                variable,
                state: None,
            })
            .collect();
        Ok(self)
    }

    /// Checks every option.
    ///
    /// # Errors
    /// [`Error::Option`] for an option out of range.
    pub fn check(&self) -> Result<()> {
        let finite = |value: f64| value.is_finite() && value >= 0.0;
        let rules = [
            (
                "learning_rate",
                self.learning_rate,
                finite(self.learning_rate),
                "0 or more",
            ),
            (
                "rho",
                self.rho,
                (0.0..1.0).contains(&self.rho),
                "at least 0 and below 1",
            ),
            (
                "momentum",
                self.momentum,
                (0.0..1.0).contains(&self.momentum),
                "at least 0 and below 1",
            ),
            (
                "epsilon",
                self.epsilon,
                finite(self.epsilon) && self.epsilon > 0.0,
                "above 0",
            ),
            (
                "weight_decay",
                self.weight_decay,
                finite(self.weight_decay),
                "0 or more",
            ),
        ];
        for (option, value, holds, allowed) in rules {
            if !holds {
                return Err(Error::option(option, value, allowed));
            }
        }
        Ok(())
    }

    /// A copy of the running averages, for a checkpoint: for each variable that had a gradient, by its position,
    /// `0.mean_square` and, if the options use them, `0.mean` and `0.momentum`, shaped as the variable.
    ///
    /// # Errors
    /// candle's, on a device without memory.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            let (shape, device) = (slot.variable.shape(), slot.variable.device());
            let averages = match &slot.state {
                None => continue,
                Some(State::Cpu(averages)) => averages
                    .clone()
                    .map(|values| Tensor::from_vec(values, shape, device)),
                Some(State::Tensors(averages)) => averages.clone().map(|tensor| tensor.copy()),
            };
            tensors.push((format!("{index}.mean_square"), averages.mean_square?));
            for (name, tensor) in [("mean", averages.mean), ("momentum", averages.momentum)] {
                if let Some(tensor) = tensor {
                    tensors.push((format!("{index}.{name}"), tensor?));
                }
            }
        }
        Ok(tensors)
    }

    /// What weight decay leaves of a weight, if there is any.
    fn kept(&self) -> Option<f64> {
        (self.weight_decay > 0.0).then_some(1.0 - self.weight_decay * self.learning_rate)
    }

    fn update(&self, slot: &mut Slot, gradient: &Tensor) -> candle_core::Result<()> {
        let state = match &mut slot.state {
            Some(state) => state,
            none => none.insert(self.fresh_state(&slot.variable)?),
        };
        match state {
            State::Cpu(averages) => {
                let step = FusedStep {
                    options: self,
                    averages: RefCell::new(averages),
                };
                slot.variable.inplace_op2(&gradient.contiguous()?, &step)
            }
            State::Tensors(averages) => self.update_tensors(&slot.variable, averages, gradient),
        }
    }

    fn fresh_state(&self, variable: &Var) -> candle_core::Result<State> {
        let zeros = Averages {
            mean_square: (),
            mean: self.centered.then_some(()),
            momentum: (self.momentum > 0.0).then_some(()),
        };
        Ok(
            if variable.device().is_cpu() && variable.dtype() == DType::F32 {
                State::Cpu(zeros.map(|()| vec![0.0; variable.elem_count()]))
            } else {
                let tensor = variable.as_detached_tensor().zeros_like()?;
                State::Tensors(zeros.map(|()| tensor.clone()))
            },
        )
    }

    fn update_tensors(
        &self,
        variable: &Var,
        averages: &mut Averages<Tensor>,
        gradient: &Tensor,
    ) -> candle_core::Result<()> {
        let average = |old: &Tensor, new: &Tensor| (old * self.rho)? + (new * (1.0 - self.rho))?;
        averages.mean_square = average(&averages.mean_square, &gradient.sqr()?)?;
        let variance = match &mut averages.mean {
            Some(mean) => {
                *mean = average(mean, gradient)?;
                (&averages.mean_square - mean.sqr()?)?.maximum(0.0)?
            }
            None => averages.mean_square.clone(),
        };
        let denominator = match self.epsilon_placement {
            Epsilon::InsideRoot => (variance + self.epsilon)?.sqrt()?,
            Epsilon::OutsideRoot => (variance.sqrt()? + self.epsilon)?,
        };
        let mut increment = ((gradient * self.learning_rate)? / denominator)?;
        if let Some(momentum) = &mut averages.momentum {
            *momentum = ((&*momentum * self.momentum)? + increment)?;
            increment = momentum.clone();
        }
        let mut weight = variable.as_detached_tensor();
        if let Some(kept) = self.kept() {
            weight = (weight * kept)?;
        }
        variable.set(&(weight - increment)?)
    }
}

impl Optimizer for RmsProp {
    type Config = Self;

    /// Gives `config`'s options to an optimizer of these variables.
    fn new(variables: Vec<Var>, config: Self) -> candle_core::Result<Self> {
        config
            .with_variables(variables)
            .map_err(candle_core::Error::wrap)
    }

    /// Updates every variable that has a gradient.
    fn step(&mut self, gradients: &GradStore) -> candle_core::Result<()> {
        let mut slots = std::mem::take(&mut self.slots);
        let outcome = slots
            .iter_mut()
            .try_for_each(|slot| match gradients.get(&slot.variable) {
                Some(gradient) => self.update(slot, &gradient.detach()),
                None => Ok(()),
            });
        self.slots = slots;
        outcome
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.learning_rate = learning_rate;
    }
}
