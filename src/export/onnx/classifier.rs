//! A classifier → operations: pixels, base, head, probabilities.

use super::graph::{Constant, Element, Graph, Numbers, Op};
use super::layers;
use super::{Layout, Pixels};
use crate::data::Preprocess;
use crate::error::Result;
use crate::model::{Classifier, HeadLayers, Pooling};

/// The name of what goes in.
pub(super) const INPUT: &str = "pictures";

/// The name of what the base reads.
pub(super) const PREPROCESSED: &str = "preprocessed";

/// The name of what the head makes.
pub(super) const LOGITS: &str = "logits";

/// The name of what comes out.
pub(super) const OUTPUT: &str = "probabilities";

/// The operations of a classifier.
pub(super) fn graph(model: &Classifier, pixels: Pixels, layout: Layout) -> Result<Graph> {
    let mut graph = Graph::default();
    let images = preprocess(&mut graph, model.preprocess(), pixels, layout);
    let features = layers::base(&mut graph, model.base(), images, model.size())?;
    head(&mut graph, model.head(), features)?;
    probabilities(&mut graph, model.head());
    Ok(graph)
}

/// Pixels in [0, 255] → what the weights expect, (N, 3, H, W).
fn preprocess(graph: &mut Graph, how: Preprocess, pixels: Pixels, layout: Layout) -> String {
    let mut x = INPUT.to_owned();
    if layout == Layout::ChannelsLast {
        x = graph.push(Op::Transpose([0, 3, 1, 2]), &[&x], "channels_first");
    }
    if pixels == Pixels::Bytes {
        x = graph.push(Op::Cast(Element::Float), &[&x], "floats");
    }
    if how.is_bgr() {
        let order = Constant {
            dims: vec![3],
            numbers: Numbers::Longs(vec![2, 1, 0]),
        };
        let order = graph.constant("blue_green_red", order);
        x = graph.push(Op::Gather(1), &[&x, &order], "reversed");
    }
    let (mean, deviation) = how.mean_std();
    let mut by_channel = |op: Op, name: &str, numbers: [f32; 3], output: &str| {
        let constant = Constant {
            dims: vec![1, 3, 1, 1],
            numbers: Numbers::Float(numbers.to_vec()),
        };
        let name = graph.constant(name, constant);
        x = graph.push(op, &[&x, &name], output);
    };
    by_channel(Op::Sub, "mean", mean, "centred");
    by_channel(Op::Div, "deviation", deviation, PREPROCESSED);
    x
}

/// Features → logits. Dropout is nothing in use.
fn head(graph: &mut Graph, head: &HeadLayers, features: String) -> Result<()> {
    let mut x = features;
    if head.config().pooled() == Pooling::GlobalAverage {
        x = graph.push(Op::GlobalAveragePool, &[&x], "pooled");
    }
    x = graph.push(Op::Flatten, &[&x], "flat");
    let tensors = head.tensors();
    let mut activations = head.config().hidden_layers();
    for pair in tensors.chunks(2) {
        let [(weight_name, weight), (bias_name, bias)] = pair else {
            unreachable!("each layer has a weight and a bias");
        };
        let weight = graph.constant(format!("head.{weight_name}"), Constant::tensor(weight)?);
        let bias = graph.constant(format!("head.{bias_name}"), Constant::tensor(bias)?);
        let inputs = [x.as_str(), &weight, &bias];
        let Some((_, activation)) = activations.next() else {
            graph.push(Op::Gemm, &inputs, LOGITS);
            break;
        };
        x = graph.push(Op::Gemm, &inputs, weight.trim_end_matches(".weight"));
        x = layers::activation(graph, activation, x);
    }
    Ok(())
}

/// Logits → the probability of every class, (N, K).
fn probabilities(graph: &mut Graph, head: &HeadLayers) {
    if !head.config().is_sigmoid() {
        graph.push(Op::Softmax, &[LOGITS], OUTPUT);
        return;
    }
    // σ(−z) beside σ(z), not 1 − σ(z): the small one keeps its digits.
    let negative = graph.push(Op::Neg, &[LOGITS], "negative");
    let both = graph.push(Op::Concat(1), &[&negative, LOGITS], "both");
    graph.push(Op::Sigmoid, &[&both], OUTPUT);
}
