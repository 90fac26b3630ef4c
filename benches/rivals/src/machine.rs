//! What the figures were taken on.

use std::fs;
use std::process::Command;
use std::thread;

/// Facts about this machine and this tree, as a list in Markdown. What cannot be found out is said to
/// be unknown.
#[must_use]
pub fn facts() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let cpu = after("/proc/cpuinfo", "model name").unwrap_or_else(unknown);
    let detail = ["cpu family", "model\t", "stepping"]
        .map(|key| after("/proc/cpuinfo", key).unwrap_or_else(unknown));
    let memory = after("/proc/meminfo", "MemTotal").unwrap_or_else(unknown);
    let memory = memory.strip_suffix(" kB").and_then(|kib| kib.trim().parse::<f64>().ok());
    let gib = memory.map_or_else(unknown, |kib| format!("{:.0} GiB", kib / 1024.0 / 1024.0));
    let os = fs::read_to_string("/etc/os-release").ok();
    let os =
        os.as_deref().and_then(|os| os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")));
    let os = os.map_or_else(unknown, |os| os.trim_matches('"').to_owned());
    let load = load();
    let changed = said("git", &["status", "--porcelain", "--", "src", "Cargo.toml"]);
    let changed = if changed.is_empty() { "" } else { ", with changes that are not committed" };
    format!(
        "* processor: {cpu} (family {}, model {}, stepping {}), {cores} cores, {gib}\n\
         * system: {os}, Linux {}\n\
         * compiler: {}, optimised, thin LTO, one codegen unit\n\
         * sessile: {}{changed}\n\
         * rivals: {}\n\
         * date: {}; load before the first table: {load}\n",
        detail[0],
        detail[1],
        detail[2],
        said("uname", &["-r"]),
        said("rustc", &["--version"]),
        said("git", &["rev-parse", "--short=10", "HEAD"]),
        versions(),
        said("date", &["-u", "+%Y-%m-%d"]),
    )
}

/// How many threads of the machine wanted to run, on average over the last minute.
fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").ok();
    let load = load.as_deref().and_then(|load| load.split_whitespace().next());
    load.map_or_else(unknown, str::to_owned)
}

/// The rivals' versions, from the lock file.
fn versions() -> String {
    const LOCK: &str = include_str!("../Cargo.lock");
    const RIVALS: [&str; 17] = [
        "thread_local",
        "linked",
        "dashmap",
        "r2d2",
        "deadpool",
        "opool",
        "lockfree-object-pool",
        "crossbeam-channel",
        "flume",
        "kanal",
        "tokio",
        "tokio-util",
        "rayon",
        "tungstenite",
        "tokio-tungstenite",
        "jsonrpsee-ws-client",
        "monty-pool",
    ];
    let version = |name: &str| {
        // The last is the newest: some rivals have an older one of another rival.
        let package = LOCK
            .rsplit("[[package]]")
            .find(|package| package.trim_start().starts_with(&format!("name = \"{name}\"\n")))?;
        let line = package.lines().find_map(|line| line.strip_prefix("version = "))?;
        Some(line.trim_matches('"').to_owned())
    };
    let named = RIVALS.map(|name| format!("{name} {}", version(name).unwrap_or_else(unknown)));
    named.join(", ")
}

/// What a file says after this word and a colon.
fn after(path: &str, word: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(word))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// What a program says.
fn said(program: &str, args: &[&str]) -> String {
    let here = env!("CARGO_MANIFEST_DIR");
    let root = format!("{here}/../..");
    let output = Command::new(program).args(args).current_dir(root).output();
    output.map_or_else(
        |_| unknown(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

fn unknown() -> String {
    "unknown".to_owned()
}
