//! Sessions of Python: their cells, their starts, and what they take.

use std::cell::RefCell;
use std::fs;
use std::process;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, Pid, sched_setaffinity};
use sessile::interpreter::monty::MontyManager;
use sessile::interpreter::{ExecuteOptions, Interpreter};
use sessile::{Manager, Pool, Registry, Workers};

use super::{Contestant, Place, allowed, on_first};
use crate::memory::Usage;
use crate::rivals::interpreters::bare::{Bare, Bubblewrap};
use crate::rivals::interpreters::clients::{Blocking, Client, Qwen, WebSocket};
use crate::rivals::interpreters::gateway::Floor;
use crate::rivals::interpreters::monty_pool::MontyPool;
use crate::rivals::interpreters::ours::{self, OurCPython, OurConfined, OurJupyter, OurMonty};
use crate::rivals::interpreters::{Parts, Session};

/// One session, which is started when first it runs; then cell after cell.
fn running<S: Session>(parts: &Parts, place: Option<Place>) -> Contestant {
    let (parts, session) = (parts.clone(), RefCell::new(None));
    let run = move |times| {
        let mut session = session.borrow_mut();
        let session = session.get_or_insert_with(|| {
            let mut session = S::new(&parts);
            let _ = session.start();
            if let Some((place, process)) = place.zip(session.process()) {
                keep(place, process);
            }
            session
        });
        match place {
            Some(_) => on_first(|| session.cells(times)),
            None => session.cells(times),
        }
    };
    Contestant { name: S::NAME, run: Box::new(run) }
}

/// Has all threads of a process stay where the place says.
fn keep(place: Place, process: u32) {
    let processors = allowed();
    let mut set = CpuSet::new();
    set.set(match place {
        Place::Together => processors[0],
        Place::Apart => processors[1 % processors.len()],
    });
    for task in fs::read_dir(format!("/proc/{process}/task")).expect("it runs").flatten() {
        let task = task.file_name().to_str().and_then(|task| task.parse().ok());
        let task = Pid::from_raw(task.expect("it is a number"));
        sched_setaffinity(task, &set).expect("the processor is one of those allowed");
    }
}

/// A warm session of each.
#[must_use]
pub fn cells(parts: &Parts) -> Vec<Contestant> {
    vec![
        running::<OurMonty>(parts, None),
        running::<MontyPool<false>>(parts, None),
        running::<OurCPython<false>>(parts, None),
        running::<Bare>(parts, None),
        running::<OurJupyter>(parts, None),
        running::<Floor>(parts, None),
        running::<Client<WebSocket>>(parts, None),
        running::<Client<Blocking>>(parts, None),
        running::<Client<Qwen>>(parts, None),
    ]
}

/// A warm session behind the gateway.
#[must_use]
pub fn through_gateway(parts: &Parts) -> Vec<Contestant> {
    vec![
        running::<OurJupyter>(parts, None),
        running::<Floor>(parts, None),
        running::<Client<WebSocket>>(parts, None),
    ]
}

/// A warm session in a process of its own, at the other end of two pipes: it and who asks are kept in
/// their places.
#[must_use]
pub fn over_pipes(parts: &Parts, place: Place) -> Vec<Contestant> {
    vec![
        running::<OurCPython<false>>(parts, Some(place)),
        running::<Bare>(parts, Some(place)),
        running::<MontyPool<false>>(parts, Some(place)),
    ]
}

/// As [`over_pipes`], confined and not.
#[must_use]
pub fn confined_cells(parts: &Parts, place: Place, bwrap: bool) -> Vec<Contestant> {
    let mut all = vec![
        running::<OurConfined>(parts, Some(place)),
        running::<OurCPython<false>>(parts, Some(place)),
        running::<Bare>(parts, Some(place)),
    ];
    if bwrap {
        all.push(running::<Bubblewrap>(parts, Some(place)));
    }
    all
}

