//! What the reaper does by its own clock, and when there is a reaper at all.
//!
//! The time in these tests is the reaper's to keep: they wait for what it does, not for a time.

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sessile::Registry;
use sessile::manager::CloseReason;
use sessile::pool::{InstanceEvent, InstanceEventKind};
use support::*;

const SOON: Duration = Duration::from_millis(10);

/// Reapers are counted by name in the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    wait_for_reapers(0);
    alone
}

#[cfg(target_os = "linux")]
fn reapers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.trim() == "sessile-reaper")
        .count()
}

#[cfg(target_os = "linux")]
#[track_caller]
fn wait_for_reapers(count: usize) {
    poll_until(&format!("there are {count} reapers"), || reapers() == count);
}

#[cfg(not(target_os = "linux"))]
fn wait_for_reapers(_: usize) {}

#[test]
fn an_idle_instance_is_reaped_only_when_somebody_looks() {
    let _alone = alone();
    let stage = Stage::new();
    let pool = stage.builder(&Registry::new()).idle_timeout(SOON).build().unwrap();
    let worker = Worker::new("owner");
    let used = pool.clone();
    let id = worker.run(move || used.with(|session| session.touch()).unwrap());
    stage.wait_for(What::Close, 1);
    let close = stage.the_close_of(id);
    assert_eq!(close.reason, Some(CloseReason::IdleTimeout));
    assert_ne!(close.thread, worker.id());
    assert!(pool.wait_closed(PATIENCE));
}

#[test]
fn a_busy_instance_is_reaped_as_idle() {
    let _alone = alone();
    let stage = Stage::new();
    let (registry, witness) = (Registry::new(), Stage::new());
    let pool = stage.builder(&registry).idle_timeout(SOON).build().unwrap();
    let other = witness.builder(&registry).idle_timeout(SOON * 4).build().unwrap();
    let (worker, gate) = (Worker::new("owner"), Gate::new());
    let (used, at) = (pool.clone(), gate.clone());
    let held = worker.start(move || used.with(|_| at.pass()));
    gate.wait_for_arrival();
    // The same reaper, in the meantime, finds another idle for four times as long.
    other.with(|session| session.touch()).unwrap();
    witness.wait_for(What::Close, 1);
    assert_eq!((stage.count(What::Close), pool.status().busy), (0, 1));
    gate.open();
    held.wait().unwrap();
    stage.wait_for(What::Close, 1);
}

/// The reaper takes a nap by the shortest time it knows of. A pool with a shorter one wakes it.
#[test]
fn the_reaper_sleeps_by_the_clock_of_an_older_pool() {
    let _alone = alone();
    let (registry, stage, events) = (Registry::new(), Stage::new(), Events::new());
    let slow = Stage::new().builder(&registry).idle_timeout(FOR_EVER).build().unwrap();
    slow.with(|session| session.touch()).unwrap();
    wait_for_reapers(1);
    // A first instance is reaped only if it wakes from that nap; it may not yet have begun it.
    for round in 0..5 {
        let pool = stage.builder(&registry).idle_timeout(SOON);
        let pool = pool.on_event(events.handler()).build().unwrap();
        pool.with(|session| session.touch()).unwrap();
        stage.wait_for(What::Close, round + 1);
        drop(pool);
        // From here on it knows of the slow one only. Time to fall asleep: with too little of it
        // this test could pass although it should not, never fail although it should pass.
        std::thread::sleep(SOON * 3);
    }
    assert_eq!(slow.status().idle, 1);
}

#[test]
fn an_old_instance_lives_on() {
    let _alone = alone();
    let stage = Stage::new();
    let pool = stage.builder(&Registry::new()).max_lifetime(SOON).build().unwrap();
    let (workers, gate) = ([Worker::new("idle"), Worker::new("busy")], Gate::new());
    let (idle, busy, at) = (pool.clone(), pool.clone(), gate.clone());
    workers[0].run(move || idle.with(|session| session.touch()).unwrap());
    let held = workers[1].start(move || {
        busy.with(|session| {
            at.pass();
            session.touch()
        })
    });
    gate.wait_for_arrival();
    stage.wait_for(What::Close, 1);
    // The idle one is off the books, and the busy one has its order.
    poll_until("one is left, and closing", || {
        let status = pool.status();
        (status.size, status.closing) == (1, 1)
    });
    assert_eq!(stage.count(What::Close), 1);
    gate.open();
    let id = held.wait().unwrap();
    let close = stage.the_close_of(id);
    assert_eq!(close.thread, workers[1].id(), "closed by its owner as it let go");
    assert!(stage.notes(What::Close).iter().all(|n| n.reason == Some(CloseReason::MaxLifetime)));
}

