//! The daemon's side, enough to host plugins in tests and in development.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::declaration::Registration;
use super::handlers;
use super::hosted::{HostedPlugin, ReverseCall};
use super::wire::{DECLARES, DaemonSide};
use crate::deadline::Deadline;
use crate::session::duplex::{
    ChildStdio, Connect, Framed, Framing, Lines, Link, LinkOptions, Next, Request, Session,
};
use crate::session::error::Kind;
use crate::session::{Payload, RemoteError, SessionError};
use crate::sys;

/// How long a plugin has for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Without a heartbeat for so long a remote plugin is given up, and a local one.
const SILENCE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(120));
/// A line of a local plugin's. One that is longer is its end.
const LOCAL_LINE: usize = 5 << 20;
/// Any other line; Dify has no limit of its own.
const LINE: usize = 256 << 20;
/// So often a plugin that starts is looked after.
const MOMENT: Duration = Duration::from_millis(20);

type Handler = Arc<dyn Fn(ReverseCall) + Send + Sync>;
type OnStderr = dyn Fn(&[u8]) + Send + Sync;

/// Hosts plugins.
///
/// It keeps to what Dify's own daemon does: to what it refuses and with which words, to how long it
/// waits, and to dropping what is invoked on behalf of a session that has ended.
///
/// # Examples
///
/// ```
/// use std::net::TcpListener;
/// use std::time::Duration;
///
/// use serde_json::json;
/// use sessile::session::dify::{Daemon, Environment, Manifest, Plugin, ToolMessage};
///
/// let plugin = Plugin::new(Manifest::new("me", "hello", "0.0.1")).tool("greeter", "greet", |request| {
///     let seen = request.dify().storage_exists("seen")?; // asks the daemon
///     Ok(request.send(ToolMessage::text(if seen { "hello again" } else { "hello" }))?)
/// });
/// let daemon = Daemon::new("a key").on_invocation(|call| match call.kind() {
///     "storage" => drop(call.respond(&json!({"data": true}))),
///     _ => call.fail("there is only storage"),
/// });
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let address = listener.local_addr()?.to_string();
/// let running = plugin.run(&Environment::remote(address, "a key"))?;
/// let hosted = daemon.accept(&listener, Duration::from_secs(10))?;
///
/// let said: Vec<_> = hosted.tool("greeter", "greet", &json!({}))?.collect::<Result<_, _>>()?;
/// assert_eq!(said[0].value()?["message"]["text"], "hello again");
/// # drop(running);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Daemon {
    key: String,
    handler: Handler,
    late: LateInvocations,
    threads: usize,
    timeout: Duration,
    stderr: Arc<OnStderr>,
}

/// What becomes of an invocation on behalf of a session that has ended.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Daemon, LateInvocations};
///
/// let daemon = Daemon::new("a key").late_invocations(LateInvocations::Refuse);
/// # drop(daemon);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LateInvocations {
    /// It is dropped without a word, as Dify's daemon does.
    #[default]
    Drop,
    /// It is answered with an error.
    Refuse,
}

/// What a plugin has declared.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::HostedPlugin;
///
/// fn tools(hosted: &HostedPlugin) -> usize {
///     let told = hosted.declarations();
///     told.declarations["tool_declaration"]["tools"].as_array().map_or(0, Vec::len)
/// }
/// # drop(tools);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Declarations {
    /// Its manifest.
    pub manifest: Value,
    /// The rest, by kind: `tool_declaration`, `endpoint_declaration` and so on.
    pub declarations: BTreeMap<String, Value>,
    /// The files that it brought, by name.
    pub assets: BTreeMap<String, Vec<u8>>,
}

impl Daemon {
    /// A daemon that takes plugins with this key, and answers each invocation with an error.
    pub fn new(key: impl Into<String>) -> Self {
        let refuse = |invoked: ReverseCall| invoked.fail("permission denied");
        Self {
            key: key.into(),
            handler: Arc::new(refuse),
            late: LateInvocations::Drop,
            threads: 1000,
            timeout: Duration::from_secs(300),
            stderr: Arc::new(|said| {
                let _ = io::stderr().write_all(said);
            }),
        }
    }

