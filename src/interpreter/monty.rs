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
//! Code that sets out to do harm can, although it reaches nothing. Time is looked at between
//! instructions, so one operation on a huge number, such as `10 ** 10 ** 8`, is not stopped. Memory
//! is bounded by the value, not in sum. And source or data nested very deep, a sum of fifty thousand
//! terms or as many lists within each other, overflows the stack of the thread, which ends the
//! process. Against that, use a process: CPython in a container, or Monty in a
//! child of your own.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use monty::MontyRepl;
use monty_types::{
    CompileOptions, ExcType, MontyException, MontyObject, PrintWriter, PrintWriterCallback,
    ResourceLimits, ResourceTracker,
};

use self::source::Source;
use super::text::{Gatherer, SHOWN, cut};
use super::{
    ErrorInfo, ExecuteOptions, Execution, Interpreter, InterpreterError, InterruptHandle,
    OutputRef, Stream, Variable,
};
use crate::{Context, Interrupt, Manager};

mod source;

/// Runs before the first cell. `repr` is bound as a default, so that a cell may use the name.
const PRELUDE: &str = "\
def __sessile_show__(value, repr=repr):
    return None if value is None else repr(value)
def __sessile_describe__(name, value, show, repr=repr, type=type, Exception=Exception):
    text = ''
    if show:
        try:
            text = repr(value)
        except Exception:
            pass
    return name, type(value).__name__, text
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
}

impl MontyManager {
    /// No time limit of its own, 256 MiB, 1000 calls deep.
    #[must_use]
    pub const fn new() -> Self {
        Self { timeout: None, max_memory: 256 << 20, max_recursion: 1000, gc_interval: None }
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

    /// Makes a session. It does no I/O and cannot fail.
    #[must_use]
    pub fn start(&self) -> Monty {
        Monty {
            repl: Some(self.repl()),
            settings: self.clone(),
            fed: Vec::new(),
            names: BTreeSet::new(),
            stop: Arc::default(),
            count: 0,
        }
    }

    fn repl(&self) -> MontyRepl {
        let limits = ResourceLimits {
            max_memory: Some(self.max_memory),
            max_recursion_depth: self.max_recursion,
            gc_interval: self.gc_interval,
            ..ResourceLimits::default()
        };
        let options = CompileOptions {
            // Messages as CPython has them, so that engines agree.
            assert_message_annotations: false.into(),
        };
        let mut repl = MontyRepl::new("cell", ResourceTracker::new(limits), options);
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

    fn create(&self, _: &Context) -> anyhow::Result<Monty> {
        Ok(self.start())
    }

    fn has_broken(&self, python: &mut Monty) -> bool {
        !python.is_alive()
    }

    fn interrupt(&self, python: &Monty) -> Option<Interrupt> {
        let handle = python.interrupt_handle();
        Some(Box::new(move || handle.interrupt()))
    }
}

/// A Python session in this process. `Send`; code runs on the thread that calls.
pub struct Monty {
    settings: MontyManager,
    /// `None`: dead.
    repl: Option<MontyRepl>,
    /// What Monty was fed after the prelude.
    fed: Vec<Fed>,
    /// All that cells may have bound.
    names: BTreeSet<String>,
    stop: Arc<AtomicBool>,
    count: u64,
}

/// How a piece that Monty was fed relates to cells as they were given to us.
struct Fed {
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

impl Interpreter for Monty {
    fn execute_with(
        &mut self,
        code: &str,
        options: &ExecuteOptions,
        on_output: &mut dyn FnMut(OutputRef<'_>),
    ) -> Result<Execution, InterpreterError> {
        let Some(repl) = &mut self.repl else {
            return Err(InterpreterError::dead());
        };
        let start = Instant::now();
        self.stop.store(false, Ordering::Relaxed);
        let limit = options.timeout.or(self.settings.timeout);
        // Counts from now on; without a limit, the last cell's must not stay.
        repl.tracker_mut().set_max_duration(limit.unwrap_or(Duration::MAX));
        let Source { text: source, inserted } = source::prepare(code, &mut self.names);
        self.fed.push(Fed { cell: self.count + 1, inserted });
        let gatherer = Gatherer::new(options.max_output, on_output);
        let mut printer = Printer { gatherer, stop: &self.stop };

        // A panic inside Monty leaves the session in an unknown state, which nobody will look at.
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            repl.feed_run(&source, Vec::new(), PrintWriter::Callback(&mut printer))
        }));
        let foreign = printer.gatherer.is_showing();
        let (outputs, mut truncated) = printer.gatherer.finish();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(panic) => {
                self.repl = None;
                if foreign {
                    panic::resume_unwind(panic);
                }
                return Err(InterpreterError::died("it panicked").with_outputs(outputs));
            }
        };

        self.count += 1;
        let timed_out = outcome.is_err() && repl.tracker().check_time().is_err();
        let (mut result, mut error) = (None, None);
        let mut bounded = |text: &str| {
            let kept = cut(text, options.max_output);
            truncated |= kept.len() < text.len();
            kept.to_owned()
        };
        match outcome {
            Ok(MontyObject::String(text)) => {
                let plain = ("text/plain".to_owned(), bounded(&text).into());
                result = Some([plain].into());
            }
            Ok(_) => {} // there was no last expression, it was `None`, or it ended in a semicolon
            Err(exception) => {
                let exception = if timed_out { interrupted() } else { exception };
                let ErrorInfo { name, value, traceback } = self.describe(&exception);
                error = Some(ErrorInfo {
                    name,
                    value: bounded(&value),
                    traceback: bounded(&traceback),
                });
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
            late: Vec::new(),
        })
    }

