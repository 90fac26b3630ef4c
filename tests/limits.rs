//! More threads than room, and instances used up.

mod support;

use std::sync::Once;
use std::time::Duration;

use sessile::manager::CloseReason;
use sessile::pool::{InstanceEvent, InstanceEventKind, InstanceId};
use sessile::{CreateContext, Manager, Pool, PoolError, Registry};
use support::*;

fn scene(max_size: usize) -> (Stage, Pool<Session>) {
    let stage = Stage::new();
    let builder = stage.builder(&Registry::new()).max_size(max_size).wait_timeout(None);
    (stage, builder.build().unwrap())
}

fn workers(count: usize) -> Vec<Worker> {
    (0..count).map(|n| Worker::new(&format!("owner-{n}"))).collect()
}

type Used = Pending<Result<InstanceId, PoolError>>;

/// The worker uses the pool, and is inside until the gate opens.
fn hold_inside(worker: &Worker, pool: &Pool<Session>, gate: &Gate) -> Used {
    let (pool, gate) = (pool.clone(), gate.clone());
    worker.start(move || {
        pool.with(|session| {
            gate.pass();
            session.touch()
        })
    })
}

/// The worker asks for the pool, and is in the queue when this returns.
fn queue_up(worker: &Worker, pool: &Pool<Session>) -> Used {
    let (before, asks) = (pool.status().waiting, pool.clone());
    let used = worker.start(move || asks.with(|session| session.touch()));
    poll_until("it waits", || pool.status().waiting == before + 1);
    used
}

#[test]
fn there_are_more_than_may_be() {
    const MOST: usize = 2;
    let (stage, pool) = scene(MOST);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..50 {
                    pool.with(|session| {
                        assert!(pool.status().size <= MOST);
                        session.touch()
                    })
                    .unwrap();
                }
            });
        }
    });
    assert!(pool.wait_closed(PATIENCE));
    stage.assert_each_closed_once();
    assert_eq!(pool.status().waiting, 0);
}

#[test]
fn idle_instances_are_handed_over_or_keep_others_out() {
    let (stage, pool) = scene(1);
    let workers = workers(3);
    let mut ids = Vec::new();
    for worker in workers.iter().chain(&workers) {
        let used = pool.clone();
        // `touch` fails if the session is another thread's.
        ids.push(worker.run(move || used.with(|session| session.touch()).unwrap()));
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "each has made its own: {ids:?}");
    let closes = stage.notes(What::Close);
    assert_eq!(closes.len(), 5);
    for (n, close) in closes.iter().enumerate() {
        assert_eq!((close.id, close.reason), (ids[n], Some(CloseReason::MadeRoom)));
        assert_eq!(close.thread, workers[(n + 1) % 3].id(), "closed by who needs the room");
    }
}

#[test]
fn a_busy_instance_is_closed_to_make_room_before_it_is_let_go() {
    let (stage, pool) = scene(1);
    let (workers, gate) = (workers(2), Gate::new());
    let held = hold_inside(&workers[0], &pool, &gate);
    gate.wait_for_arrival();
    let waits = queue_up(&workers[1], &pool);
    poll_until("it is ordered closed", || pool.status().closing == 1);
    assert_eq!(stage.count(What::Close), 0);
    gate.open();
    let id = held.wait().unwrap();
    waits.wait().unwrap();
    let close = stage.the_close_of(id);
    assert_eq!((close.thread, close.reason), (workers[0].id(), Some(CloseReason::MadeRoom)));
}

#[test]
fn a_late_comer_overtakes() {
    let (stage, pool) = scene(1);
    let (workers, gate) = (workers(6), Gate::new());
    let held = hold_inside(&workers[0], &pool, &gate);
    gate.wait_for_arrival();
    let waiting: Vec<_> = workers[1..].iter().map(|worker| queue_up(worker, &pool)).collect();
    gate.open();
    let mut ids = vec![held.wait().unwrap()];
    ids.extend(waiting.into_iter().map(|used| used.wait().unwrap()));
    let made: Vec<_> = stage.notes(What::Create).iter().map(|note| note.thread).collect();
    let asked: Vec<_> = workers.iter().map(Worker::id).collect();
    assert_eq!(made, asked, "in the order of asking");
}

