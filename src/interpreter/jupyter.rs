//! Jupyter kernels behind a gateway.
//!
//! A [`Jupyter`] is a kernel of its own on a Kernel Gateway, a Jupyter Server or an Enterprise
//! Gateway: on this machine, on another, or on a cluster. Kernels are started, interrupted, restarted
//! and ended by HTTP; cells go in and what comes of them comes out over one WebSocket, which belongs to
//! the thread that uses it. Any kernelspec will do, not only Python.
//!
//! ```no_run
//! use sessile::Pool;
//! use sessile::interpreter::Interpreter;
//! use sessile::interpreter::jupyter::{Gateway, JupyterManager};
//!
//! let gateway = Gateway::new("http://127.0.0.1:8888").token("..");
//! let kernels = Pool::new(JupyterManager::new(gateway)?);
//! // On any thread: its own kernel, started now if it has none.
//! let execution = kernels.with(|kernel| kernel.run("import sys; sys.version"))??;
//! println!("{}", execution.to_markdown());
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! # Whose output it is
//!
//! What a kernel says names the request it belongs to, and that decides: what threads of an earlier
//! cell write is reported as [`late`](super::Execution::late), beside the cell that runs next. (While a
//! cell runs, ipykernel 7 gives *all* text to that cell; so what it calls that cell's is.) What such a
//! thread *displays* late is dropped. An update of a display is a display. `clear_output` is not
//! followed: what was put out stays. [`execution_count`](super::Execution::execution_count) is the
//! kernel's own, which does not count empty cells.
//!
//! # When a kernel dies
//!
//! Gateways start a dead kernel anew, some seconds later, and run in it what was sent meanwhile, with
//! all variables gone. Here that is an error: the cell at hand, or the next one, fails with
//! [`state_lost`](super::InterpreterError::state_lost), once, and the engine is dead. So it is after
//! `exit()`, if the kernel is culled or shut down by somebody else, and if it would not stop at a
//! cell's time limit. A pool then makes a new one; [`reset`](super::Interpreter::reset) does so without
//! a pool. It is not `is_valid` that finds dead kernels, for then nobody would be told.
//!
//! A state is called lost only if that is proved: another process answers in the kernel's place, or the
//! gateway, and not something before it, says that it has no such kernel. That a gateway says it restarts
//! one proves nothing: one that has lost sight of the kernel's machine says so of kernels that live.
//!
//! # When nothing is heard
//!
//! The connection is opened again, and the gateway hands over what was said meanwhile: the cell goes on.
//! Only what the gateway had sent before it noticed is lost; that cannot be seen from here, so
//! [`truncated`](super::Execution::truncated) is set. While a thread leaves its kernel alone it does not
//! read, so the gateway may cut the connection (after 90 s of silence, by default). That is seen, and
//! mended, at the next cell.
//!
//! If it cannot be opened within [`reconnect_timeout`](JupyterBuilder::reconnect_timeout), or the cell's
//! time limit; if the gateway stands still, or the kernel's machine is away: then nothing is known of the
//! session, and the call fails with [`is_unreachable`](super::InterpreterError::is_unreachable). **The
//! session is kept**, and its cell goes on. The next call tries again: it waits for that cell first (and
//! stops it, if its time is over), reports its text as [`late`](super::Execution::late), and runs its own
//! with all variables. [`Jupyter::resume`] waits for the cell alone, and gives all that came of it. No
//! cell is run twice. Only after [`give_up_after`](JupyterBuilder::give_up_after) a session is given up,
//! which the error says.
//!
//! Kernels are asked whether they are there, and interrupted, on their control channel. A gateway whose
//! kernels are [on other machines](Gateway::remote_kernels) is asked to interrupt, restart or end only
//! those that have answered: an Enterprise Gateway stands still, for all its kernels, while it tries to
//! reach a machine that is away.
//!
//! # Several gateways
//!
//! [`Gateways`] places kernels on several, by key or by load. While one does not answer, its sessions are
//! kept, and new ones are started elsewhere; [`JupyterManager::status`] tells how each is. An Enterprise
//! Gateway is the way to a cluster behind one address.
//!
//! # What gateways cut
//!
//! By default a Kernel Gateway and a Jupyter Server throw output away beyond 1,000 messages or 1 MB of
//! text a second. Then [`truncated`](super::Execution::truncated) is set; of a Python kernel the
//! value, if it was lost with it, is asked for again. With
//! `--ZMQChannelsWebsocketConnection.limit_rate=False` they throw nothing away.
//!
//! # What is left behind
//!
//! Closing or dropping a [`Jupyter`] ends its kernel. If the gateway does not answer then, or the kernel
//! on a machine of its own, the close fails, with the kernel's id; that is tried again in the background
//! while this process lives, and [`JupyterManager::status`] has the ids until it is done. A gateway that
//! has just not answered is not waited for again, so that many sessions on it are closed as fast as one.
//!
//! A kernel whose client was killed with SIGKILL lives on. On Unix it is written down while it is there,
//! so the next process of the same user on the same machine has it ended: when that first starts a
//! kernel at a gateway with the same URL, or by [`JupyterManager::reclaim`]. No token is written down;
//! so [`interpreter::reclaim`](super::reclaim), which has none, ends only what is at gateways that ask
//! for none. What cannot be ended, for the gateway does not answer, is tried again for a week.
//!
//! With [`reattach`](JupyterBuilder::reattach) the next process goes on with such kernels instead, by the
//! keys of their sessions.
//!
//! For clients that do not come back, and on other systems, let the gateway cull
//! (`--MappingKernelManager.cull_idle_timeout`, and `cull_busy` for a kernel amid a cell).

