//! A notebook: its cells in order, in one session.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use sessile::interpreter::{
    BoxInterpreter, ErrorInfo, ExecuteOptions, Execution, Interpreter, OutputRef,
};
use sessile::{Pool, Registry};

use super::notebook::Notebook;
use super::progress::Progress;
use super::{Arguments, CLOSE, images};
use crate::engine::Engine;

/// A cell that was run.
struct Ran {
    cell: usize,
    execution: Execution,
    /// It raised, and was not to.
    is_wrong: bool,
}

pub(super) fn run(
    pool: &Pool<BoxInterpreter>,
    engine: Engine,
    arguments: &Arguments,
    mut notebook: Notebook,
    file: Option<&Path>,
) -> Result<ExitCode> {
    let cells = notebook.code().len();
    // What the cells put out tells how far it is, where there is no bar.
    let progress = if arguments.json { Progress::new(cells) } else { Progress::bar_only(cells) };
    let start = Instant::now();
    notebook.clear();
    let ran = pool.with(|python| run_cells(python, arguments, &notebook, &progress))?;
    let elapsed = start.elapsed();
    progress.finish();

    let name = file.and_then(Path::file_stem).unwrap_or_default().to_string_lossy();
    for Ran { cell, execution, .. } in &ran {
        notebook.put(*cell, execution);
        if let Some(folder) = &arguments.images {
            images::save(execution, folder, &format!("{name}-{cell}"))?;
        }
    }
    if let Some(output) = &arguments.output {
        notebook.write(output)?;
    }
    let report = pool.close(CLOSE);
    let left = Registry::global().snapshot();
    let wrong = ran.iter().filter(|ran| ran.is_wrong).count();
    let well = ran.len() == cells && wrong == 0 && report.is_clean() && left.is_empty();
    if arguments.json {
        let ran: Vec<_> = ran
            .iter()
            .map(|ran| json!({ "cell": ran.cell, "execution": ran.execution, "ok": !ran.is_wrong }))
            .collect();
        let outcome = json!({
            "engine": engine.name(),
            "cells": cells,
            "ran": ran,
            "elapsed_ms": elapsed.as_secs_f64() * 1e3,
            "close": report,
            "after_close": left,
            "ok": well,
        });
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        summary(&ran, cells, elapsed);
        if !report.is_clean() {
            eprintln!("closed: {report}");
        }
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_cells(
    python: &mut BoxInterpreter,
    arguments: &Arguments,
    notebook: &Notebook,
    progress: &Progress,
) -> Vec<Ran> {
    let options = ExecuteOptions::new();
    let options = arguments.timeout.map_or(options, |limit| options.timeout(limit));
    let mut ran = Vec::new();
    for code in notebook.code() {
        let begun = Instant::now();
        let mut show = |output: OutputRef<'_>| {
            if !arguments.json {
                progress.aside(|| show(output));
            }
        };
        let outcome = python.execute_with(&code.source, &options, &mut show);
        let is_dead = outcome.is_err();
        let execution = outcome.unwrap_or_else(|error| {
            // As much of it as there was.
            let mut execution = Execution::default();
            let said = error.to_string();
            execution.outputs = error.outputs().to_vec();
            execution.error = Some(ErrorInfo::new("SessionLost", &said, &said));
            execution.duration = begun.elapsed();
            execution
        });
        if !arguments.json {
            progress.aside(|| show_end(&execution));
        }
        progress.add(1);
        let may_raise = code.may_raise || arguments.allow_errors;
        let is_wrong = is_dead || !execution.is_ok() && !may_raise;
        ran.push(Ran { cell: code.at, execution, is_wrong });
        if is_wrong {
            break;
        }
    }
    ran
}

/// As the program itself would have printed it. It is no matter if nobody can read it.
fn show(output: OutputRef<'_>) {
    let _ = match output {
        OutputRef::Stdout(text) => io::stdout().write_all(text.as_bytes()),
        OutputRef::Stderr(text) => io::stderr().write_all(text.as_bytes()),
        OutputRef::Display(data) => match data.get("text/plain").and_then(|text| text.as_str()) {
            Some(text) => writeln!(io::stdout(), "{text}"),
            None => Ok(()),
        },
        _ => Ok(()),
    };
    let _ = io::stdout().flush();
}

/// The value of a cell, and what it raised.
fn show_end(execution: &Execution) {
    if let Some(text) = execution.text() {
        let _ = writeln!(io::stdout(), "{text}");
    }
    if let Some(error) = &execution.error {
        let _ = writeln!(io::stderr(), "{}", error.traceback);
    }
}

fn summary(ran: &[Ran], cells: usize, elapsed: Duration) {
    println!("\n{:>5}{:>12}  OUTCOME", "CELL", "TIME");
    for Ran { cell, execution, .. } in ran {
        let outcome = match &execution.error {
            Some(error) if error.value.is_empty() => error.name.clone(),
            Some(error) => format!("{}: {}", error.name, error.value.replace('\n', " ")),
            None => "ok".to_owned(),
        };
        let outcome = console::truncate_str(&outcome, 80, "…");
        println!("{cell:>5}{:>9.1} ms  {outcome}", execution.duration.as_secs_f64() * 1e3);
    }
    let wrong = ran.iter().filter(|ran| !ran.execution.is_ok()).count();
    println!(
        "\n{} of {cells} cells ran, {wrong} raised, {} not run, in {:.2} s",
        ran.len(),
        cells - ran.len(),
        elapsed.as_secs_f64()
    );
}
