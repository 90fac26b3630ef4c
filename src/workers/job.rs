//! Work as a queue has it: whatever it returns, in one allocation with what its handle waits for.

use std::sync::Arc;

use super::Work;
use super::load::Busy;
use crate::error::PoolError;
use crate::pool::instance::Instance;
use crate::pool::lease::Lease;
use crate::task::{Held, Hold, Interruptible, JoinHandle, RunsOn, Task, Unrun};

/// Something to do with an instance. Dropped, it tells its handle that it was cancelled.
pub(super) struct Job<T: 'static>(Option<Arc<dyn Perform<T>>>);

/// Where work is done, and what with.
pub(super) trait Bench<T: 'static> {
    /// Lends the instance. Does not panic.
    fn lend(&mut self) -> Result<Lent<'_, T>, PoolError>;

    /// Closes the instance, and says whether there was one.
    fn close(&mut self) -> bool;
}

/// An instance; and once more, if it can be interrupted.
pub(super) type Lent<'b, T> = (Lease<'b, T, false>, Option<Arc<dyn Interruptible>>);

trait Perform<T: 'static>: Send + Sync {
    fn perform(&self, bench: &mut dyn Bench<T>, busy: Busy<'_>);
    fn give_up(&self);
}

/// A closure in a task. It comes back in a box.
pub(super) struct Closure<F>(Option<F>);

impl<F> Hold for Closure<F> {
    type Work = F;

    fn work(&mut self) -> &mut Option<F> {
        &mut self.0
    }
}

impl<T, R, F> Unrun<Work<T, R>> for Closure<F>
where
    F: FnOnce(&mut T) -> R + Send + 'static,
{
    fn take(&mut self) -> Option<Work<T, R>> {
        self.0.take().map(|work| Box::new(work) as Work<T, R>)
    }
}

impl<T, R, F> Perform<T> for Task<R, Closure<F>>
where
    T: 'static,
    R: Send,
    F: FnOnce(&mut T) -> R + Send + 'static,
{
    fn perform(&self, bench: &mut dyn Bench<T>, busy: Busy<'_>) {
        let call = |lease: Lease<'_, T, false>, work: F| {
            let _busy = busy;
            lease.run(work)
        };
        self.run_with(|| bench.lend(), call);
    }

    fn give_up(&self) {
        Task::give_up(self);
    }
}

/// The close of a key.
impl<T: 'static> Perform<T> for Task<bool, Held<()>> {
    fn perform(&self, bench: &mut dyn Bench<T>, busy: Busy<'_>) {
        let call = |()| {
            let _busy = busy;
            bench.close()
        };
        self.run(call);
    }

    fn give_up(&self) {
        Task::give_up(self);
    }
}

impl<T: 'static> Interruptible for Instance<T> {
    fn interrupt(&self) {
        self.ask_to_stop();
    }
}

impl<T: 'static> Job<T> {
    pub(super) fn new<R, F>(work: F, runs_on: RunsOn) -> (Self, JoinHandle<R, Work<T, R>>)
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        let task = Task::new(Closure(Some(work)), runs_on, None);
        (Self(Some(Arc::clone(&task) as Arc<dyn Perform<T>>)), JoinHandle::of(task))
    }

    /// Closes the instance of a key.
    pub(super) fn closing(runs_on: RunsOn) -> (Self, JoinHandle<bool, ()>) {
        let task = Task::new(Held::new(()), runs_on, None);
        (Self(Some(Arc::clone(&task) as Arc<dyn Perform<T>>)), JoinHandle::of(task))
    }

    pub(super) fn perform(mut self, bench: &mut dyn Bench<T>, busy: Busy<'_>) {
        if let Some(task) = self.0.take() {
            task.perform(bench, busy);
        }
    }
}

impl<T: 'static> Drop for Job<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.give_up();
        }
    }
}
