//! `fork`: the child forgets what it inherits, and the parent notices nothing.
#![cfg(unix)]
#![allow(unsafe_code)] // it is about a system call

mod support;

use std::os::raw::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sessile::{Pool, Registry};
use support::*;

/// One test at a time: what one forks, another's threads are in.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const PANICKED: c_int = 101;

/// Forks, and runs `in_child` in the child, which ends with the code it returns. If it hangs, the
/// system kills it, and the test fails.
fn fork_and(in_child: impl FnOnce() -> c_int) -> Child {
    // SAFETY: the child runs code of ours that waits for no other thread; that it may do so, with
    // the crate under test, is what the tests are about. glibc's own locks are seen to by `fork`.
    match unsafe { libc::fork() } {
        -1 => panic!("{}", std::io::Error::last_os_error()),
        0 => {
            // SAFETY: an alarm without a handler ends the process.
            unsafe { libc::alarm(u32::try_from(PATIENCE.as_secs()).unwrap()) };
            let code = catch_unwind(AssertUnwindSafe(in_child)).unwrap_or(PANICKED);
            // SAFETY: ends the process at once, with no destructor of the harness's.
            unsafe { libc::_exit(code) }
        }
        pid => Child(pid),
    }
}

struct Child(libc::pid_t);

impl Child {
    #[track_caller]
    fn exits_with(self, code: c_int) {
        let mut status = 0;
        // SAFETY: valid: a child of ours, not waited for before; `status` is ours.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        assert_eq!(waited, self.0);
        assert!(libc::WIFEXITED(status), "ended by signal {}", libc::WTERMSIG(status));
        assert_eq!(libc::WEXITSTATUS(status), code, "{PANICKED} is a panic");
    }
}

/// A pipe of bytes: what a child has to tell that has no other way.
struct Tell([c_int; 2]);

impl Tell {
    fn new() -> Self {
        let mut ends = [0; 2];
        // SAFETY: valid: room for two descriptors.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        Self(ends)
    }

    fn say(&self, byte: u8) {
        // SAFETY: valid: one byte of ours.
        assert_eq!(unsafe { libc::write(self.0[1], (&raw const byte).cast(), 1) }, 1);
    }

    /// Everything that was said, once nobody can say any more.
    fn all_said(self) -> Vec<u8> {
        use std::io::Read;
        use std::os::fd::FromRawFd;
        // SAFETY: valid: ours, and closed here only.
        unsafe { libc::close(self.0[1]) };
        // SAFETY: as above; the file owns it from here on.
        let mut read = unsafe { std::fs::File::from_raw_fd(self.0[0]) };
        let mut said = Vec::new();
        read.read_to_end(&mut said).unwrap();
        said
    }
}

fn check(holds: bool, code: c_int) -> Result<(), c_int> {
    holds.then_some(()).ok_or(code)
}

/// What a child should find; the code tells which it did not.
fn find_as_new<M: 'static>(pool: &Pool<Session<M>>, stage: &Stage) -> Result<(), c_int> {
    let (made, closed) = (stage.count(What::Create), stage.count(What::Close));
    check(pool.status().size == 0 && pool.status().created == 0, 1)?;
    check(pool.registry().snapshot().is_empty(), 2)?;
    check(!pool.discard(), 3)?;
    let id = pool.with(|session| session.id).map_err(|_| 4)?;
    check(stage.count(What::Create) == made + 1, 5)?;
    check(pool.with_ref(|session| session.id).is_ok_and(|again| again == id), 6)?;
    check(pool.status().size == 1 && pool.registry().snapshot().instances.len() == 1, 7)?;
    check(pool.close(Duration::ZERO).is_clean(), 8)?;
    check(stage.count(What::Close) == closed + 1, 9)?;
    check(stage.notes(What::Close).last().is_some_and(|note| note.id == id), 10)
}

