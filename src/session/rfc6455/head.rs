//! The heads of HTTP messages, read up to their empty line. With [`connect_error`](super::connect_error) it
//! is one thing in two files.

use std::fmt;
use std::io::{self, Read};

use super::connect_error::Problem;

/// The longest head that is read, of a request or of an answer. How many headers it has does not matter.
const MAX_HEAD: usize = 64 << 10;
/// So much is read of what a server says to explain its refusal.
const MAX_BODY: usize = 1 << 10;
/// So many answers that only say "go on" may come before the one that counts.
const MAX_INFORMATIONAL: usize = 8;

/// What a server answers.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) fields: Fields,
}

/// What a client asks for.
#[cfg(all(feature = "duplex", unix))]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) resource: String,
    pub(super) fields: Fields,
}

/// A server that answers, and refuses.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) fields: Fields,
    /// How its body begins.
    pub(super) body: String,
}

/// Headers, in their order.
#[derive(Clone, Debug)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    fn of(headers: &[httparse::Header<'_>]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let field = |header: &httparse::Header<'_>| (header.name.to_owned(), text(header.value));
        Self(headers.iter().map(field).collect())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(is, _)| is.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(is, _)| is.eq_ignore_ascii_case(name));
        value.map(|(_, value)| value.as_str())
    }

    #[cfg(all(feature = "duplex", unix))]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The items of a header that is a list.
    pub(super) fn items<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let items = self.all(name).flat_map(|value| value.split(',')).map(str::trim);
        items.filter(|item| !item.is_empty())
    }

    pub(super) fn has_item(&self, name: &str, wanted: &str) -> bool {
        self.items(name).any(|item| item.eq_ignore_ascii_case(wanted))
    }
}

/// Reads the answer that counts, and gives also what came after its head.
pub(super) fn read_answer(stream: &mut impl Read) -> Result<(Answer, Vec<u8>), Problem> {
    let mut rest = Vec::new();
    for _ in 0..MAX_INFORMATIONAL {
        let (head, after) = read_head(stream, rest, b"HTTP/1.")?;
        let answer = parse(&head, |head, headers| {
            let mut answer = httparse::Response::new(headers);
            answer.parse(head)?;
            let fields = Fields::of(answer.headers);
            Ok(Answer { status: answer.code.unwrap_or_default(), fields })
        })?;
        if answer.status == 101 && head.starts_with(b"HTTP/1.0") {
            return Err(Problem::Head("the other side does not speak HTTP/1.1"));
        }
        if answer.status == 101 || answer.status >= 200 {
            return Ok((answer, after));
        }
        rest = after;
    }
    Err(Problem::Head("it says \"go on\" again and again"))
}

#[cfg(all(feature = "duplex", unix))]
pub(super) fn read_request(stream: &mut impl Read) -> Result<(Asked, Vec<u8>), Problem> {
    let (head, rest) = read_head(stream, Vec::new(), b"GET ")?;
    let asked = parse(&head, |head, headers| {
        let mut asked = httparse::Request::new(headers);
        asked.parse(head)?;
        if asked.version != Some(1) {
            return Err(httparse::Error::Version);
        }
        Ok(Asked {
            method: asked.method.unwrap_or_default().to_owned(),
            resource: asked.path.unwrap_or_default().to_owned(),
            fields: Fields::of(asked.headers),
        })
    })?;
    Ok((asked, rest))
}

/// As many headers as there are. Each takes three bytes at least, so there is an end to it.
fn parse<'h, H>(
    head: &'h [u8],
    by: impl Fn(&'h [u8], &mut [httparse::Header<'h>]) -> Result<H, httparse::Error>,
) -> Result<H, Problem> {
    let mut room = 64;
    loop {
        match by(head, &mut vec![httparse::EMPTY_HEADER; room]) {
            Ok(parsed) => return Ok(parsed),
            Err(httparse::Error::TooManyHeaders) if room < head.len() => room *= 8,
            Err(_) => return Err(Problem::Head("what it says is not HTTP/1.1")),
        }
    }
}

/// Reads what begins so, up to the empty line; `head` has been read already. Gives also what came
/// after that.
fn read_head(
    stream: &mut impl Read,
    mut head: Vec<u8>,
    begin: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Problem> {
    let mut chunk = [0; 4096];
    let mut searched = 0;
    loop {
        if !head.iter().zip(begin).all(|(is, should)| is == should) {
            return Err(Problem::Head("the other side does not speak HTTP/1.1"));
        }
        // Parsed once it is whole, lest one that trickles be parsed for each byte.
        if let Some(end) = end_of_head(&head, searched) {
            let rest = head.split_off(end);
            return Ok((head, rest));
        }
        if head.len() > MAX_HEAD {
            return Err(Problem::Head("what it says has no end"));
        }
        searched = head.len().saturating_sub(3);
        match stream.read(&mut chunk).map_err(Problem::Io)? {
            0 => return Err(Problem::Io(io::ErrorKind::UnexpectedEof.into())),
            got => head.extend_from_slice(&chunk[..got]),
        }
    }
}

/// Where the empty line ends. Some end their lines with a line feed only.
fn end_of_head(head: &[u8], from: usize) -> Option<usize> {
    let mut feeds = (from..head.len()).filter(|at| head[*at] == b'\n');
    feeds.find_map(|at| match head[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// What a server says that refuses: reads how the body begins, as patiently as `stream` is. Whatever
/// repeats one of the `secrets` is left out.
pub(super) fn refusal(
    stream: &mut impl Read,
    answer: Answer,
    mut body: Vec<u8>,
    secrets: &[String],
) -> Problem {
    let Answer { status, mut fields } = answer;
    let length = fields.get("content-length").and_then(|length| length.parse().ok());
    let wanted = length.unwrap_or(MAX_BODY).min(MAX_BODY);
    let mut chunk = [0; MAX_BODY];
    while body.len() < wanted {
        match stream.read(&mut chunk) {
            Ok(got @ 1..) => body.extend_from_slice(&chunk[..got]),
            Ok(0) | Err(_) => break,
        }
    }
    if fields.has_item("transfer-encoding", "chunked") {
        body = without_chunks(&body);
    }
    body.truncate(wanted);
    let hide = |text: &str| {
        secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, ".."))
    };
    fields.0.iter_mut().for_each(|(_, value)| *value = hide(value));
    let body = hide(&String::from_utf8_lossy(&body));
    Problem::Refused(Box::new(Refusal { status, fields, body }))
}

/// As far as it is there.
fn without_chunks(mut text: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(httparse::Status::Complete((begin, size @ 1..))) = httparse::parse_chunk_size(text)
    {
        let rest = &text[begin..];
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        text = rest.get(size.saturating_add(2)..).unwrap_or_default();
    }
    body
}

/// The status, where one is to go and what one is to show, and how the body begins.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 200;
        write!(f, "HTTP status {}", self.status)?;
        for name in ["Location", "WWW-Authenticate", "Proxy-Authenticate", "Retry-After"] {
            for value in self.fields.all(name) {
                write!(f, "; {name}: {}", value.escape_debug())?;
            }
        }
        let words: Vec<_> =
            self.body.split(|c: char| c.is_whitespace() || c.is_control()).collect();
        let words = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        match words.char_indices().nth(SHOWN) {
            _ if words.is_empty() => Ok(()),
            Some((end, _)) => write!(f, "; it says: {}..", &words[..end]),
            None => write!(f, "; it says: {words}"),
        }
    }
}
