//! What a side that does not read can do to the other: fill its memory, block it, or have it lose
//! something.

#![cfg(all(feature = "duplex", unix))]

#[path = "support/peer.rs"]
mod peer;
mod support;

use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use peer::{Peer, Place, SHORT, pair};
use serde_json::json;
use sessile::session::duplex::{Overflow, Request, Session, SessionBuilder, Tcp, WhenFull};
use sessile::session::{JsonRpc, SessionError};
use support::{FOR_EVER, PATIENCE, TOO_LONG, poll_until, promptly};

const KIB: usize = 1 << 10;
/// What the session may have read at once, beyond what its limits say.
const READ_AT_ONCE: usize = 64 * KIB;

fn is_idle(session: &Session) -> bool {
    let stats = session.stats();
    (stats.in_flight, stats.queued_bytes) == (0, 0)
}

/// The `n`th of many items: the number, and so much to carry.
fn item(id: u64, n: usize, carries: usize) -> String {
    let params =
        json!({"token": format!("sessile-partial-{id}"), "value": [n, "x".repeat(carries)]});
    format!("{}\n", json!({"jsonrpc": "2.0", "method": "$/progress", "params": params}))
}

fn number(answer: &sessile::session::Payload) -> usize {
    answer.parse::<(usize, String)>().unwrap().0
}

// ---- requests that are too long -----------------------------------------------------------------

#[test]
fn a_request_over_the_limit_is_answered_with_an_error_and_reading_goes_on() {
    let (session, mut peer, _place) = pair(|builder| {
        builder.max_incoming_size(KIB).on_request(|request| drop(request.respond("served")))
    });
    let long = "x".repeat(10 * KIB);
    // Its id may stand anywhere, or nowhere.
    peer.say_raw(
        format!("{{\"method\":\"m\",\"params\":[\"{long}\"],\"id\":\"late\"}}\n").as_bytes(),
    );
    peer.say_raw(format!("{{\"id\":7,\"method\":\"m\",\"params\":[\"{long}\"]}}\n").as_bytes());
    peer.say_raw(format!("{{\"method\":\"told\",\"params\":[\"{long}\"]}}\n").as_bytes());
    peer.say(&json!({"jsonrpc": "2.0", "id": "p", "method": "m"}));
    for id in [json!("late"), json!(7)] {
        let told = peer.hear().unwrap();
        assert_eq!((&told["id"], &told["error"]["code"]), (&id, &json!(-32600)));
    }
    assert_eq!(peer.hear().unwrap()["result"], "served");
    assert_eq!(session.stats().oversized, 3);
}

// ---- answers that nobody reads ------------------------------------------------------------------

#[test]
fn a_reader_that_is_slow_fails_the_others() {
    let (session, mut peer, _place) = pair(|builder| builder.answer_capacity(KIB));
    let slow = session.invoker().invoke("slow", ()).unwrap();
    let other = session.invoker().invoke("other", ()).unwrap();
    let ((slow_id, _), (other_id, _)) = (peer.asked(), peer.asked());
    peer.item(other_id, 1);
    for n in 0..100 {
        peer.say_raw(item(slow_id, n, 100).as_bytes());
    }
    // The peer is told that nobody wants the rest, and is asked and answered as before.
    let told = peer.hear().unwrap();
    assert_eq!(
        (&told["method"], &told["params"]["id"]),
        (&"$/cancelRequest".into(), &slow_id.into())
    );
    peer.say(&json!({"jsonrpc": "2.0", "id": "p", "method": "m"}));
    assert_eq!(peer.hear().unwrap()["id"], "p");
    peer.answer(other_id, 2);
    let got: Vec<u64> = other.into_iter().map(|answer| answer.unwrap().parse().unwrap()).collect();
    assert_eq!(got, [1, 2]);

    // What it had not read is let go, so that the memory is free before it looks.
    let mut slow = slow.into_iter();
    assert!(slow.next().unwrap().unwrap_err().is_overflow());
    assert!(slow.next().is_none());
    assert_eq!(session.stats().overflows, 1);
    poll_until("nothing is left", || is_idle(&session));
}

