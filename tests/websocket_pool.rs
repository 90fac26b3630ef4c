//! WebSocket sessions in a pool: not replaced, replaced too often, not closed, or closed without end.

#![cfg(feature = "ws")]

#[path = "support/websocket_peer.rs"]
mod peer;
mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use peer::{Peer, Server};
use serde_json::json;
use sessile::event_loop::LocalHandle;
use sessile::manager::CloseReason;
use sessile::session::websocket::{WebSocketBuilder, WebSocketManager, WebSocketSession};
use sessile::task::JoinHandle;
use sessile::{EventLoop, Manager, Pool, Registry, Workers};
use support::{Events, FOR_EVER, Gate, PATIENCE, TOO_LONG, Told, Worker, promptly};

/// For limits that are to be reached.
const SOON: Duration = Duration::from_millis(100);

fn builder(server: &Server) -> WebSocketBuilder {
    WebSocketManager::builder(server.url())
        .request_timeout(TOO_LONG)
        .connect_timeout(TOO_LONG)
        .close_timeout(TOO_LONG)
}

fn pool(manager: WebSocketManager) -> sessile::PoolBuilder<WebSocketSession> {
    Pool::builder(manager).registry(&Registry::new())
}

#[track_caller]
fn joined<R, B>(handle: JoinHandle<R, B>) -> R {
    let Ok(joined) = handle.join_timeout(PATIENCE) else { panic!("waited in vain") };
    joined.unwrap_or_else(|error| panic!("{error}"))
}

/// Which connection the server says this is.
fn connection(session: &mut WebSocketSession) -> usize {
    session.call("which", ()).unwrap()
}

/// Answers each request with the number of its connection.
fn which(peer: &mut Peer) {
    while let Some(request) = peer.receive() {
        peer.answer(&request, json!(peer.n));
    }
}

