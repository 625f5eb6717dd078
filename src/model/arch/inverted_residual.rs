//! The rows that EfficientNet and MobileNet are made of: depthwise convolutions between narrow maps.
//!
//! Source: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 1; with
//! squeeze-and-excite, Howard et al. 2019, "Searching for MobileNetV3", figure 4.

use super::BlockTable;
use super::layer::{Activation, Conv, Layer, Padding, Residual, SqueezeExcite};

/// What all rows of a network share.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) epsilon: f64,
    /// TensorFlow's uneven padding in place of the symmetric one.
    pub(super) same_padding: bool,
    pub(super) squeeze: Option<Squeeze>,
    pub(super) torch_names: TorchNames,
}

/// How a squeeze-and-excite is built.
#[derive(Clone, Copy)]
pub(super) struct Squeeze {
    /// A quarter of the expanded channels, rounded to eights, or of the row's input.
    pub(super) of_expanded: bool,
    pub(super) activation: Activation,
    pub(super) gate: Activation,
}

/// Where torchvision keeps a row's layers: `features.{number}.{place}.conv`, `….{row}.block`,
/// `features.{number}.block`.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum TorchNames {
    EfficientNet,
    MobileNetV2,
    MobileNetV3,
    /// torchvision has no such network.
    None,
}

/// A row of the papers' tables: `repeats` layers, the first with the stride and the new width.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) repeats: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    /// How many times wider the depthwise convolution is than the row's input; 1 leaves the first convolution off.
    pub(super) expansion: f64,
    pub(super) channels: usize,
    pub(super) squeeze: bool,
    pub(super) activation: Activation,
}

/// The table while it grows.
pub(super) struct Builder {
    style: Style,
    /// Channels so far.
    channels: usize,
    /// Layers so far, the stem included: torchvision's MobileNets count them.
    layers: usize,
    pub(super) blocks: Vec<BlockTable>,
}

impl Builder {
    /// Begins with a 3×3 convolution of stride 2.
    pub(super) fn new(style: Style, channels: usize, activation: Activation) -> Self {
        let mut builder = Self {
            style,
            channels: 3,
            layers: 0,
            blocks: Vec::new(),
        };
        let stem = builder.conv("conv_stem", "bn1", channels, 3, 2, activation);
        let stem = builder.torch(stem, "features.0.0", "features.0.1");
        builder.push("stem", vec![Layer::Conv(stem)], channels);
        builder.layers = 1;
        builder
    }

    /// Adds the block `blocks.{number}` of some rows one after the other.
    pub(super) fn block(&mut self, rows: &[Row]) {
        let number = self.blocks.len() - 1;
        let mut layers = Vec::new();
        let mut place = 0;
        for row in rows {
            for repeat in 0..row.repeats {
                let stride = if repeat == 0 { row.stride } else { 1 };
                layers.extend(self.layer(number, place, &Row { stride, ..*row }));
                place += 1;
                self.channels = row.channels;
                self.layers += 1;
            }
        }
        let channels = self.channels;
        self.push(&format!("blocks.{number}"), layers, channels);
    }

    /// Ends with a 1×1 convolution, as the block `name`.
    pub(super) fn last(
        &mut self,
        name: &str,
        (conv, norm): (&str, &str),
        channels: usize,
        activation: Activation,
    ) {
        let number = match self.style.torch_names {
            TorchNames::EfficientNet => self.blocks.len(),
            _ => self.layers,
        };
        let last = self.conv(conv, norm, channels, 1, 1, activation);
        let (conv, norm) = (
            format!("features.{number}.0"),
            format!("features.{number}.1"),
        );
        let last = self.torch(last, &conv, &norm);
        self.push(name, vec![Layer::Conv(last)], channels);
    }

    fn push(&mut self, name: &str, layers: Vec<Layer>, channels: usize) {
        self.blocks.push(BlockTable::new(name, layers));
        self.channels = channels;
    }

    /// A dense convolution of the channels so far.
    fn conv(
        &self,
        name: &str,
        norm: &str,
        outputs: usize,
        kernel: usize,
        stride: usize,
        activation: Activation,
    ) -> Conv {
        Conv::new(name, self.channels, outputs, kernel)
            .stride(stride)
            .padding(self.padding(kernel))
            .norm(norm, self.style.epsilon)
            .activation(activation)
    }

    fn padding(&self, kernel: usize) -> Padding {
        if self.style.same_padding {
            Padding::Same
        } else {
            Padding::Zeros(kernel / 2)
        }
    }

    fn torch(&self, conv: Conv, name: &str, norm: &str) -> Conv {
        if self.style.torch_names == TorchNames::None {
            return conv;
        }
        conv.torch_names(name, norm)
    }

