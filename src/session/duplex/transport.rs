//! Streams of frames: how one is had, and what the session's thread does with it.

mod lines;
mod stdio;
mod tcp;
#[cfg(feature = "ws")]
mod websocket;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

pub(in crate::session) use self::lines::Lines;
#[cfg(fuzzing)]
pub(crate) use self::lines::Splitter;
pub use self::stdio::{ChildStdio, Stdio};
pub use self::tcp::{Tcp, TcpAccepted};
#[cfg(feature = "ws")]
pub use self::websocket::{WebSocket, WebSocketAccepted};

/// Makes the stream of a session, and makes it anew when it is lost.
pub trait Connect: Send + 'static {
    /// Makes a stream, within this time.
    ///
    /// On a thread of its own if it [blocks](Self::blocks), on the session's if not.
    ///
    /// # Errors
    ///
    /// Whatever kept it from connecting.
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>>;

    /// Whether connecting may wait for anything.
    fn blocks(&self) -> bool {
        true
    }

    /// Whether it can connect once more after the stream was lost. One that was accepted cannot.
    fn can_reconnect(&self) -> bool {
        true
    }
}

/// What a stream has to keep to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LinkOptions {
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How many bytes a frame of the peer's may have.
    pub max_frame: usize,
    /// What ends a frame of ours, on a stream of lines.
    pub terminator: &'static str,
}

/// A stream of frames that never blocks. It is the session's thread that uses it.
pub trait Link: Send {
    /// What is to be watched: for reading, and for writing if that is another.
    ///
    /// # Errors
    ///
    /// If the system has no descriptor left.
    fn sources(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)>;

    /// Reads what has come, and hands out each whole frame. Says whether there may be more at once.
    ///
    /// # Errors
    ///
    /// If the stream has ended, or broken, or the peer has sent too large a frame.
    fn read(&mut self, frame: &mut dyn FnMut(&[u8])) -> io::Result<bool>;

    /// Queues a frame.
    ///
    /// # Errors
    ///
    /// If the stream is broken.
    fn queue(&mut self, frame: &[u8]) -> io::Result<()>;

    /// Writes as much as can be written, and says how many bytes are left.
    ///
    /// # Errors
    ///
    /// If the stream is broken.
    fn flush(&mut self) -> io::Result<usize>;

    /// Says good-bye, as far as that goes without waiting.
    fn close(&mut self) {}
}
