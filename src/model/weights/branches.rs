//! RepVGG's three branches added up to one 3×3 convolution.
//!
//! A branch is a convolution and a batch norm; 1×1 is a 3×3 that looks at the centre only, and the identity a 1×1 that
//! passes each channel on (Ding et al. 2021, "RepVGG", section 3.3).

use candle_core::{DType, Tensor};

use super::tensors::{ConvTensors, NormTensors};
use crate::error::Result;
use crate::model::arch::layer::Conv;
use crate::model::arch::repvgg::BRANCH_EPSILON;

/// Whether there is an identity branch: output and input have one shape.
fn has_identity(conv: &Conv) -> bool {
    conv.stride == 1 && conv.inputs == conv.outputs
}

/// The names and shapes of the branches' tensors under timm's prefix, such as `stages.0.1`.
pub(super) fn names(conv: &Conv, prefix: &str) -> Vec<(String, Vec<usize>)> {
    let channels = || vec![conv.outputs];
    let norm = |name: String| NormTensors::KINDS.map(|kind| (format!("{name}.{kind}"), channels()));
    let mut names = Vec::new();
    for (branch, kernel) in [("conv_kxk", conv.kernel), ("conv_1x1", 1)] {
        let shape = vec![conv.outputs, conv.inputs, kernel, kernel];
        names.push((format!("{prefix}.{branch}.conv.weight"), shape));
        names.extend(norm(format!("{prefix}.{branch}.bn")));
    }
    if has_identity(conv) {
        names.extend(norm(format!("{prefix}.identity")));
    }
    names
}

/// The sum of the branches whose tensors these are, in f64.
pub(super) fn fuse(conv: &Conv, tensors: Vec<Tensor>) -> Result<ConvTensors> {
    let tensors = tensors
        .into_iter()
        .map(|tensor| tensor.to_dtype(DType::F64))
        .collect::<candle_core::Result<Vec<_>>>()?;
    let border = conv.kernel / 2;
    let centred = |weight: &Tensor| {
        weight
            .pad_with_zeros(2, border, border)?
            .pad_with_zeros(3, border, border)
    };
    let (dense, pointwise) = (&tensors[..5], &tensors[5..10]);
    let (weight, bias) = normed(&dense[0], &dense[1..])?;
    let (other, other_bias) = normed(&centred(&pointwise[0])?, &pointwise[1..])?;
    let (mut weight, mut bias) = ((weight + other)?, (bias + other_bias)?);
    if has_identity(conv) {
        let passes = Tensor::eye(conv.outputs, DType::F64, weight.device())?;
        let passes = passes.reshape((conv.outputs, conv.inputs, 1, 1))?;
        let (other, other_bias) = normed(&centred(&passes)?, &tensors[10..])?;
        (weight, bias) = ((weight + other)?, (bias + other_bias)?);
    }
    Ok(ConvTensors {
        weight: weight.to_dtype(DType::F32)?,
        bias: Some(bias.to_dtype(DType::F32)?),
        norm: None,
    })
}

/// A convolution with its batch norm (weight, bias, mean, variance) folded in.
fn normed(weight: &Tensor, norm: &[Tensor]) -> Result<(Tensor, Tensor)> {
    let scale = (&norm[0] / (&norm[3] + BRANCH_EPSILON)?.sqrt()?)?;
    let bias = (&norm[1] - (&norm[2] * &scale)?)?;
    let weight = weight.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?;
    Ok((weight, bias))
}
