//! How messages look on the wire.

use std::cmp::Ordering;
use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{Payload, RemoteError};

/// How messages look on the wire: one frame is one message, or several in a batch.
///
/// Ids of our own requests are numbers, unique on their connection; a protocol writes them as it
/// likes, as long as it finds them again in the answer. Services that are nearly JSON-RPC are reached
/// by a few lines:
///
/// ```
/// use serde_json::{Value, json};
/// use sessile::session::{
///     Incoming, Malformed, Outgoing, Protocol, RemoteError, Unsupported,
/// };
///
/// /// Requests `{"op": .., "ref": "7", "body": ..}`, answers `{"ref": "7", "ok": ..}` or
/// /// `{"ref": "7", "fault": "why"}`; what has no `ref` is an event.
/// struct Nearly;
///
/// impl Protocol for Nearly {
///     fn encode(&self, message: &Outgoing<'_>, frame: &mut Vec<u8>) -> Result<(), Unsupported> {
///         let Outgoing::Request { id, method, params, .. } = message else {
///             return Err(Unsupported::new("this service takes requests only"));
///         };
///         let said = json!({"op": method, "ref": id.to_string(), "body": params});
///         frame.extend(said.to_string().bytes());
///         Ok(())
///     }
///
///     fn decode(&self, frame: &[u8], messages: &mut Vec<Incoming>) -> Result<(), Malformed> {
///         let said: Value = serde_json::from_slice(frame).map_err(Malformed::new)?;
///         let id = said["ref"].as_str().and_then(|id| id.parse().ok());
///         messages.push(match (id, said["fault"].as_str()) {
///             (Some(id), None) => Incoming::Answer { id, value: said["ok"].clone().into() },
///             (Some(id), Some(why)) => {
///                 Incoming::Failure { id: Some(id), error: RemoteError::new(why) }
///             }
///             (None, _) => Incoming::Notification {
///                 method: said["event"].as_str().unwrap_or_default().to_owned(),
///                 params: Some(said.into()),
///                 meta: None,
///             },
///         });
///         Ok(())
///     }
/// }
/// ```
///
/// # Threads
///
/// `encode` runs on whichever thread has something to say, `decode` on the one that owns the stream.
/// Neither may block.
pub trait Protocol: Send + Sync + 'static {
    /// Appends a message to `frame`, without what a stream of lines ends it with.
    ///
    /// # Errors
    ///
    /// If the protocol has no such message; `frame` is then thrown away.
    fn encode(&self, message: &Outgoing<'_>, frame: &mut Vec<u8>) -> Result<(), Unsupported>;

    /// Reads a frame that the peer sent, and appends what it says to `messages`.
    ///
    /// # Errors
    ///
    /// If it cannot be understood; what was appended before that counts, and the session goes on. Where
    /// only a part of the frame is bad, append [`Incoming::Malformed`] and read on. The error must not
    /// repeat what was received: it may hold a secret.
    fn decode(&self, frame: &[u8], messages: &mut Vec<Incoming>) -> Result<(), Malformed>;

    /// Finds the request of ours that a message answers which is over the size limit and was not
    /// kept. `head` and `tail` are its first and its last bytes, some hundreds of each.
    ///
    /// The session fails that request at once. Default: none can be told, and the request waits until
    /// its time is over.
    fn answer_id(&self, head: &[u8], tail: &[u8]) -> Option<u64> {
        let _ = (head, tail);
        None
    }

    /// Finds whom a message concerns that is over the size limit and was not kept, by what its first two
    /// levels say in short: names, numbers and short texts, as JSON. Long texts are empty there, and what
    /// lies deeper is `null`.
    ///
    /// A request of ours fails at once, and a request of the peer's is answered with an error. Default:
    /// it cannot be told, and [`answer_id`](Self::answer_id) is asked.
    fn concerns(&self, outline: &[u8]) -> Option<Concern> {
        let _ = outline;
        None
    }

    /// Rewrites the parameters of our request `id` so that the peer tells of its progress, and sends
    /// answers piece by piece, where the protocol has words for that. `None`: they are sent as they are.
    fn with_progress(&self, id: u64, params: &Payload) -> Option<Payload> {
        let _ = (id, params);
        None
    }

    /// Joins what was answered to the requests of a batch, each an encoded message, into one frame.
    fn join(&self, answers: &[&[u8]], frame: &mut Vec<u8>) {
        frame.extend(answers.join(&b' '));
    }

    /// Appends to `frame` what a peer is told that is not served at all, as a client for whom a server has
    /// no room.
    ///
    /// # Errors
    ///
    /// If the protocol has no words for that, which is the default: the peer is told nothing then.
    fn encode_refusal(&self, error: &RemoteError, frame: &mut Vec<u8>) -> Result<(), Unsupported> {
        let _ = (error, frame);
        Err(Unsupported::new("a word for a peer that is not served"))
    }

    /// Whether the peer waits for an answer also to a request that it has called off.
    fn answers_cancelled(&self) -> bool {
        false
    }

    /// Whether the end of a request is a message of its own, after its answers or its failure.
    ///
    /// Where it is, what is called on behalf of a request must come before its end.
    fn ends_apart(&self) -> bool {
        false
    }
}

