//! Counts what the whole process holds, so it shares the process with no other test.

#![cfg(all(feature = "ws", target_os = "linux"))]

#[path = "support/websocket_peer.rs"]
mod peer;
mod support;

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use peer::Server;
use sessile::Manager;
use sessile::manager::CloseReason;
use sessile::session::ConnectOptions;
use sessile::session::websocket::WebSocketManager;
use support::{TOO_LONG, poll_until};

const SOON: Duration = Duration::from_millis(20);

fn count(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count()
}

#[test]
fn nothing_is_left_after_100_sessions() {
    let server = Server::new(|peer| match peer.n % 8 {
        0..3 => peer.echo(),
        3 => peer.ignore(),
        4 => peer.hang_up(),
        5 => peer.raw(b"nonsense that is no frame at all, and long enough for one"),
        _ => peer.ignore(),
    });
    let builder = || {
        WebSocketManager::builder(server.url())
            .close_timeout(TOO_LONG)
            .request_timeout(TOO_LONG)
            .connect_timeout(TOO_LONG)
    };
    let manager = builder().build().unwrap();
    let hasty = builder().close_timeout(SOON).build().unwrap();
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.address();
    let failing = [
        WebSocketManager::builder(format!("ws://{}/", deaf.local_addr().unwrap()))
            .connect_timeout(SOON),
        WebSocketManager::builder(
            ConnectOptions::new("ws://a.example/").resolver(move |_, _| Err(not_there())),
        ),
        WebSocketManager::builder("ws://sessile.invalid/"),
    ]
    .map(|builder| builder.build().unwrap());
    let options = ConnectOptions::new(server.url()).resolver(move |_, _| Ok(vec![address]));
    let named = WebSocketManager::builder(options)
        .close_timeout(TOO_LONG)
        .request_timeout(TOO_LONG)
        .build()
        .expect("a name in the URL or not");

    let threads = count("task");
    let cycle = |n: usize| {
        let with = if n % 8 == 7 { &hasty } else { [&manager, &named][n % 2] };
        let mut session = with.connect().unwrap();
        let interrupt = manager.interrupt(&session).unwrap();
        match n % 8 {
            0 => manager.close(session, CloseReason::ClosedHere).unwrap(),
            1 => drop(session),
            2 => {
                session.request("m", ()).unwrap();
                let _given_up = session.begin("m", ()).unwrap();
            }
            3 => assert!(session.request_timeout("m", (), SOON).unwrap_err().is_timeout()),
            4 | 5 => drop(session.request("m", ()).unwrap_err()),
            6 => {
                let waiting = thread::spawn(move || session.request("m", ()).unwrap_err());
                interrupt.interrupt();
                assert!(waiting.join().unwrap().is_closed());
            }
            _ => drop(manager.close(session, CloseReason::ClosedHere).unwrap_err()),
        }
        interrupt.interrupt(); // it may be called later, and keeps nothing open
        drop(failing[n % 3].connect().unwrap_err());
        server.wait_until("the server is done with it", |log| log.ended == log.connections);
        drop(interrupt);
    };
    // `.invalid`, and whatever else the system's look-up opens once and for all.
    (0..8).for_each(cycle);
    let descriptors = count("fd");
    (8..104).for_each(cycle);
    // One that was joined may be listed for another moment.
    poll_until("the threads are gone", || count("task") <= threads);
    // The deaf listener's queue holds connections that it has not accepted: none is a descriptor.
    assert_eq!(count("fd"), descriptors);
}

fn not_there() -> std::io::Error {
    std::io::Error::other("no such host")
}
