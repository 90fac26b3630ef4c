//! What every engine owes to its caller, the same for all.

#![cfg(feature = "_interpreter")]

#[cfg(all(feature = "jupyter", target_os = "linux"))]
#[path = "support/jupyter.rs"]
mod jupyter;
#[cfg(all(feature = "jupyter", target_os = "linux"))]
#[path = "support/venv.rs"]
mod venv;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use sessile::interpreter::{
    ExecuteOptions, Interpreter, InterruptHandle, MimeBundle, Output, OutputRef, Variable,
};

macro_rules! on_every_engine {
    ($($test:ident)*) => {
        #[cfg(feature = "monty")]
        mod monty {
            $(#[test] fn $test() { super::$test(&mut sessile::interpreter::monty::Monty::start()); })*
        }
        #[cfg(all(feature = "cpython", unix))]
        mod cpython {
            $(#[test] fn $test() {
                super::$test(&mut sessile::interpreter::cpython::CPython::start().unwrap());
            })*
        }
        #[cfg(all(feature = "jupyter", target_os = "linux"))]
        mod on_a_gateway {
            $(#[test] fn $test() {
                let server = super::jupyter::Server::shared();
                super::$test(&mut server.manager().start().unwrap());
            })*
        }
    };
}

on_every_engine! {
    output_is_shown_as_it_comes
    what_is_cut_is_not_shown
    a_cell_is_stopped_from_its_own_output
    a_panic_amid_a_cell_ends_the_engine
    handles_outlive_resets_and_engines
    variables_are_told
    variables_that_cannot_be_shown
}

fn limit(millis: u64) -> ExecuteOptions {
    ExecuteOptions::new().timeout(Duration::from_millis(millis))
}

/// What `on_output` was shown, its text in one.
#[derive(Default)]
struct Shown {
    text: String,
    displays: Vec<MimeBundle>,
    pieces: usize,
}

impl Shown {
    fn take(&mut self, output: OutputRef<'_>) {
        self.pieces += 1;
        match output {
            OutputRef::Stdout(text) | OutputRef::Stderr(text) => self.text.push_str(text),
            OutputRef::Display(data) => self.displays.push(data.clone()),
            other => panic!("{other:?}"),
        }
    }
}

fn output_is_shown_as_it_comes(python: &mut dyn Interpreter) {
    let mut shown = Shown::default();
    let code = "for n in range(3):\n    print('line', n, flush=True)\n'value'";
    let mut take = |output: OutputRef<'_>| shown.take(output);
    let execution = python.execute_with(code, &ExecuteOptions::new(), &mut take).unwrap();
    assert_eq!(execution.outputs, [Output::Stdout { text: "line 0\nline 1\nline 2\n".into() }]);
    assert_eq!(shown.text, execution.stdout());
    assert!(shown.pieces >= 3, "in {} pieces", shown.pieces);
    assert_eq!(shown.displays, [], "the value is not output");
}

fn what_is_cut_is_not_shown(python: &mut dyn Interpreter) {
    let mut shown = Shown::default();
    let options = ExecuteOptions::new().max_output(100);
    let mut take = |output: OutputRef<'_>| shown.take(output);
    let code = "for n in range(50):\n    print('line', n)";
    let execution = python.execute_with(code, &options, &mut take).unwrap();
    assert!(execution.truncated);
    assert_eq!(shown.text, execution.stdout());
    assert_eq!(shown.text.len(), 100);
}

fn a_cell_is_stopped_from_its_own_output(python: &mut dyn Interpreter) {
    let handle = python.interrupt_handle();
    // The time limit is only for a test that fails.
    let mut take = |_: OutputRef<'_>| handle.interrupt();
    let code = "x = 1\nprint('in')\nwhile True: pass";
    let execution = python.execute_with(code, &limit(30_000), &mut take).unwrap();
    assert!(!execution.timed_out);
    assert_eq!(execution.error.unwrap().name, "KeyboardInterrupt");
    assert_eq!(python.run("x").unwrap().text(), Some("1"));
}

