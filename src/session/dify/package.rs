//! The SDK's own layout: `manifest.yaml`, the YAML of providers and of what is in them, `_assets`, `.env`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use super::environment::{Environment, EnvironmentError};
use super::plugin::Plugin;

/// A plugin's declarations as the SDK has them in a folder, so that an existing plugin's are taken over.
///
/// Its code is not: what the YAML says of Python sources is passed over.
///
/// # Examples
///
/// ```no_run
/// use sessile::session::dify::{Package, ToolMessage};
///
/// fn main() -> anyhow::Result<()> {
///     let package = Package::read(".")?;
///     let environment = package.environment()?; // the process's variables, then `.env`
///     package
///         .plugin()
///         .tool("greeter", "greet", |request| {
///             let name: String = request.parameter("name")?;
///             request.send(ToolMessage::text(format!("hello {name}")))?;
///             Ok(())
///         })
///         .run(&environment)?
///         .wait()?;
///     Ok(())
/// }
/// ```
#[derive(Clone, PartialEq)]
pub struct Package {
    manifest: Value,
    declared: Vec<(&'static str, Value)>,
    assets: Vec<(String, Vec<u8>)>,
    variables: BTreeMap<String, String>,
}

/// The kinds, the manifest's lists of their files, and what is listed in those.
const KINDS: [(&str, &str, &str); 6] = [
    ("tool", "tools", "tools"),
    ("model", "models", "models"),
    ("endpoint", "endpoints", "endpoints"),
    ("agent_strategy", "agent_strategies", "strategies"),
    ("datasource", "datasources", "datasources"),
    ("trigger", "triggers", "events"),
];

impl Package {
    /// Reads a folder.
    ///
    /// # Errors
    ///
    /// If a file that is named is not there, or cannot be read; the error names it. Whether Dify takes
    /// what is declared, [`Plugin::check`] says.
    pub fn read(folder: impl AsRef<Path>) -> anyhow::Result<Self> {
        let folder = folder.as_ref();
        let manifest = yaml(&folder.join("manifest.yaml"))?;
        let mut declared = Vec::new();
        for (kind, list, entries) in KINDS {
            let files = manifest["plugins"].get(list).and_then(Value::as_array);
            for file in files.into_iter().flatten() {
                let file = file.as_str().with_context(|| {
                    format!("manifest.yaml: `plugins.{list}` is to be a list of file names")
                })?;
                let mut provider = yaml(&folder.join(file))?;
                in_full(folder, kind, entries, &mut provider).with_context(|| file.to_owned())?;
                declared.push((kind, provider));
            }
        }
        let (assets, variables) = (read_assets(folder)?, read_variables(folder)?);
        Ok(Self { manifest, declared, assets, variables })
    }

    /// Makes a plugin that declares all of it. What it does is to be added.
    pub fn plugin(&self) -> Plugin {
        let mut plugin = Plugin::new(self.manifest.clone());
        for (kind, provider) in &self.declared {
            plugin = plugin.declare(kind, provider.clone());
        }
        for (name, content) in &self.assets {
            plugin = plugin.asset(name, content.clone());
        }
        plugin
    }

    /// Reads how the plugin is to run: by this process's variables, and by `.env` for those that are
    /// not set.
    ///
    /// # Errors
    ///
    /// If one of them cannot be used.
    pub fn environment(&self) -> Result<Environment, EnvironmentError> {
        Environment::from_variables(|name| {
            std::env::var(name).ok().or_else(|| self.variables.get(name).cloned())
        })
    }
}

/// Without the variables: they may hold a key.
impl fmt::Debug for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Package").field("name", &self.manifest["name"]).finish_non_exhaustive()
    }
}

fn yaml(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let value: Value = serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
    match value {
        Value::Object(_) => Ok(value),
        _ => bail!("{}: it is to be a mapping", path.display()),
    }
}

