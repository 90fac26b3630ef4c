//! What a plugin can ask of Dify, on behalf of a request.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::action::SessionContext;
use super::file::{self, UploadedFile};
use super::model::{
    EmbeddingInput, Embeddings, LlmAnswer, LlmChunk, LlmRequest, ModelConfig, MultimodalContent,
    NodeAnswer, Ranking,
};
use super::outgoing::Outlet;
use super::wire::LOG;
use crate::session::duplex::{Invocation, Invoker};
use crate::session::error::Kind;
use crate::session::{Malformed, SessionError};

/// How long posting a file may take.
const UPLOAD: Duration = Duration::from_secs(60);

/// What can be asked of Dify.
///
/// # Examples
///
/// ```
/// use serde_json::{Value, json};
/// use sessile::session::dify::{Dify, InvokeKind};
///
/// fn app(dify: &Dify) -> anyhow::Result<Value> {
///     Ok(dify.call(InvokeKind::FetchApp, &json!({"app_id": "APP"}))?)
/// }
/// # drop(app);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvokeKind {
    /// Run a tool.
    Tool,
    /// Ask a language model.
    Llm,
    /// Ask a language model for an answer of a given shape.
    LlmStructuredOutput,
    /// Embed texts.
    TextEmbedding,
    /// Embed texts and images.
    MultimodalEmbedding,
    /// Put documents in order.
    Rerank,
    /// Put documents with images in order.
    MultimodalRerank,
    /// Speak a text.
    Tts,
    /// Write down what is said.
    Speech2Text,
    /// Judge a text.
    Moderation,
    /// Extract parameters, as the workflow node does.
    NodeParameterExtractor,
    /// Classify a question, as the workflow node does.
    NodeQuestionClassifier,
    /// Run an app: chat, completion or workflow.
    App,
    /// Keep something.
    Storage,
    /// Have a file uploaded.
    UploadFile,
    /// Sum up a text by the system's model.
    SystemSummary,
    /// Look up an app.
    FetchApp,
}

impl InvokeKind {
    /// As the protocol writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Llm => "llm",
            Self::LlmStructuredOutput => "llm_structured_output",
            Self::TextEmbedding => "text_embedding",
            Self::MultimodalEmbedding => "multimodal_embedding",
            Self::Rerank => "rerank",
            Self::MultimodalRerank => "multimodal_rerank",
            Self::Tts => "tts",
            Self::Speech2Text => "speech2text",
            Self::Moderation => "moderation",
            Self::NodeParameterExtractor => "node_parameter_extractor",
            Self::NodeQuestionClassifier => "node_question_classifier",
            Self::App => "app",
            Self::Storage => "storage",
            Self::UploadFile => "upload_file",
            Self::SystemSummary => "system_summary",
            Self::FetchApp => "fetch_app",
        }
    }
}

/// Calls Dify on behalf of a request, from any thread. Cheap to clone.
///
/// While one is alive the request does not end, be it answered or not; so it is to be dropped when
/// there is nothing more to ask.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use sessile::session::dify::{Dify, HttpResponse, Manifest, Plugin};
///
/// let plugin = Plugin::new(Manifest::new("me", "hello", "0.0.1"))
///     .endpoint("GET", "/hello", |request| {
///         let dify: Dify = request.dify();
///         std::thread::spawn(move || {
///             let kept = dify.storage_set("seen", b"yes"); // after the answer
///             kept.and_then(|()| dify.chat_blocking("APP", "hello", &json!({}), None))
///         }); // and the request ends with this thread
///         Ok(request.respond(HttpResponse::text("hello"))?)
///     });
/// # drop(plugin);
/// ```
#[derive(Clone)]
pub struct Dify {
    invoker: Invoker,
    outlet: Outlet,
    session: Arc<SessionContext>,
}

impl Dify {
    pub(super) fn new(invoker: Invoker, outlet: Outlet, session: SessionContext) -> Self {
        Self { invoker, outlet, session: Arc::new(session) }
    }

