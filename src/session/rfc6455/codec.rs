//! Messages to frames, and back. No socket is known here.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Cursor;
use std::ops::Range;

use tungstenite::protocol::frame::FrameHeader;
pub(crate) use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// How much is read at once, and kept for it.
const CHUNK: usize = 16 << 10;
/// Buffers larger than this are let go of when they are empty.
const LARGE: usize = 4 * CHUNK;
/// The longest header.
const HEADER: usize = 14;
/// The longest payload of a frame that is no data.
const CONTROL: usize = 125;

/// Which side we are. What a client sends is masked, what a server sends is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// What the peer says.
#[derive(Debug, PartialEq)]
pub(crate) enum Message<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    Close {
        code: Option<u16>,
        reason: &'a str,
    },
    /// It was over the limit, and passed over. These are its first and its last bytes.
    TooLarge {
        size: usize,
        head: &'a [u8],
        tail: &'a [u8],
    },
}

/// So much is kept of a message that is over the limit, of its beginning and of its end each.
const KEPT: usize = 1 << 10;
/// A message that is over the limit by more than this, in bytes and in multiples of the limit, is not
/// passed over. That it ends at all is not likely.
const PASSED_OVER: usize = 256 << 20;
const TIMES_OVER: usize = 16;

/// What a peer must not send. Nothing that comes after it can be understood.
#[derive(Debug, PartialEq)]
pub(crate) enum Fault {
    TooLarge {
        size: usize,
        limit: usize,
    },
    Malformed(&'static str),
    /// A message of another kind than those who use this take.
    Binary,
    NotUtf8(&'static str),
}

// ---- reading --------------------------------------------------------------------------------------

/// Finds the messages in what comes in pieces.
///
/// Bytes go where [`room`](Self::room) is, and [`take`](Self::take) says how many came. Then
/// [`advance`](Self::advance) finds one message after the other, until there is none.
pub(crate) struct Decoder {
    role: Role,
    input: Input,
    /// The message that came in part.
    partial: Option<Partial>,
    /// The message that is passed over, for it is too large.
    oversized: Option<Oversized>,
    found: Option<Found>,
    max_message: usize,
    max_frame: usize,
}

/// A message over the limit, of which the bytes are let go of as they come.
struct Oversized {
    size: usize,
    head: Vec<u8>,
    tail: Vec<u8>,
    /// What is missing of the frame at hand.
    missing: usize,
    mask: Option<[u8; 4]>,
    is_final: bool,
    /// Nothing of the frame at hand has been looked at.
    is_new: bool,
}

impl Oversized {
    /// `begun` came in the frames before.
    fn new(begun: &[u8]) -> Self {
        let (head, tail) = (Vec::new(), Vec::new());
        let (missing, mask, is_final, is_new) = (0, None, false, false);
        let mut new = Self { size: 0, head, tail, missing, mask, is_final, is_new };
        new.keep(begun);
        new.size = begun.len();
        new
    }

    /// Another frame of it begins.
    fn frame(&mut self, header: &FrameHeader, length: usize) {
        self.size = self.size.saturating_add(length);
        (self.missing, self.mask, self.is_final) = (length, header.mask, header.is_final);
        self.is_new = true;
    }

    /// Takes of `bytes` what belongs to the frame at hand, and says how much that is.
    fn take(&mut self, bytes: &mut [u8]) -> usize {
        self.is_new = false;
        let count = self.missing.min(bytes.len());
        let bytes = &mut bytes[..count];
        if let Some(mask) = &mut self.mask {
            apply(*mask, bytes);
            mask.rotate_left(count % 4);
        }
        self.keep(bytes);
        self.missing -= count;
        count
    }

    fn keep(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(KEPT - self.head.len()));
        self.head.extend_from_slice(head);
        self.tail.extend_from_slice(&rest[rest.len().saturating_sub(KEPT)..]);
        self.tail.drain(..self.tail.len().saturating_sub(KEPT));
    }
}

struct Partial {
    kind: Data,
    payload: Vec<u8>,
}

/// A message that is there, and may be looked at until the next is asked for.
struct Found {
    kind: OpCode,
    /// Where the payload of its last frame is, in what is unread.
    payload: Range<usize>,
    /// It came in several frames: what it says is in `partial`.
    in_pieces: bool,
    /// It was passed over: what is left of it is in `oversized`.
    too_large: bool,
}

impl Decoder {
    /// `rest` was read with what came before the first frame.
    pub(crate) fn new(role: Role, rest: &[u8], max_message: usize, max_frame: usize) -> Self {
        let (input, partial, oversized, found) = (Input::new(rest), None, None, None);
        Self { role, input, partial, oversized, found, max_message, max_frame }
    }

