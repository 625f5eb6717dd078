//! A parameter that is either frozen or trainable, never in between.

use candle_core::{Tensor, Var};

use crate::Result;

/// A tensor of a model: a plain tensor while frozen, so that candle records no graph for it, a variable
/// while trainable.
#[derive(Clone, Debug)]
pub(crate) enum Parameter {
    /// Takes no gradient.
    Frozen(Tensor),
    /// Takes a gradient and may be updated.
    Trainable(Var),
}

impl Parameter {
    /// The values, with a graph if trainable.
    pub(crate) fn tensor(&self) -> &Tensor {
        match self {
            Self::Frozen(tensor) => tensor,
            Self::Trainable(var) => var.as_tensor(),
        }
    }

    /// The values without a graph.
    pub(crate) fn detached(&self) -> Tensor {
        match self {
            Self::Frozen(tensor) => tensor.clone(),
            Self::Trainable(var) => var.as_detached_tensor(),
        }
    }

    /// The variable, if trainable.
    pub(crate) fn var(&self) -> Option<&Var> {
        match self {
            Self::Frozen(_) => None,
            Self::Trainable(var) => Some(var),
        }
    }

    /// Makes it frozen, with the same values.
    pub(crate) fn freeze(&mut self) {
        if let Self::Trainable(var) = self {
            *self = Self::Frozen(var.as_detached_tensor());
        }
    }

    /// Makes it trainable, with the same values.
    pub(crate) fn unfreeze(&mut self) -> Result<()> {
        if let Self::Frozen(tensor) = self {
            *self = Self::Trainable(Var::from_tensor(tensor)?);
        }
        Ok(())
    }
}
