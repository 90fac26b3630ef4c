//! Builders of declarations, for those who write them in Rust.
//!
//! What has to be said is a parameter of `new`; all else has a default that Dify takes.

use serde_json::{Map, Value, json};

/// Text for people, in English and perhaps in other languages.
///
/// Where one is asked for, English text does.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{I18n, Manifest};
///
/// let label = I18n::new("Ferry").translated("ja_JP", "フェリー");
/// let manifest = Manifest::new("quay", "ferry", "0.0.1").label(label).description("Crossings");
/// # drop(manifest);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct I18n(Map<String, Value>);

impl I18n {
    /// Makes one from English text.
    pub fn new(english: impl Into<String>) -> Self {
        Self(Map::from_iter([("en_US".to_owned(), english.into().into())]))
    }

    /// Adds a translation; Dify knows `zh_Hans`, `ja_JP` and `pt_BR`.
    #[must_use]
    pub fn translated(mut self, language: impl Into<String>, text: impl Into<String>) -> Self {
        self.0.insert(language.into(), text.into().into());
        self
    }
}

impl I18n {
    pub(super) fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// With the English text where there is no translation.
    pub(super) fn in_all_languages(mut self) -> Value {
        let english = self.0.get("en_US").cloned().unwrap_or_default();
        for language in ["zh_Hans", "pt_BR", "ja_JP"] {
            self.0.entry(language).or_insert_with(|| english.clone());
        }
        self.into_value()
    }
}

impl<T: Into<String>> From<T> for I18n {
    fn from(english: T) -> Self {
        Self::new(english)
    }
}

fn text(text: impl Into<I18n>) -> Value {
    Value::Object(text.into().0)
}

/// A permission that a plugin asks for, to call Dify back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Permission {
    /// Run tools.
    Tools,
    /// Call models of every type.
    Models,
    /// Run workflow nodes.
    Nodes,
    /// Offer endpoints.
    Endpoints,
    /// Run apps.
    Apps,
    /// Keep so many bytes, 1 KiB to 1 GiB.
    Storage(u64),
}

/// What a plugin says of itself: the builder of `manifest.yaml`.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Manifest, Permission, Plugin};
///
/// let manifest = Manifest::new("quay", "ferry", "0.0.1")
///     .label("Ferry")
///     .description("Crossings by ferry")
///     .tag("travel")
///     .permissions([Permission::Storage(1 << 20), Permission::Models]);
/// Plugin::new(manifest).tool("ferry", "cross", |_| Ok(())).check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest(pub(super) Value);

impl Manifest {
    /// Makes one from what has to be said: who wrote it and what it is called, in lower-case letters,
    /// digits, `-` and `_`; and its version, of three numbers.
    pub fn new(
        author: impl Into<String>,
        name: impl Into<String>,
        version: impl Into<String>,
    ) -> Self {
        let (author, name, version) = (author.into(), name.into(), version.into());
        Self(json!({"author": author, "name": name, "version": version}))
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0[key] = value.into();
        self
    }

    /// Sets what users see. Default: the name.
    #[must_use]
    pub fn label(self, label: impl Into<I18n>) -> Self {
        self.with("label", text(label))
    }

    /// Sets what the plugin is about. Default: the name.
    #[must_use]
    pub fn description(self, description: impl Into<I18n>) -> Self {
        self.with("description", text(description))
    }

    /// Sets which of the assets is the icon. Default: the first; a plain one if there is none.
    #[must_use]
    pub fn icon(self, asset: impl Into<String>) -> Self {
        self.with("icon", asset.into())
    }

    /// Sets which of the assets is the icon on dark ground.
    #[must_use]
    pub fn icon_dark(self, asset: impl Into<String>) -> Self {
        self.with("icon_dark", asset.into())
    }

