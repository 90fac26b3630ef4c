//! CPython, as a child process.
//!
//! Each [`CPython`] is one `python3` with a small driver in it. The two speak over a private socket
//! pair, away from the descriptors that code can reach as 0, 1 and 2: code may print, read its
//! standard input (which is empty), close what it likes, write to the descriptors, start processes
//! and threads; none of it disturbs the protocol.
//!
//! # What a cell may rely on
//!
//! The session is a real `__main__`. As in a notebook, the last expression is the result, unless a
//! semicolon follows it; `await` is allowed at top level; `sys.exit()` ends the cell, not the
//! session; `display(value)` shows a value on the way; the value's `_repr_html_`, `_repr_png_` and
//! their like are asked. `input()` and `getpass()` are refused with `StdinNotImplementedError`. Each
//! cell begins with working standard streams, also if the last one closed them.
//!
//! # Whose output it is
//!
//! Order is kept between all that Python code prints and what child processes and C code write to
//! the descriptors; only two descriptors written one after the other, with nothing printed between,
//! may come in either order. A cell's output is complete when the cell ends. What its threads and child
//! processes write later never gets into a later cell's output: it is reported beside it, under the
//! cell it belongs to, as [`late`](super::Execution::late). Two kinds of thread cannot be told apart
//! and count for the cell that is running: those that C code started, and those that write to the
//! *descriptor* (`os.write(1, ..)`) rather than to `sys.stdout`.
//!
//! # When it ends
//!
//! [`CPythonManager`]'s `close` gives the child the end of its input, so that it runs its `atexit`
//! functions, waits, and kills it if need be. Dropping a [`CPython`] kills it at once. Either way it
//! is reaped, and what it had started in its session ends with it.
//!
//! On Linux the child also ends, by SIGKILL, with the *thread* that started it, whatever the way
//! that thread ends. That is what per-thread ownership means; it also means that a `CPython` moved
//! to another thread dies with the first. [`reset`](super::Interpreter::reset) starts a new child
//! from the calling thread. Elsewhere the child ends when it reads the end of its input.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::process::{Child, Target};
use super::{
    ExecuteOptions, Execution, Interpreter, InterpreterError, InterruptHandle, OutputRef, Variable,
};
use crate::{CloseReason, Context, Interrupt, Manager};

mod process;

/// Starts a CPython for each thread, and holds the settings they share.
///
/// ```no_run
/// use std::time::Duration;
/// use sessile::interpreter::Interpreter;
/// use sessile::interpreter::cpython::CPythonManager;
///
/// let mut python = CPythonManager::new().grace(Duration::from_millis(500)).start()?;
/// assert_eq!(python.run("1 + 1")?.text(), Some("2"));
/// # Ok::<(), sessile::interpreter::InterpreterError>(())
/// ```
#[derive(Clone, Debug)]
pub struct CPythonManager {
    python: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    current_dir: Option<PathBuf>,
    start_timeout: Duration,
    grace: Duration,
    close_timeout: Duration,
}

impl CPythonManager {
    /// `python3`, as found on `PATH`, with this process's environment and working directory.
    #[must_use]
    pub fn new() -> Self {
        Self {
            python: "python3".into(),
            args: Vec::new(),
            env: Vec::new(),
            current_dir: None,
            start_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(1),
            close_timeout: Duration::from_secs(1),
        }
    }

    /// Which Python to run: a path, or a name to find on `PATH`.
    ///
    /// Default: `python3`. Python 3.9 or newer is needed; anything else fails at the start.
    #[must_use]
    pub fn python(mut self, program: impl Into<PathBuf>) -> Self {
        self.python = program.into();
        self
    }

    /// Adds an option for Python itself, such as `-I`.
    ///
    /// Default: none.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets an environment variable of the child.
    ///
    /// Default: the child has this process's environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Where the child starts.
    ///
    /// Default: this process's working directory.
    #[must_use]
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(dir.into());
        self
    }

    /// How long the child may take until it is ready for its first cell.
    ///
    /// Default: 30 s. After that it is killed, and the start fails.
    #[must_use]
    pub fn start_timeout(mut self, time: Duration) -> Self {
        self.start_timeout = time;
        self
    }

    /// How long an interrupted cell may take to stop before the child is killed.
    ///
    /// Default: 1 s. The total time of a cell is bounded by its limit and this.
    #[must_use]
    pub fn grace(mut self, time: Duration) -> Self {
        self.grace = time;
        self
    }

    /// How long the child may take to exit by itself when it is closed, before it is killed.
    ///
    /// Default: 1 s.
    #[must_use]
    pub fn close_timeout(mut self, time: Duration) -> Self {
        self.close_timeout = time;
        self
    }

    /// Starts a CPython that belongs to the calling thread, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// The program cannot be run, ended at once, or was not ready in time:
    /// [`is_start`](InterpreterError::is_start).
    pub fn start(&self) -> Result<CPython, InterpreterError> {
        let (child, version) = Child::start(self)?;
        Ok(CPython {
            settings: self.clone(),
            target: Arc::new(Mutex::new(child.target())),
            child: Some(child),
            version,
            count: 0,
        })
    }
}

