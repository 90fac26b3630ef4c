//! A plugin that a daemon hosts: what it is asked, and what it asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::action::SessionContext;
use super::daemon::{Declarations, Declared};
use super::http::{HttpRequest, HttpResponse};
use crate::session::duplex::{Invocation, Request, Session, SessionStats};
use crate::session::error::Kind;
use crate::session::{Malformed, Payload, RemoteError, SessionError};

/// A plugin that is hosted. Dropped, it is let go; a local one is killed.
///
/// # Examples
///
/// As at [`Daemon`](super::Daemon).
pub struct HostedPlugin {
    pub(super) session: Session,
    pub(super) declared: Arc<Declared>,
}

impl HostedPlugin {
    /// What the plugin has declared.
    #[must_use]
    pub fn declarations(&self) -> Declarations {
        self.declared.tell()
    }

    /// Asks the plugin for anything; `fields` are those of the action. The pieces of the answer come
    /// one by one.
    ///
    /// # Errors
    ///
    /// If the plugin is gone, the fields are no object, or there is no room.
    pub fn request<F>(&self, kind: &str, action: &str, fields: &F) -> Result<Reply, SessionError>
    where
        F: Serialize + ?Sized,
    {
        self.request_from(&SessionContext::default(), kind, action, fields)
    }

    /// Asks the plugin for anything, as [`request`](Self::request), and tells where it comes from.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub fn request_from<F>(
        &self,
        from: &SessionContext,
        kind: &str,
        action: &str,
        fields: &F,
    ) -> Result<Reply, SessionError>
    where
        F: Serialize + ?Sized,
    {
        let mut data = json!({"user_id": "", "type": kind, "action": action});
        let fields = serde_json::to_value(fields).map_err(Kind::Json)?;
        let (Value::Object(all), Value::Object(fields)) = (&mut data, fields) else {
            return Err(Malformed::new("the fields of a request are an object").into());
        };
        all.extend(fields);
        let mut envelope = serde_json::to_value(from).map_err(Kind::Json)?;
        envelope["data"] = data;
        let method = format!("{kind}.{action}");
        Ok(Reply { pieces: self.session.invoker().invoke(&method, &envelope)? })
    }

    /// Hands an HTTP request to an endpoint, and waits for the whole answer: until the session ends,
    /// with all that is called back on its behalf.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request); or if the plugin fails, or does not answer in time.
    pub fn endpoint(
        &self,
        http: &HttpRequest,
        settings: &Value,
    ) -> Result<HttpResponse, SessionError> {
        let mut reply = self.begin_endpoint(http, settings)?;
        let mut response = reply.response.clone();
        for piece in &mut reply {
            response.body.extend(piece?);
        }
        Ok(response)
    }

    /// Hands an HTTP request to an endpoint, and waits for the beginning of the answer.
    ///
    /// # Errors
    ///
    /// As [`endpoint`](Self::endpoint).
    pub fn begin_endpoint(
        &self,
        http: &HttpRequest,
        settings: &Value,
    ) -> Result<HttpReply, SessionError> {
        let fields = json!({"settings": settings, "raw_http_request": http.to_hex()});
        let mut pieces = self.request("endpoint", "invoke_endpoint", &fields)?;
        let first = pieces.next().unwrap_or_else(|| Err(Kind::NoAnswer.into()))?;
        let first: HttpPiece = first.parse().map_err(Kind::Json)?;
        let mut response = HttpResponse::new(first.status.unwrap_or(200), first.body()?);
        for (name, value) in first.headers.unwrap_or_default() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            response.headers.insert(name, value);
        }
        Ok(HttpReply { response, pieces })
    }

    /// Runs a tool. Its messages come one by one.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub fn tool(
        &self,
        provider: &str,
        tool: &str,
        parameters: &Value,
    ) -> Result<Reply, SessionError> {
        // Of the types of credentials SDKs of all ages know this one.
        let fields = json!({
            "provider": provider, "tool": tool, "credentials": {}, "credential_type": "api-key",
            "tool_parameters": parameters,
        });
        self.request("tool", "invoke_tool", &fields)
    }

    /// What the session has done and seen.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.session.stats()
    }

    /// Whether the plugin is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.session.is_closed()
    }

    /// Waits until the plugin is gone, no longer than this. Says whether it is.
    #[must_use]
    pub fn wait_gone(&self, wait: Duration) -> bool {
        self.session.wait_closed(wait)
    }

    /// Lets the plugin go, within this time. Says whether all has ended.
    pub fn close(&self, within: Duration) -> bool {
        self.session.close(within)
    }
}

