//! Calls over one connection, from many threads.

use std::time::Duration;

use super::{Entry, Pace};
use crate::chart::{Bars, Chart, Scale};
use crate::echo;
use crate::page::{Goal, Part, Section, Table, number, ratio};
use crate::race::{Effort, Race};
use crate::rivals::Client;
use crate::rivals::mutex_stream::Tungstenite;
use crate::rivals::ours_connected::{DuplexTcp, DuplexWebSocket};
use crate::workload::Contestant;
use crate::workload::calls::{Calls, over_tcp, over_web_socket};

pub const ENTRY: Entry = Entry { name: "calls", write, child };

const THREADS: [usize; 4] = [1, 2, 8, 64];

/// A transport: its name, who calls over it, and who of them is ours.
struct Transport {
    name: &'static str,
    contestants: fn(usize) -> Vec<Contestant<Calls>>,
    ours: &'static str,
}

const TRANSPORTS: [Transport; 2] = [
    Transport { name: "TCP", contestants: over_tcp, ours: DuplexTcp::NAME },
    Transport { name: "WebSocket", contestants: over_web_socket, ours: DuplexWebSocket::NAME },
];

/// Serves; or runs the race over one of the transports with so many threads, and prints it.
fn child(args: &[String]) {
    let [transport, threads] = args else { return echo::serve() };
    let transport: usize = transport.parse().expect("which transport");
    let threads = threads.parse().expect("how many threads");
    let contestants = (TRANSPORTS[transport].contestants)(threads);
    Race::run(contestants, Effort::new(9, Duration::from_millis(30))).print();
}

fn write(pace: Pace) -> Section {
    let mut goals = Vec::new();
    let mut parts = vec![
        Part::prose(
            "Threads call a server that sends back what it is told, a number: JSON-RPC, over the \
             loopback device. All share one connection, and each asks once more when it has its \
             answer. The server is a process of its own (`src/echo.rs`), with a thread for the \
             connection that blocks, and answers with one write all that has come with one read. \
             Under a `Mutex` the connection is held from the question until its answer; from one \
             thread that is a bare connection that blocks, and a free lock, which is 20 ns or so. \
             `jsonrpsee` and `tokio-tungstenite` have a runtime of one thread, as our session has; \
             their callers block on it, as ours do. `TCP_NODELAY` is set for all.",
        ),
        Part::prose(
            "Time is that of a turn, divided by its calls. A latency is that of a single call, on the \
             thread that makes it.",
        ),
    ];
    for (at, transport) in TRANSPORTS.iter().enumerate() {
        let races = THREADS.map(|threads| {
            let args = [ENTRY.name, &at.to_string(), &threads.to_string()];
            Race::of_children(pace.pick(1, 3), &args, (transport.contestants)(threads))
        });
        goals.extend(found_goals(transport, &races));
        parts.extend(found(transport, &races));
    }
    Section { title: "Calls over one connection", goals, parts }
}

fn found_goals(transport: &Transport, races: &[Race<Calls>; 4]) -> Vec<Goal> {
    let mut goals = Vec::new();
    let ours = races[0].find(transport.ours);
    for (who, rival) in races[0].contestants.iter().enumerate().filter(|(_, one)| !one.is_ours()) {
        for (race, threads) in races.iter().zip(THREADS).filter(|(_, threads)| *threads >= 8) {
            let what = format!(
                "a call over {}, {threads} threads, one connection: time ÷ {}",
                transport.name, rival.name
            );
            goals.push(Goal::at_most(1.0, what, race.ratio(ours, who)));
        }
        if rival.name == Tungstenite::NAME {
            let what = "a call over WebSocket, one thread: time ÷ bare `tungstenite`, which blocks";
            goals.push(Goal::at_most(1.15, what, races[0].ratio(ours, who)));
        }
    }
    goals
}

fn found(transport: &Transport, races: &[Race<Calls>; 4]) -> Vec<Part> {
    let columns = |first: &str, of: &str| {
        let mut head = vec![first.to_owned(), format!("1 thread{of}")];
        head.extend(THREADS[1..].iter().map(|threads| format!("{threads} threads")));
        Table::new(&head.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let mut ratios = columns("sessile ÷ rival, time for each call", "");
    let mut rates = columns("calls a second", "");
    let mut latencies = columns("latency in µs, median / 99th percentile", "");
    let ours = races[0].find(transport.ours);
    let mut bars = Vec::new();
    for (who, contestant) in races[0].contestants.iter().enumerate() {
        let name = contestant.name.to_owned();
        let all = races.each_ref().map(|race| race.ratio(ours, who));
        let worst = all.iter().map(|ratio| ratio.median).fold(0.0, f64::max);
        let row = |cells: &dyn Fn(&Race<Calls>) -> String| {
            [name.clone()].into_iter().chain(races.iter().map(cells)).collect()
        };
        if who != ours {
            ratios.row(worst, [name.clone()].into_iter().chain(all.map(ratio)).collect());
        }
        let rate = |race: &Race<Calls>| 1e9 / race.figure(who, Calls::EACH).median;
        rates.row(worst, row(&|race| number(rate(race))));
        latencies.row(
            worst,
            row(&|race| {
                let of = |which| number(race.figure(who, which).median / 1e3);
                format!("{} / {}", of(Calls::MEDIAN), of(Calls::SLOW))
            }),
        );
        let value = |race: &Race<Calls>| {
            (race.ns(who).median / 1e3, format!("{} µs", number(race.ns(who).median / 1e3)))
        };
        bars.push(Bars {
            label: name,
            ours: contestant.is_ours(),
            values: vec![value(&races[2]), value(&races[0])],
        });
    }
    let (name, file) = match transport.name {
        "TCP" => ("TCP, a message being a line", "calls-tcp.svg"),
        name => (name, "calls-websocket.svg"),
    };
    let svg = Chart {
        title: format!("Time for each call over one connection, {}", transport.name),
        subtitle: "microseconds of a turn divided by its calls, shorter is better".to_owned(),
        series: vec!["8 threads", "1 thread"],
        bars,
        scale: Scale::Linear,
    }
    .svg();
    let alt = format!("Time for each call over one connection, {}", transport.name);
    vec![
        Part::prose(format!("### {name}")),
        Part::Chart { file, alt, svg },
        Part::Table(ratios),
        Part::Table(rates),
        Part::Table(latencies),
    ]
}
