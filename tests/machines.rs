//! Kernels on two machines of their own, by way of an Enterprise Gateway, and what befalls them. See
//! `tests/machines/kit`; `.ci/machines` runs what is in `short`, as root.

#![cfg(all(feature = "jupyter", target_os = "linux"))]

mod support;
#[path = "support/venv.rs"]
mod venv;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sessile::interpreter::jupyter::{Gateway, Jupyter, JupyterBuilder, JupyterManager};
use sessile::interpreter::{ExecuteOptions, Execution, Interpreter, InterpreterError, OutputRef};
use sessile::{Pool, Registry};
use support::{PATIENCE, poll_within};

/// With it a gateway that has lost sight of a machine stands still for all.
const RESTARTS: &str = "--RemoteKernelManager.autorestart=True";
const NEVER_RESTARTS: &str = "--RemoteKernelManager.autorestart=False";

/// Two machines, and a gateway over them. All ends with it.
struct Kit {
    dir: PathBuf,
    port: u16,
    addresses: Vec<String>,
    persists: bool,
}

impl Kit {
    fn up(arguments: &[&str], persists: bool) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let python =
            venv::python(&Path::new("tests/jupyter/enterprise.txt").canonicalize().unwrap());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("sessile-kit-{}-{number}", std::process::id()));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut kit = Self { dir, port, addresses: Vec::new(), persists };
        let (python, port) = (python.to_string_lossy(), port.to_string());
        let said = kit.call("up", &[&[&*python, &*port], arguments].concat());
        kit.addresses = said.split_whitespace().map(str::to_owned).collect();
        kit
    }

    #[track_caller]
    fn call(&self, verb: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("tests/machines/kit");
        command.arg(verb).arg(&self.dir).args(arguments);
        if self.persists {
            command.env("PERSIST", "True");
        }
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{verb} {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Kernels on this machine, 1 or 2.
    fn on(&self, machine: usize) -> JupyterBuilder {
        let token = fs::read_to_string(self.dir.join("token")).unwrap();
        let gateway = Gateway::new(format!("http://127.0.0.1:{}", self.port)).token(token.trim());
        JupyterManager::builder(gateway)
            .kernel("machines")
            .env("KERNEL_REMOTE_HOST", &self.addresses[machine - 1])
            .reconnect_timeout(Duration::from_secs(3))
            .close_timeout(Duration::from_secs(3))
            .request_timeout(Duration::from_secs(5))
    }

    /// A session on each machine, with a variable that only it has.
    fn sessions(&self) -> [Jupyter; 2] {
        [1, 2].map(|machine| {
            let mut kernel = self.on(machine).build().unwrap().start().unwrap();
            run(&mut kernel, &format!("mark = 'of {machine}'"));
            assert_eq!(host(&mut kernel), format!("machine{machine}"));
            kernel
        })
    }

    /// How many kernels there are on both machines.
    fn kernels(&self) -> usize {
        let name = "launch_ipykernel.py".as_bytes();
        let dir = self.dir.to_string_lossy().into_owned();
        let is_ours = |path: &Path| {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            line.windows(name.len()).any(|part| part == name)
                && environment.windows(dir.len()).any(|part| part == dir.as_bytes())
                // The shell that started it says the same.
                && line.split(|&byte| byte == 0).next().is_some_and(|first| first.ends_with(b"python"))
        };
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter(|process| is_ours(&process.path())).count()
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("gateway.log")).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(15).collect();
            eprintln!("the gateway said: {:#?}", tail.into_iter().rev().collect::<Vec<_>>());
        }
        let _ = Command::new("tests/machines/kit").arg("down").arg(&self.dir).status();
    }
}

#[track_caller]
fn run(kernel: &mut Jupyter, code: &str) -> Execution {
    kernel.run(code).unwrap_or_else(|error| panic!("{error}: {:?}\n{code}", error.outputs()))
}

fn host(kernel: &mut Jupyter) -> String {
    let told = run(kernel, "import socket; socket.gethostname()");
    told.text().unwrap().trim_matches('\'').to_owned()
}