impl fmt::Debug for HostedPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostedPlugin").field("session", &self.session).finish_non_exhaustive()
    }
}

/// The pieces of an answer. Dropped, the session has ended on the daemon's side, as when its HTTP
/// client goes away; the plugin is not told.
///
/// # Examples
///
/// As at [`Daemon`](super::Daemon).
#[derive(Debug)]
#[must_use = "dropped, it ends the session"]
pub struct Reply {
    pieces: Invocation,
}

impl Iterator for Reply {
    type Item = Result<Payload, SessionError>;

    fn next(&mut self) -> Option<Self::Item> {
        (&mut self.pieces).into_iter().next()
    }
}

#[derive(Deserialize)]
struct HttpPiece {
    status: Option<u16>,
    headers: Option<BTreeMap<String, Value>>,
    result: Option<String>,
}

impl HttpPiece {
    fn body(&self) -> Result<Vec<u8>, SessionError> {
        let hex = self.result.as_deref().unwrap_or_default();
        let bytes = HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
        bytes.map_err(|_| Malformed::new("a body that is not in hexadecimal").into())
    }
}

/// An endpoint's answer, as far as it has come; the pieces of its body that follow come one by one.
///
/// # Examples
///
/// ```
/// use serde_json::json;
/// use sessile::session::dify::{HostedPlugin, HttpRequest};
///
/// fn body(hosted: &HostedPlugin) -> anyhow::Result<Vec<u8>> {
///     let reply = hosted.begin_endpoint(&HttpRequest::new("GET", "/boats", ""), &json!({}))?;
///     let mut body = reply.response().body.clone();
///     for piece in reply {
///         body.extend(piece?);
///     }
///     Ok(body)
/// }
/// # drop(body);
/// ```
#[derive(Debug)]
#[must_use = "dropped, it ends the session"]
pub struct HttpReply {
    response: HttpResponse,
    pieces: Reply,
}

impl HttpReply {
    /// Status, headers, and the beginning of the body.
    #[must_use]
    pub fn response(&self) -> &HttpResponse {
        &self.response
    }
}

impl Iterator for HttpReply {
    type Item = Result<Vec<u8>, SessionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.pieces.next()?;
        Some(piece.and_then(|piece| piece.parse::<HttpPiece>().map_err(Kind::Json)?.body()))
    }
}

/// What a plugin has invoked. Dropped without an answer, it is answered with an error.
///
/// # Examples
///
/// As at [`Daemon`](super::Daemon).
pub struct ReverseCall {
    pub(super) request: Request,
}

impl ReverseCall {
    /// What it asks for: `app`, `storage`, `llm` and so on.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.request.method()
    }

    /// The request, read as a `T`.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, SessionError> {
        Ok(self.request.parse()?)
    }

    /// Sends one of several answers.
    ///
    /// # Errors
    ///
    /// If the plugin is gone, or there is no room.
    pub fn send<T: Serialize + ?Sized>(&self, answer: &T) -> Result<(), SessionError> {
        self.request.item(answer)
    }

    /// Sends the answer, or the last of several.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn respond<T: Serialize + ?Sized>(self, answer: &T) -> Result<(), SessionError> {
        self.request.respond(answer)
    }

    /// There are no more answers.
    pub fn finish(self) {
        self.request.finish();
    }

    /// Answers with an error.
    pub fn fail(self, why: impl Into<String>) {
        self.request.fail(&RemoteError::new(why));
    }
}

impl fmt::Debug for ReverseCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReverseCall").field(&self.kind()).finish()
    }
}
