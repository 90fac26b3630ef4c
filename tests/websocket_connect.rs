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
use sessile::session::websocket::{
    ConnectError, ConnectStep, WebSocketBuilder, WebSocketManager, WebSocketSession,
};
use sessile::session::{ConnectOptions, SessionError};
use support::{Gate, PATIENCE, TOO_LONG, promptly};
use tungstenite::handshake::derive_accept_key;

/// For limits that are to be reached.
const SOON: Duration = Duration::from_millis(100);

fn builder(options: impl Into<ConnectOptions>) -> WebSocketBuilder {
    WebSocketManager::builder(options).connect_timeout(TOO_LONG)
}

fn to(url: &str) -> ConnectOptions {
    ConnectOptions::new(url)
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
    assert_times_out(builder(format!("ws://{address}/")), ConnectStep::Tcp);
    // Another address of the host gets its share of the time.
    let server = Server::echo();
    let addresses = vec![address, server.address()];
    let builder = builder(to("ws://two.example/").resolver(move |_, _| Ok(addresses.clone())));
    let begun = Instant::now();
    let mut session = connect(builder.connect_timeout(Duration::from_secs(2))).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(500), "the first was tried");
    session.request("m", ()).unwrap();
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
    assert_times_out(builder(server.url()), ConnectStep::Upgrade);
}

