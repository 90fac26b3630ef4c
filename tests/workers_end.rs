//! The end of workers: work lost, threads that stay, waits for oneself, stragglers unreported.

mod support;

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use sessile::manager::CloseReason;
use sessile::task::JoinHandle;
use sessile::workers::OnClose;
use sessile::{PoolBuilder, Registry, Workers};
use support::{FOR_EVER, Gate, PATIENCE, Session, Stage, What, promptly};

fn workers<T>(pool: PoolBuilder<T>, threads: usize) -> Workers<T> {
    Workers::builder(pool).threads(threads).drop_timeout(PATIENCE).build().unwrap()
}

#[track_caller]
fn joined<R, B>(handle: JoinHandle<R, B>) -> R {
    let Ok(joined) = handle.join_timeout(PATIENCE) else { panic!("waited in vain") };
    joined.unwrap_or_else(|error| panic!("{error}"))
}

/// Both workers are inside the gate, and work is queued behind them.
fn busy(
    workers: &Workers<Session>,
    gate: &Gate,
) -> Vec<JoinHandle<usize, sessile::workers::Work<Session, usize>>> {
    let (tell, told) = mpsc::channel();
    for worker in 0..workers.threads() {
        let (holds, tell) = (gate.clone(), tell.clone());
        let hold = move |_: &mut Session| {
            tell.send(()).unwrap();
            holds.pass();
        };
        workers.submit_to(worker, hold).unwrap().detach();
        told.recv_timeout(PATIENCE).unwrap();
    }
    let any = (0..4).map(|n| workers.submit(move |_| n).unwrap());
    let named = (4..6).map(|n| workers.submit_to(0, move |_| n).unwrap());
    let keyed = (6..8).map(|n| workers.keyed(n.to_string()).submit(move |_| n).unwrap());
    any.chain(named).chain(keyed).collect()
}

#[test]
fn a_shutdown_loses_what_is_queued() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let workers = Arc::new(workers(stage.builder(&registry), 2));
    let queued = busy(&workers, &gate);
    let shuts = Arc::clone(&workers);
    let report = thread::spawn(move || shuts.shutdown(PATIENCE));
    support::poll_until("it takes no more", || {
        workers.try_submit(|_| ()).is_err_and(|refused| refused.is_closed())
    });
    gate.open();
    let report = promptly("shutdown", move || report.join().unwrap());
    assert!(report.is_clean(), "{report:?}");
    for (n, queued) in queued.into_iter().enumerate() {
        assert_eq!(joined(queued), n);
    }
    stage.assert_each_closed_once();
    assert!(stage.notes(What::Close).iter().all(|close| close.thread != thread::current().id()));
    assert!(registry.snapshot().instances.is_empty());
    assert!(workers.shutdown(FOR_EVER).is_clean(), "once more does no harm, and does not wait");
}

#[test]
fn an_abort_runs_what_is_queued_or_keeps_it() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let workers = workers(stage.builder(&registry), 2);
    let queued = busy(&workers, &gate);
    let report = workers.abort(Duration::ZERO);
    let mut stragglers = report.stragglers.clone();
    stragglers.sort();
    assert_eq!(stragglers, ["worker-0", "worker-1"]);
    assert!(!report.is_clean());
    for (n, queued) in queued.into_iter().enumerate() {
        assert!(queued.is_finished());
        let error = queued.join().unwrap_err();
        assert!(error.is_cancelled());
        let body = error.into_body().expect("the work comes back");
        let pool = stage.pool(&Registry::new());
        assert_eq!(pool.with(|session| body(session)).unwrap(), n);
    }
    gate.open();
    let report = workers.shutdown(PATIENCE);
    assert!(report.is_clean(), "they have ended now: {report:?}");
    assert!(registry.snapshot().instances.is_empty());
}

