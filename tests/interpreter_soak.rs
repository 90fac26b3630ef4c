//! Conversations with interpreters while cells run over, interrupts come at any moment, and engines
//! are killed. Each conversation keeps something in its session: it must find it again, or have been
//! told that it is lost; and never find another's.
//!
//! Each soak runs in a process of its own, which is this test program, so that what is left of it can
//! be looked for when it has gone.
//!
//! `SESSILE_SOAK_SECONDS` sets how long each takes; a release wants 180. `SESSILE_SOAK_SEED` sets the
//! seed. It fixes what each thread asks for, not how they interleave.

#![cfg(all(feature = "monty", feature = "cpython", feature = "jupyter", target_os = "linux"))]

#[path = "support/jupyter.rs"]
mod jupyter;
#[path = "support/pythons.rs"]
mod pythons;
mod support;
#[path = "support/venv.rs"]
mod venv;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use jupyter::{Kind, Server, is_running, signal};
use sessile::interpreter::cpython::{CPython, CPythonManager};
use sessile::interpreter::jupyter::Jupyter;
use sessile::interpreter::monty::{Monty, MontyManager};
use sessile::interpreter::{
    ExecuteOptions, Execution, Interpreter, InterpreterError, InterruptHandle, Keep, Variable,
};
use sessile::manager::CloseReason;
use sessile::{CreateContext, Manager, Pool, Registry, Workers};
use support::{PATIENCE, Rng, poll_until};

const CONVERSATIONS: u64 = 8;
/// How long a soak takes that nobody has set.
const SHORT: Duration = Duration::from_secs(5);
/// In the environment of the process that soaks, and so of all that it starts.
const MARK: &str = "SESSILE_SOAK_MARK";
/// In its environment: the Python to start.
const PYTHON: &str = "SESSILE_SOAK_PYTHON";
/// What a panic on purpose says.
const ON_PURPOSE: &str = "soak: on purpose";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- what is asked ----------------------------------------------------------------------------

/// What a cell does, beside showing what the last one has left, and leaving something itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Nothing,
    Prints,
    Computes,
    Raises,
    Floods,
    /// Until its limit.
    RunsOn,
    /// What shows its output panics.
    Panics,
    /// It waits, and an interrupt may wake it.
    Sleeps,
    Awaits,
    /// It does not let itself be stopped.
    IsDeaf,
    Exits,
    /// A process runs on when the cell has ended.
    LeavesAProcess,
    /// A thread prints when the cell may have ended.
    LeavesAThread,
}

impl Deed {
    fn code(self, mark: &str, dice: &mut Rng) -> String {
        let brief = dice.below(40);
        match self {
            Self::Nothing | Self::Panics => "pass".to_owned(),
            Self::Prints => "for i in range(50):\n    print(i)".to_owned(),
            Self::Computes => format!("t = 0\nfor i in range({}):\n    t += i", brief * 500),
            Self::Raises => "1 / 0".to_owned(),
            Self::Floods => "for i in range(1000):\n    print('x' * 99)".to_owned(),
            Self::RunsOn => "while True:\n    pass".to_owned(),
            Self::Sleeps => format!("time.sleep(.0{brief:02})"),
            Self::Awaits => format!("await asyncio.sleep(.0{brief:02})"),
            Self::IsDeaf => "while True:\n    try:\n        time.sleep(600)\n    \
                             except KeyboardInterrupt:\n        pass"
                .to_owned(),
            Self::Exits => "os._exit(3)".to_owned(),
            Self::LeavesAProcess => "p = subprocess.Popen(['sleep', '600'])".to_owned(),
            Self::LeavesAThread => {
                format!("threading.Timer(.0{brief:02}, print, ['late {mark}']).start()")
            }
        }
    }

    /// What the cell prints of it, if nothing comes in between.
    fn prints(self) -> String {
        match self {
            Self::Prints => (0..50).map(|i| format!("{i}\n")).collect(),
            Self::Floods => format!("{}\n", "x".repeat(99)).repeat(1000),
            _ => String::new(),
        }
    }

