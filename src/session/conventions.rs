//! What the Language Server Protocol and the Model Context Protocol have agreed on over JSON-RPC.

// What it links to is there with `duplex` only.
#![cfg_attr(not(all(feature = "duplex", unix)), allow(rustdoc::broken_intra_doc_links))]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::protocol::{Concern, Incoming, Malformed, Outgoing, Protocol, RequestId, Unsupported};
use super::{JsonRpc, Payload, RemoteError};

/// JSON-RPC with the conventions of the Language Server Protocol.
///
/// - `$/cancelRequest` calls a request off, which is answered all the same.
/// - What is asked by [`invoke`] carries a `partialResultToken` and a `workDoneToken` of ours, unless
///   it has some already. A `$/progress` with the first is one of several answers; one with the second
///   is [progress]; any other is a notification as all are.
/// - [`Request::item`] and [`Request::progress`] say the same to a peer that has given such tokens.
///
/// Over most streams it takes [`ContentLength`] for its framing.
///
/// [`invoke`]: super::duplex::Invoker::invoke
/// [progress]: super::duplex::Reply::Progress
/// [`Request::item`]: super::duplex::Request::item
/// [`Request::progress`]: super::duplex::Request::progress
/// [`ContentLength`]: super::duplex::ContentLength
///
/// ```
/// use sessile::session::{Lsp, Outgoing, Protocol};
///
/// let mut frame = Vec::new();
/// Lsp::new().encode(&Outgoing::Cancel { id: 7 }, &mut frame)?;
/// let cancel = r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":7}}"#;
/// assert_eq!(String::from_utf8(frame)?, cancel);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Lsp {
    json_rpc: JsonRpc,
}

/// JSON-RPC with the conventions of the Model Context Protocol.
///
/// - `notifications/cancelled` calls a request off, which is then not answered.
/// - What is asked by [`invoke`] carries a `progressToken` of ours, unless it has one already. A
///   `notifications/progress` with it is [progress]; any other is a notification as all are.
/// - [`Request::progress`] says the same to a peer that has given such a token.
///
/// Over standard streams its frames are lines, which is the default.
///
/// [`invoke`]: super::duplex::Invoker::invoke
/// [progress]: super::duplex::Reply::Progress
/// [`Request::progress`]: super::duplex::Request::progress
///
/// ```
/// use sessile::session::{Mcp, Outgoing, Protocol};
///
/// let mut frame = Vec::new();
/// Mcp::new().encode(&Outgoing::Cancel { id: 7 }, &mut frame)?;
/// assert!(String::from_utf8(frame)?.contains("notifications/cancelled"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Mcp {
    json_rpc: JsonRpc,
}

