//! Networks of convolutions and what stands between them on the CPU, forward and backward.
//!
//! Feature maps lie in blocks of sixteen channels, (N, C/16, H, W, 16). A 3×3 convolution goes through Winograd's
//! F(6×6, 3×3), F(4×4, 3×3) or F(2×2, 3×3), with stride 2 through tiles of its own, or as all others directly,
//! whichever the cost model estimates to be fastest; all end in one register-blocked microkernel. The instructions
//! (AVX-512, AVX2 with FMA, NEON, or plain Rust) are chosen when first needed; no compiler flags are. Threads are those
//! of rayon's current pool, which stay awake while a network runs (`team`), and results do not depend on how many there
//! are.
//!
//! From what is called to what it is made of: `network` runs nodes without a graph and `candle` with one; `method`
//! chooses how a convolution goes, `winograd` or `direct`, and `epilogue` says what becomes of the sums; `weights` are
//! packed for the microkernel of `gemm`, which is written in the lanes of `simd`, and `blocking` says what fits which
//! cache. README.md has a glossary, a drawing, and how to add a method or an instruction set.
//!
//! The environment variable `HEADSTART_KERNELS` chooses otherwise, read once, in `isa`: `portable`, `avx2`, `avx512` or
//! `neon`, where the processor has it, or `candle` for candle's own operations.
#![allow(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks)]
// Small fixed arrays of registers are walked by index on purpose: two arrays, transposed, at a time.
#![allow(clippy::needless_range_loop)]

mod activation;
mod blocking;
mod candle;
mod convolution_gradient;
mod dense_gradient;
mod depthwise;
mod direct;
mod elementwise;
mod epilogue;
mod expanded;
mod gathered;
mod gemm;
mod isa;
mod method;
mod network;
mod node;
mod padded;
mod parallel;
mod plan;
mod pool;
pub(crate) mod reference;
mod scratch;
mod shape;
mod simd;
mod squeeze;
mod steps;
mod strip;
mod team;
mod weight_only;
mod weights;
mod window;
mod winograd;

pub use activation::Activation;
pub(crate) use candle::{Input, backward, dense, listening, run_with_graph, values, with_numbers};
pub(crate) use isa::{Isa, SWITCH, vectorize};
pub(crate) use network::{PackedWeights, run};
pub(crate) use node::{Conv, Node, Operation, Value};
pub(crate) use shape::Shape;
pub(crate) use squeeze::Dense;
pub(crate) use window::{Padding, Window};
#[cfg(test)]
mod tests;
