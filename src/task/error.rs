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
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let error = workers.submit(|_| panic!("no such table"))?.join().unwrap_err();
    /// assert!(error.is_panic());
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self.0, ErrorKind::Panicked(..))
    }

    /// Says whether the work never ran, and never will.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(1).build()?;
    /// let (hold, held) = std::sync::mpsc::channel::<()>();
    /// let first = workers.submit(move |_| drop(held.recv()))?;
    /// let second = workers.submit(|_| ())?;
    /// second.cancel(); // the only worker is busy
    /// assert!(second.join().unwrap_err().is_cancelled());
    /// drop(hold);
    /// first.join()?;
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0, ErrorKind::Cancelled(_))
    }

    /// Says whether the worker had no instance to run the work with. [`source`](Error::source) is the
    /// [`PoolError`] that says why.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, try_from_fn};
    /// use std::error::Error;
    ///
    /// let pool = Pool::builder(try_from_fn(|_| Err::<u8, _>(std::io::Error::other("no database"))));
    /// let workers = Workers::builder(pool).threads(1).build()?;
    /// let error = workers.submit(|_| ())?.join().unwrap_err();
    /// assert!(error.is_no_instance() && error.source().is_some());
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn is_no_instance(&self) -> bool {
        matches!(self.0, ErrorKind::NoInstance(..))
    }

    /// Says whether the thread that waits is the one that would have to run the work.
    ///
    /// ```
    /// let event_loop = sessile::EventLoop::new();
    /// let answer = event_loop.handle().call(|| 42).unwrap();
    /// assert!(answer.join().unwrap_err().is_deadlock()); // this thread would have to run the loop
    /// ```
    #[must_use]
    pub fn is_deadlock(&self) -> bool {
        matches!(self.0, ErrorKind::WouldDeadlock)
    }

    /// Hands out what the panic carried, as from [`std::thread::JoinHandle::join`].
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let error = workers.submit(|_| panic!("no such table"))?.join().unwrap_err();
    /// let payload = error.try_into_panic().expect("it panicked");
    /// assert_eq!(payload.downcast_ref(), Some(&"no such table"));
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
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
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(1).build()?;
    /// let (hold, held) = std::sync::mpsc::channel::<()>();
    /// let first = workers.submit(move |_| drop(held.recv()))?;
    /// let second = workers.submit(|n| *n + 1)?;
    /// let _ = workers.abort(std::time::Duration::ZERO); // hands back what has not begun
    /// let work = second.join().unwrap_err().into_body().expect("it never ran");
    /// assert_eq!(work(&mut 1), 2);
    /// drop(hold);
    /// let _ = first.join();
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn into_body(self) -> Option<B> {
        match self.0 {
            ErrorKind::Cancelled(body) => body.into_inner(),
            ErrorKind::NoInstance(body, _) => Some(body.into_inner()),
            ErrorKind::Panicked(..) | ErrorKind::WouldDeadlock => None,
        }
    }

    /// Goes on with the panic on this thread, if the work panicked; otherwise hands itself back.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let error = workers.submit(|_| panic!("no such table"))?.join().unwrap_err();
    /// let here = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| error.resume_panic()));
    /// assert!(here.is_err());
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
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
