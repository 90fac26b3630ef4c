//! What the workers and their handles share.

use std::hash::Hash;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use super::OnClose;
use super::job::Job;
use super::key::Key;
use super::load::Load;
use super::queues::{Pushed, Queues};
use super::room::{NoRoom, Room};
use crate::contain::{contain, drop_each};
use crate::deadline::Deadline;
use crate::event_loop::{Refusal, Whose};
use crate::fork;
use crate::pool::Pool;
use crate::registry::crew::{Crew, KeyStatus, WorkerStatus, WorkersStatus};
use crate::task::{RunsOn, Seat, seat, take_seat};
use crate::thread::coarse_ms;

pub(super) struct Team<T: 'static, K> {
    /// Never the same twice.
    pub(super) number: u64,
    /// The process that made it.
    process: u32,
    pub(super) pool: Pool<T>,
    pub(super) queues: Queues<Turn<T, K>>,
    /// In the queue for whoever is free, and in each worker's own.
    pub(super) room: Room,
    pub(super) own_rooms: Box<[Room]>,
    pub(super) loads: Box<[Load]>,
    /// The keys that have an instance or work, and some that had a moment ago.
    pub(super) keys: DashMap<K, Arc<Key<T, K>>>,
    /// Held while a key is given a worker, so that two do not both take the one with the least to do.
    placing: Mutex<()>,
    pub(super) queue_capacity: usize,
    pub(super) key_queue_capacity: usize,
    pub(super) keyed_capacity: usize,
    /// How long a thread that is not one of the last waits for work.
    pub(super) keep_threads_for: Option<Duration>,
    pub(super) on_close: OnClose,
    threads: Mutex<Vec<Hired>>,
    start: StartThread,
    work: Work<T, K>,
}

/// What a worker of this number does, until there is no more for it to do.
pub(super) type Work<T, K> = fn(Arc<Team<T, K>>, usize);

/// A thread that was started.
struct Hired {
    thread: thread::JoinHandle<()>,
    /// It has said that it ends.
    has_ended: Arc<AtomicBool>,
}

/// How to start a thread of this number, which does this.
pub(super) type StartThread =
    Box<dyn Fn(usize, Life) -> io::Result<thread::JoinHandle<()>> + Send + Sync>;

/// What a worker does. It calls what it is given when its instances are closed, and before anybody is
/// told that it has ended.
pub(super) type Life = Box<dyn FnOnce(&dyn Fn()) + Send>;

/// What stands in a queue.
pub(super) enum Turn<T: 'static, K> {
    /// Work; and whether it is for this worker and no other.
    Work(Job<T>, bool),
    /// The next work of a key.
    Key(Arc<Key<T, K>>),
}

/// What a team is made with.
pub(super) struct Setup<T: 'static, K> {
    pub(super) pool: Pool<T>,
    pub(super) least: usize,
    pub(super) most: usize,
    pub(super) queue_capacity: usize,
    pub(super) key_queue_capacity: usize,
    pub(super) keyed_capacity: usize,
    pub(super) keep_threads_for: Duration,
    pub(super) on_close: OnClose,
    pub(super) start: StartThread,
    pub(super) work: Work<T, K>,
}

/// Why a key took no work.
pub(super) enum NotPut {
    /// It is to be looked for anew.
    Retired,
    NoThread,
}

