//! Threads that close what nobody else should have to wait for.
//!
//! A limit closes idle instances: to make room, or because they are idle for too long or too old. Who
//! finds that out is a thread that waits with a deadline, or the reaper, which looks after other pools
//! too. A close is foreign code, and may take long or hang; so they hand it over to a thread that is
//! there for it. Each pool has its own, when there is something to close, and a few of them, so that
//! one close that hangs does not hold up the next.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::contain::contain;
use crate::deadline::Deadline;

/// So many closes of one pool may hang before the others wait.
const MOST: usize = 4;

/// For so long does a thread that has nothing to close wait for something.
const LINGER: Duration = Duration::from_millis(100);

pub(super) type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Closers {
    state: Mutex<State>,
    ring: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Of these, how many wait for a job.
    free: usize,
}

impl Closers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a thread do this. It comes back if there is none, and none to be had.
    pub(super) fn give(self: &Arc<Self>, job: Job) -> Result<(), Job> {
        let mut state = self.state();
        state.jobs.push_back(job);
        if state.free >= state.jobs.len() {
            self.ring.notify_one();
        } else if state.threads < MOST {
            let closers = Arc::clone(self);
            let spawned = thread::Builder::new()
                .name("sessile-closer".to_owned())
                .spawn(move || closers.work());
            if spawned.is_ok() {
                state.threads += 1;
            } else if state.threads == 0 {
                return Err(state.jobs.pop_back().expect("given a moment ago"));
            }
        }
        Ok(())
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // What foreign code may panic with is contained further down; this is for what
                // remains, such as the destructor of the manager of a pool that we are the last to
                // hold.
                let _ = contain(job);
                state = self.state();
                continue;
            }
            state.free += 1;
            let end = Deadline::after(LINGER);
            let mut in_time = true;
            while state.jobs.is_empty() && in_time {
                match end.wait(&self.ring, state) {
                    Ok(woken) => state = woken,
                    Err(late) => (state, in_time) = (late, false),
                }
            }
            state.free -= 1;
            if state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}
