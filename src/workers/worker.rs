//! A worker at its desk: its own instance, and those it keeps for keys.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};

use super::job::{Bench, Job, Lent};
use super::key::Key;
use super::queues::Next;
use super::team::{Team, Turn};
use crate::contain::{contain, drop_each};
use crate::error::{Kind, PoolError};
use crate::manager::CloseReason;
use crate::pool::instance::Instance;
use crate::task::Interruptible;
use crate::thread::Resident;

pub(super) struct Desk<T: 'static, K> {
    team: Arc<Team<T, K>>,
    seat: usize,
    /// The keys whose instances are here, by when they were used last, or earlier.
    ///
    /// A use only notes its time at the key. Who looks for the one used least recently takes the first,
    /// and puts it back where it belongs if it was used since.
    kept: BTreeMap<u64, Arc<Key<T, K>>>,
    /// Counts uses.
    now: u64,
}

/// Attracts one worker; what its thread is nudged with.
struct Bell<T: 'static, K> {
    team: std::sync::Weak<Team<T, K>>,
    seat: usize,
}

impl<T: 'static, K: Send + Sync + 'static> Wake for Bell<T, K> {
    fn wake(self: Arc<Self>) {
        if let Some(team) = self.team.upgrade() {
            team.queues.attract(self.seat);
        }
    }
}

impl<T, K> Desk<T, K>
where
    K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
{
    pub(super) fn new(team: Arc<Team<T, K>>, seat: usize) -> Self {
        Self { team, seat, kept: BTreeMap::new(), now: 0 }
    }

    /// The life of a worker.
    pub(super) fn work(mut self) {
        let team = Arc::clone(&self.team);
        let bell = Bell { team: Arc::downgrade(&team), seat: self.seat };
        let nudged = crate::thread::set_bell(Waker::from(Arc::new(bell)));
        let mut own_turn = true;
        loop {
            let keep = if self.kept.is_empty() { team.keep_threads_for } else { None };
            let next = team.queues.next(self.seat, own_turn, keep, |pushed| team.see_to(pushed));
            // The work's own panics go to its handle. This is for what remains: the destructor of a
            // result that nobody waits for, or a key that panics when it is compared.
            let _ = match next {
                Next::Do(Turn::Work(job, to_me)) => contain(|| self.run(job, to_me)),
                Next::Do(Turn::Key(key)) => contain(|| self.run_keyed(&key)),
                Next::Attend => contain(|| self.attend()),
                Next::Retire | Next::End => break,
            };
            own_turn = !own_turn;
            if team.is_inherited() {
                // The work has forked, and this is the child: nothing here is its own.
                mem::forget((self, nudged, team));
                return;
            }
        }
        drop(nudged);
        // Here, and not in a thread-local's destructor: whoever waits for the workers to end is told
        // only after all is closed.
        let reason = team.pool.is_closed().then_some(CloseReason::PoolClosed);
        for (_, key) in mem::take(&mut self.kept).into_iter().rev() {
            let instance = key.state().instance.take();
            match (instance, reason) {
                (Some(instance), Some(reason)) => drop(instance.order_here(reason)),
                (Some(instance), None) => instance.leave(),
                (None, _) => {}
            }
            self.gone(&key);
            drop_each([key]);
        }
        let _ = team.pool.close_here_for(reason.unwrap_or(CloseReason::ThreadExit));
    }

    /// Does work with the worker's own instance.
    fn run(&mut self, job: Job<T>, to_me: bool) {
        let load = &self.team.loads[self.seat];
        if to_me {
            load.queued.fetch_sub(1, Ordering::Relaxed);
            self.team.own_rooms[self.seat].leave();
        } else {
            self.team.room.leave();
        }
        job.perform(&mut Own(&self.team), load.begin());
    }

    /// Does the next work of a key with the key's instance.
    fn run_keyed(&mut self, key: &Arc<Key<T, K>>) {
        let team = Arc::clone(&self.team);
        let (job, instance) = {
            let mut state = key.state();
            let job = state.line.pop();
            state.is_running = job.is_some();
            (job, state.instance.take())
        };
        let load = &team.loads[self.seat];
        let mut kept = Kept { team: &team, desk: self, key, instance };
        if let Some(job) = job {
            load.queued.fetch_sub(1, Ordering::Relaxed);
            key.room.leave();
            let _ = contain(|| job.perform(&mut kept, load.begin()));
        }
        let mut instance = kept.instance;
        // Spent by this use, or poisoned, or ordered closed meanwhile: not to be kept for nothing.
        if instance.as_ref().is_some_and(|one| one.is_ordered() && Arc::clone(one).attend()) {
            instance = None;
        }
        self.now += 1;
        let mut state = key.state();
        let was_here = state.id.is_some();
        let has_gone = was_here && instance.is_none();
        state.instance = instance;
        state.used = self.now;
        state.is_running = false;
        let more = !state.line.is_empty();
        state.has_turn = more;
        if has_gone {
            state.id = None;
            let filed = state.filed;
            drop(state);
            self.kept.remove(&filed);
        } else {
            drop(state);
        }
        if more {
            team.see_to(team.queues.push_to(self.seat, Turn::Key(Arc::clone(key))));
        } else if has_gone || !was_here {
            team.settle(key);
        }
    }

    /// Instances of this thread were ordered closed from afar.
    fn attend(&mut self) {
        let _ = crate::thread::enter();
        let gone: Vec<_> = self
            .kept
            .values()
            .filter(|key| {
                let instance = key.state().instance.clone();
                instance.is_none_or(Resident::attend)
            })
            .map(Arc::clone)
            .collect();
        for key in gone {
            let filed = key.state().filed;
            self.kept.remove(&filed);
            self.gone(&key);
        }
    }

    /// A key's instance is not here any more.
    fn gone(&self, key: &Arc<Key<T, K>>) {
        let mut state = key.state();
        let instance = state.instance.take();
        state.id = None;
        drop(state);
        drop(instance);
        self.team.settle(key);
    }

    /// For one more key: closes what was used least recently.
    fn make_room(&mut self) {
        while self.kept.len() >= self.team.keyed_capacity {
            let Some((filed, key)) = self.kept.pop_first() else { return };
            let mut state = key.state();
            let used = state.used;
            if used > filed {
                state.filed = used;
                drop(state);
                self.kept.insert(used, key);
                continue;
            }
            let instance = state.instance.take();
            drop(state);
            if let Some(instance) = instance {
                instance.order_here(CloseReason::MadeRoom);
            }
            self.gone(&key);
        }
    }

    /// A key has an instance here now.
    fn keep(&mut self, key: &Arc<Key<T, K>>, instance: &Instance<T>) {
        self.now += 1;
        let mut state = key.state();
        if state.id.is_some() {
            self.kept.remove(&state.filed); // of the one before
        }
        state.id = Some(instance.id());
        state.filed = self.now;
        state.used = self.now;
        drop(state);
        self.kept.insert(self.now, Arc::clone(key));
    }
}

