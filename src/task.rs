//! Work that was sent to another thread, and the handle to what comes of it.
//!
//! A task only ever moves down this list: queued, running, finished or cancelled. Whoever moves it does
//! so under its lock, so a cancel and a start never both succeed, and the work is never lost: it runs, or
//! it comes back.
//!
//! A task is one allocation, the work in it. Who runs it knows the type of the work; the handle knows
//! only what the work comes back as, by `Unrun`.
//!
//! # Interrupts
//!
//! Who interrupts running work counts itself in, under the lock, calls the instance's interrupt without
//! the lock, and counts itself out. Who has run the work tells the handle, and then waits until nobody
//! is counted in, before it does anything else with the instance. It counts nobody in who comes later,
//! for the task is not running any more. So no other work is hit.
//!
//! # In a forked child
//!
//! What was to run it is not there, and its lock may be held for ever by a thread that is not there
//! either. So a handle from before the fork waits for nothing, and only tries the lock.

mod error;
#[cfg(all(test, sessile_loom))]
mod models;

use std::fmt;
use std::future::Future;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use self::error::ErrorKind;
pub use self::error::JoinError;
use crate::deadline::Deadline;
use crate::error::PoolError;
use crate::exclusive::Exclusive;
use crate::fork;
use crate::sync::thread::{self, Thread};
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering, look_out};

/// Waits for work that runs on another thread; or cancels it; or awaits it, on any runtime.
///
/// Dropped, it lets the work run on its own, as the handles of std and tokio do;
/// [`cancel_on_drop`](Self::cancel_on_drop) makes one that does not. `B` is what the work was: it comes
/// back, unrun, from [`cancel`](Self::cancel) and [`JoinError::into_body`].
///
/// A forked child may have inherited a handle. There, work that had not ended at the fork is cancelled.
///
/// ```
/// # use sessile::{Pool, Workers, from_fn};
/// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(1).build()?;
/// let handle = workers.submit(|n| *n + 1)?;
/// assert_eq!(handle.join()?, 21);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[must_use = "dropped, it lets the work run on its own; say so with `drop` or `detach`"]
pub struct JoinHandle<R, B = Box<dyn FnOnce() -> R + Send>> {
    task: Arc<Task<R, dyn Unrun<B>>>,
    /// Who is to run it had to be woken: longer than one looks out for an answer.
    sleeps_at_once: bool,
    /// If a loop is to run it: the loop's address, never followed.
    of_loop: Option<usize>,
}

/// The side of a task that runs it. Dropped without having run, it cancels.
pub(crate) struct Runner<R, B: Send> {
    task: Arc<Task<R, Held<B>>>,
}

/// Who is to run a task, if that is settled: waiting there would be for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunsOn {
    Anybody,
    Thread(ThreadId),
    /// Whichever thread has this [seat](at_seat) at the time.
    Seat(Seat),
}

/// A place that one thread at a time has, never the same twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) team: u64,
    pub(crate) number: usize,
}

std::thread_local! {
    static SEAT: std::cell::Cell<Option<Seat>> = const { std::cell::Cell::new(None) };
}

/// This thread takes a seat, for as long as it lives.
pub(crate) fn take_seat(seat: Seat) {
    SEAT.with(|mine| mine.set(Some(seat)));
}

/// The seat of this thread.
pub(crate) fn seat() -> Option<Seat> {
    SEAT.with(std::cell::Cell::get)
}

impl RunsOn {
    fn is_this_thread(self) -> bool {
        match self {
            Self::Anybody => false,
            Self::Thread(id) => std::thread::current().id() == id,
            Self::Seat(other) => seat() == Some(other),
        }
    }
}

/// Work and what comes of it. `W` has the work.
pub(crate) struct Task<R, W: ?Sized> {
    /// The process that made it.
    process: u32,
    runs_on: RunsOn,
    /// Told of a cancel: there is something to be dropped where the work would have run.
    on_cancel: Option<Waker>,
    /// Whether `stage` is at its end. For waiting without the lock.
    ended: AtomicBool,
    state: Mutex<State<R, W>>,
}

