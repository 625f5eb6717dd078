//! Squeeze-and-excitation (Hu et al., 2018) on blocked maps: each channel's mean goes through two small dense layers,
//! and what comes out, its gate, scales the channel.
//!
//! Means, gates and what lies between are (N, channels) without padding. Padded lanes of scaled maps and of gradients
//! are 0 times what the maps hold there, whatever finite number that is.

use super::activation::Activation;
use super::isa::{Isa, Token, with_simd};
use super::parallel::{Shared, for_each};
use super::scratch::Scratch;
use super::shape::Shape;
use super::simd::{LANES, Simd};

/// A dense layer. `W` is what holds the weights: numbers, or a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dense<W> {
    /// (outputs, inputs)
    pub(crate) weight: W,
    pub(crate) bias: W,
    pub(crate) activation: Activation,
}

impl<W> Dense<W> {
    /// The same with what `with` makes of weight and bias.
    pub(super) fn map<'w, V>(&'w self, mut with: impl FnMut(&'w W) -> V) -> Dense<V> {
        Dense {
            weight: with(&self.weight),
            bias: with(&self.bias),
            activation: self.activation,
        }
    }
}

/// What came of each step, (N, channels); the way back needs all of it.
pub(super) struct Gates {
    pub(super) means: Vec<f32>,
    /// The first layer's sums, before its activation.
    reduced: Vec<f32>,
    /// What the second layer reads.
    hidden: Vec<f32>,
    /// The second layer's sums, before its activation.
    expanded: Vec<f32>,
    pub(super) gates: Vec<f32>,
}

/// The gradients of a layer's parameters, as the parameters lie.
pub(super) struct DenseGradient {
    pub(super) weight: Scratch,
    pub(super) bias: Scratch,
}

/// What comes back through a whole squeeze-and-excitation.
pub(super) struct Gradients {
    pub(super) reduce: DenseGradient,
    pub(super) expand: DenseGradient,
}

/// The mean of each channel of blocked maps: (N, C).
///
/// # Panics
/// If maps have no pixels.
pub(super) fn means(isa: Isa, x: &[f32], shape: Shape) -> Vec<f32> {
    let mut means = plane_sums(isa, x, None, shape);
    let scale = pixel_share(shape);
    means.iter_mut().for_each(|mean| *mean *= scale);
    means
}

/// The same from sums of parts of the maps: (part, image, channel with padding).
pub(super) fn means_of_parts(parts: &[f32], shape: Shape) -> Vec<f32> {
    let (row, share) = (shape.blocks() * LANES, pixel_share(shape));
    let parts: Vec<&[f32]> = parts.chunks_exact((shape.batch * row).max(1)).collect();
    let mean = |image: usize, channel: usize| {
        let sums = parts.iter().map(|part| part[image * row + channel]);
        sums.sum::<f32>() * share
    };
    let images = 0..shape.batch;
    let means = images.flat_map(|image| (0..shape.channels).map(move |channel| (image, channel)));
    means.map(|(image, channel)| mean(image, channel)).collect()
}

/// One over the number of pixels.
fn pixel_share(shape: Shape) -> f32 {
    let pixels = shape.height * shape.width;
    assert!(pixels > 0, "means of {shape:?}");
    (1.0 / pixels as f64) as f32
}

/// y = x · gate: blocked maps and gates (N, C).
pub(super) fn scale(isa: Isa, x: &[f32], shape: Shape, gates: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    scale_and_shift(isa, x, shape, gates, None, y);
}

/// The gates from the means of `batch` images.
pub(super) fn gates(
    isa: Isa,
    means: Vec<f32>,
    batch: usize,
    reduce: Dense<&[f32]>,
    expand: Dense<&[f32]>,
) -> Gates {
    let reduced = reduce.sums(isa, &means, batch);
    let hidden = reduce.activate(&reduced);
    let expanded = expand.sums(isa, &hidden, batch);
    let gates = expand.activate(&expanded);
    assert_eq!(gates.len(), means.len(), "a gate for each channel");
    Gates {
        means,
        reduced,
        hidden,
        expanded,
        gates,
    }
}