/// A straggler is asked by its interrupt handle half-way, and reported if it does not listen.
#[test]
fn a_straggler_is_not_asked_to_stop() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let opens = gate.clone();
    stage.on_interrupt(support::first(move || opens.open()));
    let workers = workers(stage.builder(&registry), 1);
    let holds = gate.clone();
    let stuck = workers.submit(move |_| holds.pass()).unwrap();
    gate.wait_for_arrival();
    let behind = workers.submit(|_| 7).unwrap();
    let begun = Instant::now();
    let report = workers.shutdown(PATIENCE.min(Duration::from_millis(200)) * 2);
    assert!(begun.elapsed() >= Duration::from_millis(200), "not before half of the time");
    assert!(report.is_clean(), "{report:?}");
    joined(stuck);
    assert_eq!(joined(behind), 7, "the queue is drained in the second half");
    assert_eq!(stage.count(What::Interrupt), 1);
}

#[test]
fn an_abort_waits_before_it_asks() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let opens = gate.clone();
    stage.on_interrupt(support::first(move || opens.open()));
    let workers = workers(stage.builder(&registry), 1);
    let holds = gate.clone();
    let keyed = workers.keyed("alice".to_owned());
    let stuck = keyed.submit(move |_| holds.pass()).unwrap();
    gate.wait_for_arrival();
    let report = promptly("abort", move || workers.abort(FOR_EVER));
    assert!(report.is_clean(), "{report:?}");
    joined(stuck);
}

#[test]
fn a_straggler_that_does_not_listen_goes_unreported_or_is_waited_for_twice() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let pool = stage.builder(&registry);
    let workers =
        Workers::builder(pool).threads(2).name("mule").drop_timeout(FOR_EVER).build().unwrap();
    let holds = gate.clone();
    workers.submit_to(1, move |_| holds.pass()).unwrap().detach();
    gate.wait_for_arrival();
    let behind = workers.submit_to(1, |_| 7).unwrap();
    let shut = || workers.shutdown(Duration::from_millis(1));
    support::poll_until("the other one has ended", || shut().stragglers == ["mule-1"]);
    for _ in 0..2 {
        let report = shut();
        assert_eq!(report.stragglers, ["mule-1"]);
        assert_eq!(report.instances.still_open.len(), 1);
    }
    assert!(behind.join().unwrap_err().into_body().is_some(), "handed back at the deadline");
    promptly("drop", move || drop(workers)); // it has had its time
    gate.open();
    stage.wait_for(What::Close, 1);
}

/// Two wait for the end at once. The one whose time is over first is to know who is late as well.
#[test]
fn of_two_who_shut_down_one_misses_the_straggler() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let asked = Gate::new();
    let asks = asked.clone();
    stage.on_interrupt(support::first(move || asks.pass()));
    let workers = Arc::new(workers(stage.builder(&registry), 1));
    let holds = gate.clone();
    workers.submit(move |_| holds.pass()).unwrap().detach();
    gate.wait_for_arrival();
    let aborts = Arc::clone(&workers);
    let aborts = thread::spawn(move || aborts.abort(PATIENCE));
    asked.wait_for_arrival(); // from here on the first one waits, without end in sight
    let report = workers.shutdown(Duration::ZERO);
    assert_eq!(report.stragglers, ["worker-0"]);
    asked.open();
    gate.open();
    let report = promptly("abort", move || aborts.join().unwrap());
    assert!(report.is_clean(), "{report:?}");
}

/// When they return, the threads are gone from the system, their thread-locals with them.
#[test]
fn shutdown_and_abort_leave_threads_behind() {
    for abort in [false, true] {
        let (stage, registry) = (Stage::new(), Registry::new());
        let workers = workers(stage.builder(&registry), 3);
        let os_thread = |_: &mut Session| std::fs::read_link("/proc/thread-self").unwrap();
        let ids: Vec<_> =
            workers.broadcast(os_thread).into_iter().map(|one| joined(one.unwrap())).collect();
        let report = if abort { workers.abort(PATIENCE) } else { workers.shutdown(PATIENCE) };
        assert!(report.is_clean(), "{report:?}");
        for id in ids {
            let gone = std::path::Path::new("/proc").join(id);
            support::poll_until("the thread is gone", || !gone.exists());
        }
        drop(workers);
    }
}

