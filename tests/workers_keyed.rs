//! Keyed instances: on the wrong worker, shared, out of order, kept too long, or not closed.

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use sessile::manager::CloseReason;
use sessile::task::JoinHandle;
use sessile::{Pool, Registry, Workers, from_fn};
use support::{Gate, PATIENCE, Session, Stage, Stay, What};

/// What comes of it, in time.
#[track_caller]
fn joined<R, B>(handle: JoinHandle<R, B>) -> R {
    let Ok(joined) = handle.join_timeout(PATIENCE) else { panic!("waited in vain") };
    joined.unwrap_or_else(|error| panic!("{error}"))
}

fn key(n: impl ToString) -> String {
    n.to_string()
}

/// Workers whose instances must not leave their thread, and are reached by text.
fn local(stage: &Stage, registry: &Registry, threads: usize) -> Workers<Stay> {
    Workers::builder(stage.builder_local(registry)).threads(threads).build().unwrap()
}

#[test]
fn a_key_changes_its_worker_or_its_instance() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = local(&stage, &registry, 3);
    let mut seen = HashMap::new();
    for round in 0..20 {
        for n in 0..50 {
            let keyed = workers.keyed(key(n));
            let now = joined(
                keyed
                    .submit(move |session: &mut Stay| {
                        (session.touch(), session.uses, thread::current().id())
                    })
                    .unwrap(),
            );
            let (id, uses, thread) = now;
            assert_eq!(uses, round + 1, "nobody else uses it");
            assert_eq!(*seen.entry(n).or_insert((id, thread)), (id, thread));
        }
    }
    let mut ids: Vec<_> = seen.values().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 50, "each has its own");
    let mut threads: Vec<_> = seen.values().map(|(_, thread)| format!("{thread:?}")).collect();
    threads.sort_unstable();
    threads.dedup();
    assert_eq!(threads.len(), 3, "fifty keys are spread over all");
}

#[test]
fn work_for_one_key_overtakes_itself() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = local(&stage, &registry, 2);
    let (tell, told) = mpsc::channel();
    for n in 0..500 {
        let tell = tell.clone();
        let work = move |_: &mut Stay| tell.send(n).unwrap();
        workers.keyed(key(n % 5)).submit(work).unwrap().detach();
    }
    drop(tell);
    let mut last = [None; 5];
    for n in told {
        assert!(last[n % 5] < Some(n));
        last[n % 5] = Some(n);
    }
}

#[test]
fn a_snapshot_does_not_tell_whose_an_instance_is() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = local(&stage, &registry, 2);
    assert!(!workers.keyed(key("alice")).is_live());
    for name in ["alice", "bob"] {
        joined(workers.keyed(key(name)).submit(|_| ()).unwrap());
    }
    joined(workers.submit(|_| ()).unwrap());
    let keyed = workers.keyed(key("alice"));
    assert!(keyed.is_live());
    assert_eq!(keyed.key(), "alice");
    let mut keys = workers.keys();
    keys.sort();
    assert_eq!(keys, ["alice", "bob"]);
    let snapshot = registry.snapshot();
    let alice = snapshot.instances.iter().find(|one| one.key.as_deref() == Some("alice"));
    let worker = format!("worker-{}", keyed.worker());
    assert_eq!(alice.unwrap().owner.name.as_deref(), Some(&*worker));
    assert_eq!(snapshot.instances.iter().filter(|one| one.key.is_none()).count(), 1);
    assert!(serde_json::to_string(&snapshot).unwrap().contains(r#""key":"bob""#));
    drop(workers);
    assert!(registry.snapshot().instances.is_empty());
    stage.assert_each_closed_once();
}

#[test]
fn beyond_the_cap_the_wrong_instance_goes_or_none() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = Workers::builder(stage.builder_local(&registry))
        .threads(1)
        .keyed_capacity(2)
        .build()
        .unwrap();
    let touch = |name| {
        joined(workers.keyed(key(name)).submit(|session: &mut Stay| session.touch()).unwrap())
    };
    let (alice, bob) = (touch("alice"), touch("bob"));
    assert_eq!(touch("alice"), alice, "so it is bob that was used least recently");
    touch("carol");
    let close = stage.the_close_of(bob);
    assert_eq!(close.reason, Some(CloseReason::MadeRoom));
    let on_worker = joined(workers.submit(|_| thread::current().id()).unwrap());
    assert_eq!(close.thread, on_worker);
    assert!(!workers.keyed(key("bob")).is_live());
    assert_eq!(touch("alice"), alice);
    assert_ne!(touch("bob"), bob, "made anew");
    assert_eq!(workers.keys().len(), 2);
}

