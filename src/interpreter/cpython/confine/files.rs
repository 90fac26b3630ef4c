//! What a confined session may reach by path, by port, by signal: rules for the kernel (Landlock).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope, make_bitflags,
};

use super::python::Files;
use super::{Confinement, Enforcement};

/// The rules that all of [`Confinement`] but sockets by path takes: files, devices, TCP, signals.
const NEEDED: ABI = ABI::V6;
/// The rules that tell sockets by their paths.
const SOCKETS: ABI = ABI::V9;

/// What this kernel keeps, as a number of Landlock's.
fn kernel() -> ABI {
    let known = [ABI::V9, ABI::V8, ABI::V7, ABI::V6, ABI::V5, ABI::V4, ABI::V3, ABI::V2, ABI::V1];
    let kept = known.into_iter().find(|&abi| {
        let asked = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let asked = asked.handle_access(AccessFs::from_all(abi));
        let asked = match abi < ABI::V4 {
            true => asked,
            false => asked.and_then(|asked| asked.handle_access(tcp())),
        };
        let asked = match abi < ABI::V6 {
            true => asked,
            false => asked.and_then(|asked| asked.scope(Scope::from_all(ABI::V6))),
        };
        asked.and_then(Ruleset::create).is_ok()
    });
    kept.unwrap_or(ABI::Unsupported)
}

fn tcp() -> BitFlags<AccessNet> {
    make_bitflags!(AccessNet::{BindTcp | ConnectTcp})
}

/// Whether this kernel tells sockets by their paths.
pub(super) fn knows_socket_paths() -> bool {
    kernel() >= SOCKETS
}

/// Builds the rules, and says in `enforcement` what they keep.
///
/// `None`: this kernel keeps none at all, and that was said to be good enough.
pub(super) fn rules(
    asked: &Confinement,
    python: &Files,
    dir: &Path,
    enforcement: &mut Enforcement,
) -> Result<Option<OwnedFd>, String> {
    let abi = kernel();
    let mut missing = |what: &str| {
        let version = abi as i32;
        let what =
            format!("{what} (this kernel has Landlock {version}, {} is needed)", NEEDED as i32);
        if !asked.best_effort {
            return Err(what);
        }
        enforcement.missing.push(what);
        Ok(())
    };
    if abi == ABI::Unsupported {
        missing("no file, port or process outside is out of reach")?;
        return Ok(None);
    }
    if abi < ABI::V3 {
        missing("files outside can be cut short")?;
    }
    if abi < ABI::V4 {
        missing("TCP ports are open")?;
    }
    if abi < ABI::V5 {
        missing("devices that are open can be commanded")?;
    }
    if abi < ABI::V6 {
        missing("processes outside can be signalled, and abstract sockets reached")?;
    }
    if !asked.unix_sockets.is_empty() && abi < SOCKETS {
        let (here, needed) = (abi as i32, SOCKETS as i32);
        let what = format!(
            "sockets by path stay closed (this kernel has Landlock {here}, {needed} is needed to open some only)"
        );
        if !asked.best_effort {
            return Err(what);
        }
        enforcement.missing.push(what);
    }

    let broken = |error: &dyn std::fmt::Display| format!("Landlock: {error}");
    let all = AccessFs::from_all(abi);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .and_then(|rules| rules.handle_access(tcp()))
        .and_then(|rules| rules.scope(Scope::from_all(NEEDED)))
        .and_then(Ruleset::create)
        .map_err(|error| broken(&error))?;

    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let write = read
        | make_bitflags!(AccessFs::{
            WriteFile | Truncate | RemoveDir | RemoveFile | MakeDir | MakeReg | MakeFifo | MakeSym | Refer
        });
    let run = make_bitflags!(AccessFs::{ReadFile | Execute});
    // What is missing of the interpreter's is not needed; what a user names has to be there.
    let mut allow = |path: &Path, access: BitFlags<AccessFs>, must: bool| -> Result<(), String> {
        let opened = match PathFd::new(path) {
            Ok(opened) => opened,
            Err(_) if !must => return Ok(()),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(abi) };
        (&mut rules)
            .add_rule(PathBeneath::new(opened, access & all))
            .map(|_: &mut RulesetCreated| ())
            .map_err(|error| format!("{}: {}", path.display(), broken(&error)))
    };
    for path in &python.read {
        allow(path, read, false)?;
    }
    for path in python.loaders.iter().chain([&python.program]) {
        allow(path, run, false)?;
    }
    allow(Path::new("/dev/null"), read | AccessFs::WriteFile, false)?;
    if asked.proc {
        allow(Path::new("/proc"), read, true)?;
    }
    allow(dir, write, true)?;
    for path in &asked.read {
        allow(path, read, true)?;
    }
    for path in &asked.write {
        allow(path, write, true)?;
    }
    for path in &asked.programs {
        allow(path, run, true)?;
        for loader in loaders() {
            allow(&loader, run, false)?;
        }
    }
    if abi >= SOCKETS {
        for path in &asked.unix_sockets {
            allow(path, AccessFs::ResolveUnix.into(), true)?;
        }
    }
    if abi >= ABI::V4 {
        for (ports, access) in
            [(&asked.connect_tcp, AccessNet::ConnectTcp), (&asked.bind_tcp, AccessNet::BindTcp)]
        {
            for &port in ports {
                (&mut rules)
                    .add_rule(NetPort::new(port, access))
                    .map_err(|error| broken(&error))?;
            }
        }
        enforcement.hold("TCP ports are closed, but for those that were opened");
    }
    enforcement.hold("files outside are neither read nor written, but for those that were opened");
    if abi >= ABI::V6 {
        enforcement.hold("processes outside are not signalled, abstract sockets not reached");
    }
    Ok(rules.into())
}

/// The dynamic loaders that the system's own programs name.
fn loaders() -> Vec<PathBuf> {
    let dirs = ["/lib", "/lib64"].into_iter().filter_map(|dir| std::fs::read_dir(dir).ok());
    let files = dirs.flatten().flatten().map(|entry| entry.path());
    files
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("ld-")
        })
        .filter_map(|path| std::fs::canonicalize(path).ok())
        .collect()
}
