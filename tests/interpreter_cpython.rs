//! What cells, children and threads can do to the CPython engine, and what it makes of it.
//!
//! Needs `python3` on `PATH`.

#![cfg(all(feature = "cpython", unix))]

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use sessile::Manager;
use sessile::interpreter::cpython::{CPython, CPythonManager};
use sessile::interpreter::{ExecuteOptions, Execution, Interpreter, LateOutput, Output, StdStream};
use sessile::manager::CloseReason;

mod support;
use support::poll_until;

fn start() -> CPython {
    CPython::start().expect("python3 is installed")
}

fn run(python: &mut CPython, code: &str) -> Execution {
    python.run(code).unwrap_or_else(|error| panic!("{error}: {:?}\n{code}", error.outputs()))
}

fn limit(millis: u64) -> ExecuteOptions {
    ExecuteOptions::new().timeout(Duration::from_millis(millis))
}

#[track_caller]
fn shows(python: &mut CPython, code: &str, text: Option<&str>) {
    let execution = run(python, code);
    assert_eq!(execution.error, None, "{code}");
    assert_eq!(execution.text(), text, "{code}");
}

#[track_caller]
fn raises(python: &mut CPython, code: &str, name: &str, value: &str) -> Execution {
    let execution = run(python, code);
    let error = execution.error.as_ref().expect(code);
    assert_eq!((&*error.name, &*error.value), (name, value), "{code}");
    assert!(!error.traceback.contains("sessile"), "{}", error.traceback);
    assert!(error.traceback.ends_with(&*error.value), "{}", error.traceback);
    execution
}

fn out(text: &str) -> Output {
    Output::Stdout { text: text.into() }
}

fn err(text: &str) -> Output {
    Output::Stderr { text: text.into() }
}

fn late(cell: u64, text: &str) -> LateOutput {
    LateOutput::new(cell, StdStream::Stdout, text)
}

/// A line to a process that has no other: cells connect to it, and it ends when they do.
struct Line(TcpListener);

impl Line {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Code that leaves a connected socket in `line`.
    fn connect(&self) -> String {
        format!(
            "import socket\nline = socket.create_connection(('127.0.0.1', {}))\n",
            self.0.local_addr().unwrap().port()
        )
    }

    fn accept(&self) -> TcpStream {
        let stream = self.0.accept().unwrap().0;
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }
}

/// Waits until the other side is gone.
fn gone(mut line: TcpStream) {
    let mut rest = Vec::new();
    match line.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
}

// ---- the language ---------------------------------------------------------------------------------

#[test]
fn cells_are_a_notebooks() {
    let python = &mut start();
    shows(python, "x = 41", None);
    shows(python, "x + 1", Some("42"));
    shows(python, "x;", None);
    shows(python, "x # ;", Some("41"));
    shows(python, "'a;b'", Some("'a;b'"));
    shows(python, "(x\n) ; # hidden", None);
    shows(python, "None", None);
    shows(python, "", None);
    shows(python, "# nothing", None);
    shows(python, "if x:\r\n    y = 1\r\ny", Some("1"));
    shows(python, "__name__, __name__ == '__main__'", Some("('__main__', True)"));
    shows(python, "import sys; sys.modules['__main__'].x", Some("41"));
    shows(
        python,
        "class P: pass\nimport pickle; type(pickle.loads(pickle.dumps(P())))",
        Some("<class '__main__.P'>"),
    );
    shows(python, "'ñ→🦀'", Some("'ñ→🦀'"));
    shows(python, "import sys; sys.stdin.read(), sys.argv", Some("('', [''])"));
    assert_eq!(run(python, "0").execution_count, 16);
}

#[test]
fn await_at_top_level_and_tasks_between_cells() {
    let python = &mut start();
    shows(
        python,
        "import asyncio\nasync def f(n):\n    await asyncio.sleep(0)\n    return n\nawait f(1)\nawait f(2)",
        Some("2"),
    );
    shows(python, "[await f(n) for n in range(3)]", Some("[0, 1, 2]"));
    shows(python, "asyncio.run(f(3))", Some("3"));
    let error = run(python, "await f()").error.unwrap();
    assert!(!error.traceback.contains("asyncio"), "{}", error.traceback);
    let execution = python.execute("await asyncio.sleep(60)", &limit(100)).unwrap();
    assert!(execution.timed_out);
    shows(python, "await f(4)", Some("4"));
}

