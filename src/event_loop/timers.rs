//! What is to happen later: by deadline, then in the order of asking.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::queue::Entry;

/// A delay too long to be represented is as good as for ever: thirty years.
pub(super) fn after(delay: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(delay).unwrap_or_else(|| now + Duration::from_secs(30 * 365 * 24 * 60 * 60))
}

#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Timer>,
    asked: u64,
    cancelled: Cancelled,
}

/// How many timers have been cancelled since they were last looked for; those that had been called by
/// then among them. It is counted by those who cancel.
pub(super) type Cancelled = Rc<Cell<usize>>;

/// Fewer are not worth looking for.
const FEW: usize = 64;

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

    /// Where to count a timer that is cancelled.
    pub(super) fn cancelled(&self) -> &Cancelled {
        &self.cancelled
    }

    /// Takes out those that were cancelled, when they are many: a timeout that is always cancelled
    /// would pile up until it were due. They are foreign code, for the caller to drop.
    ///
    /// It looks through no more than twice as many as were cancelled.
    #[must_use]
    pub(super) fn weed(&mut self) -> Vec<Entry> {
        if self.cancelled.get() <= FEW.max(self.heap.len() / 2) {
            return Vec::new();
        }
        self.cancelled.set(0);
        let all = std::mem::take(&mut self.heap).into_vec();
        let (weeds, live): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|timer| timer.entry.is_cancelled());
        self.heap = live.into();
        weeds.into_iter().map(|timer| timer.entry).collect()
    }

    /// When the first is due, if that was not cancelled.
    pub(super) fn next(&mut self) -> Next {
        match self.heap.peek() {
            None => Next::Nothing,
            Some(first) if !first.entry.is_cancelled() => Next::At(first.at),
            Some(_) => self.heap.pop().map_or(Next::Nothing, |timer| Next::Cancelled(timer.entry)),
        }
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

    /// Takes all out.
    pub(super) fn take_all(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.heap).into_iter().map(|timer| timer.entry).collect()
    }
}

pub(super) enum Next {
    Nothing,
    At(Instant),
    /// Taken out, for the caller to drop: it is foreign code.
    Cancelled(Entry),
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
