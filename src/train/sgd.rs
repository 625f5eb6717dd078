//! Stochastic gradient descent, plain, with momentum, or with Nesterov's.

use candle_core::{Result as CandleResult, Tensor};

use super::optimizer::{LANES, Lanes, Rule, Slots, check_options, not_negative, optimizer_methods};
use crate::Result;

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
#[derive(Clone, Debug, serde::Serialize)]
pub struct Sgd {
    pub(super) learning_rate: f64,
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
    #[serde(skip)]
    pub(super) slots: Slots,
}

impl Sgd {
    /// An optimizer without variables yet: a trainer gives it the model's.
    ///
    /// Defaults: no momentum, no weight decay.
    pub fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
            slots: Slots::default(),
        }
    }

    /// Sets the momentum, in [0, 1); the default is 0.
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// Looks ahead along the momentum, which must be above 0; the default is not to.
    pub fn nesterov(mut self, nesterov: bool) -> Self {
        self.nesterov = nesterov;
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
        let (rate, momentum, decay) = (self.learning_rate, self.momentum, self.weight_decay);
        let share = (0.0..1.0).contains(&momentum);
        check_options(&[
            ("learning_rate", rate, not_negative(rate), "0 or more"),
            ("momentum", momentum, share, "at least 0 and below 1"),
            (
                "momentum",
                momentum,
                !self.nesterov || momentum > 0.0,
                "above 0 with nesterov",
            ),
            ("weight_decay", decay, not_negative(decay), "0 or more"),
        ])
    }

    /// The share of a weight that weight decay takes away: in f32 a small share is known better than what it
    /// leaves.
    fn decay(&self, learning_rate: f64) -> f64 {
        self.weight_decay * learning_rate
    }
}

/// The options as f32.
pub(super) struct Factors {
    decay: f32,
    learning_rate: f32,
    momentum: f32,
    nesterov: bool,
}

impl Rule for Sgd {
    const NAME: &'static str = "sgd";
    type Factors = Factors;

    fn lanes(&self) -> [Option<&'static str>; LANES] {
        [(self.momentum > 0.0).then_some("momentum"), None, None]
    }

    fn factors(&self, learning_rate: f64, _step: u64) -> Factors {
        Factors {
            decay: self.decay(learning_rate) as f32,
            learning_rate: learning_rate as f32,
            momentum: self.momentum as f32,
            nesterov: self.nesterov,
        }
    }

    fn step_chunk(factors: &Factors, lanes: Lanes<'_>) {
        let Factors {
            decay,
            learning_rate,
            momentum,
            nesterov,
        } = *factors;
        let [held, ..] = lanes.state;
        let numbers = lanes.weight.iter_mut().zip(lanes.gradient);
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

    fn step_tensors(
        &self,
        learning_rate: f64,
        _step: u64,
        weight: Tensor,
        gradient: &Tensor,
        state: &mut [Option<Tensor>; LANES],
    ) -> CandleResult<Tensor> {
        let mut direction = gradient.clone();
        if let Some(held) = &mut state[0] {
            *held = ((&*held * self.momentum)? + gradient)?;
            direction = if self.nesterov {
                (gradient + (&*held * self.momentum)?)?
            } else {
                held.clone()
            };
        }
        (weight * (1.0 - self.decay(learning_rate)))? - (direction * learning_rate)?
    }
}

optimizer_methods!(Sgd);
