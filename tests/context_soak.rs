//! Loops and workers under everything at once: posts, timers, cancels, panics, closes, evictions,
//! ends. What may go wrong is a job that is lost, run twice, or run after it came back; an instance
//! that is shared, or never closed; a thread or a descriptor that stays; and a wait without an end.
//!
//! `SESSILE_SOAK_SEED` sets the seed. It fixes what each thread asks for, not how they interleave.

mod support;

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::future::{self, Future};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::marker::PhantomData;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError, mpsc};
use std::task::Poll;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use sessile::event_loop::{Handle, LocalHandle};
use sessile::event_loop::{Interest, PostError, Scheduled};
use sessile::manager::{CloseReason, InterruptHandle};
use sessile::task::{JoinError, JoinHandle};
use sessile::workers::Submitted;
use sessile::{CreateContext, EventLoop, Manager, Pool, PoolBuilder, Registry, Workers};
use support::{PATIENCE, Rng, block_on};

/// What a panic on purpose begins with. The panic hook passes it over in silence.
const ON_PURPOSE: &str = "soak: ";

const LOOPS: usize = 2;
const PRODUCERS: usize = 3;
const KEYS: u64 = 12;

#[test]
fn two_seconds_of_everything_lose_a_job() {
    soak(Duration::from_secs(2));
}

#[test]
#[ignore = "takes two minutes"]
fn two_minutes_of_everything_lose_a_job() {
    soak(Duration::from_secs(120));
}

fn soak(duration: Duration) {
    static ALONE: Mutex<()> = Mutex::new(()); // threads and descriptors are counted
    let _alone = lock(&ALONE);
    let seed = match std::env::var("SESSILE_SOAK_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().expect("past 1970").as_nanos() as u64,
    };
    println!("SESSILE_SOAK_SEED={seed}");
    pass_over_panics_on_purpose();
    let descriptors = descriptors();
    let soak = Arc::new(Soak::new());
    let dog = watchdog(&soak, seed, duration + 2 * PATIENCE);
    let mut rng = Rng::new(seed);
    let spawn = |name: String, rng: Rng, act: fn(&Arc<Soak>, usize, Rng), number| {
        let soak = Arc::clone(&soak);
        let act = move || act(&soak, number, rng);
        thread::Builder::new().name(name).spawn(act).expect("a thread can be had")
    };
    let mut keepers = vec![
        spawn("soak-crew-local".to_owned(), rng.fork(), keep_local_crew, 0),
        spawn("soak-crew".to_owned(), rng.fork(), keep_crew, 0),
    ];
    for number in 0..LOOPS {
        keepers.push(spawn(format!("soak-loop-{number}"), rng.fork(), keep_loop, number));
    }
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|number| spawn(format!("soak-producer-{number}"), rng.fork(), produce, number))
        .collect();

    soak.pause(duration);
    // Producers first: the keepers answer them to the last.
    soak.producers_end.set();
    join(&soak, producers);
    soak.end.set();
    for slot in &soak.loops {
        if let Some(handle) = lock(slot).as_ref() {
            handle.stop();
        }
    }
    join(&soak, keepers);
    lock(&soak.futures).clear();
    for slot in &soak.loops {
        lock(slot).take();
    }

    // A job's last breath may be on a worker that nobody has joined: the one that dropped `Workers`.
    let settled = || {
        let all_jobs = soak.tally.iter().all(|verb| verb.open() == 0);
        all_jobs && soak.registry.snapshot().instances.is_empty() && our_threads().is_empty()
    };
    let end = Instant::now() + PATIENCE;
    while !settled() && Instant::now() < end {
        thread::yield_now();
    }
    drop(dog);
    let (made, closed) = (soak.count(&soak.house.made), soak.count(&soak.house.closed));
    let dropped = soak.count(&soak.house.dropped);
    println!("{soak}");
    assert!(lock(&soak.house.wrong).is_empty() && settled(), "seed {seed}\n{soak}");
    assert_eq!((made, made), (closed, dropped), "made, closed and dropped; seed {seed}");
    assert_eq!(soak.homes.status().size, 0);
    // What has not happened has not been tried.
    for told in Told::ALL {
        assert_ne!(
            soak.count(&soak.told[told as usize]),
            0,
            "{told:?} has not happened; seed {seed}"
        );
    }
    drop(soak);
    assert_eq!(self::descriptors(), descriptors, "descriptors; seed {seed}");
}

fn join(soak: &Soak, threads: Vec<thread::JoinHandle<()>>) {
    for thread in threads {
        let name = thread.thread().name().unwrap_or_default().to_owned();
        if thread.join().is_err() {
            soak.house.wrong(format!("{name} has panicked"));
        }
    }
}