    /// Where the next bytes go.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.let_go();
        self.input.room()
    }

    /// So many bytes came.
    pub(crate) fn take(&mut self, count: usize) {
        self.input.end += count;
    }

    /// Lets go of the message before, and finds the next. Says whether there is one.
    ///
    /// What is wrong with a frame is seen in its header, before memory or time is spent on it.
    pub(crate) fn advance(&mut self) -> Result<bool, Fault> {
        self.let_go();
        while self.found.is_none() {
            if !self.pass_over() {
                return Ok(false);
            }
            if self.found.is_some() {
                break;
            }
            let Some((header, payload)) = self.frame()? else {
                if self.oversized.as_ref().is_some_and(|oversized| oversized.is_new) {
                    continue; // a frame to be passed over has just begun
                }
                return Ok(false);
            };
            match header.opcode {
                OpCode::Data(kind) if !header.is_final || self.partial.is_some() => {
                    let partial = self.partial.get_or_insert(Partial { kind, payload: Vec::new() });
                    partial.payload.extend_from_slice(&self.input.unread()[payload.clone()]);
                    if header.is_final {
                        let kind = OpCode::Data(partial.kind);
                        self.found =
                            Some(Found { kind, payload, in_pieces: true, too_large: false });
                    } else {
                        self.input.consume(payload.end);
                    }
                }
                kind => {
                    self.found = Some(Found { kind, payload, in_pieces: false, too_large: false });
                }
            }
        }
        Ok(true)
    }

