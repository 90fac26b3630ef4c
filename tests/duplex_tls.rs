//! Duplex sessions over TLS: what a loop that watches sockets does not see, a peer that does not read,
//! certificates, and the end.

#![cfg(all(feature = "duplex", feature = "tls", unix))]

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sessile::session::duplex::{Invoker, Overflow, Session, SessionBuilder, WebSocket, WhenFull};
use sessile::session::websocket::{ConnectError, ConnectStep};
use sessile::session::{ConnectOptions, JsonRpc, Notification, SessionError};
use support::{PATIENCE, TOO_LONG, poll_until, promptly};
use tls::{Authority, Tls, provider};
use tungstenite::Message;

const KIB: usize = 1 << 10;
/// Short enough to wait for, long enough to be told from at once.
const SHORT: Duration = Duration::from_millis(50);

type Socket = tungstenite::WebSocket<Tls>;

fn builder() -> SessionBuilder {
    let protocol = JsonRpc::new().partial_results();
    Session::builder(protocol).request_timeout(PATIENCE).connect_timeout(PATIENCE)
}

/// A place to be dialled, with small buffers: nothing large passes in one piece.
struct Place {
    authority: Authority,
    listener: TcpListener,
}

impl Place {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = socket2::SockRef::from(&listener);
        socket.set_recv_buffer_size(8 * KIB).unwrap();
        socket.set_send_buffer_size(8 * KIB).unwrap();
        // Not for ever: who was to come may have failed before.
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { authority: Authority::new(), listener }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The way there; `name` is what the certificate is to be for.
    fn dial(&self, name: &str) -> ConnectOptions {
        let address = self.address();
        ConnectOptions::new(format!("wss://{name}:{}/path", address.port()))
            .resolver(move |_, _| Ok(vec![address]))
    }

    fn trusted(&self) -> ConnectOptions {
        self.dial("localhost").root_certificate(&*self.authority.root)
    }

    fn tcp(&self) -> TcpStream {
        let tcp = self.listener.accept().expect("somebody comes").0;
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp
    }

    fn accept(&self) -> Socket {
        tungstenite::accept(self.authority.serve(self.tcp())).unwrap()
    }

    /// A session that dials, and what happens at the other end meanwhile.
    fn connect<R: Send>(
        &self,
        setup: SessionBuilder,
        way: ConnectOptions,
        other: impl FnOnce(&Self) -> R + Send,
    ) -> (Result<Session, SessionError>, R) {
        thread::scope(|scope| {
            let other = scope.spawn(|| other(self));
            (setup.connect(WebSocket::new(way)), other.join().unwrap())
        })
    }
}

fn pair(setup: impl FnOnce(SessionBuilder) -> SessionBuilder) -> (Session, Socket) {
    let place = Place::new();
    let (session, peer) = place.connect(setup(builder()), place.trusted(), Place::accept);
    (session.unwrap(), peer)
}

/// Answers with what it was given, until the session leaves. Says how many.
fn echo(mut peer: Socket) -> usize {
    let mut answered = 0;
    while let Ok(message) = peer.read() {
        if let Message::Text(text) = message {
            let asked: Value = serde_json::from_str(&text).unwrap();
            let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": asked["params"]});
            peer.send(Message::text(answer.to_string())).unwrap();
            answered += 1;
        }
    }
    answered
}

