//! Sums of what lies on GPUs, by NCCL: they never go through the processor's memory.
//!
//! A thread of its own owns NCCL and makes every call, as NCCL's handle belongs to one thread. candle's stream is
//! another one in each thread (CUDA's per-thread default), so events tell the two what to wait for: the sums begin when
//! the tensors are made, and what is asked for afterwards begins when the sums are. No thread waits for the GPU.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaSlice, CudaStream};
use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, ReduceOp};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Storage, Tensor};

use super::gpus::{self, Uuid};
use super::{Communicator, Sum};
use crate::error::{Error, Result};

/// Ranks of which each has a GPU to itself: gradients are added up there. All else goes by another communicator, in
/// practice `Mpi`. [`on_device`](super::on_device) is it where it should be.
///
/// ```no_run
/// use headstart::train::communicator::{Nccl, world};
/// use headstart::{RmsProp, Trainer, best_device};
///
/// // The device of each is the GPU with the number that the rank has on its machine.
/// let ranks = Nccl::new(world()?, &best_device())?;
/// let trainer = Trainer::new(RmsProp::new(2e-5)).communicator(ranks);
/// # Ok::<(), headstart::Error>(())
/// ```
///
/// Sums are made in f32, also those of f16 and bf16. It has been type-checked, and has never run on a GPU.
#[derive(Debug)]
pub struct Nccl {
    others: Arc<dyn Communicator>,
    device: CudaDevice,
    calls: Option<Mutex<Sender<Call>>>,
    thread: Option<JoinHandle<()>>,
}

/// Numbers to add up where they lie.
type Numbers = Vec<CudaSlice<f32>>;

/// Numbers, when they are there, and where they go with an event for when the sums are.
struct Call {
    numbers: Numbers,
    made: CudaEvent,
    to: Sender<Result<(Numbers, CudaEvent)>>,
}

impl Nccl {
    /// Joins the GPUs of these ranks; every rank does so at the same time. The device is one of CUDA's, and the
    /// model's.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when a rank has another device, or two have the same GPU, which NCCL refuses;
    /// [`Error::Rank`] when the others cannot be reached.
    pub fn new(others: Arc<dyn Communicator>, device: &Device) -> Result<Self> {
        let (device, uuid) = match gpu(device) {
            Ok((device, uuid)) => (Some(device), Ok(uuid)),
            Err(reason) => (None, Err(reason)),
        };
        gpus::agree(&*others, &uuid)?;
        let device = device.ok_or_else(gone)?;
        let id = share_id(&*others)?;
        let (calls, receiver) = channel();
        let (joined, joining) = channel();
        let (stream, rank, size) = (device.cuda_stream(), others.rank(), others.size());
        let thread = thread::Builder::new()
            .name("nccl".to_owned())
            .spawn(move || match join(&stream, rank, size, id) {
                Ok(gpus) => {
                    let _ = joined.send(Ok(()));
                    gpus.answer(&receiver);
                }
                // Whoever asked is waiting for it.
                Err(error) => drop(joined.send(Err(error))),
            })
            .map_err(|error| failed("starting its thread", error))?;
        joining.recv().unwrap_or_else(|_| Err(gone()))?;
        Ok(Self {
            others,
            device,
            calls: Some(Mutex::new(calls)),
            thread: Some(thread),
        })
    }

    /// The numbers of tensors as f32, in memory of their own.
    fn copy(&self, tensor: &Tensor) -> Result<CudaSlice<f32>> {
        let tensor = tensor.to_dtype(DType::F32)?.contiguous()?;
        let (storage, layout) = tensor.storage_and_layout();
        let offsets = layout.contiguous_offsets();
        let (Storage::Cuda(storage), Some((start, end))) = (&*storage, offsets) else {
            let found = format!("one on {:?}", tensor.device().location());
            return Err(Error::mismatch("a tensor", found, "one on NCCL's GPU"));
        };
        if !storage.device().same_device(&self.device) {
            let expected = "one of the `Device` that NCCL was given";
            return Err(Error::mismatch(
                "a tensor",
                "one of another `Device`",
                expected,
            ));
        }
        let numbers = storage.as_cuda_slice::<f32>()?.slice(start..end);
        let copied = self.device.cuda_stream().clone_dtod(&numbers);
        copied.map_err(|error| failed("copying gradients", error))
    }

    fn sum(&self, numbers: Numbers) -> Result<Numbers> {
        let stream = self.device.cuda_stream();
        let ordered = |error| failed("ordering the sums", error);
        let made = stream.record_event(None).map_err(ordered)?;
        let (to, sums) = channel();
        let calls = self.calls.as_ref().ok_or_else(gone)?;
        let calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        let call = Call { numbers, made, to };
        calls.send(call).map_err(|_| gone())?;
        let (numbers, summed) = sums.recv().map_err(|_| gone())??;
        stream.wait(&summed).map_err(ordered)?;
        Ok(numbers)
    }
}

