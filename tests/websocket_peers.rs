//! WebSocket sessions whose peer is silent, slow, dead, deaf, or talks nonsense.

#![cfg(feature = "ws")]

#[path = "support/websocket_peer.rs"]
mod peer;
mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use peer::{Peer, Server, frame};
use serde_json::json;
use sessile::session::SessionError;
use sessile::session::websocket::{WebSocketBuilder, WebSocketManager, WebSocketSession};
use support::{FOR_EVER, Gate, TOO_LONG, promptly};
use tungstenite::Message;

/// For limits that are to be reached.
const SOON: Duration = Duration::from_millis(100);

const TEXT: u8 = 1;
const CONTINUED: u8 = 0;
const PING: u8 = 9;

fn builder(server: &Server) -> WebSocketBuilder {
    WebSocketManager::builder(server.url()).request_timeout(TOO_LONG)
}

fn connect(server: &Server) -> WebSocketSession {
    builder(server).build().unwrap().connect().unwrap()
}

/// What a request comes to, which must not take long.
#[track_caller]
fn request(mut session: WebSocketSession, timeout: Duration) -> (SessionError, WebSocketSession) {
    promptly("a request", move || {
        let error = session.request_timeout("m", (), timeout).unwrap_err();
        (error, session)
    })
}

/// What a request comes to if the peer answers it with these bytes, and the error of the next.
fn answered_with(bytes: Vec<u8>) -> (SessionError, SessionError) {
    let server = Server::new(move |peer| {
        peer.expect("m");
        peer.raw(&bytes);
        peer.ignore();
    });
    let session = builder(&server).max_message_size(1000).build().unwrap().connect().unwrap();
    let (first, session) = request(session, TOO_LONG);
    assert!(session.is_closed(), "{first}");
    let (next, _) = request(session, TOO_LONG);
    (first, next)
}

#[test]
fn a_silent_peer_keeps_the_caller_past_its_deadline() {
    let server = Server::new(Peer::ignore);
    let (error, session) = request(connect(&server), SOON);
    assert!(error.is_timeout(), "{error}");
    assert!(session.is_closed(), "nothing at all was heard");
    let (error, _) = request(session, TOO_LONG);
    assert!(error.is_lost() && error.to_string().contains("nothing was heard"), "{error}");
}