#[test]
fn a_child_closes_or_uses_what_is_its_parents() {
    let _alone = alone();
    fn play<M: 'static>(pool: Pool<Session<M>>, stage: &Stage) {
        let worker = Worker::new("another owner");
        let used = pool.clone();
        worker.run(move || used.with(|session| session.touch()).unwrap());
        let mine = pool.with(|session| session.touch()).unwrap();

        let child = fork_and(|| find_as_new(&pool, stage).err().unwrap_or(0));
        child.exits_with(0);
        // Untouched, here, by whatever it did there.
        assert_eq!(pool.with(|session| session.touch()).unwrap(), mine);
        assert_eq!((stage.count(What::Create), stage.count(What::Close)), (2, 0));
        assert_eq!(pool.status().size, 2);
        assert!(!pool.is_closed());
        worker.end();
        pool.close_here().unwrap();
        stage.assert_each_closed_once();
    }
    let (registry, stage) = (Registry::new(), Stage::new());
    play(stage.builder(&registry).max_size(2).evict_idle_after(None).build().unwrap(), &stage);
    let stage = Stage::new();
    play(stage.pool_local(&registry), &stage);
}

/// In the middle of a use, too: the use ends in the child as a use of nobody's.
#[test]
fn a_child_forked_inside_with_closes_its_parents_instance() {
    let _alone = alone();
    let stage = Stage::new();
    let pool = stage.builder(&Registry::new()).max_uses(2).build().unwrap();
    pool.with(|session| session.touch()).unwrap();
    let mut child = None;
    pool.with(|session| {
        child = Some(fork_and(|| {
            // Inside, a child may have one of its own already: the thread is inside its parent's.
            let own = pool.with(|own| own.touch());
            let other = own.is_ok_and(|id| id != session.id);
            i32::from(!other)
        }));
        session.touch()
    })
    .unwrap();
    child.unwrap().exits_with(0);
    assert_eq!(stage.count(What::Close), 1, "the second use was the last");
    stage.assert_each_closed_once();
}

/// As before, but it is the child that leaves the uses, by a panic and by their end. To the books the
/// instance is broken by then, and whoever looks after it would close it.
#[test]
fn a_child_that_lets_go_closes_its_parents_instance() {
    let _alone = alone();
    let stage = Stage::new().breakable();
    let pool = stage.pool(&Registry::new());
    let id = pool.with(|session| session.touch()).unwrap();
    for (drops, panics) in [(true, true), (true, false), (false, true)] {
        let guards = [drops, panics].map(|wanted| wanted.then(|| pool.get_ref().unwrap()));
        let script = stage.clone();
        let parents = guards.iter().flatten().map(|guard| guard.look()).collect::<Vec<_>>();
        let child = fork_and({
            let (pool, script) = (&pool, &script);
            move || {
                script.set_broken(true);
                let [outer, inner] = guards;
                let left = catch_unwind(AssertUnwindSafe(move || {
                    let _inner = inner;
                    panic!("leaves by a panic");
                }));
                drop(outer);
                let touched = [
                    script.count(What::Close),
                    script.count(What::Rescue),
                    pool.status().poisoned.try_into().unwrap(),
                ];
                i32::from(left.is_ok() || touched != [0; 3])
            }
        });
        child.exits_with(0);
        assert!(parents.iter().all(|parents| *parents == id));
        assert_eq!(pool.with(|session| session.touch()).unwrap(), id);
        assert_eq!(stage.count(What::Close), 0);
    }
}

/// A child that ends in good order closes what it made itself, and only that.
#[test]
fn the_exit_of_a_child_closes_too_much_or_too_little() {
    let _alone = alone();
    let (stage, tell) = (Stage::new(), Tell::new());
    let pool = stage.pool(&Registry::new());
    let worker = Worker::new("forks");
    let owner = pool.clone();
    let (script, told) = (stage.clone(), Arc::new(tell));
    let said = Arc::clone(&told);
    worker.run(move || {
        owner.with(|session| session.touch()).unwrap();
        let child = fork_and(|| {
            let id = owner.with(|session| session.touch()).unwrap();
            let stage = script.clone();
            script.on_close(first(move || {
                let closes = stage.notes(What::Close);
                said.say(if closes.len() == 1 && closes[0].id == id { b'o' } else { b'x' });
            }));
            script.on_close(first(move || panic!("a second close")));
            // SAFETY: runs the destructors of this thread, as at the end of a program.
            unsafe { libc::exit(0) }
        });
        child.exits_with(0);
    });
    worker.end();
    stage.assert_each_closed_once();
    let tell = Arc::into_inner(told).expect("the job is over");
    assert_eq!(tell.all_said(), b"o");
}

