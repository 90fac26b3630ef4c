//! What a session would leave behind if its process were killed: how it is written down, and
//! removed.
//!
//! The child itself ends with us. What it has started may not, if that has left the child's
//! session; and nobody removes its directory.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::super::lease::{self, Lease, Reclaimed};
use super::remove_dir::remove_dir;

/// The environment variable by which a child, and what it starts, is known again.
pub(super) const MARK: &str = "SESSILE_LEASE";
const KIND: &str = "process";

#[derive(Debug)]
pub(super) struct Left {
    what: What,
    /// Where nothing can be written down, it goes without.
    _lease: Option<Lease>,
}

#[derive(Debug, Serialize, Deserialize)]
struct What {
    /// What `MARK` is set to; no two children have the same.
    mark: String,
    /// Its private directory, if it has one.
    dir: Option<PathBuf>,
    /// What has left the child's session lives on.
    #[serde(default)]
    keeps_detached: bool,
}

impl Left {
    /// Writes down a child that is about to be started.
    pub(super) fn write_down(has_dir: bool, keeps_detached: bool) -> Self {
        let describe = |name: &str| {
            let dir = has_dir.then(|| std::env::temp_dir().join(What::dir_name(name)));
            What { mark: name.to_owned(), dir, keeps_detached }
        };
        match Lease::take(KIND, describe) {
            Ok((lease, what)) => Self { what, _lease: Some(lease) },
            Err(_) => Self { what: describe(&unwritten()), _lease: None },
        }
    }

    pub(super) fn mark(&self) -> &str {
        &self.what.mark
    }

    pub(super) fn dir(&self) -> Option<&PathBuf> {
        self.what.dir.as_ref()
    }

    /// Ends what the child has started and what has left its session, unless it is to be kept.
    pub(super) fn end_detached(&self) {
        self.what.end_detached();
    }
}

/// A name that no other child has, where there is no lease to be named for.
fn unwritten() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{:x}-{number}", std::process::id(), since.as_nanos())
}

impl What {
    /// Whether this owner can have written it: its marks begin with its name, and a directory is called
    /// after its mark. So a lease that somebody forged leads to nothing of anybody else's.
    fn is_of(&self, owner: &str) -> bool {
        let number = self.mark.strip_prefix(owner).and_then(|rest| rest.strip_prefix('-'));
        let is_numbered = number.is_some_and(|number| number.parse::<u64>().is_ok());
        let name = Self::dir_name(&self.mark);
        let is_named = |dir: &PathBuf| dir.is_absolute() && dir.file_name() == Some(name.as_ref());
        is_numbered && self.dir.as_ref().is_none_or(is_named)
    }

    fn dir_name(mark: &str) -> String {
        format!("sessile-dir-{mark}")
    }

    /// Whether none is left.
    fn end_detached(&self) -> bool {
        #[cfg(target_os = "linux")]
        return self.keeps_detached || end_marked(&self.mark);
        #[cfg(not(target_os = "linux"))]
        true
    }

    fn remove(self) -> bool {
        let gone = self.end_detached();
        let removed = self.dir.is_none_or(|dir| remove_dir(&dir).is_ok());
        gone && removed
    }
}

/// Removes what sessions of processes that are gone have left.
pub(in super::super) fn reclaim() -> Reclaimed {
    lease::reclaim(KIND, |owner, what: &What| what.is_of(owner), What::remove)
}

/// Kills all processes whose environment has the mark; whether none is left.
#[cfg(target_os = "linux")]
fn end_marked(mark: &str) -> bool {
    let entry = format!("{MARK}={mark}");
    let is_marked = |pid: libc::pid_t| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|one| one == entry.as_bytes())
    };
    // Amid an `exec` a process has no environment for a moment, although who started it was told
    // already that all is well. Others have none at all.
    let is_unclear = |pid: libc::pid_t| {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| environment.is_empty())
            && fs::read_link(format!("/proc/{pid}/exe")).is_ok()
    };
    // Again until there is none: one may have been starting another meanwhile.
    for turn in 0..100 {
        let Ok(processes) = fs::read_dir("/proc") else {
            return false;
        };
        let (mut killed, mut unclear) = (false, false);
        for entry in processes.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            unclear |= is_unclear(pid);
            killed |= is_marked(pid) && crate::sys::kill_if(pid, || is_marked(pid));
        }
        if !killed && (!unclear || turn >= 5) {
            return true;
        }
        // Who has been killed is there until it has ended.
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    false
}
