//! What a pool keeps its instances to.

use std::time::Duration;

use crate::deadline::Deadline;

/// As the builder was told. What is `None` has no limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(super) max_size: Option<usize>,
    pub(super) wait_timeout: Option<Duration>,
    pub(super) evict_idle_after: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) max_uses: Option<u64>,
    pub(super) check_after: Option<Duration>,
    /// The first wait and the longest.
    pub(super) backoff: Option<(Duration, Duration)>,
}

impl Limits {
    pub(super) fn usual_wait(&self) -> Deadline {
        self.wait_timeout.map_or(Deadline::NEVER, Deadline::after)
    }

    /// The shortest time that the reaper has to keep for this pool.
    pub(super) fn shortest_age(&self) -> Option<Duration> {
        [self.idle_timeout, self.max_lifetime, self.check_after].into_iter().flatten().min()
    }
}
