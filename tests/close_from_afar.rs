//! A thread closes what belongs to others, while they use it, leave, or do nothing at all.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use sessile::manager::CloseReason;
use sessile::registry::InstanceState;
use sessile::{Pool, Registry};
use support::*;

/// A pool used once by each of so many threads, which are still there.
fn owners(pool: &Pool<Session>, count: usize) -> Vec<Worker> {
    let workers: Vec<_> = (0..count).map(|n| Worker::new(&format!("owner-{n}"))).collect();
    for worker in &workers {
        let pool = pool.clone();
        worker.run(move || pool.with(|session| session.touch()).unwrap());
    }
    workers
}

#[test]
fn idle_instances_wait_for_owners_that_do_nothing() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let _idle = owners(&pool, 3);
    let report = pool.close(Duration::ZERO);
    assert!(report.is_clean() && report.closed == 3, "{report}");
    for close in stage.notes(What::Close) {
        assert_eq!(close.thread, thread::current().id());
        assert_eq!(close.reason, Some(CloseReason::PoolClosed));
    }
    stage.assert_each_closed_once();
}

#[test]
fn a_busy_instance_is_closed_under_its_user() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let (worker, closer, gate) = (Worker::new("owner"), Worker::new("closer"), Gate::new());
    let (owner, used) = (worker.id(), pool.clone());
    let held = worker.start({
        let gate = gate.clone();
        move || {
            used.with(|session| {
                session.touch();
                gate.pass();
                session.touch()
            })
        }
    });
    gate.wait_for_arrival();
    let early = pool.close(Duration::ZERO);
    assert_eq!((early.closed, early.still_open.len()), (0, 1), "{early}");
    let open = &early.still_open[0];
    assert_eq!((open.state, open.owner.name.as_deref()), (InstanceState::Closing, Some("owner")));
    assert!(early.to_string().contains("still open"), "{early}");
    assert_eq!(stage.count(What::Close), 0);

    let closing = closer.start({
        let pool = pool.clone();
        move || pool.close(TOO_LONG)
    });
    gate.open();
    let id = held.wait().unwrap();
    assert_eq!(stage.the_close_of(id).thread, owner);
    let late = closing.wait();
    // It may have ended before the second close looked.
    assert!(late.is_clean() && late.closed <= 1, "{late}");
    assert!(pool.wait_closed(Duration::ZERO));
}

#[test]
fn a_shared_borrow_is_taken_for_idle() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let (worker, gate) = (Worker::new("owner"), Gate::new());
    let (owner, used) = (worker.id(), pool.clone());
    let held = worker.start({
        let gate = gate.clone();
        move || {
            used.with_ref(|session| {
                used.with_ref(|inner| inner.look()).unwrap();
                gate.pass();
                used.with_ref(|inner| inner.look()).unwrap();
                assert_eq!(session.stage_closes(), 0);
                session.look()
            })
        }
    });
    gate.wait_for_arrival();
    assert_eq!(pool.close(Duration::ZERO).still_open.len(), 1);
    gate.open();
    let id = held.wait().unwrap();
    assert_eq!(stage.the_close_of(id).thread, owner);
}

/// Says of one way in which an owner of a `!Send` instance comes to close it that it does not.
fn not_touched_until(then: impl FnOnce(Worker, &Pool<Stay>, &Registry)) {
    let (stage, registry) = (Stage::new(), Registry::new());
    let pool = stage.pool_local(&registry);
    let worker = Worker::new("owner");
    let (owner, used) = (worker.id(), pool.clone());
    let id = worker.run(move || used.with(|session| session.touch()).unwrap());

    let report = pool.close(Duration::ZERO);
    assert_eq!((report.closed, report.still_open.len()), (0, 1), "{report}");
    assert_eq!(report.still_open[0].state, InstanceState::Closing);
    assert_eq!(stage.count(What::Close), 0);
    assert_eq!(registry.snapshot().instances[0].state, InstanceState::Closing);

    then(worker, &pool, &registry);
    let close = stage.the_close_of(id);
    assert_eq!((close.thread, close.reason), (owner, Some(CloseReason::PoolClosed)));
    assert!(pool.wait_closed(Duration::ZERO));
}

#[test]
fn an_instance_that_is_not_send_is_closed_elsewhere_before_its_pool_is_used() {
    not_touched_until(|worker, pool, _| {
        let pool = pool.clone();
        worker.run(move || assert!(pool.with(|_| ()).unwrap_err().is_closed()));
    });
}

#[test]
fn an_instance_that_is_not_send_is_closed_elsewhere_before_the_exit() {
    not_touched_until(|worker, _, _| worker.end());
}

