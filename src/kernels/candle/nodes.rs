//! Nodes whose weights are tensors.

use std::ops::Deref;

use candle_core::{Result, Storage, Tensor};

use super::super::elementwise::scale_rows;
use super::super::isa::Isa;
use super::super::node::Node;
use super::super::scratch::Scratch;
use super::values::{Values, values};

/// A weight or bias of a node.
#[derive(Clone, Debug)]
pub(crate) enum Operand {
    Tensor(Tensor),
    /// A weight (out, …) that is multiplied by a number for each output: what a batch norm leaves to be done. Both take
    /// gradients.
    Scaled {
        weight: Tensor,
        /// (out)
        scale: Tensor,
    },
}

impl From<Tensor> for Operand {
    fn from(tensor: Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

impl Operand {
    /// The tensor itself, or what is scaled.
    pub(super) fn tensor(&self) -> &Tensor {
        match self {
            Self::Tensor(tensor) | Self::Scaled { weight: tensor, .. } => tensor,
        }
    }

    /// Whether it takes a gradient.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Tensor(tensor) => tensor.track_op(),
            Self::Scaled { weight, scale } => weight.track_op() || scale.track_op(),
        }
    }
}

/// An operand's numbers.
enum Numbers<'a, Guard> {
    Held(Values<'a, Guard>),
    Made(Result<Scratch>),
}

fn numbers(isa: Isa, operand: &Operand) -> Numbers<'_, impl Deref<Target = Storage>> {
    match operand {
        Operand::Tensor(tensor) => Numbers::Held(values(tensor)),
        Operand::Scaled { weight, scale } => Numbers::Made(scaled(isa, weight, scale)),
    }
}

fn scaled(isa: Isa, weight: &Tensor, scale: &Tensor) -> Result<Scratch> {
    let (weight, scale) = (values(weight), values(scale));
    let (weight, scale) = (weight.slice()?, scale.slice()?);
    let mut scaled = Scratch::new(weight.len());
    scale_rows(isa, weight, scale, &mut scaled);
    Ok(scaled)
}

/// Lends nodes whose weights are tensors to `work` as nodes whose weights are numbers.
///
/// # Errors
/// If a tensor is not contiguous, of f32 and on the CPU; and those of `work`.
pub(crate) fn with_numbers<R>(
    isa: Isa,
    nodes: &[Node<Operand>],
    work: impl FnOnce(&[Node<&[f32]>]) -> Result<R>,
) -> Result<R> {
    let nodes = nodes.iter();
    let held: Vec<Node<_>> = nodes
        .map(|node| node.map(|operand| numbers(isa, operand)))
        .collect();
    let lent = held.iter().map(|node| {
        let mut first = Ok(());
        let node = node.map(|numbers| {
            let slice = match numbers {
                Numbers::Held(values) => values.slice(),
                Numbers::Made(Ok(made)) => Ok(&**made),
                Numbers::Made(Err(error)) => Err(candle_core::Error::msg(error)),
            };
            slice.unwrap_or_else(|error| {
                first = Err(error);
                &[]
            })
        });
        first.map(|()| node)
    });
    work(&lent.collect::<Result<Vec<_>>>()?)
}

/// A node's weights and biases, two by two.
pub(super) fn parameters(node: &Node<Operand>) -> Vec<[&Operand; 2]> {
    let mut operands = Vec::new();
    node.map(|operand| operands.push(operand));
    operands
        .chunks_exact(2)
        .map(|pair| [pair[0], pair[1]])
        .collect()
}
