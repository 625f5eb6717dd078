//! A graph → the file, and beside it one of its weights where they are too many for one.

use std::path::Path;

use prost::Message;

use super::classifier::{INPUT, OUTPUT};
use super::graph::{Constant, Element, Graph, Node, Numbers, Op};
use super::proto::{self, Attribute, Dimension, Entry, Size, Tensor, Value, element, kind};
use super::{Layout, Pixels};
use crate::atomic_file;
use crate::error::Result;
use crate::kernels::Window;

/// The version of the operations: what engines of 2022 and later know.
const OPSET: i64 = 17;

/// The version of the format that came with it.
const IR: i64 = 8;

/// What a file says beside its graph.
pub(super) struct Description {
    pub(super) pixels: Pixels,
    pub(super) layout: Layout,
    pub(super) size: (usize, usize),
    pub(super) classes: usize,
    pub(super) metadata: Vec<(&'static str, String)>,
}

/// Writes a graph. Weights of more than `most` bytes go to a file beside it, `.data` added to its name: protobuf's
/// messages end at 2 GiB.
pub(super) fn write(path: &Path, graph: Graph, described: &Description, most: usize) -> Result<()> {
    let mut tensors: Vec<Tensor> = graph.constants.iter().map(tensor).collect();
    let bytes = |tensor: &Tensor| tensor.raw_data.as_ref().map_or(0, Vec::len);
    if tensors.iter().map(bytes).sum::<usize>() > most {
        write_beside(path, &mut tensors)?;
    }
    let model = model(&graph.nodes, tensors, described).encode_to_vec();
    atomic_file::write(path, |file| file.write_all(&model))
}

/// Moves the tensors' numbers to a file of their own.
fn write_beside(path: &Path, tensors: &mut [Tensor]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".data");
    let location = name.to_string_lossy().into_owned();
    let mut offset = 0;
    let mut contents = Vec::new();
    for tensor in tensors {
        let content = tensor.raw_data.take().unwrap_or_default();
        let entry = |key: &str, value: String| Entry {
            key: key.to_owned(),
            value,
        };
        tensor.external_data = vec![
            entry("location", location.clone()),
            entry("offset", offset.to_string()),
            entry("length", content.len().to_string()),
        ];
        tensor.data_location = proto::EXTERNAL;
        offset += content.len();
        contents.push(content);
    }
    atomic_file::write(&path.with_file_name(name), |file| {
        contents
            .iter()
            .try_for_each(|content| file.write_all(content))
    })
}

fn model(nodes: &[Node], initializer: Vec<Tensor>, described: &Description) -> proto::Model {
    let (height, width) = described.size;
    let pixels = match described.layout {
        Layout::ChannelsLast => [height, width, 3],
        Layout::ChannelsFirst => [3, height, width],
    };
    let input = match described.pixels {
        Pixels::Bytes => element::UINT8,
        Pixels::Floats => element::FLOAT,
    };
    let metadata = described.metadata.iter();
    proto::Model {
        ir_version: IR,
        producer_name: "headstart".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(proto::Graph {
            node: nodes.iter().map(node).collect(),
            name: "classifier".to_owned(),
            initializer,
            input: vec![value(INPUT, input, &pixels)],
            output: vec![value(OUTPUT, element::FLOAT, &[described.classes])],
        }),
        opset_import: vec![proto::OperatorSet {
            domain: String::new(),
            version: OPSET,
        }],
        metadata: metadata
            .map(|(key, value)| Entry {
                key: (*key).to_owned(),
                value: value.clone(),
            })
            .collect(),
    }
}

/// A value for any number of pictures.
fn value(name: &str, element: i32, dims: &[usize]) -> Value {
    let batch = Size::Named("batch".to_owned());
    let sizes = dims.iter().map(|&size| Size::Fixed(size as i64));
    let sizes = std::iter::once(batch).chain(sizes);
    let dim = sizes.map(|size| Dimension { size: Some(size) }).collect();
    Value {
        name: name.to_owned(),
        r#type: Some(proto::Type {
            tensor: Some(proto::ValueType {
                element,
                shape: Some(proto::Shape { dim }),
            }),
        }),
    }
}