#[test]
fn a_first_use_of_another_pool_does_not_close_what_is_due() {
    not_touched_until(|worker, _, registry| {
        let other = Stage::new().pool(registry);
        worker.run(move || other.with(|_| ()).unwrap());
    });
}

/// The fast path of the other pool must miss once.
#[test]
fn a_later_use_of_another_pool_does_not_close_what_is_due() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let (pool, other) = (stage.pool_local(&registry), Stage::new().pool(&registry));
    let worker = Worker::new("owner");
    let used = (pool.clone(), other.clone());
    worker.run(move || {
        used.0.with(|session| session.touch()).unwrap();
        used.1.with(|session| session.touch()).unwrap();
    });
    let _ = pool.close(Duration::ZERO);
    assert_eq!(stage.count(What::Close), 0);
    worker.run(move || other.with_ref(|session| session.look()).unwrap());
    stage.assert_each_closed_once();
}

/// One that needs a larger table: growing it must not lose the order to look.
#[test]
fn an_order_is_lost_while_the_table_grows() {
    let registry = Registry::new();
    for _ in 0..30 {
        let stage = Stage::new();
        let pool = stage.pool_local(&registry);
        let others: Vec<_> = (0..40).map(|_| Stage::new().pool(&registry)).collect();
        let (worker, start) = (Worker::new("owner"), Arc::new(Barrier::new(2)));
        let (used, begins) = (pool.clone(), Arc::clone(&start));
        let grown = worker.start(move || {
            used.with(|session| session.touch()).unwrap();
            begins.wait();
            for other in &others {
                other.with(|session| session.touch()).unwrap();
            }
            others
        });
        start.wait();
        let _ = pool.close(Duration::ZERO);
        let others = grown.wait();
        // A use on the fast path, if there is one: it has to come back to the order.
        worker.run(move || others.iter().for_each(|other| drop(other.with(|_| ()))));
        stage.assert_each_closed_once();
    }
}

#[test]
fn a_straggler_is_not_asked_or_asked_too_late() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let (worker, closer, gate) = (Worker::new("owner"), Worker::new("closer"), Gate::new());
    // It stops only because it is interrupted.
    stage.on_interrupt({
        let gate = gate.clone();
        first(move || gate.open())
    });
    let (used, at) = (pool.clone(), gate.clone());
    let held = worker.start(move || used.with(|_| at.pass()).unwrap());
    gate.wait_for_arrival();
    let closing = closer.start({
        let pool = pool.clone();
        move || {
            let begun = std::time::Instant::now();
            let report = pool.close(Duration::from_secs(2));
            (report, begun.elapsed())
        }
    });
    held.wait();
    let (report, took) = closing.wait();
    assert!(report.is_clean() && report.closed == 1, "{report}");
    assert!(took >= Duration::from_secs(1), "asked before half of its time was over: {took:?}");
    let asked = stage.notes(What::Interrupt);
    assert_eq!(asked.len(), 1);
    assert_ne!(asked[0].thread, thread::current().id());
}

#[test]
fn who_stops_in_time_is_interrupted() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    stage.on_interrupt(panics("nobody was to be interrupted"));
    let _idle = owners(&pool, 3);
    assert!(pool.close(TOO_LONG).is_clean());
    assert_eq!(stage.count(What::Interrupt), 0);
}

#[test]
fn an_interrupt_that_panics_spares_the_other_stragglers() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let gate = Gate::new();
    stage.on_interrupt(panics("not me"));
    let workers: Vec<_> = (0..3).map(|_| Worker::new("owner")).collect();
    let mut held = Vec::new();
    for worker in &workers {
        let arrived = Gate::new();
        let (pool, gate, here) = (pool.clone(), gate.clone(), arrived.clone());
        held.push(worker.start(move || {
            pool.with(|_| {
                here.open();
                gate.pass();
            })
        }));
        arrived.pass();
    }
    let report = pool.close(Duration::ZERO);
    assert_eq!((stage.count(What::Interrupt), report.still_open.len()), (3, 3));
    gate.open();
    held.into_iter().for_each(|held| held.wait().unwrap());
    assert!(pool.wait_closed(TOO_LONG));
    stage.assert_each_closed_once();
}

#[test]
fn a_second_close_finds_something_to_close() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let _idle = owners(&pool, 2);
    assert_eq!(pool.close(Duration::ZERO).closed, 2);
    let again = pool.clone().close(TOO_LONG);
    assert!(again.is_clean() && again.closed == 0, "{again}");
    stage.assert_each_closed_once();
}

