//! Models: what is asked of one and what it answers, from either side.
//!
//! A plugin asks models of Dify's by [`Dify`](super::Dify), and has models of its own by
//! [`ModelActions`](super::ModelActions).

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

/// Which model, and how it is set: what a parameter of type `model-selector` is.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{ActionRequest, LlmRequest, ModelConfig, PromptMessage};
///
/// fn answer(request: &mut ActionRequest) -> anyhow::Result<()> {
///     let model: ModelConfig = request.parameter("model")?;
///     let ask = LlmRequest::new(model).message(PromptMessage::user("Which boat?"));
///     request.send(sessile::session::dify::ToolMessage::text(request.dify().llm(&ask)?.text()?))?;
///     Ok(())
/// }
/// # drop(answer);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ModelConfig {
    /// Whose it is, such as `langgenius/openai/openai`.
    pub provider: String,
    /// What it is called.
    pub model: String,
    /// What it does: `llm`, `text-embedding`, `rerank`, `tts`, `speech2text`, `moderation`.
    pub model_type: String,
    /// Of a language model: `chat` or `completion`.
    pub mode: String,
    /// Its settings, an object: `temperature` and so on.
    pub completion_params: Value,
}

impl ModelConfig {
    /// Makes one of a provider and a model. What it does is what it is asked for.
    pub fn new(provider: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            provider: provider.into(),
            model: model.into(),
            mode: "chat".to_owned(),
            completion_params: json!({}),
            ..Self::default()
        }
    }

    /// Sets one of its settings.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        if self.completion_params.is_null() {
            self.completion_params = json!({});
        }
        self.completion_params[name] = value.into();
        self
    }

    /// As the protocol has it, of this type, and with this besides.
    pub(super) fn request(&self, model_type: &str, fields: Value) -> Value {
        let mut request = json!({
            "provider": self.provider, "model": self.model, "model_type": model_type,
        });
        if let (Value::Object(all), Value::Object(fields)) = (&mut request, fields) {
            all.extend(fields);
        }
        request
    }
}

/// A message to a language model, or from one.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::PromptMessage;
///
/// let messages = [PromptMessage::system("Be brief."), PromptMessage::user("Which boat?")];
/// assert_eq!(messages[1].text(), "Which boat?");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PromptMessage {
    /// `system`, `user`, `assistant`, `tool` or `developer`.
    pub role: String,
    /// Text, or a list of parts of text, images and so on.
    pub content: Value,
    /// Who said it.
    pub name: Option<String>,
    /// The tools that an assistant wants called.
    pub tool_calls: Vec<ToolCall>,
    /// What the model's provider wants to have back with an assistant's message, as it is.
    pub opaque_body: Option<Value>,
    /// The call that a tool answers.
    pub tool_call_id: Option<String>,
}

/// Each role has fields of its own.
impl Serialize for PromptMessage {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut fields = to.serialize_map(None)?;
        fields.serialize_entry("role", &self.role)?;
        fields.serialize_entry("content", &self.content)?;
        fields.serialize_entry("name", &self.name)?;
        if self.role == "assistant" {
            fields.serialize_entry("tool_calls", &self.tool_calls)?;
            fields.serialize_entry("opaque_body", &self.opaque_body)?;
        }
        if let Some(id) = &self.tool_call_id {
            fields.serialize_entry("tool_call_id", id)?;
        }
        fields.end()
    }
}

impl PromptMessage {
    fn of(role: &str, content: impl Into<Value>) -> Self {
        Self { role: role.to_owned(), content: content.into(), ..Self::default() }
    }

    /// Makes one that says how to answer.
    pub fn system(text: impl Into<String>) -> Self {
        Self::of("system", text.into())
    }

    /// Makes one of a user's.
    pub fn user(text: impl Into<String>) -> Self {
        Self::of("user", text.into())
    }

    /// Makes one of the model's.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::of("assistant", text.into())
    }

    /// Makes the answer of a tool to a call.
    pub fn tool(call_id: impl Into<String>, text: impl Into<String>) -> Self {
        Self { tool_call_id: Some(call_id.into()), ..Self::of("tool", text.into()) }
    }

    /// Adds calls that the model has made, to a message of its.
    #[must_use]
    pub fn calls(mut self, calls: impl IntoIterator<Item = ToolCall>) -> Self {
        self.tool_calls.extend(calls);
        self
    }

    /// Gives its text: of all parts that are text.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.content {
            Value::String(text) => text.clone(),
            Value::Array(parts) => {
                parts.iter().filter_map(|part| part.get("data").and_then(Value::as_str)).collect()
            }
            _ => String::new(),
        }
    }
}

/// That a model wants a tool called.
///
/// # Examples
///
/// As at [`LlmRequest`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ToolCall {
    /// How the model calls this call.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which tool, and with what.
    pub function: FunctionCall,
}