    /// Adds a tag, such as `search`, `utilities` or `other`.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        push(&mut self.0, "tags", tag.into());
        self
    }

    /// Sets when it was made, as in `2025-01-31T12:00:00Z`. Default: the beginning of 2025.
    #[must_use]
    pub fn created_at(self, time: impl Into<String>) -> Self {
        self.with("created_at", time.into())
    }

    /// Sets where its source is.
    #[must_use]
    pub fn repo(self, url: impl Into<String>) -> Self {
        self.with("repo", url.into())
    }

    /// Sets the oldest version of Dify that it works with.
    #[must_use]
    pub fn minimum_dify_version(self, version: impl Into<String>) -> Self {
        let mut meta = super::plugin::default_meta();
        meta["minimum_dify_version"] = version.into().into();
        self.with("meta", meta)
    }

    /// Sets how much memory it asks for, in bytes. Default: 256 MiB.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.0["resource"]["memory"] = bytes.into();
        self
    }

    /// Sets what it asks to be allowed. Default: everything, and 1 MiB of storage.
    #[must_use]
    pub fn permissions(mut self, permissions: impl IntoIterator<Item = Permission>) -> Self {
        let mut all = json!({});
        for permission in permissions {
            let (key, value) = match permission {
                Permission::Tools => ("tool", json!({"enabled": true})),
                Permission::Models => ("model", super::plugin::all_models()),
                Permission::Nodes => ("node", json!({"enabled": true})),
                Permission::Endpoints => ("endpoint", json!({"enabled": true})),
                Permission::Apps => ("app", json!({"enabled": true})),
                Permission::Storage(size) => ("storage", json!({"enabled": true, "size": size})),
            };
            all[key] = value;
        }
        self.0["resource"]["permission"] = all;
        self
    }
}

/// A manifest as JSON, as `manifest.yaml` would have it. What is not in it is filled in.
impl From<Value> for Manifest {
    fn from(manifest: Value) -> Self {
        Self(manifest)
    }
}

fn push(object: &mut Value, key: &str, value: impl Into<Value>) {
    match &mut object[key] {
        Value::Array(all) => all.push(value.into()),
        other => *other = Value::Array(vec![value.into()]),
    }
}

/// Who gives a parameter its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// The model that calls the tool.
    #[default]
    Llm,
    /// Whoever sets up the tool.
    Form,
    /// Whoever sets up the workflow, by its variables.
    Schema,
}

/// A parameter of a tool, an agent strategy, a datasource or an event.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Form, Parameter, Tool};
///
/// let tool = Tool::new("cross")
///     .parameter(Parameter::string("port").required().description("Where it lands"))
///     .parameter(Parameter::select("class", [("1", "First"), ("2", "Second")]).form(Form::Form))
///     .parameter(Parameter::number("cars").min(0.0).max(9.0).default(0));
/// # drop(tool);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter(Value);

