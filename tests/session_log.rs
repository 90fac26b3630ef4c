//! What is written to the log is the whole process's affair, so it shares the process with no other
//! test.

#![cfg(all(feature = "ws", feature = "duplex", unix))]

mod support;

use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;

use sessile::session::duplex::{Session, WebSocket, WebSocketAccepted};
use sessile::session::websocket::WebSocketManager;
use sessile::session::{ConnectOptions, JsonRpc};
use support::PATIENCE;

/// All that anybody logs.
struct Log(Mutex<String>);

static LOG: Log = Log(Mutex::new(String::new()));

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{}: {}\n", record.target(), record.args());
        self.0.lock().unwrap().push_str(&line);
    }

    fn flush(&self) {}
}

#[test]
fn what_is_secret_is_in_the_log() {
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://user:secret@{}/secret?secret", listener.local_addr().unwrap());
    let serves = thread::spawn(move || {
        let accepts = |stream: TcpStream| {
            Session::builder(JsonRpc::new())
                .on_request(|request| drop(request.respond("secret")))
                .connect(WebSocketAccepted::new(stream))
                .unwrap()
        };
        [0, 1].map(|_| accepts(listener.accept().unwrap().0))
    });
    let options = ConnectOptions::new(&url).bearer_token("secret").header("X-Key", "secret");
    let way = WebSocket::new(options.clone());
    let duplex = Session::builder(JsonRpc::new()).request_timeout(PATIENCE).connect(way).unwrap();
    assert_eq!(duplex.invoker().call::<String>("secret", &["secret"]).unwrap(), "secret");
    let manager = WebSocketManager::builder(options).request_timeout(PATIENCE);
    let mut session = manager.build().unwrap().connect().unwrap();
    assert_eq!(session.call::<String>("secret", ["secret"]).unwrap(), "secret");
    session.close().unwrap();
    assert!(duplex.close(PATIENCE));
    for server in serves.join().unwrap() {
        assert!(server.wait_closed(PATIENCE));
    }
    let log = LOG.0.lock().unwrap();
    assert!(log.contains("tungstenite"), "somebody logs something");
    assert!(!log.contains("secret"), "{log}");
}
