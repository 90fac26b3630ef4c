//! The answers to one request of ours.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use super::inbox::{Inbox, Next};
use super::request::Scope;
use super::shared::{Room, Shared};
use crate::deadline::Deadline;
use crate::session::error::Kind;
use crate::session::{Payload, SessionError};

/// The answers to one request: to be iterated over by a thread that blocks, or awaited as a stream.
///
/// After an error there is no more. Dropped, it calls the request off: answers that still come are
/// counted as late, the peer is told if the protocol has a way, and the session goes on.
///
/// In time: each answer is waited for no longer than the invoker's
/// [`timeout`](super::Invoker::timeout). Waiting on the session's own thread is an error at once.
#[must_use = "dropped, it calls the request off"]
pub struct Invocation {
    id: u64,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    /// While an answer is waited for, the request that this is on behalf of does not end.
    scope: Option<Arc<Scope>>,
    room: Option<Room>,
    timeout: Duration,
    over: bool,
    /// The clock for those who await runs since the last answer.
    clock: Option<u64>,
    answers: u64,
}

impl Invocation {
    pub(super) fn new(
        id: u64,
        inbox: Arc<Inbox>,
        shared: Arc<Shared>,
        scope: Option<Arc<Scope>>,
        room: Room,
        timeout: Duration,
    ) -> Self {
        let room = Some(room);
        Self { id, inbox, shared, scope, room, timeout, over: false, clock: None, answers: 0 }
    }

    /// How the session calls this request.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Waits for the next answer, no longer than this. `None`: all answers have come.
    ///
    /// # Errors
    ///
    /// If none came in time (another may still come, and may be waited for once more), the connection
    /// is lost, the peer answers with an error, or the answers were not read as fast as they came.
    pub fn next_timeout(&mut self, wait: Duration) -> Result<Option<Payload>, SessionError> {
        if self.over {
            return Ok(None);
        }
        if self.shared.is_inherited() {
            self.is_over();
            return Err(Kind::Closed.into());
        }
        let deadline = Deadline::after(wait);
        loop {
            if let Some(next) = self.inbox.try_next() {
                return self.took(next);
            }
            if self.shared.is_loop_thread() {
                return Err(Kind::WouldDeadlock.into());
            }
            if !self.inbox.wait(deadline) {
                return Err(Kind::TimedOut { waited: wait }.into());
            }
        }
    }

    /// Waits for the one answer there should be; what comes after it is let go.
    ///
    /// # Errors
    ///
    /// As [`next_timeout`](Self::next_timeout); and if the request ended without an answer.
    pub fn answer(mut self) -> Result<Payload, SessionError> {
        let answer = self.next_timeout(self.timeout)?;
        answer.ok_or_else(|| Kind::NoAnswer.into())
    }

    fn took(&mut self, next: Next) -> Result<Option<Payload>, SessionError> {
        match next {
            Next::Answer { answer, is_last, reads_on } => {
                self.answers += 1;
                if is_last {
                    self.is_over(); // so that it is not called off when it is dropped
                }
                if reads_on {
                    let id = self.id;
                    let _ = self.shared.post(move |owner| owner.read_on(id)); // refused, nobody reads at all
                }
                Ok(Some(answer))
            }
            Next::End(error) => {
                self.is_over();
                error.map_or(Ok(None), Err)
            }
        }
    }

    fn is_over(&mut self) {
        self.over = true;
        self.room = None;
        self.scope = None;
    }
}

impl Iterator for Invocation {
    type Item = Result<Payload, SessionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_timeout(self.timeout);
        if next.is_err() && !self.over {
            self.call_off();
        }
        next.transpose()
    }
}

impl Stream for Invocation {
    type Item = Result<Payload, SessionError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.shared.is_inherited() {
            self.is_over();
            return Poll::Ready(Some(Err(Kind::Closed.into())));
        }
        if let Poll::Ready(next) = self.inbox.poll_next(cx.waker()) {
            return Poll::Ready(self.took(next).transpose());
        }
        if self.clock != Some(self.answers) {
            // A runtime need not have a clock; the session's thread has.
            self.clock = Some(self.answers);
            let (id, answers, waits) = (self.id, self.answers, self.timeout);
            let late = Deadline::after(waits);
            // Refused, the session is down, and has told so.
            let _ = self.shared.post(move |owner| owner.clock(id, answers, late, waits));
        }
        Poll::Pending
    }
}

impl Invocation {
    fn call_off(&mut self) {
        if !self.over && !self.shared.is_inherited() {
            let reads_on = self.inbox.abandon();
            let id = self.id;
            let _ = self.shared.post(move |owner| owner.call_off(id, reads_on));
            self.is_over();
        }
    }
}

impl Drop for Invocation {
    fn drop(&mut self) {
        self.call_off();
    }
}

impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invocation")
            .field("id", &self.id)
            .field("answers", &self.answers)
            .field("is_over", &self.over)
            .finish_non_exhaustive()
    }
}
