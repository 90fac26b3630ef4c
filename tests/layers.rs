//! Modules depend on those below them, never on those above: read from the `use` lines of the sources.
//!
//! A file may name its parent (`super::Type`), which is the face of its directory, and its parent may
//! name it: these are one module in several files. What is kept here is the order of the top level, and
//! that neighbours do not depend on each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the top to the ground. A module may use those in the lines below its own.
const LAYERS: &[&[&str]] = &[
    &["fuzz"],
    &["interpreter", "signals"],
    &["session"],
    &["workers", "loop_thread"],
    &["event_loop"],
    &["task"],
    &["pool"],
    &["registry", "error"],
    &["thread"],
    &["slot"],
    &["manager"],
    &["id", "fence", "words", "exclusive", "sys"],
    &["sync", "contain", "deadline", "fork"],
];

/// Neighbours that are one thing in several files.
const ONE_THING: &[(&str, &[&str])] = &[
    ("event_loop", &["handle", "local"]),
    ("event_loop", &["readiness", "state"]),
    ("pool", &["inner", "instance"]),
    ("session::dify::declaration", &["rules", "shape"]),
    ("session::duplex::owner", &["calls", "writing"]),
    ("session::duplex::server", &["admission", "listener"]),
    ("session::duplex::transport", &["framed", "framing"]),
    ("session::rfc6455", &["connect", "options"]),
    ("session::rfc6455", &["connect_error", "head"]),
    ("session::rfc6455", &["stream", "tls"]),
    // More than a pair, and so more than one thing: to be parted.
    ("interpreter::jupyter", &["endings", "gateway", "gateways", "kernel", "left"]),
    ("session::dify", &["action", "declare", "invocations", "plugin"]),
    ("session::dify", &["daemon", "hosted"]),
    ("session::duplex", &["inbox", "invocation", "invoker", "owner", "request", "shared"]),
];

type Module = Vec<String>;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
}

fn module_of(root: &Path, file: &Path) -> Module {
    let path = file.strip_prefix(root).unwrap().with_extension("");
    let parts: Module = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts == ["lib"] { Module::new() } else { parts }
}

/// The code without comments, and without its unit tests, which may use anything.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn expand(path: &str) -> Vec<String> {
    let Some((before, group)) = path.split_once('{') else { return vec![path.trim().to_owned()] };
    let group = &group[..group.rfind('}').expect("a group ends")];
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expand(&format!("{}{}", before.trim(), part.trim()))).collect()
}

/// All paths in the code that begin with `crate` or `super`.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue; // the middle of a path
            }
            let line = code[..at].rfind('\n').map_or(0, |end| end + 1);
            let is_use = code[line..at].trim_start().ends_with("use ") && {
                let head = code[line..at].trim();
                head == "use" || head.starts_with("pub")
            };
            let end = if is_use {
                code[at..].find(';').unwrap_or(0)
            } else {
                let goes_on = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
                code[at..].find(|c| !goes_on(c)).unwrap_or(code.len() - at)
            };
            found.extend(expand(&code[at..at + end]));
        }
    }
    found
}

/// The module that a path leads to, as far as there are files.
fn resolve(from: &Module, path: &str, all: &BTreeMap<Module, PathBuf>) -> Module {
    let mut at = from.clone();
    for (step, part) in path.split("::").enumerate() {
        let part = part.split_whitespace().next().unwrap_or_default();
        match part {
            "crate" if step == 0 => at.clear(),
            "super" => drop(at.pop()),
            "self" => {}
            name => at.push(name.to_owned()),
        }
    }
    while !at.is_empty() && !all.contains_key(&at) {
        at.pop();
    }
    at
}

/// Which module uses which.
fn uses() -> (BTreeMap<Module, PathBuf>, BTreeMap<Module, BTreeSet<Module>>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let is_of_us = |file: &PathBuf| {
        let name = file.file_name().unwrap();
        // Not of the library: a program, and what only tests are built with.
        !file.starts_with(root.join("bin")) && name != "models.rs" && name != "compile_fail.rs"
    };
    files.retain(is_of_us);
    let all: BTreeMap<_, _> =
        files.into_iter().map(|file| (module_of(&root, &file), file)).collect();
    let mut uses = BTreeMap::new();
    for (module, file) in &all {
        let code = code(&fs::read_to_string(file).unwrap());
        let used: BTreeSet<_> = paths(&code)
            .iter()
            .map(|path| resolve(module, path, &all))
            .filter(|used| used != module)
            .collect();
        uses.insert(module.clone(), used);
    }
    (all, uses)
}

#[test]
fn modules_depend_on_lower_layers_only() {
    let layer = |name: &str| {
        let at = LAYERS.iter().position(|layer| layer.contains(&name));
        at.unwrap_or_else(|| panic!("`{name}` is in no layer: give it one in tests/layers.rs"))
    };
    let (_, uses) = uses();
    let mut wrong = BTreeSet::new();
    for (module, used) in &uses {
        let Some(own) = module.first() else { continue };
        for used in used.iter().filter_map(|used| used.first()).filter(|used| *used != own) {
            if layer(used) <= layer(own) {
                wrong.insert(format!("{} uses {used}, which is not below it", module.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn neighbours_do_not_depend_on_each_other_in_a_circle() {
    let (all, uses) = uses();
    let parents: BTreeSet<_> = all
        .keys()
        .filter(|module| !module.is_empty())
        .map(|module| &module[..module.len() - 1])
        .collect();
    let mut circles = Vec::new();
    for parent in parents {
        let depth = parent.len();
        let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (module, used) in &uses {
            if module.len() <= depth || !module.starts_with(parent) {
                continue;
            }
            let own = module[depth].as_str();
            let below = used.iter().filter(|used| used.len() > depth && used.starts_with(parent));
            let others = below.map(|used| used[depth].as_str()).filter(|used| *used != own);
            edges.entry(own).or_default().extend(others);
        }
        let path = parent.join("::");
        let one_thing = |a: &str, b: &str| {
            let is_pair = |(dir, files): &(&str, &[&str])| {
                *dir == path && files.contains(&a) && files.contains(&b)
            };
            ONE_THING.iter().any(is_pair)
        };
        for (from, used) in &mut edges {
            used.retain(|to| !one_thing(from, to));
        }
        // What is used by nobody that is left is in no circle, and neither is what uses nobody.
        loop {
            let before: usize = edges.values().map(BTreeSet::len).sum();
            let using: BTreeSet<_> =
                edges.iter().filter(|(_, used)| !used.is_empty()).map(|(from, _)| *from).collect();
            let used: BTreeSet<_> = edges.values().flatten().copied().collect();
            for (from, to) in &mut edges {
                if used.contains(from) {
                    to.retain(|to| using.contains(to));
                } else {
                    to.clear();
                }
            }
            if edges.values().map(BTreeSet::len).sum::<usize>() == before {
                break;
            }
        }
        edges.retain(|_, used| !used.is_empty());
        if !edges.is_empty() {
            circles.push(format!("in `{path}`: {edges:?}"));
        }
    }
    assert!(circles.is_empty(), "{circles:#?}");
}
