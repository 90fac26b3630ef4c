//! WebSocket sessions that cannot be connected, take too long to, or tell secrets about it.

#![cfg(feature = "ws")]

#[path = "support/websocket_peer.rs"]
mod peer;
mod support;

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peer::Server;
use sessile::session::SessionError;
use sessile::session::websocket::{
    ConnectError, ConnectStep, WebSocketBuilder, WebSocketManager, WebSocketSession,
};
use support::{Gate, PATIENCE, TOO_LONG, promptly};
use tungstenite::handshake::derive_accept_key;

/// For limits that are to be reached.
const SOON: Duration = Duration::from_millis(100);

fn builder(url: &str) -> WebSocketBuilder {
    WebSocketManager::builder(url).connect_timeout(TOO_LONG)
}

fn connect(builder: WebSocketBuilder) -> Result<WebSocketSession, SessionError> {
    let manager = builder.build().unwrap();
    promptly("connecting", move || manager.connect())
}

#[track_caller]
fn failure(error: &SessionError) -> &ConnectError {
    assert!(error.is_connect(), "{error}");
    error.source().and_then(|source| source.downcast_ref()).expect("it says at which step")
}

#[track_caller]
fn assert_times_out(builder: WebSocketBuilder, step: ConnectStep) {
    // Enough for the steps before, also where they have to wait for a processor.
    let error = connect(builder.connect_timeout(5 * SOON)).unwrap_err();
    let failure = failure(&error);
    assert!(failure.is_timeout(), "{failure:?}");
    assert_eq!(failure.step(), step);
}

fn read_request(tcp: &mut TcpStream) -> String {
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") {
        tcp.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    String::from_utf8(request).unwrap()
}

/// A server that answers the upgrade with these lines; `KEY` is what it should say.
fn answering(answer: &'static str) -> Server {
    Server::raw(move |mut tcp, _| {
        let request = read_request(&mut tcp);
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
        let accept = derive_accept_key(key.unwrap().as_bytes());
        let _ = tcp.write_all(answer.replace("KEY", &accept).replace('\n', "\r\n").as_bytes());
        let _ = tcp.read(&mut [0]); // until the client hangs up
    })
}

const GOOD: &str = "HTTP/1.1 101 Go\nUpgrade: WebSocket\nConnection: keep-alive, upgrade\nSec-WebSocket-Accept: KEY\n";

/// A listener that takes no more connections: what comes is neither accepted nor refused.
fn black_hole() -> (socket2::Socket, Vec<TcpStream>) {
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(tcp) = TcpStream::connect_timeout(&address, SOON) {
        queued.push(tcp);
        assert!(queued.len() < 100, "it takes all");
    }
    (listener, queued)
}

#[test]
#[cfg(target_os = "linux")] // elsewhere a full queue refuses
fn a_host_that_does_not_answer_is_waited_for() {
    let (listener, _queued) = black_hole();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    assert_times_out(builder(&format!("ws://{address}/")), ConnectStep::Tcp);
    // Another address of the host gets its share of the time.
    let server = Server::echo();
    let addresses = vec![address, server.address()];
    let builder = builder("ws://two.example/").resolver(move |_, _| Ok(addresses.clone()));
    let begun = Instant::now();
    let mut session = connect(builder.connect_timeout(Duration::from_secs(2))).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(500), "the first was tried");
    session.request("m", &()).unwrap();
}

#[test]
fn a_server_that_never_upgrades_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // the system accepts, nobody else does
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    assert_times_out(builder(&url), ConnectStep::Upgrade);
}

#[test]
fn a_server_that_upgrades_byte_by_byte_is_waited_for() {
    let server = Server::raw(|mut tcp, _| {
        read_request(&mut tcp);
        tcp.write_all(b"HTTP/1.1 101 Go\r\nX: ").unwrap();
        while tcp.write_all(b"x").is_ok() {
            std::thread::park_timeout(Duration::from_millis(1)); // so as not to fill the limit
        }
    });
    assert_times_out(builder(&server.url()), ConnectStep::Upgrade);
}

