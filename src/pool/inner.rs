//! What the handles of a pool share: how it makes instances, and the books on them.
//!
//! Nothing here is on the fast path. No lock, and no guard of the map, is held while foreign code
//! runs: a manager's methods, an event handler, a predicate, a destructor.

use std::any::type_name;
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use dashmap::DashMap;

use super::builder::Limits;
use super::closers::{Closers, Job};
use super::gate::Gate;
use super::instance::Instance;
use super::lease::Lease;
use crate::contain::contain;
use crate::deadline::Deadline;
use crate::error::{Kind, PoolError};
use crate::fence;
use crate::fork::PerProcess;
use crate::id::{InstanceId, PoolId};
use crate::manager::{CloseReason, CreateContext, Manager};
use crate::registry::crew::Crew;
use crate::registry::event::{InstanceEvent, InstanceEventKind, OnEvent};
use crate::registry::reaper;
use crate::registry::report::{CloseReport, FailedClose};
use crate::registry::snapshot::{InstanceInfo, InstanceState, PoolInfo, PoolStatus};
use crate::registry::{EndClose, Member, Registry};
use crate::slot::{Activity, Granted, Mode, Notice};
use crate::thread::{Entered, Place, Resident};

pub(crate) struct Inner<T: 'static> {
    pub(super) id: PoolId,
    pub(super) name: String,
    pub(super) type_name: &'static str,
    pub(super) manager: Box<dyn Manager<Instance = T>>,
    /// [`Manager::can_break`], asked once.
    pub(super) can_break: bool,
    pub(super) limits: Limits,
    pub(super) on_event: Option<OnEvent>,
    pub(super) registry: Registry,
    /// Present if an idle instance may be closed by another thread than its owner.
    pub(super) from_afar: Option<FromAfar<T>>,
    pub(super) place: Place<Instance<T>>,
    pub(super) closed: AtomicBool,
    /// The workers that use it, if it is theirs.
    pub(super) crew: OnceLock<Weak<dyn Crew>>,
    /// Nobody but its workers may make an instance any more, to do what is queued.
    pub(super) crew_only: AtomicBool,
    /// How often the pool has been cleared.
    pub(super) generation: AtomicU64,
    pub(super) books: PerProcess<Books<T>>,
}

/// Proof that `T: Send`, as a value: what is done with instances of other threads.
pub(crate) struct FromAfar<T: 'static> {
    take: TakeFromAfar<T>,
    take_bid: TakeBid<T>,
    closing: Closing<T>,
}

type TakeFromAfar<T> = fn(&Instance<T>, &Passed) -> Option<(T, CloseReason)>;
type TakeBid<T> = fn(&Instance<T>, &Passed) -> Option<T>;
type Closing<T> = fn(Arc<Instance<T>>, Option<CloseReason>, Option<(T, CloseReason)>) -> Job;

/// Proof that a heavy fence was passed.
pub(super) struct Passed(());

impl Passed {
    /// `None`: nothing is known about any owner; see [`fence::heavy`].
    pub(super) fn fence() -> Option<Self> {
        fence::heavy().then_some(Self(()))
    }
}

impl<T: Send + 'static> FromAfar<T> {
    pub(super) fn new() -> Self {
        Self {
            take: Instance::take_from_afar,
            take_bid: Instance::take_bid,
            closing: |instance, evicted, taken| {
                Box::new(move || {
                    if let Some(reason) = evicted {
                        instance.pool.tell(&instance, InstanceEventKind::Evicted { reason });
                    }
                    if let Some((value, reason)) = taken {
                        instance.finish(value, reason);
                    }
                })
            },
        }
    }
}

impl<T> FromAfar<T> {
    /// Takes an instance that was bid for, if it is idle and has been for so long.
    pub(super) fn take_bid(
        &self,
        instance: &Instance<T>,
        at_least: Duration,
        passed: &Passed,
    ) -> Option<T> {
        // It may have been used since the bidder looked.
        (instance.look() >= at_least).then(|| (self.take_bid)(instance, passed)).flatten()
    }

