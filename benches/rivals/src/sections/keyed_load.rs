//! Work by key, under load.

use super::{Entry, Pace};
use crate::page::{Goal, Part, Section, Table, number, ratio};
use crate::race::{Figure, Race};
use crate::rivals::conversations::{Conversations, Keyed};
use crate::workload::keyed_load::{Load, ONE_IN, SLOWER, Talked, WORK, WORKS, conversations};

pub const ENTRY: Entry = Entry { name: "keyed_load", write, child };

/// Threads, conversations, and how many times the ideal ours may take.
const LOADS: [(usize, usize, f64); 3] = [(16, 16, 1.1), (64, 64, 1.1), (8, 64, 1.25)];

/// How many times as long the fast may wait when there are slow ones.
const DISTURBED: f64 = 1.5;

fn even((threads, conversations, _): (usize, usize, f64)) -> Load {
    Load { threads, conversations, slow: false, fast_only: false }
}

/// Of the first row's size, with the slow ones and without.
fn disturbed(slow: bool) -> Load {
    Load { slow, fast_only: !slow, ..even(LOADS[0]) }
}

/// There is none: all sleep, so where things lie in memory is of no weight.
fn child(_: &[String]) {
    unreachable!("the section starts no child");
}

fn race(load: Load, rounds: usize) -> Race<Talked> {
    Race::run_each(conversations(load), rounds, 1)
}

fn write(pace: Pace) -> Section {
    let rounds = pace.pick(1, 5);
    let races = LOADS.map(|load| race(even(load), rounds));
    let [with, without] = [true, false].map(|slow| race(disturbed(slow), pace.pick(1, 5)));
    let ours = with.find(Keyed::NAME);

    let mut table =
        Table::new(&["threads, conversations", "who", "took ÷ ideal", "took, s", "ideal, s"]);
    let mut goals = Vec::new();
    for ((threads, conversations, bound), race) in LOADS.into_iter().zip(&races) {
        let ideal = WORK * WORKS * conversations.div_ceil(threads) as u32;
        let over = |who| divided(race.ns(who), ideal.as_nanos() as f64);
        let worst = over(race.find(Keyed::NAME)).median;
        for (who, contestant) in race.contestants.iter().enumerate() {
            let cells = vec![
                format!("{threads}, {conversations}"),
                contestant.name.to_owned(),
                ratio(over(who)),
                number(race.ns(who).median / 1e9),
                number(ideal.as_secs_f64()),
            ];
            // Rows of one load stay together, the load where we do worst first, and we first in it.
            let rank = if who == ours { 1e-3 } else { over(who).median * 1e-6 };
            table.row(worst + rank, cells);
        }
        let what = format!("{threads} workers, {conversations} conversations: time ÷ the ideal");
        goals.push(Goal::at_most(bound, what, over(ours)));
    }

    let mut slowed = Table::new(&[
        "who",
        "median wait of the fast, with slow ones ÷ without",
        "with, ms",
        "without, ms",
    ]);
    for (who, contestant) in with.contestants.iter().enumerate() {
        let undisturbed = without.figure(who, 1).median;
        let growth = divided(with.figure(who, 1), undisturbed);
        let cells = vec![
            contestant.name.to_owned(),
            ratio(growth),
            number(with.figure(who, 1).median / 1e6),
            number(undisturbed / 1e6),
        ];
        slowed.row(growth.median, cells);
        if who == ours {
            let what = format!(
                "one conversation in {ONE_IN} is {SLOWER} times as slow: median wait of the fast, with \
                 the slow ones ÷ without",
            );
            goals.push(Goal::at_most(DISTURBED, what, growth));
        }
    }

    let parts = vec![
        Part::prose(format!(
            "Each conversation is a key, and a thread that asks for {WORKS} works of {} ms, each when \
             the one before is done; all begin together. A work sleeps. The ideal is that all threads \
             are busy until the end. The instances are there, and the threads have been started. \
             With a `Mutex` per key, a closure waits for the lock on the thread that it was given; \
             here it never has to, as nobody asks for two works of one key at once. Tokio's tasks hand \
             each work to `spawn_blocking`, which may have as many threads as the others. \
             Who has no instances of its own to place can give any work to any thread; an instance of \
             ours stays on its own.",
            WORK.as_millis(),
        )),
        Part::Table(table),
        Part::prose(format!(
            "With {} threads and {} conversations, one in {ONE_IN} asks for works {SLOWER} times as \
             slow, one after another for as long as the fast ones talk; or says nothing. A wait is from \
             when a fast one asks until its work is done, which takes {} ms.",
            LOADS[0].0,
            LOADS[0].1,
            WORK.as_millis(),
        )),
        Part::Table(slowed),
    ];
    Section { title: "Work by key, under load", goals, parts }
}

fn divided(Figure { median, low, high }: Figure, by: f64) -> Figure {
    Figure { median: median / by, low: low / by, high: high / by }
}
