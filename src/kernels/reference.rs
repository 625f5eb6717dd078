//! The layers made of candle's own operations, on maps (N, C, H, W): for any device and type, for the layers that a
//! network does not have, and what networks are tested against.

use candle_core::{Result, Tensor, bail};

use super::activation::Activation;
use super::weight_only;
use super::window::Window;

/// How many numbers candle's kernels for devices can count (0.11): they lay out what every window covers.
const COUNTED: usize = u32::MAX as usize;

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
    let reached = padded
        .narrow(2, 0, (rows - 1) * stride + window.kernel)?
        .narrow(3, 0, (columns - 1) * stride + window.kernel)?;
    let covered = (rows * columns).saturating_mul(weight.dim(1)? * window.taps());
    let together = match x.device().is_cpu() {
        true => usize::MAX,
        false => (COUNTED / covered.max(1)).max(1),
    };
    in_parts(&reached, weight, stride, groups, together)
}

/// A convolution without padding, so many pictures at a time.
pub(super) fn in_parts(
    x: &Tensor,
    weight: &Tensor,
    stride: usize,
    groups: usize,
    together: usize,
) -> Result<Tensor> {
    let pictures = x.dim(0)?;
    if pictures <= together {
        return unpadded(x, weight, stride, groups);
    }
    let firsts = (0..pictures).step_by(together);
    let parts = firsts.map(|first| {
        let part = x.narrow(0, first, together.min(pictures - first))?;
        unpadded(&part, weight, stride, groups)
    });
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
}

/// A convolution without padding. Where nobody needs the gradient of the maps, it is not computed.
fn unpadded(x: &Tensor, weight: &Tensor, stride: usize, groups: usize) -> Result<Tensor> {
    match weight.track_op() && !x.track_op() && groups == 1 {
        true => weight_only::convolution(x, weight, stride),
        false => x.conv2d(weight, 0, stride, 1, groups),
    }
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

/// candle's own makes 0 of NaN, and its slope at 0 is 1. A number to compare with would be sent to a device each time;
/// zeros are made there.
fn relu(x: &Tensor) -> Result<Tensor> {
    let zeros = x.zeros_like()?;
    x.detach().le(&zeros)?.where_cond(&zeros, x)
}

fn relu6(x: &Tensor) -> Result<Tensor> {
    let sixes = (x.zeros_like()? + 6.0)?;
    x.detach().ge(&sixes)?.where_cond(&sixes, &relu(x)?)
}

/// The largest number of each window; padding counts as −∞.
pub(crate) fn max_pool(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    let x = pad_with_negative_infinity(x, 2, padding)?;
    let x = pad_with_negative_infinity(&x, 3, padding)?;
    match x.track_op() {
        true => max_of_taps(&x, kernel, stride),
        false => max_without_graph(&x, kernel, stride),
    }
}

/// candle's own pool, which leaves NaN out, where it is not needed in a gradient.
fn max_without_graph(x: &Tensor, kernel: usize, stride: usize) -> Result<Tensor> {
    windows(x.dim(2)?, kernel, stride)?;
    windows(x.dim(3)?, kernel, stride)?;
    let largest = x.max_pool2d_with_stride(kernel, stride)?;
    let is_nan = x.ne(x)?.to_dtype(x.dtype())?;
    let zeros = largest.zeros_like()?;
    let has_nan = is_nan.max_pool2d_with_stride(kernel, stride)?.gt(&zeros)?;
    has_nan.where_cond(&(zeros + f64::NAN)?, &largest)
}

/// Of candle's own pool the gradient is wrong: a quarter of the true one where a window has one maximum (0.11: the
/// mask's average scales it), misplaced for odd sizes.
fn max_of_taps(x: &Tensor, kernel: usize, stride: usize) -> Result<Tensor> {
    let mut taps = taps(x, kernel, stride)?.into_iter();
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
    // One transfer to a device for all taps.
    let count = rows.max(columns);
    let places = (0..kernel).flat_map(|tap| (0..count).map(move |at| (at * stride + tap) as u32));
    let places = Tensor::from_iter(places, x.device())?.reshape((kernel, count))?;
    let of = |tap: usize, count: usize| places.get(tap)?.narrow(0, 0, count);
    let mut taps = Vec::new();
    for row in 0..kernel {
        let x = x.index_select(&of(row, rows)?, 2)?;
        for column in 0..kernel {
            taps.push(x.index_select(&of(column, columns)?, 3)?);
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
