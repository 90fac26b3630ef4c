//! A table of cases, on many threads.
//!
//! Each thread marks its session before a case and looks for its mark after every cell: were two
//! threads ever given the same session, one would find the other's.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::Serialize;
use serde_json::json;
use sessile::interpreter::{BoxInterpreter, ExecuteOptions, Interpreter, OutputRef};
use sessile::registry::{CloseReport, Snapshot};
use sessile::{Pool, Registry};

use super::jobs::{Case, Cell};
use super::judge::{Verdict, judge};
use super::progress::Progress;
use super::{Arguments, CLOSE, images};
use crate::engine::Engine;

/// What one thread has done.
#[derive(Default, Serialize)]
struct Tally {
    thread: String,
    #[serde(skip)]
    number: usize,
    cases: usize,
    cells: usize,
    as_expected: usize,
    not_for_this_engine: usize,
    wrong: Vec<String>,
    /// Marks that were not this thread's own: must be empty.
    crossed: Vec<String>,
    reasons: BTreeMap<String, usize>,
    busy_ms: f64,
}

/// Runs one case on a session that nothing of earlier cases is left in.
fn run_case(
    python: &mut BoxInterpreter,
    engine: Engine,
    arguments: &Arguments,
    case: &Case,
    mark: &str,
    tally: &mut Tally,
    progress: &Progress,
) -> Result<()> {
    python.reset()?;
    python.run(&format!("session_mark = {mark:?}"))?;
    let mut count = 1;
    for (at, cell) in case.cells.iter().enumerate() {
        let limit = limit_of(arguments, cell)?;
        let mut show = |output: OutputRef<'_>| {
            if arguments.stream {
                progress.aside(|| print_piece(&tally.thread, output));
            }
        };
        let options = ExecuteOptions::new().timeout(limit);
        let outcome = python.execute_with(&cell.code, &options, &mut show);
        tally.cells += 1;
        if let (Ok(execution), Some(folder)) = (&outcome, &arguments.images) {
            images::save(execution, folder, &format!("{}-{at}", case.id))?;
        }
        match judge(engine, case, cell, &outcome) {
            Verdict::AsExpected => tally.as_expected += 1,
            Verdict::Wrong(why) => tally.wrong.push(format!("{} [{at}] {why}", case.id)),
            Verdict::NotForThisEngine(reason) => {
                let rest = case.cells.len() - at;
                tally.cells += rest - 1;
                tally.not_for_this_engine += rest;
                *tally.reasons.entry(reason).or_default() += rest;
                return Ok(());
            }
        }
        if !python.is_alive() {
            python.reset()?; // the cell meant to end it, and was judged by that
            python.run(&format!("session_mark = {mark:?}"))?;
            count = 1;
            continue;
        }
        // The session must bear our mark, and have run our cells and nobody else's.
        let seen = python.run("session_mark")?;
        count += 2;
        if seen.text() != Some(&format!("'{mark}'")) || seen.execution_count != count {
            tally.crossed.push(format!("{} [{at}]: {seen:?} in place of {mark}", case.id));
        }
    }
    Ok(())
}

/// The cell's own limit, or the one that was asked for.
fn limit_of(arguments: &Arguments, cell: &Cell) -> Result<Duration> {
    match cell.timeout_s {
        Some(seconds) => Duration::try_from_secs_f64(seconds)
            .map_err(|error| anyhow!("`timeout_s` is {seconds}: {error}")),
        None => Ok(arguments.timeout.unwrap_or(Duration::from_secs(10))),
    }
}

/// On the thread of the cell, while it runs. It is no matter if nobody can read it.
fn print_piece(thread: &str, output: OutputRef<'_>) {
    let text = match output {
        OutputRef::Stdout(text) | OutputRef::Stderr(text) => text,
        OutputRef::Display(data) => &format!("{:?}", data.keys().collect::<Vec<_>>()),
        _ => return,
    };
    let mut stderr = io::stderr().lock();
    for line in text.lines() {
        let _ = writeln!(stderr, "{thread} | {line}");
    }
}

/// How it ended.
struct Outcome {
    tallies: Vec<Tally>,
    elapsed: Duration,
    alive: Snapshot,
    report: CloseReport,
    left: Snapshot,
}

