//! `max_size`: who may have an instance, in the order of asking, and who makes room for them.
//!
//! # Getting in
//!
//! Room that comes free goes straight to the thread that has waited longest; a newcomer never
//! overtakes. Thus one close lets in exactly one thread, and no wake is lost or shared.
//!
//! # Making room
//!
//! Nobody is singled out beforehand. While anybody waits, the *first* instance that is idle, or is let
//! go, makes the room:
//!
//! * *Who begins to wait looks around.* It alerts the owners of busy instances, so that each looks at
//!   the gate when it lets go (`Slot::alert`), and it bids for idle ones, the idlest first
//!   (`Slot::bid`). An idle instance that must not leave its thread is left to its owner, who is
//!   nudged, and looks at the gate when it comes by.
//! * *Who lets go while somebody waits looks at the gate*, and closes the instance itself.
//! * *Who makes an instance while somebody waits* is alerted from the start.
//!
//! Both who bids and who lets go ask [`Gate::promise`]. It says yes to as many as there are threads
//! waiting, and whoever it says yes to closes an instance, now: what it says yes to cannot fail or be
//! put off. So no more instances are closed than threads wait, an order is never given for somebody who
//! may have left by the time that it is carried out, and who gives up leaves nothing behind but a close
//! that has begun.
//!
//! No instance stays idle unnoticed. One that is let go before the alert is seen idle by who gave it:
//! between the alert and the look there is a heavy fence, and this is the handshake of `slot`. One that
//! is let go after it asks the gate, under its lock: either those who wait have all been promised room,
//! or it makes some. An owner that finds nobody waiting takes its alert back, and looks again: the
//! count of those who wait is set before an alert, and read after the alert was taken back.
//!
//! A promise is a close that runs, and a close is foreign code: it may be slow, or hang. So a promise
//! counts for [`PATIENCE`] only, and the first in the queue looks around again after that. Waiting
//! itself runs no foreign code, so a deadline is kept, whatever a close does: see `closers`.
//!
//! Where instances must have been idle for some time first, letting go is no reason to close one: then
//! nobody is alerted, and the first in the queue looks around by the clock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::id::InstanceId;

/// For so long a close that has begun is relied on; so often does who waits look at the clock.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Gate {
    line: Mutex<Line<Arc<Ticket>>>,
    /// How many wait, for who lets go to look at without the lock.
    waiting: AtomicUsize,
}

/// A place in the queue.
pub(super) struct Ticket {
    called: Condvar,
    // Guarded by the gate's lock; atomics would only hide that.
    news: Mutex<News>,
}

#[derive(Default)]
struct News {
    outcome: Option<Outcome>,
    stirred: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Admitted,
    Closed,
}

/// What asking at the gate gives.
pub(super) enum Asked {
    Settled(Outcome),
    Queued(Arc<Ticket>),
}

/// What waiting gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Called(Outcome),
    /// This thread was nudged: it has something to see to.
    Stirred,
    /// It is time for the first in the queue to look around again.
    LookAround,
    Late,
}

