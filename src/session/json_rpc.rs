//! JSON-RPC 2.0, <https://www.jsonrpc.org/specification>.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::conventions::Lsp;
use super::protocol::{Concern, Incoming, Malformed, Outgoing, Protocol, RequestId, Unsupported};
use super::{Payload, RemoteError};

/// JSON-RPC 2.0. Batches are understood, and not sent.
///
/// Peers that keep to it loosely are understood as far as they can be: an answer of an odd shape fails
/// the one request that it names, with what the peer said where that can be made out, else as
/// [malformed](super::SessionError::is_malformed). What names no request is counted and passed over.
///
/// Members that JSON-RPC does not know are handed on, as the `meta` of a request or a notification.
///
/// It has one answer to a request, and no word for calling one off: [`Lsp`] and [`Mcp`] have.
///
/// [`Mcp`]: super::Mcp
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonRpc {
    _private: (),
}

impl JsonRpc {
    /// JSON-RPC 2.0, and no more.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With the conventions of the Language Server Protocol: partial results, progress, and a cancel.
    #[must_use]
    pub fn partial_results(self) -> Lsp {
        Lsp::new()
    }

    /// One message, which is an object.
    fn message(text: &[u8]) -> Result<Incoming, Malformed> {
        // Told apart first, for an array would be taken for the members of the object.
        let is_object = text.trim_ascii_start().first() == Some(&b'{');
        let error = match serde_json::from_slice::<Wire<'_>>(text) {
            Ok(wire) if is_object => return Self::read(wire),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        let parsed = error.as_ref().is_none_or(serde_json::Error::is_data);
        let malformed =
            Malformed::new(error.map_or("no object".to_owned(), |error| syntax(&error)));
        Err(match Members::of(text) {
            Members { id: Some(id), is_request: false } => malformed.answering(id),
            _ if parsed => refused(malformed, None, RemoteError::INVALID_REQUEST),
            _ => refused(malformed, None, RemoteError::PARSE_ERROR),
        })
    }

    /// An answer is known by its result or its error, also if other members stand beside it; a request
    /// by its method. Members that are `null` count as left out, as JSON-RPC 1.0 writes them, but for a
    /// result that stands alone.
    fn read(wire: Wire<'_>) -> Result<Incoming, Malformed> {
        let own_id = wire.id.and_then(|id| own_id(id.get()));
        let is_null = |raw: &&RawValue| raw.get() == "null";
        let has_id = wire.id.is_some_and(|id| !is_null(&id));
        let result = match wire.method {
            None => wire.result,
            Some(_) => wire.result.filter(|result| !is_null(result) && own_id.is_some()),
        };
        match (wire.error, result, wire.method) {
            (Some(error), _, method) if method.is_none() || own_id.is_some() => {
                if has_id && own_id.is_none() {
                    return Err(Malformed::new("an error for an id that is none of ours"));
                }
                Ok(Incoming::Failure { id: own_id, error: read_error(error) })
            }
            (_, Some(result), _) => match own_id {
                Some(id) => Ok(Incoming::Answer { id, value: result.into() }),
                None => Err(Malformed::new("an answer to an id that is none of ours")),
            },
            (_, None, Some(method)) => Self::read_request(&wire, method),
            (_, None, None) => {
                let malformed = Malformed::new("neither a request nor an answer");
                let malformed = refused(malformed, wire.id, RemoteError::INVALID_REQUEST);
                Err(own_id.map_or(malformed.clone(), |id| malformed.answering(id)))
            }
        }
    }

    fn read_request(wire: &Wire<'_>, method: &RawValue) -> Result<Incoming, Malformed> {
        let bad = |what| Err(refused(Malformed::new(what), wire.id, RemoteError::INVALID_REQUEST));
        let Ok(method) = serde_json::from_str::<String>(method.get()) else {
            return bad("a method that is no text");
        };
        let params = wire.params.map(Payload::from);
        let meta = wire.meta();
        // JSON-RPC 1.0 marks by `null` what wants no answer; 2.0 by no id at all.
        let of_1_0 = wire.jsonrpc.is_none();
        match wire.id {
            None => Ok(Incoming::Notification { method, params, meta }),
            Some(id) if of_1_0 && id.get() == "null" => {
                Ok(Incoming::Notification { method, params, meta })
            }
            Some(id) => match request_id(id) {
                Some(id) => Ok(Incoming::Request { id, within: None, method, params, meta }),
                None => bad("an id of a wrong type"),
            },
        }
    }