/// Few large answers, each of which alone is over the capacity.
#[test]
fn an_answer_that_is_larger_than_the_capacity_never_arrives() {
    let (session, mut peer, _place) = pair(|builder| builder.answer_capacity(10));
    let mut call = session.invoker().invoke("m", ()).unwrap();
    let (id, _) = peer.asked();
    for n in 0..3 {
        peer.say_raw(item(id, n, KIB).as_bytes());
        assert_eq!(number(&call.next_timeout(PATIENCE).unwrap().unwrap()), n);
    }
}

fn pausing(builder: SessionBuilder) -> SessionBuilder {
    builder.overflow(Overflow::Pause).answer_capacity(10 * KIB)
}

/// A peer that says so many items, and then what else there is, on a thread of its own.
fn says_many(peer: Peer, id: u64, many: usize, then: String) -> thread::JoinHandle<Peer> {
    thread::spawn(move || {
        (0..many).for_each(|n| peer.say_raw(item(id, n, KIB).as_bytes()));
        peer.say_raw(then.as_bytes());
        peer
    })
}

fn answer(id: u64) -> String {
    format!("{}\n", json!({"jsonrpc": "2.0", "id": id, "result": [0, ""]}))
}

#[test]
fn a_session_reads_on_while_nobody_takes_the_answers_or_loses_some() {
    const MANY: usize = 2000;
    let (session, mut peer, _place) = pair(pausing);
    let call = session.invoker().invoke("m", ()).unwrap();
    let (id, _) = peer.asked();
    let peer = says_many(peer, id, MANY, answer(id));
    poll_until("it is full", || session.stats().frames_read >= 10);
    let mut taken = 0;
    for answer in call {
        let ahead = session.stats().frames_read as usize - taken;
        // Twice: what was read before it stopped, and what is read when it goes on.
        assert!(ahead * KIB <= 10 * KIB + 2 * READ_AT_ONCE, "{ahead} answers were not taken");
        let n = number(&answer.unwrap());
        assert_eq!(n, if taken == MANY { 0 } else { taken });
        taken += 1;
    }
    assert_eq!(taken, MANY + 1);
    drop(peer.join().unwrap());
    assert!(is_idle(&session));
}

#[test]
fn who_drops_the_answers_leaves_the_session_stopped() {
    let (session, mut peer, _place) = pair(pausing);
    let dropped = session.invoker().invoke("dropped", ()).unwrap();
    let mut other = session.invoker().invoke("other", ()).unwrap();
    let ((id, _), (other_id, _)) = (peer.asked(), peer.asked());
    let peer = says_many(peer, id, 1000, answer(other_id));
    // Its answer is behind all that, where the session does not get yet.
    assert!(other.next_timeout(SHORT).unwrap_err().is_timeout());
    drop(dropped);
    assert_eq!(number(&other.next_timeout(PATIENCE).unwrap().unwrap()), 0);
    drop(other);
    drop(peer.join().unwrap());
    poll_until("nothing is left", || is_idle(&session));
}

/// What it says goes out all the same, and it closes in time.
#[test]
fn a_session_that_has_stopped_reading_is_stuck() {
    let (session, mut peer, _place) = pair(pausing);
    let slow = session.invoker().invoke("slow", ()).unwrap();
    let (id, _) = peer.asked();
    (0..30).for_each(|n| peer.say_raw(item(id, n, KIB).as_bytes()));
    poll_until("it is full", || session.stats().frames_read >= 10);
    session.invoker().notify("still here", ()).unwrap();
    assert_eq!(peer.hear().unwrap()["method"], "still here");
    promptly("it closes", move || {
        assert!(session.close(FOR_EVER));
        assert!(slow.into_iter().last().unwrap().unwrap_err().is_closed());
    });
}

