//! Providers of more than tools, as traits: agent strategies, datasources, triggers, OAuth, and options
//! that are told when they are wanted.

use std::sync::Arc;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::action::{ActionError, ActionHandler, ActionRequest, ErrorType};
use super::declare::{DatasourceProvider, I18n, StrategyProvider, TriggerProvider};
use super::http::{HttpRequest, HttpResponse};
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

    /// Adds datasources: their declaration, and what gives what is in them.
    ///
    /// # Examples
    ///
    /// As at [`DatasourceActions`].
    pub fn datasource(self, provider: DatasourceProvider, actions: impl DatasourceActions) -> Self {
        let name = provider.name().to_owned();
        let actions = Arc::new(actions);
        let of = [("provider", &*name)];
        let mut plugin = self.datasources(provider);
        let mut add = |action, ordinary, handler| plugin.acts.add(action, &of, ordinary, handler);
        let own = Arc::clone(&actions);
        add(
            "datasource.validate_datasource_credentials",
            ErrorType::DatasourceCredentials,
            answers(move |request| {
                own.validate_credentials(request)?;
                Ok(json!({"result": true}))
            }),
        );
        let own = Arc::clone(&actions);
        add(
            "datasource.invoke_website_datasource_get_crawl",
            ErrorType::Exception,
            Box::new(move |request| own.crawl(request)),
        );
        let own = Arc::clone(&actions);
        add(
            "datasource.invoke_online_document_datasource_get_pages",
            ErrorType::Exception,
            answers(move |request| Ok(json!({"result": own.pages(request)?}))),
        );
        let own = Arc::clone(&actions);
        add(
            "datasource.invoke_online_document_datasource_get_page_content",
            ErrorType::Exception,
            Box::new(move |request| {
                let page = nested(request, "page")?;
                own.page_content(request, page)
            }),
        );
        let own = Arc::clone(&actions);
        add(
            "datasource.invoke_online_drive_browse_files",
            ErrorType::Exception,
            answers(move |request| {
                let browse = nested(request, "request")?;
                Ok(json!({"result": own.browse(request, browse)?}))
            }),
        );
        add(
            "datasource.invoke_online_drive_download_file",
            ErrorType::Exception,
            Box::new(move |request| {
                let file = nested(request, "request")?;
                actions.download(request, file)
            }),
        );
        plugin
    }

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

    /// Lets users of a provider get credentials by OAuth.
    ///
    /// # Examples
    ///
    /// As at [`OAuthActions`].
    pub fn oauth(mut self, provider: impl Into<String>, actions: impl OAuthActions) -> Self {
        let actions = Arc::new(actions);
        let name = provider.into();
        let of = [("provider", &*name)];
        let ask = |request: &ActionRequest| {
            let system = request.fields().get("system_credentials").cloned().unwrap_or_default();
            nested::<String>(request, "redirect_uri").map(|uri| (uri, system))
        };
        let (first, second) = (Arc::clone(&actions), Arc::clone(&actions));
        let mut add = |action, handler| self.acts.add(action, &of, ErrorType::Exception, handler);
        add(
            "oauth.get_authorization_url",
            answers(move |request| {
                let (uri, system) = ask(request)?;
                Ok(json!({"authorization_url": first.authorization_url(request, &uri, &system)?}))
            }),
        );
        add(
            "oauth.get_credentials",
            answers(move |request| {
                let ((uri, system), http) = (ask(request)?, http(request)?);
                let got = second.credentials(request, &uri, &system, &http)?;
                Ok(json!({
                    "metadata": object(got.metadata), "credentials": object(got.credentials),
                    "expires_at": got.expires_at,
                }))
            }),
        );
        add(
            "oauth.refresh_credentials",
            answers(move |request| {
                let (uri, system) = ask(request)?;
                let got = actions.refresh(request, &uri, &system)?;
                let credentials = object(got.credentials);
                Ok(json!({"credentials": credentials, "expires_at": got.expires_at}))
            }),
        );
        self
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

fn is_ignored(error: &anyhow::Error) -> bool {
    let typed = error.downcast_ref::<ActionError>();
    typed.is_some_and(|error| *error.error_type() == ErrorType::EventIgnored)
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

/// What a provider of datasources does. What it does not implement is answered with an error.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{
///     ActionRequest, Datasource, DatasourceActions, DatasourceKind, DatasourceProvider, Manifest,
///     OnlinePage, Plugin, ToolMessage, Workspace,
/// };
///
/// struct Archive;
///
/// impl DatasourceActions for Archive {
///     fn validate_credentials(&self, request: &ActionRequest) -> anyhow::Result<()> {
///         Ok(drop(request.credential::<String>("token")?))
///     }
///
///     fn pages(&self, _: &ActionRequest) -> anyhow::Result<Vec<Workspace>> {
///         Ok(vec![Workspace::new("w", "Harbour").page(OnlinePage::new("p1", "Log of 1901"))])
///     }
///
///     fn page_content(&self, request: &ActionRequest, page: OnlinePage) -> anyhow::Result<()> {
///         request.send(ToolMessage::variable("content", format!("page {}", page.page_id)))?;
///         Ok(())
///     }
/// }
///
/// let provider = DatasourceProvider::new("archive", DatasourceKind::OnlineDocument)
///     .datasource(Datasource::new("log"));
/// Plugin::new(Manifest::new("quay", "archive", "0.0.1")).datasource(provider, Archive).check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait DatasourceActions: Send + Sync + 'static {
    /// Checks credentials: they are valid if it returns `Ok`.
    ///
    /// # Errors
    ///
    /// If they are not valid.
    fn validate_credentials(&self, request: &ActionRequest) -> anyhow::Result<()> {
        let _ = request;
        unsupported("check credentials")
    }

    /// Crawls a web site, by the request's parameters, and answers what it finds:
    /// `{"result": {"status", "web_info_list", "total", "completed"}}`, as often as there is news.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn crawl(&self, request: &ActionRequest) -> anyhow::Result<()> {
        let _ = request;
        unsupported("crawl web sites")
    }

    /// Lists the pages that there are.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn pages(&self, request: &ActionRequest) -> anyhow::Result<Vec<Workspace>> {
        let _ = request;
        unsupported("list pages")
    }

    /// Sends what is in a page, as messages.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn page_content(&self, request: &ActionRequest, page: OnlinePage) -> anyhow::Result<()> {
        let _ = (request, page);
        unsupported("give the content of pages")
    }

    /// Lists the files of a folder.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn browse(&self, request: &ActionRequest, browse: Browse) -> anyhow::Result<Vec<Bucket>> {
        let _ = (request, browse);
        unsupported("list files")
    }

    /// Sends a file, as messages.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn download(&self, request: &ActionRequest, file: DriveFile) -> anyhow::Result<()> {
        let _ = (request, file);
        unsupported("give files")
    }
}

