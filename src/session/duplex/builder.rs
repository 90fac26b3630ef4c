//! Sets up a session.

use std::fmt;
use std::hash::Hash;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::owner::{Handlers, Owner, Settings};
use super::shared::{Limits, OnError, Phase, Shared};
use super::transport::{Connect, Framing, Framings, LinkOptions};
use super::{Invoker, Lines, Overflow, Request, Session, WhenFull, busy};
use crate::deadline::Deadline;
use crate::loop_thread::LoopThread;
use crate::registry::Registry;
use crate::session::error::Kind;
use crate::session::{Notification, Protocol, SessionError};
use crate::workers::Workers;

/// Sets up a [`Session`].
///
/// ```
/// # use std::os::unix::net::UnixStream;
/// # use std::time::Duration;
/// # use serde_json::Value;
/// # use sessile::session::JsonRpc;
/// # use sessile::session::duplex::{OverStream, Session};
/// # use sessile::Workers;
/// # let (ours, theirs) = UnixStream::pair()?;
/// # let workers = Workers::builder(sessile::Pool::builder(sessile::from_fn(|_| ()))).threads(1).build()?;
/// let peer = Session::builder(JsonRpc::new())
///     .name("adder")
///     .handlers(workers, |(), request| {
///         let [a, b]: [i64; 2] = request.parse()?; // or the peer is told: invalid parameters
///         Ok(a + b)
///     })
///     .connect(OverStream::new(theirs))?;
///
/// let session = Session::builder(JsonRpc::new())
///     .request_timeout(Duration::from_secs(5))
///     .on_connect(|invoker| {
///         invoker.call::<Value>("hello", [0, 0])?; // before anybody else's call
///         Ok(())
///     })
///     .on_close(|why| eprintln!("{why}"))
///     .connect(OverStream::new(ours))?;
/// assert_eq!(session.invoker().call::<i64>("add", [1, 2])?, 3);
/// # drop(peer);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder does nothing until `connect` is called"]
pub struct SessionBuilder {
    pub(super) protocol: Box<dyn Protocol>,
    /// `None`: nobody has said.
    pub(super) name: Option<String>,
    limits: Limits,
    pub(super) settings: Settings,
    pub(super) handlers: Handlers,
    on_error: OnError,
    pub(super) close_timeout: Duration,
    pub(super) registry: Option<Registry>,
    /// What is called as the last thing on the session's thread.
    pub(super) when_over: Option<WhenOver>,
}

pub(super) type WhenOver = Box<dyn FnOnce() + Send>;

impl SessionBuilder {
    pub(super) fn new(protocol: Box<dyn Protocol>) -> Self {
        const MIB: usize = 1 << 20;
        Self {
            protocol,
            name: None,
            limits: Limits {
                max_message_size: 16 * MIB,
                max_in_flight: 1 << 16,
                max_queued: 16 * MIB,
                answer_capacity: 16 * MIB,
                overflow: Overflow::default(),
                when_full: WhenFull::default(),
                timeout: Duration::from_secs(30),
                end: Duration::from_secs(300),
            },
            settings: Settings {
                link: LinkOptions {
                    connect_timeout: Duration::from_secs(10),
                    max_message_size: 16 * MIB,
                    framing: Framings::of(Lines::new()),
                },
                reconnect: None,
                tries_on: false,
                is_held: false,
                drains_on_close: false,
                greeting: Vec::new(),
                heartbeat: None,
                keep_alive_interval: None,
                keep_alive_timeout: None,
                drain_timeout: Duration::from_secs(30),
                max_requests: 1024,
            },
            handlers: Handlers {
                request: None,
                notification: Box::new(|_, _| ()),
                connect: None,
                close: None,
            },
            on_error: Arc::new(|_| ()),
            close_timeout: Duration::from_secs(1),
            registry: None,
            when_over: None,
        }
    }

    /// Sets what the session is called in snapshots, and its thread. Default: `session`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets how long connecting may take, name look-up and upgrade included. Default: 10 s.
    pub fn connect_timeout(mut self, wait: Duration) -> Self {
        self.settings.link.connect_timeout = wait;
        self
    }

    /// Sets how long a call waits for each answer, and for room, unless its [`Invoker`] says otherwise.
    /// Default: 30 s.
    pub fn request_timeout(mut self, wait: Duration) -> Self {
        self.limits.timeout = wait;
        self
    }

