//! A request for anything but an endpoint, and how it is answered.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::invocations::Dify;
use super::message::{ToolMessage, boundary};
use super::outgoing::Outlet;
use crate::contain::contain;
use crate::session::duplex::Request;
use crate::session::error::Kind;
use crate::session::{RemoteError, SessionError};

pub(super) type ActionHandler = Box<dyn Fn(&mut ActionRequest) -> anyhow::Result<()> + Send + Sync>;

/// A request for anything but an endpoint. When its handler returns, the answer is complete; an error
/// that it returns is told to Dify.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Manifest, Parameter, Plugin, Tool, ToolMessage};
///
/// let tool = Tool::new("greet").parameter(Parameter::string("name").required());
/// let plugin = Plugin::new(Manifest::new("me", "hello", "0.0.1")).tool("greeter", tool, |request| {
///     let name: String = request.parameter("name")?; // its error names the parameter
///     request.send(ToolMessage::text(format!("hello {name}")))?;
///     Ok(())
/// });
/// # drop(plugin);
/// ```
pub struct ActionRequest {
    request: Request,
    outlet: Outlet,
    session: SessionContext,
    fields: Value,
}

/// What Dify tells of where a request comes from.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::ActionRequest;
///
/// fn who(request: &mut ActionRequest) -> anyhow::Result<()> {
///     let session = request.session();
///     eprintln!("app {:?}, conversation {:?}", session.app_id, session.conversation_id);
///     Ok(())
/// }
/// # drop(who);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SessionContext {
    /// The conversation, if there is one.
    pub conversation_id: Option<String>,
    /// The message, if there is one.
    pub message_id: Option<String>,
    /// The app, if there is one.
    pub app_id: Option<String>,
    /// The endpoint, if it is one.
    pub endpoint_id: Option<String>,
    /// What else there is, an object; `credentials` for other tools among it.
    pub context: Value,
}

impl SessionContext {
    pub(super) fn of(request: &Request) -> Self {
        request.meta().and_then(|meta| meta.parse().ok()).unwrap_or_default()
    }

    /// Gives the credential that was chosen for a provider of other tools.
    #[must_use]
    pub fn credential_id(&self, provider: &str) -> Option<&str> {
        self.context.get("credentials")?.get("tool_credentials")?.get(provider)?.as_str()
    }
}

impl ActionRequest {
    pub(super) fn new(request: Request, outlet: Outlet) -> Self {
        let fields = request.params().and_then(|params| params.value().ok()).unwrap_or_default();
        let session = SessionContext::of(&request);
        Self { request, outlet, session, fields }
    }

    /// Names what is asked for, by its type and action: `tool.invoke_tool`.
    #[must_use]
    pub fn action(&self) -> &str {
        self.request.method()
    }

    /// Gives all fields of the action, as the protocol has them.
    #[must_use]
    pub fn fields(&self) -> &Value {
        &self.fields
    }

    /// Names the user on whose behalf it is. It may be empty.
    #[must_use]
    pub fn user_id(&self) -> &str {
        self.text("user_id")
    }

    /// Names the provider that it is for, without its plugin; empty if it is for none.
    #[must_use]
    pub fn provider(&self) -> &str {
        // The daemon names a provider with its plugin before it.
        self.text("provider").rsplit('/').next().unwrap_or_default()
    }

    fn text(&self, key: &str) -> &str {
        self.fields.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// Tells where the request comes from.
    #[must_use]
    pub fn session(&self) -> &SessionContext {
        &self.session
    }

    /// Reads all fields of the action as a `T`.
    ///
    /// # Errors
    ///
    /// If they are something else; the error names the field.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, SessionError> {
        T::deserialize(&self.fields).map_err(|error| Kind::Json(error).into())
    }

