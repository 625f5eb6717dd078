//! The step on the CPU in f32: one pass over memory, on all threads, in place.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result};

use super::{Averages, Epsilon, RmsProp};

/// Numbers a thread takes at least: less is not worth waking one.
const GRAIN: usize = 1 << 15;
/// Numbers between two turns of the loops below: they stay in the first-level cache.
const CHUNK: usize = 1024;

/// Updates a variable (first operand) and its averages from a gradient (second operand), both contiguous.
pub(super) struct FusedStep<'a> {
    pub(super) options: &'a RmsProp,
    /// candle lends an operation its own fields read-only.
    pub(super) averages: RefCell<&'a mut Averages<Vec<f32>>>,
}

impl InplaceOp2 for FusedStep<'_> {
    fn name(&self) -> &'static str {
        "rmsprop"
    }

    fn cpu_fwd(
        &self,
        variable: &mut CpuStorage,
        variable_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(variable), CpuStorage::F32(gradient)) = (variable, gradient) else {
            candle_core::bail!("rmsprop: the fused step is for f32");
        };
        let (Some((first, end)), Some((gradient_first, gradient_end))) = (
            variable_layout.contiguous_offsets(),
            gradient_layout.contiguous_offsets(),
        ) else {
            candle_core::bail!("rmsprop: the fused step is for contiguous tensors");
        };
        let mut averages = self.averages.borrow_mut();
        Lanes {
            weight: &mut variable[first..end],
            gradient: &gradient[gradient_first..gradient_end],
            averages: averages.as_mut().map(Vec::as_mut_slice),
        }
        .step(&Factors::new(self.options));
        Ok(())
    }
}

/// The options as f32.
struct Factors {
    learning_rate: f32,
    rho: f32,
    one_minus_rho: f32,
    momentum: f32,
    epsilon: f32,
    placement: Epsilon,
    /// What weight decay leaves of a weight.
    kept: Option<f32>,
}

impl Factors {
    fn new(options: &RmsProp) -> Self {
        Self {
            learning_rate: options.learning_rate as f32,
            rho: options.rho as f32,
            one_minus_rho: (1.0 - options.rho) as f32,
            momentum: options.momentum as f32,
            epsilon: options.epsilon as f32,
            placement: options.epsilon_placement,
            kept: options.kept().map(|kept| kept as f32),
        }
    }
}

/// The same stretch of a variable, its gradient and its averages.
struct Lanes<'a> {
    weight: &'a mut [f32],
    gradient: &'a [f32],
    averages: Averages<&'a mut [f32]>,
}

impl Lanes<'_> {
    fn step(self, factors: &Factors) {
        if self.weight.len() > GRAIN {
            let (left, right) = self.halves();
            rayon::join(|| left.step(factors), || right.step(factors));
            return;
        }
        let mut rest = self;
        while rest.weight.len() > CHUNK {
            let (chunk, after) = rest.split(CHUNK);
            chunk.step_chunk(factors);
            rest = after;
        }
        rest.step_chunk(factors);
    }

    fn halves(self) -> (Self, Self) {
        let middle = self.weight.len() / 2;
        self.split(middle)
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (weight, weight_after) = self.weight.split_at_mut(at);
        let (gradient, gradient_after) = self.gradient.split_at(at);
        let (averages, averages_after) = self.averages.split(at);
        (
            Self {
                weight,
                gradient,
                averages,
            },
            Self {
                weight: weight_after,
                gradient: gradient_after,
                averages: averages_after,
            },
        )
    }

    /// The formula, a line of it per loop: plain loops over slices are what the compiler turns into vectors.
    fn step_chunk(self, factors: &Factors) {
        let Averages {
            mean_square,
            mean,
            momentum,
        } = self.averages;
        let length = self.weight.len();
        let mut scratch = [0f32; CHUNK];
        let increment = &mut scratch[..length];

        for (v, g) in mean_square.iter_mut().zip(self.gradient) {
            *v = factors.rho * *v + factors.one_minus_rho * (g * g);
        }
        increment.copy_from_slice(mean_square);
        if let Some(mean) = mean {
            for ((d, a), g) in increment.iter_mut().zip(mean).zip(self.gradient) {
                *a = factors.rho * *a + factors.one_minus_rho * g;
                *d = (*d - *a * *a).max(0.0);
            }
        }
        match factors.placement {
            Epsilon::InsideRoot => {
                for (d, g) in increment.iter_mut().zip(self.gradient) {
                    *d = factors.learning_rate * g / (*d + factors.epsilon).sqrt();
                }
            }
            Epsilon::OutsideRoot => {
                for (d, g) in increment.iter_mut().zip(self.gradient) {
                    *d = factors.learning_rate * g / (d.sqrt() + factors.epsilon);
                }
            }
        }
        if let Some(momentum) = momentum {
            for (d, m) in increment.iter_mut().zip(momentum) {
                *m = factors.momentum * *m + *d;
                *d = *m;
            }
        }
        if let Some(kept) = factors.kept {
            for w in self.weight.iter_mut() {
                *w *= kept;
            }
        }
        for (w, d) in self.weight.iter_mut().zip(&*increment) {
            *w -= d;
        }
    }
}

impl Averages<&mut [f32]> {
    fn split(self, at: usize) -> (Self, Self) {
        let (mean_square, mean_square_after) = self.mean_square.split_at_mut(at);
        let (mean, mean_after) = self.mean.map(|lane| lane.split_at_mut(at)).unzip();
        let (momentum, momentum_after) = self.momentum.map(|lane| lane.split_at_mut(at)).unzip();
        (
            Self {
                mean_square,
                mean,
                momentum,
            },
            Self {
                mean_square: mean_square_after,
                mean: mean_after,
                momentum: momentum_after,
            },
        )
    }
}
