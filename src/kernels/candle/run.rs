//! A network with gradients: what its forward pass keeps, and its backward pass.
//!
//! Going forward, a value is kept if the way back reads it, and else dropped after its last use. Going back, a node
//! takes the gradient of what it made and adds those of what it read. The gradient of a ReLU's output passes the gate
//! as it is made, in the epilogue of the last convolution that adds to it, if a convolution is last.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, Result, Tensor};

use super::super::activation::Activation;
use super::super::convolution_gradient::{Joined, input_gradient, parameter_gradients};
use super::super::elementwise::{activation_gradient, add, scale_rows_gradients};
use super::super::epilogue::Gate;
use super::super::isa::Isa;
use super::super::network::{Network, PackedWeights};
use super::super::node::{Conv, Node, Operation, Value};
use super::super::pool::{Pooling, max_pool_gradient, pool_gradient};
use super::super::scratch::Scratch;
use super::super::shape::{Blocked, FeatureMaps, Shape};
use super::super::squeeze::{self, DenseGradient, Gates};
use super::super::steps::steps;
use super::super::team::lead;
use super::super::window::Window;
use super::backward::{Listener, fill, gradient_like, listener};
use super::nodes::{parameters, with_numbers};

/// Which weight, bias or scale: the node, and which of its own.
pub(super) type Place = (usize, usize);

pub(super) struct Run {
    isa: Isa,
    /// Every node is one step.
    nodes: Vec<Node<Tensor>>,
    /// Of what goes in.
    shape: Shape,
    /// The values whose gradient is needed.
    wanted: Vec<bool>,
    /// From the forward pass on.
    kept: Mutex<Option<Arc<Kept>>>,
    /// From the backward pass until the links of the chain hand them out.
    gradients: Mutex<HashMap<Place, Tensor>>,
}

/// What the way back reads.
struct Kept {
    values: HashMap<Value, Scratch>,
    /// Of each squeeze-and-excitation.
    gates: HashMap<usize, Gates>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a node's parameters take a gradient.
fn is_open(node: &Node<Tensor>) -> bool {
    parameters(node).into_iter().any(Tensor::track_op)
}

impl Run {
    /// A run of nodes over maps of this shape, whose gradient is needed or not.
    pub(super) fn new(isa: Isa, nodes: &[Node<Tensor>], shape: Shape, input_wanted: bool) -> Self {
        let nodes = steps(nodes);
        let mut wanted = vec![input_wanted];
        for node in &nodes {
            wanted.push(is_open(node) || node.reads().any(|value| wanted[value]));
        }
        Self {
            isa,
            nodes,
            shape,
            wanted,
            kept: Mutex::default(),
            gradients: Mutex::default(),
        }
    }

    /// The weights, biases and scales of nodes of which one takes a gradient.
    pub(super) fn open(&self) -> Vec<(Place, Tensor)> {
        let nodes = self.nodes.iter().enumerate();
        let open = nodes.filter(|(_, node)| is_open(node));
        let parameters = open.flat_map(|(index, node)| {
            let parameters = parameters(node).into_iter().enumerate();
            parameters.map(move |(which, parameter)| ((index, which), parameter.clone()))
        });
        parameters.collect()
    }

    /// The gradient of a weight, bias or scale, once.
    pub(super) fn take_gradient(&self, place: Place) -> Option<Tensor> {
        lock(&self.gradients).remove(&place)
    }

    /// Tensors for the gradients of all open weights, biases and scales, to be written over. They are those that this
    /// thread may use again, so it must ask for them itself.
    fn unwritten_gradients(&self) -> Result<HashMap<Place, Tensor>> {
        let open = self.open().into_iter();
        open.map(|(place, parameter)| Ok((place, gradient_like(&parameter)?)))
            .collect()
    }

    /// Runs the nodes; the result is a planar tensor's.
    pub(super) fn forward(
        &self,
        input: FeatureMaps<'_>,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        lead(|| with_numbers(&self.nodes, |nodes| self.forward_here(nodes, input)))
    }