/// Nobody hangs: after this long the state is shown and the process ends. Dropped, it is called off.
fn watchdog(soak: &Arc<Soak>, seed: u64, within: Duration) -> mpsc::Sender<()> {
    let (calls_off, called_off) = mpsc::channel();
    let soak = Arc::downgrade(soak);
    thread::spawn(move || {
        if called_off.recv_timeout(within) == Err(mpsc::RecvTimeoutError::Timeout) {
            let soak = soak.upgrade().map(|soak| soak.to_string()).unwrap_or_default();
            eprintln!("it does not end; seed {seed}\nthreads: {:?}\n{soak}", our_threads());
            std::process::abort();
        }
    });
    calls_off
}

fn pass_over_panics_on_purpose() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tells = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<&str>().copied();
            let text = text.or_else(|| info.payload().downcast_ref::<String>().map(|s| &**s));
            if text.is_none_or(|text| !text.starts_with(ON_PURPOSE)) {
                tells(info);
            }
        }));
    });
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

/// The threads of this soak that there are. Others are the test harness's.
fn our_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    let names = tasks.filter_map(|task| {
        let name = std::fs::read_to_string(task.ok()?.path().join("comm")).ok()?;
        name.starts_with("soak").then(|| name.trim().to_owned())
    });
    names.collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- the books --------------------------------------------------------------------------------

/// By which verb a job was sent.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Soon,
    Later,
    Call,
    LocalSoon,
    LocalLater,
    Future,
    Submit,
    SubmitTo,
    Broadcast,
    Keyed,
}

impl Verb {
    const ALL: [Self; 10] = [
        Self::Soon,
        Self::Later,
        Self::Call,
        Self::LocalSoon,
        Self::LocalLater,
        Self::Future,
        Self::Submit,
        Self::SubmitTo,
        Self::Broadcast,
        Self::Keyed,
    ];
}

/// What the sender was told of its job.
#[derive(Clone, Copy, Debug)]
enum Told {
    Returned,
    Panicked,
    /// It came back from `cancel`.
    CancelledByUs,
    /// It came back from the handle.
    Cancelled,
    NoInstance,
    Full,
    Closed,
    Deadlock,
    /// The handle was dropped, or there was none.
    Nothing,
}

impl Told {
    const ALL: [Self; 9] = [
        Self::Returned,
        Self::Panicked,
        Self::CancelledByUs,
        Self::Cancelled,
        Self::NoInstance,
        Self::Full,
        Self::Closed,
        Self::Deadlock,
        Self::Nothing,
    ];
}

#[derive(Default)]
struct Tally {
    sent: AtomicUsize,
    ran: AtomicUsize,
    unrun: AtomicUsize,
}

impl Tally {
    fn open(&self) -> usize {
        let ended = self.ran.load(Ordering::SeqCst) + self.unrun.load(Ordering::SeqCst);
        self.sent.load(Ordering::SeqCst).wrapping_sub(ended)
    }
}

const OPEN: u8 = 0;
const RAN: u8 = 1;
const UNRUN: u8 = 2;

/// The sender's side of a job.
struct Job {
    verb: Verb,
    fate: AtomicU8,
    /// It has come back, or was cancelled in time.
    must_not_run: AtomicBool,
}

impl Job {
    fn fate(&self) -> u8 {
        self.fate.load(Ordering::SeqCst)
    }
}

/// The job's own side: what the closure holds. Run, or dropped, it settles the job.
struct Ticket {
    job: Arc<Job>,
    soak: Arc<Soak>,
}

impl Ticket {
    fn run(self) {
        let before = self.job.fate.swap(RAN, Ordering::SeqCst);
        if before != OPEN || self.job.must_not_run.load(Ordering::SeqCst) {
            self.soak.house.wrong(format!("{:?} ran, after {before}", self.job.verb));
        }
        self.soak.tally[self.job.verb as usize].ran.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let (seq, job) = (Ordering::SeqCst, &self.job);
        match job.fate.compare_exchange(OPEN, UNRUN, seq, seq) {
            Ok(_) => {
                self.soak.tally[job.verb as usize].unrun.fetch_add(1, seq);
            }
            Err(RAN) => {}
            Err(_) => self.soak.house.wrong(format!("{:?} dropped twice", job.verb)),
        }
    }
}

/// A broadcast is a job for each worker, and one that stays with the caller.
impl Clone for Ticket {
    fn clone(&self) -> Self {
        self.soak.job(self.job.verb).1
    }
}

struct Soak {
    tally: [Tally; Verb::ALL.len()],
    told: [AtomicUsize; Told::ALL.len()],
    house: Arc<House>,
    registry: Registry,
    loops: [Mutex<Option<Handle>>; LOOPS],
    local_crew: Mutex<Option<Arc<Crew<Stay>>>>,
    crew: Mutex<Option<Arc<Crew<Move>>>>,
    /// Instances of the loops' threads.
    homes: Pool<Session<Stay>>,
    /// Handles from the loops, for the producers to wait for.
    futures: Mutex<Vec<Pending>>,
    generations: AtomicUsize,
    producers_end: Flag,
    end: Flag,
}

