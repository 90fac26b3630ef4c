//! What cells can do to the embedded engine, and what it makes of it.

#![cfg(feature = "monty")]

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sessile::interpreter::monty::{Monty, MontyManager};
use sessile::interpreter::{ExecuteOptions, Execution, Interpreter, InterruptHandle, Output};

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
    run(python, "x = 1\nx");
    python.reset().unwrap();
    let raises = "y = 1\n\nz = x";
    let execution = run(python, raises);
    assert_eq!(execution.execution_count, 1);
    assert_eq!(execution.error.as_ref().unwrap().name, "NameError");
    assert_eq!(execution.error, run(&mut Monty::start(), raises).error, "with the same lines");
    assert!(python.is_alive());
}

#[test]
fn output_of_one_cell_is_not_in_the_next() {
    let python = &mut Monty::start();
    run(python, "print('a', end='')");
    let execution = run(python, "print('b')");
    assert_eq!(execution.outputs, [Output::Stdout { text: "b\n".into() }]);
}

// ---- host functions -------------------------------------------------------------------------------

#[test]
fn host_functions_are_called_on_the_thread_of_the_cell() {
    let here = thread::current().id();
    let manager = MontyManager::new()
        .function("add", |call| {
            let sum: i64 = call.args.iter().filter_map(Value::as_i64).sum();
            Ok(json!(sum + call.kwargs.get("more").and_then(Value::as_i64).unwrap_or(0)))
        })
        .function("echo", move |mut call| {
            assert_eq!(thread::current().id(), here);
            Ok(call.args.pop().unwrap_or_default())
        });
    let python = &mut manager.start();
    shows(python, "add(1, 2, more=3)", Some("6"));
    shows(python, "[add(n, n) for n in range(3)]", Some("[0, 2, 4]"));
    let code = "echo({'a': [1, 2.5, 'é', None, True], 'b': (1, 2), 'c': {}})";
    shows(python, code, Some("{'a': [1, 2.5, 'é', None, True], 'b': [1, 2], 'c': {}}"));
    // They are names like any: kept, passed on, and hidden by a cell's own.
    shows(python, "f = add\n[f(n) for n in (1, 2)]", Some("[1, 2]"));
    shows(python, "def add(a, b):\n    return 'mine'\nadd(1, 2)", Some("'mine'"));
    let execution = run(python, "print('before')\necho(1)\nprint('after')\nnothing()");
    assert_eq!(execution.stdout(), "before\nafter\n");
    let error = execution.error.unwrap();
    assert_eq!(&*error.value, "name 'nothing' is not defined");
    for code in ["open('/etc/passwd')", "import os\nos.environ['HOME']", "import socket"] {
        assert!(run(python, code).error.is_some(), "{code}");
    }
}

#[test]
fn errors_of_host_functions_are_exceptions() {
    let manager = MontyManager::new()
        .function("fail", |_| anyhow::bail!("no luck"))
        .function("cause", |_| Err(anyhow::anyhow!("it is dark").context("no luck")))
        .function("deep", |_| Ok((0..150).fold(Value::Null, |inner, _| json!([inner]))))
        .function("huge", |_| Ok(json!(u64::MAX)))
        .function("take", |_| Ok(Value::Null));
    let python = &mut manager.start();
    let error = run(python, "fail()").error.unwrap();
    assert_eq!((&*error.name, &*error.value), ("RuntimeError", "no luck"));
    let code = "try:\n    fail()\nexcept RuntimeError as e:\n    r = str(e)\nr";
    shows(python, code, Some("'no luck'"));
    assert_eq!(run(python, "cause()").error.unwrap().value, "no luck: it is dark");
    let error = run(python, "deep()").error.unwrap();
    assert_eq!((&*error.name, error.value.contains("too deep")), ("RuntimeError", true));
    let error = run(python, "take({1: 2})").error.unwrap();
    assert_eq!(error.name, "TypeError");
    assert!(error.value.contains("take()"), "{error:?}");
    assert_eq!(run(python, "take(float('nan'))").error.unwrap().name, "TypeError");
    let code = "x = []\nfor i in range(150):\n    x = [x]\ntake(x)";
    assert_eq!(run(python, code).error.unwrap().name, "TypeError");
    shows(python, "huge() > 1", Some("True"));
}

#[test]
fn time_in_host_functions_counts() {
    let manager = MontyManager::new().function("wait", |_| {
        thread::sleep(Duration::from_millis(30));
        Ok(Value::Null)
    });
    let python = &mut manager.start();
    let limit = ExecuteOptions::new().timeout(Duration::from_millis(100));
    let code = "n = 0\ntry:\n    while True:\n        wait()\n        n += 1\nexcept BaseException:\n    n = -1";
    let execution = python.execute(code, &limit).unwrap();
    assert!(execution.timed_out);
    assert_eq!(execution.error.unwrap().name, "KeyboardInterrupt");
    shows(python, "0 <= n < 5", Some("True"));
}