/// With the files that it names in the place of their names, and as it goes over the wire.
fn in_full(folder: &Path, kind: &str, entries: &str, provider: &mut Value) -> anyhow::Result<()> {
    let named = provider.get("credentials_for_provider").cloned();
    if let Some(named) = named {
        provider["credentials_schema"] = named;
        provider.as_object_mut().map(|all| all.remove("credentials_for_provider"));
    }
    let needs_credentials = matches!(kind, "tool" | "datasource");
    if needs_credentials && provider.get("credentials_schema").is_none() {
        provider["credentials_schema"] = json!([]);
    }
    if kind == "trigger" && provider.get("subscription_schema").is_none() {
        provider["subscription_schema"] = json!([]);
    }
    for key in ["credentials_schema", "settings", "subscription_schema"] {
        by_name(provider, key);
    }
    if let Some(constructor) = provider.get_mut("subscription_constructor") {
        by_name(constructor, "credentials_schema");
    }
    if kind == "model" {
        let models = provider["models"].take();
        provider["models"] = models_in_full(folder, &models, provider)?;
    } else if let Some(Value::Array(all)) = provider.get_mut(entries) {
        for entry in all {
            if let Some(file) = entry.as_str() {
                *entry = yaml(&folder.join(file))?;
            }
            values_as_text(entry);
        }
    }
    Ok(())
}

/// What is by name in YAML is a list of what has a name over the wire.
fn by_name(provider: &mut Value, key: &str) {
    if let Some(Value::Object(named)) = provider.get_mut(key) {
        let named = std::mem::take(named);
        let listed = named.into_iter().map(|(name, mut setting)| {
            setting["name"] = name.into();
            setting
        });
        provider[key] = listed.collect();
    }
}

/// An option's value is text, whatever it looks like in YAML.
fn values_as_text(entry: &mut Value) {
    let parameters = entry.get_mut("parameters").and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        let options = parameter.get_mut("options").and_then(Value::as_array_mut);
        for option in options.into_iter().flatten() {
            if let Some(value @ (Value::Number(_) | Value::Bool(_))) = option.get_mut("value") {
                *value = value.to_string().into();
            }
        }
    }
}

/// The models of each type, by the patterns of their files; and the order in which they are shown.
fn models_in_full(folder: &Path, types: &Value, provider: &mut Value) -> anyhow::Result<Value> {
    let mut models = Vec::new();
    let mut positions = Map::new();
    for (model_type, of) in types.as_object().into_iter().flatten() {
        let patterns = of.get("predefined").and_then(Value::as_array);
        for pattern in patterns.into_iter().flatten().filter_map(Value::as_str) {
            for path in matching(&folder.join(pattern))? {
                if !path.ends_with("_position.yaml") {
                    models.push(yaml(&path)?);
                }
            }
        }
        if let Some(file) = of.get("position").and_then(Value::as_str) {
            let path = folder.join(file);
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let order: Vec<String> =
                serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
            positions.insert(model_type.clone(), order.into());
        }
    }
    if !positions.is_empty() {
        provider["position"] = positions.into();
    }
    Ok(models.into())
}

/// The files that fit, in order; the name may have stars in it.
fn matching(pattern: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let name = pattern.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let parts: Vec<&str> = name.split('*').collect();
    if parts.len() == 1 {
        return Ok(vec![pattern.to_owned()]);
    }
    let fits = |name: &str| {
        let (first, last) = (parts[0], parts[parts.len() - 1]);
        let Some(rest) = name.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else {
            return false;
        };
        let middle = &parts[1..parts.len() - 1];
        let found = middle
            .iter()
            .try_fold(rest, |rest, part| rest.find(part).map(|at| &rest[at + part.len()..]));
        found.is_some()
    };
    let folder = pattern.parent().unwrap_or(Path::new("."));
    let listed = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut found = Vec::new();
    for entry in listed {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(fits) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn read_assets(folder: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let folder = folder.join("_assets");
    let mut assets = Vec::new();
    if folder.is_dir() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let content = fs::read(entry.path())?;
                assets.push((entry.file_name().to_string_lossy().into_owned(), content));
            }
        }
    }
    assets.sort();
    Ok(assets)
}

fn read_variables(folder: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let path = folder.join(".env");
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    let variables = dotenvy::from_path_iter(&path).with_context(|| path.display().to_string())?;
    // Its error would show the line.
    variables.collect::<Result<_, _>>().map_err(|error| match error {
        dotenvy::Error::LineParse(_, at) => {
            anyhow::anyhow!("{}: a line cannot be read, at character {at}", path.display())
        }
        _ => anyhow::anyhow!("{}: it cannot be read", path.display()),
    })
}
