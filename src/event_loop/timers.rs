//! What is to happen later: by deadline, then in the order of asking.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::local::Entry;

#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Timer>,
    asked: u64,
}

struct Timer {
    at: Instant,
    order: u64,
    entry: Entry,
}

impl Timers {
    pub(super) fn add(&mut self, at: Instant, entry: Entry) {
        self.asked += 1;
        self.heap.push(Timer { at, order: self.asked, entry });
    }

    /// When the first is due. Cancelled ones at the front are dropped on the way.
    pub(super) fn next(&mut self) -> Option<Instant> {
        while self.heap.peek()?.entry.is_cancelled() {
            self.heap.pop();
        }
        self.heap.peek().map(|timer| timer.at)
    }

    /// The next one that is due, if any.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Entry> {
        if self.heap.peek()?.at > now {
            return None;
        }
        self.heap.pop().map(|timer| timer.entry)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

// The heap has its greatest on top, and the earliest is to be there.
impl Ord for Timer {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Timer {}
