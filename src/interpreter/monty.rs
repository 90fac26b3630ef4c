//! Monty, a Python in Rust, inside this process.
//!
//! Nothing to install, a session costs microseconds, and code has no way to the world: no files,
//! network, environment or clock. In exchange the language is a subset; what is missing raises
//! `NotImplementedError`, `ModuleNotFoundError` or the like, as an ordinary
//! [`error`](super::Execution::error).
//!
//! A cell that raises keeps what it had done by then, as in any Python. Output is all standard
//! output: Monty's `print` has no `file=`.
//!
//! # What it does not bound
//!
//! Code that sets out to do harm can, although it reaches nothing but the functions it was
//! [given](MontyManager::function). Time is looked at between instructions, so one operation on a
//! huge number, such as `10 ** 10 ** 8`, is not stopped; only
//! [`max_memory`](MontyManager::max_memory) bounds how huge. Memory is bounded by the value, not in
//! sum. Source nested too deep is refused; data nested deep, as many lists within each other, stops
//! at [`max_recursion`](MontyManager::max_recursion) when shown or compared, for which a build that
//! is not optimized needs more stack than a thread commonly has: it overflows, which ends the
//! process. Against all that, use a process: CPython in a container, or Monty in a child of your
//! own.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use monty::{Dump, MontyRepl, ReplProgress, Session, SessionRef};
use monty_types::{
    CompileOptions, ExcType, ExtFunctionResult, MontyException, MontyObject, NameLookupResult,
    PrintWriter, PrintWriterCallback, ResourceLimits, ResourceTracker,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::host::HostFunctions;
use self::source::Source;
use super::text::{Gathered, Gatherer, SHOWN, cut, cut_traceback};
use super::{
    ErrorInfo, ExecuteOptions, Execution, Interpreter, InterpreterError, InterruptHandle,
    OutputRef, StdStream, Variable,
};
use crate::{CreateContext, Manager};

mod host;
pub(super) mod source;

pub use host::HostCall;

/// What Monty calls a session in its own messages; no one sees it.
const NAME: &str = "cell";
/// How a saved session begins: changed with everything in it.
const SAVED: &[u8] = b"sessile monty 1\n";
/// Runs before the first cell. `repr` is bound as a default, so that a cell may use the name.
const PRELUDE: &str = "\
def __sessile_show__(value, repr=repr):
    return None if value is None else repr(value)
def __sessile_describe__(name, value, show, repr=repr, type=type, len=len, Exception=Exception):
    text = ''
    if show:
        try:
            text = repr(value)
        except Exception:
            pass
    length = None
    try:
        if len(value) > 1000 or type(value).__name__ not in ('str', 'bytes'):
            length = len(value)
    except Exception:
        pass
    return name, type(value).__name__, text, length
";
/// The name under which Monty files the prelude; what is fed next gets the numbers from 1.
const PRELUDE_NAME: &str = "<python-input-0>";

/// Makes a Monty session for each thread, and holds the limits they share.
///
/// ```
/// use sessile::interpreter::Interpreter;
/// use sessile::interpreter::monty::MontyManager;
///
/// let mut python = MontyManager::new().max_recursion(200).start();
/// python.run("x = [n * n for n in range(4)]")?;
/// assert_eq!(python.run("sum(x)")?.text(), Some("14"));
/// # Ok::<(), sessile::interpreter::InterpreterError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MontyManager {
    timeout: Option<Duration>,
    max_memory: usize,
    max_recursion: usize,
    gc_interval: Option<usize>,
    functions: HostFunctions,
}