/// Which tool a model wants called, and with what.
///
/// # Examples
///
/// As at [`LlmRequest`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct FunctionCall {
    /// The tool.
    pub name: String,
    /// Its parameters, as the text of a JSON object.
    pub arguments: String,
}

impl ToolCall {
    /// Makes one.
    pub fn new(
        id: impl Into<String>,
        tool: impl Into<String>,
        arguments: impl Into<String>,
    ) -> Self {
        let function = FunctionCall { name: tool.into(), arguments: arguments.into() };
        Self { id: id.into(), kind: "function".to_owned(), function }
    }
}

/// A tool that a model may want called.
///
/// # Examples
///
/// As at [`LlmRequest`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PromptTool {
    /// What it is called.
    pub name: String,
    /// What it does.
    pub description: String,
    /// The JSON schema of its parameters.
    pub parameters: Value,
}

impl PromptTool {
    /// Makes one.
    pub fn new(name: impl Into<String>, description: impl Into<String>, parameters: Value) -> Self {
        Self { name: name.into(), description: description.into(), parameters }
    }
}

/// What a language model of Dify's is asked.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use sessile::session::dify::{Dify, LlmRequest, ModelConfig, PromptMessage, PromptTool};
///
/// fn ask(dify: &Dify) -> anyhow::Result<()> {
///     let boats = PromptTool::new("boats", "Lists boats", json!({"type": "object"}));
///     let model = ModelConfig::new("langgenius/openai/openai", "gpt-4o").set("temperature", 0.2);
///     let ask = LlmRequest::new(model).message(PromptMessage::user("Which boat?")).tool(boats);
///     for chunk in dify.llm(&ask)? {
///         let chunk = chunk?;
///         eprint!("{}", chunk.text());
///         for call in &chunk.delta.message.tool_calls {
///             eprintln!("{} with {}", call.function.name, call.function.arguments);
///         }
///     }
///     Ok(())
/// }
/// # drop(ask);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LlmRequest {
    model: ModelConfig,
    messages: Vec<PromptMessage>,
    tools: Vec<PromptTool>,
    stop: Vec<String>,
}

impl LlmRequest {
    /// Makes one to this model, that says nothing yet.
    #[must_use]
    pub fn new(model: ModelConfig) -> Self {
        Self { model, messages: Vec::new(), tools: Vec::new(), stop: Vec::new() }
    }

    /// Adds a message.
    #[must_use]
    pub fn message(mut self, message: PromptMessage) -> Self {
        self.messages.push(message);
        self
    }

    /// Adds a tool that the model may want called.
    #[must_use]
    pub fn tool(mut self, tool: PromptTool) -> Self {
        self.tools.push(tool);
        self
    }

    /// Adds text at which the answer ends.
    #[must_use]
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stop.push(text.into());
        self
    }

    pub(super) fn request(&self, more: Value) -> Value {
        let none_or = |value: Value, is_none: bool| if is_none { Value::Null } else { value };
        let mode = if self.model.mode.is_empty() { "chat" } else { &self.model.mode };
        let params = &self.model.completion_params;
        let mut fields = json!({
            "mode": mode, "completion_params": none_or(params.clone(), false),
            "prompt_messages": self.messages,
            "tools": none_or(json!(self.tools), self.tools.is_empty()),
            "stop": none_or(json!(self.stop), self.stop.is_empty()), "stream": true,
        });
        if params.is_null() {
            fields["completion_params"] = json!({});
        }
        if let (Value::Object(all), Value::Object(more)) = (&mut fields, more) {
            all.extend(more);
        }
        self.model.request("llm", fields)
    }
}

/// A piece of a language model's answer.
///
/// # Examples
///
/// As at [`LlmRequest`] for one that is read, and at [`ModelActions`](super::ModelActions) for one that is said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LlmChunk {
    /// What the model is called.
    pub model: String,
    /// Nothing: Dify wants it, and does not want what was asked back.
    #[serde(skip_deserializing)]
    prompt_messages: [(); 0],
    /// How the model's service was set up.
    pub system_fingerprint: Option<String>,
    /// What is new.
    pub delta: LlmDelta,
    /// The answer in the shape that was asked for, with the last piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structured_output: Option<Value>,
}

/// What is new in a piece of a language model's answer.
///
/// # Examples
///
/// As at [`LlmRequest`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LlmDelta {
    /// Counts the pieces.
    pub index: u64,
    /// What the model says.
    pub message: PromptMessage,
    /// What it has cost, with the last piece.
    pub usage: Option<LlmUsage>,
    /// Why it ends, with the last piece: `stop`, `length`, `tool_calls`.
    pub finish_reason: Option<String>,
}

