//! Clients of kernels, in Python: one script (`clients.py`), which takes its times itself.

use std::io::{BufRead, BufReader, Write};
use std::marker::PhantomData;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::gateway::TOKEN;
use super::{Parts, Session};

/// Which of the script's.
pub trait Which: 'static {
    const NAME: &'static str;
    /// What the script calls it.
    const WORD: &'static str;
}

pub enum Blocking {}

impl Which for Blocking {
    const NAME: &'static str = "`jupyter_client.BlockingKernelClient`";
    const WORD: &'static str = "blocking";
}

pub enum WebSocket {}

impl Which for WebSocket {
    const NAME: &'static str = "gateway, Python's `websocket-client`";
    const WORD: &'static str = "websocket";
}

pub enum Qwen {}

impl Which for Qwen {
    const NAME: &'static str = "Qwen-Agent's tool, 0.0.31";
    const WORD: &'static str = "qwen";
}

/// The script, in a process of its own.
pub struct Client<W> {
    process: Child,
    /// `None` once it is told to end.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    _which: PhantomData<W>,
}

impl<W> Client<W> {
    fn ask(&mut self, order: &str) -> u64 {
        let orders = self.orders.as_mut().expect("it has not ended");
        writeln!(orders, "{order}").expect("it reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("it answers");
        answer.trim().parse().unwrap_or_else(|_| panic!("the script ended amid `{order}`"))
    }
}

impl<W: Which> Session for Client<W> {
    const NAME: &'static str = W::NAME;

    fn new(parts: &Parts) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/rivals/interpreters/clients.py");
        let home = parts.python.parent().and_then(|bin| bin.parent()).expect("an environment");
        let mut process = Command::new(&parts.python)
            .args([script, W::WORD, &parts.port.to_string(), TOKEN])
            // Where it remembers what fonts there are: to look for them takes longer than all else.
            .env("MPLCONFIGDIR", home.join("matplotlib"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python is there");
        let orders = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("it is piped"));
        Self { process, orders, answers, _which: PhantomData }
    }

    fn start(&mut self) -> Duration {
        Duration::from_nanos(self.ask("start"))
    }

    fn cells(&mut self, times: u64) -> Duration {
        Duration::from_nanos(self.ask(&format!("cells {times}")))
    }

    fn process(&mut self) -> Option<u32> {
        Some(self.ask("process") as u32)
    }
}

impl<W> Drop for Client<W> {
    fn drop(&mut self) {
        // At the end of its input it ends its kernel.
        drop(self.orders.take());
        let _ = self.process.wait();
    }
}
