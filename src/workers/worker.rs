//! A worker at its desk: its own instance, and those it keeps for keys.

use std::hash::Hash;
use std::sync::Arc;
use std::task::Waker;

use lru::LruCache;

use super::Team;
use super::Work;
use super::queues::{Bell, Next, Queues};
use crate::contain::{contain, drop_each};
use crate::manager::CloseReason;
use crate::pool::instance::Instance;
use crate::task::Runner;
use crate::thread::Resident;

pub(super) struct Desk<T: 'static, K> {
    team: Arc<Team<T, K>>,
    number: usize,
    /// Least recently used first to go. As many as the team allows.
    keyed: LruCache<K, Arc<Instance<T>>>,
}

impl<T, K> Desk<T, K>
where
    K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
{
    pub(super) fn new(team: Arc<Team<T, K>>, number: usize) -> Self {
        Self { team, number, keyed: LruCache::unbounded() }
    }

    /// The life of a worker.
    pub(super) fn work(mut self) {
        /// Whatever happens, those who wait for the workers to end are told.
        struct Ended<'a, T: 'static, K>(&'a Queues<T, K>, usize);
        impl<T, K> Drop for Ended<'_, T, K> {
            fn drop(&mut self) {
                self.0.end(self.1);
            }
        }
        let team = Arc::clone(&self.team);
        let _ended = Ended(&team.queues, self.number);
        let bell = Bell { team: Arc::downgrade(&team), worker: self.number };
        let nudged = crate::thread::set_bell(Waker::from(Arc::new(bell)));
        let mut own_turn = true;
        loop {
            // The work's own panics go to its handle. This is for what remains: the destructor of a
            // result that nobody waits for, or a key that panics when it is compared.
            let _ = match team.queues.next(self.number, own_turn) {
                Next::Work(work) => contain(|| work(&mut self)),
                Next::Attend => contain(|| self.attend()),
                Next::End => break,
            };
            own_turn = !own_turn;
        }
        drop(nudged);
        // Here, and not in a thread-local's destructor: whoever waits for the workers to end is told
        // only after all is closed.
        while let Some((key, instance)) = self.keyed.pop_lru() {
            instance.leave();
            drop_each([key]);
        }
        let _ = team.pool.close_here();
    }

    /// Instances of this thread were ordered closed from afar.
    fn attend(&mut self) {
        let _ = crate::thread::enter();
        let gone: Vec<K> = self
            .keyed
            .iter()
            .filter(|(_, instance)| Arc::clone(instance).attend())
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.forget(&key);
        }
    }

    fn forget(&mut self, key: &K) -> Option<Arc<Instance<T>>> {
        self.team.keys.remove(key);
        self.keyed.pop(key)
    }

    /// Does work with the worker's own instance.
    pub(super) fn run<R>(&mut self, runner: Runner<R, Work<T, R>>) {
        let lease = || self.team.pool.inner().borrow::<false>(None);
        runner.run_with(lease, |lease, body| lease.run(body));
    }

    /// Does work with a key's instance.
    pub(super) fn run_keyed<R>(&mut self, key: K, runner: Runner<R, Work<T, R>>) {
        let team = Arc::clone(&self.team);
        // Holds the instance while it is borrowed, whatever becomes of the desk.
        let mut kept = None;
        let lease = || {
            kept = self.keyed.get(&key).map(Arc::clone);
            let before = kept.as_ref().map(|instance| instance.id());
            if before.is_none() {
                self.make_room();
            }
            let lease = team.pool.inner().borrow_keyed(&mut kept, || key.to_string());
            match &kept {
                Some(instance) if Some(instance.id()) != before => {
                    team.keys.insert(key.clone(), instance.id());
                    self.keyed.put(key.clone(), Arc::clone(instance));
                }
                Some(_) => {}
                None => drop(self.forget(&key)),
            }
            lease
        };
        runner.run_with(lease, |lease, body| lease.run(body));
        // Spent by this use, or poisoned, or ordered closed meanwhile: not to be kept for nothing.
        if kept.is_some_and(Resident::attend) {
            self.forget(&key);
        }
    }

    /// For one more key: closes what was used least recently.
    fn make_room(&mut self) {
        while self.keyed.len() >= self.team.keyed_capacity {
            let Some((key, instance)) = self.keyed.pop_lru() else { return };
            self.team.keys.remove(&key);
            instance.order_here(CloseReason::MadeRoom);
        }
    }

    /// Closes a key's instance. Says whether there was one.
    pub(super) fn close_keyed(&mut self, key: &K) -> bool {
        let Some(instance) = self.forget(key) else { return false };
        instance.order_here(CloseReason::ClosedHere)
    }
}