impl MontyManager {
    /// No time limit of its own, 256 MiB, 1000 calls deep.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            timeout: None,
            max_memory: 256 << 20,
            max_recursion: 1000,
            gc_interval: None,
            functions: HostFunctions::new(),
        }
    }

    /// The time limit of cells whose [`ExecuteOptions`] name none. It is looked at between
    /// instructions.
    ///
    /// Default: no limit.
    #[must_use]
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// How many bytes may be asked for at once, as by `'x' * n` or `2 ** n`; more is a
    /// `MemoryError` that no handler in the cell catches.
    ///
    /// Default: 256 MiB. This bounds *single* values. Many small ones are bounded only in a program
    /// whose global allocator is `monty-alloc`, armed: then the limit holds for what the whole
    /// process has allocated.
    #[must_use]
    pub const fn max_memory(mut self, bytes: usize) -> Self {
        self.max_memory = bytes;
        self
    }

    /// How deep calls may nest before `RecursionError`.
    ///
    /// Default: 1000. More needs threads with larger stacks.
    #[must_use]
    pub const fn max_recursion(mut self, depth: usize) -> Self {
        self.max_recursion = depth;
        self
    }

    /// After how many allocations cycles are looked for.
    ///
    /// Default: as Monty has it.
    #[must_use]
    pub const fn gc_interval(mut self, allocations: usize) -> Self {
        self.gc_interval = Some(allocations);
        self
    }

    /// Gives code a function of ours to call by this name, wherever no cell has bound it.
    ///
    /// It runs on the thread that runs the cell, and the cell waits for it; its time counts for the
    /// cell's limit, which is looked at when it has come back. An error becomes a `RuntimeError` in
    /// the cell. What it reaches, code in the sandbox reaches: this is the one way out of it.
    ///
    /// ```
    /// use sessile::interpreter::Interpreter;
    /// use sessile::interpreter::monty::MontyManager;
    ///
    /// let manager = MontyManager::new().function("lookup", |call| {
    ///     anyhow::ensure!(call.args == ["Ulm"], "unknown");
    ///     Ok(serde_json::json!({ "height": 161.53 }))
    /// });
    /// let execution = manager.start().run("lookup('Ulm')['height'] * 2")?;
    /// assert_eq!(execution.text(), Some("323.06"));
    /// # Ok::<(), sessile::interpreter::InterpreterError>(())
    /// ```
    ///
    /// # Panics
    ///
    /// Not here; but if `function` panics, so does [`execute`](Interpreter::execute), and the
    /// session is dead then.
    #[must_use]
    pub fn function(
        mut self,
        name: impl Into<String>,
        function: impl Fn(HostCall) -> anyhow::Result<Value> + Send + Sync + 'static,
    ) -> Self {
        self.functions.insert(name.into(), Arc::new(function));
        self
    }

    /// Makes a session of what [`save`](Monty::save) gave, with this manager's limits and
    /// functions.
    ///
    /// On any thread, in any process with the same version of this crate. Only for bytes that come
    /// from `save`: others are refused where that is noticed, and it cannot always be.
    ///
    /// # Errors
    ///
    /// The bytes are not a session of this version:
    /// [`is_start`](InterpreterError::is_start).
    pub fn restore(&self, bytes: &[u8]) -> Result<Monty, InterpreterError> {
        let unreadable = |what: &dyn fmt::Display| {
            InterpreterError::start(format!("the saved session cannot be read: {what}"), None)
        };
        let rest = bytes.strip_prefix(SAVED).ok_or_else(|| unreadable(&"it is none"))?;
        let (length, rest) = rest.split_first_chunk().ok_or_else(|| unreadable(&"it is cut"))?;
        let length = usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (head, dump) = rest.split_at_checked(length).ok_or_else(|| unreadable(&"it is cut"))?;
        let head: Head = serde_json::from_slice(head).map_err(|error| unreadable(&error))?;
        // A panic would come of bytes that are not ours.
        let loaded = panic::catch_unwind(|| Dump::load(dump));
        let loaded = loaded.map_err(|_| unreadable(&"it panicked"))?;
        let Session::Idle(mut repl) = loaded.map_err(|error| unreadable(&error))?.state else {
            return Err(unreadable(&"it is in the midst of a cell"));
        };
        *repl.tracker_mut() = self.tracker();
        let Head { pieces, names, count } = head;
        let stop = Arc::default();
        Ok(Monty { settings: self.clone(), repl: Some(*repl), pieces, names, stop, count })
    }

    /// Makes a session. It does no I/O and cannot fail.
    #[must_use]
    pub fn start(&self) -> Monty {
        Monty {
            repl: Some(self.repl()),
            settings: self.clone(),
            pieces: Vec::new(),
            names: BTreeSet::new(),
            stop: Arc::default(),
            count: 0,
        }
    }

    /// The names of the host's functions.
    #[cfg(all(feature = "cpython", unix))]
    pub(super) fn functions(&self) -> impl Iterator<Item = &str> {
        self.functions.names()
    }

    fn tracker(&self) -> ResourceTracker {
        let limits = ResourceLimits {
            max_memory: Some(self.max_memory),
            max_recursion_depth: self.max_recursion,
            gc_interval: self.gc_interval,
            ..ResourceLimits::default()
        };
        ResourceTracker::new(limits)
    }

    fn repl(&self) -> MontyRepl {
        let options = CompileOptions {
            // Messages as CPython has them, so that engines agree.
            assert_message_annotations: false.into(),
        };
        let mut repl = MontyRepl::new(NAME, self.tracker(), options);
        repl.feed_run(PRELUDE, Vec::new(), PrintWriter::Disabled)
            .expect("the prelude is valid Python that raises nothing");
        repl
    }
}

