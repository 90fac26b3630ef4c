//! WebSocket, as RFC 6455 has it: how one is opened, and what goes over it. Both kinds of session
//! stand on this.
//!
//! tungstenite knows the formats: HTTP's part of the handshake, and the headers of frames. Its own
//! `WebSocket` and its own handshake will not do, for four reasons. They take each mask and each
//! key from a thread-local generator, which panics where sessions say goodbye: among the
//! destructors of a thread that ends. They look at a frame only once all of it is there. They know
//! no deadline. And they write what is said to the log, tokens included.

pub(crate) mod codec;
mod connect;
mod frames;
mod opening;
mod stream;
#[cfg(feature = "tls")]
mod tls;
mod upgrade;

pub(super) use self::codec::{Fault, Message, Role};
pub(super) use self::connect::Connector;
#[cfg(all(feature = "duplex", unix))]
pub(super) use self::connect::accept;
pub use self::connect::{ConnectError, ConnectStep};
pub(crate) use self::frames::Goodbye;
pub(super) use self::frames::{FrameError, Frames, farewell};
#[cfg(feature = "jupyter")]
pub(crate) use self::opening::header;
pub(super) use self::opening::{Opening, Token};
pub(super) use self::stream::Patience;
pub(crate) use self::stream::{Socket, Stream};
