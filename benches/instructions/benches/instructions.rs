//! Each path a hundred times, counted on valgrind. `.ci/instructions` compares the counts with
//! `figures.txt`.
//!
//! What is made before a path is walked, and dropped after it, is not counted: it comes in by `setup` and
//! is returned.

use std::hint::black_box;
use std::sync::mpsc::{self, Sender};

use gungraun::{library_benchmark, library_benchmark_group, main};
use sessile::event_loop::Handle;
use sessile::{EventLoop, Pool, Workers, from_fn};

const TIMES: u64 = 100;

/// A pool of which this thread has an instance.
fn warm() -> Pool<u64> {
    let pool = Pool::from_fn(|_| 0);
    pool.with(|n| *n += 1).unwrap();
    pool
}

#[library_benchmark]
#[bench::warm(setup = warm)]
fn with(pool: Pool<u64>) -> Pool<u64> {
    for _ in 0..TIMES {
        black_box(&pool).with(|n| *n += 1).unwrap();
    }
    pool
}

#[library_benchmark]
#[bench::warm(setup = warm)]
fn with_ref(pool: Pool<u64>) -> Pool<u64> {
    for _ in 0..TIMES {
        black_box(black_box(&pool).with_ref(|n| *n).unwrap());
    }
    pool
}

#[library_benchmark]
#[bench::warm(setup = warm)]
fn get(pool: Pool<u64>) -> Pool<u64> {
    for _ in 0..TIMES {
        *black_box(&pool).get().unwrap() += 1;
    }
    pool
}

/// Loops that are awake: they are this thread's, and do not run.
///
/// A mailbox has room for so many posts before it needs more memory. What that costs depends on what the
/// allocator has given out before, down to the length of a path; so it is not counted.
const LOOPS: u64 = 4;

fn awake() -> Vec<(EventLoop, Handle)> {
    let new = |_| {
        let event_loop = EventLoop::new();
        let handle = event_loop.handle();
        (event_loop, handle)
    };
    (0..LOOPS).map(new).collect()
}

#[library_benchmark]
#[bench::awake(setup = awake)]
fn post(loops: Vec<(EventLoop, Handle)>) -> Vec<(EventLoop, Handle)> {
    for (_, handle) in &loops {
        for n in 0..TIMES / LOOPS {
            let work = move || {
                black_box(n);
            };
            handle.call_soon_threadsafe(work).unwrap();
        }
    }
    loops
}

/// A worker that is busy until the sender is dropped, so that it does not run what is counted.
fn busy() -> (Workers<u64>, Sender<()>) {
    let pool = Pool::builder(from_fn(|_| 0));
    let workers = Workers::builder(pool).threads(1).queue_capacity(10_000).build().unwrap();
    let (frees, gate) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let holds = workers.submit(move |_| {
        tell.send(()).unwrap();
        let _ = gate.recv();
    });
    holds.unwrap().detach();
    told.recv().unwrap();
    workers.keyed("a".to_owned()).submit(|n| *n += 1).unwrap().detach(); // the key has its worker
    (workers, frees)
}

#[library_benchmark]
#[bench::busy(setup = busy)]
fn keyed_submit(workers: (Workers<u64>, Sender<()>)) -> (Workers<u64>, Sender<()>) {
    let keyed = workers.0.keyed("a".to_owned());
    for _ in 0..TIMES {
        black_box(&keyed).submit(|n| *n += 1).unwrap().detach();
    }
    drop(keyed);
    workers
}

library_benchmark_group!(name = paths, benchmarks = [with, with_ref, get, post, keyed_submit]);
main!(library_benchmark_groups = paths);