/// From nothing to the answer of the first cell, again and again. What was started is ended before the
/// next, outside the time.
fn starting<S: Session>(parts: &Parts) -> Contestant {
    let (parts, session) = (parts.clone(), RefCell::new(None));
    let run = move |times| {
        let mut session = session.borrow_mut();
        let session = session.get_or_insert_with(|| S::new(&parts));
        (0..times).map(|_| session.start()).sum()
    };
    Contestant { name: S::NAME, run: Box::new(run) }
}

/// Starts of a CPython, confined and not.
#[must_use]
pub fn confined_starts(parts: &Parts, bwrap: bool) -> Vec<Contestant> {
    let mut all = vec![
        starting::<OurConfined>(parts),
        starting::<OurCPython<false>>(parts),
        starting::<Bare>(parts),
    ];
    if bwrap {
        all.push(starting::<Bubblewrap>(parts));
    }
    all
}

#[must_use]
pub fn starts(parts: &Parts) -> Vec<Contestant> {
    vec![
        starting::<OurMonty>(parts),
        starting::<MontyPool<false>>(parts),
        starting::<MontyPool<true>>(parts),
        starting::<OurCPython<false>>(parts),
        starting::<OurCPython<true>>(parts),
        starting::<Bare>(parts),
        starting::<OurJupyter>(parts),
        starting::<Floor>(parts),
        starting::<Client<WebSocket>>(parts),
        starting::<Client<Blocking>>(parts),
        starting::<Client<Qwen>>(parts),
    ]
}

/// So many kernels at once, by as many threads: the time until the last has answered its first cell.
///
/// # Panics
///
/// If one does not start.
#[must_use]
pub fn kernels_at_once(parts: &Parts, threads: usize) -> Duration {
    let manager = ours::jupyter(parts);
    let begin = Barrier::new(threads);
    let start = || {
        begin.wait();
        let begun = Instant::now();
        let mut kernel = manager.start().expect("a kernel starts");
        ours::run(&mut kernel, &ExecuteOptions::new());
        let ended = Instant::now();
        begin.wait(); // the first shall not end while the last starts
        (begun, ended)
    };
    let times: Vec<_> = thread::scope(|s| {
        let threads: Vec<_> = (0..threads).map(|_| s.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it starts")).collect()
    });
    let begun = times.iter().map(|(begun, _)| *begun).min().expect("there is a thread");
    let ended = times.iter().map(|(_, ended)| *ended).max().expect("there is a thread");
    ended - begun
}

// ---- memory ---------------------------------------------------------------------------------------

/// What a process has of memory: its share of pages that several have, and all of its pages.
#[derive(Clone, Copy, Default)]
pub struct Share {
    pub proportional: i64,
    pub resident: i64,
}

impl Share {
    /// # Panics
    ///
    /// If there is no such process.
    #[must_use]
    pub fn of(process: u32) -> Self {
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"));
        let rollup = rollup.expect("the process is there, and is ours");
        let bytes = |name| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
            kib.and_then(|kib| kib.trim().parse::<i64>().ok()).expect("it is a number") << 10
        };
        Self { proportional: bytes("Pss:"), resident: bytes("Rss:") }
    }

    fn sum(processes: &[u32]) -> Self {
        processes.iter().map(|process| Self::of(*process)).fold(Self::default(), |sum, one| Self {
            proportional: sum.proportional + one.proportional,
            resident: sum.resident + one.resident,
        })
    }
}

/// What sessions take, for each of them.
pub struct Taken {
    /// Of the process that has the session, if that is another.
    pub there: [f64; 2],
    /// Of this process: by the allocator, and resident.
    pub here: [f64; 2],
    /// By how much the gateway's process has grown, its share of pages.
    pub gateway: f64,
}

