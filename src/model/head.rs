//! The dense layers on top of a base: from feature maps to logits.

use candle_core::{D, DType, Device, Tensor, Var};
use rand::RngExt;

use super::backbone::{LayerInfo, Mode};
use super::parameter::Parameter;
use crate::random::{self, Purpose};
use crate::{Error, Result};

/// How feature maps (C, h, w) become a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// All C·h·w numbers, in the order (c, h, w). Keras flattens (h, w, c): see
    /// [`HeadLayers::from_keras_order`].
    #[default]
    Flatten,
    /// The mean of each of the C maps.
    GlobalAverage,
}

/// The output layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Output {
    Sigmoid,
    Softmax(usize),
}

/// A layer between the features and the output.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Layer {
    Hidden(usize),
    Dropout(f64),
}

/// What to put on a base: hidden layers and dropout in the order they are named, then one sigmoid unit or K
/// softmax units.
///
/// ```
/// use headstart::Head;
///
/// // The notebook's: Flatten → Dense(132, relu) → Dense(1, sigmoid).
/// let head = Head::sigmoid().hidden(132);
/// // Five classes, two hidden layers, half of the second one's units dropped while training.
/// let deeper = Head::softmax(5).hidden(256).hidden(64).dropout(0.5);
/// assert_eq!((head.classes(), deeper.classes()), (2, 5));
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Head {
    output: Output,
    layers: Vec<Layer>,
    pooling: Pooling,
    seed: u64,
}

impl Head {
    fn new(output: Output) -> Self {
        Self {
            output,
            layers: Vec::new(),
            pooling: Pooling::default(),
            seed: 0,
        }
    }

    /// One unit for two classes: its sigmoid is the probability of the second class.
    pub fn sigmoid() -> Self {
        Self::new(Output::Sigmoid)
    }

    /// One unit per class, with a softmax over them.
    pub fn softmax(classes: usize) -> Self {
        Self::new(Output::Softmax(classes))
    }

    /// Adds a dense layer of this many units with a ReLU.
    pub fn hidden(mut self, units: usize) -> Self {
        self.layers.push(Layer::Hidden(units));
        self
    }

    /// Adds a dropout layer: while training, each number is zeroed with this probability and the others are
    /// scaled by 1 / (1 − probability).
    pub fn dropout(mut self, probability: f64) -> Self {
        self.layers.push(Layer::Dropout(probability));
        self
    }

