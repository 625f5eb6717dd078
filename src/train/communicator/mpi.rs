//! Ranks by MPI, through rsmpi: Open MPI, MPICH, or whatever the machine's `mpicc` belongs to.
//!
//! A thread of its own owns MPI and makes every call, in the order they are asked for: so sums go on while the others
//! compute, and MPI need not know of threads. It asks MPI again and again whether a call is done, and sleeps in
//! between, since a core that waits busily would be missing where another computes.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ::mpi::Threading;
use ::mpi::collective::SystemOperation;
use ::mpi::environment::Universe;
use ::mpi::request::{Request, Scope, scope};
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator as _, CommunicatorCollectives, Root};

use super::{Communicator, Sum};
use crate::error::{Error, Result};
use crate::progress::{Verbosity, set_verbosity};

/// How long a call is waited for busily. Small ones take a few microseconds, and computing waits for them.
const BUSY: Duration = Duration::from_micros(100);
/// How long is slept between questions after that.
const NAP: Duration = Duration::from_micros(50);

/// The most numbers in one call: MPI counts them in an `int`.
const PIECE: usize = 1 << 28;

/// The most bytes of each rank in one call.
const GATHERED: usize = 1 << 22;

/// A length that says that a rank leaves.
const LEAVES: u64 = u64::MAX;

/// The processes that `mpirun`, `mpiexec` or `srun` started together. Clones are the same rank. [`world`](super::world)
/// is it where there are several, and [`Alone`](super::Alone) where there are not.
///
/// ```no_run
/// use headstart::train::communicator::Mpi;
/// use headstart::{RmsProp, Trainer};
///
/// let trainer = Trainer::new(RmsProp::new(2e-5)).communicator(Mpi::world()?);
/// # Ok::<(), headstart::Error>(())
/// ```
///
/// The last clone that goes says good-bye to the other ranks; one that goes in a panic ends them all.
#[derive(Clone, Debug)]
pub struct Mpi(Arc<World>);

#[derive(Debug)]
struct World {
    rank: usize,
    size: usize,
    calls: Mutex<Sender<Call>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A call for the thread that owns MPI, and where its result goes.
enum Call {
    Sum(Vec<f32>, Sender<Result<Vec<f32>>>),
    Broadcast(Vec<u8>, usize, Sender<Result<Vec<u8>>>),
    Gather(Vec<u8>, Sender<Result<Vec<Vec<u8>>>>),
    Leave,
    Abort,
}

impl Mpi {
    /// Joins the other processes, once in a process. On other ranks than 0 it makes the crate
    /// [silent](Verbosity::Silent).
    ///
    /// # Errors
    /// [`Error::Rank`] when MPI is in use in this process already.
    pub fn world() -> Result<Self> {
        let (calls, receiver) = channel();
        let (joined, place) = channel();
        let thread = thread::Builder::new()
            .name("mpi".to_owned())
            .spawn(move || own(&joined, &receiver))
            .map_err(|error| unreachable(error.to_string()))?;
        let (rank, size) = place
            .recv()
            .map_err(|_| unreachable("MPI is in use in this process already".to_owned()))?;
        if rank > 0 {
            set_verbosity(Verbosity::Silent);
        }
        Ok(Self(Arc::new(World {
            rank,
            size,
            calls: Mutex::new(calls),
            thread: Mutex::new(Some(thread)),
        })))
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.0.rank
    }

    fn size(&self) -> usize {
        self.0.size
    }

    fn begin_sum(&self, buffer: Vec<f32>) -> Result<Sum> {
        let (sender, receiver) = channel();
        self.0.call(Call::Sum(buffer, sender))?;
        Ok(Sum::new(receiver))
    }

    fn broadcast(&self, bytes: Vec<u8>, from: usize) -> Result<Vec<u8>> {
        self.0.answer(|sender| Call::Broadcast(bytes, from, sender))
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.0.answer(|sender| Call::Gather(bytes.to_vec(), sender))
    }
}

impl World {
    fn call(&self, call: Call) -> Result<()> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |_| unreachable("the thread that talks to them is gone".to_owned());
        calls.send(call).map_err(gone)
    }

    fn answer<T>(&self, call: impl FnOnce(Sender<Result<T>>) -> Call) -> Result<T> {
        let (sender, receiver) = channel();
        self.call(call(sender))?;
        let gone = |_| unreachable("the thread that talks to them is gone".to_owned());
        receiver.recv().map_err(gone)?
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Others would wait for ever for a rank that panicked in the middle of something.
        let last = match thread::panicking() {
            true => Call::Abort,
            false => Call::Leave,
        };
        let _ = self.call(last);
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            let _ = thread.join();
        }
    }
}

