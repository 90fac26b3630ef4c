//! The last moments of a thread: what is closed, where, in what order, and who may still look.

mod support;

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use sessile::manager::CloseReason;
use sessile::pool::{Ref, RefMut};
use sessile::{Pool, Registry};
use support::*;

/// A thread-local of somebody else's, with a destructor.
#[derive(Default)]
struct AtExit(RefCell<Option<Box<dyn FnOnce()>>>);

impl AtExit {
    fn run(&self, last_words: impl FnOnce() + 'static) {
        *self.0.borrow_mut() = Some(Box::new(last_words));
    }
}

impl Drop for AtExit {
    fn drop(&mut self) {
        if let Some(last_words) = self.0.take() {
            last_words();
        }
    }
}

// Thread-locals die in no fixed order. Registered before or after our own, each of these finds our
// part of the exit done or not done, on any platform; together they cover both.
thread_local! {
    static BEFORE: AtExit = AtExit::default();
    static AFTER: AtExit = AtExit::default();
}

#[test]
fn an_instance_outlives_its_thread() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let local = stage.pool_local(&Registry::new());
    let worker = Worker::new("owner");
    let owner = worker.id();
    let (a, b) = (pool.clone(), local.clone());
    worker.run(move || {
        a.with(|session| session.touch()).unwrap();
        b.with(|session| session.touch()).unwrap();
    });
    assert_eq!(stage.count(What::Close), 0);

    worker.end();
    stage.assert_each_closed_once();
    for close in stage.notes(What::Close) {
        assert_eq!((close.thread, close.reason), (owner, Some(CloseReason::ThreadExit)));
    }
    assert_eq!((pool.status().size, local.status().size), (0, 0));
}

#[test]
fn the_older_is_closed_before_the_newer() {
    let (registry, stage) = (Registry::new(), Stage::new());
    let pools: Vec<_> = (0..5).map(|_| stage.pool(&registry)).collect();
    let worker = Worker::new("owner");
    // Not in the order in which the pools were made, and one of them anew.
    for n in [3, 0, 4, 1, 2, 0] {
        let pool = pools[n].clone();
        worker.run(move || {
            pool.close_here().unwrap();
            pool.with(|session| session.touch()).unwrap();
        });
    }
    worker.end();

    let at_exit = stage.notes(What::Close).into_iter();
    let at_exit = at_exit.filter(|note| note.reason == Some(CloseReason::ThreadExit));
    let ids: Vec<_> = at_exit.map(|note| note.id).collect();
    assert_eq!(ids.len(), 5);
    assert!(ids.is_sorted_by(|a, b| a > b), "newest first: {ids:?}");
    stage.assert_each_closed_once();
}

#[test]
fn a_use_during_the_exit_panics_or_makes_another() {
    let (registry, stage, others) = (Registry::new(), Stage::new(), Stage::new());
    let (pool, other) = (stage.pool(&registry), others.pool(&registry));
    let worker = Worker::new("owner");
    let refused = Arc::new(Watched::<usize>::default());
    stage.on_close({
        let (pools, refused) = ([pool.clone(), other.clone()], Arc::clone(&refused));
        first(move || {
            for pool in pools {
                for error in [
                    pool.with(|_| ()).unwrap_err(),
                    pool.with_ref(|_| ()).unwrap_err(),
                    pool.get().map(drop).unwrap_err(),
                    pool.get_ref().map(drop).unwrap_err(),
                    pool.get_timeout(Duration::ZERO).map(drop).unwrap_err(),
                ] {
                    assert!(error.is_thread_exiting(), "{error:?}");
                    refused.change(|refused| *refused += 1);
                }
                assert!(!pool.discard());
                assert!(!pool.close_here().unwrap());
                let _ = (pool.status(), pool.registry().snapshot());
            }
        })
    });
    worker.run(move || {
        other.with(|session| session.touch()).unwrap();
        pool.with(|session| session.touch()).unwrap();
    });
    worker.end();
    refused.read(|refused| assert_eq!(*refused, 10));
    stage.assert_each_closed_once();
    others.assert_each_closed_once();
}

