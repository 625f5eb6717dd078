//! Convolutions with stride 2 through tiles, and their gradients, against candle's in f64.

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use super::super::activation::Activation;
use super::super::convolution_gradient::{Joined, input_gradient, parameter_gradients};
use super::super::epilogue::{Epilogue, Gate, pad_bias};
use super::super::isa::Isa;
use super::super::method::Method;
use super::super::node::Conv;
use super::super::reference::convolution;
use super::super::shape::{FeatureMaps, Shape};
use super::super::weights::Weights;
use super::super::window::{Padding, Window};
use super::reference::{bias_gradient, error_beside, pooled, relative_error, relu, widened};
use super::windows::on_threads;
use super::{blocked, cases, noise, planar, size};

/// A layer of random numbers, and what candle makes of it in f64.
struct Layer {
    shape: Shape,
    window: Window,
    outputs: usize,
    x: Vec<f32>,
    weights: Vec<f32>,
    /// Of each output's weights.
    scale: Vec<f32>,
    cotangent: Vec<f32>,
    sums: Vec<f64>,
    weight_gradient: Vec<f64>,
    input_gradient: Vec<f64>,
}

impl Layer {
    fn random(shape: Shape, window: Window, outputs: usize, seed: u64) -> Self {
        let output = window.output(shape).with_channels(outputs);
        let x = noise(shape.planar_len(), seed);
        let dims = [outputs, shape.channels, window.kernel, window.kernel];
        let weights = noise(dims.iter().product(), seed ^ 1);
        let cotangent = noise(output.planar_len(), seed ^ 2);
        let double = |numbers: &[f32], dims: &[usize]| {
            let tensor = Tensor::from_slice(numbers, dims, &Device::Cpu).unwrap();
            Var::from_tensor(&tensor.to_dtype(DType::F64).unwrap()).unwrap()
        };
        let scale = noise(outputs, seed ^ 7);
        let of_output = weights.len() / outputs;
        let scaled = weights
            .iter()
            .zip(scale.iter().flat_map(|s| vec![*s; of_output]));
        let scaled: Vec<f32> = scaled.map(|(weight, scale)| weight * scale).collect();
        let (x_var, weight) = (double(&x, &shape.dims()), double(&scaled, &dims));
        let y = convolution(&x_var, &weight, window, 1).unwrap();
        let passed = double(&cotangent, &output.dims());
        let loss = (&y * passed.as_tensor()).unwrap().sum_all().unwrap();
        let store = loss.backward().unwrap();
        let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        Self {
            sums: numbers(&y),
            weight_gradient: numbers(store.get(&weight).unwrap()),
            input_gradient: numbers(store.get(&x_var).unwrap()),
            shape,
            window,
            outputs,
            x,
            weights,
            scale,
            cotangent,
        }
    }

    fn output(&self) -> Shape {
        self.window.output(self.shape).with_channels(self.outputs)
    }

