//! A virtual environment of the tests' own, pinned, made once under `target/`.

#![allow(dead_code, unreachable_pub)] // each test binary uses its own part of it

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The Python interpreter of an environment with these requirements.
///
/// It takes its packages from where `pip` is set up to. Tests of one process wait for each other;
/// cargo runs one after the other.
pub fn python(requirements: &Path) -> PathBuf {
    let system = ["python3.12", "python3.13", "python3"]
        .into_iter()
        .find(|python| runs(Command::new(python).arg("--version")))
        .expect("Python 3 is installed");
    let wanted = fs::read_to_string(requirements).unwrap();
    let mut hasher = DefaultHasher::new();
    (system, &wanted).hash(&mut hasher);
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("venvs");
    fs::create_dir_all(&target).unwrap();
    let home = target.join(format!("{:016x}", hasher.finish()));
    let python = home.join("bin/python");
    let done = home.join("is-complete");

    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if !done.exists() {
        let _ = fs::remove_dir_all(&home);
        run(Command::new(system).args(["-m", "venv"]).arg(&home));
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        run(Command::new(&python).args(install).arg(requirements));
        File::create(done).unwrap();
    }
    python
}

fn runs(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
}