#[test]
fn a_drop_waits_longer_than_it_was_told_or_does_not_ask() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    stage.on_interrupt(support::first(|| ()));
    let pool = stage.builder(&registry);
    let workers =
        Workers::builder(pool).threads(1).drop_timeout(Duration::from_millis(20)).build().unwrap();
    let holds = gate.clone();
    workers.submit(move |_| holds.pass()).unwrap().detach();
    gate.wait_for_arrival();
    let behind = workers.submit(|_| 7).unwrap();
    promptly("drop", move || drop(workers));
    assert_ne!(stage.count(What::Interrupt), 0);
    assert!(behind.join().unwrap_err().into_body().is_some(), "handed back at the deadline");
    gate.open();
    stage.wait_for(What::Close, 1);
}

#[test]
fn a_drop_leaves_work_or_threads_behind() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder(&registry), 2);
    let ids: Vec<_> = (0..2)
        .map(|worker| {
            let gettid = |_: &mut Session| std::fs::read_link("/proc/thread-self").unwrap();
            joined(workers.submit_to(worker, gettid).unwrap())
        })
        .collect();
    let (tell, told) = mpsc::channel();
    for n in 0..100 {
        let tell = tell.clone();
        workers.submit(move |_| tell.send(n).unwrap()).unwrap().detach();
    }
    drop(tell);
    drop(workers);
    assert_eq!(told.try_iter().count(), 100);
    for id in ids {
        let gone = std::path::Path::new("/proc").join(id);
        support::poll_until("the thread is gone", || !gone.exists());
    }
    stage.assert_each_closed_once();
}

/// The last handle goes with a job: whoever drops it is the worker that would be waited for.
#[test]
fn a_drop_inside_a_job_hangs() {
    let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
    let workers = Arc::new(workers(stage.builder(&registry), 2));
    let (holds, last) = (gate.clone(), Arc::clone(&workers));
    let drops = workers.submit_to(0, move |session| {
        holds.pass();
        drop(last);
        session.touch()
    });
    gate.wait_for_arrival();
    let queued = [workers.submit_to(0, |_| 1).unwrap(), workers.submit_to(1, |_| 2).unwrap()];
    drop(workers);
    gate.open();
    joined(drops.unwrap());
    assert_eq!(queued.map(joined), [1, 2], "what is queued is done");
    stage.wait_for(What::Close, 2);
    support::poll_until("all is closed", || registry.snapshot().instances.is_empty());
}

#[test]
fn a_shutdown_inside_a_job_waits_for_itself() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = Arc::new(workers(stage.builder(&registry), 2));
    let inner = Arc::clone(&workers);
    let report = workers.submit_to(0, move |_| {
        let behind = inner.submit_to(0, |_| 7).unwrap();
        (inner.shutdown(FOR_EVER), behind)
    });
    let (report, behind) = joined(report.unwrap());
    assert!(report.stragglers.contains(&"worker-0".to_owned()));
    assert_eq!(joined(behind), 7);
    let inner = Arc::clone(&workers);
    assert!(promptly("shutdown", move || inner.shutdown(PATIENCE)).is_clean());
}

#[test]
fn a_shutdown_tells_of_each_close_that_has_failed() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder(&registry), 1);
    joined(workers.submit(|_| ()).unwrap());
    joined(workers.keyed("alice".to_owned()).submit(|_| ()).unwrap());
    stage.on_close(support::fail("it would not close")).on_close(support::panics("nor this"));
    let report = workers.shutdown(PATIENCE);
    assert!(report.stragglers.is_empty() && !report.is_clean());
    let said = report.to_string();
    assert!(said.starts_with("0 closed, 2 failed, 0 still open"), "{said}");
    assert!(said.contains("it would not close") && said.contains("nor this"), "{said}");
    assert_eq!(workers.pool().status().close_failed, 2);
    assert!(registry.snapshot().instances.is_empty());
}

