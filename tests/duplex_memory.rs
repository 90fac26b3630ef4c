//! What calls and requests leave in memory when they are over. By itself: bytes are counted.

#![cfg(all(feature = "duplex", unix))]

#[path = "support/allocated.rs"]
mod allocated;
#[path = "support/peer.rs"]
mod peer;
mod support;

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::thread;

use allocated::allocated;
use futures_core::Stream;
use peer::{Apart, pair, pair_with};
use serde_json::json;
use sessile::session::duplex::Request;
use support::{FOR_EVER, poll_until};

/// One test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const MANY: usize = 5000;

/// Does it many times, and then as often once more: of the second time, less is left than a pointer for
/// each.
#[track_caller]
fn leaves_nothing(mut many_times: impl FnMut()) {
    many_times();
    let before = allocated();
    many_times();
    poll_until("its memory is free", || allocated() < before + MANY * size_of::<usize>());
}

#[test]
fn a_call_that_was_awaited_and_dropped_stays_until_its_time_is_over() {
    let _alone = alone();
    let (session, mut peer, _place) = pair(|builder| builder.request_timeout(FOR_EVER));
    let hears = thread::spawn(move || while peer.hear().is_some() {});
    leaves_nothing(|| {
        for _ in 0..MANY {
            let mut call = pin!(session.invoker().invoke("m", ()).unwrap());
            let polled = call.as_mut().poll_next(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
        }
        let stats = || session.stats();
        poll_until("all are called off", || (stats().in_flight, stats().queued_bytes) == (0, 0));
    });
    drop(session);
    hears.join().unwrap();
}

#[test]
fn a_request_that_was_held_and_let_go_stays_until_the_limit() {
    let _alone = alone();
    let (session, mut peer, _place) = pair_with(Apart, |builder| {
        builder.end_timeout(FOR_EVER).on_request(|request: Request| {
            let invoker = request.invoker(); // it goes after the answer
            request.respond(&1).unwrap();
            drop(invoker);
        })
    });
    leaves_nothing(|| {
        for n in 0..MANY {
            peer.say(&json!({"ask": n.to_string(), "method": "m"}));
            assert_eq!(peer.hear().unwrap()["item"], 1);
            assert_eq!(peer.hear().unwrap()["end"], n.to_string());
        }
    });
    drop(session);
}