#[test]
fn an_answer_without_an_end_uses_up_memory() {
    let server = Server::raw(|mut tcp, _| {
        read_request(&mut tcp);
        tcp.write_all(b"HTTP/1.1 101 Go\r\nX: ").unwrap();
        while tcp.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let error = connect(builder(&server.url())).unwrap_err();
    assert!(failure(&error).to_string().contains("no end"), "{:?}", failure(&error));
}

#[test]
fn a_look_up_that_does_not_end_is_waited_for() {
    let gate = Gate::new();
    let builder = {
        let gate = gate.clone();
        builder("ws://slow.example/").resolver(move |host, port| {
            assert_eq!((host, port), ("slow.example", 80));
            gate.pass();
            Ok(Vec::new())
        })
    };
    assert_times_out(builder, ConnectStep::LookUp);
    gate.open();
}

#[test]
fn a_look_up_that_fails_leaves_the_caller_without_an_error() {
    type LookUp = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;
    let failing: [LookUp; 3] = [
        |_, _| Err(io::Error::other("no such host")),
        |_, _| Ok(Vec::new()),
        |_, _| panic!("on a thread of its own"),
    ];
    for (resolver, step) in
        failing.into_iter().zip([ConnectStep::LookUp, ConnectStep::Tcp, ConnectStep::LookUp])
    {
        let error = connect(builder("ws://nowhere.example/").resolver(resolver)).unwrap_err();
        assert_eq!(failure(&error).step(), step);
        assert!(failure(&error).source().is_some());
    }
    // By the system; `.invalid` is never there.
    let error = connect(builder("ws://sessile.invalid/")).unwrap_err();
    assert_eq!(failure(&error).step(), ConnectStep::LookUp);
}

#[test]
fn a_port_where_nobody_listens_is_not_told_from_other_failures() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = connect(builder(&format!("ws://{free}/"))).unwrap_err();
    assert_eq!(failure(&error).step(), ConnectStep::Tcp);
    let cause = failure(&error).source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused);
    // A second address helps.
    let server = Server::echo();
    let addresses = vec![free, server.address()];
    connect(builder("ws://two.example/").resolver(move |_, _| Ok(addresses.clone()))).unwrap();
}

#[test]
fn an_answer_that_is_no_upgrade_is_taken_for_one() {
    let bad = [
        "HTTP/1.1 101 Go\nConnection: Upgrade\nSec-WebSocket-Accept: KEY\n\n",
        "HTTP/1.1 101 Go\nUpgrade: websocket\nSec-WebSocket-Accept: KEY\n\n",
        "HTTP/1.1 101 Go\nUpgrade: websocket\nConnection: Upgrade\n\n",
        "HTTP/1.1 101 Go\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: x\n\n",
        "HTTP/1.1 what\n\n",
        "SSH-2.0-OpenSSH_9.6\n",
        "HTTP/1.0 101 Go\n\n",
        concat!(
            "HTTP/1.1 101 Go\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: KEY\n",
            "Sec-WebSocket-Extensions: x\n\n"
        ),
        concat!(
            "HTTP/1.1 101 Go\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: KEY\n",
            "Sec-WebSocket-Protocol: x\n\n"
        ),
    ];
    for answer in bad {
        let server = answering(answer);
        let error = connect(builder(&server.url())).unwrap_err();
        assert_eq!(failure(&error).step(), ConnectStep::Upgrade, "{answer}");
        assert!(!failure(&error).is_timeout(), "{answer}");
    }
    for (answer, status) in [
        ("HTTP/1.1 401 Unauthorized\n\nsecret-body", 401),
        ("HTTP/1.1 302 Found\nLocation: ws://127.0.0.1:1/\n\n", 302),
        ("HTTP/1.1 200 OK\n\n", 200),
    ] {
        let server = answering(answer);
        let error = connect(builder(&server.url())).unwrap_err();
        assert_eq!(failure(&error).http_status(), Some(status));
        assert!(failure(&error).to_string().contains(&status.to_string()));
        assert!(!format!("{error:?}").contains("secret-body"));
        drop(server);
    }
}

