//! A code interpreter for many threads: each has its own Python session, and no answer crosses.
//!
//! ```text
//! cargo run --example code_interpreter --features monty
//! cargo run --example code_interpreter --features monty,cpython -- --engine cpython --threads 8
//! cargo run --example code_interpreter --features monty,jupyter -- --engine jupyter --start-gateway
//! ```
//!
//! The jobs are cases of several cells that share their variables. Each thread marks its session
//! before a case and looks for its mark after every cell: were two threads ever given the same
//! session, one would find the other's.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, panic, thread};

use anyhow::{Context as _, Result, anyhow, bail};
use data_encoding::BASE64_MIME_PERMISSIVE;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sessile::interpreter::monty::MontyManager;
use sessile::interpreter::{
    ExecuteOptions, Execution, Interpreter, InterpreterError, Output, OutputRef,
};
use sessile::{Pool, Registry};

const SNIPPETS: &str = include_str!("data/snippets.json");
const USAGE: &str = "\
usage: code_interpreter [--threads N] [--engine embedded|cpython|jupyter] [--jobs FILE] [--json]
                        [--confine] [--gateway URL | --start-gateway] [--stream] [--images DIR]

  --threads N      how many threads work, each with a session of its own (4)
  --engine E       embedded: Monty, in this process; cpython: a child process for each thread;
                   jupyter: a kernel for each thread, on a gateway
  --confine        cpython: no files, network or processes but the session's own (Linux)
  --gateway URL    where the gateway is; its token is in the environment, as JUPYTER_TOKEN
  --start-gateway  starts one, by `python3 -m kernel_gateway`, and ends it afterwards
  --stream         what cells put out, on standard error, as it comes
  --images DIR     keeps the images that cells show
  --jobs FILE      cases to run, in the form of examples/data/snippets.json (these)
  --json           the outcome as JSON on standard output";

// ---- jobs -----------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Jobs {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    /// Whether a plain Python does the same as the one that the expectations were taken from.
    #[serde(default = "yes")]
    holds_for_plain_exec: bool,
    #[serde(default)]
    tags: Vec<String>,
    cells: Vec<Cell>,
}

#[derive(Deserialize)]
struct Cell {
    code: String,
    timeout_s: Option<f64>,
    #[serde(default = "yes")]
    plain_exec_same: bool,
    expected: Value,
}

fn yes() -> bool {
    true
}

// ---- work -----------------------------------------------------------------------------------------

/// What came of one cell.
enum Verdict {
    AsExpected,
    /// The engine does not have what the cell needs; the rest of the case would miss it too.
    NotForThisEngine(String),
    Wrong(String),
}

/// What one thread has done.
#[derive(Default, Serialize)]
struct Tally {
    thread: String,
    cases: usize,
    cells: usize,
    as_expected: usize,
    not_for_this_engine: usize,
    wrong: Vec<String>,
    /// Marks that were not this thread's own: must be empty.
    crossed: Vec<String>,
    reasons: BTreeMap<String, usize>,
    busy_ms: f64,
}

/// Runs one case on a session that nothing of earlier cases is left in.
fn run_case(
    python: &mut impl Interpreter,
    engine: &str,
    arguments: &Arguments,
    case: &Case,
    mark: &str,
    tally: &mut Tally,
) -> Result<()> {
    python.reset()?;
    python.run(&format!("session_mark = {mark:?}"))?;
    let mut count = 1;
    for (at, cell) in case.cells.iter().enumerate() {
        let limit = cell.timeout_s.map_or(Duration::from_secs(10), Duration::from_secs_f64);
        let mut show = |output: OutputRef<'_>| {
            if arguments.stream {
                print_piece(&tally.thread, output);
            }
        };
        let options = ExecuteOptions::new().timeout(limit);
        let outcome = python.execute_with(&cell.code, &options, &mut show);
        tally.cells += 1;
        if let (Ok(execution), Some(folder)) = (&outcome, &arguments.images) {
            save_images(execution, Path::new(folder), &format!("{}-{at}", case.id))?;
        }
        match judge(engine, case, cell, &outcome) {
            Verdict::AsExpected => tally.as_expected += 1,
            Verdict::Wrong(why) => tally.wrong.push(format!("{} [{at}] {why}", case.id)),
            Verdict::NotForThisEngine(reason) => {
                let rest = case.cells.len() - at;
                tally.cells += rest - 1;
                tally.not_for_this_engine += rest;
                *tally.reasons.entry(reason).or_default() += rest;
                return Ok(());
            }
        }
        if !python.is_alive() {
            python.reset()?; // the cell meant to end it, and was judged by that
            python.run(&format!("session_mark = {mark:?}"))?;
            count = 1;
            continue;
        }
        // The session must bear our mark, and have run our cells and nobody else's.
        let seen = python.run("session_mark")?;
        count += 2;
        if seen.text() != Some(&format!("'{mark}'")) || seen.execution_count != count {
            tally.crossed.push(format!("{} [{at}]: {seen:?} in place of {mark}", case.id));
        }
    }
    Ok(())
}