/// Other threads may hold any lock of the crate at the moment of the fork.
#[test]
fn a_child_waits_for_a_lock_that_nobody_holds_there() {
    const FORKS: usize = 100;
    let _alone = alone();
    let (registry, stage) = (Registry::new(), Stage::new());
    let pool = stage.builder(&registry).max_size(2).wait_timeout(None).build().unwrap();
    let aging = stage.builder(&registry).idle_timeout(FOR_EVER).build().unwrap();
    let done = AtomicBool::new(false);
    let going = || !done.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _done = Done(&done);
        for _ in 0..2 {
            scope.spawn(|| {
                let quiet = Pool::builder(sessile::from_fn(|_| 0_u8));
                let quiet = quiet.registry(&registry).max_size(1).build().unwrap();
                while going() {
                    quiet.with(|_| ()).unwrap();
                    quiet.discard();
                    let _ = registry.snapshot();
                    quiet.clear();
                    // Places, the registry's list, and its reaper.
                    let short = Pool::builder(sessile::from_fn(|_| 0_u8));
                    drop(short.registry(&registry).idle_timeout(FOR_EVER).build().unwrap());
                }
            });
        }
        let begun = Instant::now();
        for _ in 0..FORKS {
            let child = fork_and(|| {
                for pool in [&pool, &aging] {
                    if pool.with(|session| session.id).is_err() {
                        return 1;
                    }
                }
                if registry.snapshot().instances.len() != 2 {
                    return 2;
                }
                let report = registry.close_all(Duration::ZERO);
                if report.closed != 2 || !report.is_clean() {
                    return 3;
                }
                // A pool that is new in the child, in a place of its own.
                let own = stage.pool(&registry);
                if own.with(|session| session.id).is_err() || !own.discard() {
                    return 4;
                }
                0
            });
            child.exits_with(0);
        }
        assert!(begun.elapsed() < PATIENCE, "{FORKS} forks took {:?}", begun.elapsed());
    });
    assert_eq!((stage.count(What::Create), pool.status().size), (0, 0));
}

/// In the parent somebody waits for room, a close hangs on a closing thread, and there is a reaper. The
/// child has none of these threads: it has room, and a reaper and a closing thread of its own.
#[test]
fn a_child_has_its_own_room_reaper_and_closing_threads() {
    let _alone = alone();
    let (stage, hangs) = (Stage::new(), Gate::new());
    let builder = stage.builder(&Registry::new()).max_size(1).wait_timeout(None);
    let pool = builder.idle_timeout(Duration::from_millis(10)).build().unwrap();
    stage.on_close(hold(&hangs));
    let [has, waits] = ["has", "waits"].map(Worker::new);
    let used = pool.clone();
    has.run(move || used.with(|session| session.touch()).unwrap());
    hangs.wait_for_arrival();
    let asks = pool.clone();
    let waiting = waits.start(move || asks.with(|session| session.touch()).map(drop));
    poll_until("it waits", || pool.status().waiting == 1);
    let child = fork_and(|| {
        let finds = || -> Result<(), c_int> {
            check(pool.status().waiting == 0 && pool.status().size == 0, 1)?;
            drop(pool.get_timeout(Duration::ZERO).map_err(|_| 2)?);
            check(pool.wait_closed(PATIENCE), 3)?;
            check(pool.close(Duration::ZERO).is_clean(), 4)
        };
        finds().err().unwrap_or(0)
    });
    child.exits_with(0);
    assert!(!pool.is_closed());
    hangs.open();
    waiting.wait().unwrap();
    [has, waits].into_iter().for_each(Worker::end);
    assert!(pool.wait_closed(PATIENCE));
    stage.assert_each_closed_once();
}

