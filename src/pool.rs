//! A pool gives every thread its own instance: how it is set up, used and closed, and what can go
//! wrong.

mod builder;
mod closers;
mod gate;
pub(crate) mod inner;
pub(crate) mod instance;
pub(crate) mod lease;
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
    /// `T: Send`, so that an idle instance can be closed by another thread than its owner. For
    /// others there is [`new_local`](Self::new_local).
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

    /// Sets up a pool with limits, a name, an event handler.
    pub fn builder(manager: impl Manager<Instance = T>) -> PoolBuilder<T> {
        PoolBuilder::new(Box::new(manager), Some(FromAfar::new()))
    }
}

impl<T> Pool<T> {
    /// A pool with no limits, of instances that need not be `Send`.
    ///
    /// Such an instance is only ever touched, and closed, by its owner. This is the price: when
    /// another thread orders it closed ([`close`](Self::close), a limit, a dropped pool), it closes
    /// when the owner next uses *any* pool, lets go of it, or ends. Until then the snapshot shows it
    /// as closing.
    pub fn new_local(manager: impl Manager<Instance = T>) -> Self {
        Self::builder_local(manager).build().expect("the default options are valid")
    }

    /// Sets up a pool of instances that need not be `Send`; see [`new_local`](Self::new_local).
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

    /// Runs `f` with exclusive access to this thread's instance, made now if there is none.
    ///
    /// Everything runs on the calling thread. A panic in `f` goes on to the caller; the instance is
    /// poisoned: closed, unless [`Manager::rescue`] keeps it.
    ///
    /// # Errors
    ///
    /// See [`PoolError`]: creation failed, the pool is closed or full, this thread is already inside
    /// the instance, or it is exiting.
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

    /// Runs `f` with shared access to this thread's instance, made now if there is none.
    ///
    /// Calls nest. A limit, or an order to close, takes effect when the outermost one ends.
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

    /// Borrows this thread's instance exclusively, made now if there is none, until the guard is
    /// dropped.
    ///
    /// # Errors
    ///
    /// As [`with`](Self::with).
    #[inline]
    pub fn get(&self) -> Result<RefMut<'_, T>, PoolError> {
        Ok(RefMut::new(self.lease()?))
    }

    /// Borrows this thread's instance shared, made now if there is none, until the guard is dropped.
    ///
    /// # Errors
    ///
    /// As [`with_ref`](Self::with_ref).
    #[inline]
    pub fn get_ref(&self) -> Result<Ref<'_, T>, PoolError> {
        Ok(Ref::new(self.lease()?))
    }

    /// [`get`](Self::get), waiting for room no longer than this. Zero does not wait.
    ///
    /// # Errors
    ///
    /// As [`with`](Self::with).
    pub fn get_timeout(&self, wait: Duration) -> Result<RefMut<'_, T>, PoolError> {
        Ok(RefMut::new(self.lease_timeout(wait)?))
    }

    /// [`get_ref`](Self::get_ref), waiting for room no longer than this. Zero does not wait.
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

    /// Calls this thread's instance spent: it is closed now, on this thread, or, if it is in use, as
    /// soon as that use ends. The next use makes a new one. Says whether there was one.
    ///
    /// Inside [`with`](Self::with) this is how one gets rid of the instance at hand.
    pub fn discard(&self) -> bool {
        let Some(instance) = self.here() else {
            return false;
        };
        instance.discard();
        true
    }

    /// Closes this thread's instance now, on this thread. Says whether there was one.
    ///
    /// For a thread that goes on but is done with the pool, and for scoped threads, whose end
    /// [`thread::scope`](std::thread::scope) does not wait for as far as thread-locals go.
    ///
    /// # Errors
    ///
    /// If the instance is in use by this thread. It is left as it is.
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

    /// Closes the pool and every instance of it, and waits until they are closed, but not for longer
    /// than `within`.
    ///
    /// From here on no instance is made. Idle ones are closed at once on the calling thread, if
    /// `T: Send`; all others by their owners, as soon as they let go of them. Half-way to the
    /// deadline, those still open are asked to stop by the handle that [`Manager::interrupt`] gave.
    ///
    /// The calling thread's own instance, if it is inside it, is not waited for: it is reported as
    /// still open, and closes when this thread lets go. Closing twice does no harm; the second
    /// report is about what the first left.
    pub fn close(&self, within: Duration) -> CloseReport {
        self.inner().close(within)
    }

    /// Waits until the pool has no instance, but not for longer than `within`. Says whether it came
    /// to that.
    ///
    /// It closes nothing itself. After a [`thread::scope`](std::thread::scope) it waits for the
    /// instances of its threads.
    pub fn wait_closed(&self, within: Duration) -> bool {
        self.inner().wait_closed(within)
    }

    /// Whether the pool has been closed. Instances may still be on their way out.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner().is_closed()
    }

    /// Begins a new generation: every instance there is closes at its next safe point, as in
    /// [`close`](Self::close), and is made anew on its thread's next use. Says how many there were.
    pub fn clear(&self) -> usize {
        self.inner().clear()
    }

    /// Closes, as [`close`](Self::close) does but without waiting, the instances that `keep` rejects.
    /// Says how many it rejected.
    ///
    /// `keep` runs on the calling thread.
    pub fn retain(&self, keep: impl Fn(&InstanceInfo) -> bool) -> usize {
        self.inner().retain(keep)
    }

    /// How the pool stands.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        self.inner().status()
    }

    /// Which pool this is.
    #[must_use]
    pub fn id(&self) -> PoolId {
        self.inner().id
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner().name
    }

    /// The registry that lists it.
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
