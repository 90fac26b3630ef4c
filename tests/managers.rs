//! Managers that are made, not written: of closures.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use sessile::manager::CloseReason;
use sessile::{Manager, Pool, Registry, from_fn, try_from_fn};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_closure_makes_one_instance_for_each_thread() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let pool = Pool::from_fn(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        (thread::current().id(), 0)
    });
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for round in 0..5 {
                    let (owner, uses) = pool
                        .with(|(owner, uses)| {
                            (*owner, {
                                *uses += 1;
                                *uses
                            })
                        })
                        .unwrap();
                    assert_eq!((owner, uses), (thread::current().id(), round + 1));
                }
            });
        }
    });
    assert_eq!(made.load(Ordering::SeqCst), 3);
}

#[test]
fn a_closure_may_make_what_is_not_send() {
    let pool = Pool::new_local(from_fn(|_| Rc::new(Cell::new(1))));
    pool.with_ref(|cell| cell.set(cell.get() + 1)).unwrap();
    assert_eq!(pool.with_ref(|cell| cell.get()).unwrap(), 2);
}

#[test]
fn a_closure_that_fails_is_tried_again_at_the_next_use() {
    let tries = AtomicUsize::new(0);
    let pool = Pool::try_from_fn(move |_| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Err(std::io::Error::other("not yet")),
        tried => Ok(tried),
    });
    let error = pool.with(|_| ()).unwrap_err();
    assert!(error.is_create_failed());
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "not yet");
    assert_eq!(pool.with(|tried| *tried).unwrap(), 1);
}

#[test]
fn a_closures_instance_that_has_broken_is_closed_and_made_anew() {
    let (sender, closed) = mpsc::channel();
    let manager = from_fn(|cx| (cx.id(), false)).broken_if(|(_, broken)| *broken).close_with(
        move |(id, _), reason| {
            sender.send((id, reason))?;
            Ok(())
        },
    );
    let pool = Pool::new(manager);
    let first = pool.with(|(id, _)| *id).unwrap();
    assert_eq!(pool.with(|(id, _)| *id).unwrap(), first);
    pool.with(|(_, broken)| *broken = true).unwrap();
    assert_eq!(closed.try_recv().unwrap(), (first, CloseReason::Broken));
    assert_ne!(pool.with(|(id, _)| *id).unwrap(), first);
}

#[test]
fn only_broken_if_costs_a_call_after_a_use() {
    assert!(!from_fn(|_| 0).can_break());
    let other = try_from_fn(|_| Ok::<_, std::io::Error>(0))
        .valid_if(|_| true)
        .interrupt_with(|_| || ())
        .close_with(|_, _| Ok(()));
    assert!(!other.can_break());
    assert!(from_fn(|_| 0).broken_if(|_| false).can_break());
}

#[test]
fn a_closures_instance_is_checked_after_it_has_been_idle() {
    let (sender, closed) = mpsc::channel();
    let manager = from_fn(|cx| cx.id()).valid_if(|_| false).close_with(move |id, reason| {
        sender.send((id, reason))?;
        Ok(())
    });
    let pool = Pool::builder(manager).check_after(Duration::from_millis(1)).build().unwrap();
    let first = pool.with(|id| *id).unwrap();
    thread::sleep(Duration::from_millis(5)); // idle: this is the promise, no wait for anybody
    assert_ne!(pool.with(|id| *id).unwrap(), first);
    assert_eq!(closed.try_recv().unwrap(), (first, CloseReason::Invalid));
}

#[test]
fn a_close_interrupts_a_closures_instance_that_is_busy() {
    let manager = from_fn(|_| Arc::new(AtomicBool::new(false))).interrupt_with(|stop| {
        let stop = Arc::clone(stop);
        move || stop.store(true, Ordering::SeqCst)
    });
    let pool = Pool::builder(manager).registry(&Registry::new()).build().unwrap();
    let (sender, busy) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            pool.with(|stop| {
                sender.send(()).unwrap();
                while !stop.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
            })
        });
        busy.recv_timeout(PATIENCE).unwrap();
        // Half-way to the deadline it is asked to stop.
        let _ = pool.close(Duration::from_millis(200));
        assert!(pool.wait_closed(PATIENCE), "nobody asked it to stop");
    });
}

#[test]
fn a_closures_close_that_fails_is_in_the_report() {
    let manager = from_fn(|_| 0).close_with(|_, reason| anyhow::bail!("not now: {reason}"));
    let pool = Pool::builder(manager).registry(&Registry::new()).build().unwrap();
    pool.with(|_| ()).unwrap();
    let report = pool.close(PATIENCE);
    assert!(!report.is_clean());
    assert!(report.to_string().contains("not now: pool closed"), "{report}");
}
