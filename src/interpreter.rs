//! Python for programs that write Python: one face, several engines.
//!
//! An [`Interpreter`] runs *cells*, as a notebook does: variables live on from one cell to the next,
//! the value of a last expression is shown, and an exception ends its cell, not the session. What
//! came of a cell is an [`Execution`], the same for every engine.
//!
//! # Choosing an engine
//!
//! | | [`Monty`], feature `monty` | [`CPython`], feature `cpython` | [`Jupyter`], feature `jupyter` |
//! |---|---|---|---|
//! | what it is | Python's core, written in Rust, in this process | the `python3` of this machine, a child process | a kernel behind a gateway, on this machine or any other |
//! | to install | nothing | Python 3.9 or newer; Unix only | a Kernel Gateway, Jupyter Server or Enterprise Gateway |
//! | a session costs | microseconds, some kilobytes | tens of milliseconds, some ten megabytes | half a second, some forty megabytes there |
//! | the language | a subset: no `import` of packages, no inheritance, no `yield` | all of it | whatever its kernelspecs speak; IPython's extras |
//! | files, network, processes | none | whatever your user may do | whatever the gateway's user may do, there |
//! | a crash of the engine | ends *this* process | ends the child; the session is lost, and says so | ends the kernel; the session is lost, and says so |
//!
//! With both of the first two, [`fallback`] begins in Monty and goes on in CPython when it has to.
//!
//! # What is a sandbox, and what is not
//!
//! *Monty* gives code no way to the world: no files, no network, no environment, no clock. It runs
//! in your process, so a fault in Monty itself is a fault in your process, and its memory is yours
//! (see [`MontyManager::max_memory`] for what is bounded). Good for
//! code you did not write; for code that is hostile, put a process around it.
//!
//! *CPython* is **not** a sandbox. A child process keeps crashes, hangs and descriptors apart from
//! yours, and nothing else: the code may do what your user may do. Run it in a container if that is
//! too much.
//!
//! *Jupyter* is **not** a sandbox either, but its kernels may run where nothing of yours is: a container
//! or a machine of their own, as an Enterprise Gateway has it.
//!
//! # While a cell runs
//!
//! [`execute_with`](Interpreter::execute_with) shows output as it comes, on the calling thread. Any
//! thread may hold an [`InterruptHandle`].
//!
//! # Threads
//!
//! Engines are stateful and made for one thread at a time; sharing one between threads is how
//! answers cross. Give each thread its own by way of a [`Pool`](crate::Pool), with
//! [`MontyManager`], [`CPythonManager`] or [`JupyterManager`]. All engines are `Send`. A CPython child
//! ends with the *thread* that started it: see [`CPython`].
//!
//! # When an engine dies
//!
//! A Python exception is an ordinary outcome: [`Execution::error`]. An `Err` means that the engine
//! itself failed. If [`InterpreterError::state_lost`] says so, all variables are gone and the
//! instance stays dead: it refuses every further cell, its manager's
//! [`has_broken`](crate::Manager::has_broken) is true, so a pool replaces it at the next use. Who
//! holds an engine without a pool calls [`Interpreter::reset`].
//!
// Where a feature is off, its names lead to the list of features.
#![cfg_attr(feature = "monty", doc = "[`Monty`]: monty::Monty")]
#![cfg_attr(feature = "monty", doc = "[`MontyManager`]: monty::MontyManager")]
#![cfg_attr(
    feature = "monty",
    doc = "[`MontyManager::max_memory`]: monty::MontyManager::max_memory"
)]
#![cfg_attr(not(feature = "monty"), doc = "[`Monty`]: crate#features")]
#![cfg_attr(not(feature = "monty"), doc = "[`MontyManager`]: crate#features")]
#![cfg_attr(not(feature = "monty"), doc = "[`MontyManager::max_memory`]: crate#features")]
#![cfg_attr(all(feature = "cpython", unix), doc = "[`CPython`]: cpython::CPython")]
#![cfg_attr(all(feature = "cpython", unix), doc = "[`CPythonManager`]: cpython::CPythonManager")]
#![cfg_attr(not(all(feature = "cpython", unix)), doc = "[`CPython`]: crate#features")]
#![cfg_attr(not(all(feature = "cpython", unix)), doc = "[`CPythonManager`]: crate#features")]
#![cfg_attr(
    not(all(feature = "monty", feature = "cpython", unix)),
    doc = "[`fallback`]: crate#features"
)]
#![cfg_attr(feature = "jupyter", doc = "[`Jupyter`]: jupyter::Jupyter")]
#![cfg_attr(feature = "jupyter", doc = "[`JupyterManager`]: jupyter::JupyterManager")]
#![cfg_attr(not(feature = "jupyter"), doc = "[`Jupyter`]: crate#features")]
#![cfg_attr(not(feature = "jupyter"), doc = "[`JupyterManager`]: crate#features")]

