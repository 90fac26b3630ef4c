//! Which user a confined session runs as, and how a child becomes that user.

// System calls between `fork` and `exec`.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Numbers of users that own nothing, which systems set aside for passing use (systemd's range).
const PASSING: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// A number for one session. Sessions that happen to get the same one count their processes together;
/// everything else that parts them does not depend on it.
fn passing() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let many = PASSING.end() - PASSING.start() + 1;
    // Another process begins elsewhere.
    let begin = std::process::id().wrapping_mul(61);
    PASSING.start() + begin.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)) % many
}

/// What becomes of the child's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// It stays who it is: an ordinary user.
    Own,
    /// Root turns into this user and group.
    Other(u32, u32),
    /// Root stays root by number, without what root may do beyond others.
    Powerless,
}

impl Identity {
    /// Chooses; `needed` are the files that the user must be able to read.
    pub(super) fn choose<'a>(
        asked: Option<(u32, u32)>,
        needed: impl Iterator<Item = &'a Path>,
    ) -> Result<Self, String> {
        let is_root = crate::sys::user() == 0;
        match asked {
            Some((user, group)) if is_root => Ok(Self::Other(user, group)),
            Some((user, _)) if user == crate::sys::user() => Ok(Self::Own),
            Some((user, _)) => Err(format!("only root may start a session as user {user}")),
            None if !is_root => Ok(Self::Own),
            None => {
                let user = passing();
                let may = is_known(user) && needed.into_iter().all(anybody_may_read);
                Ok(if may { Self::Other(user, user) } else { Self::Powerless })
            }
        }
    }

    pub(super) fn ids(self) -> (u32, u32) {
        match self {
            Self::Other(user, group) => (user, group),
            // SAFETY: no arguments; it cannot fail.
            Self::Own | Self::Powerless => (crate::sys::user(), unsafe { libc::getegid() }),
        }
    }

    /// Turns the calling process into that user. Between `fork` and `exec`: system calls only.
    pub(super) fn apply(self) -> io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other(user, group) => {
                // By the system call itself: the library's function would ask other threads to do the
                // same, and a fork has none.
                // SAFETY: valid: no group is listed, so the pointer is not followed.
                check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) })?;
                // SAFETY: numbers only.
                check(unsafe { libc::syscall(libc::SYS_setresgid, group, group, group) })?;
                // SAFETY: numbers only.
                check(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) })?;
                Ok(())
            }
            Self::Powerless => give_up_capabilities(),
        }
    }
}

fn check(outcome: libc::c_long) -> io::Result<()> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether there is such a user here: in a user name space there are only those that were mapped.
fn is_known(user: u32) -> bool {
    let maps = ["/proc/self/uid_map", "/proc/self/gid_map"];
    maps.into_iter().map(|map| fs::read_to_string(map).unwrap_or_default()).all(|map| {
        map.lines().any(|line| {
            let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>());
            match (numbers.next(), numbers.nth(1)) {
                (Some(Ok(first)), Some(Ok(many))) => (first..first + many).contains(&user.into()),
                _ => false,
            }
        })
    })
}

/// How many threads this user has, as `RLIMIT_NPROC` counts them; looked at once in a while.
pub(super) fn tasks() -> u64 {
    static SEEN: Mutex<Option<(Instant, u64)>> = Mutex::new(None);
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, count)) = *seen
        && at.elapsed() < Duration::from_secs(5)
    {
        return count;
    }
    let of_us = |status: &str| {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        (field("Uid:")? == u64::from(crate::sys::user())).then(|| field("Threads:"))?
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let statuses = processes.filter_map(|one| fs::read_to_string(one.path().join("status")).ok());
    let count = statuses.filter_map(|status| of_us(&status)).sum();
    *seen = Some((Instant::now(), count));
    count
}

/// Whether every user may read this file or list this directory, and get there.
fn anybody_may_read(path: &Path) -> bool {
    let Ok(real) = fs::canonicalize(path) else {
        return true; // not there: nobody reads it
    };
    let mode = |path: &Path| fs::metadata(path).map_or(0, |found| found.mode());
    let reads = mode(&real) & if real.is_dir() { 0o005 } else { 0o004 };
    reads == (if real.is_dir() { 0o005 } else { 0o004 })
        && real.ancestors().skip(1).all(|above| mode(above) & 0o001 != 0)
}

/// Root by number only: no capability now, none at the next `exec`, and none that could be had back.
fn give_up_capabilities() -> io::Result<()> {
    /// `SECBIT_NOROOT`, `SECBIT_NO_SETUID_FIXUP`, `SECBIT_KEEP_CAPS` off, ambient ones refused; each locked.
    const SECURE: libc::c_ulong = 0b1110_1111;
    for capability in 0..64 {
        // SAFETY: numbers only. Those that the kernel does not know are refused, which is as well.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) };
    }
    // SAFETY: numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECURE, 0, 0, 0) }.into())?;

    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let none = [0_u32; 6]; // effective, permitted, inheritable: twice 32 of each
    // SAFETY: valid: header and sets have the layout of version 3 of the call, and outlive it.
    // Aliasing: both are ours; the kernel may write the version into the header only if it is unknown.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) })
}
