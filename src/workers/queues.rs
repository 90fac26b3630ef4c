//! What waits to be done, and who waits for something to do.
//!
//! One lock for all of it. Work is handed over under the lock, a few instructions at a time; a worker
//! that finds nothing looks on for a moment without the lock before it sleeps.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Wake;
use std::thread::{self, ThreadId};

use super::worker::Desk;
use crate::deadline::Deadline;
use crate::event_loop::Refusal;
use crate::sync::look_out;

/// Something to do at a worker's desk. Dropped, it tells its handle that it was cancelled.
pub(super) type Job<T, K> = Box<dyn FnOnce(&mut Desk<T, K>) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    Anybody,
    Worker(usize),
}

pub(super) struct Queues<T: 'static, K> {
    capacity: usize,
    state: Mutex<State<T, K>>,
    /// Rung for each worker alone.
    bells: Box<[Condvar]>,
    /// Rung when room comes free, and when everything ends.
    room: Condvar,
    /// Rung when a worker ends.
    ended: Condvar,
    ids: Box<[OnceLock<ThreadId>]>,
    /// How often anything was put in. For looking on without the lock.
    arrivals: AtomicU64,
}

struct State<T: 'static, K> {
    shared: VecDeque<Job<T, K>>,
    own: Box<[Own<T, K>]>,
    /// The sleepers, most recent last: its instance is the warmest.
    asleep: Vec<usize>,
    /// Threads that wait for room.
    waiting: usize,
    closed: bool,
    running: usize,
}

struct Own<T: 'static, K> {
    queue: VecDeque<Job<T, K>>,
    /// Instances of this worker were ordered closed from afar.
    attention: bool,
    ended: bool,
}

/// What a worker is to do next.
pub(super) enum Next<T: 'static, K> {
    Work(Job<T, K>),
    Attend,
    End,
}

