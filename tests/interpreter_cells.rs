//! What cells that models write do to the CPython engine, on the oldest and the newest Python found.

#![cfg(all(feature = "cpython", unix))]

#[path = "support/pythons.rs"]
mod pythons;
mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sessile::Manager;
use sessile::interpreter::cpython::{CPython, CPythonManager};
use sessile::interpreter::{ExecuteOptions, Execution, Interpreter, Keep, Output, StdStream};
use sessile::manager::CloseReason;
use support::poll_until;

fn run(python: &mut CPython, code: &str) -> Execution {
    python.run(code).unwrap_or_else(|error| panic!("{error}: {:?}\n{code}", error.outputs()))
}

fn limit(millis: u64) -> ExecuteOptions {
    ExecuteOptions::new().timeout(Duration::from_millis(millis))
}

#[track_caller]
fn shows(python: &mut CPython, code: &str, text: Option<&str>) -> Execution {
    let execution = run(python, code);
    assert_eq!(execution.error, None, "{code}");
    assert_eq!(execution.text(), text, "{code}");
    execution
}

/// Runs a test on a session of each Python.
fn on_each(test: impl Fn(&mut CPython)) {
    on_each_with(CPythonManager::new(), test);
}

fn on_each_with(manager: CPythonManager, test: impl Fn(&mut CPython)) {
    for found in pythons::oldest_and_newest() {
        println!("{}", found.name());
        test(&mut manager.clone().python(&found.program).start().unwrap());
    }
}

/// A directory of a test's own.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("sessile-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

// ---- start ----------------------------------------------------------------------------------------

#[test]
fn an_error_is_told_on_every_python() {
    for found in pythons::all().iter().filter(|found| found.version >= pythons::OLDEST) {
        let mut python = CPythonManager::new().python(&found.program).start().unwrap();
        assert_eq!(python.version(), found.name());
        let error = run(&mut python, "def f(): 1/0\nf()").error.unwrap();
        assert_eq!((&*error.name, &*error.value), ("ZeroDivisionError", "division by zero"));
        assert!(error.traceback.contains("<cell 1>\", line 1, in f"), "{}", error.traceback);
        assert!(error.traceback.ends_with("ZeroDivisionError: division by zero"));
    }
}

#[test]
fn a_python_that_is_too_old_is_refused_by_its_version() {
    for found in pythons::all().iter().filter(|found| found.version < pythons::OLDEST) {
        let error = CPythonManager::new().python(&found.program).start().unwrap_err();
        assert!(error.is_start());
        let expected =
            format!("Python 3.9 or newer is needed, and this is Python {}", found.name());
        assert!(error.to_string().ends_with(&expected), "{error}");
    }
}

#[test]
fn files_called_like_the_standard_librarys_disturb_cells_only() {
    let dir = Dir::new("shadows");
    let names = [
        "json",
        "select",
        "signal",
        "linecache",
        "traceback",
        "re",
        "struct",
        "threading",
        "ast",
        "textwrap",
        "tokenize",
        "asyncio",
        "subprocess",
        "inspect",
        "getpass",
        "selectors",
        "io",
        "os",
        "timeit",
        "shlex",
        "importlib",
        "collections",
        "types",
        "codeop",
        "contextlib",
    ];
    for name in names {
        fs::write(dir.0.join(format!("{name}.py")), "raise SystemExit('of the directory')")
            .unwrap();
    }
    fs::write(dir.0.join("helper.py"), "value = 7").unwrap();
    on_each_with(CPythonManager::new().current_dir(&dir.0), |python| {
        for _ in 0..2 {
            let error = run(python, "1/0").error.unwrap();
            assert!(error.traceback.contains("1/0"), "{}", error.traceback);
            shows(python, "import helper; helper.value", Some("7"));
            shows(python, "async def f(): return 2\nawait f()", Some("2"));
            assert_eq!(run(python, "!echo hi").stdout(), "hi\n");
            shows(python, "%timeit -n 1 -r 1 1", None);
            shows(python, "len?", None);
            // What the driver has not imported is theirs.
            let error = run(python, "import codeop").error.unwrap();
            assert_eq!(error.value, "of the directory");
            python.reset().unwrap();
        }
    });
}

#[test]
fn a_working_directory_that_is_not_there_is_named() {
    let error = CPythonManager::new().current_dir("/no/such/place").start().unwrap_err();
    let said = error.to_string();
    assert!(said.contains("the working directory /no/such/place does not exist"), "{said}");
    let error = CPythonManager::new().current_dir("/etc/passwd").start().unwrap_err();
    assert!(error.to_string().contains("/etc/passwd is no directory"), "{error}");
}

