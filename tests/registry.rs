//! What the registry says of instances, and what it does with them.

#![allow(unsafe_code)] // to ask for a thread's id

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sessile::manager::CloseReason;
use sessile::pool::{InstanceEvent, InstanceId};
use sessile::registry::{CloseReport, InstanceState, Snapshot};
use sessile::{Pool, Registry};
use support::*;

#[test]
fn a_snapshot_does_not_come_back_from_json() {
    let (registry, stage) = (Registry::new(), Stage::new());
    let pool = stage.builder(&registry).name("kernels").max_size(8).build().unwrap();
    let (named, gate) = (Worker::new("a worker"), Gate::new());
    let (used, at) = (pool.clone(), gate.clone());
    let held = named.start(move || used.with(|_| at.pass()));
    gate.wait_for_arrival();
    pool.with(|session| session.touch()).unwrap();

    let snapshot = registry.snapshot();
    let json = serde_json::to_string_pretty(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), snapshot);
    assert!(json.contains("\"busy\"") && json.contains("\"idle\""), "{json}");
    let table = snapshot.to_string();
    assert!(table.contains("kernels") && table.contains("a worker"), "{table}");
    assert_eq!(table.lines().count(), 3, "a heading, and a line for each:\n{table}");

    let report = pool.close(Duration::ZERO);
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<CloseReport>(&json).unwrap(), report);
    gate.open();
    held.wait().unwrap();
    assert_eq!(registry.snapshot().to_string(), "no live instances");
}

#[test]
fn a_state_is_missed_or_an_entry_leaves_too_early() {
    let (registry, stage) = (Registry::new(), Stage::new());
    let pool = stage.builder(&registry).name("p").build().unwrap();
    let worker = Worker::new("owner");
    let [creating, using, closing] = [Gate::new(), Gate::new(), Gate::new()];
    stage.on_create(hold(&creating)).on_close(hold(&closing));
    let (used, at) = (pool.clone(), using.clone());
    let first_use = worker.start(move || used.with(|_| at.pass()));
    let now = || {
        let instances = registry.snapshot().instances;
        assert_eq!(instances.len(), 1, "{instances:?}");
        let (status, one) = (pool.status(), instances.into_iter().next().unwrap());
        let counted = [status.opening, status.idle, status.busy, status.closing];
        assert_eq!((status.size, counted.iter().sum()), (1, 1), "{status:?}");
        (one.state, one.uses, one.id)
    };

    creating.wait_for_arrival();
    let (state, uses, id) = now();
    assert_eq!((state, uses), (InstanceState::Opening, 0));
    creating.open();
    using.wait_for_arrival();
    assert_eq!(now(), (InstanceState::Busy, 0, id));
    using.open();
    first_use.wait().unwrap();
    assert_eq!(now(), (InstanceState::Idle, 1, id));
    let used = pool.clone();
    worker.run(move || (0..9).for_each(|_| drop(used.with_ref(|_| ()))));
    assert_eq!(now(), (InstanceState::Idle, 10, id));

    let used = pool.clone();
    let closes = worker.start(move || used.close_here());
    closing.wait_for_arrival();
    assert_eq!(now(), (InstanceState::Closing, 10, id));
    assert!(!pool.wait_closed(Duration::ZERO));
    closing.open();
    assert!(closes.wait().unwrap());
    assert!(registry.snapshot().is_empty());

    let pools = registry.snapshot().pools;
    assert_eq!(pools.len(), 1);
    assert_eq!((pools[0].id, pools[0].name.as_str()), (pool.id(), "p"));
    assert!(pools[0].type_name.contains("Session"));
}

