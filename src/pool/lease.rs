//! A borrowed instance: the thread that holds one may touch it.
//!
//! What makes these few dereferences right is one fact. *A borrowed instance stays where it is*: it
//! is on its pool's books until its close has ended, no close can begin while it is borrowed (see
//! `slot`), and the books keep it alive.

#![allow(unsafe_code)] // a borrowed instance is used through a pointer, without counting references

use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::panicking;

use super::inner::{HeavyFencePassed, Inner};
use super::instance::Instance;
use crate::manager::CloseReason;
use crate::slot::{Granted, Mode, Notice};
use crate::thread::PlaceIndex;

/// A borrow of this thread's instance; `SHARED` says of which kind. `!Send`, as its pointer is.
///
/// It is ended by [`finish`](Self::finish). Dropped instead, it was by a panic.
pub(crate) struct Lease<'p, T: 'static, const SHARED: bool> {
    instance: NonNull<Instance<T>>,
    granted: Granted,
    of: PhantomData<&'p Inner<T>>,
}

impl<'p, T, const SHARED: bool> Lease<'p, T, SHARED> {
    pub(super) const MODE: Mode = if SHARED { Mode::Shared } else { Mode::Exclusive };

    /// The fast path: borrows the instance that the table has, or changes nothing.
    #[inline(always)]
    pub(super) fn fast(index: &PlaceIndex<Instance<T>>) -> Option<Self> {
        let (instance, granted) = index.try_borrow(Self::MODE)?;
        Some(Self { instance, granted, of: PhantomData })
    }

    /// Takes over a borrow of this mode, granted a moment ago.
    #[inline(always)]
    pub(super) fn of(instance: &Instance<T>, granted: Granted) -> Self {
        Self { instance: NonNull::from(instance), granted, of: PhantomData }
    }

    #[inline(always)]
    fn instance(&self) -> &Instance<T> {
        // SAFETY: valid: borrowed, so it stays where it is (see above). Aliasing: an `Instance` is
        // only ever lent out shared; its value is a cell.
        unsafe { self.instance.as_ref() }
    }

    #[inline(always)]
    pub(super) fn value(&self) -> *mut T {
        self.instance().slot.value()
    }

    /// The owning reference to a borrowed instance.
    fn counted(&self) -> Arc<Instance<T>> {
        let instance = self.instance.as_ptr();
        // SAFETY: valid: it was allocated by `Arc` in `Instance::opening`. A borrow may have ended a
        // moment ago, and a closer struck the instance off the books since; but this thread's own
        // reference is still there, in its table or, if the thread is leaving, set adrift: only
        // this thread gives that up, and not before it comes here.
        unsafe {
            Arc::increment_strong_count(instance);
            Arc::from_raw(instance)
        }
    }

    /// The instance, if it can be interrupted.
    pub(crate) fn interruptible(&self) -> Option<Arc<Instance<T>>> {
        self.instance().interrupt.get().is_some().then(|| self.counted())
    }

    /// Ends the borrow in good order.
    #[inline(always)]
    pub(super) fn finish(self) {
        let lease = ManuallyDrop::new(self);
        if lease.instance().slot.words().release(Self::MODE, lease.granted) {
            lease.look_after();
        }
    }

    #[cold]
    #[inline(never)]
    fn look_after(&self) {
        let instance = self.counted();
        Arc::clone(&instance).look_after();
        instance.come_ashore();
    }
}

impl<T, const SHARED: bool> Drop for Lease<'_, T, SHARED> {
    #[cold]
    #[inline(never)]
    fn drop(&mut self) {
        let instance = self.counted();
        Arc::clone(&instance).after_panic(Self::MODE, self.granted);
        instance.come_ashore();
    }
}

impl<T> Lease<'_, T, false> {
    /// Runs `f` in the borrow. A panic in it poisons the instance.
    #[inline(always)]
    pub(crate) fn run<R>(self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: valid: the instance is borrowed until `finish`, or, by unwinding, `drop`.
        // Aliasing: the borrow is exclusive, and the reference cannot leave `f`.
        let out = f(unsafe { &mut *self.value() });
        self.finish();
        out
    }
}