// ---- memory ---------------------------------------------------------------------------------------

#[cfg(target_os = "linux")]
#[test]
fn many_small_objects_are_a_memory_error_and_the_state_is_kept() {
    for megabytes in [64, 100, 200] {
        on_each_with(CPythonManager::new().max_memory(megabytes << 20), |python| {
            run(python, "keep = 7");
            for code in [
                "d = {}\ni = 0\nwhile True:\n    d[i] = str(i)\n    i += 1",
                "d = []\ndef grow():\n    while True: d.append({'a': [1], 'b': object()})\ngrow()",
                "class Node: pass\nd = n = Node()\nwhile True:\n    n.next = Node()\n    n = n.next",
            ] {
                let execution = python.execute(code, &limit(60_000)).unwrap();
                let error = execution.error.as_ref().expect("it grows without end");
                assert_eq!(error.name, "MemoryError", "{execution:?}");
                shows(python, "keep", Some("7"));
                // What makes an iteration through the chain: not one by one, by a recursion in C.
                run(python, "while hasattr(d, 'next'): d = d.next\nd = n = None");
                shows(python, "len(bytearray(1 << 20)), keep", Some("(1048576, 7)"));
            }
        });
    }
}

// ---- streams --------------------------------------------------------------------------------------

#[test]
fn a_stdout_of_the_cells_own_is_flushed_and_may_be_closed() {
    on_each(|python| {
        for put in [
            "sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')",
            "sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8')",
            "sys.stdout = codecs.getwriter('utf-8')(sys.__stdout__.buffer)",
            "sys.stdout = os.fdopen(os.dup(1), 'w')",
            "sys.stdout = open(1, 'w', closefd=False)",
            "sys.stdout = os.fdopen(1, 'w')",
        ] {
            let first = format!("import codecs, io, os, sys\n{put}\nprint('first')");
            // The second time the first file is finalized, which closes its descriptor for both.
            let times = if put.contains("fdopen(1,") { 1 } else { 2 };
            for _ in 0..times {
                assert_eq!(run(python, &first).stdout(), "first\n", "{put}");
                assert_eq!(run(python, "print('second')").stdout(), "second\n", "{put}");
            }
            run(python, "sys.stdout.close()");
            assert_eq!(run(python, "print('third')").stdout(), "third\n", "{put}");
            run(python, "sys.stdout = sys.__stdout__");
            assert_eq!(run(python, "print('fourth')").stdout(), "fourth\n", "{put}");
        }
        for code in [
            "import sys; del sys.stdout",
            "import sys; del sys.stdout, sys.stderr, sys.stdin",
            "import sys; del sys.__stdout__, sys.stdout",
            "import sys\nclass Odd:\n    def write(self, text): pass\nsys.stdout = Odd()",
        ] {
            run(python, code);
            run(
                python,
                "import sys\nif type(sys.stdout).__name__ == 'Odd': sys.stdout = sys.__stdout__",
            );
            assert_eq!(run(python, "print('back')").stdout(), "back\n", "{code}");
        }
    });
}

#[test]
fn late_output_that_is_too_long_is_cut_and_not_dropped() {
    on_each(|python| {
        let code = "import threading, sys\ngo, done = threading.Event(), threading.Event()\n\
                    def late():\n    go.wait()\n    print('x' * 300_000)\n    done.set()\n\
                    t = threading.Thread(target=late)\nt.start()";
        run(python, code);
        let execution = run(python, "go.set()\ndone.wait()\nt.join()");
        let late: String = execution.late.iter().map(|late| &*late.text).collect();
        assert!(late.len() > 60_000 && late.chars().all(|c| c == 'x'), "{}", late.len());
        assert!(execution.truncated);
    });
}

#[test]
fn long_output_keeps_both_ends_and_says_what_is_between() {
    on_each(|python| {
        let options = ExecuteOptions::new().max_output(200);
        let code = "for n in range(10_000): print('line', n)";
        let execution = python.execute(code, &options).unwrap();
        let text = execution.stdout();
        assert!(text.starts_with("line 0\n") && text.ends_with("line 9999\n"), "{text}");
        let gone = execution.cut.unwrap().bytes as usize;
        assert_eq!(gone + text.len(), 98_890);
        assert!(execution.to_markdown().contains("[... 98,690 bytes left out ...]"));
        let tail = python.execute(code, &options.keep(Keep::Tail)).unwrap().stdout();
        assert!(tail.len() == 200 && tail.ends_with("line 9999\n"));
        let head = python.execute(code, &options.keep(Keep::Head)).unwrap().stdout();
        assert!(head.len() == 200 && head.starts_with("line 0\n"));
    });
}

