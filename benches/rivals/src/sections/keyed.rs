//! Instances by key.

use super::{Entry, Pace};
use crate::memory::{Usage, count_from_now_on, in_child, in_children};
use crate::page::{Goal, Part, Section, Table, number, ratio, thousands};
use crate::race::Figure;
use crate::workload::Keys;

pub const ENTRY: Entry = Entry { name: "keyed", write, child };

const FEW: usize = 10_000;
const MANY: usize = 100_000;

/// Calls in a turn.
const CALLS: usize = 2_000;
const TURNS: usize = 25;

/// What a turn found: of the few, then of the many.
#[derive(Clone, Copy)]
struct Turn {
    call: [f64; 2],
    slow: [f64; 2],
    look_up: [f64; 2],
}

fn child(args: &[String]) {
    match args[0].as_str() {
        "memory" => memory(args[1].parse().expect("how many")),
        _ => turns(),
    }
}

/// Prints what each of so many instances takes: bytes asked for, and bytes resident.
fn memory(count: usize) {
    count_from_now_on();
    let keys = Keys::new(count);
    let before = Usage::now();
    keys.make();
    let Usage { live, resident } = Usage::now().since(before);
    println!("{} {}", live as f64 / count as f64, resident as f64 / count as f64);
}

/// Prints turns of calls and of look-ups, with few keys and with many.
fn turns() {
    let mut both = [FEW, MANY].map(Keys::new);
    for keys in &mut both {
        keys.make();
        keys.fill();
    }
    for _ in 0..TURNS {
        for keys in &mut both {
            let some = keys.some(CALLS);
            let look_up = keys.look_up(&some).as_nanos() as f64 / CALLS as f64;
            let some = keys.some(CALLS);
            let mut calls = keys.calls(some);
            calls.sort_by(f64::total_cmp);
            println!("{} {} {look_up}", calls[CALLS / 2], calls[CALLS * 99 / 100]);
        }
    }
}

fn write(pace: Pace) -> Section {
    let bytes = [FEW, MANY]
        .map(|count| in_children(pace.pick(1, 3), &[ENTRY.name, "memory", &count.to_string()]));
    let mut turns = Vec::new();
    for _ in 0..pace.pick(1, 5) {
        for turn in in_child(&[ENTRY.name, "turns"]).chunks(6) {
            let pair = |at: usize| [turn[at], turn[at + 3]];
            turns.push(Turn { call: pair(0), slow: pair(1), look_up: pair(2) });
        }
    }
    let figure = |of: &dyn Fn(&Turn) -> f64| Figure::of(turns.iter().map(of).collect());
    let growth = |[few, many]: [f64; 2]| many / few;

    let mut table = Table::new(&[
        "instances",
        "bytes each",
        "resident, bytes each",
        "call by key, median, ns",
        "99th percentile, ns",
        "look-up in a `HashMap`, ns",
    ]);
    for (at, count) in [FEW, MANY].into_iter().enumerate() {
        let medians: [&dyn Fn(&Turn) -> f64; 3] =
            [&|turn| turn.call[at], &|turn| turn.slow[at], &|turn| turn.look_up[at]];
        let mut cells = vec![thousands(count as i64), number(bytes[at][0]), number(bytes[at][1])];
        cells.extend(medians.map(|of| number(figure(of).median)));
        table.row(count as f64, cells);
    }

    let goals = vec![Goal::at_most(
        1.0,
        format!(
            "a call by key, {} keys ÷ {} keys; divided by the same of a look-up in a `HashMap`",
            thousands(MANY as i64),
            thousands(FEW as i64),
        ),
        figure(&|turn| growth(turn.call) / growth(turn.look_up)),
    )];
    let parts = vec![
        Part::prose(format!(
            "`Workers` with two threads, and an instance for each key; an instance is a `u64`, and \
             the keys are strings such as `conversation-4711`. Bytes are those asked of the allocator \
             while all instances were made, for each: the instance, its name and its place in the \
             registry, and the key in the two maps that find it. A call is work for the key's \
             instance, submitted and joined: each is timed alone, {} in a turn, every key having its \
             turn before one comes again. The look-ups are of as many keys, one after the other, in a \
             `HashMap` of the standard library that has the same keys, and the time is divided by \
             their number. Few and many take turns in one process; the figures are medians of \
             turns.",
            thousands(CALLS as i64),
        )),
        Part::Table(table),
        Part::prose(format!(
            "From {} to {} keys a call takes {} times as long, a look-up {} times.",
            thousands(FEW as i64),
            thousands(MANY as i64),
            ratio(figure(&|turn| growth(turn.call))),
            ratio(figure(&|turn| growth(turn.look_up))),
        )),
    ];
    Section { title: "Instances by key", goals, parts }
}
