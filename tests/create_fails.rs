//! Creation fails, panics, comes back into the pool, or is overtaken by a close.

mod support;

use std::error::Error;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use sessile::manager::CloseReason;
use sessile::{CreateContext, Manager, Pool, Registry, from_fn};
use support::*;

#[test]
fn the_error_hides_its_cause() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    stage.on_create(fail("no kernel to be had"));

    let error = pool.with(|_| ()).unwrap_err();
    assert!(error.is_create_failed(), "{error:?}");
    assert_eq!(error.source().expect("a source").to_string(), "no kernel to be had");
    assert!(!error.to_string().contains("no kernel"), "the cause is told once: {error}");
    assert!(
        !error.is_closed()
            && !error.is_reentrant()
            && !error.is_timeout()
            && !error.is_thread_exiting()
            && !error.is_backing_off()
    );
}

#[test]
fn one_failure_spoils_the_next_use() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    stage.on_create(fail("not yet"));

    pool.with(|_| ()).unwrap_err();
    let status = pool.status();
    assert_eq!((status.size, status.created, status.create_failed), (0, 0, 1), "{status:?}");
    pool.with(|session| session.touch()).unwrap();
    let status = pool.status();
    assert_eq!((status.size, status.created, status.create_failed), (1, 1, 1), "{status:?}");
}

#[test]
fn a_panic_is_swallowed_or_leaves_the_slot_half_made() {
    let stage = Stage::new();
    let events = Events::new();
    let pool = stage.builder(&Registry::new()).on_event(events.handler()).build().unwrap();
    stage.on_create(panics("the manager is beside itself"));

    assert_eq!(panic_of(|| pool.with(|_| ())), "the manager is beside itself");
    let status = pool.status();
    assert_eq!((status.size, status.created, status.create_failed), (0, 0, 1), "{status:?}");
    assert!(matches!(&events.all()[..], [(_, Told::CreateFailed(_))]), "{:?}", events.all());
    pool.with(|session| session.touch()).unwrap();
}

/// Under `max_size(1)` one lost admission is the death of the pool.
#[test]
fn failures_and_panics_use_up_the_room() {
    let stage = Stage::new();
    let pool = stage.builder(&Registry::new()).max_size(1).wait_timeout(PATIENCE).build().unwrap();
    for _ in 0..3 {
        stage.on_create(fail("no")).on_create(panics("worse"));
        pool.with(|_| ()).unwrap_err();
        panic_of(|| pool.with(|_| ()));
    }
    let other = pool.clone();
    promptly("another thread", move || other.with(|session| session.touch())).unwrap();
    pool.with(|session| session.touch()).unwrap();
}

#[test]
fn who_waits_for_room_is_not_let_in_when_a_creation_fails() {
    let stage = Stage::new();
    let pool = stage.builder(&Registry::new()).max_size(1).wait_timeout(None).build().unwrap();
    let (first, second) = (Worker::new("first"), Worker::new("second"));
    let gate = Gate::new();
    stage.on_create({
        let gate = gate.clone();
        Box::new(move || {
            gate.pass();
            anyhow::bail!("after all not")
        })
    });

    let fails = first.start({
        let pool = pool.clone();
        move || pool.with(|_| ())
    });
    gate.wait_for_arrival();
    let waits = second.start({
        let pool = pool.clone();
        move || pool.with(|session| session.touch())
    });
    poll_until("the second one waits", || pool.status().waiting == 1);
    gate.open();
    assert!(fails.wait().unwrap_err().is_create_failed());
    waits.wait().unwrap();
}

#[test]
fn the_manager_is_asked_while_the_pool_backs_off() {
    let stage = Stage::new();
    let pool = stage.builder(&Registry::new()).create_backoff(FOR_EVER, FOR_EVER).build().unwrap();
    stage.on_create(fail("down"));

    assert!(pool.with(|_| ()).unwrap_err().is_create_failed());
    let error = pool.with(|_| ()).unwrap_err();
    assert!(error.is_backing_off() && !error.is_create_failed(), "{error:?}");
    assert!(error.retry_after().unwrap() <= FOR_EVER);
    assert!(error.retry_after().unwrap() > FOR_EVER / 2);
    assert_eq!(pool.status().create_failed, 1);
    let other = pool.clone();
    let error = promptly("another thread", move || other.with(|_| ())).unwrap_err();
    assert!(error.is_backing_off(), "it is for all threads: {error:?}");
}

