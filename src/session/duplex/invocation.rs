//! The answers to one request of ours.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use serde::de::DeserializeOwned;

use super::inbox::{Inbox, Next};
use super::request::Scope;
use super::shared::{Room, Shared};
use crate::deadline::Deadline;
use crate::session::error::Kind;
use crate::session::{Payload, SessionError};

/// What the peer says to a request of ours.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reply {
    /// How far the request has come. It is no answer.
    Progress(Payload),
    /// One of several answers.
    Item(Payload),
    /// The only answer, or the last.
    Answer(Payload),
}

impl Reply {
    /// What it says.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        match self {
            Self::Progress(payload) | Self::Item(payload) | Self::Answer(payload) => payload,
        }
    }

    /// What it says.
    #[must_use]
    pub fn into_payload(self) -> Payload {
        match self {
            Self::Progress(payload) | Self::Item(payload) | Self::Answer(payload) => payload,
        }
    }
}

/// The answers to one request: a thread that blocks iterates over them, a task awaits them as a stream,
/// or awaits the one answer there should be.
///
/// It is no `Iterator` itself, for its `next` would be in the way of the stream's: `for answer in invocation`
/// does, and adapters begin with `.into_iter()`.
///
/// ```
/// # use std::os::unix::net::UnixStream;
/// # use sessile::session::duplex::{OverStream, Session};
/// # use sessile::session::{Lsp, Payload};
/// # let (ours, theirs) = UnixStream::pair()?;
/// # let session = Session::builder(Lsp::new()).connect(OverStream::new(ours))?;
/// # let peer = Session::builder(Lsp::new())
/// #     .on_request(|request| {
/// #         (1..3).for_each(|n| request.item(&n).unwrap());
/// #         request.respond(&3).unwrap();
/// #     })
/// #     .connect(OverStream::new(theirs))?;
/// let mut counted = Vec::new();
/// for answer in session.invoker().invoke("count", ())? {
///     counted.push(answer?.parse::<i32>()?);
/// }
/// assert_eq!(counted, [1, 2, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// Progress is a sign of life, for which the time begins anew.
    renews: bool,
    over: bool,
    /// The clock for those who await runs since the last answer.
    clock: Option<u64>,
    answers: u64,
    is_answered: bool,
}

impl Invocation {
    pub(super) fn new(
        id: u64,
        inbox: Arc<Inbox>,
        shared: Arc<Shared>,
        scope: Option<Arc<Scope>>,
        room: Room,
        timeout: Duration,
        renews: bool,
    ) -> Self {
        Self {
            id,
            inbox,
            shared,
            scope,
            room: Some(room),
            timeout,
            renews,
            over: false,
            clock: None,
            answers: 0,
            is_answered: false,
        }
    }

