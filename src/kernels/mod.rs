//! The CPU 3×3 convolution and pooling, forward and backward.
//!
//! Feature maps lie in blocks of sixteen channels, (N, C/16, H, W, 16). A convolution goes through Winograd's
//! F(6×6, 3×3), F(4×4, 3×3) or F(2×2, 3×3), or directly, whichever a model of the time takes for the cheapest; all end in
//! one register-blocked product. The instructions (AVX-512, AVX2 with FMA, NEON, or plain Rust) are chosen when first
//! needed; no compiler flags are. Threads are those of rayon's current pool, and results do not depend on how many
//! there are.
//!
//! From what is called to what it is made of: `stack` runs frozen layers and `training` open ones; `conv` chooses
//! a method, `winograd` or `direct`, and `epilogue` says what becomes of the sums; `tiling` cuts maps into tiles,
//! `transform` takes them to points and back by `tile`'s arithmetic, a `chunk` of them at a time, `filters` does so with
//! weights, and `gemm` multiplies; `gradient` does all that for the gradients of weights.
//!
//! The environment variable `HEADSTART_KERNELS` chooses otherwise, read once: `portable`, `avx2`, `avx512` or
//! `neon` (passed over where the processor has it not), or `candle` for candle's own operations.
#![allow(unsafe_code)]
// Small fixed arrays of registers are walked by index on purpose: two arrays, transposed, at a time.
#![allow(clippy::needless_range_loop)]

mod chunk;
mod conv;
mod direct;
mod epilogue;
mod filters;
mod gemm;
mod gradient;
mod layout;
mod parallel;
mod pool;
mod scratch;
mod simd;
mod stack;
mod tile;
mod tiling;
mod training;
mod transform;
mod values;
mod winograd;

pub(crate) use conv::Isa;
pub(crate) use layout::Maps;
pub(crate) use stack::{Layer, Prepared, run};
pub(crate) use training::{Input, OpenLayer, backward, run_open};
pub(crate) use values::values;
#[cfg(test)]
mod tests;
