//! Threads that wait for room, and have what others wait for.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use sessile::Registry;
use support::{PATIENCE, Pending, Stage, Stay, Worker, poll_until};

/// Each has the one instance that the other waits for. It is idle, and only its owner can close it,
/// who waits.
#[test]
fn two_threads_wait_for_each_others_room() {
    let registry = Registry::new();
    let (stage, other) = (Stage::new(), Stage::new());
    let pools = [&stage, &other].map(|stage| {
        let one = stage.builder_local(&registry).max_size(1);
        one.wait_timeout(PATIENCE).build().unwrap()
    });
    let threads = ["left", "right"].map(Worker::new);
    for (thread, pool) in threads.iter().zip(&pools) {
        let pool = pool.clone();
        thread.run(move || pool.with(Stay::touch).unwrap());
    }
    let begun = Instant::now();
    for round in 0..50 {
        let served = Arc::new(AtomicUsize::new(0));
        let waiting = [0, 1].map(|n| {
            let (served, pool) = (Arc::clone(&served), pools[(n + round + 1) % 2].clone());
            threads[n].start(move || {
                pool.with(Stay::touch).unwrap();
                served.fetch_add(1, Ordering::SeqCst);
                // Who is served first goes on to use what it has, and is reached by that.
                poll_until("both are served", || {
                    pool.with(Stay::touch).unwrap();
                    served.load(Ordering::SeqCst) == 2
                });
            })
        });
        waiting.into_iter().for_each(Pending::wait);
    }
    assert!(begun.elapsed() < PATIENCE, "somebody waited in vain");
    threads.into_iter().for_each(Worker::end);
    stage.assert_each_closed_once();
    other.assert_each_closed_once();
}