/// While one catches up, the other's answers must not come in without end.
#[test]
fn a_reader_that_catches_up_lets_in_more_for_one_that_does_not() {
    const MANY: usize = 2000;
    let (session, mut peer, _place) = pair(pausing);
    let mut reads = session.invoker().invoke("reads", ()).unwrap();
    let sleeps = session.invoker().invoke("sleeps", ()).unwrap();
    let ((reads_id, _), (sleeps_id, _)) = (peer.asked(), peer.asked());
    let peer = thread::spawn(move || {
        for n in 0..MANY {
            peer.say_raw(item(reads_id, n, KIB).as_bytes());
            peer.say_raw(item(sleeps_id, n, KIB).as_bytes());
        }
        peer
    });
    let mut taken = 0;
    let error = loop {
        match reads.next_timeout(SHORT) {
            Ok(Some(_)) => {
                taken += 1;
                // Where it has caught up, it lets the session come first: so it is full each time.
                let read = session.stats().frames_read;
                let end = Instant::now() + SHORT;
                while read as usize / 2 <= taken + 4
                    && session.stats().frames_read == read
                    && Instant::now() < end
                {
                    thread::yield_now();
                }
            }
            Ok(None) => panic!("there is no end"),
            Err(error) => break error,
        }
    };
    assert!(error.is_timeout(), "{error:?}");
    assert!(taken * KIB <= 10 * KIB + 3 * READ_AT_ONCE, "{taken} answers lie unread");
    drop(sleeps);
    (taken..MANY)
        .for_each(|n| assert_eq!(number(&reads.next_timeout(PATIENCE).unwrap().unwrap()), n));
    drop(peer.join().unwrap());
}

/// Nothing is heard while nobody listens: that is not the peer's silence.
#[test]
fn a_session_that_has_stopped_reading_takes_its_peer_for_silent() {
    let silence = 10 * SHORT; // until it is full, the peer is to be heard
    let (session, mut peer, _place) = pair(|builder| pausing(builder).keep_alive_timeout(silence));
    let call = session.invoker().invoke("m", ()).unwrap();
    let (id, _) = peer.asked();
    let says: String = (0..30).map(|n| item(id, n, KIB)).collect();
    peer.say_raw(says.as_bytes());
    poll_until("it is full", || session.stats().frames_read >= 10);
    assert!(!session.wait_closed(2 * silence));
    let mut numbers = Vec::new();
    let error = call
        .into_iter()
        .map(|a| a.map(|a| numbers.push(number(&a))))
        .find_map(Result::err)
        .unwrap();
    assert_eq!(numbers, Vec::from_iter(0..30));
    assert!(error.to_string().contains("nothing was heard"), "{error}");
}

