//! What can keep an answer from who waits for it.

#![cfg(all(feature = "duplex", unix))]

#[path = "support/peer.rs"]
mod peer;
#[path = "support/shapes.rs"]
mod shapes;
mod support;

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use futures_core::Stream;
use peer::{Apart, Place, SHORT, pair, pair_with};
use serde_json::{Value, json};
use sessile::session::duplex::{Session, Tcp};
use sessile::session::{JsonRpc, SessionError};
use support::{PATIENCE, poll_until, promptly};

/// The peer answers while the caller's write has hardly returned, many times over.
#[test]
fn an_answer_comes_before_anybody_waits_for_it() {
    let (session, mut peer, _place) = pair(|builder| builder);
    let answers = thread::spawn(move || {
        for _ in 0..2000 {
            let (id, _) = peer.asked();
            peer.answer(id, id);
        }
        peer
    });
    for _ in 0..2000 {
        let invocation = session.invoker().invoke("m", ()).unwrap();
        let id = invocation.id();
        assert_eq!(invocation.answer().unwrap().parse::<u64>().unwrap(), id);
    }
    drop(answers.join().unwrap());
    assert_eq!((session.stats().late, session.stats().unknown), (0, 0));
}

#[test]
fn an_answer_of_an_odd_shape_fails_its_one_caller_at_once() {
    for shape in shapes::SHAPES {
        let (session, mut peer, _place) = pair(|builder| builder);
        let invoker = session.invoker();
        let calls = thread::spawn(move || {
            let odd = invoker.call::<Value>("m", &[1]);
            (odd, invoker.call::<Value>("next", &[2]))
        });
        let request = peer.hear().expect("a request");
        shape.said(&request).iter().for_each(|said| peer.say_raw(format!("{said}\n").as_bytes()));
        let (id, _) = peer.asked();
        peer.answer(id, "next");
        let (odd, next) = calls.join().unwrap();
        shape.check(&odd);
        assert_eq!(next.expect("the session goes on"), json!("next"), "{}", shape.name);
        assert_eq!(session.stats().malformed, shape.malformed, "{}", shape.name);
    }
}

#[test]
fn parameters_of_nothing_are_left_out() {
    let (session, mut peer, _place) = pair(|builder| builder);
    session.invoker().notify("told", ()).unwrap();
    assert_eq!(peer.hear().unwrap(), json!({"jsonrpc": "2.0", "method": "told"}));
    let invoker = session.invoker();
    let call = thread::spawn(move || invoker.call::<Value>("asked", None::<u8>));
    let request = peer.hear().unwrap();
    assert_eq!(request.get("params"), None);
    peer.answer(request["id"].as_u64().unwrap(), "answered");
    assert_eq!(call.join().unwrap().unwrap(), json!("answered"));
}

/// JSON-RPC knows an object, an array or nothing.
#[test]
fn parameters_that_are_a_single_value_are_refused_before_anything_is_sent() {
    let (session, mut peer, _place) = pair(|builder| builder);
    let invoker = session.invoker();
    for value in [json!(3), json!("three"), json!(true)] {
        let error = invoker.call::<Value>("m", &value).unwrap_err();
        assert!(error.is_unsupported() && error.to_string().contains("an array"), "{error}");
        assert!(invoker.notify("m", &value).unwrap_err().is_unsupported());
    }
    assert_eq!(session.stats().in_flight, 0);
    drop(invoker.invoke("next", [3]).unwrap());
    assert_eq!(peer.asked().1, "next");
}

