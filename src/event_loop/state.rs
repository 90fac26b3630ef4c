//! What a loop has, all of it on its own thread. With [`readiness`](super::readiness) it is one thing in
//! two files: sources are kept here, and call into the loop from there.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use polling::Poller;

use super::mailbox::Inbox;
use super::queue::{Callback, Entry, Ready};
use super::reach::Reach;
use super::readiness::Sources;
use super::spawn::{LocalFuture, Spawned, Wakeup};
use super::timers::{Next, Timers};
use crate::contain::drop_each;
use crate::task::{JoinHandle, task_with};

/// What a loop has, all of it on its own thread.
pub(super) struct Local {
    pub(super) reach: Arc<Reach>,
    pub(super) inbox: Inbox,
    /// What the turn is to call.
    pub(super) ready: RefCell<Ready>,
    /// What was asked for on this thread, for a later turn.
    pub(super) soon: RefCell<VecDeque<Entry>>,
    /// Tasks that were woken, for a later turn.
    pub(super) woken: RefCell<VecDeque<u64>>,
    pub(super) timers: RefCell<Timers>,
    pub(super) sources: RefCell<Sources>,
    pub(super) tasks: RefCell<HashMap<u64, Pin<Box<dyn LocalFuture>>>>,
    pub(super) next_task: Cell<u64>,
    pub(super) closed: Cell<bool>,
    /// How many runs of it are going on, one within the other.
    pub(super) running: Cell<usize>,
    /// The poller, if another loop watches that: see [`outside`](super::outside).
    pub(super) on_loan: OnceCell<Arc<Poller>>,
}

impl Local {
    /// Whether it calls nothing any more: it was closed, or is a forked child's, inherited.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get() || self.reach.is_inherited()
    }

    /// There is something to do. An outer loop is told, if this one is not awake.
    pub(super) fn stir(&self) {
        if self.running.get() == 0
            && let Some(poller) = self.on_loan.get()
        {
            // It fails only where the poller itself has; then the run that follows fails as well.
            let _ = poller.notify();
        }
    }

    /// When the first timer is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.weed_timers();
        loop {
            let next = self.timers.borrow_mut().next();
            match next {
                Next::At(at) => return Some(at),
                Next::Nothing => return None,
                Next::Cancelled(entry) => drop_each([entry]), // after the borrow
            }
        }
    }

    /// Drops timers that were cancelled, if they are many.
    pub(super) fn weed_timers(&self) {
        let weeds = self.timers.borrow_mut().weed();
        drop_each(weeds); // after the borrow: they are foreign code
    }

    /// Takes a future to run, and hands out the handle to what comes of it.
    pub(super) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output, ()>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let id = self.next_task.get();
        self.next_task.set(id + 1);
        let waker = Wakeup::new(&self.reach, id);
        // A cancel has the task polled once more, which drops the future.
        let on_cancel = Waker::from(Arc::clone(&waker));
        let (runner, mut handle) = task_with((), self.reach.runs_on, Some(on_cancel));
        handle.set_loop(self.reach.address());
        if self.is_closed() {
            return handle; // the runner goes here, and tells the handle
        }
        self.tasks.borrow_mut().insert(id, Spawned::boxed(future, runner, waker));
        self.soon.borrow_mut().push_back(Entry::new(Callback::Poll(id)));
        self.stir();
        handle
    }

    /// Polls a task, unless it is over.
    pub(super) fn poll_task(&self, id: u64) {
        // Out of the map while it runs: it may spawn others.
        let Some(mut spawned) = self.tasks.borrow_mut().remove(&id) else { return };
        let wakeup = Arc::clone(spawned.waker());
        // Lowered before the poll, so that a wake during it counts.
        wakeup.rearm();
        let waker = Waker::from(wakeup);
        if !spawned.as_mut().poll(&mut Context::from_waker(&waker)) && !self.is_closed() {
            self.tasks.borrow_mut().insert(id, spawned);
        }
    }
}