fn hear(peer: &mut Socket) -> Value {
    loop {
        if let Message::Text(text) = peer.read().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

fn say(peer: &mut Socket, said: &Value) {
    peer.send(Message::text(said.to_string())).unwrap();
}

#[track_caller]
fn failure(error: &SessionError) -> &ConnectError {
    assert!(error.is_connect(), "{error:?}");
    error.source().and_then(|source| source.downcast_ref()).expect("it says at which step")
}

// ---- reading and writing ------------------------------------------------------------------------

#[test]
fn large_frames_both_ways_are_torn_or_wait_for_each_other() {
    let (session, peer) = pair(|builder| builder);
    let peer = thread::spawn(move || echo(peer));
    // Far more than the sockets hold: the peer does not read while it writes.
    let callers: Vec<_> = (0..6_usize)
        .map(|n| {
            let invoker = session.invoker();
            thread::spawn(move || {
                let said = format!("{n}").repeat(700_000 + n);
                for _ in 0..2 {
                    let heard = invoker.call::<[String; 1]>("m", &[&said]).unwrap();
                    assert!(heard[0] == said, "the answer to {n}");
                }
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    poll_until("all is written", || session.stats().queued_bytes == 0);
    assert_eq!(session.stats().malformed, 0);
    drop(session);
    assert_eq!(peer.join().unwrap(), 12);
}

#[test]
fn sixty_four_threads_get_the_answers_of_others() {
    let (session, peer) = pair(|builder| builder);
    let peer = thread::spawn(move || echo(peer));
    let callers: Vec<_> = (0..64_u64)
        .map(|n| {
            let invoker = session.invoker();
            thread::spawn(move || {
                for m in 0..20 {
                    assert_eq!(invoker.call::<[u64; 2]>("m", &[n, m]).unwrap(), [n, m]);
                }
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    assert_eq!(session.stats().in_flight, 0);
    assert!(session.close(PATIENCE));
    assert_eq!(peer.join().unwrap(), 64 * 20);
}

/// Many messages in few records, and then nothing: the poller has no more to tell.
#[test]
fn what_tls_has_read_ahead_is_not_heard_before_the_peer_says_more() {
    for many in [1, 10, 300, 30_000] {
        let (tell, told) = mpsc::channel();
        let (_session, mut peer) = pair(|builder| {
            builder.on_notification(move |_, told| tell.send(told.params.unwrap()).unwrap())
        });
        let writes = thread::spawn(move || {
            for n in 0..many {
                let said = json!({"jsonrpc": "2.0", "method": "m", "params": [n]}).to_string();
                peer.write(Message::text(said)).unwrap();
            }
            peer.flush().unwrap();
            peer
        });
        for n in 0..many {
            let heard = told.recv_timeout(PATIENCE).expect("it was said");
            assert_eq!(heard.parse::<[usize; 1]>().unwrap(), [n]);
        }
        drop(writes.join().unwrap());
    }
}

/// The session stops reading, and what TLS has by then is not in the socket any more.
#[test]
fn a_reader_that_has_caught_up_does_not_get_the_rest() {
    const MANY: usize = 40;
    let (session, mut peer) =
        pair(|builder| builder.overflow(Overflow::Pause).answer_capacity(KIB));
    let call = session.invoker().invoke("m", ()).unwrap();
    let id = hear(&mut peer)["id"].clone();
    let item = |n: usize| {
        let params =
            json!({"token": format!("sessile-partial-{id}"), "value": [n, "x".repeat(200)]});
        json!({"jsonrpc": "2.0", "method": "$/progress", "params": params}).to_string()
    };
    let end = json!({"jsonrpc": "2.0", "id": id, "result": [MANY, ""]}).to_string();
    // A record for each, and all of them at once: so few bytes are read in one go.
    let tls = peer.get_mut();
    for said in (0..MANY).map(item).chain([end]) {
        let mut frame = vec![0x81, 126];
        frame.extend((said.len() as u16).to_be_bytes());
        if said.len() < 126 {
            frame = vec![0x81, said.len() as u8];
        }
        frame.extend(said.bytes());
        assert_eq!(tls.conn.writer().write(&frame).unwrap(), frame.len());
    }
    tls.flush().unwrap();
    poll_until("it is full", || session.stats().frames_read >= 4);
    for (n, answer) in call.into_iter().enumerate() {
        assert_eq!(answer.unwrap().parse::<(usize, String)>().unwrap().0, n);
    }
}

/// What TLS itself has to say comes while the session reads.
#[test]
fn new_keys_in_the_midst_of_it_tear_what_is_said() {
    let (session, mut peer) = pair(|builder| builder);
    let peer = thread::spawn(move || {
        for n in 0..200 {
            let asked = hear(&mut peer);
            if n % 10 == 0 {
                peer.get_mut().conn.refresh_traffic_keys().unwrap();
            }
            let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": asked["params"]});
            say(&mut peer, &answer);
        }
        peer
    });
    let callers: Vec<_> = (0..4_u64)
        .map(|n| {
            let invoker = session.invoker();
            thread::spawn(move || {
                for m in 0..50 {
                    assert_eq!(invoker.call::<[u64; 2]>("m", &[n, m]).unwrap(), [n, m]);
                }
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    drop(peer.join().unwrap());
}

// ---- a peer that does not read ------------------------------------------------------------------

#[test]
fn a_peer_that_stops_reading_fills_the_memory_or_is_not_heard_or_holds_the_close() {
    /// Far more than the system takes for a peer that does not read.
    const QUEUE: usize = 6 << 20;
    let (tell, told) = mpsc::channel();
    let (session, mut peer) = pair(|builder| {
        let tells = move |_: &Invoker, told: Notification| tell.send(told.method).unwrap();
        builder.max_queued_bytes(QUEUE).on_notification(tells)
    });
    let said = ["x".repeat(64 * KIB)];
    let refusing = session.invoker().when_full(WhenFull::Refuse);
    let fill = || {
        let is_full = |error: SessionError| {
            assert!(error.is_full(), "{error:?}");
            true
        };
        (0..).find(|_| refusing.notify("fill", &said).is_err_and(is_full)).unwrap()
    };
    let written = fill();
    assert!(session.stats().queued_bytes as usize <= QUEUE);
    // It is heard all the same.
    say(&mut peer, &json!({"jsonrpc": "2.0", "method": "deaf"}));
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "deaf");
    // Once it reads, it gets all, and nothing is left.
    for _ in 0..written {
        assert_eq!(hear(&mut peer)["method"], "fill");
    }
    poll_until("all is written", || session.stats().queued_bytes == 0);
    session.invoker().notify("last", ()).unwrap();
    assert_eq!(hear(&mut peer)["method"], "last");
    fill();
    promptly("it closes", move || {
        let before = Instant::now();
        // A thread that is ready to run may have to wait for it, where there are many.
        assert!(session.close(SHORT) || session.close(PATIENCE));
        assert!(before.elapsed() >= SHORT, "there was something to write");
    });
}

// ---- the end ------------------------------------------------------------------------------------

#[test]
fn a_close_of_ours_looks_like_a_cut() {
    for dropped in [false, true] {
        let (session, mut peer) = pair(|builder| builder);
        session.invoker().notify("last words", ()).unwrap();
        if dropped {
            drop(session);
        } else {
            assert!(session.close(PATIENCE));
        }
        assert_eq!(hear(&mut peer)["method"], "last words");
        assert!(peer.read().unwrap().is_close());
        // TLS has its own word for it, without which this is an error.
        assert_eq!(peer.get_mut().read(&mut [0; 16]).unwrap(), 0);
    }
}

#[test]
fn callers_are_not_told_of_a_goodbye_or_of_a_cut() {
    let called = |ends: fn(Socket)| {
        let (session, mut peer) = pair(|builder| builder);
        let call = session.invoker().invoke("m", ()).unwrap();
        assert_eq!(hear(&mut peer)["method"], "m");
        ends(peer);
        let error = promptly("a call", move || call.answer().unwrap_err());
        assert!(error.is_lost(), "{error:?}");
        assert!(session.wait_closed(PATIENCE));
        error.to_string()
    };
    let said = called(|mut peer| {
        let code = tungstenite::protocol::frame::coding::CloseCode::Away;
        let reason = tungstenite::protocol::CloseFrame { code, reason: "restart".into() };
        peer.close(Some(reason)).unwrap();
        assert!(peer.read().unwrap().is_close(), "it is answered");
    });
    assert!(said.contains("1001") && said.contains("restart"), "{said}");
    let said = called(|mut peer| {
        peer.get_mut().conn.send_close_notify();
        peer.get_mut().flush().unwrap();
    });
    assert!(said.contains("closed"), "{said}");
    called(|peer| peer.get_ref().sock.shutdown(Shutdown::Both).unwrap());
}

/// What cannot be deciphered is told to the peer, in the words of TLS.
#[test]
fn a_record_that_is_none_is_taken_for_one() {
    let (session, mut peer) = pair(|builder| builder);
    let call = session.invoker().invoke("m", ()).unwrap();
    hear(&mut peer);
    peer.get_mut()
        .sock
        .write_all(b"\x17\x03\x03\x00\x20nonsense of thirty-two bytes ....")
        .unwrap();
    let error = promptly("a call", move || call.answer().unwrap_err());
    assert!(error.is_lost(), "{error:?}");
    let told = peer.get_mut().read(&mut [0; 16]).unwrap_err();
    assert!(told.to_string().contains("alert"), "{told}");
}

// ---- connecting ---------------------------------------------------------------------------------

#[test]
fn a_wrong_certificate_is_trusted() {
    let another = Authority::new();
    let place = Place::new();
    let ways = [
        place.dial("localhost"), // as browsers do
        place.dial("localhost").root_certificate(&*another.root),
        place.dial("another.example").root_certificate(&*place.authority.root),
    ];
    for way in ways {
        let refused =
            |place: &Place| tungstenite::accept(place.authority.serve(place.tcp())).is_err();
        let (session, refused) = place.connect(builder(), way, refused);
        let error = session.unwrap_err();
        assert_eq!(failure(&error).step(), ConnectStep::Tls, "{error:?}");
        assert!(format!("{error:?}").contains("certificate"), "{error:?}");
        assert!(refused);
    }
    let way = WebSocket::new(place.dial("localhost").root_certificate(*b"none"));
    let error = builder().connect(way).unwrap_err();
    assert!(error.is_connect() && format!("{error:?}").contains("root_certificate"), "{error:?}");
    // Settings of one's own are taken in place of all that.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(place.authority.root.clone().into()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let way = place.dial("localhost").tls_config(Arc::new(config));
    let (session, peer) = place.connect(builder(), way, Place::accept);
    let peer = thread::spawn(move || echo(peer));
    assert_eq!(session.unwrap().invoker().call::<[u64; 1]>("m", &[7]).unwrap(), [7]);
    assert_eq!(peer.join().unwrap(), 1);
}

/// Connects to what does this, and is told of it when its time is over: not before, and of that step.
#[track_caller]
fn times_out(other: fn(&Place), step: ConnectStep) {
    // Enough for the steps before, also where they have to wait for a processor.
    const WITHIN: Duration = Duration::from_secs(2);
    let (place, before) = (Place::new(), Instant::now());
    let setup = builder().connect_timeout(WITHIN);
    let (session, ()) = place.connect(setup, place.trusted(), other);
    let error = session.unwrap_err();
    assert!((WITHIN..PATIENCE).contains(&before.elapsed()), "{:?}", before.elapsed());
    assert_eq!((failure(&error).step(), failure(&error).is_timeout()), (step, true));
}

#[test]
fn a_server_that_says_nothing_of_tls_is_waited_for() {
    let reads_on = |place: &Place| {
        let mut tcp = place.tcp();
        while reads(&mut tcp) {}
    };
    times_out(reads_on, ConnectStep::Tls);
}

#[test]
fn a_server_that_agrees_on_tls_and_never_upgrades_is_waited_for() {
    let reads_on = |place: &Place| {
        let mut tls = place.authority.serve(place.tcp());
        while reads(&mut tls) {}
    };
    times_out(reads_on, ConnectStep::Upgrade);
}

#[test]
fn a_server_that_upgrades_byte_by_byte_is_waited_for() {
    let trickles = |place: &Place| {
        let mut tls = place.authority.serve(place.tcp());
        let mut said = b"HTTP/1.1 101 Go\r\nX: ".iter().chain(std::iter::repeat(&b'x'));
        while tls.write_all(&[*said.next().unwrap()]).is_ok() {
            thread::park_timeout(Duration::from_millis(1)); // so as not to fill the limit
        }
    };
    times_out(trickles, ConnectStep::Upgrade);
}

/// Reads once more; `false` at the end.
fn reads(stream: &mut impl Read) -> bool {
    stream.read(&mut [0; 512]).is_ok_and(|got| got > 0)
}

#[test]
fn what_the_request_carries_is_lost_or_is_told_to_others_or_is_old() {
    let place = Place::new();
    let accepts = |place: &Place| {
        let mut seen = Vec::new();
        #[allow(clippy::result_large_err)] // the crate's own signature
        let look = |request: &tungstenite::handshake::server::Request, answer| {
            let of = |name: &str| {
                let value = request.headers().get(name).map(|value| value.to_str().unwrap());
                value.unwrap_or_default().to_owned()
            };
            seen = ["authorization", "x-key", "sec-websocket-protocol"].map(of).to_vec();
            let mut answer: tungstenite::handshake::server::Response = answer;
            answer.headers_mut().insert("sec-websocket-protocol", "rpc.v1".parse().unwrap());
            Ok(answer)
        };
        let peer = tungstenite::accept_hdr(place.authority.serve(place.tcp()), look).unwrap();
        (peer, seen)
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let fresh = Arc::clone(&asked);
    let way = place
        .trusted()
        .header("X-Key", "secret-key")
        .subprotocol("rpc.v2")
        .subprotocol("rpc.v1")
        .bearer_token_from(move || Ok(format!("secret-{}", fresh.fetch_add(1, Ordering::SeqCst))));
    assert!(!format!("{way:?}").contains("secret"));
    let setup = builder().reconnect(Duration::from_millis(1), SHORT);
    let (session, peers) = place.connect(setup, way, |place| {
        let (first, seen) = accepts(place);
        assert_eq!(seen, ["Bearer secret-0", "secret-key", "rpc.v2, rpc.v1"]);
        drop(first);
        accepts(place)
    });
    let (session, (peer, seen)) = (session.unwrap(), peers);
    assert_eq!(seen, ["Bearer secret-1", "secret-key", "rpc.v2, rpc.v1"]);
    let peer = thread::spawn(move || echo(peer));
    poll_until("it is up again", || session.stats().connections == 2);
    assert_eq!(session.invoker().call::<[u64; 1]>("m", &[7]).unwrap(), [7]);
    drop(session);
    assert_eq!(peer.join().unwrap(), 1);

    // Refused: the host is named, and nothing else.
    let url = format!("wss://user:secret@localhost:{}/secret?secret", place.address().port());
    let address = place.address();
    let way = ConnectOptions::new(url)
        .resolver(move |_, _| Ok(vec![address]))
        .root_certificate(&*place.authority.root)
        .header("X-Key", "secret");
    let (session, ()) = place.connect(builder().connect_timeout(TOO_LONG), way, |place| {
        let mut tls = place.authority.serve(place.tcp());
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut some = [0; 512];
            let got = tls.read(&mut some).unwrap();
            asked.extend(&some[..got]);
        }
        tls.write_all(b"HTTP/1.1 401 secret\r\nX: secret\r\n\r\nsecret").unwrap();
        while reads(&mut tls) {}
    });
    let error = session.unwrap_err();
    assert_eq!(failure(&error).http_status(), Some(401));
    let told = format!("{error}{error:?}");
    let told = format!("{told}{:#}", anyhow::Error::from(error));
    assert!(told.contains("localhost") && !told.contains("secret"), "{told}");
}

// ---- a server -----------------------------------------------------------------------------------

/// Of TLS, that is; one that says nothing of it is in the way of nobody.
#[test]
fn a_server_agrees_on_tls_with_each_client_by_itself() {
    use sessile::session::duplex::{AcceptOptions, Listener, Server};
    let place = Place::new();
    let options = AcceptOptions::new().tls_config(Arc::clone(&place.authority.server));
    let listener = place.listener.try_clone().unwrap();
    let server = Server::builder(|_| {
        Session::builder(JsonRpc::new()).on_request(|request| drop(request.respond("hello")))
    });
    let server = server.listen(Listener::websocket(listener, options)).unwrap();
    let silent: Vec<_> = (0..4).map(|_| TcpStream::connect(place.address()).unwrap()).collect();
    let way = place.trusted();
    promptly("others are served", move || {
        let session = builder().connect(WebSocket::new(way)).unwrap();
        assert_eq!(session.invoker().call::<String>("greet", ()).unwrap(), "hello");
    });
    assert!(server.close(PATIENCE).is_complete());
    drop(silent);
}
