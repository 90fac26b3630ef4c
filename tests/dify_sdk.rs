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
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use dify::endpoint;
use serde::Deserialize;
use serde_json::{Value, json};
use sessile::session::dify::{
    ActionError, ActionRequest, Daemon, Environment, ErrorType, HostedPlugin, HttpRequest,
    HttpResponse, LateInvocations, LogStep, Manifest, ReverseCall, ToolMessage,
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
    let mut command = Command::new(venv::python_312(&here(sdk.requirements)));
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
    let daemon = daemon.clone().on_stderr(|_| ());
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

/// Answers as the SDK's `mirror` does.
fn mirror(request: &mut ActionRequest) -> anyhow::Result<()> {
    let kind: String = request.parameter("kind")?;
    let value: Option<Value> = request.parameter("value")?;
    let value = value.unwrap_or_default();
    let text = || value.as_str().unwrap_or_default().to_owned();
    let parts = || value.as_array().cloned().unwrap_or_default().into_iter();
    match &*kind {
        "text" => request.send(ToolMessage::text(text()))?,
        "json" => request.send(ToolMessage::json(value))?,
        "link" => request.send(ToolMessage::link(text()))?,
        "image" => request.send(ToolMessage::image(text()))?,
        "blob" => {
            let bytes: Vec<u8> = parts().map(|byte| byte.as_u64().unwrap() as u8).collect();
            request.send(ToolMessage::blob(bytes).meta(json!({"mime_type": "text/plain"})))?;
        }
        "variable" => request.send(ToolMessage::variable("v", value))?,
        "streamed" => {
            for piece in parts() {
                request.send(ToolMessage::streamed_variable("v", piece.as_str().unwrap()))?;
            }
        }
        "log" => {
            let step = LogStep::new("step").data(json!({"a": 1}));
            request.send(&step)?;
            request.send(step.finished(json!({"b": 2})))?;
        }
        "storage" => {
            let dify = request.dify();
            dify.storage_set("k", text().as_bytes())?;
            let kept = String::from_utf8(dify.storage_get("k")?)?;
            request.send(ToolMessage::text(kept))?;
        }
        "chat" => {
            for piece in request.dify().chat("app", &text(), &json!({}), None)? {
                request.send(ToolMessage::json(piece?.value()?))?;
            }
        }
        "credential" => {
            let key: String = request.credential("key")?;
            request.send(ToolMessage::text(key))?;
        }
        "fail" => {
            request.send(ToolMessage::text("before"))?;
            return Err(ActionError::new(ErrorType::Value, text()).into());
        }
        _ => {}
    }
    Ok(())
}

/// Everything that is random or tells of Python is taken out: ids, and tracebacks.
fn comparable(mut said: Value) -> Value {
    if let Some(message) = said.get_mut("message").and_then(Value::as_object_mut) {
        message.remove("id");
    }
    if let Some(args) = said.get_mut("args").and_then(Value::as_object_mut) {
        args.remove("traceback");
    }
    said
}

/// What is said to a request: each piece, and the error that it ends with.
fn said(hosted: &HostedPlugin, kind: &str, action: &str, fields: &Value) -> Vec<Value> {
    let pieces = hosted.request(kind, action, fields).unwrap();
    pieces
        .map(|piece| match piece {
            Ok(piece) => comparable(piece.value().unwrap()),
            Err(error) => {
                let error = error.remote().expect("it is the plugin's");
                let data = error.data.as_ref().map(|data| data.value().unwrap());
                comparable(json!({"message": {"text": error.message}, "data":
                    data.map(|data| data["error_type"].clone())}))
            }
        })
        .collect()
}

/// Forty requests, the same to both.
#[test]
fn our_plugin_and_the_sdks_say_the_same_field_by_field() {
    let store = Mutex::new(Value::Null);
    let daemon = Daemon::new("the key").on_invocation(move |call: ReverseCall| {
        let asked: Value = call.parse().unwrap();
        match (call.kind(), asked["opt"].as_str()) {
            ("app", _) => {
                for seq in 0..3 {
                    call.send(&json!({"event": "message", "seq": seq, "tag": asked["query"]}))
                        .unwrap();
                }
                call.finish();
            }
            (_, Some("set")) => {
                *store.lock().unwrap() = asked["value"].clone();
                call.respond(&json!({"data": "ok"})).unwrap();
            }
            _ => {
                let kept = store.lock().unwrap().clone();
                call.respond(&json!({"data": kept})).unwrap();
            }
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let ours = sessile::session::dify::Plugin::new(Manifest::new("sessile", "probe", "0.0.1"))
        .tool("probe", "mirror", mirror)
        .validate_credentials("probe", |_| Ok(()))
        .endpoint("POST", "/boats/<id>", |request| {
            let id = request.path_parameter("id").unwrap_or_default();
            let colour = request.settings()["colour"].as_str().unwrap_or("None");
            let body = String::from_utf8_lossy(&request.http().body);
            let text = format!("{} {id} {colour} {body}", request.http().method);
            let response = HttpResponse::new(201, text).header("Content-Type", "text/plain");
            Ok(request.respond(response)?)
        })
        .run(&Environment::remote(address, "the key"))
        .unwrap();
    let our_host = daemon.accept(&listener, PATIENCE).unwrap();
    let theirs = remote(&daemon, SDK, 30);

    let tool = |kind: &str, value: Value| {
        let fields = json!({
            "provider": "probe", "tool": "mirror", "credentials": {"key": "hunter2"},
            "credential_type": "api-key", "tool_parameters": {"kind": kind, "value": value},
        });
        ("tool", "invoke_tool", fields)
    };
    let long = "\u{fc}".repeat(3000);
    let bytes = |count: usize| json!((0..count).map(|n| n % 256).collect::<Vec<_>>());
    let post = |path: &str, body: &str| {
        let length = body.len();
        let http =
            format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}");
        let hex = data_encoding::HEXLOWER.encode(http.as_bytes());
        let fields = json!({"settings": {"colour": "red"}, "raw_http_request": hex});
        ("endpoint", "invoke_endpoint", fields)
    };
    let mut requests = vec![
        tool("text", json!("hello Ann")),
        tool("text", json!("")),
        tool("text", json!("\u{1F600} <&> \"quoted\" \\ \n")),
        tool("text", json!(long)),
        tool("json", json!({"a": [1, 2.5, null, true], "b": {"c": "d"}})),
        tool("json", json!([{"a": 1}, "b"])),
        tool("json", json!({})),
        tool("link", json!("https://example.com/a?b=c")),
        tool("image", json!("https://example.com/a.png")),
        tool("blob", bytes(0)),
        tool("blob", bytes(1)),
        tool("blob", bytes(8191)),
        tool("blob", bytes(8192)),
        tool("blob", bytes(8193)),
        tool("blob", bytes(40_000)),
        tool("variable", json!("text")),
        tool("variable", json!(7)),
        tool("variable", json!({"a": [1]})),
        tool("variable", json!(null)),
        tool("streamed", json!(["a", "b", "", "c"])),
        tool("log", json!(null)),
        tool("storage", json!("kept")),
        tool("storage", json!("")),
        tool("chat", json!("hi")),
        tool("credential", json!(null)),
        tool("fail", json!("on purpose")),
        tool("nothing", json!(null)),
        ("tool", "validate_tool_credentials", json!({"provider": "probe", "credentials": {}})),
    ];
    requests.extend(
        ["7", "a-b", "a%20b", "%C3%A4", "7.5"].map(|id| post(&format!("/boats/{id}"), "b")),
    );
    requests.extend(["", "x", &long].map(|body| post("/boats/1", body)));
    requests.extend((0..4).map(|n| tool("chat", json!(n.to_string()))));
    assert_eq!(requests.len(), 40);
    for (kind, action, fields) in requests {
        let of_ours = said(&our_host, kind, action, &fields);
        let mut of_theirs = said(&theirs.hosted, kind, action, &fields);
        for piece in &mut of_theirs {
            // Without it an HTTP client does not leave before the session ends.
            if let Some(headers) = piece.get_mut("headers").and_then(Value::as_object_mut) {
                headers.remove("Content-Length");
                headers["Content-Type"] = "text/plain".into();
            }
        }
        assert_eq!(of_ours, of_theirs, "{action} {fields}");
    }
    drop(ours);
}
