//! Work for whichever worker is free, for one that is named, for all: held up, out of order, or lost.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use sessile::task::JoinHandle;
use sessile::{PoolBuilder, PoolError, Registry, Workers};
use support::{FOR_EVER, Gate, PATIENCE, Session, Stage, Stay, What, promptly};

fn workers<T>(pool: PoolBuilder<T>, threads: usize) -> Workers<T> {
    Workers::builder(pool).threads(threads).queue_capacity(2).build().expect("threads can be had")
}

/// What comes of it, in time.
#[track_caller]
fn joined<R, B>(handle: JoinHandle<R, B>) -> R {
    let Ok(joined) = handle.join_timeout(PATIENCE) else { panic!("waited in vain") };
    joined.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn one_stuck_worker_delays_what_another_could_run() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let workers = workers(stage.builder(&registry), 2);
    let holds = gate.clone();
    let stuck = workers.submit(move |_| holds.pass()).unwrap();
    gate.wait_for_arrival();
    for n in 0..1000 {
        assert_eq!(joined(workers.submit(move |_| n).unwrap()), n);
    }
    // Even what was queued while both were busy goes to the one that comes free.
    let second = Gate::new();
    let holds = second.clone();
    let other = workers.submit(move |_| holds.pass()).unwrap();
    second.wait_for_arrival();
    let queued = [workers.submit(|_| 1).unwrap(), workers.submit(|_| 2).unwrap()];
    second.open();
    assert_eq!(queued.map(joined), [1, 2]);
    assert!(!stuck.is_finished());
    gate.open();
    joined(stuck);
    joined(other);
}

/// A sleeper is woken for work that anybody may do, and finds other work of its own, or an instance
/// to close, before it comes to it: then somebody else is to do it.
#[test]
fn a_worker_woken_for_one_thing_and_stuck_in_another_keeps_the_first_waiting() {
    for closes in [false, true] {
        let (stage, registry) = (Stage::new(), Registry::new());
        let workers = workers(stage.builder_local(&registry), 2);
        let os_thread = |_: &mut Stay| std::fs::read_link("/proc/thread-self").unwrap();
        let of_0 = (0..).map(|key| workers.keyed(key.to_string()));
        let of_0 = of_0.into_iter().find(|keyed| keyed.worker() == 0).unwrap();
        for _ in 0..50 {
            let gate = Gate::new();
            // Who went to sleep last is woken first: that is to be worker 0.
            support::wait_asleep(&joined(workers.submit_to(1, os_thread).unwrap()));
            let id = joined(of_0.submit(Stay::touch).unwrap());
            support::wait_asleep(&joined(workers.submit_to(0, os_thread).unwrap()));
            let anybody;
            if closes {
                stage.on_close(support::hold(&gate));
                anybody = workers.submit(|_| 7).unwrap();
                assert!(registry.evict(id));
            } else {
                let holds = gate.clone();
                anybody = workers.submit(|_| 7).unwrap();
                workers.submit_to(0, move |_| holds.pass()).unwrap().detach();
            }
            assert_eq!(joined(anybody), 7);
            gate.open();
        }
    }
}

#[test]
fn each_worker_makes_its_instance_before_it_is_needed_or_twice() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder_local(&registry), 3);
    assert_eq!(stage.count(What::Create), 0);
    for _ in 0..5 {
        joined(workers.submit_to(1, |session: &mut Stay| session.touch()).unwrap());
    }
    assert_eq!(stage.count(What::Create), 1);
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.instances.len(), 1);
    assert_eq!(snapshot.instances[0].owner.name.as_deref(), Some("worker-1"));
    assert_eq!(snapshot.instances[0].key, None);
    drop(workers);
    stage.assert_each_closed_once();
    assert!(registry.snapshot().instances.is_empty());
}

