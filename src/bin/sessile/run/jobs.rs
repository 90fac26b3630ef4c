//! What there is to run: a table of cases, a notebook, or cells in a Python file.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::notebook::Notebook;

/// What `sessile run` runs when it is given no file.
const SNIPPETS: &str = include_str!("../../../../examples/data/snippets.json");

pub(super) enum Jobs {
    /// Cases with the outcome that is expected of each cell.
    Cases(Vec<Case>),
    /// Cells to be run in order, in one session.
    Notebook(Notebook),
}

#[derive(Deserialize)]
struct Table {
    cases: Vec<Case>,
}

/// Cells that share their variables.
#[derive(Deserialize)]
pub(super) struct Case {
    pub(super) id: String,
    /// Whether a plain Python does the same as the one that the expectations were taken from.
    #[serde(default = "yes")]
    pub(super) holds_for_plain_exec: bool,
    #[serde(default)]
    pub(super) tags: Vec<String>,
    pub(super) cells: Vec<Cell>,
}

#[derive(Deserialize)]
pub(super) struct Cell {
    pub(super) code: String,
    pub(super) timeout_s: Option<f64>,
    #[serde(default = "yes")]
    pub(super) plain_exec_same: bool,
    pub(super) expected: Value,
}

fn yes() -> bool {
    true
}

/// Reads a file by its ending; without one, the snippets that are built in.
pub(super) fn read(file: Option<&Path>) -> Result<Jobs> {
    let Some(path) = file else { return table(SNIPPETS).map(Jobs::Cases) };
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let jobs = match path.extension().and_then(|ending| ending.to_str()) {
        Some("ipynb") => Notebook::from_json(&text).map(Jobs::Notebook),
        Some("py") => Ok(Jobs::Notebook(Notebook::from_python(&text))),
        Some("json") | None => table(&text).map(Jobs::Cases),
        Some(other) => bail!(
            "{}: no jobs end in `.{other}`; what can be run is a notebook (`.ipynb`), Python \
             (`.py`, with `# %%` between cells) or a table of cases (`.json`)",
            path.display()
        ),
    };
    jobs.with_context(|| path.display().to_string())
}

fn table(text: &str) -> Result<Vec<Case>> {
    let Table { cases } = serde_json::from_str(text).context("this is no table of cases")?;
    Ok(cases)
}
