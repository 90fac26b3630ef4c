//! Both kinds of session against WebSockets that others have written: nginx in front of a server,
//! Chromium's debugging protocol, Chromium and node's `ws` as clients.
//!
//! `.ci/run` installs nginx and Chromium; the packages of npm's are installed under `target/`. A test whose
//! peer cannot be had says so and passes.

#![cfg(all(feature = "tls", feature = "duplex", unix))]

#[path = "support/npm.rs"]
mod npm;
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sessile::Pool;
use sessile::session::duplex::{
    AcceptOptions, Session, SessionBuilder, WebSocket, WebSocketAccepted,
};
use sessile::session::websocket::{ConnectError, WebSocketManager};
use sessile::session::{
    ConnectOptions, Incoming, JsonRpc, Malformed, Outgoing, Protocol, SessionError, Unsupported,
};
use support::{PATIENCE, poll_until};
use tls::Authority;

fn skipped<T>(why: &str) -> Option<T> {
    eprintln!("SKIPPED: {why}");
    None
}

fn is_installed(program: &str) -> Option<()> {
    match Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(_) => Some(()),
        Err(error) => skipped(&format!("{program} cannot be run: {error}")),
    }
}

/// Killed when it is dropped, with what it has left in its folder.
struct Program {
    child: Child,
    folder: PathBuf,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn folder(of: &str) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Ordering::SeqCst);
    let temporary = env!("CARGO_TARGET_TMPDIR");
    let folder = PathBuf::from(temporary).join(format!("{of}-{}-{n}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

// ---- a server of ours ---------------------------------------------------------------------------

/// Accepts for as long as the test runs: answers `echo` with its parameters, `path` with the path.
fn server(options: AcceptOptions) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let options = options.clone();
            thread::spawn(move || {
                let answers = Session::builder(JsonRpc::new()).on_request(|request| {
                    let params: Value = request.parse().unwrap_or_default();
                    let _ = request.respond(&params);
                });
                if let Ok(session) = answers.connect(WebSocketAccepted::with(stream, &options)) {
                    poll_until_down(&session);
                }
            });
        }
    });
    port
}

fn poll_until_down(session: &Session) {
    while !session.wait_closed(PATIENCE) {}
}

// ---- nginx --------------------------------------------------------------------------------------

struct Nginx {
    _program: Program,
    plain: u16,
    secure: u16,
    authority: Authority,
}

impl Nginx {
    fn start(upstream: u16) -> Option<Self> {
        is_installed("nginx")?;
        let authority = Authority::new();
        let folder = folder("nginx");
        let [plain, secure, nobody] = free_ports();
        fs::write(folder.join("server.pem"), &authority.files[0]).unwrap();
        fs::write(folder.join("server.key"), &authority.files[1]).unwrap();
        // user:secret!
        fs::write(folder.join("users"), "user:{PLAIN}secret!\n").unwrap();
        let at = folder.display();
        let passes_on = |port: u16| {
            format!(
                "proxy_pass http://127.0.0.1:{port}; proxy_http_version 1.1; proxy_read_timeout 1s;
                 proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection Upgrade;"
            )
        };
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/errors;
             events {{ worker_connections 64; }}
             http {{
                 access_log off;
                 client_body_temp_path {at}/a; proxy_temp_path {at}/b; fastcgi_temp_path {at}/c;
                 uwsgi_temp_path {at}/d; scgi_temp_path {at}/e;
                 server {{
                     listen 127.0.0.1:{plain};
                     location / {{ {works} }}
                     location /dead {{ {dead} }}
                     location /moved {{ return 307 /elsewhere; }}
                     location /busy {{ add_header Retry-After 7 always; return 429; }}
                     location /secret {{ auth_basic realm; auth_basic_user_file {at}/users; {works} }}
                 }}
                 server {{
                     listen 127.0.0.1:{secure} ssl;
                     ssl_certificate {at}/server.pem; ssl_certificate_key {at}/server.key;
                     location / {{ {works} }}
                 }}
             }}",
            works = passes_on(upstream),
            dead = passes_on(nobody),
        );
        fs::write(folder.join("config"), config).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-c").arg(folder.join("config")).arg("-p").arg(&folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let program = Program { child, folder };
        poll_until("nginx listens", || TcpStream::connect(("127.0.0.1", secure)).is_ok());
        Some(Self { _program: program, plain, secure, authority })
    }

    fn url(&self, path: &str) -> String {
        format!("ws://127.0.0.1:{}{path}", self.plain)
    }
}