#[test]
fn a_message_that_comes_with_the_upgrade_is_lost() {
    let server = Server::raw(|mut tcp, _| {
        let request = read_request(&mut tcp);
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
        let accept = derive_accept_key(key.unwrap().as_bytes());
        let mut answer =
            format!("{GOOD}\n").replace("KEY", &accept).replace('\n', "\r\n").into_bytes();
        answer.extend(peer::frame(1, 18, br#"{"method":"hello"}"#));
        tcp.write_all(&answer).unwrap();
        let _ = tcp.read(&mut [0]);
    });
    let mut session = connect(builder(&server.url())).unwrap();
    assert_eq!(session.next_event(PATIENCE).unwrap().unwrap().method, "hello");
}

#[test]
fn the_server_chooses_no_subprotocol_or_another() {
    let choosing = |chosen: &str| {
        let chosen = match chosen {
            "" => String::new(),
            chosen => format!("Sec-WebSocket-Protocol: {chosen}\n"),
        };
        let server = answering(Box::leak(format!("{GOOD}{chosen}\n").into()));
        let asking = builder(&server.url()).subprotocol("rpc.v2").subprotocol("rpc.v1");
        let session = connect(asking);
        session.map(|session| session.subprotocol().map(str::to_owned))
    };
    assert_eq!(choosing("rpc.v1").unwrap().as_deref(), Some("rpc.v1"));
    assert!(failure(&choosing("rpc.v3").unwrap_err()).to_string().contains("not asked for"));
    assert!(failure(&choosing("").unwrap_err()).to_string().contains("none"));
    let server = Server::echo();
    assert_eq!(connect(builder(&server.url())).unwrap().subprotocol(), None);
}

#[test]
fn what_the_request_carries_is_lost_or_is_told_to_others() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let server = Server::raw({
        let seen = Arc::clone(&seen);
        move |mut tcp, _| {
            let request = read_request(&mut tcp);
            seen.lock().unwrap().push(request);
            let _ = tcp.write_all(b"HTTP/1.1 401 secret\r\nX: secret\r\n\r\nsecret");
        }
    });
    let address = server.address();
    let url = format!("ws://user:secret%21@{address}/secret?key=secret");
    let token = || Ok("secret-fresh".to_owned());
    let builders = [
        builder(&url).header("X-Key", "secret").subprotocol("a").subprotocol("b"),
        builder(&url).bearer_token("secret-token"),
        builder(&url).bearer_token_from(token),
        builder(&url).header("authorization", "Other secret"),
    ];
    for builder in builders {
        let told = format!("{builder:?}");
        let manager = builder.build().unwrap();
        let told = format!("{told}{manager:?}");
        let error = manager.connect().unwrap_err();
        let chain = format!("{error}{error:?}");
        let chain = format!("{chain}{:#}", anyhow::Error::from(error));
        assert!(chain.contains("401"), "{chain}");
        assert!(chain.contains(&address.to_string()), "{chain}");
        assert!(!told.contains("secret") && !chain.contains("secret"), "{told}{chain}");
    }
    let seen = seen.lock().unwrap();
    let has = |n: usize, line: &str| {
        let request: &String = &seen[n];
        let found = request.lines().filter(|is| is.eq_ignore_ascii_case(line)).count();
        assert_eq!(found, 1, "{line}\n{request}");
    };
    for n in 0..4 {
        has(n, "GET /secret?key=secret HTTP/1.1");
        has(n, &format!("Host: {address}"));
        let authorizations = seen[n].to_lowercase().matches("authorization:").count();
        assert_eq!(authorizations, 1, "{}", seen[n]);
    }
    has(0, "authorization: Basic dXNlcjpzZWNyZXQh"); // user:secret!
    has(0, "x-key: secret");
    has(0, "sec-websocket-protocol: a, b");
    has(1, "authorization: Bearer secret-token");
    has(2, "authorization: Bearer secret-fresh");
    has(3, "authorization: Other secret");
}

#[test]
fn a_token_that_cannot_be_had_is_asked_for_in_vain() {
    let server = Server::raw(|_, _| ());
    for (token, why) in
        [(Err("the vault is shut"), "the vault is shut"), (Ok("a\r\nb"), "character")]
    {
        let asked = move || token.map(str::to_owned).map_err(anyhow::Error::msg);
        let error = connect(builder(&server.url()).bearer_token_from(asked)).unwrap_err();
        assert_eq!(failure(&error).step(), ConnectStep::Token);
        assert!(format!("{:#}", anyhow::Error::from(error)).contains(why));
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn settings_that_make_no_sense_are_found_out_by_the_first_connection() {
    let bad = |url: &str, set: fn(WebSocketBuilder) -> WebSocketBuilder, option: &str| {
        let error = set(WebSocketManager::builder(url)).build().unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{option}`")), "{error}");
        assert!(!error.contains("secret"), "{error}");
    };
    let good = "ws://host/";
    for url in
        ["", "host", "http://host/", "ws://", "ws:///x", "ws://a b/", "ws://x%zz:secret@host/"]
    {
        bad(url, |builder| builder, "url");
    }
    bad(good, |builder| builder.header("a b", "secret"), "header");
    bad(good, |builder| builder.header("a", "secret\r\nb: c"), "header");
    bad(good, |builder| builder.header("Sec-WebSocket-Key", "secret"), "header");
    bad(good, |builder| builder.header("host", "secret"), "header");
    bad(good, |builder| builder.bearer_token("secret\n"), "bearer_token");
    bad(good, |b| b.bearer_token("secret").header("Authorization", "secret"), "bearer_token");
    bad(good, |builder| builder.subprotocol("a, b"), "subprotocol");
    bad(good, |builder| builder.connect_timeout(Duration::ZERO), "connect_timeout");
    bad(good, |builder| builder.keep_alive(Duration::ZERO), "keep_alive");
    bad(good, |builder| builder.pong_timeout(Duration::ZERO), "pong_timeout");
    bad(good, |builder| builder.max_message_size(0), "max_message_size");
    bad(good, |builder| builder.max_frame_size(0), "max_frame_size");
    bad(good, |builder| builder.max_in_flight(0), "max_in_flight");
    if cfg!(not(feature = "tls")) {
        bad("wss://host/", |builder| builder, "url");
    }
    let ipv6 = WebSocketManager::new("ws://[::1]:7/").unwrap();
    assert!(format!("{ipv6:?}").contains("ws://[::1]:7/"), "{ipv6:?}");
}
