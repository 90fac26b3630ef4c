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

mod builder;
mod job;
mod key;
mod keyed;
mod load;
#[cfg(all(test, sessile_loom))]
mod models;
mod queues;
mod room;
mod team;
mod worker;

use std::fmt;
use std::hash::Hash;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::builder::{OnClose, ThreadRange, WorkersBuilder};
use self::job::Job;
pub use self::keyed::Keyed;
use self::queues::Pushed;
use self::room::{NoRoom, Room};
use self::team::{Team, Turn};
use crate::deadline::Deadline;
use crate::event_loop::{PostError, Refusal, Whose};
use crate::pool::{Pool, PoolBuilder};
use crate::registry::crew::Crew;
pub use crate::registry::crew::{KeyStatus, WorkerStatus, WorkersStatus};
use crate::registry::report::CloseReport;
use crate::task::{JoinHandle, RunsOn, Seat};

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
///
/// When its pool is ordered closed, by [`Pool::close`], by
/// [`Registry::close_all`](crate::Registry::close_all) or by a signal, it takes no more work, and does
/// or hands back what is queued, as [chosen](WorkersBuilder::on_close).
///
/// ```
/// use sessile::{Pool, Workers, from_fn};
///
/// let workers = Workers::builder(Pool::builder(from_fn(|_| 0_u32))).threads(2).build()?;
/// let handle = workers.submit(|count| {
///     *count += 1;
///     *count
/// })?;
/// assert_eq!(handle.join()?, 1);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
///
/// # Fork
///
/// In a forked child there are no workers. What the child inherits takes no work there, and waits for
/// nothing.
pub struct Workers<T: 'static, K = String> {
    team: Arc<Team<T, K>>,
    /// The team once more, whatever its keys are.
    crew: Arc<dyn Crew>,
    drop_timeout: Duration,
    /// Somebody has waited for the workers to end, for as long as they were to be given.
    waited: AtomicBool,
}

impl<T> Workers<T> {
    /// Sets up workers over a pool: [`Pool::builder`], or [`Pool::builder_local`] for instances that
    /// are not `Send`.
    ///
    /// ```
    /// use sessile::{Pool, Workers, from_fn};
    ///
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 0))).name("mule").build()?;
    /// # Ok::<(), sessile::pool::BuildError>(())
    /// ```
    pub fn builder(pool: PoolBuilder<T>) -> WorkersBuilder<T> {
        WorkersBuilder::new(pool)
    }
}

/// Who is to do it.
#[derive(Clone, Copy)]
enum To {
    Anybody,
    Worker(usize),
}

