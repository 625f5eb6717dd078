//! Bounds on the gradients of a step.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use crate::error::{Error, Result};

/// How gradients are bounded before they become an update.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clip {
    /// All gradients together are scaled down until the root of the sum of their squares is at most this
    /// (Pascanu et al., "On the difficulty of training recurrent neural networks", 2013; PyTorch's
    /// `clip_grad_norm_`).
    Norm(f64),
    /// Each number is brought into [−this, this] (PyTorch's `clip_grad_value_`).
    Value(f64),
}

impl Clip {
    pub(in crate::train) fn check(self) -> Result<()> {
        let (Self::Norm(bound) | Self::Value(bound)) = self;
        if bound.is_finite() && bound > 0.0 {
            return Ok(());
        }
        Err(Error::option("clip", bound, "above 0"))
    }

    /// Bounds the gradients of these variables.
    pub(in crate::train) fn apply<'a>(
        self,
        gradients: &mut GradStore,
        variables: impl Iterator<Item = &'a Var> + Clone,
    ) -> Result<()> {
        match self {
            Self::Value(bound) => replace(gradients, variables, |gradient| {
                // As tensors of the device: a number would be sent there each time.
                let bounds = (gradient.zeros_like()? + bound)?;
                gradient.maximum(&bounds.neg()?)?.minimum(&bounds)
            }),
            Self::Norm(bound) => {
                let mut devices = variables.clone().map(|var| var.device());
                match devices.all(Device::is_cpu) {
                    true => norm(bound, gradients, variables),
                    false => norm_on_device(bound, gradients, variables),
                }
            }
        }
    }
}

/// PyTorch's.
const EPSILON: f64 = 1e-6;

fn norm<'a>(
    bound: f64,
    gradients: &mut GradStore,
    variables: impl Iterator<Item = &'a Var> + Clone,
) -> Result<()> {
    let mut squares = 0.0;
    for gradient in variables.clone().filter_map(|var| gradients.get(var)) {
        let sum = gradient.detach().sqr()?.sum_all()?.to_dtype(DType::F64)?;
        squares += sum.to_scalar::<f64>()?;
    }
    let scale = bound / (squares.sqrt() + EPSILON);
    if scale < 1.0 {
        replace(gradients, variables, |gradient| gradient * scale)?;
    }
    Ok(())
}

/// The same without a transfer: the scale stays on the device.
fn norm_on_device<'a>(
    bound: f64,
    gradients: &mut GradStore,
    variables: impl Iterator<Item = &'a Var> + Clone,
) -> Result<()> {
    let sums = variables
        .clone()
        .filter_map(|var| gradients.get(var))
        .map(|gradient| gradient.detach().to_dtype(DType::F32)?.sqr()?.sum_all());
    let sums = sums.collect::<candle_core::Result<Vec<_>>>()?;
    if sums.is_empty() {
        return Ok(());
    }
    let norm = Tensor::stack(&sums, 0)?.sum_all()?.sqrt()?;
    let scale = ((norm + EPSILON)?.recip()? * bound)?;
    // A norm that is NaN scales nothing.
    let one = scale.ones_like()?;
    let scale = scale.lt(&one)?.where_cond(&scale, &one)?;
    replace(gradients, variables, |gradient| {
        gradient.broadcast_mul(&scale.to_dtype(gradient.dtype())?)
    })
}

fn replace<'a>(
    gradients: &mut GradStore,
    variables: impl Iterator<Item = &'a Var>,
    bounded: impl Fn(Tensor) -> candle_core::Result<Tensor>,
) -> Result<()> {
    for var in variables {
        if let Some(gradient) = gradients.remove(var) {
            gradients.insert(var, bounded(gradient.detach())?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// torch.nn.utils.clip_grad_norm_ and clip_grad_value_ on gradients [3, −4] and [[12]] (torch 2.15.0).
    #[test]
    fn clipping_is_pytorchs() {
        type Apply = fn(Clip, &mut GradStore, [&Var; 2]) -> Result<()>;
        let clipped_by = |clip: Clip, apply: Apply| -> Vec<f32> {
            let a = Var::new(&[1f32, 1.0], &Device::Cpu).unwrap();
            let b = Var::new(&[[1f32]], &Device::Cpu).unwrap();
            let slopes = Tensor::new(&[3f32, -4.0], &Device::Cpu).unwrap();
            let loss = (a.as_tensor() * slopes).unwrap().sum_all().unwrap();
            let loss = (loss + (b.sum_all().unwrap() * 12.0).unwrap()).unwrap();
            let mut gradients = loss.backward().unwrap();
            apply(clip, &mut gradients, [&a, &b]).unwrap();
            let numbers = |var: &Var| gradients.get(var).unwrap().flatten_all().unwrap();
            [numbers(&a), numbers(&b)]
                .iter()
                .flat_map(|t| t.to_vec1::<f32>().unwrap())
                .collect()
        };
        let by_clip: Apply = |clip, gradients, vars| clip.apply(gradients, vars.into_iter());
        let on_device: Apply = |clip, gradients, vars| {
            let (Clip::Norm(bound) | Clip::Value(bound)) = clip;
            norm_on_device(bound, gradients, vars.into_iter())
        };
        for apply in [by_clip, on_device] {
            // The norm is 13.
            assert_eq!(clipped_by(Clip::Norm(13.1), apply), [3.0, -4.0, 12.0]);
            let half = clipped_by(Clip::Norm(6.5), apply);
            for (found, expected) in half.into_iter().zip([1.5, -2.0, 6.0]) {
                assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
            }
        }
        let clipped = |clip| clipped_by(clip, by_clip);
        assert_eq!(clipped(Clip::Value(3.5)), [3.0, -3.5, 3.5]);
        assert!(Clip::Norm(0.0).check().is_err() && Clip::Value(f64::NAN).check().is_err());
    }
}
