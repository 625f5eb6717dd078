//! A head without hidden layers, given the weights that were fitted elsewhere.

use candle_core::{DType, Tensor};

use super::config::{Head, Layer, Output};
use super::layers::HeadLayers;
use crate::{Error, Result};

impl HeadLayers {
    /// How many numbers the first dense layer reads.
    pub(crate) fn width(&self) -> usize {
        self.config.flat(self.features)
    }

    /// Refuses a head with hidden layers: its output layer does not read the features themselves.
    pub(crate) fn check_linear(&self) -> Result<()> {
        let is_hidden = |layer: &Layer| matches!(layer, Layer::Hidden(_));
        if self.config.layers.iter().any(is_hidden) {
            return Err(Error::option(
                "head",
                "one with hidden layers",
                "a linear head, without `hidden`",
            ));
        }
        Ok(())
    }

    /// The same head with this weight (outputs, inputs) and bias (outputs): one row for two classes, K for K. A row is
    /// written as the two units of a two-class softmax where the head has those.
    pub(crate) fn with_linear(&self, weight: &Tensor, bias: &Tensor) -> Result<Self> {
        self.check_linear()?;
        let (rows, _) = weight.dims2()?;
        let is_pair = rows == 1 && self.config.output == Output::Softmax(2);
        let config = match is_pair {
            true => Head {
                output: Output::Sigmoid,
                ..self.config.clone()
            },
            false => self.config.clone(),
        };
        let device = self.tensors()[0].1.device().clone();
        let fitted = Self::from_parameters(config, self.features, |name, shape| {
            let tensor = if name == "output.weight" {
                weight
            } else {
                bias
            };
            if tensor.dims() != shape {
                return Err(Error::Shape {
                    what: format!("the head's `{name}`"),
                    expected: format!("{shape:?}"),
                    found: tensor.dims().to_vec(),
                });
            }
            Ok(tensor.to_dtype(DType::F32)?.to_device(&device)?)
        })?;
        if is_pair {
            fitted.to_softmax()
        } else {
            Ok(fitted)
        }
    }

    /// The same head with its logits multiplied by a number.
    pub(crate) fn scaled(&self, factor: f64) -> Result<Self> {
        let tensors = self.tensors();
        Self::from_parameters(self.config.clone(), self.features, |name, _| {
            let own = tensors.iter().find(|(own, _)| own == name);
            let (_, tensor) = own.expect("the names are our own");
            Ok(match name.starts_with("output.") {
                true => (tensor * factor)?,
                false => tensor.clone(),
            })
        })
    }
}
