//! Layers one after another, run by the kernels and in f64.

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use super::super::candle::{Input, backward, run_with_graph};
use super::super::isa::Isa;
use super::super::node::{Conv, Node, Operation, Value};
use super::super::shape::Shape;
use super::super::window::Window;
use super::reference::*;
use super::{activation, blocked, noise};

/// One convolution with bias, with a ReLU or not, pooled or not.
pub(super) struct Convolution {
    pub(super) weights: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) relu: bool,
    pub(super) pool: bool,
}

impl Convolution {
    /// With He's weights.
    pub(super) fn random(inputs: usize, outputs: usize, relu: bool, pool: bool, seed: u64) -> Self {
        let scale = (2.0 / (9 * inputs) as f32).sqrt();
        let mut weights = noise(outputs * inputs * 9, seed.wrapping_mul(2).wrapping_add(1));
        weights.iter_mut().for_each(|weight| *weight *= scale);
        let mut bias = noise(outputs, seed.wrapping_mul(2).wrapping_add(2));
        bias.iter_mut().for_each(|bias| *bias *= 0.2);
        Self {
            weights,
            bias,
            relu,
            pool,
        }
    }
}

/// A 3×3 convolution with weight and bias, with a ReLU or not, pooled or not.
pub(super) fn layer(
    input: Value,
    [weights, bias]: [Tensor; 2],
    relu: bool,
    pool: bool,
) -> Node<Tensor> {
    let conv = Conv {
        weights,
        bias,
        window: Window::SAME_3X3,
        depthwise: false,
        residual: None,
        activation: activation(relu),
        pool,
        scale: None,
        kept_as: None,
    };
    Node {
        input,
        operation: Operation::Conv(conv),
    }
}

/// Layers one after another, as training runs them.
pub(super) struct Network {
    pub(super) shape: Shape,
    pub(super) layers: Vec<Convolution>,
}

/// What f64 makes of a network.
pub(super) struct Expected {
    /// Each layer's sums, before a ReLU.
    pub(super) sums: Vec<Vec<f64>>,
    pub(super) output: Vec<f64>,
    /// Each layer's gradients of weights and bias, and what a bias's gradient would be if nothing cancelled.
    pub(super) gradients: Vec<[Vec<f64>; 3]>,
    /// The input's gradient.
    pub(super) input: Vec<f64>,
}

/// What the kernels make of a network.
pub(super) struct Found {
    pub(super) output: Vec<f32>,
    /// Each layer's gradients of weights and bias; none if it is not open.
    pub(super) gradients: Vec<[Option<Vec<f32>>; 2]>,
    /// The input's gradient, if it was asked for.
    pub(super) input: Option<Vec<f32>>,
}

/// The trainer's way to gradients.
pub(super) fn sooner(loss: &Tensor) -> candle_core::Result<GradStore> {
    backward(loss, &mut Vec::new())
}

impl Network {
    pub(super) fn random(
        shape: Shape,
        channels: &[usize],
        relu: &[bool],
        pool: &[bool],
        seed: u64,
    ) -> Self {
        let mut inputs = shape.channels;
        let layers = channels.iter().zip(relu).zip(pool).enumerate();
        let layers = layers.map(|(index, ((outputs, relu), pool))| {
            let inputs = std::mem::replace(&mut inputs, *outputs);
            let seed = (seed >> 1) ^ (10 + index as u64);
            Convolution::random(inputs, *outputs, *relu, *pool, seed)
        });
        let layers = layers.collect();
        Self { shape, layers }
    }

    /// The shapes of each layer's input, and of the last one's output.
    pub(super) fn shapes(&self) -> Vec<Shape> {
        let mut shapes = vec![self.shape];
        for layer in &self.layers {
            let whole = shapes[shapes.len() - 1].with_channels(layer.bias.len());
            shapes.push(if layer.pool { whole.pooled() } else { whole });
        }
        shapes
    }

    pub(super) fn output(&self) -> Shape {
        *self.shapes().last().unwrap()
    }

    pub(super) fn variables(&self) -> Vec<[Var; 2]> {
        let shapes = self.shapes();
        let layers = self.layers.iter().zip(&shapes);
        let var = |tensor: candle_core::Result<Tensor>| Var::from_tensor(&tensor.unwrap()).unwrap();
        let variables = layers.map(|(layer, shape)| {
            let outputs = layer.bias.len();
            let shape = (outputs, shape.channels, 3, 3);
            [
                var(Tensor::from_slice(&layer.weights, shape, &Device::Cpu)),
                var(Tensor::from_slice(&layer.bias, outputs, &Device::Cpu)),
            ]
        });
        variables.collect()
    }