fn manager(options: impl Into<ConnectOptions>) -> WebSocketManager {
    WebSocketManager::builder(options).request_timeout(PATIENCE).build().unwrap()
}

fn duplex() -> SessionBuilder {
    Session::builder(JsonRpc::new())
}

#[test]
fn nginx_passes_on_what_both_kinds_say() {
    let Some(nginx) = Nginx::start(server(AcceptOptions::new())) else { return };
    let secure = || {
        let url = format!("wss://localhost:{}/a?b=c", nginx.secure);
        ConnectOptions::new(url).root_certificate(&*nginx.authority.root)
    };
    let large = "é".repeat(100_000);
    for options in [
        ConnectOptions::new(nginx.url("?token=1")),
        ConnectOptions::new(nginx.url("/pfäd/a b")),
        ConnectOptions::new(nginx.url("/secret").replace("127", "user:secret%21@127")),
        secure(),
    ] {
        let mut session = manager(options.clone()).connect().unwrap();
        assert_eq!(session.call::<[String; 1]>("echo", [&large]).unwrap(), [&*large]);
        session.ping().unwrap();
        session.close().unwrap();
        let session = duplex().connect(WebSocket::new(options)).unwrap();
        thread::scope(|scope| {
            for n in 0..8 {
                let (invoker, large) = (session.invoker(), &large);
                scope.spawn(move || {
                    let said = json!([n, large]);
                    let heard: Value =
                        invoker.invoke("echo", &said).unwrap().answer().unwrap().parse().unwrap();
                    assert_eq!(heard, said);
                });
            }
        });
    }
}

#[test]
fn nginx_refuses_and_the_caller_is_told_what_it_says() {
    let Some(nginx) = Nginx::start(server(AcceptOptions::new())) else { return };
    let refused = |path: &str| -> SessionError { manager(nginx.url(path)).connect().unwrap_err() };
    for (path, status, header, told) in [
        ("/dead", 502, None, "502 Bad Gateway"),
        ("/moved", 307, Some("Location"), "/elsewhere"),
        ("/busy", 429, Some("Retry-After"), "Retry-After: 7"),
        ("/secret", 401, Some("WWW-Authenticate"), "Basic realm"),
    ] {
        let error = refused(path);
        let failure = error.source().unwrap().downcast_ref::<ConnectError>().unwrap();
        assert_eq!(failure.http_status(), Some(status), "{failure}");
        assert!(failure.to_string().contains(told), "{failure}");
        assert!(header.is_none_or(|name| failure.http_header(name).is_some()), "{failure}");
    }
}

/// It cuts what has been silent for a second.
#[test]
fn a_session_that_pings_survives_the_idle_cut_of_nginx() {
    let Some(nginx) = Nginx::start(server(AcceptOptions::new())) else { return };
    let often = Duration::from_millis(200);
    let pings = WebSocketManager::builder(nginx.url("/")).keep_alive_interval(often);
    let mut session = pings.build().unwrap().connect().unwrap();
    let silent = WebSocketManager::builder(nginx.url("/")).keep_alive_interval(None);
    let silent = silent.build().unwrap().connect().unwrap();
    let cut = thread::spawn(move || {
        let mut silent = silent;
        silent.wait_closed(PATIENCE)
    });
    assert!(!session.wait_closed(Duration::from_secs(3)));
    session.request("echo", [1]).unwrap();
    assert!(cut.join().unwrap(), "the other is cut");
}

