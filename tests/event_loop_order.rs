//! What a loop may get out of order: callbacks, turns, timers, cancels and stops.

mod support;

use std::cell::RefCell;
use std::io::{PipeReader, PipeWriter};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use sessile::EventLoop;
use sessile::event_loop::{Handle, Interest, LocalHandle, Source};
use support::promptly;

/// What was called, in order. Stays on the loop's thread.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    fn note(&self, what: impl ToString) {
        self.0.borrow_mut().push(what.to_string());
    }

    fn noting(&self, what: impl ToString) -> impl FnOnce() + 'static {
        let (log, what) = (self.clone(), what.to_string());
        move || log.note(what)
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

fn in_turn(event_loop: &EventLoop) -> bool {
    event_loop.run_once(Duration::ZERO).expect("a turn")
}

fn current() -> LocalHandle {
    LocalHandle::current().expect("a loop is running here")
}

#[test]
fn callbacks_overtake_each_other() {
    let (event_loop, log) = (EventLoop::new(), Log::default());
    let local = event_loop.local();
    for n in 0..100 {
        local.call_soon(log.noting(n));
    }
    assert!(in_turn(&event_loop));
    assert_eq!(log.take(), (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(!in_turn(&event_loop), "nothing is called twice");
}

#[test]
fn posts_of_one_thread_overtake_each_other() {
    promptly("loop", || {
        let event_loop = EventLoop::builder().batch(7).build();
        let (tell, told) = std::sync::mpsc::channel();
        let handle = event_loop.handle();
        let poster = std::thread::spawn(move || {
            for n in 0..1000 {
                let tell = tell.clone();
                handle.call_soon_threadsafe(move || tell.send(n).unwrap()).unwrap();
            }
            handle.stop();
        });
        event_loop.run().unwrap();
        poster.join().unwrap();
        while in_turn(&event_loop) {} // what was left when the stop came
        assert_eq!(told.try_iter().collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>());
    });
}

/// What a closure brings along: something to be counted, and as much as it takes beside it.
struct Load<T> {
    value: T,
    _counted: Arc<()>,
}

/// Small ones and large, of any alignment; many enough to go around in the mailbox several times.
#[test]
fn a_load_arrives_damaged_or_is_dropped_twice_or_never() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    #[repr(align(128))]
    struct Aligned(u8);

    fn all_ends<T: Copy + PartialEq + std::fmt::Debug + Send + 'static>(value: T) {
        let counted = Arc::new(());
        let load = || Load { value, _counted: Arc::clone(&counted) };
        let (event_loop, ran) = (EventLoop::new(), Arc::new(AtomicUsize::new(0)));
        let handle = event_loop.handle();
        for _ in 0..300 {
            let (load, runs) = (load(), Arc::clone(&ran));
            let posted = handle.call_soon_threadsafe(move || {
                assert_eq!({ load }.value, value);
                runs.fetch_add(1, Ordering::Relaxed);
            });
            posted.unwrap();
        }
        while in_turn(&event_loop) {}
        assert_eq!((ran.load(Ordering::Relaxed), Arc::strong_count(&counted)), (300, 1));

        for _ in 0..100 {
            let load = load();
            handle.call_soon_threadsafe(move || drop(load)).unwrap();
        }
        assert_eq!(Arc::strong_count(&counted), 101);
        drop(event_loop);
        assert_eq!(Arc::strong_count(&counted), 1, "dropped with the loop");

        let load = load();
        let refused = handle.call_soon_threadsafe(move || assert_eq!({ load }.value, value));
        refused.unwrap_err().into_inner()();
        assert_eq!(Arc::strong_count(&counted), 1, "handed back");
    }

    all_ends(());
    all_ends(7_u8);
    all_ends([7_u64; 2]);
    all_ends([7_u64; 50]);
    all_ends(Aligned(7));
}