type Crew<M> = Workers<Session<M>, u64>;

/// Set once, and waited for.
#[derive(Default)]
struct Flag(Mutex<bool>, Condvar);

impl Flag {
    fn set(&self) {
        *lock(&self.0) = true;
        self.1.notify_all();
    }

    fn is_set(&self) -> bool {
        *lock(&self.0)
    }

    /// Waits until it is set, but no longer than this.
    fn wait(&self, wait: Duration) {
        drop(self.1.wait_timeout_while(lock(&self.0), wait, |set| !*set));
    }
}

impl Soak {
    fn new() -> Self {
        let (house, registry) = (Arc::<House>::default(), Registry::new());
        let homes = Pool::builder_local(Keeps::<Stay>::new(&house, 0)).registry(&registry);
        Self {
            tally: Default::default(),
            told: Default::default(),
            homes: homes.name("homes").build().expect("valid options"),
            house,
            registry,
            loops: Default::default(),
            local_crew: Mutex::default(),
            crew: Mutex::default(),
            futures: Mutex::default(),
            generations: AtomicUsize::new(0),
            producers_end: Flag::default(),
            end: Flag::default(),
        }
    }

    fn count(&self, of: &AtomicUsize) -> usize {
        of.load(Ordering::SeqCst)
    }

    fn pause(&self, wait: Duration) {
        self.end.wait(wait);
    }

    fn job(self: &Arc<Self>, verb: Verb) -> (Arc<Job>, Ticket) {
        self.tally[verb as usize].sent.fetch_add(1, Ordering::SeqCst);
        let job = Job { verb, fate: AtomicU8::new(OPEN), must_not_run: AtomicBool::new(false) };
        let job = Arc::new(job);
        (Arc::clone(&job), Ticket { job, soak: Arc::clone(self) })
    }

    /// Notes what the sender was told, and compares it with what became of the job.
    fn told(&self, job: &Job, told: Told) {
        self.told[told as usize].fetch_add(1, Ordering::SeqCst);
        let fate = job.fate();
        let fits = match told {
            Told::Returned | Told::Panicked => fate == RAN,
            Told::CancelledByUs
            | Told::Cancelled
            | Told::NoInstance
            | Told::Full
            | Told::Closed => fate == UNRUN,
            Told::Deadlock | Told::Nothing => true,
        };
        if !fits {
            self.house.wrong(format!("{:?}: told {told:?}, but it is {fate}", job.verb));
        }
    }

    /// What was refused has come back, and is dropped here.
    fn refused<F>(&self, job: &Job, refused: PostError<F>) {
        let told = if refused.is_full() { Told::Full } else { Told::Closed };
        if job.fate() != OPEN {
            self.house.wrong(format!("{:?} was refused, and is {}", job.verb, job.fate()));
        }
        drop(refused);
        self.told(job, told);
    }

    fn resolved<B>(&self, job: &Job, result: Result<(), JoinError<B>>) {
        let error = match result {
            Ok(()) => return self.told(job, Told::Returned),
            Err(error) if error.is_panic() => return self.told(job, Told::Panicked),
            Err(error) if error.is_deadlock() => return self.told(job, Told::Deadlock),
            Err(error) => error,
        };
        let told = if error.is_no_instance() { Told::NoInstance } else { Told::Cancelled };
        match error.into_body() {
            Some(body) => drop(body),
            None => {
                self.house.wrong(format!("{:?}: {told:?}, without the work", job.verb));
            }
        }
        self.told(job, told);
    }

    fn any_loop(&self, rng: &mut Rng) -> Option<Handle> {
        lock(&self.loops[rng.below(LOOPS as u64) as usize]).clone()
    }
}

impl fmt::Display for Soak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for verb in Verb::ALL {
            let Tally { sent, ran, unrun } = &self.tally[verb as usize];
            writeln!(f, "{verb:?}: {sent:?} sent, {ran:?} run, {unrun:?} not run")?;
        }
        for told in Told::ALL {
            write!(f, "{told:?} {:?}, ", self.told[told as usize])?;
        }
        let House { made, closed, dropped, asked, wrong, steps } = &*self.house;
        writeln!(f, "{:?} loops and crews", self.generations)?;
        writeln!(f, "instances: {made:?} made, {closed:?} closed, {dropped:?} dropped")?;
        writeln!(f, "{asked:?} asked to stop")?;
        writeln!(f, "alive: {}", self.registry.snapshot())?;
        let mut last = String::new();
        for (name, step) in &*lock(steps) {
            write!(last, "{name}: {step}; ")?;
        }
        writeln!(f, "last steps: {last}")?;
        writeln!(f, "wrong: {:#?}", lock(wrong))
    }
}

// ---- instances --------------------------------------------------------------------------------

