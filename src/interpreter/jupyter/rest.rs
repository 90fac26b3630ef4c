//! What a gateway is asked for by HTTP.
//!
//! By the crate's own connections, and not by a client of the shelf: those write what they send to the
//! log, at its most talkative, with the token in it. What is needed is little: one request for each
//! connection, an answer of some kilobytes, one deadline for all of it.

use std::error::Error;
use std::fmt;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::deadline::Deadline;
use crate::session::SessionError;
use crate::session::websocket::{ConnectError, ConnectStep, WebSocketManager};

/// The longest answer that is read.
const MAX_ANSWER: usize = 1 << 20;
/// The most headers that an answer may have.
const MAX_HEADERS: usize = 64;
/// How much of a server's own explanation is passed on.
const MAX_MESSAGE: usize = 300;

/// Asks a gateway. Each request has a connection of its own: none is left open for a forked child to
/// inherit, or for a gateway that is shut down to wait for.
pub(super) struct Rest {
    pub(super) dialler: WebSocketManager,
    /// Host and port.
    pub(super) authority: String,
    /// Without a slash at the end.
    pub(super) base: String,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum RestError {
    /// There was no answer.
    Unreachable(String),
    /// What answers does not speak TLS, or is not trusted.
    Tls(String),
    /// The gateway refused.
    Status { status: u16, message: String },
    /// The answer is not a gateway's.
    Odd(&'static str),
}

impl RestError {
    pub(super) fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Tls(_) => true,
            // Of a proxy before it.
            Self::Status { status, .. } => matches!(status, 502..=504),
            Self::Odd(_) => false,
        }
    }

    /// Whether it is the gateway's own word that it has not done it.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Status { .. }) && !self.is_unreachable()
    }
}

impl fmt::Display for RestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "it does not answer: {why}"),
            Self::Tls(why) => f.write_str(why),
            Self::Status { status: status @ (401 | 403), message } if message.is_empty() => {
                write!(f, "it refused with HTTP status {status}: is the token right?")
            }
            Self::Status { status, message } if message.is_empty() => {
                write!(f, "it refused with HTTP status {status}")
            }
            Self::Status { status, message } => {
                write!(f, "it refused with HTTP status {status}: {message}")
            }
            Self::Odd(what) => write!(f, "{what}"),
        }
    }
}

/// What kind of server it is.
#[derive(Deserialize)]
struct Api {
    /// Every kind has it: what answers without is none.
    version: Option<String>,
    gateway_version: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Wanted<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<&'a str>,
    /// Not every server takes it: the answer says what the id is. An Enterprise Gateway has it from
    /// `env`.
    pub(super) kernel_id: &'a str,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub(super) env: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

impl Rest {
    /// Whether it is an Enterprise Gateway.
    pub(super) fn is_enterprise(&self, by: Deadline) -> Result<bool, RestError> {
        let Api { gateway_version, .. } = read(&self.ask("GET", "/api", None::<&()>, by)?)?;
        Ok(gateway_version.is_some())
    }

    /// Starts a kernel and gives its id. It is not ready yet.
    pub(super) fn start(&self, wanted: &Wanted<'_>, by: Deadline) -> Result<String, RestError> {
        let body = self.ask("POST", "/api/kernels", Some(wanted), by)?;
        let Model { id } = read(&body)?;
        // It becomes part of paths.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if id.is_empty() || !id.bytes().all(plain) {
            return Err(RestError::Odd("it answered with something that is no id of a kernel"));
        }
        Ok(id)
    }

    /// Whether the gateway has this kernel. That it has does not say that the kernel lives; but "no" is
    /// the gateway's own word, and not that of something that stands before it.
    pub(super) fn has(&self, id: &str, by: Deadline) -> Result<bool, RestError> {
        self.unless_unknown("GET", id, by)
    }

    pub(super) fn interrupt(&self, id: &str, by: Deadline) -> Result<(), RestError> {
        self.ask("POST", &format!("/api/kernels/{id}/interrupt"), None::<&()>, by).map(drop)
    }

    pub(super) fn restart(&self, id: &str, by: Deadline) -> Result<(), RestError> {
        self.ask("POST", &format!("/api/kernels/{id}/restart"), None::<&()>, by).map(drop)
    }

