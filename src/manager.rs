//! How instances are made, checked, interrupted and closed.

mod from_fn;
mod interrupt;
mod shared;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::from_fn::{FromFn, from_fn, try_from_fn};
pub use self::interrupt::InterruptHandle;
use crate::id::{InstanceId, Owner};

/// Makes, checks and closes the instances of a [`Pool`](crate::Pool).
///
/// [`from_fn`] and [`try_from_fn`] make a manager of a closure.
///
/// None of these methods runs while a lock of this crate is held. A panic in any of them is
/// accounted for: nothing is leaked, and the pool goes on.
///
/// # Threads
///
/// The manager itself is shared, hence `Send + Sync`. [`create`](Self::create),
/// [`has_broken`](Self::has_broken), [`is_valid`](Self::is_valid) and [`rescue`](Self::rescue) run
/// on the owner, always. [`close`](Self::close) runs on the owner too, with one exception: an idle
/// instance of a pool made with `T: Send` is closed by whoever orders it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a manager",
    label = "not a `Manager`",
    note = "a closure becomes one by `sessile::from_fn(|_| ..)`, or, if it returns a `Result`, by `sessile::try_from_fn(|_| ..)`"
)]
pub trait Manager: Send + Sync + 'static {
    /// What each thread gets one of. It need not be `Send`.
    type Instance: 'static;

    /// Makes the instance of the calling thread.
    ///
    /// # Errors
    ///
    /// An error reaches the caller of [`Pool::with`](crate::Pool::with) as a
    /// [`PoolError`](crate::PoolError) whose `source` it is. The next use tries again.
    fn create(&self, cx: &CreateContext) -> anyhow::Result<Self::Instance>;

    /// Whether the instance is known to be useless, without any I/O.
    ///
    /// Asked on the owner after each use, and again before a use that follows a long idle time. An
    /// instance that has broken is closed at once; the next use makes a new one.
    fn has_broken(&self, instance: &mut Self::Instance) -> bool {
        let _ = instance;
        false
    }

    /// Whether [`has_broken`](Self::has_broken) can ever say yes.
    ///
    /// Asked once, when the pool is built. With `false`, as [`from_fn`] has it without
    /// [`broken_if`](FromFn::broken_if), a use costs no indirect call.
    fn can_break(&self) -> bool {
        true
    }

    /// Whether the instance still works; I/O is welcome here.
    ///
    /// Asked on the owner before a use, only after the instance has sat idle for longer than
    /// [`PoolBuilder::check_after`](crate::PoolBuilder::check_after).
    ///
    /// # Errors
    ///
    /// An error closes the instance; the use at hand goes on with a new one.
    fn is_valid(&self, instance: &mut Self::Instance) -> anyhow::Result<()> {
        let _ = instance;
        Ok(())
    }

    /// Whether an instance may be used again although a panic went through its user.
    ///
    /// Asked on the owner while the panic unwinds. By default it may not: it is closed, and the
    /// next use makes a new one.
    fn rescue(&self, instance: &mut Self::Instance) -> bool {
        let _ = instance;
        false
    }

    /// Says in a few words what should be known of an instance beside its state: what it is connected
    /// to, what it is held to. The registry shows it, as
    /// [`InstanceInfo::note`](crate::registry::InstanceInfo::note).
    ///
    /// It is asked once, on the owner, when the instance has been made. Default: nothing.
    ///
    /// ```
    /// use sessile::{CreateContext, Manager, Pool, Registry};
    ///
    /// struct Shards;
    ///
    /// impl Manager for Shards {
    ///     type Instance = u32;
    ///
    ///     fn create(&self, _: &CreateContext) -> anyhow::Result<u32> {
    ///         Ok(7)
    ///     }
    ///
    ///     fn describe(&self, shard: &u32) -> Option<String> {
    ///         Some(format!("shard {shard}"))
    ///     }
    /// }
    ///
    /// let registry = Registry::new();
    /// let shards = Pool::builder(Shards).registry(&registry).build()?;
    /// shards.with(|shard| assert_eq!(*shard, 7))?;
    /// assert_eq!(registry.snapshot().instances[0].note.as_deref(), Some("shard 7"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn describe(&self, instance: &Self::Instance) -> Option<String> {
        let _ = instance;
        None
    }

    /// A handle by which a busy instance can be asked, from any thread, to come to an end.
    ///
    /// Asked for once, on the owner, right after [`create`](Self::create).
    fn interrupt(&self, instance: &Self::Instance) -> Option<InterruptHandle> {
        let _ = instance;
        None
    }

    /// Closes the instance. Dropping it is the default.
    ///
    /// # Errors
    ///
    /// An error, or a panic, is counted, reported to the
    /// [`on_event`](crate::PoolBuilder::on_event) closure and listed in the
    /// [`CloseReport`](crate::registry::CloseReport). The instance is gone either way.
    fn close(&self, instance: Self::Instance, reason: CloseReason) -> anyhow::Result<()> {
        let _ = reason;
        drop(instance);
        Ok(())
    }
}

