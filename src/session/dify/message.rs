//! What tools, agent strategies and datasources answer: messages.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::BASE64;
use serde::Serialize;
use serde_json::{Value, json};

/// A piece of a blob, in bytes, as the SDK cuts it.
const BLOB_CHUNK: usize = 8192;
/// A piece of text, in bytes.
const TEXT_CHUNK: usize = 512 << 10;

/// A message of a tool, an agent strategy or a datasource.
///
/// [`ActionRequest::send`](super::ActionRequest::send) cuts what is long and can be cut: texts, streamed
/// variables and blobs.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use sessile::session::dify::{ActionRequest, ToolMessage};
///
/// fn cross(request: &mut ActionRequest) -> anyhow::Result<()> {
///     request.send(ToolMessage::text("On board."))?;
///     request.send(ToolMessage::json(json!({"boat": "Tide"})))?;
///     request.send(ToolMessage::variable("boat", "Tide"))?;
///     request.send(ToolMessage::blob(vec![0; 20_000]).meta(json!({"mime_type": "image/png"})))?;
///     Ok(())
/// }
/// # drop(cross);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ToolMessage {
    body: Body,
    meta: Value,
}

#[derive(Clone, Debug, PartialEq)]
enum Body {
    Whole(&'static str, Value),
    Text(String),
    Streamed(String, String),
    Blob(Vec<u8>),
}

/// As it goes over the wire.
#[derive(Serialize)]
pub(super) struct Piece<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    message: Value,
    meta: &'a Value,
}

impl ToolMessage {
    fn whole(kind: &'static str, message: Value) -> Self {
        Body::Whole(kind, message).into()
    }

    /// Makes text; several are shown as one.
    pub fn text(text: impl Into<String>) -> Self {
        Body::Text(text.into()).into()
    }

    /// Makes JSON: an object or a list.
    #[must_use]
    pub fn json(value: Value) -> Self {
        Self::whole("json", json!({"json_object": value}))
    }

    /// Makes a link.
    pub fn link(url: impl Into<String>) -> Self {
        Self::whole("link", json!({"text": url.into()}))
    }

    /// Makes an image, by its URL.
    pub fn image(url: impl Into<String>) -> Self {
        Self::whole("image", json!({"text": url.into()}))
    }

    /// Makes a file of its bytes; its `meta` says the `mime_type`, and may say the `filename`.
    pub fn blob(bytes: impl Into<Vec<u8>>) -> Self {
        Body::Blob(bytes.into()).into()
    }

    /// Makes a variable, which a workflow may use.
    pub fn variable(name: impl Into<String>, value: impl Into<Value>) -> Self {
        let message = json!({
            "variable_name": name.into(), "variable_value": value.into(), "stream": false,
        });
        Self::whole("variable", message)
    }

    /// Makes a piece of a variable that is text: the pieces of one name are put together.
    pub fn streamed_variable(name: impl Into<String>, piece: impl Into<String>) -> Self {
        Body::Streamed(name.into(), piece.into()).into()
    }

    /// Makes what was found in datasets, and the text of it for a model.
    pub fn retriever_resources(
        resources: impl IntoIterator<Item = RetrieverResource>,
        context: impl Into<String>,
    ) -> Self {
        let resources = Vec::from_iter(resources);
        let message = json!({"retriever_resources": resources, "context": context.into()});
        Self::whole("retriever_resources", message)
    }

    /// Adds what else there is to say of it, an object.
    #[must_use]
    pub fn meta(mut self, meta: Value) -> Self {
        self.meta = meta;
        self
    }

    /// The pieces that it goes over the wire in, one after the other, until one fails.
    pub(super) fn pieces<E>(
        &self,
        cuts_blobs: bool,
        mut send: impl FnMut(&Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let meta = &self.meta;
        match &self.body {
            Body::Blob(bytes) if !cuts_blobs => {
                send(&Piece { kind: "blob", message: json!({"blob": BASE64.encode(bytes)}), meta })
            }
            Body::Whole(kind, message) => send(&Piece { kind, message: message.clone(), meta }),
            Body::Text(text) => each_part(text, |part| {
                send(&Piece { kind: "text", message: json!({"text": part}), meta })
            }),
            Body::Streamed(name, text) => each_part(text, |part| {
                let message = json!({
                    "variable_name": name, "variable_value": part, "stream": true,
                });
                send(&Piece { kind: "variable", message, meta })
            }),
            Body::Blob(bytes) => {
                let id = unique();
                let chunks = bytes.chunks(BLOB_CHUNK);
                let count = chunks.len();
                let chunks = chunks.map(|chunk| (chunk, false)).chain([(&[][..], true)]);
                for (sequence, (chunk, end)) in chunks.enumerate() {
                    debug_assert!(sequence <= count);
                    let message = json!({
                        "id": id, "sequence": sequence, "total_length": bytes.len(),
                        "blob": BASE64.encode(chunk), "end": end,
                    });
                    send(&Piece { kind: "blob_chunk", message, meta })?;
                }
                Ok(())
            }
        }
    }
}

impl From<Body> for ToolMessage {
    fn from(body: Body) -> Self {
        Self { body, meta: Value::Null }
    }
}

impl From<&ToolMessage> for ToolMessage {
    fn from(message: &ToolMessage) -> Self {
        message.clone()
    }
}

/// The parts of a text, none of which is long; one if it is empty.
fn each_part<E>(text: &str, mut each: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
    let mut rest = text;
    while rest.len() > TEXT_CHUNK {
        let (part, after) = rest.split_at(boundary(rest, TEXT_CHUNK));
        each(part)?;
        rest = after;
    }
    each(rest)
}

/// So far a text may be cut, not in the middle of a character.
pub(super) fn boundary(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// 32 hexadecimal digits that are given out once.
pub(super) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let chance = RandomState::new().hash_one(std::process::id());
    format!("{chance:016x}{:016x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A step of what is done, which Dify shows: begun, then finished or failed.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use sessile::session::dify::{ActionRequest, LogStep};
///
/// fn think(request: &mut ActionRequest) -> anyhow::Result<()> {
///     let round = LogStep::new("round 1").data(json!({"asked": "which boat?"}));
///     request.send(&round)?;
///     let call = LogStep::new("call").within(&round);
///     request.send(&call)?;
///     request.send(call.failed("no boat"))?;
///     request.send(round.finished(json!({"answered": "none"})))?;
///     Ok(())
/// }
/// # drop(think);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LogStep {
    id: String,
    label: String,
    within: Option<String>,
    status: &'static str,
    error: Option<String>,
    data: Value,
    metadata: Value,
}

impl LogStep {
    /// Makes one that begins.
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            id: unique(),
            label: label.into(),
            within: None,
            status: "start",
            error: None,
            data: json!({}),
            metadata: Value::Null,
        }
    }

