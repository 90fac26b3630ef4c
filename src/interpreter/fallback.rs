//! Monty first, and CPython for what Monty lacks: one conversation, over both.
//!
//! A session begins in [Monty](super::monty), which costs microseconds. When a cell ends in an error
//! that tells of something Monty lacks (a package, inheritance, `yield`, `del`, a builtin), what the
//! cell did is undone, what earlier cells have left is taken to a [CPython](super::cpython), and the cell runs
//! there, as do all after it. A [`reset`](Interpreter::reset) begins in Monty again.
//!
//! # What is taken along
//!
//! Values that can be written down in Python: `None`, booleans, numbers, strings, bytes, and lists,
//! tuples, dicts and sets of those. They are copied: two names of one list are two lists then. And
//! what `import`, `def` and `class` at top level have bound, by running those again; not if a
//! decorator, or a default or a class variable that is no constant, had a say in it.
//!
//! If there is something else, such as an instance of a class, the session stays in Monty. The cell's
//! error is Monty's then, and names what could not be taken along.
//!
//! # What differs from Monty alone
//!
//! Output of a cell that runs in Monty is shown when the cell has ended, for until then it is not
//! known whether it counts. A cell that catches `ImportError` and the like by itself goes on in
//! Monty. Functions of the host's cannot be taken along: a manager with such never leaves Monty.
//!
//! Which engine runs it is the *code's* choice: it takes one import to be in CPython. So whatever is to
//! hold back code that nobody has read must hold for the CPython too, such as `CPythonManager::confine`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use self::taken::Definitions;
use super::cpython::{CPython, CPythonManager};
use super::monty::{Monty, MontyManager};
use super::{
    ErrorInfo, ExecuteOptions, Execution, Interpreter, InterpreterError, InterruptHandle,
    OutputRef, Variable,
};
use crate::manager::CloseReason;
use crate::{CreateContext, Manager};

mod taken;

/// Makes sessions that begin in Monty, and holds the settings of both engines.
///
/// ```no_run
/// use sessile::interpreter::Interpreter;
/// use sessile::interpreter::cpython::CPythonManager;
/// use sessile::interpreter::fallback::FallbackManager;
/// use sessile::interpreter::monty::MontyManager;
///
/// let mut python = FallbackManager::new(MontyManager::new(), CPythonManager::new()).start();
/// python.run("numbers = [3, 1, 2]")?; // in Monty
/// let execution = python.run("import statistics\nstatistics.median(numbers)")?; // Monty has it not
/// assert_eq!(execution.text(), Some("2"));
/// assert!(python.has_fallen_back());
/// # Ok::<(), sessile::interpreter::InterpreterError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct FallbackManager {
    monty: MontyManager,
    cpython: CPythonManager,
}

impl FallbackManager {
    /// Makes one of the managers of the two engines. Their time limits hold each for its own.
    ///
    /// With [spares](CPythonManager::spares) nobody waits for a CPython to start.
    #[must_use]
    pub fn new(monty: MontyManager, cpython: CPythonManager) -> Self {
        Self { monty, cpython }
    }

    /// Begins a session in Monty. It does no I/O and cannot fail.
    #[must_use]
    pub fn start(&self) -> Fallback {
        let engine = self.monty();
        let handle = Arc::new(Mutex::new(engine.get().interrupt_handle()));
        Fallback { manager: self.clone(), engine, handle }
    }

    fn monty(&self) -> Engine {
        Engine::Monty(Box::new(self.monty.start()), Definitions::default())
    }
}

/// `has_broken` is true once the engine that the session is in has lost its state; `close` ends the CPython,
/// if there is one, as [`CPythonManager`] does.
impl Manager for FallbackManager {
    type Instance = Fallback;

    fn create(&self, _: &CreateContext) -> anyhow::Result<Fallback> {
        Ok(self.start())
    }

    fn has_broken(&self, python: &mut Fallback) -> bool {
        match &mut python.engine {
            Engine::Monty(monty, _) => self.monty.has_broken(monty),
            Engine::CPython(cpython) => self.cpython.has_broken(cpython),
        }
    }

    fn interrupt(&self, python: &Fallback) -> Option<InterruptHandle> {
        Some(python.interrupt_handle())
    }

    fn describe(&self, python: &Fallback) -> Option<String> {
        match &python.engine {
            Engine::Monty(..) => Some("Monty".to_owned()),
            Engine::CPython(cpython) => self.cpython.describe(cpython),
        }
    }

