//! Providers of models.

use serde_json::{Value, json};

use super::{I18n, push, text, with_options};

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
pub struct ModelProvider(pub(in crate::session::dify) Value);

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
        Self(with_options(Self::of_type(name, "select").0, options))
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
