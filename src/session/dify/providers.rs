//! Providers of more than tools, as traits: agent strategies, datasources, triggers, OAuth, and options
//! that are told when they are wanted.

mod datasource;
mod oauth;
mod trigger;

use serde::Serialize;
use serde_json::{Value, json};

pub use self::datasource::{Browse, Bucket, DatasourceActions, DriveFile, OnlinePage, Workspace};
pub use self::oauth::{OAuthActions, OAuthCredentials};
pub use self::trigger::{Dispatch, Subscription, TriggerActions};

use super::action::{ActionError, ActionHandler, ActionRequest, ErrorType};
use super::declare::{I18n, StrategyProvider};
use super::http::HttpRequest;
use super::plugin::Plugin;

/// For what a provider does not do.
pub(super) fn unsupported<T>(what: &str) -> anyhow::Result<T> {
    Err(ActionError::new(ErrorType::Value, format!("this provider does not {what}")).into())
}

/// A handler that answers with what this gives.
pub(super) fn answers<T: Serialize>(
    ask: impl Fn(&mut ActionRequest) -> anyhow::Result<T> + Send + Sync + 'static,
) -> ActionHandler {
    Box::new(move |request| {
        let answer = ask(request)?;
        Ok(request.answer(&answer)?)
    })
}

impl Plugin {
    /// Adds strategies for agents: their declaration, and what runs each, by its name.
    ///
    /// # Examples
    ///
    /// ```
    /// use sessile::session::dify::{Manifest, Parameter, Plugin, Strategy, StrategyProvider, ToolMessage};
    ///
    /// let drift = Strategy::new("drift").parameter(Parameter::string("query").required());
    /// let plugin = Plugin::new(Manifest::new("quay", "pilot", "0.0.1")).agent_strategies(
    ///     StrategyProvider::new("pilot").strategy(drift),
    ///     |strategy, request| {
    ///         let query: String = request.parameter("query")?;
    ///         request.send(ToolMessage::text(format!("{strategy}: {query}")))?;
    ///         Ok(())
    ///     },
    /// );
    /// plugin.check()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn agent_strategies(
        self,
        provider: StrategyProvider,
        run: impl Fn(&str, &mut ActionRequest) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let name = provider.name().to_owned();
        let handler: ActionHandler = Box::new(move |request| {
            let strategy =
                request.fields()["agent_strategy"].as_str().unwrap_or_default().to_owned();
            run(&strategy, request)
        });
        let of = [("agent_strategy_provider", &*name)];
        let action = "agent_strategy.invoke_agent_strategy";
        let mut plugin = self.strategies(provider);
        plugin.acts.add(action, &of, ErrorType::Exception, handler);
        plugin
    }

    /// Tells the options of a parameter of type `dynamic-select`, by its provider and its name.
    ///
    /// # Examples
    ///
    /// ```
    /// use sessile::session::dify::{Manifest, Plugin, SelectOption};
    ///
    /// let plugin = Plugin::new(Manifest::new("quay", "ferry", "0.0.1"))
    ///     .dynamic_options("ferry", |parameter, request| {
    ///         let token: String = request.credential("token")?; // to ask the service with
    ///         anyhow::ensure!(parameter == "boat" && !token.is_empty(), "no options");
    ///         Ok(vec![SelectOption::new("t1", "Tide")])
    ///     });
    /// # drop(plugin);
    /// ```
    pub fn dynamic_options(
        mut self,
        provider: impl Into<String>,
        options: impl Fn(&str, &ActionRequest) -> anyhow::Result<Vec<SelectOption>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let handler = answers(move |request| {
            let parameter: String = nested(request, "parameter")?;
            Ok(json!({"options": options(&parameter, request)?}))
        });
        let of = [("provider", &*provider.into())];
        let action = "dynamic_parameter.fetch_parameter_options";
        self.acts.add(action, &of, ErrorType::Exception, handler);
        self
    }
}

/// A field of the action, as a `T`.
pub(super) fn nested<T: serde::de::DeserializeOwned>(
    request: &ActionRequest,
    key: &str,
) -> anyhow::Result<T> {
    let field = request.fields().get(key).cloned().unwrap_or_default();
    serde_json::from_value(field).map_err(|error| {
        ActionError::new(ErrorType::Value, format!("the field `{key}` does not fit: {error}"))
            .into()
    })
}

/// The HTTP request that the action brings.
fn http(request: &ActionRequest) -> anyhow::Result<HttpRequest> {
    let hex: String = nested(request, "raw_http_request")?;
    HttpRequest::from_hex(&hex).ok_or_else(|| {
        let what = "`raw_http_request` is no HTTP request in hexadecimal";
        ActionError::new(ErrorType::Value, what).into()
    })
}

/// Where the protocol wants an object.
fn object(value: Value) -> Value {
    if value.is_null() { json!({}) } else { value }
}

/// An option of a parameter.
///
/// # Examples
///
/// As at [`Plugin::dynamic_options`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelectOption {
    value: String,
    label: Value,
    icon: Option<String>,
}

impl SelectOption {
    /// Makes one of its value, and what users see.
    pub fn new(value: impl Into<String>, label: impl Into<I18n>) -> Self {
        Self { value: value.into(), label: label.into().in_all_languages(), icon: None }
    }

    /// Sets the URL of its icon.
    #[must_use]
    pub fn icon(mut self, url: impl Into<String>) -> Self {
        self.icon = Some(url.into());
        self
    }
}