impl<T, K> Workers<T, K>
where
    K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
{
    fn of(team: Arc<Team<T, K>>, drop_timeout: Duration) -> Self {
        let crew = Arc::clone(&team) as Arc<dyn Crew>;
        Self { team, crew, drop_timeout, waited: AtomicBool::new(false) }
    }

    /// Says how many threads there may be: as many as were asked for, or the most of a range. Workers
    /// are numbered from zero up to that.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// assert_eq!(workers.threads(), 2);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn threads(&self) -> usize {
        self.team.queues.seats()
    }

    /// Lends the pool underneath: for its status, its limits, and to order instances closed.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// workers.submit(|n| *n)?.join()?;
    /// assert_eq!(workers.pool().status().created, 1);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn pool(&self) -> &Pool<T> {
        &self.team.pool
    }

    /// Tells what is queued, what runs and since when, for each worker, for each key and in all.
    ///
    /// The snapshot of the pool's registry has it too. It goes through all keys.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 0))).threads(2).build()?;
    /// assert_eq!(workers.status().running, 0);
    /// # Ok::<(), sessile::pool::BuildError>(())
    /// ```
    #[must_use]
    pub fn status(&self) -> WorkersStatus {
        self.crew.status()
    }

    // ---- work ---------------------------------------------------------------------------------

    /// Gives work to whichever worker is free, and waits for room in the queue as long as it takes.
    /// Those who wait are served in the order of asking, threads and tasks alike.
    ///
    /// Dropping the handle does not cancel the work; see [`JoinHandle::cancel_on_drop`].
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// assert_eq!(workers.submit(|n| *n + 1)?.join()?, 21);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
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
        self.send(To::Anybody, Deadline::NEVER, work)
    }

    /// [`submit`](Self::submit), waiting for room no longer than this.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// use std::time::Duration;
    ///
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let handle = workers.submit_timeout(Duration::from_secs(1), |n| *n + 1)?;
    /// assert_eq!(handle.join()?, 21);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit), and if no room came free in time. The work comes back.
    pub fn submit_timeout<R, F>(&self, wait: Duration, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        self.send(To::Anybody, Deadline::after(wait), work)
    }

    /// [`submit`](Self::submit), without waiting for room.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// match workers.try_submit(|n| *n + 1) {
    ///     Ok(handle) => assert_eq!(handle.join()?, 21),
    ///     Err(full) => drop(full.into_inner()), // the work: do it later, or elsewhere
    /// }
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
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

    /// [`submit`](Self::submit) for those who await: waits for room without blocking the thread.
    ///
    /// The future is `Send`, whatever `T` is. Dropped before it is ready, it leaves the line, and the
    /// work is dropped with it, unrun.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// # async fn serve(workers: &Workers<u32>) -> anyhow::Result<u32> {
    /// let answer = workers.submit_async(|n| *n + 1).await?.await?;
    /// # Ok(answer)
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    pub async fn submit_async<R, F>(&self, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        let room = self.room(To::Anybody);
        if !self.team.is_closed() && !room.claim() {
            let outcome =
                if self.team.is_worker() { Err(NoRoom::Late) } else { room.enter().await };
            if let Err(no_room) = outcome {
                return Err(self.refused(To::Anybody, no_room, work));
            }
        } else if self.team.is_closed() {
            return Err(PostError::new(Refusal::Closed, Box::new(work)));
        }
        self.push(To::Anybody, work)
    }

    /// Gives work to the worker of this number, counted from zero; what it is given so runs in order.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// workers.submit_to(0, |n| *n = 7)?.join()?;
    /// assert_eq!(workers.submit_to(0, |n| *n)?.join()?, 7);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
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
        let workers = self.threads();
        assert!(worker < workers, "there are {workers} workers, and no number {worker}");
        self.send(To::Worker(worker), Deadline::NEVER, work)
    }

    /// Gives the same work to every worker whose thread is started, and says for each, in their order,
    /// what has come of it.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// # let pool = Pool::builder(from_fn(|_| 1));
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
        let is_there = |worker: &usize| self.team.is_closed() || self.team.queues.is_taken(*worker);
        let workers = (0..self.threads()).filter(is_there);
        workers.map(|worker| self.submit_to(worker, work.clone())).collect()
    }

    fn room(&self, to: To) -> &Room {
        match to {
            To::Anybody => &self.team.room,
            To::Worker(worker) => &self.team.own_rooms[worker],
        }
    }

    fn send<R, F>(&self, to: To, deadline: Deadline, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        if self.team.is_closed() {
            return Err(PostError::new(Refusal::Closed, Box::new(work)));
        }
        let room = self.room(to);
        if !room.claim() {
            let outcome =
                if self.team.is_worker() { Err(NoRoom::Late) } else { room.enter_until(deadline) };
            if let Err(no_room) = outcome {
                return Err(self.refused(to, no_room, work));
            }
        }
        self.push(to, work)
    }

    #[cold]
    fn refused<R, F>(&self, to: To, no_room: NoRoom, work: F) -> PostError<Work<T, R>>
    where
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        let whose = || match to {
            To::Anybody => Whose::Everybody,
            To::Worker(worker) => Whose::Worker(worker),
        };
        PostError::new(self.team.refusal(no_room, whose), Box::new(work))
    }

    /// Puts work into a queue in which it has a place.
    fn push<R, F>(&self, to: To, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        let team = &self.team;
        let only = match to {
            To::Anybody if self.threads() == 1 => Some(0),
            To::Anybody => None,
            To::Worker(worker) => Some(worker),
        };
        let runs_on =
            only.map_or(RunsOn::Anybody, |number| RunsOn::Seat(Seat { team: team.number, number }));
        let (job, handle) = Job::new(work, runs_on);
        let pushed = match to {
            To::Anybody => team.queues.push(Turn::Work(job, false)),
            To::Worker(worker) => {
                team.loads[worker].queued.fetch_add(1, Ordering::Relaxed);
                team.queues.push_to(worker, Turn::Work(job, true))
            }
        };
        match pushed {
            Pushed::Done => Ok(handle),
            Pushed::Start(number) if team.start(number).is_err() && handle.is_finished() => {
                match handle.join() {
                    Err(error) if error.is_cancelled() => {
                        let work = error.into_body().expect("nobody else has the handle");
                        Err(PostError::new(Refusal::NoThread, work))
                    }
                    _ => unreachable!("nobody was there to run it"),
                }
            }
            Pushed::Start(_) => Ok(handle),
            late => {
                team.see_to(late);
                Ok(handle)
            }
        }
    }

    // ---- keys ---------------------------------------------------------------------------------

    /// Hands out what belongs to this key: an instance of its own, always on the same worker.
    ///
    /// Nothing is made yet, and no worker chosen.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 0))).threads(2).build()?;
    /// let alice = workers.keyed("alice".to_owned());
    /// alice.submit(|visits| *visits += 1)?.join()?;
    /// assert_eq!(alice.submit(|visits| *visits)?.join()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn keyed(&self, key: K) -> Keyed<T, K> {
        Keyed::new(Arc::clone(&self.team), key)
    }

    /// Lists the keys that have an instance, in no order.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// workers.keyed("ann".to_owned()).submit(|n| *n)?.join()?;
    /// assert_eq!(workers.keys(), ["ann"]);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn keys(&self) -> Vec<K> {
        if self.team.is_inherited() {
            return Vec::new();
        }
        let is_live = |id| self.team.pool.inner().is_live(id);
        let keys = self.team.all_keys().into_iter();
        let live = keys.filter(|key| key.state().id.is_some_and(is_live));
        live.map(|key| key.key.clone()).collect()
    }

    // ---- the end ------------------------------------------------------------------------------

    /// Takes no more work, does what is queued, closes all instances, and ends the threads; all that
    /// within this time. It waits for an instance that another thread is closing, too.
    ///
    /// Half-way to the deadline, instances that are in use are asked to stop by the handle that
    /// [`Manager::interrupt`](crate::Manager::interrupt) gave. What has not begun at the deadline is
    /// handed back, as in [`abort`](Self::abort); a worker that is still busy then ends on its own.
    ///
    /// On a worker's own thread it does not wait, nor hand anything back, nor ask: the workers do what
    /// is queued, and end then.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// use std::time::Duration;
    ///
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let queued = workers.submit(|n| *n + 1)?;
    /// let report = workers.shutdown(Duration::from_secs(5));
    /// assert!(report.is_clean(), "{report:?}");
    /// assert_eq!(queued.join()?, 21); // what was queued is done first
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn shutdown(&self, within: Duration) -> ShutdownReport {
        self.begin_end();
        self.end(Deadline::after(within / 2), Deadline::after(within))
    }

    /// Takes no more work and hands back what is queued: its handles resolve as cancelled, with the
    /// work. Asks instances in use to stop, closes all instances, and ends the threads, within this
    /// time.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// use std::time::Duration;
    ///
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let queued = workers.submit(|n| *n + 1)?;
    /// let report = workers.abort(Duration::from_secs(5));
    /// assert!(report.is_clean(), "{report:?}");
    /// assert!(queued.join().is_ok_and(|n| n == 21) || workers.status().is_closed); // done, or handed back
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn abort(&self, within: Duration) -> ShutdownReport {
        let now = Deadline::after(Duration::ZERO);
        self.begin_end();
        self.crew.hand_back();
        self.end(now, Deadline::after(within))
    }
}

