//! A WebSocket for each thread.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use sessile::Pool;
//! use sessile::session::ConnectOptions;
//! use sessile::session::websocket::WebSocketManager;
//!
//! let options = ConnectOptions::new("wss://example.org/rpc").bearer_token("..");
//! let manager = WebSocketManager::builder(options)
//!     .request_timeout(Duration::from_secs(10))
//!     .build()?;
//! let sessions = Pool::builder(manager)
//!     .check_after(Duration::from_secs(30))
//!     .create_backoff(Duration::from_millis(100), Duration::from_secs(10))
//!     .build()?;
//!
//! // On any thread: its own session, connected now if it has none.
//! let sum: u32 = sessions.with(|session| session.call("add", [1, 2]))??;
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! # Deadlines
//!
//! Whatever waits has a deadline, and keeps to it also if the peer sends byte after byte, or reads
//! nothing. A request is sent once. If its answer did not come in time it may have been done all the
//! same, and a late answer is counted and dropped.
//!
//! # When a session is broken
//!
//! Then it neither sends nor reads; each call says why; the pool closes it after the use at hand, and
//! the next use makes a new one, with [back-off](crate::PoolBuilder::create_backoff). A session is broken
//! when
//!
//! - the connection is lost, or the peer says goodbye;
//! - a request was not written in time, for half of it may be out;
//! - a request got no answer in time, and *nothing at all* was heard since it was made. Half-way the
//!   peer is pinged: one that is only slow answers that, and then only the request has failed;
//! - the peer was pinged and stayed silent for
//!   [`keep_alive_timeout`](WebSocketBuilder::keep_alive_timeout);
//! - the peer sent what is no WebSocket, or a binary message where only text is taken.
//!
//! A message that the [`Protocol`](crate::session::Protocol) cannot read breaks nothing: it fails the
//! request that it was to answer, if that can be told, and is counted. So it is with a message that is
//! over the size limit.
//!
//! Answers and events that came before that can still be taken.
//!
//! # While nobody reads
//!
//! Only the owner reads, and only while it is inside a call. A session that its thread leaves alone
//! answers no pings, and does not notice that the peer has gone; a server may hang up on it. There are
//! two ways. With [`check_after`](crate::PoolBuilder::check_after) a pool pings a session before it is used
//! after a long idle time, and makes a new one if need be. A thread that must keep the *same*
//! session calls [`poll`](WebSocketSession::poll) with a timeout of zero from time to time: on an
//! [`EventLoop`](crate::EventLoop) by `call_later`, again and again; on [`Workers`](crate::Workers) by
//! work that is submitted to the key.

mod link;
mod manager;
mod session;

#[cfg(feature = "jupyter")]
pub(crate) use self::link::{Heard, Link};
pub use self::manager::{WebSocketBuilder, WebSocketManager};
pub use self::session::{PendingAnswer, SessionStats, WebSocketSession};
pub use super::Notification;
#[cfg(feature = "jupyter")]
pub(crate) use super::rfc6455::Goodbye;
pub use super::rfc6455::{ConnectError, ConnectStep};
