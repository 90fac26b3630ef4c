//! A code interpreter as the tool of an agent: a call comes in as a line of JSON, what came of it
//! goes out as a line of JSON with Markdown in it, for a model to read.
//!
//! ```text
//! $ cargo run --example agent_tool --features monty
//! {"id": 1, "conversation": "alice", "arguments": {"code": "x = 41\nx + 1"}}
//! {"id":1,"conversation":"alice","is_error":false,"content":"result:\n```text\n42\n```\n"}
//! ```
//!
//! One conversation, one session: it lives on a worker, under the conversation's name, and keeps
//! its variables from call to call. Calls of one conversation run in order, those of others beside
//! them; so answers may come in another order than calls, and bear their `id`. The conversation
//! used least recently is closed when there are too many. `--engine cpython` gives each a CPython
//! of its own, in a directory of its own.

use std::io::{self, BufRead, Write};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sessile::interpreter::monty::MontyManager;
use sessile::interpreter::{ExecuteOptions, Interpreter, InterpreterError};
use sessile::{Manager, Pool, Workers};

const CONVERSATIONS: usize = 100;
const LONGEST: Duration = Duration::from_secs(30);
const OUTPUT: usize = 20_000; // more would only fill the model's context

#[derive(Deserialize)]
struct Call {
    #[serde(default)]
    id: Value,
    conversation: String,
    arguments: Arguments,
}

#[derive(Deserialize)]
struct Arguments {
    code: String,
    /// Seconds; never more than `LONGEST`.
    timeout: Option<f64>,
}

#[derive(Serialize)]
struct Answer {
    id: Value,
    conversation: String,
    /// The code raised, was stopped, or could not be run.
    is_error: bool,
    content: String,
}

/// Answers calls until there are no more; then closes all conversations.
pub(crate) fn serve<M>(manager: M, calls: impl BufRead, answers: impl Write + Send) -> Result<()>
where
    M: Manager + Send + Sync + 'static,
    M::Instance: Interpreter + Send,
{
    let builder = Workers::builder(Pool::builder(manager)).threads(4);
    let workers = builder.keyed_capacity(CONVERSATIONS).build()?;
    let answers = Mutex::new(answers);
    let tell = |answer: &Answer| -> Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        let mut answers = answers.lock().map_err(|_| anyhow!("another answer was cut short"))?;
        answers.write_all(&line)?;
        Ok(answers.flush()?)
    };
    thread::scope(|scope| {
        for line in calls.lines() {
            let line = line?;
            let Call { id, conversation, arguments } = match serde_json::from_str(&line) {
                Ok(call) => call,
                Err(error) => {
                    let content = format!("[this is no call: {error}]\n");
                    let (id, conversation) = (Value::Null, String::new());
                    tell(&Answer { id, conversation, is_error: true, content })?;
                    continue;
                }
            };
            // In order of arrival; it waits while too many are before it.
            let work = move |python: &mut M::Instance| run(python, &arguments);
            let running = workers.keyed(conversation.clone()).submit(work);
            let running = running.map_err(|error| anyhow!("{error}"))?;
            let tell = &tell;
            scope.spawn(move || {
                let (is_error, content) = match running.join() {
                    Ok(ran) => ran,
                    // Not the code's fault: the interpreter could not be made.
                    Err(error) => (true, format!("[no interpreter: {error}]\n")),
                };
                tell(&Answer { id, conversation, is_error, content })
            });
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let report = workers.shutdown(Duration::from_secs(10));
    anyhow::ensure!(report.is_clean(), "{report:?}");
    Ok(())
}

fn run(python: &mut impl Interpreter, arguments: &Arguments) -> (bool, String) {
    let asked = arguments.timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let limit = asked.map_or(LONGEST, |asked| asked.min(LONGEST));
    let options = ExecuteOptions::new().timeout(limit).max_output(OUTPUT);
    match python.execute(&arguments.code, &options) {
        Ok(execution) => (!execution.is_ok(), execution.to_markdown()),
        Err(error) => (true, lost(&error)),
    }
}

/// What a model should know when it has lost its variables. The next call gets a new session.
fn lost(error: &InterpreterError) -> String {
    let lost = if error.state_lost() { "; begin again: every variable is gone" } else { "" };
    format!("[{error}{lost}]\n")
}

#[allow(dead_code)] // the test serves by itself
fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let (calls, answers) = (io::stdin().lock(), io::stdout());
    match args[..] {
        [] | ["--engine", "monty"] => serve(MontyManager::new(), calls, answers),
        #[cfg(all(feature = "cpython", unix))]
        ["--engine", "cpython"] => {
            use sessile::interpreter::cpython::CPythonManager;
            serve(CPythonManager::new().private_dir().spares(1), calls, answers)
        }
        _ => bail!("usage: agent_tool [--engine monty|cpython]"),
    }
}
