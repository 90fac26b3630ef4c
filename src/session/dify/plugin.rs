//! The plugin's side: what it is, what it declares, and how it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::action::{ActionRequest, ErrorType};
use super::declaration::{DeclarationError, KINDS, Registration};
use super::declare::{
    DatasourceProvider, Manifest, Setting, StrategyProvider, Tool, ToolProvider, TriggerProvider,
};
use super::endpoint::{EndpointRequest, Route};
use super::environment::{Environment, Install};
use super::handlers::{self, Acts};
use super::outgoing::Outlet;
use super::running::{Dial, PluginError, PluginEvent, Reason, RunningPlugin};
use super::wire::{PluginSide, REFUSAL};
use crate::deadline::Deadline;
use crate::session::duplex::{Framing, Lines, Next, Session};

/// A piece of an asset, in bytes.
const ASSET_CHUNK: usize = 8192;
/// A daemon kills a local plugin that says more in one line.
const LOCAL_LINE: usize = 5 << 20;
/// For what Dify may send: a film of 100 MiB in base64, an audio file of 50 MiB in hexadecimal.
const MESSAGE: usize = 256 << 20;
/// How long a refusal is waited for; of a plugin that it takes the daemon says nothing.
const REFUSES_WITHIN: Duration = Duration::from_millis(100);
/// The icon of a plugin that has none.
const ICON: &str = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24'>\
                    <circle cx='12' cy='12' r='10' fill='#357'/></svg>";

type EventHandler = Box<dyn Fn(&PluginEvent) + Send + Sync>;

/// A plugin: what it declares, and what it does.
///
/// # Examples
///
/// ```no_run
/// use sessile::session::dify::{Environment, Manifest, Plugin, ToolMessage};
///
/// fn main() -> anyhow::Result<()> {
///     Plugin::new(Manifest::new("me", "hello", "0.0.1"))
///         .tool("greeter", "greet", |request| {
///             let name: String = request.parameter("name")?;
///             request.send(ToolMessage::text(format!("hello {name}")))?;
///             Ok(())
///         })
///         .run(&Environment::from_process()?)?
///         .wait()?;
///     Ok(())
/// }
/// ```
#[must_use = "a plugin does nothing until `run` is called"]
pub struct Plugin {
    manifest: Value,
    declared: BTreeMap<&'static str, Vec<Value>>,
    tool_providers: Vec<ToolProvider>,
    tools: Vec<(String, Tool)>,
    settings: Vec<Setting>,
    strategies: Vec<StrategyProvider>,
    datasources: Vec<DatasourceProvider>,
    triggers: Vec<TriggerProvider>,
    assets: Vec<(String, Vec<u8>)>,
    pub(super) acts: Acts,
    threads: usize,
    queue: usize,
    max_message: usize,
    on_event: EventHandler,
}

/// What a plugin says: lines. The handshake ends with one line feed, all else with two.
#[derive(Clone)]
struct PluginLines {
    handshake: Arc<[u8]>,
}

impl Framing for PluginLines {
    fn encode(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        Lines::new().encode(frame, out);
        if *frame != *self.handshake {
            out.push(b'\n');
        }
    }

    fn decode(&mut self, bytes: &[u8], seen: usize) -> io::Result<Next> {
        Lines::new().decode(bytes, seen)
    }
}

impl Plugin {
    /// Makes a plugin with this manifest. What the protocol wants and it does not say is filled in.
    pub fn new(manifest: impl Into<Manifest>) -> Self {
        Self {
            manifest: manifest.into().0,
            declared: BTreeMap::new(),
            tool_providers: Vec::new(),
            tools: Vec::new(),
            settings: Vec::new(),
            strategies: Vec::new(),
            datasources: Vec::new(),
            triggers: Vec::new(),
            assets: Vec::new(),
            acts: Acts::default(),
            threads: 1000,
            queue: 1000,
            max_message: MESSAGE,
            on_event: Box::new(|_| ()),
        }
    }

    /// Sets how many threads handle requests at most. A handler that waits for Dify takes one up; they
    /// are started when they are needed, and end when they have had nothing to do for a while. Default:
    /// 1000, as the SDK has it.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets how many requests may wait for a thread. Beyond, one is answered with an error. Default:
    /// 1000.
    pub fn queue(mut self, requests: usize) -> Self {
        self.queue = requests;
        self
    }