impl<T> Lease<'_, T, true> {
    /// As for exclusive leases, shared.
    #[inline(always)]
    pub(crate) fn run<R>(self, f: impl FnOnce(&T) -> R) -> R {
        // SAFETY: valid: as above. Aliasing: all borrows that are live are shared.
        let out = f(unsafe { &*self.value() });
        self.finish();
        out
    }
}

impl<T> Instance<T> {
    /// Closes an instance whose only borrow the caller holds and gives up.
    pub(super) fn close_borrowed(&self, reason: CloseReason) {
        // SAFETY: the callers are the owner: they end its last granted borrow, and do not touch the
        // value again.
        let (value, reason) = unsafe { self.slot.take_borrowed(reason) };
        self.pool.place.move_out(self.id);
        self.finish(value, reason);
    }

    /// Asks the manager about an instance whose only borrow the caller holds.
    pub(super) fn ask<R>(&self, question: impl FnOnce(&Inner<T>, &mut T) -> R) -> R {
        // The manager is foreign code and may come back here: a shared borrow would let it in.
        let _alone = self.slot.alone();
        // SAFETY: valid: filled, and borrowed. Aliasing: the caller's borrow is the only one, and
        // the user's reference, if there was one, is gone.
        question(&self.pool, unsafe { &mut *self.slot.value() })
    }

    /// Puts the value in, borrowed exclusively by the owner.
    pub(super) fn install(&self, value: T) -> Granted {
        // SAFETY: only `Inner::create` calls this, once, on the owner, for the instance it opened.
        unsafe { self.slot.fill(value) }
    }

    /// Takes a revoked, idle instance out for closing, on any thread.
    pub(super) fn take_from_afar(&self, _: &HeavyFencePassed) -> Option<(T, CloseReason)>
    where
        T: Send,
    {
        // SAFETY: `T: Send`; and `HeavyFencePassed` is made from a heavy fence that returned `true`, which the
        // callers, `Inner::order_closed` and `expire`, passed after the instance had been revoked.
        unsafe { self.slot.take_idle() }
    }

    /// Takes an idle instance out for closing that the caller has bid for.
    pub(super) fn take_bid(&self, _: &HeavyFencePassed) -> Option<T>
    where
        T: Send,
    {
        // SAFETY: `T: Send`; the caller, `Inner::take_idlest`, has bid for it, nobody else has since,
        // for the lock on bidding is held; and it passed a heavy fence, which returned `true`, in
        // between.
        unsafe { self.slot.take_bid(CloseReason::MadeRoom) }
    }

    /// Takes a revoked, idle instance out for closing. Only the owner calls this.
    pub(super) fn take_as_owner(&self) -> Option<(T, CloseReason)> {
        debug_assert!(self.thread.is_current(), "only the owner may take");
        // SAFETY: the caller is the owner: `Resident`'s methods run there, and `look_after` does.
        unsafe { self.slot.take_idle() }
    }
}

impl<T> Instance<T> {
    /// The thread leaves, and somebody's thread-local still holds a borrow: keeps the thread's own
    /// reference alive until that borrow has ended.
    pub(super) fn set_adrift(self: Arc<Self>) {
        self.adrift.store(true, Ordering::Relaxed);
        mem::forget(self);
    }

    /// The counterpart, after any borrow has ended.
    fn come_ashore(&self) {
        let over = matches!(self.slot.notice(), Notice::Taken(_));
        if over && self.adrift.swap(false, Ordering::Relaxed) {
            // SAFETY: valid: this is the reference that `set_adrift` forgot, given up once. The
            // callers hold another, so `self` outlives this call.
            unsafe { Arc::decrement_strong_count(self) };
        }
    }
}

