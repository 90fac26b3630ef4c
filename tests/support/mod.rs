//! What the integration tests share: threads that do as they are told, a manager driven by script,
//! recorders, and waiting that fails loudly. Nothing here sleeps and hopes.

#![allow(dead_code, unreachable_pub)] // each test binary is a crate and uses its own part of it

use std::collections::VecDeque;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{self, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread, ThreadId};
use std::time::{Duration, Instant};

use sessile::manager::{CloseReason, InterruptHandle};
use sessile::pool::{InstanceEvent, InstanceEventKind, InstanceId};
use sessile::{CreateContext, Manager, Pool, PoolBuilder, Registry};

/// Longer than anything takes, on however slow a machine. Only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// For waits of the crate that must not run to their end: a test that waits this out fails by what
/// it then finds, instead of hanging.
pub const TOO_LONG: Duration = Duration::from_secs(60);

/// For limits that must not be reached.
pub const FOR_EVER: Duration = Duration::from_secs(3600);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- waiting ----------------------------------------------------------------------------------

/// A value that tests wait on: changed under a lock, every change rings.
pub struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T: Default> Default for Watched<T> {
    fn default() -> Self {
        Self { value: Mutex::default(), changed: Condvar::new() }
    }
}

impl<T> Watched<T> {
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let out = change(&mut lock(&self.value));
        self.changed.notify_all();
        out
    }

    pub fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&lock(&self.value))
    }

    #[track_caller]
    pub fn wait_until(&self, what: &str, done: impl Fn(&T) -> bool)
    where
        T: Debug,
    {
        let end = Instant::now() + PATIENCE;
        let mut value = lock(&self.value);
        while !done(&value) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain until {what}: {value:?}");
            let woken = self.changed.wait_timeout(value, left);
            value = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// For what rings no bell: looks, giving way in between, until it is so.
#[track_caller]
pub fn poll_until(what: &str, done: impl Fn() -> bool) {
    poll_within(what, PATIENCE, done);
}

/// The same, with another patience.
#[track_caller]
pub fn poll_within(what: &str, patience: Duration, done: impl Fn() -> bool) {
    let end = Instant::now() + patience;
    while !done() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::yield_now();
    }
}

/// The smallest executor there is: it knows nothing of ours. `None` if it takes too long.
pub fn block_on<F: Future>(future: F) -> Option<F::Output> {
    struct Unparks(Thread);
    impl Wake for Unparks {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unparks(thread::current())));
    let mut future = pin!(future);
    let end = Instant::now() + PATIENCE;
    loop {
        match future.as_mut().poll(&mut task::Context::from_waker(&waker)) {
            Poll::Ready(output) => return Some(output),
            Poll::Pending => match end.checked_duration_since(Instant::now()) {
                Some(left) => thread::park_timeout(left),
                None => return None,
            },
        }
    }
}

/// Waits until a thread sleeps, as the kernel has it. `thread` is its place below `/proc`.
#[track_caller]
pub fn wait_asleep(thread: &Path) {
    let stat = Path::new("/proc").join(thread).join("stat");
    poll_until("the thread sleeps", || {
        let stat = std::fs::read_to_string(&stat).expect("it is there");
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('S'))
    });
}

/// Runs `f` on a thread of its own, and fails if it takes too long, rather than hang with it.
#[track_caller]
pub fn promptly<R: Send + 'static>(what: &str, f: impl FnOnce() -> R + Send + 'static) -> R {
    let worker = Worker::new(what);
    let out = worker.start(f).wait();
    worker.end();
    out
}

/// A place in foreign code where the test holds a thread until it says so.
#[derive(Clone, Default)]
pub struct Gate(Arc<Watched<(usize, bool)>>);

impl Gate {
    pub fn new() -> Self {
        Self::default()
    }

    /// The thread that is to be held comes here.
    pub fn pass(&self) {
        self.0.change(|(arrived, _)| *arrived += 1);
        self.0.wait_until("the gate opens", |(_, open)| *open);
    }

    pub fn wait_for_arrival(&self) {
        self.0.wait_until("somebody comes to the gate", |(arrived, _)| *arrived > 0);
    }

    pub fn has_arrived(&self) -> bool {
        self.0.read(|(arrived, _)| *arrived > 0)
    }

    pub fn open(&self) {
        self.0.change(|(_, open)| *open = true);
    }
}