    /// Gives one whose calls wait no longer than this for each answer. Default: by
    /// [`Environment::invocation_timeout`](super::Environment::invocation_timeout).
    #[must_use]
    pub fn timeout(mut self, wait: Duration) -> Self {
        self.invoker = self.invoker.timeout(wait);
        self
    }

    /// Asks for anything, with the request as the protocol has it. The answers come one by one.
    ///
    /// # Errors
    ///
    /// As [`Invoker::invoke`].
    pub fn invoke<R>(&self, kind: InvokeKind, request: &R) -> Result<Invocation, SessionError>
    where
        R: Serialize + ?Sized,
    {
        self.invoke_raw(kind.as_str(), request)
    }

    /// As [`invoke`](Self::invoke), of a kind that is not known here.
    ///
    /// # Errors
    ///
    /// As [`Invoker::invoke`].
    pub fn invoke_raw<R>(&self, kind: &str, request: &R) -> Result<Invocation, SessionError>
    where
        R: Serialize + ?Sized,
    {
        let request = self.outlet.fit(request)?;
        self.invoker.invoke(kind, &request)
    }

    /// Asks for something that has one answer, and waits for it.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    pub fn call<A, R>(&self, kind: InvokeKind, request: &R) -> Result<A, SessionError>
    where
        A: DeserializeOwned,
        R: Serialize + ?Sized,
    {
        let request = self.outlet.fit(request)?;
        self.invoker.call(kind.as_str(), &request)
    }

    /// Chats with an app. The answer's events come one by one, as Dify's API has them.
    ///
    /// # Errors
    ///
    /// As [`Invoker::invoke`].
    pub fn chat(
        &self,
        app_id: &str,
        query: &str,
        inputs: &Value,
        conversation_id: Option<&str>,
    ) -> Result<Invocation, SessionError> {
        let request = json!({
            "app_id": app_id, "query": query, "inputs": inputs, "response_mode": "streaming",
            "conversation_id": conversation_id, "user": null,
        });
        self.invoke(InvokeKind::App, &request)
    }

