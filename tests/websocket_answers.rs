//! WebSocket sessions: answers that come in another order, late, twice, unasked or not at all, and
//! events that nobody takes.

#![cfg(feature = "ws")]

#[path = "support/websocket_peer.rs"]
mod peer;
#[path = "support/shapes.rs"]
mod shapes;
mod support;

use std::time::Duration;

use peer::{Peer, Server};
use serde::Deserialize;
use serde_json::{Value, json};
use sessile::session::websocket::{WebSocketBuilder, WebSocketManager, WebSocketSession};
use sessile::session::{
    Incoming, Malformed, Outgoing, Payload, Protocol, RemoteError, Unsupported,
};
use support::{FOR_EVER, Gate, PATIENCE};

const SOON: Duration = Duration::from_millis(30);

fn builder(server: &Server) -> WebSocketBuilder {
    WebSocketManager::builder(server.url()).request_timeout(PATIENCE)
}

fn connect(server: &Server) -> WebSocketSession {
    builder(server).build().unwrap().connect().unwrap()
}

fn text(payload: Result<Payload, impl std::fmt::Debug>) -> String {
    payload.unwrap().as_str().to_owned()
}

#[test]
fn answers_come_in_another_order() {
    let server = Server::new(|peer| {
        let requests: Vec<_> = (0..3).map(|_| peer.receive().unwrap()).collect();
        for request in requests.iter().rev() {
            peer.answer(request, request["params"].clone());
        }
        peer.drain();
    });
    let mut session = connect(&server);
    let pending: Vec<_> =
        ["a", "b", "c"].map(|name| session.begin("echo", json!([name])).unwrap()).into();
    assert_eq!(session.in_flight(), 3);
    for (pending, name) in pending.into_iter().zip(["a", "b", "c"]) {
        assert_eq!(text(session.wait(pending)), json!([name]).to_string());
    }
    assert_eq!(session.in_flight(), 0);
}

