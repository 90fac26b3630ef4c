//! The manager's `close` fails or panics: it is counted, told, and the rest goes on.

mod support;

use std::time::Duration;

use sessile::Registry;
use sessile::manager::CloseReason;
use support::*;

#[test]
fn one_bad_close_keeps_the_others_open() {
    let (registry, stage, events) = (Registry::new(), Stage::new(), Events::new());
    let pool = stage.builder(&registry).name("kernels").on_event(events.handler()).build().unwrap();
    let workers: Vec<_> = (0..4).map(|n| Worker::new(&format!("owner-{n}"))).collect();
    for worker in &workers {
        let pool = pool.clone();
        worker.run(move || pool.with(|session| session.touch()).unwrap());
    }
    stage.on_close(fail("it clings")).on_close(panics("it bites"));

    let report = pool.close(TOO_LONG);
    assert_eq!(report.closed, 2, "{report}");
    assert!(report.still_open.is_empty() && !report.is_clean(), "{report}");
    let mut errors: Vec<_> = report.failed.iter().map(|failed| failed.error.as_str()).collect();
    errors.sort_unstable();
    assert_eq!(errors, ["it clings", "panicked: it bites"]);
    assert!(report.failed.iter().all(|failed| failed.pool == "kernels"));
    let owners: Vec<_> = report.failed.iter().map(|failed| failed.owner.name.as_deref()).collect();
    assert!(owners.iter().all(|name| name.unwrap().starts_with("owner-")), "{owners:?}");

    let status = pool.status();
    assert_eq!((status.closed, status.close_failed, status.size), (4, 2, 0), "{status:?}");
    let of_failures = events.all().into_iter().filter_map(|(id, told)| match told {
        Told::CloseFailed(CloseReason::PoolClosed, error) => Some((id, error)),
        _ => None,
    });
    let mut told: Vec<_> = of_failures.collect();
    told.sort_unstable();
    let mut reported: Vec<_> =
        report.failed.iter().map(|failed| (failed.id, failed.error.clone())).collect();
    reported.sort_unstable();
    assert_eq!(told, reported);
    stage.assert_each_closed_once();
    assert!(registry.snapshot().is_empty());
    assert!(report.to_string().contains("it clings"), "{report}");
}

#[test]
fn a_panic_of_a_close_reaches_who_only_used_the_pool() {
    let stage = Stage::new();
    let pool = stage.builder(&Registry::new()).max_uses(1).build().unwrap();
    stage.on_close(panics("after the use")).on_close(fail("after the use"));
    for _ in 0..3 {
        pool.with(|session| session.touch()).unwrap();
    }
    stage.on_close(panics("discarded"));
    drop(pool.get().unwrap());
    stage.assert_each_closed_once();
    assert_eq!(pool.status().close_failed, 3);
}

#[test]
fn a_panic_with_a_payload_that_panics_when_dropped_gets_out() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the payload goes off");
        }
    }
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    stage.on_close(Box::new(|| std::panic::panic_any(Bomb)));
    let used = pool.clone();
    promptly("owner", move || {
        used.with(|session| session.touch()).unwrap();
        assert!(used.close_here().unwrap());
    });
    assert_eq!(pool.status().close_failed, 1);
}

#[test]
fn a_panic_while_room_is_made_is_the_newcomers_misfortune() {
    let stage = Stage::new();
    let pool = stage.builder(&Registry::new()).max_size(1).wait_timeout(None).build().unwrap();
    let (first, second) = (Worker::new("first"), Worker::new("second"));
    stage.on_close(panics("will not make room"));
    for worker in [&first, &second] {
        let pool = pool.clone();
        worker.run(move || pool.with(|session| session.touch()).unwrap());
    }
    assert_eq!((pool.status().size, pool.status().close_failed), (1, 1));
}

#[test]
fn dropping_the_last_handle_panics() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    pool.with(|session| session.touch()).unwrap();
    stage.on_close(panics("out of nowhere"));
    drop(pool);
    stage.assert_each_closed_once();
}

#[test]
fn a_close_that_closes_the_pool_waits_for_itself() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    pool.with(|session| session.touch()).unwrap();
    let (reports, again) = (std::sync::Arc::new(Watched::<Vec<_>>::default()), pool.clone());
    stage.on_close({
        let reports = std::sync::Arc::clone(&reports);
        first(move || {
            let report = again.close(TOO_LONG);
            reports.change(|reports| reports.push(report.still_open.len()));
        })
    });
    let report = pool.close(Duration::from_secs(1));
    assert!(report.is_clean(), "{report}");
    reports.read(|inner| assert_eq!(*inner, [1], "the inner one saw it still being closed"));
}