pub(super) fn run(
    pool: &Pool<BoxInterpreter>,
    engine: Engine,
    arguments: &Arguments,
    cases: &[Case],
) -> Result<ExitCode> {
    let cells: usize = cases.iter().map(|case| case.cells.len()).sum();
    let (threads, name) = (arguments.threads, engine.name());
    if !arguments.json {
        let count = cases.len();
        println!("{count} cases, {cells} cells, {threads} threads, each with its own {name}\n");
    }
    let outcome = run_cases(pool, engine, arguments, cases, &Progress::new(cells))?;

    let Outcome { tallies, elapsed, alive, report, left } = &outcome;
    let sum = |of: fn(&Tally) -> usize| tallies.iter().map(of).sum::<usize>();
    let as_expected = sum(|t| t.as_expected);
    let not_for_this_engine = sum(|t| t.not_for_this_engine);
    let (wrong, crossed) = (sum(|t| t.wrong.len()), sum(|t| t.crossed.len()));
    let all_ran = sum(|t| t.cells) == cells && as_expected > 0;
    let well = all_ran && wrong == 0 && crossed == 0 && report.is_clean() && left.is_empty();
    if arguments.json {
        let outcome = json!({
            "engine": name,
            "cases": cases.len(),
            "cells": cells,
            "as_expected": as_expected,
            "not_for_this_engine": not_for_this_engine,
            "wrong": wrong,
            "crossed": crossed,
            "elapsed_ms": elapsed.as_secs_f64() * 1e3,
            "threads": tallies,
            "while_alive": alive,
            "close": report,
            "after_close": left,
            "ok": well,
        });
        println!("{}", serde_json::to_string_pretty(&outcome)?);
    } else {
        print_tables(&outcome);
        println!(
            "{as_expected} of {cells} cells as expected, {wrong} wrong, {not_for_this_engine} not \
             for this engine, {crossed} crossed, in {:.2} s",
            elapsed.as_secs_f64()
        );
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_cases(
    pool: &Pool<BoxInterpreter>,
    engine: Engine,
    arguments: &Arguments,
    cases: &[Case],
    progress: &Progress,
) -> Result<Outcome> {
    let threads = arguments.threads;
    let next = AtomicUsize::new(0);
    let tallies = Mutex::new(Vec::new());
    // All sessions are alive between the two: that is when there is something to see, and to close.
    let (finished, seen) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    let start = Instant::now();

    let work = |number: usize| {
        let mut tally = Tally { thread: format!("worker-{number}"), number, ..Tally::default() };
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let began = Instant::now();
            let mark = format!("{} has {}", tally.thread, case.id);
            // This thread's own session, made on first use, or anew if it has died.
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
                pool.with(|python| {
                    run_case(python, engine, arguments, case, &mark, &mut tally, progress)
                })?
            }));
            let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked")));
            if let Err(error) = outcome {
                tally.wrong.push(format!("{}: {error:#}", case.id));
            }
            tally.cases += 1;
            tally.busy_ms += began.elapsed().as_secs_f64() * 1e3;
            progress.add(case.cells.len());
        }
        tallies.lock().expect("no thread panics with it").push(tally);
        finished.wait();
        seen.wait();
    };
    let work = &work;
    let (elapsed, alive, report, left) = thread::scope(|s| -> Result<_> {
        for number in 0..threads {
            let name = format!("worker-{number}");
            thread::Builder::new().name(name).spawn_scoped(s, move || work(number))?;
        }
        finished.wait();
        let elapsed = start.elapsed();
        progress.finish();
        let alive = Registry::global().snapshot();
        let report = pool.close(CLOSE); // idle ones close here and now
        let left = Registry::global().snapshot();
        seen.wait();
        Ok((elapsed, alive, report, left))
    })?;
    let mut tallies = tallies.into_inner()?;
    tallies.sort_by_key(|tally| tally.number);
    Ok(Outcome { tallies, elapsed, alive, report, left })
}

fn print_tables(outcome: &Outcome) {
    let Outcome { tallies, alive, report, left, .. } = outcome;
    println!("{:<12}{:>6}{:>7}{:>10}{:>11}", "THREAD", "CASES", "CELLS", "CROSSED", "BUSY");
    for Tally { thread, cases, cells, crossed, busy_ms, .. } in tallies {
        println!("{thread:<12}{cases:>6}{cells:>7}{:>10}{busy_ms:>8.1} ms", crossed.len());
    }
    println!("\n{alive}\n\nclosed from the main thread: {report}\nafterwards: {left}\n");
    for problem in tallies.iter().flat_map(|t| t.wrong.iter().chain(&t.crossed)) {
        println!("WRONG  {problem}");
    }
    let mut reasons = BTreeMap::new();
    for (reason, n) in tallies.iter().flat_map(|t| &t.reasons) {
        *reasons.entry(reason).or_insert(0) += n;
    }
    for (reason, n) in &reasons {
        println!("{n:>4} not for this engine: {reason}");
    }
}