fn limit(seconds: u64) -> ExecuteOptions {
    ExecuteOptions::new().timeout(Duration::from_secs(seconds))
}

/// The session's own variable, or that it is out of reach; nothing else, and within its time.
#[track_caller]
fn whole_or_unreachable(kernel: &mut Jupyter, machine: usize) -> bool {
    let begun = Instant::now();
    let outcome = kernel.execute("mark", &limit(5));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    match outcome {
        Ok(execution) => {
            assert_eq!(execution.text(), Some(&*format!("'of {machine}'")));
            true
        }
        Err(error) => {
            assert!(!error.is_dead(), "{error}");
            false
        }
    }
}

/// Until it is whole again.
#[track_caller]
fn comes_back(kernel: &mut Jupyter, machine: usize, within: Duration) -> Duration {
    let begun = Instant::now();
    while !whole_or_unreachable(kernel, machine) {
        assert!(begun.elapsed() < within, "machine {machine} is not back after {within:?}");
    }
    begun.elapsed()
}

#[track_caller]
fn is_unreachable(outcome: Result<Execution, InterpreterError>) -> InterpreterError {
    let error = outcome.expect_err("it is out of reach");
    assert!(error.is_unreachable() && !error.is_dead(), "{error}");
    error
}

#[track_caller]
fn nothing_is_left(kit: &Kit) {
    poll_within("no kernel is left", PATIENCE, || kit.kernels() == 0);
}

/// A machine is away amid a cell, and before one; the other does not feel it; then all is there.
fn unplugged_and_back(kit: &Kit, how: &str, away: Duration, back: Duration) {
    let [mut one, mut two] = kit.sessions();
    // Amid a cell.
    let code = "import time\nprint('begun', flush=True)\ntime.sleep(2)\nprint('done')\nmark + '!'";
    let seen = &mut |output: OutputRef<'_>| {
        if matches!(output, OutputRef::Stdout(text) if text.contains("begun")) {
            kit.call("unplug", &["2", how]);
        }
    };
    let unplugged = Instant::now();
    is_unreachable(two.execute_with(code, &limit(4), seen));
    while unplugged.elapsed() < away {
        let begun = Instant::now();
        assert!(whole_or_unreachable(&mut one, 1), "the healthy one");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        is_unreachable(two.execute("mark", &limit(1)));
    }
    kit.call("plug", &["2"]);
    let begun = Instant::now();
    let rest = loop {
        assert!(begun.elapsed() < back, "not back after {back:?}");
        match two.resume(&limit(3), &mut |_| {}) {
            Ok(rest) => break rest,
            Err(error) if error.to_string().contains("lost with the connection") => break None,
            Err(error) => assert!(!error.is_dead(), "{error}"),
        }
    };
    eprintln!("{how}: the cell's end came {:.1?} after the plug: {rest:?}", begun.elapsed());
    assert!(comes_back(&mut two, 2, back) < back);
    assert_eq!(host(&mut two), "machine2");
    drop((one, two));
    nothing_is_left(kit);
}

mod short {
    use super::*;

    #[test]
    #[ignore = "needs machines: .ci/machines"]
    fn one_machine_unplugged_costs_the_other_nothing_and_its_own_are_whole_after_it() {
        let kit = Kit::up(&[NEVER_RESTARTS], false);
        unplugged_and_back(&kit, "refuse", Duration::from_secs(5), PATIENCE);
    }

