//! A frame is a line.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use super::{Link, LinkOptions};

/// So much is read at once.
const READ: usize = 64 * 1024;

/// Frames that end with a line feed, over anything that does not block.
pub(in crate::session) struct Lines<R, W> {
    reader: R,
    /// `None`: the reader is the writer too.
    writer: Option<W>,
    splitter: Splitter,
    out: Vec<u8>,
    written: usize,
    terminator: &'static str,
    /// What had been read before this was made.
    rest: Vec<u8>,
    /// So much is written at once; a pipe that may block has this much room once it is writable.
    chunk: usize,
}

impl<R, W> Lines<R, W> {
    pub(in crate::session) fn new(reader: R, writer: Option<W>, options: &LinkOptions) -> Self {
        Self {
            reader,
            writer,
            splitter: Splitter::new(options.max_frame),
            out: Vec::new(),
            written: 0,
            terminator: options.terminator,
            rest: Vec::new(),
            chunk: usize::MAX,
        }
    }

    /// Begins with what has been read already.
    #[cfg(feature = "dify")]
    pub(in crate::session) fn after(mut self, rest: Vec<u8>) -> Self {
        self.rest = rest;
        self
    }

    pub(in crate::session) fn write_at_most(mut self, chunk: usize) -> Self {
        self.chunk = chunk;
        self
    }
}

