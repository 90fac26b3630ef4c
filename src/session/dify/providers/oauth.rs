//! Credentials by OAuth.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{answers, http, nested, object, unsupported};
use crate::session::dify::action::{ActionRequest, ErrorType};
use crate::session::dify::http::HttpRequest;
use crate::session::dify::plugin::Plugin;

impl Plugin {
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
impl fmt::Debug for OAuthCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthCredentials")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