#[test]
fn a_key_is_not_closed_when_asked_or_before_its_work() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let workers = local(&stage, &registry, 1);
    let keyed = workers.keyed(key("alice"));
    assert!(!joined(keyed.close().unwrap()), "there was none");
    let holds = gate.clone();
    let first = keyed.submit(move |session: &mut Stay| {
        holds.pass();
        session.touch()
    });
    gate.wait_for_arrival();
    let second = keyed.submit(|session: &mut Stay| session.touch()).unwrap();
    let closed = keyed.close().unwrap();
    gate.open();
    let id = joined(first.unwrap());
    assert_eq!(joined(second), id, "queued before the close");
    assert!(joined(closed));
    assert_eq!(stage.the_close_of(id).reason, Some(CloseReason::ClosedHere));
    assert!(!keyed.is_live() && workers.keys().is_empty());
    assert_ne!(joined(keyed.submit(|session: &mut Stay| session.touch()).unwrap()), id);
}

/// The reaper orders it closed from its own thread; the worker sleeps, and must be woken for it.
#[test]
fn an_idle_key_is_kept_beyond_its_time() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let pool = stage.builder_local(&registry).idle_timeout(Duration::from_millis(5));
    let workers = Workers::builder(pool).threads(2).build().unwrap();
    let id =
        joined(workers.keyed(key("alice")).submit(|session: &mut Stay| session.touch()).unwrap());
    stage.wait_for(What::Close, 1);
    let close = stage.the_close_of(id);
    assert_eq!(close.reason, Some(CloseReason::IdleTimeout));
    assert_ne!(close.thread, thread::current().id());
    support::poll_until("it is forgotten", || workers.keys().is_empty());
}

#[test]
fn clear_retain_and_evict_do_not_reach_a_key_on_a_sleeping_worker() {
    for is_local in [true, false] {
        let (stage, registry) = (Stage::new(), Registry::new());
        if is_local {
            reached(&stage, &registry, &local(&stage, &registry, 2), Stay::touch);
        } else {
            let pool = stage.builder(&registry);
            let workers = Workers::builder(pool).threads(2).build().unwrap();
            reached(&stage, &registry, &workers, Session::touch);
        }
        stage.assert_each_closed_once();
    }
}

fn reached<T: 'static>(
    stage: &Stage,
    registry: &Registry,
    workers: &Workers<T>,
    touch: fn(&mut T) -> sessile::pool::InstanceId,
) {
    let mut closes = 0;
    let orders: [(CloseReason, &dyn Fn(sessile::pool::InstanceId)); 3] = [
        (CloseReason::Cleared, &|_| assert_eq!(workers.pool().clear(), 3)),
        (CloseReason::NotRetained, &|_| {
            assert_eq!(workers.pool().retain(|one| one.key.is_none()), 3);
        }),
        (CloseReason::Evicted, &|id| assert!(registry.evict(id))),
    ];
    for (reason, order) in orders {
        let ids: Vec<_> =
            (0..3).map(|n| joined(workers.keyed(key(n)).submit(touch).unwrap())).collect();
        order(ids[0]);
        closes += if reason == CloseReason::Evicted { 1 } else { 3 };
        stage.wait_for(What::Close, closes);
        assert_eq!(stage.the_close_of(ids[0]).reason, Some(reason));
        support::poll_until("it is not live", || !workers.keyed(key(0)).is_live());
        let again = joined(workers.keyed(key(0)).submit(touch).unwrap());
        assert_ne!(again, ids[0]);
        joined(workers.keyed(key(0)).close().unwrap());
        closes += 1;
    }
    let report = workers.shutdown(PATIENCE);
    assert!(report.is_clean(), "{report:?}");
}