impl Lsp {
    /// The Language Server Protocol's.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Mcp {
    /// The Model Context Protocol's.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// Our tokens: text that no peer would think of, and the request's id.
const PARTIAL: &str = "sessile-partial-";
const WORK: &str = "sessile-work-";

/// The request that a token of ours, as it stands in JSON, belongs to.
fn ours(token: &RawValue, kind: &str) -> Option<u64> {
    token.get().strip_prefix('"')?.strip_suffix('"')?.strip_prefix(kind)?.parse().ok()
}

type Members = BTreeMap<String, Box<RawValue>>;

/// Adds members to an object; `None` if all are there, or it is none.
fn with_members(params: &Payload, members: &[(&str, String)]) -> Option<Payload> {
    let mut all: Members = params.parse().ok()?;
    let mut changed = false;
    for (name, value) in members {
        if !all.contains_key(*name) {
            all.insert((*name).to_owned(), RawValue::from_string(value.clone()).ok()?);
            changed = true;
        }
    }
    changed.then(|| Payload::new(&all).ok()).flatten()
}

/// Says a notification.
fn notify(
    json_rpc: JsonRpc,
    method: &str,
    params: &impl Serialize,
    frame: &mut Vec<u8>,
) -> Result<(), Unsupported> {
    let params = Payload::new(params).map_err(|_| Unsupported::new("what is not JSON"))?;
    json_rpc.encode(&Outgoing::Notification { method, params: Some(&params) }, frame)
}

/// Reads a frame, and each message of it once more by `read`.
fn decode(
    json_rpc: JsonRpc,
    frame: &[u8],
    messages: &mut Vec<Incoming>,
    read: fn(&mut Incoming),
) -> Result<(), Malformed> {
    let begin = messages.len();
    let decoded = json_rpc.decode(frame, messages);
    for message in &mut messages[begin..] {
        match message {
            Incoming::Batch(batch) => batch.iter_mut().for_each(read),
            message => read(message),
        }
    }
    decoded
}

/// Notes what the peer wants to see in all that is said of its request before the answer.
fn keep_token<'a, T: Deserialize<'a> + Serialize>(id: &mut RequestId, params: &'a Payload) {
    // Most have none, and need not be taken apart for that.
    if params.as_str().contains("Token\"")
        && let Ok(tokens) = serde_json::from_str::<T>(params.as_str())
        && let Ok(tokens) = serde_json::to_string(&tokens)
    {
        *id = id.clone().with_token(&tokens);
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LspTokens<'a> {
    #[serde(borrow, default)]
    partial_result_token: Option<&'a RawValue>,
    #[serde(borrow, default)]
    work_done_token: Option<&'a RawValue>,
}

#[derive(Serialize, Deserialize)]
struct LspProgress<'a> {
    #[serde(borrow)]
    token: &'a RawValue,
    #[serde(borrow)]
    value: &'a RawValue,
}

impl Lsp {
    fn read(message: &mut Incoming) {
        #[derive(Deserialize)]
        struct Cancel<'a> {
            #[serde(borrow)]
            id: &'a RawValue,
        }
        match message {
            Incoming::Request { id, params: Some(params), .. } => {
                keep_token::<LspTokens<'_>>(id, params);
            }
            Incoming::Notification { method, params: Some(params), .. } => {
                let read = match &**method {
                    "$/cancelRequest" => serde_json::from_str::<Cancel<'_>>(params.as_str())
                        .ok()
                        .map(|cancel| Incoming::Cancel { id: RequestId::new(cancel.id.get()) }),
                    "$/progress" => {
                        let told = serde_json::from_str::<LspProgress<'_>>(params.as_str()).ok();
                        told.and_then(|LspProgress { token, value }| {
                            let value = Payload::from(value);
                            match (ours(token, PARTIAL), ours(token, WORK)) {
                                (Some(id), _) => Some(Incoming::Item { id, value }),
                                (_, Some(id)) => Some(Incoming::Progress { id, value }),
                                _ => None,
                            }
                        })
                    }
                    _ => None,
                };
                if let Some(read) = read {
                    *message = read;
                }
            }
            _ => {}
        }
    }
}

impl Protocol for Lsp {
    fn encode(&self, message: &Outgoing<'_>, frame: &mut Vec<u8>) -> Result<(), Unsupported> {
        let (to, value, is_item) = match message {
            Outgoing::Cancel { id } => {
                return notify(self.json_rpc, "$/cancelRequest", &json!({ "id": id }), frame);
            }
            Outgoing::Item { to, value } => (to, value, true),
            Outgoing::Progress { to, value } => (to, value, false),
            message => return self.json_rpc.encode(message, frame),
        };
        let tokens =
            to.token().and_then(|tokens| serde_json::from_str::<LspTokens<'_>>(tokens).ok());
        let token = tokens.and_then(|tokens| {
            if is_item { tokens.partial_result_token } else { tokens.work_done_token }
        });
        let token = token.ok_or(Unsupported::new("the peer has given no token for that"))?;
        notify(self.json_rpc, "$/progress", &LspProgress { token, value: value.raw() }, frame)
    }

    fn decode(&self, frame: &[u8], messages: &mut Vec<Incoming>) -> Result<(), Malformed> {
        decode(self.json_rpc, frame, messages, Self::read)
    }

    fn answer_id(&self, head: &[u8], tail: &[u8]) -> Option<u64> {
        self.json_rpc.answer_id(head, tail)
    }

    fn concerns(&self, outline: &[u8]) -> Option<Concern> {
        self.json_rpc.concerns(outline)
    }

    fn encode_refusal(&self, error: &RemoteError, frame: &mut Vec<u8>) -> Result<(), Unsupported> {
        self.json_rpc.encode_refusal(error, frame)
    }

    fn with_progress(&self, id: u64, params: &Payload) -> Option<Payload> {
        let (partial, work) = (format!("\"{PARTIAL}{id}\""), format!("\"{WORK}{id}\""));
        with_members(params, &[("partialResultToken", partial), ("workDoneToken", work)])
    }

    fn join(&self, answers: &[&[u8]], frame: &mut Vec<u8>) {
        self.json_rpc.join(answers, frame);
    }

    fn answers_cancelled(&self) -> bool {
        true
    }
}

#[derive(Serialize, Deserialize)]
struct McpMeta<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: McpToken<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct McpToken<'a> {
    #[serde(borrow)]
    progress_token: &'a RawValue,
}

