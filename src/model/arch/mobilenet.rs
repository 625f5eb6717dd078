//! MobileNetV2 and MobileNetV3 as tables.
//!
//! Sources: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 2; Howard et al. 2019,
//! "Searching for MobileNetV3", tables 1 and 2. MobileNetV3's last 1×1 convolution works on the pooled features and
//! belongs to a head, not to the base.

use super::inverted_residual::{Builder, Row, Squeeze, Style, TorchNames};
use super::layer::Activation::{self, HardSigmoid, HardSwish, Relu, Relu6};
use super::pretrained::{self, Pretrained, Top1};
use super::{Arch, Top, TopLayer};
use crate::data::{Preprocess, Resize};

const STEM_V3: usize = 16;

/// The epsilon of timm's networks; torchvision's MobileNetV3 has [`TORCH_EPSILON_V3`].
const EPSILON: f64 = 1e-5;

/// The epsilon of torchvision's MobileNetV3.
const TORCH_EPSILON_V3: f64 = 1e-3;

/// Every variant.
pub(super) fn all() -> Vec<Arch> {
    vec![v2(), v3_large(), v3_small()]
}

fn row(
    (repeats, kernel, stride): (usize, usize, usize),
    expansion: f64,
    channels: usize,
    squeeze: bool,
    activation: Activation,
) -> Row {
    Row {
        repeats,
        kernel,
        stride,
        expansion,
        channels,
        squeeze,
        activation,
    }
}

fn v2() -> Arch {
    let style = Style {
        epsilon: EPSILON,
        same_padding: false,
        squeeze: None,
        torch_names: TorchNames::MobileNetV2,
    };
    let mut builder = Builder::new(style, 32, Relu6);
    for (repeats, stride, expansion, channels) in [
        (1, 1, 1.0, 16),
        (2, 2, 6.0, 24),
        (3, 2, 6.0, 32),
        (4, 2, 6.0, 64),
        (3, 1, 6.0, 96),
        (3, 2, 6.0, 160),
        (1, 1, 6.0, 320),
    ] {
        builder.block(&[row((repeats, 3, stride), expansion, channels, false, Relu6)]);
    }
    builder.last("conv_head", ("conv_head", "bn2"), 1280, Relu6);
    let weights = weights("mobilenetv2_100.ra_in1k", 72.976);
    let top = Top::linear("classifier", Some("classifier.1"));
    Arch::new("mobilenetv2_100", builder.blocks)
        .top(top)
        .pretrained(weights)
}

/// The last 1×1 convolution works on averaged maps and is part of the top.
fn top_v3(units: usize) -> Top {
    Top {
        flattened: None,
        layers: vec![
            TopLayer::hidden(("conv_head", 1), "classifier.0", units, HardSwish),
            TopLayer::last("classifier", Some("classifier.3")),
        ],
    }
}

fn v3_large() -> Arch {
    let blocks: [&[Row]; 6] = [
        &[row((1, 3, 1), 1.0, 16, false, Relu)],
        &[
            row((1, 3, 2), 4.0, 24, false, Relu),
            row((1, 3, 1), 3.0, 24, false, Relu),
        ],
        &[row((3, 5, 2), 3.0, 40, true, Relu)],
        &[
            row((1, 3, 2), 6.0, 80, false, HardSwish),
            row((1, 3, 1), 2.5, 80, false, HardSwish),
            row((2, 3, 1), 2.3, 80, false, HardSwish),
        ],
        &[row((2, 3, 1), 6.0, 112, true, HardSwish)],
        &[row((3, 5, 2), 6.0, 160, true, HardSwish)],
    ];
    let weights = weights("mobilenetv3_large_100.ra_in1k", 75.766);
    v3("mobilenetv3_large_100", &blocks, 960)
        .top(top_v3(1280))
        .pretrained(weights)
}

fn v3_small() -> Arch {
    let blocks: [&[Row]; 5] = [
        &[row((1, 3, 2), 1.0, 16, true, Relu)],
        &[
            row((1, 3, 2), 4.5, 24, false, Relu),
            row((1, 3, 1), 3.67, 24, false, Relu),
        ],
        &[
            row((1, 5, 2), 4.0, 40, true, HardSwish),
            row((2, 5, 1), 6.0, 40, true, HardSwish),
        ],
        &[row((2, 5, 1), 3.0, 48, true, HardSwish)],
        &[row((3, 5, 2), 6.0, 96, true, HardSwish)],
    ];
    let weights = weights("mobilenetv3_small_100.lamb_in1k", 67.656);
    v3("mobilenetv3_small_100", &blocks, 576)
        .top(top_v3(1024))
        .pretrained(weights)
}

fn v3(name: &str, blocks: &[&[Row]], last: usize) -> Arch {
    let style = Style {
        epsilon: EPSILON,
        same_padding: false,
        squeeze: Some(Squeeze {
            of_expanded: true,
            activation: Relu,
            gate: HardSigmoid,
        }),
        torch_names: TorchNames::MobileNetV3,
    };
    let mut builder = Builder::new(style, STEM_V3, HardSwish);
    for rows in blocks {
        builder.block(rows);
    }
    let number = blocks.len();
    let (conv, norm) = (
        format!("blocks.{number}.0.conv"),
        format!("blocks.{number}.0.bn1"),
    );
    builder.last(&format!("blocks.{number}"), (&conv, &norm), last, HardSwish);
    Arch::new(name, builder.blocks).torch_epsilon(TORCH_EPSILON_V3)
}

/// timm's weights, and their top-1 in percent.
fn weights(id: &'static str, top1: f64) -> Pretrained {
    Pretrained {
        id,
        revision: "main",
        preprocess: Preprocess::Torch,
        size: 224,
        resize: Resize::Bicubic,
        top1: Some(Top1::new(top1, 224)),
        licence: pretrained::APACHE,
    }
}
