//! Kernels that die, gateways that go, connections that are cut.

#![cfg(all(feature = "jupyter", target_os = "linux"))]

#[path = "support/jupyter.rs"]
mod jupyter;
mod support;
#[path = "support/venv.rs"]
mod venv;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jupyter::{Kind, Line, Server, Signal, is_running, signal};
use sessile::interpreter::jupyter::{Jupyter, JupyterManager};
use sessile::interpreter::{ExecuteOptions, Execution, Interpreter, InterpreterError, OutputRef};
use sessile::{Pool, Registry};
use support::{PATIENCE, poll_until};

fn run(kernel: &mut Jupyter, code: &str) -> Execution {
    kernel.run(code).unwrap_or_else(|error| panic!("{error}: {:?}\n{code}", error.outputs()))
}

fn limit(millis: u64) -> ExecuteOptions {
    ExecuteOptions::new().timeout(Duration::from_millis(millis))
}

fn pid(kernel: &mut Jupyter) -> u32 {
    run(kernel, "import os; os.getpid()").text().unwrap().parse().unwrap()
}

/// Runs a cell that never ends by itself, and does something once it runs.
fn amid<R>(
    kernel: &mut Jupyter,
    options: &ExecuteOptions,
    act: impl FnOnce() -> R + Send,
) -> Result<Execution, InterpreterError> {
    let running = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            poll_until("the cell runs", || running.load(Ordering::SeqCst));
            act();
        });
        let seen = &mut |_: OutputRef<'_>| running.store(true, Ordering::SeqCst);
        let code = "print('running', flush=True)\nimport time\nwhile True: time.sleep(.1)";
        kernel.execute_with(code, options, seen)
    })
}

#[track_caller]
fn is_lost(kernel: &mut Jupyter, outcome: Result<Execution, InterpreterError>) {
    let error = outcome.expect_err("its state is lost");
    assert!(error.state_lost() && error.is_dead() && !error.is_timeout(), "{error}");
    assert!(!kernel.is_alive());
    assert!(kernel.run("1").unwrap_err().is_dead());
}

// ---- the kernel -------------------------------------------------------------------------------

#[test]
fn a_cell_that_ends_its_kernel_is_told_and_what_it_had_put_out() {
    let server = Server::shared();
    let mut kernel = server.manager().start().unwrap();
    for code in ["import os; os._exit(3)", "import ctypes; ctypes.string_at(0)", "exit()"] {
        let id = kernel.kernel_id().unwrap().to_owned();
        let outcome = kernel.run(code);
        is_lost(&mut kernel, outcome);
        assert!(!server.kernels().contains(&id));
        kernel.reset().unwrap();
    }
    let said = Signal::new();
    let code = format!("print('bye', flush=True)\n{}import os; os._exit(3)", said.wait());
    let error = kernel.execute_with(&code, &limit(30_000), &mut |_| said.set()).unwrap_err();
    assert!(error.state_lost(), "{error}");
    assert_eq!(error.outputs().len(), 1);
}

#[test]
fn a_kernel_killed_amid_a_cell() {
    let server = Server::shared();
    let mut kernel = server.manager().start().unwrap();
    let process = pid(&mut kernel);
    let outcome = amid(&mut kernel, &ExecuteOptions::new(), || signal(process, "KILL"));
    is_lost(&mut kernel, outcome);
}

/// A gateway runs what it is sent in the next process, as if nothing had happened.
#[test]
fn a_kernel_killed_between_cells_does_not_go_on_with_its_state_gone() {
    let server = Server::start(Kind::KernelGateway, &[]); // notices after up to 3 s
    let mut kernel = server.manager().start().unwrap();
    let process = pid(&mut kernel);
    signal(process, "KILL");
    let outcome = kernel.run("x = 'in the next process'");
    is_lost(&mut kernel, outcome);
    kernel.reset().unwrap();
    assert_eq!(run(&mut kernel, "'x' in dir()").text(), Some("False"));
    drop(kernel);
    assert!(server.kernels().is_empty());
}

#[test]
fn a_pool_replaces_a_dead_kernel_once_its_user_was_told() {
    let server =
        Server::start(Kind::KernelGateway, &["--AsyncIOLoopKernelRestarter.time_to_dead=0.3"]);
    let registry = Registry::new();
    let pool = Pool::builder(server.manager()).registry(&registry).build().unwrap();
    let process = pool.with(pid).unwrap();
    signal(process, "KILL");
    poll_until("the process is gone", || !is_running(process));
    let told = pool.with(|kernel| kernel.run("1")).unwrap();
    assert!(told.unwrap_err().state_lost());
    assert_eq!(pool.with(|kernel| run(kernel, "1 + 1")).unwrap().text(), Some("2"));
    assert_eq!(server.kernels().len(), 1);
    assert!(pool.close(PATIENCE).is_clean());
    assert!(server.kernels().is_empty());
}

