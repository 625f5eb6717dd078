//! The operations on candle's tensors: what calibration looks at.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::graph::{Constant, Graph, Node, Numbers, Op};
use crate::error::{Error, Result};
use crate::kernels::{Activation, Window, reference};

/// Runs what follows the value `from`, which is given, and shows every value behind it. One is forgotten after its last
/// use.
pub(super) fn run(
    graph: &Graph,
    from: &str,
    given: Tensor,
    mut see: impl FnMut(&str, &Tensor) -> Result<()>,
) -> Result<()> {
    see(from, &given)?;
    let nodes = &graph.nodes[graph.position(from) + 1..];
    let mut values = HashMap::new();
    for (name, constant) in &graph.constants {
        values.insert(name.as_str(), tensor(constant)?);
    }
    values.insert(from, given);
    for (index, node) in nodes.iter().enumerate() {
        let value = operate(node, &values)?;
        see(&node.output, &value)?;
        values.insert(&node.output, value);
        let later = &nodes[index + 1..];
        let needed = |name: &String| later.iter().any(|node| node.inputs.contains(name));
        for name in node.inputs.iter().filter(|name| !needed(name)) {
            values.remove(name.as_str());
        }
    }
    Ok(())
}

fn tensor(constant: &Constant) -> Result<Tensor> {
    let dims = constant.dims.as_slice();
    Ok(match &constant.numbers {
        Numbers::Float(numbers) => Tensor::from_slice(numbers, dims, &Device::Cpu)?,
        Numbers::Longs(numbers) => Tensor::from_slice(numbers, dims, &Device::Cpu)?,
        other => return Err(unknown(&format!("{other:?}"))),
    })
}

fn operate(node: &Node, values: &HashMap<&str, Tensor>) -> Result<Tensor> {
    let input = |place: usize| {
        let name = node.inputs.get(place).map_or("", String::as_str);
        values.get(name).ok_or_else(|| unknown(name))
    };
    let x = input(0)?;
    let by = |activation| reference::activation(x, activation);
    Ok(match node.op {
        Op::Add => x.broadcast_add(input(1)?)?,
        Op::Sub => x.broadcast_sub(input(1)?)?,
        Op::Mul => x.broadcast_mul(input(1)?)?,
        Op::Div => x.broadcast_div(input(1)?)?,
        Op::Erf => x.erf()?,
        Op::Neg => x.neg()?,
        Op::Cast(_) => x.to_dtype(DType::F32)?,
        Op::Transpose([a, b, c, d]) => {
            let order = [a, b, c, d].map(|axis| axis as usize);
            x.permute(order.as_slice())?.contiguous()?
        }
        Op::Gather(axis) => x.contiguous()?.index_select(input(1)?, axis as usize)?,
        Op::Concat(axis) => Tensor::cat(&[x, input(1)?], axis as usize)?,
        Op::Conv { window, groups } => {
            let sums = reference::convolution(x, input(1)?, window, groups)?;
            reference::bias_activation(&sums, input(2)?, Activation::Identity)?
        }
        Op::MaxPool(Window {
            kernel,
            stride,
            padding,
        }) => reference::max_pool(x, kernel, stride, padding.top)?,
        Op::AveragePool(Window { kernel, stride, .. }) => {
            reference::average_pool(x, kernel, stride)?
        }
        Op::GlobalAveragePool => x.mean_keepdim((2, 3))?,
        Op::Flatten => x.flatten_from(1)?,
        Op::Gemm => x.matmul(&input(1)?.t()?)?.broadcast_add(input(2)?)?,
        Op::Relu => by(Activation::Relu)?,
        // No other clip is written.
        Op::Clip => by(Activation::Relu6)?,
        Op::Sigmoid => by(Activation::Sigmoid)?,
        Op::HardSigmoid => by(Activation::HardSigmoid)?,
        Op::HardSwish => by(Activation::HardSwish)?,
        Op::Softmax => candle_nn::ops::softmax(x, 1)?,
        Op::QuantizeLinear | Op::DequantizeLinear { .. } => return Err(unknown(&node.output)),
    })
}

fn unknown(name: &str) -> Error {
    Error::Candle(candle_core::Error::msg(format!(
        "no value of floats: `{name}`"
    )))
}