use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use self::gateway::{KernelOptions, LinkOptions};
use self::gateways::Fleet;
use self::kernel::{Kernel, Reattach, Settings};
use self::target::Target;
#[cfg(unix)]
use super::Reclaimed;
use super::{
    ExecuteOptions, Execution, Interpreter, InterpreterError, InterruptHandle, OutputRef, Variable,
    lend,
};
use crate::manager::CloseReason;
use crate::pool::BuildError;
use crate::{CreateContext, Manager};

pub(crate) mod cell;
mod endings;
mod gateway;
mod gateways;
mod health;
mod kernel;
#[cfg_attr(not(unix), path = "jupyter/unwritten.rs")]
mod left;
mod rest;
mod target;
pub(crate) mod wire;

pub use self::gateway::Gateway;
pub use self::gateways::{GatewayStatus, Gateways, Placement};
#[cfg(unix)]
pub(super) use self::left::reclaim;

/// Starts a kernel for each thread, or each key, and holds the settings that they share.
///
/// Cheap to clone. See the [module](self) for an example.
#[derive(Clone)]
pub struct JupyterManager {
    fleet: Arc<Fleet>,
    settings: Arc<Settings>,
}

impl JupyterManager {
    /// For kernels on this gateway, or on these, with the default settings.
    ///
    /// # Errors
    ///
    /// As [`JupyterBuilder::build`].
    pub fn new(gateways: impl Into<Gateways>) -> Result<Self, BuildError> {
        Self::builder(gateways).build()
    }

    /// Sets up a manager.
    pub fn builder(gateways: impl Into<Gateways>) -> JupyterBuilder {
        JupyterBuilder {
            gateways: gateways.into(),
            settings: Settings {
                kernel: KernelOptions { name: None, path: None, env: Vec::new() },
                link: LinkOptions {
                    json: false,
                    max_message_size: 64 << 20,
                    keep_alive_interval: Duration::from_secs(20),
                    keep_alive_timeout: Duration::from_secs(10),
                },
                start_timeout: Duration::from_secs(90),
                request_timeout: Duration::from_secs(10),
                reconnect_timeout: Duration::from_secs(10),
                silence_timeout: Duration::from_secs(60),
                give_up_after: Duration::from_secs(15 * 60),
                reattach: None,
                grace: Duration::from_secs(2),
                close_timeout: Duration::from_secs(5),
            },
        }
    }

    /// Starts a kernel, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// The gateway cannot be reached, refuses, or has no such kernelspec; the kernel was not ready
    /// [in time](JupyterBuilder::start_timeout): [`is_start`](InterpreterError::is_start).
    pub fn start(&self) -> Result<Jupyter, InterpreterError> {
        self.start_for(&random_uuid())
    }

    /// [`start`](Self::start), on the gateway that this key comes to; see [`Placement`]. A
    /// [`reset`](Interpreter::reset) that needs another kernel goes by it, too.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start). With several gateways, none could start one, and the error is that of
    /// the first that was asked.
    pub fn start_for(&self, key: &str) -> Result<Jupyter, InterpreterError> {
        let target = Arc::new(Target::default());
        let kernel = Kernel::start(&self.fleet, key, &self.settings, &target)?;
        Ok(Jupyter { manager: self.clone(), key: key.to_owned(), target, kernel: Some(kernel) })
    }

