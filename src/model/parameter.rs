//! A parameter that is either frozen or trainable, never in between.

use candle_core::{Tensor, Var};

use super::backbone::Mode;
use crate::error::Result;

/// A tensor of a model: a plain tensor while frozen, so that candle records no graph for it, a variable
/// while trainable.
#[derive(Debug)]
pub(crate) enum Parameter {
    /// Takes no gradient.
    Frozen(Tensor),
    /// Takes a gradient and may be updated.
    Trainable(Var),
}

/// A clone's variable is one of its own: training one leaves the other as it is.
impl Clone for Parameter {
    fn clone(&self) -> Self {
        match self {
            Self::Frozen(tensor) => Self::Frozen(tensor.clone()),
            Self::Trainable(var) => {
                let copy = Var::from_tensor(&var.as_detached_tensor());
                Self::Trainable(copy.expect("the device has room for a copy of a variable"))
            }
        }
    }
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

    /// The values as a pass of this mode uses them.
    pub(crate) fn value(&self, mode: Mode) -> Tensor {
        match mode {
            Mode::Train => self.tensor().clone(),
            Mode::Infer => self.detached(),
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
