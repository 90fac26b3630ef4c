//! Workers on processors of their own: not pinned, pinned together, or pinned unasked.

#![cfg(feature = "core_affinity")]

mod support;

use sessile::{Registry, Workers};
use support::Stage;

/// On which processors each worker may run, as the kernel has it.
fn allowed(pinned: Option<bool>, threads: usize) -> Vec<String> {
    let (stage, registry) = (Stage::new(), Registry::new());
    let workers = Workers::builder(stage.builder(&registry)).threads(threads);
    let workers = match pinned {
        Some(pinned) => workers.core_affinity(pinned).build().unwrap(),
        None => workers.build().unwrap(),
    };
    let all = workers.broadcast(|_| here());
    all.into_iter().map(|one| one.unwrap().join().unwrap()).collect()
}

fn here() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().to_owned()
}

#[test]
fn a_worker_that_is_not_to_stay_is_pinned() {
    assert_eq!(allowed(None, 2), [here(), here()]);
    assert_eq!(allowed(Some(false), 2), [here(), here()]);
}

#[test]
fn a_worker_that_is_to_stay_wanders_or_shares_its_processor() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let workers = cores.min(4);
    let mut pinned = allowed(Some(true), workers);
    assert!(pinned.iter().all(|cpus| cpus.parse::<usize>().is_ok()), "one each: {pinned:?}");
    pinned.sort_unstable();
    pinned.dedup();
    assert_eq!(pinned.len(), workers, "{pinned:?}");
}

/// More workers than processors: those beyond are left to the system.
#[test]
fn workers_beyond_the_processors_are_not_started() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let all = allowed(Some(true), cores + 1);
    assert_eq!(all.len(), cores + 1);
    let is_one = |cpus: &String| cpus.parse::<usize>().is_ok() || *cpus == here();
    assert!(all.iter().all(is_one), "{all:?}");
}
