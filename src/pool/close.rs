//! How instances are ordered closed, by whom they are closed, and how one waits for it.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::books::Ended;
use super::closers::Job;
use super::inner::{HeavyFencePassed, Inner};
use super::instance::Instance;
use crate::contain::contain;
use crate::deadline::Deadline;
use crate::id::InstanceId;
use crate::manager::CloseReason;
use crate::registry::crew::Crew;
use crate::registry::event::InstanceEventKind;
use crate::registry::report::{CloseReport, FailedClose};
use crate::registry::snapshot::{InstanceInfo, InstanceState};
use crate::slot::Activity;
use crate::thread::Resident;

/// What was ordered closed.
pub(super) enum Ordered<T: 'static> {
    Instances(Vec<Arc<Instance<T>>>),
    /// The workers close theirs.
    Crew(Arc<dyn Crew>),
}

impl<T> Inner<T> {
    /// Orders instances closed, and closes those that may be closed here and now: idle ones, if `T`
    /// may go to another thread, and this thread's own. Says whether any order was the first.
    pub(super) fn order_closed(&self, which: &[Arc<Instance<T>>], reason: CloseReason) -> bool {
        let mut any = false;
        for instance in which {
            if instance.slot.revoke(reason) {
                any = true;
                if !instance.thread.is_current() {
                    self.tell(instance, InstanceEventKind::Evicted { reason });
                }
            }
        }
        // One fence for all of them.
        let passed = self.fence_for(which);
        for instance in which {
            if instance.thread.is_current() {
                let gone = Arc::clone(instance).attend();
                if gone && instance.key.is_some() {
                    instance.thread.nudge(); // so that its worker forgets it
                }
                continue;
            }
            if let (Some(from_afar), Some(passed)) = (&self.from_afar, &passed)
                && let Some((value, reason)) = from_afar.take(instance, passed)
            {
                instance.finish(value, reason);
            }
            // Whatever is left is the owner's: an instance to close, or a place to clear.
            instance.thread.nudge();
        }
        any
    }

    /// The same for a limit, from a thread that is not to be held up, and is the owner of none of
    /// them: it runs no foreign code.
    pub(super) fn expire(&self, which: &[Arc<Instance<T>>], reason: CloseReason) {
        let revoked: Vec<_> = which.iter().map(|one| one.slot.revoke(reason)).collect();
        let passed = self.fence_for(which);
        for (instance, is_first) in which.iter().zip(revoked) {
            let evicted = is_first.then_some(reason);
            match &self.from_afar {
                Some(from_afar) => {
                    let take = |passed| from_afar.take(instance, passed);
                    let taken = passed.as_ref().and_then(take);
                    if evicted.is_some() || taken.is_some() {
                        self.close_elsewhere(from_afar.closing(instance, evicted, taken));
                    }
                }
                None => {
                    if let Some(reason) = evicted {
                        let instance = Arc::clone(instance);
                        let tell = InstanceEventKind::Evicted { reason };
                        self.close_elsewhere(Box::new(move || instance.pool.tell(&instance, tell)));
                    }
                }
            }
            instance.thread.nudge();
        }
    }

    pub(super) fn fence_for(&self, which: &[Arc<Instance<T>>]) -> Option<HeavyFencePassed> {
        (self.from_afar.is_some() && !which.is_empty()).then(HeavyFencePassed::fence).flatten()
    }

    /// Has a thread of the pool's own do it, or, if there is none to be had, this one.
    pub(super) fn close_elsewhere(&self, job: Job) {
        if let Err(job) = self.books().closers.give(job) {
            let _ = contain(job);
        }
    }

    /// The end of an instance on the books. `failure` is the manager's error, if it had one.
    pub(super) fn strike_off(&self, instance: &Instance<T>, failure: Option<String>) {
        let tally = &self.books().tally;
        tally.closed.fetch_add(1, Ordering::Relaxed);
        tally.close_failed.fetch_add(failure.is_some().into(), Ordering::Relaxed);
        // Before it is struck off, so that it is in one list or the other at any time.
        if let Some(ended) = &mut *self.books().ended() {
            let (owner, failure) = (instance.thread.owner.clone(), failure.clone());
            ended.push(Ended { id: instance.id, owner, failure });
        }
        let _ = instance.outcome.set(failure);
        self.remove(instance.id);
    }

    pub(super) fn remove(&self, id: InstanceId) {
        let books = self.books();
        let removed = books.instances.remove(&id);
        // Not there: a child was forked in the middle of the manager's code, and has come here.
        if self.limits.max_size.is_some() && removed.is_some() {
            books.gate.leave(id);
        }
        if *books.watchers() > 0 {
            books.struck_off.notify_all();
        }
        drop(removed);
    }

    /// No instance will be made any more, and all there are close: here and now, or as soon as
    /// their owners let go of them.
    pub(super) fn begin_close(&self, reason: CloseReason) -> Vec<Arc<Instance<T>>> {
        self.closed.store(true, Ordering::SeqCst);
        self.books().gate.close();
        let all = self.all();
        self.order_closed(&all, reason);
        all
    }

    /// Waits for what [`begin_close`](Self::begin_close) has begun. Half-way to the deadline the
    /// stragglers are interrupted.
    pub(super) fn end_close(
        &self,
        all: &[Arc<Instance<T>>],
        half: Deadline,
        end: Deadline,
    ) -> CloseReport {
        let books = self.books();
        // What this thread is inside of, or amid the close of, can only close after this call has
        // returned.
        let done = || {
            all.iter().all(|one| {
                one.outcome.get().is_some()
                    || one.thread.is_current()
                    || one.is_closing_here()
                    // Its creation has failed meanwhile.
                    || !books.instances.contains_key(&one.id)
            })
        };
        if !books.watch(half, done) {
            interrupt(all.iter().filter(|one| one.outcome.get().is_none()));
            books.watch(end, done);
        }
        self.report(all)
    }