macro_rules! of_type {
    ($(#[doc = $doc:literal] $function:ident = $kind:literal;)*) => {
        $(#[doc = $doc]
        pub fn $function(name: impl Into<String>) -> Self {
            Self::of_type(name, $kind)
        })*
    };
}

impl Parameter {
    of_type! {
        #[doc = "Makes one that is text."]
        string = "string";
        #[doc = "Makes one that is a number."]
        number = "number";
        #[doc = "Makes one that is true or false."]
        boolean = "boolean";
        #[doc = "Makes one that is text which is not shown."]
        secret = "secret-input";
        #[doc = "Makes one that is a [`File`](super::File)."]
        file = "file";
        #[doc = "Makes one that is a list of [`File`](super::File)s."]
        files = "files";
        #[doc = "Makes one that chooses an app."]
        app = "app-selector";
        #[doc = "Makes one that chooses a model, as a `ModelConfig`."]
        model = "model-selector";
        #[doc = "Makes one that chooses tools; for agent strategies."]
        tools = "array[tools]";
        #[doc = "Makes one that may be anything."]
        any = "any";
        #[doc = "Makes one whose options the plugin tells when they are wanted."]
        dynamic_select = "dynamic-select";
        #[doc = "Makes one that is a list."]
        array = "array";
        #[doc = "Makes one that is an object."]
        object = "object";
        #[doc = "Makes one that is ticked or not."]
        checkbox = "checkbox";
        #[doc = "Makes one that is a date."]
        date = "date";
        #[doc = "Makes one that is a range of dates."]
        date_range = "date-range";
    }

    /// Makes one of a type by the name that Dify has for it.
    pub fn of_type(name: impl Into<String>, kind: impl Into<String>) -> Self {
        let name = name.into();
        Self(json!({"name": name, "label": {"en_US": name}, "type": kind.into(), "form": "llm"}))
    }

    /// Makes one that is one of these values, each with what users see.
    pub fn select<V, L>(name: impl Into<String>, options: impl IntoIterator<Item = (V, L)>) -> Self
    where
        V: Into<String>,
        L: Into<I18n>,
    {
        let mut parameter = Self::of_type(name, "select");
        for (value, label) in options {
            push(&mut parameter.0, "options", json!({"value": value.into(), "label": text(label)}));
        }
        parameter
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0[key] = value.into();
        self
    }

    /// Makes it one that has to be given.
    #[must_use]
    pub fn required(self) -> Self {
        self.with("required", true)
    }

    /// Sets what users see. Default: the name.
    #[must_use]
    pub fn label(self, label: impl Into<I18n>) -> Self {
        self.with("label", text(label))
    }

    /// Sets what it means, for people and for models. Default: the name.
    #[must_use]
    pub fn description(self, description: impl Into<I18n>) -> Self {
        self.with("description", text(description))
    }

    /// Sets what it means for models, if that is to be another text.
    #[must_use]
    pub fn llm_description(self, description: impl Into<String>) -> Self {
        self.with("llm_description", description.into())
    }

    /// Sets who gives it its value. Default: the model.
    #[must_use]
    pub fn form(self, form: Form) -> Self {
        let form = match form {
            Form::Llm => "llm",
            Form::Form => "form",
            Form::Schema => "schema",
        };
        self.with("form", form)
    }

    /// Sets what it is if it is not given.
    #[must_use]
    pub fn default(self, value: impl Into<Value>) -> Self {
        self.with("default", value)
    }

    /// Sets the smallest number.
    #[must_use]
    pub fn min(self, least: f64) -> Self {
        self.with("min", least)
    }

    /// Sets the largest number.
    #[must_use]
    pub fn max(self, most: f64) -> Self {
        self.with("max", most)
    }

    /// Sets how many digits follow the point.
    #[must_use]
    pub fn precision(self, digits: u8) -> Self {
        self.with("precision", digits)
    }

    /// Sets what may be chosen: for a model such as `llm&vision`, for an app such as `workflow`.
    #[must_use]
    pub fn scope(self, scope: impl Into<String>) -> Self {
        self.with("scope", scope.into())
    }

    /// Lets several be chosen.
    #[must_use]
    pub fn multiple(self) -> Self {
        self.with("multiple", true)
    }

    /// As it is declared: the description has another key with each kind, and not all have a form.
    fn declared(mut self, kind: Kind) -> Value {
        let name = self.0["label"].clone();
        let description = self.0.get("description").cloned().unwrap_or(name);
        let object = self.0.as_object_mut();
        object.into_iter().for_each(|all| {
            all.remove("description");
            if kind != Kind::Tool {
                all.remove("form");
                all.remove("llm_description");
            }
        });
        match kind {
            Kind::Tool => {
                let for_models = description["en_US"].clone();
                self.0["human_description"] = description;
                if self.0.get("llm_description").is_none() {
                    self.0["llm_description"] = for_models;
                }
            }
            Kind::Strategy => self.0["help"] = description,
            Kind::Source | Kind::Event => self.0["description"] = description,
        }
        self.0
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tool,
    Strategy,
    Source,
    Event,
}

/// A credential of a provider, or a setting of the endpoints.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Setting, ToolProvider};
///
/// let key = Setting::secret("api_key").label("API key").required().url("https://example.com/keys");
/// let provider = ToolProvider::new("ferry").credential(key);
/// # drop(provider);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Setting(Value);

impl Setting {
    of_type! {
        #[doc = "Makes one that is text which is not shown, and is kept encrypted."]
        secret = "secret-input";
        #[doc = "Makes one that is text."]
        text = "text-input";
        #[doc = "Makes one that is true or false."]
        boolean = "boolean";
        #[doc = "Makes one that chooses an app."]
        app = "app-selector";
        #[doc = "Makes one that chooses a model."]
        model = "model-selector";
        #[doc = "Makes one that chooses tools."]
        tools = "array[tools]";
    }

    /// Makes one of a type by the name that Dify has for it.
    pub fn of_type(name: impl Into<String>, kind: impl Into<String>) -> Self {
        let name = name.into();
        Self(json!({"name": name, "label": {"en_US": name}, "type": kind.into()}))
    }

    /// Makes one that is one of these values, each with what users see.
    pub fn select<V, L>(name: impl Into<String>, options: impl IntoIterator<Item = (V, L)>) -> Self
    where
        V: Into<String>,
        L: Into<I18n>,
    {
        let mut setting = Self::of_type(name, "select");
        for (value, label) in options {
            push(&mut setting.0, "options", json!({"value": value.into(), "label": text(label)}));
        }
        setting
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0[key] = value.into();
        self
    }

    /// Makes it one that has to be given.
    #[must_use]
    pub fn required(self) -> Self {
        self.with("required", true)
    }

    /// Sets what users see. Default: the name.
    #[must_use]
    pub fn label(self, label: impl Into<I18n>) -> Self {
        self.with("label", text(label))
    }

    /// Sets what is said beside it.
    #[must_use]
    pub fn help(self, help: impl Into<I18n>) -> Self {
        self.with("help", text(help))
    }

    /// Sets what stands where nothing has been entered yet.
    #[must_use]
    pub fn placeholder(self, placeholder: impl Into<I18n>) -> Self {
        self.with("placeholder", text(placeholder))
    }

    /// Sets where one gets it.
    #[must_use]
    pub fn url(self, url: impl Into<String>) -> Self {
        self.with("url", url.into())
    }

    /// Sets what it is if it is not given.
    #[must_use]
    pub fn default(self, value: impl Into<Value>) -> Self {
        self.with("default", value)
    }

    /// Sets what may be chosen: for a model such as `llm`, for an app such as `chat`.
    #[must_use]
    pub fn scope(self, scope: impl Into<String>) -> Self {
        self.with("scope", scope.into())
    }

    pub(super) fn declared(self) -> Value {
        self.0
    }
}

/// A tool.
///
/// Where one is asked for, its name does.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use sessile::session::dify::{Parameter, Tool};
///
/// let tool = Tool::new("cross")
///     .label("Cross")
///     .description("Crosses the river")
///     .parameter(Parameter::string("port").required())
///     .output_schema(json!({"type": "object", "properties": {"boat": {"type": "string"}}}));
/// # drop(tool);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Tool(Value);

impl Tool {
    /// Makes one that is called so: of letters, digits, `-` and `_`.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self(json!({
            "identity": {"name": name, "label": {"en_US": name}},
            "description": {"human": {"en_US": name}, "llm": name},
            "parameters": [],
            "extra": {"python": {"source": "main.py"}},
        }))
    }

    pub(super) fn name(&self) -> &str {
        self.0["identity"]["name"].as_str().unwrap_or_default()
    }

    /// Sets what users see. Default: the name.
    #[must_use]
    pub fn label(mut self, label: impl Into<I18n>) -> Self {
        self.0["identity"]["label"] = text(label);
        self
    }

    /// Sets what it does, for people and for models. Default: the name.
    #[must_use]
    pub fn description(mut self, description: impl Into<I18n>) -> Self {
        let description = text(description);
        self.0["description"] = json!({"llm": description["en_US"], "human": description});
        self
    }

    /// Sets what it does for models, if that is to be another text.
    #[must_use]
    pub fn llm_description(mut self, description: impl Into<String>) -> Self {
        self.0["description"]["llm"] = description.into().into();
        self
    }

    /// Adds a parameter.
    #[must_use]
    pub fn parameter(mut self, parameter: Parameter) -> Self {
        push(&mut self.0, "parameters", parameter.declared(Kind::Tool));
        self
    }

    /// Sets the JSON schema of its variables.
    #[must_use]
    pub fn output_schema(mut self, schema: Value) -> Self {
        self.0["output_schema"] = schema;
        self
    }

    pub(super) fn has_runtime_parameters(&mut self) {
        self.0["has_runtime_parameters"] = true.into();
    }

    pub(super) fn declared(mut self, author: &str, provider: &str) -> Value {
        self.0["identity"]["author"] = author.into();
        self.0["identity"]["provider"] = provider.into();
        self.0
    }
}

