//! RMSprop, as Keras 3 or as PyTorch computes it.

use candle_core::{Result as CandleResult, Tensor};

use super::optimizer::{
    CHUNK, LANES, Lanes, Rule, Slots, check_options, not_negative, optimizer_methods,
};
use crate::Result;

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
#[derive(Clone, Debug, serde::Serialize)]
pub struct RmsProp {
    pub(super) learning_rate: f64,
    rho: f64,
    momentum: f64,
    epsilon: f64,
    epsilon_placement: Epsilon,
    centered: bool,
    weight_decay: f64,
    #[serde(skip)]
    pub(super) slots: Slots,
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
            slots: Slots::default(),
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

    /// Checks every option.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for an option out of range.
    pub fn check(&self) -> Result<()> {
        let share = |value: f64| (0.0..1.0).contains(&value);
        let (rate, epsilon, decay) = (self.learning_rate, self.epsilon, self.weight_decay);
        let below_1 = "at least 0 and below 1";
        check_options(&[
            ("learning_rate", rate, not_negative(rate), "0 or more"),
            ("rho", self.rho, share(self.rho), below_1),
            ("momentum", self.momentum, share(self.momentum), below_1),
            (
                "epsilon",
                epsilon,
                not_negative(epsilon) && epsilon > 0.0,
                "above 0",
            ),
            ("weight_decay", decay, not_negative(decay), "0 or more"),
        ])
    }

    /// What weight decay leaves of a weight, if there is any.
    fn kept(&self, learning_rate: f64) -> Option<f64> {
        (self.weight_decay > 0.0).then_some(1.0 - self.weight_decay * learning_rate)
    }
}

/// The options as f32.
pub(super) struct Factors {
    learning_rate: f32,
    rho: f32,
    one_minus_rho: f32,
    momentum: f32,
    epsilon: f32,
    placement: Epsilon,
    /// What weight decay leaves of a weight.
    kept: Option<f32>,
}

impl Rule for RmsProp {
    const NAME: &'static str = "rmsprop";
    type Factors = Factors;

    fn lanes(&self) -> [Option<&'static str>; LANES] {
        [
            Some("mean_square"),
            self.centered.then_some("mean"),
            (self.momentum > 0.0).then_some("momentum"),
        ]
    }

    fn factors(&self, learning_rate: f64, _step: u64) -> Factors {
        Factors {
            learning_rate: learning_rate as f32,
            rho: self.rho as f32,
            one_minus_rho: (1.0 - self.rho) as f32,
            momentum: self.momentum as f32,
            epsilon: self.epsilon as f32,
            placement: self.epsilon_placement,
            kept: self.kept(learning_rate).map(|kept| kept as f32),
        }
    }

    /// The formula, a line of it per loop: plain loops over slices are what the compiler turns into vectors.
    fn step_chunk(factors: &Factors, lanes: Lanes<'_>) {
        let [mean_square, mean, momentum] = lanes.state;
        let mut scratch = [0f32; CHUNK];
        let increment = &mut scratch[..lanes.weight.len()];

        for (v, g) in mean_square.iter_mut().zip(lanes.gradient) {
            *v = factors.rho * *v + factors.one_minus_rho * (g * g);
        }
        increment.copy_from_slice(mean_square);
        // Without a mean there is nothing to zip with.
        for ((d, a), g) in increment.iter_mut().zip(mean).zip(lanes.gradient) {
            *a = factors.rho * *a + factors.one_minus_rho * g;
            *d = (*d - *a * *a).max(0.0);
        }
        match factors.placement {
            Epsilon::InsideRoot => {
                for (d, g) in increment.iter_mut().zip(lanes.gradient) {
                    *d = factors.learning_rate * g / (*d + factors.epsilon).sqrt();
                }
            }
            Epsilon::OutsideRoot => {
                for (d, g) in increment.iter_mut().zip(lanes.gradient) {
                    *d = factors.learning_rate * g / (d.sqrt() + factors.epsilon);
                }
            }
        }
        for (d, m) in increment.iter_mut().zip(momentum) {
            *m = factors.momentum * *m + *d;
            *d = *m;
        }
        if let Some(kept) = factors.kept {
            for w in lanes.weight.iter_mut() {
                *w *= kept;
            }
        }
        for (w, d) in lanes.weight.iter_mut().zip(&*increment) {
            *w -= d;
        }
    }

    fn step_tensors(
        &self,
        learning_rate: f64,
        _step: u64,
        mut weight: Tensor,
        gradient: &Tensor,
        state: &mut [Option<Tensor>; LANES],
    ) -> CandleResult<Tensor> {
        let [Some(mean_square), mean, momentum] = state else {
            candle_core::bail!("rmsprop: state without its mean square");
        };
        let average = |old: &Tensor, new: &Tensor| (old * self.rho)? + (new * (1.0 - self.rho))?;
        *mean_square = average(mean_square, &gradient.sqr()?)?;
        let variance = match mean {
            Some(mean) => {
                *mean = average(mean, gradient)?;
                (&*mean_square - mean.sqr()?)?.maximum(0.0)?
            }
            None => mean_square.clone(),
        };
        let denominator = match self.epsilon_placement {
            Epsilon::InsideRoot => (variance + self.epsilon)?.sqrt()?,
            Epsilon::OutsideRoot => (variance.sqrt()? + self.epsilon)?,
        };
        let mut increment = ((gradient * learning_rate)? / denominator)?;
        if let Some(momentum) = momentum {
            *momentum = ((&*momentum * self.momentum)? + increment)?;
            increment = momentum.clone();
        }
        if let Some(kept) = self.kept(learning_rate) {
            weight = (weight * kept)?;
        }
        weight - increment
    }
}

optimizer_methods!(RmsProp);
