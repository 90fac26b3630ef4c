//! A pool gives every thread its own instance: how it is set up, used and closed, and what can go
//! wrong.

mod books;
mod borrow;
mod builder;
mod close;
mod closers;
mod create;
mod gate;
pub(crate) mod inner;
pub(crate) mod instance;
pub(crate) mod lease;
mod limits;
mod room;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::{BuildError, PoolBuilder};
use self::inner::{FromAfar, Inner};
use self::instance::Instance;
use self::lease::Lease;
pub use self::lease::{Ref, RefMut};
use crate::deadline::Deadline;
use crate::error::Kind;
pub use crate::error::PoolError;
pub use crate::id::{InstanceId, Owner, PoolId};
use crate::manager::{CloseReason, CreateContext, Manager, from_fn, try_from_fn};
use crate::registry::Registry;
pub use crate::registry::event::{InstanceEvent, InstanceEventKind};
use crate::registry::report::CloseReport;
use crate::registry::snapshot::InstanceInfo;
pub use crate::registry::snapshot::PoolStatus;
use crate::thread::{PlaceIndex, Resident};

/// Gives every thread its own instance of `T`: made on first use, never shared, always closed.
///
/// A pool is a handle: cheap to clone, to be kept in a field, a `static`
/// [`LazyLock`](std::sync::LazyLock), or borrowed by scoped threads. When the last handle is
/// dropped the pool closes, without waiting for instances that are in use.
///
/// ```
/// use sessile::Pool;
///
/// let counters = Pool::from_fn(|_| 0);
/// std::thread::scope(|s| {
///     for _ in 0..4 {
///         s.spawn(|| {
///             counters.with(|n| *n += 1).unwrap();
///             assert_eq!(counters.with(|n| *n).unwrap(), 1); // nobody else's
///         });
///     }
/// });
/// ```
///
/// # Threads
///
/// A pool may be used from any thread, whatever `T` is. Each method says on which thread it runs
/// the manager's code. No method waits for another thread, except those that take a deadline, and,
/// under [`max_size`](PoolBuilder::max_size), the uses that have to make an instance.
pub struct Pool<T: 'static> {
    /// Beside the pointer, not behind it: the fast path touches no memory that clones write.
    index: PlaceIndex<Instance<T>>,
    handle: Arc<Handle<T>>,
}

/// Dropped with the last [`Pool`]. (Instances keep `Inner` alive for longer.)
struct Handle<T: 'static>(Arc<Inner<T>>);

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        self.0.begin_close(CloseReason::PoolDropped);
    }
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self { index: self.index.clone(), handle: Arc::clone(&self.handle) }
    }
}

