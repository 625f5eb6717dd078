//! A network without a graph: in as a tensor has maps, through every node in the kernels' layout, out in that layout.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::blocking::LAYER_BYTES;
use super::depthwise;
use super::direct;
use super::elementwise;
use super::epilogue::{Epilogue, pad_bias};
use super::expanded::{Expanded, Half};
use super::isa::{Isa, Token, with_simd};
use super::method::Method;
use super::node::{Conv, Node, Operation, Value};
use super::plan::{Fused, plan};
use super::pool::{self, Pooling};
use super::scratch::Scratch;
use super::shape::{Blocked, FeatureMaps, Shape};
use super::squeeze::{self, Gates};
use super::team::lead;
use super::weights::Weights;
use super::window::Window;

/// The weights of frozen layers, packed as the methods read them when first needed, and kept.
#[derive(Debug, Default)]
pub(crate) struct PackedWeights {
    kept: Mutex<HashMap<(usize, Packing), Arc<Scratch>>>,
}

/// What weights are packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Packing {
    Method(Method),
    Depthwise,
}

impl PackedWeights {
    fn get(&self, layer: usize, packing: Packing, pack: impl FnOnce() -> Scratch) -> Arc<Scratch> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept().get(&(layer, packing)).cloned();
        // Not under the lock, which other networks would wait for. Two that pack at once come to the same numbers.
        let packed = found.unwrap_or_else(|| Arc::new(pack()));
        kept().entry((layer, packing)).or_insert(packed).clone()
    }
}

/// Runs nodes, the last of which makes the result, over images (N, C, H, W) and returns blocked maps. Nothing in
/// between is kept.
///
/// Early nodes, whose maps are large, take a few images at a time, so that a node finds its input in the cache; the
/// later ones take all of them, so that weights are read once.
///
/// Methods are chosen as for `batch` images: they differ by rounding, so that an image's maps depend on `batch` and not
/// on how many images come with it.
pub(crate) fn run(
    isa: Isa,
    nodes: &[Node<&[f32]>],
    packed: &PackedWeights,
    planar: &[f32],
    shape: Shape,
    batch: usize,
) -> (Vec<f32>, Shape) {
    lead(|| run_here(isa, nodes, packed, planar, shape, batch))
}

fn run_here(
    isa: Isa,
    nodes: &[Node<&[f32]>],
    packed: &PackedWeights,
    planar: &[f32],
    shape: Shape,
    batch: usize,
) -> (Vec<f32>, Shape) {
    let network = Network::new(isa, nodes, packed, shape, batch);
    let (early, group) = network.early();
    let result = network.shapes[nodes.len()];
    let mut last = vec![0.0; result.blocked_len()];
    if early == 0 || group >= shape.batch {
        network.run(
            0..nodes.len(),
            FeatureMaps::Planar(planar),
            shape.batch,
            &mut last,
        );
        return (last, result);
    }
    let between = network.shapes[early];
    let mut gathered = Scratch::new(if early == nodes.len() {
        0
    } else {
        between.blocked_len()
    });
    let halfway = if early == nodes.len() {
        &mut last[..]
    } else {
        &mut gathered[..]
    };
    let per_input = shape.with_batch(1).planar_len();
    let per_output = between.with_batch(1).blocked_len();
    for first in (0..shape.batch).step_by(group) {
        let count = group.min(shape.batch - first);
        let images = &planar[first * per_input..][..count * per_input];
        let to = &mut halfway[first * per_output..][..count * per_output];
        network.run(0..early, FeatureMaps::Planar(images), count, to);
    }
    if early < nodes.len() {
        let rest = early..nodes.len();
        network.run(
            rest,
            FeatureMaps::Blocked(&gathered),
            shape.batch,
            &mut last,
        );
    }
    (last, result)
}

