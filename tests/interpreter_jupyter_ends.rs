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
use serde_json::json;
use sessile::interpreter::jupyter::{Jupyter, JupyterManager};
use sessile::interpreter::{
    ExecuteOptions, Execution, Interpreter, InterpreterError, Output, OutputRef,
};
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

#[track_caller]
fn is_unreachable(kernel: &Jupyter, outcome: Result<Execution, InterpreterError>) {
    let error = outcome.expect_err("nothing is known");
    assert!(error.is_unreachable() && !error.state_lost() && !error.is_dead(), "{error}");
    assert!(kernel.is_alive(), "{error}");
}

/// Waits for a session that was out of reach to answer again.
fn reached_again(kernel: &mut Jupyter, code: &str) -> Execution {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match kernel.execute(code, &limit(10_000)) {
            Ok(execution) => return execution,
            Err(error) => assert!(!error.is_dead() && Instant::now() < deadline, "{error}"),
        }
    }
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
        // Before it goes, one that is told to may end its kernels and say so.
        let fail = |kernel: &mut Jupyter| {
            let outcome = amid(kernel, &ExecuteOptions::new(), || server.signal(how));
            match how {
                "KILL" => is_unreachable(kernel, outcome),
                _ => assert!(outcome.is_err()),
            }
        };
        pool.with(fail).unwrap();
        assert!(begun.elapsed() < PATIENCE);
        poll_until("its kernel has ended", || !is_running(process));
        poll_until("it has ended", || !is_running(server.pid));
        if how == "KILL" {
            pool.with(|kernel| {
                let outcome = kernel.run("1");
                is_unreachable(kernel, outcome);
            })
            .unwrap();
        }
        server = server.again();
        // The gateway that is there now says that it has no such kernel.
        if how == "KILL" {
            pool.with(|kernel| {
                let outcome = kernel.run("1");
                is_lost(kernel, outcome);
            })
            .unwrap();
        }
        let started = Instant::now();
        let answer = loop {
            assert!(started.elapsed() < PATIENCE);
            match pool.with(|kernel| kernel.run("1 + 1")) {
                Ok(Ok(answer)) => break answer,
                // Told to end, it may have been gone before it could say anything.
                Ok(Err(error)) => assert!(how == "TERM" && error.state_lost(), "{error}"),
                Err(error) => assert!(causes(&error).contains("answer"), "{}", causes(&error)),
            }
        };
        assert_eq!(answer.text(), Some("2"));
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
fn a_gateway_that_hangs_costs_no_session() {
    let server = Server::start(Kind::KernelGateway, &[]);
    a_session_goes_on_after_its_limit(&server);
    is_noticed_without_a_limit(&server);
    frees_who_waits_when_a_pool_is_closed(&server);
}

fn a_session_goes_on_after_its_limit(server: &Server) {
    let short = Duration::from_millis(500);
    let manager = server.builder().grace(short).close_timeout(short).build().unwrap();
    let mut kernel = manager.start().unwrap();
    let id = kernel.kernel_id().unwrap().to_owned();
    run(&mut kernel, "kept = 'whole'");
    let begun = Instant::now();
    let outcome = amid(&mut kernel, &limit(500), || server.signal("STOP"));
    is_unreachable(&kernel, outcome);
    assert!(kernel.is_unreachable());
    // So does the next call, and it does not wait for long.
    let outcome = kernel.execute("1", &limit(500));
    is_unreachable(&kernel, outcome);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    server.signal("CONT");
    // The cell's time is over: it is stopped, and the next one runs with its variables.
    assert_eq!(reached_again(&mut kernel, "kept").text(), Some("'whole'"));
    assert!(!kernel.is_unreachable());
    assert_eq!(server.kernels(), [id]);
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
    is_unreachable(&kernel, outcome);
    server.signal("CONT");
    // It still runs, for it has no limit, until somebody stops it.
    let handle = kernel.interrupt_handle();
    let started = Instant::now();
    let rest = loop {
        handle.interrupt();
        match kernel.resume(&limit(1_000), &mut |_| handle.interrupt()) {
            Ok(rest) => break rest.expect("it was running"),
            Err(error) => assert!(!error.is_dead() && started.elapsed() < PATIENCE, "{error}"),
        }
    };
    assert!(rest.truncated && !rest.is_ok(), "{rest:?}");
    assert!(kernel.resume(&limit(1_000), &mut |_| {}).unwrap().is_none());
    assert_eq!(run(&mut kernel, "time.__name__").text(), Some("'time'"));
}

fn frees_who_waits_when_a_pool_is_closed(server: &Server) {
    let short = Duration::from_millis(300);
    let manager = server.builder().request_timeout(short).close_timeout(short).build().unwrap();
    let registry = Registry::new();
    let pool = Pool::builder(manager.clone()).registry(&registry).build().unwrap();
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
        assert!(straggler.join().unwrap().unwrap_err().is_unreachable());
        // The kernel lives, and that is said by its id.
        let ending = manager.status().remove(0).ending;
        assert_eq!((ending.len(), report.failed.len()), (1, 1), "{report}");
        assert!(report.failed[0].error.contains(&ending[0]), "{report}");
    });
    server.signal("CONT");
    // Nobody has to ask for it.
    poll_until("it is ended in the background", || manager.status()[0].ending.is_empty());
    assert!(server.kernels().is_empty());
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
        error.is_unreachable() && error.to_string().contains("lost with the connection"),
        "{error}"
    );
    // The session is whole.
    assert_eq!(run(&mut kernel, "'x' in dir()").text(), Some("False"));
}