#[test]
fn a_silent_peer_is_asked_again_or_its_successor_is_sought_without_pause() {
    let server = Server::raw(|mut tcp, n| match n {
        // Silent; then out of order; then well.
        0 => {
            let mut socket = tungstenite::accept(tcp).unwrap();
            while socket.get_mut().read(&mut [0; 512]).is_ok_and(|got| got > 0) {}
        }
        1 => {
            let _ = tcp.read(&mut [0; 4096]).unwrap();
            tcp.write_all(b"HTTP/1.1 503 Later\r\n\r\n").unwrap();
        }
        _ => {
            let mut socket = tungstenite::accept(tcp).unwrap();
            while let Ok(message) = socket.read() {
                if message.is_text() {
                    socket.send(r#"{"id":1,"result":"well"}"#.into()).unwrap();
                }
            }
        }
    });
    let events = Events::new();
    let manager = builder(&server).build().unwrap();
    let wait = 10 * SOON; // so that one asks again before it is over
    let sessions =
        pool(manager).on_event(events.handler()).create_backoff(wait, wait).build().unwrap();
    let ask = |timeout| sessions.with(|session| session.request_timeout("m", (), timeout));
    assert!(ask(SOON).unwrap().unwrap_err().is_timeout());
    assert!(events.all().iter().any(|(_, told)| *told == Told::Closed(CloseReason::Broken)));
    let error = ask(TOO_LONG).unwrap_err();
    assert!(error.is_create_failed());
    assert!(format!("{:#}", anyhow::Error::from(error)).contains("503"));
    let mut refused = 0;
    let answer = loop {
        match ask(TOO_LONG) {
            Err(error) => {
                assert!(error.is_backing_off(), "{error}");
                refused += 1;
                std::thread::park_timeout(error.retry_after().unwrap());
            }
            Ok(answer) => break answer,
        }
    };
    assert_eq!(answer.unwrap().as_str(), "\"well\"");
    assert!(refused > 0);
    assert_eq!(server.connections(), 3, "none while it backed off");
    sessions.close_here().unwrap();
}

#[test]
fn a_session_that_the_peer_left_is_valid() {
    let gate = Gate::new();
    let server = Server::new({
        let gate = gate.clone();
        move |peer| {
            peer.expect("last");
            peer.hang_up();
            gate.pass();
        }
    });
    let manager = builder(&server).build().unwrap();
    let mut session = manager.connect().unwrap();
    session.notify("last", ()).unwrap();
    gate.wait_for_arrival();
    assert!(!manager.has_broken(&mut session), "nobody has read");
    manager.is_valid(&mut session).unwrap_err();
    assert!(manager.has_broken(&mut session));
    gate.open();
    manager.close(session, CloseReason::Invalid).expect("there is nobody to say goodbye to");
    let server = Server::echo();
    let manager = builder(&server).build().unwrap();
    let mut session = manager.connect().unwrap();
    manager.is_valid(&mut session).unwrap();
    assert!(!manager.has_broken(&mut session));
}

#[test]
fn threads_share_a_session_or_end_without_a_goodbye() {
    let server = Server::new(which);
    let sessions = pool(builder(&server).build().unwrap()).build().unwrap();
    let workers: Vec<_> = (0..3).map(|n| Worker::new(&format!("worker {n}"))).collect();
    let mut seen = HashSet::new();
    for worker in &workers {
        let ask = |sessions: &Pool<WebSocketSession>| {
            let sessions = sessions.clone();
            worker.run(move || sessions.with(connection).unwrap())
        };
        let first = ask(&sessions);
        assert_eq!(ask(&sessions), first, "it keeps its session");
        assert!(seen.insert(first), "and nobody else has it");
    }
    workers.into_iter().for_each(Worker::end);
    // `end` joins: the handshakes are over.
    assert!(sessions.wait_closed(Duration::ZERO));
    server.wait_until("each has said goodbye", |log| log.goodbyes == 3);
}

#[test]
fn a_goodbye_that_is_not_answered_holds_the_thread() {
    let server = Server::new(Peer::ignore);
    let events = Events::new();
    let manager = builder(&server).close_timeout(SOON).build().unwrap();
    let sessions = pool(manager).on_event(events.handler()).build().unwrap();
    let worker = Worker::new("worker");
    worker.run({
        let sessions = sessions.clone();
        move || sessions.with(|session| session.notify("m", ()).unwrap()).unwrap()
    });
    worker.end();
    let failed = |told: &Told| matches!(told, Told::CloseFailed(CloseReason::ThreadExit, _));
    assert!(events.all().iter().any(|(_, told)| failed(told)), "{:?}", events.all());
    // Nor does a peer that talks on and on.
    let server = Server::new(|peer| {
        let event = peer::frame(1, 16, br#"{"method":"tic"}"#).repeat(1000);
        while peer.socket.get_mut().write_all(&event).is_ok() {}
    });
    let session = builder(&server).close_timeout(SOON).build().unwrap().connect().unwrap();
    promptly("a close", || drop(session.close()));
    // Nor one that answers and does not hang up.
    let server = Server::new(|peer| {
        while !matches!(peer.socket.read(), Ok(tungstenite::Message::Close(_))) {}
        peer.raw(&peer::frame(8, 2, &1000_u16.to_be_bytes()));
        peer.ignore();
    });
    let session = builder(&server).build().unwrap().connect().unwrap();
    promptly("a close", || session.close().unwrap());
}

#[test]
fn a_session_that_is_dropped_leaves_without_a_goodbye() {
    let server = Server::echo();
    drop(builder(&server).build().unwrap().connect().unwrap());
    server.wait_until("a goodbye", |log| log.goodbyes == 1);
}

#[test]
fn a_straggler_cannot_be_stopped_from_afar() {
    let server = Server::new(Peer::ignore);
    let manager = builder(&server).keep_alive_interval(None).build().unwrap();
    let sessions = pool(manager).build().unwrap();
    let worker = Worker::new("straggler");
    let asked = worker.start({
        let sessions = sessions.clone();
        move || {
            sessions
                .with(|session| {
                    let error = session.request_timeout("m", (), FOR_EVER).unwrap_err();
                    assert!(session.is_closed());
                    assert!(session.request("m", ()).unwrap_err().is_closed());
                    error
                })
                .unwrap()
        }
    });
    server.wait_until("it is connected", |log| log.connections == 1);
    poll_for_use(&sessions);
    let report = sessions.close(Duration::from_secs(2));
    assert!(report.is_clean() && report.closed == 1, "{report}");
    let error = asked.wait();
    assert!(error.is_closed(), "{error}");
    worker.end();
}

/// Waits until somebody is inside an instance.
fn poll_for_use(sessions: &Pool<WebSocketSession>) {
    support::poll_until("it is in use", || {
        let snapshot = sessions.registry().snapshot();
        snapshot
            .instances
            .iter()
            .any(|instance| instance.state == sessile::registry::InstanceState::Busy)
    });
}

#[test]
fn workers_share_a_session_or_leave_one_open() {
    let server = Server::new(which);
    let workers =
        Workers::builder(pool(builder(&server).build().unwrap())).threads(2).build().unwrap();

    let ask = |worker| joined(workers.submit_to(worker, connection).unwrap());
    let (one, two) = (ask(0), ask(1));
    assert_ne!(one, two);
    assert_eq!((ask(0), ask(1)), (one, two));
    let report = workers.shutdown(PATIENCE);
    assert!(report.is_clean(), "{report:?}");
    server.wait_until("both have said goodbye", |log| log.goodbyes == 2);
}

#[test]
fn a_key_finds_the_session_of_another() {
    let server = Server::new(which);
    let workers =
        Workers::builder(pool(builder(&server).build().unwrap())).threads(2).build().unwrap();

    let ask = |key: &str| joined(workers.keyed(key.to_owned()).submit(connection).unwrap());
    let first: Vec<_> = ["a", "b", "c"].map(ask).into();
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 3);
    assert_eq!(first, ["a", "b", "c"].map(ask));
    assert!(joined(workers.keyed("b".to_owned()).close().unwrap()));
    server.wait_until("one has said goodbye", |log| log.goodbyes == 1);
    assert!(!first.contains(&ask("b")), "a new one");
    assert!(workers.shutdown(PATIENCE).is_clean());
}

#[test]
fn a_session_on_a_loop_cannot_be_kept_alive() {
    let pong = Gate::new();
    let server = Server::new({
        let pong = pong.clone();
        move |peer| {
            peer.expect("hello");
            peer.socket.send(tungstenite::Message::Ping(b"?".to_vec().into())).unwrap();
            assert!(peer.socket.read().unwrap().is_pong());
            pong.pass();
            peer.drain();
        }
    });
    let sessions = pool(builder(&server).build().unwrap()).build().unwrap();
    let (tell, told) = mpsc::channel();
    let keeper = Worker::new("keeper");
    let ended = keeper.start(move || {
        fn again(sessions: Pool<WebSocketSession>) {
            sessions.with(|session| session.poll(Duration::ZERO)).unwrap().unwrap();
            let local = LocalHandle::current().unwrap();
            local.call_later(Duration::from_millis(5), move || again(sessions));
        }
        let event_loop = EventLoop::new();
        sessions.with(|session| session.notify("hello", ())).unwrap().unwrap();
        event_loop.local().call_soon(move || again(sessions));
        tell.send(event_loop.handle()).unwrap();
        event_loop.run().unwrap();
    });
    pong.wait_for_arrival();
    pong.open();
    told.recv().unwrap().stop();
    ended.wait();
    keeper.end();
}
