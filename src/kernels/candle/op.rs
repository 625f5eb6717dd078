//! A network with a graph: one candle operation for all of them, whose backward pass computes the gradients of
//! every weight and bias, and that of the input if it has a graph.
//!
//! candle adds each operation's gradient to a tensor of zeros, and its custom operations have at most three
//! arguments. So that feature maps and their gradients never pass through that, the run is one operation that keeps
//! them in the kernels' layout. What ties it to the parameters is a chain of one-number tokens:
//!
//! ```text
//! zeros ─► ParameterOp ─► ParameterOp ─► … ─► NetworkOp ─► maps
//!               ▲              ▲                  ▲
//!           weight           bias               input
//! ```
//!
//! Going back, candle reaches the run first, which computes all gradients; each link of the chain then hands out its
//! own.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Tensor};

use super::super::isa::Isa;
use super::super::node::Node;
use super::super::shape::{FeatureMaps, Shape};
use super::backward::divert;
use super::run::{Place, Run};
use super::values::values;

/// What goes into the first node.
pub(crate) enum Input {
    /// A tensor (N, C, H, W). If it tracks a graph, it takes a gradient.
    Planar(Tensor),
    /// Feature maps in the kernels' layout. They take none.
    Blocked(Vec<f32>),
}

/// Runs nodes over `input`, of this shape, and returns maps (N, C, h, w) whose graph reaches their weights and biases
/// and the input.
///
/// # Errors
/// If there is no node, a planar input has another shape, or a tensor is not of f32 on the CPU.
pub(crate) fn run_with_graph(
    isa: Isa,
    nodes: &[Node<Tensor>],
    input: Input,
    shape: Shape,
) -> Result<Tensor> {
    if nodes.is_empty() {
        candle_core::bail!("a run needs a node")
    }
    let input_wanted = matches!(&input, Input::Planar(planar) if planar.track_op());
    let run = Arc::new(Run::new(isa, nodes, shape, input_wanted));
    let mut token = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
    for (place, parameter) in run.open() {
        let link = ParameterOp {
            run: run.clone(),
            place,
        };
        token = parameter.apply_op2(&token, link)?;
    }
    match input {
        Input::Planar(planar) if planar.dims() != shape.dims() => {
            candle_core::bail!("maps {:?} for {shape:?}", planar.dims())
        }
        Input::Planar(planar) => token.apply_op2(&planar.contiguous()?, NetworkOp(run)),
        Input::Blocked(blocked) => token.apply_op1(BlockedNetworkOp { run, blocked }),
    }
}

/// A run over blocked maps, as candle sees it.
struct BlockedNetworkOp {
    run: Arc<Run>,
    blocked: Vec<f32>,
}

impl CustomOp1 for BlockedNetworkOp {
    fn name(&self) -> &'static str {
        "network"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, candle_core::Shape)> {
        self.run.forward(FeatureMaps::Blocked(&self.blocked))
    }

    fn bwd(&self, token: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        let input = FeatureMaps::Blocked(&self.blocked);
        self.run.backward(input, values(&gradient).slice()?)?;
        Ok(Some(token.zeros_like()?))
    }
}

/// A run over a planar tensor, as candle sees it.
struct NetworkOp(Arc<Run>);

impl CustomOp2 for NetworkOp {
    fn name(&self) -> &'static str {
        "network"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        input: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("the maps are contiguous")
        };
        let planar = &input.as_slice()?[start..end];
        self.0.forward(FeatureMaps::Planar(planar))
    }

    fn bwd(
        &self,
        token: &Tensor,
        input: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let planar = values(input);
        let maps = FeatureMaps::Planar(planar.slice()?);
        let dx = self.0.backward(maps, values(&gradient).slice()?)?;
        let dx = dx.map(|dx| Tensor::from_vec(dx, input.shape(), &Device::Cpu));
        let dx = dx.transpose()?.and_then(|dx| divert(input, dx));
        Ok((Some(token.zeros_like()?), dx))
    }
}

/// A weight, bias or scale in the chain.
struct ParameterOp {
    run: Arc<Run>,
    place: Place,
}

impl CustomOp2 for ParameterOp {
    fn name(&self) -> &'static str {
        "convolution-parameter"
    }

    /// Makes the next token.
    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), 1.into()))
    }

    /// Hands out the parameter's gradient, unless it goes around candle.
    fn bwd(
        &self,
        parameter: &Tensor,
        token: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = self.run.take_gradient(self.place);
        let gradient = gradient.and_then(|gradient| divert(parameter, gradient));
        Ok((gradient, Some(token.zeros_like()?)))
    }
}
