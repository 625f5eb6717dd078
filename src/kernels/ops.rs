//! The kernels as candle operations with gradients, on blocked tensors (N, C/16, H, W, 16).

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Storage, Tensor};

use super::conv::{Isa, Method, pad_bias};
use super::layout::Maps;
use super::simd::LANES;
use super::winograd::{Epilogue, Filters};
use super::{gradient, pool};

/// A contiguous CPU operand's numbers.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("the kernels need contiguous operands"),
    }
}

/// Runs `work` on a tensor's numbers.
fn with_numbers<R>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => work(numbers(storage, layout)?),
        _ => candle_core::bail!("the kernels need operands on the CPU"),
    }
}

fn blocked_shape(maps: Maps) -> Shape {
    (maps.pictures, maps.blocks(), maps.height, maps.width, LANES).into()
}

fn planar_shape(maps: Maps) -> Shape {
    (maps.pictures, maps.channels, maps.height, maps.width).into()
}

fn tensor(values: Vec<f32>, shape: Shape) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &candle_core::Device::Cpu)
}

/// Blocked numbers as a tensor.
pub(crate) fn blocked_tensor(values: Vec<f32>, maps: Maps) -> Result<Tensor> {
    tensor(values, blocked_shape(maps))
}

/// (N, C, H, W) → blocked.
pub(crate) fn to_blocked(planar: &Tensor) -> Result<(Tensor, Maps)> {
    let (pictures, channels, height, width) = planar.dims4()?;
    let maps = Maps {
        pictures,
        channels,
        height,
        width,
    };
    Ok((planar.contiguous()?.apply_op1(ToBlocked(maps))?, maps))
}

/// Blocked → (N, C, H, W).
pub(crate) fn to_planar(blocked: &Tensor, maps: Maps) -> Result<Tensor> {
    blocked.apply_op1(ToPlanar(maps))
}

struct ToBlocked(Maps);

impl ToBlocked {
    fn convert(&self, planar: &[f32]) -> Vec<f32> {
        let mut blocked = vec![0.0; self.0.len()];
        self.0.to_blocked(planar, &mut blocked);
        blocked
    }
}

impl CustomOp1 for ToBlocked {
    fn name(&self) -> &'static str {
        "to_blocked"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let blocked = self.convert(numbers(storage, layout)?);
        Ok((CpuStorage::F32(blocked), blocked_shape(self.0)))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let planar = with_numbers(gradient, |gradient| Ok(ToPlanar(self.0).convert(gradient)))?;
        tensor(planar, planar_shape(self.0)).map(Some)
    }
}

struct ToPlanar(Maps);

impl ToPlanar {
    fn convert(&self, blocked: &[f32]) -> Vec<f32> {
        let mut planar = vec![0.0; planar_shape(self.0).elem_count()];
        self.0.to_planar(blocked, &mut planar);
        planar
    }
}

impl CustomOp1 for ToPlanar {
    fn name(&self) -> &'static str {
        "to_planar"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let planar = self.convert(numbers(storage, layout)?);
        Ok((CpuStorage::F32(planar), planar_shape(self.0)))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let blocked = with_numbers(gradient, |gradient| Ok(ToBlocked(self.0).convert(gradient)))?;
        tensor(blocked, blocked_shape(self.0)).map(Some)
    }
}

/// A 3×3 convolution with bias and ReLU of blocked maps: weights (out, in, 3, 3), bias (out).
pub(crate) fn conv_relu(
    isa: Isa,
    x: &Tensor,
    maps: Maps,
    weight: &Tensor,
    bias: &Tensor,
) -> Result<(Tensor, Maps)> {
    let op = ConvRelu {
        isa,
        input: maps,
        out_channels: bias.elem_count(),
        input_wanted: x.track_op(),
        weight_wanted: weight.track_op(),
    };
    let output = maps.with_channels(op.out_channels);
    Ok((x.apply_op3(weight, bias, op)?, output))
}

struct ConvRelu {
    isa: Isa,
    input: Maps,
    out_channels: usize,
    /// Whether the gradient of the input leads anywhere.
    input_wanted: bool,
    /// Whether weights and bias are trainable.
    weight_wanted: bool,
}

impl ConvRelu {
    fn filters<'a>(&self, weights: &'a [f32]) -> Filters<'a> {
        Filters {
            weights,
            out_channels: self.out_channels,
            in_channels: self.input.channels,
            transposed: false,
        }
    }
}

impl CustomOp3 for ConvRelu {
    fn name(&self) -> &'static str {
        "conv3x3_relu"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let output = self.input.with_channels(self.out_channels);
        let method = Method::for_maps(self.input, self.out_channels);
        let weights = method.prepare(self.isa, &self.filters(numbers(weight, weight_layout)?));
        let bias = pad_bias(numbers(bias, bias_layout)?);
        let epilogue = Epilogue {
            bias: Some(&bias),
            relu: true,
            pool: false,
        };
        let mut y = vec![0.0; output.len()];
        let x = numbers(x, x_layout)?;
        method.convolve(
            self.isa,
            x,
            self.input,
            &weights,
            self.out_channels,
            &epilogue,
            &mut y,
        );
        Ok((CpuStorage::F32(y), blocked_shape(output)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dz = with_numbers(y, |y| {
            with_numbers(gradient, |gradient| {
                Ok(gradient::through_relu(self.isa, y, gradient))
            })
        })?;
        let mut dx = None;
        if self.input_wanted {
            let values = with_numbers(weight, |weights| {
                Ok(gradient::of_input(
                    self.isa,
                    &dz,
                    self.input,
                    &self.filters(weights),
                ))
            })?;
            dx = Some(tensor(values, blocked_shape(self.input))?);
        }
        let (mut dw, mut db) = (None, None);
        if self.weight_wanted {
            let values = with_numbers(x, |x| {
                Ok(gradient::of_weights(
                    self.isa,
                    x,
                    self.input,
                    &dz,
                    self.out_channels,
                ))
            })?;
            dw = Some(tensor(values, weight.shape().clone())?);
            let output = self.input.with_channels(self.out_channels);
            db = Some(tensor(
                gradient::of_bias(&dz, output),
                bias.shape().clone(),
            )?);
        }
        Ok((dx, dw, db))
    }
}

/// The 2×2 max-pool of blocked maps.
pub(crate) fn max_pool(isa: Isa, x: &Tensor, maps: Maps) -> Result<(Tensor, Maps)> {
    Ok((x.apply_op1(MaxPool { isa, maps })?, maps.pooled()))
}

struct MaxPool {
    isa: Isa,
    maps: Maps,
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool2x2"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let pooled = self.maps.pooled();
        let mut y = vec![0.0; pooled.len()];
        let x = numbers(storage, layout)?;
        pool::max_pool_on(self.isa, x, self.maps, &mut y);
        Ok((CpuStorage::F32(y), blocked_shape(pooled)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let dx = with_numbers(x, |x| {
            with_numbers(gradient, |gradient| {
                let mut dx = vec![0.0; x.len()];
                pool::max_pool_gradient(x, self.maps, gradient, &mut dx);
                Ok(dx)
            })
        })?;
        tensor(dx, blocked_shape(self.maps)).map(Some)
    }
}
