//! What the handles of a pool share. With [`instance`](super::instance) it is one thing in two files: a
//! pool lists its instances, and an instance is of its pool.
//!
//! What is done with it has files of its own: `borrow`, `create`, `room`, `close`; the account is in
//! `books`. Nothing here, and nothing there, is on the fast path. No lock, and no guard of the map, is held while foreign code
//! runs: a manager's methods, an event handler, a predicate, a destructor.

use std::any::type_name;
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use super::books::Books;
use super::closers::Job;
use super::instance::Instance;
use super::limits::Limits;
use crate::contain::contain;
use crate::error::{Kind, PoolError};
use crate::fence;
use crate::fork::PerProcess;
use crate::id::{InstanceId, PoolId};
use crate::manager::{CloseReason, CreateContext, Manager};
use crate::registry::crew::Crew;
use crate::registry::event::{InstanceEvent, InstanceEventKind, OnEvent};
use crate::registry::reaper;
use crate::registry::snapshot::{InstanceInfo, InstanceState, PoolInfo, PoolStatus};
use crate::registry::{EndClose, Member, Registry};
use crate::thread::Place;

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
    pub(super) books: PerProcess<Books<Instance<T>>>,
}

/// Proof that `T: Send`, as a value: what is done with instances of other threads.
pub(crate) struct FromAfar<T: 'static> {
    take: TakeFromAfar<T>,
    take_bid: TakeBid<T>,
    closing: Closing<T>,
}

type TakeFromAfar<T> = fn(&Instance<T>, &HeavyFencePassed) -> Option<(T, CloseReason)>;
type TakeBid<T> = fn(&Instance<T>, &HeavyFencePassed) -> Option<T>;
type Closing<T> = fn(Arc<Instance<T>>, Option<CloseReason>, Option<(T, CloseReason)>) -> Job;

/// Proof that a heavy fence was passed.
pub(super) struct HeavyFencePassed(());

impl HeavyFencePassed {
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
    /// Takes the value out of an idle instance of another thread that was ordered closed.
    pub(super) fn take(
        &self,
        instance: &Instance<T>,
        passed: &HeavyFencePassed,
    ) -> Option<(T, CloseReason)> {
        (self.take)(instance, passed)
    }

    /// Takes an instance that was bid for, if it is idle and has been for so long.
    pub(super) fn take_bid(
        &self,
        instance: &Instance<T>,
        at_least: Duration,
        passed: &HeavyFencePassed,
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

impl<T> Inner<T> {
    pub(super) fn books(&self) -> &Books<Instance<T>> {
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

    pub(super) fn error(&self, kind: Kind) -> PoolError {
        PoolError::new(kind, &self.name)
    }
}

impl<T> Inner<T> {
    /// A copy of the list, so that no guard of the map is held while one works on it.
    pub(super) fn all(&self) -> Vec<Arc<Instance<T>>> {
        self.books().instances.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    pub(super) fn matching(&self, which: impl Fn(&Instance<T>) -> bool) -> Vec<Arc<Instance<T>>> {
        self.all().into_iter().filter(|instance| which(instance)).collect()
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
            let (id, key) = (instance.id, instance.key.as_deref());
            let event = InstanceEvent { pool: &self.name, instance: id, owner, key, kind };
            let _ = contain(|| on_event(&event));
        }
    }

    pub(super) fn poisoned(&self, instance: &Instance<T>, rescued: bool) {
        self.books().tally.poisoned.fetch_add(1, Ordering::Relaxed);
        self.tell(instance, InstanceEventKind::Poisoned { rescued });
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
