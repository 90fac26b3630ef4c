//! A question to another thread, and its answer.

use std::time::Duration;

use super::{Entry, Pace, times};
use crate::page::{Goal, Part, Section, Table, number, ratio};
use crate::race::{Effort, Race};
use crate::rivals::Ask;
use crate::rivals::channels::Crossbeam;
use crate::rivals::ours_reached::Loop;
use crate::rivals::park::PingPong;
use crate::workload::{Owner, Place, round_trip};

pub const ENTRY: Entry = Entry { name: "round_trip", write, child };

/// The states of the owner that are looked at, in the order of the columns.
const STATES: [(Owner, Place, &str); 4] = [
    (Owner::Awake, Place::Apart, "awake, apart"),
    (Owner::Awake, Place::Together, "awake, together"),
    (Owner::Asleep, Place::Apart, "asleep, apart"),
    (Owner::Asleep, Place::Together, "asleep, together"),
];

/// Runs the race in one of the states, and prints it.
fn child(args: &[String]) {
    let (owner, place, _) = STATES[args[0].parse::<usize>().expect("which state")];
    let contestants = round_trip(owner, place);
    let race = match owner {
        Owner::Awake => Race::run(contestants, Effort::new(31, Duration::from_millis(2))),
        // Few in a turn: to wait until the owner sleeps takes much longer than the question.
        Owner::Asleep => Race::run_each(contestants, 31, 20),
    };
    race.print();
}

fn write(pace: Pace) -> Section {
    let races = [0, 1, 2, 3].map(|state| {
        let (owner, place, _) = STATES[state];
        let args = [ENTRY.name, &state.to_string()];
        Race::of_children(pace.pick(1, 5), &args, round_trip(owner, place))
    });
    let find = |name| races[0].find(name);
    let [ours, crossbeam, bare] = [Loop::NAME, <Crossbeam as Ask>::NAME, PingPong::NAME].map(find);

    let mut ratios =
        Table::new(&["sessile `call` ÷", "awake, apart", "together", "asleep, apart", "together"]);
    let mut nanoseconds =
        Table::new(&["ns", "awake, apart", "together", "asleep, apart", "together"]);
    for (who, contestant) in races[0].contestants.iter().enumerate() {
        let name = contestant.name.to_owned();
        let all = races.each_ref().map(|race| race.ratio(ours, who));
        let worst = all.iter().map(|ratio| ratio.median).fold(0.0, f64::max);
        let mut cells = vec![name.clone()];
        cells.extend(races.iter().map(|race| number(race.ns(who).median)));
        nanoseconds.row(worst, cells);
        if who != ours {
            let mut cells = vec![name];
            cells.extend(all.map(ratio));
            ratios.row(worst, cells);
        }
    }

    let goals = STATES.iter().zip(&races).map(|((owner, _, state), race)| match owner {
        Owner::Awake => Goal::at_most(
            1.0,
            format!(
                "`call` and `join`, owner {state}: time ÷ `crossbeam-channel`, `bounded(1)` back"
            ),
            race.ratio(ours, crossbeam),
        ),
        Owner::Asleep => Goal::at_most(
            1.2,
            format!("`call` and `join`, owner {state}: time ÷ bare `park` and `unpark`"),
            race.ratio(ours, bare),
        ),
    });
    let goals = goals.collect();
    let parts = vec![
        Part::prose(
            "One thread asks another to add one to a number, waits for the answer, and asks again. With \
             a channel the question is a boxed closure, which has the sender of a channel for the \
             answer, made for it; so does a caller who wants an answer. `LocalPoolHandle` has one \
             thread, and is awaited by `block_on` of a current-thread runtime. `Workers` and rayon have \
             one thread each.",
        ),
        Part::prose(
            "\"Awake\" is one question right after another: how long each side looks on before it \
             sleeps is up to the contestant. \"Asleep\" is a question to a thread of which the kernel \
             says, in `/proc/self/task`, that it sleeps; to wait for that is outside the time. Bare \
             `park` and `unpark` carry nothing: a word is set, the other thread is woken, clears it and \
             wakes the first, which sleeps without looking on; awake or not, both sleep each time.",
        ),
        Part::prose(
            "Left to itself the kernel puts the two threads on one processor or on two, by chance, and \
             leaves them there; which it is makes more of a difference than who is measured. So both \
             are shown: \"together\", both threads are kept on one processor, where to spin is to keep \
             the other from answering; \"apart\", each on its own, where to wake the other means to \
             wake its processor as well.",
        ),
        Part::Chart {
            file: "round-trip.svg",
            alt: "Time for a question and its answer, the owner being awake".to_owned(),
            svg: times("A question and its answer: owner awake, apart", &races[0], ours),
        },
        Part::Table(ratios),
        Part::Table(nanoseconds),
    ];
    Section { title: "A question and its answer", goals, parts }
}
