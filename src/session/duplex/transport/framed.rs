//! Frames over a stream of bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::framing::{Framing, Next};
use super::{Link, LinkOptions, Oversized};
use crate::session::outline::Outline;

/// So much is read at once, where much comes.
const READ: usize = 64 * 1024;
/// And at first: most sessions say little, and there may be many.
const READ_LITTLE: usize = 4 * 1024;

/// A stream to read from that does not block.
pub(in crate::session) trait Reads: Read + AsFd + Send {}
impl<R: Read + AsFd + Send> Reads for R {}
/// A stream to write to that does not block.
pub(in crate::session) trait Writes: Write + AsFd + Send {}
impl<W: Write + AsFd + Send> Writes for W {}

/// Frames over anything that does not block, found as the framing says.
pub(in crate::session) struct Framed<R, W = R> {
    reader: R,
    /// `None`: the reader is the writer too.
    writer: Option<W>,
    deframer: Deframer,
    out: Vec<u8>,
    written: usize,
    /// What was written has to be flushed still.
    to_flush: bool,
    /// What had been read before this was made.
    rest: Vec<u8>,
    /// So much is written at once; a pipe that may block has this much room once it is writable.
    chunk: usize,
    /// A short read says that nothing is left: so it is with the system's own streams.
    short_is_all: bool,
}

