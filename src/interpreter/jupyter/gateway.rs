//! A gateway: where it is, who we are to it, and the two ways to speak with it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(unix)]
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::endings::Endings;
use super::health::Health;
#[cfg(unix)]
use super::left;
use super::left::Held;
use super::rest::{Rest, RestError, Wanted};
use super::wire::{Framing, SUBPROTOCOL};
use crate::deadline::Deadline;
use crate::pool::BuildError;
use crate::session::rfc6455::{Target, header};
use crate::session::websocket::{Link, WebSocketManager};
use crate::session::{ConnectOptions, SessionError};

/// The pause before a gateway that failed is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// Who waits less than this for an answer cannot say that there is none.
const FAIR: Duration = Duration::from_millis(500);
/// How long the first start waits for what others have left to be ended.
#[cfg(unix)]
const RECLAIM_FIRST: Duration = Duration::from_secs(2);

/// Where a Jupyter server is, and who we are to it: a Kernel Gateway, a Jupyter Server, or an
/// Enterprise Gateway.
///
/// ```
/// use sessile::interpreter::jupyter::Gateway;
///
/// let gateway = Gateway::new("https://kernels.example.org/base").token("..");
/// ```
///
/// The token and the headers are in no `Debug`, no error and no URL.
#[derive(Clone)]
pub struct Gateway {
    options: ConnectOptions,
    token: Option<String>,
    username: Option<String>,
    remote: Option<bool>,
}

impl Gateway {
    /// At this URL, or as these [`ConnectOptions`] say. The URL begins with `http://` or, with the
    /// feature `tls`, `https://`, and ends with the server's `base_url`, if it has one.
    ///
    /// It must hold no credentials and no query: what is secret goes into a header, by
    /// [`token`](Self::token). A URL that will not do is refused when the
    /// [manager is built](super::JupyterBuilder::build). Headers, certificates, a proxy and a resolver
    /// hold for every request, and for the one that opens a WebSocket.
    ///
    /// ```
    /// use sessile::interpreter::jupyter::Gateway;
    /// use sessile::session::ConnectOptions;
    ///
    /// let options = ConnectOptions::new("http://kernels.internal:8888").header("X-Tenant", "blue");
    /// let gateway = Gateway::new(options).token("..");
    /// ```
    #[must_use]
    pub fn new(options: impl Into<ConnectOptions>) -> Self {
        Self { options: options.into(), token: None, username: None, remote: None }
    }

    /// The server's token, sent as `Authorization: token ..`.
    ///
    /// Default: none. A Jupyter Server that has none refuses to start kernels.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// For whom an Enterprise Gateway is to start kernels: the environment variable
    /// `KERNEL_USERNAME`. Other servers are not told.
    ///
    /// Default: who this process runs as, as `USER` has it; `sessile`, if that is nobody or `root`, for
    /// whom it would start none.
    #[must_use]
    pub fn username(mut self, name: impl Into<String>) -> Self {
        self.username = Some(name.into());
        self
    }

    /// Whether its kernels run on other machines than the gateway does. Then one may be out of reach
    /// while its gateway answers, and is asked on its control channel before the gateway is asked
    /// to interrupt, end or restart it.
    ///
    /// Default: those of an Enterprise Gateway do, those of others do not.
    #[must_use]
    pub fn remote_kernels(mut self, yes: bool) -> Self {
        self.remote = Some(yes);
        self
    }
}

impl From<&str> for Gateway {
    fn from(url: &str) -> Self {
        Self::new(url)
    }
}

impl From<String> for Gateway {
    fn from(url: String) -> Self {
        Self::new(url)
    }
}

impl From<ConnectOptions> for Gateway {
    fn from(options: ConnectOptions) -> Self {
        Self::new(options)
    }
}

/// Nothing of the URL: it has not been looked into.
impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

/// How kernels are to be started, on whichever gateway.
#[derive(Clone, Debug)]
pub(super) struct KernelOptions {
    pub(super) name: Option<String>,
    pub(super) path: Option<String>,
    pub(super) env: Vec<(String, String)>,
}

/// A gateway that has been looked into.
pub(super) struct Endpoint {
    pub(super) rest: Rest,
    /// Scheme, host and port: what may be told.
    pub(super) label: String,
    /// By which it is known again: the label and the path, without a slash at the end.
    #[cfg_attr(not(unix), allow(dead_code))]
    pub(super) url: String,
    /// Of its WebSockets, up to `/api/..`.
    base: String,
    options: ConnectOptions,
    /// Whether nothing is said to it but what it is asked: neither who we are, nor whom we trust.
    #[cfg(unix)]
    is_open: bool,
    username: String,
    /// Whether kernels are on other machines, as far as is known.
    is_remote: AtomicBool,
    /// Whether that was said, and is not to be found out.
    is_remote_said: bool,
    health: Health,
    /// Kernels that could not be ended yet.
    pub(super) endings: Endings,
    /// Whether it was asked to end what others have left.
    #[cfg(unix)]
    is_reclaimed: AtomicBool,
}

