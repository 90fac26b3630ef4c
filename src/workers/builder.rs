//! Setting up workers.

use std::fmt;
use std::hash::Hash;
use std::ops::{RangeInclusive, RangeToInclusive};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::Workers;
use super::team::{Setup, StartThread, Team};
use super::worker::Desk;
use crate::contain::contain;
use crate::pool::{BuildError, PoolBuilder};

/// Sets up [`Workers`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct WorkersBuilder<T: 'static> {
    pool: PoolBuilder<T>,
    name: String,
    threads: ThreadRange,
    keep_threads_for: Duration,
    stack_size: Option<usize>,
    queue_capacity: usize,
    keyed_queue_capacity: Option<usize>,
    keyed_capacity: usize,
    drop_timeout: Duration,
    on_close: OnClose,
    start_handler: Option<ThreadHandler>,
    exit_handler: Option<ThreadHandler>,
    #[cfg(feature = "core_affinity")]
    core_affinity: bool,
}

type ThreadHandler = Box<dyn Fn(usize) + Send + Sync>;

/// How many threads there are: at least, and at most. From a number, or a range of them.
///
/// ```
/// use sessile::workers::ThreadRange;
///
/// assert_eq!(ThreadRange::from(4), ThreadRange::from(4..=4));
/// assert_eq!(ThreadRange::from(..=8), ThreadRange::from(0..=8));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadRange {
    least: usize,
    most: usize,
}

impl ThreadRange {
    fn new(least: usize, most: usize) -> Self {
        let most = most.max(1);
        Self { least: least.min(most), most }
    }
}

/// So many, always. Zero counts as one.
impl From<usize> for ThreadRange {
    fn from(threads: usize) -> Self {
        Self::new(threads.max(1), threads)
    }
}

/// From the first to the second, as they are needed. With zero as the first there is none while there is
/// nothing to do; zero as the second counts as one.
impl From<RangeInclusive<usize>> for ThreadRange {
    fn from(threads: RangeInclusive<usize>) -> Self {
        Self::new(*threads.start(), *threads.end())
    }
}

/// As from zero.
impl From<RangeToInclusive<usize>> for ThreadRange {
    fn from(threads: RangeToInclusive<usize>) -> Self {
        Self::new(0, threads.end)
    }
}

/// What becomes of queued work when somebody else orders the workers closed: by
/// [`Pool::close`](crate::Pool::close), [`Registry::close_all`](crate::Registry::close_all), or a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnClose {
    /// It is done, up to the deadline; then it is handed back, as by
    /// [`Workers::shutdown`](super::Workers::shutdown).
    #[default]
    Drain,
    /// It is handed back at once, as by [`Workers::abort`](super::Workers::abort).
    HandBack,
}

impl<T> WorkersBuilder<T> {
    pub(super) fn new(pool: PoolBuilder<T>) -> Self {
        Self {
            pool,
            name: "worker".to_owned(),
            threads: thread::available_parallelism().map_or(1, usize::from).into(),
            keep_threads_for: Duration::from_secs(60),
            stack_size: None,
            queue_capacity: 1024,
            keyed_queue_capacity: None,
            keyed_capacity: 1 << 16,
            drop_timeout: Duration::from_secs(5),
            on_close: OnClose::default(),
            start_handler: None,
            exit_handler: None,
            #[cfg(feature = "core_affinity")]
            core_affinity: false,
        }
    }

    /// Sets what the threads are called, with a hyphen and their number behind it.
    ///
    /// Default: `worker`.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).name("mule").build()?;
    /// let name = workers.submit(|_| std::thread::current().name().map(str::to_owned))?.join()?;
    /// assert!(name.is_some_and(|name| name.starts_with("mule-")));
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how many threads there are: a number, or a range of them.
    ///
    /// With a range, `build` starts the least number. Work that finds nobody free has one more started,
    /// up to the most; so does a key's first work, where all others are busy. One that has had
    /// nothing to do [for a while](Self::keep_threads_for), and keeps no key's instance, ends, and closes
    /// its own instance.
    ///
    /// Default: one for each processor. Zero counts as one.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// # let pool = || Pool::builder(from_fn(|_| 0));
    /// // Handlers that wait for others most of the time.
    /// let handlers = Workers::builder(pool()).threads(1..=1000).build()?;
    /// assert_eq!(handlers.status().threads, 1);
    /// assert_eq!(handlers.threads(), 1000);
    ///
    /// let fixed = Workers::builder(pool()).threads(2).build()?;
    /// assert_eq!(fixed.status().threads, 2);
    /// # Ok::<(), sessile::pool::BuildError>(())
    /// ```
    pub fn threads(mut self, threads: impl Into<ThreadRange>) -> Self {
        self.threads = threads.into();
        self
    }

