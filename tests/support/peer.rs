//! The other side of a session, driven by script, over a real socket.

#![allow(dead_code, unreachable_pub)] // each test binary uses its own part of it

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use sessile::session::duplex::{Session, SessionBuilder, Tcp};
use sessile::session::{
    Incoming, JsonRpc, Malformed, Outgoing, Payload, Protocol, RemoteError, RequestId, Unsupported,
};

use super::support::PATIENCE;

/// A place to be dialled.
pub struct Place {
    pub listener: TcpListener,
}

impl Place {
    pub fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    pub fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    pub fn accept(&self) -> Peer {
        Peer::new(self.listener.accept().unwrap().0)
    }
}

/// One connection's other side, which says and hears JSON-RPC lines, or anything.
pub struct Peer {
    reader: BufReader<TcpStream>,
}

impl Peer {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { reader: BufReader::new(stream) }
    }

    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The next frame; `None` at the end.
    pub fn hear(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).expect("the session says something") == 0 {
                return None;
            }
            if !line.trim().is_empty() {
                return Some(serde_json::from_str(&line).expect("a frame is JSON"));
            }
        }
    }

    /// The id and the method of the request that comes next.
    #[track_caller]
    pub fn asked(&mut self) -> (u64, String) {
        let frame = self.hear().expect("a request");
        (frame["id"].as_u64().unwrap(), frame["method"].as_str().unwrap().to_owned())
    }

    pub fn say(&self, frame: &Value) {
        self.say_raw(format!("{frame}\n").as_bytes());
    }

    pub fn say_raw(&self, bytes: &[u8]) {
        self.stream().write_all(bytes).unwrap();
    }

    pub fn answer(&self, id: u64, value: impl Into<Value>) {
        let value: Value = value.into();
        self.say(&json!({"jsonrpc": "2.0", "id": id, "result": value}));
    }

    pub fn item(&self, id: u64, value: impl Into<Value>) {
        let value: Value = value.into();
        let params = json!({"token": format!("sessile-partial-{id}"), "value": value});
        self.say(&json!({"jsonrpc": "2.0", "method": "$/progress", "params": params}));
    }

    pub fn die(self) {
        let _ = self.stream().shutdown(Shutdown::Both);
    }

    /// Whether the session has closed the connection, after what else it said.
    pub fn is_left(&mut self) -> bool {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).is_ok()
    }
}

/// A session and its peer, over TCP.
pub fn pair(setup: impl FnOnce(SessionBuilder) -> SessionBuilder) -> (Session, Peer, Place) {
    pair_with(JsonRpc::new().partial_results(), setup)
}

pub fn pair_with(
    protocol: impl Protocol,
    setup: impl FnOnce(SessionBuilder) -> SessionBuilder,
) -> (Session, Peer, Place) {
    let place = Place::new();
    let builder = Session::builder(protocol).request_timeout(PATIENCE);
    let session = setup(builder).connect(Tcp::new(place.address())).unwrap();
    let peer = place.accept();
    (session, peer, place)
}

/// A protocol in which requests have an end of their own, and calls belong to requests.
pub struct Apart;

impl Protocol for Apart {
    fn encode(&self, message: &Outgoing<'_>, frame: &mut Vec<u8>) -> Result<(), Unsupported> {
        let value = match message {
            Outgoing::Request { id, within, method, params } => {
                let within = within.map(RequestId::as_str);
                json!({"ask": id, "within": within, "method": method, "params": params})
            }
            Outgoing::Item { to, value } | Outgoing::Answer { to, value } => {
                json!({"item": value, "to": to.as_str()})
            }
            Outgoing::Failure { to, error } => json!({"error": error.message, "to": to.as_str()}),
            Outgoing::End { to } => json!({"end": to.as_str()}),
            _ => return Err(Unsupported::new("none of these")),
        };
        frame.extend(value.to_string().bytes());
        Ok(())
    }

    fn decode(&self, frame: &[u8], messages: &mut Vec<Incoming>) -> Result<(), Malformed> {
        let said: Value = serde_json::from_slice(frame).map_err(Malformed::new)?;
        let id = said["to"].as_u64();
        messages.push(if let Some(ask) = said["ask"].as_str() {
            Incoming::Request {
                id: RequestId::new(ask),
                within: None,
                method: said["method"].as_str().unwrap_or_default().to_owned(),
                params: said.get("params").map(|params| Payload::from(params.clone())),
                meta: None,
            }
        } else if let (Some(id), Some(item)) = (id, said.get("item")) {
            Incoming::Item { id, value: item.clone().into() }
        } else if let (id @ Some(_), Some(why)) = (id, said["error"].as_str()) {
            Incoming::Failure { id, error: RemoteError::new(why) }
        } else if let Some(id) = said["end"].as_u64() {
            Incoming::End { id }
        } else {
            return Err(Malformed::new("none of these"));
        });
        Ok(())
    }

    fn ends_apart(&self) -> bool {
        true
    }
}

/// How many threads and descriptors this process has.
pub fn left() -> (usize, usize) {
    let count = |of: &str| std::fs::read_dir(format!("/proc/self/{of}")).unwrap().count();
    (count("task"), count("fd"))
}

/// Short enough to wait for, long enough to be told from at once.
pub const SHORT: Duration = Duration::from_millis(50);
