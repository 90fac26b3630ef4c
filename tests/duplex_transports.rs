//! What can go wrong with the streams that a session runs over.

#![cfg(all(feature = "duplex", unix))]

#[path = "support/peer.rs"]
mod peer;
mod support;

use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use peer::{Place, SHORT};
use serde_json::{Value, json};
use sessile::session::duplex::{ChildStdio, Request, Session, SessionBuilder, Stdio, Tcp};
use sessile::session::{JsonRpc, SessionError};
use support::{FOR_EVER, PATIENCE, TOO_LONG, poll_until, promptly};

fn builder() -> SessionBuilder {
    Session::builder(JsonRpc::new()).request_timeout(PATIENCE).connect_timeout(PATIENCE)
}

/// Answers with what it was given.
fn echoes(builder: SessionBuilder) -> SessionBuilder {
    builder.on_request(|request: Request| {
        let value: Value = request.parse().unwrap();
        request.respond(&value).unwrap();
    })
}

#[track_caller]
fn echoed(session: &Session, value: &Value) {
    assert!(session.invoker().call::<Value>("echo", value).unwrap() == *value);
}

#[track_caller]
fn is_lost(error: &SessionError) {
    assert!(error.is_lost(), "{error:?}");
}

/// More than a pipe takes at once, and not the same everywhere.
fn large() -> Value {
    let text: String = (0..100_000).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    json!([text, "ö\n\u{2028}"])
}

// ---- TCP ----------------------------------------------------------------------------------------

#[test]
fn a_name_that_nobody_knows_is_looked_up_for_ever() {
    let error =
        promptly("it is told", || builder().connect(Tcp::new("nobody.invalid:1")).unwrap_err());
    assert!(error.is_connect(), "{error:?}");
    assert!(format!("{error:?}").contains("nobody.invalid"), "{error:?}");
}

#[test]
fn an_address_without_a_port_is_dialled() {
    assert!(builder().connect(Tcp::new("127.0.0.1")).unwrap_err().is_connect());
}

/// A listener whose queue is full: the system does not answer those who dial.
#[test]
fn a_place_that_never_accepts_is_waited_for_longer_than_was_said() {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, SHORT) {
        queue.push(stream);
        assert!(queue.len() < 10, "the queue has no end");
    }
    promptly("it is told", move || {
        let before = Instant::now();
        let dials = builder().connect_timeout(SHORT).connect(Tcp::new(address.to_string()));
        assert!(dials.unwrap_err().is_connect());
        assert!((SHORT..PATIENCE).contains(&before.elapsed()), "{:?}", before.elapsed());
    });
}

/// What is dialled in the background does not keep the session from closing.
#[test]
fn a_session_that_dials_again_does_not_close() {
    let place = Place::new();
    let again = builder().reconnect(Duration::from_millis(1), SHORT);
    let session = again.connect(Tcp::new(place.address())).unwrap();
    let peer = place.accept();
    drop(place); // nobody is there any more
    peer.die();
    let call = session.invoker();
    let waits = thread::spawn(move || call.timeout(TOO_LONG).call::<u64>("m", &()));
    poll_until("it has noticed", || session.wait_connected(Duration::ZERO).is_err());
    promptly("it closes", move || {
        assert!(session.close(PATIENCE));
        // It was called before the loss was seen, or after.
        let error = waits.join().unwrap().unwrap_err();
        assert!(error.is_closed() || error.is_lost(), "{error:?}");
    });
}

// ---- WebSocket ----------------------------------------------------------------------------------

#[cfg(feature = "ws")]
mod websocket {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::mpsc;

    use sessile::session::duplex::{AcceptOptions, UpgradeResponse, WebSocket, WebSocketAccepted};
    use tungstenite::Message;

    use super::*;

    fn url(listener: &TcpListener) -> String {
        format!("ws://{}/path", listener.local_addr().unwrap())
    }

