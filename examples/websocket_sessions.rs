//! One WebSocket for each thread, to a small JSON-RPC server in the same program.
//!
//! ```text
//! cargo run --example websocket_sessions --features ws
//! ```

use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sessile::session::websocket::{WebSocketManager, WebSocketSession};
use sessile::{Pool, Registry};
use tungstenite::{Message, WebSocket};

const THREADS: usize = 4;
const REQUESTS: u64 = 100;

pub(crate) fn main() -> Result<()> {
    let (url, server) = start_server()?;

    let manager = WebSocketManager::builder(&url)
        .connect_timeout(Duration::from_secs(10))
        .request_timeout(Duration::from_secs(10))
        .build()?;
    let sessions: Pool<WebSocketSession> = Pool::builder(manager)
        .name("calculator")
        .create_backoff(Duration::from_millis(100), Duration::from_secs(5))
        .build()?;

    let threads: Vec<JoinHandle<Result<u64>>> = (0..THREADS)
        .map(|n| {
            let sessions = sessions.clone();
            let name = format!("thread {n}");
            Ok(thread::Builder::new().name(name).spawn(move || sum_of_squares(&sessions))?)
        })
        .collect::<Result<_>>()?;
    let mut connections = Vec::new();
    for thread in threads {
        // `join` waits for the thread's session to say goodbye.
        connections.push(thread.join().expect("no panic")?);
    }
    connections.sort_unstable();
    connections.dedup();
    assert_eq!(connections.len(), THREADS, "each thread had a connection of its own");

    println!("\n{}", Registry::global().snapshot());
    assert!(sessions.wait_closed(Duration::ZERO), "all are closed, their threads having ended");
    let goodbyes = server.join().expect("no panic")?;
    println!("{goodbyes} of {THREADS} sessions said goodbye to the server");
    assert_eq!(goodbyes, THREADS);
    Ok(())
}

/// Asks for squares, several at a time, and gives the number of the connection.
fn sum_of_squares(sessions: &Pool<WebSocketSession>) -> Result<u64> {
    let thread = thread::current();
    let name = thread.name().unwrap_or("?");
    sessions.with(|session| {
        let connection: u64 = session.call("which", ())?;
        let pending: Vec<_> =
            (1..=REQUESTS).map(|n| session.begin("square", [n])).collect::<Result<_, _>>()?;
        let mut sum = 0;
        for answer in pending {
            sum += session.wait(answer)?.parse::<u64>()?;
        }
        assert_eq!(sum, REQUESTS * (REQUESTS + 1) * (2 * REQUESTS + 1) / 6);
        println!("{name} had connection {connection}; the sum is {sum}");
        Ok(connection)
    })?
}

/// Serves as many connections as there are threads, and counts the goodbyes.
fn start_server() -> Result<(String, JoinHandle<Result<usize>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("ws://{}/", listener.local_addr()?);
    let server = thread::spawn(move || {
        let serving: Vec<_> = (0..THREADS)
            .map(|n| {
                let (tcp, _) = listener.accept()?;
                tcp.set_nodelay(true)?;
                let socket = tungstenite::accept(tcp).context("a handshake")?;
                Ok(thread::spawn(move || serve(socket, n)))
            })
            .collect::<Result<_>>()?;
        let said = serving.into_iter().map(|thread| thread.join().expect("no panic"));
        Ok(said.filter(|said_goodbye| *said_goodbye).count())
    });
    Ok((url, server))
}

/// Says whether the client said goodbye.
fn serve(mut socket: WebSocket<TcpStream>, n: usize) -> bool {
    let mut goodbye = false;
    while let Ok(message) = socket.read() {
        match message {
            Message::Text(text) => {
                let request: Value = serde_json::from_str(&text).unwrap_or_default();
                let result = match (request["method"].as_str(), request["params"][0].as_u64()) {
                    (Some("square"), Some(n)) => json!(n * n),
                    _ => json!(n),
                };
                let answer = json!({"jsonrpc": "2.0", "id": request["id"], "result": result});
                if socket.send(Message::text(answer.to_string())).is_err() {
                    break;
                }
            }
            Message::Close(_) => goodbye = true,
            _ => {}
        }
    }
    goodbye
}