impl<T, K> Workers<T, K> {
    fn begin_end(&self) {
        if !self.team.is_inherited() {
            self.team.pool.inner().note_ends();
        }
        self.crew.close();
    }

    fn end(&self, half: Deadline, end: Deadline) -> ShutdownReport {
        let mut report = ShutdownReport::default();
        if self.team.is_inherited() {
            return report;
        }
        if self.crew.wait_closed(half, end) {
            report.instances = self.team.pool.inner().close_after_crew(half, end);
            self.waited.store(true, Ordering::Relaxed);
        }
        report.stragglers = self.team.stragglers();
        report
    }
}

impl<T, K> Drop for Workers<T, K> {
    fn drop(&mut self) {
        if self.team.is_inherited() {
            // All in it is of threads that are not there, and the parent's.
            mem::forget(Arc::clone(&self.team));
            return;
        }
        self.crew.close();
        let wait = if *self.waited.get_mut() { Duration::ZERO } else { self.drop_timeout };
        let _ = self.end(Deadline::after(wait / 2), Deadline::after(wait));
    }
}

impl<T, K> fmt::Debug for Workers<T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("pool", &self.team.pool)
            .field("threads", &self.team.queues.seats())
            .finish_non_exhaustive()
    }
}

/// What has become of the workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[must_use = "a worker may still be running"]
#[non_exhaustive]
pub struct ShutdownReport {
    /// What has become of the instances, from when the end began.
    pub instances: CloseReport,
    /// The names of the workers that had not ended by the deadline. Each ends when its work does.
    pub stragglers: Vec<String>,
}

impl ShutdownReport {
    /// Whether all workers have ended, and every instance is closed, none with an error.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// use std::time::Duration;
    ///
    /// let fails = from_fn(|_| 0).close_with(|_, _| anyhow::bail!("the disk is full"));
    /// let workers = Workers::builder(Pool::builder(fails)).threads(1).build()?;
    /// workers.submit(|n| *n += 1)?.join()?;
    /// let report = workers.shutdown(Duration::from_secs(5));
    /// assert!(!report.is_clean() && report.to_string().contains("the disk is full"));
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.stragglers.is_empty() && self.instances.is_clean()
    }
}

/// The report on the instances; then a line for each worker that had not ended.
impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.instances)?;
        self.stragglers.iter().try_for_each(|name| write!(f, "\n  still running: {name}"))
    }
}
