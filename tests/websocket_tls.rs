//! WebSocket sessions over TLS: with the wrong certificate, with none at all, and with a peer that
//! stops in the middle.

#![cfg(all(feature = "ws", feature = "tls"))]

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::error::Error;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use sessile::session::websocket::{
    ConnectError, ConnectStep, WebSocketBuilder, WebSocketManager, WebSocketSession,
};
use sessile::session::{ConnectOptions, SessionError};
use sessile::{Pool, Registry};
use support::{PATIENCE, TOO_LONG, promptly};
use tls::{Authority, Tls, provider};
use tungstenite::{Message, WebSocket};

const SOON: Duration = Duration::from_millis(100);

/// A server for one connection.
struct Server {
    address: SocketAddr,
    thread: JoinHandle<()>,
}

impl Server {
    fn raw(script: impl FnOnce(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let (tcp, _) = listener.accept().unwrap();
            tcp.set_read_timeout(Some(PATIENCE)).unwrap();
            script(tcp);
        });
        Self { address, thread }
    }

    fn new(
        authority: &Authority,
        script: impl FnOnce(&mut WebSocket<Tls>) + Send + 'static,
    ) -> Self {
        let config = Arc::clone(&authority.server);
        Self::raw(move |tcp| {
            let tls = StreamOwned::new(ServerConnection::new(config).unwrap(), tcp);
            if let Ok(mut socket) = tungstenite::accept(tls) {
                script(&mut socket);
            }
        })
    }

    /// `name` is what the certificate is to be for.
    fn builder(&self, name: &str) -> WebSocketBuilder {
        builder(self.options(name))
    }

    fn options(&self, name: &str) -> ConnectOptions {
        let address = self.address;
        ConnectOptions::new(format!("wss://{name}:{}/", address.port()))
            .resolver(move |_, _| Ok(vec![address]))
    }

    fn end(self) {
        self.thread.join().unwrap();
    }
}

fn builder(options: ConnectOptions) -> WebSocketBuilder {
    WebSocketManager::builder(options).connect_timeout(TOO_LONG).request_timeout(TOO_LONG)
}

fn echo(socket: &mut WebSocket<Tls>) {
    while let Ok(message) = socket.read() {
        if let Message::Text(text) = message {
            let said: Value = serde_json::from_str(&text).unwrap();
            let answer = json!({"id": said["id"], "result": said["params"]});
            socket.send(Message::text(answer.to_string())).unwrap();
        }
    }
}

fn connect(builder: WebSocketBuilder) -> Result<WebSocketSession, SessionError> {
    let manager = builder.build().unwrap();
    promptly("connecting", move || manager.connect())
}

#[track_caller]
fn failure(error: &SessionError) -> &ConnectError {
    error.source().and_then(|source| source.downcast_ref()).expect("it says at which step")
}

