//! What can go wrong between a thread and its instance.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Why a thread did not get its instance.
///
/// Opaque and one word wide; the predicates are named for what the caller does next. Where creation
/// failed, [`source`](Error::source) is the manager's error, and `Display` does not repeat it:
/// `anyhow` and its like print the chain.
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

    /// The manager could not make an instance. The next use tries again.
    #[must_use]
    pub fn is_create_failed(&self) -> bool {
        matches!(self.0.kind, Kind::CreateFailed(_))
    }

    /// Returns the error of the manager's `create`, if that is what failed.
    ///
    /// [`source`](Error::source) is its outermost layer only; here one's own error is found below any
    /// context, too.
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

    /// Creation failed lately and is not tried again before
    /// [`retry_after`](Self::retry_after) has passed.
    #[must_use]
    pub fn is_backing_off(&self) -> bool {
        matches!(self.0.kind, Kind::BackingOff { .. })
    }

    /// How long to wait before another use is worth it, if the pool is backing off.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.0.kind {
            Kind::BackingOff { retry_after } => Some(retry_after),
            _ => None,
        }
    }

    /// The pool is closed; no later use can succeed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.0.kind, Kind::Closed)
    }

    /// This thread is inside its instance already: `with` in `with`, or a use of the pool in its own
    /// `create`. Under rayon this happens without being written down: a thread that waits inside
    /// `with` steals another job, which uses the same pool.
    #[must_use]
    pub fn is_reentrant(&self) -> bool {
        matches!(self.0.kind, Kind::Reentrant)
    }

    /// The thread is running its thread-local destructors; it can have no instance any more.
    #[must_use]
    pub fn is_thread_exiting(&self) -> bool {
        matches!(self.0.kind, Kind::ThreadExiting)
    }

    /// The pool was full, and no room came free in time.
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
                "{pool} could not create an instance lately: try again in \
                 {retry_after:.1?}"
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
                "{pool} is full: all of its {max_size} instances were in use for \
                 {waited:.1?}"
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