/// That other ranks are out of reach.
fn unreachable(reason: String) -> Error {
    Error::Rank { rank: None, reason }
}

/// The thread that owns MPI: joins, says which rank it is, makes the calls, and leaves.
fn own(joined: &Sender<(usize, usize)>, calls: &Receiver<Call>) {
    // `Funneled`: the thread that initialises makes all calls.
    let Some((universe, _)) = ::mpi::initialize_with_threading(Threading::Funneled) else {
        return;
    };
    let world = universe.world();
    let mut ranks = Ranks {
        rank: world.rank().unsigned_abs() as usize,
        size: world.size().unsigned_abs() as usize,
        world,
        left: false,
        spare: Vec::new(),
        _universe: universe,
    };
    if joined.send((ranks.rank, ranks.size)).is_err() {
        return;
    }
    for call in calls {
        // Whoever asked may have gone.
        match call {
            Call::Sum(buffer, to) => drop(to.send(Ok(ranks.sum(buffer)))),
            Call::Broadcast(bytes, from, to) => drop(to.send(Ok(ranks.broadcast(bytes, from)))),
            Call::Gather(bytes, to) => drop(to.send(ranks.gather(&bytes))),
            Call::Leave => return ranks.leave(),
            Call::Abort => ranks.world.abort(1),
        }
    }
}

struct Ranks {
    rank: usize,
    size: usize,
    world: SimpleCommunicator,
    /// Whether a rank has left, so that no call would be answered any more.
    left: bool,
    /// Buffers that were summed, for sums as long: fresh memory takes longer than adding does.
    spare: Vec<Vec<f32>>,
    /// MPI is finalised when it goes.
    _universe: Universe,
}

impl Ranks {
    fn sum(&mut self, buffer: Vec<f32>) -> Vec<f32> {
        let fits = |spare: &Vec<f32>| spare.len() == buffer.len();
        let mut sum = match self.spare.iter().position(fits) {
            Some(spare) => self.spare.swap_remove(spare),
            None => vec![0.0; buffer.len()],
        };
        for (piece, sum) in buffer.chunks(PIECE).zip(sum.chunks_mut(PIECE)) {
            scope(|scope| {
                let add = SystemOperation::sum();
                wait(self.world.immediate_all_reduce_into(scope, piece, sum, add));
            });
        }
        self.spare.push(buffer);
        sum
    }

    fn broadcast(&self, bytes: Vec<u8>, from: usize) -> Vec<u8> {
        let root = self.world.process_at_rank(from as i32);
        let mut length = [bytes.len() as u64];
        scope(|scope| wait(root.immediate_broadcast_into(scope, &mut length[..])));
        let mut bytes = bytes;
        if self.rank != from {
            bytes = vec![0; length[0] as usize];
        }
        for piece in bytes.chunks_mut(PIECE) {
            scope(|scope| wait(root.immediate_broadcast_into(scope, piece)));
        }
        bytes
    }

    /// Lengths first, then what is that long, padded to the longest, in pieces.
    fn gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let lengths = self.lengths(bytes.len() as u64);
        if let Some(rank) = lengths.iter().position(|length| *length == LEAVES) {
            self.left = true;
            return Err(Error::Rank {
                rank: Some(rank),
                reason: "it ended before the others".into(),
            });
        }
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        let mut own = bytes.to_vec();
        own.resize(longest, 0);
        let mut parts = vec![Vec::with_capacity(longest); self.size];
        for piece in own.chunks(GATHERED) {
            let mut all = vec![0u8; piece.len() * self.size];
            scope(|scope| {
                let world = &self.world;
                wait(world.immediate_all_gather_into(scope, piece, &mut all[..]));
            });
            for (part, piece) in parts.iter_mut().zip(all.chunks(piece.len())) {
                part.extend_from_slice(piece);
            }
        }
        for (part, length) in parts.iter_mut().zip(&lengths) {
            part.truncate(*length as usize);
        }
        Ok(parts)
    }

    fn lengths(&self, own: u64) -> Vec<u64> {
        let mut lengths = vec![0u64; self.size];
        scope(|scope| {
            wait(
                self.world
                    .immediate_all_gather_into(scope, &own, &mut lengths[..]),
            );
        });
        lengths
    }

    /// Says good-bye, unless others did so: to finalise MPI waits for all.
    fn leave(self) {
        if !self.left {
            self.lengths(LEAVES);
        }
    }
}

/// Waits for a call.
fn wait<'a, D: ?Sized, S: Scope<'a>>(mut request: Request<'a, D, S>) {
    let begun = Instant::now();
    loop {
        request = match request.test() {
            Ok(_) => return,
            Err(request) => request,
        };
        match begun.elapsed() < BUSY {
            true => thread::yield_now(),
            false => thread::sleep(NAP),
        }
    }
}