impl<T: Send> Pool<T> {
    /// Makes a pool with no limits.
    ///
    /// The instances are `Send`, so an idle one can be closed by another thread than its owner. For
    /// others there is [`new_local`](Self::new_local).
    ///
    /// ```
    /// use sessile::{CreateContext, Manager, Pool};
    ///
    /// struct Logs;
    ///
    /// impl Manager for Logs {
    ///     type Instance = Vec<String>;
    ///
    ///     fn create(&self, cx: &CreateContext) -> anyhow::Result<Vec<String>> {
    ///         Ok(vec![format!("the log of {}", cx.owner())])
    ///     }
    /// }
    ///
    /// let logs = Pool::new(Logs);
    /// assert_eq!(logs.with(|log| log.len())?, 1);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    pub fn new(manager: impl Manager<Instance = T>) -> Self {
        Self::builder(manager).build().expect("the default options are valid")
    }

    /// Makes a pool with no limits, of instances that a closure makes.
    ///
    /// It is [`new`](Self::new) with a manager that [`from_fn`](crate::from_fn()) made.
    ///
    /// ```
    /// let counters = sessile::Pool::from_fn(|_| 0);
    /// counters.with(|n| *n += 1)?;
    /// assert_eq!(counters.with(|n| *n)?, 1);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    pub fn from_fn(make: impl Fn(&CreateContext) -> T + Send + Sync + 'static) -> Self {
        Self::new(from_fn(make))
    }

    /// Makes a pool with no limits, of instances that a closure makes which may fail, with any error.
    ///
    /// It is [`new`](Self::new) with a manager that [`try_from_fn`](crate::try_from_fn()) made.
    ///
    /// ```
    /// use std::net::UdpSocket;
    ///
    /// let sockets = sessile::Pool::try_from_fn(|_| UdpSocket::bind("127.0.0.1:0"));
    /// // The first `?` is for the pool, the second for what the closure returned.
    /// let address = sockets.with(|socket| socket.local_addr())??;
    /// assert_ne!(address.port(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn try_from_fn<E>(
        make: impl Fn(&CreateContext) -> Result<T, E> + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<anyhow::Error>,
    {
        Self::new(try_from_fn(make))
    }

    /// Begins a pool with limits, a name or an event handler; [`PoolBuilder::build`] makes it.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::builder(from_fn(|_| String::new()))
    ///     .name("scratch")
    ///     .max_size(8)
    ///     .idle_timeout(Duration::from_secs(60))
    ///     .build()?;
    /// assert_eq!(pool.name(), "scratch");
    /// # Ok::<(), sessile::pool::BuildError>(())
    /// ```
    pub fn builder(manager: impl Manager<Instance = T>) -> PoolBuilder<T> {
        PoolBuilder::new(Box::new(manager), Some(FromAfar::new()))
    }
}

