//! A server: it accepts clients, and has a session with each.

mod admission;
mod client;
mod listener;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::admission::{Common, Settings};
pub use self::client::Client;
use self::listener::Accepting;
pub use self::listener::Listener;
use super::{Invoker, MOMENT, SessionBuilder, WhenFull};
use crate::deadline::Deadline;
use crate::loop_thread::LoopThread;
use crate::registry::Registry;
use crate::session::SessionError;

/// Accepts clients, over TCP, a Unix socket or WebSocket, and has a session with each. Dropped, it
/// closes.
///
/// ```
/// use std::net::TcpListener;
/// use std::time::Duration;
///
/// use sessile::session::JsonRpc;
/// use sessile::session::duplex::{Server, Session, Tcp};
/// use sessile::{Pool, Workers, from_fn};
///
/// // Here the requests of all clients are handled, two at a time.
/// let workers = Workers::builder(Pool::builder(from_fn(|_| ()))).threads(2).build()?;
/// let workers = std::sync::Arc::new(workers);
///
/// let server = Server::builder(move |_client| {
///     Session::builder(JsonRpc::new()).handlers(workers.clone(), |(), request| {
///         let [a, b]: [i64; 2] = request.parse()?;
///         Ok(a + b)
///     })
/// })
/// .max_clients(100)
/// .on_connect(|client, invoker| {
///     println!("{client} is here");
///     Ok(invoker.notify("welcome", ())?)
/// })
/// .on_close(|client, why| println!("{client} is gone: {why}"))
/// .listen(TcpListener::bind("127.0.0.1:0")?)?;
///
/// let address = server.local_addr().expect("it listens on TCP");
/// let session = Session::builder(JsonRpc::new()).connect(Tcp::new(address))?;
/// assert_eq!(session.invoker().call::<i64>("add", [1, 2])?, 3);
///
/// let report = server.close(Duration::from_secs(5));
/// assert!(report.is_complete(), "not all were answered: {:?}", report.left);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # What holds
///
/// - Each client has a session of its own, on a thread of its own, set up by the closure that
///   [`builder`](Self::builder) is given. What it asks for, one client at a time or all at once, is a
///   matter of the [`Workers`](crate::Workers) behind.
/// - A client that is slow holds up nobody: not in TLS, nor in the upgrade to WebSocket, nor later.
/// - There are no more clients than [`max_clients`](ServerBuilder::max_clients).
/// - If the system has no descriptors left, [`on_error`](ServerBuilder::on_error) is told, and it tries
///   again a little later, and later still.
/// - When it [closes](Self::close), what clients have asked is answered first.
/// - It is in a [`Registry`], with its sessions, which closes it with all else.
///
/// # What a client costs
///
/// A thread and 5 descriptors (the socket twice, and a loop's three), and some 80 kB of memory; a thread
/// more while it is let in. A process that may have 1,024 descriptors has room for 200 clients: see
/// `ulimit -n`.
pub struct Server {
    common: Arc<Common>,
    thread: LoopThread<Accepting>,
    address: Option<SocketAddr>,
    close_timeout: Duration,
}

/// Sets up a [`Server`], where there is an example.
#[must_use = "a builder does nothing until `listen` is called"]
pub struct ServerBuilder {
    settings: Settings,
    close_timeout: Duration,
}

impl Server {
    /// Sets up a server, which has `make` set up the session with each client.
    ///
    /// It may look at who the client is: its address, and the path and the headers with which it asked
    /// for a WebSocket.
    ///
    /// ```
    /// use sessile::session::{JsonRpc, Lsp};
    /// use sessile::session::duplex::{ContentLength, Server, Session};
    ///
    /// let server = Server::builder(|client| {
    ///     let is_local = client.peer_addr().is_none_or(|address| address.ip().is_loopback());
    ///     let builder = Session::builder(Lsp::new()).framing(ContentLength::new());
    ///     builder.max_requests(if is_local { 1024 } else { 16 })
    /// });
    /// ```
    ///
    /// The client's session closes with the server's [`close_timeout`](ServerBuilder::close_timeout), and
    /// is listed where the server is unless it says otherwise.
    ///
    /// # Threads
    ///
    /// `make` is called on a thread of the client's own, and may block. If it panics, that client is not
    /// served, and [`on_error`](ServerBuilder::on_error) is told.
    pub fn builder(
        make: impl Fn(&Client) -> SessionBuilder + Send + Sync + 'static,
    ) -> ServerBuilder {
        ServerBuilder { settings: Settings::new(make), close_timeout: Duration::from_secs(1) }
    }

