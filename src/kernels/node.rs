//! A network's nodes: operations on values made before, and the shapes that they make.

use super::activation::Activation;
use super::shape::Shape;
use super::squeeze::Dense;
use super::window::Window;

/// One of a network's values: 0 is what goes in, i + 1 the output of node i.
pub(crate) type Value = usize;

/// A convolution with bias, and what follows it. `W` is what holds the weights: numbers, or a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conv<W> {
    /// (out, in / groups, size, size)
    pub(crate) weights: W,
    /// What the weights of each output are multiplied by, (out): what a batch norm leaves to be done.
    pub(crate) scale: Option<W>,
    /// (out)
    pub(crate) bias: W,
    pub(crate) window: Window,
    /// Whether every channel is convolved by itself; else all with all.
    pub(crate) depthwise: bool,
    /// A value of the output's shape that is added before the activation.
    pub(crate) residual: Option<Value>,
    pub(crate) activation: Activation,
    /// Whether a 2×2 max-pool with stride 2 follows.
    pub(crate) pool: bool,
    /// The convolution's place in its base if the weights stay as they are: they are kept packed under it.
    pub(crate) kept_as: Option<usize>,
}

/// What a node does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation<W> {
    Conv(Conv<W>),
    MaxPool(Window),
    AveragePool(Window),
    /// Adds a value of the same shape.
    Sum {
        other: Value,
        activation: Activation,
    },
    /// An activation by itself.
    Activate(Activation),
    /// Multiplies channels by what two layers make of the means of all.
    SqueezeExcite {
        reduce: Dense<W>,
        expand: Dense<W>,
    },
}

/// An operation on a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<W> {
    pub(crate) input: Value,
    pub(crate) operation: Operation<W>,
}

impl<W> Node<W> {
    /// The same with what `with` makes of each weight, bias and scale, in this order.
    pub(super) fn map<'w, V>(&'w self, mut with: impl FnMut(&'w W) -> V) -> Node<V> {
        let operation = match &self.operation {
            Operation::Conv(conv) => Operation::Conv(Conv {
                weights: with(&conv.weights),
                bias: with(&conv.bias),
                scale: conv.scale.as_ref().map(&mut with),
                window: conv.window,
                depthwise: conv.depthwise,
                residual: conv.residual,
                activation: conv.activation,
                pool: conv.pool,
                kept_as: conv.kept_as,
            }),
            Operation::MaxPool(window) => Operation::MaxPool(*window),
            Operation::AveragePool(window) => Operation::AveragePool(*window),
            Operation::Sum { other, activation } => Operation::Sum {
                other: *other,
                activation: *activation,
            },
            Operation::Activate(activation) => Operation::Activate(*activation),
            Operation::SqueezeExcite { reduce, expand } => Operation::SqueezeExcite {
                reduce: reduce.map(&mut with),
                expand: expand.map(&mut with),
            },
        };
        Node {
            input: self.input,
            operation,
        }
    }

    /// The values it reads.
    pub(super) fn reads(&self) -> impl Iterator<Item = Value> {
        let other = match &self.operation {
            Operation::Conv(conv) => conv.residual,
            Operation::Sum { other, .. } => Some(*other),
            _ => None,
        };
        [self.input].into_iter().chain(other)
    }
}

impl Node<&[f32]> {
    /// The shape that it makes of its input's.
    pub(super) fn output(&self, shape: Shape) -> Shape {
        match &self.operation {
            Operation::Conv(conv) => {
                let output = conv.window.output(shape).with_channels(conv.bias.len());
                if conv.pool { output.pooled() } else { output }
            }
            Operation::MaxPool(window) | Operation::AveragePool(window) => window.output(shape),
            Operation::Sum { .. } | Operation::Activate(_) | Operation::SqueezeExcite { .. } => {
                shape
            }
        }
    }
}