/// On the thread of the cell, while it runs. It is no matter if nobody can read it.
fn print_piece(thread: &str, output: OutputRef<'_>) {
    let text = match output {
        OutputRef::Stdout(text) | OutputRef::Stderr(text) => text,
        OutputRef::Display(data) => &format!("{:?}", data.keys().collect::<Vec<_>>()),
        _ => return,
    };
    let mut stderr = io::stderr().lock();
    for line in text.lines() {
        let _ = writeln!(stderr, "{thread} | {line}");
    }
}

/// Each image as a file: the case, the cell, and the how-manieth it is.
fn save_images(execution: &Execution, folder: &Path, cell: &str) -> Result<()> {
    let shown = execution.outputs.iter().filter_map(|output| match output {
        Output::Display { data } => Some(data),
        _ => None,
    });
    let images = shown.chain(&execution.result).filter_map(|data| data.get("image/png")?.as_str());
    for (number, image) in images.enumerate() {
        let bytes = BASE64_MIME_PERMISSIVE.decode(image.as_bytes()).context("an image is odd")?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join(format!("{cell}-{number}.png")), bytes)?;
    }
    Ok(())
}

/// Compares what the case states, as far as the engine can do it.
fn judge(
    engine: &str,
    case: &Case,
    cell: &Cell,
    outcome: &Result<Execution, InterpreterError>,
) -> Verdict {
    let is_plain = case.holds_for_plain_exec && cell.plain_exec_same;
    if engine != "Jupyter" && (!is_plain || case.tags.iter().any(|t| t == "ipython")) {
        return Verdict::NotForThisEngine("needs IPython".into());
    }
    let status = cell.expected["status"].as_str().unwrap_or("ok");
    let got = match outcome {
        Ok(got) => got,
        Err(error) if error.is_timeout() && status == "restarted by the runner" => {
            return Verdict::AsExpected;
        }
        Err(error) if error.state_lost() && status == "dead" => return Verdict::AsExpected,
        Err(error) => return Verdict::Wrong(error.to_string()),
    };
    let error = got.error.as_ref();
    let fields = [
        ("status", Some(if got.is_ok() { "ok" } else { "error" }.into())),
        ("stdout", Some(got.stdout())),
        ("stderr", Some(got.stderr())),
        ("result", got.text().map(str::to_owned)),
        ("ename", error.map(|error| error.name.clone())),
        ("evalue", error.map(|error| error.value.clone())),
    ];
    let wrong = fields.iter().find(|(field, got)| match (&cell.expected[*field], got) {
        // Left out on purpose: one that varies, or words that each version puts differently.
        (Value::Null, _) if matches!(*field, "evalue" | "stdout" | "stderr") => false,
        (expected, got) => !same(expected, got.as_deref()),
    });
    let Some((field, found)) = wrong else { return Verdict::AsExpected };
    let wanted = &cell.expected[*field];
    let parser = wanted == "IndentationError" && found.as_deref() == Some("SyntaxError");
    let reason = match error.and_then(|error| lack(&error.name, &error.value)) {
        Some(lack) => lack,
        None if *field == "stdout" && !got.late.is_empty() => {
            "it keeps late output of earlier cells apart".into()
        }
        None if got.timed_out && status == "restarted by the runner" => {
            "it can stop what was not to be stopped".into()
        }
        None if engine == "Monty" && (*field == "evalue" || parser) => {
            "it has other words for the same error".into()
        }
        None => return Verdict::Wrong(format!("{field}: {found:?}, not {wanted}")),
    };
    Verdict::NotForThisEngine(reason)
}

