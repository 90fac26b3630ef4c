//! A virtual environment of the tests' and benchmarks' own, pinned, made once under `target/`.

#![allow(unreachable_pub)] // each test binary has its own copy of it

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// For tests: the Python interpreter of an environment with these requirements.
#[allow(dead_code)] // benchmarks have no such folder
pub fn python(requirements: &Path) -> PathBuf {
    let Some(temporary) = option_env!("CARGO_TARGET_TMPDIR") else {
        panic!("cargo sets it for tests");
    };
    let target = Path::new(temporary).parent().expect("it is a folder of `target`");
    python_in(&target.join("venvs"), requirements).unwrap()
}

/// The Python interpreter of an environment with these requirements, in this folder of environments.
///
/// It takes its packages from where `pip` is set up to. Threads of one process wait for each other;
/// cargo runs one process after the other.
pub fn python_in(venvs: &Path, requirements: &Path) -> Result<PathBuf, String> {
    let system = ["python3.12", "python3.13", "python3"]
        .into_iter()
        .find(|python| run(Command::new(python).arg("--version")).is_ok())
        .ok_or("Python 3 is not installed")?;
    make(venvs, Path::new(system), requirements)
}

/// For tests: the interpreter of an environment with these requirements, of Python 3.12 if one is to be
/// had: on the path, or among what a version manager keeps; else of what there is.
#[allow(dead_code)] // not all need it
pub fn python_312(requirements: &Path) -> PathBuf {
    let Some(temporary) = option_env!("CARGO_TARGET_TMPDIR") else {
        panic!("cargo sets it for tests");
    };
    let venvs = Path::new(temporary).parent().expect("it is a folder of `target`").join("venvs");
    let kept = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let kept =
        kept.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv")));
    let versions = kept.and_then(|kept| fs::read_dir(kept.join("versions")).ok());
    let kept = versions.into_iter().flatten().flatten().map(|version| version.path());
    let kept = kept.map(|version| version.join("bin/python3.12"));
    let mut known = std::iter::once(PathBuf::from("python3.12")).chain(kept);
    match known.find(|python| run(Command::new(python).arg("--version")).is_ok()) {
        Some(python) => make(&venvs, &python, requirements).unwrap(),
        None => python_in(&venvs, requirements).unwrap(),
    }
}

fn make(venvs: &Path, system: &Path, requirements: &Path) -> Result<PathBuf, String> {
    let told = |error: io::Error| error.to_string();
    let wanted = fs::read_to_string(requirements).map_err(told)?;
    let mut hasher = DefaultHasher::new();
    (system, &wanted).hash(&mut hasher);
    fs::create_dir_all(venvs).map_err(told)?;
    let home = venvs.join(format!("{:016x}", hasher.finish()));
    let python = home.join("bin/python");
    let done = home.join("is-complete");

    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if !done.exists() {
        let _ = fs::remove_dir_all(&home);
        run(Command::new(system).args(["-m", "venv"]).arg(&home))?;
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        run(Command::new(&python).args(install).arg(requirements))?;
        File::create(done).map_err(told)?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {}\n{said}", output.status))
    }
}