/// The gradients of a squeeze-and-excitation from its input `x` and that of its output, written over `dx`.
#[expect(clippy::too_many_arguments, reason = "a layer's operands")]
pub(super) fn gradients(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    kept: &Gates,
    reduce: Dense<&[f32]>,
    expand: Dense<&[f32]>,
    dy: &[f32],
    dx: &mut [f32],
) -> Gradients {
    let batch = shape.batch;
    assert_eq!(kept.gates.len(), batch * shape.channels);
    assert_eq!(dy.len(), dx.len());
    let dgates = plane_sums(isa, x, Some(dy), shape);
    let dexpanded = expand.slopes(&kept.expanded, dgates);
    let (expand_gradient, dhidden) = expand.gradients(isa, &kept.hidden, &dexpanded, batch);
    let dreduced = reduce.slopes(&kept.reduced, dhidden);
    let (reduce_gradient, mut dmeans) = reduce.gradients(isa, &kept.means, &dreduced, batch);
    let share = pixel_share(shape);
    dmeans.iter_mut().for_each(|dmean| *dmean *= share);
    scale_and_shift(isa, dy, shape, &kept.gates, Some(&dmeans), dx);
    Gradients {
        reduce: reduce_gradient,
        expand: expand_gradient,
    }
}

/// The sum over each channel's pixels of `x`, or of x · y: (N, C).
pub(super) fn plane_sums(isa: Isa, x: &[f32], y: Option<&[f32]>, shape: Shape) -> Vec<f32> {
    let (plane_len, blocks) = (shape.plane_len(), shape.blocks());
    assert_eq!(x.len(), shape.blocked_len());
    assert!(y.is_none_or(|y| y.len() == x.len()));
    let mut sums = vec![0.0; shape.batch * shape.channels];
    let shared = Shared::new(&mut sums);
    for_each(shape.batch * blocks, |plane| {
        let (image, first) = (plane / blocks, plane % blocks * LANES);
        let x = &x[plane * plane_len..][..plane_len];
        let y = y.map(|y| &y[plane * plane_len..][..plane_len]);
        let lanes = with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || match y {
                Some(y) => plane_sum::<_, true>(simd, x, y),
                None => plane_sum::<_, false>(simd, x, x),
            },
        ));
        let count = LANES.min(shape.channels - first);
        // SAFETY: an item writes its own channels.
        let sums = unsafe { shared.slice(image * shape.channels + first, count) };
        sums.copy_from_slice(&lanes[..count]);
    });
    sums
}

/// The sum over a plane's pixels of `x`, or of x · y. Eight sums take turns: an addition takes several cycles.
#[inline(always)]
pub(super) fn plane_sum<S: Simd, const TIMES_Y: bool>(
    simd: S,
    x: &[f32],
    y: &[f32],
) -> [f32; LANES] {
    const SUMS: usize = 8;
    assert_eq!(x.len(), y.len());
    let mut sums = [simd.splat(0.0); SUMS];
    let pixels = x.len() / LANES;
    let (x, y) = (x.as_ptr(), y.as_ptr());
    let mut pixel = 0;
    while pixel + SUMS <= pixels {
        for index in 0..SUMS {
            // SAFETY: one of the plane's pixels.
            sums[index] = unsafe { add::<_, TIMES_Y>(simd, sums[index], x, y, pixel + index) };
        }
        pixel += SUMS;
    }
    for pixel in pixel..pixels {
        // SAFETY: one of the plane's pixels.
        sums[0] = unsafe { add::<_, TIMES_Y>(simd, sums[0], x, y, pixel) };
    }
    let mut half = SUMS / 2;
    while half > 0 {
        for index in 0..half {
            sums[index] = simd.add(sums[index], sums[index + half]);
        }
        half /= 2;
    }
    let mut lanes = [0.0; LANES];
    // SAFETY: they are sixteen.
    unsafe { simd.store(lanes.as_mut_ptr(), sums[0]) };
    lanes
}

/// `sum` and a pixel of `x`, or of x · y.
///
/// # Safety
/// Both planes have such a pixel.
#[inline(always)]
unsafe fn add<S: Simd, const TIMES_Y: bool>(
    simd: S,
    sum: S::V,
    x: *const f32,
    y: *const f32,
    pixel: usize,
) -> S::V {
    // SAFETY: the pixel is there, as the caller says.
    unsafe {
        let x = simd.load(x.add(pixel * LANES));
        if TIMES_Y {
            simd.mul_add(x, simd.load(y.add(pixel * LANES)), sum)
        } else {
            simd.add(sum, x)
        }
    }
}

