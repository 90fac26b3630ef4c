//! Calling the peer, from any thread.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::WhenFull;
use super::inbox::Inbox;
use super::invocation::Invocation;
use super::owner::Sending;
use super::request::Scope;
use super::shared::Shared;
use crate::deadline::Deadline;
use crate::session::error::Kind;
use crate::session::{Outgoing, Payload, SessionError};

/// Calls the peer, from any thread, from many at once. Cheap to clone.
///
/// It keeps no session open: when that closes, every call is an error. One that is had from a
/// [`Request`](super::Request) calls on behalf of that request, and keeps its end back while it lives.
#[derive(Clone)]
pub struct Invoker {
    shared: Arc<Shared>,
    scope: Option<Arc<Scope>>,
    timeout: Duration,
    when_full: WhenFull,
}

impl Invoker {
    pub(super) fn new(shared: Arc<Shared>, scope: Option<Arc<Scope>>) -> Self {
        let (timeout, when_full) = (shared.limits.timeout, shared.limits.when_full);
        Self { shared, scope, timeout, when_full }
    }

    /// The same, whose calls wait no longer than this for each answer, nor for room.
    ///
    /// Default: the session's [`timeout`](super::SessionBuilder::timeout).
    #[must_use]
    pub fn timeout(mut self, wait: Duration) -> Self {
        self.timeout = wait;
        self
    }

    /// The same, whose calls do this where there is no room for them.
    ///
    /// Default: the session's [`when_full`](super::SessionBuilder::when_full).
    #[must_use]
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.when_full = policy;
        self
    }

    /// Asks the peer for something, and has the answers come one by one.
    ///
    /// It returns when the request is on its way to the session's thread. Who will take the answers is
    /// known there before a byte of it is written.
    ///
    /// # Errors
    ///
    /// If the session is down, the request this belongs to has ended, the parameters are not JSON, the
    /// frame is too large, or there is no room: nothing was sent then.
    pub fn invoke<P>(&self, method: &str, params: &P) -> Result<Invocation, SessionError>
    where
        P: Serialize + ?Sized,
    {
        let params = Payload::params(params).map_err(Kind::Json)?;
        let deadline = Deadline::after(self.timeout);
        self.check()?;
        let room = self.shared.room_in_flight(self.when_full, deadline)?;
        let id = self.shared.new_id();
        let message = Outgoing::Request {
            id,
            within: self.scope.as_ref().map(|scope| scope.id()),
            method,
            params: params.as_ref(),
        };
        let frame = self.shared.encode(&message, self.when_full, deadline)?;
        let inbox = Arc::new(Inbox::new(self.shared.limits.answers_capacity));
        let scope = self.scope.clone();
        let sending = Sending::new(frame, self.connection()).answered_to(id, Arc::clone(&inbox));
        self.shared.post(|owner| owner.send(sending))?;
        Ok(Invocation::new(id, inbox, Arc::clone(&self.shared), scope, room, self.timeout))
    }

    /// Asks the peer for something, and waits for its one answer.
    ///
    /// # Errors
    ///
    /// As [`invoke`](Self::invoke); or if there is no answer in time, the connection is lost, the peer
    /// answers with an error, or with something that is no `R`.
    pub fn call<R, P>(&self, method: &str, params: &P) -> Result<R, SessionError>
    where
        R: DeserializeOwned,
        P: Serialize + ?Sized,
    {
        let answer = self.invoke(method, params)?.answer()?;
        answer.parse().map_err(|error| Kind::Json(error).into())
    }

    /// Tells the peer something, and wants no answer.
    ///
    /// # Errors
    ///
    /// As [`invoke`](Self::invoke). What happens to it after that nobody tells.
    pub fn notify<P>(&self, method: &str, params: &P) -> Result<(), SessionError>
    where
        P: Serialize + ?Sized,
    {
        let params = Payload::params(params).map_err(Kind::Json)?;
        self.check()?;
        let message = Outgoing::Notification { method, params: params.as_ref() };
        let deadline = Deadline::after(self.timeout);
        let frame = self.shared.encode(&message, self.when_full, deadline)?;
        let sending = Sending::new(frame, self.connection());
        self.shared.post(|owner| owner.send(sending))
    }

    /// The one that its request was made on.
    fn connection(&self) -> Option<u64> {
        self.scope.as_ref().map(|scope| scope.connection())
    }

    fn check(&self) -> Result<(), SessionError> {
        if let Some(down) = self.shared.down() {
            return Err(down.error());
        }
        self.scope.as_ref().map_or(Ok(()), |scope| scope.check())
    }
}

impl fmt::Debug for Invoker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invoker")
            .field("within", &self.scope.as_ref().map(|scope| scope.id()))
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
