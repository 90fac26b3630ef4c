//! Rivals of `sessile`, running its workloads.
//!
//! * [`rivals`]: each rival behind one small trait, a file for each.
//! * [`workload`]: what they are made to do. `cargo bench` and the report both take it from there.
//! * [`echo`]: the server that clients are measured against.
//! * [`race`]: how their times are taken, turn by turn; [`memory`]: how their bytes are counted.
//! * [`sections`]: the sections of `docs/benchmarks.md`, a file for each. A new table begins there.
//! * [`page`], [`chart`], [`machine`]: how the page is written.
//!
//! The page is written anew by
//!
//! ```text
//! cargo run --release --manifest-path benches/rivals/Cargo.toml --bin report
//! ```

pub mod chart;
pub mod echo;
pub mod machine;
pub mod memory;
pub mod page;
pub mod race;
pub mod rivals;
pub mod sections;
pub mod workload;