    fn both(client: SessionBuilder, server: SessionBuilder) -> (Session, Session) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = url(&listener);
        let accepts = thread::spawn(move || {
            let stream = listener.accept().unwrap().0;
            server.connect(WebSocketAccepted::new(stream)).unwrap()
        });
        let client = client.connect(WebSocket::new(url)).unwrap();
        (client, accepts.join().unwrap())
    }

    /// A session as the client, and tungstenite itself as its peer.
    fn with_bare(setup: SessionBuilder) -> (Session, tungstenite::WebSocket<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = url(&listener);
        let accepts = thread::spawn(move || {
            let stream = listener.accept().unwrap().0;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            tungstenite::accept(stream).unwrap()
        });
        let session = setup.connect(WebSocket::new(url)).unwrap();
        (session, accepts.join().unwrap())
    }

    fn hear(peer: &mut tungstenite::WebSocket<TcpStream>) -> Value {
        serde_json::from_str(peer.read().unwrap().to_text().unwrap()).unwrap()
    }

    #[test]
    fn one_side_of_a_websocket_may_not_call_or_frames_are_torn() {
        let (client, server) = both(echoes(builder()), echoes(builder()));
        let threads = [&client, &server].map(|session| {
            let invoker = session.invoker();
            thread::spawn(move || {
                for n in 0..200 {
                    assert_eq!(invoker.call::<[u64; 1]>("echo", [n]).unwrap(), [n]);
                }
            })
        });
        echoed(&client, &large());
        echoed(&server, &large());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        for session in [&client, &server] {
            poll_until("all is written", || session.stats().queued_bytes == 0);
        }
        assert!(client.close(PATIENCE));
        assert!(server.wait_closed(PATIENCE));
    }

    #[test]
    fn an_answer_over_the_limit_fails_its_caller_and_reading_goes_on() {
        let (client, server) = both(
            builder().max_message_size(1000),
            builder().on_request(|request| {
                let answer = if request.method() == "long" { large() } else { json!(7) };
                let _ = request.respond(&answer);
            }),
        );
        let error = client.invoker().call::<Value>("m", large()).unwrap_err();
        assert!(error.is_too_large(), "ours: {error:?}");
        let (long, short) = (client.invoker().invoke("long", ()), client.invoker().invoke("m", ()));
        assert!(long.unwrap().answer().unwrap_err().is_too_large());
        assert_eq!(short.unwrap().answer().unwrap().as_str(), "7");
        server.invoker().notify("told", large()).unwrap();
        poll_until("it is passed over", || client.stats().oversized == 2);
        assert_eq!(client.invoker().call::<u8>("m", ()).unwrap(), 7);
        assert_eq!((client.stats().malformed, client.stats().connections), (0, 1));
    }

    #[test]
    fn callers_are_not_told_of_a_close_frame() {
        let (session, mut peer) = with_bare(builder());
        let call = session.invoker().invoke("m", ()).unwrap();
        assert_eq!(hear(&mut peer)["method"], "m");
        peer.close(None).unwrap();
        // It is answered as the protocol wants it, and then it is the end.
        assert!(peer.read().unwrap().is_close());
        drop(peer);
        is_lost(&call.answer().unwrap_err());
        assert!(session.wait_closed(PATIENCE));
    }

    #[test]
    fn a_close_of_ours_comes_without_a_close_frame_or_before_what_was_queued() {
        let (session, mut peer) = with_bare(builder());
        session.invoker().notify("last words", ()).unwrap();
        assert!(session.close(PATIENCE));
        assert_eq!(hear(&mut peer)["method"], "last words");
        assert!(peer.read().unwrap().is_close());
    }

    /// Else callers find no room where there is plenty.
    #[test]
    fn what_was_written_counts_as_queued_until_all_is() {
        const MANY: usize = 64;
        let (session, mut peer) = with_bare(builder());
        let said = ["x".repeat(256 << 10)];
        (0..MANY).for_each(|_| session.invoker().notify("m", &said).unwrap());
        let queued = || session.stats().queued_bytes as usize;
        for heard in 1..MANY {
            hear(&mut peer);
            let unheard = (MANY - heard) * (said[0].len() + 100);
            poll_until("it is written", || queued() <= unheard);
        }
        hear(&mut peer);
        poll_until("all is written", || queued() == 0);
    }

    #[test]
    fn a_ping_is_not_answered_or_disturbs() {
        let (session, mut peer) = with_bare(builder());
        peer.send(Message::Ping("there?".into())).unwrap();
        assert_eq!(peer.read().unwrap(), Message::Pong("there?".into()));
        let call = session.invoker().invoke("m", ()).unwrap();
        let id = hear(&mut peer)["id"].clone();
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": 1}).to_string();
        peer.send(Message::Text(answer.into())).unwrap();
        assert_eq!(call.answer().unwrap().as_str(), "1");
        poll_until("all is written", || session.stats().queued_bytes == 0);
    }

    #[test]
    fn a_peer_that_breaks_the_protocol_is_listened_to() {
        let (session, mut peer) = with_bare(builder());
        let call = session.invoker().invoke("m", ()).unwrap();
        hear(&mut peer);
        peer.get_mut().write_all(&[0xff; 64]).unwrap();
        is_lost(&call.answer().unwrap_err());
    }

    #[test]
    fn a_peer_that_dies_in_mid_message_leaves_callers_waiting() {
        let (session, mut peer) = with_bare(builder());
        let call = session.invoker().invoke("m", ()).unwrap();
        hear(&mut peer);
        peer.get_mut().write_all(b"\x81\x7dabc").unwrap(); // of 125 bytes
        drop(peer);
        is_lost(&call.answer().unwrap_err());
    }

    #[test]
    fn a_websocket_whose_peer_hangs_up_is_lost_at_once() {
        let (tell, told) = mpsc::channel();
        let setup = builder().drain_timeout(FOR_EVER);
        let (session, mut peer) =
            with_bare(setup.on_request(move |request| tell.send(request).unwrap()));
        let asks = json!({"jsonrpc": "2.0", "id": 1, "method": "m"}).to_string();
        peer.send(tungstenite::Message::text(asks)).unwrap();
        let request: Request = told.recv_timeout(PATIENCE).unwrap();
        peer.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
        assert!(request.wait_cancelled(PATIENCE));
        assert!(session.wait_closed(PATIENCE));
    }

    /// What a listener says to whoever dials, with the error that comes of it.
    fn refused(says: impl FnOnce(TcpStream) + Send + 'static, within: Duration) -> SessionError {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = url(&listener);
        let accepts = thread::spawn(move || says(listener.accept().unwrap().0));
        let error = promptly("it is told", move || {
            builder().connect_timeout(within).connect(WebSocket::new(url)).unwrap_err()
        });
        accepts.join().unwrap();
        assert!(error.is_connect(), "{error:?}");
        error
    }

    #[test]
    fn what_is_no_upgrade_is_taken_for_one() {
        let says = |text: &'static [u8]| {
            move |mut stream: TcpStream| {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(text);
            }
        };
        refused(says(b"220 this is a mail server\r\n\r\n"), PATIENCE);
        refused(says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), PATIENCE);
        refused(says(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), PATIENCE);
        refused(says(b""), PATIENCE);
    }

    #[test]
    fn a_peer_that_never_answers_the_upgrade_is_waited_for() {
        let before = Instant::now();
        // It reads until it is given up on.
        refused(|mut stream| drop(stream.read_to_end(&mut Vec::new())), SHORT);
        assert!((SHORT..PATIENCE).contains(&before.elapsed()));
    }

    /// Byte by byte, each soon enough after the one before.
    #[test]
    fn a_peer_that_answers_the_upgrade_slowly_is_waited_for() {
        let trickles = |mut stream: TcpStream| {
            stream.set_read_timeout(Some(SHORT / 2)).unwrap();
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n").unwrap();
            let mut said = 0;
            while stream.write_all(b"x").is_ok() {
                said += 1;
                assert!(said < 20, "it is listened to for too long");
                // The pace: until there is nothing to read for a while.
                while stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
            }
        };
        refused(trickles, 2 * SHORT);
    }

    #[test]
    fn a_client_that_never_asks_for_the_upgrade_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = listener.accept().unwrap().0;
        promptly("it is told", move || {
            let accepts = builder().connect_timeout(SHORT);
            let error = accepts.connect(WebSocketAccepted::new(stream)).unwrap_err();
            assert!(error.is_connect(), "{error:?}");
        });
        drop(client);
    }

    #[test]
    fn an_address_that_is_no_websocket_is_dialled() {
        for url in ["", "http://localhost/", "ws://", "not a url", "wss://x%zz@localhost/"] {
            let error = builder().connect(WebSocket::new(url)).unwrap_err();
            assert!(error.is_connect(), "{url}: {error:?}");
        }
    }

    #[test]
    fn a_websocket_is_not_made_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = url(&listener);
        let (tell, told) = mpsc::channel();
        let accepts = thread::spawn(move || {
            for _ in 0..2 {
                let stream = listener.accept().unwrap().0;
                tell.send(tungstenite::accept(stream).unwrap()).unwrap();
            }
        });
        let again = builder().reconnect(Duration::from_millis(1), SHORT);
        let session = again.connect(WebSocket::new(url)).unwrap();
        drop(told.recv_timeout(PATIENCE).unwrap());
        let mut peer = told.recv_timeout(PATIENCE).unwrap();
        accepts.join().unwrap();
        poll_until("it is up again", || session.stats().connections == 2);
        session.invoker().notify("once more", ()).unwrap();
        assert_eq!(hear(&mut peer)["method"], "once more");
    }

    // ---- the server's side --------------------------------------------------------------------

    /// What a session as the server makes of a client that says this, and what the client hears.
    fn asked(says: &'static [u8], within: Duration) -> (Result<Session, SessionError>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(says).unwrap();
        let stream = listener.accept().unwrap().0;
        let accepts = echoes(builder().connect_timeout(within));
        let accept = move || accepts.connect(WebSocketAccepted::new(stream));
        (promptly("it is told", accept), client)
    }

    const ASKS: &str = "GET /path HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    #[test]
    fn a_client_that_asks_for_something_else_is_granted_a_websocket() {
        let hears = |says, begin: &str| {
            let (session, mut client) = asked(says, TOO_LONG);
            let error = session.unwrap_err();
            assert!(error.is_connect() && !format!("{error:?}").contains("secret"), "{error:?}");
            let mut heard = Vec::new();
            let _ = client.read_to_end(&mut heard); // it may be cut off, with more to read
            assert!(heard.starts_with(begin.as_bytes()), "{}", String::from_utf8_lossy(&heard));
        };
        let bad = "HTTP/1.1 400 ";
        hears(b"GET /secret HTTP/1.1\r\nHost: x\r\nX-Key: secret\r\n\r\n", bad);
        for (good, other) in [
            ("Upgrade: websocket", "Upgrade: secret"),
            ("Version: 13", "Version: 7"),
            ("dGhl", "secret"),
            ("HTTP/1.1", "HTTP/1.0"),
        ] {
            hears(ASKS.replace(good, other).leak().as_bytes(), bad);
        }
        hears(b"POST / HTTP/1.1\r\n", bad);
        hears(b"SSH-2.0-OpenSSH_9.6\r\n", bad);
        hears(b"GET / HTTP/1.1\r\nno header\r\n\r\n", bad);
        let endless = ["GET / HTTP/1.1\r\nX: ", &"x".repeat(100_000)].concat();
        hears(endless.leak().as_bytes(), "");
    }

    /// What a client is answered that adds these lines to its request, and what the session comes to.
    fn let_in(
        options: &AcceptOptions,
        path: &str,
        lines: &str,
    ) -> (Result<Session, SessionError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let asks =
            ASKS.replace("/path", path).replace("Host: x\r\n", &format!("Host: x\r\n{lines}"));
        client.write_all(asks.as_bytes()).unwrap();
        let stream = listener.accept().unwrap().0;
        let accepted = WebSocketAccepted::with(stream, options);
        let session = promptly("it is told", move || echoes(builder()).connect(accepted));
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            heard.push(byte[0]);
        }
        if session.is_err() {
            client.read_to_end(&mut heard).unwrap();
        }
        (session, String::from_utf8(heard).unwrap())
    }

    #[test]
    fn a_browser_is_let_in_only_for_pages_that_are_allowed() {
        let browser = "Origin: https://app.example.org\r\n";
        let is_let_in = |options: AcceptOptions, lines| let_in(&options, "/", lines).0.is_ok();
        assert!(is_let_in(AcceptOptions::new(), ""), "it is no browser");
        let (session, heard) = let_in(&AcceptOptions::new(), "/", browser);
        assert!(heard.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{heard}");
        let error = session.unwrap_err();
        let failure = std::error::Error::source(&error).unwrap().to_string();
        assert!(failure.contains("403") && failure.contains("Origin"), "{failure}");
        assert!(is_let_in(AcceptOptions::new().allow_origin("https://app.example.org"), browser));
        assert!(!is_let_in(AcceptOptions::new().allow_origin("http://app.example.org"), browser));
        assert!(!is_let_in(
            AcceptOptions::new().allow_origin("https://app.example.org"),
            "Origin: null\r\n"
        ));
        assert!(is_let_in(AcceptOptions::new().allow_any_origin(), browser));
        // To be asked is not to be allowed.
        assert!(!is_let_in(
            AcceptOptions::new().on_upgrade(|_| UpgradeResponse::accept()),
            browser
        ));
    }

    #[test]
    fn the_head_of_a_request_decides() {
        let options =
            AcceptOptions::new().subprotocol("two").subprotocol("one").on_upgrade(|request| {
                assert!(request.peer_addr().is_some() && request.origin().is_none());
                match (request.path(), request.query(), request.header("x-key")) {
                    ("/ok", Some("a=1"), Some("secret")) => {
                        UpgradeResponse::accept().header("X-Is", "ok")
                    }
                    ("/chosen", ..) => {
                        let last = request.subprotocols().last().unwrap().to_owned();
                        UpgradeResponse::accept().subprotocol(last)
                    }
                    ("/panics", ..) => panic!("on purpose"),
                    ("/odd", ..) => UpgradeResponse::accept().header("a b", "c"),
                    _ => UpgradeResponse::refuse(401, "who are you?")
                        .header("WWW-Authenticate", "Bearer"),
                }
            });
        let asks = "X-Key: secret\r\nSec-WebSocket-Protocol: zero, one\r\nSec-WebSocket-Protocol: two, three\r\n";
        let (session, heard) = let_in(&options, "/ok?a=1", asks);
        assert!(session.is_ok());
        assert!(heard.contains("Sec-WebSocket-Protocol: one\r\n"), "{heard}");
        assert!(heard.contains("x-is: ok\r\n"), "{heard}");
        let (_session, heard) = let_in(&options, "/chosen", asks);
        assert!(heard.contains("Sec-WebSocket-Protocol: three\r\n"), "{heard}");
        let (session, heard) = let_in(&options, "/else", "");
        assert!(session.unwrap_err().is_connect());
        assert!(heard.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{heard}");
        assert!(
            heard.contains("www-authenticate: Bearer\r\n") && heard.ends_with("who are you?"),
            "{heard}"
        );
        for path in ["/panics", "/odd"] {
            let (session, heard) = let_in(&options, path, "");
            assert!(
                session.unwrap_err().is_connect() && heard.starts_with("HTTP/1.1 500 "),
                "{heard}"
            );
        }
    }

    #[test]
    fn messages_are_binary_if_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = sessile::session::ConnectOptions::new(url(&listener)).binary(true);
        let server = thread::spawn(move || {
            let accepted = WebSocketAccepted::with(
                listener.accept().unwrap().0,
                &AcceptOptions::new().binary(true),
            );
            echoes(builder()).connect(accepted).unwrap()
        });
        let session = builder().connect(WebSocket::new(options)).unwrap();
        echoed(&session, &large());
        drop((session, server.join().unwrap()));
    }

    /// Frames behind the upgrade, in one go with it: masked, as a client's are.
    #[test]
    fn a_message_that_comes_with_the_upgrade_is_lost() {
        let said = br#"{"id":1,"method":"m","params":[7]}"#;
        let mask = [1, 2, 3, 4];
        let masked = said.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let frame: Vec<u8> =
            [0x81, 0x80 | said.len() as u8].into_iter().chain(mask).chain(masked).collect();
        let (session, mut client) = asked([ASKS.as_bytes(), &frame].concat().leak(), PATIENCE);
        let session = session.unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"[7]}") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            heard.push(byte[0]);
        }
        let heard = String::from_utf8_lossy(&heard);
        // As RFC 6455 has it in its example.
        assert!(heard.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{heard}");
        // What has no mask may be a trick played on something in between.
        client.write_all(b"\x81\x02{}").unwrap();
        assert!(session.wait_closed(PATIENCE));
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, [0x88, 2, 3, 0xea], "a goodbye that says why: 1002");
    }

    // ---- what is not for those who call -------------------------------------------------------

    #[test]
    fn a_peer_is_not_told_why_it_is_left() {
        let left_with = |says: &[u8], code: u16| {
            let (session, mut peer) = with_bare(builder().max_message_size(1000));
            peer.get_mut().write_all(says).unwrap();
            // As it is on the wire: two bytes, and a mask over them.
            let mut goodbye = [0; 8];
            peer.get_mut().read_exact(&mut goodbye).unwrap();
            let [0x88, 0x82, m0, m1, _, _, high, low] = goodbye else { panic!("{goodbye:?}") };
            assert_eq!(u16::from_be_bytes([high ^ m0, low ^ m1]), code);
            assert!(session.wait_closed(PATIENCE));
        };
        left_with(&[0xff; 64], 1002);
        left_with(b"\x81\x02\xff\xff", 1007); // no text
        left_with(b"\x82\x02{}", 1003); // binary
        left_with(b"\x81\x7f\x00\x00\x00\x01\x00\x00\x00\x00", 1009); // 4 GiB
        left_with(b"\x88\x02\x03\xed", 1002); // a goodbye that nobody may say: 1005
        left_with(b"\x88\x02\x0f\xa0", 4000);
    }

    /// It reads no answer before it has asked a hundred thousand times.
    #[test]
    fn a_peer_that_pings_and_does_not_read_fills_the_memory_or_is_left() {
        const MANY: u32 = 100_000;
        let (session, mut peer) = with_bare(builder());
        let mut pings = Vec::new();
        for n in 0..MANY {
            pings.extend([0x89, 125]);
            pings.extend(n.to_be_bytes());
            pings.extend([0; 121]);
        }
        peer.get_mut().write_all(&pings).unwrap();
        let mut last = 0;
        while last != MANY - 1 {
            let Message::Pong(of) = peer.read().unwrap() else { panic!("a pong") };
            let n = u32::from_be_bytes(of[..4].try_into().unwrap());
            assert!(n >= last, "{n} after {last}");
            last = n;
        }
        session.invoker().notify("still here", ()).unwrap();
        assert_eq!(hear(&mut peer)["method"], "still here");
    }
}

