//! One conversation over two engines: Monty first, CPython for what Monty lacks.

#![cfg(all(feature = "monty", feature = "cpython", unix))]

mod support;

use std::time::Duration;

use sessile::Pool;
use sessile::interpreter::cpython::CPythonManager;
use sessile::interpreter::fallback::{Fallback, FallbackManager};
use sessile::interpreter::monty::MontyManager;
use sessile::interpreter::{ExecuteOptions, Execution, Interpreter, Output, OutputRef};
use support::poll_until;

fn start() -> Fallback {
    FallbackManager::default().start()
}

#[track_caller]
fn shows(python: &mut Fallback, code: &str, text: Option<&str>) -> Execution {
    let execution = python.run(code).unwrap();
    assert_eq!(execution.error, None, "{code}");
    assert_eq!(execution.text(), text, "{code}");
    execution
}

#[test]
fn a_session_stays_in_monty_as_long_as_that_suffices() {
    let mut python = start();
    shows(&mut python, "x = [n * n for n in range(4)]\nsum(x)", Some("14"));
    for code in ["1 / 0", "x[9]", "nobody", "{}['k']", "raise ValueError('own')", "x = = 1"] {
        assert!(python.run(code).unwrap().error.is_some());
    }
    let error = python.execute("while True: pass", &limit(50)).unwrap().error.unwrap();
    assert_eq!(error.name, "KeyboardInterrupt");
    assert!(!python.has_fallen_back());
}

#[test]
fn the_conversation_goes_on_with_all_that_it_had() {
    let mut python = start();
    shows(
        &mut python,
        "import math\nfrom math import pi as p\nhalf = 0.5\nbig = 2 ** 20000\n\
         def area(r, scale=-1.5, *more):\n    return p * r * r * scale * half\n\
         class Point:\n    kind = 'point'\n    def norm(self): return math.sqrt(9)\n\
         kept = {'a': [1, (2,), {3}, None, True, b'x\\x00', 'q\\'\"\\n\u{e9}'], 4: ()}\n\
         odd = [float('inf'), float('nan'), set(), frozenset([1]), -7, -(2 ** 70)]\n_under = 1",
        None,
    );
    // What the failed attempt printed is not shown, nor what it did kept.
    let mut shown = Vec::new();
    let mut show = |output: OutputRef<'_>| shown.push(Output::from(output));
    let code = "print('once')\nkept['a'].append(5)\nclass Own(Exception): pass\n\
                kept['a'][-1], area(2), Point().norm(), big == 2 ** 20000";
    let execution = python.execute_with(code, &ExecuteOptions::new(), &mut show).unwrap();
    assert!(python.has_fallen_back());
    assert_eq!(execution.error, None);
    assert_eq!(execution.text(), Some("(5, -9.42477796076938, 3.0, True)"));
    assert_eq!((execution.stdout(), execution.execution_count), ("once\n".to_owned(), 2));
    assert_eq!(shown, execution.outputs);
    shows(&mut python, "len(kept['a']), kept['a'][-2:]", Some("(8, ['q\\'\"\\né', 5])"));
    let text = "[inf, nan, set(), frozenset({1}), -7, -1180591620717411303424]";
    shows(&mut python, "odd", Some(text));
    shows(&mut python, "type(area).__name__, _under, Point.kind", Some("('function', 1, 'point')"));
    let error = python.run("def f(): 1/0\nf()").unwrap().error.unwrap();
    assert!(error.traceback.contains("File \"<cell 6>\", line 1, in f"), "{}", error.traceback);
    let names: Vec<_> = python.variables(&ExecuteOptions::new()).unwrap();
    assert!(names.iter().any(|variable| variable.name == "half" && variable.repr == "0.5"));
}

