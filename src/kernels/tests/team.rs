//! Loops that several threads share while a network runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::parallel::{for_each, for_each_chunk};
use super::super::team::lead;

fn pool(threads: usize) -> rayon::ThreadPool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().unwrap()
}

/// How often a loop ran each of so many items.
fn counts(items: usize) -> Vec<usize> {
    let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
    for_each(items, |item| {
        counts[item].fetch_add(1, Ordering::Relaxed);
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn each_item_of_each_loop_runs_once() {
    for threads in [1, 2, 3, 7] {
        pool(threads).install(|| {
            lead(|| {
                for round in 0..3000 {
                    let items = round % 67;
                    assert!(counts(items) == vec![1; items], "{threads}: {items}");
                }
            });
        });
    }
}

#[test]
fn several_networks_at_once_keep_their_loops_apart() {
    let pool = pool(3);
    std::thread::scope(|scope| {
        for items in 1..6 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..50 {
                    pool.install(|| {
                        lead(|| (0..50).for_each(|_| assert_eq!(counts(items), vec![1; items])));
                    });
                }
            });
        }
    });
}

#[test]
fn an_item_may_have_a_loop_and_a_network_of_its_own() {
    let total = AtomicUsize::new(0);
    let add = |_| {
        total.fetch_add(1, Ordering::Relaxed);
    };
    pool(3).install(|| {
        lead(|| {
            for_each(5, |_| for_each(7, add));
            for_each(5, |_| lead(|| for_each(11, add)));
            lead(|| for_each(13, add));
        });
    });
    assert_eq!(total.into_inner(), 5 * 7 + 5 * 11 + 13);
}

#[test]
fn what_panics_in_one_network_leaves_the_next_one_alone() {
    for threads in [1, 3] {
        let pool = pool(threads);
        for bad in [0, 8, 31] {
            let network = || {
                lead(|| for_each(32, |item| assert!(item != bad, "item {item}")));
            };
            let outcome = catch_unwind(AssertUnwindSafe(|| pool.install(network)));
            assert!(outcome.is_err(), "{threads} threads, item {bad}");
            pool.install(|| lead(|| assert_eq!(counts(40), vec![1; 40])));
        }
    }
}

#[test]
fn chunks_are_the_buffer() {
    for (len, chunk) in [(0, 4), (1, 4), (8, 4), (9, 4), (3, 100), (5, 0)] {
        let mut buffer = vec![0.0; len];
        for_each_chunk(&mut buffer, chunk, |start, chunk| {
            let numbers = (start..).map(|number| number as f32 + 1.0);
            chunk
                .iter_mut()
                .zip(numbers)
                .for_each(|(to, number)| *to += number);
        });
        let wanted: Vec<f32> = (1..=len).map(|number| number as f32).collect();
        assert_eq!(buffer, wanted, "{len} by {chunk}");
    }
}