    /// How each gateway is, in the order in which they were given: how many kernels are there, whether it
    /// answers, and which kernels are still to be ended there.
    ///
    /// ```
    /// use sessile::interpreter::jupyter::JupyterManager;
    ///
    /// let manager = JupyterManager::new("http://127.0.0.1:8888")?;
    /// let status = &manager.status()[0];
    /// assert_eq!((&*status.gateway, status.kernels), ("http://127.0.0.1:8888", 0));
    /// assert!(status.away_for.is_none() && status.ending.is_empty());
    /// # Ok::<(), sessile::pool::BuildError>(())
    /// ```
    #[must_use]
    pub fn status(&self) -> Vec<GatewayStatus> {
        self.fleet.status()
    }

    /// Closes sessions without ending their kernels from now on, for the process that comes next: as before
    /// an update, when this one drains. To be called before the pool is closed; without
    /// [`reattach`](JupyterBuilder::reattach) it does nothing.
    ///
    /// They can be gone on with once this process has ended.
    pub fn hand_over(&self) {
        if let Some(reattach) = &self.settings.reattach {
            reattach.hands_over.store(true, Ordering::Relaxed);
        }
    }

    /// How many kernels of this manager's, and its clones', there are on each gateway, those counted
    /// that are being started. The gateways are named by scheme, host and port, in the order in which
    /// they were given.
    #[must_use]
    pub fn kernels(&self) -> Vec<(String, usize)> {
        self.fleet.kernels()
    }

    /// Ends the kernels at these gateways that processes of this user, on this machine, have left that
    /// are gone; those of a process that lives are never touched. See the
    /// [module](self#what-is-left-behind).
    ///
    /// The first start at each gateway does the same. Runs on the calling thread, and waits for each
    /// gateway up to 5 s. What is at a gateway that does not answer, or refuses, is
    /// [kept](super::Reclaimed::kept).
    #[cfg(unix)]
    #[cfg_attr(docsrs, doc(cfg(unix)))]
    pub fn reclaim(&self) -> Reclaimed {
        self.fleet.reclaim()
    }
}

impl fmt::Debug for JupyterManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JupyterManager")
            .field("kernels", &self.fleet)
            .field("settings", &self.settings)
            .finish()
    }
}

/// `create` starts a kernel; `has_broken` is true once it is known to be dead, and its user was told;
/// the interrupt stops the running cell, or, if the kernel does not answer, lets go of whoever waits for
/// it; `close` ends the kernel, and waits for that, for as long as
/// [`close_timeout`](JupyterBuilder::close_timeout).
impl Manager for JupyterManager {
    type Instance = Jupyter;

    fn create(&self, cx: &CreateContext) -> anyhow::Result<Jupyter> {
        Ok(self.start_for(cx.key().unwrap_or(cx.name()))?)
    }

    fn has_broken(&self, jupyter: &mut Jupyter) -> bool {
        jupyter.kernel.is_none()
    }

    fn interrupt(&self, jupyter: &Jupyter) -> Option<InterruptHandle> {
        let target = Arc::clone(&jupyter.target);
        Some(InterruptHandle::new(move || target.stop()))
    }

    fn close(&self, mut jupyter: Jupyter, _: CloseReason) -> anyhow::Result<()> {
        match jupyter.kernel.take() {
            Some(kernel) => kernel.close().map_err(anyhow::Error::msg),
            None => Ok(()),
        }
    }
}

/// Sets up a [`JupyterManager`]. Begun by [`JupyterManager::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct JupyterBuilder {
    gateways: Gateways,
    settings: Settings,
}

impl JupyterBuilder {
    /// Which kernelspec to start, by its name on the gateway: `python3`, say.
    ///
    /// Default: the gateway's own default.
    pub fn kernel(mut self, name: impl Into<String>) -> Self {
        self.settings.kernel.name = Some(name.into());
        self
    }

    /// Where kernels start: a directory below the gateway's root. If there is none, the nearest parent
    /// that exists is taken. An Enterprise Gateway does not know this.
    ///
    /// Default: the gateway's root.
    pub fn path(mut self, directory: impl Into<String>) -> Self {
        self.settings.kernel.path = Some(directory.into());
        self
    }