struct State<R, W: ?Sized> {
    stage: Stage<R>,
    waiter: Waiter,
    /// How many are calling the interrupt of the instance.
    interrupting: u32,
    /// Who has run the work, and waits for those.
    interrupted: Option<Thread>,
    /// The work, until it runs or somebody has it back.
    work: W,
}

enum Stage<R> {
    Queued,
    /// With the instance, if that can be interrupted.
    Running(Option<Arc<dyn Interruptible>>),
    Finished(std::thread::Result<R>),
    /// It never ran.
    Cancelled,
    /// It could not run, for want of an instance.
    NoInstance(PoolError),
    /// The handle has taken what there was.
    Collected,
}

/// What work that did not run comes back as.
pub(crate) trait Unrun<B>: Send {
    fn take(&mut self) -> Option<B>;
}

/// What has the work of a task.
pub(crate) trait Hold {
    type Work;

    fn work(&mut self) -> &mut Option<Self::Work>;
}

/// Work that comes back as it is.
pub(crate) struct Held<B>(Option<B>);

impl<B> Held<B> {
    pub(crate) fn new(work: B) -> Self {
        Self(Some(work))
    }
}

impl<B: Send> Unrun<B> for Held<B> {
    fn take(&mut self) -> Option<B> {
        self.0.take()
    }
}

impl<B> Hold for Held<B> {
    type Work = B;

    fn work(&mut self) -> &mut Option<B> {
        &mut self.0
    }
}

/// An instance that work may be interrupted in.
pub(crate) trait Interruptible: Send + Sync {
    /// Asks what it is doing to come to an end. Does not panic.
    fn interrupt(&self);
}

enum Waiter {
    Nobody,
    Thread(Thread),
    /// Of whoever awaits the handle.
    Task(Waker),
    /// Of loops that run until the task ends; and of whoever had awaited the handle before.
    Wakers(Vec<Waker>),
}

impl Waiter {
    fn wake(self) {
        match self {
            Self::Nobody => {}
            Self::Thread(thread) => thread.unpark(),
            Self::Task(waker) => waker.wake(),
            Self::Wakers(wakers) => wakers.into_iter().for_each(Waker::wake),
        }
    }
}

/// A task and its handle.
pub(crate) fn task<R, B: Send + 'static>(
    body: B,
    runs_on: RunsOn,
) -> (Runner<R, B>, JoinHandle<R, B>) {
    task_with(body, runs_on, None)
}

/// [`task`], with somebody who is to know of a cancel.
pub(crate) fn task_with<R, B: Send + 'static>(
    body: B,
    runs_on: RunsOn,
    on_cancel: Option<Waker>,
) -> (Runner<R, B>, JoinHandle<R, B>) {
    let task = Task::new(Held::new(body), runs_on, on_cancel);
    (Runner { task: Arc::clone(&task) }, JoinHandle::of(task))
}

impl<R, W> Task<R, W> {
    pub(crate) fn new(work: W, runs_on: RunsOn, on_cancel: Option<Waker>) -> Arc<Self> {
        Arc::new(Self {
            process: fork::generation(),
            runs_on,
            on_cancel,
            ended: AtomicBool::new(false),
            state: Mutex::new(State {
                stage: Stage::Queued,
                waiter: Waiter::Nobody,
                interrupting: 0,
                interrupted: None,
                work,
            }),
        })
    }
}

impl<R, W: ?Sized> Task<R, W> {
    fn state(&self) -> MutexGuard<'_, State<R, W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is of a process that this one was forked from.
    fn is_inherited(&self) -> bool {
        self.process != fork::generation()
    }

    /// It has run, or could not. Comes back when nobody interrupts it any more.
    fn end(&self, mut state: MutexGuard<'_, State<R, W>>, end: Stage<R>) {
        let before = mem::replace(&mut state.stage, end);
        debug_assert!(matches!(before, Stage::Running(_)), "a task ends once");
        let waiter = mem::replace(&mut state.waiter, Waiter::Nobody);
        let interrupting = state.interrupting > 0;
        self.ended.store(true, Ordering::Release);
        drop(state);
        waiter.wake(); // foreign code, if it is a runtime's: after the lock
        drop(before);
        if interrupting {
            self.wait_for_interrupts();
        }
    }

