//! Which of a network's nodes run as one where nothing in between is kept: what an inverted residual is made of.

use std::ops::Range;

use super::node::{Conv, Node, Operation};
use super::window::Window;

/// Nodes that run as one, and leave what the last of them makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fused {
    Alone(usize),
    /// A pointwise convolution and the depthwise one after it.
    Expanded(usize),
    /// A squeeze-and-excitation and the pointwise convolution after it, which scales what it reads.
    Gated(usize),
}

impl Fused {
    pub(super) fn nodes(self) -> Range<usize> {
        match self {
            Self::Alone(first) => first..first + 1,
            Self::Expanded(first) | Self::Gated(first) => first..first + 2,
        }
    }
}

/// The nodes in their order, as they run. What lies between nodes that run as one, no other reads.
pub(super) fn plan<W>(nodes: &[Node<W>]) -> Vec<Fused> {
    let mut readers = vec![0; nodes.len() + 1];
    // Somebody reads the result.
    readers[nodes.len()] = 1;
    for value in nodes.iter().flat_map(Node::reads) {
        readers[value] += 1;
    }
    let mut plan = Vec::new();
    let mut first = 0;
    while first < nodes.len() {
        let next = nodes.get(first + 1).filter(|next| {
            let made = first + 1;
            next.input == made && readers[made] == 1 && first + 1 < nodes.len()
        });
        let fused = match (&nodes[first].operation, next.map(|next| &next.operation)) {
            (Operation::Conv(expansion), Some(Operation::Conv(depthwise)))
                if is_pointwise(expansion)
                    && depthwise.depthwise
                    && [expansion, depthwise].into_iter().all(is_plain) =>
            {
                Fused::Expanded(first)
            }
            (Operation::SqueezeExcite { .. }, Some(Operation::Conv(projection)))
                if is_pointwise(projection) && !projection.pool =>
            {
                Fused::Gated(first)
            }
            _ => Fused::Alone(first),
        };
        first = fused.nodes().end;
        plan.push(fused);
    }
    plan
}

fn is_pointwise<W>(conv: &Conv<W>) -> bool {
    conv.window == Window::POINTWISE && !conv.depthwise
}

/// Whether nothing but bias and activation follows the sums.
fn is_plain<W>(conv: &Conv<W>) -> bool {
    !conv.pool && conv.residual.is_none()
}