impl LlmChunk {
    /// Makes one that says this.
    pub fn new(model: impl Into<String>, index: u64, text: impl Into<String>) -> Self {
        let message = PromptMessage::assistant(text);
        let delta = LlmDelta { index, message, ..LlmDelta::default() };
        Self { model: model.into(), delta, ..Self::default() }
    }

    /// Makes it the last, with what the answer has cost.
    #[must_use]
    pub fn last(mut self, reason: impl Into<String>, usage: LlmUsage) -> Self {
        self.delta.finish_reason = Some(reason.into());
        self.delta.usage = Some(usage);
        self
    }

    /// Adds calls that the model wants made.
    #[must_use]
    pub fn calls(mut self, calls: impl IntoIterator<Item = ToolCall>) -> Self {
        self.delta.message.tool_calls.extend(calls);
        self
    }

    /// Gives what it says.
    #[must_use]
    pub fn text(&self) -> String {
        self.delta.message.text()
    }
}

/// A language model's whole answer.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Dify, LlmRequest};
///
/// fn cost(dify: &Dify, ask: &LlmRequest) -> anyhow::Result<u64> {
///     let answer = dify.llm(ask)?.whole()?;
///     eprintln!("{}", answer.text);
///     Ok(answer.usage.total_tokens)
/// }
/// # drop(cost);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct LlmAnswer {
    /// What it says.
    pub text: String,
    /// The calls that it wants made.
    pub tool_calls: Vec<ToolCall>,
    /// What it has cost.
    pub usage: LlmUsage,
    /// The answer in the shape that was asked for.
    pub structured_output: Option<Value>,
}

impl LlmAnswer {
    pub(super) fn add(&mut self, chunk: LlmChunk) {
        self.text += &chunk.text();
        if !chunk.delta.message.tool_calls.is_empty() {
            self.tool_calls = chunk.delta.message.tool_calls;
        }
        if let Some(usage) = chunk.delta.usage {
            let before = std::mem::replace(&mut self.usage, usage);
            self.usage.prompt_tokens += before.prompt_tokens;
            self.usage.completion_tokens += before.completion_tokens;
            self.usage.total_tokens += before.total_tokens;
        }
        if chunk.structured_output.is_some() {
            self.structured_output = chunk.structured_output;
        }
    }
}

/// Reads a decimal, which Dify writes as text or as a number.
fn decimal<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::String(text) => text,
        Value::Null => "0".to_owned(),
        other => other.to_string(),
    })
}

fn zero() -> String {
    "0".to_owned()
}

/// What an answer of a language model has cost. Prices are decimals, as text.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::LlmUsage;
///
/// let usage = LlmUsage::tokens(12, 30);
/// assert_eq!(usage.total_tokens, 42);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // they are the fields of Dify's own
#[non_exhaustive]
pub struct LlmUsage {
    #[serde(default)]
    pub prompt_tokens: u64,
    #[serde(default = "zero", deserialize_with = "decimal")]
    pub prompt_unit_price: String,
    #[serde(default = "zero", deserialize_with = "decimal")]
    pub prompt_price_unit: String,
    #[serde(default = "zero", deserialize_with = "decimal")]
    pub prompt_price: String,
    #[serde(default)]
    pub completion_tokens: u64,
    #[serde(default = "zero", deserialize_with = "decimal")]
    pub completion_unit_price: String,
    #[serde(default = "zero", deserialize_with = "decimal")]
    pub completion_price_unit: String,
    #[serde(default = "zero", deserialize_with = "decimal")]
    pub completion_price: String,
    #[serde(default)]
    pub total_tokens: u64,
    #[serde(default = "zero", deserialize_with = "decimal")]
    pub total_price: String,
    #[serde(default)]
    pub currency: String,
    #[serde(default)]
    pub latency: f64,
}

impl LlmUsage {
    /// Makes one of so many tokens in the question and in the answer, which cost nothing.
    #[must_use]
    pub fn tokens(prompt: u64, completion: u64) -> Self {
        Self {
            prompt_tokens: prompt,
            prompt_unit_price: zero(),
            prompt_price_unit: zero(),
            prompt_price: zero(),
            completion_tokens: completion,
            completion_unit_price: zero(),
            completion_price_unit: zero(),
            completion_price: zero(),
            total_tokens: prompt + completion,
            total_price: zero(),
            currency: "USD".to_owned(),
            latency: 0.0,
        }
    }
}

impl Default for LlmUsage {
    fn default() -> Self {
        Self::tokens(0, 0)
    }
}

/// Texts, or texts and images, as vectors.
///
/// # Examples
///
/// As at [`Dify::embed`](super::Dify::embed).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Embeddings {
    /// What the model is called.
    pub model: String,
    /// One vector for each.
    pub embeddings: Vec<Vec<f64>>,
    /// What it has cost.
    #[serde(default)]
    pub usage: EmbeddingUsage,
}