    fn options(self, dice: &mut Rng) -> ExecuteOptions {
        let options = ExecuteOptions::new();
        match self {
            Self::RunsOn | Self::IsDeaf => {
                options.timeout(Duration::from_millis(20 + dice.below(80)))
            }
            Self::Floods if dice.one_in(2) => options.max_output(10_000).keep(Keep::Head),
            _ if dice.one_in(4) => options.timeout(PATIENCE),
            _ => options,
        }
    }
}

#[derive(Clone, Debug)]
enum Ask {
    Run { mark: String, deed: Deed, code: String, options: ExecuteOptions },
    List,
    Reset,
}

/// What came of it, and of which instance.
struct Answer {
    serial: u64,
    begun: Instant,
    came: Came,
}

#[allow(clippy::large_enum_variant)] // there is one at a time
enum Came {
    Ran(Result<Execution, InterpreterError>),
    Listed(Result<Vec<Variable>, InterpreterError>),
    Reset(Result<(), InterpreterError>),
}

// ---- the engines ------------------------------------------------------------------------------

trait Engine: Interpreter + Send + 'static {
    /// With how often each is done, of all.
    const DEEDS: &'static [(Deed, u64)];

    /// Whether an interrupt meets the cell, and nothing of the engine's own. IPython is hit where it
    /// formats a traceback or compiles a cell, too, and then tells of itself; and it cancels what a
    /// cell awaits.
    const IS_TIDY: bool = true;

    /// Makes it ready; where somebody can kill it.
    fn life(&mut self) -> Result<Life, InterpreterError>;
}

fn deed_of(deeds: &[(Deed, u64)], dice: &mut Rng) -> Deed {
    let mut thrown = dice.below(deeds.iter().map(|(_, often)| often).sum());
    let (deed, _) = deeds
        .iter()
        .find(|(_, often)| {
            let is_it = thrown < *often;
            thrown = thrown.saturating_sub(*often);
            is_it
        })
        .expect("less than the sum was thrown");
    *deed
}

/// By what an engine can be killed.
#[derive(Clone, Debug, Default)]
struct Life {
    process: Option<u32>,
    kernel: Option<String>,
}

/// The process, in which all is imported that cells need: an import that was interrupted is broken
/// for good, in any Python.
fn process(engine: &mut impl Interpreter) -> Result<Option<u32>, InterpreterError> {
    loop {
        let execution =
            engine.run("import asyncio, os, subprocess, threading, time\nos.getpid()")?;
        if execution.is_ok() {
            return Ok(execution.text().and_then(|text| text.parse().ok()));
        }
        engine.reset()?;
    }
}

impl Engine for Monty {
    const DEEDS: &'static [(Deed, u64)] = {
        use Deed::*;
        &[
            (Nothing, 9),
            (Prints, 9),
            (Computes, 9),
            (Raises, 9),
            (Floods, 9),
            (RunsOn, 4),
            (Panics, 1),
        ]
    };

    fn life(&mut self) -> Result<Life, InterpreterError> {
        Ok(Life::default())
    }
}

impl Engine for CPython {
    const DEEDS: &'static [(Deed, u64)] = {
        use Deed::*;
        &[
            (Nothing, 9),
            (Prints, 9),
            (Computes, 9),
            (Raises, 9),
            (Floods, 9),
            (RunsOn, 4),
            (Panics, 1),
            (Sleeps, 9),
            (Awaits, 9),
            (IsDeaf, 1),
            (Exits, 1),
            (LeavesAProcess, 3),
            (LeavesAThread, 6),
        ]
    };

    fn life(&mut self) -> Result<Life, InterpreterError> {
        Ok(Life { process: process(self)?, kernel: None })
    }
}

impl Engine for Jupyter {
    const DEEDS: &'static [(Deed, u64)] = {
        use Deed::*;
        &[
            (Nothing, 18),
            (Prints, 18),
            (Computes, 18),
            (Raises, 18),
            (Floods, 9),
            (RunsOn, 4),
            (Panics, 1),
            (Sleeps, 18),
            (Awaits, 18),
            (IsDeaf, 1),
            (Exits, 1),
        ]
    };
    const IS_TIDY: bool = false;

    fn life(&mut self) -> Result<Life, InterpreterError> {
        Ok(Life { process: process(self)?, kernel: self.kernel_id().map(str::to_owned) })
    }
}