/// Pages that belong together.
///
/// # Examples
///
/// As at [`DatasourceActions`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workspace {
    workspace_id: String,
    workspace_name: String,
    workspace_icon: String,
    total: usize,
    pages: Vec<OnlinePage>,
}

impl Workspace {
    /// Makes one without pages.
    pub fn new(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            workspace_id: id.into(),
            workspace_name: name.into(),
            workspace_icon: String::new(),
            total: 0,
            pages: Vec::new(),
        }
    }

    /// Adds a page.
    #[must_use]
    pub fn page(mut self, page: OnlinePage) -> Self {
        self.pages.push(page);
        self.total = self.pages.len();
        self
    }
}

/// A page of a service: listed, or asked for.
///
/// # Examples
///
/// As at [`DatasourceActions`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct OnlinePage {
    /// The workspace that it is in, when it is asked for.
    #[serde(skip_serializing)]
    pub workspace_id: String,
    /// How the service calls it.
    pub page_id: String,
    /// What people call it.
    pub page_name: String,
    /// Its icon, an object.
    pub page_icon: Option<Value>,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was changed.
    pub last_edited_time: String,
    /// The page that it is under.
    pub parent_id: Option<String>,
}

impl OnlinePage {
    /// Makes one of type `page`.
    pub fn new(id: impl Into<String>, name: impl Into<String>) -> Self {
        let (page_id, page_name) = (id.into(), name.into());
        Self { page_id, page_name, kind: "page".to_owned(), ..Self::default() }
    }
}

/// Which files are to be listed.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{ActionRequest, Browse, Bucket, DatasourceActions, DriveFile};
///
/// struct Drive;
///
/// impl DatasourceActions for Drive {
///     fn browse(&self, _: &ActionRequest, browse: Browse) -> anyhow::Result<Vec<Bucket>> {
///         let file = DriveFile::new("f1", "chart.svg", 5_000);
///         Ok(vec![Bucket { bucket: browse.bucket, files: vec![file], ..Bucket::default() }])
///     }
/// }
/// # drop(Drive);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Browse {
    /// The bucket, if there are several.
    pub bucket: Option<String>,
    /// The folder.
    pub prefix: Option<String>,
    /// How many at most. Default: 20.
    #[serde(default = "page")]
    pub max_keys: u64,
    /// What the answer before said, to go on from there.
    pub next_page_parameters: Option<Value>,
}

