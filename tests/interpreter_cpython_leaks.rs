//! Counts what the whole process holds, so it shares the process with no other test.

#![cfg(all(feature = "cpython", target_os = "linux"))]

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
fn nothing_is_left_after_100_starts_and_ends() {
    let manager = CPythonManager::new();
    let cycle = |n: usize| {
        let mut python = manager.start().unwrap();
        match n % 5 {
            0 => drop(python),
            1 => manager.close(python, CloseReason::ClosedHere).unwrap(),
            2 => assert!(python.run("import os; os._exit(1)").unwrap_err().is_dead()),
            3 => {
                // New pipes for each cell, and the old ones listened to.
                python.run("import subprocess\np = subprocess.Popen(['sleep', '600'])").unwrap();
                python.run("1").unwrap();
                python.run("2").unwrap();
            }
            _ => {
                let error = CPythonManager::new().python("false").start().unwrap_err();
                assert!(error.is_start());
            }
        }
    };
    (0..5).for_each(cycle);
    let before = descriptors();
    (0..100).for_each(cycle);
    assert_eq!(descriptors(), before);
    assert_eq!(children(), "");
}