#[test]
fn a_panic_in_a_close_at_exit_aborts_or_stops_the_rest() {
    let (registry, stage) = (Registry::new(), Stage::new());
    let pools: Vec<_> = (0..3).map(|_| stage.pool(&registry)).collect();
    stage.on_close(panics("the newest")).on_close(fail("the middle one"));
    let worker = Worker::new("owner");
    for pool in &pools {
        let pool = pool.clone();
        worker.run(move || pool.with(|session| session.touch()).unwrap());
    }
    worker.end();
    stage.assert_each_closed_once();
    let failed: Vec<_> = pools.iter().map(|pool| pool.status().close_failed).collect();
    assert_eq!(failed, [0, 1, 1]);
}

/// The end of a scope does not wait for thread-locals. Two ways to be sure nevertheless.
#[test]
fn a_scope_that_has_ended_is_taken_for_all_closed() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let gate = Gate::new();
    stage.on_close(hold(&gate));
    thread::scope(|scope| {
        scope.spawn(|| pool.with(|session| session.touch()).unwrap());
    });
    // The scope has ended although its thread cannot have closed its instance.
    gate.wait_for_arrival();
    assert_eq!(pool.status().size, 1);
    assert!(!pool.wait_closed(Duration::ZERO));
    gate.open();
    assert!(pool.wait_closed(TOO_LONG));
    stage.assert_each_closed_once();

    thread::scope(|scope| {
        scope.spawn(|| {
            pool.with(|session| session.touch()).unwrap();
            assert!(pool.close_here().unwrap());
            assert!(!pool.close_here().unwrap());
        });
    });
    assert_eq!(pool.status().size, 0);
    assert_eq!(stage.notes(What::Close)[1].reason, Some(CloseReason::ClosedHere));
}

/// A guard in somebody else's thread-local, which is destroyed before our part of the exit or after
/// it: the instance lives until the guard is dropped, and then closes, on its owner.
#[test]
fn a_guard_in_a_dying_thread_local_dangles() {
    static POOL: LazyLock<(Stage, Pool<Session>)> = LazyLock::new(|| {
        let stage = Stage::new();
        let pool = stage.pool(&Registry::new());
        (stage, pool)
    });
    type Guard = RefMut<'static, Session>;
    let (stage, pool) = &*POOL;

    let ours_was_first = Arc::new(Watched::<Vec<bool>>::default());
    for before in [true, false] {
        let worker = Worker::new("owner");
        let (owner, seen) = (worker.id(), Arc::clone(&ours_was_first));
        worker.run(move || {
            if before {
                BEFORE.with(|_| ());
            }
            let mut guard: Guard = pool.get().unwrap();
            guard.touch();
            let last_words = move || {
                assert_eq!(guard.touch(), guard.id);
                assert_eq!(guard.uses, 2);
                assert_eq!(pool.status().size, 1, "it is on the books");
                // Refused either way; but as inside, or as too late?
                let error = pool.with(|_| ()).unwrap_err();
                assert!(error.is_thread_exiting() || error.is_reentrant());
                seen.change(|seen| seen.push(error.is_thread_exiting()));
                drop(guard);
            };
            if before { &BEFORE } else { &AFTER }.with(|exit| exit.run(last_words));
        });
        worker.end();
        assert_eq!(pool.status().size, 0);
        stage.assert_each_closed_once();
        assert_eq!(stage.notes(What::Close).last().unwrap().thread, owner);
    }
    let mut seen = ours_was_first.read(Vec::clone);
    seen.sort_unstable();
    assert_eq!(seen, [false, true], "both orders have been seen");
}