impl Default for MontyManager {
    fn default() -> Self {
        Self::new()
    }
}

/// `has_broken` is true once a fault inside Monty has cost a session its state. The interrupt ends
/// the running cell.
impl Manager for MontyManager {
    type Instance = Monty;

    fn create(&self, _: &CreateContext) -> anyhow::Result<Monty> {
        Ok(self.start())
    }

    fn has_broken(&self, python: &mut Monty) -> bool {
        !python.is_alive()
    }

    fn interrupt(&self, python: &Monty) -> Option<InterruptHandle> {
        Some(python.interrupt_handle())
    }
}

/// A Python session in this process. `Send`; code runs on the thread that calls.
pub struct Monty {
    settings: MontyManager,
    /// `None`: dead.
    repl: Option<MontyRepl>,
    /// What Monty was fed after the prelude.
    pieces: Vec<Piece>,
    /// All that cells may have bound.
    names: BTreeSet<String>,
    stop: Arc<AtomicBool>,
    count: u64,
}

/// What came of a piece that Monty was fed.
enum Fed {
    Value(MontyObject),
    Raised(MontyException),
    TimedOut,
}

/// What is saved of a session beside Monty's own state.
#[derive(Serialize, Deserialize)]
struct Head {
    pieces: Vec<Piece>,
    names: BTreeSet<String>,
    count: u64,
}

/// How a piece that Monty was fed relates to cells as they were given to us.
#[derive(Clone, Serialize, Deserialize)]
struct Piece {
    /// The cell's number.
    cell: u64,
    /// The line that was put in before its last expression.
    inserted: Option<u32>,
}

impl Monty {
    /// A session with the default limits. See [`MontyManager::start`].
    #[must_use]
    pub fn start() -> Self {
        MontyManager::new().start()
    }
}

impl Monty {
    /// The whole session as bytes, for [`restore`](MontyManager::restore); it goes on as it was.
    ///
    /// Host functions are not in it. What is takes about as much room as it does in memory.
    ///
    /// # Errors
    ///
    /// The session is dead, or holds what cannot be written down; it is as it was then.
    pub fn save(&self) -> Result<Vec<u8>, InterpreterError> {
        let repl = self.repl.as_ref().ok_or_else(InterpreterError::dead)?;
        let refused = |error: &dyn fmt::Display| InterpreterError::refused(error.to_string());
        let Self { pieces, names, count, .. } = self;
        let head = Head { pieces: pieces.clone(), names: names.clone(), count: *count };
        let head = serde_json::to_vec(&head).map_err(|error| refused(&error))?;
        let dump =
            monty::dump(NAME, None, SessionRef::Idle(repl)).map_err(|error| refused(&error))?;
        Ok([SAVED, &(head.len() as u64).to_be_bytes(), &head, &dump].concat())
    }
}

