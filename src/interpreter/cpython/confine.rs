//! Confinement: a CPython that may run code that nobody has read. Linux only.
//!
//! [`Confinement`] says what a session may do; [`CPythonManager::confine`](super::CPythonManager::confine)
//! has every session of a manager start that way. The rules are the kernel's (Landlock and seccomp). They are
//! put on the child between `fork` and `exec`, so nothing of a cell ever runs without them, and
//! nothing that a cell starts can shed them.
//!
//! ```no_run
//! use sessile::interpreter::Interpreter;
//! use sessile::interpreter::cpython::{CPythonManager, Confinement};
//!
//! let mut python = CPythonManager::new().confine(Confinement::strict()).start()?;
//! let refused = python.run("open('/etc/passwd')")?;
//! assert_eq!(refused.error.unwrap().name, "PermissionError");
//! # Ok::<(), sessile::interpreter::InterpreterError>(())
//! ```
//!
//! `docs/security.md` says what is promised, against whom, and what is not.

mod calls;
mod disk;
mod files;
mod plan;
mod python;
mod user;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(super) use self::plan::Plan;

/// Where a session looks for programs.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Says what a session of CPython may do, and has the kernel hold it to that.
///
/// One begins with [`strict`](Self::strict), which allows next to nothing, and opens it step by
/// step. Every step names what becomes possible.
///
/// ```
/// use sessile::interpreter::cpython::Confinement;
///
/// let confinement = Confinement::strict()
///     .read("/srv/data")
///     .connect_tcp(5432)
///     .environment(["TZ", "LANG"]);
/// # let _ = confinement;
/// ```
///
/// # Threads
///
/// Any thread may make, clone and read one. It acts only when a manager starts a child with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    programs: Vec<PathBuf>,
    connect_tcp: Vec<u16>,
    bind_tcp: Vec<u16>,
    unix_sockets: Vec<PathBuf>,
    environment: Vec<OsString>,
    proc: bool,
    metadata: bool,
    processes: u64,
    user: Option<(u32, u32)>,
    limits: Limits,
    disk: u64,
    best_effort: bool,
}

/// What each process of a session may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    file_size: u64,
    open_files: u64,
}

impl Confinement {
    /// Allows a session to compute, and next to nothing else.
    ///
    /// It may read the files of its own Python and the system's shared libraries, and read and write
    /// [a directory of its own](super::CPythonManager::private_dir), which it always gets. It has no
    /// network, no socket by path, no other process, no `/proc`, none of this process's environment
    /// variables, and cannot change modes, owners or times of files. A file may have 1 GiB, the
    /// directory 1 GiB in all; 1,024 files may be open.
    #[must_use]
    pub fn strict() -> Self {
        Self {
            read: Vec::new(),
            write: Vec::new(),
            programs: Vec::new(),
            connect_tcp: Vec::new(),
            bind_tcp: Vec::new(),
            unix_sockets: Vec::new(),
            environment: Vec::new(),
            proc: false,
            metadata: false,
            processes: 0,
            user: None,
            limits: Limits { file_size: 1 << 30, open_files: 1024 },
            disk: 1 << 30,
            best_effort: false,
        }
    }

    /// Lets a session read a file, or a directory and all below it.
    ///
    /// A path that is not there when the session starts is an error of the start.
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let with_data = Confinement::strict().read("/srv/data");
    /// # let _ = with_data;
    /// ```
    #[must_use]
    pub fn read(mut self, path: impl Into<PathBuf>) -> Self {
        self.read.push(path.into());
        self
    }

    /// Lets a session read and write a file, or a directory and all below it.
    ///
    /// `multiprocessing` needs `.write("/dev/shm")` for its locks; what other sessions of the same user keep
    /// there can be reached then.
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let with_results = Confinement::strict().write("/srv/results");
    /// # let _ = with_results;
    /// ```
    #[must_use]
    pub fn write(mut self, path: impl Into<PathBuf>) -> Self {
        self.write.push(path.into());
        self
    }