#[test]
fn an_authority_of_ones_own_is_not_trusted() {
    let authority = Authority::new();
    let server = Server::new(&authority, echo);
    let mut session =
        connect(builder(server.options("localhost").root_certificate(&*authority.root))).unwrap();
    assert_eq!(session.call::<[u8; 2]>("m", [1, 2]).unwrap(), [1, 2]);
    let long = "x".repeat(1 << 20); // many records
    assert_eq!(session.call::<[String; 1]>("m", [&long]).unwrap(), [long]);
    session.ping().unwrap();
    session.close().unwrap();
    server.end();
    // The same in PEM, beside another's.
    let server = Server::new(&authority, echo);
    let pem = |der: &[u8]| {
        let lines = data_encoding::BASE64.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
    };
    let both = format!("# ours\n{}{}", pem(&Authority::new().root), pem(&authority.root));
    let mut session = connect(builder(server.options("localhost").root_certificate(both))).unwrap();
    session.request("m", ()).unwrap();
    drop(session);
    server.end();
    // The same by settings of TLS of one's own.
    let server = Server::new(&authority, echo);
    let mut roots = RootCertStore::empty();
    roots.add(authority.root.clone().into()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut session =
        connect(builder(server.options("localhost").tls_config(Arc::new(config)))).unwrap();
    session.request("m", ()).unwrap();
    drop(session);
    server.end();
}

#[test]
fn a_wrong_certificate_is_trusted() {
    let authority = Authority::new();
    let another = Authority::new();
    type Set<'a> = Box<dyn Fn(ConnectOptions) -> ConnectOptions + 'a>;
    let cases: [(&str, Set<'_>); 3] = [
        ("localhost", Box::new(|options| options)), // as browsers do
        ("localhost", Box::new(|options| options.root_certificate(&*another.root))),
        ("another.example", Box::new(|options| options.root_certificate(&*authority.root))),
    ];
    for (name, set) in cases {
        let server = Server::new(&authority, |_| panic!("the client has trusted it"));
        let error = connect(builder(set(server.options(name)))).unwrap_err();
        assert_eq!(failure(&error).step(), ConnectStep::Tls, "{:?}", failure(&error));
        let chain = format!("{:#}", anyhow::Error::from(error));
        assert!(chain.contains("certificate"), "{chain}");
        server.end();
    }
    for none in [
        &b"none"[..],
        b"-----BEGIN CERTIFICATE-----\nnone\n",
        b"-----BEGIN X-----\n-----END X-----\n",
    ] {
        let options = ConnectOptions::new("wss://localhost/").root_certificate(none);
        let error = WebSocketManager::new(options).unwrap_err();
        assert!(error.to_string().starts_with("`root_certificate`"), "{error}");
    }
}

#[test]
fn a_server_without_tls_is_waited_for() {
    let server = Server::raw(drop);
    let error = connect(server.builder("localhost")).unwrap_err();
    assert_eq!(failure(&error).step(), ConnectStep::Tls);
    server.end();
    // It hears all that is said, and hangs up.
    let server = Server::raw(|mut tcp| {
        assert!(tcp.read(&mut [0; 4096]).unwrap() > 0);
        tcp.shutdown(std::net::Shutdown::Write).unwrap();
        while tcp.read(&mut [0; 512]).is_ok_and(|got| got > 0) {}
    });
    let error = connect(server.builder("localhost")).unwrap_err();
    assert_eq!(failure(&error).step(), ConnectStep::Tls);
    assert!(!failure(&error).is_timeout());
    server.end();
    let silent = Server::raw(|mut tcp| while tcp.read(&mut [0; 512]).is_ok_and(|got| got > 0) {});
    let error = connect(silent.builder("localhost").connect_timeout(5 * SOON)).unwrap_err();
    assert_eq!(failure(&error).step(), ConnectStep::Tls);
    assert!(failure(&error).is_timeout());
    silent.end();
}

#[test]
fn a_peer_that_is_silent_or_reads_nothing_keeps_the_caller_past_its_deadline() {
    let authority = Authority::new();
    let (hung_up, until_hung_up) = std::sync::mpsc::channel::<()>();
    let server = Server::new(&authority, move |_| {
        until_hung_up.recv_timeout(PATIENCE).unwrap();
    });
    let mut session =
        connect(builder(server.options("localhost").root_certificate(&*authority.root))).unwrap();
    promptly("two requests", move || {
        let pending = session.begin("m", ()).unwrap();
        let error = session.request_timeout("m", ["x".repeat(12 << 20)], SOON).unwrap_err();
        assert!(error.is_timeout(), "{error}");
        assert!(session.is_closed(), "half a frame is out");
        assert!(session.wait(pending).unwrap_err().is_lost());
    });
    hung_up.send(()).unwrap();
    server.end();

    let server = Server::new(&authority, |socket| {
        while socket.get_mut().read(&mut [0; 512]).is_ok_and(|got| got > 0) {}
    });
    let mut session =
        connect(builder(server.options("localhost").root_certificate(&*authority.root))).unwrap();
    promptly("a request", move || {
        assert!(session.request_timeout("m", (), SOON).unwrap_err().is_timeout());
        assert!(session.is_closed(), "nothing was heard");
    });
    server.end();
}

#[test]
fn two_that_write_wait_for_each_other() {
    const MUCH: usize = 12 << 20;
    let authority = Authority::new();
    let server = Server::new(&authority, |socket| {
        let blob = json!({"method": "blob", "params": ["x".repeat(MUCH)]});
        socket.send(Message::text(blob.to_string())).unwrap();
        socket.set_config(|config| config.max_frame_size = None);
        echo(socket);
    });
    let builder = builder(server.options("localhost").root_certificate(&*authority.root));
    let mut session = connect(builder.max_message_size(2 * MUCH)).unwrap();
    promptly("a large request", move || {
        session.request("m", ["x".repeat(MUCH)]).unwrap();
        assert_eq!(session.try_event().unwrap().expect("read meanwhile").method, "blob");
    });
    server.end();
}

#[test]
fn a_connection_that_is_cut_looks_like_an_end() {
    let authority = Authority::new();
    let server = Server::new(&authority, |socket| {
        assert!(socket.read().unwrap().is_text());
        let tcp = &socket.get_ref().sock;
        tcp.shutdown(std::net::Shutdown::Both).unwrap(); // and no word of TLS about it
    });
    let mut session =
        connect(builder(server.options("localhost").root_certificate(&*authority.root))).unwrap();
    let error = promptly("a request", move || session.request("m", ()).unwrap_err());
    assert!(error.is_lost(), "{error}");
    server.end();
}

/// What cannot be deciphered is told to the peer, in the words of TLS.
#[test]
fn a_record_that_is_none_is_taken_for_one() {
    let authority = Authority::new();
    let server = Server::new(&authority, |socket| {
        assert!(socket.read().unwrap().is_text());
        let tcp = &mut socket.get_mut().sock;
        std::io::Write::write_all(tcp, b"\x17\x03\x03\x00\x05nonse").unwrap();
        let told = socket.get_mut().read(&mut [0; 16]).unwrap_err();
        assert!(told.to_string().contains("alert"), "{told}");
    });
    let mut session =
        connect(builder(server.options("localhost").root_certificate(&*authority.root))).unwrap();
    let error = promptly("a request", move || session.request("m", ()).unwrap_err());
    assert!(error.is_lost(), "{error}");
    server.end();
}

/// It is closed among the destructors of the thread, where not everything works any more.
#[test]
fn a_thread_that_ends_cuts_the_connection() {
    let authority = Authority::new();
    let server = Server::new(&authority, |socket| {
        assert!(socket.read().unwrap().is_text());
        assert!(socket.read().unwrap().is_close());
        let _ = socket.flush(); // the answer, of which it says that it is the end
        // TLS has its own word for the end, without which this is an error.
        assert_eq!(socket.get_mut().read(&mut [0; 16]).unwrap(), 0);
    });
    let builder = builder(server.options("localhost").root_certificate(&*authority.root));
    let sessions = Pool::builder(builder.close_timeout(TOO_LONG).build().unwrap());
    let sessions: Pool<WebSocketSession> = sessions.registry(&Registry::new()).build().unwrap();
    promptly("a thread", {
        let sessions = sessions.clone();
        move || {
            let uses = move || sessions.with(|session| session.notify("m", ())).unwrap().unwrap();
            thread::spawn(uses).join().unwrap();
        }
    });
    assert!(sessions.wait_closed(Duration::ZERO));
    server.end();
}
