//! What a WebSocket is opened with, as its user sets it.

use std::sync::Arc;

use tungstenite::http::header::{HeaderName, HeaderValue};

use super::connect::{Connector, Resolver, Target};
use crate::pool::BuildError;

/// Settings that nobody has looked into yet. What may be a secret is in them: no `Debug`.
#[derive(Clone)]
pub(in crate::session) struct Opening {
    pub(in crate::session) url: String,
    pub(in crate::session) headers: Vec<(String, String)>,
    pub(in crate::session) subprotocols: Vec<String>,
    /// Whether a server may choose none of them.
    pub(in crate::session) or_none: bool,
    pub(in crate::session) token: Option<Token>,
    pub(in crate::session) resolver: Option<Arc<Resolver>>,
    pub(in crate::session) quick_ack: bool,
    #[cfg(feature = "tls")]
    pub(in crate::session) tls: Option<Arc<rustls::ClientConfig>>,
    #[cfg(feature = "tls")]
    pub(in crate::session) roots: Vec<rustls::pki_types::CertificateDer<'static>>,
}

#[derive(Clone)]
pub(in crate::session) enum Token {
    Fixed(String),
    Fresh(Arc<FreshToken>),
}

pub(super) type FreshToken = dyn Fn() -> anyhow::Result<String> + Send + Sync;

impl Opening {
    pub(in crate::session) fn new(url: String) -> Self {
        Self {
            url,
            headers: Vec::new(),
            subprotocols: Vec::new(),
            or_none: false,
            token: None,
            resolver: None,
            quick_ack: true,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            roots: Vec::new(),
        }
    }

    /// Looks into the settings. Nothing is connected yet.
    pub(in crate::session) fn build(self) -> Result<Connector, BuildError> {
        let target = Target::of(&self.url).map_err(|what| BuildError::new("url", what))?;
        let is_token = |name: &String| HeaderName::from_bytes(name.as_bytes()).is_ok();
        if !self.subprotocols.iter().all(is_token) {
            return Err(BuildError::new("subprotocol", "must be a word"));
        }
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            let lower = name.to_ascii_lowercase();
            let ours = ["host", "connection", "upgrade"].contains(&&*lower);
            if ours || lower.starts_with("sec-websocket-") {
                return Err(BuildError::new("header", "is one that the handshake itself sends"));
            }
            let line =
                header(name, value).map_err(|_| BuildError::new("header", "is no header"))?;
            headers.extend(line);
        }
        let authorized =
            self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        if authorized && self.token.is_some() {
            return Err(BuildError::new("bearer_token", "is beside a header `Authorization`"));
        }
        let mut token = None;
        match (self.token, &target.credentials) {
            (Some(Token::Fresh(fresh)), _) => token = Some(fresh),
            (Some(Token::Fixed(fixed)), _) => {
                let odd = "has a character that a header cannot have";
                let line = bearer(&fixed).map_err(|_| BuildError::new("bearer_token", odd))?;
                headers.extend(line);
            }
            (None, Some(credentials)) if !authorized => {
                let line = header("authorization", credentials);
                headers.extend(line.expect("base64 is fit for a header"));
            }
            (None, _) => {}
        }
        #[cfg(not(feature = "tls"))]
        if target.tls {
            return Err(BuildError::new("url", "needs the feature `tls` for wss://"));
        }
        #[cfg(feature = "tls")]
        let tls = match self.tls {
            _ if !target.tls => None,
            Some(config) => Some(config),
            None => {
                let config = super::tls::config(&self.roots);
                Some(config.map_err(|what| BuildError::new("root_certificate", what))?)
            }
        };
        Ok(Connector {
            target,
            subprotocols: self.subprotocols,
            or_none: self.or_none,
            headers,
            token,
            resolver: self.resolver,
            quick_ack: self.quick_ack,
            #[cfg(feature = "tls")]
            tls,
        })
    }
}

/// The line that shows a token.
pub(super) fn bearer(token: &str) -> anyhow::Result<Vec<u8>> {
    header("authorization", &format!("Bearer {token}"))
}

/// A header as a line, if it is one and will not turn out to be two.
pub(crate) fn header(name: &str, value: &str) -> anyhow::Result<Vec<u8>> {
    let name = HeaderName::from_bytes(name.as_bytes());
    let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) else {
        anyhow::bail!("it has a character that a header cannot have");
    };
    Ok([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat())
}