/// Spares are made by a thread, which a child does not inherit.
#[cfg(feature = "cpython")]
#[test]
fn a_child_makes_spares_of_its_own_and_leaves_its_parents() {
    use sessile::interpreter::cpython::CPythonManager;

    let _alone = alone();
    let manager = CPythonManager::new().spares(1);
    assert!(manager.warm_up(PATIENCE));
    let kept = std::cell::Cell::new(Some(manager)); // in both processes
    let child = fork_and(|| {
        let finds = || -> Result<(), c_int> {
            let manager = kept.take().ok_or(1)?;
            check(!manager.warm_up(Duration::ZERO), 2)?; // there is none of its own yet
            check(manager.warm_up(PATIENCE), 3)?;
            drop(manager); // waits for its own maker of spares only
            Ok(())
        };
        finds().err().unwrap_or(0)
    });
    child.exits_with(0);
    assert!(kept.take().expect("not taken here").warm_up(Duration::ZERO), "the parent's is there");
}

#[test]
fn a_child_finds_its_parents_loop_threads_closed_and_has_its_own() {
    use sessile::loop_thread::LoopThread;

    let _alone = alone();
    let thread = LoopThread::spawn("parent's", |_| Ok(1)).unwrap();
    let (handle, pending) = (thread.handle(), thread.handle().call(|n| *n).unwrap());
    assert_eq!(pending.join().unwrap(), 1);
    let kept = std::cell::Cell::new(Some(thread)); // in both processes
    let child = fork_and(|| {
        let refuses = || -> Result<(), c_int> {
            let thread = kept.take().ok_or(1)?;
            let refused = handle.post(|n: &mut i32| *n += 1).err().ok_or(1)?;
            check(refused.is_closed() && handle.is_closed(), 2)?;
            refused.into_inner()(&mut 1);
            check(handle.call(|n| *n).is_err(), 3)?;
            check(thread.close(FOR_EVER) && thread.wait_closed(FOR_EVER), 4)?;
            drop(thread);
            let own = LoopThread::spawn("child's", |_| Ok(5)).map_err(|_| 5)?;
            check(own.handle().call(|n| *n).is_ok_and(|n| n.join().is_ok_and(|n| n == 5)), 6)?;
            check(own.close(PATIENCE), 7)
        };
        refuses().err().unwrap_or(0)
    });
    child.exits_with(0);
    assert!(!handle.is_closed(), "the parent's goes on");
}

#[cfg(feature = "duplex")]
#[test]
fn a_child_finds_its_parents_duplex_sessions_closed_and_has_its_own() {
    use sessile::session::JsonRpc;
    use sessile::session::duplex::{Session, Tcp, TcpAccepted};

    let _alone = alone();
    let place = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = || {
        let dialled = Session::builder(JsonRpc::new());
        let session = dialled.connect(Tcp::new(place.local_addr().unwrap().to_string())).unwrap();
        let peer = Session::builder(JsonRpc::new()).on_request(|request| match request.method() {
            "waits" => std::mem::forget(request),
            _ => drop(request.respond(&1)),
        });
        (session, peer.connect(TcpAccepted::new(place.accept().unwrap().0)).unwrap())
    };
    let (session, _peer) = connect();
    let invoker = session.invoker();
    let pending = invoker.invoke("waits", ()).unwrap();
    let kept = std::cell::Cell::new(Some((session, pending))); // in both processes
    let child = fork_and(|| {
        let refuses = || -> Result<(), c_int> {
            let (session, pending) = kept.take().ok_or(1)?;
            check(session.is_closed() && session.wait_closed(FOR_EVER), 1)?;
            check(pending.answer().is_err_and(|error| error.is_closed()), 2)?;
            check(invoker.invoke("m", ()).is_err_and(|error| error.is_closed()), 3)?;
            check(invoker.notify("m", ()).is_err_and(|error| error.is_closed()), 4)?;
            check(session.wait_connected(FOR_EVER).is_err(), 5)?;
            check(session.close(FOR_EVER), 6)?;
            drop(session);
            let (own, _peer) = connect();
            check(own.invoker().call::<i32>("m", &()).is_ok_and(|n| n == 1), 7)?;
            check(own.close(PATIENCE), 8)
        };
        refuses().err().unwrap_or(0)
    });
    child.exits_with(0);
    assert_eq!(invoker.call::<i32>("m", &()).unwrap(), 1, "the parent's goes on");
}

