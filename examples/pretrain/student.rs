//! The base that learns, with standardised weights.
//!
//! Each filter v is used as w = gain · c · (v − mean v) / √(9·in · var v), with c = √(2 / (1 − 1/π)): of inputs that
//! are ReLUs of standard normals it makes outputs of variance gain² (Brock et al. 2021, "Characterizing signal
//! propagation to close the performance gap in unnormalized ResNets", section 4.1). So no layer's output grows or
//! dies, whatever the depth, and the result is a plain convolution: nothing is left of it in the saved base.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use headstart::{ConvBase, Vgg, Weights};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Result;

/// Channels of the teacher's features.
const TAUGHT: usize = 512;

/// A base and two outputs on its features: classes, and what the teacher sees.
pub(crate) struct Student {
    base: ConvBase,
    layers: Vec<Normalised>,
    /// (classes, features) and (classes)
    classes: (Var, Var),
    /// (512, channels) and (512, 1)
    taught: (Var, Var),
}

/// A convolution's variables.
struct Normalised {
    /// (out, in, 3, 3)
    filters: Var,
    /// (out)
    gain: Var,
    /// (out)
    bias: Var,
}

/// A student whose weights are fixed for a while.
pub(crate) struct Folded<'a> {
    base: ConvBase,
    student: &'a Student,
}

impl Student {
    pub(crate) fn new(
        vgg: Vgg,
        size: usize,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let base = ConvBase::new(vgg, Weights::Random { seed }, device)?.frozen();
        let mut layers = Vec::new();
        for pair in headstart::model::Backbone::tensors(&base).chunks_exact(2) {
            let (weight, bias) = (&pair[0].1, &pair[1].1);
            // Of deviation 1: what Adam's steps are measured against is the same in every layer.
            let fan_in = (weight.elem_count() / weight.dim(0)?) as f64;
            layers.push(Normalised {
                filters: Var::from_tensor(&(weight * (fan_in / 2.0).sqrt())?)?,
                gain: Var::ones(bias.dims(), DType::F32, device)?,
                bias: Var::from_tensor(bias)?,
            });
        }
        let channels = vgg.channels()[4];
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let features = channels * (size / 32) * (size / 32);
        Ok(Self {
            base,
            layers,
            classes: (
                uniform(classes, features, &mut rng, device)?,
                Var::zeros(classes, DType::F32, device)?,
            ),
            taught: (
                uniform(TAUGHT, channels, &mut rng, device)?,
                Var::zeros((TAUGHT, 1), DType::F32, device)?,
            ),
        })
    }

    /// Logits (N, classes) and what the teacher would say (N, 512, h, w), with a graph.
    pub(crate) fn forward(&self, images: &Tensor) -> Result<(Tensor, Tensor)> {
        let parameters = self
            .layers
            .iter()
            .map(Normalised::fold)
            .collect::<Result<Vec<_>>>()?;
        let features = self
            .base
            .clone()
            .with_parameters(&parameters)?
            .forward(images)?;
        let (n, channels, h, w) = features.dims4()?;
        let places = features.reshape((n, channels, h * w))?;
        let taught = self
            .taught
            .0
            .broadcast_left(n)?
            .contiguous()?
            .matmul(&places)?;
        let taught = taught
            .broadcast_add(&self.taught.1)?
            .reshape((n, TAUGHT, h, w))?;
        Ok((self.logits(&features)?, taught))
    }

    fn logits(&self, features: &Tensor) -> Result<Tensor> {
        let logits = features.flatten_from(1)?.matmul(&self.classes.0.t()?)?;
        Ok(logits.broadcast_add(&self.classes.1)?)
    }

    /// For use: the weights are worked out once.
    pub(crate) fn folded(&self) -> Result<Folded<'_>> {
        Ok(Folded {
            base: self.base()?,
            student: self,
        })
    }

    /// The plain base.
    pub(crate) fn base(&self) -> Result<ConvBase> {
        let mut parameters = Vec::new();
        for layer in &self.layers {
            let (weight, bias) = layer.fold()?;
            parameters.push((weight.detach(), bias.detach()));
        }
        Ok(self.base.clone().with_parameters(&parameters)?)
    }

    pub(crate) fn variables(&self) -> Vec<Var> {
        self.named()
            .into_iter()
            .map(|(_, var)| var.clone())
            .collect()
    }

    fn named(&self) -> Vec<(String, &Var)> {
        let mut named = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            named.push((format!("{index}.filters"), &layer.filters));
            named.push((format!("{index}.gain"), &layer.gain));
            named.push((format!("{index}.bias"), &layer.bias));
        }
        for (name, (weight, bias)) in [("classes", &self.classes), ("taught", &self.taught)] {
            named.push((format!("{name}.weight"), weight));
            named.push((format!("{name}.bias"), bias));
        }
        named
    }

    /// Writes a checkpoint: all variables, and how many epochs are done.
    pub(crate) fn save(&self, path: &Path, epochs: usize) -> Result<()> {
        let mut tensors = HashMap::new();
        for (name, var) in self.named() {
            tensors.insert(name, var.as_detached_tensor());
        }
        tensors.insert(
            "epochs".into(),
            Tensor::new(&[epochs as u32], &Device::Cpu)?,
        );
        let unfinished = path.with_extension("unfinished");
        candle_core::safetensors::save(&tensors, &unfinished)?;
        std::fs::rename(&unfinished, path)?;
        Ok(())
    }

    /// Sets all variables to a checkpoint's; returns how many epochs are done.
    pub(crate) fn restore(&self, path: &Path, device: &Device) -> Result<usize> {
        let mut tensors = candle_core::safetensors::load(path, device)?;
        for (name, var) in self.named() {
            let missing = || format!("{}: no {name}", path.display());
            var.set(&tensors.remove(&name).ok_or_else(missing)?)?;
        }
        let epochs = tensors
            .remove("epochs")
            .ok_or("a checkpoint without its epoch")?;
        Ok(epochs.to_vec1::<u32>()?[0] as usize)
    }
}

/// A dense layer's first weights (out, in): Glorot & Bengio 2010, eq. 16.
fn uniform(outputs: usize, inputs: usize, rng: &mut ChaCha8Rng, device: &Device) -> Result<Var> {
    let limit = (6.0 / (inputs + outputs) as f32).sqrt();
    let values: Vec<f32> = (0..inputs * outputs)
        .map(|_| limit * (2.0 * rng.random::<f32>() - 1.0))
        .collect();
    Ok(Var::from_vec(values, (outputs, inputs), device)?)
}

impl Normalised {
    /// Weights (out, in, 3, 3) and bias (out) of the plain convolution.
    fn fold(&self) -> Result<(Tensor, Tensor)> {
        let gain = (2.0 / (1.0 - std::f64::consts::FRAC_1_PI)).sqrt();
        let (out, inputs, ..) = self.filters.dims4()?;
        let fan_in = inputs * 9;
        let filters = self.filters.reshape((out, fan_in))?;
        let centred = filters.broadcast_sub(&filters.mean_keepdim(1)?)?;
        let variance = centred.sqr()?.mean_keepdim(1)?;
        let scale = (((variance * fan_in as f64)? + 1e-4)?.sqrt()?.recip()? * gain)?;
        let scale = scale.broadcast_mul(&self.gain.reshape((out, 1))?)?;
        let weight = centred
            .broadcast_mul(&scale)?
            .reshape((out, inputs, 3, 3))?;
        Ok((weight, self.bias.as_tensor().clone()))
    }
}

impl Folded<'_> {
    /// (N, classes)
    pub(crate) fn logits(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.student.logits(&self.base.forward(images)?)?.detach())
    }
}
