//! Layers of a table as a network of the kernels' nodes.

use candle_core::Tensor;

use super::conv::{ConvLayer, Folded};
use crate::error::Result;
use crate::kernels::{Activation, Conv, Dense, Node, Operation, Padding, Value, Window};
use crate::model::arch::layer::{self, Layer, Residual, SqueezeExcite};

/// The nodes of layers whose convolutions are `convs`, in the order they run, and come to `folded`: the `first` of the
/// base on. `input` is the shape (C, H, W) that they read, which they can take.
pub(super) fn nodes(
    layers: &[&Layer],
    convs: &[ConvLayer],
    first: usize,
    folded: &[Folded],
    input: [usize; 3],
) -> Result<Vec<Node<Tensor>>> {
    let mut builder = Builder {
        nodes: Vec::new(),
        convs,
        first,
        folded,
        next: 0,
    };
    builder.sequence(layers.iter().copied(), 0, input)?;
    Ok(builder.nodes)
}

/// Whether a layer's convolutions are all dense or depthwise: a network has no others.
pub(super) fn suits(layer: &Layer) -> bool {
    let mut convs = layer.convs().into_iter();
    convs.all(|conv| conv.groups == 1 || is_depthwise(conv))
}

/// Whether a layer is a 2×2 max-pool with stride 2, which a convolution takes along.
fn halves(layer: &Layer) -> bool {
    matches!(
        layer,
        Layer::MaxPool {
            kernel: 2,
            stride: 2,
            padding: 0,
            ..
        }
    )
}

/// Whether every channel of a convolution is a group of its own.
fn is_depthwise(conv: &layer::Conv) -> bool {
    conv.groups > 1 && conv.groups == conv.inputs && conv.groups == conv.outputs
}

struct Builder<'a> {
    nodes: Vec<Node<Tensor>>,
    convs: &'a [ConvLayer],
    first: usize,
    folded: &'a [Folded],
    /// The next convolution's place among `convs`.
    next: usize,
}

impl Builder<'_> {
    fn push(&mut self, input: Value, operation: Operation<Tensor>) -> Value {
        self.nodes.push(Node { input, operation });
        self.nodes.len()
    }

    /// Adds layers one after the other; returns the value that they make and its shape.
    fn sequence<'l>(
        &mut self,
        layers: impl IntoIterator<Item = &'l Layer>,
        mut x: Value,
        mut shape: [usize; 3],
    ) -> Result<Value> {
        for layer in layers {
            x = self.layer(layer, x, shape)?;
            shape = layer.output(shape).unwrap_or(shape);
        }
        Ok(x)
    }

    fn layer(&mut self, layer: &Layer, x: Value, shape: [usize; 3]) -> Result<Value> {
        Ok(match layer {
            Layer::Conv(_) => {
                let conv = self.conv(self.next, shape);
                self.next += 1;
                self.push(x, Operation::Conv(conv))
            }
            layer if halves(layer) && self.takes_pool(x) => x,
            Layer::MaxPool {
                kernel,
                stride,
                padding,
                ..
            } => {
                let window = Window {
                    kernel: *kernel,
                    stride: *stride,
                    padding: Padding::even(*padding),
                };
                self.push(x, Operation::MaxPool(window))
            }
            Layer::AveragePool { kernel, stride, .. } => {
                let window = Window {
                    kernel: *kernel,
                    stride: *stride,
                    padding: Padding::even(0),
                };
                self.push(x, Operation::AveragePool(window))
            }
            Layer::SqueezeExcite(SqueezeExcite { .. }) => {
                let (reduce, expand) = (self.dense(self.next)?, self.dense(self.next + 1)?);
                self.next += 2;
                self.push(x, Operation::SqueezeExcite { reduce, expand })
            }
            Layer::Residual(residual) => self.residual(residual, x, shape)?,
        })
    }

    /// Lets the convolution that makes `x` take a 2×2 max-pool along, if it is one and may.
    fn takes_pool(&mut self, x: Value) -> bool {
        match x.checked_sub(1).map(|node| &mut self.nodes[node].operation) {
            Some(Operation::Conv(conv))
                if !conv.pool && !conv.depthwise && conv.residual.is_none() =>
            {
                conv.pool = true;
                true
            }
            _ => false,
        }
    }

    /// A body whose last convolution adds the shortcut, if it can; else a sum of its own.
    fn residual(&mut self, residual: &Residual, x: Value, shape: [usize; 3]) -> Result<Value> {
        let in_body: usize = residual.body.iter().map(|layer| layer.convs().len()).sum();
        let passed = match residual.shortcut {
            Some(_) => {
                let conv = self.conv(self.next + in_body, shape);
                self.push(x, Operation::Conv(conv))
            }
            None => x,
        };
        let output = self.sequence(&residual.body, x, shape)?;
        self.next += usize::from(residual.shortcut.is_some());
        if let Some(Operation::Conv(last)) =
            output.checked_sub(1).map(|n| &mut self.nodes[n].operation)
            && output != x
            && matches!(residual.body.last(), Some(Layer::Conv(_)))
            && last.activation == Activation::Identity
            && last.residual.is_none()
        {
            last.residual = Some(passed);
            last.activation = residual.activation;
            return Ok(output);
        }
        let activation = residual.activation;
        let sum = Operation::Sum {
            other: passed,
            activation,
        };
        Ok(self.push(output, sum))
    }

    /// A convolution of maps of this shape.
    fn conv(&self, place: usize, [_, height, width]: [usize; 3]) -> Conv<Tensor> {
        let table = &self.convs[place].table;
        let folded = &self.folded[place];
        let (weights, scale) = folded.weight_and_scale();
        Conv {
            weights,
            scale,
            bias: folded.bias.clone(),
            window: window(table, height, width),
            depthwise: is_depthwise(table),
            residual: None,
            activation: table.activation,
            pool: false,
            kept_as: (!self.convs[place].tracks()).then_some(self.first + place),
        }
    }

    /// A 1×1 convolution of one pixel.
    fn dense(&self, place: usize) -> Result<Dense<Tensor>> {
        let folded = &self.folded[place];
        Ok(Dense {
            weight: folded.weight()?,
            bias: folded.bias.clone(),
            activation: self.convs[place].table.activation,
        })
    }
}

/// The window of a convolution over maps of `height` × `width` pixels.
pub(super) fn window(table: &layer::Conv, height: usize, width: usize) -> Window {
    let sides = |side| table.padding.sides(side, table.kernel, table.stride);
    let ((top, bottom), (left, right)) = (sides(height), sides(width));
    Window {
        kernel: table.kernel,
        stride: table.stride,
        padding: Padding {
            top,
            bottom,
            left,
            right,
        },
    }
}