/// An instance that can be told from all others.
struct Numbered<E> {
    engine: E,
    serial: u64,
    key: String,
    book: Counted,
}

/// Counts that it is dropped.
struct Counted(Arc<Book>);

impl Drop for Counted {
    fn drop(&mut self) {
        add(&self.0.dropped);
    }
}

impl<E: Engine> Numbered<E> {
    fn answer(&mut self, ask: &Ask) -> Answer {
        let begun = Instant::now();
        let came = match ask {
            Ask::Run { deed, code, options, .. } => {
                let panics = *deed == Deed::Panics;
                let shown = &mut |_: sessile::interpreter::OutputRef<'_>| {
                    if panics {
                        std::panic::panic_any(ON_PURPOSE);
                    }
                };
                Came::Ran(self.engine.execute_with(code, options, shown))
            }
            Ask::List => Came::Listed(self.engine.variables(&ExecuteOptions::new())),
            Ask::Reset => {
                let life = self.engine.reset().and_then(|()| self.engine.life());
                let reset = life.map(|life| {
                    if let Some(subject) = lock(&self.book.0.subjects).get_mut(&self.key) {
                        subject.life = life;
                    }
                });
                Came::Reset(reset)
            }
        };
        Answer { serial: self.serial, begun, came }
    }
}

/// Makes what the other manager makes, and keeps book.
struct Keeper<M> {
    of: M,
    book: Arc<Book>,
}

impl<M> Manager for Keeper<M>
where
    M: Manager,
    M::Instance: Engine,
{
    type Instance = Numbered<M::Instance>;

    fn create(&self, cx: &CreateContext) -> anyhow::Result<Self::Instance> {
        let mut engine = self.of.create(cx)?;
        let key = cx.key().expect("only keyed instances are used").to_owned();
        let subject = Subject { handle: engine.interrupt_handle(), life: engine.life()? };
        lock(&self.book.subjects).insert(key.clone(), subject);
        let serial = self.book.made.fetch_add(1, Ordering::Relaxed);
        Ok(Numbered { engine, serial, key, book: Counted(Arc::clone(&self.book)) })
    }

    fn has_broken(&self, numbered: &mut Self::Instance) -> bool {
        self.of.has_broken(&mut numbered.engine)
    }

    fn interrupt(&self, numbered: &Self::Instance) -> Option<InterruptHandle> {
        self.of.interrupt(&numbered.engine)
    }

    fn close(&self, numbered: Self::Instance, reason: CloseReason) -> anyhow::Result<()> {
        lock(&self.book.closed).insert(numbered.serial, reason);
        self.of.close(numbered.engine, reason)
    }
}

// ---- the book ---------------------------------------------------------------------------------

/// Who can be disturbed.
#[derive(Clone)]
struct Subject {
    handle: InterruptHandle,
    life: Life,
}

/// When an interrupt was begun, and when it was done.
type Span = (Instant, Option<Instant>);

