//! The base that learns, in a form that learns well and folds into plain convolutions.
//!
//! A filter v is used as w = gain · (v − mean v) / √(9·in · var v) + shortcut · identity: standardised (Brock et al.
//! 2021, "Characterizing signal propagation to close the performance gap in unnormalized ResNets", section 4.1), and
//! where a layer has as many outputs as inputs with what a residual network has as a shortcut (Zagoruyko & Komodakis
//! 2017, "DiracNets"; Ding et al. 2021, "RepVGG"). The first gains, shortcuts and biases are such that every channel
//! of every layer has mean 0 and deviation 1 before its ReLU on a first batch (Mishkin & Matas 2016, "All you need is
//! a good init"). Nothing of it is left in the saved base.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use headstart::model::Vgg;
use headstart::{ConvBase, Weights};

use crate::Result;

/// Channels of the teacher's features.
const TAUGHT: usize = 512;

/// Deviation of the first filters.
const FILTER_DEVIATION: f64 = 0.2;

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
    /// (out), and the weights (out, in, 3, 3) that pass the input on
    shortcut: Option<(Var, Tensor)>,
    /// (out)
    bias: Var,
    pool: bool,
}

/// The deviation of a layer's filters' part beside its shortcut's, at first.
const FIRST_GAIN: f64 = 1.0;

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
        let last_of_block = vgg.convolutions().into_iter().scan(0, |end, count| {
            *end += count;
            Some(*end)
        });
        let pools: Vec<usize> = last_of_block.collect();
        let tensors = headstart::model::Backbone::tensors(&base);
        for (index, pair) in tensors.chunks_exact(2).enumerate() {
            let (weight, bias) = (&pair[0].1, &pair[1].1);
            // Their scale changes nothing but how far a step of Adam turns them: as far in every layer.
            let fan_in = (weight.elem_count() / weight.dim(0)?) as f64;
            let scale = FILTER_DEVIATION * (fan_in / 2.0).sqrt();
            layers.push(Normalised {
                filters: Var::from_tensor(&(weight * scale)?)?,
                gain: Var::from_tensor(&bias.ones_like()?.affine(FIRST_GAIN, 0.0)?)?,
                shortcut: match identity(weight)? {
                    Some(identity) => Some((Var::from_tensor(&bias.ones_like()?)?, identity)),
                    None => None,
                },
                bias: Var::from_tensor(bias)?,
                pool: pools.contains(&(index + 1)),
            });
        }
        let channels = vgg.channels()[4];
        let features = channels * (size / 32) * (size / 32);
        Ok(Self {
            base,
            layers,
            classes: (
                Var::zeros((classes, features), DType::F32, device)?,
                Var::zeros(classes, DType::F32, device)?,
            ),
            taught: (
                Var::zeros((TAUGHT, channels), DType::F32, device)?,
                Var::zeros((TAUGHT, 1), DType::F32, device)?,
            ),
        })
    }

    /// Gives every channel mean 0 and deviation 1 before its ReLU on these images.
    pub(crate) fn settle(&self, images: &Tensor) -> Result<()> {
        let mut x = images.clone();
        for layer in &self.layers {
            let (weight, _) = layer.fold()?;
            let sums = x.conv2d(&weight.detach(), 1, 1, 1, 1)?;
            let channels = sums.transpose(0, 1)?.flatten_from(1)?;
            let mean = channels.mean_keepdim(1)?;
            let centred = channels.broadcast_sub(&mean)?;
            let deviation = (centred.sqr()?.mean(1)? + 1e-6)?.sqrt()?;
            layer
                .gain
                .set(&(layer.gain.as_detached_tensor() / &deviation)?)?;
            if let Some((shortcut, _)) = &layer.shortcut {
                shortcut.set(&(shortcut.as_detached_tensor() / &deviation)?)?;
            }
            let bias = (mean.squeeze(1)?.neg()? / &deviation)?;
            layer.bias.set(&bias)?;
            let (weight, bias) = layer.fold()?;
            let sums = x.conv2d(&weight.detach(), 1, 1, 1, 1)?;
            x = sums
                .broadcast_add(&bias.detach().reshape((1, (), 1, 1))?)?
                .relu()?;
            if layer.pool {
                x = x.max_pool2d(2)?;
            }
        }
        Ok(())
    }

    /// Logits (N, classes) and what the teacher would say (N, 512, h, w), with a graph.
    pub(crate) fn forward(&self, images: &Tensor) -> Result<(Tensor, Tensor)> {
        let parameters = self
            .layers
            .iter()
            .map(Normalised::fold)
            .collect::<Result<Vec<_>>>()?;
        let features = self.with_folded(parameters)?.forward(images)?;
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
        self.with_folded(parameters)
    }

    /// The base with these weights and biases, one pair per convolution.
    fn with_folded(&self, pairs: Vec<(Tensor, Tensor)>) -> Result<ConvBase> {
        let names = headstart::model::Backbone::tensors(&self.base).into_iter();
        let tensors = pairs.into_iter().flat_map(|(weight, bias)| [weight, bias]);
        let parameters = names.map(|(name, _)| name).zip(tensors);
        Ok(self.base.clone().with_parameters(parameters)?)
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
            if let Some((shortcut, _)) = &layer.shortcut {
                named.push((format!("{index}.shortcut"), shortcut));
            }
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

/// The weights that pass their input on, for a convolution of as many outputs as inputs.
fn identity(weight: &Tensor) -> Result<Option<Tensor>> {
    let (outputs, inputs, ..) = weight.dims4()?;
    if outputs != inputs {
        return Ok(None);
    }
    let centre = Tensor::new(&[0f32, 0., 0., 0., 1., 0., 0., 0., 0.], weight.device())?;
    let diagonal = Tensor::eye(outputs, DType::F32, weight.device())?.unsqueeze(2)?;
    let taps = diagonal.broadcast_mul(&centre)?;
    Ok(Some(taps.reshape(weight.shape())?))
}

impl Normalised {
    /// Weights (out, in, 3, 3) and bias (out) of the plain convolution.
    fn fold(&self) -> Result<(Tensor, Tensor)> {
        let (out, inputs, ..) = self.filters.dims4()?;
        let fan_in = inputs * 9;
        let filters = self.filters.reshape((out, fan_in))?;
        let centred = filters.broadcast_sub(&filters.mean_keepdim(1)?)?;
        let variance = centred.sqr()?.mean_keepdim(1)?;
        let scale = ((variance * fan_in as f64)? + 1e-4)?.sqrt()?.recip()?;
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
