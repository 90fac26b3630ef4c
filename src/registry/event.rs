//! What happens to instances, told as it happens.

use std::time::Duration;

use crate::id::{InstanceId, Owner};
use crate::manager::CloseReason;

/// What [`PoolBuilder::on_event`](crate::PoolBuilder::on_event) was given.
pub(crate) type OnEvent = Box<dyn Fn(&InstanceEvent<'_>) + Send + Sync>;

/// Tells what has happened to an instance; see
/// [`PoolBuilder::on_event`](crate::PoolBuilder::on_event).
///
/// ```
/// use sessile::pool::InstanceEvent;
/// use sessile::{Pool, from_fn};
///
/// fn log(event: &InstanceEvent<'_>) {
///     let InstanceEvent { pool, instance, owner, kind, .. } = event;
///     println!("{pool}-{instance} of {owner}: {kind:?}");
/// }
///
/// let pool = Pool::builder(from_fn(|_| 0)).on_event(log).build()?;
/// pool.with(|n| *n += 1)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct InstanceEvent<'a> {
    /// The name of the pool.
    pub pool: &'a str,
    /// Which instance. One that could not be created has an id too.
    pub instance: InstanceId,
    /// The thread that it belongs to.
    pub owner: &'a Owner,
    /// The key that a worker keeps it for, if it does.
    pub key: Option<&'a str>,
    /// What has happened.
    pub kind: InstanceEventKind<'a>,
}

/// Says what has happened to an instance.
///
/// Each instance begins with `Created` or `CreateFailed`; each that was created ends with `Closed`
/// or `CloseFailed`.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// use sessile::pool::InstanceEventKind;
/// use sessile::{Pool, from_fn};
///
/// let failures = Arc::new(AtomicUsize::new(0));
/// let count = Arc::clone(&failures);
/// let pool = Pool::builder(from_fn(|_| 0)).on_event(move |event| match event.kind {
///     InstanceEventKind::CreateFailed { .. } | InstanceEventKind::CloseFailed { .. } => {
///         count.fetch_add(1, Ordering::Relaxed);
///     }
///     _ => {}
/// });
/// pool.build()?.with(|n| *n += 1)?;
/// assert_eq!(failures.load(Ordering::Relaxed), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum InstanceEventKind<'a> {
    /// It was made, in this time.
    Created {
        /// How long [`Manager::create`](crate::Manager::create) took.
        took: Duration,
    },
    /// It could not be made: the manager returned this error, or panicked.
    CreateFailed {
        /// The manager's error; for a panic, its message.
        error: &'a anyhow::Error,
    },
    /// A panic went through its user.
    Poisoned {
        /// Whether the manager kept it nevertheless.
        rescued: bool,
    },
    /// Somebody other than its owner ordered it closed.
    ///
    /// It is told on the thread that gives the order, or, for a limit, on one that closes. So it may
    /// come before `Created`, if it was still being made, and after the close, if the owner was quick.
    Evicted {
        /// Why.
        reason: CloseReason,
    },
    /// It is there, or is being made, and no thread could be had to keep its pool's `idle_timeout`,
    /// `max_lifetime` or `check_after`. It is tried again: at each use, each creation, and each look at
    /// the pool's status, ten times a second at most. Told for each time that it failed.
    ReaperFailed {
        /// What the system said.
        error: &'a std::io::Error,
    },
    /// It was closed.
    Closed {
        /// Why.
        reason: CloseReason,
    },
    /// It was closed, and the manager returned this error, or panicked.
    CloseFailed {
        /// Why it was closed.
        reason: CloseReason,
        /// The manager's error; for a panic, its message.
        error: &'a anyhow::Error,
    },
}
