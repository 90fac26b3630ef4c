//! The guide, `docs/dify.md`: its program is what a `Daemon` takes and asks, its `main.py` starts it.

#![cfg(all(feature = "dify", unix))]

#[path = "support/dify.rs"]
mod dify;
mod support;

use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use dify::built;
use serde_json::{Value, json};
use sessile::session::dify::{Daemon, HostedPlugin, ReverseCall};
use support::PATIENCE;

const GUIDE: &str = include_str!("../docs/dify.md");

/// The first block in this language.
fn block(language: &str) -> &'static str {
    let begin = format!("```{language}\n");
    GUIDE.split_once(&*begin).unwrap().1.split_once("```").unwrap().0
}

#[test]
fn the_program_of_the_guide_is_the_example() {
    let example = include_str!("../examples/dify_greeter.rs");
    let program = example.split_once("\n\n").unwrap().1;
    assert_eq!(block("rust,no_run"), program);
    assert!(program.lines().count() <= 60);
}

/// A Dify whose model says `hello, Ann` in two pieces.
fn daemon(kept: &Arc<Mutex<Vec<Value>>>) -> Daemon {
    let keeps = Arc::clone(kept);
    Daemon::new("a key").on_invocation(move |call: ReverseCall| {
        let asked: Value = call.parse().unwrap();
        match call.kind() {
            "llm" => {
                assert_eq!(asked["prompt_messages"][0]["content"], "Greet Ann in one sentence.");
                for (index, text) in ["hello, ", "Ann"].into_iter().enumerate() {
                    let message = json!({"role": "assistant", "content": text});
                    let chunk = json!({
                        "model": "m", "delta": {"index": index, "message": message},
                    });
                    call.send(&chunk).unwrap();
                }
                call.finish();
            }
            _ => {
                keeps.lock().unwrap().push(asked);
                call.respond(&json!({"data": "ok"})).unwrap();
            }
        }
    })
}

fn greets(hosted: &HostedPlugin, kept: &Mutex<Vec<Value>>) {
    let model = json!({"provider": "p", "model": "m", "model_type": "llm", "mode": "chat"});
    let parameters = json!({"name": "Ann", "model": model});
    let said: Vec<Value> = hosted
        .tool("greeter", "greet", &parameters)
        .unwrap()
        .map(|message| message.unwrap().value().unwrap()["message"].clone())
        .collect();
    let texts = [&said[0]["text"], &said[1]["text"]];
    assert_eq!(texts, [&json!("hello, "), &json!("Ann")]);
    assert_eq!(said[2]["variable_value"], "Ann");
    let kept = kept.lock().unwrap().pop().unwrap();
    assert_eq!(
        (&kept["opt"], &kept["key"], &kept["value"]),
        (&json!("set"), &json!("last"), &json!("416e6e"))
    );
    let key = json!({"provider": "greeter", "credentials": {"api_key": "short"}});
    let mut checked = hosted.request("tool", "validate_tool_credentials", &key).unwrap();
    assert!(checked.next().unwrap().is_ok());
    let key = json!({"provider": "greeter", "credentials": {"api_key": "abc"}});
    let mut checked = hosted.request("tool", "validate_tool_credentials", &key).unwrap();
    let error = checked.next().unwrap().unwrap_err();
    assert!(error.to_string().contains("the key is too short"), "{error}");
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_program_of_the_guide_is_taken_and_greets_over_tcp() {
    let kept = Arc::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = Command::new(built("dify_greeter"))
        .env("INSTALL_METHOD", "remote")
        .env("REMOTE_INSTALL_URL", listener.local_addr().unwrap().to_string())
        .env("REMOTE_INSTALL_KEY", "a key")
        .spawn()
        .unwrap();
    let _child = Killed(child);
    let hosted = daemon(&kept).accept(&listener, PATIENCE).unwrap();
    let tool = &hosted.declarations().declarations["tool_declaration"]["tools"][0];
    assert_eq!(tool["identity"]["name"], "greet");
    greets(&hosted, &kept);
}

/// As Dify's daemon starts it: by Python, in the plugin's folder.
#[test]
fn the_main_py_of_the_guide_starts_the_program_as_the_daemon_starts_plugins() {
    let kept = Arc::default();
    let name = format!("dify-guide-{}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("main.py"), block("python")).unwrap();
    symlink(built("dify_greeter"), folder.join("greeter")).unwrap();
    let mut python = Command::new("python3");
    python.args(["-m", "main"]).current_dir(&folder).env("PYTHONDONTWRITEBYTECODE", "1");
    let hosted = daemon(&kept).spawn(python, PATIENCE).unwrap();
    assert_eq!(hosted.declarations().manifest["name"], "greeter");
    greets(&hosted, &kept);
    assert!(hosted.close(PATIENCE));
    std::fs::remove_dir_all(folder).unwrap();
}
