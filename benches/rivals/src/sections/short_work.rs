//! Small work, submitted and run.

use super::{Entry, Pace};
use crate::page::{Goal, Part, Section, Table, number, ratio, thousands};
use crate::race::{Figure, Race};
use crate::rivals::short_work::{Channel, Hands, QUEUE, Spawn, Submit, SubmitKeyed};
use crate::workload::short_work::{KEYS, short_work};

pub const ENTRY: Entry = Entry { name: "short_work", write, child };

const THREADS: [usize; 5] = [1, 2, 4, 16, 64];
const PRODUCERS: [u64; 3] = [1, 2, 8];

/// In each turn, of each contestant.
const WORKS: u64 = 50_000;

/// Runs one race, so many rounds, and prints it.
fn child(args: &[String]) {
    let [threads, producers, rounds] =
        [0, 1, 2].map(|at| args[at].parse::<u64>().expect("how many threads, producers, rounds"));
    let contestants = short_work(threads as usize, producers);
    // Threads and instances are made outside the time.
    contestants.iter().for_each(|one| _ = one.run(WORKS));
    Race::run_each(contestants, rounds as usize, WORKS).print();
}

/// What is asked of ours against another.
struct Pair {
    what: &'static str,
    ours: &'static str,
    other: &'static str,
    bound: f64,
}

const PAIRS: [Pair; 3] = [
    Pair {
        what: "`submit` ÷ `rayon::ThreadPool::spawn`",
        ours: Submit::NAME,
        other: Spawn::NAME,
        bound: 1.0,
    },
    Pair {
        what: "`submit` ÷ boxed closures over `crossbeam-channel`",
        ours: Submit::NAME,
        other: Channel::NAME,
        bound: 1.5,
    },
    Pair { what: "keyed ÷ not keyed", ours: SubmitKeyed::NAME, other: Submit::NAME, bound: 1.5 },
];

fn write(pace: Pace) -> Section {
    let mut table = Table::new(&[
        "threads, producers",
        "`submit` ÷ rayon",
        "`submit` ÷ crossbeam",
        "keyed ÷ not keyed",
        "`submit`, ns",
        "keyed, ns",
        "crossbeam, ns",
        "rayon, ns",
    ]);
    let mut worst: [Option<(Figure, String)>; 3] = [const { None }; 3];
    for threads in THREADS {
        for producers in PRODUCERS {
            let rounds = pace.pick("5", "15");
            let args = [ENTRY.name, &threads.to_string(), &producers.to_string(), rounds];
            let race = Race::of_children(pace.pick(1, 3), &args, short_work(threads, producers));
            let ratios =
                PAIRS.map(|Pair { ours, other, .. }| race.ratio(race.find(ours), race.find(other)));
            let row = format!("{threads}, {producers}");
            for (worst, ratio) in worst.iter_mut().zip(ratios) {
                if worst.as_ref().is_none_or(|(worst, _)| worst.median < ratio.median) {
                    *worst = Some((ratio, row.clone()));
                }
            }
            let mut cells = vec![row];
            cells.extend(ratios.map(ratio));
            let everybody = [Submit::NAME, SubmitKeyed::NAME, Channel::NAME, Spawn::NAME];
            cells.extend(everybody.map(|name| number(race.ns(race.find(name)).median)));
            table.row(ratios[0].median.max(ratios[1].median), cells);
        }
    }

    let goals = PAIRS.iter().zip(worst).map(|(Pair { what, bound, .. }, worst)| {
        let (ratio, row) = worst.expect("there are rows");
        Goal::at_most(*bound, format!("short work, the worst row ({row}): {what}"), ratio)
    });
    let parts = vec![
        Part::prose(format!(
            "Producers hand {} small works in each turn to threads: each work counts itself, and ours adds one to its \
             instance besides. The time begins with the producers' threads and ends when the last \
             work has run; it is divided by the number of works. The queues of ours and of \
             `crossbeam-channel` hold {QUEUE} works, and who finds one full waits; rayon's has no \
             limit. Each producer has {KEYS} keys, which take turns; the key is looked up for each \
             work, and has a queue of {QUEUE} and an instance to itself. Handles are detached.",
            thousands(WORKS as i64),
        )),
        Part::Table(table),
    ];
    Section { title: "Short work", goals: goals.collect(), parts }
}
