//! The async server of the examples, asked by a client over HTTP: conversations mixed up, requests
//! out of order, a session's panic that takes more with it than itself, an end that loses answers.

mod support;

#[allow(dead_code)] // its `main`
#[path = "../examples/tokio_server.rs"]
mod tokio_server;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use sessile::workers::ShutdownReport;
use support::{PATIENCE, promptly};
use tokio::sync::oneshot;

/// A connection that is kept alive.
struct Client(BufReader<TcpStream>);

impl Client {
    fn new(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    fn say(&mut self, who: &str, words: &str) -> (u16, String) {
        let length = words.len();
        let request = format!(
            "POST /{who} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{words}"
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let status = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }
}

/// Runs the server on a thread of its own while `test` asks it; then ends it.
fn with_server(test: impl FnOnce(SocketAddr) + Send + 'static) -> ShutdownReport {
    let (end, ended) = oneshot::channel();
    let (tell, told) = std::sync::mpsc::channel();
    let server = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let end = async { ended.await.unwrap() };
            tokio_server::serve(listener, tokio_server::sessions(), end).await.unwrap()
        })
    });
    test(told.recv_timeout(PATIENCE).unwrap());
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
        assert_eq!((status, &*text), (500, "the work panicked"));
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
    let mut client = told.recv().unwrap();
    assert_eq!(client.0.read(&mut [0]).unwrap(), 0, "the server has hung up");
}