impl<T> Pool<T> {
    /// Makes a pool with no limits, of instances that need not be `Send`.
    ///
    /// Only its owner ever touches such an instance, and closes it. This is the price: when another
    /// thread orders it closed ([`close`](Self::close), a limit, a dropped pool), it closes when
    /// its owner next uses *any* pool, lets go of it, or ends. Until then the snapshot shows it as
    /// closing.
    ///
    /// ```
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    ///
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::new_local(from_fn(|_| Rc::new(Cell::new(0))));
    /// pool.with_ref(|n| n.set(n.get() + 1))?;
    /// assert_eq!(pool.with_ref(|n| n.get())?, 1);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    pub fn new_local(manager: impl Manager<Instance = T>) -> Self {
        Self::builder_local(manager).build().expect("the default options are valid")
    }

    /// Begins a pool of instances that need not be `Send`; see [`new_local`](Self::new_local).
    ///
    /// ```
    /// use std::rc::Rc;
    ///
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::builder_local(from_fn(|_| Rc::new(1))).max_size(8).build()?;
    /// assert_eq!(pool.with_ref(|n| **n)?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder_local(manager: impl Manager<Instance = T>) -> PoolBuilder<T> {
        PoolBuilder::new(Box::new(manager), None)
    }

    fn of(inner: Arc<Inner<T>>) -> Self {
        Self { index: inner.place.index(), handle: Arc::new(Handle(inner)) }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner<T>> {
        &self.handle.0
    }

    // ---- use ----------------------------------------------------------------------------------

    /// Runs `f` with exclusive access to this thread's instance, which the pool makes now if there
    /// is none.
    ///
    /// Everything runs on the calling thread. A panic in `f` goes on to the caller; the instance is
    /// poisoned: the pool closes it, unless [`Manager::rescue`] keeps it.
    ///
    /// What `f` returns comes back inside a `Result`, since there may be no instance. Where `f` can
    /// fail too, two things can go wrong, and `??` says so:
    ///
    /// ```
    /// use std::net::UdpSocket;
    ///
    /// use sessile::Pool;
    ///
    /// let sockets = Pool::try_from_fn(|_| UdpSocket::bind("127.0.0.1:0"));
    /// let port = sockets.with(|socket| socket.local_addr())??.port();
    /// assert_eq!(sockets.with(|socket| socket.local_addr())??.port(), port); // the same socket
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Under rayon
    ///
    /// Each of rayon's threads has an instance of its own. `collect` carries an error out:
    ///
    /// ```
    /// use rayon::prelude::*;
    ///
    /// let squares = sessile::Pool::from_fn(|_| 0_u64);
    /// let sums: Vec<u64> = (1..=100_u64)
    ///     .into_par_iter()
    ///     .map(|n| squares.with(|sum| { *sum += n * n; *sum }))
    ///     .collect::<Result<_, _>>()?;
    /// assert_eq!(sums.len(), 100);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    ///
    /// Never wait for rayon inside `f`: the thread may take up another job meanwhile, and be
    /// refused in it as [re-entrant](PoolError::is_reentrant). Rayon's threads do not end, so their
    /// instances are closed by [`idle_timeout`](PoolBuilder::idle_timeout) or
    /// [`close`](Self::close). The guide [`docs::pools`](crate::docs::pools) has more.
    ///
    /// # Errors
    ///
    /// See [`PoolError`]: the manager could not make an instance, the pool is closed or full, this
    /// thread is inside its instance already, or it is ending.
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R, PoolError> {
        // Two ways, each with its own copy of `f`, so that the fast one has no result to look into.
        match Lease::<T, false>::fast(&self.index) {
            Some(lease) => Ok(lease.run(f)),
            None => self.with_slow(f),
        }
    }

    #[cold]
    #[inline(never)]
    fn with_slow<R>(&self, f: impl FnOnce(&mut T) -> R) -> Result<R, PoolError> {
        Ok(self.inner().borrow::<false>(None)?.run(f))
    }

    /// Runs `f` with shared access to this thread's instance, which the pool makes now if there is
    /// none.
    ///
    /// Calls nest. A limit, or an order to close, takes effect when the outermost one ends.
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// let depth = sessile::Pool::from_fn(|_| Cell::new(0));
    /// depth.with_ref(|outer| {
    ///     outer.set(1);
    ///     depth.with_ref(|inner| inner.set(inner.get() + 1)) // the same instance
    /// })??;
    /// assert_eq!(depth.with_ref(|n| n.get())?, 2);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`with`](Self::with); re-entry is an error only inside exclusive access, or more than 253
    /// levels deep.
    #[inline]
    pub fn with_ref<R>(&self, f: impl FnOnce(&T) -> R) -> Result<R, PoolError> {
        match Lease::<T, true>::fast(&self.index) {
            Some(lease) => Ok(lease.run(f)),
            None => self.with_ref_slow(f),
        }
    }

    #[cold]
    #[inline(never)]
    fn with_ref_slow<R>(&self, f: impl FnOnce(&T) -> R) -> Result<R, PoolError> {
        Ok(self.inner().borrow::<true>(None)?.run(f))
    }

    /// Borrows this thread's instance exclusively until the guard is dropped; the pool makes it now
    /// if there is none.
    ///
    /// ```
    /// let logs = sessile::Pool::from_fn(|_| Vec::new());
    /// let mut log = logs.get()?;
    /// log.push("one");
    /// log.push("two");
    /// drop(log); // here the use ends
    /// assert_eq!(logs.with(|log| log.len())?, 2);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`with`](Self::with).
    #[inline]
    pub fn get(&self) -> Result<RefMut<'_, T>, PoolError> {
        Ok(RefMut::new(self.lease()?))
    }

    /// Borrows this thread's instance shared until the guard is dropped; the pool makes it now if
    /// there is none.
    ///
    /// ```
    /// let names = sessile::Pool::from_fn(|cx| cx.name().to_owned());
    /// let (one, other) = (names.get_ref()?, names.get_ref()?);
    /// assert_eq!(*one, *other);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`with_ref`](Self::with_ref).
    #[inline]
    pub fn get_ref(&self) -> Result<Ref<'_, T>, PoolError> {
        Ok(Ref::new(self.lease()?))
    }

    /// Borrows as [`get`](Self::get) does, and waits for room no longer than `wait`. Zero does not
    /// wait.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::builder(from_fn(|_| 0)).max_size(1).build()?;
    /// let kept = pool.get()?; // this thread has the one there may be, and keeps it
    /// std::thread::scope(|s| {
    ///     s.spawn(|| {
    ///         let error = pool.get_timeout(Duration::ZERO).map(drop).unwrap_err();
    ///         assert!(error.is_timeout(), "{error}");
    ///     });
    /// });
    /// # drop(kept);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`with`](Self::with).
    pub fn get_timeout(&self, wait: Duration) -> Result<RefMut<'_, T>, PoolError> {
        Ok(RefMut::new(self.lease_timeout(wait)?))
    }

    /// Borrows as [`get_ref`](Self::get_ref) does, and waits for room no longer than `wait`. Zero
    /// does not wait.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = sessile::Pool::from_fn(|_| 1);
    /// assert_eq!(*pool.get_ref_timeout(Duration::from_millis(100))?, 1);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`with_ref`](Self::with_ref).
    pub fn get_ref_timeout(&self, wait: Duration) -> Result<Ref<'_, T>, PoolError> {
        Ok(Ref::new(self.lease_timeout(wait)?))
    }

    #[inline(always)]
    pub(crate) fn lease<const SHARED: bool>(&self) -> Result<Lease<'_, T, SHARED>, PoolError> {
        match Lease::fast(&self.index) {
            Some(lease) => Ok(lease),
            None => self.inner().borrow(None),
        }
    }

    fn lease_timeout<const SHARED: bool>(
        &self,
        wait: Duration,
    ) -> Result<Lease<'_, T, SHARED>, PoolError> {
        match Lease::fast(&self.index) {
            Some(lease) => Ok(lease),
            None => self.inner().borrow(Some(Deadline::after(wait))),
        }
    }

    // ---- this thread's instance ---------------------------------------------------------------

    /// Closes this thread's instance as spent: now, or, if it is in use, as soon as that use ends.
    /// The next use makes a new one. Returns whether there was one.
    ///
    /// Inside [`with`](Self::with) this is how one gets rid of the instance at hand.
    ///
    /// ```
    /// let pool = sessile::Pool::from_fn(|cx| cx.id());
    /// let first = pool.with(|id| {
    ///     pool.discard(); // it has served its time
    ///     *id
    /// })?;
    /// assert_ne!(pool.with(|id| *id)?, first);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    pub fn discard(&self) -> bool {
        let Some(instance) = self.here() else {
            return false;
        };
        instance.discard();
        true
    }

    /// Closes this thread's instance now. Returns whether there was one.
    ///
    /// For a thread that goes on but is done with the pool, and for scoped threads, whose end
    /// [`thread::scope`](std::thread::scope) does not wait for as far as thread-locals go.
    ///
    /// ```
    /// let pool = sessile::Pool::from_fn(|_| 0);
    /// pool.with(|n| *n += 1)?;
    /// assert!(pool.close_here()?);
    /// assert!(!pool.close_here()?); // there was none any more
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If this thread is using the instance. It is left as it is.
    pub fn close_here(&self) -> Result<bool, PoolError> {
        self.close_here_for(CloseReason::ClosedHere)
    }

    pub(crate) fn close_here_for(&self, reason: CloseReason) -> Result<bool, PoolError> {
        let Some(instance) = self.here() else {
            return Ok(false);
        };
        if instance.is_borrowed() {
            return Err(self.inner().error(Kind::Reentrant));
        }
        instance.slot.revoke(reason);
        instance.attend();
        Ok(true)
    }

    fn here(&self) -> Option<Arc<Instance<T>>> {
        let entered = crate::thread::enter().ok()?;
        self.inner().place.resident(&entered)
    }

    // ---- all instances ------------------------------------------------------------------------

    /// Closes the pool and every instance of it, and waits until they are closed, but not for
    /// longer than `within`.
    ///
    /// From here on the pool makes no instance. Idle ones are closed at once on the calling thread,
    /// if `T: Send`; all others by their owners, as soon as they let go of them. Half-way to the
    /// deadline, those still open are asked to stop by the handle that [`Manager::interrupt`] gave.
    ///
    /// The calling thread's own instance, if it is inside it, is not waited for: it is reported as
    /// still open, and closes when this thread lets go. Closing twice does no harm; the second
    /// report is about what the first left.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = sessile::Pool::from_fn(|_| 0);
    /// pool.with(|n| *n += 1)?;
    /// let report = pool.close(Duration::from_secs(5));
    /// assert!(report.is_clean() && report.closed == 1, "{report}");
    /// assert!(pool.with(|_| ()).unwrap_err().is_closed());
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    pub fn close(&self, within: Duration) -> CloseReport {
        self.inner().close(within)
    }

    /// Waits until the pool has no instance, but not for longer than `within`. Returns whether it
    /// came to that.
    ///
    /// It closes nothing itself. After a [`thread::scope`](std::thread::scope) it waits for the
    /// instances of its threads.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = sessile::Pool::from_fn(|_| 0);
    /// std::thread::scope(|s| {
    ///     s.spawn(|| pool.with(|n| *n += 1));
    /// });
    /// // The scope waits for what the thread runs, not for its thread-locals.
    /// assert!(pool.wait_closed(Duration::from_secs(5)));
    /// ```
    pub fn wait_closed(&self, within: Duration) -> bool {
        self.inner().wait_closed(within)
    }

    /// Returns whether the pool has been closed. Instances may still be on their way out.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = sessile::Pool::from_fn(|_| 0);
    /// assert!(!pool.is_closed());
    /// let _ = pool.close(Duration::ZERO);
    /// assert!(pool.is_closed());
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner().is_closed()
    }

    /// Begins a new generation: every instance there is closes at its next safe point, as in
    /// [`close`](Self::close), and its thread makes a new one on its next use. Returns how many
    /// there were.
    ///
    /// For when what instances were made from has changed: a password, a file of settings.
    ///
    /// ```
    /// let pool = sessile::Pool::from_fn(|cx| cx.generation());
    /// assert_eq!(pool.with(|generation| *generation)?, 0);
    /// assert_eq!(pool.clear(), 1);
    /// assert_eq!(pool.with(|generation| *generation)?, 1);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    pub fn clear(&self) -> usize {
        self.inner().clear()
    }

    /// Closes, as [`close`](Self::close) does but without waiting, the instances that `keep`
    /// rejects. Returns how many it rejected.
    ///
    /// `keep` runs on the calling thread.
    ///
    /// ```
    /// let pool = sessile::Pool::from_fn(|_| 0);
    /// pool.with(|n| *n += 1)?;
    /// assert_eq!(pool.retain(|instance| instance.uses < 1), 1); // it has been used once
    /// assert_eq!(pool.with(|n| *n)?, 0);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    pub fn retain(&self, keep: impl Fn(&InstanceInfo) -> bool) -> usize {
        self.inner().retain(keep)
    }

    /// Counts the pool's instances and what has become of earlier ones.
    ///
    /// ```
    /// let pool = sessile::Pool::from_fn(|_| 0);
    /// pool.with(|n| *n += 1)?;
    /// let status = pool.status();
    /// assert_eq!((status.size, status.idle, status.created), (1, 1, 1));
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        self.inner().status()
    }

    /// Returns the pool's id, which no other pool of this process ever has.
    ///
    /// ```
    /// let (one, other) = (sessile::Pool::from_fn(|_| 0), sessile::Pool::from_fn(|_| 0));
    /// assert_ne!(one.id(), other.id());
    /// assert_eq!(one.clone().id(), one.id());
    /// ```
    #[must_use]
    pub fn id(&self) -> PoolId {
        self.inner().id
    }

    /// Returns the pool's name: the one it was given, or else the type of its instances.
    ///
    /// ```
    /// assert_eq!(sessile::Pool::from_fn(|_| 0_u8).name(), "u8");
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner().name
    }

    /// Returns the registry that lists the pool.
    ///
    /// ```
    /// let pool = sessile::Pool::from_fn(|_| 0);
    /// pool.with(|n| *n += 1)?;
    /// assert!(!pool.registry().snapshot().is_empty());
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.inner().registry
    }
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("id", &self.id())
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}