#[test]
fn work_for_one_worker_overtakes_itself_or_goes_astray() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let pool = stage.builder(&registry);
    let workers = Workers::builder(pool).threads(3).name("named").build().unwrap();
    let (tell, told) = mpsc::channel();
    for n in 0..300 {
        let tell = tell.clone();
        let work = move |_: &mut Session| {
            let name = thread::current().name().unwrap().to_owned();
            tell.send((n, name)).unwrap();
        };
        workers.submit_to(n % 3, work).unwrap().detach();
    }
    drop(tell);
    let mut last = [None; 3];
    for (n, name) in told {
        assert_eq!(name, format!("named-{}", n % 3));
        assert!(last[n % 3] < Some(n), "in the order of submission");
        last[n % 3] = Some(n);
    }
}

#[test]
fn work_for_a_worker_that_is_not_there_is_taken() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder(&registry), 2);
    let message = support::panic_of(|| drop(workers.submit_to(2, |_| ())));
    assert_eq!(message, "there are 2 workers, and no number 2");
}

#[test]
fn neither_queue_of_a_worker_starves_the_other() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let pool = stage.builder(&registry);
    let workers = Workers::builder(pool).threads(1).build().unwrap();
    let holds = gate.clone();
    workers.submit(move |_| holds.pass()).unwrap().detach();
    gate.wait_for_arrival();
    let (tell, told) = mpsc::channel();
    for what in ["own", "own", "own", "any", "any", "any"] {
        let tell = tell.clone();
        let work = move |_: &mut Session| tell.send(what).unwrap();
        match what {
            "own" => workers.submit_to(0, work).unwrap().detach(),
            _ => workers.submit(work).unwrap().detach(),
        }
    }
    drop(tell);
    gate.open();
    let order: Vec<_> = told.into_iter().collect();
    assert!(order[..4].contains(&"own") && order[..4].contains(&"any"), "{order:?}");
}

#[test]
fn a_broadcast_leaves_a_worker_out() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder_local(&registry), 4);
    let handles = workers.broadcast(|session: &mut Stay| session.touch());
    let mut ids: Vec<_> = handles.into_iter().map(|one| joined(one.unwrap())).collect();
    ids.dedup();
    assert_eq!(ids.len(), 4, "each with its own instance");
    assert_eq!(stage.count(What::Create), 4);
}

/// Occupies the one worker and fills its queue of two.
fn full(stage: &Stage, registry: &Registry) -> (Workers<Session>, Gate) {
    let (workers, gate) = (workers(stage.builder(registry), 1), Gate::new());
    let holds = gate.clone();
    workers.submit(move |_| holds.pass()).unwrap().detach();
    gate.wait_for_arrival();
    for _ in 0..2 {
        workers.submit(|_| ()).unwrap().detach();
        workers.submit_to(0, |_| ()).unwrap().detach();
    }
    (workers, gate)
}

fn refused_text(workers: &Workers<Session>) -> String {
    workers.try_submit(|_| ()).unwrap_err().to_string()
}

#[test]
fn a_full_queue_takes_more_or_keeps_the_work() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let (workers, gate) = full(&stage, &registry);
    for wait in [Duration::ZERO, Duration::from_millis(5)] {
        let begun = Instant::now();
        let refused = workers.submit_timeout(wait, |session| session.touch()).unwrap_err();
        assert!(refused.is_full() && begun.elapsed() >= wait);
    }
    let refused = workers.try_submit(|_| 7).unwrap_err();
    assert!(refused.is_full(), "{refused:?}");
    let body = refused.into_inner();
    assert_eq!(refused_text(&workers), "the queue is full: it takes 2 and no more");
    // A key has its queue to itself.
    let keyed = workers.keyed("key".to_owned());
    for _ in 0..2 {
        keyed.try_submit(|_| ()).unwrap().detach();
    }
    let refused = keyed.try_submit(|_| ()).unwrap_err();
    assert!(refused.is_full() && refused.is_key_full());
    assert_eq!(refused.to_string(), "the queue of key `key` is full: it takes 2 and no more");
    gate.open();
    // The very closure that came back may be submitted again.
    assert_eq!(joined(workers.submit(body).unwrap()), 7);
}

