//! Threads that run whatever small work they are handed.

use std::thread;

use crossbeam_channel::{Sender, bounded};
use rayon::{ThreadPool, ThreadPoolBuilder};
use sessile::{Pool, Workers};

use super::ours::zero;

/// How many works may be queued, where there is a limit.
pub const QUEUE: usize = 1024;

/// Runs small works on a number of threads; they end when this is dropped.
pub trait Hands: Send + Sync + Sized + 'static {
    /// What the tables call it.
    const NAME: &'static str;

    fn new(threads: usize) -> Self;

    /// Hands over some work, which belongs to a key where there are keys.
    fn hand(&self, key: usize, work: impl FnOnce() + Send + 'static);
}

fn workers(threads: usize) -> Workers<u64, usize> {
    let workers = Workers::builder(Pool::builder(zero())).threads(threads).queue_capacity(QUEUE);
    workers.build_keyed().expect("the machine has room for the threads")
}

/// `Workers::submit`, for whoever is free.
pub struct Submit(Workers<u64, usize>);

impl Hands for Submit {
    const NAME: &'static str = "sessile `Workers::submit`";

    fn new(threads: usize) -> Self {
        Self(workers(threads))
    }

    #[inline(always)]
    fn hand(&self, _: usize, work: impl FnOnce() + Send + 'static) {
        let submitted = self.0.submit(move |number| {
            *number += 1;
            work();
        });
        submitted.expect("the workers are open").detach();
    }
}

/// `Keyed::submit`, the key being looked up each time.
pub struct SubmitKeyed(Workers<u64, usize>);

impl Hands for SubmitKeyed {
    const NAME: &'static str = "sessile `Keyed::submit`";

    fn new(threads: usize) -> Self {
        Self(workers(threads))
    }

    #[inline(always)]
    fn hand(&self, key: usize, work: impl FnOnce() + Send + 'static) {
        let submitted = self.0.keyed(key).submit(move |number| {
            *number += 1;
            work();
        });
        submitted.expect("the workers are open").detach();
    }
}

type Boxed = Box<dyn FnOnce() + Send>;

/// Threads that take boxed closures from one channel with a limit.
pub struct Channel {
    work: Option<Sender<Boxed>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Hands for Channel {
    const NAME: &'static str = "boxed closures, `crossbeam-channel`";

    fn new(threads: usize) -> Self {
        let (work, queue) = bounded::<Boxed>(QUEUE);
        let start = |_| {
            let queue = queue.clone();
            thread::spawn(move || queue.into_iter().for_each(|work| work()))
        };
        Self { work: Some(work), threads: (0..threads).map(start).collect() }
    }

    #[inline(always)]
    fn hand(&self, _: usize, work: impl FnOnce() + Send + 'static) {
        let work: Boxed = Box::new(work);
        self.work.as_ref().expect("it is open").send(work).expect("the threads live");
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.work = None;
        self.threads.drain(..).for_each(|thread| thread.join().expect("no work panics"));
    }
}

/// `rayon::ThreadPool::spawn`, whose queue has no limit.
pub struct Spawn(ThreadPool);

impl Hands for Spawn {
    const NAME: &'static str = "`rayon::ThreadPool::spawn`";

    fn new(threads: usize) -> Self {
        let threads = ThreadPoolBuilder::new().num_threads(threads).build();
        Self(threads.expect("the machine has room for the threads"))
    }

    #[inline(always)]
    fn hand(&self, _: usize, work: impl FnOnce() + Send + 'static) {
        self.0.spawn(work);
    }
}