    /// Reads all parameters of a tool, an agent strategy, a datasource or an event as a `T`.
    ///
    /// # Errors
    ///
    /// If they are something else; the error names the parameter.
    ///
    /// # Examples
    ///
    /// ```
    /// use serde::Deserialize;
    /// use sessile::session::dify::{ActionRequest, File};
    ///
    /// #[derive(Deserialize)]
    /// struct Crossing {
    ///     port: String,
    ///     cars: Option<u32>,
    ///     papers: Vec<File>,
    /// }
    ///
    /// fn cross(request: &mut ActionRequest) -> anyhow::Result<()> {
    ///     let crossing: Crossing = request.parameters()?;
    ///     for paper in &crossing.papers {
    ///         let bytes = paper.fetch(std::time::Duration::from_secs(30))?;
    ///         eprintln!("{} bytes for {}, {:?} cars", bytes.len(), crossing.port, crossing.cars);
    ///     }
    ///     Ok(())
    /// }
    /// # drop(cross);
    /// ```
    pub fn parameters<T: DeserializeOwned>(&self) -> Result<T, ActionError> {
        T::deserialize(self.all_parameters()).map_err(|error| {
            ActionError::new(ErrorType::BadRequest, format!("the parameters do not fit: {error}"))
        })
    }

    fn all_parameters(&self) -> &Value {
        const KEYS: [&str; 4] =
            ["tool_parameters", "agent_strategy_params", "datasource_parameters", "parameters"];
        static NONE: Value = Value::Null;
        KEYS.into_iter().find_map(|key| self.fields.get(key)).unwrap_or(&NONE)
    }

    /// Reads one parameter as a `T`. An `Option` is `None` if it is not given.
    ///
    /// # Errors
    ///
    /// If it is missing, or something else; the error names it.
    pub fn parameter<T: DeserializeOwned>(&self, name: &str) -> Result<T, ActionError> {
        read(self.all_parameters(), name, "parameter")
    }

    /// Reads all credentials as a `T`.
    ///
    /// # Errors
    ///
    /// If they are something else; the error names the credential, and does not show it.
    pub fn credentials<T: DeserializeOwned>(&self) -> Result<T, ActionError> {
        let all = self.fields.get("credentials").unwrap_or(&Value::Null);
        T::deserialize(all).map_err(|error| {
            // What is of another type serde would show.
            let what = error.to_string();
            let what =
                if what.starts_with("missing field") { &what } else { "one is of another type" };
            let message = format!("the credentials do not fit: {what}");
            ActionError::new(ErrorType::Authorization, message)
        })
    }

    /// Reads one credential as a `T`. An `Option` is `None` if it is not given.
    ///
    /// # Errors
    ///
    /// If it is missing, or something else; the error names it, and does not show it.
    pub fn credential<T: DeserializeOwned>(&self, name: &str) -> Result<T, ActionError> {
        read(self.fields.get("credentials").unwrap_or(&Value::Null), name, "credential")
    }

    /// Calls Dify on behalf of this request; also from other threads, also after the answer.
    #[must_use]
    pub fn dify(&self) -> Dify {
        Dify::new(self.request.invoker(), self.outlet.clone(), self.session.clone())
    }

    /// Sends a message of a tool, an agent strategy or a datasource; in pieces if it is long.
    ///
    /// # Errors
    ///
    /// If the daemon is gone, there is no room, or it is too large and cannot be cut.
    pub fn send(&self, message: impl Into<ToolMessage>) -> Result<(), SessionError> {
        // Dify puts the pieces of a blob together again for tools and agents, and for nobody else.
        let cuts_blobs = !self.action().starts_with("datasource.");
        message.into().pieces(cuts_blobs, |piece| self.answer(piece))
    }

    /// Sends a piece of the answer as the action has it, for those that do not answer in messages.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn answer<T: Serialize + ?Sized>(&self, piece: &T) -> Result<(), SessionError> {
        self.outlet.item(&self.request, piece)
    }

    pub(super) fn into_inner(self) -> Request {
        self.request
    }

    /// Has it handled, and says how it went.
    pub(super) fn handle(mut self, handler: &ActionHandler, ordinary: &ErrorType) {
        match contain(|| handler(&mut self)).and_then(|outcome| outcome) {
            Ok(()) => self.request.finish(),
            Err(error) => fail(self.request, &error, ordinary),
        }
    }
}

impl fmt::Debug for ActionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActionRequest").field(&self.action()).finish()
    }
}

fn read<T: DeserializeOwned>(from: &Value, name: &str, what: &str) -> Result<T, ActionError> {
    let error = |message| Err(ActionError::new(ErrorType::BadRequest, message));
    match from.get(name).filter(|value| !value.is_null()) {
        // An `Option` takes nothing for an answer.
        None => T::deserialize(Value::Null)
            .or_else(|_| error(format!("the {what} `{name}` is missing"))),
        Some(value) => T::deserialize(value).or_else(|why| {
            let shown = if what == "credential" { String::new() } else { format!(": {why}") };
            error(format!("the {what} `{name}` is of another type{shown}"))
        }),
    }
}

