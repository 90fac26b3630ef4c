//! Against Dify's own SDK for plugins, in Python.

use super::{Entry, Pace};
use crate::chart::{Bars, Chart, Scale};
use crate::page::{Goal, Part, Section, Table, number, ratio};
use crate::race::Figure;
use crate::rivals::dify::{Hosting, LIMIT, Told, Transport, When, ours, plugin, sdk};

pub const ENTRY: Entry = Entry { name: "dify", write, child: |_| plugin() };

const TITLE: &str = "Against Dify's SDK";

/// A row of the table.
struct Case {
    name: &'static str,
    transport: Transport,
    threads: usize,
    /// Invocations of each thread in a turn: ours, and the SDK's.
    each: [usize; 2],
    /// How many times the SDK's rate ours is to be.
    goal: f64,
}

const CASES: [Case; 4] = [
    Case {
        name: "TCP, 1 thread",
        transport: Transport::Tcp,
        threads: 1,
        each: [3_000, 20],
        goal: 50.0,
    },
    Case {
        name: "TCP, 8 threads",
        transport: Transport::Tcp,
        threads: 8,
        each: [1_000, 10],
        goal: 50.0,
    },
    Case {
        name: "stdio, 1 thread",
        transport: Transport::Stdio,
        threads: 1,
        each: [3_000, 300],
        goal: 5.0,
    },
    Case {
        name: "stdio, 8 threads",
        transport: Transport::Stdio,
        threads: 8,
        each: [1_000, 50],
        goal: 5.0,
    },
];

/// Seconds for each invocation, and how many were lost of how many.
#[derive(Default)]
struct Side {
    seconds: Vec<f64>,
    lost: usize,
    of: usize,
}

impl Side {
    fn add(&mut self, told: &Told) {
        self.seconds.push(told.seconds / told.outcomes.len() as f64);
        self.lost += told.lost();
        self.of += told.outcomes.len();
    }

    fn rate(&self) -> f64 {
        1.0 / Figure::of(self.seconds.clone()).median
    }

    fn lost(&self) -> String {
        format!("{} of {}", self.lost, self.of)
    }
}

/// Both sides of each case, ours first.
#[derive(Default)]
struct Found {
    cases: [[Side; 2]; 4],
    /// What is invoked after the answer: over TCP, and over standard input and output.
    after: [[Side; 2]; 2],
}

fn found(pace: Pace) -> Result<Found, String> {
    let Found { mut cases, mut after } = Found::default();
    for (at, transport) in [Transport::Tcp, Transport::Stdio].into_iter().enumerate() {
        let both = [Hosting::new(ours(), transport), Hosting::new(sdk()?, transport)];
        for _ in 0..pace.pick(1, 5) {
            for (case, sides) in CASES.iter().zip(&mut cases) {
                if case.transport != transport {
                    continue;
                }
                for ((one, side), each) in both.iter().zip(sides).zip(case.each) {
                    side.add(&one.invoke(When::Before, case.threads, each));
                }
            }
        }
        for (one, side) in both.iter().zip(&mut after[at]) {
            side.add(&one.invoke(When::After, 8, 1));
        }
    }
    Ok(Found { cases, after })
}

fn write(pace: Pace) -> Section {
    let Found { cases, after } = match found(pace) {
        Ok(found) => found,
        Err(error) => return skipped(&error),
    };
    let mut goals = Vec::new();
    let mut table = Table::new(&[
        "",
        "sessile ÷ SDK, time for each",
        "sessile, invocations a second",
        "SDK",
        "lost, sessile",
        "lost, SDK",
    ]);
    let mut bars = Vec::new();
    for (case, [ours, theirs]) in CASES.iter().zip(&cases) {
        let times = ours.seconds.iter().zip(&theirs.seconds);
        let compared = Figure::of(times.clone().map(|(ours, theirs)| ours / theirs).collect());
        let more = Figure::of(times.map(|(ours, theirs)| theirs / ours).collect());
        let cells = vec![
            case.name.to_owned(),
            ratio(compared),
            number(ours.rate()),
            number(theirs.rate()),
            ours.lost(),
            theirs.lost(),
        ];
        table.row(compared.median, cells);
        goals.push(Goal {
            what: format!(
                "reverse invocations a second, {}, as a multiple of Dify's SDK's",
                case.name
            ),
            bound: format!("at least {}", case.goal),
            measured: format!("{:.0} ({:.0}–{:.0})", more.median, more.low, more.high),
            met: more.median >= case.goal,
        });
        for (who, side) in [("sessile", ours), ("SDK", theirs)] {
            bars.push(Bars {
                label: format!("{who}, {}", case.name),
                ours: who == "sessile",
                values: vec![(1e6 / side.rate(), format!("{} µs", number(1e6 / side.rate())))],
            });
        }
    }
    let mut late = Table::new(&["after the answer", "lost, sessile", "lost, SDK"]);
    for (name, [ours, theirs]) in ["TCP, 8 threads", "stdio, 8 threads"].iter().zip(&after) {
        late.row(0.0, vec![(*name).to_owned(), ours.lost(), theirs.lost()]);
    }
    let all = || cases.iter().chain(&after).map(|[ours, _]| ours);
    let [lost, of] = [all().map(|side| side.lost).sum(), all().map(|side| side.of).sum::<usize>()];
    goals.push(Goal {
        what: "reverse invocations of ours that were lost".to_owned(),
        bound: "none".to_owned(),
        measured: format!("{lost} of {of}"),
        met: lost == 0,
    });
    let svg = Chart {
        title: "Time for each reverse invocation".to_owned(),
        subtitle: "microseconds on a logarithmic scale, shorter is better".to_owned(),
        series: Vec::new(),
        bars,
        scale: Scale::Logarithmic,
    }
    .svg();
    let alt = "Time for each reverse invocation, ours and the SDK's".to_owned();
    let parts = vec![
        Part::prose(format!(
            "A plugin's endpoint is called, and its threads invoke an app's chat, which says two \
             pieces and ends: from one thread, or eight at once. The plugin of the SDK is that of our \
             tests (`tests/dify_plugin`, with the version that `requirements.txt` pins); ours does the \
             same. Each is a process of its own, on our daemon's side, which answers at once, over TCP \
             or as a child over standard input and output. They take turns. An invocation is lost if \
             within {LIMIT} s its answers are not those to its question."
        )),
        Part::Chart { file: "dify.svg", alt, svg },
        Part::Table(table),
        Part::prose(
            "Above, the handler waits for its threads before it answers. Below it answers at once, and \
             its threads invoke after that. The SDK's session is over by then, and the daemon drops \
             the invocations without a word, as Dify's does.",
        ),
        Part::Table(late),
    ];
    Section { title: TITLE, goals, parts }
}

fn skipped(error: &str) -> Section {
    eprintln!("{error}");
    let parts = vec![Part::prose(
        "This has been left out: there was no Python with Dify's SDK to run on the machine.",
    )];
    Section { title: TITLE, goals: Vec::new(), parts }
}
