//! Nodes whose weights are tensors.

use candle_core::{Result, Tensor};

use super::super::network::Node;
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
    let numbers = held.iter().map(|node| {
        let mut first = Ok(());
        let node = node.map(|values| match values.slice() {
            Ok(numbers) => numbers,
            Err(error) => {
                first = Err(error);
                &[]
            }
        });
        first.map(|()| node)
    });
    work(&numbers.collect::<Result<Vec<_>>>()?)
}

/// A node's weights and biases, two by two.
pub(super) fn parameters(node: &Node<Tensor>) -> Vec<[&Tensor; 2]> {
    let mut tensors = Vec::new();
    node.map(|tensor| tensors.push(tensor));
    tensors
        .chunks_exact(2)
        .map(|pair| [pair[0], pair[1]])
        .collect()
}
