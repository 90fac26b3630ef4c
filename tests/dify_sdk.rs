//! The daemon's side against the real thing: a plugin that is written with Dify's own SDK, from the
//! package index, in a virtual environment of the tests' own.

#![cfg(all(feature = "dify", unix))]

#[path = "support/dify.rs"]
mod dify;
mod support;
#[path = "support/venv.rs"]
mod venv;

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use dify::endpoint;
use serde::Deserialize;
use serde_json::{Value, json};
use sessile::session::dify::{
    Daemon, HostedPlugin, HttpRequest, HttpResponse, LateInvocations, ReverseCall,
};
use support::{PATIENCE, poll_until, poll_within};

/// To import the SDK alone takes seconds.
const START: Duration = Duration::from_secs(120);

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dify_plugin").join(path)
}

/// Which SDK it is, and how it runs.
#[derive(Clone, Copy)]
struct Sdk {
    requirements: &'static str,
    real_threads: bool,
}

const SDK: Sdk = Sdk { requirements: "requirements.txt", real_threads: false };
/// That of the time when calls of threads were first seen to be lost.
const OLD: Sdk = Sdk { requirements: "requirements-old.txt", ..SDK };
/// Without gevent's patches its threads are the system's, for which it is not made: frames are torn,
/// and answers find nobody waiting. What it loses so is not the daemon's to mend.
const UNPATCHED: Sdk = Sdk { real_threads: true, ..SDK };

fn command(sdk: Sdk, limit: u32) -> Command {
    let mut command = Command::new(venv::python(&here(sdk.requirements)));
    if sdk.real_threads {
        command.env("PROBE_REAL_THREADS", "yes");
    }
    command
        .args(["-m", "main"])
        .current_dir(here(""))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("MAX_INVOCATION_TIMEOUT", limit.to_string())
        .env("HEARTBEAT_INTERVAL", "1")
        .stderr(Stdio::null());
    command
}

/// Every app says twice what it was asked.
fn daemon() -> Daemon {
    Daemon::new("the key").on_invocation(|invoked: ReverseCall| {
        #[derive(Deserialize)]
        struct Chat {
            query: String,
        }
        let query = invoked.parse::<Chat>().unwrap().query;
        for seq in 0..2 {
            let piece = json!({"event": "message", "seq": seq, "tag": query});
            invoked.send(&piece).unwrap();
        }
        invoked.finish();
    })
}

struct Plugin {
    hosted: HostedPlugin,
    /// A local one is the daemon's.
    child: Option<Killed>,
}

/// The SDK's process, which ends with this.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn remote(daemon: &Daemon, sdk: Sdk, limit: u32) -> Plugin {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let child = command(sdk, limit)
        .env("INSTALL_METHOD", "remote")
        .env("REMOTE_INSTALL_URL", address)
        .env("REMOTE_INSTALL_KEY", "the key")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let child = Killed(child);
    let hosted = daemon.accept(&listener, START).unwrap();
    Plugin { hosted, child: Some(child) }
}

fn local(daemon: &Daemon, sdk: Sdk, limit: u32) -> Plugin {
    Plugin { hosted: daemon.spawn(command(sdk, limit), START).unwrap(), child: None }
}

fn get(hosted: &HostedPlugin, target: &str) -> HttpResponse {
    hosted.endpoint(&HttpRequest::new("GET", target, ""), &json!({})).unwrap()
}

#[derive(Deserialize)]
struct Outcomes {
    seconds: f64,
    outcomes: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    tag: String,
    problem: Option<String>,
    seconds: f64,
}

fn run(hosted: &HostedPlugin, mode: &str, threads: usize, rows: usize) -> Outcomes {
    let folder = tempfile(mode, threads);
    let out = folder.join("out.json");
    let target = format!("/probe?mode={mode}&threads={threads}&rows={rows}&out={}", out.display());
    assert_eq!(get(hosted, &target).body, b"done");
    std::fs::write(out.with_extension("json.go"), "").unwrap();
    poll_within("all calls have ended", 5 * PATIENCE, || out.exists());
    let outcomes: Outcomes = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    assert_eq!(outcomes.outcomes.len(), threads * rows);
    let tags: HashSet<_> = outcomes.outcomes.iter().map(|outcome| &outcome.tag).collect();
    assert_eq!(tags.len(), threads * rows);
    outcomes
}