/// The worker's own instance.
struct Own<'t, T: 'static, K>(&'t Team<T, K>);

impl<T, K> Bench<T> for Own<'_, T, K> {
    fn lend(&mut self) -> Result<Lent<'_, T>, PoolError> {
        let lease = contained(|| self.0.pool.lease::<false>())?;
        let interruptible = lease.interruptible().map(|one| one as Arc<dyn Interruptible>);
        Ok((lease, interruptible))
    }

    fn close(&mut self) -> bool {
        false // only keys are closed by work
    }
}

/// A key's instance, kept by a worker.
struct Kept<'d, T: 'static, K> {
    team: &'d Team<T, K>,
    desk: &'d mut Desk<T, K>,
    key: &'d Arc<Key<T, K>>,
    /// Holds the instance while it is borrowed, whatever becomes of the desk.
    instance: Option<Arc<Instance<T>>>,
}

impl<T, K> Bench<T> for Kept<'_, T, K>
where
    K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
{
    fn lend(&mut self) -> Result<Lent<'_, T>, PoolError> {
        let Self { team, desk, key, instance } = self;
        let before = instance.as_ref().map(|instance| instance.id());
        let lease = contained(|| {
            if before.is_none() {
                desk.make_room();
            }
            let name = || key.key.to_string();
            team.pool.inner().borrow_keyed(instance, name)
        });
        if let Some(instance) = instance
            && Some(instance.id()) != before
        {
            desk.keep(key, instance);
        }
        let lease = lease?;
        let interruptible = lease.interruptible().map(|one| one as Arc<dyn Interruptible>);
        Ok((lease, interruptible))
    }

    fn close(&mut self) -> bool {
        self.instance.take().is_some_and(|instance| instance.order_here(CloseReason::ClosedHere))
    }
}

/// A manager that panics has made no instance, as after an error.
fn contained<R>(lend: impl FnOnce() -> Result<R, PoolError>) -> Result<R, PoolError> {
    match contain(lend) {
        Ok(lent) => lent,
        Err(panic) => Err(Kind::CreateFailed(panic).into()),
    }
}
