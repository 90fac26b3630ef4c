//! Frames over this process's own standard input and output.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::Context;

use super::{Connect, Framed, Link, LinkOptions};
use crate::sys;

/// What a pipe takes without blocking once it is writable, by POSIX.
const PIPE_BUF: usize = 4096;

/// This process's own standard input and output.
///
/// When standard input ends, what was asked is still answered; then the session is closed:
///
/// ```no_run
/// use std::time::Duration;
///
/// use sessile::session::JsonRpc;
/// use sessile::session::duplex::{Session, Stdio};
///
/// let session = Session::builder(JsonRpc::new())
///     .on_request(|request| drop(request.respond("hello")))
///     .connect(Stdio::new())?;
/// while !session.wait_closed(Duration::from_secs(3600)) {}
/// # Ok::<(), sessile::session::SessionError>(())
/// ```
///
/// Nothing else may write to standard output then. Both have to be pipes, sockets or terminals. They
/// are left in blocking mode, for others may share them; no more is read or written than does not
/// block.
#[derive(Debug, Default)]
pub struct Stdio {
    used: bool,
}

impl Stdio {
    /// This process's own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Connect for Stdio {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        anyhow::ensure!(!std::mem::replace(&mut self.used, true), "they have been used already");
        let input = io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
        let output = io::stdout().as_fd().try_clone_to_owned().context("standard output")?;
        let frames = Framed::new(Careful(input.into()), Some(Careful(output.into())), options);
        Ok(Box::new(frames.write_at_most(PIPE_BUF)))
    }

    fn blocks(&self) -> bool {
        false
    }

    fn can_reconnect(&self) -> bool {
        false
    }
}

/// A descriptor in blocking mode, which is asked first whether it would block.
struct Careful(File);

impl Careful {
    fn ask(&self, mut watched: sys::Watched) -> io::Result<()> {
        sys::poll(std::slice::from_mut(&mut watched), Duration::ZERO)?;
        if watched.revents == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }
}

impl Read for Careful {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.ask(sys::readable(&self.0))?;
        (&self.0).read(buf)
    }
}

impl Write for Careful {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.ask(sys::writable(&self.0))?;
        (&self.0).write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Careful {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
