//! Convolutions with stride 2 through tiles, and their gradients, against candle's in f64.

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use super::super::activation::Activation;
use super::super::convolution_gradient::{Joined, input_gradient};
use super::super::epilogue::{Epilogue, Gate, pad_bias};
use super::super::isa::Isa;
use super::super::method::Method;
use super::super::node::Conv;
use super::super::reference::convolution;
use super::super::shape::Shape;
use super::super::weights::Weights;
use super::super::window::{Padding, Window};
use super::super::winograd::parameter_gradients;
use super::reference::{bias_gradient, error_beside, relative_error, relu, widened};
use super::windows::on_threads;
use super::{blocked, cases, noise, planar, size};

/// A layer of random numbers, and what candle makes of it in f64.
struct Layer {
    shape: Shape,
    window: Window,
    outputs: usize,
    x: Vec<f32>,
    weights: Vec<f32>,
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
        let (x_var, weight) = (double(&x, &shape.dims()), double(&weights, &dims));
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
            cotangent,
        }
    }

    fn output(&self) -> Shape {
        self.window.output(self.shape).with_channels(self.outputs)
    }

    fn weights(&self, transposed: bool) -> Weights<'_> {
        Weights {
            values: &self.weights,
            out_channels: self.outputs,
            in_channels: self.shape.channels,
            size: self.window.kernel,
            scale: None,
            transposed,
        }
    }

    /// What becomes of sums with a bias, a residual and a ReLU, with packed weights or others.
    fn convolve(&self, isa: Isa, bias: &[f32], residual: &[f32], is_packed: bool) -> Vec<f32> {
        let (weights, output) = (self.weights(false), self.output());
        let (bias, residual) = (pad_bias(bias), blocked(output, residual));
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual: Some(&residual),
            activation: Activation::Relu,
            ..Epilogue::default()
        };
        let packed = is_packed.then(|| Method::Strided.pack(isa, &weights));
        let x = blocked(self.shape, &self.x);
        let mut y = vec![f32::NAN; output.blocked_len()];
        let (shape, window) = (self.shape, self.window);
        Method::Strided.convolve(
            isa,
            &x,
            shape,
            window,
            &weights,
            packed.as_deref(),
            &epilogue,
            &mut y,
        );
        planar(output, &y)
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

        let x = blocked(self.shape, &self.x);
        let dy = blocked(output, &self.cotangent);
        let mut dw = vec![f32::NAN; self.weights.len()];
        let mut db = vec![f32::NAN; self.outputs];
        parameter_gradients(isa, &x, self.shape, self.window, &dy, &mut dw, &mut db);
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
        self.check_input_gradient(isa, &dy, seed);
    }

    /// That of the input joins another and passes a ReLU.
    fn check_input_gradient(&self, isa: Isa, dy: &[f32], seed: u64) {
        let shape = self.shape;
        let conv = Conv {
            weights: &self.weights[..],
            bias: &vec![0.0; self.outputs][..],
            window: self.window,
            depthwise: false,
            residual: None,
            activation: Activation::Identity,
            pool: false,
            scale: None,
            kept_as: None,
        };
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
        input_gradient(isa, &conv, shape, dy, joined, &mut dx);
        let error = relative_error(&planar(shape, &dx), &expected.collect::<Vec<f64>>());
        let what = format!("{isa:?} {shape:?} {:?} → {}", self.window, self.outputs);
        assert!(error < 1e-5, "{what}: input's gradient: {error:e}");
    }
}

fn strided(padding: [usize; 4]) -> Window {
    let [top, bottom, left, right] = padding;
    Window {
        kernel: 3,
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
        let window = strided(padding);
        prop_assume!(height + padding[0] + padding[1] >= 3 && width + padding[2] + padding[3] >= 3);
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
        Layer::random(shape, strided([1; 4]), outputs, 7).check(Isa::best(), 7);
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
    let layer = Layer::random(shape, strided([0, 1, 0, 1]), 72, 5);
    let residual = vec![0.0; layer.output().planar_len()];
    on_threads(|| layer.convolve(Isa::best(), &[0.5; 72], &residual, true));
    on_threads(|| {
        let x = blocked(shape, &layer.x);
        let dy = blocked(layer.output(), &layer.cotangent);
        let mut dw = vec![f32::NAN; layer.weights.len()];
        parameter_gradients(
            Isa::best(),
            &x,
            shape,
            layer.window,
            &dy,
            &mut dw,
            &mut [0.0; 72],
        );
        dw
    });
}
