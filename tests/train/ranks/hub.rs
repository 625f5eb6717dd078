//! Ranks that are threads of one process: a communicator that shows what the trait asks for.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use headstart::train::communicator::{Communicator, Sum};
use headstart::{Error, Result};

/// What a rank asks for, and where the answer goes.
enum Call {
    Sum(Vec<f32>, Sender<Result<Vec<f32>>>),
    Gather(Vec<u8>, Sender<Result<Vec<Vec<u8>>>>),
    Leave,
}

/// One of several ranks.
#[derive(Debug)]
pub struct Member {
    rank: usize,
    size: usize,
    calls: Mutex<Sender<(usize, Call)>>,
}

/// So many ranks, and a thread that answers them.
pub fn members(size: usize) -> Vec<Member> {
    let (sender, receiver) = channel();
    thread::spawn(move || answer(size, &receiver));
    (0..size)
        .map(|rank| Member {
            rank,
            size,
            calls: Mutex::new(sender.clone()),
        })
        .collect()
}

/// Does the work of every rank in a thread of its own, and returns what each has to say.
pub fn together<T: Send>(size: usize, work: impl Fn(Member) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let ranks = members(size).into_iter();
        let threads: Vec<_> = ranks
            .map(|member| scope.spawn(move || work(member)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// Takes one call of each rank, and answers all.
fn answer(size: usize, calls: &Receiver<(usize, Call)>) {
    let mut waiting: Vec<VecDeque<Call>> = (0..size).map(|_| VecDeque::new()).collect();
    for (rank, call) in calls {
        waiting[rank].push_back(call);
        while waiting.iter().all(|queue| !queue.is_empty()) {
            let round: Vec<Call> = waiting.iter_mut().filter_map(VecDeque::pop_front).collect();
            let left = round.iter().position(|call| matches!(call, Call::Leave));
            if let Some(rank) = left {
                round.into_iter().for_each(|call| refuse(call, rank));
                return;
            }
            answer_round(round);
        }
    }
}

fn refuse(call: Call, rank: usize) {
    let error = || Error::Rank {
        rank: Some(rank),
        reason: "it ended before the others".to_owned(),
    };
    match call {
        Call::Sum(_, to) => drop(to.send(Err(error()))),
        Call::Gather(_, to) => drop(to.send(Err(error()))),
        Call::Leave => {}
    }
}

fn answer_round(round: Vec<Call>) {
    let (mut sum, mut all) = (Vec::new(), Vec::new());
    let (mut to_sums, mut to_gathers) = (Vec::new(), Vec::new());
    for call in round {
        match call {
            Call::Sum(buffer, to) => {
                sum.resize(buffer.len(), 0f32);
                sum.iter_mut().zip(&buffer).for_each(|(sum, x)| *sum += x);
                to_sums.push(to);
            }
            Call::Gather(bytes, to) => {
                all.push(bytes);
                to_gathers.push(to);
            }
            Call::Leave => unreachable!("ranks that leave were looked for"),
        }
    }
    assert!(
        to_sums.is_empty() || to_gathers.is_empty(),
        "ranks make different calls"
    );
    for to in to_sums {
        let _ = to.send(Ok(sum.clone()));
    }
    for to in to_gathers {
        let _ = to.send(Ok(all.clone()));
    }
}

impl Communicator for Member {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn begin_sum(&self, buffer: Vec<f32>) -> Result<Sum> {
        let (sender, receiver) = channel();
        self.call(Call::Sum(buffer, sender));
        Ok(Sum::new(receiver))
    }

    fn broadcast(&self, bytes: Vec<u8>, from: usize) -> Result<Vec<u8>> {
        Ok(self.gather(&bytes)?.swap_remove(from))
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (sender, receiver) = channel();
        self.call(Call::Gather(bytes.to_vec(), sender));
        receiver.recv().unwrap_or_else(|_| {
            Err(Error::Rank {
                rank: None,
                reason: "nobody answers".to_owned(),
            })
        })
    }
}

impl Member {
    fn call(&self, call: Call) {
        // When nobody answers any more, the caller finds out.
        let _ = self.calls.lock().unwrap().send((self.rank, call));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.call(Call::Leave);
    }
}