/// While an instance is being made it cannot be chosen to make room; later it must be.
#[test]
fn who_asks_while_the_room_is_being_filled_is_forgotten() {
    for local in [false, true] {
        let stage = Stage::new();
        let (workers, gate) = (workers(2), Gate::new());
        stage.on_create(hold(&gate));
        fn play<M: 'static>(pool: Pool<Session<M>>, workers: &[Worker], gate: &Gate) {
            let uses = || {
                let pool = pool.clone();
                move || pool.with(|session| session.touch())
            };
            let makes = workers[0].start(uses());
            gate.wait_for_arrival();
            let waits = workers[1].start(uses());
            poll_until("the second one waits", || pool.status().waiting == 1);
            gate.open();
            makes.wait().unwrap();
            // One that may not leave its thread is closed when that thread uses any pool.
            let (other, seen) = (Stage::new().pool(&Registry::new()), pool.clone());
            workers[0].run(move || {
                poll_until("the second one is served", || {
                    other.with(|_| ()).unwrap();
                    seen.status().waiting == 0
                });
            });
            waits.wait().unwrap();
        }
        let registry = Registry::new();
        if local {
            let builder = stage.builder_local(&registry).max_size(1).wait_timeout(None);
            play(builder.build().unwrap(), &workers, &gate);
        } else {
            let builder = stage.builder(&registry).max_size(1).wait_timeout(None);
            play(builder.build().unwrap(), &workers, &gate);
        }
        workers.into_iter().for_each(Worker::end);
        stage.assert_each_closed_once();
    }
}

/// The same where an instance must have been idle first.
#[test]
fn who_asks_while_the_room_is_being_filled_never_looks_again() {
    let stage = Stage::new();
    let idle = Duration::from_millis(20);
    let builder = stage.builder(&Registry::new()).max_size(1).wait_timeout(None);
    let pool = builder.evict_idle_after(idle).build().unwrap();
    let (workers, gate) = (workers(3), Gate::new());
    stage.on_create(hold(&gate));
    let makes = workers[0].start({
        let pool = pool.clone();
        move || pool.with(|session| session.touch())
    });
    gate.wait_for_arrival();
    let waiting = [queue_up(&workers[1], &pool), queue_up(&workers[2], &pool)];
    gate.open();
    makes.wait().unwrap();
    for used in waiting {
        used.wait().unwrap();
    }
    let closes = stage.notes(What::Close);
    assert!(closes.iter().all(|close| close.reason == Some(CloseReason::MadeRoom)), "{closes:?}");
}

/// Threads that make room for each other must each get to use what they made.
#[test]
fn an_instance_is_closed_to_make_room_before_its_first_use() {
    let (stage, gate) = (Stage::new(), Gate::new());
    let held_up = (gate.clone(), Once::new());
    // Between its creation and its first use, the owner is held up, and another asks for room.
    let handler = move |event: &InstanceEvent<'_>| {
        if let InstanceEventKind::Created { .. } = event.kind {
            held_up.1.call_once(|| held_up.0.pass());
        }
    };
    let builder = stage.builder(&Registry::new()).on_event(handler);
    let pool = builder.max_size(1).wait_timeout(None).build().unwrap();
    let workers = workers(2);
    let uses = || {
        let pool = pool.clone();
        move || pool.with(|session| session.touch())
    };
    let makes = workers[0].start(uses());
    gate.wait_for_arrival();
    let waits = workers[1].start(uses());
    poll_until("it is ordered closed", || pool.status().closing == 1);
    gate.open();
    let ids = [makes.wait().unwrap(), waits.wait().unwrap()];
    let made: Vec<_> = stage.notes(What::Create).iter().map(|note| note.id).collect();
    assert_eq!(made, ids, "two instances for two uses");
    assert_eq!(stage.the_close_of(ids[0]).thread, workers[0].id());
}

