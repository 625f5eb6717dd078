//! Adam with decoupled weight decay, as PyTorch computes it.

use candle_core::{Result as CandleResult, Tensor};

use super::optimizer::{
    CHUNK, LANES, Lanes, Rule, Slots, check_options, not_negative, optimizer_methods,
};
use crate::Result;

/// AdamW (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2), with
/// `torch.optim.AdamW`'s formula and defaults; without weight decay, Adam (Kingma & Ba, 2015, algorithm 1).
///
/// With learning rate `lr`, in the t-th step of each variable w with gradient g:
///
/// ```text
/// w ← w − lr · weight_decay · w                                  (decoupled)
/// m ← beta1 · m + (1 − beta1) · g
/// v ← beta2 · v + (1 − beta2) · g²
/// w ← w − lr / (1 − beta1ᵗ) · m / (√v / √(1 − beta2ᵗ) + epsilon)
/// ```
///
/// State is kept for the variables given alone, from their first gradient on. On the CPU in f32 a step is one
/// pass over memory, in place.
///
/// ```
/// use candle_core::{Device, Var};
/// use candle_nn::Optimizer;
/// use headstart::AdamW;
///
/// // The first step has the size of the learning rate, whatever the gradient's.
/// let w = Var::new(&[10f32, -0.01], &Device::Cpu)?;
/// let mut optimizer = AdamW::adam(0.1).with_variables(vec![w.clone()])?;
/// optimizer.backward_step(&w.sqr()?.sum_all()?)?;
/// let moved = w.to_vec1::<f32>()?;
/// assert!((moved[0] - 9.9).abs() < 1e-5 && (moved[1] - 0.09).abs() < 1e-5);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug, serde::Serialize)]
pub struct AdamW {
    pub(super) learning_rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    #[serde(skip)]
    pub(super) slots: Slots,
}

impl AdamW {
    /// An optimizer without variables yet: a trainer gives it the model's.
    ///
    /// Defaults: betas 0.9 and 0.999, epsilon 1e-8, weight decay 0.01.
    pub fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            slots: Slots::default(),
        }
    }

    /// Adam: the same without weight decay. Keras's default epsilon is 1e-7, PyTorch's 1e-8.
    pub fn adam(learning_rate: f64) -> Self {
        Self::new(learning_rate).weight_decay(0.0)
    }

    /// Sets how slowly the averages of the gradient and of its square forget, both in [0, 1); the defaults are
    /// 0.9 and 0.999.
    pub fn betas(mut self, beta1: f64, beta2: f64) -> Self {
        (self.beta1, self.beta2) = (beta1, beta2);
        self
    }

    /// Sets epsilon, above 0; the default is 1e-8.
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Sets the share of each weight, times the learning rate, that a step takes away; the default is 0.01.
    pub fn weight_decay(mut self, decay: f64) -> Self {
        self.weight_decay = decay;
        self
    }

    /// Checks every option.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for an option out of range.
    pub fn check(&self) -> Result<()> {
        let rate = self.learning_rate;
        let share = |value: f64| (0.0..1.0).contains(&value);
        let epsilon = self.epsilon;
        let decay = self.weight_decay;
        check_options(&[
            ("learning_rate", rate, not_negative(rate), "0 or more"),
            (
                "beta1",
                self.beta1,
                share(self.beta1),
                "at least 0 and below 1",
            ),
            (
                "beta2",
                self.beta2,
                share(self.beta2),
                "at least 0 and below 1",
            ),
            (
                "epsilon",
                epsilon,
                not_negative(epsilon) && epsilon > 0.0,
                "above 0",
            ),
            ("weight_decay", decay, not_negative(decay), "0 or more"),
        ])
    }

    /// What both averages must be divided by in a variable's `step`-th step, because they started at 0.
    fn corrections(&self, step: u64) -> (f64, f64) {
        let started = |beta: f64| 1.0 - beta.powf(step as f64);
        (started(self.beta1), started(self.beta2))
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
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    /// lr / (1 − beta1ᵗ)
    step_size: f32,
    /// 1 / √(1 − beta2ᵗ)
    root_scale: f32,
    epsilon: f32,
}

impl Rule for AdamW {
    const NAME: &'static str = "adamw";
    const COUNTS_STEPS: bool = true;
    type Factors = Factors;

    fn lanes(&self) -> [Option<&'static str>; LANES] {
        [Some("mean"), Some("mean_square"), None]
    }

    fn factors(&self, learning_rate: f64, step: u64) -> Factors {
        let (correction1, correction2) = self.corrections(step);
        Factors {
            decay: self.decay(learning_rate) as f32,
            beta1: self.beta1 as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            step_size: (learning_rate / correction1) as f32,
            root_scale: (1.0 / correction2.sqrt()) as f32,
            epsilon: self.epsilon as f32,
        }
    }

    /// The formula, a line of it per loop: plain loops over slices are what the compiler turns into vectors.
    fn step_chunk(factors: &Factors, lanes: Lanes<'_>) {
        let [mean, mean_square, _] = lanes.state;
        let mut scratch = [0f32; CHUNK];
        let increment = &mut scratch[..lanes.weight.len()];
        for (m, g) in mean.iter_mut().zip(lanes.gradient) {
            *m = factors.beta1 * *m + factors.one_minus_beta1 * g;
        }
        for (v, g) in mean_square.iter_mut().zip(lanes.gradient) {
            *v = factors.beta2 * *v + factors.one_minus_beta2 * (g * g);
        }
        for ((d, m), v) in increment.iter_mut().zip(&*mean).zip(&*mean_square) {
            *d = factors.step_size * m / (v.sqrt() * factors.root_scale + factors.epsilon);
        }
        for (w, d) in lanes.weight.iter_mut().zip(&*increment) {
            *w -= factors.decay * *w + d;
        }
    }

    fn step_tensors(
        &self,
        learning_rate: f64,
        step: u64,
        weight: Tensor,
        gradient: &Tensor,
        state: &mut [Option<Tensor>; LANES],
    ) -> CandleResult<Tensor> {
        let [Some(mean), Some(mean_square), _] = state else {
            candle_core::bail!("adamw: state without its averages");
        };
        let (correction1, correction2) = self.corrections(step);
        *mean = ((&*mean * self.beta1)? + (gradient * (1.0 - self.beta1))?)?;
        *mean_square = ((&*mean_square * self.beta2)? + (gradient.sqr()? * (1.0 - self.beta2))?)?;
        let denominator = ((mean_square.sqrt()? / correction2.sqrt())? + self.epsilon)?;
        let increment = ((&*mean * (learning_rate / correction1))? / denominator)?;
        (weight * (1.0 - self.decay(learning_rate)))? - increment
    }
}

optimizer_methods!(AdamW);