// ---- display --------------------------------------------------------------------------------------

#[test]
fn images_have_a_limit_of_their_own_and_what_is_left_out_is_named() {
    on_each(|python| {
        let options = ExecuteOptions::new().max_output(20_000);
        run(
            python,
            "class P:\n    def _repr_png_(self): return b'x' * 16_000\n    def __repr__(self): return 'P'",
        );
        for code in ["display(P())", "P()"] {
            let execution = python.execute(code, &options).unwrap();
            assert!(!execution.truncated && execution.omitted.is_empty(), "{code}");
            let small = options.max_data(20_000);
            let execution = python.execute(code, &small).unwrap();
            assert!(execution.truncated, "{code}");
            let [left_out] = &*execution.omitted else { panic!("{execution:?}") };
            assert_eq!((&*left_out.mime, left_out.bytes), ("image/png", 21_336));
            let md = execution.to_markdown();
            assert!(md.contains("[left out: image/png, 21,336 bytes, more than allowed]"), "{md}");
            assert!(md.contains("P\n"), "its text is there: {md}");
        }
        // In sum, too.
        let code = "for _ in range(3): display(P())";
        let execution = python.execute(code, &options.max_data(50_000)).unwrap();
        assert_eq!((execution.outputs.len(), execution.omitted.len()), (3, 1));
    });
}

#[test]
fn a_form_that_fails_spoils_only_itself() {
    on_each(|python| {
        let code = "class Row:\n    def _repr_html_(self): raise RuntimeError('no template')\n    \
                    def _repr_latex_(self): return '$r$'\n    def __repr__(self): return 'Row(1)'\nRow()";
        let execution = shows(python, code, Some("Row(1)"));
        assert_eq!(execution.result.unwrap()["text/latex"], "$r$");
        let said = execution.outputs.iter().find_map(|output| match output {
            Output::Stderr { text } => Some(text),
            _ => None,
        });
        assert!(said.unwrap().contains("RuntimeError: no template"));
        let execution = run(python, "display(Row())\nprint('on')");
        assert!(execution.is_ok() && execution.stdout() == "on\n", "{execution:?}");
        // A class that is shown is no value of it, and who has every name has none of ours.
        shows(python, "Row", Some("<class '__main__.Row'>"));
        let code = "class Any:\n    def __getattr__(self, name): return lambda *a, **k: 1 / 0\n    \
                    def __repr__(self): return 'Any'\nAny()";
        shows(python, code, Some("Any"));
    });
}

#[test]
fn mime_bundles_are_asked_as_ipython_asks() {
    on_each(|python| {
        let code = "class Table:\n    def _repr_mimebundle_(self, include, exclude):\n        \
                    return {'text/html': '<p>t</p>', 'text/plain': 'T'}, {'meta': 1}\nTable()";
        let execution = shows(python, code, Some("T"));
        assert_eq!(execution.result.unwrap()["text/html"], "<p>t</p>");
        let code = "display({'text/plain': 'plain', 'application/vnd.plotly.v1+json': {'data': []}}, raw=True)";
        let execution = run(python, code);
        let [Output::Display { data }] = &*execution.outputs else { panic!("{execution:?}") };
        assert_eq!(data["application/vnd.plotly.v1+json"]["data"].as_array().unwrap().len(), 0);
        let code = "h = display('a', display_id=True)\nh.update('b')\nh.display('c')\nprint('done')\n\
                    display('d', display_id='mine').display_id";
        let execution = shows(python, code, Some("'mine'"));
        let shown = execution.outputs.iter().filter_map(|output| match output {
            Output::Display { data } => data["text/plain"].as_str(),
            _ => None,
        });
        assert_eq!(shown.collect::<Vec<_>>(), ["'a'", "'b'", "'c'", "'d'"]);
        let code = "class Own:\n    def _ipython_display_(self): print('by itself')\nOwn()";
        assert_eq!(shows(python, code, None).stdout(), "by itself\n");
        let execution = run(python, "display(Table(), exclude=['text/html'])");
        let [Output::Display { data }] = &*execution.outputs else { panic!("{execution:?}") };
        assert!(!data.contains_key("text/html"), "{data:?}");
    });
}