impl<R, W> Link for Lines<R, W>
where
    R: AsFd + Send,
    W: AsFd + Send,
    for<'a> &'a R: Read + Write,
    for<'a> &'a W: Write,
{
    fn sources(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        let own = |source: std::os::fd::BorrowedFd<'_>| source.try_clone_to_owned();
        let writer = self.writer.as_ref().map(|writer| own(writer.as_fd())).transpose()?;
        Ok((own(self.reader.as_fd())?, writer))
    }

    fn read(&mut self, frame: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        let room = self.splitter.room();
        if !self.rest.is_empty() {
            let read = self.rest.len().min(room.len());
            room[..read].copy_from_slice(&self.rest[..read]);
            self.rest.drain(..read);
            self.splitter.take(read, frame)?;
            return Ok(true);
        }
        match (&self.reader).read(room) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                let full = read == room.len();
                self.splitter.take(read, frame)?;
                Ok(full)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn queue(&mut self, frame: &[u8]) -> io::Result<()> {
        self.out.extend_from_slice(frame);
        self.out.extend_from_slice(self.terminator.as_bytes());
        Ok(())
    }

    fn flush(&mut self) -> io::Result<usize> {
        while self.written < self.out.len() {
            let rest = &self.out[self.written..];
            let rest = &rest[..rest.len().min(self.chunk)];
            let written = match &self.writer {
                Some(writer) => { writer }.write(rest),
                None => (&self.reader).write(rest),
            };
            match written {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if self.chunk != usize::MAX {
                break; // whether there is room for another chunk, the poller tells
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
            self.out.shrink_to(READ); // a large frame leaves no large buffer behind
        } else if self.written > self.out.len() / 2 {
            // A peer that is never quite served: each byte moves once on average.
            self.out.drain(..self.written);
            self.written = 0;
        }
        Ok(self.out.len() - self.written)
    }
}

/// Finds the lines in what comes in pieces, without copying them.
pub(crate) struct Splitter {
    buffer: Vec<u8>,
    /// The bytes of a line that has not ended yet lie in front, up to here.
    filled: usize,
    /// So many of them are known to hold no line feed.
    searched: usize,
    max_frame: usize,
}

impl Splitter {
    pub(crate) fn new(max_frame: usize) -> Self {
        Self { buffer: Vec::new(), filled: 0, searched: 0, max_frame }
    }

    /// Where the next bytes go.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.buffer.len() < self.filled + READ {
            self.buffer.resize(self.filled + READ, 0);
        }
        &mut self.buffer[self.filled..]
    }

    /// So many bytes came.
    pub(crate) fn take(&mut self, read: usize, frame: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.filled += read;
        let mut begun = 0;
        while let Some(found) = find(&self.buffer[self.searched..self.filled]) {
            let end = self.searched + found;
            let line = without_return(&self.buffer[begun..end]);
            if line.len() > self.max_frame {
                return Err(self.too_large());
            }
            if !line.is_empty() {
                frame(line);
            }
            begun = end + 1;
            self.searched = begun;
        }
        self.buffer.copy_within(begun..self.filled, 0);
        self.filled -= begun;
        self.searched = self.filled;
        // Its line feed may come next: what is cut there is no larger for that.
        if without_return(&self.buffer[..self.filled]).len() > self.max_frame {
            return Err(self.too_large());
        }
        if self.filled == 0 && self.buffer.len() > 4 * READ {
            self.buffer = Vec::new(); // a large frame leaves no large buffer behind
        }
        Ok(())
    }

    /// How many bytes it keeps of a line that has not ended, and how many it has room for.
    #[cfg(fuzzing)]
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.filled, self.buffer.capacity())
    }

    fn too_large(&self) -> io::Error {
        let limit = self.max_frame;
        io::Error::new(
            ErrorKind::InvalidData,
            format!("a frame is over the limit of {limit} bytes"),
        )
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The next line feed. Written so that the compiler compares many bytes at once.
fn find(bytes: &[u8]) -> Option<usize> {
    const STEP: usize = 64;
    let mut at = 0;
    for chunk in bytes.chunks_exact(STEP) {
        if chunk.iter().fold(false, |found, byte| found | (*byte == b'\n')) {
            break;
        }
        at += STEP;
    }
    bytes[at..].iter().position(|byte| *byte == b'\n').map(|found| at + found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frames of these bytes, in pieces of this size.
    fn split(bytes: &[u8], piece: usize, max_frame: usize) -> io::Result<Vec<String>> {
        let mut splitter = Splitter::new(max_frame);
        let mut frames = Vec::new();
        for piece in bytes.chunks(piece) {
            splitter.room()[..piece.len()].copy_from_slice(piece);
            splitter.take(piece.len(), &mut |frame| {
                frames.push(String::from_utf8(frame.to_vec()).unwrap());
            })?;
        }
        Ok(frames)
    }

    #[test]
    fn a_frame_is_the_same_however_it_is_cut() {
        let long = "x".repeat(300);
        let bytes = format!("one\n\n\ntwo\r\n{long}\n\r\nthree\nrest");
        for piece in 1..=bytes.len() {
            let frames = split(bytes.as_bytes(), piece, 1000).unwrap();
            assert_eq!(frames, ["one", "two", &long, "three"], "in pieces of {piece}");
        }
    }

    /// A peer that reads, but never all there is.
    #[test]
    fn what_was_written_stays_in_the_memory() {
        use std::os::unix::net::UnixStream;

        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let options = LinkOptions {
            connect_timeout: std::time::Duration::MAX,
            max_frame: 1 << 20,
            terminator: "\n",
        };
        let mut lines = Lines::<_, UnixStream>::new(ours, None, &options);
        let (frame, mut read) = (vec![b'x'; 64 << 10], vec![0; 64 << 10]);
        let (mut written, mut left) = (0_usize, 0);
        while written < 64 << 20 {
            while left < 1 << 20 {
                lines.queue(&frame).unwrap();
                left = lines.flush().unwrap();
            }
            (&theirs).read_exact(&mut read).unwrap();
            written += read.len();
            left = lines.flush().unwrap();
            assert!(left > 0, "it was never behind");
        }
        assert!(lines.out.capacity() <= 8 << 20, "{} bytes are kept", lines.out.capacity());
    }

    #[test]
    fn a_frame_over_the_limit_is_an_error_before_it_ends() {
        for piece in [1, 7, 9, 100] {
            assert_eq!(split(b"12345678\n", piece, 8).unwrap(), ["12345678"]);
            assert_eq!(split(b"12345678\r\n", piece, 8).unwrap(), ["12345678"]);
            split(b"12345678\rx", piece, 8).unwrap_err();
            split(b"123456789\n", piece, 8).unwrap_err();
            split(b"1\n123456789", piece, 8).unwrap_err();
        }
    }
}