// ---- loops --------------------------------------------------------------------------------------

mod loops {
    use std::cell::Cell;
    use std::io::{PipeReader, Read, Write};
    use std::rc::Rc;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    use sessile::EventLoop;
    use sessile::event_loop::{Handle, Interest, LocalHandle};

    use super::*;

    /// A loop on a thread of its own; parked, or asleep in its poller.
    fn run_elsewhere(in_poller: bool) -> (std::thread::JoinHandle<()>, Handle) {
        let (tell, told) = mpsc::channel();
        let looping = std::thread::spawn(move || {
            let event_loop = EventLoop::new();
            let (reader, _writer) = std::io::pipe().unwrap();
            let never = |_: &PipeReader, _| panic!("nobody writes");
            let add = || event_loop.local().add(reader, Interest::READABLE, never).unwrap();
            let _source = in_poller.then(add);
            tell.send(event_loop.handle()).unwrap();
            event_loop.run().unwrap();
        });
        (looping, told.recv().unwrap())
    }

    /// A loop is new in this process, and all of it works.
    fn a_new_loop_works() -> Result<(), c_int> {
        let event_loop = EventLoop::new();
        let (local, handle) = (event_loop.local(), event_loop.handle());
        let (reader, mut writer) = std::io::pipe().map_err(|_| 50)?;
        let source = local.watch(reader).map_err(|_| 51)?;
        let called = handle.call(|| 7).map_err(|_| 52)?;
        let heard = event_loop.block_on(async {
            local.sleep(Duration::from_millis(1)).await;
            writer.write_all(b"x").is_ok() && source.readable().await.is_ok()
        });
        check(heard.is_ok_and(|heard| heard), 53)?;
        check(event_loop.run_until(&called).is_ok_and(|ended| ended), 54)?;
        check(called.join().is_ok_and(|seven| seven == 7), 55)
    }

    #[test]
    fn a_childs_post_to_its_parents_loop_is_refused_with_the_work_back() {
        let _alone = alone();
        for in_poller in [false, true] {
            let (looping, handle) = run_elsewhere(in_poller);
            assert_eq!(handle.call(|| 1).unwrap().join().unwrap(), 1);
            let gate = Gate::new();
            let holds = gate.clone();
            let running = handle.call(move || {
                holds.pass();
                3
            });
            gate.wait_for_arrival();
            let [queued, timed, awaited] = [4, 5, 6].map(|n| handle.call(move || n).unwrap());
            let pending = Cell::new(Some([queued, running.unwrap(), timed, awaited]));
            let refused = || {
                check(handle.is_closed(), 1)?;
                let called = handle.call(|| 7).err().ok_or(2)?;
                check(called.is_closed() && called.into_inner()() == 7, 3)?;
                let ran = AtomicUsize::new(0);
                let ran: &'static AtomicUsize = Box::leak(Box::new(ran));
                let work = move || {
                    ran.fetch_add(1, Ordering::Relaxed);
                };
                let posted = handle.call_soon_threadsafe(work).err().ok_or(4)?;
                check(posted.is_closed(), 5)?;
                posted.into_inner()();
                let later = handle.call_later_threadsafe(Duration::ZERO, work).err().ok_or(6)?;
                later.into_inner()();
                check(ran.load(Ordering::Relaxed) == 2, 7)?;
                handle.stop();
                drop(handle.clone());
                // What was pending at the fork will never end here: nobody waits for it.
                let [queued, running, timed, awaited] = pending.take().ok_or(8)?;
                check(queued.is_finished() && running.is_finished(), 9)?;
                check(queued.join().is_err_and(|error| error.is_cancelled()), 10)?;
                check(running.join().is_err_and(|error| error.is_cancelled()), 11)?;
                let timed = timed.join_timeout(PATIENCE).map_err(|_| 12)?;
                check(timed.is_err_and(|error| error.is_cancelled()), 13)?;
                check(block_on(awaited).is_some_and(|ended| ended.is_err()), 14)?;
                a_new_loop_works()
            };
            fork_and(|| refused().err().unwrap_or(0)).exits_with(0);
            gate.open();
            let ended = pending.into_inner().unwrap().map(|handle| handle.join().unwrap());
            assert_eq!(ended, [4, 3, 5, 6], "each has run, here");
            assert_eq!(handle.call(|| 2).unwrap().join().unwrap(), 2, "it was not stopped");
            handle.stop();
            looping.join().unwrap();
        }
    }

