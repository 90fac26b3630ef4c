//! Conversations with a peer: requests, answers and events over one stream.
//!
//! A session is what people most often want one of per thread. What both kinds share is here: how a
//! message looks on the wire is a [`Protocol`], of which [`JsonRpc`] is supplied; what goes in and
//! comes out is a [`Payload`]; what can go wrong is a [`SessionError`].

mod conventions;
#[cfg(any(feature = "ws", all(feature = "duplex", unix)))]
mod dial;
#[cfg(all(feature = "dify", unix))]
pub mod dify;
#[cfg(all(feature = "duplex", unix))]
pub mod duplex;
mod error;
mod json_rpc;
#[cfg(all(feature = "duplex", unix))]
mod outline;
mod payload;
mod protocol;
// A duplex session takes either side, and does not wait.
#[cfg(feature = "ws")]
#[cfg_attr(not(all(feature = "duplex", unix)), allow(dead_code))]
pub(crate) mod rfc6455;
#[cfg(feature = "ws")]
pub mod websocket;

pub use self::conventions::{Lsp, Mcp};
pub use self::error::{RemoteError, SessionError};
pub use self::json_rpc::JsonRpc;
pub use self::payload::Payload;
pub use self::protocol::{
    Concern, Incoming, Malformed, Notification, Outgoing, Protocol, RequestId, Unsupported,
};
#[cfg(feature = "ws")]
pub use self::rfc6455::ConnectOptions;
/// The library in whose words [`tls_config`](ConnectOptions::tls_config) is written.
#[cfg(feature = "tls")]
#[doc(no_inline)]
pub use rustls;
