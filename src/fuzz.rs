//! What the fuzz targets drive: decoders, given whatever a peer may send.
//!
//! That they do not panic is the least. What they let through must be sound: payloads that are
//! JSON, and requests that can be answered. What comes in pieces must be the same however it is
//! cut, and no more of it may be kept than the limit allows.

use crate::session::{Incoming, JsonRpc, Lsp, Mcp, Outgoing, Payload, Protocol, RemoteError};

fn is_sound(protocol: &impl Protocol, frame: &[u8]) {
    let mut messages = Vec::new();
    // What came before an error counts.
    if let Err(error) = protocol.decode(frame, &mut messages) {
        assert!(error.to_string().len() < 200, "an error quotes what came");
    }
    let is_json = |payload: &Payload| {
        serde_json::from_str::<serde::de::IgnoredAny>(payload.as_str()).expect("a payload is JSON");
    };
    while let Some(message) = messages.pop() {
        match &message {
            Incoming::Request { id, params, meta, .. } => {
                [params, meta].into_iter().flatten().for_each(is_json);
                let value = &Payload::null();
                let error = &RemoteError::new("no").with_code(-1);
                for said in
                    [Outgoing::Answer { to: id, value }, Outgoing::Failure { to: id, error }]
                {
                    let mut frame = Vec::new();
                    protocol.encode(&said, &mut frame).expect("a request can be answered");
                    serde_json::from_slice::<serde::de::IgnoredAny>(&frame)
                        .expect("a frame is JSON");
                    assert!(!frame.contains(&b'\n'), "a frame is one line");
                }
            }
            Incoming::Notification { params, meta, .. } => {
                [params, meta].into_iter().flatten().for_each(is_json);
            }
            Incoming::Item { value, .. }
            | Incoming::Answer { value, .. }
            | Incoming::Progress { value, .. } => is_json(value),
            Incoming::Failure { error, .. } => error.data.iter().for_each(is_json),
            Incoming::Malformed(malformed) => {
                assert!(malformed.to_string().len() < 200, "an error quotes what came");
            }
            Incoming::Batch(batch) => messages.extend(batch.iter().cloned()),
            Incoming::Cancel { .. } | Incoming::End { .. } | Incoming::Heartbeat => {}
        }
    }
}

/// A frame to JSON-RPC messages.
pub fn json_rpc(frame: &[u8]) {
    is_sound(&JsonRpc::new(), frame);
    is_sound(&Lsp::new(), frame);
    is_sound(&Mcp::new(), frame);
}

/// A line to messages of Dify's plugin protocol, on either side.
#[cfg(all(feature = "dify", unix))]
pub fn dify(line: &[u8]) {
    use crate::session::dify::wire::{DaemonSide, PluginSide};
    is_sound(&PluginSide::numbered(), line);
    is_sound(&DaemonSide::numbered(), line);
}

