//! What a close has come to.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::snapshot::InstanceInfo;
use crate::id::{InstanceId, Owner};

/// What has become of the instances that a close found.
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

/// An instance whose close failed. It is gone nevertheless.
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
    /// Whether every instance is closed, and every close went well.
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
