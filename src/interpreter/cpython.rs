//! CPython, as a child process.
//!
//! Each [`CPython`] is one `python3` with a small driver in it. The two speak over pipes of their
//! own, away from the descriptors that code can reach as 0, 1 and 2: code may print, read its
//! standard input (which is empty), close what it likes, write to the descriptors, start processes
//! and threads; none of it disturbs the protocol.
//!
//! # What a cell may rely on
//!
//! The session is a real `__main__`. As in a notebook, the last expression is the result, unless a
//! semicolon follows it; `await` is allowed at top level; `sys.exit()` ends the cell, not the
//! session; `display(value)` shows a value on the way; the value's `_repr_html_`, `_repr_png_` and
//! their like are asked. matplotlib's figures are shown as PNG, at `show()` or when the cell ends,
//! unless `MPLBACKEND` or the cell names another backend. `_` is the last value shown. `input()`
//! and `getpass()` are refused with `StdinNotImplementedError`. Each cell begins with working
//! standard streams, also if the last one closed them.
//!
//! A task made by `asyncio.create_task` runs while a cell awaits, and between cells. One that does not
//! give way is interrupted when a cell has waited for it for a second; it is told beside that cell, as
//! [late](super::Execution::late). An interrupt is for the cell that ran when it was sent, and for no
//! other. What lies in the
//! working directory, or anywhere on the path of cells, is imported by cells only, never by what runs
//! them.
//!
//! # Magics
//!
//! The commonest of IPython's are there, without IPython; [`magics`](CPythonManager::magics) switches
//! them off. They may stand inside blocks. `{expression}` and `$name` in a command stand for values.
//!
//! | written | does |
//! |---|---|
//! | `!command`, `x = !command`, `!!command` | runs it in a shell; the second and third give its lines |
//! | `%pip ..` | runs the `pip` of this Python |
//! | `%cd`, `%pwd`, `%env`, `%set_env`; `%ls`, `%cat`, `%mkdir`, `%cp`, `%mv`, `%rm` | as in a shell, but `%cd` and `%env` hold for the session |
//! | `%time`, `%%time`, `%timeit`, `%%timeit` | say how long something takes |
//! | `%%bash`, `%%sh` | run the cell as a script |
//! | `%%writefile [-a] path` | writes the cell to a file |
//! | `%%capture [name]` | keeps what the cell prints |
//! | `%%html`, `%%markdown`, `%%latex` | show the cell as that |
//! | `%matplotlib inline`, `%config InlineBackend..` | do nothing: figures are shown anyway |
//! | `object?`, `object??` | tell what it is; its source |
//!
//! Any other raises `UsageError`, which says what to write in its place.
//!
//! # Whose output it is
//!
//! Order is kept between all that Python code prints and what child processes and C code write to
//! the descriptors; only two descriptors written one after the other, with nothing printed between,
//! may come in either order. A cell's output is complete when the cell ends. What its threads,
//! tasks and child processes write later never gets into a later cell's output: it is reported beside it,
//! under the cell it belongs to, as [`late`](super::Execution::late). Not all can be told
//! apart; these count for the cell that is running: threads and processes that C code started
//! without Python's knowing, and threads that write to the *descriptor* (`os.write(1, ..)`) rather
//! than to `sys.stdout`.
//!
//! # When it ends
//!
//! [`CPythonManager`]'s `close` asks the child to end, so that it runs its `atexit` functions,
//! waits, and kills it if need be. Dropping a [`CPython`] kills it at once. Either way
//! it is reaped, and what it had started ends with it: on Linux also what had left its session, unless
//! the manager is told to [keep that](CPythonManager::keep_detached).
//!
//! On Linux the child also ends, by SIGKILL, with the *thread* that started it, whatever the way
//! that thread ends. That is what per-thread ownership means; it also means that a `CPython` moved
//! to another thread dies with the first. [`reset`](super::Interpreter::reset) starts a new child
//! from the calling thread. Elsewhere the child ends when it reads the end of its input.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;
use std::{fmt, iter};

use self::process::Child;
use self::shelf::Shelf;
use self::start::Ready;
use self::target::Target;
use super::{
    ExecuteOptions, Execution, Interpreter, InterpreterError, InterruptHandle, OutputRef, Variable,
    lend,
};
use crate::manager::CloseReason;
use crate::{CreateContext, Manager, sys};

mod cell;
mod channel;
#[cfg(all(feature = "confine", target_os = "linux"))]
mod confine;
mod fault;
mod files;
mod left;
mod private_dir;
mod process;
mod remove_dir;
mod shelf;
mod start;
mod target;

