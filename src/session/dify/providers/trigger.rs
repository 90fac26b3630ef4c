//! Triggers.

use std::sync::Arc;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{answers, http, nested, object, unsupported};
use crate::session::dify::action::{ActionError, ActionRequest, ErrorType};
use crate::session::dify::declare::TriggerProvider;
use crate::session::dify::http::{HttpRequest, HttpResponse};
use crate::session::dify::plugin::Plugin;

impl Plugin {
    /// Adds triggers: their declaration, and what they do.
    ///
    /// # Examples
    ///
    /// As at [`TriggerActions`].
    pub fn trigger(self, provider: TriggerProvider, actions: impl TriggerActions) -> Self {
        let name = provider.name().to_owned();
        let actions = Arc::new(actions);
        let of = [("provider", &*name)];
        let mut plugin = self.triggers(provider);
        let mut add = |action, ordinary, handler| plugin.acts.add(action, &of, ordinary, handler);
        let own = Arc::clone(&actions);
        add(
            "trigger.validate_trigger_credentials",
            ErrorType::TriggerCredentials,
            answers(move |request| {
                own.validate_credentials(request)?;
                Ok(json!({"result": true}))
            }),
        );
        let own = Arc::clone(&actions);
        add(
            "trigger.dispatch_trigger_event",
            ErrorType::Trigger,
            answers(move |request| {
                let (http, subscription) = (http(request)?, nested(request, "subscription")?);
                let dispatch = own.dispatch(request, &http, &subscription)?;
                Ok(json!({
                    "user_id": dispatch.user_id, "events": dispatch.events,
                    "response": HEXLOWER_PERMISSIVE.encode(&dispatch.response.to_http()),
                    "payload": object(dispatch.payload),
                }))
            }),
        );
        let own = Arc::clone(&actions);
        add(
            "trigger.invoke_trigger_event",
            ErrorType::Trigger,
            answers(move |request| {
                let event: String = nested(request, "event")?;
                let http = http(request)?;
                let payload = request.fields().get("payload").cloned().unwrap_or_default();
                match own.event(&event, request, &http, &payload) {
                    Ok(variables) => {
                        Ok(json!({"variables": object(variables), "cancelled": false}))
                    }
                    Err(error) if is_ignored(&error) => {
                        Ok(json!({"variables": {}, "cancelled": true}))
                    }
                    Err(error) => Err(error),
                }
            }),
        );
        let own = Arc::clone(&actions);
        add(
            "trigger.subscribe_trigger",
            ErrorType::Trigger,
            answers(move |request| {
                let endpoint: String = nested(request, "endpoint")?;
                Ok(json!({"subscription": own.subscribe(request, &endpoint)?}))
            }),
        );
        let own = Arc::clone(&actions);
        add(
            "trigger.unsubscribe_trigger",
            ErrorType::Trigger,
            answers(move |request| {
                let subscription = nested(request, "subscription")?;
                let (success, message) = match own.unsubscribe(request, &subscription) {
                    Ok(()) => (true, Value::Null),
                    Err(error) => (false, format!("{error:#}").into()),
                };
                Ok(json!({"subscription": {"success": success, "message": message}}))
            }),
        );
        add(
            "trigger.refresh_trigger",
            ErrorType::Trigger,
            answers(move |request| {
                let subscription = nested(request, "subscription")?;
                Ok(json!({"subscription": actions.refresh(request, &subscription)?}))
            }),
        );
        plugin
    }
}

fn is_ignored(error: &anyhow::Error) -> bool {
    let typed = error.downcast_ref::<ActionError>();
    typed.is_some_and(|error| *error.error_type() == ErrorType::EventIgnored)
}