impl<T: Into<String>> From<T> for Tool {
    fn from(name: T) -> Self {
        Self::new(name)
    }
}

/// An identity, as providers of tools, strategies, datasources and triggers have one.
fn provider(name: impl Into<String>) -> Value {
    let name = name.into();
    json!({"identity": {
        "name": name, "label": {"en_US": name}, "description": {"en_US": name}, "tags": [],
    }})
}

macro_rules! provider_methods {
    () => {
        /// Sets what users see. Default: the name.
        #[must_use]
        pub fn label(mut self, label: impl Into<I18n>) -> Self {
            self.0["identity"]["label"] = text(label);
            self
        }

        /// Sets what it is about. Default: the name.
        #[must_use]
        pub fn description(mut self, description: impl Into<I18n>) -> Self {
            self.0["identity"]["description"] = text(description);
            self
        }

        /// Sets which of the assets is its icon. Default: the plugin's.
        #[must_use]
        pub fn icon(mut self, asset: impl Into<String>) -> Self {
            self.0["identity"]["icon"] = asset.into().into();
            self
        }

        /// Adds a tag, such as `search`, `utilities` or `other`.
        #[must_use]
        pub fn tag(mut self, tag: impl Into<String>) -> Self {
            push(&mut self.0["identity"], "tags", tag.into());
            self
        }

        pub(super) fn name(&self) -> &str {
            self.0["identity"]["name"].as_str().unwrap_or_default()
        }

        /// With what the plugin knows: its author, its icon, and what is in it, under this key.
        pub(super) fn declared(mut self, author: &str, icon: &str, key: &str, of: Vec<Value>) -> Value {
            let identity = &mut self.0["identity"];
            identity["author"] = author.into();
            if identity.get("icon").is_none() {
                identity["icon"] = icon.into();
            }
            self.0[key] = of.into();
            self.0["extra"] = json!({"python": {"source": "main.py"}});
            self.0
        }
    };
}