/// Whether a text is the expected one, which may be given by its length and its ends.
fn same(expected: &Value, got: Option<&str>) -> bool {
    match (expected, got) {
        (Value::String(expected), Some(got)) => neutral(expected) == neutral(got),
        (Value::Object(long), Some(got)) => {
            let end = |field: &str| long[field].as_str().unwrap_or_default();
            long["utf8_len"] == got.len()
                && got.starts_with(end("head"))
                && got.ends_with(end("tail"))
        }
        (expected, got) => expected.is_null() && got.is_none(),
    }
}

/// A message without the name that its engine gives to a cell.
fn neutral(text: &str) -> String {
    match (text.find("(<cell "), text.find(">, line ")) {
        (Some(from), Some(to)) if from < to => format!("{}(FILE{}", &text[..from], &text[to + 1..]),
        _ => text.to_owned(),
    }
}

/// What the engine lacks, if that is what the error is about.
fn lack(name: &str, value: &str) -> Option<String> {
    match name {
        "NotImplementedError" | "ModuleNotFoundError" => Some(value.to_owned()),
        "AttributeError" if value.starts_with("module ") || value.starts_with("'_io.") => {
            Some(value.to_owned())
        }
        "TypeError" if value.contains("not supported") => Some(value.to_owned()),
        _ => None,
    }
}

// ---- threads --------------------------------------------------------------------------------------

