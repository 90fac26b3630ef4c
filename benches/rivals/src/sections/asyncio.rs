//! Against CPython's asyncio, which has the same contract.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Entry, Pace};
use crate::page::{Goal, Part, Section, Table, number, ratio, thousands};
use crate::race::Figure;
use crate::rivals::Post;
use crate::rivals::ours_reached::Loop;
use crate::workload::{post, wake_to_run};

pub const ENTRY: Entry = Entry { name: "asyncio", write, child: |_| panic!("it has no child") };

const SCRIPT: &str = include_str!("asyncio.py");

const POSTS: u64 = 100_000;
const WAKES: usize = 200;
const PAUSE: Duration = Duration::from_millis(2);

const TITLE: &str = "Against asyncio";

/// What a round found, ours and theirs.
type Round = ([f64; 2], [f64; 2]);

/// What a run of the script found, in nanoseconds: for a post, and from a post to its run. `None` if
/// there is no Python.
fn theirs() -> Option<[f64; 2]> {
    let [posts, wakes] = [POSTS.to_string(), WAKES.to_string()];
    let pause = PAUSE.as_secs_f64().to_string();
    let python = Command::new("python3")
        .args(["-c", SCRIPT, &posts, &wakes, &pause])
        .stderr(Stdio::inherit())
        .output()
        .ok()
        .filter(|python| python.status.success())?;
    let printed = String::from_utf8(python.stdout).expect("numbers are text");
    let mut numbers = printed.split_whitespace().map(|word| word.parse().expect("a number"));
    Some([numbers.next()?, numbers.next()?])
}

/// The same of ours.
fn ours() -> [f64; 2] {
    let post = post(1).into_iter().find(|one| one.name == Loop::NAME).expect("it is a contestant");
    let took = post.run(POSTS).as_nanos() as f64 / POSTS as f64;
    let latencies = wake_to_run(WAKES, PAUSE).into_iter().map(|took| took.as_nanos() as f64);
    [took, Figure::of(latencies.collect()).median]
}

/// What Python it is.
fn version() -> String {
    let said = Command::new("python3").arg("--version").output().ok();
    let said = said.and_then(|said| String::from_utf8(said.stdout).ok());
    said.map_or_else(|| "Python".to_owned(), |said| said.trim().to_owned())
}

fn write(pace: Pace) -> Section {
    let mut rounds: Vec<Round> = Vec::new();
    for _ in 0..pace.pick(1, 7) {
        let Some(theirs) = theirs() else { return skipped() };
        rounds.push((ours(), theirs));
    }
    let figure = |of: &dyn Fn(&Round) -> f64| Figure::of(rounds.iter().map(of).collect());
    let mut table = Table::new(&["", "sessile ÷ asyncio", "sessile, ns", "asyncio, ns"]);
    for (at, what) in ["from a post to a sleeping loop until it runs", "a post"].iter().enumerate()
    {
        let at = 1 - at;
        let compared = figure(&|(ours, theirs)| ours[at] / theirs[at]);
        let cells = vec![
            (*what).to_owned(),
            ratio(compared),
            number(figure(&|(ours, _)| ours[at]).median),
            number(figure(&|(_, theirs)| theirs[at]).median),
        ];
        table.row(compared.median, cells);
    }
    let more = figure(&|(ours, theirs)| theirs[0] / ours[0]);
    let Figure { median, low, high } = more;
    let [median_shown, low, high] = [median, low, high].map(|times| format!("{times:.0}"));
    let goals = vec![Goal {
        what: "posts a second through `call_soon_threadsafe`, as a multiple of asyncio's"
            .to_owned(),
        bound: "at least 100".to_owned(),
        measured: format!("{median_shown} ({low}–{high})"),
        met: median >= 100.0,
    }];
    let parts = vec![
        Part::prose(format!(
            "A second thread posts {} callbacks to a running loop, from the first post until the last \
             has run; then, {WAKES} times, it pauses for {} ms, in which the loop falls asleep, and \
             posts a callback that looks at the clock. asyncio is that of {}, run as a child by a \
             script (`src/sections/asyncio.py`); its loops and ours take turns. There it is an \
             interpreter with one lock that runs both threads, and every post writes to a socket.",
            thousands(POSTS as i64),
            PAUSE.as_millis(),
            version(),
        )),
        Part::Table(table),
    ];
    Section { title: TITLE, goals, parts }
}

fn skipped() -> Section {
    let parts = vec![Part::prose(
        "This has been left out: there was no `python3` to run on the machine, or it failed.",
    )];
    Section { title: TITLE, goals: Vec::new(), parts }
}