// ---- a child's standard input and output --------------------------------------------------------

/// A child that says its number, and then answers each line; what is asked for may be its end.
const CHILD: &str = r#"
import json, os, sys, time
for line in sys.stdin:
    asked = json.loads(line)
    method, answer = asked["method"], {"jsonrpc": "2.0", "id": asked.get("id")}
    if method == "die":
        sys.stdout.write(json.dumps(answer)[:20])
        sys.stdout.flush()
        os._exit(3)
    if method == "linger":
        answer["result"] = os.getpid()
        print(json.dumps(answer), flush=True)
        sys.stdin.close()
        while True:
            time.sleep(1)
    answer["result"] = os.getpid() if method == "pid" else asked["params"]
    print(json.dumps(answer), flush=True)
"#;

fn child() -> ChildStdio {
    let mut command = Command::new("python3");
    command.args(["-c", CHILD]);
    ChildStdio::new(command)
}

fn is_there(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn pid(session: &Session) -> u32 {
    session.invoker().call("pid", ()).unwrap()
}

#[test]
fn a_child_is_not_understood_or_outlives_the_close() {
    let session = builder().connect(child()).unwrap();
    echoed(&session, &large());
    let child = pid(&session);
    assert!(is_there(child));
    assert!(session.close(PATIENCE));
    // Reaped as well: not even its number is left.
    assert!(!is_there(child));
}

#[test]
fn a_child_outlives_a_session_that_is_dropped() {
    let session = builder().connect(child()).unwrap();
    let child = pid(&session);
    drop(session);
    poll_until("it is gone", || !is_there(child));
}

#[test]
fn a_child_that_ignores_the_end_of_its_input_is_waited_for() {
    let session = builder().connect(child()).unwrap();
    let child: u32 = session.invoker().call("linger", ()).unwrap();
    promptly("it closes", move || assert!(session.close(Duration::from_secs(2))));
    assert!(!is_there(child));
}

/// The end of its input, then SIGTERM, then SIGKILL: whichever it heeds.
#[test]
fn a_child_is_ended_as_gently_as_it_lets_itself_be() {
    use std::os::unix::process::ExitStatusExt;
    let ended = |script: &str, within| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let child = ChildStdio::new(command);
        let process = child.process();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let session =
            builder().on_notification(move |_, _| ready.send(()).unwrap()).connect(child).unwrap();
        is_ready.recv_timeout(PATIENCE).unwrap();
        let closed = session.close(within);
        (closed, process.wait(PATIENCE).expect("it has ended"))
    };
    let ready = r#"echo '{"jsonrpc":"2.0","method":"ready"}'"#;
    // Ended by the end of its input, long before the first signal.
    let (closed, status) = ended(&format!("{ready}; cat >/dev/null; exit 3"), PATIENCE);
    assert!(closed && status.code() == Some(3), "{status:?}");
    let waits = "while :; do sleep 0.05; done";
    let within = Duration::from_secs(4);
    let (_, status) = ended(&format!("trap 'exit 4' TERM; {ready}; {waits}"), within);
    assert_eq!(status.code(), Some(4), "{status:?}");
    let (_, status) = ended(&format!("trap '' TERM; {ready}; {waits}"), SHORT);
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{status:?}");
}

