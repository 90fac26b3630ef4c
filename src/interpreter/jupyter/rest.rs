//! What a gateway is asked for by HTTP.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use ureq::http::{Method, Request, StatusCode};

use crate::deadline::Deadline;

/// The longest answer that is read.
const MAX_ANSWER: u64 = 1 << 20;
/// How much of a server's own explanation is passed on.
const MAX_MESSAGE: usize = 300;

/// Asks a gateway. Each request has a connection of its own: none is left open for a forked child to
/// inherit, or for a gateway that is shut down to wait for.
pub(super) struct Rest {
    agent: ureq::Agent,
    /// Without a slash at the end.
    base: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum RestError {
    /// There was no answer.
    Unreachable(String),
    /// The gateway refused.
    Status { status: u16, message: String },
    /// The answer is not a gateway's.
    Odd(&'static str),
}

impl RestError {
    pub(super) fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            // Of a proxy before it.
            Self::Status { status, .. } => matches!(status, 502..=504),
            Self::Odd(_) => false,
        }
    }
}

impl fmt::Display for RestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "it does not answer: {why}"),
            Self::Status { status: status @ (401 | 403), message } if message.is_empty() => {
                write!(f, "it refused with HTTP status {status}: is the token right?")
            }
            Self::Status { status, message } if message.is_empty() => {
                write!(f, "it refused with HTTP status {status}")
            }
            Self::Status { status, message } => {
                write!(f, "it refused with HTTP status {status}: {message}")
            }
            Self::Odd(what) => write!(f, "{what}"),
        }
    }
}

/// What kind of server it is.
#[derive(Deserialize)]
struct Api {
    gateway_version: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Wanted<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<&'a str>,
    /// Not every server takes it: the answer says what the id is.
    pub(super) kernel_id: &'a str,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub(super) env: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

impl Rest {
    pub(super) fn new(
        base: String,
        headers: Vec<(HeaderName, HeaderValue)>,
        #[cfg(feature = "tls")] roots: &[Vec<u8>],
    ) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Neither is a token to be sent to where an answer points, nor to a proxy that the
            // environment names: the WebSocket would not go there either.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .max_idle_connections(0);
        #[cfg(feature = "tls")]
        let config = {
            use ureq::tls::{Certificate, RootCerts, TlsConfig};
            let own = roots.iter().map(|der| Certificate::from_der(der).to_owned());
            let trusted = match roots {
                [] => RootCerts::WebPki,
                _ => RootCerts::from(own),
            };
            config.tls_config(TlsConfig::builder().root_certs(trusted).build())
        };
        Self { agent: config.build().into(), base, headers }
    }

    /// Whether it is an Enterprise Gateway.
    pub(super) fn is_enterprise(&self, by: Deadline) -> Result<bool, RestError> {
        let Api { gateway_version } = read(&self.ask(Method::GET, "/api", None::<&()>, by)?)?;
        Ok(gateway_version.is_some())
    }

    /// Starts a kernel and gives its id. It is not ready yet.
    pub(super) fn start(&self, wanted: &Wanted<'_>, by: Deadline) -> Result<String, RestError> {
        let body = self.ask(Method::POST, "/api/kernels", Some(wanted), by)?;
        let Model { id } = read(&body)?;
        // It becomes part of paths.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if id.is_empty() || !id.bytes().all(plain) {
            return Err(RestError::Odd("it answered with something that is no id of a kernel"));
        }
        Ok(id)
    }

    /// Whether the gateway has this kernel.
    pub(super) fn has(&self, id: &str, by: Deadline) -> Result<bool, RestError> {
        match self.ask(Method::GET, &format!("/api/kernels/{id}"), None::<&()>, by) {
            Ok(_) => Ok(true),
            Err(RestError::Status { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn interrupt(&self, id: &str, by: Deadline) -> Result<(), RestError> {
        self.ask(Method::POST, &format!("/api/kernels/{id}/interrupt"), None::<&()>, by).map(drop)
    }

    pub(super) fn restart(&self, id: &str, by: Deadline) -> Result<(), RestError> {
        self.ask(Method::POST, &format!("/api/kernels/{id}/restart"), None::<&()>, by).map(drop)
    }

    /// Ends a kernel. One that is not there has ended already.
    pub(super) fn delete(&self, id: &str, by: Deadline) -> Result<(), RestError> {
        match self.ask(Method::DELETE, &format!("/api/kernels/{id}"), None::<&()>, by) {
            Ok(_) | Err(RestError::Status { status: 404, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        by: Deadline,
    ) -> Result<Vec<u8>, RestError> {
        // Zero would be no time limit to some, and an error to others.
        let left = by.remaining().map(|left| left.max(Duration::from_millis(1)));
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                serde_json::to_vec(body).expect("what is asked for is JSON")
            }
            None => Vec::new(),
        };
        let odd = |_| RestError::Odd("its address makes no request");
        let request = request.body(body).map_err(odd)?;
        let request =
            self.agent.configure_request(request).timeout_global(left).http_status_as_error(false);
        let unreachable = |error: ureq::Error| RestError::Unreachable(error.to_string());
        let mut answer = self.agent.run(request.build()).map_err(unreachable)?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        let body = body.map_err(unreachable)?;
        if status.is_success() {
            return Ok(body);
        }
        Err(RestError::Status { status: status.as_u16(), message: explanation(status, &body) })
    }
}

/// What a server says about why it refused. It may be a page for people to look at: then nothing.
fn explanation(status: StatusCode, body: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    struct Problem {
        message: Option<String>,
    }
    let Problem { message } = serde_json::from_slice(body).unwrap_or_default();
    let message = message.unwrap_or_default();
    // Which the status says already.
    if Some(&*message) == status.canonical_reason() {
        return String::new();
    }
    let plain = message.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(MAX_MESSAGE).collect()
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, RestError> {
    serde_json::from_slice(body).map_err(|_| RestError::Odd("its answer is not a gateway's"))
}

/// The header by which a token is shown. All servers take just this form.
pub(super) fn authorization(token: &str) -> Option<(HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_str(&format!("token {token}")).ok()?;
    value.set_sensitive(true);
    Some((AUTHORIZATION, value))
}
