//! A task between the thread that runs it and the one that waits, under every interleaving that
//! `loom` can find. A wake that is lost shows as a deadlock.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use loom::thread::{self, Thread};

use super::{JoinHandle, Ran, Runner, RunsOn, task};

type Body = Box<u32>;

fn new() -> (Runner<u32, Body>, JoinHandle<u32, Body>) {
    task(Box::new(7), RunsOn::Anybody)
}

#[test]
fn a_cancel_and_a_start_do_not_both_get_the_body() {
    loom::model(|| {
        let (runner, handle) = new();
        let runs = thread::spawn(move || runner.run(|body| *body) == Ran::Returned);
        let cancelled = handle.cancel().is_some();
        assert_ne!(runs.join().unwrap(), cancelled);
        assert!(handle.is_finished());
        let joined = handle.join();
        assert_eq!(joined.is_ok(), !cancelled);
    });
}

#[test]
fn a_cancel_and_a_dropped_runner_do_not_both_have_the_body() {
    loom::model(|| {
        let (runner, handle) = new();
        let drops = thread::spawn(move || drop(runner));
        let back = handle.cancel();
        let error = handle.join().unwrap_err();
        assert!(error.is_cancelled());
        assert_ne!(back.is_some(), error.into_body().is_some());
        drops.join().unwrap();
    });
}

#[test]
fn an_end_wakes_who_joins() {
    loom::model(|| {
        let (runner, handle) = new();
        let runs = thread::spawn(move || runner.run(|body| *body));
        assert_eq!(handle.join().unwrap(), 7);
        assert_eq!(runs.join().unwrap(), Ran::Returned);
    });
}

#[test]
fn work_that_will_never_run_wakes_who_joins() {
    loom::model(|| {
        let (runner, handle) = new();
        let drops = thread::spawn(move || drop(runner));
        assert_eq!(handle.join().unwrap_err().into_body(), Some(Box::new(7)));
        drops.join().unwrap();
    });
}

/// Wakes the thread that polls.
struct Unparks(Thread);

impl Wake for Unparks {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn waker() -> Waker {
    Waker::from(Arc::new(Unparks(thread::current())))
}

/// By two wakers in turn: the latest is the one that counts.
#[test]
fn an_end_wakes_who_awaits() {
    loom::model(|| {
        let (runner, mut handle) = new();
        let runs = thread::spawn(move || runner.run(|body| *body));
        let output = loop {
            match Pin::new(&mut handle).poll(&mut Context::from_waker(&waker())) {
                Poll::Ready(output) => break output,
                Poll::Pending => thread::park(),
            }
        };
        assert_eq!(output.unwrap(), 7);
        assert_eq!(runs.join().unwrap(), Ran::Returned);
    });
}

#[test]
fn two_loops_that_run_until_the_end_are_woken() {
    fn until_the_end(handle: &JoinHandle<u32, Body>) {
        if handle.wake_at_end(&waker()) {
            while !handle.is_finished() {
                thread::park();
            }
        }
    }
    loom::model(|| {
        let (runner, handle) = new();
        let handle = Arc::new(handle);
        let lent = Arc::clone(&handle);
        let waits = thread::spawn(move || until_the_end(&lent));
        let drops = thread::spawn(move || drop(runner));
        until_the_end(&handle);
        waits.join().unwrap();
        drops.join().unwrap();
    });
}

#[test]
fn a_loop_that_runs_until_the_end_is_woken() {
    loom::model(|| {
        let (runner, handle) = new();
        let drops = thread::spawn(move || drop(runner));
        if handle.wake_at_end(&waker()) {
            while !handle.is_finished() {
                thread::park();
            }
        }
        assert!(handle.join().unwrap_err().is_cancelled());
        drops.join().unwrap();
    });
}

/// A loop that was stopped takes its waker back as the work ends; who had polled the handle keeps its own.
#[test]
fn a_loop_that_waits_no_more_takes_no_wake_from_who_awaits() {
    loom::model(|| {
        let (runner, mut handle) = new();
        let (awaits, loops) = (Waker::from(Arc::new(Unparks(thread::current()))), Waker::noop());
        let pending = Pin::new(&mut handle).poll(&mut Context::from_waker(&awaits)).is_pending();
        let waits = handle.wake_at_end(loops);
        assert!(pending && waits);
        let runs = thread::spawn(move || runner.run(|body| *body));
        handle.forget(loops);
        while !handle.is_finished() {
            thread::park();
        }
        runs.join().unwrap();
    });
}
