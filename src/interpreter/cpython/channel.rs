//! What connects us with a child: pipes for requests, for frames and for interrupts, and a socket.
//!
//! Pipes carry the bytes, since a round trip over them takes two thirds of the time that it takes
//! over a socket. Only descriptors need the socket, and nothing else goes over it.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::target::Interrupts;
use crate::sys::{self, Watched};

#[derive(Debug)]
pub(super) struct Channel {
    requests: PipeWriter,
    /// Held, not read: without it, writing to a child that has ended would raise SIGPIPE.
    requests_end: PipeReader,
    frames: PipeReader,
    passage: UnixStream,
}

impl Channel {
    /// Our side, who interrupts it, and the socket that is to be the child's standard input; its ends of
    /// the pipes are waiting there for it.
    pub(super) fn new() -> io::Result<(Self, Interrupts, UnixStream)> {
        let (passage, theirs) = UnixStream::pair()?;
        passage.set_nonblocking(true)?;
        let (requests_end, requests) = io::pipe()?;
        let (frames, frames_end) = io::pipe()?;
        sys::set_nonblocking(&requests)?;
        sys::set_nonblocking(&frames)?;
        let interrupts = Interrupts::new()?;
        let ends = [requests_end.as_fd(), frames_end.as_fd(), interrupts.end()];
        sys::pass(passage.as_fd(), ends)?;
        Ok((Self { requests, requests_end, frames, passage }, interrupts, theirs))
    }

    /// Gives the child copies of two descriptors, which it takes when a request says so.
    pub(super) fn pass(&self, fds: [BorrowedFd<'_>; 2]) -> io::Result<()> {
        sys::pass(self.passage.as_fd(), fds)
    }

    /// Writes what there is room for.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&self.requests).write(bytes)
    }

    /// Whether something of what was written has not been taken.
    pub(super) fn is_waiting(&self) -> bool {
        let mut watched = [sys::readable(&self.requests_end)];
        sys::poll(&mut watched, Duration::ZERO).is_ok() && watched[0].revents != 0
    }

    /// Reads what there is of frames. All of it, if the buffer is as large as a pipe.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.frames).read(buffer)
    }

    pub(super) fn writable(&self) -> Watched {
        sys::writable(&self.requests)
    }

    pub(super) fn readable(&self) -> Watched {
        sys::readable(&self.frames)
    }
}