macro_rules! credential_methods {
    () => {
        /// Adds a credential, which users enter.
        #[must_use]
        pub fn credential(mut self, credential: Setting) -> Self {
            push(&mut self.0, "credentials_schema", credential.declared());
            self
        }

        /// Says that credentials may be had by OAuth too: what the administrator has to enter, and
        /// which credentials come of it.
        #[must_use]
        pub fn oauth(
            mut self,
            client: impl IntoIterator<Item = Setting>,
            credentials: impl IntoIterator<Item = Setting>,
        ) -> Self {
            self.0["oauth_schema"] = oauth(client, credentials);
            self
        }
    };
}

fn oauth(
    client: impl IntoIterator<Item = Setting>,
    credentials: impl IntoIterator<Item = Setting>,
) -> Value {
    let client = client.into_iter().map(Setting::declared);
    let credentials = credentials.into_iter().map(Setting::declared);
    json!({"client_schema": Vec::from_iter(client), "credentials_schema": Vec::from_iter(credentials)})
}

/// A provider of tools. A plugin has one.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Manifest, Plugin, Setting, ToolProvider};
///
/// let provider = ToolProvider::new("ferry")
///     .label("Ferry")
///     .description("Crosses rivers")
///     .tag("travel")
///     .credential(Setting::secret("api_key").required());
/// let plugin = Plugin::new(Manifest::new("quay", "ferry", "0.0.1"))
///     .tool_provider(provider)
///     .tool("ferry", "cross", |_| Ok(()))
///     .validate_credentials("ferry", |request| {
///         let key: String = request.credential("api_key")?;
///         anyhow::ensure!(key.starts_with("f-"), "a key begins with f-");
///         Ok(())
///     });
/// plugin.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ToolProvider(Value);

impl ToolProvider {
    /// Makes one that is called so: of letters, digits, `-` and `_`.
    pub fn new(name: impl Into<String>) -> Self {
        let mut declared = provider(name);
        declared["credentials_schema"] = json!([]);
        Self(declared)
    }

    provider_methods!();
    credential_methods!();
}

/// A strategy of agents.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Parameter, Strategy, StrategyProvider};
///
/// let drift = Strategy::new("drift")
///     .description("Lets it drift")
///     .parameter(Parameter::model("model").scope("llm&tool-call").required())
///     .parameter(Parameter::tools("tools"));
/// let provider = StrategyProvider::new("pilot").strategy(drift);
/// # drop(provider);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Strategy(Value);

impl Strategy {
    /// Makes one that is called so: of letters, digits, `-` and `_`.
    pub fn new(name: impl Into<String>) -> Self {
        Self(entry(name))
    }

    /// Sets what users see. Default: the name.
    #[must_use]
    pub fn label(mut self, label: impl Into<I18n>) -> Self {
        self.0["identity"]["label"] = text(label);
        self
    }