    /// One layer: expansion, depthwise convolution, squeeze-and-excite, projection.
    fn layer(&self, block: usize, place: usize, row: &Row) -> Vec<Layer> {
        let name = format!("blocks.{block}.{place}");
        let inputs = self.channels;
        let wide = eights(inputs as f64 * row.expansion);
        let expands = row.expansion != 1.0;
        let mut body = Vec::new();
        let mut parts = TorchParts::new(self, block, place);
        let norm = |number: usize| format!("{name}.bn{number}");
        if expands {
            let conv = Conv::new(format!("{name}.conv_pw"), inputs, wide, 1)
                .norm(norm(1), self.style.epsilon)
                .activation(row.activation);
            body.push(Layer::Conv(parts.name(conv, true)));
        }
        let after = usize::from(expands);
        let depthwise = Conv::new(format!("{name}.conv_dw"), wide, wide, row.kernel)
            .depthwise()
            .stride(row.stride)
            .padding(self.padding(row.kernel))
            .norm(norm(1 + after), self.style.epsilon)
            .activation(row.activation);
        body.push(Layer::Conv(parts.name(depthwise, true)));
        if let Some(squeeze) = self.style.squeeze.filter(|_| row.squeeze) {
            let squeeze = squeeze.layer(&format!("{name}.se"), wide, inputs);
            body.push(Layer::SqueezeExcite(parts.squeeze(squeeze)));
        }
        let projection = if expands { "conv_pwl" } else { "conv_pw" };
        let projection = Conv::new(format!("{name}.{projection}"), wide, row.channels, 1)
            .norm(norm(2 + after), self.style.epsilon);
        body.push(Layer::Conv(parts.name(projection, false)));
        if row.stride == 1 && inputs == row.channels {
            return vec![Layer::Residual(Residual {
                name,
                body,
                shortcut: None,
                activation: Activation::Identity,
            })];
        }
        body
    }
}

impl Squeeze {
    fn layer(self, name: &str, channels: usize, inputs: usize) -> SqueezeExcite {
        let reduced = if self.of_expanded {
            eights(channels as f64 / 4.0)
        } else {
            // Python's `round`, as timm's: a half goes to the even number.
            (inputs as f64 / 4.0).round_ties_even() as usize
        };
        SqueezeExcite {
            reduce: Conv::new(format!("{name}.conv_reduce"), channels, reduced, 1)
                .activation(self.activation),
            expand: Conv::new(format!("{name}.conv_expand"), reduced, channels, 1)
                .activation(self.gate),
        }
    }
}

/// Counts a layer's parts as torchvision's `Sequential`s do.
struct TorchParts {
    names: TorchNames,
    prefix: String,
    next: usize,
}

impl TorchParts {
    fn new(builder: &Builder, block: usize, place: usize) -> Self {
        let names = builder.style.torch_names;
        let prefix = match names {
            TorchNames::EfficientNet => format!("features.{}.{place}.block", block + 1),
            TorchNames::MobileNetV2 => format!("features.{}.conv", builder.layers),
            TorchNames::MobileNetV3 | TorchNames::None => {
                format!("features.{}.block", builder.layers)
            }
        };
        Self {
            names,
            prefix,
            next: 0,
        }
    }

    /// Names the next part: a convolution with its batch norm. MobileNetV2 keeps the projection's outside of a part.
    fn name(&mut self, conv: Conv, activated: bool) -> Conv {
        let (prefix, part) = (&self.prefix, self.next);
        self.next += 1;
        match self.names {
            TorchNames::None => conv,
            TorchNames::MobileNetV2 if !activated => {
                conv.torch_names(format!("{prefix}.{part}"), format!("{prefix}.{}", part + 1))
            }
            _ => conv.torch_names(format!("{prefix}.{part}.0"), format!("{prefix}.{part}.1")),
        }
    }

    fn squeeze(&mut self, squeeze: SqueezeExcite) -> SqueezeExcite {
        let (prefix, part) = (&self.prefix, self.next);
        self.next += 1;
        if self.names == TorchNames::None {
            return squeeze;
        }
        let name = |conv: Conv, number| conv.torch_names(format!("{prefix}.{part}.fc{number}"), "");
        SqueezeExcite {
            reduce: name(squeeze.reduce, 1),
            expand: name(squeeze.expand, 2),
        }
    }
}

/// The nearest multiple of eight, at least 8, that is not more than a tenth below.
pub(super) fn eights(channels: f64) -> usize {
    let nearest = (((channels + 4.0) / 8.0) as usize * 8).max(8);
    if (nearest as f64) < 0.9 * channels {
        nearest + 8
    } else {
        nearest
    }
}
