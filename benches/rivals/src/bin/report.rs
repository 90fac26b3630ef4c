//! Writes `docs/benchmarks.md` and its charts, from figures taken now.
//!
//! ```text
//! report                   all sections, thoroughly, into the crate's `docs`
//! report --out DIR         into another folder
//! report --quick           few rounds, to try out; into `target/benchmarks` unless told otherwise
//! report --only NAME       prints one section, writes nothing
//! ```

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use rivals::machine;
use rivals::memory::{CHILD, Counting};
use rivals::page::{Part, Section, goals};
use rivals::sections::{ALL, Entry, Pace};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const INTRODUCTION: &str = "\
# Benchmarks

This page is written by one command, which takes all of its figures anew:

```text
cargo run --release --manifest-path benches/rivals/Cargo.toml --bin report
```

A figure in a column \"sessile ÷ rival\" is a ratio of times, or of bytes: above 1 the rival is better, \
and the figure is bold. In each table the rows where we do worst come first. Nanoseconds are given for \
information: they are this machine's, the ratios travel better.

Contestants take short turns, one after the other, round after round, in an order that rotates. A \
ratio is taken between two turns of one round, so that whatever else the machine does meanwhile meets \
both. Where things happen to lie in memory can favour somebody for as long as a process lives, so rounds \
are run in several processes. The figure is the median of all these ratios; the quartiles stand beside \
it in parentheses. The \
workloads are defined in `benches/rivals/src/workload.rs` and below; criterion runs those that need no \
server as well: `cargo bench --manifest-path benches/rivals/Cargo.toml`.
";

fn main() -> Result<(), Box<dyn Error>> {
    let mut pace = Pace { quick: false };
    let mut only = None;
    let mut out = None;
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            CHILD => {
                let args: Vec<String> = args.collect();
                let Entry { child, .. } = section(&args[0])?;
                child(&args[1..]);
                return Ok(());
            }
            "--quick" => pace.quick = true,
            "--only" => only = Some(args.next().ok_or("--only needs a name")?),
            "--out" => out = Some(PathBuf::from(args.next().ok_or("--out needs a folder")?)),
            _ => return Err(format!("unknown argument: {arg}").into()),
        }
    }

    if let Some(name) = only {
        let section = (section(&name)?.write)(pace);
        print!("{}", goals(std::slice::from_ref(&section)));
        println!("\n{}", section.markdown("benchmarks"));
        return Ok(());
    }

    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let usual = if pace.quick { "target/benchmarks" } else { "../../docs" };
    let out = out.unwrap_or_else(|| package.join(usual));
    let facts = machine::facts();
    let mut sections = Vec::new();
    for Entry { name, write, .. } in &ALL {
        eprintln!("{name} ...");
        sections.push(write(pace));
    }
    save(&out, &facts, &sections)?;
    println!("written: {}", out.join("benchmarks.md").display());
    Ok(())
}

fn section(name: &str) -> Result<&'static Entry, String> {
    let found = ALL.iter().find(|entry| entry.name == name);
    let names = || ALL.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("no section `{name}`; there are {}", names()))
}

fn save(out: &Path, facts: &str, sections: &[Section]) -> Result<(), Box<dyn Error>> {
    let charts = out.join("benchmarks");
    fs::create_dir_all(&charts)?;
    for part in sections.iter().flat_map(|section| &section.parts) {
        if let Part::Chart { file, svg, .. } = part {
            fs::write(charts.join(file), svg)?;
        }
    }
    let mut page = format!("{INTRODUCTION}\nTaken on:\n\n{facts}\n## Goals\n\n{}", goals(sections));
    for section in sections {
        page.push('\n');
        page.push_str(&section.markdown("benchmarks"));
    }
    fs::write(out.join("benchmarks.md"), page)?;
    Ok(())
}