    /// Sets what it does. Default: the name.
    #[must_use]
    pub fn description(mut self, description: impl Into<I18n>) -> Self {
        self.0["description"] = text(description);
        self
    }

    /// Adds a parameter.
    #[must_use]
    pub fn parameter(mut self, parameter: Parameter) -> Self {
        push(&mut self.0, "parameters", parameter.declared(Kind::Strategy));
        self
    }

    /// Adds a feature, such as `history-messages`.
    #[must_use]
    pub fn feature(mut self, feature: impl Into<String>) -> Self {
        push(&mut self.0, "features", feature.into());
        self
    }
}

fn entry(name: impl Into<String>) -> Value {
    let name = name.into();
    json!({
        "identity": {"name": name, "label": {"en_US": name}}, "description": {"en_US": name},
        "parameters": [], "extra": {"python": {"source": "main.py"}},
    })
}

/// A provider of strategies for agents.
///
/// # Examples
///
/// As at [`Strategy`].
#[derive(Clone, Debug, PartialEq)]
pub struct StrategyProvider(Value, Vec<Value>);

/// A datasource.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Datasource, DatasourceKind, DatasourceProvider, Parameter};
///
/// let log = Datasource::new("log").parameter(Parameter::number("year"));
/// let archive = DatasourceProvider::new("archive", DatasourceKind::OnlineDocument).datasource(log);
/// # drop(archive);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Datasource(Value);

impl Datasource {
    /// Makes one that is called so.
    pub fn new(name: impl Into<String>) -> Self {
        Self(entry(name))
    }

    /// Sets what users see. Default: the name.
    #[must_use]
    pub fn label(mut self, label: impl Into<I18n>) -> Self {
        self.0["identity"]["label"] = text(label);
        self
    }

    /// Sets what it has. Default: the name.
    #[must_use]
    pub fn description(mut self, description: impl Into<I18n>) -> Self {
        self.0["description"] = text(description);
        self
    }

    /// Sets which of the assets is its icon.
    #[must_use]
    pub fn icon(mut self, asset: impl Into<String>) -> Self {
        self.0["identity"]["icon"] = asset.into().into();
        self
    }

    /// Adds a parameter.
    #[must_use]
    pub fn parameter(mut self, parameter: Parameter) -> Self {
        push(&mut self.0, "parameters", parameter.declared(Kind::Source));
        self
    }
}

/// What a datasource provider's datasources are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatasourceKind {
    /// Web sites, to be crawled.
    WebsiteCrawl,
    /// Pages of a service.
    OnlineDocument,
    /// Files of a service.
    OnlineDrive,
}

/// A provider of datasources.
///
/// # Examples
///
/// As at [`Datasource`].
#[derive(Clone, Debug, PartialEq)]
pub struct DatasourceProvider(Value, Vec<Value>);

/// An event of a trigger provider.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Event, Parameter, Setting, TriggerProvider};
///
/// let arrived = Event::new("arrived").parameter(Parameter::string("port"));
/// let bell = TriggerProvider::new("bell")
///     .subscription(Setting::secret("webhook_secret"))
///     .event(arrived);
/// # drop(bell);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Event(Value);

impl Event {
    /// Makes one that is called so: of letters, digits, `-` and `_`.
    pub fn new(name: impl Into<String>) -> Self {
        Self(entry(name))
    }

    /// Sets what users see. Default: the name.
    #[must_use]
    pub fn label(mut self, label: impl Into<I18n>) -> Self {
        self.0["identity"]["label"] = text(label);
        self
    }

    /// Sets what has happened then. Default: the name.
    #[must_use]
    pub fn description(mut self, description: impl Into<I18n>) -> Self {
        self.0["description"] = text(description);
        self
    }

    /// Adds a parameter.
    #[must_use]
    pub fn parameter(mut self, parameter: Parameter) -> Self {
        push(&mut self.0, "parameters", parameter.declared(Kind::Event));
        self
    }

    /// Sets the JSON schema of its variables.
    #[must_use]
    pub fn output_schema(mut self, schema: Value) -> Self {
        self.0["output_schema"] = schema;
        self
    }
}

/// A provider of triggers.
///
/// # Examples
///
/// As at [`Event`].
#[derive(Clone, Debug, PartialEq)]
pub struct TriggerProvider(Value, Vec<Value>);

