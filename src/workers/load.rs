//! How much each worker has to do, for whoever gives a key to the one with the least, and for the status.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::thread::coarse_ms;

/// How much a worker has to do.
#[derive(Default)]
#[repr(align(64))] // others write their own
pub(super) struct Load {
    /// Works that wait for this worker alone.
    pub(super) queued: AtomicUsize,
    /// Keys that belong to it.
    pub(super) keys: AtomicUsize,
    /// Since when it has been doing the work at hand, in milliseconds of the clock; zero is never.
    pub(super) running_since: AtomicU64,
}

impl Load {
    pub(super) fn begin(&self) -> Busy<'_> {
        self.running_since.store(coarse_ms().max(1), Ordering::Relaxed);
        Busy(self)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.running_since.load(Ordering::Relaxed) != 0
    }
}

/// While it lives, the worker counts as busy. Work drops it before its handle is told: who has the
/// result in hand does not find the work running.
pub(super) struct Busy<'l>(&'l Load);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.running_since.store(0, Ordering::Relaxed);
    }
}