#[test]
fn an_answer_without_an_end_uses_up_memory() {
    let server = Server::raw(|mut tcp, _| {
        read_request(&mut tcp);
        tcp.write_all(b"HTTP/1.1 101 Go\r\nX: ").unwrap();
        while tcp.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let error = connect(builder(server.url())).unwrap_err();
    assert!(failure(&error).to_string().contains("no end"), "{:?}", failure(&error));
}

#[test]
fn a_look_up_that_does_not_end_is_waited_for() {
    let gate = Gate::new();
    let builder = {
        let gate = gate.clone();
        builder(to("ws://slow.example/").resolver(move |host, port| {
            assert_eq!((host, port), ("slow.example", 80));
            gate.pass();
            Ok(Vec::new())
        }))
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
        let error = connect(builder(to("ws://nowhere.example/").resolver(resolver))).unwrap_err();
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
    let error = connect(builder(format!("ws://{free}/"))).unwrap_err();
    assert_eq!(failure(&error).step(), ConnectStep::Tcp);
    let cause = failure(&error).source().unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused);
    // A second address helps.
    let server = Server::echo();
    let addresses = vec![free, server.address()];
    connect(builder(to("ws://two.example/").resolver(move |_, _| Ok(addresses.clone())))).unwrap();
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
        let error = connect(builder(server.url())).unwrap_err();
        assert_eq!(failure(&error).step(), ConnectStep::Upgrade, "{answer}");
        assert!(!failure(&error).is_timeout(), "{answer}");
    }
    for (answer, status) in [
        ("HTTP/1.1 401 Unauthorized\nContent-Length: 0\n\n", 401),
        ("HTTP/1.1 302 Found\nContent-Length: 0\n\n", 302),
        ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", 200),
        ("HTTP/1.0 403 Forbidden\nContent-Length: 0\n\n", 403),
    ] {
        let server = answering(answer);
        let error = connect(builder(server.url())).unwrap_err();
        assert_eq!(failure(&error).http_status(), Some(status));
        assert!(failure(&error).to_string().contains(&status.to_string()));
        drop(server);
    }
}

#[test]
fn a_refused_upgrade_tells_what_the_server_says() {
    let cases = [
        (
            concat!(
                "HTTP/1.1 401 no\nWWW-Authenticate: Bearer error=\"expired\"\nContent-Length: 22\n\n",
                "{\"error\":\"token old\"}\n",
            ),
            "WWW-Authenticate",
            "Bearer error=\"expired\"",
            "token old",
        ),
        (
            "HTTP/1.1 302 Found\nLocation: ws://127.0.0.1:1/\nContent-Length: 0\n\n",
            "location",
            "ws://127.0.0.1:1/",
            "Location: ws://127.0.0.1:1/",
        ),
        (
            // In pieces, and the connection stays open.
            "HTTP/1.1 503 no\nRetry-After: 7\nTransfer-Encoding: chunked\n\n4\nbusy\n5\n bees\n0\n\n",
            "retry-after",
            "7",
            "busy bees",
        ),
    ];
    for (answer, name, value, words) in cases {
        let server = answering(answer);
        let error = connect(builder(server.url())).unwrap_err();
        let failure = failure(&error);
        assert_eq!(failure.http_header(name), Some(value));
        let told = failure.to_string();
        assert!(told.contains(words), "{told}");
        assert!(told.contains(value) || told.contains(&value.escape_debug().to_string()), "{told}");
    }
    assert!(failure(&connect(builder("ws://sessile.invalid/")).unwrap_err()).http_body().is_none());
}

/// What real servers send: many headers, an empty one, a "go on" first, lines that end in a line feed.
#[test]
fn an_answer_of_another_style_is_understood() {
    let many = format!("{GOOD}{}\n", "X: 1\n".repeat(1000));
    let empty = format!("{GOOD}Sec-WebSocket-Extensions: \nSec-WebSocket-Protocol:\n\n");
    let first = format!("HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\nX: 1\n\n{GOOD}\n");
    for answer in [many, empty, first] {
        let server = answering(Box::leak(answer.into()));
        connect(builder(server.url())).unwrap();
    }
    let server = Server::raw(|mut tcp, _| {
        let request = read_request(&mut tcp);
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
        let accept = derive_accept_key(key.unwrap().as_bytes());
        tcp.write_all(format!("{GOOD}\n").replace("KEY", &accept).as_bytes()).unwrap();
        let _ = tcp.read(&mut [0]);
    });
    connect(builder(server.url())).unwrap();
}

/// What is asked for, and of whom.
#[test]
fn a_url_asks_for_what_a_browser_would_ask_for() {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = Mutex::new(tell);
    let server = Server::raw(move |mut tcp, _| {
        let request = read_request(&mut tcp);
        let host = request.lines().find(|line| line.starts_with("Host: ")).unwrap();
        let first = request.lines().next().unwrap();
        tell.lock().unwrap().send(format!("{first} {host}")).unwrap();
        let _ = tcp.write_all(b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n");
    });
    let address = server.address();
    let port = address.port();
    for (url, resource, host) in [
        (format!("ws://{address}?token=1"), "/?token=1", address.to_string()),
        (format!("WS://LOCALHOST:{port}"), "/", format!("localhost:{port}")),
        (format!("ws://{address}/a b/é?ü=1#f"), "/a%20b/%C3%A9?%C3%BC=1", address.to_string()),
        (format!("ws://bücher.example:{port}/"), "/", format!("xn--bcher-kva.example:{port}")),
    ] {
        let options = to(&url).resolver(move |_, _| Ok(vec![address]));
        connect(builder(options)).unwrap_err();
        let is = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(is, format!("GET {resource} HTTP/1.1 Host: {host}"), "{url}");
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
    let mut session = connect(builder(server.url())).unwrap();
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
        let asking = builder(to(&server.url()).subprotocol("rpc.v2").subprotocol("rpc.v1"));
        let session = connect(asking);
        session.map(|session| session.subprotocol().map(str::to_owned))
    };
    assert_eq!(choosing("rpc.v1").unwrap().as_deref(), Some("rpc.v1"));
    assert!(failure(&choosing("rpc.v3").unwrap_err()).to_string().contains("not asked for"));
    assert!(failure(&choosing("").unwrap_err()).to_string().contains("none"));
    let server = Server::echo();
    assert_eq!(connect(builder(server.url())).unwrap().subprotocol(), None);
}

#[test]
fn what_the_request_carries_is_lost_or_is_told_to_others() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let server = Server::raw({
        let seen = Arc::clone(&seen);
        move |mut tcp, _| {
            let request = read_request(&mut tcp);
            seen.lock().unwrap().push(request.clone());
            // A server that repeats all that it was told.
            let body = request.replace('\r', "");
            let _ =
                write!(tcp, "HTTP/1.1 401 secret\r\nLocation: /secret?key=secret\r\n\r\n{body}");
        }
    });
    let address = server.address();
    let url = format!("ws://user:secret%21@{address}/secret?key=secret");
    let token = || Ok("secret-fresh".to_owned());
    let options = [
        to(&url).header("X-Key", "secret").subprotocol("a").subprotocol("b"),
        to(&url).bearer_token("secret-token"),
        to(&url).bearer_token_from(token),
        to(&url).header("authorization", "Other secret"),
    ];
    for options in options {
        let told = format!("{options:?}");
        let builder = builder(options);
        let told = format!("{told}{builder:?}");
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
        let error = connect(builder(to(&server.url()).bearer_token_from(asked))).unwrap_err();
        assert_eq!(failure(&error).step(), ConnectStep::Token);
        assert!(format!("{:#}", anyhow::Error::from(error)).contains(why));
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn settings_that_make_no_sense_are_found_out_by_the_first_connection() {
    let refused = |builder: WebSocketBuilder, option: &str| {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{option}`")), "{error}");
        assert!(!error.contains("secret"), "{error}");
    };
    let bad = |url: &str, set: fn(ConnectOptions) -> ConnectOptions, option: &str| {
        refused(WebSocketManager::builder(set(to(url))), option);
    };
    let good = "ws://host/";
    for url in [
        "",
        "host",
        "http://host/",
        "ws://",
        "ws://a b/",
        "ws://host:99999/",
        "ws://user:secret@host:65536/",
        "ws://host:x/",
        "ws://host:-1/",
        "ws://se%3Acret:secret@host/",
    ] {
        bad(url, |options| options, "url");
    }
    for proxy in ["https://secret@proxy/", "proxy:99999", "socks4://proxy", ""] {
        refused(WebSocketManager::builder(to(good).proxy(proxy)), "proxy");
    }
    bad(good, |options| options.header("a b", "secret"), "header");
    bad(good, |options| options.header("a", "secret\r\nb: c"), "header");
    bad(good, |options| options.header("Sec-WebSocket-Key", "secret"), "header");
    bad(good, |options| options.header("host", "secret"), "header");
    bad(good, |options| options.bearer_token("secret\n"), "bearer_token");
    bad(good, |o| o.bearer_token("secret").header("Authorization", "secret"), "bearer_token");
    bad(good, |options| options.subprotocol("a, b"), "subprotocol");
    bad(good, |options| options.connect_timeout(Duration::ZERO), "connect_timeout");
    let bad = |set: fn(WebSocketBuilder) -> WebSocketBuilder, option: &str| {
        refused(set(WebSocketManager::builder(good)), option);
    };
    bad(|builder| builder.connect_timeout(Duration::ZERO), "connect_timeout");
    bad(|builder| builder.keep_alive_interval(Duration::ZERO), "keep_alive_interval");
    bad(|builder| builder.keep_alive_timeout(Duration::ZERO), "keep_alive_timeout");
    bad(|builder| builder.max_message_size(0), "max_message_size");
    bad(|builder| builder.max_frame_size(0), "max_frame_size");
    bad(|builder| builder.max_in_flight(0), "max_in_flight");
    if cfg!(not(feature = "tls")) {
        refused(WebSocketManager::builder("wss://host/"), "url");
    }
    let ipv6 = WebSocketManager::new("ws://[::1]:7/").unwrap();
    assert!(format!("{ipv6:?}").contains("ws://[::1]:7/"), "{ipv6:?}");
}

// ---- other ways ---------------------------------------------------------------------------------

/// What comes and goes on two streams, until both have ended.
fn pass_on(one: TcpStream, other: TcpStream) {
    let half = |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        })
    };
    let there = half(one.try_clone().unwrap(), other.try_clone().unwrap());
    half(other, one).join().unwrap();
    there.join().unwrap();
}

/// A proxy by `CONNECT`, which wants to see these credentials.
fn http_proxy(authorization: &'static str) -> Server {
    Server::raw(move |mut tcp, _| {
        let request = read_request(&mut tcp);
        let first = request.lines().next().unwrap().to_owned();
        let to = first.strip_prefix("CONNECT ").unwrap().strip_suffix(" HTTP/1.1").unwrap();
        assert!(request.contains(&format!("Host: {to}\r\n")), "{request}");
        let shown = request.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: "));
        if shown.unwrap_or_default() != authorization {
            let _ = tcp.write_all(
                b"HTTP/1.1 407 no\r\nProxy-Authenticate: Basic\r\nContent-Length: 7\r\n\r\nwho, me",
            );
            return;
        }
        // A name that only the proxy knows.
        let to = to.replace("only.the.proxy.knows", "127.0.0.1");
        match TcpStream::connect(to) {
            Ok(other) => {
                tcp.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
                pass_on(tcp, other);
            }
            Err(_) => drop(tcp.write_all(b"HTTP/1.1 502 no\r\nContent-Length: 0\r\n\r\n")),
        }
    })
}

/// A proxy by SOCKS5. What it was asked for is told as text.
fn socks_proxy(
    user: Option<(&'static str, &'static str)>,
    asked: std::sync::mpsc::Sender<String>,
) -> Server {
    let asked = Mutex::new(asked);
    Server::raw(move |mut tcp, _| {
        fn read<const N: usize>(tcp: &mut TcpStream) -> [u8; N] {
            let mut bytes = [0; N];
            tcp.read_exact(&mut bytes).unwrap();
            bytes
        }
        fn text(tcp: &mut TcpStream) -> String {
            let mut text = vec![0; read::<1>(tcp)[0].into()];
            tcp.read_exact(&mut text).unwrap();
            String::from_utf8(text).unwrap()
        }
        let [5, methods] = read(&mut tcp) else { panic!("no SOCKS5") };
        let mut offered = vec![0; methods.into()];
        tcp.read_exact(&mut offered).unwrap();
        if let Some((name, password)) = user {
            if !offered.contains(&2) {
                return drop(tcp.write_all(&[5, 0xff]));
            }
            tcp.write_all(&[5, 2]).unwrap();
            assert_eq!(read(&mut tcp), [1]);
            let is_right = text(&mut tcp) == name && text(&mut tcp) == password;
            tcp.write_all(&[1, u8::from(!is_right)]).unwrap();
            if !is_right {
                return;
            }
        } else {
            tcp.write_all(&[5, 0]).unwrap();
        }
        let [5, 1, 0, form] = read(&mut tcp) else { panic!("no request") };
        let host = match form {
            1 => Ipv4Addr::from(read::<4>(&mut tcp)).to_string(),
            3 => text(&mut tcp),
            form => panic!("form {form}"),
        };
        let port = u16::from_be_bytes(read(&mut tcp));
        asked.lock().unwrap().send(host.clone()).unwrap();
        let to = host.replace("only.the.proxy.knows", "127.0.0.1");
        match TcpStream::connect((to, port)) {
            Ok(other) => {
                tcp.write_all(&[5, 0, 0, 3, 2, b'o', b'k', 0, 0]).unwrap();
                pass_on(tcp, other);
            }
            Err(_) => tcp.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap(),
        }
    })
}

#[test]
fn a_session_goes_through_a_proxy() {
    let server = Server::echo();
    let port = server.address().port();
    let url = format!("ws://only.the.proxy.knows:{port}/");
    let works = |options: ConnectOptions| {
        let mut session = connect(builder(options)).unwrap();
        session.request("m", [1]).unwrap();
        session.close().unwrap();
    };
    let proxy = http_proxy("");
    works(to(&url).proxy(format!("http://{}", proxy.address())));
    drop(proxy);
    let proxy = http_proxy("Basic dXNlcjpzZWNyZXQh");
    works(to(&url).proxy(format!("http://user:secret%21@{}", proxy.address())));
    drop(proxy);
    let (tell, asked) = std::sync::mpsc::channel();
    let proxy = socks_proxy(None, tell.clone());
    works(to(&url).proxy(format!("socks5h://{}", proxy.address())));
    assert_eq!(asked.recv_timeout(PATIENCE).unwrap(), "only.the.proxy.knows");
    // Looked up here.
    let there = server.address();
    let resolved = to(&url).resolver(move |_, _| Ok(vec![there]));
    works(resolved.proxy(format!("socks5://{}", proxy.address())));
    assert_eq!(asked.recv_timeout(PATIENCE).unwrap(), "127.0.0.1");
    drop(proxy);
    let proxy = socks_proxy(Some(("user", "secret!")), tell);
    works(to(&url).proxy(format!("socks5h://user:secret%21@{}", proxy.address())));
}

#[test]
fn a_proxy_that_refuses_says_so_and_one_that_is_silent_is_not_waited_for() {
    let refused = |url: &str, proxy: String| {
        let error = connect(builder(to(url).proxy(proxy))).unwrap_err();
        let failure = failure(&error);
        assert_eq!(failure.step(), ConnectStep::Proxy, "{failure}");
        let chain = format!("{failure} {:?}", failure.source());
        assert!(!chain.contains("secret"), "{chain}");
        (failure.http_status(), chain)
    };
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("ws://{free}/");
    let proxy = http_proxy("Basic dXNlcjpzZWNyZXQh");
    let (status, told) = refused(&nobody, format!("http://user:secret@{}", proxy.address()));
    assert_eq!(status, Some(407));
    assert!(told.contains("Proxy-Authenticate: Basic") && told.contains("who, me"), "{told}");
    let at = format!("http://user:secret%21@{}", proxy.address());
    assert_eq!(refused(&nobody, at).0, Some(502));
    let (tell, _asked) = std::sync::mpsc::channel();
    let proxy = socks_proxy(Some(("user", "secret!")), tell);
    let socks = |user: &str| format!("socks5://{user}{}", proxy.address());
    assert!(refused(&nobody, socks("")).1.contains("authentication"));
    assert!(refused(&nobody, socks("user:secret@")).1.contains("credentials"));
    assert!(refused(&nobody, socks("user:secret%21@")).1.contains("connection refused"));
    // None there; or one that says nothing.
    refused(&nobody, format!("http://{free}"));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for scheme in ["http", "socks5h"] {
        let proxy = format!("{scheme}://{}", silent.local_addr().unwrap());
        assert_times_out(builder(to("ws://host/").proxy(proxy)), ConnectStep::Proxy);
    }
}

#[test]
#[cfg(unix)]
fn a_session_goes_over_a_stream_of_ones_own() {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let ours = Mutex::new(Some(ours));
    let options = to("ws://nowhere.example/path").dialer(move |host, port, left| {
        assert_eq!((host, port), ("nowhere.example", 80));
        assert!(left <= TOO_LONG);
        let ours = ours.lock().unwrap().take();
        Ok(OwnedFd::from(ours.ok_or(io::ErrorKind::NotConnected)?).into())
    });
    let peer = std::thread::spawn(move || {
        let mut peer = tungstenite::accept(theirs).unwrap();
        let request: serde_json::Value =
            serde_json::from_str(peer.read().unwrap().to_text().unwrap()).unwrap();
        let answer = serde_json::json!({"id": request["id"], "result": "there"});
        peer.send(answer.to_string().into()).unwrap();
        while peer.read().is_ok() {}
    });
    let manager = builder(options).build().unwrap();
    let mut session = manager.connect().unwrap();
    assert_eq!(session.call::<String>("m", ()).unwrap(), "there");
    session.ping().unwrap();
    drop(session);
    peer.join().unwrap();
    let error = manager.connect().unwrap_err();
    assert_eq!(failure(&error).step(), ConnectStep::Tcp);
}
