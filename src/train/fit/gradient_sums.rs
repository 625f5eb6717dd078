//! Gradients of all ranks, added up while they are still computed.
//!
//! A backward pass makes gradients from the last block to the first. They are packed into buckets in that order, and a
//! bucket's sum begins as soon as the bucket is full, beside the rest of the pass. The head's, which the kernels do not
//! announce, and a base's that is not of the crate follow at the end. (Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel
//! Training", 2020, section 3.2.)

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, TensorId, Var};

use super::ranks::Ranks;
use crate::error::{Error, Result};
use crate::kernels::{self, Listener};
use crate::model::names;
use crate::train::communicator::{Communicator, Sum};

/// The numbers in a bucket, 4 MB: large enough that a sum's latency does not count, small enough to begin early.
const BUCKET: usize = 1 << 20;

/// Where every variable's gradient lies.
struct Plan {
    places: Vec<Place>,
    by_id: HashMap<TensorId, usize>,
    /// The numbers of each bucket.
    lengths: Vec<usize>,
}

#[derive(Default)]
struct Place {
    bucket: usize,
    start: usize,
    length: usize,
}

impl Plan {
    /// Buckets from the base's last variable to its first, and one for the head.
    fn new(variables: &[(String, Var)]) -> Self {
        let all = || variables.iter().enumerate();
        let is_head = |name: &str| name.starts_with(names::HEAD);
        let base = all().filter(|(_, (name, _))| !is_head(name)).rev();
        let head = all().filter(|(_, (name, _))| is_head(name));
        let mut lengths = Vec::new();
        let mut places: Vec<Place> = variables.iter().map(|_| Place::default()).collect();
        let mut was_head = false;
        for (index, (name, var)) in base.chain(head) {
            let begins = is_head(name) && !was_head;
            if begins || lengths.last().is_none_or(|length| *length >= BUCKET) {
                lengths.push(0);
            }
            was_head = is_head(name);
            let (bucket, length) = (lengths.len() - 1, var.elem_count());
            let start = lengths[bucket];
            places[index] = Place {
                bucket,
                start,
                length,
            };
            lengths[bucket] += length;
        }
        Self {
            places,
            by_id: all().map(|(index, (_, var))| (var.id(), index)).collect(),
            lengths,
        }
    }
}

/// The sums of a run's steps.
pub(super) struct GradientSums {
    plan: Arc<Plan>,
    /// The last step's buckets, to be filled again.
    spare: Vec<Vec<f32>>,
}

impl GradientSums {
    pub(super) fn new(variables: &[(String, Var)]) -> Self {
        Self {
            plan: Arc::new(Plan::new(variables)),
            spare: Vec::new(),
        }
    }

    /// Begins with a step. Every rank does, and [finishes](Self::finish) it, whatever happens between.
    pub(super) fn begin(&mut self, ranks: &Ranks) -> Arc<StepSums> {
        let mut buffers = std::mem::take(&mut self.spare);
        if buffers.is_empty() {
            let lengths = self.plan.lengths.iter();
            buffers = lengths.map(|length| vec![0.0; *length]).collect();
        }
        Arc::new(StepSums {
            plan: self.plan.clone(),
            communicator: ranks.communicator().clone(),
            filling: Mutex::new(Filling {
                missing: self.plan.lengths.clone(),
                put: vec![false; self.plan.places.len()],
                buffers: buffers.into_iter().map(Some).collect(),
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
        let mut filling = step.filling();
        let announced = filling.put.clone();
        for (index, (_, var)) in variables.iter().enumerate() {
            if !announced[index] {
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
            let sum = &self.spare[place.bucket][place.start..][..place.length];
            match gradients.get(var).filter(|_| announced[index]) {
                // The kernels made it, and nobody else has its memory.
                Some(gradient) => {
                    kernels::fill(gradient, |numbers| numbers.copy_from_slice(sum))?;
                }
                None => {
                    let sum = Tensor::from_slice(sum, var.shape(), var.device())?;
                    gradients.insert(var, sum.to_dtype(var.dtype())?);
                }
            }
        }
        Ok(gradients)
    }
}

/// The sums of one step.
pub(super) struct StepSums {
    plan: Arc<Plan>,
    communicator: Arc<dyn Communicator>,
    filling: Mutex<Filling>,
}

struct Filling {
    /// Of each bucket, until its sum begins.
    buffers: Vec<Option<Vec<f32>>>,
    /// How many numbers each bucket waits for.
    missing: Vec<usize>,
    /// Whether each variable's gradient is in its bucket.
    put: Vec<bool>,
    /// Of the first buckets, which begin in the same order on every rank.
    sums: Vec<Sum>,
    /// Why a gradient could not be read.
    failure: Option<Error>,
}

impl StepSums {
    /// What takes gradients as they are made.
    pub(super) fn listener(self: &Arc<Self>) -> Listener {
        let step = self.clone();
        Arc::new(move |variable, gradient| {
            if let Some(index) = step.plan.by_id.get(&variable.id()) {
                step.put(&mut step.filling(), *index, Some(gradient));
            }
        })
    }

    fn filling(&self) -> MutexGuard<'_, Filling> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a gradient into its bucket, or zeros, and begins the sums of the buckets that are full.
    fn put(&self, filling: &mut Filling, index: usize, gradient: Option<&Tensor>) {
        let Place {
            bucket,
            start,
            length,
        } = self.plan.places[index];
        if let Some(buffer) = &mut filling.buffers[bucket] {
            let numbers = &mut buffer[start..][..length];
            let written = match gradient {
                Some(gradient) => copy(gradient, numbers),
                None => Ok(numbers.fill(0.0)),
            };
            if let Err(error) = written {
                filling.failure.get_or_insert(error);
            }
        }
        if std::mem::replace(&mut filling.put[index], true) {
            let twice = "a variable that has two gradients";
            let error = Error::mismatch("the base", twice, "one gradient a variable");
            filling.failure.get_or_insert(error);
            return;
        }
        filling.missing[bucket] -= length;
        loop {
            let next = filling.sums.len();
            if filling.missing.get(next) != Some(&0) {
                return;
            }
            let buffer = filling.buffers[next].take().unwrap_or_default();
            let sum = self.communicator.begin_sum(buffer);
            filling.sums.push(sum.unwrap_or_else(Sum::failed));
        }
    }
}

fn copy(gradient: &Tensor, numbers: &mut [f32]) -> Result<()> {
    if let Ok(found) = kernels::values(gradient).slice() {
        numbers.copy_from_slice(found);
        return Ok(());
    }
    let found = gradient.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
    numbers.copy_from_slice(&found);
    Ok(())
}
