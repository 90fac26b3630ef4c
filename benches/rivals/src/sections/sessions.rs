//! A connection for each thread, beside one that is shared.

use std::time::Duration;

use super::{Entry, Pace};
use crate::chart::{Bars, Chart, Scale};
use crate::page::{Part, Section, Table, number, ratio};
use crate::race::{Effort, Race};
use crate::rivals::Client;
use crate::rivals::ours_connected::PerThread;
use crate::workload::calls::{Calls, by_two};

pub const ENTRY: Entry = Entry { name: "sessions", write, child };

fn child(_: &[String]) {
    Race::run(by_two(), Effort::new(15, Duration::from_millis(30))).print();
}

fn write(pace: Pace) -> Section {
    let race = Race::of_children(pace.pick(1, 3), &[ENTRY.name], by_two());
    let ours = race.find(PerThread::NAME);
    let mut table = Table::new(&[
        "two threads",
        "a session each ÷ this one, time for each call",
        "calls a second",
        "latency in µs, median",
        "99th percentile",
    ]);
    let mut bars = Vec::new();
    for (who, contestant) in race.contestants.iter().enumerate() {
        let compared = race.ratio(ours, who);
        let each = race.figure(who, Calls::EACH).median;
        let latency = |which| number(race.figure(who, which).median / 1e3);
        let shown = if who == ours { "–".to_owned() } else { ratio(compared) };
        let cells = vec![
            contestant.name.to_owned(),
            shown,
            number(1e9 / each),
            latency(Calls::MEDIAN),
            latency(Calls::SLOW),
        ];
        table.row(compared.median, cells);
        bars.push(Bars {
            label: contestant.name.to_owned(),
            ours: contestant.is_ours(),
            values: vec![(each / 1e3, format!("{} µs", number(each / 1e3)))],
        });
    }
    let svg = Chart {
        title: "Time for each call, two threads, WebSocket".to_owned(),
        subtitle: "microseconds of a turn divided by its calls, shorter is better".to_owned(),
        series: Vec::new(),
        bars,
        scale: Scale::Linear,
    }
    .svg();
    let alt = "Time for each call of two threads, with a connection each or with one".to_owned();
    let parts = vec![
        Part::prose(
            "Two threads call the same server, over WebSocket: with a session for each, from a pool; \
             with one such session under a `Mutex`; with one duplex session. `ThreadLocal` has a bare \
             `tungstenite::WebSocket` for each thread, and keeps it when the thread has ended; our pool \
             closes it, knows deadlines, and answers pings. The server has a thread for each \
             connection, so that on two processors four threads talk in the first row, and three under \
             a lock, of which one waits.",
        ),
        Part::Chart { file: "sessions.svg", alt, svg },
        Part::Table(table),
    ];
    Section { title: "A session for each thread", goals: Vec::new(), parts }
}
