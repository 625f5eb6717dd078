//! Stochastic gradient descent, plain, with momentum, or with Nesterov's.

use candle_core::{Result as CandleResult, Tensor};
use serde_json::{Value, json};

use super::fused::SLOTS;
use super::fused::{Chunk, Fused};
use super::generic::Optimizer;
use super::rule::{Step, UpdateRule, check_options};
use crate::error::Result;
use crate::train::range::{below_one, not_negative};

/// Stochastic gradient descent with `torch.optim.SGD`'s formula and defaults (Sutskever et al., "On the
/// importance of initialization and momentum in deep learning", 2013).
///
/// With learning rate `lr`, for each variable w with gradient g:
///
/// ```text
/// w ← w − lr · weight_decay · w                                  (decoupled)
/// m ← momentum · m + g
/// w ← w − lr · m       or, with Nesterov's,  w ← w − lr · (g + momentum · m)
/// ```
///
/// The momentum holds gradients, not steps: a new learning rate acts at once. (Keras's holds steps; under one
/// learning rate both are the same.) The weight decay is Keras's; PyTorch's is a penalty added to the gradient,
/// which without momentum comes to the same.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use headstart::Sgd;
///
/// // w² has slope 2w: 1 → 1 − 0.1·2 = 0.8 → 0.8 − 0.1·(0.9·2 + 1.6) = 0.46.
/// let w = Var::new(1f32, &Device::Cpu)?;
/// let mut optimizer = Sgd::new(0.1).momentum(0.9).with_variables(vec![w.clone()])?;
/// for expected in [0.8, 0.46] {
///     optimizer.backward_step(&w.sqr()?)?;
///     assert!((w.to_scalar::<f32>()? - expected).abs() < 1e-6);
/// }
/// # Ok::<(), headstart::Error>(())
/// ```
pub type Sgd = Optimizer<SgdRule>;

/// The options of [`Sgd`].
#[derive(Clone, Debug, serde::Serialize)]
pub struct SgdRule {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
}

impl Sgd {
    /// An optimizer without variables yet: a trainer gives it the model's.
    ///
    /// Defaults: no momentum, no weight decay.
    pub fn new(learning_rate: f64) -> Self {
        let rule = SgdRule {
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
        };
        Self::from_rule(rule, learning_rate)
    }

    /// Sets the momentum, in [0, 1); the default is 0.
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.rule.momentum = momentum;
        self
    }

    /// Sets whether it looks ahead along the momentum, which must then be above 0; off by default.
    pub fn nesterov(mut self, nesterov: bool) -> Self {
        self.rule.nesterov = nesterov;
        self
    }

    /// Sets the share of each weight, times the learning rate, that a step takes away; the default is 0.
    pub fn weight_decay(mut self, decay: f64) -> Self {
        self.rule.weight_decay = decay;
        self
    }
}

impl SgdRule {
    /// The share of a weight that weight decay takes away: in f32 a small share is known better than what it
    /// leaves.
    fn decay(&self, learning_rate: f64) -> f64 {
        self.weight_decay * learning_rate
    }
}

/// The options as f32.
struct Factors {
    decay: f32,
    learning_rate: f32,
    momentum: f32,
    nesterov: bool,
}

impl Factors {
    fn step(&self, chunk: Chunk<'_>) {
        let Self {
            decay,
            learning_rate,
            momentum,
            nesterov,
        } = *self;
        let [held, ..] = chunk.slots;
        let numbers = chunk.weight.iter_mut().zip(chunk.gradient);
        if held.is_empty() {
            for (w, g) in numbers {
                *w -= decay * *w + learning_rate * g;
            }
        } else if nesterov {
            for ((w, g), m) in numbers.zip(held) {
                *m = momentum * *m + g;
                *w -= decay * *w + learning_rate * (g + momentum * *m);
            }
        } else {
            for ((w, g), m) in numbers.zip(held) {
                *m = momentum * *m + g;
                *w -= decay * *w + learning_rate * *m;
            }
        }
    }
}

impl UpdateRule for SgdRule {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn check(&self) -> Result<()> {
        let (momentum, decay) = (self.momentum, self.weight_decay);
        let (share, fits) = (below_one(momentum), !self.nesterov || momentum > 0.0);
        check_options(&[
            ("momentum", momentum, share, "at least 0 and below 1"),
            ("momentum", momentum, fits, "above 0 with nesterov"),
            ("weight_decay", decay, not_negative(decay), "0 or more"),
        ])
    }

    fn slots(&self) -> [Option<&'static str>; SLOTS] {
        [(self.momentum > 0.0).then_some("momentum"), None, None]
    }

    fn update(
        &self,
        step: Step,
        weight: &Tensor,
        gradient: &Tensor,
        slots: &mut [Option<Tensor>; SLOTS],
    ) -> CandleResult<Tensor> {
        let mut direction = gradient.clone();
        if let Some(held) = &mut slots[0] {
            *held = ((&*held * self.momentum)? + gradient)?;
            direction = if self.nesterov {
                (gradient + (&*held * self.momentum)?)?
            } else {
                held.clone()
            };
        }
        (weight * (1.0 - self.decay(step.learning_rate)))? - (direction * step.learning_rate)?
    }

    fn fused(&self, step: Step) -> Option<Fused> {
        let factors = Factors {
            decay: self.decay(step.learning_rate) as f32,
            learning_rate: step.learning_rate as f32,
            momentum: self.momentum as f32,
            nesterov: self.nesterov,
        };
        Some(Box::new(move |chunk| factors.step(chunk)))
    }
}