#[test]
fn what_others_do_to_a_kernel_is_noticed() {
    let server = Server::shared();
    for busy in [false, true] {
        for (method, path) in [("POST", "/restart"), ("DELETE", "")] {
            let mut kernel = server.manager().start().unwrap();
            let path = format!("/api/kernels/{}{path}", kernel.kernel_id().unwrap());
            let act = || {
                let (status, _) = server.ask(method, &path).unwrap();
                assert!(status < 300, "{status}");
            };
            let outcome = if busy {
                amid(&mut kernel, &ExecuteOptions::new(), act)
            } else {
                act();
                kernel.run("1")
            };
            is_lost(&mut kernel, outcome);
        }
    }
}

#[test]
fn a_kernel_that_dies_again_and_again() {
    let server = Server::start(
        Kind::KernelGateway,
        &[
            "--AsyncIOLoopKernelRestarter.time_to_dead=0.3",
            "--AsyncIOLoopKernelRestarter.restart_limit=0",
        ],
    );
    let mut kernel = server.manager().start().unwrap();
    let outcome = kernel.run("import os; os._exit(1)");
    is_lost(&mut kernel, outcome);
    assert!(server.kernels().is_empty());
}

// ---- the gateway ------------------------------------------------------------------------------

#[test]
fn a_gateway_that_ends_amid_a_cell_and_one_in_its_place() {
    for how in ["TERM", "KILL"] {
        let server = Server::start(Kind::KernelGateway, &[]);
        let builder = server.builder().reconnect_timeout(Duration::from_millis(500));
        let registry = Registry::new();
        let pool = Pool::builder(builder.build().unwrap()).registry(&registry).build().unwrap();
        let process = pool.with(pid).unwrap();
        let begun = Instant::now();
        let outcome = pool
            .with(|kernel| {
                let outcome = amid(kernel, &ExecuteOptions::new(), || server.signal(how));
                assert!(!kernel.is_alive());
                outcome
            })
            .unwrap();
        assert!(outcome.unwrap_err().state_lost());
        assert!(begun.elapsed() < PATIENCE);
        poll_until("its kernel has ended", || !is_running(process));
        poll_until("it has ended", || !is_running(server.pid));
        let error = pool.with(|_| ()).unwrap_err();
        assert!(format!("{:#}", anyhow_of(error)).contains("does not answer"));
        let server = server.again();
        assert_eq!(pool.with(|kernel| run(kernel, "1 + 1")).unwrap().text(), Some("2"));
        assert!(pool.close(PATIENCE).is_clean());
        assert!(server.kernels().is_empty());
    }
}

fn anyhow_of(error: sessile::PoolError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn a_gateway_that_hangs_is_given_up_at_the_limit_and_told_later() {
    let server = Server::start(Kind::KernelGateway, &[]);
    let manager = server
        .builder()
        .grace(Duration::from_millis(500))
        .close_timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    let mut kernel = manager.start().unwrap();
    let begun = Instant::now();
    let outcome = amid(&mut kernel, &limit(500), || server.signal("STOP"));
    is_lost(&mut kernel, outcome);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    server.signal("CONT");
    assert_eq!(server.kernels().len(), 1);
    // The next start there ends what was left.
    let mut kernel = manager.start().unwrap();
    assert_eq!(server.kernels(), [kernel.kernel_id().unwrap()]);
    assert_eq!(run(&mut kernel, "1").text(), Some("1"));
}

#[test]
fn a_gateway_that_hangs_is_noticed_without_a_limit() {
    let server = Server::start(Kind::KernelGateway, &[]);
    let manager = server
        .builder()
        .keep_alive(Duration::from_millis(300))
        .pong_timeout(Duration::from_millis(300))
        .reconnect_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    let mut kernel = manager.start().unwrap();
    let outcome = amid(&mut kernel, &ExecuteOptions::new(), || server.signal("STOP"));
    is_lost(&mut kernel, outcome);
}

// ---- the connection ---------------------------------------------------------------------------

fn over(line: &Line, json: bool) -> JupyterManager {
    let builder = JupyterManager::builder(line.gateway()).json_frames(json);
    builder.reconnect_timeout(PATIENCE).build().unwrap()
}

#[test]
fn a_cell_goes_on_when_its_connection_is_cut_and_nothing_is_lost_or_doubled() {
    let server = Server::shared();
    let line = Line::to(&server);
    for json in [false, true] {
        let mut kernel = over(&line, json).start().unwrap();
        run(&mut kernel, "x = 1");
        let cuts = [Signal::new(), Signal::new(), Signal::new()];
        let mut code = String::new();
        for (n, cut) in cuts.iter().enumerate() {
            // What is said right after the cut is said while nobody listens.
            code += &format!("print('piece {n}', flush=True)\n{}", cut.wait());
            code += &format!("for i in range(100): print('after {n}', i, flush=True)\n");
        }
        code += "x + 1";
        let mut next = 0;
        let seen = &mut |output: OutputRef<'_>| {
            let OutputRef::Stdout(text) = output else { panic!("{output:?}") };
            if next < 3 && text.contains(&format!("piece {next}")) {
                line.cut();
                cuts[next].set();
                next += 1;
            }
        };
        let execution = kernel.execute_with(&code, &limit(60_000), seen).unwrap();
        let expected: String = (0..3)
            .flat_map(|n| {
                let after = (0..100).map(move |i| format!("after {n} {i}\n"));
                [format!("piece {n}\n")].into_iter().chain(after)
            })
            .collect();
        assert_eq!(execution.stdout(), expected);
        assert_eq!(execution.text(), Some("2"));
        assert!(!execution.timed_out);
        assert_eq!(run(&mut kernel, "x").text(), Some("1"));
    }
}

