//! Losses on logits, numerically stable, mean over the batch.

use candle_core::{D, DType, Tensor};

use crate::error::{Error, Result};
use crate::model::Head;
use crate::train::range::{below_one, not_negative};

/// The most that a class may weigh.
const MAX_CLASS_WEIGHT: f64 = 1e6;

/// A classification loss on logits: the mean over the batch of −ln(probability of the true class).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use headstart::train::metrics::Loss;
///
/// // Even odds cost ln 2; a saturated wrong logit costs its size, not infinity.
/// let logits = Tensor::new(&[[0f32], [80.0]], &Device::Cpu)?;
/// let loss = Loss::BinaryCrossEntropy.forward(&logits, &[1, 0])?.to_scalar::<f32>()?;
/// assert!((loss - (0.693_147 + 80.0) / 2.0).abs() < 1e-4);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// For one sigmoid unit: logits (N, 1), labels 0 or 1.
    BinaryCrossEntropy,
    /// For K softmax units: logits (N, K), labels below K.
    CategoricalCrossEntropy,
}

impl Loss {
    /// The loss that fits a head.
    pub fn for_head(head: &Head) -> Self {
        if head.is_sigmoid() {
            Self::BinaryCrossEntropy
        } else {
            Self::CategoricalCrossEntropy
        }
    }

    /// The mean loss of a batch, a scalar.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is one row of logits per label, [`Error::InvalidOption`] for a label that is not
    /// below the number of classes, or logits that are integers.
    pub fn forward(self, logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
        self.forward_with(logits, labels, &LossOptions::default())
    }

    /// The mean loss of a batch on smoothed and weighted labels, a scalar: the sum of the pictures' weighted
    /// losses over the number of pictures, as Keras's (PyTorch divides by the sum of the weights).
    ///
    /// # Errors
    /// As [`forward`](Self::forward); [`Error::InvalidOption`] for options out of range.
    pub fn forward_with(
        self,
        logits: &Tensor,
        labels: &[u32],
        options: &LossOptions,
    ) -> Result<Tensor> {
        let classes = self.check(logits, labels)?;
        options.check(classes)?;
        // A device gets them in one transfer: a column (N, 1) of targets, and one of weights where there are any.
        let weights = &options.class_weights;
        let targets = labels.iter().map(|label| self.target(*label));
        let weight = |label: &u32| weights.get(*label as usize).map(|weight| *weight as f32);
        let numbers: Vec<f32> = targets.chain(labels.iter().filter_map(weight)).collect();
        let shape = (numbers.len() / labels.len(), labels.len(), 1);
        let columns = Tensor::from_vec(numbers, shape, logits.device())?;
        let targets = columns.get(0)?;
        let mut losses = match self {
            Self::BinaryCrossEntropy => binary(logits, &targets, options.label_smoothing)?,
            Self::CategoricalCrossEntropy => {
                categorical(logits, &targets, options.label_smoothing)?
            }
        };
        if !weights.is_empty() {
            losses = (losses * columns.get(1)?.to_dtype(logits.dtype())?)?;
        }
        Ok(losses.mean_all()?)
    }

    /// What a label is to the formula: −1 or 1 of one sigmoid unit, and of softmax units the number itself, which f32
    /// holds exactly for the first 16 million classes.
    fn target(self, label: u32) -> f32 {
        match self {
            Self::BinaryCrossEntropy => 2.0 * label as f32 - 1.0,
            Self::CategoricalCrossEntropy => label as f32,
        }
    }

    /// Checks shapes and labels, and returns the number of classes.
    fn check(self, logits: &Tensor, labels: &[u32]) -> Result<usize> {
        if !logits.dtype().is_float() {
            let (found, allowed) = (logits.dtype().as_str(), "a floating-point type");
            return Err(Error::option("logits", found, allowed));
        }
        let (rows, columns) = logits.dims2()?;
        let (fits, expected) = match self {
            Self::BinaryCrossEntropy => (columns == 1, "1"),
            Self::CategoricalCrossEntropy => (columns > 1, "2 or more"),
        };
        if !fits || rows != labels.len() || rows == 0 {
            return Err(Error::Shape {
                what: "logits".into(),
                expected: format!("({}, {expected})", labels.len()),
                found: logits.dims().to_vec(),
            });
        }
        let classes = columns.max(2);
        match labels.iter().find(|label| **label as usize >= classes) {
            Some(label) => Err(Error::option("label", label, format!("below {classes}"))),
            None => Ok(classes),
        }
    }
}

