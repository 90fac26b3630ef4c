//! What can go wrong between a thread and its instance.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::words::{Count, Span};

/// Says why a thread did not get its instance.
///
/// It is opaque and one word wide; the predicates are named for what the caller does next. Where
/// the manager could not make the instance, [`source`](Error::source) is its error, and `Display`
/// does not repeat it: `anyhow` and its like print the chain.
///
/// ```
/// use std::io;
///
/// use sessile::Pool;
///
/// let files = Pool::try_from_fn(|_| Err::<u8, _>(io::Error::from(io::ErrorKind::NotFound)));
/// match files.with(|_| ()) {
///     Err(error) if error.is_create_failed() => println!("{error}: {:?}", error.create_error()),
///     Err(error) if error.is_closed() => println!("we are shutting down"),
///     Err(error) => return Err(error),
///     Ok(()) => unreachable!("it cannot be opened"),
/// }
/// # Ok::<(), sessile::PoolError>(())
/// ```
pub struct PoolError(Box<Inner>);

struct Inner {
    kind: Kind,
    /// The name of the pool, where it is known.
    pool: Option<String>,
}

/// Why a use came to nothing, before it is said of which pool.
#[derive(Debug)]
pub(crate) enum Kind {
    CreateFailed(anyhow::Error),
    BackingOff { retry_after: Duration },
    Closed,
    Reentrant,
    ThreadExiting,
    TimedOut { waited: Duration, max_size: usize },
}

const _: () = assert!(size_of::<Result<(), PoolError>>() == size_of::<usize>());

impl PoolError {
    #[cold]
    pub(crate) fn new(kind: Kind, pool: &str) -> Self {
        Self(Box::new(Inner { kind, pool: Some(pool.to_owned()) }))
    }

    /// Returns whether the manager could not make an instance. The next use tries again.
    ///
    /// ```
    /// use std::io;
    ///
    /// let pool = sessile::Pool::try_from_fn(|_| Err::<u8, _>(io::Error::other("no")));
    /// assert!(pool.with(|_| ()).unwrap_err().is_create_failed());
    /// ```
    #[must_use]
    pub fn is_create_failed(&self) -> bool {
        matches!(self.0.kind, Kind::CreateFailed(_))
    }

    /// Returns the error of the manager's `create`, if that is what failed.
    ///
    /// [`source`](Error::source) is its outermost layer only; here one's own error is found below
    /// any context, too.
    ///
    /// ```
    /// use std::io;
    ///
    /// use anyhow::Context;
    /// use sessile::Pool;
    ///
    /// let pool = Pool::try_from_fn(|_| Err::<u8, _>(io::Error::other("no")).context("while opening"));
    /// let error = pool.with(|_| ()).unwrap_err();
    /// let own = error.create_error().and_then(|error| error.downcast_ref::<io::Error>());
    /// assert_eq!(own.unwrap().to_string(), "no");
    /// ```
    #[must_use]
    pub fn create_error(&self) -> Option<&anyhow::Error> {
        match &self.0.kind {
            Kind::CreateFailed(error) => Some(error),
            _ => None,
        }
    }

