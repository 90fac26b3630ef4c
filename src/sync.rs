//! The primitives that the models replace: one file names them, `loom` swaps them here.

#[cfg(not(sessile_loom))]
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(not(sessile_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};
#[cfg(not(sessile_loom))]
pub(crate) use std::thread;

#[cfg(sessile_loom)]
pub(crate) use loom::cell::UnsafeCell;
#[cfg(sessile_loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(sessile_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};

#[cfg(sessile_loom)]
pub(crate) mod thread {
    pub(crate) use loom::thread::{Thread, current, park, yield_now};

    /// Time does not pass in a model.
    pub(crate) fn park_timeout(_: std::time::Duration) {
        park();
    }
}

/// As in `loom`, which watches who is at it, and when.
#[cfg(not(sessile_loom))]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(sessile_loom))]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
        access(self.0.get())
    }
}

/// Stands between two sequentially consistent accesses whose one order matters. `loom` takes those
/// for acquire and release only, and needs the fence; elsewhere they suffice.
#[inline(always)]
pub(crate) fn in_one_order() {
    #[cfg(sessile_loom)]
    fence(Ordering::SeqCst);
}

/// Looks for what a thread waits for, for about as long as it takes the other side to answer when it is
/// awake; says whether it came. Otherwise it is time to sleep.
///
/// The first looks spin. The others yield: on this thread's processor there may be the one that is to
/// answer. There are enough of them that two threads which talk to each other get out of it again when
/// one of them came too late once and both have slept.
pub(crate) fn look_out(mut came: impl FnMut() -> bool) -> bool {
    const SPINS: u32 = if cfg!(sessile_loom) { 1 } else { 32 };
    const YIELDS: u32 = if cfg!(sessile_loom) { 0 } else { 32 };
    for look in 0..SPINS + YIELDS {
        if came() {
            return true;
        }
        if look < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
    false
}
