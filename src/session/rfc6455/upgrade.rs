//! From HTTP to WebSocket, on the client's side.

use std::io::Write;
use std::time::Duration;

use data_encoding::BASE64;
use tungstenite::handshake::derive_accept_key;

use super::codec;
use super::connect_error::Problem;
use super::head::{self, Fields};
use super::stream::Stream;
use super::target::Target;

/// For so long a server that refuses may take to say why.
pub(super) const EXPLAIN: Duration = Duration::from_millis(500);

pub(in crate::session) struct Upgraded {
    /// The one that the server chose.
    pub(in crate::session) subprotocol: Option<String>,
    /// What came after the answer: frames.
    pub(in crate::session) rest: Vec<u8>,
}

pub(super) fn ask(
    stream: &mut Stream,
    target: &Target,
    subprotocols: &[String],
    headers: &[u8],
    secrets: &[String],
) -> Result<Upgraded, Problem> {
    let key = BASE64.encode(&codec::nonce());
    let mut request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n",
        target.resource(),
        target.authority(),
    );
    if !subprotocols.is_empty() {
        request += &format!("Sec-WebSocket-Protocol: {}\r\n", subprotocols.join(", "));
    }
    let request = [request.as_bytes(), headers, b"\r\n"].concat();
    stream.write_all(&request).and_then(|()| stream.flush()).map_err(Problem::Io)?;

    let (answer, rest) = head::read_answer(stream)?;
    if answer.status != 101 {
        let tcp = stream.tcp_mut();
        tcp.reads = tcp.reads.at_most(EXPLAIN);
        return Err(head::refusal(stream, answer, rest, secrets));
    }
    let subprotocol = check(&answer.fields, &key, subprotocols).map_err(Problem::Head)?;
    Ok(Upgraded { subprotocol, rest })
}

/// What RFC 6455 asks of the answer, in section 4.1. Gives the subprotocol.
fn check(
    fields: &Fields,
    key: &str,
    subprotocols: &[String],
) -> Result<Option<String>, &'static str> {
    if !fields.has_item("upgrade", "websocket") || !fields.has_item("connection", "upgrade") {
        return Err("the answer does not say that it goes over to WebSocket");
    }
    if fields.get("sec-websocket-accept") != Some(&derive_accept_key(key.as_bytes())) {
        return Err("the answer is not to this request");
    }
    if fields.items("sec-websocket-extensions").next().is_some() {
        return Err("the server chose an extension that was not asked for");
    }
    match fields.get("sec-websocket-protocol").filter(|chosen| !chosen.is_empty()) {
        Some(chosen) if subprotocols.iter().any(|asked| asked == chosen) => {
            Ok(Some(chosen.to_owned()))
        }
        Some(_) => Err("the server chose a subprotocol that was not asked for"),
        None => Ok(None),
    }
}