#[test]
fn host_functions_may_interrupt_and_panic() {
    let handle: Arc<OnceLock<InterruptHandle>> = Arc::default();
    let theirs = Arc::clone(&handle);
    let manager = MontyManager::new()
        .function("stop", move |_| {
            theirs.get().unwrap().interrupt();
            Ok(Value::Null)
        })
        .function("boom", |_| panic!("mine"));
    let mut python = manager.start();
    handle.set(python.interrupt_handle()).unwrap();
    let execution = run(&mut python, "x = 1\nstop()\nx = 2");
    assert_eq!(execution.error.unwrap().name, "KeyboardInterrupt");
    assert!(!execution.timed_out);
    shows(&mut python, "x", Some("1"));
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| python.run("boom()")));
    assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"mine"));
    assert!(!python.is_alive());
    python.reset().unwrap();
    shows(&mut python, "1 + 1", Some("2"));
}

// ---- sessions as bytes ----------------------------------------------------------------------------

#[test]
fn a_session_goes_on_where_it_was_saved() {
    let manager = MontyManager::new().function("host", |_| Ok(json!("here")));
    let mut python = manager.start();
    run(&mut python, "def f(n):\n    return 10 // n\nx = {'k': [1, (2, 3)]}\ny = x['k']");
    run(&mut python, "y.append('ñ')\nhost()");
    let bytes = python.save().unwrap();
    run(&mut python, "x = None");
    let mut restored =
        thread::spawn(move || MontyManager::new().restore(&bytes).unwrap()).join().unwrap();
    shows(&mut restored, "x", Some("{'k': [1, (2, 3), 'ñ']}"));
    shows(&mut restored, "y is x['k']", Some("True"));
    let execution = run(&mut restored, "f(0)");
    assert_eq!(execution.execution_count, 5);
    let traceback = execution.error.unwrap().traceback;
    assert!(
        traceback.contains("File \"<cell 1>\", line 2, in f\n    return 10 // n"),
        "{traceback}"
    );
    assert!(traceback.contains("File \"<cell 5>\", line 1, in <module>"), "{traceback}");
    let names = restored.variables(&ExecuteOptions::new()).unwrap();
    assert_eq!(names.iter().map(|one| &*one.name).collect::<String>(), "fxy");
    // Functions are the manager's, not the session's.
    let execution = run(&mut restored, "host()");
    assert!(execution.error.is_some());
    shows(&mut python, "x", None);
}

#[test]
fn limits_are_those_of_the_manager_that_restores() {
    let mut python = Monty::start();
    run(&mut python, "def r(n):\n    return 0 if n == 0 else r(n - 1)");
    let bytes = python.save().unwrap();
    let strict = MontyManager::new().max_recursion(50).timeout(Duration::from_millis(50));
    let mut restored = strict.restore(&bytes).unwrap();
    assert_eq!(run(&mut restored, "r(100)").error.unwrap().name, "RecursionError");
    assert!(run(&mut restored, "while True: pass").timed_out);
}

#[test]
fn bytes_that_are_no_session_are_refused() {
    let manager = MontyManager::new();
    let bytes = manager.start().save().unwrap();
    let mut other = bytes.clone();
    other[0] ^= 1;
    for bad in [&b""[..], b"nonsense", &bytes[..20], &bytes[..bytes.len() - 1], &other] {
        let error = manager.restore(bad).unwrap_err();
        assert!(error.is_start(), "{error}");
    }
}

// ---- what could end the process -------------------------------------------------------------------

#[test]
fn source_nested_deep_is_refused() {
    let python = &mut Monty::start();
    for code in [
        format!("{}1", "1 + ".repeat(100_000)),
        format!("x{}", ".a".repeat(100_000)),
        format!("f{}", "()[0]".repeat(50_000)),
        format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("{}1", "not ".repeat(100_000)),
        format!("{}1", "-".repeat(100_000)),
        format!("{}1", "lambda: ".repeat(50_000)),
        format!("if 0: pass\n{}", "elif 0: pass\n".repeat(20_000)),
    ] {
        let error = run(python, &code).error.unwrap();
        assert_eq!(error.name, "SyntaxError");
        assert!(error.value.contains("nested"), "{error:?}");
    }
    shows(python, "'alive'", Some("'alive'"));
    assert_eq!(run(python, "0").execution_count, 10);
}

#[test]
fn huge_integers_are_refused_before_they_are_made() {
    let python = &mut MontyManager::new().max_memory(1 << 20).start();
    for code in ["10 ** 10 ** 8", "1 << 10 ** 9", "(1 << 4_000_000) ** 100"] {
        assert_eq!(run(python, code).error.unwrap().name, "MemoryError", "{code}");
    }
    shows(python, "len(str(2 ** 1000))", Some("302"));
}

#[test]
fn data_nested_deep_stops_at_the_depth_of_calls() {
    let python = &mut MontyManager::new().max_recursion(100).start();
    run(python, "x = []\ny = []\nfor i in range(20_000):\n    x = [x]\n    y = [y]");
    for code in ["x", "x == y", "str(x)"] {
        let execution = run(python, code);
        let stopped = execution.error.as_ref().is_some_and(|error| error.name == "RecursionError");
        let cut = execution.text().is_some_and(|text| text.len() < 1000);
        assert!(stopped || cut, "{code}: {execution:?}");
    }
    shows(python, "'alive'", Some("'alive'"));
}
