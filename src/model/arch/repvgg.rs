//! RepVGG as a table of its fused form: plain 3×3 convolutions.
//!
//! Source: Ding et al. 2021, "RepVGG: Making VGG-style ConvNets Great Again", table 2. Files hold each convolution as
//! three branches (3×3, 1×1, identity, each with a batch norm), which are added up while loading (section 3.3), or
//! fused under timm's name for that, `reparam_conv`. Training works on the fused convolutions.

use super::layer::{Activation, Conv, Layer};
use super::pretrained::{self, Pretrained, Top1};
use super::{Arch, BlockTable, Top};
use crate::data::{Preprocess, Resize};

/// Name, layers of each block, width of the first three blocks and of the last, the hub's weights and how well they do.
type Variant = (
    &'static str,
    [usize; 4],
    [f64; 2],
    &'static str,
    Option<Top1>,
);

#[rustfmt::skip]
const VARIANTS: [Variant; 4] = [
    ("repvgg_a0", [2, 4, 14, 1], [0.75, 2.5], "repvgg_a0.rvgg_in1k", None),
    ("repvgg_a1", [2, 4, 14, 1], [1.0, 2.5], "repvgg_a1.rvgg_in1k", None),
    ("repvgg_a2", [2, 4, 14, 1], [1.5, 2.75], "repvgg_a2.rvgg_in1k", Some(Top1::new(76.458, 224))),
    ("repvgg_b0", [4, 6, 16, 1], [1.0, 2.5], "repvgg_b0.rvgg_in1k", Some(Top1::new(75.142, 224))),
];

/// Channels of each block at width 1.
const CHANNELS: [usize; 4] = [64, 128, 256, 512];

/// The widest stem.
const STEM: usize = 64;

/// The batch norms' epsilon in the branches.
pub(crate) const BRANCH_EPSILON: f64 = 1e-5;

/// Every variant.
pub(super) fn all() -> Vec<Arch> {
    VARIANTS.into_iter().map(table).collect()
}

fn table((name, depths, [width, last], id, top1): Variant) -> Arch {
    let stem = STEM.min((CHANNELS[0] as f64 * width) as usize);
    let mut blocks = vec![BlockTable::new("stem", vec![conv("stem", 3, stem, 2)])];
    let mut inputs = stem;
    for (index, (depth, channels)) in depths.into_iter().zip(CHANNELS).enumerate() {
        let width = if index == 3 { last } else { width };
        let outputs = (channels as f64 * width) as usize;
        let block = format!("stages.{index}");
        let mut layers = Vec::new();
        for place in 0..depth {
            let stride = if place == 0 { 2 } else { 1 };
            layers.push(conv(&format!("{block}.{place}"), inputs, outputs, stride));
            inputs = outputs;
        }
        blocks.push(BlockTable::new(block, layers));
    }
    let top = Top::linear("head.fc", None);
    Arch::new(name, blocks).top(top).pretrained(Pretrained {
        id,
        revision: "main",
        preprocess: Preprocess::Torch,
        size: 224,
        resize: Resize::Bilinear,
        top1,
        licence: pretrained::MIT,
    })
}

fn conv(prefix: &str, inputs: usize, outputs: usize, stride: usize) -> Layer {
    let conv = Conv::new(format!("{prefix}.reparam_conv"), inputs, outputs, 3);
    Layer::Conv(Conv {
        branches: Some(prefix.to_owned()),
        ..conv.stride(stride).activation(Activation::Relu)
    })
}