impl<T, K> Queues<T, K> {
    pub(super) fn new(workers: usize, capacity: usize) -> Self {
        let own = || Own { queue: VecDeque::new(), attention: false, ended: true };
        Self {
            capacity,
            state: Mutex::new(State {
                shared: VecDeque::new(),
                own: (0..workers).map(|_| own()).collect(),
                asleep: Vec::with_capacity(workers),
                waiting: 0,
                closed: false,
                running: 0,
            }),
            bells: (0..workers).map(|_| Condvar::new()).collect(),
            room: Condvar::new(),
            ended: Condvar::new(),
            ids: (0..workers).map(|_| OnceLock::new()).collect(),
            arrivals: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T, K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn workers(&self) -> usize {
        self.bells.len()
    }

    pub(super) fn hired(&self, worker: usize, id: ThreadId) {
        let _ = self.ids[worker].set(id);
    }

    /// Whether the caller is one of the workers.
    pub(super) fn is_worker(&self) -> bool {
        let me = thread::current().id();
        self.ids.iter().any(|id| id.get() == Some(&me))
    }

    /// The one thread that can run what goes there, if it is one.
    pub(super) fn runs_on(&self, to: Destination) -> Option<ThreadId> {
        match to {
            Destination::Worker(worker) => self.ids[worker].get().copied(),
            Destination::Anybody if self.workers() == 1 => self.ids[0].get().copied(),
            Destination::Anybody => None,
        }
    }

    // ---- anybody ------------------------------------------------------------------------------

    /// Puts work in, waiting for room. It comes back if it is refused.
    pub(super) fn push(
        &self,
        to: Destination,
        deadline: Deadline,
        work: Job<T, K>,
    ) -> Result<(), (Job<T, K>, Refusal)> {
        let mut state = self.state();
        loop {
            if state.closed {
                return Err((work, Refusal::Closed));
            }
            let queue = match to {
                Destination::Anybody => &mut state.shared,
                Destination::Worker(worker) => &mut state.own[worker].queue,
            };
            if queue.len() < self.capacity {
                queue.push_back(work);
                break;
            }
            if self.is_worker() {
                return Err((work, Refusal::Full));
            }
            state.waiting += 1;
            let waited = deadline.wait(&self.room, state);
            let is_late = waited.is_err();
            state = waited.unwrap_or_else(|state| state);
            state.waiting -= 1;
            if is_late {
                return Err((work, Refusal::Full));
            }
        }
        self.arrivals.fetch_add(1, Ordering::Release);
        let sleeper = match to {
            Destination::Anybody => state.asleep.pop(),
            Destination::Worker(worker) => state.rouse(worker),
        };
        drop(state);
        if let Some(sleeper) = sleeper {
            self.bells[sleeper].notify_one();
        }
        Ok(())
    }

    /// Has a worker look after its instances.
    pub(super) fn attract(&self, worker: usize) {
        let mut state = self.state();
        state.own[worker].attention = true;
        self.arrivals.fetch_add(1, Ordering::Release);
        let sleeper = state.rouse(worker);
        drop(state);
        if let Some(sleeper) = sleeper {
            self.bells[sleeper].notify_one();
        }
    }

    /// No more work. Workers end when there is none left.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.asleep.clear();
        self.arrivals.fetch_add(1, Ordering::Release);
        drop(state);
        self.bells.iter().for_each(Condvar::notify_all);
        self.room.notify_all();
    }

    /// Takes out what has not begun. To be dropped by the caller, with no lock held.
    pub(super) fn take_all(&self) -> Vec<Job<T, K>> {
        let mut state = self.state();
        let mut all: Vec<_> = state.shared.drain(..).collect();
        for own in &mut state.own {
            all.extend(own.queue.drain(..));
        }
        all
    }

    /// Waits until all workers have ended.
    pub(super) fn wait_ended(&self, deadline: Deadline) -> bool {
        let mut state = self.state();
        while state.running > 0 {
            match deadline.wait(&self.ended, state) {
                Ok(woken) => state = woken,
                Err(_) => return false,
            }
        }
        true
    }

    pub(super) fn has_ended(&self, id: ThreadId) -> bool {
        let worker = self.ids.iter().position(|other| other.get() == Some(&id));
        worker.is_some_and(|worker| self.state().own[worker].ended)
    }

    // ---- a worker -----------------------------------------------------------------------------

    pub(super) fn begin(&self, worker: usize) {
        let mut state = self.state();
        state.own[worker].ended = false;
        state.running += 1;
    }

    pub(super) fn end(&self, worker: usize) {
        let mut state = self.state();
        state.own[worker].ended = true;
        state.running -= 1;
        drop(state);
        self.ended.notify_all();
    }

    /// Waits for something to do. `own_turn` alternates, so that neither queue starves the other.
    pub(super) fn next(&self, worker: usize, own_turn: bool) -> Next<T, K> {
        let mut state = self.state();
        let mut looked = false;
        loop {
            let attends = std::mem::take(&mut state.own[worker].attention);
            let work = if attends { None } else { state.pop(worker, own_turn) };
            if attends || work.is_some() {
                let stands_in = state.stand_in(work.as_ref().is_none_or(|(_, own)| *own));
                let somebody_waits = work.is_some() && state.waiting > 0;
                drop(state);
                if let Some(sleeper) = stands_in {
                    self.bells[sleeper].notify_one();
                }
                if somebody_waits {
                    self.room.notify_all(); // for different queues: each looks at its own
                }
                return work.map_or(Next::Attend, |(work, _)| Next::Work(work));
            }
            if state.closed {
                return Next::End;
            }
            if !looked {
                looked = true;
                let seen = self.arrivals.load(Ordering::Relaxed);
                drop(state);
                let _ = look_out(|| self.arrivals.load(Ordering::Relaxed) != seen);
                state = self.state();
                continue;
            }
            looked = false;
            state.asleep.push(worker);
            while state.asleep.contains(&worker) {
                let woken = self.bells[worker].wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl<T, K> State<T, K> {
    /// Takes the worker off the list of sleepers, if it is there.
    fn rouse(&mut self, worker: usize) -> Option<usize> {
        let at = self.asleep.iter().position(|asleep| *asleep == worker)?;
        Some(self.asleep.swap_remove(at))
    }

    /// The next work of this worker, and whether nobody else could do it.
    fn pop(&mut self, worker: usize, own_turn: bool) -> Option<(Job<T, K>, bool)> {
        let Self { own, shared, .. } = self;
        let mut own = || own[worker].queue.pop_front().map(|work| (work, true));
        let mut shared = || shared.pop_front().map(|work| (work, false));
        if own_turn { own().or_else(shared) } else { shared().or_else(own) }
    }

    /// A sleeper to be woken in place of a worker that has something of its own to do first: what
    /// waits for anybody may be what that one was woken for.
    fn stand_in(&mut self, own: bool) -> Option<usize> {
        if own && !self.shared.is_empty() { self.asleep.pop() } else { None }
    }
}

/// Attracts one worker; what its thread is nudged with.
pub(super) struct Bell<T: 'static, K> {
    pub(super) team: std::sync::Weak<super::Team<T, K>>,
    pub(super) worker: usize,
}

impl<T, K: Send + Sync> Wake for Bell<T, K>
where
    K: Eq + std::hash::Hash + 'static,
{
    fn wake(self: std::sync::Arc<Self>) {
        if let Some(team) = self.team.upgrade() {
            team.queues.attract(self.worker);
        }
    }
}
