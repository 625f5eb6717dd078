//! The layers that tables are made of: what each is called, what shape it gives, and what it costs.

use crate::bounds;
use crate::error::{Error, Result};

pub use crate::kernels::Activation;

/// How many zeros surround a map before a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// This many on every side.
    Zeros(usize),
    /// TensorFlow's `same`: as many as make the output ⌈input / stride⌉ wide, the odd one below and on the right.
    Same,
}

impl Padding {
    /// Zeros before and after a side of `input` pixels.
    pub fn sides(self, input: usize, kernel: usize, stride: usize) -> (usize, usize) {
        match self {
            Self::Zeros(zeros) => (zeros, zeros),
            Self::Same => {
                let reach = (input.div_ceil(stride).max(1) - 1) * stride + kernel;
                let zeros = reach.saturating_sub(input);
                (zeros / 2, zeros - zeros / 2)
            }
        }
    }

    /// How long a side is after a window of `kernel` pixels has passed over it; none if the window does not fit.
    fn output(self, input: usize, kernel: usize, stride: usize) -> Option<usize> {
        let (before, after) = self.sides(input, kernel, stride);
        let room = (input + before + after).checked_sub(kernel)?;
        (input > 0).then_some(room / stride + 1)
    }
}

/// A batch norm with stored statistics: (x − mean) / √(variance + epsilon) · weight + bias, by channel.
///
/// The statistics stay as they are in training too, which is what small datasets want: Keras's rule for a frozen layer,
/// torchvision's `FrozenBatchNorm2d`. Weight and bias train with their block.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// What its tensors' names begin with, such as `layer1.0.bn1`.
    pub name: String,
    /// The same in torchvision's files, where it differs.
    pub torch_name: Option<String>,
    /// Added to the variance.
    pub epsilon: f64,
}

/// A convolution with what follows it: a bias or a batch norm, then an activation.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// What its tensors' names begin with, such as `layer1.0.conv1`.
    pub name: String,
    /// The same in torchvision's files, where it differs.
    pub torch_name: Option<String>,
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// Height and width of the window.
    pub kernel: usize,
    /// Pixels from one window to the next.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: Padding,
    /// Groups of channels that do not see each other; as many as channels for a depthwise convolution.
    pub groups: usize,
    /// Whether it has a bias of its own.
    pub bias: bool,
    /// The batch norm after it.
    pub norm: Option<Norm>,
    /// What its sums go through last.
    pub activation: Activation,
    /// For RepVGG: its files may hold it as branches under this name.
    pub branches: Option<String>,
}

impl Conv {
    /// A dense convolution with stride 1, a bias and an activation, padded so that the map keeps its size.
    pub fn new(name: impl Into<String>, inputs: usize, outputs: usize, kernel: usize) -> Self {
        Self {
            name: name.into(),
            torch_name: None,
            inputs,
            outputs,
            kernel,
            stride: 1,
            padding: Padding::Zeros(kernel / 2),
            groups: 1,
            bias: true,
            norm: None,
            activation: Activation::Identity,
            branches: None,
        }
    }