/// One that must not leave its thread is ordered closed by the reaper, and closed by its owner.
#[test]
fn the_reaper_touches_what_is_not_send() {
    let _alone = alone();
    let stage = Stage::new();
    let pool = stage.builder_local(&Registry::new()).idle_timeout(SOON).build().unwrap();
    let worker = Worker::new("owner");
    let used = pool.clone();
    worker.run(move || used.with(|session| session.touch()).unwrap());
    poll_until("it is ordered closed", || pool.status().closing == 1);
    assert_eq!(stage.count(What::Close), 0);
    let owner = worker.id();
    worker.end();
    assert_eq!(stage.notes(What::Close)[0].thread, owner);
    assert_eq!(stage.notes(What::Close)[0].reason, Some(CloseReason::IdleTimeout));
}

#[test]
fn an_instance_is_used_unchecked_after_a_long_idle_time() {
    let _alone = alone();
    let stage = Stage::new();
    let pool = stage.builder(&Registry::new()).check_after(SOON).build().unwrap();
    let id = pool.with(|session| session.touch()).unwrap();
    assert_eq!(stage.count(What::IsValid), 0, "a new one needs no check");
    // That the reaper has noted its idle time is seen by the next use only.
    let use_until_checked = |checks: usize| {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            std::thread::sleep(SOON * 2);
            let id = pool.with(|session| session.touch()).unwrap();
            if stage.count(What::IsValid) >= checks {
                return id;
            }
            assert!(std::time::Instant::now() < end, "it is never checked");
        }
    };
    assert_eq!(use_until_checked(1), id, "it was found to be good");
    let asked = (stage.count(What::IsValid), pool.with_ref(|session| session.look()).unwrap());
    assert_eq!(asked.1, id);

    stage.on_validation(fail("gone stale"));
    let next = use_until_checked(asked.0 + 1);
    assert_ne!(next, id, "the use at hand went on with a new one");
    assert_eq!(stage.the_close_of(id).reason, Some(CloseReason::Invalid));
    stage.on_validation(panics("cannot tell"));
    assert_ne!(use_until_checked(stage.count(What::IsValid) + 1), next);
    assert_eq!(stage.the_close_of(next).reason, Some(CloseReason::Invalid));
}

#[test]
#[cfg(target_os = "linux")]
fn there_is_a_reaper_with_nothing_to_reap_or_none_where_there_is() {
    let _alone = alone();
    let (registry, stage) = (Registry::new(), Stage::new());
    let without = stage.builder(&registry).max_uses(5).max_size(3).build().unwrap();
    without.with(|session| session.touch()).unwrap();
    assert_eq!(reapers(), 0);

    let with: Vec<_> =
        (0..3).map(|_| stage.builder(&registry).idle_timeout(FOR_EVER).build().unwrap()).collect();
    wait_for_reapers(1);
    for pool in with {
        pool.with(|session| session.touch()).unwrap();
        // Waited for: a thread that the reaper starts, to close what was dropped, bears its name for a
        // moment.
        wait_for_reapers(1);
        drop(pool);
    }
    // Its nap was for minutes: the last pool to go wakes it, and it ends.
    wait_for_reapers(0);
    let again = stage.builder(&registry).check_after(FOR_EVER).build().unwrap();
    wait_for_reapers(1);
    drop((again, registry, without));
    wait_for_reapers(0);
}

/// A close that panics on the reaper is contained there.
#[test]
fn a_panic_on_the_reaper_ends_it() {
    let _alone = alone();
    let stage = Stage::new();
    let pool = stage.builder(&Registry::new()).idle_timeout(SOON).build().unwrap();
    stage.on_close(panics("on the reaper"));
    for count in 1..=2 {
        pool.with(|session| session.touch()).unwrap();
        stage.wait_for(What::Close, count);
    }
    poll_until("the first one is counted", || pool.status().close_failed == 1);
}