mod boxed;
#[cfg(all(feature = "cpython", unix))]
pub mod cpython;
// Not every engine needs all of what `error` and `text` offer.
#[cfg_attr(not(all(feature = "cpython", unix)), allow(dead_code))]
mod error;
mod execution;
#[cfg(all(feature = "monty", feature = "cpython", unix))]
pub mod fallback;
#[cfg(feature = "jupyter")]
pub mod jupyter;
#[cfg(all(any(feature = "cpython", feature = "jupyter"), unix))]
mod lease;
#[cfg(feature = "monty")]
pub mod monty;
mod options;
#[cfg_attr(not(all(feature = "cpython", feature = "monty", unix)), allow(dead_code))]
mod text;

use std::any::Any;

pub use crate::manager::InterruptHandle;
pub use boxed::{BoxInterpreter, boxed};
pub use error::InterpreterError;
pub use execution::{
    Cut, ErrorInfo, Execution, LateOutput, MimeBundle, Omitted, Output, OutputRef, StdStream,
    Variable,
};
#[cfg(all(any(feature = "cpython", feature = "jupyter"), unix))]
pub use lease::Reclaimed;
pub use options::{ExecuteOptions, Keep};

/// Removes what processes of this user that are gone have left behind: the processes that their
/// sessions had started on this machine, the sessions' own directories, and their Jupyter kernels at
/// gateways that ask for no token.
///
/// Sessions are written down in a *lease* while they live, below the directory of temporary files. A
/// process that is killed leaves its leases; whose lock is let go of is dead, whatever its number.
/// What belongs to a process that lives is never touched. The first CPython that a process starts
/// does this too, for what is on this machine; the first kernel at each gateway for what is there.
///
/// Runs on the calling thread; takes milliseconds, and up to 5 s more for each gateway at which
/// something was left. Kernels whose gateway asks for a token, or is away, are
/// [kept](Reclaimed::kept): [`JupyterManager::reclaim`] has the token.
///
/// A process is found by its environment (on Linux; elsewhere only directories are removed), so one
/// that has been given an environment without `SESSILE_LEASE` is not found.
///
#[cfg_attr(
    feature = "jupyter",
    doc = "[`JupyterManager::reclaim`]: jupyter::JupyterManager::reclaim"
)]
#[cfg_attr(not(feature = "jupyter"), doc = "[`JupyterManager::reclaim`]: crate#features")]
#[cfg(all(any(feature = "cpython", feature = "jupyter"), unix))]
pub fn reclaim() -> Reclaimed {
    let reclaimed = Reclaimed::default();
    #[cfg(feature = "cpython")]
    let reclaimed = reclaimed.and(cpython::reclaim());
    #[cfg(feature = "jupyter")]
    let reclaimed = reclaimed.and(jupyter::reclaim());
    reclaimed
}