#[test]
fn a_request_overtakes_one_that_was_begun_before() {
    let server = Server::new(|peer| {
        let slow = peer.expect("slow");
        let quick = peer.expect("quick");
        peer.answer(&quick, json!("quick"));
        let _ = peer.expect("now"); // not before the quick one is there
        peer.answer(&slow, json!("slow"));
        peer.drain();
    });
    let mut session = connect(&server);
    let slow = session.begin("slow", ()).unwrap();
    assert_eq!(session.call::<String>("quick", ()).unwrap(), "quick");
    assert!(session.try_wait(&slow, Duration::ZERO).unwrap().is_none());
    session.notify("now", ()).unwrap();
    let answer = session.try_wait(&slow, PATIENCE).unwrap().expect("patience is enough");
    assert_eq!(answer.as_str(), r#""slow""#);
    assert!(session.wait(slow).unwrap_err().is_lost(), "an answer can be taken once");
}

#[test]
fn an_answer_of_another_type_is_an_error_and_no_more() {
    #[derive(Debug, Deserialize, PartialEq)]
    struct Point {
        x: i32,
        y: i32,
    }
    let server = Server::new(|peer| {
        let request = peer.expect("where");
        assert_eq!(request["params"], json!({"of": "it"}));
        peer.answer(&request, json!({"x": 1, "y": -2}));
        let request = peer.expect("where");
        assert_eq!(request.get("params"), None, "null is no parameters");
        peer.answer(&request, json!("hunter2"));
        peer.drain();
    });
    let mut session = connect(&server);
    let point: Point = session.call("where", json!({"of": "it"})).unwrap();
    assert_eq!(point, Point { x: 1, y: -2 });
    let error = session.call::<Point>("where", ()).unwrap_err();
    assert!(error.is_malformed() && !error.to_string().contains("hunter2"), "{error}");
    assert!(!session.is_closed());
}

#[test]
fn an_error_of_the_peers_loses_its_code_or_its_data() {
    let server = Server::new(|peer| {
        let request = peer.expect("fail");
        let error = json!({"code": -7, "message": "no such shelf", "data": {"shelf": 3}});
        peer.say(json!({"id": request["id"], "error": error}));
        let _unreadable = peer.expect("fail");
        peer.say(json!({"id": null, "error": {"code": -32700, "message": "parse error"}}));
        peer.drain();
    });
    let mut session = connect(&server);
    let error = session.request("fail", ()).unwrap_err();
    let remote = error.remote().expect("the peer said so");
    assert_eq!((remote.code, &*remote.message), (Some(-7), "no such shelf"));
    assert_eq!(remote.data.as_ref().unwrap().value().unwrap(), json!({"shelf": 3}));
    // It names no request, but there is just one.
    let error = session.request("fail", ()).unwrap_err();
    assert_eq!(error.remote().and_then(|remote| remote.code), Some(-32700));
    assert!(!session.is_closed());
}

/// The table, and after each shape the session goes on; with nothing else in flight, as with something.
#[test]
fn an_answer_of_an_odd_shape_fails_its_one_caller_at_once() {
    for shape in shapes::SHAPES {
        let server = Server::new(|peer| {
            let request = peer.expect("m");
            shape.said(&request).iter().for_each(|said| peer.say_text(said));
            peer.echo();
        });
        let mut session = connect(&server);
        shape.check(&session.call("m", [1]));
        let said: Value = session.call("next", [2]).expect("the session goes on");
        assert_eq!(said, json!(["next", [2]]), "{}", shape.name);
        assert_eq!(session.stats().malformed, shape.malformed, "{}", shape.name);
        assert!(!session.is_closed(), "{}", shape.name);
    }
}

#[test]
fn an_answer_of_an_odd_shape_leaves_other_callers_alone() {
    let server = Server::new(|peer| {
        let (odd, other) = (peer.expect("odd"), peer.expect("other"));
        peer.say_text("");
        peer.say_text("2026-01-01 INFO ready");
        peer.say(json!({"error": {"code": -32700, "message": "whose?"}}));
        peer.say_text(&format!(r#"{{"id":{},"result":NaN}}"#, odd["id"]));
        peer.answer(&other, json!("fine"));
        peer.drain();
    });
    let mut session = connect(&server);
    let odd = session.begin("odd", ()).unwrap();
    let other = session.begin("other", ()).unwrap();
    assert_eq!(text(session.wait(other)), r#""fine""#);
    assert!(session.wait(odd).unwrap_err().is_malformed());
    let counters = session.stats();
    assert_eq!((counters.malformed, counters.unknown), (3, 1), "{counters:?}");
}

#[test]
fn events_change_their_order_or_get_into_an_answer() {
    let server = Server::new(|peer| {
        let request = peer.expect("go");
        (0..50).for_each(|n| peer.tell("tick", json!([n])));
        peer.answer(&request, json!("done"));
        (50..100).for_each(|n| peer.tell("tick", json!([n])));
        peer.drain();
    });
    let mut session = connect(&server);
    assert_eq!(session.call::<String>("go", ()).unwrap(), "done");
    for n in 0..100 {
        let event = session.next_event(PATIENCE).unwrap().expect("in time");
        assert_eq!(event.method, "tick");
        assert_eq!(event.params.unwrap().parse::<[u32; 1]>().unwrap(), [n]);
    }
    assert!(session.try_event().unwrap().is_none());
    assert_eq!(session.stats(), Default::default());
}

#[test]
fn events_that_nobody_takes_use_up_memory_or_vanish_without_a_word() {
    fn flood(peer: &mut Peer) {
        let request = peer.expect("go");
        (0..100).for_each(|n| peer.tell("tick", json!([n])));
        peer.answer(&request, json!("done"));
        peer.drain();
    }
    let first = |session: &mut WebSocketSession| {
        session.request("go", ()).unwrap();
        assert!(session.try_event().unwrap_err().is_overflow(), "told once");
        let event = session.try_event().unwrap().expect("the rest is there");
        event.params.unwrap().parse::<[u64; 1]>().unwrap()[0]
    };
    // By number.
    let server = Server::new(flood);
    let mut session = builder(&server).events(10).build().unwrap().connect().unwrap();
    assert_eq!(first(&mut session), 90, "the oldest go");
    assert_eq!(session.stats().dropped_events, 90);
    for n in 91..100 {
        let event = session.try_event().unwrap().expect("no gap");
        assert_eq!(event.params.unwrap().parse::<[u32; 1]>().unwrap(), [n]);
    }
    assert!(session.try_event().unwrap().is_none());
    drop((session, server));
    // By size: "tick" and "[n]" are 8 bytes.
    let server = Server::new(flood);
    let mut session = builder(&server).answer_capacity(80).build().unwrap().connect().unwrap();
    assert_eq!(first(&mut session), 90);
    drop((session, server));
    // Unwanted.
    let server = Server::new(flood);
    let mut session = builder(&server).events(0).build().unwrap().connect().unwrap();
    session.request("go", ()).unwrap();
    assert!(session.try_event().unwrap().is_none());
    assert_eq!(session.stats().dropped_events, 100);
}

#[test]
fn a_late_answer_is_given_to_the_next_request() {
    let server = Server::new(|peer| {
        let slow = peer.expect("slow");
        peer.tell("alive", json!([]));
        let next = peer.expect("next");
        peer.answer(&slow, json!("slow"));
        peer.answer(&next, json!("next"));
        peer.answer(&next, json!("next, again"));
        peer.answer(&json!({"id": 4711}), json!("what?"));
        peer.tell("end", json!([]));
        peer.drain();
    });
    let mut session = connect(&server);
    let error = session.request_timeout("slow", (), 10 * SOON).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(!session.is_closed(), "the peer has been heard");
    assert_eq!(session.call::<String>("next", ()).unwrap(), "next");
    while session.next_event(PATIENCE).unwrap().expect("in time").method != "end" {}
    let counters = session.stats();
    assert_eq!((counters.timed_out, counters.late, counters.unknown), (1, 2, 1), "{counters:?}");
    assert_eq!(session.in_flight(), 0);
}

#[test]
fn an_answer_that_is_there_is_refused_since_its_time_is_over() {
    let gate = Gate::new();
    let server = Server::new({
        let gate = gate.clone();
        move |peer| {
            let request = peer.expect("quick");
            peer.answer(&request, json!("here"));
            gate.pass();
            peer.drain();
        }
    });
    let mut session = connect(&server);
    let pending = session.begin_timeout("quick", (), Duration::from_nanos(1)).unwrap();
    gate.wait_for_arrival(); // the answer is on its way, or here
    gate.open();
    let answer = session.wait(pending);
    // On loopback what was written is there to be read.
    assert_eq!(text(answer), r#""here""#);
}

#[test]
fn a_pending_answer_that_is_dropped_is_called_off() {
    let server = Server::new(|peer| {
        let (dropped, kept) = (peer.expect("dropped"), peer.expect("kept"));
        let cancel = peer.expect("$/cancelRequest");
        assert_eq!(cancel["params"]["id"], dropped["id"]);
        peer.answer(&kept, json!("kept"));
        peer.answer(&dropped, json!("late"));
        peer.echo();
    });
    let manager = builder(&server).protocol(sessile::session::JsonRpc::new().partial_results());
    let mut session = manager.build().unwrap().connect().unwrap();
    let dropped = session.begin("dropped", ()).unwrap();
    let kept = session.begin("kept", ()).unwrap();
    std::thread::spawn(move || drop(dropped)).join().unwrap(); // wherever it is
    assert_eq!(text(session.wait(kept)), r#""kept""#);
    assert_eq!(session.in_flight(), 0);
    session.request("next", ()).unwrap();
    assert_eq!(session.stats().late, 1);
}

#[test]
fn a_session_that_the_peer_leaves_is_closed_within_the_wait() {
    let server = Server::new(|peer| {
        peer.tell("last", json!(["words"]));
        peer.socket.close(None).unwrap();
        peer.drain();
    });
    let mut session = connect(&server);
    assert!(!session.is_closed());
    assert!(session.wait_closed(PATIENCE) && session.is_closed());
    assert_eq!(session.next_event(PATIENCE).unwrap().unwrap().method, "last");
    let server = Server::echo();
    let mut session = connect(&server);
    assert!(!session.wait_closed(SOON));
    session.request("m", ()).unwrap();
}

#[test]
fn answers_that_nobody_takes_use_up_memory() {
    let server = Server::new(|peer| {
        let requests: Vec<_> = (0..4).map(|_| peer.expect("m")).collect();
        requests.iter().for_each(|request| peer.answer(request, json!("0123456789")));
        peer.tell("all", json!([]));
        peer.echo();
    });
    let mut session =
        builder(&server).max_in_flight(4).answer_capacity(40).build().unwrap().connect().unwrap();
    let pending: Vec<_> = (0..4).map(|_| session.begin("m", ()).unwrap()).collect();
    let error = session.begin("one too many", ()).unwrap_err();
    assert!(error.is_full(), "{error}");
    assert_eq!(session.next_event(PATIENCE).unwrap().unwrap().method, "all");
    // Twelve bytes each: three fit.
    let outcomes: Vec<_> = pending.into_iter().map(|pending| session.wait(pending)).collect();
    assert!(outcomes[..3].iter().all(Result::is_ok), "{outcomes:?}");
    assert!(outcomes[3].as_ref().unwrap_err().is_overflow(), "{outcomes:?}");
    // What is given up makes room, and the one who waits has no limit.
    for _ in 0..3 {
        let pending: Vec<_> = (0..4).map(|_| session.begin("given up", ()).unwrap()).collect();
        drop(pending);
    }
    let long = "x".repeat(100);
    let answer: Value = session.call("long", [&long]).unwrap();
    assert_eq!(answer, json!(["long", [long]]));
    assert!(!server.requests().contains(&"one too many".to_owned()));
}

#[test]
fn a_request_of_the_peers_is_left_without_an_answer() {
    let server = Server::new(|peer| {
        let request = peer.expect("go");
        peer.say(json!({"jsonrpc": "2.0", "id": "q-1", "method": "confirm"}));
        let refusal = peer.receive().unwrap();
        assert_eq!(refusal["id"], "q-1");
        assert_eq!(refusal["error"]["code"], RemoteError::METHOD_NOT_FOUND);
        peer.answer(&request, json!("done"));
        peer.drain();
    });
    let mut session = connect(&server);
    session.request("go", ()).unwrap();
    assert_eq!(session.stats().refused, 1);
}

#[test]
fn a_pending_answer_of_another_session_is_mistaken_for_one_of_this() {
    let server = Server::echo();
    let (mut one, mut two) = (connect(&server), connect(&server));
    let (of_one, of_two) = (one.begin("one", ()).unwrap(), two.begin("two", ()).unwrap());
    assert!(two.poll(PATIENCE).unwrap(), "its own is here");
    assert!(two.wait(of_one).unwrap_err().is_lost());
    assert_eq!(two.wait(of_two).unwrap().as_str(), r#"["two",null]"#);
}

#[test]
fn poll_misses_what_has_come_or_waits_for_nothing() {
    let server = Server::new(|peer| {
        let request = peer.expect("go");
        peer.tell("one", json!([]));
        let _ = peer.expect("more");
        peer.answer(&request, json!(1));
        peer.drain();
    });
    let mut session = connect(&server);
    assert!(!session.poll(Duration::ZERO).unwrap());
    let pending = session.begin("go", ()).unwrap();
    assert!(session.poll(FOR_EVER).unwrap());
    assert_eq!(session.try_event().unwrap().unwrap().method, "one");
    session.notify("more", ()).unwrap();
    assert!(session.poll(FOR_EVER).unwrap());
    assert_eq!(session.try_wait(&pending, Duration::ZERO).unwrap().unwrap().as_str(), "1");
    assert!(!session.poll(SOON).unwrap());
}

/// `{"op": .., "ref": "7"}`, answered by `{"ref": "7", "ok": ..}` or `{"ref": "7", "fault": ..}`.
struct Nearly;

impl Protocol for Nearly {
    fn encode(&self, message: &Outgoing<'_>, frame: &mut Vec<u8>) -> Result<(), Unsupported> {
        let Outgoing::Request { id, method, params, .. } = message else {
            return Err(Unsupported::new("this service takes requests only"));
        };
        frame.extend(
            json!({"op": method, "ref": id.to_string(), "body": params}).to_string().bytes(),
        );
        Ok(())
    }

    fn decode(&self, frame: &[u8], messages: &mut Vec<Incoming>) -> Result<(), Malformed> {
        let said: Value = serde_json::from_slice(frame).map_err(|_| Malformed::new("no JSON"))?;
        let id = said["ref"].as_str().and_then(|id| id.parse().ok());
        messages.push(match (id, said["fault"].as_str()) {
            (Some(id), None) => Incoming::Answer { id, value: said["ok"].clone().into() },
            (id, Some(why)) => Incoming::Failure { id, error: RemoteError::new(why) },
            (None, None) => {
                Incoming::Notification { method: "event".into(), params: None, meta: None }
            }
        });
        Ok(())
    }
}

#[test]
fn a_service_that_is_nearly_json_rpc_needs_more_than_a_few_lines() {
    let server = Server::new(|peer| {
        while let Some(said) = peer.receive() {
            peer.say(match said["op"].as_str() {
                Some("add") => json!({"ref": said["ref"], "ok": 3}),
                _ => json!({"ref": said["ref"], "fault": "unheard of"}),
            });
        }
    });
    let mut session = builder(&server).protocol(Nearly).build().unwrap().connect().unwrap();
    assert_eq!(session.call::<u32>("add", [1, 2]).unwrap(), 3);
    let error = session.request("sub", [1, 2]).unwrap_err();
    assert_eq!(error.remote().unwrap().message, "unheard of");
    assert!(session.notify("hello", ()).unwrap_err().is_unsupported());
    assert!(!session.is_closed());
}
