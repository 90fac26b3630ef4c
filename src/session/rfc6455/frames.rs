//! Messages over a stream.

use std::io::{self, Read, Write};

use tungstenite::protocol::frame::coding::CloseCode;

use super::codec::{Control, Data, Decoder, Encoder, Fault, Message, OpCode, Role};
use super::stream::Stream;

/// Reads and writes messages; as patient as its stream is. What a wait that has run out has left
/// half read or half written goes on with the next call.
pub(in crate::session) struct Frames {
    stream: Stream,
    decoder: Decoder,
    encoder: Encoder,
}

#[derive(Debug)]
pub(in crate::session) enum FrameError {
    /// `WouldBlock` among them: the patience that the socket was given is at an end.
    Io(io::Error),
    /// The end of the stream.
    HungUp,
    Fault(Fault),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Fault> for FrameError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl FrameError {
    pub(in crate::session) fn would_block(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Why one says goodbye, as section 7.4.1 numbers it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goodbye {
    Normal = 1000,
    GoingAway = 1001,
    ProtocolError = 1002,
    /// A message of a kind that is not taken here.
    Unacceptable = 1003,
    /// Text that is not UTF-8.
    InvalidText = 1007,
    TooBig = 1009,
}

impl Fault {
    /// What the peer is told of it.
    pub(in crate::session) fn goodbye(&self) -> Goodbye {
        match self {
            Self::TooLarge { .. } => Goodbye::TooBig,
            Self::Malformed(_) => Goodbye::ProtocolError,
            Self::Binary => Goodbye::Unacceptable,
            Self::NotUtf8(_) => Goodbye::InvalidText,
        }
    }

    /// What the peer sent.
    pub(in crate::session) fn what(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "a message over the limit",
            Self::Malformed(what) | Self::NotUtf8(what) => what,
            Self::Binary => "a binary message, where only text is taken",
        }
    }
}

/// The peer's goodbye, in words.
pub(in crate::session) fn farewell(code: u16, reason: &str) -> String {
    match reason {
        "" => format!("the peer said goodbye ({code})"),
        reason => format!("the peer said goodbye ({code}): {}", reason.escape_debug()),
    }
}

impl Frames {
    /// `rest` was read with what came before the first frame.
    pub(in crate::session) fn new(
        stream: Stream,
        role: Role,
        rest: &[u8],
        max_message: usize,
        max_frame: usize,
    ) -> Self {
        let decoder = Decoder::new(role, rest, max_message, max_frame);
        Self { stream, decoder, encoder: Encoder::new(role) }
    }

    pub(in crate::session) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(in crate::session) fn stream_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }

    // ---- writing ------------------------------------------------------------------------------

    /// Takes a message. It leaves with the next [`flush`](Self::flush).
    pub(in crate::session) fn put_text(&mut self, text: &str) {
        self.encoder.put(OpCode::Data(Data::Text), text.as_bytes());
    }

    pub(in crate::session) fn put_binary(&mut self, bytes: &[u8]) {
        self.encoder.put(OpCode::Data(Data::Binary), bytes);
    }

    pub(in crate::session) fn put_ping(&mut self, mark: &[u8]) {
        self.encoder.put(OpCode::Control(Control::Ping), mark);
    }

    /// Answers a ping.
    pub(in crate::session) fn put_pong(&mut self, of: &[u8]) {
        self.encoder.pong(of);
    }

    /// Says goodbye. A code that nobody may send is not repeated.
    pub(in crate::session) fn put_close(&mut self, code: u16) {
        let is_fit = CloseCode::from(code).is_allowed();
        let code = if is_fit { code } else { Goodbye::ProtocolError as u16 };
        self.encoder.put(OpCode::Control(Control::Close), &code.to_be_bytes());
    }

    /// How many bytes are not written yet. Those in the hands of TLS count as one.
    pub(in crate::session) fn unwritten(&self) -> usize {
        self.encoder.unwritten().len() + usize::from(self.stream.wants_write())
    }

    /// Writes what there is to write.
    pub(in crate::session) fn flush(&mut self) -> Result<(), FrameError> {
        while !self.encoder.unwritten().is_empty() {
            match self.stream.write(self.encoder.unwritten())? {
                0 => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                more => self.encoder.wrote(more),
            }
        }
        Ok(self.stream.flush()?)
    }

    // ---- reading ------------------------------------------------------------------------------

    /// The next message.
    pub(in crate::session) fn read(&mut self) -> Result<Message<'_>, FrameError> {
        while !self.decoder.advance()? {
            self.fill()?;
        }
        Ok(self.decoder.message()?)
    }

    /// The next message of what has been read already.
    pub(in crate::session) fn next(&mut self) -> Result<Option<Message<'_>>, Fault> {
        if self.decoder.advance()? { self.decoder.message().map(Some) } else { Ok(None) }
    }

    /// Reads once. Says whether there may be more at once.
    pub(in crate::session) fn fill(&mut self) -> Result<bool, FrameError> {
        let room = self.decoder.room();
        match self.stream.read(room)? {
            0 => Err(FrameError::HungUp),
            more => {
                let full = more == room.len();
                self.decoder.take(more);
                Ok(full || !self.stream.is_drained())
            }
        }
    }
}