    /// A batch that is no JSON: its requests are not carried out, and whoever waits for an answer in it
    /// is told.
    fn broken_batch(text: &[u8], messages: &mut Vec<Incoming>) {
        items(text, |item| match Self::message(item) {
            Ok(answer @ (Incoming::Answer { .. } | Incoming::Failure { id: Some(_), .. })) => {
                messages.push(answer);
            }
            Err(malformed) if malformed.answers().is_some() => {
                messages.push(Incoming::Malformed(malformed));
            }
            Ok(_) | Err(_) => {}
        });
    }
}

/// Of the bad messages in a batch so many are told, and the rest passed over.
const MAX_BAD: usize = 100;

/// The request of the peer's that is bad gets an error; without an id, to `null`.
fn refused(malformed: Malformed, id: Option<&RawValue>, code: i64) -> Malformed {
    let id = id.and_then(request_id).unwrap_or_else(|| RequestId::new("null"));
    malformed.refused_with(id, code)
}

/// Ids of the peer's are kept as they are written: a string or a number, or even null.
fn request_id(id: &RawValue) -> Option<RequestId> {
    match id.get().as_bytes().first() {
        Some(b'{' | b'[' | b't' | b'f') | None => None,
        Some(_) => Some(RequestId::new(id.get())),
    }
}

/// Ids of ours are whole numbers. Some peers give them back as text, or as `1.0`.
fn own_id(id: &str) -> Option<u64> {
    integer(id).and_then(|id| id.try_into().ok())
}

/// A whole number, be it written as text or with a fraction of zero.
fn integer(text: &str) -> Option<i64> {
    /// Up to here a float tells one whole number from the next.
    const EXACT: f64 = (1_u64 << 53) as f64;
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let begin = text.trim_start_matches('-').as_bytes().first();
    if !begin.is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let float = || text.parse().ok().filter(|n: &f64| n.fract() == 0.0 && n.abs() <= EXACT);
    text.parse().ok().or_else(|| float().map(|n| n as i64))
}

/// An error of the peer's. What is not as JSON-RPC wants it fails the request all the same; nothing of
/// it is lost, for then all of it is in `data`.
fn read_error(error: &RawValue) -> RemoteError {
    #[derive(Deserialize)]
    struct Told<'a> {
        #[serde(borrow, default)]
        code: Option<&'a RawValue>,
        #[serde(borrow, default)]
        message: Option<&'a RawValue>,
        #[serde(borrow, default)]
        data: Option<&'a RawValue>,
    }
    let text = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
    if let Some(message) = text(error) {
        return RemoteError::new(message);
    }
    let told = Some(error.get()).filter(|text| text.starts_with('{'));
    let Some(Ok(Told { code, message, data })) = told.map(serde_json::from_str) else {
        return RemoteError::new("an error of an unknown form").with_data(error);
    };
    let number = code.and_then(|code| integer(code.get()));
    let words = message.and_then(text);
    let is_odd = code.is_some() && number.is_none() || message.is_some() && words.is_none();
    RemoteError {
        code: number,
        message: words.unwrap_or_else(|| "no message".to_owned()),
        data: data.or(is_odd.then_some(error)).map(Payload::from),
    }
}

/// The members of a message; what is `null` is left out, but for an id and a result.
#[derive(Default)]
struct Wire<'a> {
    jsonrpc: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    result: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    /// Those that JSON-RPC does not know.
    others: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl Wire<'_> {
    fn meta(&self) -> Option<Payload> {
        struct Others<'a>(&'a [(Cow<'a, str>, &'a RawValue)]);
        impl Serialize for Others<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
            }
        }
        let meta = (!self.others.is_empty()).then(|| Payload::new(&Others(&self.others)));
        meta.and_then(Result::ok)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Wire<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Wire<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Wire<'de>, A::Error> {
                let mut wire = Wire::default();
                while let Some(Name(name)) = members.next_key::<Name<'de>>()? {
                    let value: &RawValue = members.next_value()?;
                    let there = Some(value).filter(|value| value.get() != "null");
                    let (member, value) = match &*name {
                        "jsonrpc" => (&mut wire.jsonrpc, there),
                        "id" => (&mut wire.id, Some(value)),
                        "method" => (&mut wire.method, there),
                        "params" => (&mut wire.params, there),
                        "result" => (&mut wire.result, Some(value)),
                        "error" => (&mut wire.error, there),
                        _ => {
                            wire.others.push((name, value));
                            continue;
                        }
                    };
                    if member.is_some() {
                        return Err(serde::de::Error::custom("a member that is there twice"));
                    }
                    *member = value;
                }
                Ok(wire)
            }
        }
        from.deserialize_map(Members)
    }
}

