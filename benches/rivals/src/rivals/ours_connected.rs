//! `sessile`'s own sessions: one that any thread may call, and one for each thread.

use std::sync::Mutex;

use sessile::Pool;
use sessile::session::JsonRpc;
use sessile::session::duplex::{Connect, Invoker, Session, Tcp, WebSocket};
use sessile::session::websocket::{WebSocketManager, WebSocketSession};

use super::Client;
use crate::echo::{ECHO, Ports};

/// A duplex session.
pub struct Duplex {
    invoker: Invoker,
    _session: Session,
}

impl Duplex {
    /// # Panics
    ///
    /// If there is nobody to connect to.
    #[must_use]
    pub fn to(peer: impl Connect) -> Self {
        let session = Session::builder(JsonRpc::new()).connect(peer).expect("the server listens");
        Self { invoker: session.invoker(), _session: session }
    }

    #[must_use]
    pub fn over_lines(to: Ports) -> Self {
        Self::to(Tcp::new(format!("127.0.0.1:{}", to.lines)))
    }

    #[must_use]
    pub fn over_web_socket(to: Ports) -> Self {
        Self::to(WebSocket::new(url(to)))
    }

    #[must_use]
    pub fn invoker(&self) -> &Invoker {
        &self.invoker
    }

    fn echo(&self, number: u64) -> u64 {
        let [back]: [u64; 1] = self.invoker.call(ECHO, &[number]).expect("it answers");
        back
    }
}

#[must_use]
pub fn url(to: Ports) -> String {
    format!("ws://127.0.0.1:{}/", to.web_socket)
}

/// A duplex session, over TCP.
pub struct DuplexTcp(Duplex);

impl Client for DuplexTcp {
    const NAME: &'static str = "sessile duplex, TCP";

    fn connect(to: Ports) -> Self {
        Self(Duplex::over_lines(to))
    }

    fn echo(&self, number: u64) -> u64 {
        self.0.echo(number)
    }
}

/// A duplex session, over WebSocket.
pub struct DuplexWebSocket(Duplex);

impl Client for DuplexWebSocket {
    const NAME: &'static str = "sessile duplex, WebSocket";

    fn connect(to: Ports) -> Self {
        Self(Duplex::over_web_socket(to))
    }

    fn echo(&self, number: u64) -> u64 {
        self.0.echo(number)
    }
}

/// A pool of sessions, one for each thread.
pub struct PerThread(Pool<WebSocketSession>);

impl Client for PerThread {
    const NAME: &'static str = "sessile `Pool<WebSocketSession>`";

    fn connect(to: Ports) -> Self {
        Self(Pool::new(WebSocketManager::new(&url(to)).expect("it is an address")))
    }

    fn echo(&self, number: u64) -> u64 {
        let answer = self.0.with(|session| session.call(ECHO, &[number]));
        let [back]: [u64; 1] = answer.expect("the server listens").expect("it answers");
        back
    }
}

/// One such session, under a lock.
pub struct Shared(Mutex<WebSocketSession>);

impl Client for Shared {
    const NAME: &'static str = "sessile `Mutex<WebSocketSession>`, shared";

    fn connect(to: Ports) -> Self {
        let manager = WebSocketManager::new(&url(to)).expect("it is an address");
        Self(Mutex::new(manager.connect().expect("the server listens")))
    }

    fn echo(&self, number: u64) -> u64 {
        let mut session = self.0.lock().expect("no call panics");
        let [back]: [u64; 1] = session.call(ECHO, &[number]).expect("it answers");
        back
    }
}