fn tempfile(mode: &str, threads: usize) -> PathBuf {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("dify-{mode}-{threads}-{number}-{}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn no_problems(outcomes: &Outcomes) {
    let problems: Vec<_> =
        outcomes.outcomes.iter().filter_map(|outcome| outcome.problem.as_ref()).collect();
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn the_sdk_is_not_understood_over_tcp() {
    let plugin = remote(&daemon(), SDK, 30);
    let declared = plugin.hosted.declarations();
    assert_eq!(declared.manifest["name"], "probe");
    assert_eq!(declared.declarations["endpoint_declaration"]["endpoints"][0]["path"], "/probe");
    assert_eq!(declared.declarations["tool_declaration"]["tools"][0]["identity"]["name"], "count");
    assert_eq!(declared.assets["icon.svg"], std::fs::read(here("_assets/icon.svg")).unwrap());
    is_understood(&plugin.hosted);
}

#[test]
fn the_sdk_is_not_understood_over_its_standard_input_and_output() {
    let plugin = local(&daemon(), SDK, 30);
    assert_eq!(plugin.hosted.declarations().manifest["name"], "probe");
    is_understood(&plugin.hosted);
}

fn is_understood(hosted: &HostedPlugin) {
    let echoed = get(hosted, "/probe?mode=echo&x=%C3%A4");
    assert_eq!((echoed.status, &*echoed.body), (200, &b"mode=echo&x=%C3%A4"[..]));
    let streamed = get(hosted, "/probe?mode=stream&rows=3");
    assert_eq!(streamed.body, b"piece 0;piece 1;piece 2;");
    assert_eq!(get(hosted, "/nowhere").status, 404);
    assert_eq!(get(hosted, "/probe?mode=fail").status, 500);

    let texts: Vec<Value> = hosted
        .tool("probe", "count", &json!({"to": 3}))
        .unwrap()
        .map(|message| message.unwrap().value().unwrap()["message"]["text"].clone())
        .collect();
    assert_eq!(texts, ["0", "1", "2"]);
    let failed = hosted.tool("probe", "count", &json!({"to": -1})).unwrap();
    let error = failed.last().unwrap().unwrap_err();
    let told = error.remote().unwrap();
    assert!(told.message.contains("to count down is another tool"), "{told}");
    // A pair that nothing handles gives just an end.
    assert_eq!(hosted.request("oauth", "refresh_credentials", &json!({})).unwrap().count(), 1);
}

#[test]
fn calls_back_of_threads_are_lost_or_torn_over_tcp() {
    let plugin = remote(&daemon(), SDK, 60);
    no_problems(&run(&plugin.hosted, "before", 1, 5));
    no_problems(&run(&plugin.hosted, "before", 8, 20));
    assert_eq!(plugin.hosted.stats().malformed, 0);
}

#[test]
fn calls_back_of_threads_are_lost_or_torn_over_standard_output() {
    let plugin = local(&daemon(), SDK, 60);
    no_problems(&run(&plugin.hosted, "before", 8, 20));
}

#[test]
fn the_old_sdk_is_not_understood_or_loses_calls_over_tcp() {
    let plugin = remote(&daemon(), OLD, 60);
    is_understood(&plugin.hosted);
    no_problems(&run(&plugin.hosted, "before", 8, 20));
    assert_eq!(plugin.hosted.stats().malformed, 0);
}

#[test]
fn the_old_sdk_is_not_understood_or_loses_calls_over_standard_output() {
    let plugin = local(&daemon(), OLD, 60);
    is_understood(&plugin.hosted);
    no_problems(&run(&plugin.hosted, "before", 8, 20));
}

#[test]
fn torn_frames_harm_the_daemon_or_calls_that_came_whole_over_tcp() {
    loses_only_what_was_torn(&remote(&daemon(), UNPATCHED, 2));
}

#[test]
fn torn_frames_harm_the_daemon_or_calls_that_came_whole_over_standard_output() {
    loses_only_what_was_torn(&local(&daemon(), UNPATCHED, 2));
}

fn loses_only_what_was_torn(plugin: &Plugin) {
    let hosted = &plugin.hosted;
    let outcomes = run(hosted, "before", 8, 50); // all of them end
    let answered = outcomes.outcomes.iter().filter(|outcome| outcome.problem.is_none()).count();
    let stats = hosted.stats();
    eprintln!("{answered} of 400 were answered, in {:.1} s; {stats:?}", outcomes.seconds);
    assert!(answered as u64 <= stats.requests && stats.requests <= 400);
    assert!(answered > 200, "{answered}");
    assert_eq!((stats.dropped_answers, stats.panics, stats.in_flight), (0, 0, 0));
    let lost = outcomes.outcomes.iter().filter_map(|outcome| outcome.problem.as_ref());
    lost.for_each(|problem| {
        // It waited out its limit, or something of the answer went to nobody; never another's.
        let of_its_own = problem.contains("without response") || problem.starts_with("answered");
        assert!(of_its_own, "{problem}");
    });
    assert_eq!(get(hosted, "/probe?mode=echo&x=1").body, b"mode=echo&x=1");
}

/// As Dify's own daemon has it: the SDK's calls that come after its handler's answer are dropped
/// without a word, and each waits out the whole limit.
#[test]
fn late_calls_of_the_sdk_are_answered_as_the_daemon_does_not() {
    let plugin = remote(&daemon(), SDK, 3); // the old one has a limit of 250 s, whatever it is told
    let outcomes = run(&plugin.hosted, "after", 4, 1);
    for outcome in &outcomes.outcomes {
        let problem = outcome.problem.as_ref().expect("nobody has answered it");
        assert!(problem.contains("without response"), "{problem}");
        assert!(outcome.seconds >= 2.0, "{}", outcome.seconds);
    }
}

#[test]
fn late_calls_of_the_sdk_that_are_refused_wait_all_the_same() {
    let daemon = daemon().late_invocations(LateInvocations::Refuse);
    for sdk in [SDK, OLD] {
        let plugin = remote(&daemon, sdk, 60);
        let outcomes = run(&plugin.hosted, "after", 4, 6);
        assert!(outcomes.seconds < 30.0, "{}", outcomes.seconds);
        for outcome in &outcomes.outcomes {
            let problem = outcome.problem.as_ref().expect("it came after the end");
            assert!(problem.contains("the session has ended"), "{problem}");
        }
    }
}

#[test]
fn a_plugin_with_a_wrong_key_is_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let refused = thread::spawn(move || {
        use std::io::{Read, Write};
        stream.write_all(b"{\"type\":\"handshake\",\"data\":{\"key\":\"hunter2\"}}\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    });
    let error = daemon().accept(&listener, PATIENCE).unwrap_err();
    assert!(error.is_connect());
    assert!(!format!("{error:?}").contains("hunter2"));
    assert_eq!(refused.join().unwrap(), "handshake failed, invalid key\n");
}

#[test]
fn a_plugin_that_is_killed_leaves_its_callers_waiting() {
    let mut plugin = remote(&daemon(), SDK, 30);
    let folder = tempfile("kill", 1);
    let out = folder.join("never").display().to_string();
    let target = format!("/probe?mode=before&threads=1&rows=100000&out={out}");
    let fields = endpoint(&target);
    let reply = plugin.hosted.request("endpoint", "invoke_endpoint", &fields).unwrap();
    let stats = || plugin.hosted.stats();
    poll_until("it is in the middle of it", || stats().requests > 10);
    drop(plugin.child.take());
    assert!(reply.last().unwrap().unwrap_err().is_lost());
    assert!(plugin.hosted.wait_gone(PATIENCE));
    std::fs::remove_dir_all(folder).unwrap();
}
