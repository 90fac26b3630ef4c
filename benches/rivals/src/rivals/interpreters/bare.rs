//! A bare `python3` that evaluates what it reads: the least that a Python in a process of its own can
//! do; and the same in the namespaces of `bwrap`.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::{CELL, Parts, Session};

const SCRIPT: &str = include_str!("bare.py");

pub struct Bare {
    parts: Parts,
    running: Option<Running>,
}

struct Running {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the program is there");
        let requests = process.stdin.take().expect("it is piped");
        let answers = BufReader::new(process.stdout.take().expect("it is piped"));
        Self { process, requests, answers }
    }

    fn evaluate(&mut self, code: &str) -> Vec<u8> {
        let head = (code.len() as u32).to_be_bytes();
        self.requests.write_all(&[&head, code.as_bytes()].concat()).expect("it reads");
        let mut head = [0; 4];
        self.answers.read_exact(&mut head).expect("it answers");
        let mut answer = vec![0; u32::from_be_bytes(head) as usize];
        self.answers.read_exact(&mut answer).expect("it answers");
        answer
    }

    fn cells(&mut self, times: u64) -> Duration {
        let begun = Instant::now();
        for _ in 0..times {
            assert_eq!(self.evaluate(CELL), b"2");
        }
        begun.elapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Session for Bare {
    const NAME: &'static str = "bare `python3` over pipes";

    fn new(parts: &Parts) -> Self {
        Self { parts: parts.clone(), running: None }
    }

    fn start(&mut self) -> Duration {
        self.running = None;
        let begun = Instant::now();
        let mut running = Running::start(Command::new(&self.parts.python));
        assert_eq!(running.evaluate(CELL), b"2");
        let took = begun.elapsed();
        self.running = Some(running);
        took
    }

    fn cells(&mut self, times: u64) -> Duration {
        self.running.as_mut().expect("it was started").cells(times)
    }

    fn process(&mut self) -> Option<u32> {
        self.running.as_ref().map(|running| running.process.id())
    }
}

/// The same, started by `bwrap` in namespaces of its own: nothing may be written, and there is no
/// network.
pub struct Bubblewrap {
    parts: Parts,
    running: Option<Running>,
}

impl Bubblewrap {
    /// What starts a program in such namespaces.
    fn command(parts: &Parts) -> Command {
        let mut command = Command::new("bwrap");
        command.args(["--ro-bind", "/", "/", "--unshare-all"]).arg(&parts.python);
        command
    }

    /// Whether it can be started here.
    ///
    /// # Errors
    ///
    /// If `bwrap` is not there, or may not make namespaces: what the system or `bwrap` says.
    pub fn is_there(parts: &Parts) -> Result<(), String> {
        let ran = Self::command(parts).args(["-c", ""]).output();
        match ran {
            Ok(ran) if ran.status.success() => Ok(()),
            Ok(ran) => Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Session for Bubblewrap {
    const NAME: &'static str = "bare `python3` under `bwrap`";

    fn new(parts: &Parts) -> Self {
        Self { parts: parts.clone(), running: None }
    }

    fn start(&mut self) -> Duration {
        self.running = None;
        let begun = Instant::now();
        let mut running = Running::start(Self::command(&self.parts));
        assert_eq!(running.evaluate(CELL), b"2");
        let took = begun.elapsed();
        self.running = Some(running);
        took
    }

    fn cells(&mut self, times: u64) -> Duration {
        self.running.as_mut().expect("it was started").cells(times)
    }

    /// Python is the last in a line of processes: `bwrap`'s own come before.
    fn process(&mut self) -> Option<u32> {
        let mut process = self.running.as_ref()?.process.id();
        loop {
            let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
            match children.ok()?.split_whitespace().next() {
                Some(child) => process = child.parse().ok()?,
                None => return Some(process),
            }
        }
    }
}
