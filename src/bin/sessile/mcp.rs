//! `sessile mcp`: Python sessions for clients of the Model Context Protocol.

#[cfg(all(feature = "cpython", unix))]
mod files;
mod http;
mod progress;
mod said;
mod server;
mod sessions;
mod tools;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use rmcp::ServiceExt;
use sessile::workers::ThreadRange;
use sessile::{Pool, Workers};
use tokio::sync::watch;

use self::server::Shared;
use self::sessions::{Table, Tracking};
use crate::engine::{self, AnyManager, Engine};
use crate::run::seconds;

/// Serves Python sessions to any client of the Model Context Protocol.
///
/// On standard input and output, or over HTTP with --http. Each session has an interpreter of its own and
/// a handle that nobody guesses. On SIGTERM, SIGINT, or the end of its input, it lets running code come to
/// its end for a while, closes all sessions, and ends with exit code 0.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Which Python
    #[arg(long, short, value_enum, default_value_t = Engine::BUILT_IN)]
    engine: Engine,
    /// CPython: no files, network or processes but the session's own (Linux)
    #[arg(long)]
    confine: bool,
    /// Serve streamable HTTP at this address, under /mcp, in the place of standard input and output
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// HTTP: take only requests with the bearer token in this file [default: the one in the environment, as
    /// SESSILE_MCP_TOKEN]
    #[arg(long, value_name = "FILE", requires = "http")]
    token_file: Option<PathBuf>,
    /// HTTP: let web pages of this origin in, such as https://example.com; otherwise none is
    #[arg(long, value_name = "ORIGIN", requires = "http")]
    allow_origin: Vec<String>,
    /// HTTP: let requests to this host name in, beside those of this machine
    #[arg(long, value_name = "HOST", requires = "http")]
    allow_host: Vec<String>,
    /// How many threads run code: a number, or a range such as 1..16, started as they are needed
    #[arg(long, short, value_name = "N", default_value = "1..16", value_parser = threads)]
    threads: (usize, usize),
    /// How many sessions there are at most; then the least recently used makes room
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one)]
    max_sessions: usize,
    /// Close sessions that nobody has used for so long; 0 for never
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = seconds_or_none)]
    idle_timeout: IdleTimeout,
    /// How long code may run if a call names no time
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    timeout: Duration,
    /// How long a call may let code run at most
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    max_timeout: Duration,
    /// How much text an answer holds at most; the middle of what is longer is left out
    #[arg(long, value_name = "BYTES", default_value_t = 20_000)]
    max_output: usize,
    /// How much data, such as images, an answer holds at most, as base64
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    max_data: usize,
    /// How large a file may be that is put or fetched
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20)]
    max_file: u64,
    /// How much memory a session may have (Monty, CPython)
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(1..))]
    max_memory: u64,
    /// How long running code may go on when the server is to end
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    grace: Duration,
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

/// What calls are held to.
pub(crate) struct Limits {
    timeout: Duration,
    max_timeout: Duration,
    max_output: usize,
    max_data: usize,
    #[cfg_attr(not(all(feature = "cpython", unix)), allow(dead_code))] // of engines with files
    max_file: u64,
}

#[derive(Clone, Copy)]
struct IdleTimeout(Option<Duration>);

fn seconds_or_none(text: &str) -> Result<IdleTimeout, String> {
    match text {
        "0" => Ok(IdleTimeout(None)),
        text => seconds(text).map(|limit| IdleTimeout(Some(limit))),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("there has to be at least one".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("this is no number".to_owned()),
    }
}

/// `4`, or `1..16`: at least, and at most.
fn threads(text: &str) -> Result<(usize, usize), String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let (least, most): (usize, usize) = match (least.parse(), most.parse()) {
        (Ok(least), Ok(most)) => (least, most),
        _ => return Err("this is no number, and no range such as 1..16".to_owned()),
    };
    if most == 0 || least > most {
        return Err("at least one thread has to work, and no more at least than at most".to_owned());
    }
    Ok((least, most))
}

/// Says something to whoever has started us. Standard output is the protocol's.
fn tell(what: &str) {
    eprintln!("sessile mcp: {what}");
}

