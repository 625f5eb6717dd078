//! Heads that say the same in another form: a sigmoid unit is a two-class softmax, and Keras flattens in another order.

use candle_core::Tensor;

use super::config::{Head, Output, Pooling};
use super::layers::HeadLayers;
use crate::{Error, Result};

impl HeadLayers {
    /// One sigmoid unit (w, b) as two softmax units, (−w/2, −b/2) and (w/2, b/2): probabilities, loss and the
    /// features' gradients are equal.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] when the head is not a sigmoid unit.
    pub fn to_softmax(&self) -> Result<Self> {
        if self.config.output != Output::Sigmoid {
            return Err(Error::option(
                "to_softmax",
                "a softmax head",
                "a sigmoid head",
            ));
        }
        self.with_output(Output::Softmax(2), |tensor| {
            let half = (tensor * 0.5)?;
            Ok(Tensor::cat(&[&half.neg()?, &half], 0)?)
        })
    }

    /// Two softmax units as one sigmoid unit (w1 − w0, b1 − b0): probabilities, loss and the features'
    /// gradients are equal.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] when the head has not two softmax units.
    pub fn to_sigmoid(&self) -> Result<Self> {
        if self.config.output != Output::Softmax(2) {
            return Err(Error::option(
                "to_sigmoid",
                format!("a head of {} classes", self.config.classes()),
                "a softmax head of 2 classes",
            ));
        }
        self.with_output(Output::Sigmoid, |tensor| {
            Ok((tensor.narrow(0, 1, 1)? - tensor.narrow(0, 0, 1)?)?)
        })
    }

    fn with_output(
        &self,
        output: Output,
        convert: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        let config = Head {
            output,
            ..self.config.clone()
        };
        let tensors = self.tensors();
        Self::from_parameters(config, self.features, |name, _| {
            let (_, tensor) = tensors
                .iter()
                .find(|(own, _)| own == name)
                .expect("both forms have the same names");
            if name.starts_with("output.") {
                convert(tensor)
            } else {
                Ok(tensor.clone())
            }
        })
    }

    /// The same head with the inputs of its first dense layer reordered from Keras's (h, w, c) to (c, h, w):
    /// for dense weights that were trained in Keras, transposed to (outputs, inputs). Global averages need
    /// none.
    ///
    /// # Errors
    /// candle's, on a device without memory.
    pub fn from_keras_order(&self) -> Result<Self> {
        if self.config.pooling == Pooling::GlobalAverage {
            return Ok(self.clone());
        }
        let [c, h, w] = self.features;
        let first = format!("{}.weight", self.dense[0].name);
        let tensors = self.tensors();
        Self::from_parameters(self.config.clone(), self.features, |name, shape| {
            let (_, tensor) = tensors
                .iter()
                .find(|(own, _)| own == name)
                .expect("the names are our own");
            if name != first {
                return Ok(tensor.clone());
            }
            Ok(tensor
                .reshape((shape[0], h, w, c))?
                .permute((0, 3, 1, 2))?
                .contiguous()?
                .reshape(shape)?)
        })
    }
}
