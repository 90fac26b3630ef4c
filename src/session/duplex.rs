//! A session over one stream, on which both sides call each other, and any thread may call.
//!
//! One thread owns the stream: it alone reads, routes and writes. Everybody else holds an [`Invoker`].
//!
//! ```
//! use std::net::{TcpListener, TcpStream};
//!
//! use sessile::session::JsonRpc;
//! use sessile::session::duplex::{Session, Tcp, TcpAccepted};
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let dialled = Session::builder(JsonRpc::new());
//! let session = dialled.connect(Tcp::new(listener.local_addr()?.to_string()))?;
//!
//! // The other side answers what it is asked.
//! let peer = Session::builder(JsonRpc::new())
//!     .on_request(|request| drop(request.respond("hello")))
//!     .connect(TcpAccepted::new(listener.accept()?.0))?;
//!
//! let invoker = session.invoker(); // `Send + Sync + Clone`
//! let said: String = std::thread::spawn(move || invoker.call("greet", ())).join().unwrap()?;
//! assert_eq!(said, "hello");
//! # drop(peer);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! - Who waits for an answer is known before a byte of the request is written.
//! - A frame is written as one; frames that are ready together are written together.
//! - An answer finds its caller by one look-up.
//! - When the connection is lost, everybody who waits is told at once. What was sent is never sent
//!   again; what is called after that goes over the next connection, if there is to be one.
//! - Everything is bounded: frames, what waits to be written, what is in flight, answers that nobody
//!   has read, requests of the peer's. At a bound there is an error, or one waits, as one chooses.
//! - A request of the peer's ends when nobody can call back on its behalf any more.
//! - When the peer says no more, what it has asked is [still answered](#when-the-peer-closes-its-side).
//! - An answer of odd shape, or one that is too large, fails its one caller; nothing else.
//! - A session that is down for good ends its thread, and gives back its descriptors.
//! - A session is in a [`Registry`](crate::Registry), which closes it with all else.
//!
//! # When the peer closes its side
//!
//! A peer that says no more may still listen: so does `cat requests | server`, or a client that shuts
//! down its socket for writing. Over TCP this looks the same as a peer that is gone, until something is
//! written: a peer that is gone answers that with a reset. So what is done depends on what the session
//! is for:
//!
//! - A session that [reconnects](SessionBuilder::reconnect) has lost its connection. All who wait are
//!   told at once, the peer's requests are cancelled, and it dials again. It needs a peer that talks;
//!   to serve one that does not, for up to half a minute, would only keep it from the next.
//! - On any other session the peer's requests are answered first, within
//!   [`drain_timeout`](SessionBuilder::drain_timeout). It ends earlier when the stream tells that nobody
//!   listens: a Unix socket, a child or a pipe tells so at once, TCP after something was written.
//! - A WebSocket has no such half: its peer says good-bye with a frame of its own. One that hangs up,
//!   with that frame or without, is lost.
//!
//! # On the session's thread
//!
//! [`on_request`](SessionBuilder::on_request) and [`on_notification`](SessionBuilder::on_notification)
//! run there, in the order in which the peer said it, and so must not block: a wait for an answer is an
//! error at once. Handlers that may block run on [`Workers`](crate::Workers), by [`handlers`](SessionBuilder::handlers)
//! and [`notification_handlers`](SessionBuilder::notification_handlers).

mod backoff;
mod builder;
mod inbox;
mod invocation;
mod invoker;
mod owner;
mod request;
mod server;
mod shared;
mod transport;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::SessionBuilder;
pub use self::invocation::{Answer, AnswerAs, Answers, Invocation, Reply};
pub use self::invoker::Invoker;
use self::owner::Owner;
pub use self::request::Request;
pub use self::server::{Client, Listener, Server, ServerBuilder, ServerReport, ServerStats};
pub use self::shared::SessionStats;
use self::shared::{Phase, Shared};
#[cfg(feature = "dify")]
pub(super) use self::transport::Framed;
pub use self::transport::{
    ChildProcess, ChildStdio, Connect, ContentLength, Framing, Lines, Link, LinkOptions, Next,
    OverStream, Oversized, Stdio, Tcp, TcpAccepted, Unix,
};
#[cfg(fuzzing)]
pub(crate) use self::transport::{Deframer, SLACK};
#[cfg(feature = "ws")]
pub use self::transport::{WebSocket, WebSocketAccepted};
use super::error::Kind;
#[cfg(feature = "ws")]
pub use super::rfc6455::{AcceptOptions, UpgradeRequest, UpgradeResponse};
use super::{Protocol, RemoteError, SessionError};
use crate::deadline::Deadline;
use crate::loop_thread::LoopThread;