/// What `docs/interpreters.md` says that Monty lacks, by kind: a cell for each, and its value.
const LACKS: &[(&str, &str, &str)] = &[
    ("syntax", "def g():\n    yield 1\nlist(g())", "[1]"),
    ("syntax", "x = 1\ndel x\n'x' in globals()", "False"),
    ("syntax", "x = [1, 2, 3]\nx[:2] = [0]\nx", "[0, 3]"),
    ("syntax", "match [1, 2]:\n    case [a, b]: c = a + b\nc", "3"),
    ("classes", "class A: pass\nclass B(A): pass\nissubclass(B, A)", "True"),
    (
        "classes",
        "class Own(Exception): pass\ntry:\n    raise Own\nexcept Own as e: name = repr(e)\nname",
        "'Own()'",
    ),
    ("classes", "from enum import Enum\nclass E(Enum):\n    A = 1\nE.A.value", "1"),
    ("classes", "class P:\n    @property\n    def x(self): return 1\nP().x", "1"),
    ("classes", "class P:\n    @staticmethod\n    def x(): return 1\nP.x()", "1"),
    ("classes", "class V:\n    def __add__(self, other): return 7\nV() + V()", "7"),
    (
        "classes",
        "from dataclasses import dataclass, asdict\n@dataclass\nclass D:\n    x: int\nasdict(D(1))",
        "{'x': 1}",
    ),
    ("text", "'%05.1f' % 2", "'002.0'"),
    ("builtins", "callable(len)", "True"),
    ("builtins", "next(n for n in [5])", "5"),
    ("builtins", "x = !echo hi\nx", "['hi']"),
    ("modules", "from functools import lru_cache\n@lru_cache\ndef f(n): return n\nf(2)", "2"),
    ("modules", "import csv, io\nnext(csv.reader(io.StringIO('a,b')))", "['a', 'b']"),
    ("modules", "import random\n0 <= random.random() < 1", "True"),
    ("modules", "import statistics\nstatistics.mean([1, 2])", "1.5"),
    ("modules", "import string\nstring.digits", "'0123456789'"),
    ("modules", "import time\ntime.time() > 0", "True"),
    ("modules", "import heapq\nheapq.nsmallest(1, [2, 1])", "[1]"),
    ("modules", "import copy\ncopy.deepcopy([1])", "[1]"),
    ("modules", "import decimal\nstr(decimal.Decimal('0.1'))", "'0.1'"),
    ("modules", "import hashlib\nhashlib.md5(b'').hexdigest()[:4]", "'d41d'"),
];

#[test]
fn whatever_monty_lacks_is_to_be_had() {
    let mut known = Vec::new();
    for (kind, code, text) in LACKS {
        let mut python = start();
        shows(&mut python, code, Some(text));
        if !python.has_fallen_back() {
            known.push((kind, code));
        }
    }
    assert_eq!(known, [], "Monty has these by now: the page says that it lacks them");
    let page = include_str!("../docs/interpreters.md");
    for (kind, ..) in LACKS {
        assert!(page.contains(&format!("| {kind} |")), "the page has no line for {kind}");
    }
}

#[test]
fn monty_rounds_in_its_own_way() {
    let mut python = start();
    shows(&mut python, "round(2.675, 2)", Some("2.68")); // 2.67 in CPython, as the page says
}

#[test]
fn what_cannot_be_taken_along_is_named_and_nothing_is_lost() {
    let mut python = start();
    let code = "class Own:\n    pass\nown = Own()\nalias = len\ncount = 0\n\
                def bump():\n    global count\n    count += 1\nplain = 3";
    shows(&mut python, code, None);
    let execution = python.run("plain = 4\nprint('tried')\nimport statistics").unwrap();
    let error = execution.error.as_ref().unwrap();
    assert_eq!(error.name, "ModuleNotFoundError");
    let note =
        "(CPython could not go on with this session: it cannot be taken along: `alias`, `own`)";
    assert!(error.value.ends_with(note), "{}", error.value);
    assert!(execution.to_markdown().contains("`own`"), "{}", execution.to_markdown());
    assert_eq!(execution.stdout(), "tried\n");
    assert!(!python.has_fallen_back());
    shows(&mut python, "bump()\nplain, count", Some("(4, 1)"));
    // Once it is gone, the way is free.
    shows(&mut python, "own = alias = None", None);
    shows(&mut python, "import statistics\ncount", Some("1"));
    assert!(python.has_fallen_back());
}