/// A frame to a message of a Jupyter kernel's, and that to what comes of a cell: which form the frame
/// has, and its bytes.
#[cfg(feature = "jupyter")]
pub fn jupyter(input: &[u8]) {
    use crate::interpreter::jupyter::cell::{Cell, Late};
    use crate::interpreter::jupyter::wire::{Frame, Framing, decode};
    use serde_json::Value;

    let [form, bytes @ ..] = input else { return };
    let text = || String::from_utf8_lossy(bytes).into_owned();
    let (framing, frame) = match form & 3 {
        0 => (Framing::V1, Frame::Binary(bytes.to_vec())),
        1 => (Framing::Json, Frame::Text(text())),
        2 => (Framing::Json, Frame::Binary(bytes.to_vec())),
        _ => (Framing::V1, Frame::Text(text())),
    };
    let Ok(message) = decode(framing, &frame) else { return };

    // The same, taken apart as simply as can be.
    let whole = match &frame {
        Frame::Text(text) => text.as_bytes(),
        Frame::Binary(bytes) => bytes,
    };
    let integer = |at: usize| match framing {
        Framing::V1 => u64::from_le_bytes(whole[8 * at..][..8].try_into().unwrap()) as usize,
        Framing::Json => u32::from_be_bytes(whole[4 * at..][..4].try_into().unwrap()) as usize,
    };
    let mut parts: Vec<&[u8]> = match (framing, &frame) {
        (Framing::Json, Frame::Text(_)) => vec![whole],
        (Framing::V1, _) => (1..integer(0)).map(|n| &whole[integer(n)..integer(n + 1)]).collect(),
        (Framing::Json, _) => {
            let end = |n| if n < integer(0) { integer(n + 1) } else { whole.len() };
            (1..=integer(0)).map(|n| &whole[integer(n)..end(n)]).collect()
        }
    };
    // An object; or its values, in order. One that is too deep or too large a number is not looked at.
    let field = |of: &Value, name, place: usize| of.get(name).or(of.get(place)).cloned();
    let json = |bytes: &[u8]| -> Option<Value> { serde_json::from_slice(bytes).ok() };
    let of_message: Option<[Value; 4]> = match framing {
        Framing::V1 => {
            let of_message: Vec<_> = parts.drain(..5).collect();
            let channel = Value::from(std::str::from_utf8(of_message[0]).expect("a name is text"));
            let [header, parent, content] = [1, 2, 4].map(|n| json(of_message[n]));
            (|| Some([channel, header?, parent?, content?]))()
        }
        Framing::Json => json(parts.remove(0)).map(|all| {
            let names = ["channel", "header", "parent_header", "content"];
            std::array::from_fn(|n| field(&all, names[n], n).unwrap_or_default())
        }),
    };
    if let Some([channel, header, parent, content]) = of_message {
        assert_eq!(channel, *message.channel);
        assert_eq!(field(&header, "msg_type", 0).unwrap(), *message.header.kind);
        let session = field(&header, "session", 1).unwrap_or_else(|| "".into());
        assert_eq!(session, *message.header.session);
        let id = field(&parent, "msg_id", 0);
        assert_eq!(id.as_ref().and_then(Value::as_str), message.parent.as_deref());
        assert_eq!(Some(content), json(message.content.get().as_bytes()));
    }
    assert_eq!(parts, message.buffers);
    let kept: usize = message.buffers.iter().map(|buffer| buffer.len()).sum();
    assert!(kept <= whole.len(), "buffers that lie over each other");

    // What it says is taken or refused, and no more text is kept than the limit allows.
    const LIMIT: usize = 32;
    let mut shown = 0;
    let mut show = |output: crate::interpreter::OutputRef<'_>| {
        use crate::interpreter::OutputRef;
        if let OutputRef::Stdout(text) | OutputRef::Stderr(text) = output {
            shown += text.len();
        }
    };
    let mut cell =
        Cell::new(&crate::interpreter::ExecuteOptions::new().max_output(LIMIT), &mut show);
    let mut late = Late::new(LIMIT);
    for by_gateway in [false, true] {
        let taken = cell.take(&message, by_gateway).is_ok();
        assert!(late.take(1, &message).is_ok() || !taken, "late it says what it says in time");
    }
    let execution = cell.finish(false, late);
    let (out, err) = (execution.stdout(), execution.stderr());
    assert!(shown <= LIMIT && out.len() + err.len() == shown, "{shown} bytes were shown");
    assert!(execution.late.iter().map(|late| late.text.len()).sum::<usize>() <= LIMIT);
    if let Some(error) = &execution.error {
        assert!(error.value.len() <= LIMIT && error.traceback.len() <= LIMIT, "{error:?}");
    }
}

/// The ways in which bytes may come: all at once, one by one, and in pieces of any size.
#[cfg(any(feature = "ws", all(feature = "duplex", unix)))]
fn cuts(bytes: &[u8], seed: u8) -> impl Iterator<Item = Vec<&[u8]>> {
    let mut state = u32::from(seed) + 1;
    let mut any = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as usize % 40 + 1
    };
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(any().min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    [vec![bytes], bytes.chunks(1).collect(), pieces].into_iter()
}

/// Bytes to lines: a limit, a seed for the cuts, and the bytes.
#[cfg(all(feature = "duplex", unix))]
pub fn lines(input: &[u8]) {
    use crate::session::duplex::Lines;

    let [limit, seed, bytes @ ..] = input else { return };
    let limit = usize::from(*limit);

    // What a line is, said as simply as can be.
    let strip = |line: &'_ [u8]| line.strip_suffix(b"\r").unwrap_or(line).to_vec();
    let mut lines: Vec<_> = bytes.split(|byte| *byte == b'\n').map(strip).collect();
    lines.pop(); // what has no end
    lines.retain(|line| !line.is_empty());
    let (should, over): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line.len() <= limit);

    for pieces in cuts(bytes, *seed) {
        let (frames, passed) =
            frames(Lines::new(), limit, &pieces).expect("a line is found always");
        assert_eq!(frames, should, "in pieces of {:?}", pieces.first().map(|p| p.len()));
        assert_eq!(passed, over.len(), "so many were over the limit");
    }
    let again = should.iter().flat_map(|line| [line, &b"\r\n"[..]]).flatten().copied();
    let again: Vec<u8> = again.collect();
    let read = frames(Lines::new(), limit, &[&again]).expect("a line is found always");
    assert_eq!(read, (should, 0), "lines that are written are read");
}

