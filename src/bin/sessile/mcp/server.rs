//! The tools, at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ErrorData, Implementation,
    ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
#[cfg(all(feature = "cpython", unix))]
use rmcp::model::{
    ListResourceTemplatesResult, ReadResourceRequestParams, ReadResourceResponse, ResourceTemplate,
};
use rmcp::service::{RequestContext, RoleServer};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sessile::Workers;
use sessile::interpreter::{ExecuteOptions, Interpreter, Output};
use sessile::task::{JoinError, JoinHandle};

use super::progress::Progress;
use super::sessions::{Client, Held, Table};
use super::tools::{Nothing, OfSession, RunPython};
use super::{Limits, said, tools};
use crate::engine::Engine;

/// How often a call that was called off asks its cell again to stop.
const AGAIN: Duration = Duration::from_millis(100);

/// What all connections share.
pub(super) struct Shared {
    pub(super) workers: Workers<Held>,
    pub(super) table: Arc<Table>,
    pub(super) engine: Engine,
    pub(super) limits: Limits,
    pub(super) tools: Vec<Tool>,
    /// Calls that are not answered yet.
    pub(super) in_flight: AtomicUsize,
    pub(super) is_closing: AtomicBool,
    clients: AtomicUsize,
}

/// One connection, as the protocol's library has it.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) shared: Arc<Shared>,
    client: Client,
}

impl Shared {
    pub(super) fn new(
        workers: Workers<Held>,
        table: Arc<Table>,
        engine: Engine,
        limits: Limits,
    ) -> Arc<Self> {
        let tools = tools::all(engine, &limits);
        let (in_flight, is_closing, clients) = Default::default();
        Arc::new(Self { workers, table, engine, limits, tools, in_flight, is_closing, clients })
    }

    pub(super) fn connect(self: &Arc<Self>) -> Server {
        let client = self.clients.fetch_add(1, Ordering::Relaxed) as Client;
        Server { shared: Arc::clone(self), client }
    }
}

/// Text for a model that says what is wrong.
pub(super) type Answer = Result<CallToolResult, String>;

impl Server {
    async fn call(&self, name: &str, arguments: Value, cx: &RequestContext<RoleServer>) -> Answer {
        match name {
            "run_python" => self.run_python(read(arguments)?, cx).await,
            "reset" => {
                let OfSession { session } = read(arguments)?;
                let outcome = self.on(&session, cx, |held| held.python.reset()).await?;
                Ok(match outcome {
                    Ok(()) => {
                        let text =
                            format!("[session {session} begins anew: no variables, no files]\n");
                        said::text(text, json!({ "session": session, "ok": true }))
                    }
                    Err(error) => said::failure(&session, &error),
                })
            }
            "close_session" => {
                let OfSession { session } = read(arguments)?;
                // Says why, if there is none.
                drop(self.shared.table.begin(&session)?);
                self.shared.table.forget(&session, "it was closed, as asked");
                self.close(session.clone());
                Ok(said::text(
                    format!("[session {session} is closed]\n"),
                    json!({ "session": session, "ok": true }),
                ))
            }
            "list_sessions" => {
                let Nothing {} = read(arguments)?;
                let (own, others) = self.shared.table.list(self.client);
                Ok(said::sessions(&own, others))
            }
            "variables" => {
                let OfSession { session } = read(arguments)?;
                let limits = &self.shared.limits;
                let options =
                    ExecuteOptions::new().timeout(limits.timeout).max_output(limits.max_output);
                let variables =
                    self.on(&session, cx, move |held| held.python.variables(&options)).await?;
                Ok(match variables {
                    Ok(variables) => said::variables(&session, &variables),
                    Err(error) => said::failure(&session, &error),
                })
            }
            #[cfg(all(feature = "cpython", unix))]
            "put_file" => self.put_file(read(arguments)?, cx).await,
            #[cfg(all(feature = "cpython", unix))]
            "get_file" => self.get_file(read(arguments)?, cx).await,
            #[cfg(all(feature = "cpython", unix))]
            "list_files" => self.list_files(read(arguments)?, cx).await,
            other => Err(format!("there is no tool {other:?}")),
        }
    }

    async fn run_python(&self, run: RunPython, cx: &RequestContext<RoleServer>) -> Answer {
        let RunPython { code, session, timeout } = run;
        let limits = &self.shared.limits;
        let limit = match timeout.map(Duration::try_from_secs_f64) {
            None => limits.timeout,
            Some(Ok(limit)) if !limit.is_zero() => limit.min(limits.max_timeout),
            Some(_) => {
                return Err("`timeout` has to be a number of seconds, more than 0".to_owned());
            }
        };
        let options = ExecuteOptions::new().timeout(limit);
        let options = options.max_output(limits.max_output).max_data(limits.max_data);
        let (session, is_new) = self.session(session)?;
        let progress = Progress::start(cx);
        let tell = progress.as_ref().map(Progress::teller);
        let work = move |held: &mut Held| {
            held.python.execute_with(&code, &options, &mut |piece| {
                if let Some(tell) = &tell {
                    let _ = tell.send(Output::from(piece)); // who is gone need not hear it
                }
            })
        };
        let outcome = self.on(&session, cx, work).await;
        if let Some(progress) = progress {
            progress.finish().await;
        }
        Ok(match outcome? {
            Ok(execution) => said::execution(&session, is_new, &execution),
            Err(error) => said::failure(&session, &error),
        })
    }

