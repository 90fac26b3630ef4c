//! Lines over standard input and output: our own, or a child's.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::Context;

use super::{Connect, Lines, Link, LinkOptions};
use crate::sys;

/// What a pipe takes without blocking once it is writable, by POSIX.
const PIPE_BUF: usize = 4096;

/// This process's own standard input and output, a frame being a line.
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
        let lines = Lines::new(Careful(input.into()), Some(Careful(output.into())), options);
        Ok(Box::new(lines.write_at_most(PIPE_BUF)))
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

impl Read for &Careful {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.ask(sys::readable(&self.0))?;
        (&self.0).read(buf)
    }
}

impl Write for &Careful {
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

/// A child process that is started for the session, a frame being a line of its standard input or
/// output.
///
/// The child is killed and reaped when the session loses it or closes; on Linux it also ends when the
/// session's thread does, however that may be. Its standard error is what the command says.
#[derive(Debug)]
pub struct ChildStdio {
    command: Command,
}

impl ChildStdio {
    /// The child that this command starts. Its standard input and output are set here.
    #[must_use]
    pub fn new(mut command: Command) -> Self {
        sys::detach_and_bind(&mut command);
        Self { command }
    }
}

impl Connect for ChildStdio {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        // One socket for both, which does not block on our side and does on the child's.
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let theirs = OwnedFd::from(theirs);
        self.command.stdin(theirs.try_clone()?).stdout(theirs);
        let spawned = self.command.spawn();
        // The command would keep its ends open, and nobody would see the child's end.
        self.command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let program = || format!("starting {}", self.command.get_program().to_string_lossy());
        let child = Reaped(spawned.with_context(program)?);
        let lines = Lines::<_, UnixStream>::new(ours, None, options);
        Ok(Box::new(WithChild { lines, _child: child }))
    }

    /// The child is to end with the thread that starts it, which has to be the session's.
    fn blocks(&self) -> bool {
        false
    }
}

struct WithChild {
    lines: Lines<UnixStream, UnixStream>,
    _child: Reaped,
}

impl Link for WithChild {
    fn sources(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        self.lines.sources()
    }

    fn read(&mut self, frame: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        self.lines.read(frame)
    }

    fn queue(&mut self, frame: &[u8]) -> io::Result<()> {
        self.lines.queue(frame)
    }

    fn flush(&mut self) -> io::Result<usize> {
        self.lines.flush()
    }
}

/// A child that is killed, with what it has started, when it is dropped.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Ok(pid) = self.0.id().try_into() {
            let pid: libc::pid_t = pid;
            // It leads a session of its own, and has not been reaped: the number is still its.
            sys::kill(-pid, libc::SIGKILL);
        }
        let _ = self.0.wait(); // killed, so that this is a moment
    }
}