    /// Adds a variable to the environment of kernels. It may be a secret: it is in no error.
    ///
    /// What comes of it is the gateway's to say. Kernel and Enterprise Gateways let variables through
    /// whose names begin with `KERNEL_`, and those that they are set up to let through. A Kernel
    /// Gateway, given any, takes all but `PATH` out of the environment. A Jupyter Server ignores them.
    ///
    /// Default: none.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.kernel.env.push((name.into(), value.into()));
        self
    }

    /// How long it may take from asking for a kernel until it has answered; the same for a restart.
    ///
    /// Default: 90 s: an Enterprise Gateway may have to find a machine first.
    pub fn start_timeout(mut self, time: Duration) -> Self {
        self.settings.start_timeout = time;
        self
    }

    /// How long the gateway may take to answer other requests: to interrupt, to say whether it has a
    /// kernel.
    ///
    /// Default: 10 s.
    pub fn request_timeout(mut self, time: Duration) -> Self {
        self.settings.request_timeout = time;
        self
    }

    /// For how long one call tries to open a lost connection again, before it is told that the session is
    /// [out of reach](InterpreterError::is_unreachable). The session is kept, and the next call tries
    /// again.
    ///
    /// Default: 10 s. It is never longer than the time limit of the cell at hand.
    pub fn reconnect_timeout(mut self, time: Duration) -> Self {
        self.settings.reconnect_timeout = time;
        self
    }

    /// How long a kernel on another machine than its gateway's may be silent on its control channel while
    /// its cell runs, though the gateway is there, before the call is told that it is
    /// [out of reach](InterpreterError::is_unreachable). The cell goes on.
    ///
    /// Default: 60 s. A cell that keeps Python's lock for longer, in a library of C, is silent too;
    /// [`Jupyter::resume`] waits for it again. A cell with a time limit ends by that.
    pub fn silence_timeout(mut self, time: Duration) -> Self {
        self.settings.silence_timeout = time;
        self
    }

    /// For how long a session that is [out of reach](InterpreterError::is_unreachable) is kept. The call
    /// that finds it there still is told that it is [given up](InterpreterError::is_given_up), by this
    /// limit; its kernel is ended as soon as that can be done.
    ///
    /// Default: 15 minutes. An Enterprise Gateway that waits for a machine stands still for minutes, and
    /// all its kernels may be whole after that.
    pub fn give_up_after(mut self, time: Duration) -> Self {
        self.settings.give_up_after = time;
        self
    }

    /// Goes on with sessions of an earlier process: one that was killed, or that has
    /// [handed over](JupyterManager::hand_over). A session that is made for a key finds the kernel that
    /// such a process had for the same key, by the lease that it has left, with all its variables;
    /// [`Jupyter::is_reattached`] says so. If another process answers there by now, or the gateway does
    /// not have it any more, the first call is told that the state is lost.
    ///
    /// Taken are sessions of processes that are gone, of the same user on the same machine, with the same
    /// `service`, key, and gateway; so choose a name that no other program of yours has. For `keep_for`
    /// after its process was found to be gone, a session is left alone by those who remove
    /// [what is left behind](super::reclaim); after that it is ended by the next process that comes to its
    /// gateway. Keys are those of [`Workers`](crate::Workers), and of
    /// [`start_for`](JupyterManager::start_for); threads of a pool go by their names.
    ///
    /// A cell that the earlier process had running is waited for. What it put out is lost.
    ///
    /// Default: no. On Unix only; elsewhere it finds none.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use sessile::interpreter::Interpreter;
    /// use sessile::interpreter::jupyter::JupyterManager;
    ///
    /// let manager = JupyterManager::builder("http://127.0.0.1:8888")
    ///     .reattach("shop-assistant", Duration::from_secs(600))
    ///     .build()?;
    /// let mut kernel = manager.start_for("conversation-17")?;
    /// if !kernel.is_reattached() {
    ///     kernel.run("import pandas as pd")?;
    /// }
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn reattach(mut self, service: impl Into<String>, keep_for: Duration) -> Self {
        let (service, hands_over) = (service.into(), Arc::new(AtomicBool::new(false)));
        self.settings.reattach = Some(Reattach { service, keep_for, hands_over });
        self
    }

    /// How long an interrupted cell may take to stop before the kernel is killed.
    ///
    /// Default: 2 s. The total time of a cell is bounded by its limit, this, and the time that the
    /// gateway takes to kill a kernel, no longer than [`close_timeout`](Self::close_timeout).
    pub fn grace(mut self, time: Duration) -> Self {
        self.settings.grace = time;
        self
    }

    /// How long the gateway may take to end a kernel.
    ///
    /// Default: 5 s.
    pub fn close_timeout(mut self, time: Duration) -> Self {
        self.settings.close_timeout = time;
        self
    }

    /// The largest message, in bytes, that is read: one piece of output. A larger one costs the kernel.
    ///
    /// Default: 64 MiB. Zero is refused by [`build`](Self::build). What is sent is bounded by the
    /// gateway: a cell of more than 10 MiB is refused.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.settings.link.max_message_size = bytes;
        self
    }

    /// After how long a silence the gateway is pinged while a cell runs.
    ///
    /// Default: 20 s. Zero is refused by [`build`](Self::build).
    pub fn keep_alive_interval(mut self, silence: Duration) -> Self {
        self.settings.link.keep_alive_interval = silence;
        self
    }

    /// How long a gateway that was pinged may remain silent before the connection is taken for lost.
    ///
    /// Default: 10 s. Zero is refused by [`build`](Self::build).
    pub fn keep_alive_timeout(mut self, time: Duration) -> Self {
        self.settings.link.keep_alive_timeout = time;
        self
    }

    /// Whether each message is to be one JSON text, as old servers have it, without asking for the
    /// newer subprotocol.
    ///
    /// Default: no. A server that does not know the newer one is found out by itself; this is for
    /// proxies that do not let it pass.
    pub fn json_frames(mut self, yes: bool) -> Self {
        self.settings.link.json = yes;
        self
    }

    /// Makes the manager. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// If there is no gateway; if the URL of one will not do, holds credentials or a query, or needs TLS and there is
    /// none; if a header or a token is none; if an option is zero that must not be.
    pub fn build(self) -> Result<JupyterManager, BuildError> {
        let Self { gateways, settings } = self;
        let zero = [
            ("start_timeout", settings.start_timeout.is_zero()),
            ("request_timeout", settings.request_timeout.is_zero()),
            ("max_message_size", settings.link.max_message_size == 0),
            ("keep_alive_interval", settings.link.keep_alive_interval.is_zero()),
            ("keep_alive_timeout", settings.link.keep_alive_timeout.is_zero()),
        ];
        if let Some((option, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(BuildError::new(option, "must not be zero"));
        }
        Ok(JupyterManager { fleet: Fleet::new(gateways)?, settings: Arc::new(settings) })
    }
}