/// How a kernel's WebSocket is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkOptions {
    pub(super) json: bool,
    pub(super) max_message_size: usize,
    pub(super) keep_alive_interval: Duration,
    pub(super) keep_alive_timeout: Duration,
}

impl Endpoint {
    pub(super) fn new(gateway: Gateway) -> Result<Self, BuildError> {
        let refused = |what| BuildError::new("gateway", what);
        let Gateway { mut options, token, username, remote } = gateway;
        let target = Target::of(&options.url, "http", "https").map_err(refused)?;
        if target.tls && cfg!(not(feature = "tls")) {
            return Err(refused("needs the feature `tls` for https://"));
        }
        if target.credentials.is_some() {
            return Err(refused("holds credentials: give them by `token` or `header`"));
        }
        if target.query().is_some() {
            return Err(refused("has a query: give a token by `token`"));
        }
        if !options.subprotocols.is_empty() {
            return Err(refused("chooses its own subprotocol: set none"));
        }
        if let Some(token) = &token {
            let is_there =
                |(name, _): &(String, String)| name.eq_ignore_ascii_case("authorization");
            if options.headers.iter().any(is_there) || options.has_token() {
                return Err(BuildError::new(
                    "token",
                    "is given beside a header `Authorization`: give one of the two",
                ));
            }
            // All servers take just this form.
            let (name, value) = ("authorization".to_owned(), format!("token {token}"));
            if header(&name, &value).is_err() {
                let odd = "has a character that a header cannot have: visible ASCII only";
                return Err(BuildError::new("token", odd));
            }
            options.headers.push((name, value));
        }
        let (path, authority) = (target.path().trim_end_matches('/'), target.authority());
        #[cfg(unix)]
        let is_open = options.is_anonymous() && !options.trusts_others();
        #[cfg(feature = "tls")]
        if target.tls {
            options.share_tls()?;
        }
        let websocket = if target.tls { "wss" } else { "ws" };
        options.url = format!("{websocket}://{authority}/");
        // An Enterprise Gateway starts none for root.
        let is_somebody = |user: &String| !user.is_empty() && user != "root";
        let user = || std::env::var("USER").ok().filter(is_somebody);
        let endpoint = Self {
            rest: Rest {
                dialler: WebSocketManager::builder(options.clone()).build()?,
                authority: authority.to_owned(),
                base: path.to_owned(),
            },
            label: target.to_string(),
            url: format!("{target}{path}"),
            base: format!("{websocket}://{authority}{path}"),
            options,
            #[cfg(unix)]
            is_open,
            username: username.or_else(user).unwrap_or_else(|| "sessile".to_owned()),
            is_remote: AtomicBool::new(remote.unwrap_or(false)),
            is_remote_said: remote.is_some(),
            health: Health::default(),
            endings: Endings::default(),
            #[cfg(unix)]
            is_reclaimed: AtomicBool::new(false),
        };
        // Whatever the WebSocket would refuse is to be known now.
        let usual = LinkOptions {
            json: false,
            max_message_size: 1,
            keep_alive_interval: Duration::from_secs(1),
            keep_alive_timeout: Duration::from_secs(1),
        };
        endpoint.websocket("-", "-", usual, Duration::from_secs(1))?;
        Ok(endpoint)
    }

    #[cfg(unix)]
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether kernels are on other machines than the gateway.
    pub(super) fn is_remote(&self) -> bool {
        self.is_remote.load(Ordering::Relaxed)
    }

    /// It was found out whether they are, unless that was said.
    pub(super) fn found_remote(&self, yes: bool) {
        if !self.is_remote_said {
            self.is_remote.store(yes, Ordering::Relaxed);
        }
    }