/// Starts so many sessions beside one that was there before, each with a cell, and weighs them. A single
/// one starts alone: then it is only its process that matters, and it takes long to start.
#[must_use]
pub fn taken<S: Session>(parts: &Parts, sessions: usize) -> Taken {
    let start = || {
        let mut session = S::new(parts);
        let _ = session.start();
        session
    };
    let _before = (sessions > 1).then(start);
    let (usage, gateway) = (Usage::now(), Share::of(parts.gateway));
    let mut all: Vec<S> = (0..sessions).map(|_| start()).collect();
    let here = Usage::now().since(usage);
    let gateway = Share::of(parts.gateway).proportional - gateway.proportional;
    let processes: Vec<u32> = all.iter_mut().filter_map(S::process).collect();
    let there = Share::sum(&processes);
    let each = |bytes: i64| bytes as f64 / sessions as f64;
    Taken {
        there: [there.proportional, there.resident].map(each),
        here: [here.live, here.resident].map(each),
        gateway: each(gateway),
    }
}

/// What is told of a crowd of sessions that have come and gone.
pub struct Crowded {
    pub opened: f64,
    pub closed: f64,
    pub close_failed: f64,
    /// Instances in the registry, child processes and threads of this process when all is over,
    /// and descriptors that it has more than before.
    pub left: [f64; 4],
    /// Until all were there, and until all were gone.
    pub seconds: [f64; 2],
    /// Of all processes of the sessions together, while they were there.
    pub there: [f64; 2],
    /// Of this process, for all of them.
    pub here: [f64; 2],
}

/// So many Monty sessions, each kept for a key, on two workers.
#[must_use]
pub fn crowd_of_monty(sessions: usize) -> Crowded {
    // What a process makes once and keeps is none of the sessions' doing.
    crowd(MontyManager::new(), 2);
    crowd(MontyManager::new(), sessions)
}

/// So many CPython children, each kept for a key, on two workers.
#[must_use]
pub fn crowd_of_cpython(parts: &Parts, sessions: usize) -> Crowded {
    crowd(ours::cpython(parts), 2);
    crowd(ours::cpython(parts), sessions)
}

/// # Panics
///
/// If a session fails.
fn crowd<M>(manager: M, sessions: usize) -> Crowded
where
    M: Manager,
    M::Instance: Interpreter + Send,
{
    const LONG: Duration = Duration::from_secs(60);
    let descriptors = count("/proc/self/fd");
    let usage = Usage::now();
    let workers = Workers::builder(Pool::builder(manager)).threads(2).keyed_capacity(sessions);
    let workers: Workers<M::Instance> = workers.build().expect("there is room for two threads");
    let visit = || {
        let ask = |number| {
            let keyed = workers.keyed(format!("conversation-{number}"));
            keyed.submit(|python| ours::run(python, &ExecuteOptions::new())).expect("it is open")
        };
        let asked: Vec<_> = (0..sessions).map(ask).collect();
        asked.into_iter().for_each(|answer| answer.join().expect("the cell runs"));
    };
    let begun = Instant::now();
    visit();
    let opening = begun.elapsed();
    visit(); // each is the one that was made for its key
    let here = Usage::now().since(usage);
    let there = Share::sum(&children());
    let pool = workers.pool().clone();
    let begun = Instant::now();
    let report = workers.shutdown(LONG);
    let closing = begun.elapsed();
    assert!(report.is_clean(), "{report:?}");
    drop(workers);
    let status = pool.status();
    drop(pool);
    let left = [
        Registry::global().snapshot().instances.len(),
        children().len(),
        count("/proc/self/task") - 1,
        count("/proc/self/fd").saturating_sub(descriptors),
    ];
    Crowded {
        opened: status.created as f64,
        closed: status.closed as f64,
        close_failed: status.close_failed as f64,
        left: left.map(|count| count as f64),
        seconds: [opening, closing].map(|took| took.as_secs_f64()),
        there: [there.proportional, there.resident].map(|bytes| bytes as f64),
        here: [here.live, here.resident].map(|bytes| bytes as f64),
    }
}

fn count(folder: &str) -> usize {
    fs::read_dir(folder).expect("this is Linux").count()
}

/// The processes that this one has started and that are not gone, zombies included.
fn children() -> Vec<u32> {
    let us = process::id().to_string();
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let all = fs::read_dir("/proc").expect("this is Linux").flatten().filter_map(number);
    let is_ours = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // Behind the name: the state, and who started it.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
        parent == Some(&us)
    };
    all.filter(is_ours).collect()
}
