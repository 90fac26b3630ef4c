//! Counts what the whole process holds, and listens to all that it logs, so it shares the process with
//! no other test.

#![cfg(all(feature = "jupyter", target_os = "linux"))]

#[path = "support/jupyter.rs"]
mod jupyter;
mod support;
#[path = "support/venv.rs"]
mod venv;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jupyter::{Kind, Line, Server, TOKEN};
use sessile::Manager;
use sessile::interpreter::Interpreter;
use sessile::interpreter::jupyter::{Gateway, JupyterManager};
use sessile::manager::CloseReason;
use support::poll_until;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Counts lines, and those that tell the token.
struct Ear {
    lines: AtomicUsize,
    told: AtomicUsize,
}

static EAR: Ear = Ear { lines: AtomicUsize::new(0), told: AtomicUsize::new(0) };

impl log::Log for Ear {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.lines.fetch_add(1, Ordering::Relaxed);
        if record.args().to_string().contains(TOKEN) {
            self.told.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

#[test]
fn nothing_is_left_and_nothing_is_told() {
    log::set_logger(&EAR).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let often = "--AsyncIOLoopKernelRestarter.time_to_dead=0.3";
    let server = Server::start(Kind::KernelGateway, &[often]);
    let manager = server.manager();
    let line = Line::to(&server);
    let cycle = |n: usize| match n % 6 {
        0 => drop(manager.start().unwrap()),
        1 => {
            let mut kernel = manager.start().unwrap();
            kernel.run("print(1)\n1/0").unwrap();
            kernel.reset().unwrap();
            manager.close(kernel, CloseReason::ClosedHere).unwrap();
        }
        2 => {
            let mut kernel = manager.start().unwrap();
            assert!(kernel.run("import os; os._exit(1)").unwrap_err().state_lost());
        }
        3 => {
            let mut kernel = manager.start().unwrap();
            let error = kernel.run("exit()").unwrap_err();
            assert!(!format!("{error} {error:?} {kernel:?} {manager:?}").contains(TOKEN));
        }
        4 => {
            let wrong = Gateway::new(format!("http://127.0.0.1:{}", server.port)).token("wrong");
            assert!(JupyterManager::new(wrong).unwrap().start().unwrap_err().is_start());
            let builder = server.builder().kernel("nosuch").build().unwrap();
            assert!(builder.start().unwrap_err().is_start());
        }
        _ => {
            let manager = JupyterManager::new(line.gateway()).unwrap();
            let mut kernel = manager.start().unwrap();
            line.cut();
            kernel.run("1").unwrap();
            drop(kernel);
            line.cut();
        }
    };
    let settled = |before: (usize, usize)| {
        poll_until("all is let go of", || (descriptors(), threads()) <= before);
    };
    let before = (descriptors(), threads());
    (0..6).for_each(cycle);
    settled(before);
    (0..18).for_each(cycle);
    settled(before);
    assert!(server.kernels().is_empty());
    assert!(EAR.lines.load(Ordering::Relaxed) > 100, "somebody has said something");
    assert_eq!(EAR.told.load(Ordering::Relaxed), 0);

    // A thread that ends closes its kernel, among its last doings.
    let pool = sessile::Pool::new(manager);
    let shared = pool.clone();
    std::thread::spawn(move || shared.with(|kernel| kernel.run("1").unwrap()).unwrap())
        .join()
        .unwrap();
    assert!(server.kernels().is_empty());
    assert!(pool.close(Duration::from_secs(10)).is_clean());
    settled(before);
}