fn run<I: Interpreter + Send + 'static>(
    pool: &Pool<I>,
    engine: &str,
    arguments: &Arguments,
) -> Result<ExitCode> {
    let text = match &arguments.jobs {
        Some(file) => fs::read_to_string(file).with_context(|| file.clone())?,
        None => SNIPPETS.to_owned(),
    };
    let Jobs { cases } = serde_json::from_str(&text).context("these are no jobs")?;
    let cells: usize = cases.iter().map(|case| case.cells.len()).sum();
    let (threads, say) = (arguments.threads, !arguments.json);
    if say {
        println!(
            "{} cases, {cells} cells, {threads} threads, each with its own {engine}\n",
            cases.len()
        );
    }

    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let tallies = Mutex::new(Vec::new());
    // All sessions are alive between the two: that is when there is something to see, and to close.
    let (finished, seen) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    let start = Instant::now();

    let (elapsed, alive, report, left) = thread::scope(|s| -> Result<_> {
        for number in 0..threads {
            let (cases, next, done) = (&cases, &next, &done);
            let (tallies, finished, seen) = (&tallies, &finished, &seen);
            let work = move || {
                let thread = format!("worker-{number}");
                let mut tally = Tally { thread, ..Tally::default() };
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    let mark = format!("{} has {}", tally.thread, case.id);
                    // This thread's own session, made on first use, or anew if it has died.
                    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
                        pool.with(|python| {
                            run_case(python, engine, arguments, case, &mark, &mut tally)
                        })?
                    }));
                    let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked")));
                    if let Err(error) = outcome {
                        tally.wrong.push(format!("{}: {error:#}", case.id));
                    }
                    tally.cases += 1;
                    tally.busy_ms += began.elapsed().as_secs_f64() * 1e3;
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, cases.len());
                }
                tallies.lock().expect("no thread panics with it").push(tally);
                finished.wait();
                seen.wait();
            };
            thread::Builder::new().name(format!("worker-{number}")).spawn_scoped(s, work)?;
        }
        finished.wait();
        let elapsed = start.elapsed();
        let alive = Registry::global().snapshot();
        let report = pool.close(Duration::from_secs(10)); // idle ones close here and now
        let left = Registry::global().snapshot();
        seen.wait();
        Ok((elapsed, alive, report, left))
    })?;

    let mut tallies = tallies.into_inner()?;
    tallies.sort_by(|a, b| a.thread.cmp(&b.thread));
    let sum = |of: fn(&Tally) -> usize| tallies.iter().map(of).sum::<usize>();
    let as_expected = sum(|t| t.as_expected);
    let not_for_this_engine = sum(|t| t.not_for_this_engine);
    let (wrong, crossed) = (sum(|t| t.wrong.len()), sum(|t| t.crossed.len()));
    let all_ran = sum(|t| t.cells) == cells && as_expected > 0;
    let well = all_ran && wrong == 0 && crossed == 0 && report.is_clean() && left.is_empty();

    if arguments.json {
        let outcome = json!({
            "engine": engine,
            "cases": cases.len(),
            "cells": cells,
            "as_expected": as_expected,
            "not_for_this_engine": not_for_this_engine,
            "wrong": wrong,
            "crossed": crossed,
            "elapsed_ms": elapsed.as_secs_f64() * 1e3,
            "threads": tallies,
            "while_alive": alive,
            "close": report,
            "after_close": left,
            "ok": well,
        });
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        println!("{:<12}{:>6}{:>7}{:>10}{:>11}", "THREAD", "CASES", "CELLS", "CROSSED", "BUSY");
        for Tally { thread, cases, cells, crossed, busy_ms, .. } in &tallies {
            println!("{thread:<12}{cases:>6}{cells:>7}{:>10}{busy_ms:>8.1} ms", crossed.len());
        }
        println!("\n{alive}\n\nclosed from the main thread: {report}\nafterwards: {left}\n");
        for problem in tallies.iter().flat_map(|t| t.wrong.iter().chain(&t.crossed)) {
            println!("WRONG  {problem}");
        }
        let mut reasons = BTreeMap::new();
        for (reason, n) in tallies.iter().flat_map(|t| &t.reasons) {
            *reasons.entry(reason).or_insert(0) += n;
        }
        for (reason, n) in &reasons {
            println!("{n:>4} not for this engine: {reason}");
        }
        println!(
            "{as_expected} of {cells} cells as expected, {wrong} wrong, {not_for_this_engine} not \
             for this engine, {crossed} crossed, in {:.2} s",
            elapsed.as_secs_f64()
        );
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One line that is written over, on a terminal; elsewhere a line for each quarter.
fn progress(done: usize, all: usize) {
    let mut stderr = io::stderr().lock();
    // It is no matter if nobody can read it.
    let _ = if stderr.is_terminal() {
        let end = if done == all { "\r\x1b[K" } else { "" };
        write!(stderr, "\r{done:>4} of {all} cases{end}")
    } else if done * 4 / all > (done - 1) * 4 / all {
        writeln!(stderr, "{done:>4} of {all} cases")
    } else {
        Ok(())
    };
}

// ---- a gateway ------------------------------------------------------------------------------------

#[cfg(feature = "jupyter")]
fn on_gateway(arguments: &Arguments) -> Result<ExitCode> {
    use sessile::interpreter::jupyter::{Gateway, JupyterManager};

    let started = arguments.start_gateway.then(StartedGateway::new).transpose()?;
    let (url, token) = match (&started, &arguments.gateway) {
        (Some(started), None) => (&started.url, Some(started.token.clone())),
        (None, Some(url)) => (url, env::var("JUPYTER_TOKEN").ok()),
        _ => bail!("--engine jupyter needs --gateway or --start-gateway\n\n{USAGE}"),
    };
    let gateway = Gateway::new(url);
    let gateway = match token {
        Some(token) => gateway.token(token),
        None => gateway,
    };
    let pool = Pool::builder(JupyterManager::new(gateway)?).name("jupyter").build()?;
    run(&pool, "Jupyter", arguments)
}

/// A Kernel Gateway on this machine, for nobody but us. Ends when it is dropped.
#[cfg(feature = "jupyter")]
struct StartedGateway {
    url: String,
    token: String,
    process: std::process::Child,
}

#[cfg(feature = "jupyter")]
impl StartedGateway {
    fn new() -> Result<Self> {
        use std::hash::{BuildHasher, RandomState};
        use std::net::{TcpListener, TcpStream};
        use std::process::{Command, Stdio};

        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?; // free a moment ago
        let secret = || RandomState::new().hash_one("token"); // seeded by the system
        let token = format!("{:016x}{:016x}", secret(), secret());
        let mut process = Command::new("python3")
            .args(["-m", "kernel_gateway", "--KernelGatewayApp.ip=127.0.0.1"])
            .arg(format!("--KernelGatewayApp.port={}", address.port()))
            .arg("--KernelGatewayApp.port_retries=0")
            .env("KG_AUTH_TOKEN", &token)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("python3")?;
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = process.try_wait()? {
                bail!(
                    "no gateway: {status}; `python3 -m pip install jupyter_kernel_gateway ipykernel`?"
                );
            }
            if start.elapsed() > Duration::from_secs(60) {
                let _ = process.kill();
                bail!("the gateway does not listen");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Self { url: format!("http://{address}"), token, process })
    }
}

#[cfg(feature = "jupyter")]
impl Drop for StartedGateway {
    fn drop(&mut self) {
        // Its kernels have ended: the pool is closed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// ---- arguments ------------------------------------------------------------------------------------

struct Arguments {
    threads: usize,
    engine: String,
    confine: bool,
    gateway: Option<String>,
    start_gateway: bool,
    stream: bool,
    images: Option<String>,
    jobs: Option<String>,
    json: bool,
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments {
        threads: 4,
        engine: "embedded".to_owned(),
        confine: false,
        gateway: None,
        start_gateway: false,
        stream: false,
        images: None,
        jobs: None,
        json: false,
    };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n\n{USAGE}"));
        match word.as_str() {
            "--threads" => parsed.threads = value()?.parse().context("--threads needs a number")?,
            "--engine" => parsed.engine = value()?,
            "--confine" => parsed.confine = true,
            "--gateway" => parsed.gateway = Some(value()?),
            "--start-gateway" => parsed.start_gateway = true,
            "--stream" => parsed.stream = true,
            "--images" => parsed.images = Some(value()?),
            "--jobs" => parsed.jobs = Some(value()?),
            "--json" => parsed.json = true,
            _ => bail!("{USAGE}"),
        }
    }
    if parsed.threads == 0 {
        bail!("--threads needs at least one");
    }
    Ok(parsed)
}

#[cfg(all(feature = "cpython", unix))]
fn confined(
    manager: sessile::interpreter::cpython::CPythonManager,
) -> Result<sessile::interpreter::cpython::CPythonManager> {
    #[cfg(all(feature = "confine", target_os = "linux"))]
    return Ok(manager.confine(sessile::interpreter::cpython::Confinement::strict()));
    #[cfg(not(all(feature = "confine", target_os = "linux")))]
    {
        drop(manager);
        bail!("built without it: --features monty,confine, on Linux")
    }
}

fn main() -> Result<ExitCode> {
    let arguments = arguments()?;
    if arguments.confine && arguments.engine != "cpython" {
        bail!("--confine holds CPython only: --engine cpython --confine");
    }
    match arguments.engine.as_str() {
        "embedded" => {
            let pool = Pool::builder(MontyManager::new()).name("monty").build()?;
            run(&pool, "Monty", &arguments)
        }
        #[cfg(all(feature = "cpython", unix))]
        "cpython" => {
            let manager = sessile::interpreter::cpython::CPythonManager::new();
            let manager = if arguments.confine { confined(manager)? } else { manager };
            let pool = Pool::builder(manager).name("cpython").build()?;
            run(&pool, "CPython", &arguments)
        }
        #[cfg(not(all(feature = "cpython", unix)))]
        "cpython" => bail!("built without it: --features monty,cpython, on Unix"),
        #[cfg(feature = "jupyter")]
        "jupyter" => on_gateway(&arguments),
        #[cfg(not(feature = "jupyter"))]
        "jupyter" => bail!("built without it: --features monty,jupyter"),
        other => bail!("no engine is called {other}\n\n{USAGE}"),
    }
}