/// Where answers come in pieces, a token says so, and that needs an object to be in.
#[test]
fn a_request_without_parameters_may_be_answered_in_pieces() {
    let (session, mut peer, _place) = pair(|builder| builder);
    let invocation = session.invoker().invoke("asked", ()).unwrap();
    let request = peer.hear().unwrap();
    let token = request["params"]["partialResultToken"].clone();
    assert!(token.is_string(), "{request}");
    peer.say(&json!({"method": "$/progress", "params": {"token": token, "value": "a piece"}}));
    peer.answer(request["id"].as_u64().unwrap(), "the last");
    let answers: Vec<Value> =
        invocation.into_iter().map(|one| one.unwrap().parse().unwrap()).collect();
    assert_eq!(answers, ["a piece", "the last"]);
}

/// The peer answers in the opposite order, in one piece, or byte by byte.
#[test]
fn sixty_four_threads_get_each_others_answers() {
    let (session, mut peer, _place) = pair(|builder| builder);
    let callers: Vec<_> = (0..64)
        .map(|caller| {
            let invoker = session.invoker();
            thread::spawn(move || {
                for round in 0..20 {
                    let said =
                        json!({"caller": caller, "round": round, "fill": "x".repeat(caller)});
                    let heard: Value = invoker.call("echo", &said).unwrap();
                    assert_eq!(heard, said);
                }
            })
        })
        .collect();
    let mut ids = HashSet::new();
    for round in 0..20 {
        let mut answers = Vec::new();
        for _ in 0..64 {
            let asked = peer.hear().unwrap();
            assert!(ids.insert(asked["id"].as_u64().unwrap()), "an id was given out twice");
            let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": asked["params"]});
            answers.push(format!("{answer}\n"));
        }
        answers.reverse();
        let bytes = answers.concat().into_bytes();
        let piece = if round % 2 == 0 { bytes.len() } else { 97 };
        bytes.chunks(piece).for_each(|piece| peer.say_raw(piece));
    }
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    assert_eq!(session.stats().in_flight, 0);
}

#[test]
fn a_stream_of_answers_is_cut_short_or_out_of_order() {
    let (session, mut peer, _place) = pair(|builder| builder);
    let invocation = session.invoker().invoke("count", [3]).unwrap();
    let (id, _) = peer.asked();
    (0..3).for_each(|n| peer.item(id, n));
    peer.answer(id, 3);
    let got: Vec<u64> =
        invocation.into_iter().map(|answer| answer.unwrap().parse().unwrap()).collect();
    assert_eq!(got, [0, 1, 2, 3]);
}

#[track_caller]
fn is_lost(error: &SessionError) {
    assert!(error.is_lost(), "{error:?}");
}

