//! What the contestants are made to do.
//!
//! A workload is a function from a number of repetitions to the time they took, so that criterion
//! and the report can both run it. Making a contestant, its first use on each thread and its end are
//! outside that time, unless they are what the workload is about.

use std::fmt;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::page::thousands;
use crate::rivals::ours::{Get, GetRef, With, WithLimits, WithRef};
use crate::rivals::{Rival, SharedRival};
use crate::rivals::{
    dashmap, deadpool, linked, lockfree_object_pool, mutex_map, opool, r2d2, std_tls, thread_local,
};

/// Somebody who runs a workload.
pub struct Contestant {
    pub name: &'static str,
    run: Box<dyn Fn(u64) -> Duration>,
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

    /// Runs the workload so many times, and says how long that took.
    #[must_use]
    pub fn run(&self, times: u64) -> Duration {
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
    let pool = sessile::Pool::new(crate::rivals::ours::zero);
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
