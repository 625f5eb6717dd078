//! ResNet as a table.
//!
//! Source: He et al. 2016, "Deep Residual Learning for Image Recognition", table 1; as torchvision and timm build it,
//! the stride of a bottleneck is at its 3×3 convolution (ResNet 1.5). Their names are the same.

use super::layer::{Activation, Conv, Layer, Padding, Residual};
use super::pretrained::{self, Pretrained, Top1};
use super::{Arch, BlockTable, Top};
use crate::data::{Preprocess, Resize};

/// Name, layers of each block, whether blocks are bottlenecks, the hub's weights and how well they do.
type Variant = (&'static str, [usize; 4], bool, &'static str, Option<Top1>);

#[rustfmt::skip]
const VARIANTS: [Variant; 4] = [
    ("resnet18", [2, 2, 2, 2], false, "resnet18.tv_in1k", Some(Top1::new(69.76, 224))),
    ("resnet34", [3, 4, 6, 3], false, "resnet34.tv_in1k", None),
    ("resnet50", [3, 4, 6, 3], true, "resnet50.a1_in1k", Some(Top1::new(81.214, 288))),
    ("resnet101", [3, 4, 23, 3], true, "resnet101.a1_in1k", Some(Top1::new(82.322, 288))),
];

/// Channels of each block; a bottleneck gives four times as many.
const CHANNELS: [usize; 4] = [64, 128, 256, 512];

const EPSILON: f64 = 1e-5;

/// Every variant.
pub(super) fn all() -> Vec<Arch> {
    VARIANTS.into_iter().map(table).collect()
}

fn table((name, depths, bottleneck, id, top1): Variant) -> Arch {
    let mut blocks = vec![stem()];
    let mut inputs = CHANNELS[0];
    for (index, (depth, channels)) in depths.into_iter().zip(CHANNELS).enumerate() {
        let block = format!("layer{}", index + 1);
        let mut layers = Vec::new();
        for place in 0..depth {
            let stride = if place == 0 && index > 0 { 2 } else { 1 };
            let prefix = format!("{block}.{place}");
            let body = if bottleneck {
                bottleneck_body(&prefix, inputs, channels, stride)
            } else {
                basic_body(&prefix, inputs, channels, stride)
            };
            let outputs = if bottleneck { 4 * channels } else { channels };
            layers.push(residual(prefix, body, inputs, outputs, stride));
            inputs = outputs;
        }
        blocks.push(BlockTable::new(block, layers));
    }
    let top = Top::linear("fc", Some("fc"));
    Arch::new(name, blocks)
        .top(top)
        .pretrained(weights(id, top1))
}

/// torchvision's weights are bilinear at 224; timm's own recipe ("a1") resizes bicubically.
fn weights(id: &'static str, top1: Option<Top1>) -> Pretrained {
    let ours = id.ends_with("a1_in1k");
    Pretrained {
        id,
        revision: "main",
        preprocess: Preprocess::Torch,
        size: 224,
        resize: if ours {
            Resize::Bicubic
        } else {
            Resize::Bilinear
        },
        top1,
        licence: if ours {
            pretrained::APACHE
        } else {
            pretrained::BSD
        },
    }
}

fn stem() -> BlockTable {
    let conv = Conv::new("conv1", 3, CHANNELS[0], 7)
        .stride(2)
        .norm("bn1", EPSILON)
        .activation(Activation::Relu);
    let pool = Layer::MaxPool {
        name: "maxpool".into(),
        kernel: 3,
        stride: 2,
        padding: 1,
    };
    BlockTable::new("stem", vec![Layer::Conv(conv), pool])
}

fn basic_body(prefix: &str, inputs: usize, channels: usize, stride: usize) -> Vec<Layer> {
    vec![
        conv(prefix, 1, inputs, channels, 3, stride, Activation::Relu),
        conv(prefix, 2, channels, channels, 3, 1, Activation::Identity),
    ]
}

fn bottleneck_body(prefix: &str, inputs: usize, channels: usize, stride: usize) -> Vec<Layer> {
    let wide = 4 * channels;
    vec![
        conv(prefix, 1, inputs, channels, 1, 1, Activation::Relu),
        conv(prefix, 2, channels, channels, 3, stride, Activation::Relu),
        conv(prefix, 3, channels, wide, 1, 1, Activation::Identity),
    ]
}

/// The `number`-th convolution of a body with its batch norm.
fn conv(
    prefix: &str,
    number: usize,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    activation: Activation,
) -> Layer {
    Layer::Conv(
        Conv::new(format!("{prefix}.conv{number}"), inputs, outputs, kernel)
            .stride(stride)
            .norm(format!("{prefix}.bn{number}"), EPSILON)
            .activation(activation),
    )
}

fn residual(name: String, body: Vec<Layer>, inputs: usize, outputs: usize, stride: usize) -> Layer {
    let changes = stride != 1 || inputs != outputs;
    let shortcut = changes.then(|| {
        Conv::new(format!("{name}.downsample.0"), inputs, outputs, 1)
            .stride(stride)
            .padding(Padding::Zeros(0))
            .norm(format!("{name}.downsample.1"), EPSILON)
    });
    Layer::Residual(Residual {
        name,
        body,
        shortcut,
        activation: Activation::Relu,
    })
}