#[test]
fn a_submit_that_waits_for_room_sleeps_on() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let (workers, gate) = full(&stage, &registry);
    thread::scope(|s| {
        let waits: Vec<_> = (0..4)
            .map(|n| {
                let workers = &workers;
                s.spawn(move || {
                    let handle = match n % 2 {
                        0 => workers.submit(move |_| n),
                        _ => workers.submit_timeout(PATIENCE, move |_| n),
                    };
                    joined(handle.unwrap())
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(5)); // likelier that they wait; right in any case
        gate.open();
        for (n, waits) in waits.into_iter().enumerate() {
            assert_eq!(waits.join().unwrap(), n);
        }
    });
}

#[test]
fn a_submit_that_waits_for_room_misses_the_end() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let (workers, gate) = full(&stage, &registry);
    let workers = Arc::new(workers);
    let waits = Arc::clone(&workers);
    let waits = thread::spawn(move || waits.submit(|_| 7).unwrap_err());
    thread::sleep(Duration::from_millis(5)); // likelier that it waits; right in any case
    let report = workers.abort(Duration::ZERO);
    assert_eq!(report.stragglers, ["worker-0"]);
    let refused = promptly("submit", move || waits.join().unwrap());
    assert!(refused.is_closed());
    gate.open();
}

#[test]
fn a_worker_waits_for_room_in_its_own_queue() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = Arc::new(workers(stage.builder(&registry), 1));
    let inner = Arc::clone(&workers);
    let refused = workers.submit(move |_| {
        for _ in 0..2 {
            inner.submit(|_| ()).unwrap().detach();
        }
        let full = inner.submit(|_| ()).is_err_and(|refused| refused.is_full());
        full && inner.submit_timeout(FOR_EVER, |_| ()).is_err_and(|refused| refused.is_full())
    });
    assert!(joined(refused.unwrap()));
}

#[test]
fn a_worker_waits_for_itself() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = Arc::new(workers(stage.builder(&registry), 2));
    let inner = Arc::clone(&workers);
    let answers = workers.submit_to(0, move |_| {
        let to_itself = inner.submit_to(0, |_| ()).unwrap();
        let error = to_itself.join().unwrap_err();
        assert!(error.is_deadlock() && error.into_body().is_none());
        let to_itself = inner.submit_to(0, |_| ()).unwrap();
        assert!(to_itself.join_timeout(FOR_EVER).is_err(), "at once, with the handle");
        // Another worker is another matter.
        inner.submit_to(1, |_| 7).unwrap().join().unwrap()
    });
    assert_eq!(joined(answers.unwrap()), 7);
}

#[test]
fn a_worker_waits_for_a_key_of_its_own() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = Arc::new(workers(stage.builder(&registry), 2));
    let inner = Arc::clone(&workers);
    let error = workers.keyed("alice".to_owned()).submit(move |_| {
        let alice = inner.keyed("alice".to_owned());
        (alice.submit(|_| ()).unwrap().join().unwrap_err(), alice.close().unwrap().join())
    });
    let (submitted, closed) = joined(error.unwrap());
    assert!(submitted.is_deadlock() && closed.unwrap_err().is_deadlock());
}

#[test]
fn a_lone_worker_waits_for_itself() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = Arc::new(workers(stage.builder(&registry), 1));
    let inner = Arc::clone(&workers);
    let answers = workers.submit(move |_| inner.submit(|_| ()).unwrap().join().unwrap_err());
    assert!(joined(answers.unwrap()).is_deadlock());
}