/// What a provider of triggers does. What it does not implement is answered with an error.
///
/// # Examples
///
/// ```
/// use serde_json::{Value, json};
/// use sessile::session::dify::{
///     ActionRequest, Dispatch, Event, HttpRequest, HttpResponse, Manifest, Plugin, Subscription,
///     TriggerActions, TriggerProvider,
/// };
///
/// struct Bell;
///
/// impl TriggerActions for Bell {
///     fn dispatch(
///         &self,
///         _: &ActionRequest,
///         http: &HttpRequest,
///         _: &Subscription,
///     ) -> anyhow::Result<Dispatch> {
///         let payload: Value = serde_json::from_slice(&http.body)?;
///         Ok(Dispatch::new(["arrived"], HttpResponse::text("ok")).payload(payload))
///     }
///
///     fn event(
///         &self,
///         _: &str,
///         request: &ActionRequest,
///         _: &HttpRequest,
///         payload: &Value,
///     ) -> anyhow::Result<Value> {
///         let port: Option<String> = request.parameter("port")?;
///         Ok(json!({"boat": payload["boat"], "port": port}))
///     }
/// }
///
/// let provider = TriggerProvider::new("bell").event(Event::new("arrived"));
/// Plugin::new(Manifest::new("quay", "bell", "0.0.1")).trigger(provider, Bell).check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait TriggerActions: Send + Sync + 'static {
    /// Tells what an HTTP request of the service's means: which events, and what is answered.
    ///
    /// # Errors
    ///
    /// If the request is not the service's.
    fn dispatch(
        &self,
        request: &ActionRequest,
        http: &HttpRequest,
        subscription: &Subscription,
    ) -> anyhow::Result<Dispatch>;

    /// Makes an event's variables of the HTTP request, and of what [`dispatch`](Self::dispatch) made of
    /// it.
    ///
    /// # Errors
    ///
    /// If it fails; of type [`ErrorType::EventIgnored`] if the event is of no interest.
    fn event(
        &self,
        event: &str,
        request: &ActionRequest,
        http: &HttpRequest,
        payload: &Value,
    ) -> anyhow::Result<Value>;

    /// Checks credentials: they are valid if it returns `Ok`.
    ///
    /// # Errors
    ///
    /// If they are not valid.
    fn validate_credentials(&self, request: &ActionRequest) -> anyhow::Result<()> {
        let _ = request;
        unsupported("check credentials")
    }

    /// Has the service post to this endpoint.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn subscribe(&self, request: &ActionRequest, endpoint: &str) -> anyhow::Result<Subscription> {
        let _ = (request, endpoint);
        unsupported("make subscriptions")
    }

    /// Ends a subscription.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn unsubscribe(
        &self,
        request: &ActionRequest,
        subscription: &Subscription,
    ) -> anyhow::Result<()> {
        let _ = (request, subscription);
        unsupported("end subscriptions")
    }

    /// Prolongs a subscription.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn refresh(
        &self,
        request: &ActionRequest,
        subscription: &Subscription,
    ) -> anyhow::Result<Subscription> {
        let _ = (request, subscription);
        unsupported("prolong subscriptions")
    }
}

/// What an HTTP request of a service's means.
///
/// # Examples
///
/// As at [`TriggerActions`].
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    user_id: String,
    events: Vec<String>,
    response: HttpResponse,
    payload: Value,
}

impl Dispatch {
    /// Makes one of the events that have happened, and of what the service is answered.
    pub fn new<E: Into<String>>(
        events: impl IntoIterator<Item = E>,
        response: HttpResponse,
    ) -> Self {
        let events = events.into_iter().map(Into::into).collect();
        Self { user_id: String::new(), events, response, payload: Value::Null }
    }

    /// Sets who has caused it, as the service calls them.
    #[must_use]
    pub fn user(mut self, id: impl Into<String>) -> Self {
        self.user_id = id.into();
        self
    }

    /// Sets what the events are told, an object.
    #[must_use]
    pub fn payload(mut self, payload: Value) -> Self {
        self.payload = payload;
        self
    }
}

/// That a service posts events to an endpoint.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use sessile::session::dify::Subscription;
///
/// let mut subscription = Subscription::new("https://dify.example/triggers/1");
/// subscription.properties = json!({"id": 7}); // to end it by
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Subscription {
    /// When it ends, in seconds since 1970; -1: never.
    #[serde(default = "never")]
    pub expires_at: i64,
    /// Where the service posts to.
    pub endpoint: String,
    /// What it was made from, an object.
    #[serde(default)]
    pub parameters: Value,
    /// What the service says of it, an object.
    #[serde(default)]
    pub properties: Value,
}

fn never() -> i64 {
    -1
}

impl Subscription {
    /// Makes one that does not end.
    pub fn new(endpoint: impl Into<String>) -> Self {
        let endpoint = endpoint.into();
        Self { expires_at: -1, endpoint, parameters: json!({}), properties: json!({}) }
    }
}