    /// Answers what plugins invoke. It is called on threads of the daemon's, and may block.
    #[must_use]
    pub fn on_invocation(mut self, handler: impl Fn(ReverseCall) + Send + Sync + 'static) -> Self {
        self.handler = Arc::new(handler);
        self
    }

    /// What becomes of an invocation that comes too late.
    #[must_use]
    pub fn late_invocations(mut self, policy: LateInvocations) -> Self {
        self.late = policy;
        self
    }

    /// How many threads answer invocations at most, for each plugin; they are started when they are
    /// needed. Default: 1000.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// How long a request waits for each piece of its answer. Default: 5 min.
    #[must_use]
    pub fn timeout(mut self, wait: Duration) -> Self {
        self.timeout = wait;
        self
    }

    /// Has `handler` called with what local plugins write to standard error, as it comes. Default: it is
    /// written to ours.
    #[must_use]
    pub fn on_stderr(mut self, handler: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        self.stderr = Arc::new(handler);
        self
    }

    /// Waits for a remote plugin at this port, no longer than this, and lets it declare itself.
    ///
    /// # Errors
    ///
    /// If none came, or it was refused.
    pub fn accept(&self, at: &TcpListener, wait: Duration) -> Result<HostedPlugin, SessionError> {
        let (stream, _) = accept(at, wait).map_err(|error| Kind::Connect(error.into()))?;
        let declared = Arc::default();
        let handshake = Handshake {
            stream: Some(stream),
            key: self.key.clone(),
            declared: Arc::clone(&declared),
        };
        let builder = self.builder(&declared, SILENCE.0)?.max_message_size(LINE);
        let session = builder.connect(handshake)?;
        Ok(HostedPlugin { session, declared })
    }

    /// Starts a local plugin, and waits until it has told of itself. Its standard input, output and
    /// error are the daemon's.
    ///
    /// # Errors
    ///
    /// If it does not start, ends, or has not told of itself within this time. The error repeats what it
    /// wrote to standard error last.
    pub fn spawn(
        &self,
        mut command: Command,
        wait: Duration,
    ) -> Result<HostedPlugin, SessionError> {
        command.env("INSTALL_METHOD", "local");
        let declared: Arc<Declared> = Arc::default();
        let builder =
            self.builder(&declared, SILENCE.1)?.max_message_size(LINE).framing(LocalLines);
        let last_words: Arc<LastWords> = Arc::default();
        let (hears, handler) = (Hears(Arc::clone(&last_words)), Arc::clone(&self.stderr));
        let child = ChildStdio::new(command).on_stderr(move |said| {
            hears.0.hear(said);
            handler(said);
        });
        let process = child.process();
        let session = builder.connect(child)?;
        let deadline = Deadline::after(wait);
        while !declared.wait_manifest(Deadline::after(MOMENT)) {
            let why = match (session.is_closed(), deadline.has_passed()) {
                (true, _) => match process.wait(MOMENT) {
                    Some(status) => {
                        format!("the plugin has ended before it told of itself: {status}")
                    }
                    None => "the plugin was lost before it told of itself".to_owned(),
                },
                (_, true) => format!("the plugin did not tell of itself in {wait:?}"),
                _ => continue,
            };
            drop(session); // with all that it has started
            let said = last_words.wait(Deadline::after(Duration::from_secs(1)));
            let said = if said.is_empty() { "nothing".to_owned() } else { format!("\n{said}") };
            let error = anyhow::anyhow!("{why}; to standard error it has said {said}");
            return Err(Kind::Connect(error).into());
        }
        Ok(HostedPlugin { session, declared })
    }