    pub(super) fn report(&self, all: &[Arc<Instance<T>>]) -> CloseReport {
        let books = self.books();
        let mut report = CloseReport::default();
        for instance in all {
            match instance.outcome.get() {
                Some(None) => report.closed += 1,
                Some(Some(error)) => report.failed.push(FailedClose {
                    id: instance.id,
                    pool: self.name.clone(),
                    owner: instance.thread.owner.clone(),
                    error: error.clone(),
                }),
                // One whose creation failed meanwhile was never open.
                None if !books.instances.contains_key(&instance.id) => {}
                None => report.still_open.push(instance.info()),
            }
        }
        report
    }

    pub(super) fn close(&self, within: Duration) -> CloseReport {
        let (half, end) = (Deadline::after(within / 2), Deadline::after(within));
        let ordered = self.order_pool_closed();
        self.finish_close(ordered, half, end)
    }

    /// Closes what its workers have left, and waits for what others are closing: one of the pool's
    /// closing threads, whoever has cleared it, or a worker that says that it was the last. A worker
    /// whose instance was taken from it ends without waiting for that close.
    pub(crate) fn close_after_crew(&self, half: Deadline, end: Deadline) -> CloseReport {
        let all = self.begin_close(CloseReason::PoolClosed);
        let mut report = self.end_close(&all, half, end);
        self.add_ended(&all, &mut report);
        report
    }

    /// From here on, what is struck off is kept in mind, to be told what has become of it.
    pub(crate) fn note_ends(&self) {
        self.books().ended().get_or_insert_default();
    }

    /// Adds what has ended since [`note_ends`](Self::note_ends), but for those that are reported already.
    fn add_ended(&self, reported: &[Arc<Instance<T>>], report: &mut CloseReport) {
        let reported: HashSet<_> = reported.iter().map(|one| one.id).collect();
        for Ended { id, owner, failure } in self.books().ended().clone().unwrap_or_default() {
            match failure {
                _ if reported.contains(&id) => {}
                None => report.closed += 1,
                Some(error) => {
                    report.failed.push(FailedClose { id, pool: self.name.clone(), owner, error });
                }
            }
        }
    }

    /// The last of its workers has ended.
    pub(crate) fn begin_close_after_crew(&self) {
        self.begin_close(CloseReason::PoolClosed);
    }

    /// A pool with workers is closed by them: they do what is queued, or hand it back, and close their
    /// instances as they end. Any other has all its instances ordered closed at once.
    pub(super) fn order_pool_closed(&self) -> Ordered<T> {
        match self.crew() {
            Some(crew) => {
                self.note_ends(); // before they begin to close them
                self.crew_only.store(true, Ordering::SeqCst);
                crew.close_as_chosen();
                Ordered::Crew(crew)
            }
            None => Ordered::Instances(self.begin_close(CloseReason::PoolClosed)),
        }
    }

    pub(super) fn finish_close(
        &self,
        ordered: Ordered<T>,
        half: Deadline,
        end: Deadline,
    ) -> CloseReport {
        match ordered {
            Ordered::Instances(all) => self.end_close(&all, half, end),
            Ordered::Crew(crew) if crew.wait_closed(half, end) => self.close_after_crew(half, end),
            Ordered::Crew(_) => {
                let all = self.all();
                let mut report = self.report(&all);
                self.add_ended(&all, &mut report);
                report
            }
        }
    }

    pub(crate) fn set_crew(&self, crew: Weak<dyn Crew>) {
        let _ = self.crew.set(crew);
    }

    pub(super) fn crew(&self) -> Option<Arc<dyn Crew>> {
        self.crew.get()?.upgrade()
    }

    /// Whether it is being closed, and this is not one of the workers that have yet to do what is
    /// queued.
    pub(super) fn is_closed_here(&self) -> bool {
        self.crew_only.load(Ordering::SeqCst) && self.crew().is_none_or(|crew| !crew.is_here())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst) || self.crew_only.load(Ordering::SeqCst)
    }

    /// Asks all instances that are in use to come to an end.
    pub(crate) fn interrupt_busy(&self) {
        interrupt(self.matching(|one| one.slot.activity() == Activity::Busy).iter());
    }

    /// Whether there is such an instance, and nobody has ordered it closed.
    pub(crate) fn is_live(&self, id: InstanceId) -> bool {
        let found = self.books().instances.get(&id);
        found.is_some_and(|entry| entry.value().state() != InstanceState::Closing)
    }

    pub(super) fn wait_closed(&self, within: Duration) -> bool {
        let books = self.books();
        books.watch(Deadline::after(within), || books.instances.is_empty())
    }

    pub(super) fn clear(&self) -> usize {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let all = self.all();
        self.order_closed(&all, CloseReason::Cleared);
        all.len()
    }

    pub(super) fn retain(&self, keep: impl Fn(&InstanceInfo) -> bool) -> usize {
        let rejected = self.matching(|instance| !keep(&instance.info()));
        self.order_closed(&rejected, CloseReason::NotRetained);
        rejected.len()
    }
}

fn interrupt<'a, T: 'static>(stragglers: impl Iterator<Item = &'a Arc<Instance<T>>>) {
    for interrupt in stragglers.filter_map(|straggler| straggler.interrupt.get()) {
        let _ = contain(|| interrupt.interrupt());
    }
}
