//! A graph of floats → one whose convolutions and dense layers multiply integers of eight bits.
//!
//! Weights are rounded to 255 steps for each output, evenly about 0; what passes between operations to 256 steps over
//! the range that pictures gave it (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
//! Integer-Arithmetic-Only Inference"). The graph says so in pairs of `QuantizeLinear` and `DequantizeLinear`, which
//! engines put together with the operations between them.

use std::collections::BTreeMap;

use super::classifier::{LOGITS, PREPROCESSED};
use super::graph::{Constant, Graph, Node, Numbers, Op};
use super::run;
use crate::data::{Dataset, Loader};
use crate::error::{Error, Result};
use crate::model::Classifier;

/// How many pictures calibration looks at.
const PICTURES: usize = 128;

/// The pictures that are run together.
const TOGETHER: usize = 8;

/// The smallest and the largest number that a value takes, 0 among them.
#[derive(Clone, Copy, Debug)]
struct Range {
    low: f32,
    high: f32,
}

impl Range {
    /// The size of a step, and the step that is 0.
    fn steps(self) -> (f32, u8) {
        let scale = (self.high - self.low) / 255.0;
        if scale <= 0.0 {
            return (1.0, 0);
        }
        (scale, (-self.low / scale).round() as u8)
    }
}

/// Rounds a graph by the ranges that pictures of a dataset show.
pub(super) fn convert(graph: Graph, model: &Classifier, pictures: &Dataset) -> Result<Graph> {
    let ranges = calibrate(&graph, model, pictures)?;
    let (begin, end) = (graph.position(PREPROCESSED), graph.position(LOGITS));
    let mut rounded = Rounded {
        nodes: Vec::new(),
        constants: graph.constants.clone(),
        names: BTreeMap::new(),
        steps: BTreeMap::new(),
    };
    for (index, node) in graph.nodes.iter().enumerate() {
        let node = match (begin + 1..=end).contains(&index) {
            true => rounded.inputs(node)?,
            false => node.clone(),
        };
        let output = node.output.clone();
        rounded.nodes.push(node);
        let inside = (begin..end).contains(&index) && !is_clipped_next(&graph, index);
        if let Some(range) = ranges.get(&output).filter(|_| inside) {
            rounded.output(&output, *range);
        }
    }
    let used = |name: &String| rounded.nodes.iter().any(|node| node.inputs.contains(name));
    rounded.constants.retain(|name, _| used(name));
    Ok(Graph {
        nodes: rounded.nodes,
        constants: rounded.constants,
    })
}

/// Whether the next operation only cuts off what this one makes: rounding does that along the way.
fn is_clipped_next(graph: &Graph, index: usize) -> bool {
    let output = &graph.nodes[index].output;
    let next = graph.nodes.get(index + 1);
    next.is_some_and(|next| {
        matches!(next.op, Op::Relu | Op::Clip) && next.inputs.first() == Some(output)
    })
}

/// The range of each value behind the preprocess: the means, over pictures, of the smallest and the largest numbers, so
/// that no single picture stretches it.
fn calibrate(
    graph: &Graph,
    model: &Classifier,
    pictures: &Dataset,
) -> Result<BTreeMap<String, Range>> {
    let (height, width) = model.size();
    let loader = Loader::new(pictures, height, width)
        .batch_size(TOGETHER)
        .cache(0)
        .shuffle(0)
        .resize(model.resize_filter())
        .preprocess(model.preprocess());
    let mut sums: BTreeMap<String, Range> = BTreeMap::new();
    let mut seen = 0;
    for batch in loader.epoch(0).take(PICTURES.div_ceil(TOGETHER)) {
        let batch = batch?;
        seen += batch.labels.len();
        run::run(graph, PREPROCESSED, batch.inputs, |name, value| {
            let rows = value.flatten_from(1)?;
            let sum = sums.entry(name.to_owned()).or_insert(Range {
                low: 0.0,
                high: 0.0,
            });
            sum.low += rows.min(1)?.minimum(0f32)?.sum_all()?.to_scalar::<f32>()?;
            sum.high += rows.max(1)?.maximum(0f32)?.sum_all()?.to_scalar::<f32>()?;
            Ok(())
        })?;
    }
    if seen == 0 {
        return Err(Error::option(
            "int8",
            "no usable picture",
            "a dataset with pictures to calibrate on",
        ));
    }
    for (name, range) in &mut sums {
        range.low /= seen as f32;
        range.high /= seen as f32;
        let span = range.high - range.low;
        if !span.is_finite() {
            return Err(Error::NotFinite {
                what: format!("`{name}` of the pictures to calibrate on"),
                value: span,
            });
        }
    }
    Ok(sums)
}