    /// The message that [`advance`](Self::advance) has found.
    pub(crate) fn message(&self) -> Result<Message<'_>, Fault> {
        let found = self.found.as_ref().expect("asked for where one was found");
        if let Some(Oversized { size, head, tail, .. }) = &self.oversized
            && found.too_large
        {
            return Ok(Message::TooLarge { size: *size, head, tail });
        }
        let payload = match &self.partial {
            Some(whole) if found.in_pieces => &whole.payload,
            _ => &self.input.unread()[found.payload.clone()],
        };
        match found.kind {
            OpCode::Data(Data::Binary) => Ok(Message::Binary(payload)),
            OpCode::Data(_) => match std::str::from_utf8(payload) {
                Ok(text) => Ok(Message::Text(text)),
                Err(_) => Err(Fault::NotUtf8("text that is not UTF-8")),
            },
            OpCode::Control(Control::Ping) => Ok(Message::Ping(payload)),
            OpCode::Control(Control::Pong) => Ok(Message::Pong(payload)),
            OpCode::Control(_) => close(payload),
        }
    }

    fn let_go(&mut self) {
        if let Some(found) = self.found.take() {
            self.input.consume(found.payload.end);
            if found.in_pieces {
                self.partial = None;
            }
            if found.too_large {
                self.oversized = None;
            }
        }
    }

    /// Lets go of what has come of a frame that is passed over. Says whether all of it has come, or
    /// there is none.
    fn pass_over(&mut self) -> bool {
        let Some(oversized) = self.oversized.as_mut().filter(|of| of.missing > 0 || of.is_new)
        else {
            return true;
        };
        let count = oversized.take(self.input.unread_mut());
        let (whole, is_final) = (oversized.missing == 0, oversized.is_final);
        self.input.consume(count);
        if whole && is_final {
            let (kind, payload) = (OpCode::Data(Data::Text), 0..0);
            self.found = Some(Found { kind, payload, in_pieces: false, too_large: true });
        }
        whole
    }

    /// The next frame, if all of it is there: its header, and where its payload is, without its
    /// mask.
    fn frame(&mut self) -> Result<Option<(FrameHeader, Range<usize>)>, Fault> {
        let malformed = |what| Err(Fault::Malformed(what));
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
        match (self.role, header.mask) {
            (Role::Client, Some(_)) => return malformed("a frame with a mask"),
            (Role::Server, None) => return malformed("a frame without a mask"),
            (Role::Client, None) | (Role::Server, Some(_)) => {}
        }
        let oversized = self.oversized.as_ref().map(|oversized| oversized.size);
        let partial = self.partial.as_ref().map(|partial| partial.payload.len());
        let begun = oversized.or(partial);
        let so_far = begun.unwrap_or(0);
        let limit = match (header.opcode, begun) {
            (OpCode::Control(_), _) if !header.is_final || length > CONTROL as u64 => {
                return malformed("a control frame that is too long or comes in pieces");
            }
            (OpCode::Control(_), _) => CONTROL,
            (OpCode::Data(Data::Continue), None) => {
                return malformed("the rest of a message that has not begun");
            }
            (OpCode::Data(Data::Text | Data::Binary), Some(_)) => {
                return malformed("a new message in the midst of another");
            }
            (OpCode::Data(_), _) => self.max_frame.min(self.max_message.saturating_sub(so_far)),
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let is_data = matches!(header.opcode, OpCode::Data(_));
        if length > limit || is_data && oversized.is_some() {
            let limit = self.max_frame.min(self.max_message);
            let size = so_far.saturating_add(length);
            if size > PASSED_OVER.max(limit.saturating_mul(TIMES_OVER)) {
                return Err(Fault::TooLarge { size, limit });
            }
            let begun = self.partial.take();
            let oversized = self.oversized.get_or_insert_with(|| {
                Oversized::new(begun.as_ref().map_or(&[][..], |partial| &partial.payload))
            });
            oversized.frame(&header, length);
            self.input.consume(begin);
            return Ok(None);
        }
        let payload = begin..begin + length;
        if self.input.unread().len() < payload.end {
            self.input.expected = payload.end;
            return Ok(None);
        }
        if let Some(mask) = header.mask {
            apply(mask, &mut self.input.unread_mut()[payload.clone()]);
        }
        Ok(Some((header, payload)))
    }

    /// How many bytes of memory it holds.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn held(&self) -> usize {
        let partial = self.partial.as_ref().map_or(0, |partial| partial.payload.capacity());
        self.input.bytes.capacity() + partial
    }
}

/// What a goodbye says.
fn close(payload: &[u8]) -> Result<Message<'_>, Fault> {
    match payload {
        [] => Ok(Message::Close { code: None, reason: "" }),
        [high, low, reason @ ..] => {
            let reason = std::str::from_utf8(reason)
                .map_err(|_| Fault::NotUtf8("a goodbye that is not UTF-8"))?;
            Ok(Message::Close { code: Some(u16::from_be_bytes([*high, *low])), reason })
        }
        [_] => Err(Fault::Malformed("half a goodbye")),
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

    fn unread_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..self.end]
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

    fn room(&mut self) -> &mut [u8] {
        // Little room is as good as none: a read costs the same.
        if self.begin > 0 && self.bytes.len() - self.end < CHUNK / 2 {
            self.bytes.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        if self.end == self.bytes.len() {
            // Twice as much each time, but no more than the frame needs.
            let needed = self.expected.max(self.end + HEADER);
            self.bytes.resize(needed.min(2 * self.end).max(self.end + CHUNK), 0);
        }
        &mut self.bytes[self.end..]
    }
}

