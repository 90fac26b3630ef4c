//! What others than its owner may want of a kernel: that the running cell stops.
//!
//! Nobody but the owner speaks with the kernel. Others say what they want, and the owner, who looks up
//! several times a second while a cell runs, passes it on. So whoever interrupts waits for nobody, be the
//! gateway there or not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

#[derive(Default)]
pub(super) struct Target {
    interrupted: AtomicBool,
    /// Since when the owner is to be let go of, whether or not the kernel can be told.
    stopped: Mutex<Option<Instant>>,
}

impl Target {
    /// A cell begins: what was before does not concern it.
    pub(super) fn begin(&self) {
        self.interrupted.store(false, Ordering::Relaxed);
        *self.stopped() = None;
    }

    /// The running cell is to be interrupted.
    pub(super) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    /// The same; and if the kernel cannot be told, its owner is to wait no longer.
    pub(super) fn stop(&self) {
        self.stopped().get_or_insert_with(Instant::now);
        self.interrupt();
    }

    /// Whether it was interrupted since this was asked last.
    pub(super) fn take_interrupt(&self) -> bool {
        self.interrupted.swap(false, Ordering::Relaxed)
    }

    pub(super) fn stopped_at(&self) -> Option<Instant> {
        *self.stopped()
    }

    fn stopped(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
