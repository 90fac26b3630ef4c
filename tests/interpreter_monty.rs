//! What cells can do to the embedded engine, and what it makes of it.

#![cfg(feature = "monty")]

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sessile::interpreter::monty::{Monty, MontyManager};
use sessile::interpreter::{ExecuteOptions, Execution, Interpreter, Output};

fn run(python: &mut Monty, code: &str) -> Execution {
    python.run(code).unwrap()
}

#[track_caller]
fn shows(python: &mut Monty, code: &str, text: Option<&str>) {
    let execution = run(python, code);
    assert_eq!(execution.error, None, "{code}");
    assert_eq!(execution.text(), text, "{code}");
}

#[test]
fn values_are_shown_as_python_shows_them() {
    let python = &mut Monty::start();
    shows(python, "1 + 1", Some("2"));
    shows(python, "None", None);
    shows(python, "x = 1", None);
    shows(python, "x;", None);
    shows(python, "x # ;", Some("1"));
    shows(python, "", None);
    shows(python, "# nothing", None);
    shows(python, "(1,), {2: (3,)}", Some("((1,), {2: (3,)})"));
    shows(python, "'it''s' \"'\"", Some("\"its'\""));
    shows(python, "'None'", Some("'None'"));
    shows(
        python,
        "class P:\n    def __init__(self, v):\n        self.v = v\n    def __repr__(self):\n        \
         return f'<{self.v}>'\n[P(1), P(2)]",
        Some("[<1>, <2>]"),
    );
    shows(python, "repr = None\nP(3)", Some("<3>"));
    assert_eq!(run(python, "0").execution_count, 13);
}

#[test]
fn state_survives_an_error_and_what_went_before_it_stays() {
    let python = &mut Monty::start();
    let execution = run(python, "x = 5\nprint('so far')\n1 / 0\nx = 6");
    let error = execution.error.as_ref().unwrap();
    assert_eq!((&*error.name, &*error.value), ("ZeroDivisionError", "division by zero"));
    assert_eq!(execution.stdout(), "so far\n");
    assert_eq!(execution.result, None);
    shows(python, "x", Some("5"));
}

#[test]
fn tracebacks_show_the_lines_that_were_given() {
    let python = &mut Monty::start();
    run(python, "def f(n):\n    return 1 // n");
    let error = run(python, "n = 0\nn; f(\n    n\n)").error.unwrap();
    assert_eq!(
        error.traceback,
        "Traceback (most recent call last):\n  \
         File \"<cell 2>\", line 2, in <module>\n    \
           f(\n        n\n    )\n  \
         File \"<cell 1>\", line 2, in f\n    \
           return 1 // n\n           ~~~~~~\n\
         ZeroDivisionError: division by zero"
    );
    let error = run(python, "boom; 2").error.unwrap();
    assert!(error.traceback.contains("File \"<cell 3>\", line 1, in <module>"), "{error:?}");
    let code = "class R:\n    def __repr__(self):\n        raise ValueError('no')\nR()";
    let error = run(python, code).error.unwrap();
    assert!(error.traceback.contains("line 3, in __repr__"), "{error:?}");
    assert!(!error.traceback.contains("sessile"), "{error:?}");
}

#[test]
fn syntax_error_runs_nothing() {
    let python = &mut Monty::start();
    let execution = run(python, "print('never')\nif True print(1)");
    assert_eq!(execution.error.unwrap().name, "SyntaxError");
    assert!(execution.outputs.is_empty());
}

#[test]
fn endless_loop_stops_at_its_limit_and_state_survives() {
    let python = &mut Monty::start();
    let limit = ExecuteOptions::new().timeout(Duration::from_millis(50));
    let code = "x = 7\nprint('in')\ntry:\n    while True:\n        pass\nexcept BaseException:\n    \
                print('caught')\nfinally:\n    print('finally')";
    let execution = python.execute(code, &limit).unwrap();
    assert!(execution.timed_out);
    assert_eq!(execution.error.as_ref().unwrap().name, "KeyboardInterrupt");
    assert_eq!(execution.stdout(), "in\n");
    let after = python.execute("x", &limit).unwrap();
    assert_eq!(after.text(), Some("7"));
    assert!(!after.timed_out);
    // The limit is each cell's own: it neither adds up nor stays.
    let code = "n = 0\nfor i in range(200_000):\n    n += i\nn";
    assert_eq!(run(python, code).text(), Some("19999900000"));
    let execution = run(python, "raise TimeoutError('mine')");
    assert!(!execution.timed_out);
    assert_eq!(execution.error.unwrap().name, "TimeoutError");
}

