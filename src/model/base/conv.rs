//! One convolution of a base: its tensors, and the plain weight and bias they come to.

use std::sync::OnceLock;

use candle_core::Tensor;

use crate::error::Result;
use crate::model::arch::layer::Conv;
use crate::model::backbone::{BlockParameter, Mode};
use crate::model::parameter::Parameter;
use crate::model::weights::{ConvTensors, NormTensors};

/// A convolution of the table with its tensors.
#[derive(Clone, Debug)]
pub(super) struct ConvLayer {
    pub(super) block: usize,
    pub(super) table: Conv,
    /// (out, in / groups, kernel, kernel)
    weight: Parameter,
    /// (out)
    bias: Option<Parameter>,
    norm: Option<NormLayer>,
    /// What the frozen tensors come to.
    folded: OnceLock<Folded>,
}

/// A batch norm's tensors, all (channels).
#[derive(Clone, Debug)]
struct NormLayer {
    weight: Parameter,
    bias: Parameter,
    mean: Tensor,
    variance: Tensor,
    epsilon: f64,
}

/// A convolution without a batch norm.
#[derive(Clone, Debug)]
pub(super) struct Folded {
    /// (out, in / groups, kernel, kernel)
    weight: Tensor,
    /// What the weights of each output are still to be multiplied by, (out): frozen ones have been.
    scale: Option<Tensor>,
    /// (out)
    pub(super) bias: Tensor,
}

impl Folded {
    /// The weight (out, in / groups, kernel, kernel).
    pub(super) fn weight(&self) -> Result<Tensor> {
        match &self.scale {
            Some(scale) => Ok(self.weight.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?),
            None => Ok(self.weight.clone()),
        }
    }

    /// The weight and its scale, for those who multiply them themselves.
    pub(super) fn weight_and_scale(&self) -> (Tensor, Option<Tensor>) {
        (self.weight.clone(), self.scale.clone())
    }
}

impl ConvLayer {
    /// A frozen one.
    pub(super) fn new(block: usize, table: &Conv, tensors: ConvTensors) -> Self {
        let ConvTensors { weight, bias, norm } = tensors;
        let norm = norm.zip(table.norm.as_ref()).map(|(tensors, norm)| {
            let NormTensors {
                weight,
                bias,
                mean,
                variance,
            } = tensors;
            NormLayer {
                weight: Parameter::Frozen(weight),
                bias: Parameter::Frozen(bias),
                mean,
                variance,
                epsilon: norm.epsilon,
            }
        });
        Self {
            block,
            table: table.clone(),
            weight: Parameter::Frozen(weight),
            bias: bias.map(Parameter::Frozen),
            norm,
            folded: OnceLock::new(),
        }
    }

    pub(super) fn set_trainable(&mut self, trainable: bool) -> Result<()> {
        self.folded = OnceLock::new();
        let norm = self
            .norm
            .iter_mut()
            .flat_map(|n| [&mut n.weight, &mut n.bias]);
        for parameter in [&mut self.weight]
            .into_iter()
            .chain(&mut self.bias)
            .chain(norm)
        {
            if trainable {
                parameter.unfreeze()?;
            } else {
                parameter.freeze();
            }
        }
        Ok(())
    }

    /// What the trainable tensors are called and hold, in the order of files.
    fn trained(&self) -> impl Iterator<Item = (String, &Parameter)> {
        let name = &self.table.name;
        let weight = [(format!("{name}.weight"), &self.weight)];
        let bias = self.bias.iter();
        let bias = bias.map(move |bias| (format!("{name}.bias"), bias));
        let norm = self.norm.iter().zip(&self.table.norm);
        let norm = norm.flat_map(|(layer, table)| {
            let name = &table.name;
            [
                (format!("{name}.weight"), &layer.weight),
                (format!("{name}.bias"), &layer.bias),
            ]
        });
        weight.into_iter().chain(bias).chain(norm)
    }

    /// Every tensor in the order of files.
    pub(super) fn parameters(&self) -> impl Iterator<Item = BlockParameter> {
        let block = self.block;
        let trained = self.trained().map(move |(name, parameter)| BlockParameter {
            block,
            name,
            tensor: parameter.detached(),
            variable: parameter.var().cloned(),
        });
        let norm = self.norm.iter().zip(&self.table.norm);
        let statistics = norm.flat_map(move |(layer, table)| {
            let statistic = |kind, tensor: &Tensor| BlockParameter {
                block,
                name: format!("{}.{kind}", table.name),
                tensor: tensor.clone(),
                variable: None,
            };
            [
                statistic("running_mean", &layer.mean),
                statistic("running_var", &layer.variance),
            ]
        });
        trained.chain(statistics)
    }

    /// Replaces a tensor, which stays the caller's.
    pub(super) fn replace(&mut self, name: &str, tensor: &Tensor) -> bool {
        self.folded = OnceLock::new();
        let own = &self.table.name;
        let mut slots = vec![(format!("{own}.weight"), &mut self.weight)];
        slots.extend(self.bias.as_mut().map(|bias| (format!("{own}.bias"), bias)));
        if let (Some(layer), Some(table)) = (&mut self.norm, &self.table.norm) {
            slots.push((format!("{}.weight", table.name), &mut layer.weight));
            slots.push((format!("{}.bias", table.name), &mut layer.bias));
        }
        match slots.into_iter().find(|(slot, _)| slot == name) {
            Some((_, slot)) => {
                *slot = Parameter::Frozen(tensor.clone());
                true
            }
            None => false,
        }
    }

    /// Whether training may change it.
    pub(super) fn is_trainable(&self) -> bool {
        self.weight.var().is_some()
    }

    /// Whether a gradient reaches its tensors.
    pub(super) fn tracks(&self) -> bool {
        self.trained()
            .any(|(_, parameter)| parameter.tensor().track_op())
    }

    /// The weight itself, for its device.
    pub(super) fn weight(&self) -> &Tensor {
        self.weight.tensor()
    }

    /// The plain weight and bias, with a graph where one is recorded; those of frozen tensors are worked out once.
    pub(super) fn folded(&self, mode: Mode) -> Result<Folded> {
        if self.tracks() {
            return self.fold(mode);
        }
        if let Some(folded) = self.folded.get() {
            return Ok(folded.clone());
        }
        let folded = self.fold(Mode::Infer)?;
        let folded = Folded {
            weight: folded.weight()?,
            scale: None,
            ..folded
        };
        Ok(self.folded.get_or_init(|| folded).clone())
    }

    /// y = (conv(x) + b − mean) · s + shift with s = scale / √(variance + epsilon) is a convolution with weights w · s
    /// and bias shift + (b − mean) · s.
    fn fold(&self, mode: Mode) -> Result<Folded> {
        let weight = self.weight.value(mode);
        let bias = self.bias.as_ref().map(|bias| bias.value(mode));
        let Some(norm) = &self.norm else {
            let bias = match bias {
                Some(bias) => bias,
                None => Tensor::zeros(self.table.outputs, weight.dtype(), weight.device())?,
            };
            let scale = None;
            return Ok(Folded {
                weight,
                scale,
                bias,
            });
        };
        let deviation = (&norm.variance + norm.epsilon)?.sqrt()?;
        let scale = (norm.weight.value(mode) / deviation)?;
        let centre = match &bias {
            Some(bias) => (bias - &norm.mean)?,
            None => norm.mean.neg()?,
        };
        Ok(Folded {
            weight,
            bias: (norm.bias.value(mode) + (centre * &scale)?)?,
            scale: Some(scale),
        })
    }
}