/// What both guards are made of: a lease that foreign code may drop, while a panic unwinds or not.
///
/// Two words, so that it comes back in registers. Its grant is marked if the thread was unwinding
/// before the borrow began: then a panic at its end proves nothing.
struct Guarded<'p, T: 'static, const SHARED: bool>(ManuallyDrop<Lease<'p, T, SHARED>>);

impl<'p, T, const SHARED: bool> Guarded<'p, T, SHARED> {
    #[inline(always)]
    fn new(mut lease: Lease<'p, T, SHARED>) -> Self {
        lease.granted = lease.granted.marked(panicking());
        Self(ManuallyDrop::new(lease))
    }
}

impl<T, const SHARED: bool> Drop for Guarded<'_, T, SHARED> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: valid: nobody else takes the lease out, and this is the only drop. It is a
        // pointer: nothing aliases.
        let mut lease = unsafe { ManuallyDrop::take(&mut self.0) };
        let (granted, was_panicking) = lease.granted.unmarked();
        lease.granted = granted;
        if panicking() && !was_panicking {
            drop(lease);
        } else {
            lease.finish();
        }
    }
}

/// Gives exclusive access to this thread's instance; [`Pool::get`](crate::Pool::get) makes it.
///
/// It derefs to the instance, and lets go of it when dropped. It cannot leave the thread, nor live
/// across an `.await` of a task that may change threads. Dropped by a panic, it poisons the
/// instance.
///
/// ```
/// let pool = sessile::Pool::from_fn(|_| vec![1]);
/// let mut numbers = pool.get()?;
/// numbers.push(2);
/// assert_eq!(*numbers, [1, 2]);
/// # Ok::<(), sessile::PoolError>(())
/// ```
#[must_use = "dropped at once, it has borrowed the instance for nothing"]
pub struct RefMut<'p, T: 'static>(Guarded<'p, T, false>);

/// Gives shared access to this thread's instance; [`Pool::get_ref`](crate::Pool::get_ref) makes it.
///
/// Any number may live at once, all on the owner. In all else it is as [`RefMut`].
///
/// ```
/// let pool = sessile::Pool::from_fn(|_| vec![1]);
/// let (one, other) = (pool.get_ref()?, pool.get_ref()?);
/// assert_eq!(one.len() + other.len(), 2);
/// # Ok::<(), sessile::PoolError>(())
/// ```
#[must_use = "dropped at once, it has borrowed the instance for nothing"]
pub struct Ref<'p, T: 'static>(Guarded<'p, T, true>);

impl<'p, T> RefMut<'p, T> {
    #[inline(always)]
    pub(super) fn new(lease: Lease<'p, T, false>) -> Self {
        Self(Guarded::new(lease))
    }

    /// Gives the instance up as spent: it is closed now, and the next use makes a new one.
    ///
    /// ```
    /// use sessile::pool::RefMut;
    ///
    /// let pool = sessile::Pool::from_fn(|cx| cx.id());
    /// let kept = pool.get()?;
    /// let first = *kept;
    /// RefMut::discard(kept);
    /// assert_ne!(pool.with(|id| *id)?, first);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    pub fn discard(this: Self) {
        this.0.0.instance().slot.revoke(CloseReason::Discarded);
    }

    /// Returns whether somebody has ordered the instance closed, which happens when this is
    /// dropped.
    ///
    /// Who keeps an instance for long asks, and lets go.
    ///
    /// ```
    /// use sessile::Pool;
    /// use sessile::pool::RefMut;
    ///
    /// let pool = Pool::from_fn(|_| 1);
    /// let kept = pool.get()?;
    /// assert!(!RefMut::is_ordered_closed(&kept));
    /// pool.clear();
    /// assert!(RefMut::is_ordered_closed(&kept));
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    #[must_use]
    pub fn is_ordered_closed(this: &Self) -> bool {
        matches!(this.0.0.instance().slot.notice(), Notice::Revoked(_))
    }
}

impl<'p, T> Ref<'p, T> {
    #[inline(always)]
    pub(super) fn new(lease: Lease<'p, T, true>) -> Self {
        Self(Guarded::new(lease))
    }
}

impl<T> Deref for RefMut<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: valid: borrowed as long as `self` lives. Aliasing: the borrow is exclusive, and
        // `&self` keeps `&mut` away.
        unsafe { &*self.0.0.value() }
    }
}

impl<T> DerefMut for RefMut<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: valid: as above. Aliasing: the borrow is exclusive, and so is `&mut self`.
        unsafe { &mut *self.0.0.value() }
    }
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: valid: borrowed as long as `self` lives. Aliasing: all borrows are shared.
        unsafe { &*self.0.0.value() }
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for RefMut<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Ref<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}