    /// Chats with an app, and waits for the whole answer.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    pub fn chat_blocking(
        &self,
        app_id: &str,
        query: &str,
        inputs: &Value,
        conversation_id: Option<&str>,
    ) -> Result<Value, SessionError> {
        let request = json!({
            "app_id": app_id, "query": query, "inputs": inputs, "response_mode": "blocking",
            "conversation_id": conversation_id, "user": null,
        });
        self.call(InvokeKind::App, &request)
    }

    /// Runs a completion app or a workflow. The answer's events come one by one.
    ///
    /// # Errors
    ///
    /// As [`Invoker::invoke`].
    pub fn run_app(&self, app_id: &str, inputs: &Value) -> Result<Invocation, SessionError> {
        let request = json!({
            "app_id": app_id, "inputs": inputs, "response_mode": "streaming", "user": null,
        });
        self.invoke(InvokeKind::App, &request)
    }

    /// Looks up an app.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    pub fn fetch_app(&self, app_id: &str) -> Result<Value, SessionError> {
        self.call(InvokeKind::FetchApp, &json!({"app_id": app_id}))
    }

    /// Runs a tool; `tool_type` is `builtin`, `workflow`, `api` or `mcp`. Its messages come one by one.
    ///
    /// The credential is the one that was chosen for the provider where this request comes from, if one
    /// was; see [`tool_as`](Self::tool_as).
    ///
    /// # Errors
    ///
    /// As [`Invoker::invoke`].
    pub fn tool(
        &self,
        tool_type: &str,
        provider: &str,
        tool: &str,
        parameters: &Value,
    ) -> Result<Invocation, SessionError> {
        let credential = self.session.credential_id(provider);
        self.tool_as(tool_type, provider, tool, parameters, credential)
    }

    /// Runs a tool with a credential, or with none that is chosen.
    ///
    /// # Errors
    ///
    /// As [`Invoker::invoke`].
    pub fn tool_as(
        &self,
        tool_type: &str,
        provider: &str,
        tool: &str,
        parameters: &Value,
        credential_id: Option<&str>,
    ) -> Result<Invocation, SessionError> {
        let mut request = json!({
            "tool_type": tool_type, "provider": provider, "tool": tool,
            "tool_parameters": parameters,
        });
        if let Some(app) = &self.session.app_id {
            request["app_id"] = app.as_str().into();
        }
        if let Some(id) = credential_id {
            request["credential_id"] = id.into();
        }
        self.invoke(InvokeKind::Tool, &request)
    }

    /// Gives Dify a file.
    ///
    /// # Errors
    ///
    /// If Dify says no place to post it to, or does not take it there. `https` needs the feature `tls`.
    ///
    /// # Examples
    ///
    /// ```
    /// use serde_json::json;
    /// use sessile::session::dify::ActionRequest;
    ///
    /// fn show(request: &mut ActionRequest) -> anyhow::Result<()> {
    ///     let dify = request.dify();
    ///     let chart = dify.upload("chart.svg", "image/svg+xml", b"<svg/>")?;
    ///     dify.chat("APP", "what is this?", &json!({"picture": chart.to_app_parameter()}), None)?;
    ///     Ok(())
    /// }
    /// # drop(show);
    /// ```
    pub fn upload(
        &self,
        filename: &str,
        mime_type: &str,
        content: &[u8],
    ) -> anyhow::Result<UploadedFile> {
        #[derive(serde::Deserialize)]
        struct Signed {
            url: String,
        }
        let request = json!({"filename": filename, "mimetype": mime_type});
        let signed: Signed = self.call(InvokeKind::UploadFile, &request)?;
        file::post(&signed.url, filename, mime_type, content, UPLOAD)
    }

    /// Keeps some bytes under a key.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    pub fn storage_set(&self, key: &str, value: &[u8]) -> Result<(), SessionError> {
        let value = HEXLOWER_PERMISSIVE.encode(value);
        self.storage(&json!({"opt": "set", "key": key, "value": value})).map(drop)
    }

    /// The bytes that are kept under a key.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`]; a key that there is not is an error of the peer's.
    pub fn storage_get(&self, key: &str) -> Result<Vec<u8>, SessionError> {
        let value = self.storage(&json!({"opt": "get", "key": key}))?;
        let bytes = value.as_str().map(|hex| HEXLOWER_PERMISSIVE.decode(hex.as_bytes()));
        match bytes {
            Some(Ok(bytes)) => Ok(bytes),
            _ => Err(Malformed::new("kept bytes that are not in hexadecimal").into()),
        }
    }

    /// Forgets a key.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    pub fn storage_delete(&self, key: &str) -> Result<(), SessionError> {
        self.storage(&json!({"opt": "del", "key": key})).map(drop)
    }

    /// Whether something is kept under a key.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    pub fn storage_exists(&self, key: &str) -> Result<bool, SessionError> {
        let value = self.storage(&json!({"opt": "exist", "key": key}))?;
        value.as_bool().ok_or_else(|| Malformed::new("neither yes nor no").into())
    }

    fn storage(&self, request: &Value) -> Result<Value, SessionError> {
        #[derive(serde::Deserialize)]
        struct Stored {
            data: Value,
        }
        self.call::<Stored, _>(InvokeKind::Storage, request).map(|stored| stored.data)
    }

    /// Sums up a text by the system's own model.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    pub fn summary(&self, text: &str, instruction: &str) -> Result<String, SessionError> {
        #[derive(serde::Deserialize)]
        struct Summary {
            summary: String,
        }
        let request = json!({"text": text, "instruction": instruction});
        self.call::<Summary, _>(InvokeKind::SystemSummary, &request).map(|summary| summary.summary)
    }

    /// Asks a language model. Its answer comes in pieces.
    ///
    /// # Errors
    ///
    /// As [`Invoker::invoke`].
    ///
    /// # Examples
    ///
    /// As at [`LlmRequest`].
    pub fn llm(&self, request: &LlmRequest) -> Result<LlmChunks, SessionError> {
        let pieces = self.invoke(InvokeKind::Llm, &request.request(json!({})))?;
        Ok(LlmChunks { pieces })
    }

    /// Asks a language model for an answer of a shape, by its JSON schema; it is with the last piece.
    ///
    /// # Errors
    ///
    /// As [`Invoker::invoke`].
    ///
    /// # Examples
    ///
    /// ```
    /// use serde_json::json;
    /// use sessile::session::dify::{Dify, LlmRequest};
    ///
    /// fn boat(dify: &Dify, ask: &LlmRequest) -> anyhow::Result<String> {
    ///     let schema = json!({"type": "object", "properties": {"boat": {"type": "string"}}});
    ///     let answer = dify.llm_structured(ask, &schema)?.whole()?.structured_output;
    ///     Ok(answer.unwrap_or_default()["boat"].as_str().unwrap_or("none").to_owned())
    /// }
    /// # drop(boat);
    /// ```
    pub fn llm_structured(
        &self,
        request: &LlmRequest,
        schema: &Value,
    ) -> Result<LlmChunks, SessionError> {
        let request = request.request(json!({"structured_output_schema": schema}));
        Ok(LlmChunks { pieces: self.invoke(InvokeKind::LlmStructuredOutput, &request)? })
    }

    /// Makes vectors of texts.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    ///
    /// # Examples
    ///
    /// ```
    /// use sessile::session::dify::{Dify, EmbeddingInput, ModelConfig};
    ///
    /// fn vectors(dify: &Dify, model: &ModelConfig) -> anyhow::Result<Vec<Vec<f64>>> {
    ///     Ok(dify.embed(model, &["boat", "ship"], EmbeddingInput::Document)?.embeddings)
    /// }
    /// # drop(vectors);
    /// ```
    pub fn embed<T: AsRef<str>>(
        &self,
        model: &ModelConfig,
        texts: &[T],
        input: EmbeddingInput,
    ) -> Result<Embeddings, SessionError> {
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let fields = json!({"texts": texts, "input_type": input});
        self.call(InvokeKind::TextEmbedding, &model.request("text-embedding", fields))
    }

    /// Makes vectors of texts and images, for this tenant of the model's vendor.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    ///
    /// # Examples
    ///
    /// ```
    /// use sessile::session::dify::{Dify, EmbeddingInput, ModelConfig, MultimodalContent};
    ///
    /// fn vectors(dify: &Dify, model: &ModelConfig) -> anyhow::Result<Vec<Vec<f64>>> {
    ///     let boats = [MultimodalContent::text("a boat"), MultimodalContent::image("aGk=")];
    ///     Ok(dify.embed_multimodal(model, "", &boats, EmbeddingInput::Document)?.embeddings)
    /// }
    /// # drop(vectors);
    /// ```
    pub fn embed_multimodal(
        &self,
        model: &ModelConfig,
        tenant_id: &str,
        documents: &[MultimodalContent],
        input: EmbeddingInput,
    ) -> Result<Embeddings, SessionError> {
        let fields = json!({"tenant_id": tenant_id, "documents": documents, "input_type": input});
        self.call(InvokeKind::MultimodalEmbedding, &model.request("text-embedding", fields))
    }

    /// Puts documents in order: `top_n` of those that fit at least as well as `score_threshold`.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    ///
    /// # Examples
    ///
    /// ```
    /// use sessile::session::dify::{Dify, ModelConfig};
    ///
    /// fn best(dify: &Dify, model: &ModelConfig) -> anyhow::Result<Option<String>> {
    ///     let ranking = dify.rerank(model, "boat", &["ship", "shed"], 0.5, 1)?;
    ///     Ok(ranking.docs.into_iter().next().map(|document| document.text))
    /// }
    /// # drop(best);
    /// ```
    pub fn rerank<T: AsRef<str>>(
        &self,
        model: &ModelConfig,
        query: &str,
        documents: &[T],
        score_threshold: f64,
        top_n: u64,
    ) -> Result<Ranking, SessionError> {
        let docs: Vec<&str> = documents.iter().map(AsRef::as_ref).collect();
        let fields = json!({
            "query": query, "docs": docs, "score_threshold": score_threshold, "top_n": top_n,
        });
        self.call(InvokeKind::Rerank, &model.request("rerank", fields))
    }

    /// Puts documents with images in order.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    pub fn rerank_multimodal(
        &self,
        model: &ModelConfig,
        query: &MultimodalContent,
        documents: &[MultimodalContent],
        score_threshold: Option<f64>,
        top_n: Option<u64>,
    ) -> Result<Ranking, SessionError> {
        let fields = json!({
            "query": query, "docs": documents, "score_threshold": score_threshold, "top_n": top_n,
        });
        self.call(InvokeKind::MultimodalRerank, &model.request("rerank", fields))
    }

    /// Has a text spoken. The audio comes piece by piece.
    ///
    /// # Errors
    ///
    /// As [`Invoker::invoke`].
    ///
    /// # Examples
    ///
    /// ```
    /// use sessile::session::dify::{Dify, ModelConfig};
    ///
    /// fn say(dify: &Dify, model: &ModelConfig) -> anyhow::Result<Vec<u8>> {
    ///     let pieces: Vec<Vec<u8>> = dify.speak(model, "ann", "hello")?.collect::<Result<_, _>>()?;
    ///     Ok(pieces.concat())
    /// }
    /// # drop(say);
    /// ```
    pub fn speak(
        &self,
        model: &ModelConfig,
        voice: &str,
        text: &str,
    ) -> Result<Speech, SessionError> {
        let fields = json!({"voice": voice, "content_text": text});
        Ok(Speech { pieces: self.invoke(InvokeKind::Tts, &model.request("tts", fields))? })
    }

    /// Has written down what is said in an audio file.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    pub fn transcribe(&self, model: &ModelConfig, audio: &[u8]) -> Result<String, SessionError> {
        let fields = json!({"file": HEXLOWER_PERMISSIVE.encode(audio)});
        self.result(InvokeKind::Speech2Text, &model.request("speech2text", fields))
    }

    /// Asks whether a text is not fit to be said.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    pub fn moderate(&self, model: &ModelConfig, text: &str) -> Result<bool, SessionError> {
        let fields = json!({"text": text});
        self.result(InvokeKind::Moderation, &model.request("moderation", fields))
    }

    fn result<T: DeserializeOwned>(
        &self,
        kind: InvokeKind,
        request: &Value,
    ) -> Result<T, SessionError> {
        #[derive(serde::Deserialize)]
        struct Answer<T> {
            result: T,
        }
        self.call::<Answer<T>, _>(kind, request).map(|answer| answer.result)
    }

    /// Extracts parameters from a text, as the workflow node does; each is
    /// `{"name", "type", "options", "description", "required"}`.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    pub fn extract_parameters(
        &self,
        parameters: &[Value],
        model: &ModelConfig,
        query: &str,
        instruction: &str,
    ) -> Result<NodeAnswer, SessionError> {
        let request = json!({
            "parameters": parameters, "model": node(model), "query": query,
            "instruction": instruction,
        });
        self.call(InvokeKind::NodeParameterExtractor, &request)
    }

    /// Classifies a question, as the workflow node does; each class is an id and a name.
    ///
    /// # Errors
    ///
    /// As [`Invoker::call`].
    ///
    /// # Examples
    ///
    /// ```
    /// use sessile::session::dify::{Dify, ModelConfig};
    ///
    /// fn class(dify: &Dify, model: &ModelConfig) -> anyhow::Result<String> {
    ///     let classes = [("1", "about boats"), ("2", "about ports")];
    ///     let answer = dify.classify(&classes, model, "Which boat?", "")?;
    ///     Ok(answer.outputs["class_name"].as_str().unwrap_or_default().to_owned())
    /// }
    /// # drop(class);
    /// ```
    pub fn classify(
        &self,
        classes: &[(&str, &str)],
        model: &ModelConfig,
        query: &str,
        instruction: &str,
    ) -> Result<NodeAnswer, SessionError> {
        let classes = classes.iter().map(|(id, name)| json!({"id": id, "name": name}));
        let request = json!({
            "classes": Vec::from_iter(classes), "model": node(model), "query": query,
            "instruction": instruction,
        });
        self.call(InvokeKind::NodeQuestionClassifier, &request)
    }

    /// Writes a line to the log of Dify's daemon: `INFO`, `WARNING` or another level.
    ///
    /// # Errors
    ///
    /// If the daemon is gone, or there is no room.
    pub fn log(&self, level: &str, message: &str) -> Result<(), SessionError> {
        log(&self.invoker, level, message)
    }
}

