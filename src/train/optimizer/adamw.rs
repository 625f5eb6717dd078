//! Adam with decoupled weight decay, as PyTorch computes it.

use candle_core::{Result as CandleResult, Tensor};
use serde_json::{Value, json};

use super::fused::SLOTS;
use super::fused::{Chunk, Fused};
use super::generic::Optimizer;
use super::rule::{Step, UpdateRule, check_options};
use crate::error::Result;
use crate::train::range::{below_one, not_negative};

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
pub type AdamW = Optimizer<AdamWRule>;

/// The options of [`AdamW`].
#[derive(Clone, Debug, serde::Serialize)]
pub struct AdamWRule {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
}

impl AdamW {
    /// An optimizer without variables yet: a trainer gives it the model's.
    ///
    /// Defaults: betas 0.9 and 0.999, epsilon 1e-8, weight decay 0.01.
    pub fn new(learning_rate: f64) -> Self {
        let rule = AdamWRule {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
        };
        Self::from_rule(rule, learning_rate)
    }

    /// Adam: the same without weight decay. Keras's default epsilon is 1e-7, PyTorch's 1e-8.
    pub fn adam(learning_rate: f64) -> Self {
        Self::new(learning_rate).weight_decay(0.0)
    }

    /// Sets how slowly the averages of the gradient and of its square forget, both in [0, 1); the defaults are
    /// 0.9 and 0.999.
    pub fn betas(mut self, beta1: f64, beta2: f64) -> Self {
        (self.rule.beta1, self.rule.beta2) = (beta1, beta2);
        self
    }

    /// Sets epsilon, above 0; the default is 1e-8.
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.rule.epsilon = epsilon;
        self
    }

    /// Sets the share of each weight, times the learning rate, that a step takes away; the default is 0.01.
    pub fn weight_decay(mut self, decay: f64) -> Self {
        self.rule.weight_decay = decay;
        self
    }
}

impl AdamWRule {
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
struct Factors {
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

impl Factors {
    /// The formula, a line of it per loop: plain loops over slices are what the compiler turns into vectors.
    fn step(&self, chunk: Chunk<'_>) {
        let [mean, mean_square, _] = chunk.slots;
        let mut scratch = [0f32; Chunk::LENGTH];
        let increment = &mut scratch[..chunk.weight.len()];
        for (m, g) in mean.iter_mut().zip(chunk.gradient) {
            *m = self.beta1 * *m + self.one_minus_beta1 * g;
        }
        for (v, g) in mean_square.iter_mut().zip(chunk.gradient) {
            *v = self.beta2 * *v + self.one_minus_beta2 * (g * g);
        }
        for ((d, m), v) in increment.iter_mut().zip(&*mean).zip(&*mean_square) {
            *d = self.step_size * m / (v.sqrt() * self.root_scale + self.epsilon);
        }
        for (w, d) in chunk.weight.iter_mut().zip(&*increment) {
            *w -= self.decay * *w + d;
        }
    }
}

impl UpdateRule for AdamWRule {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn settings(&self) -> Value {
        json!(self)
    }

    fn check(&self) -> Result<()> {
        let share = "at least 0 and below 1";
        let (epsilon, decay) = (self.epsilon, self.weight_decay);
        let above_0 = not_negative(epsilon) && epsilon > 0.0;
        check_options(&[
            ("beta1", self.beta1, below_one(self.beta1), share),
            ("beta2", self.beta2, below_one(self.beta2), share),
            ("epsilon", epsilon, above_0, "above 0"),
            ("weight_decay", decay, not_negative(decay), "0 or more"),
        ])
    }

    fn slots(&self) -> [Option<&'static str>; SLOTS] {
        [Some("mean"), Some("mean_square"), None]
    }

    fn counts_steps(&self) -> bool {
        true
    }

    fn update(
        &self,
        step: Step,
        weight: &Tensor,
        gradient: &Tensor,
        slots: &mut [Option<Tensor>; SLOTS],
    ) -> CandleResult<Tensor> {
        let [Some(mean), Some(mean_square), _] = slots else {
            candle_core::bail!("adamw: state without its averages");
        };
        let (correction1, correction2) = self.corrections(step.number);
        *mean = ((&*mean * self.beta1)? + (gradient * (1.0 - self.beta1))?)?;
        *mean_square = ((&*mean_square * self.beta2)? + (gradient.sqr()? * (1.0 - self.beta2))?)?;
        let denominator = ((mean_square.sqrt()? / correction2.sqrt())? + self.epsilon)?;
        let increment = ((&*mean * (step.learning_rate / correction1))? / denominator)?;
        (weight * (1.0 - self.decay(step.learning_rate)))? - increment
    }

    fn fused(&self, step: Step) -> Option<Fused> {
        let (correction1, correction2) = self.corrections(step.number);
        let factors = Factors {
            decay: self.decay(step.learning_rate) as f32,
            beta1: self.beta1 as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            step_size: (step.learning_rate / correction1) as f32,
            root_scale: (1.0 / correction2.sqrt()) as f32,
            epsilon: self.epsilon as f32,
        };
        Some(Box::new(move |chunk| factors.step(chunk)))
    }
}
