//! A thread that is inside its instance comes back to the pool.

mod support;

use std::panic::catch_unwind;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sessile::manager::CloseReason;
use sessile::{CreateContext, Manager, Pool, Registry};
use support::*;

fn scene() -> (Stage, Pool<Session>) {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    (stage, pool)
}

/// Every way into an instance that `with` has to itself.
fn assert_all_refused<T>(pool: &Pool<T>) {
    for error in [
        pool.with(|_| ()).unwrap_err(),
        pool.with_ref(|_| ()).unwrap_err(),
        pool.get().map(drop).unwrap_err(),
        pool.get_ref().map(drop).unwrap_err(),
        pool.get_timeout(Duration::ZERO).map(drop).unwrap_err(),
        pool.get_ref_timeout(Duration::ZERO).map(drop).unwrap_err(),
        pool.close_here().unwrap_err(),
    ] {
        assert!(error.is_reentrant() && !error.is_closed(), "{error:?}");
    }
}

#[test]
fn with_in_with_aliases() {
    let (stage, pool) = scene();
    for _ in 0..2 {
        // Once in the use that makes it, once on the fast path.
        pool.with(|session| {
            let uses = session.uses;
            assert_all_refused(&pool);
            assert_all_refused(&pool.clone());
            assert_eq!(session.uses, uses);
            session.touch();
        })
        .unwrap();
    }
    let guard = pool.get().unwrap();
    assert_all_refused(&pool);
    assert_eq!(guard.uses, 2);
    drop(guard);
    pool.with(|session| session.touch()).unwrap();
    assert_eq!(stage.count(What::Create), 1);
}

#[test]
fn with_ref_does_not_nest_or_lets_with_in() {
    let (stage, pool) = scene();
    pool.with_ref(|outer| {
        let guard = pool.get_ref().unwrap();
        pool.with_ref(|inner| {
            assert!(std::ptr::eq(outer, inner) && std::ptr::eq(&*guard, inner));
            assert!(pool.with(|_| ()).unwrap_err().is_reentrant());
            assert!(pool.get().map(drop).unwrap_err().is_reentrant());
            assert!(pool.close_here().unwrap_err().is_reentrant());
        })
        .unwrap();
        drop(guard);
        assert!(pool.with(|_| ()).unwrap_err().is_reentrant(), "the outermost is still there");
        outer.look();
    })
    .unwrap();
    pool.with(|session| session.touch()).unwrap();
    assert_eq!(stage.count(What::Create), 1);
}

/// As many levels as the documentation promises, and not one more.
#[test]
fn shared_guards_dropped_out_of_order_leave_it_borrowed() {
    let (_, pool) = scene();
    let guards: Vec<_> = (0..253).map(|_| pool.get_ref().unwrap()).collect();
    assert!(pool.get_ref().map(drop).unwrap_err().is_reentrant());
    assert!(pool.with_ref(|_| ()).unwrap_err().is_reentrant());
    let (even, odd): (Vec<_>, Vec<_>) =
        guards.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    drop(even);
    assert!(pool.with(|_| ()).unwrap_err().is_reentrant());
    pool.with_ref(|session| session.look()).unwrap();
    drop(odd);
    pool.with(|session| session.touch()).unwrap();
}

#[test]
fn two_pools_are_taken_for_one() {
    let registry = Registry::new();
    let (outer, inner) = (Stage::new().pool(&registry), Stage::new().pool(&registry));
    outer
        .with(|a| {
            inner.with(|b| assert_ne!(a.touch(), b.touch())).unwrap();
            assert!(inner.close_here().unwrap());
        })
        .unwrap();
}

#[test]
fn discard_inside_with_closes_under_it() {
    let (stage, pool) = scene();
    let id = pool
        .with(|session| {
            assert!(pool.discard());
            assert!(pool.discard(), "it is there until the use ends");
            assert_eq!(stage.count(What::Close), 0);
            session.touch()
        })
        .unwrap();
    assert_eq!(stage.the_close_of(id).reason, Some(CloseReason::Discarded));
    assert_ne!(pool.with(|session| session.touch()).unwrap(), id);
}

#[test]
fn discard_inside_with_ref_closes_under_the_outermost() {
    let (stage, pool) = scene();
    pool.with_ref(|_| {
        pool.with_ref(|_| assert!(pool.discard())).unwrap();
        assert_eq!(stage.count(What::Close), 0);
        // Nesting goes on working meanwhile.
        pool.with_ref(|session| session.look()).unwrap();
    })
    .unwrap();
    stage.assert_each_closed_once();
    assert!(!pool.discard(), "there is none any more");
    assert!(!pool.close_here().unwrap());
}

