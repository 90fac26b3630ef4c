//! A loop that sleeps too well, or not at all: posts that do not wake it, wakes that cost too much.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use sessile::EventLoop;
use sessile::event_loop::Handle;
use sessile::event_loop::{Interest, Source};
use support::{PATIENCE, promptly};

#[derive(Clone, Copy, Debug)]
enum Sleeps {
    Parked,
    InPoller,
}

/// A thread with a loop that runs until it is stopped.
fn with_loop<R>(sleeps: Sleeps, test: impl FnOnce(Handle, &Asleep) -> R) -> R {
    let (tell, told) = mpsc::channel();
    let thread = thread::Builder::new()
        .name("loop".to_owned())
        .spawn(move || {
            let event_loop = EventLoop::new();
            let (reader, _writer) = std::io::pipe().unwrap();
            let mut _source: Option<Source<_>> = None;
            if let Sleeps::InPoller = sleeps {
                let quiet = event_loop.local().add(reader, Interest::READABLE, |_, _| {
                    panic!("nobody writes");
                });
                _source = Some(quiet.unwrap());
            }
            tell.send((event_loop.handle(), os_thread())).unwrap();
            event_loop.run().unwrap();
        })
        .unwrap();
    let (handle, os_thread) = told.recv().unwrap();
    let out = test(handle.clone(), &Asleep(os_thread));
    handle.stop();
    promptly("join", move || thread.join().unwrap());
    out
}

fn os_thread() -> i32 {
    // SAFETY: `gettid` takes nothing and cannot fail.
    #[allow(unsafe_code)]
    unsafe {
        libc::gettid()
    }
}

/// Sees whether a thread sleeps, by what the kernel says of it.
struct Asleep(i32);

impl Asleep {
    fn stat(&self) -> Vec<String> {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.0)).unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        after_name.split_whitespace().map(str::to_owned).collect()
    }

    fn wait(&self) {
        let end = Instant::now() + PATIENCE;
        while self.stat()[0] != "S" {
            assert!(Instant::now() < end, "it does not fall asleep");
            thread::yield_now();
        }
    }

    /// How often it has been put to sleep and woken, on its own account.
    fn sleeps(&self) -> u64 {
        let path = format!("/proc/self/task/{}/status", self.0);
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
        line.unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Processor time so far, in ticks of 10 ms.
    fn ticks(&self) -> u64 {
        let stat = self.stat();
        stat[11].parse::<u64>().unwrap() + stat[12].parse::<u64>().unwrap()
    }
}

fn over_both(test: impl Fn(Handle, &Asleep)) {
    for sleeps in [Sleeps::Parked, Sleeps::InPoller] {
        with_loop(sleeps, &test);
    }
}

#[test]
fn a_post_does_not_wake_a_loop_that_waits_for_ever() {
    over_both(|handle, asleep| {
        for n in 0..200 {
            if n % 2 == 0 {
                asleep.wait(); // every other post comes while it is falling asleep
            }
            let (tell, told) = mpsc::channel();
            handle.call_soon_threadsafe(move || tell.send(n).unwrap()).unwrap();
            assert_eq!(told.recv_timeout(PATIENCE), Ok(n));
        }
    });
}

#[test]
fn a_call_does_not_wake_a_loop_that_waits_for_ever() {
    over_both(|handle, asleep| {
        for n in 0..200 {
            if n % 2 == 0 {
                asleep.wait();
            }
            let called = handle.call(move || n).unwrap();
            assert_eq!(called.join_timeout(PATIENCE).expect("in time").unwrap(), n);
        }
    });
}

#[test]
fn a_timer_from_afar_does_not_shorten_the_sleep() {
    over_both(|handle, asleep| {
        asleep.wait();
        let (tell, told) = mpsc::channel();
        let after = Duration::from_millis(5);
        let begun = Instant::now();
        handle.call_later_threadsafe(after, move || tell.send(()).unwrap()).unwrap();
        told.recv_timeout(PATIENCE).unwrap();
        assert!(begun.elapsed() >= after);
    });
}

/// It runs from the moment of asking, not from when the loop gets to hear of it.
#[test]
fn a_delay_from_afar_begins_when_the_loop_wakes() {
    let event_loop = EventLoop::new();
    let after = Duration::from_millis(5);
    let (tell, told) = mpsc::channel();
    event_loop.handle().call_later_threadsafe(after, move || tell.send(()).unwrap()).unwrap();
    let asked = Instant::now();
    support::poll_until("it is due", || asked.elapsed() > after);
    event_loop.run_once(Duration::ZERO).unwrap(); // hears of it
    event_loop.run_once(Duration::ZERO).unwrap();
    assert_eq!(told.try_recv(), Ok(()));
}

#[test]
fn a_stop_does_not_wake_a_loop_that_waits_for_ever() {
    for sleeps in [Sleeps::Parked, Sleeps::InPoller] {
        with_loop(sleeps, |_, asleep| asleep.wait()); // `with_loop` stops it, and joins
    }
}

/// A loop that sleeps is woken once for as many posts as come before it is up.
#[test]
fn a_flood_of_posts_wakes_once_for_each() {
    over_both(|handle, asleep| {
        let ran = Arc::new(AtomicUsize::new(0));
        asleep.wait();
        // The first holds the loop until all are posted. It is awake, then, and needs no other wake.
        let (go, gate) = mpsc::channel::<()>();
        handle.call_soon_threadsafe(move || gate.recv_timeout(PATIENCE).unwrap()).unwrap();
        for _ in 0..10_000 {
            let ran = Arc::clone(&ran);
            let count = move || {
                ran.fetch_add(1, Ordering::Relaxed);
            };
            handle.call_soon_threadsafe(count).unwrap();
        }
        let before = asleep.sleeps();
        go.send(()).unwrap();
        handle.call(|| ()).unwrap().join_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), 10_000);
        assert!(asleep.sleeps() - before < 100, "{} sleeps", asleep.sleeps() - before);
    });
}