#[test]
fn the_last_of_several_shared_guards_is_taken_for_the_only_one() {
    static POOL: LazyLock<(Stage, Pool<Stay>)> = LazyLock::new(|| {
        let stage = Stage::new();
        let pool = stage.pool_local(&Registry::new());
        (stage, pool)
    });
    type Guard = Ref<'static, Stay>;
    let (stage, pool) = &*POOL;

    let worker = Worker::new("owner");
    worker.run(move || {
        BEFORE.with(|_| ());
        let guards: [Guard; 3] = std::array::from_fn(|_| pool.get_ref().unwrap());
        let [first, second, third] = guards;
        AFTER.with(|exit| exit.run(move || drop(third)));
        BEFORE.with(|exit| {
            exit.run(move || {
                drop(first);
                assert_eq!(stage.count(What::Close), 0);
                second.look();
                drop(second);
            });
        });
    });
    worker.end();
    stage.assert_each_closed_once();
    assert!(pool.wait_closed(Duration::ZERO));
}

/// The same, with a close from afar while the thread is between its exit and the guard's end.
#[test]
fn a_close_from_afar_takes_what_a_dying_thread_still_holds() {
    static STAGE: LazyLock<Stage> = LazyLock::new(Stage::new);
    static SENT: LazyLock<Pool<Session>> = LazyLock::new(|| STAGE.pool(&Registry::new()));
    static KEPT: LazyLock<Pool<Stay>> = LazyLock::new(|| STAGE.pool_local(&Registry::new()));

    let (worker, gate) = (Worker::new("owner"), Gate::new());
    let owner = worker.id();
    worker.run({
        let gate = gate.clone();
        move || {
            BEFORE.with(|_| ());
            let mut sent: RefMut<'static, _> = SENT.get().unwrap();
            let mut kept: RefMut<'static, _> = KEPT.get().unwrap();
            let last_words = move || {
                gate.pass();
                sent.touch();
                kept.touch();
                drop((sent, kept));
            };
            BEFORE.with(|exit| exit.run(last_words));
        }
    });
    let ended = worker.ending();
    gate.wait_for_arrival();
    for report in [SENT.close(Duration::ZERO), KEPT.close(Duration::ZERO)] {
        assert_eq!((report.closed, report.still_open.len()), (0, 1), "{report}");
    }
    gate.open();
    ended.wait();
    STAGE.assert_each_closed_once();
    for close in STAGE.notes(What::Close) {
        assert_eq!(close.thread, owner);
    }
    assert!(SENT.wait_closed(Duration::ZERO) && KEPT.wait_closed(Duration::ZERO));
}

#[test]
fn a_first_use_in_a_destructor_leaks() {
    let (registry, stage) = (Registry::new(), Stage::new());
    for known in [true, false] {
        let pool = stage.pool(&registry);
        let other = Stage::new().pool(&registry);
        let worker = Worker::new("owner");
        worker.run(move || {
            BEFORE.with(|_| ());
            if known {
                other.with(|_| ()).unwrap();
            }
            BEFORE.with(|exit| {
                exit.run(move || match pool.with(|session| session.touch()) {
                    Ok(_) => assert!(!known, "this thread has left already"),
                    Err(error) => assert!(error.is_thread_exiting(), "{error:?}"),
                });
            });
        });
        worker.end();
        // Made or refused: what was made is closed.
        stage.assert_each_closed_once();
    }
}

#[test]
fn the_last_handle_dropped_by_a_destructor_is_too_late() {
    for before in [true, false] {
        let (stage, worker) = (Stage::new(), Worker::new("owner"));
        let pool = stage.pool(&Registry::new());
        worker.run(move || {
            if before {
                BEFORE.with(|_| ());
            }
            pool.with(|session| session.touch()).unwrap();
            if before { &BEFORE } else { &AFTER }.with(|exit| exit.run(move || drop(pool)));
        });
        worker.end();
        stage.assert_each_closed_once();
    }
}

/// Destructors of POSIX thread-specific data, which run after those of thread-locals, in rounds.
#[cfg(unix)]
#[allow(unsafe_code)] // real keys
mod thread_specific {
    use super::*;

