//! Futures that run on a loop.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::local::{Callback, Entry, Local};
use super::reach::Reach;
use crate::task::{JoinHandle, Runner, task_with};

/// A future with its handle's other side.
pub(super) trait LocalFuture {
    /// Polls it. `true` if it is over, one way or another.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool;

    fn waker(&self) -> &Arc<Wakeup>;
}

struct Spawned<F: Future> {
    future: Pin<Box<F>>,
    /// Taken at the end. Dropped before, it tells the handle that it was cancelled.
    runner: Option<Runner<F::Output, ()>>,
    waker: Arc<Wakeup>,
}

/// Wakes one task of one loop, from any thread.
pub(super) struct Wakeup {
    reach: Arc<Reach>,
    task: u64,
    /// It has been woken and not been polled since: once is enough.
    pending: AtomicBool,
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            self.reach.task_woken(self.task);
        }
    }
}

impl<F: Future> LocalFuture for Spawned<F> {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool {
        if self.runner.as_ref().is_none_or(Runner::is_cancelled) {
            return true;
        }
        let polled = catch_unwind(AssertUnwindSafe(|| self.future.as_mut().poll(cx)));
        let end: Result<F::Output, Box<dyn Any + Send>> = match polled {
            Ok(Poll::Pending) => return false,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(payload) => Err(payload),
        };
        if let Some(runner) = self.runner.take() {
            runner.run(|()| end.unwrap_or_else(|payload| resume_unwind(payload)));
        }
        true
    }

    fn waker(&self) -> &Arc<Wakeup> {
        &self.waker
    }
}

pub(super) fn spawn<F>(local: &Rc<Local>, future: F) -> JoinHandle<F::Output, ()>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let id = local.next_task.get();
    local.next_task.set(id + 1);
    let waker = Arc::new(Wakeup {
        reach: Arc::clone(&local.reach),
        task: id,
        pending: AtomicBool::new(true),
    });
    // A cancel has the task polled once more, which drops the future.
    let on_cancel = Waker::from(Arc::clone(&waker));
    let (runner, mut handle) = task_with((), local.reach.runs_on, Some(on_cancel));
    handle.set_loop(local.reach.address());
    if local.is_closed() {
        return handle; // the runner goes here, and tells the handle
    }
    let spawned = Spawned { future: Box::pin(future), runner: Some(runner), waker };
    local.tasks.borrow_mut().insert(id, Box::pin(spawned));
    local.soon.borrow_mut().push_back(Entry::new(Callback::Poll(id)));
    local.stir();
    handle
}

/// Polls a task, unless it is over.
pub(super) fn poll(local: &Local, id: u64) {
    // Out of the map while it runs: it may spawn others.
    let Some(mut spawned) = local.tasks.borrow_mut().remove(&id) else { return };
    let wakeup = Arc::clone(spawned.waker());
    // Lowered before the poll, so that a wake during it counts.
    wakeup.pending.store(false, Ordering::Release);
    let waker = Waker::from(wakeup);
    if !spawned.as_mut().poll(&mut Context::from_waker(&waker)) && !local.is_closed() {
        local.tasks.borrow_mut().insert(id, spawned);
    }
}