    #[cold]
    fn wait_for_interrupts(&self) {
        let mut state = self.state();
        while state.interrupting > 0 {
            state.interrupted = Some(thread::current());
            drop(state);
            thread::park();
            state = self.state();
        }
    }

    /// Work that is queued will never run. Says whether it was.
    fn cancel(&self, mut state: MutexGuard<'_, State<R, W>>) -> bool {
        let Stage::Queued = state.stage else { return false };
        state.stage = Stage::Cancelled;
        let waiter = mem::replace(&mut state.waiter, Waiter::Nobody);
        self.ended.store(true, Ordering::Release);
        drop(state);
        if self.is_inherited() {
            mem::forget(waiter); // of the parent's
        } else {
            waiter.wake();
        }
        true
    }

    /// It is given up by whoever was to run it: whoever waits is told, and may have the work back.
    pub(crate) fn give_up(&self) {
        if !self.is_inherited() {
            self.cancel(self.state());
        }
    }

    /// Has this waiter woken at the end, and no other. `false` if that has come.
    fn register(&self, mut new: Waiter) -> bool {
        // What was there, or `new` if it comes too late, is foreign code to be dropped: after the lock.
        let mut state = self.state();
        let waits = matches!(state.stage, Stage::Queued | Stage::Running(_));
        if waits {
            mem::swap(&mut state.waiter, &mut new);
        }
        drop(state);
        waits
    }
}

impl<R, W: Hold> Task<R, W> {
    /// Begins to run, unless cancelled: hands out the work.
    fn start(&self) -> Option<W::Work> {
        let mut state = self.state();
        let Stage::Queued = state.stage else { return None };
        state.stage = Stage::Running(None);
        state.work.work().take()
    }

    fn finish(&self, result: std::thread::Result<R>) {
        self.end(self.state(), Stage::Finished(result));
    }

    /// Runs the work by `call`, unless cancelled. A panic in it goes to the handle.
    pub(crate) fn run(&self, call: impl FnOnce(W::Work) -> R) -> Ran {
        let Some(work) = self.start() else { return Ran::Cancelled };
        let result = catch_unwind(AssertUnwindSafe(|| call(work)));
        let ran = if result.is_ok() { Ran::Returned } else { Ran::Panicked };
        self.finish(result);
        ran
    }

    /// As [`run`](Self::run), with an instance that may fail to be had: then the work comes back to the
    /// handle, with the reason. Does not panic, if `instance` does not.
    ///
    /// The instance is asked for only once the work has begun, so that what was cancelled costs none.
    pub(crate) fn run_with<I>(
        &self,
        instance: impl FnOnce() -> Result<(I, Option<Arc<dyn Interruptible>>), PoolError>,
        call: impl FnOnce(I, W::Work) -> R,
    ) {
        let Some(work) = self.start() else { return };
        match instance() {
            Ok((instance, None)) => {
                self.finish(catch_unwind(AssertUnwindSafe(|| call(instance, work))));
            }
            Ok((instance, interruptible)) => {
                self.state().stage = Stage::Running(interruptible);
                self.finish(catch_unwind(AssertUnwindSafe(|| call(instance, work))));
            }
            Err(error) => {
                let mut state = self.state();
                *state.work.work() = Some(work);
                self.end(state, Stage::NoInstance(error));
            }
        }
    }
}

impl<R, B: Send> Runner<R, B> {
    /// Runs the body by `call`, unless cancelled. A panic in it goes to the handle; says whether
    /// there was one.
    pub(crate) fn run(self, call: impl FnOnce(B) -> R) -> Ran {
        self.task.run(call)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(self.task.state().stage, Stage::Cancelled | Stage::Collected)
    }
}

/// How a run went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    Returned,
    Panicked,
    Cancelled,
}

impl<R, B: Send> Drop for Runner<R, B> {
    fn drop(&mut self) {
        self.task.give_up();
    }
}

