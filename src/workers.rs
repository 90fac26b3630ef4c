//! Threads of our own, each with an instance, and work that finds its way to them.
//!
//! [`Workers`] has a [`Pool`] underneath: instances are made on their worker, on first use, and are in
//! the registry like any other. Work goes to whichever worker is free, to one that is named, to all,
//! or to the one that a *key* belongs to. Each key has an instance of its own there, so that a
//! conversation, a tenant, a document can have a session of its own without a thread of its own.
//!
//! ```
//! use sessile::{Pool, Workers, from_fn};
//!
//! let sessions = Pool::builder(from_fn(|_| Vec::<String>::new()));
//! let workers = Workers::builder(sessions).threads(2).build()?;
//!
//! // Each conversation has its own, and its calls are run in order, on one thread.
//! let alice = workers.keyed("alice".to_owned());
//! drop(alice.submit(|log| log.push("hello".to_owned()))?);
//! let said = alice.submit(|log| log.len())?.join()?;
//! assert_eq!(said, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # When work never runs
//!
//! A queue that is full or closed hands the work back at once. Work that was queued and will never run
//! resolves its handle as cancelled, and may be had back from it. If the instance cannot be made, the
//! handle says why, and has the work.

mod queues;
mod worker;

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use dashmap::DashMap;
use serde::{Deserialize, Serialize};

use self::queues::{Destination, Job, Queues};
use self::worker::Desk;
use crate::contain::drop_each;
use crate::deadline::Deadline;
use crate::event_loop::PostError;
use crate::id::InstanceId;
use crate::pool::{BuildError, Pool, PoolBuilder};
use crate::registry::report::CloseReport;
use crate::task::{JoinHandle, task};

/// What a worker was given to do with its instance.
pub type Work<T, R> = Box<dyn FnOnce(&mut T) -> R + Send>;

/// The handle to work that was given to a worker. Unrun, the work comes back.
pub type Submission<T, R> = JoinHandle<R, Work<T, R>>;

/// What comes of giving work to a worker: it is taken, or comes back at once.
pub type Submitted<T, R> = Result<Submission<T, R>, PostError<Work<T, R>>>;

/// Owned, named threads, each with an instance of `T`, and with instances by key `K`.
///
/// It may be used from any thread; `T` need not be `Send`. Dropped, it
/// [shuts down](Self::shutdown) within [`drop_timeout`](WorkersBuilder::drop_timeout).
pub struct Workers<T: 'static, K = String> {
    team: Arc<Team<T, K>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    drop_timeout: Duration,
    /// Somebody has waited for the workers to end, for as long as they were to be given.
    waited: AtomicBool,
}

/// What the workers and their handle share.
struct Team<T: 'static, K> {
    pool: Pool<T>,
    queues: Queues<T, K>,
    hasher: RandomState,
    /// Which keys have an instance, or had one a moment ago.
    keys: DashMap<K, InstanceId>,
    keyed_capacity: usize,
}

/// Sets up [`Workers`].
#[must_use = "a builder does nothing until `build` is called"]
#[derive(Debug)]
pub struct WorkersBuilder<T: 'static> {
    pool: PoolBuilder<T>,
    name: String,
    threads: usize,
    queue_capacity: usize,
    keyed_capacity: usize,
    drop_timeout: Duration,
    #[cfg(feature = "core_affinity")]
    core_affinity: bool,
}

impl<T> WorkersBuilder<T> {
    /// What the threads are called, with a hyphen and their number behind it.
    ///
    /// Default: `worker`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many threads there are. Zero counts as one.
    ///
    /// Default: one for each processor.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// How much work may wait at most: for whichever worker is free, and for each worker of its own.
    ///
    /// Default: 1024. Zero counts as one.
    pub fn queue_capacity(mut self, works: usize) -> Self {
        self.queue_capacity = works.max(1);
        self
    }

    /// How many keyed instances each worker keeps at most. To make another, it closes the one that
    /// was used least recently.
    ///
    /// Default: 65,536. Zero counts as one.
    pub fn keyed_capacity(mut self, instances: usize) -> Self {
        self.keyed_capacity = instances.max(1);
        self
    }

    /// How long dropping [`Workers`] waits for work to be done and instances to be closed.
    ///
    /// Default: 5 s.
    pub fn drop_timeout(mut self, wait: Duration) -> Self {
        self.drop_timeout = wait;
        self
    }

