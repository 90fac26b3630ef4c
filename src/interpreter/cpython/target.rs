//! Who signals go to.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sys;

/// Tells the child which request an interrupt is for: the signal alone may come before that has
/// begun, or when it is over.
#[derive(Debug)]
pub(super) struct Interrupts {
    told: PipeWriter,
    /// Held, not read: without it, writing to a child that has ended would raise SIGPIPE.
    end: PipeReader,
}

impl Interrupts {
    pub(super) fn new() -> io::Result<Self> {
        let (end, told) = io::pipe()?;
        sys::set_nonblocking(&end)?;
        sys::set_nonblocking(&told)?;
        Ok(Self { told, end })
    }

    /// The child's end.
    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    fn tell(&self, request: u32) {
        // If it is full, some thousands that the child has not looked at say the same.
        let _ = (&self.told).write(&request.to_be_bytes());
    }
}

/// Sends signals to the child from any thread, as long as it is there to receive them.
#[derive(Debug)]
pub(super) struct Target(Mutex<State>);

#[derive(Debug)]
struct State {
    /// `None` once reaped: from then on the number may be anybody's.
    child: Option<(libc::pid_t, Interrupts)>,
    /// The number of the last request. The child counts them too.
    request: u32,
    /// It has not been answered.
    is_running: bool,
}

impl State {
    fn signal(&self, sign: i32, signal: i32) {
        if let Some((pid, _)) = self.child {
            sys::kill(sign * pid, signal);
        }
    }

    fn interrupt(&self, sign: i32, request: u32) {
        if let Some((_, interrupts)) = &self.child {
            interrupts.tell(request);
        }
        self.signal(sign, libc::SIGINT);
    }
}

impl Target {
    pub(super) fn new(pid: libc::pid_t, interrupts: Interrupts) -> Self {
        Self(Mutex::new(State { child: Some((pid, interrupts)), request: 0, is_running: false }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is about to be sent; until it has [ended](Self::end_request) interrupts are for it.
    pub(super) fn begin_request(&self) {
        let mut state = self.lock();
        state.request = state.request.wrapping_add(1);
        state.is_running = true;
    }

    pub(super) fn end_request(&self) {
        self.lock().is_running = false;
    }

    /// Interrupts the request that runs, if one does.
    pub(super) fn interrupt(&self) {
        self.interrupt_whom(1);
    }

    /// Interrupts the child and all that it started, as a Ctrl-C at a terminal would: the cell may
    /// be waiting for one of them, deaf meanwhile.
    pub(super) fn interrupt_all(&self) {
        self.interrupt_whom(-1);
    }

    fn interrupt_whom(&self, sign: i32) {
        let state = self.lock();
        if state.is_running {
            state.interrupt(sign, state.request);
        }
    }

    /// Tells the child that a request has been waiting for a while. What keeps it waiting is interrupted
    /// when it has been told so twice.
    pub(super) fn urge(&self) {
        self.lock().interrupt(1, 0);
    }

    /// Kills the child and all that it started and that stayed in its session.
    pub(super) fn kill(&self) {
        let state = self.lock();
        state.signal(-1, libc::SIGKILL);
        state.signal(1, libc::SIGKILL); // in case it is not in a session of its own
    }

    pub(super) fn has_exited(&self) -> bool {
        self.lock().child.as_ref().is_none_or(|(pid, _)| sys::has_exited(*pid))
    }

    /// Has the child reaped; nothing is signalled from then on.
    pub(super) fn reap(&self, reap: impl FnOnce() -> Option<ExitStatus>) -> Option<ExitStatus> {
        // While the child is not reaped, its number cannot be another's, nor that of its group.
        self.kill();
        let mut state = self.lock();
        let status = reap();
        state.child = None;
        status
    }
}

/// How the child ended.
#[derive(Debug)]
pub(super) struct Ending {
    /// Without being killed by us.
    pub(super) on_its_own: bool,
    pub(super) status: Option<ExitStatus>,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            _ if !self.on_its_own => f.write_str("it would not exit, and was killed"),
            Some(status) => status.fmt(f),
            None => f.write_str("exit status unknown"),
        }
    }
}