/// What a [`Manager`] is told about the instance it makes.
#[derive(Debug)]
pub struct CreateContext {
    pub(crate) id: InstanceId,
    pub(crate) name: String,
    pub(crate) owner: Owner,
    pub(crate) key: Option<String>,
    pub(crate) generation: u64,
}

impl CreateContext {
    /// The id the instance will have, never used before or again in this process.
    #[must_use]
    pub fn id(&self) -> InstanceId {
        self.id
    }

    /// A name to tell the instance by: the pool's, a hyphen, the id.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The thread that the instance will belong to: the one that is calling.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The key that the instance is for, if it is a keyed one of [`Workers`](crate::Workers).
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// How often the pool had been [cleared](crate::Pool::clear) when this creation began.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// Why an instance is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[repr(u8)]
pub enum CloseReason {
    /// Its thread ended.
    ThreadExit = 1,
    /// [`Pool::close`](crate::Pool::close), or
    /// [`Registry::close_all`](crate::Registry::close_all).
    PoolClosed,
    /// The last handle of its pool was dropped.
    PoolDropped,
    /// [`Pool::clear`](crate::Pool::clear).
    Cleared,
    /// [`Pool::retain`](crate::Pool::retain) did not keep it.
    NotRetained,
    /// [`Pool::close_here`](crate::Pool::close_here).
    ClosedHere,
    /// [`Pool::discard`](crate::Pool::discard): its owner called it spent.
    Discarded,
    /// [`Registry::evict`](crate::Registry::evict).
    Evicted,
    /// Another thread needed its room under [`max_size`](crate::PoolBuilder::max_size).
    MadeRoom,
    /// It was idle for longer than [`idle_timeout`](crate::PoolBuilder::idle_timeout).
    IdleTimeout,
    /// It was older than [`max_lifetime`](crate::PoolBuilder::max_lifetime).
    MaxLifetime,
    /// It had been used [`max_uses`](crate::PoolBuilder::max_uses) times.
    MaxUses,
    /// [`Manager::has_broken`] said so.
    Broken,
    /// [`Manager::is_valid`] failed.
    Invalid,
    /// A panic went through its user, and [`Manager::rescue`] did not keep it.
    Poisoned,
}

impl CloseReason {
    const ALL: [CloseReason; 15] = [
        Self::ThreadExit,
        Self::PoolClosed,
        Self::PoolDropped,
        Self::Cleared,
        Self::NotRetained,
        Self::ClosedHere,
        Self::Discarded,
        Self::Evicted,
        Self::MadeRoom,
        Self::IdleTimeout,
        Self::MaxLifetime,
        Self::MaxUses,
        Self::Broken,
        Self::Invalid,
        Self::Poisoned,
    ];

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == code)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ThreadExit => "thread exit",
            Self::PoolClosed => "pool closed",
            Self::PoolDropped => "pool dropped",
            Self::Cleared => "cleared",
            Self::NotRetained => "not retained",
            Self::ClosedHere => "closed here",
            Self::Discarded => "discarded",
            Self::Evicted => "evicted",
            Self::MadeRoom => "made room",
            Self::IdleTimeout => "idle timeout",
            Self::MaxLifetime => "max lifetime",
            Self::MaxUses => "max uses",
            Self::Broken => "broken",
            Self::Invalid => "invalid",
            Self::Poisoned => "poisoned",
        })
    }
}
