//! What the contestants are made to do.
//!
//! A workload is a function from a number of repetitions to the time they took, so that criterion
//! and the report can both run it. Making a contestant, its first use on each thread and its end are
//! outside that time, unless they are what the workload is about.

pub mod calls;
pub mod keyed_load;
pub mod python;
pub mod room;
pub mod short_work;

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use sessile::{Pool, Workers};

use crate::page::thousands;
use crate::rivals::channels::{Crossbeam, Flume, Kanal, Std};
use crate::rivals::local_pool_handle::SpawnPinned;
use crate::rivals::ours::{Get, GetRef, With, WithLimits, WithRef};
use crate::rivals::ours_reached::{Loop, Worker};
use crate::rivals::park::PingPong;
use crate::rivals::rayon::Install;
use crate::rivals::{Ask, Post, Rival, SharedRival};
use crate::rivals::{
    dashmap, deadpool, linked, lockfree_object_pool, mutex_map, opool, r2d2, std_tls, thread_local,
};

/// Somebody who runs a workload. What comes of it is the time, or has it.
pub struct Contestant<O = Duration> {
    pub name: &'static str,
    run: Box<dyn Fn(u64) -> O>,
}

impl Contestant {
    fn of<R: Rival>(run: impl Fn(&R, u64) -> Duration + 'static) -> Self {
        let rival = R::new();
        Self { name: R::NAME, run: Box::new(move |times| run(&rival, times)) }
    }

    fn shared<R: SharedRival>(run: impl Fn(&R, u64) -> Duration + 'static) -> Self {
        let rival = R::new();
        Self { name: R::NAME, run: Box::new(move |times| run(&rival, times)) }
    }
}

impl<O> Contestant<O> {
    /// Runs the workload so many times, and says how long that took.
    #[must_use]
    pub fn run(&self, times: u64) -> O {
        (self.run)(times)
    }

    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.name.starts_with("sessile")
    }
}

// ---- using what is there --------------------------------------------------------------------------

/// What is done with the number that was borrowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// `*black_box(value) += 1`. The compiler must assume that everything in memory is looked at
    /// meanwhile, so it has to store each contestant's borrow flag, and to clear it again.
    Opaque,
    /// `*value += 1`. Memory is looked at between two uses, so that they are not folded into one, but
    /// not within one: the compiler may leave out a borrow flag that is set and cleared unseen. Flags
    /// that are atomic it does not leave out.
    Plain,
    /// As `Opaque`, in a function that is not inlined into the loop. Otherwise what does not change
    /// from use to use, such as the address of a thread-local, is computed once before the loop.
    Called,
}

impl Body {
    pub const ALL: [Self; 3] = [Self::Opaque, Self::Plain, Self::Called];

    fn run<R: Rival>(self, rival: &R, times: u64) -> Duration {
        match self {
            Self::Opaque => opaque(rival, times),
            Self::Plain => plain(rival, times),
            Self::Called => called(rival, times),
        }
    }
}

#[inline(never)]
fn opaque<R: Rival>(rival: &R, times: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..times {
        rival.with(|value| *black_box(value) += 1);
    }
    start.elapsed()
}

#[inline(never)]
fn plain<R: Rival>(rival: &R, times: u64) -> Duration {
    let start = Instant::now();
    for at in 0..times {
        black_box(at);
        rival.with(|value| *value += 1);
    }
    start.elapsed()
}

#[inline(never)]
fn called<R: Rival>(rival: &R, times: u64) -> Duration {
    #[inline(never)]
    fn once<R: Rival>(rival: &R) {
        rival.with(|value| *black_box(value) += 1);
    }
    let start = Instant::now();
    for _ in 0..times {
        once(rival);
    }
    start.elapsed()
}

fn alone<R: Rival>(body: Body) -> Contestant {
    Contestant::of(move |rival: &R, times| {
        let _held = rival.hold();
        rival.with(|_| ());
        body.run(rival, times)
    })
}

/// Exclusive use of the thread's own number, on one thread.
#[must_use]
pub fn exclusive(body: Body) -> Vec<Contestant> {
    vec![
        alone::<WithLimits>(body),
        alone::<With>(body),
        alone::<Get>(body),
        alone::<thread_local::GetOr>(body),
        alone::<std_tls::ConstCell>(body),
        alone::<std_tls::ConstRefCell>(body),
        alone::<std_tls::Lazy>(body),
    ]
}