    /// Sets the stride.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = stride;
        self
    }

    /// Sets the padding.
    pub fn padding(mut self, padding: Padding) -> Self {
        self.padding = padding;
        self
    }

    /// Makes every channel a group: there are as many in as out.
    pub fn depthwise(mut self) -> Self {
        self.groups = self.inputs;
        self
    }

    /// Puts a batch norm in the bias's place.
    pub fn norm(mut self, name: impl Into<String>, epsilon: f64) -> Self {
        self.bias = false;
        self.norm = Some(Norm {
            name: name.into(),
            torch_name: None,
            epsilon,
        });
        self
    }

    /// Sets the activation.
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// Sets the name that torchvision's files have for the convolution, and for the batch norm after it.
    pub fn torch_names(mut self, conv: impl Into<String>, norm: impl Into<String>) -> Self {
        self.torch_name = Some(conv.into());
        if let Some(own) = &mut self.norm {
            own.torch_name = Some(norm.into());
        }
        self
    }

    /// The shape of the weight: (out, in / groups, kernel, kernel).
    pub fn weight_shape(&self) -> [usize; 4] {
        [
            self.outputs,
            self.inputs / self.groups,
            self.kernel,
            self.kernel,
        ]
    }

    /// How many numbers training may change: weight and bias, the batch norm's weight and bias.
    pub fn parameters(&self) -> usize {
        let weight: usize = self.weight_shape().iter().product();
        let per_channel = usize::from(self.bias) + 2 * usize::from(self.norm.is_some());
        weight + per_channel * self.outputs
    }

    /// Refuses numbers that no convolution has.
    fn check(&self) -> Result<()> {
        check_window(self.kernel, self.stride, self.padding)?;
        let (inputs, outputs, groups) = (self.inputs, self.outputs, self.groups);
        bounds::within("inputs", inputs, 1..=bounds::UNITS)?;
        bounds::within("outputs", outputs, 1..=bounds::UNITS)?;
        let divides = |channels: usize| channels.checked_rem(groups) == Some(0);
        if divides(inputs) && divides(outputs) {
            return Ok(());
        }
        let allowed = format!("a number that divides {inputs} and {outputs} channels");
        Err(Error::option("groups", groups, allowed))
    }

    fn output(&self, [c, h, w]: [usize; 3]) -> Option<[usize; 3]> {
        let side = |side| self.padding.output(side, self.kernel, self.stride);
        (c == self.inputs).then_some([self.outputs, side(h)?, side(w)?])
    }
}

/// Weighs channels by what the whole map shows: the means of all channels pass two 1×1 convolutions, whose outputs
/// multiply the map (Hu et al. 2018, "Squeeze-and-Excitation Networks").
#[derive(Clone, Debug, PartialEq)]
pub struct SqueezeExcite {
    /// Fewer channels.
    pub reduce: Conv,
    /// All of them again; its activation is the gate.
    pub expand: Conv,
}

/// A body whose output is added to its input (He et al. 2016, "Deep residual learning").
#[derive(Clone, Debug, PartialEq)]
pub struct Residual {
    /// What summaries call the sum, such as `layer1.0`.
    pub name: String,
    /// The layers that are added.
    pub body: Vec<Layer>,
    /// What the input goes through where its shape is not the body's; none passes it on as it is.
    pub shortcut: Option<Conv>,
    /// What the sum goes through.
    pub activation: Activation,
}

/// A layer of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Layer {
    /// A convolution with its bias or batch norm and activation.
    Conv(Conv),
    /// The largest number of each window.
    MaxPool {
        /// What summaries call it.
        name: String,
        /// Height and width of the window.
        kernel: usize,
        /// Pixels from one window to the next.
        stride: usize,
        /// Rows and columns around the map that no window takes its number from.
        padding: usize,
    },
    /// The mean of each window.
    AveragePool {
        /// What summaries call it.
        name: String,
        /// Height and width of the window.
        kernel: usize,
        /// Pixels from one window to the next.
        stride: usize,
    },
    /// Channels weighed by the whole map.
    SqueezeExcite(SqueezeExcite),
    /// A sum of a body and its input.
    Residual(Residual),
}