    fn builder(
        &self,
        declared: &Arc<Declared>,
        silence: Duration,
    ) -> Result<crate::session::duplex::SessionBuilder, SessionError> {
        let workers = handlers::workers("dify-invocation", self.threads, 1 << 16)?;
        let (handler, late) = (Arc::clone(&self.handler), self.late);
        let declared = Arc::clone(declared);
        let builder = Session::builder(DaemonSide::new())
            .name("dify-daemon")
            .request_timeout(self.timeout)
            .end_timeout(self.timeout)
            .max_requests(1 << 16)
            .keep_alive_timeout(silence)
            .on_notification(move |_, told| {
                if let (Some(kind), Some(data)) = (told.method.strip_prefix(DECLARES), told.params)
                {
                    declared.hear(kind, &data);
                }
            });
        Ok(builder.request_handlers(workers, move |(), request: Request| {
            match (request.is_late(), late) {
                (false, _) => handler(ReverseCall { request }),
                (true, LateInvocations::Drop) => request.ignore(),
                (true, LateInvocations::Refuse) => {
                    request.fail(&RemoteError::new("the session has ended"));
                }
            }
        }))
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("late", &self.late).finish_non_exhaustive()
    }
}

fn accept(at: &TcpListener, wait: Duration) -> io::Result<(TcpStream, SocketAddr)> {
    let deadline = Deadline::after(wait);
    at.set_nonblocking(true)?;
    loop {
        match at.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok((stream, from)) => {
                stream.set_nonblocking(false)?;
                return Ok((stream, from));
            }
            failed => return failed,
        }
        if deadline.has_passed() {
            return Err(ErrorKind::TimedOut.into());
        }
        let left = deadline.remaining().unwrap_or(Duration::from_secs(3600));
        sys::poll(&mut [sys::readable(at)], left)?;
    }
}

/// What a plugin has told of itself so far.
#[derive(Default)]
pub(super) struct Declared {
    all: Mutex<Declarations>,
    changed: Condvar,
}

impl Declared {
    pub(super) fn tell(&self) -> Declarations {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A local plugin tells its manifest, and no more.
    fn hear(&self, kind: &str, data: &Payload) {
        if let ("manifest", Ok(manifest)) = (kind, data.value()) {
            self.all.lock().unwrap_or_else(PoisonError::into_inner).manifest = manifest;
            self.changed.notify_all();
        }
    }

    /// A remote plugin has told everything.
    fn take(&self, registration: &Registration) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.manifest = registration.manifest().cloned().unwrap_or_default();
        let declared = registration.declared().iter();
        all.declarations =
            declared.map(|(kind, first)| (format!("{kind}_declaration"), first.clone())).collect();
        all.assets = registration.assets().clone();
    }

    fn wait_manifest(&self, deadline: Deadline) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        while all.manifest.is_null() {
            match deadline.wait(&self.changed, all) {
                Ok(woken) => all = woken,
                Err(_) => return false,
            }
        }
        true
    }
}

/// What a child has written to standard error last.
#[derive(Default)]
struct LastWords {
    said: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

/// So much of it is kept.
const WORDS: usize = 4 << 10;

impl LastWords {
    fn hear(&self, said: &[u8]) {
        let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        all.0.extend_from_slice(said);
        let over = all.0.len().saturating_sub(WORDS);
        all.0.drain(..over);
    }

    /// All of it, once there will be no more; or what there is by then.
    fn wait(&self, deadline: Deadline) -> String {
        let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        while !all.1 {
            match deadline.wait(&self.changed, all) {
                Ok(woken) => all = woken,
                Err(late) => {
                    all = late;
                    break;
                }
            }
        }
        String::from_utf8_lossy(all.0.trim_ascii()).into_owned()
    }
}

/// Whoever hears it. Dropped, there is no more to be heard.
struct Hears(Arc<LastWords>);

impl Drop for Hears {
    fn drop(&mut self) {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.0.changed.notify_all();
    }
}

/// What a local plugin says: lines, and none over the limit.
#[derive(Clone)]
struct LocalLines;

impl Framing for LocalLines {
    fn encode(&mut self, frame: &[u8], out: &mut Vec<u8>) {
        Lines::new().encode(frame, out);
    }