// ---- chance -----------------------------------------------------------------------------------

/// SplitMix64.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn micros(&mut self, below: u64) -> Duration {
        Duration::from_micros(self.below(below))
    }

    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }
}

// ---- threads that do as they are told ---------------------------------------------------------

type Job = Box<dyn FnOnce() + Send>;

/// A thread that runs what it is given, in turn, and ends when told to.
pub struct Worker {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

/// What a job will come to.
pub struct Pending<R>(mpsc::Receiver<thread::Result<R>>);

impl Worker {
    pub fn new(name: &str) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || queue.into_iter().for_each(|job| job()))
            .expect("a thread can be had");
        Self { jobs, thread }
    }

    pub fn id(&self) -> ThreadId {
        self.thread.thread().id()
    }

    pub fn start<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> Pending<R> {
        let (tell, told) = mpsc::channel();
        let job = move || {
            let _ = tell.send(catch_unwind(AssertUnwindSafe(f)));
        };
        self.jobs.send(Box::new(job)).expect("the worker is there");
        Pending(told)
    }

    /// Runs it to its end. A panic in it is passed on.
    #[track_caller]
    pub fn run<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> R {
        self.start(f).wait()
    }

    /// Ends the thread and joins it: its thread-locals are gone when this returns.
    #[track_caller]
    pub fn end(self) {
        self.ending().wait();
    }

    /// Lets the thread end. What is returned waits for it.
    pub fn ending(self) -> Pending<()> {
        let Self { jobs, thread } = self;
        drop(jobs);
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let _ = tell.send(thread.join());
        });
        Pending(told)
    }
}

impl<R> Pending<R> {
    #[track_caller]
    pub fn wait(self) -> R {
        match self.0.recv_timeout(PATIENCE) {
            Ok(Ok(out)) => out,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(error) => panic!("the thread does not answer: {error}"),
        }
    }
}

/// Runs `f`, which is to panic, and gives the message.
#[track_caller]
pub fn panic_of<R>(f: impl FnOnce() -> R) -> String {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(_) => panic!("it was to panic"),
        Err(payload) => match payload.downcast::<&str>() {
            Ok(message) => (*message).to_owned(),
            Err(payload) => *payload.downcast::<String>().expect("a message"),
        },
    }
}

// ---- the scripted manager ---------------------------------------------------------------------

/// What instances are in these tests. `M` makes it `Send` or not.
#[derive(Debug)]
pub struct Session<M = ()> {
    pub id: InstanceId,
    pub generation: u64,
    pub owner: ThreadId,
    pub uses: u32,
    stage: Stage,
    of: PhantomData<M>,
}

/// A session that must not leave its thread.
pub type Stay = Session<*const ()>;

impl<M> Session<M> {
    /// What a user does: fails if it is on the wrong thread.
    pub fn touch(&mut self) -> InstanceId {
        self.uses += 1;
        self.look()
    }

    pub fn look(&self) -> InstanceId {
        assert_eq!(thread::current().id(), self.owner, "used off its thread");
        self.id
    }
}

impl<M> Session<M> {
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// How many sessions of its stage have been closed by now.
    pub fn stage_closes(&self) -> usize {
        self.stage.count(What::Close)
    }
}

impl<M> Drop for Session<M> {
    fn drop(&mut self) {
        self.stage.note(What::Dropped, self.id, None);
    }
}

/// What a scripted manager was asked, or what became of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Create,
    Close,
    Dropped,
    IsValid,
    Rescue,
    Interrupt,
}

#[derive(Clone, Copy, Debug)]
pub struct Note {
    pub what: What,
    pub id: InstanceId,
    pub thread: ThreadId,
    pub reason: Option<CloseReason>,
}

type Step = Box<dyn FnOnce() -> anyhow::Result<()> + Send>;

/// The next step of a script. Where the script has ended, all goes well.
pub fn fail(message: &'static str) -> Step {
    Box::new(move || Err(anyhow::anyhow!(message)))
}

pub fn panics(message: &'static str) -> Step {
    Box::new(move || panic!("{message}"))
}

pub fn hold(gate: &Gate) -> Step {
    let gate = gate.clone();
    Box::new(move || {
        gate.pass();
        Ok(())
    })
}

pub fn first(run: impl FnOnce() + Send + 'static) -> Step {
    Box::new(move || {
        run();
        Ok(())
    })
}