impl Embeddings {
    /// Makes ones that took so many tokens.
    pub fn new(model: impl Into<String>, embeddings: Vec<Vec<f64>>, tokens: u64) -> Self {
        let usage = EmbeddingUsage { tokens, total_tokens: tokens, ..EmbeddingUsage::default() };
        Self { model: model.into(), embeddings, usage }
    }
}

/// What vectors have cost. Prices are decimals, as text.
///
/// # Examples
///
/// As at [`Embeddings`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // they are the fields of Dify's own
#[non_exhaustive]
pub struct EmbeddingUsage {
    #[serde(default)]
    pub tokens: u64,
    #[serde(default)]
    pub total_tokens: u64,
    #[serde(default = "zero", deserialize_with = "decimal")]
    pub unit_price: String,
    #[serde(default = "zero", deserialize_with = "decimal")]
    pub price_unit: String,
    #[serde(default = "zero", deserialize_with = "decimal")]
    pub total_price: String,
    #[serde(default)]
    pub currency: String,
    #[serde(default)]
    pub latency: f64,
}

impl Default for EmbeddingUsage {
    fn default() -> Self {
        Self {
            tokens: 0,
            total_tokens: 0,
            unit_price: zero(),
            price_unit: zero(),
            total_price: zero(),
            currency: "USD".to_owned(),
            latency: 0.0,
        }
    }
}

/// What vectors are for.
///
/// # Examples
///
/// As at [`Dify::embed`](super::Dify::embed).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EmbeddingInput {
    /// To be found by.
    #[default]
    Query,
    /// To be found.
    Document,
}

/// Text, or an image.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::MultimodalContent;
///
/// let documents = [MultimodalContent::text("a boat"), MultimodalContent::image("aGk=")];
/// # drop(documents);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MultimodalContent {
    /// The text, or the image in base64.
    pub content: String,
    /// `text` or `image`.
    pub content_type: String,
}

impl MultimodalContent {
    /// Makes text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { content: text.into(), content_type: "text".to_owned() }
    }

    /// Makes an image, in base64.
    pub fn image(base64: impl Into<String>) -> Self {
        Self { content: base64.into(), content_type: "image".to_owned() }
    }
}

/// Documents, those first that fit best.
///
/// # Examples
///
/// As at [`Dify::rerank`](super::Dify::rerank).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ranking {
    /// What the model is called.
    pub model: String,
    /// The documents that are left.
    pub docs: Vec<RankedDocument>,
}

/// A document of a ranking.
///
/// # Examples
///
/// As at [`Dify::rerank`](super::Dify::rerank).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RankedDocument {
    /// Which it was.
    pub index: u64,
    /// Its text.
    pub text: String,
    /// How well it fits.
    pub score: f64,
}

impl Ranking {
    /// Makes one.
    pub fn new(model: impl Into<String>, docs: Vec<RankedDocument>) -> Self {
        Self { model: model.into(), docs }
    }
}

/// A voice that a model speaks with.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::Voice;
///
/// let voices = vec![Voice::new("Ann", "ann-1")];
/// # drop(voices);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Voice {
    name: String,
    value: String,
}

impl Voice {
    /// Makes one of what people call it, and of what the model does.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// What a workflow node answers.
///
/// # Examples
///
/// As at [`Dify::classify`](super::Dify::classify).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct NodeAnswer {
    /// How it came to it.
    pub process_data: Value,
    /// What it was given.
    pub inputs: Value,
    /// What it has found, an object.
    pub outputs: Value,
}

/// Which of a plugin's own models something is asked of.
///
/// # Examples
///
/// As at [`ModelActions`](super::ModelActions).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ModelRequest {
    /// Whose it is.
    pub provider: String,
    /// What it is called.
    pub model: String,
    /// What it does: `llm`, `text-embedding`, `rerank` and so on.
    pub model_type: String,
}

/// What one of a plugin's own language models is asked.
///
/// # Examples
///
/// As at [`ModelActions`](super::ModelActions).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LlmAsk {
    /// Which model.
    #[serde(flatten)]
    pub model: ModelRequest,
    /// What is said so far.
    pub prompt_messages: Vec<PromptMessage>,
    /// Its settings.
    pub model_parameters: Map<String, Value>,
    /// Tools that it may want called.
    #[serde(deserialize_with = "or_none")]
    pub tools: Vec<PromptTool>,
    /// Text at which the answer ends.
    #[serde(deserialize_with = "or_none")]
    pub stop: Vec<String>,
    /// Whether the answer may come in pieces.
    pub stream: bool,
    /// The shape that the answer is to have.
    pub json_schema: Option<Value>,
    /// What a call that is polled has kept.
    pub plugin_state: Option<Value>,
}

fn or_none<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
