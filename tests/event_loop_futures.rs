//! Futures on a loop, and handles awaited elsewhere: wakes that are lost, futures that are kept.

mod support;

use std::cell::{Cell, RefCell};
use std::future::{self, Future};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use sessile::EventLoop;
use sessile::event_loop::{Interest, LocalHandle};
use sessile::task::JoinHandle;
use support::{block_on, promptly};

fn in_turn(event_loop: &EventLoop) -> bool {
    event_loop.run_once(Duration::ZERO).expect("a turn")
}

/// Ready when told so, from any thread.
#[derive(Clone, Default)]
struct Signal(Arc<Mutex<(bool, Option<Waker>)>>);

impl Signal {
    fn set(&self) {
        let mut state = self.0.lock().unwrap();
        state.0 = true;
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn waker(&self) -> Option<Waker> {
        self.0.lock().unwrap().1.clone()
    }
}

impl Future for Signal {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().unwrap();
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Pending once, and awake at once.
fn yields() -> impl Future<Output = ()> {
    let mut first = true;
    future::poll_fn(move |cx| {
        if !std::mem::take(&mut first) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

#[test]
fn a_future_that_stays_on_its_thread_does_not_get_its_result_out() {
    let event_loop = EventLoop::new();
    let shared = Rc::new(Cell::new(1));
    let counted = Rc::clone(&shared);
    let handle: JoinHandle<Rc<Cell<i32>>, ()> = event_loop.local().spawn_local(async move {
        yields().await;
        counted.set(counted.get() + 1);
        counted
    });
    assert!(event_loop.run_until(&handle).unwrap());
    assert!(Rc::ptr_eq(&handle.join().unwrap(), &shared));
    assert_eq!(shared.get(), 2);
}

#[test]
fn a_wake_from_another_thread_does_not_reach_the_loop() {
    promptly("loop", || {
        for _ in 0..300 {
            let event_loop = EventLoop::new();
            let signal = Signal::default();
            let handle = event_loop.local().spawn_local(signal.clone());
            let sets = thread::spawn(move || signal.set());
            assert!(event_loop.run_until(&handle).unwrap());
            sets.join().unwrap();
        }
    });
}

#[test]
fn a_future_that_yields_runs_again_in_its_turn() {
    let event_loop = EventLoop::new();
    let order = Rc::new(RefCell::new(Vec::new()));
    for name in ["a", "b"] {
        let order = Rc::clone(&order);
        event_loop
            .local()
            .spawn_local(async move {
                for n in 0..3 {
                    order.borrow_mut().push(format!("{name}{n}"));
                    yields().await;
                }
            })
            .detach();
    }
    in_turn(&event_loop);
    assert_eq!(*order.borrow(), ["a0", "b0"]);
    while in_turn(&event_loop) {}
    assert_eq!(*order.borrow(), ["a0", "b0", "a1", "b1", "a2", "b2"]);
}

#[test]
fn a_future_spawns_another_and_awaits_it_in_vain() {
    let event_loop = EventLoop::new();
    let handle = event_loop.local().spawn_local(async {
        let local = LocalHandle::current().unwrap();
        local.spawn_local(async { 7 }).await.unwrap() + 1
    });
    assert!(event_loop.run_until(&handle).unwrap());
    assert_eq!(handle.join().unwrap(), 8);
}

#[test]
fn a_panic_in_a_future_goes_to_the_loop_instead_of_its_handle() {
    let handler = |_| panic!("the loop has nothing to do with it");
    let event_loop = EventLoop::builder().exception_handler(handler).build();
    let handle = event_loop.local().spawn_local(async {
        yields().await;
        panic!("in the future")
    });
    assert!(event_loop.run_until::<(), _>(&handle).unwrap());
    let payload = handle.join().unwrap_err().try_into_panic().unwrap();
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"in the future"));
}

#[test]
fn a_cancelled_future_is_kept_until_it_happens_to_be_woken() {
    let event_loop = EventLoop::new();
    let held = Rc::new(());
    let holds = Rc::clone(&held);
    let handle = event_loop.local().spawn_local(async move {
        future::pending::<()>().await;
        drop(holds);
    });
    in_turn(&event_loop);
    assert!(handle.cancel().is_some());
    assert!(handle.cancel().is_none(), "once");
    in_turn(&event_loop);
    assert_eq!(Rc::strong_count(&held), 1);
    assert!(handle.join().unwrap_err().is_cancelled());
}

/// The handle of a future whose output is `Send` may be anywhere when it cancels.
#[test]
fn a_cancel_from_another_thread_does_not_wake_the_loop() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        struct Stops(LocalHandle);
        impl Drop for Stops {
            fn drop(&mut self) {
                self.0.stop();
            }
        }
        let stops = Stops(event_loop.local());
        let handle = event_loop.local().spawn_local(async move {
            let _stops = stops;
            future::pending::<()>().await;
        });
        let cancels = thread::spawn(move || handle.cancel().is_some());
        event_loop.run().unwrap();
        assert!(cancels.join().unwrap());
    });
}

