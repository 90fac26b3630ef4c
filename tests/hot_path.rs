//! What a hit costs: the instructions that the processor executes when a thread uses the instance it
//! has.
//!
//! The test builds a probe in release (a package of its own, so that it does not build all that tests
//! need), and has it single-step through one hit and note the address of each instruction. `objdump`
//! (of binutils) says what they are. So it is the executed path that is looked at, with whatever it
//! may call, and not what a compiler put somewhere.

#![cfg(all(target_os = "linux", target_arch = "x86_64", not(sessile_no_membarrier)))]

use std::collections::BTreeMap;
use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Each with the greatest number of instructions that it may take, its `ret` included.
const PATHS: [(&str, usize); 3] = [("hot_with", 38), ("hot_with_ref", 46), ("hot_get", 56)];

/// How many fences the light half of the asymmetric pair comes to, in a borrow and its end.
const FENCES: usize = if cfg!(sessile_fence) { 2 } else { 0 };

fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(if cfg!(sessile_fence) {
        "hot_path_fence"
    } else {
        "hot_path"
    });
    let built = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["build", "--release", "--locked", "--manifest-path", "tests/hot_path/Cargo.toml"])
        .args(["--message-format", "json-render-diagnostics", "--target-dir"])
        .arg(target)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "the probe does not build");
    String::from_utf8(built.stdout)
        .expect("cargo speaks UTF-8")
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "hot-path-probe")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo tells where the executable is")
}

/// The instructions of a function by their distance from its first; `None` without `objdump`.
fn disassemble(program: &Path, function: &str) -> Option<BTreeMap<isize, String>> {
    let listing = match Command::new("objdump")
        .args(["-M", "intel", "--no-show-raw-insn"])
        .arg(format!("--disassemble={function}"))
        .arg(program)
        .output()
    {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        listing => listing.expect("objdump runs"),
    };
    let listing = String::from_utf8(listing.stdout).expect("objdump speaks UTF-8");
    let mut first = None;
    let instructions: BTreeMap<_, _> = listing
        .lines()
        .filter_map(|line| line.split_once(":\t"))
        .filter_map(|(address, instruction)| {
            let address = isize::from_str_radix(address.trim(), 16).ok()?;
            let first = *first.get_or_insert(address);
            Some((address - first, instruction.trim().to_owned()))
        })
        .collect();
    assert!(!instructions.is_empty(), "objdump does not find {function}");
    Some(instructions)
}

/// The part of a trace that is in the function: up to its return.
fn executed(instructions: &BTreeMap<isize, String>, steps: &[isize]) -> Vec<String> {
    let mut path = Vec::new();
    for step in steps {
        let Some(instruction) = instructions.get(step) else {
            path.push(format!("(elsewhere, {step:+#x})"));
            continue;
        };
        path.push(instruction.clone());
        if instruction.starts_with("ret") {
            return path;
        }
    }
    panic!("no return:\n{}", path.join("\n"));
}

fn is_fence(instruction: &str) -> bool {
    // What compilers make of `fence(SeqCst)`.
    instruction == "mfence" || instruction.starts_with("lock or DWORD PTR [rsp")
}

/// Why a hit may not execute this, if it may not.
fn objection(instruction: &str) -> Option<&'static str> {
    let mut words = instruction.split_whitespace();
    let operation = words.next().unwrap_or_default();
    match operation {
        "lock" => Some("a locked instruction"),
        "xchg" if instruction.contains('[') => Some("a locked instruction in disguise"),
        "mfence" | "lfence" | "sfence" | "cpuid" => Some("a fence"),
        "call" | "(elsewhere," => Some("leaves the function"),
        "syscall" | "sysenter" | "int" => Some("a system call"),
        "rdtsc" | "rdtscp" => Some("reads a clock"),
        "div" | "idiv" => Some("divides"),
        _ => None,
    }
}

#[test]
fn a_hit_is_a_few_plain_instructions() {
    let program = build();
    let probe = Command::new(&program)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("the probe runs");
    assert!(probe.status.success(), "the probe fails: {}", probe.status);
    let traces = String::from_utf8(probe.stdout).expect("written by us");

    for (name, most) in PATHS {
        let Some(instructions) = disassemble(&program, name) else {
            assert!(
                env::var_os("CI").is_none_or(|ci| ci.is_empty()),
                "objdump is missing: install binutils"
            );
            eprintln!("skipped: objdump is missing: install binutils");
            return;
        };
        let steps = traces
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(" ["))
            .and_then(|line| line.strip_suffix(']'))
            .unwrap_or_else(|| panic!("no trace of {name} in:\n{traces}"));
        let steps: Vec<isize> =
            steps.split(", ").map(|step| step.parse().expect("written by us")).collect();
        assert_eq!(steps.first(), Some(&0), "a trace begins with the function's first instruction");

        let path = executed(&instructions, &steps);
        let listing = path.join("\n");
        println!("{name}: {} instructions\n{listing}\n", path.len());
        let fences = path.iter().filter(|instruction| is_fence(instruction)).count();
        assert_eq!(fences, FENCES, "fences in {name}:\n{listing}");
        for instruction in path.iter().filter(|instruction| !is_fence(instruction)) {
            if let Some(objection) = objection(instruction) {
                panic!("{name} has `{instruction}`: {objection}\n{listing}");
            }
        }
        let most = most + FENCES;
        assert!(
            path.len() <= most,
            "{name} takes {} instructions, more than {most}:\n{listing}",
            path.len()
        );
    }
}