/// What was rounded so far.
struct Rounded {
    nodes: Vec<Node>,
    constants: BTreeMap<String, Constant>,
    /// What is read in the place of a value.
    names: BTreeMap<String, String>,
    /// The size of the steps of what is read.
    steps: BTreeMap<String, f32>,
}

impl Rounded {
    fn constant(&mut self, name: String, dims: &[usize], numbers: Numbers) -> String {
        let dims = dims.to_vec();
        self.constants
            .insert(name.clone(), Constant { dims, numbers });
        name
    }

    fn push(&mut self, op: Op, inputs: [String; 3], output: String) -> String {
        self.nodes.push(Node {
            op,
            inputs: inputs.into(),
            output: output.clone(),
        });
        output
    }

    /// Rounds a value and makes floats of it again.
    fn output(&mut self, name: &str, range: Range) {
        let (scale, zero) = range.steps();
        let step = self.constant(format!("{name}.step"), &[], Numbers::Float(vec![scale]));
        let zero = self.constant(format!("{name}.zero"), &[], Numbers::Bytes(vec![zero]));
        let inputs = [name.to_owned(), step.clone(), zero.clone()];
        let bytes = self.push(Op::QuantizeLinear, inputs, format!("{name}.bytes"));
        let op = Op::DequantizeLinear { axis: 0 };
        let rounded = self.push(op, [bytes, step, zero], format!("{name}.rounded"));
        self.steps.insert(rounded.clone(), scale);
        self.names.insert(name.to_owned(), rounded);
    }

    /// An operation that reads what was rounded.
    fn inputs(&mut self, node: &Node) -> Result<Node> {
        let mut node = node.clone();
        for input in &mut node.inputs {
            if let Some(rounded) = self.names.get(input) {
                input.clone_from(rounded);
            }
        }
        if matches!(node.op, Op::Conv { .. } | Op::Gemm) {
            let step = self.steps.get(&node.inputs[0]).copied();
            let steps = self.weight(&mut node.inputs[1])?;
            if let Some(step) = step {
                let steps = steps.into_iter().map(|own| own * step);
                self.bias(&mut node.inputs[2], steps.collect())?;
            }
        }
        Ok(node)
    }

    /// Rounds a weight (outputs, …); the size of each output's steps comes back.
    fn weight(&mut self, name: &mut String) -> Result<Vec<f32>> {
        let (dims, weight) = self.floats(name)?;
        let outputs = dims[0];
        let rows = weight.chunks(weight.len() / outputs);
        let steps: Vec<f32> = rows.clone().map(step_of).collect();
        let rounded = rows.zip(&steps).flat_map(|(row, step)| {
            row.iter()
                .map(move |number| (number / step).round().clamp(-127.0, 127.0) as i8)
        });
        let numbers = Numbers::SignedBytes(rounded.collect());
        self.dequantize(
            name,
            &dims,
            numbers,
            steps.clone(),
            Numbers::SignedBytes(vec![0; outputs]),
        );
        Ok(steps)
    }

    /// Rounds a bias to the steps of the sums.
    fn bias(&mut self, name: &mut String, steps: Vec<f32>) -> Result<()> {
        let (dims, bias) = self.floats(name)?;
        let rounded = bias.iter().zip(&steps);
        let rounded = rounded.map(|(number, step)| (number / step).round() as i32);
        let numbers = Numbers::Ints(rounded.collect());
        let zeros = Numbers::Ints(vec![0; steps.len()]);
        self.dequantize(name, &dims, numbers, steps, zeros);
        Ok(())
    }

    fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        match self.constants.get(name) {
            Some(Constant {
                dims,
                numbers: Numbers::Float(numbers),
            }) => Ok((dims.clone(), numbers.clone())),
            _ => Err(Error::Candle(candle_core::Error::msg(format!(
                "no floats: `{name}`"
            )))),
        }
    }

    /// Reads `name` from integers.
    fn dequantize(
        &mut self,
        name: &mut String,
        dims: &[usize],
        integers: Numbers,
        steps: Vec<f32>,
        zeros: Numbers,
    ) {
        let outputs = [steps.len()];
        let integers = self.constant(format!("{name}.integers"), dims, integers);
        let step = self.constant(format!("{name}.step"), &outputs, Numbers::Float(steps));
        let zero = self.constant(format!("{name}.zero"), &outputs, zeros);
        let op = Op::DequantizeLinear { axis: 0 };
        *name = self.push(op, [integers, step, zero], format!("{name}.rounded"));
    }
}

/// The step of a row whose largest number is 127 of them.
fn step_of(row: &[f32]) -> f32 {
    let largest = row
        .iter()
        .fold(0f32, |largest, number| largest.max(number.abs()));
    if largest > 0.0 { largest / 127.0 } else { 1.0 }
}