    fn weights(&self) -> Weights<'_> {
        Weights {
            values: &self.weights,
            out_channels: self.outputs,
            in_channels: self.shape.channels,
            size: self.window.kernel,
            scale: Some(&self.scale),
            transposed: false,
        }
    }

    /// Which sums are not finite in f64.
    fn spoilt_sums(&self) -> Vec<bool> {
        let dims = [
            self.outputs,
            self.shape.channels,
            self.window.kernel,
            self.window.kernel,
        ];
        let double = |numbers: &[f32], dims: &[usize]| {
            let tensor = Tensor::from_slice(numbers, dims, &Device::Cpu).unwrap();
            tensor.to_dtype(DType::F64).unwrap()
        };
        let (x, weight) = (
            double(&self.x, &self.shape.dims()),
            double(&self.weights, &dims),
        );
        let sums = convolution(&x, &weight, self.window, 1).unwrap();
        let sums: Vec<f64> = sums.flatten_all().unwrap().to_vec1().unwrap();
        sums.into_iter().map(|sum| !sum.is_finite()).collect()
    }

    fn method(&self) -> Method {
        match self.window.kernel {
            7 => Method::SpaceToDepth,
            _ => Method::Strided,
        }
    }

    /// The input as its method reads it.
    fn input(&self) -> Vec<f32> {
        match self.method() {
            Method::SpaceToDepth => self.x.clone(),
            _ => blocked(self.shape, &self.x),
        }
    }

    /// What becomes of sums with a bias, a residual and a ReLU, with packed weights or others.
    fn convolve(&self, isa: Isa, bias: &[f32], residual: &[f32], is_packed: bool) -> Vec<f32> {
        let (weights, output) = (self.weights(), self.output());
        let (bias, residual) = (pad_bias(bias), blocked(output, residual));
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual: Some(&residual),
            activation: Activation::Relu,
            ..Epilogue::default()
        };
        let packed = is_packed.then(|| self.method().pack(isa, &weights));
        let mut y = vec![f32::NAN; output.blocked_len()];
        self.method().convolve(
            isa,
            &self.input(),
            self.shape,
            self.window,
            &weights,
            packed.as_deref(),
            &epilogue,
            &mut y,
        );
        planar(output, &y)
    }

    fn conv<'a>(&'a self, bias: &'a [f32]) -> Conv<&'a [f32]> {
        Conv {
            weights: &self.weights,
            bias,
            window: self.window,
            depthwise: false,
            residual: None,
            activation: Activation::Identity,
            pool: false,
            scale: Some(&self.scale),
            kept_as: None,
        }
    }

    /// The gradients of weights and bias.
    fn parameter_gradients(&self, isa: Isa) -> [Vec<f32>; 2] {
        let input = self.input();
        let x = match self.method() {
            Method::SpaceToDepth => FeatureMaps::Planar(&input),
            _ => FeatureMaps::Blocked(&input),
        };
        let dy = blocked(self.output(), &self.cotangent);
        let mut dw = vec![f32::NAN; self.weights.len()];
        let mut db = vec![f32::NAN; self.outputs];
        let zeros = vec![0.0; self.outputs];
        parameter_gradients(
            isa,
            &self.conv(&zeros),
            x,
            self.shape,
            &dy,
            &mut dw,
            &mut db,
        );
        [dw, db]
    }

    fn check(&self, isa: Isa, seed: u64) {
        let what = format!(
            "{isa:?} {:?} {:?} → {}",
            self.shape, self.window, self.outputs
        );
        let output = self.output();
        let bias = noise(self.outputs, seed ^ 3);
        let residual = noise(output.planar_len(), seed ^ 4);
        let size = output.height * output.width;
        let of_channel = |index: usize| f64::from(bias[index / size % self.outputs]);
        let expected = self.sums.iter().zip(&residual).enumerate();
        let expected =
            expected.map(|(index, (sum, other))| sum + of_channel(index) + f64::from(*other));
        let expected = relu(&expected.collect::<Vec<f64>>());
        let found = self.convolve(isa, &bias, &residual, true);
        let error = relative_error(&found, &expected);
        assert!(error < 1e-5, "{what}: {error:e}");
        // Weights that are used once may go another way, to the same bits.
        assert!(
            found == self.convolve(isa, &bias, &residual, false),
            "{what}"
        );

        self.check_pooled(isa);
        let [dw, db] = self.parameter_gradients(isa);
        let error = relative_error(&dw, &self.weight_gradient);
        assert!(error < 1e-5, "{what}: weights' gradient: {error:e}");
        let expected = bias_gradient(&widened(&self.cotangent), output, self.outputs);
        let scale: Vec<f64> = bias_gradient(
            &self
                .cotangent
                .iter()
                .map(|dy| f64::from(dy.abs()))
                .collect::<Vec<_>>(),
            output,
            self.outputs,
        );
        let error = error_beside(&db, &expected, &scale);
        assert!(error < 1e-5, "{what}: bias's gradient: {error:e}");
        self.check_input_gradient(isa, seed);
    }

    /// Sums of which the largest of each 2×2 is kept.
    fn check_pooled(&self, isa: Isa) {
        let output = self.output();
        if output.height < 2 || output.width < 2 {
            return;
        }
        let epilogue = Epilogue {
            pool: true,
            ..Epilogue::default()
        };
        let mut y = vec![f32::NAN; output.pooled().blocked_len()];
        let (input, weights) = (self.input(), self.weights());
        let (shape, window) = (self.shape, self.window);
        self.method().convolve(
            isa, &input, shape, window, &weights, None, &epilogue, &mut y,
        );
        let expected = pooled(&self.sums, output);
        let error = relative_error(&planar(output.pooled(), &y), &expected);
        assert!(
            error < 1e-5,
            "{isa:?} {shape:?} {window:?}, pooled: {error:e}"
        );
    }

    /// That of the input joins another and passes a ReLU.
    fn check_input_gradient(&self, isa: Isa, seed: u64) {
        let shape = self.shape;
        let other = noise(shape.planar_len(), seed ^ 5);
        let gate = noise(shape.planar_len(), seed ^ 6);
        let expected = self.input_gradient.iter().zip(&other).zip(&gate);
        let expected = expected.map(|((dx, other), gate)| {
            let passes = f64::from(u8::from(*gate > 0.0));
            (dx + f64::from(*other)) * passes
        });
        let (other, gate) = (blocked(shape, &other), blocked(shape, &gate));
        let joined = Joined {
            other: Some(&other),
            gate: Gate::of(Activation::Relu, &gate),
        };
        let mut dx = vec![f32::NAN; shape.blocked_len()];
        let dy = blocked(self.output(), &self.cotangent);
        let zeros = vec![0.0; self.outputs];
        input_gradient(isa, &self.conv(&zeros), shape, &dy, joined, &mut dx);
        let error = relative_error(&planar(shape, &dx), &expected.collect::<Vec<f64>>());
        let what = format!("{isa:?} {shape:?} {:?} → {}", self.window, self.outputs);
        assert!(error < 1e-5, "{what}: input's gradient: {error:e}");
    }
}