/// Whom a message concerns that was too long to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Concern {
    /// It answers this request of ours.
    Answer(u64),
    /// It is this request of the peer's.
    Request(RequestId),
}

/// What we say.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Outgoing<'a> {
    /// We ask for something.
    Request {
        /// How we call the request.
        id: u64,
        /// The request of the peer's on whose behalf we ask.
        within: Option<&'a RequestId>,
        /// What we ask for.
        method: &'a str,
        /// With which parameters.
        params: Option<&'a Payload>,
    },
    /// We tell something and want no answer.
    Notification {
        /// What we tell of.
        method: &'a str,
        /// The particulars.
        params: Option<&'a Payload>,
    },
    /// Nobody waits any more for the answer to a request of ours.
    Cancel {
        /// The request.
        id: u64,
    },
    /// One of several answers to a request of the peer's.
    Item {
        /// The request.
        to: &'a RequestId,
        /// The answer.
        value: &'a Payload,
    },
    /// How far a request of the peer's has come. It is no answer.
    Progress {
        /// The request.
        to: &'a RequestId,
        /// How far it has come.
        value: &'a Payload,
    },
    /// The only answer, or the last. It ends the request, unless
    /// [ends are apart](Protocol::ends_apart).
    Answer {
        /// The request.
        to: &'a RequestId,
        /// The answer.
        value: &'a Payload,
    },
    /// The request failed. It ends the request, unless [ends are apart](Protocol::ends_apart).
    Failure {
        /// The request.
        to: &'a RequestId,
        /// Why.
        error: &'a RemoteError,
    },
    /// The request is over, all its answers being sent.
    End {
        /// The request.
        to: &'a RequestId,
    },
}

/// What the peer says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Incoming {
    /// The peer asks for something.
    Request {
        /// How it calls its request.
        id: RequestId,
        /// The request of ours on whose behalf it asks, where the protocol tells.
        within: Option<u64>,
        /// What it asks for.
        method: String,
        /// With which parameters.
        params: Option<Payload>,
        /// What else the message said that a handler may want to know.
        meta: Option<Payload>,
    },
    /// The peer tells something and wants no answer.
    Notification {
        /// What it tells of.
        method: String,
        /// The particulars.
        params: Option<Payload>,
        /// What else the message said that a handler may want to know.
        meta: Option<Payload>,
    },
    /// The peer waits no more for the answer to its request.
    Cancel {
        /// How it calls that request.
        id: RequestId,
    },
    /// One of several answers to a request of ours.
    Item {
        /// The request.
        id: u64,
        /// The answer.
        value: Payload,
    },
    /// How far a request of ours has come. It is no answer.
    Progress {
        /// The request.
        id: u64,
        /// How far it has come.
        value: Payload,
    },
    /// Messages that came in one frame, and whose requests are to be answered in one.
    Batch(Vec<Incoming>),
    /// The only answer to a request of ours, or the last.
    Answer {
        /// The request.
        id: u64,
        /// The answer.
        value: Payload,
    },
    /// A request of ours failed.
    Failure {
        /// The request; `None` if the peer could not tell, for one because it could not read it.
        id: Option<u64>,
        /// Why.
        error: RemoteError,
    },
    /// A request of ours is over.
    End {
        /// The request.
        id: u64,
    },
    /// A sign of life.
    Heartbeat,
    /// The peer said something that cannot be understood. It fails the request that it
    /// [answers](Malformed::answers), if that can be told, and nothing else.
    Malformed(Malformed),
}

