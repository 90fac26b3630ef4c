//! What a plugin declares, and whether Dify's daemon takes it.
//!
//! [`Registration`] hears declarations in the order in which they are sent, and keeps to the daemon's
//! rules. A plugin asks it before it dials; the [`Daemon`](super::Daemon) asks it about what it hears.
//! So both know the same rules, and neither learns them from the other.

mod rules;
mod shape;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use data_encoding::BASE64;
use serde_json::Value;

use self::shape::{Fault, get};

/// All of a plugin's assets, counted in base64.
const ASSETS: usize = 50 << 20;

/// A declaration that Dify's daemon does not take, and the field at fault.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use sessile::session::dify::Plugin;
///
/// let manifest = json!({"author": "Me Myself", "name": "hello", "version": "0.0.1"});
/// let plugin = Plugin::new(manifest).tool("greeter", "greet", |_| Ok(()));
/// let error = plugin.check().unwrap_err();
/// assert_eq!((error.declaration(), error.field()), ("manifest", "author"));
/// assert!(error.to_string().contains("`Me Myself`"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclarationError {
    declaration: String,
    field: String,
    what: String,
}

impl DeclarationError {
    pub(super) fn new(
        declaration: impl Into<String>,
        field: impl Into<String>,
        what: impl Into<String>,
    ) -> Self {
        Self { declaration: declaration.into(), field: field.into(), what: what.into() }
    }

    fn of(declaration: &str, fault: Fault) -> Self {
        Self::new(declaration, fault.path, fault.what)
    }

    /// Names the declaration at fault: `manifest`, `tool`, `endpoint`, `asset` and so on.
    #[must_use]
    pub fn declaration(&self) -> &str {
        &self.declaration
    }

    /// Names the field at fault, as a path such as `tools[0].identity.name`. It is empty if the error
    /// is about the declaration as a whole.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }
}