#[test]
fn a_future_outlives_its_loop() {
    let event_loop = EventLoop::new();
    let (held, signal) = (Rc::new(()), Signal::default());
    let (holds, waits) = (Rc::clone(&held), signal.clone());
    let handle = event_loop.local().spawn_local(async move {
        waits.await;
        drop(holds);
    });
    in_turn(&event_loop);
    let waker = signal.waker().expect("it has been polled");
    drop(event_loop);
    assert_eq!(Rc::strong_count(&held), 1);
    waker.wake(); // nobody is there any more
    assert!(handle.join().unwrap_err().is_cancelled());
}

#[test]
fn a_future_that_closes_its_loop_is_put_back_into_it() {
    let event_loop = Rc::new(EventLoop::new());
    let held = Rc::new(());
    let (holds, closes) = (Rc::clone(&held), Rc::downgrade(&event_loop));
    let handle = event_loop.local().spawn_local(async move {
        closes.upgrade().unwrap().close();
        future::pending::<()>().await;
        drop(holds);
    });
    event_loop.run().unwrap();
    assert_eq!(Rc::strong_count(&held), 1);
    assert!(handle.join().unwrap_err().is_cancelled());
}

#[test]
fn a_loop_runs_on_when_what_it_runs_until_has_ended() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        let ended = event_loop.local().spawn_local(async { 1 });
        assert!(event_loop.run_until(&ended).unwrap());
        assert!(event_loop.run_until(&ended).unwrap(), "at once, this time");
        // What it waits for may run on another loop.
        let other = support::Worker::new("other");
        let (tell, told) = std::sync::mpsc::channel();
        let runs = other.start(move || {
            let event_loop = EventLoop::new();
            tell.send(event_loop.handle()).unwrap();
            event_loop.run().unwrap();
        });
        let there = told.recv().unwrap();
        let far = there.call(|| 2).unwrap();
        assert!(event_loop.run_until(&far).unwrap());
        assert_eq!(far.join().unwrap(), 2);
        there.stop();
        runs.wait();
        other.end();
        // A stop ends it too, and says so.
        let never = event_loop.local().spawn_local(future::pending::<()>());
        event_loop.handle().stop();
        assert!(!event_loop.run_until(&never).unwrap());
    });
}

/// The handle is lent to both: neither must take the other's wake.
#[test]
fn of_two_loops_that_run_until_the_same_end_one_sleeps_on() {
    for _ in 0..20 {
        let (tell, told) = std::sync::mpsc::channel();
        let looping = thread::spawn(move || {
            let event_loop = EventLoop::new();
            tell.send(event_loop.handle()).unwrap();
            event_loop.run().unwrap();
        });
        let there = told.recv().unwrap();
        let gate = support::Gate::new();
        let holds = gate.clone();
        let awaited = Arc::new(there.call(move || holds.pass()).unwrap());
        let (turns, turned) = std::sync::mpsc::channel();
        let waiting = ["left", "right"].map(|name| {
            let (worker, turns) = (support::Worker::new(name), turns.clone());
            let awaited = Arc::clone(&awaited);
            let waits = worker.start(move || {
                let event_loop = EventLoop::new();
                // Called once it waits: that it does is noted before the first turn.
                event_loop.local().call_soon(move || turns.send(()).unwrap());
                event_loop.run_until(&*awaited).unwrap()
            });
            (worker, waits)
        });
        waiting.iter().for_each(|_| turned.recv_timeout(support::PATIENCE).unwrap());
        gate.open();
        for (worker, waits) in waiting {
            assert!(waits.wait());
            worker.end();
        }
        there.stop();
        looping.join().unwrap();
    }
}

