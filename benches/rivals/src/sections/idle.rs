//! What threads cost that sleep.

use std::thread;
use std::time::Duration;

use super::{Entry, Pace};
use crate::memory::in_child;
use crate::page::{Goal, Part, Section, Table, number};
use crate::workload::{Asleep, computed};

pub const ENTRY: Entry = Entry { name: "idle", write, child };

/// Falls asleep, all of it, and prints how long it has computed while it slept, in microseconds.
fn child(args: &[String]) {
    let [loops, workers, seconds] =
        [0, 1, 2].map(|at| args[at].parse::<u64>().expect("how many loops, workers, seconds"));
    let asleep = Asleep::new(loops as usize, workers as usize);
    // They look on for a moment before they sleep.
    thread::sleep(Duration::from_millis(500));
    let before = computed();
    thread::sleep(Duration::from_secs(seconds));
    let after = computed();
    drop(asleep);
    println!("{}", (after - before).as_nanos() as f64 / 1e3);
}

/// How much more may be measured than of a process that has nothing.
const UNMEASURABLE: f64 = 100.0;

/// Loops and workers.
const CROWDS: [[&str; 2]; 2] = [["8", "8"], ["0", "0"]];

fn write(pace: Pace) -> Section {
    let seconds = pace.pick("1", "10");
    // Both at once: they do nothing, so neither is in the other's way.
    let [ours, nothing] = thread::scope(|s| {
        let sleeping = CROWDS.map(|[loops, workers]| {
            s.spawn(move || in_child(&[ENTRY.name, loops, workers, seconds])[0])
        });
        sleeping.map(|child| child.join().expect("the child prints a number"))
    });

    let mut table = Table::new(&["asleep", "computed, µs"]);
    table.row(ours, vec!["sessile, 8 loops and 8 workers".to_owned(), number(ours)]);
    table.row(nothing, vec!["nothing but the thread that measures".to_owned(), number(nothing)]);
    let goals = vec![Goal {
        what: format!("8 loops and 8 workers asleep for {seconds} s, time computed"),
        bound: format!("at most {UNMEASURABLE} µs more than nothing"),
        measured: format!("{} µs more", number(ours - nothing)),
        met: ours - nothing <= UNMEASURABLE,
    }];
    let parts = vec![
        Part::prose(format!(
            "Eight threads run a loop each, which has called something, and `Workers` has eight more, \
             each of which has its instance; then there is nothing to do for {seconds} s. The time is \
             what the kernel counts for all threads of the process meanwhile, \
             `CLOCK_PROCESS_CPUTIME_ID`. The thread that measures sleeps as well; what it takes to do \
             so is in the second row, of a process that has nothing else."
        )),
        Part::Table(table),
    ];
    Section { title: "Asleep", goals, parts }
}
