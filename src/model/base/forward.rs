//! A table at work: which of its layers the CPU kernels take together, and how the others run.

use std::ops::Range;

use candle_core::{DType, Device, DeviceLocation, Tensor};

use super::ConvBase;
use super::conv::ConvLayer;
use super::network;
use crate::error::{Error, Result};
use crate::kernels::{self, Input, Isa, Node, Shape, reference, values};
use crate::model::arch::layer::{Layer, Residual};
use crate::model::backbone::Mode;

/// How many pictures the kernels' methods are chosen for while training, whatever the batch: what frozen blocks make of
/// a picture then does not depend, to the last bit, on the batch it lands in. Large batches are what it suits.
const TRAINING_BATCH: usize = 64;

impl ConvBase {
    /// Runs some of the blocks. A frozen block before the first trainable one has no graph, because neither its
    /// input nor its tensors have one: nothing of it is kept.
    pub(super) fn run(&self, input: &Tensor, blocks: Range<usize>, mode: Mode) -> Result<Tensor> {
        self.check_input(input, &blocks)?;
        let first = self
            .convs
            .iter()
            .take_while(|conv| conv.block < blocks.start);
        let mut pass = Pass {
            base: self,
            mode,
            isa: kernels_for(input)?,
            next: first.count(),
        };
        let blocks = &self.arch.blocks()[blocks];
        let layers: Vec<_> = blocks.iter().flat_map(|block| &block.layers).collect();
        pass.sequence(&layers, input.clone())
    }

    fn check_input(&self, input: &Tensor, blocks: &Range<usize>) -> Result<()> {
        let all = self.arch.blocks();
        if blocks.start > blocks.end || blocks.end > all.len() {
            let allowed = format!("a range within 0..{}", all.len());
            return Err(Error::option("blocks", format!("{blocks:?}"), allowed));
        }
        if blocks.is_empty() {
            return Ok(());
        }
        let what = match blocks.start {
            0 => "images".to_owned(),
            start => format!("features of {}", all[start - 1].name),
        };
        let own = self.convs[0].weight().device();
        if !input.device().same_device(own) {
            return Err(elsewhere(what, input.device(), own));
        }
        let channels = self.arch.inputs(blocks.start);
        let layers = all[blocks.start..].iter().flat_map(|block| &block.layers);
        if let [_, c, h, w] = *input.dims()
            && c == channels
            && crate::model::arch::layer::output(layers, [c, h, w]).is_some()
        {
            return Ok(());
        }
        let side = self.arch.smallest_side(blocks.start);
        Err(Error::Shape {
            what,
            expected: format!("(N, {channels}, H, W) with H and W at least {side}"),
            found: input.dims().to_vec(),
        })
    }
}

/// The error of input on another device than the base.
fn elsewhere(what: String, found: &Device, own: &Device) -> Error {
    let name = |device: &Device| match device.location() {
        DeviceLocation::Cpu => "the CPU".to_owned(),
        DeviceLocation::Cuda { gpu_id } => format!("CUDA device {gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("Metal device {gpu_id}"),
    };
    let (found, own) = (name(found), name(own));
    let expected = match found == own {
        true => format!("the `Device` of the base, or a clone of it: {own} was opened twice"),
        false => format!("{own}, where the base is"),
    };
    Error::mismatch(what, format!("a tensor on {found}"), expected)
}

/// The CPU kernels for this input; none on other devices, for other number types, or where they are switched off.
fn kernels_for(input: &Tensor) -> Result<Option<Isa>> {
    let ours = input.device().is_cpu() && input.dtype() == DType::F32;
    if !ours {
        return Ok(None);
    }
    Isa::chosen()
        .map_err(|unknown| Error::option(kernels::SWITCH, &unknown.found, unknown.allowed()))
}

/// A way through the table's layers.
struct Pass<'a> {
    base: &'a ConvBase,
    mode: Mode,
    isa: Option<Isa>,
    /// The next convolution's place among the base's.
    next: usize,
}

