//! The registry as data.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::crew::WorkersStatus;
use crate::id::{InstanceId, Owner, PoolId};
use crate::words::Span;

/// Holds all live instances, as [`Registry::snapshot`](crate::Registry::snapshot) found them.
///
/// It displays as a table, a line for each instance, and serializes both ways. Each entry is
/// consistent in itself, the whole is not: threads go on while it is taken. An entry is there from
/// before its instance is created until after its close has ended.
///
/// ```
/// use sessile::registry::Snapshot;
/// use sessile::{Pool, Registry};
///
/// let pool = Pool::from_fn(|_| 0);
/// pool.with(|n| *n += 1)?;
/// let snapshot = Registry::global().snapshot();
/// let json = serde_json::to_string(&snapshot)?;
/// let read: Snapshot = serde_json::from_str(&json)?;
/// assert_eq!(read, snapshot);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// When it was taken, in milliseconds since the Unix epoch.
    pub taken_at_unix_ms: u64,
    /// The pools, oldest first.
    pub pools: Vec<PoolInfo>,
    /// The instances of all of them, oldest first.
    pub instances: Vec<InstanceInfo>,
}

/// Describes a pool in a [`Snapshot`].
///
/// ```
/// use sessile::{Pool, Registry, from_fn};
///
/// let registry = Registry::new();
/// let pool = Pool::builder(from_fn(|_| 0_u8)).name("counters").registry(&registry).build()?;
/// let snapshot = registry.snapshot();
/// let info = &snapshot.pools[0];
/// assert_eq!((&*info.name, &*info.type_name, info.id), ("counters", "u8", pool.id()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PoolInfo {
    /// Which pool.
    pub id: PoolId,
    /// Its name; `type_name` if it was given none.
    pub name: String,
    /// The type of its instances, as the compiler calls it.
    pub type_name: String,
    /// How it stands.
    pub status: PoolStatus,
    /// How its workers stand, if it belongs to [`Workers`](crate::Workers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkersStatus>,
}

/// Describes an instance in a [`Snapshot`], and to [`Pool::retain`](crate::Pool::retain).
///
/// ```
/// let pool = sessile::Pool::from_fn(|_| 0);
/// pool.with(|n| *n += 1)?;
/// // All that has been idle for a minute goes.
/// let rejected = pool.retain(|instance| instance.idle_ms < 60_000);
/// assert_eq!(rejected, 0);
/// # Ok::<(), sessile::PoolError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InstanceInfo {
    /// Which instance.
    pub id: InstanceId,
    /// The pool it is of.
    pub pool_id: PoolId,
    /// The name of that pool.
    pub pool: String,
    /// Its type, as the compiler calls it.
    pub type_name: String,
    /// The thread it belongs to.
    pub owner: Owner,
    /// The key it is kept for, if it is one of [`Workers`](crate::Workers)' keyed instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What its manager says of it, by [`Manager::describe`](crate::Manager::describe).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What it is doing.
    pub state: InstanceState,
    /// Milliseconds since its creation began.
    pub age_ms: u64,
    /// Milliseconds for which it is known to have been idle: never more than it has, and less by as
    /// long as nobody was looking. Every snapshot looks; in a pool with an `idle_timeout` the reaper
    /// does, eight times in each timeout.
    pub idle_ms: u64,
    /// How often it has been used.
    pub uses: u64,
    /// How often its pool had been cleared when it was created.
    pub generation: u64,
}

/// Says what an instance is doing.
///
/// ```
/// use sessile::Registry;
/// use sessile::registry::InstanceState;
///
/// let snapshot = Registry::global().snapshot();
/// let busy = snapshot.instances.iter().filter(|one| one.state == InstanceState::Busy).count();
/// assert_eq!(busy, 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum InstanceState {
    /// It is being created.
    Opening,
    /// Nobody uses it.
    Idle,
    /// Its owner is using it.
    Busy,
    /// It was ordered closed, or is being closed.
    Closing,
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Opening => "opening",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Closing => "closing",
        })
    }
}

/// Counts the instances of a pool; [`Pool::status`](crate::Pool::status) returns it.
///
/// Each number is right in itself; together they may be from different moments.
///
/// ```
/// let pool = sessile::Pool::from_fn(|_| 0);
/// let busy = pool.with(|_| pool.status().busy)?;
/// assert_eq!((busy, pool.status().busy, pool.status().idle), (1, 0, 1));
/// # Ok::<(), sessile::PoolError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Instances there are, in whatever state.
    pub size: usize,
    /// Of these, how many are being created.
    pub opening: usize,
    /// Of these, how many are idle.
    pub idle: usize,
    /// Of these, how many are in use.
    pub busy: usize,
    /// Of these, how many are ordered closed or being closed.
    pub closing: usize,
    /// How many there may be at most; `None` if there may be any number.
    pub max_size: Option<usize>,
    /// Threads that wait for room.
    pub waiting: usize,
    /// Instances created, ever.
    pub created: u64,
    /// Creations that failed, ever.
    pub create_failed: u64,
    /// Instances closed, ever, those whose close failed included.
    pub closed: u64,
    /// Of these, how many closes failed.
    pub close_failed: u64,
    /// Panics that went through a user, ever.
    pub poisoned: u64,
    /// How often the pool has been cleared.
    pub generation: u64,
    /// Whether the pool is closed.
    pub is_closed: bool,
}

impl Snapshot {
    pub(crate) fn of(mut pools: Vec<PoolInfo>, mut instances: Vec<InstanceInfo>) -> Self {
        pools.sort_unstable_by_key(|pool| pool.id);
        instances.sort_unstable_by_key(|instance| instance.id);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { taken_at_unix_ms: millis(now), pools, instances }
    }

    /// Returns whether there is no live instance.
    ///
    /// ```
    /// assert!(sessile::Registry::new().snapshot().is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A key as the table has it: on one line.
fn shown(key: &Option<String>) -> String {
    key.as_deref().unwrap_or("-").escape_debug().to_string()
}

/// A table, a line for each instance.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("no live instances");
        }
        let longest = |title: &str, text: &dyn Fn(&InstanceInfo) -> String| {
            let lengths = self.instances.iter().map(|instance| text(instance).chars().count());
            lengths.fold(title.len(), usize::max)
        };
        let pool = longest("POOL", &|instance| instance.pool.clone());
        let owner = longest("OWNER", &|instance| instance.owner.to_string());
        let key = longest("KEY", &|instance| shown(&instance.key));
        write!(
            f,
            "{:>5}  {:<pool$}  {:<owner$}  {:<key$}  {:<7}  {:>9}  {:>9}  {:>8}  {:>3}",
            "ID", "POOL", "OWNER", "KEY", "STATE", "AGE", "IDLE", "USES", "GEN"
        )?;
        for instance in &self.instances {
            write!(
                f,
                "\n{:>5}  {:<pool$}  {:<owner$}  {:<key$}  {:<7}  {:>9}  {:>9}  {:>8}  {:>3}",
                instance.id.get(),
                instance.pool,
                instance.owner,
                shown(&instance.key),
                instance.state,
                lasting(instance.age_ms),
                lasting(instance.idle_ms),
                instance.uses,
                instance.generation,
            )?;
        }
        Ok(())
    }
}

/// For how long; nothing where nothing is known.
fn lasting(ms: u64) -> String {
    if ms == 0 { "-".to_owned() } else { Span(Duration::from_millis(ms)).to_string() }
}