#[test]
fn a_wait_never_ends_or_leaves_its_place_behind() {
    let stage = Stage::new();
    let builder = stage.builder(&Registry::new()).max_size(1).evict_idle_after(None);
    let pool = builder.wait_timeout(Duration::from_millis(5)).build().unwrap();
    let workers = workers(2);
    let used = pool.clone();
    workers[0].run(move || used.with(|_| ()).unwrap());

    for error in [
        pool.with(|_| ()).unwrap_err(),
        pool.with_ref(|_| ()).unwrap_err(),
        pool.get_timeout(Duration::ZERO).map(drop).unwrap_err(),
        pool.get_ref_timeout(Duration::from_millis(1)).map(drop).unwrap_err(),
    ] {
        assert!(error.is_timeout() && !error.is_closed(), "{error:?}");
    }
    assert_eq!(pool.status().waiting, 0);
    assert_eq!(stage.count(What::Close), 0, "nothing was closed for them");
    // Who has one does not wait.
    let has = pool.clone();
    workers[0].run(move || drop(has.get_timeout(Duration::ZERO).unwrap()));
    // Room that comes free afterwards is not given to one who has left.
    let ends = pool.clone();
    workers[0].run(move || ends.close_here().unwrap());
    pool.get_timeout(Duration::ZERO).unwrap().touch();
}

#[test]
fn room_made_for_one_who_gave_up_is_lost() {
    let (stage, pool) = scene(1);
    let (workers, gate) = (workers(2), Gate::new());
    let held = hold_inside(&workers[0], &pool, &gate);
    gate.wait_for_arrival();
    // Asks for the busy instance to be closed, and leaves.
    assert!(pool.get_timeout(Duration::from_millis(1)).map(drop).unwrap_err().is_timeout());
    let waits = queue_up(&workers[1], &pool);
    gate.open();
    held.wait().unwrap();
    waits.wait().unwrap();
    assert_eq!(stage.count(What::Close), 1);
}

#[test]
fn a_thread_that_ends_makes_no_room() {
    let stage = Stage::new();
    let builder = stage.builder(&Registry::new()).max_size(1).evict_idle_after(None);
    let pool = builder.wait_timeout(None).build().unwrap();
    let mut workers = workers(2);
    let used = pool.clone();
    workers[0].run(move || used.with(|session| session.touch()).unwrap());
    let waits = queue_up(&workers[1], &pool);
    assert_eq!(stage.count(What::Close), 0, "an idle instance is safe here");
    workers.remove(0).end();
    waits.wait().unwrap();
    assert_eq!(stage.notes(What::Close)[0].reason, Some(CloseReason::ThreadExit));
}

#[test]
fn an_instance_is_closed_to_make_room_before_it_has_been_idle_for_long() {
    let stage = Stage::new();
    let builder = stage.builder(&Registry::new()).max_size(1).evict_idle_after(FOR_EVER);
    let pool = builder.build().unwrap();
    let workers = workers(1);
    let used = pool.clone();
    workers[0].run(move || used.with(|_| ()).unwrap());
    let refused = pool.get_timeout(Duration::from_millis(5)).map(drop).unwrap_err();
    assert!(refused.is_timeout(), "{refused:?}");
    assert_eq!(stage.count(What::Close), 0);
}

#[test]
fn a_closed_pool_leaves_those_who_wait_for_room_waiting() {
    let (stage, pool) = scene(1);
    let (workers, gate) = (workers(3), Gate::new());
    let held = hold_inside(&workers[0], &pool, &gate);
    gate.wait_for_arrival();
    let waiting = [queue_up(&workers[1], &pool), queue_up(&workers[2], &pool)];
    assert_eq!(pool.close(Duration::ZERO).still_open.len(), 1);
    for used in waiting {
        assert!(used.wait().unwrap_err().is_closed());
    }
    gate.open();
    held.wait().unwrap();
    stage.assert_each_closed_once();
    assert_eq!(pool.status().size, 0);
}