macro_rules! entries {
    ($provider:ident, $entry:ident, $add:ident, $key:literal, $doc:literal) => {
        impl $provider {
            #[doc = $doc]
            #[must_use]
            pub fn $add(mut self, entry: $entry) -> Self {
                self.1.push(entry.0);
                self
            }

            /// As it is declared: with the entries, which have its author too.
            pub(super) fn complete(self, author: &str, icon: &str) -> Value {
                let Self(_, entries) = &self;
                let name = self.name().to_owned();
                let mut entries = entries.clone();
                for entry in &mut entries {
                    entry["identity"]["author"] = author.into();
                    entry["identity"]["provider"] = name.clone().into();
                }
                self.declared(author, icon, $key, entries)
            }

            provider_methods!();
        }
    };
}

entries!(StrategyProvider, Strategy, strategy, "strategies", "Adds a strategy.");
entries!(DatasourceProvider, Datasource, datasource, "datasources", "Adds a datasource.");
entries!(TriggerProvider, Event, event, "events", "Adds an event.");

impl StrategyProvider {
    /// Makes one that is called so: of letters, digits, `-` and `_`.
    pub fn new(name: impl Into<String>) -> Self {
        Self(provider(name), Vec::new())
    }
}

impl DatasourceProvider {
    /// Makes one that is called so, whose datasources are of this kind.
    pub fn new(name: impl Into<String>, kind: DatasourceKind) -> Self {
        let mut declared = provider(name);
        declared["credentials_schema"] = json!([]);
        declared["provider_type"] = match kind {
            DatasourceKind::WebsiteCrawl => "website_crawl",
            DatasourceKind::OnlineDocument => "online_document",
            DatasourceKind::OnlineDrive => "online_drive",
        }
        .into();
        Self(declared, Vec::new())
    }

    credential_methods!();
}

impl TriggerProvider {
    /// Makes one that is called so: of letters, digits, `-` and `_`.
    pub fn new(name: impl Into<String>) -> Self {
        let mut declared = provider(name);
        declared["subscription_schema"] = json!([]);
        Self(declared, Vec::new())
    }

    /// Adds a property of subscriptions, which users enter.
    #[must_use]
    pub fn subscription(mut self, property: Setting) -> Self {
        push(&mut self.0, "subscription_schema", property.declared());
        self
    }

    /// Says that the plugin makes subscriptions itself: from these parameters, with these credentials.
    #[must_use]
    pub fn constructor(
        mut self,
        parameters: impl IntoIterator<Item = Parameter>,
        credentials: impl IntoIterator<Item = Setting>,
    ) -> Self {
        let parameters = parameters.into_iter().map(|parameter| parameter.declared(Kind::Event));
        let credentials = credentials.into_iter().map(Setting::declared);
        let constructor = &mut self.0["subscription_constructor"];
        constructor["parameters"] = Value::Array(parameters.collect());
        constructor["credentials_schema"] = Value::Array(credentials.collect());
        self
    }

    /// Says that credentials for subscriptions may be had by OAuth too.
    #[must_use]
    pub fn oauth(
        mut self,
        client: impl IntoIterator<Item = Setting>,
        credentials: impl IntoIterator<Item = Setting>,
    ) -> Self {
        self.0["subscription_constructor"]["oauth_schema"] = oauth(client, credentials);
        self
    }
}

/// A provider of models.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{ModelCredential, ModelProvider};
///
/// let provider = ModelProvider::new("tidal")
///     .label("Tidal")
///     .predefined("tide-1", "llm")
///     .customizable("text-embedding")
///     .credential(ModelCredential::secret("api_key").label("API key").required());
/// # drop(provider);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ModelProvider(pub(super) Value);