/// Nodes, and what follows from them and the shape of what goes in.
pub(super) struct Network<'a> {
    pub(super) isa: Isa,
    pub(super) nodes: &'a [Node<&'a [f32]>],
    packed: &'a PackedWeights,
    /// Of every value.
    pub(super) shapes: Vec<Shape>,
    /// The last node that reads each value.
    pub(super) last_reads: Vec<usize>,
    /// How the nodes run where nothing is kept.
    plan: Vec<Fused>,
    /// For how many images methods are chosen.
    batch: usize,
}

impl<'a> Network<'a> {
    pub(super) fn new(
        isa: Isa,
        nodes: &'a [Node<&'a [f32]>],
        packed: &'a PackedWeights,
        input: Shape,
        batch: usize,
    ) -> Self {
        let mut shapes = vec![input];
        let mut last_reads = vec![0; nodes.len() + 1];
        for (index, node) in nodes.iter().enumerate() {
            shapes.push(node.output(shapes[node.input]));
            for value in node.reads() {
                last_reads[value] = index;
            }
        }
        Self {
            isa,
            nodes,
            packed,
            shapes,
            last_reads,
            plan: plan(nodes),
            batch,
        }
    }

    /// How many leading nodes go by groups of images, and how many images make a group.
    fn early(&self) -> (usize, usize) {
        let mut largest = 0;
        let group = |largest: usize| (LAYER_BYTES / largest.max(1)).max(1);
        for fused in &self.plan {
            let Range { start, end } = fused.nodes();
            let (input, output) = (self.shapes[self.nodes[start].input], self.shapes[end]);
            let image = |shape: Shape| shape.with_batch(1).blocked_len();
            let bytes = 4 * (image(input) + image(output));
            if bytes * input.batch <= LAYER_BYTES && self.is_narrow(start) {
                return (start, group(largest));
            }
            largest = largest.max(bytes);
        }
        (self.nodes.len(), group(largest))
    }

    /// Whether the nodes from `index` on read no value made before but the last one.
    fn is_narrow(&self, index: usize) -> bool {
        (0..index).all(|value| self.last_reads[value] < index)
    }

    /// Runs some of the nodes, of which those outside read only the last, into `last`. The first reads `input`, of so
    /// many images.
    fn run(&self, nodes: Range<usize>, input: FeatureMaps<'_>, images: usize, last: &mut [f32]) {
        let mut values: HashMap<Value, Scratch> = HashMap::new();
        // Of the channels of what was made last, where it is known.
        let mut means = None;
        let plan = self.plan.iter();
        for fused in plan.filter(|fused| nodes.contains(&fused.nodes().start)) {
            let end = fused.nodes().end;
            let at = |value: Value| match values.get(&value) {
                Some(maps) => FeatureMaps::Blocked(maps),
                None => {
                    assert_eq!(
                        value, nodes.start,
                        "a value is read before it is made or after its last use"
                    );
                    input
                }
            };
            if end == nodes.end {
                self.fused(*fused, at, images, means, last);
                break;
            }
            let mut made = Scratch::new(self.shapes[end].with_batch(images).blocked_len());
            means = self.fused(*fused, at, images, means, &mut made);
            values.retain(|value, _| self.last_reads[*value] >= end);
            values.insert(end, made);
        }
    }

    /// Runs nodes that run as one on so many images. The means of what they read may be known; returned are those of
    /// what they make if the next node needs them.
    fn fused<'v>(
        &self,
        fused: Fused,
        value: impl Fn(Value) -> FeatureMaps<'v>,
        images: usize,
        means: Option<Vec<f32>>,
        y: &mut [f32],
    ) -> Option<Vec<f32>> {
        match fused {
            Fused::Alone(index) => {
                self.node(index, value, images, y);
                None
            }
            Fused::Expanded(index) => self.expanded(index, value, images, y),
            Fused::Gated(index) => {
                self.gated(index, value, images, means, y);
                None
            }
        }
    }

    /// Runs one node on so many images. Returns what came of each step of a squeeze-and-excitation.
    pub(super) fn node<'v>(
        &self,
        index: usize,
        value: impl Fn(Value) -> FeatureMaps<'v>,
        images: usize,
        y: &mut [f32],
    ) -> Option<Gates> {
        let node = &self.nodes[index];
        let shape = self.shapes[node.input].with_batch(images);
        let x = value(node.input);
        match &node.operation {
            Operation::Conv(conv) => {
                let residual = conv.residual.map(|residual| {
                    Blocked::of(value(residual), self.shapes[residual].with_batch(images))
                });
                let residual = residual.as_ref().map(Blocked::maps);
                self.conv(conv, x, shape, residual, y);
            }
            Operation::MaxPool(Window::HALVING) => {
                let x = Blocked::of(x, shape);
                pool::max_pool(self.isa, x.maps(), shape, y);
            }
            Operation::MaxPool(window) => {
                let x = Blocked::of(x, shape);
                pool::pool(self.isa, Pooling::Max, x.maps(), shape, *window, y);
            }
            Operation::AveragePool(window) => {
                let x = Blocked::of(x, shape);
                pool::pool(self.isa, Pooling::Average, x.maps(), shape, *window, y);
            }
            Operation::Sum { other, activation } => {
                let (x, other) = (Blocked::of(x, shape), Blocked::of(value(*other), shape));
                elementwise::sum(self.isa, x.maps(), other.maps(), *activation, y);
            }
            Operation::Activate(activation) => {
                let x = Blocked::of(x, shape);
                elementwise::activate(self.isa, *activation, x.maps(), y);
            }
            Operation::SqueezeExcite { reduce, expand } => {
                let x = Blocked::of(x, shape);
                let means = squeeze::means(self.isa, x.maps(), shape);
                let gates = squeeze::gates(self.isa, means, images, *reduce, *expand);
                squeeze::scale(self.isa, x.maps(), shape, &gates.gates, y);
                return Some(gates);
            }
        }
        None
    }

    fn conv(
        &self,
        conv: &Conv<&[f32]>,
        x: FeatureMaps<'_>,
        shape: Shape,
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) {
        let bias = pad_bias(conv.bias);
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual,
            activation: conv.activation,
            pool: conv.pool,
            gate: None,
        };
        if conv.depthwise {
            self.depthwise(conv, x, shape, &epilogue, y);
            return;
        }
        let chosen_for = shape.with_batch(self.batch);
        let method = Method::choose(x, chosen_for, conv.window, conv.bias.len());
        let method = method.for_epilogue(&epilogue);
        let weights = weights(conv, shape.channels);
        let kept_as = conv
            .kept_as
            .filter(|_| method.packs_ahead(self.isa, &weights));
        let packed = kept_as.map(|place| {
            let pack = || method.pack(self.isa, &weights);
            self.packed.get(place, Packing::Method(method), pack)
        });
        let packed = packed.as_deref().map(|packed| &**packed);
        let blocked;
        let x = match x {
            FeatureMaps::Planar(planar) if !method.reads_planar() => {
                blocked = shape.blocked(planar);
                &blocked
            }
            FeatureMaps::Planar(x) | FeatureMaps::Blocked(x) => x,
        };
        method.convolve(
            self.isa,
            x,
            shape,
            conv.window,
            &weights,
            packed,
            &epilogue,
            y,
        );
    }

    /// Runs a pointwise convolution and the depthwise one after it. Returns the means of what they make if the next
    /// node needs them.
    fn expanded<'v>(
        &self,
        index: usize,
        value: impl Fn(Value) -> FeatureMaps<'v>,
        images: usize,
        y: &mut [f32],
    ) -> Option<Vec<f32>> {
        let (expansion, depthwise) = (self.conv_at(index), self.conv_at(index + 1));
        let shape = self.shapes[self.nodes[index].input].with_batch(images);
        let x = Blocked::of(value(self.nodes[index].input), shape);
        let biases = [expansion, depthwise].map(|conv| pad_bias(conv.bias));
        let epilogues = [(expansion, &biases[0]), (depthwise, &biases[1])];
        let epilogues = epilogues.map(|(conv, bias)| Epilogue {
            bias: Some(bias),
            activation: conv.activation,
            ..Epilogue::default()
        });
        let channels = expansion.bias.len();
        let packed = [
            self.packed_for(expansion, Packing::Method(Method::Direct), || {
                Method::Direct.pack(self.isa, &weights(expansion, shape.channels))
            }),
            self.packed_for(depthwise, Packing::Depthwise, || {
                depthwise::pack(
                    depthwise.weights,
                    depthwise.scale,
                    channels,
                    depthwise.window.kernel,
                )
            }),
        ];
        let half = |which: usize| Half {
            packed: &packed[which],
            epilogue: &epilogues[which],
        };
        let pair = Expanded {
            shape,
            expansion: half(0),
            channels,
            depthwise: half(1),
            window: depthwise.window,
        };
        let needs_means = matches!(
            self.nodes.get(index + 2),
            Some(Node { input, operation: Operation::SqueezeExcite { .. } }) if *input == index + 2
        );
        with_simd!(self.isa, simd => pair.convolve(simd, x.maps(), needs_means, y))
    }

    /// Runs a squeeze-and-excitation of maps, whose means may be known, and the pointwise convolution after it.
    fn gated<'v>(
        &self,
        index: usize,
        value: impl Fn(Value) -> FeatureMaps<'v>,
        images: usize,
        means: Option<Vec<f32>>,
        y: &mut [f32],
    ) {
        let Operation::SqueezeExcite { reduce, expand } = self.nodes[index].operation else {
            unreachable!("a plan gates with a squeeze-and-excitation")
        };
        let input = self.nodes[index].input;
        let shape = self.shapes[input].with_batch(images);
        let x = Blocked::of(value(input), shape);
        let means = means.unwrap_or_else(|| squeeze::means(self.isa, x.maps(), shape));
        let gates = squeeze::gates(self.isa, means, images, reduce, expand).gates;
        let conv = self.conv_at(index + 1);
        let residual = conv
            .residual
            .map(|residual| Blocked::of(value(residual), self.shapes[residual].with_batch(images)));
        let bias = pad_bias(conv.bias);
        let epilogue = Epilogue {
            bias: Some(&bias),
            residual: residual.as_ref().map(Blocked::maps),
            activation: conv.activation,
            ..Epilogue::default()
        };
        let packed = self.packed_for(conv, Packing::Method(Method::Direct), || {
            Method::Direct.pack(self.isa, &weights(conv, shape.channels))
        });
        with_simd!(self.isa, simd => direct::convolve_gated(
            simd, x.maps(), shape, &gates, &packed, conv.bias.len(), &epilogue, y,
        ));
    }

    fn conv_at(&self, index: usize) -> &Conv<&'a [f32]> {
        match &self.nodes[index].operation {
            Operation::Conv(conv) => conv,
            other => unreachable!("a plan takes {other:?} for a convolution"),
        }
    }

    /// What packs a convolution's weights, or what it once made of them.
    fn packed_for(
        &self,
        conv: &Conv<&[f32]>,
        packing: Packing,
        pack: impl FnOnce() -> Scratch,
    ) -> Arc<Scratch> {
        match conv.kept_as {
            Some(place) => self.packed.get(place, packing, pack),
            None => Arc::new(pack()),
        }
    }

    fn depthwise(
        &self,
        conv: &Conv<&[f32]>,
        x: FeatureMaps<'_>,
        shape: Shape,
        epilogue: &Epilogue<'_>,
        y: &mut [f32],
    ) {
        let (isa, window) = (self.isa, conv.window);
        let pack = || depthwise::pack(conv.weights, conv.scale, shape.channels, window.kernel);
        let packed = self.packed_for(conv, Packing::Depthwise, pack);
        let x = Blocked::of(x, shape);
        depthwise::convolve(isa, x.maps(), shape, &packed, window, epilogue, y);
    }
}

/// The weights of a convolution of so many channels.
fn weights<'w>(conv: &Conv<&'w [f32]>, in_channels: usize) -> Weights<'w> {
    Weights {
        values: conv.weights,
        out_channels: conv.bias.len(),
        in_channels,
        size: conv.window.kernel,
        scale: conv.scale,
        transposed: false,
    }
}