/// After its time a thread has this long to drop what it has.
const MOMENT: Duration = Duration::from_millis(500);

/// What happens to a call for which there is no room, or to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// It waits for room, up to its time limit.
    #[default]
    Wait,
    /// It is an error at once.
    Refuse,
}

/// What happens when the answers to an invocation are not read as fast as they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// That invocation fails. All others go on.
    #[default]
    Fail,
    /// The session stops reading until the reader has caught up: the peer is held back, and with it
    /// everything else on this session.
    Pause,
}

/// A session over one stream. Dropped, it closes.
///
/// It may be used from any thread; mostly it is kept by whoever has to see to its end, and everybody
/// else has an [`Invoker`]. The [module's page](self) has an example.
pub struct Session {
    shared: Arc<Shared>,
    thread: LoopThread<Owner>,
}

pub(super) fn busy() -> RemoteError {
    RemoteError::new("too much is asked for at once").with_code(RemoteError::SERVER_ERROR)
}

impl Session {
    /// Sets up a session that speaks this protocol.
    pub fn builder(protocol: impl Protocol) -> SessionBuilder {
        SessionBuilder::new(Box::new(protocol))
    }

    /// Gives what calls the peer, from any thread.
    #[must_use]
    pub fn invoker(&self) -> Invoker {
        Invoker::new(Arc::clone(&self.shared), None)
    }

    /// Says what the session has done and seen.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.shared.stats()
    }

    /// Waits until there is a connection, no longer than this.
    ///
    /// # Errors
    ///
    /// If there was none in time, or there will be none any more.
    pub fn wait_connected(&self, wait: Duration) -> Result<(), SessionError> {
        let up = |phase: &Phase| match phase {
            Phase::Up => Some(Ok(())),
            Phase::Connecting => None,
            Phase::Ending(why) => Some(Err(Kind::Lost { why: why.clone() }.into())),
            Phase::Down(down) => Some(Err(down.error())),
        };
        let reached = self.shared.wait_phase(Deadline::after(wait), up);
        reached.unwrap_or_else(|| Err(Kind::TimedOut { waited: wait }.into()))
    }

    /// Waits until the session is down for good, closed or lost without another try, and its thread has
    /// ended. Says whether it came to that in time. On the session's own thread it does not wait.
    #[must_use]
    pub fn wait_closed(&self, wait: Duration) -> bool {
        self.thread.wait_closed(wait)
    }

    /// Whether it is down for good.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.is_down()
    }

    /// Answers what the peer has asked, refuses what it asks from now on, and closes; all that within
    /// this time. Says whether it has ended. What has not been answered by then is lost.
    ///
    /// Handlers may call back meanwhile, and are answered.
    ///
    /// ```
    /// # use std::os::unix::net::UnixStream;
    /// # use std::time::Duration;
    /// # use sessile::session::JsonRpc;
    /// # use sessile::session::duplex::{OverStream, Session};
    /// # let (ours, theirs) = UnixStream::pair()?;
    /// # let session = Session::builder(JsonRpc::new()).connect(OverStream::new(ours))?;
    /// assert!(session.drain(Duration::from_secs(5)));
    /// assert!(session.invoker().call::<i64>("add", [1, 2]).unwrap_err().is_closed());
    /// # drop(theirs);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// On the session's own thread it does not wait.
    pub fn drain(&self, within: Duration) -> bool {
        let _ = self.shared.post(move |owner| owner.drain(within)); // refused, it is down already
        self.wait_closed(within.saturating_add(MOMENT)) || self.close(Duration::ZERO)
    }

    /// Takes no more calls, fails those in flight, writes what is queued, closes the connection, and
    /// ends the thread; all that within this time. Says whether it has ended.
    ///
    /// On the session's own thread it does not wait.
    pub fn close(&self, within: Duration) -> bool {
        self.thread.close(within)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("is_closed", &self.is_closed())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