#[test]
fn values_have_other_forms() {
    let python = &mut start();
    let code = "class H:\n    def __repr__(self): return 'H'\n    def _repr_html_(self): return '<b>'\n    \
                def _repr_png_(self): return b'\\x89PNG'\n    \
                def _repr_json_(self): return {'k': float('nan')}\nprint(1)\ndisplay(H())\nprint(2)\nH()";
    let execution = run(python, code);
    let result = execution.result.unwrap();
    assert_eq!(result["text/html"], "<b>");
    assert_eq!(result["image/png"], "iVBORw==");
    assert!(!result.contains_key("application/json"), "NaN is not JSON");
    let shown = Output::Display { data: result };
    assert_eq!(execution.outputs, [out("1\n"), shown, out("2\n")]);
}

#[test]
fn errors_have_the_shape_of_python() {
    let python = &mut start();
    let error = raises(python, "1/0", "ZeroDivisionError", "division by zero").error.unwrap();
    assert!(
        error.traceback.starts_with(
            "Traceback (most recent call last):\n  File \"<cell 1>\", line 1, in <module>\n    1/0\n"
        ),
        "{}",
        error.traceback
    );
    raises(python, "def f(): raise KeyError('k')\nf()", "KeyError", "'k'");
    let code = "class E(Exception): pass\nraise E('mine', 2)";
    let error = run(python, code).error.unwrap();
    assert_eq!((&*error.name, &*error.value), ("E", "('mine', 2)"));
    assert!(error.traceback.ends_with("E: ('mine', 2)"));
    let code = "class R:\n    def __repr__(self): raise RuntimeError('no repr')\nR()";
    raises(python, code, "RuntimeError", "no repr");
    let code = "try:\n    {}['k']\nexcept KeyError as e:\n    raise RuntimeError('wrapped') from e";
    let error = raises(python, code, "RuntimeError", "wrapped").error.unwrap();
    assert!(error.traceback.contains("KeyError: 'k'"), "{}", error.traceback);
    let error = run(python, "f()").error.unwrap();
    assert!(error.traceback.contains("File \"<cell 2>\", line 1, in f\n    def f(): raise"));
}

#[test]
fn syntax_error_runs_nothing() {
    let python = &mut start();
    let execution = run(python, "print('never')\nif True print(1)");
    let error = execution.error.unwrap();
    assert_eq!((&*error.name, &*error.value), ("SyntaxError", "invalid syntax (<cell 1>, line 2)"));
    assert!(error.traceback.starts_with("  File \"<cell 1>\", line 2\n    if True print(1)\n"));
    assert!(execution.outputs.is_empty());
    let error = run(python, "def f():\nreturn 1").error.unwrap();
    assert_eq!(error.name, "IndentationError");
}

#[test]
fn nothing_that_a_cell_raises_ends_the_session() {
    let python = &mut start();
    run(python, "keep = 1");
    raises(python, "import sys\nsys.exit(3)", "SystemExit", "3");
    raises(python, "raise KeyboardInterrupt", "KeyboardInterrupt", "");
    raises(python, "raise BaseException('b')", "BaseException", "b");
    raises(python, "raise MemoryError", "MemoryError", "");
    raises(
        python,
        "def r(n): return r(n + 1)\nr(0)",
        "RecursionError",
        "maximum recursion depth exceeded",
    );
    raises(python, "raise ValueError('\\ud800')", "ValueError", "\\ud800");
    let error = run(python, "exit()").error.unwrap();
    assert_eq!(error.name, "SystemExit");
    let error =
        run(python, "import sys\nclass X(Exception):\n    def __str__(self): sys.exit(1)\nraise X")
            .error
            .unwrap();
    assert_eq!(error.name, "X");
    shows(python, "keep", Some("1"));
}

#[test]
fn questions_are_refused() {
    let python = &mut start();
    let error = run(python, "input('name? ')").error.unwrap();
    assert_eq!(error.name, "StdinNotImplementedError");
    assert_eq!(error.value, "input was called, but this frontend does not support input requests.");
    let error = run(python, "import getpass; getpass.getpass()").error.unwrap();
    assert_eq!(error.name, "StdinNotImplementedError");
}

#[test]
fn nul_in_code() {
    let python = &mut start();
    let error = run(python, "x = 1\0\n").error.unwrap();
    // Python before 3.12 called it a ValueError, and for some releases not.
    assert!(error.value.contains("null bytes"), "{error:?}");
    shows(python, "'a\\0b'", Some("'a\\x00b'"));
}

