//! The index of every live instance of every pool, and what it shows and reports.

pub(crate) mod crew;
pub(crate) mod event;
pub(crate) mod reaper;
pub(crate) mod report;
pub(crate) mod snapshot;

use std::fmt;
use std::io;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use dashmap::DashMap;

use self::reaper::Reaper;
pub use self::report::{CloseReport, FailedClose};
pub use self::snapshot::{InstanceInfo, InstanceState, PoolInfo, Snapshot};
use crate::deadline::Deadline;
use crate::fork::PerProcess;
use crate::id::{InstanceId, PoolId};

/// Lists every live instance of every pool, and closes them all.
///
/// There is one for the process, [`Registry::global`]; a library or a test that wants to see only
/// its own makes one. It is a handle, cheap to clone, and may be used from any thread.
///
/// ```
/// use std::time::Duration;
///
/// use sessile::{Pool, Registry};
///
/// let numbers = Pool::from_fn(|_| 0);
/// numbers.with(|n| *n += 1)?;
/// println!("{}", Registry::global().snapshot()); // who has what, as a table
/// let report = Registry::global().close_all(Duration::from_secs(5));
/// assert!(report.is_clean(), "{report}");
/// # Ok::<(), sessile::PoolError>(())
/// ```
#[derive(Clone)]
pub struct Registry(Arc<PerProcess<Roster>>);

/// The pools that a registry lists.
struct Roster {
    members: DashMap<PoolId, Entry>,
    reaper: Arc<Reaper>,
}

struct Entry {
    member: Weak<dyn Member>,
    /// [`Member::shortest_age`].
    shortest_age: Option<Duration>,
}

/// A pool, whatever its instances are. All of this may run on any thread.
pub(crate) trait Member: Send + Sync + 'static {
    fn id(&self) -> PoolId;
    fn info(&self) -> PoolInfo;
    fn instances(&self) -> Vec<InstanceInfo>;
    fn evict(&self, id: InstanceId) -> bool;
    /// Closes the pool. What is returned waits for the instances, interrupting stragglers at the
    /// first deadline.
    fn begin_close(self: Arc<Self>) -> EndClose;
    /// The shortest age that the reaper has to keep, if any.
    fn shortest_age(&self) -> Option<Duration>;
    /// Closes what is too old or idle for too long. Runs no foreign code: it has others do that.
    fn age(&self);
}

pub(crate) type EndClose = Box<dyn FnOnce(Deadline, Deadline) -> CloseReport>;

