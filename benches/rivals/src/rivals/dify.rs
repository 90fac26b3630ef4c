//! Plugins for Dify on our daemon's side: one that is written with Dify's own SDK, and one of ours that
//! does the same.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sessile::session::SessionError;
use sessile::session::dify::{
    Daemon, Dify, EndpointRequest, Environment, HostedPlugin, HttpRequest, HttpResponse, Plugin,
    ReverseCall,
};

use super::venv;
use crate::memory::CHILD;

const KEY: &str = "a key";
/// To import the SDK alone takes seconds.
const START: Duration = Duration::from_secs(120);
/// How long an invocation waits for its answer, in seconds.
pub const LIMIT: u32 = 5;

/// How a plugin is reached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Stdio,
}

/// When a handler's threads call back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before the handler answers: it waits for them.
    Before,
    /// After its answer.
    After,
}

/// The plugin that is written with the SDK: that of the tests.
///
/// # Errors
///
/// If there is no Python, or its packages cannot be had.
pub fn sdk() -> Result<Command, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = root.join("tests/dify_plugin");
    let python = venv::python_in(&root.join("target/venvs"), &folder.join("requirements.txt"))?;
    let python = fs::canonicalize(python.parent().expect("it is in a folder"))
        .map(|folder| folder.join("python"))
        .map_err(|error| error.to_string())?;
    let mut command = Command::new(python);
    command.args(["-m", "main"]).current_dir(folder).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// The plugin of ours: this program, as a [child](plugin).
///
/// # Panics
///
/// If a running program has no path.
#[must_use]
pub fn ours() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
    command.args([CHILD, crate::sections::dify::ENTRY.name]);
    command
}

// ---- the daemon's side ----------------------------------------------------------------------------

/// A plugin in a process of its own, hosted. Dropped, it ends.
pub struct Hosting {
    hosted: HostedPlugin,
    /// One over standard input and output is the daemon's to end.
    _process: Option<Killed>,
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a plugin tells of its invocations.
#[derive(Serialize, Deserialize)]
pub struct Told {
    /// From the first until all have an answer, or none.
    pub seconds: f64,
    pub outcomes: Vec<Outcome>,
}

#[derive(Serialize, Deserialize)]
pub struct Outcome {
    tag: String,
    problem: Option<String>,
    seconds: f64,
}

impl Told {
    /// How many have not had their answers.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.problem.is_some()).count()
    }
}

