//! The HTTP request that Dify hands to an endpoint, and what the endpoint answers.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Serialize;

/// So many headers are read.
const HEADERS: usize = 128;

/// A request as it came to Dify.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::HttpRequest;
///
/// let request = HttpRequest::new("GET", "/boats?colour=sea%20green", "");
/// assert_eq!(request.parameter("colour").as_deref(), Some("sea green"));
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpRequest {
    /// `GET`, `POST` and so on.
    pub method: String,
    /// Without the query, as it was sent: escapes are left.
    pub path: String,
    /// What follows the question mark, as it was sent.
    pub query: String,
    /// In order. Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl HttpRequest {
    /// A request to be sent.
    pub fn new(method: impl Into<String>, target: &str, body: impl Into<Vec<u8>>) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Self {
            method: method.into(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: vec![("host".to_owned(), "localhost".to_owned())],
            body: body.into(),
        }
    }

    /// The value of a parameter in the query; the first if there are several.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.query.as_bytes());
        pairs.find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
    }

    /// The value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// From the hexadecimal digits of a whole request, as the protocol has it.
    pub(super) fn from_hex(hex: &str) -> Option<Self> {
        let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?;
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(body) = parsed.parse(&bytes).ok()? else { return None };
        let mut request = Self::new(parsed.method?, parsed.path?, &bytes[body..]);
        request.headers = parsed
            .headers
            .iter()
            .map(|header| {
                let value = String::from_utf8_lossy(header.value).into_owned();
                (header.name.to_ascii_lowercase(), value)
            })
            .collect();
        Some(request)
    }

    pub(super) fn to_hex(&self) -> String {
        let mut text = format!("{} {}", self.method, self.path);
        if !self.query.is_empty() {
            text += &format!("?{}", self.query);
        }
        text += " HTTP/1.1\r\n";
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !self.body.is_empty() && self.header("content-length").is_none() {
            text += &format!("content-length: {}\r\n", self.body.len());
        }
        text += "\r\n";
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        HEXLOWER_PERMISSIVE.encode(&bytes)
    }
}

/// Without headers, query and body: they may hold secrets.
impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}

/// What an endpoint answers.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::HttpResponse;
///
/// let response = HttpResponse::new(201, r#"{"boat": 7}"#).header("Content-Type", "application/json");
/// assert_eq!(response.status, 201);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HttpResponse {
    /// Such as 200.
    pub status: u16,
    /// By name.
    pub headers: BTreeMap<String, String>,
    /// The body.
    #[serde(skip)]
    pub body: Vec<u8>,
}

impl HttpResponse {
    /// With this status and body, and no headers.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: BTreeMap::new(), body: body.into() }
    }

    /// Plain text, with status 200.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(200, text.into()).header("Content-Type", "text/plain; charset=utf-8")
    }

    /// As it goes over a connection.
    pub(super) fn to_http(&self) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} \r\n", self.status);
        for (name, value) in &self.headers {
            if !name.eq_ignore_ascii_case("content-length") {
                text += &format!("{name}: {value}\r\n");
            }
        }
        text += &format!("Content-Length: {}\r\n\r\n", self.body.len());
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The same, with one header more.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_as_it_was_written() {
        let mut request = HttpRequest::new("POST", "/a/b?x=1&y=a%20b+c&x=2&z", "body");
        assert_eq!(request.parameter("x").as_deref(), Some("1"));
        assert_eq!(request.parameter("y").as_deref(), Some("a b c"));
        assert_eq!(request.parameter("z").as_deref(), Some(""));
        assert_eq!(request.parameter("w"), None);
        let read = HttpRequest::from_hex(&request.to_hex()).unwrap();
        request.headers.push(("content-length".to_owned(), "4".to_owned()));
        assert_eq!(read, request);
    }

    #[test]
    fn what_is_no_request_is_none() {
        for bad in ["", "zz", "4", "474554", "00ff00ff0d0a0d0a"] {
            assert_eq!(HttpRequest::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_escape_is_an_error_or_is_lost() {
        let request = HttpRequest::new("GET", "/?a=%&b=%4&%zz%41=c&d=%C3%A4&e=%FF&&f=1=2", "");
        for (name, value) in
            [("a", "%"), ("b", "%4"), ("%zzA", "c"), ("d", "ä"), ("e", "\u{FFFD}"), ("f", "1=2")]
        {
            assert_eq!(request.parameter(name).as_deref(), Some(value), "{name}");
        }
    }
}