/// y = x · factor + summand: factors are (N, C), and summands if there are any.
fn scale_and_shift(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    factors: &[f32],
    summands: Option<&[f32]>,
    y: &mut [f32],
) {
    let (plane_len, blocks) = (shape.plane_len(), shape.blocks());
    assert_eq!(
        (x.len(), y.len()),
        (shape.blocked_len(), shape.blocked_len())
    );
    assert_eq!(factors.len(), shape.batch * shape.channels);
    assert!(summands.is_none_or(|summands| summands.len() == factors.len()));
    let y = Shared::new(y);
    for_each(shape.batch * blocks, |plane| {
        let (image, first) = (plane / blocks, plane % blocks * LANES);
        let count = LANES.min(shape.channels - first);
        let lanes = |numbers: &[f32]| {
            let mut lanes = [0.0; LANES];
            lanes[..count].copy_from_slice(&numbers[image * shape.channels + first..][..count]);
            lanes
        };
        let (factor, summand) = (lanes(factors), summands.map_or([0.0; LANES], lanes));
        // SAFETY: an item writes its own plane.
        let y = unsafe { y.slice(plane * plane_len, plane_len) };
        let x = &x[plane * plane_len..][..plane_len];
        with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || scale_plane(simd, x, &factor, &summand, y),
        ));
    });
}

/// [`scale_and_shift`] of a plane.
#[inline(always)]
fn scale_plane<S: Simd>(
    simd: S,
    x: &[f32],
    factor: &[f32; LANES],
    summand: &[f32; LANES],
    y: &mut [f32],
) {
    // SAFETY: sixteen floats each.
    let (factor, summand) = unsafe { (simd.load(factor.as_ptr()), simd.load(summand.as_ptr())) };
    for (x, y) in x.chunks_exact(LANES).zip(y.chunks_exact_mut(LANES)) {
        // SAFETY: chunks are sixteen floats long.
        unsafe {
            let value = simd.mul_add(simd.load(x.as_ptr()), factor, summand);
            simd.store(y.as_mut_ptr(), value);
        }
    }
}

impl Dense<&[f32]> {
    fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Sums of `batch` rows of inputs, before the activation: (batch, outputs).
    fn sums(&self, isa: Isa, x: &[f32], batch: usize) -> Vec<f32> {
        let (inputs, outputs) = (self.inputs(x, batch), self.outputs());
        let mut sums = vec![0.0; batch * outputs];
        let shared = Shared::new(&mut sums);
        let groups = outputs.div_ceil(LANES);
        let quarters = batch.div_ceil(ROWS);
        for_each(groups * quarters, |item| {
            let (group, quarter) = (item / quarters, item % quarters);
            let rows = quarter * ROWS..batch.min((quarter + 1) * ROWS);
            let some = group * LANES..outputs.min((group + 1) * LANES);
            with_simd!(isa, simd => simd.vectorize(
                #[inline(always)]
                || for output in some.clone() {
                    let weight = &self.weight[output * inputs..][..inputs];
                    let row = |row: usize| &x[row * inputs..][..inputs];
                    let write = |row: usize, found: f32| {
                        // SAFETY: an item writes its own outputs of its own rows.
                        unsafe { *shared.at(row * outputs + output) = self.bias[output] + found };
                    };
                    if rows.len() == ROWS {
                        let some = std::array::from_fn(|index| row(rows.start + index));
                        let found: [f32; ROWS] = dots(simd, weight, some);
                        rows.clone().zip(found).for_each(|(row, found)| write(row, found));
                        continue;
                    }
                    for index in rows.clone() {
                        let [found] = dots(simd, weight, [row(index)]);
                        write(index, found);
                    }
                },
            ));
        });
        sums
    }

    /// Inputs of a row of `x`.
    fn inputs(&self, x: &[f32], batch: usize) -> usize {
        let inputs = x.len() / batch.max(1);
        assert_eq!(x.len(), batch * inputs);
        assert_eq!(self.weight.len(), self.outputs() * inputs);
        inputs
    }

    fn activate(&self, sums: &[f32]) -> Vec<f32> {
        let value = |sum: &f32| self.activation.value(*sum);
        sums.iter().map(value).collect()
    }

    /// The gradient of sums from that of their activation.
    fn slopes(&self, sums: &[f32], mut gradient: Vec<f32>) -> Vec<f32> {
        assert_eq!(sums.len(), gradient.len());
        for (gradient, sum) in gradient.iter_mut().zip(sums) {
            *gradient *= self.activation.slope(*sum);
        }
        gradient
    }