    fn forward_here(
        &self,
        nodes: &[Node<&[f32]>],
        input: FeatureMaps<'_>,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        let packed = PackedWeights::default();
        let network = Network::new(self.isa, nodes, &packed, self.shape, self.shape.batch);
        let read_back = self.read_back();
        let mut values: HashMap<Value, Scratch> = HashMap::new();
        let mut gates = HashMap::new();
        for (index, node) in nodes.iter().enumerate() {
            let mut made = Scratch::new(network.shapes[index + 1].blocked_len());
            let at = |value| {
                values
                    .get(&value)
                    .map_or(input, |maps| FeatureMaps::Blocked(maps))
            };
            let of_node = network.node(index, at, self.shape.batch, &mut made);
            if let Some(of_node) = of_node.filter(|_| self.wanted[index + 1]) {
                gates.insert(index, of_node);
            }
            debug_assert!(node.reads().all(|value| value <= index));
            values.insert(index + 1, made);
            values.retain(|value, _| {
                let is_ahead = *value > index || network.last_reads[*value] > index;
                is_ahead || read_back.contains(value)
            });
        }
        let (result, shape) = (&values[&nodes.len()], network.shapes[nodes.len()]);
        let mut planar = vec![0.0; shape.planar_len()];
        shape.to_planar(result, &mut planar);
        values.retain(|value, _| read_back.contains(value));
        *lock(&self.kept) = Some(Arc::new(Kept { values, gates }));
        Ok((CpuStorage::F32(planar), shape.dims().as_slice().into()))
    }

    /// The values that the way back reads.
    fn read_back(&self) -> HashSet<Value> {
        let mut read = HashSet::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if !self.wanted[index + 1] {
                continue;
            }
            let (reads_input, activation) = match &node.operation {
                Operation::Conv(conv) => (is_open(node), conv.activation),
                Operation::Sum { activation, .. } => (false, *activation),
                _ => (true, Activation::Identity),
            };
            read.extend(reads_input.then_some(node.input));
            read.extend((activation != Activation::Identity).then_some(index + 1));
        }
        read
    }

    /// Computes every parameter's gradient from that of the output, and that of the input if it is wanted, planar.
    pub(super) fn backward(
        &self,
        input: FeatureMaps<'_>,
        gradient: &[f32],
    ) -> Result<Option<Vec<f32>>> {
        let gradients = self.unwritten_gradients()?;
        let Some(kept) = lock(&self.kept).clone() else {
            candle_core::bail!("the backward pass comes after the forward pass")
        };
        // Threads of the pool do not know it.
        let listener = listener();
        lead(|| {
            with_numbers(&self.nodes, |nodes| {
                self.backward_here(nodes, &kept, input, gradient, gradients, listener)
            })
        })
    }

    fn backward_here(
        &self,
        nodes: &[Node<&[f32]>],
        kept: &Kept,
        input: FeatureMaps<'_>,
        gradient: &[f32],
        gradients: HashMap<Place, Tensor>,
        listener: Option<Listener>,
    ) -> Result<Option<Vec<f32>>> {
        let packed = PackedWeights::default();
        let network = Network::new(self.isa, nodes, &packed, self.shape, self.shape.batch);
        let last = nodes.len();
        let mut way = WayBack {
            run: self,
            slots: way_back_slots(self),
            network,
            kept,
            input,
            unwritten: gradients,
            gradients: HashMap::new(),
            listener,
        };
        way.slots[last].gradient = Some(way.network.shapes[last].blocked(gradient));
        for index in (0..last).rev() {
            way.node(index)?;
        }
        let dx = way.take(0);
        *lock(&self.gradients) = way.gradients;
        Ok(dx.filter(|_| self.wanted[0]).map(|dx| {
            let mut planar = vec![0.0; self.shape.planar_len()];
            self.shape.to_planar(&dx, &mut planar);
            planar
        }))
    }
}

/// The gradient of a value on the way back.
#[derive(Default)]
struct Slot {
    gradient: Option<Scratch>,
    /// How many nodes have yet to add to it.
    outstanding: usize,
    /// Whether it has passed the ReLU that made the value.
    is_gated: bool,
}

