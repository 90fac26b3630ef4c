//! What kernels, gateways and connections can do to the Jupyter engine, and what it makes of it.
//!
//! The gateways are real; they come from the package index, into a virtual environment of the tests'
//! own.

#![cfg(all(feature = "jupyter", target_os = "linux"))]

#[path = "support/jupyter.rs"]
mod jupyter;
mod support;
#[path = "support/venv.rs"]
mod venv;

use std::time::Duration;

use jupyter::Server;
use sessile::interpreter::jupyter::Jupyter;
use sessile::interpreter::{ExecuteOptions, Execution, Interpreter, Output};

fn run(kernel: &mut Jupyter, code: &str) -> Execution {
    kernel.run(code).unwrap_or_else(|error| panic!("{error}: {:?}\n{code}", error.outputs()))
}

fn limit(millis: u64) -> ExecuteOptions {
    ExecuteOptions::new().timeout(Duration::from_millis(millis))
}

fn out(text: &str) -> Output {
    Output::Stdout { text: text.into() }
}

#[test]
fn cells_are_a_notebooks() {
    let server = Server::shared();
    let mut kernel = server.manager().start().unwrap();
    assert_eq!(kernel.language(), Some("python"));
    assert_eq!(run(&mut kernel, "x = 41").text(), None);
    let execution = run(&mut kernel, "print('a'); x + 1");
    assert_eq!(execution.text(), Some("42"));
    assert_eq!(execution.outputs, [out("a\n")]);
    assert_eq!(execution.execution_count, 2);
    let error = run(&mut kernel, "1/0").error.unwrap();
    assert_eq!((&*error.name, &*error.value), ("ZeroDivisionError", "division by zero"));
    assert!(error.traceback.ends_with("ZeroDivisionError: division by zero"), "{error:?}");
    assert!(!error.traceback.contains('\x1b'), "{error:?}");
    assert_eq!(run(&mut kernel, "x").text(), Some("41"));
}

#[test]
fn a_cell_is_interrupted_at_its_limit_and_the_state_survives() {
    let server = Server::shared();
    let mut kernel = server.manager().start().unwrap();
    run(&mut kernel, "x = 1\nimport time, asyncio");
    for code in ["time.sleep(60)", "while x: pass", "await asyncio.sleep(60)"] {
        let execution = kernel.execute(code, &limit(200)).unwrap();
        assert!(execution.timed_out);
        let name = execution.error.unwrap().name;
        assert!(["KeyboardInterrupt", "CancelledError"].contains(&&*name), "{code}: {name}");
        assert_eq!(run(&mut kernel, "x").text(), Some("1"));
    }
}
