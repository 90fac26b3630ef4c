//! What a session leaves behind when it closes. By itself: threads and descriptors are counted.

#![cfg(all(feature = "duplex", unix))]

#[path = "support/peer.rs"]
mod peer;
mod support;

use std::sync::mpsc;

use peer::pair;
use support::{PATIENCE, poll_until, promptly};

/// One test, for another beside it would have threads of its own.
#[test]
fn a_session_leaves_nothing_behind() {
    closed_it_leaves_no_caller_waiting();
    down_it_gives_back_its_thread_and_says_why();
}

fn closed_it_leaves_no_caller_waiting() {
    promptly("it closes", || {
        let before = peer::left();
        let (session, mut peer, place) = pair(|builder| builder);
        let call = session.invoker().invoke("m", ()).unwrap();
        let told = session.invoker();
        peer.asked();
        told.notify("last words", ()).unwrap();
        assert!(session.close(PATIENCE));
        assert!(call.answer().unwrap_err().is_closed());
        assert!(told.invoke("m", ()).unwrap_err().is_closed());
        assert_eq!(peer.hear().unwrap()["method"], "last words");
        assert!(peer.hear().is_none());
        drop((session, peer, place)); // the invoker lives on: what it keeps is memory
        poll_until("nothing is left", || peer::left() == before);
        assert!(told.call::<u64>("m", &()).unwrap_err().is_closed());
    });
}

/// As a server has it that keeps the sessions of clients who come and go.
fn down_it_gives_back_its_thread_and_says_why() {
    let (told, why) = mpsc::channel();
    let before = peer::left();
    let kept: Vec<_> = (0..20)
        .map(|_| {
            let told = told.clone();
            let (session, peer, place) =
                pair(|builder| builder.on_close(move |error| told.send(error.is_lost()).unwrap()));
            peer.die();
            drop(place);
            session
        })
        .collect();
    for _ in &kept {
        assert!(why.recv_timeout(PATIENCE).unwrap(), "it was lost");
    }
    // Fewer, if a thread of the test's own was still ending when they were counted.
    let (threads, fds) = before;
    poll_until("threads and descriptors are given back", || {
        let (threads_now, fds_now) = peer::left();
        threads_now <= threads && fds_now <= fds
    });
    assert!(kept.iter().all(|session| session.wait_closed(PATIENCE)));
    drop((kept, told));
    assert!(why.recv_timeout(PATIENCE).is_err(), "each is told once");
}