#[cfg(all(feature = "confine", target_os = "linux"))]
pub use self::confine::{Confinement, Enforcement};
pub(super) use left::reclaim;

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
    settings: Settings,
    shelf: Arc<Shelf>,
}

/// How a child is started and ended.
#[derive(Clone, Debug)]
struct Settings {
    python: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    current_dir: Option<PathBuf>,
    private_dir: bool,
    max_file: u64,
    magics: bool,
    keep_detached: bool,
    limits: sys::Limits,
    #[cfg(all(feature = "confine", target_os = "linux"))]
    confinement: Option<Confinement>,
    start_timeout: Duration,
    grace: Duration,
    close_timeout: Duration,
}

impl CPythonManager {
    /// `python3`, as found on `PATH`, with this process's environment and working directory.
    #[must_use]
    pub fn new() -> Self {
        let settings = Settings {
            python: "python3".into(),
            args: Vec::new(),
            env: Vec::new(),
            current_dir: None,
            private_dir: false,
            max_file: 1 << 30,
            magics: true,
            keep_detached: false,
            limits: sys::Limits::default(),
            #[cfg(all(feature = "confine", target_os = "linux"))]
            confinement: None,
            start_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(1),
            close_timeout: Duration::from_secs(1),
        };
        Self { settings, shelf: Shelf::new(0) }
    }