    /// Sets how long a thread beyond the least number waits for work before it ends.
    ///
    /// Default: 60 s.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// use std::time::Duration;
    ///
    /// let pool = Pool::builder(from_fn(|_| 20));
    /// let minute = Duration::from_secs(60);
    /// let workers = Workers::builder(pool).threads(1..=64).keep_threads_for(minute).build()?;
    /// assert_eq!(workers.status().threads, 1);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn keep_threads_for(mut self, idle: Duration) -> Self {
        self.keep_threads_for = idle;
        self
    }

    /// Sets the size of each thread's stack, in bytes.
    ///
    /// Default: the standard library's, 2 MiB.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).stack_size(4 << 20).build()?;
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Has each thread call this as its first act, with its number. A panic in it is caught.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 0)))
    ///     .threads(2)
    ///     .stack_size(256 * 1024)
    ///     .start_handler(|n| println!("worker {n} begins"))
    ///     .exit_handler(|n| println!("worker {n} ends"))
    ///     .build()?;
    /// # Ok::<(), sessile::pool::BuildError>(())
    /// ```
    pub fn start_handler(mut self, handler: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.start_handler = Some(Box::new(handler));
        self
    }

    /// Has each thread call this as its last act, with its number, after its instances were closed. A
    /// panic in it is caught.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).exit_handler(|number| println!("worker {number} has ended")).build()?;
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn exit_handler(mut self, handler: impl Fn(usize) + Send + Sync + 'static) -> Self {
        self.exit_handler = Some(Box::new(handler));
        self
    }

    /// Sets how much work may wait at most: for whichever worker is free, and for each worker that work
    /// is given to by number.
    ///
    /// Default: 1024. Zero counts as one.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).queue_capacity(1_000).build()?;
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn queue_capacity(mut self, works: usize) -> Self {
        self.queue_capacity = works.max(1);
        self
    }

    /// Sets how much work may wait at most for each key. Keys have their queues to themselves: one that
    /// is full takes no room from others.
    ///
    /// Default: as [`queue_capacity`](Self::queue_capacity). Zero counts as one.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// # use std::sync::mpsc;
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 0)))
    ///     .threads(1)
    ///     .keyed_queue_capacity(1)
    ///     .build()?;
    /// let (alice, bob) = (workers.keyed("alice".to_owned()), workers.keyed("bob".to_owned()));
    /// let (open, opened) = mpsc::channel();
    /// let (tell, told) = mpsc::channel();
    /// let first = alice.submit(move |_| {
    ///     tell.send(()).unwrap();
    ///     opened.recv().unwrap();
    /// })?;
    /// told.recv()?; // it runs
    /// drop(alice.submit(|_| ())?);
    /// let refused = alice.try_submit(|_| ()).unwrap_err();
    /// assert!(refused.is_key_full());
    /// assert_eq!(refused.to_string(), "the queue of key `alice` is full: it takes 1 and no more");
    /// assert!(bob.try_submit(|_| ()).is_ok());
    /// open.send(())?;
    /// # first.join()?;
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn keyed_queue_capacity(mut self, works: usize) -> Self {
        self.keyed_queue_capacity = Some(works.max(1));
        self
    }

    /// Sets how many keyed instances each worker keeps at most. To make another, it closes the one that
    /// was used least recently.
    ///
    /// Default: 65,536. Zero counts as one.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).keyed_capacity(10_000).build()?;
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn keyed_capacity(mut self, instances: usize) -> Self {
        self.keyed_capacity = instances.max(1);
        self
    }

    /// Sets how long dropping [`Workers`] waits for work to be done and instances to be closed.
    ///
    /// Default: 5 s.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// use std::time::Duration;
    ///
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).drop_timeout(Duration::from_secs(1)).build()?;
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn drop_timeout(mut self, wait: Duration) -> Self {
        self.drop_timeout = wait;
        self
    }

    /// Sets what becomes of queued work when the pool, or all of its registry, is ordered closed.
    ///
    /// Default: [`OnClose::Drain`].
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// use sessile::workers::OnClose;
    ///
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 0)))
    ///     .on_close(OnClose::HandBack)
    ///     .build()?;
    /// # Ok::<(), sessile::pool::BuildError>(())
    /// ```
    pub fn on_close(mut self, on_close: OnClose) -> Self {
        self.on_close = on_close;
        self
    }

    /// Sets whether each worker stays on a processor of its own, as far as there are any.
    ///
    /// Default: no.
    #[cfg(feature = "core_affinity")]
    pub fn core_affinity(mut self, pinned: bool) -> Self {
        self.core_affinity = pinned;
        self
    }

    /// Starts the threads, with keys that are `String`s. No instance is made yet.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 1))).threads(2).build()?;
    /// assert_eq!(workers.submit(|n| *n)?.join()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If an option of the pool makes no sense, or the system has no thread to give; those started
    /// already end then.
    pub fn build(self) -> Result<Workers<T>, BuildError> {
        self.build_keyed()
    }

    /// Starts the threads, with keys of type `K`. No instance is made yet.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// # let sessions = Pool::builder(from_fn(|_| Vec::<String>::new()));
    /// let workers = Workers::builder(sessions).threads(2).build_keyed::<u64>()?;
    /// workers.keyed(7).submit(|log| log.push("hello".to_owned()))?.join()?;
    /// assert_eq!(workers.keys(), [7]);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn build_keyed<K>(self) -> Result<Workers<T, K>, BuildError>
    where
        K: Eq + Hash + Clone + ToString + Send + Sync + 'static,
    {
        let start = start(Threads {
            name: self.name,
            stack_size: self.stack_size,
            on_start: self.start_handler,
            on_exit: self.exit_handler,
            #[cfg(feature = "core_affinity")]
            cores: match self.core_affinity {
                true => core_affinity::get_core_ids().unwrap_or_default(),
                false => Vec::new(),
            },
        });
        let ThreadRange { least, most } = self.threads;
        let team = Team::new(Setup {
            pool: self.pool.build()?,
            least,
            most,
            queue_capacity: self.queue_capacity,
            key_queue_capacity: self.keyed_queue_capacity.unwrap_or(self.queue_capacity),
            keyed_capacity: self.keyed_capacity,
            keep_threads_for: self.keep_threads_for,
            on_close: self.on_close,
            start,
            work: |team, number| Desk::new(team, number).work(),
        });
        let workers = Workers::of(team, self.drop_timeout);
        for number in 0..least {
            workers.team.queues.take_vacant(number);
            workers.team.start(number).map_err(BuildError::thread)?;
        }
        Ok(workers)
    }
}