    /// Whether each worker stays on a processor of its own, as far as there are any.
    ///
    /// Default: no.
    #[cfg(feature = "core_affinity")]
    pub fn core_affinity(mut self, pinned: bool) -> Self {
        self.core_affinity = pinned;
        self
    }

    /// Starts the threads, with keys that are `String`s. No instance is made yet.
    ///
    /// # Errors
    ///
    /// If an option of the pool makes no sense, or the system has no thread to give; those started
    /// already end then.
    pub fn build(self) -> Result<Workers<T>, BuildError> {
        self.build_keyed()
    }

    /// Starts the threads, with keys of type `K`. No instance is made yet.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// # let sessions = Pool::builder(from_fn(|_| Vec::<String>::new()));
    /// let workers = Workers::builder(sessions).threads(2).build_keyed::<u64>()?;
    /// workers.keyed(7).submit(|log| log.push("hello".to_owned()))?.join()?;
    /// assert_eq!(workers.keys(), [7]);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn build_keyed<K>(self) -> Result<Workers<T, K>, BuildError>
    where
        K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
    {
        #[cfg(feature = "core_affinity")]
        let mut cores = match self.core_affinity {
            true => core_affinity::get_core_ids().unwrap_or_default().into_iter(),
            false => Vec::new().into_iter(),
        };
        let team = Arc::new(Team {
            pool: self.pool.build()?,
            queues: Queues::new(self.threads, self.queue_capacity),
            hasher: RandomState::new(),
            keys: DashMap::new(),
            keyed_capacity: self.keyed_capacity,
        });
        let workers = Workers {
            team,
            threads: Mutex::new(Vec::with_capacity(self.threads)),
            drop_timeout: self.drop_timeout,
            waited: AtomicBool::new(false),
        };
        for number in 0..self.threads {
            let team = Arc::clone(&workers.team);
            #[cfg(feature = "core_affinity")]
            let core = cores.next();
            workers.team.queues.begin(number);
            let spawned = thread::Builder::new()
                .name(format!("{}-{number}", self.name))
                .spawn(move || {
                    #[cfg(feature = "core_affinity")]
                    if let Some(core) = core {
                        core_affinity::set_for_current(core);
                    }
                    Desk::new(team, number).work();
                })
                .map_err(|error| {
                    workers.team.queues.end(number);
                    BuildError::thread(error)
                })?;
            workers.team.queues.hired(number, spawned.thread().id());
            workers.hired().push(spawned);
        }
        Ok(workers)
    }
}

impl<T> Workers<T> {
    /// Sets up workers over a pool: [`Pool::builder`], or [`Pool::builder_local`] for instances that
    /// are not `Send`.
    pub fn builder(pool: PoolBuilder<T>) -> WorkersBuilder<T> {
        WorkersBuilder {
            pool,
            name: "worker".to_owned(),
            threads: thread::available_parallelism().map_or(1, usize::from),
            queue_capacity: 1024,
            keyed_capacity: 1 << 16,
            drop_timeout: Duration::from_secs(5),
            #[cfg(feature = "core_affinity")]
            core_affinity: false,
        }
    }
}