#[derive(Default)]
struct Book {
    made: AtomicU64,
    dropped: AtomicU64,
    closed: Mutex<HashMap<u64, CloseReason>>,
    subjects: Mutex<BTreeMap<String, Subject>>,
    /// When each key was interrupted.
    interrupted: Mutex<HashMap<String, Vec<Span>>>,
    over: AtomicBool,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    started: AtomicU64,
    answered: AtomicU64,
    /// The state is lost, and the caller was told.
    lost: AtomicU64,
    /// The same, as the cell would not stop.
    killed: AtomicU64,
    panicked: AtomicU64,
    /// No session could be had.
    no_instance: AtomicU64,
    /// Answers that say that the cell was interrupted.
    interrupted: AtomicU64,
    timed_out: AtomicU64,
    /// Interrupts that were sent.
    interrupts: AtomicU64,
    /// Engines that were killed from outside.
    deaths: AtomicU64,
    evicted: AtomicU64,
    closed: AtomicU64,
    reset: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What has not happened has not been tried.
fn all_of<const N: usize>(counters: [&AtomicU64; N]) -> bool {
    counters.into_iter().all(|counter| get(counter) > 0)
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Book {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn somebody(&self, dice: &mut Rng) -> Option<(String, Subject)> {
        let subjects = lock(&self.subjects);
        let nth = dice.below(subjects.len().max(1) as u64) as usize;
        subjects.iter().nth(nth).map(|(key, subject)| (key.clone(), subject.clone()))
    }

    /// Whether somebody has interrupted this key since then.
    fn was_interrupted(&self, key: &str, since: Instant) -> bool {
        let all = lock(&self.interrupted);
        let amid = |(_, end): &Span| end.is_none_or(|end| end >= since);
        all.get(key).is_some_and(|of_it| of_it.iter().any(amid))
    }

    fn interrupt(&self, key: &str, handle: &InterruptHandle) {
        let begun = Instant::now();
        let same = |one: &&mut (Instant, Option<Instant>)| one.0 == begun && one.1.is_none();
        lock(&self.interrupted).entry(key.to_owned()).or_default().push((begun, None));
        handle.interrupt();
        let mut all = lock(&self.interrupted);
        let of_it = all.get_mut(key).expect("it was noted");
        of_it.iter_mut().rev().find(same).expect("it was noted").1 = Some(Instant::now());
        if of_it.len() > 256 {
            of_it.drain(..128);
        }
        add(&self.tally.interrupts);
    }
}

// ---- a conversation ---------------------------------------------------------------------------

/// What one who talks knows of their session.
struct Conversation<'a, E: 'static> {
    key: String,
    book: &'a Book,
    workers: &'a Workers<Numbered<E>>,
    next: u64,
    /// The instance that has answered last, unless it was said that it is lost.
    serial: Option<u64>,
    /// What may have been left in it. Of a cell that was interrupted it is not known how far it came.
    left: Vec<Option<String>>,
    /// Its gateway was: what a cell has said meanwhile comes late.
    was_away: bool,
}

impl<E: Engine> Conversation<'_, E> {
    fn goes_on(&mut self, mut dice: Rng) {
        while !self.book.is_over() {
            if dice.one_in(200) {
                add(&self.book.tally.started);
                let closes = self.workers.keyed(self.key.clone()).close().unwrap();
                closes.join().unwrap();
                add(&self.book.tally.answered);
                add(&self.book.tally.closed);
                self.serial = None;
                continue;
            }
            let ask = match dice.below(50) {
                0 => Ask::Reset,
                1..4 => Ask::List,
                _ => self.cell(&mut dice),
            };
            self.ask(ask);
        }
    }

    fn cell(&mut self, dice: &mut Rng) -> Ask {
        self.next += 1;
        let mark = format!("{}-{}", self.key, self.next);
        let deed = deed_of(E::DEEDS, dice);
        let does = deed.code(&mark, dice);
        let code = format!(
            "try:\n    print(left)\nexcept NameError:\n    print('nothing')\nleft = '{mark}'\n\
             {does}\nleft"
        );
        Ask::Run { mark, deed, code, options: deed.options(dice) }
    }

    fn ask(&mut self, ask: Ask) {
        let tally = &self.book.tally;
        add(&tally.started);
        let asked = ask.clone();
        let submitted = self.workers.keyed(self.key.clone()).submit(move |n| n.answer(&asked));
        let answer = match submitted.unwrap_or_else(|_| panic!("the workers are there")).join() {
            Ok(answer) => answer,
            Err(error) if error.is_panic() => {
                let payload = error.try_into_panic().unwrap();
                let on_purpose = payload.downcast_ref() == Some(&ON_PURPOSE);
                assert!(on_purpose, "{}: {ask:?} has panicked", self.key);
                self.serial = None;
                return add(&tally.panicked);
            }
            Err(error) => {
                assert!(error.is_no_instance(), "{}: {error:?}", self.key);
                thread::sleep(Duration::from_millis(20));
                return add(&tally.no_instance);
            }
        };
        self.sees_to(&answer);
        let lost = match answer.came {
            Came::Ran(Ok(execution)) => {
                let Ask::Run { mark, deed, .. } = &ask else { unreachable!() };
                self.ran(mark, *deed, &execution, answer.begun);
                None
            }
            Came::Listed(Ok(variables)) => {
                self.listed(&variables, answer.begun);
                None
            }
            Came::Reset(Ok(())) => {
                self.left = vec![None];
                add(&tally.reset);
                None
            }
            Came::Listed(Err(error)) if error.is_refused() => {
                assert!(self.book.was_interrupted(&self.key, answer.begun), "{error}");
                None
            }
            // The gateway is away, and the session is kept. What was asked may have been done.
            Came::Ran(Err(error)) | Came::Listed(Err(error)) | Came::Reset(Err(error))
                if error.is_unreachable() =>
            {
                match &ask {
                    Ask::Run { mark, .. } => self.left.push(Some(mark.clone())),
                    Ask::Reset => self.left.push(None),
                    Ask::List => {}
                }
                self.was_away = true;
                thread::sleep(Duration::from_millis(20));
                None
            }
            Came::Reset(Err(error)) => Some(error),
            Came::Ran(Err(error)) | Came::Listed(Err(error)) => {
                assert!(error.state_lost(), "{}: {ask:?}: {error}", self.key);
                Some(error)
            }
        };
        match lost {
            None => add(&tally.answered),
            Some(error) => {
                assert!(error.is_dead(), "{error}");
                self.serial = None;
                add(if error.is_timeout() { &tally.killed } else { &tally.lost });
            }
        }
    }

    /// A session may be another only if it was said that the last one is lost, or somebody has had it
    /// closed.
    fn sees_to(&mut self, answer: &Answer) {
        if self.serial != Some(answer.serial) {
            if let Some(serial) = self.serial {
                let reason = lock(&self.book.closed).get(&serial).copied();
                let told = reason == Some(CloseReason::Evicted);
                assert!(told, "{}: its session is lost, and it was not told: {reason:?}", self.key);
            }
            self.serial = Some(answer.serial);
            self.left = vec![None];
        }
    }

    fn ran(&mut self, mark: &str, deed: Deed, execution: &Execution, begun: Instant) {
        let Self { key, book, left, .. } = self;
        let stdout = execution.stdout();
        let about = || format!("{mark} {deed:?}: {execution:?}");
        let now = Some(mark.to_owned());
        let was_hit = execution.timed_out || book.was_interrupted(key, begun);
        let is_clear = E::IS_TIDY || !was_hit;
        // Never another's, whatever else.
        let others =
            stdout.split("key").skip(1).filter(|one| !one.starts_with(&key["key".len()..]));
        assert_eq!(others.count(), 0, "{}", about());
        let said = match stdout.split_once('\n') {
            Some((first, rest)) => {
                let found = (first != "nothing").then(|| first.to_owned());
                let is_known = left.contains(&found);
                assert!(is_known || !is_clear, "it was to be one of {left:?}: {}", about());
                let late = format!("late {mark}\n");
                let rest = rest.strip_suffix(&late).unwrap_or(rest);
                assert!(deed.prints().starts_with(rest) || !is_clear, "{}", about());
                if is_known {
                    *left = vec![found];
                }
                rest.len()
            }
            None => 0,
        };
        let was_away = std::mem::take(&mut self.was_away);
        let Self { key, book, left, .. } = self;
        for late in &execution.late {
            let is_its = late.text.starts_with(&format!("late {key}-"));
            assert!(is_its || was_away, "{}", about());
            assert!(late.cell < execution.execution_count, "{}", about());
        }
        let tally = &book.tally;
        match &execution.error {
            None if is_clear => {
                let shown = format!("'{mark}'");
                assert_eq!(execution.text(), Some(&*shown), "{}", about());
                let all = execution.truncated || said == deed.prints().len();
                assert!(all && !execution.timed_out, "{}", about());
                *left = vec![now];
            }
            Some(error) if error.name == "ZeroDivisionError" && deed == Deed::Raises => {
                *left = vec![now];
            }
            None => left.push(now),
            Some(error) => {
                let is_it = error.name == "KeyboardInterrupt" || !E::IS_TIDY;
                assert!(is_it && was_hit, "{}", about());
                add(if execution.timed_out { &tally.timed_out } else { &tally.interrupted });
                left.push(now);
            }
        }
    }

    fn listed(&mut self, variables: &[Variable], begun: Instant) {
        let found = variables.iter().find(|variable| variable.name == "left");
        // A `repr` is a cell's to interrupt.
        let unclear = found.is_none_or(|found| found.repr.is_empty());
        if unclear && self.book.was_interrupted(&self.key, begun) {
            return;
        }
        let found = found.map(|found| found.repr.trim_matches('\'').to_owned());
        let Self { key, left, .. } = self;
        assert!(left.contains(&found), "{key}: {found:?} was to be one of {left:?}: {variables:?}");
        *left = vec![found];
    }
}

// ---- the soak ---------------------------------------------------------------------------------

/// How it is disturbed: each thing once in so many calls, at the least. A loaded machine does less of
/// all, and not less between two deaths.
struct Pace {
    interrupt: u64,
    death: u64,
    eviction: u64,
}

fn soak<M>(
    manager: M,
    threads: usize,
    pace: &Pace,
    kills: &(impl Fn(&Life, &mut Rng) -> bool + Sync),
    has_happened: &dyn Fn(&Tally) -> bool,
    half_way: impl FnOnce(),
) -> Arc<Book>
where
    M: Manager,
    M::Instance: Engine,
{
    let lasts = std::env::var("SESSILE_SOAK_SECONDS").ok();
    let lasts = lasts.map_or(SHORT, |lasts| Duration::from_secs(lasts.parse().expect("a number")));
    let seed = match std::env::var("SESSILE_SOAK_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().expect("past 1970").as_nanos() as u64,
    };
    println!("SESSILE_SOAK_SEED={seed}");
    pass_over_panics_on_purpose();
    let mut dice = Rng::new(seed);
    let book = Arc::new(Book::default());
    let dog = watchdog(&book, lasts + 4 * PATIENCE);
    let registry = Registry::new();
    let keeper = Keeper { of: manager, book: Arc::clone(&book) };
    let pool = Pool::builder(keeper).registry(&registry);
    let workers = Workers::builder(pool).threads(threads).build().unwrap();

    thread::scope(|scope| {
        let (book, workers, registry) = (&*book, &workers, &registry);
        let mut all = Vec::new();
        for number in 0..CONVERSATIONS {
            let key = format!("key{number}");
            let mut conversation = Conversation {
                key,
                book,
                workers,
                next: 0,
                serial: None,
                left: Vec::new(),
                was_away: false,
            };
            let dice = dice.fork();
            all.push(scope.spawn(move || conversation.goes_on(dice)));
        }
        for mut dice in [dice.fork(), dice.fork()] {
            all.push(scope.spawn(move || {
                while pause(book, pace.interrupt, &mut dice) {
                    if let Some((key, subject)) = book.somebody(&mut dice) {
                        book.interrupt(&key, &subject.handle);
                    }
                }
            }));
        }
        let (mut kills_by, mut evicts_by) = (dice.fork(), dice.fork());
        all.push(scope.spawn(move || {
            while pause(book, pace.death, &mut kills_by) {
                if let Some((_, subject)) = book.somebody(&mut kills_by)
                    && kills(&subject.life, &mut kills_by)
                {
                    add(&book.tally.deaths);
                }
            }
        }));
        all.push(scope.spawn(move || {
            while pause(book, pace.eviction, &mut evicts_by) {
                let all = registry.snapshot().instances;
                let nth = evicts_by.below(all.len().max(1) as u64) as usize;
                if all.get(nth).is_some_and(|instance| registry.evict(instance.id)) {
                    add(&book.tally.evicted);
                }
            }
        }));
        // One that fails ends it for all.
        let wait = |done: &dyn Fn() -> bool| {
            while !done() && !all.iter().any(|one| one.is_finished()) {
                thread::sleep(Duration::from_millis(10));
            }
        };
        let begun = Instant::now();
        wait(&|| begun.elapsed() > lasts / 2 && has_happened(&book.tally));
        half_way();
        let answered = get(&book.tally.answered);
        let again = || get(&book.tally.answered) > answered + 10;
        wait(&|| begun.elapsed() > lasts && again());
        book.over.store(true, Ordering::Relaxed);
    });
    let report = workers.shutdown(PATIENCE);
    println!("{:?}", book.tally);
    // That an engine had to be killed at the end is no fault.
    assert!(report.stragglers.is_empty() && report.instances.still_open.is_empty(), "{report:?}");
    drop(workers);
    drop(dog);

    let Tally { started, answered, lost, killed, panicked, no_instance, .. } = &book.tally;
    let came: u64 = [answered, lost, killed, panicked, no_instance].into_iter().map(get).sum();
    assert_eq!(get(started), came, "each call is answered or fails");
    assert_eq!(get(&book.made), get(&book.dropped), "each that was made is gone");
    assert_eq!(get(&book.made), lock(&book.closed).len() as u64, "and was closed");
    assert!(registry.snapshot().instances.is_empty());
    book
}

/// Waits for as many calls as the dice say, and to somewhere amid the next; whether to go on.
fn pause(book: &Book, most: u64, dice: &mut Rng) -> bool {
    let calls = get(&book.tally.started) + dice.below(most);
    while get(&book.tally.started) < calls && !book.is_over() {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(dice.micros(10_000));
    !book.is_over()
}

fn pass_over_panics_on_purpose() {
    let tells = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref() != Some(&ON_PURPOSE) {
            tells(info);
        }
    }));
}