/// What a manager takes its time for is its own pool's business.
#[test]
fn a_close_that_hangs_delays_nobody_elses_limits() {
    let _alone = alone();
    let (registry, slow, quick, hangs) = (Registry::new(), Stage::new(), Stage::new(), Gate::new());
    slow.on_close(hold(&hangs));
    let slow_pool = slow.builder(&registry).idle_timeout(SOON).build().unwrap();
    let quick_pool = quick.builder(&registry).idle_timeout(SOON).build().unwrap();
    slow_pool.with(|session| session.touch()).unwrap();
    hangs.wait_for_arrival();
    for count in 1..=3 {
        quick_pool.with(|session| session.touch()).unwrap();
        quick.wait_for(What::Close, count);
    }
    // Nor, as long as it is the only one, those of its own pool.
    slow_pool.with(|session| session.touch()).unwrap();
    slow.wait_for(What::Close, 2);
    poll_until("the first one alone is left, and hangs", || slow_pool.status().size == 1);
    hangs.open();
    assert!(slow_pool.wait_closed(PATIENCE) && quick_pool.wait_closed(PATIENCE));
}

/// A handler is foreign code as well.
#[test]
fn an_event_handler_that_hangs_delays_nobody_elses_limits() {
    let _alone = alone();
    let (registry, quick, hangs) = (Registry::new(), Stage::new(), Gate::new());
    let handler = {
        let hangs = hangs.clone();
        move |event: &InstanceEvent<'_>| {
            if let InstanceEventKind::Evicted { .. } = event.kind {
                hangs.pass();
            }
        }
    };
    let slow_pool = Stage::new().builder(&registry).idle_timeout(SOON).on_event(handler);
    let slow_pool = slow_pool.build().unwrap();
    let quick_pool = quick.builder(&registry).idle_timeout(SOON).build().unwrap();
    slow_pool.with(|session| session.touch()).unwrap();
    hangs.wait_for_arrival();
    quick_pool.with(|session| session.touch()).unwrap();
    quick.wait_for(What::Close, 1);
    hangs.open();
    assert!(slow_pool.wait_closed(PATIENCE));
}

/// A process of its own, which may be forbidden to have more threads.
#[test]
#[cfg(target_os = "linux")]
#[allow(unsafe_code)] // limits of the process
fn a_reaper_that_cannot_be_started_is_told_and_tried_again() {
    const CHILD: &str = "SESSILE_TEST_HAS_NO_THREADS";
    if std::env::var_os(CHILD).is_none() {
        let name = "a_reaper_that_cannot_be_started_is_told_and_tried_again";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let output = again.args([name, "--exact", "--nocapture"]).env(CHILD, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let allow = |threads: libc::rlim_t| {
        let limit = libc::rlimit { rlim_cur: threads, rlim_max: 4096 };
        // SAFETY: a structure of ours.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit) }, 0);
    };
    // SAFETY: takes no pointers. Root may have any number of threads.
    if unsafe { libc::getuid() } == 0 {
        // SAFETY: numbers only.
        assert_eq!(unsafe { libc::setgid(65534) }, 0);
        // SAFETY: numbers only.
        assert_eq!(unsafe { libc::setuid(65534) }, 0);
    }
    allow(1);
    let (stage, events) = (Stage::new(), Events::new());
    let builder = stage.builder(&Registry::new()).idle_timeout(SOON);
    let pool = builder.on_event(events.handler()).build().unwrap();
    let id = pool.with(|session| session.touch()).unwrap();
    std::thread::sleep(Duration::from_millis(150)); // it is not tried again at once
    assert_eq!(pool.with(|session| session.touch()).unwrap(), id);
    let failed = events.of(id).into_iter().filter(|told| *told == Told::ReaperFailed).count();
    assert!(failed > 0, "{:?}", events.all());
    assert_eq!(reapers(), 0);
    allow(4096);
    // Who looks at the pool is enough.
    poll_until("it is reaped", || pool.status().size == 0);
    assert_eq!(stage.the_close_of(id).reason, Some(CloseReason::IdleTimeout));
}
