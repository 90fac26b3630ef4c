//! Threads that do work of many keys, one after another for each key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};
use sessile::{Pool, Workers};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::ours::zero;

/// Does blocking work on a number of threads; what has the same key is done one after another.
pub trait Conversations: Send + Sync + Sized + 'static {
    /// What the tables call it.
    const NAME: &'static str;

    /// With so many threads, for the keys below a number.
    fn new(threads: usize, keys: usize) -> Self;

    /// Has some work done with the key's number, and waits until it is done.
    fn converse(&self, key: usize, work: impl FnOnce(&mut u64) + Send + 'static);
}

fn wait(done: &mpsc::Receiver<()>) {
    done.recv().expect("no work panics");
}

/// `Workers`, by key.
pub struct Keyed(Workers<u64, usize>);

impl Conversations for Keyed {
    const NAME: &'static str = "sessile `Workers::keyed`";

    fn new(threads: usize, _: usize) -> Self {
        let workers = Workers::builder(Pool::builder(zero())).threads(threads).build_keyed();
        Self(workers.expect("the machine has room for the threads"))
    }

    fn converse(&self, key: usize, work: impl FnOnce(&mut u64) + Send + 'static) {
        let submitted = self.0.keyed(key).submit(work);
        submitted.expect("the workers are open").join().expect("no work panics");
    }
}

type Numbers = HashMap<usize, Arc<Mutex<u64>>>;

fn numbers(keys: usize) -> Numbers {
    (0..keys).map(|key| (key, Arc::default())).collect()
}

type Boxed = Box<dyn FnOnce() + Send>;

/// A `Mutex` for each key, on threads that take closures from one channel.
pub struct MutexPerKey {
    numbers: Numbers,
    work: Option<crossbeam_channel::Sender<Boxed>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Conversations for MutexPerKey {
    const NAME: &'static str = "`Mutex` per key, threads behind `crossbeam-channel`";

    fn new(threads: usize, keys: usize) -> Self {
        let (work, queue) = crossbeam_channel::unbounded::<Boxed>();
        let start = |_| {
            let queue = queue.clone();
            thread::spawn(move || queue.into_iter().for_each(|work| work()))
        };
        Self {
            numbers: numbers(keys),
            work: Some(work),
            threads: (0..threads).map(start).collect(),
        }
    }

    fn converse(&self, key: usize, work: impl FnOnce(&mut u64) + Send + 'static) {
        let number = Arc::clone(&self.numbers[&key]);
        let (out, done) = mpsc::channel();
        let locked: Boxed = Box::new(move || {
            work(&mut number.lock().expect("no work panics"));
            out.send(()).expect("somebody waits");
        });
        self.work.as_ref().expect("it is open").send(locked).expect("the threads live");
        wait(&done);
    }
}

impl Drop for MutexPerKey {
    fn drop(&mut self) {
        self.work = None;
        self.threads.drain(..).for_each(|thread| thread.join().expect("no work panics"));
    }
}

/// A `Mutex` for each key, on rayon's threads.
pub struct Rayon {
    numbers: Numbers,
    threads: ThreadPool,
}

impl Conversations for Rayon {
    const NAME: &'static str = "`Mutex` per key, `rayon::ThreadPool::spawn`";

    fn new(threads: usize, keys: usize) -> Self {
        let threads = ThreadPoolBuilder::new().num_threads(threads).build();
        Self { numbers: numbers(keys), threads: threads.expect("the machine has room for them") }
    }

    fn converse(&self, key: usize, work: impl FnOnce(&mut u64) + Send + 'static) {
        let number = Arc::clone(&self.numbers[&key]);
        let (out, done) = mpsc::channel();
        self.threads.spawn(move || {
            work(&mut number.lock().expect("no work panics"));
            out.send(()).expect("somebody waits");
        });
        wait(&done);
    }
}

type Told = (Box<dyn FnOnce(&mut u64) + Send>, mpsc::Sender<()>);

/// A task of tokio's for each key, which has the number and does its work by `spawn_blocking`.
pub struct TaskPerKey {
    tasks: Vec<UnboundedSender<Told>>,
    _runtime: Runtime,
}

impl Conversations for TaskPerKey {
    const NAME: &'static str = "tokio task per key, `spawn_blocking`";

    fn new(threads: usize, keys: usize) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(threads)
            .build()
            .expect("the machine has room for the threads");
        let start = |_| {
            let (tell, mut told) = unbounded_channel::<Told>();
            runtime.spawn(async move {
                let mut number = 0;
                while let Some((work, out)) = told.recv().await {
                    let done = tokio::task::spawn_blocking(move || {
                        work(&mut number);
                        number
                    });
                    number = done.await.expect("no work panics");
                    out.send(()).expect("somebody waits");
                }
            });
            tell
        };
        Self { tasks: (0..keys).map(start).collect(), _runtime: runtime }
    }

    fn converse(&self, key: usize, work: impl FnOnce(&mut u64) + Send + 'static) {
        let (out, done) = mpsc::channel();
        let told = self.tasks[key].send((Box::new(work), out));
        assert!(told.is_ok(), "the task lives");
        wait(&done);
    }
}