/// The inner turn is given what the outer has not called yet.
#[test]
fn a_turn_within_a_turn_waits_for_the_outer_one() {
    promptly("loop", || {
        let (event_loop, log) = (Rc::new(EventLoop::new()), Log::default());
        let (tell, told) = std::sync::mpsc::channel();
        let outer = (Rc::clone(&event_loop), log.noting("outer"));
        event_loop.local().call_soon(move || {
            outer.1();
            assert!(outer.0.run_once(None).unwrap());
        });
        for n in 0..3 {
            let tell = tell.clone();
            event_loop.handle().call_soon_threadsafe(move || tell.send(n).unwrap()).unwrap();
        }
        assert!(in_turn(&event_loop));
        assert_eq!(log.take(), ["outer"]);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    });
}

#[test]
fn what_a_callback_schedules_runs_in_the_same_turn() {
    let (event_loop, log) = (EventLoop::new(), Log::default());
    let (inner, posted, timed) = (log.noting("inner"), log.clone(), log.noting("timed"));
    let outer = log.noting("outer");
    let handle = event_loop.handle();
    event_loop.local().call_soon(move || {
        outer();
        current().call_soon(inner);
        current().call_later(Duration::ZERO, timed);
        let _ = posted; // a post needs `Send`: it is told apart by its effect on the next turn
        handle.call_soon_threadsafe(|| drop(current().call_soon(|| ()))).unwrap();
    });
    event_loop.local().call_soon(log.noting("second"));
    in_turn(&event_loop);
    assert_eq!(log.take(), ["outer", "second"]);
    in_turn(&event_loop);
    assert_eq!(log.take(), ["inner", "timed"]);
    assert!(in_turn(&event_loop), "what the post scheduled");
    assert!(!in_turn(&event_loop));
}

#[test]
fn timers_run_in_the_order_of_asking_instead_of_their_deadlines() {
    let (event_loop, log) = (EventLoop::new(), Log::default());
    let (local, now) = (event_loop.local(), Instant::now());
    let at = |ms| now.checked_sub(Duration::from_millis(ms)).expect("the clock is older than that");
    for (what, ms) in [("d", 1), ("b", 3), ("a", 4), ("c", 2)] {
        local.call_at(at(ms), log.noting(what));
    }
    in_turn(&event_loop);
    assert_eq!(log.take(), ["a", "b", "c", "d"]);
}

#[test]
fn timers_of_one_deadline_change_places() {
    let (event_loop, log) = (EventLoop::new(), Log::default());
    let (local, at) = (event_loop.local(), Instant::now());
    for n in 0..200 {
        local.call_at(at, log.noting(n));
    }
    in_turn(&event_loop);
    assert_eq!(log.take(), (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_timer_runs_before_its_time() {
    let event_loop = EventLoop::new();
    let (local, log) = (event_loop.local(), Log::default());
    let due = Instant::now() + Duration::from_millis(20);
    let stop = local.clone();
    let called = log.clone();
    let scheduled = local.call_at(due, move || {
        called.note(Instant::now() >= due);
        stop.stop();
    });
    assert_eq!(scheduled.when(), Some(due));
    assert!(!in_turn(&event_loop) || Instant::now() >= due, "not before");
    event_loop.run().unwrap();
    assert_eq!(log.take(), ["true"]);
}

#[test]
fn a_delay_beyond_all_clocks_is_due_at_once() {
    let event_loop = EventLoop::new();
    event_loop.local().call_later(Duration::MAX, || panic!("this is far off"));
    event_loop.handle().call_later_threadsafe(Duration::MAX, || panic!("so is this")).unwrap();
    in_turn(&event_loop);
    in_turn(&event_loop);
}

#[test]
fn a_cancelled_callback_runs() {
    let (event_loop, log) = (EventLoop::new(), Log::default());
    let local = event_loop.local();
    let soon = local.call_soon(log.noting("soon"));
    let later = local.call_later(Duration::ZERO, log.noting("later"));
    let due_already = local.call_at(Instant::now(), log.noting("due"));
    // Cancelled by the callback before it in the same turn: it is out of the heap by then.
    let victim = Rc::new(RefCell::new(None));
    let (first, of) = (log.noting("first"), Rc::clone(&victim));
    local.call_soon(move || {
        first();
        let victim: sessile::event_loop::Scheduled = of.take().expect("set");
        victim.cancel();
        assert!(victim.is_cancelled());
    });
    victim.replace(Some(local.call_soon(log.noting("victim"))));
    for scheduled in [&soon, &later, &due_already] {
        scheduled.cancel();
    }
    while in_turn(&event_loop) {}
    assert_eq!(log.take(), ["first"]);
}

/// A loop that sleeps until its one timer, which is cancelled: it is to sleep on.
#[test]
fn a_cancelled_timer_wakes_the_loop() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        event_loop.local().call_later(Duration::from_millis(5), || panic!("cancelled")).cancel();
        let handle = event_loop.handle();
        let called = handle.call(|| 7).unwrap();
        assert!(event_loop.run_until(&called).unwrap());
        assert_eq!(called.join().unwrap(), 7);
        assert!(!event_loop.run_once(Duration::from_millis(20)).unwrap());
    });
}