#[test]
fn a_connection_cut_between_cells_is_mended_at_the_next() {
    let server = Server::shared();
    let line = Line::to(&server);
    let mut kernel = over(&line, false).start().unwrap();
    run(&mut kernel, "x = 0");
    for n in 1..4 {
        line.cut();
        let execution = run(&mut kernel, "x += 1; x");
        assert_eq!(execution.text(), Some(&*n.to_string()));
        assert_eq!(execution.execution_count, n + 1);
    }
}

#[test]
fn a_process_that_ended_while_nobody_listened() {
    let server = Server::shared();
    let line = Line::to(&server);
    let mut kernel = over(&line, false).start().unwrap();
    let process = pid(&mut kernel);
    let id = kernel.kernel_id().unwrap().to_owned();
    line.refuse(true);
    line.cut();
    signal(process, "KILL");
    let children = || {
        let children = format!("/proc/{}/task/{}/children", server.pid, server.pid);
        std::fs::read_to_string(children).unwrap_or_default()
    };
    let cmdline = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
    poll_until("the gateway has started another", || {
        let mut all = children();
        all.retain(|c| c != '\n');
        all.split(' ').any(|child| {
            let is_it = cmdline(child).unwrap_or_default().contains(&id);
            is_it && child != process.to_string()
        })
    });
    line.refuse(false);
    let outcome = kernel.run("x = 1");
    is_lost(&mut kernel, outcome);
}

#[test]
fn a_request_lost_with_its_connection_is_told_and_not_run_twice() {
    let server = Server::shared();
    let line = Line::to(&server);
    let mut kernel = over(&line, false).start().unwrap();
    run(&mut kernel, "1");
    line.swallow();
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            // Long enough for the request to be sent; if it is not, the outcome is another, and fails.
            thread::sleep(Duration::from_millis(300));
            line.cut();
        });
        kernel.run("x = 1")
    });
    let error = outcome.unwrap_err();
    assert!(
        error.state_lost() && error.to_string().contains("lost with the connection"),
        "{error}"
    );
}

#[test]
fn a_connection_that_cannot_be_opened_again_is_given_up() {
    let server = Server::shared();
    let line = Line::to(&server);
    let manager = JupyterManager::builder(line.gateway())
        .reconnect_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    let mut kernel = manager.start().unwrap();
    let id = kernel.kernel_id().unwrap().to_owned();
    line.refuse(true);
    line.cut();
    let outcome = kernel.run("1");
    is_lost(&mut kernel, outcome);
    line.refuse(false);
    assert!(server.kernels().contains(&id));
    kernel.reset().unwrap();
    assert!(!server.kernels().contains(&id));
}

#[test]
fn closing_a_pool_whose_gateway_hangs_frees_who_waits_for_it() {
    let server = Server::start(Kind::KernelGateway, &[]);
    let quick = Duration::from_millis(300);
    let manager = server.builder().request_timeout(quick).close_timeout(quick).build().unwrap();
    let registry = Registry::new();
    let pool = Pool::builder(manager).registry(&registry).build().unwrap();
    let running = AtomicBool::new(false);
    thread::scope(|scope| {
        let straggler = scope.spawn(|| {
            let code = "print()\nimport time\nwhile True: time.sleep(1)";
            let seen = &mut |_: OutputRef<'_>| running.store(true, Ordering::SeqCst);
            pool.with(|kernel| kernel.execute_with(code, &ExecuteOptions::new(), seen)).unwrap()
        });
        poll_until("the cell runs", || running.load(Ordering::SeqCst));
        server.signal("STOP");
        let report = pool.close(Duration::from_secs(4));
        assert_eq!(report.still_open.len(), 0, "{report}");
        assert!(straggler.join().unwrap().unwrap_err().state_lost());
    });
}