fn tensor((name, constant): (&String, &Constant)) -> Tensor {
    let (data_type, raw) = match &constant.numbers {
        Numbers::Float(all) => (element::FLOAT, bytes(all, |n| n.to_le_bytes())),
        Numbers::Half(all) => (element::FLOAT16, bytes(all, |n| n.to_le_bytes())),
        Numbers::Bytes(all) => (element::UINT8, all.clone()),
        Numbers::SignedBytes(all) => (element::INT8, bytes(all, |n| n.to_le_bytes())),
        Numbers::Ints(all) => (element::INT32, bytes(all, |n| n.to_le_bytes())),
        Numbers::Longs(all) => (element::INT64, bytes(all, |n| n.to_le_bytes())),
    };
    Tensor {
        dims: constant.dims.iter().map(|&size| size as i64).collect(),
        data_type,
        name: name.clone(),
        raw_data: Some(raw),
        external_data: Vec::new(),
        data_location: 0,
    }
}

fn bytes<T: Copy, const N: usize>(numbers: &[T], of: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    numbers.iter().flat_map(|&number| of(number)).collect()
}

fn node(node: &Node) -> proto::Node {
    let (op_type, attribute) = operation(&node.op);
    proto::Node {
        input: node.inputs.clone(),
        output: vec![node.output.clone()],
        name: node.output.clone(),
        op_type: op_type.to_owned(),
        attribute,
    }
}

/// What ONNX calls an operation, and its attributes.
fn operation(op: &Op) -> (&'static str, Vec<Attribute>) {
    match op {
        Op::Add => ("Add", vec![]),
        Op::AveragePool(window) => ("AveragePool", of_window(*window).into()),
        Op::Cast(Element::Float) => ("Cast", vec![int("to", i64::from(element::FLOAT))]),
        Op::Cast(Element::Half) => ("Cast", vec![int("to", i64::from(element::FLOAT16))]),
        Op::Clip => ("Clip", vec![]),
        Op::Concat(axis) => ("Concat", vec![int("axis", *axis)]),
        Op::Conv { window, groups } => {
            let mut attributes = Vec::from(of_window(*window));
            attributes.push(int("group", *groups as i64));
            ("Conv", attributes)
        }
        Op::DequantizeLinear { axis } => ("DequantizeLinear", vec![int("axis", *axis)]),
        Op::Div => ("Div", vec![]),
        Op::Erf => ("Erf", vec![]),
        Op::Flatten => ("Flatten", vec![int("axis", 1)]),
        Op::Gather(axis) => ("Gather", vec![int("axis", *axis)]),
        Op::Gemm => ("Gemm", vec![int("transB", 1)]),
        Op::GlobalAveragePool => ("GlobalAveragePool", vec![]),
        Op::HardSigmoid => {
            let slope = Attribute {
                name: "alpha".to_owned(),
                float: 1.0 / 6.0,
                kind: kind::FLOAT,
                ..Attribute::default()
            };
            ("HardSigmoid", vec![slope])
        }
        Op::HardSwish => ("HardSwish", vec![]),
        Op::MaxPool(window) => ("MaxPool", of_window(*window).into()),
        Op::Mul => ("Mul", vec![]),
        Op::Neg => ("Neg", vec![]),
        Op::QuantizeLinear => ("QuantizeLinear", vec![]),
        Op::Relu => ("Relu", vec![]),
        Op::Sigmoid => ("Sigmoid", vec![]),
        Op::Softmax => ("Softmax", vec![int("axis", 1)]),
        Op::Sub => ("Sub", vec![]),
        Op::Transpose(order) => ("Transpose", vec![ints("perm", order)]),
    }
}

fn of_window(window: Window) -> [Attribute; 3] {
    let sides = window.padding;
    let pads = [sides.top, sides.left, sides.bottom, sides.right];
    [
        ints("kernel_shape", &[window.kernel as i64; 2]),
        ints("strides", &[window.stride as i64; 2]),
        ints("pads", &pads.map(|zeros| zeros as i64)),
    ]
}

fn int(name: &str, int: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        int,
        kind: kind::INT,
        ..Attribute::default()
    }
}

fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        ints: ints.to_vec(),
        kind: kind::INTS,
        ..Attribute::default()
    }
}