/// A keyed instance that has ended by itself is to leave nothing behind.
#[test]
fn a_key_outlives_its_last_use() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let pool = stage.builder_local(&registry).max_uses(2);
    let workers = Workers::builder(pool).threads(1).keyed_capacity(2).build().unwrap();
    let touch = |name| {
        joined(workers.keyed(key(name)).submit(|session: &mut Stay| session.touch()).unwrap())
    };
    let bystander = touch("bystander");
    for n in 0..10 {
        let (first, second) = (touch("spent"), touch("spent"));
        assert_eq!(first, second);
        assert_eq!(stage.the_close_of(first).reason, Some(CloseReason::MaxUses));
        assert!(!workers.keyed(key("spent")).is_live());
        let payload = workers.keyed(key("poisoned")).submit(|_: &mut Stay| panic!("in the work"));
        assert!(payload.unwrap().join().unwrap_err().is_panic());
        assert_eq!(stage.count(What::Close), 2 * n + 2);
    }
    // Had they been kept though spent, they would have driven this one out.
    assert_eq!(touch("bystander"), bystander);
}

/// Under `max_size` a worker's own idle instances have to make room for its next: nobody else can.
#[test]
fn keys_of_one_worker_wait_for_each_others_room() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let pool = stage.builder_local(&registry).max_size(2).wait_timeout(PATIENCE);
    let workers = Workers::builder(pool).threads(1).build().unwrap();
    let begun = std::time::Instant::now();
    for n in 0..20 {
        joined(workers.keyed(key(n)).submit(|session: &mut Stay| session.touch()).unwrap());
        assert!(workers.pool().status().size <= 2);
    }
    joined(workers.submit(|session: &mut Stay| session.touch()).unwrap());
    assert!(begun.elapsed() < PATIENCE, "nothing was waited for");
    support::poll_until("the dead are forgotten", || workers.keys().len() <= 2);
    assert_eq!(stage.count(What::Close), 19);
}

/// What a key's work is inside of cannot make room for what that work itself asks for.
#[test]
fn a_worker_closes_the_instance_that_it_is_inside_of_to_make_room() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let pool = stage.builder(&registry).max_size(1).wait_timeout(Duration::from_millis(20));
    let workers = Workers::builder(pool).threads(1).build().unwrap();
    let inner = workers.pool().clone();
    let error = workers.keyed(key("alice")).submit(move |session: &mut Session| {
        let error = inner.with(|_| ()).unwrap_err();
        session.touch();
        assert_eq!(session.stage_closes(), 0, "not while it is in use");
        error.is_timeout()
    });
    assert!(joined(error.unwrap()));
    joined(workers.submit(|session: &mut Session| session.touch()).unwrap());
}

#[test]
fn a_key_that_panics_ends_the_worker() {
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Odd(u8);
    impl std::fmt::Display for Odd {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            assert_ne!(self.0, 1, "this key has no name");
            f.write_str("even")
        }
    }
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers: Workers<Session, Odd> =
        Workers::builder(stage.builder(&registry)).threads(1).build_keyed().unwrap();
    let error = workers.keyed(Odd(1)).submit(|_| ()).unwrap().join().unwrap_err();
    assert!(error.is_no_instance() && error.into_body().is_some());
    joined(workers.keyed(Odd(2)).submit(|_| ()).unwrap());
    assert!(workers.shutdown(PATIENCE).is_clean());
}

