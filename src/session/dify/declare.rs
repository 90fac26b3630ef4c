//! Builders of declarations, for those who write them in Rust.
//!
//! What has to be said is a parameter of `new`; all else has a default that Dify takes.

mod model;
mod parameter;
mod provider;

use serde_json::{Map, Value, json};

pub use self::model::{ModelCredential, ModelProvider};
pub use self::parameter::{Form, Parameter, Setting};
pub use self::provider::{
    Datasource, DatasourceKind, DatasourceProvider, Event, Strategy, StrategyProvider, Tool,
    ToolProvider, TriggerProvider,
};

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
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Manifest, Permission};
///
/// let manifest = Manifest::new("quay", "ferry", "0.0.1")
///     .permissions([Permission::Models, Permission::Storage(1 << 20)]);
/// # drop(manifest);
/// ```
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

/// With what may be chosen, each with what users see.
fn with_options<V, L>(mut declared: Value, options: impl IntoIterator<Item = (V, L)>) -> Value
where
    V: Into<String>,
    L: Into<I18n>,
{
    for (value, label) in options {
        push(&mut declared, "options", json!({"value": value.into(), "label": text(label)}));
    }
    declared
}