impl<T, K> Workers<T, K>
where
    K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
{
    fn hired(&self) -> std::sync::MutexGuard<'_, Vec<thread::JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how many threads there are.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.team.queues.workers()
    }

    /// The pool underneath: for its status, its limits, and to order instances closed.
    #[must_use]
    pub fn pool(&self) -> &Pool<T> {
        &self.team.pool
    }

    // ---- work ---------------------------------------------------------------------------------

    /// Gives work to whichever worker is free, and waits for room in the queue as long as it takes.
    ///
    /// # Errors
    ///
    /// If the workers have shut down, or the caller is itself a worker and the queue is full, for it
    /// might wait for itself. The work comes back.
    pub fn submit<R, F>(&self, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        self.send(Destination::Anybody, Deadline::NEVER, Box::new(work))
    }

    /// [`submit`](Self::submit), waiting for room no longer than this.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit), and if no room came free in time. The work comes back.
    pub fn submit_timeout<R, F>(&self, wait: Duration, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        self.send(Destination::Anybody, Deadline::after(wait), Box::new(work))
    }

    /// [`submit`](Self::submit), without waiting for room.
    ///
    /// # Errors
    ///
    /// If the queue is full, or the workers have shut down. The work comes back.
    pub fn try_submit<R, F>(&self, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        self.submit_timeout(Duration::ZERO, work)
    }

    /// Gives work to the worker of this number, counted from zero; what it is given so runs in order.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    ///
    /// # Panics
    ///
    /// If there is no such worker.
    pub fn submit_to<R, F>(&self, worker: usize, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        assert!(
            worker < self.threads(),
            "there are {} workers, and no number {worker}",
            self.threads()
        );
        self.send(Destination::Worker(worker), Deadline::NEVER, Box::new(work))
    }

    /// Gives the same work to every worker, and says for each, in their order, what has come of it.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// # let pool = Pool::builder(from_fn(|_| 1_u32));
    /// let workers = Workers::builder(pool).threads(2).build()?;
    /// let mut sum = 0;
    /// for submitted in workers.broadcast(|n| *n) {
    ///     sum += submitted?.join()?;
    /// }
    /// assert_eq!(sum, 2);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Each as [`submit`](Self::submit).
    pub fn broadcast<R, F>(&self, work: F) -> Vec<Submitted<T, R>>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Clone + Send + 'static,
    {
        (0..self.threads()).map(|worker| self.submit_to(worker, work.clone())).collect()
    }

    fn send<R>(&self, to: Destination, deadline: Deadline, body: Work<T, R>) -> Submitted<T, R>
    where
        R: Send + 'static,
    {
        let (runner, handle) = task(body, self.team.queues.runs_on(to));
        let work: Job<T, K> = Box::new(move |desk| desk.run(runner));
        self.post(to, deadline, work, handle)
    }

    fn post<R, B>(
        &self,
        to: Destination,
        deadline: Deadline,
        work: Job<T, K>,
        handle: JoinHandle<R, B>,
    ) -> Result<JoinHandle<R, B>, PostError<B>> {
        let Err((work, refusal)) = self.team.queues.push(to, deadline, work) else {
            return Ok(handle);
        };
        let body = handle.cancel().expect("not posted, so it cannot have begun");
        drop(work);
        Err(PostError::new(refusal, body))
    }

    // ---- keys ---------------------------------------------------------------------------------

    /// What belongs to this key: an instance of its own, always on the same worker.
    ///
    /// Nothing is made yet.
    pub fn keyed(&self, key: K) -> Keyed<'_, T, K> {
        let worker = self.team.hasher.hash_one(&key) as usize % self.threads();
        Keyed { workers: self, key, worker }
    }

    /// The keys that have an instance, in no order.
    #[must_use]
    pub fn keys(&self) -> Vec<K> {
        let live = self.team.keys.iter().filter(|entry| self.team.is_live(*entry.value()));
        live.map(|entry| entry.key().clone()).collect()
    }

    // ---- the end ------------------------------------------------------------------------------

    /// Takes no more work, does what is queued, closes all instances, and ends the threads; all that
    /// within this time.
    ///
    /// Half-way to the deadline, instances that are in use are asked to stop by the handle that
    /// [`Manager::interrupt`](crate::Manager::interrupt) gave. What has not begun at the deadline is
    /// handed back, as in [`abort`](Self::abort); a worker that is still busy then ends on its own.
    ///
    /// On a worker's own thread it does not wait, nor hand anything back, nor ask: the workers do what
    /// is queued, and end then.
    pub fn shutdown(&self, within: Duration) -> ShutdownReport {
        self.team.queues.close();
        self.end(Deadline::after(within / 2), Deadline::after(within))
    }

    /// Takes no more work and hands back what is queued: its handles resolve as cancelled, with the
    /// work. Asks instances in use to stop, closes all instances, and ends the threads, within this
    /// time.
    pub fn abort(&self, within: Duration) -> ShutdownReport {
        let now = Deadline::after(Duration::ZERO);
        self.team.queues.close();
        drop_each(self.team.queues.take_all());
        self.end(now, Deadline::after(within))
    }

    fn end(&self, half: Deadline, end: Deadline) -> ShutdownReport {
        let report = self.team.end(&self.threads, half, end);
        self.waited.fetch_or(!self.team.queues.is_worker(), Ordering::Relaxed);
        report
    }
}

impl<T, K> Team<T, K> {
    fn is_live(&self, id: InstanceId) -> bool {
        self.pool.inner().is_live(id)
    }