    fn close(&self, python: Fallback, reason: CloseReason) -> anyhow::Result<()> {
        match python.engine {
            Engine::Monty(..) => Ok(()),
            Engine::CPython(cpython) => self.cpython.close(*cpython, reason),
        }
    }
}

/// A Python session that begins in Monty, and goes on in CPython when it has to.
///
/// `Send`; once it is in CPython it is bound to the thread that ran the cell, as a [`CPython`] is.
pub struct Fallback {
    manager: FallbackManager,
    engine: Engine,
    /// That of the engine the session is in.
    handle: Arc<Mutex<InterruptHandle>>,
}

enum Engine {
    Monty(Box<Monty>, Definitions),
    CPython(Box<CPython>),
}

impl Engine {
    fn get(&self) -> &dyn Interpreter {
        match self {
            Self::Monty(monty, _) => &**monty,
            Self::CPython(cpython) => &**cpython,
        }
    }

    fn get_mut(&mut self) -> &mut dyn Interpreter {
        match self {
            Self::Monty(monty, _) => &mut **monty,
            Self::CPython(cpython) => &mut **cpython,
        }
    }
}

impl Fallback {
    /// Whether it is in CPython by now.
    ///
    /// ```
    /// use sessile::interpreter::fallback::FallbackManager;
    ///
    /// assert!(!FallbackManager::default().start().has_fallen_back());
    /// ```
    #[must_use]
    pub fn has_fallen_back(&self) -> bool {
        matches!(self.engine, Engine::CPython(_))
    }

    fn enter(&mut self, engine: Engine) {
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) =
            engine.get().interrupt_handle();
        self.engine = engine;
    }

    /// Puts back what is known of a session that stays in Monty, after a cell that failed.
    fn learned(&mut self, known: Definitions, code: &str) {
        if let Engine::Monty(_, definitions) = &mut self.engine {
            *definitions = known;
            definitions.learn(code, false);
        }
    }

    /// A CPython with what that session in Monty has left, or why there is none.
    fn moved(
        &self,
        saved: Option<Vec<u8>>,
        definitions: &Definitions,
        cells: u64,
    ) -> Result<CPython, String> {
        let FallbackManager { monty, cpython } = &self.manager;
        let functions: Vec<_> = monty.functions().collect();
        if !functions.is_empty() {
            return Err(lost(&functions));
        }
        let saved = saved.ok_or("its state cannot be saved")?;
        let before = monty.restore(&saved).and_then(|mut before| before.bindings());
        let bindings = before.map_err(|error| error.to_string())?;
        let code = definitions.code(&bindings).map_err(|names| lost(&names))?;
        let mut python = cpython.start().map_err(|error| error.to_string())?;
        if cells > 0 {
            // Under the last cell's number: what it defines was defined by then.
            python.count_from(cells - 1);
            let execution = python.run(&code).map_err(|error| error.to_string())?;
            if let Some(ErrorInfo { name, value, .. }) = execution.error {
                return Err(format!("what it has defined fails in CPython: {name}: {value}"));
            }
        }
        Ok(python)
    }
}

fn lost(names: &[impl fmt::Display]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    format!("it cannot be taken along: {}", names.join(", "))
}

impl Interpreter for Fallback {
    /// As the [module](self) says. The time limit holds for both runs of a cell together; what a
    /// CPython takes to start does not count.
    fn execute_with(
        &mut self,
        code: &str,
        options: &ExecuteOptions,
        on_output: &mut dyn FnMut(OutputRef<'_>),
    ) -> Result<Execution, InterpreterError> {
        let Engine::Monty(monty, definitions) = &mut self.engine else {
            return self.engine.get_mut().execute_with(code, options, on_output);
        };
        let saved = monty.save().ok();
        let mut execution = monty.execute(code, options)?;
        let lacks = execution.error.as_ref().is_some_and(|error| lacks(error, code));
        if lacks {
            let definitions = std::mem::take(definitions);
            match self.moved(saved, &definitions, execution.execution_count - 1) {
                Ok(python) => {
                    self.enter(Engine::CPython(Box::new(python)));
                    let left =
                        options.timeout.map(|limit| limit.saturating_sub(execution.duration));
                    let options = ExecuteOptions { timeout: left, ..*options };
                    return self.engine.get_mut().execute_with(code, &options, on_output);
                }
                Err(why) => {
                    if let Some(error) = &mut execution.error {
                        let note = format!("(CPython could not go on with this session: {why})");
                        for text in [&mut error.value, &mut error.traceback] {
                            *text = format!("{text} {note}");
                        }
                    }
                    self.learned(definitions, code);
                }
            }
        } else {
            definitions.learn(code, execution.is_ok());
        }
        for output in &execution.outputs {
            on_output(output.into());
        }
        Ok(execution)
    }

    /// Begins in Monty again. A CPython ends as by its manager's `close`.
    fn reset(&mut self) -> Result<(), InterpreterError> {
        let monty = self.manager.monty();
        let Engine::CPython(old) = std::mem::replace(&mut self.engine, monty) else {
            return Ok(());
        };
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) =
            self.engine.get().interrupt_handle();
        // How it ends is no matter: it is gone then.
        let _ = self.manager.cpython.close(*old, CloseReason::Discarded);
        Ok(())
    }

