//! Children that are kept warm, for whoever needs one next.
//!
//! A child ends with the thread that started it. So spares are started by a thread that lives as
//! long as anything of theirs may: the managers that share the shelf, and the sessions that were
//! adopted from it, which hold it too.
//!
//! A forked child has none of it: neither that thread, nor children of its own. It begins anew, and
//! leaves the spares to their parent.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Settings;
use super::process::Child;
use super::start::Ready;
use crate::deadline::Deadline;
use crate::fork::PerProcess;

/// How long the keeper waits after a start that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Dropping it ends the keeper and the spares.
#[derive(Debug)]
pub(super) struct Shelf {
    spares: usize,
    workshop: PerProcess<Workshop>,
}

#[derive(Debug, Default)]
struct Workshop {
    keeper: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Ready>,
    /// To be closed, when there is nothing better to do.
    spent: Vec<Child>,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    pub(super) fn new(spares: usize) -> Arc<Self> {
        crate::fork::watch(crate::thread::forget_all); // a child knows that it is one
        Arc::new(Self { spares, workshop: PerProcess::new(Workshop::default) })
    }

    pub(super) fn spares(&self) -> usize {
        self.spares
    }

    /// A spare, if there is one that is still alive; from the first call on, more are made.
    pub(super) fn take(&self, settings: &Settings) -> Option<Ready> {
        if self.spares == 0 {
            return None;
        }
        let shared = self.keep(settings);
        let mut state = shared.lock();
        let (mut dead, mut found) = (Vec::new(), None);
        while let Some(ready) = state.ready.pop_front() {
            if ready.child.has_exited() {
                dead.push(ready);
            } else {
                found = Some(ready);
                break;
            }
        }
        drop(state);
        shared.changed.notify_all();
        drop(dead); // reaping takes a while
        found
    }

    /// Has a child closed, without waiting for that.
    pub(super) fn dispose(&self, child: Child) {
        let shared = &self.workshop.get().shared;
        shared.lock().spent.push(child);
        shared.changed.notify_all();
    }

    /// Waits until there are as many as there shall be; whether there are.
    pub(super) fn fill(&self, settings: &Settings, time: Duration) -> bool {
        if self.spares == 0 {
            return true;
        }
        let shared = self.keep(settings);
        let deadline = Deadline::after(time);
        let mut state = shared.lock();
        while state.ready.len() < self.spares {
            match deadline.wait(&shared.changed, state) {
                Ok(woken) => state = woken,
                Err(_) => return false,
            }
        }
        true
    }

    /// Starts the keeper, unless it has been.
    fn keep(&self, settings: &Settings) -> &Shared {
        let Workshop { keeper, shared } = self.workshop.get();
        let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.is_none() {
            let (shared, settings, spares) = (shared.clone(), settings.clone(), self.spares);
            let work = move || shared.keep(&settings, spares);
            // Without a thread there are no spares, and everybody starts their own.
            *keeper = thread::Builder::new().name("sessile-spares".into()).spawn(work).ok();
        }
        shared
    }
}

impl Shared {
    fn keep(&self, settings: &Settings, spares: usize) {
        let mut state = self.lock();
        loop {
            if let Some(child) = state.spent.pop() {
                drop(state);
                child.close(settings.close_timeout);
                state = self.lock();
            } else if state.ended {
                let ready = std::mem::take(&mut state.ready);
                drop(state);
                drop(ready);
                return;
            } else if state.ready.len() < spares {
                drop(state);
                let ready = Child::start(settings);
                state = self.lock();
                match ready {
                    Ok(ready) => state.ready.push_back(ready),
                    // An order to end is an order to end at once.
                    Err(_) if state.ended => {}
                    // Whoever needs one will see why when they start their own.
                    Err(_) => state = self.wait(state, Deadline::after(PAUSE)),
                }
                self.changed.notify_all();
            } else {
                state = self.wait(state, Deadline::NEVER);
            }
        }
    }

    fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        deadline: Deadline,
    ) -> MutexGuard<'a, State> {
        deadline.wait(&self.changed, state).unwrap_or_else(|state| state)
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        let Workshop { keeper, shared } = self.workshop.get();
        shared.lock().ended = true;
        shared.changed.notify_all();
        let keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            let _ = keeper.join(); // bounded by the start and close of one child
        }
    }
}
