//! The plugin's side.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::environment::{Environment, Install};
use super::handlers;
use super::http::{HttpRequest, HttpResponse};
use super::invocations::Dify;
use super::wire::{PluginSide, REFUSAL};
use crate::contain::contain;
use crate::session::duplex::{Request, Session, SessionStats, Stdio, Tcp};
use crate::session::error::Kind;
use crate::session::{Payload, RemoteError, SessionError};

type EndpointHandler = Box<dyn Fn(&mut Endpoint) -> anyhow::Result<()> + Send + Sync>;
type TaskHandler = Box<dyn Fn(&mut Task) -> anyhow::Result<()> + Send + Sync>;

/// A piece of an asset, in bytes.
const ASSET_CHUNK: usize = 8192;
/// A piece of a body or a blob, in bytes.
const CHUNK: usize = 8192;

/// A plugin: what it declares, and what it does.
#[must_use = "a plugin does nothing until `run` is called"]
pub struct Plugin {
    manifest: Value,
    declarations: BTreeMap<&'static str, Value>,
    assets: Vec<(String, Vec<u8>)>,
    acts: Acts,
    threads: usize,
    queue: usize,
}

#[derive(Default)]
struct Acts {
    endpoints: Vec<(String, String, EndpointHandler)>,
    tools: Vec<(String, String, TaskHandler)>,
    actions: Vec<(String, TaskHandler)>,
}

impl Plugin {
    /// A plugin with this manifest, as the plugin's `manifest.yaml` would have it. What the protocol
    /// wants besides and it does not say is filled in.
    pub fn new(manifest: Value) -> Self {
        Self {
            manifest,
            declarations: BTreeMap::new(),
            assets: Vec::new(),
            acts: Acts::default(),
            threads: 16,
            queue: 1000,
        }
    }

    /// How many threads handle requests. A handler that waits for Dify takes one up. Default: 16.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// How many requests may wait for a thread. Beyond, one is answered with an error. Default: 1000.
    pub fn queue(mut self, requests: usize) -> Self {
        self.queue = requests;
        self
    }

    /// An endpoint: what is asked of this path, by this method. The first that fits is called.
    pub fn endpoint<E: Into<anyhow::Error>>(
        mut self,
        method: impl Into<String>,
        path: impl Into<String>,
        handler: impl Fn(&mut Endpoint) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        let handler = move |endpoint: &mut Endpoint| handler(endpoint).map_err(Into::into);
        self.acts.endpoints.push((method.into(), path.into(), Box::new(handler)));
        self
    }

    /// A tool of a provider.
    pub fn tool<E: Into<anyhow::Error>>(
        mut self,
        provider: impl Into<String>,
        tool: impl Into<String>,
        handler: impl Fn(&mut Task) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        let handler = move |task: &mut Task| handler(task).map_err(Into::into);
        self.acts.tools.push((provider.into(), tool.into(), Box::new(handler)));
        self
    }

    /// Anything else that the daemon may ask for, by its type and action with a dot between:
    /// `model.invoke_llm`, `oauth.get_credentials`.
    pub fn on<E: Into<anyhow::Error>>(
        mut self,
        action: impl Into<String>,
        handler: impl Fn(&mut Task) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        let handler = move |task: &mut Task| handler(task).map_err(Into::into);
        self.acts.actions.push((action.into(), Box::new(handler)));
        self
    }

    /// Declares something in full: `tool`, `model`, `endpoint`, `agent_strategy`, `datasource` or
    /// `trigger`. Endpoints and tools that are not declared so are declared by what is known of them.
    pub fn declare(mut self, what: &'static str, declaration: Value) -> Self {
        self.declarations.insert(what, declaration);
        self
    }

    /// A file of the plugin's assets: its icon.
    pub fn asset(mut self, name: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        self.assets.push((name.into(), content.into()));
        self
    }

