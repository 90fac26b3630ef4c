//! Duplex sessions against peers that others have written: MCP in TypeScript and in Python, pyright, and
//! vscode-jsonrpc.
//!
//! Their packages are installed once under `target/`. A test whose peer cannot be had says so and passes.

#![cfg(all(feature = "duplex", unix))]
#![allow(unsafe_code)] // a descriptor is given another's number

#[allow(dead_code)]
#[path = "../examples/language_server.rs"]
mod language_server;
#[allow(dead_code)]
#[path = "../examples/mcp_server.rs"]
mod mcp_server;
#[path = "support/npm.rs"]
mod npm;
mod support;
#[path = "support/venv.rs"]
mod venv;

use std::env;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sessile::session::duplex::{
    ChildProcess, ChildStdio, ContentLength, Invoker, Reply, Server, Session, SessionBuilder,
};
use sessile::session::{Lsp, Mcp, RemoteError};
use support::{PATIENCE, poll_until, promptly};

/// For what a peer does when it starts, on a machine that is busy.
const START: Duration = Duration::from_secs(60);

const PACKAGES: &[&str] = &[
    "@modelcontextprotocol/server-everything@2026.8.31",
    "pyright@1.1.414",
    "vscode-jsonrpc@8.2.1",
];

fn skipped<T>(why: &str) -> Option<T> {
    eprintln!("SKIPPED: {why}");
    None
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

/// The interpreter that has the `mcp` package.
fn python() -> Option<PathBuf> {
    let venvs = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("venvs");
    match venv::python_in(&venvs, &peers().join("requirements.txt")) {
        Ok(python) => Some(python),
        Err(why) => skipped(&format!("the package `mcp` cannot be had: {why}")),
    }
}

/// What the program has printed, each line as JSON. It has to end well.
fn lines(mut command: Command) -> Vec<Value> {
    let mut run = move || command.stderr(Stdio::inherit()).output().unwrap();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(run()).unwrap());
    let output = told.recv_timeout(START + PATIENCE).expect("the peer ends");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}: {said}", output.status);
    said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| json!(line))).collect()
}

/// What one of these lines says of this.
#[track_caller]
fn told<'l>(lines: &'l [Value], of: &str) -> &'l Value {
    let found = lines.iter().find_map(|line| line.get(of));
    found.unwrap_or_else(|| panic!("nothing of `{of}` in {lines:?}"))
}

// ---- servers of ours, each a process ------------------------------------------------------------

const IS: &str = "SESSILE_TEST_IS";

/// Not a test unless it is started so: then it serves on its own standard streams, of which the frame
/// around tests has not seen the second.
#[test]
fn is_a_server() {
    let Ok(kind) = env::var(IS) else { return };
    // SAFETY: system calls on numbers; the first is open, by the shell, and the second is nobody's.
    assert_eq!(unsafe { libc::dup2(3, 1) }, 1);
    let served = match &*kind {
        "mcp" => mcp_server::main(),
        _ => language_server::main(),
    };
    std::process::exit(i32::from(served.is_err())); // before anything else is written
}

/// The command that starts it.
fn server(kind: &str) -> [String; 3] {
    let own = env::current_exe().unwrap();
    let run = format!(
        "{IS}={kind} exec '{}' is_a_server --exact --nocapture 3>&1 >/dev/null",
        own.display()
    );
    ["sh".to_owned(), "-c".to_owned(), run]
}

// ---- MCP ----------------------------------------------------------------------------------------

/// A client that answers whatever a server asks, and has introduced itself.
fn mcp(command: Command) -> (Session, ChildProcess) {
    let child = ChildStdio::new(command);
    let process = child.process();
    let client = Session::builder(Mcp::new())
        .request_timeout(START)
        .on_request(|request| {
            let answer = match request.method() {
                "roots/list" => json!({"roots": [{"uri": "file:///here", "name": "here"}]}),
                "sampling/createMessage" => {
                    let content = json!({"type": "text", "text": "sampled"});
                    json!({"role": "assistant", "model": "none", "content": content})
                }
                "elicitation/create" => json!({"action": "accept", "content": {"name": "Ada"}}),
                "ping" => json!({}),
                _ => return request.fail(&RemoteError::new("no").with_code(-32601)),
            };
            request.respond(&answer).unwrap();
        })
        .on_connect(|invoker| {
            let can = json!({"roots": {"listChanged": true}, "sampling": {}, "elicitation": {}});
            let who = json!({"name": "sessile", "version": "0"});
            let hello =
                json!({"protocolVersion": "2025-06-18", "capabilities": can, "clientInfo": who});
            invoker.call::<Value>("initialize", hello)?;
            Ok(invoker.notify("notifications/initialized", ())?)
        });
    (client.connect(child).unwrap(), process)
}

