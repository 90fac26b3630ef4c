//! Why a connection did not come about. With [`head`](super::head) it is one thing in two files: what a
//! server refuses with is read there, and told here.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use super::head::Refusal;
use super::target::Target;
use crate::words::Span;

/// Why no connection could be made, and at which step.
///
/// It is the [`source`](Error::source) of a [`SessionError`](crate::session::SessionError) that
/// [is about connecting](crate::session::SessionError::is_connect). It names the host, and nothing
/// else of the URL; or the address of a client that was accepted. Where a server has refused, it tells
/// what that says.
#[derive(Debug)]
pub struct ConnectError {
    target: String,
    step: ConnectStep,
    problem: Problem,
}

#[derive(Debug)]
pub(super) enum Problem {
    TimedOut(Duration),
    Io(io::Error),
    /// By the server.
    Refused(Box<Refusal>),
    /// A client, by us.
    #[cfg_attr(not(all(feature = "duplex", unix)), allow(dead_code))]
    Denied {
        status: u16,
        why: String,
    },
    Head(&'static str),
    Token(anyhow::Error),
}

/// A step on the way to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectStep {
    /// Getting the token.
    Token,
    /// Looking up the host's name.
    LookUp,
    /// The TCP connection, or what was made in its place.
    Tcp,
    /// The way through a proxy, from looking up its name on.
    Proxy,
    /// The handshake of TLS.
    Tls,
    /// Going over from HTTP to WebSocket.
    Upgrade,
}

impl ConnectError {
    pub(super) fn new(
        target: &impl fmt::Display,
        step: ConnectStep,
        problem: Problem,
        within: Duration,
    ) -> Self {
        let problem = match problem {
            Problem::Io(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Problem::TimedOut(within)
            }
            problem => problem,
        };
        Self { target: target.to_string(), step, problem }
    }

    pub(super) fn token(target: &Target, error: anyhow::Error) -> Self {
        let (step, problem) = (ConnectStep::Token, Problem::Token(error));
        Self { target: target.to_string(), step, problem }
    }

    /// At which step.
    #[must_use]
    pub fn step(&self) -> ConnectStep {
        self.step
    }

    /// It took too long.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.problem, Problem::TimedOut(_))
    }

    /// Gives the status with which the upgrade was refused, if it was refused in HTTP: 401, say. A
    /// proxy refuses so as well, at [its step](ConnectStep::Proxy).
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        match &self.problem {
            Problem::Refused(refusal) => Some(refusal.status),
            Problem::Denied { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Gives a header of the answer with which a server has refused: `Retry-After`, say. Secrets of
    /// ours that it repeats are struck out.
    #[must_use]
    pub fn http_header(&self, name: &str) -> Option<&str> {
        match &self.problem {
            Problem::Refused(refusal) => refusal.fields.get(name),
            _ => None,
        }
    }

    /// Gives how the body of the answer begins with which a server has refused: up to 1 KiB. Secrets of
    /// ours that it repeats are struck out.
    #[must_use]
    pub fn http_body(&self) -> Option<&str> {
        match &self.problem {
            Problem::Refused(refusal) => Some(&refusal.body),
            _ => None,
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, step, problem } = self;
        let doing = match step {
            ConnectStep::Token => "getting a token for",
            ConnectStep::LookUp => "looking up the name in",
            ConnectStep::Tcp => "connecting to",
            ConnectStep::Proxy => "finding a way through the proxy to",
            ConnectStep::Tls => "agreeing on TLS with",
            ConnectStep::Upgrade => "going over to WebSocket at",
        };
        write!(f, "{doing} {target} ")?;
        match problem {
            Problem::TimedOut(limit) => write!(f, "was not done within {} in all", Span(*limit)),
            Problem::Io(_) | Problem::Token(_) => f.write_str("failed"),
            Problem::Refused(refusal) => write!(f, "was refused with {refusal}"),
            Problem::Denied { status, why } => {
                write!(f, "was refused by us with HTTP status {status}: {why}")
            }
            Problem::Head(what) => write!(f, "failed: {what}"),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.problem {
            Problem::Io(error) => Some(error),
            Problem::Token(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}
