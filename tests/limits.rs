//! More threads than room, and instances used up.

mod support;

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sessile::manager::CloseReason;
use sessile::pool::{InstanceEvent, InstanceEventKind, InstanceId};
use sessile::registry::{InstanceInfo, InstanceState};
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
fn an_idle_instance_makes_room_and_is_never_handed_over() {
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
        let closed_by_a_user = workers.iter().any(|worker| worker.id() == close.thread);
        assert!(!closed_by_a_user, "neither its owner nor who waits has to close it");
    }
}

#[test]
fn a_busy_instance_makes_room_when_it_is_let_go() {
    let (stage, pool) = scene(1);
    let (workers, gate) = (workers(2), Gate::new());
    let held = hold_inside(&workers[0], &pool, &gate);
    gate.wait_for_arrival();
    let waits = queue_up(&workers[1], &pool);
    assert_eq!((pool.status().busy, stage.count(What::Close)), (1, 0));
    gate.open();
    let id = held.wait().unwrap();
    waits.wait().unwrap();
    assert_eq!(stage.the_close_of(id).reason, Some(CloseReason::MadeRoom));
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
fn an_instance_is_used_before_it_makes_room_for_who_waits_since_it_was_made() {
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
    poll_until("the other waits", || pool.status().waiting == 1);
    gate.open();
    let ids = [makes.wait().unwrap(), waits.wait().unwrap()];
    let made: Vec<_> = stage.notes(What::Create).iter().map(|note| note.id).collect();
    assert_eq!(made, ids, "two instances for two uses");
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

// ---- who waits, whatever the others do ---------------------------------------------------------

/// One that is in a long use does not stand in the way: the first that is let go makes the room, and
/// what the long use has is kept, for nobody waits any more when it ends.
#[test]
fn the_first_instance_let_go_makes_the_room() {
    let (stage, pool) = scene(2);
    let (workers, long, short) = (workers(5), Gate::new(), Gate::new());
    let held = hold_inside(&workers[0], &pool, &long);
    long.wait_for_arrival();
    let let_go = hold_inside(&workers[1], &pool, &short);
    short.wait_for_arrival();
    let waits = queue_up(&workers[2], &pool);
    short.open();
    let first = let_go.wait().unwrap();
    waits.wait().unwrap();
    assert_eq!(stage.the_close_of(first).reason, Some(CloseReason::MadeRoom));
    // And so on, one after the other, while the long use goes on.
    for worker in &workers[3..] {
        let pool = pool.clone();
        worker.run(move || pool.get_timeout(TOO_LONG).map(drop).unwrap());
    }
    long.open();
    let kept = held.wait().unwrap();
    let again = pool.clone();
    assert_eq!(workers[0].run(move || again.with(|session| session.touch()).unwrap()), kept);
}

/// What one who has given up has asked for is not carried out, and the next use is as quick as any.
#[test]
fn nothing_is_closed_for_who_has_given_up() {
    let (stage, pool) = scene(1);
    let (workers, gate) = (workers(1), Gate::new());
    let held = hold_inside(&workers[0], &pool, &gate);
    gate.wait_for_arrival();
    for _ in 0..3 {
        let refused = pool.get_timeout(Duration::from_millis(2)).map(drop).unwrap_err();
        assert!(refused.is_timeout(), "{refused:?}");
    }
    gate.open();
    let id = held.wait().unwrap();
    let again = pool.clone();
    assert_eq!(workers[0].run(move || again.with(|session| session.touch()).unwrap()), id);
    assert_eq!((stage.count(What::Close), pool.status().closing), (0, 0));
}

/// The same where the instance must not leave its thread, and is idle: its owner comes by too late.
#[test]
fn an_owner_that_comes_by_too_late_keeps_what_it_has() {
    let stage = Stage::new();
    let pool = stage.builder_local(&Registry::new()).max_size(1).build().unwrap();
    let owner = Worker::new("owner");
    let uses = |pool: &Pool<Stay>| {
        let pool = pool.clone();
        owner.run(move || pool.with(|session| session.touch()).unwrap())
    };
    let id = uses(&pool);
    let refused = pool.get_timeout(Duration::from_millis(2)).map(drop).unwrap_err();
    assert!(refused.is_timeout(), "{refused:?}");
    assert_eq!(uses(&pool), id, "nobody waits any more");
    assert_eq!(stage.count(What::Close), 0);
}

/// An idle instance that must not leave its thread, which sleeps, does not stand in the way of others.
#[test]
fn a_sleeping_owner_does_not_keep_others_from_making_room() {
    for idle in [Duration::ZERO, Duration::from_millis(5)] {
        let stage = Stage::new();
        let builder = stage.builder_local(&Registry::new()).max_size(2).wait_timeout(PATIENCE);
        let pool = builder.evict_idle_after(idle).build().unwrap();
        let (sleeper, comes_by) = (Worker::new("sleeper"), Worker::new("comes by"));
        let used = pool.clone();
        sleeper.run(move || used.with(|session| session.touch()).unwrap());
        for _ in 0..3 {
            let (used, waits, asks) = (pool.clone(), Worker::new("waits"), pool.clone());
            comes_by.run(move || used.with(|session| session.touch()).unwrap());
            let waiting = waits.start(move || asks.with(|session| session.touch()).map(drop));
            poll_until("it waits", || pool.status().waiting == 1);
            // It uses some pool now and then, with idle times that are long enough.
            let other = Stage::new().pool(&Registry::new());
            let seen = pool.clone();
            comes_by.run(move || {
                poll_until("somebody else is in", || {
                    std::thread::sleep(idle);
                    other.with(|_| ()).unwrap();
                    seen.status().waiting == 0
                });
            });
            waiting.wait().unwrap();
            waits.end();
        }
        assert_eq!(pool.status().size, 1, "only the sleeper's is left");
    }
}

/// A close that takes long, or never ends, holds up neither a deadline nor who else could make room.
#[test]
fn a_deadline_is_kept_while_a_close_hangs_and_another_instance_makes_room() {
    let (stage, pool) = scene(2);
    let (workers, hangs) = (workers(4), Gate::new());
    stage.on_close(hold(&hangs));
    for worker in &workers[..2] {
        let pool = pool.clone();
        worker.run(move || pool.with(|session| session.touch()).unwrap());
    }
    // Relative to what nothing here can take: it is the close that would take for ever.
    let asks = pool.clone();
    let refused = workers[2].run(move || asks.get_timeout(Duration::from_millis(20)).map(drop));
    assert!(refused.unwrap_err().is_timeout(), "the one that is being closed has not closed");
    hangs.wait_for_arrival();
    assert_eq!((pool.status().closing, pool.status().idle), (1, 1));
    // Who waits for longer gets the other's room.
    let asks = pool.clone();
    workers[3].run(move || asks.with(|session| session.touch()).unwrap());
    hangs.open();
    poll_until("both are closed", || stage.count(What::Close) == 2 && pool.status().closing == 0);
    assert_eq!(pool.status().size, 1);
}

/// Ten times as many threads as there is room, who let go and come again: none is left behind.
#[test]
fn threads_in_plenty_are_all_served() {
    const ROOM: usize = 4;
    const THREADS: usize = 10 * ROOM;
    const ROUNDS: usize = 25;
    fn play<M: 'static>(pool: &Pool<Session<M>>) {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        pool.with(|session| session.touch()).expect("its turn comes");
                    }
                });
            }
        });
        assert!(pool.wait_closed(PATIENCE));
        assert_eq!(pool.status().waiting, 0);
    }
    let (stage, registry) = (Stage::new(), Registry::new());
    let builder = stage.builder(&registry).max_size(ROOM).wait_timeout(PATIENCE);
    play(&builder.build().unwrap());
    let builder = stage.builder_local(&registry).max_size(ROOM).wait_timeout(PATIENCE);
    play(&builder.build().unwrap());
    stage.assert_each_closed_once();
}