#[test]
fn huge_cell() {
    let python = &mut start();
    let code = format!("text = '{}'\nlen(text)", "é".repeat(4_000_000));
    shows(python, &code, Some("4000000"));
    let code = format!("n = 0\n{}n", "n += 1\n".repeat(20_000));
    shows(python, &code, Some("20000"));
}

// ---- output ---------------------------------------------------------------------------------------

#[test]
fn order_of_output_is_kept_whoever_writes() {
    let python = &mut start();
    let code = "import os, subprocess, sys\nfor n in range(20):\n    print('py', n)\n    \
                os.write(1, b'fd\\n')\n    print('err', n, file=sys.stderr)\n    \
                os.write(2, b'fd2\\n')\n    print('py')\n    subprocess.run(['echo', 'child'])";
    let mut expected = Vec::new();
    for n in 0..20 {
        let before = if n == 0 { "" } else { "py\nchild\n" };
        expected.push(out(&format!("{before}py {n}\nfd\n")));
        expected.push(err(&format!("err {n}\nfd2\n")));
    }
    expected.push(out("py\nchild\n"));
    assert!(run(python, code).outputs == expected);
}

#[test]
fn user_code_writes_to_fd_1() {
    let python = &mut start();
    let execution = run(python, "import os\nos.write(1, b'raw\\n')");
    assert_eq!(execution.outputs, [out("raw\n")]);
    assert_eq!(execution.text(), Some("4"));
    // More than a pipe holds, and nothing else of the cell after it.
    let execution = run(python, "os.system('head -c 300000 /dev/zero | tr \"\\\\0\" x') and None");
    assert_eq!(execution.stdout().len(), 300_000);
    assert_eq!(run(python, "0").outputs, []);
}

#[test]
fn unfinished_lines_and_binary_writes() {
    let python = &mut start();
    let execution = run(python, "print('a', end='')\nprint('\\rb', end='')");
    assert_eq!(execution.outputs, [out("a\rb")]);
    let code = "import sys\nprint('x', end='')\nsys.stdout.buffer.write('é\\n'.encode())\n\
                sys.stdout.fileno(), sys.stdout.isatty(), sys.stdout.encoding";
    let execution = run(python, code);
    assert_eq!(execution.outputs, [out("xé\n")]);
    assert_eq!(execution.text(), Some("(1, False, 'utf-8')"));
    let code = "import contextlib, io\nb = io.StringIO()\nwith contextlib.redirect_stdout(b):\n    \
                print('in')\nprint('out')\nb.getvalue()";
    let execution = run(python, code);
    assert_eq!((execution.stdout(), execution.text()), ("out\n".into(), Some("'in\\n'")));
    raises(
        python,
        "sys.stdout.write(b'x')",
        "TypeError",
        "write() argument must be str, not bytes",
    );
    let execution = run(python, "import warnings\nwarnings.warn('careful')");
    assert!(execution.stderr().contains("<cell 5>:2: UserWarning: careful"));
}

#[test]
fn invalid_utf_8_is_replaced() {
    let python = &mut start();
    let execution = run(
        python,
        "import os, sys\nos.write(1, b'a\\xff\\n')\nsys.stdout.buffer.write(b'b\\xfe\\n')\nos.write(1, b'\\xc3')\nprint('\\ud800')",
    );
    assert_eq!(execution.stdout(), "a\u{fffd}\nb\u{fffd}\n\\ud800\n\u{fffd}");
    assert_eq!(run(python, "print('\\xa9')").stdout(), "©\n");
    // Longer than a frame, whose end falls into a character.
    let text = format!("a{}\n", "é".repeat(100_000));
    assert!(run(python, "print('a' + 'é' * 100_000)").stdout() == text);
}

#[test]
fn output_over_the_limit() {
    let python = &mut start();
    let small = ExecuteOptions::new().max_output(1000);
    for code in [
        "print('é' * 1_000_000)",
        "for i in range(20_000): print(i)",
        "import os\nos.system('yes | head -c 1000000')\nNone",
    ] {
        let execution = python.execute(code, &small).unwrap();
        assert!(execution.is_ok() && execution.truncated, "{code}");
        let kept = execution.stdout().len() + execution.stderr().len();
        assert!((990..=1000).contains(&kept), "{code}");
    }
    let execution = python.execute("x = 'é' * 5000\nx", &small).unwrap();
    assert!(execution.truncated && (990..=1000).contains(&execution.text().unwrap().len()));
    let execution = python.execute("'a' * 5000", &small).unwrap();
    assert!(execution.truncated && execution.text().unwrap().len() == 1000);
    let execution = python.execute("raise ValueError(x)", &small).unwrap();
    assert!(execution.truncated && execution.error.unwrap().value.len() <= 1000);
    let execution = python.execute("print('y' * 999)", &small).unwrap();
    assert!(!execution.truncated, "nothing but what was printed, and it fits");
}

