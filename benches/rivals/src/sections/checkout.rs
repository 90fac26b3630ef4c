//! Against pools that one checks out from, and maps by thread.

use std::time::Duration;

use super::{Entry, Pace};
use crate::chart::{Bars, Chart, Scale};
use crate::page::{Part, Section, Table, number, ratio};
use crate::race::{Effort, Race};
use crate::rivals::Rival;
use crate::rivals::ours::WithLimits;
use crate::workload::checkout;

pub const ENTRY: Entry = Entry { name: "checkout", write, child };

/// Runs the race on so many threads, and prints it.
fn child(args: &[String]) {
    let (threads, effort) = match args[0].as_str() {
        "1" => (1, Effort::new(101, Duration::from_micros(500))),
        // Longer, so that the threads' coming together at the start is a small part of it.
        _ => (2, Effort::new(21, Duration::from_millis(5))),
    };
    Race::run(checkout(threads), effort).print();
}

fn write(pace: Pace) -> Section {
    let [one, two] = [("1", 1), ("2", 2)].map(|(arg, threads)| {
        Race::of_children(pace.pick(2, 7), &[ENTRY.name, arg], checkout(threads))
    });
    let ours = one.find(WithLimits::NAME);

    let mut table = Table::new(&[
        "rival",
        "sessile `with` ÷ rival, one thread",
        "two threads",
        "rival, one thread, ns",
        "two threads, ns",
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

    let bars = one.contestants.iter().enumerate().map(|(who, contestant)| Bars {
        label: contestant.name.to_owned(),
        ours: contestant.is_ours(),
        values: [&one, &two]
            .map(|race| {
                let ns = race.ns(who).median;
                (ns, format!("{} ns", number(ns)))
            })
            .to_vec(),
    });
    let svg = Chart {
        title: "Borrow a number, add one, give it back".to_owned(),
        subtitle: "nanoseconds, on a logarithmic scale; further left is better".to_owned(),
        series: vec!["one thread", "two threads at once"],
        bars: bars.collect(),
        scale: Scale::Logarithmic,
    }
    .svg();

    let parts = vec![
        Part::prose(
            "A thread gets a number to itself, adds one to it through `black_box`, and gives it back. \
             From the pools one checks out any number that is free; there are four, so nobody ever \
             waits. From the maps one gets the thread's own, under their lock. On two threads, both \
             share the pool or map and start together; the time is that of the slower one, for one \
             use of its own, so that with perfect scaling it is what it was on one thread.",
        ),
        Part::prose(
            "Most of these solve another problem than we do: what they hand out may move between \
             threads, and need not exist once for each. `linked` drops an instance with the last \
             `Ref` to it; its authors advise to keep one, and to use it directly costs next to \
             nothing. The line \"a `Ref` held besides\" is about a thread that keeps one elsewhere and \
             looks the instance up. r2d2 is without its check on check-out, which is on by default.",
        ),
        Part::Chart {
            file: "checkout.svg",
            alt: "Time to borrow and give back, on one thread and on two".to_owned(),
            svg,
        },
        Part::Table(table),
        Part::prose(format!(
            "({}: {} ns on one thread, {} ns on two.)",
            WithLimits::NAME,
            number(one.ns(ours).median),
            number(two.ns(ours).median),
        )),
    ];
    Section { title: "Against checking out, and against maps by thread", goals: Vec::new(), parts }
}