impl<R, W> Framed<R, W> {
    pub(in crate::session) fn new(reader: R, writer: Option<W>, options: &LinkOptions) -> Self {
        Self {
            reader,
            writer,
            deframer: Deframer::new(options.framing.make(), options.max_message_size),
            out: Vec::new(),
            written: 0,
            to_flush: false,
            rest: Vec::new(),
            chunk: usize::MAX,
            short_is_all: true,
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

    /// The stream may have more to give than its descriptor tells of, as one with TLS has.
    pub(super) fn read_until_it_would_block(mut self) -> Self {
        self.short_is_all = false;
        self
    }

    pub(super) fn reader(&self) -> &R {
        &self.reader
    }
}

impl<R: Reads + Write, W: Writes> Framed<R, W> {
    fn write(&mut self) -> io::Result<usize> {
        let rest = &self.out[self.written..];
        let rest = &rest[..rest.len().min(self.chunk)];
        match &mut self.writer {
            Some(writer) => writer.write(rest),
            None => self.reader.write(rest),
        }
    }

    fn flush_stream(&mut self) -> io::Result<()> {
        match &mut self.writer {
            Some(writer) => writer.flush(),
            None => self.reader.flush(),
        }
    }
}

impl<R: Reads + Write, W: Writes> Link for Framed<R, W> {
    fn sources(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        let own = |source: BorrowedFd<'_>| source.try_clone_to_owned();
        let writer = self.writer.as_ref().map(|writer| own(writer.as_fd())).transpose()?;
        Ok((own(self.reader.as_fd())?, writer))
    }

    fn read(&mut self, frame: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        let room = self.deframer.room();
        if !self.rest.is_empty() {
            let read = self.rest.len().min(room.len());
            room[..read].copy_from_slice(&self.rest[..read]);
            self.rest.drain(..read);
            self.deframer.take(read, frame)?;
            return Ok(true);
        }
        match self.reader.read(room) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                let may_have_more = read == room.len() || !self.short_is_all;
                self.deframer.take(read, frame)?;
                Ok(may_have_more)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn take_oversized(&mut self) -> Vec<Oversized> {
        std::mem::take(&mut self.deframer.oversized)
    }

    fn queue(&mut self, frame: &[u8]) -> io::Result<()> {
        self.deframer.framing.encode(frame, &mut self.out);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<usize> {
        while self.written < self.out.len() {
            match self.write() {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.written += written;
                    self.to_flush = true;
                }
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
        if self.to_flush {
            match self.flush_stream() {
                Ok(()) => self.to_flush = false,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        // One byte more to be watched for, if only the stream itself has something left.
        Ok((self.out.len() - self.written).max(usize::from(self.to_flush)))
    }
}

/// So much of a frame that is over the limit is kept, for who wants to know whose it is.
const HEAD: usize = 1024;
const TAIL: usize = 256;

/// Finds the frames in what comes in pieces, without copying them.
pub(crate) struct Deframer {
    framing: Box<dyn Framing>,
    buffer: Vec<u8>,
    /// So much is read at once.
    read: usize,
    /// The bytes that are not used yet lie in front, up to here.
    filled: usize,
    /// So many of them the framing has seen.
    seen: usize,
    /// The frame that they begin with, once that is known.
    next: Option<(usize, usize, usize)>,
    /// The frame that is over the limit, and is being passed over.
    passing: Option<Passing>,
    oversized: Vec<Oversized>,
    max: usize,
}

#[derive(Default)]
struct Passing {
    frame: Oversized,
    outline: Outline,
    /// So many bytes are still to come; `None`: up to what the framing says.
    left: Option<usize>,
}

impl Passing {
    fn take(&mut self, bytes: &[u8]) {
        self.outline.take(bytes);
        let Oversized { size, head, tail, .. } = &mut self.frame;
        *size += bytes.len();
        head.extend_from_slice(&bytes[..bytes.len().min(HEAD.saturating_sub(head.len()))]);
        tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL)..]);
        tail.drain(..tail.len().saturating_sub(TAIL));
    }

    fn finish(self) -> Oversized {
        Oversized { outline: self.outline.finish(), ..self.frame }
    }
}

impl Deframer {
    pub(crate) fn new(framing: Box<dyn Framing>, max: usize) -> Self {
        Self {
            framing,
            buffer: Vec::new(),
            read: READ_LITTLE,
            filled: 0,
            seen: 0,
            next: None,
            passing: None,
            oversized: Vec::new(),
            max,
        }
    }

    /// Where the next bytes go.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.buffer.len() < self.filled + self.read {
            self.buffer.resize(self.filled + self.read, 0);
        }
        &mut self.buffer[self.filled..]
    }

    /// So many bytes came.
    pub(crate) fn take(&mut self, read: usize, frame: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        if self.filled + read == self.buffer.len() {
            self.read = (self.read * 4).min(READ); // there was no room for more
        }
        self.filled += read;
        let mut begun = 0;
        while begun < self.filled {
            let bytes = &self.buffer[begun..self.filled];
            if let Some(Passing { left: Some(left), .. }) = &mut self.passing {
                // Also what ends it, which is no part of it; that does no harm.
                let passed = bytes.len().min(*left);
                *left -= passed;
                let is_over = *left == 0;
                if let Some(passing) = &mut self.passing {
                    passing.take(&bytes[..passed]);
                }
                begun += passed;
                if is_over {
                    self.oversized.extend(self.passing.take().map(Passing::finish));
                }
                continue;
            }
            let next = match self.next {
                Some((begin, length, end)) => Next::Frame { begin, length, end },
                None => self.framing.decode(bytes, self.seen)?,
            };
            match next {
                Next::Skip(0) => {
                    let what = "the framing would pass over nothing, again and again";
                    return Err(io::Error::new(ErrorKind::InvalidData, what));
                }
                Next::Skip(bytes) => {
                    // It ends what was being passed over, if that had no end yet.
                    self.oversized.extend(self.passing.take().map(Passing::finish));
                    self.seen = 0;
                    begun = self.filled.min(begun + bytes);
                }
                Next::Frame { begin, length, end } if self.passing.is_some() => {
                    // The end of what was begun to be passed over.
                    let rest = bytes.get(begin..begin + length).unwrap_or_default();
                    if let Some(mut passing) = self.passing.take() {
                        passing.take(rest);
                        self.oversized.push(passing.finish());
                    }
                    self.seen = 0;
                    begun = self.filled.min(begun + end);
                }
                Next::Frame { begin, length, end } if length > self.max => {
                    self.next = None;
                    self.seen = 0;
                    let left = Some(end.saturating_sub(begin));
                    self.passing = Some(Passing { left, ..Passing::default() });
                    begun += begin.min(bytes.len());
                }
                Next::Frame { begin, length, end } if end <= bytes.len() => {
                    self.next = None;
                    self.seen = 0;
                    frame(bytes.get(begin..begin + length).unwrap_or_default());
                    begun += end.max(1);
                }
                Next::Frame { begin, length, end } => {
                    self.next = Some((begin, length, end));
                    break;
                }
                Next::More => {
                    self.seen = bytes.len();
                    // What ends it may come next: a carriage return is no part of a line.
                    if self.passing.is_some() || bytes.len() > self.max.saturating_add(SLACK) {
                        self.passing.get_or_insert_default().take(bytes);
                        begun = self.filled;
                        self.seen = 0;
                    }
                    break;
                }
            }
        }
        self.buffer.copy_within(begun..self.filled, 0);
        self.filled -= begun;
        if self.filled == 0 && self.buffer.len() > 4 * READ {
            self.buffer = Vec::new(); // a large frame leaves no large buffer behind
            self.read = READ_LITTLE;
        }
        Ok(())
    }

    /// How many bytes it keeps of a frame that has not ended, and how many it has room for.
    #[cfg(fuzzing)]
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.filled, self.buffer.capacity())
    }

    /// How large the frames were that were passed over.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn passed_over(&mut self) -> Vec<Oversized> {
        std::mem::take(&mut self.oversized)
    }
}

/// So much may come before a frame, as a header, or end it.
pub(crate) const SLACK: usize = 8 << 10;