    /// Posters, wakers and stoppers may be anywhere at the moment of the fork, and the loop, too.
    #[test]
    fn a_child_waits_for_no_lock_of_its_parents_loop() {
        const FORKS: usize = 100;
        let _alone = alone();
        let (looping, handle) = run_elsewhere(true);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            struct Done<'a>(&'a AtomicBool);
            impl Drop for Done<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let _done = Done(&done);
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let spawns = || {
                            let local = LocalHandle::current().unwrap();
                            let naps = local.clone();
                            let napping = async move { naps.sleep(Duration::ZERO).await };
                            local.spawn_local(napping).detach();
                        };
                        handle.call(spawns).unwrap().join().unwrap();
                    }
                });
            }
            for _ in 0..FORKS {
                let asks = || {
                    check(handle.call(|| 1).is_err(), 1)?;
                    handle.stop();
                    drop(handle.clone());
                    a_new_loop_works()
                };
                fork_and(|| asks().err().unwrap_or(0)).exits_with(0);
            }
        });
        handle.stop();
        looping.join().unwrap();
    }

    /// It has copies of all that its parent's loop has, and touches none of it: neither what is queued,
    /// nor the poller, which is the same as the parent's.
    #[test]
    fn a_child_of_a_loops_own_thread_leaves_the_loop_as_it_is() {
        let _alone = alone();
        for lent in [false, true] {
            let event_loop = EventLoop::new();
            let (local, handle) = (event_loop.local(), event_loop.handle());
            let (reader, mut writer) = std::io::pipe().unwrap();
            let heard = Rc::new(Cell::new(0));
            let hears = Rc::clone(&heard);
            let source = local.add(reader, Interest::READABLE, move |mut reader, _| {
                hears.set(hears.get() + reader.read(&mut [0; 8]).unwrap());
            });
            let (source, watched) = (source.unwrap(), local.watch(std::io::pipe().unwrap().0));
            if lent {
                use std::os::fd::AsFd;
                let _ = event_loop.as_fd();
            }
            // Who is dropped tells: in the child nobody may be.
            struct Tells(Rc<Cell<usize>>);
            impl Drop for Tells {
                fn drop(&mut self) {
                    self.0.set(self.0.get() + 1);
                }
            }
            let (dropped, called) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let work = || {
                let (tells, called) = (Tells(Rc::clone(&dropped)), Rc::clone(&called));
                move || {
                    called.set(called.get() + 1);
                    drop(tells);
                }
            };
            let soon = local.call_soon(work());
            let timer = local.call_later(Duration::ZERO, work());
            let first = work();
            let future = local.spawn_local(async move { first() });
            let posted = handle.call(|| 7).unwrap();
            let pending = Cell::new(Some((future, posted)));

            let mut owned = Some((event_loop, source, watched));
            let child = fork_and(|| {
                let (event_loop, source, watched) = owned.take().unwrap();
                let finds = || {
                    check(!soon.is_cancelled() && timer.when().is_some(), 1)?;
                    soon.cancel();
                    check(event_loop.run().is_ok(), 2)?; // at once
                    check(event_loop.run_once(None).is_ok_and(|called| !called), 3)?;
                    check(event_loop.block_on(async {}).is_err(), 4)?;
                    check(local.call_soon(|| ()).is_cancelled(), 5)?;
                    check(local.call_later(Duration::ZERO, || ()).is_cancelled(), 6)?;
                    check(local.spawn_local(async {}).is_finished(), 7)?;
                    check(local.add(std::io::stdin(), Interest::NONE, |_, _| ()).is_err(), 8)?;
                    check(source.modify(Interest::BOTH).is_err(), 9)?;
                    check(LocalHandle::current().is_none(), 10)?;
                    let (future, posted) = pending.take().ok_or(20)?;
                    check(future.join().is_err_and(|error| error.is_cancelled()), 21)?;
                    check(posted.join().is_err_and(|error| error.is_cancelled()), 22)?;
                    check(format!("{event_loop:?}").contains("is_closed: true"), 11)?;
                    drop(watched);
                    check(source.remove().is_none(), 12)?; // its callback has it, too
                    event_loop.close();
                    drop(event_loop);
                    drop(local.clone());
                    check(called.get() == 0 && dropped.get() == 0, 13)?;
                    a_new_loop_works()
                };
                finds().err().unwrap_or(0)
            });
            child.exits_with(0);

            let (event_loop, source, watched) = owned.take().unwrap();
            event_loop.run_once(Duration::ZERO).unwrap();
            event_loop.run_once(Duration::ZERO).unwrap();
            assert_eq!((called.get(), dropped.get()), (3, 3), "each once, here");
            let (future, posted) = pending.take().unwrap();
            assert_eq!(posted.join().unwrap(), 7);
            future.join().unwrap();
            // The poller is whole: it tells of sources, and of posts.
            writer.write_all(b"x").unwrap();
            assert!(event_loop.run_once(PATIENCE).unwrap());
            assert_eq!(heard.get(), 1);
            let posts = std::thread::spawn(move || handle.call(|| 8).unwrap());
            let posted = posts.join().unwrap();
            assert!(event_loop.run_until(&posted).unwrap());
            let stops = event_loop.handle();
            let sleeps = std::thread::spawn(move || stops.stop());
            event_loop.run().unwrap();
            sleeps.join().unwrap();
            drop((source, watched));
        }
    }

    /// The child comes back to the loop, out of the callback that has forked: the loop lets it go.
    #[test]
    fn a_child_that_was_forked_in_a_callback_does_not_run_its_parents_loop_on() {
        let _alone = alone();
        let event_loop = EventLoop::new();
        let local = event_loop.local();
        let (forked, called) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(0)));
        let forks = Rc::clone(&forked);
        let handle = event_loop.handle();
        local.call_soon(move || {
            // SAFETY: as in `fork_and`. The child ends below.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: an alarm without a handler ends the process.
                unsafe { libc::alarm(u32::try_from(PATIENCE.as_secs()).unwrap()) };
            }
            forks.set(Some(pid));
        });
        for _ in 0..3 {
            let calls = Rc::clone(&called);
            let stops = handle.clone();
            local.call_soon(move || {
                calls.set(calls.get() + 1);
                if calls.get() == 3 {
                    stops.stop();
                }
            });
        }
        let ran = event_loop.run();
        let pid = forked.get().expect("it was called");
        if pid == 0 {
            let good = ran.is_ok() && called.get() == 0;
            drop(event_loop);
            let code = if good { a_new_loop_works().err().unwrap_or(0) } else { 1 };
            // SAFETY: ends the process at once, with no destructor of the harness's.
            unsafe { libc::_exit(code) };
        }
        ran.unwrap();
        assert_eq!(called.get(), 3);
        Child(pid).exits_with(0);
    }
}

