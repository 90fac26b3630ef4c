//! `sessile`'s own threads that can be reached: a loop, and a worker.

use std::sync::mpsc;
use std::thread;

use sessile::event_loop::Handle;
use sessile::{EventLoop, Pool, Workers};

use super::ours::zero;
use super::{Ask, Post};

/// A thread that runs a loop, without sources.
pub struct Loop {
    handle: Handle,
    thread: Option<thread::JoinHandle<()>>,
}

impl Loop {
    /// Starts the thread.
    ///
    /// # Panics
    ///
    /// If the system has no thread to give.
    #[must_use]
    pub fn start() -> Self {
        let (out, handle) = mpsc::channel();
        let thread = thread::spawn(move || {
            let event_loop = EventLoop::new();
            out.send(event_loop.handle()).expect("somebody waits for it");
            event_loop.run().expect("there is no poller that could fail");
        });
        Self { handle: handle.recv().expect("the thread makes a loop"), thread: Some(thread) }
    }

    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.handle.stop();
        let ended = self.thread.take().map(thread::JoinHandle::join);
        ended.expect("it is taken only here").expect("the loop contains panics");
    }
}

impl Post for Loop {
    const NAME: &'static str = "sessile `call_soon_threadsafe`";

    fn new() -> Self {
        Self::start()
    }

    #[inline(always)]
    fn post(&self, work: impl FnOnce() + Send + 'static) {
        self.handle.call_soon_threadsafe(work).expect("the loop is open");
    }
}

impl Ask for Loop {
    const NAME: &'static str = "sessile `Handle::call`, `join`";

    fn new() -> Self {
        Self::start()
    }

    #[inline(always)]
    fn ask(&self, work: impl FnOnce() -> u64 + Send + 'static) -> u64 {
        self.handle.call(work).expect("the loop is open").join().expect("no work panics")
    }
}

/// One worker.
pub struct Worker(Workers<u64>);

impl Ask for Worker {
    const NAME: &'static str = "sessile `Workers::submit`, `join`";

    fn new() -> Self {
        let workers = Workers::builder(Pool::builder(zero())).threads(1).build();
        Self(workers.expect("the machine has room for a thread"))
    }

    #[inline(always)]
    fn ask(&self, work: impl FnOnce() -> u64 + Send + 'static) -> u64 {
        let submitted = self.0.submit(move |_| work());
        submitted.expect("the workers are open").join().expect("no work panics")
    }
}
