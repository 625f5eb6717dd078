//! Losses on logits, numerically stable, mean over the batch.

use candle_core::{D, Tensor};

use crate::model::Head;
use crate::{Error, Result};

/// A classification loss on logits: the mean over the batch of −ln(probability of the true class).
///
/// ```
/// use candle_core::{Device, Tensor};
/// use headstart::train::Loss;
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
    /// [`Error::Shape`] unless there is one row of logits per label, [`Error::Option`] for a label that is not
    /// below the number of classes.
    pub fn forward(self, logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
        let (rows, columns) = logits.dims2()?;
        let fits = match self {
            Self::BinaryCrossEntropy => columns == 1,
            Self::CategoricalCrossEntropy => columns > 1,
        };
        if !fits || rows != labels.len() || rows == 0 {
            return Err(Error::Shape {
                what: "logits".into(),
                expected: match self {
                    Self::BinaryCrossEntropy => format!("({}, 1)", labels.len()),
                    Self::CategoricalCrossEntropy => format!("({}, 2 or more)", labels.len()),
                },
                found: logits.dims().to_vec(),
            });
        }
        let classes = columns.max(2) as u32;
        if let Some(label) = labels.iter().find(|label| **label >= classes) {
            return Err(Error::option("label", label, format!("below {classes}")));
        }
        match self {
            Self::BinaryCrossEntropy => {
                // −ln sigmoid(s·z), with s = 1 for label 1 and −1 for label 0.
                let signs: Vec<f32> = labels
                    .iter()
                    .map(|label| 2.0 * *label as f32 - 1.0)
                    .collect();
                let signs = Tensor::from_vec(signs, (rows, 1), logits.device())?
                    .to_dtype(logits.dtype())?;
                Ok(softplus(&(logits * signs)?.neg()?)?.mean_all()?)
            }
            Self::CategoricalCrossEntropy => {
                let labels = Tensor::from_slice(labels, (rows, 1), logits.device())?;
                let log_probabilities = candle_nn::ops::log_softmax(logits, D::Minus1)?;
                Ok(log_probabilities.gather(&labels, 1)?.mean_all()?.neg()?)
            }
        }
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