#[test]
fn an_entry_tells_the_wrong_thread() {
    let (registry, stage) = (Registry::new(), Stage::new());
    let pool = stage.pool(&registry);
    let workers: Vec<_> = (0..3).map(|n| Worker::new(&format!("owner-{n}"))).collect();
    let mut expected = BTreeMap::new();
    for worker in &workers {
        let pool = pool.clone();
        let (id, os_id) = worker.run(move || {
            #[cfg(target_os = "linux")]
            // SAFETY: it takes nothing, touches no memory and cannot fail.
            let os_id = Some(unsafe { libc::gettid() }.unsigned_abs().into());
            #[cfg(not(target_os = "linux"))]
            let os_id = None;
            (pool.with(|session| session.touch()).unwrap(), os_id)
        });
        expected.insert(id, os_id);
    }
    let instances = registry.snapshot().instances;
    assert!(instances.is_sorted_by_key(|instance| instance.id), "oldest first");
    let mut numbers: Vec<u64> = Vec::new();
    for (n, instance) in instances.iter().enumerate() {
        assert_eq!(instance.owner.name, Some(format!("owner-{n}")));
        assert_eq!(instance.owner.os_id, expected[&instance.id]);
        assert_eq!(instance.pool_id, pool.id());
        numbers.push(instance.owner.number);
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 3);
}

#[test]
fn an_own_registry_is_seen_by_others() {
    let (mine, yours) = (Registry::new(), Registry::new());
    let (a, b) = (Stage::new(), Stage::new());
    let (my_pool, your_pool) = (a.pool(&mine), b.pool(&yours));
    let id = my_pool.with(|session| session.touch()).unwrap();
    your_pool.with(|session| session.touch()).unwrap();
    assert_eq!(mine.snapshot().instances.len(), 1);
    assert_eq!(mine.clone().snapshot().instances[0].id, id);
    assert!(!Registry::global().snapshot().instances.iter().any(|one| one.id == id));
    assert!(!yours.evict(id));
    assert!(yours.close_all(Duration::ZERO).is_clean());
    assert!(!my_pool.is_closed() && your_pool.is_closed());
    assert_eq!((a.count(What::Close), b.count(What::Close)), (0, 1));
}

/// The only test here of the global one: it may hold other tests' pools one day.
#[test]
fn a_pool_that_names_no_registry_is_listed_nowhere() {
    let pool = Pool::from_fn(|_| 7_u16);
    pool.with(|_| ()).unwrap();
    let snapshot = Registry::global().snapshot();
    let listed = snapshot.instances.iter().find(|one| one.pool_id == pool.id()).unwrap();
    assert_eq!((listed.pool.as_str(), listed.type_name.as_str()), ("u16", "u16"));
    assert_eq!(pool.name(), "u16");
}

#[test]
fn an_eviction_misses_or_hits_the_wrong_one() {
    let (registry, stage, events) = (Registry::new(), Stage::new(), Events::new());
    let pools = [(); 2].map(|()| {
        let builder = stage.builder(&registry);
        builder.on_event(events.handler()).build().unwrap()
    });
    let worker = Worker::new("owner");
    let used = pools.clone();
    let ids = worker.run(move || used.map(|pool| pool.with(|session| session.touch()).unwrap()));

    assert!(registry.evict(ids[1]));
    assert!(!registry.evict(ids[1]), "it is gone");
    let close = stage.the_close_of(ids[1]);
    assert_eq!(close.reason, Some(CloseReason::Evicted));
    assert_eq!(close.thread, std::thread::current().id());
    assert!(events.of(ids[1]).contains(&Told::Evicted(CloseReason::Evicted)));
    assert_eq!(stage.count(What::Close), 1);
    let used = pools.clone();
    let again = worker.run(move || used.map(|pool| pool.with(|session| session.touch()).unwrap()));
    assert!(again[0] == ids[0] && again[1] != ids[1]);

    // A busy one goes when it is let go, and the second order is not the first.
    let gate = Gate::new();
    let (used, at) = (pools[0].clone(), gate.clone());
    let held = worker.start(move || used.with(|_| at.pass()));
    gate.wait_for_arrival();
    assert!(registry.evict(ids[0]) && !registry.evict(ids[0]));
    gate.open();
    held.wait().unwrap();
    assert_eq!(stage.the_close_of(ids[0]).thread, worker.id());
}

