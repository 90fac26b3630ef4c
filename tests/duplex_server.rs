//! A server and its clients: who is let in, who waits, who is told what, and how it ends.

#![cfg(all(feature = "duplex", unix))]

#[path = "support/peer.rs"]
mod peer;
mod support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use peer::{Peer, SHORT};
use serde_json::{Value, json};
use sessile::Registry;
use sessile::session::duplex::{
    Client, Request, Server, ServerBuilder, Session, SessionBuilder, Tcp, Unix, WhenFull,
};
use sessile::session::{JsonRpc, SessionError};
use support::{FOR_EVER, Gate, PATIENCE, Watched, poll_until, promptly};

fn answers(request: Request) {
    let params: Value = request.parse().unwrap();
    let _ = request.respond(&params);
}

fn echo() -> SessionBuilder {
    Session::builder(JsonRpc::new()).on_request(answers)
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// A server over TCP, and its address.
fn serve(builder: ServerBuilder) -> (Server, SocketAddr) {
    let server = builder.listen(listener()).unwrap();
    let address = server.local_addr().unwrap();
    (server, address)
}

fn dial(address: SocketAddr) -> Session {
    let builder = Session::builder(JsonRpc::new()).request_timeout(PATIENCE);
    builder.connect(Tcp::new(address)).unwrap()
}

fn raw(address: SocketAddr) -> Peer {
    Peer::new(TcpStream::connect(address).unwrap())
}

fn echoed(session: &Session) {
    assert_eq!(session.invoker().call::<Value>("echo", [1]).unwrap(), json!([1]));
}

fn ask(peer: &Peer, id: u64) {
    peer.say(&json!({"jsonrpc": "2.0", "id": id, "method": "m", "params": [id]}));
}

// ---- who is there -------------------------------------------------------------------------------

#[test]
fn each_client_has_a_session_of_its_own_and_is_told_from_the_others() {
    let (server, address) = serve(Server::builder(|client| {
        let id = client.id();
        Session::builder(JsonRpc::new()).on_request(move |request| {
            let _ = request.respond(&id);
        })
    }));
    let asked: Vec<(u64, Session)> = (0..8)
        .map(|_| {
            let session = dial(address);
            (session.invoker().call("who", ()).unwrap(), session)
        })
        .collect();
    thread::scope(|scope| {
        for (id, session) in &asked {
            scope.spawn(move || {
                for _ in 0..50 {
                    assert_eq!(session.invoker().call::<u64>("who", ()).unwrap(), *id);
                }
            });
        }
    });
    let clients = server.clients();
    let ids = Vec::from_iter(clients.iter().map(Client::id));
    assert_eq!(ids, Vec::from_iter(1..=8));
    assert!(clients.iter().all(|client| client.peer_addr().unwrap().ip().is_loopback()));
    assert_eq!((server.stats().clients, server.stats().accepted), (8, 8));
}

#[test]
fn a_server_calls_its_clients_and_tells_when_they_come_and_go() {
    let told: &'static Watched<Vec<String>> = Box::leak(Box::default());
    let note = |what: String| told.change(|told| told.push(what));
    let (server, address) = serve(
        Server::builder(|_| echo())
            .on_connect(move |client, invoker| {
                let name: String = invoker.call("name", ())?;
                note(format!("{} is {name}", client.id()));
                Ok(())
            })
            .on_close(move |client, why| note(format!("{} went, {}", client.id(), why.is_lost()))),
    );
    let mut ada = raw(address);
    let (id, method) = ada.asked();
    assert_eq!(method, "name");
    ada.answer(id, "Ada");
    told.wait_until("she is here", |told| told.len() == 1);
    let client = server.clients().remove(0);
    server.invoker(&client).unwrap().notify("news", ()).unwrap();
    assert_eq!(ada.hear().unwrap()["method"], "news");
    ask(&ada, 7);
    assert_eq!(ada.hear().unwrap()["id"], 7);
    ada.die();
    told.wait_until("she is gone", |told| told.len() == 2);
    assert_eq!(told.read(Clone::clone), ["1 is Ada", "1 went, true"]);
    poll_until("her place is free", || server.stats().clients == 0);
    assert!(server.invoker(&client).is_none());
    assert!(!server.disconnect(&client, SHORT));
}

#[test]
fn a_client_whose_greeting_fails_is_left_and_the_server_goes_on() {
    let (told, errors) = mpsc::channel();
    let (server, address) = serve(
        Server::builder(|_| echo())
            .on_connect(|client, _| match client.id() {
                1 => anyhow::bail!("not you"),
                2 => panic!("what a client"),
                _ => Ok(()),
            })
            .on_error(move |error| told.send(format!("{error:#}")).unwrap()),
    );
    for why in ["not you", "what a client"] {
        assert!(raw(address).is_left());
        let error = errors.recv_timeout(PATIENCE).unwrap();
        assert!(error.contains("was not let in") && error.contains(why), "{error}");
    }
    let session = dial(address);
    echoed(&session);
    assert_eq!(server.stats().failed, 2);
}

#[test]
fn a_client_whose_session_cannot_be_set_up_is_left_and_the_server_goes_on() {
    let (told, errors) = mpsc::channel();
    let (_server, address) = serve(
        Server::builder(|client| {
            assert!(client.id() != 1, "who is this?");
            echo()
        })
        .on_error(move |error| told.send(format!("{error:#}")).unwrap()),
    );
    assert!(raw(address).is_left());
    assert!(errors.recv_timeout(PATIENCE).unwrap().contains("who is this?"));
    echoed(&dial(address));
}

#[test]
fn clients_are_served_over_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("sessile-server-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let server = Server::builder(|_| echo()).listen(UnixListener::bind(&path).unwrap()).unwrap();
    assert_eq!(server.local_addr(), None);
    let session = Session::builder(JsonRpc::new()).connect(Unix::new(&path)).unwrap();
    echoed(&session);
    assert_eq!(server.clients()[0].peer_addr(), None);
    assert_eq!(server.clients()[0].to_string(), "client 1");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_client_is_disconnected_after_it_was_answered() {
    let (asks, asked) = mpsc::channel();
    let (server, address) = serve(Server::builder(move |_| {
        let asks = asks.clone();
        Session::builder(JsonRpc::new()).on_request(move |request| asks.send(request).unwrap())
    }));
    let (mut out, stays) = (raw(address), raw(address));
    ask(&out, 1);
    let request = asked.recv_timeout(PATIENCE).unwrap();
    poll_until("both are here", || server.clients().len() == 2);
    let who = server.clients().into_iter().find(|client| client.id() == 1).unwrap();
    assert!(server.disconnect(&who, FOR_EVER));
    request.respond(&"done").unwrap();
    assert_eq!(out.hear().unwrap()["result"], "done");
    assert!(out.is_left());
    poll_until("its place is free", || server.clients().len() == 1);
    ask(&stays, 2);
    asked.recv_timeout(PATIENCE).unwrap();
}

// ---- a limit ------------------------------------------------------------------------------------

#[test]
fn a_client_beyond_the_limit_waits_until_another_goes() {
    let (server, address) = serve(Server::builder(|_| echo()).max_clients(2));
    let (first, second) = (dial(address), dial(address));
    echoed(&first);
    echoed(&second);
    let third = dial(address); // the system has connected it
    let waits = third.invoker().invoke("echo", [3]).unwrap();
    assert_eq!((server.stats().clients, server.stats().accepted), (2, 2));
    drop(first);
    assert_eq!(waits.answer().unwrap().as_str(), "[3]");
    echoed(&second);
    assert_eq!(server.stats().accepted, 3);
}

#[test]
fn a_client_beyond_the_limit_is_refused_and_told_so() {
    let (told, errors) = mpsc::channel();
    let (server, address) = serve(
        Server::builder(|_| echo())
            .max_clients(1)
            .when_full(WhenFull::Refuse)
            .on_error(move |error| told.send(error.to_string()).unwrap()),
    );
    let first = dial(address);
    echoed(&first);
    let mut refused = raw(address);
    ask(&refused, 1);
    let heard = refused.hear().unwrap();
    assert_eq!((&heard["id"], &heard["error"]["code"]), (&Value::Null, &json!(-32000)), "{heard}");
    assert!(heard["error"]["message"].as_str().unwrap().contains("no room"), "{heard}");
    assert!(refused.is_left());
    let error = errors.recv_timeout(PATIENCE).unwrap();
    assert!(error.contains("there is room for 1 client ("), "{error}");
    assert_eq!(server.stats().refused, 1);
    drop(first);
    poll_until("there is room", || server.stats().clients == 0);
    echoed(&dial(address));
}

// ---- the end ------------------------------------------------------------------------------------

/// A server whose handlers take what they are asked, and answer when the test says so.
fn holding() -> (Server, SocketAddr, mpsc::Receiver<Request>) {
    let (asks, asked) = mpsc::channel();
    let (server, address) = serve(Server::builder(move |_| {
        let asks = asks.clone();
        Session::builder(JsonRpc::new())
            .request_timeout(PATIENCE)
            .on_request(move |request| asks.send(request).unwrap())
    }));
    (server, address, asked)
}

#[test]
fn what_clients_have_asked_is_answered_before_a_server_is_closed() {
    let (server, address, asked) = holding();
    let (mut busy, idle) = (raw(address), raw(address));
    ask(&busy, 1);
    let request = asked.recv_timeout(PATIENCE).unwrap();
    poll_until("both are here", || server.clients().len() == 2);
    let closes = thread::spawn(move || (server.close(FOR_EVER), server));
    let mut idle = idle;
    assert!(idle.is_left(), "nobody waits for one that has asked for nothing");
    // Each session is told by itself; until then it is answered as ever.
    let taken = thread::spawn(move || {
        asked.iter().for_each(|request: Request| request.respond(&"taken").unwrap());
    });
    let refused = (2..)
        .find_map(|id| {
            ask(&busy, id);
            let heard = busy.hear().unwrap();
            assert_eq!(heard["id"], id);
            (heard["result"] != "taken").then_some(heard)
        })
        .unwrap();
    assert_eq!(refused["error"]["code"], -32000, "{refused}");
    // A handler may call back, and is answered.
    let calls = thread::spawn(move || {
        let name: String = request.invoker().call("name", ()).unwrap();
        request.respond(&name).unwrap();
    });
    let (id, method) = busy.asked();
    assert_eq!(method, "name");
    busy.answer(id, "Ada");
    calls.join().unwrap();
    assert_eq!(busy.hear().unwrap()["result"], "Ada");
    assert!(busy.is_left());
    let (report, server) = closes.join().unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(report.drained, 2);
    assert!(server.is_closed() && server.wait_closed(Duration::ZERO));
    assert!(TcpStream::connect(address).is_err());
    drop(server);
    taken.join().unwrap();
}

#[test]
fn a_close_names_those_whom_it_left_unanswered() {
    let (server, address, asked) = holding();
    let (mut busy, mut idle) = (raw(address), raw(address));
    ask(&busy, 1);
    let request = asked.recv_timeout(PATIENCE).unwrap();
    poll_until("both are here", || server.clients().len() == 2);
    let report = promptly("it closes", move || server.close(Duration::from_millis(300)));
    assert_eq!(report.left.iter().map(Client::id).collect::<Vec<_>>(), [1], "{report:?}");
    assert_eq!(report.drained, 1);
    assert!(busy.is_left() && idle.is_left());
    assert!(request.is_cancelled());
}

#[test]
fn a_server_is_listed_with_its_sessions_and_closed_by_its_registry() {
    let registry = Registry::new();
    let (told, why) = mpsc::channel();
    let (server, address) = serve(
        Server::builder(|_| echo())
            .name("rpc")
            .registry(&registry)
            .on_close(move |_, why| told.send(why.is_closed()).unwrap()),
    );
    let session = dial(address);
    echoed(&session);
    let client = server.clients().remove(0);
    let listed = registry.snapshot().instances;
    let pools = Vec::from_iter(listed.iter().map(|instance| instance.pool.clone()));
    assert_eq!(pools, ["rpc".to_owned(), format!("rpc {client}")]);
    let report = promptly("all is closed", {
        let registry = registry.clone();
        move || registry.close_all(PATIENCE)
    });
    assert_eq!(report.still_open.len(), 0, "{report:?}");
    assert!(why.recv_timeout(PATIENCE).unwrap(), "it was closed on this side");
    assert!(session.wait_closed(PATIENCE));
    assert!(server.wait_closed(PATIENCE));
    assert!(registry.snapshot().instances.is_empty());
}

#[test]
fn a_server_that_is_dropped_leaves_its_clients() {
    let (server, address) = serve(Server::builder(|_| echo()));
    let session = dial(address);
    echoed(&session);
    drop(server);
    assert!(session.wait_closed(PATIENCE));
    let error: SessionError = session.invoker().call::<Value>("echo", ()).unwrap_err();
    assert!(error.is_lost(), "{error:?}");
}

/// Neither in the handlers of one, nor in its socket, nor in its greeting.
#[test]
fn a_client_that_is_slow_holds_up_nobody() {
    let gate = Gate::new();
    let greeting = gate.clone();
    let (server, address) = serve(
        Server::builder(|_| echo().max_message_size(64 << 20)).on_connect(move |client, _| {
            if client.id() == 1 {
                greeting.pass();
            }
            Ok(())
        }),
    );
    let _greeted = raw(address);
    gate.wait_for_arrival();
    let deaf = raw(address);
    // It asks for more than any buffer holds, and reads nothing of it.
    let large = json!({"jsonrpc": "2.0", "id": 1, "method": "m", "params": ["x".repeat(16 << 20)]});
    deaf.say(&large);
    for _ in 0..4 {
        let session = dial(address);
        promptly("it is answered", move || echoed(&session));
    }
    gate.open();
    drop(deaf);
    drop(server);
}

// ---- WebSockets ---------------------------------------------------------------------------------

#[cfg(feature = "ws")]
mod websocket {
    use std::io::{Read, Write};

    use sessile::session::ConnectOptions;
    use sessile::session::duplex::{AcceptOptions, Listener, UpgradeResponse, WebSocket};
    use sessile::session::websocket::ConnectError;

    use super::*;

    fn over(builder: ServerBuilder, options: AcceptOptions) -> (Server, SocketAddr) {
        let server = builder.listen(Listener::websocket(listener(), options)).unwrap();
        let address = server.local_addr().unwrap();
        (server, address)
    }

    fn at(address: SocketAddr, path: &str) -> Result<Session, SessionError> {
        let builder = Session::builder(JsonRpc::new()).request_timeout(PATIENCE);
        let options = ConnectOptions::new(format!("ws://{address}{path}"));
        builder.connect(WebSocket::new(options.header("X-Tenant", "blue")))
    }

    #[test]
    fn what_a_websocket_client_has_asked_for_sets_up_its_session() {
        let (told, went) = mpsc::channel();
        let (server, address) = over(
            Server::builder(|client| {
                let asked = client.upgrade().expect("it has asked for a WebSocket");
                let tenant = asked.header("x-tenant").unwrap_or_default();
                let said = format!("{} {tenant} {:?}", asked.path(), asked.query());
                Session::builder(JsonRpc::new())
                    .on_request(move |request| drop(request.respond(&said)))
            })
            .on_close(move |client, _| {
                let path = client.upgrade().unwrap().path().to_owned();
                told.send((client.peer_addr(), path)).unwrap();
            }),
            AcceptOptions::new().on_upgrade(|request| match request.path() {
                "/secret" => UpgradeResponse::refuse(404, "no such thing"),
                _ => UpgradeResponse::accept(),
            }),
        );
        let session = at(address, "/rpc?a=1").unwrap();
        let said: String = session.invoker().call("m", ()).unwrap();
        assert_eq!(said, r#"/rpc blue Some("a=1")"#);
        assert!(at(address, "/secret").unwrap_err().is_connect());
        let client = server.clients().remove(0);
        assert_eq!(client.upgrade().unwrap().path(), "/rpc");
        drop(session);
        let (peer, path) = went.recv_timeout(PATIENCE).unwrap();
        assert_eq!((peer, &*path), (client.peer_addr(), "/rpc"));
        poll_until("it was counted", || server.stats().failed == 1);
    }

    #[test]
    fn a_client_that_is_slow_to_ask_for_a_websocket_holds_up_nobody_and_is_left() {
        let (told, errors) = mpsc::channel();
        let (server, address) = over(
            Server::builder(|_| echo())
                .handshake_timeout(Duration::from_secs(2))
                .on_error(move |error| told.send(format!("{error:#}")).unwrap()),
            AcceptOptions::new(),
        );
        let mut silent: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
        silent[0].write_all(b"GET / HT").unwrap();
        promptly("the others are served", move || echoed(&at(address, "/").unwrap()));
        for silent in &mut silent {
            silent.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = silent.read(&mut [0; 64]).unwrap(); // it is left
            let error = errors.recv_timeout(PATIENCE).unwrap();
            assert!(error.contains("was not let in"), "{error}");
        }
        poll_until("their places are free", || server.stats().clients == 0);
        assert_eq!(server.stats().failed, 8);
    }

    #[test]
    fn a_client_that_is_slow_to_ask_for_a_websocket_holds_up_no_close() {
        let (server, address) =
            over(Server::builder(|_| echo()).handshake_timeout(FOR_EVER), AcceptOptions::new());
        let mut silent = TcpStream::connect(address).unwrap();
        poll_until("it is being let in", || server.stats().clients == 1);
        let report = promptly("it closes", move || server.close(PATIENCE));
        assert!(report.is_complete(), "{report:?}");
        assert!(matches!(silent.read(&mut [0]), Ok(0) | Err(_)));
    }

    #[test]
    fn a_websocket_client_beyond_the_limit_is_refused_by_its_status() {
        let builder = Server::builder(|_| echo()).max_clients(1).when_full(WhenFull::Refuse);
        let (_server, address) = over(builder, AcceptOptions::new());
        let first = at(address, "/").unwrap();
        echoed(&first);
        let refused = at(address, "/").unwrap_err();
        let source = std::error::Error::source(&refused).unwrap();
        let error: &ConnectError = source.downcast_ref().unwrap();
        assert_eq!(error.http_status(), Some(503), "{error}");
        assert!(error.to_string().contains("no room"), "{error}");
        echoed(&first);
    }

    #[test]
    fn a_websocket_client_is_told_of_a_close_by_a_close_frame() {
        let (server, address) = over(Server::builder(|_| echo()), AcceptOptions::new());
        let session = at(address, "/").unwrap();
        echoed(&session);
        assert!(server.close(PATIENCE).is_complete());
        assert!(session.wait_closed(PATIENCE));
        let error = session.invoker().call::<Value>("echo", ()).unwrap_err().to_string();
        assert!(error.contains("1000") || error.contains("1001"), "{error}");
    }
}