/// A session with a kernel of its own.
///
/// `Send`, and not bound to the thread that started it, though made for one thread at a time. Dropping
/// it ends the kernel, and waits for the gateway to say so, for as long as
/// [`close_timeout`](JupyterBuilder::close_timeout).
pub struct Jupyter {
    manager: JupyterManager,
    key: String,
    target: Arc<Target>,
    /// `None`: dead.
    kernel: Option<Kernel>,
}

impl Jupyter {
    /// Waits for the cell that was running when the session got
    /// [out of reach](InterpreterError::is_unreachable), and gives what came of it since then, as far as
    /// the gateway has kept it: [`truncated`](Execution::truncated) is set. `None`: no such cell is known
    /// of.
    ///
    /// The error of the call that ran it has what it had put out before. Whoever runs another cell
    /// instead waits for it as well, and gets its text as [`late`](Execution::late).
    ///
    /// # Errors
    ///
    /// As [`execute`](Interpreter::execute). The session is still out of reach; or the cell still runs at
    /// this call's time limit: [`is_refused`](InterpreterError::is_refused).
    ///
    /// ```no_run
    /// use sessile::interpreter::jupyter::Jupyter;
    /// use sessile::interpreter::{ExecuteOptions, Execution, Interpreter, InterpreterError};
    ///
    /// fn patient(kernel: &mut Jupyter, code: &str) -> Result<Execution, InterpreterError> {
    ///     match kernel.run(code) {
    ///         Err(error) if error.is_unreachable() => {
    ///             std::thread::sleep(std::time::Duration::from_secs(30));
    ///             let rest = kernel.resume(&ExecuteOptions::new(), &mut |_| {})?;
    ///             rest.ok_or(error)
    ///         }
    ///         outcome => outcome,
    ///     }
    /// }
    /// ```
    pub fn resume(
        &mut self,
        options: &ExecuteOptions,
        on_output: &mut dyn FnMut(OutputRef<'_>),
    ) -> Result<Option<Execution>, InterpreterError> {
        self.call(|kernel| kernel.resume(options, on_output))
    }

    /// Whether an earlier process has begun this session; see [`reattach`](JupyterBuilder::reattach).
    #[must_use]
    pub fn is_reattached(&self) -> bool {
        self.kernel.as_ref().is_some_and(Kernel::is_reattached)
    }

    /// Whether the last call could not reach the kernel, so that nothing is known of it.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.kernel.as_ref().is_some_and(Kernel::is_away)
    }

