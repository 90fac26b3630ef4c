//! The account of a pool: which instances there are, what was counted, who waits for an end.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;

use super::closers::Closers;
use super::gate::Gate;
use crate::deadline::Deadline;
use crate::error::Kind;
use crate::id::{InstanceId, Owner};

/// The account of a pool's instances in this process.
pub(crate) struct Books<I> {
    /// Every instance, from before its creation until after its close.
    pub(super) instances: DashMap<InstanceId, Arc<I>>,
    pub(super) gate: Gate,
    /// Held by who bids for instances: one at a time.
    pub(super) bidding: Mutex<()>,
    pub(super) closers: Arc<Closers>,
    /// No thread could be had to keep the ages of the instances.
    pub(super) unwatched: AtomicBool,
    pub(super) backoff: Mutex<Backoff>,
    pub(super) tally: Tally,
    /// What has been struck off since workers began to end: they close their own, and somebody is to
    /// be told what has become of each. `None` before. Not the instances: they hold the pool.
    pub(super) ended: Mutex<Option<Vec<Ended>>>,
    /// How many threads wait for an instance to be struck off.
    pub(super) watchers: Mutex<usize>,
    pub(super) struck_off: Condvar,
}

#[derive(Default)]
pub(super) struct Backoff {
    /// The next wait, and when the present one is over.
    state: Option<(Duration, Deadline)>,
}

/// An instance that is no more.
#[derive(Clone)]
pub(super) struct Ended {
    pub(super) id: InstanceId,
    pub(super) owner: Owner,
    /// The manager's error, if its close had one.
    pub(super) failure: Option<String>,
}

#[derive(Default)]
pub(super) struct Tally {
    pub(super) created: AtomicU64,
    pub(super) create_failed: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) close_failed: AtomicU64,
    pub(super) poisoned: AtomicU64,
}

impl<I> Books<I> {
    pub(super) fn new() -> Self {
        Self {
            // Touched at creation and close only: a few shards are plenty.
            instances: DashMap::with_shard_amount(8),
            gate: Gate::default(),
            bidding: Mutex::new(()),
            closers: Arc::default(),
            unwatched: AtomicBool::new(false),
            backoff: Mutex::default(),
            tally: Tally::default(),
            ended: Mutex::new(None),
            watchers: Mutex::new(0),
            struck_off: Condvar::new(),
        }
    }

    pub(super) fn ended(&self) -> MutexGuard<'_, Option<Vec<Ended>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn watchers(&self) -> MutexGuard<'_, usize> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done`, looking again whenever an instance is struck off.
    pub(super) fn watch(&self, deadline: Deadline, done: impl Fn() -> bool) -> bool {
        let mut watchers = self.watchers();
        *watchers += 1;
        let finished = loop {
            // Looked at under the lock that `strike_off` takes afterwards: no wake is lost.
            if done() {
                break true;
            }
            match deadline.wait(&self.struck_off, watchers) {
                Ok(woken) => watchers = woken,
                Err(late) => {
                    watchers = late;
                    break false;
                }
            }
        };
        *watchers -= 1;
        finished
    }

    pub(super) fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backoff {
    pub(super) fn permits(&self) -> Result<(), Kind> {
        let Some((_, until)) = self.state else {
            return Ok(());
        };
        match until.remaining().unwrap_or(Duration::MAX) {
            Duration::ZERO => Ok(()),
            retry_after => Err(Kind::BackingOff { retry_after }),
        }
    }

    pub(super) fn lengthen(&mut self, limits: Option<(Duration, Duration)>) {
        if let Some((first, longest)) = limits {
            let wait = self.state.map_or(first, |(next, _)| next);
            self.state = Some((wait.saturating_mul(2).min(longest), Deadline::after(wait)));
        }
    }

    pub(super) fn reset(&mut self) {
        self.state = None;
    }
}
