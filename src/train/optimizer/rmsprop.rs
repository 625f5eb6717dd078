//! RMSprop, as Keras 3 or as PyTorch computes it.

use candle_core::{Result as CandleResult, Tensor};
use serde_json::{Value, json};

use super::fused::SLOTS;
use super::fused::{Chunk, Fused};
use super::generic::Optimizer;
use super::rule::{Step, UpdateRule, check_options};
use crate::error::Result;
use crate::train::range::{below_one, not_negative};

/// Where epsilon stands, and with it whether the learning rate is inside of the momentum: it tells once the rate
/// changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpsilonPlacement {
    /// g / √(v + ε), the rate inside: Keras 2.11 and later.
    #[default]
    InsideRoot,
    /// g / (√v + ε), the rate outside: PyTorch. Keras up to 2.10 is the same but for a rate that changes under
    /// momentum.
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
/// d = √(v − a² + epsilon)    or    √(v − a²) + epsilon           (see EpsilonPlacement)
/// w ← w − lr · g / d         or, with momentum, m ← momentum · m + lr · g / d;  w ← w − m
///                            (epsilon outside:  m ← momentum · m + g / d;       w ← w − lr · m)
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
pub type RmsProp = Optimizer<RmsPropRule>;

/// The options of [`RmsProp`].
#[derive(Clone, Debug, serde::Serialize)]
pub struct RmsPropRule {
    rho: f64,
    momentum: f64,
    epsilon: f64,
    epsilon_placement: EpsilonPlacement,
    centered: bool,
    weight_decay: f64,
}

impl RmsProp {
    /// An optimizer without variables yet: a trainer gives it the model's.
    ///
    /// Defaults: rho 0.9, momentum 0, epsilon 1e-7 inside the root, not centered, no weight decay.
    pub fn new(learning_rate: f64) -> Self {
        let rule = RmsPropRule {
            rho: 0.9,
            momentum: 0.0,
            epsilon: 1e-7,
            epsilon_placement: EpsilonPlacement::InsideRoot,
            centered: false,
            weight_decay: 0.0,
        };
        Self::from_rule(rule, learning_rate)
    }

    /// `torch.optim.RMSprop`'s formula and defaults: rho ("alpha") 0.99, epsilon 1e-8 outside the root. Its
    /// weight decay is another thing, a penalty added to the gradient; ours is decoupled in both forms.
    pub fn pytorch(learning_rate: f64) -> Self {
        Self::new(learning_rate)
            .rho(0.99)
            .epsilon(1e-8)
            .epsilon_placement(EpsilonPlacement::OutsideRoot)
    }

    /// Sets how slowly the averages forget, in [0, 1); the default is 0.9.
    pub fn rho(mut self, rho: f64) -> Self {
        self.rule.rho = rho;
        self
    }

    /// Sets the momentum, in [0, 1); the default is 0.
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.rule.momentum = momentum;
        self
    }

    /// Sets epsilon, above 0; the default is 1e-7.
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.rule.epsilon = epsilon;
        self
    }

    /// Sets where epsilon stands; the default is inside the root.
    pub fn epsilon_placement(mut self, placement: EpsilonPlacement) -> Self {
        self.rule.epsilon_placement = placement;
        self
    }

    /// Sets whether to divide by the standard deviation of the gradient instead of its root mean square; off by
    /// default.
    pub fn centered(mut self, centered: bool) -> Self {
        self.rule.centered = centered;
        self
    }

    /// Sets the share of each weight, times the learning rate, that a step takes away; the default is 0.
    pub fn weight_decay(mut self, decay: f64) -> Self {
        self.rule.weight_decay = decay;
        self
    }
}

impl RmsPropRule {
    /// The factors before and behind the momentum, one of which is the learning rate. Without momentum they are one.
    fn rates(&self, learning_rate: f64) -> [f64; 2] {
        let is_late =
            self.momentum > 0.0 && self.epsilon_placement == EpsilonPlacement::OutsideRoot;
        if is_late {
            [1.0, learning_rate]
        } else {
            [learning_rate, 1.0]
        }
    }

    /// What weight decay leaves of a weight, if there is any.
    fn kept(&self, learning_rate: f64) -> Option<f64> {
        (self.weight_decay > 0.0).then_some(1.0 - self.weight_decay * learning_rate)
    }
}

/// The options as f32.
struct Factors {
    /// Of a gradient, before the momentum takes it in.
    learning_rate: f32,
    /// Of the momentum.
    late_rate: f32,
    rho: f32,
    one_minus_rho: f32,
    momentum: f32,
    epsilon: f32,
    placement: EpsilonPlacement,
    /// What weight decay leaves of a weight.
    kept: Option<f32>,
}