    /// The session that was asked for, or a new one.
    pub(super) fn session(&self, asked: Option<String>) -> Result<(String, bool), String> {
        match asked {
            Some(session) => Ok((session, false)),
            None => {
                let (session, out) = self.shared.table.open(self.client)?;
                if let Some(out) = out {
                    self.close(out);
                }
                Ok((session, true))
            }
        }
    }

    /// Has a session's instance closed, after what is queued for it.
    fn close(&self, session: String) {
        let keyed = self.shared.workers.keyed(session);
        tokio::task::spawn_blocking(move || drop(keyed.close()));
    }

    /// Does work with a session, on its worker, and waits for it. A call that is called off, or that nobody
    /// waits for any more, interrupts it.
    pub(super) async fn on<R: Send + 'static>(
        &self,
        session: &str,
        cx: &RequestContext<RoleServer>,
        work: impl FnOnce(&mut Held) -> R + Send + 'static,
    ) -> Result<R, String> {
        let _call = self.shared.table.begin(session)?;
        let keyed = self.shared.workers.keyed(session.to_owned());
        let submitted = tokio::select! {
            submitted = keyed.submit_async(work) => submitted,
            () = cx.ct.cancelled() => return Err("[called off before it began]\n".to_owned()),
        };
        let handle = submitted.map_err(|error| format!("the call was refused: {error}"))?;
        let mut stopping = Stopping(handle);
        let mut again = tokio::time::interval(AGAIN);
        let mut is_off = false;
        let outcome = loop {
            tokio::select! {
                outcome = &mut stopping.0 => break outcome,
                () = cx.ct.cancelled(), if !is_off => is_off = true,
                // Not all at once: it may not have come to the code yet, and only code is interrupted.
                _ = again.tick(), if is_off => stopping.stop(),
            }
        };
        outcome.map_err(|error| self.not_done(session, &error))
    }

    fn not_done<B>(&self, session: &str, error: &JoinError<B>) -> String {
        if let Err(gone) = self.shared.table.begin(session) {
            return gone;
        }
        if error.is_no_instance() {
            return format!("no interpreter could be had for session {session}: {error}");
        }
        if error.is_cancelled() {
            return "[called off before it began]\n".to_owned();
        }
        format!("session {session} has failed, and its variables are gone: {error}")
    }
}

/// Work that is interrupted when nobody waits for it any more.
struct Stopping<R: Send + 'static>(JoinHandle<R, sessile::workers::Work<Held, R>>);

impl<R: Send + 'static> Stopping<R> {
    fn stop(&self) {
        // With Jupyter it is a request to the gateway.
        tokio::task::block_in_place(|| self.0.interrupt());
    }
}

impl<R: Send + 'static> Drop for Stopping<R> {
    fn drop(&mut self) {
        if !self.0.is_finished() {
            self.0.interrupt();
        }
    }
}

/// The arguments of a tool; what is wrong with them, for the model.
fn read<T: DeserializeOwned>(arguments: Value) -> Result<T, String> {
    serde_json::from_value(arguments).map_err(|error| format!("the arguments are wrong: {error}"))
}

/// Counts a call that is not answered yet.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder().enable_tools();
        #[cfg(all(feature = "cpython", unix))]
        let capabilities = capabilities.enable_resources();
        let mut info = ServerConfig::new(capabilities.build());
        info.server_info = Implementation::new("sessile", env!("CARGO_PKG_VERSION"));
        info.instructions = Some(tools::instructions(self.shared.engine));
        info
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _cx: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.shared.tools.clone()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.shared.tools.iter().find(|tool| tool.name == name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let shared = &self.shared;
        shared.in_flight.fetch_add(1, Ordering::SeqCst);
        let _in_flight = InFlight(&shared.in_flight);
        if shared.is_closing.load(Ordering::SeqCst) {
            return Ok(said::error("the server is shutting down: the call was not begun").into());
        }
        if self.get_tool(&request.name).is_none() {
            let what = format!("there is no tool {:?}", request.name);
            return Err(ErrorData::invalid_params(what, None));
        }
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let answer = self.call(&request.name, arguments, &cx).await;
        Ok(answer.unwrap_or_else(said::error).into())
    }

    #[cfg(all(feature = "cpython", unix))]
    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _cx: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let templates = match self.shared.engine {
            Engine::Cpython => {
                let template = ResourceTemplate::new(super::files::TEMPLATE, "file");
                vec![template.with_description("A file of a session's directory.")]
            }
            _ => Vec::new(),
        };
        Ok(ListResourceTemplatesResult::with_all_items(templates))
    }

    #[cfg(all(feature = "cpython", unix))]
    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        cx: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let contents = self.read_file(&request.uri, &cx).await;
        contents.map_err(|what| ErrorData::resource_not_found(what, None))
    }
}
