//! Streams of frames: how one is had, and what the session's thread does with it.

mod child;
mod framed;
mod framing;
mod socket;
mod stdio;
#[cfg(feature = "ws")]
mod websocket;

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

pub use self::child::{ChildProcess, ChildStdio};
pub(in crate::session) use self::framed::Framed;
#[cfg(fuzzing)]
pub(crate) use self::framed::{Deframer, SLACK};
pub(in crate::session) use self::framing::Framings;
pub use self::framing::{ContentLength, Framing, Lines, Next};
pub use self::socket::{OverStream, Tcp, TcpAccepted, Unix};
pub use self::stdio::Stdio;
#[cfg(feature = "ws")]
pub(super) use self::websocket::Agreed;
#[cfg(feature = "ws")]
pub use self::websocket::{WebSocket, WebSocketAccepted};

use crate::sys;

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
#[derive(Clone)]
#[non_exhaustive]
pub struct LinkOptions {
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How many bytes a frame of the peer's may have.
    pub max_message_size: usize,
    pub(in crate::session) framing: Framings,
}

impl LinkOptions {
    /// Finds frames in a stream of bytes, as the session's
    /// [`framing`](super::SessionBuilder::framing) says: for a [`Connect`] of one's own.
    ///
    /// ```
    /// use std::os::unix::net::UnixStream;
    ///
    /// use sessile::session::duplex::{Connect, Link, LinkOptions};
    ///
    /// struct Pair(Option<UnixStream>);
    ///
    /// impl Connect for Pair {
    ///     fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
    ///         let (ours, theirs) = UnixStream::pair()?;
    ///         self.0 = Some(theirs);
    ///         Ok(options.framed(ours)?)
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// If the stream cannot be set to non-blocking mode.
    pub fn framed<S>(&self, stream: S) -> io::Result<Box<dyn Link>>
    where
        S: Read + Write + AsFd + Send + 'static,
    {
        sys::set_nonblocking(&stream.as_fd())?;
        let framed = Framed::<S, S>::new(stream, None, self);
        Ok(Box::new(framed.read_until_it_would_block()))
    }
}

impl fmt::Debug for LinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkOptions")
            .field("connect_timeout", &self.connect_timeout)
            .field("max_message_size", &self.max_message_size)
            .finish_non_exhaustive()
    }
}

/// A frame of the peer's that was over the limit, and was passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Oversized {
    /// How many bytes it had.
    pub size: usize,
    /// Its first bytes.
    pub head: Vec<u8>,
    /// Its last bytes.
    pub tail: Vec<u8>,
    /// What its first two levels say in short, if it is a JSON object: names, numbers and short texts.
    /// Empty where the transport does not tell.
    pub outline: Vec<u8>,
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
    /// As [`UnexpectedEof`](io::ErrorKind::UnexpectedEof), if the peer will say no more: what it has
    /// asked for is still answered. Any other error is the end of the connection.
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

    /// Takes note of the frames that the last [`read`](Self::read) has passed over, for they were over
    /// the limit.
    fn take_oversized(&mut self) -> Vec<Oversized> {
        Vec::new()
    }

    /// Queues something that the peer answers by itself, so that it is heard. `false`: there is no such
    /// thing here.
    fn ping(&mut self) -> bool {
        false
    }

    /// Says good-bye, all that was queued being written or given up, and sees to the end of what was
    /// started to end, within this time.
    fn close(&mut self, within: Duration) {
        let _ = within;
    }

    /// How much of the time for closing a session is to be left to [`close`](Self::close).
    fn close_takes(&self, within: Duration) -> Duration {
        let _ = within;
        Duration::ZERO
    }
}
