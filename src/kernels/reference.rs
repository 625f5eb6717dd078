//! The layers made of candle's own operations, on maps (N, C, H, W): for any device and type, for the layers that a
//! network does not have, and what networks are tested against.

use candle_core::{Result, Tensor, bail};

use super::activation::Activation;
use super::window::Window;

/// The convolution of maps with a weight (O, C / groups, k, k).
pub(crate) fn convolution(
    x: &Tensor,
    weight: &Tensor,
    window: Window,
    groups: usize,
) -> Result<Tensor> {
    let (_, channels, height, width) = x.dims4()?;
    let (padding, stride) = (window.padding, window.stride);
    let rows = windows(height + padding.top + padding.bottom, window.kernel, stride)?;
    let columns = windows(width + padding.left + padding.right, window.kernel, stride)?;
    let padded = x
        .pad_with_zeros(2, padding.top, padding.bottom)?
        .pad_with_zeros(3, padding.left, padding.right)?;
    if groups > 1 && groups == channels && weight.dim(0)? == channels {
        return depthwise(&padded, weight, window);
    }
    // candle's own padding is the same on all sides. What no window reaches is left out: candle's gradient (0.11)
    // takes the columns left over to be as many as the rows.
    padded
        .narrow(2, 0, (rows - 1) * stride + window.kernel)?
        .narrow(3, 0, (columns - 1) * stride + window.kernel)?
        .conv2d(weight, 0, stride, 1, groups)
}

/// Tap by tap over all channels: candle's own goes channel by channel.
fn depthwise(padded: &Tensor, weight: &Tensor, window: Window) -> Result<Tensor> {
    let channels = weight.dim(0)?;
    let weights = weight.reshape((channels, window.taps()))?;
    let mut sums: Option<Tensor> = None;
    for (tap, maps) in taps(padded, window.kernel, window.stride)?
        .into_iter()
        .enumerate()
    {
        let weight = weights.narrow(1, tap, 1)?.reshape((1, channels, 1, 1))?;
        let product = maps.broadcast_mul(&weight)?;
        sums = Some(match sums {
            Some(sums) => (sums + product)?,
            None => product,
        });
    }
    sums.ok_or_else(|| candle_core::Error::msg("a window of nothing"))
}

/// Maps plus a bias (C) for each channel, through an activation.
pub(crate) fn bias_activation(x: &Tensor, bias: &Tensor, activation: Activation) -> Result<Tensor> {
    let sum = x.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
    self::activation(&sum, activation)
}

/// Numbers of any shape through an activation.
pub(crate) fn activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Identity => Ok(x.clone()),
        Activation::Relu => relu(x),
        Activation::Relu6 => relu6(x),
        Activation::Silu => x * candle_nn::ops::sigmoid(x)?,
        Activation::HardSwish => (x * relu6(&(x + 3.0)?)?)? / 6.0,
        Activation::HardSigmoid => relu6(&(x + 3.0)?)? / 6.0,
        Activation::Sigmoid => candle_nn::ops::sigmoid(x),
        Activation::Gelu => x.gelu_erf(),
    }
}

/// candle's own makes 0 of NaN, and its slope at 0 is 1.
fn relu(x: &Tensor) -> Result<Tensor> {
    x.detach().le(0.0)?.where_cond(&x.zeros_like()?, x)
}

fn relu6(x: &Tensor) -> Result<Tensor> {
    let six = (x.zeros_like()? + 6.0)?;
    x.detach().ge(6.0)?.where_cond(&six, &relu(x)?)
}

/// The largest number of each window; padding counts as −∞. candle's own knows no padding, and its gradient is wrong: a
/// quarter of the true one where a window has one maximum (0.11: the mask's average scales it), misplaced for odd
/// sizes.
pub(crate) fn max_pool(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    let x = pad_with_negative_infinity(x, 2, padding)?;
    let x = pad_with_negative_infinity(&x, 3, padding)?;
    let mut taps = taps(&x, kernel, stride)?.into_iter();
    let first = taps
        .next()
        .ok_or_else(|| candle_core::Error::msg("a window of nothing"))?;
    taps.try_fold(first, |max, tap| {
        let (x, max_so_far) = (tap.detach(), max.detach());
        // One or the other is 1: there is no "or" for masks.
        let takes = (x.gt(&max_so_far)? + x.ne(&x)?)?;
        takes.where_cond(&tap, &max)
    })
}

/// The mean of each window. candle's own has a gradient only where windows touch and do not overlap.
pub(crate) fn average_pool(x: &Tensor, kernel: usize, stride: usize) -> Result<Tensor> {
    let mut taps = taps(x, kernel, stride)?.into_iter();
    let first = taps
        .next()
        .ok_or_else(|| candle_core::Error::msg("a window of nothing"))?;
    let sum = taps.try_fold(first, |sum, tap| sum + tap)?;
    sum / (kernel * kernel) as f64
}

fn pad_with_negative_infinity(x: &Tensor, dimension: usize, size: usize) -> Result<Tensor> {
    if size == 0 {
        return Ok(x.clone());
    }
    let mut dims = x.dims().to_vec();
    dims[dimension] = size;
    let padding = Tensor::full(f32::NEG_INFINITY, dims, x.device())?.to_dtype(x.dtype())?;
    Tensor::cat(&[&padding, x, &padding], dimension)
}

/// What each place in a window covers, row by row: maps of one number per window.
fn taps(x: &Tensor, kernel: usize, stride: usize) -> Result<Vec<Tensor>> {
    let (_, _, height, width) = x.dims4()?;
    let (rows, columns) = (
        windows(height, kernel, stride)?,
        windows(width, kernel, stride)?,
    );
    let places = |tap: usize, count: usize| {
        let places = (0..count).map(|window| (window * stride + tap) as u32);
        Tensor::from_iter(places, x.device())
    };
    let mut taps = Vec::new();
    for row in 0..kernel {
        let x = x.index_select(&places(row, rows)?, 2)?;
        for column in 0..kernel {
            taps.push(x.index_select(&places(column, columns)?, 3)?);
        }
    }
    Ok(taps)
}

/// How many windows fit into a padded size.
fn windows(padded: usize, kernel: usize, stride: usize) -> Result<usize> {
    if stride == 0 || kernel == 0 || padded < kernel {
        bail!("a window of {kernel} with stride {stride} over {padded} rows or columns");
    }
    Ok((padded - kernel) / stride + 1)
}
