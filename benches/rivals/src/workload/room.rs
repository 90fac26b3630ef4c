//! Ten times as many threads as there is room for.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::Contestant;
use crate::race::Outcome;
use crate::rivals::room::{Deadpool, MaxSize, Permits, R2d2, Room};

pub const ROOM: usize = 4;
pub const THREADS: usize = 10 * ROOM;

/// How long it took, and how long one waited until its body ran.
pub struct Waited {
    took: Duration,
    /// The median, the 99th percentile, the longest.
    waits: [Duration; 3],
}

impl Outcome for Waited {
    const FIGURES: usize = 4;

    fn took(&self) -> Duration {
        self.took
    }

    /// For each use of all threads together; then the waits.
    fn figures(&self, times: u64) -> Vec<f64> {
        let uses = times as f64 * THREADS as f64;
        let mut figures = vec![self.took.as_nanos() as f64 / uses];
        figures.extend(self.waits.map(|wait| wait.as_nanos() as f64));
        figures
    }
}

/// Each thread uses a number so many times, and keeps it for so long.
fn crowd<R: Room>(keep: Duration, times: u64) -> Waited {
    let rival = R::new(ROOM);
    let begin = Barrier::new(THREADS + 1);
    let thread = || {
        begin.wait();
        let wait = |_| {
            let asked = Instant::now();
            let mut waited = Duration::ZERO;
            rival.with(|number| {
                waited = asked.elapsed();
                *black_box(number) += 1;
                match keep.is_zero() {
                    true => thread::yield_now(), // so that others come to ask meanwhile
                    false => thread::sleep(keep),
                }
            });
            waited
        };
        (0..times).map(wait).collect::<Vec<_>>()
    };
    let (took, mut waits) = thread::scope(|s| {
        let threads: Vec<_> = (0..THREADS).map(|_| s.spawn(thread)).collect();
        begin.wait();
        let begun = Instant::now();
        let waits = threads.into_iter().flat_map(|thread| thread.join().expect("it has its turns"));
        let waits: Vec<_> = waits.collect();
        (begun.elapsed(), waits)
    });
    waits.sort();
    let last = waits.len() - 1;
    Waited { took, waits: [last / 2, last * 99 / 100, last].map(|at| waits[at]) }
}

fn by<R: Room>(keep: Duration) -> Contestant<Waited> {
    Contestant { name: R::NAME, run: Box::new(move |times| crowd::<R>(keep, times)) }
}

/// All threads at once.
#[must_use]
pub fn room(keep: Duration) -> Vec<Contestant<Waited>> {
    vec![by::<MaxSize>(keep), by::<R2d2>(keep), by::<Deadpool>(keep), by::<Permits>(keep)]
}
