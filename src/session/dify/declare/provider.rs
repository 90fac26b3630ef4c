//! Providers, and what is in them: tools, strategies, datasources and events.

use serde_json::{Value, json};

use super::parameter::{Kind, Parameter, Setting};
use super::{I18n, push, text};

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

    pub(in crate::session::dify) fn name(&self) -> &str {
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

    pub(in crate::session::dify) fn has_runtime_parameters(&mut self) {
        self.0["has_runtime_parameters"] = true.into();
    }

    pub(in crate::session::dify) fn declared(mut self, author: &str, provider: &str) -> Value {
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

        pub(in crate::session::dify) fn name(&self) -> &str {
            self.0["identity"]["name"].as_str().unwrap_or_default()
        }

        /// With what the plugin knows: its author, its icon, and what is in it, under this key.
        pub(in crate::session::dify) fn declared(mut self, author: &str, icon: &str, key: &str, of: Vec<Value>) -> Value {
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
///
/// # Examples
///
/// As at [`Datasource`].
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
            pub(in crate::session::dify) fn complete(self, author: &str, icon: &str) -> Value {
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
