//! How a child is started: its descriptors, limits, directory, and the driver that is sent to it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::super::{ExecuteOptions, Execution, InterpreterError, OutputRef, StdStream};
use super::Settings;
use super::cell::{Cell, Pipe};
use super::channel::Channel;
#[cfg(all(feature = "confine", target_os = "linux"))]
use super::confine::Plan;
use super::fault::Fault;
use super::left::{Left, MARK};
use super::private_dir::PrivateDir;
use super::process::{COMPILED as KIND_COMPILED, Child, NO_CELL};
use super::target::Target;
use crate::sys;

/// What the child is started with: it takes the rest from its channel, so that a list of processes
/// stays readable. `SIZE`, `COMPILED` and `OPTIONS` stand for what they are named for.
const BOOT: &str = include_str!("driver/boot.py");
/// The driver: what is run at once, then, each after a zero byte, what is run when it is needed.
const DRIVER: &str = concat!(
    include_str!("driver/core.py"),
    include_str!("driver/streams.py"),
    include_str!("driver/cell.py"),
    "\0",
    include_str!("driver/errors.py"),
    "\0",
    include_str!("driver/shown.py"),
    "\0",
    include_str!("driver/magics.py"),
    "\0",
    include_str!("driver/tasks.py"),
    "\0",
    include_str!("../short.py"),
    include_str!("driver/variables.py"),
);
/// The driver as the Python of that name has compiled it, for the next one of its kind: it takes longer
/// to compile than to start. It is what a child tells before it has run a cell, and is kept in this
/// process only, so no cell can put its own in its place. The child checks that it is of its version.
static COMPILED: Mutex<BTreeMap<PathBuf, Arc<[u8]>>> = Mutex::new(BTreeMap::new());
/// Of how many Pythons.
const MOST_COMPILED: usize = 16;
/// The variable by which Python 3.11 and newer leave the working directory off `sys.path`.
const SAFE_PATH: &str = "PYTHONSAFEPATH";
/// How much memory the driver lays by, where memory is limited, to tell of its end.
const RESERVE: u64 = 8 << 20;

/// A child that waits for its first cell, and the version of its Python.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) child: Child,
    pub(super) version: String,
}

#[derive(Deserialize)]
struct Hello {
    version: String,
}

struct Greeting {
    what: String,
    said: String,
}

impl Child {
    /// Starts the child and waits until it is ready.
    pub(super) fn start(settings: &Settings) -> Result<Ready, InterpreterError> {
        let python = settings.python.display();
        let failed = |what: &str| {
            let what = format!("{python}: {what}");
            move |source| InterpreterError::start(what, Some(source))
        };
        let (channel, interrupts, theirs) = Channel::new().map_err(failed("no channel"))?;
        let (stdout, their_stdout) = io::pipe().map_err(failed("no pipe"))?;
        let (stderr, their_stderr) = io::pipe().map_err(failed("no pipe"))?;

        // From before there is anything to be left behind.
        let left = Left::write_down(settings.private_dir, settings.keep_detached);
        let dir = settings.private_dir.then(|| PrivateDir::new(&left)).transpose();
        let dir = dir.map_err(failed("no directory of its own"))?;
        let current_dir = dir.as_ref().map(PrivateDir::path).or(settings.current_dir.as_deref());

        #[cfg(all(feature = "confine", target_os = "linux"))]
        let plan = settings.confinement.as_ref().zip(dir.as_ref()).map(|(asked, dir)| {
            Plan::new(asked, settings, dir.path()).map(|plan| (asked, plan)).map_err(|what| {
                InterpreterError::start(format!("{python}: it cannot be confined: {what}"), None)
            })
        });
        #[cfg(all(feature = "confine", target_os = "linux"))]
        let plan = plan.transpose()?;
        #[cfg(all(feature = "confine", target_os = "linux"))]
        let program = plan.as_ref().map_or(settings.python.as_path(), |(_, plan)| plan.command());
        #[cfg(not(all(feature = "confine", target_os = "linux")))]
        let program = &settings.python;

        let mut command = process::Command::new(program);
        // What holds it now goes on without: another thread, or one that a fork has left behind.
        let compiled = COMPILED.try_lock().ok().and_then(|all| all.get(&settings.python).cloned());
        let compiled = compiled.as_deref().unwrap_or_default();
        command.args(&settings.args).arg("-c").arg(boot(settings, compiled));
        #[cfg(all(feature = "confine", target_os = "linux"))]
        if let Some((asked, plan)) = &plan {
            plan.clear_environment(asked, &mut command);
            plan.become_user(&mut command);
        }
        command.envs(settings.env.iter().map(|(name, value)| (name, value)));
        command.env(MARK, left.mark());
        if keeps_directory_away(settings) {
            command.env(SAFE_PATH, "1");
        }
        if let Some(dir) = current_dir {
            command.current_dir(dir);
        }
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(their_stdout).stderr(their_stderr);
        sys::detach_and_bind(&mut command);
        sys::limit(&mut command, settings.limits);
        #[cfg(all(feature = "confine", target_os = "linux"))]
        let confined = plan.map(|(_, plan)| plan.restrict(&mut command)); // behind all other hooks
        let process = command.spawn().map_err(|error| {
            let what = match current_dir {
                Some(dir) if !dir.is_dir() => not_a_directory(dir, &error),
                _ => "cannot be run".to_owned(),
            };
            failed(&what)(error)
        })?;
        drop(command); // and with it our copies of the child's ends

        let pid = libc::pid_t::try_from(process.id()).expect("process ids are positive");
        let pipes = [
            Pipe::new(stdout, StdStream::Stdout, NO_CELL),
            Pipe::new(stderr, StdStream::Stderr, NO_CELL),
        ];
        let target = Arc::new(Target::new(pid, interrupts));
        let mut child = Self::new(process, target, channel, pipes, dir, left, settings);
        #[cfg(all(feature = "confine", target_os = "linux"))]
        {
            child.confined = confined;
        }
        child.greet(settings, compiled).map(|version| Ready { child, version }).map_err(
            |Greeting { what, said }| {
                let said = said.trim_end();
                let colon = if said.is_empty() { "" } else { ": " };
                InterpreterError::start(format!("{python} {what}{colon}{said}"), None)
            },
        )
    }