#[test]
fn a_creation_that_fails_loses_the_work() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder(&registry).max_uses(1), 1);
    for keyed in [false, true] {
        for step in [support::fail("no kernel"), support::panics("no kernel")] {
            stage.on_create(step);
            let work = |_: &mut Session| 7;
            let handle = match keyed {
                false => workers.submit(work),
                true => workers.keyed("key".to_owned()).submit(work),
            };
            let error = handle.unwrap().join().unwrap_err();
            assert!(error.is_no_instance() && !error.is_cancelled());
            let source = std::error::Error::source(&error).expect("the reason");
            assert!(source.downcast_ref::<PoolError>().unwrap().is_create_failed());
            assert!(format!("{:#}", source.source().unwrap()).contains("no kernel"));
            let body = error.into_body().expect("the work");
            assert_eq!(joined(workers.submit(body).unwrap()), 7, "it can be tried again");
        }
    }
}

#[test]
fn a_panic_in_work_ends_the_worker_or_spares_the_instance() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder(&registry), 1);
    let poisoned = Arc::new(AtomicUsize::new(0));
    for n in 1..=3 {
        let payload = workers.submit(|_| -> u8 { panic!("in the work") }).unwrap();
        let payload = payload.join().unwrap_err().try_into_panic().unwrap();
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"in the work"));
        assert_eq!(stage.count(What::Close), n);
        let of = Arc::clone(&poisoned);
        joined(workers.submit(move |_| of.fetch_add(1, Ordering::SeqCst)).unwrap());
        assert_eq!(stage.count(What::Create), n + 1, "a new one for the next work");
    }
    assert_eq!(workers.pool().status().poisoned, 3);
    let error = workers.submit(|_| panic!("carried on")).unwrap().join().unwrap_err();
    assert_eq!(support::panic_of(|| error.resume_panic()), "carried on");
}

#[test]
fn a_result_whose_destructor_panics_ends_the_worker() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let workers = workers(stage.builder(&registry), 1);
    let holds = gate.clone();
    let handle = workers.submit(move |_| {
        holds.pass();
        Bomb
    });
    drop(handle.unwrap()); // so that it is the worker that drops the result
    gate.open();
    assert_eq!(joined(workers.submit(|_| 7).unwrap()), 7);
    assert_eq!(stage.count(What::Close), 0, "the instance has nothing to do with it");
}

/// The body comes back from a cancel; and what has been cancelled costs no instance, and harms none.
#[test]
fn cancelled_work_runs_or_takes_an_instance_with_it() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder(&registry), 1);
    joined(workers.submit(|_| ()).unwrap());
    for keyed in [false, true] {
        let gate = Gate::new();
        let holds = gate.clone();
        workers.submit(move |_| holds.pass()).unwrap().detach();
        gate.wait_for_arrival();
        let work = |_: &mut Session| 7;
        let handle = match keyed {
            false => workers.submit(work),
            true => workers.keyed("key".to_owned()).submit(work),
        };
        let handle = handle.unwrap();
        let body = handle.cancel().expect("it had not begun");
        assert!(handle.is_finished() && handle.cancel().is_none());
        let error = handle.join().unwrap_err();
        assert!(error.is_cancelled() && error.into_body().is_none(), "it came back before");
        gate.open();
        assert_eq!(joined(workers.submit(body).unwrap()), 7);
        assert!(!workers.keyed("key".to_owned()).is_live());
    }
    assert_eq!((stage.count(What::Create), stage.count(What::Close)), (1, 0));
    assert_eq!(workers.pool().status().poisoned, 0);
}

#[test]
fn a_cancel_stops_work_that_has_begun() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let workers = workers(stage.builder(&registry), 1);
    let holds = gate.clone();
    let handle = workers.submit(move |_| {
        holds.pass();
        7
    });
    let handle = handle.unwrap();
    gate.wait_for_arrival();
    assert!(handle.cancel().is_none());
    gate.open();
    assert_eq!(joined(handle), 7);
}

#[test]
fn a_handle_that_is_dropped_takes_its_work_with_it() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder(&registry), 1);
    let (tell, told) = mpsc::channel();
    drop(workers.submit(move |_| tell.send(7).unwrap()).unwrap());
    assert_eq!(told.recv_timeout(PATIENCE), Ok(7));
}

