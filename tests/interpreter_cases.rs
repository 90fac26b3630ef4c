//! The table of cases, observed on a real kernel, against every engine.
//!
//! `table.json` holds cells and what an ipykernel made of them. Where an engine by its nature makes
//! something else of a cell, `deviations.json` says what, and why: it is asserted all the same. A
//! deviation that is none fails.

#![cfg(feature = "_interpreter")]

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sessile::interpreter::{
    ExecuteOptions, Execution, Interpreter, InterpreterError, MimeBundle, Output,
};

#[cfg(all(feature = "jupyter", target_os = "linux"))]
#[path = "support/jupyter.rs"]
mod jupyter;
#[path = "support/venv.rs"]
mod venv;

#[derive(Deserialize)]
struct Table {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    cells: Vec<Cell>,
}

#[derive(Deserialize)]
struct Cell {
    code: String,
    timeout_s: Option<f64>,
    expected: Map<String, Value>,
    #[serde(default)]
    varies_between_runs: Map<String, Value>,
}

#[derive(Deserialize)]
struct Deviation {
    case: String,
    cell: usize,
    /// For who reads the table.
    #[serde(rename = "why")]
    _why: String,
    /// Replaces what the table says of these fields; `null` for none.
    expected: Map<String, Value>,
    /// The cells after it would miss what this one did not do.
    #[serde(default)]
    ends_case: bool,
}

/// What came of a cell, in the words of the table.
fn described(outcome: &Result<Execution, InterpreterError>) -> Map<String, Value> {
    let execution = match outcome {
        Ok(execution) => execution,
        Err(error) => {
            assert!(error.state_lost(), "{error}");
            let status = if error.is_timeout() { "restarted by the runner" } else { "dead" };
            let outputs = error.outputs().to_vec();
            let mut got = Execution::default();
            (got.outputs, got.timed_out) = (outputs, error.is_timeout());
            let mut described = described(&Ok(got));
            described.insert("status".into(), status.into());
            return described;
        }
    };
    let mut described = Map::from_iter([
        ("status".into(), if execution.is_ok() { "ok" } else { "error" }.into()),
        ("stdout".into(), execution.stdout().into()),
        ("stderr".into(), execution.stderr().into()),
        ("result".into(), execution.text().into()),
    ]);
    let mimes = |data: &MimeBundle| data.keys().cloned().collect::<Vec<_>>();
    if let Some(result) = &execution.result {
        described.insert("result_mimes".into(), json!(mimes(result)));
        if let Some(size) = png_size(result) {
            described.insert("result_png_size".into(), size);
        }
    }
    let displays = execution.outputs.iter().filter_map(|output| match output {
        Output::Display { data } => Some(data),
        _ => None,
    });
    let displays: Vec<_> = displays
        .map(|data| {
            let mut shown = json!({ "mimes": mimes(data), "text/plain": data["text/plain"] });
            if let Some(size) = png_size(data) {
                shown["png_size"] = size;
            }
            shown
        })
        .collect();
    if !displays.is_empty() {
        described.insert("displays".into(), displays.into());
    }
    if let Some(error) = &execution.error {
        let last = error.traceback.lines().last().unwrap_or_default();
        described.insert("ename".into(), error.name.clone().into());
        described.insert("evalue".into(), in_a_file(&error.value).into());
        described.insert("traceback_last_line".into(), last.trim_end_matches(": ").into());
    }
    if execution.timed_out {
        described.insert("timed_out".into(), true.into());
    }
    described
}

/// Width and height, as a PNG's header has them.
fn png_size(data: &MimeBundle) -> Option<Value> {
    let base64 = data.get("image/png")?.as_str()?;
    let head = decode_base64(&base64[..32]);
    assert_eq!(&head[1..4], b"PNG");
    let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
    Some(json!([number(16), number(20)]))
}

fn decode_base64(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let value = |c: char| DIGITS.find(c).unwrap() as u32;
    let groups = text.chars().collect::<Vec<_>>();
    let bytes = |four: &[char]| {
        let bits = four.iter().fold(0, |bits, &c| bits << 6 | value(c));
        bits.to_be_bytes()[1..].to_vec()
    };
    groups.chunks_exact(4).flat_map(bytes).collect()
}

/// The name of the cell in a syntax error's message, as the table has it: `<cell 1>`, `1234.py`.
fn in_a_file(message: &str) -> String {
    match (message.rfind(" (").map(|at| at + 2), message.rfind(", line ")) {
        (Some(start), Some(end)) if start < end => {
            format!("{}FILE{}", &message[..start], &message[end..])
        }
        _ => message.to_owned(),
    }
}

/// Whether what was got is what was wanted; long texts are given by length, beginning and end.
fn matches(field: &str, wanted: &Value, got: &Value) -> bool {
    match (field, wanted, got) {
        ("traceback_last_line", Value::String(wanted), Value::String(got)) => {
            wanted.trim_end_matches(':') == got.trim_end_matches(':')
        }
        // `~part`: the engine's own words, of which this much is relied on.
        (_, Value::String(wanted), Value::String(got)) if wanted.starts_with('~') => {
            got.contains(&wanted[1..])
        }
        (_, Value::Object(digest), Value::String(got)) => {
            digest["len"] == got.chars().count()
                && digest["utf8_len"] == got.len()
                && got.starts_with(digest["head"].as_str().unwrap())
                && got.ends_with(digest["tail"].as_str().unwrap())
        }
        ("displays", Value::Array(wanted), Value::Array(got)) => {
            let agree = |(wanted, got): (&Value, &Value)| {
                let fields = ["mimes", "text/plain", "png_size"].into_iter();
                fields.filter(|&f| !wanted[f].is_null()).all(|f| matches(f, &wanted[f], &got[f]))
            };
            wanted.len() == got.len() && wanted.iter().zip(got).all(agree)
        }
        // A figure is as large as its labels, which depend on the fonts.
        ("png_size", Value::Array(wanted), Value::Array(got)) => {
            let near =
                |(a, b): (&Value, &Value)| a.as_i64().unwrap().abs_diff(b.as_i64().unwrap()) < 9;
            wanted.iter().zip(got).all(near)
        }
        _ => wanted == got,
    }
}

