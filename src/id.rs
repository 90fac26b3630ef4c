//! Names that are never used twice.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Tells an instance from every other of this process, past and to come.
///
/// Later instances have greater ids. Ids of the operating system's threads are recycled; these are
/// not.
///
/// ```
/// let pool = sessile::Pool::from_fn(|cx| cx.id());
/// let first = pool.with(|id| *id)?;
/// pool.clear();
/// assert!(pool.with(|id| *id)? > first);
/// # Ok::<(), sessile::PoolError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(u64);

/// Tells a pool from every other of this process, past and to come.
///
/// ```
/// let (one, other) = (sessile::Pool::from_fn(|_| 0), sessile::Pool::from_fn(|_| 0));
/// assert!(one.id() < other.id());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PoolId(u64);

impl InstanceId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the id as a number.
    ///
    /// ```
    /// let pool = sessile::Pool::from_fn(|cx| cx.id().get());
    /// assert!(pool.with(|id| *id)? > 0);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl PoolId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the id as a number.
    ///
    /// ```
    /// assert!(sessile::Pool::from_fn(|_| 0).id().get() > 0);
    /// ```
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names the thread that an instance belongs to.
///
/// It displays as the thread's name, or as `thread-` and its number.
///
/// ```
/// let pool = sessile::Pool::from_fn(|cx| cx.owner().clone());
/// let owner = std::thread::Builder::new()
///     .name("reader".to_owned())
///     .spawn(move || pool.with(|owner| owner.clone()))?
///     .join()
///     .unwrap()?;
/// assert_eq!(owner.to_string(), "reader");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Owner {
    /// A number of our own, never given to another thread of this process.
    pub number: u64,
    /// The name the thread was given, if any.
    pub name: Option<String>,
    /// The operating system's id, where there is one to be had. Recycled: a label for people, to be
    /// found in `top` or a debugger, and never a key.
    pub os_id: Option<u64>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.pad(name),
            None => f.pad(&format!("thread-{}", self.number)),
        }
    }
}
