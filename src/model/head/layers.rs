//! A head's layers with their parameters: from feature maps to logits and probabilities.

use candle_core::{D, Tensor, Var};

use super::config::{Head, Layer, Output, Pooling};
use super::dropout::Dropout;
use crate::kernels::{dense, reference};
use crate::model::backbone::{LayerInfo, Mode};
use crate::model::parameter::Parameter;
use crate::{Error, Result};

/// A head with its parameters.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use headstart::Head;
/// use headstart::model::Mode;
///
/// let head = Head::softmax(3).hidden(16).build([512, 2, 2], &Device::Cpu)?;
/// let features = Tensor::ones((4, 512, 2, 2), DType::F32, &Device::Cpu)?;
/// let logits = head.forward(&features, Mode::Infer, None)?;
/// assert_eq!(logits.dims(), [4, 3]);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct HeadLayers {
    pub(super) config: Head,
    pub(super) features: [usize; 3],
    pub(super) dense: Vec<Dense>,
}

#[derive(Clone, Debug)]
pub(super) struct Dense {
    pub(super) name: String,
    /// (outputs, inputs)
    weight: Parameter,
    /// (outputs)
    bias: Parameter,
}

impl HeadLayers {
    /// Makes the layers from tensors asked for by name and shape.
    pub(crate) fn from_parameters(
        config: Head,
        features: [usize; 3],
        mut tensor: impl FnMut(&str, &[usize]) -> Result<Tensor>,
    ) -> Result<Self> {
        config.check_on(features)?;
        let dense = config
            .dense_layers(features)
            .into_iter()
            .map(|(name, inputs, outputs)| {
                let weight = tensor(&format!("{name}.weight"), &[outputs, inputs])?;
                let bias = tensor(&format!("{name}.bias"), &[outputs])?;
                Ok(Dense {
                    name,
                    weight: Parameter::Trainable(Var::from_tensor(&weight)?),
                    bias: Parameter::Trainable(Var::from_tensor(&bias)?),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            config,
            features,
            dense,
        })
    }

    /// What the head was made from.
    pub fn config(&self) -> &Head {
        &self.config
    }

    /// The shape (C, h, w) of the features it takes.
    pub(crate) fn features(&self) -> [usize; 3] {
        self.features
    }

    /// The same head for features of this shape; none where its first layer would not fit them.
    pub(crate) fn on_features(&self, features: [usize; 3]) -> Result<Option<Self>> {
        let fits = self.config.flat(features) == self.config.flat(self.features)
            && (self.config.pooling == Pooling::GlobalAverage || features == self.features);
        if !fits {
            return Ok(None);
        }
        self.config.check_on(features)?;
        Ok(Some(Self {
            features,
            ..self.clone()
        }))
    }

    /// Features (N, C, h, w) of any float type → the vectors that the dense layers read, (N, D): pooled or flattened.
    ///
    /// # Errors
    /// [`Error::Shape`] for features of another shape.
    pub(crate) fn vectors(&self, features: &Tensor) -> Result<Tensor> {
        let [c, h, w] = self.features;
        match *features.dims() {
            [_, fc, fh, fw] if [fc, fh, fw] == [c, h, w] => {}
            ref dims => {
                return Err(Error::Shape {
                    what: "features".into(),
                    expected: format!("(N, {c}, {h}, {w})"),
                    found: dims.to_vec(),
                });
            }
        }
        // A base may work in half precision: its head does not.
        let features = features.to_dtype(self.dense[0].weight.tensor().dtype())?;
        Ok(match self.config.pooling {
            Pooling::Flatten => features.flatten_from(1)?,
            Pooling::GlobalAverage => features.mean((2, 3))?,
        })
    }

    /// Features (N, C, h, w) → logits (N, 1) or (N, K). Dropout works in [`Mode::Train`] when it is given
    /// what decides it.
    ///
    /// # Errors
    /// [`Error::Shape`] for features of another shape.
    pub fn forward(
        &self,
        features: &Tensor,
        mode: Mode,
        dropout: Option<&Dropout<'_>>,
    ) -> Result<Tensor> {
        self.forward_vectors(self.vectors(features)?, mode, dropout)
    }

    /// The same of the vectors (N, D) that the dense layers read.
    pub(crate) fn forward_vectors(
        &self,
        vectors: Tensor,
        mode: Mode,
        dropout: Option<&Dropout<'_>>,
    ) -> Result<Tensor> {
        let mut x = vectors;
        let (output, hidden) = self.dense.split_last().expect("a head has an output layer");
        let mut hidden = hidden.iter();
        for (index, layer) in self.config.layers.iter().enumerate() {
            match *layer {
                Layer::Hidden(_) => {
                    let dense = hidden.next().expect("one dense layer per hidden layer");
                    x = relu(&dense.forward(&x, mode)?)?;
                }
                Layer::HiddenWith(_, activation) => {
                    let dense = hidden.next().expect("one dense layer per hidden layer");
                    x = reference::activation(&dense.forward(&x, mode)?, activation)?;
                }
                Layer::Dropout(probability) => {
                    if let (Mode::Train, Some(dropout)) = (mode, dropout) {
                        x = (&x * dropout.mask(probability, index, &x)?)?;
                    }
                }
            }
        }
        output.forward(&x, mode)
    }

    /// The probability of every class: logits (N, 1) or (N, K) → (N, K).
    ///
    /// # Errors
    /// candle's, for logits of another rank.
    pub fn probabilities(&self, logits: &Tensor) -> Result<Tensor> {
        match self.config.output {
            // sigmoid(z) beside sigmoid(−z), not 1 − sigmoid(z): the small one keeps its digits.
            Output::Sigmoid => {
                let both = Tensor::cat(&[&logits.neg()?, logits], 1)?;
                Ok(candle_nn::ops::sigmoid(&both)?)
            }
            Output::Softmax(_) => Ok(candle_nn::ops::softmax(logits, D::Minus1)?),
        }
    }

    /// The trainable parameters by name, from the features on: the order is always the same.
    pub fn variables(&self) -> Vec<(String, Var)> {
        let mut variables = Vec::new();
        for (name, parameter) in self.parameters() {
            if let Some(var) = parameter.var() {
                variables.push((name, var.clone()));
            }
        }
        variables
    }

    /// Every parameter by name, from the features on, without a graph: `hidden1.weight` (outputs, inputs),
    /// `hidden1.bias`, …, `output.weight`, `output.bias`.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.parameters()
            .map(|(name, parameter)| (name, parameter.detached()))
            .collect()
    }

    fn parameters(&self) -> impl Iterator<Item = (String, &Parameter)> {
        self.dense.iter().flat_map(|dense| {
            [
                (format!("{}.weight", dense.name), &dense.weight),
                (format!("{}.bias", dense.name), &dense.bias),
            ]
        })
    }

    /// The layers for a summary.
    pub(crate) fn layers(&self) -> Vec<LayerInfo> {
        let flat = self.config.flat(self.features);
        let (name, kind) = match self.config.pooling {
            Pooling::Flatten => ("flatten", "Flatten"),
            Pooling::GlobalAverage => ("global_average", "GlobalAveragePooling2D"),
        };
        let plain = |name: String, kind, output| LayerInfo {
            name,
            kind,
            output: vec![output],
            parameters: 0,
            trainable: true,
        };
        let mut layers = vec![plain(name.to_owned(), kind, flat)];
        let mut dense = self.dense.iter();
        let mut width = flat;
        let mut dropouts = 0;
        for layer in &self.config.layers {
            match layer {
                Layer::Hidden(_) | Layer::HiddenWith(..) => {
                    let info = dense
                        .next()
                        .expect("one dense layer per hidden layer")
                        .info();
                    width = info.output[0];
                    layers.push(info);
                }
                Layer::Dropout(_) => {
                    dropouts += 1;
                    layers.push(plain(format!("dropout{dropouts}"), "Dropout", width));
                }
            }
        }
        layers.extend(dense.map(Dense::info));
        layers
    }
}

/// max(x, 0), with a slope of 0 at 0 as PyTorch and Keras have it, and NaN of NaN and −∞. candle's has a slope of 1
/// there, and makes 0 of NaN, which would then pass for an answer.
fn relu(x: &Tensor) -> Result<Tensor> {
    let is_above = x.detach().gt(&x.zeros_like()?)?.to_dtype(x.dtype())?;
    Ok((x * is_above)?)
}

impl Dense {
    fn forward(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        let (weight, bias) = (self.weight.value(mode), self.bias.value(mode));
        Ok(dense(input, &weight)?.broadcast_add(&bias)?)
    }

    fn info(&self) -> LayerInfo {
        let weight = self.weight.tensor();
        let bias = self.bias.tensor();
        LayerInfo {
            name: self.name.clone(),
            kind: "Dense",
            output: bias.dims().to_vec(),
            parameters: weight.elem_count() + bias.elem_count(),
            trainable: self.weight.var().is_some(),
        }
    }
}
