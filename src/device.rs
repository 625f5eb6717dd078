//! Where tensors go unless the caller says: to a GPU that answers, or else to the CPU.

use std::any::Any;
use std::panic::catch_unwind;

use candle_core::{Device, Result as CandleResult, Tensor, utils};

use crate::progress;

/// The first GPU, where the crate is built for one (feature `cuda` or `metal`) and it answers; otherwise the CPU. Of
/// several processes that a launcher started on a machine, the second gets the second of its CUDA GPUs, and so on;
/// where there are fewer, from the first again.
///
/// A GPU that does not answer is no error: a line on the standard error says why, and the CPU computes. One answers
/// when its driver opens it and it adds two numbers. candle's `Device::cuda_if_available` asks only whether the
/// feature is on, and is an error then. A program that is built with `cuda` needs CUDA's libraries to start at all,
/// since candle links to them: on a machine without a driver, the toolkit's folder `lib64/stubs` in `LD_LIBRARY_PATH`
/// has one that says no.
///
/// ```
/// use headstart::{ConvBase, Weights, best_device};
///
/// let base = ConvBase::vgg11(Weights::Random { seed: 1 }, &best_device())?;
/// # Ok::<(), headstart::Error>(())
/// ```
pub fn best_device() -> Device {
    let found = if utils::cuda_is_available() {
        answering("CUDA", || Device::new_cuda(turn(local_rank(), gpus())))
    } else if utils::metal_is_available() {
        answering("Metal", || Device::new_metal(0))
    } else {
        Ok(Device::Cpu)
    };
    found.unwrap_or_else(|why| {
        progress::warn(&why);
        Device::Cpu
    })
}

/// What launchers tell the processes they start of their number on the machine, from 0: Open MPI's, those of Hydra such
/// as MPICH's and Intel's, and Slurm's `srun`.
const LOCAL_RANKS: [&str; 3] = [
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "SLURM_LOCALID",
];

/// The number of this process among those that were started together on this machine.
fn local_rank() -> usize {
    let mut known = LOCAL_RANKS.iter();
    let number = known.find_map(|name| std::env::var(name).ok()?.parse().ok());
    number.unwrap_or(0)
}

/// How many GPUs CUDA shows to this process: a scheduler may have given it one of its own.
#[cfg(feature = "cuda")]
fn gpus() -> usize {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    let count = CudaContext::device_count().map(usize::try_from);
    count.map_or(0, |count| count.unwrap_or(0))
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> usize {
    0
}

/// The GPU of a process; the first where none is known, so that opening it says why.
fn turn(local_rank: usize, gpus: usize) -> usize {
    local_rank % gpus.max(1)
}

/// A device that answers, or the line that says why there is none.
fn answering(kind: &str, open: fn() -> CandleResult<Device>) -> Result<Device, String> {
    let asked = catch_unwind(|| {
        let device = open()?;
        let two = (Tensor::new(1f32, &device)? + 1.0)?;
        two.to_scalar::<f32>().map(|_| device)
    });
    let reason = match asked {
        Ok(Ok(device)) => return Ok(device),
        Ok(Err(error)) => error.to_string(),
        // A library that is looked for when it is called, and not found, is a panic of cudarc's.
        Err(panic) => panic_message(&*panic),
    };
    // Further lines are a backtrace.
    let reason = reason.lines().next().unwrap_or_default();
    Err(format!(
        "no {kind} device answers, so the CPU computes: {reason}"
    ))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("its library panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_answer_is_a_line_that_says_why() {
        let refused = || Err(candle_core::Error::msg("no driver\nsecond line"));
        let why = answering("CUDA", refused).unwrap_err();
        assert_eq!(
            why,
            "no CUDA device answers, so the CPU computes: no driver"
        );
        let why = answering("CUDA", || panic!("no library {}", 1)).unwrap_err();
        assert!(why.ends_with("computes: no library 1"), "{why}");
        assert!(answering("CUDA", || Ok(Device::Cpu)).unwrap().is_cpu());
    }

    #[test]
    fn processes_of_a_machine_take_turns_at_its_gpus() {
        assert_eq!([0, 1, 2, 3, 4].map(|rank| turn(rank, 4)), [0, 1, 2, 3, 0]);
        // A scheduler may show each process one alone.
        assert_eq!([0, 1, 2].map(|rank| turn(rank, 1)), [0, 0, 0]);
        assert_eq!([0, 1, 2].map(|rank| turn(rank, 0)), [0, 0, 0]);
    }

    #[test]
    fn without_a_gpu_the_best_device_is_the_cpu() {
        if !utils::cuda_is_available() && !utils::metal_is_available() {
            assert!(best_device().is_cpu());
        }
    }
}