    fn is_alive(&self) -> bool {
        self.engine.get().is_alive()
    }

    fn interrupt_handle(&self) -> InterruptHandle {
        let handle = Arc::clone(&self.handle);
        InterruptHandle::new(move || {
            let engine = handle.lock().unwrap_or_else(PoisonError::into_inner).clone();
            engine.interrupt();
        })
    }

    fn variables(&mut self, options: &ExecuteOptions) -> Result<Vec<Variable>, InterpreterError> {
        self.engine.get_mut().variables(options)
    }
}

impl fmt::Debug for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Fallback");
        match &self.engine {
            Engine::Monty(monty, _) => shown.field("engine", monty).finish(),
            Engine::CPython(cpython) => shown.field("engine", cpython).finish(),
        }
    }
}

/// Whether an error may be one of Monty's own, which another Python would not raise.
///
/// Where the cell is wrong in any Python, it is so in CPython too, and nothing is lost but time.
fn lacks(ErrorInfo { name, value, .. }: &ErrorInfo, code: &str) -> bool {
    match &**name {
        "NotImplementedError"
        | "ModuleNotFoundError"
        | "ImportError"
        | "AttributeError"
        | "TypeError" => true,
        "NameError" => {
            let name = value.split('\'').nth(1).unwrap_or_default();
            BUILTINS.split_whitespace().any(|builtin| builtin == name)
        }
        // A magic of IPython's is no Python.
        "SyntaxError" => code.lines().any(|line| {
            let right = line.split_once('=').map_or("", |(_, right)| right);
            let starts = |text: &str| text.trim_start().starts_with(['%', '!', '?']);
            starts(line) || starts(right) || line.trim_end().ends_with('?')
        }),
        _ => false,
    }
}

/// What a cell finds without binding it, in CPython as this crate runs it.
const BUILTINS: &str = "\
__import__ __name__ _ __ ___ abs aiter all anext any ascii bin bool breakpoint bytearray bytes callable \
chr classmethod compile complex delattr dict dir display divmod enumerate eval exec exit filter float \
format frozenset getattr globals hasattr hash help hex id input int isinstance issubclass iter len list \
locals map max memoryview min next object oct open ord pow print property quit range repr reversed round \
set setattr slice sorted staticmethod str sum super tuple type vars zip \
ArithmeticError AssertionError AttributeError BaseException BaseExceptionGroup BlockingIOError \
BrokenPipeError BufferError BytesWarning ChildProcessError ConnectionAbortedError ConnectionError \
ConnectionRefusedError ConnectionResetError DeprecationWarning EOFError Ellipsis EnvironmentError \
Exception ExceptionGroup FileExistsError FileNotFoundError FloatingPointError FutureWarning \
GeneratorExit IOError ImportError ImportWarning IndentationError IndexError InterruptedError \
IsADirectoryError KeyError KeyboardInterrupt LookupError MemoryError ModuleNotFoundError NameError \
NotADirectoryError NotImplemented NotImplementedError OSError OverflowError PermissionError \
ProcessLookupError RecursionError ReferenceError ResourceWarning RuntimeError RuntimeWarning \
StopAsyncIteration StopIteration SyntaxError SyntaxWarning SystemError SystemExit TabError TimeoutError \
TypeError UnboundLocalError UnicodeDecodeError UnicodeEncodeError UnicodeError UserWarning ValueError \
Warning ZeroDivisionError";
