//! Networks of any nodes against the same of candle's operations in f64, forward and backward.

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use super::super::activation::Activation;
use super::super::candle::{Input, run_with_graph, with_numbers};
use super::super::isa::Isa;
use super::super::network::{PackedWeights, run};
use super::super::node::{Conv, Node, Operation};
use super::super::reference;
use super::super::shape::Shape;
use super::super::squeeze::Dense;
use super::super::window::{Padding, Window};
use super::network::{numbers, sooner, tensor};
use super::reference::relative_error;
use super::windows::on_threads;
use super::{blocked, cases, noise, planar};

const ACTIVATIONS: [Activation; 8] = [
    Activation::Relu,
    Activation::Identity,
    Activation::Relu6,
    Activation::Silu,
    Activation::HardSwish,
    Activation::HardSigmoid,
    Activation::Sigmoid,
    Activation::Gelu,
];

/// Choices that a seed makes.
struct Choices(u64);

impl Choices {
    /// A number below `count`.
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % count
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Nodes whose weights and biases are variables, open or not.
struct Graph {
    shape: Shape,
    nodes: Vec<Node<usize>>,
    /// Of every value.
    shapes: Vec<Shape>,
    variables: Vec<Var>,
    open: Vec<bool>,
}

impl Graph {
    fn random(shape: Shape, count: usize, seed: u64) -> Self {
        let mut choices = Choices(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut graph = Self {
            shape,
            nodes: Vec::new(),
            shapes: vec![shape],
            variables: Vec::new(),
            open: Vec::new(),
        };
        while graph.nodes.len() < count {
            match choices.below(6) {
                0 => graph.add_inverted_residual(&mut choices),
                _ => graph.add(&mut choices),
            }
        }
        graph
    }

    /// Adds an expansion, a depthwise convolution, mostly a squeeze-and-excitation, and a projection: what runs as a
    /// few steps where nothing is kept.
    fn add_inverted_residual(&mut self, choices: &mut Choices) {
        let input = self.nodes.len();
        let shape = self.shapes[input];
        let wide = shape.with_channels(1 + choices.below(70));
        let expansion = self.conv_of(choices, shape, wide.channels, POINT, false);
        self.push(input, expansion, wide);
        let (kernel, stride) = (
            choices.one_of(&[1, 3, 3, 5, 5, 7]),
            choices.one_of(&[1, 1, 2, 3]),
        );
        let window = Window {
            kernel,
            stride,
            padding: Padding::even(kernel / 2),
        };
        let between = window.output(wide);
        let depthwise = self.conv_of(choices, wide, wide.channels, window, true);
        self.push(self.nodes.len(), depthwise, between);
        if choices.below(3) > 0 {
            let squeeze = self.squeeze(choices, between);
            self.push(self.nodes.len(), squeeze, between);
        }
        let narrow = between.with_channels(1 + choices.below(40));
        let mut projection = self.conv_of(choices, between, narrow.channels, POINT, false);
        if let Operation::Conv(conv) = &mut projection {
            conv.residual = self.alike(choices, narrow);
        }
        self.push(self.nodes.len(), projection, narrow);
    }

    fn push(&mut self, input: usize, operation: Operation<usize>, output: Shape) {
        self.open.resize(self.variables.len(), true);
        self.nodes.push(Node { input, operation });
        self.shapes.push(output);
    }

    /// A convolution without a residual or a pool.
    fn conv_of(
        &mut self,
        choices: &mut Choices,
        shape: Shape,
        outputs: usize,
        window: Window,
        depthwise: bool,
    ) -> Operation<usize> {
        let inputs = if depthwise { 1 } else { shape.channels };
        let fan = (inputs * window.kernel * window.kernel) as f32;
        let dims = [outputs, inputs, window.kernel, window.kernel];
        Operation::Conv(Conv {
            weights: self.variable(&dims, (2.0 / fan).sqrt()),
            bias: self.variable(&[outputs], 0.2),
            window,
            depthwise,
            residual: None,
            activation: choices.one_of(&ACTIVATIONS),
            pool: false,
            scale: None,
            kept_as: None,
        })
    }

    /// Adds a node, mostly after the last one; none if what was chosen does not fit.
    fn add(&mut self, choices: &mut Choices) {
        let last = self.nodes.len();
        let input = if choices.below(4) > 0 {
            last
        } else {
            choices.below(last + 1)
        };
        let shape = self.shapes[input];
        let is_frozen = choices.below(3) == 0;
        let first = self.variables.len();
        let (operation, output) = match choices.below(8) {
            0 => {
                let window = pool(choices, shape, true);
                (Operation::MaxPool(window), window.output(shape))
            }
            1 => {
                let window = pool(choices, shape, false);
                (Operation::AveragePool(window), window.output(shape))
            }
            2 => (self.squeeze(choices, shape), shape),
            3 => {
                let other = self.alike(choices, shape);
                let other = other.unwrap_or(input);
                let activation = choices.one_of(&ACTIVATIONS);
                (Operation::Sum { other, activation }, shape)
            }
            4 => (Operation::Activate(choices.one_of(&ACTIVATIONS)), shape),
            _ => self.conv(choices, shape),
        };
        let count = self.variables.len() - first;
        self.open.extend(vec![!is_frozen; count]);
        self.nodes.push(Node { input, operation });
        self.shapes.push(output);
    }

    fn takes_maxima(&self) -> bool {
        self.nodes.iter().any(|node| match &node.operation {
            Operation::MaxPool(_) => true,
            Operation::Conv(conv) => conv.pool,
            _ => false,
        })
    }

    /// A value of this shape.
    fn alike(&self, choices: &mut Choices, shape: Shape) -> Option<usize> {
        let alike = (0..self.shapes.len()).filter(|value| self.shapes[*value] == shape);
        let alike: Vec<_> = alike.collect();
        (!alike.is_empty()).then(|| choices.one_of(&alike))
    }

    fn variable(&mut self, dims: &[usize], scale: f32) -> usize {
        let place = self.variables.len();
        let numbers = noise(dims.iter().product(), 31 + place as u64);
        let numbers: Vec<f32> = numbers.into_iter().map(|x| scale * x).collect();
        let tensor = Tensor::from_vec(numbers, dims, &Device::Cpu).unwrap();
        self.variables.push(Var::from_tensor(&tensor).unwrap());
        place
    }

    fn conv(&mut self, choices: &mut Choices, shape: Shape) -> (Operation<usize>, Shape) {
        let kernel = choices.one_of(&[1, 1, 2, 3, 3, 3, 5]);
        let stride = choices.one_of(&[1, 1, 1, 2, 3]);
        let padding = match choices.below(3) {
            0 => Padding {
                top: choices.below(kernel + 1),
                bottom: choices.below(kernel + 1),
                left: choices.below(kernel + 1),
                right: choices.below(kernel + 1),
            },
            _ => Padding::even(kernel / 2),
        };
        let mut window = Window {
            kernel,
            stride,
            padding,
        };
        if shape.height.min(shape.width) < kernel {
            window.padding = Padding::even(kernel / 2);
        }
        let depthwise = choices.below(3) == 0 && shape.channels > 1;
        let outputs = match depthwise || choices.below(2) == 0 {
            true => shape.channels,
            false => 1 + choices.below(40),
        };
        let output = window.output(shape).with_channels(outputs);
        let pool = !depthwise && output.height.min(output.width) > 1 && choices.below(4) == 0;
        let residual = match pool {
            true => None,
            false => self.alike(choices, output),
        };
        let inputs = if depthwise { 1 } else { shape.channels };
        let fan = (inputs * kernel * kernel) as f32;
        let conv = Conv {
            weights: self.variable(&[outputs, inputs, kernel, kernel], (2.0 / fan).sqrt()),
            bias: self.variable(&[outputs], 0.2),
            window,
            depthwise,
            residual,
            activation: choices.one_of(&ACTIVATIONS),
            pool,
            scale: None,
            kept_as: None,
        };
        let output = if pool { output.pooled() } else { output };
        (Operation::Conv(conv), output)
    }

    fn squeeze(&mut self, choices: &mut Choices, shape: Shape) -> Operation<usize> {
        let hidden = 1 + choices.below(9);
        let (inner, outer) = choices.one_of(&[
            (Activation::Silu, Activation::Sigmoid),
            (Activation::Relu, Activation::HardSigmoid),
        ]);
        let dims = [
            [hidden, shape.channels, 1, 1],
            [shape.channels, hidden, 1, 1],
        ];
        let [reduce, expand] = dims.map(|dims| {
            let scale = 1.0 / (dims[1] as f32).sqrt();
            (
                self.variable(&dims, scale),
                self.variable(&dims[..1], scale),
            )
        });
        let dense = |(weight, bias), activation| Dense {
            weight,
            bias,
            activation,
        };
        Operation::SqueezeExcite {
            reduce: dense(reduce, inner),
            expand: dense(expand, outer),
        }
    }

    /// The variables, of which only the open ones track a graph, as numbers of this type.
    fn tensors(&self, dtype: DType) -> Vec<Tensor> {
        let variables = self.variables.iter().zip(&self.open);
        let tensors = variables.map(|(variable, open)| match open {
            true => variable.as_tensor().to_dtype(dtype).unwrap(),
            false => variable.as_detached_tensor().to_dtype(dtype).unwrap(),
        });
        tensors.collect()
    }

    fn run(&self, isa: Isa, x: &Tensor, in_blocks: bool) -> Tensor {
        let tensors = self.tensors(DType::F32);
        let nodes = self
            .nodes
            .iter()
            .map(|node| node.map(|at| tensors[*at].clone()));
        let nodes = nodes.collect::<Vec<_>>();
        let input = match in_blocks {
            true => Input::Blocked(blocked(self.shape, &numbers(x))),
            false => Input::Planar(x.clone()),
        };
        run_with_graph(isa, &nodes, input, self.shape).unwrap()
    }

    /// The same where nothing is kept, with methods for so many images, planar.
    fn run_without_graph(
        &self,
        isa: Isa,
        x: &[f32],
        images: usize,
        methods_for: usize,
    ) -> Vec<f32> {
        let tensors = self.tensors(DType::F32);
        let nodes = self.nodes.iter();
        let nodes: Vec<_> = nodes
            .map(|node| node.map(|at| tensors[*at].clone()))
            .collect();
        let (y, shape) = with_numbers(&nodes, |nodes| {
            let shape = self.shape.with_batch(images);
            let packed = PackedWeights::default();
            Ok(run(isa, nodes, &packed, x, shape, methods_for))
        })
        .unwrap();
        planar(shape, &y)
    }

    /// The same made of candle's operations in f64, and how near any number comes to a kink.
    fn expected(&self, x: &Tensor) -> candle_core::Result<(Tensor, f64)> {
        let tensors = self.tensors(DType::F64);
        let mut values = vec![x.to_dtype(DType::F64)?];
        let mut nearest = f64::INFINITY;
        let mut activated = |sums: Tensor, activation| -> candle_core::Result<Tensor> {
            nearest = nearest.min(distance_from_kinks(&sums, activation));
            reference::activation(&sums, activation)
        };
        for node in &self.nodes {
            let x = &values[node.input];
            let value = match &node.operation {
                Operation::Conv(conv) => {
                    let groups = if conv.depthwise { x.dims()[1] } else { 1 };
                    let (weight, bias) = (&tensors[conv.weights], &tensors[conv.bias]);
                    let sums = reference::convolution(x, weight, conv.window, groups)?;
                    let mut sums = reference::bias_activation(&sums, bias, Activation::Identity)?;
                    if let Some(residual) = conv.residual {
                        sums = (sums + &values[residual])?;
                    }
                    let y = activated(sums, conv.activation)?;
                    match conv.pool {
                        true => reference::max_pool(&y, 2, 2, 0)?,
                        false => y,
                    }
                }
                Operation::MaxPool(window) => {
                    reference::max_pool(x, window.kernel, window.stride, window.padding.top)?
                }
                Operation::AveragePool(window) => {
                    reference::average_pool(x, window.kernel, window.stride)?
                }
                Operation::Sum { other, activation } => {
                    activated((x + &values[*other])?, *activation)?
                }
                Operation::Activate(activation) => activated(x.clone(), *activation)?,
                Operation::SqueezeExcite { reduce, expand } => {
                    let mut gates = x.mean_keepdim((2, 3))?;
                    for layer in [reduce, expand] {
                        let (weight, bias) = (&tensors[layer.weight], &tensors[layer.bias]);
                        let sums = reference::convolution(&gates, weight, POINT, 1)?;
                        let sums = reference::bias_activation(&sums, bias, Activation::Identity)?;
                        gates = activated(sums, layer.activation)?;
                    }
                    x.broadcast_mul(&gates)?
                }
            };
            values.push(value);
        }
        Ok((values.pop().unwrap(), nearest))
    }
}

/// The window of a 1×1 convolution.
const POINT: Window = Window {
    kernel: 1,
    stride: 1,
    padding: Padding::even(0),
};

/// A window that fits a map, for maxima or for averages.
fn pool(choices: &mut Choices, shape: Shape, max: bool) -> Window {
    let kernel = (1 + choices.below(3)).min(shape.height).min(shape.width);
    let padding = if max {
        choices.below(kernel / 2 + 1)
    } else {
        0
    };
    Window {
        kernel,
        stride: 1 + choices.below(2),
        padding: Padding::even(padding),
    }
}

/// How near sums come to where an activation's slope jumps: f32 and f64 may then be on different sides.
fn distance_from_kinks(sums: &Tensor, activation: Activation) -> f64 {
    let kinks: &[f64] = match activation {
        Activation::Relu => &[0.0],
        Activation::Relu6 => &[0.0, 6.0],
        Activation::HardSwish | Activation::HardSigmoid => &[-3.0, 3.0],
        _ => &[],
    };
    let sums = sums.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let distances = sums
        .iter()
        // What another ReLU closed is 0 for both.
        .filter(|sum| **sum != 0.0)
        .flat_map(|sum| kinks.iter().map(move |kink| (sum - kink).abs()));
    distances.fold(f64::INFINITY, f64::min)
}

/// Σ cotangent · y
fn loss(y: &Tensor, seed: u64) -> Tensor {
    let cotangent = noise(y.elem_count(), seed);
    let cotangent = Tensor::from_vec(cotangent, y.shape(), &Device::Cpu).unwrap();
    let product = y * cotangent.to_dtype(y.dtype()).unwrap();
    product.unwrap().sum_all().unwrap()
}

fn doubles(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_dtype(DType::F64).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn a_graph_of_any_nodes_and_its_gradients_are_candles_in_f64(
        (batch, channels) in (1usize..=3, 1usize..=36),
        (height, width) in (1usize..=12, 1usize..=12),
        count in 1usize..=7,
        seed in any::<u64>(),
        with_input in any::<bool>(),
    ) {
        let shape = Shape { batch, channels, height, width };
        let graph = Graph::random(shape, count, seed);
        let x = Var::from_tensor(&tensor(&noise(shape.planar_len(), seed), shape)).unwrap();
        let input = if with_input { x.as_tensor().clone() } else { x.as_detached_tensor() };
        let (y, nearest) = graph.expected(&input).unwrap();
        prop_assume!(nearest > 2e-6);
        let store = loss(&y, seed ^ 5).backward().unwrap();
        let in_blocks = !with_input && seed.is_multiple_of(3);
        for isa in Isa::available() {
            let found = graph.run(isa, &input, in_blocks);
            let error = relative_error(&numbers(&found), &doubles(&y));
            prop_assert!(error < 1e-5, "{isa:?} {:?}: output {error:e}", graph.nodes);
            let of_found = sooner(&loss(&found, seed ^ 5)).unwrap();
            // A bias's gradient, which may cancel to next to nothing, is measured with its weight's.
            let groups = graph.variables.chunks(2).map(|pair| vec![&pair[0], &pair[1]]);
            for (index, group) in groups.chain([vec![&x]]).enumerate() {
                let (mut of_kernels, mut of_candle) = (Vec::new(), Vec::new());
                for variable in group {
                    let (found, expected) = (of_found.get(variable), store.get(variable));
                    prop_assert_eq!(found.is_some(), expected.is_some(), "{:?}: {}", graph.nodes, index);
                    let Some((found, expected)) = found.zip(expected) else { continue };
                    of_kernels.extend(numbers(found));
                    of_candle.extend(doubles(expected));
                }
                let error = relative_error(&of_kernels, &of_candle);
                prop_assert!(
                    error < 2e-5,
                    "{isa:?} {:?} {shape:?}: gradients {index} {error:e}", graph.nodes
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn nodes_that_run_as_one_are_candles_in_f64(
        (batch, channels) in (1usize..=9, 1usize..=36),
        (height, width) in (1usize..=16, 1usize..=16),
        count in 1usize..=8,
        seed in any::<u64>(),
    ) {
        let shape = Shape { batch, channels, height, width };
        let graph = Graph::random(shape, count, seed);
        let x = noise(shape.planar_len(), seed);
        let (expected, _) = graph.expected(&tensor(&x, shape)).unwrap();
        for isa in Isa::available() {
            let y = graph.run_without_graph(isa, &x, batch, batch);
            let error = relative_error(&y, &doubles(&expected));
            prop_assert!(error < 1e-5, "{isa:?} {:?}: {error:e}", graph.nodes);
            // An image alone comes to the same bits.
            let image = x.len() / batch;
            let last = graph.run_without_graph(isa, &x[x.len() - image..], 1, batch);
            let of_all = &y[y.len() - last.len()..];
            prop_assert!(bits(&last) == bits(of_all), "{isa:?} {:?}", graph.nodes);
        }
    }
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

#[test]
fn threads_change_no_bit_of_a_graph() {
    let shape = Shape {
        batch: 3,
        channels: 20,
        height: 23,
        width: 17,
    };
    for seed in 0..12 {
        let graph = Graph::random(shape, 7, seed);
        let x = Var::from_tensor(&tensor(&noise(shape.planar_len(), seed), shape)).unwrap();
        for isa in [Isa::best(), Isa::portable()] {
            let plain = numbers(x.as_tensor());
            on_threads(|| graph.run_without_graph(isa, &plain, shape.batch, shape.batch));
            on_threads(|| {
                let y = graph.run(isa, x.as_tensor(), false);
                let store = loss(&y, 4).backward().unwrap();
                let variables = graph.variables.iter().chain([&x]);
                let gradients = variables.filter_map(|variable| store.get(variable));
                let mut all = numbers(&y);
                gradients.for_each(|gradient| all.extend(numbers(gradient)));
                all
            });
        }
    }
}

/// Where f64 has no number, the kernels have none. Without maxima: which pixel of a window with NaN takes its gradient
/// is not the same.
#[test]
fn a_graph_does_not_hide_nan() {
    let shape = Shape {
        batch: 2,
        channels: 18,
        height: 9,
        width: 8,
    };
    let graphs = (0..80).map(|seed| (seed, Graph::random(shape, 4, seed)));
    for (seed, graph) in graphs.filter(|(_, graph)| !graph.takes_maxima()) {
        let mut spoilt = noise(shape.planar_len(), seed);
        spoilt[77] = f32::NAN;
        let x = Var::from_tensor(&tensor(&spoilt, shape)).unwrap();
        let (y, _) = graph.expected(x.as_tensor()).unwrap();
        let store = loss(&y, 4).backward().unwrap();
        for isa in Isa::available() {
            let found = graph.run(isa, x.as_tensor(), false);
            let of_found = loss(&found, 4).backward().unwrap();
            for (found, expected) in numbers(&found).iter().zip(doubles(&y)) {
                let shows = !found.is_finite() || expected.is_finite();
                assert!(shows, "{:?}", graph.nodes);
            }
            // A padding's zeros times NaN are left out here, so a gradient's numbers may be fewer that are none.
            let pairs = graph.variables.iter().chain([&x]);
            for (found, expected) in pairs.filter_map(|v| of_found.get(v).zip(store.get(v))) {
                let is_spoilt = doubles(expected).iter().any(|number| !number.is_finite());
                let shows = numbers(found).iter().any(|number| !number.is_finite());
                assert!(shows || !is_spoilt, "{:?}", graph.nodes);
            }
        }
    }
}