mod workers {
    use std::sync::Arc;

    use sessile::Workers;
    use sessile::workers::Keyed;

    use super::*;

    fn team(stage: &Stage, registry: &Registry) -> Workers<Session> {
        let pool = stage.builder(registry);
        Workers::builder(pool).threads(2).queue_capacity(1).drop_timeout(FOR_EVER).build().unwrap()
    }

    /// Whatever the parent's threads are at, and whatever locks they hold.
    #[test]
    fn a_child_finds_its_parents_workers_closed_and_has_its_own() {
        let _alone = alone();
        let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
        let workers = team(&stage, &registry);
        let alice: Keyed<_, _> = workers.keyed("alice".to_owned());
        alice.submit(|_| ()).unwrap().join().unwrap();
        let done = workers.submit(|_| 7).unwrap();
        support::poll_until("it has run", || done.is_finished());
        let mut pending = Vec::new();
        for _ in 0..2 {
            let holds = gate.clone();
            pending.push(workers.submit(move |_| holds.pass()).unwrap());
        }
        support::poll_until("both run", || workers.status().running == 2);
        let queued = workers.submit(|_| 8).unwrap();
        // Taken in the child alone: the parent drops it when the gate is open.
        let mut inherited = Some((workers, alice, done, queued, pending));
        let child = fork_and(|| {
            let mut play = || -> Result<(), c_int> {
                let (workers, alice, done, queued, pending) = inherited.take().ok_or(25)?;
                let refused = workers.submit(|_| 1).err().ok_or(1)?;
                check(refused.is_closed(), 2)?;
                let refused = workers.submit_timeout(FOR_EVER, |_| 1).err().ok_or(3)?;
                check(refused.is_closed(), 4)?;
                check(workers.submit_to(1, |_| 1).is_err_and(|one| one.is_closed()), 5)?;
                check(workers.broadcast(|_| 1).iter().all(Result::is_err), 6)?;
                check(alice.submit(|_| 1).is_err_and(|one| one.is_closed()), 7)?;
                check(alice.close().is_err_and(|one| one.is_closed()), 8)?;
                check(!alice.is_live() && workers.keys().is_empty(), 9)?;
                check(workers.status().is_closed, 10)?;
                // What had ended is there; what was queued comes back; the rest is cancelled.
                check(done.join().is_ok_and(|n| n == 7), 11)?;
                check(queued.is_finished(), 12)?;
                let error = queued.join().err().ok_or(13)?;
                check(error.is_cancelled() && error.into_body().is_some(), 14)?;
                for pending in pending {
                    check(!pending.interrupt(), 15)?;
                    check(pending.join().is_err_and(|error| error.is_cancelled()), 16)?;
                }
                check(
                    support::block_on(workers.submit_async(|_| 1)).is_some_and(|r| r.is_err()),
                    17,
                )?;
                check(workers.shutdown(FOR_EVER).stragglers.is_empty(), 18)?;
                check(workers.abort(FOR_EVER).stragglers.is_empty(), 19)?;
                drop(alice);
                drop(workers); // would wait for an hour
                let (stage, registry) = (Stage::new(), Registry::new());
                let own = team(&stage, &registry);
                check(own.submit(|_| 9).map_err(|_| 20)?.join().is_ok_and(|n| n == 9), 21)?;
                let alice = own.keyed("alice".to_owned());
                check(alice.submit(|_| 9).map_err(|_| 22)?.join().is_ok_and(|n| n == 9), 23)?;
                check(own.shutdown(PATIENCE).is_clean(), 24)
            };
            play().err().unwrap_or(0)
        });
        child.exits_with(0);
        gate.open();
        drop(inherited);
    }

    /// The work that has forked goes on in the child; nothing else of the workers does.
    #[test]
    fn a_child_forked_inside_a_work_does_nothing_else_of_its_parents() {
        let _alone = alone();
        let (stage, registry) = (Stage::new(), Registry::new());
        let workers = Arc::new(team(&stage, &registry));
        let inner = Arc::clone(&workers);
        let child = workers.submit_to(0, move |_| {
            fork_and(|| {
                let refused = inner.submit(|_| ()).is_err_and(|refused| refused.is_closed());
                let here = inner.submit_to(0, |_| ()).is_err_and(|refused| refused.is_closed());
                i32::from(!(refused && here && inner.shutdown(FOR_EVER).stragglers.is_empty()))
            })
        });
        child.unwrap().join().unwrap().exits_with(0);
        workers.submit_to(0, |_| ()).unwrap().join().unwrap();
    }
}
