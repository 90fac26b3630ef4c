//! Interpreters: ours, and what else runs Python for a program.

use std::path::Path;
use std::time::Duration;

use super::{Entry, Pace};
use crate::chart::{Bars, Chart, Scale};
use crate::memory::{count_from_now_on, in_child, in_children};
use crate::page::{Goal, Part, Section, Table, number, ratio, thousands};
use crate::race::{Effort, Figure, Race};
use crate::rivals::interpreters::bare::Bare;
use crate::rivals::interpreters::clients::{Blocking, Client, Qwen, WebSocket};
use crate::rivals::interpreters::gateway::{Floor, Server};
use crate::rivals::interpreters::monty_pool::MontyPool;
use crate::rivals::interpreters::ours::{OurCPython, OurJupyter, OurMonty};
use crate::rivals::interpreters::{Parts, Session};
use crate::workload::Place;
use crate::workload::python::{
    Crowded, Taken, cells, crowd_of_cpython, crowd_of_monty, kernels_at_once, over_pipes, starts,
    taken, through_gateway,
};

pub const ENTRY: Entry = Entry { name: "interpreters", write, child };

const TITLE: &str = "Interpreters";

const MONTY: &str = OurMonty::NAME;
const CPYTHON: &str = <OurCPython<false> as Session>::NAME;
const SPARE: &str = <OurCPython<true> as Session>::NAME;
const JUPYTER: &str = OurJupyter::NAME;
const BARE: &str = Bare::NAME;
const FLOOR: &str = Floor::NAME;
const WEB_SOCKET: &str = <Client<WebSocket> as Session>::NAME;
const BLOCKING: &str = <Client<Blocking> as Session>::NAME;
const QWEN: &str = <Client<Qwen> as Session>::NAME;
const POOLED: &str = <MontyPool<false> as Session>::NAME;
const POOLED_COLD: &str = <MontyPool<true> as Session>::NAME;

/// Who of ours is set beside whom, for a warm cell and for a start.
const CELLS: [[&str; 2]; 8] = [
    [MONTY, POOLED],
    [CPYTHON, BARE],
    [CPYTHON, BLOCKING],
    [CPYTHON, QWEN],
    [JUPYTER, FLOOR],
    [JUPYTER, WEB_SOCKET],
    [JUPYTER, BLOCKING],
    [JUPYTER, QWEN],
];
const STARTS: [[&str; 2]; 8] = [
    [MONTY, POOLED],
    [MONTY, POOLED_COLD],
    [CPYTHON, BARE],
    [SPARE, BARE],
    [JUPYTER, FLOOR],
    [JUPYTER, WEB_SOCKET],
    [JUPYTER, BLOCKING],
    [JUPYTER, QWEN],
];

const PLACES: [(Place, &str); 2] = [(Place::Apart, "apart"), (Place::Together, "together")];