#[test]
fn limit_of_the_manager_holds_where_the_cell_has_none() {
    let python = &mut MontyManager::new().timeout(Duration::from_millis(50)).start();
    assert!(run(python, "while True: pass").timed_out);
    shows(python, "'alive'", Some("'alive'"));
}

#[test]
fn interrupted_from_another_thread() {
    let mut python = Monty::start();
    let handle = python.interrupt_handle();
    let (done, end) = mpsc::channel();
    let worker = thread::spawn(move || {
        let execution = run(&mut python, "x = 1\nwhile True: x += 1");
        done.send(()).unwrap();
        (execution, run(&mut python, "x > 0"))
    });
    // The cell may not have begun yet: an interrupt before it is without effect.
    while end.recv_timeout(Duration::from_millis(1)).is_err() {
        handle.interrupt();
    }
    let (execution, after) = worker.join().unwrap();
    assert_eq!(execution.error.unwrap().name, "KeyboardInterrupt");
    assert!(!execution.timed_out);
    assert_eq!(after.text(), Some("True"));
    handle.interrupt();
}

#[test]
fn output_over_the_limit_is_cut_and_the_cell_runs_on() {
    let python = &mut Monty::start();
    let small = ExecuteOptions::new().max_output(1000);
    let execution = python
        .execute("for i in range(10_000):\n    print('é', i)\nx = 'é' * 5000\nx", &small)
        .unwrap();
    assert!(execution.truncated);
    assert!(execution.error.is_none());
    assert!((990..=1000).contains(&execution.stdout().len()));
    assert!((990..=1000).contains(&execution.text().unwrap().len()));
    let execution = python.execute("raise ValueError(x)", &small).unwrap();
    assert!(execution.truncated && execution.error.unwrap().value.len() <= 1000);
    assert!(!python.execute("len(x)", &small).unwrap().truncated);
}

#[test]
fn a_value_too_large_is_refused_before_it_is_made() {
    let python = &mut MontyManager::new().max_memory(10 << 20).start();
    let code = "try:\n    x = 'a' * 10**9\nexcept BaseException:\n    print('caught')";
    let execution = run(python, code);
    assert_eq!(execution.error.as_ref().unwrap().name, "MemoryError");
    assert_eq!(execution.stdout(), "");
    shows(python, "len('a' * 10**6)", Some("1000000"));
}

#[test]
fn deep_recursion_fits_a_thread_of_ordinary_size() {
    // Threads of the test harness have 2 MiB, as threads of `std` do by default.
    let python = &mut Monty::start();
    let execution = run(python, "def r(n):\n    return r(n + 1)\nr(0)");
    assert_eq!(execution.error.unwrap().name, "RecursionError");
    shows(python, "'alive'", Some("'alive'"));
}

#[test]
fn nul_in_code_is_a_syntax_error() {
    let error = run(&mut Monty::start(), "x = 1\0").error.unwrap();
    assert_eq!(error.name, "SyntaxError");
}

#[test]
fn huge_cell() {
    let python = &mut Monty::start();
    let code = format!("x = 0\n{}x", "x += 1\n".repeat(20_000));
    shows(python, &code, Some("20000"));
}

#[test]
fn world_is_out_of_reach() {
    let python = &mut Monty::start();
    for code in ["open('/etc/passwd')", "import socket", "import subprocess", "input()"] {
        assert!(run(python, code).error.is_some(), "{code}");
    }
    shows(python, "'alive'", Some("'alive'"));
}

#[test]
fn nothing_is_left_after_a_reset() {
    let python = &mut Monty::start();
    run(python, "x = 1");
    python.reset().unwrap();
    let execution = run(python, "x");
    assert_eq!(execution.execution_count, 1);
    assert_eq!(execution.error.unwrap().name, "NameError");
    assert!(python.is_alive());
}

#[test]
fn output_of_one_cell_is_not_in_the_next() {
    let python = &mut Monty::start();
    run(python, "print('a', end='')");
    let execution = run(python, "print('b')");
    assert_eq!(execution.outputs, [Output::Stdout { text: "b\n".into() }]);
}