/// The next line feed. Written so that the compiler compares many bytes at once.
pub(super) fn find(bytes: &[u8]) -> Option<usize> {
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
    use crate::session::duplex::transport::framing::{ContentLength, Framings, Lines};

    /// The frames of these bytes, in pieces of this size; and what was passed over.
    fn split(
        framing: impl Framing,
        bytes: &[u8],
        piece: usize,
        max: usize,
    ) -> io::Result<(Vec<String>, Vec<Oversized>)> {
        let mut deframer = Deframer::new(Box::new(framing), max);
        let mut frames = Vec::new();
        for mut piece in bytes.chunks(piece) {
            while !piece.is_empty() {
                let room = deframer.room();
                let (now, later) = piece.split_at(piece.len().min(room.len()));
                room[..now.len()].copy_from_slice(now);
                deframer.take(now.len(), &mut |frame| {
                    frames.push(String::from_utf8(frame.to_vec()).unwrap());
                })?;
                piece = later;
            }
        }
        Ok((frames, deframer.passed_over()))
    }

    #[test]
    fn a_line_is_the_same_however_it_is_cut() {
        let long = "x".repeat(300);
        let bytes = format!("one\n\n\ntwo\r\n{long}\n\r\nthree\nrest");
        for piece in 1..=bytes.len() {
            let (frames, _) = split(Lines::new(), bytes.as_bytes(), piece, 1000).unwrap();
            assert_eq!(frames, ["one", "two", &long, "three"], "in pieces of {piece}");
        }
    }

    #[test]
    fn a_frame_after_its_length_is_the_same_however_it_is_cut() {
        let bytes = "Content-Length: 3\r\n\r\none\r\ncontent-length:5\r\nX: y\r\n\r\n\r\ntwo\
            Starting up\nContent-Length: 0\r\n\r\nContent-Type: z\nContent-Length: 1\n\n!Cont";
        for piece in 1..=bytes.len() {
            let (frames, _) = split(ContentLength::new(), bytes.as_bytes(), piece, 1000).unwrap();
            assert_eq!(frames, ["one", "\r\ntwo", "", "!"], "in pieces of {piece}");
        }
    }

    #[test]
    fn a_header_without_a_length_or_with_a_bad_one_breaks_the_stream() {
        let bad =
            ["Content-Length: -1\n", "Content-Length: 1\nContent-Length: 2\n", "Content-Length:\n"];
        for header in bad.map(str::to_owned).into_iter().chain(["x".repeat(9000)]) {
            split(ContentLength::new(), header.as_bytes(), 100, 1000).expect_err(&header);
        }
        let huge = format!("Content-Length: {}\n\n", u64::MAX);
        split(ContentLength::new(), huge.as_bytes(), 100, 1000).unwrap_err();
    }

    #[test]
    fn a_frame_over_the_limit_is_passed_over_and_reading_goes_on() {
        let long = format!("{}{}", "a".repeat(30_000), "z".repeat(30_000));
        let lines = format!("12345678\n123456789\n{long}\r\n12345678\r\n");
        let framed = |text: &str| format!("Content-Length: {}\r\n\r\n{text}", text.len());
        let after = ["12345678", "123456789", &long, "12345678"].map(framed).concat();
        let check = |frames: Vec<String>, over: Vec<Oversized>, piece| {
            assert_eq!(frames, ["12345678", "12345678"], "in pieces of {piece}");
            let [small, large] = &*over else { panic!("{over:?} in pieces of {piece}") };
            assert!((9..=10).contains(&small.size), "{}", small.size);
            assert!(small.head.starts_with(b"123456789"));
            assert!((60_000..=60_002).contains(&large.size), "{}", large.size);
            assert!(large.head.len() == HEAD && large.head.iter().all(|byte| *byte == b'a'));
            assert!(large.tail.len() == TAIL && large.tail[..200].iter().all(|byte| *byte == b'z'));
        };
        for piece in [1, 7, 9, 1000, 60_000, 1 << 16] {
            let (frames, over) = split(Lines::new(), lines.as_bytes(), piece, 8).unwrap();
            check(frames, over, piece);
            let (frames, over) = split(ContentLength::new(), after.as_bytes(), piece, 8).unwrap();
            check(frames, over, piece);
        }
    }

    /// A peer that reads, but never all there is.
    #[test]
    fn what_was_written_does_not_stay_in_the_memory() {
        use std::os::unix::net::UnixStream;

        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let options = LinkOptions {
            connect_timeout: std::time::Duration::MAX,
            max_message_size: 1 << 20,
            framing: Framings::of(Lines::new()),
        };
        let mut lines = Framed::<_, UnixStream>::new(ours, None, &options);
        let (frame, mut read) = (vec![b'x'; 64 << 10], vec![0; 64 << 10]);
        let (mut written, mut left) = (0_usize, 0);
        while written < 64 << 20 {
            while left < 1 << 20 {
                lines.queue(&frame).unwrap();
                left = lines.flush().unwrap();
            }
            theirs.read_exact(&mut read).unwrap();
            written += read.len();
            left = lines.flush().unwrap();
            assert!(left > 0, "it was never behind");
        }
        assert!(lines.out.capacity() <= 8 << 20, "{} bytes are kept", lines.out.capacity());
    }
}
