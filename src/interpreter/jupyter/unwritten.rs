//! In place of `left`, where there are no leases.

use super::gateway::Endpoint;
use super::kernel::Kept;
use crate::deadline::Deadline;

/// A kernel that may be at its gateway.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) id: String,
}

impl Held {
    pub(super) fn new(id: String, _: &Endpoint, _: Deadline) -> Self {
        Self { id }
    }

    pub(super) fn take_over(_: &Endpoint, _: &str, _: &str) -> Option<(Self, Kept)> {
        None
    }

    pub(super) fn keep(&mut self, _: Kept) {}

    pub(super) fn started(&mut self, id: String) {
        self.id = id;
    }

    pub(super) fn ended(self) {
        let Self { id: _ } = self;
    }
}
