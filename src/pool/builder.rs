//! How a pool is set up.

use std::any::type_name;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::Pool;
use super::inner::{Books, FromAfar, Inner};
use crate::deadline::Deadline;
use crate::fork::{self, PerProcess};
use crate::id::PoolId;
use crate::manager::Manager;
use crate::registry::Registry;
use crate::registry::event::{InstanceEvent, OnEvent};
use crate::thread::{self, Place};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(super) max_size: Option<usize>,
    pub(super) wait_timeout: Option<Duration>,
    pub(super) evict_idle_after: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) max_uses: Option<u64>,
    pub(super) check_after: Option<Duration>,
    /// The first wait and the longest.
    pub(super) backoff: Option<(Duration, Duration)>,
}

impl Limits {
    pub(super) fn usual_wait(&self) -> Deadline {
        self.wait_timeout.map_or(Deadline::NEVER, Deadline::after)
    }

    /// The shortest time that the reaper has to keep for this pool.
    pub(super) fn shortest_age(&self) -> Option<Duration> {
        [self.idle_timeout, self.max_lifetime, self.check_after].into_iter().flatten().min()
    }
}

/// Sets up a [`Pool`]. Begun by [`Pool::builder`] or [`Pool::builder_local`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct PoolBuilder<T: 'static> {
    manager: Box<dyn Manager<Instance = T>>,
    from_afar: Option<FromAfar<T>>,
    name: Option<String>,
    registry: Option<Registry>,
    on_event: Option<OnEvent>,
    limits: Limits,
}

/// Why a builder's `build` failed: an option has a value that makes no sense, or the system has no
/// thread to give. For the latter, [`source`](Error::source) is the [`io::Error`].
#[derive(Debug)]
pub struct BuildError(Cause);

#[derive(Debug)]
enum Cause {
    Option { option: &'static str, problem: Cow<'static, str> },
    Thread(io::Error),
}

impl BuildError {
    /// What is wrong with the value of an option: it begins with a verb, and says what to do instead.
    pub(crate) fn new(option: &'static str, problem: impl Into<Cow<'static, str>>) -> Self {
        Self(Cause::Option { option, problem: problem.into() })
    }

    pub(crate) fn thread(error: io::Error) -> Self {
        Self(Cause::Thread(error))
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Option { option, problem } => write!(f, "`{option}` {problem}"),
            Cause::Thread(_) => f.write_str("the system could not start a thread"),
        }
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Cause::Option { .. } => None,
            Cause::Thread(error) => Some(error),
        }
    }
}

impl<T> PoolBuilder<T> {
    pub(super) fn new(
        manager: Box<dyn Manager<Instance = T>>,
        from_afar: Option<FromAfar<T>>,
    ) -> Self {
        let limits = Limits {
            max_size: None,
            wait_timeout: Some(Duration::from_secs(30)),
            evict_idle_after: Some(Duration::ZERO),
            idle_timeout: None,
            max_lifetime: None,
            max_uses: None,
            check_after: None,
            backoff: None,
        };
        Self { manager, from_afar, name: None, registry: None, on_event: None, limits }
    }

    /// What the pool is called in snapshots, events and the names of its instances.
    ///
    /// Default: the name of the type of its instances.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The registry that lists the pool.
    ///
    /// Default: [`Registry::global`].
    pub fn registry(mut self, registry: &Registry) -> Self {
        self.registry = Some(registry.clone());
        self
    }

