//! Many small works, from some producers to some threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Contestant;
use crate::rivals::short_work::{Channel, Hands, Spawn, Submit, SubmitKeyed};

/// Keys of each producer.
pub const KEYS: usize = 16;

/// The time until so many works of each producer have run.
fn handing<H: Hands>(hands: &H, producers: u64, times: u64) -> Duration {
    let each = times.div_ceil(producers);
    let left = Arc::new(AtomicU64::new(each * producers));
    let waits = thread::current();
    let begun = Instant::now();
    thread::scope(|s| {
        for producer in 0..producers as usize {
            let (left, waits) = (&left, &waits);
            s.spawn(move || {
                for one in 0..each as usize {
                    let (left, waits) = (Arc::clone(left), waits.clone());
                    let key = producer * KEYS + one % KEYS;
                    hands.hand(key, move || {
                        if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                            waits.unpark();
                        }
                    });
                }
            });
        }
    });
    while left.load(Ordering::Acquire) > 0 {
        thread::park();
    }
    // For `times` works, of which the producers may have added some to share them evenly.
    begun.elapsed().mul_f64(times as f64 / (each * producers) as f64)
}

fn by<H: Hands>(threads: usize, producers: u64) -> Contestant {
    let hands = H::new(threads);
    Contestant { name: H::NAME, run: Box::new(move |times| handing(&hands, producers, times)) }
}

/// Works that count themselves, and do nothing else.
#[must_use]
pub fn short_work(threads: usize, producers: u64) -> Vec<Contestant> {
    vec![
        by::<Submit>(threads, producers),
        by::<SubmitKeyed>(threads, producers),
        by::<Channel>(threads, producers),
        by::<Spawn>(threads, producers),
    ]
}
