//! Waiting for room.

use std::time::Duration;

use super::{Entry, Pace};
use crate::page::{Part, Section, Table, number, ratio};
use crate::race::{Figure, Race};
use crate::rivals::room::{MaxSize, Room};
use crate::workload::room::{ROOM, THREADS, Waited, room};

pub const ENTRY: Entry = Entry { name: "room", write, child };

/// How long a number is kept in each use, and how often a thread uses one in a turn.
const KEEPS: [(Duration, u64); 2] = [(Duration::from_millis(1), 20), (Duration::ZERO, 200)];

/// Runs one of the races, so many rounds, and prints it.
fn child(args: &[String]) {
    let [which, rounds] = [0, 1].map(|at| args[at].parse::<usize>().expect("which, how often"));
    let (keep, times) = KEEPS[which];
    Race::run_each(room(keep), rounds, times).print();
}

fn write(pace: Pace) -> Section {
    let races = [0, 1].map(|which: usize| {
        let args = [ENTRY.name, &which.to_string(), pace.pick("3", "11")];
        Race::of_children(pace.pick(1, 3), &args, room(KEEPS[which].0))
    });
    let mut parts = vec![Part::prose(format!(
        "There is room for {ROOM}, and {THREADS} threads use it again and again, all at once. A wait is \
         from the call until the body runs. Pools that one checks out from hand a number from thread \
         to thread; a semaphore hands on nothing but the permission. An instance of ours is its \
         thread's: for each newcomer another one is closed, and a new one made. Here both are next to \
         nothing, so what is measured is the waiting; if a session is dear to make, let threads ask \
         `Workers` instead. Deadpool and the semaphore are awaited by the thread itself, which parks \
         meanwhile. Who serves in turn has a longest wait near the median; who lets the thread that \
         has just given back have it again is quick, as nobody has to wake, and lets others wait.",
    ))];
    for ((keep, times), race) in KEEPS.iter().zip(&races) {
        parts.push(Part::prose(match keep.is_zero() {
            false => format!(
                "Kept for {} ms by `sleep`, {times} times by each thread. With nothing lost between two \
                 uses it would be {} µs for each.",
                keep.as_millis(),
                keep.as_micros() / ROOM as u128,
            ),
            true => format!(
                "Kept while the thread yields its processor once, {times} times by each thread."
            ),
        }));
        parts.push(Part::Table(waits(race)));
    }
    Section { title: "Waiting for room", goals: Vec::new(), parts }
}

/// Everybody's time for a use, and waits; ours among them.
fn waits(race: &Race<Waited>) -> Table {
    let ours = race.find(MaxSize::NAME);
    let mut table = Table::new(&[
        "who",
        "time, sessile ÷ this",
        "longest wait, sessile ÷ this",
        "a use, µs",
        "median wait, µs",
        "99th percentile, µs",
        "longest, µs",
    ]);
    for (who, contestant) in race.contestants.iter().enumerate() {
        let time = race.ratio(ours, who);
        let longest = race.figure(ours, 3).median / race.figure(who, 3).median;
        let mut cells = vec![contestant.name.to_owned()];
        cells.extend(match who == ours {
            true => ["–".to_owned(), "–".to_owned()],
            false => [ratio(time), crate::page::bare_ratio(longest)],
        });
        let micros = |Figure { median, .. }: Figure| number(median / 1e3);
        cells.extend([0, 1, 2, 3].map(|which| micros(race.figure(who, which))));
        let key = if who == ours { f64::NEG_INFINITY } else { time.median.max(longest) };
        table.row(key, cells);
    }
    table
}