    /// Ends a kernel; whether it was there.
    pub(super) fn delete(&self, id: &str, by: Deadline) -> Result<bool, RestError> {
        self.unless_unknown("DELETE", id, by)
    }

    /// Asks about a kernel; whether the gateway has it.
    fn unless_unknown(&self, method: &str, id: &str, by: Deadline) -> Result<bool, RestError> {
        match self.ask(method, &format!("/api/kernels/{id}"), None::<&()>, by) {
            Ok(_) => Ok(true),
            // A gateway names the kernel. What stands before one knows of none.
            Err(RestError::Status { status: 404, message })
                if message.contains(id) || self.is_gateway(by) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn is_gateway(&self, by: Deadline) -> bool {
        let api = self.ask("GET", "/api", None::<&()>, by);
        api.and_then(|body| read::<Api>(&body)).is_ok_and(|api| api.version.is_some())
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
        by: Deadline,
    ) -> Result<Vec<u8>, RestError> {
        let Self { dialler, authority, base } = self;
        let content = body.map(|body| serde_json::to_vec(body).expect("what is asked for is JSON"));
        let kind = if content.is_some() { "Content-Type: application/json\r\n" } else { "" };
        let content = content.unwrap_or_default();
        let head = format!(
            "{method} {base}{path} HTTP/1.1\r\nHost: {authority}\r\nAccept: application/json\r\n\
             Connection: close\r\nContent-Length: {}\r\n{kind}",
            content.len(),
        );
        let headers = dialler.headers().map_err(|error| not_dialled(&error))?;
        let request = [head.as_bytes(), &headers, b"\r\n", &content].concat();

        let mut stream = dialler.dial(by).map_err(|error| not_dialled(&error))?;
        let sent = stream.write_all(&request).and_then(|()| stream.flush());
        sent.map_err(|error| broken(&error))?;
        let Answer { status, body } = Answer::read(&mut stream)?;
        if (200..300).contains(&status) {
            return Ok(body);
        }
        Err(RestError::Status { status, message: explanation(&body) })
    }
}

fn not_dialled(error: &SessionError) -> RestError {
    let why = error.source().map_or_else(|| error.to_string(), super::with_causes);
    let step = error.source().and_then(|why| why.downcast_ref()).map(ConnectError::step);
    if step == Some(ConnectStep::Tls) { RestError::Tls(why) } else { RestError::Unreachable(why) }
}

fn broken(error: &io::Error) -> RestError {
    RestError::Unreachable(match error.kind() {
        io::ErrorKind::WouldBlock => "its time is over".to_owned(),
        io::ErrorKind::UnexpectedEof => "it hung up".to_owned(),
        _ => error.to_string(),
    })
}

const NO_HTTP: RestError = RestError::Odd("what answers there does not speak HTTP");
const TOO_LONG: RestError = RestError::Odd("its answer has no end");

#[cfg_attr(test, derive(Debug))]
struct Answer {
    status: u16,
    body: Vec<u8>,
}

/// How it is known where a body ends.
enum Length {
    Told(usize),
    Chunked,
    UntilTheEnd,
}

impl Answer {
    fn read(stream: &mut impl Read) -> Result<Self, RestError> {
        let mut bytes = Vec::new();
        let (status, length, begin) = loop {
            if let Some(head) = Self::head(&bytes)? {
                break head;
            }
            if more(stream, &mut bytes)? == 0 {
                return Err(broken(&io::ErrorKind::UnexpectedEof.into()));
            }
        };
        let mut body = bytes.split_off(begin);
        loop {
            match length {
                Length::Told(length) if body.len() >= length => {
                    body.truncate(length);
                    return Ok(Self { status, body });
                }
                Length::Chunked => {
                    if let Some(body) = unchunked(&body)? {
                        return Ok(Self { status, body });
                    }
                }
                Length::Told(_) | Length::UntilTheEnd => {}
            }
            if more(stream, &mut body)? == 0 {
                return match length {
                    Length::UntilTheEnd => Ok(Self { status, body }),
                    Length::Told(_) | Length::Chunked => {
                        Err(broken(&io::ErrorKind::UnexpectedEof.into()))
                    }
                };
            }
        }
    }

    /// Status, and where the body begins and ends; `None` while there is not enough.
    fn head(bytes: &[u8]) -> Result<Option<(u16, Length, usize)>, RestError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(begin) = head.parse(bytes).map_err(|_| NO_HTTP)? else {
            return Ok(None);
        };
        let status = head.code.ok_or(NO_HTTP)?;
        let value = |name: &str| {
            let mut named = head.headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name));
            named.next().and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
        };
        let length = match (status, value("transfer-encoding"), value("content-length")) {
            (204 | 304, ..) => Length::Told(0),
            (_, Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => Length::Chunked,
            (_, Some(_), _) => return Err(NO_HTTP),
            (_, None, Some(length)) => Length::Told(length.parse().map_err(|_| NO_HTTP)?),
            (_, None, None) => Length::UntilTheEnd,
        };
        Ok(Some((status, length, begin)))
    }
}