impl<R, B> JoinHandle<R, B> {
    pub(crate) fn of<W: Unrun<B> + 'static>(task: Arc<Task<R, W>>) -> Self {
        Self { task, sleeps_at_once: false, of_loop: None }
    }

    /// Says whether the work has run, or never will.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let handle = workers.submit(|n| *n + 1)?;
    /// while !handle.is_finished() {
    ///     std::thread::yield_now();
    /// }
    /// assert_eq!(handle.join()?, 21);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.ended.load(Ordering::Acquire) || self.task.is_inherited()
    }

    /// Waits for the work and returns what it returned.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// assert_eq!(workers.submit(|n| *n + 1)?.join()?, 21);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the work panicked or was cancelled, or if it is this very thread that would have to run it
    /// (it will run nevertheless, later, on its own).
    pub fn join(self) -> Result<R, JoinError<B>> {
        match self.wait(Deadline::NEVER) {
            Ok(()) => self.collect(),
            Err(NotYet::WouldDeadlock | NotYet::TimedOut) => Err(ErrorKind::WouldDeadlock.into()),
        }
    }

    /// [`join`](Self::join), for no longer than this; after that the handle comes back.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// use std::time::Duration;
    ///
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let handle = workers.submit(|n| *n + 1)?;
    /// match handle.join_timeout(Duration::from_secs(60)) {
    ///     Ok(result) => assert_eq!(result?, 21),
    ///     Err(handle) => drop(handle), // not yet: wait again, cancel it, or let it run
    /// }
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The outer one hands the handle back: the time is over, or it is this very thread that would
    /// have to run the work. The inner one is as in [`join`](Self::join).
    pub fn join_timeout(self, wait: Duration) -> Result<Result<R, JoinError<B>>, Self> {
        match self.wait(Deadline::after(wait)) {
            Ok(()) => Ok(self.collect()),
            Err(NotYet::WouldDeadlock | NotYet::TimedOut) => Err(self),
        }
    }

    /// Keeps the work from running, if it has not started: then it comes back. It is `None` if it
    /// runs, has run, or was cancelled before.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let handle = workers.submit(|n| *n + 1)?;
    /// match handle.cancel() {
    ///     Some(_work) => println!("it had not begun"),
    ///     None => assert_eq!(handle.join()?, 21),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn cancel(&self) -> Option<B> {
        let mut state = self.lock()?;
        let Stage::Queued = state.stage else { return None };
        let body = state.work.take();
        self.task.cancel(state);
        self.tell_of_cancel();
        body
    }

    /// Stops the work: if it has not started, it is cancelled; if it runs, the interrupt of its instance
    /// is called ([`Manager::interrupt`](crate::Manager::interrupt)), on this thread. Says whether one
    /// of these was done: there may be no interrupt, and the work may have ended.
    ///
    /// No other work is hit: the worker begins nothing else until the interrupt has returned. The handle
    /// goes on to wait for what comes of the work.
    ///
    /// ```
    /// # use std::sync::{Arc, atomic::{AtomicBool, Ordering}};
    /// use sessile::{Pool, Workers, from_fn};
    ///
    /// type Stop = Arc<AtomicBool>;
    /// let engines = from_fn(|_| Stop::default()).interrupt_with(|stop: &Stop| {
    ///     let stop = Arc::clone(stop);
    ///     move || stop.store(true, Ordering::Relaxed)
    /// });
    /// let workers = Workers::builder(Pool::builder(engines)).threads(1).build()?;
    /// let work = workers.submit(|stop| {
    ///     while !stop.swap(false, Ordering::Relaxed) {
    ///         std::thread::yield_now();
    ///     }
    /// })?;
    /// while !work.interrupt() {} // until it has an instance, or is cancelled
    /// let _ = work.join();
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn interrupt(&self) -> bool {
        let Some(mut state) = self.lock() else { return false };
        match &state.stage {
            Stage::Queued => {
                self.task.cancel(state);
                self.tell_of_cancel();
                true
            }
            Stage::Running(Some(instance)) if !self.task.is_inherited() => {
                let instance = Arc::clone(instance);
                state.interrupting += 1;
                drop(state);
                instance.interrupt();
                let mut state = self.task.state();
                state.interrupting -= 1;
                let waits = match state.interrupting {
                    0 => state.interrupted.take(),
                    _ => None,
                };
                drop(state);
                if let Some(runner) = waits {
                    runner.unpark();
                }
                true
            }
            _ => false,
        }
    }

    /// Makes a handle that, dropped before the work has ended, stops it, as
    /// [`interrupt`](Self::interrupt) does; for work that is of no use when nobody waits for it.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(1).build()?;
    /// let handle = workers.submit(|n| *n + 1)?.cancel_on_drop();
    /// assert_eq!(handle.into_handle().join()?, 21);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn cancel_on_drop(self) -> CancelOnDrop<R, B> {
        CancelOnDrop(Some(self))
    }

    /// Lets the work run on its own.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// workers.submit(|n| *n += 1)?.detach();
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    pub fn detach(self) {}

    /// Who is to run the work has to be woken for it: that takes longer than one looks out for an
    /// answer.
    pub(crate) fn expect_to_wait(&mut self) {
        self.sleeps_at_once = true;
    }

    /// The state; `None` if its lock is held by a thread that this process does not have.
    fn lock(&self) -> Option<MutexGuard<'_, State<R, dyn Unrun<B> + 'static>>> {
        if self.task.is_inherited() {
            return self.task.state.try_lock().ok();
        }
        Some(self.task.state())
    }

    fn tell_of_cancel(&self) {
        if let Some(waker) = &self.task.on_cancel
            && !self.task.is_inherited()
        {
            waker.wake_by_ref();
        }
    }

    fn wait(&self, deadline: Deadline) -> Result<(), NotYet> {
        if self.is_finished() {
            return Ok(());
        }
        if self.task.runs_on.is_this_thread() {
            return Err(NotYet::WouldDeadlock);
        }
        if !self.sleeps_at_once && look_out(|| self.is_finished()) {
            return Ok(());
        }
        let mut registered = false;
        while !self.is_finished() {
            if !registered {
                if !self.task.register(Waiter::Thread(thread::current())) {
                    return Ok(());
                }
                registered = true;
            }
            match deadline.remaining() {
                None => thread::park(),
                Some(left) if left.is_zero() => return Err(NotYet::TimedOut),
                Some(left) => thread::park_timeout(left),
            }
        }
        Ok(())
    }

    fn collect(&self) -> Result<R, JoinError<B>> {
        let Some(mut state) = self.lock() else {
            return Err(ErrorKind::Cancelled(Exclusive::new(None)).into());
        };
        let kind = match mem::replace(&mut state.stage, Stage::Collected) {
            Stage::Finished(Ok(result)) => return Ok(result),
            Stage::Finished(Err(payload)) => ErrorKind::panicked(payload),
            Stage::Cancelled => ErrorKind::Cancelled(Exclusive::new(state.work.take())),
            Stage::NoInstance(error) => match state.work.take() {
                Some(body) => ErrorKind::NoInstance(Exclusive::new(body), error),
                None => unreachable!("put back by who could not run it"),
            },
            Stage::Collected => panic!("the handle was polled, or joined, after it was ready"),
            // In a forked child.
            Stage::Queued | Stage::Running(_) => {
                ErrorKind::Cancelled(Exclusive::new(state.work.take()))
            }
        };
        Err(kind.into())
    }

    /// Has `waker` woken at the end, besides whoever else waits, until it is [forgotten](Self::forget):
    /// a handle that is only lent may be lent to several. `false` if the end has come.
    pub(crate) fn wake_at_end(&self, waker: &Waker) -> bool {
        if self.is_finished() {
            return false;
        }
        let new = waker.clone(); // before the lock: if it is not needed, it goes after it
        let mut state = self.task.state();
        if !matches!(state.stage, Stage::Queued | Stage::Running(_)) {
            return false;
        }
        match &mut state.waiter {
            Waiter::Wakers(wakers) => wakers.push(new),
            waiter => {
                *waiter = Waiter::Wakers(match mem::replace(waiter, Waiter::Nobody) {
                    // It has polled the handle, and may do so again when the loop is through.
                    Waiter::Task(awaits) => vec![awaits, new],
                    // A thread that waits has the handle to itself: this one has given up.
                    _ => vec![new],
                });
            }
        }
        true
    }

    /// Has `waker` not woken any more, once for each [`wake_at_end`](Self::wake_at_end).
    pub(crate) fn forget(&self, waker: &Waker) {
        let Some(mut state) = self.lock() else { return };
        let Waiter::Wakers(wakers) = &mut state.waiter else { return };
        // Not by `will_wake`, which may say no of a waker's own clone.
        let at = wakers.iter().position(|one| one.data() == waker.data());
        let forgotten = at.map(|at| wakers.swap_remove(at));
        drop(state);
        drop(forgotten); // foreign code: after the lock
    }

    /// It is a loop that is to run the work: its address.
    pub(crate) fn set_loop(&mut self, address: usize) {
        self.of_loop = Some(address);
    }

    /// Whether the work is this thread's to run, and not the business of this loop: while that runs here,
    /// nobody else does.
    pub(crate) fn waits_for_this_thread(&self, in_loop: usize) -> bool {
        !self.is_finished() && self.task.runs_on.is_this_thread() && self.of_loop != Some(in_loop)
    }
}