#[test]
fn the_waits_do_not_grow_or_a_success_does_not_reset_them() {
    let first = Duration::from_millis(10);
    let stage = Stage::new();
    let pool = stage.builder(&Registry::new()).create_backoff(first, FOR_EVER).build().unwrap();
    // Uses the pool as soon as it does not back off, and gives the longest wait it was told.
    let sit_out = || {
        let mut longest = Duration::ZERO;
        loop {
            match pool.with(|_| ()) {
                Err(error) if error.is_backing_off() => {
                    let wait = error.retry_after().unwrap();
                    longest = longest.max(wait);
                    std::thread::sleep(wait);
                }
                other => return (other, longest),
            }
        }
    };

    let mut longest = Duration::ZERO;
    for _ in 0..6 {
        stage.on_create(fail("down"));
        let (out, waited) = sit_out();
        assert!(out.unwrap_err().is_create_failed());
        longest = longest.max(waited);
    }
    assert!(longest > first, "after five failures in a row it was still {longest:?}");
    sit_out().0.unwrap();
    assert!(pool.discard());
    stage.on_create(fail("down again"));
    pool.with(|_| ()).unwrap_err();
    let (out, waited) = sit_out();
    out.unwrap();
    assert!(waited <= first, "the success did not set it back: {waited:?}");
}

#[test]
fn a_backoff_too_long_to_be_represented_lasts_for_ever() {
    let stage = Stage::new();
    let builder = stage.builder(&Registry::new()).create_backoff(Duration::MAX, Duration::MAX);
    let pool = builder.build().unwrap();
    stage.on_create(fail("down"));
    assert!(pool.with(|_| ()).unwrap_err().is_create_failed());
    let error = pool.with(|_| ()).unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::MAX), "{error}");
    assert_eq!(stage.count(What::Create), 0, "the manager was not asked again");
}

#[test]
fn a_create_that_uses_its_own_pool_recurses() {
    static POOL: OnceLock<Pool<u32>> = OnceLock::new();
    let manager = from_fn(|_| {
        let pool = POOL.get().expect("set before the first use");
        let errors = [
            pool.with(|_| ()).unwrap_err(),
            pool.with_ref(|_| ()).unwrap_err(),
            pool.get().map(drop).unwrap_err(),
            pool.get_ref_timeout(Duration::ZERO).map(drop).unwrap_err(),
            pool.close_here().unwrap_err(),
        ];
        for error in errors {
            assert!(error.is_reentrant(), "{error:?}");
        }
        7
    });
    let pool = Pool::builder(manager).registry(&Registry::new()).build().unwrap();
    let pool = POOL.get_or_init(|| pool);
    assert_eq!(pool.with(|n| *n).unwrap(), 7);
}

#[test]
fn a_create_that_uses_another_pool_is_refused() {
    let (registry, outer, inner) = (Registry::new(), Stage::new(), Stage::new());
    let connections = inner.pool(&registry);
    let kernels = outer.pool(&registry);
    outer.on_create({
        let connections = connections.clone();
        first(move || {
            connections.with(|session| session.touch()).unwrap();
        })
    });
    kernels.with(|session| session.touch()).unwrap();
    assert_eq!(connections.status().idle, 1);
}

#[test]
fn what_a_clear_overtakes_is_of_the_old_generation() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let worker = Worker::new("owner");
    let gate = Gate::new();
    stage.on_create(hold(&gate));

    let used = worker.start({
        let pool = pool.clone();
        move || pool.with(|session| (session.touch(), session.generation))
    });
    gate.wait_for_arrival();
    assert_eq!(pool.clear(), 1);
    gate.open();
    let (id, generation) = used.wait().unwrap();
    assert_eq!(generation, 1, "made before the clear, used after it");
    assert_eq!(stage.count(What::Create), 2);
    let closed = stage.notes(What::Close);
    assert_eq!(closed.len(), 1);
    assert!(closed[0].id < id && closed[0].reason == Some(CloseReason::Cleared), "{closed:?}");
    assert_eq!(closed[0].thread, worker.id());
}