impl Mcp {
    fn read(message: &mut Incoming) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Cancelled<'a> {
            #[serde(borrow)]
            request_id: &'a RawValue,
        }
        match message {
            Incoming::Request { id, params: Some(params), .. } => {
                keep_token::<McpMeta<'_>>(id, params);
            }
            Incoming::Notification { method, params: Some(params), .. } => {
                let text = params.as_str();
                let read = match &**method {
                    "notifications/cancelled" => {
                        let cancelled = serde_json::from_str::<Cancelled<'_>>(text).ok();
                        cancelled.map(|Cancelled { request_id }| Incoming::Cancel {
                            id: RequestId::new(request_id.get()),
                        })
                    }
                    "notifications/progress" => {
                        let told = serde_json::from_str::<McpToken<'_>>(text).ok();
                        let id = told.and_then(|told| ours(told.progress_token, WORK));
                        id.map(|id| Incoming::Progress { id, value: params.clone() })
                    }
                    _ => None,
                };
                if let Some(read) = read {
                    *message = read;
                }
            }
            _ => {}
        }
    }
}

impl Protocol for Mcp {
    fn encode(&self, message: &Outgoing<'_>, frame: &mut Vec<u8>) -> Result<(), Unsupported> {
        match message {
            Outgoing::Cancel { id } => {
                let params = json!({ "requestId": id, "reason": "nobody waits any more" });
                notify(self.json_rpc, "notifications/cancelled", &params, frame)
            }
            Outgoing::Progress { to, value } => {
                let tokens = to.token().and_then(|tokens| serde_json::from_str(tokens).ok());
                let McpMeta { meta: McpToken { progress_token } } =
                    tokens.ok_or(Unsupported::new("the peer has given no token for that"))?;
                let token = [("progressToken", progress_token.get().to_owned())];
                let params = with_members(value, &token);
                let params = params.ok_or(Unsupported::new("progress is an object, in MCP"))?;
                notify(self.json_rpc, "notifications/progress", &params, frame)
            }
            message => self.json_rpc.encode(message, frame),
        }
    }

    fn decode(&self, frame: &[u8], messages: &mut Vec<Incoming>) -> Result<(), Malformed> {
        decode(self.json_rpc, frame, messages, Self::read)
    }

    fn answer_id(&self, head: &[u8], tail: &[u8]) -> Option<u64> {
        self.json_rpc.answer_id(head, tail)
    }

    fn concerns(&self, outline: &[u8]) -> Option<Concern> {
        self.json_rpc.concerns(outline)
    }

    fn encode_refusal(&self, error: &RemoteError, frame: &mut Vec<u8>) -> Result<(), Unsupported> {
        self.json_rpc.encode_refusal(error, frame)
    }

    fn with_progress(&self, id: u64, params: &Payload) -> Option<Payload> {
        let mut all: Members = params.parse().ok()?;
        let meta = all.get("_meta").map_or_else(|| json!({}).into(), |meta| (&**meta).into());
        let token = [("progressToken", format!("\"{WORK}{id}\""))];
        let meta = with_members(&meta, &token)?;
        all.insert("_meta".to_owned(), meta.raw().to_owned());
        Payload::new(&all).ok()
    }

