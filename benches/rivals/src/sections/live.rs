//! Ten thousand instances at once.

use std::time::{Duration, Instant};

use sessile::Registry;

use super::{Entry, Pace};
use crate::chart::{Bars, Chart, Scale};
use crate::memory::{Usage, count_from_now_on, in_children};
use crate::page::{Part, Section, Table, bare_ratio, number};
use crate::race::Figure;
use crate::rivals::ours::WithLimits;
use crate::rivals::thread_local::GetOr;
use crate::rivals::{Rival, dashmap, mutex_map};
use crate::workload::{Crowd, Stage};

pub const ENTRY: Entry = Entry { name: "live", write, child };

const RIVALS: [&str; 3] =
    [<GetOr as Rival>::NAME, dashmap::ByThread::NAME, mutex_map::ByThread::NAME];

/// What a child found out of one contestant in one crowd.
struct Found {
    /// By the allocator: for each pool, before there are instances, and for each instance.
    per_pool: f64,
    per_instance: f64,
    /// By the resident set, for each instance.
    resident: f64,
    /// In nanoseconds, of all instances together. Zero for those who cannot.
    snapshot: f64,
    close: f64,
}

fn found(pace: Pace, crowd: usize, name: &str) -> Found {
    let args = [ENTRY.name, &crowd.to_string(), name];
    match in_children(pace.pick(1, 7), &args)[..] {
        [per_pool, per_instance, resident, snapshot, close] => {
            Found { per_pool, per_instance, resident, snapshot, close }
        }
        _ => panic!("the child prints five numbers"),
    }
}

fn write(pace: Pace) -> Section {
    let mut own = Table::new(&[
        "instances",
        "bytes beyond `T`",
        "resident, bytes",
        "`snapshot`, ms",
        "close all, ms",
        "close, ns each",
        "bytes for each pool",
    ]);
    let mut rivals = Table::new(&[
        "rival",
        "instances",
        "sessile ÷ rival, bytes",
        "sessile ÷ rival, close",
        "rival, bytes beyond `T`",
        "rival, resident",
        "rival, close, ms",
    ]);
    let mut bars = Vec::new();
    for (index, crowd) in Crowd::ALL.into_iter().enumerate() {
        let size = crowd.size() as f64;
        let ours = found(pace, index, WithLimits::NAME);
        own.row(
            ours.per_instance,
            vec![
                crowd.to_string(),
                number(ours.per_instance),
                number(ours.resident),
                number(ours.snapshot / 1e6),
                number(ours.close / 1e6),
                number(ours.close / size),
                number(ours.per_pool),
            ],
        );
        bars.push(bar("sessile", crowd, &ours));
        for name in RIVALS {
            let theirs = found(pace, index, name);
            // Both with `T`: what is beyond it may be next to nothing.
            let bytes = (ours.per_instance + T) / (theirs.per_instance + T);
            let close = ours.close / theirs.close;
            let cells = vec![
                name.to_owned(),
                crowd.to_string(),
                bare_ratio(bytes),
                bare_ratio(close),
                number(theirs.per_instance),
                number(theirs.resident),
                number(theirs.close / 1e6),
            ];
            rivals.row(bytes, cells);
            if name == <GetOr as Rival>::NAME {
                bars.push(bar("ThreadLocal", crowd, &theirs));
            }
        }
    }
    let svg = Chart {
        title: "Bytes for each of 10,000 live instances, beyond T".to_owned(),
        subtitle: "bytes asked of the allocator; shorter is better".to_owned(),
        series: Vec::new(),
        bars,
        scale: Scale::Linear,
    }
    .svg();

    let parts = vec![
        Part::prose(format!(
            "Ten thousand numbers at once, in three ways: {}; {}; {}. The threads \
             have stacks of 64 KiB and are parked while their numbers are looked at and closed. Each \
             figure is from processes of their own, the median of several.",
            Crowd::ALL[0],
            Crowd::ALL[1],
            Crowd::ALL[2],
        )),
        Part::prose(
            "`T` is a `u64`. Bytes are those asked of the allocator between the moment when \
             pools and threads were there and the moment when every thread had used every pool, \
             for each instance; in the first way all that sessile keeps for a thread goes with \
             its one instance, in the third all that it keeps for a pool that is in use. \
             \"Resident\" is the growth of the resident set over the same time; it has the \
             stack that each thread touches for the first time, as well. The instances are \
             `Send` and idle, so `close` closes them on the thread that orders it, one after \
             the other, and has reported on each when it returns; of the rivals, the map or \
             `ThreadLocal` is dropped, on that thread. Dropping the pools is in the time, too. \
             They have nothing to compare `snapshot` with.",
        ),
        Part::Table(own),
        Part::Chart {
            file: "live.svg",
            alt: "Bytes for each live instance beyond its own size".to_owned(),
            svg,
        },
        Part::prose("Against the rivals, `T` included on both sides:"),
        Part::Table(rivals),
    ];
    Section { title: "Ten thousand live instances", goals: Vec::new(), parts }
}

fn bar(who: &str, crowd: Crowd, found: &Found) -> Bars {
    Bars {
        label: format!("{who}, {crowd}"),
        ours: who == "sessile",
        values: vec![(found.per_instance.max(0.0), number(found.per_instance))],
    }
}

const T: f64 = size_of::<u64>() as f64;

/// Gathers a crowd of the contestant, and prints what [`Found`] has.
fn child(args: &[String]) {
    count_from_now_on();
    let crowd = Crowd::ALL[args[0].parse::<usize>().expect("which crowd")];
    let name = args[1].as_str();
    match name {
        WithLimits::NAME => measure::<WithLimits>(crowd, snapshot),
        <GetOr as Rival>::NAME => measure::<GetOr>(crowd, |_| Duration::ZERO),
        dashmap::ByThread::NAME => measure::<dashmap::ByThread>(crowd, |_| Duration::ZERO),
        mutex_map::ByThread::NAME => measure::<mutex_map::ByThread>(crowd, |_| Duration::ZERO),
        _ => panic!("nobody is called {name}"),
    }
}

fn measure<R: Rival>(crowd: Crowd, snapshot: fn(usize) -> Duration) {
    let mut usage = Vec::new();
    let mut snapped = Duration::ZERO;
    let close = crowd.gather::<R>(|stage| {
        usage.push(Usage::now());
        if stage == Stage::Full {
            snapped = snapshot(crowd.size());
        }
    });
    let [start, pools, threads, full, _closed] = usage[..] else {
        panic!("there are five stages");
    };
    let size = crowd.size() as f64;
    let grown = full.since(threads);
    println!(
        "{} {} {} {} {}",
        pools.since(start).live as f64 / crowd.pools as f64,
        grown.live as f64 / size - T,
        grown.resident as f64 / size,
        snapped.as_nanos(),
        close.as_nanos(),
    );
}

/// The time of one snapshot, the median of several.
fn snapshot(instances: usize) -> Duration {
    let one = |_| {
        let start = Instant::now();
        let snapshot = Registry::global().snapshot();
        let took = start.elapsed();
        assert_eq!(snapshot.instances.len(), instances);
        took.as_nanos() as f64
    };
    Duration::from_nanos(Figure::of((0..9).map(one).collect()).median as u64)
}