impl Communicator for Nccl {
    fn rank(&self) -> usize {
        self.others.rank()
    }

    fn size(&self) -> usize {
        self.others.size()
    }

    fn begin_sum(&self, buffer: Vec<f32>) -> Result<Sum> {
        self.others.begin_sum(buffer)
    }

    fn sum_tensors(&self, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        let numbers = tensors.iter().map(|tensor| self.copy(tensor));
        let sums = self.sum(numbers.collect::<Result<_>>()?)?;
        let both = tensors.iter().zip(sums);
        let whole = both.map(|(tensor, sum)| {
            let storage = CudaStorage::wrap_cuda_slice(sum, self.device.clone());
            let (storage, shape) = (Storage::Cuda(storage), tensor.shape());
            Tensor::from_storage(storage, shape, BackpropOp::none(), false)
        });
        Ok(whole.collect())
    }

    fn broadcast(&self, bytes: Vec<u8>, from: usize) -> Result<Vec<u8>> {
        self.others.broadcast(bytes, from)
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.others.gather(bytes)
    }
}

impl Drop for Nccl {
    /// Sums that wait for a rank that is gone end with it.
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What owns NCCL's handle.
struct Gpus {
    comm: Comm,
    stream: Arc<CudaStream>,
}

/// Returns when every rank has joined.
fn join(stream: &Arc<CudaStream>, rank: usize, size: usize, id: Id) -> Result<Gpus> {
    // NCCL takes the GPU that is the thread's.
    let bound = stream.context().bind_to_thread();
    bound.map_err(|error| failed("choosing the GPU", error))?;
    let comm = Comm::from_rank(stream.clone(), rank, size, id);
    Ok(Gpus {
        comm: comm.map_err(|error| refused("joining the others", &error))?,
        stream: stream.clone(),
    })
}

impl Gpus {
    fn answer(&self, calls: &Receiver<Call>) {
        for Call { numbers, made, to } in calls {
            // Whoever asked is waiting for it.
            let _ = to.send(self.sum(numbers, &made));
        }
    }

    fn sum(&self, mut numbers: Numbers, made: &CudaEvent) -> Result<(Numbers, CudaEvent)> {
        let ordered = |error| failed("ordering the sums", error);
        self.stream.wait(made).map_err(ordered)?;
        for numbers in &mut numbers {
            let summed = self.comm.all_reduce_in_place(numbers, &ReduceOp::Sum);
            summed.map_err(|error| refused("adding up gradients", &error))?;
        }
        let summed = self.stream.record_event(None).map_err(ordered)?;
        Ok((numbers, summed))
    }
}

/// A device as CUDA's, and what tells it from others.
fn gpu(device: &Device) -> std::result::Result<(CudaDevice, Uuid), String> {
    let Device::Cuda(cuda) = device else {
        return Err(format!("none, but {:?}", device.location()));
    };
    let uuid = cuda.cuda_stream().context().uuid();
    let uuid = uuid.map_err(|error| format!("one that does not answer: {error}"))?;
    Ok((cuda.clone(), uuid.bytes.map(|byte| byte.to_ne_bytes()[0])))
}

/// What rank 0's NCCL calls this run, on every rank.
fn share_id(others: &dyn Communicator) -> Result<Id> {
    let own = match others.rank() {
        0 => Id::new().map_err(|error| refused("beginning", &error)),
        _ => Ok(Id::uninit([0; 128])),
    };
    // Without an id, the others hear so by its length.
    let bytes = own.as_ref().map_or_else(
        |_| Vec::new(),
        |id| id.internal().map(|byte| byte.to_ne_bytes()[0]).to_vec(),
    );
    let bytes = others.broadcast(bytes, 0)?;
    own?;
    let bytes: [u8; 128] = bytes.try_into().map_err(|_| Error::Rank {
        rank: Some(0),
        reason: "its NCCL does not begin".to_owned(),
    })?;
    Ok(Id::uninit(
        bytes.map(|byte| std::ffi::c_char::from_ne_bytes([byte])),
    ))
}

fn refused(doing: &str, error: &NcclError) -> Error {
    failed(doing, format!("{:?}", error.0))
}

fn failed(doing: &str, reason: impl std::fmt::Display) -> Error {
    Error::Rank {
        rank: None,
        reason: format!("NCCL, {doing}: {reason}"),
    }
}

fn gone() -> Error {
    failed("answering", "its thread is gone")
}