    fn join(&self, answers: &[&[u8]], frame: &mut Vec<u8>) {
        self.json_rpc.join(answers, frame);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn said(protocol: &impl Protocol, message: &Outgoing<'_>) -> Value {
        let mut frame = Vec::new();
        protocol.encode(message, &mut frame).unwrap();
        serde_json::from_slice(&frame).unwrap()
    }

    fn heard(protocol: &impl Protocol, message: Value) -> Incoming {
        let mut messages = Vec::new();
        protocol.decode(message.to_string().as_bytes(), &mut messages).unwrap();
        messages.pop().unwrap()
    }

    #[test]
    fn a_token_of_ours_is_found_again_and_anybody_elses_is_a_notification() {
        let asked = Lsp::new().with_progress(7, &Payload::from(json!({"a": 1}))).unwrap();
        let asked = asked.value().unwrap();
        assert_eq!(asked["a"], 1);
        let told = |token: &Value| {
            heard(
                &Lsp::new(),
                json!({"method": "$/progress", "params": {"token": token, "value": 5}}),
            )
        };
        assert!(matches!(told(&asked["partialResultToken"]), Incoming::Item { id: 7, .. }));
        assert!(matches!(told(&asked["workDoneToken"]), Incoming::Progress { id: 7, .. }));
        for token in [json!(7), json!("7"), json!("sessile-partial-x"), json!(null)] {
            assert!(matches!(told(&token), Incoming::Notification { .. }), "{token}");
        }
        let asked =
            Mcp::new().with_progress(7, &Payload::from(json!({"_meta": {"a": 1}}))).unwrap();
        let asked = asked.value().unwrap();
        assert_eq!(asked["_meta"]["a"], 1);
        let token = &asked["_meta"]["progressToken"];
        let told = json!({"method": "notifications/progress",
            "params": {"progressToken": token, "progress": 3}});
        let Incoming::Progress { id: 7, value } = heard(&Mcp::new(), told) else { panic!() };
        assert_eq!(value.value().unwrap()["progress"], 3);
    }

    #[test]
    fn parameters_that_have_a_token_or_can_have_none_stay_as_they_are() {
        let both = json!({"partialResultToken": 1, "workDoneToken": 2});
        for params in [both, json!([1]), json!("text")] {
            assert!(Lsp::new().with_progress(7, &params.into()).is_none());
        }
        for params in [json!({"_meta": {"progressToken": 1}}), json!([1]), json!({"_meta": 3})] {
            assert!(Mcp::new().with_progress(7, &params.into()).is_none());
        }
        assert!(Lsp::new().with_progress(7, &Payload::null()).is_none());
    }

    #[test]
    fn what_is_said_before_the_answer_carries_the_token_that_the_peer_gave() {
        let asked = json!({"id": "q", "method": "m",
            "params": {"partialResultToken": [1], "workDoneToken": "w"}});
        let Incoming::Request { id: to, .. } = heard(&Lsp::new(), asked) else { panic!() };
        let value = &Payload::from(json!(5));
        let item = said(&Lsp::new(), &Outgoing::Item { to: &to, value });
        assert_eq!(item["params"], json!({"token": [1], "value": 5}));
        let progress = said(&Lsp::new(), &Outgoing::Progress { to: &to, value });
        assert_eq!(progress["params"], json!({"token": "w", "value": 5}));
        let without = &RequestId::new("1");
        Lsp::new().encode(&Outgoing::Item { to: without, value }, &mut Vec::new()).unwrap_err();

        let asked = json!({"id": 1, "method": "m", "params": {"_meta": {"progressToken": 9}}});
        let Incoming::Request { id: to, .. } = heard(&Mcp::new(), asked) else { panic!() };
        let value = &Payload::from(json!({"progress": 1}));
        let progress = said(&Mcp::new(), &Outgoing::Progress { to: &to, value });
        assert_eq!(progress["params"], json!({"progress": 1, "progressToken": 9}));
    }

    #[test]
    fn a_cancel_names_the_request_however_it_is_called() {
        for id in [json!("a"), json!(3)] {
            let lsp =
                heard(&Lsp::new(), json!({"method": "$/cancelRequest", "params": {"id": id}}));
            let mcp = json!({"method": "notifications/cancelled", "params": {"requestId": id}});
            for cancel in [lsp, heard(&Mcp::new(), mcp)] {
                let Incoming::Cancel { id: of } = cancel else { panic!("{cancel:?}") };
                assert_eq!(of.as_str(), id.to_string());
            }
        }
        let odd = heard(&Lsp::new(), json!({"method": "$/cancelRequest", "params": {}}));
        assert!(matches!(odd, Incoming::Notification { .. }));
    }

    #[test]
    fn members_that_json_rpc_does_not_know_are_handed_on() {
        let message = json!({"method": "m", "params": {}, "sessionId": "s", "jsonrpc": "2.0"});
        let Incoming::Notification { meta: Some(meta), .. } = heard(&JsonRpc::new(), message)
        else {
            panic!()
        };
        assert_eq!(meta.value().unwrap(), json!({"sessionId": "s"}));
    }
}