    /// Makes it a part of another.
    #[must_use]
    pub fn within(mut self, step: &LogStep) -> Self {
        self.within = Some(step.id.clone());
        self
    }

    /// Sets its particulars, an object.
    #[must_use]
    pub fn data(mut self, data: Value) -> Self {
        self.data = data;
        self
    }

    /// Sets what Dify adds up, an object: `elapsed_time`, `total_tokens`, `provider` and so on.
    #[must_use]
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.metadata = metadata;
        self
    }

    /// Makes the message that it has succeeded, with these particulars.
    #[must_use]
    pub fn finished(&self, data: Value) -> Self {
        Self { status: "success", data, ..self.clone() }
    }

    /// Makes the message that it has failed.
    #[must_use]
    pub fn failed(&self, error: impl Into<String>) -> Self {
        Self { status: "error", error: Some(error.into()), ..self.clone() }
    }
}

impl From<LogStep> for ToolMessage {
    fn from(step: LogStep) -> Self {
        let message = json!({
            "id": step.id, "label": step.label, "parent_id": step.within, "error": step.error,
            "status": step.status, "data": step.data, "metadata": step.metadata,
        });
        Self::whole("log", message)
    }
}

impl From<&LogStep> for ToolMessage {
    fn from(step: &LogStep) -> Self {
        step.clone().into()
    }
}

/// A piece of a document of a dataset. All fields may be left out.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{RetrieverResource, ToolMessage};
///
/// let found = RetrieverResource {
///     document_name: Some("Log of 1901".to_owned()),
///     content: Some("Fog all day.".to_owned()),
///     score: Some(0.9),
///     ..RetrieverResource::default()
/// };
/// let message = ToolMessage::retriever_resources([found], "Fog all day.");
/// # drop(message);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs)] // they are the fields of Dify's own
pub struct RetrieverResource {
    pub position: Option<u64>,
    pub dataset_id: Option<String>,
    pub dataset_name: Option<String>,
    pub document_id: Option<String>,
    pub document_name: Option<String>,
    pub data_source_type: Option<String>,
    pub segment_id: Option<String>,
    pub retriever_from: Option<String>,
    pub score: Option<f64>,
    pub hit_count: Option<u64>,
    pub word_count: Option<u64>,
    pub segment_position: Option<u64>,
    pub index_node_hash: Option<String>,
    pub content: Option<String>,
    pub page: Option<u64>,
    pub doc_metadata: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(message: &ToolMessage) -> Vec<Value> {
        let mut all = Vec::new();
        let taken = message.pieces(true, |piece| {
            all.push(serde_json::to_value(piece).unwrap());
            Ok::<_, ()>(())
        });
        taken.unwrap();
        all
    }

    #[test]
    fn what_is_long_goes_in_pieces_that_make_up_the_whole() {
        let text = "aé".repeat(TEXT_CHUNK);
        for message in [ToolMessage::text(&*text), ToolMessage::streamed_variable("v", &*text)] {
            let all = pieces(&message);
            assert!(all.len() > 2);
            let part = |piece: &Value| {
                let message = &piece["message"];
                let part = message.get("text").unwrap_or(&message["variable_value"]);
                part.as_str().unwrap().to_owned()
            };
            assert!(all.iter().all(|piece| part(piece).len() <= TEXT_CHUNK));
            assert_eq!(all.iter().map(part).collect::<String>(), text);
        }
        let all = pieces(&ToolMessage::blob(vec![7; 20_000]).meta(json!({"m": 1})));
        let lengths: Vec<_> = all
            .iter()
            .map(|piece| BASE64.decode(piece["message"]["blob"].as_str().unwrap().as_bytes()))
            .map(|bytes| bytes.unwrap().len())
            .collect();
        assert_eq!(lengths, [8192, 8192, 3616, 0]);
        let ends: Vec<_> = all.iter().map(|piece| piece["message"]["end"] == true).collect();
        assert_eq!(ends, [false, false, false, true]);
        assert!(all.iter().all(|piece| piece["meta"]["m"] == 1 && piece["type"] == "blob_chunk"));
    }
}