    fn call<R>(
        &mut self,
        work: impl FnOnce(&mut Kernel) -> Result<R, InterpreterError>,
    ) -> Result<R, InterpreterError> {
        lend(&mut self.kernel, |kernel| {
            let outcome = work(kernel);
            if outcome.is_ok() {
                kernel.is_reached();
            }
            outcome
        })
    }

    /// The language that the kernel speaks, as it says: `python`, say. `None` if it is dead.
    #[must_use]
    pub fn language(&self) -> Option<&str> {
        self.kernel.as_ref().map(|kernel| &*kernel.info().language_info.name)
    }

    /// The version of that language. `None` if the kernel is dead.
    #[must_use]
    pub fn language_version(&self) -> Option<&str> {
        self.kernel.as_ref().map(|kernel| &*kernel.info().language_info.version)
    }

    /// The kernel's id on its gateway. `None` if it is dead.
    #[must_use]
    pub fn kernel_id(&self) -> Option<&str> {
        self.kernel.as_ref().map(Kernel::id)
    }

    /// The gateway that it is on: scheme, host and port. `None` if it is dead.
    #[must_use]
    pub fn gateway(&self) -> Option<&str> {
        self.kernel.as_ref().map(Kernel::label)
    }
}

impl Interpreter for Jupyter {
    fn execute_with(
        &mut self,
        code: &str,
        options: &ExecuteOptions,
        on_output: &mut dyn FnMut(OutputRef<'_>),
    ) -> Result<Execution, InterpreterError> {
        self.call(|kernel| kernel.run(code, options, on_output))
    }

    /// Has the gateway start the kernel's process anew. If it is dead or out of reach, or that fails,
    /// another kernel takes its place.
    fn reset(&mut self) -> Result<(), InterpreterError> {
        if let Some(mut kernel) = self.kernel.take()
            && !kernel.is_away()
            && kernel.restart().is_ok()
        {
            self.kernel = Some(kernel);
            return Ok(());
        }
        let JupyterManager { fleet, settings } = &self.manager;
        self.kernel = Some(Kernel::start(fleet, &self.key, settings, &self.target)?);
        Ok(())
    }

    fn is_alive(&self) -> bool {
        self.kernel.is_some()
    }

    /// Interrupting waits for nobody: the thread that runs the cell passes it on, some milliseconds later,
    /// on the kernel's control channel. What is hit may be the kernel's own code,
    /// just before or after that of the cell: then the traceback tells of that, or of nothing, and the
    /// cell may have both a value and a `KeyboardInterrupt`.
    fn interrupt_handle(&self) -> InterruptHandle {
        let target = Arc::clone(&self.target);
        InterruptHandle::new(move || target.interrupt())
    }

    /// Only IPython kernels can tell; others are [refused](InterpreterError::is_refused).
    fn variables(&mut self, options: &ExecuteOptions) -> Result<Vec<Variable>, InterpreterError> {
        self.call(|kernel| kernel.variables(options))
    }
}

impl fmt::Debug for Jupyter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jupyter")
            .field("gateway", &self.gateway())
            .field("kernel", &self.kernel_id())
            .field("language", &self.language())
            .finish_non_exhaustive()
    }
}

/// What an error says, and what its causes say.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A UUID of version 4. Two are never the same; that nobody can guess one is not asked for.
fn random_uuid() -> String {
    let random = RandomState::new();
    let [high, low] = [random.hash_one(0_u8), random.hash_one(1_u8)];
    let high = high & !0xf000 | 0x4000;
    let low = low & !(0b11 << 62) | 1 << 63;
    let (a, b, c) = (high >> 32, high >> 16 & 0xffff, high & 0xffff);
    let (d, e) = (low >> 48, low & 0xffff_ffff_ffff);
    format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
}
