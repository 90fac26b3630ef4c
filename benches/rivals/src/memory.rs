//! Counting bytes: those that were asked for, and those the process has.

#![allow(unsafe_code)] // an allocator

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::race::Figure;

/// The system's allocator, which counts what is asked of it if it was told to.
///
/// Nothing is counted while times are taken: the counter is a word that all threads write.
pub struct Counting;

static ON: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicI64 = AtomicI64::new(0);

fn count(bytes: usize, sign: i64) {
    if ON.load(Ordering::Relaxed) {
        LIVE.fetch_add(sign * bytes as i64, Ordering::Relaxed);
    }
}

// SAFETY: every method passes its arguments to the system's allocator as they came, and gives back
// what that gave.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(layout.size(), -1);
        count(new_size, 1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

/// Begins to count, for the rest of the process.
pub fn count_from_now_on() {
    ON.store(true, Ordering::Relaxed);
}

/// What a process has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Bytes that were asked for, since the counting began, and not given back.
    pub live: i64,
    /// Bytes of physical memory, as the kernel counts them.
    pub resident: i64,
}

impl Usage {
    /// # Panics
    ///
    /// If the kernel does not say, as only Linux does.
    #[must_use]
    pub fn now() -> Self {
        let live = LIVE.load(Ordering::Relaxed);
        // Not `statm`: its figures lag behind by some pages for each processor.
        let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("this is Linux");
        let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: i64 = kib.and_then(|kib| kib.trim().parse().ok()).expect("it has an `Rss` line");
        Self { live, resident: kib << 10 }
    }

    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { live: self.live - earlier.live, resident: self.resident - earlier.resident }
    }
}

/// The medians of what several runs of [`in_child`] print.
///
/// What a process has of memory depends on what it has done before, so each contestant gets fresh
/// ones.
///
/// # Panics
///
/// As [`in_child`].
#[must_use]
pub fn in_children(times: usize, args: &[&str]) -> Vec<f64> {
    let runs: Vec<Vec<f64>> = (0..times).map(|_| in_child(args)).collect();
    let columns = runs[0].len();
    (0..columns)
        .map(|column| Figure::of(runs.iter().map(|run| run[column]).collect()).median)
        .collect()
}

/// Runs this program once more, with these arguments, and gives the numbers that it prints.
///
/// # Panics
///
/// If the program cannot be run, fails, or prints something else.
#[must_use]
pub fn in_child(args: &[&str]) -> Vec<f64> {
    let program = std::env::current_exe().expect("a running program has a path");
    let child = Command::new(program).arg(CHILD).args(args).stderr(Stdio::inherit()).output();
    let child = child.expect("the program runs once, so it runs again");
    assert!(child.status.success(), "{args:?} failed: {}", child.status);
    let printed = String::from_utf8(child.stdout).expect("numbers are text");
    let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("not a number: {word}"));
    printed.split_whitespace().map(number).collect()
}

/// The first argument of such a run.
pub const CHILD: &str = "--child";
