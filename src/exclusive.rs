//! What only its owner may reach.

use std::sync::{Mutex, PoisonError};

/// Keeps a value that is taken out, never looked at: so it is `Sync` whatever the value is.
///
/// Errors carry work and panics in it, which are not `Sync`, and have to be `Sync` themselves. The lock
/// is never taken.
pub(crate) struct Exclusive<T>(Mutex<T>);

impl<T> Exclusive<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