impl<T, K> Team<T, K>
where
    K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
{
    pub(super) fn new(setup: Setup<T, K>) -> Arc<Self> {
        static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

        let Setup { pool, least, most, queue_capacity, key_queue_capacity, .. } = setup;
        let team = Arc::new(Self {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            process: fork::generation(),
            pool,
            queues: Queues::new(most, least),
            room: Room::new(queue_capacity),
            own_rooms: (0..most).map(|_| Room::new(queue_capacity)).collect(),
            loads: (0..most).map(|_| Load::default()).collect(),
            keys: DashMap::new(),
            placing: Mutex::new(()),
            queue_capacity,
            key_queue_capacity,
            keyed_capacity: setup.keyed_capacity,
            keep_threads_for: (least < most).then_some(setup.keep_threads_for),
            on_close: setup.on_close,
            threads: Mutex::new(Vec::new()),
            start: setup.start,
            work: setup.work,
        });
        let crew: Weak<Self> = Arc::downgrade(&team);
        team.pool.inner().set_crew(crew);
        team
    }

    /// Starts the thread of a seat that was taken for it.
    pub(super) fn start(self: &Arc<Self>, number: usize) -> io::Result<()> {
        /// Whatever happens, those who wait for the workers to end are told.
        struct Ended<T: 'static, K>(Arc<Team<T, K>>, Arc<AtomicBool>);
        impl<T, K> Drop for Ended<T, K> {
            fn drop(&mut self) {
                let Self(team, has_ended) = self;
                if team.is_inherited() {
                    return;
                }
                has_ended.store(true, Ordering::SeqCst);
                if team.queues.has_ended() && team.queues.is_closed() {
                    team.pool.inner().begin_close_after_crew();
                }
            }
        }
        let team = Arc::clone(self);
        let has_ended = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&has_ended);
        let life: Life = Box::new(move |last_act| {
            let ended = Ended(Arc::clone(&team), ends);
            take_seat(Seat { team: team.number, number });
            team.queues.begin(number);
            (team.work)(Arc::clone(&team), number);
            if !ended.0.is_inherited() {
                last_act();
            }
            drop(ended);
        });
        match (self.start)(number, life) {
            Ok(thread) => {
                let mut threads = self.threads();
                let over: Vec<_> = threads.extract_if(.., |one| one.thread.is_finished()).collect();
                threads.push(Hired { thread, has_ended });
                drop(threads);
                for one in over {
                    let _ = one.thread.join();
                }
                Ok(())
            }
            Err(error) => {
                self.drop_turns(self.queues.not_started(number));
                Err(error)
            }
        }
    }

    /// Does what a push has left to be done.
    pub(super) fn see_to(self: &Arc<Self>, pushed: Pushed<Turn<T, K>>) {
        match pushed {
            Pushed::Done => {}
            // If there is none to be had, work waits for the threads there are; without any, it comes
            // back by its handle.
            Pushed::Start(number) => drop(self.start(number)),
            Pushed::Late(turns) => self.drop_turns(turns),
        }
    }

    /// These will never be done: their handles are told.
    fn drop_turns(&self, turns: Vec<Turn<T, K>>) {
        for turn in turns {
            match turn {
                Turn::Work(job, _) => drop_each([job]),
                Turn::Key(key) => drop_each(self.abandon(&key, true)),
            }
        }
    }

    /// Takes the work out of a key's line. `ends_turn`: it stood in a queue, and does not any more.
    fn abandon(&self, key: &Arc<Key<T, K>>, ends_turn: bool) -> Vec<Job<T>> {
        let mut state = key.state();
        let jobs: Vec<_> = std::iter::from_fn(|| state.line.pop()).collect();
        if ends_turn {
            state.has_turn = false;
        }
        if let Some(seat) = state.seat {
            self.loads[seat].queued.fetch_sub(jobs.len(), Ordering::Relaxed);
        }
        drop(state);
        jobs.iter().for_each(|_| key.room.leave());
        self.settle(key);
        jobs
    }

    // ---- keys ---------------------------------------------------------------------------------

    /// The key as it is listed; now, if it was not.
    pub(super) fn key(&self, key: &K) -> Arc<Key<T, K>> {
        if let Some(found) = self.keys.get(key)
            && !found.has_retired()
        {
            return Arc::clone(&found);
        }
        match self.keys.entry(key.clone()) {
            Entry::Occupied(mut found) => {
                if found.get().has_retired() {
                    found.insert(Key::new(key.clone(), self.key_queue_capacity));
                }
                Arc::clone(found.get())
            }
            Entry::Vacant(vacant) => {
                let new = Key::new(key.clone(), self.key_queue_capacity);
                Arc::clone(&vacant.insert(new))
            }
        }
    }

    /// Puts work into a key's line; it is made once it is known whose it is. The caller has a place in
    /// the key's room.
    pub(super) fn put(
        self: &Arc<Self>,
        key: &Arc<Key<T, K>>,
        make: impl FnOnce(RunsOn) -> Job<T>,
    ) -> Result<(), NotPut> {
        let mut state = key.state();
        if key.has_retired() {
            return Err(NotPut::Retired);
        }
        let seat = match state.seat {
            Some(seat) => seat,
            None => {
                let Some(seat) = self.place() else {
                    drop(state);
                    self.settle(key);
                    return Err(NotPut::NoThread);
                };
                state.seat = Some(seat);
                seat
            }
        };
        state.line.push(make(RunsOn::Seat(Seat { team: self.number, number: seat })));
        self.loads[seat].queued.fetch_add(1, Ordering::Relaxed);
        let had_turn = std::mem::replace(&mut state.has_turn, true);
        drop(state);
        if !had_turn {
            self.see_to(self.queues.push_to(seat, Turn::Key(Arc::clone(key))));
        }
        Ok(())
    }

    /// The worker with the least to do: what waits there and runs there, then how many keys it has.
    /// Counts one key more for it.
    fn place(self: &Arc<Self>) -> Option<usize> {
        let placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seat = self.least_busy(|_| true)?;
        if self.queues.take_vacant(seat) && self.start(seat).is_err() {
            seat = self.least_busy(|seat| self.queues.is_taken(seat))?;
        }
        self.loads[seat].keys.fetch_add(1, Ordering::Relaxed);
        drop(placing);
        Some(seat)
    }

    pub(super) fn least_busy(&self, may: impl Fn(usize) -> bool) -> Option<usize> {
        (0..self.queues.seats()).filter(|seat| may(*seat)).min_by_key(|seat| {
            let load = &self.loads[*seat];
            let to_do = load.queued.load(Ordering::Relaxed) + usize::from(load.is_busy());
            (to_do, load.keys.load(Ordering::Relaxed))
        })
    }

    /// If a key has neither work nor an instance, it belongs to no worker any more, and retires.
    pub(super) fn settle(&self, key: &Arc<Key<T, K>>) {
        let mut state = key.state();
        if key.has_retired() || state.has_turn || state.id.is_some() || !state.line.is_empty() {
            return;
        }
        key.retire(&mut state);
        if let Some(seat) = state.seat.take() {
            self.loads[seat].keys.fetch_sub(1, Ordering::Relaxed);
        }
        drop(state);
        let gone = self.keys.remove_if(&key.key, |_, listed| Arc::ptr_eq(listed, key));
        drop_each(gone);
    }

    /// All keys that are listed. No guard of the map is held while one works on them.
    pub(super) fn all_keys(&self) -> Vec<Arc<Key<T, K>>> {
        self.keys.iter().map(|entry| Arc::clone(entry.value())).collect()
    }
}