    fn end(
        &self,
        threads: &Mutex<Vec<thread::JoinHandle<()>>>,
        half: Deadline,
        end: Deadline,
    ) -> ShutdownReport {
        let mut report = ShutdownReport::default();
        // A worker that waited here would wait for itself.
        if !self.queues.is_worker() {
            if !self.queues.wait_ended(half) {
                self.pool.inner().interrupt_busy();
                self.queues.wait_ended(end);
            }
            drop_each(self.queues.take_all());
            report.instances = self.pool.close(Duration::ZERO);
        }
        // Only now, so that of several who wait for the end each finds the stragglers.
        let mut hired = threads.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, stragglers): (Vec<_>, Vec<_>) = std::mem::take(&mut *hired)
            .into_iter()
            .partition(|thread| self.queues.has_ended(thread.thread().id()));
        let name = |thread: &thread::JoinHandle<()>| thread.thread().name().map(str::to_owned);
        report.stragglers = stragglers.iter().filter_map(name).collect();
        *hired = stragglers;
        drop(hired);
        for thread in ended {
            let _ = thread.join(); // it is in its last breath
        }
        report
    }
}

impl<T, K> Drop for Workers<T, K> {
    fn drop(&mut self) {
        self.team.queues.close();
        let wait = if *self.waited.get_mut() { Duration::ZERO } else { self.drop_timeout };
        let _ = self.team.end(&self.threads, Deadline::after(wait / 2), Deadline::after(wait));
    }
}

impl<T, K> fmt::Debug for Workers<T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("pool", &self.team.pool)
            .field("workers", &self.team.queues.workers())
            .finish_non_exhaustive()
    }
}

/// What has become of the workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[must_use = "a worker may still be running"]
#[non_exhaustive]
pub struct ShutdownReport {
    /// What has become of the instances that the workers had not closed themselves.
    pub instances: CloseReport,
    /// The names of the workers that had not ended by the deadline. Each ends when its work does.
    pub stragglers: Vec<String>,
}

impl ShutdownReport {
    /// Whether all workers have ended, and every instance is closed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.stragglers.is_empty() && self.instances.is_clean()
    }
}

/// One key of [`Workers`]; see [`Workers::keyed`].
#[derive(Debug)]
pub struct Keyed<'w, T: 'static, K> {
    workers: &'w Workers<T, K>,
    key: K,
    worker: usize,
}

impl<T, K> Keyed<'_, T, K>
where
    K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
{
    /// The key.
    #[must_use]
    pub fn key(&self) -> &K {
        &self.key
    }

    /// The number of the worker that it belongs to.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// Gives work to the key's worker, to be done with the key's instance, made now if there is none.
    /// Work for one key is done in order. Waits for room in the queue as long as it takes.
    ///
    /// # Errors
    ///
    /// As [`Workers::submit`].
    pub fn submit<R, F>(&self, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        self.send(Deadline::NEVER, Box::new(work))
    }

    /// [`submit`](Self::submit), waiting for room no longer than this.
    ///
    /// # Errors
    ///
    /// As [`Workers::submit_timeout`].
    pub fn submit_timeout<R, F>(&self, wait: Duration, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        self.send(Deadline::after(wait), Box::new(work))
    }

    /// [`submit`](Self::submit), without waiting for room; for callers that must not block, such as
    /// those on an async runtime.
    ///
    /// # Errors
    ///
    /// As [`Workers::try_submit`].
    pub fn try_submit<R, F>(&self, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        self.submit_timeout(Duration::ZERO, work)
    }

    fn send<R: Send + 'static>(&self, deadline: Deadline, body: Work<T, R>) -> Submitted<T, R> {
        let to = Destination::Worker(self.worker);
        let (runner, handle) = task(body, self.workers.team.queues.runs_on(to));
        let key = self.key.clone();
        let work: Job<T, K> = Box::new(move |desk| desk.run_keyed(key, runner));
        self.workers.post(to, deadline, work, handle)
    }

    /// Whether the key has an instance now.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let id = self.workers.team.keys.get(&self.key).map(|entry| *entry.value());
        id.is_some_and(|id| self.workers.team.is_live(id))
    }

    /// Closes the key's instance, on its worker, after the work that is queued for it. The handle says
    /// whether there was one.
    ///
    /// # Errors
    ///
    /// As [`Workers::submit`].
    pub fn close(&self) -> Result<JoinHandle<bool, ()>, PostError<()>> {
        let to = Destination::Worker(self.worker);
        let (runner, handle) = task((), self.workers.team.queues.runs_on(to));
        let key = self.key.clone();
        let work: Job<T, K> = Box::new(move |desk| {
            runner.run(|()| desk.close_keyed(&key));
        });
        self.workers.post(to, Deadline::NEVER, work, handle)
    }
}
