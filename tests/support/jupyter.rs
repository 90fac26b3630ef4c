//! Real gateways, each on a port of its own, from the tests' own virtual environments.

#![allow(dead_code, unreachable_pub)] // each test binary uses its own part of it

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sessile::interpreter::jupyter::{Gateway, JupyterBuilder, JupyterManager};

use crate::venv;

/// What a token must never be found in.
pub const TOKEN: &str = "hush-7f3a";

/// To start a server takes a second, on an idle machine.
const START: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    KernelGateway,
    JupyterServer,
    EnterpriseGateway,
}

impl Kind {
    fn python(self) -> PathBuf {
        let file = match self {
            Self::KernelGateway | Self::JupyterServer => "requirements.txt",
            Self::EnterpriseGateway => "enterprise.txt",
        };
        let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jupyter").join(file);
        venv::python(&requirements)
    }

    fn module(self) -> &'static str {
        match self {
            Self::KernelGateway => "kernel_gateway",
            Self::JupyterServer => "jupyter_server",
            Self::EnterpriseGateway => "enterprise_gateway",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::KernelGateway => "KernelGatewayApp",
            Self::JupyterServer => "ServerApp",
            Self::EnterpriseGateway => "EnterpriseGatewayApp",
        }
    }
}

/// A gateway's process. It ends when this is dropped, and whatever was written with it.
pub struct Server {
    pub kind: Kind,
    pub port: u16,
    pub pid: u32,
    base: String,
    folder: PathBuf,
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(kind: Kind, arguments: &[&str]) -> Self {
        let python = kind.python();
        // Somebody else may take the port between finding and using it.
        for _ in 0..5 {
            if let Some(server) = Self::try_start(kind, &python, free_port(), arguments) {
                return server;
            }
        }
        panic!("no {kind:?} could be started");
    }

    /// The one that tests share: it lives while any of them has it.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            // Dead kernels are looked for more often than every 3 s.
            let often = "--AsyncIOLoopKernelRestarter.time_to_dead=0.3";
            let server = Arc::new(Self::start(Kind::KernelGateway, &[often]));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// On a port that a server had before. `None` if it is taken.
    pub fn try_start(kind: Kind, python: &Path, port: u16, arguments: &[&str]) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("jupyter-{}-{number}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        let bash = folder.join("kernels/bash");
        fs::create_dir_all(&bash).unwrap();
        let argv = [python.to_str().unwrap(), "-m", "bash_kernel", "-f", "{connection_file}"];
        let spec = json!({"argv": argv, "display_name": "Bash", "language": "bash"});
        fs::write(bash.join("kernel.json"), spec.to_string()).unwrap();
        let class = kind.class();
        let mut command = Command::new("setpriv");
        // It ends with the thread that starts it, whatever becomes of us; and kernels end with it.
        command
            .args(["--pdeathsig", "KILL"])
            .arg(python)
            .args(["-m", kind.module()])
            .arg(format!("--{class}.ip=127.0.0.1"))
            .arg(format!("--{class}.port={port}"))
            .arg(format!("--{class}.port_retries=0"))
            .args(arguments)
            .current_dir(&folder)
            .envs(["KG", "EG"].map(|gateway| (format!("{gateway}_AUTH_TOKEN"), TOKEN)))
            .envs(["KG", "EG"].map(|gateway| (format!("{gateway}_LIST_KERNELS"), "True")))
            .env("JUPYTER_TOKEN", TOKEN)
            .envs(
                ["JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"]
                    .into_iter()
                    .chain(["MPLCONFIGDIR", "TMPDIR"])
                    .map(|name| (name, &folder)),
            )
            .env("PYDEVD_DISABLE_FILE_VALIDATION", "1")
            .stdin(Stdio::null())
            .stdout(File::create(folder.join("log")).unwrap())
            .stderr(File::create(folder.join("errors")).unwrap());
        if kind == Kind::JupyterServer {
            command.args(["--no-browser", "--allow-root"]);
        }
        let (begun, started) = mpsc::channel();
        let (end, told) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let mut child = command.spawn().expect("`setpriv` is there");
            begun.send(child.id()).unwrap();
            let _ = told.recv();
            finish(&mut child);
        });
        let pid = started.recv().unwrap();
        let base = arguments.iter().find_map(|argument| argument.split_once("base_url="));
        let base = base.map_or(String::new(), |(_, base)| base.to_owned());
        let server = Self { kind, port, pid, base, folder, end: Some(end), thread: Some(thread) };
        let deadline = Instant::now() + START;
        // Here HTTP is spoken, and no TLS. A server that speaks that has all done when it listens.
        let is_secure = arguments.iter().any(|argument| argument.contains("certfile="));
        let is_ready = || match is_secure {
            true => TcpStream::connect(("127.0.0.1", port)).is_ok(),
            false => matches!(server.ask("GET", "/api/kernelspecs"), Some((200, _))),
        };
        while !is_ready() {
            let errors = || fs::read_to_string(server.folder.join("errors")).unwrap_or_default();
            if !is_running(pid) {
                let taken = errors().contains("in use");
                assert!(taken, "{kind:?} has ended: {}", errors());
                return None;
            }
            assert!(Instant::now() < deadline, "{kind:?} is not ready: {}", errors());
            thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    /// Another process in the place of this one, on the same port.
    pub fn again(self) -> Self {
        let Self { kind, port, .. } = self;
        drop(self);
        let python = kind.python();
        Self::try_start(kind, &python, port, &[]).expect("the port was ours")
    }

    pub fn gateway(&self) -> Gateway {
        let Self { port, base, .. } = self;
        Gateway::new(format!("http://127.0.0.1:{port}{base}")).token(TOKEN)
    }

    pub fn builder(&self) -> JupyterBuilder {
        JupyterManager::builder(self.gateway())
    }

    pub fn manager(&self) -> JupyterManager {
        self.builder().build().unwrap()
    }

    /// Asks by HTTP. `None` if nobody answers.
    pub fn ask(&self, method: &str, path: &str) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(START)).unwrap();
        let request = format!(
            "{method} {}{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: token {TOKEN}\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n",
            self.base,
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, serde_json::from_str(body).unwrap_or_default()))
    }

    /// The kernels that it has: their ids.
    pub fn kernels(&self) -> Vec<String> {
        let (status, list) = self.ask("GET", "/api/kernels").expect("it answers");
        assert_eq!(status, 200, "{list}");
        let id = |model: &Value| model["id"].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(id).collect()
    }

    /// Sends its process a signal.
    pub fn signal(&self, signal: &str) {
        self::signal(self.pid, signal);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal("CONT");
        drop(self.end.take());
        let _ = self.thread.take().unwrap().join();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Ends the process, and waits for it.
fn finish(child: &mut Child) {
    signal(child.id(), "TERM");
    let deadline = Instant::now() + Duration::from_secs(15);
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            let _ = child.kill();
        }
        thread::sleep(Duration::from_millis(10));
    }
}