#[test]
fn close_inside_with_waits_for_itself() {
    let (stage, pool) = scene();
    let id = promptly("closes from inside", {
        let pool = pool.clone();
        move || {
            pool.with(|session| {
                let report = pool.close(TOO_LONG);
                assert_eq!(report.still_open.len(), 1, "{report}");
                assert_eq!(report.still_open[0].id, session.id);
                assert_eq!(report.still_open[0].state, sessile::registry::InstanceState::Closing);
                assert!(!report.is_clean() && report.closed == 0);
                session.touch()
            })
            .unwrap()
        }
    });
    assert_eq!(stage.the_close_of(id).reason, Some(CloseReason::PoolClosed));
    assert!(pool.with(|_| ()).unwrap_err().is_closed());
}

#[test]
fn close_inside_with_forgets_the_others() {
    let (stage, pool) = scene();
    let (busy, gate) = (Worker::new("busy"), Gate::new());
    let held = busy.start({
        let (pool, gate) = (pool.clone(), gate.clone());
        move || pool.with(|_| gate.pass()).unwrap()
    });
    gate.wait_for_arrival();
    let closing = promptly("closes from inside", {
        let (pool, gate) = (pool.clone(), gate.clone());
        move || {
            pool.with(|_| {
                gate.open();
                pool.close(TOO_LONG)
            })
            .unwrap()
        }
    });
    held.wait();
    assert_eq!((closing.closed, closing.still_open.len()), (1, 1), "{closing}");
    stage.assert_each_closed_once();
}

#[test]
fn clear_and_retain_inside_with_close_under_it() {
    for all in [true, false] {
        let (stage, pool) = scene();
        let id = pool
            .with(|session| {
                assert_eq!(if all { pool.clear() } else { pool.retain(|_| false) }, 1);
                assert_eq!(stage.count(What::Close), 0);
                assert!(pool.with(|_| ()).unwrap_err().is_reentrant());
                session.touch()
            })
            .unwrap();
        stage.the_close_of(id);
        assert_ne!(pool.with(|session| session.touch()).unwrap(), id);
    }
}

#[test]
fn a_close_that_uses_its_own_pool_gets_what_is_being_closed() {
    let (stage, pool) = scene();
    let id = pool.with(|session| session.touch()).unwrap();
    let (fresh, again) = (std::sync::Arc::new(Watched::default()), pool.clone());
    stage.on_close({
        let fresh = std::sync::Arc::clone(&fresh);
        first(move || {
            let id = again.with(|session| session.touch()).unwrap();
            fresh.change(|fresh| *fresh = Some(id));
        })
    });
    assert!(pool.close_here().unwrap());
    let of_close = fresh.read(|fresh| fresh.unwrap());
    assert_ne!(of_close, id);
    assert_eq!(pool.with(|session| session.touch()).unwrap(), of_close, "it stays");
}

/// A rayon thread that waits inside `with` runs other people's jobs meanwhile, on the same stack.
#[test]
fn work_stolen_inside_with_gets_the_same_instance() {
    let (stage, pool) = scene();
    let rayon = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    // With one thread the second half of a join cannot but run on this thread, inside `with`.
    let (outer, stolen) = rayon.install(|| {
        pool.with(|session| {
            let (id, stolen) = rayon::join(|| session.touch(), || pool.with(|_| ()));
            (id, stolen)
        })
        .unwrap()
    });
    assert!(stolen.unwrap_err().is_reentrant());
    // Shared use is the answer.
    let (a, b) = rayon.install(|| {
        pool.with_ref(|session| {
            rayon::join(|| (), || pool.with_ref(|inner| inner.look()).unwrap()).1 == session.look()
        })
        .map(|same| (same, true))
        .unwrap()
    });
    assert!(a && b);
    assert_eq!(pool.with(|_| ()).map(|()| stage.count(What::Create)).unwrap(), 2, "{outer:?}");
    drop(rayon);
}

/// While the manager is asked about an instance it has it to itself, also in a shared borrow.
#[test]
fn a_manager_that_is_asked_gets_in_a_second_time() {
    static LET_IN: AtomicUsize = AtomicUsize::new(0);
    static POOL: LazyLock<Pool<u64>> =
        LazyLock::new(|| Pool::builder(Asks).registry(&Registry::new()).build().unwrap());
    struct Asks;
    impl Manager for Asks {
        type Instance = u64;

        fn create(&self, _: &CreateContext) -> anyhow::Result<u64> {
            Ok(0)
        }

        fn rescue(&self, _: &mut u64) -> bool {
            let refused = POOL.with_ref(|_| ()).is_err_and(|error| error.is_reentrant());
            LET_IN.fetch_add(usize::from(!refused), Ordering::SeqCst);
            true
        }
    }
    POOL.with_ref(|_| ()).unwrap();
    catch_unwind(|| POOL.with_ref(|_| panic!("on purpose"))).unwrap_err();
    assert_eq!(LET_IN.load(Ordering::SeqCst), 0);
    POOL.with(|_| ()).unwrap();
}
