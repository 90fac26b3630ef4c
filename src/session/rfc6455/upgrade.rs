//! From HTTP to WebSocket, on either side.

use std::io::{self, Read, Write};

use data_encoding::BASE64;
use tungstenite::handshake::client::Response;
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
#[cfg(all(feature = "duplex", unix))]
use tungstenite::handshake::server;
use tungstenite::http::HeaderMap;

use super::codec;
use super::connect::{Problem, Target};
use super::stream::Stream;

/// The longest head that is read, of a request or of an answer.
const MAX_HEAD: usize = 64 << 10;

pub(in crate::session) struct Upgraded {
    /// The one that the server chose.
    pub(in crate::session) subprotocol: Option<String>,
    /// What came after the answer: frames.
    pub(in crate::session) rest: Vec<u8>,
}

/// The client's part.
pub(super) fn ask(
    stream: &mut Stream,
    target: &Target,
    subprotocols: &[String],
    headers: &[u8],
) -> Result<Upgraded, Problem> {
    let key = BASE64.encode(&codec::nonce());
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

    let (answer, rest) = read_head::<Response>(stream, b"HTTP/1.1 ")?;
    if answer.status().as_u16() != 101 {
        return Err(Problem::Http(answer.status().as_u16()));
    }
    let subprotocol = check(answer.headers(), &key, subprotocols).map_err(Problem::Head)?;
    Ok(Upgraded { subprotocol, rest })
}

/// The server's part. Whatever the path, no subprotocol is chosen. Gives what came after the
/// request.
#[cfg(all(feature = "duplex", unix))]
pub(super) fn grant(stream: &mut Stream) -> Result<Vec<u8>, Problem> {
    let asked = read_head::<server::Request>(stream, b"GET ").and_then(|(request, rest)| {
        let answer = server::create_response(&request);
        Ok((answer.map_err(|_| Problem::Head("it does not ask for a WebSocket"))?, rest))
    });
    if let Err(Problem::Head(_)) = asked {
        let refusal = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let _ = stream.write_all(refusal).and_then(|()| stream.flush());
    }
    let (answer, rest) = asked?;
    let mut head = Vec::new();
    server::write_response(&mut head, &answer).expect("writing to memory");
    stream.write_all(&head).and_then(|()| stream.flush()).map_err(Problem::Io)?;
    Ok(rest)
}

/// Reads what begins so, up to the empty line. Gives also what came after that.
fn read_head<H: TryParse>(stream: &mut Stream, begin: &[u8]) -> Result<(H, Vec<u8>), Problem> {
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let got = match stream.read(&mut chunk).map_err(Problem::Io)? {
            0 => return Err(Problem::Io(io::ErrorKind::UnexpectedEof.into())),
            got => got,
        };
        let searched = head.len().saturating_sub(3);
        head.extend_from_slice(&chunk[..got]);
        if !head.iter().zip(begin).all(|(is, should)| is == should) {
            return Err(Problem::Head("the other side does not speak HTTP/1.1"));
        }
        // Parsed once it is whole, lest one that trickles be parsed for each byte.
        if head[searched..].windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
        if head.len() > MAX_HEAD {
            return Err(Problem::Head("what it says has no end"));
        }
    }
    match H::try_parse(&head) {
        Ok(Some((size, parsed))) => Ok((parsed, head.split_off(size))),
        Ok(None) | Err(_) => Err(Problem::Head("what it says is not HTTP")),
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
        None => Ok(None),
    }
}

/// Whether a header that is a list has this among its items.
fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}