#[test]
fn endless_output_is_bounded_by_time() {
    let python = &mut start();
    for code in ["while True: print('y' * 1000)", "import os\nos.system('yes')"] {
        let options = limit(200).max_output(10_000);
        let execution = python.execute(code, &options).unwrap();
        assert!(execution.timed_out && execution.truncated, "{code}");
        assert_eq!(execution.stdout().len(), 10_000);
    }
    let execution = run(python, "'alive'");
    assert_eq!(execution.text(), Some("'alive'"));
    assert_eq!(execution.outputs, []);
}

#[test]
fn user_closes_stdout() {
    let python = &mut start();
    for code in [
        "import sys; sys.stdout.close()",
        "import sys; sys.stderr.close()",
        "import os; os.close(1)",
        "import os; os.close(0); os.close(1); os.close(2)",
        "import os; os.dup2(os.open('/dev/null', os.O_WRONLY), 1)",
        "import sys; sys.stdout = sys.stderr = sys.stdin = None",
        "import sys; sys.stdin.close()",
        "exit()",
    ] {
        run(python, code);
        let code = "import os, sys\nprint('py')\nos.write(1, b'fd\\n')\nprint('e', file=sys.stderr)\nsys.stdin.read()";
        let execution = run(python, code);
        assert_eq!(execution.outputs, [out("py\nfd\n"), err("e\n")], "{code}");
        assert_eq!(execution.text(), Some("''"), "{code}");
    }
    raises(python, "sys.stdout.close()\nprint(1)", "ValueError", "I/O operation on closed file.");
}

#[test]
fn an_audit_hook_prints_in_the_midst_of_printing() {
    let python = &mut start();
    // As a finalizer would that the collector runs at that moment: before it sends what is printed,
    // the driver asks the system for the state of its pipes, and that is an event for auditors.
    let code = "import sys\nwanted = []\ndef nested(event, _):\n    \
                if wanted and event == 'fcntl.ioctl':\n        \
                wanted.clear()\n        print('inner')\n\
                sys.addaudithook(nested)\nwanted.append(1)\nprint('outer')";
    let execution = python.execute(code, &limit(20_000)).unwrap();
    assert_eq!(execution.outputs, [out("inner\nouter\n")]);
}

// ---- whose output ---------------------------------------------------------------------------------

#[test]
fn late_thread_output() {
    let python = &mut start();
    let code = "import threading\ngo, done = threading.Event(), threading.Event()\ndef late():\n    \
                go.wait()\n    print('theirs')\n    done.set()\nthreading.Thread(target=late).start()";
    run(python, code);
    let execution = run(python, "print('mine', end='')\ngo.set()\ndone.wait()\nprint('!')");
    assert_eq!(execution.outputs, [out("mine!\n")]);
    assert_eq!(execution.late, [late(1, "theirs\n")]);
    assert_eq!(run(python, "0").late, []);
}

#[test]
fn late_output_of_low_level_and_pooled_threads() {
    let python = &mut start();
    let code = "import _thread, threading\nfrom concurrent.futures import ThreadPoolExecutor\n\
                go, done = threading.Event(), threading.Event()\npool = ThreadPoolExecutor()\ndef late():\n    \
                go.wait()\n    def nested():\n        print('nested', end='')\n        done.set()\n    \
                _thread.start_new_thread(nested, ())\n_thread.start_new_thread(late, ())\n\
                pool.submit(print, 'timely').result()";
    assert_eq!(run(python, code).outputs, [out("timely\n")]);
    run(python, "go.set()\ndone.wait()\npool.submit(print, 'pooled').result()");
    // The thread that wrote `nested` may only now have come to its end.
    let code = "import time\nwhile _thread._count() > 1: time.sleep(.001)";
    let both = [run(python, "0"), run(python, code), run(python, "0")];
    let late: String = both.iter().flat_map(|e| &e.late).map(|late| &*late.text).collect();
    assert!(late.is_empty() || late == "nested", "{both:?}");
    assert!(both.iter().all(|e| e.outputs.is_empty()));
}

