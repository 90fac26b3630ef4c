//! Workers, as the registry and a pool see them.

use serde::{Deserialize, Serialize};

use crate::deadline::Deadline;

/// Threads that work with the instances of a pool. All of this may run on any thread.
pub(crate) trait Crew: Send + Sync + 'static {
    /// They take no more work from here on, and do what is queued.
    fn close(&self);

    /// [`close`](Self::close); and what is queued is handed back, if they were set up so.
    fn close_as_chosen(&self);

    /// What is queued will not be done: its handles are told.
    fn hand_back(&self);

    /// Waits until they have done, or handed back, what is queued, and have ended; not for longer than
    /// `end`. At `half`, those that are busy are interrupted. On one of their threads it does not wait,
    /// and says `false`.
    fn wait_closed(&self, half: Deadline, end: Deadline) -> bool;

    /// Whether this thread is one of them.
    fn is_here(&self) -> bool;

    fn status(&self) -> WorkersStatus;
}

/// How [`Workers`](crate::Workers) stand. Each number is right in itself; together they may be from
/// different moments.
///
/// ```
/// # use sessile::{Pool, Workers, from_fn};
/// let workers = Workers::builder(Pool::builder(from_fn(|_| 0))).threads(2).build()?;
/// let status = workers.status();
/// assert_eq!((status.threads, status.queued, status.running), (2, 0, 0));
/// println!("{}", serde_json::to_string(&status)?);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkersStatus {
    /// Threads there are.
    pub threads: usize,
    /// Threads there may be at most.
    pub max_threads: usize,
    /// Works that wait to be done, all queues together.
    pub queued: usize,
    /// Works that are being done.
    pub running: usize,
    /// Threads and tasks that wait for room in a queue.
    pub waiting: usize,
    /// Whether no more work is taken.
    pub is_closed: bool,
    /// Each worker, by its number; those whose thread is not started are left out.
    pub workers: Vec<WorkerStatus>,
    /// Each key that has work, queued or running.
    pub keys: Vec<KeyStatus>,
}

/// How one worker stands, in [`WorkersStatus`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its number.
    pub number: usize,
    /// Works that only it can do, and that wait: given to it by number, or for keys that it has.
    pub queued: usize,
    /// For how many milliseconds it has been doing the work at hand; `None` if there is none.
    pub running_ms: Option<u64>,
    /// The key that work is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Keys that belong to it.
    pub keys: usize,
}

/// How one key stands, in [`WorkersStatus`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KeyStatus {
    /// The key.
    pub key: String,
    /// The number of its worker.
    pub worker: usize,
    /// Works that wait for it.
    pub queued: usize,
    /// Whether one of its works is being done.
    pub is_running: bool,
}