    use std::collections::HashMap;
    use std::ffi::c_void;
    use std::marker::PhantomData;
    use std::process::Command;
    use std::ptr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, PoisonError};

    use sessile::{CreateContext, Manager, PoolBuilder};

    /// As many rounds as POSIX promises, and the usual systems have.
    const ROUNDS: usize = 4;

    type LastWords = Box<dyn FnOnce() + Send>;

    /// What is to be done in which round, by key: a destructor has no other way to its errand.
    static ERRANDS: Mutex<Option<HashMap<usize, Errand>>> = Mutex::new(None);

    struct Errand {
        key: libc::pthread_key_t,
        rounds_left: usize,
        last_words: Option<LastWords>,
    }

    fn errands<R>(f: impl FnOnce(&mut HashMap<usize, Errand>) -> R) -> R {
        let mut errands = ERRANDS.lock().unwrap_or_else(PoisonError::into_inner);
        f(errands.get_or_insert_default())
    }

    fn arm(key: libc::pthread_key_t, number: usize) {
        // SAFETY: the key exists; the value is a number, never followed.
        let armed = unsafe { libc::pthread_setspecific(key, ptr::without_provenance(number)) };
        assert_eq!(armed, 0);
    }

    unsafe extern "C" fn destructor(value: *mut c_void) {
        let number = value.addr();
        let last_words = errands(|errands| {
            let errand = errands.get_mut(&number).expect("set before its thread began");
            errand.rounds_left -= 1;
            match errand.rounds_left {
                0 => errand.last_words.take(),
                _ => {
                    arm(errand.key, number);
                    None
                }
            }
        });
        if let Some(last_words) = last_words {
            last_words();
        }
    }

    extern "C" fn thread(number: *mut c_void) -> *mut c_void {
        let key = errands(|errands| errands[&number.addr()].key);
        arm(key, number.addr());
        ptr::null_mut()
    }

    fn new_key() -> Option<libc::pthread_key_t> {
        let mut key = 0;
        // SAFETY: `key` is written to; the destructor lives as long as the program.
        let made = unsafe { libc::pthread_key_create(&raw mut key, Some(destructor)) };
        (made == 0).then_some(key)
    }

    /// A thread that does nothing but end, with these words in this round of its destructors. Its
    /// memory is given back to the system: it is more than the system keeps.
    fn run_in_round(key: libc::pthread_key_t, round: usize, last_words: LastWords) {
        let number = enlist(key, round, last_words);
        // SAFETY: plain structures, made by the calls that are there for it; the thread is joined.
        unsafe {
            let (mut attributes, mut id) = (std::mem::zeroed(), std::mem::zeroed());
            libc::pthread_attr_init(&raw mut attributes);
            libc::pthread_attr_setstacksize(&raw mut attributes, 256 << 20);
            let number = ptr::without_provenance_mut(number);
            let begun = libc::pthread_create(&raw mut id, &raw const attributes, thread, number);
            assert_eq!(begun, 0);
            libc::pthread_attr_destroy(&raw mut attributes);
            libc::pthread_join(id, ptr::null_mut());
        }
        assert!(errands(|errands| errands.remove(&number).unwrap().last_words.is_none()));
    }

    /// The same on a thread of the standard library's, which by then knows itself no longer.
    fn run_in_round_of_std(key: libc::pthread_key_t, round: usize, last_words: LastWords) {
        let number = enlist(key, round, last_words);
        std::thread::spawn(move || arm(key, number)).join().unwrap();
        assert!(errands(|errands| errands.remove(&number).unwrap().last_words.is_none()));
    }

    fn enlist(key: libc::pthread_key_t, round: usize, last_words: LastWords) -> usize {
        static NUMBER: Mutex<usize> = Mutex::new(0);
        let number = {
            let mut number = NUMBER.lock().unwrap_or_else(PoisonError::into_inner);
            *number += 1;
            *number
        };
        let errand = Errand { key, rounds_left: round, last_words: Some(last_words) };
        errands(|errands| errands.insert(number, errand));
        number
    }

    /// Counts what is made and closed. (A [`Stage`] asks for the current thread, which the standard
    /// library may know no longer.)
    #[derive(Clone, Default)]
    struct Counts(Arc<[AtomicUsize; 2]>);

    struct Counting<M>(Counts, PhantomData<fn() -> M>);

    impl Counts {
        fn builder<M: Send + 'static>(&self, registry: &Registry) -> PoolBuilder<PhantomData<M>> {
            Pool::builder(Counting(self.clone(), PhantomData)).registry(registry)
        }

        fn local(&self, registry: &Registry) -> Pool<PhantomData<*const ()>> {
            let builder = Pool::builder_local(Counting(self.clone(), PhantomData));
            builder.registry(registry).build().unwrap()
        }

        fn add(&self, what: usize) {
            self.0[what].fetch_add(1, Ordering::SeqCst);
        }

        fn made_and_closed(&self) -> [usize; 2] {
            [0, 1].map(|what| self.0[what].load(Ordering::SeqCst))
        }
    }

    impl<M: 'static> Manager for Counting<M> {
        type Instance = PhantomData<M>;

        fn create(&self, _: &CreateContext) -> anyhow::Result<PhantomData<M>> {
            self.0.add(0);
            Ok(PhantomData)
        }

        fn can_break(&self) -> bool {
            false
        }

        fn close(&self, _: PhantomData<M>, _: CloseReason) -> anyhow::Result<()> {
            self.0.add(1);
            Ok(())
        }
    }

    /// A thread that uses pools for the first time in this round. Afterwards all that may be done from
    /// afar is done; each order writes to what the thread was known by, if it ended unseen. Says how
    /// many instances were lost with it: of those that must not leave it.
    fn first_use_in(key: libc::pthread_key_t, round: usize) -> usize {
        let (registry, counts) = (Registry::new(), Counts::default());
        let sent: Pool<PhantomData<()>> = counts.builder(&registry).build().unwrap();
        let idle: Pool<PhantomData<()>> =
            counts.builder(&registry).idle_timeout(Duration::from_millis(1)).build().unwrap();
        let kept = counts.local(&registry);
        // More pools than a table has places at first: it grows.
        let more: Vec<_> = (0..20).map(|_| counts.local(&registry)).collect();
        let last_words = {
            let (sent, kept, idle, more) = (sent.clone(), kept.clone(), idle.clone(), more.clone());
            move || {
                let uses = [sent.with(drop_it), idle.with(drop_it), kept.with(drop_it)];
                let uses = uses.into_iter().chain(more.iter().map(|pool| pool.with(drop_it)));
                for refused in uses.filter_map(Result::err) {
                    assert!(refused.is_thread_exiting(), "{refused}");
                }
            }
        };
        run_in_round(key, round, Box::new(last_words));
        for _ in 0..2 {
            sent.clear();
            kept.clear();
            more.iter().for_each(|pool| _ = pool.clear());
            let _ = registry.snapshot();
        }
        assert!(idle.wait_closed(PATIENCE), "the reaper closes what may leave its thread");
        assert!(sent.close(Duration::ZERO).is_clean());
        let left = registry.close_all(Duration::ZERO).still_open.len();
        let [made, closed] = counts.made_and_closed();
        assert_eq!(made, closed + left, "each is closed, or listed as open");
        left
    }

    /// The thread-locals of the thread, the standard library's among them, are gone by then: a loop can
    /// be made, posted to and dropped; whether it runs or says that it cannot, the process goes on.
    #[test]
    fn a_loop_in_any_round_of_destructors_runs_or_says_that_it_cannot() {
        use sessile::EventLoop;

        let key = new_key().expect("a key can be had");
        for round in 1..=ROUNDS {
            for run_in in [run_in_round, run_in_round_of_std] {
                let (tell, told) = std::sync::mpsc::channel();
                let last_words = move || {
                    let event_loop = EventLoop::new();
                    let (local, handle) = (event_loop.local(), event_loop.handle());
                    local.call_soon(|| ());
                    let called = handle.call(|| 7);
                    let spawned = local.spawn_local(async { 7 });
                    handle.stop();
                    let outcomes = [
                        event_loop.run().map(drop),
                        event_loop.run_once(Duration::from_millis(1)).map(drop),
                        event_loop.run_until(&spawned).map(drop),
                        event_loop.block_on(async {}).map(drop),
                    ];
                    drop((event_loop, called, spawned));
                    tell.send(outcomes).unwrap();
                };
                run_in(key, round, Box::new(last_words));
                for error in told.recv().expect("no abort").into_iter().filter_map(Result::err) {
                    assert!(error.to_string().contains("the thread is ending"), "{error}");
                }
            }
        }
        // SAFETY: the key was made here, and no thread has a value for it.
        unsafe { libc::pthread_key_delete(key) };
    }

    fn drop_it<T>(_: &mut T) {}

    #[test]
    fn a_first_use_in_any_round_leaves_nothing_dangling() {
        // The crate's own key is there first: in each round its turn has been.
        Stage::new().pool(&Registry::new()).with(|_| ()).unwrap();
        let key = new_key().expect("a key can be had");
        for round in 1..ROUNDS {
            assert_eq!(first_use_in(key, round), 0, "in round {round} it is not too late");
        }
        first_use_in(key, ROUNDS);
        // SAFETY: the key was made here, and no thread has a value for it.
        unsafe { libc::pthread_key_delete(key) };
    }

    /// The keys of a process are few, and the crate may find none left. A process of its own.
    #[test]
    fn a_first_use_in_a_destructor_leaves_nothing_dangling_where_no_key_is_left() {
        const CHILD: &str = "SESSILE_TEST_TAKES_ALL_KEYS";
        if std::env::var_os(CHILD).is_none() {
            let name = "a_first_use_in_a_destructor_leaves_nothing_dangling_where_no_key_is_left";
            let mut again = Command::new(std::env::current_exe().unwrap());
            again.args([&format!("thread_specific::{name}"), "--exact", "--nocapture"]);
            let output = again.env(CHILD, "1").output().unwrap();
            assert!(
                output.status.success(),
                "{}\n{}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            return;
        }
        let keys: Vec<_> = std::iter::from_fn(new_key).collect();
        assert!(!keys.is_empty());
        for round in 1..=ROUNDS {
            first_use_in(keys[0], round);
        }
        // Threads that end as usual need no key.
        let stage = Stage::new();
        let (pool, worker) = (stage.pool_local(&Registry::new()), Worker::new("owner"));
        worker.run(move || pool.with(|session| session.touch()).map(drop).unwrap());
        worker.end();
        stage.assert_each_closed_once();
    }
}

