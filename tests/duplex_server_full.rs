//! A server in a process that has no descriptors left, and what a thousand clients cost. Alone in its
//! process, whose limits it changes.

#![cfg(all(feature = "duplex", target_os = "linux"))]
#![allow(unsafe_code)] // std cannot set the limits of a process

#[path = "support/peer.rs"]
mod peer;
mod support;

use std::net::TcpListener;
use std::sync::{Mutex, mpsc};

use peer::Peer;
use serde_json::json;
use sessile::session::JsonRpc;
use sessile::session::duplex::{Server, Session};
use socket2::{Domain, Socket, Type};
use support::{PATIENCE, poll_until};

/// The tests of this file, one after the other.
static ALONE: Mutex<()> = Mutex::new(());

/// Sets how many descriptors this process may have; `None`: as many as it ever may.
fn allow(descriptors: Option<u64>) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: valid: a whole `rlimit`, which is ours.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    limit.rlim_cur = descriptors.unwrap_or(limit.rlim_max);
    // SAFETY: as above, and only read.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

fn server() -> Server {
    let server = Server::builder(|_| {
        Session::builder(JsonRpc::new()).on_request(|request| drop(request.respond(&1)))
    });
    server.max_clients(2000).listen(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap()
}

fn is_served(peer: &mut Peer) {
    peer.say(&json!({"jsonrpc": "2.0", "id": 1, "method": "m"}));
    assert_eq!(peer.hear().unwrap()["result"], 1);
}

#[test]
fn a_server_without_descriptors_tells_of_it_and_goes_on_when_there_are_some() {
    let _alone = ALONE.lock().unwrap();
    let (told, errors) = mpsc::channel();
    let server = Server::builder(|_| {
        Session::builder(JsonRpc::new()).on_request(|request| drop(request.respond(&1)))
    })
    .on_error(move |error| drop(told.send(format!("{error:#}"))))
    .listen(TcpListener::bind("127.0.0.1:0").unwrap())
    .unwrap();
    let address = server.local_addr().unwrap();
    let sockets: Vec<_> =
        (0..8).map(|_| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()).collect();
    // None is left, whichever are free below.
    allow(Some(3));
    for socket in &sockets {
        socket.connect(&address.into()).unwrap();
    }
    let error = errors.recv_timeout(PATIENCE).unwrap();
    assert!(error.contains("cannot be accepted") && error.contains("tried again in"), "{error}");
    // It is not tried at once, and again, and again.
    assert!(errors.try_iter().count() < 8);
    assert_eq!(server.stats().accepted, 0);
    allow(None);
    for socket in sockets {
        is_served(&mut Peer::new(socket.into()));
    }
    assert_eq!(server.stats().accepted, 8);
}

/// Prints it.
#[test]
#[ignore = "it measures"]
fn what_a_thousand_clients_cost() {
    const MANY: usize = 1000;
    let _alone = ALONE.lock().unwrap();
    allow(None);
    let server = server();
    let address = server.local_addr().unwrap();
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let served = || {
        let mut peer = Peer::new(std::net::TcpStream::connect(address).unwrap());
        is_served(&mut peer);
        peer
    };
    let warm = served();
    let ((threads, fds), kib) = (peer::left(), resident());
    let begun = std::time::Instant::now();
    let mut clients: Vec<_> = (0..MANY).map(|_| served()).collect();
    let came = begun.elapsed();
    poll_until("nobody is let in any more", || peer::left().0 <= threads + MANY);
    let ((threads_now, fds_now), kib_now) = (peer::left(), resident());
    let begun = std::time::Instant::now();
    clients.iter_mut().for_each(is_served);
    let called = begun.elapsed();
    println!(
        "{MANY} clients came in {came:.2?}; each: {:.2} threads, {:.2} descriptors on our side, {} kB \
         (with the test's own end of it); {MANY} calls one after another in {called:.2?}",
        (threads_now - threads) as f64 / MANY as f64,
        (fds_now - fds - MANY) as f64 / MANY as f64,
        (kib_now - kib) / MANY,
    );
    drop((warm, clients));
    poll_until("all are gone", || server.stats().clients == 0);
}
