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
use super::books::Books;
use super::inner::{FromAfar, Inner};
use super::limits::Limits;
use crate::fork::{self, PerProcess};
use crate::id::PoolId;
use crate::manager::Manager;
use crate::registry::Registry;
use crate::registry::event::{InstanceEvent, OnEvent};
use crate::thread::{self, Place};

/// Sets up a [`Pool`]: [`Pool::builder`] or [`Pool::builder_local`] begins one,
/// [`build`](Self::build) ends it.
///
/// ```
/// use std::time::Duration;
///
/// use sessile::{Pool, from_fn};
///
/// let pool = Pool::builder(from_fn(|_| 0))
///     .name("counters")
///     .max_size(8)
///     .wait_timeout(Duration::from_secs(2))
///     .idle_timeout(Duration::from_secs(600))
///     .build()?;
/// pool.with(|n| *n += 1)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct PoolBuilder<T: 'static> {
    manager: Box<dyn Manager<Instance = T>>,
    from_afar: Option<FromAfar<T>>,
    name: Option<String>,
    registry: Option<Registry>,
    on_event: Option<OnEvent>,
    limits: Limits,
}

/// Says why a builder's `build` failed: an option has a value that makes no sense, or the system
/// has no thread to give. For the latter, [`source`](Error::source) is the [`io::Error`].
///
/// ```
/// use sessile::{Pool, from_fn};
///
/// let error = Pool::builder(from_fn(|_| 0)).max_size(0).build().unwrap_err();
/// assert!(error.to_string().starts_with("`max_size` must not be zero"), "{error}");
/// ```
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

    /// Sets what the pool is called in snapshots, events, errors and the names of its instances.
    ///
    /// Default: the name of the type of its instances.
    ///
    /// ```
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::builder(from_fn(|_| 0)).name("counters").build()?;
    /// assert_eq!(pool.name(), "counters");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the registry that lists the pool.
    ///
    /// Default: [`Registry::global`].
    ///
    /// ```
    /// use sessile::{Pool, Registry, from_fn};
    ///
    /// let own = Registry::new();
    /// let pool = Pool::builder(from_fn(|_| 0)).registry(&own).build()?;
    /// pool.with(|n| *n += 1)?;
    /// assert_eq!(own.snapshot().instances.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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

    /// Sets how many instances there may be at once, in all threads together.
    ///
    /// A thread that wants one more waits, first come, first served, and an instance of another
    /// thread is closed to make room ([`evict_idle_after`](Self::evict_idle_after)); it is never
    /// handed over.
    ///
    /// Default: any number. [`build`](Self::build) refuses zero.
    ///
    /// ```
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::builder(from_fn(|_| 0)).max_size(2).build()?;
    /// std::thread::scope(|s| {
    ///     for _ in 0..4 {
    ///         s.spawn(|| pool.with(|n| *n += 1).unwrap()); // never more than two at once
    ///     }
    /// });
    /// assert!(pool.status().size <= 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_size(mut self, instances: usize) -> Self {
        self.limits.max_size = Some(instances);
        self
    }

    /// Sets how long a use waits for room; with `None` it waits for ever. [`Pool::get_timeout`] and
    /// its like take their own.
    ///
    /// Default: 30 s.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::builder(from_fn(|_| 0)).max_size(8);
    /// let pool = pool.wait_timeout(Duration::from_secs(1)).build()?;
    /// pool.with(|n| *n += 1)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_timeout(mut self, wait: impl Into<Option<Duration>>) -> Self {
        self.limits.wait_timeout = wait.into();
        self
    }

    /// Sets how long an instance must have sat idle before the pool may close it to make room for
    /// another thread's. With zero also a busy one may be, at the moment it is let go. With `None`
    /// none is: room comes only from threads that end and from instances that are closed for other
    /// reasons.
    ///
    /// Default: zero.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::builder(from_fn(|_| 0)).max_size(8);
    /// let pool = pool.evict_idle_after(Duration::from_secs(5)).build()?;
    /// pool.with(|n| *n += 1)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn evict_idle_after(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.limits.evict_idle_after = idle.into();
        self
    }

    /// Sets how long an instance may sit idle before the reaper closes it.
    ///
    /// The reaper is a thread that runs only while some pool needs it. It closes an instance
    /// between one and about 1.2 times this long after its last use.
    ///
    /// Default: for ever. [`build`](Self::build) refuses zero.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::builder(from_fn(|_| 0)).idle_timeout(Duration::from_secs(60)).build()?;
    /// pool.with(|n| *n += 1)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn idle_timeout(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.limits.idle_timeout = idle.into();
        self
    }

    /// Sets how old an instance may get before it is closed: by the reaper if it is idle, by its
    /// owner, when it lets go of it, if it is busy.
    ///
    /// Default: any age. [`build`](Self::build) refuses zero.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::builder(from_fn(|_| 0)).max_lifetime(Duration::from_secs(3600)).build()?;
    /// pool.with(|n| *n += 1)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_lifetime(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.limits.max_lifetime = age.into();
        self
    }

    /// Sets how often an instance may be used. Its owner closes it after the last time.
    ///
    /// Default: any number. [`build`](Self::build) refuses zero.
    ///
    /// ```
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::builder(from_fn(|_| 0)).max_uses(2).build()?;
    /// assert_eq!(pool.with(|n| { *n += 1; *n })?, 1);
    /// assert_eq!(pool.with(|n| { *n += 1; *n })?, 2);
    /// assert_eq!(pool.with(|n| { *n += 1; *n })?, 1); // a new one
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_uses(mut self, uses: impl Into<Option<u64>>) -> Self {
        self.limits.max_uses = uses.into();
        self
    }

    /// Sets after how long an idle time the pool asks [`Manager::has_broken`] and
    /// [`Manager::is_valid`] before an instance is used again.
    ///
    /// Default: never. [`build`](Self::build) refuses zero.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, from_fn};
    ///
    /// let counters = from_fn(|_| 0).valid_if(|n| *n >= 0);
    /// let pool = Pool::builder(counters).check_after(Duration::from_secs(30)).build()?;
    /// pool.with(|n| *n += 1)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_after(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.limits.check_after = idle.into();
        self
    }

    /// Sets for how long the pool refuses to make an instance after it could not, at once and
    /// without asking the manager: for `first`, then twice as long each time, up to `longest`. A
    /// creation that succeeds sets it back.
    ///
    /// Default: no time at all; each use tries.
    ///
    /// ```
    /// use std::io;
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, try_from_fn};
    ///
    /// let pool = Pool::builder(try_from_fn(|_| Err::<u8, _>(io::Error::other("down"))))
    ///     .create_backoff(Duration::from_secs(10), Duration::from_secs(60))
    ///     .build()?;
    /// assert!(pool.with(|_| ()).unwrap_err().is_create_failed());
    /// let error = pool.with(|_| ()).unwrap_err(); // at once: nobody was asked
    /// assert!(error.is_backing_off() && error.retry_after() <= Some(Duration::from_secs(10)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.limits.backoff = Some((first, longest.max(first)));
        self
    }

    /// Makes the pool. No instance is made yet: the first use makes the first.
    ///
    /// ```
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::builder(from_fn(|_| 0)).build()?;
    /// assert_eq!(pool.status().size, 0);
    /// pool.with(|n| *n += 1)?;
    /// assert_eq!(pool.status().size, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