impl<T, K> Team<T, K> {
    /// It is of a process that this one was forked from.
    pub(super) fn is_inherited(&self) -> bool {
        self.process != fork::generation()
    }

    /// Whether nobody does anything here any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_inherited() || self.queues.is_closed()
    }

    pub(super) fn is_worker(&self) -> bool {
        seat().is_some_and(|seat| seat.team == self.number)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<Hired>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects the threads that have ended; says what the others are called.
    pub(super) fn stragglers(&self) -> Vec<String> {
        if self.is_inherited() {
            return Vec::new();
        }
        // Only now, so that of several who wait for the end each finds the stragglers.
        let mut threads = self.threads();
        let (ended, late): (Vec<_>, Vec<_>) = std::mem::take(&mut *threads)
            .into_iter()
            .partition(|one| one.has_ended.load(Ordering::SeqCst));
        let name = |one: &Hired| one.thread.thread().name().map(str::to_owned);
        let names = late.iter().filter_map(name).collect();
        *threads = late;
        drop(threads);
        for one in ended {
            if one.thread.thread().id() != thread::current().id() {
                let _ = one.thread.join(); // it is in its last breath
            }
        }
        names
    }

    pub(super) fn full(&self, whose: Whose) -> Refusal {
        let most = match whose {
            Whose::Key(_) => self.key_queue_capacity,
            Whose::Everybody | Whose::Worker(_) => self.queue_capacity,
        };
        Refusal::Full(Some((whose, most)))
    }

    pub(super) fn refusal(&self, no_room: NoRoom, whose: impl FnOnce() -> Whose) -> Refusal {
        match no_room {
            NoRoom::Late if !self.is_closed() => self.full(whose()),
            NoRoom::Late | NoRoom::Closed => Refusal::Closed,
        }
    }
}