fn tool(name: &str, arguments: &Value) -> Value {
    json!({"name": name, "arguments": arguments})
}

fn text(invoker: &Invoker, name: &str, arguments: &Value) -> String {
    let said: Value = invoker.call("tools/call", tool(name, arguments)).unwrap();
    said["content"].as_array().unwrap().iter().map(|part| part["text"].as_str().unwrap()).collect()
}

/// How often a tool tells of its progress before it has answered.
fn progress(invoker: &Invoker, asks: Value) -> usize {
    let mut invocation = invoker.invoke("tools/call", asks).unwrap();
    let mut progress = 0;
    loop {
        match invocation.next_reply(START).unwrap() {
            Some(Reply::Progress(_)) => progress += 1,
            Some(Reply::Answer(_)) => return progress,
            other => panic!("{other:?} after {progress} times"),
        }
    }
}

/// Asks for what takes long, and does not wait for it. The session goes on.
fn calls_off(session: &Session, asks: Value) {
    let mut long = session.invoker().invoke("tools/call", asks).unwrap();
    let first = long.next_reply(START).unwrap();
    assert!(matches!(first, Some(Reply::Progress(_))), "{first:?}");
    drop(long);
    poll_until("nobody waits", || session.stats().in_flight == 0);
}

#[test]
fn the_mcp_server_in_typescript_is_asked_and_asks_back() {
    let Some(home) = npm::packages(PACKAGES) else { return };
    let mut command = Command::new("node");
    let script = "node_modules/@modelcontextprotocol/server-everything/dist/index.js";
    command.arg(home.join(script)).arg("stdio").stderr(Stdio::null());
    let (session, process) = mcp(command);
    let invoker = session.invoker();
    // Some tools are offered only after it has asked for our roots.
    poll_until("all is offered", || {
        let tools: Value = session.invoker().call("tools/list", ()).unwrap();
        tools.to_string().contains("sampling") && tools.to_string().contains("elicitation")
    });
    let tools: Value = invoker.call("tools/list", ()).unwrap();
    let tools = tools["tools"].as_array().unwrap();
    let names: Vec<_> = tools.iter().map(|tool| tool["name"].to_string()).collect();
    let named = |part: &str| {
        let name = names.iter().find(|name| name.contains(part));
        name.unwrap_or_else(|| panic!("no {part} in {names:?}")).trim_matches('"').to_owned()
    };
    let message = json!({"message": "häl\nlo\u{2028}"});
    assert!(text(&invoker, "echo", &message).contains("häl\nlo\u{2028}"));
    let prompt = json!({"prompt": "hi", "maxTokens": 5});
    assert!(text(&invoker, &named("sampling-request"), &prompt).contains("sampled"));
    assert!(text(&invoker, &named("roots"), &json!({})).contains("file:///here"));
    assert!(!text(&invoker, &named("elicitation-request"), &json!({})).is_empty());
    let long = named("long-running");
    assert_eq!(progress(&invoker, tool(&long, &json!({"duration": 0.5, "steps": 4}))), 4);
    calls_off(&session, tool(&long, &json!({"duration": 20, "steps": 100})));
    thread::scope(|scope| {
        for thread in 0..8 {
            let invoker = &invoker;
            scope.spawn(move || {
                for n in 0..20 {
                    let said = format!("{thread}-{n}");
                    let heard = text(invoker, "echo", &json!({"message": said}));
                    assert!(heard.ends_with(&said), "{heard}");
                }
            });
        }
    });
    assert!(session.close(PATIENCE));
    assert!(process.wait(PATIENCE).is_some());
}