/// What outlives everything else.
#[derive(Default)]
struct House {
    made: AtomicUsize,
    closed: AtomicUsize,
    dropped: AtomicUsize,
    /// How often an interrupt was pulled.
    asked: AtomicUsize,
    wrong: Mutex<Vec<String>>,
    steps: Mutex<std::collections::BTreeMap<String, &'static str>>,
}

impl House {
    fn wrong(&self, what: String) {
        let mut wrong = lock(&self.wrong);
        if wrong.len() < 20 {
            wrong.push(what); // the first tell most
        }
    }

    /// What this thread is about to do, for whoever finds it stuck there.
    fn step(&self, step: &'static str) {
        let thread = thread::current();
        let mut steps = lock(&self.steps);
        match steps.get_mut(thread.name().unwrap_or_default()) {
            Some(last) => *last = step,
            None => drop(steps.insert(thread.name().unwrap_or_default().to_owned(), step)),
        }
    }
}

/// Must not leave its thread.
type Stay = *const ();
type Move = ();

struct Session<M> {
    house: Arc<House>,
    owner: ThreadId,
    key: Option<String>,
    stays: bool,
    in_use: bool,
    of: PhantomData<M>,
}

impl<M> Session<M> {
    /// What every work does with it.
    fn touch(&mut self, key: Option<u64>) {
        if self.owner != thread::current().id() {
            self.house.wrong("an instance is used off its thread".to_owned());
        }
        if self.key != key.map(|key| key.to_string()) {
            self.house.wrong(format!("the instance of {:?} was given to {key:?}", self.key));
        }
        if std::mem::replace(&mut self.in_use, true) {
            self.house.wrong("an instance is used twice at once".to_owned());
        }
        std::hint::black_box(&mut *self);
        self.in_use = false;
    }
}

impl<M> Drop for Session<M> {
    fn drop(&mut self) {
        self.house.dropped.fetch_add(1, Ordering::SeqCst);
        if self.stays && self.owner != thread::current().id() {
            self.house.wrong("an instance is dropped off its thread".to_owned());
        }
    }
}

/// A manager that fails now and then, in each thing it does.
struct Keeps<M> {
    house: Arc<House>,
    chance: AtomicU64,
    breakable: bool,
    of: PhantomData<fn() -> M>,
}

impl<M> Keeps<M> {
    fn new(house: &Arc<House>, seed: u64) -> Self {
        let breakable = seed % 2 == 1;
        Self { house: Arc::clone(house), chance: seed.into(), breakable, of: PhantomData }
    }

    fn one_in(&self, n: u64) -> bool {
        Rng::new(self.chance.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)).one_in(n)
    }
}

impl<M: 'static> Manager for Keeps<M> {
    type Instance = Session<M>;

    fn create(&self, cx: &CreateContext) -> anyhow::Result<Session<M>> {
        anyhow::ensure!(!self.one_in(50), "none to be had");
        assert!(!self.one_in(200), "{ON_PURPOSE}create");
        self.house.made.fetch_add(1, Ordering::SeqCst);
        Ok(Session {
            house: Arc::clone(&self.house),
            owner: thread::current().id(),
            key: cx.key().map(str::to_owned),
            stays: std::any::TypeId::of::<M>() == std::any::TypeId::of::<Stay>(),
            in_use: false,
            of: PhantomData,
        })
    }

    fn can_break(&self) -> bool {
        self.breakable
    }

    fn has_broken(&self, _: &mut Session<M>) -> bool {
        self.one_in(200)
    }

    fn rescue(&self, _: &mut Session<M>) -> bool {
        self.one_in(2)
    }

    fn interrupt(&self, _: &Session<M>) -> Option<InterruptHandle> {
        let house = Arc::clone(&self.house);
        Some(InterruptHandle::new(move || {
            house.asked.fetch_add(1, Ordering::SeqCst);
        }))
    }

    fn close(&self, session: Session<M>, _: CloseReason) -> anyhow::Result<()> {
        self.house.closed.fetch_add(1, Ordering::SeqCst);
        anyhow::ensure!(!self.one_in(50), "it will not close");
        assert!(!self.one_in(200), "{ON_PURPOSE}close");
        drop(session);
        Ok(())
    }
}

// ---- handles ----------------------------------------------------------------------------------

/// A handle that somebody is still to do something with.
struct Pending(Box<Settles>);

type Settles = dyn FnOnce(&Soak, &mut Rng) + Send;

impl Pending {
    fn new<B: Send + 'static>(job: Arc<Job>, handle: JoinHandle<(), B>) -> Self {
        Self(Box::new(move |soak, rng| settle(soak, rng, &job, handle)))
    }

    /// Its work is a future. That is dropped where it lives, after its handle is told.
    fn future(handle: JoinHandle<(), ()>) -> Self {
        Self(Box::new(move |soak, rng| match rng.below(3) {
            0 => drop(handle.cancel()),
            1 => handle.detach(),
            _ => drop(in_time(soak, handle.join_timeout(PATIENCE).ok())),
        }))
    }
}

