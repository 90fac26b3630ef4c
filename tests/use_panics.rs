//! A panic goes through somebody who uses an instance.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use sessile::manager::CloseReason;
use sessile::pool::{Ref, RefMut};
use sessile::{CreateContext, Manager, Pool, Registry};
use support::*;

fn scene() -> (Stage, Events, Pool<Session>) {
    let (stage, events) = (Stage::new(), Events::new());
    let pool = stage.builder(&Registry::new()).on_event(events.handler()).build().unwrap();
    (stage, events, pool)
}

#[test]
fn the_poisoned_instance_is_used_again() {
    let (stage, events, pool) = scene();
    let id = pool.with(|session| session.touch()).unwrap();
    assert_eq!(panic_of(|| pool.with(|_| panic!("mid-way"))), "mid-way");

    let close = stage.the_close_of(id);
    assert_eq!(close.reason, Some(CloseReason::Poisoned));
    assert_eq!(close.thread, std::thread::current().id());
    assert_ne!(pool.with(|session| session.touch()).unwrap(), id);
    assert_eq!(
        events.of(id),
        [Told::Created, Told::Poisoned { rescued: false }, Told::Closed(CloseReason::Poisoned)]
    );
    assert_eq!(pool.status().poisoned, 1);
}

#[test]
fn the_first_use_of_all_is_not_watched() {
    let (stage, _, pool) = scene();
    panic_of(|| pool.with(|_| panic!("at once")));
    panic_of(|| pool.with_ref(|_| panic!("at once")));
    assert_eq!(pool.status().poisoned, 2);
    stage.assert_each_closed_once();
}

#[test]
fn a_rescued_instance_is_closed_all_the_same() {
    let (stage, events, pool) = scene();
    stage.set_rescues(true);
    let id = pool.with(|session| session.touch()).unwrap();
    panic_of(|| pool.with(|_| panic!("mid-way")));
    panic_of(|| pool.with_ref(|_| panic!("once more")));

    assert_eq!(pool.with(|session| session.touch()).unwrap(), id);
    assert_eq!(stage.count(What::Close), 0);
    assert_eq!(
        events.of(id)[1..],
        [Told::Poisoned { rescued: true }, Told::Poisoned { rescued: true }]
    );
}

#[test]
fn a_rescue_undoes_an_order_to_close() {
    let (stage, _, pool) = scene();
    stage.set_rescues(true);
    let id = pool.with(|session| session.touch()).unwrap();
    panic_of(|| {
        pool.with(|_| {
            pool.discard();
            panic!("and good riddance");
        })
    });
    assert_eq!(stage.the_close_of(id).reason, Some(CloseReason::Discarded));
}

#[test]
fn a_panicking_rescue_aborts_or_keeps_the_instance() {
    struct BadNurse(Stage);
    impl Manager for BadNurse {
        type Instance = Session;
        fn create(&self, cx: &CreateContext) -> anyhow::Result<Session> {
            Scripted::new(&self.0).create(cx)
        }
        fn rescue(&self, _: &mut Session) -> bool {
            panic!("faints")
        }
        fn close(&self, session: Session, reason: CloseReason) -> anyhow::Result<()> {
            Scripted::new(&self.0).close(session, reason)
        }
    }
    let stage = Stage::new();
    let pool = Pool::builder(BadNurse(stage.clone())).registry(&Registry::new()).build().unwrap();
    assert_eq!(panic_of(|| pool.with(|_| panic!("mid-way"))), "mid-way");
    stage.assert_each_closed_once();
    assert_eq!(pool.status().size, 0);
}

#[test]
fn a_guard_dropped_by_a_panic_is_taken_for_one_let_go() {
    let (stage, _, pool) = scene();
    let ids = [
        pool.with(|session| session.touch()).unwrap(),
        {
            panic_of(|| {
                let _guard = pool.get().unwrap();
                panic!("over its head");
            });
            pool.with(|session| session.touch()).unwrap()
        },
        {
            panic_of(|| {
                let _guard = pool.get_ref().unwrap();
                panic!("over its head");
            });
            pool.with(|session| session.touch()).unwrap()
        },
    ];
    assert!(ids[0] < ids[1] && ids[1] < ids[2], "{ids:?}");
    let reasons: Vec<_> = stage.notes(What::Close).iter().map(|note| note.reason).collect();
    assert_eq!(reasons, [Some(CloseReason::Poisoned); 2]);
}

#[test]
fn a_panic_that_never_got_out_poisons() {
    let (stage, _, pool) = scene();
    let id = pool
        .with(|session| {
            panic_of(|| panic!("contained"));
            session.touch()
        })
        .unwrap();
    assert_eq!(pool.with(|session| session.touch()).unwrap(), id);
    assert_eq!((pool.status().poisoned, stage.count(What::Close)), (0, 0));
}

