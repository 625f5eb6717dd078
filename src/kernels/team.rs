//! A team of the pool's threads that stay awake while a network runs.
//!
//! rayon's threads sleep as soon as there is nothing to do, and waking one takes as long as computing a small layer. A
//! network of sixty layers, each a loop of its own, would wake them sixty times. So whoever runs a network has the
//! pool's other threads follow: each waits busily for the next loop, takes items of it, and goes back to the pool when
//! the network is done. A thread that has other work comes late or not at all, and nobody waits for it.

use std::cell::RefCell;
use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// How often a thread that waits looks again at once, some microseconds in all, before it gives way to others.
const LOOKS: usize = 256;
/// How often it looks before it sleeps in between, and how long.
const PATIENCE: usize = LOOKS + 256;
const NAP: Duration = Duration::from_micros(20);

thread_local! {
    /// The team that this thread leads, but for while it runs a loop.
    static LED: RefCell<Option<Arc<Team>>> = const { RefCell::new(None) };
}

/// What is to be done with each item of a loop.
type Work<'a> = &'a (dyn Fn(usize) + Sync);

pub(super) struct Team {
    /// Odd while a loop is open, and another number for each loop.
    round: AtomicUsize,
    /// The open loop's work, on the leader's stack.
    work: AtomicPtr<Work<'static>>,
    /// Each thread's part of the open loop's items.
    shares: Vec<Share>,
    /// Followers that may be at an item.
    busy: AtomicUsize,
    /// Whether the network is done.
    is_over: AtomicBool,
}

/// Runs `network` on a thread of the pool whose other threads follow it: [`for_each`] within it is theirs as well.
pub(super) fn lead<R: Send>(network: impl FnOnce() -> R + Send) -> R {
    if LED.with_borrow(Option::is_some) {
        return network();
    }
    rayon::scope(|scope| {
        let threads = rayon::current_num_threads();
        let team = Arc::new(Team {
            round: AtomicUsize::new(0),
            work: AtomicPtr::default(),
            shares: (0..threads).map(|_| Share::default()).collect(),
            busy: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        });
        for own in 1..threads {
            let team = team.clone();
            scope.spawn(move |_| team.follow(own));
        }
        let _over = Over(team.clone());
        LED.set(Some(team));
        network()
    })
}

/// Runs `work` for every item, with the team that this thread leads; `false` where it leads none.
pub(super) fn for_each(items: usize, work: Work<'_>) -> bool {
    let Some(team) = LED.take() else {
        return false;
    };
    team.run(items, work);
    LED.set(Some(team));
    true
}

impl Team {
    fn run(&self, items: usize, work: Work<'_>) {
        let threads = self.shares.len();
        for (index, share) in self.shares.iter().enumerate() {
            share.set(items * index / threads, items * (index + 1) / threads);
        }
        let _open = self.open(&work);
        self.items(0, work);
    }

    /// Lets followers take part in a loop until what is returned is dropped.
    fn open<'a>(&'a self, work: &'a Work<'_>) -> Open<'a> {
        let work: *const Work<'_> = work;
        self.work
            .store(work.cast_mut().cast::<Work<'static>>(), Ordering::Relaxed);
        self.round.fetch_add(1, Ordering::SeqCst);
        Open(self)
    }

    /// Takes items of one loop after the other until the network is done.
    fn follow(&self, own: usize) {
        let (mut seen, mut looks) = (0, 0);
        while !self.is_over.load(Ordering::Acquire) {
            let round = self.round.load(Ordering::Relaxed);
            if round.is_multiple_of(2) || round == seen {
                wait(&mut looks);
                continue;
            }
            (seen, looks) = (round, 0);
            self.busy.fetch_add(1, Ordering::SeqCst);
            let _busy = Busy(self);
            // Either this sees that the loop is over, or the leader sees that somebody is busy and waits: all four
            // accesses have one order.
            if self.round.load(Ordering::SeqCst) == round {
                // SAFETY: the leader's `Open` has not been dropped, and waits for this thread before it is, so the work
                // on the leader's stack is still there. Its address was stored before the loop was opened.
                let work = unsafe { *self.work.load(Ordering::Relaxed) };
                self.items(own, work);
            }
        }
    }

    /// Runs the items of a thread's share from the front, then what others have left from the back.
    fn items(&self, own: usize, work: Work<'_>) {
        while let Some(item) = self.shares[own].first() {
            work(item);
        }
        let (before, after) = self.shares.split_at(own);
        for other in after.iter().chain(before) {
            while let Some(item) = other.last() {
                work(item);
            }
        }
    }
}

/// A loop that followers may take items of. Once it is dropped, in a panic too, no follower is at it any more.
struct Open<'a>(&'a Team);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.round.fetch_add(1, Ordering::SeqCst);
        let mut looks = 0;
        while self.0.busy.load(Ordering::SeqCst) > 0 {
            wait(&mut looks);
        }
    }
}

/// That a follower may be at an item.
struct Busy<'a>(&'a Team);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Lets the followers go, after a panic too.
struct Over(Arc<Team>);

impl Drop for Over {
    fn drop(&mut self) {
        LED.set(None);
        self.0.is_over.store(true, Ordering::Release);
    }
}

/// Waits for others, the longer the more patiently.
fn wait(looks: &mut usize) {
    *looks += 1;
    if *looks < LOOKS {
        hint::spin_loop();
    } else if *looks < PATIENCE {
        thread::yield_now();
    } else {
        // A core that goes idle takes over a thread that waits for another core: perhaps the one that is waited for.
        thread::sleep(NAP);
    }
}

/// A range of items that are not taken yet, its start in the lower half. On a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Share(AtomicU64);

impl Share {
    fn set(&self, start: usize, end: usize) {
        let end = u32::try_from(end).expect("a loop has less than 2³² items");
        self.0
            .store(start as u64 | u64::from(end) << 32, Ordering::Relaxed);
    }

    fn first(&self) -> Option<usize> {
        self.take(|start, end| (start, start + 1, end))
    }

    fn last(&self) -> Option<usize> {
        self.take(|start, end| (end - 1, start, end - 1))
    }

    /// Takes an item where there is one: `choose` says which, and what range is left.
    fn take(&self, choose: impl Fn(u64, u64) -> (u64, u64, u64)) -> Option<usize> {
        let mut range = self.0.load(Ordering::Relaxed);
        loop {
            let (start, end) = (range & u64::from(u32::MAX), range >> 32);
            if start == end {
                return None;
            }
            let (item, start, end) = choose(start, end);
            // What items read was written before the loop was opened; what they write is read after it was closed.
            let left = start | end << 32;
            let taken =
                self.0
                    .compare_exchange_weak(range, left, Ordering::Relaxed, Ordering::Relaxed);
            match taken {
                Ok(_) => return Some(item as usize),
                Err(other) => range = other,
            }
        }
    }
}