/// The second closer finds an instance that the first has taken: it waits for that close to end.
#[test]
fn the_second_of_two_closers_does_not_wait_for_the_first() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let _idle = owners(&pool, 1);
    let gate = Gate::new();
    stage.on_close(hold(&gate));
    let closers = [Worker::new("first closer"), Worker::new("second closer")];
    let first = closers[0].start({
        let pool = pool.clone();
        move || pool.close(TOO_LONG)
    });
    gate.wait_for_arrival();
    assert_eq!(pool.close(Duration::ZERO).still_open.len(), 1);
    let second = closers[1].start({
        let pool = pool.clone();
        move || pool.close(TOO_LONG)
    });
    gate.open();
    assert!(first.wait().is_clean() && second.wait().is_clean());
    stage.assert_each_closed_once();
}

/// Its owner, meanwhile, neither waits for that nor gets at what is being closed.
#[test]
fn the_owner_gets_what_another_thread_is_closing() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let gate = Gate::new();
    let workers = owners(&pool, 1);
    stage.on_close(hold(&gate));
    let closer = Worker::new("closer");
    let clearing = closer.start({
        let pool = pool.clone();
        move || pool.clear()
    });
    gate.wait_for_arrival();
    let used = pool.clone();
    let anew = workers[0].run(move || used.with(|session| session.touch()).unwrap());
    let status = pool.status();
    assert_eq!((status.size, status.closing, status.idle), (2, 1, 1), "{status:?}");
    gate.open();
    assert_eq!(clearing.wait(), 1);
    assert!(stage.notes(What::Close)[0].id < anew);
}

/// Whatever the timing, each instance is closed once.
#[test]
fn a_close_that_races_with_uses_and_exits_loses_one_or_closes_it_twice() {
    fn race<M: 'static>(pool_of: impl Fn(&Stage, &Registry) -> Pool<Session<M>>) {
        const OWNERS: usize = 3;
        let registry = Registry::new();
        for round in 0..100 {
            let stage = Stage::new();
            let pool = pool_of(&stage, &registry);
            let start = Barrier::new(OWNERS + 2);
            let closes = thread::scope(|scope| {
                for owner in 0..OWNERS {
                    let (pool, start) = (&pool, &start);
                    scope.spawn(move || {
                        let mut uses = 0;
                        if owner > 0 {
                            pool.with(|session| session.touch()).unwrap();
                        }
                        start.wait();
                        // The first leaves early, the others when the pool is closed.
                        loop {
                            let used = match uses % 3 {
                                0 => pool.with(|session| session.touch()),
                                1 => pool.with_ref(|session| session.look()),
                                _ => pool.get().map(|mut session| session.touch()),
                            };
                            uses += 1;
                            if used.is_err_and(|error| error.is_closed()) || owner == round % 4 {
                                return;
                            }
                        }
                    });
                }
                let closers = [0, 1].map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        pool.close(PATIENCE)
                    })
                });
                closers.map(|closer| closer.join().unwrap())
            });
            for report in closes {
                assert!(report.is_clean(), "{report}");
            }
            assert!(pool.wait_closed(PATIENCE));
            stage.assert_each_closed_once();
            let (status, made) = (pool.status(), stage.count(What::Create) as u64);
            assert_eq!((status.size, status.created, status.closed), (0, made, made));
        }
    }
    race(Stage::pool);
    race(Stage::pool_local);
    race(|stage, registry| stage.clone().breakable().pool(registry));
}

/// The same with clears, which let the owners go on, each with a new one.
#[test]
fn a_clear_that_races_with_uses_loses_one_or_closes_it_twice() {
    fn race<M: 'static>(pool: Pool<Session<M>>, stage: &Stage) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        pool.with(|session| session.touch()).unwrap();
                        pool.with_ref(|session| session.look()).unwrap();
                    }
                });
            }
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    pool.retain(|instance| instance.id.get() % 2 == 0);
                }
            });
            // Stops the others also when this thread fails.
            struct Done<'a>(&'a AtomicBool);
            impl Drop for Done<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let _done = Done(&done);
            for n in 1..=150 {
                pool.clear();
                stage.wait_for(What::Create, n / 10);
            }
        });
        assert!(pool.wait_closed(PATIENCE), "the owners have ended");
        stage.assert_each_closed_once();
    }
    let stage = Stage::new();
    race(stage.pool(&Registry::new()), &stage);
    let stage = Stage::new();
    race(stage.pool_local(&Registry::new()), &stage);
}

#[test]
fn wait_closed_closes_something_or_returns_early() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let workers = owners(&pool, 2);
    assert!(!pool.wait_closed(Duration::ZERO));
    assert_eq!(pool.status().idle, 2);
    let waiter = Worker::new("waiter");
    let waits = waiter.start({
        let pool = pool.clone();
        move || pool.wait_closed(TOO_LONG)
    });
    workers.into_iter().for_each(Worker::end);
    assert!(waits.wait());
    assert!(!pool.is_closed());
}