impl Hosting {
    /// Starts the plugin, and lets it declare itself.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn new(mut command: Command, transport: Transport) -> Self {
        command
            .env("MAX_INVOCATION_TIMEOUT", LIMIT.to_string())
            .env("HEARTBEAT_INTERVAL", "1")
            .stderr(Stdio::null());
        if transport == Transport::Stdio {
            let hosted = daemon().on_stderr(|_| ()).spawn(command, START).expect("the plugin starts");
            return Self { hosted, _process: None };
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let process = command
            .env("INSTALL_METHOD", "remote")
            .env("REMOTE_INSTALL_URL", address)
            .env("REMOTE_INSTALL_KEY", KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let process = Killed(process.expect("the plugin starts"));
        let hosted = daemon().accept(&listener, START).expect("the plugin declares itself");
        Self { hosted, _process: Some(process) }
    }

    /// Has so many threads of a handler's invoke, each so often.
    ///
    /// # Panics
    ///
    /// If the plugin fails.
    #[must_use]
    pub fn invoke(&self, when: When, threads: usize, each: usize) -> Told {
        let out = std::env::temp_dir().join(format!("rivals-dify-{}.json", std::process::id()));
        let _ = fs::remove_file(&out);
        let go = go(&out);
        let _ = fs::remove_file(&go);
        let mode = if when == When::Before { "before" } else { "after" };
        let target =
            format!("/probe?mode={mode}&threads={threads}&rows={each}&out={}", out.display());
        let answer = self.hosted.begin_endpoint(&HttpRequest::new("GET", &target, ""), &json!({}));
        let answer = answer.expect("the handler answers");
        if when == When::After {
            // As a daemon's HTTP client does: it has its answer, and waits for the end of it. With the
            // SDK that is now; with us it is when the threads are done.
            let ended = thread::spawn(move || answer.for_each(drop));
            fs::File::create(&go).expect("there is room for a file");
            wait_for(&out);
            ended.join().expect("it does not panic");
        } else {
            answer.for_each(drop);
            wait_for(&out);
        }
        let told = fs::read(&out).expect("it is there");
        let told: Told = serde_json::from_slice(&told).expect("it is written as a whole");
        assert_eq!(told.outcomes.len(), threads * each, "each call has come to something");
        let _ = (fs::remove_file(out), fs::remove_file(go));
        told
    }
}

fn go(out: &Path) -> PathBuf {
    out.with_extension("json.go")
}

fn wait_for(file: &Path) {
    let begun = Instant::now();
    while !file.exists() {
        assert!(begun.elapsed() < START, "the other side comes to its end");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Every app says twice what it was asked, at once.
fn daemon() -> Daemon {
    Daemon::new(KEY).on_invocation(|invoked: ReverseCall| {
        #[derive(Deserialize)]
        struct Chat {
            query: String,
        }
        let query = invoked.parse::<Chat>().expect("it is a chat").query;
        for seq in 0..2 {
            if invoked.send(&json!({"event": "message", "seq": seq, "tag": query})).is_err() {
                return; // the plugin is gone
            }
        }
        invoked.finish();
    })
}

// ---- the plugin's side ----------------------------------------------------------------------------

/// Is the plugin of ours, until its standard input or its connection ends.
///
/// # Panics
///
/// If there is nobody to host it.
pub fn plugin() {
    let manifest = json!({"author": "sessile", "name": "probe", "version": "0.0.1"});
    let plugin =
        Plugin::new(manifest).endpoint("GET", "/probe", |request: &mut EndpointRequest| {
            let told = |name| request.http().parameter(name);
            let number = |name| told(name).and_then(|number| number.parse::<usize>().ok());
            let (threads, each) = (number("threads").unwrap_or(1), number("rows").unwrap_or(1));
            let after = told("mode").as_deref() == Some("after");
            let out = PathBuf::from(told("out").unwrap_or_default());
            let begun = Instant::now();
            let call = |thread| {
                let (dify, go) = (request.dify(), after.then(|| go(&out)));
                thread::spawn(move || {
                    go.iter().for_each(|go| wait_for(go));
                    (0..each).map(|row| invoke(&dify, format!("t{thread}-{row}"))).collect()
                })
            };
            let callers: Vec<thread::JoinHandle<Vec<Outcome>>> = (0..threads).map(call).collect();
            let finish = move || {
                let outcomes =
                    callers.into_iter().flat_map(|caller| caller.join().expect("no panic"));
                let outcomes = outcomes.collect();
                tell(&out, &Told { seconds: begun.elapsed().as_secs_f64(), outcomes })
            };
            if after {
                thread::spawn(move || finish().expect("there is room for a file"));
            } else {
                finish()?;
            }
            request.respond(HttpResponse::text("done"))?;
            anyhow::Ok(())
        });
    let environment = Environment::from_process().expect("the daemon sets the variables");
    plugin.run(&environment).expect("the daemon is there").wait().expect("it takes the plugin");
}

fn invoke(dify: &Dify, tag: String) -> Outcome {
    let begun = Instant::now();
    let chat = || -> Result<Vec<Value>, SessionError> {
        let pieces = dify.chat("app", &tag, &json!({}), None)?;
        let pieces = pieces.into_iter();
        pieces.map(|piece| Ok(piece?.value().expect("it is JSON")["tag"].take())).collect()
    };
    let problem = match chat() {
        Ok(tags) if tags == [&*tag, &*tag] => None,
        Ok(tags) => Some(format!("answered {tags:?}")),
        Err(error) => Some(error.to_string()),
    };
    Outcome { tag, problem, seconds: begun.elapsed().as_secs_f64() }
}

fn tell(out: &Path, told: &Told) -> std::io::Result<()> {
    let part = out.with_extension("json.part");
    fs::File::create(&part)?.write_all(&serde_json::to_vec(told)?)?;
    fs::rename(part, out)
}
