//! The 3×3 convolution and the gradient of its weights through Winograd's minimal filtering.
//!
//! `points` has the transforms in one dimension, `tiling` cuts maps into tiles, `transform` takes tiles to points and
//! back, a `chunk` of them at a time, and `pack` does so with weights. `forward` and `weight_gradient` put these
//! together.

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