pub(crate) fn serve(arguments: Arguments) -> Result<ExitCode> {
    ensure!(
        !arguments.confine || arguments.engine.has_cpython(),
        "--confine holds CPython only: `--engine cpython --confine`"
    );
    let http = arguments.http.map(|address| http_options(&arguments, address)).transpose()?;
    let (manager, _gateway) = manager(&arguments)?;
    let shared = shared(&arguments, manager)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2) // they route; code runs on the workers
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let (end, ends) = watch::channel(false);
        let closing = tokio::spawn(close_on_signal(Arc::clone(&shared), arguments.grace, end)?);
        match http {
            Some(options) => http::serve(&shared, options, ends).await?,
            None => on_standard_streams(&shared, ends).await?,
        }
        closing.abort(); // no signal: there is nobody to serve any more
        anyhow::Ok(())
    });
    // A read of standard input cannot be called off, and is not waited for.
    runtime.shutdown_background();
    let report = shared.workers.shutdown(arguments.grace);
    if !report.is_clean() {
        tell(&format!("not all sessions have ended in order: {report:?}"));
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn on_standard_streams(shared: &Arc<Shared>, mut ends: watch::Receiver<bool>) -> Result<()> {
    let server = match shared.connect().serve(rmcp::transport::stdio()).await {
        Ok(server) => server,
        // A client that went away before it had said anything is no fault.
        Err(error) => bail!("no client has begun a conversation: {error}"),
    };
    let stop = server.cancellation_token();
    let mut waiting = std::pin::pin!(server.waiting());
    tokio::select! {
        _ = &mut waiting => {}
        _ = ends.wait_for(|ended| *ended) => {
            stop.cancel();
            let _ = waiting.await;
        }
    }
    Ok(())
}

/// On the first SIGTERM or SIGINT: takes no more calls, gives those that run their time, closes all
/// sessions, has them answered, and then ends the transport. A second signal ends the process at once.
fn close_on_signal(
    shared: Arc<Shared>,
    grace: Duration,
    end: watch::Sender<bool>,
) -> Result<impl Future<Output = ()> + Send + 'static> {
    #[cfg(unix)]
    let mut signals = {
        use tokio::signal::unix::{SignalKind, signal};
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let mut signalled = async move || {
        #[cfg(unix)]
        tokio::select! {
            _ = signals.0.recv() => {}
            _ = signals.1.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(async move {
        signalled().await;
        tokio::spawn(async move {
            signalled().await;
            std::process::exit(1);
        });
        shared.is_closing.store(true, Ordering::SeqCst);
        let closing = Arc::clone(&shared);
        let closed = tokio::task::spawn_blocking(move || closing.workers.shutdown(grace)).await;
        if let Ok(report) = closed
            && !report.is_clean()
        {
            tell(&format!("not all sessions have ended in order: {report:?}"));
        }
        // What has come of the last calls is still to be sent.
        let sent = async {
            while shared.in_flight.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await; // out of our hands, not of our buffers
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), sent).await;
        end.send_replace(true);
    })
}

fn shared(arguments: &Arguments, manager: AnyManager) -> Result<Arc<Shared>> {
    let idle_timeout = arguments.idle_timeout.0;
    let table = Table::new(arguments.max_sessions, idle_timeout);
    let tracking = Tracking { manager, table: Arc::clone(&table) };
    let pool = Pool::builder(tracking).name(arguments.engine.pool()).idle_timeout(idle_timeout);
    let (least, most) = arguments.threads;
    let workers = Workers::builder(pool)
        .name("session")
        .threads(ThreadRange::from(least..=most))
        .keyed_capacity(arguments.max_sessions)
        .keyed_queue_capacity(16) // calls of one session
        .build()?;
    let limits = Limits {
        timeout: arguments.timeout.min(arguments.max_timeout),
        max_timeout: arguments.max_timeout,
        max_output: arguments.max_output,
        max_data: arguments.max_data,
        max_file: arguments.max_file,
    };
    Ok(Shared::new(workers, table, arguments.engine, limits))
}

// ---- engines --------------------------------------------------------------------------------------

#[cfg(feature = "jupyter")]
type StartedGateway = Option<crate::gateway::StartedGateway>;
#[cfg(not(feature = "jupyter"))]
type StartedGateway = ();

/// The engine's manager, and what has to live as long as it.
fn manager(arguments: &Arguments) -> Result<(AnyManager, StartedGateway)> {
    match arguments.engine {
        Engine::Monty => Ok((monty(arguments)?, StartedGateway::default())),
        Engine::Cpython => Ok((cpython(arguments)?, StartedGateway::default())),
        Engine::Fallback => Ok((fallback(arguments)?, StartedGateway::default())),
        #[cfg(feature = "jupyter")]
        Engine::Jupyter => {
            tell("kernels are no sandbox: code may do what the gateway's user may do, there");
            let kernel = arguments.kernel.as_deref();
            crate::gateway::manager(arguments.gateway.as_deref(), arguments.start_gateway, kernel)
        }
        #[cfg(not(feature = "jupyter"))]
        Engine::Jupyter => engine::not_built_in(Engine::Jupyter),
    }
}

#[cfg(feature = "monty")]
fn monty_manager(arguments: &Arguments) -> sessile::interpreter::monty::MontyManager {
    let memory = usize::try_from(arguments.max_memory).unwrap_or(usize::MAX);
    sessile::interpreter::monty::MontyManager::new().max_memory(memory)
}

#[cfg(feature = "monty")]
fn monty(arguments: &Arguments) -> Result<AnyManager> {
    Ok(sessile::interpreter::boxed(monty_manager(arguments)))
}

#[cfg(not(feature = "monty"))]
fn monty(_arguments: &Arguments) -> Result<AnyManager> {
    engine::not_built_in(Engine::Monty)
}

#[cfg(all(feature = "cpython", unix))]
fn cpython_manager(arguments: &Arguments) -> Result<sessile::interpreter::cpython::CPythonManager> {
    let manager = sessile::interpreter::cpython::CPythonManager::new()
        .private_dir()
        .max_file(arguments.max_file)
        .max_memory(arguments.max_memory);
    let manager = match arguments.confine {
        true => engine::confined(manager)?,
        false => {
            tell(
                "CPython is no sandbox: code may do what you may do; `--confine` holds it (feature \
                 `confine`, Linux)",
            );
            manager
        }
    };
    // Were there none, no call would ever succeed.
    drop(manager.start().context("no Python can be had")?);
    Ok(manager.spares(1))
}

#[cfg(all(feature = "cpython", unix))]
fn cpython(arguments: &Arguments) -> Result<AnyManager> {
    Ok(sessile::interpreter::boxed(cpython_manager(arguments)?))
}

#[cfg(not(all(feature = "cpython", unix)))]
fn cpython(_arguments: &Arguments) -> Result<AnyManager> {
    engine::not_built_in(Engine::Cpython)
}

#[cfg(all(feature = "monty", feature = "cpython", unix))]
fn fallback(arguments: &Arguments) -> Result<AnyManager> {
    let (monty, cpython) = (monty_manager(arguments), cpython_manager(arguments)?);
    Ok(sessile::interpreter::boxed(sessile::interpreter::fallback::FallbackManager::new(
        monty, cpython,
    )))
}

#[cfg(not(all(feature = "monty", feature = "cpython", unix)))]
fn fallback(_arguments: &Arguments) -> Result<AnyManager> {
    engine::not_built_in(Engine::Fallback)
}

// ---- HTTP -----------------------------------------------------------------------------------------

fn http_options(arguments: &Arguments, address: SocketAddr) -> Result<http::Options> {
    let token = match &arguments.token_file {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            Some(text.trim().to_owned())
        }
        None => std::env::var("SESSILE_MCP_TOKEN").ok(),
    };
    ensure!(
        token.as_deref() != Some(""),
        "the token is empty: write one to the file, such as the output of `openssl rand -hex 32`"
    );
    if token.is_none() {
        ensure!(
            address.ip().is_loopback(),
            "--http {address} listens to other machines, and takes no request without a token: give one by \
             --token-file FILE, or as SESSILE_MCP_TOKEN in the environment"
        );
        tell("without a token, every program on this machine may run code here; see --token-file");
    }
    Ok(http::Options {
        address,
        token,
        origins: arguments.allow_origin.clone(),
        hosts: arguments.allow_host.clone(),
        max_body: usize::try_from(arguments.max_file).unwrap_or(usize::MAX).saturating_mul(2)
            + (4 << 20),
    })
}