    /// Lets a session run this program, which is confined as the session is.
    ///
    /// A session may only run it if it may have [other processes](Self::processes). For a script,
    /// the interpreter that its first line names has to be allowed as well.
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let with_git = Confinement::strict().processes(8).program("/usr/bin/git");
    /// # let _ = with_git;
    /// ```
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.programs.push(path.into());
        self
    }

    /// Lets a session have this many other processes (and threads) at once.
    ///
    /// The system counts by user (`RLIMIT_NPROC`), and what the user of this process has when the session
    /// starts is added. It does not count for root: a process of root's has its sessions run as [another
    /// user](Self::user). Default: 0, none; then a session may have some thousand threads.
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let with_pools = Confinement::strict().processes(64).write("/dev/shm");
    /// # let _ = with_pools;
    /// ```
    #[must_use]
    pub fn processes(mut self, most: u64) -> Self {
        self.processes = most;
        self
    }

    /// Lets a session connect to this TCP port, at any address.
    ///
    /// Names cannot be looked up, which takes UDP. Connecting is all: a session that is to be
    /// connected to needs [`bind_tcp`](Self::bind_tcp).
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let with_database = Confinement::strict().connect_tcp(5432);
    /// # let _ = with_database;
    /// ```
    #[must_use]
    pub fn connect_tcp(mut self, port: u16) -> Self {
        self.connect_tcp.push(port);
        self
    }

    /// Lets a session listen at this TCP port. 0 stands for a port that the system chooses.
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let with_server = Confinement::strict().bind_tcp(8080);
    /// # let _ = with_server;
    /// ```
    #[must_use]
    pub fn bind_tcp(mut self, port: u16) -> Self {
        self.bind_tcp.push(port);
        self
    }

    /// Lets a session connect to the socket at this path.
    ///
    /// Only a kernel with Landlock 9 or newer tells one path from another. An older one cannot hold a session to
    /// this, so the start fails there.
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let with_service = Confinement::strict().unix_socket("/run/service.sock");
    /// # let _ = with_service;
    /// ```
    #[must_use]
    pub fn unix_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.unix_sockets.push(path.into());
        self
    }

    /// Hands these environment variables of this process on to a session.
    ///
    /// Those that [`CPythonManager::env`](super::CPythonManager::env) sets are handed on anyway.
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let with_time_zone = Confinement::strict().environment(["TZ"]);
    /// # let _ = with_time_zone;
    /// ```
    #[must_use]
    pub fn environment<N: Into<OsString>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.environment.extend(names.into_iter().map(Into::into));
        self
    }

    /// Lets a session read `/proc`: which processes there are and what they are called.
    ///
    /// Memory and environment of processes outside the session stay closed.
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let for_psutil = Confinement::strict().keep_proc();
    /// # let _ = for_psutil;
    /// ```
    #[must_use]
    pub fn keep_proc(mut self) -> Self {
        self.proc = true;
        self
    }

    /// Lets a session change modes, owners, times and attributes of files: `os.chmod`,
    /// `shutil.copy`, `os.utime`.
    ///
    /// The kernel cannot hold these to a directory. So it becomes possible for *every* file that the session's user
    /// owns, wherever it lies.
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let for_copies = Confinement::strict().change_metadata();
    /// # let _ = for_copies;
    /// ```
    #[must_use]
    pub fn change_metadata(mut self) -> Self {
        self.metadata = true;
        self
    }

    /// Has sessions run as this user and group. Only root may do that.
    ///
    /// Default, where root starts a session: a number of its own from 61184 to 65519, which belong to
    /// nobody, if every user may read the interpreter's files; else root, without any of its
    /// capabilities.
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let as_another = Confinement::strict().user(1000, 1000);
    /// # let _ = as_another;
    /// ```
    #[must_use]
    pub fn user(mut self, user: u32, group: u32) -> Self {
        self.user = Some((user, group));
        self
    }

    /// Sets how many bytes a file may have that a session writes. Default: 1 GiB.
    ///
    /// More is an `OSError` in the cell: "File too large".
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let small = Confinement::strict().max_file_size(1 << 20);
    /// # let _ = small;
    /// ```
    #[must_use]
    pub fn max_file_size(mut self, bytes: u64) -> Self {
        self.limits.file_size = bytes;
        self
    }

    /// Sets how many files each process of a session may have open. Default: 1,024.
    ///
    /// More is an `OSError` in the cell: "Too many open files".
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let few = Confinement::strict().max_open_files(64);
    /// # let _ = few;
    /// ```
    #[must_use]
    pub fn max_open_files(mut self, files: u64) -> Self {
        self.limits.open_files = files;
        self
    }

    /// Sets how many bytes the session's directory may hold in all. Default: 1 GiB.
    ///
    /// The kernel has no such limit for a directory. Whoever waits for a cell looks some four times a
    /// second; a session that is over the limit is ended, and the error says so.
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let small = Confinement::strict().max_disk(64 << 20);
    /// # let _ = small;
    /// ```
    #[must_use]
    pub fn max_disk(mut self, bytes: u64) -> Self {
        self.disk = bytes;
        self
    }

    /// Starts sessions also where the kernel cannot hold them to all of this.
    ///
    /// [`CPython::enforcement`](super::CPython::enforcement) says what holds, and what does not.
    /// Without this, the start fails and names what cannot be had.
    ///
    /// ```
    /// # use sessile::interpreter::cpython::Confinement;
    /// let as_far_as_it_goes = Confinement::strict().best_effort();
    /// # let _ = as_far_as_it_goes;
    /// ```
    #[must_use]
    pub fn best_effort(mut self) -> Self {
        self.best_effort = true;
        self
    }
}

/// Tells what the kernel holds a session to, and what it does not.
///
/// ```no_run
/// use sessile::interpreter::cpython::{CPythonManager, Confinement};
///
/// let python = CPythonManager::new().confine(Confinement::strict().best_effort()).start()?;
/// let enforcement = python.enforcement().expect("it is confined");
/// println!("{enforcement}");
/// assert!(enforcement.is_complete());
/// # Ok::<(), sessile::interpreter::InterpreterError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Enforcement {
    /// What the kernel enforces, in words.
    pub holds: Vec<String>,
    /// What was asked for and is not enforced, each with the reason.
    pub missing: Vec<String>,
    /// The user and the group that the session runs as.
    pub user: (u32, u32),
}

impl Enforcement {
    /// Says whether all that was asked for is enforced.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    fn hold(&mut self, what: &str) {
        self.holds.push(what.to_owned());
    }
}

/// One line for each promise: `holds: ..` or `missing: ..`.
impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "runs as user {}, group {}", self.user.0, self.user.1)?;
        for what in &self.holds {
            writeln!(f, "holds: {what}")?;
        }
        for what in &self.missing {
            writeln!(f, "missing: {what}")?;
        }
        Ok(())
    }
}

/// What is kept of a child's confinement while the child lives.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) enforcement: Enforcement,
    disk: disk::Watch,
}

impl Held {
    /// Says what the session's directory holds, if it was time to look and that is too much.
    pub(super) fn overfull(&self) -> Option<String> {
        self.disk.look()
    }
}
