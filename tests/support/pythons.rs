//! The Pythons of this machine, oldest first, for tests that are to hold on more than one.

#![allow(unreachable_pub, dead_code)] // each test binary has its own copy of it

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::{env, fs};

/// One of them.
#[derive(Clone, Debug)]
pub struct Python {
    pub program: PathBuf,
    /// Major, minor, patch.
    pub version: (u32, u32, u32),
}

/// The oldest that the crate supports.
pub const OLDEST: (u32, u32, u32) = (3, 9, 0);

/// All that are found: those of `pyenv`, and those on `PATH` by their versions' names.
pub fn all() -> &'static [Python] {
    static FOUND: LazyLock<Vec<Python>> = LazyLock::new(|| {
        let mut found: Vec<_> = candidates().iter().filter_map(|one| ask(one)).collect();
        found.sort_by_key(|python| python.version);
        found.dedup_by_key(|python| python.version);
        found
    });
    &FOUND
}

/// The oldest and the newest that are supported. Says which it took.
pub fn oldest_and_newest() -> Vec<Python> {
    let supported: Vec<_> = all().iter().filter(|python| python.version >= OLDEST).collect();
    let mut chosen: Vec<Python> = supported.first().into_iter().copied().cloned().collect();
    if supported.len() > 1 {
        chosen.extend(supported.last().copied().cloned());
    }
    let names = chosen.iter().map(|python| python.name()).collect::<Vec<_>>().join(" and ");
    println!("on Python {names}");
    assert!(!chosen.is_empty(), "no Python 3.9 or newer is installed");
    chosen
}

impl Python {
    pub fn name(&self) -> String {
        let (major, minor, patch) = self.version;
        format!("{major}.{minor}.{patch}")
    }
}

fn candidates() -> Vec<PathBuf> {
    let asked = || {
        let told = Command::new("pyenv").arg("root").output().ok()?;
        Some(PathBuf::from(String::from_utf8(told.stdout).ok()?.trim()))
    };
    let root = env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(asked);
    let versions = root.and_then(|root| fs::read_dir(root.join("versions")).ok());
    let managed = versions.into_iter().flatten().flatten();
    let mut found: Vec<_> = managed.map(|dir| dir.path().join("bin/python3")).collect();
    let path = env::var_os("PATH").unwrap_or_default();
    for dir in env::split_paths(&path) {
        found.push(dir.join("python3"));
        found.extend((6..20).map(|minor| dir.join(format!("python3.{minor}"))));
    }
    found.retain(|program| program.exists());
    found
}

fn ask(program: &Path) -> Option<Python> {
    let code = "import sys; print(*sys.version_info[:3])";
    let told = Command::new(program).args(["-c", code]).output().ok()?;
    let told = String::from_utf8(told.stdout).ok()?;
    let mut numbers = told.split_whitespace().map(|number| number.parse().ok());
    let version = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some(Python { program: program.to_owned(), version })
}