// ---- writing --------------------------------------------------------------------------------------

/// Frames that are on their way out, in bytes.
pub(crate) struct Encoder {
    /// What a server sends has none.
    masks: Option<Masks>,
    output: Vec<u8>,
    /// How much of it is written.
    written: usize,
    pong: Pong,
}

/// The answer to pings. One at a time is under way: of those that come meanwhile only the last is
/// answered, as section 5.5.3 has it. A peer that pings on and on, and reads nothing, fills no
/// memory.
#[derive(Default)]
struct Pong {
    /// So many bytes of the output, from the first that is unwritten, end with it.
    unwritten: usize,
    next: Option<Vec<u8>>,
}

impl Encoder {
    pub(crate) fn new(role: Role) -> Self {
        let masks = (role == Role::Client).then(Masks::new);
        Self { masks, output: Vec::new(), written: 0, pong: Pong::default() }
    }

    /// Takes a frame that is a whole message.
    pub(crate) fn put(&mut self, opcode: OpCode, payload: &[u8]) {
        let mask = self.masks.as_mut().map(Masks::next);
        let header = FrameHeader { opcode, mask, ..FrameHeader::default() };
        self.output.reserve(HEADER + payload.len());
        header.format(payload.len() as u64, &mut self.output).expect("writing to memory");
        let begin = self.output.len();
        self.output.extend_from_slice(payload);
        if let Some(mask) = mask {
            apply(mask, &mut self.output[begin..]);
        }
    }

    /// Answers a ping.
    pub(crate) fn pong(&mut self, of: &[u8]) {
        if self.pong.unwritten > 0 {
            self.pong.next = Some(of.to_vec());
        } else {
            self.put(OpCode::Control(Control::Pong), of);
            self.pong.unwritten = self.unwritten().len();
        }
    }

    /// What there is to write.
    pub(crate) fn unwritten(&self) -> &[u8] {
        &self.output[self.written..]
    }

    /// So many bytes of it are written.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.written += count;
        self.pong.unwritten = self.pong.unwritten.saturating_sub(count);
        if self.written == self.output.len() {
            self.output.clear();
            self.output.shrink_to(LARGE);
            self.written = 0;
        } else if self.written > self.output.len() / 2 {
            // A peer that is never quite served: each byte moves once on average.
            self.output.drain(..self.written);
            self.written = 0;
        }
        if self.pong.unwritten == 0
            && let Some(of) = self.pong.next.take()
        {
            self.pong(&of);
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

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1000;

    #[derive(Clone, Debug, PartialEq)]
    enum Said {
        Text(String),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<u16>, String),
        TooLarge(usize, Vec<u8>, Vec<u8>),
    }

    fn owned(message: Message<'_>) -> Said {
        match message {
            Message::Text(text) => Said::Text(text.to_owned()),
            Message::Binary(bytes) => Said::Binary(bytes.to_vec()),
            Message::Ping(of) => Said::Ping(of.to_vec()),
            Message::Pong(of) => Said::Pong(of.to_vec()),
            Message::Close { code, reason } => Said::Close(code, reason.to_owned()),
            Message::TooLarge { size, head, tail } => {
                Said::TooLarge(size, head.to_vec(), tail.to_vec())
            }
        }
    }

    /// The messages in these bytes, which come in pieces of this size, and what ended them.
    fn decode(role: Role, bytes: &[u8], piece: usize) -> (Vec<Said>, Result<(), Fault>) {
        let mut decoder = Decoder::new(role, &[], MAX, MAX);
        let mut said = Vec::new();
        let mut all = |decoder: &mut Decoder| {
            while decoder.advance()? {
                said.push(owned(decoder.message()?));
            }
            Ok(())
        };
        for piece in bytes.chunks(piece) {
            decoder.room()[..piece.len()].copy_from_slice(piece);
            decoder.take(piece.len());
            if let Err(fault) = all(&mut decoder) {
                return (said, Err(fault));
            }
        }
        (said, Ok(()))
    }