#[test]
fn output_between_two_cells() {
    let python = &mut start();
    let line = Line::new();
    let code = "import threading\ndef between():\n    line.recv(1)\n    print('between')\n    line.send(b'.')\n\
                threading.Thread(target=between).start()";
    run(python, &(line.connect() + code));
    let mut line = line.accept();
    line.write_all(b".").unwrap();
    line.read_exact(&mut [0]).unwrap();
    let execution = run(python, "print('mine')");
    assert_eq!(execution.outputs, [out("mine\n")]);
    assert_eq!(execution.late, [late(1, "between\n")]);
}

#[test]
fn late_output_of_a_child_process() {
    let python = &mut start();
    let code = "import subprocess\np = subprocess.Popen(['sh', '-c', 'echo early; echo up >&2; read x; echo late; read x'], stdin=subprocess.PIPE, stderr=subprocess.PIPE)\np.stderr.readline()";
    assert_eq!(run(python, code).outputs, [out("early\n")]);
    let all: Vec<_> = [
        "import os\nos.write(1, b'my ')\np.stdin.write(b'\\n'), p.stdin.flush()\nprint('own')",
        "p.communicate(b'\\n')\nprint('too')",
        "0",
    ]
    .map(|code| run(python, code))
    .into();
    assert_eq!(all[0].outputs, [out("my own\n")]);
    assert_eq!(all[1].outputs, [out("too\n")]);
    let late: Vec<_> = all.iter().flat_map(|e| &e.late).cloned().collect();
    assert_eq!(late, [self::late(1, "late\n")]);
}

#[test]
fn what_a_cell_writes_last_is_not_missed() {
    let python = &mut start();
    for _ in 0..300 {
        let execution = run(python, "import os\nprint('a')\nos.write(1, b'b');");
        assert_eq!(execution.stdout(), "a\nb");
    }
}

#[test]
fn forks_write_like_any_process() {
    let python = &mut start();
    let code = "import os, sys\nprint('once', end='')\nif (pid := os.fork()) == 0:\n    print('child')\n    os._exit(0)\n\
                os.waitpid(pid, 0)\nprint('parent')";
    assert_eq!(run(python, code).stdout(), "oncechild\nparent\n");
    // A fork that comes back from its cell would be a second driver on the same channel.
    let code = "pid = os.fork()\nif pid: status = os.waitpid(pid, 0)[1]\npid > 0 and status";
    let execution = run(python, code);
    assert_eq!((execution.text(), &*execution.outputs), (Some("0"), &[][..]));
    let code = "import multiprocessing as mp\ndef sq(x): return x * x\n\
                with mp.get_context('fork').Pool(2) as p: r = p.map(sq, range(4))\nr";
    shows(python, code, Some("[0, 1, 4, 9]"));
}

// ---- time -----------------------------------------------------------------------------------------

#[test]
fn interrupted_cell_keeps_its_state() {
    let python = &mut start();
    for (code, printed) in [
        ("import time\nx = 1\nprint('start')\ntime.sleep(60)", "start\n"),
        ("x = 1\ntry:\n    while True: pass\nexcept Exception:\n    print('swallowed')", ""),
        ("x = 1\ntry:\n    time.sleep(60)\nfinally:\n    print('finally')", "finally\n"),
        ("x = 1\nimport subprocess\nsubprocess.run(['sleep', '60'])", ""),
        ("x = 1\nimport threading\nthreading.Event().wait()", ""),
        ("x = 1\nclass R:\n    def __repr__(self):\n        while True: pass\nR()", ""),
    ] {
        let execution = python.execute(code, &limit(100)).unwrap();
        assert!(execution.timed_out, "{code}");
        let error = execution.error.as_ref().unwrap();
        assert_eq!((&*error.name, &*error.value), ("KeyboardInterrupt", ""), "{code}");
        assert!(!error.traceback.contains("sessile"), "{}", error.traceback);
        assert_eq!(execution.stdout(), printed, "{code}");
        shows(python, "x", Some("1"));
    }
    let code = "class X(Exception):\n    def __str__(self):\n        while True: pass\nraise X";
    let execution = python.execute(code, &limit(100)).unwrap();
    assert_eq!(execution.error.unwrap().name, "X");
    shows(python, "x", Some("1"));
}

