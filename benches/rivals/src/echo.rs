//! A server that sends back what it is told, in a process of its own, and what one says to it.
//!
//! It speaks JSON-RPC 2.0, over lines and over WebSocket, and sees to it that it is nobody's
//! bottleneck: each connection has a thread that blocks, all that has come with one read is answered
//! with one write, and the JSON of the parameters goes back as it is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::memory::CHILD;

/// What is asked for, to have the parameters back.
pub const ECHO: &str = "echo";
/// What is asked for, to have no answer at all.
pub const KEEP: &str = "keep";

/// Where the server listens, on the loopback device.
#[derive(Clone, Copy)]
pub struct Ports {
    pub lines: u16,
    pub web_socket: u16,
}

/// The server of this process. It is started when it is first asked for, and ends with this process.
///
/// # Panics
///
/// If it does not start.
#[must_use]
pub fn server() -> Ports {
    static SERVER: OnceLock<(Ports, Child)> = OnceLock::new();
    let (ports, _) = SERVER.get_or_init(|| {
        let program = std::env::current_exe().expect("a running program has a path");
        let child = Command::new(program)
            .args([CHILD, crate::sections::calls::ENTRY.name, "serve"])
            .stdin(Stdio::piped()) // its end is ours
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.expect("the program runs once, so it runs again");
        let mut said = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut said).expect("it says where it listens");
        let mut ports = said.split_whitespace().map(|port| port.parse().expect("a port"));
        let mut port = || ports.next().expect("there are two");
        (Ports { lines: port(), web_socket: port() }, child)
    });
    *ports
}

/// Serves until standard input ends.
///
/// # Panics
///
/// If there is no port to be had.
pub fn serve() {
    let [lines, web_socket] = [Framing::Lines, Framing::WebSocket].map(|framing| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A connection that fails is its client's to complain of.
                thread::spawn(move || drop(framing.converse(stream)));
            }
        });
        port
    });
    println!("{lines} {web_socket}");
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

#[derive(Clone, Copy)]
enum Framing {
    Lines,
    WebSocket,
}

impl Framing {
    fn converse(self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        if matches!(self, Self::WebSocket) {
            let upgraded = tungstenite::accept(stream).map_err(std::io::Error::other)?;
            stream = upgraded.into_inner(); // clients wait for the upgrade: it has read no more
        }
        let mut input = vec![0; 64 << 10];
        let mut filled = 0;
        let mut output = Vec::new();
        loop {
            match stream.read(&mut input[filled..])? {
                0 => return Ok(()),
                read => filled += read,
            }
            let mut begun = 0;
            while let Some((head, end)) = self.first(&input[begun..filled]) {
                let (head, payload) = input[begun..begun + end].split_at_mut(head);
                self.answer(head, payload, &mut output)?;
                begun += end;
            }
            input.copy_within(begun..filled, 0);
            filled -= begun;
            stream.write_all(&output)?;
            output.clear();
        }
    }

    /// Of the first frame, if it is there: how long its head is, and where it ends.
    fn first(self, input: &[u8]) -> Option<(usize, usize)> {
        let (head, end) = match self {
            Self::Lines => (0, input.iter().position(|byte| *byte == b'\n')? + 1),
            Self::WebSocket => {
                // Short messages, each whole in a frame, and masked: what our clients send.
                let (head, size) = match *input {
                    [_, size, ..] if size & 127 < 126 => (6, usize::from(size & 127)),
                    [_, _, high, low, ..] => (8, usize::from(u16::from_be_bytes([high, low]))),
                    _ => return None,
                };
                (head, head + size)
            }
        };
        (end <= input.len()).then_some((head, end))
    }

    fn answer(self, head: &[u8], said: &mut [u8], output: &mut Vec<u8>) -> std::io::Result<()> {
        if let [.., a, b, c, d] = *head {
            said.iter_mut().zip([a, b, c, d].iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        }
        #[derive(Deserialize)]
        struct Asked<'a> {
            id: u64,
            method: &'a str,
            #[serde(borrow)]
            params: &'a RawValue,
        }
        let Asked { id, method, params } = serde_json::from_slice(said)?;
        if method == KEEP {
            return Ok(());
        }
        let begun = output.len();
        if matches!(self, Self::WebSocket) {
            output.extend([0x81, 126, 0, 0]); // text; its length is filled in below
        }
        let text = output.len();
        write!(output, r#"{{"jsonrpc":"2.0","id":{id},"result":{params}}}"#)?;
        let size = output.len() - text;
        match self {
            Self::Lines => output.push(b'\n'),
            Self::WebSocket => {
                let size = u16::try_from(size).expect("what is asked is short");
                output[begun + 2..text].copy_from_slice(&size.to_be_bytes());
            }
        }
        Ok(())
    }
}

// ---- what a client writes by hand -----------------------------------------------------------------

/// Asks for a number to be sent back.
#[must_use]
pub fn ask(id: u64, number: u64) -> String {
    #[derive(Serialize)]
    struct Asks {
        jsonrpc: &'static str,
        id: u64,
        method: &'static str,
        params: [u64; 1],
    }
    let asks = Asks { jsonrpc: "2.0", id, method: ECHO, params: [number] };
    serde_json::to_string(&asks).expect("it is JSON")
}

/// The id of an answer, and the number in it.
///
/// # Panics
///
/// If it is none.
#[must_use]
pub fn answer(text: &str) -> (u64, u64) {
    #[derive(Deserialize)]
    struct Answer {
        id: u64,
        result: [u64; 1],
    }
    let Answer { id, result: [number] } = serde_json::from_str(text).expect("it is an answer");
    (id, number)
}
