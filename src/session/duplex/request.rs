//! What the peer asks for, and how it is answered.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::WhenFull;
use super::invoker::Invoker;
use super::owner::Sending;
use super::shared::Shared;
use crate::deadline::Deadline;
use crate::session::error::Kind;
use crate::session::{Outgoing, Payload, RemoteError, RequestId, SessionError};

/// A request of the peer's, for as long as anybody can do something on its behalf.
///
/// Who holds one: the [`Request`], every [`Invoker`] that was had from it, and every invocation of
/// theirs. When the last is gone the request ends, which is said then if the protocol has words for it.
pub(super) struct Scope {
    id: RequestId,
    shared: Arc<Shared>,
    connection: u64,
    state: AtomicU8,
}

/// Nothing final has been said yet.
const OPEN: u8 = 0;
const ANSWERED: u8 = 1;
/// The end has been said.
const ENDED: u8 = 2;
/// The connection is gone, or the peer has called it off: nobody would hear the end.
const LOST: u8 = 3;
const CANCELLED: u8 = 4;

impl Scope {
    pub(super) fn new(id: RequestId, shared: Arc<Shared>, connection: u64) -> Self {
        Self { id, shared, connection, state: AtomicU8::new(OPEN) }
    }

    pub(super) fn id(&self) -> &RequestId {
        &self.id
    }

    pub(super) fn connection(&self) -> u64 {
        self.connection
    }

    /// Whether the peer would still listen to what is said on behalf of the request.
    pub(super) fn check(&self) -> Result<(), SessionError> {
        match self.state.load(Ordering::SeqCst) {
            OPEN => Ok(()),
            // Where ends are apart, this one is still to come. Where not, calls are independent.
            ANSWERED => Ok(()),
            // Nothing is said after the end where calls belong to requests.
            ENDED if !self.shared.protocol.ends_apart() => Ok(()),
            LOST => {
                let why = "the request was made on a connection that is gone".to_owned();
                Err(Kind::Lost { why }.into())
            }
            _ => Err(Kind::Ended.into()),
        }
    }

    /// Moves on, if it has not come to an end. Says whether it has moved.
    fn advance(&self, to: u8) -> bool {
        let before = |now: u8| (now <= ANSWERED && now != to).then_some(to);
        self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, before).is_ok()
    }

    /// The last answer is about to be said: before, for the peer may use the id again at once.
    fn answers(&self) {
        self.advance(ANSWERED);
    }

    /// Whether the peer has to wait before it uses the id again.
    pub(super) fn holds_id(&self) -> bool {
        match self.state.load(Ordering::SeqCst) {
            OPEN => true,
            ANSWERED => self.shared.protocol.ends_apart(),
            _ => false,
        }
    }

    pub(super) fn lose(&self) {
        self.advance(LOST);
    }

    pub(super) fn call_off(&self) {
        self.advance(CANCELLED);
    }

    /// Says the end, unless it has been said, or nobody would hear it.
    pub(super) fn end(&self) {
        if self.advance(ENDED) && self.shared.protocol.ends_apart() {
            self.say(&Outgoing::End { to: &self.id });
        }
    }

    /// Says something short that does not wait for room: one end or failure for each request.
    fn say(&self, message: &Outgoing<'_>) {
        if let Ok(frame) = self.shared.encode_in_any_case(message) {
            let sending = Sending::new(frame, Some(self.connection));
            let _ = self.shared.post(|owner| owner.send(sending));
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.end();
        let (id, connection) = (self.id.clone(), self.connection);
        let _ = self.shared.post(move |owner| owner.over(&id, connection));
    }
}

/// A request of the peer's: to be answered once, or in a stream, from any thread.
///
/// [`invoker`](Self::invoker) calls back on behalf of the request. It may be given to other threads,
/// and used after the request has been answered: where the protocol has an end that is apart from the
/// answers, that is said only when nobody can call back any more, or after
/// [`hold_limit`](super::SessionBuilder::hold_limit).
///
/// Dropped without an answer, it is answered with an error; so the peer never waits for nothing.
pub struct Request {
    scope: Arc<Scope>,
    /// And whether that was under way when this came.
    within: Option<(u64, bool)>,
    method: String,
    params: Option<Payload>,
    meta: Option<Payload>,
    answered: bool,
}

impl Request {
    pub(super) fn new(
        scope: Arc<Scope>,
        within: Option<(u64, bool)>,
        method: String,
        params: Option<Payload>,
        meta: Option<Payload>,
    ) -> Self {
        Self { scope, within, method, params, meta, answered: false }
    }

    /// How the peer calls it.
    #[must_use]
    pub fn id(&self) -> &RequestId {
        &self.scope.id
    }

