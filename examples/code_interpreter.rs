//! A code interpreter for many threads: each has its own Python session, and no answer crosses.
//!
//! ```text
//! cargo run --example code_interpreter --features monty
//! ```
//!
//! The command `sessile run` does this to whole notebooks, over any engine.

use std::thread;
use std::time::Duration;

use sessile::interpreter::monty::MontyManager;
use sessile::interpreter::{ExecuteOptions, Interpreter};
use sessile::{Pool, Registry};

pub(crate) fn main() -> anyhow::Result<()> {
    // No session yet: each thread makes its own, on its first use.
    let pythons = Pool::builder(MontyManager::new()).name("pythons").build()?;
    let options = ExecuteOptions::new().timeout(Duration::from_secs(5));

    thread::scope(|scope| {
        let threads: Vec<_> = (1..=4)
            .map(|number| {
                let pythons = &pythons;
                let work = move || -> anyhow::Result<String> {
                    // Variables live on from cell to cell, and nobody else sees them.
                    let first = format!("mine = [n * {number} for n in range(1000)]");
                    pythons.with(|python| python.execute(&first, &options))??;
                    let sum = pythons.with(|python| python.execute("sum(mine)", &options))??;
                    assert_eq!(sum.text(), Some(&*(499_500 * number).to_string()));

                    // An exception ends its cell, not the session; so does a time limit.
                    let raised =
                        pythons.with(|python| python.execute("mine[5000]", &options))??;
                    assert_eq!(raised.error.as_ref().map(|e| &*e.name), Some("IndexError"));
                    let short = options.timeout(Duration::from_millis(20));
                    let stopped = pythons.with(|python| python.execute("while 1: 0", &short))??;
                    assert!(stopped.timed_out);
                    let kept = pythons.with(|python| python.execute("len(mine)", &options))??;
                    Ok(kept.to_markdown()) // for a model to read
                };
                scope.spawn(work)
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().expect("it does not panic")?, "result:\n```text\n1000\n```\n");
        }
        anyhow::Ok(())
    })?;

    // A thread that ends closes its session; here, from the main thread, whatever is left.
    let report = pythons.close(Duration::from_secs(5));
    println!("closed: {report}; afterwards: {}", Registry::global().snapshot());
    Ok(())
}
