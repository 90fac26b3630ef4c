//! Threads that come and go.

use super::{Entry, Pace};
use crate::chart::{Bars, Chart, Scale};
use crate::memory::{Usage, count_from_now_on, in_children};
use crate::page::{Goal, Part, Section, Table, number, ratio, thousands};
use crate::race::{Figure, Race};
use crate::rivals::Rival;
use crate::rivals::ours::WithLimits;
use crate::workload::{BARE, Contestant, churn, create_and_close};

pub const ENTRY: Entry = Entry { name: "threads", write, child };

/// As many as the memory is watched over.
const THREADS: u64 = 10_000;
/// As many as are timed, of each contestant.
const IN_A_TURN: u64 = 100;
const TURNS: usize = 300;

fn write(pace: Pace) -> Section {
    let rounds = pace.pick(5, TURNS);
    let race = Race::run_each(churn(), rounds, IN_A_TURN);
    let [ours, bare] = [WithLimits::NAME, BARE].map(|name| race.find(name));
    let stay = (0..rounds).map(|_| create_and_close(1_000).as_nanos() as f64 / 1_000.0);
    let stay = Figure::of(stay.collect());

    let leftovers: Vec<_> = race
        .contestants
        .iter()
        .map(|contestant| in_children(pace.pick(1, 5), &[ENTRY.name, contestant.name]))
        .collect();
    let parts = vec![
        Part::prose(format!(
            "Each thread is spawned, uses its number once and is joined; then comes the next, {} \
             for each contestant, in turns of {IN_A_TURN}. With sessile, `std` and `linked` the \
             number is made on the thread and closed with it; `ThreadLocal` hands it to the next \
             thread, and the maps keep it. \"Over bare\" is what a thread costs more than one that \
             does nothing, turn by turn.",
            thousands((IN_A_TURN * TURNS as u64) as i64)
        )),
        Part::Chart {
            file: "threads.svg",
            alt: "What a short thread costs with one use, over one that does nothing".to_owned(),
            svg: chart(&race, bare),
        },
        Part::Table(times(&race, ours, bare)),
        Part::prose(format!(
            "A short thread with one use, sessile: {} µs over bare ({}–{}). On a thread that stays, \
             `with` and `close_here`, which make and close an instance, take {} ns together.",
            number(race.excess(ours, bare).median / 1e3),
            number(race.excess(ours, bare).low / 1e3),
            number(race.excess(ours, bare).high / 1e3),
            number(stay.median),
        )),
        Part::prose(format!(
            "### What is left of {} threads\n\n\
             Each contestant has a process of its own. After 1,000 threads to warm up, bytes are \
             taken down; then again {} threads later. The table has what has been asked of the \
             allocator since and not given back, and by how much the resident set has grown.",
            thousands(THREADS as i64),
            thousands(THREADS as i64)
        )),
        Part::Table(leftovers_table(&race.contestants, &leftovers, ours)),
    ];

    let [live, resident] = leftovers[ours][..] else {
        panic!("the child prints two numbers");
    };
    let goals = vec![
        Goal {
            what: format!("bytes left of {} threads, by the allocator", thousands(THREADS as i64)),
            bound: "at most 4,096".to_owned(),
            measured: thousands(live as i64),
            met: live <= 4096.0,
        },
        Goal {
            what: format!("growth of the resident set over {} threads", thousands(THREADS as i64)),
            bound: "at most 256 KiB".to_owned(),
            measured: format!("{} KiB", thousands(resident as i64 / 1024)),
            met: resident <= 256.0 * 1024.0,
        },
    ];
    Section { title: "Threads that come and go", goals, parts }
}

/// Prints what is left after so many threads: bytes asked for, and bytes resident.
fn child(args: &[String]) {
    count_from_now_on();
    let contestant = churn().into_iter().find(|one| one.name == args[0]).expect("a known name");
    let _ = contestant.run(1_000);
    let before = Usage::now();
    let _ = contestant.run(THREADS);
    let Usage { live, resident } = Usage::now().since(before);
    println!("{live} {resident}");
}

fn times(race: &Race, ours: usize, bare: usize) -> Table {
    let mut table = Table::new(&[
        "rival",
        "sessile ÷ rival, whole thread",
        "rival over bare, µs",
        "rival, whole thread, µs",
    ]);
    for (rival, contestant) in race.contestants.iter().enumerate() {
        if contestant.is_ours() {
            continue;
        }
        let over = race.excess(rival, bare).median / 1e3;
        let cells = vec![
            contestant.name.to_owned(),
            ratio(race.ratio(ours, rival)),
            if rival == bare { "–".to_owned() } else { number(over) },
            number(race.ns(rival).median / 1e3),
        ];
        table.row(race.ratio(ours, rival).median, cells);
    }
    table
}

fn chart(race: &Race, bare: usize) -> String {
    let others = race.contestants.iter().enumerate().filter(|(who, _)| *who != bare);
    let bars = others.map(|(who, contestant)| {
        let over = race.excess(who, bare).median / 1e3;
        Bars {
            label: contestant.name.to_owned(),
            ours: contestant.is_ours(),
            values: vec![(over.max(0.0), format!("{} µs", number(over)))],
        }
    });
    let bare = number(race.ns(bare).median / 1e3);
    Chart {
        title: "A short thread with one use, over one that does nothing".to_owned(),
        subtitle: format!("microseconds over the {bare} of a bare thread; shorter is better"),
        series: Vec::new(),
        bars: bars.collect(),
        scale: Scale::Linear,
    }
    .svg()
}

fn leftovers_table(contestants: &[Contestant], leftovers: &[Vec<f64>], ours: usize) -> Table {
    let mut table = Table::new(&["contestant", "bytes not given back", "resident set, KiB"]);
    for (contestant, left) in contestants.iter().zip(leftovers) {
        let cells = vec![
            contestant.name.to_owned(),
            thousands(left[0] as i64),
            thousands(left[1] as i64 / 1024),
        ];
        // Those that leave less than we do come first.
        table.row(leftovers[ours][0] - left[0], cells);
    }
    table
}
