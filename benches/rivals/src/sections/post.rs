//! Posts to a thread that is awake.

use super::{Entry, Pace, times};
use crate::page::{Goal, Part, Section, Table, number, ratio, thousands};
use crate::race::Race;
use crate::rivals::Post;
use crate::rivals::channels::Crossbeam;
use crate::rivals::ours_reached::Loop;
use crate::workload::post;

pub const ENTRY: Entry = Entry { name: "post", write, child };

/// In each turn, of each contestant.
const POSTS: u64 = 200_000;
const ROUNDS: usize = 11;

/// Runs the race with so many producers, and prints it.
fn child(args: &[String]) {
    let producers = args[0].parse().expect("how many producers");
    Race::run_each(post(producers), ROUNDS, POSTS).print();
}

fn write(pace: Pace) -> Section {
    let [one, two] = [("1", 1), ("2", 2)].map(|(arg, producers)| {
        Race::of_children(pace.pick(1, 5), &[ENTRY.name, arg], post(producers))
    });
    let [ours, crossbeam] = [Loop::NAME, Crossbeam::NAME].map(|name| one.find(name));

    let mut table = Table::new(&[
        "rival",
        "sessile ÷ rival, one producer",
        "two producers",
        "rival, one producer, ns",
        "two producers, ns",
    ]);
    for (rival, contestant) in one.contestants.iter().enumerate() {
        if contestant.is_ours() {
            continue;
        }
        let ratios = [&one, &two].map(|race| race.ratio(ours, rival));
        let mut cells = vec![contestant.name.to_owned()];
        cells.extend(ratios.map(ratio));
        cells.extend([&one, &two].map(|race| number(race.ns(rival).median)));
        table.row(ratios[0].median.max(ratios[1].median), cells);
    }

    let goals = [(&one, "one producer"), (&two, "two producers")].map(|(race, producers)| {
        let what = format!("a post, {producers}: time ÷ `crossbeam-channel` with boxed closures");
        Goal::at_most(1.0, what, race.ratio(ours, crossbeam))
    });
    let parts = vec![
        Part::prose(format!(
            "{} closures in each turn are sent to one thread, which runs them: by one thread, or half \
             of them by each of two at once. Each closure has a number with it and is counted, on the \
             thread that runs it. The time begins with the first post and ends when the last has run; \
             it is divided by the number of posts. Nobody's queue has a limit. The rivals' channels \
             carry `Box<dyn FnOnce() + Send>`; we post the closure, which is small \
             enough to need none.",
            thousands(POSTS as i64),
        )),
        Part::prose(
            "The machine has a processor for each of the threads with one producer; with two, three \
             threads share what there is of them, if it has only two.",
        ),
        Part::Chart {
            file: "post.svg",
            alt: "Time for each post, with one producer".to_owned(),
            svg: times("A post to a thread that is awake, one producer", &one, ours),
        },
        Part::Table(table),
        Part::prose(format!(
            "({}: {} ns with one producer, {} million posts a second; {} ns with two, {} million.)",
            Loop::NAME,
            number(one.ns(ours).median),
            number(1e3 / one.ns(ours).median),
            number(two.ns(ours).median),
            number(1e3 / two.ns(ours).median),
        )),
    ];
    Section { title: "Posts to another thread", goals: goals.into(), parts }
}