    /// The gradients of the parameters and of the inputs `x` from that of the sums.
    fn gradients(
        &self,
        isa: Isa,
        x: &[f32],
        dsums: &[f32],
        batch: usize,
    ) -> (DenseGradient, Vec<f32>) {
        let (inputs, outputs) = (self.inputs(x, batch), self.outputs());
        assert_eq!(dsums.len(), batch * outputs);
        let mut gradient = DenseGradient {
            weight: Scratch::new(self.weight.len()),
            bias: Scratch::new(outputs),
        };
        gradient.weight.fill(0.0);
        gradient.bias.fill(0.0);
        let mut dx = vec![0.0; x.len()];
        for (index, dsum) in dsums.iter().enumerate() {
            gradient.bias[index % outputs] += dsum;
        }
        let shared = Shared::new(&mut gradient.weight);
        for_each(outputs, |output| {
            // SAFETY: an item writes its own output's weights.
            let dw = unsafe { shared.slice(output * inputs, inputs) };
            with_simd!(isa, simd => simd.vectorize(
                #[inline(always)]
                || add_rows(simd, dw, batch, |row| {
                    (dsums[row * outputs + output], &x[row * inputs..][..inputs])
                }),
            ));
        });
        let shared = Shared::new(&mut dx);
        for_each(batch, |row| {
            // SAFETY: an item writes its own row.
            let dx = unsafe { shared.slice(row * inputs, inputs) };
            with_simd!(isa, simd => simd.vectorize(
                #[inline(always)]
                || add_rows(simd, dx, outputs, |output| {
                    (dsums[row * outputs + output], &self.weight[output * inputs..][..inputs])
                }),
            ));
        });
        (gradient, dx)
    }
}

/// Rows that are read at a time, each number of theirs with one of what they are multiplied with or added to.
const ROWS: usize = 4;

/// Σ a · b for each of some rows b, each summed up as it would be alone.
#[inline(always)]
fn dots<S: Simd, const R: usize>(simd: S, a: &[f32], b: [&[f32]; R]) -> [f32; R] {
    assert!(b.iter().all(|b| b.len() == a.len()));
    let mut sums = [simd.splat(0.0); R];
    let vectors = a.len() / LANES;
    for vector in 0..vectors {
        // SAFETY: one of the whole vectors of all rows.
        unsafe {
            let a = simd.load(a.as_ptr().add(vector * LANES));
            for row in 0..R {
                let b = simd.load(b[row].as_ptr().add(vector * LANES));
                sums[row] = simd.mul_add(a, b, sums[row]);
            }
        }
    }
    let rest = vectors * LANES;
    let mut found = [0.0; R];
    for row in 0..R {
        let mut lanes = [0.0; LANES];
        // SAFETY: they are sixteen.
        unsafe { simd.store(lanes.as_mut_ptr(), sums[row]) };
        let products = a[rest..].iter().zip(&b[row][rest..]).map(|(a, b)| a * b);
        found[row] = lanes.into_iter().chain(products).sum();
    }
    found
}

/// to += Σ factor · row, for so many factors and rows.
#[inline(always)]
fn add_rows<'a, S: Simd>(
    simd: S,
    to: &mut [f32],
    count: usize,
    row: impl Fn(usize) -> (f32, &'a [f32]),
) {
    for first in (0..count).step_by(ROWS) {
        let some: [(f32, &[f32]); ROWS] =
            std::array::from_fn(|index| row((first + index).min(count - 1)));
        let some_count = ROWS.min(count - first);
        let (vectors, rest) = to.as_chunks_mut::<LANES>();
        let done = vectors.len() * LANES;
        assert!(some.iter().all(|(_, row)| row.len() == done + rest.len()));
        for (vector, to) in vectors.iter_mut().enumerate() {
            // SAFETY: one of the whole vectors of all rows.
            unsafe {
                let mut sum = simd.load(to.as_ptr());
                for index in 0..ROWS {
                    if index < some_count {
                        let (factor, row) = some[index];
                        let row = simd.load(row.as_ptr().add(vector * LANES));
                        sum = simd.mul_add(simd.splat(factor), row, sum);
                    }
                }
                simd.store(to.as_mut_ptr(), sum);
            }
        }
        for (index, to) in (done..).zip(rest) {
            let products = some[..some_count]
                .iter()
                .map(|(factor, row)| factor * row[index]);
            *to += products.sum::<f32>();
        }
    }
}