    /// The [id](super::Invocation::id) of the request of ours on whose behalf the peer asks, where the
    /// protocol tells.
    #[must_use]
    pub fn within(&self) -> Option<u64> {
        self.within.map(|(id, _)| id)
    }

    /// Whether that request of ours had ended before this one came.
    #[must_use]
    pub fn came_too_late(&self) -> bool {
        self.within.is_some_and(|(_, under_way)| !under_way)
    }

    /// What it asks for.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// With which parameters.
    #[must_use]
    pub fn params(&self) -> Option<&Payload> {
        self.params.as_ref()
    }

    /// What else the message said.
    #[must_use]
    pub fn meta(&self) -> Option<&Payload> {
        self.meta.as_ref()
    }

    /// The parameters, read as a `T`; absent ones as `null`.
    ///
    /// # Errors
    ///
    /// If they are something else.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, SessionError> {
        let parsed = match &self.params {
            Some(params) => params.parse(),
            None => serde_json::from_str("null"),
        };
        parsed.map_err(|error| Kind::Json(error).into())
    }

    /// Whether the peer has called it off, or is gone.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.scope.state.load(Ordering::SeqCst) > ENDED
    }

    /// Calls the peer on behalf of this request.
    #[must_use]
    pub fn invoker(&self) -> Invoker {
        Invoker::new(Arc::clone(&self.scope.shared), Some(Arc::clone(&self.scope)))
    }

    /// Sends one of several answers.
    ///
    /// # Errors
    ///
    /// If it is not JSON, or too large; if the peer is gone or has called the request off; if the
    /// protocol has one answer only; or if there is no room, after waiting if
    /// [`when_full`](super::SessionBuilder::when_full) says so.
    pub fn item<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), SessionError> {
        let value = &Payload::new(value).map_err(Kind::Json)?;
        self.send(&Outgoing::Item { to: &self.scope.id, value })
    }

    /// Sends the answer, or the last of several.
    ///
    /// # Errors
    ///
    /// As [`item`](Self::item). The peer is told of an error then.
    pub fn respond<T: Serialize + ?Sized>(mut self, value: &T) -> Result<(), SessionError> {
        let value = &Payload::new(value).map_err(Kind::Json)?;
        self.scope.answers();
        self.send(&Outgoing::Answer { to: &self.scope.id, value })?;
        self.is_answered();
        Ok(())
    }

    /// There is no answer, or no more.
    pub fn finish(mut self) {
        if !self.scope.shared.protocol.ends_apart() {
            self.scope.answers();
            self.scope.say(&Outgoing::End { to: &self.scope.id });
        }
        self.is_answered();
    }

    /// There is no answer, or no more; and the end is said now, whoever still holds an invoker. Their
    /// calls are errors from now on.
    pub fn end_now(mut self) {
        self.is_answered();
        self.scope.end();
    }

    /// Says nothing at all, not even that. The peer may wait for ever: this is for playing one that is
    /// known to do so.
    #[cfg(feature = "dify")]
    pub(in crate::session) fn ignore(mut self) {
        self.answered = true;
        self.scope.advance(CANCELLED);
    }

    /// Answers with an error.
    pub fn fail(mut self, error: &RemoteError) {
        self.fail_by_ref(error);
    }

    fn fail_by_ref(&mut self, error: &RemoteError) {
        if self.scope.check().is_ok() {
            self.scope.answers();
            self.scope.say(&Outgoing::Failure { to: &self.scope.id, error });
        }
        self.is_answered();
    }

    fn send(&self, message: &Outgoing<'_>) -> Result<(), SessionError> {
        self.scope.check()?;
        let shared = &self.scope.shared;
        // The session's own thread cannot wait for itself to make room.
        let when_full =
            if shared.is_loop_thread() { WhenFull::Refuse } else { shared.limits.when_full };
        let frame = shared.encode(message, when_full, Deadline::after(shared.limits.timeout))?;
        let sending = Sending::new(frame, Some(self.scope.connection));
        shared.post(|owner| owner.send(sending))
    }

    fn is_answered(&mut self) {
        self.answered = true;
        self.scope.answers();
        // Others go on: the end is kept back for them, for so long.
        if self.scope.shared.protocol.ends_apart() && Arc::strong_count(&self.scope) > 1 {
            let until = Deadline::after(self.scope.shared.limits.hold);
            let scope = Arc::downgrade(&self.scope);
            let _ = self.scope.shared.post(move |owner| owner.hold(&scope, until));
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.answered {
            let why = if std::thread::panicking() {
                "the handler panicked"
            } else {
                "the handler gave no answer"
            };
            self.fail_by_ref(&RemoteError::new(why).with_code(RemoteError::INTERNAL_ERROR));
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("id", &self.scope.id)
            .field("method", &self.method)
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}