// ---- Chromium -----------------------------------------------------------------------------------

/// JSON-RPC without `jsonrpc`, which Chromium refuses.
struct DevTools;

impl Protocol for DevTools {
    fn encode(&self, message: &Outgoing<'_>, frame: &mut Vec<u8>) -> Result<(), Unsupported> {
        let mut whole = Vec::new();
        JsonRpc::new().encode(message, &mut whole)?;
        frame.push(b'{');
        frame.extend_from_slice(whole.strip_prefix(br#"{"jsonrpc":"2.0","#).expect("it begins so"));
        Ok(())
    }

    fn decode(&self, frame: &[u8], messages: &mut Vec<Incoming>) -> Result<(), Malformed> {
        JsonRpc::new().decode(frame, messages)
    }
}

struct Chromium {
    _program: Program,
    port: u16,
}

impl Chromium {
    fn start() -> Option<Self> {
        is_installed("chromium")?;
        let folder = folder("chromium");
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args([
            "--remote-debugging-port=0",
            "--no-first-run",
            "--disable-background-networking",
        ]);
        command.arg(format!("--user-data-dir={}", folder.display())).arg("about:blank");
        command.env("HOME", &folder).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let program = Program { child, folder };
        // "DevTools listening on ws://127.0.0.1:37465/devtools/browser/..."
        let mut lines = stderr.lines().map_while(Result::ok);
        let Some(port) = lines.find_map(|line| {
            let rest = line.strip_prefix("DevTools listening on ws://127.0.0.1:")?;
            rest.split_once('/')?.0.parse().ok()
        }) else {
            panic!("Chromium does not start")
        };
        thread::spawn(move || lines.for_each(drop)); // lest the pipe be full
        Some(Self { _program: program, port })
    }

    /// Where the debugger of a new page listens.
    fn page(&self) -> String {
        let mut tcp = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!("Host: 127.0.0.1:{}\r\nConnection: close\r\n\r\n", self.port);
        write!(tcp, "PUT /json/new?about:blank HTTP/1.1\r\n{head}").unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&answer).into_owned();
            if let Some((_, body)) = text.split_once("\r\n\r\n")
                && let Ok(page) = serde_json::from_str::<Value>(body)
            {
                return page["webSocketDebuggerUrl"].as_str().unwrap().to_owned();
            }
            let got = tcp.read(&mut chunk).unwrap();
            assert!(got > 0, "{text}");
            answer.extend_from_slice(&chunk[..got]);
        }
    }
}

fn evaluated(answer: &Value) -> &Value {
    assert!(answer.get("exceptionDetails").is_none(), "{answer}");
    &answer["result"]["value"]
}

#[test]
fn eight_threads_speak_with_chromium_over_its_debugging_protocol() {
    let Some(chromium) = Chromium::start() else { return };
    let expression = |of: usize, n: usize| json!({"expression": format!("[{of}, {n}, 'x'.repeat({n})].join()"), "returnByValue": true});
    let should = |of: usize, n: usize| json!(format!("{of},{n},{}", "x".repeat(n)));
    // All on one connection.
    let session = Session::builder(DevTools).connect(WebSocket::new(chromium.page())).unwrap();
    thread::scope(|scope| {
        for of in 0..8 {
            let invoker = session.invoker();
            scope.spawn(move || {
                for n in 0..50 {
                    let asked = invoker.invoke("Runtime.evaluate", expression(of, n)).unwrap();
                    let answer: Value = asked.answer().unwrap().parse().unwrap();
                    assert_eq!(*evaluated(&answer), should(of, n));
                }
            });
        }
    });
    drop(session);
    // Each on its own.
    let options = ConnectOptions::new(chromium.page());
    let builder = WebSocketManager::builder(options).protocol(DevTools).request_timeout(PATIENCE);
    let sessions = Pool::new(builder.build().unwrap());
    thread::scope(|scope| {
        for of in 0..8 {
            let sessions = &sessions;
            scope.spawn(move || {
                for n in 0..50 {
                    let answer: Value = sessions
                        .with(|session| session.call("Runtime.evaluate", expression(of, n)))
                        .unwrap()
                        .unwrap();
                    assert_eq!(*evaluated(&answer), should(of, n));
                }
                let events = sessions.with(|session| {
                    session.request("Runtime.enable", ()).unwrap();
                    session.next_event(PATIENCE).unwrap().unwrap().method
                });
                assert_eq!(events.unwrap(), "Runtime.executionContextCreated");
                // An error that Chromium tells without an id, or with one: at once, and only this.
                let error =
                    sessions.with(|session| session.request("No.such", ()).unwrap_err()).unwrap();
                assert!(error.remote().is_some(), "{error}");
            });
        }
    });
}