#[test]
fn definitions_that_depend_on_a_moment_are_not_run_again() {
    for (code, name) in [
        ("base = [1]\ndef f(x=base): return x", "f"),
        ("base = 1\nclass C:\n    y = base", "C"),
        ("def f(): return 1\ng = f", "g"),
        ("if True:\n    def f(): return 1", "f"),
        ("def f(): return 1\ndef set_f(new):\n    global f\n    f = new\nset_f(len)", "f"),
        ("def f(): return 1\nf = len", "f"),
    ] {
        let mut python = start();
        shows(&mut python, code, None);
        let error = python.run("import statistics").unwrap().error.unwrap();
        assert!(error.value.contains(&format!("`{name}`")), "{code}: {}", error.value);
    }
    // Of a cell that failed it is unsure how far it came, if there was an earlier one.
    let mut python = start();
    python.run("def f(): return 1").unwrap();
    python.run("def g(): return 1\n1 / 0\ndef f(): return 2").unwrap();
    let error = python.run("import statistics").unwrap().error.unwrap();
    assert!(error.value.ends_with("along: `f`)"), "{}", error.value);
}

#[test]
fn functions_of_the_hosts_keep_it_in_monty() {
    let monty = MontyManager::new().function("search", |_| Ok(serde_json::json!([1])));
    let mut python = FallbackManager::new(monty, CPythonManager::new()).start();
    let error = python.run("search()\nimport statistics").unwrap().error.unwrap();
    assert!(error.value.ends_with("it cannot be taken along: `search`)"), "{}", error.value);
    shows(&mut python, "search()", Some("[1]"));
}

#[test]
fn a_cpython_that_does_not_start_is_told_beside_the_error() {
    let cpython = CPythonManager::new().python("/nonexistent/python3");
    let mut python = FallbackManager::new(MontyManager::new(), cpython).start();
    let error = python.run("x = 1\nimport statistics").unwrap().error.unwrap();
    assert_eq!(error.name, "ModuleNotFoundError");
    assert!(error.value.contains("/nonexistent/python3: cannot be run"), "{}", error.value);
    shows(&mut python, "x", Some("1"));
}

fn limit(millis: u64) -> ExecuteOptions {
    ExecuteOptions::new().timeout(Duration::from_millis(millis))
}

#[test]
fn a_reset_begins_in_monty_and_handles_stay_good() {
    let mut python = start();
    let handle = python.interrupt_handle();
    let pid = python.run("import os\nos.getpid()").unwrap().text().unwrap().to_owned();
    let execution = python.execute("while True: pass", &limit(100)).unwrap();
    assert!(execution.timed_out);
    std::thread::scope(|scope| {
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            while is_done.recv_timeout(Duration::from_millis(5)).is_err() {
                handle.interrupt();
            }
        });
        for _ in 0..2 {
            let error = python.run("while True: pass").unwrap().error.unwrap();
            assert_eq!(error.name, "KeyboardInterrupt");
            python.reset().unwrap();
            assert!(!python.has_fallen_back());
        }
        done.send(()).unwrap();
    });
    #[cfg(target_os = "linux")]
    poll_until("the child is gone", || !std::path::Path::new("/proc").join(&pid).exists());
    let _ = pid;
    assert_eq!(shows(&mut python, "'x' in 'xy'", Some("True")).execution_count, 1);
}

#[test]
fn a_pool_closes_what_it_has_come_to() {
    let pool: Pool<Fallback> = Pool::new(FallbackManager::default());
    let run = |code: &'static str| pool.with(|python: &mut Fallback| python.run(code)).unwrap();
    run("x = 1").unwrap();
    let pid = run("import os\nos.getpid()").unwrap().text().unwrap().to_owned();
    let report = pool.close(Duration::from_secs(10));
    assert!(report.is_clean(), "{report:?}");
    #[cfg(target_os = "linux")]
    poll_until("the child is gone", || !std::path::Path::new("/proc").join(&pid).exists());
    let _ = pid;
}
