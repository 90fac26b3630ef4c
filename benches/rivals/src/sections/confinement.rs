//! A CPython that is confined, beside one that is not, and beside `bwrap`.

use std::time::Duration;

use super::{Entry, Pace};
use crate::page::{Goal, Part, Section, Table, number, ratio};
use crate::race::{Effort, Figure, Race};
use crate::rivals::interpreters::bare::{Bare, Bubblewrap};
use crate::rivals::interpreters::ours::{OurCPython, OurConfined};
use crate::rivals::interpreters::{Parts, Session};
use crate::workload::Place;
use crate::workload::python::{confined_cells, confined_starts};

pub const ENTRY: Entry = Entry { name: "confinement", write, child };

const TITLE: &str = "CPython, confined";

const CONFINED: &str = OurConfined::NAME;
const FREE: &str = <OurCPython<false> as Session>::NAME;
const RIVALS: [&str; 3] = [FREE, Bare::NAME, Bubblewrap::NAME];

const PLACES: [(Place, &str); 2] = [(Place::Apart, "apart"), (Place::Together, "together")];

/// Runs one of the races so many rounds, and prints it.
fn child(args: &[String]) {
    let [task, rounds, python, bwrap] = args else {
        panic!("a child is told what to do, how often, with which Python, and whether with bwrap");
    };
    let (parts, bwrap) = (Parts::of_python(python), bwrap == "true");
    let effort = |turn| Effort::new(rounds.parse().expect("a number"), Duration::from_millis(turn));
    match PLACES.iter().find(|(_, name)| name == task) {
        Some((place, _)) => Race::run(confined_cells(&parts, *place, bwrap), effort(10)).print(),
        None => Race::run(confined_starts(&parts, bwrap), effort(1)).print(),
    }
}

fn write(pace: Pace) -> Section {
    let found =
        Parts::python_only().and_then(|parts| OurConfined::is_there(&parts).map(|()| parts));
    match found {
        Ok(parts) => measured(pace, &parts),
        Err(error) => {
            eprintln!("{error}");
            let prose = "This has been left out: there was no `python3` on the machine, or its kernel \
                         could not confine one.";
            Section { title: TITLE, goals: Vec::new(), parts: vec![Part::prose(prose)] }
        }
    }
}

fn measured(pace: Pace, parts: &Parts) -> Section {
    let bwrap = Bubblewrap::is_there(parts);
    if let Err(error) = &bwrap {
        eprintln!("bwrap: {error}");
    }
    let bwrap = bwrap.is_ok();
    let python = parts.python.to_str().expect("the path is text");
    let race = |task, processes, rounds: usize, contestants| {
        let args = [ENTRY.name, task, &rounds.to_string(), python, &bwrap.to_string()];
        Race::of_children(processes, &args, contestants)
    };
    let starts = race("starts", 1, pace.pick(9, 61), confined_starts(parts, bwrap));
    let cells = PLACES.map(|(place, name)| {
        race(name, pace.pick(1, 5), pace.pick(21, 41), confined_cells(parts, place, bwrap))
    });

    // All that may be there; in the place of a figure that is not there, nothing.
    let ratio_to = |race: &Race, rival: &str| -> Option<Figure> {
        let there = bwrap || rival != Bubblewrap::NAME;
        there.then(|| race.ratio(race.find(CONFINED), race.find(rival)))
    };
    let table = |figures: &[&Race], head: &[&str], unit: f64| {
        let mut table = Table::new(head);
        for rival in RIVALS {
            let ratios: Vec<_> = figures.iter().filter_map(|race| ratio_to(race, rival)).collect();
            let mut cells = vec![rival.to_owned()];
            if ratios.is_empty() {
                cells[0].push_str(": there is no `bwrap` here that may make namespaces");
                cells.extend(vec!["–".to_owned(); 2 * figures.len()]);
                table.row(f64::NEG_INFINITY, cells);
                continue;
            }
            cells.extend(ratios.iter().map(|figure| ratio(*figure)));
            let nanoseconds = |race: &&Race| race.ns(race.find(rival)).median;
            cells.extend(figures.iter().map(|race| number(nanoseconds(race) / unit)));
            table.row(ratios.iter().map(|ratio| ratio.median).fold(0.0, f64::max), cells);
        }
        table
    };
    let starts_table = table(&[&starts], &["start of", "sessile confined ÷ this", "this, ms"], 1e6);
    let cells_table = table(
        &[&cells[0], &cells[1]],
        &[
            "warm cell of",
            "sessile confined ÷ this, apart",
            "together",
            "this, apart, µs",
            "together, µs",
        ],
        1e3,
    );

    let against_free = |race: &Race| race.ratio(race.find(CONFINED), race.find(FREE));
    let mut goals = vec![Goal::at_most(
        1.2,
        "start of a CPython: time confined ÷ not confined",
        against_free(&starts),
    )];
    for ((_, place), race) in PLACES.iter().zip(&cells) {
        let what = format!("a warm cell of a CPython, {place}: time confined ÷ not confined");
        goals.push(Goal::at_most(1.05, what, against_free(race)));
    }
    let ours = |race: &Race, unit: f64| number(race.ns(race.find(CONFINED)).median / unit);
    let parts = vec![
        Part::prose(
            "Confined is `Confinement::strict()`: Landlock and seccomp hold the process, it has a \
             directory of its own, and none of our environment. A start is from nothing to the answer \
             of the first cell, `1+1`; the end of the session before is not in it. Bare `python3` \
             evaluates what it reads, as among the interpreters. Under `bwrap` runs the same bare \
             script, by `bwrap --ro-bind / / --unshare-all python3`: in namespaces of its own, with \
             nothing to write to and no network, but with all files to read, and with no filter of \
             system calls. So the two promise different things. All run the same Python.",
        ),
        Part::Table(starts_table),
        Part::prose(format!("({CONFINED}: {} ms.)", ours(&starts, 1e6))),
        Part::prose(
            "A warm cell is `1+1` in a session that has run it before. Who asks and Python are kept on \
             one processor each (apart), or both on one (together).",
        ),
        Part::Table(cells_table),
        Part::prose(format!(
            "({CONFINED}: {} µs apart, {} µs together.)",
            ours(&cells[0], 1e3),
            ours(&cells[1], 1e3),
        )),
    ];
    Section { title: TITLE, goals, parts }
}
