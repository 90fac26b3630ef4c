//! Parts of a pool are closed from afar, and the pool goes on.

mod support;

use std::time::Duration;

use sessile::manager::CloseReason;
use sessile::registry::InstanceState;
use sessile::{Pool, Registry};
use support::*;

fn used_by(workers: &[Worker], pool: &Pool<Session>) -> Vec<sessile::pool::InstanceId> {
    let use_it = |worker: &Worker| {
        let pool = pool.clone();
        worker.run(move || pool.with(|session| session.touch()).unwrap())
    };
    workers.iter().map(use_it).collect()
}

#[test]
fn a_clear_leaves_one_of_the_old_generation() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let workers: Vec<_> = (0..3).map(|n| Worker::new(&format!("owner-{n}"))).collect();
    let (old, gate) = (used_by(&workers[..2], &pool), Gate::new());
    let (held, at) = (pool.clone(), gate.clone());
    let busy = workers[2].start(move || {
        held.with(|session| {
            at.pass();
            (session.touch(), session.generation)
        })
    });
    gate.wait_for_arrival();
    assert_eq!(pool.clear(), 3);
    assert_eq!((pool.status().generation, pool.status().closing), (1, 1));
    assert_eq!(stage.count(What::Close), 2);
    gate.open();
    let (id, generation) = busy.wait().unwrap();
    assert_eq!(generation, 0);
    assert_eq!(stage.the_close_of(id).thread, workers[2].id());

    let new = used_by(&workers, &pool);
    assert!(new.iter().all(|new| !old.contains(new) && *new != id));
    let snapshot = pool.registry().snapshot();
    assert!(snapshot.instances.iter().all(|instance| instance.generation == 1), "{snapshot}");
    let reasons = stage.notes(What::Close);
    assert!(reasons.iter().all(|note| note.reason == Some(CloseReason::Cleared)));
    assert_eq!(pool.clear(), 3);
    assert_eq!(pool.clear(), 0);
}

#[test]
fn retain_closes_what_it_was_to_keep() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let workers: Vec<_> = (0..4).map(|n| Worker::new(&format!("owner-{n}"))).collect();
    let ids = used_by(&workers, &pool);
    let rejected = pool.retain(|instance| {
        assert_eq!((instance.state, instance.uses), (InstanceState::Idle, 1));
        assert!(instance.owner.name.as_deref().unwrap().starts_with("owner-"));
        instance.id == ids[1] || instance.id == ids[2]
    });
    assert_eq!(rejected, 2);
    let mut closed: Vec<_> = stage.notes(What::Close).iter().map(|note| note.id).collect();
    closed.sort_unstable();
    assert_eq!(closed, [ids[0], ids[3]]);
    assert!(stage.notes(What::Close).iter().all(|n| n.reason == Some(CloseReason::NotRetained)));
    let again = used_by(&workers, &pool);
    assert_eq!(again[1..3], ids[1..3]);
    assert!(again[0] != ids[0] && again[3] != ids[3]);
}

/// The predicate is the user's: it may look at the pool, change it, and panic.
#[test]
fn the_predicate_of_retain_runs_under_a_lock() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let workers: Vec<_> = (0..3).map(|_| Worker::new("owner")).collect();
    used_by(&workers, &pool);
    promptly("looks and changes", {
        let pool = pool.clone();
        move || {
            pool.retain(|_| {
                pool.with(|session| session.touch()).unwrap();
                let _ = pool.registry().snapshot();
                pool.retain(|_| true);
                pool.status().size > 0
            });
            assert_eq!(panic_of(|| pool.retain(|_| panic!("undecided"))), "undecided");
            pool.with(|session| session.touch()).unwrap();
        }
    });
    assert_eq!(stage.notes(What::Close).len(), 1, "that of the thread that has ended");
    assert!(pool.close(Duration::ZERO).is_clean());
}

#[test]
fn discard_or_close_here_closes_another_threads() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let workers: Vec<_> = (0..3).map(|_| Worker::new("owner")).collect();
    let ids = used_by(&workers, &pool);
    assert!(!pool.discard() && !pool.close_here().unwrap(), "this thread has none");
    let (a, b) = (pool.clone(), pool.clone());
    assert!(workers[0].run(move || a.discard()));
    assert!(workers[1].run(move || b.close_here().unwrap()));
    for (id, worker, reason) in [
        (ids[0], &workers[0], CloseReason::Discarded),
        (ids[1], &workers[1], CloseReason::ClosedHere),
    ] {
        let close = stage.the_close_of(id);
        assert_eq!((close.thread, close.reason), (worker.id(), Some(reason)));
    }
    assert_eq!(pool.status().idle, 1);
}