/// Who is weighed, and how many of them at once.
type Weighed = (&'static str, fn(&Parts, usize) -> Taken, usize);
const WEIGHED: [Weighed; 7] = [
    (MONTY, taken::<OurMonty>, 1_000),
    (CPYTHON, taken::<OurCPython<false>>, 20),
    (JUPYTER, taken::<OurJupyter>, 8),
    (POOLED, taken::<MontyPool<false>>, 20),
    (BARE, taken::<Bare>, 20),
    (BLOCKING, taken::<Client<Blocking>>, 1),
    (QWEN, taken::<Client<Qwen>>, 1),
];

const MONTY_CROWD: usize = 1_000;
const CPYTHON_CROWD: usize = 100;
/// Kernels that are started at once.
const AT_ONCE: usize = 8;

// ---- child processes ------------------------------------------------------------------------------

/// The arguments of a child: what it does, how often or with how many, and the parts.
fn args(task: &str, count: usize, parts: &Parts) -> Vec<String> {
    let path = |path: &Path| path.to_str().expect("the path is text").to_owned();
    let [python, monty] = [&parts.python, &parts.monty].map(|program| path(program));
    let [port, gateway] = [parts.port.to_string(), parts.gateway.to_string()];
    vec![ENTRY.name.into(), task.into(), count.to_string(), python, monty, port, gateway]
}

/// Runs one of the races and prints it, or prints what was weighed.
fn child(args: &[String]) {
    let [task, count, python, monty, port, gateway] = args else {
        panic!("a child is told what to do, how often, and with what");
    };
    let count = count.parse().expect("a number");
    let parts = Parts {
        python: python.into(),
        monty: monty.into(),
        port: port.parse().expect("a port"),
        gateway: gateway.parse().expect("a number"),
    };
    let effort = |turn| Effort::new(count, Duration::from_millis(turn));
    match task.as_str() {
        "cells" => Race::run(cells(&parts), effort(30)).print(),
        "gateway" => Race::run(through_gateway(&parts), effort(600)).print(),
        "starts" => Race::run(starts(&parts), effort(20)).print(),
        "at once" => println!("{}", kernels_at_once(&parts, count).as_nanos()),
        "crowd of Monty" => {
            count_from_now_on();
            print(crowd_of_monty(count));
        }
        "crowd of CPython" => {
            count_from_now_on();
            print(crowd_of_cpython(&parts, count));
        }
        task => {
            if let Some((place, _)) = PLACES.iter().find(|(_, name)| *name == task) {
                return Race::run(over_pipes(&parts, *place), effort(10)).print();
            }
            let (_, weigh, _) = WEIGHED.iter().find(|(name, ..)| *name == task).expect("a name");
            count_from_now_on();
            let Taken { there: [pss, rss], here: [live, resident], gateway } = weigh(&parts, count);
            println!("{pss} {rss} {live} {resident} {gateway}");
        }
    }
}

fn print(crowded: Crowded) {
    let Crowded { opened, closed, close_failed, left, seconds, there, here } = crowded;
    let lists = [&left[..], &seconds, &there, &here].concat();
    println!("{opened} {closed} {close_failed}");
    lists.iter().for_each(|number| println!("{number}"));
}

fn crowded(printed: &[f64]) -> Crowded {
    let [opened, closed, close_failed, a, b, c, d, open, close, pss, rss, live, resident] =
        *printed
    else {
        panic!("the child prints thirteen numbers");
    };
    Crowded {
        opened,
        closed,
        close_failed,
        left: [a, b, c, d],
        seconds: [open, close],
        there: [pss, rss],
        here: [live, resident],
    }
}

/// What all children have found.
struct Found {
    cells: Race,
    pipes: [Race; 2],
    gateway: Race,
    starts: Race,
    /// Nanoseconds for kernels, alone and so many at once, by turns.
    kernels: [Figure; 2],
    /// Of each that is weighed: its process's share and all pages, here by the allocator and resident,
    /// the gateway's growth.
    weights: Vec<Vec<f64>>,
    crowds: [Crowded; 2],
}

fn found(pace: Pace) -> Result<Found, String> {
    let mut parts = Parts::install()?;
    let server = Server::start(&parts.python)?;
    (parts.port, parts.gateway) = (server.port, server.process());
    let told = |task: &str, count| args(task, count, &parts);
    fn words(args: &[String]) -> Vec<&str> {
        args.iter().map(String::as_str).collect()
    }
    let (processes, rounds) = (pace.pick(1, 2), pace.pick(3, 11));
    let race = |task, rounds, contestants| {
        Race::of_children(processes, &words(&told(task, rounds)), contestants)
    };
    let pipes = PLACES.map(|(place, name)| race(name, rounds * 3, over_pipes(&parts, place)));
    let cells = race("cells", rounds, cells(&parts));
    let gateway = race("gateway", pace.pick(2, 5), through_gateway(&parts));
    let starts = told("starts", pace.pick(1, 4));
    let starts = Race::of_children(1, &words(&starts), self::starts(&parts));
    let mut kernels = [Vec::new(), Vec::new()];
    for _ in 0..pace.pick(1, 5) {
        for (times, count) in kernels.iter_mut().zip([1, AT_ONCE]) {
            times.push(in_child(&words(&told("at once", count)))[0]);
        }
    }
    let weigh = |(name, _, count): &Weighed| {
        let often = if *name == QWEN { 1 } else { pace.pick(1, 3) };
        in_children(often, &words(&told(name, *count)))
    };
    let weights = WEIGHED.iter().map(weigh).collect();
    let crowd = |task, count| crowded(&in_child(&words(&told(task, count))));
    let crowds = [crowd("crowd of Monty", MONTY_CROWD), crowd("crowd of CPython", CPYTHON_CROWD)];
    Ok(Found { cells, pipes, gateway, starts, kernels: kernels.map(Figure::of), weights, crowds })
}

// ---- the section ----------------------------------------------------------------------------------

fn write(pace: Pace) -> Section {
    match found(pace) {
        Ok(found) => Section { title: TITLE, goals: goals(&found), parts: parts(&found) },
        Err(error) => skipped(&error),
    }
}

fn skipped(error: &str) -> Section {
    eprintln!("{error}");
    let parts = vec![Part::prose(
        "This has been left out: there was no Python on the machine with a Kernel Gateway and the \
         rivals that are Python's.",
    )];
    Section { title: TITLE, goals: Vec::new(), parts }
}

fn ratio_of(race: &Race, [ours, theirs]: [&str; 2]) -> Figure {
    race.ratio(race.find(ours), race.find(theirs))
}

fn ns(race: &Race, name: &str) -> f64 {
    race.ns(race.find(name)).median
}

fn goals(found: &Found) -> Vec<Goal> {
    let at_least = |race: &Race, bound: f64, what: &str, [theirs, ours]: [&str; 2]| {
        let Figure { median, low, high } = ratio_of(race, [theirs, ours]);
        Goal {
            what: what.to_owned(),
            bound: format!("at least {bound}"),
            measured: format!("{median:.1} ({low:.1}–{high:.1})"),
            met: median >= bound,
        }
    };
    let monty = ns(&found.cells, MONTY) / 1e3;
    let mut goals = vec![Goal {
        what: "a warm cell, Monty".to_owned(),
        bound: "at most 10 µs".to_owned(),
        measured: format!("{} µs", number(monty)),
        met: monty <= 10.0,
    }];
    for ((_, place), race) in PLACES.iter().zip(&found.pipes) {
        let what = format!("a warm cell, CPython, {place}: time ÷ {BARE}");
        goals.push(Goal::at_most(1.5, what, ratio_of(race, [CPYTHON, BARE])));
    }
    goals.push(at_least(
        &found.cells,
        30.0,
        "a warm cell: time of `jupyter_client.BlockingKernelClient` ÷ our CPython",
        [BLOCKING, CPYTHON],
    ));
    goals.push(at_least(
        &found.gateway,
        5.0,
        "a warm cell through a gateway: time of Python's `websocket-client` ÷ ours",
        [WEB_SOCKET, JUPYTER],
    ));
    let what = "a warm cell through a gateway: time ÷ a raw socket that only waits";
    goals.push(Goal::at_most(1.1, what, ratio_of(&found.gateway, [JUPYTER, FLOOR])));
    let names = ["Monty sessions", "CPython children"];
    let counts = [MONTY_CROWD, CPYTHON_CROWD];
    for ((name, count), crowded) in names.iter().zip(counts).zip(&found.crowds) {
        let [instances, processes, ..] = crowded.left;
        let left = count as f64 - crowded.closed + crowded.close_failed + instances + processes;
        goals.push(Goal {
            what: format!(
                "{} keyed {name} on 2 workers: left when all is over",
                thousands(count as i64)
            ),
            bound: "none".to_owned(),
            measured: thousands(left as i64),
            met: left == 0.0,
        });
    }
    goals
}

/// The pairs of a race, worst first.
fn pairs(race: &Race, pairs: &[[&str; 2]], unit: (&str, f64)) -> Table {
    let (unit, nanoseconds) = unit;
    let ours = format!("ours, {unit}");
    let theirs = format!("the other, {unit}");
    let mut table = Table::new(&["ours ÷ the other", "", &ours, &theirs]);
    for [ours, theirs] in pairs {
        let compared = ratio_of(race, [ours, theirs]);
        let cells = vec![
            format!("{ours} ÷ {theirs}"),
            ratio(compared),
            number(ns(race, ours) / nanoseconds),
            number(ns(race, theirs) / nanoseconds),
        ];
        table.row(compared.median, cells);
    }
    table
}

const MICROSECONDS: (&str, f64) = ("µs", 1e3);
const MILLISECONDS: (&str, f64) = ("ms", 1e6);

fn parts(found: &Found) -> Vec<Part> {
    let mut parts = vec![
        Part::prose(
            "The cell is `1+1`, in a session that has run it before, and each answer is looked at. Ours \
             are engines without a pool, which costs nanoseconds. All Pythons are one: that of a virtual \
             environment with pinned packages (`src/rivals/interpreters/requirements.txt`). One Kernel \
             Gateway serves all who use one, each with a kernel of its own.",
        ),
        Part::prose(
            "* Bare `python3` reads a length and a text, answers with the `repr` of what `eval` makes of \
             it, and does nothing else: it captures no output, knows no deadline and no interrupt.\n\
             * The raw socket has the options of ours (`TCP_NODELAY`, and `TCP_QUICKACK` before each \
             read). It sends a frame that is ready made but for its number and looks through what comes \
             for that number and `\"idle\"`. What it takes is the gateway's and the kernel's time.\n\
             * `websocket-client` is used as it comes: the gateway's default framing, JSON, and the \
             package's own socket options. `BlockingKernelClient` has no gateway in between: ZeroMQ to an \
             ipykernel, `execute`, the reply, then output up to the request's own `idle`. Both are \
             timed within their process.\n\
             * Qwen-Agent's tool is called as its agents call it, its default time limit on. 0.0.31 is \
             the last version whose tool starts a kernel; the later ones build and run a Docker \
             container with one, and could not be run here. They ask it by the same code: \
             `BlockingKernelClient`, which is asked twice whether it is ready for each cell.\n\
             * `monty-pool` is of the version of our Monty, 0.0.23, with the worker that PyPI has for it, \
             on a current-thread tokio. (1.x needs a later compiler than this page is made with.)",
        ),
        Part::prose(
            "### A warm cell\n\nProcesses are not pinned: the kernel places them as it likes, with two \
             processors for caller, gateway and kernel.",
        ),
        Part::Chart {
            file: "interpreters.svg",
            alt: "Time for a warm cell, by engine and client".to_owned(),
            svg: chart(&found.cells),
        },
        Part::Table(pairs(&found.cells, &CELLS, MICROSECONDS)),
        Part::prose(
            "Where caller and child are makes more of a difference than who is measured, so both are kept \
             in their places here: apart, each on a processor of its own, where a message has to wake \
             the other's processor; or together on one.",
        ),
        Part::Table(pipes(found)),
        Part::prose(
            "Through a gateway, cell right after cell, in turns of 0.6 s. The first table has turns of \
             30 ms with pauses between them, and after a pause Linux acknowledges at once for a while: \
             then a socket as it comes does not wait for the gateway, which waits for it.",
        ),
        Part::Table(pairs(&found.gateway, &[CELLS[4], CELLS[5]], MICROSECONDS)),
    ];
    parts.extend(starts_parts(found));
    parts.extend(memory_parts(found));
    parts.push(Part::prose(beside(found)));
    parts
}

fn chart(race: &Race) -> String {
    let bars = race.contestants.iter().map(|contestant| {
        let micros = ns(race, contestant.name) / 1e3;
        Bars {
            label: contestant.name.replace('`', ""),
            ours: contestant.is_ours(),
            values: vec![(micros, format!("{} µs", number(micros)))],
        }
    });
    Chart {
        title: "Time for a warm cell".to_owned(),
        subtitle: "microseconds on a logarithmic scale, shorter is better".to_owned(),
        series: Vec::new(),
        bars: bars.collect(),
        scale: Scale::Logarithmic,
    }
    .svg()
}

fn pipes(found: &Found) -> Table {
    let mut table = Table::new(&[
        "",
        "sessile, CPython ÷ bare",
        "sessile, CPython, µs",
        "bare `python3`, µs",
        "`monty-pool`, µs",
    ]);
    for ((_, place), race) in PLACES.iter().zip(&found.pipes) {
        let compared = ratio_of(race, [CPYTHON, BARE]);
        let micros = |name| number(ns(race, name) / 1e3);
        let cells = vec![
            (*place).to_owned(),
            ratio(compared),
            micros(CPYTHON),
            micros(BARE),
            micros(POOLED),
        ];
        table.row(compared.median, cells);
    }
    table
}

fn starts_parts(found: &Found) -> [Part; 3] {
    let [one, all] = found.kernels;
    let each = AT_ONCE as f64 * 1e9 / all.median;
    let sessions = 1e9 / ns(&found.starts, MONTY);
    let of = |name| number(ns(&found.starts, name) / 1e6);
    [
        Part::prose(
            "### A start\n\nFrom nothing to the answer of the first cell. To end what was started before \
             is not in the time, but for Monty, where it is. A spare is warm before the time begins. \
             `monty-pool` starts a session on a worker that is there by taking it from the pool, or \
             makes a pool with a worker. The clients of kernels have been imported before; Qwen-Agent's \
             tool has its kernel import pandas, seaborn and sympy.",
        ),
        Part::Table(pairs(&found.starts, &STARTS, MILLISECONDS)),
        Part::prose(format!(
            "Monty: {} sessions a second, each started, used once and ended, on one thread. CPython: {} \
             ms cold, {} ms from a warm spare. Kernels through the gateway: one in {} ms ({}–{}), {} at \
             once in {} ms ({}–{}), which is {} a second.",
            number(sessions),
            of(CPYTHON),
            of(SPARE),
            number(one.median / 1e6),
            number(one.low / 1e6),
            number(one.high / 1e6),
            AT_ONCE,
            number(all.median / 1e6),
            number(all.low / 1e6),
            number(all.high / 1e6),
            number(each),
        )),
    ]
}

fn weight(found: &Found, name: &str) -> [f64; 5] {
    let at = WEIGHED.iter().position(|(weighed, ..)| *weighed == name).expect("it is weighed");
    found.weights[at][..].try_into().expect("the child prints five numbers")
}

fn memory_parts(found: &Found) -> [Part; 4] {
    let mib = |bytes: f64| format!("{:.1}", bytes / f64::from(1 << 20));
    let kib = |bytes: f64| number(bytes / 1024.0);
    let mut table = Table::new(&[
        "a session of",
        "at once",
        "its process, PSS, MiB",
        "RSS, MiB",
        "ours, allocator, KiB",
        "ours, resident, KiB",
        "gateway, MiB",
    ]);
    let none = || "–".to_owned();
    for (name, _, count) in WEIGHED {
        let [pss, rss, live, resident, gateway] = weight(found, name);
        // What clients in Python pay in their own process is not looked at.
        let here = name != BLOCKING && name != QWEN;
        let cells = vec![
            name.to_owned(),
            thousands(count as i64),
            if pss == 0.0 { none() } else { mib(pss) },
            if pss == 0.0 { none() } else { mib(rss) },
            if here { kib(live) } else { none() },
            if here { kib(resident) } else { none() },
            if name == JUPYTER { mib(gateway) } else { none() },
        ];
        table.row(pss + resident, cells);
    }
    let mut crowds = Table::new(&[
        "by key, on 2 workers",
        "opened",
        "closed",
        "closes that failed",
        "instances left",
        "processes left",
        "threads left",
        "descriptors left",
        "all there after, s",
        "all gone after, s",
        "processes, PSS, MiB",
        "RSS, MiB",
        "ours, resident, MiB",
    ]);
    for (name, crowded) in ["Monty sessions", "CPython children"].iter().zip(&found.crowds) {
        let Crowded { opened, closed, close_failed, left, seconds, there, here } = crowded;
        let whole = |number: &f64| thousands(*number as i64);
        let mut cells = vec![(*name).to_owned()];
        cells.extend([opened, closed, close_failed].map(whole));
        cells.extend(left.iter().map(whole));
        cells.extend(seconds.map(|seconds| format!("{seconds:.2}")));
        cells.extend(there.map(|bytes| if bytes == 0.0 { none() } else { mib(bytes) }));
        cells.push(mib(here[1]));
        crowds.row(seconds[1], cells);
    }
    [
        Part::prose(
            "### Memory\n\nFor each of several sessions at once, started beside one that was there \
             before, with a cell each. PSS counts a page that several processes have by the share of \
             each; RSS counts it in full. \"Ours\" is this process: bytes asked of the allocator, and \
             growth of the resident set. \"Gateway\" is the growth of the gateway's own process, which \
             our kernels alone are asked about. What clients in Python take in their own process is not \
             in the table.",
        ),
        Part::Table(table),
        Part::prose(
            "Many at once, each kept for a key, with two cells each; then the workers are shut down. What \
             is left is counted when that has returned: instances in the registry, child processes, \
             threads, and descriptors that were not open before.",
        ),
        Part::Table(crowds),
    ]
}

/// What each does, and what it costs.
fn beside(found: &Found) -> String {
    let micros = |name| number(ns(&found.cells, name) / 1e3);
    let millis = |name| number(ns(&found.starts, name) / 1e6);
    let mib = |name| format!("{:.1}", weight(found, name)[0] / f64::from(1 << 20));
    let monty = number(weight(found, MONTY)[2] / 1024.0);
    let cells = format!("{} / {} / {} µs", micros(MONTY), micros(CPYTHON), micros(JUPYTER));
    let starts = format!("{} / {} / {} ms", millis(MONTY), millis(CPYTHON), millis(JUPYTER));
    let memory = format!("{monty} KiB / {} / {} MiB", mib(CPYTHON), mib(JUPYTER));
    let rows = [
        [
            "code runs in",
            "this process (Monty), a child (CPython), a kernel behind a gateway (Jupyter)",
            "worker processes: Monty",
            "a child: an ipykernel; since 0.0.32 in a Docker container",
        ],
        [
            "a session belongs to",
            "a thread, or a key that is kept by one worker",
            "who holds the `Checkout`; any task may, one at a time",
            "the tool's object in this process, whatever thread calls",
        ],
        [
            "two threads with one session",
            "do not compile",
            "do not compile: a `Checkout` is used by `&mut`",
            "run, and take each other's output: a message's parent is not looked at",
        ],
        [
            "a caller waits by",
            "blocking, with a deadline; any thread may interrupt",
            "awaiting, on tokio",
            "blocking",
        ],
        [
            "a cell over its time",
            "is interrupted, its state kept; a process that does not stop is killed, and told of",
            "ends by its budget; its worker is killed at a deadline",
            "gets a `SIGALRM` in the kernel",
        ],
        ["packages of Python's", "CPython and Jupyter: all; Monty: none", "none", "all"],
        ["a warm cell", &cells, &format!("{} µs", micros(POOLED)), &format!("{} µs", micros(QWEN))],
        [
            "a start, first cell included",
            &starts,
            &format!("{} ms; {} with a new worker", millis(POOLED), millis(POOLED_COLD)),
            &format!("{} ms", millis(QWEN)),
        ],
        [
            "memory of a session",
            &memory,
            &format!("{} MiB", mib(POOLED)),
            &format!("{} MiB", mib(QWEN)),
        ],
    ];
    let mut text = String::from(
        "### Beside Qwen-Agent's tool and `monty-pool`\n\nThree figures are those of Monty, CPython and \
         Jupyter, in this order. A session's memory is what Monty asks of the allocator, or the PSS of \
         the process.\n\n| | sessile | `monty-pool` 0.0.23 | Qwen-Agent 0.0.31 |\n| :-- | :-- | :-- | :-- |\n",
    );
    for row in rows {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text.truncate(text.trim_end().len());
    text
}