/// A timeout that is set and cancelled for every request would otherwise stay until it is due.
#[test]
fn cancelled_timers_pile_up_until_they_are_due() {
    let event_loop = EventLoop::new();
    let (local, dropped) = (event_loop.local(), Rc::new(()));
    for _ in 0..10_000 {
        let held = Rc::clone(&dropped);
        local.call_later(Duration::from_secs(3600), move || drop(held)).cancel();
    }
    assert!(Rc::strong_count(&dropped) < 1000, "{} are kept", Rc::strong_count(&dropped));
}

/// All at once, behind one that is not cancelled; and no other is asked for after them.
#[test]
fn cancelled_timers_stay_until_another_is_asked_for() {
    let event_loop = EventLoop::new();
    let (local, dropped) = (event_loop.local(), Rc::new(()));
    local.call_later(Duration::from_secs(1800), || ());
    let ask = |_| {
        let held = Rc::clone(&dropped);
        local.call_later(Duration::from_secs(3600), move || drop(held))
    };
    let asked: Vec<_> = (0..10_000).map(ask).collect();
    asked.iter().for_each(sessile::event_loop::Scheduled::cancel);
    in_turn(&event_loop);
    assert!(Rc::strong_count(&dropped) < 100, "{} are kept", Rc::strong_count(&dropped));
}

#[test]
fn weeding_out_the_cancelled_loses_the_others() {
    let (event_loop, log) = (EventLoop::new(), Log::default());
    let (local, at) = (event_loop.local(), Instant::now());
    for n in 0..1000 {
        let scheduled = local.call_at(at, log.noting(n));
        if n % 3 != 0 {
            scheduled.cancel();
        }
    }
    in_turn(&event_loop);
    let live: Vec<_> = (0..1000).filter(|n| n % 3 == 0).map(|n: i32| n.to_string()).collect();
    assert_eq!(log.take(), live);
}

#[test]
fn a_stop_cuts_the_turn_short() {
    let (event_loop, log) = (EventLoop::new(), Log::default());
    let local = event_loop.local();
    local.call_soon(log.noting("before"));
    let (stop, next) = (local.clone(), log.noting("next turn"));
    local.call_soon(move || {
        stop.stop();
        stop.call_soon(next);
    });
    local.call_soon(log.noting("after"));
    event_loop.run().unwrap();
    assert_eq!(log.take(), ["before", "after"], "the turn is finished, and no other begun");
    local.stop();
    event_loop.run().unwrap();
    assert_eq!(log.take(), ["next turn"], "what was left is there for the next run");
}