    #[test]
    #[ignore = "needs machines: .ci/machines"]
    fn a_machine_without_power_is_unreachable_until_the_limit_says_otherwise() {
        let kit = Kit::up(&[NEVER_RESTARTS], false);
        let [mut one, mut two] = kit.sessions();
        let given_up = Duration::from_secs(4);
        let manager = kit.on(2).give_up_after(given_up).build().unwrap();
        let mut third = manager.start().unwrap();
        let id = third.kernel_id().unwrap().to_owned();
        kit.call("off", &["2"]);
        let begun = Instant::now();
        let error = loop {
            let error = third.execute("1", &limit(1)).unwrap_err();
            assert!(whole_or_unreachable(&mut one, 1), "the healthy one");
            if error.is_dead() {
                break error;
            }
            assert!(error.is_unreachable() && begun.elapsed() < PATIENCE, "{error}");
        };
        assert!(error.is_given_up() && begun.elapsed() >= given_up, "{error}");
        assert_eq!(manager.status()[0].ending, [id]);
        is_unreachable(two.execute("mark", &limit(1)));
        kit.call("on", &["2"]);
        // The limit has passed, so it is ended though it does not answer.
        poll_within("it is ended", PATIENCE, || manager.status()[0].ending.is_empty());
        // The process is gone, and nobody says so: it is not called lost, and a reset makes another.
        is_unreachable(two.execute("mark", &limit(1)));
        two.reset().unwrap();
        assert_eq!(run(&mut two, "'mark' in dir()").text(), Some("False"));
        assert!(whole_or_unreachable(&mut one, 1), "the healthy one");
    }

    #[test]
    #[ignore = "needs machines: .ci/machines"]
    fn a_gateway_started_anew_that_remembers_its_kernels_has_them_whole() {
        let kit = Kit::up(&[NEVER_RESTARTS], true);
        let mut sessions = kit.sessions();
        let code = "import time\nprint('begun', flush=True)\ntime.sleep(3)\nmark";
        let seen = &mut |_: OutputRef<'_>| _ = kit.call("gateway", &["KILL"]);
        is_unreachable(sessions[0].execute_with(code, &limit(30), seen));
        is_unreachable(sessions[1].execute("mark", &limit(1)));
        kit.call("gateway", &["start"]);
        for (kernel, machine) in sessions.iter_mut().zip(1..) {
            comes_back(kernel, machine, PATIENCE);
        }
        drop(sessions);
        nothing_is_left(&kit);
    }

    #[test]
    #[ignore = "needs machines: .ci/machines"]
    fn a_gateway_started_anew_that_remembers_nothing_says_so_and_that_is_a_loss() {
        let kit = Kit::up(&[NEVER_RESTARTS], false);
        let [mut one, _two] = kit.sessions();
        kit.call("gateway", &["KILL"]);
        is_unreachable(one.execute("mark", &limit(1)));
        kit.call("gateway", &["start"]);
        let error = one.execute("mark", &limit(10)).unwrap_err();
        assert!(error.state_lost() && !error.is_given_up(), "{error}");
    }

    #[test]
    #[ignore = "needs machines: .ci/machines"]
    fn a_frozen_gateway_costs_no_session_and_no_shutdown_waits_for_it() {
        let kit = Kit::up(&[RESTARTS], false);
        let manager = kit.on(1).build().unwrap();
        let registry = Registry::new();
        let pool = Pool::builder(manager.clone()).registry(&registry).build().unwrap();
        let mut sessions = kit.sessions();
        pool.with(|kernel| run(kernel, "1")).unwrap();
        kit.call("gateway", &["STOP"]);
        for (kernel, machine) in sessions.iter_mut().zip(1..) {
            let begun = Instant::now();
            is_unreachable(kernel.execute("mark", &limit(1)));
            assert!(begun.elapsed() < PATIENCE, "{machine}: {:?}", begun.elapsed());
        }
        let begun = Instant::now();
        let report = pool.close(Duration::from_secs(5));
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        let ending = manager.status().remove(0).ending;
        assert_eq!((ending.len(), report.failed.len()), (1, 1), "{report}");
        assert!(report.failed[0].error.contains(&ending[0]), "{report}");
        kit.call("gateway", &["CONT"]);
        for (kernel, machine) in sessions.iter_mut().zip(1..) {
            comes_back(kernel, machine, PATIENCE);
        }
        drop(sessions);
        nothing_is_left(&kit);
    }

