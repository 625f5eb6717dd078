//! Several processes that train one model, each on its share of every batch: how they talk.
//!
//! A [`Trainer`](crate::Trainer) asks a [`Communicator`] to sum gradients and to carry small messages. [`Alone`] is one
//! process; with the feature `mpi`, `Mpi` is as many as `mpirun` or a cluster's scheduler starts, on one machine or on
//! many; with `nccl`, `Nccl` adds up what lies on their GPUs. docs/SCALING.md says what it brings, and from where on it
//! brings nothing.

mod alone;
#[cfg(any(feature = "nccl", test))]
mod gpus;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use candle_core::{DType, Device, Tensor};

pub use alone::Alone;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;

use crate::error::{Error, Result};

/// What ranks, the processes of one run, say to each other.
///
/// Every rank makes the same calls in the same order; each call ends when the others' do. A rank that leaves before the
/// others makes the call that they are in an error, which names it ([`Error::Rank`]).
///
/// What every rank gets of a sum is the same to the bit, and the same whenever the same number of ranks sums the same
/// numbers.
pub trait Communicator: fmt::Debug + Send + Sync {
    /// Which rank this is, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Begins to add up a buffer over all ranks, number by number. It has the same length on each of them. This rank
    /// may compute meanwhile, and begin further sums; other calls wait until all sums are made.
    ///
    /// # Errors
    /// [`Error::Rank`] when the others cannot be reached.
    fn begin_sum(&self, buffer: Vec<f32>) -> Result<Sum>;

    /// Whether gradients on this device go to [`sum_tensors`](Self::sum_tensors), all together when the last is there,
    /// rather than to [`begin_sum`](Self::begin_sum), as soon as each is. By default those on any device but the CPU.
    fn sums_tensors(&self, device: &Device) -> bool {
        !device.is_cpu()
    }

    /// Adds up tensors over all ranks, each with those in its place on the others, where they lie. They have the same
    /// shapes on each rank; sums are f32, whatever the tensors are. By default numbers go to
    /// [`begin_sum`](Self::begin_sum) and back.
    ///
    /// # Errors
    /// [`Error::Rank`] when the others cannot be reached; [`Error::Candle`] for tensors that cannot be read.
    fn sum_tensors(&self, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut failure = None;
        let mut sums = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            // The others wait for every sum, whatever happens here.
            let numbers = numbers(tensor).unwrap_or_else(|error| {
                failure.get_or_insert(error);
                vec![0.0; tensor.elem_count()]
            });
            sums.push(self.begin_sum(numbers)?);
        }
        let sums = sums.into_iter().map(Sum::wait);
        let sums = sums.collect::<Result<Vec<_>>>()?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let both = tensors.iter().zip(sums);
        both.map(|(tensor, sum)| Ok(Tensor::from_vec(sum, tensor.shape(), tensor.device())?))
            .collect()
    }

    /// What rank `from` has, on every rank. What others pass is not looked at.
    ///
    /// # Errors
    /// [`Error::Rank`] when the others cannot be reached.
    fn broadcast(&self, bytes: Vec<u8>, from: usize) -> Result<Vec<u8>>;

    /// What each rank has, by rank, on every rank.
    ///
    /// # Errors
    /// [`Error::Rank`] when the others cannot be reached, or one of them has left.
    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Waits until every rank is here.
    ///
    /// # Errors
    /// Those of [`gather`](Self::gather).
    fn barrier(&self) -> Result<()> {
        self.gather(&[]).map(|_| ())
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
}

impl<C: Communicator + ?Sized> Communicator for Arc<C> {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn size(&self) -> usize {
        (**self).size()
    }

    fn begin_sum(&self, buffer: Vec<f32>) -> Result<Sum> {
        (**self).begin_sum(buffer)
    }

    fn sums_tensors(&self, device: &Device) -> bool {
        (**self).sums_tensors(device)
    }

    fn sum_tensors(&self, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        (**self).sum_tensors(tensors)
    }

    fn broadcast(&self, bytes: Vec<u8>, from: usize) -> Result<Vec<u8>> {
        (**self).broadcast(bytes, from)
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        (**self).gather(bytes)
    }
}

/// What launchers tell the processes they start of how many there are: Open MPI's, those with PMI such as MPICH's and
/// Intel's, and Slurm's `srun`.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// The processes that `mpirun`, `mpiexec` or `srun` started this one with, or [`Alone`]. To be asked once in a process.
///
/// # Errors
/// [`Error::Mismatch`] for several processes of a program that was built without the feature `mpi`: each would train by
/// itself, and all write to the same files. Those of `Mpi::world`.
pub fn world() -> Result<Arc<dyn Communicator>> {
    let launched = SIZES.iter().find_map(|name| {
        let size = std::env::var(name).ok()?.parse().ok()?;
        (size > 1).then_some(size)
    });
    match launched {
        None => Ok(Arc::new(Alone)),
        Some(size) => several(size),
    }
}

#[cfg(feature = "mpi")]
fn several(_: usize) -> Result<Arc<dyn Communicator>> {
    Ok(Arc::new(Mpi::world()?))
}

#[cfg(not(feature = "mpi"))]
fn several(size: usize) -> Result<Arc<dyn Communicator>> {
    Err(Error::mismatch(
        "this program",
        "one that was built without the feature `mpi`",
        format!("one with it, since it was started as {size} processes"),
    ))
}

/// The ranks, with sums of what lies on this device made there: by `Nccl`, where the program is built with the feature
/// `nccl`, the device is one of CUDA's and there are several ranks. Otherwise they are as they were, and such sums go
/// by the processor's memory.
///
/// # Errors
/// Those of `Nccl::new`.
pub fn on_device(ranks: Arc<dyn Communicator>, device: &Device) -> Result<Arc<dyn Communicator>> {
    #[cfg(feature = "nccl")]
    if ranks.size() > 1 {
        let is_cuda = ranks.gather(&[u8::from(device.is_cuda())])?;
        if is_cuda.iter().any(|is_cuda| is_cuda == &[1]) {
            // It names a rank that has none.
            return Ok(Arc::new(Nccl::new(ranks, device)?));
        }
    }
    let _ = device;
    Ok(ranks)
}

/// A sum that is being made.
#[derive(Debug)]
pub struct Sum(Receiver<Result<Vec<f32>>>);

impl Sum {
    /// A sum that is handed over through a channel.
    pub fn new(receiver: Receiver<Result<Vec<f32>>>) -> Self {
        Self(receiver)
    }

    /// A sum that could not begin.
    pub fn failed(error: Error) -> Self {
        let (sender, receiver) = channel();
        // The receiver is still here.
        let _ = sender.send(Err(error));
        Self(receiver)
    }

    /// The sum, when it is made.
    ///
    /// # Errors
    /// [`Error::Rank`] when the others cannot be reached any more.
    pub fn wait(self) -> Result<Vec<f32>> {
        let lost = "whoever makes the sums is gone";
        self.0.recv().unwrap_or_else(|_| {
            Err(Error::Rank {
                rank: None,
                reason: lost.into(),
            })
        })
    }
}
