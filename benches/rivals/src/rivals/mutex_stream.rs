//! A connection that blocks, under a `Mutex`: the lock is held from the request until its answer. And
//! the same for each thread, without a lock.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Mutex;

use ::thread_local::ThreadLocal;
use tungstenite::{Message, WebSocket};

use super::Client;
use super::ours_connected::url;
use crate::echo::{Ports, answer, ask};

fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server listens");
    stream.set_nodelay(true).expect("it is a TCP socket");
    stream
}

/// Lines over TCP.
pub struct Tcp(Mutex<(BufReader<TcpStream>, String)>);

impl Client for Tcp {
    const NAME: &'static str = "`Mutex<BufReader<TcpStream>>`";

    fn connect(to: Ports) -> Self {
        Self(Mutex::new((BufReader::new(dial(to.lines)), String::new())))
    }

    fn echo(&self, number: u64) -> u64 {
        let (stream, line) = &mut *self.0.lock().expect("no call panics");
        let mut asked = ask(number, number);
        asked.push('\n');
        stream.get_mut().write_all(asked.as_bytes()).expect("the server reads");
        line.clear();
        stream.read_line(line).expect("it answers");
        let (id, back) = answer(line);
        assert_eq!(id, number);
        back
    }
}

type Socket = WebSocket<TcpStream>;

fn dial_web_socket(to: Ports) -> Socket {
    let stream = dial(to.web_socket);
    let (socket, _) = tungstenite::client(url(to), stream).expect("the server agrees");
    socket
}

fn echo(socket: &mut Socket, number: u64) -> u64 {
    socket.send(Message::text(ask(number, number))).expect("the server reads");
    let answered = socket.read().expect("it answers");
    let (id, back) = answer(answered.to_text().expect("it is text"));
    assert_eq!(id, number);
    back
}

/// One WebSocket for all.
pub struct Tungstenite(Mutex<Socket>);

impl Client for Tungstenite {
    const NAME: &'static str = "`Mutex<tungstenite::WebSocket>`";

    fn connect(to: Ports) -> Self {
        Self(Mutex::new(dial_web_socket(to)))
    }

    fn echo(&self, number: u64) -> u64 {
        echo(&mut self.0.lock().expect("no call panics"), number)
    }
}

/// A WebSocket for each thread.
pub struct PerThread {
    to: Ports,
    sockets: ThreadLocal<RefCell<Socket>>,
}

impl Client for PerThread {
    const NAME: &'static str = "`ThreadLocal<RefCell<tungstenite::WebSocket>>`";

    fn connect(to: Ports) -> Self {
        Self { to, sockets: ThreadLocal::new() }
    }

    fn echo(&self, number: u64) -> u64 {
        let socket = self.sockets.get_or(|| RefCell::new(dial_web_socket(self.to)));
        echo(&mut socket.borrow_mut(), number)
    }
}
