//! Lines as the real daemon writes them, over TCP and over a real program's standard input and output;
//! and what such a program prints between its answers.

#![cfg(all(feature = "dify", unix))]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};
use sessile::session::dify::{
    ActionRequest, Daemon, Environment, Manifest, Plugin, ReverseCall, ToolMessage,
};
use support::{PATIENCE, poll_until, promptly};

const ACTS: &str = "SESSILE_TEST_IS_A_PLUGIN";
const LIMIT: usize = 1 << 20;

/// This program as a plugin: what acts so is the test below.
fn program() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "acts_as_a_plugin", "--nocapture"]).env(ACTS, "1");
    command
}

/// Not a test unless it is started by the others.
#[test]
fn acts_as_a_plugin() {
    if std::env::var_os(ACTS).is_none() {
        return;
    }
    println!(); // the frame around tests has begun a line
    let running = plugin().run(&Environment::local()).unwrap();
    running.wait().unwrap();
    std::process::exit(0);
}

fn plugin() -> Plugin {
    Plugin::new(Manifest::new("sessile", "local", "0.0.1"))
        .max_message_size(LIMIT)
        .tool("desk", "echo", |request| {
            let text: String = request.parameter("text")?;
            Ok(request.send(ToolMessage::text(text))?)
        })
        .tool("desk", "prints", prints)
        .tool("desk", "asks", |request| {
            let dify = request.dify();
            let long = dify.storage_get("long").unwrap_err();
            let short = dify.storage_get("short")?;
            let told = json!({"long": long.is_too_large(), "short": short});
            Ok(request.send(ToolMessage::json(told))?)
        })
}

/// Says 200 things, and prints between them by whatever there is to print by.
fn prints(request: &mut ActionRequest) -> anyhow::Result<()> {
    let rows = std::thread::spawn(|| (0..2000).for_each(|row| println!("printed {row}")));
    for piece in 0..200 {
        println!("{{\"event\":\"session\",\"torn\":{piece}");
        print!("and no line feed");
        if piece % 20 == 0 {
            // A library that writes to the descriptor itself, and a child that inherits it.
            let descriptor = std::io::stdout().as_fd().try_clone_to_owned()?;
            std::fs::File::from(descriptor).write_all(b"written\n")?;
            Command::new("sh").args(["-c", "cat; echo said by a child"]).status()?;
        }
        request.send(ToolMessage::text(format!("{piece}:{}", "x".repeat(8000))))?;
    }
    rows.join().map_err(|_| anyhow::anyhow!("the printer has panicked"))
}

/// As the daemon's encoder writes it: the members by their names.
fn line(session: &str, event: &str, data: &Value) -> String {
    let data = data.to_string();
    format!(
        r#"{{"app_id":null,"context":{{"a":{{"b":"c"}}}},"conversation_id":null,"data":{data},"endpoint_id":null,"event":"{event}","message_id":null,"session_id":"{session}"}}"#
    )
}

fn echo(text: &str) -> Value {
    json!({
        "user_id": "", "type": "tool", "action": "invoke_tool", "provider": "desk", "tool": "echo",
        "credentials": {}, "credential_type": "api-key", "tool_parameters": {"text": text},
    })
}

/// What the plugin says next of a session.
fn hear(lines: &mut impl BufRead) -> (String, Value) {
    loop {
        let mut line = String::new();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it has hung up");
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        if said["event"] == "session" {
            return (said["session_id"].as_str().unwrap().to_owned(), said["data"].clone());
        }
    }
}