    /// Runs it. It goes on until it is closed or dropped; over standard input until that ends.
    ///
    /// Over TCP it connects again when the connection is lost.
    ///
    /// # Errors
    ///
    /// If there is no connection or no thread to be had.
    pub fn run(self, environment: &Environment) -> Result<RunningPlugin, SessionError> {
        let manifest = self.full_manifest();
        let mut greeting = Vec::new();
        match &environment.install {
            Install::Local => greeting.push(manifest.to_string().into_bytes()),
            Install::Remote { key, .. } => self.greet(key, &manifest, &mut greeting),
        }
        let workers = handlers::workers("dify-handler", self.threads, self.queue)?;
        let refusal = Arc::new(Mutex::new(None));
        let refused = Arc::clone(&refusal);
        let acts = self.acts;
        let builder = Session::builder(PluginSide::new())
            .name("dify-plugin")
            .terminator("\n\n")
            .greeting(greeting)
            .heartbeat(
                environment.heartbeat,
                r#"{"event":"heartbeat","session_id":null,"data":{}}"#,
            )
            .timeout(environment.invocation_timeout)
            .hold_limit(environment.invocation_timeout)
            .max_requests(self.queue + self.threads)
            .on_notification(move |method, params| {
                if method == REFUSAL {
                    let text = params.and_then(|params| params.parse::<String>().ok());
                    *refused.lock().unwrap_or_else(PoisonError::into_inner) = text;
                }
            })
            .handlers(workers, move |(), request| acts.act(request));
        let session = match &environment.install {
            Install::Local => builder.connect(Stdio::new()),
            Install::Remote { address, .. } => builder
                .reconnect(Duration::from_millis(500), Duration::from_secs(5))
                .connect(Tcp::new(address)),
        };
        Ok(RunningPlugin { session: session?, refusal })
    }

    fn full_manifest(&self) -> Value {
        let mut manifest = self.manifest.clone();
        let text = |key: &str, default: &str| {
            manifest.get(key).and_then(Value::as_str).unwrap_or(default).to_owned()
        };
        let name = text("name", "plugin");
        let defaults = json!({
            "version": "0.0.1",
            "type": "plugin",
            "author": "unknown",
            "name": name,
            "description": {"en_US": name},
            "label": {"en_US": name},
            "icon": self.assets.first().map_or("icon.svg", |(name, _)| name),
            "created_at": "2025-01-01T00:00:00Z",
            "resource": {"memory": 268_435_456, "permission": {
                "tool": {"enabled": true}, "model": {"enabled": true, "llm": true},
                "endpoint": {"enabled": true}, "app": {"enabled": true},
                "storage": {"enabled": true, "size": 1_048_576},
            }},
            "plugins": {
                "tools": if self.acts.tools.is_empty() { vec![] } else { vec!["tools"] },
                "models": [],
                "endpoints": if self.acts.endpoints.is_empty() { vec![] } else { vec!["endpoints"] },
            },
            "meta": {"version": "0.0.1", "arch": ["amd64", "arm64"], "runner":
                {"language": "python", "version": "3.12", "entrypoint": "main"}},
        });
        if let (Value::Object(manifest), Value::Object(defaults)) = (&mut manifest, defaults) {
            for (key, value) in defaults {
                manifest.entry(key).or_insert(value);
            }
        }
        manifest
    }

    /// The handshake, and all that is declared.
    fn greet(&self, key: &str, manifest: &Value, frames: &mut Vec<Vec<u8>>) {
        let frame = |kind: &str, data: Value| json!({"type": kind, "data": data}).to_string();
        // The handshake ends with one line feed, all else with two.
        let handshake = frame("handshake", json!({"key": key}));
        let first = format!("{handshake}\n{}", frame("manifest_declaration", manifest.clone()));
        frames.push(first.into_bytes());
        let order = ["tool", "model", "endpoint", "agent_strategy", "datasource", "trigger"];
        for what in order {
            let declared = self.declarations.get(what).cloned().or_else(|| self.implied(what));
            if let Some(declaration) = declared {
                let kind = format!("{what}_declaration");
                frames.push(frame(&kind, json!([declaration])).into_bytes());
            }
        }
        for (name, content) in &self.assets {
            let chunks = content.chunks(ASSET_CHUNK);
            let last = chunks.len().saturating_sub(1);
            for (at, chunk) in chunks.enumerate() {
                let data = json!({
                    "filename": name, "data": BASE64.encode(chunk), "end": at == last,
                });
                frames.push(frame("asset_chunk", data).into_bytes());
            }
        }
        frames.push(frame("end", json!({})).into_bytes());
    }

