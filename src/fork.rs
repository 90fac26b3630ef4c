//! What a forked child inherits: nothing that it may use.
//!
//! `fork` copies the memory of all threads but only one of the threads. Instances belong to the
//! parent: the child must not close them (the parent still uses the same sockets and processes),
//! and our locks may have been held by a thread that does not exist in the child. So the child
//! *forgets*: whatever has a lock in it lives in a [`PerProcess`], which a child starts anew, and
//! leaks what it inherited, untouched.

#![allow(unsafe_code)] // the fork hook, and values that are left behind

use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// How many forks lie between this process and the one that loaded the crate.
static GENERATION: AtomicU32 = AtomicU32::new(0);

pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Has every later child forget what it inherits, and what its one thread has of it by `forget`,
/// which may take no lock. Later calls change nothing.
pub(crate) fn watch(forget: fn()) {
    #[cfg(unix)]
    {
        use std::sync::OnceLock;

        static FORGET: OnceLock<fn()> = OnceLock::new();

        extern "C" fn in_child() {
            GENERATION.fetch_add(1, Ordering::Relaxed);
            if let Some(forget) = FORGET.get() {
                forget();
            }
        }

        FORGET.get_or_init(|| {
            // SAFETY: valid: `in_child` is a function for as long as the program is loaded. It runs
            // in the child, on its only thread, and does what is allowed there: it writes an atomic
            // and this thread's own cells, and takes no lock. No memory is aliased.
            let code = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
            debug_assert_eq!(code, 0, "pthread_atfork is out of memory");
            forget
        });
    }
    #[cfg(not(unix))]
    let _ = forget;
}

/// A value that each process has its own of; a forked child starts with a new one.
pub(crate) struct PerProcess<T> {
    current: AtomicPtr<Edition<T>>,
    make: fn() -> T,
}

struct Edition<T> {
    generation: u32,
    value: T,
}

impl<T> PerProcess<T> {
    /// The value is made by `make`, on first use.
    pub(crate) const fn new(make: fn() -> T) -> Self {
        Self { current: AtomicPtr::new(ptr::null_mut()), make }
    }

    pub(crate) fn get(&self) -> &T {
        let current = self.current.load(Ordering::Acquire);
        // SAFETY: valid: an edition, once published, is freed only by `drop`, which has `&mut self`.
        // Aliasing: it is only ever lent out shared.
        match unsafe { current.as_ref() } {
            Some(edition) if edition.generation == generation() => &edition.value,
            _ => self.renew(current),
        }
    }

    #[cold]
    fn renew(&self, stale: *mut Edition<T>) -> &T {
        let fresh =
            Box::into_raw(Box::new(Edition { generation: generation(), value: (self.make)() }));
        // `stale` is leaked on purpose: it is the parent's, and its locks may be held for ever.
        match self.current.compare_exchange(stale, fresh, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: valid: just published, and freed only by `drop`. Aliasing: shared from here on.
            Ok(_) => unsafe { &(*fresh).value },
            Err(winner) => {
                // SAFETY: `fresh` comes from `Box::into_raw` above and was shown to nobody.
                drop(unsafe { Box::from_raw(fresh) });
                // SAFETY: valid and shared, as in `get`: `winner` was published by another thread of
                // this same process, so it is of this generation.
                unsafe { &(*winner).value }
            }
        }
    }
}

impl<T> fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerProcess").finish_non_exhaustive()
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let current = *self.current.get_mut();
        // SAFETY: valid: see `get`. Aliasing: `&mut self` says that nobody else looks.
        if unsafe { current.as_ref() }.is_some_and(|edition| edition.generation == generation()) {
            // SAFETY: it comes from `Box::into_raw` in `renew`, and this is the only drop.
            drop(unsafe { Box::from_raw(current) });
        }
    }
}

// SAFETY: `PerProcess<T>` lends out `&T` to any thread and drops `T` on any thread.
unsafe impl<T: Send + Sync> Sync for PerProcess<T> {}
// SAFETY: as for `Sync`; it owns its `T`.
unsafe impl<T: Send> Send for PerProcess<T> {}
