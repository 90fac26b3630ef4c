//! Where clients come from, on the server's thread.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use super::admission::{Common, Upgrades};
use crate::event_loop::{Interest, Source};
use crate::loop_thread::LocalState;
#[cfg(feature = "ws")]
use crate::session::rfc6455::AcceptOptions;
use crate::sys;
use crate::words::Span;

/// So many clients are accepted in a turn, so that posts and timers are not starved.
const BATCH: usize = 32;
/// After a failure it is tried again after this, and after each further one twice as late.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

/// What a [`Server`](super::Server) accepts its clients from.
///
/// ```
/// use std::net::TcpListener;
///
/// use sessile::session::JsonRpc;
/// # #[cfg(feature = "ws")]
/// use sessile::session::duplex::{AcceptOptions, Listener};
/// use sessile::session::duplex::{Server, Session};
///
/// let builder = Server::builder(|_| Session::builder(JsonRpc::new()));
/// let tcp = TcpListener::bind("127.0.0.1:0")?;
/// # #[cfg(feature = "ws")]
/// let server = builder.listen(Listener::websocket(tcp, AcceptOptions::new().subprotocol("rpc.v1")))?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Listener {
    socket: Socket,
    options: Upgrades,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Has clients ask for a WebSocket, and lets them in as these options say, those for TLS among them.
    #[cfg(feature = "ws")]
    #[cfg_attr(docsrs, doc(cfg(feature = "ws")))]
    #[must_use]
    pub fn websocket(listener: impl Into<Self>, options: AcceptOptions) -> Self {
        Self { options: Some(Arc::new(options)), ..listener.into() }
    }

    pub(super) fn options(&self) -> Upgrades {
        self.options.clone()
    }

    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    fn accept(&self) -> io::Result<Accepted> {
        Ok(match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                // A frame is written as a whole: to wait for more would only delay it.
                let _ = stream.set_nodelay(true);
                Accepted { stream, peer: Some(peer) }
            }
            Socket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                Accepted { stream: TcpStream::from(OwnedFd::from(stream)), peer: None }
            }
        })
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self { socket: Socket::Tcp(listener), options: Upgrades::default() }
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self { socket: Socket::Unix(listener), options: Upgrades::default() }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("local_addr", &self.local_addr())
            .field("is_websocket", &self.options.is_some())
            .finish_non_exhaustive()
    }
}

/// A connection. The stream is whatever sort of socket it was accepted on: only what all sorts have is
/// asked of it.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: Option<SocketAddr>,
}

/// The state of the server's thread.
pub(super) struct Accepting {
    local: LocalState<Accepting>,
    common: Arc<Common>,
    /// `None`: it closes.
    source: Option<Source<Listener>>,
    /// It waits for room, or for better times.
    is_paused: bool,
    pause: Duration,
}

impl Accepting {
    pub(super) fn new(
        listener: Listener,
        local: &LocalState<Self>,
        common: Arc<Common>,
    ) -> io::Result<Self> {
        sys::set_nonblocking(&listener.as_fd())?;
        let accept = |accepting: &mut Self, listener: &Listener, _| accepting.accept(listener);
        let source = local.add(listener, Interest::READABLE, accept)?;
        common.begin(local.handle());
        Ok(Self {
            local: local.clone(),
            common,
            source: Some(source),
            is_paused: false,
            pause: SHORTEST,
        })
    }

    fn accept(&mut self, listener: &Listener) {
        for _ in 0..BATCH {
            if self.source.is_none() || self.is_paused {
                return;
            }
            if self.common.has_to_wait() {
                return self.pause();
            }
            match listener.accept() {
                Ok(accepted) => {
                    self.pause = SHORTEST;
                    self.common.take(accepted);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return,
                    // It was gone before it was here.
                    ErrorKind::Interrupted
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::ConnectionReset => {}
                    _ => return self.back_off(error),
                },
            }
        }
    }

    /// The system has no descriptors left, or no memory: to try at once would be in vain.
    fn back_off(&mut self, error: io::Error) {
        let wait = self.pause;
        self.pause = (wait * 2).min(LONGEST);
        let what = format!("clients cannot be accepted; it is tried again in {}", Span(wait));
        self.common.report_error(&anyhow::Error::new(error).context(what));
        self.pause();
        self.local.call_later(wait, Self::resume);
    }

    fn pause(&mut self) {
        self.is_paused = true;
        self.watch(Interest::NONE);
    }

    /// There may be room.
    pub(super) fn resume(&mut self) {
        if std::mem::take(&mut self.is_paused) {
            self.watch(Interest::READABLE);
        }
    }

    fn watch(&self, interest: Interest) {
        let watched = self.source.as_ref().map_or(Ok(()), |source| source.modify(interest));
        if let Err(error) = watched {
            self.common
                .report_error(&anyhow::Error::new(error).context("the listener cannot be watched"));
        }
    }

    /// Accepts nobody any more, and has all sessions drained within this time.
    pub(super) fn begin_close(&mut self, within: Duration) {
        self.source = None;
        self.common.begin_close(within);
        self.stop_if_empty();
    }

    /// A client is gone.
    pub(super) fn one_is_gone(&mut self) {
        match self.source {
            Some(_) => self.resume(),
            None => self.stop_if_empty(),
        }
    }

    fn stop_if_empty(&self) {
        if self.common.is_empty() {
            self.local.stop();
        }
    }
}

/// However it ends, nobody stays.
impl Drop for Accepting {
    fn drop(&mut self) {
        self.common.begin_close(Duration::ZERO);
    }
}
