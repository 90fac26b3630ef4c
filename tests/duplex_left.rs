//! What a session leaves behind when it closes. By itself: threads and descriptors are counted.

#![cfg(all(feature = "duplex", unix))]

#[path = "support/peer.rs"]
mod peer;
mod support;

use std::net::TcpListener;
use std::sync::mpsc;

use peer::pair;
use sessile::session::JsonRpc;
use sessile::session::duplex::{Server, Session, Tcp};
use support::{PATIENCE, poll_until, promptly};

/// One test, for another beside it would have threads of its own.
#[test]
fn a_session_leaves_nothing_behind() {
    closed_it_leaves_no_caller_waiting();
    down_it_gives_back_its_thread_and_says_why();
    a_servers_clients_come_and_go_and_leave_nothing();
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

/// Two hundred, one after the other and all at once.
fn a_servers_clients_come_and_go_and_leave_nothing() {
    let before = peer::left();
    let server = Server::builder(|_| {
        Session::builder(JsonRpc::new()).on_request(|request| drop(request.respond(&1)))
    });
    let server = server.listen(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let address = server.local_addr().unwrap();
    let comes = || {
        let session = Session::builder(JsonRpc::new()).connect(Tcp::new(address)).unwrap();
        assert_eq!(session.invoker().call::<u64>("m", ()).unwrap(), 1);
        session
    };
    for _ in 0..100 {
        drop(comes());
    }
    drop(Vec::from_iter((0..100).map(|_| comes())));
    poll_until("all are gone", || server.stats().clients == 0);
    assert_eq!(server.stats().accepted, 200);
    assert!(server.close(PATIENCE).is_complete());
    drop(server);
    let (threads, fds) = before;
    poll_until("threads and descriptors are given back", || {
        let (threads_now, fds_now) = peer::left();
        threads_now <= threads && fds_now <= fds
    });
}
