//! Gradients of all ranks, added up where they lie: on a device, when the last of them is asked for.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};

use super::plan::Plan;
use crate::error::{Error, Result};
use crate::train::communicator::Communicator;

/// Makes the sums over all ranks the gradients. Where there is none, or it cannot be read, zeros are added.
pub(super) fn sum(
    plan: &Plan,
    communicator: &dyn Communicator,
    gradients: &mut GradStore,
    variables: &[(String, Var)],
) -> Result<()> {
    let mut failure = None;
    let buckets = plan.members.iter().zip(&plan.lengths);
    let buckets = buckets.map(|(members, length)| {
        let filled = bucket(members, gradients, variables);
        // The others wait for this rank, whatever happens here.
        filled.or_else(|error| {
            failure.get_or_insert(error);
            let device = variables[members[0]].1.device();
            Ok(Tensor::zeros(*length, DType::F32, device)?)
        })
    });
    let buckets = buckets.collect::<Result<Vec<Tensor>>>()?;
    let sums = communicator.sum_tensors(&buckets)?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    for ((_, var), place) in variables.iter().zip(&plan.places) {
        let sum = sums[place.bucket].narrow(0, place.start, place.length)?;
        gradients.insert(var, sum.reshape(var.shape())?.to_dtype(var.dtype())?);
    }
    Ok(())
}

/// Gradients one after the other, as f32.
fn bucket(members: &[usize], gradients: &GradStore, variables: &[(String, Var)]) -> Result<Tensor> {
    let flat = |index: &usize| -> Result<Tensor> {
        let var = &variables[*index].1;
        match gradients.get(var) {
            Some(gradient) => Ok(gradient.detach().to_dtype(DType::F32)?.flatten_all()?),
            None => Ok(Tensor::zeros(var.elem_count(), DType::F32, var.device())?),
        }
    };
    let flat = members
        .iter()
        .map(flat)
        .collect::<Result<Vec<_>, Error>>()?;
    match flat.as_slice() {
        [one] => Ok(one.clone()),
        all => Ok(Tensor::cat(all, 0)?),
    }
}
