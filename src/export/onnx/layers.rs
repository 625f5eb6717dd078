//! A base's table → operations.

use std::slice::Iter;

use candle_core::Tensor;

use super::graph::{Constant, Graph, Op};
use crate::error::Result;
use crate::kernels::{Activation, Padding, Window};
use crate::model::ConvBase;
use crate::model::arch::layer::{Conv, Layer, Residual, SqueezeExcite};

/// Adds the operations of a base to those of a graph; the name of the features comes back.
pub(super) fn base(
    graph: &mut Graph,
    base: &ConvBase,
    images: String,
    (height, width): (usize, usize),
) -> Result<String> {
    let plain = base.plain_convs()?;
    let mut builder = Builder {
        graph,
        plain: plain.iter(),
    };
    builder.sequence(base.arch().layers(), images, [3, height, width])
}

struct Builder<'a> {
    graph: &'a mut Graph,
    /// Weight and bias of the convolutions to come, in the table's order.
    plain: Iter<'a, (Tensor, Tensor)>,
}

impl Builder<'_> {
    fn sequence<'l>(
        &mut self,
        layers: impl IntoIterator<Item = &'l Layer>,
        mut x: String,
        mut shape: [usize; 3],
    ) -> Result<String> {
        for layer in layers {
            x = self.layer(layer, x, shape)?;
            shape = layer.output(shape).unwrap_or(shape);
        }
        Ok(x)
    }

    fn layer(&mut self, layer: &Layer, x: String, shape: [usize; 3]) -> Result<String> {
        match layer {
            Layer::Conv(table) => self.conv(table, &x, shape),
            Layer::MaxPool {
                name,
                kernel,
                stride,
                padding,
            } => {
                let window = window(*kernel, *stride, Padding::even(*padding));
                Ok(self.graph.push(Op::MaxPool(window), &[&x], name))
            }
            Layer::AveragePool {
                name,
                kernel,
                stride,
            } => {
                let window = window(*kernel, *stride, Padding::even(0));
                Ok(self.graph.push(Op::AveragePool(window), &[&x], name))
            }
            Layer::SqueezeExcite(squeeze) => self.squeeze_excite(squeeze, &x, shape),
            Layer::Residual(residual) => self.residual(residual, x, shape),
        }
    }

    fn conv(&mut self, table: &Conv, x: &str, [_, height, width]: [usize; 3]) -> Result<String> {
        let (weight, bias) = self.plain.next().expect("tensors of every convolution");
        let name = &table.name;
        let weight = Constant::tensor(weight)?;
        let weight = self.graph.constant(format!("{name}.weight"), weight);
        let bias = Constant::tensor(bias)?;
        let bias = self.graph.constant(format!("{name}.bias"), bias);
        let sides = |side| table.padding.sides(side, table.kernel, table.stride);
        let ((top, bottom), (left, right)) = (sides(height), sides(width));
        let padding = Padding {
            top,
            bottom,
            left,
            right,
        };
        let op = Op::Conv {
            window: window(table.kernel, table.stride, padding),
            groups: table.groups,
        };
        let sums = self.graph.push(op, &[x, &weight, &bias], name);
        Ok(activation(self.graph, table.activation, sums))
    }

    fn squeeze_excite(
        &mut self,
        squeeze: &SqueezeExcite,
        x: &str,
        [channels, ..]: [usize; 3],
    ) -> Result<String> {
        let name = &squeeze.expand.name;
        let means = self
            .graph
            .push(Op::GlobalAveragePool, &[x], format!("{name}.means"));
        let fewer = self.conv(&squeeze.reduce, &means, [channels, 1, 1])?;
        let gates = self.conv(&squeeze.expand, &fewer, [squeeze.reduce.outputs, 1, 1])?;
        Ok(self
            .graph
            .push(Op::Mul, &[x, &gates], format!("{name}.gated")))
    }

    /// The body's convolutions come before the shortcut's.
    fn residual(&mut self, residual: &Residual, x: String, shape: [usize; 3]) -> Result<String> {
        let body = self.sequence(&residual.body, x.clone(), shape)?;
        let passed = match &residual.shortcut {
            Some(table) => self.conv(table, &x, shape)?,
            None => x,
        };
        let sum = self.graph.push(Op::Add, &[&body, &passed], &residual.name);
        Ok(activation(self.graph, residual.activation, sum))
    }
}

fn window(kernel: usize, stride: usize, padding: Padding) -> Window {
    Window {
        kernel,
        stride,
        padding,
    }
}

/// Adds an activation of `x`; the name of what comes out comes back.
pub(super) fn activation(graph: &mut Graph, kind: Activation, x: String) -> String {
    let out = format!("{x}.{kind:?}").to_lowercase();
    let constant =
        |graph: &mut Graph, name: &str, number| graph.constant(name, Constant::scalar(number));
    match kind {
        Activation::Identity => x,
        Activation::Relu => graph.push(Op::Relu, &[&x], out),
        Activation::Relu6 => {
            let zero = constant(graph, "zero", 0.0);
            let six = constant(graph, "six", 6.0);
            graph.push(Op::Clip, &[&x, &zero, &six], out)
        }
        Activation::Sigmoid => graph.push(Op::Sigmoid, &[&x], out),
        Activation::HardSigmoid => graph.push(Op::HardSigmoid, &[&x], out),
        Activation::HardSwish => graph.push(Op::HardSwish, &[&x], out),
        Activation::Silu => {
            let gate = graph.push(Op::Sigmoid, &[&x], format!("{x}.sigmoid"));
            graph.push(Op::Mul, &[&x, &gate], out)
        }
        // x/2 · (1 + erf(x / √2)): a node of its own only since opset 20.
        Activation::Gelu => {
            let root = constant(graph, "root_of_two", std::f32::consts::SQRT_2);
            let one = constant(graph, "one", 1.0);
            let half = constant(graph, "half", 0.5);
            let scaled = graph.push(Op::Div, &[&x, &root], format!("{x}.scaled"));
            let erf = graph.push(Op::Erf, &[&scaled], format!("{x}.erf"));
            let above = graph.push(Op::Add, &[&erf, &one], format!("{x}.above"));
            let product = graph.push(Op::Mul, &[&x, &above], format!("{x}.product"));
            graph.push(Op::Mul, &[&product, &half], out)
        }
    }
}
