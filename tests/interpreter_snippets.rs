//! The snippets that come with the command, on every engine, and on several threads at once.

#![cfg(feature = "_interpreter")]

#[cfg(all(feature = "jupyter", target_os = "linux"))]
#[path = "support/jupyter.rs"]
mod jupyter;
#[cfg(all(feature = "jupyter", target_os = "linux"))]
#[path = "support/venv.rs"]
mod venv;

use std::thread;

use serde_json::Value;
use sessile::interpreter::{Execution, Interpreter};

const SNIPPETS: &str = include_str!("../examples/data/snippets.json");

fn cases() -> Vec<Value> {
    match serde_json::from_str(SNIPPETS) {
        Ok(Value::Object(mut file)) => match file.remove("cases") {
            Some(Value::Array(cases)) => cases,
            _ => panic!("no list of cases"),
        },
        other => panic!("{other:?}"),
    }
}

/// Where what came differs from what the file expects.
fn differences(expected: &Value, got: &Execution) -> Vec<String> {
    let error = got.error.as_ref();
    let text = |s: String| Value::String(s);
    let fields = [
        ("status", text(if got.is_ok() { "ok".into() } else { "error".into() })),
        ("stdout", text(got.stdout())),
        ("stderr", text(got.stderr())),
        ("result", got.text().into()),
        ("ename", error.map(|error| error.name.clone()).into()),
        ("evalue", error.map(|error| error.value.clone()).into()),
    ];
    let differs = |(field, got): (&str, Value)| {
        // An `evalue` that is not stated is one that depends on the engine's words.
        let stated = expected.get(field).unwrap_or(&Value::Null);
        let free = field == "evalue" && stated.is_null();
        (*stated != got && !free).then(|| format!("{field}: expected {stated}, got {got}"))
    };
    fields.into_iter().filter_map(differs).collect()
}

/// Each thread runs all cases on one engine of its own, starting at another case.
fn all_agree<I: Interpreter>(start: impl Fn() -> I + Sync, threads: usize) {
    let cases = cases();
    assert!(cases.len() >= 40);
    let run = |number: usize| {
        let mut engine = start();
        let mut wrong = Vec::new();
        for turn in 0..cases.len() {
            let case = &cases[(turn + number * 7) % cases.len()];
            engine.run(&format!("salt = {number}")).unwrap();
            for (at, cell) in case["cells"].as_array().unwrap().iter().enumerate() {
                let got = engine.run(cell["code"].as_str().unwrap()).unwrap();
                let found = differences(&cell["expected"], &got);
                wrong.extend(found.into_iter().map(|d| format!("{} [{at}] {d}", case["id"])));
            }
            let salt = engine.run("salt").unwrap();
            assert_eq!(salt.text(), Some(&*number.to_string()));
        }
        wrong
    };
    let run = &run;
    let wrong: Vec<String> = thread::scope(|s| {
        let threads: Vec<_> = (0..threads).map(|n| s.spawn(move || run(n))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[cfg(feature = "monty")]
#[test]
fn embedded() {
    all_agree(sessile::interpreter::monty::Monty::start, 4);
}

#[cfg(all(feature = "cpython", unix))]
#[test]
fn cpython() {
    all_agree(|| sessile::interpreter::cpython::CPython::start().unwrap(), 4);
}

#[cfg(all(feature = "jupyter", target_os = "linux"))]
#[test]
fn kernels() {
    let server = jupyter::Server::shared();
    let manager = server.manager();
    all_agree(|| manager.start().unwrap(), 2);
}