/// What must not be waited for in vain.
fn in_time<R>(soak: &Soak, out: Option<R>) -> Option<R> {
    if out.is_none() {
        soak.house.wrong("a handle has not resolved in time".to_owned());
    }
    out
}

fn settle<B>(soak: &Soak, rng: &mut Rng, job: &Job, handle: JoinHandle<(), B>) {
    match rng.below(8) {
        0 => {
            handle.detach();
            soak.told(job, Told::Nothing);
        }
        1 | 2 => match handle.cancel() {
            Some(body) => {
                job.must_not_run.store(true, Ordering::SeqCst);
                if job.fate() != OPEN || !handle.is_finished() {
                    soak.house.wrong(format!("{:?} came back, and is {}", job.verb, job.fate()));
                }
                drop(body);
                soak.told(job, Told::CancelledByUs);
            }
            None => {
                let joined = in_time(soak, handle.join_timeout(PATIENCE).ok());
                joined.into_iter().for_each(|result| soak.resolved(job, result));
            }
        },
        3 | 4 => {
            let awaited = in_time(soak, block_on(handle));
            awaited.into_iter().for_each(|result| soak.resolved(job, result));
        }
        5 => {
            // Given a moment, then asked again.
            let joined = match handle.join_timeout(rng.micros(200)) {
                Ok(result) => Some(result),
                Err(handle) => in_time(soak, handle.join_timeout(PATIENCE).ok()),
            };
            joined.into_iter().for_each(|result| soak.resolved(job, result));
        }
        _ => {
            let joined = in_time(soak, handle.join_timeout(PATIENCE).ok());
            joined.into_iter().for_each(|result| soak.resolved(job, result));
        }
    }
}

// ---- producers --------------------------------------------------------------------------------

fn produce(soak: &Arc<Soak>, _: usize, mut rng: Rng) {
    let mut pending = Vec::new();
    while !soak.producers_end.is_set() {
        match rng.below(2) {
            0 => post(soak, &mut rng, &mut pending),
            _ => {
                let (local, other) = (lock(&soak.local_crew).clone(), lock(&soak.crew).clone());
                match (local, other) {
                    (Some(crew), _) if rng.one_in(2) => {
                        submit(soak, &mut rng, &crew, &mut pending);
                    }
                    (_, Some(crew)) => submit(soak, &mut rng, &crew, &mut pending),
                    _ => soak.pause(Duration::from_micros(100)),
                }
            }
        }
        while pending.len() > rng.below(24) as usize {
            soak.house.step("settles");
            let Pending(settle) = pending.swap_remove(rng.below(pending.len() as u64) as usize);
            settle(soak, &mut rng);
        }
        if rng.one_in(8) {
            let future = lock(&soak.futures).pop();
            pending.extend(future);
        }
    }
    soak.house.step("settles the rest");
    pending.into_iter().for_each(|Pending(settle)| settle(soak, &mut rng));
}

/// Something for a loop to do.
fn post(soak: &Arc<Soak>, rng: &mut Rng, pending: &mut Vec<Pending>) {
    let Some(handle) = soak.any_loop(rng) else { return };
    soak.house.step("posts");
    match rng.below(60) {
        0..20 => {
            let (job, callback) = callback(soak, rng, Verb::Soon);
            match handle.call_soon_threadsafe(callback) {
                Ok(()) => soak.told(&job, Told::Nothing),
                Err(refused) => soak.refused(&job, refused),
            }
        }
        20..30 => {
            let (job, callback) = callback(soak, rng, Verb::Later);
            match handle.call_later_threadsafe(rng.micros(3000), callback) {
                Ok(()) => soak.told(&job, Told::Nothing),
                Err(refused) => soak.refused(&job, refused),
            }
        }
        30 => handle.stop(),
        31 if rng.one_in(8) => match rng.below(3) {
            0 => drop(soak.homes.clear()),
            1 => drop(soak.homes.retain(|one| one.uses % 2 == 0)),
            _ => {
                let snapshot = soak.registry.snapshot();
                let all = snapshot.instances;
                if !all.is_empty() {
                    soak.registry.evict(all[rng.below(all.len() as u64) as usize].id);
                }
            }
        },
        _ => {
            let (job, callback) = callback(soak, rng, Verb::Call);
            match handle.call(callback) {
                Ok(handle) => pending.push(Pending::new(job, handle)),
                Err(refused) => soak.refused(&job, refused),
            }
        }
    }
}

/// What runs on a loop, and may go on to ask more of it.
fn callback(
    soak: &Arc<Soak>,
    rng: &mut Rng,
    verb: Verb,
) -> (Arc<Job>, impl FnOnce() + Send + use<>) {
    let (job, ticket) = soak.job(verb);
    let mut rng = rng.fork();
    let callback = move || {
        let soak = Arc::clone(&ticket.soak);
        ticket.run();
        if rng.one_in(3) {
            at_home(&soak, &mut rng);
        }
        assert!(!rng.one_in(20), "{ON_PURPOSE}callback");
    };
    (job, callback)
}

