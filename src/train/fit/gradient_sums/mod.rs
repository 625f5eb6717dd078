//! Gradients of all ranks, added up while they are still computed.
//!
//! A backward pass makes gradients from the last block to the first. They are packed into buckets in that order, and a
//! bucket's sum begins as soon as the bucket is full, beside the rest of the pass. The head's, which the kernels do
//! not announce, and a base's that is not of the crate follow at the end. (Li et al., "PyTorch Distributed:
//! Experiences on Accelerating Data Parallel Training", 2020, section 3.2.) On a device, which announces none either,
//! all are added up at the end, where they lie.

mod plan;
mod tensors;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use self::plan::{Place, Plan};
use crate::error::{Error, Result};
use crate::model::GradientListener;
use crate::train::communicator::{Communicator, Sum};
use crate::train::optimizer::{put_back, take_out};
use crate::train::ranks::Ranks;

/// The sums of a run's steps.
pub(super) struct GradientSums {
    plan: Arc<Plan>,
    /// Where the gradients lie.
    device: Device,
    /// The last step's buckets, to be filled again.
    spare: Vec<Vec<f32>>,
}

impl GradientSums {
    pub(super) fn new(variables: &[(String, Var)]) -> Self {
        let device = variables.first().map(|(_, var)| var.device().clone());
        Self {
            plan: Arc::new(Plan::new(variables)),
            device: device.unwrap_or(Device::Cpu),
            spare: Vec::new(),
        }
    }

    /// Begins with a step. Every rank does, and [finishes](Self::finish) it, whatever happens between.
    pub(super) fn begin(&mut self, ranks: &Ranks) -> Arc<StepSums> {
        let mut buffers = std::mem::take(&mut self.spare);
        buffers.resize_with(self.plan.lengths.len(), Vec::new);
        Arc::new(StepSums {
            plan: self.plan.clone(),
            communicator: ranks.communicator().clone(),
            as_tensors: ranks.communicator().sums_tensors(&self.device),
            filling: Mutex::new(Filling {
                missing: self.plan.lengths.clone(),
                put: vec![false; self.plan.places.len()],
                buffers,
                taken: vec![false; self.plan.places.len()],
                sums: Vec::new(),
                failure: None,
            }),
        })
    }

    /// Adds what is not announced, waits for the sums, and makes them the gradients. Without gradients of its own,
    /// having no picture or having failed, a rank adds zeros.
    pub(super) fn finish(
        &mut self,
        step: &StepSums,
        own: Option<GradStore>,
        variables: &[(String, Var)],
    ) -> Result<GradStore> {
        let mut gradients = match own {
            Some(own) => own,
            // candle has no other way to an empty store.
            None => Tensor::zeros((), DType::F32, &Device::Cpu)?.backward()?,
        };
        if step.as_tensors {
            let communicator = &*step.communicator;
            tensors::sum(&self.plan, communicator, &mut gradients, variables)?;
            return Ok(gradients);
        }
        let mut filling = step.filling();
        let taken = filling.taken.clone();
        for (index, (_, var)) in variables.iter().enumerate() {
            if !filling.put[index] {
                step.put(&mut filling, index, gradients.get(var));
            }
        }
        let sums = std::mem::take(&mut filling.sums);
        let sums = sums.into_iter().map(Sum::wait).collect::<Result<_>>();
        if let Some(failure) = filling.failure.take() {
            return Err(failure);
        }
        self.spare = sums?;
        for (index, (_, var)) in variables.iter().enumerate() {
            let place = &self.plan.places[index];
            if taken[index]
                && let Some(gradient) = gradients.get(var)
            {
                put_back(gradient, std::mem::take(&mut self.spare[place.bucket]))?;
                continue;
            }
            let sum = &self.spare[place.bucket][place.start..][..place.length];
            let sum = Tensor::from_slice(sum, var.shape(), var.device())?;
            gradients.insert(var, sum.to_dtype(var.dtype())?);
        }
        Ok(gradients)
    }
}

/// The sums of one step.
pub(super) struct StepSums {
    plan: Arc<Plan>,
    communicator: Arc<dyn Communicator>,
    /// Whether the communicator takes the gradients as tensors, when all are there.
    as_tensors: bool,
    filling: Mutex<Filling>,
}

struct Filling {
    /// Of each bucket, until its sum begins.
    buffers: Vec<Vec<f32>>,
    /// How many numbers each bucket waits for.
    missing: Vec<usize>,
    /// Whether each variable's gradient is in its bucket.
    put: Vec<bool>,
    /// Whether the bucket is the gradient's own memory.
    taken: Vec<bool>,
    /// Of the first buckets, which begin in the same order on every rank.
    sums: Vec<Sum>,
    /// Why a gradient could not be read.
    failure: Option<Error>,
}

impl StepSums {
    /// What takes gradients as they are made.
    pub(super) fn listener(self: &Arc<Self>) -> GradientListener {
        if self.as_tensors {
            return Arc::new(|_, _| {});
        }
        let step = self.clone();
        Arc::new(move |variable, gradient| {
            if let Some(index) = step.plan.by_id.get(&variable.id()) {
                let filling = &mut step.filling();
                step.take(filling, *index, gradient);
                step.put(filling, *index, Some(gradient));
            }
        })
    }

    fn filling(&self) -> MutexGuard<'_, Filling> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a gradient that has a bucket to itself the bucket.
    fn take(&self, filling: &mut Filling, index: usize, gradient: &Tensor) {
        let place = &self.plan.places[index];
        let is_alone = place.length == self.plan.lengths[place.bucket];
        if is_alone
            && !filling.put[index]
            && let Ok(Some(numbers)) = take_out(gradient)
        {
            filling.buffers[place.bucket] = numbers;
            filling.taken[index] = true;
        }
    }

    /// Puts a gradient into its bucket, or zeros, and begins the sums of the buckets that are full.
    fn put(&self, filling: &mut Filling, index: usize, gradient: Option<&Tensor>) {
        let Place {
            bucket,
            start,
            length,
        } = self.plan.places[index];
        if std::mem::replace(&mut filling.put[index], true) {
            let twice = "a variable that has two gradients";
            let error = Error::mismatch("the base", twice, "one gradient a variable");
            filling.failure.get_or_insert(error);
            return;
        }
        if !filling.taken[index] {
            let buffer = &mut filling.buffers[bucket];
            buffer.resize(self.plan.lengths[bucket], 0.0);
            let numbers = &mut buffer[start..][..length];
            let written = match gradient {
                Some(gradient) => copy(gradient, numbers),
                None => {
                    numbers.fill(0.0);
                    Ok(())
                }
            };
            if let Err(error) = written {
                filling.failure.get_or_insert(error);
            }
        }
        filling.missing[bucket] -= length;
        loop {
            let next = filling.sums.len();
            if filling.missing.get(next) != Some(&0) {
                return;
            }
            let buffer = std::mem::take(&mut filling.buffers[next]);
            let sum = self.communicator.begin_sum(buffer);
            filling.sums.push(sum.unwrap_or_else(Sum::failed));
        }
    }
}

fn copy(gradient: &Tensor, numbers: &mut [f32]) -> Result<()> {
    let found = gradient.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
    numbers.copy_from_slice(&found);
    Ok(())
}
