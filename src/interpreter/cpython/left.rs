//! What a session would leave behind if its process were killed: how it is written down, and
//! removed.
//!
//! The child itself ends with us. What it has started may not, if that has left the child's
//! session; and nobody removes its directory.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::lease::{self, Lease, Reclaimed};

/// The environment variable by which a child, and what it starts, is known again.
pub(super) const MARK: &str = "SESSILE_LEASE";
const KIND: &str = "process";

#[derive(Serialize, Deserialize)]
pub(super) struct Left {
    /// What `MARK` is set to; no two children have the same.
    pub(super) mark: String,
    /// Its private directory, if it has one.
    pub(super) dir: Option<PathBuf>,
}

impl Left {
    /// Writes down a child that is about to be started.
    pub(super) fn write_down(has_dir: bool) -> Option<(Lease, Self)> {
        let describe = |name: &str| {
            let dir = has_dir.then(|| std::env::temp_dir().join(Self::dir_name(name)));
            Self { mark: name.to_owned(), dir }
        };
        Lease::take(KIND, describe).ok()
    }

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

    fn remove(self) -> bool {
        #[cfg(target_os = "linux")]
        let gone = end_marked(&self.mark);
        #[cfg(not(target_os = "linux"))]
        let gone = true;
        let removed = self.dir.is_none_or(|dir| fs::remove_dir_all(&dir).is_ok() || !dir.exists());
        gone && removed
    }
}

/// Removes what sessions of processes that are gone have left.
pub(in super::super) fn reclaim() -> Reclaimed {
    lease::reclaim(KIND, |owner, left: &Left| left.is_of(owner), Left::remove)
}

/// Kills all processes whose environment has the mark; whether none is left.
#[cfg(target_os = "linux")]
fn end_marked(mark: &str) -> bool {
    let entry = format!("{MARK}={mark}");
    let is_marked = |pid: libc::pid_t| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|one| one == entry.as_bytes())
    };
    // Again until there is none: one may have been starting another meanwhile.
    for _ in 0..100 {
        let Ok(processes) = fs::read_dir("/proc") else {
            return false;
        };
        let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let killed =
            pids.filter(|&pid| is_marked(pid) && crate::sys::kill_if(pid, || is_marked(pid)));
        if killed.count() == 0 {
            return true;
        }
        // Who has been killed is there until it has ended.
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    false
}
