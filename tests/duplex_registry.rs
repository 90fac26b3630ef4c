//! What the registry may miss of a session, or leave open.

#![cfg(all(feature = "duplex", unix))]

#[path = "support/peer.rs"]
mod peer;
mod support;

use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use peer::{Peer, SHORT, pair};
use serde_json::json;
use sessile::Registry;
use sessile::registry::{InstanceInfo, InstanceState};
use sessile::session::JsonRpc;
use sessile::session::duplex::{Connect, Link, LinkOptions, Request, Session, SessionBuilder};
use support::{FOR_EVER, Gate, PATIENCE, TOO_LONG, poll_until, promptly};

fn listed(registry: &Registry) -> Vec<InstanceInfo> {
    registry.snapshot().instances
}

/// A session that this registry lists, and its peer.
fn of(
    registry: &Registry,
    setup: impl FnOnce(SessionBuilder) -> SessionBuilder,
) -> (Session, Peer) {
    let (session, peer, _) = pair(|builder| setup(builder.registry(registry)));
    (session, peer)
}

#[test]
fn a_session_is_not_listed_or_stays_in_the_list() {
    let registry = Registry::new();
    let (session, _peer) = of(&registry, |builder| builder.name("to the peer"));
    let (other, _other_peer) = of(&registry, |builder| builder);
    let all = listed(&registry);
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!((&*all[0].pool, all[0].state), ("to the peer", InstanceState::Busy));
    assert_eq!(all[0].owner.name.as_deref(), Some("to the peer"));
    assert_eq!((&*all[1].pool, all[1].owner.name.as_deref()), ("session", Some("session")));
    assert!(session.close(PATIENCE));
    let left: Vec<_> = listed(&registry).into_iter().map(|instance| instance.id).collect();
    assert_eq!(left, [all[1].id]);
    drop(other);
    assert!(listed(&registry).is_empty());
    assert!(registry.snapshot().pools.is_empty());
}

#[test]
fn a_session_is_left_open_by_its_registry_or_loses_what_was_said() {
    let registry = Registry::new();
    let (session, mut peer) = of(&registry, |builder| builder);
    let call = session.invoker().invoke("m", ()).unwrap();
    let waits = thread::spawn(move || call.answer().unwrap_err());
    peer.asked();
    (0..100).for_each(|n| session.invoker().notify("last words", [n]).unwrap());
    let report = promptly("it closes", move || registry.close_all(PATIENCE));
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.closed, 1);
    assert!(session.is_closed());
    assert!(waits.join().unwrap().is_closed());
    assert!(session.invoker().notify("more", ()).unwrap_err().is_closed());
    (0..100).for_each(|n| assert_eq!(peer.hear().unwrap()["params"], json!([n])));
    assert!(peer.is_left());
}

#[test]
fn a_session_that_is_evicted_stays() {
    let registry = Registry::new();
    let ((session, mut peer), (other, _peer)) =
        (of(&registry, |builder| builder), of(&registry, |builder| builder));
    assert!(registry.evict(listed(&registry)[0].id));
    assert!(session.wait_closed(PATIENCE));
    assert!(peer.is_left());
    poll_until("it is listed no more", || listed(&registry).len() == 1);
    assert!(!other.is_closed());
}

/// What it cannot be told it is not told.
#[test]
fn a_peer_that_does_not_read_keeps_the_registry_from_closing() {
    let registry = Registry::new();
    let (session, _peer) = of(&registry, |builder| builder.close_timeout(SHORT));
    session.invoker().notify("fill", ["x".repeat(15 << 20)]).unwrap();
    let report = promptly("it closes", move || registry.close_all(TOO_LONG));
    assert!(report.is_clean(), "{report:?}");
    assert!(session.close(FOR_EVER));
}

/// Its own thread may not wait for itself.
#[test]
fn a_session_whose_thread_closes_all_waits_for_itself() {
    let registry = Registry::new();
    let (tell, told) = mpsc::channel();
    let closes = registry.clone();
    let (session, peer) = of(&registry, |builder| {
        builder.on_request(move |_: Request| tell.send(closes.close_all(TOO_LONG)).unwrap())
    });
    peer.say(&json!({"jsonrpc": "2.0", "id": 1, "method": "m"}));
    let report = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!((report.closed, report.still_open.len()), (0, 1));
    assert!(session.wait_closed(PATIENCE));
    poll_until("it is listed no more", || listed(&registry).is_empty());
}

#[test]
fn a_session_whose_handler_blocks_is_said_to_be_closed() {
    let (registry, gate) = (Registry::new(), Gate::new());
    let held = gate.clone();
    let (session, peer) = of(&registry, |builder| {
        builder.on_request(move |request: Request| {
            held.pass();
            request.respond(&1).unwrap();
        })
    });
    peer.say(&json!({"jsonrpc": "2.0", "id": 1, "method": "m"}));
    gate.wait_for_arrival();
    assert_eq!(registry.close_all(SHORT).still_open.len(), 1);
    assert_eq!(listed(&registry)[0].state, InstanceState::Closing);
    gate.open();
    assert!(session.wait_closed(PATIENCE));
    assert!(registry.close_all(PATIENCE).is_clean());
    assert!(listed(&registry).is_empty());
}

/// Dials until it is told to give up.
struct Dials(Gate);

impl Connect for Dials {
    fn connect(&mut self, _: &LinkOptions) -> anyhow::Result<Box<dyn Link>> {
        self.0.pass();
        anyhow::bail!("nobody is there")
    }
}

#[test]
fn a_session_that_still_dials_is_waited_for() {
    let (registry, gate) = (Registry::new(), Gate::new());
    let builder = Session::builder(JsonRpc::new()).registry(&registry);
    let connector = Dials(gate.clone());
    let connects = thread::spawn(move || builder.connect(connector).unwrap_err());
    gate.wait_for_arrival();
    let report = promptly("it closes", move || registry.close_all(TOO_LONG));
    assert!(report.is_clean(), "{report:?}");
    let error = connects.join().unwrap();
    assert!(error.is_connect() && format!("{error:?}").contains("closed"), "{error:?}");
    gate.open();
}

/// Between two connections, too.
#[test]
fn a_session_that_waits_to_dial_is_waited_for() {
    let registry = Registry::new();
    let (session, peer) = of(&registry, |builder| builder.reconnect(FOR_EVER, FOR_EVER));
    peer.die();
    poll_until("it is lost", || session.wait_connected(Duration::ZERO).is_err());
    assert!(registry.close_all(PATIENCE).is_clean());
    assert!(session.is_closed());
}

#[test]
fn a_session_that_could_not_connect_stays_in_the_list() {
    let registry = Registry::new();
    let place = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = place.local_addr().unwrap().to_string();
    drop(place);
    let builder = Session::builder(JsonRpc::new()).registry(&registry);
    builder.connect(sessile::session::duplex::Tcp::new(address)).unwrap_err();
    assert!(listed(&registry).is_empty());
}