#[test]
fn cell_that_ignores_interrupt() {
    let mut python = CPythonManager::new().grace(Duration::from_millis(100)).start().unwrap();
    for code in [
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('start')\nwhile True: pass",
        "print('start')\nimport time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass",
        "print('start')\nsum(range(10**12))",
        "print('start')\nimport os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    ] {
        let before = Instant::now();
        let error = python.execute(code, &limit(200)).unwrap_err();
        assert!(before.elapsed() < Duration::from_secs(20));
        assert!(error.is_timeout() && error.is_dead() && error.state_lost(), "{error}");
        assert_eq!(error.outputs(), [out("start\n")], "{code}");
        let error = python.run("1").unwrap_err();
        assert!(error.state_lost() && !error.is_timeout());
        assert!(CPythonManager::new().has_broken(&mut python));
        python.reset().unwrap();
        assert_eq!(run(&mut python, "1").execution_count, 1);
    }
}

#[test]
fn interrupted_from_another_thread_at_any_moment() {
    let mut python = start();
    let handle = python.interrupt_handle();
    let (stop, stopped) = mpsc::channel::<()>();
    let storm = thread::spawn(move || {
        let mut pause = 0;
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            handle.interrupt();
            // Now early in a cell, now late; never faster than Python handles signals.
            pause = (pause + 137) % 4000;
            thread::sleep(Duration::from_micros(200 + pause));
        }
        handle
    });
    let (mut interrupted, mut n) = (0, 0);
    while interrupted < 100 {
        n += 1;
        let lines = format!("for i in range(50): print('line', i)\n{n}");
        // More than the channel holds, so that some are hit in the middle of a frame.
        let flood = format!("print('y' * 4_000_000)\n{n}");
        let execution = run(&mut python, if n % 2 == 0 { &lines } else { &flood });
        match &execution.error {
            None => {
                assert_eq!(execution.text(), Some(&*n.to_string()));
                let length = if n % 2 == 0 { 390 } else { 1 << 20 };
                assert_eq!(execution.stdout().len(), length);
            }
            Some(error) => {
                assert_eq!(error.name, "KeyboardInterrupt");
                interrupted += 1;
            }
        }
        assert!(!execution.timed_out);
    }
    drop(stop);
    let handle = storm.join().unwrap();
    shows(&mut python, "'alive'", Some("'alive'"));
    drop(python);
    handle.interrupt(); // nobody is there, and nobody is hit
}

// ---- death ----------------------------------------------------------------------------------------

#[test]
fn child_killed_in_mid_cell() {
    for (code, how) in [
        ("import os\nprint('bye')\nos._exit(3)", "exit status: 3"),
        ("import os, signal\nprint('bye')\nos.kill(os.getpid(), signal.SIGKILL)", "signal: 9"),
        ("import ctypes\nprint('bye')\nctypes.string_at(0)", "signal: 11"),
        ("import os\nprint('bye')\nos.abort()", "signal: 6"),
    ] {
        let mut python = start();
        run(&mut python, "q = 1");
        let error = python.run(code).unwrap_err();
        assert!(error.is_dead() && error.state_lost() && !error.is_timeout(), "{error}");
        assert!(error.to_string().contains(how), "{error}");
        assert_eq!(error.outputs(), [out("bye\n")], "{code}");
        assert!(!python.is_alive());
        python.reset().unwrap();
        shows(&mut python, "'q' in dir()", Some("False"));
    }
}

#[test]
fn child_dies_between_cells() {
    let mut python = start();
    let line = Line::new();
    run(
        &mut python,
        &(line.connect()
            + "import os, threading\nthreading.Thread(target=lambda: (line.recv(1), os._exit(0))).start()"),
    );
    let mut line = line.accept();
    assert!(CPythonManager::new().is_valid(&mut python).is_ok());
    line.write_all(b".").unwrap();
    gone(line);
    poll_until("its end is known", || !python.is_alive());
    assert!(CPythonManager::new().is_valid(&mut python).is_err());
    let error = python.run("1").unwrap_err();
    assert!(error.is_dead() && error.state_lost(), "{error}");
}

#[test]
fn cell_meddles_with_the_channel() {
    for code in [
        "import os\nos.closerange(3, 64)",
        "import os\nfor fd in range(3, 10):\n    try: os.write(fd, b'\\xff' * 64)\n    except OSError: pass",
        "import os\nfor fd in range(3, 10):\n    try: os.write(fd, b'r' * 4096)\n    except OSError: pass",
    ] {
        let mut python = CPythonManager::new().grace(Duration::from_millis(100)).start().unwrap();
        let error = python.execute(code, &limit(5000)).unwrap_err();
        assert!(error.state_lost(), "{error}");
        python.reset().unwrap();
        shows(&mut python, "'alive'", Some("'alive'"));
    }
}

