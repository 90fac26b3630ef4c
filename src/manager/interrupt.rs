use std::fmt;
use std::sync::Arc;

/// Asks an instance, from any thread, to stop what it is doing.
///
/// A pool that closes calls the handle of an instance that is still in use half-way to its deadline;
/// [`Manager::interrupt`](crate::Manager::interrupt) gave it. Whoever has a handle may call it, more
/// than once, and after the instance has closed, when it does nothing.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
///
/// use sessile::manager::InterruptHandle;
///
/// let stop = Arc::new(AtomicBool::new(false));
/// let seen = Arc::clone(&stop);
/// let handle = InterruptHandle::new(move || stop.store(true, Ordering::Relaxed));
/// std::thread::spawn(move || handle.interrupt()).join().unwrap();
/// assert!(seen.load(Ordering::Relaxed));
/// ```
#[derive(Clone)]
pub struct InterruptHandle(Arc<dyn Fn() + Send + Sync>);

impl InterruptHandle {
    /// Makes a handle that calls `interrupt`, on whichever thread it is used.
    ///
    /// The owner may be inside the instance at that moment, so `interrupt` must not touch the instance
    /// itself: think of a kill handle, a cancellation flag, the socket's `shutdown`.
    #[must_use]
    pub fn new(interrupt: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(interrupt))
    }

    /// Interrupts what the instance is doing, on the calling thread, without waiting for it to end.
    ///
    /// In an interpreter the cell that is running gets a `KeyboardInterrupt`. A cell that starts later
    /// is not hit, nor is an engine that is gone.
    pub fn interrupt(&self) {
        (self.0)();
    }
}

impl fmt::Debug for InterruptHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterruptHandle").finish_non_exhaustive()
    }
}