fn page() -> u64 {
    20
}

/// Files of a bucket.
///
/// # Examples
///
/// As at [`Browse`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Bucket {
    /// The bucket, if there are several.
    pub bucket: Option<String>,
    /// Its files and folders.
    pub files: Vec<DriveFile>,
    /// Whether there are more.
    pub is_truncated: bool,
    /// What is to be asked with to go on from here.
    pub next_page_parameters: Option<Value>,
}

/// A file or a folder of a drive: listed, or asked for.
///
/// # Examples
///
/// As at [`Browse`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct DriveFile {
    /// The bucket that it is in, when it is asked for.
    #[serde(skip_serializing)]
    pub bucket: Option<String>,
    /// How the service calls it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// `file` or `folder`.
    #[serde(rename = "type")]
    pub kind: String,
}

impl DriveFile {
    /// Makes a file.
    pub fn new(id: impl Into<String>, name: impl Into<String>, size: u64) -> Self {
        let (id, name, kind) = (id.into(), name.into(), "file".to_owned());
        Self { id, name, size, kind, bucket: None }
    }

    /// Makes a folder.
    pub fn folder(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: "folder".to_owned(), ..Self::new(id, name, 0) }
    }
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

/// What a provider does so that users may get credentials by OAuth.
///
/// # Examples
///
/// ```
/// use serde_json::{Value, json};
/// use sessile::session::dify::{ActionRequest, HttpRequest, OAuthActions, OAuthCredentials};
///
/// struct Quay;
///
/// impl OAuthActions for Quay {
///     fn authorization_url(
///         &self,
///         _: &ActionRequest,
///         redirect_uri: &str,
///         system: &Value,
///     ) -> anyhow::Result<String> {
///         let id = system["client_id"].as_str().unwrap_or_default();
///         Ok(format!("https://quay.example/login?client_id={id}&redirect_uri={redirect_uri}"))
///     }
///
///     fn credentials(
///         &self,
///         _: &ActionRequest,
///         _: &str,
///         _: &Value,
///         http: &HttpRequest,
///     ) -> anyhow::Result<OAuthCredentials> {
///         let code = http.parameter("code").unwrap_or_default(); // to be changed for a token
///         Ok(OAuthCredentials::new(json!({"token": code})))
///     }
/// }
/// # drop(Quay);
/// ```
pub trait OAuthActions: Send + Sync + 'static {
    /// Tells where users log in; they come back to `redirect_uri`. `system` is what the administrator
    /// has entered.
    ///
    /// # Errors
    ///
    /// If it cannot be told.
    fn authorization_url(
        &self,
        request: &ActionRequest,
        redirect_uri: &str,
        system: &Value,
    ) -> anyhow::Result<String>;

    /// Makes credentials of the HTTP request with which a user comes back.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn credentials(
        &self,
        request: &ActionRequest,
        redirect_uri: &str,
        system: &Value,
        http: &HttpRequest,
    ) -> anyhow::Result<OAuthCredentials>;

    /// Renews credentials, which are the request's.
    ///
    /// # Errors
    ///
    /// If it fails.
    fn refresh(
        &self,
        request: &ActionRequest,
        redirect_uri: &str,
        system: &Value,
    ) -> anyhow::Result<OAuthCredentials> {
        let _ = (request, redirect_uri, system);
        unsupported("renew credentials")
    }
}

/// Credentials that were got by OAuth.
///
/// # Examples
///
/// As at [`OAuthActions`].
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct OAuthCredentials {
    /// The credentials, an object.
    pub credentials: Value,
    /// When they end, in seconds since 1970; -1: never.
    pub expires_at: i64,
    /// What else there is, an object: `avatar_url`, `name`.
    pub metadata: Value,
}

impl OAuthCredentials {
    /// Makes ones that do not end.
    #[must_use]
    pub fn new(credentials: Value) -> Self {
        Self { credentials, expires_at: -1, metadata: Value::Null }
    }
}

/// Without the credentials.
impl std::fmt::Debug for OAuthCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OAuthCredentials")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
