//! Where the answers to one invocation lie until its caller takes them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::{self, Thread};

use super::invocation::Reply;
use crate::deadline::Deadline;
use crate::session::SessionError;
use crate::session::error::Kind;

/// Filled by the session's thread, emptied by the caller's.
pub(super) struct Inbox {
    state: Mutex<State>,
    capacity: usize,
}

#[derive(Default)]
struct State {
    answers: VecDeque<Reply>,
    bytes: usize,
    /// Why there will be no more; `None` in it is a good end.
    end: Option<Option<SessionError>>,
    waiter: Option<Waiter>,
    /// The session has stopped reading, for this one is full.
    pauses: bool,
}

impl State {
    fn has_room(&self, capacity: usize) -> bool {
        self.answers.is_empty() || self.bytes < capacity
    }

    fn add(&mut self, answer: Reply) {
        self.bytes += answer.payload().as_str().len();
        self.answers.push_back(answer);
    }

    fn next(&mut self, capacity: usize) -> Option<Next> {
        if let Some(answer) = self.answers.pop_front() {
            self.bytes -= answer.payload().as_str().len();
            let reads_on = self.pauses && self.bytes <= capacity / 2;
            self.pauses &= !reads_on;
            let is_last = self.answers.is_empty() && matches!(self.end, Some(None));
            return Some(Next::Answer { answer, is_last, reads_on });
        }
        // The reason is told once; after it there is nothing.
        self.end.as_mut().map(|end| Next::End(end.take()))
    }
}

enum Waiter {
    Thread(Thread),
    Task(Waker),
}

impl Waiter {
    fn wake(self) {
        match self {
            Self::Thread(thread) => thread.unpark(),
            Self::Task(waker) => waker.wake(),
        }
    }
}

/// Whether an answer found room.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    Fits,
    Over,
}

/// What there is for the caller.
pub(super) enum Next {
    Answer {
        answer: Reply,
        /// It is known already that there will be no more, and no error.
        is_last: bool,
        /// The session may read on.
        reads_on: bool,
    },
    End(Option<SessionError>),
}

impl Inbox {
    /// For so many bytes of answers; one answer always finds room.
    pub(super) fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), capacity }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes who waits for that: after the lock, for it is foreign code.
    fn stir<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let result = change(&mut state);
        let waiter = state.waiter.take();
        drop(state);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
        result
    }

    // ---- the session's thread -----------------------------------------------------------------

    /// Adds an answer, also one that finds no room: it is the caller of this who decides what then.
    pub(super) fn push(&self, answer: Reply) -> Pushed {
        self.stir(|state| {
            let fits = state.has_room(self.capacity);
            state.add(answer);
            if fits { Pushed::Fits } else { Pushed::Over }
        })
    }

    /// [`push`](Self::push) and [`end`](Self::end) at once: the caller is woken once, and finds both. An
    /// answer that finds no room comes back.
    pub(super) fn push_last(&self, answer: Reply) -> Result<(), Reply> {
        self.stir(|state| {
            if !state.has_room(self.capacity) {
                return Err(answer);
            }
            state.add(answer);
            state.end.get_or_insert(None);
            Ok(())
        })
    }

    /// The session stops reading until the caller has caught up. `false`: it has, or is gone.
    pub(super) fn pause(&self) -> bool {
        let mut state = self.state();
        state.pauses = state.bytes >= self.capacity && state.end.is_none();
        state.pauses
    }

    /// There will be no more. Only the first end counts.
    pub(super) fn end(&self, error: Option<SessionError>) {
        self.stir(|state| {
            state.end.get_or_insert(error);
        });
    }

    /// As [`end`](Self::end), and what has not been read is let go.
    pub(super) fn overflow(&self) {
        let unread = self.stir(|state| {
            state.end.get_or_insert(Some(Kind::Overflow.into()));
            state.bytes = 0;
            std::mem::take(&mut state.answers)
        });
        drop(unread);
    }

    // ---- the caller's thread ------------------------------------------------------------------

    pub(super) fn try_next(&self) -> Option<Next> {
        self.state().next(self.capacity)
    }

    /// Nobody will read any more. Says whether the session may read on.
    pub(super) fn abandon(&self) -> bool {
        let mut state = self.state();
        state.end.get_or_insert(None);
        std::mem::take(&mut state.pauses)
    }

    /// Waits for something to take. `false`: the time is over.
    ///
    /// It does not look out for it first: whoever does keeps a processor from the session's thread, or
    /// from the peer, and both have to do something before there is an answer.
    pub(super) fn wait(&self, deadline: Deadline) -> bool {
        loop {
            let mut state = self.state();
            if !state.answers.is_empty() || state.end.is_some() {
                return true;
            }
            let before = state.waiter.replace(Waiter::Thread(thread::current()));
            drop(state);
            drop(before); // foreign code, if it is a runtime's
            match deadline.remaining() {
                None => thread::park(),
                Some(left) if left.is_zero() => return false,
                Some(left) => thread::park_timeout(left),
            }
        }
    }

    pub(super) fn poll_next(&self, waker: &Waker) -> Poll<Next> {
        let mut state = self.state();
        if let Some(next) = state.next(self.capacity) {
            return Poll::Ready(next);
        }
        let before = state.waiter.replace(Waiter::Task(waker.clone()));
        drop(state);
        drop(before);
        Poll::Pending
    }
}