#[inline(never)]
fn look<R: SharedRival>(rival: &R, times: u64) -> Duration {
    rival.with_ref(|_| ());
    let start = Instant::now();
    for _ in 0..times {
        rival.with_ref(|value| {
            black_box(*black_box(value));
        });
    }
    start.elapsed()
}

/// Shared use of the thread's own number, on one thread: it is read, through `black_box`.
#[must_use]
pub fn shared() -> Vec<Contestant> {
    vec![
        Contestant::shared(look::<WithRef>),
        Contestant::shared(look::<GetRef>),
        Contestant::shared(look::<thread_local::GetOr>),
        Contestant::shared(look::<thread_local::GetOrBare>),
        Contestant::shared(look::<std_tls::ConstCell>),
        Contestant::shared(look::<std_tls::ConstRefCell>),
    ]
}

/// Runs a workload on two threads at once, and gives the longer of their times.
fn on_two_threads<R: Rival>(body: Body) -> Contestant {
    Contestant::of(move |rival: &R, times| {
        let start = Barrier::new(2);
        let work = || {
            let _held = rival.hold();
            rival.with(|_| ());
            start.wait();
            body.run(rival, times)
        };
        thread::scope(|s| {
            let [one, other] = [s.spawn(work), s.spawn(work)];
            let [one, other] = [one, other].map(|thread| thread.join().expect("no body panics"));
            one.max(other)
        })
    })
}

/// Getting a number to oneself for a moment: from a pool to check out from, from a map by thread, or
/// the thread's own. All threads share the contestant.
#[must_use]
pub fn checkout(threads: usize) -> Vec<Contestant> {
    fn on<R: Rival>(threads: usize) -> Contestant {
        match threads {
            1 => alone::<R>(Body::Opaque),
            2 => on_two_threads::<R>(Body::Opaque),
            _ => unimplemented!("one thread or two"),
        }
    }
    vec![
        on::<WithLimits>(threads),
        on::<opool::Opool>(threads),
        on::<lockfree_object_pool::Linear>(threads),
        on::<linked::Held>(threads),
        on::<linked::NotHeld>(threads),
        on::<dashmap::ByThread>(threads),
        on::<mutex_map::ByThread>(threads),
        on::<deadpool::Deadpool>(threads),
        on::<r2d2::R2d2>(threads),
    ]
}

// ---- threads that come and go ---------------------------------------------------------------------

/// What a thread costs that does nothing.
pub const BARE: &str = "`thread::spawn` + `join`, nothing else";

fn threads(times: u64, each: impl Fn() + Sync) -> Duration {
    let start = Instant::now();
    for _ in 0..times {
        // Scoped, so that the contestant can be borrowed, and joined by handle: the implicit join of
        // a scope does not wait for destructors of thread-locals.
        thread::scope(|s| s.spawn(&each).join().expect("no body panics"));
    }
    start.elapsed()
}

fn short_lived<R: Rival>() -> Contestant {
    Contestant::of(|rival: &R, times| threads(times, || rival.with(|value| *value += 1)))
}

/// Threads one after the other, each with one use: the number is made, and closed with the thread,
/// by those who do close.
#[must_use]
pub fn churn() -> Vec<Contestant> {
    vec![
        short_lived::<WithLimits>(),
        Contestant { name: BARE, run: Box::new(|times| threads(times, || ())) },
        short_lived::<std_tls::Lazy>(),
        short_lived::<thread_local::GetOr>(),
        short_lived::<linked::NotHeld>(),
        short_lived::<dashmap::ByThread>(),
        short_lived::<mutex_map::ByThread>(),
    ]
}

/// Making and closing an instance over and over on one thread that stays: `with`, then `close_here`.
#[must_use]
pub fn create_and_close(times: u64) -> Duration {
    let pool = sessile::Pool::new(crate::rivals::ours::zero());
    let start = Instant::now();
    for _ in 0..times {
        pool.with(|value| *value += 1).expect("the pool is open");
        pool.close_here().expect("the instance is not in use");
    }
    start.elapsed()
}

// ---- many at once ---------------------------------------------------------------------------------

/// How many live numbers there are at once, and where.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    pub threads: usize,
    pub pools: usize,
}

impl Crowd {
    /// Ten thousand, in three ways.
    pub const ALL: [Self; 3] = [
        Self { threads: 10_000, pools: 1 },
        Self { threads: 100, pools: 100 },
        Self { threads: 1, pools: 10_000 },
    ];