    /// Turns into the error of the manager's `create`, if that is what failed.
    ///
    /// # Errors
    ///
    /// If something else failed: the `PoolError`, as it was.
    ///
    /// ```
    /// use std::io;
    ///
    /// use sessile::Pool;
    ///
    /// let pool = Pool::try_from_fn(|_| Err::<u8, _>(io::Error::from(io::ErrorKind::NotFound)));
    /// let error = pool.with(|_| ()).unwrap_err();
    /// let own: io::Error = error.into_create_error()?.downcast()?;
    /// assert_eq!(own.kind(), io::ErrorKind::NotFound);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_create_error(self) -> Result<anyhow::Error, Self> {
        match *self.0 {
            Inner { kind: Kind::CreateFailed(error), .. } => Ok(error),
            inner => Err(Self(Box::new(inner))),
        }
    }

    /// Returns whether the manager failed lately, and is not asked again before
    /// [`retry_after`](Self::retry_after) has passed; see
    /// [`create_backoff`](crate::PoolBuilder::create_backoff).
    ///
    /// ```
    /// use std::io;
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, try_from_fn};
    ///
    /// let minute = Duration::from_secs(60);
    /// let pool = Pool::builder(try_from_fn(|_| Err::<u8, _>(io::Error::other("no"))));
    /// let pool = pool.create_backoff(minute, minute).build()?;
    /// let _failed = pool.with(|_| ());
    /// assert!(pool.with(|_| ()).unwrap_err().is_backing_off());
    /// # Ok::<(), sessile::pool::BuildError>(())
    /// ```
    #[must_use]
    pub fn is_backing_off(&self) -> bool {
        matches!(self.0.kind, Kind::BackingOff { .. })
    }

    /// Returns how long to wait before another use is worth it, if the pool is backing off.
    ///
    /// ```
    /// use std::io;
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, try_from_fn};
    ///
    /// let minute = Duration::from_secs(60);
    /// let pool = Pool::builder(try_from_fn(|_| Err::<u8, _>(io::Error::other("no"))));
    /// let pool = pool.create_backoff(minute, minute).build()?;
    /// assert_eq!(pool.with(|_| ()).unwrap_err().retry_after(), None); // this one asked the manager
    /// assert!(pool.with(|_| ()).unwrap_err().retry_after() > Some(Duration::ZERO));
    /// # Ok::<(), sessile::pool::BuildError>(())
    /// ```
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.0.kind {
            Kind::BackingOff { retry_after } => Some(retry_after),
            _ => None,
        }
    }

    /// Returns whether the pool is closed; no later use can succeed.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = sessile::Pool::from_fn(|_| 0);
    /// let _ = pool.close(Duration::ZERO);
    /// assert!(pool.with(|_| ()).unwrap_err().is_closed());
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.0.kind, Kind::Closed)
    }

    /// Returns whether this thread is inside its instance already: `with` in `with`, or a use of
    /// the pool in its own `create`.
    ///
    /// Under rayon this happens without being written down: a thread that waits inside `with`
    /// steals another job, which uses the same pool.
    ///
    /// ```
    /// let pool = sessile::Pool::from_fn(|_| 0);
    /// let inner = pool.with(|_| pool.with(|_| ()))?;
    /// assert!(inner.unwrap_err().is_reentrant());
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    #[must_use]
    pub fn is_reentrant(&self) -> bool {
        matches!(self.0.kind, Kind::Reentrant)
    }

    /// Returns whether the thread is running its thread-local destructors; it can have no instance
    /// any more.
    ///
    /// ```
    /// fn worth_telling(error: &sessile::PoolError) -> bool {
    ///     !error.is_thread_exiting() && !error.is_closed() // both are how programs end
    /// }
    /// # assert!(worth_telling(&sessile::Pool::try_from_fn(|_| Err::<u8, _>(std::fmt::Error)).with(|_| ()).unwrap_err()));
    /// ```
    #[must_use]
    pub fn is_thread_exiting(&self) -> bool {
        matches!(self.0.kind, Kind::ThreadExiting)
    }

    /// Returns whether the pool was full, and no room came free in time.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, from_fn};
    ///
    /// let pool = Pool::builder(from_fn(|_| 0)).max_size(1).wait_timeout(Duration::ZERO).build()?;
    /// let kept = pool.get()?;
    /// std::thread::scope(|s| {
    ///     s.spawn(|| assert!(pool.with(|_| ()).unwrap_err().is_timeout()));
    /// });
    /// # drop(kept);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.kind, Kind::TimedOut { .. })
    }
}

impl From<Kind> for PoolError {
    #[cold]
    fn from(kind: Kind) -> Self {
        Self(Box::new(Inner { kind, pool: None }))
    }
}

impl fmt::Debug for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, pool } = &*self.0;
        f.debug_struct("PoolError").field("pool", pool).field("kind", kind).finish()
    }
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, pool } = &*self.0;
        let pool = match pool {
            Some(pool) => Cow::Owned(format!("the pool `{pool}`")),
            None => Cow::Borrowed("the pool"),
        };
        match kind {
            Kind::CreateFailed(_) => write!(f, "{pool} could not create an instance"),
            Kind::BackingOff { retry_after: Duration::MAX } => write!(
                f,
                "{pool} could not create an instance, and never tries again: its `create_backoff` \
                 is for ever"
            ),
            Kind::BackingOff { retry_after } => write!(
                f,
                "{pool} could not create an instance lately: try again in {}",
                Span(*retry_after)
            ),
            Kind::Closed => write!(f, "{pool} is closed: no use can succeed any more"),
            Kind::Reentrant => write!(
                f,
                "this thread is using its instance of {pool} already: let go of it \
                 before the next use"
            ),
            Kind::ThreadExiting => {
                write!(f, "this thread is ending: it can have no instance of {pool} any more")
            }
            Kind::TimedOut { waited, max_size } => write!(
                f,
                "{pool} is full: it may have {}, and none came free in {}",
                Count(*max_size, "instance"),
                Span(*waited)
            ),
        }
    }
}

impl Error for PoolError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0.kind {
            Kind::CreateFailed(error) => Some(error.as_ref()),
            Kind::BackingOff { .. }
            | Kind::Closed
            | Kind::Reentrant
            | Kind::ThreadExiting
            | Kind::TimedOut { .. } => None,
        }
    }
}
