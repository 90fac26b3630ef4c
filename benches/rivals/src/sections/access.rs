//! Using an instance that is there: the hot path.

use std::time::Duration;

use super::{Entry, Pace, times};
use crate::page::{Goal, Part, Section, Table, number, ratio};
use crate::race::{Effort, Race};
use crate::rivals::ours::{Get, GetRef, With, WithLimits, WithRef};
use crate::rivals::std_tls::{ConstCell, ConstRefCell};
use crate::rivals::thread_local::GetOr;
use crate::rivals::{Rival, SharedRival};
use crate::workload::{Body, Contestant, exclusive, shared};

pub const ENTRY: Entry = Entry { name: "access", write, child };

/// The races: three bodies, and shared.
const RACES: [&str; 4] = ["opaque", "plain", "called", "shared"];

fn contestants(race: &str) -> Vec<Contestant> {
    match RACES.iter().position(|name| *name == race).expect("a known race") {
        body @ 0..3 => exclusive(Body::ALL[body]),
        _ => shared(),
    }
}

/// Runs a race, and prints it.
fn child(args: &[String]) {
    // Shorter than what the scheduler gives a thread at a time, so that most turns are whole.
    let effort = Effort::new(201, Duration::from_micros(250));
    Race::run(contestants(&args[0]), effort).print();
}

fn write(pace: Pace) -> Section {
    let [opaque, plain, called, shared] = RACES
        .map(|name| Race::of_children(pace.pick(2, 15), &[ENTRY.name, name], contestants(name)));

    let ours = opaque.find(WithLimits::NAME);
    let goal = |bound, rival: &str| {
        let what = format!("{} ÷ {rival}", WithLimits::NAME);
        Goal::at_most(bound, what, opaque.ratio(ours, opaque.find(rival)))
    };
    let goals = vec![
        goal(1.0, <GetOr as Rival>::NAME),
        goal(1.6, <ConstRefCell as Rival>::NAME),
        goal(1.6, <ConstCell as Rival>::NAME),
    ];

    let parts = vec![
        Part::prose(
            "A thread uses the number that it already has, again and again. Where it does not say \
             otherwise, the pool is one with everything on that watches over its instances: age and \
             uses are kept, `idle_timeout`, `max_lifetime` and `max_uses` are set (so high that none \
             is reached), and there is an event handler. The rivals keep none of this. \
             `thread_local!` has one value for each static, and no other thread can reach it; \
             `ThreadLocal` keeps a value when its thread ends, and hands it to another.",
        ),
        Part::prose(
            "### Exclusive, through `black_box`\n\n\
             The body is `*black_box(value) += 1`. The compiler must assume that memory is looked at \
             meanwhile, so it has to set and to clear everybody's borrow flag. The goals are about \
             this table. A `Cell` has no flag: the number is copied out, and back in.",
        ),
        Part::Chart {
            file: "access.svg",
            alt: "Time of one exclusive use, for each contestant".to_owned(),
            svg: times("One exclusive use, through black_box", &opaque, ours),
        },
        Part::Table(exclusive_table(&opaque)),
        Part::prose(ns_of_ours(&opaque)),
        Part::prose(
            "### Exclusive, plain\n\n\
             The body is `*value += 1`. Memory is looked at between two uses, but not within one, so \
             the compiler may leave out a borrow flag that is set and cleared unseen. It does so for \
             a `RefCell`; our flag is an atomic that other threads read, and stays.",
        ),
        Part::Table(exclusive_table(&plain)),
        Part::prose(ns_of_ours(&plain)),
        Part::prose(
            "### Exclusive, each use in a function of its own\n\n\
             In the loops above, what is the same at each use is computed once before the loop: the \
             address of a thread-local, for one. Here each use, through `black_box`, is a call of a \
             function that is not inlined, and everybody finds everything anew. The call itself is \
             in everybody's time.",
        ),
        Part::Chart {
            file: "called.svg",
            alt: "Time of one call of a function that does one exclusive use".to_owned(),
            svg: times("One exclusive use, in a function of its own", &called, ours),
        },
        Part::Table(exclusive_table(&called)),
        Part::prose(ns_of_ours(&called)),
        Part::prose(
            "### Shared\n\n\
             The body reads the number, through `black_box`. `RefCell` is borrowed shared; bare \
             `get_or` and `Cell` have nothing to count.",
        ),
        Part::Chart {
            file: "shared.svg",
            alt: "Time of one shared use, for each contestant".to_owned(),
            svg: times("One shared use, through black_box", &shared, shared.find(WithRef::NAME)),
        },
        Part::Table(table(&shared, &[WithRef::NAME, GetRef::NAME])),
        Part::prose(ns_of_ours(&shared)),
    ];
    Section { title: "Using an instance that is there", goals, parts }
}

fn exclusive_table(race: &Race) -> Table {
    table(race, &[WithLimits::NAME, With::NAME, Get::NAME])
}

/// A line for each rival, a column for each way of ours; the first decides the order.
fn table(race: &Race, ours: &[&str]) -> Table {
    let mut head = vec!["rival".to_owned()];
    head.extend(ours.iter().map(|name| format!("{name} ÷ rival")));
    head.push("rival, ns".to_owned());
    let mut table = Table::new(&head.iter().map(String::as_str).collect::<Vec<_>>());
    for (rival, contestant) in race.contestants.iter().enumerate() {
        if contestant.is_ours() {
            continue;
        }
        let ratios: Vec<_> = ours.iter().map(|name| race.ratio(race.find(name), rival)).collect();
        let mut cells = vec![contestant.name.to_owned()];
        cells.extend(ratios.iter().copied().map(ratio));
        cells.push(number(race.ns(rival).median));
        table.row(ratios[0].median, cells);
    }
    table
}

fn ns_of_ours(race: &Race) -> String {
    let ours = race.contestants.iter().enumerate().filter(|(_, one)| one.is_ours());
    let ours = ours.map(|(who, one)| format!("{}: {} ns", one.name, number(race.ns(who).median)));
    format!("({}.)", ours.collect::<Vec<_>>().join("; "))
}