#[test]
fn a_handle_is_never_ready_on_a_foreign_executor() {
    promptly("executor", || {
        for close in [false, true] {
            let (tell, told) = std::sync::mpsc::channel();
            let looping = thread::spawn(move || {
                let event_loop = EventLoop::new();
                tell.send(event_loop.handle()).unwrap();
                if !close {
                    event_loop.run().unwrap();
                }
            });
            let handle = told.recv().unwrap();
            let Ok(called) = handle.call(|| 7) else {
                assert!(close, "the loop is gone already");
                looping.join().unwrap();
                continue;
            };
            match block_on(called).expect("in time") {
                Ok(seven) => assert_eq!(seven, 7),
                Err(error) => {
                    assert!(close && error.is_cancelled());
                    assert_eq!(error.into_body().expect("the work")(), 7);
                }
            }
            handle.stop();
            looping.join().unwrap();
        }
    });
}

/// A task that moves between executors is woken by its latest waker, and by no other.
#[test]
fn a_handle_wakes_a_waker_of_old() {
    struct Counts(std::sync::atomic::AtomicUsize);
    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let event_loop = EventLoop::new();
    let mut called = event_loop.handle().call(|| 7).unwrap();
    let wakers = [0, 1].map(|_| Arc::new(Counts(0.into())));
    for waker in &wakers {
        let waker = Waker::from(Arc::clone(waker));
        let polled = Pin::new(&mut called).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    in_turn(&event_loop);
    let counts = wakers.map(|waker| waker.0.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(counts, [0, 1]);
    assert_eq!(block_on(called).expect("in time").unwrap(), 7);
}

#[test]
fn a_handle_polled_after_its_end_hangs() {
    let event_loop = EventLoop::new();
    let mut called = event_loop.handle().call(|| 7).unwrap();
    in_turn(&event_loop);
    assert_eq!(block_on(&mut called).expect("in time").unwrap(), 7);
    let message = support::panic_of(|| block_on(called));
    assert!(message.contains("after it was ready"), "{message}");
}

/// Another loop of this thread, which is not running; a worker that runs a loop in its work.
#[test]
fn a_loop_that_would_wait_for_its_own_thread_says_so() {
    let (one, two) = (EventLoop::new(), EventLoop::new());
    let ended = one.local().spawn_local(async { 1 });
    assert!(one.run_until(&ended).unwrap());
    let deadlocks = |error: std::io::Error| assert_eq!(error.kind(), std::io::ErrorKind::Deadlock);
    let spawned = one.local().spawn_local(async { 2 });
    let called = one.handle().call(|| 3).unwrap();
    deadlocks(two.run_until(&spawned).unwrap_err());
    deadlocks(two.run_until(&called).unwrap_err());
    assert!(two.run_until(&ended).unwrap(), "what has ended is not waited for");
    assert!(one.run_until(&called).unwrap(), "its own loop can");
    assert!(two.run_until(&spawned).unwrap(), "that has run it, too");
    assert_eq!((spawned.join().unwrap(), called.join().unwrap()), (2, 3));
    // Within a turn of its own loop it is this loop that goes on.
    let event_loop = Rc::new(EventLoop::new());
    let inner = Rc::clone(&event_loop);
    event_loop.local().call_soon(move || {
        let nested = inner.local().spawn_local(async { 4 });
        assert!(inner.run_until(&nested).unwrap());
        assert_eq!(nested.join().unwrap(), 4);
    });
    assert!(in_turn(&event_loop));
}

/// A future has polled the handle; then a loop runs until that ends, and is stopped.
#[test]
fn a_loop_that_waits_for_a_handle_takes_no_wake_from_who_awaits_it() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        let signal = Signal::default();
        let mut awaited = event_loop.local().spawn_local(signal.clone());
        let counts = Arc::new(Counts::default());
        let waker = Waker::from(Arc::clone(&counts));
        assert!(Pin::new(&mut awaited).poll(&mut Context::from_waker(&waker)).is_pending());
        for _ in 0..3 {
            event_loop.handle().stop();
            assert!(!event_loop.run_until(&awaited).unwrap());
        }
        assert_eq!(counts.0.load(Ordering::Relaxed), 0);
        signal.set();
        while in_turn(&event_loop) {}
        assert_eq!(counts.0.load(Ordering::Relaxed), 1);
    });
}

