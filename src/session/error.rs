//! What can go wrong in a conversation.

// Each kind of session has some of its own.
#![cfg_attr(not(all(feature = "ws", feature = "duplex")), allow(dead_code))]

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::Payload;
use super::protocol::{Malformed, Unsupported};
use crate::words::Span;

/// Why a session gave no answer.
///
/// Opaque and one word wide; the predicates are named for what the caller does next.
pub struct SessionError(Box<Kind>);

#[derive(Debug)]
pub(crate) enum Kind {
    /// No connection could be made.
    Connect(anyhow::Error),
    /// The connection is gone, and with it the answer.
    Lost {
        why: String,
    },
    /// The session was closed on our side.
    Closed,
    /// The request on whose behalf the call would be has ended.
    Ended,
    /// The peer answered, with an error.
    Remote(RemoteError),
    TimedOut {
        waited: Duration,
    },
    /// The request ended without an answer.
    NoAnswer,
    /// There is no room for what was to be sent.
    Full {
        what: &'static str,
    },
    /// The caller did not read its answers, and they were let go.
    Overflow,
    TooLarge {
        size: usize,
        limit: usize,
    },
    Malformed(Malformed),
    Unsupported(Unsupported),
    /// The answer, or what was to be sent, is of another type.
    Json(serde_json::Error),
    /// This thread would wait for itself.
    WouldDeadlock,
}

const _: () = assert!(size_of::<Result<(), SessionError>>() == size_of::<usize>());

impl SessionError {
    pub(crate) fn kind(&self) -> &Kind {
        &self.0
    }

    /// No connection could be made. [`source`](Error::source) says why.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(*self.0, Kind::Connect(_))
    }

    /// The connection was lost. What was asked for may have been done: ask before asking again.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(*self.0, Kind::Lost { .. })
    }

    /// The session is closed on this side; no later call on it can succeed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(*self.0, Kind::Closed)
    }

    /// The peer's request on whose behalf the call would have been made is over, and the peer would
    /// not answer. Nothing was sent.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(*self.0, Kind::Ended)
    }

    /// No answer came in time. What was asked for may have been done.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(*self.0, Kind::TimedOut { .. })
    }

    /// The peer ended the request without the answer that there should be.
    #[must_use]
    pub fn is_no_answer(&self) -> bool {
        matches!(*self.0, Kind::NoAnswer)
    }

    /// Too much is under way; a later call may succeed. Nothing was sent.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(*self.0, Kind::Full { .. })
    }

    /// Answers came faster than the caller took them, and were let go.
    #[must_use]
    pub fn is_overflow(&self) -> bool {
        matches!(*self.0, Kind::Overflow)
    }

    /// A message is larger than the limit.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(*self.0, Kind::TooLarge { .. })
    }

    /// The peer sent something that cannot be understood, or an answer of another type.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        matches!(*self.0, Kind::Malformed(_) | Kind::Json(_))
    }

    /// The protocol has no such message. Nothing was sent.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(*self.0, Kind::Unsupported(_))
    }

    /// The thread that would wait is the one that would have to bring the answer.
    #[must_use]
    pub fn is_deadlock(&self) -> bool {
        matches!(*self.0, Kind::WouldDeadlock)
    }

    /// What the peer answered, if it answered with an error.
    #[must_use]
    pub fn remote(&self) -> Option<&RemoteError> {
        match &*self.0 {
            Kind::Remote(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Kind> for SessionError {
    #[cold]
    fn from(kind: Kind) -> Self {
        Self(Box::new(kind))
    }
}

impl From<Malformed> for SessionError {
    fn from(malformed: Malformed) -> Self {
        Kind::Malformed(malformed).into()
    }
}

impl From<Unsupported> for SessionError {
    fn from(unsupported: Unsupported) -> Self {
        Kind::Unsupported(unsupported).into()
    }
}

impl From<RemoteError> for SessionError {
    fn from(error: RemoteError) -> Self {
        Kind::Remote(error).into()
    }
}

impl fmt::Debug for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionError").field(&self.0).finish()
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Connect(_) => f.write_str("no connection could be made"),
            Kind::Lost { why } => write!(f, "the connection was lost: {why}"),
            Kind::Closed => f.write_str("the session is closed"),
            Kind::Ended => f.write_str("the request that this call belonged to has ended"),
            Kind::Remote(error) => write!(f, "the peer answered with an error: {error}"),
            Kind::TimedOut { waited } => write!(f, "no answer came in {}", Span(*waited)),
            Kind::NoAnswer => f.write_str("the peer ended the request without an answer"),
            Kind::Full { what } => write!(f, "{what}"),
            Kind::Overflow => f.write_str("the answers were not read as fast as they came"),
            Kind::TooLarge { size, limit } => {
                write!(f, "a message of {size} bytes is over the limit of {limit}")
            }
            Kind::Malformed(malformed) => malformed.fmt(f),
            Kind::Unsupported(unsupported) => unsupported.fmt(f),
            Kind::Json(error) => {
                write!(f, "not of the type asked for: {}", super::json_rpc::syntax(error))
            }
            Kind::WouldDeadlock => {
                f.write_str("this thread would wait for an answer that it has to bring itself")
            }
        }
    }
}

impl Error for SessionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &*self.0 {
            Kind::Connect(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

/// An error that one side tells the other.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RemoteError {
    /// Its number, where the protocol has one.
    pub code: Option<i64>,
    /// For people to read.
    pub message: String,
    /// For programs to read.
    pub data: Option<Payload>,
}

impl RemoteError {
    /// What was sent is not JSON, as JSON-RPC numbers it.
    pub const PARSE_ERROR: i64 = -32700;
    /// What was sent is no request, as JSON-RPC numbers it.
    pub const INVALID_REQUEST: i64 = -32600;
    /// The parameters are not what the method takes, as JSON-RPC numbers it.
    pub const INVALID_PARAMS: i64 = -32602;
    /// The request was called off, as the Language Server Protocol numbers it.
    pub const REQUEST_CANCELLED: i64 = -32800;
    /// There is no such method, as JSON-RPC numbers it.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The handler failed, by its own fault.
    pub const INTERNAL_ERROR: i64 = -32603;
    /// Any other failure.
    pub const SERVER_ERROR: i64 = -32000;

    /// An error without a number.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: None, message: message.into(), data: None }
    }

    /// The same, with a number.
    #[must_use]
    pub fn with_code(mut self, code: i64) -> Self {
        self.code = Some(code);
        self
    }

    /// The same, with something for programs to read.
    #[must_use]
    pub fn with_data(mut self, data: impl Into<Payload>) -> Self {
        self.data = Some(data.into());
        self
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} ({code})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl Error for RemoteError {}