/// What all threads have in common.
struct Threads {
    name: String,
    stack_size: Option<usize>,
    on_start: Option<ThreadHandler>,
    on_exit: Option<ThreadHandler>,
    #[cfg(feature = "core_affinity")]
    cores: Vec<core_affinity::CoreId>,
}

fn start(threads: Threads) -> StartThread {
    let threads = Arc::new(threads);
    Box::new(move |number, life| {
        let mut builder = thread::Builder::new().name(format!("{}-{number}", threads.name));
        if let Some(bytes) = threads.stack_size {
            builder = builder.stack_size(bytes);
        }
        let threads = Arc::clone(&threads);
        builder.spawn(move || {
            #[cfg(feature = "core_affinity")]
            if let Some(core) = threads.cores.get(number) {
                core_affinity::set_for_current(*core);
            }
            if let Some(handler) = &threads.on_start {
                let _ = contain(|| handler(number));
            }
            life(&|| {
                if let Some(handler) = &threads.on_exit {
                    let _ = contain(|| handler(number));
                }
            });
        })
    })
}

impl<T> fmt::Debug for WorkersBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkersBuilder")
            .field("pool", &self.pool)
            .field("name", &self.name)
            .field("threads", &self.threads)
            .field("queue_capacity", &self.queue_capacity)
            .field("keyed_queue_capacity", &self.keyed_queue_capacity)
            .field("keyed_capacity", &self.keyed_capacity)
            .field("on_close", &self.on_close)
            .finish_non_exhaustive()
    }
}
