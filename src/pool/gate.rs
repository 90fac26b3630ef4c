//! `max_size`: who may have an instance, in the order of asking.
//!
//! Room that comes free goes straight to the thread that has waited longest; a newcomer never
//! overtakes. Thus one `close` lets in exactly one thread, and no wake is lost or shared.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::deadline::Deadline;

#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Admissions that have not been given back.
    inside: usize,
    queue: VecDeque<Arc<Ticket>>,
    /// Instances that were ordered closed to make room and have not closed yet. As long as there
    /// are as many as threads waiting, nobody orders more.
    owed: usize,
    /// How often those who wait have been told that there is something new to look at.
    news: u64,
    closed: bool,
}

/// A place in the queue.
pub(crate) struct Ticket {
    called: Condvar,
    // Guarded by the gate's lock; atomics would only hide that.
    outcome: Mutex<Option<Outcome>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Admitted,
    Closed,
}

/// What asking at the gate gives.
pub(crate) enum Asked {
    Settled(Outcome),
    Queued(Arc<Ticket>),
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ask(&self, max_size: usize) -> Asked {
        let mut state = self.state();
        if state.closed {
            return Asked::Settled(Outcome::Closed);
        }
        if state.inside < max_size && state.queue.is_empty() {
            state.inside += 1;
            return Asked::Settled(Outcome::Admitted);
        }
        let ticket = Arc::new(Ticket { called: Condvar::new(), outcome: Mutex::new(None) });
        state.queue.push_back(Arc::clone(&ticket));
        Asked::Queued(ticket)
    }

    /// What [`wait`](Self::wait) is to be given: asked for before one looks for a victim.
    pub(crate) fn news(&self) -> u64 {
        self.state().news
    }

    /// An instance is there that could not be chosen before to make room: has the first in the
    /// queue look again.
    pub(crate) fn stir(&self) {
        self.state().stir();
    }

    /// Has all in the queue look again.
    pub(crate) fn stir_all(&self) {
        let mut state = self.state();
        state.news += 1;
        state.queue.iter().for_each(|waiting| waiting.called.notify_one());
    }

    /// Waits to be called. `None` when the deadline passes first, or there are news since `seen`;
    /// the place in the queue is kept.
    pub(crate) fn wait(&self, ticket: &Ticket, seen: u64, deadline: Deadline) -> Option<Outcome> {
        let mut state = self.state();
        loop {
            if let Some(outcome) = ticket.outcome() {
                return Some(outcome);
            }
            if state.news != seen {
                return None;
            }
            state = deadline.wait(&ticket.called, state).ok()?;
        }
    }

    /// Leaves the queue, unless called in the meantime.
    pub(crate) fn give_up(&self, ticket: &Arc<Ticket>) -> Option<Outcome> {
        let mut state = self.state();
        let outcome = ticket.outcome();
        if outcome.is_none() {
            state.queue.retain(|other| !Arc::ptr_eq(other, ticket));
            // It may have been told news that it did not look at: the next one does.
            state.stir();
        }
        outcome
    }

    /// Gives an admission back: to the next in the queue, if there is one.
    pub(crate) fn leave(&self, made_room: bool) {
        let mut state = self.state();
        if made_room {
            state.owed = state.owed.saturating_sub(1);
        }
        match state.queue.pop_front() {
            Some(next) => next.call(Outcome::Admitted),
            None => state.inside -= 1,
        }
    }

    /// Whether room should be made for somebody. If so, the caller owes an instance.
    pub(crate) fn incur(&self) -> bool {
        let mut state = self.state();
        let wanted = state.queue.len() > state.owed;
        state.owed += usize::from(wanted);
        wanted
    }

    /// The caller could not make room after all.
    pub(crate) fn forgive(&self) {
        let mut state = self.state();
        state.owed = state.owed.saturating_sub(1);
    }

    /// Sends everybody away, now and later.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for ticket in state.queue.drain(..) {
            ticket.call(Outcome::Closed);
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.state().queue.len()
    }
}

impl State {
    fn stir(&mut self) {
        self.news += 1;
        if let Some(first) = self.queue.front() {
            first.called.notify_one();
        }
    }
}

impl Ticket {
    fn outcome(&self) -> Option<Outcome> {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, outcome: Outcome) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.called.notify_one();
    }
}