/// Whether an instance of a worker or a key is closed by whoever has cleared the pool, by a thread of
/// the pool's own because it was idle, or by both: the workers end without it.
#[test]
fn a_shutdown_waits_for_an_instance_that_another_thread_closes() {
    for (is_idle, abort) in [(false, false), (false, true), (true, false), (true, true)] {
        let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
        stage.on_close(support::hold(&gate));
        let idle = if is_idle { Duration::from_millis(1) } else { FOR_EVER };
        let workers = Arc::new(workers(stage.builder(&registry).idle_timeout(idle), 1));
        joined(workers.keyed("alice".to_owned()).submit(|_| ()).unwrap());
        let pool = workers.pool().clone();
        let clears = (!is_idle).then(|| thread::spawn(move || pool.clear()));
        gate.wait_for_arrival();

        // It opens only when the workers have ended, and what they have left is being closed.
        let late = workers.shutdown(Duration::from_millis(1));
        support::poll_until("the worker has ended", || {
            workers.shutdown(Duration::ZERO).stragglers.is_empty()
        });
        assert_eq!(late.instances.still_open.len(), 1, "at the deadline: {late:?}");
        let waits = Arc::clone(&workers);
        let (tell, told) = mpsc::channel();
        let waits = thread::spawn(move || {
            tell.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
            if abort { waits.abort(PATIENCE) } else { waits.shutdown(PATIENCE) }
        });
        let waiter = told.recv_timeout(PATIENCE).unwrap();
        support::poll_until("it waits, or has not waited", || {
            let stat = std::path::Path::new("/proc").join(&waiter).join("stat");
            let sleeps = |stat: String| {
                stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('S'))
            };
            waits.is_finished() || std::fs::read_to_string(stat).is_ok_and(sleeps)
        });
        gate.open();
        let report = promptly("the end", move || waits.join().unwrap());
        assert!(report.is_clean() && report.instances.closed == 1, "{report:?}");
        if let Some(clears) = clears {
            promptly("clear", move || clears.join().unwrap());
        }
        stage.assert_each_closed_once();
    }
}

/// A close is foreign code, and may itself end what it belongs to.
#[test]
fn an_end_from_within_a_close_does_not_wait_for_that_close() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = Arc::new(workers(stage.builder(&registry), 1));
    let (tell, told) = mpsc::channel();
    let inner = Arc::clone(&workers);
    stage.on_close(support::first(move || {
        tell.send((inner.shutdown(FOR_EVER), inner.pool().close(FOR_EVER))).unwrap();
    }));
    joined(workers.submit(|_| ()).unwrap());
    let pool = workers.pool().clone();
    promptly("clear", move || pool.clear());
    let (report, closed) = told.recv_timeout(PATIENCE).unwrap();
    assert!(report.stragglers.is_empty(), "{report:?}");
    assert_eq!(report.instances.still_open.len(), 1, "the one that is being closed");
    assert_eq!(closed.still_open.len(), 1, "{closed}");
    assert!(workers.shutdown(PATIENCE).is_clean());
}

#[test]
fn work_after_the_end_is_taken() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder(&registry), 1);
    let _ = workers.shutdown(PATIENCE);
    assert!(workers.submit(|_| ()).unwrap_err().is_closed());
    assert!(workers.submit_to(0, |_| ()).unwrap_err().is_closed());
    assert!(workers.broadcast(|_| ()).into_iter().all(|one| one.unwrap_err().is_closed()));
    let keyed = workers.keyed("alice".to_owned());
    assert!(keyed.submit(|_| ()).unwrap_err().is_closed());
    assert!(keyed.close().unwrap_err().is_closed());
    assert!(!keyed.is_live());
}

