//! Frames and messages of RFC 6455, as a client reads and writes them.
//!
//! tungstenite knows the format of a frame. Its own `WebSocket` will not do, for three reasons: it
//! takes each mask from a thread-local generator, which panics where sessions say goodbye, among the
//! destructors of a thread that ends; it looks at a frame only once all of it is there; and it writes
//! what is said to the log.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, Cursor, Read, Write};

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::stream::Stream;

/// How much is read at once, and kept for it.
const CHUNK: usize = 16 << 10;
/// Buffers larger than this are let go of when they are empty.
const LARGE: usize = 4 * CHUNK;
/// The longest header.
const HEADER: usize = 14;
/// Of what may be written while the peer reads nothing, beside one message.
const SLACK: usize = 1 << 20;

pub(super) struct Frames {
    stream: Stream,
    input: Input,
    /// The message that came in part.
    partial: Option<Vec<u8>>,
    output: Vec<u8>,
    /// How much of it is written.
    written: usize,
    masks: Masks,
    max_message_size: usize,
    max_frame_size: usize,
}

/// What the peer says.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close { code: Option<u16>, reason: String },
}

#[derive(Debug)]
pub(super) enum FrameError {
    /// `WouldBlock` among them: the patience that the socket was given is at an end.
    Io(io::Error),
    /// The end of the stream.
    HungUp,
    TooLarge {
        size: usize,
        limit: usize,
    },
    Malformed(&'static str),
    /// The peer has read nothing for too long.
    Deaf,
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl FrameError {
    pub(super) fn would_block(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Frames {
    /// `rest` was read with what came before the first frame.
    pub(super) fn new(
        stream: Stream,
        rest: &[u8],
        max_message_size: usize,
        max_frame_size: usize,
    ) -> Self {
        Self {
            stream,
            input: Input::new(rest),
            partial: None,
            output: Vec::new(),
            written: 0,
            masks: Masks::new(),
            max_message_size,
            max_frame_size,
        }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    // ---- writing ------------------------------------------------------------------------------

    /// Takes a frame that is a whole message. It leaves with the next [`flush`](Self::flush).
    pub(super) fn put(&mut self, opcode: OpCode, payload: &[u8]) -> Result<(), FrameError> {
        let waiting = self.output.len() - self.written;
        let most = self.max_message_size.saturating_add(SLACK);
        if waiting.saturating_add(payload.len()) > most {
            return Err(FrameError::Deaf);
        }
        if self.written > 0 {
            self.output.drain(..self.written);
            self.written = 0;
        }
        let mask = self.masks.next();
        let header = FrameHeader { opcode, mask: Some(mask), ..FrameHeader::default() };
        let length = payload.len();
        self.output.reserve(HEADER + length);
        header.format(length as u64, &mut self.output).expect("writing to memory");
        let begin = self.output.len();
        self.output.extend_from_slice(payload);
        apply(mask, &mut self.output[begin..]);
        Ok(())
    }

    pub(super) fn has_unwritten(&self) -> bool {
        self.written < self.output.len()
    }

    /// Writes what there is to write.
    pub(super) fn flush(&mut self) -> Result<(), FrameError> {
        while self.has_unwritten() {
            match self.stream.write(&self.output[self.written..])? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                more => self.written += more,
            }
        }
        self.output.clear();
        self.output.shrink_to(LARGE);
        self.written = 0;
        Ok(self.stream.flush()?)
    }

    // ---- reading ------------------------------------------------------------------------------

    /// The next message. What has come of it stays, if the socket's patience ends before.
    pub(super) fn read(&mut self) -> Result<Message, FrameError> {
        loop {
            match self.parse()? {
                Some(message) => return Ok(message),
                None => self.input.fill(&mut self.stream)?,
            }
        }
    }

    /// Takes a frame from the input, if all of it is there, and a message, if it was the last of one.
    /// What is wrong with a frame is seen in its header, before memory or time is spent on it.
    fn parse(&mut self) -> Result<Option<Message>, FrameError> {
        loop {
            let malformed = |what| Err(FrameError::Malformed(what));
            let mut cursor = Cursor::new(self.input.unread());
            let (header, length) = match FrameHeader::parse(&mut cursor) {
                Ok(Some(parsed)) => parsed,
                Ok(None) => return Ok(None),
                Err(_) => return malformed("a frame of no known kind"),
            };
            let begin = cursor.position() as usize;
            if header.rsv1 || header.rsv2 || header.rsv3 {
                return malformed("a frame with an extension that was not agreed on");
            }
            if header.mask.is_some() {
                return malformed("a frame with a mask");
            }
            let so_far = self.partial.as_ref().map_or(0, Vec::len);
            let limit = match (header.opcode, &self.partial) {
                (OpCode::Control(_), _) if !header.is_final || length > 125 => {
                    return malformed("a control frame that is too long or comes in pieces");
                }
                (OpCode::Control(_), _) => 125,
                (OpCode::Data(Data::Binary), _) => return malformed("a binary frame"),
                (OpCode::Data(Data::Text), Some(_)) => {
                    return malformed("a new message in the midst of another");
                }
                (OpCode::Data(Data::Continue), None) => {
                    return malformed("the rest of a message that has not begun");
                }
                (OpCode::Data(_), _) => self.max_frame_size.min(self.max_message_size - so_far),
            };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > limit {
                let limit = self.max_frame_size.min(self.max_message_size);
                return Err(FrameError::TooLarge { size: so_far.saturating_add(length), limit });
            }
            let Some(payload) = self.input.unread().get(begin..begin + length) else {
                self.input.expect(begin + length);
                return Ok(None);
            };
            let message = match header.opcode {
                OpCode::Control(Control::Ping) => Some(Message::Ping(payload.to_vec())),
                OpCode::Control(Control::Pong) => Some(Message::Pong(payload.to_vec())),
                OpCode::Control(_) => Some(close(payload)?),
                OpCode::Data(_) => {
                    let mut whole = self.partial.take().unwrap_or_default();
                    whole.extend_from_slice(payload);
                    if header.is_final {
                        let text = String::from_utf8(whole);
                        let what = FrameError::Malformed("text that is not UTF-8");
                        Some(Message::Text(text.map_err(|_| what)?))
                    } else {
                        self.partial = Some(whole);
                        None
                    }
                }
            };
            self.input.consume(begin + length);
            if message.is_some() {
                return Ok(message);
            }
        }
    }
}

/// What a goodbye says.
fn close(payload: &[u8]) -> Result<Message, FrameError> {
    match payload {
        [] => Ok(Message::Close { code: None, reason: String::new() }),
        [high, low, reason @ ..] => {
            let reason = std::str::from_utf8(reason)
                .map_err(|_| FrameError::Malformed("a goodbye that is not UTF-8"))?;
            let code = u16::from_be_bytes([*high, *low]);
            Ok(Message::Close { code: Some(code), reason: reason.to_owned() })
        }
        [_] => Err(FrameError::Malformed("half a goodbye")),
    }
}

/// What has been read and not yet taken. It grows with what comes, and not with what is announced.
struct Input {
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
    /// How much the frame at hand needs.
    expected: usize,
}

impl Input {
    fn new(rest: &[u8]) -> Self {
        let mut bytes = rest.to_vec();
        bytes.resize(rest.len() + CHUNK, 0);
        Self { bytes, begin: 0, end: rest.len(), expected: 0 }
    }

    fn unread(&self) -> &[u8] {
        &self.bytes[self.begin..self.end]
    }

    fn consume(&mut self, count: usize) {
        self.begin += count;
        self.expected = 0;
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
            if self.bytes.len() > LARGE {
                self.bytes.truncate(CHUNK);
                self.bytes.shrink_to_fit();
            }
        }
    }

    fn expect(&mut self, count: usize) {
        self.expected = count;
    }

    fn fill(&mut self, from: &mut Stream) -> Result<(), FrameError> {
        if self.end == self.bytes.len() {
            if self.begin > 0 {
                self.bytes.copy_within(self.begin..self.end, 0);
                (self.begin, self.end) = (0, self.end - self.begin);
            } else {
                // Twice as much each time, but no more than the frame needs.
                let needed = self.expected.max(self.end + HEADER);
                self.bytes.resize(needed.min(2 * self.end).max(self.end + CHUNK), 0);
            }
        }
        match from.read(&mut self.bytes[self.end..])? {
            0 => Err(FrameError::HungUp),
            more => {
                self.end += more;
                Ok(())
            }
        }
    }
}

/// Masks that the peer's scripts cannot foresee, which is what masks are for.
struct Masks {
    /// A keyed hash, by a key that is random.
    key: RandomState,
    count: u64,
}

impl Masks {
    fn new() -> Self {
        Self { key: RandomState::new(), count: 0 }
    }

    fn next(&mut self) -> [u8; 4] {
        self.count += 1;
        (self.key.hash_one(self.count) as u32).to_be_bytes()
    }
}

fn apply(mask: [u8; 4], to: &mut [u8]) {
    let mut chunks = to.chunks_exact_mut(4);
    for chunk in &mut chunks {
        chunk.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
    chunks.into_remainder().iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

/// What the server has to find in `Sec-WebSocket-Key`: 16 bytes, another time others.
pub(super) fn nonce() -> [u8; 16] {
    let random = RandomState::new();
    let halves = [random.hash_one(0_u8), random.hash_one(1_u8)].map(u64::to_be_bytes);
    halves.concat().try_into().expect("twice eight bytes")
}