// ---- processes, files, signals, tracers -----------------------------------------------------------

#[cfg(target_os = "linux")]
#[test]
fn detached_processes_end_with_the_session_unless_they_are_to_stay() {
    let code =
        "import subprocess\np = subprocess.Popen(['sleep', '600'], start_new_session=True)\np.pid";
    let lives = |pid: &str| {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    let manager = CPythonManager::new();
    for ends in ["close", "drop", "reset", "kill"] {
        let mut python = manager.start().unwrap();
        let pid = run(&mut python, code).text().unwrap().to_owned();
        assert!(lives(&pid));
        match ends {
            "close" => manager.close(python, CloseReason::ClosedHere).unwrap(),
            "drop" => drop(python),
            "reset" => python.reset().unwrap(),
            _ => assert!(python.run("import os; os.kill(os.getpid(), 9)").is_err()),
        }
        poll_until(ends, || !lives(&pid));
    }
    let manager = CPythonManager::new().keep_detached(true);
    let mut python = manager.start().unwrap();
    let pid = run(&mut python, code).text().unwrap().to_owned();
    manager.close(python, CloseReason::ClosedHere).unwrap();
    assert!(lives(&pid));
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
}

#[test]
fn only_regular_files_of_a_bounded_size_are_taken() {
    let manager = CPythonManager::new().private_dir().max_file(1 << 20);
    let mut python = manager.start().unwrap();
    let code = "import os, socket\nos.mkfifo('pipe')\nos.mkdir('dir')\n\
                open('sparse', 'w').truncate(1 << 40)\nopen('fits', 'w').truncate(1 << 20)\n\
                socket.socket(socket.AF_UNIX).bind('socket')\nos.symlink('pipe', 'link')";
    assert!(run(&mut python, code).is_ok());
    for name in ["pipe", "dir", "socket", "link"] {
        let error = python.take_file(name).unwrap_err();
        assert!(error.to_string().contains("is no regular file"), "{name}: {error}");
        assert!(python.put_file(name, "x").is_err(), "{name}");
    }
    let error = python.take_file("sparse").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
    assert!(error.to_string().contains("1099511627776 of 1048576 bytes"), "{error}");
    assert_eq!(python.take_file("fits").unwrap().len(), 1 << 20);
}

#[test]
fn a_signal_handler_that_raises_between_cells_is_told_and_costs_nothing() {
    on_each(|python| {
        let code = "import signal, threading, os, time\nkeep = 7\n\
                    def too_late(*_): raise TimeoutError('mine')\n\
                    signal.signal(signal.SIGALRM, too_late)\n\
                    signal.signal(signal.SIGUSR1, lambda *_: None)\n\
                    signal.getsignal(signal.SIGALRM) is too_late";
        shows(python, code, Some("True"));
        // In a cell it raises there.
        let error =
            run(python, "os.kill(os.getpid(), signal.SIGALRM)\ntime.sleep(60)").error.unwrap();
        assert_eq!((&*error.name, &*error.value), ("TimeoutError", "mine"));
        let pid = run(python, "os.getpid()").text().unwrap().to_owned();
        // Whether it comes while the driver waits or works, it is told once, by some cell after it.
        let mut told = String::new();
        for _ in 0..20 {
            assert!(Command::new("kill").args(["-ALRM", &pid]).status().unwrap().success());
            let mut found = false;
            while !found {
                let execution = run(python, "keep");
                if let Some(error) = &execution.error {
                    assert_eq!(error.name, "TimeoutError", "it came as the cell began");
                    found = true;
                } else {
                    assert_eq!(execution.text(), Some("7"));
                    for late in &execution.late {
                        told.push_str(&late.text);
                        found = true;
                    }
                }
            }
        }
        assert!(told.contains("TimeoutError: mine"), "{told}");
        assert!(!told.contains("sessile"), "{told}");
    });
}

#[test]
fn a_tracer_sees_no_function_of_the_drivers_and_ends_nothing() {
    on_each(|python| {
        for which in ["settrace", "setprofile"] {
            let code = format!(
                "import sys\nseen = []\ndef tracer(frame, event, arg):\n    \
                 seen.append(frame.f_code.co_filename)\n    return tracer\n\
                 def work(): print('in')\nsys.{which}(tracer)\nwork()\n\
                 same = sys.get{0}() is tracer\nsys.{which}(None)\nsame, len(seen) > 0, \
                 [name for name in seen if 'cell' not in name]",
                &which[3..]
            );
            shows(python, &code, Some("(True, True, [])"));
            let code = format!("sys.{which}(tracer)\nwork()");
            run(python, &code);
            run(python, "1/0");
            shows(
                python,
                &format!("sys.{which}(None)\n[n for n in seen if 'cell' not in n]"),
                Some("[]"),
            );
            let code =
                format!("def bad(*_): raise RuntimeError('traced')\nsys.{which}(bad)\nwork()");
            assert_eq!(run(python, &code).error.unwrap().name, "RuntimeError");
            run(python, &format!("sys.{which}(None)"));
            shows(python, "1", Some("1"));
        }
    });
}

// ---- errors ---------------------------------------------------------------------------------------

#[test]
fn the_last_line_of_an_error_is_kept_under_any_limit() {
    on_each(|python| {
        let code = "def f(n):\n    if n == 0: raise KeyError('the key')\n    f(n - 1) if n % 2 else f(n - 1)\nf(40)";
        for bytes in [25, 100, 200] {
            let options = ExecuteOptions::new().max_output(bytes);
            let execution = python.execute(code, &options).unwrap();
            let error = execution.error.as_ref().unwrap();
            assert!(error.traceback.ends_with("KeyError: 'the key'"), "{}", error.traceback);
            assert!(error.traceback.len() <= bytes && execution.truncated);
        }
        let options = ExecuteOptions::new().max_output(600);
        let error =
            python.execute("raise ValueError('x' * 5000)", &options).unwrap().error.unwrap();
        assert!(error.traceback.contains("ValueError: xxx"), "{}", error.traceback);
    });
}

#[test]
fn errors_show_the_cells_own_lines() {
    on_each(|python| {
        let traceback = |execution: Execution| execution.error.expect("it fails").traceback;
        run(python, "import asyncio\nasync def inner():\n    await asyncio.sleep(60)");
        let shown = traceback(python.execute("x = 1\nawait inner()", &limit(200)).unwrap());
        assert!(shown.contains("line 2, in <module>\n    await inner()"), "{shown}");
        assert!(shown.contains("in inner\n    await asyncio.sleep(60)"), "{shown}");
        assert!(shown.ends_with("KeyboardInterrupt"), "{shown}");
        let code =
            "class E(Exception):\n    def __str__(self): raise ValueError\ndef g(): raise E\ng()";
        let shown = traceback(run(python, code));
        assert!(shown.contains("in g\n    def g(): raise E"), "{shown}");
        assert!(shown.ends_with("E: <exception str() failed>"), "{shown}");
        for (code, line) in [
            ("x = 1\nreturn x", "return x"),
            ("def f():\n    nonlocal y", "nonlocal y"),
            ("break", "break"),
        ] {
            let shown = traceback(run(python, code));
            assert!(shown.contains(&format!("    {line}")), "{shown}");
        }
    });
}

// ---- what models write ----------------------------------------------------------------------------

#[test]
fn ipythons_commonest_magics_are_there() {
    let dir = Dir::new("magics");
    on_each_with(CPythonManager::new().current_dir(&dir.0), |python| {
        assert_eq!(run(python, "n = 3\n!echo {n} $n {n * 2} '{{x}}'").stdout(), "3 3 6 {x}\n");
        shows(python, "x = !echo a; echo b >&2\nx", Some("['a', 'b']"));
        shows(python, "x.n, _exit_code", Some("('a\\nb', 0)"));
        shows(python, "!exit 3\n_exit_code", Some("3"));
        shows(python, "if True:\n    y = %pwd\n    !true\nlen(y) > 0", Some("True"));
        shows(python, "def f():\n    inner = 'seen'\n    !echo {inner}\nf()", None);
        shows(python, "%env SESSILE_X=1 2\nimport os\nos.environ['SESSILE_X']", Some("'1 2'"));
        shows(python, "%env SESSILE_X", Some("'1 2'"));
        let execution = shows(python, "%time sum(range(10))", Some("45"));
        assert!(execution.stdout().starts_with("CPU times: "), "{execution:?}");
        let execution = shows(python, "%%time\nz = 1\nz + 1", Some("2"));
        assert!(execution.stdout().contains("Wall time: "), "{execution:?}");
        let execution = shows(python, "%timeit -n 5 -r 2 sum(range(10))", None);
        assert!(execution.stdout().contains("2 runs, 5 loops each"), "{execution:?}");
        assert_eq!(run(python, "%%bash\necho one\necho two").stdout(), "one\ntwo\n");
        let error = run(python, "%%bash\nexit 3").error.unwrap();
        assert_eq!(error.name, "CalledProcessError");
        assert_eq!(run(python, "%%writefile f.txt\nhello\n").stdout(), "Writing f.txt\n");
        shows(python, "open('f.txt').read()", Some("'hello\\n'"));
        assert_eq!(run(python, "%%writefile -a f.txt\nmore").stdout(), "Appending to f.txt\n");
        run(python, "import os\nos.remove('f.txt')");
        shows(python, "%%capture caught\nprint('hidden')", None);
        shows(python, "caught.stdout", Some("'hidden\\n'"));
        shows(
            python,
            "%matplotlib inline\n%config InlineBackend.figure_format = 'retina'\n1",
            Some("1"),
        );
        let execution = run(python, "def add(a, b):\n    'Adds.'\n    return a + b\nadd?");
        let [Output::Display { data }] = &*execution.outputs else { panic!("{execution:?}") };
        let told = data["text/plain"].as_str().unwrap();
        assert!(
            told.contains("Signature: add(a, b)") && told.contains("Docstring: Adds."),
            "{told}"
        );
        let execution = run(python, "add??");
        assert!(execution.to_markdown().contains("return a + b"), "{execution:?}");
        assert_eq!(run(python, "nothing?").stdout(), "Object `nothing` not found.\n");
        assert!(run(python, "%pip --version").stdout().starts_with("pip "));
        // Lines count as they were written.
        let error = run(python, "!true\n%pwd\n1/0").error.unwrap();
        assert!(error.traceback.contains("line 3"), "{}", error.traceback);
        let error = run(python, "%%time\n\n1/0").error.unwrap();
        assert!(error.traceback.contains("line 3, in <module>\n    1/0"), "{}", error.traceback);
        let error = run(python, "%load_ext autoreload").error.unwrap();
        assert_eq!(error.name, "UsageError");
        assert!(error.value.contains("not found. Instead: import"), "{}", error.value);
        // What only looks like one is left alone, and real errors are told.
        shows(
            python,
            "a = 7\nb = (a\n%3)\ntext = '''\n!no\n%no\n'''\nb, text",
            Some("(1, '\\n!no\\n%no\\n')"),
        );
        let error = run(python, "!echo hi\nif True print(1)").error.unwrap();
        assert_eq!(error.name, "SyntaxError");
        assert!(error.value.contains("line 2"), "{}", error.value);
        run(python, "%cd /");
        shows(python, "os.getcwd()", Some("'/'"));
        run(python, "%cd -");
        shows(python, "os.getcwd() != '/'", Some("True"));
    });
}

#[test]
fn magics_can_be_switched_off() {
    on_each_with(CPythonManager::new().magics(false), |python| {
        for code in ["!ls", "x = !ls", "%time 1", "%%bash\nls", "len?", "if True:\n    !ls"] {
            let error = run(python, code).error.unwrap();
            assert_eq!(error.name, "SyntaxError", "{code}");
            assert!(error.value.contains("switched off"), "{}", error.value);
            assert!(error.value.contains("subprocess.run"), "{}", error.value);
        }
    });
}

#[test]
fn a_task_runs_between_cells_and_its_output_is_its_cells() {
    on_each(|python| {
        let code = "import asyncio\nloop_of = lambda: asyncio.get_event_loop()\n\
                    done = []\nasync def work(n):\n    await asyncio.sleep(0.01)\n    \
                    print('from', n)\n    done.append(n)\n    return n\n\
                    task = asyncio.create_task(work(1))\nboth = asyncio.gather(work(2), work(3))";
        assert!(shows(python, code, None).outputs.is_empty());
        // They run while nobody asks for anything; each question may interrupt them, none ends them.
        let mut late = Vec::new();
        loop {
            std::thread::sleep(Duration::from_millis(5));
            let execution = run(python, "print('mine')\nlen(done)");
            assert_eq!(execution.stdout(), "mine\n");
            late.extend(execution.late.iter().cloned());
            if execution.text() == Some("3") {
                break;
            }
        }
        late.extend(run(python, "0").late.iter().cloned());
        assert!(late.iter().all(|late| late.cell == 1), "{late:?}");
        let text: String = late.iter().map(|late| &*late.text).collect();
        assert_eq!(text.lines().count(), 3, "{text}");
        shows(python, "await task, await both", Some("(1, [2, 3])"));
        let code = "async def loud():\n    print('a', end='')\n    await asyncio.sleep(0)\n    print('b')\n\
                    t = asyncio.create_task(loud())\nprint('own')\nawait t";
        assert_eq!(shows(python, code, None).stdout(), "own\nab\n");
        // A loop of one's own is still to be had.
        shows(python, "asyncio.run(work(4))", Some("4"));
        shows(python, "await asyncio.create_task(work(5))", Some("5"));
        shows(python, "loop_of().run_until_complete(work(6))", Some("6"));
    });
}

#[test]
fn what_does_not_give_way_between_cells_is_interrupted_for_the_next() {
    let dir = Dir::new("greedy");
    on_each(|python| {
        let task = "async def greedy():\n    open(begun, 'w').close()\n    while True: pass\n\
                    t = asyncio.create_task(greedy())";
        let handler = "def never(*_):\n    open(begun, 'w').close()\n    while True: pass\n\
                       signal.signal(signal.SIGALRM, never)\nsignal.alarm(1)";
        for (code, frame) in [(task, "in greedy"), (handler, "in never")] {
            let begun = dir.0.join(frame);
            let names = format!(
                "import asyncio, signal, time\nbegun = {:?}\n",
                begun.display().to_string()
            );
            let cell = run(python, &(names + code)).execution_count;
            poll_until("it has begun", || begun.exists());
            fs::remove_file(begun).unwrap();
            let execution = run(python, "'next'");
            assert_eq!((execution.error.as_ref(), execution.text()), (None, Some("'next'")));
            let [late] = &*execution.late else { panic!("{execution:?}") };
            assert_eq!((late.cell, late.stream), (cell, StdStream::Stderr), "{late:?}");
            let beginning = "Interrupted, for it did not give way to the next cell:\nTraceback";
            assert!(late.text.starts_with(beginning), "{}", late.text);
            assert!(late.text.contains(frame), "{}", late.text);
            assert!(late.text.ends_with("\nKeyboardInterrupt\n"), "{}", late.text);
        }
        assert!(run(python, "import gc\ndel t\ngc.collect();").outputs.is_empty());
        // One that gives way is never hit, however busy it is.
        let code = "async def busy():\n    for n in range(10):\n        \
                    time.sleep(0.2)\n        await asyncio.sleep(0)\n    return n\n\
                    t = asyncio.create_task(busy())";
        run(python, code);
        shows(python, "await t", Some("9"));
    });
}

/// A child that is stopped, so that whatever is sent to it is seen at once when it goes on.
#[cfg(target_os = "linux")]
struct Stopped(String);

#[cfg(target_os = "linux")]
impl Stopped {
    fn new(python: &mut CPython) -> Self {
        let pid = run(python, "import os\nos.getpid()").text().unwrap().to_owned();
        // It has gone back to its event loop, if it has one: nothing of the cell is left to be done.
        poll_until("it sleeps", || state_of(&format!("/proc/{pid}/stat")) == "S");
        signal(&pid, "STOP");
        poll_until("it is stopped", || state_of(&format!("/proc/{pid}/stat")) == "T");
        Self(pid)
    }
}

#[cfg(target_os = "linux")]
impl Drop for Stopped {
    fn drop(&mut self) {
        signal(&self.0, "CONT");
    }
}

#[cfg(target_os = "linux")]
fn signal(pid: &str, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), pid]).status().unwrap().success());
}

