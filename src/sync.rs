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
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(sessile_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};

#[cfg(sessile_loom)]
pub(crate) mod thread {
    pub(crate) use loom::thread::{Thread, current, park};

    /// Time does not pass in a model.
    pub(crate) fn park_timeout(_: std::time::Duration) {
        park();
    }
}

/// Stands between two sequentially consistent accesses whose one order matters. `loom` takes those
/// for acquire and release only, and needs the fence; elsewhere they suffice.
#[inline(always)]
pub(crate) fn in_one_order() {
    #[cfg(sessile_loom)]
    fence(Ordering::SeqCst);
}

/// So often a thread looks for what it waits for before it sleeps: about as long as it takes the
/// other side to answer when it is awake.
pub(crate) const LOOKS: u32 = if cfg!(sessile_loom) { 1 } else { 200 };
