//! A point in time up to which somebody is willing to wait.

use std::sync::{Condvar, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// `None` waits for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) const NEVER: Self = Self(None);

    /// A wait too long to be represented is one for ever.
    pub(crate) fn after(wait: Duration) -> Self {
        Self(Instant::now().checked_add(wait))
    }

    pub(crate) fn at(at: Instant) -> Self {
        Self(Some(at))
    }

    /// How long there is still to wait; `None` is for ever.
    pub(crate) fn remaining(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// As [`remaining`](Self::remaining), where for ever is as long as there is.
    #[cfg(all(feature = "signals", unix))]
    pub(crate) fn remaining_or_max(self) -> Duration {
        self.remaining().unwrap_or(Duration::MAX)
    }

    pub(crate) fn has_passed(self) -> bool {
        self.0.is_some_and(|at| at <= Instant::now())
    }

    /// Waits for the bell, and no longer than this; it may also return for no reason. `Err`: there was
    /// no time left, and it has not waited.
    pub(crate) fn wait<'a, T>(
        self,
        bell: &Condvar,
        guard: MutexGuard<'a, T>,
    ) -> Result<MutexGuard<'a, T>, MutexGuard<'a, T>> {
        match self.remaining() {
            None => Ok(bell.wait(guard).unwrap_or_else(PoisonError::into_inner)),
            Some(left) if left.is_zero() => Err(guard),
            Some(left) => {
                let woken = bell.wait_timeout(guard, left);
                Ok(woken.unwrap_or_else(PoisonError::into_inner).0)
            }
        }
    }

    pub(crate) fn later(self, other: Self) -> Self {
        Self(self.0.zip(other.0).map(|(a, b)| a.max(b)))
    }

    pub(crate) fn earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }
}
