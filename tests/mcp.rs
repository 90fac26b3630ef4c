//! `sessile mcp`, as it is built, and the protocol's own clients, as they come.

#![cfg(all(feature = "mcp", feature = "monty", feature = "cpython", target_os = "linux"))]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::OnceLock;

#[path = "support/npm.rs"]
mod npm;
mod support;
#[path = "support/venv.rs"]
mod venv;

const SESSILE: &str = env!("CARGO_BIN_EXE_sessile");

/// Both ways to negotiate: the newest revision, and the handshake of those before it.
const MODES: [&str; 2] = ["auto", "legacy"];

fn skipped<T>(why: &str) -> Option<T> {
    eprintln!("SKIPPED: {why}");
    None
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| venv::python(&here().join("tests/mcp/requirements.txt")))
}

fn client(scenario: &str, mode: &str, server: &[&str]) -> Command {
    let mut command = Command::new(python());
    command.arg(here().join("tests/mcp/client.py")).args([scenario, mode]).args(server);
    command.stdin(Stdio::null()).env_remove("SESSILE_MCP_TOKEN");
    command
}

/// Has a conversation to its end; what the client has printed.
#[track_caller]
fn converse(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A conversation on standard input and output, with a server of its own.
#[track_caller]
fn on_stdio(scenario: &str, mode: &str, arguments: &[&str]) -> String {
    converse(&mut client(scenario, mode, &[&[SESSILE, "mcp"], arguments].concat()))
}

/// A server that listens on HTTP. It ends, hard, when it is dropped.
struct Http {
    child: Child,
    url: String,
    said: BufReader<ChildStderr>,
}

impl Http {
    fn start(arguments: &[&str], token: Option<&str>) -> Self {
        let mut command = Command::new(SESSILE);
        command.args(["mcp", "--http", "127.0.0.1:0"]).args(arguments).stdin(Stdio::null());
        command.env_remove("SESSILE_MCP_TOKEN").stderr(Stdio::piped());
        if let Some(token) = token {
            command.env("SESSILE_MCP_TOKEN", token);
        }
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let url = loop {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "the server has ended");
            if let Some((_, url)) = line.split_once("listening at ") {
                break url.trim().to_owned();
            }
        };
        Self { child, url, said }
    }

    #[track_caller]
    fn converse(&self, scenario: &str, mode: &str) {
        converse(&mut client(scenario, mode, &[&self.url]));
    }

    /// The status of the answer to a request with these headers.
    fn status_of(&self, headers: &str) -> String {
        let address = self.url.strip_prefix("http://").unwrap().strip_suffix("/mcp").unwrap();
        let mut stream = TcpStream::connect(address.parse::<SocketAddr>().unwrap()).unwrap();
        stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
        let head = format!(
            "POST /mcp HTTP/1.1\r\nconnection: close\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\ncontent-length: {}\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{headers}\r\n{body}").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.split(' ').nth(1).unwrap().to_owned()
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processes that a process has started, and those that they have.
fn descendants(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let all = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let mut found: Vec<u32> = Vec::new();
    for text in all.chain(children) {
        found.extend(text.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
    }
    found.sort_unstable();
    found.dedup();
    let below: Vec<_> = found.iter().flat_map(|&pid| descendants(pid)).collect();
    found.extend(below);
    found
}

fn is_there(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

// ---- conversations ----------------------------------------------------------------------------

#[test]
fn a_conversation_keeps_its_variables_on_both_transports_and_by_both_negotiations() {
    for mode in MODES {
        on_stdio("conversation", mode, &[]);
        on_stdio("conversation", mode, &["--engine", "cpython"]);
        Http::start(&["--engine", "cpython"], None).converse("conversation", mode);
        Http::start(&[], None).converse("conversation", mode);
    }
}

#[test]
fn a_hundred_conversations_at_once_and_none_crossed() {
    for mode in MODES {
        on_stdio("hundred", mode, &[]);
        Http::start(&[], None).converse("hundred", mode);
    }
}

#[test]
fn a_hundred_conversations_of_child_processes_and_none_crossed() {
    Http::start(&["--engine", "cpython", "--threads", "1..4"], None).converse("hundred", "auto");
}

#[test]
fn a_guessed_handle_is_refused_and_tells_nothing() {
    for mode in MODES {
        Http::start(&["--engine", "cpython"], None).converse("guessed", mode);
    }
}

#[test]
fn output_is_told_as_progress_while_the_cell_runs() {
    for mode in MODES {
        on_stdio("progress", mode, &["-e", "cpython"]);
        Http::start(&["-e", "cpython"], None).converse("progress", mode);
    }
}

#[test]
fn a_call_that_is_called_off_interrupts_its_cell_and_keeps_the_state() {
    for mode in MODES {
        on_stdio("cancel", mode, &["-e", "cpython", "--threads", "1"]);
        Http::start(&["-e", "cpython", "--threads", "1"], None).converse("cancel", mode);
    }
}

#[test]
fn a_client_that_vanishes_interrupts_its_cell_and_the_session_is_there_for_who_has_the_handle() {
    let server = Http::start(&["-e", "cpython", "--threads", "1"], None);
    let mut holding = client("hold", "auto", &[&server.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut session = String::new();
    BufReader::new(holding.stdout.take().unwrap()).read_line(&mut session).unwrap();
    holding.kill().unwrap();
    holding.wait().unwrap();
    converse(client("after", "auto", &[&server.url]).env("SESSION", session.trim()));
}

#[test]
fn files_go_in_and_out_and_are_resources() {
    for mode in MODES {
        on_stdio("files", mode, &["-e", "cpython"]);
    }
    Http::start(&["-e", "cpython"], None).converse("files", "auto");
}

#[test]
fn a_plot_arrives_as_a_png_and_a_table_as_a_table() {
    let jupyter = venv::python(&here().join("tests/jupyter/requirements.txt"));
    let path = format!("{}:/usr/bin:/bin", jupyter.parent().unwrap().display());
    for mode in MODES {
        let server = [SESSILE, "mcp", "-e", "cpython", "--max-memory", "4294967296"];
        converse(client("plot", mode, &server).env("PATH", &path));
    }
}

#[test]
fn a_crash_an_eviction_and_idleness_say_what_is_lost() {
    for mode in MODES {
        on_stdio("lost", mode, &["-e", "cpython"]);
        on_stdio("evicted", mode, &["--max-sessions", "2"]);
        on_stdio("evicted", mode, &["-e", "cpython", "--max-sessions", "2"]);
        on_stdio("idle", mode, &["--idle-timeout", "0.5"]);
    }
}

#[cfg(feature = "confine")]
#[test]
fn a_confined_session_says_so_by_what_it_cannot_do() {
    on_stdio("files", "auto", &["-e", "cpython", "--confine"]);
    on_stdio("conversation", "auto", &["-e", "cpython", "--confine"]);
}

/// What a model reads, as it stands in `tests/mcp/said.txt`.
#[test]
fn what_tools_say_is_what_somebody_has_read() {
    let said = on_stdio("said", "auto", &["-e", "cpython"]);
    let file = here().join("tests/mcp/said.txt");
    if std::env::var_os("SESSILE_BLESS").is_some() {
        fs::write(&file, &said).unwrap();
    }
    let known = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(said, known, "bless it: SESSILE_BLESS=1 cargo test --all-features --test mcp");
}

#[test]
fn the_client_for_typescript_has_conversations_too() {
    let Some(packages) = npm::packages(&["@modelcontextprotocol/sdk@1.32.2"]) else { return };
    let talk = |server: &[&str]| {
        let mut command = Command::new("node");
        command.arg(here().join("tests/mcp/client.js")).args(server).current_dir(&packages);
        converse(command.stdin(Stdio::null()));
    };
    talk(&[SESSILE, "mcp", "-e", "cpython", "--threads", "1..4"]);
    talk(&[&Http::start(&["-e", "cpython"], None).url]);
}

/// Memory in kilobytes.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn memory_stays_flat_over_many_calls_and_sessions() {
    let server = Http::start(&["--max-sessions", "10"], None);
    server.converse("many", "auto"); // warm
    let before = resident(server.child.id());
    for mode in MODES {
        server.converse("many", mode);
        server.converse("many", mode);
    }
    let more = resident(server.child.id()).saturating_sub(before);
    assert!(more < 16 << 10, "1,200 calls took {more} kB");
}

// ---- who is let in ----------------------------------------------------------------------------

#[test]
fn without_the_token_nobody_is_let_in() {
    let server = Http::start(&[], Some("secret"));
    let host = "host: 127.0.0.1\r\n";
    assert_eq!(server.status_of(host), "401");
    for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "secret", "Basic secret"] {
        assert_eq!(
            server.status_of(&format!("{host}authorization: {wrong}\r\n")),
            "401",
            "{wrong}"
        );
    }
    assert_eq!(server.status_of(&format!("{host}authorization: Bearer secret\r\n")), "200");
    converse(client("conversation", "auto", &[&server.url]).env("SESSILE_MCP_TOKEN", "secret"));
}

#[test]
fn web_pages_are_let_in_only_from_where_it_was_said() {
    let server = Http::start(&["--allow-origin", "https://good.example"], None);
    let host = "host: 127.0.0.1\r\n";
    assert_eq!(server.status_of(&format!("{host}origin: https://good.example\r\n")), "200");
    for origin in ["https://evil.example", "http://good.example", "null", "http://127.0.0.1:1"] {
        assert_eq!(server.status_of(&format!("{host}origin: {origin}\r\n")), "403", "{origin}");
    }
    // A name that its owner has led here.
    assert_eq!(server.status_of("host: evil.example\r\n"), "403");
    let none = Http::start(&[], None);
    assert_eq!(none.status_of(&format!("{host}origin: https://good.example\r\n")), "403");
    assert_eq!(none.status_of(host), "200");
}

/// Each is refused before it listens, on one line that says what to do.
#[test]
fn what_makes_no_sense_is_refused_at_the_start() {
    let refused = |arguments: &[&str]| {
        let mut command = Command::new(SESSILE);
        command.arg("mcp").args(arguments).stdin(Stdio::null()).env_remove("SESSILE_MCP_TOKEN");
        let output = command.env("RUST_BACKTRACE", "1").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(
        refused(&["--http", "0.0.0.0:0"]),
        "error: --http 0.0.0.0:0 listens to other machines, and takes no request without a token: give one \
         by --token-file FILE, or as SESSILE_MCP_TOKEN in the environment\n"
    );
    assert!(refused(&["--confine", "-e", "monty"]).contains("--confine holds CPython only"));
    assert!(refused(&["--threads", "4..2"]).contains("at least one thread has to work"));
    assert!(refused(&["--max-sessions", "0"]).contains("there has to be at least one"));
    assert!(refused(&["--token-file", "x"]).contains("--http"));
    assert!(
        refused(&["--http", "127.0.0.1:0", "--token-file", "/nowhere"])
            .contains("/nowhere: No such")
    );
}

#[test]
fn it_says_once_at_the_start_that_cpython_is_no_sandbox() {
    let mut child = Command::new(SESSILE)
        .args(["mcp", "-e", "cpython"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    assert_eq!(said.matches("CPython is no sandbox").count(), 1, "{said}");
}

// ---- the end ----------------------------------------------------------------------------------

#[test]
fn told_to_end_it_answers_what_runs_closes_all_and_leaves_with_0() {
    for mode in MODES {
        let mut server = Http::start(&["-e", "cpython"], None);
        let mut slow = client("slow", mode, &[&server.url]).stdout(Stdio::piped()).spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(slow.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let children = descendants(server.child.id());
        assert!(children.contains(&pid.trim().parse().unwrap()), "{children:?}");
        signal(server.child.id(), "-TERM");
        assert!(slow.wait().unwrap().success(), "it was answered");
        assert_eq!(server.child.wait().unwrap().code(), Some(0));
        let mut said = String::new();
        server.said.read_to_string(&mut said).unwrap();
        assert_eq!(said, "", "nothing went wrong");
        assert_eq!(children.into_iter().filter(|&pid| is_there(pid)).count(), 0);
    }
}

#[test]
fn killed_it_leaves_nothing() {
    let mut server = Http::start(&["-e", "cpython"], None);
    let mut held = client("hold", "auto", &[&server.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut session = String::new();
    BufReader::new(held.stdout.take().unwrap()).read_line(&mut session).unwrap();
    let children = descendants(server.child.id());
    assert!(!children.is_empty());
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let gone = || !children.iter().any(|&pid| is_there(pid));
    support::poll_until("its sessions have ended", gone);
    held.kill().unwrap();
    held.wait().unwrap();
}

#[test]
fn a_client_that_goes_away_on_standard_input_ends_the_server() {
    let mut command = Command::new(SESSILE);
    let child = command.args(["mcp", "-e", "cpython"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let hello = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
    writeln!(input, "{hello}").unwrap();
    output.read_line(&mut line).unwrap();
    assert!(line.contains("\"protocolVersion\":\"2025-06-18\""), "{line}");
    writeln!(input, r#"{{"jsonrpc":"2.0","method":"notifications/initialized"}}"#).unwrap();
    let code = r"import os\nprint(os.getpid(), flush=True)\nwhile True: pass";
    writeln!(input, r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{{"name":"run_python","arguments":{{"code":"{code}","timeout":300}},"_meta":{{"progressToken":1}}}}}}"#).unwrap();
    line.clear();
    output.read_line(&mut line).unwrap();
    assert!(line.contains("notifications/progress"), "{line}");
    let children = descendants(child.id());
    drop(input);
    let code = support::promptly("it ends", move || child.wait().unwrap().code());
    assert_eq!(code, Some(0));
    assert!(!children.iter().any(|&pid| is_there(pid)));
}
