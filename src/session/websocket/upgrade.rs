//! From HTTP to WebSocket.
//!
//! Not by tungstenite's own handshake: that one writes the whole request to the log, with every token
//! in it, and takes its key from a thread-local generator; see [`frames`](super::frames).

use std::io::{self, Read, Write};

use data_encoding::BASE64;
use tungstenite::handshake::client::Response;
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::http::HeaderMap;

use super::connect::{Problem, Target};
use super::frames;
use super::stream::Stream;

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 << 10;

pub(super) struct Upgraded {
    /// The one that the server chose.
    pub(super) subprotocol: Option<String>,
    /// What came after the answer: frames.
    pub(super) rest: Vec<u8>,
}

pub(super) fn upgrade(
    stream: &mut Stream,
    target: &Target,
    subprotocols: &[String],
    headers: &[u8],
) -> Result<Upgraded, Problem> {
    let key = BASE64.encode(&frames::nonce());
    let mut request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n",
        target.path(),
        target.authority(),
    );
    if !subprotocols.is_empty() {
        request += &format!("Sec-WebSocket-Protocol: {}\r\n", subprotocols.join(", "));
    }
    let request = [request.as_bytes(), headers, b"\r\n"].concat();
    stream.write_all(&request).and_then(|()| stream.flush()).map_err(Problem::Io)?;

    let (answer, rest) = read_answer(stream)?;
    if answer.status().as_u16() != 101 {
        return Err(Problem::Http(answer.status().as_u16()));
    }
    let subprotocol = check(answer.headers(), &key, subprotocols).map_err(Problem::Answer)?;
    Ok(Upgraded { subprotocol, rest })
}

fn read_answer(stream: &mut Stream) -> Result<(Response, Vec<u8>), Problem> {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk).map_err(Problem::Io)? {
            0 => return Err(Problem::Io(io::ErrorKind::UnexpectedEof.into())),
            got => answer.extend_from_slice(&chunk[..got]),
        }
        let begin = b"HTTP/1.1 ";
        if !answer.iter().zip(begin).all(|(is, should)| is == should) {
            return Err(Problem::Answer("what answers does not speak HTTP/1.1"));
        }
        // Parsed once it is whole, lest one that trickles be parsed for each byte.
        if answer.windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
        if answer.len() > MAX_ANSWER {
            return Err(Problem::Answer("the answer has no end"));
        }
    }
    match Response::try_parse(&answer) {
        Ok(Some((size, response))) => Ok((response, answer.split_off(size))),
        Ok(None) | Err(_) => Err(Problem::Answer("the answer is not HTTP")),
    }
}

/// What RFC 6455 asks of the answer, in section 4.1. Gives the subprotocol.
fn check(
    headers: &HeaderMap,
    key: &str,
    subprotocols: &[String],
) -> Result<Option<String>, &'static str> {
    if !has_token(headers, "upgrade", "websocket") || !has_token(headers, "connection", "upgrade") {
        return Err("the answer does not say that it goes over to WebSocket");
    }
    let accept = headers.get("sec-websocket-accept");
    if accept.is_none_or(|accept| accept.as_bytes() != derive_accept_key(key.as_bytes()).as_bytes())
    {
        return Err("the answer is not to this request");
    }
    if headers.contains_key("sec-websocket-extensions") {
        return Err("the server chose an extension that was not asked for");
    }
    let chosen = headers.get("sec-websocket-protocol").map(|chosen| chosen.to_str().unwrap_or(""));
    match chosen {
        Some(chosen) if subprotocols.iter().any(|asked| asked == chosen) => {
            Ok(Some(chosen.to_owned()))
        }
        Some(_) => Err("the server chose a subprotocol that was not asked for"),
        None if subprotocols.is_empty() => Ok(None),
        None => Err("the server chose none of the subprotocols"),
    }
}

/// Whether a header that is a list has this among its items.
fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}