    /// Sets how many bytes a message of Dify's may have. A longer one is an error of its request alone.
    /// Default: 256 MiB.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// Sets who is told what happens to the plugin. It is called on the session's thread, and so must
    /// not block. Default: nobody.
    pub fn on_event(mut self, handler: impl Fn(&PluginEvent) + Send + Sync + 'static) -> Self {
        self.on_event = Box::new(handler);
        self
    }

    /// Adds an endpoint: what is asked of this path, by this method. Parts of the path may be
    /// parameters: `/boats/<id>`, `/count/<int:number>`, `/files/<path:name>`. A path without comes
    /// before one with; otherwise the first that fits is called. What answers `GET` answers `HEAD` too.
    ///
    /// # Examples
    ///
    /// As at [`EndpointRequest`].
    pub fn endpoint(
        mut self,
        method: impl Into<String>,
        path: impl Into<String>,
        handler: impl Fn(&mut EndpointRequest) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let route = Route { method: method.into(), path: path.into() };
        self.acts.endpoints.add(route, Box::new(handler));
        self
    }

    /// Adds a setting, which users of the endpoints make.
    pub fn endpoint_setting(mut self, setting: Setting) -> Self {
        self.settings.push(setting);
        self
    }

    /// Declares the provider of the tools. Without, one is declared by its name alone.
    ///
    /// # Examples
    ///
    /// As at [`ToolProvider`].
    pub fn tool_provider(mut self, provider: ToolProvider) -> Self {
        self.tool_providers.push(provider);
        self
    }

    /// Adds a tool of a provider: by its declaration, or its name alone.
    ///
    /// # Examples
    ///
    /// As at [`ActionRequest`].
    pub fn tool(
        mut self,
        provider: impl Into<String>,
        tool: impl Into<Tool>,
        handler: impl Fn(&mut ActionRequest) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let (provider, tool) = (provider.into(), tool.into());
        let of = [("provider", &*provider), ("tool", tool.name())];
        self.acts.add("tool.invoke_tool", &of, ErrorType::Exception, Box::new(handler));
        self.tools.push((provider, tool));
        self
    }

    /// Checks the credentials of a provider of tools: they are valid if it returns `Ok`.
    ///
    /// # Examples
    ///
    /// As at [`ToolProvider`].
    pub fn validate_credentials(
        mut self,
        provider: impl Into<String>,
        handler: impl Fn(&ActionRequest) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let handler = move |request: &mut ActionRequest| {
            handler(request)?;
            Ok(request.answer(&json!({"result": true}))?)
        };
        let of = [("provider", &*provider.into())];
        let ordinary = ErrorType::ToolCredentials;
        self.acts.add("tool.validate_tool_credentials", &of, ordinary, Box::new(handler));
        self
    }

    /// Tells the parameters that a tool has for these credentials. It has to be called after
    /// [`tool`](Self::tool).
    pub fn runtime_parameters(
        mut self,
        provider: impl Into<String>,
        tool: impl Into<String>,
        handler: impl Fn(&ActionRequest) -> anyhow::Result<Vec<Value>> + Send + Sync + 'static,
    ) -> Self {
        let handler = move |request: &mut ActionRequest| {
            let parameters = handler(request)?;
            Ok(request.answer(&json!({"parameters": parameters}))?)
        };
        let (provider, tool) = (provider.into(), tool.into());
        let of = [("provider", &*provider), ("tool", &*tool)];
        let ordinary = ErrorType::Exception;
        self.acts.add("tool.get_tool_runtime_parameters", &of, ordinary, Box::new(handler));
        for (of, known) in &mut self.tools {
            if *of == provider && known.name() == tool {
                known.has_runtime_parameters();
            }
        }
        self
    }