/// A Python session: cells go in, [`Execution`]s come out.
///
/// All methods run on the calling thread and block it. Engines own what they hold: the trait is
/// [`Any`], so that one in a box can be found again; see [`boxed`].
pub trait Interpreter: Any {
    /// Runs one cell to its end.
    ///
    /// A Python exception is not an error here: it is the [`error`](Execution::error) of an
    /// `Execution`, and the session goes on. So is a cell stopped at its time limit, as long as it
    /// let itself be stopped: then [`timed_out`](Execution::timed_out) is set, and what the cell
    /// did until then is kept.
    ///
    /// # Errors
    ///
    /// The engine died, was killed because it would not stop, broke its protocol, or refused the
    /// input. The error's predicates say which, and whether the session's state is lost.
    fn execute(
        &mut self,
        code: &str,
        options: &ExecuteOptions,
    ) -> Result<Execution, InterpreterError> {
        self.execute_with(code, options, &mut |_| {})
    }

    /// [`execute`](Self::execute), which also shows each piece of output as soon as it has come.
    ///
    /// `on_output` is called on the calling thread while the cell runs, with just what will be in
    /// the [`outputs`](Execution::outputs), in that order; neighbouring pieces of one stream become
    /// one there. What is over the limit is not shown, and neither is the value of the last
    /// expression. The time that `on_output` takes counts for the cell's limit, and a cell that
    /// writes much waits for it. It may stop the cell by an [`InterruptHandle`] it holds.
    ///
    /// # Errors
    ///
    /// As for [`execute`](Self::execute).
    ///
    /// # Panics
    ///
    /// When `on_output` does. The engine is dead then, as it is when it is left amid a cell.
    fn execute_with(
        &mut self,
        code: &str,
        options: &ExecuteOptions,
        on_output: &mut dyn FnMut(OutputRef<'_>),
    ) -> Result<Execution, InterpreterError>;

    /// Begins a new session: no variables, the count of cells at zero. Revives a dead engine.
    ///
    /// # Errors
    ///
    /// The new session could not be started; the engine is dead then, and a later call may succeed.
    fn reset(&mut self) -> Result<(), InterpreterError>;

    /// Whether the session can take another cell, as far as is known without asking it.
    fn is_alive(&self) -> bool;

    /// A handle by which any thread can interrupt the cell that is running.
    ///
    /// It stays good after a [`reset`](Self::reset), and does nothing once the engine is gone.
    fn interrupt_handle(&self) -> InterruptHandle;

    /// What the session's code has bound at top level, sorted by name; modules, and names that
    /// begin with an underscore, are left out. This is no cell: nothing counts it.
    ///
    /// Each `repr` is cut at 1,000 bytes, and all together at the limit for output; what a `repr`
    /// prints is thrown away. One that raises is empty, and so is one that the time limit ends, with
    /// all after it.
    ///
    /// # Errors
    ///
    /// As for [`execute`](Self::execute); an engine that cannot tell
    /// [refuses](InterpreterError::is_refused).
    fn variables(&mut self, options: &ExecuteOptions) -> Result<Vec<Variable>, InterpreterError>;

    /// [`execute`](Self::execute) with the default options: no time limit, 1 MiB of output.
    ///
    /// # Errors
    ///
    /// As for [`execute`](Self::execute).
    fn run(&mut self, code: &str) -> Result<Execution, InterpreterError> {
        self.execute(code, &ExecuteOptions::new())
    }
}

/// Takes the engine out of its slot while it works, so that a panic amid that ends it. One that died
/// is not put back.
#[cfg(any(all(feature = "cpython", unix), feature = "jupyter"))]
fn lend<E, R>(
    slot: &mut Option<E>,
    work: impl FnOnce(&mut E) -> Result<R, InterpreterError>,
) -> Result<R, InterpreterError> {
    let mut engine = slot.take().ok_or_else(InterpreterError::dead)?;
    let outcome = work(&mut engine);
    if !outcome.as_ref().is_err_and(InterpreterError::is_dead) {
        *slot = Some(engine);
    }
    outcome
}
