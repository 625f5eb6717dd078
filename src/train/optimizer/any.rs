//! Any of the optimizers, for a trainer to hold.

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use candle_nn::Optimizer;

use super::{Slots, Variable};
use crate::Result;
use crate::train::{AdamW, RmsProp, Sgd};

/// An optimizer a [`Trainer`](crate::Trainer) can update with; made by `From` from each.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AnyOptimizer {
    /// RMSprop.
    RmsProp(RmsProp),
    /// AdamW, and Adam.
    AdamW(AdamW),
    /// Stochastic gradient descent.
    Sgd(Sgd),
}

/// The same expression for whichever it is.
macro_rules! each {
    ($any:expr, $optimizer:ident => $expression:expr) => {
        match $any {
            AnyOptimizer::RmsProp($optimizer) => $expression,
            AnyOptimizer::AdamW($optimizer) => $expression,
            AnyOptimizer::Sgd($optimizer) => $expression,
        }
    };
}

impl AnyOptimizer {
    /// The learning rate.
    pub fn learning_rate(&self) -> f64 {
        each!(self, optimizer => optimizer.learning_rate())
    }

    pub(in crate::train) fn check(&self) -> Result<()> {
        each!(self, optimizer => optimizer.check())
    }

    pub(in crate::train) fn with_named_variables(mut self, variables: Vec<Variable>) -> Self {
        each!(&mut self, optimizer => optimizer.slots = Slots::new(variables));
        self
    }

    pub(in crate::train) fn set_learning_rate(&mut self, learning_rate: f64) {
        each!(self, optimizer => optimizer.set_learning_rate(learning_rate));
    }

    pub(in crate::train) fn step(&mut self, gradients: &GradStore) -> Result<()> {
        Ok(each!(self, optimizer => optimizer.step(gradients))?)
    }

    pub(in crate::train) fn state(&self) -> Result<Vec<(String, Tensor)>> {
        each!(self, optimizer => optimizer.state())
    }

    pub(in crate::train) fn restore(&mut self, state: &[(String, Tensor)]) -> Result<()> {
        each!(self, optimizer => optimizer.restore(state))
    }
}

impl From<RmsProp> for AnyOptimizer {
    fn from(optimizer: RmsProp) -> Self {
        Self::RmsProp(optimizer)
    }
}

impl From<AdamW> for AnyOptimizer {
    fn from(optimizer: AdamW) -> Self {
        Self::AdamW(optimizer)
    }
}

impl From<Sgd> for AnyOptimizer {
    fn from(optimizer: Sgd) -> Self {
        Self::Sgd(optimizer)
    }
}