impl ModelProvider {
    /// Makes one that is called so, without models.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self(json!({
            "provider": name, "label": {"en_US": name}, "supported_model_types": [],
            "configurate_methods": [], "models": [],
            "extra": {"python": {"provider_source": "main.py", "model_sources": []}},
        }))
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0[key] = value.into();
        self
    }

    fn of_type(&mut self, model_type: &str, method: &str) {
        for (key, value) in [("supported_model_types", model_type), ("configurate_methods", method)]
        {
            let known =
                self.0[key].as_array().is_some_and(|all| all.iter().any(|one| one == value));
            if !known {
                push(&mut self.0, key, value);
            }
        }
    }

    /// Sets what users see. Default: the name.
    #[must_use]
    pub fn label(self, label: impl Into<I18n>) -> Self {
        self.with("label", text(label))
    }

    /// Sets what it is about.
    #[must_use]
    pub fn description(self, description: impl Into<I18n>) -> Self {
        self.with("description", text(description))
    }

    /// Sets which of the assets is its icon.
    #[must_use]
    pub fn icon(self, asset: impl Into<String>) -> Self {
        let icon = text(asset.into());
        self.with("icon_small", icon.clone()).with("icon_large", icon)
    }

    /// Adds a model of a type: `llm`, `text-embedding`, `rerank`, `tts`, `speech2text`, `moderation`.
    #[must_use]
    pub fn predefined(self, name: impl Into<String>, model_type: impl Into<String>) -> Self {
        let (name, model_type) = (name.into(), model_type.into());
        self.model(json!({
            "model": name, "label": {"en_US": name}, "model_type": model_type, "features": [],
            "model_properties": {"mode": "chat", "context_size": 8192}, "parameter_rules": [],
        }))
    }

    /// Adds a model, as its YAML would have it.
    #[must_use]
    pub fn model(mut self, model: Value) -> Self {
        let model_type = model["model_type"].as_str().unwrap_or_default().to_owned();
        self.of_type(&model_type, "predefined-model");
        push(&mut self.0, "models", model);
        self
    }

    /// Lets users add models of a type.
    #[must_use]
    pub fn customizable(mut self, model_type: impl Into<String>) -> Self {
        self.of_type(&model_type.into(), "customizable-model");
        if self.0.get("model_credential_schema").is_none() {
            self.0["model_credential_schema"] =
                json!({"model": {"label": {"en_US": "Model"}}, "credential_form_schemas": []});
        }
        self
    }

    /// Adds a credential for all models.
    #[must_use]
    pub fn credential(mut self, credential: ModelCredential) -> Self {
        push(&mut self.0["provider_credential_schema"], "credential_form_schemas", credential.0);
        self
    }

    /// Adds a credential for models that users add.
    #[must_use]
    pub fn model_credential(mut self, credential: ModelCredential) -> Self {
        push(&mut self.0["model_credential_schema"], "credential_form_schemas", credential.0);
        self
    }
}

/// As the SDK's YAML has it.
impl From<Value> for ModelProvider {
    fn from(declaration: Value) -> Self {
        Self(declaration)
    }
}

/// A credential of a provider of models.
///
/// # Examples
///
/// As at [`ModelProvider`].
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCredential(Value);

impl ModelCredential {
    fn of_type(name: impl Into<String>, kind: &str) -> Self {
        let name = name.into();
        Self(json!({"variable": name, "label": {"en_US": name}, "type": kind, "required": false}))
    }

    /// Makes one that is text which is not shown, and is kept encrypted.
    pub fn secret(name: impl Into<String>) -> Self {
        Self::of_type(name, "secret-input")
    }

    /// Makes one that is text.
    pub fn text(name: impl Into<String>) -> Self {
        Self::of_type(name, "text-input")
    }

    /// Makes one that is one of these values, each with what users see.
    pub fn select<V, L>(name: impl Into<String>, options: impl IntoIterator<Item = (V, L)>) -> Self
    where
        V: Into<String>,
        L: Into<I18n>,
    {
        let mut credential = Self::of_type(name, "select");
        for (value, label) in options {
            let option = json!({"value": value.into(), "label": text(label)});
            push(&mut credential.0, "options", option);
        }
        credential
    }

    /// Makes it one that has to be given.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.0["required"] = true.into();
        self
    }

    /// Sets what users see. Default: the name.
    #[must_use]
    pub fn label(mut self, label: impl Into<I18n>) -> Self {
        self.0["label"] = text(label);
        self
    }

    /// Sets what stands where nothing has been entered yet.
    #[must_use]
    pub fn placeholder(mut self, placeholder: impl Into<I18n>) -> Self {
        self.0["placeholder"] = text(placeholder);
        self
    }

    /// Sets what it is if it is not given.
    #[must_use]
    pub fn default(mut self, value: impl Into<String>) -> Self {
        self.0["default"] = value.into().into();
        self
    }
}