    /// What tells that an instance was ordered closed, if it was only now, and closes it, if it was
    /// taken. It is foreign code, for the thread whose business that is.
    pub(super) fn closing(
        &self,
        instance: &Arc<Instance<T>>,
        evicted: Option<CloseReason>,
        taken: Option<(T, CloseReason)>,
    ) -> Job {
        (self.closing)(Arc::clone(instance), evicted, taken)
    }
}

/// What was ordered closed.
enum Ordered<T: 'static> {
    Instances(Vec<Arc<Instance<T>>>),
    /// The workers, and the instances that there were.
    Crew(Arc<dyn Crew>, Vec<Arc<Instance<T>>>),
}

type Borrowed<T> = (Arc<Instance<T>>, Granted);

/// The account of a pool's instances in this process.
pub(crate) struct Books<T: 'static> {
    /// Every instance, from before its creation until after its close.
    instances: DashMap<InstanceId, Arc<Instance<T>>>,
    pub(super) gate: Gate,
    /// Held by who bids for instances: one at a time.
    pub(super) bidding: Mutex<()>,
    closers: Arc<Closers>,
    /// No thread could be had to keep the ages of the instances.
    unwatched: AtomicBool,
    backoff: Mutex<Backoff>,
    tally: Tally,
    /// How many threads wait for an instance to be struck off.
    watchers: Mutex<usize>,
    struck_off: Condvar,
}

#[derive(Default)]
struct Backoff {
    /// The next wait, and when the present one is over.
    state: Option<(Duration, Deadline)>,
}

#[derive(Default)]
struct Tally {
    created: AtomicU64,
    create_failed: AtomicU64,
    closed: AtomicU64,
    close_failed: AtomicU64,
    poisoned: AtomicU64,
}

impl<T> Books<T> {
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
            watchers: Mutex::new(0),
            struck_off: Condvar::new(),
        }
    }

    fn watchers(&self) -> MutexGuard<'_, usize> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done`, looking again whenever an instance is struck off.
    fn watch(&self, deadline: Deadline, done: impl Fn() -> bool) -> bool {
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
}

// ---- making -----------------------------------------------------------------------------------

impl<T> Inner<T> {
    pub(super) fn books(&self) -> &Books<T> {
        self.books.get()
    }

    /// Whether there is no reaper although one is needed: then uses and looks try to have one.
    pub(super) fn is_unwatched(&self) -> bool {
        self.books().unwatched.load(Ordering::Relaxed)
    }

    pub(super) fn note_watch(&self, watched: &io::Result<bool>) {
        self.books().unwatched.store(!matches!(watched, Ok(true)), Ordering::Relaxed);
    }

    /// Tries once more to have a reaper, if there is none.
    pub(super) fn watch_again(&self, instance: Option<&Instance<T>>) {
        if self.is_unwatched() {
            let watched = self.registry.watch();
            self.note_watch(&watched);
            if let (Err(error), Some(instance)) = (&watched, instance) {
                self.tell(instance, InstanceEventKind::ReaperFailed { error });
            }
        }
    }

    /// From which use on a slot has its owner check after it.
    pub(super) fn check_from(&self) -> u64 {
        if self.can_break || self.is_unwatched() || !fence::is_light_enough() {
            0
        } else {
            self.limits.max_uses.unwrap_or(u64::MAX)
        }
    }