impl Layer {
    /// Refuses windows and channels that no layer has.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::MaxPool {
                kernel,
                stride,
                padding,
                ..
            } => check_window(*kernel, *stride, Padding::Zeros(*padding))?,
            Self::AveragePool { kernel, stride, .. } => {
                check_window(*kernel, *stride, Padding::Same)?;
            }
            Self::Residual(residual) => residual.body.iter().try_for_each(Self::check)?,
            Self::Conv(_) | Self::SqueezeExcite(_) => {}
        }
        self.convs().into_iter().try_for_each(Conv::check)
    }

    /// The shape (C, H, W) it makes of a shape; none where it cannot take it.
    pub fn output(&self, input: [usize; 3]) -> Option<[usize; 3]> {
        match self {
            Self::Conv(conv) => conv.output(input),
            Self::MaxPool {
                kernel,
                stride,
                padding,
                ..
            } => pooled(input, Padding::Zeros(*padding), *kernel, *stride),
            Self::AveragePool { kernel, stride, .. } => {
                pooled(input, Padding::Zeros(0), *kernel, *stride)
            }
            Self::SqueezeExcite(squeeze) => {
                let [c, ..] = input;
                let means = squeeze.reduce.output([c, 1, 1])?;
                (squeeze.expand.output(means)? == [c, 1, 1]).then_some(input)
            }
            Self::Residual(residual) => {
                let output = output(&residual.body, input)?;
                let passed = match &residual.shortcut {
                    Some(conv) => conv.output(input)?,
                    None => input,
                };
                (passed == output).then_some(output)
            }
        }
    }

    /// Its convolutions, in the order they run.
    pub fn convs(&self) -> Vec<&Conv> {
        match self {
            Self::Conv(conv) => vec![conv],
            Self::MaxPool { .. } | Self::AveragePool { .. } => Vec::new(),
            Self::SqueezeExcite(squeeze) => vec![&squeeze.reduce, &squeeze.expand],
            Self::Residual(residual) => {
                let body = residual.body.iter().flat_map(Self::convs);
                body.chain(&residual.shortcut).collect()
            }
        }
    }

    /// The multiplications that its convolutions take for one picture's map of this shape.
    pub fn multiplications(&self, input: [usize; 3]) -> Option<usize> {
        let of = |conv: &Conv, input| {
            let [_, h, w] = conv.output(input)?;
            Some(conv.weight_shape().iter().product::<usize>() * h * w)
        };
        match self {
            Self::Conv(conv) => of(conv, input),
            Self::MaxPool { .. } | Self::AveragePool { .. } => Some(0),
            Self::SqueezeExcite(squeeze) => {
                let means = [input[0], 1, 1];
                let fewer = squeeze.reduce.output(means)?;
                Some(of(&squeeze.reduce, means)? + of(&squeeze.expand, fewer)?)
            }
            Self::Residual(residual) => {
                let shortcut = match &residual.shortcut {
                    Some(conv) => of(conv, input)?,
                    None => 0,
                };
                Some(shortcut + multiplications(&residual.body, input)?)
            }
        }
    }
}

fn check_window(kernel: usize, stride: usize, padding: Padding) -> Result<()> {
    bounds::within("kernel", kernel, 1..=bounds::WINDOW)?;
    bounds::within("stride", stride, 1..=bounds::WINDOW)?;
    match padding {
        Padding::Zeros(zeros) => bounds::within("padding", zeros, 0..=bounds::WINDOW),
        Padding::Same => Ok(()),
    }
}

fn pooled(
    [c, h, w]: [usize; 3],
    padding: Padding,
    kernel: usize,
    stride: usize,
) -> Option<[usize; 3]> {
    let side = |side| padding.output(side, kernel, stride);
    Some([c, side(h)?, side(w)?])
}

/// The shape that layers one after the other make of a shape.
pub(crate) fn output<'a>(
    layers: impl IntoIterator<Item = &'a Layer>,
    input: [usize; 3],
) -> Option<[usize; 3]> {
    let mut layers = layers.into_iter();
    layers.try_fold(input, |shape, layer| layer.output(shape))
}

/// The multiplications that layers one after the other take for one picture.
pub(crate) fn multiplications<'a>(
    layers: impl IntoIterator<Item = &'a Layer>,
    mut input: [usize; 3],
) -> Option<usize> {
    let mut sum = 0;
    for layer in layers {
        sum += layer.multiplications(input)?;
        input = layer.output(input)?;
    }
    Some(sum)
}
