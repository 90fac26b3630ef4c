//! Who a client is.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

#[cfg(feature = "ws")]
use crate::session::rfc6455::UpgradeRequest;

/// A client of a [`Server`](super::Server)'s: who it is, for as long as anybody wants to know. Cheap to
/// clone.
#[derive(Clone)]
pub struct Client(Arc<Known>);

struct Known {
    id: u64,
    peer: Option<SocketAddr>,
    #[cfg(feature = "ws")]
    upgrade: Option<UpgradeRequest>,
}

impl Client {
    pub(super) fn new(id: u64, peer: Option<SocketAddr>) -> Self {
        Self(Arc::new(Known {
            id,
            peer,
            #[cfg(feature = "ws")]
            upgrade: None,
        }))
    }

    /// The same, which has asked for a WebSocket so.
    #[cfg(feature = "ws")]
    pub(super) fn upgraded(&self, upgrade: UpgradeRequest) -> Self {
        Self(Arc::new(Known { id: self.0.id, peer: self.0.peer, upgrade: Some(upgrade) }))
    }

    /// Its number: from 1 on, in the order in which they came, and never used again.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Its address. `None`: it came over a Unix socket.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.0.peer
    }

    /// The head of the request by which it asked for a WebSocket: path, query, headers. `None`: there was
    /// none.
    ///
    /// ```
    /// use sessile::session::JsonRpc;
    /// use sessile::session::duplex::{Server, Session};
    ///
    /// let server = Server::builder(|client| {
    ///     let path = client.upgrade().map_or("/", |request| request.path()).to_owned();
    ///     let builder = Session::builder(JsonRpc::new());
    ///     builder.on_request(move |request| drop(request.respond(&path)))
    /// });
    /// ```
    #[cfg(feature = "ws")]
    #[cfg_attr(docsrs, doc(cfg(feature = "ws")))]
    #[must_use]
    pub fn upgrade(&self) -> Option<&UpgradeRequest> {
        self.0.upgrade.as_ref()
    }
}

/// Two are equal if they are the same client of the same server.
impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id && self.0.peer == other.0.peer
    }
}

impl Eq for Client {}

/// By its address, or its number if it has none.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.peer {
            Some(peer) => peer.fmt(f),
            None => write!(f, "client {}", self.0.id),
        }
    }
}

/// Without headers and query: any may be a secret.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut client = f.debug_struct("Client");
        client.field("id", &self.0.id).field("peer_addr", &self.0.peer);
        #[cfg(feature = "ws")]
        client.field("upgrade", &self.0.upgrade);
        client.finish()
    }
}