    /// Everything that the fast path leaves over: this thread's instance, looked after or made anew.
    /// If it has to wait for room it waits for as long as given, else for the pool's usual time.
    #[cold]
    #[inline(never)]
    pub(crate) fn borrow<const SHARED: bool>(
        self: &Arc<Self>,
        wait: Option<Deadline>,
    ) -> Result<Lease<'_, T, SHARED>, PoolError> {
        self.try_borrow(wait).map_err(|kind| self.error(kind))
    }

    fn try_borrow<const SHARED: bool>(
        self: &Arc<Self>,
        wait: Option<Deadline>,
    ) -> Result<Lease<'_, T, SHARED>, Kind> {
        let entered = crate::thread::enter().map_err(|_| Kind::ThreadExiting)?;
        let mode = Lease::<T, SHARED>::MODE;
        loop {
            let Some(instance) = self.place.resident(&entered) else {
                let wait = wait.unwrap_or_else(|| self.limits.usual_wait());
                let (instance, granted) = self.create(&entered, wait, mode, None)?;
                return Ok(Lease::of(&instance, granted));
            };
            if let Some(lease) = self.borrow_this(&instance)? {
                return Ok(lease);
            }
        }
    }

    pub(super) fn error(&self, kind: Kind) -> PoolError {
        PoolError::new(kind, &self.name)
    }

    /// Borrows an instance of this thread, after the checks that are due. `None` if it is gone.
    fn borrow_this<const SHARED: bool>(
        &self,
        instance: &Arc<Instance<T>>,
    ) -> Result<Option<Lease<'_, T, SHARED>>, Kind> {
        let mode = Lease::<T, SHARED>::MODE;
        let (notice, granted) = instance.slot.borrow(mode).map_err(|_| Kind::Reentrant)?;
        match notice {
            Notice::Live => return Ok(Some(Lease::of(instance, granted))),
            Notice::Stale => match instance.check() {
                Ok(()) => return Ok(Some(Lease::of(instance, granted))),
                Err(reason) => instance.close_borrowed(reason),
            },
            Notice::Revoked(_) | Notice::Taken(_) => {
                Arc::clone(instance).attend();
            }
        }
        Ok(None)
    }

    /// An instance that this thread keeps for a key, beside the one it has in its table: the one in
    /// `kept`, or, if that is gone, a new one, which takes its place.
    pub(crate) fn borrow_keyed(
        self: &Arc<Self>,
        kept: &mut Option<Arc<Instance<T>>>,
        key: impl Fn() -> String,
    ) -> Result<Lease<'_, T, false>, PoolError> {
        self.try_borrow_keyed(kept, key).map_err(|kind| self.error(kind))
    }

    fn try_borrow_keyed(
        self: &Arc<Self>,
        kept: &mut Option<Arc<Instance<T>>>,
        key: impl Fn() -> String,
    ) -> Result<Lease<'_, T, false>, Kind> {
        let entered = crate::thread::enter().map_err(|_| Kind::ThreadExiting)?;
        if let Some(instance) = kept {
            if let Some(lease) = self.borrow_this(instance)? {
                return Ok(lease);
            }
            *kept = None;
        }
        let wait = self.limits.usual_wait();
        let (instance, granted) = self.create(&entered, wait, Mode::Exclusive, Some(key()))?;
        let lease = Lease::of(&instance, granted);
        *kept = Some(instance);
        Ok(lease)
    }

    /// Makes this thread's instance, and borrows it.
    ///
    /// One that was cleared while it was being made is made anew: once, and if there is time for it.
    /// The next is used, whatever comes. So a use makes two at most, also where somebody clears the
    /// pool again and again, be it the manager itself; and who uses the pool after a clear has
    /// returned gets none that was begun before it, for that one is closed after the use at hand.
    fn create(
        self: &Arc<Self>,
        entered: &Entered,
        wait: Deadline,
        mode: Mode,
        key: Option<String>,
    ) -> Result<Borrowed<T>, Kind> {
        let mut again = true;
        loop {
            if let Some(made) = self.make(entered, wait, mode, key.clone(), again)? {
                return Ok(made);
            }
            again = false;
        }
    }

    /// [`create`](Self::create), for one time. `None`: it was cleared meanwhile, and should be made
    /// `again`.
    fn make(
        self: &Arc<Self>,
        entered: &Entered,
        wait: Deadline,
        mode: Mode,
        key: Option<String>,
        again: bool,
    ) -> Result<Option<Borrowed<T>>, Kind> {
        if self.closed.load(Ordering::SeqCst) || self.is_closed_here() {
            return Err(Kind::Closed);
        }
        let watched = self.registry.enroll(self);
        self.note_watch(&watched);
        self.books().backoff().permits()?;
        let is_keyed = key.is_some();
        let instance = Instance::opening(self, entered.this_thread(), key);
        if !is_keyed {
            // In its place before anything else happens, so that a use from within the creation, or
            // from a close that makes room for it, is found out.
            self.place.move_in(Arc::clone(&instance), entered);
        }
        let mut opening = Opening {
            instance: &instance,
            admitted: false,
            told: false,
            was_panicking: std::thread::panicking(),
        };
        if let Err(error) = &watched {
            self.tell(&instance, InstanceEventKind::ReaperFailed { error });
        }
        self.admit(wait)?;
        opening.admitted = true;
        self.books().instances.insert(instance.id, Arc::clone(&instance));
        // Whoever has begun to wait, and has not found it on the books, is seen here.
        if self.is_waited_for() {
            instance.slot.alert();
        }
        // On the books first, then these two are read; a close or clear writes them first, then
        // reads the books. So either it finds the instance, or we find it here.
        let generation = self.generation.load(Ordering::SeqCst);
        instance.generation.store(generation, Ordering::Relaxed);
        if self.closed.load(Ordering::SeqCst) {
            return Err(Kind::Closed);
        }
        let cx = CreateContext {
            id: instance.id,
            name: format!("{}-{}", self.name, instance.id),
            owner: instance.thread.owner.clone(),
            key: instance.key.clone(),
            generation,
        };
        let begun = Instant::now();
        let value = match self.manager.create(&cx) {
            Ok(value) => value,
            Err(error) => {
                opening.failed(&error);
                drop(opening);
                return Err(Kind::CreateFailed(error));
            }
        };
        let took = begun.elapsed();
        // A panic there costs the handle, not the instance: there is one now, to be closed in time.
        if let Ok(Some(interrupt)) = contain(|| self.manager.interrupt(&value)) {
            let _ = instance.interrupt.set(interrupt);
        }
        if let Ok(Some(note)) = contain(|| self.manager.describe(&value)) {
            let _ = instance.note.set(note.into());
        }
        opening.succeeded();
        let books = self.books();
        books.backoff().reset();
        books.tally.created.fetch_add(1, Ordering::Relaxed);
        let granted = instance.install(value);
        self.tell(&instance, InstanceEventKind::Created { took });
        if self.closed.load(Ordering::SeqCst) {
            instance.close_borrowed(CloseReason::PoolClosed);
            return Err(Kind::Closed);
        }
        let is_cleared = instance.slot.notice() == Notice::Revoked(CloseReason::Cleared);
        if is_cleared && again && wait.remaining().is_none_or(|left| left >= took) {
            instance.close_borrowed(CloseReason::Cleared);
            return Ok(None);
        }
        // Any other order lets the use at hand go ahead and closes after it: else threads could go on
        // for ever without one of them getting to use what it has made.
        // Only now: what was told above is foreign code, and could keep a shared borrow of its own.
        instance.slot.settle(mode);
        Ok(Some((instance, granted)))
    }
}

