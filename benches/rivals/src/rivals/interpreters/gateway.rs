//! A Kernel Gateway, in a process of its own; and what a kernel behind it costs a client that does
//! nothing but wait for it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_tcp_quickack;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{CELL, Parts, Session};

/// Of a gateway on the loopback device that lives for a minute: no secret.
pub const TOKEN: &str = "rivals";

const START: Duration = Duration::from_secs(60);

/// The gateway. Dropped, it ends, and its kernels with it.
pub struct Server {
    process: Child,
    folder: PathBuf,
    pub port: u16,
}

impl Server {
    /// Starts one, and waits until it answers.
    ///
    /// # Errors
    ///
    /// If it does not, within a minute.
    pub fn start(python: &std::path::Path) -> Result<Self, String> {
        let told = |error: std::io::Error| error.to_string();
        let folder = std::env::temp_dir().join(format!("rivals-gateway-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(told)?;
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = port.map_err(told)?.port();
        let log = File::create(folder.join("log")).map_err(told)?;
        let variables = ["JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"];
        // It ends with the thread that starts it, whatever becomes of us.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .arg(python)
            .args(["-m", "kernel_gateway", "--KernelGatewayApp.ip=127.0.0.1"])
            .arg(format!("--KernelGatewayApp.port={port}"))
            .arg("--KernelGatewayApp.port_retries=0")
            .env("KG_AUTH_TOKEN", TOKEN)
            // No pings: not every client answers them while it waits for its next turn, and who does
            // not is cut off.
            .env("KG_WS_PING_INTERVAL_SECS", "0")
            .envs(variables.iter().chain(&["IPYTHONDIR"]).map(|name| (name, &folder)))
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(told)?;
        let server = Self { process, folder, port };
        let begun = Instant::now();
        while ask(port, "GET", "/api/kernelspecs").is_none_or(|(status, _)| status != 200) {
            if begun.elapsed() > START {
                let log = fs::read_to_string(server.folder.join("log")).unwrap_or_default();
                return Err(format!("the gateway does not answer: {log}"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// The number of its process.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Told, it ends its kernels first.
        let process = Pid::from_child(&self.process);
        let _ = kill_process(process, Signal::TERM);
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Asks by HTTP. `None` if nobody answers.
fn ask(port: u16, method: &str, path: &str) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(START)).ok()?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: token {TOKEN}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n",
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or_default()))
}

/// The gateway's own floor: a socket with the options that ours has, a frame that is ready made but for
/// its number, and a look at each frame that comes, until one has that number and says `idle`.
pub struct Floor {
    port: u16,
    kernel: Option<Raw>,
}

/// A connection to a kernel.
struct Raw {
    port: u16,
    kernel: String,
    socket: TcpStream,
    /// The request, as it goes out.
    request: Vec<u8>,
    /// Where its number is, in there.
    number_at: usize,
    number: u64,
    /// What has come, up to `filled`.
    got: Vec<u8>,
    filled: usize,
}

/// As many digits as a number has.
const DIGITS: usize = 12;
/// What is before them.
const MARK: &str = "floor-";

impl Raw {
    fn start(port: u16) -> Self {
        let started = ask(port, "POST", "/api/kernels");
        let (_, model) = started.expect("the gateway answers");
        let kernel = model["id"].as_str().expect("it has an id").to_owned();
        let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("the gateway listens");
        socket.set_nodelay(true).expect("it is a socket");
        let upgrade = format!(
            "GET /api/kernels/{kernel}/channels?session_id=floor HTTP/1.1\r\nHost: localhost\r\n\
             Authorization: token {TOKEN}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Protocol: v1.kernel.websocket.jupyter.org\r\n\r\n"
        );
        socket.write_all(upgrade.as_bytes()).expect("the gateway reads");
        let request = request();
        let number_at = find(&request, MARK.as_bytes()).expect("it is there") + MARK.len();
        let got = vec![0; 1 << 20];
        let mut raw = Self { port, kernel, socket, request, number_at, number: 0, got, filled: 0 };
        let head = loop {
            raw.fill();
            if let Some(end) = find(&raw.got[..raw.filled], b"\r\n\r\n") {
                break end + 4;
            }
        };
        assert!(raw.got.starts_with(b"HTTP/1.1 101"), "it is a WebSocket now");
        raw.got.copy_within(head..raw.filled, 0);
        raw.filled -= head;
        raw.cell();
        raw
    }

    fn fill(&mut self) {
        set_tcp_quickack(&self.socket, true).expect("it is a socket");
        let got = self.socket.read(&mut self.got[self.filled..]).expect("the gateway writes");
        assert!(got > 0, "the gateway is there");
        self.filled += got;
    }

    fn cell(&mut self) {
        self.number += 1;
        let number = format!("{:0DIGITS$}", self.number);
        self.request[self.number_at..][..DIGITS].copy_from_slice(number.as_bytes());
        self.socket.write_all(&self.request).expect("the gateway reads");
        loop {
            let mut at = 0;
            let mut is_done = false;
            while let Some(length) = frame(&self.got[at..self.filled]) {
                let frame = &self.got[at..at + length];
                is_done |=
                    find(frame, number.as_bytes()).is_some() && find(frame, b"\"idle\"").is_some();
                at += length;
            }
            self.got.copy_within(at..self.filled, 0);
            self.filled -= at;
            if is_done {
                return;
            }
            self.fill();
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = ask(self.port, "DELETE", &format!("/api/kernels/{}", self.kernel));
    }
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|window| window == what)
}

/// How long the first frame is, head and all, if it is there as a whole. A server does not mask.
fn frame(bytes: &[u8]) -> Option<usize> {
    let length = match *bytes.get(1)? {
        126 => 4 + usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        127 => 10 + u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize,
        length => 2 + usize::from(length),
    };
    (bytes.len() >= length).then_some(length)
}

/// The frame of an `execute_request`. Its mask is zero, which changes nothing.
fn request() -> Vec<u8> {
    let id = format!("{MARK}{}", "0".repeat(DIGITS));
    let header = json!({
        "msg_id": id, "msg_type": "execute_request", "username": "", "session": "floor",
        "version": "5.3",
    });
    let content = json!({
        "code": CELL, "silent": false, "store_history": true, "user_expressions": {},
        "allow_stdin": false, "stop_on_error": true,
    });
    let [header, content] = [header, content].map(|part| part.to_string());
    let parts = ["shell", &header, "{}", "{}", &content];
    let count = parts.len() as u64 + 1;
    let mut end = 8 * (count + 1);
    let mut message = count.to_le_bytes().to_vec();
    message.extend(end.to_le_bytes());
    for part in parts {
        end += part.len() as u64;
        message.extend(end.to_le_bytes());
    }
    message.extend(parts.concat().bytes());
    let mut frame = vec![0x82, 0x80 | 126];
    frame.extend(u16::try_from(message.len()).expect("it is short").to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(message);
    frame
}

impl Session for Floor {
    const NAME: &'static str = "gateway, a raw socket that only waits";

    fn new(parts: &Parts) -> Self {
        Self { port: parts.port, kernel: None }
    }

    fn start(&mut self) -> Duration {
        self.kernel = None;
        let begun = Instant::now();
        self.kernel = Some(Raw::start(self.port));
        begun.elapsed()
    }

    fn cells(&mut self, times: u64) -> Duration {
        let kernel = self.kernel.as_mut().expect("it was started");
        let begun = Instant::now();
        (0..times).for_each(|_| kernel.cell());
        begun.elapsed()
    }

    fn process(&mut self) -> Option<u32> {
        None
    }
}
