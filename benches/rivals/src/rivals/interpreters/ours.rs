//! Our three engines, without a pool: what a session costs itself.

use std::time::{Duration, Instant};

use sessile::interpreter::cpython::{CPython, CPythonManager, Confinement};
use sessile::interpreter::jupyter::{Gateway, Jupyter, JupyterManager};
use sessile::interpreter::monty::{Monty, MontyManager};
use sessile::interpreter::{ExecuteOptions, Interpreter};

use super::gateway::TOKEN;
use super::{CELL, Parts, Session};

/// How long spares may take to be warm.
const WARM: Duration = Duration::from_secs(60);

/// Runs a cell, and looks at its value.
///
/// # Panics
///
/// If that is not 2.
pub fn run(python: &mut impl Interpreter, options: &ExecuteOptions) {
    let execution = python.execute(CELL, options).expect("the engine lives");
    assert_eq!(execution.text(), Some("2"));
}

fn run_all(python: &mut impl Interpreter, times: u64) -> Duration {
    let options = ExecuteOptions::new();
    let begun = Instant::now();
    for _ in 0..times {
        run(python, &options);
    }
    begun.elapsed()
}

/// The number of a session's process.
fn process(python: &mut impl Interpreter) -> Option<u32> {
    let execution = python.run("import os\nos.getpid()").expect("the engine lives");
    execution.text().and_then(|number| number.parse().ok())
}

#[must_use]
pub fn cpython(parts: &Parts) -> CPythonManager {
    CPythonManager::new().python(&parts.python)
}

/// # Panics
///
/// If the gateway's address is none.
#[must_use]
pub fn jupyter(parts: &Parts) -> JupyterManager {
    let gateway = Gateway::new(format!("http://127.0.0.1:{}", parts.port)).token(TOKEN);
    JupyterManager::new(gateway).expect("this is an address")
}

pub struct OurMonty(Option<Monty>);

impl Session for OurMonty {
    const NAME: &'static str = "sessile, Monty";

    fn new(_: &Parts) -> Self {
        Self(None)
    }

    /// The end of the session before is in the time: it is part of what this process can do a second.
    fn start(&mut self) -> Duration {
        let options = ExecuteOptions::new();
        let begun = Instant::now();
        run(self.0.insert(MontyManager::new().start()), &options);
        begun.elapsed()
    }

    fn cells(&mut self, times: u64) -> Duration {
        run_all(self.0.as_mut().expect("it was started"), times)
    }

    fn process(&mut self) -> Option<u32> {
        None
    }
}

/// A child process: a new one, or a spare that is warm.
pub struct OurCPython<const SPARE: bool> {
    manager: CPythonManager,
    python: Option<CPython>,
}

impl<const SPARE: bool> Session for OurCPython<SPARE> {
    const NAME: &'static str =
        if SPARE { "sessile, CPython from a warm spare" } else { "sessile, CPython" };

    fn new(parts: &Parts) -> Self {
        Self { manager: cpython(parts).spares(usize::from(SPARE)), python: None }
    }

    fn start(&mut self) -> Duration {
        self.python = None;
        if SPARE {
            assert!(self.manager.warm_up(WARM), "a spare is warm within {WARM:?}");
        }
        let options = ExecuteOptions::new();
        let begun = Instant::now();
        run(self.python.insert(self.manager.start().expect("Python starts")), &options);
        begun.elapsed()
    }

    fn cells(&mut self, times: u64) -> Duration {
        run_all(self.python.as_mut().expect("it was started"), times)
    }

    fn process(&mut self) -> Option<u32> {
        self.python.as_mut().and_then(process)
    }
}

/// A child process that Landlock and seccomp hold.
pub struct OurConfined {
    manager: CPythonManager,
    python: Option<CPython>,
}

impl OurConfined {
    /// Whether this kernel can hold it.
    ///
    /// # Errors
    ///
    /// If it cannot: what is missing.
    pub fn is_there(parts: &Parts) -> Result<(), String> {
        Self::new(parts).manager.start().map(drop).map_err(|error| error.to_string())
    }
}

impl Session for OurConfined {
    const NAME: &'static str = "sessile, CPython confined";

    fn new(parts: &Parts) -> Self {
        Self { manager: cpython(parts).confine(Confinement::strict()), python: None }
    }

    fn start(&mut self) -> Duration {
        self.python = None;
        let options = ExecuteOptions::new();
        let begun = Instant::now();
        run(self.python.insert(self.manager.start().expect("Python starts")), &options);
        begun.elapsed()
    }

    fn cells(&mut self, times: u64) -> Duration {
        run_all(self.python.as_mut().expect("it was started"), times)
    }

    fn process(&mut self) -> Option<u32> {
        self.python.as_mut().and_then(process)
    }
}

pub struct OurJupyter {
    manager: JupyterManager,
    kernel: Option<Jupyter>,
}

impl Session for OurJupyter {
    const NAME: &'static str = "sessile, Jupyter";

    fn new(parts: &Parts) -> Self {
        Self { manager: jupyter(parts), kernel: None }
    }

    fn start(&mut self) -> Duration {
        self.kernel = None;
        let options = ExecuteOptions::new();
        let begun = Instant::now();
        run(self.kernel.insert(self.manager.start().expect("a kernel starts")), &options);
        begun.elapsed()
    }

    fn cells(&mut self, times: u64) -> Duration {
        run_all(self.kernel.as_mut().expect("it was started"), times)
    }

    fn process(&mut self) -> Option<u32> {
        self.kernel.as_mut().and_then(process)
    }
}