/// Reads what there is. Gives how much it was.
fn more(stream: &mut impl Read, to: &mut Vec<u8>) -> Result<usize, RestError> {
    if to.len() > MAX_ANSWER {
        return Err(TOO_LONG);
    }
    let mut chunk = [0; 4096];
    let got = stream.read(&mut chunk).map_err(|error| broken(&error))?;
    to.extend_from_slice(&chunk[..got]);
    Ok(got)
}

/// Puts a body together that comes in chunks; `None` while there is not enough.
fn unchunked(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, RestError> {
    let mut body = Vec::new();
    loop {
        let parsed = httparse::parse_chunk_size(bytes).map_err(|_| NO_HTTP)?;
        let httparse::Status::Complete((begin, size)) = parsed else { return Ok(None) };
        if size == 0 {
            return Ok(Some(body)); // what may follow are headers
        }
        let size = usize::try_from(size).map_err(|_| TOO_LONG)?;
        let end = begin.checked_add(size).ok_or(TOO_LONG)?;
        let Some(chunk) = bytes.get(begin..end) else { return Ok(None) };
        body.extend_from_slice(chunk);
        match bytes.get(end..end + 2) {
            Some(b"\r\n") => bytes = &bytes[end + 2..],
            Some(_) => return Err(NO_HTTP),
            None => return Ok(None),
        }
    }
}

/// What a server says about why it refused. It may be a page for people to look at: then nothing.
fn explanation(body: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    struct Problem {
        reason: Option<String>,
        message: Option<String>,
    }
    let Problem { reason, message } = serde_json::from_slice(body).unwrap_or_default();
    let text = message.or(reason).unwrap_or_default();
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(MAX_MESSAGE).collect()
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, RestError> {
    serde_json::from_slice(body).map_err(|_| RestError::Odd("its answer is not a gateway's"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte by byte.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let one = self.0.len().min(1);
            self.0.read(&mut buf[..one])
        }
    }

    fn answer(text: &str) -> Result<(u16, String), String> {
        let answer = Answer::read(&mut Slow(text.as_bytes())).map_err(|error| error.to_string())?;
        Ok((answer.status, String::from_utf8(answer.body).unwrap()))
    }

    #[test]
    fn answers_end_where_they_say() {
        let told = "HTTP/1.1 201 Created\r\ncontent-LENGTH: 3\r\n\r\nabcd";
        assert_eq!(answer(told), Ok((201, "abc".into())));
        let none = "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n";
        assert_eq!(answer(none), Ok((204, String::new())));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(answer(chunked), Ok((200, "abc0123456789".into())));
        assert_eq!(answer("HTTP/1.0 200 OK\r\n\r\nto the end"), Ok((200, "to the end".into())));
    }

    #[test]
    fn answers_that_are_none_are_errors() {
        for (text, why) in [
            ("", "hung up"),
            ("HTTP/1.1 200 OK\r\nContent-Le", "hung up"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "hung up"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "hung up"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabcd\r\n", "HTTP"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "end"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "HTTP"),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP"),
            ("SSH-2.0-OpenSSH\r\n", "HTTP"),
        ] {
            let error = answer(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(2 << 20));
        let error = Answer::read(&mut endless.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("no end"), "{error}");
    }
}
