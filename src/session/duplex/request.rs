//! What the peer asks for, and how it is answered.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::WhenFull;
use super::invoker::Invoker;
use super::owner::Sending;
use super::shared::{Frame, Shared};
use crate::contain::contain;
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
    cancel: Cancel,
    /// The other requests of the frame that it came in: they are answered in one, too.
    batch: Option<Arc<Batch>>,
    /// The batch has its answer.
    told: AtomicBool,
}

/// Nothing final has been said yet.
const OPEN: u8 = 0;
const ANSWERED: u8 = 1;
/// The end has been said.
const ENDED: u8 = 2;
/// The connection is gone, or the peer has called it off: nobody would hear the end.
const LOST: u8 = 3;
const CANCELLED: u8 = 4;

/// Whether the peer waits no more, and who wants to know of it.
#[derive(Default)]
struct Cancel {
    state: Mutex<Cancelled>,
    tell: Condvar,
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Cancelled {
    is_cancelled: bool,
    hooks: Vec<Hook>,
}

impl Cancel {
    fn state(&self) -> MutexGuard<'_, Cancelled> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cancel(&self) {
        let mut state = self.state();
        state.is_cancelled = true;
        let hooks = std::mem::take(&mut state.hooks);
        drop(state); // they are foreign code
        self.tell.notify_all();
        for hook in hooks {
            let _ = contain(hook);
        }
    }

    /// Nobody needs to know any more. A hook may keep the request alive that keeps it.
    fn forget(&self) {
        let hooks = std::mem::take(&mut self.state().hooks);
        crate::contain::drop_each(hooks);
    }
}

/// The requests that came in one frame: what is said to them is one frame, when all have been answered.
pub(super) struct Batch {
    shared: Arc<Shared>,
    connection: u64,
    state: Mutex<(usize, Vec<Frame>)>,
}

impl Batch {
    /// So many are to be answered.
    pub(super) fn new(shared: Arc<Shared>, connection: u64, requests: usize) -> Arc<Self> {
        Arc::new(Self { shared, connection, state: Mutex::new((requests, Vec::new())) })
    }

    /// One is answered; `None`: it never will be. Gives what there is to be sent, after the last.
    pub(super) fn answered(&self, answer: Option<Frame>) -> Option<Sending> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, answers) = &mut *state;
        answers.extend(answer);
        *left = left.saturating_sub(1);
        if *left > 0 || answers.is_empty() {
            return None;
        }
        let answers = std::mem::take(answers);
        drop(state);
        Some(Sending::new(self.shared.join(&answers), Some(self.connection)).answering())
    }
}

impl Scope {
    pub(super) fn new(
        id: RequestId,
        shared: Arc<Shared>,
        connection: u64,
        batch: Option<Arc<Batch>>,
    ) -> Self {
        let (state, told) = (AtomicU8::new(OPEN), AtomicBool::new(false));
        Self { id, shared, connection, state, cancel: Cancel::default(), batch, told }
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
        if self.advance(LOST) {
            self.cancel.cancel();
        }
    }

    /// The peer waits no more. Where it is to be answered all the same, it stays open.
    pub(super) fn call_off(&self) {
        if self.shared.protocol.answers_cancelled() || self.advance(CANCELLED) {
            self.cancel.cancel();
        }
    }

    fn is_cancelled(&self) -> bool {
        self.state.load(Ordering::SeqCst) > ENDED || self.cancel.state().is_cancelled
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
            let _ = self.deliver(frame);
        }
    }

    /// Sends the answer, or has it sent with those of its batch.
    fn deliver(&self, frame: Frame) -> Result<(), SessionError> {
        let sending = match &self.batch {
            Some(batch) => {
                self.told.store(true, Ordering::SeqCst);
                batch.answered(Some(frame))
            }
            None => Some(Sending::new(frame, Some(self.connection)).answering()),
        };
        match sending {
            Some(sending) => self.shared.post(|owner| owner.send(sending)),
            None => Ok(()),
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.end();
        if let Some(batch) = &self.batch
            && !*self.told.get_mut()
            && let Some(sending) = batch.answered(None)
        {
            let _ = self.shared.post(|owner| owner.send(sending));
        }
        let (id, connection) = (self.id.clone(), self.connection);
        let _ = self.shared.post(move |owner| owner.over(&id, connection));
    }
}

