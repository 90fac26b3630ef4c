//! A plugin that runs: how the daemon is reached, what it says to that, and how it ends.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;

use super::declaration::DeclarationError;
use super::environment::{Environment, Install};
use crate::deadline::Deadline;
use crate::session::SessionError;
use crate::session::duplex::{Connect, Link, LinkOptions, Session, SessionStats, Stdio, Tcp};

/// What a running plugin tells its operator.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::{Manifest, Plugin, PluginEvent};
///
/// let plugin = Plugin::new(Manifest::new("me", "hello", "0.0.1")).on_event(|event| match event {
///     PluginEvent::Refused { why, tries_again: true } => eprintln!("Dify is busy: {why}"),
///     other => eprintln!("{other:?}"),
/// });
/// # drop(plugin);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PluginEvent {
    /// The daemon refuses the plugin, in its words.
    Refused {
        /// What the daemon said.
        why: String,
        /// Whether the plugin tries again: it does if the daemon was busy.
        tries_again: bool,
    },
}

/// How the daemon is reached, and what it has said to that.
pub(super) struct Dial {
    to: Box<dyn Connect>,
    /// For whom it fails.
    what: &'static str,
    pub(super) state: Arc<State>,
}

impl Dial {
    pub(super) fn new(environment: &Environment) -> Self {
        let (to, what): (Box<dyn Connect>, _) = match &environment.install {
            Install::Local => (
                Box::new(Stdio::new()),
                "a local plugin is started by Dify's daemon, and talks with it over standard input and \
                 output; to run it by hand, set INSTALL_METHOD=remote",
            ),
            Install::Remote { address, .. } => {
                (Box::new(Tcp::new(address)), "no daemon is reached")
            }
        };
        Self { to, what, state: Arc::default() }
    }
}

impl Connect for Dial {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        let link = self.to.connect(options).context(self.what)?;
        self.state.is_connected();
        Ok(link)
    }

    fn blocks(&self) -> bool {
        self.to.blocks()
    }

    /// Who was refused for good is refused again.
    fn can_reconnect(&self) -> bool {
        self.to.can_reconnect() && !self.state.for_good.load(Ordering::SeqCst)
    }
}

/// What the daemon said to the present connection.
#[derive(Default)]
pub(super) struct State {
    refusal: Mutex<Option<String>>,
    /// It would say the same again.
    for_good: AtomicBool,
    changed: Condvar,
}

impl State {
    fn is_connected(&self) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn refuse(&self, why: String) -> PluginEvent {
        // In the daemon's words: it is busy, or cannot look up the key just now.
        let tries_again =
            why.starts_with("server is busy") || why.starts_with("failed to get connection info");
        self.for_good.store(!tries_again, Ordering::SeqCst);
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
        self.changed.notify_all();
        PluginEvent::Refused { why, tries_again }
    }

    fn refused_for_good(&self) -> Option<String> {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.clone().filter(|_| self.for_good.load(Ordering::SeqCst))
    }

    pub(super) fn wait_refused(&self, deadline: Deadline) {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        while refusal.is_none() {
            match deadline.wait(&self.changed, refusal) {
                Ok(woken) => refusal = woken,
                Err(_) => return,
            }
        }
    }
}

/// A plugin that runs. Dropped, it closes.
///
/// # Examples
///
/// As at [`Plugin`](super::Plugin).
pub struct RunningPlugin {
    pub(super) session: Session,
    pub(super) state: Arc<State>,
}

impl RunningPlugin {
    /// Waits until it has come to its end: it was closed, or standard input has ended.
    ///
    /// # Errors
    ///
    /// If the daemon refuses the plugin, and would refuse it again.
    pub fn wait(&self) -> Result<(), PluginError> {
        while !self.wait_timeout(Duration::from_secs(3600))? {}
        Ok(())
    }

    /// Waits until it has come to its end, no longer than this. Says whether it has.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, wait: Duration) -> Result<bool, PluginError> {
        let is_over = self.session.wait_closed(wait);
        self.not_refused()?;
        Ok(is_over)
    }

    pub(super) fn not_refused(&self) -> Result<(), PluginError> {
        self.state.refused_for_good().map_or(Ok(()), |why| Err(Reason::Refused(why).into()))
    }

    /// Tells what the daemon said, if it refuses the plugin at present; it says nothing if it takes it.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.state.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes a line to the log of Dify's daemon: `INFO`, `WARNING` or another level.
    ///
    /// # Errors
    ///
    /// If the daemon is gone, or there is no room.
    pub fn log(&self, level: &str, message: &str) -> Result<(), SessionError> {
        super::invocations::log(&self.session.invoker(), level, message)
    }

    /// Tells what its session has done and seen.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.session.stats()
    }

    /// Takes no more requests, and ends, within this time. Says whether it has.
    pub fn close(&self, within: Duration) -> bool {
        self.session.close(within)
    }
}

impl fmt::Debug for RunningPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningPlugin").field("session", &self.session).finish_non_exhaustive()
    }
}

/// Why a plugin does not run.
///
/// # Examples
///
/// ```no_run
/// use sessile::session::dify::{Environment, Manifest, Plugin};
///
/// let plugin = Plugin::new(Manifest::new("me", "hello", "0.0.1"));
/// match plugin.run(&Environment::remote("localhost:5003", "a key")) {
///     Err(error) if error.refusal().is_some() => eprintln!("is the key still good? {error}"),
///     other => drop(other?.wait()?),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PluginError(Box<Reason>);

#[derive(Debug)]
pub(super) enum Reason {
    Declaration(DeclarationError),
    Refused(String),
    Session(SessionError),
}

impl PluginError {
    /// Gives the declaration that Dify would not take, if it is that.
    #[must_use]
    pub fn declaration(&self) -> Option<&DeclarationError> {
        match &*self.0 {
            Reason::Declaration(error) => Some(error),
            _ => None,
        }
    }

    /// Gives what the daemon said, if it refused the plugin.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match &*self.0 {
            Reason::Refused(why) => Some(why),
            _ => None,
        }
    }

    /// Says whether the daemon could not be reached.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(&*self.0, Reason::Session(error) if error.is_connect())
    }
}

impl From<Reason> for PluginError {
    fn from(reason: Reason) -> Self {
        Self(Box::new(reason))
    }
}

impl From<SessionError> for PluginError {
    fn from(error: SessionError) -> Self {
        Reason::Session(error).into()
    }
}

impl fmt::Debug for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What `main` prints when it returns one.
        write!(f, "{self}")?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Reason::Declaration(error) => error.fmt(f),
            Reason::Refused(why) => write!(f, "Dify's daemon refuses the plugin: {why}"),
            Reason::Session(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PluginError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Reason::Session(error) => error.source(),
            _ => None,
        }
    }
}
