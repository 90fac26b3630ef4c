//! Which Python: the choice, and the manager that makes it.

use anyhow::Result;
#[cfg(not(all(feature = "monty", feature = "cpython", feature = "jupyter", unix)))]
use anyhow::bail;
use clap::ValueEnum;
use sessile::Manager;
use sessile::interpreter::BoxInterpreter;

/// A manager of any engine.
pub(crate) type AnyManager = Box<dyn Manager<Instance = BoxInterpreter>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// Monty, a sandboxed subset of Python in this process: nothing to install.
    #[value(alias = "embedded")]
    Monty,
    /// The `python3` of this machine: a child process for each session.
    Cpython,
    /// Monty, and from the first cell that it cannot run, the `python3` of this machine.
    Fallback,
    /// Jupyter kernels behind a gateway: one for each session.
    Jupyter,
}

impl Engine {
    /// The first of those that this binary was built with.
    pub(crate) const BUILT_IN: Self = if cfg!(feature = "monty") || cfg!(not(unix)) {
        Self::Monty
    } else if cfg!(feature = "cpython") || cfg!(not(feature = "jupyter")) {
        Self::Cpython
    } else {
        Self::Jupyter
    };

    /// What people call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Monty => "Monty",
            Self::Cpython => "CPython",
            Self::Fallback => "Monty, then CPython",
            Self::Jupyter => "Jupyter",
        }
    }

    /// Whether `--confine` has something to hold.
    pub(crate) fn has_cpython(self) -> bool {
        matches!(self, Self::Cpython | Self::Fallback)
    }

    /// What its pool is called.
    pub(crate) fn pool(self) -> &'static str {
        match self {
            Self::Monty => "monty",
            Self::Cpython => "cpython",
            Self::Fallback => "fallback",
            Self::Jupyter => "jupyter",
        }
    }
}

/// Says which feature is missing in this binary.
#[cfg(not(all(feature = "monty", feature = "cpython", feature = "jupyter", unix)))]
pub(crate) fn not_built_in<T>(engine: Engine) -> Result<T> {
    let name = engine.name();
    let feature = if engine == Engine::Fallback { "monty,cpython" } else { engine.pool() };
    let unix = if engine.has_cpython() && !cfg!(unix) { ", on Unix" } else { "" };
    bail!("this binary was built without {name}: build it with `--features cli,{feature}`{unix}")
}

#[cfg(feature = "monty")]
pub(crate) fn monty() -> Result<AnyManager> {
    Ok(sessile::interpreter::boxed(sessile::interpreter::monty::MontyManager::new()))
}

#[cfg(not(feature = "monty"))]
pub(crate) fn monty() -> Result<AnyManager> {
    not_built_in(Engine::Monty)
}

#[cfg(all(feature = "cpython", unix))]
pub(crate) fn cpython(confine: bool) -> Result<AnyManager> {
    let manager = sessile::interpreter::cpython::CPythonManager::new();
    let manager = if confine { confined(manager)? } else { manager };
    Ok(sessile::interpreter::boxed(manager))
}

#[cfg(not(all(feature = "cpython", unix)))]
pub(crate) fn cpython(_confine: bool) -> Result<AnyManager> {
    not_built_in(Engine::Cpython)
}

#[cfg(all(feature = "monty", feature = "cpython", unix))]
pub(crate) fn fallback(confine: bool) -> Result<AnyManager> {
    use sessile::interpreter::{cpython, fallback, monty};
    let cpython = cpython::CPythonManager::new();
    let cpython = if confine { confined(cpython)? } else { cpython };
    let monty = monty::MontyManager::new();
    Ok(sessile::interpreter::boxed(fallback::FallbackManager::new(monty, cpython)))
}

#[cfg(not(all(feature = "monty", feature = "cpython", unix)))]
pub(crate) fn fallback(_confine: bool) -> Result<AnyManager> {
    not_built_in(Engine::Fallback)
}

#[cfg(all(feature = "confine", target_os = "linux"))]
pub(crate) fn confined(
    manager: sessile::interpreter::cpython::CPythonManager,
) -> Result<sessile::interpreter::cpython::CPythonManager> {
    Ok(manager.confine(sessile::interpreter::cpython::Confinement::strict()))
}

#[cfg(all(feature = "cpython", unix, not(all(feature = "confine", target_os = "linux"))))]
pub(crate) fn confined(
    _manager: sessile::interpreter::cpython::CPythonManager,
) -> Result<sessile::interpreter::cpython::CPythonManager> {
    anyhow::bail!(
        "this binary cannot confine CPython: build it with `--features cli,confine`, on Linux"
    )
}
