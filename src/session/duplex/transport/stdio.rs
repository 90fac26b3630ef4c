//! Frames over this process's own standard input and output.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
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
/// Frames have descriptors of their own: what the program prints from then on, and what its libraries
/// and children write to standard output, goes to standard error, and standard input is empty. So
/// nothing gets between the frames, and nobody takes one away. [`shared`](Self::shared) leaves both as
/// they are.
///
/// Both have to be pipes, sockets or terminals. They are left in blocking mode, for other processes may
/// share them; no more is read or written than does not block.
#[derive(Debug, Default)]
pub struct Stdio {
    used: bool,
    is_shared: bool,
}

impl Stdio {
    /// This process's own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This process's own, which are left to others as well. Whatever is printed lies between frames
    /// then, or within one.
    #[must_use]
    pub fn shared() -> Self {
        Self { is_shared: true, ..Self::default() }
    }
}

/// The descriptor, for frames alone.
fn taken(descriptor: BorrowedFd<'_>, what: &str) -> anyhow::Result<File> {
    let own = File::from(descriptor.try_clone_to_owned().context(what.to_owned())?);
    let metadata = own.metadata().context(what.to_owned())?;
    let kind = metadata.file_type();
    if kind.is_fifo() || kind.is_socket() || own.is_terminal() {
        return Ok(own);
    }
    let null = fs::metadata("/dev/null").is_ok_and(|null| null.rdev() == metadata.rdev());
    let is = match () {
        () if kind.is_char_device() && null => "/dev/null",
        () if kind.is_char_device() => "a device",
        () if kind.is_file() => "a file",
        () => "something else",
    };
    anyhow::bail!("{what} is {is}: for a session it has to be a pipe, a socket or a terminal")
}

impl Connect for Stdio {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        anyhow::ensure!(!std::mem::replace(&mut self.used, true), "they have been used already");
        let input = taken(io::stdin().as_fd(), "standard input")?;
        let output = taken(io::stdout().as_fd(), "standard output")?;
        if !self.is_shared {
            let nothing = File::options().read(true).write(true).open("/dev/null");
            let nothing = nothing.context("/dev/null")?;
            sys::redirect(io::stdin().as_fd(), nothing.as_fd()).context("standard input")?;
            // Without a standard error, what is printed is lost.
            sys::redirect(io::stdout().as_fd(), io::stderr().as_fd())
                .or_else(|_| sys::redirect(io::stdout().as_fd(), nothing.as_fd()))
                .context("standard output")?;
        }
        let frames = Framed::new(Careful(input), Some(Careful(output)), options);
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