    #[must_use]
    pub fn size(self) -> usize {
        self.threads * self.pools
    }

    /// Makes the contestant's pools and, on each thread, a number in each pool; then closes them all,
    /// while the threads are still there. Tells `watch` how far it has come, and gives the time of the
    /// close.
    pub fn gather<R: Rival>(self, mut watch: impl FnMut(Stage)) -> Duration {
        watch(Stage::Start);
        let pools: Arc<Vec<R>> = Arc::new((0..self.pools).map(|_| R::new()).collect());
        watch(Stage::Pools);

        let step = Arc::new(Barrier::new(self.threads + 1));
        let spawn = |_| {
            let (step, pools) = (Arc::clone(&step), Arc::clone(&pools));
            // Small stacks, for there are many; what a thread does here is not deep.
            let thread = thread::Builder::new().stack_size(64 << 10).spawn(move || {
                step.wait(); // all threads are there
                step.wait(); // begin
                for pool in pools.iter() {
                    pool.with(|value| *value += 1);
                }
                drop(pools);
                step.wait(); // all numbers are there
                step.wait(); // end
            });
            thread.expect("the machine has room for the threads")
        };
        let threads: Vec<_> = (0..self.threads).map(spawn).collect();
        step.wait();
        watch(Stage::Threads);
        step.wait();
        step.wait();
        watch(Stage::Full);

        let pools = Arc::into_inner(pools).expect("the threads have dropped theirs");
        let start = Instant::now();
        R::close(pools);
        let took = start.elapsed();
        watch(Stage::Closed);
        step.wait();
        for thread in threads {
            thread.join().expect("no body panics");
        }
        took
    }
}

/// How far [`Crowd::gather`] has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// There is nothing yet.
    Start,
    /// The pools are there.
    Pools,
    /// The threads are there, and have no number yet.
    Threads,
    /// Every thread has a number in every pool.
    Full,
    /// The numbers and the pools are gone, the threads are still there.
    Closed,
}

impl fmt::Display for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { threads, pools } = self;
        let some = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{} {what}s", thousands(count as i64)),
        };
        write!(f, "{} × {}", some(*threads, "thread"), some(*pools, "pool"))
    }
}

// ---- reaching another thread ----------------------------------------------------------------------

thread_local! {
    /// What has been run of a post, on the thread that runs it.
    static RAN: Cell<u64> = const { Cell::new(0) };
}

/// The time from the first of so many posts until the last has run. Each brings a number
/// along, so that there is something to carry, and is counted, so that none is lost unseen.
fn posting<P: Post>(rival: &P, producers: u64, times: u64) -> Duration {
    let (done, all_done) = mpsc::channel();
    let begin = Barrier::new(producers as usize);
    let produce = |number: u64| {
        let done = done.clone();
        let share = times / producers + u64::from(number < times % producers);
        begin.wait();
        let start = Instant::now();
        for one in 0..share {
            rival.post(move || {
                black_box(one);
                RAN.set(RAN.get() + 1);
            });
        }
        rival.post(move || done.send(RAN.take()).expect("somebody waits"));
        start
    };
    thread::scope(|s| {
        for number in 1..producers {
            let produce = &produce;
            s.spawn(move || produce(number));
        }
        let start = produce(0);
        let ran: u64 = (0..producers).map(|_| all_done.recv().expect("all posts run")).sum();
        let took = start.elapsed();
        assert_eq!(ran, times, "all posts ran once");
        took
    })
}

/// Posts to a thread that is awake once the first has come, from so many threads at once.
#[must_use]
pub fn post(producers: u64) -> Vec<Contestant> {
    fn by<P: Post>(producers: u64) -> Contestant {
        let rival = P::new();
        Contestant { name: P::NAME, run: Box::new(move |times| posting(&rival, producers, times)) }
    }
    vec![
        by::<Loop>(producers),
        by::<Crossbeam>(producers),
        by::<Std>(producers),
        by::<Flume>(producers),
        by::<Kanal>(producers),
    ]
}

/// Where the owner is when it is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The next question comes at once after an answer.
    Awake,
    /// The next question comes when the kernel says that the owner sleeps. Waiting for that is outside
    /// the time.
    Asleep,
}