/// A loop that is kept in a thread-local, and is to be run once more when that is destroyed.
#[test]
fn a_loop_that_is_run_in_a_destructor_at_the_end_of_its_thread_is_an_error() {
    use sessile::EventLoop;

    let (tell, told) = std::sync::mpsc::channel();
    let ends = thread::spawn(move || {
        let last_words = |event_loop: EventLoop| {
            let tell = tell.clone();
            move || {
                let spawned = event_loop.local().spawn_local(async { 7 });
                let soon = event_loop.local().call_soon(|| ());
                // Either it runs or it says that it cannot: it does not take the process with it.
                event_loop.handle().stop();
                tell.send(event_loop.run().map(drop)).unwrap();
                tell.send(event_loop.run_once(Duration::ZERO).map(drop)).unwrap();
                tell.send(event_loop.run_until(&spawned).map(drop)).unwrap();
                tell.send(event_loop.block_on(async { 7 }).map(drop)).unwrap();
                drop(event_loop);
                assert!(spawned.is_finished());
                drop(soon);
            }
        };
        BEFORE.with(|at_exit| at_exit.run(last_words(EventLoop::new())));
        let used = EventLoop::new();
        used.run_once(Duration::ZERO).unwrap();
        AFTER.with(|at_exit| at_exit.run(last_words(used)));
    });
    ends.join().expect("no panic");
    let outcomes: Vec<_> = told.into_iter().collect();
    assert_eq!(outcomes.len(), 8, "both have said their last words");
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert!(error.to_string().contains("the thread is ending"), "{error}");
    }
}