/// Bytes to frames after their length: a limit, a seed for the cuts, and the bytes.
#[cfg(all(feature = "duplex", unix))]
pub fn content_length(input: &[u8]) {
    use crate::session::duplex::{ContentLength, Framing};

    let [limit, seed, bytes @ ..] = input else { return };
    let limit = usize::from(*limit);
    let mut all = None;
    for pieces in cuts(bytes, *seed) {
        let read = frames(ContentLength::new(), limit, &pieces);
        assert!(read.iter().flat_map(|(frames, _)| frames).all(|frame| frame.len() <= limit));
        let first = all.get_or_insert_with(|| read.clone());
        assert_eq!(*first, read, "in pieces of {:?}", pieces.first().map(|p| p.len()));
    }
    // Whatever the bytes of a frame, it is read as it was written.
    let mut written = Vec::new();
    for frame in bytes.chunks(limit.max(1)) {
        ContentLength::new().encode(frame, &mut written);
    }
    let read = frames(ContentLength::new(), limit.max(1), &[&written]).expect("it was written");
    assert_eq!(read.0.concat(), bytes);
}

/// The frames in these pieces, and how many were passed over. `None`: the stream is broken.
#[cfg(all(feature = "duplex", unix))]
fn frames(
    framing: impl crate::session::duplex::Framing,
    limit: usize,
    pieces: &[&[u8]],
) -> Option<(Vec<Vec<u8>>, usize)> {
    use crate::session::duplex::{Deframer, SLACK};

    let (mut deframer, mut frames, mut passed) =
        (Deframer::new(Box::new(framing), limit), vec![], 0);
    for mut piece in pieces.iter().copied() {
        while !piece.is_empty() {
            let room = deframer.room();
            let (now, later) = piece.split_at(piece.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            deframer.take(now.len(), &mut |frame| frames.push(frame.to_vec())).ok()?;
            let over = deframer.passed_over();
            assert!(over.iter().all(|frame| frame.head.len() <= 1024 && frame.tail.len() <= 256));
            passed += over.len();
            let (kept, room) = deframer.held();
            assert!(kept <= limit + 2 * SLACK, "{kept} bytes of a frame are kept");
            assert!(room <= 1 << 18, "{room} bytes of memory");
            piece = later;
        }
    }
    Some((frames, passed))
}

/// Bytes to WebSocket messages, and to those of JSON-RPC in them: whose side we are on, the limits,
/// a seed for the cuts, and the bytes.
#[cfg(feature = "ws")]
pub fn websocket(input: &[u8]) {
    use crate::session::rfc6455::codec::{
        Control, Data, Decoder, Encoder, Fault, Message, OpCode, Role,
    };

    let [side, max_message, max_frame, seed, bytes @ ..] = input else { return };
    let (role, other) =
        [(Role::Client, Role::Server), (Role::Server, Role::Client)][usize::from(side & 1)];
    let max_message = 8 * usize::from(*max_message);
    let max_frame = 8 * usize::from(*max_frame);
    const PASSED_OVER: OpCode = OpCode::Data(Data::Continue);

    // As a frame that says it all.
    let owned = |message: Message<'_>| match message {
        Message::Text(text) => (OpCode::Data(Data::Text), text.as_bytes().to_vec()),
        Message::Binary(bytes) => (OpCode::Data(Data::Binary), bytes.to_vec()),
        Message::Ping(of) => (OpCode::Control(Control::Ping), of.to_vec()),
        Message::Pong(of) => (OpCode::Control(Control::Pong), of.to_vec()),
        Message::Close { code, reason } => {
            let code = code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec());
            (OpCode::Control(Control::Close), [&code, reason.as_bytes()].concat())
        }
        // As no message can be.
        Message::TooLarge { size, head, tail } => {
            assert!(size > max_message.min(max_frame) && head.len() + tail.len() <= size);
            (PASSED_OVER, [head, tail].concat())
        }
    };
    let decode = |pieces: &[&[u8]], max_frame: usize| {
        let mut decoder = Decoder::new(role, &[], max_message, max_frame);
        let mut messages = Vec::new();
        let mut all = |decoder: &mut Decoder| -> Result<(), Fault> {
            while decoder.advance()? {
                messages.push(owned(decoder.message()?));
            }
            Ok(())
        };
        for mut piece in pieces.iter().copied() {
            while !piece.is_empty() {
                let room = decoder.room();
                let (now, later) = piece.split_at(piece.len().min(room.len()));
                room[..now.len()].copy_from_slice(now);
                decoder.take(now.len());
                if let Err(fault) = all(&mut decoder) {
                    return (messages, Some(fault));
                }
                let held = decoder.held();
                assert!(held <= 3 * max_message + (68 << 10), "{held} bytes of memory");
                piece = later;
            }
        }
        (messages, None)
    };

    let whole = decode(&[bytes], max_frame);
    for pieces in cuts(bytes, *seed) {
        let cut = decode(&pieces, max_frame);
        assert!(cut == whole, "{cut:?} in pieces, and whole {whole:?}");
    }
    let (messages, _) = whole;
    let kept: Vec<_> = messages.iter().filter(|(kind, _)| *kind != PASSED_OVER).cloned().collect();
    let mut encoder = Encoder::new(other);
    for (kind, payload) in &kept {
        let limit = if matches!(kind, OpCode::Data(_)) { max_message } else { 125 };
        assert!(payload.len() <= limit, "a message over the limit");
        if *kind == OpCode::Data(Data::Text) {
            json_rpc(payload);
        }
        encoder.put(*kind, payload);
    }
    let again = decode(&[encoder.unwritten()], max_message);
    assert!(again == (kept.clone(), None), "{again:?} comes of {kept:?}");

    // tungstenite's own reading of them, up to the first goodbye, or to the first that is too large. It
    // sees half a letter before the
    // rest of its message is there, and says something else of a code that nobody may send.
    let is_close = |message: &(OpCode, Vec<u8>)| {
        message.0 == OpCode::Control(Control::Close) || message.0 == PASSED_OVER
    };
    let to_close = messages.iter().position(is_close).unwrap_or(messages.len());
    let (theirs, why) = tungstenites(role == Role::Client, max_message, max_frame, bytes);
    let alike = to_close.min(theirs.len());
    assert_eq!(theirs[..alike], messages[..alike]);
    // Its limit for frames is one for pings as well.
    let is_ping_over_it = matches!(why, tungstenite::Error::Capacity(_))
        && messages.get(theirs.len()).is_some_and(|(kind, _)| matches!(kind, OpCode::Control(_)));
    if !matches!(why, tungstenite::Error::Utf8(_)) && !is_ping_over_it {
        assert!(theirs.len() >= to_close, "{messages:?} and to tungstenite {why:?}");
    }
}