#[test]
fn owner_thread_ends() {
    let line = Line::new();
    let code = line.connect();
    thread::spawn(move || {
        let mut python = start();
        run(&mut python, &code);
        std::mem::forget(python); // as when the thread ends without unwinding
    })
    .join()
    .unwrap();
    if cfg!(target_os = "linux") {
        gone(line.accept());
    }
}

#[test]
fn what_cells_started_ends_with_the_child() {
    let mut python = start();
    let line = Line::new();
    let code = "import os, subprocess\nos.set_inheritable(line.fileno(), True)\n\
                subprocess.Popen(['sleep', '600'], close_fds=False)\nline.close()";
    run(&mut python, &(line.connect() + code));
    let line = line.accept();
    drop(python);
    gone(line);
}

#[test]
fn closes_in_order_and_by_force() {
    let line = Line::new();
    let manager = CPythonManager::new().close_timeout(Duration::from_secs(20));
    let mut python = manager.start().unwrap();
    run(
        &mut python,
        &(line.connect() + "import atexit\natexit.register(lambda: line.send(b'bye'))"),
    );
    let mut stream = line.accept();
    manager.close(python, CloseReason::ClosedHere).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "bye");

    let manager = CPythonManager::new().close_timeout(Duration::from_millis(100));
    let mut python = manager.start().unwrap();
    run(&mut python, &(line.connect() + "import atexit, time\natexit.register(time.sleep, 600)"));
    let stream = line.accept();
    let error = manager.close(python, CloseReason::ClosedHere).unwrap_err();
    assert!(error.to_string().contains("killed"), "{error}");
    gone(stream);
}

#[test]
fn programs_that_are_no_python() {
    for (program, why) in [
        ("/no/such/python", "cannot be run"),
        ("false", "ended at once"),
        ("sleep", "ended at once (exit status: 1): sleep: "),
    ] {
        let error = CPythonManager::new().python(program).start().unwrap_err();
        assert!(error.is_start() && error.is_dead() && !error.state_lost());
        assert!(error.to_string().contains(why), "{error}");
    }
    let manager = CPythonManager::new().python("sh").start_timeout(Duration::from_millis(200));
    let error = manager.clone().arg("-c").arg("sleep 600").start().unwrap_err();
    assert!(error.to_string().contains("not ready within"), "{error}");
    let error = manager.arg("-c").arg("echo nonsense; exec sleep 600").start().unwrap_err();
    assert!(error.is_start(), "{error}");
}

#[test]
fn settings_reach_the_child() {
    let mut python =
        CPythonManager::new().arg("-I").env("SESSILE_TEST", "1").current_dir("/").start().unwrap();
    let code = "import os, sys\nos.environ['SESSILE_TEST'], os.getcwd(), sys.flags.isolated";
    shows(&mut python, code, Some("('1', '/', 1)"));
    assert_eq!(python.version().split('.').next(), Some("3"));
}

// ---- settings -------------------------------------------------------------------------------------

