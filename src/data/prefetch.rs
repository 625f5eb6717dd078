//! Work done ahead of its consumer, in order.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// The results of `work(0)`, `work(1)`, …, in order, made by threads of its own up to `window` results ahead of
/// the consumer. A consumer that asks for a result that is not ready does the next piece of work itself instead of
/// waiting.
///
/// The threads are not rayon's: those belong to the consumer, and a piece of work must not keep them from a
/// convolution. So `work` must not use rayon either.
///
/// A panic of `work` is raised again where its result would come. Dropping ends the threads, each after the piece
/// it is working on.
pub(super) struct Prefetch<T> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<T> {
    work: Box<dyn Fn(usize) -> T + Send + Sync>,
    count: usize,
    window: usize,
    state: Mutex<State<T>>,
    /// A result is ready.
    done: Condvar,
    /// A result was taken, or the threads should end.
    room: Condvar,
}

struct State<T> {
    taken: usize,
    /// From the next to be taken to the last that was started; `None` is still being made.
    results: VecDeque<Option<thread::Result<T>>>,
    stopped: bool,
}

impl<T: Send + 'static> Prefetch<T> {
    /// `count` results; `window` is 1 or more. Without threads, or where the system refuses them, the consumer
    /// does the work.
    pub(super) fn new(
        count: usize,
        window: usize,
        threads: usize,
        work: impl Fn(usize) -> T + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            work: Box::new(work),
            count,
            window,
            state: Mutex::new(State {
                taken: 0,
                results: VecDeque::new(),
                stopped: false,
            }),
            done: Condvar::new(),
            room: Condvar::new(),
        });
        let threads = (0..threads.min(count)).map_while(|_| {
            let shared = shared.clone();
            thread::Builder::new()
                .name("headstart loader".into())
                .spawn(move || shared.work_on())
                .ok()
        });
        Self {
            threads: threads.collect(),
            shared,
        }
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let shared = &*self.shared;
        let mut state = shared.lock();
        loop {
            if state.taken == shared.count {
                return None;
            }
            if let Some(Some(_)) = state.results.front() {
                let result = state.results.pop_front().flatten();
                state.taken += 1;
                drop(state);
                shared.room.notify_one();
                return result.map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)));
            }
            state = match shared.start(&mut state) {
                Some(index) => {
                    drop(state);
                    shared.finish(index)
                }
                None => wait(&shared.done, state),
            };
        }
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.room.notify_all();
        for thread in self.threads.drain(..) {
            // Panics of `work` are caught, so a thread ends without an error.
            let _ = thread.join();
        }
    }
}

impl<T> Shared<T> {
    /// A thread's life.
    fn work_on(&self) {
        let mut state = self.lock();
        while !state.stopped && state.taken + state.results.len() < self.count {
            state = match self.start(&mut state) {
                Some(index) => {
                    drop(state);
                    self.finish(index)
                }
                None => wait(&self.room, state),
            };
        }
    }

    /// Marks the next piece of work as begun, if there is one within the window.
    fn start(&self, state: &mut State<T>) -> Option<usize> {
        let next = state.taken + state.results.len();
        let begin = state.results.len() < self.window && next < self.count;
        begin.then(|| {
            state.results.push_back(None);
            next
        })
    }

    /// Does a piece of work and stores its result.
    fn finish(&self, index: usize) -> MutexGuard<'_, State<T>> {
        let result = catch_unwind(AssertUnwindSafe(|| (self.work)(index)));
        let mut state = self.lock();
        // A result is not taken before it is ready, so this one's slot is still in the queue.
        let slot = index - state.taken;
        state.results[slot] = Some(result);
        self.done.notify_one();
        state
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing that is done under the lock can be left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait<'a, T>(signal: &Condvar, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
    signal.wait(state).unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn results_come_in_order() {
        for (threads, window) in [(0, 1), (1, 1), (3, 1), (2, 5), (8, 1000)] {
            let squares = Prefetch::new(200, window, threads, |index| {
                // Later ones are often done first.
                thread::sleep(std::time::Duration::from_micros(97 * (index as u64 % 5)));
                index * index
            });
            let found: Vec<usize> = squares.collect();
            assert_eq!(
                found,
                (0..200).map(|index| index * index).collect::<Vec<_>>()
            );
        }
        assert_eq!(Prefetch::new(0, 1, 2, |index| index).next(), None);
    }

    #[test]
    fn the_window_is_filled_and_never_exceeded() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counter = begun.clone();
        let mut prefetch = Prefetch::new(100, 7, 3, move |_| counter.fetch_add(1, SeqCst));
        for taken in 0..100 {
            // The threads fill the window without being asked.
            let filled = (taken + 7).min(100);
            while begun.load(SeqCst) < filled {
                thread::yield_now();
            }
            thread::sleep(std::time::Duration::from_micros(200));
            assert_eq!(begun.load(SeqCst), filled);
            prefetch.next();
        }
    }

    #[test]
    fn dropping_early_leaves_no_thread() {
        let held = Arc::new(());
        let in_work = held.clone();
        let mut prefetch = Prefetch::new(1000, 10, 4, move |index| {
            let _held = &in_work;
            index
        });
        assert_eq!(prefetch.next(), Some(0));
        assert!(Arc::strong_count(&held) > 1);
        drop(prefetch);
        // The threads hold the work, and the work holds this.
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn a_panic_comes_in_its_turn() {
        for threads in [0, 2] {
            let mut prefetch = Prefetch::new(4, 4, threads, |index| {
                assert!(index != 1, "the second");
                index
            });
            assert_eq!(prefetch.next(), Some(0));
            let panic = catch_unwind(AssertUnwindSafe(|| prefetch.next())).unwrap_err();
            assert!(panic.downcast_ref::<&str>().unwrap().contains("the second"));
            assert_eq!(prefetch.next(), Some(2));
            assert_eq!(prefetch.next(), Some(3));
            assert_eq!(prefetch.next(), None);
        }
    }
}