/// Nobody hangs: after this long the process ends. Dropped, it is called off.
fn watchdog(book: &Arc<Book>, within: Duration) -> mpsc::Sender<()> {
    let (calls_off, called_off) = mpsc::channel();
    let book = Arc::clone(book);
    thread::spawn(move || {
        if called_off.recv_timeout(within) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("it does not end: {:?}", book.tally);
            std::process::abort();
        }
    });
    calls_off
}

// ---- what is left -----------------------------------------------------------------------------

/// What this process holds.
#[derive(Debug, PartialEq)]
struct Holdings {
    threads: usize,
    descriptors: usize,
    children: String,
}

impl Holdings {
    fn now() -> Self {
        let count = |path: &str| fs::read_dir(path).unwrap().count();
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let children =
            tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        Self {
            children: children.collect(),
            threads: count("/proc/self/task"),
            descriptors: count("/proc/self/fd"),
        }
    }
}

fn mark() -> String {
    std::env::var(MARK).expect("another test runs it")
}

fn has_mark(process: u32, mark: &str) -> bool {
    let entry = format!("{MARK}={mark}");
    let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
    environment.split(|&byte| byte == 0).any(|one| one == entry.as_bytes())
}

/// All processes with the mark, but for this one.
fn marked(mark: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| pid != std::process::id() && has_mark(pid, mark)).collect()
}

