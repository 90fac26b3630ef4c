//! Counts what the whole process holds, so it shares the process with no other test.

#![cfg(all(feature = "cpython", target_os = "linux"))]
#![allow(unsafe_code)] // what a signal does, and sending one

use sessile::interpreter::Interpreter;
use sessile::interpreter::cpython::CPythonManager;
use sessile::{CloseReason, Manager};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Children of this process, zombies too.
fn children() -> String {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    threads.map(|t| std::fs::read_to_string(t.unwrap().path().join("children")).unwrap()).collect()
}

#[test]
fn nothing_is_left_after_120_starts_and_ends() {
    // As in a host that is no Rust program: whoever writes to a pipe without a reader is ended.
    // SAFETY: no handler of anybody's is replaced but that the signal be ignored.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let manager = CPythonManager::new();
    let cycle = |n: usize| {
        let mut python = manager.start().unwrap();
        match n % 6 {
            0 => drop(python),
            1 => manager.close(python, CloseReason::ClosedHere).unwrap(),
            2 => assert!(python.run("import os; os._exit(1)").unwrap_err().is_dead()),
            3 => {
                // New pipes for each cell, and the old ones listened to.
                python.run("import subprocess\np = subprocess.Popen(['sleep', '600'])").unwrap();
                python.run("1").unwrap();
                python.run("2").unwrap();
            }
            4 => {
                let pid = python.run("import os; os.getpid()").unwrap().text().unwrap().parse();
                // SAFETY: no pointers are passed; the child is not reaped while `python` is there.
                unsafe { libc::kill(pid.unwrap(), libc::SIGKILL) };
                while python.is_alive() {
                    std::thread::yield_now();
                }
                assert!(python.run("1").unwrap_err().is_dead());
            }
            _ => {
                let error = CPythonManager::new().python("false").start().unwrap_err();
                assert!(error.is_start());
            }
        }
    };
    (0..6).for_each(cycle);
    let before = descriptors();
    (0..120).for_each(cycle);
    assert_eq!(descriptors(), before);
    assert_eq!(children(), "");

    // Each cell starts a process, so each gets new pipes; the old ones are let go of when they end.
    let mut python = manager.start().unwrap();
    let alive = descriptors();
    for _ in 0..20 {
        python.run("import subprocess; subprocess.run('true')").unwrap();
    }
    assert!(descriptors() <= alive + 4, "{} became {}", alive, descriptors());
}