/// The ordinary case of a server of agents: far more conversations than threads.
#[test]
fn ten_thousand_keys_on_two_workers_are_mixed_up() {
    let registry = Registry::new();
    let closed = Arc::new(AtomicUsize::new(0));
    struct Counted(u64, Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
    let counts = Arc::clone(&closed);
    let pool = Pool::builder_local(from_fn(move |_| Counted(0, Arc::clone(&counts))));
    let workers: Workers<Counted, u64> =
        Workers::builder(pool.registry(&registry)).threads(2).build_keyed().unwrap();
    let sums = Arc::new(Mutex::new(Vec::new()));
    for round in 1..=3 {
        for n in 0..10_000_u64 {
            let work = move |own: &mut Counted| own.0 += n * round;
            workers.keyed(n).submit(work).unwrap().detach();
        }
    }
    let last = (0..10_000_u64).map(|n| {
        let sums = Arc::clone(&sums);
        let work = move |own: &mut Counted| sums.lock().unwrap().push((n, own.0));
        workers.keyed(n).submit(work).unwrap()
    });
    last.collect::<Vec<_>>().into_iter().for_each(joined);
    for worker in 0..2 {
        joined(workers.submit_to(worker, |_| ()).unwrap());
    }
    let sums = sums.lock().unwrap();
    assert_eq!(sums.len(), 10_000);
    assert!(sums.iter().all(|(n, sum)| *sum == n * 6));
    assert_eq!(workers.keys().len(), 10_000);
    assert_eq!(registry.snapshot().instances.len(), 10_002);
    assert_eq!(workers.pool().clear(), 10_002);
    support::poll_until("all are closed", || closed.load(Ordering::SeqCst) == 10_002);
    assert!(workers.shutdown(PATIENCE).is_clean());
    assert!(registry.snapshot().instances.is_empty());
}

#[test]
fn a_new_key_goes_to_the_worker_with_the_least_to_do() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let workers = local(&stage, &registry, 16);
    let mut used = Vec::new();
    let all: Vec<_> = (0..16)
        .map(|n| {
            let (keyed, holds) = (workers.keyed(key(n)), gate.clone());
            let work = keyed.submit(move |_: &mut Stay| holds.pass()).unwrap();
            used.push(keyed.worker());
            work
        })
        .collect();
    // Nobody waits for somebody else's.
    support::poll_until("all run", || workers.status().running == 16);
    used.sort_unstable();
    assert_eq!(used, (0..16).collect::<Vec<_>>());
    gate.open();
    all.into_iter().for_each(joined);
    // They stay while they live, and the next sixteen are spread as evenly.
    for n in 16..32 {
        joined(workers.keyed(key(n)).submit(|_| ()).unwrap());
    }
    support::poll_until("nothing runs", || workers.status().running == 0);
    assert!(workers.status().workers.iter().all(|one| one.keys == 2), "{:?}", workers.status());
}

#[test]
fn a_key_that_was_closed_may_go_elsewhere() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let workers = local(&stage, &registry, 2);
    let alice = workers.keyed(key("alice"));
    joined(alice.submit(|_| ()).unwrap());
    let first = alice.worker();
    assert!(joined(alice.close().unwrap()));
    support::poll_until("it is forgotten", || workers.status().workers[first].keys == 0);
    let holds = gate.clone();
    let held = workers.submit_to(first, move |_: &mut Stay| holds.pass()).unwrap();
    gate.wait_for_arrival();
    joined(alice.submit(|_| ()).unwrap()); // by the very same handle
    assert_ne!(alice.worker(), first);
    gate.open();
    joined(held);
}

#[test]
fn keys_of_one_worker_take_turns_and_none_fills_the_others_queue() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let workers = Workers::builder(stage.builder(&registry))
        .threads(1)
        .queue_capacity(1)
        .keyed_queue_capacity(50)
        .build()
        .unwrap();
    let holds = gate.clone();
    workers.submit(move |_| holds.pass()).unwrap().detach();
    gate.wait_for_arrival();
    let (tell, told) = mpsc::channel();
    let work = |who: &'static str| {
        let tell = tell.clone();
        move |_: &mut Session| tell.send(who).unwrap()
    };
    let flood = workers.keyed(key("flood"));
    while flood.try_submit(work("flood")).is_ok() {}
    assert!(flood.try_submit(|_| ()).unwrap_err().is_key_full());
    let others = ["alice", "bob"].map(|who| workers.keyed(key(who)).try_submit(work(who)).unwrap());
    workers.try_submit(|_| ()).unwrap().detach();
    gate.open();
    others.into_iter().for_each(joined);
    drop(tell);
    let order: Vec<_> = told.iter().take(52).collect();
    let place = |who| order.iter().position(|one| *one == who).unwrap();
    assert!(place("alice") <= 2 && place("bob") <= 3, "{order:?}");
}

#[test]
fn an_event_names_the_key_of_its_instance() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tells = Arc::clone(&told);
    let pool = sessile::Pool::builder(sessile::from_fn(|_| 0_u8)).on_event(move |event| {
        if let sessile::pool::InstanceEventKind::Created { .. } = event.kind {
            tells.lock().unwrap().push(event.key.map(str::to_owned));
        }
    });
    let workers = sessile::Workers::builder(pool).threads(1).build().unwrap();
    workers.keyed("ann".to_owned()).submit(|_| ()).unwrap().join().unwrap();
    workers.submit(|_| ()).unwrap().join().unwrap();
    assert_eq!(*told.lock().unwrap(), [Some("ann".to_owned()), None]);
}