impl Owner {
    /// The time that so many questions take.
    fn ask(self, times: u64, stat: &Stat, mut ask: impl FnMut(u64)) -> Duration {
        let mut took = Duration::ZERO;
        match self {
            Self::Awake => {
                let start = Instant::now();
                (0..times).for_each(ask);
                took += start.elapsed();
            }
            Self::Asleep => {
                for one in 0..times {
                    stat.wait_asleep();
                    let start = Instant::now();
                    ask(one);
                    took += start.elapsed();
                }
            }
        }
        took
    }
}

/// Where the two threads run. Left to itself the kernel puts them together or apart by chance, and for
/// as long as a process lives; one is many times as slow as the other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Both on one processor: they can only take turns.
    Together,
    /// Each on its own.
    Apart,
}

impl Place {
    /// Has the calling thread, the owner, stay there.
    fn own(self) {
        let processors = allowed();
        let own = match self {
            Self::Together => processors[0],
            Self::Apart => processors[1 % processors.len()],
        };
        stay(own);
    }
}

fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("a thread may ask about itself");
    (0..CpuSet::MAX_CPU).filter(|processor| set.is_set(*processor)).collect()
}

fn stay(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).expect("the processor is one of those allowed");
}

/// Calls it while the calling thread stays on the first processor.
fn on_first<R>(body: impl FnOnce() -> R) -> R {
    let before = sched_getaffinity(None).expect("a thread may ask about itself");
    stay(allowed()[0]);
    let result = body();
    sched_setaffinity(None, &before).expect("they were allowed before");
    result
}

/// What the kernel says of a thread of this process.
struct Stat(File);

impl Stat {
    /// Of the thread that has this number.
    fn of(thread: u64) -> Self {
        let file = File::open(format!("/proc/self/task/{thread}/stat"));
        Self(file.expect("this is Linux, and the thread is there"))
    }

    /// The number of the calling thread.
    fn number() -> u64 {
        let link = fs::read_link("/proc/thread-self").expect("this is Linux");
        let number = link.file_name().and_then(|name| name.to_str());
        number.and_then(|number| number.parse().ok()).expect("it ends with a number")
    }

    fn is_asleep(&self) -> bool {
        let mut line = [0; 64];
        let read = self.0.read_at(&mut line, 0).expect("the thread is there");
        // Behind the name, which stands in parentheses and is of sixteen bytes at most.
        let name_ends = line[..read].iter().rposition(|byte| *byte == b')');
        line[name_ends.expect("the line has a name") + 2] == b'S'
    }

    fn wait_asleep(&self) {
        while !self.is_asleep() {
            // Not by spinning, nor by yielding: the owner may be waiting for this very processor.
            thread::sleep(Duration::from_micros(20));
        }
    }
}

fn asking<A: Ask>(owner: Owner, place: Place) -> Contestant {
    let rival = A::new();
    let number = rival.ask(move || {
        place.own();
        Stat::number()
    });
    let stat = Stat::of(number);
    let ask = move |one| {
        let answer = rival.ask(move || black_box(one) + 1);
        assert_eq!(answer, one + 1);
    };
    let run = move |times| on_first(|| owner.ask(times, &stat, &ask));
    Contestant { name: A::NAME, run: Box::new(run) }
}

/// One question after another, each when the one before is answered.
///
/// # Panics
///
/// If the kernel is not Linux.
#[must_use]
pub fn round_trip(owner: Owner, place: Place) -> Vec<Contestant> {
    let (out, number) = mpsc::channel();
    let bare = PingPong::start(move || {
        place.own();
        out.send(Stat::number()).expect("somebody waits");
    });
    let stat = Stat::of(number.recv().expect("it says its number"));
    let run = move |times| on_first(|| owner.ask(times, &stat, |_| bare.ping()));
    vec![
        asking::<Loop>(owner, place),
        asking::<Worker>(owner, place),
        Contestant { name: PingPong::NAME, run: Box::new(run) },
        asking::<Crossbeam>(owner, place),
        asking::<Std>(owner, place),
        asking::<Flume>(owner, place),
        asking::<Kanal>(owner, place),
        asking::<SpawnPinned>(owner, place),
        asking::<Install>(owner, place),
    ]
}

/// How long it takes from a post until it runs, on a loop that has slept, so many times.
///
/// # Panics
///
/// If the loop is lost.
#[must_use]
pub fn wake_to_run(times: usize, pause: Duration) -> Vec<Duration> {
    let owner = Loop::start();
    let (out, latency) = mpsc::channel();
    let one = |_| {
        thread::sleep(pause);
        let out = out.clone();
        let start = Instant::now();
        let posted = owner.handle().call_soon_threadsafe(move || {
            out.send(start.elapsed()).expect("somebody waits");
        });
        posted.expect("the loop is open");
        latency.recv().expect("the post runs")
    };
    (0..times).map(one).collect()
}