/// The head of an answer or of a request, or a URL: which of them, how it is cut, and its bytes.
#[cfg(feature = "ws")]
pub fn heads(input: &[u8]) {
    use crate::session::rfc6455::fuzz;

    let [which, seed, bytes @ ..] = input else { return };
    if which & 3 == 0 {
        return fuzz::url(&String::from_utf8_lossy(bytes));
    }
    let is_answer = which & 3 == 1;
    let whole = fuzz::head(is_answer, &[bytes]);
    for pieces in cuts(bytes, *seed) {
        assert_eq!(fuzz::head(is_answer, &pieces), whole, "in pieces it is something else");
    }
}

#[cfg(feature = "ws")]
fn tungstenites(
    client: bool,
    max_message: usize,
    max_frame: usize,
    bytes: &[u8],
) -> (Vec<(tungstenite::protocol::frame::coding::OpCode, Vec<u8>)>, tungstenite::Error) {
    use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
    use tungstenite::protocol::{Role, WebSocketConfig};
    use tungstenite::{Message, WebSocket};

    /// Ends at once, and takes what is said.
    struct Nobody;
    impl std::io::Read for Nobody {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Ok(0)
        }
    }
    impl std::io::Write for Nobody {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_frame.min(max_message).max(125)));
    let role = if client { Role::Client } else { Role::Server };
    let mut socket = WebSocket::from_partially_read(Nobody, bytes.to_vec(), role, Some(config));
    let mut messages = Vec::new();
    loop {
        let message = match socket.read() {
            Ok(message) => message,
            Err(error) => return (messages, error),
        };
        messages.push(match message {
            Message::Text(text) => (OpCode::Data(Data::Text), text.as_bytes().to_vec()),
            Message::Binary(bytes) => (OpCode::Data(Data::Binary), bytes.to_vec()),
            Message::Ping(of) => (OpCode::Control(Control::Ping), of.to_vec()),
            Message::Pong(of) => (OpCode::Control(Control::Pong), of.to_vec()),
            Message::Close(None) => (OpCode::Control(Control::Close), Vec::new()),
            Message::Close(Some(close)) => {
                let code = u16::from(close.code).to_be_bytes();
                (OpCode::Control(Control::Close), [&code, close.reason.as_bytes()].concat())
            }
            Message::Frame(_) => unreachable!("it is never read"),
        });
    }
}