/// The script of a manager, and the notes taken while it was played.
#[derive(Clone, Default)]
pub struct Stage(Arc<Scenes>);

#[derive(Default)]
struct Scenes {
    creates: Mutex<VecDeque<Step>>,
    closes: Mutex<VecDeque<Step>>,
    validations: Mutex<VecDeque<Step>>,
    interrupts: Mutex<VecDeque<Step>>,
    interruptible: AtomicBool,
    breakable: AtomicBool,
    broken: AtomicBool,
    asked_whether_broken: AtomicUsize,
    rescues: AtomicBool,
    notes: Watched<Vec<Note>>,
}

impl Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stage")
    }
}

fn play(script: &Mutex<VecDeque<Step>>) -> anyhow::Result<()> {
    let step = lock(script).pop_front();
    step.map_or(Ok(()), |step| step())
}

impl Stage {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn builder(&self, registry: &Registry) -> PoolBuilder<Session> {
        Pool::builder(Scripted::new(self)).registry(registry)
    }

    pub fn builder_local(&self, registry: &Registry) -> PoolBuilder<Stay> {
        Pool::builder_local(Scripted::new(self)).registry(registry)
    }

    pub fn pool(&self, registry: &Registry) -> Pool<Session> {
        self.builder(registry).build().expect("valid options")
    }

    pub fn pool_local(&self, registry: &Registry) -> Pool<Stay> {
        self.builder_local(registry).build().expect("valid options")
    }

    pub fn on_create(&self, step: Step) -> &Self {
        lock(&self.0.creates).push_back(step);
        self
    }

    pub fn on_close(&self, step: Step) -> &Self {
        lock(&self.0.closes).push_back(step);
        self
    }

    pub fn on_validation(&self, step: Step) -> &Self {
        lock(&self.0.validations).push_back(step);
        self
    }

    /// Sessions made from here on have an interrupt handle; pulled, it plays its script.
    pub fn on_interrupt(&self, step: Step) -> &Self {
        self.0.interruptible.store(true, Ordering::SeqCst);
        lock(&self.0.interrupts).push_back(step);
        self
    }

    /// Sessions of pools built from here on are asked about after each use. Others take the way on
    /// which nobody looks.
    pub fn breakable(self) -> Self {
        self.0.breakable.store(true, Ordering::SeqCst);
        self
    }

    pub fn set_broken(&self, broken: bool) {
        self.0.broken.store(broken, Ordering::SeqCst);
    }

    /// Counted, not noted: it is asked after each use.
    pub fn times_asked_whether_broken(&self) -> usize {
        self.0.asked_whether_broken.load(Ordering::SeqCst)
    }

    pub fn set_rescues(&self, rescues: bool) {
        self.0.rescues.store(rescues, Ordering::SeqCst);
    }

    fn note(&self, what: What, id: InstanceId, reason: Option<CloseReason>) {
        let thread = thread::current().id();
        self.0.notes.change(|notes| {
            notes.push(Note { what, id, thread, reason });
        });
    }

    pub fn notes(&self, what: What) -> Vec<Note> {
        self.0.notes.read(|notes| {
            let those = notes.iter().filter(|note| note.what == what);
            those.copied().collect()
        })
    }

    pub fn count(&self, what: What) -> usize {
        self.notes(what).len()
    }

    #[track_caller]
    pub fn wait_for(&self, what: What, count: usize) {
        self.0.notes.wait_until(&format!("{count} x {what:?}"), |notes| {
            notes.iter().filter(|note| note.what == what).count() >= count
        });
    }

    /// The note of the one close there was of this session.
    #[track_caller]
    pub fn the_close_of(&self, id: InstanceId) -> Note {
        let mut closes = self.notes(What::Close);
        closes.retain(|note| note.id == id);
        assert_eq!(closes.len(), 1, "closed exactly once: {closes:?}");
        closes[0]
    }

