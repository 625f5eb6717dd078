//! Nodes whose weights are tensors.

use candle_core::{Result, Tensor};

use super::super::node::Node;
use super::values::values;

/// Lends nodes whose weights are tensors to `work` as nodes whose weights are numbers.
///
/// # Errors
/// If a tensor is not contiguous, of f32 and on the CPU; and those of `work`.
pub(crate) fn with_numbers<R>(
    nodes: &[Node<Tensor>],
    work: impl FnOnce(&[Node<&[f32]>]) -> Result<R>,
) -> Result<R> {
    let held: Vec<Node<_>> = nodes.iter().map(|node| node.map(values)).collect();
    let lent = held.iter().map(|node| {
        let mut first = Ok(());
        let node = node.map(|values| {
            values.slice().unwrap_or_else(|error| {
                first = Err(error);
                &[]
            })
        });
        first.map(|()| node)
    });
    work(&lent.collect::<Result<Vec<_>>>()?)
}

/// A node's weights, biases and scale.
pub(super) fn parameters(node: &Node<Tensor>) -> Vec<&Tensor> {
    let mut parameters = Vec::new();
    node.map(|parameter| parameters.push(parameter));
    parameters
}