/// The name of a member, which is borrowed where it holds no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Serialize)]
struct WireError<'a> {
    code: i64,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

// ---- what is nearly JSON --------------------------------------------------------------------------

/// What can be told of an object that is no JSON, as with `NaN` in it, or that breaks off.
#[derive(Default)]
struct Members {
    id: Option<u64>,
    is_request: bool,
}

impl Members {
    fn of(text: &[u8]) -> Self {
        let mut members = Self::default();
        if text.trim_ascii_start().first() == Some(&b'{') {
            items(text, |item| members.take(item));
        }
        members
    }

    fn take(&mut self, member: &[u8]) {
        let value = |name: &str| {
            let rest = member.trim_ascii().strip_prefix(name.as_bytes())?;
            let value = rest.trim_ascii_start().strip_prefix(b":")?;
            std::str::from_utf8(value.trim_ascii()).ok()
        };
        if let Some(id) = value(r#""id""#) {
            self.id = self.id.or(own_id(id));
        }
        self.is_request |= value(r#""method""#).is_some_and(|method| method != "null");
    }
}

/// Gives what stands between the commas of an object or an array. What is nested and what is quoted is
/// left whole, and what has no end is left out.
fn items<'a>(text: &'a [u8], mut each: impl FnMut(&'a [u8])) {
    let (mut depth, mut quoted, mut escaped, mut begin) = (0_usize, false, false, 0);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => {
                depth += 1;
                if depth == 1 {
                    begin = at + 1;
                }
            }
            b'}' | b']' if depth == 1 => return each(&text[begin..at]),
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => {
                each(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Id<'a> {
    Ours(u64),
    /// As the peer wrote it.
    Theirs(&'a RawValue),
}

#[derive(Serialize)]
struct Sent<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<WireError<'a>>,
}

impl Protocol for JsonRpc {
    fn encode(&self, message: &Outgoing<'_>, frame: &mut Vec<u8>) -> Result<(), Unsupported> {
        let mut sent = Sent {
            jsonrpc: "2.0",
            id: None,
            method: None,
            params: None,
            result: None,
            error: None,
        };
        // What `sent` borrows.
        let (id_text, no_value);
        let raw = |id: &str| RawValue::from_string(id.to_owned()).expect("an id is JSON");
        match *message {
            Outgoing::Request { id, method, params, .. } => {
                sent = Sent { id: Some(Id::Ours(id)), method: Some(method), params, ..sent };
            }
            Outgoing::Notification { method, params } => {
                sent = Sent { method: Some(method), params, ..sent };
            }
            Outgoing::Item { .. } => {
                return Err(Unsupported::new("JSON-RPC 2.0 has one answer to a request"));
            }
            Outgoing::Progress { .. } => {
                return Err(Unsupported::new("JSON-RPC 2.0 has no progress"));
            }
            Outgoing::Cancel { .. } => {
                return Err(Unsupported::new("JSON-RPC 2.0 has no cancel"));
            }
            Outgoing::Answer { to, value } => {
                id_text = raw(to.as_str());
                sent = Sent { id: Some(Id::Theirs(&id_text)), result: Some(value), ..sent };
            }
            Outgoing::Failure { to, error } => {
                id_text = raw(to.as_str());
                let error = WireError {
                    code: error.code.unwrap_or(RemoteError::SERVER_ERROR),
                    message: &error.message,
                    data: error.data.as_ref().map(Payload::raw),
                };
                sent = Sent { id: Some(Id::Theirs(&id_text)), error: Some(error), ..sent };
            }
            Outgoing::End { to } => {
                id_text = raw(to.as_str());
                no_value = Payload::null();
                sent = Sent { id: Some(Id::Theirs(&id_text)), result: Some(&no_value), ..sent };
            }
        }
        if sent.params.is_some_and(|params| !params.as_str().starts_with(['{', '['])) {
            return Err(Unsupported::new(
                "JSON-RPC 2.0 takes an object or an array for parameters; put a single value into an array",
            ));
        }
        serde_json::to_writer(frame, &sent).expect("writing JSON to memory");
        Ok(())
    }

    fn decode(&self, frame: &[u8], messages: &mut Vec<Incoming>) -> Result<(), Malformed> {
        let text = frame.strip_prefix("\u{feff}".as_bytes()).unwrap_or(frame).trim_ascii();
        if text.first() != Some(&b'[') {
            messages.push(Self::message(text)?);
            return Ok(());
        }
        let batch: Vec<&RawValue> = match serde_json::from_slice(text) {
            Ok(batch) => batch,
            Err(error) => {
                Self::broken_batch(text, messages);
                let malformed = Malformed::new(syntax(&error));
                return Err(refused(malformed, None, RemoteError::PARSE_ERROR));
            }
        };
        if batch.is_empty() {
            let malformed = Malformed::new("an empty batch");
            return Err(refused(malformed, None, RemoteError::INVALID_REQUEST));
        }
        let (mut bad, mut read) = (0, Vec::new());
        for message in batch {
            match Self::message(message.get().as_bytes()) {
                Ok(message) => read.push(message),
                Err(malformed) => {
                    bad += 1;
                    if bad <= MAX_BAD || malformed.answers().is_some() {
                        read.push(Incoming::Malformed(malformed));
                    }
                }
            }
        }
        // What is answered to it is one frame, too.
        let is_answered = |message: &Incoming| match message {
            Incoming::Request { .. } => true,
            Incoming::Malformed(malformed) => malformed.refusal().is_some(),
            _ => false,
        };
        if read.iter().any(is_answered) {
            messages.push(Incoming::Batch(read));
        } else {
            messages.append(&mut read);
        }
        Ok(())
    }

    fn join(&self, answers: &[&[u8]], frame: &mut Vec<u8>) {
        frame.push(b'[');
        frame.extend(answers.join(&b','));
        frame.push(b']');
    }

    /// As an error to a request whose id is not known.
    fn encode_refusal(&self, error: &RemoteError, frame: &mut Vec<u8>) -> Result<(), Unsupported> {
        self.encode(&Outgoing::Failure { to: &RequestId::new("null"), error }, frame)
    }

    /// By an id near the beginning or at the very end, which is where peers write it.
    fn answer_id(&self, head: &[u8], tail: &[u8]) -> Option<u64> {
        let mut members = Members::of(head);
        // Right before the brace that ends the message, a number cannot be part of a text.
        if let Some(rest) = tail.trim_ascii_end().strip_suffix(b"}")
            && let Some(comma) = rest.iter().rposition(|byte| *byte == b',')
        {
            members.take(&rest[comma + 1..]);
        }
        members.id.filter(|_| !members.is_request)
    }

    fn concerns(&self, outline: &[u8]) -> Option<Concern> {
        #[derive(Deserialize)]
        struct Told<'a> {
            #[serde(borrow)]
            id: &'a RawValue,
            method: Option<IgnoredAny>,
        }
        let Told { id, method } = serde_json::from_slice(outline).ok()?;
        match method {
            Some(_) => request_id(id).map(Concern::Request),
            None => own_id(id.get()).map(Concern::Answer),
        }
    }
}

/// What is wrong with some JSON, without quoting it: it may hold a secret.
pub(super) fn syntax(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Eof => "JSON that breaks off",
        serde_json::error::Category::Data => "JSON of another shape",
        serde_json::error::Category::Io => "unreadable",
    };
    format!("{what}, at column {}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(protocol: JsonRpc, message: Outgoing<'_>) -> String {
        let mut frame = Vec::new();
        protocol.encode(&message, &mut frame).unwrap();
        String::from_utf8(frame).unwrap()
    }

    fn decode(protocol: JsonRpc, frame: &str) -> Result<Vec<Incoming>, Malformed> {
        let mut messages = Vec::new();
        protocol.decode(frame.as_bytes(), &mut messages).map(|()| messages)
    }

    #[test]
    fn a_null_answer_is_an_answer() {
        let messages = decode(JsonRpc::new(), r#"{"jsonrpc":"2.0","id":3,"result":null}"#).unwrap();
        let [Incoming::Answer { id: 3, value }] = &*messages else { panic!("{messages:?}") };
        assert_eq!(value.as_str(), "null");
    }

    #[test]
    fn an_id_comes_back_as_it_was_written() {
        for id in [r#""seven""#, "7", "-7", "7.0", "null", r#""7""#] {
            let frame = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#);
            let messages = decode(JsonRpc::new(), &frame).unwrap();
            let [Incoming::Request { id: to, .. }] = &*messages else { panic!("{messages:?}") };
            let said = encode(JsonRpc::new(), Outgoing::Answer { to, value: &Payload::null() });
            assert_eq!(said, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":null}}"#));
        }
    }

    #[test]
    fn a_batch_is_several_messages_and_a_bad_one_is_an_error() {
        let two = r#" [{"id":1,"result":1},{"id":2,"error":{"code":-1,"message":"no"}}]"#;
        assert_eq!(decode(JsonRpc::new(), two).unwrap().len(), 2);
        for bad in ["", "{}", "[]", r#"{"id":1}"#, r#"{"id":{},"method":"m"}"#, "nonsense"] {
            decode(JsonRpc::new(), bad).expect_err(bad);
        }
        let messages = decode(JsonRpc::new(), "[1, [2]]").unwrap();
        let [Incoming::Batch(bad)] = &*messages else { panic!("{messages:?}") };
        assert!(bad.iter().all(|message| matches!(message, Incoming::Malformed(_))));
    }

    #[test]
    fn an_error_does_not_quote_what_came() {
        let error = decode(JsonRpc::new(), r#"{"id":1,"result":1,"method":hunter2}"#).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let error = decode(JsonRpc::new(), r#"{"id":1,"error":hunter2}"#).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn a_broken_answer_names_its_request_and_a_broken_request_none_of_ours() {
        let named = |frame: &str| decode(JsonRpc::new(), frame).unwrap_err().answers();
        assert_eq!(named(r#"{"id":7,"result":NaN}"#), Some(7));
        assert_eq!(named(r#"{"result":{"id":8,"x":[NaN,"}"]},"id" : "7"}"#), Some(7));
        assert_eq!(named(r#"{"id":7,"result":"half an ans"#), Some(7));
        assert_eq!(named(r#"{"result":{"id":8,"x":NaN}}"#), None);
        assert_eq!(named(r#"{"result":NaN,"id":7"#), None, "it may be 71");
        assert_eq!(named(r#"{"method":"m","params":[NaN],"id":7}"#), None);
        assert_eq!(named(r#"{"id":7,"note":"{\"id\":8}\"","result":Infinity}"#), Some(7));
        assert_eq!(named(r#"log: {"id":7}"#), None);
        let refusal = |frame: &str| {
            let malformed = decode(JsonRpc::new(), frame).unwrap_err();
            malformed.refusal().map(|(id, error)| (id.to_string(), error.code.unwrap()))
        };
        let is = |id: &str, code| Some((id.to_owned(), code));
        assert_eq!(refusal("{nonsense"), is("null", RemoteError::PARSE_ERROR));
        assert_eq!(refusal("5"), is("null", RemoteError::INVALID_REQUEST));
        assert_eq!(refusal(r#"{"id":"a","method":5}"#), is(r#""a""#, RemoteError::INVALID_REQUEST));
        assert_eq!(
            refusal(r#"{"id":true,"method":"m"}"#),
            is("null", RemoteError::INVALID_REQUEST)
        );
        assert_eq!(refusal(r#"{"id":"a","result":1}"#), None);
    }

    #[test]
    fn a_broken_batch_fails_its_answers_and_runs_no_request() {
        let batch =
            r#"[{"id":1,"result":1},{"id":2,"result":NaN},{"id":3,"method":"m"}, nonsense]"#;
        let mut messages = Vec::new();
        JsonRpc::new().decode(batch.as_bytes(), &mut messages).unwrap_err();
        let [Incoming::Answer { id: 1, .. }, Incoming::Malformed(second)] = &*messages else {
            panic!("{messages:?}")
        };
        assert_eq!(second.answers(), Some(2));
    }

    #[test]
    fn a_batch_of_nothing_but_bad_ones_takes_little_memory() {
        let batch = format!("[{}1]", "1,".repeat(100_000));
        let messages = decode(JsonRpc::new(), &batch).unwrap();
        let [Incoming::Batch(bad)] = &*messages else { panic!("{} messages", messages.len()) };
        assert_eq!(bad.len(), MAX_BAD);
    }

    #[test]
    fn an_answer_over_the_limit_names_its_request() {
        let id =
            |head: &str, tail: &str| JsonRpc::new().answer_id(head.as_bytes(), tail.as_bytes());
        assert_eq!(id(r#"{"jsonrpc":"2.0","id":7,"result":"xxx"#, r#"xxx"}"#), Some(7));
        assert_eq!(id(r#"{"jsonrpc":"2.0","result":"xxx"#, r#"xxx","id":7}"#), Some(7));
        assert_eq!(id(r#"{"jsonrpc":"2.0","result":"xxx"#, r#"xxx,\"id\":7}"}"#), None);
        assert_eq!(id(r#"{"id":7,"method":"m","params":"xxx"#, r#"xxx"}"#), None);
        assert_eq!(id(r#"{"method":"m","params":"xxx"#, r#"xxx","id":7}"#), None);
        assert_eq!(id("[[[[", "]]]]"), None);
    }
}
