//! All that has to be ready before a confined child is started, and its putting on.

// Runs between `fork` and `exec`: system calls only.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::super::Settings;
use super::calls::Filters;
use super::python::Files;
use super::user::Identity;
use super::{Confinement, Enforcement, Held, Limits, calls, disk, files, python, user};

/// How many threads a session may have that may have no other process.
const MOST_THREADS: u64 = 1024;

/// Ready to be put on one child.
pub(in super::super) struct Plan {
    python: Arc<Files>,
    dir: PathBuf,
    identity: Identity,
    rules: Option<OwnedFd>,
    filters: Filters,
    limits: Limits,
    tasks: Option<u64>,
    held: Held,
}

impl Plan {
    /// Prepares a child that will have `dir` as its own. The error says what cannot be had.
    pub(in super::super) fn new(
        asked: &Confinement,
        settings: &Settings,
        dir: &Path,
    ) -> Result<Self, String> {
        let python = python::files(
            &settings.python,
            &settings.args,
            &settings.env,
            settings.current_dir.as_ref(),
        )?;
        let needed = python.read.iter().chain(&asked.read).chain(&asked.programs);
        let identity = Identity::choose(asked.user, needed.map(PathBuf::as_path))?;
        let mut enforcement = Enforcement { user: identity.ids(), ..Enforcement::default() };
        let rules = files::rules(asked, &python, dir, &mut enforcement)?;
        let filters = calls::filters(asked, files::knows_socket_paths())?;
        enforcement
            .hold("system calls that lead outside are refused, sockets but TCP's among them");
        // Of what the system counts, which is threads, by user; and for nobody whose number is 0.
        let beside = if identity == Identity::Own { user::tasks() } else { 0 };
        let tasks = match asked.processes {
            0 => {
                enforcement.hold("no other process can be started");
                (enforcement.user.0 != 0).then(|| beside * 2 + MOST_THREADS)
            }
            _ if enforcement.user.0 == 0 => {
                let what = "the number of processes is not limited: the session runs as root, since other users \
                            cannot read this interpreter; take one that they can, or name a user that can";
                if !asked.best_effort {
                    return Err(what.to_owned());
                }
                enforcement.missing.push(what.to_owned());
                None
            }
            most => {
                enforcement.hold("the number of processes is limited");
                Some(beside + most)
            }
        };
        if let Identity::Other(user, group) = identity {
            std::os::unix::fs::chown(dir, Some(user), Some(group)).map_err(|error| {
                format!("{} cannot be given to user {user}: {error}", dir.display())
            })?;
        }
        enforcement.hold("sizes of files, the session's directory, and open files are limited");
        let held = Held { enforcement, disk: disk::Watch::new(dir, asked.disk) };
        let dir = dir.to_owned();
        Ok(Self { python, dir, identity, rules, filters, limits: asked.limits, tasks, held })
    }

    /// What to start.
    pub(in super::super) fn command(&self) -> &Path {
        &self.python.command
    }

    /// Leaves the child only these variables of this process's, and tells it where its files go.
    pub(in super::super) fn clear_environment(&self, asked: &Confinement, command: &mut Command) {
        command.env_clear();
        for name in &asked.environment {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        for name in ["HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"] {
            command.env(name, &self.dir);
        }
        command.env("PATH", super::PATH);
        // Bytecode goes nowhere but into the session's directory, where nobody reads it again.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("LANG", "C.UTF-8");
    }

    /// Has the child become its user, before anything else is done to it.
    pub(in super::super) fn become_user(&self, command: &mut Command) {
        let identity = self.identity;
        // SAFETY: between fork and exec this makes system calls only: it allocates nothing, takes no
        // lock, and touches no memory that another thread may be changing.
        unsafe { command.pre_exec(move || identity.apply()) };
    }

    /// Has the child put the rules on, as the last thing before it becomes Python. What comes back is
    /// to be kept as long as the child lives.
    pub(in super::super) fn restrict(self, command: &mut Command) -> Held {
        let Self { rules, filters, limits, tasks, held, .. } = self;
        let restrict = move || {
            set(libc::RLIMIT_FSIZE, limits.file_size)?;
            set(libc::RLIMIT_NOFILE, limits.open_files)?;
            set(libc::RLIMIT_CORE, 0)?;
            // Timers count as pending signals, by user.
            set(libc::RLIMIT_SIGPENDING, MOST_THREADS)?;
            if let Some(most) = tasks {
                set(libc::RLIMIT_NPROC, most)?;
            }
            // Whatever this process holds open without knowing.
            // SAFETY: numbers only.
            check(unsafe {
                libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC)
            })?;
            // SAFETY: numbers only.
            check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
            if let Some(rules) = &rules {
                // SAFETY: numbers only; the descriptor is open, for `rules` holds it.
                check(unsafe {
                    libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0)
                })?;
            }
            for filter in [&filters.unknown, &filters.unsupported, &filters.refused] {
                seccompiler::apply_filter(filter).map_err(|_| io::Error::last_os_error())?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec this makes system calls only: it allocates nothing (errors are
        // numbers), takes no lock, and touches no memory that another thread may be changing.
        unsafe { command.pre_exec(restrict) };
        held
    }
}

/// `close_range` marks descriptors as to be closed by `exec`; ours have to last until then.
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

fn set(resource: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: valid: `limit` is a whole `rlimit`. Aliasing: it is ours.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) }.into())?;
    // Never more than this process may have itself.
    let most = most.min(limit.rlim_max);
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: valid: `limit` is a whole `rlimit`, and only read. Aliasing: it is ours.
    check(unsafe { libc::setrlimit(resource, &raw const limit) }.into())
}

fn check(outcome: libc::c_long) -> io::Result<()> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