/// A request of the peer's: to be answered once, or in a stream, from any thread.
///
/// [`invoker`](Self::invoker) calls back on behalf of the request. It may be given to other threads,
/// and used after the request has been answered: where the protocol has an end that is apart from the
/// answers, that is said only when nobody can call back any more, or after
/// [`end_timeout`](super::SessionBuilder::end_timeout).
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
    /// What the peer is told if nobody answers.
    bad_params: OnceLock<RemoteError>,
}

impl Request {
    pub(super) fn new(
        scope: Arc<Scope>,
        within: Option<(u64, bool)>,
        method: String,
        params: Option<Payload>,
        meta: Option<Payload>,
    ) -> Self {
        Self { scope, within, method, params, meta, answered: false, bad_params: OnceLock::new() }
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
    pub fn is_late(&self) -> bool {
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

    /// Reads the parameters as a `T`; absent ones as `null`.
    ///
    /// # Errors
    ///
    /// If they are something else: an error for the peer, [`RemoteError::INVALID_PARAMS`]. If the
    /// request is then dropped without an answer, that is what the peer is told.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, RemoteError> {
        let parsed = match &self.params {
            Some(params) => params.parse(),
            None => serde_json::from_str("null"),
        };
        parsed.map_err(|error| {
            let why = crate::session::json_rpc::syntax(&error);
            let error = RemoteError::new(format!("the parameters cannot be read: {why}"));
            let error = error.with_code(RemoteError::INVALID_PARAMS);
            self.bad_params.get_or_init(|| error).clone()
        })
    }

    /// Whether the peer has called it off, or is gone.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.scope.is_cancelled()
    }

    /// Has `act` called when the peer calls the request off, or is gone; at once, if it has been. Once
    /// the request is answered, it is called no more.
    ///
    /// ```
    /// use std::sync::mpsc;
    ///
    /// use sessile::session::duplex::Request;
    ///
    /// fn wait_for(done: &mpsc::Receiver<i32>, wake: mpsc::Sender<i32>, request: Request) {
    ///     request.on_cancel(move || drop(wake.send(0)));
    ///     let _ = request.respond(&done.recv().unwrap_or(0));
    /// }
    /// ```
    ///
    /// # Threads
    ///
    /// It is called on the session's thread, and so must not block.
    pub fn on_cancel(&self, act: impl FnOnce() + Send + 'static) {
        let mut state = self.scope.cancel.state();
        if !state.is_cancelled {
            return state.hooks.push(Box::new(act));
        }
        drop(state);
        act();
    }

    /// Waits until the peer calls the request off, or is gone, no longer than this. Says whether it
    /// has.
    #[must_use]
    pub fn wait_cancelled(&self, within: Duration) -> bool {
        let deadline = Deadline::after(within);
        let mut state = self.scope.cancel.state();
        while !state.is_cancelled {
            match deadline.wait(&self.scope.cancel.tell, state) {
                Ok(woken) => state = woken,
                Err(_) => return false,
            }
        }
        true
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
        self.send(&Outgoing::Item { to: &self.scope.id, value }, false)
    }