thread_local! {
    static PIPE: RefCell<Option<PipeWriter>> = const { RefCell::new(None) };
}

/// What only the loop's own thread may ask of it.
fn at_home(soak: &Arc<Soak>, rng: &mut Rng) {
    let Some(local) = LocalHandle::current() else {
        return soak.house.wrong("a callback runs outside of its loop".to_owned());
    };
    match rng.below(16) {
        0..3 => {
            let (job, ticket) = soak.job(Verb::LocalSoon);
            let scheduled = local.call_soon(move || ticket.run());
            maybe_cancel(soak, rng, &local, job, scheduled);
        }
        3..6 => {
            let (job, ticket) = soak.job(Verb::LocalLater);
            let scheduled = local.call_later(rng.micros(2000), move || ticket.run());
            maybe_cancel(soak, rng, &local, job, scheduled);
        }
        6..9 => {
            let (_, ticket) = soak.job(Verb::Future);
            let (turns, panics, crew) =
                (rng.below(4), rng.one_in(8), lock(&soak.local_crew).clone());
            let mut inner = rng.fork();
            let future = local.spawn_local(async move {
                for _ in 0..turns {
                    yields().await;
                }
                if let Some(crew) = crew {
                    let soak = Arc::clone(&ticket.soak);
                    await_crew(&soak, &mut inner, crew).await;
                }
                ticket.run();
                assert!(!panics, "{ON_PURPOSE}future");
            });
            match rng.below(3) {
                0 => drop(future.cancel()),
                1 => future.detach(),
                _ => {
                    let mut futures = lock(&soak.futures);
                    if futures.len() < 64 {
                        futures.push(Pending::future(future));
                    }
                }
            }
        }
        9 => {
            // To wait for it here would be for ever.
            let (job, ticket) = soak.job(Verb::Call);
            match local.handle().call(move || ticket.run()) {
                Ok(handle) => soak.resolved(&job, handle.join()),
                Err(refused) => soak.refused(&job, refused),
            }
        }
        10 => {
            if let Some(other) = soak.any_loop(rng) {
                let (job, ticket) = soak.job(Verb::Soon);
                match other.call_soon_threadsafe(move || ticket.run()) {
                    Ok(()) => soak.told(&job, Told::Nothing),
                    Err(refused) => soak.refused(&job, refused),
                }
            }
        }
        11 if rng.one_in(8) => local.stop(),
        12 => PIPE.with_borrow_mut(|pipe| {
            let _ = pipe.as_mut().map(|pipe| pipe.write_all(b"x"));
        }),
        _ => drop(soak.homes.with(|session| session.touch(None))),
    }
}

/// Cancels it, here or in a callback; and if that was in time, it must never run.
fn maybe_cancel(
    soak: &Arc<Soak>,
    rng: &mut Rng,
    local: &LocalHandle,
    job: Arc<Job>,
    scheduled: Scheduled,
) {
    let cancel = move |soak: &Soak| {
        scheduled.cancel();
        if job.fate() == OPEN {
            job.must_not_run.store(true, Ordering::SeqCst);
            soak.told[Told::CancelledByUs as usize].fetch_add(1, Ordering::SeqCst);
        }
    };
    let soak = Arc::clone(soak);
    match rng.below(3) {
        0 => cancel(&soak),
        1 => drop(local.call_soon(move || cancel(&soak))),
        _ => {}
    }
}