/// However often somebody clears it, and from wherever: from the creation, from the interrupt that is
/// asked for, from the handler that is told.
#[test]
fn a_use_makes_two_instances_at_most_while_the_pool_is_cleared() {
    #[derive(Clone, Copy, PartialEq)]
    enum From {
        Create,
        Interrupt,
        Handler,
    }
    // Weak, for the pool owns its manager and its handler.
    struct Clears(Stage, From, Weak<OnceLock<Pool<Session>>>);
    fn clear(pool: &Weak<OnceLock<Pool<Session>>>) {
        let pool = pool.upgrade().expect("the test has it");
        pool.get().expect("set before the first use").clear();
    }
    impl Clears {
        fn clear(&self, from: From) {
            if from == self.1 {
                clear(&self.2);
            }
        }
    }
    impl Manager for Clears {
        type Instance = Session;
        fn create(&self, cx: &CreateContext) -> anyhow::Result<Session> {
            self.clear(From::Create);
            Scripted::new(&self.0).create(cx)
        }
        fn can_break(&self) -> bool {
            false
        }
        fn interrupt(&self, _: &Session) -> Option<sessile::manager::InterruptHandle> {
            self.clear(From::Interrupt);
            None
        }
        fn close(&self, session: Session, reason: CloseReason) -> anyhow::Result<()> {
            Scripted::new(&self.0).close(session, reason)
        }
    }
    for from in [From::Create, From::Interrupt, From::Handler] {
        let (stage, this) = (Stage::new(), Arc::new(OnceLock::<Pool<Session>>::new()));
        let at = Arc::downgrade(&this);
        let handler = move |event: &sessile::pool::InstanceEvent<'_>| {
            if let (From::Handler, sessile::pool::InstanceEventKind::Created { .. }) =
                (from, event.kind)
            {
                clear(&at);
            }
        };
        let builder = Pool::builder(Clears(stage.clone(), from, Arc::downgrade(&this)));
        let builder = builder.registry(&Registry::new()).on_event(handler).max_size(1);
        let pool = this.get_or_init(|| builder.build().unwrap()).clone();
        let used = promptly("uses it", move || {
            let first = pool.with(|session| session.touch()).unwrap();
            let guard = pool.get_timeout(TOO_LONG).unwrap();
            [first, guard.look()]
        });
        let made: Vec<_> = stage.notes(What::Create).iter().map(|note| note.id).collect();
        assert_eq!([made[1], made[3]], used, "of two that are made the second is used");
        assert_eq!(made.len(), 4);
        stage.assert_each_closed_once();
    }
}

/// Who has no time left for another takes the one that is there.
#[test]
fn what_a_clear_overtakes_is_used_where_time_is_short() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let (worker, gate) = (Worker::new("owner"), Gate::new());
    stage.on_create(hold(&gate));
    let used = worker.start({
        let pool = pool.clone();
        move || pool.get_timeout(Duration::ZERO).map(|mut guard| guard.touch())
    });
    gate.wait_for_arrival();
    assert_eq!(pool.clear(), 1);
    gate.open();
    let id = used.wait().unwrap();
    assert_eq!(stage.count(What::Create), 1);
    assert_eq!(stage.the_close_of(id).reason, Some(CloseReason::Cleared));
}

#[test]
fn what_a_close_overtakes_is_used_or_lost() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let (worker, closer) = (Worker::new("owner"), Worker::new("closer"));
    let gate = Gate::new();
    stage.on_create(hold(&gate));

    let used = worker.start({
        let pool = pool.clone();
        move || pool.with(|_| panic!("the pool was closed before it was open"))
    });
    gate.wait_for_arrival();
    let closing = closer.start({
        let pool = pool.clone();
        move || pool.close(TOO_LONG)
    });
    poll_until("the pool is closed", || pool.status().closing == 1);
    gate.open();
    assert!(used.wait().unwrap_err().is_closed());
    let report = closing.wait();
    assert!(report.is_clean() && report.closed == 1, "{report}");
    stage.assert_each_closed_once();
}