fn strided(kernel: usize, padding: [usize; 4]) -> Window {
    let [top, bottom, left, right] = padding;
    Window {
        kernel,
        stride: 2,
        padding: Padding {
            top,
            bottom,
            left,
            right,
        },
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn strided_tiles_are_candles_convolution_in_f64(
        (batch, channels, height, width) in (1usize..=5, size(), size(), size()),
        padding in prop::array::uniform4(0usize..=3),
        outputs in size(),
        seed in any::<u64>(),
    ) {
        let shape = Shape { batch, channels, height, width };
        let window = strided(3, padding);
        prop_assume!(height + padding[0] + padding[1] >= 3 && width + padding[2] + padding[3] >= 3);
        let layer = Layer::random(shape, window, outputs, seed);
        for isa in Isa::available() {
            layer.check(isa, seed);
        }
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn first_layers_are_candles_convolution_in_f64(
        (batch, channels, height, width) in (1usize..=3, 1usize..=4, 1usize..=80, 1usize..=80),
        padding in prop::array::uniform4(0usize..=7),
        outputs in size(),
        seed in any::<u64>(),
    ) {
        let shape = Shape { batch, channels, height, width };
        let window = strided(7, padding);
        prop_assume!(height + padding[0] + padding[1] >= 7 && width + padding[2] + padding[3] >= 7);
        let layer = Layer::random(shape, window, outputs, seed);
        for isa in Isa::available() {
            layer.check(isa, seed);
        }
    }
}

/// Enough tiles and channels for both schedules, and for several chunks.
#[test]
fn wide_strided_layers_take_both_schedules() {
    for (channels, outputs, side) in [(48, 64, 61), (272, 288, 16), (512, 160, 13)] {
        let shape = Shape {
            batch: 2,
            channels,
            height: side,
            width: side + 1,
        };
        Layer::random(shape, strided(3, [1; 4]), outputs, 7).check(Isa::best(), 7);
    }
}

#[test]
fn threads_change_no_bit_of_strided_tiles() {
    let shape = Shape {
        batch: 3,
        channels: 80,
        height: 21,
        width: 30,
    };
    let layer = Layer::random(shape, strided(3, [0, 1, 0, 1]), 72, 5);
    let residual = vec![0.0; layer.output().planar_len()];
    on_threads(|| layer.convolve(Isa::best(), &[0.5; 72], &residual, true));
    on_threads(|| layer.parameter_gradients(Isa::best())[0].clone());
}

/// What one number that is none, or infinite, spoils in f64 is not finite, forward and back; what other images are is.
#[test]
fn strided_tiles_hide_nothing() {
    let shape = |channels| Shape {
        batch: 2,
        channels,
        height: 19,
        width: 23,
    };
    for (channels, kernel) in [(20, 3), (3, 7)] {
        let (shape, window) = (shape(channels), strided(kernel, [1; 4]));
        for (bad, seed) in [(f32::NAN, 1), (f32::INFINITY, 2), (f32::NEG_INFINITY, 3)] {
            for isa in Isa::available() {
                let mut layer = Layer::random(shape, window, 18, seed);
                let (output, image) = (layer.output(), shape.planar_len() / 2);
                // In the first image, in the middle of a window.
                layer.x[image / 2] = bad;
                let spoilt = layer.spoilt_sums();
                assert!(spoilt.contains(&true));
                let zeros = vec![0.0; output.planar_len()];
                let y = layer.convolve(isa, &[0.0; 18], &zeros, true);
                for (index, (y, is_spoilt)) in y.iter().zip(spoilt).enumerate() {
                    let is_other = index >= output.planar_len() / 2;
                    // A ReLU makes 0 of −∞, as it should.
                    let is_closed = *y == 0.0 && bad.is_infinite();
                    assert!(
                        !is_spoilt || !y.is_finite() || is_closed,
                        "{isa:?} {bad} {window:?}"
                    );
                    assert!(!is_other || y.is_finite(), "{isa:?} {bad} {window:?}");
                }
                // Every weight of the input's channel meets it, and every gradient of the outputs' channels.
                let [dw, _] = layer.parameter_gradients(isa);
                let taps = kernel * kernel;
                let channel = image / 2 / (shape.height * shape.width);
                let of_channel = |index: usize| index / taps % channels == channel;
                let mut of_input = dw
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| of_channel(*index));
                assert!(
                    of_input.any(|(_, dw)| !dw.is_finite()),
                    "{isa:?} {bad} {window:?}"
                );
                layer.cotangent[3] = bad;
                let dy = blocked(output, &layer.cotangent);
                let mut dx = vec![f32::NAN; shape.blocked_len()];
                let zeros = vec![0.0; 18];
                let conv = layer.conv(&zeros);
                input_gradient(isa, &conv, shape, &dy, Joined::default(), &mut dx);
                let dx = planar(shape, &dx);
                assert!(
                    dx[..image].iter().any(|dx| !dx.is_finite()),
                    "{isa:?} {bad} {window:?}"
                );
                assert!(
                    dx[image..].iter().all(|dx| dx.is_finite()),
                    "{isa:?} {bad} {window:?}"
                );
            }
        }
    }
}