#[cfg(all(feature = "cpython", unix))]
impl Monty {
    /// What is bound at top level.
    pub(super) fn bindings(&mut self) -> Result<Vec<(String, MontyObject)>, InterpreterError> {
        let mut code = String::from("__sessile_bindings__ = []\n");
        for name in &self.names {
            let _ = write!(
                code,
                "try:\n __sessile_bindings__.append(('{name}', {name}))\nexcept NameError:\n pass\n"
            );
        }
        code.push_str("__sessile_bindings__");
        let mut ignore = |_: OutputRef<'_>| {};
        let stop = Arc::clone(&self.stop);
        let gatherer = Gatherer::new(&ExecuteOptions::new(), &mut ignore);
        let mut printer = Printer { gatherer, stop: &stop };
        let piece = Piece { cell: self.count, inserted: None };
        let outcome = self.feed(&code, piece, &ExecuteOptions::new(), &mut printer)?;
        let Fed::Value(MontyObject::List(found)) = outcome else {
            return Err(InterpreterError::refused("its variables cannot be told"));
        };
        let pairs = found.into_iter().filter_map(|one| match one {
            MontyObject::Tuple(pair) => match <[_; 2]>::try_from(pair).ok()? {
                [MontyObject::String(name), value] => Some((name, value)),
                _ => None,
            },
            _ => None,
        });
        Ok(pairs.collect())
    }
}

