//! The base as classifiers and trainers see it.

use std::ops::Range;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use serde_json::Value;

use super::ConvBase;
use crate::bounds;
use crate::data::{Preprocess, Resize};
use crate::error::{Error, Result};
use crate::kernels::{self, Isa};
use crate::model::arch::Arch;
use crate::model::arch::layer::{Conv, Layer};
use crate::model::backbone::{
    Backbone, BlockInfo, BlockParameter, GradientListener, LayerInfo, Mode, SavedBackbone,
};
use crate::model::weights::ConvTensors;

impl Backbone for ConvBase {
    fn architecture(&self) -> String {
        self.arch.name().to_owned()
    }

    fn forward_blocks(&self, input: &Tensor, blocks: Range<usize>, mode: Mode) -> Result<Tensor> {
        self.run(input, blocks, mode)
    }

    fn output_shape(&self, height: usize, width: usize) -> Result<[usize; 3]> {
        bounds::input_size(height, width)?;
        self.arch.output([3, height, width]).ok_or_else(|| {
            let side = self.arch.smallest_side(0);
            let allowed = format!("{side}×{side} or more for {}", self.arch);
            Error::option("input_size", format!("{height}×{width}"), allowed)
        })
    }

    fn blocks(&self) -> Vec<BlockInfo> {
        let blocks = self.arch.blocks().iter().enumerate();
        let info = blocks.map(|(index, block)| BlockInfo {
            name: block.name.clone(),
            trainable: self.block_is_trainable(index),
        });
        info.collect()
    }

    fn set_trainable(&mut self, block: usize, trainable: bool) -> Result<()> {
        let count = self.arch.blocks().len();
        if block >= count {
            let allowed = format!("0 to {}", count - 1);
            return Err(Error::option("block", block, allowed));
        }
        for conv in self.convs.iter_mut().filter(|conv| conv.block == block) {
            conv.set_trainable(trainable)?;
        }
        self.packed = Arc::default();
        Ok(())
    }

    fn parameters(&self) -> Vec<BlockParameter> {
        self.convs
            .iter()
            .flat_map(|conv| conv.parameters())
            .collect()
    }

    fn backward(&self, loss: &Tensor, recycled: &mut Vec<Tensor>) -> Result<GradStore> {
        Ok(kernels::backward(loss, recycled)?)
    }

    fn backward_announced(
        &self,
        loss: &Tensor,
        recycled: &mut Vec<Tensor>,
        listener: GradientListener,
    ) -> Result<GradStore> {
        kernels::listening(listener, || self.backward(loss, recycled))
    }

    fn numerics(&self) -> String {
        format!("{:?}", Isa::chosen())
    }

    fn layers(&self, height: usize, width: usize) -> Result<Vec<LayerInfo>> {
        self.output_shape(height, width)?;
        let mut infos = Vec::new();
        let mut shape = [3, height, width];
        for (index, block) in self.arch.blocks().iter().enumerate() {
            let trainable = self.block_is_trainable(index);
            for layer in &block.layers {
                shape = describe(layer, shape, trainable, &mut infos);
            }
        }
        Ok(infos)
    }

    fn device(&self) -> Device {
        self.convs[0].weight().device().clone()
    }

    fn preprocess(&self) -> Preprocess {
        self.preprocess
    }

    fn input_size(&self) -> (usize, usize) {
        self.arch.input_size()
    }

    fn resize(&self) -> Resize {
        self.arch.resize()
    }

    fn saved_as(&self) -> Option<Result<(&'static str, Value)>> {
        Some(self.describe().map(|description| (Self::KIND, description)))
    }
}

impl ConvBase {
    fn block_is_trainable(&self, block: usize) -> bool {
        let mut convs = self.convs.iter().filter(|conv| conv.block == block);
        convs.all(|conv| conv.is_trainable())
    }
}

impl SavedBackbone for ConvBase {
    const KIND: &'static str = "conv_base";

    /// A file names the table and does not hold it: one that is not found by its name is refused.
    fn describe(&self) -> Result<Value> {
        let name = self.arch.name();
        if name.parse::<Arch>().is_ok_and(|arch| arch == *self.arch) {
            return Ok(Value::String(name.to_owned()));
        }
        let allowed = "one of this crate's to be saved in a classifier: ConvBase::save writes a base's weights alone";
        Err(Error::option(
            "arch",
            format!("`{name}`, a table of your own"),
            allowed,
        ))
    }

    fn restore(
        description: &Value,
        tensor: &mut dyn FnMut(&str, &[usize]) -> Result<Tensor>,
        preprocess: Preprocess,
        _device: &Device,
    ) -> Result<Self> {
        let name = description.as_str().unwrap_or_default();
        let arch: Arch = name.parse()?;
        let tensors = arch
            .convs()
            .map(|(_, conv)| ConvTensors::named(conv, &mut *tensor))
            .collect::<Result<_>>()?;
        Ok(Self::from_tensors(arch, tensors, preprocess))
    }
}

/// Adds a layer's lines for an input of this shape, which it takes, and returns its output's.
fn describe(
    layer: &Layer,
    input: [usize; 3],
    trainable: bool,
    infos: &mut Vec<LayerInfo>,
) -> [usize; 3] {
    let output = layer.output(input).unwrap_or(input);
    let plain = |name: &str, kind| LayerInfo {
        name: name.to_owned(),
        kind,
        output: output.to_vec(),
        parameters: 0,
        trainable,
    };
    match layer {
        Layer::Conv(conv) => describe_conv(conv, output, trainable, infos),
        Layer::MaxPool { name, .. } => infos.push(plain(name, "MaxPooling2D")),
        Layer::AveragePool { name, .. } => infos.push(plain(name, "AveragePooling2D")),
        Layer::SqueezeExcite(squeeze) => {
            for conv in [&squeeze.reduce, &squeeze.expand] {
                describe_conv(conv, [conv.outputs, 1, 1], trainable, infos);
            }
        }
        Layer::Residual(residual) => {
            let body = residual.body.iter();
            body.fold(input, |shape, layer| {
                describe(layer, shape, trainable, infos)
            });
            if let Some(conv) = &residual.shortcut {
                describe_conv(conv, output, trainable, infos);
            }
            infos.push(plain(&residual.name, "Add"));
        }
    }
    output
}

fn describe_conv(conv: &Conv, output: [usize; 3], trainable: bool, infos: &mut Vec<LayerInfo>) {
    let depthwise = conv.groups > 1 && conv.groups == conv.inputs;
    let norm = conv
        .norm
        .as_ref()
        .map(|norm| (&norm.name, 2 * conv.outputs));
    let own = conv.parameters() - norm.map_or(0, |(_, parameters)| parameters);
    let kind = if depthwise {
        "DepthwiseConv2D"
    } else {
        "Conv2D"
    };
    let lines = [(&conv.name, kind, own)].into_iter();
    let norm = norm.map(|(name, parameters)| (name, "BatchNormalization", parameters));
    infos.extend(lines.chain(norm).map(|(name, kind, parameters)| LayerInfo {
        name: name.clone(),
        kind,
        output: output.to_vec(),
        parameters,
        trainable,
    }));
}