/// What the caller asked for, with `?` alone, in both of the customary errors.
#[test]
fn errors_are_carried_by_a_question_mark_and_say_what_happened() {
    fn sales(workers: &Workers<Session>) -> anyhow::Result<u8> {
        Ok(workers.submit(|_| -> u8 { panic!("no such table: sales") })?.join()?)
    }
    fn boxed(workers: &Workers<Session>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        workers.submit(|_| ())?.join()?;
        workers.keyed("key".to_owned()).close()?.join()?;
        let event_loop = sessile::EventLoop::new();
        event_loop.handle().call_soon_threadsafe(|| ())?;
        drop(event_loop.handle().call(|| 7)?);
        Ok(())
    }
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder(&registry), 1);
    let error = sales(&workers).unwrap_err();
    assert_eq!(error.to_string(), "the work panicked: no such table: sales");
    assert!(format!("{error:?}").contains("no such table: sales"), "{error:?}");
    boxed(&workers).unwrap();

    let numbered = workers.submit(|_| std::panic::panic_any(7)).unwrap().join().unwrap_err();
    assert_eq!(numbered.to_string(), "the work panicked");

    stage.on_close(support::first(|| ())).on_create(support::fail("no kernel"));
    workers.pool().clear();
    let error = workers.submit(|_| ()).unwrap().join().unwrap_err();
    let told = format!("{error:?}");
    assert!(told.contains("NoInstance") && told.contains("no kernel"), "{told}");
    assert!(workers.shutdown(PATIENCE).is_clean());
    let refused = workers.submit(|_| ()).unwrap_err();
    assert_eq!(refused.to_string(), "the owner takes no more work");
    assert_eq!(format!("{refused:?}"), "PostError::Closed(..)");
}

/// A future polled once, by nobody in particular.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[test]
fn threads_and_tasks_that_wait_all_get_room() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let (workers, gate) = full(&stage, &registry);
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = |who: usize| {
        let order = Arc::clone(&order);
        move |_: &mut Session| order.lock().unwrap().push(who)
    };
    thread::scope(|s| {
        let mut threads = Vec::new();
        let mut tasks = Vec::new();
        for who in 0..6 {
            let (workers, work) = (&workers, note(who));
            if who % 2 == 0 {
                threads.push(s.spawn(move || joined(workers.submit(work).unwrap())));
            } else {
                let mut submits = Box::pin(workers.submit_async(work));
                assert!(poll_once(submits.as_mut()).is_pending());
                tasks.push(submits);
            }
            support::poll_until("it is in line", || workers.status().waiting == who + 1);
        }
        gate.open();
        for submits in tasks {
            joined(support::block_on(submits).unwrap().unwrap());
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    // Places are given in the order of asking; who has one takes it when it runs next, so the works may
    // come in another.
    let mut order = order.lock().unwrap().clone();
    order.sort_unstable();
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_submission_that_is_dropped_takes_no_room_and_leaves_no_hole() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let (workers, gate) = full(&stage, &registry);
    let mut waits: Vec<_> = (0..3).map(|_| Box::pin(workers.submit_async(|_| ()))).collect();
    for submits in &mut waits {
        assert!(poll_once(submits.as_mut()).is_pending());
    }
    drop(waits.remove(0)); // in line
    assert_eq!(workers.status().waiting, 2);
    gate.open();
    support::poll_until("they have room", || workers.status().waiting == 0);
    drop(waits); // with a place each, which they give back
    for _ in 0..2 {
        let gate = Gate::new();
        let holds = gate.clone();
        let held = workers.submit(move |_| holds.pass()).unwrap();
        gate.wait_for_arrival();
        let fit: Vec<_> = (0..2).map(|_| workers.try_submit(|_| ()).unwrap()).collect();
        assert!(workers.try_submit(|_| ()).is_err_and(|refused| refused.is_full()));
        gate.open();
        fit.into_iter().for_each(joined);
        joined(held);
    }
}

/// It compiles: a submission of work for instances that must not leave their thread may itself.
#[test]
fn a_submission_may_cross_threads_whatever_the_instance_is() {
    fn send<F: Send>(future: F) -> F {
        future
    }
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder_local(&registry), 1);
    let keyed = workers.keyed("alice".to_owned());
    let one = send(workers.submit_async(|_: &mut Stay| 7));
    let other = send(keyed.submit_async(|_: &mut Stay| 8));
    assert_eq!(joined(support::block_on(one).unwrap().unwrap()), 7);
    assert_eq!(joined(support::block_on(other).unwrap().unwrap()), 8);
}

#[test]
fn an_interrupt_stops_the_work_it_is_for_and_no_other() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let (asked, opens) = (Gate::new(), gate.clone());
    let asks = asked.clone();
    stage.on_interrupt(support::first(move || {
        opens.open();
        asks.pass();
    }));
    let workers = workers(stage.builder(&registry), 1);
    let holds = gate.clone();
    let running = workers.submit(move |_| holds.pass()).unwrap();
    gate.wait_for_arrival();
    let next = workers.submit(|session| session.touch()).unwrap();
    let cancelled = workers.submit(|_| ()).unwrap();
    assert!(cancelled.interrupt(), "queued, it is cancelled");
    assert!(cancelled.join().unwrap_err().is_cancelled());
    thread::scope(|s| {
        let interrupts = s.spawn(|| running.interrupt());
        asked.wait_for_arrival();
        // The work ends; but the worker begins nothing while the interrupt is being called.
        support::poll_until("it has ended", || running.is_finished());
        for _ in 0..100 {
            thread::yield_now();
            assert!(!next.is_finished());
        }
        asked.open();
        assert!(interrupts.join().unwrap());
    });
    joined(next);
    assert!(!running.interrupt(), "it has ended");
    joined(running);
    assert_eq!(stage.count(What::Interrupt), 1);
}

