//! WebSocket, as RFC 6455 has it: how one is opened, and what goes over it. Both kinds of session
//! stand on this.
//!
//! tungstenite knows the headers of frames, and httparse those of HTTP. tungstenite's own
//! `WebSocket` and its own handshake will not do, for four reasons. They take each mask and each
//! key from a thread-local generator, which panics where sessions say goodbye: among the
//! destructors of a thread that ends. They look at a frame only once all of it is there. They know
//! no deadline. And they write what is said to the log, tokens included.

#[cfg(all(feature = "duplex", unix))]
mod accept;
pub(crate) mod codec;
mod connect;
mod connect_error;
mod frames;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod head;
mod options;
mod proxy;
mod stream;
mod target;
#[cfg(feature = "tls")]
mod tls;
mod upgrade;

#[cfg(all(feature = "duplex", unix))]
pub(super) use self::accept::Upgraded;
#[cfg(all(feature = "duplex", unix))]
pub use self::accept::{AcceptOptions, UpgradeRequest, UpgradeResponse};
pub(super) use self::codec::{Fault, Message, Role};
pub(super) use self::connect::Connector;
pub use self::connect_error::{ConnectError, ConnectStep};
pub(crate) use self::frames::Goodbye;
pub(super) use self::frames::{FrameError, Frames, farewell};
pub use self::options::ConnectOptions;
#[cfg(feature = "jupyter")]
pub(crate) use self::options::header;
pub(super) use self::stream::Patience;
pub(crate) use self::stream::{Socket, Stream};
#[cfg(feature = "jupyter")]
pub(crate) use self::target::Target;