/// The loss of each picture, (N, 1), of one sigmoid unit, and signs (N, 1).
fn binary(logits: &Tensor, signs: &Tensor, smoothing: f64) -> Result<Tensor> {
    // −ln sigmoid(s·z), with s = 1 for label 1 and −1 for label 0; the share a of a label that smoothing gives to the
    // other class adds a·(s·z), since ln sigmoid(x) = x + ln sigmoid(−x).
    let margins = (logits * signs.to_dtype(logits.dtype())?)?;
    let plain = softplus(&margins.neg()?)?;
    if smoothing > 0.0 {
        return Ok((plain + (margins * (smoothing / 2.0))?)?);
    }
    Ok(plain)
}

/// The loss of each picture, (N, 1), of K softmax units, and labels (N, 1).
fn categorical(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Result<Tensor> {
    let columns = logits.dim(1)?;
    let labels = labels.to_dtype(DType::U32)?;
    let log_probabilities = candle_nn::ops::log_softmax(logits, D::Minus1)?;
    let plain = log_probabilities.gather(&labels, 1)?.neg()?;
    if smoothing > 0.0 {
        let spread = log_probabilities.sum_keepdim(1)?;
        let spread = (spread * (smoothing / columns as f64))?;
        return Ok(((plain * (1.0 - smoothing))? - spread)?);
    }
    Ok(plain)
}

/// How labels become what a loss compares with; the default is as they are.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use headstart::train::metrics::{Loss, LossOptions};
///
/// // Pictures of class 1 count three times; a tenth of each label is spread over both classes.
/// let options = LossOptions { label_smoothing: 0.1, class_weights: vec![1.0, 3.0] };
/// let logits = Tensor::new(&[[2f32], [2.0]], &Device::Cpu)?;
/// let loss = Loss::BinaryCrossEntropy.forward_with(&logits, &[0, 1], &options)?;
/// let cost = |probability: f32| -probability.ln();
/// let p = 1.0 / (1.0 + (-2f32).exp());
/// let expected = (0.95 * cost(1.0 - p) + 0.05 * cost(p) + 3.0 * (0.95 * cost(p) + 0.05 * cost(1.0 - p))) / 2.0;
/// assert!((loss.to_scalar::<f32>()? - expected).abs() < 1e-5);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct LossOptions {
    /// The share of each label that is spread evenly over all K classes, in [0, 1): the class's own target
    /// becomes 1 − s + s/K, the others' s/K (Szegedy et al., "Rethinking the Inception Architecture", 2016,
    /// section 7). Of one sigmoid unit, 1 − s/2 and s/2. As Keras and PyTorch.
    pub label_smoothing: f64,
    /// What the loss of a picture of each class is multiplied by, from 0 to a million, in label order and not all 0;
    /// empty for 1.
    pub class_weights: Vec<f64>,
}

impl LossOptions {
    pub(in crate::train) fn check(&self, classes: usize) -> Result<()> {
        let smoothing = self.label_smoothing;
        if !below_one(smoothing) {
            let allowed = "at least 0 and below 1";
            return Err(Error::option("label_smoothing", smoothing, allowed));
        }
        let weights = &self.class_weights;
        let in_range = |w: &f64| not_negative(*w) && *w <= MAX_CLASS_WEIGHT;
        let fit = weights.len() == classes
            && weights.iter().all(in_range)
            && weights.iter().any(|w| *w > 0.0);
        if !weights.is_empty() && !fit {
            let allowed =
                format!("{classes} numbers, one per class, each 0 to a million and not all 0");
            let found = format!("{weights:?}");
            return Err(Error::option("class_weights", found, allowed));
        }
        Ok(())
    }
}

/// ln(1 + eˣ) as max(x, 0) + ln(1 + e^−|x|), which cannot overflow.
///
/// Its gradient must be sigmoid(x) everywhere. Through candle, |x| has gradient 0 at 0 and the two halves
/// would meet in the wrong slope there; ln(eˣ⁻ᵐ + e⁻ᵐ) + m with the constant m = max(x, 0) has the right one.
fn softplus(x: &Tensor) -> Result<Tensor> {
    let shift = x.detach().relu()?;
    let sum = ((x - &shift)?.exp()? + shift.neg()?.exp()?)?;
    Ok((sum.log()? + shift)?)
}