/// Chance decides who uses the pool for how long, who gives up, who closes what, and what may leave its
/// thread. A witness sees to it that no instance is idle for long while somebody waits.
#[test]
fn nobody_waits_for_long_beside_an_idle_instance() {
    let seed = std::env::var("SESSILE_SOAK_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("SESSILE_SOAK_SEED={seed}");
    let mut rng = Rng::new(seed);
    for idle in [Duration::ZERO, Duration::from_millis(1)] {
        let stage = Stage::new();
        let builder = stage.builder(&Registry::new()).max_size(3).evict_idle_after(idle);
        play(&builder.wait_timeout(None).build().unwrap(), &mut rng.fork());
        stage.assert_each_closed_once();
    }

    fn play(pool: &Pool<Session>, rng: &mut Rng) {
        const THREADS: usize = 12;
        /// The model: who waits goes in before this, for instances that nobody is inside of. The
        /// documents say a good tenth of it; here others use the machine.
        const BOUND: Duration = Duration::from_secs(3);
        let left = AtomicUsize::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let (mut rng, left) = (rng.fork(), &left);
                scope.spawn(move || {
                    for _ in 0..40 {
                        match rng.below(8) {
                            0 => drop(pool.get_timeout(rng.micros(2_000))),
                            1 => _ = pool.close_here(),
                            2 => _ = pool.retain(|instance| instance.id.get() % 3 != 0),
                            3 => std::thread::sleep(rng.micros(3_000)),
                            4 => pool.with_ref(|_| std::thread::sleep(rng.micros(500))).unwrap(),
                            _ => pool.with(|_| std::thread::sleep(rng.micros(1_000))).unwrap(),
                        }
                    }
                    // At rest with what it has, as long as others go on: they need its room.
                    left.fetch_sub(1, Ordering::SeqCst);
                    poll_until("all have done", || {
                        std::thread::sleep(Duration::from_millis(1));
                        left.load(Ordering::SeqCst) == 0
                    });
                });
            }
            // Since when somebody waits while this one has been idle, all the time, for the witness.
            let mut since = std::collections::HashMap::<_, std::time::Instant>::new();
            while left.load(Ordering::SeqCst) > 0 {
                let all = pool.registry().snapshot().instances;
                assert!(all.len() <= 3, "too many: {all:?}");
                let somebody_waits = pool.status().waiting > 0;
                since.retain(|(id, uses), _| {
                    let same = |one: &InstanceInfo| (one.id, one.uses) == (*id, *uses);
                    let is_idle = |one: &InstanceInfo| one.state == InstanceState::Idle;
                    somebody_waits && all.iter().any(|one| same(one) && is_idle(one))
                });
                for one in all.iter().filter(|one| one.state == InstanceState::Idle) {
                    let now = std::time::Instant::now();
                    let since = *since.entry((one.id, one.uses)).or_insert(now);
                    assert!(since.elapsed() < BOUND, "idle, and somebody waits: {one:?}");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(pool.status().waiting, 0);
    }
}
