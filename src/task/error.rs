//! Why there is no result.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::panic::resume_unwind;

use crate::contain::panic_message;
use crate::error::PoolError;
use crate::exclusive::Exclusive;

/// Why there is no result.
///
/// `Display` says what happened, with a panic's message. The error is `Send + Sync + 'static`, so `?`
/// carries it into any other.
///
/// ```
/// # use sessile::{Pool, Workers, from_fn};
/// # let pool = Pool::builder(from_fn(|_| 0_u8));
/// let workers = Workers::builder(pool).threads(1).build()?;
/// let error = workers.submit(|_| panic!("no such table: sales"))?.join().unwrap_err();
/// assert!(error.is_panic());
/// assert_eq!(error.to_string(), "the work panicked: no such table: sales");
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub struct JoinError<B = ()>(ErrorKind<B>);

pub(super) enum ErrorKind<B> {
    /// With the message, if it has one.
    Panicked(Option<String>, Exclusive<Box<dyn Any + Send>>),
    Cancelled(Exclusive<Option<B>>),
    NoInstance(Exclusive<B>, PoolError),
    WouldDeadlock,
}

impl<B> ErrorKind<B> {
    pub(super) fn panicked(payload: Box<dyn Any + Send>) -> Self {
        Self::Panicked(panic_message(&*payload).map(str::to_owned), Exclusive::new(payload))
    }
}

impl<B> From<ErrorKind<B>> for JoinError<B> {
    fn from(kind: ErrorKind<B>) -> Self {
        Self(kind)
    }
}

impl<B> JoinError<B> {
    /// Says whether the work panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self.0, ErrorKind::Panicked(..))
    }

    /// Says whether the work never ran, and never will.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0, ErrorKind::Cancelled(_))
    }

    /// Says whether the worker had no instance to run the work with. [`source`](Error::source) is the
    /// [`PoolError`] that says why.
    #[must_use]
    pub fn is_no_instance(&self) -> bool {
        matches!(self.0, ErrorKind::NoInstance(..))
    }

    /// Says whether the thread that waits is the one that would have to run the work.
    #[must_use]
    pub fn is_deadlock(&self) -> bool {
        matches!(self.0, ErrorKind::WouldDeadlock)
    }

    /// Hands out what the panic carried, as from [`std::thread::JoinHandle::join`].
    ///
    /// # Errors
    ///
    /// Itself, if the work did not panic.
    pub fn try_into_panic(self) -> Result<Box<dyn Any + Send>, Self> {
        match self.0 {
            ErrorKind::Panicked(_, payload) => Ok(payload.into_inner()),
            other => Err(Self(other)),
        }
    }

    /// Hands back the work, if it never ran, and nobody has had it back before.
    #[must_use]
    pub fn into_body(self) -> Option<B> {
        match self.0 {
            ErrorKind::Cancelled(body) => body.into_inner(),
            ErrorKind::NoInstance(body, _) => Some(body.into_inner()),
            ErrorKind::Panicked(..) | ErrorKind::WouldDeadlock => None,
        }
    }

    /// Goes on with the panic on this thread, if the work panicked; otherwise hands itself back.
    pub fn resume_panic(self) -> Self {
        match self.0 {
            ErrorKind::Panicked(_, payload) => resume_unwind(payload.into_inner()),
            other => Self(other),
        }
    }
}

impl<B> fmt::Debug for JoinError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ErrorKind::Panicked(Some(message), _) => write!(f, "JoinError::Panicked({message:?})"),
            ErrorKind::Panicked(None, _) => f.write_str("JoinError::Panicked(..)"),
            ErrorKind::Cancelled(_) => f.write_str("JoinError::Cancelled(..)"),
            ErrorKind::NoInstance(_, error) => {
                f.debug_tuple("JoinError::NoInstance").field(error).finish()
            }
            ErrorKind::WouldDeadlock => f.write_str("JoinError::WouldDeadlock"),
        }
    }
}

impl<B> fmt::Display for JoinError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            ErrorKind::Panicked(Some(message), _) => {
                return write!(f, "the work panicked: {message}");
            }
            ErrorKind::Panicked(None, _) => "the work panicked",
            ErrorKind::Cancelled(_) => "the work was cancelled before it ran",
            ErrorKind::NoInstance(..) => "the worker had no instance to run the work with",
            ErrorKind::WouldDeadlock => "this thread would wait for work that it has to run itself",
        })
    }
}

impl<B> Error for JoinError<B> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            ErrorKind::NoInstance(_, error) => Some(error),
            ErrorKind::Panicked(..) | ErrorKind::Cancelled(_) | ErrorKind::WouldDeadlock => None,
        }
    }
}
