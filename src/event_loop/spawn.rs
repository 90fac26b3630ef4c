//! Futures that run on a loop.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};

use super::reach::Reach;
use crate::task::Runner;

/// A future with its handle's other side.
pub(super) trait LocalFuture {
    /// Polls it. `true` if it is over, one way or another.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool;

    fn waker(&self) -> &Arc<Wakeup>;
}

pub(super) struct Spawned<F: Future> {
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

impl Wakeup {
    pub(super) fn new(reach: &Arc<Reach>, task: u64) -> Arc<Self> {
        Arc::new(Self { reach: Arc::clone(reach), task, pending: AtomicBool::new(true) })
    }

    /// The task is about to be polled: a wake counts again.
    pub(super) fn rearm(&self) {
        self.pending.store(false, Ordering::Release);
    }
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

impl<F: Future + 'static> Spawned<F>
where
    F::Output: 'static,
{
    pub(super) fn boxed(
        future: F,
        runner: Runner<F::Output, ()>,
        waker: Arc<Wakeup>,
    ) -> Pin<Box<dyn LocalFuture>> {
        Box::pin(Self { future: Box::pin(future), runner: Some(runner), waker })
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