#[test]
fn the_mcp_server_in_python_is_asked_and_asks_back_and_ends_by_itself() {
    let Some(python) = python() else { return };
    let mut command = Command::new(python);
    command.arg(peers().join("mcp_server.py")).stderr(Stdio::null());
    let (session, process) = mcp(command);
    let invoker = session.invoker();
    let tools: Value = invoker.call("tools/list", ()).unwrap();
    assert_eq!(tools["tools"].as_array().unwrap().len(), 3, "{tools}");
    let all = text(&invoker, "everything", &json!({}));
    assert_eq!(all, "file:///here sampled Ada");
    assert_eq!(progress(&invoker, tool("count", &json!({"to": 20}))), 20);
    calls_off(&session, tool("count", &json!({"to": 100_000})));
    drop(invoker.invoke("tools/call", tool("waits", &json!({}))).unwrap());
    thread::scope(|scope| {
        for n in 1..9 {
            let invoker = &invoker;
            scope.spawn(move || {
                let counted = text(invoker, "count", &json!({"to": n}));
                assert_eq!(counted, format!("counted to {n}"));
            });
        }
    });
    assert!(promptly("it closes", move || session.close(START)));
    let status = process.wait(PATIENCE).expect("it has ended");
    assert!(status.success(), "its own clean-up has run: {status}");
}

#[test]
fn the_mcp_client_in_python_is_served_and_asked_back() {
    let Some(python) = python() else { return };
    let mut client = Command::new(python);
    client.arg(peers().join("mcp_client.py")).args(server("mcp"));
    let said = lines(client);
    assert_eq!(*told(&said, "tools"), json!(["count", "roots", "say"]));
    assert!(told(&said, "roots").as_str().unwrap().contains("file:///here"));
    assert_eq!(*told(&said, "said"), "sampled");
    assert_eq!(*told(&said, "counted"), "counted to 20");
    assert_eq!(
        (told(&said, "first"), told(&said, "last")),
        (&json!([1.0, 20.0]), &json!([20.0, 20.0]))
    );
    assert_eq!(*told(&said, "times"), 20);
    let many: Vec<_> = (1..9).map(|n| format!("counted to {n}")).collect();
    assert_eq!(*told(&said, "many"), json!(many));
    assert_eq!(*told(&said, "after"), "counted to 1");
    assert_eq!(*told(&said, "closed"), true);
}

// ---- language servers ---------------------------------------------------------------------------

#[test]
fn pyright_is_asked_in_frames_after_their_length() {
    let Some(home) = npm::packages(PACKAGES) else { return };
    let mut command = Command::new("node");
    command.arg(home.join("node_modules/pyright/langserver.index.js")).arg("--stdio");
    command.stderr(Stdio::null());
    let child = ChildStdio::new(command);
    let process = child.process();
    let (tell, diagnostics) = mpsc::channel();
    let session = Session::builder(Lsp::new())
        .request_timeout(START)
        .framing(ContentLength::new())
        .on_request(|request| {
            let answer = match request.method() {
                "workspace/configuration" => json!([{}, {}, {}]),
                _ => Value::Null,
            };
            request.respond(&answer).unwrap();
        })
        .on_notification(move |_, told| {
            if told.method == "textDocument/publishDiagnostics" {
                let _ = tell.send(told.parse::<Value>().unwrap());
            }
        })
        .on_connect(|invoker| {
            let hello = json!({"processId": null, "rootUri": null, "capabilities": {}});
            let can: Value = invoker.call("initialize", hello)?;
            assert!(!can["capabilities"]["hoverProvider"].is_null(), "{can}");
            Ok(invoker.notify("initialized", json!({}))?)
        })
        .connect(child)
        .unwrap();
    let invoker = session.invoker();
    let uri = "file:///nowhere/a.py";
    let source = "def grüße(name: str) -> int:\n    return name\n";
    let document = json!({"uri": uri, "languageId": "python", "version": 1, "text": source});
    invoker.notify("textDocument/didOpen", json!({"textDocument": document})).unwrap();
    let found = loop {
        let found = diagnostics.recv_timeout(START).expect("it finds the fault");
        if found["uri"] == uri && !found["diagnostics"].as_array().unwrap().is_empty() {
            break found;
        }
    };
    assert!(found.to_string().contains("int"), "{found}");
    let at = json!({"textDocument": {"uri": uri}, "position": {"line": 0, "character": 5}});
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let hover: Value = invoker.call("textDocument/hover", &at).unwrap();
                assert!(hover.to_string().contains("grüße"), "{hover}");
            });
        }
    });
    // Found in pieces, and called off: neither harms the session.
    let symbols = json!({"query": "gr"});
    let found = invoker.invoke("workspace/symbol", &symbols).unwrap();
    let pieces: Vec<_> = found.into_iter().map(Result::unwrap).collect();
    assert!(!pieces.is_empty());
    drop(invoker.invoke("workspace/symbol", &symbols).unwrap());
    invoker.call::<Value>("shutdown", ()).unwrap();
    invoker.notify("exit", ()).unwrap();
    assert!(promptly("it closes", move || session.close(START)));
    assert_eq!(process.wait(PATIENCE).and_then(|status| status.code()), Some(0));
}

