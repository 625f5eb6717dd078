//! A dense layer's product, whose weight's gradient goes around candle.
//!
//! candle computes the gradient of the transposed weight, adds it to zeros, turns it, and adds it to zeros again: for a
//! head over flattened maps, whose weights are millions, longer than all its products take.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};

use super::backward::divert;

/// x · wᵀ of inputs (N, C) and a weight (K, C).
///
/// # Errors
/// candle's, for other shapes.
pub(crate) fn dense(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let is_ours = weight.device().is_cpu() && weight.dtype() == DType::F32 && weight.track_op();
    if !is_ours {
        return x.matmul(&weight.t()?);
    }
    let product = x.detach().matmul(&weight.detach().t()?)?;
    let product = Mutex::new(Some(product.flatten_all()?.to_vec1()?));
    weight.apply_op2(x, Dense { product })
}

struct Dense {
    /// Until it is handed on.
    product: Mutex<Option<Vec<f32>>>,
}

impl CustomOp2 for Dense {
    fn name(&self) -> &'static str {
        "dense"
    }

    /// Hands the product on.
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        weight: &Layout,
        _: &CpuStorage,
        x: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let shape = (x.dims()[0], weight.dims()[0]);
        let product = self
            .product
            .lock()
            .map_or(None, |mut product| product.take());
        match product {
            Some(product) => Ok((CpuStorage::F32(product), shape.into())),
            None => bail!("{}: computed twice", self.name()),
        }
    }

    fn bwd(
        &self,
        weight: &Tensor,
        x: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of_weight = divert(weight, gradient.t()?.matmul(&x.detach())?);
        let of_input = x.track_op().then(|| gradient.matmul(&weight.detach()));
        Ok((of_weight, of_input.transpose()?))
    }
}