/// Kills a process, if it is one of ours.
fn kills_process(life: &Life) -> bool {
    let Some(process) = life.process else { return false };
    let ours = has_mark(process, &mark());
    if ours {
        signal(process, "KILL");
    }
    ours
}

/// Runs a soak in a process of its own, which is to leave nothing behind.
fn in_its_own_process(role: &str, python: &Path) {
    let mark = format!("{role}-{}", std::process::id());
    let place = std::env::temp_dir().join(format!("sessile-soak-{mark}"));
    fs::create_dir(&place).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([role, "--exact", "--ignored", "--nocapture", "--quiet"])
        .env(MARK, &mark)
        .env(PYTHON, python)
        .env("TMPDIR", &place)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    poll_until("no process is left", || marked(&mark).is_empty());
    let left = files(&place);
    fs::remove_dir_all(&place).unwrap();
    assert!(output.status.success(), "{}\n{said}\n{complained}", output.status);
    assert_eq!(left, [] as [PathBuf; 0]);
}

/// All files below, but for the locks of those who write leases, and the directories they are in.
fn files(place: &PathBuf) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(place).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        let is_base = path.join("lock").exists();
        if !is_base && !path.ends_with("lock") {
            found.push(path);
        }
    }
    found
}

#[test]
fn sessions_in_this_process() {
    in_its_own_process("monty", Path::new(""));
}