#[test]
fn a_close_waits_to_its_deadline_for_a_creation_that_has_failed() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    let (worker, closer) = (Worker::new("owner"), Worker::new("closer"));
    let gate = Gate::new();
    stage.on_create({
        let gate = gate.clone();
        Box::new(move || {
            gate.pass();
            anyhow::bail!("after all not")
        })
    });

    let used = worker.start({
        let pool = pool.clone();
        move || pool.with(|_| ())
    });
    gate.wait_for_arrival();
    let closing = closer.start({
        let pool = pool.clone();
        move || pool.close(TOO_LONG)
    });
    poll_until("the pool is closed", || pool.status().closing == 1);
    gate.open();
    assert!(used.wait().unwrap_err().is_create_failed());
    let report = closing.wait();
    assert!(report.is_clean() && report.closed == 0, "{report}");
}

#[test]
fn a_closed_pool_makes_one_more() {
    let stage = Stage::new();
    let pool = stage.pool(&Registry::new());
    assert!(!pool.is_closed());
    assert!(pool.close(Duration::ZERO).is_clean());
    assert!(pool.is_closed());
    assert!(pool.with(|_| ()).unwrap_err().is_closed());
    assert!(pool.get_ref().map(drop).unwrap_err().is_closed());
    assert_eq!(stage.count(What::Create), 0);
}

/// There is an instance by then, and whatever there is has to be closed by its manager.
#[test]
fn an_instance_is_dropped_unclosed_when_its_interrupt_handle_panics() {
    struct Nervous(Stage);
    impl Manager for Nervous {
        type Instance = Session;
        fn create(&self, cx: &CreateContext) -> anyhow::Result<Session> {
            Scripted::new(&self.0).create(cx)
        }
        fn interrupt(&self, _: &Session) -> Option<sessile::manager::InterruptHandle> {
            panic!("no handle, and no manners")
        }
        fn close(&self, session: Session, reason: CloseReason) -> anyhow::Result<()> {
            Scripted::new(&self.0).close(session, reason)
        }
    }
    let stage = Stage::new();
    let pool = Pool::builder(Nervous(stage.clone())).registry(&Registry::new()).build().unwrap();
    pool.with(|session| session.touch()).unwrap();
    assert!(pool.close(Duration::ZERO).is_clean());
    stage.assert_each_closed_once();
}

/// A destructor that runs while a panic unwinds may use a pool; what it is refused there is no
/// failure of the manager's.
#[test]
fn a_refusal_while_a_panic_unwinds_is_taken_for_a_failed_creation() {
    struct UsesLate(Pool<Session>, Arc<OnceLock<bool>>);
    impl Drop for UsesLate {
        fn drop(&mut self) {
            let refused = self.0.get_timeout(Duration::ZERO).map(drop).unwrap_err();
            self.1.set(refused.is_timeout()).unwrap();
        }
    }
    let stage = Stage::new();
    let pool = stage.builder(&Registry::new()).max_size(1).evict_idle_after(None).build().unwrap();
    let holder = Worker::new("holder");
    let full = pool.clone();
    holder.run(move || full.with(|_| ()).unwrap());

    let refused = Arc::new(OnceLock::new());
    let late = UsesLate(pool.clone(), Arc::clone(&refused));
    panic_of(move || {
        let _late = late;
        panic!("for a reason of its own");
    });
    assert_eq!(refused.get(), Some(&true));
    assert_eq!(pool.status().create_failed, 0);
}

#[test]
fn an_option_that_makes_no_sense_is_accepted() {
    let refuse = |set: fn(sessile::PoolBuilder<Session>) -> sessile::PoolBuilder<Session>,
                  name: &str| {
        let builder = set(Stage::new().builder(&Registry::new()));
        let error = builder.build().map(drop).unwrap_err().to_string();
        let begins = format!("`{name}` must not be zero");
        assert!(error.starts_with(&begins), "{error}");
    };
    refuse(|b| b.max_size(0), "max_size");
    refuse(|b| b.idle_timeout(Duration::ZERO), "idle_timeout");
    refuse(|b| b.max_lifetime(Duration::ZERO), "max_lifetime");
    refuse(|b| b.max_uses(0), "max_uses");
    refuse(|b| b.check_after(Duration::ZERO), "check_after");
}