impl Interpreter for Monty {
    fn execute_with(
        &mut self,
        code: &str,
        options: &ExecuteOptions,
        on_output: &mut dyn FnMut(OutputRef<'_>),
    ) -> Result<Execution, InterpreterError> {
        let start = Instant::now();
        let gatherer = Gatherer::new(options, on_output);
        let stop = Arc::clone(&self.stop);
        let mut printer = Printer { gatherer, stop: &stop };
        let outcome = if source::is_too_deep(code) {
            self.repl.as_ref().ok_or_else(InterpreterError::dead)?;
            let what = "the source is nested too deep".to_owned();
            Ok(Fed::Raised(MontyException::new(ExcType::SyntaxError, Some(what))))
        } else {
            let Source { text, inserted } = source::prepare(code, &mut self.names);
            self.feed(&text, Piece { cell: self.count + 1, inserted }, options, &mut printer)
        };
        let Gathered { outputs, cut: gap, omitted } = printer.gatherer.finish();
        let mut truncated = gap.is_some();
        let outcome = outcome.map_err(|error| error.with_outputs(outputs.clone()))?;
        self.count += 1;
        let timed_out = matches!(outcome, Fed::TimedOut);
        let (mut result, mut error) = (None, None);
        let mut bounded = |text: &str| {
            let kept = cut(text, options.max_output);
            truncated |= kept.len() < text.len();
            kept.to_owned()
        };
        match outcome {
            Fed::Value(MontyObject::String(text)) => {
                let plain = ("text/plain".to_owned(), bounded(&text).into());
                result = Some([plain].into());
            }
            Fed::Value(_) => {} // there was no last expression, it was `None`, or it ended in a semicolon
            Fed::TimedOut | Fed::Raised(_) => {
                let exception = match outcome {
                    Fed::Raised(exception) => exception,
                    _ => interrupted(),
                };
                let ErrorInfo { name, value, traceback } = self.describe(&exception);
                let traceback = cut_traceback(&traceback, options.max_output).into_owned();
                error = Some(ErrorInfo { name, value: bounded(&value), traceback });
            }
        }
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(Execution {
            outputs,
            result,
            error,
            duration: Duration::from_micros(micros), // what a round trip through JSON keeps
            execution_count: self.count,
            timed_out,
            truncated,
            cut: gap,
            omitted,
            late: Vec::new(),
        })
    }

    fn reset(&mut self) -> Result<(), InterpreterError> {
        let Self { settings, repl, pieces, names, stop: _, count } = self;
        *repl = Some(settings.repl());
        pieces.clear();
        names.clear();
        *count = 0;
        Ok(())
    }

    fn is_alive(&self) -> bool {
        self.repl.is_some()
    }

    /// Does not wait. Ends the running cell with a `KeyboardInterrupt` that it cannot catch.
    fn interrupt_handle(&self) -> InterruptHandle {
        let stop = Arc::clone(&self.stop);
        InterruptHandle::new(move || stop.store(true, Ordering::Relaxed))
    }

    fn variables(&mut self, options: &ExecuteOptions) -> Result<Vec<Variable>, InterpreterError> {
        // Where the time does not suffice for any more, none is shown.
        for show in [true, false] {
            if let Some(variables) = self.list_variables(show, options)? {
                return Ok(variables);
            }
        }
        Ok(Vec::new())
    }
}

impl Monty {
    /// Feeds Monty a piece of code, and answers what it asks of the host meanwhile.
    fn feed(
        &mut self,
        code: &str,
        piece: Piece,
        options: &ExecuteOptions,
        printer: &mut Printer<'_>,
    ) -> Result<Fed, InterpreterError> {
        // If anything panics from here on, the session is in a state that nobody shall look at.
        let mut repl = self.repl.take().ok_or_else(InterpreterError::dead)?;
        self.stop.store(false, Ordering::Relaxed);
        let limit = options.timeout.or(self.settings.timeout);
        // Counts from now on; without a limit, the last cell's must not stay.
        repl.tracker_mut().set_max_duration(limit.unwrap_or(Duration::MAX));
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let functions = &self.settings.functions;
        self.pieces.push(piece);
        let mut late = false;
        let (repl, result) = if functions.is_empty() {
            let result = guarded(printer, |print| repl.feed_run(code, Vec::new(), print))?;
            (repl, result)
        } else {
            let mut step = guarded(printer, |print| repl.feed_start(code, Vec::new(), print))?;
            loop {
                step = match step {
                    Ok(ReplProgress::Complete { repl, value }) => break (repl, Ok(value)),
                    Err(failed) => break (failed.repl, Err(failed.error)),
                    Ok(ReplProgress::NameLookup(lookup)) => {
                        let (name, docstring) = (lookup.name.clone(), None);
                        let known = lookup.object_id().is_none() && functions.contains(&name);
                        let answer = if known {
                            MontyObject::Function { name, docstring }.into()
                        } else {
                            NameLookupResult::Undefined
                        };
                        guarded(printer, |print| lookup.resume(answer, print))?
                    }
                    Ok(ReplProgress::FunctionCall(mut call)) => {
                        let (args, kwargs) =
                            (mem::take(&mut call.args), mem::take(&mut call.kwargs));
                        let answer = functions.call(&call.function_name, args, kwargs);
                        late = deadline.is_some_and(|deadline| deadline <= Instant::now());
                        if late || self.stop.load(Ordering::Relaxed) {
                            guarded(printer, |print| call.abort(interrupted(), print))?
                        } else {
                            guarded(printer, |print| call.resume(answer, print))?
                        }
                    }
                    Ok(ReplProgress::OsCall(call)) => {
                        let error = ExtFunctionResult::Error(out_of_reach());
                        guarded(printer, |print| call.resume(error, print))?
                    }
                    Ok(ReplProgress::ResolveFutures(futures)) => {
                        guarded(printer, |print| futures.abort(out_of_reach(), print))?
                    }
                };
            }
        };
        let late = late || result.is_err() && repl.tracker().check_time().is_err();
        self.repl = Some(repl);
        Ok(match result {
            Ok(value) => Fed::Value(value),
            Err(_) if late => Fed::TimedOut,
            Err(exception) => Fed::Raised(exception),
        })
    }

    /// Asks for each name that cells may have bound; `None` if that took too long.
    fn list_variables(
        &mut self,
        show: bool,
        options: &ExecuteOptions,
    ) -> Result<Option<Vec<Variable>>, InterpreterError> {
        let show = if show { "True" } else { "False" };
        let mut code = String::from("__sessile_variables__ = []\n");
        for name in self.names.iter().filter(|name| !name.starts_with('_')) {
            let _ = write!(
                code,
                "try:\n __sessile_variables__.append(__sessile_describe__('{name}', {name}, {show}))\n\
                 except NameError:\n pass\n"
            );
        }
        code.push_str("__sessile_variables__");
        let mut ignore = |_: OutputRef<'_>| {};
        let stop = Arc::clone(&self.stop);
        let mut printer =
            Printer { gatherer: Gatherer::new(&options.max_output(0), &mut ignore), stop: &stop };
        let piece = Piece { cell: self.count, inserted: None };
        let outcome = self.feed(&code, piece, options, &mut printer)?;
        let Fed::Value(MontyObject::List(found)) = outcome else {
            return Ok(None);
        };
        let mut room = options.max_output;
        let variables = found.into_iter().filter_map(|one| {
            let MontyObject::Tuple(fields) = one else { return None };
            let [name, kind, repr, length] = fields.try_into().ok()?;
            let length = match length {
                MontyObject::Int(length) => u64::try_from(length).ok(),
                _ => None,
            };
            let [name, kind, repr] = [name, kind, repr].map(|field| match field {
                MontyObject::String(text) => text,
                _ => String::new(),
            });
            let repr = cut(&repr, room.min(SHOWN)).to_owned();
            room -= repr.len();
            (kind != "module").then_some(Variable { name, kind, repr, length, shape: None })
        });
        Ok(Some(variables.collect()))
    }

