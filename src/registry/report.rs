//! What a close has come to.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::snapshot::InstanceInfo;
use crate::id::{InstanceId, Owner};

/// Tells what has become of the instances that a close found.
///
/// ```
/// use std::time::Duration;
///
/// use sessile::{Pool, from_fn};
///
/// let pool = Pool::new(from_fn(|_| 0).close_with(|_, _| anyhow::bail!("the disk is full")));
/// pool.with(|n| *n += 1)?;
/// let report = pool.close(Duration::from_secs(5));
/// assert!(!report.is_clean());
/// assert_eq!(report.failed[0].error, "the disk is full");
/// assert!(report.to_string().starts_with("0 closed, 1 failed, 0 still open"));
/// # Ok::<(), sessile::PoolError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[must_use = "an instance may still be open"]
#[non_exhaustive]
pub struct CloseReport {
    /// Closed in good order.
    pub closed: usize,
    /// Closed, and the manager's `close` failed or panicked.
    pub failed: Vec<FailedClose>,
    /// Not closed by the deadline. Each closes as soon as its owner lets go of it or ends.
    pub still_open: Vec<InstanceInfo>,
}

/// Names an instance whose close failed, and says why. The instance is gone nevertheless.
///
/// ```
/// use std::time::Duration;
///
/// use sessile::{Pool, from_fn};
///
/// let pool = Pool::new(from_fn(|_| 0).close_with(|_, _| anyhow::bail!("the disk is full")));
/// pool.with(|n| *n += 1)?;
/// for failed in pool.close(Duration::from_secs(5)).failed {
///     eprintln!("{}-{} of {}: {}", failed.pool, failed.id, failed.owner, failed.error);
/// }
/// # Ok::<(), sessile::PoolError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailedClose {
    /// Which instance.
    pub id: InstanceId,
    /// The name of its pool.
    pub pool: String,
    /// The thread that it belonged to.
    pub owner: Owner,
    /// The manager's error, with its causes.
    pub error: String,
}

impl CloseReport {
    /// Returns whether every instance is closed, and every close went well.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let report = sessile::Pool::from_fn(|_| 0).close(Duration::from_secs(5));
    /// assert!(report.is_clean(), "{report}");
    /// ```
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.still_open.is_empty()
    }

    pub(crate) fn absorb(&mut self, other: Self) {
        let Self { closed, failed, still_open } = other;
        self.closed += closed;
        self.failed.extend(failed);
        self.still_open.extend(still_open);
    }
}

impl fmt::Display for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { closed, failed, still_open } = self;
        write!(f, "{closed} closed, {} failed, {} still open", failed.len(), still_open.len())?;
        for FailedClose { id, pool, owner, error } in failed {
            write!(f, "\n  failed: {pool}-{id} of {owner}: {error}")?;
        }
        for instance in still_open {
            let InstanceInfo { id, pool, owner, .. } = instance;
            write!(f, "\n  still open: {pool}-{id} of {owner}")?;
        }
        Ok(())
    }
}
