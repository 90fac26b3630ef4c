//! JSON-RPC 2.0, <https://www.jsonrpc.org/specification>.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::protocol::{Incoming, Malformed, Outgoing, Protocol, RequestId, Unsupported};
use super::{Payload, RemoteError};

/// JSON-RPC 2.0. Batches are understood, and not sent.
///
/// By itself it knows one answer to a request. With [`partial_results`](Self::partial_results) it
/// knows several.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonRpc {
    partial_results: bool,
}

const PROGRESS: &str = "$/progress";
const CANCEL: &str = "$/cancelRequest";

impl JsonRpc {
    /// JSON-RPC 2.0, and no more.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With the conventions of the Language Server Protocol: each of several answers is a notification
    /// `$/progress` whose `token` is the request's id, and `$/cancelRequest` tells that nobody waits
    /// any more.
    #[must_use]
    pub fn partial_results(mut self) -> Self {
        self.partial_results = true;
        self
    }

    fn read(self, wire: Wire<'_>) -> Result<Incoming, Malformed> {
        let params = wire.params.map(Payload::from);
        match (wire.method, wire.id, wire.result, wire.error) {
            (Some(method), Some(id), None, None) => Ok(Incoming::Request {
                id: request_id(id)?,
                within: None,
                method: method.into_owned(),
                params,
                meta: None,
            }),
            (Some(method), None, None, None) => self.read_notification(method, params),
            (None, Some(id), Some(result), None) => {
                Ok(Incoming::Answer { id: own_id(id)?, value: result.into() })
            }
            (None, id, None, Some(error)) => {
                let id = id.filter(|id| id.get() != "null").map(own_id).transpose()?;
                let WireError { code, message, data } = error;
                let data = data.map(Payload::from);
                let error = RemoteError { code: Some(code), message: message.into_owned(), data };
                Ok(Incoming::Failure { id, error })
            }
            _ => Err(Malformed::new("neither a request nor an answer")),
        }
    }

    fn read_notification(
        self,
        method: Cow<'_, str>,
        params: Option<Payload>,
    ) -> Result<Incoming, Malformed> {
        #[derive(Deserialize)]
        struct Progress {
            token: u64,
            value: Payload,
        }
        #[derive(Deserialize)]
        struct Cancel {
            id: Payload,
        }
        if self.partial_results && method == PROGRESS {
            // A token that is no number is none of ours: somebody else's progress.
            if let Some(Ok(Progress { token: id, value })) = params.as_ref().map(Payload::parse) {
                return Ok(Incoming::Item { id, value });
            }
        }
        if self.partial_results && method == CANCEL {
            let id = params.as_ref().and_then(|params| params.parse::<Cancel>().ok());
            let Cancel { id } = id.ok_or_else(|| Malformed::new("a cancel without an id"))?;
            return Ok(Incoming::Cancel { id: request_id(id.raw())? });
        }
        Ok(Incoming::Notification { method: method.into_owned(), params })
    }
}

/// Ids of the peer's are kept as they are written: a string or a number, or even null.
fn request_id(id: &RawValue) -> Result<RequestId, Malformed> {
    match id.get().as_bytes().first() {
        Some(b'{' | b'[' | b't' | b'f') | None => Err(Malformed::new("an id of a wrong type")),
        Some(_) => Ok(RequestId::new(id.get())),
    }
}

/// Ids of ours are numbers. What else comes as one is nobody's.
fn own_id(id: &RawValue) -> Result<u64, Malformed> {
    id.get().parse().map_err(|_| Malformed::new("an answer to an id that is none of ours"))
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<WireError<'a>>,
}

#[derive(Serialize, Deserialize)]
struct WireError<'a> {
    code: i64,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

/// What is there, be it `null`: `Option` by itself would take that for absence.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
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
        let (id_text, composed, no_value);
        let raw = |id: &str| RawValue::from_string(id.to_owned()).expect("an id is JSON");
        match *message {
            Outgoing::Request { id, method, params, .. } => {
                sent = Sent { id: Some(Id::Ours(id)), method: Some(method), params, ..sent };
            }
            Outgoing::Notification { method, params } => {
                sent = Sent { method: Some(method), params, ..sent };
            }
            Outgoing::Cancel { id } if self.partial_results => {
                composed = Payload::from(serde_json::json!({ "id": id }));
                sent = Sent { method: Some(CANCEL), params: Some(&composed), ..sent };
            }
            Outgoing::Item { to, value } if self.partial_results => {
                #[derive(Serialize)]
                struct Progress<'a> {
                    token: &'a RawValue,
                    value: &'a Payload,
                }
                let progress = Progress { token: &raw(to.as_str()), value };
                composed = Payload::new(&progress).expect("both are JSON");
                sent = Sent { method: Some(PROGRESS), params: Some(&composed), ..sent };
            }
            Outgoing::Item { .. } => {
                return Err(Unsupported::new("JSON-RPC 2.0 has one answer to a request"));
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
                    message: error.message.as_str().into(),
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
        serde_json::to_writer(frame, &sent).expect("writing JSON to memory");
        Ok(())
    }

    fn decode(&self, frame: &[u8], messages: &mut Vec<Incoming>) -> Result<(), Malformed> {
        let is_batch = frame.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
        let malformed = |error: serde_json::Error| Malformed::new(syntax(&error));
        if is_batch {
            let batch: Vec<Wire<'_>> = serde_json::from_slice(frame).map_err(malformed)?;
            for wire in batch {
                messages.push(self.read(wire)?);
            }
        } else {
            let wire = serde_json::from_slice(frame).map_err(malformed)?;
            messages.push(self.read(wire)?);
        }
        Ok(())
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
        for bad in ["", "{}", "[1]", r#"{"id":1}"#, r#"{"id":{},"method":"m"}"#, "nonsense"] {
            decode(JsonRpc::new(), bad).expect_err(bad);
        }
    }

    #[test]
    fn an_error_does_not_quote_what_came() {
        let error = decode(JsonRpc::new(), r#"{"id":1,"result":1,"method":hunter2}"#).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let error = decode(JsonRpc::new(), r#"{"id":1,"error":"hunter2"}"#).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn several_answers_go_by_progress_and_only_if_asked_for() {
        let lsp = JsonRpc::new().partial_results();
        let (to, value) = (&RequestId::new("7"), &Payload::from(serde_json::json!([1])));
        let said = encode(lsp, Outgoing::Item { to, value });
        let messages = decode(lsp, &said).unwrap();
        assert!(matches!(&*messages, [Incoming::Item { id: 7, .. }]), "{messages:?}");
        let messages = decode(JsonRpc::new(), &said).unwrap();
        assert!(matches!(&*messages, [Incoming::Notification { .. }]), "{messages:?}");
        JsonRpc::new().encode(&Outgoing::Item { to, value }, &mut Vec::new()).unwrap_err();
        let messages = decode(lsp, &encode(lsp, Outgoing::Cancel { id: 7 })).unwrap();
        assert!(matches!(&*messages, [Incoming::Cancel { id }] if id == to), "{messages:?}");
    }
}
