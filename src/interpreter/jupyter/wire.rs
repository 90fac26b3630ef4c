//! Jupyter's messages, in the two forms that they have on a WebSocket.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The form that is asked for. A server that does not know it uses [`Framing::Json`].
pub(super) const SUBPROTOCOL: &str = "v1.kernel.websocket.jupyter.org";

/// The largest message that a server takes. It resets the connection at a larger one.
pub(super) const LARGEST: usize = 10 << 20;

/// How messages are put into frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Binary frames: offsets, then the parts.
    V1,
    /// A JSON object as text; or, if it has buffers, offsets, the object, and the buffers.
    Json,
}

/// A frame, as the WebSocket has it.
pub(crate) enum Frame {
    Text(String),
    Binary(Vec<u8>),
}

impl Frame {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// A message of the gateway's: one of the kernel's, or one that the gateway made itself.
pub(crate) struct Incoming<'a> {
    pub(crate) channel: Cow<'a, str>,
    pub(crate) header: Header<'a>,
    /// The id of the request that it belongs to, if it belongs to one.
    pub(crate) parent: Option<Cow<'a, str>>,
    pub(crate) content: &'a RawValue,
    /// Binary data beside it. No message that matters here has any.
    #[cfg_attr(not(any(test, fuzzing)), allow(dead_code))]
    pub(crate) buffers: Vec<&'a [u8]>,
}

#[derive(Deserialize)]
pub(crate) struct Header<'a> {
    #[serde(borrow, rename = "msg_type")]
    pub(crate) kind: Cow<'a, str>,
    /// Of whoever made the message: each kernel process has its own.
    #[serde(borrow, default)]
    pub(crate) session: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Parent<'a> {
    #[serde(borrow)]
    msg_id: Option<Cow<'a, str>>,
}

/// What is wrong with a frame. It does not quote it.
#[derive(Debug, PartialEq)]
pub(crate) struct Malformed(pub(crate) &'static str);

// ---- reading --------------------------------------------------------------------------------------

/// What a frame says.
pub(crate) fn decode(framing: Framing, frame: &Frame) -> Result<Incoming<'_>, Malformed> {
    match (framing, frame) {
        (Framing::V1, Frame::Binary(bytes)) => {
            let parts = parts::<u64>(bytes)?;
            let [channel, header, parent, _, content, buffers @ ..] = &*parts else {
                return Err(Malformed("a message with less than five parts"));
            };
            let channel = std::str::from_utf8(channel);
            Ok(Incoming {
                channel: Cow::Borrowed(channel.map_err(|_| Malformed("a channel with no name"))?),
                header: json(header)?,
                parent: json::<Option<Parent<'_>>>(parent)?.and_then(|parent| parent.msg_id),
                content: json(content)?,
                buffers: buffers.to_vec(),
            })
        }
        (Framing::V1, Frame::Text(_)) => Err(Malformed("text, where binary frames were agreed on")),
        (Framing::Json, Frame::Text(text)) => object(text.as_bytes(), Vec::new()),
        (Framing::Json, Frame::Binary(bytes)) => {
            let parts = parts::<u32>(bytes)?;
            let (first, buffers) = parts.split_first().ok_or(Malformed("a frame of no parts"))?;
            object(first, buffers.to_vec())
        }
    }
}

fn object<'a>(text: &'a [u8], buffers: Vec<&'a [u8]>) -> Result<Incoming<'a>, Malformed> {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        channel: Cow<'a, str>,
        #[serde(borrow)]
        header: Header<'a>,
        #[serde(borrow)]
        parent_header: Option<Parent<'a>>,
        #[serde(borrow)]
        content: &'a RawValue,
    }
    let Object { channel, header, parent_header, content } = json(text)?;
    let parent = parent_header.and_then(|parent| parent.msg_id);
    Ok(Incoming { channel, header, parent, content, buffers })
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    serde_json::from_slice(bytes).map_err(|_| Malformed("a part that is not the JSON it should be"))
}

/// The integers that count and place the parts of a frame.
trait Offset {
    const SIZE: usize;
    /// Whether the end of the last part is among the offsets. Otherwise it is the frame's.
    const END_IS_TOLD: bool;
    fn read(bytes: &[u8]) -> usize;
}

