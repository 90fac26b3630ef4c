//! How frames lie in a stream of bytes.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::framed::find;

/// How frames lie in a stream of bytes: where one begins and where it ends.
///
/// [`Lines`] and [`ContentLength`] are supplied; another is a few lines. A frame's bytes are the
/// protocol's, and none of a framing's business.
///
/// ```
/// use std::io;
///
/// use sessile::session::duplex::{Framing, Next};
///
/// /// Each frame after its length, in four bytes.
/// #[derive(Clone)]
/// struct LengthPrefix;
///
/// impl Framing for LengthPrefix {
///     fn encode(&mut self, frame: &[u8], out: &mut Vec<u8>) {
///         out.extend((frame.len() as u32).to_be_bytes());
///         out.extend(frame);
///     }
///
///     fn decode(&mut self, bytes: &[u8], _seen: usize) -> io::Result<Next> {
///         let Some(length) = bytes.first_chunk::<4>() else { return Ok(Next::More) };
///         let length = u32::from_be_bytes(*length) as usize;
///         Ok(Next::Frame { begin: 4, length, end: 4 + length })
///     }
/// }
///
/// let session = sessile::session::duplex::Session::builder(sessile::session::JsonRpc::new())
///     .framing(LengthPrefix);
/// # drop(session);
/// ```
pub trait Framing: Send + 'static {
    /// Appends a frame to `out`, with all that tells the peer where it begins and ends.
    fn encode(&mut self, frame: &[u8], out: &mut Vec<u8>);

    /// Says what lies at the beginning of `bytes`, which have come and are not used yet. The first
    /// `seen` of them it was shown before, and asked for more.
    ///
    /// A frame may be told of before all of it has come: then it is waited for or, if it is over the
    /// session's limit, passed over. One that is over the limit and whose end is not known is thrown
    /// away as it comes; what of it comes last is asked for as a frame.
    ///
    /// # Errors
    ///
    /// If no frame can be found in this stream any more. That ends the connection.
    fn decode(&mut self, bytes: &[u8], seen: usize) -> io::Result<Next>;
}

/// What lies at the beginning of the bytes that have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// That cannot be told before more has come.
    More,
    /// So many bytes that are part of no frame.
    Skip(usize),
    /// A frame.
    Frame {
        /// Where it begins.
        begin: usize,
        /// How many bytes it has.
        length: usize,
        /// Where what comes after it begins.
        end: usize,
    },
}

/// Makes the framing of each new stream.
#[derive(Clone)]
pub(in crate::session) struct Framings(Arc<dyn Fn() -> Box<dyn Framing> + Send + Sync>);

impl Framings {
    pub(in crate::session) fn of(framing: impl Framing + Clone + Sync) -> Self {
        Self(Arc::new(move || Box::new(framing.clone())))
    }

    pub(in crate::session) fn make(&self) -> Box<dyn Framing> {
        (self.0)()
    }
}

/// A frame is a line: it ends with a line feed, or with what [`ending`](Self::ending) says. Empty lines
/// are passed over, and so is a carriage return before the line feed.
///
/// Line feeds and carriage returns within a frame are written as spaces. In JSON they are nothing but
/// that; a protocol whose frames hold any bytes has to use another framing.
#[derive(Clone, Debug)]
pub struct Lines {
    ending: &'static str,
}

impl Lines {
    /// Lines that end with a line feed.
    #[must_use]
    pub fn new() -> Self {
        Self { ending: "\n" }
    }

    /// The same, whose lines of ours end with this. It has to hold a line feed.
    #[must_use]
    pub fn ending(mut self, ending: &'static str) -> Self {
        self.ending = ending;
        self
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

impl Framing for Lines {
    fn encode(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(frame);
        for byte in &mut out[begin..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        out.extend_from_slice(self.ending.as_bytes());
    }

    fn decode(&mut self, bytes: &[u8], seen: usize) -> io::Result<Next> {
        let Some(found) = find(&bytes[seen..]) else { return Ok(Next::More) };
        let end = seen + found;
        let line = &bytes[..end];
        let length = line.strip_suffix(b"\r").unwrap_or(line).len();
        Ok(match length {
            0 => Next::Skip(end + 1),
            length => Next::Frame { begin: 0, length, end: end + 1 },
        })
    }
}

/// A frame comes after a header that tells its length in bytes, as in the Language Server Protocol and
/// the Debug Adapter Protocol: `Content-Length: 42`, an empty line, and the frame.
///
/// Of the header, other lines are passed over. A stream whose header has no length, or more than 8 KiB,
/// is broken.
///
/// ```no_run
/// use std::process::Command;
///
/// use sessile::session::JsonRpc;
/// use sessile::session::duplex::{ChildStdio, ContentLength, Session};
///
/// let mut command = Command::new("pyright-langserver");
/// command.arg("--stdio");
/// let session = Session::builder(JsonRpc::new())
///     .framing(ContentLength::new())
///     .connect(ChildStdio::new(command))?;
/// # Ok::<(), sessile::session::SessionError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ContentLength {
    _private: (),
}

/// So many bytes a header may have.
const HEADER: usize = 8 << 10;

impl ContentLength {
    /// Frames after a header that tells their length.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

impl Framing for ContentLength {
    fn encode(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", frame.len()).as_bytes());
        out.extend_from_slice(frame);
    }

    fn decode(&mut self, bytes: &[u8], _seen: usize) -> io::Result<Next> {
        // Short, so that it is looked at anew.
        let (mut line, mut length) = (0, None);
        while let Some(found) = find(&bytes[line..bytes.len().min(HEADER)]) {
            let text = bytes[line..line + found].trim_ascii();
            line += found + 1;
            let has_begun = length.is_some();
            if text.is_empty() && has_begun {
                let length: usize = length.unwrap_or_default();
                let end = line.checked_add(length).ok_or_else(|| broken("a length beyond all"))?;
                return Ok(Next::Frame { begin: line, length, end });
            }
            if text.is_empty() {
                return Ok(Next::Skip(line)); // whatever that was, it is no header
            }
            const NAME: &[u8] = b"content-length:";
            let (name, value) = text.split_at(text.len().min(NAME.len()));
            if name.eq_ignore_ascii_case(NAME) {
                let value = std::str::from_utf8(value.trim_ascii()).ok();
                let digits = value.filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
                let told = digits.and_then(|digits| digits.parse().ok());
                let told = told.ok_or_else(|| broken("the Content-Length is no number"))?;
                if length.is_some_and(|before| before != told) {
                    return Err(broken("there are two values of Content-Length"));
                }
                length = Some(told);
            }
        }
        if bytes.len() >= HEADER {
            return Err(broken("there is no Content-Length in 8 KiB"));
        }
        Ok(Next::More)
    }
}
