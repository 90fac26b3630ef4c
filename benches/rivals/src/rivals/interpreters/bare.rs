//! A bare `python3` that evaluates what it reads: the least that a Python in a process of its own can
//! do.

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
    fn start(parts: &Parts) -> Self {
        let mut command = Command::new(&parts.python);
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("Python is there");
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
        let mut running = Running::start(&self.parts);
        assert_eq!(running.evaluate(CELL), b"2");
        let took = begun.elapsed();
        self.running = Some(running);
        took
    }

    fn cells(&mut self, times: u64) -> Duration {
        let running = self.running.as_mut().expect("it was started");
        let begun = Instant::now();
        for _ in 0..times {
            assert_eq!(running.evaluate(CELL), b"2");
        }
        begun.elapsed()
    }

    fn process(&mut self) -> Option<u32> {
        self.running.as_ref().map(|running| running.process.id())
    }
}