#[test]
fn a_stop_before_the_run_is_lost() {
    promptly("loop", || {
        let (event_loop, log) = (EventLoop::new(), Log::default());
        event_loop.local().call_soon(log.noting("once"));
        event_loop.handle().stop();
        event_loop.handle().stop(); // twice is once
        event_loop.run().unwrap();
        assert_eq!(log.take(), ["once"]);
    });
}

#[test]
fn a_stop_outlives_the_run_that_it_ended() {
    promptly("loop", || {
        let event_loop = EventLoop::new();
        let local = event_loop.local();
        let stop = local.clone();
        local.call_soon(move || stop.stop());
        event_loop.run().unwrap();
        let (log, stop) = (Log::default(), local.clone());
        let second = log.noting("second");
        local.call_soon(|| {
            drop(current().call_soon(move || {
                second();
                stop.stop();
            }))
        });
        event_loop.run().unwrap();
        assert_eq!(log.take(), ["second"], "the second run goes beyond its first turn");
    });
}

#[test]
fn a_loop_is_current_where_it_does_not_run() {
    assert!(LocalHandle::current().is_none());
    let event_loop = EventLoop::new();
    event_loop.local().call_soon(|| {
        let inner = EventLoop::new();
        let outer = current();
        inner.local().call_soon(move || {
            // Were this the outer loop's handle, the inner loop would have nothing to run.
            current().call_soon(|| current().stop());
        });
        inner.run().unwrap();
        drop(outer.call_soon(|| ()));
    });
    in_turn(&event_loop);
    assert!(in_turn(&event_loop), "the outer loop is the current one again");
    assert!(LocalHandle::current().is_none());
}

// ---- every source has a share of every turn -----------------------------------------------------

/// Where a call may come from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum From {
    Here,
    Post,
    Socket,
    Task,
    Timer,
}

const SOURCES: [From; 5] = [From::Here, From::Post, From::Socket, From::Task, From::Timer];