/// An instance that is being made. Dropped before it has [`succeeded`](Self::succeeded), it settles
/// all accounts, also while a panic of the manager's unwinds.
struct Opening<'a, T: 'static> {
    instance: &'a Instance<T>,
    admitted: bool,
    told: bool,
    /// The creation runs in a destructor while another panic unwinds, which proves nothing.
    was_panicking: bool,
}

impl<T> Opening<'_, T> {
    fn failed(&mut self, error: &anyhow::Error) {
        self.told = true;
        let pool = &self.instance.pool;
        let books = pool.books();
        books.tally.create_failed.fetch_add(1, Ordering::Relaxed);
        books.backoff().lengthen(pool.limits.backoff);
        pool.tell(self.instance, InstanceEventKind::CreateFailed { error });
    }

    fn succeeded(self) {
        std::mem::forget(self);
    }
}

impl<T> Drop for Opening<'_, T> {
    fn drop(&mut self) {
        let pool = &self.instance.pool;
        if std::thread::panicking() && !self.was_panicking && !self.told {
            self.failed(&anyhow::anyhow!("the manager panicked"));
        }
        pool.place.move_out(self.instance.id);
        if self.admitted {
            pool.remove(self.instance.id);
        }
    }
}

impl<T> Books<T> {
    fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backoff {
    fn permits(&self) -> Result<(), Kind> {
        let Some((_, until)) = self.state else {
            return Ok(());
        };
        match until.remaining().unwrap_or(Duration::MAX) {
            Duration::ZERO => Ok(()),
            retry_after => Err(Kind::BackingOff { retry_after }),
        }
    }

    fn lengthen(&mut self, limits: Option<(Duration, Duration)>) {
        if let Some((first, longest)) = limits {
            let wait = self.state.map_or(first, |(next, _)| next);
            self.state = Some((wait.saturating_mul(2).min(longest), Deadline::after(wait)));
        }
    }

    fn reset(&mut self) {
        self.state = None;
    }
}

// ---- closing ----------------------------------------------------------------------------------

impl<T> Inner<T> {
    /// A copy of the list, so that no guard of the map is held while one works on it.
    pub(super) fn all(&self) -> Vec<Arc<Instance<T>>> {
        self.books().instances.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    pub(super) fn matching(&self, which: impl Fn(&Instance<T>) -> bool) -> Vec<Arc<Instance<T>>> {
        self.all().into_iter().filter(|instance| which(instance)).collect()
    }

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
                && let Some((value, reason)) = (from_afar.take)(instance, passed)
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
    fn expire(&self, which: &[Arc<Instance<T>>], reason: CloseReason) {
        let revoked: Vec<_> = which.iter().map(|one| one.slot.revoke(reason)).collect();
        let passed = self.fence_for(which);
        for (instance, is_first) in which.iter().zip(revoked) {
            let evicted = is_first.then_some(reason);
            match &self.from_afar {
                Some(from_afar) => {
                    let take = |passed| (from_afar.take)(instance, passed);
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

    fn fence_for(&self, which: &[Arc<Instance<T>>]) -> Option<Passed> {
        (self.from_afar.is_some() && !which.is_empty()).then(Passed::fence).flatten()
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
        let _ = instance.outcome.set(failure);
        self.remove(instance.id);
    }

    fn remove(&self, id: InstanceId) {
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
    fn end_close(&self, all: &[Arc<Instance<T>>], half: Deadline, end: Deadline) -> CloseReport {
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

    fn report(&self, all: &[Arc<Instance<T>>]) -> CloseReport {
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
        self.end_close(&all, half, end)
    }

    /// The last of its workers has ended.
    pub(crate) fn begin_close_after_crew(&self) {
        self.begin_close(CloseReason::PoolClosed);
    }

    /// A pool with workers is closed by them: they do what is queued, or hand it back, and close their
    /// instances as they end. Any other has all its instances ordered closed at once.
    fn order_pool_closed(&self) -> Ordered<T> {
        match self.crew() {
            Some(crew) => {
                let all = self.all(); // before they begin to close them
                self.crew_only.store(true, Ordering::SeqCst);
                crew.close_as_chosen();
                Ordered::Crew(crew, all)
            }
            None => Ordered::Instances(self.begin_close(CloseReason::PoolClosed)),
        }
    }

    fn finish_close(&self, ordered: Ordered<T>, half: Deadline, end: Deadline) -> CloseReport {
        let (crew, mut all) = match ordered {
            Ordered::Instances(all) => return self.end_close(&all, half, end),
            Ordered::Crew(crew, all) => (crew, all),
        };
        if !crew.wait_closed(half, end) {
            return self.report(&all);
        }
        for instance in self.begin_close(CloseReason::PoolClosed) {
            if !all.iter().any(|one| one.id == instance.id) {
                all.push(instance);
            }
        }
        self.end_close(&all, half, end)
    }

    pub(crate) fn set_crew(&self, crew: Weak<dyn Crew>) {
        let _ = self.crew.set(crew);
    }

    fn crew(&self) -> Option<Arc<dyn Crew>> {
        self.crew.get()?.upgrade()
    }

    /// Whether it is being closed, and this is not one of the workers that have yet to do what is
    /// queued.
    fn is_closed_here(&self) -> bool {
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

    pub(super) fn status(&self) -> PoolStatus {
        let books = self.books();
        self.watch_again(None);
        let mut status = PoolStatus {
            max_size: self.limits.max_size,
            waiting: books.gate.waiting(),
            created: books.tally.created.load(Ordering::Relaxed),
            create_failed: books.tally.create_failed.load(Ordering::Relaxed),
            closed: books.tally.closed.load(Ordering::Relaxed),
            close_failed: books.tally.close_failed.load(Ordering::Relaxed),
            poisoned: books.tally.poisoned.load(Ordering::Relaxed),
            generation: self.generation.load(Ordering::Relaxed),
            is_closed: self.is_closed(),
            ..PoolStatus::default()
        };
        for entry in &books.instances {
            status.size += 1;
            match entry.value().state() {
                InstanceState::Opening => status.opening += 1,
                InstanceState::Idle => status.idle += 1,
                InstanceState::Busy => status.busy += 1,
                InstanceState::Closing => status.closing += 1,
            }
        }
        status
    }

    // ---- telling ------------------------------------------------------------------------------

    pub(super) fn tell(&self, instance: &Instance<T>, kind: InstanceEventKind<'_>) {
        if let Some(on_event) = &self.on_event {
            let owner = &instance.thread.owner;
            let event = InstanceEvent { pool: &self.name, instance: instance.id, owner, kind };
            let _ = contain(|| on_event(&event));
        }
    }

    pub(super) fn poisoned(&self, instance: &Instance<T>, rescued: bool) {
        self.books().tally.poisoned.fetch_add(1, Ordering::Relaxed);
        self.tell(instance, InstanceEventKind::Poisoned { rescued });
    }
}

fn interrupt<'a, T: 'static>(stragglers: impl Iterator<Item = &'a Arc<Instance<T>>>) {
    for interrupt in stragglers.filter_map(|straggler| straggler.interrupt.get()) {
        let _ = contain(|| interrupt.interrupt());
    }
}

impl<T> Drop for Inner<T> {
    fn drop(&mut self) {
        self.registry.dismiss(self.id);
        if reaper::is_current() {
            // It looked at the pool while everybody else let go of it. What is foreign is not dropped
            // here: other pools' limits would wait for it.
            let manager = std::mem::replace(&mut self.manager, Box::new(Gone(PhantomData)));
            let foreign = (manager, self.on_event.take());
            self.close_elsewhere(Box::new(move || drop(foreign)));
        }
    }
}

/// Stands where the manager of a pool was that nobody can use any more.
struct Gone<T>(PhantomData<fn() -> T>);

impl<T: 'static> Manager for Gone<T> {
    type Instance = T;

    fn create(&self, _: &CreateContext) -> anyhow::Result<T> {
        unreachable!("nobody has the pool")
    }
}

impl<T> Member for Inner<T> {
    fn id(&self) -> PoolId {
        self.id
    }

    fn info(&self) -> PoolInfo {
        PoolInfo {
            id: self.id,
            name: self.name.clone(),
            type_name: type_name::<T>().to_owned(),
            status: self.status(),
            workers: self.crew().map(|crew| crew.status()),
        }
    }

    fn instances(&self) -> Vec<InstanceInfo> {
        self.all().iter().map(|instance| instance.info()).collect()
    }

    fn begin_close(self: Arc<Self>) -> EndClose {
        let ordered = self.order_pool_closed();
        Box::new(move |half, end| self.finish_close(ordered, half, end))
    }

    fn evict(&self, id: InstanceId) -> bool {
        let found = self.books().instances.get(&id).map(|entry| Arc::clone(entry.value()));
        found.is_some_and(|instance| self.order_closed(&[instance], CloseReason::Evicted))
    }

    fn shortest_age(&self) -> Option<Duration> {
        self.limits.shortest_age()
    }

    fn age(&self) {
        let mut expired = (Vec::new(), Vec::new());
        for instance in self.all() {
            let idle = instance.look();
            let Limits { max_lifetime, idle_timeout, check_after, .. } = self.limits;
            if max_lifetime.is_some_and(|longest| instance.age() >= longest) {
                expired.0.push(instance);
            } else if idle_timeout.is_some_and(|longest| idle >= longest) {
                expired.1.push(instance);
            } else if check_after.is_some_and(|longest| idle >= longest) {
                instance.slot.mark_stale();
            }
        }
        self.expire(&expired.0, CloseReason::MaxLifetime);
        self.expire(&expired.1, CloseReason::IdleTimeout);
    }
}
