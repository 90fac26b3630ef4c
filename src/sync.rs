//! The primitives that the models replace: one file names them, `loom` swaps them here.

#[cfg(not(sessile_loom))]
pub(crate) use crossbeam_queue::SegQueue as Queue;
#[cfg(not(sessile_loom))]
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(not(sessile_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};
#[cfg(not(sessile_loom))]
pub(crate) use std::thread;

#[cfg(sessile_loom)]
pub(crate) use self::models::{Mutex, MutexGuard, Queue};
#[cfg(sessile_loom)]
pub(crate) use loom::cell::UnsafeCell;
#[cfg(sessile_loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

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

/// What stands in for types of which `loom` has none, or none for what is not sized.
#[cfg(sessile_loom)]
mod models {
    use std::collections::VecDeque;
    use std::ops::{Deref, DerefMut};
    use std::sync::{LockResult, TryLockResult};

    pub(crate) struct Mutex<T: ?Sized> {
        lock: loom::sync::Mutex<()>,
        value: std::sync::Mutex<T>,
    }

    pub(crate) struct MutexGuard<'a, T: ?Sized> {
        value: std::sync::MutexGuard<'a, T>,
        _lock: loom::sync::MutexGuard<'a, ()>,
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self { lock: loom::sync::Mutex::new(()), value: std::sync::Mutex::new(value) }
        }
    }

    impl<T: ?Sized> Mutex<T> {
        pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            let _lock = self.lock.lock().unwrap();
            Ok(MutexGuard { value: self.value.lock().unwrap(), _lock })
        }

        pub(crate) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
            Ok(self.lock().unwrap())
        }
    }

    impl<T: ?Sized> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.value
        }
    }

    impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.value
        }
    }

    /// A queue whose operations happen one after the other, as those of `SegQueue` seem to.
    pub(crate) struct Queue<T>(Mutex<VecDeque<T>>);

    impl<T> Queue<T> {
        pub(crate) fn new() -> Self {
            Self(Mutex::new(VecDeque::new()))
        }

        pub(crate) fn push(&self, value: T) {
            self.0.lock().unwrap().push_back(value);
        }

        pub(crate) fn pop(&self) -> Option<T> {
            self.0.lock().unwrap().pop_front()
        }

        pub(crate) fn len(&self) -> usize {
            self.0.lock().unwrap().len()
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.len() == 0
        }
    }
}
