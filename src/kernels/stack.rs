//! A run of layers without a graph: in as a tensor, through every layer in the kernels' layout, out as a tensor.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::conv::{Isa, Method};
use super::epilogue::{Epilogue, pad_bias};
use super::filters::Filters;
use super::layout::Maps;
use super::scratch::Scratch;

/// One 3×3 convolution with bias and ReLU, and a 2×2 max-pool if one follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer<'a> {
    /// (out, in, 3, 3)
    pub(crate) weights: &'a [f32],
    /// (out)
    pub(crate) bias: &'a [f32],
    pub(crate) pool: bool,
    /// The layer's place in its base if the weights stay as they are: what is made of them is kept under it.
    pub(crate) kept_as: Option<usize>,
}

/// A layer's weights as a method wants them.
type Weights = Arc<Scratch>;

/// Weights of frozen layers as the methods want them, made when first needed and kept.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    kept: Mutex<HashMap<(usize, Method), Weights>>,
}

impl Prepared {
    fn get(&self, layer: usize, method: Method, make: impl FnOnce() -> Scratch) -> Weights {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entry((layer, method))
            .or_insert_with(|| Arc::new(make()))
            .clone()
    }
}

/// Bytes of a layer's input and output up to which they are taken to stay in the processor's last cache.
const CACHED_BYTES: usize = 28 << 20;

/// Runs layers over pictures (N, C, H, W) and returns blocked maps. Nothing in between is kept.
///
/// Early layers, whose maps are large, take a few pictures at a time, so that a layer finds its input in the cache;
/// the later ones take all of them, so that weights are read once.
///
/// Methods are chosen as for `batch` pictures: they differ by rounding, so that a picture's maps depend on `batch`
/// and not on how many pictures come with it.
pub(crate) fn run(
    isa: Isa,
    layers: &[Layer<'_>],
    prepared: &Prepared,
    planar: &[f32],
    maps: Maps,
    batch: usize,
) -> (Vec<f32>, Maps) {
    let stack = Stack {
        isa,
        layers,
        prepared,
        batch,
    };
    let (early, group) = stack.early(maps);
    let between = stack.output(0..early, maps);
    let result = stack.output(early..layers.len(), between);
    let mut last = vec![0.0; result.len()];
    if early == 0 || group >= maps.pictures {
        stack.run(0..layers.len(), Input::Planar(planar), maps, &mut last);
        return (last, result);
    }
    let mut gathered = Scratch::new(if early == layers.len() {
        0
    } else {
        between.len()
    });
    let halfway = if early == layers.len() {
        &mut last[..]
    } else {
        &mut gathered[..]
    };
    let (per_input, per_output) = (maps.of(1).planar_len(), between.of(1).len());
    for first in (0..maps.pictures).step_by(group) {
        let count = group.min(maps.pictures - first);
        let pictures = &planar[first * per_input..][..count * per_input];
        let to = &mut halfway[first * per_output..][..count * per_output];
        stack.run(0..early, Input::Planar(pictures), maps.of(count), to);
    }
    if early < layers.len() {
        let rest = early..layers.len();
        stack.run(rest, Input::Blocked(&gathered), between, &mut last);
    }
    (last, result)
}

/// What goes into a layer.
#[derive(Clone, Copy)]
enum Input<'a> {
    Planar(&'a [f32]),
    Blocked(&'a [f32]),
}

struct Stack<'a> {
    isa: Isa,
    layers: &'a [Layer<'a>],
    prepared: &'a Prepared,
    /// For how many pictures methods are chosen.
    batch: usize,
}

impl Stack<'_> {
    /// How many leading layers go by groups of pictures, and how many pictures make a group.
    fn early(&self, mut maps: Maps) -> (usize, usize) {
        let mut largest = 0;
        for (index, layer) in self.layers.iter().enumerate() {
            let output = maps.with_channels(layer.bias.len());
            let bytes = 4 * (maps.of(1).len() + output.of(1).len());
            if bytes * maps.pictures <= CACHED_BYTES {
                return (index, (CACHED_BYTES / largest.max(1)).max(1));
            }
            largest = largest.max(bytes);
            maps = if layer.pool { output.pooled() } else { output };
        }
        (self.layers.len(), (CACHED_BYTES / largest.max(1)).max(1))
    }

    /// The shape that layers make of a shape.
    fn output(&self, layers: Range<usize>, maps: Maps) -> Maps {
        self.layers[layers].iter().fold(maps, |maps, layer| {
            let output = maps.with_channels(layer.bias.len());
            if layer.pool { output.pooled() } else { output }
        })
    }

    /// Runs some of the layers into `last`.
    fn run(&self, layers: Range<usize>, input: Input<'_>, mut maps: Maps, last: &mut [f32]) {
        let mut current: Option<Scratch> = None;
        let end = layers.end;
        for index in layers {
            let layer = &self.layers[index];
            let out_channels = layer.bias.len();
            let planar = match input {
                Input::Planar(planar) if current.is_none() => Some(planar),
                _ => None,
            };
            let method = match planar {
                Some(_) if maps.suits_planes() => Method::DirectPlanar,
                _ => Method::for_maps(maps.of(self.batch), out_channels),
            };
            if let (Some(planar), true) = (planar, method != Method::DirectPlanar) {
                let mut blocked = Scratch::new(maps.len());
                maps.to_blocked(planar, &mut blocked);
                current = Some(blocked);
            }
            let x = match (&current, input) {
                (Some(current), _) => current,
                (None, Input::Planar(x) | Input::Blocked(x)) => x,
            };
            let filters = Filters {
                weights: layer.weights,
                out_channels,
                in_channels: maps.channels,
                transposed: false,
            };
            let prepared = layer.kept_as.map(|place| {
                let make = || method.prepare(self.isa, &filters);
                self.prepared.get(place, method, make)
            });
            let prepared = prepared.as_deref().map(|scratch| &**scratch);
            let bias = pad_bias(layer.bias);
            let epilogue = Epilogue {
                bias: Some(&bias),
                relu: true,
                pool: layer.pool,
                gate: None,
            };
            let output = self.output(index..index + 1, maps);
            if index + 1 == end {
                method.convolve(self.isa, x, maps, &filters, prepared, &epilogue, last);
            } else {
                let mut next = Scratch::new(output.len());
                method.convolve(self.isa, x, maps, &filters, prepared, &epilogue, &mut next);
                current = Some(next);
            }
            maps = output;
        }
    }
}