    /// Handles anything else that the daemon may ask for, by its type and action with a dot between:
    /// `model.invoke_llm`, `oauth.get_credentials`.
    ///
    /// # Examples
    ///
    /// ```
    /// use serde_json::json;
    /// use sessile::session::dify::{Manifest, Plugin};
    ///
    /// let plugin = Plugin::new(Manifest::new("me", "hello", "0.0.1"))
    ///     .on("oauth.get_authorization_url", |request| {
    ///         request.answer(&json!({"authorization_url": "https://example.com"}))?;
    ///         Ok(())
    ///     });
    /// # drop(plugin);
    /// ```
    pub fn on(
        mut self,
        action: impl Into<String>,
        handler: impl Fn(&mut ActionRequest) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.acts.add(action, &[], ErrorType::Exception, Box::new(handler));
        self
    }

    pub(super) fn strategies(mut self, provider: StrategyProvider) -> Self {
        self.strategies.push(provider);
        self
    }

    pub(super) fn datasources(mut self, provider: DatasourceProvider) -> Self {
        self.datasources.push(provider);
        self
    }

    pub(super) fn triggers(mut self, provider: TriggerProvider) -> Self {
        self.triggers.push(provider);
        self
    }

    /// Declares something in full, as the SDK's YAML has it: `tool`, `model`, `endpoint`,
    /// `agent_strategy`, `datasource` or `trigger`. Endpoints and tools that are not declared so are
    /// declared by what is known of them.
    ///
    /// # Examples
    ///
    /// ```
    /// use serde_json::json;
    /// use sessile::session::dify::{Manifest, Plugin};
    ///
    /// let plugin = Plugin::new(Manifest::new("quay", "tidal", "0.0.1")).declare("model", json!({
    ///     "provider": "tidal", "label": {"en_US": "Tidal"}, "supported_model_types": ["llm"],
    ///     "configurate_methods": ["predefined-model"], "models": [],
    /// }));
    /// plugin.check()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn declare(mut self, what: &'static str, declaration: Value) -> Self {
        self.declared.entry(what).or_default().push(declaration);
        self
    }

    /// Adds a file to the plugin's assets: its icon.
    ///
    /// # Examples
    ///
    /// ```
    /// use sessile::session::dify::{Manifest, Plugin};
    ///
    /// let plugin = Plugin::new(Manifest::new("me", "hello", "0.0.1"))
    ///     .asset("logo.svg", "<svg xmlns='http://www.w3.org/2000/svg'/>");
    /// # drop(plugin);
    /// ```
    pub fn asset(mut self, name: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        self.assets.push((name.into(), content.into()));
        self
    }

    /// Checks whether Dify's daemon takes what is declared, by its own rules. [`run`](Self::run) does
    /// so before it connects.
    ///
    /// # Errors
    ///
    /// If it would be refused; the error names the field.
    ///
    /// # Examples
    ///
    /// As at [`DeclarationError`].
    pub fn check(&self) -> Result<(), DeclarationError> {
        self.messages().map(drop)
    }

    /// What is declared, as messages, and checked.
    fn messages(&self) -> Result<Vec<(String, Value)>, DeclarationError> {
        let manifest = self.full_manifest();
        let mut messages = vec![("manifest_declaration".to_owned(), manifest.clone())];
        for kind in KINDS {
            let providers = self.providers(kind, &manifest)?;
            if providers.len() > 1 {
                let what = format!(
                    "has {} providers, and Dify takes one of a kind: make it several plugins",
                    providers.len(),
                );
                return Err(DeclarationError::new(kind, "", what));
            }
            if !providers.is_empty() {
                messages.push((format!("{kind}_declaration"), providers.into()));
            }
        }
        if let Some(unknown) = self.declared.keys().find(|kind| !KINDS.contains(*kind)) {
            let what = format!("is not known; Dify knows {}", KINDS.join(", "));
            return Err(DeclarationError::new(*unknown, "", what));
        }
        let icon = manifest["icon"].as_str().filter(|icon| *icon == DEFAULT_ICON);
        let has_icon = self.assets.iter().any(|(name, _)| Some(&**name) == icon);
        let icon = icon.filter(|_| !has_icon).map(|icon| (icon, ICON.as_bytes()));
        let assets = self.assets.iter().map(|(name, content)| (&**name, &content[..]));
        for (name, content) in icon.into_iter().chain(assets) {
            let chunks = content.chunks(ASSET_CHUNK);
            let last = chunks.len().saturating_sub(1);
            for (at, chunk) in chunks.enumerate() {
                let data = json!({
                    "filename": name, "data": BASE64.encode(chunk), "end": at == last,
                });
                messages.push(("asset_chunk".to_owned(), data));
            }
        }
        let mut registration = Registration::default();
        for (message, data) in &messages {
            registration.hear(message, data)?;
        }
        registration.end()?;
        Ok(messages)
    }

    /// What is declared of a kind: in full, by builders, or by what is known of it.
    fn providers(&self, kind: &str, manifest: &Value) -> Result<Vec<Value>, DeclarationError> {
        let mut providers = self.declared.get(kind).cloned().unwrap_or_default();
        let in_full = !providers.is_empty();
        let text = |key: &str| manifest[key].as_str().unwrap_or_default();
        let (author, icon) = (text("author"), text("icon"));
        match kind {
            "tool" if !in_full => providers.extend(self.tools(author, icon)),
            "endpoint" if !in_full && !self.acts.endpoints.is_empty() => {
                let endpoints = self.acts.endpoints.routes().map(|route| {
                    json!({"path": route.path, "method": route.method, "hidden": false,
                        "extra": {"python": {"source": "main.py"}}})
                });
                let settings = self.settings.iter().cloned().map(Setting::declared);
                providers.push(json!({
                    "settings": Vec::from_iter(settings), "endpoints": Vec::from_iter(endpoints),
                }));
            }
            "agent_strategy" => {
                let all = self.strategies.iter().cloned();
                providers.extend(all.map(|provider| provider.complete(author, icon)));
            }
            "datasource" => {
                let all = self.datasources.iter().cloned();
                providers.extend(all.map(|provider| provider.complete(author, icon)));
            }
            "trigger" => {
                let all = self.triggers.iter().cloned();
                providers.extend(all.map(|provider| provider.complete(author, icon)));
            }
            _ => {}
        }
        Ok(providers)
    }

    fn tools(&self, author: &str, icon: &str) -> Vec<Value> {
        let mut names: Vec<&str> = Vec::new();
        let declared = self.tool_providers.iter().map(ToolProvider::name);
        for name in declared.chain(self.tools.iter().map(|(provider, _)| &**provider)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut providers = Vec::new();
        for name in names {
            let mut declared = self.tool_providers.iter().filter(|known| known.name() == name);
            let provider = declared.next().cloned().unwrap_or_else(|| ToolProvider::new(name));
            let tools = self.tools.iter().filter(|(of, _)| of == name);
            let tools = tools.map(|(of, tool)| tool.clone().declared(author, of));
            providers.push(provider.declared(author, icon, "tools", tools.collect()));
        }
        providers
    }

    fn full_manifest(&self) -> Value {
        let mut manifest = self.manifest.clone();
        let name = manifest.get("name").and_then(Value::as_str).unwrap_or("plugin").to_owned();
        let files = |any: bool| if any { json!(["main.yaml"]) } else { json!([]) };
        let has = |kind: &str| self.declared.contains_key(kind);
        let defaults = json!({
            "version": "0.0.1",
            "type": "plugin",
            "author": "unknown",
            "name": name,
            "description": {"en_US": name},
            "label": {"en_US": name},
            "icon": self.assets.first().map_or(DEFAULT_ICON, |(name, _)| name),
            "created_at": "2025-01-01T00:00:00Z",
            "resource": default_resource(),
            "plugins": {
                "tools": files(!self.tools.is_empty() || has("tool")),
                "models": files(has("model")),
                "endpoints": files(!self.acts.endpoints.is_empty() || has("endpoint")),
                "agent_strategies": files(!self.strategies.is_empty() || has("agent_strategy")),
                "datasources": files(!self.datasources.is_empty() || has("datasource")),
                "triggers": files(!self.triggers.is_empty() || has("trigger")),
            },
            "meta": default_meta(),
        });
        fill_in(&mut manifest, defaults);
        manifest
    }

    /// Runs it, as the environment says. It goes on until it is closed or dropped, or refused; over
    /// standard input until that ends.
    ///
    /// Over TCP it connects again when the connection is lost.
    ///
    /// # Errors
    ///
    /// If the declarations are not what Dify takes, there is no connection or no thread to be had, or
    /// the daemon refuses the plugin at once. If it does so later, [`RunningPlugin::wait`] says so.
    pub fn run(self, environment: &Environment) -> Result<RunningPlugin, PluginError> {
        let messages = self.messages().map_err(Reason::Declaration)?;
        let mut greeting = Vec::new();
        match &environment.install {
            Install::Local => greeting.push(messages[0].1.to_string().into_bytes()),
            Install::Remote { key, .. } => greet(key, messages, &mut greeting),
        }
        let is_remote = matches!(environment.install, Install::Remote { .. });
        let handshake = greeting.first().filter(|_| is_remote).cloned().unwrap_or_default().into();
        let threads = environment.workers.unwrap_or(self.threads);
        let workers = handlers::workers("dify-handler", threads, self.queue)?;
        // What it may be told is more than it may say, if it is local.
        let max_line = if is_remote { self.max_message } else { LOCAL_LINE };
        let dial = Dial::new(environment);
        let outlet = Outlet { max_line };
        let (state, heard) = (Arc::clone(&dial.state), Arc::clone(&dial.state));
        let (acts, on_event) = (self.acts, self.on_event);
        let builder = Session::builder(PluginSide::new())
            .name("dify-plugin")
            .framing(PluginLines { handshake })
            .greeting(greeting)
            .heartbeat(
                environment.heartbeat,
                r#"{"event":"heartbeat","session_id":null,"data":{}}"#,
            )
            .request_timeout(environment.invocation_timeout)
            .end_timeout(environment.invocation_timeout)
            .max_message_size(max_line)
            .max_incoming_size(self.max_message)
            .max_requests(self.queue + threads)
            .on_notification(move |_, told| {
                if told.method == REFUSAL {
                    let text = told.params.and_then(|params| params.parse::<String>().ok());
                    on_event(&heard.refuse(text.unwrap_or_default()));
                }
            })
            .request_handlers(workers, move |(), request| acts.act(request, outlet.clone()));
        let builder = match &environment.install {
            Install::Local => builder,
            Install::Remote { .. } => {
                builder.reconnect(Duration::from_millis(500), Duration::from_secs(5))
            }
        };
        let session = builder.connect(dial)?;
        let plugin = RunningPlugin { session, state };
        if matches!(environment.install, Install::Remote { .. }) {
            plugin.state.wait_refused(Deadline::after(REFUSES_WITHIN));
        }
        plugin.not_refused()?;
        Ok(plugin)
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

const DEFAULT_ICON: &str = "icon.svg";

pub(super) fn default_meta() -> Value {
    json!({"version": "0.0.1", "arch": ["amd64", "arm64"], "runner":
        {"language": "python", "version": "3.12", "entrypoint": "main"}})
}

fn default_resource() -> Value {
    json!({"memory": 268_435_456, "permission": {
        "tool": {"enabled": true}, "model": all_models(), "node": {"enabled": true},
        "endpoint": {"enabled": true}, "app": {"enabled": true},
        "storage": {"enabled": true, "size": 1_048_576},
    }})
}

pub(super) fn all_models() -> Value {
    json!({
        "enabled": true, "llm": true, "text_embedding": true, "rerank": true, "tts": true,
        "speech2text": true, "moderation": true,
    })
}

/// What is not said at all, at the top and among the resources.
fn fill_in(manifest: &mut Value, defaults: Value) {
    let (Value::Object(manifest), Value::Object(defaults)) = (manifest, defaults) else { return };
    for (key, value) in defaults {
        match manifest.get_mut(&key) {
            Some(resource) if key == "resource" => fill_in(resource, value),
            Some(_) => {}
            None => {
                manifest.insert(key, value);
            }
        }
    }
}

/// The handshake, and all that is declared.
fn greet(key: &str, messages: Vec<(String, Value)>, frames: &mut Vec<Vec<u8>>) {
    let frame = |kind: &str, data: &Value| json!({"type": kind, "data": data}).to_string();
    frames.push(frame("handshake", &json!({"key": key})).into_bytes());
    for (kind, data) in messages {
        frames.push(frame(&kind, &data).into_bytes());
    }
    frames.push(frame("end", &json!({})).into_bytes());
}
