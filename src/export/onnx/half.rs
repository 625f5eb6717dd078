//! A graph of floats → one that computes in half precision: between the preprocessed pictures and the logits.

use super::classifier::{LOGITS, PREPROCESSED};
use super::graph::{Element, Graph, Node, Numbers, Op};
use crate::error::{Error, Result};

/// Converts every constant in between, and casts where it begins and ends: pixels and probabilities stay floats.
pub(super) fn convert(mut graph: Graph) -> Result<Graph> {
    let begin = graph.position(PREPROCESSED) + 1;
    let end = graph.position(LOGITS) + 1;
    let (entered, left) = (format!("{PREPROCESSED}.half"), format!("{LOGITS}.half"));
    for node in &mut graph.nodes[begin..end] {
        for input in &mut node.inputs {
            if let Some(constant) = graph.constants.get_mut(input) {
                constant.numbers = halves(input, &constant.numbers)?;
            } else if input == PREPROCESSED {
                input.clone_from(&entered);
            }
        }
    }
    graph.nodes[end - 1].output.clone_from(&left);
    let cast = |from: &str, to: &str, element| Node {
        op: Op::Cast(element),
        inputs: vec![from.to_owned()],
        output: to.to_owned(),
    };
    graph.nodes.insert(end, cast(&left, LOGITS, Element::Float));
    graph
        .nodes
        .insert(begin, cast(PREPROCESSED, &entered, Element::Half));
    Ok(graph)
}

/// The nearest halves; those that are already stay.
fn halves(name: &str, numbers: &Numbers) -> Result<Numbers> {
    let Numbers::Float(floats) = numbers else {
        return Ok(numbers.clone());
    };
    let half = |&number: &f32| {
        let half = half::f16::from_f32(number);
        match half.is_finite() {
            true => Ok(half.to_bits()),
            false => Err(Error::NotFinite {
                what: format!("`{name}` in half precision"),
                value: half.to_f32(),
            }),
        }
    };
    Ok(Numbers::Half(
        floats.iter().map(half).collect::<Result<_>>()?,
    ))
}