/// Tells the daemon that a handler has failed.
pub(super) fn fail(request: Request, error: &anyhow::Error, ordinary: &ErrorType) {
    let typed = error.downcast_ref::<ActionError>();
    let kind = typed.map_or(ordinary, |error| &error.kind);
    let mut message = format!("{error:#}");
    // What is said in one frame has to fit.
    message.truncate(boundary(&message, 64 << 10));
    let mut args = typed.map_or(Value::Null, |error| error.args.clone());
    if args.is_null() {
        args = json!({});
    }
    // For errors of models Dify reads it from there.
    if let (true, Some(args)) = (kind.is_of_models(), args.as_object_mut()) {
        args.entry("description").or_insert_with(|| message.clone().into());
    }
    let data = json!({"error_type": kind.as_str(), "args": args});
    request.fail(&RemoteError::new(message).with_data(data));
}

/// What kind of error it is, of those that Dify tells apart.
///
/// # Examples
///
/// As at [`ActionError`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorType {
    /// Any error.
    Exception,
    /// Something was asked for that there is not.
    Value,
    /// A service was asked too often.
    RateLimit,
    /// A service does not take the credentials.
    Authorization,
    /// A service does not take the request.
    BadRequest,
    /// A service could not be reached.
    Connection,
    /// A service is not there at present.
    ServerUnavailable,
    /// Credentials of a model are not valid.
    CredentialsValidate,
    /// Credentials of a tool are not valid.
    ToolCredentials,
    /// Credentials of a datasource are not valid.
    DatasourceCredentials,
    /// Credentials of a trigger are not valid.
    TriggerCredentials,
    /// An endpoint could not be set up.
    EndpointSetup,
    /// A trigger's plugin has failed.
    TriggerPlugin,
    /// A trigger has failed.
    Trigger,
    /// An event is of no interest: its workflow does not run.
    EventIgnored,
    /// A model cannot be polled.
    PollingUnsupported,
    /// Another, by the name of its class.
    Other(String),
}

impl ErrorType {
    /// Gives the name of the class that Dify has for it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exception => "Exception",
            Self::Value => "ValueError",
            Self::RateLimit => "InvokeRateLimitError",
            Self::Authorization => "InvokeAuthorizationError",
            Self::BadRequest => "InvokeBadRequestError",
            Self::Connection => "InvokeConnectionError",
            Self::ServerUnavailable => "InvokeServerUnavailableError",
            Self::CredentialsValidate => "CredentialsValidateFailedError",
            Self::ToolCredentials => "ToolProviderCredentialValidationError",
            Self::DatasourceCredentials => "DatasourceCredentialValidationError",
            Self::TriggerCredentials => "TriggerProviderCredentialValidationError",
            Self::EndpointSetup => "EndpointSetupFailedError",
            Self::TriggerPlugin => "TriggerPluginInvokeError",
            Self::Trigger => "TriggerInvokeError",
            Self::EventIgnored => "EventIgnoreError",
            Self::PollingUnsupported => "PluginLLMPollingUnsupportedError",
            Self::Other(name) => name,
        }
    }

    fn is_of_models(&self) -> bool {
        self.as_str().starts_with("Invoke")
    }
}

/// An error of a handler's, of a type that Dify tells apart.
///
/// A handler returns it as any other error; Dify hears its type, and what was said around it.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{ActionError, ActionRequest, ErrorType};
///
/// fn cross(_: &mut ActionRequest) -> anyhow::Result<()> {
///     Err(ActionError::new(ErrorType::RateLimit, "three crossings a day"))?
/// }
/// # drop(cross);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ActionError {
    kind: ErrorType,
    message: String,
    args: Value,
}

impl ActionError {
    /// Makes one of this type.
    pub fn new(kind: ErrorType, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), args: Value::Null }
    }

    /// Adds what a program may read: an object of ten entries at most.
    #[must_use]
    pub fn args(mut self, args: Value) -> Self {
        self.args = args;
        self
    }

    /// Tells its type.
    #[must_use]
    pub fn error_type(&self) -> &ErrorType {
        &self.kind
    }
}

impl fmt::Display for ActionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ActionError {}