    /// How the session calls this request.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether what was taken last is the answer, and not one of several before it.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// Waits for whatever the peer says next to this request, no longer than this. `None`: all has come.
    ///
    /// # Errors
    ///
    /// As [`next_timeout`](Self::next_timeout).
    pub fn next_reply(&mut self, wait: Duration) -> Result<Option<Reply>, SessionError> {
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

    /// Waits for the next answer, no longer than this. `None`: all answers have come. Progress is passed
    /// over.
    ///
    /// # Errors
    ///
    /// If none came in time (another may still come, and may be waited for once more), the connection
    /// is lost, the peer answers with an error, or the answers were not read as fast as they came.
    pub fn next_timeout(&mut self, wait: Duration) -> Result<Option<Payload>, SessionError> {
        let mut deadline = Deadline::after(wait);
        loop {
            let left = deadline.remaining().unwrap_or(Duration::MAX);
            match self.next_reply(left) {
                Ok(Some(Reply::Progress(_))) if self.renews => deadline = Deadline::after(wait),
                Ok(Some(Reply::Progress(_))) => {}
                Ok(reply) => return Ok(reply.map(Reply::into_payload)),
                Err(error) if error.is_timeout() => {
                    return Err(Kind::TimedOut { waited: wait }.into());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the one answer there should be. Progress is passed over, and so is what comes piece by
    /// piece before the answer; where the protocol has pieces only, the first is the answer.
    ///
    /// # Errors
    ///
    /// As [`next_timeout`](Self::next_timeout); and if the request ended without an answer.
    pub fn answer(mut self) -> Result<Payload, SessionError> {
        while let Some(answer) = self.next_timeout(self.timeout)? {
            if self.is_the_answer() {
                return Ok(answer);
            }
        }
        Err(Kind::NoAnswer.into())
    }

    fn is_the_answer(&self) -> bool {
        self.is_answered || self.shared.protocol.ends_apart()
    }

    fn took(&mut self, next: Next) -> Result<Option<Reply>, SessionError> {
        match next {
            Next::Answer { answer, is_last, reads_on } => {
                self.is_answered = matches!(answer, Reply::Answer(_));
                if !matches!(answer, Reply::Progress(_)) {
                    self.answers += 1;
                } else if self.renews {
                    self.clock = None;
                }
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

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Reply, SessionError>>> {
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

    fn call_off(&mut self) {
        if !self.over && !self.shared.is_inherited() {
            let reads_on = self.inbox.abandon();
            let id = self.id;
            let _ = self.shared.post(move |owner| owner.call_off(id, reads_on));
            self.is_over();
        }
    }
}

impl Stream for Invocation {
    type Item = Result<Payload, SessionError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.poll_reply(cx)) {
                Some(Ok(Reply::Progress(_))) => {}
                reply => return Poll::Ready(reply.map(|reply| reply.map(Reply::into_payload))),
            }
        }
    }
}

/// The answers to one request, for a thread that blocks: see [`Invocation`].
#[derive(Debug)]
pub struct Answers<I> {
    invocation: I,
}

impl<I: AsMut<Invocation>> Iterator for Answers<I> {
    type Item = Result<Payload, SessionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let invocation = self.invocation.as_mut();
        let next = invocation.next_timeout(invocation.timeout);
        if next.is_err() && !invocation.over {
            invocation.call_off();
        }
        next.transpose()
    }
}

impl AsMut<Invocation> for Invocation {
    fn as_mut(&mut self) -> &mut Invocation {
        self
    }
}

impl IntoIterator for Invocation {
    type Item = Result<Payload, SessionError>;
    type IntoIter = Answers<Invocation>;

    fn into_iter(self) -> Answers<Invocation> {
        Answers { invocation: self }
    }
}

impl<'a> IntoIterator for &'a mut Invocation {
    type Item = Result<Payload, SessionError>;
    type IntoIter = Answers<&'a mut Invocation>;

    fn into_iter(self) -> Answers<&'a mut Invocation> {
        Answers { invocation: self }
    }
}

/// The one answer there should be, to be awaited: as [`Invocation::answer`] waits for it.
#[derive(Debug)]
#[must_use = "dropped, it calls the request off"]
pub struct Answer {
    invocation: Invocation,
}

impl IntoFuture for Invocation {
    type Output = Result<Payload, SessionError>;
    type IntoFuture = Answer;

    fn into_future(self) -> Answer {
        Answer { invocation: self }
    }
}

impl Future for Answer {
    type Output = Result<Payload, SessionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match ready!(Pin::new(&mut self.invocation).poll_next(cx)) {
                Some(Ok(answer)) if self.invocation.is_the_answer() => {
                    return Poll::Ready(Ok(answer));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Err(Kind::NoAnswer.into())),
            }
        }
    }
}

/// The one answer there should be, to be awaited, read as an `R`: what
/// [`Invoker::call_async`](super::Invoker::call_async) gives.
#[must_use = "dropped, it calls the request off"]
pub struct AnswerAs<R> {
    /// `None`: it has been told that nothing was asked.
    asked: Option<Result<Answer, SessionError>>,
    of: PhantomData<fn() -> R>,
}

impl<R> AnswerAs<R> {
    pub(super) fn new(asked: Result<Invocation, SessionError>) -> Self {
        Self { asked: Some(asked.map(IntoFuture::into_future)), of: PhantomData }
    }
}

impl<R: DeserializeOwned> Future for AnswerAs<R> {
    type Output = Result<R, SessionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(Ok(answer)) = &mut self.asked {
            let answer = ready!(Pin::new(answer).poll(cx))?;
            return Poll::Ready(answer.parse().map_err(|error| Kind::Json(error).into()));
        }
        match self.asked.take() {
            Some(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Err(Kind::NoAnswer.into())),
        }
    }
}

impl<R> fmt::Debug for AnswerAs<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerAs").field("asked", &self.asked).finish()
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
