//! Whether a cell did what its table expects.

use serde_json::Value;
use sessile::interpreter::{Execution, InterpreterError};

use super::jobs::{Case, Cell};
use crate::engine::Engine;

/// What came of one cell.
pub(super) enum Verdict {
    AsExpected,
    /// The engine does not have what the cell needs; the rest of the case would miss it too.
    NotForThisEngine(String),
    Wrong(String),
}

/// Compares what the case states, as far as the engine can do it.
pub(super) fn judge(
    engine: Engine,
    case: &Case,
    cell: &Cell,
    outcome: &Result<Execution, InterpreterError>,
) -> Verdict {
    let is_plain = case.holds_for_plain_exec && cell.plain_exec_same;
    if engine != Engine::Jupyter && (!is_plain || case.tags.iter().any(|t| t == "ipython")) {
        return Verdict::NotForThisEngine("needs IPython".into());
    }
    let status = cell.expected["status"].as_str().unwrap_or("ok");
    let got = match outcome {
        Ok(got) => got,
        Err(error) if error.is_timeout() && status == "restarted by the runner" => {
            return Verdict::AsExpected;
        }
        Err(error) if error.state_lost() && status == "dead" => return Verdict::AsExpected,
        Err(error) => return Verdict::Wrong(error.to_string()),
    };
    let error = got.error.as_ref();
    let fields = [
        ("status", Some(if got.is_ok() { "ok" } else { "error" }.into())),
        ("stdout", Some(got.stdout())),
        ("stderr", Some(got.stderr())),
        ("result", got.text().map(str::to_owned)),
        ("ename", error.map(|error| error.name.clone())),
        ("evalue", error.map(|error| error.value.clone())),
    ];
    let wrong = fields.iter().find(|(field, got)| match (&cell.expected[*field], got) {
        // Left out on purpose: one that varies, or words that each version puts differently.
        (Value::Null, _) if matches!(*field, "evalue" | "stdout" | "stderr") => false,
        (expected, got) => !same(expected, got.as_deref()),
    });
    let Some((field, found)) = wrong else { return Verdict::AsExpected };
    let wanted = &cell.expected[*field];
    let parser = wanted == "IndentationError" && found.as_deref() == Some("SyntaxError");
    let reason = match error.and_then(|error| lack(&error.name, &error.value)) {
        Some(lack) => lack,
        None if *field == "stdout" && !got.late.is_empty() => {
            "it keeps late output of earlier cells apart".into()
        }
        None if got.timed_out && status == "restarted by the runner" => {
            "it can stop what was not to be stopped".into()
        }
        None if engine == Engine::Monty && (*field == "evalue" || parser) => {
            "it has other words for the same error".into()
        }
        None => return Verdict::Wrong(format!("{field}: {found:?}, not {wanted}")),
    };
    Verdict::NotForThisEngine(reason)
}

/// Whether a text is the expected one, which may be given by its length and its ends.
fn same(expected: &Value, got: Option<&str>) -> bool {
    match (expected, got) {
        (Value::String(expected), Some(got)) => neutral(expected) == neutral(got),
        (Value::Object(long), Some(got)) => {
            let end = |field: &str| long[field].as_str().unwrap_or_default();
            long["utf8_len"] == got.len()
                && got.starts_with(end("head"))
                && got.ends_with(end("tail"))
        }
        (expected, got) => expected.is_null() && got.is_none(),
    }
}

/// A message without the name that its engine gives to a cell.
fn neutral(text: &str) -> String {
    match (text.find("(<cell "), text.find(">, line ")) {
        (Some(from), Some(to)) if from < to => format!("{}(FILE{}", &text[..from], &text[to + 1..]),
        _ => text.to_owned(),
    }
}

/// What the engine lacks, if that is what the error is about.
fn lack(name: &str, value: &str) -> Option<String> {
    match name {
        "NotImplementedError" | "ModuleNotFoundError" => Some(value.to_owned()),
        "AttributeError" if value.starts_with("module ") || value.starts_with("'_io.") => {
            Some(value.to_owned())
        }
        "TypeError" if value.contains("not supported") => Some(value.to_owned()),
        _ => None,
    }
}
