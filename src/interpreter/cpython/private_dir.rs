//! A directory of one session's own.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::left::Left;
use super::remove_dir::remove_dir;

/// Made empty, for this user only; removed with all that is in it when dropped.
#[derive(Debug)]
pub(super) struct PrivateDir(PathBuf);

impl PrivateDir {
    /// Where it is written down to be.
    pub(super) fn new(left: &Left) -> io::Result<Self> {
        let path = left.dir().cloned().ok_or(io::ErrorKind::NotFound)?;
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
        let _ = remove_dir(&self.0);
    }
}