    /// Calls `on_event` with whatever happens to an instance: it was made, closed, poisoned, or one
    /// of these failed.
    ///
    /// Default: nobody is told.
    ///
    /// ```
    /// use sessile::Pool;
    /// use sessile::pool::InstanceEventKind;
    ///
    /// let builder = Pool::builder(sessile::from_fn(|_| 0)).on_event(|event| match event.kind {
    ///     InstanceEventKind::Created { took } => println!("{}: made in {took:?}", event.pool),
    ///     kind => println!("{}-{}: {kind:?}", event.pool, event.instance),
    /// });
    /// builder.build()?.with(|n| *n += 1)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Threads
    ///
    /// It runs on the thread where the thing happens: often the owner, sometimes the one that closes,
    /// or the reaper; possibly while thread-local destructors run. No lock of this crate is held
    /// meanwhile. A panic in it ends there.
    pub fn on_event(
        mut self,
        on_event: impl Fn(&InstanceEvent<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.on_event = Some(Box::new(on_event));
        self
    }

    /// How many instances there may be at once, in all threads together.
    ///
    /// A thread that wants one more waits, first come, first served, and an instance of another
    /// thread is closed to make room ([`evict_idle_after`](Self::evict_idle_after)); it is never
    /// handed over.
    ///
    /// Default: any number. Zero is refused by [`build`](Self::build).
    pub fn max_size(mut self, instances: usize) -> Self {
        self.limits.max_size = Some(instances);
        self
    }

    /// How long a use waits for room; `None` waits for ever. [`Pool::get_timeout`] and its like
    /// take their own.
    ///
    /// Default: 30 s.
    pub fn wait_timeout(mut self, wait: impl Into<Option<Duration>>) -> Self {
        self.limits.wait_timeout = wait.into();
        self
    }

    /// How long an instance must have sat idle before it may be closed to make room for another
    /// thread's. With zero also a busy one may be, at the moment it is let go. With `None` none is:
    /// room comes only from threads that end and from instances that are closed for other reasons.
    ///
    /// Default: zero.
    pub fn evict_idle_after(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.limits.evict_idle_after = idle.into();
        self
    }

    /// How long an instance may sit idle before the reaper closes it.
    ///
    /// It is closed between one and about 1.2 times this long after its last use.
    ///
    /// Default: for ever. Zero is refused by [`build`](Self::build).
    pub fn idle_timeout(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.limits.idle_timeout = idle.into();
        self
    }

    /// How old an instance may get before it is closed: by the reaper if it is idle, by its owner,
    /// when it lets go of it, if it is busy.
    ///
    /// Default: any age. Zero is refused by [`build`](Self::build).
    pub fn max_lifetime(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.limits.max_lifetime = age.into();
        self
    }

    /// How often an instance may be used. Its owner closes it after the last time.
    ///
    /// Default: any number. Zero is refused by [`build`](Self::build).
    pub fn max_uses(mut self, uses: impl Into<Option<u64>>) -> Self {
        self.limits.max_uses = uses.into();
        self
    }

    /// After how long an idle time [`Manager::has_broken`] and [`Manager::is_valid`] are asked
    /// before an instance is used again.
    ///
    /// Default: never. Zero is refused by [`build`](Self::build).
    pub fn check_after(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.limits.check_after = idle.into();
        self
    }

    /// After a creation that failed, for how long the pool refuses to try again, at once and without
    /// asking the manager: `first`, then twice as long each time, up to `longest`. A creation that
    /// succeeds sets it back.
    ///
    /// Default: no time at all; each use tries.
    pub fn create_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.limits.backoff = Some((first, longest.max(first)));
        self
    }

    /// Makes the pool. No instance is made yet: the first is by the first use.
    ///
    /// # Errors
    ///
    /// If an option has a value that makes no sense; see there.
    pub fn build(self) -> Result<Pool<T>, BuildError> {
        let Self { manager, from_afar, name, registry, on_event, limits } = self;
        let Limits { max_size, idle_timeout, max_lifetime, max_uses, check_after, .. } = limits;
        let zero = [
            ("max_size", max_size == Some(0)),
            ("idle_timeout", idle_timeout == Some(Duration::ZERO)),
            ("max_lifetime", max_lifetime == Some(Duration::ZERO)),
            ("max_uses", max_uses == Some(0)),
            ("check_after", check_after == Some(Duration::ZERO)),
        ];
        if let Some((option, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
            let problem = "must not be zero: give more, or leave it out for no limit";
            return Err(BuildError::new(option, problem));
        }
        fork::watch(thread::forget_all);
        let type_name = type_name::<T>();
        let can_break = manager.can_break();
        let inner = Arc::new(Inner {
            id: PoolId::next(),
            name: name.unwrap_or_else(|| type_name.to_owned()),
            type_name,
            manager,
            can_break,
            limits,
            on_event,
            registry: registry.unwrap_or_else(|| Registry::global().clone()),
            from_afar,
            place: Place::new(),
            closed: AtomicBool::new(false),
            crew: OnceLock::new(),
            crew_only: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            books: PerProcess::new(Books::new),
        });
        inner.note_watch(&inner.registry.enroll(&inner));
        Ok(Pool::of(inner))
    }
}

impl<T> fmt::Debug for PoolBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { manager: _, from_afar, name, registry: _, on_event, limits } = self;
        f.debug_struct("PoolBuilder")
            .field("name", name)
            .field("closes_from_afar", &from_afar.is_some())
            .field("on_event", &on_event.is_some())
            .field("limits", limits)
            .finish_non_exhaustive()
    }
}