    /// Tells the peer how far it has come, which is no answer.
    ///
    /// # Errors
    ///
    /// As [`item`](Self::item); and if the peer does not want to know, where the protocol has it say so.
    pub fn progress<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), SessionError> {
        let value = &Payload::new(value).map_err(Kind::Json)?;
        self.send(&Outgoing::Progress { to: &self.scope.id, value }, false)
    }

    /// Sends the answer, or the last of several.
    ///
    /// # Errors
    ///
    /// As [`item`](Self::item). The peer is told of an error then.
    pub fn respond<T: Serialize + ?Sized>(mut self, value: &T) -> Result<(), SessionError> {
        self.respond_by_ref(&Payload::new(value).map_err(Kind::Json)?)
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
    pub fn finish_now(mut self) {
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

    /// Answers with what a handler has come to. A [`RemoteError`] is told as it is; of another error the
    /// peer hears the outermost message, and [`on_error`](super::SessionBuilder::on_error) all of it.
    pub fn conclude<T: Serialize>(mut self, outcome: anyhow::Result<T>) {
        let error = match outcome {
            Ok(value) => {
                let value = Payload::new(&value).map_err(Kind::Json);
                match value
                    .map_err(SessionError::from)
                    .and_then(|value| self.respond_by_ref(&value))
                {
                    Ok(()) => return,
                    Err(error) => anyhow::Error::new(error).context("the answer could not be sent"),
                }
            }
            Err(error) => error,
        };
        match (error.downcast_ref::<RemoteError>(), error.downcast_ref::<SessionError>()) {
            (Some(remote), _) => self.fail_by_ref(remote),
            // It is what could not be read that came through another error on its way.
            (_, Some(other)) if other.remote().is_some() && self.bad_params.get().is_some() => {}
            _ => {
                self.fail_by_ref(&internal(error.to_string()));
                let what = format!("a handler of `{}` failed", self.method);
                self.scope.shared.report(&error.context(what));
            }
        }
    }

    fn respond_by_ref(&mut self, value: &Payload) -> Result<(), SessionError> {
        self.scope.answers();
        self.send(&Outgoing::Answer { to: &self.scope.id, value }, true)?;
        self.is_answered();
        Ok(())
    }

    fn fail_by_ref(&mut self, error: &RemoteError) {
        if self.scope.check().is_ok() {
            self.scope.answers();
            self.scope.say(&Outgoing::Failure { to: &self.scope.id, error });
        }
        self.is_answered();
    }

    fn send(&self, message: &Outgoing<'_>, is_final: bool) -> Result<(), SessionError> {
        self.scope.check()?;
        if !is_final && self.is_cancelled() {
            return Err(Kind::Ended.into()); // it may be answered still, and that is all
        }
        let shared = &self.scope.shared;
        // The session's own thread cannot wait for itself to make room.
        let when_full =
            if shared.is_loop_thread() { WhenFull::Refuse } else { shared.limits.when_full };
        let frame = shared.encode(message, when_full, Deadline::after(shared.limits.timeout))?;
        if is_final {
            return self.scope.deliver(frame);
        }
        let sending = Sending::new(frame, Some(self.scope.connection));
        shared.post(|owner| owner.send(sending))
    }

    fn is_answered(&mut self) {
        self.answered = true;
        self.scope.answers();
        self.scope.cancel.forget();
        if Arc::strong_count(&self.scope) == 1 {
            return;
        }
        // Others go on: the end is kept back for them, for so long.
        if !self.scope.shared.protocol.ends_apart() {
            let scope = Arc::downgrade(&self.scope);
            let _ = self.scope.shared.post(move |owner| owner.answered(&scope));
        } else {
            let until = Deadline::after(self.scope.shared.limits.end);
            let scope = Arc::downgrade(&self.scope);
            let _ = self.scope.shared.post(move |owner| owner.hold(&scope, until));
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.answered {
            let error = match self.bad_params.get() {
                _ if std::thread::panicking() => internal("the handler panicked"),
                Some(bad) => bad.clone(),
                None if self.is_cancelled() => RemoteError::new("the request was called off")
                    .with_code(RemoteError::REQUEST_CANCELLED),
                None => internal("the handler gave no answer"),
            };
            self.fail_by_ref(&error);
        }
    }
}

fn internal(why: impl Into<String>) -> RemoteError {
    RemoteError::new(why).with_code(RemoteError::INTERNAL_ERROR)
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
