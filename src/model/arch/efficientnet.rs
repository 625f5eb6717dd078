//! EfficientNet and EfficientNet-Lite as tables.
//!
//! Source: Tan & Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", table 1 and
//! section 3.3; Lite leaves squeeze-and-excite out, takes ReLU6, and does not scale its ends. Networks called `tf_` are
//! those with TensorFlow's padding and epsilon, the others PyTorch's.

use super::inverted_residual::{Builder, Row, Squeeze, Style, TorchNames, eights};
use super::layer::Activation;
use super::pretrained::{self, Pretrained, Top1};
use super::{Arch, Top};
use crate::data::{Preprocess, Resize};

/// Repeats, kernel, stride, expansion, channels of each row at scale 1.
const ROWS: [(usize, usize, usize, f64, usize); 7] = [
    (1, 3, 1, 1.0, 16),
    (2, 3, 2, 6.0, 24),
    (2, 5, 2, 6.0, 40),
    (3, 3, 2, 6.0, 80),
    (3, 5, 1, 6.0, 112),
    (4, 5, 2, 6.0, 192),
    (1, 3, 1, 6.0, 320),
];

/// Channels of the first and the last convolution at scale 1.
const ENDS: (usize, usize) = (32, 1280);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// With PyTorch's padding and epsilon.
    Torch,
    /// With TensorFlow's.
    TensorFlow,
    Lite,
}

/// Kind, name, width, depth, the hub's weights, the size they were trained on and how well they do.
type Variant = (Kind, &'static str, f64, f64, &'static str, usize, Top1);

#[rustfmt::skip]
const VARIANTS: [Variant; 9] = [
    (Kind::Torch, "efficientnet_b0", 1.0, 1.0, "efficientnet_b0.ra_in1k", 224, Top1::new(77.694, 224)),
    (Kind::Torch, "efficientnet_b1", 1.0, 1.1, "efficientnet_b1.ft_in1k", 224, Top1::new(78.8, 256)),
    (Kind::Torch, "efficientnet_b2", 1.1, 1.2, "efficientnet_b2.ra_in1k", 256, Top1::new(80.61, 288)),
    (Kind::TensorFlow, "tf_efficientnet_b0", 1.0, 1.0, "tf_efficientnet_b0.in1k", 224, Top1::new(76.532, 224)),
    (Kind::TensorFlow, "tf_efficientnet_b1", 1.0, 1.1, "tf_efficientnet_b1.in1k", 240, Top1::new(78.56, 240)),
    (Kind::TensorFlow, "tf_efficientnet_b2", 1.1, 1.2, "tf_efficientnet_b2.in1k", 260, Top1::new(79.604, 260)),
    (Kind::Lite, "tf_efficientnet_lite0", 1.0, 1.0, "tf_efficientnet_lite0.in1k", 224, Top1::new(74.83, 224)),
    (Kind::Lite, "tf_efficientnet_lite1", 1.0, 1.1, "tf_efficientnet_lite1.in1k", 240, Top1::new(76.644, 240)),
    (Kind::Lite, "tf_efficientnet_lite2", 1.1, 1.2, "tf_efficientnet_lite2.in1k", 260, Top1::new(77.464, 260)),
];

/// Every variant.
pub(super) fn all() -> Vec<Arch> {
    VARIANTS.into_iter().map(table).collect()
}

fn table((kind, name, width, depth, id, size, top1): Variant) -> Arch {
    let lite = kind == Kind::Lite;
    let activation = if lite {
        Activation::Relu6
    } else {
        Activation::Silu
    };
    let scaled = |channels: usize| eights(channels as f64 * width);
    let (first, last) = if lite {
        ENDS
    } else {
        (scaled(ENDS.0), scaled(ENDS.1))
    };
    let mut builder = Builder::new(kind.style(), first, activation);
    for (index, (repeats, kernel, stride, expansion, channels)) in ROWS.into_iter().enumerate() {
        let is_end = index == 0 || index + 1 == ROWS.len();
        builder.block(&[Row {
            repeats: if lite && is_end {
                repeats
            } else {
                (repeats as f64 * depth).ceil() as usize
            },
            kernel,
            stride,
            expansion,
            channels: scaled(channels),
            squeeze: !lite,
            activation,
        }]);
    }
    builder.last("conv_head", ("conv_head", "bn2"), last, activation);
    let top = match kind {
        Kind::Torch => Top::linear("classifier", Some("classifier.1")),
        _ => Top::linear("classifier", None),
    };
    Arch::new(name, builder.blocks)
        .top(top)
        .pretrained(Pretrained {
            id,
            revision: "main",
            preprocess: if lite {
                Preprocess::Half
            } else {
                Preprocess::Torch
            },
            size,
            resize: Resize::Bicubic,
            top1: Some(top1),
            licence: pretrained::APACHE,
        })
}

impl Kind {
    fn style(self) -> Style {
        let tensorflow = self != Self::Torch;
        Style {
            epsilon: if tensorflow { 1e-3 } else { 1e-5 },
            same_padding: tensorflow,
            squeeze: Some(Squeeze {
                of_expanded: false,
                activation: Activation::Silu,
                gate: Activation::Sigmoid,
            }),
            torch_names: if tensorflow {
                TorchNames::None
            } else {
                TorchNames::EfficientNet
            },
        }
    }
}
