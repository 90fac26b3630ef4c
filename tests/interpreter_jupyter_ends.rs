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
use sessile::{Pool, PoolError, Registry};
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
    let server = Server::shared();
    let mut kernel = server.manager().start().unwrap();
    let process = pid(&mut kernel);
    signal(process, "KILL");
    let outcome = kernel.run("x = 'in the next process'");
    is_lost(&mut kernel, outcome);
    kernel.reset().unwrap();
    assert_eq!(run(&mut kernel, "'x' in dir()").text(), Some("False"));
}

#[test]
fn a_pool_replaces_a_dead_kernel_once_its_user_was_told() {
    let server = Server::shared();
    let registry = Registry::new();
    let pool = Pool::builder(server.manager()).registry(&registry).build().unwrap();
    let id = |kernel: &mut Jupyter| kernel.kernel_id().unwrap().to_owned();
    let (process, before) = (pool.with(pid).unwrap(), pool.with(id).unwrap());
    signal(process, "KILL");
    poll_until("the process is gone", || !is_running(process));
    let told = pool.with(|kernel| kernel.run("1")).unwrap();
    assert!(told.unwrap_err().state_lost());
    assert_eq!(pool.with(|kernel| run(kernel, "1 + 1")).unwrap().text(), Some("2"));
    let after = pool.with(id).unwrap();
    assert!(pool.close(PATIENCE).is_clean());
    let left = server.kernels();
    assert!(!left.contains(&before) && !left.contains(&after));
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

/// A gateway does not always pass on that it has ended one.
#[test]
fn a_kernel_that_was_removed_without_a_word_is_missed() {
    let server = Server::shared();
    let line = Line::to(&server);
    // So that it is not the silence that is noticed.
    let hour = Duration::from_secs(60 * 60);
    let manager =
        JupyterManager::builder(line.gateway()).keep_alive_interval(hour).build().unwrap();
    let remove = |kernel: &str| {
        line.mute();
        let (status, _) = server.ask("DELETE", &format!("/api/kernels/{kernel}")).unwrap();
        assert_eq!(status, 204);
    };
    // Amid a cell without a limit; and before one, which is found out when that is to be stopped.
    let mut kernel = manager.start().unwrap();
    let id = kernel.kernel_id().unwrap().to_owned();
    let outcome = amid(&mut kernel, &ExecuteOptions::new(), || remove(&id));
    is_lost(&mut kernel, outcome);
    let mut kernel = manager.start().unwrap();
    remove(kernel.kernel_id().unwrap());
    let outcome = kernel.execute("x", &limit(300));
    is_lost(&mut kernel, outcome);
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
    let mut server = Server::start(Kind::KernelGateway, &[]);
    let builder = server.builder().reconnect_timeout(Duration::from_millis(500));
    let registry = Registry::new();
    let pool = Pool::builder(builder.build().unwrap()).registry(&registry).build().unwrap();
    for how in ["TERM", "KILL"] {
        let process = pool.with(pid).unwrap();
        let begun = Instant::now();
        let fail = |kernel: &mut Jupyter| {
            let outcome = amid(kernel, &ExecuteOptions::new(), || server.signal(how));
            is_lost(kernel, outcome);
        };
        pool.with(fail).unwrap();
        assert!(begun.elapsed() < PATIENCE);
        poll_until("its kernel has ended", || !is_running(process));
        poll_until("it has ended", || !is_running(server.pid));
        let error = pool.with(|_| ()).unwrap_err();
        assert!(causes(&error).contains("does not answer"), "{}", causes(&error));
        server = server.again();
        assert_eq!(pool.with(|kernel| run(kernel, "1 + 1")).unwrap().text(), Some("2"));
    }
    assert!(pool.close(PATIENCE).is_clean());
    assert!(server.kernels().is_empty());
}

fn causes(error: &PoolError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn a_gateway_that_hangs() {
    let server = Server::start(Kind::KernelGateway, &[]);
    is_given_up_at_the_limit_and_told_later(&server);
    is_noticed_without_a_limit(&server);
    frees_who_waits_when_a_pool_is_closed(&server);
}

fn is_given_up_at_the_limit_and_told_later(server: &Server) {
    let short = Duration::from_millis(500);
    let manager = server.builder().grace(short).close_timeout(short).build().unwrap();
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

fn is_noticed_without_a_limit(server: &Server) {
    let short = Duration::from_millis(300);
    let manager = server
        .builder()
        .keep_alive_interval(short)
        .keep_alive_timeout(short)
        .reconnect_timeout(short)
        .build()
        .unwrap();
    let mut kernel = manager.start().unwrap();
    let outcome = amid(&mut kernel, &ExecuteOptions::new(), || server.signal("STOP"));
    is_lost(&mut kernel, outcome);
    server.signal("CONT");
}

fn frees_who_waits_when_a_pool_is_closed(server: &Server) {
    let short = Duration::from_millis(300);
    let manager = server.builder().request_timeout(short).close_timeout(short).build().unwrap();
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
        let report = pool.close(Duration::from_secs(2));
        assert_eq!(report.still_open.len(), 0, "{report}");
        assert!(straggler.join().unwrap().unwrap_err().state_lost());
    });
}

// ---- the connection ---------------------------------------------------------------------------

fn over(line: &Line, json: bool) -> JupyterManager {
    let builder = JupyterManager::builder(line.gateway()).json_frames(json);
    builder.reconnect_timeout(PATIENCE).build().unwrap()
}

#[test]
fn a_cell_goes_on_when_its_connection_is_cut_and_nothing_is_lost_or_doubled() {
    let server = Server::shared();
    for json in [false, true] {
        let line = Line::to(&server);
        let mut kernel = over(&line, json).start().unwrap();
        let path = format!("/api/kernels/{}", kernel.kernel_id().unwrap());
        let connections = || server.ask("GET", &path).unwrap().1["connections"].clone();
        run(&mut kernel, "x = 1");
        let (cut, said) = (Signal::new(), Signal::new());
        let code = format!(
            "print('before', flush=True)\n{}for i in range(100): print(i, flush=True)\n{}x + 1",
            cut.wait(),
            said.give(),
        );
        let was_cut = AtomicBool::new(false);
        let execution = thread::scope(|scope| {
            scope.spawn(|| {
                poll_until("it is cut", || was_cut.load(Ordering::SeqCst));
                poll_until("the gateway has noticed", || connections() == 0);
                cut.set();
                poll_until("all was said to nobody", || said.is_set());
                line.refuse(false);
            });
            let seen = &mut |output: OutputRef<'_>| {
                if output == OutputRef::Stdout("before\n") {
                    line.refuse(true);
                    line.cut();
                    was_cut.store(true, Ordering::SeqCst);
                }
            };
            kernel.execute_with(&code, &limit(60_000), seen).unwrap()
        });
        let expected: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(execution.stdout(), format!("before\n{expected}"));
        assert_eq!(execution.text(), Some("2"));
        assert!(!execution.timed_out);
        assert!(execution.truncated, "it cannot know that nothing was lost");
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
