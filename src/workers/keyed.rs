//! One key of the workers, as callers have it.

use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::job::Job;
use super::key::Key;
use super::room::NoRoom;
use super::team::{NotPut, Team};
use super::{Submitted, Work};
use crate::contain::contain;
use crate::deadline::Deadline;
use crate::event_loop::{PostError, Refusal, Whose};
use crate::task::{JoinHandle, RunsOn};

/// Gives work to one key of [`Workers`](super::Workers); from [`Workers::keyed`](super::Workers::keyed).
///
/// It may be kept, in the state of a connection for one. It keeps the queues alive, not the threads: when
/// the workers have shut down it refuses.
///
/// A key gets the worker with the least to do, when its first work comes, and stays there while it has
/// work or an instance.
///
/// ```
/// use sessile::workers::Keyed;
/// use sessile::{Pool, Workers, from_fn};
///
/// struct Connection {
///     log: Keyed<Vec<String>, u64>,
/// }
///
/// let logs = Pool::builder(from_fn(|_| Vec::new()));
/// let workers = Workers::builder(logs).threads(2).build_keyed::<u64>()?;
/// let connection = Connection { log: workers.keyed(7) };
/// connection.log.submit(|log| log.push("hello".to_owned()))?.join()?;
/// assert_eq!(connection.log.submit(|log| log.len())?.join()?, 1);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub struct Keyed<T: 'static, K> {
    team: Arc<Team<T, K>>,
    key: K,
    /// As it was listed when it was first looked for.
    found: OnceLock<Arc<Key<T, K>>>,
}