    #[test]
    #[ignore = "needs machines: .ci/machines"]
    fn a_shutdown_with_a_machine_away_names_what_is_left_and_ends_it_when_it_is_back() {
        let kit = Kit::up(&[NEVER_RESTARTS], false);
        let mut pools = Vec::new();
        for machine in [1, 2] {
            let manager = kit.on(machine).build().unwrap();
            let registry = Registry::new();
            let pool = Pool::builder(manager.clone()).registry(&registry).build().unwrap();
            pool.with(|kernel| run(kernel, "1")).unwrap();
            pools.push((pool, manager));
        }
        kit.call("unplug", &["2", "refuse"]);
        let begun = Instant::now();
        let report = pools[1].0.close(Duration::from_secs(10));
        let ending = pools[1].1.status().remove(0).ending;
        assert_eq!((ending.len(), report.failed.len()), (1, 1), "{report}");
        assert!(report.failed[0].error.contains(&ending[0]), "{report}");
        // And the gateway, which was not asked, does not stand still.
        assert!(pools[0].0.close(Duration::from_secs(5)).is_clean());
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        kit.call("plug", &["2"]);
        poll_within("it is ended", PATIENCE, || pools[1].1.status()[0].ending.is_empty());
        nothing_is_left(&kit);
    }

    #[test]
    #[ignore = "needs machines: .ci/machines"]
    fn a_line_with_delay_and_loss_answers_right() {
        let kit = Kit::up(&[NEVER_RESTARTS], false);
        let mut sessions = kit.sessions();
        let told = kit.call("netem", &["1", "delay", "50ms", "20ms", "loss", "5%"]);
        if told.trim() == "none" {
            eprintln!("skipped: this system has no netem");
            return;
        }
        for round in 0..10 {
            for (kernel, machine) in sessions.iter_mut().zip(1..) {
                let told = kernel.execute(&format!("mark + ' {round}'"), &limit(20)).unwrap();
                assert_eq!(told.text(), Some(&*format!("'of {machine} {round}'")));
            }
        }
        kit.call("netem", &["1"]);
    }
}

mod long {
    use super::*;

    #[test]
    #[ignore = "minutes; needs machines"]
    fn a_machine_silent_for_three_minutes() {
        let kit = Kit::up(&[NEVER_RESTARTS], false);
        let (away, back) = (Duration::from_secs(170), Duration::from_secs(120));
        unplugged_and_back(&kit, "silent", away, back);
    }

    /// The gateway stands still, and starts what it cannot see anew; the healthy are never called lost.
    #[test]
    #[ignore = "minutes; needs machines"]
    fn a_gateway_that_restarts_what_it_cannot_see() {
        for (how, away) in [("refuse", 45), ("silent", 60)] {
            let kit = Kit::up(&[RESTARTS], false);
            let [mut one, mut two] = kit.sessions();
            kit.call("unplug", &["2", how]);
            let begun = Instant::now();
            let (mut answered, mut unknown) = (0, 0);
            while begun.elapsed() < Duration::from_secs(away) {
                match whole_or_unreachable(&mut one, 1) {
                    true => answered += 1,
                    false => unknown += 1,
                }
            }
            kit.call("plug", &["2"]);
            let back = comes_back(&mut one, 1, Duration::from_secs(180));
            eprintln!(
                "{how}: healthy: {answered} answered, {unknown} unreachable, back in {back:.1?}"
            );
            // The other is whole, or another process has answered in its place.
            let begun = Instant::now();
            loop {
                assert!(begun.elapsed() < Duration::from_secs(180), "neither whole nor lost");
                match two.execute("mark", &limit(5)) {
                    Ok(told) => {
                        assert_eq!(told.text(), Some("'of 2'"));
                        eprintln!("{how}: the other: whole after {:.1?}", begun.elapsed());
                        break;
                    }
                    Err(error) if error.is_dead() => {
                        assert!(error.to_string().contains("another"), "{error}");
                        eprintln!("{how}: the other: {error}");
                        break;
                    }
                    Err(_) => {}
                }
            }
        }
    }
}
