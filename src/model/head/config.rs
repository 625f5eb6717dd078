//! What a head is made of, before it has parameters.

use crate::bounds;
use crate::error::{Error, Result};
use crate::kernels::Activation;

/// How feature maps (C, h, w) become a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// All C·h·w numbers, in the order (c, h, w). Keras flattens (h, w, c): see
    /// [`HeadLayers::from_keras_order`](super::HeadLayers::from_keras_order).
    #[default]
    Flatten,
    /// The mean of each of the C maps.
    GlobalAverage,
}

/// The output layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Output {
    Sigmoid,
    Softmax(usize),
}

/// A layer between the features and the output.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Layer {
    /// With a ReLU.
    Hidden(usize),
    HiddenWith(usize, Activation),
    Dropout(f64),
}

impl Layer {
    /// The units of a dense layer, and what they go through.
    pub(super) fn dense(&self) -> Option<(usize, Activation)> {
        match *self {
            Self::Hidden(units) => Some((units, Activation::Relu)),
            Self::HiddenWith(units, activation) => Some((units, activation)),
            Self::Dropout(_) => None,
        }
    }
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
    pub(super) output: Output,
    pub(super) layers: Vec<Layer>,
    pub(super) pooling: Pooling,
    pub(super) seed: u64,
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

    /// One unit per class, with a softmax over them: 2 to 50,000.
    pub fn softmax(classes: usize) -> Self {
        Self::new(Output::Softmax(classes))
    }

    /// Adds a dense layer of this many units, 1 to 65,536, with a ReLU. A head has up to 64 layers, and a layer up to
    /// 2²⁹ numbers.
    pub fn hidden(mut self, units: usize) -> Self {
        self.layers.push(Layer::Hidden(units));
        self
    }

    /// Adds a dense layer as [`hidden`](Self::hidden) does, with another activation.
    pub fn hidden_with(mut self, units: usize, activation: Activation) -> Self {
        self.layers.push(Layer::HiddenWith(units, activation));
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

    /// How feature maps become a vector.
    pub fn pooled(&self) -> Pooling {
        self.pooling
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
    /// [`Error::InvalidOption`] for fewer than two classes or more than 50,000, a hidden layer without units or with
    /// more than 65,536, more than 64 layers, or a dropout probability outside [0, 1).
    pub fn check(&self) -> Result<()> {
        if let Output::Softmax(classes) = self.output {
            bounds::within("softmax", classes, 2..=bounds::CLASSES)?;
        }
        bounds::within("layers", self.layers.len(), 0..=bounds::LAYERS)?;
        for layer in &self.layers {
            match layer {
                Layer::Hidden(units) | Layer::HiddenWith(units, _) => {
                    bounds::within("hidden", *units, 1..=bounds::UNITS)?;
                }
                Layer::Dropout(p) if !(0.0..1.0).contains(p) => {
                    return Err(Error::option("dropout", p, "at least 0 and below 1"));
                }
                Layer::Dropout(_) => {}
            }
        }
        Ok(())
    }

    /// Checks every option, and that no layer on such features is too large.
    pub(super) fn check_on(&self, features: [usize; 3]) -> Result<()> {
        self.check()?;
        if self.pooling == Pooling::Flatten {
            bounds::product("input_size", &features, bounds::DENSE, "features")?;
        }
        for (_, inputs, outputs) in self.dense_layers(features) {
            let factors = [inputs, outputs];
            bounds::product("hidden", &factors, bounds::DENSE, "weights in a layer")?;
        }
        Ok(())
    }

    /// Units and activations of the hidden layers.
    pub(crate) fn hidden_layers(&self) -> impl Iterator<Item = (usize, Activation)> {
        self.layers.iter().filter_map(Layer::dense)
    }

    /// Names and sizes (inputs, outputs) of the dense layers on a vector of so many numbers.
    pub(super) fn dense_layers(&self, features: [usize; 3]) -> Vec<(String, usize, usize)> {
        let mut inputs = self.flat(features);
        let mut layers = Vec::new();
        for layer in &self.layers {
            if let Some((units, _)) = layer.dense() {
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

    pub(super) fn flat(&self, [c, h, w]: [usize; 3]) -> usize {
        match self.pooling {
            Pooling::Flatten => c * h * w,
            Pooling::GlobalAverage => c,
        }
    }
}