    fn implied(&self, what: &str) -> Option<Value> {
        let author = self.manifest.get("author").and_then(Value::as_str).unwrap_or("unknown");
        match what {
            "endpoint" if !self.acts.endpoints.is_empty() => {
                let endpoints = self.acts.endpoints.iter().map(|(method, path, _)| {
                    json!({"path": path, "method": method, "hidden": false, "extra":
                        {"python": {"source": "endpoint.py"}}})
                });
                Some(json!({"settings": [], "endpoints": Vec::from_iter(endpoints)}))
            }
            // The daemon takes one provider.
            "tool" => self.acts.tools.first().map(|(provider, ..)| {
                let tools = self.acts.tools.iter().filter(|(of, ..)| of == provider);
                let tools = tools.map(|(provider, tool, _)| {
                    json!({
                        "identity": {"author": author, "name": tool, "provider": provider,
                            "label": {"en_US": tool}},
                        "description": {"human": {"en_US": tool}, "llm": tool},
                        "parameters": [], "extra": {"python": {"source": "tool.py"}},
                    })
                });
                json!({
                    "identity": {"author": author, "name": provider, "tags": [], "icon": "icon.svg",
                        "label": {"en_US": provider}, "description": {"en_US": provider}},
                    "credentials_schema": [], "tools": Vec::from_iter(tools),
                    "extra": {"python": {"source": "provider.py"}},
                })
            }),
            _ => None,
        }
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.manifest.get("name"))
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Acts {
    /// On a thread of the workers.
    fn act(&self, request: Request) {
        match request.method() {
            "endpoint.invoke_endpoint" => self.act_endpoint(request),
            "tool.invoke_tool" => {
                #[derive(Deserialize)]
                struct Which {
                    provider: String,
                    tool: String,
                }
                let which = request.parse::<Which>();
                let found = which.ok().and_then(|which| {
                    let is = |(provider, tool, _): &&(String, String, _)| {
                        // The daemon names a provider with its plugin before it.
                        let named = which.provider.rsplit('/').next() == Some(provider);
                        (named || which.provider == *provider) && which.tool == *tool
                    };
                    self.tools.iter().find(is)
                });
                match found {
                    Some((.., handler)) => act_task(request, handler),
                    None => fail(request, "ValueError", "there is no such tool"),
                }
            }
            "tool.validate_tool_credentials" if !self.has("tool.validate_tool_credentials") => {
                let _ = request.respond(&json!({"result": true}));
            }
            method => match self.actions.iter().find(|(action, _)| action == method) {
                Some((_, handler)) => act_task(request, handler),
                // As the SDK does: an end, and no more.
                None => request.finish(),
            },
        }
    }

    fn has(&self, action: &str) -> bool {
        self.actions.iter().any(|(known, _)| known == action)
    }

    fn act_endpoint(&self, request: Request) {
        #[derive(Deserialize)]
        struct Asked {
            raw_http_request: String,
            #[serde(default)]
            settings: Value,
        }
        let asked = request.parse::<Asked>();
        let parsed = asked.ok().and_then(|asked| {
            HttpRequest::from_hex(&asked.raw_http_request).map(|http| (http, asked.settings))
        });
        let Some((http, settings)) = parsed else {
            return fail(request, "ValueError", "this is no HTTP request");
        };
        let fits =
            |(method, path, _): &&(String, String, _)| *method == http.method && *path == http.path;
        let found = self.endpoints.iter().find(fits);
        let mut endpoint = Endpoint { request, http, settings, answer: Answer::None };
        let outcome = match found {
            Some((.., handler)) => contain(|| handler(&mut endpoint)).and_then(|outcome| outcome),
            None => endpoint.respond(HttpResponse::new(404, "Not Found")).map_err(Into::into),
        };
        if endpoint.answer == Answer::None {
            let why = match outcome {
                Err(error) => format!("Internal Server Error: {error:#}"),
                Ok(()) => "Internal Server Error: the handler gave no answer".to_owned(),
            };
            let _ = endpoint.respond(HttpResponse::new(500, why));
        }
        endpoint.request.finish();
    }
}

fn act_task(request: Request, handler: &TaskHandler) {
    let mut task = Task { request };
    match contain(|| handler(&mut task)).and_then(|outcome| outcome) {
        Ok(()) => task.request.finish(),
        Err(error) => fail(task.request, "Exception", &format!("{error:#}")),
    }
}

fn fail(request: Request, kind: &str, why: &str) {
    request.fail(&RemoteError::new(why).with_data(json!({"error_type": kind, "args": {}})));
}

/// A request to an endpoint.
pub struct Endpoint {
    request: Request,
    http: HttpRequest,
    settings: Value,
    answer: Answer,
}

#[derive(PartialEq, Eq)]
enum Answer {
    None,
    Begun,
    Whole,
}

#[derive(Serialize)]
struct Piece<'a> {
    #[serde(flatten)]
    head: Option<&'a HttpResponse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<String>,
}

impl Endpoint {
    /// What was asked.
    #[must_use]
    pub fn http(&self) -> &HttpRequest {
        &self.http
    }