impl<T, K> Crew for Team<T, K>
where
    K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
{
    fn close(&self) {
        if self.is_inherited() {
            return;
        }
        self.queues.close();
        self.room.close();
        self.own_rooms.iter().for_each(Room::close);
        self.all_keys().iter().for_each(|key| key.room.close());
    }

    fn close_as_chosen(&self) {
        self.close();
        if self.on_close == OnClose::HandBack {
            self.hand_back();
        }
    }

    fn hand_back(&self) {
        if self.is_inherited() {
            return;
        }
        self.drop_turns(self.queues.take_all());
        for key in self.all_keys() {
            drop_each(self.abandon(&key, false));
        }
    }

    fn wait_closed(&self, half: Deadline, end: Deadline) -> bool {
        if self.is_inherited() {
            return true;
        }
        // A worker that waited here would wait for itself.
        if self.is_worker() {
            return false;
        }
        if !self.queues.wait_ended(half) {
            self.pool.inner().interrupt_busy();
            self.queues.wait_ended(end);
        }
        self.hand_back();
        true
    }

    fn is_here(&self) -> bool {
        self.is_worker()
    }

    fn status(&self) -> WorkersStatus {
        if self.is_inherited() {
            return WorkersStatus { is_closed: true, ..WorkersStatus::default() };
        }
        let mut status = WorkersStatus {
            threads: self.queues.taken(),
            max_threads: self.queues.seats(),
            queued: self.queues.shared_len(),
            waiting: self.room.waiting(),
            is_closed: self.queues.is_closed(),
            ..WorkersStatus::default()
        };
        let now = coarse_ms();
        for (number, load) in self.loads.iter().enumerate() {
            status.waiting += self.own_rooms[number].waiting();
            if !self.queues.is_taken(number) {
                continue;
            }
            let since = load.running_since.load(Ordering::Relaxed);
            let running = (since != 0).then(|| now.saturating_sub(since));
            let queued = load.queued.load(Ordering::Relaxed);
            status.queued += queued;
            status.running += usize::from(running.is_some());
            status.workers.push(WorkerStatus {
                number,
                queued,
                running_ms: running,
                key: None,
                keys: load.keys.load(Ordering::Relaxed),
            });
        }
        for key in self.all_keys() {
            status.waiting += key.room.waiting();
            let state = key.state();
            let (queued, Some(worker)) = (state.line.len(), state.seat) else { continue };
            let is_running = state.is_running && self.loads[worker].is_busy();
            drop(state);
            if queued == 0 && !is_running {
                continue;
            }
            let name = contain(|| key.key.to_string()).unwrap_or_default(); // foreign code
            if is_running {
                let worker = status.workers.iter_mut().find(|one| one.number == worker);
                if let Some(worker) = worker {
                    worker.key = Some(name.clone());
                }
            }
            status.keys.push(KeyStatus { key: name, worker, queued, is_running });
        }
        status
    }
}
