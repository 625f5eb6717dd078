//! What a source of weights gives for each convolution of a table.

use candle_core::Tensor;

use crate::error::Result;
use crate::finite;
use crate::model::arch::layer::Conv;

/// The tensors of a convolution.
#[derive(Clone, Debug)]
pub(crate) struct ConvTensors {
    /// (out, in / groups, kernel, kernel)
    pub(crate) weight: Tensor,
    /// (out), if the table has a bias.
    pub(crate) bias: Option<Tensor>,
    /// If the table has a batch norm.
    pub(crate) norm: Option<NormTensors>,
}

/// The tensors of a batch norm, all (channels).
#[derive(Clone, Debug)]
pub(crate) struct NormTensors {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
    pub(crate) mean: Tensor,
    pub(crate) variance: Tensor,
}

impl NormTensors {
    /// What they are called after the batch norm's own name, in the order of files.
    pub(crate) const KINDS: [&str; 4] = ["weight", "bias", "running_mean", Self::VARIANCE];

    /// What the variance is called.
    const VARIANCE: &str = "running_var";

    pub(crate) fn from_array([weight, bias, mean, variance]: [Tensor; 4]) -> Self {
        Self {
            weight,
            bias,
            mean,
            variance,
        }
    }
}

impl ConvTensors {
    /// The names and shapes of a convolution's tensors in the order of files, its own and its batch norm's names being
    /// these.
    pub(super) fn names(conv: &Conv, own: &str, norm: &str) -> Vec<(String, Vec<usize>)> {
        let channels = vec![conv.outputs];
        let mut names = vec![(format!("{own}.weight"), conv.weight_shape().to_vec())];
        if conv.bias {
            names.push((format!("{own}.bias"), channels.clone()));
        }
        if conv.norm.is_some() {
            let norms = NormTensors::KINDS.map(|kind| (format!("{norm}.{kind}"), channels.clone()));
            names.extend(norms);
        }
        names
    }

    /// The tensors of a convolution from those of [`names`](Self::names).
    pub(super) fn from_list(conv: &Conv, tensors: Vec<Tensor>) -> Option<Self> {
        let mut tensors = tensors.into_iter();
        let weight = tensors.next()?;
        let bias = if conv.bias {
            Some(tensors.next()?)
        } else {
            None
        };
        let norm = match conv.norm {
            Some(_) => Some(NormTensors::from_array([
                tensors.next()?,
                tensors.next()?,
                tensors.next()?,
                tensors.next()?,
            ])),
            None => None,
        };
        Some(Self { weight, bias, norm })
    }

    /// The tensors of a convolution under the table's names, asked for by name and shape.
    pub(crate) fn named(
        conv: &Conv,
        tensor: &mut dyn FnMut(&str, &[usize]) -> Result<Tensor>,
    ) -> Result<Self> {
        let norm = conv.norm.as_ref().map_or("", |norm| &norm.name);
        let names = Self::names(conv, &conv.name, norm).into_iter();
        let tensors = names.map(|(name, shape)| tensor(&name, &shape));
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        Ok(Self::from_list(conv, tensors).expect("as many tensors as names"))
    }
}

/// Finite, and not negative where the root will be taken; otherwise what is wrong.
pub(crate) fn check_values(name: &str, values: &[f32]) -> Result<(), String> {
    if let Some(value) = finite::first_not(values) {
        return Err(format!("holds {value} as an f32 weight"));
    }
    let is_variance = name.ends_with(NormTensors::VARIANCE);
    match values.iter().find(|value| is_variance && **value < 0.0) {
        Some(value) => Err(format!("holds {value}, and no variance is negative")),
        None => Ok(()),
    }
}