/// Ready with the next poll after it was pending once; wakes itself for that.
fn yields() -> impl Future<Output = ()> {
    let mut first = true;
    std::future::poll_fn(move |cx| {
        if !std::mem::take(&mut first) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// A pipe that can always be written.
fn always_writable(
    event_loop: &EventLoop,
    watch_for: Interest,
    call: impl FnMut() + 'static,
) -> (PipeReader, Source<PipeWriter>) {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut call = call;
    (reader, event_loop.local().add(writer, watch_for, move |_, _| call()).unwrap())
}

/// So many from one source that each time they are called come again.
fn flood(event_loop: &EventLoop, from: From, many: usize) -> Vec<(PipeReader, Source<PipeWriter>)> {
    fn soon(local: LocalHandle) {
        let again = local.clone();
        local.call_soon(move || soon(again));
    }
    fn post(handle: Handle) {
        let again = handle.clone();
        handle.call_soon_threadsafe(move || post(again)).unwrap();
    }
    fn timer(local: LocalHandle) {
        let again = local.clone();
        local.call_later(Duration::ZERO, move || timer(again));
    }
    let mut sources = Vec::new();
    for _ in 0..many {
        match from {
            From::Here => soon(event_loop.local()),
            From::Post => post(event_loop.handle()),
            From::Timer => timer(event_loop.local()),
            From::Socket => {
                sources.push(always_writable(event_loop, Interest::WRITABLE, || ()));
            }
            From::Task => {
                let yielding = async {
                    loop {
                        yields().await;
                    }
                };
                event_loop.local().spawn_local(yielding).detach();
            }
        }
    }
    sources
}

/// How many turns it takes until one from this source is called, which comes now.
fn turns_until_called(event_loop: &EventLoop, from: From) -> usize {
    let called = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&called);
    let call = move || {
        count.fetch_add(1, Ordering::Relaxed);
    };
    let mut source = None;
    match from {
        From::Here => drop(event_loop.local().call_soon(call)),
        From::Post => event_loop.handle().call_soon_threadsafe(call).unwrap(),
        From::Timer => drop(event_loop.local().call_later(Duration::ZERO, call)),
        From::Socket => source = Some(always_writable(event_loop, Interest::WRITABLE, call)),
        From::Task => {
            // Pending before the flood: it is the wake that counts.
            let waker = Rc::new(RefCell::new(None::<std::task::Waker>));
            let (asleep, mut call) = (Rc::clone(&waker), Some(call));
            let task = std::future::poll_fn(move |cx| {
                if asleep.borrow().is_none() {
                    *asleep.borrow_mut() = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                (call.take().unwrap())();
                Poll::Ready(())
            });
            event_loop.local().spawn_local(task).detach();
            for _ in 0..100 {
                in_turn(event_loop);
            }
            // A copy is left there, so that the next poll knows that it was woken.
            let copy = waker.borrow().clone();
            copy.expect("polled once").wake();
            let mut turns = 0;
            while called.load(Ordering::Relaxed) == 0 && turns < 100 {
                in_turn(event_loop);
                turns += 1;
            }
            return turns;
        }
    }
    let mut turns = 0;
    while called.load(Ordering::Relaxed) == 0 && turns < 100 {
        in_turn(event_loop);
        turns += 1;
    }
    drop(source);
    turns
}

/// The bound of the contract, for each source under a flood from each source.
#[test]
fn no_flood_starves_another_source_or_its_own() {
    const BATCH: usize = 3;
    const MANY: usize = 10;
    promptly("loops", || {
        for flooded in SOURCES {
            for from in SOURCES {
                let event_loop = EventLoop::builder().batch(BATCH).build();
                let _sources = flood(&event_loop, flooded, MANY);
                // Until the flood is in full spate: futures were first polled as callbacks.
                for _ in 0..20 {
                    assert!(in_turn(&event_loop));
                }
                let before = if flooded == from { MANY } else { 0 };
                let extra = usize::from(from == From::Socket);
                let turns = turns_until_called(&event_loop, from);
                let bound = (before + 1).div_ceil(BATCH) + extra;
                assert!(turns <= bound, "{from:?} under {flooded:?}: {turns} turns, not {bound}");
            }
        }
    });
}

/// A callback that asks for two: the queue of its source grows for ever, and nobody else waits for it.
#[test]
fn a_queue_that_grows_for_ever_holds_up_no_timer() {
    promptly("loop", || {
        let event_loop = EventLoop::builder().batch(8).build();
        fn doubles(local: LocalHandle) {
            for _ in 0..2 {
                let again = local.clone();
                local.call_soon(move || doubles(again));
            }
        }
        doubles(event_loop.local());
        for _ in 0..100 {
            in_turn(&event_loop);
        }
        assert_eq!(turns_until_called(&event_loop, From::Timer), 1);
        assert_eq!(turns_until_called(&event_loop, From::Post), 1);
        event_loop.close();
    });
}

/// A share of each, in the order of the contract, also where none has filled its share.
#[test]
fn a_turn_calls_what_was_asked_here_then_posts_then_sockets_then_tasks_then_timers() {
    let (event_loop, log) = (EventLoop::new(), Log::default());
    let local = event_loop.local();
    let (tell, told) = std::sync::mpsc::channel();
    local.call_later(Duration::ZERO, log.noting("timer"));
    let (noted, posted) = (log.clone(), told);
    let task = log.clone();
    let waker = Rc::new(RefCell::new(None::<std::task::Waker>));
    let asleep = Rc::clone(&waker);
    let mut wakes = 0;
    local
        .spawn_local(std::future::poll_fn(move |cx| {
            wakes += 1;
            if wakes == 1 {
                *asleep.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            task.note("task");
            Poll::Ready(())
        }))
        .detach();
    in_turn(&event_loop);
    log.take();
    local.call_later(Duration::ZERO, log.noting("timer"));
    waker.take().unwrap().wake();
    let (first, socket) = (Rc::new(RefCell::new(true)), log.clone());
    let (_reader, _source) = always_writable(&event_loop, Interest::WRITABLE, move || {
        if first.replace(false) {
            noted.note(posted.try_recv().expect("the post was before"));
            socket.note("socket");
        }
    });
    event_loop.handle().call_soon_threadsafe(move || tell.send("post").unwrap()).unwrap();
    local.call_soon(log.noting("here"));
    in_turn(&event_loop);
    assert_eq!(log.take(), ["here", "post", "socket", "task", "timer"]);
}

/// The outer turn has taken its share; an inner one calls that, and it is not called again.
#[test]
fn a_turn_within_a_turn_calls_nothing_twice_and_loses_nothing() {
    promptly("loop", || {
        let (event_loop, log) = (Rc::new(EventLoop::builder().batch(4).build()), Log::default());
        let local = event_loop.local();
        let inner = Rc::clone(&event_loop);
        local.call_soon(move || assert!(inner.run_once(Duration::ZERO).unwrap()));
        for n in 0..12 {
            local.call_soon(log.noting(n));
        }
        let (tell, told) = std::sync::mpsc::channel();
        for n in 0..12 {
            let tell = tell.clone();
            event_loop.handle().call_soon_threadsafe(move || tell.send(n).unwrap()).unwrap();
        }
        while in_turn(&event_loop) {}
        assert_eq!(log.take(), (0..12).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(told.try_iter().collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
    });
}

// ---- against a model ------------------------------------------------------------------------------

/// What was asked for, and what has been called of it: by source, in order.
#[derive(Default)]
struct Books {
    soon: Vec<usize>,
    /// By deadline, then in the order of asking.
    timers: Vec<(Instant, usize)>,
    posts: Vec<usize>,
    tasks: Vec<usize>,
    cancelled: Vec<usize>,
    called: Vec<(From, usize)>,
    /// Closures that are gone, called or not.
    dropped: usize,
}

type Shared = Arc<std::sync::Mutex<Books>>;

struct Piece(Shared, From, usize);

impl Piece {
    fn call(&self) {
        self.0.lock().unwrap().called.push((self.1, self.2));
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.0.lock().unwrap().dropped += 1;
    }
}

/// Callbacks, timers, posts and futures are asked for in any order, from without and from within, in turns
/// and in turns within turns; some are cancelled. Each is called exactly once, or never if it was
/// cancelled; those of a source in their order; and each is dropped once, also where the loop closes before.
#[test]
fn whatever_is_asked_for_is_called_once_and_in_the_order_of_its_source() {
    fn ask(
        event_loop: &Rc<EventLoop>,
        books: &Shared,
        rng: &Rc<RefCell<support::Rng>>,
        depth: u32,
    ) {
        let local = event_loop.local();
        let number = {
            let books = books.lock().unwrap();
            books.soon.len() + books.timers.len() + books.posts.len() + books.tasks.len()
        };
        let draw = |below| rng.borrow_mut().below(below);
        let nests = depth < 3 && draw(4) == 0;
        let within = {
            let (event_loop, books, rng) = (Rc::downgrade(event_loop), books.clone(), rng.clone());
            move || {
                let Some(event_loop) = event_loop.upgrade().filter(|_| nests) else { return };
                for _ in 0..2 {
                    ask(&event_loop, &books, &rng, depth + 1);
                }
                if rng.borrow_mut().below(3) == 0 {
                    event_loop.run_once(Duration::ZERO).unwrap();
                }
            }
        };
        let piece = |from| Piece(Arc::clone(books), from, number);
        match draw(4) {
            0 => {
                let piece = piece(From::Here);
                let scheduled = local.call_soon(move || {
                    piece.call();
                    within();
                });
                let mut books = books.lock().unwrap();
                books.soon.push(number);
                if draw(5) == 0 {
                    scheduled.cancel();
                    books.cancelled.push(number);
                }
            }
            1 => {
                let at = Instant::now() + rng.borrow_mut().micros(300);
                let piece = piece(From::Timer);
                let scheduled = local.call_at(at, move || {
                    piece.call();
                    within();
                });
                let mut books = books.lock().unwrap();
                books.timers.push((at, number));
                if draw(5) == 0 {
                    scheduled.cancel();
                    books.cancelled.push(number);
                }
            }
            2 => {
                // From another thread, which is through with it before the next.
                let piece = piece(From::Post);
                books.lock().unwrap().posts.push(number);
                let handle = event_loop.handle();
                let posts = std::thread::spawn(move || {
                    handle.call_soon_threadsafe(move || piece.call()).unwrap();
                });
                posts.join().unwrap();
            }
            _ => {
                let piece = piece(From::Task);
                let yieldings = draw(3);
                books.lock().unwrap().tasks.push(number);
                let task = async move {
                    for _ in 0..yieldings {
                        yields().await;
                    }
                    piece.call();
                    within();
                };
                local.spawn_local(task).detach();
            }
        }
    }

    let seed = u64::from(std::process::id());
    promptly("loops", move || {
        for round in 0..30 {
            let what = format!("seed {seed}, round {round}");
            let rng = Rc::new(RefCell::new(support::Rng::new(seed + round)));
            let batch = [1, 2, 3, 1024][rng.borrow_mut().below(4) as usize];
            let event_loop = Rc::new(EventLoop::builder().batch(batch).build());
            let books = Shared::default();
            for _ in 0..60 {
                ask(&event_loop, &books, &rng, 0);
                if rng.borrow_mut().below(3) == 0 {
                    in_turn(&event_loop);
                }
            }
            let closes_early = rng.borrow_mut().below(4) == 0;
            // A turn that has met none but the cancelled has called nobody, and yet not been through.
            let is_left = || event_loop.local().queued() > 0 || event_loop.next_timer().is_some();
            while !closes_early && (in_turn(&event_loop) || is_left()) {}
            drop(event_loop);

            let books = books.lock().unwrap();
            let asked =
                books.soon.len() + books.timers.len() + books.posts.len() + books.tasks.len();
            assert_eq!(books.dropped, asked, "{what}: each is dropped once");
            let called = |from| {
                let of = books.called.iter().filter(move |(of, _)| *of == from);
                of.map(|(_, number)| *number).collect::<Vec<_>>()
            };
            let live = |numbers: Vec<usize>| {
                let live = numbers.into_iter().filter(|number| !books.cancelled.contains(number));
                live.collect::<Vec<_>>()
            };
            let mut tasks = called(From::Task);
            let mut timers = called(From::Timer);
            let mut expected_timers = live(books.timers.iter().map(|(_, n)| *n).collect());
            if batch == 1024 && !closes_early {
                // Asked for before any of them was due, they are called by their deadlines; here some
                // were asked for later than others were called, so their order is compared in pairs.
                for pair in timers.windows(2) {
                    let at = |n| books.timers.iter().find(|(_, m)| *m == n).unwrap().0;
                    assert!(pair[0] < pair[1] || at(pair[0]) <= at(pair[1]), "{what}: {pair:?}");
                }
            }
            for list in [&mut tasks, &mut timers, &mut expected_timers] {
                list.sort_unstable();
            }
            let all = [
                (called(From::Here), live(books.soon.clone())),
                (called(From::Post), books.posts.clone()),
                (timers, expected_timers),
                (tasks, books.tasks.clone()),
            ];
            for (called, asked) in all {
                if closes_early {
                    let mut once = called.clone();
                    once.dedup();
                    assert!(once == called && called.len() <= asked.len(), "{what}");
                } else {
                    assert_eq!(called, asked, "{what}");
                }
            }
        }
    });
}