/// Something that the peer tells, and wants no answer to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Notification {
    /// What it tells of.
    pub method: String,
    /// The particulars.
    pub params: Option<Payload>,
    /// What else the message said.
    pub meta: Option<Payload>,
}

impl Notification {
    /// A notification with nothing but this.
    #[must_use]
    pub fn new(method: impl Into<String>, params: Option<Payload>) -> Self {
        Self { method: method.into(), params, meta: None }
    }

    /// Reads the particulars as a `T`; absent ones as `null`.
    ///
    /// # Errors
    ///
    /// If they are something else.
    pub fn parse<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        match &self.params {
            Some(params) => params.parse(),
            None => serde_json::from_str("null"),
        }
    }
}

/// How the peer calls a request of its own. Cheap to clone.
///
/// Two are equal if they are called the same, whatever [token](Self::token) they carry.
#[derive(Clone)]
pub struct RequestId {
    id: Arc<str>,
    token: Option<Arc<str>>,
}

impl RequestId {
    /// As the protocol writes it.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self { id: id.into(), token: None }
    }

    /// The same, with what the protocol has to write into all that is said of the request before its
    /// answer.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.into());
        self
    }

    /// As the protocol writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.id
    }

    /// What [`with_token`](Self::with_token) was given.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for RequestId {}

impl Hash for RequestId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl PartialOrd for RequestId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RequestId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id.cmp(&other.id)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({})", self.id)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// A frame, or a message in it, that cannot be understood.
///
/// It may say whom it concerns:
///
/// ```
/// use sessile::session::{Malformed, RemoteError, RequestId};
///
/// let malformed = Malformed::new("an answer without a result").answering(7);
/// assert_eq!(malformed.answers(), Some(7));
/// let malformed = Malformed::new("a method that is no text")
///     .refused_with(RequestId::new("8"), RemoteError::INVALID_REQUEST);
/// assert_eq!(malformed.refusal().map(|(id, error)| (id.as_str(), error.code)), Some(("8", Some(-32600))));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    what: String,
    answers: Option<u64>,
    refused: Option<(RequestId, i64)>,
}

impl Malformed {
    /// Says what is wrong with it, without what it holds.
    pub fn new(what: impl fmt::Display) -> Self {
        Self { what: what.to_string(), answers: None, refused: None }
    }

    /// Adds that it was to be the answer to this request of ours, which fails by it at once.
    #[must_use]
    pub fn answering(mut self, id: u64) -> Self {
        self.answers = Some(id);
        self
    }

    /// Adds that it was to be a request of the peer's, for which the peer expects an error with this
    /// code.
    #[must_use]
    pub fn refused_with(mut self, id: RequestId, code: i64) -> Self {
        self.refused = Some((id, code));
        self
    }

    /// Names the request of ours that it was to answer, if that can be told.
    #[must_use]
    pub fn answers(&self) -> Option<u64> {
        self.answers
    }

    /// Gives what a side that serves requests answers to it, if the protocol has words for that.
    #[must_use]
    pub fn refusal(&self) -> Option<(&RequestId, RemoteError)> {
        let (id, code) = self.refused.as_ref()?;
        Some((id, RemoteError::new(&*self.what).with_code(*code)))
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer sent something that cannot be understood: {}", self.what)
    }
}

impl Error for Malformed {}

/// A message that the protocol does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported(&'static str);

impl Unsupported {
    /// What the protocol does not have.
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        Self(what)
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the protocol has no such message: {}", self.0)
    }
}

impl Error for Unsupported {}
