//! WebSocket servers that do as the test says, over real sockets.

#![allow(dead_code, unreachable_pub)] // each test binary uses its own part of it

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::support::{PATIENCE, Watched};

/// Accepts connections, and runs the script for each on a thread of its own.
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<thread::Result<()>>>>,
    log: Arc<Watched<Log>>,
}

/// What came to pass at the server.
#[derive(Debug, Default)]
pub struct Log {
    pub connections: usize,
    /// The methods of the requests, in the order of their arrival.
    pub requests: Vec<String>,
    /// How often a client said goodbye.
    pub goodbyes: usize,
    /// How many connections are over.
    pub ended: usize,
}

impl Server {
    /// Any protocol. The number counts connections from 0.
    pub fn raw(script: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        Self::logging(move |tcp, n, _| script(tcp, n))
    }

    /// WebSocket, after the handshake.
    pub fn new(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        Self::logging(move |tcp, n, log| {
            tcp.set_nodelay(true).unwrap();
            tcp.set_read_timeout(Some(PATIENCE)).unwrap();
            let socket = tungstenite::accept(tcp).expect("a handshake");
            script(&mut Peer { socket, n, log: Arc::clone(log) });
        })
    }

    /// Answers each request with its method and parameters, until the client says goodbye.
    pub fn echo() -> Self {
        Self::new(Peer::echo)
    }

    fn logging(
        script: impl Fn(TcpStream, usize, &Arc<Watched<Log>>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Watched::<Log>::default()));
        let script = Arc::new(script);
        let thread = {
            let (stop, log) = (Arc::clone(&stop), Arc::clone(&log));
            thread::spawn(move || {
                let mut threads = Vec::new();
                for n in 0.. {
                    let (tcp, _) = listener.accept().unwrap();
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    log.change(|log| log.connections += 1);
                    let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                    threads.push(thread::spawn(move || {
                        script(tcp, n, &log);
                        log.change(|log| log.ended += 1);
                    }));
                }
                threads.into_iter().map(JoinHandle::join).collect()
            })
        };
        Self { address, stop, thread: Some(thread), log }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("ws://{}/rpc", self.address)
    }

    pub fn connections(&self) -> usize {
        self.log.read(|log| log.connections)
    }

    pub fn requests(&self) -> Vec<String> {
        self.log.read(|log| log.requests.clone())
    }

    #[track_caller]
    pub fn wait_until(&self, what: &str, done: impl Fn(&Log) -> bool) {
        self.log.wait_until(what, done);
    }
}

/// Waits for the scripts to end: each does when its client hangs up. One that panicked fails the test.
impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended
                .unwrap()
                .into_iter()
                .for_each(|ended| ended.expect("the server keeps to its script"));
        }
    }
}

/// The server's end of a connection.
pub struct Peer {
    pub socket: WebSocket<TcpStream>,
    /// Which connection this is, from 0.
    pub n: usize,
    log: Arc<Watched<Log>>,
}

impl Peer {
    /// The next message; `None` once the client has gone. Pings are answered meanwhile.
    pub fn receive(&mut self) -> Option<Value> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    let said: Value = serde_json::from_str(&text).expect("JSON");
                    if let Some(method) = said["method"].as_str() {
                        self.log.change(|log| log.requests.push(method.to_owned()));
                    }
                    return Some(said);
                }
                Ok(Message::Close(_)) => self.log.change(|log| log.goodbyes += 1),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if error.kind() == std::io::ErrorKind::WouldBlock =>
                {
                    panic!("the client says nothing")
                }
                Err(_) => return None,
            }
        }
    }

    /// The next message, which is to be this request.
    #[track_caller]
    pub fn expect(&mut self, method: &str) -> Value {
        let said = self.receive().expect("the client is there");
        assert_eq!(said["method"], method);
        said
    }

    pub fn say(&mut self, message: Value) {
        self.say_text(&message.to_string());
    }

    /// Whether it can be heard is the client's affair.
    pub fn say_text(&mut self, text: &str) {
        let _ = self.socket.send(Message::text(text));
    }

    pub fn answer(&mut self, request: &Value, result: Value) {
        self.say(json!({"jsonrpc": "2.0", "id": request["id"], "result": result}));
    }

    pub fn tell(&mut self, method: &str, params: Value) {
        self.say(json!({"jsonrpc": "2.0", "method": method, "params": params}));
    }

    pub fn echo(&mut self) {
        while let Some(request) = self.receive() {
            if !request["id"].is_null() {
                let said = json!([request["method"], request["params"]]);
                self.answer(&request, said);
            }
        }
    }

    /// Reads until the client has gone.
    pub fn drain(&mut self) {
        while self.receive().is_some() {}
    }

    /// Waits until the client hangs up, and answers nothing: neither requests nor pings nor a goodbye.
    pub fn ignore(&mut self) {
        let tcp = self.socket.get_mut();
        let mut chunk = [0; 4096];
        while std::io::Read::read(tcp, &mut chunk).is_ok_and(|got| got > 0) {}
    }

    /// Writes bytes of its own making.
    pub fn raw(&mut self, bytes: &[u8]) {
        let _ = std::io::Write::write_all(self.socket.get_mut(), bytes);
    }

    /// Dies.
    pub fn hang_up(&mut self) {
        let _ = self.socket.get_ref().shutdown(Shutdown::Both);
    }
}

/// A frame as a server writes it, with `payload` all of it or the beginning.
pub fn frame(opcode: u8, length: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match length {
        0..126 => frame.push(length as u8),
        126..0x1_0000 => {
            frame.push(126);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}