fn a_panic_amid_a_cell_ends_the_engine(python: &mut dyn Interpreter) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut take = |_: OutputRef<'_>| panic!("mine");
        python.execute_with("print(1)\nprint(2)", &ExecuteOptions::new(), &mut take)
    }));
    assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"mine"));
    assert!(!python.is_alive());
    assert!(python.run("1").unwrap_err().state_lost());
    python.reset().unwrap();
    assert_eq!(python.run("1").unwrap().text(), Some("1"));
}

fn handles_outlive_resets_and_engines(python: &mut dyn Interpreter) {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    let handle: InterruptHandle = python.interrupt_handle();
    shared(&handle);
    let longer = "for n in range(20_000): pass\nn"; // than it takes to look whether to stop
    handle.interrupt(); // nothing runs, nothing is hit
    assert_eq!(python.run(longer).unwrap().text(), Some("19999"));
    python.reset().unwrap();
    handle.interrupt();
    assert_eq!(python.run(longer).unwrap().text(), Some("19999"));
    let mut take = |_: OutputRef<'_>| handle.interrupt();
    let code = "print('in')\nwhile True: pass";
    let execution = python.execute_with(code, &limit(30_000), &mut take).unwrap();
    assert!(!execution.timed_out);
}

fn variables_are_told(python: &mut dyn Interpreter) {
    let options = ExecuteOptions::new();
    assert_eq!(python.variables(&options).unwrap(), []);
    python.run("import math\n_hidden = 1\ntext = 'é'\nn = 41\nbig = 'x' * 5000").unwrap();
    python.run("def grow():\n    global n\n    n += 1\ngrow()\n[0 for inner in 'ab']").unwrap();
    let told = python.variables(&options).unwrap();
    let names: Vec<_> = told.iter().map(|one| (&*one.name, &*one.kind)).collect();
    assert_eq!(names, [("big", "str"), ("grow", "function"), ("n", "int"), ("text", "str")]);
    assert_eq!(told[0].repr.len(), 1000);
    let text = Variable::new("text", "str", "'é'");
    assert_eq!((&told[3], &*told[2].repr), (&text, "42"));
    assert_eq!((told[0].length, told[2].length), (Some(5000), None));
    let told = python.variables(&ExecuteOptions::new().max_output(10)).unwrap();
    let lengths: Vec<_> = told.iter().map(|one| one.repr.len()).collect();
    assert_eq!(lengths, [10, 0, 0, 0]);
    // It counts for no cell.
    assert_eq!(python.run("n").unwrap().execution_count, 3);
    let error = python.run("boom").unwrap().error.unwrap();
    let names = ["<cell 4>", "Cell In[4]"]; // ours, IPython's
    assert!(names.iter().any(|name| error.traceback.contains(name)), "{}", error.traceback);
    python.reset().unwrap();
    assert_eq!(python.variables(&options).unwrap(), []);
}

fn variables_that_cannot_be_shown(python: &mut dyn Interpreter) {
    let code = "class Loud:\n    def __repr__(self):\n        print('loud')\n        return 'Loud'\n\
                class Bad:\n    def __repr__(self):\n        raise ValueError('bad')\n\
                class Endless:\n    def __repr__(self):\n        while True: pass\n\
                a, b = Loud(), Bad()";
    python.run(code).unwrap();
    let values = |told: Vec<Variable>| {
        let values = told.into_iter().filter(|one| one.name.len() == 1);
        values.map(|one| (one.kind, one.repr)).collect::<Vec<_>>()
    };
    let told = values(python.variables(&limit(30_000)).unwrap());
    assert_eq!(told, [("Loud".into(), "Loud".into()), ("Bad".into(), String::new())]);
    python.run("c = Endless()\nd = 1").unwrap();
    let told = values(python.variables(&limit(100)).unwrap());
    assert_eq!((told.len(), &*told[2].0, &*told[2].1), (4, "Endless", ""));
    let execution = python.run("d").unwrap();
    assert_eq!(execution.text(), Some("1"));
    assert!(execution.outputs.is_empty() && execution.late.is_empty(), "{execution:?}");
}
