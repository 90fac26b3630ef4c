//! A loop that owns a pool's instance, and a loop under load: what is not reached, and what starves.

mod support;

use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use sessile::event_loop::Interest;
use sessile::event_loop::LocalHandle;
use sessile::manager::CloseReason;
use sessile::{EventLoop, Registry};
use support::{PATIENCE, Stage, What, promptly};

/// An idle instance that must not leave its thread, on a loop that sleeps for ever: nobody but the
/// loop can close it, and it does not by itself use any pool.
#[test]
fn close_from_afar_does_not_reach_an_instance_through_its_loop() {
    for in_poller in [false, true] {
        let (stage, registry) = (Stage::new(), Registry::new());
        let pool = stage.pool_local(&registry);
        let (tell, told) = mpsc::channel();
        let owner = pool.clone();
        let looping = thread::spawn(move || {
            let event_loop = EventLoop::new();
            let (reader, _writer) = std::io::pipe().unwrap();
            let add = || event_loop.local().add(reader, Interest::READABLE, |_, _| ()).unwrap();
            let _source = in_poller.then(add);
            let id = owner.with(|session| session.touch()).unwrap();
            tell.send((event_loop.handle(), id, thread::current().id())).unwrap();
            event_loop.run().unwrap();
        });
        let (handle, id, thread) = told.recv().unwrap();
        let report = promptly("close", move || pool.close(PATIENCE));
        assert!(report.is_clean() && report.closed == 1, "{report}");
        let close = stage.the_close_of(id);
        assert_eq!((close.thread, close.reason), (thread, Some(CloseReason::PoolClosed)));
        handle.stop();
        looping.join().unwrap();
    }
}

#[test]
fn clear_and_evict_do_not_reach_an_instance_through_its_loop() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let pool = stage.pool_local(&registry);
    let (tell, told) = mpsc::channel();
    let looping = thread::spawn(move || {
        let event_loop = EventLoop::new();
        tell.send(event_loop.handle()).unwrap();
        event_loop.run().unwrap();
    });
    let handle = told.recv().unwrap();
    for (n, reason) in [CloseReason::Cleared, CloseReason::Evicted].into_iter().enumerate() {
        let uses = pool.clone();
        let id = handle.call(move || uses.with(|session| session.touch())).unwrap();
        let id = id.join_timeout(PATIENCE).unwrap().unwrap().unwrap();
        match reason {
            CloseReason::Cleared => assert_eq!(pool.clear(), 1),
            _ => assert!(registry.evict(id)),
        }
        stage.wait_for(What::Close, n + 1);
        assert_eq!(stage.the_close_of(id).reason, Some(reason));
    }
    handle.stop();
    looping.join().unwrap();
}

/// The order comes while the loop's thread is between two runs.
#[test]
fn an_order_from_between_two_runs_waits_for_a_wake() {
    promptly("loop", || {
        let (stage, registry) = (Stage::new(), Registry::new());
        let pool = stage.pool_local(&registry);
        let event_loop = EventLoop::new();
        pool.with(|session| session.touch()).unwrap();
        let clears = pool.clone();
        thread::spawn(move || clears.clear()).join().unwrap();
        assert_eq!(stage.count(What::Close), 0);
        event_loop.run_once(Duration::ZERO).unwrap();
        assert_eq!(stage.count(What::Close), 1);
    });
}

/// A loop inside another's callback takes the bell, and gives it back.
#[test]
fn an_inner_loop_keeps_the_bell() {
    promptly("loop", || {
        let (stage, registry) = (Stage::new(), Registry::new());
        let pool = stage.pool_local(&registry);
        let event_loop = EventLoop::new();
        EventLoop::new().run_once(Duration::ZERO).unwrap();
        event_loop.local().call_soon(|| {
            EventLoop::new().run_once(Duration::ZERO).unwrap();
        });
        event_loop.run_once(None).unwrap();
        let uses = pool.clone();
        event_loop.local().call_soon(move || {
            EventLoop::new().run_once(Duration::ZERO).unwrap();
            uses.with(|session| session.touch()).unwrap();
            let stage = uses.with(|session| session.stage().clone()).unwrap();
            let handle = LocalHandle::current().unwrap().handle();
            thread::spawn(move || {
                let report = uses.close(PATIENCE);
                assert!(report.is_clean(), "{report}");
                stage.wait_for(What::Close, 1);
                handle.stop();
            });
        });
        event_loop.run().unwrap();
        assert_eq!(stage.count(What::Close), 1);
    });
}