/// Whoever closes the pool closes the workers.
#[test]
fn workers_whose_pool_is_closed_refuse_and_close_their_instances() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder_local(&registry), 2);
    for worker in 0..2 {
        joined(workers.submit_to(worker, |_| ()).unwrap());
        joined(workers.keyed(worker.to_string()).submit(|_| ()).unwrap());
    }
    let pool = workers.pool().clone();
    let report = promptly("close", move || pool.close(PATIENCE));
    assert!(report.is_clean() && report.closed == 4, "sleeping workers close theirs: {report}");
    assert!(stage.notes(What::Close).iter().all(|one| one.reason == Some(CloseReason::PoolClosed)));
    let refused = workers.submit(|_| 7).unwrap_err();
    assert!(refused.is_closed());
    let _: sessile::workers::Work<_, i32> = refused.into_inner();
    assert!(workers.keyed("new".to_owned()).submit(|_| ()).unwrap_err().is_closed());
    assert!(workers.shutdown(PATIENCE).is_clean());
}

/// What is queued when everything is ordered closed is done, or comes back, as was chosen.
#[test]
fn an_order_to_close_loses_nothing_that_is_queued() {
    for hands_back in [false, true] {
        let (stage, registry, gate) = (Stage::new(), Registry::new(), Gate::new());
        let builder = Workers::builder(stage.builder(&registry)).threads(2).drop_timeout(PATIENCE);
        let workers = match hands_back {
            false => builder.build().unwrap(),
            true => builder.on_close(OnClose::HandBack).build().unwrap(),
        };
        let queued = busy(&workers, &gate);
        let closes = registry.clone();
        let closes = thread::spawn(move || closes.close_all(PATIENCE));
        support::poll_until("it takes no more", || {
            workers.try_submit(|_| ()).is_err_and(|refused| refused.is_closed())
        });
        if hands_back {
            for queued in queued {
                let error = queued.join().unwrap_err();
                assert!(error.is_cancelled() && error.into_body().is_some());
            }
            gate.open();
        } else {
            gate.open();
            for (n, queued) in queued.into_iter().enumerate() {
                assert_eq!(joined(queued), n);
            }
        }
        let report = promptly("close_all", move || closes.join().unwrap());
        assert!(report.is_clean() && report.closed >= 2, "{report}");
        stage.assert_each_closed_once();
        assert!(registry.snapshot().instances.is_empty());
    }
}

/// A worker that orders everything closed does not wait for itself.
#[test]
fn a_close_of_the_pool_inside_a_job_does_not_wait() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder(&registry), 2);
    let all = registry.clone();
    let behind = workers.submit_to(0, |_| 7);
    let report = workers.submit_to(0, move |_| all.close_all(FOR_EVER)).unwrap();
    let report = joined(report);
    assert!(!report.still_open.is_empty(), "{report}");
    assert_eq!(joined(behind.unwrap()), 7);
    support::poll_until("all is closed", || registry.snapshot().instances.is_empty());
    assert!(workers.pool().is_closed());
}

#[test]
fn idle_workers_use_the_processor() {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = workers(stage.builder(&registry), 8);
    let stat = |_: &mut Session| std::fs::read_link("/proc/thread-self").unwrap();
    let threads: Vec<_> =
        workers.broadcast(stat).into_iter().map(|one| joined(one.unwrap())).collect();
    let ticks = || -> u64 {
        let ticks = threads.iter().map(|thread| {
            let path = std::path::Path::new("/proc").join(thread).join("stat");
            let stat = std::fs::read_to_string(path).unwrap();
            let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        });
        ticks.sum()
    };
    let before = ticks();
    thread::sleep(Duration::from_secs(1)); // the very thing: a second in which nothing happens
    assert!(ticks() - before <= 2, "{} ticks of 10 ms", ticks() - before);
}
