//! A run of layers without a graph: in as a tensor, through every layer in the kernels' layout, out as a tensor.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::conv::{Isa, Method, pad_bias};
use super::layout::Maps;
use super::scratch::Scratch;
use super::winograd::{Epilogue, Filters};

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
type Weights = Arc<Vec<f32>>;

/// Weights of frozen layers as the methods want them, made when first needed and kept.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    kept: Mutex<HashMap<(usize, Method), Weights>>,
}

impl Prepared {
    fn get(&self, layer: usize, method: Method, make: impl FnOnce() -> Vec<f32>) -> Weights {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entry((layer, method))
            .or_insert_with(|| Arc::new(make()))
            .clone()
    }
}

/// Runs layers over pictures (N, C, H, W) and returns blocked maps. Nothing in between is kept.
///
/// Methods are chosen as for `batch` pictures: they differ by rounding, so that a picture's maps depend on `batch`
/// and not on how many pictures come with it.
pub(crate) fn run(
    isa: Isa,
    layers: &[Layer<'_>],
    prepared: &Prepared,
    planar: &[f32],
    mut maps: Maps,
    batch: usize,
) -> (Vec<f32>, Maps) {
    let mut current: Option<Scratch> = None;
    let mut last = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let out_channels = layer.bias.len();
        let method = match &current {
            None if maps.suits_planes() => Method::DirectPlanar,
            _ => {
                let planned = Maps {
                    pictures: batch,
                    ..maps
                };
                Method::for_maps(planned, out_channels)
            }
        };
        if current.is_none() && method != Method::DirectPlanar {
            let mut blocked = Scratch::new(maps.len());
            maps.to_blocked(planar, &mut blocked);
            current = Some(blocked);
        }
        let filters = Filters {
            weights: layer.weights,
            out_channels,
            in_channels: maps.channels,
            transposed: false,
        };
        let make = || method.prepare(isa, &filters);
        let weights = match layer.kept_as {
            Some(place) => prepared.get(place, method, make),
            None => Arc::new(make()),
        };
        let bias = pad_bias(layer.bias);
        let epilogue = Epilogue {
            bias: Some(&bias),
            relu: true,
            pool: layer.pool,
            gate: None,
        };
        let whole = maps.with_channels(out_channels);
        let output = if layer.pool { whole.pooled() } else { whole };
        let x = current.as_deref().unwrap_or(planar);
        if index + 1 == layers.len() {
            last = vec![0.0; output.len()];
            method.convolve(isa, x, maps, &weights, out_channels, &epilogue, &mut last);
        } else {
            let mut next = Scratch::new(output.len());
            method.convolve(isa, x, maps, &weights, out_channels, &epilogue, &mut next);
            current = Some(next);
        }
        maps = output;
    }
    (last, maps)
}