#[cfg(target_os = "linux")]
fn state_of(stat: &str) -> String {
    let stat = fs::read_to_string(stat).unwrap();
    stat.rsplit(") ").next().unwrap()[..1].to_owned()
}

/// Runs a cell on a thread, and the function as soon as that thread waits for the answer.
#[cfg(target_os = "linux")]
fn run_meanwhile(python: &mut CPython, code: &str, meanwhile: impl FnOnce()) -> Execution {
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let runs = scope.spawn(move || {
            tell.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
            run(python, code)
        });
        let stat = format!("/proc/{}/stat", told.recv().unwrap().display());
        poll_until("it waits for the answer", || state_of(&stat) == "S");
        meanwhile();
        runs.join().unwrap()
    })
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_is_for_the_cell_that_ran_when_it_was_sent() {
    let without_loop = "0";
    let with_loop = "import asyncio\nawait asyncio.sleep(0)";
    on_each(|python| {
        let handle = python.interrupt_handle();
        for before in [without_loop, with_loop] {
            run(python, before);
            // None ran: the next is not hit.
            let stopped = Stopped::new(python);
            handle.interrupt();
            let execution = run_meanwhile(python, "'unharmed'", || drop(stopped));
            assert_eq!((execution.error.as_ref(), execution.text()), (None, Some("'unharmed'")));
            // One was sent, and has not begun: it is hit.
            let stopped = Stopped::new(python);
            let execution = run_meanwhile(python, "while True: pass", || {
                handle.interrupt();
                drop(stopped);
            });
            assert_eq!(execution.error.unwrap().name, "KeyboardInterrupt");
            shows(python, "'next'", Some("'next'"));
        }
    });
}