/// The idlest goes, not the one that is busy, nor the one just used.
#[test]
fn the_wrong_one_makes_room() {
    let (stage, pool) = scene(3);
    let (workers, gate) = (workers(4), Gate::new());
    let held = hold_inside(&workers[0], &pool, &gate);
    gate.wait_for_arrival();
    let use_it = |worker: &Worker| {
        let pool = pool.clone();
        worker.run(move || pool.with(|session| session.touch()).unwrap())
    };
    let [second, third] = [&workers[1], &workers[2]].map(use_it);
    // Idle age is counted from the first look that finds the count of uses unchanged.
    let idle_of = |id: InstanceId| {
        let instances = pool.registry().snapshot().instances;
        instances.into_iter().find(|instance| instance.id == id).unwrap().idle_ms
    };
    poll_until("the third is known to be idle", || idle_of(third) > 5);
    use_it(&workers[1]);
    poll_until("the second is known to be", || idle_of(second) > 0);
    use_it(&workers[3]);
    stage.the_close_of(third);
    assert_eq!(stage.count(What::Close), 1);
    gate.open();
    held.wait().unwrap();
}

#[test]
fn an_instance_is_used_once_too_often() {
    let stage = Stage::new();
    let pool = stage.builder(&Registry::new()).max_uses(3).build().unwrap();
    let ids: Vec<_> = (0..7).map(|_| pool.with(|session| session.touch()).unwrap()).collect();
    let mut distinct = ids.clone();
    distinct.dedup();
    assert_eq!(distinct.len(), 3, "{ids:?}");
    assert_eq!(ids[..3], [ids[0]; 3]);
    assert_eq!(ids[3..6], [ids[3]; 3]);
    let reasons: Vec<_> = stage.notes(What::Close).iter().map(|note| note.reason).collect();
    assert_eq!(reasons, [Some(CloseReason::MaxUses); 2]);
    // Guards count, and nested shared uses end when the outermost does.
    drop(pool.get().unwrap());
    assert_eq!(stage.count(What::Close), 2);
    pool.with_ref(|outer| {
        pool.with_ref(|_| ()).unwrap();
        pool.with_ref(|_| ()).unwrap();
        assert_eq!(stage.count(What::Close), 2);
        outer.look()
    })
    .unwrap();
    assert_eq!(stage.count(What::Close), 3);
}

#[test]
fn a_broken_instance_is_used_again() {
    let stage = Stage::new().breakable();
    let pool = stage.pool(&Registry::new());
    let id = pool.with(|session| session.touch()).unwrap();
    assert_eq!(stage.times_asked_whether_broken(), 1, "asked after each use");
    stage.set_broken(true);
    assert_eq!(pool.with_ref(|session| session.look()).unwrap(), id);
    assert_eq!(stage.the_close_of(id).reason, Some(CloseReason::Broken));
    stage.set_broken(false);
    assert_ne!(pool.with(|session| session.touch()).unwrap(), id);
}

#[test]
fn a_check_that_panics_or_comes_back_is_not_contained() {
    struct Odd(Stage, std::sync::OnceLock<Pool<Session>>);
    impl Manager for Odd {
        type Instance = Session;
        fn create(&self, cx: &CreateContext) -> anyhow::Result<Session> {
            Scripted::new(&self.0).create(cx)
        }
        fn has_broken(&self, session: &mut Session) -> bool {
            if let Some(pool) = self.1.get() {
                assert!(pool.with(|_| ()).unwrap_err().is_reentrant());
            }
            session.uses == 1 || panic!("cannot tell")
        }
        fn close(&self, session: Session, reason: CloseReason) -> anyhow::Result<()> {
            Scripted::new(&self.0).close(session, reason)
        }
    }
    let stage = Stage::new();
    let manager = Odd(stage.clone(), std::sync::OnceLock::new());
    let pool = Pool::builder(manager).registry(&Registry::new()).build().unwrap();
    pool.with(|session| session.touch()).unwrap();
    pool.with(|_| ()).unwrap(); // the check panics, which counts as yes
    stage.assert_each_closed_once();
    assert_eq!(stage.notes(What::Close).len(), 2);
}