impl Registry {
    /// Makes a registry of one's own.
    ///
    /// ```
    /// use sessile::{Pool, Registry, from_fn};
    ///
    /// let own = Registry::new();
    /// let pool = Pool::builder(from_fn(|_| 0)).registry(&own).build()?;
    /// pool.with(|n| *n += 1)?;
    /// assert_eq!(own.snapshot().instances.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(PerProcess::new(|| Roster {
            members: DashMap::with_shard_amount(8),
            reaper: Arc::default(),
        })))
    }

    /// Returns the registry of the process, which lists every pool that was given no other.
    ///
    /// ```
    /// use sessile::{Pool, Registry};
    ///
    /// let pool = Pool::from_fn(|_| 0);
    /// pool.with(|n| *n += 1)?;
    /// assert!(!Registry::global().snapshot().is_empty());
    /// # Ok::<(), sessile::PoolError>(())
    /// ```
    #[must_use]
    pub fn global() -> &'static Self {
        static GLOBAL: LazyLock<Registry> = LazyLock::new(Registry::new);
        &GLOBAL
    }

    fn roster(&self) -> &Roster {
        self.0.get()
    }

    /// Lists a pool, if it is not listed yet. Says whether the ages of its instances, if there are any
    /// to keep, are kept: see [`watch`](Self::watch).
    pub(crate) fn enroll<M: Member>(&self, member: &Arc<M>) -> io::Result<bool> {
        let roster = self.roster();
        let is_new = !roster.members.contains_key(&member.id());
        if is_new {
            let weak: Weak<M> = Arc::downgrade(member);
            let entry = Entry { member: weak, shortest_age: member.shortest_age() };
            roster.members.insert(member.id(), entry);
        }
        if member.shortest_age().is_none() {
            return Ok(true);
        }
        let watched = self.watch();
        if is_new {
            roster.reaper.look_again(); // its nap may be too long for this one
        }
        watched
    }

    /// Sees to it that there is a reaper. `Ok(false)`: there was no thread to be had a moment ago.
    pub(crate) fn watch(&self) -> io::Result<bool> {
        self.roster().reaper.ensure(self)
    }

    /// Lists a pool no more.
    pub(crate) fn dismiss(&self, id: PoolId) {
        let roster = self.roster();
        roster.members.remove(&id);
        roster.reaper.look_again();
    }

    /// A copy of the list, so that no guard of the map is held while one works on it.
    fn members(&self) -> Vec<Arc<dyn Member>> {
        self.roster().members.iter().filter_map(|entry| entry.member.upgrade()).collect()
    }

    /// The shortest age of any pool. Takes no reference to one: the last to be dropped would close
    /// and dismiss it, here.
    fn shortest_age(&self) -> Option<Duration> {
        self.roster().members.iter().filter_map(|entry| entry.shortest_age).min()
    }

    /// Takes down all live instances, as data: it serializes, and displays as a table.
    ///
    /// Each entry is consistent in itself, the whole is not: threads go on meanwhile.
    ///
    /// ```
    /// use sessile::registry::InstanceState;
    /// use sessile::{Pool, Registry, from_fn};
    ///
    /// let registry = Registry::new();
    /// let pool = Pool::builder(from_fn(|_| 0)).name("counters").registry(&registry).build()?;
    /// pool.with(|n| *n += 1)?;
    /// let snapshot = registry.snapshot();
    /// let instance = &snapshot.instances[0];
    /// assert_eq!((&*instance.pool, instance.state), ("counters", InstanceState::Idle));
    /// assert!(snapshot.to_string().contains("counters"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let members = self.members();
        let instances = members.iter().flat_map(|member| member.instances()).collect();
        Snapshot::of(members.iter().map(|member| member.info()).collect(), instances)
    }

    /// Closes every pool, as [`Pool::close`](crate::Pool::close) does, with one deadline for all.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use sessile::{Pool, Registry, from_fn};
    ///
    /// let registry = Registry::new();
    /// let pool = Pool::builder(from_fn(|_| 0)).registry(&registry).build()?;
    /// pool.with(|n| *n += 1)?;
    /// let report = registry.close_all(Duration::from_secs(5));
    /// assert!(report.is_clean() && report.closed == 1, "{report}");
    /// assert!(pool.is_closed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close_all(&self, within: Duration) -> CloseReport {
        let (half, end) = (Deadline::after(within / 2), Deadline::after(within));
        // All are ordered closed before the first is waited for.
        let ends: Vec<_> = self.members().into_iter().map(|member| member.begin_close()).collect();
        let mut report = CloseReport::default();
        for end_close in ends {
            report.absorb(end_close(half, end));
        }
        report
    }

    /// Closes one instance, as [`Pool::close`](crate::Pool::close) does but without waiting. Its
    /// thread makes a new one on its next use. Returns whether there was one that nobody had
    /// ordered closed before.
    ///
    /// ```
    /// use sessile::{Pool, Registry, from_fn};
    ///
    /// let registry = Registry::new();
    /// let pool = Pool::builder(from_fn(|_| 0)).registry(&registry).build()?;
    /// pool.with(|n| *n = 7)?;
    /// let id = registry.snapshot().instances[0].id;
    /// assert!(registry.evict(id));
    /// assert_eq!(pool.with(|n| *n)?, 0); // a new one
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn evict(&self, id: InstanceId) -> bool {
        self.members().into_iter().any(|member| member.evict(id))
    }

    /// Returns a guard for `main`: when it is dropped, it closes every pool, and waits no longer
    /// than `within`.
    ///
    /// When `main` returns, other threads are not unwound and their destructors never run; nor are
    /// they by [`process::exit`](std::process::exit), which runs no destructor of `main` either.
    /// This is how their instances are closed all the same.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// fn main() {
    ///     let _guard = sessile::Registry::global().close_on_drop(Duration::from_secs(5));
    ///     // ... threads, pools ...
    /// }
    /// ```
    pub fn close_on_drop(&self, within: Duration) -> CloseGuard {
        CloseGuard { registry: self.clone(), within }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("pools", &self.roster().members.len()).finish()
    }
}

/// Closes every pool of a registry when it is dropped; [`Registry::close_on_drop`] makes it.
///
/// ```
/// use std::time::Duration;
///
/// use sessile::{Pool, Registry, from_fn};
///
/// let registry = Registry::new();
/// let pool = Pool::builder(from_fn(|_| 0)).registry(&registry).build()?;
/// drop(registry.close_on_drop(Duration::from_secs(5)));
/// assert!(pool.is_closed());
/// # Ok::<(), sessile::pool::BuildError>(())
/// ```
#[must_use = "dropped at once, it closes everything at once"]
#[derive(Debug)]
pub struct CloseGuard {
    registry: Registry,
    within: Duration,
}

impl CloseGuard {
    /// Closes every pool now, and returns what has come of it.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let registry = sessile::Registry::new();
    /// let guard = registry.close_on_drop(Duration::from_secs(5));
    /// let report = guard.close();
    /// assert!(report.is_clean(), "{report}");
    /// ```
    pub fn close(mut self) -> CloseReport {
        let report = self.registry.close_all(self.within);
        // `drop` closes once more, without waiting: nothing is left, or it has had its time.
        self.within = Duration::ZERO;
        report
    }
}

impl Drop for CloseGuard {
    fn drop(&mut self) {
        let _ = self.registry.close_all(self.within);
    }
}