// ---- instances by key -----------------------------------------------------------------------------

/// Instances by key on two workers, and a map with the same keys.
pub struct Keys {
    workers: Workers<u64>,
    map: HashMap<String, u64>,
    names: Vec<String>,
    /// Where the walk through the keys is.
    at: usize,
}

impl Keys {
    /// Starts the workers and makes the names, and no instance.
    ///
    /// # Panics
    ///
    /// If the machine has no room for it.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let workers =
            Workers::builder(Pool::builder(crate::rivals::ours::zero())).threads(2).build();
        let workers: Workers<u64> = workers.expect("the machine has room for two threads");
        let named = |number| format!("conversation-{number}");
        let names: Vec<String> = (0..count).map(named).collect();
        Self { workers, map: HashMap::new(), names, at: 0 }
    }

    /// Makes an instance for each key.
    ///
    /// # Panics
    ///
    /// If one cannot be made.
    pub fn make(&self) {
        let submit = |name: &String| {
            let submitted = self.workers.keyed(name.clone()).submit(|value| *value += 1);
            submitted.expect("the workers are open")
        };
        let submitted: Vec<_> = self.names.iter().map(submit).collect();
        for handle in submitted {
            handle.join().expect("there is room for the instance");
        }
        assert_eq!(self.workers.keys().len(), self.names.len(), "no key had to make room");
    }

    /// Puts each key into the map.
    pub fn fill(&mut self) {
        self.map = self.names.iter().map(|name| (name.clone(), 1)).collect();
    }

    /// Some keys, from all over; all have their turn before one comes again.
    pub fn some(&mut self, count: usize) -> Vec<String> {
        // A stride that has no factor in common with a power of ten.
        const STRIDE: usize = 7_919;
        let next = |_| {
            self.at = (self.at + STRIDE) % self.names.len();
            self.names[self.at].clone()
        };
        (0..count).map(next).collect()
    }

    /// The times of calls by these keys, one after the other: work for the key's instance, and its
    /// answer.
    ///
    /// # Panics
    ///
    /// If there is no answer.
    #[must_use]
    pub fn calls(&self, keys: Vec<String>) -> Vec<f64> {
        let call = |key| {
            let start = Instant::now();
            let submitted = self.workers.keyed(key).submit(|value| *black_box(value));
            let value = submitted.expect("the workers are open").join().expect("no work panics");
            let took = start.elapsed();
            assert_eq!(value, 1, "the instance is the one that was made for the key");
            took.as_nanos() as f64
        };
        keys.into_iter().map(call).collect()
    }

    /// The time of looking these keys up in the map, one after the other.
    ///
    /// # Panics
    ///
    /// If one is not there.
    #[must_use]
    pub fn look_up(&self, keys: &[String]) -> Duration {
        let start = Instant::now();
        for key in keys {
            black_box(*self.map.get(key).expect("the key is there"));
        }
        start.elapsed()
    }
}

/// How long all threads of this process have computed.
#[must_use]
pub fn computed() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

// ---- nothing to do --------------------------------------------------------------------------------

/// Loops and workers that have done something and have nothing more to do.
pub struct Asleep {
    _loops: Vec<Loop>,
    _workers: Option<Workers<u64>>,
}

impl Asleep {
    /// So many threads with a loop each, and so many workers.
    ///
    /// # Panics
    ///
    /// If the machine has no room for them.
    #[must_use]
    pub fn new(loops: usize, workers: usize) -> Self {
        let called = || {
            let one = Loop::start();
            let called = one.handle().call(|| ()).expect("the loop is open");
            called.join().expect("it does not panic");
            one
        };
        let hired = || {
            let pool = Pool::builder(crate::rivals::ours::zero());
            let workers = Workers::builder(pool).threads(workers).build();
            let workers: Workers<u64> = workers.expect("the machine has room for the threads");
            for used in workers.broadcast(|value| *value += 1) {
                let used = used.expect("they are open");
                used.join().expect("it does not panic");
            }
            workers
        };
        Self { _loops: (0..loops).map(|_| called()).collect(), _workers: (workers > 0).then(hired) }
    }
}
