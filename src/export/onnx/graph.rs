//! A classifier as a list of ONNX's operations, before it is written: what the passes change and the file holds.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels::Window;

/// The type that numbers are converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Float,
    Half,
}

/// An operation of opset 17.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Op {
    Add,
    AveragePool(Window),
    Cast(Element),
    /// min(max(x, inputs 1), input 2)
    Clip,
    Concat(i64),
    Conv {
        window: Window,
        groups: usize,
    },
    DequantizeLinear {
        axis: i64,
    },
    Div,
    Erf,
    Flatten,
    Gather(i64),
    /// x · weightᵀ + bias
    Gemm,
    GlobalAveragePool,
    HardSigmoid,
    HardSwish,
    MaxPool(Window),
    Mul,
    Neg,
    QuantizeLinear,
    Relu,
    Sigmoid,
    Softmax,
    Sub,
    Transpose([i64; 4]),
}

/// An operation with the names of what it reads and makes.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) op: Op,
    pub(super) inputs: Vec<String>,
    pub(super) output: String,
}

/// Numbers of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Numbers {
    Float(Vec<f32>),
    /// As bits.
    Half(Vec<u16>),
    Bytes(Vec<u8>),
    SignedBytes(Vec<i8>),
    Ints(Vec<i32>),
    Longs(Vec<i64>),
}

/// Numbers with a shape.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Constant {
    pub(super) dims: Vec<usize>,
    pub(super) numbers: Numbers,
}

impl Constant {
    /// The floats of a tensor, wherever it lives and whatever its type.
    pub(super) fn tensor(tensor: &Tensor) -> Result<Self> {
        let flat = tensor.detach().flatten_all()?;
        let numbers = flat.to_dtype(candle_core::DType::F32)?.to_vec1()?;
        Ok(Self {
            dims: tensor.dims().to_vec(),
            numbers: Numbers::Float(numbers),
        })
    }

    /// One number.
    pub(super) fn scalar(number: f32) -> Self {
        Self {
            dims: Vec::new(),
            numbers: Numbers::Float(vec![number]),
        }
    }
}

/// Operations in the order they run, and the constants they read.
#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) constants: BTreeMap<String, Constant>,
}

impl Graph {
    /// Adds an operation; its output's name, which is `output`, comes back.
    pub(super) fn push(&mut self, op: Op, inputs: &[&str], output: impl Into<String>) -> String {
        let output = output.into();
        let inputs = inputs.iter().map(|&name| name.to_owned()).collect();
        self.nodes.push(Node {
            op,
            inputs,
            output: output.clone(),
        });
        output
    }

    /// Adds a constant; its name comes back.
    pub(super) fn constant(&mut self, name: impl Into<String>, constant: Constant) -> String {
        let name = name.into();
        self.constants.insert(name.clone(), constant);
        name
    }

    /// The place of the operation that makes a value.
    pub(super) fn position(&self, output: &str) -> usize {
        let mut nodes = self.nodes.iter();
        let place = nodes.position(|node| node.output == output);
        place.expect("every graph is made with it")
    }
}
