//! Conversations on a few threads: each a key, whose works wait for one another and for nobody else's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::Contestant;
use crate::race::{Figure, Outcome};
use crate::rivals::conversations::{Conversations, Keyed, MutexPerKey, Rayon, TaskPerKey};

/// How long one work sleeps.
pub const WORK: Duration = Duration::from_millis(50);
/// Works in a conversation.
pub const WORKS: u32 = 5;
/// A slow conversation's work takes so many times as long.
pub const SLOWER: u32 = 20;
/// One conversation in so many is slow, where any is.
pub const ONE_IN: usize = 8;

/// Who talks, on how many threads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub threads: usize,
    pub conversations: usize,
    /// Whether one conversation in eight is slow; those that are not are waited for.
    pub slow: bool,
    /// Whether those that would be slow say nothing.
    pub fast_only: bool,
}

/// How long all took, and how long a work of the fast ones did, by the median.
pub struct Talked {
    took: Duration,
    median: Duration,
}

impl Outcome for Talked {
    const FIGURES: usize = 2;

    fn took(&self) -> Duration {
        self.took
    }

    fn figures(&self, times: u64) -> Vec<f64> {
        vec![self.took.as_nanos() as f64 / times as f64, self.median.as_nanos() as f64]
    }
}

fn talk<C: Conversations>(load: Load) -> Talked {
    let Load { threads, conversations, slow, fast_only } = load;
    let rival = C::new(threads, conversations);
    let is_slow = |key| (slow || fast_only) && key % ONE_IN == 0;
    let fast = (0..conversations).filter(|key| !is_slow(*key)).count();
    let (begin, talking) = (Barrier::new(conversations + 1), AtomicUsize::new(fast));
    let waits = Mutex::new(Vec::new());
    let mut took = Duration::ZERO;
    thread::scope(|s| {
        let mut ends = Vec::new();
        for key in 0..conversations {
            let (rival, begin, talking, waits) = (&rival, &begin, &talking, &waits);
            let talker = s.spawn(move || {
                // Its instance is made, its thread started.
                rival.converse(key, |number| *number += 1);
                begin.wait();
                if is_slow(key) {
                    // As long as there is somebody to disturb.
                    while slow && talking.load(Ordering::SeqCst) > 0 {
                        rival.converse(key, |_| thread::sleep(WORK * SLOWER));
                    }
                    return;
                }
                for _ in 0..WORKS {
                    let asked = Instant::now();
                    rival.converse(key, |_| thread::sleep(WORK));
                    waits.lock().expect("nobody panics").push(asked.elapsed().as_nanos() as f64);
                }
                talking.fetch_sub(1, Ordering::SeqCst);
            });
            if !is_slow(key) {
                ends.push(talker);
            }
        }
        begin.wait();
        let begun = Instant::now();
        ends.into_iter().for_each(|talker| talker.join().expect("nobody panics"));
        took = begun.elapsed();
    });
    let waits = waits.into_inner().expect("nobody panics");
    Talked { took, median: Duration::from_nanos(Figure::of(waits).median as u64) }
}

fn talker<C: Conversations>(load: Load) -> Contestant<Talked> {
    let run = move |times| {
        let all: Vec<Talked> = (0..times).map(|_| talk::<C>(load)).collect();
        let took = all.iter().map(|one| one.took).sum();
        Talked { took, median: all.last().expect("it runs once at least").median }
    };
    Contestant { name: C::NAME, run: Box::new(run) }
}

/// All conversations at once, each work when the one before is done.
#[must_use]
pub fn conversations(load: Load) -> Vec<Contestant<Talked>> {
    vec![
        talker::<Keyed>(load),
        talker::<MutexPerKey>(load),
        talker::<Rayon>(load),
        talker::<TaskPerKey>(load),
    ]
}