    /// The exception with the names and lines of the cells as they were given to us.
    fn describe(&self, exception: &MontyException) -> ErrorInfo {
        let frames = exception.traceback().iter().filter_map(|frame| {
            let Some(number) = fed_number(&frame.filename) else {
                return Some(frame.clone());
            };
            if frame.filename == PRELUDE_NAME {
                return None;
            }
            let mut frame = frame.clone();
            let piece = number.checked_sub(1).and_then(|i| self.pieces.get(i))?;
            frame.filename = format!("<cell {}>", piece.cell);
            if let Some(inserted) = piece.inserted {
                if frame.start.line == inserted && frame.end.line > inserted {
                    return None; // the call that shows the value
                }
                for place in [&mut frame.start, &mut frame.end] {
                    place.line -= u32::from(place.line > inserted);
                }
            }
            Some(frame)
        });
        let kind = exception.exc_type();
        let shown = MontyException::with_traceback(
            kind,
            exception.message().map(str::to_owned),
            frames.collect(),
        );
        ErrorInfo {
            name: kind.to_string(),
            value: exception.message().unwrap_or_default().to_owned(),
            traceback: shown.to_string(),
        }
    }
}

impl fmt::Debug for Monty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, repl, pieces: _, names: _, stop: _, count } = self;
        f.debug_struct("Monty")
            .field("settings", settings)
            .field("alive", &repl.is_some())
            .field("cells", count)
            .finish()
    }
}

/// Takes what a cell prints, and tells the engine when to stop.
struct Printer<'a> {
    gatherer: Gatherer<'a>,
    stop: &'a AtomicBool,
}

impl PrintWriterCallback for Printer<'_> {
    fn stdout_write(&mut self, output: Cow<'_, str>) -> Result<(), MontyException> {
        self.gatherer.text(StdStream::Stdout, &output);
        Ok(())
    }

    fn stdout_push(&mut self, end: char) -> Result<(), MontyException> {
        self.gatherer.text(StdStream::Stdout, end.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    /// Called by the engine every few hundred instructions.
    fn poll_flush(&mut self) -> Result<(), MontyException> {
        if self.stop.load(Ordering::Relaxed) { Err(interrupted()) } else { Ok(()) }
    }
}

/// Runs Monty. Its own panic is the engine's death; one of `on_output` goes on to the caller.
fn guarded<R>(
    printer: &mut Printer<'_>,
    run: impl FnOnce(PrintWriter<'_>) -> R,
) -> Result<R, InterpreterError> {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| run(PrintWriter::Callback(printer))));
    outcome.map_err(|panic| {
        if printer.gatherer.is_showing() {
            panic::resume_unwind(panic);
        }
        InterpreterError::died("it panicked")
    })
}

fn out_of_reach() -> MontyException {
    let what = "files, the system and what has to be waited for are out of reach".to_owned();
    MontyException::new(ExcType::NotImplementedError, Some(what))
}

fn interrupted() -> MontyException {
    MontyException::new(ExcType::KeyboardInterrupt, None)
}

fn fed_number(filename: &str) -> Option<usize> {
    filename.strip_prefix("<python-input-")?.strip_suffix('>')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_may_change_threads() {
        fn send<T: Send>() {}
        send::<Monty>();
    }
}