/// A loop that was stopped, or has failed, waits no more: it is not kept by what it had waited for.
#[test]
fn a_loop_that_was_stopped_leaves_nothing_with_the_handle_it_waited_for() {
    promptly("loops", || {
        let (tell, told) = std::sync::mpsc::channel();
        let looping = thread::spawn(move || {
            let event_loop = EventLoop::new();
            tell.send(event_loop.handle()).unwrap();
            event_loop.run().unwrap();
        });
        let there = told.recv().unwrap();
        let gate = support::Gate::new();
        let holds = gate.clone();
        let awaited = there.call(move || holds.pass()).unwrap();
        // Each would have cost as much as all before it.
        for _ in 0..30_000 {
            let event_loop = EventLoop::new();
            event_loop.handle().stop();
            assert!(!event_loop.run_until(&awaited).unwrap());
        }
        gate.open();
        awaited.join().unwrap();
        there.stop();
        looping.join().unwrap();
    });
}

// ---- the clock ----------------------------------------------------------------------------------

#[test]
fn sleeps_end_in_the_order_of_their_times_and_not_before() {
    let event_loop = EventLoop::new();
    let local = event_loop.local();
    let woken = Rc::new(RefCell::new(Vec::new()));
    let sleepers = [9, 3, 6].map(|millis| {
        let (local, woken) = (local.clone(), Rc::clone(&woken));
        local.clone().spawn_local(async move {
            let sleep = local.sleep(Duration::from_millis(millis));
            let due = sleep.when();
            sleep.await;
            assert!(std::time::Instant::now() >= due);
            woken.borrow_mut().push(millis);
        })
    });
    event_loop
        .block_on(async {
            for sleeper in sleepers {
                sleeper.await.unwrap();
            }
        })
        .unwrap();
    assert_eq!(*woken.borrow(), [3, 6, 9]);
    event_loop.block_on(local.sleep(Duration::ZERO)).unwrap();
}