#[test]
fn sessions_in_child_processes() {
    for python in pythons::oldest_and_newest() {
        in_its_own_process("cpython", &python.program);
    }
}

#[test]
fn sessions_in_kernels_on_a_gateway() {
    in_its_own_process("kernels", Path::new(""));
}

// ---- the roles --------------------------------------------------------------------------------

const MILLIS: fn(u64) -> Duration = Duration::from_millis;

#[test]
#[ignore = "a role that another test runs"]
fn monty() {
    let before = Holdings::now();
    let pace = Pace { interrupt: 10, death: u64::MAX, eviction: 100 };
    let has_happened = |tally: &Tally| {
        let Tally { interrupted, timed_out, panicked, evicted, reset, closed, .. } = tally;
        all_of([interrupted, timed_out, panicked, evicted, reset, closed])
    };
    let book = soak(MontyManager::new(), 2, &pace, &|_, _| false, &has_happened, || ());
    let Tally { lost, killed, no_instance, .. } = &book.tally;
    assert_eq!([lost, killed, no_instance].map(get), [0; 3]);
    poll_until("nothing is left", || Holdings::now() == before);
}

#[test]
#[ignore = "a role that another test runs"]
fn cpython() {
    let before = Holdings::now();
    let pace = Pace { interrupt: 10, death: 60, eviction: 120 };
    let python = std::env::var(PYTHON).expect("another test runs it");
    let manager = CPythonManager::new().python(python);
    let manager = manager.private_dir().grace(MILLIS(200)).spares(1);
    let has_happened = |tally: &Tally| {
        let Tally { interrupted, timed_out, lost, killed, deaths, evicted, reset, .. } = tally;
        all_of([interrupted, timed_out, lost, killed, deaths, evicted, reset])
    };
    let kills = |life: &Life, _: &mut Rng| kills_process(life);
    let book = soak(manager, 2, &pace, &kills, &has_happened, || ());
    assert_eq!(get(&book.tally.no_instance), 0);
    poll_until("nothing is left", || Holdings::now() == before && marked(&mark()).is_empty());
}