/// Of [`Framing::V1`].
impl Offset for u64 {
    const SIZE: usize = 8;
    const END_IS_TOLD: bool = true;
    fn read(bytes: &[u8]) -> usize {
        let value = Self::from_le_bytes(bytes.try_into().expect("eight bytes were cut out"));
        usize::try_from(value).unwrap_or(usize::MAX)
    }
}

/// Of [`Framing::Json`], for messages with buffers.
impl Offset for u32 {
    const SIZE: usize = 4;
    const END_IS_TOLD: bool = false;
    fn read(bytes: &[u8]) -> usize {
        let value = Self::from_be_bytes(bytes.try_into().expect("four bytes were cut out"));
        usize::try_from(value).unwrap_or(usize::MAX)
    }
}

/// Takes a frame apart: how many offsets there are, the offsets, the parts.
fn parts<T: Offset>(frame: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    const CUT: Malformed = Malformed("a frame that ends before its offsets do");
    let (count, rest) = frame.split_at_checked(T::SIZE).ok_or(CUT)?;
    let count = T::read(count);
    let table = count.checked_mul(T::SIZE).and_then(|size| rest.get(..size)).ok_or(CUT)?;
    let told = table.chunks_exact(T::SIZE).map(T::read);
    let mut offsets: Vec<usize> = told.collect();
    if !T::END_IS_TOLD {
        offsets.push(frame.len());
    }
    let begin = T::SIZE + table.len();
    if offsets.first().is_some_and(|&first| first < begin) {
        return Err(Malformed("a part within the offsets"));
    }
    offsets
        .windows(2)
        .map(|ends| frame.get(ends[0]..ends[1]))
        .collect::<Option<_>>()
        .ok_or(Malformed("a part that is not within the frame"))
}

// ---- writing --------------------------------------------------------------------------------------

/// The header of a request. One with less gets no answer at all.
#[derive(Serialize)]
struct OwnHeader<'a> {
    msg_id: &'a str,
    msg_type: &'a str,
    session: &'a str,
    username: &'a str,
    version: &'a str,
}

/// By which way a kernel is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    /// One request after the other.
    Shell,
    /// Beside what runs, if the kernel has a thread for it.
    Control,
}

impl Channel {
    fn name(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Control => "control",
        }
    }
}

/// A request.
pub(super) struct Request<'a, C> {
    pub(super) channel: Channel,
    pub(super) id: &'a str,
    pub(super) kind: &'a str,
    pub(super) session: &'a str,
    pub(super) content: &'a C,
}

impl<C: Serialize> Request<'_, C> {
    /// The frame to send.
    pub(super) fn encode(&self, framing: Framing) -> Frame {
        let Self { channel, id: msg_id, kind: msg_type, session, content } = *self;
        let header = OwnHeader { msg_id, msg_type, session, username: "", version: "5.3" };
        match framing {
            Framing::V1 => {
                let header = serde_json::to_vec(&header).expect("strings are JSON");
                let content = serde_json::to_vec(content).expect("what is asked for is JSON");
                Frame::Binary(assemble(&[
                    channel.name().as_bytes(),
                    &header,
                    b"{}",
                    b"{}",
                    &content,
                ]))
            }
            Framing::Json => {
                #[derive(Serialize)]
                struct Object<'a, C> {
                    channel: &'a str,
                    header: OwnHeader<'a>,
                    parent_header: Empty,
                    metadata: Empty,
                    content: &'a C,
                    buffers: [(); 0],
                }
                let object = Object {
                    channel: channel.name(),
                    header,
                    parent_header: Empty {},
                    metadata: Empty {},
                    content,
                    buffers: [],
                };
                Frame::Text(serde_json::to_string(&object).expect("what is asked for is JSON"))
            }
        }
    }
}

#[derive(Serialize)]
pub(super) struct Empty {}