#[test]
fn close_all_waits_for_one_pool_before_it_tells_the_next() {
    let (registry, stage) = (Registry::new(), Stage::new());
    let pools = [(); 3].map(|()| stage.pool(&registry));
    let gate = Gate::new();
    let workers: Vec<_> = pools
        .iter()
        .map(|pool| {
            let (worker, arrived) = (Worker::new("owner"), Gate::new());
            let (pool, gate, here) = (pool.clone(), gate.clone(), arrived.clone());
            let held = worker.start(move || {
                pool.with(|_| {
                    here.open();
                    gate.pass();
                })
            });
            arrived.pass();
            (worker, held)
        })
        .collect();
    let closer = Worker::new("closer");
    let all = registry.clone();
    let closing = closer.start(move || all.close_all(TOO_LONG));
    poll_until("all have been told", || pools.iter().all(Pool::is_closed));
    gate.open();
    let report = closing.wait();
    // Those that had closed before their pool's turn came to be listed are not in the report.
    assert!(report.is_clean() && report.closed == 3, "{report}");
    for (_, held) in workers {
        held.wait().unwrap();
    }
    stage.assert_each_closed_once();
}

#[test]
fn the_deadline_of_close_all_is_each_pools_own() {
    let (registry, stage) = (Registry::new(), Stage::new());
    let (worker, gate) = (Worker::new("owner"), Gate::new());
    let pools = [(); 4].map(|()| stage.pool(&registry));
    let (used, at) = (pools.clone(), gate.clone());
    let held = worker.start(move || {
        let _guards: Vec<_> = used.iter().map(|pool| pool.get().unwrap()).collect();
        at.pass();
    });
    gate.wait_for_arrival();
    let within = Duration::from_millis(500);
    let begun = std::time::Instant::now();
    let report = registry.close_all(within);
    let took = begun.elapsed();
    assert_eq!(report.still_open.len(), 4, "{report}");
    assert!(took >= within && took < 4 * within, "one deadline for all: {took:?}");
    gate.open();
    held.wait();
    assert!(pools.iter().all(|pool| pool.wait_closed(PATIENCE)));
}

#[test]
fn a_shutdown_guard_leaves_something_open() {
    let (registry, stage) = (Registry::new(), Stage::new());
    let worker = Worker::new("owner");
    let use_a_new_pool = || {
        let pool = stage.pool(&registry);
        let used = pool.clone();
        worker.run(move || used.with(|session| session.touch()).unwrap());
        pool
    };
    let pool = use_a_new_pool();
    {
        let _guard = registry.close_on_drop(TOO_LONG);
        assert_eq!(stage.count(What::Close), 0);
    }
    assert!(pool.is_closed());
    stage.assert_each_closed_once();

    let pool = use_a_new_pool();
    let report = registry.close_on_drop(TOO_LONG).close();
    assert!(report.is_clean() && report.closed == 1, "{report}");
    assert!(pool.is_closed());
    stage.assert_each_closed_once();
}

/// Per instance: first `Created` or `CreateFailed`; if created, last `Closed` or `CloseFailed`, once.
/// `Evicted` is told by the thread that gives the order, and so may come before or after any of them.
#[test]
fn a_story_has_no_beginning_or_two_ends() {
    let (registry, stage, events) = (Registry::new(), Stage::new(), Events::new());
    let pool = stage.builder(&registry).on_event(events.handler()).max_uses(20).build().unwrap();
    stage.set_rescues(true);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (pool, stage) = (&pool, &stage);
            scope.spawn(move || {
                for n in 0..120 {
                    match (n + thread) % 12 {
                        1 => drop(stage.on_create(fail("no"))),
                        3 => drop(stage.on_close(fail("no"))),
                        5 => drop(stage.on_close(panics("no"))),
                        7 => drop(pool.discard()),
                        _ => {}
                    }
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        pool.with(|session| {
                            session.touch();
                            assert!(n % 10 != 9, "poisons");
                        })
                    }));
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..60 {
                pool.clear();
                for instance in registry.snapshot().instances {
                    registry.evict(instance.id);
                }
            }
        });
    });
    assert!(pool.wait_closed(PATIENCE));

    let mut stories: BTreeMap<InstanceId, Vec<Told>> = BTreeMap::new();
    for (id, told) in events.all() {
        stories.entry(id).or_default().push(told);
    }
    let is_end = |told: &Told| matches!(told, Told::Closed(_) | Told::CloseFailed(..));
    let (mut created, mut failed) = (0, 0);
    for (id, mut story) in stories {
        story.retain(|told| !matches!(told, Told::Evicted(_)));
        match &story[..] {
            [Told::CreateFailed(_)] => failed += 1,
            [Told::Created, between @ .., end] => {
                created += 1;
                assert!(is_end(end), "{id}: {story:?}");
                let poisoned = |told: &Told| matches!(told, Told::Poisoned { .. });
                assert!(between.iter().all(poisoned), "{id}: {story:?}");
            }
            _ => panic!("{id}: {story:?}"),
        }
    }
    let status = pool.status();
    assert_eq!((status.created, status.create_failed, status.closed), (created, failed, created));
    stage.assert_each_closed_once();
}