#[test]
fn a_handle_that_cancels_on_drop_stops_queued_and_running_work() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let opens = gate.clone();
    stage.on_interrupt(support::first(move || opens.open()));
    let workers = workers(stage.builder(&registry), 1);
    let (holds, ran) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let running = workers.submit(move |_| holds.pass()).unwrap().cancel_on_drop();
    gate.wait_for_arrival();
    let counts = Arc::clone(&ran);
    let queued = workers.submit(move |_| counts.fetch_add(1, Ordering::SeqCst)).unwrap();
    drop(queued.cancel_on_drop());
    let kept = workers.submit(|_| 7).unwrap().cancel_on_drop();
    drop(running); // or the worker would be held for ever
    assert_eq!(support::block_on(kept).unwrap().unwrap(), 7);
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    assert_eq!(stage.count(What::Interrupt), 1);
}

#[test]
fn the_status_tells_what_is_queued_and_what_runs() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let workers = Workers::builder(stage.builder(&registry)).threads(2).build().unwrap();
    let alice = workers.keyed("alice".to_owned());
    let mut all = Vec::new();
    let holds = gate.clone();
    all.push(alice.submit(move |_| holds.pass()).unwrap());
    gate.wait_for_arrival();
    all.extend((0..3).map(|_| alice.submit(|_| ()).unwrap()));
    thread::sleep(Duration::from_millis(20)); // it is told how long the work has been running
    let status = workers.status();
    assert_eq!((status.threads, status.max_threads), (2, 2));
    assert_eq!((status.queued, status.running, status.is_closed), (3, 1, false));
    let worker = status.workers.iter().find(|one| one.number == alice.worker()).unwrap();
    assert!(worker.running_ms.is_some_and(|ms| ms >= 10), "{worker:?}");
    assert_eq!((worker.key.as_deref(), worker.queued, worker.keys), (Some("alice"), 3, 1));
    let key = &status.keys[0];
    assert_eq!((&*key.key, key.queued, key.is_running), ("alice", 3, true));
    // The registry has it too, as data and, what is live, as a table.
    let snapshot = registry.snapshot();
    let json = serde_json::to_string(&snapshot).unwrap();
    let back: sessile::registry::Snapshot = serde_json::from_str(&json).unwrap();
    assert_eq!(back.pools[0].workers.as_ref().unwrap().keys, status.keys);
    let table = snapshot.to_string();
    assert!(table.lines().next().unwrap().contains("KEY") && table.contains("alice"), "{table}");
    gate.open();
    all.into_iter().for_each(joined);
    support::poll_until("nothing runs", || workers.status().running == 0);
    assert!(workers.status().keys.is_empty());
}

