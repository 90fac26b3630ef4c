//! A directory of one session's own.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::lease::Lease;
use super::left::Left;

/// Made empty, for this user only; removed with all that is in it when dropped.
#[derive(Debug)]
pub(super) struct PrivateDir(PathBuf);

impl PrivateDir {
    /// Where the lease says, if there is one.
    pub(super) fn new(lease: Option<&(Lease, Left)>) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unwritten = || {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            std::env::temp_dir().join(format!("sessile-dir-{}-{number}", std::process::id()))
        };
        let path = lease.and_then(|(_, left)| left.dir.clone()).unwrap_or_else(unwritten);
        // Never one that was there before, so nobody can have put anything into it.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // What cannot be removed, as after the user's own `chmod`, is left for whoever may.
        let _ = fs::remove_dir_all(&self.0);
    }
}