/// Puts parts into a frame of [`Framing::V1`].
fn assemble(parts: &[&[u8]]) -> Vec<u8> {
    let begin = 8 * (parts.len() + 2);
    let size: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(begin + size);
    let mut put = |value: usize| frame.extend_from_slice(&(value as u64).to_le_bytes());
    put(parts.len() + 1);
    put(begin);
    let mut end = begin;
    for part in parts {
        end += part.len();
        put(end);
    }
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    frame
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use serde_json::Value;

    use super::*;

    /// What a gateway and its clients really sent.
    const VECTORS: &str = include_str!("../../../tests/jupyter/vectors.json");

    fn vectors() -> Vec<(Framing, Frame, Value)> {
        let vectors: Value = serde_json::from_str(VECTORS).unwrap();
        let vector = |vector: &Value| {
            let framing = match vector["subprotocol"].as_str().unwrap() {
                SUBPROTOCOL => Framing::V1,
                _ => Framing::Json,
            };
            let bytes = BASE64.decode(vector["data"].as_str().unwrap().as_bytes()).unwrap();
            let frame = match vector["opcode"].as_u64() {
                Some(1) => Frame::Text(String::from_utf8(bytes).unwrap()),
                _ => Frame::Binary(bytes),
            };
            (framing, frame, vector["decoded"].clone())
        };
        let vectors: Vec<_> = vectors["frames"].as_array().unwrap().iter().map(vector).collect();
        assert_eq!(vectors.len(), 34);
        vectors
    }

    fn same(framing: Framing, frame: &Frame, expected: &Value) {
        let got = decode(framing, frame).unwrap();
        assert_eq!(got.channel, expected["channel"].as_str().unwrap());
        assert_eq!(got.header.kind, expected["header"]["msg_type"].as_str().unwrap());
        assert_eq!(got.header.session, expected["header"]["session"].as_str().unwrap());
        assert_eq!(got.parent.as_deref(), expected["parent_header"]["msg_id"].as_str());
        let content: Value = serde_json::from_str(got.content.get()).unwrap();
        assert_eq!(content, expected["content"]);
        let buffers: Vec<_> = got.buffers.iter().map(|buffer| BASE64.encode(buffer)).collect();
        assert_eq!(Value::from(buffers), expected["buffers_base64"]);
    }

    #[test]
    fn every_frame_that_was_seen_is_understood() {
        for (framing, frame, expected) in vectors() {
            same(framing, &frame, &expected);
        }
    }

    #[test]
    fn parts_put_together_again_are_the_frame_that_was_seen() {
        let mut seen = 0;
        for (framing, frame, _) in vectors() {
            if let (Framing::V1, Frame::Binary(bytes)) = (framing, frame) {
                assert_eq!(assemble(&parts::<u64>(&bytes).unwrap()), bytes);
                seen += 1;
            }
        }
        assert_eq!(seen, 17);
    }

    #[test]
    fn what_is_sent_says_what_other_clients_say() {
        let mut seen = 0;
        for (framing, _, expected) in vectors() {
            if expected["header"]["msg_type"] == "execute_request" {
                let header = |field: &str| expected["header"][field].as_str().unwrap();
                let request = Request {
                    channel: Channel::Shell,
                    id: header("msg_id"),
                    kind: header("msg_type"),
                    session: header("session"),
                    content: &expected["content"],
                };
                let frame = request.encode(framing);
                same(framing, &frame, &expected);
                if let Frame::Text(text) = &frame {
                    let object: Value = serde_json::from_str(text).unwrap();
                    assert_eq!(object["header"]["msg_id"], expected["header"]["msg_id"]);
                    assert_eq!(object["buffers"], Value::Array(Vec::new()));
                }
                seen += 1;
            }
        }
        assert_eq!(seen, 2);
    }

    #[test]
    fn no_frame_that_is_cut_or_changed_does_harm() {
        for (framing, frame, _) in vectors() {
            let Frame::Binary(bytes) = frame else { continue };
            for end in 0..bytes.len() {
                let cut = Frame::Binary(bytes[..end].to_vec());
                let refused = decode(framing, &cut).is_err();
                // The older form does not say where the last buffer ends.
                assert!(refused || framing == Framing::Json, "cut at {end}");
            }
            for at in 0..80.min(bytes.len()) {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] = value;
                    let _ = decode(framing, &Frame::Binary(changed));
                }
            }
        }
        let wrong = decode(Framing::V1, &Frame::Text(String::new())).err();
        assert_eq!(wrong, Some(Malformed("text, where binary frames were agreed on")));
    }
}