    /// Whether it did not answer just now, and is not to be waited for again.
    pub(super) fn is_away(&self) -> bool {
        self.health.is_away()
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// Asks, and remembers whether there was an answer.
    fn ask<T>(
        &self,
        by: Deadline,
        ask: impl FnOnce(&Rest) -> Result<T, RestError>,
    ) -> Result<T, RestError> {
        let begun = Instant::now();
        let answer = ask(&self.rest);
        match &answer {
            Err(error) if error.is_unreachable() => {
                // Who had no time for it has not found out anything.
                if !by.has_passed() || begun.elapsed() >= FAIR {
                    self.health.failed();
                }
            }
            Ok(_) | Err(_) => self.health.answered(),
        }
        answer
    }

    /// Whether it has this kernel. That it has does not say that the kernel lives.
    pub(super) fn has(&self, id: &str, by: Deadline) -> Result<bool, RestError> {
        self.ask(by, |rest| rest.has(id, by))
    }

    pub(super) fn interrupt(&self, id: &str, by: Deadline) -> Result<(), RestError> {
        self.ask(by, |rest| rest.interrupt(id, by))
    }

    pub(super) fn restart(&self, id: &str, by: Deadline) -> Result<(), RestError> {
        self.ask(by, |rest| rest.restart(id, by))
    }

    /// Ends a kernel; whether it was there.
    pub(super) fn delete(&self, id: &str, by: Deadline) -> Result<bool, RestError> {
        self.ask(by, |rest| rest.delete(id, by))
    }

    /// Starts a kernel. The gateway has to say by `answer_by` that it is there.
    pub(super) fn start(
        self: &Arc<Self>,
        options: &KernelOptions,
        answer_by: Deadline,
        by: Deadline,
    ) -> Result<Held, RestError> {
        let answer_by = answer_by.earlier(by);
        let is_enterprise = self.ask(answer_by, |rest| rest.is_enterprise(answer_by))?;
        self.found_remote(is_enterprise);
        #[cfg(unix)]
        self.reclaim_once();
        let mut held = Held::new(super::random_uuid(), self, by);
        let mut env = Map::new();
        if is_enterprise {
            env.insert("KERNEL_USERNAME".to_owned(), Value::from(&*self.username));
            env.insert("KERNEL_ID".to_owned(), Value::from(&*held.id));
        }
        env.extend(options.env.iter().map(|(name, value)| (name.clone(), Value::from(&**value))));
        let KernelOptions { name, path, .. } = options;
        let wanted =
            Wanted { name: name.as_deref(), path: path.as_deref(), kernel_id: &held.id, env };
        match self.ask(by, |rest| rest.start(&wanted, by)) {
            Ok(id) => {
                held.started(id);
                self.end_those_left(by);
                Ok(held)
            }
            Err(error) => {
                if error.is_refusal() {
                    held.ended();
                } else {
                    self.leave(held, None); // it may have been started all the same
                }
                Err(error)
            }
        }
    }

    /// Ends a kernel; or remembers to, if the gateway does not get round to it.
    ///
    /// A gateway that is about to start a dead kernel anew fails to end it, and then has it running.
    /// So it is asked again.
    pub(super) fn end(self: &Arc<Self>, held: Held, by: Deadline) -> Result<(), RestError> {
        let ended = loop {
            let ended = self.delete(&held.id, by);
            match &ended {
                Err(RestError::Status { status: 500, .. }) if !by.has_passed() => {
                    thread::sleep(ASK_AGAIN);
                }
                _ => break ended,
            }
        };
        match ended {
            Ok(_) => {
                held.ended();
                Ok(())
            }
            Err(error) => {
                self.leave(held, None);
                Err(error)
            }
        }
    }

    /// Before the first kernel is started here: has those ended that processes that are gone have
    /// left, for they may be all that the gateway has room for. That is waited for, but not long.
    #[cfg(unix)]
    fn reclaim_once(self: &Arc<Self>) {
        if self.is_reclaimed.swap(true, Ordering::Relaxed) {
            return;
        }
        let (done, is_done) = mpsc::channel::<()>();
        let endpoint = Arc::clone(self);
        let reclaim = move || {
            left::reclaim_at(&endpoint);
            drop(done);
        };
        // Without a thread it is left to the next process.
        let _ = thread::Builder::new().name("sessile-reclaim".to_owned()).spawn(reclaim);
        let _ = is_done.recv_timeout(RECLAIM_FIRST);
    }

    /// Opens the WebSocket of a kernel.
    pub(super) fn connect(
        &self,
        kernel: &str,
        session: &str,
        options: LinkOptions,
        by: Deadline,
    ) -> Result<(Link, Framing), SessionError> {
        let left = by.remaining().unwrap_or(Duration::MAX).max(Duration::from_millis(1));
        let manager = self.websocket(kernel, session, options, left);
        let manager = manager.expect("the like was built once, and an id is no trouble");
        let (link, subprotocol) = manager.open()?;
        self.health.answered();
        let framing = if subprotocol.is_some() { Framing::V1 } else { Framing::Json };
        Ok((link, framing))
    }

    fn websocket(
        &self,
        kernel: &str,
        session: &str,
        options: LinkOptions,
        timeout: Duration,
    ) -> Result<WebSocketManager, BuildError> {
        let LinkOptions { json, max_message_size, keep_alive_interval, keep_alive_timeout } =
            options;
        // No `Origin`: gateways refuse one that is not their own host.
        let url = format!("{}/api/kernels/{kernel}/channels?session_id={session}", self.base);
        let mut connect = self.options.clone();
        connect.url = url;
        // Its own limit is for one attempt, and this is for what is left of all.
        connect.connect_timeout = Some(connect.connect_timeout.unwrap_or(timeout).min(timeout));
        if !json {
            connect = connect.subprotocol(SUBPROTOCOL);
        }
        WebSocketManager::builder(connect)
            .for_any_messages()
            .max_message_size(max_message_size)
            .keep_alive_interval(keep_alive_interval)
            .keep_alive_timeout(keep_alive_timeout)
            .build()
    }
}