#[test]
fn what_a_peer_said_before_it_died_is_lost_to_a_slow_reader() {
    let (session, mut peer, _place) = pair(pausing);
    let call = session.invoker().invoke("m", ()).unwrap();
    let (id, _) = peer.asked();
    let peer = says_many(peer, id, 200, r#"{"jsonrpc":"2.0","#.to_owned());
    poll_until("it is full", || session.stats().frames_read >= 10);
    let dies = thread::spawn(move || peer.join().unwrap().die());
    let mut numbers = Vec::new();
    let error = call
        .into_iter()
        .map(|a| a.map(|a| numbers.push(number(&a))))
        .find_map(Result::err)
        .unwrap();
    assert_eq!(numbers, Vec::from_iter(0..200));
    assert!(error.is_lost(), "{error:?}");
    dies.join().unwrap();
}

// ---- a peer that does not read ------------------------------------------------------------------

/// Far more than the system takes for a peer that does not read.
const QUEUE: usize = 6 << 20;
/// What finds no room even after the system has taken what it will.
const LARGE: usize = QUEUE - 512 * KIB;

/// A session whose peer does not read, and how often it was told so much that nothing more is taken.
fn choked(setup: impl FnOnce(SessionBuilder) -> SessionBuilder) -> (Session, Peer, Place, usize) {
    let place = Place::new();
    socket2::SockRef::from(&place.listener).set_recv_buffer_size(64 * KIB).unwrap();
    let builder =
        Session::builder(JsonRpc::new()).request_timeout(PATIENCE).max_queued_bytes(QUEUE);
    let session = setup(builder).connect(Tcp::new(place.address())).unwrap();
    let peer = place.accept();
    let (invoker, said) = (session.invoker().when_full(WhenFull::Refuse), ["x".repeat(256 * KIB)]);
    let told = (0..).find(|_| {
        let told = invoker.notify("fill", &said);
        told.is_err_and(|error| {
            assert!(error.is_full(), "{error:?}");
            true
        })
    });
    let told = told.unwrap();
    (session, peer, place, told)
}

fn hears_all(peer: &mut Peer, told: usize) {
    for _ in 0..told {
        assert_eq!(peer.hear().unwrap()["method"], "fill");
    }
}

#[test]
fn what_is_refused_for_lack_of_room_is_sent_later() {
    let (session, mut peer, _place, told) = choked(|builder| builder);
    let refusing = session.invoker().when_full(WhenFull::Refuse).timeout(FOR_EVER);
    let large = ["x".repeat(LARGE)];
    let refused = promptly("it is refused", move || refusing.invoke("refused", &large));
    assert!(refused.unwrap_err().is_full());
    assert!(session.stats().queued_bytes as usize <= QUEUE);
    assert_eq!(session.stats().in_flight, 0);
    hears_all(&mut peer, told);
    poll_until("all is written", || is_idle(&session));
    session.invoker().notify("next", ()).unwrap();
    assert_eq!(peer.hear().unwrap()["method"], "next");
}

#[test]
fn who_waits_for_room_waits_for_ever_or_not_at_all() {
    let (session, mut peer, _place, told) = choked(|builder| builder);
    let large = ["x".repeat(LARGE)];
    let before = Instant::now();
    let invoker = session.invoker();
    assert!(invoker.clone().timeout(SHORT).invoke("m", &large).unwrap_err().is_full());
    assert!(before.elapsed() >= SHORT);

    let calls = thread::spawn(move || invoker.call::<u64>("waits", &large));
    hears_all(&mut peer, told);
    let (id, method) = peer.asked();
    assert_eq!(method, "waits");
    peer.answer(id, 1);
    assert_eq!(calls.join().unwrap().unwrap(), 1);
    poll_until("nothing is left", || is_idle(&session));
}

#[test]
fn a_peer_that_does_not_read_keeps_the_session_from_reading() {
    let (tell, told) = mpsc::channel();
    let (session, mut peer, _place, filled) =
        choked(|builder| builder.on_request(move |request: Request| tell.send(request).unwrap()));
    peer.say(&json!({"jsonrpc": "2.0", "id": 1, "method": "m"}));
    let request = told.recv_timeout(PATIENCE).unwrap();
    let answers = thread::spawn(move || request.respond(&7)); // there may be no room yet
    hears_all(&mut peer, filled);
    assert_eq!(peer.hear().unwrap()["result"], 7);
    answers.join().unwrap().unwrap();
    poll_until("nothing is left", || is_idle(&session));
}

#[test]
fn a_close_waits_for_a_peer_that_does_not_read() {
    let (session, _peer, _place, _) = choked(|builder| builder);
    let (invoker, large) = (session.invoker().timeout(TOO_LONG), ["x".repeat(LARGE)]);
    let waits = thread::spawn(move || invoker.invoke("m", &large).unwrap_err());
    promptly("it closes", move || {
        let before = Instant::now();
        assert!(session.close(SHORT));
        assert!(before.elapsed() >= SHORT, "there was something to write");
        assert!(waits.join().unwrap().is_closed());
        assert!(is_idle(&session));
    });
}

#[test]
fn a_peer_that_dies_leaves_those_waiting_for_room() {
    let (session, peer, _place, _) = choked(|builder| builder);
    let (invoker, large) = (session.invoker().timeout(TOO_LONG), ["x".repeat(LARGE)]);
    let waits = thread::spawn(move || invoker.invoke("m", &large).unwrap_err());
    peer.die();
    promptly("it is told", move || {
        let error = waits.join().unwrap();
        assert!(error.is_lost(), "{error:?}");
        poll_until("nothing is left", || is_idle(&session));
    });
}

/// It asks for ever and reads none of the errors that it is answered with.
#[test]
fn a_peer_that_only_asks_fills_the_memory() {
    let (session, mut peer, _place) =
        pair(|builder| builder.max_queued_bytes(64 * KIB).max_message_size(64 * KIB));
    let call = session.invoker().invoke("m", ()).unwrap();
    peer.asked();
    let stream = peer.stream().try_clone().unwrap();
    let asks = thread::spawn(move || {
        use std::io::Write;
        // The id is in the answer, too: so few frames fill what the system takes.
        let rest = "x".repeat(8 * KIB);
        let ask = |n: u64| json!({"jsonrpc": "2.0", "id": format!("{n}{rest}"), "method": "m"});
        let some: String = (0..100).map(|n| format!("{}\n", ask(n))).collect();
        let end = Instant::now() + PATIENCE;
        while (&stream).write_all(some.as_bytes()).is_ok() {
            assert!(Instant::now() < end, "it is heard for ever");
        }
    });
    let error = call.answer().unwrap_err();
    asks.join().unwrap();
    assert!(error.is_lost(), "{error:?}");
    assert!(error.to_string().contains("reads no answers"), "{error}");
    poll_until("nothing is left", || is_idle(&session));
}

// ---- invocations in flight ----------------------------------------------------------------------

#[test]
fn more_invocations_than_may_be_are_in_flight() {
    let (session, mut peer, _place) = pair(|builder| builder.max_in_flight(2));
    let invoker = session.invoker();
    let (first, second) = (invoker.invoke("1", ()).unwrap(), invoker.invoke("2", ()).unwrap());
    let ((first_id, _), _) = (peer.asked(), peer.asked());
    let is_full = |error: SessionError| assert!(error.is_full(), "{error:?}");
    let refusing = invoker.clone().when_full(WhenFull::Refuse).timeout(FOR_EVER);
    let refused = refusing.clone();
    is_full(promptly("it is refused", move || refused.invoke("refused", ()).unwrap_err()));
    let before = Instant::now();
    is_full(invoker.clone().timeout(SHORT).invoke("too late", ()).unwrap_err());
    assert!(before.elapsed() >= SHORT);
    invoker.notify("no invocation", ()).unwrap();
    assert_eq!(peer.hear().unwrap()["method"], "no invocation"); // and nothing before it

    // One that is answered makes room, and so does one that is dropped.
    let waiting = [3, 4].map(|n| {
        let invoker = invoker.clone();
        thread::spawn(move || invoker.call::<u64>("waits", [n]))
    });
    peer.answer(first_id, 1);
    first.answer().unwrap();
    let (id, method) = peer.asked();
    assert_eq!(method, "waits");
    drop(second);
    assert_eq!(peer.hear().unwrap()["method"], "$/cancelRequest");
    peer.answer(id, 1);
    let (id, _) = peer.asked();
    peer.answer(id, 1);
    waiting.into_iter().for_each(|waits| assert_eq!(waits.join().unwrap().unwrap(), 1));
    poll_until("nothing is left", || is_idle(&session));
}

#[test]
fn a_close_leaves_those_waiting_who_found_too_many_in_flight() {
    let (session, mut peer, _place) = pair(|builder| builder.max_in_flight(1));
    let held = session.invoker().invoke("held", ()).unwrap();
    peer.asked();
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let invoker = session.invoker().timeout(TOO_LONG);
            thread::spawn(move || invoker.invoke("waits", ()).unwrap_err())
        })
        .collect();
    promptly("all are told", move || {
        assert!(session.close(PATIENCE));
        waiting.into_iter().for_each(|waits| assert!(waits.join().unwrap().is_closed()));
        assert!(held.answer().unwrap_err().is_closed());
        assert!(is_idle(&session));
    });
}

/// Sixty-four threads through a gap of two.
#[test]
fn a_wake_up_for_room_is_lost() {
    let (session, mut peer, _place) = pair(|builder| builder.max_in_flight(2));
    let peer = thread::spawn(move || {
        while let Some(asked) = peer.hear() {
            peer.answer(asked["id"].as_u64().unwrap(), 1);
        }
    });
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let invoker = session.invoker();
            thread::spawn(move || {
                (0..20).for_each(|_| assert_eq!(invoker.call::<u64>("m", &()).unwrap(), 1));
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    assert!(is_idle(&session));
    drop(session);
    peer.join().unwrap();
}
