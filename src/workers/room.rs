//! Room in a queue: how many places there are, and who waits for one, first come first served.
//!
//! `word` has the places that are free, times two, and one more if somebody waits. While nobody does, a
//! place is claimed and given back by one exchange. While somebody waits, nobody claims a place that
//! way: it goes from hand to hand, under the lock, to whoever came first, thread or task.
//!
//! ```text
//! to claim      1 `word` -= 2, if it is even and not 0
//! to ask        1 lock            2 `word` |= 1     3 first in line, and a place is free: `word` -= 2;
//!                                                    if not, get in line
//! to give back  1 `word` += 2     2 if it was odd, lock; while somebody waits and a place is free:
//!                                   `word` -= 2, and it is the first one's
//! ```
//!
//! Nobody waits beside a free place: who gives one back either came before the other's step 2, and the
//! other finds it in step 3; or after it, and sees the odd word. Who empties the line makes the word even
//! again, under the lock. Who gives up waiting and finds that it was given a place gives that back.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::deadline::Deadline;
use crate::sync::thread::{self, Thread};
use crate::sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering, look_out};

pub(super) struct Room {
    word: AtomicUsize,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Arc<Ticket>>,
    closed: bool,
}

/// A place in the line. What is in it is guarded by the line's lock.
struct Ticket {
    outcome: Mutex<Outcome>,
    /// Whether it has been called. For looking without the lock.
    called: AtomicBool,
}

enum Outcome {
    Waits(Waker),
    Admitted,
    Closed,
    /// The waiter has taken the place, or has gone.
    Over,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The time is over.
    Late,
    Closed,
}

const PLACE: usize = 2;
const SOMEBODY_WAITS: usize = 1;

impl Room {
    pub(super) fn new(places: usize) -> Self {
        let places = places.min(usize::MAX / PLACE);
        Self { word: AtomicUsize::new(places * PLACE), line: Mutex::new(Line::default()) }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims a place, if one is free and nobody waits.
    pub(super) fn claim(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word < PLACE || word % PLACE == SOMEBODY_WAITS {
                return false;
            }
            let less = word - PLACE;
            let order = (Ordering::SeqCst, Ordering::Relaxed);
            match self.word.compare_exchange_weak(word, less, order.0, order.1) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Gives a place back.
    pub(super) fn leave(&self) {
        let before = self.word.fetch_add(PLACE, Ordering::SeqCst);
        if before % PLACE == SOMEBODY_WAITS {
            self.admit(self.line());
        }
    }

    /// Waits for a place.
    pub(super) fn enter(&self) -> Entering<'_> {
        Entering { room: self, ticket: None }
    }

    /// Waits for a place, on this thread, for no longer than this.
    pub(super) fn enter_until(&self, deadline: Deadline) -> Result<(), NoRoom> {
        /// Wakes a thread.
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        if self.claim() {
            return Ok(());
        }
        if deadline.has_passed() {
            return Err(NoRoom::Late);
        }
        // Before it gets in line: as long as nobody is there, nobody is overtaken who has been waiting.
        let mut claimed = false;
        look_out(|| {
            claimed = self.claim();
            claimed || self.word.load(Ordering::Relaxed) % PLACE == SOMEBODY_WAITS
        });
        if claimed {
            return Ok(());
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut entering = self.enter();
        loop {
            if let Poll::Ready(outcome) = entering.ask(&waker) {
                return outcome;
            }
            // In line, but a place may be on its way: whoever makes it may want this very processor.
            let called =
                || entering.ticket.as_ref().is_none_or(|it| it.called.load(Ordering::Acquire));
            if look_out(called) {
                continue;
            }
            match deadline.remaining() {
                None => thread::park(),
                Some(left) if left.is_zero() => return entering.give_up(),
                Some(left) => thread::park_timeout(left),
            }
        }
    }

    /// Sends away whoever waits, now and later.
    pub(super) fn close(&self) {
        let mut line = self.line();
        line.closed = true;
        self.word.fetch_and(!SOMEBODY_WAITS, Ordering::SeqCst);
        let waiting = std::mem::take(&mut line.waiting);
        let wakers: Vec<_> =
            waiting.iter().filter_map(|ticket| ticket.call(Outcome::Closed)).collect();
        drop(line);
        wakers.into_iter().for_each(Waker::wake); // foreign code: after the lock
    }

    /// How many wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.line().waiting.len()
    }

    /// Takes a place although somebody may wait. Under the lock.
    fn take(&self) -> bool {
        let less = |word: usize| word.checked_sub(PLACE);
        self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    /// Hands out the places that are free.
    fn admit(&self, mut line: MutexGuard<'_, Line>) {
        let mut wakers = Vec::new();
        while !line.waiting.is_empty() && self.take() {
            let first = line.waiting.pop_front().expect("it is not empty");
            wakers.extend(first.call(Outcome::Admitted));
        }
        if line.waiting.is_empty() {
            self.word.fetch_and(!SOMEBODY_WAITS, Ordering::SeqCst);
        }
        drop(line);
        wakers.into_iter().for_each(Waker::wake); // foreign code: after the lock
    }
}

impl Ticket {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what has come of it. Whoever waits is to be woken.
    fn call(&self, outcome: Outcome) -> Option<Waker> {
        let before = std::mem::replace(&mut *self.outcome(), outcome);
        self.called.store(true, Ordering::Release);
        match before {
            Outcome::Waits(waker) => Some(waker),
            _ => None,
        }
    }
}

/// Waits for a place. Dropped, it has none, and takes none.
pub(super) struct Entering<'r> {
    room: &'r Room,
    ticket: Option<Arc<Ticket>>,
}

impl Entering<'_> {
    fn ask(&mut self, waker: &Waker) -> Poll<Result<(), NoRoom>> {
        let Some(ticket) = self.ticket.clone() else { return self.get_in_line(waker) };
        let waker = waker.clone(); // foreign code: not under the lock
        let line = self.room.line();
        let mut outcome = ticket.outcome();
        let (polled, before) = match &*outcome {
            Outcome::Waits(_) => {
                let before = std::mem::replace(&mut *outcome, Outcome::Waits(waker));
                (Poll::Pending, Some(before))
            }
            Outcome::Admitted => (Poll::Ready(Ok(())), None),
            Outcome::Closed => (Poll::Ready(Err(NoRoom::Closed)), None),
            Outcome::Over => unreachable!("polled after it was ready"),
        };
        if polled.is_ready() {
            *outcome = Outcome::Over;
            self.ticket = None;
        }
        drop(outcome);
        drop(line);
        drop(before);
        polled
    }