#[test]
#[ignore = "a role that another test runs"]
fn kernels() {
    let before = Holdings::now();
    let often = "--AsyncIOLoopKernelRestarter.time_to_dead=0.3";
    let server = Server::start(Kind::KernelGateway, &[often]);
    let manager = server.builder().grace(MILLIS(500)).close_timeout(MILLIS(3000));
    let manager = manager.reconnect_timeout(MILLIS(2000)).build().unwrap();
    let server = Mutex::new(Some(server));
    let kills = |life: &Life, dice: &mut Rng| match &life.kernel {
        Some(kernel) if dice.one_in(3) => {
            let path = format!("/api/kernels/{kernel}");
            let Some(server) = &*lock(&server) else { return false };
            server.ask("DELETE", &path).is_some_and(|(status, _)| status == 204)
        }
        _ => kills_process(life),
    };
    let pace = Pace { interrupt: 10, death: 80, eviction: 160 };
    let has_happened = |tally: &Tally| {
        let Tally { interrupted, timed_out, lost, deaths, .. } = tally;
        all_of([interrupted, timed_out, lost, deaths])
    };
    soak(manager.clone(), 4, &pace, &kills, &has_happened, || {
        let mut server = lock(&server);
        let old = server.take().unwrap();
        old.signal("KILL");
        poll_until("the gateway is gone", || !is_running(old.pid));
        *server = Some(old.again());
    });
    // A gateway that was away is told at the next start which kernels it may end.
    drop(manager.start().unwrap());
    let server = server.into_inner().unwrap();
    assert_eq!(server.as_ref().unwrap().kernels(), [] as [String; 0]);
    drop((manager, server));
    poll_until("nothing is left", || Holdings::now() == before && marked(&mark()).is_empty());
}