impl Default for CPythonManager {
    fn default() -> Self {
        Self::new()
    }
}

/// `create` starts a child, `close` ends it as the [module](self) says, `has_broken` is true once
/// the child is known to be dead, and the interrupt sends it SIGINT.
impl Manager for CPythonManager {
    type Instance = CPython;

    fn create(&self, _: &Context) -> anyhow::Result<CPython> {
        Ok(self.start()?)
    }

    fn has_broken(&self, python: &mut CPython) -> bool {
        python.child.is_none()
    }

    fn is_valid(&self, python: &mut CPython) -> anyhow::Result<()> {
        anyhow::ensure!(python.is_alive(), "the interpreter has exited");
        Ok(())
    }

    fn interrupt(&self, python: &CPython) -> Option<Interrupt> {
        let handle = python.interrupt_handle();
        Some(Box::new(move || handle.interrupt()))
    }

    fn close(&self, mut python: CPython, _: CloseReason) -> anyhow::Result<()> {
        if let Some(child) = python.child.take() {
            let ending = child.close(self.close_timeout);
            anyhow::ensure!(ending.on_its_own, "{ending}");
        }
        Ok(())
    }
}

/// A Python session in a child process of its own.
///
/// `Send`, but bound to the thread that started it: see the [module](self). Dropping it kills the
/// child and reaps it.
pub struct CPython {
    settings: CPythonManager,
    /// `None`: dead.
    child: Option<Child>,
    /// The child that interrupts go to; a reset replaces it.
    target: Arc<Mutex<Arc<Target>>>,
    version: String,
    count: u64,
}

impl CPython {
    /// Starts one with the default settings. See [`CPythonManager::start`].
    ///
    /// # Errors
    ///
    /// As [`CPythonManager::start`].
    pub fn start() -> Result<Self, InterpreterError> {
        CPythonManager::new().start()
    }

    /// The version of the child's Python, such as `3.11.7`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Takes the child away from `self` while it works, so that a panic amid that ends it.
    fn with_child<R>(
        &mut self,
        work: impl FnOnce(&mut Child, &CPythonManager, u64) -> Result<R, InterpreterError>,
    ) -> Result<R, InterpreterError> {
        let mut child = self.child.take().ok_or_else(InterpreterError::dead)?;
        let outcome = work(&mut child, &self.settings, self.count);
        if !outcome.as_ref().is_err_and(InterpreterError::is_dead) {
            self.child = Some(child);
        }
        outcome
    }
}

impl Interpreter for CPython {
    fn execute_with(
        &mut self,
        code: &str,
        options: &ExecuteOptions,
        on_output: &mut dyn FnMut(OutputRef<'_>),
    ) -> Result<Execution, InterpreterError> {
        let execution = self.with_child(|child, settings, count| {
            child.run(count + 1, code, options, settings.grace, on_output)
        })?;
        self.count += 1;
        Ok(execution)
    }

    /// Ends the child as `close` does, and starts another, which belongs to the calling thread.
    fn reset(&mut self) -> Result<(), InterpreterError> {
        if let Some(child) = self.child.take() {
            child.close(self.settings.close_timeout);
        }
        let (child, version) = Child::start(&self.settings)?;
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = child.target();
        self.child = Some(child);
        self.version = version;
        self.count = 0;
        Ok(())
    }

    fn is_alive(&self) -> bool {
        self.child.as_ref().is_some_and(|child| !child.has_exited())
    }

    /// Once the child is reaped the handle does nothing, until a reset has started another: no
    /// other process that may have got its number is ever signalled.
    fn interrupt_handle(&self) -> InterruptHandle {
        let target = Arc::clone(&self.target);
        InterruptHandle::new(move || {
            target.lock().unwrap_or_else(PoisonError::into_inner).interrupt();
        })
    }

    fn variables(&mut self, options: &ExecuteOptions) -> Result<Vec<Variable>, InterpreterError> {
        self.with_child(|child, settings, _| child.variables(options, settings.grace))
    }
}

impl fmt::Debug for CPython {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, child, target: _, version, count } = self;
        f.debug_struct("CPython")
            .field("python", &settings.python)
            .field("version", version)
            .field("alive", &child.is_some())
            .field("cells", count)
            .finish()
    }
}