/// Asked by the library in which VS Code's own clients are written, and asking it.
#[test]
fn vscode_is_answered_also_what_it_has_called_off_and_learns_of_what_we_call_off() {
    let Some(home) = npm::packages(PACKAGES) else { return };
    let (waiting, waits) = mpsc::channel();
    let waits = std::sync::Mutex::new(waits);
    let workers = sessile::Workers::builder(sessile::Pool::builder(sessile::from_fn(|_| ())));
    let workers = std::sync::Arc::new(workers.threads(4).build().unwrap());
    let waits = std::sync::Arc::new(waits);
    let setup = move || -> SessionBuilder {
        let (waiting, waits) = (waiting.clone(), waits.clone());
        Session::builder(Lsp::new())
            .framing(ContentLength::new())
            .request_timeout(PATIENCE)
            .on_notification(move |_, _| waiting.send(()).unwrap())
            .handlers(workers.clone(), move |(), request| {
                let invoker = request.invoker();
                Ok(match request.method() {
                    "slow" => {
                        assert!(request.wait_cancelled(PATIENCE));
                        let code = RemoteError::REQUEST_CANCELLED;
                        return Err(RemoteError::new("called off").with_code(code).into());
                    }
                    "pieces" => {
                        (1..=3).for_each(|n| request.item(&n).unwrap());
                        json!(4)
                    }
                    "ask back" => invoker.call("double", request.parse::<[i64; 1]>()?)?,
                    "call off" => {
                        let asked = invoker.invoke("waits", json!({}))?;
                        waits.lock().unwrap().recv_timeout(PATIENCE)?; // it has begun
                        drop(asked);
                        json!(0)
                    }
                    _ => return Err(RemoteError::new("no such method").with_code(-32601).into()),
                })
            })
    };
    let server = Server::builder(move |_| setup());
    let server = server.listen(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let mut peer = Command::new("node");
    let script = home.join("vscode.cjs");
    std::fs::copy(peers().join("vscode.cjs"), &script).unwrap();
    peer.arg(script).arg(server.local_addr().unwrap().port().to_string());
    let said = lines(peer);
    assert_eq!(*told(&said, "whole"), 4);
    assert_eq!(*told(&said, "pieces"), json!([1, 2, 3]));
    assert_eq!(told(&said, "ours")["code"], RemoteError::REQUEST_CANCELLED, "{said:?}");
    assert_eq!(*told(&said, "back"), 42);
    assert_eq!(told(&said, "unknown")["code"], -32601);
    assert_eq!(*told(&said, "theirs"), "called off");
    assert!(server.close(PATIENCE).is_complete());
}

#[test]
fn a_language_server_serves_vscode_in_the_order_in_which_it_is_told() {
    let Some(home) = npm::packages(PACKAGES) else { return };
    let script = home.join("vscode-child.cjs");
    std::fs::copy(peers().join("vscode.cjs"), &script).unwrap();
    let mut peer = Command::new("node");
    peer.arg(script).args(server("lsp"));
    let said = lines(peer);
    assert_eq!(told(&said, "can")["capabilities"]["hoverProvider"], true);
    assert_eq!(told(&said, "before")["contents"], "2 words");
    assert_eq!(told(&said, "after")["contents"], "100 words");
    assert_eq!((told(&said, "end"), told(&said, "exit")), (&Value::Null, &json!(0)));
}
