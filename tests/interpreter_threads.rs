//! A session per thread: nothing crosses, and nothing is left when the threads have gone.
//!
//! This is how an agent's code interpreter fails that shares one: threads that work at the same
//! time are answered with each other's values. The test counts what the whole process holds, so it
//! is the only one in it.

#![cfg(all(feature = "monty", feature = "cpython", feature = "jupyter", target_os = "linux"))]

#[path = "support/jupyter.rs"]
mod jupyter;
mod support;
#[path = "support/venv.rs"]
mod venv;

use std::collections::HashSet;
use std::sync::Barrier;
use std::time::Duration;
use std::{fs, thread};

use jupyter::{Kind, Server};
use sessile::interpreter::Interpreter;
use sessile::interpreter::cpython::CPythonManager;
use sessile::interpreter::monty::MontyManager;
use sessile::manager::CloseReason;
use sessile::{Manager, Pool, Registry, Workers};
use support::{Events, PATIENCE, Told, poll_until};

const THREADS: usize = 6;

/// What the process holds that could be left.
#[derive(Debug, PartialEq)]
struct Holdings {
    threads: usize,
    descriptors: usize,
    children: String,
    files: HashSet<String>,
}

impl Holdings {
    fn now() -> Self {
        let entries = |path: &str| fs::read_dir(path).unwrap().flatten();
        let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children"));
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let ours = format!("sessile-dir-{}", std::process::id());
        let temporary = fs::read_dir(std::env::temp_dir()).unwrap().flatten();
        Self {
            threads: entries("/proc/self/task").count(),
            descriptors: entries("/proc/self/fd").count(),
            children: entries("/proc/self/task").filter_map(|task| children(task).ok()).collect(),
            files: temporary.map(name).filter(|name| name.starts_with(&ours)).collect(),
        }
    }
}

/// Threads that all start at once, each of which runs cells that must see its own values only.
fn nothing_crosses<M>(manager: M, generations: usize)
where
    M: Manager + Send + Sync + 'static,
    M::Instance: Interpreter + Send,
{
    let pool = Pool::builder(manager).build().unwrap();
    for generation in 0..generations {
        let start = Barrier::new(THREADS);
        let work = |number: usize| {
            start.wait();
            for round in 0..20 {
                let mark = format!("{generation}-{number}-{round}");
                let cells = [format!("mark = {mark:?}"), "print(mark)\nmark".to_owned()];
                pool.with(|python| {
                    assert!(python.run(&cells[0]).unwrap().is_ok());
                    let seen = python.run(&cells[1]).unwrap();
                    assert_eq!(seen.stdout(), format!("{mark}\n"));
                    assert_eq!(seen.text(), Some(&*format!("'{mark}'")));
                    assert_eq!(seen.execution_count, 2 * (round + 1));
                })
                .unwrap();
            }
        };
        let work = &work;
        thread::scope(|s| {
            let threads: Vec<_> = (0..THREADS).map(|n| s.spawn(move || work(n))).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        // Their sessions ended with the threads.
        assert_eq!(pool.status().size, 0);
    }
    assert!(pool.close(Duration::from_secs(30)).is_clean());
}

/// One conversation, one session: whichever thread asks, and whatever else goes on.
fn conversations_stay_apart<M>(manager: M)
where
    M: Manager + Send + Sync + 'static,
    M::Instance: Interpreter + Send,
{
    let workers: Workers<M::Instance, usize> =
        Workers::builder(Pool::builder(manager)).threads(2).build_keyed().unwrap();
    let run = |key: usize, code: String| {
        let answer = workers.keyed(key).submit(move |python| python.run(&code));
        answer.unwrap().join().unwrap().unwrap()
    };
    thread::scope(|s| {
        for key in 0..THREADS {
            let run = &run;
            s.spawn(move || {
                run(key, format!("total = {key}"));
                for _ in 0..10 {
                    run(key, "total += 10".to_owned());
                }
                assert_eq!(run(key, "total".to_owned()).text(), Some(&*(key + 100).to_string()));
            });
        }
    });
    assert!(workers.shutdown(Duration::from_secs(30)).is_clean());
}

/// Each of very many conversations has its session, on two threads, until it is closed.
fn many_at_once<M>(manager: M, many: usize)
where
    M: Manager + Send + Sync + 'static,
    M::Instance: Interpreter + Send,
{
    let (events, registry) = (Events::new(), Registry::new());
    let pool = Pool::builder(manager).registry(&registry).on_event(events.handler());
    let workers: Workers<M::Instance, usize> =
        Workers::builder(pool).threads(2).queue_capacity(many).build_keyed().unwrap();
    let ask_all = |code: fn(usize) -> String| {
        let ask = |key: usize| {
            let code = code(key);
            workers.keyed(key).submit(move |python| python.run(&code).unwrap()).unwrap()
        };
        let asked: Vec<_> = (0..many).map(ask).collect();
        asked.into_iter().map(|answer| answer.join().unwrap()).collect::<Vec<_>>()
    };
    ask_all(|key| format!("mine = {key}"));
    assert_eq!(registry.snapshot().instances.len(), many);
    for (key, execution) in ask_all(|_| "mine".to_owned()).iter().enumerate() {
        assert_eq!(execution.text(), Some(&*key.to_string()));
        assert_eq!(execution.execution_count, 2);
    }
    // Some are closed one by one, and the rest with the workers.
    let closed: Vec<_> = (0..many / 2).map(|key| workers.keyed(key).close().unwrap()).collect();
    assert!(closed.into_iter().all(|closed| closed.join().unwrap()));
    assert_eq!(registry.snapshot().instances.len(), many - many / 2);
    assert!(workers.shutdown(2 * PATIENCE).is_clean());
    let times =
        |what: &dyn Fn(&Told) -> bool| events.all().iter().filter(|(_, told)| what(told)).count();
    assert_eq!(times(&|told| *told == Told::Created), many);
    assert_eq!(times(&|told| *told == Told::Closed(CloseReason::ClosedHere)), many / 2);
    assert_eq!(times(&|told| matches!(told, Told::Closed(_))), many);
    assert_eq!(events.all().len(), 2 * many, "and nothing else");
}

#[test]
fn nothing_crosses_and_nothing_is_left() {
    let python = || CPythonManager::new().private_dir();
    let server = Server::start(Kind::KernelGateway, &[]);
    // What is made once, for the whole process.
    drop(python().spares(1).start().unwrap());
    let before = Holdings::now();
    nothing_crosses(MontyManager::new(), 3);
    nothing_crosses(python(), 3);
    nothing_crosses(python().spares(2), 3);
    nothing_crosses(server.manager(), 2);
    conversations_stay_apart(MontyManager::new());
    conversations_stay_apart(python());
    conversations_stay_apart(server.manager());
    many_at_once(MontyManager::new(), 1000);
    many_at_once(python(), 100);
    assert!(server.kernels().is_empty());
    // The reaper, too, goes when there is nothing left to reap.
    poll_until("nothing is left", || Holdings::now() == before);
}