/// The order to close is told as such, once, and not when the owner gives it itself.
#[test]
fn an_order_from_afar_is_not_told() {
    let (registry, stage, events) = (Registry::new(), Stage::new(), Events::new());
    let pool = stage.builder(&registry).on_event(events.handler()).build().unwrap();
    let worker = Worker::new("owner");
    let use_it = || {
        let pool = pool.clone();
        worker.run(move || pool.with(|session| session.touch()).unwrap())
    };
    let id = use_it();
    pool.clear();
    pool.clear();
    assert_eq!(
        events.of(id),
        [Told::Created, Told::Evicted(CloseReason::Cleared), Told::Closed(CloseReason::Cleared)]
    );
    let id = use_it();
    let used = pool.clone();
    worker.run(move || used.discard());
    assert_eq!(events.of(id), [Told::Created, Told::Closed(CloseReason::Discarded)]);
}

/// A handler is the user's: it may panic, look, and come back to the pool, also at thread exit.
#[test]
fn a_handler_runs_under_a_lock_or_its_panic_gets_out() {
    static POOL: OnceLock<Pool<Session>> = OnceLock::new();
    let (registry, stage) = (Registry::new(), Stage::new());
    let told = Arc::new(Watched::<usize>::default());
    let handler = {
        let (told, registry) = (Arc::clone(&told), registry.clone());
        move |event: &InstanceEvent<'_>| {
            told.change(|told| *told += 1);
            if let Some(pool) = POOL.get() {
                let _ = (pool.with(|session| session.touch()), pool.status());
                let _ = (pool.retain(|_| true), pool.wait_closed(Duration::ZERO));
            }
            let _ = registry.snapshot();
            panic!("the handler is done with {event:?}");
        }
    };
    let pool = stage.builder(&registry).on_event(handler).max_size(2).build().unwrap();
    let pool = POOL.get_or_init(|| pool);
    let worker = Worker::new("owner");
    worker.run(|| {
        pool.with(|session| session.touch()).unwrap();
        panic_of(|| pool.with(|_| panic!("poisons")));
        pool.with(|session| session.touch()).unwrap();
    });
    pool.clear();
    worker.end();
    assert!(pool.close(PATIENCE).is_clean());
    stage.assert_each_closed_once();
    assert!(told.read(|told| *told) >= 2 * stage.count(What::Create));
}

/// The manager, too, may look at everything in each of its methods.
#[test]
fn a_method_of_the_manager_runs_under_a_lock() {
    let (registry, stage) = (Registry::new(), Stage::new());
    let builder = stage.builder(&registry).max_size(1).wait_timeout(None);
    let pool = builder.build().unwrap();
    let look = |stage: &Stage| {
        for _ in 0..3 {
            let looks = || {
                let (pool, registry) = (pool.clone(), registry.clone());
                first(move || {
                    let oldest = registry.snapshot().instances[0].id;
                    let _ = (pool.status(), registry.evict(oldest));
                    pool.retain(|_| true);
                    drop(Stage::new().pool(&registry));
                })
            };
            stage.on_close(looks());
        }
    };
    look(&stage);
    let workers = [Worker::new("a"), Worker::new("b"), Worker::new("a")];
    for worker in workers {
        let pool = pool.clone();
        worker.run(move || pool.with(|session| session.touch()).unwrap());
        worker.end();
    }
    assert_eq!(stage.count(What::Close), 3);
}
