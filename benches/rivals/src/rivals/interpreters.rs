//! Sessions of Python, ours and others'.

pub mod bare;
pub mod clients;
pub mod gateway;
pub mod monty_pool;
pub mod ours;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::venv;

/// What is run. All say that it is 2.
pub const CELL: &str = "1+1";

/// What sessions are made of.
#[derive(Clone)]
pub struct Parts {
    /// Python, in an environment that has everybody's packages.
    pub python: PathBuf,
    /// The worker of `monty-pool`.
    pub monty: PathBuf,
    /// The gateway's port.
    pub port: u16,
    /// The number of the gateway's process.
    pub gateway: u32,
}

impl Parts {
    /// Makes the environment. The gateway is started later, so it has no port and no number yet.
    ///
    /// # Errors
    ///
    /// If there is no Python, or its packages cannot be had.
    pub fn install() -> Result<Self, String> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let requirements = package.join("src/rivals/interpreters/requirements.txt");
        let python = venv::python_in(&package.join("../../target/venvs"), &requirements)?;
        let bin = python.parent().expect("it is in a folder");
        // Without its dots. The link to the system's Python is kept: it is what makes an environment.
        let bin = fs::canonicalize(bin).map_err(|error| error.to_string())?;
        Ok(Self { python: bin.join("python"), monty: bin.join("monty"), port: 0, gateway: 0 })
    }

    /// The system's Python, and nothing else.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn python_only() -> Result<Self, String> {
        // Not `python3` itself, which may be a script that looks for the Python to start.
        let asked =
            Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
        let asked = asked.map_err(|error| format!("python3: {error}"))?;
        let python = String::from_utf8(asked.stdout).map_err(|error| error.to_string())?;
        match python.trim() {
            "" => Err("python3 does not say where it is".to_owned()),
            python => Ok(Self::of_python(python)),
        }
    }

    /// This Python, and nothing else.
    #[must_use]
    pub fn of_python(python: &str) -> Self {
        Self { python: python.into(), monty: PathBuf::new(), port: 0, gateway: 0 }
    }
}

/// A session of Python.
pub trait Session: Sized + 'static {
    /// What the tables call it.
    const NAME: &'static str;

    /// Makes ready what it needs to start, and starts nothing.
    fn new(parts: &Parts) -> Self;

    /// Ends what was started before; then starts, and runs the cell once. Gives the time of the second
    /// part.
    fn start(&mut self) -> Duration;

    /// Runs the cell so many times.
    fn cells(&mut self, times: u64) -> Duration;

    /// The number of the process that has the session, if that is another.
    fn process(&mut self) -> Option<u32>;
}