pub fn signal(pid: u32, signal: &str) {
    let status =
        Command::new("kill").args(["-s", signal, &pid.to_string()]).stderr(Stdio::null()).status();
    status.expect("`kill` is there");
}

/// Whether there is such a process, and it is no zombie.
pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

// ---- a line that can be cut -------------------------------------------------------------------

/// Stands between an engine and its gateway.
pub struct Line {
    pub port: u16,
    state: Arc<LineState>,
    thread: Option<JoinHandle<()>>,
}

/// A connection from an engine to its gateway.
struct Joined {
    client: TcpStream,
    server: TcpStream,
    /// Whether what the engine says is swallowed, and what the gateway says.
    swallows: [Arc<AtomicBool>; 2],
}

#[derive(Default)]
struct LineState {
    to: u16,
    open: Mutex<Vec<Joined>>,
    refuses: AtomicBool,
    ended: AtomicBool,
}

impl Line {
    pub fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(LineState { to: server.port, ..LineState::default() });
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            for client in listener.incoming().map(Result::unwrap) {
                if shared.ended.load(Ordering::SeqCst) {
                    break;
                }
                if !shared.refuses.load(Ordering::SeqCst) {
                    shared.join(client);
                }
            }
        });
        Self { port, state, thread: Some(thread) }
    }

    pub fn gateway(&self) -> Gateway {
        Gateway::new(format!("http://127.0.0.1:{}", self.port)).token(TOKEN)
    }

    /// Cuts all connections there are.
    pub fn cut(&self) {
        for Joined { client, server, .. } in lock(&self.state.open).drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// What the engine says on the connections there are does not arrive any more.
    pub fn swallow(&self) {
        lock(&self.state.open).iter().for_each(|one| one.swallows[0].store(true, Ordering::SeqCst));
    }

    /// What the gateway says on the connections there are does not arrive any more.
    pub fn mute(&self) {
        lock(&self.state.open).iter().for_each(|one| one.swallows[1].store(true, Ordering::SeqCst));
    }

    /// The gateway says this text, on the connections there are: WebSockets between two messages.
    pub fn inject(&self, text: &str) {
        let mut frame = vec![0x81];
        match u8::try_from(text.len()).ok().filter(|size| *size < 126) {
            Some(size) => frame.push(size),
            None => {
                frame.push(126);
                frame.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
            }
        }
        frame.extend_from_slice(text.as_bytes());
        for one in lock(&self.state.open).iter() {
            let _ = (&one.client).write_all(&frame);
        }
    }

    /// Whether new connections come to nothing.
    pub fn refuse(&self, yes: bool) {
        self.state.refuses.store(yes, Ordering::SeqCst);
    }
}

impl LineState {
    fn join(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.to)) else { return };
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let swallows = <[Arc<AtomicBool>; 2]>::default();
        let copy = |from: &TcpStream, to: &TcpStream, swallows: Arc<AtomicBool>| {
            let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(got @ 1..) = from.read(&mut bytes) {
                    if !swallows.load(Ordering::SeqCst) && to.write_all(&bytes[..got]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Both);
            });
        };
        copy(&client, &server, Arc::clone(&swallows[0]));
        copy(&server, &client, Arc::clone(&swallows[1]));
        lock(&self.open).push(Joined { client, server, swallows });
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
        self.cut();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that does not exist yet; code waits for it, and a test makes it.
pub struct Signal(PathBuf);

impl Signal {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("jupyter-signal-{}-{number}", std::process::id());
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    /// A line of code that waits for it.
    pub fn wait(&self) -> String {
        let there = format!("__import__('os').path.exists('{}')", self.0.display());
        format!("while not {there}: __import__('time').sleep(.01)\n")
    }

    /// A line of code that gives it.
    pub fn give(&self) -> String {
        format!("open('{}', 'w').close()\n", self.0.display())
    }

    pub fn set(&self) {
        File::create(&self.0).unwrap();
    }

    pub fn is_set(&self) -> bool {
        self.0.exists()
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
