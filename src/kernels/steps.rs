//! Nodes taken apart into steps, as a backward pass wants them: each makes one value that is read on the way back.
//!
//! A convolution or sum keeps its residual, and an activation whose slope follows from what it makes; other
//! activations and the pool become nodes of their own.

use super::activation::Activation;
use super::node::{Conv, Node, Operation, Value};
use super::window::Window;

/// The steps of nodes, the last of which makes the same result.
pub(super) fn steps<W: Clone>(nodes: &[Node<W>]) -> Vec<Node<W>> {
    let mut steps: Vec<Node<W>> = Vec::new();
    // Where each of the nodes' values is among those of the steps.
    let mut places: Vec<Value> = vec![0];
    for node in nodes {
        let (first, after) = taken_apart(&node.operation, &places);
        steps.push(Node {
            input: places[node.input],
            operation: first,
        });
        for operation in after.into_iter().flatten() {
            let input = steps.len();
            steps.push(Node { input, operation });
        }
        places.push(steps.len());
    }
    steps
}

/// An operation's steps: the first reads what it does, each of the others what the one before makes.
fn taken_apart<W: Clone>(
    operation: &Operation<W>,
    places: &[Value],
) -> (Operation<W>, [Option<Operation<W>>; 2]) {
    match operation {
        Operation::Conv(conv) => {
            let (activation, activate) = split(conv.activation);
            let pool = conv.pool.then_some(Operation::MaxPool(Window::HALVING));
            let conv = Conv {
                residual: conv.residual.map(|residual| places[residual]),
                activation,
                pool: false,
                kept_as: None,
                ..conv.clone()
            };
            (Operation::Conv(conv), [activate, pool])
        }
        Operation::Sum { other, activation } => {
            let (activation, activate) = split(*activation);
            let other = places[*other];
            (Operation::Sum { other, activation }, [activate, None])
        }
        other => (other.clone(), [None, None]),
    }
}

/// The activation that a step takes along, and the one that follows by itself.
fn split<W>(activation: Activation) -> (Activation, Option<Operation<W>>) {
    match activation {
        Activation::Identity | Activation::Relu | Activation::Relu6 => (activation, None),
        other => (Activation::Identity, Some(Operation::Activate(other))),
    }
}