fn way_back_slots(run: &Run) -> Vec<Slot> {
    let mut slots: Vec<Slot> = run.wanted.iter().map(|_| Slot::default()).collect();
    for (index, node) in run.nodes.iter().enumerate() {
        for value in node.reads().filter(|_| run.wanted[index + 1]) {
            slots[value].outstanding += 1;
        }
    }
    slots
}

/// A backward pass at work.
struct WayBack<'a> {
    run: &'a Run,
    network: Network<'a>,
    kept: &'a Kept,
    input: FeatureMaps<'a>,
    /// Of every value.
    slots: Vec<Slot>,
    /// What gradients are to be written to.
    unwritten: HashMap<Place, Tensor>,
    gradients: HashMap<Place, Tensor>,
    listener: Option<Listener>,
}

impl<'a> WayBack<'a> {
    fn maps(&self, value: Value) -> FeatureMaps<'a> {
        let maps = self.kept.values.get(&value);
        maps.map_or(self.input, |maps| FeatureMaps::Blocked(maps))
    }

    fn value(&self, value: Value) -> Blocked<'a> {
        Blocked::of(self.maps(value), self.network.shapes[value])
    }

    /// The gradient of a value, which nobody reads any more.
    fn take(&mut self, value: Value) -> Option<Scratch> {
        self.slots[value].gradient.take()
    }

    /// The activation that a value's node took along; none for what goes in.
    fn activation(&self, value: Value) -> Activation {
        match value
            .checked_sub(1)
            .map(|node| &self.network.nodes[node].operation)
        {
            Some(Operation::Conv(Conv { activation, .. }) | Operation::Sum { activation, .. }) => {
                *activation
            }
            _ => Activation::Identity,
        }
    }

    /// Has `write` fill the gradient of a weight, bias or scale, and lets the listener know.
    fn write(&mut self, place: Place, mut write: impl FnMut(&mut [f32])) -> Result<()> {
        let Some(gradient) = self.unwritten.remove(&place) else {
            return Ok(());
        };
        fill(&gradient, &mut write)?;
        let parameters = parameters(&self.run.nodes[place.0]);
        if let (Some(listener), Some(parameter)) = (&self.listener, parameters.get(place.1)) {
            listener(parameter, &gradient);
        }
        self.gradients.insert(place, gradient);
        Ok(())
    }

    /// Whether the gradient that is added to a value's next is the last, and may pass the value's gate right away.
    fn may_gate(&self, value: Value) -> bool {
        self.slots[value].outstanding == 1 && Gate::of(self.activation(value), &[]).is_some()
    }

    /// Adds to the gradient of a value.
    fn add(&mut self, value: Value, gradient: Scratch) {
        let slot = &mut self.slots[value];
        slot.outstanding -= 1;
        match &mut slot.gradient {
            Some(sum) => add(self.run.isa, &gradient, sum),
            None => slot.gradient = Some(gradient),
        }
    }

    /// Takes the gradient of what a node made back to what it read.
    fn node(&mut self, index: usize) -> Result<()> {
        let nodes: &'a [Node<&'a [f32]>] = self.network.nodes;
        let node = &nodes[index];
        let is_gated = self.slots[index + 1].is_gated;
        let Some(mut dy) = self.take(index + 1) else {
            return Ok(());
        };
        if !self.run.wanted[index + 1] {
            return Ok(());
        }
        let activation = self.activation(index + 1);
        if activation != Activation::Identity && !is_gated {
            activation_gradient(
                self.run.isa,
                activation,
                self.value(index + 1).maps(),
                &mut dy,
            );
        }
        match &node.operation {
            Operation::Conv(conv) => self.conv(index, conv, dy)?,
            Operation::Sum { other, .. } => self.sum(node.input, *other, dy),
            Operation::Activate(activation) => {
                activation_gradient(
                    self.run.isa,
                    *activation,
                    self.value(node.input).maps(),
                    &mut dy,
                );
                self.add(node.input, dy);
            }
            Operation::MaxPool(window) => self.pool(Pooling::Max, node.input, *window, &dy),
            Operation::AveragePool(window) => self.pool(Pooling::Average, node.input, *window, &dy),
            Operation::SqueezeExcite { .. } => self.squeeze(index, node, &dy)?,
        }
        Ok(())
    }

    fn conv(&mut self, index: usize, conv: &Conv<&[f32]>, dz: Scratch) -> Result<()> {
        let (isa, value) = (self.run.isa, self.network.nodes[index].input);
        let shape = self.network.shapes[value];
        if is_open(&self.run.nodes[index]) {
            let x = self.maps(value);
            let mut of_bias = vec![0.0; conv.bias.len()];
            let mut of_scale = Vec::new();
            self.write((index, 0), |dw| {
                parameter_gradients(isa, conv, x, shape, &dz, dw, &mut of_bias);
                if let Some(scale) = conv.scale {
                    of_scale = scale_rows_gradients(isa, conv.weights, scale, dw);
                }
            })?;
            self.write((index, 1), |bias| bias.copy_from_slice(&of_bias))?;
            self.write((index, 2), |scale| scale.copy_from_slice(&of_scale))?;
        }
        if self.run.wanted[value] {
            let activation = self.activation(value);
            let y = self.may_gate(value).then(|| self.value(value));
            let slot = &mut self.slots[value];
            let other = slot.gradient.take();
            let joined = Joined {
                other: other.as_deref(),
                gate: y.as_ref().and_then(|y| Gate::of(activation, y.maps())),
            };
            let mut dx = Scratch::new(shape.blocked_len());
            input_gradient(isa, conv, shape, &dz, joined, &mut dx);
            slot.gradient = Some(dx);
            slot.outstanding -= 1;
            slot.is_gated = y.is_some();
        }
        if let Some(residual) = conv.residual.filter(|value| self.run.wanted[*value]) {
            self.add(residual, dz);
        }
        Ok(())
    }

    fn sum(&mut self, input: Value, other: Value, dz: Scratch) {
        match (self.run.wanted[input], self.run.wanted[other]) {
            (true, true) => {
                let mut copy = Scratch::new(dz.len());
                copy.copy_from_slice(&dz);
                self.add(other, copy);
                self.add(input, dz);
            }
            (true, false) => self.add(input, dz),
            (false, _) => self.add(other, dz),
        }
    }

    fn pool(&mut self, pooling: Pooling, value: Value, window: Window, dy: &[f32]) {
        let (isa, shape, x) = (self.run.isa, self.network.shapes[value], self.value(value));
        let mut dx = Scratch::new(shape.blocked_len());
        if pooling == Pooling::Max && window == Window::HALVING {
            let is_relu = self.activation(value) == Activation::Relu;
            let gates = is_relu && self.may_gate(value) && self.slots[value].gradient.is_none();
            max_pool_gradient(isa, x.maps(), shape, gates, dy, &mut dx);
            self.slots[value].is_gated = gates;
        } else {
            pool_gradient(isa, pooling, x.maps(), shape, window, dy, &mut dx);
        }
        self.add(value, dx);
    }

    fn squeeze(&mut self, index: usize, node: &Node<&[f32]>, dy: &[f32]) -> Result<()> {
        let Operation::SqueezeExcite { reduce, expand } = node.operation else {
            return Ok(());
        };
        let (isa, shape, x) = (
            self.run.isa,
            self.network.shapes[node.input],
            self.value(node.input),
        );
        let Some(gates) = self.kept.gates.get(&index) else {
            candle_core::bail!("the backward pass comes after the forward pass")
        };
        let mut dx = Scratch::new(shape.blocked_len());
        let found = squeeze::gradients(isa, x.maps(), shape, gates, reduce, expand, dy, &mut dx);
        if is_open(&self.run.nodes[index]) {
            let DenseGradient { weight, bias } = found.reduce;
            let reduce = [weight, bias];
            let DenseGradient { weight, bias } = found.expand;
            for (which, found) in reduce.into_iter().chain([weight, bias]).enumerate() {
                self.write((index, which), |gradient| gradient.copy_from_slice(&found))?;
            }
        }
        self.add(node.input, dx);
        Ok(())
    }
}