#[test]
fn a_session_out_of_reach_is_kept_and_given_up_by_its_limit_only() {
    let server = Server::shared();
    let line = Line::to(&server);
    let start = |give_up_after| {
        let builder = JupyterManager::builder(line.gateway())
            .reconnect_timeout(Duration::from_millis(300))
            .give_up_after(give_up_after);
        builder.build().unwrap().start().unwrap()
    };
    let (mut kept, mut left) = (start(Duration::from_secs(600)), start(Duration::ZERO));
    run(&mut kept, "x = 'here'");
    let id = left.kernel_id().unwrap().to_owned();
    line.refuse(true);
    line.cut();
    for _ in 0..2 {
        let outcome = kept.run("1");
        is_unreachable(&kept, outcome);
    }
    let error = left.run("1").unwrap_err();
    assert!(error.is_given_up() && error.state_lost() && !error.is_unreachable(), "{error}");
    assert!(!left.is_alive());
    assert!(server.kernels().contains(&id));
    line.refuse(false);
    assert_eq!(reached_again(&mut kept, "x").text(), Some("'here'"));
    // One by one: while it is ended, the gateway cannot list it.
    let path = format!("/api/kernels/{id}");
    let is_gone = || server.ask("GET", &path).is_some_and(|(status, _)| status == 404);
    poll_until("it is ended in the background", is_gone);
}

#[test]
fn a_cell_goes_on_through_an_outage_that_outlasts_its_call() {
    let server = Server::shared();
    let line = Line::to(&server);
    let builder =
        JupyterManager::builder(line.gateway()).reconnect_timeout(Duration::from_millis(300));
    let mut kernel = builder.build().unwrap().start().unwrap();
    for resumes in [true, false] {
        let (go, done) = (Signal::new(), Signal::new());
        let code = format!(
            "print('before', flush=True)\n{}print('after', flush=True)\nx = 6 * 7\n{}x",
            go.wait(),
            done.give(),
        );
        let seen = &mut |_: OutputRef<'_>| {
            line.refuse(true);
            line.cut();
        };
        let error = kernel.execute_with(&code, &ExecuteOptions::new(), seen).unwrap_err();
        assert!(error.is_unreachable(), "{error}");
        assert!(matches!(error.outputs(), [Output::Stdout { text }] if text == "before\n"));
        line.refuse(false);
        let started = Instant::now();
        loop {
            // While it runs there is no room for another.
            let error = kernel.execute("1", &limit(1_000)).unwrap_err();
            if error.is_refused() {
                assert!(error.to_string().contains("still runs"), "{error}");
                break;
            }
            assert!(error.is_unreachable() && started.elapsed() < PATIENCE, "{error}");
        }
        go.set();
        poll_until("it has ended", || done.is_set());
        if resumes {
            let rest = loop {
                match kernel.resume(&limit(10_000), &mut |_| {}) {
                    Ok(rest) => break rest.unwrap(),
                    Err(error) => assert!(!error.is_dead(), "{error}"),
                }
            };
            assert_eq!((rest.stdout().as_str(), rest.text()), ("after\n", Some("42")));
            assert!(rest.truncated);
            assert_eq!(run(&mut kernel, "x").text(), Some("42"));
        } else {
            let next = reached_again(&mut kernel, "x");
            assert_eq!(next.text(), Some("42"));
            let late: Vec<_> = next.late.iter().map(|late| &*late.text).collect();
            assert_eq!(late, ["after\n"]);
            assert!(next.truncated);
        }
    }
}

/// A gateway says so of kernels that it has only lost sight of.
#[test]
fn a_gateway_that_says_that_it_restarts_a_kernel_is_not_believed_alone() {
    let server = Server::shared();
    let line = Line::to(&server);
    let mut kernel = over(&line, true).start().unwrap();
    run(&mut kernel, "x = 'here'");
    // The gateway's own words, as it has them when it finds a kernel dead.
    let restarting = json!({
        "channel": "iopub", "content": {"execution_state": "restarting"}, "metadata": {},
        "header": {"msg_id": "m", "msg_type": "status", "session": "s", "username": "u",
                   "date": "2026-01-01T00:00:00Z", "version": "5.3"},
        "parent_header": {}, "buffers": [],
    })
    .to_string();
    line.inject(&restarting);
    assert_eq!(run(&mut kernel, "x").text(), Some("'here'"));
    // Amid a cell.
    let code = "print('running', flush=True)\nimport time\ntime.sleep(1)\nx";
    let seen = &mut |_: OutputRef<'_>| line.inject(&restarting);
    let execution = kernel.execute_with(code, &limit(30_000), seen).unwrap();
    assert_eq!(execution.text(), Some("'here'"));
}