    /// Sets how many bytes a frame may have, either way. Ours that is larger is an error for its
    /// caller; the peer's is passed over, and fails the one request that it concerns, if that can be told:
    /// the call whose answer it is, or the peer's own request, which is answered with an error. A
    /// WebSocket on which it comes is closed. Default: 16 MiB.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.limits.max_message_size = bytes;
        self.settings.link.max_message_size = bytes;
        self
    }

    /// Sets how many bytes a frame of the peer's may have, where that is another limit than ours. To be
    /// called after [`max_message_size`](Self::max_message_size), which sets both.
    pub fn max_incoming_size(mut self, bytes: usize) -> Self {
        self.settings.link.max_message_size = bytes;
        self
    }

    /// Sets how many invocations there may be at once. Default: 65,536. Zero counts as one.
    pub fn max_in_flight(mut self, invocations: usize) -> Self {
        self.limits.max_in_flight = invocations.max(1);
        self
    }

    /// Sets how many bytes of frames may wait to be written. One frame always may. Default: 16 MiB.
    pub fn max_queued_bytes(mut self, bytes: usize) -> Self {
        self.limits.max_queued = bytes;
        self
    }

    /// Sets what happens to a call for which there is no room. Default: it waits.
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.limits.when_full = policy;
        self
    }

    /// Sets how many bytes of answers may lie unread, for each invocation. One answer always may.
    /// Default: 16 MiB.
    pub fn answer_capacity(mut self, bytes: usize) -> Self {
        self.limits.answer_capacity = bytes;
        self
    }

    /// Sets what happens when answers are not read as fast as they come. Default: their invocation
    /// fails.
    pub fn overflow(mut self, policy: Overflow) -> Self {
        self.limits.overflow = policy;
        self
    }

    /// Sets how many requests of the peer's there may be at once. Beyond, one is answered with an error.
    /// Default: 1024.
    pub fn max_requests(mut self, requests: usize) -> Self {
        self.settings.max_requests = requests;
        self
    }

    /// Sets how long the end of a request of the peer's is kept back after its answer, for those who may
    /// still call back on its behalf. Then it is said, and their calls are errors. Default: 5 min.
    pub fn end_timeout(mut self, wait: Duration) -> Self {
        self.limits.end = wait;
        self
    }

    /// Sets how long what the peer has asked may take to be answered after it has closed its side. Then
    /// the connection counts as lost. On a session that [reconnects](Self::reconnect) it is lost
    /// [at once](super#when-the-peer-closes-its-side). Default: 30 s.
    pub fn drain_timeout(mut self, wait: Duration) -> Self {
        self.settings.drain_timeout = wait;
        self
    }

    /// Connects again after the connection was lost: after `shortest`, and after each failure twice as
    /// late, up to `longest`. A connection that is lost sooner than the next would be made is a
    /// failure, too.
    ///
    /// What was in flight fails all the same; what is called meanwhile waits for the next connection,
    /// up to its time limit. [`start`](Self::start) goes on trying from the beginning;
    /// [`connect`](Self::connect) is an error if its first try fails. Of each failure
    /// [`on_error`](Self::on_error) is told. Default: a lost connection is the end.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::session::JsonRpc;
    /// use sessile::session::duplex::{Session, Tcp};
    ///
    /// let session = Session::builder(JsonRpc::new())
    ///     .reconnect(Duration::from_millis(100), Duration::from_secs(10))
    ///     .on_error(|error| eprintln!("{error:#}"))
    ///     .start(Tcp::new("127.0.0.1:1"))?; // nobody listens there yet
    /// assert!(session.wait_connected(Duration::from_millis(10)).unwrap_err().is_timeout());
    /// # Ok::<(), sessile::session::SessionError>(())
    /// ```
    pub fn reconnect(mut self, shortest: Duration, longest: Duration) -> Self {
        self.settings.reconnect = Some((shortest, longest));
        self
    }

    /// Adds frames that are written first on each new connection, as they are, and whose answers nobody
    /// awaits: for protocols that begin with something that is no request. See
    /// [`on_connect`](Self::on_connect) for one that is.
    pub fn greeting(mut self, frames: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.settings.greeting = frames.into_iter().collect();
        self
    }

    /// Adds a frame that is written at the beginning and then every so often, whatever handlers do: for
    /// protocols that have such. A WebSocket has pings, by
    /// [`keep_alive_interval`](Self::keep_alive_interval).
    pub fn heartbeat(mut self, every: Duration, frame: impl Into<Vec<u8>>) -> Self {
        self.settings.heartbeat = Some((every.max(Duration::from_millis(1)), frame.into()));
        self
    }

    /// Pings a peer from which nothing was heard for so long. It then has the time of
    /// [`keep_alive_timeout`](Self::keep_alive_timeout) to say something, or the connection counts as
    /// lost.
    ///
    /// Default: never. Only a WebSocket has pings: elsewhere this changes nothing.
    pub fn keep_alive_interval(mut self, idle: Duration) -> Self {
        self.settings.keep_alive_interval = Some(idle);
        self
    }

    /// Sets how long a peer that was pinged may go on being silent before the connection counts as
    /// lost. Without [`keep_alive_interval`](Self::keep_alive_interval): how long it may be silent at
    /// all.
    ///
    /// Default: 20 s after a ping; otherwise for ever.
    pub fn keep_alive_timeout(mut self, silence: Duration) -> Self {
        self.settings.keep_alive_timeout = Some(silence);
        self
    }

    /// Sets how frames lie in a stream of bytes: [`Lines`], [`ContentLength`](super::ContentLength), or a [`Framing`] of one's
    /// own. A WebSocket has messages, which are frames already.
    ///
    /// Default: [`Lines`].
    pub fn framing(mut self, framing: impl Framing + Clone + Sync) -> Self {
        self.settings.link.framing = Framings::of(framing);
        self
    }

    /// Has frames be [`Lines`] which, those of ours, end with this.
    pub fn line_ending(self, ending: &'static str) -> Self {
        self.framing(Lines::new().ending(ending))
    }

    /// Sets how long closing may take when the session is dropped, or closed by its registry: writing
    /// what is queued, and the end of a child. Default: 1 s.
    pub fn close_timeout(mut self, wait: Duration) -> Self {
        self.close_timeout = wait;
        self
    }

    /// Sets the registry that lists the session, as an instance that its thread is using. Ordered closed
    /// there, it closes as by [`Session::close`].
    ///
    /// Default: [`Registry::global`].
    pub fn registry(mut self, registry: &Registry) -> Self {
        self.registry = Some(registry.clone());
        self
    }

    /// Has `handler` called with each of the peer's requests, to be answered there or elsewhere.
    ///
    /// Default: each is answered with an error.
    ///
    /// # Threads
    ///
    /// It is called on the session's thread, and so must not block.
    pub fn on_request(mut self, handler: impl Fn(Request) + Send + 'static) -> Self {
        self.handlers.request = Some(Box::new(handler));
        self
    }

    /// Has the peer's requests handled by workers, each with an instance of its own; there one may
    /// block, and call back. What `handler` returns is the answer. When the workers' queue is full, the
    /// peer is answered with an error at once.
    ///
    /// A [`RemoteError`](super::super::RemoteError) is told to the peer as it is, and so [`Request::parse`] with `?` tells it that
    /// its parameters are wrong. Of any other error the peer hears the outermost message, and
    /// [`on_error`](Self::on_error) all of it. A handler that panics has answered with an error.
    ///
    /// The workers begin with the requests in the order in which they came.
    pub fn handlers<T, K, R>(
        self,
        workers: impl Into<Arc<Workers<T, K>>>,
        handler: impl Fn(&mut T, &Request) -> anyhow::Result<R> + Send + Sync + 'static,
    ) -> Self
    where
        T: 'static,
        K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
        R: Serialize,
    {
        self.request_handlers(workers, move |instance, request| {
            let outcome = handler(instance, &request);
            request.conclude(outcome);
        })
    }

    /// Has the peer's requests handled by workers, as [`handlers`](Self::handlers), to which they are
    /// handed over: to be answered there or elsewhere, then or later.
    ///
    /// A handler that panics, or drops the request, has answered with an error.
    pub fn request_handlers<T, K>(
        self,
        workers: impl Into<Arc<Workers<T, K>>>,
        handler: impl Fn(&mut T, Request) + Send + Sync + 'static,
    ) -> Self
    where
        T: 'static,
        K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
    {
        let (workers, handler) = (workers.into(), Arc::new(handler));
        self.on_request(move |request| {
            // Where both sides find it: it comes back if the work is refused.
            let kept = Arc::new(Mutex::new(Some(request)));
            let take = |kept: &Mutex<Option<Request>>| {
                kept.lock().unwrap_or_else(PoisonError::into_inner).take()
            };
            let (handler, handed) = (Arc::clone(&handler), Arc::clone(&kept));
            let work = move |instance: &mut T| {
                if let Some(request) = take(&handed) {
                    handler(instance, request);
                }
            };
            match workers.try_submit(work) {
                Ok(handle) => handle.detach(),
                Err(_) => take(&kept).into_iter().for_each(|request| request.fail(&busy())),
            }
        })
    }

    /// Has `handler` called with what the peer tells, and with an invoker of the connection on which it
    /// came.
    ///
    /// Default: nobody is told.
    ///
    /// # Threads
    ///
    /// It is called on the session's thread, and so must not block: it may `invoke` and `notify`, but
    /// not wait.
    pub fn on_notification(
        mut self,
        handler: impl Fn(&Invoker, Notification) + Send + 'static,
    ) -> Self {
        self.handlers.notification = Box::new(handler);
        self
    }

    /// Has what the peer tells handled by workers. Given the workers that handle its requests, it keeps
    /// the order of both; strictly so with one thread.
    ///
    /// When their queue is full, [`on_error`](Self::on_error) is told.
    pub fn notification_handlers<T, K>(
        self,
        workers: impl Into<Arc<Workers<T, K>>>,
        handler: impl Fn(&mut T, &Invoker, Notification) + Send + Sync + 'static,
    ) -> Self
    where
        T: 'static,
        K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
    {
        let (workers, handler) = (workers.into(), Arc::new(handler));
        self.on_notification(move |invoker, notification| {
            let (handler, caller) = (Arc::clone(&handler), invoker.clone());
            let method = notification.method.clone();
            let work = move |instance: &mut T| handler(instance, &caller, notification);
            match workers.try_submit(work) {
                Ok(handle) => handle.detach(),
                Err(_) => invoker.report(&anyhow::anyhow!(
                    "the notification `{method}` was let go: the workers take no more"
                )),
            }
        })
    }

    /// Has `greet` called on each new connection, with an invoker of it, before anybody else calls: to
    /// introduce oneself, and to subscribe anew. What others call meanwhile waits for it; what the peer
    /// asks is answered. If it fails, so has the connection.
    ///
    /// # Threads
    ///
    /// It is called on a thread that may block.
    pub fn on_connect(
        mut self,
        greet: impl Fn(&Invoker) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.handlers.connect = Some(Arc::new(greet));
        self
    }

    /// Has `tell` called once, when a session that was connected is down for good, with the reason: what
    /// every call would be told from then on.
    ///
    /// # Threads
    ///
    /// It is called on the session's thread, as the last thing there.
    pub fn on_close(mut self, tell: impl FnOnce(&SessionError) + Send + 'static) -> Self {
        self.handlers.close = Some(Box::new(tell));
        self
    }

    /// Has `tell` called with errors that no caller is told: what [`handlers`](Self::handlers) return, a
    /// connection that is lost before all answers were written, and one that could not be made and is
    /// [tried again](Self::reconnect).
    ///
    /// # Threads
    ///
    /// It is called wherever the error happens, a worker or the session's thread.
    pub fn on_error(mut self, tell: impl Fn(&anyhow::Error) + Send + Sync + 'static) -> Self {
        self.on_error = Arc::new(tell);
        self
    }

    /// Starts the session's thread, and waits for the first connection, and what
    /// [`on_connect`](Self::on_connect) says on it.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had, or no connection could be made.
    pub fn connect(self, connector: impl Connect) -> Result<Session, SessionError> {
        let session = self.begin(connector)?;
        let up = |phase: &Phase| (*phase != Phase::Connecting).then_some(());
        let _ = session.shared.wait_phase(Deadline::NEVER, up);
        match session.shared.take_no_connection() {
            Some(error) => Err(Kind::Connect(error).into()),
            None => Ok(session),
        }
    }

    /// Starts the session's thread, which connects by itself: as [`connect`](Self::connect), but it does
    /// not wait. What is called meanwhile waits for the connection. If none can be made the session is
    /// down, and its calls say so; one that [reconnects](Self::reconnect) goes on trying.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had.
    pub fn start(mut self, connector: impl Connect) -> Result<Session, SessionError> {
        self.settings.tries_on = true;
        self.begin(connector)
    }

    fn begin(self, connector: impl Connect) -> Result<Session, SessionError> {
        let Self { protocol, name, limits, settings, handlers, on_error, .. } = self;
        let name = name.unwrap_or_else(|| "session".to_owned());
        let registry = self.registry.unwrap_or_else(|| Registry::global().clone());
        let when_over = self.when_over;
        let failed = |error: anyhow::Error| SessionError::from(Kind::Connect(error));
        let (tell, told) = mpsc::sync_channel(1);
        let thread = LoopThread::builder(name)
            .registry(&registry)
            .close_timeout(self.close_timeout)
            .on_close(|owner: &mut Owner, _, within| owner.ordered_closed(within))
            .when_over(move || when_over.into_iter().for_each(|tell| tell()))
            .spawn(move |local| {
                let shared = Shared::new(protocol, limits, on_error, local.handle());
                let _ = tell.send(Arc::clone(&shared));
                let connector = Box::new(connector);
                Ok(Owner::new(shared, local.clone(), handlers, settings, connector))
            });
        let thread = thread.map_err(failed)?;
        let shared = told.recv().map_err(|error| failed(error.into()))?;
        Ok(Session { shared, thread })
    }
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