#[test]
fn warnings_never_name_what_runs_the_cells() {
    on_each(|python| {
        let mut told = run(python, "async def never(): pass\nnever()").stderr();
        for code in ["1", "2", "3", "import warnings\nwarnings.warn('w', stacklevel=2)"] {
            told += &run(python, code).stderr();
        }
        assert!(told.contains("coroutine 'never' was never awaited"), "{told}");
        assert!(told.contains("UserWarning: w"), "{told}");
        assert!(!told.contains("sessile"), "{told}");
    });
}

#[test]
fn a_cell_magic_may_stand_below_comments() {
    on_each(|python| {
        let execution = run(python, "\n# First: how long?\n  # Then\n%%time\n\nf'{6 * 7}'");
        assert_eq!((execution.error.as_ref(), execution.text()), (None, Some("'42'")));
        let error = run(python, "# a\n%%time\n\n1 / 0").error.unwrap();
        assert!(error.traceback.contains("line 4"), "{}", error.traceback);
        assert_eq!(run(python, "x = 1\n%%time\nx").error.unwrap().name, "SyntaxError");
    });
}

#[test]
fn large_variables_are_told_short() {
    on_each(|python| {
        let code = "big = list(range(1_000_000))\nd = {n: n for n in range(100)}\nt = 'x' * 10_000\n\
                    class Frame:\n    shape = 3, 4\n    def __len__(self): return 3\n    \
                    def __repr__(self): return 'Frame'\nframe = Frame()\nfew = [1, 2]";
        run(python, code);
        let told = python.variables(&ExecuteOptions::new()).unwrap();
        let find = |name: &str| told.iter().find(|one| one.name == name).unwrap();
        let big = find("big");
        assert_eq!((big.length, &*big.kind), (Some(1_000_000), "list"));
        assert!(big.repr.starts_with("[0, 1, 2") && big.repr.ends_with(", ...]"), "{}", big.repr);
        assert!(find("d").repr.ends_with("29: 29, ...}"), "{}", find("d").repr);
        assert_eq!((find("t").length, find("t").repr.len()), (Some(10_000), 1000));
        assert_eq!(find("frame").shape, Some(vec![3, 4]));
        assert_eq!((&*find("few").repr, find("few").length), ("[1, 2]", Some(2)));
    });
}

/// A cell has the channel in its hands, as descriptor 5, and could write what it likes.
#[test]
fn what_a_cell_forges_costs_this_process_no_more_than_its_limits() {
    let mut python = CPythonManager::new().start().unwrap();
    let forge = "import os, struct\n\
                 p = b'{\"data\":{\"a/b\":[' + b'{\"\":0},' * 1_000_000 + b'0]},\"cut\":false,\"omitted\":[]}'\n\
                 m = struct.pack('>cII', b'd', 1, len(p)) + p\n\
                 while m: m = m[os.write(5, m):]";
    let options = ExecuteOptions::new().timeout(Duration::from_secs(30));
    let error = python.execute(forge, &options).unwrap_err();
    assert!(error.to_string().contains("too many parts"), "{error}");
}

/// However little is shown each time.
#[test]
fn a_cell_that_shows_nothing_without_end_is_bounded() {
    let mut python = CPythonManager::new().start().unwrap();
    let shows = "for i in range(30_000): display({'text/plain': ''}, raw=True)";
    let execution = python.run(shows).unwrap();
    assert!(execution.outputs.len() <= 20_000, "{}", execution.outputs.len());
    assert!(execution.truncated && !execution.omitted.is_empty());
}
