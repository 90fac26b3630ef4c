//! What can go wrong between two connections of a session.

#![cfg(all(feature = "duplex", unix))]

#[path = "support/peer.rs"]
mod peer;
mod support;

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_core::Stream;
use peer::{Peer, Place, SHORT};
use serde_json::json;
use sessile::session::JsonRpc;
use sessile::session::duplex::{Connect, Invocation, Link, LinkOptions, Session, Tcp};
use support::{FOR_EVER, Gate, PATIENCE, block_on, poll_until, promptly};

/// Dials once by itself, and then when the test says so.
struct WhenTold {
    tcp: Tcp,
    first: bool,
    told: Gate,
}

impl Connect for WhenTold {
    fn connect(&mut self, options: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        if !std::mem::take(&mut self.first) {
            self.told.pass();
        }
        self.tcp.connect(options)
    }
}

/// A session that has lost its connection, and what has it make the next.
fn away() -> (Session, Place, Gate) {
    let (place, told) = (Place::new(), Gate::new());
    let connector = WhenTold { tcp: Tcp::new(place.address()), first: true, told: told.clone() };
    let session = Session::builder(JsonRpc::new())
        .request_timeout(FOR_EVER)
        .max_in_flight(1 << 20)
        .reconnect(SHORT, SHORT)
        .connect(connector)
        .unwrap();
    place.accept().die();
    told.wait_for_arrival();
    (session, place, told)
}

fn is_idle(session: &Session) -> bool {
    let stats = session.stats();
    (stats.in_flight, stats.queued_bytes) == (0, 0)
}

fn hears(peer: &mut Peer, methods: &[&str]) {
    methods.iter().for_each(|method| assert_eq!(peer.hear().unwrap()["method"], **method));
}

// ---- calls that wait for a connection -----------------------------------------------------------

#[test]
fn calls_that_wait_for_a_connection_are_lost_change_places_or_are_made_though_nobody_waits() {
    let (session, place, told) = away();
    let invoker = session.invoker();
    let call = |method: &str| invoker.invoke(method, ()).unwrap();
    let (first, dropped) = (call("first"), call("dropped"));
    invoker.notify("told", ()).unwrap();
    let (second, late) = (call("second"), invoker.clone().timeout(SHORT));
    assert!(late.call::<u64>("late", &()).unwrap_err().is_timeout());
    drop(dropped);
    let third = call("third");
    told.open();
    let mut peer = place.accept();
    hears(&mut peer, &["first", "told", "second", "third"]);
    for call in [first, second, third] {
        peer.answer(call.id(), 1);
        assert_eq!(call.answer().unwrap().as_str(), "1");
    }
    poll_until("nothing is left", || is_idle(&session));
}

#[test]
fn who_awaits_an_answer_waits_for_the_next_connection_for_ever() {
    let (session, place, told) = away();
    let mut call = session.invoker().timeout(SHORT).invoke("late", ()).unwrap();
    let mut next = || block_on(poll_fn(|cx| Pin::new(&mut call).poll_next(cx)));
    let error = next().expect("it is told in time").unwrap().unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert!(next().expect("it is over").is_none());
    drop(call);
    poll_until("nothing is left", || is_idle(&session));
    session.invoker().notify("next", ()).unwrap();
    told.open();
    hears(&mut place.accept(), &["next"]);
}

/// What each costs must not grow with how many there are.
#[test]
fn many_calls_that_wait_for_a_connection_are_dropped_one_by_one_for_minutes() {
    let (session, _place, told) = away();
    let calls: Vec<Invocation> =
        (0..200_000).map(|_| session.invoker().invoke("m", ()).unwrap()).collect();
    assert!(session.stats().queued_bytes > 0);
    promptly("they are dropped", move || {
        drop(calls);
        poll_until("nothing is left of them", || is_idle(&session));
        told.open();
    });
}

// ---- a peer that hangs up -----------------------------------------------------------------------

/// It takes each connection, says something, and hangs up: it is dialled more and more rarely.
#[test]
fn a_peer_that_hangs_up_at_once_is_dialled_again_as_soon_as_ever() {
    let place = Place::new();
    let builder = Session::builder(JsonRpc::new()).reconnect(SHORT, FOR_EVER);
    let session = builder.connect(Tcp::new(place.address())).unwrap();
    promptly("it takes its time", move || {
        let mut before = Instant::now();
        loop {
            let peer = place.accept();
            if before.elapsed() > 16 * SHORT {
                break;
            }
            before = Instant::now();
            peer.say(&json!({"jsonrpc": "2.0", "method": "go away"}));
            peer.die();
        }
        drop(session);
    });
}

