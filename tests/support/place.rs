//! A directory of temporary files of a test's own, and processes in it: this test program, run again
//! in another role.

#![allow(dead_code, unreachable_pub)] // each test binary uses its own part of it

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Removed at the end, with what is in it.
pub struct Place(pub PathBuf);

impl Place {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sessile-test-leases-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn run_as(&self, role: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([role, "--exact", "--ignored", "--nocapture", "--quiet"]);
        command.env("TMPDIR", &self.0);
        command
    }

    /// All that lies there, but for the lock of all.
    pub fn left(&self) -> Vec<PathBuf> {
        let (mut todo, mut found) = (vec![self.0.clone()], Vec::new());
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    todo.push(path.clone());
                }
                found.push(path.strip_prefix(&self.0).unwrap().to_owned());
            }
        }
        // The directory of all owners, and the lock in it, stay.
        found.retain(|path| {
            path.components().count() > 1 && !path.ends_with("lock")
                || path.components().count() == 1 && !self.0.join(path).join("lock").exists()
        });
        found
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How many things such a process has removed, and could not remove.
pub fn reclaimed_by(mut command: Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find_map(|line| line.strip_prefix("reclaimed "));
    line.unwrap_or_else(|| panic!("{said}")).to_owned()
}
