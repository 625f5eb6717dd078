//! Convolutions and the gradients of their weights through Winograd's minimal filtering.
//!
//! `tiling` cuts maps into tiles, which are taken to points and back, a `chunk` of them at a time, and `pack` does so
//! with weights; `forward` and `weight_gradient` put these together. How that is done is a `filtering`, of which there
//! are four: `transform` for 3×3 with stride 1, `strided` for 3×3 with stride 2, `strided_back` for the gradient of its
//! input, and `space_to_depth` for 7×7 with stride 2. `points` and `paired_points` have their transforms in one
//! dimension; a `patch` is what a tile is made of, and `outputs` what becomes of it.

mod chunk;
mod filtering;
mod forward;
mod outputs;
mod pack;
mod paired_points;
mod paired_tiles;
mod patch;
mod points;
pub(crate) mod space_to_depth;
mod strided;
pub(crate) mod strided_back;
mod tiling;
mod transform;
mod weight_gradient;

pub(crate) use forward::convolve;
pub(crate) use pack::{pack, packed_len};
pub(crate) use points::{F2, F4, F6};
pub(crate) use space_to_depth::SpaceToDepth;
pub(crate) use strided::Strided;
pub(crate) use tiling::Tiling;
pub(crate) use weight_gradient::parameter_gradients;