#[test]
fn a_sleep_that_is_dropped_leaves_no_timer_and_wakes_nobody() {
    let event_loop = EventLoop::new();
    let mut sleep = Box::pin(event_loop.local().sleep(Duration::from_secs(3600)));
    let counts = Arc::new(Counts::default());
    let waker = Waker::from(Arc::clone(&counts));
    assert!(sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(event_loop.next_timer(), Some(sleep.when()));
    drop(sleep);
    assert_eq!(event_loop.next_timer(), None);
    assert!(!in_turn(&event_loop));
    assert_eq!((counts.0.load(Ordering::Relaxed), Arc::strong_count(&counts)), (0, 2));
}

#[derive(Default)]
struct Counts(AtomicUsize);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Polled by somebody else's executor, it would be waited for, for ever.
#[test]
fn what_awaits_a_loop_ends_when_that_closes() {
    let event_loop = EventLoop::new();
    let local = event_loop.local();
    let (reader, _writer) = std::io::pipe().unwrap();
    let source = local.watch(reader).unwrap();
    let counts = Arc::new(Counts::default());
    let waker = Waker::from(Arc::clone(&counts));
    let mut cx = Context::from_waker(&waker);
    let mut sleep = Box::pin(local.sleep(Duration::from_secs(3600)));
    let mut readable = Box::pin(source.readable());
    assert!(sleep.as_mut().poll(&mut cx).is_pending());
    assert!(readable.as_mut().poll(&mut cx).is_pending());
    drop(event_loop);
    assert_eq!(counts.0.load(Ordering::Relaxed), 2, "both are woken");
    assert!(sleep.as_mut().poll(&mut cx).is_ready());
    let Poll::Ready(Err(error)) = readable.as_mut().poll(&mut cx) else { panic!("it is an error") };
    assert_eq!(error.to_string(), "the loop is closed");
    assert!(Box::pin(source.writable()).as_mut().poll(&mut cx).is_ready());
}

#[test]
fn a_timeout_drops_its_future_and_one_that_is_ready_has_made_it() {
    let event_loop = EventLoop::new();
    let local = event_loop.local();
    let held = Rc::new(());
    let holds = Rc::clone(&held);
    let never = async move {
        future::pending::<()>().await;
        drop(holds);
    };
    let elapsed = event_loop.block_on(local.timeout(Duration::from_millis(2), never)).unwrap();
    let elapsed = elapsed.unwrap_err();
    assert_eq!(elapsed.after(), Duration::from_millis(2));
    assert!(elapsed.to_string().contains("2ms"), "{elapsed}");
    assert_eq!(Rc::strong_count(&held), 1);
    let ready = local.timeout(Duration::ZERO, async { 7 });
    assert_eq!(event_loop.block_on(ready).unwrap(), Ok(7));
    // What it borrows comes back; and no timer is left behind by the one that has made it.
    let mut text = String::new();
    let borrows = async {
        yields().await;
        text.push('x');
    };
    event_loop.block_on(local.timeout(Duration::from_secs(3600), borrows)).unwrap().unwrap();
    assert_eq!((&*text, event_loop.next_timer()), ("x", None));
}

// ---- readiness ----------------------------------------------------------------------------------

#[test]
fn all_who_await_a_source_are_woken_and_those_that_left_miss_nothing() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        let local = event_loop.local();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let source = Rc::new(local.watch(reader).unwrap());
        let waits = || {
            let source = Rc::clone(&source);
            local.spawn_local(async move { source.readable().await.is_ok() })
        };
        let both = [waits(), waits()];
        while in_turn(&event_loop) {}
        // One that gives up takes nothing from the others.
        let gives_up = local.timeout(Duration::from_millis(2), source.readable());
        assert!(event_loop.block_on(gives_up).unwrap().is_err());
        writer.write_all(b"x").unwrap();
        for waited in both {
            assert!(event_loop.block_on(waited).unwrap().unwrap());
        }
        event_loop.block_on(source.readable()).unwrap().unwrap();
        assert_eq!((&**source).read(&mut [0; 8]).unwrap(), 1);
        drop(writer);
        event_loop.block_on(source.readable()).unwrap().unwrap();
        assert_eq!((&**source).read(&mut [0; 8]).unwrap(), 0, "the other side has closed");
    });
}

/// What nobody reads is told once in vain, and then the loop sleeps.
#[test]
fn a_loop_sleeps_beside_a_source_that_is_ready_and_that_nobody_awaits() {
    let event_loop = EventLoop::new();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let source = event_loop.local().watch(reader).unwrap();
    writer.write_all(b"x").unwrap();
    event_loop.block_on(source.readable()).unwrap().unwrap();
    drop(writer); // a poller tells of that whatever was asked
    let done = Rc::new(Cell::new(false));
    let sets = Rc::clone(&done);
    event_loop.local().call_later(Duration::from_millis(20), move || sets.set(true));
    let mut turns = 0;
    while !done.get() {
        event_loop.run_once(None).unwrap();
        turns += 1;
    }
    assert!(turns <= 4, "{turns} turns for one timer");
}