impl fmt::Display for DeclarationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dify does not take the {} declaration: ", self.declaration)?;
        if !self.field.is_empty() {
            write!(f, "`{}` ", self.field)?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for DeclarationError {}

/// What is declared besides the manifest, in the order in which the SDK sends it.
pub(super) const KINDS: [&str; 6] =
    ["tool", "model", "endpoint", "agent_strategy", "datasource", "trigger"];

/// Declarations, heard one after the other.
#[derive(Default)]
pub(super) struct Registration {
    manifest: Option<Value>,
    /// The first of each kind's list, which is the one that counts.
    declared: BTreeMap<&'static str, Value>,
    heard: BTreeSet<&'static str>,
    assets: BTreeMap<String, Vec<u8>>,
    asset_size: usize,
}

impl Registration {
    /// Hears a message by its type: `manifest_declaration`, `tool_declaration`, `asset_chunk` and so
    /// on. Types that are not known mean nothing, as to the daemon.
    pub(super) fn hear(&mut self, message: &str, data: &Value) -> Result<(), DeclarationError> {
        match message {
            "manifest_declaration" => self.hear_manifest(data),
            "asset_chunk" => self.hear_asset(data),
            _ => {
                let kind = message.strip_suffix("_declaration");
                match kind.and_then(|kind| KINDS.into_iter().find(|known| *known == kind)) {
                    Some(kind) => self.hear_kind(kind, data),
                    None => Ok(()),
                }
            }
        }
    }

    fn hear_manifest(&mut self, data: &Value) -> Result<(), DeclarationError> {
        if self.manifest.is_some() {
            return Err(DeclarationError::new("manifest", "", "was declared twice"));
        }
        shape::check(data, &rules::MANIFEST)
            .map_err(|fault| DeclarationError::of("manifest", fault))?;
        // It begins anew: what was declared before it is forgotten.
        self.declared.clear();
        self.manifest = Some(data.clone());
        Ok(())
    }

    fn hear_kind(&mut self, kind: &'static str, data: &Value) -> Result<(), DeclarationError> {
        if !self.heard.insert(kind) {
            return Err(DeclarationError::new(
                kind,
                "",
                "was sent twice; Dify takes one message of it",
            ));
        }
        let Value::Array(providers) = data else {
            return Err(DeclarationError::new(kind, "", "is not a list of providers"));
        };
        for provider in providers {
            rules::check_provider(kind, provider)
                .map_err(|fault| DeclarationError::of(kind, fault))?;
        }
        if let Some(first) = providers.first() {
            self.declared.insert(kind, first.clone());
        }
        Ok(())
    }

    fn hear_asset(&mut self, data: &Value) -> Result<(), DeclarationError> {
        let error = |field, what: &str| DeclarationError::new("asset", field, what);
        shape::check(data, &rules::ASSET).map_err(|fault| DeclarationError::of("asset", fault))?;
        let text = |key| get(data, key).and_then(Value::as_str).unwrap_or_default();
        let (name, content) = (text("filename"), text("data"));
        self.asset_size += content.len();
        if self.asset_size > ASSETS {
            return Err(error("data", "is too large: all assets in base64 may have 50 MiB"));
        }
        // Go passes over line breaks.
        let digits: Vec<u8> =
            content.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
        let bytes = BASE64.decode(&digits).map_err(|_| error("data", "is no base64"))?;
        self.assets.entry(name.to_owned()).or_default().extend(bytes);
        Ok(())
    }

    /// Looks at the whole, when everything was heard.
    pub(super) fn end(&self) -> Result<(), DeclarationError> {
        if self.heard.is_empty() {
            let what = "declares nothing: at least one tool, endpoint, model, agent strategy, \
                        datasource or trigger is needed";
            return Err(DeclarationError::new("plugin", "", what));
        }
        self.all_icons()?;
        self.kinds_go_together()?;
        let manifest = self.manifest.as_ref().unwrap_or(&Value::Null);
        for (key, longest) in [("author", 64), ("name", 128)] {
            let name = get(manifest, key).and_then(Value::as_str).unwrap_or_default();
            if !rules::is_identifier(name, longest) {
                let what = format!(
                    "is {}: it has to be 1 to {longest} of the letters a to z, digits, `-` and `_`",
                    shape::quote(&Value::from(name)),
                );
                return Err(DeclarationError::new("manifest", key, what));
            }
        }
        Ok(())
    }

    /// Every icon that is named has to be among the assets.
    fn all_icons(&self) -> Result<(), DeclarationError> {
        let is_there = |declaration: &str, field: &str, name: Option<&Value>| {
            let name = name.and_then(Value::as_str).unwrap_or_default();
            if name.is_empty() || self.assets.contains_key(name) {
                return Ok(());
            }
            let what = format!("names the asset `{name}`, which was not sent: add it by `asset`");
            Err(DeclarationError::new(declaration, field, what))
        };
        if let Some(model) = self.declared.get("model") {
            for icon in ["icon_small", "icon_large", "icon_small_dark", "icon_large_dark"] {
                for language in rules::LANGUAGES {
                    let name = get(model, icon).and_then(|icon| get(icon, language));
                    is_there("model", &format!("{icon}.{language}"), name)?;
                }
            }
        }
        for kind in ["tool", "agent_strategy", "datasource", "trigger"] {
            let Some(provider) = self.declared.get(kind) else { continue };
            let identity = get(provider, "identity").unwrap_or(&Value::Null);
            // A datasource provider has no dark icon.
            let icons = if kind == "datasource" { &["icon"][..] } else { &["icon", "icon_dark"] };
            for icon in icons {
                is_there(kind, &format!("identity.{icon}"), get(identity, icon))?;
            }
            if kind == "datasource" {
                let all = get(provider, "datasources").and_then(Value::as_array);
                for (at, source) in all.into_iter().flatten().enumerate() {
                    let icon = get(source, "identity").and_then(|identity| get(identity, "icon"));
                    is_there(kind, &format!("datasources[{at}].identity.icon"), icon)?;
                }
            }
        }
        let manifest = self.manifest.as_ref().unwrap_or(&Value::Null);
        for icon in ["icon", "icon_dark"] {
            is_there("manifest", icon, get(manifest, icon))?;
        }
        Ok(())
    }

    fn kinds_go_together(&self) -> Result<(), DeclarationError> {
        let error = |what: String| Err(DeclarationError::new("plugin", "", what));
        if self.declared.is_empty() {
            return error(
                "has no provider left: the lists are empty, or the manifest came after them"
                    .to_owned(),
            );
        }
        for alone in ["model", "agent_strategy", "datasource"] {
            let other = self.declared.keys().find(|kind| **kind != alone);
            if let (true, Some(other)) = (self.declared.contains_key(alone), other) {
                return error(format!(
                    "declares `{alone}` and `{other}`: `{alone}` has to be a plugin of its own"
                ));
            }
        }
        Ok(())
    }

    /// The words with which Dify's daemon begins when it refuses this.
    pub(super) fn refusal(message: &str, error: &DeclarationError) -> String {
        let (subject, at) = (error.what.as_str(), error.field.as_str());
        let about = if at.is_empty() { subject.to_owned() } else { format!("`{at}` {subject}") };
        match message {
            "end" if error.what.starts_with("declares nothing") => {
                "no registration transferred, cannot initialize".to_owned()
            }
            "end" if error.what.starts_with("names the asset") => {
                format!("assets remap failed, invalid assets data, cannot remap: {about}")
            }
            "end" => format!("register failed, invalid manifest detected: {about}"),
            "manifest_declaration" if at.is_empty() => "declaration already registered".to_owned(),
            "manifest_declaration" => {
                format!("handshake failed, invalid plugin declaration: {about}")
            }
            "asset_chunk" => format!("transfer assets failed, error: {about}"),
            _ => {
                let many = match message.trim_end_matches("_declaration") {
                    "agent_strategy" => "agent strategies".to_owned(),
                    kind => format!("{kind}s"),
                };
                if error.what.starts_with("was sent twice") {
                    format!("{many} declaration already registered")
                } else {
                    format!("{many} register failed, invalid {many} declaration: {about}")
                }
            }
        }
    }

    /// The files that it brought, by name.
    pub(super) fn assets(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.assets
    }

    /// The first provider of each kind.
    pub(super) fn declared(&self) -> &BTreeMap<&'static str, Value> {
        &self.declared
    }

    pub(super) fn manifest(&self) -> Option<&Value> {
        self.manifest.as_ref()
    }
}
