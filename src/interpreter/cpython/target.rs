//! Who signals go to.

use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};

use crate::sys;

/// Sends signals to the child from any thread, as long as it is there to receive them.
#[derive(Debug)]
pub(super) struct Target {
    /// `None` once reaped: from then on the number may be anybody's.
    pid: Mutex<Option<libc::pid_t>>,
}

impl Target {
    pub(super) fn new(pid: libc::pid_t) -> Self {
        Self { pid: Mutex::new(Some(pid)) }
    }

    pub(super) fn interrupt(&self) {
        self.signal(1, libc::SIGINT);
    }

    /// Interrupts the child and all that it started, as a Ctrl-C at a terminal would: the cell may
    /// be waiting for one of them, deaf meanwhile.
    pub(super) fn interrupt_all(&self) {
        self.signal(-1, libc::SIGINT);
    }

    /// Kills the child and all that it started and that stayed in its session.
    pub(super) fn kill(&self) {
        self.signal(-1, libc::SIGKILL);
        self.signal(1, libc::SIGKILL); // in case it is not in a session of its own
    }

    fn signal(&self, sign: i32, signal: i32) {
        let pid = self.pid.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = *pid {
            sys::kill(sign * pid, signal);
        }
    }

    pub(super) fn has_exited(&self) -> bool {
        let pid = self.pid.lock().unwrap_or_else(PoisonError::into_inner);
        pid.is_none_or(sys::has_exited)
    }

    /// Has the child reaped; nothing is signalled from then on.
    pub(super) fn reap(&self, reap: impl FnOnce() -> Option<ExitStatus>) -> Option<ExitStatus> {
        // While the child is not reaped, its number cannot be another's, nor that of its group.
        self.kill();
        let mut pid = self.pid.lock().unwrap_or_else(PoisonError::into_inner);
        let status = reap();
        *pid = None;
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