#[test]
fn threads_come_on_demand_and_end_when_they_are_idle() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (begins, ends) = (Arc::clone(&begun), Arc::clone(&ended));
    let workers = Workers::builder(stage.builder(&registry))
        .threads(1..=100)
        .stack_size(64 * 1024)
        .keep_threads_for(Duration::from_millis(20))
        .start_handler(move |_| _ = begins.fetch_add(1, Ordering::SeqCst))
        .exit_handler(move |_| _ = ends.fetch_add(1, Ordering::SeqCst))
        .build()
        .unwrap();
    assert_eq!((workers.threads(), workers.status().threads), (100, 1));
    // All at once: none of them comes to an end before the last has begun.
    let all: Vec<_> = (0..100)
        .map(|_| {
            let holds = gate.clone();
            workers.submit(move |_| holds.pass()).unwrap()
        })
        .collect();
    support::poll_until("all run", || workers.status().running == 100);
    assert_eq!(begun.load(Ordering::SeqCst), 100);
    gate.open();
    all.into_iter().for_each(joined);
    support::poll_until("they have ended", || ended.load(Ordering::SeqCst) == 99);
    assert_eq!(workers.status().threads, 1);
    support::poll_until("theirs are closed", || registry.snapshot().instances.len() <= 1);
    // And they come again.
    let gate = Gate::new();
    let all: Vec<_> = (0..10)
        .map(|_| {
            let holds = gate.clone();
            workers.submit(move |_| holds.pass()).unwrap()
        })
        .collect();
    support::poll_until("all run", || workers.status().running == 10);
    gate.open();
    all.into_iter().for_each(joined);
    assert!(workers.shutdown(PATIENCE).is_clean());
    assert_eq!(begun.load(Ordering::SeqCst), ended.load(Ordering::SeqCst));
}

#[test]
fn without_a_thread_kept_the_first_work_starts_one() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = Workers::builder(stage.builder_local(&registry))
        .threads(..=2)
        .keep_threads_for(Duration::from_millis(1))
        .build()
        .unwrap();
    for round in 0..20 {
        assert_eq!(joined(workers.submit(move |_| round).unwrap()), round);
        assert_eq!(joined(workers.submit_to(1, move |_| round).unwrap()), round);
        if round % 4 == 0 {
            support::poll_until("none is left", || workers.status().threads == 0);
        }
    }
    // A key's instance keeps its thread.
    let alice = workers.keyed("alice".to_owned());
    let id = joined(alice.submit(Stay::touch).unwrap());
    thread::sleep(Duration::from_millis(10)); // longer than an idle thread is kept
    assert_eq!(joined(alice.submit(Stay::touch).unwrap()), id);
    assert!(workers.shutdown(PATIENCE).is_clean());
    stage.assert_each_closed_once();
}

#[test]
fn who_has_the_result_in_hand_does_not_find_the_work_running() {
    let workers = Workers::builder(sessile::Pool::builder(sessile::from_fn(|_| 0_u64)))
        .threads(2)
        .build()
        .unwrap();
    for n in 0..2_000 {
        if n % 2 == 0 {
            workers.submit(|n| *n += 1).unwrap().join().unwrap();
        } else {
            let key = workers.keyed("ann".to_owned());
            key.submit(|n| *n += 1).unwrap().join().unwrap();
        }
        let status = workers.status();
        assert_eq!(status.running, 0, "{status:?}");
        assert!(status.keys.iter().all(|key| !key.is_running), "{status:?}");
    }
}