    /// Sends the driver and waits for its hello.
    fn greet(&mut self, settings: &Settings, compiled: &[u8]) -> Result<String, Greeting> {
        let time = settings.start_timeout;
        let deadline = Instant::now() + time;
        let mut ignore = |_: OutputRef<'_>| {};
        let mut cell = Cell::new(NO_CELL, &ExecuteOptions::new(), &mut ignore);
        let driver = [DRIVER.as_bytes(), compiled].concat();
        let outcome = self.send(&mut &*driver, Some(deadline)).and_then(|()| {
            loop {
                if let Some(answer) = self.turn(&mut cell, Some(deadline))? {
                    if answer.kind == KIND_COMPILED {
                        keep(&settings.python, answer.payload);
                        continue;
                    }
                    let hello = serde_json::from_slice::<Hello>(&answer.payload);
                    break hello.map(|hello| hello.version).map_err(|_| Fault::Protocol("hello"));
                }
            }
        });
        outcome.map_err(|fault| {
            let what = match fault {
                Fault::Ended => format!("ended at once ({})", self.end(Duration::from_secs(1))),
                Fault::Late => format!("was not ready within {time:?}"),
                Fault::Protocol(what) => format!("sent no {what}"),
                Fault::OutOfMemory => "ran out of memory".to_owned(),
                #[cfg(all(feature = "confine", target_os = "linux"))]
                Fault::Overfull(what) => what,
            };
            self.kill();
            self.take_rest(&mut cell);
            let outputs = cell.into_gathered().outputs;
            Greeting { what, said: Execution { outputs, ..Execution::default() }.stderr() }
        })
    }
}

fn keep(python: &Path, compiled: Vec<u8>) {
    if let Ok(mut all) = COMPILED.try_lock()
        && (all.len() < MOST_COMPILED || all.contains_key(python))
    {
        all.insert(python.to_owned(), compiled.into());
    }
}

fn not_a_directory(dir: &Path, error: &io::Error) -> String {
    let what = match error.kind() {
        ErrorKind::NotFound if !dir.exists() => "does not exist",
        _ => "is no directory",
    };
    format!("the working directory {} {what}", dir.display())
}

/// Whether we, and not the caller, have Python keep the working directory off its path: while it
/// starts, for some versions import modules before they come to our first line. The driver puts it
/// back.
fn keeps_directory_away(settings: &Settings) -> bool {
    let is_set = settings.env.iter().any(|(name, _)| name == SAFE_PATH)
        || std::env::var_os(SAFE_PATH).is_some();
    let is_asked = settings.args.iter().any(|arg| {
        let arg = arg.to_string_lossy();
        // Options of one letter may be written as one.
        arg.strip_prefix('-').is_some_and(|letters| {
            !letters.starts_with(['-', 'X', 'W']) && letters.contains(['P', 'I', 'E'])
        })
    });
    !is_set && !is_asked
}

fn boot(settings: &Settings, compiled: &[u8]) -> String {
    let magics = if settings.magics { "True" } else { "False" };
    // Not so much of what little there may be that nothing can be done with the rest.
    let reserve = settings.limits.memory.map_or(0, |bytes| RESERVE.min(bytes / 8));
    let safe_path = if keeps_directory_away(settings) { "True" } else { "False" };
    let options = format!("{{'magics':{magics},'reserve':{reserve},'safe_path':{safe_path}}}");
    BOOT.replace("SIZE", &DRIVER.len().to_string())
        .replace("COMPILED", &compiled.len().to_string())
        .replace("OPTIONS", &options)
}

#[cfg(test)]
mod tests {
    use super::super::super::Interpreter;
    use super::super::CPythonManager;
    use super::*;

    fn compiled() -> Option<Arc<[u8]>> {
        COMPILED.lock().unwrap().get(Path::new("python3")).cloned()
    }

    #[test]
    fn the_driver_is_compiled_once_for_each_python_and_no_cell_can_put_its_own_in_its_place() {
        let manager = CPythonManager::new();
        manager.start().unwrap();
        let first = compiled().expect("the first has told it");
        let mut second = manager.start().unwrap();
        assert_eq!(second.run("1 + 1").unwrap().text(), Some("2"));
        assert!(Arc::ptr_eq(&first, &compiled().unwrap()), "the second had no need to");
        // One that was compiled by another version is not taken.
        let other = [b"another version\0", &*first].concat();
        COMPILED.lock().unwrap().insert("python3".into(), other.into());
        manager.start().unwrap();
        assert_eq!(first, compiled().unwrap());
        let forged = "import os, struct\nfor fd in range(3, 64):\n    try:\n        \
                      os.write(fd, b'k' + struct.pack('>II', 1, 4) + b'evil')\n    \
                      except OSError:\n        pass";
        assert!(second.run(forged).unwrap_err().state_lost());
        assert_eq!(first, compiled().unwrap());
    }
}