    /// Gives the address that it listens on: the port that the system has chosen, if it was asked for
    /// port 0. `None`: it listens on a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Gives the clients that there are, in the order in which they came.
    ///
    /// ```
    /// # use std::net::TcpListener;
    /// # use sessile::session::JsonRpc;
    /// # use sessile::session::duplex::{Server, Session};
    /// # let server = Server::builder(|_| Session::builder(JsonRpc::new()))
    /// #     .listen(TcpListener::bind("127.0.0.1:0")?)?;
    /// // Tells all of something.
    /// for client in server.clients() {
    ///     if let Some(invoker) = server.invoker(&client) {
    ///         let _ = invoker.notify("news", ["it rains"]); // it may be gone by now
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        if self.is_inherited() { Vec::new() } else { self.common.clients() }
    }

    /// Gives what calls this client, from any thread. `None`: it is gone.
    #[must_use]
    pub fn invoker(&self, client: &Client) -> Option<Invoker> {
        if self.is_inherited() { None } else { self.common.invoker(client) }
    }

    /// Has the session with this client end, what it has asked being answered first, within this time.
    /// It does not wait for that. Says whether there was such a client.
    ///
    /// ```
    /// # use std::net::TcpListener;
    /// # use std::time::Duration;
    /// # use sessile::session::JsonRpc;
    /// # use sessile::session::duplex::{Server, Session};
    /// # let server = Server::builder(|_| Session::builder(JsonRpc::new()))
    /// #     .listen(TcpListener::bind("127.0.0.1:0")?)?;
    /// for client in server.clients() {
    ///     if client.peer_addr().is_some_and(|address| !address.ip().is_loopback()) {
    ///         server.disconnect(&client, Duration::from_secs(1));
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disconnect(&self, client: &Client, within: Duration) -> bool {
        !self.is_inherited() && self.common.disconnect(client, within)
    }

    /// Says what the server has done and seen.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        if self.is_inherited() { ServerStats::default() } else { self.common.stats() }
    }

    /// Whether it accepts nobody any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.thread.handle().is_closed()
    }

    /// Waits until it has ended, with all its sessions, no longer than this, and says whether it has.
    ///
    /// ```no_run
    /// # use std::net::TcpListener;
    /// # use std::time::Duration;
    /// # use sessile::session::JsonRpc;
    /// # use sessile::session::duplex::{Server, Session};
    /// # let server = Server::builder(|_| Session::builder(JsonRpc::new()))
    /// #     .listen(TcpListener::bind("127.0.0.1:0")?)?;
    /// // A `main` that serves until the process is told to end.
    /// while !server.wait_closed(Duration::from_secs(3600)) {}
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn wait_closed(&self, within: Duration) -> bool {
        let deadline = Deadline::after(within);
        self.thread.wait_closed(within) && (self.is_inherited() || self.common.wait_empty(deadline))
    }

    /// Accepts nobody any more, has each session answer what its client has asked, and closes them, all
    /// that within this time. Says who was left unanswered.
    ///
    /// Requests that come after that are refused. Handlers may call back until they have answered.
    ///
    /// # Threads
    ///
    /// Any. On its own thread, where [`on_error`](ServerBuilder::on_error) may be called, it does not
    /// wait. On the thread of a session it waits in vain for that session.
    pub fn close(&self, within: Duration) -> ServerReport {
        if self.is_inherited() {
            return ServerReport::default(); // a forked child, which has no such sessions
        }
        let deadline = Deadline::after(within.saturating_add(MOMENT));
        self.thread.begin_close(within);
        if !self.thread.handle().is_own_thread() {
            let left = || deadline.remaining().unwrap_or_default();
            let _ = self.thread.wait_closed(left());
            self.common.wait_empty(deadline);
        }
        self.common.report()
    }

    fn is_inherited(&self) -> bool {
        self.thread.handle().is_inherited()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close(self.close_timeout);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("local_addr", &self.address)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl ServerBuilder {
    /// Sets what the server is called in snapshots, and its thread; its sessions are called after it.
    /// Default: `server`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// Sets how many clients there may be at once, those among them who are still let in. Zero counts as
    /// one. Default: 1,000.
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.settings.max_clients = clients.max(1);
        self
    }

    /// Sets what happens to a client for whom there is no room. It waits, which is the default: it is
    /// connected, and nobody listens until another goes. Or it is refused, and told: over WebSocket by
    /// status 503, else in the protocol's words, if it [has some](crate::session::Protocol::encode_refusal).
    /// Of a refusal [`on_error`](Self::on_error) is told, too.
    ///
    /// How many may wait, and for how long, is a matter of the listener's backlog and of the client's
    /// patience.
    ///
    /// ```
    /// use sessile::session::JsonRpc;
    /// use sessile::session::duplex::{Server, Session, WhenFull};
    ///
    /// let server = Server::builder(|_| Session::builder(JsonRpc::new()))
    ///     .max_clients(2)
    ///     .when_full(WhenFull::Refuse);
    /// ```
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.settings.when_full = policy;
        self
    }

    /// Sets how long a client may take for TLS and for asking for a WebSocket. Default: 10 s.
    pub fn handshake_timeout(mut self, wait: Duration) -> Self {
        self.settings.handshake_timeout = wait;
        self
    }

    /// Sets how long closing may take when the server is dropped, or closed by its registry, and so for
    /// each of its sessions. Default: 1 s.
    pub fn close_timeout(mut self, wait: Duration) -> Self {
        self.close_timeout = wait;
        self
    }

    /// Sets the registry that lists the server, and its sessions. Default: [`Registry::global`].
    pub fn registry(mut self, registry: &Registry) -> Self {
        self.settings.registry = registry.clone();
        self
    }

    /// Has `greet` called for each client, before anybody else calls it, with an invoker that does. What
    /// it asks meanwhile is answered. If it fails, the client's connection is closed, and [`on_error`](Self::on_error) is told.
    ///
    /// # Threads
    ///
    /// It is called on a thread of the client's own, which may block.
    pub fn on_connect(
        mut self,
        greet: impl Fn(&Client, &Invoker) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.settings.on_connect = Some(Arc::new(greet));
        self
    }

    /// Has `tell` called once for each client that was connected, when its session is down, with the
    /// reason.
    ///
    /// # Threads
    ///
    /// It is called on the session's thread, as one of the last things there.
    pub fn on_close(
        mut self,
        tell: impl Fn(&Client, &SessionError) + Send + Sync + 'static,
    ) -> Self {
        self.settings.on_close = Some(Arc::new(tell));
        self
    }

    /// Has `tell` called with what is nobody's answer: that clients cannot be accepted, or that one was
    /// not let in, and why.
    ///
    /// What happens within a session is told to
    /// [the session's own](SessionBuilder::on_error).
    ///
    /// # Threads
    ///
    /// It is called wherever the error happens: a client's thread or the server's. It must not block.
    pub fn on_error(mut self, tell: impl Fn(&anyhow::Error) + Send + Sync + 'static) -> Self {
        self.settings.on_error = Box::new(tell);
        self
    }

    /// Accepts clients from here on: a `TcpListener`, a `UnixListener`, or a [`Listener`] over either.
    ///
    /// The file of a Unix socket is yours to remove: one that is there already keeps `bind` from working.
    ///
    /// ```
    /// use std::os::unix::net::UnixListener;
    ///
    /// use sessile::session::JsonRpc;
    /// use sessile::session::duplex::{Server, Session, Unix};
    ///
    /// let path = std::env::temp_dir().join(format!("sessile-{}.sock", std::process::id()));
    /// # let _ = std::fs::remove_file(&path);
    /// let server = Server::builder(|_| {
    ///     Session::builder(JsonRpc::new()).on_request(|request| drop(request.respond("hello")))
    /// })
    /// .listen(UnixListener::bind(&path)?)?;
    /// let session = Session::builder(JsonRpc::new()).connect(Unix::new(&path))?;
    /// assert_eq!(session.invoker().call::<String>("greet", ())?, "hello");
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If there is no thread to be had, or no descriptor.
    pub fn listen(self, listener: impl Into<Listener>) -> io::Result<Server> {
        let Self { settings, close_timeout } = self;
        let listener = listener.into();
        let address = listener.local_addr();
        let name = settings.name.clone();
        let registry = settings.registry.clone();
        let common = Arc::new(Common::new(settings, close_timeout, listener.options()));
        let shared = Arc::clone(&common);
        let thread = LoopThread::builder(name)
            .registry(&registry)
            .close_timeout(close_timeout)
            .on_close(|accepting: &mut Accepting, _, within| accepting.begin_close(within))
            .spawn(move |local| Ok(Accepting::new(listener, local, shared)?));
        let thread = thread.map_err(|error| match error.downcast::<io::Error>() {
            Ok(error) => error,
            Err(error) => io::Error::other(error),
        })?;
        Ok(Server { common, thread, address, close_timeout })
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("name", &self.settings.name)
            .field("max_clients", &self.settings.max_clients)
            .finish_non_exhaustive()
    }
}

/// What a server has done and seen. Each number is right by itself; together they may be of different
/// moments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerStats {
    /// Clients that there are, those among them who are still let in.
    pub clients: u64,
    /// Connections that were accepted, whatever came of them.
    pub accepted: u64,
    /// Clients that were refused, for there was no room.
    pub refused: u64,
    /// Clients that were not let in: by TLS, by the upgrade, or for want of a thread or a descriptor.
    pub failed: u64,
}

/// What came of [closing](Server::close) a server.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ServerReport {
    /// How many clients, of those that there were, had all that they had asked answered.
    pub drained: usize,
    /// Those who were left without an answer, or whose session has not ended yet.
    pub left: Vec<Client>,
}

impl ServerReport {
    /// Whether nobody was left.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.left.is_empty()
    }
}