/// Says a line over the limit amid others, and nothing but that request fails.
fn fails_alone(mut to: impl Write, from: impl Read) {
    let mut from = BufReader::new(from);
    let long = "\\\"x".repeat(LIMIT);
    let mut say = |line: String| to.write_all(format!("{line}\n").as_bytes()).unwrap();
    let first = line("first", "request", &echo(&long));
    // As others might write it: the session in front, or in the middle.
    let rest = first.strip_prefix('{').unwrap().replace(r#","session_id":"first""#, "");
    let front = format!(r#"{{"session_id":"front",{rest}"#);
    let middle = line("middle", "request", &echo(&long));
    let middle = middle.replace(r#","event":"#, r#","session_id":"middle","event":"#);
    let middle = middle.replace(r#","session_id":"middle"}"#, "}");
    for (session, long) in [("first", first), ("front", front), ("middle", middle)] {
        assert!(long.len() > LIMIT);
        say(line("before", "request", &echo("b")));
        say(long);
        say(line("after", "request", &echo("a")));
        let mut heard: Vec<(String, Value)> = (0..6).map(|_| hear(&mut from)).collect();
        heard.sort_by_key(|(session, data)| (session.clone(), data["type"] == "end"));
        let sessions: Vec<&str> = heard.iter().map(|(session, _)| &**session).collect();
        let expected = ["after", "after", "before", "before", session, session];
        assert_eq!(sessions, expected);
        for (at, text) in [(0, "a"), (2, "b")] {
            assert_eq!(heard[at].1["data"]["message"]["text"], text);
        }
        let (error, end) = (&heard[4].1, &heard[5].1);
        assert_eq!((&error["type"], &end["type"]), (&json!("error"), &json!("end")));
        let told = error["data"]["message"].as_str().unwrap();
        assert!(told.contains("over the limit of 1048576"), "{told}");
    }
    // And an answer of Dify's fails the one call.
    say(line("asks", "request", &{
        let mut asks = echo("");
        asks["tool"] = "asks".into();
        asks
    }));
    let mut answer = |value: &str| {
        let (session, asked) = hear(&mut from);
        assert_eq!((&*session, &asked["type"]), ("asks", &json!("invoke")));
        for (event, data) in [("response", json!({"data": value})), ("end", Value::Null)] {
            let data = json!({
                "backwards_request_id": asked["data"]["backwards_request_id"], "event": event,
                "message": "", "data": data,
            });
            say(line("asks", "backwards_response", &data));
        }
    };
    answer(&"61".repeat(LIMIT));
    answer("6162");
    let told = hear(&mut from).1["data"]["message"]["json_object"].clone();
    assert_eq!(told, json!({"long": true, "short": [0x61, 0x62]}));
}

#[test]
fn a_line_over_the_limit_fails_the_one_request_that_it_names_over_tcp() {
    promptly("all are answered", || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let _running = plugin().run(&Environment::remote(address, "a key")).unwrap();
        let (stream, _) = listener.accept().unwrap();
        fails_alone(stream.try_clone().unwrap(), stream);
    });
}

#[test]
fn a_line_over_the_limit_fails_the_one_request_that_it_names_over_standard_input() {
    promptly("all are answered", || {
        let mut child = program().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        fails_alone(child.stdin.take().unwrap(), child.stdout.take().unwrap());
        assert!(child.wait().unwrap().success()); // its input has ended
    });
}

#[test]
fn what_a_plugin_prints_goes_to_standard_error_and_no_answer_is_harmed() {
    promptly("all is said", || {
        let printed: Arc<Mutex<Vec<u8>>> = Arc::default();
        let hears = Arc::clone(&printed);
        let daemon = Daemon::new("")
            .on_invocation(|call: ReverseCall| call.fail("nothing is asked"))
            .on_stderr(move |said| hears.lock().unwrap().extend_from_slice(said));
        let hosted = daemon.spawn(program(), PATIENCE).unwrap();
        let harmed = hosted.stats().malformed; // by the frame around tests
        let pieces: Vec<String> = hosted
            .tool("desk", "prints", &json!({}))
            .unwrap()
            .map(|piece| {
                let piece = piece.unwrap().value().unwrap();
                piece["message"]["text"].as_str().unwrap().to_owned()
            })
            .collect();
        let expected: Vec<String> =
            (0..200).map(|piece| format!("{piece}:{}", "x".repeat(8000))).collect();
        assert!(pieces == expected, "{} pieces of 200", pieces.len());
        assert_eq!(hosted.stats().malformed, harmed);
        let count =
            |what: &str| String::from_utf8_lossy(&printed.lock().unwrap()).matches(what).count();
        poll_until("all is printed", || count("printed") == 2000 && count("\"torn\"") == 200);
        assert_eq!((count("written"), count("said by a child")), (10, 10));
    });
}

/// The one thing that the daemon does not forgive a local plugin.
#[test]
fn a_local_plugin_that_says_more_than_5_mib_in_a_line_is_lost_as_at_the_daemon() {
    let says = "echo '{\"type\":\"plugin\"}'; read line; \
                head -c 6000000 /dev/zero | tr '\\0' x; echo; read line";
    let mut command = Command::new("sh");
    command.args(["-c", says]);
    let hosted = Daemon::new("").spawn(command, PATIENCE).unwrap();
    let mut reply = hosted.tool("desk", "echo", &json!({})).unwrap();
    let error = reply.next().unwrap().unwrap_err();
    assert!(error.is_lost() && error.to_string().contains("5242880"), "{error}");
    assert!(hosted.wait_gone(PATIENCE));
}

#[test]
fn a_child_that_ends_is_an_error_at_once_with_its_status_and_its_last_words() {
    let begun = Instant::now();
    let mut command = Command::new("sh");
    command.args(["-c", "echo 'no module named tide' >&2; exit 3"]);
    let daemon = Daemon::new("").on_stderr(|_| ());
    let error = daemon.spawn(command, 10 * PATIENCE).unwrap_err();
    let told = format!("{:#}", anyhow::Error::new(error));
    assert!(told.contains("exit status: 3") && told.contains("no module named tide"), "{told}");
    assert!(begun.elapsed() < 5 * PATIENCE);
    let mut silent = Command::new("sh");
    silent.args(["-c", "echo 'still loading' >&2; read line"]);
    let error = daemon.spawn(silent, PATIENCE / 20).unwrap_err();
    let told = format!("{:#}", anyhow::Error::new(error));
    assert!(told.contains("did not tell of itself") && told.contains("still loading"), "{told}");
}

#[test]
fn standard_input_from_nowhere_is_explained() {
    let folder = std::env::temp_dir();
    let file = folder.join(format!("dify-local-{}", std::process::id()));
    std::fs::write(&file, "").unwrap();
    for (input, is) in [("/dev/null".as_ref(), "/dev/null"), (&*file, "a file")] {
        let input = std::fs::File::open(input).unwrap();
        let ran = program().stdin(input).stdout(Stdio::piped()).output().unwrap();
        assert!(!ran.status.success());
        let told = String::from_utf8_lossy(&ran.stderr);
        assert!(told.contains(&format!("standard input is {is}")), "{told}");
        assert!(told.contains("INSTALL_METHOD=remote"), "{told}");
    }
    std::fs::remove_file(file).unwrap();
}
