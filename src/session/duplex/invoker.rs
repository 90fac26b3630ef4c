//! Calling the peer, from any thread.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::WhenFull;
use super::inbox::Inbox;
use super::invocation::{AnswerAs, Invocation};
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
/// One that is given to [`on_connect`](super::SessionBuilder::on_connect) or to the handler of a
/// notification calls on that connection only.
///
/// ```
/// # use std::os::unix::net::UnixStream;
/// # use sessile::session::JsonRpc;
/// # use sessile::session::duplex::{OverStream, Session};
/// # let (ours, theirs) = UnixStream::pair()?;
/// # let session = Session::builder(JsonRpc::new()).connect(OverStream::new(ours))?;
/// # let peer = Session::builder(JsonRpc::new())
/// #     .on_request(|request| drop(request.respond(&3)))
/// #     .connect(OverStream::new(theirs))?;
/// let invoker = session.invoker();
/// let sum: i64 = std::thread::spawn(move || invoker.call("add", [1, 2])).join().unwrap()?;
/// assert_eq!(sum, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Invoker {
    shared: Arc<Shared>,
    scope: Option<Arc<Scope>>,
    /// The connection that it calls on; `None`: whichever there is.
    connection: Option<u64>,
    timeout: Duration,
    when_full: WhenFull,
    renews: bool,
}

impl Invoker {
    pub(super) fn new(shared: Arc<Shared>, scope: Option<Arc<Scope>>) -> Self {
        let (timeout, when_full) = (shared.limits.timeout, shared.limits.when_full);
        let connection = scope.as_ref().map(|scope| scope.connection());
        Self { shared, scope, connection, timeout, when_full, renews: false }
    }

    /// One that calls on this connection only.
    pub(super) fn on(shared: Arc<Shared>, connection: u64) -> Self {
        Self { connection: Some(connection), ..Self::new(shared, None) }
    }

    /// The same, whose calls wait no longer than this for each answer, nor for room.
    ///
    /// Default: the session's [`request_timeout`](super::SessionBuilder::request_timeout).
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

    /// The same, for whose calls the time begins anew with each word of progress; they ask the peer for
    /// that, where the protocol has a way.
    #[must_use]
    pub fn renew_on_progress(mut self) -> Self {
        self.renews = true;
        self
    }

    /// Asks the peer for something, and has the answers come one by one. It asks for
    /// [progress](super::Reply::Progress) and partial results, where the protocol has a way.
    ///
    /// It returns when the request is on its way to the session's thread. Who will take the answers is
    /// known there before a byte of it is written. Parameters that are `null` in JSON, such as `()`, are
    /// left out.
    ///
    /// # Errors
    ///
    /// If the session is down, the request this belongs to has ended, the parameters are not JSON, the
    /// frame is too large, or there is no room: nothing was sent then.
    pub fn invoke(&self, method: &str, params: impl Serialize) -> Result<Invocation, SessionError> {
        self.ask(method, params, true, self.when_full)
    }

    fn ask(
        &self,
        method: &str,
        params: impl Serialize,
        progress: bool,
        when_full: WhenFull,
    ) -> Result<Invocation, SessionError> {
        let mut params = Payload::params(&params).map_err(Kind::Json)?;
        let deadline = Deadline::after(self.timeout);
        self.check()?;
        let room = self.shared.room_in_flight(when_full, deadline)?;
        let id = self.shared.new_id();
        if progress {
            // Without parameters there is still a token to be sent.
            let given = params.as_ref().map_or_else(|| Payload::from(json!({})), Payload::clone);
            if let Some(asks) = self.shared.protocol.with_progress(id, &given) {
                params = Some(asks);
            }
        }
        let message = Outgoing::Request {
            id,
            within: self.scope.as_ref().map(|scope| scope.id()),
            method,
            params: params.as_ref(),
        };
        let frame = self.shared.encode(&message, when_full, deadline)?;
        let inbox = Arc::new(Inbox::new(self.shared.limits.answer_capacity));
        let scope = self.scope.clone();
        let sending = Sending::new(frame, self.connection).answered_to(id, Arc::clone(&inbox));
        self.shared.post(|owner| owner.send(sending))?;
        let (shared, timeout) = (Arc::clone(&self.shared), self.timeout);
        Ok(Invocation::new(id, inbox, shared, scope, room, timeout, self.renews))
    }

    /// Asks the peer for something, and waits for its one answer.
    ///
    /// # Errors
    ///
    /// As [`invoke`](Self::invoke); or if there is no answer in time, the connection is lost, the peer
    /// answers with an error, or with something that is no `R`.
    pub fn call<R: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<R, SessionError> {
        let answer = self.ask(method, params, self.renews, self.when_full)?.answer()?;
        answer.parse().map_err(|error| Kind::Json(error).into())
    }

    /// Asks the peer for something, and awaits its one answer. It never blocks: where there is no room,
    /// it is an error at once.
    ///
    /// ```
    /// # use sessile::session::SessionError;
    /// # use sessile::session::duplex::Invoker;
    /// async fn add(invoker: &Invoker) -> Result<i64, SessionError> {
    ///     invoker.call_async("add", [1, 2]).await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub fn call_async<R: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> AnswerAs<R> {
        AnswerAs::new(self.ask(method, params, self.renews, WhenFull::Refuse))
    }

    /// Tells the peer something, and wants no answer.
    ///
    /// # Errors
    ///
    /// As [`invoke`](Self::invoke). What happens to it after that nobody tells.
    pub fn notify(&self, method: &str, params: impl Serialize) -> Result<(), SessionError> {
        let params = Payload::params(&params).map_err(Kind::Json)?;
        self.check()?;
        let message = Outgoing::Notification { method, params: params.as_ref() };
        let deadline = Deadline::after(self.timeout);
        let frame = self.shared.encode(&message, self.when_full, deadline)?;
        let sending = Sending::new(frame, self.connection);
        self.shared.post(|owner| owner.send(sending))
    }

    pub(super) fn report(&self, error: &anyhow::Error) {
        self.shared.report(error);
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