    /// Sets how feature maps become a vector; the default is [`Pooling::Flatten`].
    pub fn pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = pooling;
        self
    }

    /// Sets the seed of the fresh parameters; the default is 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How many classes the head tells apart.
    pub fn classes(&self) -> usize {
        match self.output {
            Output::Sigmoid => 2,
            Output::Softmax(classes) => classes,
        }
    }

    /// Whether the output is one sigmoid unit.
    pub fn is_sigmoid(&self) -> bool {
        self.output == Output::Sigmoid
    }

    /// Checks every option.
    ///
    /// # Errors
    /// [`Error::Option`] for fewer than two classes, a hidden layer without units, or a dropout probability
    /// outside [0, 1).
    pub fn check(&self) -> Result<()> {
        if self.classes() < 2 {
            return Err(Error::option(
                "softmax",
                self.classes(),
                "2 classes or more",
            ));
        }
        for layer in &self.layers {
            match layer {
                Layer::Hidden(0) => return Err(Error::option("hidden", 0, "1 unit or more")),
                Layer::Dropout(p) if !(0.0..1.0).contains(p) => {
                    return Err(Error::option("dropout", p, "at least 0 and below 1"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the layers for features (C, h, w), with fresh parameters as Keras makes them: weights uniform in
    /// ±√(6 / (inputs + outputs)) (Glorot & Bengio 2010, eq. 16), zero biases.
    ///
    /// # Errors
    /// What [`check`](Self::check) says.
    pub fn build(&self, features: [usize; 3], device: &Device) -> Result<HeadLayers> {
        let mut index = 0;
        HeadLayers::from_parameters(self.clone(), features, |_, shape| {
            index += 1;
            match *shape {
                [outputs, inputs] => glorot_uniform(outputs, inputs, self.seed, index, device),
                _ => Ok(Tensor::zeros(shape, DType::F32, device)?),
            }
        })
    }

    /// Names and sizes (inputs, outputs) of the dense layers on a vector of so many numbers.
    fn dense_layers(&self, features: [usize; 3]) -> Vec<(String, usize, usize)> {
        let mut inputs = self.flat(features);
        let mut layers = Vec::new();
        for layer in &self.layers {
            if let Layer::Hidden(units) = *layer {
                layers.push((format!("hidden{}", layers.len() + 1), inputs, units));
                inputs = units;
            }
        }
        let outputs = match self.output {
            Output::Sigmoid => 1,
            Output::Softmax(classes) => classes,
        };
        layers.push(("output".to_owned(), inputs, outputs));
        layers
    }

    fn flat(&self, [c, h, w]: [usize; 3]) -> usize {
        match self.pooling {
            Pooling::Flatten => c * h * w,
            Pooling::GlobalAverage => c,
        }
    }
}

fn glorot_uniform(
    outputs: usize,
    inputs: usize,
    seed: u64,
    index: u64,
    device: &Device,
) -> Result<Tensor> {
    let limit = (6.0 / (inputs + outputs) as f64).sqrt();
    let mut rng = random::stream(seed, Purpose::Init, 1, index);
    let values: Vec<f32> = (0..inputs * outputs)
        .map(|_| (limit * (2.0 * rng.random::<f64>() - 1.0)) as f32)
        .collect();
    Ok(Tensor::from_vec(values, (outputs, inputs), device)?)
}

/// What decides which units a training step drops: the seed, the epoch, and each picture's id. The batch a
/// picture lands in has no say.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// The run's seed.
    pub seed: u64,
    /// The epoch.
    pub epoch: u64,
    /// The id of each picture of the batch.
    pub pictures: &'a [u64],
}

/// A head with its parameters.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use headstart::Head;
/// use headstart::model::Mode;
///
/// let head = Head::softmax(3).hidden(16).build([512, 2, 2], &Device::Cpu)?;
/// let features = Tensor::ones((4, 512, 2, 2), DType::F32, &Device::Cpu)?;
/// let logits = head.forward(&features, Mode::Infer, None)?;
/// assert_eq!(logits.dims(), [4, 3]);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct HeadLayers {
    config: Head,
    features: [usize; 3],
    dense: Vec<Dense>,
}

#[derive(Clone, Debug)]
struct Dense {
    name: String,
    /// (outputs, inputs)
    weight: Parameter,
    /// (outputs)
    bias: Parameter,
}

impl HeadLayers {
    /// Makes the layers from tensors asked for by name and shape.
    pub(crate) fn from_parameters(
        config: Head,
        features: [usize; 3],
        mut tensor: impl FnMut(&str, &[usize]) -> Result<Tensor>,
    ) -> Result<Self> {
        config.check()?;
        let dense = config
            .dense_layers(features)
            .into_iter()
            .map(|(name, inputs, outputs)| {
                let weight = tensor(&format!("{name}.weight"), &[outputs, inputs])?;
                let bias = tensor(&format!("{name}.bias"), &[outputs])?;
                Ok(Dense {
                    name,
                    weight: Parameter::Trainable(Var::from_tensor(&weight)?),
                    bias: Parameter::Trainable(Var::from_tensor(&bias)?),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            config,
            features,
            dense,
        })
    }

    /// What the head was made from.
    pub fn config(&self) -> &Head {
        &self.config
    }

    /// Features (N, C, h, w) → logits (N, 1) or (N, K). Dropout works in [`Mode::Train`] when it is given
    /// what decides it.
    ///
    /// # Errors
    /// [`Error::Shape`] for features of another shape.
    pub fn forward(
        &self,
        features: &Tensor,
        mode: Mode,
        dropout: Option<&Dropout<'_>>,
    ) -> Result<Tensor> {
        let [c, h, w] = self.features;
        match *features.dims() {
            [_, fc, fh, fw] if [fc, fh, fw] == [c, h, w] => {}
            ref dims => {
                return Err(Error::Shape {
                    what: "features".into(),
                    expected: format!("(N, {c}, {h}, {w})"),
                    found: dims.to_vec(),
                });
            }
        }
        let mut x = match self.config.pooling {
            Pooling::Flatten => features.flatten_from(1)?,
            Pooling::GlobalAverage => features.mean((2, 3))?,
        };
        let (output, hidden) = self.dense.split_last().expect("a head has an output layer");
        let mut hidden = hidden.iter();
        for (index, layer) in self.config.layers.iter().enumerate() {
            match *layer {
                Layer::Hidden(_) => {
                    let dense = hidden.next().expect("one dense layer per hidden layer");
                    x = dense.forward(&x, mode)?.relu()?;
                }
                Layer::Dropout(probability) => {
                    if let (Mode::Train, Some(dropout)) = (mode, dropout) {
                        x = (&x * dropout.mask(probability, index, &x)?)?;
                    }
                }
            }
        }
        output.forward(&x, mode)
    }

    /// The probability of every class: logits (N, 1) or (N, K) → (N, K).
    ///
    /// # Errors
    /// candle's, for logits of another rank.
    pub fn probabilities(&self, logits: &Tensor) -> Result<Tensor> {
        match self.config.output {
            // sigmoid(z) beside sigmoid(−z), not 1 − sigmoid(z): the small one keeps its digits.
            Output::Sigmoid => {
                let both = Tensor::cat(&[&logits.neg()?, logits], 1)?;
                Ok(candle_nn::ops::sigmoid(&both)?)
            }
            Output::Softmax(_) => Ok(candle_nn::ops::softmax(logits, D::Minus1)?),
        }
    }

    /// The trainable parameters by name, from the features on: the order is always the same.
    pub fn variables(&self) -> Vec<(String, Var)> {
        let mut variables = Vec::new();
        for (name, parameter) in self.parameters() {
            if let Some(var) = parameter.var() {
                variables.push((name, var.clone()));
            }
        }
        variables
    }

    /// Every parameter by name, from the features on, without a graph: `hidden1.weight` (outputs, inputs),
    /// `hidden1.bias`, …, `output.weight`, `output.bias`.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.parameters()
            .map(|(name, parameter)| (name, parameter.detached()))
            .collect()
    }

    fn parameters(&self) -> impl Iterator<Item = (String, &Parameter)> {
        self.dense.iter().flat_map(|dense| {
            [
                (format!("{}.weight", dense.name), &dense.weight),
                (format!("{}.bias", dense.name), &dense.bias),
            ]
        })
    }

    /// The layers for a summary.
    pub(crate) fn layers(&self) -> Vec<LayerInfo> {
        let flat = self.config.flat(self.features);
        let (name, kind) = match self.config.pooling {
            Pooling::Flatten => ("flatten", "Flatten"),
            Pooling::GlobalAverage => ("global_average", "GlobalAveragePooling2D"),
        };
        let plain = |name: String, kind, output| LayerInfo {
            name,
            kind,
            output: vec![output],
            parameters: 0,
            trainable: true,
        };
        let mut layers = vec![plain(name.to_owned(), kind, flat)];
        let mut dense = self.dense.iter();
        let mut width = flat;
        let mut dropouts = 0;
        for layer in &self.config.layers {
            match layer {
                Layer::Hidden(_) => {
                    let info = dense
                        .next()
                        .expect("one dense layer per hidden layer")
                        .info();
                    width = info.output[0];
                    layers.push(info);
                }
                Layer::Dropout(_) => {
                    dropouts += 1;
                    layers.push(plain(format!("dropout{dropouts}"), "Dropout", width));
                }
            }
        }
        layers.extend(dense.map(Dense::info));
        layers
    }

    /// One sigmoid unit (w, b) as two softmax units, (−w/2, −b/2) and (w/2, b/2): probabilities, loss and the
    /// features' gradients are equal.
    ///
    /// # Errors
    /// [`Error::Option`] when the head is not a sigmoid unit.
    pub fn to_softmax(&self) -> Result<Self> {
        if self.config.output != Output::Sigmoid {
            return Err(Error::option(
                "to_softmax",
                "a softmax head",
                "a sigmoid head",
            ));
        }
        self.with_output(Output::Softmax(2), |tensor| {
            let half = (tensor * 0.5)?;
            Ok(Tensor::cat(&[&half.neg()?, &half], 0)?)
        })
    }

    /// Two softmax units as one sigmoid unit (w1 − w0, b1 − b0): probabilities, loss and the features'
    /// gradients are equal.
    ///
    /// # Errors
    /// [`Error::Option`] when the head has not two softmax units.
    pub fn to_sigmoid(&self) -> Result<Self> {
        if self.config.output != Output::Softmax(2) {
            return Err(Error::option(
                "to_sigmoid",
                format!("a head of {} classes", self.config.classes()),
                "a softmax head of 2 classes",
            ));
        }
        self.with_output(Output::Sigmoid, |tensor| {
            Ok((tensor.narrow(0, 1, 1)? - tensor.narrow(0, 0, 1)?)?)
        })
    }

    fn with_output(
        &self,
        output: Output,
        convert: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        let config = Head {
            output,
            ..self.config.clone()
        };
        let tensors = self.tensors();
        Self::from_parameters(config, self.features, |name, _| {
            let (_, tensor) = tensors
                .iter()
                .find(|(own, _)| own == name)
                .expect("both forms have the same names");
            if name.starts_with("output.") {
                convert(tensor)
            } else {
                Ok(tensor.clone())
            }
        })
    }

    /// The same head with the inputs of its first dense layer reordered from Keras's (h, w, c) to (c, h, w):
    /// for dense weights that were trained in Keras, transposed to (outputs, inputs). Global averages need
    /// none.
    ///
    /// # Errors
    /// candle's, on a device without memory.
    pub fn from_keras_order(&self) -> Result<Self> {
        if self.config.pooling == Pooling::GlobalAverage {
            return Ok(self.clone());
        }
        let [c, h, w] = self.features;
        let first = format!("{}.weight", self.dense[0].name);
        let tensors = self.tensors();
        Self::from_parameters(self.config.clone(), self.features, |name, shape| {
            let (_, tensor) = tensors
                .iter()
                .find(|(own, _)| own == name)
                .expect("the names are our own");
            if name != first {
                return Ok(tensor.clone());
            }
            Ok(tensor
                .reshape((shape[0], h, w, c))?
                .permute((0, 3, 1, 2))?
                .contiguous()?
                .reshape(shape)?)
        })
    }
}

impl Dense {
    fn forward(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        let (weight, bias) = match mode {
            Mode::Train => (self.weight.tensor().clone(), self.bias.tensor().clone()),
            Mode::Infer => (self.weight.detached(), self.bias.detached()),
        };
        Ok(input.matmul(&weight.t()?)?.broadcast_add(&bias)?)
    }

    fn info(&self) -> LayerInfo {
        let weight = self.weight.tensor();
        let bias = self.bias.tensor();
        LayerInfo {
            name: self.name.clone(),
            kind: "Dense",
            output: bias.dims().to_vec(),
            parameters: weight.elem_count() + bias.elem_count(),
            trainable: self.weight.var().is_some(),
        }
    }
}

impl Dropout<'_> {
    /// Zeros and 1 / (1 − p), one row per picture.
    fn mask(&self, probability: f64, layer: usize, like: &Tensor) -> Result<Tensor> {
        let (rows, columns) = like.dims2()?;
        if self.pictures.len() != rows {
            return Err(Error::Shape {
                what: "dropout's picture ids".into(),
                expected: format!("({rows})"),
                found: vec![self.pictures.len()],
            });
        }
        let kept = (1.0 / (1.0 - probability)) as f32;
        let mut mask = Vec::with_capacity(rows * columns);
        for picture in self.pictures {
            // Each dropout layer of a head has a stream of its own.
            let seed = self.seed.wrapping_add((layer as u64) << 32);
            let mut rng = random::stream(seed, Purpose::Dropout, self.epoch, *picture);
            mask.extend((0..columns).map(|_| {
                if rng.random::<f64>() < probability {
                    0.0
                } else {
                    kept
                }
            }));
        }
        Ok(Tensor::from_vec(mask, (rows, columns), like.device())?.to_dtype(like.dtype())?)
    }
}
