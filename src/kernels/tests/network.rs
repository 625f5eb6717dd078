//! Layers one after another, run by the kernels and in f64.

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use super::super::conv::Isa;
use super::super::layout::Maps;
use super::super::training::{Input, OpenLayer, backward, run_open};
use super::reference::*;
use super::{blocked, noise};

/// One convolution with bias and ReLU, pooled or not.
pub(super) struct Convolution {
    pub(super) weights: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) pool: bool,
}

impl Convolution {
    /// With He's weights.
    pub(super) fn random(inputs: usize, outputs: usize, pool: bool, seed: u64) -> Self {
        let scale = (2.0 / (9 * inputs) as f32).sqrt();
        let mut weights = noise(outputs * inputs * 9, seed.wrapping_mul(2).wrapping_add(1));
        weights.iter_mut().for_each(|weight| *weight *= scale);
        let mut bias = noise(outputs, seed.wrapping_mul(2).wrapping_add(2));
        bias.iter_mut().for_each(|bias| *bias *= 0.2);
        Self {
            weights,
            bias,
            pool,
        }
    }
}

/// Layers one after another, as training runs them.
pub(super) struct Network {
    pub(super) maps: Maps,
    pub(super) layers: Vec<Convolution>,
}

/// What f64 makes of a network.
pub(super) struct Expected {
    /// Each layer's sums, before its ReLU.
    pub(super) sums: Vec<Vec<f64>>,
    pub(super) output: Vec<f64>,
    /// Each layer's gradients of weights and bias, and what a bias's gradient would be if nothing cancelled.
    pub(super) gradients: Vec<[Vec<f64>; 3]>,
}

/// What the kernels make of a network.
pub(super) struct Found {
    pub(super) output: Vec<f32>,
    /// Each layer's gradients of weights and bias; none if it is not open.
    pub(super) gradients: Vec<[Option<Vec<f32>>; 2]>,
}

/// The trainer's way to gradients.
pub(super) fn sooner(loss: &Tensor) -> candle_core::Result<GradStore> {
    backward(loss, &mut Vec::new())
}

impl Network {
    pub(super) fn random(maps: Maps, channels: &[usize], pool: &[bool], seed: u64) -> Self {
        let mut inputs = maps.channels;
        let layers = channels.iter().zip(pool).enumerate();
        let layers = layers.map(|(index, (outputs, pool))| {
            let inputs = std::mem::replace(&mut inputs, *outputs);
            Convolution::random(inputs, *outputs, *pool, (seed >> 1) ^ (10 + index as u64))
        });
        let layers = layers.collect();
        Self { maps, layers }
    }

    /// The shapes of each layer's input, and of the last one's output.
    pub(super) fn shapes(&self) -> Vec<Maps> {
        let mut shapes = vec![self.maps];
        for layer in &self.layers {
            let whole = shapes[shapes.len() - 1].with_channels(layer.bias.len());
            shapes.push(if layer.pool { whole.pooled() } else { whole });
        }
        shapes
    }

    pub(super) fn output(&self) -> Maps {
        *self.shapes().last().unwrap()
    }

    pub(super) fn variables(&self) -> Vec<[Var; 2]> {
        let shapes = self.shapes();
        let layers = self.layers.iter().zip(&shapes);
        let var = |tensor: candle_core::Result<Tensor>| Var::from_tensor(&tensor.unwrap()).unwrap();
        let variables = layers.map(|(layer, maps)| {
            let outputs = layer.bias.len();
            let shape = (outputs, maps.channels, 3, 3);
            [
                var(Tensor::from_slice(&layer.weights, shape, &Device::Cpu)),
                var(Tensor::from_slice(&layer.bias, outputs, &Device::Cpu)),
            ]
        });
        variables.collect()
    }

    /// What becomes of each layer's sums, by the outputs of its ReLU.
    pub(super) fn routes(&self, relus: &[Vec<f32>]) -> Vec<Vec<Option<usize>>> {
        let layers = self.layers.iter().zip(self.shapes()).zip(relus);
        layers
            .map(|((layer, maps), relu)| {
                routes(relu, maps.with_channels(layer.bias.len()), layer.pool)
            })
            .collect()
    }

    /// The kernels' outputs of each ReLU, one layer at a time.
    pub(super) fn relus(&self, isa: Isa, x: &[f32]) -> Vec<Vec<f32>> {
        let mut input = Input::Planar(x.to_vec());
        let mut outputs = Vec::new();
        let layers = self.layers.iter().zip(self.variables());
        for ((layer, [weight, bias]), maps) in layers.zip(self.shapes()) {
            let alone = OpenLayer {
                weight: weight.as_detached_tensor(),
                bias: bias.as_detached_tensor(),
                pool: false,
            };
            let y = numbers(&run_open(isa, vec![alone], input, maps).unwrap());
            let whole = maps.with_channels(layer.bias.len());
            let next = routed(&routes(&y, whole, layer.pool), &y);
            let maps = if layer.pool { whole.pooled() } else { whole };
            input = Input::Blocked(blocked(maps, &next));
            outputs.push(y);
        }
        outputs
    }

    /// The kernels' output, and their gradients for Σ cotangent · output. `open` says which layers take one.
    pub(super) fn run(
        &self,
        isa: Isa,
        open: &[bool],
        x: &[f32],
        cotangent: &[f32],
        gradients_of: fn(&Tensor) -> candle_core::Result<GradStore>,
    ) -> Found {
        let variables = self.variables();
        let layers = self.layers.iter().zip(&variables).zip(open);
        let layers = layers.map(|((layer, variables), open)| {
            let [weight, bias] = variables.each_ref().map(|variable| match open {
                true => variable.as_tensor().clone(),
                false => variable.as_detached_tensor(),
            });
            let pool = layer.pool;
            OpenLayer { weight, bias, pool }
        });
        let y = run_open(isa, layers.collect(), Input::Planar(x.to_vec()), self.maps).unwrap();
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
        }
    }

    /// The same in f64, with the gates and winners of `relus`.
    pub(super) fn expected(&self, relus: &[Vec<f32>], x: &[f32], cotangent: &[f32]) -> Expected {
        let (shapes, routes) = (self.shapes(), self.routes(relus));
        let (mut input, mut inputs, mut all_sums) = (widened(x), Vec::new(), Vec::new());
        for (index, layer) in self.layers.iter().enumerate() {
            let sums = sums(&input, shapes[index], &layer.weights, &layer.bias);
            inputs.push(std::mem::replace(&mut input, routed(&routes[index], &sums)));
            all_sums.push(sums);
        }
        let mut gradient = widened(cotangent);
        let mut gradients = Vec::new();
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let (maps, outputs) = (shapes[index], layer.bias.len());
            let mut dy = vec![0.0; all_sums[index].len()];
            for (route, gradient) in routes[index].iter().zip(&gradient) {
                if let Some(at) = route {
                    dy[*at] = *gradient;
                }
            }
            let absolute: Vec<f64> = dy.iter().map(|dy| dy.abs()).collect();
            gradients.push([
                weight_gradient(&inputs[index], maps, &dy, outputs),
                bias_gradient(&dy, maps, outputs),
                bias_gradient(&absolute, maps, outputs),
            ]);
            gradient = input_gradient(&dy, maps, &layer.weights, outputs);
        }
        gradients.reverse();
        Expected {
            sums: all_sums,
            output: input,
            gradients,
        }
    }
}

pub(super) fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}