#[test]
fn chromium_is_a_client_if_its_page_is_allowed() {
    let Some(chromium) = Chromium::start() else { return };
    let speaks = |port: u16| {
        let script = format!(
            "new Promise(done => {{
                const socket = new WebSocket('ws://127.0.0.1:{port}/rpc', ['other', 'rpc.v1']);
                socket.onopen = () => socket.send(JSON.stringify({{id: 1, method: 'echo', params: ['ü']}}));
                socket.onmessage = event => done([socket.protocol, JSON.parse(event.data).result]);
                socket.onclose = event => done(['closed', event.code]);
            }})"
        );
        let manager = WebSocketManager::builder(chromium.page()).protocol(DevTools);
        let mut session = manager.request_timeout(PATIENCE).build().unwrap().connect().unwrap();
        let asks = json!({"expression": script, "awaitPromise": true, "returnByValue": true});
        let answer: Value = session.call("Runtime.evaluate", asks).unwrap();
        evaluated(&answer).clone()
    };
    // Its page is of no server: its origin is "null".
    let allowed = AcceptOptions::new().allow_origin("null").subprotocol("rpc.v1");
    assert_eq!(speaks(server(allowed)), json!(["rpc.v1", ["ü"]]));
    let other = AcceptOptions::new().allow_origin("https://app.example.org").subprotocol("rpc.v1");
    assert_eq!(speaks(server(other)), json!(["closed", 1006]));
}

// ---- node ---------------------------------------------------------------------------------------

#[test]
fn nodes_ws_is_a_client() {
    let Some(packages) = npm::packages(&["ws@8.18.3"]) else { return };
    let authority = Authority::new();
    let options = AcceptOptions::new().subprotocol("rpc.v1").tls_config(authority.server.clone());
    let port = server(options);
    let script = format!(
        "const {{ WebSocket }} = require('ws');
         const socket = new WebSocket('wss://localhost:{port}/rpc?a=1', ['x', 'rpc.v1'], {{ rejectUnauthorized: false }});
         let left = 200;
         socket.on('open', () => {{
             socket.ping('there?');
             for (let n = 0; n < 200; n++)
                 socket.send(JSON.stringify({{ id: n, method: 'echo', params: [n, 'é'.repeat(n * 50)] }}));
         }});
         socket.on('message', text => {{
             const {{ id, result }} = JSON.parse(text);
             if (result[0] !== id || result[1].length !== id * 50) process.exit(3);
             if (--left === 0) socket.close(1000);
         }});
         socket.on('close', code => {{ console.log(socket.protocol, code, left); }});
         socket.on('error', error => {{ console.log(String(error)); process.exit(4); }});"
    );
    let output =
        Command::new("node").arg("-e").arg(script).current_dir(&packages).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "rpc.v1 1000 0", "{}", String::from_utf8_lossy(&output.stderr));
}