#[test]
fn files_go_in_and_out() {
    let manager = CPythonManager::new().private_dir();
    let mut python = manager.start().unwrap();
    let dir = python.private_dir().unwrap().to_owned();
    shows(&mut python, "import os\noct(os.stat('.').st_mode)", Some("'0o40700'")); // nobody else's
    python.put_file("in/data.csv", "a,b\n1,2\n").unwrap();
    let code = "import os, pathlib\n\
                pathlib.Path('out.txt').write_text(pathlib.Path('in/data.csv').read_text() + 'x')\n\
                os.symlink('/etc/passwd', 'leak')\nos.symlink('/etc', 'dir')\nos.getcwd()";
    let execution = run(&mut python, code);
    assert_eq!(
        execution.text().unwrap().trim_matches('\''),
        dir.canonicalize().unwrap().to_str().unwrap()
    );
    assert_eq!(python.take_file("out.txt").unwrap(), b"a,b\n1,2\nx");
    assert_eq!(python.files().unwrap(), [Path::new("in/data.csv"), Path::new("out.txt")]);
    for name in ["/etc/passwd", "../x", "in/../../x", "leak", "dir/passwd"] {
        assert!(python.take_file(name).is_err(), "{name}");
        assert!(python.put_file(name, "no").is_err(), "{name}");
    }
    // Each session has another, and none is left.
    python.reset().unwrap();
    let other = python.private_dir().unwrap().to_owned();
    assert!(dir != other && !dir.exists());
    assert_eq!(python.files().unwrap(), [] as [&Path; 0]);
    drop(python);
    assert!(!other.exists());
    let error = start().put_file("x", "").unwrap_err();
    assert!(error.to_string().contains("no directory"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn memory_and_processor_time_are_limited() {
    let mut python = CPythonManager::new().max_memory(200 << 20).start().unwrap();
    let execution = run(&mut python, "x = bytearray(1 << 30)");
    assert_eq!(execution.error.unwrap().name, "MemoryError");
    shows(&mut python, "len(bytearray(1 << 20))", Some("1048576"));
    let time = Duration::from_millis(900); // whole seconds, and not none
    let mut python = CPythonManager::new().max_cpu_time(time).start().unwrap();
    shows(&mut python, "import resource\nresource.getrlimit(resource.RLIMIT_CPU)[0]", Some("1"));
    let error = python.execute("while True: pass", &limit(60_000)).unwrap_err();
    assert!(error.state_lost() && error.to_string().contains("SIGXCPU"), "{error}");
}

#[test]
fn a_virtual_environment_is_a_setting() {
    let home = std::env::temp_dir().join(format!("sessile-test-venv-{}", std::process::id()));
    let made = std::process::Command::new("python3")
        .args(["-m", "venv", "--without-pip", "--symlinks"])
        .arg(&home)
        .status();
    assert!(made.unwrap().success());
    let mut python = CPythonManager::new().virtual_env(&home).start().unwrap();
    let code = "import shutil, sys\nsys.prefix, shutil.which('python')";
    let home_text = home.display();
    shows(&mut python, code, Some(&format!("('{home_text}', '{home_text}/bin/python')")));
    drop(python);
    std::fs::remove_dir_all(home).unwrap();
}

// ---- spares ---------------------------------------------------------------------------------------

fn pid(python: &mut CPython) -> String {
    run(python, "import os\nos.getpid()").text().unwrap().to_owned()
}

/// The children that threads which keep spares have started.
fn of_the_keeper() -> String {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let read = |task: &std::fs::DirEntry, file: &str| {
        std::fs::read_to_string(task.path().join(file)).unwrap_or_default()
    };
    let keepers = tasks.filter(|task| read(task, "comm").starts_with("sessile-spares"));
    keepers.map(|task| read(&task, "children")).collect()
}

#[test]
fn spares_are_adopted_whole() {
    let manager = CPythonManager::new().private_dir().spares(2);
    assert!(manager.warm_up(Duration::from_secs(60)));
    let spares = of_the_keeper();
    let mut python = manager.start().unwrap();
    let first = pid(&mut python);
    #[cfg(target_os = "linux")]
    assert!(spares.split(' ').any(|spare| spare == first), "{first} is none of {spares}");
    run(&mut python, "mine = 1");
    // An adopted session is like any: it stops, it is reset, and it is its own.
    assert!(python.execute("while True: pass", &limit(100)).unwrap().timed_out);
    assert!(manager.warm_up(Duration::from_secs(60)));
    let spares = of_the_keeper();
    python.reset().unwrap();
    let second = pid(&mut python);
    assert_ne!(second, first);
    #[cfg(target_os = "linux")]
    assert!(spares.split(' ').any(|spare| spare == second), "{second} is none of {spares}");
    shows(&mut python, "'mine' in dir()", Some("False"));
    // Threads that start at once get one each, whether there are enough or not.
    let pids = thread::scope(|s| {
        let threads: Vec<_> = (0..4)
            .map(|_| s.spawn(|| manager.start().map(|mut python| pid(&mut python))))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap().unwrap()).collect::<HashSet<_>>()
    });
    assert_eq!(pids.len(), 4);
}

#[test]
fn an_adopted_session_outlives_its_managers() {
    let manager = CPythonManager::new().spares(1);
    assert!(manager.warm_up(Duration::from_secs(60)));
    let mut python = manager.start().unwrap();
    drop(manager);
    shows(&mut python, "1 + 1", Some("2"));
}

#[test]
fn spares_that_cannot_start_hold_nobody_up() {
    let manager = CPythonManager::new().python("false").spares(1);
    assert!(!manager.warm_up(Duration::from_millis(50)));
    assert!(manager.start().unwrap_err().is_start());
}