/// Pending once, and awake at once.
fn yields() -> impl Future<Output = ()> {
    let mut first = true;
    future::poll_fn(move |cx| {
        if !std::mem::take(&mut first) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

async fn await_crew(soak: &Arc<Soak>, rng: &mut Rng, crew: Arc<Crew<Stay>>) {
    let key = rng.below(KEYS);
    let (job, work) = work(soak, rng, Verb::Keyed, Some(key));
    let submitted = crew.keyed(key).try_submit(work);
    drop(crew);
    match submitted {
        Ok(handle) => soak.resolved(&job, handle.await),
        Err(refused) => soak.refused(&job, refused),
    }
}

// ---- workers ----------------------------------------------------------------------------------

/// What runs on a worker, with the instance of this key.
fn work<M>(
    soak: &Arc<Soak>,
    rng: &mut Rng,
    verb: Verb,
    key: Option<u64>,
) -> (Arc<Job>, impl FnOnce(&mut Session<M>) + Clone + Send + use<M>) {
    let (job, ticket) = soak.job(verb);
    let (panics, lasts) = (rng.one_in(25), rng.one_in(20).then(|| rng.micros(300)));
    let work = move |session: &mut Session<M>| {
        session.touch(key);
        ticket.run();
        if let Some(lasts) = lasts {
            let end = Instant::now() + lasts;
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        }
        session.touch(key);
        assert!(!panics, "{ON_PURPOSE}work");
    };
    (job, work)
}

fn submit<M: 'static>(
    soak: &Arc<Soak>,
    rng: &mut Rng,
    crew: &Arc<Crew<M>>,
    pending: &mut Vec<Pending>,
) {
    soak.house.step("submits");
    let mut taken = |job, submitted: Submitted<Session<M>, ()>| match submitted {
        Ok(handle) => pending.push(Pending::new(job, handle)),
        Err(refused) => soak.refused(&job, refused),
    };
    match rng.below(64) {
        0..12 => {
            let (job, work) = work(soak, rng, Verb::Submit, None);
            taken(job, crew.submit(work));
        }
        12..18 => {
            let (job, work) = work(soak, rng, Verb::Submit, None);
            taken(job, crew.submit_timeout(rng.micros(500), work));
        }
        18..26 => {
            let (job, work) = work(soak, rng, Verb::Submit, None);
            taken(job, crew.try_submit(work));
        }
        26..34 => {
            let (job, work) = work(soak, rng, Verb::SubmitTo, None);
            taken(job, crew.submit_to(rng.below(crew.threads() as u64) as usize, work));
        }
        34..36 => {
            let (_, work) = work(soak, rng, Verb::Broadcast, None);
            let handles = crew.broadcast(work);
            soak.told[Told::Nothing as usize].fetch_add(1, Ordering::SeqCst);
            for handle in handles.into_iter().flatten() {
                drop(in_time(soak, handle.join_timeout(PATIENCE).ok()));
            }
        }
        36..56 => {
            let key = rng.below(KEYS);
            let (job, work) = work(soak, rng, Verb::Keyed, Some(key));
            let keyed = crew.keyed(key);
            taken(
                job,
                match rng.below(3) {
                    0 => keyed.submit(work),
                    1 => keyed.submit_timeout(rng.micros(500), work),
                    _ => keyed.try_submit(work),
                },
            );
        }
        56..58 => {
            let keyed = crew.keyed(rng.below(KEYS));
            let _ = keyed.is_live();
            if let Ok(closed) = keyed.close() {
                drop(in_time(soak, closed.join_timeout(PATIENCE).ok()));
            }
        }
        58..61 => from_within(soak, rng, crew, &mut taken),
        61 => {
            for key in crew.keys() {
                if key >= KEYS {
                    soak.house.wrong(format!("there is no key {key}"));
                }
            }
        }
        62 => match rng.below(8) {
            0 => drop(crew.pool().clear()),
            1 => drop(crew.pool().retain(|one| one.key.is_none())),
            _ => {}
        },
        _ => match rng.below(64) {
            // Ends that are not the keeper's.
            0 => drop(crew.pool().close(rng.micros(500))),
            1 => drop(crew.abort(rng.micros(500))),
            _ => {}
        },
    }
}

/// Work that sends work, and waits for itself; and that may be the last to hold its workers.
fn from_within<M: 'static>(
    soak: &Arc<Soak>,
    rng: &mut Rng,
    crew: &Arc<Crew<M>>,
    taken: &mut impl FnMut(Arc<Job>, Submitted<Session<M>, ()>),
) {
    let worker = rng.below(crew.threads() as u64) as usize;
    let (job, ticket) = soak.job(Verb::SubmitTo);
    let (inner, mut chance) = (Arc::clone(crew), rng.fork());
    let submitted = crew.submit_to(worker, move |session: &mut Session<M>| {
        session.touch(None);
        let soak = Arc::clone(&ticket.soak);
        ticket.run();
        let (job, work) = work(&soak, &mut chance, Verb::SubmitTo, None);
        match inner.submit_to(worker, work) {
            Ok(handle) => soak.resolved(&job, handle.join()),
            Err(refused) => soak.refused(&job, refused),
        }
        if chance.one_in(50) {
            drop(inner.shutdown(PATIENCE)); // on its own thread it does not wait
        }
        drop(inner);
        session.touch(None);
    });
    taken(job, submitted);
}

// ---- keepers ----------------------------------------------------------------------------------

fn keep_local_crew(soak: &Arc<Soak>, _: usize, rng: Rng) {
    keep(soak, &soak.local_crew, Pool::builder_local, rng);
}

fn keep_crew(soak: &Arc<Soak>, _: usize, rng: Rng) {
    keep(soak, &soak.crew, Pool::builder, rng);
}

fn keep<M: 'static>(
    soak: &Arc<Soak>,
    slot: &Mutex<Option<Arc<Crew<M>>>>,
    builder: fn(Keeps<M>) -> PoolBuilder<Session<M>>,
    mut rng: Rng,
) {
    while !soak.end.is_set() {
        soak.generations.fetch_add(1, Ordering::SeqCst);
        soak.house.step("hires");
        let mut pool = builder(Keeps::new(&soak.house, rng.next()))
            .registry(&soak.registry)
            .create_backoff(Duration::ZERO, Duration::ZERO)
            .idle_timeout(Duration::from_millis(1 + rng.below(10)))
            .max_uses(rng.one_in(2).then(|| 1 + rng.below(50)));
        if rng.one_in(4) {
            pool = pool.max_size(2 + rng.below(3) as usize).wait_timeout(Duration::from_millis(1));
        }
        let crew = Workers::builder(pool)
            .name("soak-work")
            .threads(1 + rng.below(3) as usize)
            .queue_capacity(1 + rng.below(8) as usize)
            .keyed_capacity(1 + rng.below(4) as usize)
            .drop_timeout(PATIENCE);
        let crew = Arc::new(crew.build_keyed().expect("threads can be had"));
        *lock(slot) = Some(Arc::clone(&crew));
        soak.pause(rng.micros(40_000));
        lock(slot).take();
        soak.house.step("lets go");
        let report = match rng.below(4) {
            0 => crew.abort(PATIENCE),
            1 => crew.shutdown(PATIENCE),
            2 => {
                drop(crew.pool().close(Duration::from_millis(1)));
                crew.shutdown(PATIENCE)
            }
            _ => continue, // dropped, by whoever is the last
        };
        if !report.stragglers.is_empty() || !report.instances.still_open.is_empty() {
            soak.house.wrong(format!("a crew has not ended: {report:?}"));
        }
    }
}