impl Factors {
    /// The formula, a line of it per loop: plain loops over slices are what the compiler turns into vectors.
    fn step(&self, chunk: Chunk<'_>) {
        let [mean_square, mean, momentum] = chunk.slots;
        let mut scratch = [0f32; Chunk::LENGTH];
        let increment = &mut scratch[..chunk.weight.len()];

        for (v, g) in mean_square.iter_mut().zip(chunk.gradient) {
            *v = self.rho * *v + self.one_minus_rho * (g * g);
        }
        increment.copy_from_slice(mean_square);
        // Without a mean there is nothing to zip with.
        for ((d, a), g) in increment.iter_mut().zip(mean).zip(chunk.gradient) {
            *a = self.rho * *a + self.one_minus_rho * g;
            *d = (*d - *a * *a).max(0.0);
        }
        match self.placement {
            EpsilonPlacement::InsideRoot => {
                for (d, g) in increment.iter_mut().zip(chunk.gradient) {
                    *d = self.learning_rate * g / (*d + self.epsilon).sqrt();
                }
            }
            EpsilonPlacement::OutsideRoot => {
                for (d, g) in increment.iter_mut().zip(chunk.gradient) {
                    *d = self.learning_rate * g / (d.sqrt() + self.epsilon);
                }
            }
        }
        for (d, m) in increment.iter_mut().zip(momentum) {
            *m = self.momentum * *m + *d;
            *d = self.late_rate * *m;
        }
        if let Some(kept) = self.kept {
            for w in chunk.weight.iter_mut() {
                *w *= kept;
            }
        }
        for (w, d) in chunk.weight.iter_mut().zip(&*increment) {
            *w -= d;
        }
    }
}

impl UpdateRule for RmsPropRule {
    fn name(&self) -> &'static str {
        "rmsprop"
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn check(&self) -> Result<()> {
        let share = "at least 0 and below 1";
        let (epsilon, decay) = (self.epsilon, self.weight_decay);
        let above_0 = not_negative(epsilon) && epsilon > 0.0;
        check_options(&[
            ("rho", self.rho, below_one(self.rho), share),
            ("momentum", self.momentum, below_one(self.momentum), share),
            ("epsilon", epsilon, above_0, "above 0"),
            ("weight_decay", decay, not_negative(decay), "0 or more"),
        ])
    }

    fn slots(&self) -> [Option<&'static str>; SLOTS] {
        [
            Some("mean_square"),
            self.centered.then_some("mean"),
            (self.momentum > 0.0).then_some("momentum"),
        ]
    }

    fn update(
        &self,
        step: Step,
        weight: &Tensor,
        gradient: &Tensor,
        slots: &mut [Option<Tensor>; SLOTS],
    ) -> CandleResult<Tensor> {
        let [Some(mean_square), mean, momentum] = slots else {
            candle_core::bail!("rmsprop: state without its mean square");
        };
        let average = |old: &Tensor, new: &Tensor| (old * self.rho)? + (new * (1.0 - self.rho))?;
        *mean_square = average(mean_square, &gradient.sqr()?)?;
        let variance = match mean {
            Some(mean) => {
                *mean = average(mean, gradient)?;
                (&*mean_square - mean.sqr()?)?.maximum(&mean.zeros_like()?)?
            }
            None => mean_square.clone(),
        };
        let denominator = match self.epsilon_placement {
            EpsilonPlacement::InsideRoot => (variance + self.epsilon)?.sqrt()?,
            EpsilonPlacement::OutsideRoot => (variance.sqrt()? + self.epsilon)?,
        };
        let [learning_rate, late_rate] = self.rates(step.learning_rate);
        let mut increment = ((gradient * learning_rate)? / denominator)?;
        if let Some(momentum) = momentum {
            *momentum = ((&*momentum * self.momentum)? + increment)?;
            increment = (&*momentum * late_rate)?;
        }
        match self.kept(step.learning_rate) {
            Some(kept) => (weight * kept)? - increment,
            None => weight - increment,
        }
    }

    fn fused(&self, step: Step) -> Option<Fused> {
        let [learning_rate, late_rate] = self.rates(step.learning_rate);
        let factors = Factors {
            learning_rate: learning_rate as f32,
            late_rate: late_rate as f32,
            rho: self.rho as f32,
            one_minus_rho: (1.0 - self.rho) as f32,
            momentum: self.momentum as f32,
            epsilon: self.epsilon as f32,
            placement: self.epsilon_placement,
            kept: self.kept(step.learning_rate).map(|kept| kept as f32),
        };
        Some(Box::new(move |chunk| factors.step(chunk)))
    }
}
