//! Counts what the whole process holds, so it shares the process with no other test.

#![cfg(all(feature = "cpython", target_os = "linux"))]
#![allow(unsafe_code)] // what a signal does, and sending one

use std::path::Path;
use std::process::Command;

use sessile::Manager;
use sessile::interpreter::cpython::{CPython, CPythonManager};
use sessile::interpreter::{ExecuteOptions, Interpreter, OutputRef};
use sessile::manager::CloseReason;

mod support;
use support::poll_until;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Children of this process, zombies too.
fn children() -> String {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    threads.map(|t| std::fs::read_to_string(t.unwrap().path().join("children")).unwrap()).collect()
}

/// Kills a child from outside, amid a cell or between two; its user is told, and that is the end of
/// all that it had.
fn killed_from_outside(mut python: CPython, amid: bool) {
    let code = "import os, subprocess, time\nopen('mine', 'w').close()\n\
                p = subprocess.Popen(['sleep', '600'])\nprint(os.getpid(), p.pid)";
    let told = python.run(code).unwrap().stdout();
    let (process, started) = told.trim_end().split_once(' ').unwrap();
    let dir = python.private_dir().unwrap().to_owned();
    let kill = || {
        assert!(Command::new("kill").args(["-KILL", process]).status().unwrap().success());
    };
    let outcome = if amid {
        let shown = &mut |_: OutputRef<'_>| kill();
        python.execute_with("print()\ntime.sleep(600)", &ExecuteOptions::new(), shown)
    } else {
        kill();
        poll_until("it has ended", || !python.is_alive());
        python.run("1")
    };
    let error = outcome.unwrap_err();
    assert!(error.state_lost() && error.to_string().contains("signal: 9"), "{error}");
    assert!(!python.is_alive());
    assert!(!Path::new("/proc").join(process).exists(), "it is reaped");
    let stat = || std::fs::read_to_string(format!("/proc/{started}/stat")).unwrap_or_default();
    let runs = || stat().rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'));
    poll_until("what it had started has ended", || !runs()); // reaped by whoever adopts it
    assert!(!dir.exists());
    assert!(python.run("1").unwrap_err().is_dead());
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
            4 => killed_from_outside(manager.clone().private_dir().start().unwrap(), n % 12 == 4),
            _ => {
                let error = CPythonManager::new().python("false").start().unwrap_err();
                assert!(error.is_start());
            }
        }
    };
    (0..12).for_each(cycle);
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