impl<T, K> Keyed<T, K>
where
    K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
{
    pub(super) fn new(team: Arc<Team<T, K>>, key: K) -> Self {
        Self { team, key, found: OnceLock::new() }
    }

    /// Lends the key.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let ann = workers.keyed("ann".to_owned());
    /// assert_eq!(ann.key(), "ann");
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn key(&self) -> &K {
        &self.key
    }

    /// Says which worker does the key's work. For a key with neither work nor an instance it is the one
    /// that has the least to do now; another may have when work comes.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let ann = workers.keyed("ann".to_owned());
    /// ann.submit(|n| *n)?.join()?;
    /// assert!(ann.worker() < workers.threads());
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn worker(&self) -> usize {
        if self.team.is_inherited() {
            return 0;
        }
        let listed = self.team.keys.get(&self.key).map(|found| Arc::clone(&found));
        let seat = listed.and_then(|key| key.state().seat);
        seat.unwrap_or_else(|| self.team.least_busy(|_| true).unwrap_or_default())
    }

    /// Gives work to the key's worker, to be done with the key's instance, made now if there is none.
    /// Work for one key is done in order; keys of one worker take turns. Waits for room in the key's
    /// queue as long as it takes.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let ann = workers.keyed("ann".to_owned());
    /// ann.submit(|n| *n += 1)?.join()?;
    /// assert_eq!(ann.submit(|n| *n)?.join()?, 21); // the same instance
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Workers::submit`](super::Workers::submit). The work comes back.
    pub fn submit<R, F>(&self, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        self.send(Deadline::NEVER, work)
    }

    /// [`submit`](Self::submit), waiting for room no longer than this.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// use std::time::Duration;
    ///
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let ann = workers.keyed("ann".to_owned());
    /// let handle = ann.submit_timeout(Duration::from_secs(1), |n| *n)?;
    /// assert_eq!(handle.join()?, 20);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Workers::submit_timeout`](super::Workers::submit_timeout). The work comes back.
    pub fn submit_timeout<R, F>(&self, wait: Duration, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        self.send(Deadline::after(wait), work)
    }

    /// [`submit`](Self::submit), without waiting for room.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let ann = workers.keyed("ann".to_owned());
    /// assert_eq!(ann.try_submit(|n| *n)?.join()?, 20);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Workers::try_submit`](super::Workers::try_submit). The work comes back.
    pub fn try_submit<R, F>(&self, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        self.submit_timeout(Duration::ZERO, work)
    }

    /// [`submit`](Self::submit) for those who await: waits for room in the key's queue without blocking
    /// the thread. The future is `Send`, whatever `T` is; dropped before it is ready, it drops the work,
    /// unrun.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// # async fn serve(workers: &Workers<Vec<String>>) -> anyhow::Result<usize> {
    /// let alice = workers.keyed("alice".to_owned());
    /// let heard = alice.submit_async(|log| log.len()).await?.await?;
    /// # Ok(heard)
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Workers::submit`](super::Workers::submit).
    pub async fn submit_async<R, F>(&self, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        let mut work = Some(work);
        loop {
            if self.team.is_closed() {
                return Err(PostError::new(Refusal::Closed, boxed(work)));
            }
            let key = self.listed();
            if !key.room.claim() {
                let outcome =
                    if self.team.is_worker() { Err(NoRoom::Late) } else { key.room.enter().await };
                if let Err(no_room) = outcome {
                    return Err(PostError::new(self.refusal(no_room), boxed(work)));
                }
            }
            match self.put(&key, |runs_on| Job::new(work.take().expect("put once"), runs_on)) {
                Ok(handle) => return Ok(handle),
                Err(NotPut::Retired) => {}
                Err(NotPut::NoThread) => {
                    return Err(PostError::new(Refusal::NoThread, boxed(work)));
                }
            }
        }
    }

    fn send<R, F>(&self, deadline: Deadline, work: F) -> Submitted<T, R>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        let mut work = Some(work);
        let make = |runs_on| Job::new(work.take().expect("put once"), runs_on);
        self.put_in_time(deadline, make).map_err(|refusal| PostError::new(refusal, boxed(work)))
    }

    /// Says whether the key has an instance now.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let ann = workers.keyed("ann".to_owned());
    /// assert!(!ann.is_live());
    /// ann.submit(|n| *n)?.join()?;
    /// assert!(ann.is_live());
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn is_live(&self) -> bool {
        if self.team.is_inherited() {
            return false;
        }
        let listed = self.team.keys.get(&self.key).map(|found| Arc::clone(&found));
        let id = listed.and_then(|key| key.state().id);
        id.is_some_and(|id| self.team.pool.inner().is_live(id))
    }

    /// Closes the key's instance, on its worker, after the work that is queued for it. The handle says
    /// whether there was one. The key's next instance may be on another worker.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 0))).threads(1).build()?;
    /// let alice = workers.keyed("alice".to_owned());
    /// alice.submit(|n| *n += 1)?.join()?;
    /// assert!(alice.close()?.join()?);
    /// assert!(!alice.is_live());
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Workers::submit`](super::Workers::submit).
    pub fn close(&self) -> Result<JoinHandle<bool, ()>, PostError<()>> {
        self.put_in_time(Deadline::NEVER, Job::closing)
            .map_err(|refusal| PostError::new(refusal, ()))
    }

    // ---- the key's line -----------------------------------------------------------------------

    fn put_in_time<R, B>(
        &self,
        deadline: Deadline,
        mut make: impl FnMut(RunsOn) -> (Job<T>, JoinHandle<R, B>),
    ) -> Result<JoinHandle<R, B>, Refusal> {
        loop {
            if self.team.is_closed() {
                return Err(Refusal::Closed);
            }
            let key = self.listed();
            if !key.room.claim() {
                let outcome = match self.team.is_worker() {
                    true => Err(NoRoom::Late),
                    false => key.room.enter_until(deadline),
                };
                outcome.map_err(|no_room| self.refusal(no_room))?;
            }
            match self.put(&key, &mut make) {
                Ok(handle) => return Ok(handle),
                Err(NotPut::Retired) => {}
                Err(NotPut::NoThread) => return Err(Refusal::NoThread),
            }
        }
    }

    /// Puts work into the line, in which it has a place: that is given back if it is not put.
    fn put<R, B>(
        &self,
        key: &Arc<Key<T, K>>,
        make: impl FnOnce(RunsOn) -> (Job<T>, JoinHandle<R, B>),
    ) -> Result<JoinHandle<R, B>, NotPut> {
        let mut handle = None;
        let put = self.team.put(key, |runs_on| {
            let (job, made) = make(runs_on);
            handle = Some(made);
            job
        });
        if let Err(not_put) = put {
            key.room.leave();
            return Err(not_put);
        }
        Ok(handle.expect("made as it was put"))
    }

    /// The key as it is listed. It may be about to retire: whoever puts work there is told.
    fn listed(&self) -> Arc<Key<T, K>> {
        match self.found.get() {
            Some(key) if !key.has_retired() => Arc::clone(key),
            Some(_) => self.team.key(&self.key),
            None => Arc::clone(self.found.get_or_init(|| self.team.key(&self.key))),
        }
    }

    fn refusal(&self, no_room: NoRoom) -> Refusal {
        let name = || contain(|| self.key.to_string()).unwrap_or_default(); // foreign code
        self.team.refusal(no_room, || Whose::Key(name()))
    }
}

fn boxed<T, R, F>(work: Option<F>) -> Work<T, R>
where
    F: FnOnce(&mut T) -> R + Send + 'static,
{
    Box::new(work.expect("it was not put"))
}

impl<T, K: Clone> Clone for Keyed<T, K> {
    fn clone(&self) -> Self {
        Self { team: Arc::clone(&self.team), key: self.key.clone(), found: OnceLock::new() }
    }
}

impl<T, K: fmt::Debug> fmt::Debug for Keyed<T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed").field("key", &self.key).finish_non_exhaustive()
    }
}
