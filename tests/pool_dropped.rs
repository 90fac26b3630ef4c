//! The last handle of a pool goes.

#[path = "support/allocated.rs"]
mod allocated;
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use allocated::allocated;
use sessile::manager::CloseReason;
use sessile::{CreateContext, Manager, Pool, Registry};
use support::*;

#[test]
fn a_clone_dropped_closes_the_pool() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let worker = Worker::new("owner");
    let clone = pool.clone();
    worker.run(move || clone.with(|session| session.touch()).unwrap());
    assert_eq!(pool.status().idle, 1);
    assert_eq!(stage.count(What::Close), 0);
    worker.end();
}

#[test]
fn idle_instances_outlive_the_last_handle() {
    let (registry, stage) = (Registry::new(), Stage::new());
    let pool = stage.pool(&registry);
    let worker = Worker::new("owner");
    let clone = pool.clone();
    worker.run(move || clone.with(|session| session.touch()).unwrap());
    pool.with(|session| session.touch()).unwrap();
    drop(pool);
    stage.assert_each_closed_once();
    for close in stage.notes(What::Close) {
        assert_eq!(close.reason, Some(CloseReason::PoolDropped));
        assert_eq!(close.thread, std::thread::current().id());
    }
    assert!(registry.snapshot().is_empty());
}

/// One that must not leave its thread stays listed until that thread has closed it.
#[test]
fn an_instance_that_is_not_send_goes_with_the_last_handle() {
    let (registry, stage) = (Registry::new(), Stage::new());
    let pool = stage.pool_local(&registry);
    let other = Stage::new().pool(&registry);
    let worker = Worker::new("owner");
    let owner = worker.id();
    worker.run(move || {
        pool.with(|session| session.touch()).unwrap();
        pool
    });
    // Dropped here, where it came back to.
    assert_eq!(stage.count(What::Close), 0);
    let snapshot = registry.snapshot();
    assert_eq!((snapshot.pools.len(), snapshot.instances.len()), (2, 1), "{snapshot}");
    assert_eq!(snapshot.instances[0].state, sessile::registry::InstanceState::Closing);
    worker.run(move || other.with(|_| ()).unwrap());
    stage.assert_each_closed_once();
    assert_eq!(stage.notes(What::Close)[0].thread, owner);
    assert_eq!(registry.snapshot().pools.len(), 0);
}

#[test]
fn dropping_the_last_handle_waits_for_a_busy_owner() {
    let stage = Stage::new();
    let pool = Arc::new(stage.pool(&Registry::new()));
    let (worker, gate) = (Worker::new("owner"), Gate::new());
    // A thread that is inside the instance has a handle of its own, if only for so long: it is the
    // last, and dropped by a thread that has let go of the instance.
    let (inside, held) = (Arc::clone(&pool), gate.clone());
    let used = worker.start(move || inside.with(|_| held.pass()));
    gate.wait_for_arrival();
    promptly("drops its handle", move || drop(pool));
    assert_eq!(stage.count(What::Close), 0);
    gate.open();
    used.wait().unwrap();
    stage.wait_for(What::Close, 1);
    worker.end();
    stage.assert_each_closed_once();
}

/// Counts the managers that are alive: a pool that leaks, leaks its manager.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Manager for Counted {
    type Instance = Counted;

    fn create(&self, _: &CreateContext) -> anyhow::Result<Counted> {
        Ok(Counted::new(&self.0))
    }
}

/// Ten thousand pools come and go while the threads that use them stay: each gets its instance, and
/// nobody else's, in a place that many had before.
#[test]
fn places_are_not_reused_or_reused_too_early() {
    const POOLS: usize = 10_000;
    let (registry, alive) = (Registry::new(), Arc::new(AtomicUsize::new(0)));
    let threads = [Worker::new("a"), Worker::new("b")];
    let (turn, count) = (Arc::new(Barrier::new(3)), Arc::clone(&alive));
    let (pools, taken): (Vec<_>, Vec<_>) =
        (0..2).map(|_| std::sync::mpsc::sync_channel::<Pool<Counted>>(0)).unzip();
    let jobs: Vec<_> = threads
        .iter()
        .zip(taken)
        .map(|(thread, taken)| {
            let turn = Arc::clone(&turn);
            thread.start(move || {
                for pool in taken {
                    pool.with(|_| ()).unwrap();
                    assert_eq!(pool.status().max_size, None);
                    drop(pool);
                    turn.wait();
                }
            })
        })
        .collect();
    let mut early = 0;
    for round in 0..POOLS {
        if round == POOLS / 10 {
            early = allocated();
        }
        let pool = Pool::builder(Counted::new(&count)).registry(&registry).build().unwrap();
        for to in &pools {
            to.send(pool.clone()).unwrap();
        }
        turn.wait();
        drop(pool);
        assert!(registry.snapshot().is_empty());
        // Each thread may have an emptied place in its table until it next looks at the table, and
        // with it the pool of this round and of the one before; never more.
        assert!(alive.load(Ordering::SeqCst) <= 4, "{} left", alive.load(Ordering::SeqCst));
    }
    // A place lost each time would be 24 bytes in each thread's table; a pool lost, far more.
    let late = allocated();
    assert!(late < early + 100_000, "{early} bytes after a tenth of the pools, {late} after all");
    drop(pools);
    jobs.into_iter().for_each(Pending::wait);
    threads.into_iter().for_each(Worker::end);
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    assert_eq!(registry.snapshot().pools.len(), 0);
}

#[test]
fn a_registry_is_kept_alive_by_nobody_or_for_ever() {
    let alive = Arc::new(AtomicUsize::new(0));
    let pool = {
        let registry = Registry::new();
        let manager = Counted::new(&alive);
        let built = Pool::builder(manager).registry(&registry).idle_timeout(FOR_EVER).build();
        built.unwrap()
    };
    pool.with(|_| ()).unwrap();
    assert_eq!(pool.registry().snapshot().instances.len(), 1);
    assert_eq!(alive.load(Ordering::SeqCst), 2);
    drop(pool);
    // Nobody is left but a reaper, which may be looking at the pool just now.
    poll_until("the pool is gone", || alive.load(Ordering::SeqCst) == 0);
    assert!(Registry::new().close_all(Duration::ZERO).is_clean());
}