// ---- what comes first ---------------------------------------------------------------------------

/// On the first connection and on the next.
#[test]
fn on_connect_calls_before_anything_pending_goes_out() {
    let place = Place::new();
    let session = Session::builder(JsonRpc::new())
        .request_timeout(FOR_EVER)
        .reconnect(SHORT, SHORT)
        .on_connect(|invoker| {
            invoker.call::<u64>("hello", ())?;
            Ok(())
        });
    let dials = std::thread::spawn({
        let address = place.address();
        move || session.connect(Tcp::new(address)).unwrap()
    });
    let mut peer = place.accept();
    hears_hello(&mut peer);
    let session = dials.join().unwrap();
    peer.die();
    poll_until("it is lost", || {
        session.stats().connections > 1 || session.wait_connected(Duration::ZERO).is_err()
    });
    let pending = session.invoker().invoke("pending", ()).unwrap();
    let mut peer = place.accept();
    hears_hello(&mut peer);
    hears(&mut peer, &["pending"]);
    peer.answer(pending.id(), 1);
    assert_eq!(pending.answer().unwrap().as_str(), "1");
}

fn hears_hello(peer: &mut Peer) {
    let (id, method) = peer.asked();
    assert_eq!(method, "hello");
    peer.answer(id, 1);
}

// ---- from the beginning -------------------------------------------------------------------------

#[test]
fn a_session_that_was_started_to_reconnect_goes_on_trying_from_the_beginning() {
    let place = Place::new();
    let address = place.address();
    drop(place); // nobody listens there
    let (told, errors) = std::sync::mpsc::channel();
    let session = Session::builder(JsonRpc::new())
        .request_timeout(FOR_EVER)
        .reconnect(SHORT, SHORT)
        .on_error(move |error| drop(told.send(format!("{error:#}"))))
        .start(Tcp::new(&address))
        .unwrap();
    let waits = session.invoker().invoke("waits", ()).unwrap();
    for _ in 0..2 {
        let error = errors.recv_timeout(PATIENCE).unwrap();
        assert!(error.contains("tried again") && error.contains("refused"), "{error}");
    }
    assert!(session.wait_connected(Duration::ZERO).unwrap_err().is_timeout());
    let listener = std::net::TcpListener::bind(&address).unwrap();
    let mut peer = Peer::new(listener.accept().unwrap().0);
    hears(&mut peer, &["waits"]);
    peer.answer(waits.id(), 1);
    assert_eq!(waits.answer().unwrap().as_str(), "1");
    session.wait_connected(PATIENCE).unwrap();
}

#[test]
fn who_waits_for_the_first_connection_is_told_that_there_is_none() {
    let place = Place::new();
    let address = place.address();
    drop(place);
    let builder = || Session::builder(JsonRpc::new());
    let error = builder().reconnect(SHORT, SHORT).connect(Tcp::new(&address)).unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let session = builder().start(Tcp::new(&address)).unwrap();
    assert!(session.invoker().call::<u64>("m", ()).unwrap_err().is_lost());
    assert!(session.wait_connected(PATIENCE).unwrap_err().is_lost());
    assert!(session.wait_closed(PATIENCE));
}

#[test]
fn a_session_that_has_its_greeting_refused_tries_again_from_the_beginning() {
    let place = Place::new();
    let session = Session::builder(JsonRpc::new())
        .reconnect(SHORT, SHORT)
        .on_connect(|invoker| Ok(invoker.call::<()>("hello", ())?))
        .start(Tcp::new(place.address()))
        .unwrap();
    let mut peer = place.accept();
    let (id, _) = peer.asked();
    peer.say(&json!({"id": id, "error": {"code": 1, "message": "not yet"}}));
    let mut peer = place.accept();
    hears_hello_null(&mut peer);
    session.wait_connected(PATIENCE).unwrap();
}

fn hears_hello_null(peer: &mut Peer) {
    let (id, method) = peer.asked();
    assert_eq!(method, "hello");
    peer.say(&json!({"id": id, "result": null}));
}
