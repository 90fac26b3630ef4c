use std::fmt;
use std::sync::Arc;

/// Interrupts an engine from any thread; outlives it without harm.
#[derive(Clone)]
pub struct InterruptHandle(Arc<dyn Fn() + Send + Sync>);

impl InterruptHandle {
    /// For engines of one's own: what to do, from whichever thread.
    #[must_use]
    pub fn new(interrupt: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(interrupt))
    }

    /// Raises `KeyboardInterrupt` in the cell that is running, if one is.
    ///
    /// Does not wait for the cell to end. Without effect on a cell that starts later, and on an
    /// engine that is gone.
    pub fn interrupt(&self) {
        (self.0)();
    }
}

impl fmt::Debug for InterruptHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterruptHandle").finish_non_exhaustive()
    }
}