/// A spurious wake for every sleep would keep an idle loop busy, as would a poller that is never let.
#[test]
fn an_idle_loop_uses_the_processor() {
    over_both(|handle, asleep| {
        handle.call(|| ()).unwrap().join().unwrap();
        asleep.wait();
        let (ticks, sleeps) = (asleep.ticks(), asleep.sleeps());
        thread::sleep(Duration::from_secs(1)); // the very thing: a second in which nothing happens
        assert!(asleep.ticks() - ticks <= 1, "{} ticks", asleep.ticks() - ticks);
        assert!(asleep.sleeps() - sleeps <= 2, "{} sleeps", asleep.sleeps() - sleeps);
    });
}

#[test]
fn a_post_after_close_is_lost() {
    let event_loop = EventLoop::new();
    let handle = event_loop.handle();
    drop(event_loop);
    assert!(handle.is_closed());
    let refused = handle.call_soon_threadsafe(|| ()).unwrap_err();
    assert!(refused.is_closed() && !refused.is_full());
    refused.into_inner()();
    let refused = handle.call_later_threadsafe(Duration::ZERO, || ()).unwrap_err();
    refused.into_inner()();
    let refused = handle.call(|| 7).unwrap_err();
    assert!(refused.is_closed());
    assert_eq!(refused.into_inner()(), 7);
    handle.stop(); // and this does no harm
}

#[test]
fn a_turn_after_close_opens_the_mailbox_again() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        let (handle, local) = (event_loop.handle(), event_loop.local());
        event_loop.close();
        event_loop.close();
        assert!(!event_loop.run_once(None).unwrap(), "it does not sleep either");
        event_loop.run().unwrap();
        assert!(handle.call_soon_threadsafe(|| ()).is_err());
        assert!(local.call_soon(|| ()).is_cancelled());
        assert!(local.call_later(Duration::ZERO, || ()).is_cancelled());
        assert!(local.spawn_local(async {}).is_finished());
    });
}

#[test]
fn a_loop_that_is_closed_by_its_own_callback_runs_on() {
    promptly("loop", || {
        let event_loop = std::rc::Rc::new(EventLoop::new());
        let closes = std::rc::Rc::downgrade(&event_loop);
        event_loop.local().call_soon(move || closes.upgrade().unwrap().close());
        event_loop.local().call_soon(|| panic!("it was to be dropped"));
        event_loop.run().unwrap();
        assert!(event_loop.handle().is_closed());
    });
}

#[test]
fn a_post_that_meets_the_close_is_neither_run_nor_handed_back() {
    for _ in 0..200 {
        let (tell, told) = mpsc::channel();
        let looping = thread::spawn(move || {
            let event_loop = EventLoop::new();
            tell.send(event_loop.handle()).unwrap();
            event_loop.run_once(Duration::from_millis(1)).unwrap();
        });
        let handle = told.recv().unwrap();
        let posted: Vec<_> = (0..50).map(|n| handle.call(move || n)).collect();
        looping.join().unwrap();
        for (n, posted) in posted.into_iter().enumerate() {
            let back = match posted {
                Err(refused) => refused.into_inner(),
                Ok(called) => match called.join_timeout(PATIENCE).expect("it is settled") {
                    Ok(ran) => Box::new(move || ran),
                    Err(error) => error.into_body().expect("cancelled, with the work"),
                },
            };
            assert_eq!(back(), n);
        }
    }
}

#[test]
fn a_full_mailbox_takes_more() {
    let event_loop = EventLoop::builder().capacity(2).build();
    let handle = event_loop.handle();
    handle.call_soon_threadsafe(|| ()).unwrap();
    handle.call_later_threadsafe(Duration::ZERO, || ()).unwrap();
    let refused = handle.call(|| 7).unwrap_err();
    assert!(refused.is_full() && !refused.is_closed());
    assert_eq!(refused.into_inner()(), 7);
    assert!(handle.call_soon_threadsafe(|| ()).unwrap_err().is_full());
    event_loop.run_once(Duration::ZERO).unwrap();
    handle.call_soon_threadsafe(|| ()).expect("there is room again");
}

/// What waits when a loop closes keeps its room, so it is not the room that a poster is told of.
#[test]
fn a_mailbox_that_was_full_when_it_closed_says_try_again() {
    let event_loop = EventLoop::builder().capacity(1).build();
    let handle = event_loop.handle();
    handle.call_soon_threadsafe(|| ()).unwrap();
    drop(event_loop);
    assert!(handle.call_soon_threadsafe(|| ()).unwrap_err().is_closed());
}

#[test]
fn a_loop_waits_for_itself() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        let handle = event_loop.handle();
        let waits = event_loop.handle().call(move || {
            let inner = handle.call(|| 1).unwrap();
            let inner = inner.join_timeout(PATIENCE).expect_err("at once, with the handle");
            inner.join().expect_err("at once").is_deadlock()
        });
        let waits = waits.unwrap();
        assert!(event_loop.run_until(&waits).unwrap());
        assert!(waits.join().unwrap());
    });
}