    /// What becomes of each layer's sums, by its outputs before the pool.
    pub(super) fn routes(&self, outputs: &[Vec<f32>]) -> Vec<Vec<Option<usize>>> {
        let layers = self.layers.iter().zip(self.shapes()).zip(outputs);
        layers
            .map(|((layer, shape), y)| {
                let whole = shape.with_channels(layer.bias.len());
                routes(y, whole, layer.relu, layer.pool)
            })
            .collect()
    }

    /// The kernels' outputs of each layer before its pool, one layer at a time.
    pub(super) fn unpooled(&self, isa: Isa, x: &[f32]) -> Vec<Vec<f32>> {
        let mut input = Input::Planar(tensor(x, self.shape));
        let mut outputs = Vec::new();
        let layers = self.layers.iter().zip(self.variables());
        for ((of_layer, variables), shape) in layers.zip(self.shapes()) {
            let parameters = variables.each_ref().map(Var::as_detached_tensor);
            let alone = layer(0, parameters, of_layer.relu, false);
            let y = numbers(&run_with_graph(isa, &[alone], input, shape).unwrap());
            let whole = shape.with_channels(of_layer.bias.len());
            let next = routed(&routes(&y, whole, of_layer.relu, of_layer.pool), &y);
            let shape = if of_layer.pool { whole.pooled() } else { whole };
            input = Input::Blocked(blocked(shape, &next));
            outputs.push(y);
        }
        outputs
    }

    /// The kernels' output, and their gradients for Σ cotangent · output. `open` says which layers take one,
    /// `with_input` whether the input does.
    pub(super) fn run(
        &self,
        isa: Isa,
        open: &[bool],
        with_input: bool,
        x: &[f32],
        cotangent: &[f32],
        gradients_of: fn(&Tensor) -> candle_core::Result<GradStore>,
    ) -> Found {
        let variables = self.variables();
        let layers = self.layers.iter().zip(&variables).zip(open).enumerate();
        let layers = layers.map(|(index, ((of_layer, variables), open))| {
            let parameters = variables.each_ref().map(|variable| match open {
                true => variable.as_tensor().clone(),
                false => variable.as_detached_tensor(),
            });
            layer(index, parameters, of_layer.relu, of_layer.pool)
        });
        let layers: Vec<_> = layers.collect();
        let x = Var::from_tensor(&tensor(x, self.shape)).unwrap();
        let input = match with_input {
            true => x.as_tensor().clone(),
            false => x.as_detached_tensor(),
        };
        let input = Input::Planar(input);
        let y = run_with_graph(isa, &layers, input, self.shape).unwrap();
        let cotangent = Tensor::from_slice(cotangent, y.shape(), &Device::Cpu).unwrap();
        let loss = (&y * cotangent).unwrap().sum_all().unwrap();
        let store = gradients_of(&loss).unwrap();
        let gradient = |variable: &Var| {
            let gradient = store.get(variable)?;
            assert_eq!(gradient.dims(), variable.dims());
            Some(numbers(gradient))
        };
        let gradients = variables.iter().map(|pair| pair.each_ref().map(gradient));
        Found {
            output: numbers(&y),
            gradients: gradients.collect(),
            input: gradient(&x),
        }
    }

    /// The same in f64, with the gates and winners of `outputs`, from [`unpooled`](Self::unpooled).
    pub(super) fn expected(&self, outputs: &[Vec<f32>], x: &[f32], cotangent: &[f32]) -> Expected {
        let (shapes, routes) = (self.shapes(), self.routes(outputs));
        let (mut input, mut inputs, mut all_sums) = (widened(x), Vec::new(), Vec::new());
        for (index, layer) in self.layers.iter().enumerate() {
            let sums = sums(&input, shapes[index], &layer.weights, &layer.bias);
            inputs.push(std::mem::replace(&mut input, routed(&routes[index], &sums)));
            all_sums.push(sums);
        }
        let mut gradient = widened(cotangent);
        let mut gradients = Vec::new();
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let (shape, outputs) = (shapes[index], layer.bias.len());
            let mut dy = vec![0.0; all_sums[index].len()];
            for (route, gradient) in routes[index].iter().zip(&gradient) {
                if let Some(at) = route {
                    dy[*at] = *gradient;
                }
            }
            let absolute: Vec<f64> = dy.iter().map(|dy| dy.abs()).collect();
            gradients.push([
                weight_gradient(&inputs[index], shape, &dy, outputs),
                bias_gradient(&dy, shape, outputs),
                bias_gradient(&absolute, shape, outputs),
            ]);
            gradient = input_gradient(&dy, shape, &layer.weights, outputs);
        }
        gradients.reverse();
        Expected {
            sums: all_sums,
            output: input,
            gradients,
            input: gradient,
        }
    }
}

/// A planar tensor of maps.
pub(super) fn tensor(x: &[f32], shape: Shape) -> Tensor {
    Tensor::from_slice(x, &shape.dims(), &Device::Cpu).unwrap()
}

pub(super) fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}