fn keep_loop(soak: &Arc<Soak>, number: usize, mut rng: Rng) {
    while !soak.end.is_set() {
        soak.generations.fetch_add(1, Ordering::SeqCst);
        soak.house.step("makes a loop");
        let event_loop = EventLoop::builder()
            .capacity(rng.one_in(2).then(|| 1 + rng.below(16) as usize))
            .batch([1, 3, 1024][rng.below(3) as usize]);
        let event_loop = match rng.below(3) {
            0 => event_loop.exception_handler(|_| panic!("{ON_PURPOSE}handler")),
            1 => event_loop.slow_callback(Duration::from_micros(20), |_| ()),
            _ => event_loop,
        };
        let event_loop = event_loop.build();
        // With a source it sleeps in the poller, without one it parks; and it may change.
        let mut source = rng.one_in(2).then(|| watch(&event_loop));
        *lock(&soak.loops[number]) = Some(event_loop.handle());
        for _ in 0..=rng.below(6) {
            if soak.end.is_set() {
                break; // the stop from the end may have come before the handle was there
            }
            run(soak, &event_loop, &mut rng);
            match &source {
                Some(_) if rng.one_in(2) => drop(source.take()),
                None if rng.one_in(2) => source = Some(watch(&event_loop)),
                _ => {}
            }
        }
        soak.house.step("closes a loop");
        let local = event_loop.local();
        for _ in 0..rng.below(8) {
            let tickets =
                [Verb::LocalSoon, Verb::LocalLater, Verb::Future].map(|verb| soak.job(verb).1);
            let [soon, later, future] = tickets;
            drop(local.call_soon(move || soon.run()));
            drop(local.call_later(PATIENCE, move || later.run()));
            local.spawn_local(async move { future.run() }).detach();
        }
        if rng.one_in(2) {
            event_loop.close();
        }
        drop(event_loop);
        let handle = local.handle();
        if !handle.is_closed() {
            soak.house.wrong("a loop that was dropped is open".to_owned());
        }
        PIPE.take();
    }
}

fn watch(event_loop: &EventLoop) -> sessile::event_loop::Source<PipeReader> {
    let (reader, writer) = std::io::pipe().expect("a pipe can be had");
    PIPE.set(Some(writer));
    let read = |mut reader: &PipeReader, _| {
        let read = reader.read(&mut [0; 64]).expect("it is ready");
        if read == 0 {
            drop(PIPE.take()); // never: the writer is there as long as the source
        }
    };
    event_loop.local().add(reader, Interest::READABLE, read).expect("a pipe can be watched")
}

fn run(soak: &Arc<Soak>, event_loop: &EventLoop, rng: &mut Rng) {
    match rng.below(3) {
        0 => {
            soak.house.step("runs");
            event_loop.run().expect("the poller works");
        }
        1 => {
            soak.house.step("runs once");
            for _ in 0..rng.below(200) {
                event_loop.run_once(rng.micros(200)).expect("the poller works");
            }
        }
        _ => {
            soak.house.step("runs until");
            let (job, callback) = callback(soak, rng, Verb::Call);
            match event_loop.handle().call(callback) {
                Ok(until) => {
                    let ended = event_loop.run_until(&until).expect("the poller works");
                    if ended != until.is_finished() {
                        soak.house.wrong("run_until says what is not so".to_owned());
                    }
                    match ended {
                        true => soak.resolved(&job, until.join()),
                        false => soak.told(&job, Told::Nothing),
                    }
                }
                Err(refused) => soak.refused(&job, refused),
            }
        }
    }
}
