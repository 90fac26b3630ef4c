//! `sessile run`: jobs, on many threads, each with a session of its own.

mod cells;
mod images;
mod jobs;
mod judge;
mod notebook;
mod progress;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;
use sessile::interpreter::BoxInterpreter;
use sessile::{Pool, Registry};

use self::jobs::Jobs;
use crate::engine::{self, Engine};

/// How long sessions may take to end.
const CLOSE: Duration = Duration::from_secs(10);

/// A signal has come: the process ends by it, when everything is closed.
static IS_TERMINATED: AtomicBool = AtomicBool::new(false);

/// Runs a notebook, a Python file, or a table of cases.
///
/// Without FILE it runs 48 cases that are built in, checks every answer, and closes every session. A
/// notebook (`.ipynb`) and a Python file (`.py`, with `# %%` between cells) run in one session, cell
/// after cell, until one raises. A table of cases (`.json`) says what it expects of each cell; threads
/// share its cases, each with a session of its own.
///
/// Exit code: 0 if all went as it should, 1 if a cell did not, 2 if nothing could be run.
#[derive(Args)]
pub(crate) struct Arguments {
    /// What to run
    file: Option<PathBuf>,
    /// The file to run, as an option
    #[arg(long = "jobs", value_name = "FILE", conflicts_with = "file", hide = true)]
    jobs: Option<PathBuf>,
    /// Which Python runs it
    #[arg(long, short, value_enum, default_value_t = Engine::BUILT_IN)]
    engine: Engine,
    /// How many threads work, each with a session of its own
    #[arg(long, short, value_name = "N", default_value_t = 4, value_parser = at_least_one)]
    threads: usize,
    /// How long a cell may run; for cells of a table that say nothing themselves [default: none; in a
    /// table 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Notebooks, Python files: a cell that raises is no failure, and those after it run
    #[arg(long)]
    allow_errors: bool,
    /// Write a notebook with what the cells put out, images and all
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Keep the images that cells show as files in this directory
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Show what the cells of a table put out, on standard error, as it comes
    #[arg(long)]
    stream: bool,
    /// Tell the outcome as JSON on standard output, and nothing else there
    #[arg(long)]
    json: bool,
    /// CPython: no files, network or processes but the session's own (Linux)
    #[arg(long)]
    confine: bool,
    /// Jupyter: where the gateway is; its token is in the environment, as JUPYTER_TOKEN
    #[arg(long, value_name = "URL", conflicts_with = "start_gateway")]
    gateway: Option<String>,
    /// Jupyter: start a gateway by `python3 -m kernel_gateway`, and end it afterwards
    #[arg(long)]
    start_gateway: bool,
    /// Jupyter: which kernelspec [default: the gateway's]
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least one thread has to work".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("this is no number".to_owned()),
    }
}

/// A positive time, of seconds and fractions.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "this is no number of seconds")?;
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero());
    time.ok_or_else(|| "a time has to be more than zero, and less than centuries".to_owned())
}

/// Runs what the arguments say. After a signal it does not return: `main` would end the process before its
/// sessions are closed, and with another code.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let outcome = run_all(arguments);
    while IS_TERMINATED.load(Ordering::SeqCst) {
        std::thread::park();
    }
    outcome
}

fn run_all(arguments: &Arguments) -> Result<ExitCode> {
    let engine = arguments.engine;
    if arguments.confine && !engine.has_cpython() {
        bail!("--confine holds CPython only: `--engine cpython --confine`");
    }
    let for_gateway = arguments.gateway.is_some() || arguments.start_gateway;
    if (for_gateway || arguments.kernel.is_some()) && engine != Engine::Jupyter {
        bail!("--gateway, --start-gateway and --kernel are for `--engine jupyter`");
    }
    let file = arguments.file.as_deref().or(arguments.jobs.as_deref());
    let jobs = jobs::read(file)?;
    if let (Jobs::Cases(_), Some(output)) = (&jobs, &arguments.output) {
        bail!(
            "--output {} writes a notebook, and a table of cases is none: run an `.ipynb` or a `.py`",
            output.display()
        );
    }

    #[cfg(unix)]
    sessile::signals::close_on_termination_after(Registry::global(), CLOSE, |_| {
        IS_TERMINATED.store(true, Ordering::SeqCst);
    })?;
    let with = |manager: engine::AnyManager| -> Result<ExitCode> {
        let pool: Pool<BoxInterpreter> = Pool::builder(manager).name(engine.pool()).build()?;
        match jobs {
            Jobs::Cases(cases) => {
                ensure!(!cases.is_empty(), "there is nothing to run: the table has no cases");
                table::run(&pool, engine, arguments, &cases)
            }
            Jobs::Notebook(notebook) => {
                notebook.check_language(engine)?;
                cells::run(&pool, engine, arguments, notebook, file)
            }
        }
    };
    match engine {
        Engine::Monty => with(engine::monty()?),
        Engine::Cpython => with(engine::cpython(arguments.confine)?),
        Engine::Fallback => with(engine::fallback(arguments.confine)?),
        #[cfg(feature = "jupyter")]
        Engine::Jupyter => {
            let (gateway, start) = (arguments.gateway.as_deref(), arguments.start_gateway);
            let kernel = arguments.kernel.as_deref();
            let (manager, _started) = crate::gateway::manager(gateway, start, kernel)?;
            with(manager)
        }
        #[cfg(not(feature = "jupyter"))]
        Engine::Jupyter => engine::not_built_in(engine),
    }
}
