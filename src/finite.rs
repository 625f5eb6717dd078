//! Finite numbers: whether there are others among some, and which comes first.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::kernels::vectorize;
use crate::transfer;

/// The exponent's bits of an f32: all are set in NaN and infinity, and in no other number.
const EXPONENT: u32 = 0x7f80_0000;

/// Sums that are kept side by side: enough to keep the processor's vector units busy.
const LANES: usize = 64;

/// Whether all numbers are finite. It is meant to cost next to nothing, an addition each: a sum that NaN or infinity
/// went into is never finite again. Sums of finite numbers may overflow too, so that only then each number is looked
/// at.
pub(crate) fn all(values: &[f32]) -> bool {
    vectorize(
        #[inline(always)]
        || {
            let mut sums = [0f32; LANES];
            let (groups, rest) = values.as_chunks::<LANES>();
            for group in groups {
                for (sum, value) in sums.iter_mut().zip(group) {
                    *sum += value;
                }
            }
            none_is_bad(&sums) && none_is_bad(rest) || none_is_bad(values)
        },
    )
}

/// The same by looking at each, without a branch but the last.
#[inline(always)]
fn none_is_bad(values: &[f32]) -> bool {
    let bad = |value: &f32| u32::from(value.to_bits() & EXPONENT == EXPONENT);
    values.iter().fold(0, |any, value| any | bad(value)) == 0
}

/// The first number that is NaN or infinite.
pub(crate) fn first_not(values: &[f32]) -> Option<f32> {
    if all(values) {
        return None;
    }
    values.iter().copied().find(|value| !value.is_finite())
}

/// 0 where all numbers of a tensor are finite, and NaN otherwise: one number, on the tensor's device.
pub(crate) fn doubt(tensor: &Tensor) -> candle_core::Result<Tensor> {
    let zeros = (tensor.detach() * 0.0)?;
    zeros.sum_all()?.to_dtype(DType::F32)
}

/// The first number of a tensor that is NaN or infinite; integers are neither.
pub(crate) fn first_not_in(tensor: &Tensor) -> Result<Option<f32>> {
    let tensor = tensor.detach();
    match tensor.dtype() {
        DType::F64 => {
            let values: Vec<f64> = tensor.flatten_all()?.to_vec1()?;
            let bad = values.into_iter().find(|value| !value.is_finite());
            Ok(bad.map(|value| value as f32))
        }
        DType::F32 | DType::F16 | DType::BF16 => {
            let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            Ok(first_not(&values))
        }
        _ => Ok(None),
    }
}

/// Refuses a tensor with a number that is NaN or infinite.
pub(crate) fn require(what: impl FnOnce() -> String, tensor: &Tensor) -> Result<()> {
    match first_not_in(tensor)? {
        None => Ok(()),
        Some(value) => Err(Error::NotFinite {
            what: what(),
            value,
        }),
    }
}

/// The first of some tensors that holds NaN or infinity, and the number.
pub(crate) fn first_tensor(
    tensors: impl IntoIterator<Item = (String, Tensor)>,
) -> Result<Option<(String, f32)>> {
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().collect();
    for (name, tensor) in doubtful(tensors)? {
        if let Some(value) = first_not_in(&tensor)? {
            return Ok(Some((name, value)));
        }
    }
    Ok(None)
}

/// The tensors whose numbers have to be looked at: all that the CPU has, and of a device's those that hold NaN or
/// infinity, so that one number is transferred of each of the others.
fn doubtful(tensors: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>> {
    let floats = |tensor: &Tensor| tensor.dtype().is_float();
    if tensors
        .iter()
        .any(|(_, tensor)| tensor.device().is_cpu() || !floats(tensor))
    {
        return Ok(tensors);
    }
    let doubts = tensors.iter().map(|(_, tensor)| doubt(tensor));
    let doubts = doubts.collect::<candle_core::Result<Vec<_>>>()?;
    let doubts = transfer::read(&doubts.iter().collect::<Vec<_>>())?;
    let with_doubts = tensors.into_iter().zip(doubts.into_iter().flatten());
    let doubtful = with_doubts.filter(|(_, doubt)| *doubt != 0.0);
    Ok(doubtful.map(|(tensor, _)| tensor).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_looked_at_and_every_finite_number_passes() {
        let extremes = [0.0, -0.0, f32::MIN, f32::MAX, f32::MIN_POSITIVE, 1e-45];
        assert!(all(&extremes) && all(&[]));
        assert!(all(&[f32::MAX; 200]) && all(&[f32::MIN; 67]));
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in 0..167 {
                let mut values = [1.5; 167];
                values[place] = bad;
                assert!(!all(&values), "{bad} at {place}");
                assert_eq!(first_not(&values).map(f32::to_bits), Some(bad.to_bits()));
            }
        }
    }
}