    /// A frame as nobody but a test writes it.
    fn frame(first: u8, mask: Option<[u8; 4]>, length: usize, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        let masked = if mask.is_some() { 0x80 } else { 0 };
        match length {
            0..126 => frame.push(masked | length as u8),
            126..0x1_0000 => {
                frame.push(masked | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(masked | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(mask.unwrap_or_default().iter().take(if mask.is_some() { 4 } else { 0 }));
        let mask = mask.unwrap_or_default();
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    const FINAL: u8 = 0x80;
    const MASK: Option<[u8; 4]> = Some([1, 2, 3, 0xff]);

    #[test]
    fn a_message_is_another_if_it_is_cut_elsewhere() {
        let long = "ö".repeat(300);
        for (role, mask) in [(Role::Client, None), (Role::Server, MASK)] {
            let whole = |first, payload: &[u8]| frame(first, mask, payload.len(), payload);
            let bytes = [
                whole(FINAL | 1, b"one"),
                whole(1, b"in \xc3"), // in the midst of a letter
                whole(FINAL | 9, b"there?"),
                whole(0, b"\xb6 "),
                whole(FINAL, b"pieces"),
                whole(FINAL | 10, b""),
                whole(FINAL | 2, &[0xff, 0]),
                whole(FINAL | 1, long.as_bytes()),
                whole(FINAL | 8, b"\x03\xe8bye"),
                whole(FINAL | 1, b"")[..1].to_vec(),
            ]
            .concat();
            let should = [
                Said::Text("one".to_owned()),
                Said::Ping(b"there?".to_vec()),
                Said::Text("in ö pieces".to_owned()),
                Said::Pong(Vec::new()),
                Said::Binary(vec![0xff, 0]),
                Said::Text(long.clone()),
                Said::Close(Some(1000), "bye".to_owned()),
            ];
            for piece in 1..=bytes.len() {
                let (said, end) = decode(role, &bytes, piece);
                assert_eq!((&said[..], end), (&should[..], Ok(())), "in pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_a_peer_must_not_send_passes_or_hides_what_came_before() {
        let bad = |role, bytes: &[u8], should: &Fault| {
            let mask = if role == Role::Server { MASK } else { None };
            let bytes = [&*frame(FINAL | 1, mask, 4, b"good"), bytes].concat();
            for piece in [1, 7, bytes.len()] {
                let (said, end) = decode(role, &bytes, piece);
                assert_eq!(said, [Said::Text("good".to_owned())]);
                assert_eq!(end.unwrap_err(), *should, "in pieces of {piece}");
            }
        };
        let malformed = |role, bytes: &[u8], what| bad(role, bytes, &Fault::Malformed(what));
        let client = |bytes: Vec<u8>, what| malformed(Role::Client, &bytes, what);
        client(frame(FINAL | 1, MASK, 1, b"x"), "a frame with a mask");
        malformed(Role::Server, &frame(FINAL | 1, None, 1, b"x"), "a frame without a mask");
        client(frame(FINAL | 3, None, 0, b""), "a frame of no known kind");
        client(
            frame(FINAL | 0x41, None, 0, b""),
            "a frame with an extension that was not agreed on",
        );
        let control = "a control frame that is too long or comes in pieces";
        client(frame(9, None, 0, b""), control);
        client(frame(FINAL | 9, None, 126, b""), control);
        client(frame(FINAL, None, 0, b""), "the rest of a message that has not begun");
        let begun = frame(1, None, 1, b"x");
        let anew = [begun.clone(), frame(FINAL | 1, None, 0, b"")].concat();
        client(anew, "a new message in the midst of another");
        bad(
            Role::Client,
            &frame(FINAL | 1, None, 1, b"\xff"),
            &Fault::NotUtf8("text that is not UTF-8"),
        );
        client(frame(FINAL | 8, None, 1, b"x"), "half a goodbye");
        let goodbye = frame(FINAL | 8, None, 3, b"\x03\xe8\xff");
        bad(Role::Client, &goodbye, &Fault::NotUtf8("a goodbye that is not UTF-8"));
        // By its header alone: far too large.
        for length in [PASSED_OVER + 1, usize::MAX >> 1] {
            let large = frame(FINAL | 1, None, length, b"");
            bad(Role::Client, &large, &Fault::TooLarge { size: length, limit: MAX });
            let rest = [begun.clone(), frame(FINAL, None, length - 1, b"")].concat();
            bad(Role::Client, &rest, &Fault::TooLarge { size: length, limit: MAX });
        }
        let just = frame(FINAL | 1, None, MAX, &[b'x'; MAX]);
        assert_eq!(decode(Role::Client, &just, 99).0, [Said::Text("x".repeat(MAX))]);
    }

    /// What is too large is passed over, in one frame or in several, with a ping between them; its
    /// beginning and its end are kept, and what comes after it is heard.
    #[test]
    fn a_message_over_the_limit_is_passed_over() {
        for (role, mask) in [(Role::Client, None), (Role::Server, MASK)] {
            for length in [MAX + 1, KEPT, KEPT + 1, 2 * KEPT + 1, 10 * MAX] {
                let text: Vec<u8> = (0..length).map(|n| b'a' + (n % 23) as u8).collect();
                let whole = frame(FINAL | 1, mask, length, &text);
                let (first, rest) = text.split_at(700);
                let pieces = [
                    frame(1, mask, first.len(), first),
                    frame(FINAL | 9, mask, 1, b"?"),
                    frame(0, mask, rest.len() - 3, &rest[..rest.len() - 3]),
                    frame(FINAL | 9, mask, 1, b"!"),
                    frame(0, mask, 0, b""),
                    frame(FINAL, mask, 3, &rest[rest.len() - 3..]),
                ];
                let (head, tail) = text.split_at(KEPT.min(length));
                let tail = &tail[tail.len().saturating_sub(KEPT)..];
                let too_large = Said::TooLarge(length, head.to_vec(), tail.to_vec());
                let after = frame(FINAL | 1, mask, 4, b"next");
                let ping = |of: &[u8]| Said::Ping(of.to_vec());
                let next = || Said::Text("next".to_owned());
                for piece in [1, 7, 1000, 1 << 20] {
                    let (said, end) = decode(role, &[&*whole, &after].concat(), piece);
                    assert_eq!((said, end), (vec![too_large.clone(), next()], Ok(())));
                    let (said, end) = decode(role, &[&*pieces.concat(), &after].concat(), piece);
                    let should = vec![ping(b"?"), ping(b"!"), too_large.clone(), next()];
                    assert_eq!((said, end), (should, Ok(())), "{length} in pieces of {piece}");
                }
            }
        }
    }

    #[test]
    fn a_frame_may_have_a_limit_of_its_own() {
        let bytes = [frame(FINAL | 1, None, 11, b"12345678901"), frame(FINAL | 1, None, 1, b"x")];
        let mut decoder = Decoder::new(Role::Client, &bytes.concat(), 100, 10);
        assert!(decoder.advance().unwrap());
        assert!(matches!(decoder.message().unwrap(), Message::TooLarge { size: 11, .. }));
        assert!(decoder.advance().unwrap());
        assert_eq!(decoder.message().unwrap(), Message::Text("x"));
    }

    #[test]
    fn a_message_over_the_limit_takes_no_memory() {
        let mut decoder = Decoder::new(Role::Client, &[], MAX, MAX);
        let whole = frame(FINAL | 1, None, 8 << 20, &[b'x'; 8 << 20]);
        let mut found = 0;
        for chunk in whole.chunks(CHUNK / 2) {
            decoder.room()[..chunk.len()].copy_from_slice(chunk);
            decoder.take(chunk.len());
            found += usize::from(decoder.advance().unwrap());
            assert!(decoder.held() <= 2 * CHUNK);
        }
        assert_eq!(found, 1);
    }

    #[test]
    fn memory_is_spent_on_what_is_announced_or_kept_after_it_has_come() {
        const LENGTH: usize = 8 << 20;
        let mut decoder = Decoder::new(Role::Client, &[], LENGTH, LENGTH);
        let mut feed = |bytes: &[u8]| {
            let mut rest = bytes;
            while !rest.is_empty() {
                let room = decoder.room();
                let count = room.len().min(rest.len());
                room[..count].copy_from_slice(&rest[..count]);
                decoder.take(count);
                rest = &rest[count..];
                while decoder.advance().unwrap() {
                    decoder.message().unwrap();
                }
            }
            decoder.held()
        };
        let begin = frame(FINAL | 1, None, LENGTH, &[b'x'; 2 * CHUNK]);
        let held = feed(&begin);
        assert!(held <= 4 * CHUNK, "{held} bytes for {} that have come", begin.len());
        let held = feed(&[b'x'; LENGTH - 2 * CHUNK]);
        assert!(held <= CHUNK, "{held} bytes are kept");
        // Nor is it spent on many small ones.
        let small = frame(FINAL | 1, None, 100, &[b'x'; 100]).repeat(10_000);
        assert!(feed(&small) <= 2 * CHUNK);
    }

    #[test]
    fn all_pings_of_a_peer_that_reads_nothing_are_kept() {
        let decoded = |bytes: &[u8]| decode(Role::Server, bytes, 7).0;
        let mut encoder = Encoder::new(Role::Client);
        let mut out = Vec::new();
        encoder.put(OpCode::Data(Data::Text), b"before");
        (0..1000_u32).for_each(|n| encoder.pong(&n.to_be_bytes()));
        encoder.put(OpCode::Data(Data::Text), b"after");
        assert!(encoder.unwritten().len() < 100, "{} bytes", encoder.unwritten().len());
        while !encoder.unwritten().is_empty() {
            out.push(encoder.unwritten()[0]); // a byte at a time
            encoder.wrote(1);
        }
        let pong = |n: u32| Said::Pong(n.to_be_bytes().to_vec());
        let text = |text: &str| Said::Text(text.to_owned());
        assert_eq!(decoded(&out), [text("before"), pong(0), text("after"), pong(999)]);
        encoder.pong(&7_u32.to_be_bytes());
        assert_eq!(decoded(encoder.unwritten()), [pong(7)]);
    }

    #[test]
    fn a_mask_is_used_twice_or_not_at_all() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..2 {
            let mut encoder = Encoder::new(Role::Client);
            for _ in 0..100 {
                encoder.put(OpCode::Data(Data::Text), &[b'x'; 64]);
                let bytes = encoder.unwritten();
                assert!(!bytes.windows(8).any(|plain| plain == [b'x'; 8]));
                let [_, _, mask @ .., _] = &bytes[..7] else { unreachable!() };
                seen.insert(mask.to_vec());
                encoder.wrote(bytes.len());
            }
        }
        assert!(seen.len() >= 198, "{} masks of 200", seen.len()); // by chance two may be alike
        let mut encoder = Encoder::new(Role::Server);
        encoder.put(OpCode::Data(Data::Text), b"x");
        assert_eq!(encoder.unwritten(), b"\x81\x01x");
        assert_ne!(nonce(), nonce());
    }

    /// A peer that reads, but never all there is.
    #[test]
    fn what_was_written_stays_in_the_memory() {
        let mut encoder = Encoder::new(Role::Client);
        for _ in 0..200 {
            while encoder.unwritten().len() < 1 << 20 {
                encoder.put(OpCode::Data(Data::Text), &[b'x'; 64 << 10]);
            }
            encoder.wrote(64 << 10);
        }
        assert!(encoder.output.capacity() <= 8 << 20, "{} bytes", encoder.output.capacity());
        let all = encoder.unwritten().len();
        encoder.wrote(all);
        assert!(encoder.output.capacity() <= LARGE);
    }
}