/// A source with a callback is awaited besides, and each goes its own way.
#[test]
fn a_source_is_called_and_awaited_at_the_same_time() {
    let event_loop = EventLoop::new();
    let local = event_loop.local();
    let (here, mut there) = std::os::unix::net::UnixStream::pair().unwrap();
    let calls = Rc::new(Cell::new(0));
    let counts = Rc::clone(&calls);
    let source = local.add(here, Interest::READABLE, move |mut here: &UnixStream, ready| {
        assert!(ready.readable && !ready.writable);
        counts.set(counts.get() + here.read(&mut [0; 8]).unwrap());
    });
    let source = source.unwrap();
    event_loop.block_on(source.writable()).unwrap().unwrap();
    assert_eq!(calls.get(), 0);
    there.write_all(b"x").unwrap();
    assert!(event_loop.run_once(None).unwrap());
    assert_eq!(calls.get(), 1);
    source.modify(Interest::NONE).unwrap();
    there.write_all(b"y").unwrap();
    event_loop.block_on(source.readable()).unwrap().unwrap();
    assert_eq!(calls.get(), 1, "it is at rest, and awaited nevertheless");
    let watched = local.watch(there).unwrap();
    let error = watched.modify(Interest::READABLE).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "it has no callback: {error}");
}

// ---- block_on -----------------------------------------------------------------------------------

#[test]
fn a_stop_does_not_end_block_on_and_counts_for_the_next_run() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        let (handle, local) = (event_loop.handle(), event_loop.local());
        let borrowed = Cell::new(0);
        let output = event_loop.block_on(async {
            handle.stop();
            for _ in 0..10 {
                yields().await;
                borrowed.set(borrowed.get() + 1);
            }
            local.sleep(Duration::from_millis(2)).await;
            thread::spawn(move || handle.stop()).join().unwrap();
            local.sleep(Duration::from_millis(2)).await;
            "done"
        });
        assert_eq!((output.unwrap(), borrowed.get()), ("done", 10));
        event_loop.run().unwrap(); // it would not return otherwise
    });
}

#[test]
fn block_on_is_woken_from_other_threads_and_by_what_runs_on_the_loop() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        for _ in 0..100 {
            let signal = Signal::default();
            let (far, handle) = (signal.clone(), event_loop.handle());
            let sets = thread::spawn(move || {
                let near = far.clone();
                handle.call(move || near.set()).unwrap().join().unwrap();
                far.set();
            });
            event_loop.block_on(signal).unwrap();
            event_loop.block_on(async {}).unwrap(); // the second wake goes to nobody
            while !sets.is_finished() {
                event_loop.run_once(Duration::from_millis(1)).unwrap();
            }
            sets.join().unwrap();
        }
    });
}

#[test]
fn block_on_ends_with_an_error_when_its_loop_closes() {
    let event_loop = Rc::new(EventLoop::new());
    let closes = Rc::clone(&event_loop);
    event_loop.local().call_soon(move || closes.close());
    let held = Rc::new(());
    let holds = Rc::clone(&held);
    let ended = event_loop.block_on(async move {
        future::pending::<()>().await;
        drop(holds);
    });
    assert!(ended.unwrap_err().to_string().contains("closed"));
    assert_eq!(Rc::strong_count(&held), 1, "dropped");
    assert!(event_loop.block_on(async {}).is_err(), "nor does it begin");
}

#[test]
fn a_panic_goes_through_block_on_and_the_loop_goes_on() {
    let event_loop = EventLoop::new();
    let panics = || event_loop.block_on(async { panic!("in the future") });
    assert_eq!(support::panic_of(panics), "in the future");
    assert!(LocalHandle::current().is_none());
    assert!(event_loop.block_on(async { LocalHandle::current().is_some() }).unwrap());
}

/// It wakes itself in each poll; and it stands within a callback of the same loop.
#[test]
fn a_future_that_always_wakes_itself_starves_nobody_in_block_on() {
    promptly("loop", || {
        let event_loop = Rc::new(EventLoop::new());
        let inner = Rc::clone(&event_loop);
        event_loop.local().call_soon(move || {
            let (called, local) = (Rc::new(Cell::new(false)), inner.local());
            let calls = Rc::clone(&called);
            local.call_later(Duration::from_millis(2), move || calls.set(true));
            let spins = async {
                while !called.get() {
                    yields().await;
                }
            };
            inner.block_on(spins).unwrap();
            local.stop();
        });
        event_loop.run().unwrap();
    });
}