#[test]
fn a_close_that_schedules_finds_the_loop_borrowed() {
    let registry = Registry::new();
    let (stage, called) = (Stage::new(), Arc::new(AtomicBool::new(false)));
    let pool = stage.pool_local(&registry);
    let calls = Arc::clone(&called);
    stage.on_close(support::first(move || {
        let calls = Arc::clone(&calls);
        let local = LocalHandle::current().expect("it closes in its loop");
        local.call_soon(move || calls.store(true, Ordering::SeqCst));
    }));
    let event_loop = EventLoop::new();
    pool.with(|session| session.touch()).unwrap();
    event_loop.local().call_soon(move || {
        thread::spawn(move || pool.clear()).join().unwrap();
    });
    for _ in 0..3 {
        event_loop.run_once(Duration::ZERO).unwrap();
    }
    assert!(called.load(Ordering::SeqCst));
}

#[test]
fn run_once_waits_longer_than_it_was_told() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        let begun = Instant::now();
        assert!(!event_loop.run_once(Duration::from_millis(10)).unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(10));
        event_loop.local().call_later(Duration::from_millis(5), || ());
        assert!(event_loop.run_once(support::FOR_EVER).unwrap(), "the timer comes first");
        event_loop.local().call_later(support::FOR_EVER, || ());
        assert!(!event_loop.run_once(Duration::from_millis(1)).unwrap());
        event_loop.handle().stop();
        assert!(!event_loop.run_once(None).unwrap(), "a stop wakes this too");
    });
}

#[test]
fn a_slow_callback_goes_unreported() {
    let longest_of = |limit| {
        let longest = Rc::new(Cell::new(None));
        let tell = Rc::clone(&longest);
        let slow = move |took| tell.set(tell.get().max(Some(took)));
        let event_loop = EventLoop::builder().slow_callback(limit, slow).build();
        event_loop.local().call_soon(|| thread::sleep(Duration::from_millis(20))); // on purpose
        event_loop.run_once(None).unwrap();
        longest.get()
    };
    assert!(longest_of(Duration::from_millis(10)) >= Some(Duration::from_millis(20)));
    assert_eq!(longest_of(PATIENCE), None);
}

/// Every post posts the next two: the mailbox is never empty again.
#[test]
fn a_flood_of_posts_starves_timers_and_sources() {
    promptly("loop", || {
        let event_loop = EventLoop::builder().batch(16).build();
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        let seen = Rc::new(Cell::new((false, false)));
        let (source, timer) = (Rc::clone(&seen), Rc::clone(&seen));
        let done = |seen: (bool, bool)| {
            if seen == (true, true) {
                LocalHandle::current().unwrap().stop();
            }
        };
        let _source = event_loop.local().add(reader, Interest::READABLE, move |_, _| {
            source.set((true, source.get().1));
            done(source.get());
        });
        event_loop.local().call_later(Duration::from_millis(1), move || {
            timer.set((timer.get().0, true));
            done(timer.get());
        });
        fn flood(handle: sessile::event_loop::Handle) {
            for _ in 0..if LOAD.fetch_add(1, Ordering::Relaxed) < 1000 { 2 } else { 1 } {
                let again = handle.clone();
                handle.call_soon_threadsafe(move || flood(again)).unwrap();
            }
        }
        static LOAD: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        flood(event_loop.handle());
        event_loop.run().unwrap();
        assert_eq!(seen.get(), (true, true));
    });
}

/// The batch bounds a turn, and loses nothing of what is beyond it.
#[test]
fn a_turn_runs_more_than_a_batch() {
    let event_loop = EventLoop::builder().batch(10).build();
    let handle = event_loop.handle();
    let (tell, told) = mpsc::channel();
    for n in 0..25 {
        let tell = tell.clone();
        handle.call_soon_threadsafe(move || tell.send(n).unwrap()).unwrap();
    }
    let mut turns = Vec::new();
    while event_loop.run_once(Duration::ZERO).unwrap() {
        turns.push(told.try_iter().collect::<Vec<_>>());
    }
    let lengths: Vec<_> = turns.iter().map(Vec::len).collect();
    assert_eq!(lengths, [10, 10, 5]);
    assert_eq!(turns.concat(), (0..25).collect::<Vec<_>>());
}

#[test]
fn what_a_batch_left_over_is_lost_at_close() {
    let event_loop = EventLoop::builder().batch(2).build();
    let handle = event_loop.handle();
    let called: Vec<_> = (0..5).map(|n| handle.call(move || n).unwrap()).collect();
    event_loop.run_once(Duration::ZERO).unwrap();
    drop(event_loop);
    let ran: Vec<_> = called.into_iter().map(|called| called.join().is_ok()).collect();
    assert_eq!(ran, [true, true, false, false, false]);
}