    /// Fails unless each session that was made was closed once, and dropped once.
    #[track_caller]
    pub fn assert_each_closed_once(&self) {
        let ids = |what| {
            let mut ids: Vec<_> = self.notes(what).iter().map(|note| note.id).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(ids(What::Create), ids(What::Close), "created and closed");
        assert_eq!(ids(What::Create), ids(What::Dropped), "created and dropped");
    }
}

/// Makes and closes sessions as the script says. Notes a creation only when it has succeeded.
pub struct Scripted<M> {
    stage: Stage,
    of: PhantomData<fn() -> M>,
}

impl<M> Scripted<M> {
    pub fn new(stage: &Stage) -> Self {
        Self { stage: stage.clone(), of: PhantomData }
    }
}

impl<M: 'static> Manager for Scripted<M> {
    type Instance = Session<M>;

    fn create(&self, cx: &CreateContext) -> anyhow::Result<Session<M>> {
        play(&self.stage.0.creates)?;
        self.stage.note(What::Create, cx.id(), None);
        Ok(Session {
            id: cx.id(),
            generation: cx.generation(),
            owner: thread::current().id(),
            uses: 0,
            stage: self.stage.clone(),
            of: PhantomData,
        })
    }

    fn can_break(&self) -> bool {
        self.stage.0.breakable.load(Ordering::SeqCst)
    }

    fn has_broken(&self, session: &mut Session<M>) -> bool {
        session.look();
        self.stage.0.asked_whether_broken.fetch_add(1, Ordering::SeqCst);
        self.stage.0.broken.load(Ordering::SeqCst)
    }

    fn is_valid(&self, session: &mut Session<M>) -> anyhow::Result<()> {
        session.look();
        self.stage.note(What::IsValid, session.id, None);
        play(&self.stage.0.validations)
    }

    fn rescue(&self, session: &mut Session<M>) -> bool {
        session.look();
        self.stage.note(What::Rescue, session.id, None);
        self.stage.0.rescues.load(Ordering::SeqCst)
    }

    fn interrupt(&self, session: &Session<M>) -> Option<InterruptHandle> {
        if !self.stage.0.interruptible.load(Ordering::SeqCst) {
            return None;
        }
        let (stage, id) = (self.stage.clone(), session.id);
        Some(InterruptHandle::new(move || {
            stage.note(What::Interrupt, id, None);
            play(&stage.0.interrupts).expect("the script of an interrupt does not fail");
        }))
    }

    fn close(&self, session: Session<M>, reason: CloseReason) -> anyhow::Result<()> {
        self.stage.note(What::Close, session.id, Some(reason));
        play(&self.stage.0.closes)
    }
}

// ---- events -----------------------------------------------------------------------------------

/// An event, kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Created,
    CreateFailed(String),
    Poisoned { rescued: bool },
    Evicted(CloseReason),
    Closed(CloseReason),
    CloseFailed(CloseReason, String),
    ReaperFailed,
}

/// Keeps every event of the pools that it handles.
#[derive(Clone, Default)]
pub struct Events(Arc<Watched<Vec<(InstanceId, Told)>>>);

impl Events {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn all(&self) -> Vec<(InstanceId, Told)> {
        self.0.read(Vec::clone)
    }

    pub fn of(&self, id: InstanceId) -> Vec<Told> {
        let of_it = |(of, told)| (of == id).then_some(told);
        self.all().into_iter().filter_map(of_it).collect()
    }

    #[track_caller]
    pub fn wait_for(&self, what: &str, done: impl Fn(&Told) -> bool) {
        self.0.wait_until(what, |all| all.iter().any(|(_, told)| done(told)));
    }
}

impl Events {
    /// To be given to `PoolBuilder::on_event`.
    pub fn handler(&self) -> impl Fn(&InstanceEvent<'_>) + Send + Sync + use<> {
        let events = self.clone();
        move |event| events.note(event)
    }

    fn note(&self, event: &InstanceEvent<'_>) {
        let told = match event.kind {
            InstanceEventKind::Created { .. } => Told::Created,
            InstanceEventKind::CreateFailed { error } => Told::CreateFailed(format!("{error:#}")),
            InstanceEventKind::Poisoned { rescued } => Told::Poisoned { rescued },
            InstanceEventKind::Evicted { reason } => Told::Evicted(reason),
            InstanceEventKind::Closed { reason } => Told::Closed(reason),
            InstanceEventKind::CloseFailed { reason, error } => {
                Told::CloseFailed(reason, format!("{error:#}"))
            }
            InstanceEventKind::ReaperFailed { .. } => Told::ReaperFailed,
            _ => unreachable!("a kind of event these tests do not know"),
        };
        self.0.change(|all| all.push((event.instance, told)));
    }
}