    fn get_in_line(&mut self, waker: &Waker) -> Poll<Result<(), NoRoom>> {
        if self.room.claim() {
            return Poll::Ready(Ok(()));
        }
        let ticket = Arc::new(Ticket {
            outcome: Mutex::new(Outcome::Waits(waker.clone())),
            called: AtomicBool::new(false),
        });
        let mut line = self.room.line();
        if line.closed {
            return Poll::Ready(Err(NoRoom::Closed));
        }
        self.room.word.fetch_or(SOMEBODY_WAITS, Ordering::SeqCst);
        if line.waiting.is_empty() && self.room.take() {
            self.room.word.fetch_and(!SOMEBODY_WAITS, Ordering::SeqCst);
            return Poll::Ready(Ok(()));
        }
        line.waiting.push_back(Arc::clone(&ticket));
        self.ticket = Some(ticket);
        Poll::Pending
    }

    /// Waits no longer; but if the place has come a moment ago, it is taken.
    fn give_up(mut self) -> Result<(), NoRoom> {
        let Some(ticket) = self.ticket.take() else { return Err(NoRoom::Late) };
        match self.room.forget(&ticket) {
            Outcome::Admitted => Ok(()),
            Outcome::Closed => Err(NoRoom::Closed),
            Outcome::Waits(_) | Outcome::Over => Err(NoRoom::Late),
        }
    }
}

impl Room {
    /// Takes a ticket out of the line, and says how it stood.
    fn forget(&self, ticket: &Arc<Ticket>) -> Outcome {
        let mut line = self.line();
        let outcome = std::mem::replace(&mut *ticket.outcome(), Outcome::Over);
        if let Outcome::Waits(_) = outcome {
            line.waiting.retain(|other| !Arc::ptr_eq(other, ticket));
            if line.waiting.is_empty() {
                self.word.fetch_and(!SOMEBODY_WAITS, Ordering::SeqCst);
            }
        }
        drop(line);
        outcome
    }
}

impl Future for Entering<'_> {
    type Output = Result<(), NoRoom>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.ask(cx.waker())
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take()
            && let Outcome::Admitted = self.room.forget(&ticket)
        {
            self.room.leave();
        }
    }
}