/// A model as workflow nodes take it.
fn node(model: &ModelConfig) -> Value {
    let mode = if model.mode.is_empty() { "chat" } else { &model.mode };
    json!({
        "provider": model.provider, "name": model.model, "mode": mode,
        "completion_params": model.completion_params,
    })
}

/// A language model's answer, piece by piece.
///
/// # Examples
///
/// As at [`LlmRequest`].
#[derive(Debug)]
#[must_use = "dropped, it calls the request off"]
pub struct LlmChunks {
    pieces: Invocation,
}

impl LlmChunks {
    /// Waits for the whole answer.
    ///
    /// # Errors
    ///
    /// As for each piece.
    pub fn whole(self) -> Result<LlmAnswer, SessionError> {
        let mut answer = LlmAnswer::default();
        for chunk in self {
            answer.add(chunk?);
        }
        Ok(answer)
    }

    /// Waits for the text of the whole answer.
    ///
    /// # Errors
    ///
    /// As for each piece.
    pub fn text(self) -> Result<String, SessionError> {
        self.whole().map(|answer| answer.text)
    }
}

impl Iterator for LlmChunks {
    type Item = Result<LlmChunk, SessionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = (&mut self.pieces).into_iter().next()?;
        Some(piece.and_then(|piece| piece.parse().map_err(|error| Kind::Json(error).into())))
    }
}

/// Audio, piece by piece.
///
/// # Examples
///
/// As at [`Dify::speak`].
#[derive(Debug)]
#[must_use = "dropped, it calls the request off"]
pub struct Speech {
    pieces: Invocation,
}

impl Iterator for Speech {
    type Item = Result<Vec<u8>, SessionError>;

    fn next(&mut self) -> Option<Self::Item> {
        #[derive(serde::Deserialize)]
        struct Piece {
            result: String,
        }
        let piece = (&mut self.pieces).into_iter().next()?;
        Some(piece.and_then(|piece| {
            let piece: Piece = piece.parse().map_err(Kind::Json)?;
            let bytes = HEXLOWER_PERMISSIVE.decode(piece.result.as_bytes());
            bytes.map_err(|_| Malformed::new("audio that is not in hexadecimal").into())
        }))
    }
}

/// Writes a line to the log of Dify's daemon.
pub(super) fn log(invoker: &Invoker, level: &str, message: &str) -> Result<(), SessionError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let line = json!({"level": level, "message": message, "timestamp": now.as_secs_f64()});
    invoker.notify(LOG, &line)
}

impl fmt::Debug for Dify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dify").field("invoker", &self.invoker).finish()
    }
}
