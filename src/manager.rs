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
///
/// ```
/// use std::time::Duration;
///
/// use sessile::manager::CloseReason;
/// use sessile::{CreateContext, Manager, Pool};
///
/// /// Makes journals, and sees that none is closed with something unsaid in it.
/// struct Journals;
///
/// impl Manager for Journals {
///     type Instance = Vec<String>;
///
///     fn create(&self, cx: &CreateContext) -> anyhow::Result<Vec<String>> {
///         Ok(vec![format!("{} begins", cx.name())])
///     }
///
///     fn has_broken(&self, journal: &mut Vec<String>) -> bool {
///         journal.is_empty()
///     }
///
///     fn close(&self, journal: Vec<String>, reason: CloseReason) -> anyhow::Result<()> {
///         anyhow::ensure!(journal.len() > 1, "nothing was written before: {reason}");
///         Ok(())
///     }
/// }
///
/// let journals = Pool::new(Journals);
/// journals.with(|journal| journal.push("hello".to_owned()))?;
/// let report = journals.close(Duration::from_secs(5));
/// assert!(report.is_clean(), "{report}");
/// # Ok::<(), sessile::PoolError>(())
/// ```
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

/// Tells a [`Manager`] about the instance that it makes.
///
/// ```
/// let names = sessile::Pool::from_fn(|cx| format!("{} of {}", cx.name(), cx.owner()));
/// println!("{}", names.with(|name| name.clone())?);
/// # Ok::<(), sessile::PoolError>(())
/// ```
#[derive(Debug)]
pub struct CreateContext {
    pub(crate) id: InstanceId,
    pub(crate) name: String,
    pub(crate) owner: Owner,
    pub(crate) key: Option<String>,
    pub(crate) generation: u64,
}

impl CreateContext {
    /// Returns the id that the instance will have, never used before or again in this process.
    ///
    /// ```
    /// let pool = sessile::Pool::from_fn(|cx| cx.id());
    /// let first = pool.with(|id| *id)?;
    /// pool.clear();
    /// assert_ne!(pool.with(|id| *id)?, first);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    #[must_use]
    pub fn id(&self) -> InstanceId {
        self.id
    }

    /// Returns a name to tell the instance by: the pool's, a hyphen, the id.
    ///
    /// ```
    /// let pool = sessile::Pool::from_fn(|cx| cx.name().to_owned());
    /// assert!(pool.with(|name| name.contains('-'))?);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the thread that the instance will belong to: the one that is calling.
    ///
    /// ```
    /// let pool = sessile::Pool::from_fn(|cx| cx.owner().number);
    /// let mine = pool.with(|number| *number)?;
    /// let other = std::thread::spawn(move || pool.with(|number| *number)).join().unwrap()?;
    /// assert_ne!(mine, other);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Returns the key that the instance is for, if it is a keyed one of
    /// [`Workers`](crate::Workers).
    ///
    /// ```
    /// let pool = sessile::Pool::from_fn(|cx| cx.key().map(str::to_owned));
    /// assert_eq!(pool.with(|key| key.clone())?, None); // a thread's own
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Returns how often the pool had been [cleared](crate::Pool::clear) when this creation began.
    ///
    /// ```
    /// let pool = sessile::Pool::from_fn(|cx| cx.generation());
    /// pool.with(|_| ())?;
    /// pool.clear();
    /// assert_eq!(pool.with(|generation| *generation)?, 1);
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// Says why an instance is closed.
///
/// ```
/// use std::sync::mpsc;
///
/// use sessile::manager::CloseReason;
/// use sessile::{Pool, from_fn};
///
/// let (sender, reasons) = mpsc::channel();
/// let pool = Pool::new(from_fn(|_| 0).close_with(move |_, reason| Ok(sender.send(reason)?)));
/// pool.with(|_| ())?;
/// pool.close_here()?;
/// assert_eq!(reasons.recv(), Ok(CloseReason::ClosedHere));
/// # Ok::<(), sessile::PoolError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[repr(u8)]
pub enum CloseReason {
    /// Its thread ended: by itself, or because its [`Workers`](crate::Workers) shut down.
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
    /// [`Pool::close_here`](crate::Pool::close_here), or [`Keyed::close`](crate::workers::Keyed::close): it
    /// was named, and its own thread closes it.
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