#[test]
fn a_child_that_dies_in_mid_frame_leaves_callers_waiting_or_itself_behind() {
    let session = builder().connect(child()).unwrap();
    let child = pid(&session);
    is_lost(&session.invoker().call::<u64>("die", &()).unwrap_err());
    assert!(session.wait_closed(PATIENCE));
    poll_until("it is reaped", || !is_there(child));
}

#[test]
fn a_child_that_died_is_not_started_again() {
    let again = builder().reconnect(Duration::from_millis(1), SHORT);
    let session = again.connect(child()).unwrap();
    let first = pid(&session);
    is_lost(&session.invoker().call::<u64>("die", &()).unwrap_err());
    let second = pid(&session);
    assert_ne!(first, second);
    assert!(!is_there(first));
    drop(session);
    poll_until("it is gone", || !is_there(second));
}

#[test]
fn a_program_that_is_not_there_is_waited_for() {
    let missing = ChildStdio::new(Command::new("/nowhere/at/all"));
    let error = builder().connect(missing).unwrap_err();
    assert!(error.is_connect(), "{error:?}");
}

// ---- our own standard input and output ----------------------------------------------------------

const SERVES: &str = "SESSILE_TEST_SERVES_STDIO";

/// Not a test unless it is started by the one below: then it serves on its own input and output, to
/// which the frame around tests has written one line before.
#[test]
fn serves_on_its_own_standard_input_and_output() {
    if std::env::var_os(SERVES).is_none() {
        return;
    }
    let session = echoes(builder()).connect(Stdio::new()).unwrap();
    // And both ways: it asks back.
    let asked: Value = session.invoker().call("who", large()).unwrap();
    session.invoker().notify("heard", &asked).unwrap();
    assert!(session.wait_closed(PATIENCE));
    std::process::exit(7); // before anything else is written
}

#[test]
fn frames_over_our_own_standard_input_and_output_are_torn_or_their_end_is_missed() {
    use std::io::{BufRead, BufReader, Write};
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "serves_on_its_own_standard_input_and_output", "--nocapture"])
        .env(SERVES, "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut hear = || -> Value {
        loop {
            let line = output.next().expect("it says something").unwrap();
            if let Some(from) = line.find("{\"jsonrpc\"") {
                return serde_json::from_str(&line[from..]).unwrap();
            }
        }
    };
    let mut say = |frame: Value| input.write_all(format!("{frame}\n").as_bytes()).unwrap();
    let asked = hear();
    assert!(asked["params"] == large());
    say(json!({"jsonrpc": "2.0", "id": asked["id"], "result": large()}));
    assert!(hear()["params"] == large());
    for n in 0..20 {
        say(json!({"jsonrpc": "2.0", "id": n, "method": "echo", "params": [n, large()]}));
    }
    // Nothing was read until now: what it answered is more than the pipe holds.
    for n in 0..20 {
        let heard = hear();
        assert!(heard["id"] == n && heard["result"] == json!([n, large()]), "the answer {n}");
    }
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(7));
}