const FIELDS: [&str; 11] = [
    "status",
    "stdout",
    "stderr",
    "result",
    "result_mimes",
    "result_png_size",
    "displays",
    "ename",
    "evalue",
    "traceback_last_line",
    "timed_out",
];

fn differences(
    expected: &Map<String, Value>,
    free: &[&str],
    got: &Map<String, Value>,
) -> Vec<String> {
    let none = Value::Null;
    let differs = |field: &&str| {
        let wanted = expected.get(*field).unwrap_or(&none);
        let got = got.get(*field).unwrap_or(&none);
        (!free.contains(field) && !matches(field, wanted, got))
            .then(|| format!("{field}: wanted {wanted}, got {got}"))
    };
    FIELDS.iter().filter_map(differs).collect()
}

/// Runs all cases, each on a session as good as new.
fn every_case_is_as_told(engine: &str, python: &mut dyn Interpreter) {
    cases_are_as_told(engine, python, |_| true);
}

/// Runs those cases whose place in the table is to be looked at.
fn cases_are_as_told(engine: &str, python: &mut dyn Interpreter, looks_at: impl Fn(usize) -> bool) {
    let table: Table = serde_json::from_str(include_str!("interpreter_cases/table.json")).unwrap();
    let deviations = include_str!("interpreter_cases/deviations.json");
    let mut deviations: Map<String, Value> = serde_json::from_str(deviations).unwrap();
    let mut deviations: Vec<Deviation> =
        serde_json::from_value(deviations.remove(engine).unwrap()).unwrap();
    assert!(table.cases.len() >= 91);
    let mut wrong = Vec::new();
    for (place, case) in table.cases.iter().enumerate() {
        if !looks_at(place) {
            deviations.retain(|one| one.case != case.id);
            continue;
        }
        python.reset().unwrap();
        for (at, cell) in case.cells.iter().enumerate() {
            let limit = Duration::from_secs_f64(cell.timeout_s.unwrap_or(60.0));
            let outcome = python.execute(&cell.code, &ExecuteOptions::new().timeout(limit));
            if outcome.is_err() {
                python.reset().unwrap();
            }
            let got = described(&outcome);
            let mut expected = cell.expected.clone();
            let mut free: Vec<&str> = cell.varies_between_runs.keys().map(String::as_str).collect();
            if cell.expected["status"] == "dead" {
                free.push("stdout"); // what had been printed may be lost
            }
            if !expected.contains_key("traceback_last_line") {
                free.push("traceback_last_line");
            }
            let found = deviations.iter().position(|one| (&one.case, one.cell) == (&case.id, at));
            let deviation = found.map(|found| deviations.remove(found));
            if let Some(deviation) = &deviation {
                if differences(&expected, &free, &got).is_empty() {
                    wrong.push(format!("{} [{at}] does not deviate", case.id));
                }
                for (field, value) in &deviation.expected {
                    if value.is_null() {
                        expected.remove(field);
                    } else {
                        expected.insert(field.clone(), value.clone());
                    }
                }
                let names = ["ename", "evalue"];
                if names.iter().any(|name| deviation.expected.contains_key(*name)) {
                    free.push("traceback_last_line");
                }
                if deviation.expected.get("status").is_some_and(|status| status == "error") {
                    for gone in ["result", "result_mimes", "result_png_size", "displays"] {
                        expected.remove(gone);
                    }
                }
            }
            let found = differences(&expected, &free, &got);
            let stays = found.is_empty();
            wrong.extend(found.into_iter().map(|d| format!("{} [{at}] {d}", case.id)));
            if deviation.is_some_and(|deviation| deviation.ends_case) || !stays {
                break;
            }
        }
    }
    let unused = deviations.iter().map(|one| format!("{} [{}] is no case", one.case, one.cell));
    wrong.extend(unused);
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[cfg(feature = "monty")]
#[test]
fn monty() {
    every_case_is_as_told("monty", &mut sessile::interpreter::monty::Monty::start());
}

#[cfg(all(feature = "cpython", unix))]
#[test]
fn cpython() {
    let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jupyter/requirements.txt");
    let python = venv::python(requirements.as_ref());
    let manager = sessile::interpreter::cpython::CPythonManager::new().python(python);
    every_case_is_as_told("cpython", &mut manager.start().unwrap());
}

#[cfg(all(feature = "jupyter", target_os = "linux"))]
#[test]
fn on_a_gateway() {
    let server = jupyter::Server::shared();
    let manager = server.manager();
    let shards = 3;
    std::thread::scope(|scope| {
        for shard in 0..shards {
            let manager = &manager;
            scope.spawn(move || {
                let mut kernel = manager.start().unwrap();
                cases_are_as_told("jupyter", &mut kernel, |place| place % shards == shard);
            });
        }
    });
}