    fn decode(&mut self, bytes: &[u8], seen: usize) -> io::Result<Next> {
        let next = Lines::new().decode(bytes, seen)?;
        let length = match next {
            Next::More => bytes.len(),
            Next::Frame { length, .. } => length,
            Next::Skip(_) => 0,
        };
        if length > LOCAL_LINE {
            let what = format!("the plugin has said more than {LOCAL_LINE} bytes in one line");
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        Ok(next)
    }
}

/// A connection on which a remote plugin is to declare itself first.
struct Handshake {
    stream: Option<TcpStream>,
    key: String,
    declared: Arc<Declared>,
}

impl Connect for Handshake {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        let mut stream = self.stream.take().context("it has been used already")?;
        stream.set_nodelay(true)?;
        let rest = match self.listen(&mut stream, options.max_message_size) {
            Ok(rest) => rest,
            Err(error) => {
                // In Dify's words, for people: the SDK logs them.
                let _ = writeln!(stream, "{error}");
                return Err(error);
            }
        };
        stream.set_read_timeout(None)?;
        stream.set_nonblocking(true)?;
        Ok(Box::new(Framed::<_, TcpStream>::new(stream, None, options).after(rest)))
    }

    fn can_reconnect(&self) -> bool {
        false
    }
}

impl Handshake {
    /// Hears the plugin out. What it said after that is for the session.
    fn listen(&self, stream: &mut TcpStream, max_line: usize) -> anyhow::Result<Vec<u8>> {
        let deadline = Deadline::after(HANDSHAKE);
        let mut buffer = Vec::new();
        let mut greeted = false;
        let mut registration = Registration::default();
        loop {
            let line = read_line(stream, &mut buffer, max_line, deadline)?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            #[derive(Deserialize)]
            struct Said {
                #[serde(rename = "type")]
                kind: String,
                data: Payload,
            }
            let said: Said = serde_json::from_slice(&line)
                .map_err(|_| anyhow::anyhow!("handshake failed, invalid handshake message"))?;
            match &*said.kind {
                "handshake" => {
                    #[derive(Deserialize)]
                    struct Key {
                        key: String,
                    }
                    ensure!(!greeted, "handshake already completed");
                    let key = said.data.parse::<Key>().map(|said| said.key);
                    ensure!(key.is_ok_and(|key| key == self.key), "handshake failed, invalid key");
                    greeted = true;
                }
                _ if !greeted => bail!("handshake failed, invalid handshake message"),
                kind => {
                    let data = said.data.value().unwrap_or_default();
                    let heard = match kind {
                        "end" => registration.end(),
                        kind => registration.hear(kind, &data),
                    };
                    heard.map_err(|error| {
                        anyhow::Error::new(error.clone())
                            .context(Registration::refusal(kind, &error))
                    })?;
                    if kind == "end" {
                        self.declared.take(&registration);
                        return Ok(buffer);
                    }
                }
            }
        }
    }
}

/// The next line; what was read after it stays in the buffer.
fn read_line(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    max: usize,
    deadline: Deadline,
) -> anyhow::Result<Vec<u8>> {
    let mut searched = 0;
    loop {
        if let Some(at) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = buffer.drain(..=searched + at).collect();
            line.pop();
            return Ok(line);
        }
        searched = buffer.len();
        ensure!(searched <= max, "handshake failed, invalid handshake message");
        let left = deadline.remaining().filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.context("handshake failed, it took too long")?))?;
        let mut piece = [0; 16 << 10];
        match stream.read(&mut piece) {
            Ok(0) => bail!("the plugin has hung up"),
            Ok(read) => buffer.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}