impl Gate {
    fn line(&self) -> MutexGuard<'_, Line<Arc<Ticket>>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, line: &Line<Arc<Ticket>>) {
        self.waiting.store(line.queue.len(), Ordering::SeqCst);
    }

    pub(super) fn ask(&self, max_size: usize) -> Asked {
        let mut line = self.line();
        let ticket = || Arc::new(Ticket { called: Condvar::new(), news: Mutex::default() });
        let asked = line.ask(max_size, ticket);
        self.count(&line);
        asked
    }

    /// Whether anybody waits. A look without the lock: see the head of this file.
    pub(super) fn is_waited_at(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// How many who wait have not been promised room.
    pub(super) fn unserved(&self) -> usize {
        self.line().unserved(Instant::now())
    }

    /// If somebody waits who has not been promised room: takes this instance for closing, and makes
    /// the promise. `take` must not block.
    pub(super) fn promise<R>(&self, id: InstanceId, take: impl FnOnce() -> Option<R>) -> Option<R> {
        let mut line = self.line();
        let now = Instant::now();
        if line.unserved(now) == 0 {
            return None;
        }
        let taken = take()?;
        line.promise(id, now);
        Some(taken)
    }

    /// Has this waiting thread see to what it was nudged for.
    pub(super) fn stir(&self, ticket: &Ticket) {
        let _line = self.line();
        ticket.news().stirred = true;
        ticket.called.notify_one();
    }

    /// Waits to be called. The place in the queue is kept, unless it is.
    pub(super) fn wait(&self, ticket: &Arc<Ticket>, until: Deadline, look: Deadline) -> Waited {
        let mut line = self.line();
        loop {
            let mut news = ticket.news();
            if let Some(outcome) = news.outcome {
                return Waited::Called(outcome);
            }
            if std::mem::take(&mut news.stirred) {
                return Waited::Stirred;
            }
            drop(news);
            if until.has_passed() {
                return Waited::Late;
            }
            let is_first = line.queue.front().is_some_and(|first| Arc::ptr_eq(first, ticket));
            if is_first && look.has_passed() {
                return Waited::LookAround;
            }
            // Whoever is not the first may become it, untold, and then has the clock to look at.
            let tick = Deadline::after(PATIENCE);
            let tick = if is_first { tick.earlier(look) } else { tick };
            line = match until.earlier(tick).wait(&ticket.called, line) {
                Ok(woken) | Err(woken) => woken,
            };
        }
    }

    /// Leaves the queue, unless called in the meantime.
    pub(super) fn give_up(&self, ticket: &Arc<Ticket>) -> Option<Outcome> {
        let mut line = self.line();
        let outcome = ticket.news().outcome;
        if outcome.is_none() {
            line.queue.retain(|other| !Arc::ptr_eq(other, ticket));
            self.count(&line);
        }
        outcome
    }

    /// An instance is gone: lets in the next in the queue, if there is one.
    pub(super) fn leave(&self, id: InstanceId) {
        let mut line = self.line();
        if let Some(next) = line.leave(id) {
            next.call(Outcome::Admitted);
        }
        self.count(&line);
    }

    /// Sends everybody away, now and later.
    pub(super) fn close(&self) {
        let mut line = self.line();
        line.closed = true;
        for ticket in line.queue.drain(..) {
            ticket.call(Outcome::Closed);
        }
        self.count(&line);
    }
}

impl Ticket {
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, outcome: Outcome) {
        self.news().outcome = Some(outcome);
        self.called.notify_one();
    }
}

/// What the gate's lock guards: who is in, who waits, and what they have been promised.
struct Line<W> {
    /// Admissions that have not been given back.
    inside: usize,
    queue: VecDeque<W>,
    /// The instances that are being closed to make room, and since when.
    promises: Vec<(InstanceId, Instant)>,
    closed: bool,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self { inside: 0, queue: VecDeque::new(), promises: Vec::new(), closed: false }
    }
}

impl Line<Arc<Ticket>> {
    fn ask(&mut self, max_size: usize, ticket: impl FnOnce() -> Arc<Ticket>) -> Asked {
        if self.closed {
            return Asked::Settled(Outcome::Closed);
        }
        if self.admit(max_size) {
            return Asked::Settled(Outcome::Admitted);
        }
        let ticket = ticket();
        self.queue.push_back(Arc::clone(&ticket));
        Asked::Queued(ticket)
    }
}

impl<W> Line<W> {
    /// Whether one who asks now may go in at once.
    fn admit(&mut self, max_size: usize) -> bool {
        let admitted = self.inside < max_size && self.queue.is_empty();
        self.inside += usize::from(admitted);
        admitted
    }

    fn unserved(&self, now: Instant) -> usize {
        let counts = |since: &Instant| now.saturating_duration_since(*since) < PATIENCE;
        let promised = self.promises.iter().filter(|(_, since)| counts(since)).count();
        self.queue.len().saturating_sub(promised)
    }

    fn promise(&mut self, id: InstanceId, now: Instant) {
        self.promises.push((id, now));
    }

    /// Gives back the admission of an instance. Says who has it from here on.
    fn leave(&mut self, id: InstanceId) -> Option<W> {
        self.promises.retain(|(promised, _)| *promised != id);
        let next = self.queue.pop_front();
        self.inside -= usize::from(next.is_none());
        next
    }
}
