//! Which files a Python needs to run: asked of that Python itself, once.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

/// What a Python says of itself.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Files {
    /// The program behind all links and wrapper scripts.
    pub(super) program: PathBuf,
    /// What to start it by: inside a virtual environment, the link in there.
    pub(super) command: PathBuf,
    /// The programs that load it: the dynamic loader.
    pub(super) loaders: Vec<PathBuf>,
    /// What it reads: its library, what is installed for it, and the system's libraries.
    pub(super) read: Vec<PathBuf>,
}

/// Prints the above as JSON. It runs none of a cell's code.
const QUESTION: &str = r#"
import json, os, struct, sys, sysconfig
def loader(path):
    "The dynamic loader that an ELF file names."
    with open(path, "rb") as f:
        head = f.read(64)
        if head[:5] != b"\x7fELF\x02":
            return None
        order = "<" if head[5] == 1 else ">"
        start, = struct.unpack_from(order + "Q", head, 32)
        size, count = struct.unpack_from(order + "HH", head, 54)
        for i in range(count):
            f.seek(start + i * size)
            entry = f.read(size)
            if struct.unpack_from(order + "I", entry)[0] == 3:
                offset, = struct.unpack_from(order + "Q", entry, 8)
                length, = struct.unpack_from(order + "Q", entry, 32)
                f.seek(offset)
                return f.read(length).rstrip(b"\0").decode()
program = os.path.realpath(sys.executable)
paths = sysconfig.get_paths()
read = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
read += [path for path in sys.path if path and os.path.isabs(path)]
read += [os.path.join(prefix, "pyvenv.cfg") for prefix in (sys.prefix,)]
read += [os.path.join(prefix, "share") for prefix in {sys.prefix, sys.base_prefix} if prefix not in ("/usr", "/")]
library = sysconfig.get_config_var("LDLIBRARY") or ""
read += [os.path.join(sysconfig.get_config_var("LIBDIR") or "/", library)] if library.endswith(".so") else []
read += [program, sys.executable]
# Which of the loaded libraries lie elsewhere than the system's own do.
with open("/proc/self/maps") as maps:
    read += sorted({line.split(None, 5)[5].strip() for line in maps if ".so" in line and "/" in line})
read += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache",
         "/usr/share/zoneinfo", "/etc/localtime", "/usr/share/locale", "/usr/share/fonts", "/usr/share/fontconfig", "/etc/fonts",
         "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/sys/devices/system/cpu"]
found = loader(program)
print(json.dumps({
    "program": program, "command": sys.executable,
    "loaders": [os.path.realpath(found)] if found else [],
    "read": sorted({os.path.abspath(path) for path in read if os.path.exists(path)}),
}))
"#;

type Question = (PathBuf, Vec<OsString>, Vec<(OsString, OsString)>, Option<PathBuf>);

/// Asks this Python, or remembers what it said.
pub(super) fn files(
    python: &PathBuf,
    args: &[OsString],
    env: &[(OsString, OsString)],
    dir: Option<&PathBuf>,
) -> Result<Arc<Files>, String> {
    static KNOWN: Mutex<Option<HashMap<Question, Arc<Files>>>> = Mutex::new(None);
    let question = (python.clone(), args.to_vec(), env.to_vec(), dir.cloned());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(files) = known().get_or_insert_default().get(&question) {
        return Ok(Arc::clone(files));
    }
    let mut command = Command::new(python);
    command.args(args).arg("-c").arg(QUESTION).stdin(Stdio::null());
    // With what the session will have, and nothing else: a PYTHONPATH of this process's opens nothing.
    command.env_clear().env("PATH", super::PATH).env("LANG", "C.UTF-8").env("HOME", "/nonexistent");
    command.envs(env.iter().map(|(name, value)| (name, value)));
    // Not in a directory that could hold modules of a user's own.
    command.current_dir("/");
    let output = command.output().map_err(|error| format!("cannot be run: {error}"))?;
    let files = serde_json::from_slice::<Files>(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim_end().lines().last().unwrap_or("it said nothing").to_owned();
        format!("does not say which files it needs ({}): {last}", output.status)
    })?;
    let files = Arc::new(files);
    known().get_or_insert_default().insert(question, Arc::clone(&files));
    Ok(files)
}