enum NotYet {
    TimedOut,
    WouldDeadlock,
}

/// Polled after it was ready, it panics, as futures do.
impl<R, B> Future for JoinHandle<R, B> {
    type Output = Result<R, JoinError<B>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.is_finished() && self.task.register(Waiter::Task(cx.waker().clone())) {
            return Poll::Pending;
        }
        Poll::Ready(self.collect())
    }
}

impl<R, B> fmt::Debug for JoinHandle<R, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("is_finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

/// Awaits work, and stops it if it is dropped before that has ended; from
/// [`JoinHandle::cancel_on_drop`].
///
/// A request that its client has given up drops the future that serves it, and with it this. Dropping
/// does what [`JoinHandle::interrupt`] does, on the thread that drops.
///
/// ```
/// # use sessile::{Pool, Workers, from_fn};
/// # async fn served(workers: Workers<u32>) -> anyhow::Result<u32> {
/// let answer = workers.submit_async(|n| *n + 1).await?.cancel_on_drop();
/// Ok(answer.await?)
/// # }
/// ```
#[must_use = "dropped, it stops the work"]
pub struct CancelOnDrop<R, B = Box<dyn FnOnce() -> R + Send>>(Option<JoinHandle<R, B>>);

impl<R, B> CancelOnDrop<R, B> {
    /// Says whether the work has run, or never will.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let handle = workers.submit(|n| *n + 1)?.cancel_on_drop();
    /// while !handle.is_finished() {
    ///     std::thread::yield_now();
    /// }
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Goes back to a handle that lets the work run when it is dropped.
    ///
    /// ```
    /// # use sessile::{Pool, Workers, from_fn};
    /// let workers = Workers::builder(Pool::builder(from_fn(|_| 20))).threads(2).build()?;
    /// let handle = workers.submit(|n| *n + 1)?.cancel_on_drop();
    /// let handle = handle.into_handle(); // dropped, it lets the work run
    /// assert_eq!(handle.join()?, 21);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If it was polled until it was ready.
    pub fn into_handle(mut self) -> JoinHandle<R, B> {
        self.0.take().expect("it was not ready")
    }
}

impl<R, B> Drop for CancelOnDrop<R, B> {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.interrupt();
        }
    }
}

/// Polled after it was ready, it panics, as futures do.
impl<R, B> Future for CancelOnDrop<R, B> {
    type Output = Result<R, JoinError<B>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let handle = self.0.as_mut().expect("not polled after it was ready");
        let polled = Pin::new(handle).poll(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl<R, B> fmt::Debug for CancelOnDrop<R, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelOnDrop").field(&self.0).finish()
    }
}
