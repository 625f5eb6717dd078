//! A convolution whose gradient reaches its weight alone: that of the first trainable layer.
//!
//! candle's own computes the gradient of the maps too, which nobody needs there, and on a device by a plain loop over
//! all windows (0.11).

use std::sync::Mutex;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Result, Shape, Storage, Tensor, bail,
};

/// The convolution of maps, without a graph and without padding, with a weight (O, C, k, k).
pub(super) fn convolution(x: &Tensor, weight: &Tensor, stride: usize) -> Result<Tensor> {
    let output = x.conv2d(&weight.detach(), 0, stride, 1, 1)?;
    weight.apply_op1(OfWeight {
        maps: x.clone(),
        output: Mutex::new(Some(output)),
        stride,
    })
}

/// The convolution as a function of its weight.
struct OfWeight {
    maps: Tensor,
    /// What candle's convolution made of it, until it is handed on.
    output: Mutex<Option<Tensor>>,
    stride: usize,
}

impl OfWeight {
    /// Hands the output on, as what `copy` makes of its storage.
    fn forward<S>(
        &self,
        copy: impl Fn(&Storage, &Layout) -> Option<Result<S>>,
    ) -> Result<(S, Shape)> {
        let output = self.output.lock().map_or(None, |mut output| output.take());
        let Some(output) = output else {
            bail!("{}: computed twice", self.name());
        };
        let (storage, layout) = output.storage_and_layout();
        let whole = layout.start_offset() == 0 && layout.is_contiguous();
        match copy(&storage, layout).filter(|_| whole) {
            Some(copied) => Ok((copied?, output.shape().clone())),
            None => bail!("{}: an output that lies elsewhere", self.name()),
        }
    }
}

impl CustomOp1 for OfWeight {
    fn name(&self) -> &'static str {
        "convolution-of-weight"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(|storage, layout| match storage {
            Storage::Cpu(storage) => Some(storage.try_clone(layout)),
            _ => None,
        })
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.forward(|storage, layout| match storage {
            Storage::Cuda(storage) => Some(storage.try_clone(layout)),
            _ => None,
        })
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.forward(|storage, layout| match storage {
            Storage::Metal(storage) => Some(storage.try_clone(layout)),
            _ => None,
        })
    }

    /// The maps convolved with the gradient, pictures as channels: as candle computes it.
    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let maps = self.maps.transpose(0, 1)?;
        let gradient = gradient.transpose(0, 1)?;
        let dilation = self.stride;
        let weight = maps.conv2d(&gradient, 0, 1, dilation, 1)?;
        Ok(Some(weight.transpose(0, 1)?))
    }
}