/// The inner use was left by a panic, so the instance is suspect; but the outer one still reads it.
#[test]
fn a_panic_in_a_nested_use_closes_under_the_outer_one() {
    let (stage, events, pool) = scene();
    stage.set_rescues(true);
    let id = pool
        .with_ref(|session| {
            panic_of(|| pool.with_ref(|_| panic!("inside")));
            assert_eq!(stage.count(What::Close), 0, "it is still in use");
            assert_eq!(pool.with_ref(|inner| inner.look()).unwrap(), session.look());
            session.look()
        })
        .unwrap();
    // Nobody could be asked to rescue it: a rescue gets it exclusively.
    assert_eq!(stage.count(What::Rescue), 0);
    assert_eq!(stage.the_close_of(id).reason, Some(CloseReason::Poisoned));
    assert!(events.of(id).contains(&Told::Poisoned { rescued: false }));
    assert_eq!(pool.status().size, 0);
}

/// However many other shared borrows are live: as many as there may be, and each number below.
#[test]
fn a_panic_poisons_under_any_number_of_shared_guards() {
    for others in 0..253 {
        let (stage, _, pool) = scene();
        let guards: Vec<_> = (0..others).map(|_| pool.get_ref().unwrap()).collect();
        panic_of(|| {
            let _guard = pool.get_ref().unwrap();
            panic!("mid-way");
        });
        drop(guards);
        assert_eq!(pool.status().poisoned, 1, "{others} others");
        assert_eq!(stage.notes(What::Close)[0].reason, Some(CloseReason::Poisoned));
        // And a panic that was on its way before the borrow began proves nothing, as ever.
        let guards: Vec<_> = (0..others).map(|_| pool.get_ref().unwrap()).collect();
        struct Looks<'p>(&'p Pool<Session>);
        impl Drop for Looks<'_> {
            fn drop(&mut self) {
                self.0.get_ref().unwrap().look();
            }
        }
        panic_of(|| {
            let _looks = Looks(&pool);
            panic!("for a reason of its own");
        });
        drop(guards);
        assert_eq!(pool.status().poisoned, 1, "{others} others");
    }
}

#[test]
fn a_panic_through_all_nested_uses_closes_twice() {
    let (stage, _, pool) = scene();
    panic_of(|| {
        pool.with_ref(|_| {
            let _guard = pool.get_ref().unwrap();
            pool.with_ref(|_| panic!("through all of them"))
        })
    });
    assert_eq!(stage.count(What::Create), 1);
    stage.assert_each_closed_once();
}

/// In a destructor that runs while a panic unwinds, that panic is no reason to call an instance
/// poisoned that was borrowed only now.
#[test]
fn a_use_while_another_panic_unwinds_poisons() {
    struct UsesLate<'p>(&'p Pool<Session>);
    impl Drop for UsesLate<'_> {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            self.0.with(|session| session.touch()).unwrap();
            self.0.with_ref(|session| session.look()).unwrap();
            drop(self.0.get().unwrap());
            drop(self.0.get_ref().unwrap());
        }
    }
    let (stage, _, pool) = scene();
    for _ in 0..2 {
        // The first time round it is made there, too.
        panic_of(|| {
            let _late = UsesLate(&pool);
            panic!("elsewhere");
        });
    }
    assert_eq!((pool.status().poisoned, stage.count(What::Close)), (0, 0));
    assert_eq!((stage.count(What::Create), pool.status().create_failed), (1, 0));
}

#[test]
fn a_second_panic_caught_while_the_first_unwinds_aborts() {
    struct PanicsLate<'p>(&'p Pool<Session>);
    impl Drop for PanicsLate<'_> {
        fn drop(&mut self) {
            let caught = catch_unwind(AssertUnwindSafe(|| self.0.with(|_| panic!("the second"))));
            assert!(caught.is_err());
        }
    }
    let (stage, _, pool) = scene();
    let late = PanicsLate(&pool);
    assert_eq!(
        panic_of(move || {
            let _late = late;
            panic!("the first");
        }),
        "the first"
    );
    assert_eq!(pool.status().poisoned, 1);
    stage.assert_each_closed_once();
}

#[test]
fn a_guard_discarded_stays() {
    let (stage, _, pool) = scene();
    let guard = pool.get().unwrap();
    let id = guard.look();
    RefMut::discard(guard);
    assert_eq!(stage.the_close_of(id).reason, Some(CloseReason::Discarded));
    let guards: [Ref<'_, Session>; 2] = [pool.get_ref().unwrap(), pool.get_ref().unwrap()];
    assert_ne!(guards[0].look(), id);
}