    fn reset(&mut self) -> Result<(), InterpreterError> {
        let Self { settings, repl, fed, names, stop: _, count } = self;
        *repl = Some(settings.repl());
        fed.clear();
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
    /// Asks for each name that cells may have bound; `None` if that took too long.
    fn list_variables(
        &mut self,
        show: bool,
        options: &ExecuteOptions,
    ) -> Result<Option<Vec<Variable>>, InterpreterError> {
        let repl = self.repl.as_mut().ok_or_else(InterpreterError::dead)?;
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
        self.fed.push(Fed { cell: self.count, inserted: None });
        self.stop.store(false, Ordering::Relaxed);
        let limit = options.timeout.or(self.settings.timeout);
        repl.tracker_mut().set_max_duration(limit.unwrap_or(Duration::MAX));
        let mut ignore = |_: OutputRef<'_>| {};
        let mut printer = Printer { gatherer: Gatherer::new(0, &mut ignore), stop: &self.stop };
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            repl.feed_run(&code, Vec::new(), PrintWriter::Callback(&mut printer))
        }));
        let Ok(outcome) = outcome else {
            self.repl = None;
            return Err(InterpreterError::died("it panicked"));
        };
        let Ok(MontyObject::List(found)) = outcome else {
            return Ok(None);
        };
        let mut room = options.max_output;
        let variables = found.into_iter().filter_map(|one| {
            let MontyObject::Tuple(fields) = one else { return None };
            let [name, kind, repr] = fields.try_into().ok()?;
            let [name, kind, repr] = [name, kind, repr].map(|field| match field {
                MontyObject::String(text) => text,
                _ => String::new(),
            });
            let repr = cut(&repr, room.min(SHOWN)).to_owned();
            room -= repr.len();
            (kind != "module").then_some(Variable { name, kind, repr })
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
            let fed = number.checked_sub(1).and_then(|i| self.fed.get(i))?;
            frame.filename = format!("<cell {}>", fed.cell);
            if let Some(inserted) = fed.inserted {
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
        let Self { settings, repl, fed: _, names: _, stop: _, count } = self;
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
        self.gatherer.text(Stream::Stdout, &output);
        Ok(())
    }

    fn stdout_push(&mut self, end: char) -> Result<(), MontyException> {
        self.gatherer.text(Stream::Stdout, end.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    /// Called by the engine every few hundred instructions.
    fn poll_flush(&mut self) -> Result<(), MontyException> {
        if self.stop.load(Ordering::Relaxed) { Err(interrupted()) } else { Ok(()) }
    }
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