    /// With other settings. Spares are made by them, so the shelf is another too.
    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        Self { shelf: Shelf::new(self.shelf.spares()), settings: self.settings }
    }

    /// Which Python to run: a path, or a name to find on `PATH`.
    ///
    /// Default: `python3`. Python 3.9 or newer is needed. An older one is refused at the start, by an
    /// error that names its version.
    #[must_use]
    pub fn python(self, program: impl Into<PathBuf>) -> Self {
        self.with(|settings| settings.python = program.into())
    }

    /// Runs the Python of a virtual environment, which is found below this directory.
    ///
    /// Its programs come first on the child's `PATH`, as after `activate`.
    #[must_use]
    pub fn virtual_env(self, home: impl Into<PathBuf>) -> Self {
        let home = home.into();
        let bin = home.join("bin");
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let dirs = iter::once(bin.clone()).chain(std::env::split_paths(&inherited));
        // A directory with a colon in it cannot be on any `PATH`; the interpreter is found all the
        // same.
        let path = std::env::join_paths(dirs).unwrap_or(inherited);
        self.python(bin.join("python")).env("PATH", path).env("VIRTUAL_ENV", home)
    }

    /// Adds an option for Python itself, such as `-I`.
    ///
    /// Default: none.
    #[must_use]
    pub fn arg(self, arg: impl Into<OsString>) -> Self {
        self.with(|settings| settings.args.push(arg.into()))
    }

    /// Sets an environment variable of the child.
    ///
    /// Default: the child has this process's environment.
    #[must_use]
    pub fn env(self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.with(|settings| settings.env.push((name.into(), value.into())))
    }

    /// Where the child starts.
    ///
    /// Default: this process's working directory.
    #[must_use]
    pub fn current_dir(self, dir: impl Into<PathBuf>) -> Self {
        self.with(|settings| settings.current_dir = Some(dir.into()))
    }

    /// Gives each session an empty directory of its own to start in, removed when the session ends.
    ///
    /// It lies where temporary files do, and nobody but this user may look into it. Files are put
    /// in and taken out by [`put_file`](CPython::put_file) and [`take_file`](CPython::take_file).
    /// Default: none; this overrides [`current_dir`](Self::current_dir).
    #[must_use]
    pub fn private_dir(self) -> Self {
        self.with(|settings| settings.private_dir = true)
    }

    /// How large a file may be that [`take_file`](CPython::take_file) reads.
    ///
    /// Default: 1 GiB. A cell can make a file that claims any size in no time.
    ///
    /// ```no_run
    /// use sessile::interpreter::cpython::CPythonManager;
    ///
    /// let python = CPythonManager::new().private_dir().max_file(10 << 20).start()?;
    /// # Ok::<(), sessile::interpreter::InterpreterError>(())
    /// ```
    #[must_use]
    pub fn max_file(self, bytes: u64) -> Self {
        self.with(|settings| settings.max_file = bytes)
    }

    /// Whether cells may use IPython's commonest magics and shell commands, such as `!ls` and
    /// `%timeit`.
    ///
    /// Default: yes. The [module](self#magics) lists them. Without them, such a line is a
    /// `SyntaxError` that says so.
    ///
    /// ```no_run
    /// use sessile::interpreter::Interpreter;
    /// use sessile::interpreter::cpython::CPythonManager;
    ///
    /// let mut python = CPythonManager::new().magics(false).start()?;
    /// assert_eq!(python.run("!ls")?.error.expect("it is no Python").name, "SyntaxError");
    /// # Ok::<(), sessile::interpreter::InterpreterError>(())
    /// ```
    #[must_use]
    pub fn magics(self, yes: bool) -> Self {
        self.with(|settings| settings.magics = yes)
    }

    /// Whether processes that cells start in a session of their own, as by
    /// `Popen(.., start_new_session=True)`, live on when the interpreter is closed.
    ///
    /// Default: no. They end with it, as all others do; if this process is killed, whoever
    /// [reclaims](super::reclaim) what it left ends them. They are found by their environment, on
    /// Linux only: one that was given another environment lives on.
    ///
    /// ```no_run
    /// use sessile::interpreter::cpython::CPythonManager;
    ///
    /// // For cells that start servers which are to stay.
    /// let manager = CPythonManager::new().keep_detached(true);
    /// ```
    #[must_use]
    pub fn keep_detached(self, yes: bool) -> Self {
        self.with(|settings| settings.keep_detached = yes)
    }

    /// How many bytes of memory of its own the child may have; more is a `MemoryError`, which a
    /// cell may catch.
    ///
    /// The state is kept. If not even the error can be told, the session is lost, and the
    /// [`InterpreterError`] says that it was for memory. The limit is best some 64 MiB or more.
    /// Every process that cells start has as much again. Kept by the system (`RLIMIT_DATA`), on
    /// Linux only. Default: no limit.
    #[must_use]
    pub fn max_memory(self, bytes: u64) -> Self {
        self.with(|settings| settings.limits.memory = Some(bytes))
    }

    /// How much processor time the child may use in all, whole seconds; then the system ends it.
    ///
    /// Every process that cells start has as much again. Default: no limit.
    #[must_use]
    pub fn max_cpu_time(self, time: Duration) -> Self {
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        self.with(|settings| settings.limits.cpu_seconds = Some(seconds))
    }

    /// Has the kernel hold every session to this, from before its first instruction on.
    ///
    /// Each session gets [a directory of its own](Self::private_dir), and starts there. Spares are
    /// confined like any other. Default: a session may do what this process may.
    ///
    /// ```no_run
    /// use sessile::interpreter::cpython::{CPythonManager, Confinement};
    ///
    /// let python = CPythonManager::new().confine(Confinement::strict().read("/srv/data")).start()?;
    /// # Ok::<(), sessile::interpreter::InterpreterError>(())
    /// ```
    #[cfg(all(feature = "confine", target_os = "linux"))]
    #[must_use]
    pub fn confine(self, confinement: Confinement) -> Self {
        self.with(|settings| {
            settings.confinement = Some(confinement);
            settings.private_dir = true;
        })
    }

    /// How many children are kept warm, for threads that will need one: then neither the start nor
    /// a [`reset`](super::Interpreter::reset) has to wait for Python to start.
    ///
    /// A spare has run nothing and is nobody's; the thread that needs one adopts it whole. They are
    /// made by a thread of the manager's and its clones', from the first start on. That thread
    /// ends, and the spares with it, when the managers and all that they have started are gone.
    ///
    /// An adopted child ends with this process, like any; but if its *thread* ends without giving
    /// up the session, as by `mem::forget`, it goes on until the process ends. Default: 0.
    #[must_use]
    pub fn spares(self, count: usize) -> Self {
        Self { shelf: Shelf::new(count), ..self }
    }

    /// How long the child may take until it is ready for its first cell.
    ///
    /// Default: 30 s. After that it is killed, and the start fails.
    #[must_use]
    pub fn start_timeout(self, time: Duration) -> Self {
        self.with(|settings| settings.start_timeout = time)
    }

    /// How long an interrupted cell may take to stop before the child is killed.
    ///
    /// Default: 1 s. The total time of a cell is bounded by its limit and this.
    #[must_use]
    pub fn grace(self, time: Duration) -> Self {
        self.with(|settings| settings.grace = time)
    }

    /// How long the child may take to exit by itself when it is closed, before it is killed.
    ///
    /// Default: 1 s.
    #[must_use]
    pub fn close_timeout(self, time: Duration) -> Self {
        self.with(|settings| settings.close_timeout = time)
    }

    /// Starts a CPython that belongs to the calling thread, and waits until it is ready; or adopts
    /// a spare.
    ///
    /// # Errors
    ///
    /// The program cannot be run, ended at once, or was not ready in time:
    /// [`is_start`](InterpreterError::is_start).
    pub fn start(&self) -> Result<CPython, InterpreterError> {
        let Ready { child, version } = self.ready()?;
        Ok(CPython {
            manager: self.clone(),
            target: Arc::new(Mutex::new(child.target())),
            child: Some(child),
            version,
            count: 0,
        })
    }

    fn ready(&self) -> Result<Ready, InterpreterError> {
        static FIRST: Once = Once::new();
        FIRST.call_once(|| {
            reclaim();
        });
        match self.shelf.take(&self.settings) {
            Some(spare) => Ok(spare),
            None => Child::start(&self.settings),
        }
    }

    /// Waits until all spares are warm, or the time is over; whether they are.
    ///
    /// Without this they are made from the first start on.
    pub fn warm_up(&self, time: Duration) -> bool {
        self.shelf.fill(&self.settings, time)
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

    fn create(&self, _: &CreateContext) -> anyhow::Result<CPython> {
        Ok(self.start()?)
    }

    fn has_broken(&self, python: &mut CPython) -> bool {
        python.child.is_none()
    }

    fn is_valid(&self, python: &mut CPython) -> anyhow::Result<()> {
        anyhow::ensure!(python.is_alive(), "the interpreter has exited");
        Ok(())
    }

    fn interrupt(&self, python: &CPython) -> Option<InterruptHandle> {
        Some(python.interrupt_handle())
    }

    fn describe(&self, python: &CPython) -> Option<String> {
        #[cfg(all(feature = "confine", target_os = "linux"))]
        if let Some(enforcement) = python.enforcement() {
            let (version, missing) = (&python.version, &enforcement.missing);
            return Some(match missing.is_empty() {
                true => format!("Python {version}, confined"),
                false => format!("Python {version}, confined but for: {}", missing.join("; ")),
            });
        }
        Some(format!("Python {}", python.version))
    }

    fn close(&self, mut python: CPython, _: CloseReason) -> anyhow::Result<()> {
        if let Some(child) = python.child.take() {
            let ending = child.close(self.settings.close_timeout);
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
    manager: CPythonManager,
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

    /// Has cells be numbered as if so many had run.
    #[cfg(feature = "monty")]
    pub(super) fn count_from(&mut self, cells: u64) {
        self.count = cells;
    }

    /// The directory that is this session's own, if it was given one.
    #[must_use]
    pub fn private_dir(&self) -> Option<&Path> {
        self.child.as_ref()?.private_dir()
    }

    /// What the kernel holds this session to, if it is [confined](CPythonManager::confine).
    #[cfg(all(feature = "confine", target_os = "linux"))]
    #[must_use]
    pub fn enforcement(&self) -> Option<&Enforcement> {
        self.child.as_ref()?.enforcement()
    }
}

impl Interpreter for CPython {
    fn execute_with(
        &mut self,
        code: &str,
        options: &ExecuteOptions,
        on_output: &mut dyn FnMut(OutputRef<'_>),
    ) -> Result<Execution, InterpreterError> {
        let (number, grace) = (self.count + 1, self.manager.settings.grace);
        let run = |child: &mut Child| child.run(number, code, options, grace, on_output);
        let execution = lend(&mut self.child, run)?;
        self.count += 1;
        Ok(execution)
    }

    /// Ends the child as `close` does, and starts another, which belongs to the calling thread.
    fn reset(&mut self) -> Result<(), InterpreterError> {
        let old = self.child.take();
        let Ready { child, version } = match old {
            // With a spare at hand nobody waits for the old one to end.
            Some(old) if self.manager.shelf.spares() > 0 => {
                let ready = self.manager.ready();
                self.manager.shelf.dispose(old);
                ready?
            }
            Some(old) => {
                old.close(self.manager.settings.close_timeout);
                self.manager.ready()?
            }
            None => self.manager.ready()?,
        };
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
        let grace = self.manager.settings.grace;
        lend(&mut self.child, |child| child.variables(options, grace))
    }
}

impl fmt::Debug for CPython {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { manager, child, target: _, version, count } = self;
        f.debug_struct("CPython")
            .field("python", &manager.settings.python)
            .field("version", version)
            .field("alive", &child.is_some())
            .field("cells", count)
            .finish()
    }
}