#[test]
fn a_slow_peer_is_taken_for_a_dead_one() {
    let server = Server::new(|peer| {
        peer.expect("m");
        peer.echo(); // which answers pings, and the next request
    });
    // Half of it is for the peer, to answer the ping: enough also where it has to wait for a processor.
    let (error, mut session) = request(connect(&server), 20 * SOON);
    assert!(error.is_timeout(), "{error}");
    assert!(!session.is_closed(), "it has answered a ping");
    session.request("next", ()).unwrap();
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_peer_that_sends_byte_after_byte_keeps_the_caller_past_its_deadline() {
    let server = Server::new(|peer| {
        peer.expect("m");
        peer.raw(&frame(TEXT, 1 << 20, b""));
        let tcp = peer.socket.get_mut();
        // A byte each time the client could have read the last, until it hangs up.
        while tcp.write_all(b"x").is_ok() {
            std::thread::yield_now();
        }
    });
    let (error, session) = request(connect(&server), SOON);
    assert!(error.is_timeout(), "{error}");
    drop(session);
}

#[test]
fn a_peer_that_never_stops_talking_keeps_the_caller_past_its_deadline() {
    let server = Server::new(|peer| {
        peer.expect("m");
        let event = br#"{"method":"tic"}"#;
        let many = frame(TEXT, event.len() as u64, event).repeat(1000);
        while peer.socket.get_mut().write_all(&many).is_ok() {}
    });
    let manager = builder(&server).keep_alive_timeout(SOON).build().unwrap();
    let (error, mut session) = request(manager.connect().unwrap(), SOON);
    assert!(error.is_timeout(), "{error}");
    assert!(!session.is_closed());
    // Neither does one who waits for something else.
    promptly("a ping", move || {
        session.ping().map(drop).unwrap_err();
    });
}

#[test]
fn a_peer_that_reads_nothing_keeps_the_caller_past_its_deadline() {
    let gate = Gate::new();
    let server = Server::new({
        let gate = gate.clone();
        move |_| gate.pass()
    });
    let session = builder(&server).max_message_size(usize::MAX / 4).build().unwrap();
    let mut session = session.connect().unwrap();
    let error = promptly("a request", move || {
        let much = "x".repeat(16 << 20);
        let error = session.request_timeout("m", [much], SOON).unwrap_err();
        assert!(session.is_closed(), "half a frame is out");
        (error, session)
    });
    assert!(error.0.is_timeout(), "{}", error.0);
    gate.open();
}

#[test]
fn two_that_write_wait_for_each_other() {
    const MUCH: usize = 12 << 20;
    let server = Server::new(|peer| {
        // Reads nothing before all this is written, which is more than the sockets hold.
        peer.say_text(&json!({"method": "blob", "params": ["x".repeat(MUCH)]}).to_string());
        peer.socket.set_config(|config| {
            config.max_message_size = None;
            config.max_frame_size = None;
        });
        peer.echo();
    });
    let manager = builder(&server).max_message_size(2 * MUCH).build().unwrap();
    promptly("a large request", move || {
        let mut session = manager.connect().unwrap();
        session.request("m", ["x".repeat(MUCH)]).unwrap();
        assert_eq!(session.try_event().unwrap().expect("read meanwhile").method, "blob");
    });
}

#[test]
fn a_peer_dies_in_the_middle_of_a_frame() {
    let server = Server::new(|peer| {
        peer.expect("m");
        peer.raw(&frame(TEXT, 100, b"{\"jsonrpc\""));
        peer.hang_up();
    });
    let (error, session) = request(connect(&server), TOO_LONG);
    assert!(error.is_lost(), "{error}");
    assert!(session.is_closed());
}

#[test]
fn a_peer_that_says_goodbye_leaves_the_others_waiting() {
    let server = Server::new(|peer| {
        let first = peer.expect("m");
        peer.expect("m");
        peer.tell("last", json!([]));
        peer.answer(&first, json!("first"));
        let reason = tungstenite::protocol::CloseFrame {
            code: tungstenite::protocol::frame::coding::CloseCode::Away,
            reason: "restart".into(),
        };
        peer.socket.send(Message::Close(Some(reason))).unwrap();
        peer.drain();
    });
    promptly("two requests", move || {
        let mut session = connect(&server);
        let (first, second) = (session.begin("m", ()).unwrap(), session.begin("m", ()).unwrap());
        let error = session.wait(second).unwrap_err();
        assert!(error.is_lost() && error.to_string().contains("restart"), "{error}");
        assert!(session.is_closed());
        assert_eq!(session.wait(first).unwrap().as_str(), "\"first\"", "it came before");
        assert_eq!(session.try_event().unwrap().expect("so did this").method, "last");
        assert!(session.try_event().unwrap_err().is_lost());
        assert!(session.notify("m", ()).unwrap_err().is_lost());
        server.wait_until("the goodbye is answered", |log| log.goodbyes == 1);
    });
}

#[test]
fn what_a_peer_must_not_send_is_taken_or_brings_the_thread_down() {
    // What has no end that could be waited for.
    for length in [u64::from(u32::MAX), u64::MAX] {
        let (first, next) = answered_with(frame(TEXT, length, b"{"));
        assert!(first.is_too_large() && next.is_lost(), "{first}, {next}");
    }
    let nonsense = [
        ("no frame", vec![0x5f; 200]),
        ("HTTP", b"HTTP/1.1 200 OK\r\n".repeat(20)),
        ("a binary frame", frame(2, 2, b"{}")),
        ("no UTF-8", frame(TEXT, 2, b"\xff\xfe")),
        ("a long ping", frame(PING, 126, &[0; 126])),
        ("no beginning", frame(CONTINUED, 2, b"{}")),
    ];
    for (what, bytes) in nonsense {
        let (first, next) = answered_with(bytes);
        assert!(first.is_malformed() && next.is_lost(), "{what}: {first}, {next}");
    }
}

/// The answer names its request at its beginning or at its end; an event names none. In one frame, or in
/// pieces that are small enough each.
#[test]
fn an_answer_over_the_limit_fails_its_caller_and_reading_goes_on() {
    let server = Server::new(|peer| {
        let (first, second, third) = (peer.expect("a"), peer.expect("b"), peer.expect("c"));
        let long = "x".repeat(100_000);
        let begins = format!(r#"{{"id":{},"result":"{long}"}}"#, first["id"]);
        let ends = format!(r#"{{"result":"{long}","id":{}}}"#, second["id"]);
        let event = format!(r#"{{"method":"tick","params":["{long}"]}}"#);
        peer.raw(&frame(TEXT, begins.len() as u64, begins.as_bytes()));
        for (n, piece) in ends.as_bytes().chunks(700).enumerate() {
            let is_last = 700 * n + piece.len() == ends.len();
            let mut piece = frame(if n == 0 { TEXT } else { CONTINUED }, piece.len() as u64, piece);
            piece[0] = if is_last { piece[0] } else { piece[0] & 0x7f };
            peer.raw(&piece);
        }
        peer.raw(&frame(TEXT, event.len() as u64, event.as_bytes()));
        peer.answer(&third, serde_json::json!("fine"));
        peer.echo();
    });
    let mut session = builder(&server).max_message_size(1000).build().unwrap().connect().unwrap();
    let [first, second, third] = ["a", "b", "c"].map(|method| session.begin(method, ()).unwrap());
    assert_eq!(session.wait(third).unwrap().as_str(), r#""fine""#);
    for pending in [first, second] {
        let error = session.wait(pending).unwrap_err();
        assert!(error.is_too_large(), "{error}");
    }
    assert_eq!(session.stats().too_large, 3);
    session.request("next", ()).unwrap();
}

/// A peer that talks on and on may never read our goodbye.
#[test]
fn a_close_does_not_wait_for_a_peer_that_floods() {
    let server = Server::new(|peer| {
        let tick = br#"{"method":"tick","params":[1]}"#;
        let flood = frame(TEXT, tick.len() as u64, tick).repeat(1000);
        let tcp = peer.socket.get_mut();
        while std::io::Write::write_all(tcp, &flood).is_ok() {}
    });
    let session =
        builder(&server).close_timeout(support::FOR_EVER).build().unwrap().connect().unwrap();
    let error = promptly("the close", move || session.close().unwrap_err());
    assert!(error.to_string().contains("talked on"), "{error}");
}

#[test]
fn a_message_of_nonsense_breaks_nothing_and_is_not_repeated() {
    let nonsense: [&[u8]; 5] =
        [b"hunter2", b"{}", &[b'['; 900], br#"{"id":"a","result":{}}"#, b"\xef\xbb\xbf"];
    let server = Server::new(move |peer| {
        let asked = peer.expect("m");
        nonsense.iter().for_each(|said| peer.raw(&frame(TEXT, said.len() as u64, said)));
        peer.raw(&frame(TEXT, 0, b""));
        let broken = format!("{{\"id\":{},\"hunter2}}", asked["id"]);
        peer.raw(&frame(TEXT, broken.len() as u64, broken.as_bytes()));
        peer.echo();
    });
    let mut session = connect(&server);
    let error = session.request("m", ()).unwrap_err();
    assert!(error.is_malformed(), "{error}");
    assert!(!format!("{error}{error:?}").contains("hunter2"), "{error:?}");
    assert_eq!(session.stats().malformed, 7);
    session.request("n", ()).unwrap();
}

#[test]
fn a_peer_is_told_why_it_is_left() {
    for (says, code) in [
        (frame(2, 2, b"{}"), 1003),
        (frame(TEXT, 2, b"\xff\xfe"), 1007),
        (vec![0x5f; 20], 1002),
        (frame(PING, 126, &[0; 126]), 1002),
    ] {
        let server = Server::new(move |peer| {
            peer.expect("m");
            peer.raw(&says);
            loop {
                match peer.socket.read() {
                    Ok(tungstenite::Message::Close(goodbye)) => {
                        assert_eq!(u16::from(goodbye.unwrap().code), code);
                        break;
                    }
                    Ok(_) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        connect(&server).request("m", ()).unwrap_err();
    }
}

/// Ours are binary, and theirs may be either.
#[test]
fn messages_are_binary_if_asked_for() {
    let server = Server::new(|peer| {
        for kind in [tungstenite::Message::text, |said| tungstenite::Message::binary(said)] {
            let asked = peer.socket.read().unwrap();
            assert!(asked.is_binary());
            let asked: serde_json::Value = serde_json::from_slice(&asked.into_data()).unwrap();
            let answer = serde_json::json!({"id": asked["id"], "result": 1}).to_string();
            peer.socket.send(kind(answer)).unwrap();
        }
        peer.drain();
    });
    let options = sessile::session::ConnectOptions::new(server.url()).binary(true);
    let mut session = WebSocketManager::new(options).unwrap().connect().unwrap();
    for _ in 0..2 {
        assert_eq!(session.call::<u8>("m", ()).unwrap(), 1);
    }
}

#[test]
fn a_message_of_ours_over_the_limit_breaks_the_session() {
    let server = Server::echo();
    let mut session = builder(&server).max_message_size(200).build().unwrap().connect().unwrap();
    assert!(session.request("m", ["x".repeat(200)]).unwrap_err().is_too_large());
    session.request("m", ()).unwrap();
    assert_eq!(server.requests(), ["m"], "the other was not sent");
}

#[test]
fn a_request_is_sent_twice() {
    let server = Server::new(|peer| {
        peer.expect("m");
        if peer.n == 0 {
            peer.hang_up();
        }
        peer.drain();
    });
    let manager = builder(&server).build().unwrap();
    let sessions = sessile::Pool::new(manager);
    let error = sessions.with(|session| session.request("m", ())).unwrap().unwrap_err();
    assert!(error.is_lost(), "{error}");
    let error = sessions.with(|session| session.request_timeout("m", (), SOON)).unwrap();
    assert!(error.unwrap_err().is_timeout());
    sessions.close_here().unwrap();
    server.wait_until("both are over", |log| log.ended == 2);
    assert_eq!(server.requests(), ["m", "m"], "once on each connection");
}

#[test]
fn a_peer_that_falls_silent_is_waited_for_until_a_far_deadline() {
    let server = Server::new(Peer::ignore);
    let manager =
        builder(&server).keep_alive_interval(SOON).keep_alive_timeout(SOON).build().unwrap();
    let (error, session) = request(manager.connect().unwrap(), FOR_EVER);
    assert!(error.is_lost() && error.to_string().contains("ping"), "{error}");
    assert!(session.is_closed());
    // The same for one who waits for events.
    let mut session = manager.connect().unwrap();
    let error = promptly("an event", move || session.next_event(FOR_EVER).unwrap_err());
    assert!(error.is_lost(), "{error}");
}

#[test]
fn a_peer_that_answers_pings_is_given_up() {
    let server = Server::new(|peer| {
        let request = peer.expect("m");
        let mut pings = 0;
        while pings < 5 {
            pings += usize::from(peer.socket.read().unwrap().is_ping());
        }
        peer.answer(&request, json!("at last"));
        peer.drain();
    });
    let keep_alive = Duration::from_millis(10);
    let mut session =
        builder(&server).keep_alive_interval(keep_alive).build().unwrap().connect().unwrap();
    assert_eq!(session.call::<String>("m", ()).unwrap(), "at last");
}

#[test]
fn a_ping_is_answered_by_something_else() {
    let server = Server::new(|peer| {
        peer.tell("chatter", json!([]));
        peer.socket.send(Message::Pong(b"another".to_vec().into())).unwrap();
        peer.ignore();
    });
    let mut session = builder(&server).keep_alive_timeout(SOON).build().unwrap().connect().unwrap();
    let (error, session) = promptly("a ping", move || (session.ping().unwrap_err(), session));
    assert!(error.is_timeout() || error.is_lost(), "{error}");
    assert!(session.is_closed());
}

#[test]
fn the_peers_pings_are_not_answered_by_one_who_polls() {
    let (pinged, answered) = (Gate::new(), Gate::new());
    let server = Server::new({
        let (pinged, answered) = (pinged.clone(), answered.clone());
        move |peer| {
            peer.socket.send(Message::Ping(b"there?".to_vec().into())).unwrap();
            pinged.pass();
            assert_eq!(peer.socket.read().unwrap(), Message::Pong(b"there?".to_vec().into()));
            answered.pass();
            peer.drain();
        }
    });
    let mut session = connect(&server);
    pinged.wait_for_arrival();
    session.poll(Duration::ZERO).unwrap();
    pinged.open();
    answered.wait_for_arrival();
    answered.open();
}

#[test]
fn a_request_goes_to_a_peer_that_has_long_said_goodbye() {
    let gate = Gate::new();
    let server = Server::new({
        let gate = gate.clone();
        move |peer| {
            peer.expect("m");
            peer.say(json!({"id": 1, "result": null}));
            peer.socket.close(None).unwrap();
            gate.pass();
            let mut rest = Vec::new();
            let _ = peer.socket.get_mut().read_to_end(&mut rest);
            assert!(rest.len() < 20, "a goodbye and no request: {} bytes", rest.len());
        }
    });
    let mut session = connect(&server);
    session.request("m", ()).unwrap();
    gate.wait_for_arrival();
    gate.open();
    // It is looked for only if nothing was heard for a millisecond.
    let heard = Instant::now();
    while heard.elapsed() < Duration::from_millis(2) {
        std::thread::yield_now();
    }
    assert!(session.request("m", ["x".repeat(100)]).unwrap_err().is_lost());
}

#[test]
fn a_server_that_writes_in_pieces_costs_40_ms_for_each_answer() {
    let server = Server::new(|peer| {
        peer.socket.get_ref().set_nodelay(false).unwrap();
        while let Some(request) = peer.receive() {
            let answer = json!({"id": request["id"], "result": null}).to_string();
            let whole = frame(TEXT, answer.len() as u64, answer.as_bytes());
            let (head, tail) = whole.split_at(2);
            peer.raw(head);
            peer.raw(tail);
        }
    });
    let mut session = connect(&server);
    let begun = Instant::now();
    for _ in 0..100 {
        session.request("m", ()).unwrap();
    }
    let quick = begun.elapsed();
    if cfg!(target_os = "linux") {
        // 4 s if each were waited for.
        assert!(quick < Duration::from_secs(3), "{quick:?}");
    }
}