    /// The endpoint's settings, as its user made them.
    #[must_use]
    pub fn settings(&self) -> &Value {
        &self.settings
    }

    /// Calls Dify on behalf of this request; also from other threads, also after the answer.
    #[must_use]
    pub fn dify(&self) -> Dify {
        Dify::new(self.request.invoker())
    }

    /// Answers, in one go.
    ///
    /// # Errors
    ///
    /// If an answer was begun before; if the daemon is gone, or there is no room.
    pub fn respond(&mut self, response: HttpResponse) -> Result<(), SessionError> {
        self.begin(response)?;
        self.answer = Answer::Whole;
        Ok(())
    }

    /// Begins an answer, to be followed by more of its body.
    ///
    /// # Errors
    ///
    /// As [`respond`](Self::respond).
    pub fn begin(&mut self, response: HttpResponse) -> Result<(), SessionError> {
        if self.answer != Answer::None {
            return Err(Kind::Ended.into());
        }
        let result = Some(HEXLOWER_PERMISSIVE.encode(&response.body));
        self.request.item(&Piece { head: Some(&response), result })?;
        self.answer = Answer::Begun;
        Ok(())
    }

    /// More of the body.
    ///
    /// # Errors
    ///
    /// If no answer was begun; if the daemon is gone, or there is no room.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        if self.answer != Answer::Begun {
            return Err(Kind::Ended.into());
        }
        for chunk in bytes.chunks(CHUNK) {
            let result = Some(HEXLOWER_PERMISSIVE.encode(chunk));
            self.request.item(&Piece { head: None, result })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("http", &self.http).finish_non_exhaustive()
    }
}

/// A request for anything but an endpoint. When its handler returns, the answer is complete; an error
/// that it returns is told.
pub struct Task {
    request: Request,
}

impl Task {
    /// The request, read as a `T`: its fields are those of the action.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, SessionError> {
        self.request.parse()
    }

    /// A parameter of a tool, by its name; `null` if there is none.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Value {
        #[derive(Deserialize)]
        struct Parameters {
            tool_parameters: BTreeMap<String, Value>,
        }
        let parameters = self.request.parse::<Parameters>();
        parameters.ok().and_then(|mut p| p.tool_parameters.remove(name)).unwrap_or_default()
    }

    /// What the daemon tells besides: conversation, message, app, endpoint and context.
    #[must_use]
    pub fn context(&self) -> Option<&Payload> {
        self.request.meta()
    }

    /// Calls Dify on behalf of this request; also from other threads, also after the answer.
    #[must_use]
    pub fn dify(&self) -> Dify {
        Dify::new(self.request.invoker())
    }

    /// Sends a piece of the answer, as the action has it: for a tool, a [`ToolMessage`].
    ///
    /// # Errors
    ///
    /// If the daemon is gone, or there is no room.
    pub fn send<T: Serialize + ?Sized>(&self, piece: &T) -> Result<(), SessionError> {
        self.request.item(piece)
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Task").field(&self.request.method()).finish()
    }
}

/// A message of a tool's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToolMessage {
    #[serde(rename = "type")]
    kind: &'static str,
    message: Value,
}

impl ToolMessage {
    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { kind: "text", message: json!({"text": text.into()}) }
    }

    /// JSON, an object.
    #[must_use]
    pub fn json(object: Value) -> Self {
        Self { kind: "json", message: json!({"json_object": object}) }
    }

    /// A link.
    pub fn link(url: impl Into<String>) -> Self {
        Self { kind: "link", message: json!({"text": url.into()}) }
    }

    /// A value that a workflow may use.
    pub fn variable(name: impl Into<String>, value: Value) -> Self {
        let message = json!({
            "variable_name": name.into(), "variable_value": value, "stream": false,
        });
        Self { kind: "variable", message }
    }
}

/// A plugin that runs. Dropped, it closes.
#[derive(Debug)]
pub struct RunningPlugin {
    session: Session,
    refusal: Arc<Mutex<Option<String>>>,
}

impl RunningPlugin {
    /// Waits until it has come to its end: it was closed, or standard input has ended.
    pub fn wait(&self) {
        while !self.session.wait_down(Duration::from_secs(3600)) {}
    }

    /// What the daemon said, if it refused the plugin; it says nothing if it took it.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What its session has done and seen.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.session.stats()
    }

    /// Takes no more requests, and ends, within this time. Says whether it has.
    pub fn close(&self, within: Duration) -> bool {
        self.session.close(within)
    }
}
