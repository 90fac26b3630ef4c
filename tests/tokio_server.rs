//! The async server of the examples, asked by a client over HTTP: conversations mixed up, requests
//! out of order, a session's panic that takes more with it than itself, an end that loses answers.

mod support;

#[allow(dead_code)] // its `main`
#[path = "../examples/tokio_server.rs"]
mod tokio_server;

use std::net::SocketAddr;
use std::thread;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use sessile::workers::ShutdownReport;
use support::{PATIENCE, promptly};
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

fn runtime() -> Runtime {
    runtime::Builder::new_current_thread().enable_io().build().unwrap()
}

/// A connection that is kept alive, for a caller that blocks.
struct Client {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    /// Ends when the server hangs up.
    connection: JoinHandle<hyper::Result<()>>,
}

impl Client {
    fn new(server: SocketAddr) -> Self {
        let runtime = runtime();
        let (sender, connection) = runtime.block_on(async {
            let stream = TcpStream::connect(server).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            (sender, tokio::spawn(connection))
        });
        Self { runtime, sender, connection }
    }

    fn say(&mut self, who: &str, words: &str) -> (u16, String) {
        let request = Request::post(format!("/{who}")).header("host", "test");
        let request = request.body(Full::from(words.to_owned())).unwrap();
        self.runtime.block_on(async {
            let response = self.sender.send_request(request).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8(body.into()).unwrap())
        })
    }

    fn wait_until_hung_up(self) {
        self.runtime.block_on(self.connection).unwrap().unwrap();
    }
}

/// Runs the server on a thread of its own while `test` asks it; then ends it.
fn with_server(test: impl FnOnce(SocketAddr) + Send + 'static) -> ShutdownReport {
    let (end, ended) = oneshot::channel();
    let (tell, told) = std::sync::mpsc::channel();
    let server = thread::spawn(move || {
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let end = async { ended.await.unwrap() };
            tokio_server::serve(listener, tokio_server::sessions(), end).await.unwrap()
        })
    });
    let address = told.recv_timeout(PATIENCE).unwrap();
    promptly("the clients", move || test(address));
    end.send(()).unwrap();
    promptly("the server", move || server.join().unwrap())
}

#[test]
fn conversations_are_mixed_up_or_out_of_order() {
    let report = with_server(|server| {
        thread::scope(|s| {
            for n in 0..20 {
                s.spawn(move || {
                    let mut client = Client::new(server);
                    for turn in 1..=20 {
                        let (status, text) = client.say(&format!("client-{n}"), &n.to_string());
                        assert_eq!(status, 200);
                        let said = vec![n.to_string(); turn].join(" ");
                        assert_eq!(text, format!("{turn}: {said}"));
                    }
                });
            }
        });
    });
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn a_conversation_is_tied_to_its_connection() {
    let report = with_server(|server| {
        assert_eq!(Client::new(server).say("alice", "hello").1, "1: hello");
        assert_eq!(Client::new(server).say("alice", "again").1, "2: hello again");
    });
    assert!(report.is_clean());
}

#[test]
fn a_panic_takes_another_conversation_with_it() {
    let report = with_server(|server| {
        let mut client = Client::new(server);
        assert_eq!(client.say("alice", "hello").0, 200);
        assert_eq!(client.say("bob", "hello").0, 200);
        let (status, text) = client.say("alice", "panic");
        assert_eq!(status, 500);
        assert!(text.starts_with("the work panicked: "), "{text}");
        assert_eq!(client.say("alice", "anew").1, "1: anew", "poisoned, and made anew");
        assert_eq!(client.say("bob", "still").1, "2: hello still");
    });
    assert!(report.is_clean());
}

/// A connection that is kept alive, and says nothing, must not keep the server.
#[test]
fn an_idle_connection_keeps_the_server_from_ending() {
    let (tell, told) = std::sync::mpsc::channel();
    let report = with_server(move |server| {
        let mut client = Client::new(server);
        client.say("alice", "hello");
        tell.send(client).unwrap();
    });
    assert!(report.is_clean());
    let client = told.recv().unwrap();
    promptly("the client", move || client.wait_until_hung_up());
}