#[test]
fn a_peer_that_dies_in_mid_frame_leaves_callers_waiting() {
    let (session, mut peer, _place) = pair(|builder| builder);
    let calls: Vec<_> = (0..8).map(|_| session.invoker().invoke("m", ()).unwrap()).collect();
    for _ in 0..8 {
        peer.asked();
    }
    peer.say_raw(br#"{"jsonrpc":"2.0","id":1,"resu"#);
    peer.die();
    promptly("all are told", move || {
        for call in calls {
            is_lost(&call.answer().unwrap_err());
        }
    });
    assert!(session.wait_closed(PATIENCE));
    is_lost(&session.invoker().invoke("m", ()).unwrap_err());
    assert_eq!(session.stats().queued_bytes, 0);
}

#[test]
fn garbage_and_unknown_ids_do_harm_or_are_not_counted() {
    let (session, mut peer, _place) = pair(|builder| builder);
    let call = session.invoker().invoke("m", ()).unwrap();
    let (id, _) = peer.asked();
    peer.say_raw(b"\n\r\n{\n\xff\xfe\n[]\n\"hello\"\n");
    peer.answer(1 << 40, 0);
    peer.say_raw(br#"{"jsonrpc":"2.0","id":"7","result":0}"#);
    peer.say_raw(b"\n");
    peer.answer(id, "fine");
    assert_eq!(call.answer().unwrap().as_str(), r#""fine""#);
    peer.answer(id, "twice");
    let stats = || session.stats();
    poll_until("the second end is counted", || stats().late == 1);
    assert_eq!((stats().unknown, stats().malformed), (1, 4));
    let again: Result<u64, _> = {
        let invoker = session.invoker();
        let caller = thread::spawn(move || invoker.call("m", ()));
        let (id, _) = peer.asked();
        peer.answer(id, 5);
        caller.join().unwrap()
    };
    assert_eq!(again.unwrap(), 5);
}

#[test]
fn an_answer_over_the_limit_fails_its_caller_and_nobody_else() {
    let (session, mut peer, _place) = pair(|builder| builder.max_message_size(1000));
    let calls: Vec<_> = (0..3).map(|_| session.invoker().invoke("m", ()).unwrap()).collect();
    let ids: Vec<_> = calls.iter().map(|_| peer.asked().0).collect();
    // One that may be of any length, and one that names its request at its end.
    peer.answer(ids[0], "x".repeat(100_000));
    let (long, id) = ("y".repeat(1001), ids[1]);
    peer.say_raw(format!("{{\"result\":\"{long}\",\"id\":{id}}}\n").as_bytes());
    peer.say_raw(format!("{}\n", "z".repeat(5000)).as_bytes());
    peer.answer(ids[2], 3);
    let mut answers = calls.into_iter().map(|call| call.answer());
    for _ in 0..2 {
        let error = answers.next().unwrap().unwrap_err();
        assert!(error.is_too_large(), "{error:?}");
        assert!(error.to_string().contains("1000"), "{error}");
    }
    assert_eq!(answers.next().unwrap().unwrap().as_str(), "3");
    assert_eq!(session.stats().oversized, 3);
}

#[test]
fn a_frame_of_ours_over_the_limit_goes_out() {
    let (session, mut peer, _place) = pair(|builder| builder.max_message_size(1000));
    let error = session.invoker().invoke("m", ["x".repeat(1000)]).unwrap_err();
    assert!(error.is_too_large(), "{error:?}");
    drop(session.invoker().invoke("next", ()).unwrap());
    assert_eq!(peer.asked().1, "next");
}

/// JSON that somebody has written for people to read.
#[test]
fn line_breaks_inside_of_json_tear_the_frame() {
    let (session, mut peer, _place) = pair(|builder| builder);
    let pretty = "{\r\n  \"a\": [\n    1\n  ],\n  \"b\": \"x\\ny\"\n}".to_owned();
    let raw = serde_json::value::RawValue::from_string(pretty.clone()).unwrap();
    session.invoker().notify("m", &raw).unwrap();
    let heard = peer.hear().unwrap();
    assert_eq!(heard["params"], serde_json::from_str::<Value>(&pretty).unwrap());
}

#[test]
fn an_error_of_the_peers_is_lost_on_the_way() {
    let (session, mut peer, _place) = pair(|builder| builder);
    let call = session.invoker().invoke("m", ()).unwrap();
    let (id, _) = peer.asked();
    let error = json!({"code": -5, "message": "no", "data": {"why": 1}});
    peer.say(&json!({"jsonrpc": "2.0", "id": id, "error": error}));
    let error = call.answer().unwrap_err();
    let remote = error.remote().unwrap();
    assert_eq!((remote.code, &*remote.message), (Some(-5), "no"));
    assert_eq!(remote.data.as_ref().unwrap().as_str(), r#"{"why":1}"#);
}

/// Where an end follows a failure, it is neither late nor unknown.
#[test]
fn an_end_after_a_failure_is_taken_for_a_stray() {
    let (session, mut peer, _place) = pair_with(Apart, |builder| builder);
    let call = session.invoker().invoke("m", ()).unwrap();
    let id = peer.hear().unwrap()["ask"].as_u64().unwrap();
    peer.say(&json!({"error": "no", "to": id}));
    peer.say(&json!({"end": id}));
    assert_eq!(call.answer().unwrap_err().remote().unwrap().message, "no");
    // In order behind it.
    let next = session.invoker().invoke("m", ()).unwrap();
    let id = peer.hear().unwrap()["ask"].as_u64().unwrap();
    peer.say(&json!({"item": 1, "to": id}));
    peer.say(&json!({"end": id}));
    assert_eq!(next.into_iter().map(Result::unwrap).count(), 1);
    assert_eq!((session.stats().late, session.stats().unknown), (0, 0));
}

#[test]
fn a_request_that_ends_without_an_answer_is_waited_for() {
    let (session, mut peer, _place) = pair_with(Apart, |builder| builder);
    let call = session.invoker().invoke("m", ()).unwrap();
    let id = peer.hear().unwrap()["ask"].as_u64().unwrap();
    peer.say(&json!({"end": id}));
    assert!(call.answer().unwrap_err().is_no_answer());
}

#[test]
fn a_call_that_is_given_up_on_harms_the_session() {
    let (session, mut peer, _place) = pair(|builder| builder);
    let call = session.invoker().timeout(SHORT).invoke("slow", ()).unwrap();
    let (slow, _) = peer.asked();
    let error = call.answer().unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    // The peer is told that nobody waits.
    let told = peer.hear().unwrap();
    assert_eq!((&told["method"], &told["params"]["id"]), (&"$/cancelRequest".into(), &slow.into()));
    let next = session.invoker().invoke("next", ()).unwrap();
    let (id, _) = peer.asked();
    peer.answer(slow, "late");
    peer.answer(id, "in time");
    assert_eq!(next.answer().unwrap().as_str(), r#""in time""#);
    assert_eq!((session.stats().late, session.stats().in_flight), (1, 0));
}

/// Where one answer is all there can be, who has it has the end as well.
#[test]
fn a_call_that_was_answered_is_given_up_on() {
    let (session, mut peer, _place) = pair(|builder| builder);
    let mut invocation = session.invoker().invoke("m", ()).unwrap();
    let (id, _) = peer.asked();
    peer.answer(id, 1);
    assert_eq!(invocation.next_timeout(PATIENCE).unwrap().unwrap().as_str(), "1");
    assert_eq!(session.stats().in_flight, 0);
    assert!(format!("{invocation:?}").contains("is_over: true"));
    assert!(invocation.next_timeout(PATIENCE).unwrap().is_none());
}

/// The answer and the cancel cross: whichever wins, nothing is left, and the next call is answered.
#[test]
fn a_cancel_that_races_its_answer_leaves_something() {
    let (session, mut peer, _place) = pair(|builder| builder);
    let peer = thread::spawn(move || {
        while let Some(asked) = peer.hear() {
            if let Some(id) = asked["id"].as_u64() {
                peer.answer(id, 1);
            }
        }
    });
    for round in 0..1000 {
        let call = session.invoker().invoke("m", ()).unwrap();
        for _ in 0..round % 50 {
            std::hint::spin_loop();
        }
        drop(call);
    }
    assert_eq!(session.invoker().call::<u64>("m", &()).unwrap(), 1);
    assert_eq!(session.stats().in_flight, 0);
    drop(session);
    peer.join().unwrap();
}

#[test]
fn a_lost_connection_is_not_made_again_or_calls_are_sent_again() {
    let (session, mut first, place) =
        pair(|builder| builder.reconnect(Duration::from_millis(1), SHORT));
    let waiting: Vec<_> = (0..8).map(|_| session.invoker().invoke("old", ()).unwrap()).collect();
    (0..8).for_each(|_| assert_eq!(first.asked().1, "old"));
    first.die();
    promptly("those in flight fail", move || {
        waiting.into_iter().for_each(|call| is_lost(&call.answer().unwrap_err()));
    });
    // Called while there may be no connection yet: it waits for the next.
    let next = session.invoker().invoke("new", ()).unwrap();
    let mut second = place.accept();
    let (id, method) = second.asked();
    assert_eq!(method, "new", "what was in flight was sent again");
    second.answer(id, 1);
    assert_eq!(next.answer().unwrap().as_str(), "1");
    assert_eq!(session.stats().connections, 2);
}

#[test]
fn a_greeting_is_said_once_or_out_of_turn() {
    let (_session, mut first, place) = pair(|builder| {
        builder
            .reconnect(Duration::from_millis(1), SHORT)
            .greeting([br#"{"hello":1}"#.to_vec(), br#"{"hello":2}"#.to_vec()])
    });
    let greeted = |peer: &mut peer::Peer| {
        assert_eq!(peer.hear().unwrap(), json!({"hello": 1}));
        assert_eq!(peer.hear().unwrap(), json!({"hello": 2}));
    };
    greeted(&mut first);
    first.die();
    greeted(&mut place.accept());
}

#[test]
fn a_silent_peer_is_taken_for_alive() {
    let (session, mut peer, _place) = pair(|builder| builder.keep_alive_timeout(SHORT));
    let call = session.invoker().invoke("m", ()).unwrap();
    peer.asked();
    let error = call.answer().unwrap_err();
    is_lost(&error);
    assert!(error.to_string().contains("nothing was heard"), "{error}");
}

#[test]
fn a_heart_stops_beating_while_callers_wait() {
    let (_session, mut peer, _place) =
        pair(|builder| builder.heartbeat(Duration::from_millis(1), br#"{"beat":1}"#.to_vec()));
    for _ in 0..20 {
        assert_eq!(peer.hear().unwrap(), json!({"beat": 1}));
    }
}

#[test]
fn nobody_is_there_to_connect_to() {
    let place = Place::new();
    let address = place.address();
    drop(place);
    let error = Session::builder(JsonRpc::new()).connect(Tcp::new(address)).unwrap_err();
    assert!(error.is_connect(), "{error:?}");
}

#[test]
fn a_wait_on_the_sessions_own_thread_hangs() {
    let (tell, told) = mpsc::channel();
    let (_session, peer, _place) = pair(move |builder| {
        builder.on_request(move |request| {
            let invoker = request.invoker();
            tell.send(invoker.call::<u64>("back", &()).unwrap_err().is_deadlock()).unwrap();
            request.respond(&1).unwrap();
        })
    });
    peer.say(&json!({"jsonrpc": "2.0", "id": 1, "method": "m"}));
    assert!(told.recv_timeout(PATIENCE).unwrap());
}

struct Bell(mpsc::SyncSender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let _ = self.0.try_send(());
    }
}

#[test]
fn who_awaits_answers_is_not_woken_or_waits_for_ever() {
    let (ring, rung) = mpsc::sync_channel(8);
    let waker = Waker::from(Arc::new(Bell(ring)));
    let mut cx = Context::from_waker(&waker);
    let (session, mut peer, _place) = pair(|builder| builder);
    let mut stream = pin!(session.invoker().invoke("m", ()).unwrap());
    let mut next = || loop {
        match stream.as_mut().poll_next(&mut cx) {
            Poll::Ready(next) => return next,
            Poll::Pending => rung.recv_timeout(PATIENCE).expect("it is woken"),
        }
    };
    let (id, _) = peer.asked();
    peer.item(id, 1);
    assert_eq!(next().unwrap().unwrap().as_str(), "1");
    peer.answer(id, 2);
    assert_eq!(next().unwrap().unwrap().as_str(), "2");
    assert!(next().is_none());

    let mut stream = pin!(session.invoker().timeout(SHORT).invoke("silent", ()).unwrap());
    let mut next = || loop {
        match stream.as_mut().poll_next(&mut cx) {
            Poll::Ready(next) => return next,
            Poll::Pending => rung.recv_timeout(PATIENCE).expect("it is woken"),
        }
    };
    assert!(next().unwrap().unwrap_err().is_timeout());
    assert!(next().is_none());
}