impl Pass<'_> {
    /// Runs layers one after the other: those that the CPU kernels take together as one network, the others as candle's
    /// operations.
    fn sequence(&mut self, layers: &[&Layer], mut x: Tensor) -> Result<Tensor> {
        let mut rest = layers;
        while let Some((layer, after)) = rest.split_first() {
            let suited = rest
                .iter()
                .take_while(|layer| network::suits(layer))
                .count();
            match self.isa {
                Some(isa) if suited > 0 => {
                    x = self.network(isa, &rest[..suited], x)?;
                    rest = &rest[suited..];
                }
                _ => {
                    x = self.layer(layer, &x)?;
                    rest = after;
                }
            }
        }
        Ok(x)
    }

    /// Runs layers on the CPU kernels: the leading ones that need no graph so that nothing is kept, the others as one
    /// operation with a graph.
    fn network(&mut self, isa: Isa, layers: &[&Layer], x: Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        let shape = Shape {
            batch,
            channels,
            height,
            width,
        };
        let (frozen, open) = layers.split_at(self.without_graph(layers, &x));
        if frozen.is_empty() {
            return self.with_graph(isa, open, Input::Planar(x), shape);
        }
        let (blocked, shape) = self.frozen(isa, frozen, &x, shape)?;
        if !open.is_empty() {
            return self.with_graph(isa, open, Input::Blocked(blocked), shape);
        }
        let mut planar = vec![0.0; shape.planar_len()];
        shape.to_planar(&blocked, &mut planar);
        Ok(Tensor::from_vec(planar, &shape.dims(), &Device::Cpu)?)
    }

    /// How many leading layers need no graph.
    fn without_graph(&self, layers: &[&Layer], input: &Tensor) -> usize {
        if input.track_op() {
            return 0;
        }
        let mut place = self.next;
        let frozen = layers.iter().take_while(|layer| {
            let count = layer.convs().len();
            let convs = &self.base.convs[place..place + count];
            place += count;
            self.mode == Mode::Infer || !convs.iter().any(ConvLayer::tracks)
        });
        frozen.count()
    }

    /// Runs layers without a graph, over maps of this shape.
    fn frozen(
        &mut self,
        isa: Isa,
        layers: &[&Layer],
        x: &Tensor,
        shape: Shape,
    ) -> Result<(Vec<f32>, Shape)> {
        let nodes = self.nodes(layers, shape)?;
        let methods_for = match self.mode {
            Mode::Infer => shape.batch,
            Mode::Train => TRAINING_BATCH,
        };
        let x = x.contiguous()?;
        let planar = values(&x);
        let packed = &self.base.packed;
        Ok(kernels::with_numbers(&nodes, |nodes| {
            let planar = planar.slice()?;
            Ok(kernels::run(isa, nodes, packed, planar, shape, methods_for))
        })?)
    }

    /// Runs layers as one operation with a graph.
    fn with_graph(
        &mut self,
        isa: Isa,
        layers: &[&Layer],
        input: Input,
        shape: Shape,
    ) -> Result<Tensor> {
        let nodes = self.nodes(layers, shape)?;
        Ok(kernels::run_with_graph(isa, &nodes, input, shape)?)
    }

    /// The nodes of the next layers, which read maps of this shape.
    fn nodes(&mut self, layers: &[&Layer], shape: Shape) -> Result<Vec<Node<Tensor>>> {
        let first = self.next;
        let count: usize = layers.iter().map(|layer| layer.convs().len()).sum();
        self.next += count;
        let convs = &self.base.convs[first..self.next];
        let folded = convs.iter().map(|conv| conv.folded(self.mode));
        let folded = folded.collect::<Result<Vec<_>>>()?;
        let input = [shape.channels, shape.height, shape.width];
        network::nodes(layers, convs, first, &folded, input)
    }

    fn layer(&mut self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        match layer {
            Layer::Conv(_) => self.conv(x),
            Layer::MaxPool {
                kernel,
                stride,
                padding,
                ..
            } => Ok(reference::max_pool(x, *kernel, *stride, *padding)?),
            Layer::AveragePool { kernel, stride, .. } => {
                Ok(reference::average_pool(x, *kernel, *stride)?)
            }
            Layer::SqueezeExcite(_) => {
                let means = x.mean_keepdim((2, 3))?;
                let reduced = self.conv(&means)?;
                let gate = self.conv(&reduced)?;
                Ok(x.broadcast_mul(&gate)?)
            }
            Layer::Residual(residual) => self.residual(residual, x),
        }
    }

    fn residual(&mut self, residual: &Residual, x: &Tensor) -> Result<Tensor> {
        let body: Vec<_> = residual.body.iter().collect();
        let output = self.sequence(&body, x.clone())?;
        let sum = match &residual.shortcut {
            Some(_) => (output + self.conv(x)?)?,
            None => (output + x)?,
        };
        Ok(reference::activation(&sum, residual.activation)?)
    }

    /// The next convolution with its bias and activation.
    fn conv(&mut self, x: &Tensor) -> Result<Tensor> {
        let conv = &self.base.convs[self.next];
        self.next += 1;
        let folded = conv.folded(self.mode)?;
        let table = &conv.table;
        let (_, _, height, width) = x.dims4()?;
        let window = network::window(table, height, width);
        let sums = reference::convolution(x, &folded.weight()?, window, table.groups)?;
        Ok(reference::bias_activation(
            &sums,
            &folded.bias,
            table.activation,
        )?)
    }
}
